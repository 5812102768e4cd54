"""The loop for devices ends like the loop on the host, asks nothing, and can be replayed."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from sync_rig import Watched, on_a_device
from test_optim import STARTS, logarithm, named, normal, plane, pose, rosenbrock, scalar, world
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from dnls_ros.costs import between, prior
from dnls_ros.diff import Implicit
from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.lie import SE2, SE3
from dnls_ros.linear import Dense, LinearSolver, Multifrontal, Schur
from dnls_ros.optim import (
    Assembly,
    CrossEntropy,
    Dogleg,
    Fixed,
    GainRatio,
    GaussNewton,
    LevenbergMarquardt,
    Method,
    OnDevice,
    OneShot,
    Solution,
    Tolerances,
    minimize,
)
from dnls_ros.optim.carry import chosen, mapped, refilled, tensors_of
from dnls_ros.optim.cuda_graph import KEPT, Recordings
from dnls_ros.optim.minimize import _away, with_full_batch
from dnls_ros.optim.on_device import Body, Carry
from dnls_ros.problem import (
    DCS,
    Cauchy,
    DensePrior,
    Diagonal,
    GemanMcClure,
    Huber,
    Isotropic,
    Loss,
    Problem,
    Structure,
    StructureCache,
    Values,
    Variables,
)
from dnls_ros.problem.normal import added, gathered

F64 = torch.float64
FRONTS = Multifrontal(dense_below=0, leaf=6, relax=0)
SOLVERS: list[LinearSolver] = [Dense(), FRONTS, Schur("point", FRONTS)]
METHODS: list[Method[Any]] = [
    GaussNewton(),
    GaussNewton(0.5),
    OneShot(),
    LevenbergMarquardt(),
    LevenbergMarquardt(1e3, GainRatio()),
    LevenbergMarquardt(0.1, Fixed(), scaled=False),
    LevenbergMarquardt.ceres(),
    LevenbergMarquardt.nielsen(),
    Dogleg(),
    Dogleg(10.0),
    CrossEntropy(0.5, samples=30, elites=5),
]
LOOPS = [OnDevice(every=1), OnDevice(every=7), OnDevice(every=1000)]

Case = Callable[[], tuple[Problem, Values]]


def valleys() -> tuple[Problem, Values]:
    """Many rejected steps."""
    return Problem(valley=rosenbrock(plane[[0]])), plane.values([0], STARTS[:, None])


def logarithms() -> tuple[Problem, Values]:
    """Steps to NaN, and two elements that are not finite from the beginning."""
    start = torch.tensor([5.0, 1.5, -1.0, 1.0, float("nan")], dtype=F64)
    return Problem(f=logarithm(scalar[[0]])), scalar.values([0], start[:, None, None])


def robust(loss: Loss) -> Case:
    def make() -> tuple[Problem, Values]:
        problem, initial = world(3)
        group = problem["sightings"]
        return problem.replace(sightings=replace(group, loss=loss)), initial  # type: ignore[type-var]

    return make


def harmed() -> tuple[Problem, Values]:
    """A NaN among the data of one element, no information in another, a start at the minimum."""
    problem, initial = world(4)
    sights: Any = problem["sightings"]
    z = sights.arguments[2].clone()
    z[1, 3] = torch.nan
    mask = torch.ones(4, sights.count, dtype=F64)
    mask[2, ::4] = 0.0  # nobody sees the first point
    held = replace(sights, arguments=(*sights.arguments[:2], z), mask=mask)
    return problem.replace(sightings=held), initial


def prioritized() -> tuple[Problem, Values]:
    """A marginal prior among the groups."""
    problem, initial = world(2)
    point = initial.select("point", torch.zeros(4, dtype=torch.bool))
    root = normal(2, 24, 24, seed=9)
    held = DensePrior.from_information(point, root.mT @ root, 0.1 * normal(2, 24, seed=8))
    return problem.replace(marginal=held), initial


CASES: dict[str, Case] = {
    "valleys": valleys,
    "logarithms": logarithms,
    "harmed": harmed,
    "prioritized": prioritized,
    "Cauchy": lambda: world(3),
    "Huber": robust(Huber(0.5)),
    "DCS": robust(DCS(1.0)),
    "GemanMcClure": robust(GemanMcClure(2.0)),
}


def assert_same(found: Solution, expected: Solution) -> None:
    assert found.status == expected.status
    assert torch.equal(found.iterations, expected.iterations)
    assert torch.equal(found.accepted, expected.accepted)
    for name in (
        "cost",
        "best_cost",
        "initial_cost",
        "damping",
        "largest_gradient",
        "largest_step",
        "hessian",
    ):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-12, equal_nan=True
        )
    for values, others in ((found.values, expected.values), (found.best, expected.best)):
        for a, b in zip(pytree.tree_leaves(values), pytree.tree_leaves(others), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12, equal_nan=True)
    assert (found.best is found.values) == (expected.best is expected.values)


STOP = Tolerances(1e-10, 1e-9, 1e-9, 30)
PAIRS = [
    (case, index)
    for case in CASES
    for index in range(len(METHODS))
    if case in ("valleys", "logarithms", "harmed") or index in (3, 9)
]


def hosted(
    problem: Problem,
    initial: Values,
    method: Method[Any],
    linear: LinearSolver | None = None,
    stop: Tolerances | None = None,
) -> Solution:
    """By the loop on the host, linearized in torch: kernels round differently."""
    structure = problem.structure(with_full_batch(problem, initial))
    assembly = Assembly(problem, structure, kernels=False)
    return minimize(problem, initial, method, linear or Dense(), stop, assembly=assembly)


@cache
def on_the_host(case: str, index: int) -> Solution:
    return hosted(*CASES[case](), METHODS[index], stop=STOP)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0]}-{METHODS[pair[1]]}")
def test_it_ends_like_the_loop_on_the_host(pair: tuple[str, int]) -> None:
    case, index = pair
    found = minimize(*CASES[case](), METHODS[index], Dense(), STOP, loop=OnDevice())
    assert_same(found, on_the_host(case, index))


def test_the_cases_hold_what_they_are_for() -> None:
    """Rejected steps, statuses of all kinds, elements that go uphill."""
    statuses, rejected, uphill = set(), 0, 0
    for pair in PAIRS:
        found = on_the_host(*pair)
        statuses |= set(found.status)
        rejected += int((found.iterations - found.accepted).sum())
        uphill += int((found.cost > found.best_cost).sum())
    assert len(statuses) >= 7, statuses
    assert rejected > 100
    assert uphill > 0


@pytest.mark.parametrize("loop", LOOPS, ids=str)
@pytest.mark.parametrize("iterations", [0, 1, 3, 60])
def test_however_rarely_the_host_asks_the_end_is_the_same(loop: OnDevice, iterations: int) -> None:
    problem, initial = world(3)
    stop = Tolerances(iterations=iterations)
    for method in (LevenbergMarquardt(), Dogleg(0.1)):
        expected = hosted(problem, initial, method, stop=stop)
        assert_same(minimize(problem, initial, method, Dense(), stop, loop=loop), expected)


@pytest.mark.parametrize("solver", SOLVERS, ids=named)
def test_every_solver_serves_it(solver: LinearSolver) -> None:
    problem, initial = world(2)
    expected = hosted(problem, initial, LevenbergMarquardt(), solver)
    assert_same(
        minimize(problem, initial, LevenbergMarquardt(), solver, loop=OnDevice()), expected
    )


# Questions


def cube(batch: int, count: int = 27) -> tuple[Problem, Values]:
    space = Variables("space", SE3)
    ids = torch.arange(count)
    truth = SE3.exp(normal(batch, count, 6, seed=1))
    first = torch.cat([ids[:-1], ids[:-9]])
    second = torch.cat([ids[1:], ids[9:]])
    z = truth[:, first].between(truth[:, second])
    problem = Problem(
        anchor=prior(space[[0]], truth[:, :1], noise=Isotropic(0.01)),
        edges=between(space[first], space[second], z, loss=Cauchy(1.0)),
    )
    return problem, space.values(ids, truth @ SE3.exp(0.1 * normal(batch, count, 6, seed=2)))


def away(structure: Structure) -> Structure:
    """The structure with its positions on a device that is not there."""
    for what in ("gradient", "hessian"):
        structure.sources(what, torch.device("cpu"))
    known = {key: structure.symbolic["sources", key] for key in ("gradient", "hessian")}
    return replace(
        structure,
        slots={n: tuple(map(on_a_device, at)) for n, at in structure.slots.items()},
        gradient_positions=on_a_device(structure.gradient_positions),
        hessian_positions=on_a_device(structure.hessian_positions),
        symbolic={("sources", key): value for key, value in known.items()},
    )


@pytest.mark.parametrize("solver", SOLVERS[:2], ids=named)
@pytest.mark.parametrize("case", ["harmed", "prioritized", "DCS", "cube"])
def test_an_iteration_asks_the_device_nothing(case: str, solver: LinearSolver) -> None:
    problem, initial = cube(2) if case == "cube" else CASES[case]()
    initial = with_full_batch(problem, initial)
    structure = away(problem.structure(initial))
    assembly = Assembly(on_a_device(problem), structure)
    for method in (METHODS[0], METHODS[3], METHODS[6], METHODS[8]):
        body = Body(method, assembly.symbolic(solver), Tolerances())
        with torch.inference_mode():
            carry = body.start(assembly, on_a_device(initial))
            carry = body(assembly, carry)  # index maps and constants are moved once
            with Watched() as watched:
                carry = body(assembly, carry)
        assert watched.operations > 50
        assert {t.device.type for t in tensors_of(carry)} == {"meta"}


@pytest.mark.parametrize("case", [*CASES, "cube"])
def test_sums_by_gathering_are_those_by_adding(case: str) -> None:
    problem, initial = cube(2) if case == "cube" else CASES[case]()
    structure = problem.structure(initial)
    for what in ("gradient", "hessian"):
        count = len(structure.positions(what))
        parts = [normal(2, count // 3, seed=1), normal(2, count - count // 3, seed=2)]
        expected = added(torch.cat(parts, 1), structure, what)
        found = gathered(parts, structure, what)
        assert found.shape == (2, structure.size(what))
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


# Purity and replay


def body_and_carry(
    method: Method[Any], problem: Problem, initial: Values
) -> tuple[Body, Assembly, Carry]:
    initial = with_full_batch(problem, initial)
    assembly = Assembly(problem, problem.structure(initial))
    body = Body(method, assembly.symbolic(FRONTS), Tolerances())
    return body, assembly, body.start(assembly, initial)


@pytest.mark.parametrize("method", METHODS[:-1], ids=str)
def test_an_iteration_has_no_side_effects(method: Method[Any]) -> None:
    """The same bits from the same numbers, and the numbers are as they were."""
    with torch.inference_mode():
        body, assembly, carry = body_and_carry(method, *world(3))
        before = mapped(Tensor.clone, carry)
        first, second = body(assembly, carry), body(assembly, carry)
        for a, b in zip(tensors_of(first), tensors_of(second), strict=True):
            assert torch.equal(a, b)
        for a, b in zip(tensors_of(carry), tensors_of(before), strict=True):
            assert torch.equal(a, b)
        assert not torch.equal(first.progress.cost, carry.progress.cost)


def test_nothing_changes_after_the_end() -> None:
    with torch.inference_mode():
        body, assembly, carry = body_and_carry(LevenbergMarquardt(), *world(3))
        for _ in range(40):
            carry = body(assembly, carry)
        assert not carry.progress.running.any()
        for a, b in zip(tensors_of(carry), tensors_of(body(assembly, carry)), strict=True):
            assert torch.equal(a, b)


class Plain:
    """In place of the capture: runs the function itself, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.captures = 0
        self.replays = 0

    def __call__(self, run: Callable[[], None], device: torch.device) -> Callable[[], None]:
        self.captures += 1
        for _ in range(3):  # as the warm-up of a capture does
            run()

        def replay() -> None:
            self.replays += 1
            run()

        return replay


