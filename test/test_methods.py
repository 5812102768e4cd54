"""Damping rules, one-shot solves, sampling, histories and reports of what has no information."""

from typing import Any

import pytest
import torch
from test_optim import STARTS, logarithm, normal, plane, pose, rosenbrock, scalar, world
from torch import Tensor

from dnls_ros.costs import between, prior
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, SE3, SO3, Euclidean
from dnls_ros.linear import Cholmod, Dense
from dnls_ros.optim import (
    CrossEntropy,
    Dogleg,
    Fixed,
    GainRatio,
    GaussNewton,
    Geometric,
    History,
    LevenbergMarquardt,
    OneShot,
    Status,
    Tolerances,
    minimize,
    unobservable,
)
from dnls_ros.optim.sampling import multi_label
from dnls_ros.problem import Isotropic, Problem, Shared, Values, Variables, cost

F64 = torch.float64
TIGHT = Tolerances(cost=0, step=1e-12, gradient=1e-12, iterations=300)

RULES = [Geometric(), Geometric(3.0), GainRatio()]


def six_valleys() -> tuple[Problem, Values]:
    return Problem(valley=rosenbrock(plane[[0]])), plane.values([0], STARTS[:, None])


# Damping


@pytest.mark.parametrize(
    "method",
    [LevenbergMarquardt(rule=rule, scaled=s) for rule in RULES for s in (True, False)]
    + [LevenbergMarquardt.ceres(), LevenbergMarquardt.nielsen()],
    ids=str,
)
def test_every_rule_brings_six_rosenbrock_starts_down(method: LevenbergMarquardt) -> None:
    found = minimize(*six_valleys(), method, Dense(), TIGHT)
    assert all(status.converged for status in found.status), found.status
    assert found.cost.max() < 1e-20


@pytest.mark.parametrize("method", [LevenbergMarquardt.ceres(), LevenbergMarquardt.nielsen()])
def test_a_batch_under_the_gain_ratio_rule_is_its_elements(method: LevenbergMarquardt) -> None:
    problem, initial = six_valleys()
    together = minimize(problem, initial, method, Dense(), TIGHT)
    for b in range(6):
        alone = minimize(problem, initial.map(lambda t, b=b: t[b : b + 1]), method, Dense(), TIGHT)
        assert alone.status[0] is together.status[b]
        assert int(alone.iterations[0]) == int(together.iterations[b])
        assert torch.equal(alone.cost[0], together.cost[b])


def test_a_fixed_damping_never_changes_and_gives_up_where_it_would_go_uphill() -> None:
    history = History()
    problem, initial = world(3)
    found = minimize(
        problem, initial, LevenbergMarquardt(0.1, Fixed()), Dense(), TIGHT, callback=history
    )
    assert all(torch.equal(d, torch.full((3,), 0.1, dtype=F64)) for d in history.damping)
    assert all(status.converged for status in found.status)
    uphill = minimize(*six_valleys(), LevenbergMarquardt(1e-9, Fixed()), Dense(), TIGHT)
    assert Status.DAMPING_LIMIT in uphill.status
    assert (uphill.cost <= uphill.initial_cost).all()


def test_each_element_may_start_from_a_damping_of_its_own() -> None:
    problem, initial = six_valleys()
    first = torch.logspace(-6, 2, 6, dtype=F64)
    together = minimize(problem, initial, LevenbergMarquardt(first), Dense(), TIGHT)
    for b in range(6):
        one = LevenbergMarquardt(float(first[b]))
        alone = minimize(problem, initial.map(lambda t, b=b: t[b : b + 1]), one, Dense(), TIGHT)
        assert int(alone.iterations[0]) == int(together.iterations[b])
    with pytest.raises(
        DnlsError, match=r"initial has shape \(5,\).*one per batch element, \(6,\)"
    ):
        minimize(problem, initial, LevenbergMarquardt(first[:5]), Dense())


def test_impossible_rules_are_refused() -> None:
    with pytest.raises(DnlsError, match="ratio above 1"):
        Geometric(1.0)
    with pytest.raises(DnlsError, match="0 < initial"):
        LevenbergMarquardt(torch.tensor([1.0, -1.0]))
    with pytest.raises(DnlsError, match="1 < elites < samples"):
        CrossEntropy(elites=100)


# One shot


def test_one_shot_solves_a_linear_problem_and_says_done() -> None:
    data = normal(4, 6, 3, seed=0)
    block = Variables("v", Euclidean(3))
    problem = Problem(seen=prior(block[[0, 1, 2] * 2], data, noise=Isotropic(0.5)))
    start = block.values(range(3), normal(4, 3, 3, seed=1))
    found = minimize(problem, start, OneShot(), Dense())
    assert found.status == (Status.DONE,) * 4
    assert found.iterations.tolist() == [1] * 4
    expected = 0.5 * (data[:, :3] + data[:, 3:])
    torch.testing.assert_close(found.values["v"], expected, atol=1e-14, rtol=0)


