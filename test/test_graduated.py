"""Graduated non-convexity: outliers are left behind that the bounded loss alone would keep."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.costs import prior
from dnls_ros.errors import DnlsError
from dnls_ros.lie import Euclidean
from dnls_ros.linear import Dense
from dnls_ros.optim import LevenbergMarquardt, Status, Tolerances, minimize, minimize_graduated
from dnls_ros.problem import (
    Cauchy,
    GemanMcClure,
    Isotropic,
    Loss,
    Problem,
    Values,
    Variables,
    cost,
)

F64 = torch.float64
line = Variables("line", Euclidean(2))
STOP = Tolerances(cost=1e-12, step=1e-12, gradient=1e-10, iterations=100)
SIGMA = 0.05
TRUTH = torch.tensor([1.5, -0.7], dtype=F64)


@cost
def on_line(ab: Tensor, xy: Tensor) -> Tensor:
    """The height of a point over y = a x + b."""
    return xy[1:] - ab[:1] * xy[:1] - ab[1:]


def fitting(batch: int, outliers: int, loss: Loss | None) -> tuple[Problem, Values, Tensor]:
    """Sixty points of a line, and others of another line; the start is the fit to all of them."""
    generator = torch.Generator().manual_seed(4)
    x = 4 * torch.rand(batch, 60, dtype=F64, generator=generator) - 2
    y = TRUTH[0] * x + TRUTH[1] + SIGMA * torch.randn(x.shape, dtype=F64, generator=generator)
    grow = torch.linspace(0.3, 3.0, batch, dtype=F64)[:, None]
    y[:, :outliers] = -2.0 * x[:, :outliers] + 4.0 * grow
    points = torch.stack([x, y], -1)
    problem = Problem(
        fit=on_line(line[[0] * 60], points, noise=Isotropic(SIGMA), loss=loss),
        weak=prior(line[[0]], torch.zeros(1, 1, 2, dtype=F64), noise=Isotropic(100.0)),
    )
    start = line.values([0], torch.zeros(batch, 1, 2, dtype=F64))
    plain = problem.replace(fit=on_line(line[[0] * 60], points, noise=Isotropic(SIGMA)))
    first = minimize(plain, start, LevenbergMarquardt(), Dense(), STOP)
    return problem, first.values, points


def inlier_fit(points: Tensor, outliers: int) -> Tensor:
    """Least squares of the good points alone, (B, 2)."""
    x, y = points[:, outliers:].unbind(-1)
    return torch.linalg.lstsq(torch.stack([x, torch.ones_like(x)], -1), y[..., None])[0][..., 0]


def element(tree: Any, b: int, batch: int) -> Any:
    return pytree.tree_map(lambda t: t[b : b + 1] if t.shape[0] == batch else t, tree)


def test_outliers_are_left_behind_that_the_loss_alone_keeps() -> None:
    problem, start, points = fitting(8, 24, GemanMcClure(3.0))
    expected = inlier_fit(points, 24)
    found = minimize_graduated(problem, start, LevenbergMarquardt(), Dense(), STOP)
    assert all(status.converged for status in found.status)
    assert (found.values["line"][:, 0] - expected).abs().max() < 0.02
    torch.testing.assert_close(found.cost, problem.objective(found.values))
    torch.testing.assert_close(found.initial_cost, problem.objective(start))
    alone = minimize(problem, start, LevenbergMarquardt(), Dense(), STOP)
    wrong = (alone.values["line"][:, 0] - expected).abs().amax(1) > 0.1
    assert wrong.any(), "the loss alone finds everything: not a test"
    assert (found.cost <= alone.cost * (1 + 1e-9)).all()


def test_a_batch_is_its_elements_one_by_one() -> None:
    problem, start, _ = fitting(5, 20, GemanMcClure(3.0))
    together = minimize_graduated(problem, start, LevenbergMarquardt(), Dense(), STOP)
    for b in range(5):
        one, begin = element(problem, b, 5), element(start, b, 5)
        alone = minimize_graduated(one, begin, LevenbergMarquardt(), Dense(), STOP)
        assert alone.status[0] is together.status[b]
        assert int(alone.iterations[0]) == int(together.iterations[b])
        assert int(alone.accepted[0]) == int(together.accepted[b])
        assert alone.values.local(element(together.values, b, 5)).abs().max() < 1e-12
    assert len(set(together.iterations.tolist())) > 1, "all alike: not a test"


def test_without_outliers_there_is_nothing_to_graduate() -> None:
    problem, start, points = fitting(3, 0, GemanMcClure(100.0))
    found = minimize_graduated(problem, start, LevenbergMarquardt(), Dense(), STOP)
    plain = minimize(problem, start, LevenbergMarquardt(), Dense(), STOP)
    assert torch.equal(found.values["line"], plain.values["line"])
    assert torch.equal(found.iterations, plain.iterations)
    assert (found.values["line"][:, 0] - inlier_fit(points, 0)).abs().max() < 1e-3


def test_an_element_that_is_not_finite_spoils_no_other() -> None:
    problem, start, _ = fitting(3, 20, GemanMcClure(3.0))
    bad = start.map(lambda t: t.index_fill(0, torch.tensor([1]), torch.nan))
    found = minimize_graduated(problem, bad, LevenbergMarquardt(), Dense(), STOP)
    good = minimize_graduated(problem, start, LevenbergMarquardt(), Dense(), STOP)
    assert found.status[1] is Status.NOT_FINITE
    for b in (0, 2):
        assert torch.equal(found.values["line"][b], good.values["line"][b])


def test_the_time_budget_is_that_of_all_stages() -> None:
    problem, start, _ = fitting(2, 20, GemanMcClure(3.0))
    now = iter(range(10**6))
    found = minimize_graduated(
        problem,
        start,
        LevenbergMarquardt(),
        Dense(),
        Tolerances(cost=0, step=0, gradient=0, seconds=30.0),
        clock=lambda: float(next(now)),
    )
    assert set(found.status) == {Status.DEADLINE}
    assert next(now) < 40


def test_a_problem_without_the_loss_and_a_factor_that_does_not_shrink_are_refused() -> None:
    problem, start, _ = fitting(1, 0, Cauchy(1.0))
    with pytest.raises(DnlsError, match="no group has this loss"):
        minimize_graduated(problem, start, LevenbergMarquardt(), Dense())
    problem, start, _ = fitting(1, 0, GemanMcClure(1.0))
    with pytest.raises(DnlsError, match="factor must be above 1, got 1"):
        minimize_graduated(problem, start, LevenbergMarquardt(), Dense(), factor=1.0)
