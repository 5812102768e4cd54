"""Kernels are held to torch: every group, every loss and noise, and the whole minimization."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dnls_ros.costs import (
    PinholeCamera,
    between,
    constant_velocity,
    constant_velocity_noise,
    partial_pose,
    prior,
    random_walk,
    range_bearing,
    tag_corners,
    velocity_prior,
)
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, SE3, SO2, SO3, Euclidean, LieGroup
from dnls_ros.linear import BlockCholesky, Dense
from dnls_ros.linear.block_structure import block_size, block_structure
from dnls_ros.optim import (
    Fixed,
    GainRatio,
    GaussNewton,
    Geometric,
    History,
    LevenbergMarquardt,
    Status,
    Tolerances,
    minimize,
)
from dnls_ros.optim.assembly import Assembly
from dnls_ros.problem import (
    DCS,
    Barron,
    Cauchy,
    DensePrior,
    Diagonal,
    FactorGroup,
    GemanMcClure,
    Hinge,
    Huber,
    Isotropic,
    Problem,
    Shared,
    SquareRootInformation,
    Tukey,
    Values,
    Variables,
    Welsch,
)
from dnls_ros.problem.structure import Pattern
from dnls_ros.problem.variables import Block

pytest.importorskip("numba")

F64 = torch.float64
COUNT, BATCH = 6, 3
REGIMES = {"uniform": 1.0, "small": 0.1, "near the identity": 1e-7, "at the identity": 1e-12}
LOSSES = {
    "none": None,
    "huber": Huber(1.0),
    "cauchy": Cauchy(0.7),
    "geman-mcclure": GemanMcClure(0.9),
    "tukey": Tukey(2.0),
    "welsch": Welsch(1.5),
    "dcs": DCS(0.8),
    "hinge": Hinge(0.4),
}


class Source:
    """Random numbers of one regime."""

    def __init__(self, scale: float, seed: int = 0) -> None:
        self.scale = scale
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=F64)

    def positive(self, *shape: int) -> Tensor:
        return 0.5 + torch.rand(*shape, generator=self.generator, dtype=F64)

    def element(self, group: type[LieGroup], *shape: int) -> Any:
        return group.exp(self.scale * self.normal(*shape, group.tangent_dim))


def variables(group: type[LieGroup]) -> tuple[Variables, Variables, Variables, Variables]:
    return (
        Variables("pose", group),
        Variables("velocity", Euclidean(group.tangent_dim)),
        Variables("tag", SE3),
        Variables("vector", Euclidean(5)),
    )


def state(source: Source, group: type[LieGroup]) -> Values:
    pose, velocity, tag, vector = variables(group)
    ids = range(COUNT)
    return (
        pose.values(ids, source.element(group, BATCH, COUNT))
        .merge(velocity.values(ids, source.scale * source.normal(BATCH, COUNT, group.tangent_dim)))
        .merge(tag.values(ids, ahead(source, BATCH)))
        .merge(vector.values(ids, source.normal(BATCH, COUNT, 5)))
    )


def ahead(source: Source, batch: int) -> SE3:
    """Places before a camera that looks along z."""
    seen = SE3.exp(0.1 * source.normal(batch, COUNT, 6))
    far = torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 1.0], dtype=F64)
    return SE3(far.expand(batch, COUNT, 7)) @ seen


Maker = Callable[[Source, type[LieGroup]], FactorGroup]


def _corners(known: bool, model: str) -> Maker:
    def make(source: Source, group: type[LieGroup]) -> FactorGroup:
        pose, _, tag, _ = variables(group)
        every = torch.arange(COUNT)
        square = 0.2 * torch.tensor([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=F64)
        coefficients = {"": 0, "plumb_bob": 5, "equidistant": 4}[model]
        focal = torch.tensor([400.0, 410.0], dtype=F64)
        camera = PinholeCamera(
            focal,
            torch.tensor([320.0, 240.0], dtype=F64),
            0.05 * source.normal(coefficients),
            model,
        )
        return tag_corners(
            pose[every],
            Shared(SE3.exp(0.1 * source.normal(6))),
            ahead(source, 1) if known else tag[every],
            Shared(square),
            300 + 50 * source.normal(1, COUNT, 4, 2),
            Shared(camera),
            noise=Isotropic(2.0),
        )

    return make


def _first(source: Source, group: type[LieGroup]) -> tuple[Any, Any, Tensor, int]:
    pose, velocity, _, _ = variables(group)
    return pose, velocity, torch.arange(COUNT - 1), group.tangent_dim


def _prior(s: Source, g: type[LieGroup]) -> FactorGroup:
    pose, _, _, t = _first(s, g)
    return prior(pose[range(COUNT)], s.element(g, BATCH, COUNT), noise=Diagonal(s.positive(t)))


def _between(s: Source, g: type[LieGroup]) -> FactorGroup:
    pose, _, i, t = _first(s, g)
    noise = SquareRootInformation(s.normal(1, COUNT - 1, t, t))
    return between(pose[i], pose[i + 1], s.element(g, 1, COUNT - 1), noise=noise)


def _held(end: int) -> Maker:
    def make(s: Source, g: type[LieGroup]) -> FactorGroup:
        pose, _, i, _ = _first(s, g)
        there = s.element(g, 1, COUNT - 1)
        ends = (there, pose[i]) if end == 0 else (pose[i], there)
        return between(*ends, s.element(g, BATCH, COUNT - 1), noise=Isotropic(0.5))

    return make


def _random_walk(s: Source, g: type[LieGroup]) -> FactorGroup:
    pose, _, i, _ = _first(s, g)
    return random_walk(pose[i], pose[i + 1], noise=Isotropic(s.positive(BATCH, COUNT - 1)))


def _partial(s: Source, g: type[LieGroup]) -> FactorGroup:
    pose, _, _, t = _first(s, g)
    mount, z = s.element(g, 1, 1), s.element(g, 1, COUNT)
    return partial_pose(pose[range(COUNT)], mount, z, noise=SquareRootInformation(s.normal(2, t)))


def _constant_velocity(s: Source, g: type[LieGroup]) -> FactorGroup:
    pose, velocity, i, t = _first(s, g)
    dt = 0.1 * s.positive(1, COUNT - 1)
    noise = constant_velocity_noise(s.positive(1, COUNT - 1, t), dt)
    return constant_velocity(pose[i], velocity[i], pose[i + 1], velocity[i + 1], dt, noise=noise)


def _velocity(s: Source, g: type[LieGroup]) -> FactorGroup:
    _, velocity, _, t = _first(s, g)
    return velocity_prior(velocity[range(COUNT)], s.normal(1, COUNT, t))


def _bearing(s: Source, g: type[LieGroup]) -> FactorGroup:
    pose, _, _, _ = _first(s, g)
    mount = Shared(SE3.exp(s.normal(6)))
    return range_bearing(
        pose[range(COUNT)], mount, 3 * s.normal(1, COUNT, 3), s.normal(1, COUNT, 2)
    )


def _vectors(s: Source, g: type[LieGroup]) -> FactorGroup:
    vector = variables(g)[3]
    i = torch.arange(COUNT - 1)
    return between(vector[i], vector[i + 1], s.normal(1, COUNT - 1, 5))


MAKERS: dict[str, Maker] = {
    "prior": _prior,
    "between": _between,
    "from a held pose": _held(0),
    "to a held pose": _held(1),
    "random walk": _random_walk,
    "partial pose": _partial,
    "constant velocity": _constant_velocity,
    "velocity": _velocity,
    "range and bearing": _bearing,
    "vectors": _vectors,
    "corners": _corners(known=False, model=""),
    "corners, plumb bob": _corners(known=False, model="plumb_bob"),
    "corners, equidistant": _corners(known=False, model="equidistant"),
    "corners of a known tag": _corners(known=True, model="plumb_bob"),
}


def anchored(group: FactorGroup, values: Values) -> Problem:
    """The group, and unit priors in torch on everything that it does not touch."""
    every = {
        f"all.{name}": prior(Variables(name, _kind(values, name))[ids], values[name])
        for name, ids in values.ids.items()
    }
    return Problem({"tested": group, **every})


def _kind(values: Values, name: str) -> Any:
    x = values[name]
    return Euclidean(x.shape[-1]) if isinstance(x, Tensor) else type(x)


def assert_same(group: Any, values: Values, rtol: float = 1e-12) -> None:
    """Cost, gradient and H by the kernel and by torch."""
    problem = anchored(group, values)
    structure = problem.structure(values)
    ours, torchs = Assembly(problem, structure), Assembly(problem, structure, kernels=False)
    assert ours.explain(values)["tested"] == "kernel"
    assert torchs.explain(values)["tested"] == "torch: kernels are switched off"
    mine, theirs = ours.normal_equations(values), torchs.normal_equations(values)
    for a, b in (
        (mine.group_costs["tested"], theirs.group_costs["tested"]),
        (mine.hessian, theirs.hessian),
        (mine.gradient, theirs.gradient),
        (ours.cost(values), torchs.cost(values)),
    ):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("group", [SE2, SE3])
@pytest.mark.parametrize("name", MAKERS)
def test_a_kernel_is_what_torch_defines(name: str, group: type[LieGroup], regime: str) -> None:
    source = Source(REGIMES[regime])
    values = state(source, group)
    assert_same(MAKERS[name](source, group), values)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["prior", "between", "corners", "partial pose"])
def test_losses_and_masks(name: str, loss: str) -> None:
    source = Source(1.0, seed=1)
    values = state(source, SE3)
    group = MAKERS[name](source, SE3)
    mask = (torch.arange(group.count) % 3 != 1).to(F64)[None]
    assert_same(replace(group, loss=LOSSES[loss], mask=mask), values)


@pytest.mark.parametrize("group", [SE2, SE3])
def test_turns_by_nearly_pi(group: type[LieGroup]) -> None:
    source = Source(1.0, seed=2)
    values = state(source, group)
    turned = torch.zeros(BATCH, COUNT, group.tangent_dim, dtype=F64)
    turned[..., -1] = torch.tensor([3.0, 3.1, 3.14, 3.1415, np.pi - 1e-6, -3.14])
    pose = variables(group)[0]
    z = values["pose"] @ group.exp(turned)  # pyright: ignore[reportOperatorIssue]
    assert_same(prior(pose[range(COUNT)], z), values)


@pytest.mark.parametrize("first_estimates", [False, True])
@pytest.mark.parametrize("group", [SE2, SE3, SO3, SO2])
def test_a_dense_prior(group: type[LieGroup], first_estimates: bool) -> None:
    source = Source(0.5, seed=3)
    x = Variables("pose", group).values(range(COUNT), source.element(group, BATCH, COUNT))
    values = x.merge(
        Variables("vector", Euclidean(2)).values(range(2), source.normal(BATCH, 2, 2))
    )
    n = group.tangent_dim * COUNT + 4
    root = source.normal(BATCH, n, n)
    dense = DensePrior.from_information(
        values.retract(0.3 * source.normal(BATCH, n)),
        root @ root.mT + torch.eye(n, dtype=F64),
        source.normal(BATCH, n),
        first_estimates,
    )
    assert_same(dense, values, 1e-11)


def test_a_group_that_kernels_do_not_know_goes_with_torch_into_the_same_numbers() -> None:
    source = Source(0.5, seed=4)
    values = state(source, SE3)
    problem = anchored(_between(source, SE3), values)
    strange = replace(problem["all.pose"], loss=Barron(1.0, 0.5))  # type: ignore[type-var]
    problem = problem.replace(**{"all.pose": strange})
    structure = problem.structure(values)
    ours = Assembly(problem, structure)
    told = ours.explain(values)
    assert told["tested"] == "kernel"
    assert told["all.pose"] == "torch: there is no kernel for the loss Barron"
    mine = ours.normal_equations(values)
    theirs = Assembly(problem, structure, kernels=False).normal_equations(values)
    torch.testing.assert_close(mine.hessian, theirs.hessian, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(mine.gradient, theirs.gradient, rtol=1e-12, atol=1e-11)
    assert list(mine.group_costs) == list(problem)


def test_what_autograd_records_is_left_to_torch() -> None:
    source = Source(0.5, seed=5)
    values = state(source, SE3)
    z = source.normal(1, COUNT - 1, 6).requires_grad_()
    pose = variables(SE3)[0]
    i = torch.arange(COUNT - 1)
    problem = anchored(between(pose[i], pose[i + 1], SE3.exp(z)), values)
    assembly = Assembly(problem, problem.structure(values))
    with torch.no_grad():
        plain = assembly.cost(values)
        assert assembly.explain(values)["tested"] == "kernel"
    assert assembly.explain(values)["tested"] == "torch: autograd records it"
    recorded = assembly.cost(values)
    torch.testing.assert_close(plain, recorded.detach(), rtol=1e-13, atol=0)
    recorded.sum().backward()
    assert z.grad is not None
    assert bool(z.grad.abs().sum() > 0)


# -- the whole minimization --------------------------------------------------------------------

METHODS = {
    "geometric": LevenbergMarquardt(),
    "large steps": LevenbergMarquardt(1e-3, Geometric(3.0), minimal_gain=0.2),
    "identity": LevenbergMarquardt(scaled=False),
    "fixed": LevenbergMarquardt(1e-6, Fixed()),
    "gain ratio": LevenbergMarquardt(1e-4, GainRatio()),
    "ceres": LevenbergMarquardt.ceres(),
    "nielsen": LevenbergMarquardt.nielsen(),
    "gauss-newton": GaussNewton(),
    "half a step": GaussNewton(0.5),
}


def chain(noise: float, seed: int, loss: Any = None, batch: int = 5) -> tuple[Problem, Values]:
    """A chain with loops, whose batch elements start ever further from the truth."""
    source = Source(1.0, seed)
    pose = Variables("pose", SE3)
    count = 12
    steps = [SE3.exp(torch.zeros(batch, 1, 6, dtype=F64))]
    for _ in range(count - 1):
        steps.append(steps[-1] @ SE3.exp(0.5 * source.normal(batch, 1, 6)))
    truth = SE3(torch.cat([x.tensor for x in steps], 1))
    i = torch.tensor([*range(count - 1), *range(count - 4)])
    j = torch.tensor([*range(1, count), *range(4, count)])
    exact = SE3(truth.tensor[:, i]).between(SE3(truth.tensor[:, j]))
    z = exact @ SE3.exp(0.05 * source.normal(batch, len(i), 6))
    off = torch.linspace(0.2, 1.0, batch, dtype=F64)[:, None, None]
    start = truth @ SE3.exp(noise * off * source.normal(batch, count, 6))
    problem = Problem(
        anchor=prior(pose[[0]], SE3(truth.tensor[:, :1]), noise=Isotropic(0.01)),
        links=between(pose[i], pose[j], z, noise=Isotropic(0.1), loss=loss),
    )
    return problem, pose.values(range(count), start)


def assert_same_way(problem: Problem, start: Values, method: Any, stop: Tolerances) -> None:
    ours = minimize(problem, start, method, BlockCholesky(), stop)
    seen = History()  # a callback: the loop in torch
    theirs = minimize(problem, start, method, Dense(), stop, callback=seen)
    assert ours.status == theirs.status
    assert ours.iterations.tolist() == theirs.iterations.tolist()
    assert ours.accepted.tolist() == theirs.accepted.tolist()
    finite = [s is not Status.NOT_FINITE for s in ours.status]
    for a, b in (
        (ours.cost, theirs.cost),
        (ours.best_cost, theirs.best_cost),
        (ours.initial_cost, theirs.initial_cost),
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, equal_nan=True)
    for name in start:
        a, b = ours.values[name].tensor[finite], theirs.values[name].tensor[finite]  # type: ignore[union-attr]
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("loss", [None, Cauchy(1.0)], ids=["squares", "cauchy"])
@pytest.mark.parametrize("noise", [0.2, 0.6], ids=["near", "far"])
@pytest.mark.parametrize("name", METHODS)
def test_compiled_minimization_goes_the_same_way(name: str, noise: float, loss: Any) -> None:
    problem, start = chain(noise, 6, loss)
    assert_same_way(problem, start, METHODS[name], Tolerances(iterations=12))


def test_elements_that_fail_harm_no_others() -> None:
    problem, start = chain(0.2, 7)
    spoiled = start.map(lambda t: t.clone())
    spoiled["pose"].tensor[1, 3, 0] = torch.nan  # type: ignore[union-attr]
    assert_same_way(problem, spoiled, LevenbergMarquardt(), Tolerances())
    found = minimize(problem, spoiled, LevenbergMarquardt(), BlockCholesky())
    assert found.status[1] is Status.NOT_FINITE
    alone = minimize(problem, start, LevenbergMarquardt(), BlockCholesky())
    others = [0, 2, 3, 4]
    a, b = found.values["pose"].tensor[others], alone.values["pose"].tensor[others]  # type: ignore[union-attr]
    assert torch.equal(a, b)


def test_a_problem_without_an_anchor_is_singular_for_gauss_newton() -> None:
    problem, start = chain(0.2, 8)
    pose = Variables("pose", SE3)
    free = Problem(links=problem["links"].select(torch.arange(19) < 4))  # type: ignore[union-attr]
    some = pose.values(range(5), SE3(start["pose"].tensor[:, :5]))  # type: ignore[union-attr]
    found = minimize(free, some, GaussNewton(), BlockCholesky())
    assert set(found.status) <= {Status.SINGULAR, Status.CONVERGED_MODEL, Status.CONVERGED_COST}
    damped = minimize(free, some, LevenbergMarquardt(), BlockCholesky())
    assert all(status.converged for status in damped.status)


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    problem, start = chain(0.5, 9, batch=7)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(minimize(problem, start, LevenbergMarquardt(), BlockCholesky()))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert torch.equal(found[0].values["pose"].tensor, other.values["pose"].tensor)  # type: ignore[union-attr]
        assert torch.equal(found[0].hessian, other.hessian)


def test_a_time_budget_of_nothing_ends_at_once() -> None:
    problem, start = chain(0.5, 10)
    found = minimize(
        problem, start, LevenbergMarquardt(), BlockCholesky(), Tolerances(seconds=0.0)
    )
    assert set(found.status) == {Status.DEADLINE}
    assert found.iterations.tolist() == [0] * 5


# -- blocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ([(20, 6)], 6),
        ([(20, 3)], 3),
        ([(20, 3), (20, 3)], 3),
        ([(20, 6), (200, 3)], 3),
        ([(5, 1)], 1),
        ([(10, 9)], 9),
    ],
)
def test_the_block_size_fits_the_variables(dims: list[tuple[int, int]], expected: int) -> None:
    blocks, offset = [], 0
    for k, (count, dim) in enumerate(dims):
        blocks.append(Block(str(k), offset, count, dim))
        offset = blocks[-1].stop
    assert block_size(blocks) == expected


QUICK = (1, 3, 6, 9)
SIZES = [d if d in QUICK else pytest.param(d, marks=pytest.mark.slow) for d in range(1, 18)]


@pytest.mark.parametrize("dim", SIZES)  # each is compiled
def test_factors_of_every_block_size(dim: int) -> None:
    source = Source(1.0, dim)
    n = 4 * dim
    rows, columns = np.tril_indices(n)
    keys = np.sort(columns * n + rows)
    pattern = Pattern.of(keys, n, (Block("x", 0, 4, dim),))
    root = source.normal(2, n, n)
    dense = root @ root.mT + n * torch.eye(n, dtype=F64)
    values = dense[:, pattern.rows, pattern.columns].contiguous()
    made = BlockCholesky().analyze(pattern).factorize(values)
    rhs = source.normal(2, n, 3)
    torch.testing.assert_close(made.solve(rhs), torch.linalg.solve(dense, rhs))
    inverse = made.inverse_entries(pattern.rows, pattern.columns)
    assert inverse is not None
    expected = torch.linalg.inv(dense)[:, pattern.rows, pattern.columns]
    torch.testing.assert_close(inverse, expected)


def test_indices_outside_of_the_matrix_are_one_clear_error() -> None:
    n = 6
    rows, columns = np.tril_indices(n)
    good = Pattern.of(np.sort(columns * n + rows), n, (Block("x", 0, 2, 3),))
    with pytest.raises(DnlsError, match="0 ≤ column ≤ row < 6; got rows 0 … 9"):
        block_structure(replace(good, rows=np.where(good.rows == 5, 9, good.rows)))
    with pytest.raises(DnlsError, match="0 ≤ column ≤ row"):
        block_structure(replace(good, rows=good.columns, columns=good.rows))
    with pytest.raises(DnlsError, match="blocks of 9 unknowns; its order is 6"):
        block_structure(replace(good, blocks=(Block("x", 0, 3, 3),)))


SECOND = """
import torch
from dnls_ros.costs import prior
from dnls_ros.lie import SE2
from dnls_ros.linear import BlockCholesky
from dnls_ros.optim import LevenbergMarquardt, minimize
from dnls_ros.problem import Problem, Variables
from dnls_ros.kernels.jit import cache_folder
from dnls_ros.kernels.minimize import minimize_each
x = Variables("x", SE2)
z = SE2.exp(torch.ones(1, 2, 3, dtype=torch.float64))
values = x.values(range(2), SE2.exp(torch.zeros(1, 2, 3, dtype=torch.float64)))
found = minimize(Problem(p=prior(x[[0, 1]], z)), values, LevenbergMarquardt(), BlockCholesky())
hits = sum(minimize_each.stats.cache_hits.values())
print(found.status[0].converged, cache_folder() is None, hits)
"""


@pytest.mark.slow
def test_without_a_folder_to_write_to_kernels_are_compiled_and_work() -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": "/proc/nothing", "HOME": "/proc/nothing"}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", SECOND], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True", "0"]


def test_a_second_process_finds_what_was_compiled() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    converged, nowhere, hits = runs[1].stdout.split()
    assert (converged, nowhere) == ("True", "False")
    assert int(hits) == 1
