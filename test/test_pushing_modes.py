"""The comparison of ways to differentiate on simulated pushes, tiny; nothing is timed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from benchmarks.memory import Kept
from benchmarks.pushing_modes import (
    MODES,
    SMALL,
    compared,
    exact_gradient,
    measure_point,
    simulated,
    take_step,
)
from benchmarks.pushing_modes_page import PAGE, RESULTS, picture, tables
from dnls_ros.learning.objective import Objective, make_model
from dnls_ros.learning.pushing import PushingModel
from dnls_ros.learning.windows import Windows


@lru_cache(maxsize=1)
def small() -> tuple[PushingModel, Windows]:
    windows = simulated(replace(SMALL, pushes=1)).training
    return make_model(SMALL.config, windows)[0], windows.select(torch.arange(2))


def objective(mode: str, iterations: int, step: float = 0.05) -> Objective:
    config = replace(SMALL.config, adjoint=mode, iterations=iterations, step_size=step)
    return Objective(small()[0], config)


def test_only_unrolling_keeps_more_the_more_iterations_there_are() -> None:
    windows = small()[1]
    kept = {
        mode: [take_step(objective(mode, k), windows, count_kept=True).kept for k in (2, 4, 6)]
        for mode in MODES
    }
    two, four, six = kept.pop("unroll")
    assert six - four == pytest.approx(four - two, rel=0.02)
    assert four - two > 0.2 * two
    for mode, (few, some, many) in kept.items():
        assert few == some == many > 0, mode


def test_what_autograd_let_go_is_not_counted() -> None:
    with Kept() as kept:
        x = torch.ones(2**17, dtype=torch.float64, requires_grad=True)  # 1 MiB
        y = (x * x.detach().clone()).exp()
        assert kept.mebibytes == pytest.approx(
            2.0, rel=0.01
        )  # what x is multiplied by, the result
        y.sum().backward()
    assert kept.mebibytes == 0.0


def test_the_point_is_as_far_from_the_minimum_as_steps_of_a_twentieth_leave_it() -> None:
    windows = small()[1]
    for iterations in (2, 10):
        point = measure_point(objective("implicit", iterations), windows)
        assert point["iterations"] == iterations
        assert point["gradient_ratio"] == pytest.approx(0.95**iterations, rel=0.1)
        assert point["distance_sigma"] > 1e-2  # where `Implicit` warns


def test_gradients_come_to_that_of_the_minimum_with_iterations() -> None:
    model, windows = small()
    exact = exact_gradient(model, SMALL.config, windows)
    errors: dict[str, list[float]] = {}
    for mode in ("unroll", "implicit", "direct_loss"):
        steps = [take_step(objective(mode, k, 0.3), windows) for k in (2, 6, 25)]
        errors[mode] = [compared(s.gradient, exact)["error"] for s in steps]
    for mode, (first, second, last) in errors.items():
        assert last < second < first, mode
        assert last < 0.01, mode


def test_the_page_shows_the_committed_results(tmp_path: Path) -> None:
    results = json.loads(RESULTS.read_text())
    text = PAGE.read_text()
    for line in tables(results).splitlines():
        assert line in text
    picture(results, tmp_path / "picture.png")
    assert 10_000 < (tmp_path / "picture.png").stat().st_size < 200_000
