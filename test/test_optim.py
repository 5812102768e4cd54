"""The one loop and its methods: convergence, verdicts, batches, limits."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.costs.pose import between, prior
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, Euclidean
from dnls_ros.linear import Cholmod, Dense, LinearSolver, Schur
from dnls_ros.optim import (
    Assembly,
    Dogleg,
    GaussNewton,
    Geometric,
    LevenbergMarquardt,
    Method,
    Model,
    Outcome,
    Proposal,
    Solution,
    Status,
    Tolerances,
    minimize,
)
from dnls_ros.problem import Cauchy, Diagonal, Isotropic, Problem, Shared, Values, Variables, cost

F64 = torch.float64
METHODS: list[Method[Any]] = [
    GaussNewton(),
    LevenbergMarquardt(),
    LevenbergMarquardt.ceres(),
    LevenbergMarquardt.nielsen(),
    Dogleg(),
]
SAFE: list[Method[Any]] = [
    LevenbergMarquardt(),
    LevenbergMarquardt(scaled=False),
    Dogleg(),
    LevenbergMarquardt.ceres(),
    LevenbergMarquardt.nielsen(),
]
SOLVERS: list[LinearSolver] = [Dense(), Cholmod(), Schur("point", Dense())]
TIGHT = Tolerances(cost=0, step=1e-12, gradient=1e-12, iterations=200)

scalar = Variables("x", Euclidean(1))
plane = Variables("x", Euclidean(2))
pose = Variables("pose", SE2)
point = Variables("point", Euclidean(2))


def named(value: Any) -> str:
    return str(getattr(value, "name", value))


@cost(batched=True)
def rosenbrock(x: Tensor) -> Tensor:
    """Minimum 0 at (1, 1), at the end of a bent valley."""
    return torch.stack([10 * (x[..., 1] - x[..., 0] ** 2), 1 - x[..., 0]], -1)


@rosenbrock.jacobians
def _rosenbrock(x: Tensor) -> tuple[Tensor]:
    one, zero = torch.ones_like(x[..., 0]), torch.zeros_like(x[..., 0])
    rows = [torch.stack([-20 * x[..., 0], 10 * one], -1), torch.stack([-one, zero], -1)]
    return (torch.stack(rows, -2),)


@cost(batched=True)
def logarithm(x: Tensor) -> Tensor:
    """The first Gauss–Newton step from 5 leads to 5 − 5 log 5 < 0, where the residual is NaN."""
    return x.log()


@cost(batched=True)
def linear(p: Tensor, q: Tensor, a: Tensor, z: Tensor) -> Tensor:
    return (a @ (p - 2 * q)[..., None])[..., 0] - z


@cost(batched=True)
def sighting(x: SE2, p: Tensor, z: Tensor) -> Tensor:
    return x.inverse() @ p - z


@sighting.jacobians
def _sighting(x: SE2, p: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    seen = x.inverse() @ p
    turned = torch.stack([seen[..., 1], -seen[..., 0]], -1)[..., None]
    eye = torch.eye(2, dtype=p.dtype, device=p.device).expand(*seen.shape, 2)
    return torch.cat([-eye, turned], -1), x.rotation.inverse().matrix()


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=F64, generator=generator)


def world(
    batch: int, seed: int = 0, noise: float = 0.05, count: int = 8
) -> tuple[Problem, Values]:
    """Poses in a chain that see points, with a robust loss and a bad start."""
    ids = torch.arange(count)
    truth = SE2.exp(normal(batch, count, 3, seed=seed))
    points = 2 * normal(batch, 4, 2, seed=seed + 1)
    seen, by = torch.arange(4).repeat(count), ids.repeat_interleave(4)
    z_between = truth[:, :-1].between(truth[:, 1:]).tensor
    z_between = SE2(z_between) @ SE2.exp(noise * normal(batch, count - 1, 3, seed=seed + 2))
    z_sight = truth[:, by].inverse() @ points[:, seen]
    z_sight = z_sight + noise * normal(*z_sight.shape, seed=seed + 3)
    problem = Problem(
        anchor=prior(pose[[0]], truth[:, :1], noise=Isotropic(0.01)),
        odometry=between(
            pose[ids[:-1]],
            pose[ids[1:]],
            z_between,
            noise=Diagonal(torch.tensor([0.1, 0.1, 0.05], dtype=F64)),
        ),
        sightings=sighting(pose[by], point[seen], z_sight, noise=Isotropic(0.1), loss=Cauchy(3.0)),
    )
    start = truth @ SE2.exp(0.3 * normal(batch, count, 3, seed=seed + 4))
    initial = pose.values(ids, start).merge(
        point.values(range(4), points + 0.5 * normal(batch, 4, 2, seed=seed + 5))
    )
    return problem, initial


def element(tree: Any, b: int, batch: int) -> Any:
    """Batch element ``b`` alone."""
    return pytree.tree_map(lambda t: t[b : b + 1] if t.shape[0] == batch else t, tree)


def bits(solution: Solution, b: int = 0) -> list[float]:
    tensors = [getattr(x, "tensor", x) for x in solution.values.values()]
    return torch.cat([t[b].flatten() for t in tensors] + [solution.cost[b : b + 1]]).tolist()


# Methods and solvers


@pytest.mark.parametrize("solver", SOLVERS, ids=named)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_every_method_with_every_solver_finds_the_same_minimum(
    method: Method[Any], solver: LinearSolver
) -> None:
    problem, initial = world(2)
    best = minimize(problem, initial, LevenbergMarquardt(), Dense(), TIGHT)
    found = minimize(problem, initial, method, solver, TIGHT)
    assert all(status.converged for status in found.status)
    torch.testing.assert_close(found.cost, best.cost, atol=0, rtol=1e-12)
    assert best.values.local(found.values).abs().max() < 1e-8
    assert problem.gradient(found.values).abs().max() < 1e-7
    assert (found.cost < 0.01 * found.initial_cost).all()


@pytest.mark.parametrize("solver", SOLVERS, ids=named)
def test_one_gauss_newton_step_solves_a_linear_problem(solver: LinearSolver) -> None:
    problem, initial = linear_problem()
    one = Tolerances(iterations=1)
    found = minimize(problem, initial, GaussNewton(), solver, one)
    structure = problem.structure(initial)
    equations = Assembly(problem, structure).normal_equations(initial)
    dense = structure.pattern.dense(equations.hessian)
    exact = torch.linalg.solve(dense, -equations.gradient)
    torch.testing.assert_close(initial.local(found.values), exact, atol=1e-12, rtol=1e-12)
    assert problem.gradient(found.values).abs().max() < 1e-12


def linear_problem() -> tuple[Problem, Values]:
    ids = torch.arange(4)
    problem = Problem(
        chain=linear(
            plane[ids], point[[0, 1, 1, 2]], normal(2, 4, 3, 2, seed=0), normal(2, 4, 3, seed=1)
        ),
        anchor=prior(point[range(3)], normal(1, 3, 2, seed=2), noise=Isotropic(0.7)),
    )
    return problem, plane.values(ids, normal(2, 4, 2, seed=3)).merge(
        point.values(range(3), normal(2, 3, 2, seed=4))
    )


class Watched:
    """A method that notes the outcomes it is shown."""

    def __init__(self, inner: Method[Any]) -> None:
        self.inner = inner
        self.outcomes: list[Outcome] = []

    def init(self, model: Model) -> Any:
        return self.inner.init(model)

    def propose(self, state: Any, model: Model, fresh: bool) -> tuple[Proposal, Any]:
        return self.inner.propose(state, model, fresh)

    def update(self, state: Any, proposal: Proposal, outcome: Outcome) -> tuple[Tensor, Any]:
        self.outcomes.append(outcome)
        return self.inner.update(state, proposal, outcome)

    def exhausted(self, state: Any) -> Tensor:
        return self.inner.exhausted(state)

    def damping(self, state: Any) -> Tensor:
        return self.inner.damping(state)

    def resumed(self, damping: Tensor) -> "Watched":
        return Watched(self.inner.resumed(damping))


@pytest.mark.parametrize(
    "method",
    [
        GaussNewton(),
        GaussNewton(0.3),
        LevenbergMarquardt(0.5),
        LevenbergMarquardt(0.5, scaled=False),
        Dogleg(0.3),
        Dogleg(1e3),
    ],
)
@pytest.mark.parametrize("solver", SOLVERS, ids=named)
def test_the_gain_ratio_of_a_linear_problem_is_one(
    method: Method[Any], solver: LinearSolver
) -> None:
    problem, initial = linear_problem()
    watched = Watched(method)
    minimize(problem, initial, watched, solver, Tolerances(0, 0, 0, iterations=3))
    gain = watched.outcomes[0].gain
    torch.testing.assert_close(gain, torch.ones_like(gain), atol=1e-12, rtol=0)


@pytest.mark.parametrize("step_size", [0.25, 0.5])
def test_a_fractional_gauss_newton_step_is_that_fraction(step_size: float) -> None:
    problem, initial = world(2)
    one = Tolerances(iterations=1)
    full = minimize(problem, initial, GaussNewton(), Dense(), one)
    part = minimize(problem, initial, GaussNewton(step_size), Dense(), one)
    torch.testing.assert_close(
        initial.local(part.values), step_size * initial.local(full.values), atol=1e-13, rtol=1e-12
    )


STARTS = torch.tensor(
    [[-1.2, 1.0], [0.0, 0.0], [3.0, -4.0], [-3.0, -3.0], [1.0, 10.0], [8.0, 2.0]], dtype=F64
)


@pytest.mark.parametrize("solver", SOLVERS[:2], ids=named)
@pytest.mark.parametrize("method", SAFE, ids=str)
def test_six_rosenbrock_starts_in_one_batch_all_converge(
    method: Method[Any], solver: LinearSolver
) -> None:
    problem = Problem(valley=rosenbrock(plane[[0]]))
    initial = plane.values([0], STARTS[:, None])
    found = minimize(problem, initial, method, solver, Tolerances(1e-12, 1e-10, 1e-12, 300))
    assert all(status.converged for status in found.status), found.status
    torch.testing.assert_close(
        found.values["x"][:, 0],  # type: ignore[index]
        torch.ones(6, 2, dtype=F64),
        atol=1e-6,
        rtol=0,
    )
    assert (found.iterations > found.accepted).any(), "no step was rejected: not a test"


@pytest.mark.parametrize("method", SAFE, ids=str)
def test_a_rejected_step_is_never_called_converged(method: Method[Any]) -> None:
    problem = Problem(valley=rosenbrock(plane[[0]]))
    initial = plane.values([0], STARTS[:, None])
    for limit in range(1, 12):
        found = minimize(
            problem, initial, method, Dense(), Tolerances(1e-1, 1e-1, 0, iterations=limit)
        )
        for b, status in enumerate(found.status):
            if status.converged:
                assert found.accepted[b] > 0
                assert found.cost[b] < found.initial_cost[b]


@pytest.mark.parametrize("solver", SOLVERS[:2], ids=named)
@pytest.mark.parametrize("method", [*SAFE[:2], Dogleg(10.0), LevenbergMarquardt.ceres()], ids=str)
def test_a_step_to_where_the_residual_is_nan_is_rejected(
    method: Method[Any], solver: LinearSolver
) -> None:
    problem = Problem(f=logarithm(scalar[[0]]))
    start = torch.tensor([[[5.0]], [[1.5]]], dtype=F64)
    initial = scalar.values([0], start)
    found = minimize(problem, initial, method, solver, Tolerances(1e-14, 1e-10, 1e-12, 100))
    assert all(status.converged for status in found.status), found.status
    assert found.iterations[0] > found.accepted[0]
    torch.testing.assert_close(found.values["x"], torch.ones(2, 1, 1, dtype=F64))  # type: ignore[arg-type]


def test_gauss_newton_that_steps_to_nan_fails_at_its_last_good_values() -> None:
    problem = Problem(f=logarithm(scalar[[0]]))
    initial = scalar.values([0], torch.tensor([[[5.0]], [[1.5]]], dtype=F64))
    found = minimize(problem, initial, GaussNewton(), Dense())
    assert found.status[0] is Status.STEP_NOT_FINITE
    assert found.values["x"][0].item() == 5.0  # type: ignore[index]
    assert found.status[1].converged


# Batches


def valleys() -> tuple[Problem, Values]:
    """Sixty-four bent valleys with different sides, from different starts."""
    problem = Problem(
        valley=rosenbrock(plane[[0]], loss=Cauchy(20.0)),
        side=prior(plane[[0]], 3 * normal(64, 1, 2, seed=0), noise=Isotropic(5.0)),
    )
    return problem, plane.values([0], 2 * normal(64, 1, 2, seed=1))


@pytest.mark.parametrize(
    ("method", "example"),
    [
        (GaussNewton(), valleys),
        (LevenbergMarquardt(), valleys),
        (LevenbergMarquardt(scaled=False), valleys),
        (Dogleg(), valleys),
        (LevenbergMarquardt(1e-2), lambda: world(64, noise=0.3, count=3)),
    ],
)
def test_sixty_four_problems_at_once_are_sixty_four_problems(
    method: Method[Any], example: Callable[[], tuple[Problem, Values]]
) -> None:
    problem, initial = example()
    stop = Tolerances(1e-6, 1e-6, 1e-6, 25)
    together = minimize(problem, initial, method, Dense(), stop)
    for b in range(64):
        alone = minimize(element(problem, b, 64), element(initial, b, 64), method, Dense(), stop)
        assert alone.status[0] is together.status[b]
        assert int(alone.iterations[0]) == int(together.iterations[b])
        assert int(alone.accepted[0]) == int(together.accepted[b])
        assert alone.values.local(element(together.values, b, 64)).abs().max() < 1e-12
    assert len(set(together.iterations.tolist())) > 3, "all alike: not a test"
    if example is valleys and not isinstance(method, GaussNewton):
        assert (together.iterations > together.accepted).any(), "no step was rejected: not a test"


@pytest.mark.parametrize("solver", SOLVERS[:2], ids=named)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_nan_and_a_singular_element_harm_no_other(
    method: Method[Any], solver: LinearSolver
) -> None:
    ids = torch.arange(2)
    a = normal(4, 2, 3, 2, seed=0)
    a[2] = 0.0  # this element's chain says nothing
    z = normal(4, 2, 3, seed=1)
    z[1, 0, 0] = torch.nan
    problem = Problem(
        chain=linear(plane[ids], point[ids], a, z),
        valley=rosenbrock(point[ids]),
    )
    initial = plane.values(ids, normal(4, 2, 2, seed=3)).merge(
        point.values(ids, normal(4, 2, 2, seed=4))
    )
    stop = Tolerances(1e-9, 1e-9, 1e-9, 30)
    together = minimize(problem, initial, method, solver, stop)
    assert together.status[1] is Status.NOT_FINITE
    if isinstance(method, GaussNewton):
        assert together.status[2] is Status.SINGULAR
    for b in (0, 3):
        alone = minimize(element(problem, b, 4), element(initial, b, 4), method, solver, stop)
        assert alone.status[0] is together.status[b]
        assert bits(alone) == bits(together, b)


def test_a_batch_of_data_moves_each_copy_of_a_single_start() -> None:
    problem, initial = world(3)
    single = element(initial, 0, 3)
    found = minimize(problem, single, LevenbergMarquardt(), Dense(), TIGHT)
    repeated = single.map(lambda t: t.expand(3, *t.shape[1:]))
    again = minimize(problem, repeated, LevenbergMarquardt(), Dense(), TIGHT)
    assert found.values.batch == 3
    for b in range(3):
        assert bits(found, b) == bits(again, b)
    with pytest.raises(DnlsError, match="has batch size 2, the problem has 3; give 1 or 3"):
        minimize(problem, initial.map(lambda t: t[:2]), LevenbergMarquardt(), Dense())


# Limits and verdicts


def ticking(step: float) -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += step


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_the_deadline_returns_the_best_values_so_far(method: Method[Any]) -> None:
    problem, initial = world(2)
    clock = ticking(1.0)
    stop = Tolerances(0, 0, 0, iterations=50, seconds=3.5)
    found = minimize(problem, initial, method, Dense(), stop, clock=lambda: next(clock))
    assert found.status == (Status.DEADLINE, Status.DEADLINE)
    assert found.iterations.tolist() == [3, 3]
    limited = minimize(problem, initial, method, Dense(), Tolerances(0, 0, 0, iterations=3))
    assert limited.status == (Status.MAX_ITERATIONS, Status.MAX_ITERATIONS)
    assert bits(found) == bits(limited)
    torch.testing.assert_close(problem.objective(found.values), found.cost)


def test_the_clock_is_not_read_without_a_time_budget() -> None:
    problem, initial = world(1)

    def clock() -> float:
        raise AssertionError("the result would depend on a clock")

    assert minimize(problem, initial, LevenbergMarquardt(), Dense(), clock=clock).status


def test_statuses_are_sentences() -> None:
    for status in Status:
        assert " " in status.value
        assert status.value == status.value.strip()
        assert status.converged == status.value.startswith("converged: ")


class Counting:
    """Counts evaluations of a residual and of its Jacobians."""

    def __init__(self) -> None:
        self.residuals = 0
        self.jacobians = 0

    def problem(self) -> Problem:
        @cost(batched=True)
        def valley(x: Tensor) -> Tensor:
            self.residuals += 1
            return rosenbrock.residual(x)

        @valley.jacobians
        def _(x: Tensor) -> tuple[Tensor]:
            self.jacobians += 1
            return _rosenbrock(x)

        return Problem(valley=valley(plane[[0]]))


@pytest.mark.parametrize("method", SAFE, ids=str)
def test_nothing_is_linearized_again_after_a_rejection(method: Method[Any]) -> None:
    count = Counting()
    initial = plane.values([0], STARTS[None, :1])
    stop = Tolerances(1e-12, 1e-12, 1e-12, 100)
    found = minimize(count.problem(), initial, method, Dense(), stop)
    trials, accepted = int(found.iterations[0]), int(found.accepted[0])
    assert trials > accepted
    # One at the start, one for each accepted step but the last.
    assert count.jacobians in (accepted, accepted + 1)
    assert count.residuals == count.jacobians + trials


def test_damping_that_finds_no_decrease_says_so() -> None:
    @cost(batched=True)
    def lying(x: Tensor) -> Tensor:
        return x

    @lying.jacobians
    def _(x: Tensor) -> tuple[Tensor]:
        return (-torch.ones_like(x)[..., None],)

    problem = Problem(f=lying(scalar[[0]]))
    initial = scalar.values([0], torch.ones(1, 1, 1, dtype=F64))
    for method in (LevenbergMarquardt(), Dogleg()):
        found = minimize(problem, initial, method, Dense(), Tolerances(iterations=100))
        assert found.status == (Status.DAMPING_LIMIT,)
        assert found.accepted.tolist() == [0]
        assert bits(found) == [1.0, 0.5]
    assert minimize(problem, initial, LevenbergMarquardt(), Dense()).damping.item() == 1e7


def unobservable() -> tuple[Problem, Values]:
    """Only the sum of two numbers is measured."""

    @cost(batched=True)
    def total(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return x + y - z

    problem = Problem(total=total(scalar[[0]], scalar[[1]], Shared(torch.ones(1, dtype=F64))))
    return problem, scalar.values([0, 1], torch.zeros(1, 2, 1, dtype=F64))


@pytest.mark.parametrize("solver", SOLVERS[:2], ids=named)
def test_a_direction_without_information_is_singular_to_gauss_newton(
    solver: LinearSolver,
) -> None:
    found = minimize(*unobservable(), GaussNewton(), solver)
    assert found.status == (Status.SINGULAR,)
    assert bits(found) == [0.0, 0.0, 0.5]


@pytest.mark.parametrize("method", SAFE, ids=str)
def test_damping_and_trust_regions_pass_over_a_direction_without_information(
    method: Method[Any],
) -> None:
    found = minimize(*unobservable(), method, Dense(), TIGHT)
    assert found.status[0].converged
    x, y, s = bits(found)
    assert x == pytest.approx(0.5)
    assert y == pytest.approx(0.5)
    assert s < 1e-20
    assert not found.factorization().ok.all()


def test_a_jacobian_of_nan_is_singular_at_any_damping() -> None:
    @cost(batched=True)
    def root(x: Tensor) -> Tensor:
        return torch.where(x > 0, x.sqrt() - 1, -torch.ones_like(x))

    problem = Problem(f=root(scalar[[0]]))
    initial = scalar.values([0], torch.zeros(1, 1, 1, dtype=F64))
    found = minimize(problem, initial, LevenbergMarquardt(), Dense())
    assert found.status == (Status.SINGULAR,)
    assert bits(found) == [0.0, 0.5]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_start_without_finite_cost_ends_at_once(method: Method[Any]) -> None:
    problem = Problem(f=logarithm(scalar[[0]]))
    start = torch.tensor([[[-1.0]], [[1.2]]], dtype=F64)
    found = minimize(problem, scalar.values([0], start), method, Dense())
    assert found.status[0] is Status.NOT_FINITE
    assert found.iterations[0] == 0
    assert found.values["x"][0].item() == -1.0  # type: ignore[index]
    assert found.status[1].converged


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_the_iteration_limit_counts_trials(method: Method[Any]) -> None:
    problem, initial = world(2)
    for limit in (0, 1, 4):
        found = minimize(problem, initial, method, Dense(), Tolerances(0, 0, 0, iterations=limit))
        assert found.status == (Status.MAX_ITERATIONS,) * 2
        assert found.iterations.tolist() == [limit, limit]


def test_a_start_at_the_minimum_stays_there() -> None:
    problem = Problem(valley=rosenbrock(plane[[0]]))
    initial = plane.values([0], torch.ones(1, 1, 2, dtype=F64))
    found = minimize(problem, initial, LevenbergMarquardt(), Dense())
    assert found.status == (Status.CONVERGED_GRADIENT,)
    assert found.iterations.tolist() == [0]


def test_each_tolerance_ends_the_minimization_by_its_own_name() -> None:
    problem, initial = world(1)
    damped = LevenbergMarquardt(initial=1.0, rule=Geometric(1.01))
    for method, stop, status in (
        (LevenbergMarquardt(), Tolerances(1e-3, 0, 0, 100), Status.CONVERGED_MODEL),
        (damped, Tolerances(1e-3, 0, 0, 100), Status.CONVERGED_COST),
        (LevenbergMarquardt(), Tolerances(0, 1e-3, 0, 100), Status.CONVERGED_STEP),
        (LevenbergMarquardt(), Tolerances(0, 0, 1e-3, 100), Status.CONVERGED_GRADIENT),
    ):
        found = minimize(problem, initial, method, Dense(), stop)
        assert found.status == (status,)


@pytest.mark.parametrize("method", [GaussNewton(), LevenbergMarquardt(), Dogleg()])
def test_a_step_that_the_model_expects_to_gain_nothing_is_not_tried(method: Any) -> None:
    problem, initial = world(1)
    best = minimize(problem, initial, method, Dense(), TIGHT)
    again = minimize(problem, best.values, method, Dense(), Tolerances(1e-6, 0, 0, 100))
    assert again.status == (Status.CONVERGED_MODEL,)
    assert again.iterations.tolist() == [0]
    assert torch.equal(again.cost, again.initial_cost)


def test_a_heavily_damped_step_never_counts_as_convergence_of_the_model() -> None:
    problem, initial = world(1)
    stuck = LevenbergMarquardt(initial=1e6, rule=Geometric(1.0001))
    found = minimize(problem, initial, stuck, Dense(), Tolerances(1e-3, 0, 0, 3))
    assert Status.CONVERGED_MODEL not in found.status


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(DnlsError, match="0 < initial ≤ largest"):
        LevenbergMarquardt(initial=0.0)
    with pytest.raises(DnlsError, match=r"step_size in \(0, 1\]"):
        GaussNewton(step_size=0.0)
    with pytest.raises(DnlsError, match="0 < smallest ≤ initial"):
        Dogleg(initial=-1.0)
    for bad in (-1.0, math.nan):
        with pytest.raises(DnlsError, match="tolerances must not be negative"):
            Tolerances(cost=bad)


def test_float32_problems_are_solved_in_float32() -> None:
    problem, initial = world(2)
    exact = minimize(problem, initial, LevenbergMarquardt(), Dense())
    problem, initial = pytree.tree_map(lambda t: t.float(), (problem, initial))
    found = minimize(problem, initial, LevenbergMarquardt(), Dense())
    assert found.cost.dtype == torch.float32
    assert all(status.converged for status in found.status)
    torch.testing.assert_close(found.cost.double(), exact.cost, atol=0, rtol=1e-3)


def test_a_known_structure_is_analyzed_once_per_solver() -> None:
    class Once:
        name = "counting"
        analyses = 0

        def analyze(self, pattern: Any) -> Any:
            self.analyses += 1
            return Dense().analyze(pattern)

    problem, initial = world(1)
    assembly, solver = Assembly(problem, problem.structure(initial)), Once()
    for _ in range(3):
        minimize(problem, initial, LevenbergMarquardt(), solver, assembly=assembly)
    assert solver.analyses == 1


def test_fixed_linearization_points_do_not_move_with_the_iterate() -> None:
    problem, initial = world(1)
    structure = problem.structure(initial)
    fixed = Assembly(problem, structure, first_estimates=initial)
    moved = initial.retract(0.1 * normal(1, structure.n, seed=0))
    a, b = fixed.normal_equations(initial), fixed.normal_equations(moved)
    free = problem.replace(sightings=None).structure(initial.select("point", torch.zeros(4) > 0))
    assert free.n == 24
    torch.testing.assert_close(b.cost, problem.objective(moved))
    chain = slice(0, structure.pattern.indptr[3])
    assert (a.hessian[:, chain] - b.hessian[:, chain]).abs().max() > 0  # robust weights follow
    plain = fixed.problem.replace(
        sightings=sighting(
            pose[[0] * 4],
            point[range(4)],
            torch.zeros(1, 4, 2, dtype=F64),
        )
    )
    still = Assembly(plain, plain.structure(initial), first_estimates=initial)
    torch.testing.assert_close(
        still.normal_equations(initial).hessian,
        still.normal_equations(moved).hessian,
        atol=1e-12,
        rtol=0,
    )


def test_the_last_factorization_is_the_final_one_up_to_the_last_step() -> None:
    problem, initial = world(2)
    found = minimize(problem, initial, LevenbergMarquardt(), Cholmod(), TIGHT)
    v = normal(2, 32, seed=3)
    exact = found.factorization().solve(v)
    structure = problem.structure(initial)
    equations = Assembly(problem, structure).normal_equations(found.values)
    dense = structure.pattern.dense(equations.hessian)
    torch.testing.assert_close(exact, torch.linalg.solve(dense, v))
    torch.testing.assert_close(found.last_factorization().solve(v), exact, atol=0, rtol=1e-6)
    once = Tolerances(cost=0, step=100.0, gradient=0)  # the first accepted step ends it
    rough = minimize(problem, initial, LevenbergMarquardt(), Cholmod(), once)
    assert (rough.last_factorization().solve(v) - rough.factorization().solve(v)).norm() > 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_cuda_device_finds_the_minimum_of_the_cpu(method: Method[Any]) -> None:
    problem, initial = world(8)
    here = minimize(problem, initial, method, Dense(), TIGHT)
    problem, initial = pytree.tree_map(lambda t: t.cuda(), (problem, initial))
    there = minimize(problem, initial, method, Dense(), TIGHT)
    assert there.cost.device.type == "cuda"
    torch.testing.assert_close(there.cost.cpu(), here.cost, atol=0, rtol=1e-10)
    assert here.values.local(there.values.map(Tensor.cpu)).abs().max() < 1e-8