def with_plain_capture(structure: Structure) -> Plain:
    plain = Plain()
    structure.symbolic[Recordings] = Recordings(plain)
    return plain


@pytest.mark.parametrize("method", METHODS[:-1], ids=str)
@pytest.mark.parametrize("case", ["valleys", "harmed"])
def test_replaying_from_buffers_gives_the_same(case: str, method: Method[Any]) -> None:
    problem, initial = CASES[case]()
    assembly = Assembly(problem, problem.structure(initial))
    plain = with_plain_capture(assembly.structure)
    stop = Tolerances(iterations=20)
    expected = hosted(problem, initial, method, stop=stop)
    for _ in range(2):
        found = minimize(
            problem,
            initial,
            method,
            Dense(),
            stop,
            assembly=assembly,
            loop=OnDevice(graph=True),
        )
        assert_same(found, expected)
    assert plain.captures == 1
    assert found.assembly is assembly


def test_one_recording_serves_all_data_of_a_structure() -> None:
    cache, plain = StructureCache(), None
    for seed in range(3):
        problem, initial = world(2, seed=seed)
        problem = problem.cached(cache)
        if plain is None:
            plain = with_plain_capture(problem.structure(initial))
        found = minimize(
            problem, initial, LevenbergMarquardt(), Dense(), loop=OnDevice(graph=True)
        )
        assert_same(found, hosted(problem, initial, LevenbergMarquardt()))
    assert plain is not None
    assert plain.captures == 1
    single = pytree.tree_map(lambda t: t[:1], world(2))
    minimize(
        single[0].cached(cache),
        single[1],
        LevenbergMarquardt(),
        Dense(),
        loop=OnDevice(graph=True),
    )
    assert plain.captures == 2, "another batch needs another recording"


