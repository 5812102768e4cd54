"""Policies of differentiation: all give the Jacobians of vmap, autograd and differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vmap
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from dnls_ros.costs import prior
from dnls_ros.diff import Adjoint, Implicit, Unroll, solve
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, SE3, SO2, SO3, Euclidean, retract, tangent_dim
from dnls_ros.linear import Dense
from dnls_ros.optim import GaussNewton, LevenbergMarquardt, Solution, Tolerances, minimize
from dnls_ros.problem import (
    BackwardNetwork,
    Cauchy,
    Cost,
    DenseAutodiff,
    Diagonal,
    Differentiation,
    FactorGroup,
    Isotropic,
    Loop,
    Memory,
    Problem,
    Shared,
    Values,
    Variables,
    Vectorized,
    cost,
    normal_equations,
)

F64 = torch.float64
pose = Variables("pose", SE3)
body = Variables("body", SE2)
turn = Variables("turn", SO3)
heading = Variables("heading", SO2)
point = Variables("point", Euclidean(3))

POLICIES: dict[str, Differentiation] = {
    "vectorized": Vectorized(),
    "reverse": Vectorized("reverse"),
    "forward": Vectorized("forward"),
    "vectorized in chunks": Vectorized(chunk=3),
    "network": BackwardNetwork(),
    "network in chunks": BackwardNetwork(chunk=3),
    "replicated": BackwardNetwork(replicated=True),
    "replicated in chunks": BackwardNetwork(replicated=True, chunk=5),
    "loop": Loop(),
    "dense": DenseAutodiff(),
    "dense in chunks": DenseAutodiff(chunk=2),
}
REFERENCE = Vectorized("reverse")
BY_POLICY = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def normal(*shape: int, seed: int, dtype: torch.dtype = F64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=F64, generator=generator).to(dtype)


# Residuals that may be called for one instance or over leading axes


def sighting(world_T_body: SE3, p_world: Tensor, z: Tensor, lens: dict[str, Tensor]) -> Tensor:
    """A camera of which all instances share the lens."""
    p = world_T_body.inverse() @ p_world
    return lens["focal"] * p[..., :2] / (2.0 + p[..., 2:].square()) + lens["center"] - z


def relative(x_i: SE3, x_j: SE3, z: SE3) -> Tensor:
    return z.between(x_i.between(x_j)).log()


def tangled(x: SE2, r: SO3, c: SO2, p: Tensor, gain: Tensor) -> Tensor:
    """Four manifolds; the length of the residual is neither that of an argument nor of a data."""
    q = r @ p
    flat = x @ q[..., :2]
    angle = c.log()
    one = torch.cat([flat, q[..., 2:], angle, flat[..., :1] * angle], -1)
    return one * gain[..., None]


def patch(x: SE2, places: Tensor, image: Tensor) -> Tensor:
    """A residual of many entries: forward mode's case."""
    p = SE2(x.xy_cossin[..., None, :]) @ places
    waves = torch.sin(3 * p[..., 0]) * torch.cos(2 * p[..., 1])
    return waves * (1 + p.square().sum(-1)) - image


@dataclass(frozen=True)
class Case:
    """A group of factors of a cost, and values."""

    residual: Callable[..., Tensor]
    build: Callable[[Cost, torch.dtype], tuple[FactorGroup, Values]]

    def group(
        self, policy: Differentiation, batched: bool = True, dtype: torch.dtype = F64
    ) -> tuple[FactorGroup, Values]:
        return self.build(Cost(self.residual, batched, policy), dtype)


def _sighting(c: Cost, dtype: torch.dtype) -> tuple[FactorGroup, Values]:
    """Repeated ids, a constant pytree, two batch elements."""
    values = pose.values([10, 20], SE3.exp(0.5 * normal(2, 2, 6, seed=0, dtype=dtype))).merge(
        point.values([7, 8, 9], normal(1, 3, 3, seed=1, dtype=dtype))
    )
    lens = {
        "focal": torch.tensor([1.5], dtype=dtype),
        "center": torch.tensor([0.2, -0.1], dtype=dtype),
    }
    group = c(
        pose[[10, 10, 20, 10, 10]],
        point[[9, 7, 9, 9, 9]],
        normal(1, 5, 2, seed=5, dtype=dtype),
        Shared(lens),
        noise=Isotropic(0.4),
        loss=Cauchy(1.3),
    )
    return group, values


def _relative(c: Cost, dtype: torch.dtype) -> tuple[FactorGroup, Values]:
    """One variable twice in a factor; a measurement for each batch element."""
    values = pose.values(range(3), SE3.exp(0.7 * normal(2, 3, 6, seed=2, dtype=dtype)))
    z = SE3.exp(0.4 * normal(2, 3, 6, seed=3, dtype=dtype))
    return c(pose[[0, 1, 2]], pose[[1, 1, 0]], z), values


def _tangled(c: Cost, dtype: torch.dtype) -> tuple[FactorGroup, Values]:
    """Four manifolds, a mask of each batch element, and NaN behind it."""
    values = Values(
        {
            "body": SE2.exp(normal(3, 2, 3, seed=4, dtype=dtype)),
            "turn": SO3.exp(normal(3, 1, 3, seed=5, dtype=dtype)),
            "heading": SO2.exp(normal(3, 2, 1, seed=6, dtype=dtype)),
        },
        {"body": torch.arange(2), "turn": torch.arange(1), "heading": torch.arange(2)},
    )
    p = normal(1, 3, 3, seed=7, dtype=dtype)
    gain = torch.ones(3, 3, dtype=dtype)
    gain[1, 2] = torch.nan
    mask = torch.ones(3, 3, dtype=dtype)
    mask[1, 2] = 0
    return c(body[[0, 1, 1]], turn[[0, 0, 0]], heading[[1, 0, 1]], p, gain, mask=mask), values