def test_one_shot_of_a_singular_system_names_it() -> None:
    block = Variables("v", Euclidean(1))
    problem = Problem(d=between(block[[0]], block[[1]], torch.ones(1, 1, 1, dtype=F64)))
    start = block.values([0, 1], torch.zeros(1, 2, 1, dtype=F64))
    assert minimize(problem, start, OneShot(), Dense()).status == (Status.SINGULAR,)


# Sampling


def test_the_projection_sums_to_the_elites_and_is_differentiated() -> None:
    scores = normal(3, 12, seed=2).requires_grad_()
    weight = multi_label(scores, 4)
    torch.testing.assert_close(weight.sum(1), torch.full((3,), 4.0, dtype=F64))
    assert ((weight > 0) & (weight < 1)).all()
    assert torch.autograd.gradcheck(lambda s: multi_label(s, 4), scores)


SAMPLING = Tolerances(cost=0, step=0, gradient=0, iterations=200)


def test_sampling_finds_the_global_minimum_where_a_descent_is_caught() -> None:
    @cost(batched=True)
    def egg_box(x: Tensor) -> Tensor:
        return torch.cat([0.2 * x, 1 - (3 * x).cos()], -1)

    problem = Problem(f=egg_box(plane[[0]]))
    start = plane.values([0], torch.tensor([[[2.2, -2.0]], [[4.1, 2.1]]], dtype=F64))
    caught = minimize(problem, start, LevenbergMarquardt(), Dense(), TIGHT)
    assert caught.cost.min() > 0.05
    method = CrossEntropy(sigma=3.0, samples=400, elites=20, momentum=0.5, smallest=1e-6)
    found = minimize(problem, start, method, Dense(), SAMPLING)
    assert found.status == (Status.DONE,) * 2
    assert found.best_cost.max() < 1e-10
    assert (found.best_cost <= found.cost).all()


def test_sampling_works_in_the_tangent_of_a_group() -> None:
    rotations = SO3.exp(0.4 * normal(2, 5, 3, seed=4))
    block = Variables("R", SO3)
    problem = Problem(seen=prior(block[[0] * 5], rotations))
    start = block.values([0], SO3.exp(normal(2, 1, 3, seed=5)))
    exact = minimize(problem, start, LevenbergMarquardt(), Dense(), TIGHT)
    method = CrossEntropy(sigma=0.5, smallest=1e-7)
    found = minimize(problem, start, method, Dense(), SAMPLING)
    assert found.status == (Status.DONE,) * 2
    assert exact.values.local(found.values).abs().max() < 1e-4
    norm = found.values["R"].tensor.norm(dim=-1)  # type: ignore[union-attr]
    torch.testing.assert_close(norm, torch.ones_like(norm))


def test_a_sampled_batch_is_its_elements_and_survives_samples_that_are_not_finite() -> None:
    problem = Problem(f=logarithm(scalar[[0]]))
    start = torch.tensor([[[5.0]], [[2.0]], [[0.3]]], dtype=F64)
    method = CrossEntropy(sigma=1.0, momentum=0.6, smallest=1e-8, seed=3)
    together = minimize(problem, scalar.values([0], start), method, Dense(), SAMPLING)
    assert together.cost.max() < 1e-10
    for b in range(3):
        one = scalar.values([0], start[b : b + 1])
        alone = minimize(problem, one, method, Dense(), SAMPLING)
        assert torch.equal(alone.values["x"][0], together.values["x"][b])  # type: ignore[index]


def test_an_element_without_a_usable_sample_fails_alone() -> None:
    @cost
    def cliff(x: Tensor, hole: Tensor) -> Tensor:
        return torch.where(hole > 0, torch.where(x == x.detach().round(), x, torch.nan), x)

    hole = torch.tensor([[[1.0]], [[0.0]]], dtype=F64)
    start = scalar.values([0], torch.ones(2, 1, 1, dtype=F64))
    problem = Problem(f=cliff(scalar[[0]], hole))
    found = minimize(problem, start, CrossEntropy(smallest=1e-4), Dense(), SAMPLING)
    assert found.status == (Status.STEP_NOT_FINITE, Status.DONE)
    assert found.cost[0] == 0.5
    assert found.cost[1] < 1e-6


def test_sampling_is_differentiated_by_unrolling() -> None:
    """The minimum of (x − θ)² moves with θ; with the start fixed, so does the last mean."""
    theta = torch.tensor(0.3, dtype=F64, requires_grad=True)
    block = Variables("x", Euclidean(1))
    problem = Problem(f=prior(block[[0]], theta.reshape(1, 1, 1)))
    start = block.values([0], torch.zeros(1, 1, 1, dtype=F64))
    found = minimize(
        problem, start, CrossEntropy(temperature=1.0), Dense(), SAMPLING, differentiable=True
    )
    x: Any = found.values["x"]
    (slope,) = torch.autograd.grad(x.sum(), theta)
    assert float(x.detach()) == pytest.approx(0.3, abs=1e-3)
    assert float(slope) == pytest.approx(1.0, abs=0.05)


# Histories and callbacks