def test_only_the_last_recordings_are_kept() -> None:
    problem, initial = world(1)
    assembly = Assembly(problem, problem.structure(initial))
    plain = with_plain_capture(assembly.structure)

    def solve(damping: float) -> None:
        method = LevenbergMarquardt(damping)
        minimize(problem, initial, method, Dense(), assembly=assembly, loop=OnDevice(graph=True))

    for damping in [0.1 * k for k in range(1, KEPT + 3)]:
        solve(damping)
    assert plain.captures == KEPT + 2
    assert len(Recordings.of(assembly.structure).known) == KEPT
    solve(0.1 * (KEPT + 2))
    assert plain.captures == KEPT + 2
    solve(0.1)
    assert plain.captures == KEPT + 3


def test_a_graph_on_the_cpu_is_refused() -> None:
    with pytest.raises(UnavailableError, match=r"CUDA graph, but the values are on 'cpu'; move"):
        minimize(*world(1), LevenbergMarquardt(), Dense(), loop=OnDevice(graph=True))


def test_random_numbers_are_not_recorded() -> None:
    problem, initial = world(1)
    assembly = Assembly(problem, problem.structure(initial))
    with_plain_capture(assembly.structure)
    with pytest.raises(DnlsError, match="draws random numbers"):
        minimize(
            problem,
            initial,
            CrossEntropy(),
            Dense(),
            assembly=assembly,
            loop=OnDevice(graph=True),
        )


