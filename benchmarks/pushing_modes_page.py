"""Tables and picture of docs/backward_modes.md from the results of `benchmarks.pushing_modes`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("pushing_modes.json")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "backward_modes.md"
PICTURE = PAGE.parent / "_static" / "backward_modes.png"
NAMES = {
    "unroll": "unroll",
    "truncated_5": "truncated(5)",
    "truncated_10": "truncated(10)",
    "implicit": "implicit, exact",
    "implicit_gauss_newton": "implicit, Gauss–Newton",
    "direct_loss": "direct loss",
}
LOOKS = dict(
    zip(
        NAMES,
        (
            ("#d55e00", "o"),
            ("#e69f00", "^"),
            ("#c9a000", "v"),
            ("#0072b2", "s"),
            ("#56b4e9", "D"),
            ("#009e73", "P"),
        ),
        strict=True,
    )
)
"""Colour and marker of each, distinct for colour-blind readers too."""
Row = Mapping[str, Any]


def tables(results: Row) -> str:
    """The tables of the page, in its order."""
    counts = [int(p["iterations"]) for p in results["points"]]
    steps = {(r["mode"], r["iterations"]): r for r in results["steps"]}
    parts = [
        _costs(steps, (counts[0], counts[len(counts) // 2], counts[-1])),
        _points(results["points"]),
        _beyond(results),
        _gradients(steps, counts, "against_exact"),
        _gradients(steps, counts, "against_unroll"),
        _losses(results),
    ]
    return "\n\n".join(parts) + "\n"


def _costs(steps: Mapping[tuple[str, int], Row], counts: Sequence[int]) -> str:
    """Times and memory, each at some numbers of iterations."""
    columns = (
        ("forward [ms]", "forward_s", 1e3, ".0f"),
        ("backward [ms]", "backward_s", 1e3, ".0f"),
        ("kept [MiB]", "kept_mib", 1.0, ".1f"),
        ("peak [MiB]", "peak_mib", 1.0, ".1f"),
    )
    rows = [
        [
            NAMES[mode],
            *(
                " / ".join(
                    _told(steps[mode, k], lambda r, c=column: format(c[2] * r[c[1]], c[3]))
                    for k in counts
                )
                for column in columns
            ),
        ]
        for mode in NAMES
    ]
    told = ", ".join(str(k) for k in counts)
    return _table([f"mode ({told} iterations)", *(c[0] for c in columns)], rows)


def _told(row: Row, text: Callable[[Row], str]) -> str:
    return "refused" if "refused" in row else text(row)


def _points(points: Sequence[Row]) -> str:
    """How far from the minimum the inner solver ends."""
    return _table(
        ["iterations", "‖g‖ by the start's", "distance from the minimum [σ]", "loss [mm]"],
        [
            [
                str(int(p["iterations"])),
                f"{p['gradient_ratio']:.3f}",
                f"{p['distance_sigma']:.3g}",
                f"{p['loss_mm']:.2f}",
            ]
            for p in points
        ],
    )


def _beyond(results: Row) -> str:
    """Where the exact implicit gradient gets to that of the minimum."""
    at = results["minimum"]
    rows = [
        [
            f"{int(p['iterations'])} of {results['settings']['step_size']}",
            f"{p['gradient_ratio']:.1e}",
            f"{p['loss_mm']:.2f}",
            f"{p['angle_deg']:.1f}° × {p['length']:.3f}",
        ]
        for p in results["beyond"]
    ]
    whole = f"{int(at['iterations'])} of Levenberg–Marquardt"
    rows.append([whole, f"{at['gradient_ratio']:.1e}", f"{at['loss_mm']:.2f}", "the reference"])
    header = ["steps", "‖g‖ by the start's", "loss [mm]", "exact implicit gradient"]
    return _table(header, rows)


def _gradients(steps: Mapping[tuple[str, int], Row], counts: Sequence[int], reference: str) -> str:
    """Angle to a reference and length as a share of it, of each gradient."""

    def cell(row: Row) -> str:
        one = row[reference]
        return f"{one['angle_deg']:.1f}° × {one['length']:.2g}"

    return _table(
        ["mode", *(str(k) for k in counts)],
        [[NAMES[m], *(_told(steps[m, k], cell) for k in counts)] for m in NAMES],
    )


def _losses(results: Row) -> str:
    """Validation losses, by the iterations of training."""
    trained = {(r["mode"], r["iterations"]): r for r in results["training"]}
    counts, start = results["settings"]["trained"], results["start"]

    def cell(row: Row) -> str:
        return f"{row['val_loss']:.2f} ({row['val_loss_minimum']:.2f})"

    rows = [["before", *(cell(start) for _ in counts)]]
    rows += [["at the minimum, exact", *(_told(results["converged"], cell) for _ in counts)]]
    rows += [[NAMES[m], *(_told(trained[m, k], cell) for k in counts)] for m in NAMES]
    return _table(["mode", *(f"{k} iterations" for k in counts)], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruled = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def picture(results: Row, path: Path) -> None:
    """Six panels over the inner iterations: times, memory, loss, the point, the gradient."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    from dnls_ros.io.plots import write_png

    figure = Figure(figsize=(11.2, 6.6), layout="constrained")
    panels: Any = figure.subplots(2, 3)
    steps, training = results["steps"], results["training"]
    settings = results["settings"]
    one = f"a batch of {settings['batch']}, one thread"
    _curves(panels[0, 0], steps, lambda r: 1e3 * r["forward_s"])
    panels[0, 0].set(yscale="log", ylabel="forward [ms]", title=f"forward: {one}")
    _curves(panels[0, 1], steps, lambda r: 1e3 * r["backward_s"])
    panels[0, 1].set(yscale="log", ylabel="backward [ms]", title=f"backward: {one}")
    _curves(panels[0, 2], steps, lambda r: r["peak_mib"])
    panels[0, 2].set(yscale="log", ylabel="peak of tensors [MiB]", title="memory of a step")
    _curves(panels[1, 0], training, lambda r: r["val_loss"])
    panels[1, 0].axhline(results["start"]["val_loss"], color="#303030", linestyle=":")
    if "refused" not in results["converged"]:
        panels[1, 0].axhline(results["converged"]["val_loss"], color="#303030", linestyle="--")
    panels[1, 0].set(
        yscale="log",
        ylabel="loss [mm]",
        title=f"validation after {settings['epochs']} epochs\n"
        "(dotted: before; dashed: at the minimum)",
    )
    _point(panels[1, 1], results)
    _curves(panels[1, 2], steps, lambda r: r["against_unroll"]["angle_deg"])
    panels[1, 2].set(ylabel="angle [°]", title="gradient against that of unrolling")
    for panel in panels.flat:
        panel.set_xlabel("inner iterations")
        if panel.get_yscale() == "log":
            panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter(NullFormatter())
        panel.grid(color="#e4e4e4", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    write_png(path, figure)


def _curves(panel: Any, rows: Sequence[Row], value: Callable[[Row], float]) -> None:
    """One curve for each way."""
    for mode, name in NAMES.items():
        mine = [r for r in rows if r["mode"] == mode and "refused" not in r]
        color, marker = LOOKS[mode]
        x, y = [r["iterations"] for r in mine], [value(r) for r in mine]
        panel.plot(x, y, color=color, marker=marker, markersize=5, linewidth=1.5, label=name)


def _point(panel: Any, results: Row) -> None:
    """How far from the minimum implicit derivatives are taken."""
    points, settings = results["points"], results["settings"]
    x = [p["iterations"] for p in points]
    panel.plot(x, [p["gradient_ratio"] for p in points], "o-", color="#303030", label="measured")
    linear = [(1 - settings["step_size"]) ** k for k in x]
    panel.plot(x, linear, ":", color="#303030", label="linear residuals")
    panel.set(yscale="log", ylabel="‖g‖ by that of the start", title="where implicit is taken")
    panel.legend(frameon=False)