def _patch(c: Cost, dtype: torch.dtype) -> tuple[FactorGroup, Values]:
    """Residuals of 12 entries of a tangent of 3; one image for all."""
    values = body.values(range(3), SE2.exp(0.3 * normal(2, 3, 3, seed=8, dtype=dtype)))
    places, image = normal(1, 3, 12, 2, seed=9, dtype=dtype), normal(12, seed=10, dtype=dtype)
    return c(body[[0, 2, 0]], places, Shared(image)), values


CASES = {
    "sighting": Case(sighting, _sighting),
    "relative": Case(relative, _relative),
    "tangled": Case(tangled, _tangled),
    "patch": Case(patch, _patch),
}
BY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
BY_FORM = pytest.mark.parametrize("batched", [True, False], ids=["over axes", "of one"])


# References, written without the policies


def instances(group: FactorGroup, values: Values) -> tuple[list[Any], int, int]:
    """The arguments with full axes (B, M, …)."""
    filled = list(group.arguments)
    for position, ref in zip(group.positions, group.refs, strict=True):
        filled[position] = values.gather(ref)
    b, m = max(values.batch, group.batch), group.count
    full = [pytree.tree_map(lambda t: t.expand(b, m, *t.shape[2:]), a) for a in filled]
    return full, b, m


def moved(arguments: list[Any], positions: tuple[int, ...], step: Tensor) -> list[Any]:
    parts = step.split([tangent_dim(arguments[k]) for k in positions], -1)
    out = list(arguments)
    for k, part in zip(positions, parts, strict=True):
        out[k] = retract(out[k], part)
    return out


def by_vmap(group: FactorGroup, values: Values) -> Tensor:
    """(B, M, r, T) by vmap(vmap(jacrev))."""
    full, _, _ = instances(group, values)
    total = sum(tangent_dim(full[k]) for k in group.positions)

    def one(*instance: Any) -> Tensor:
        zero = torch.zeros(total, dtype=leaf_of(values).dtype)
        return jacrev(lambda d: group.cost.residual(*moved(list(instance), group.positions, d)))(
            zero
        )

    return vmap(vmap(one))(*full)


def leaf_of(values: Values) -> Tensor:
    return pytree.tree_leaves(values)[0]


def by_autograd(group: FactorGroup, values: Values) -> Tensor:
    """(B, M, r, T): the blocks of the dense Jacobian of all residuals by all steps."""
    full, b, m = instances(group, values)
    total = sum(tangent_dim(full[k]) for k in group.positions)
    zero = torch.zeros(b, m, total, dtype=leaf_of(values).dtype)
    dense = torch.autograd.functional.jacobian(
        lambda d: group.cost.residual(*moved(full, group.positions, d)), zero
    )
    return torch.stack([torch.stack([dense[i, j, :, i, j] for j in range(m)]) for i in range(b)])


def by_differences(group: FactorGroup, values: Values, h: float = 1e-3) -> Tensor:
    """(B, M, r, T) of fourth order."""
    full, b, m = instances(group, values)
    total = sum(tangent_dim(full[k]) for k in group.positions)
    columns = []
    for axis in torch.eye(total, dtype=F64):

        def at(steps: float, axis: Tensor = axis) -> Tensor:
            step = (steps * h * axis).expand(b, m, total)
            return group.cost.residual(*moved(full, group.positions, step))

        columns.append((8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h))
    return torch.stack(columns, -1)


@cache
def references(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    """The residuals, and the Jacobians by three ways."""
    group, values = case.group(REFERENCE)
    ways = {"vmap": by_vmap, "autograd": by_autograd, "differences": by_differences}
    jacobians = {name: way(group, values) for name, way in ways.items()}
    return group.cost.residual(*instances(group, values)[0]), jacobians


# The contract


@BY_FORM
@BY_CASE
@BY_POLICY
def test_a_policy_gives_the_jacobians_of_vmap_of_autograd_and_of_differences(
    policy: Differentiation, case: Case, batched: bool
) -> None:
    group, values = case.group(policy, batched)
    expected, jacobians = references(case)
    arguments, shape = group._instances(values, None)
    residual, blocks = group.cost.linearize(arguments, shape, group.positions)
    assert residual.shape[:2] == shape
    torch.testing.assert_close(residual, expected, rtol=1e-14, atol=1e-14, equal_nan=True)
    for name, reference in jacobians.items():
        tolerance = 1e-9 if name == "differences" else 1e-12
        for block, part in zip(
            blocks, reference.split([b.shape[-1] for b in blocks], -1), strict=True
        ):
            torch.testing.assert_close(block, part, rtol=tolerance, atol=tolerance, equal_nan=True)
    evaluated = group.cost.evaluate(arguments, shape)
    torch.testing.assert_close(evaluated, residual, rtol=1e-14, atol=1e-14, equal_nan=True)


@BY_CASE
@BY_POLICY
def test_float32_stays_float32(policy: Differentiation, case: Case) -> None:
    group, values = case.group(policy, dtype=torch.float32)
    arguments, shape = group._instances(values, None)
    residual, blocks = group.cost.linearize(arguments, shape, group.positions)
    assert residual.dtype == torch.float32
    assert all(block.dtype == torch.float32 for block in blocks)
    exact = references(case)[1]["vmap"]
    torch.testing.assert_close(
        torch.cat(blocks, -1).double(), exact, rtol=1e-4, atol=1e-4, equal_nan=True
    )


@pytest.mark.parametrize("case", [CASES["sighting"], CASES["patch"]])
@BY_POLICY
def test_in_inference_mode_and_without_gradients_the_numbers_are_the_same(
    policy: Differentiation, case: Case
) -> None:
    group, values = case.group(policy)
    expected = group.linearize(values)
    assert not expected.jacobian.requires_grad
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            fresh = values.map(torch.clone)  # an inference tensor in inference mode
            line = group.linearize(fresh)
        torch.testing.assert_close(line.jacobian, expected.jacobian, rtol=0, atol=1e-15)
        torch.testing.assert_close(line.residual, expected.residual, rtol=0, atol=1e-15)


@BY_POLICY
def test_what_is_not_recorded_is_not_kept(policy: Differentiation) -> None:
    group, values = CASES["sighting"].group(policy)
    learned = replace(group, noise=Isotropic(torch.tensor(0.4, dtype=F64, requires_grad=True)))
    arguments, shape = learned._instances(values.map(lambda t: t.clone().requires_grad_()), None)
    with torch.no_grad():
        residual, blocks = learned.cost.linearize(arguments, shape, learned.positions)
    assert not residual.requires_grad
    assert not any(block.requires_grad for block in blocks)


def scored(group: FactorGroup, values: Values, seed: int = 30) -> Tensor:
    """A number of all whitened Jacobians and residuals."""
    line = group.linearize(values)
    weights = normal(*line.jacobian.shape, seed=seed)
    return (weights * line.jacobian).sum() + (weights[..., 0] * line.residual).square().sum()


@BY_CASE
@BY_POLICY
def test_second_derivatives_flow_through_the_jacobian_to_data_and_values(
    policy: Differentiation, case: Case
) -> None:
    gradients = []
    for chosen in (REFERENCE, policy):
        tree = case.group(chosen)
        leaves, spec = pytree.tree_flatten(tree)
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        group, values = pytree.tree_unflatten(leaves, spec)
        gradients.append(torch.autograd.grad(scored(group, values), leaves, allow_unused=True))
    assert sum(g is not None and bool(g.abs().max() > 1e-3) for g in gradients[0]) >= 2
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert b.isfinite().all()
            torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-11)