# Derivatives


class Given:
    """In place of a minimizer: what was found already."""

    def __init__(self, found: Solution) -> None:
        self.found = found

    def __call__(self, problem: Problem, initial: Values, differentiable: bool = False) -> Any:
        return self.found

    @property
    def learned(self) -> bool:
        return False


def differentiated(
    adjoint: Implicit, found: Solution, problem: Problem, kept: Tensor | None = None
) -> list[Tensor]:
    """The derivatives of a number of the solution in all measurements and in one noise."""
    leaves = [leaf for leaf in pytree.tree_leaves(problem) if leaf.requires_grad]
    given: Any = Given(replace(found, assembly=replace(found.assembly, problem=problem)))
    x: Any = adjoint(problem, found.values, given).values["pose"]
    score = x.tensor.square().sum((1, 2)) + x.tensor.sum((1, 2))
    if kept is not None:
        score = torch.where(kept, score, 0.0)
    return list(torch.autograd.grad(score.sum(), leaves))


def with_gradients(problem: Problem) -> Problem:
    """The measurements of the odometry, its noise, which all elements share, and the sightings."""
    odometry: Any = problem["odometry"]
    sightings: Any = problem["sightings"]
    z = SE2(odometry.arguments[2].tensor.clone().requires_grad_())
    seen = sightings.arguments[2].clone().requires_grad_()
    sigmas = Diagonal(odometry.noise.sigmas.clone().requires_grad_())
    return problem.replace(
        odometry=replace(odometry, arguments=(None, None, z), noise=sigmas),
        sightings=replace(sightings, arguments=(None, None, seen)),
    )