@pytest.mark.parametrize(
    "method", [GaussNewton(), LevenbergMarquardt(), Dogleg(), LevenbergMarquardt.ceres()], ids=str
)
def test_a_history_holds_the_start_and_every_iteration(method: Any) -> None:
    history = History(keep_values=True)
    problem, initial = world(2)
    found = minimize(problem, initial, method, Dense(), callback=history)
    assert history.cost.shape == (int(found.iterations.max()) + 1, 2)
    assert torch.equal(history.cost[0], found.initial_cost)
    assert torch.equal(history.cost[-1], found.cost)
    for cost_then, values in zip(history.costs, history.values, strict=True):
        torch.testing.assert_close(problem.objective(values), cost_then, atol=0, rtol=1e-12)
    assert not any(v["pose"].tensor.is_inference() for v in history.values)  # type: ignore[union-attr]


def test_a_callback_can_stop() -> None:
    problem, initial = six_valleys()
    found = minimize(
        problem, initial, LevenbergMarquardt(), Dense(), TIGHT, callback=lambda i: i.index >= 3
    )
    assert set(found.status) == {Status.STOPPED}
    assert found.iterations.tolist() == [3] * 6


def test_gauss_newton_goes_uphill_and_the_best_is_kept() -> None:
    problem, initial = six_valleys()
    history = History(keep_values=True)
    found = minimize(
        problem, initial, GaussNewton(), Dense(), Tolerances(0, 0, 0, 1), callback=history
    )
    assert (found.cost > found.best_cost).any(), "no step went uphill: not a test"
    assert torch.equal(found.best_cost, history.cost.amin(0))
    torch.testing.assert_close(problem.objective(found.best), found.best_cost)
    safe = minimize(problem, initial, LevenbergMarquardt(), Dense(), TIGHT)
    assert torch.equal(safe.best_cost, safe.cost)
    assert safe.best.local(safe.values).abs().max() == 0


# What has no information


def loop_of_poses(kind: Any, batch: int = 1) -> tuple[Problem, Values]:
    block = Variables("pose", kind)
    truth = kind.exp(normal(batch, 4, kind.tangent_dim, seed=7))
    z = truth[:, [0, 1, 2, 3]].between(truth[:, [1, 2, 3, 0]])
    problem = Problem(loop=between(block[[0, 1, 2, 3]], block[[1, 2, 3, 0]], z))
    return problem, block.values([0, 1, 2, 3], truth)


@pytest.mark.parametrize("kind", [SE2, SE3, SO3])
def test_a_loop_without_an_anchor_is_free_in_as_many_directions_as_a_pose_has(kind: Any) -> None:
    problem, values = loop_of_poses(kind)
    found = unobservable(problem, values)
    assert len(found) == kind.tangent_dim
    for direction in found:
        assert {block for block, *_ in direction.parts} == {"pose"}
        assert sum(share for *_, share in direction.parts) == pytest.approx(1.0, abs=1e-4)
        assert direction.information < 1e-12
    block = Variables("pose", kind)
    anchored = problem.replace(anchor=prior(block[[0]], values["pose"][:, :1]))  # type: ignore[index]
    assert unobservable(anchored, values) == ()


def test_a_large_problem_is_searched_without_a_dense_matrix(monkeypatch: Any) -> None:
    import dnls_ros.optim.observability as module

    problem, values = loop_of_poses(SE3)
    dense = unobservable(problem, values)
    monkeypatch.setattr(module, "DENSE_UP_TO", 1)
    monkeypatch.setattr(module, "ENOUGH", 8)
    sparse = unobservable(problem, values)
    assert len(sparse) == len(dense) == 6


def test_the_report_names_variable_and_direction() -> None:
    @cost
    def along_x(x: SE2, z: Tensor) -> Tensor:
        return x.translation[:1] - z

    where = SE2.identity(1, 1, dtype=F64)
    problem = Problem(
        seen=along_x(pose[[17]], Shared(torch.ones(1, dtype=F64))), a=prior(pose[[3]], where)
    )
    values = pose.values([3, 17], SE2.identity(1, 2, dtype=F64))
    found = unobservable(problem, values)
    assert sorted(str(d) for d in found) == ["pose[17] vy", "pose[17] ω"]
    solution = minimize(problem, values, GaussNewton(), Cholmod())
    assert solution.status == (Status.SINGULAR,)
    assert [str(d) for d in solution.unobservable()] == [str(d) for d in found]


def test_along_the_free_directions_the_cost_stays() -> None:
    problem, values = loop_of_poses(SE3)
    other = values.retract(1e-4 * normal(1, 24, seed=8))
    assert float(problem.objective(other)) > 1e-9
    for direction in unobservable(problem, values):
        moved = values.retract(1e-4 * direction.vector[None])
        assert float(problem.objective(moved)) < 1e-15


def test_only_finite_problems_are_reported_on() -> None:
    problem = Problem(f=logarithm(scalar[[0]]))
    values = scalar.values([0], torch.full((1, 1, 1), torch.nan, dtype=F64))
    with pytest.raises(DnlsError, match="batch element 0 are not finite"):
        unobservable(problem, values)
    with pytest.raises(DnlsError, match="no batch element 1"):
        unobservable(problem, scalar.values([0], torch.ones(1, 1, 1, dtype=F64)), 1)
