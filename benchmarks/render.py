"""docs/benchmarks.md from the baseline: a table, and a picture of what was promised.

PYTHONPATH=. python benchmarks/render.py
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.metrics import Metric, Run

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
MISSED = Path(__file__).with_name("missed.md")
"""What is said of promises that were not kept: written by hand."""
PICTURE = PAGE.parent / "_static" / "benchmarks.png"
ABOUT = """# Benchmarks

Made by `make bench-bless` from `benchmarks/baseline.json`; `make bench` runs them again and fails
if a ratio got worse than its tolerance. × is a ratio within one run: our time by the other's,
medians of interleaved rounds, one thread unless a line says two. Absolute times are those of one
machine and drift. Accuracy beside Theseus, reference values and modes of differentiation are in
[benchmarks of the solver](benchmarks_solver.md).
"""


def page(run: Run) -> str:
    """The text of the page."""
    machine = "\n".join(f"- {key}: {value}" for key, value in run.machine.items())
    promised = [m for m in run.metrics if m.promise is not None]
    rows = [
        [m.name, _text(m.promise), _text(m.moonshot), _text(m.value), m.unit, m.verdict, m.note]
        for m in promised
    ]
    others = [[m.name, _text(m.value), m.unit, m.note] for m in run.metrics if m.promise is None]
    return "\n".join(
        [
            ABOUT,
            "## The machine\n",
            machine,
            "\n## What was promised\n",
            _table(["figure", "promised", "moonshot", "measured", "unit", "verdict", "how"], rows),
            "\n![Measured by promised](_static/benchmarks.png)\n",
            MISSED.read_text(),
            "## Other figures\n",
            _table(["figure", "measured", "unit", "how"], others),
            "",
        ]
    )


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.10g}" if value > 99 else f"{value:.3g}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    ruled = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def picture(run: Run, path: Path = PICTURE) -> None:
    """Each promise as a bar: measured by promised, shorter is better."""
    from matplotlib.figure import Figure

    shown = [m for m in run.metrics if m.promise and m.value > 0 and "apart" not in m.name]
    figure = Figure(figsize=(8, 0.34 * len(shown) + 1.1), layout="constrained")
    axes = figure.add_subplot()
    shares = [_share(m, m.promise) for m in shown]
    colours = {"missed": "tab:red", "met": "tab:blue", "moonshot": "tab:green"}
    axes.barh(range(len(shown)), shares, color=[colours[m.verdict] for m in shown])
    for row, metric in enumerate(shown):
        if metric.moonshot:
            axes.plot(1 / _share(metric, metric.moonshot) * shares[row], row, "k|", markersize=12)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [m.name for m in shown])
    axes.invert_yaxis()
    axes.set_xlabel("measured by promised; left of the line is better, | is the moonshot")
    figure.savefig(path, dpi=110)


def _share(metric: Metric, bound: float | None) -> float:
    assert bound is not None
    return metric.value / bound if metric.better == "lower" else bound / metric.value


def write(run: Run) -> None:
    """Page and picture."""
    PAGE.write_text(page(run))
    picture(run)


if __name__ == "__main__":
    write(Run.load())
