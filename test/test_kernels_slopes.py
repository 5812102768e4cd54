"""Second derivatives by kernels are held to double backward in torch."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_kernels import LOSSES, MAKERS, REGIMES, Source, anchored, chain, state, variables
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.costs import between, prior
from dnls_ros.diff import Implicit, solve
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE3, LieGroup
from dnls_ros.linear import BlockCholesky
from dnls_ros.optim import GaussNewton
from dnls_ros.optim.assembly import Assembly
from dnls_ros.problem import Cauchy, FactorGroup, Isotropic, Problem, Values

pytest.importorskip("numba")

F64 = torch.float64
KNOWN = ["prior", "between", "random walk", "from a held pose", "vectors", "velocity"]


def learned(tree: Any) -> Any:
    """The same numbers as leaves that want gradients."""
    return pytree.tree_map(lambda t: t.detach().clone().requires_grad_(), tree)


def with_gradients(group: FactorGroup, data: bool = True) -> FactorGroup:
    """Its data and noise learned, every third factor off."""
    arguments = tuple(None if a is None or not data else learned(a) for a in group.arguments)
    noise = None if group.noise is None else learned(group.noise)
    mask = (torch.arange(group.count) % 3 != 1).to(F64)[None]
    return replace(group, arguments=arguments if data else group.arguments, noise=noise, mask=mask)


def assert_same_slopes(problem: Problem, values: Values, rtol: float = 1e-12) -> None:
    """Gradient, cost and curvature by kernels and by torch, and what autograd makes of them."""
    structure = problem.structure(values)
    ours, torchs = Assembly(problem, structure), Assembly(problem, structure, kernels=False)
    slopes = ours.slopes(values)
    assert slopes is not None
    assert "tested" in slopes.own.names
    leaves = [leaf for leaf in pytree.tree_leaves(problem) if leaf.requires_grad]
    gradient = problem.gradient(values, structure)
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(gradient.shape, dtype=F64, generator=generator)
    a = torch.randn(len(gradient), dtype=F64, generator=generator)
    steps = torch.zeros_like(u).requires_grad_()
    moved = values.retract(steps)
    assert torchs.slopes(values) is None
    for mine, theirs, weight, inputs in (
        (ours.gradient(values, gradient.detach()), gradient, u, leaves),
        (ours.cost_at_rest(values, steps, moved), torchs.cost(moved), a, [steps, *leaves]),
    ):
        found, wanted = (
            torch.autograd.grad(
                (weight * value).sum(), inputs, retain_graph=True, materialize_grads=True
            )
            for value in (mine, theirs)
        )
        for x, y in zip((mine, *found), (theirs, *wanted), strict=True):
            assert_near(x, y, rtol)
    assert_near(ours.curvature(values)(u), torchs.curvature(values)(u), rtol)


def assert_near(mine: Tensor, theirs: Tensor, rtol: float) -> None:
    atol = rtol * max(1.0, float(theirs.detach().abs().max()))
    torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("group", [SE3])
@pytest.mark.parametrize("name", KNOWN)
def test_slopes_are_what_double_backward_gives(
    name: str, group: type[LieGroup], regime: str
) -> None:
    source = Source(REGIMES[regime], seed=3)
    values = state(source, group)
    tested = with_gradients(MAKERS[name](source, group), data=name != "from a held pose")
    assert_same_slopes(anchored(tested, values), values)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["prior", "between"])
def test_slopes_through_losses(name: str, loss: str) -> None:
    source = Source(1.0, seed=4)
    values = state(source, SE3)
    tested = replace(with_gradients(MAKERS[name](source, SE3)), loss=LOSSES[loss])
    assert_same_slopes(anchored(tested, values), values)


@pytest.mark.parametrize("group", [SE3])
def test_slopes_of_turns_by_nearly_pi(group: type[LieGroup]) -> None:
    source = Source(1.0, seed=2)
    values = state(source, group)
    turned = torch.zeros(3, 6, group.tangent_dim, dtype=F64)
    turned[..., -1] = torch.tensor([3.0, 3.1, 3.14, 3.1415, -3.1, -3.14])
    z = values["pose"] @ group.exp(turned)  # pyright: ignore[reportOperatorIssue]
    tested = with_gradients(prior(variables(group)[0][range(6)], z, noise=Isotropic(0.3)))
    assert_same_slopes(anchored(tested, values), values, 1e-11)


def test_what_kernels_cannot_differentiate_is_added_by_torch() -> None:
    source = Source(0.5, seed=5)
    values = state(source, SE3)
    tested = with_gradients(MAKERS["between"](source, SE3))
    problem = anchored(tested, values).replace(
        held=with_gradients(MAKERS["from a held pose"](source, SE3)),
        robust=replace(MAKERS["prior"](source, SE3), loss=learned(Cauchy(1.0))),
        partial=with_gradients(MAKERS["partial pose"](source, SE3)),
        constant=MAKERS["range and bearing"](source, SE3),
    )
    slopes = Assembly(problem, problem.structure(values)).slopes(values)
    assert slopes is not None
    left = set(problem) - set(slopes.own.names)
    assert left == {"held", "robust", "partial", "constant"}
    assert_same_slopes(problem, values)


@pytest.mark.parametrize("hessian", ["exact", "gauss_newton"])
@pytest.mark.parametrize("loss", [None, Cauchy(1.0)], ids=["squares", "cauchy"])
def test_implicit_derivatives_do_not_depend_on_the_tier(hessian: Any, loss: Any) -> None:
    """A robust loss whose radius wants a gradient is torch's; one whose radius does not, not."""
    problem, start = chain(0.2, 6, loss or Cauchy(1e9))
    found: list[list[Tensor]] = []
    for torchs in (False, True):
        links = with_gradients(problem["links"])  # type: ignore[arg-type]
        z, noise = links.arguments[2].tensor, links.noise.sigma  # type: ignore[union-attr]
        if torchs:
            links = replace(links, loss=learned(links.loss))
        learning = problem.replace(links=replace(links, mask=None))
        solution = solve(
            learning, start, GaussNewton(), linear=BlockCholesky(), adjoint=Implicit(hessian)
        )
        loss_of = solution.values["pose"].tensor.square().sum() + solution.cost.sum()  # type: ignore[union-attr]
        found.append(list(torch.autograd.grad(loss_of, [z, noise])))
    for mine, theirs in zip(*found, strict=True):
        assert_near(mine, theirs, 1e-9 if hessian == "exact" else 1e-11)


def test_a_second_derivative_of_a_solution_is_refused() -> None:
    problem, start = chain(0.05, 8)
    links = with_gradients(problem["links"])  # type: ignore[arg-type]
    z = links.arguments[2].tensor
    with warnings.catch_warnings():
        solution = solve(problem.replace(links=links), start, linear=BlockCholesky())
    cost = solution.values["pose"].tensor.square().sum()  # type: ignore[union-attr]
    with pytest.raises(DnlsError, match="no derivatives of derivatives"):
        torch.autograd.grad(cost, z, create_graph=True)


def test_a_group_that_touches_a_variable_twice_goes_by_torch() -> None:
    source = Source(0.5, seed=6)
    values = state(source, SE3)
    pose = variables(SE3)[0]
    i = torch.zeros(1, dtype=torch.int64)
    twice = between(pose[i], pose[i], learned(source.element(SE3, 1, 1)))
    problem = anchored(twice, values)
    slopes = Assembly(problem, problem.structure(values)).slopes(values)
    assert slopes is not None
    assert "tested" not in slopes.own.names