TIGHT = Tolerances(cost=0, step=1e-12, gradient=1e-12, iterations=100)


@pytest.mark.parametrize("form", ["gauss_newton", "exact"])
@pytest.mark.parametrize("case", ["Cauchy", "harmed"])
def test_unchecked_derivatives_are_the_checked_ones(case: str, form: Any) -> None:
    """With an element whose cost is not finite among them, too."""
    problem, initial = CASES[case]()
    if case == "harmed":  # without the element that has no information
        problem, initial = pytree.tree_map(
            lambda t: t[[0, 1, 3]] if len(t) == 4 else t, (problem, initial)
        )
    found = minimize(problem, initial, LevenbergMarquardt(), FRONTS, TIGHT)
    kept = found.cost.isfinite()
    assert bool(kept.all()) == (case == "Cauchy")
    watched, unwatched = (
        differentiated(Implicit(form, checked=checked), found, with_gradients(problem), kept)
        for checked in (True, False)
    )
    for a, b in zip(unwatched, watched, strict=True):
        assert b.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert watched[0].abs().max() > 0.1


def test_an_element_without_information_has_derivatives_of_nan_and_harms_no_other() -> None:
    problem, initial = harmed()
    found = minimize(problem, initial, GaussNewton(), FRONTS, TIGHT)
    free = torch.tensor([False, False, True, False])
    unchecked = Implicit("gauss_newton", checked=False)
    gradients = differentiated(unchecked, found, with_gradients(problem))
    for gradient in gradients:
        if len(gradient) == 4:  # not what all elements share
            assert gradient[free].isnan().any()
            assert gradient[~free].isfinite().all()
    with pytest.raises(DnlsError, match=r"elements \[1\] is singular"):
        differentiated(Implicit("gauss_newton"), found, with_gradients(problem))
    alone = differentiated(unchecked, found, with_gradients(problem), ~free)
    assert all(gradient.isfinite().all() for gradient in alone)


def test_from_the_problem_to_its_gradients_the_device_is_asked_nothing() -> None:
    problem, initial = world(2)
    found = minimize(problem, initial, LevenbergMarquardt(), FRONTS)
    there = on_a_device(with_gradients(problem))
    moved = replace(
        found.map(on_a_device), assembly=Assembly(there, away(found.assembly.structure))
    )
    differentiated(Implicit("gauss_newton"), moved, there)  # index maps are moved once
    with Watched() as watched:
        gradients = differentiated(Implicit("gauss_newton"), moved, there)
    assert watched.operations > 500
    assert {gradient.device.type for gradient in gradients} == {"meta"}


# When it is taken


def test_it_is_taken_by_itself_on_a_cuda_device_where_nobody_looks_on() -> None:
    with FakeTensorMode():
        there = plane.values([0], torch.empty(1, 1, 2, device="cuda"))
    here = plane.values([0], torch.empty(1, 1, 2))
    assert _away(there, None, watched=False) == OnDevice()
    assert _away(there, None, watched=True) is None
    assert _away(here, None, watched=False) is None
    assert _away(here, OnDevice(3), watched=False) == OnDevice(3)


@pytest.mark.parametrize(
    "looked_on",
    [{"callback": lambda _: None}, {"differentiable": True}],
    ids=["callback", "recorded"],
)
def test_it_is_refused_where_iterations_are_looked_at(looked_on: dict[str, Any]) -> None:
    with pytest.raises(DnlsError, match="does not look at single iterations"):
        minimize(*world(1), LevenbergMarquardt(), Dense(), loop=OnDevice(), **looked_on)
    stop = Tolerances(seconds=1.0)
    with pytest.raises(DnlsError, match="does not look at single iterations"):
        minimize(*world(1), LevenbergMarquardt(), Dense(), stop, loop=OnDevice())


