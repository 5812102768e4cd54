"""How benchmarks are judged, and that the page shows the committed figures; nothing is timed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.metrics import BASELINE, Metric, Run
from benchmarks.render import PAGE, page

LESS = Metric("a", 0.2, "×", tolerance=0.5, promise=0.25, moonshot=0.15)
MORE = Metric("b", 60.0, "× real time", "higher", tolerance=0.1, promise=50.0, moonshot=200.0)


@pytest.mark.parametrize(
    ("metric", "verdict"),
    [
        (LESS, "met"),
        (replace(LESS, value=0.26), "missed"),
        (replace(LESS, value=0.15), "moonshot"),
        (MORE, "met"),
        (replace(MORE, value=40.0), "missed"),
        (replace(MORE, value=300.0), "moonshot"),
        (replace(LESS, promise=None), ""),
    ],
)
def test_a_figure_is_judged_by_what_was_promised(metric: Metric, verdict: str) -> None:
    assert metric.verdict == verdict


def test_only_what_is_worse_than_its_tolerance_is_a_regression() -> None:
    baseline = Run({}, (LESS, MORE, Metric("c", 1.0, "ms")))
    fine = replace(LESS, value=0.29), replace(MORE, value=55.0), Metric("c", 9.0, "ms")
    assert Run({}, fine).regressions(baseline) == []
    bad = replace(LESS, value=0.31), replace(MORE, value=54.0), Metric("new", 1.0, "×")
    told = Run({}, bad).regressions(baseline)
    assert [text.split(":")[0] for text in told] == ["a", "b"]
    assert "allows 50 % more" in told[0]


def test_a_run_is_kept(tmp_path: Path) -> None:
    run = Run({"cpu": "a"}, (LESS, MORE))
    run.save(tmp_path / "run.json")
    assert Run.load(tmp_path / "run.json") == run


def test_the_page_shows_the_committed_figures() -> None:
    assert PAGE.read_text() == page(Run.load(BASELINE))