@BY_POLICY
def test_a_network_that_the_cost_closes_over_is_learned_through_the_jacobian(
    policy: Differentiation,
) -> None:
    weight = normal(4, 3, seed=40).requires_grad_()

    def learned(p: Tensor, z: Tensor) -> Tensor:
        return torch.tanh(p @ weight.mT) - z

    values = point.values(range(2), normal(2, 2, 3, seed=41))
    found = []
    for chosen in (REFERENCE, policy):
        group = Cost(learned, True, chosen)(point[[0, 1, 1]], normal(1, 3, 4, seed=42))
        found.append(torch.autograd.grad(scored(group, values), weight)[0])
    assert found[0].abs().max() > 1e-2
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


@BY_POLICY
def test_a_residual_without_variables_has_a_jacobian_of_zeros(policy: Differentiation) -> None:
    values = point.values(range(2), normal(1, 2, 3, seed=43))
    group = Cost(lambda p, z: 2 * z, True, policy)(point[[0, 1]], normal(1, 2, 2, seed=44))
    line = group.linearize(values)
    assert torch.equal(line.jacobian, torch.zeros(1, 2, 2, 3, dtype=F64))
    half = Cost(lambda p, z: torch.cat([p[..., :1].detach(), p[..., 1:] * z], -1), True, policy)
    line = half(point[[0, 1]], normal(1, 2, 2, seed=44)).linearize(values)
    assert (line.jacobian[..., 0, :] == 0).all()
    assert (line.jacobian[..., 1, 1] != 0).all()


# Whole solves

LENS = {"focal": torch.tensor([1.5], dtype=F64), "center": torch.zeros(2, dtype=F64)}
CAMERAS, POINTS = pose[[0, 0, 1, 1, 1]], point[[0, 1, 1, 0, 1]]


def truth() -> Values:
    return pose.values(range(2), SE3.exp(0.4 * normal(2, 2, 6, seed=53))).merge(
        point.values(range(2), normal(2, 2, 3, seed=54))
    )


def sightings() -> Tensor:
    values = truth()
    z = sighting(
        values.gather(CAMERAS),  # type: ignore[arg-type]
        values.gather(POINTS),  # type: ignore[arg-type]
        0.1 * normal(2, 5, 2, seed=50),
        LENS,
    )
    return z


def solvable(policy: Differentiation, batched: bool = True, data: Tensor | None = None) -> Problem:
    """Landmarks seen by two cameras; one sighting is masked and NaN."""
    z = sightings() if data is None else data
    mask = torch.ones(1, 5, dtype=F64)
    mask[:, 4] = 0
    z = torch.where(mask[..., None] != 0, z, torch.nan)
    near = truth()
    return Problem(
        start=prior(pose[[0, 1]], near["pose"], noise=Isotropic(0.3)),
        rest=prior(point[[0, 1]], near["point"], noise=Isotropic(0.3)),
        seen=Cost(sighting, batched, policy)(
            CAMERAS,
            POINTS,
            z,
            Shared(LENS),
            noise=Diagonal(torch.tensor([0.2, 0.3], dtype=F64)),
            loss=Cauchy(2.0),
            mask=mask,
        ),
    )


def beginning() -> Values:
    return truth().retract(0.2 * normal(2, 18, seed=56))


@cache
def minimized(policy: Differentiation, batched: bool) -> Solution:
    stop = Tolerances(cost=1e-10, step=1e-9, gradient=1e-8, iterations=20)
    problem = solvable(policy, batched)
    return minimize(problem, beginning(), LevenbergMarquardt(), Dense(), stop)