def test_an_impossible_interval_is_refused() -> None:
    with pytest.raises(DnlsError, match="every=0"):
        OnDevice(0)


def test_states_are_chosen_and_refilled_tensor_by_tensor() -> None:
    problem, initial = world(2)
    with torch.inference_mode():
        body, assembly, carry = body_and_carry(Dogleg(), problem, initial)
        after = body(assembly, carry)
    numbers = tensors_of(carry)
    assert len(numbers) > 15
    back = refilled(after, iter(numbers))
    assert all(a is b for a, b in zip(tensors_of(back), numbers, strict=True))
    assert set(back.progress.values) == {"pose", "point"}
    for truth, expected in ((True, after), (False, carry)):
        taken = chosen(torch.tensor(truth), after, carry)
        for a, b in zip(tensors_of(taken), tensors_of(expected), strict=True):
            assert torch.equal(a, b)


def test_float32_stays_float32() -> None:
    problem, initial = pytree.tree_map(Tensor.float, world(2))
    found = minimize(problem, initial, LevenbergMarquardt(), FRONTS, loop=OnDevice())
    x = found.values["pose"]
    assert isinstance(x, SE2)
    assert x.tensor.dtype == torch.float32
    assert found.cost.dtype == torch.float32
    assert pose.name in found.values


# A device that is there


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    yield torch.device("cuda", 0)
    torch.cuda.set_sync_debug_mode("default")


def moved(tree: Any, device: torch.device) -> Any:
    return pytree.tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, tree)


def assert_close_on(found: Solution, expected: Solution) -> None:
    """Sums over factors are made in another order there."""
    assert found.status == expected.status
    torch.testing.assert_close(found.cost.cpu(), expected.cost, rtol=1e-9, atol=1e-12)
    x, y = (pytree.tree_leaves(s.values)[0].cpu() for s in (found, expected))
    torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("loop", [None, OnDevice(5), OnDevice(graph=True)], ids=str)
@pytest.mark.parametrize("method", [GaussNewton(), LevenbergMarquardt(), Dogleg()], ids=str)
def test_a_gpu_ends_like_the_cpu(
    gpu: torch.device, method: Method[Any], loop: OnDevice | None
) -> None:
    cache = StructureCache()
    for seed in range(2):
        problem, initial = world(4, seed=seed)
        there, start = moved((problem, initial), gpu)
        found = minimize(there.cached(cache), start, method, FRONTS, loop=loop)
        assert_close_on(found, hosted(problem, initial, method, FRONTS))


@pytest.mark.gpu
@pytest.mark.parametrize("solver", SOLVERS, ids=named)
def test_a_gpu_is_not_asked_within_an_iteration(gpu: torch.device, solver: LinearSolver) -> None:
    problem, initial = moved(world(3), gpu)
    initial = with_full_batch(problem, initial)
    assembly = Assembly(problem, problem.structure(initial))
    with torch.inference_mode():
        body = Body(LevenbergMarquardt(), assembly.symbolic(solver), Tolerances())
        carry = body(assembly, body.start(assembly, initial))
        torch.cuda.set_sync_debug_mode("error")
        carry = body(assembly, body(assembly, carry))
        torch.cuda.set_sync_debug_mode("default")
    assert (carry.progress.cost < carry.line.cost.new_tensor(1e9)).all()


@pytest.mark.gpu
def test_a_gpu_is_not_asked_for_derivatives(gpu: torch.device) -> None:
    problem, initial = world(3)
    problem = with_gradients(problem)
    found = minimize(problem, initial, LevenbergMarquardt(), FRONTS, TIGHT)
    expected = differentiated(Implicit("gauss_newton"), found, problem)
    there, start = moved((problem, initial), gpu)
    there = pytree.tree_map(lambda t: t.detach().requires_grad_(t.requires_grad), there)
    away_found = minimize(there, start, LevenbergMarquardt(), FRONTS, TIGHT)
    differentiated(Implicit("gauss_newton"), away_found, there)
    torch.cuda.set_sync_debug_mode("error")
    gradients = differentiated(Implicit("gauss_newton"), away_found, there)
    torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-7, atol=1e-7)