@BY_FORM
@BY_POLICY
def test_whole_minimizations_are_the_same_under_every_policy(
    policy: Differentiation, batched: bool
) -> None:
    reference, found = minimized(REFERENCE, True), minimized(policy, batched)
    assert all(status.converged for status in reference.status)
    assert found.status == reference.status
    assert torch.equal(found.iterations, reference.iterations)
    assert reference.values.local(found.values).abs().max() < 1e-11


@cache
def gradients(policy: Differentiation, adjoint: Adjoint, stop: Tolerances) -> tuple[Tensor, ...]:
    """Of a number of the solution with respect to the data and the initial values."""
    data = sightings().requires_grad_()
    initial = beginning()
    if adjoint == Unroll():
        initial = initial.map(lambda t: t.requires_grad_())
    solution = solve(
        solvable(policy, data=data),
        initial,
        GaussNewton(),
        linear=Dense(),
        adjoint=adjoint,
        tolerances=stop,
    )
    inputs = [data, *(pytree.tree_leaves(initial) if adjoint == Unroll() else ())]
    score = (solution.values["point"] * normal(2, 2, 3, seed=55)).sum()
    return torch.autograd.grad(score, inputs)


@pytest.mark.parametrize(
    ("adjoint", "stop"),
    [
        (Unroll(), Tolerances(0, 0, 0, iterations=2)),
        (Implicit(), Tolerances(0, 1e-11, 1e-10, 30)),
    ],
    ids=["unrolled", "implicit"],
)
@BY_POLICY
def test_the_gradient_of_a_solve_is_the_same_under_every_policy(
    policy: Differentiation, adjoint: Adjoint, stop: Tolerances
) -> None:
    reference, found = (gradients(p, adjoint, stop) for p in (REFERENCE, policy))
    assert all(g.isfinite().all() for g in found)
    assert (reference[0][:, 4] == 0).all()  # masked
    for a, b in zip(reference, found, strict=True):
        assert a.abs().max() > 1e-3
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10)


# Chunks


@pytest.mark.parametrize("chunk", [1, 4, 1000, Memory(1.0), Memory(4e4)])
@pytest.mark.parametrize(
    "kind",
    [
        Vectorized,
        BackwardNetwork,
        lambda chunk: BackwardNetwork(replicated=True, chunk=chunk),
        DenseAutodiff,
    ],
    ids=["vectorized", "network", "replicated", "dense"],
)
@BY_FORM
def test_chunks_give_the_whole(batched: bool, kind: Any, chunk: Any) -> None:
    whole, values = CASES["patch"].group(kind(chunk=None), batched)
    parts, _ = CASES["patch"].group(kind(chunk=chunk), batched)
    a, b = whole.linearize(values), parts.linearize(values)
    torch.testing.assert_close(b.residual, a.residual, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(b.jacobian, a.jacobian, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(parts.objective(values), whole.objective(values))


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation made [entries]."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(made):
            if isinstance(leaf, Tensor):
                self.entries = max(self.entries, leaf.untyped_storage().size() // 8)
        return made


COUNT, WIDE = 60, 32


@cost
def wide(p: Tensor, z: Tensor) -> Tensor:
    """Needs far more meanwhile than its result: 32 · 32 entries for a residual of 2."""
    basis = torch.arange(WIDE, dtype=p.dtype).outer(torch.ones(WIDE, dtype=p.dtype))
    waves = torch.sin(basis * p[0]) + torch.cos(basis * p[1])
    return torch.stack([waves.square().sum(), waves.sum() * p[2]]) * 1e-3 - z


def largest(policy: Differentiation) -> tuple[int, Tensor]:
    values = point.values([0], normal(1, 1, 3, seed=60))
    group = Cost(wide.residual, False, policy)(point[[0] * COUNT], normal(1, COUNT, 2, seed=61))
    with torch.inference_mode(), Largest() as seen:
        line = group.linearize(values)
        group.objective(values)
    return seen.entries, line.jacobian


@pytest.mark.parametrize(
    ("kind", "copies"),
    [
        (Vectorized, 2),
        (BackwardNetwork, 1),
        (lambda chunk: BackwardNetwork(replicated=True, chunk=chunk), 1),
        (DenseAutodiff, 1),
    ],
    ids=["vectorized", "network", "replicated", "dense"],
)
def test_chunks_bound_what_is_needed_meanwhile(kind: Any, copies: int) -> None:
    """``copies``: by rows, two cotangents are pulled back at once."""
    per_instance = copies * WIDE * WIDE
    count = 12 if kind is DenseAutodiff else COUNT  # quadratic
    values = point.values([0], normal(1, 1, 3, seed=60))
    sizes = {}
    for chunk in (None, 4, 8):
        group = Cost(wide.residual, False, kind(chunk=chunk))(
            point[[0] * count], normal(1, count, 2, seed=61)
        )
        with torch.inference_mode(), Largest() as seen:
            group.linearize(values)
            group.objective(values)
        sizes[chunk] = seen.entries
    assert sizes[4] <= 4 * per_instance
    assert 4 * WIDE * WIDE < sizes[8] <= 8 * per_instance or kind is DenseAutodiff
    if kind is not DenseAutodiff:
        assert sizes[None] >= count * WIDE * WIDE


def test_a_loop_needs_the_memory_of_one_instance() -> None:
    assert largest(Loop())[0] <= WIDE * WIDE


@pytest.mark.parametrize("kind", [Vectorized, BackwardNetwork])
def test_memory_is_kept_within_its_limit(kind: Any) -> None:
    limit = 2e5  # bytes: a few instances, depending on what is needed for each
    entries, jacobian = largest(kind(chunk=Memory(limit)))
    unlimited, expected = largest(kind())
    assert 8 * entries <= limit < 8 * unlimited
    torch.testing.assert_close(jacobian, expected)


class Allocated(TorchDispatchMode):
    """The bytes of all tensors that operations made, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view and "out=" not in str(func._schema):
            fresh = [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in fresh)
        return made


@pytest.mark.parametrize("replicated", [False, True])
def test_the_estimate_of_memory_is_safe_and_not_idle(replicated: bool) -> None:
    calls: list[int] = []

    def waving(p: Tensor, z: Tensor) -> Tensor:
        calls.append(p.shape[0] * p.shape[1])
        waves = torch.sin(p[..., :1] * torch.arange(100, dtype=p.dtype))
        return torch.stack([waves.sum(-1), waves.square().sum(-1)], -1) * z

    def group(policy: Differentiation, count: int) -> FactorGroup:
        return Cost(waving, True, policy)(point[[0] * count], normal(1, count, 2, seed=65))

    values, limit = point.values([0], normal(1, 1, 3, seed=64)), 1e5
    with torch.inference_mode():
        group(BackwardNetwork(replicated, Memory(limit)), 300).linearize(values)
        fitting = max(calls) // (2 if replicated else 1)
        assert 1 < fitting < 100
        with Allocated() as seen:
            group(BackwardNetwork(replicated), fitting).linearize(values)
    assert 0.5 * limit < seen.bytes < 1.1 * limit


@pytest.mark.parametrize("chunk", [1, 4, 9, 100])
def test_no_call_of_a_function_over_axes_gets_more_instances_than_the_chunk(chunk: int) -> None:
    calls: list[int] = []

    def noting(p: Tensor, z: Tensor) -> Tensor:
        calls.append(p.shape[0] * p.shape[1])
        return p[..., :2] * z

    values = point.values(range(3), normal(3, 3, 3, seed=62))
    for policy in (
        BackwardNetwork(chunk=chunk),
        BackwardNetwork(replicated=True, chunk=chunk),
        DenseAutodiff(chunk=chunk),
        Vectorized(chunk=chunk),
    ):
        calls.clear()
        group = Cost(noting, True, policy)(point[[0, 1, 2, 2, 1]], normal(3, 5, 2, seed=63))
        group.objective(values)
        if not isinstance(policy, Vectorized):
            group.linearize(values)
        replicated = isinstance(policy, BackwardNetwork) and policy.replicated
        assert max(calls) <= max(chunk, 2 if replicated else 1)
        assert sum(calls) >= 15


@pytest.mark.parametrize("chunk", [0, -3, 2.5, True, "all"])
def test_a_chunk_that_is_no_number_of_instances_is_refused(chunk: Any) -> None:
    for kind in (Vectorized, BackwardNetwork, DenseAutodiff):
        with pytest.raises(DnlsError, match="chunk must be a number of instances"):
            kind(chunk=chunk)


def test_an_amount_of_memory_is_positive_and_a_mode_is_known() -> None:
    for amount in (0, -1e9, math.nan):
        with pytest.raises(DnlsError, match="bytes must be positive"):
            Memory(amount)
    with pytest.raises(DnlsError, match="'auto', 'reverse' or 'forward', got 'jacfwd'"):
        Vectorized("jacfwd")  # type: ignore[arg-type]


# Forward and reverse mode


def linear_algebra(kind: str) -> Callable[[Tensor], Tensor]:
    def residual(p: Tensor) -> Tensor:
        matrix = 3 * torch.eye(3, dtype=p.dtype) + p[..., :, None] * p[..., None, :].sin()
        if kind == "solve":
            return torch.linalg.solve(matrix, p[..., None]).repeat(*[1] * (p.ndim - 1), 6, 1)[
                ..., 0
            ]
        if kind == "solve_ex":
            return (
                torch.linalg.solve_ex(matrix, matrix.square())[0]
                .flatten(-2)
                .repeat_interleave(2, -1)
            )
        if kind == "inv":
            return torch.linalg.inv(matrix).flatten(-2).repeat_interleave(2, -1)
        if kind == "det":
            return torch.linalg.det(matrix)[..., None] * torch.arange(1, 14, dtype=p.dtype)
        return torch.linalg.slogdet(matrix)[1][..., None] * torch.arange(1, 14, dtype=p.dtype)

    return residual


@pytest.mark.parametrize("kind", ["solve", "solve_ex", "inv", "det", "slogdet"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_forward_mode_is_right_over_linear_algebra(kind: str, count: int) -> None:
    """torch's own is wrong here from two instances on (2.13)."""
    values = point.values(range(count), normal(1, count, 3, seed=70))
    for policy in (Vectorized("forward"), Vectorized("auto"), Vectorized("reverse")):
        group = Cost(linear_algebra(kind), True, policy)(point[range(count)])
        jacobian = group.linearize(values).jacobian
        assert jacobian.shape[-2] >= 4 * 3
        torch.testing.assert_close(jacobian, by_autograd(group, values), rtol=1e-11, atol=1e-11)


def operations(policy: Differentiation, length: int) -> int:
    """Entries of the largest tensor in a linearization of residuals of some length."""
    values = point.values(range(8), normal(1, 8, 3, seed=71))
    group = Cost(lambda p, z: (p.sum() * z).sin(), False, policy)(
        point[range(8)], normal(1, 8, length, seed=72)
    )
    with torch.inference_mode(), Largest() as seen:
        group.linearize(values)
    return seen.entries


@pytest.mark.parametrize(("length", "mode"), [(11, "reverse"), (12, "forward"), (60, "forward")])
def test_the_mode_is_chosen_by_shape(length: int, mode: Any) -> None:
    sizes = {m: operations(Vectorized(m), length) for m in ("auto", "reverse", "forward")}
    assert sizes["auto"] == sizes[mode] != sizes["forward" if mode == "reverse" else "reverse"]


class Once(torch.autograd.Function):
    """Squares; its backward pass cannot be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.square()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


class Forgetful(Once):
    """Squares; its backward pass hides its dependence on the gradient from autograd."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient.detach()


@pytest.mark.parametrize("function", [Once, Forgetful])
@pytest.mark.parametrize("inference", [True, False])
def test_a_backward_pass_without_a_derivative_is_taken_by_rows(
    function: Any, inference: bool
) -> None:
    def residual(p: Tensor) -> Tensor:
        return function.apply(p.sum(-1, keepdim=True)) * torch.arange(1, 21, dtype=p.dtype)

    values = point.values(range(3), normal(1, 3, 3, seed=73))
    total = values["point"].sum(-1)  # type: ignore[union-attr]
    expected = 2 * total[..., None, None] * torch.arange(1, 21, dtype=F64)[:, None].expand(20, 3)
    with torch.inference_mode(inference), torch.set_grad_enabled(False):
        for policy in (Vectorized(), Vectorized("reverse")):
            line = Cost(residual, False, policy)(point[range(3)]).linearize(values)
            torch.testing.assert_close(line.jacobian, expected)
        with pytest.raises(DnlsError, match=r"'residual': the backward pass cannot.*'reverse'"):
            Cost(residual, False, Vectorized("forward"))(point[range(3)]).linearize(values)


def test_linearizations_can_be_transformed_in_turn() -> None:
    for name in ("sighting", "patch"):  # by rows and by columns
        tree = CASES[name].group(Vectorized())
        leaves, spec = pytree.tree_flatten(tree)
        functional = pytree.tree_leaves(torch.func.grad(lambda t: scored(*t))(tree))
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        plain = torch.autograd.grad(
            scored(*pytree.tree_unflatten(leaves, spec)), leaves, materialize_grads=True
        )
        for a, b in zip(functional, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    group, values = tree
    places = group.arguments[1]

    def jacobian(p: Tensor) -> Tensor:
        moved = replace(group, arguments=(None, p, group.arguments[2]))
        return moved.linearize(values).jacobian

    both = vmap(jacobian)(torch.stack([places, places + 0.1]))
    for found, p in zip(both, (places, places + 0.1), strict=True):
        torch.testing.assert_close(found, jacobian(p), rtol=1e-12, atol=1e-12)


def test_nan_and_infinity_do_not_confuse_the_check_of_forward_mode() -> None:
    def residual(p: Tensor, z: Tensor) -> Tensor:
        return (p.square().sum(-1, keepdim=True) * z).sqrt()

    p = normal(1, 4, 3, seed=74)
    p[0, 1], p[0, 2] = 0.0, torch.nan  # a derivative of 0 · ∞, and of NaN
    z = 1 + normal(1, 4, 20, seed=75).abs()
    lines = [
        Cost(residual, False, Vectorized(mode))(point[range(4)], z).linearize(
            point.values(range(4), p)
        )
        for mode in ("reverse", "forward", "auto")
    ]
    for line in lines[1:]:
        torch.testing.assert_close(line.jacobian, lines[0].jacobian, equal_nan=True)
    assert lines[0].jacobian[0, [0, 3]].isfinite().all()


# Code that vmap cannot take


class Doubled(torch.autograd.Function):
    """2x, without what functional transforms ask for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


def custom(p: Tensor, z: Tensor, gain: Tensor) -> Tensor:
    return Doubled.apply(p[..., :2].sin()) * gain - z  # type: ignore[no-any-return]


def in_place(p: Tensor, z: Tensor, gain: Tensor) -> Tensor:
    r = torch.zeros(*p.shape[:-1], 2, dtype=p.dtype)
    r[..., 0] = 2.0 * p[..., 0] + p[..., 1].square()
    r[..., 1] = p[..., 2].sin()
    r *= gain
    return r.sub_(z)


def number(p: Tensor, z: Tensor, gain: Tensor) -> Tensor:
    scale = float(gain.mean()) if p.ndim > 1 else float(gain)
    turns = [p[..., :2]]
    for _ in range(int(scale)):
        turns.append(turns[-1] * p[..., 2:])
    return torch.stack(turns).sum(0) * scale - z


def by_hand(p: Tensor, z: Tensor, gain: Tensor) -> Tensor:
    """The same as `number` for gain = 2."""
    return 2 * p[..., :2] * (1 + p[..., 2:] + p[..., 2:].square()) - z


UNVECTORIZED = {
    "custom function": (custom, lambda p, z, g: 2 * p[..., :2].sin() * g - z),
    "in place": (
        in_place,
        lambda p, z, g: (
            torch.stack([2 * p[..., 0] + p[..., 1].square(), p[..., 2].sin()], -1) * g - z
        ),
    ),
    "item": (number, by_hand),
}
ANY_CODE = {
    name: policy for name, policy in POLICIES.items() if not isinstance(policy, Vectorized)
}


def reading(
    residual: Callable[..., Tensor], policy: Differentiation, batched: bool
) -> FactorGroup:
    gain = torch.tensor([2.0], dtype=F64) if residual is in_place else torch.tensor(2.0, dtype=F64)
    z = 0.3 * normal(2, 4, 2, seed=80)
    return Cost(residual, batched, policy)(point[[0, 1, 1, 0]], z, Shared(gain))


@pytest.mark.parametrize("name", UNVECTORIZED)
@pytest.mark.parametrize("policy", ANY_CODE.values(), ids=ANY_CODE)
def test_code_that_vmap_cannot_take_is_differentiated_and_minimized(
    policy: Differentiation, name: str
) -> None:
    hard, easy = UNVECTORIZED[name]
    values = point.values(range(2), 0.5 * normal(2, 2, 3, seed=81))
    weak = prior(point[range(2)], torch.zeros(1, 2, 3, dtype=F64), noise=Isotropic(3.0))
    group, expected = reading(hard, policy, True), reading(easy, Vectorized(), True)
    a, b = group.linearize(values), expected.linearize(values)
    torch.testing.assert_close(a.jacobian, b.jacobian, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(a.residual, b.residual, rtol=1e-13, atol=1e-13)
    stop = Tolerances(1e-10, 1e-9, 1e-9, 30)
    found, sought = (
        minimize(Problem(seen=g, weak=weak), values, LevenbergMarquardt(), Dense(), stop)
        for g in (group, expected)
    )
    assert all(status.converged for status in sought.status)
    assert found.status == sought.status
    assert sought.values.local(found.values).abs().max() < 1e-10


@pytest.mark.parametrize("policy", [Loop(), DenseAutodiff()])
@pytest.mark.parametrize("name", UNVECTORIZED)
def test_one_instance_after_the_other_takes_any_code(policy: Differentiation, name: str) -> None:
    hard, easy = UNVECTORIZED[name]
    values = point.values(range(2), 0.5 * normal(2, 2, 3, seed=81))
    a = reading(hard, policy, False).linearize(values)
    b = reading(easy, Vectorized(), True).linearize(values)
    torch.testing.assert_close(a.jacobian, b.jacobian, rtol=1e-13, atol=1e-13)


def iterated(p: Tensor, z: Tensor) -> Tensor:
    """Newton's iteration for a cube root until it has converged, and a branch on the sign."""
    x = torch.ones((), dtype=p.dtype)
    while abs(float((x**3 - p[0].abs() - 1).detach())) > 1e-12:
        x = x - (x**3 - p[0].abs() - 1) / (3 * x**2)
    r = torch.stack([x, p[1] if p[1] > 0 else 2 * p[1]])
    return r - z


@pytest.mark.parametrize("policy", [Loop(), DenseAutodiff(), DenseAutodiff(chunk=3)])
def test_steps_that_depend_on_the_values_are_differentiated(policy: Differentiation) -> None:
    def plain(p: Tensor, z: Tensor) -> Tensor:
        root = (p[..., 0].abs() + 1) ** (1 / 3)
        return torch.stack([root, torch.where(p[..., 1] > 0, p[..., 1], 2 * p[..., 1])], -1) - z

    values = point.values(range(4), normal(2, 4, 3, seed=82))
    z = normal(1, 5, 2, seed=83)
    lines = [
        c(point[[0, 1, 2, 3, 3]], z).linearize(values)
        for c in (Cost(iterated, False, policy), Cost(plain, True))
    ]
    torch.testing.assert_close(lines[0].residual, lines[1].residual, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(lines[0].jacobian, lines[1].jacobian, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("residual", [custom, in_place, number, iterated])
def test_a_cost_that_vmap_cannot_take_is_told_which_policy_takes_it(
    residual: Callable[..., Tensor],
) -> None:
    values = point.values(range(2), normal(2, 2, 3, seed=81))
    data = (
        (normal(2, 2, 2, seed=84),)
        if residual is iterated
        else (
            normal(2, 2, 2, seed=84),
            torch.full((2, 2), 2.0, dtype=F64),
        )
    )
    for policy in (Vectorized(), Vectorized("reverse"), Vectorized("forward"), BackwardNetwork()):
        group = Cost(residual, False, policy)(point[range(2)], *data)
        for call in (group.objective, group.linearize):
            with pytest.raises(DnlsError) as caught:
                call(values)
            text = str(caught.value)
            assert f"cost '{residual.__name__}' runs by itself but not under torch's vmap" in text
            assert "@cost(differentiation=Loop())" in text
            assert "@cost(batched=True, differentiation=BackwardNetwork())" in text


def test_a_cost_over_axes_that_vmap_cannot_take_is_told_so() -> None:
    values = point.values(range(2), normal(2, 2, 3, seed=81))
    group = reading(custom, Vectorized(), True)
    group.objective(values)  # needs no vmap
    with pytest.raises(DnlsError, match=r"take @cost\(batched=True, differentiation=Backward"):
        group.linearize(values)


def test_an_error_of_the_cost_itself_is_passed_on() -> None:
    def broken(p: Tensor, z: Tensor) -> Tensor:
        return p @ z

    values = point.values(range(2), normal(2, 2, 3, seed=81))
    for policy in POLICIES.values():
        group = Cost(broken, False, policy)(point[range(2)], normal(1, 2, 2, seed=84))
        for call in (group.objective, group.linearize):
            with pytest.raises(RuntimeError, match=r"inconsistent|size|match"):
                call(values)


# Residuals that are none


@BY_POLICY
@pytest.mark.parametrize(
    ("wrong", "shape", "advice"),
    [
        (lambda p, z: (p[:2] - z).sum(), r"\(\)", r"return a vector, as in r\[None\]"),
        (lambda p, z: (p[:2] - z)[None], r"\(1, 2\)", r"declared by @cost\(batched=True\)"),
        (lambda p, z: torch.outer(p, z), r"\(3, 2\)", "flatten it"),
    ],
    ids=["scalar", "batch axis", "matrix"],
)
def test_a_residual_of_one_instance_with_wrong_axes_is_refused(
    policy: Differentiation, wrong: Any, shape: str, advice: str
) -> None:
    wrong.__name__ = "gauge"
    values = point.values(range(2), normal(2, 2, 3, seed=81))
    group = Cost(wrong, False, policy)(point[[0, 1, 1]], normal(1, 3, 2, seed=84))
    expected = rf"cost 'gauge': .*has shape {shape}, expected \(r,\): .*{advice}"
    for call in (group.objective, group.linearize):
        with pytest.raises(DnlsError, match=expected):
            call(values)


@BY_POLICY
@pytest.mark.parametrize(
    ("wrong", "shape"),
    [
        (lambda p, z: (p[..., :2] - z).sum(-1), r"\(2, 3\)"),
        (lambda p, z: p[..., 0, :2] - z[..., 0, :], r"\(2, 2\)"),
        (lambda p, z: (p[..., :2] - z).mT, r"\(2, 2, 3\)"),
        (lambda p, z: (p[..., :2] - z)[None], r"\(1, 2, 3, 2\)"),
    ],
    ids=["scalar", "without factors", "transposed", "more axes"],
)
def test_residuals_over_axes_with_wrong_axes_are_refused(
    policy: Differentiation, wrong: Any, shape: str
) -> None:
    wrong.__name__ = "gauge"
    values = point.values(range(2), normal(2, 2, 3, seed=81))
    whole = replace(policy, chunk=None) if hasattr(policy, "chunk") else policy
    group = Cost(wrong, True, whole)(point[[0, 1, 1]], normal(1, 3, 2, seed=84))
    with pytest.raises(DnlsError, match=rf"'gauge': .*shape {shape}, expected \(2, 3, r\)"):
        group.objective(values)
    if not isinstance(policy, Vectorized):
        with pytest.raises(DnlsError, match=r"'gauge': the residuals have shape"):
            group.linearize(values)


@BY_POLICY
@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda p, z: (p[..., :2], z), "tuple"),
        (lambda p, z: 1.0, "float"),
        (lambda p, z: (p[..., :2] - z) > 0, "torch.bool"),
        (lambda p, z: (p[..., :2] - z).long(), "torch.int64"),
    ],
)
@BY_FORM
def test_what_is_no_tensor_of_numbers_is_refused(
    batched: bool, wrong: Any, what: str, policy: Differentiation
) -> None:
    wrong.__name__ = "gauge"
    values = point.values(range(2), normal(2, 2, 3, seed=81))
    group = Cost(wrong, batched, policy)(point[[0, 1, 1]], normal(1, 3, 2, seed=84))
    for call in (group.objective, group.linearize):
        with pytest.raises(DnlsError, match=f"cost 'gauge' returns {what}, expected a tensor"):
            call(values)


@pytest.mark.parametrize("policy", [Loop(), DenseAutodiff(), DenseAutodiff(chunk=1)])
def test_residuals_of_different_lengths_are_refused(policy: Differentiation) -> None:
    def growing(p: Tensor) -> Tensor:
        return p[:1] if p[0] > 0 else p[:2]

    values = point.values(range(2), torch.tensor([[[1.0, 2, 3], [-1, 2, 3]]], dtype=F64))
    group = Cost(growing, False, policy)(point[range(2)])
    for call in (group.objective, group.linearize):
        with pytest.raises(
            DnlsError, match=r"cost 'growing': .*different shapes.*\(1,\) and \(2,"
        ):
            call(values)


def test_a_residual_that_depends_on_other_instances_is_found_out() -> None:
    def coupled(p: Tensor) -> Tensor:
        return p - p.mean(1, keepdim=True)

    values = point.values(range(3), normal(2, 3, 3, seed=85))
    group = Cost(coupled, True, DenseAutodiff())(point[range(3)])
    with pytest.raises(DnlsError, match=r"'coupled': the residual of factor 0 .* must be indep"):
        group.linearize(values)


@BY_POLICY
def test_analytic_jacobians_of_one_instance_are_lifted_like_the_residual(
    policy: Differentiation,
) -> None:
    def scaled(p: Tensor, z: Tensor) -> Tensor:
        return p.square() * z

    c = Cost(scaled, False, policy)
    c.jacobians(lambda p, z: (torch.diag(2 * p * z), lambda: torch.diag(p.square())))
    values = point.values(range(2), normal(2, 2, 3, seed=86))
    group = c(point[[0, 1, 1]], normal(1, 3, 3, seed=87))
    automatic = Cost(scaled, False, policy)(point[[0, 1, 1]], normal(1, 3, 3, seed=87))
    torch.testing.assert_close(
        group.linearize(values).jacobian, automatic.linearize(values).jacobian
    )
    wrong = Cost(scaled, False, policy)
    wrong.jacobians(lambda p, z: (2 * p * z,))
    with pytest.raises(
        DnlsError, match=r"'scaled': the Jacobian block of one .*\(3,\), .*\(r, t\)"
    ):
        wrong(point[[0, 1, 1]], normal(1, 3, 3, seed=87)).linearize(values)


@pytest.mark.parametrize("policy", [Vectorized(), BackwardNetwork(), BackwardNetwork(True)])
def test_a_group_without_factors_adds_nothing(policy: Differentiation) -> None:
    values = point.values(range(2), normal(2, 2, 3, seed=88))
    nobody, nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(1, 0, 2, dtype=F64)
    none = Cost(lambda p, z: p[..., :2] - z, True, policy)(point[nobody], nothing)
    assert none.linearize(values).jacobian.shape == (2, 0, 2, 3)
    assert (none.objective(values) == 0).all()
    rest = prior(point[range(2)], torch.zeros(1, 2, 3, dtype=F64))
    problem = Problem(rest=rest, none=none)
    equations = normal_equations(problem, values, problem.structure(values))
    assert equations.hessian.isfinite().all()


def test_the_policy_of_a_decorated_cost_is_its_own() -> None:
    @cost(differentiation=Loop())
    def one(p: Tensor) -> Tensor:
        return p

    @cost(batched=True, differentiation=BackwardNetwork(replicated=True, chunk=10))
    def many(p: Tensor) -> Tensor:
        return p

    assert one.differentiation == Loop()
    assert not one.batched
    assert many.differentiation == BackwardNetwork(replicated=True, chunk=10)
    assert many.batched
    assert wide.differentiation == Vectorized()
