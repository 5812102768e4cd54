"""Weights: what is no weight is refused, all of them can be learned, masks let no NaN through."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.costs import constant_velocity_noise, prior, white_acceleration_noise
from dnls_ros.diff import Adjoint, Implicit, Unroll, solve
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, Euclidean
from dnls_ros.linear import Dense
from dnls_ros.optim import GaussNewton, LevenbergMarquardt, Tolerances, minimize
from dnls_ros.problem import (
    DCS,
    BackwardNetwork,
    Barron,
    Cauchy,
    Cost,
    DenseAutodiff,
    Diagonal,
    Differentiation,
    FactorGroup,
    GemanMcClure,
    Hinge,
    Huber,
    Isotropic,
    Loop,
    Loss,
    Noise,
    Problem,
    SquareRootInformation,
    Tukey,
    Values,
    Variables,
    Vectorized,
    Welsch,
    cost,
    normal_equations,
)

F64 = torch.float64
point = Variables("point", Euclidean(3))
pose = Variables("pose", SE2)
BAD = {"zero": 0.0, "negative": -1.0, "NaN": math.nan, "infinite": math.inf}
LOSSES: dict[str, Callable[[Any], Loss]] = {
    "Huber": Huber,
    "Cauchy": Cauchy,
    "GemanMcClure": GemanMcClure,
    "Tukey": Tukey,
    "Welsch": Welsch,
    "DCS": DCS,
    "Barron": partial(Barron, alpha=-1.0),
    "Hinge": Hinge,
}
BY_LOSS = pytest.mark.parametrize("kind", LOSSES.values(), ids=LOSSES)


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=F64, generator=generator)


@cost(batched=True)
def offset(p: Tensor, z: Tensor) -> Tensor:
    return p - z + 0.1 * p.square()


# What is no weight


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_standard_deviation_that_is_none_is_refused(bad: float) -> None:
    got = f"{bad:g}"
    with pytest.raises(DnlsError, match=rf"^Isotropic: sigma must be pos.* finite, got {got}$"):
        Isotropic(bad)
    sigma = torch.ones(2, 5, dtype=F64)
    sigma[1, 3] = sigma[1, 4] = bad
    expected = rf"Isotropic: sigma .* got {got} at \(1, 3\), 2 of 10 entries$"
    with pytest.raises(DnlsError, match=expected):
        Isotropic(sigma)
    with pytest.raises(DnlsError, match=rf"Diagonal: sigmas .* got {got} at \(2,\), 1 of 3 ent"):
        Diagonal(torch.tensor([1.0, 0.1, bad]))


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@BY_LOSS
def test_a_radius_that_is_none_is_refused(kind: Callable[[Any], Loss], bad: float) -> None:
    for radius in (bad, torch.tensor(bad), torch.tensor([[1.0, bad]])):
        with pytest.raises(DnlsError, match=f"radius must be positive and finite, got {bad:g}"):
            kind(radius)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_information_that_is_not_finite_is_refused(bad: float) -> None:
    matrix = torch.eye(3, dtype=F64).expand(1, 4, 3, 3).clone()
    matrix[0, 2, 1, 1] = bad
    with pytest.raises(DnlsError, match=r"factor must be finite, got .* at \(0, 2, 1, 1\), 1 of"):
        SquareRootInformation(matrix)
    for make in (SquareRootInformation.from_covariance, SquareRootInformation.from_information):
        with pytest.raises(DnlsError, match=r"not positive definite|factor must be finite"):
            make(matrix)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_the_noise_of_a_motion_model_needs_a_duration_and_a_density(bad: float) -> None:
    sigma, dt = torch.ones(4, 3, dtype=F64), torch.full((4,), 0.5, dtype=F64)
    wrong = dt.clone()
    wrong[2] = bad
    for noise in (
        lambda: constant_velocity_noise(sigma, wrong),
        lambda: white_acceleration_noise(torch.diag_embed(sigma), wrong),
    ):
        with pytest.raises(DnlsError, match=rf"_noise: dt must be .* got {bad:g} at \(2,\)"):
            noise()
    worse = sigma.clone()
    worse[1, 2] = bad
    with pytest.raises(DnlsError, match=rf"_noise: sigma must be .* got {bad:g} at \(1, 2\)"):
        constant_velocity_noise(worse, dt)


@pytest.mark.parametrize("bad", [math.nan, -1.0, 0.5, 2.0, math.inf])
def test_a_mask_switches_and_does_not_weight(bad: float) -> None:
    mask = torch.ones(1, 4, dtype=F64)
    mask[0, 2] = bad
    with pytest.raises(DnlsError, match=rf"'offset': mask must be 0 or 1 .*got {bad:g} at \(0, 2"):
        offset(point[range(4)], normal(1, 4, 3, seed=0), mask=mask)


def test_noise_for_residuals_of_another_length_is_refused() -> None:
    @cost(batched=True)
    def height(p: Tensor, z: Tensor) -> Tensor:
        return p[..., 2:] - z

    values = point.values(range(2), normal(1, 2, 3, seed=0))
    for noise in (
        Diagonal(torch.ones(3, dtype=F64)),
        SquareRootInformation(torch.eye(3, dtype=F64)),
    ):
        group = height(point[range(2)], normal(1, 2, 1, seed=1), noise=noise)
        expected = f"'height': {type(noise).__name__} is for residuals of length 3, .* length 1"
        for call in (group.objective, group.linearize):
            with pytest.raises(DnlsError, match=expected):
                call(values)


def test_batch_axes_that_do_not_go_together_are_refused() -> None:
    z, mask = normal(3, 2, 3, seed=0), torch.ones(2, 2, dtype=F64)
    with pytest.raises(DnlsError, match=r"'offset': .* have batch axes of \[2, 3\], expected 1"):
        offset(point[range(2)], z, mask=mask)


# Learned weights

NOISES: dict[str, tuple[Callable[[Tensor], Noise], Tensor]] = {
    "Isotropic": (Isotropic, torch.tensor(0.7, dtype=F64)),
    "Isotropic of each": (Isotropic, 0.5 + normal(1, 4, seed=1).abs()),
    "Diagonal": (Diagonal, 0.5 + normal(3, seed=2).abs()),
    "Diagonal of each": (Diagonal, 0.5 + normal(2, 4, 3, seed=3).abs()),
    "square root": (SquareRootInformation, normal(3, 3, seed=4)),
    "selection": (SquareRootInformation, normal(2, 3, seed=5)),
    "covariance": (
        lambda a: SquareRootInformation.from_covariance(a @ a.mT + torch.eye(3, dtype=F64)),
        normal(3, 3, seed=6),
    ),
    "information": (
        lambda a: SquareRootInformation.from_information(a @ a.mT + torch.eye(3, dtype=F64)),
        normal(1, 4, 3, 3, seed=7),
    ),
    "log-sigma": (lambda a: Isotropic(a.exp()), torch.tensor(-0.3, dtype=F64)),
}
# Of every loss some residuals lie inside and some outside of the radius.
RADII = {"one": torch.tensor(1.3, dtype=F64), "of each": 0.8 + normal(1, 4, seed=8).abs()}


def group_of(noise: Noise | None = None, loss: Loss | None = None) -> tuple[FactorGroup, Values]:
    z = normal(2, 4, 3, seed=10)
    group = offset(point[[0, 1, 1, 0]], z, noise=noise, loss=loss)
    return group, point.values(range(2), normal(2, 2, 3, seed=11))


def numbers(group: FactorGroup, values: Values) -> Tensor:
    """The objective, JᵀWJ and JᵀWr: all that a method sees."""
    problem = Problem(group=group)
    equations = normal_equations(problem, values, problem.structure(values))
    parts = (problem.objective(values), equations.hessian, equations.gradient)
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("name", NOISES)
def test_noise_can_be_learned(name: str) -> None:
    make, start = NOISES[name]
    for loss in (None, Cauchy(1.1)):
        leaf = start.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, m=loss: numbers(*group_of(make(x), m)), leaf)


@pytest.mark.parametrize("radius", RADII.values(), ids=RADII)
@BY_LOSS
def test_a_radius_can_be_learned(kind: Callable[[Any], Loss], radius: Tensor) -> None:
    group, values = group_of(loss=kind(radius))
    s = group.squared_norm(values)
    assert (s < radius**2).any()
    assert (s > radius**2).any()
    leaf = radius.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda r: numbers(*group_of(loss=kind(r))), leaf)
    log = radius.log().requires_grad_()
    (gradient,) = torch.autograd.grad(numbers(*group_of(loss=kind(log.exp()))).sum(), log)
    assert gradient.abs().min() > 1e-6


def robust_mean(noise: Noise, loss: Loss, adjoint: Adjoint) -> Tensor:
    """A number of the robust mean of points, two of them far away."""
    z = normal(1, 6, 3, seed=12)
    z[0, 4:] += torch.tensor([[3.0, 0, 1], [-1, 4, 0]], dtype=F64)
    problem = Problem(
        seen=offset(point[[0] * 6], z, noise=noise, loss=loss),
        weak=prior(point[[0]], torch.zeros(1, 1, 3, dtype=F64), noise=Isotropic(2.0)),
    )
    initial = point.values([0], torch.zeros(1, 1, 3, dtype=F64))
    method = GaussNewton() if isinstance(adjoint, Unroll) else LevenbergMarquardt()
    stop = (
        Tolerances(0, 0, 0, iterations=3)
        if isinstance(adjoint, Unroll)
        else Tolerances(0, 1e-13, 1e-12, 200)
    )
    found = solve(problem, initial, method, linear=Dense(), adjoint=adjoint, tolerances=stop)
    return (found.values["point"] * torch.tensor([1.0, -2.0, 0.5], dtype=F64)).sum()


@pytest.mark.parametrize("adjoint", [Unroll(), Implicit()], ids=["unrolled", "implicit"])
@BY_LOSS
def test_radius_and_sigma_are_learned_through_a_solve(
    kind: Callable[[Any], Loss], adjoint: Adjoint
) -> None:
    def value(radius: Tensor, sigma: Tensor) -> Tensor:
        return robust_mean(Diagonal(sigma), kind(radius), adjoint)

    # A tolerance bends more than Gauss–Newton sees: beyond a small one it converges slowly.
    size = 0.3 if kind is Hinge else 1.9
    theta = [torch.tensor(size, dtype=F64), torch.tensor([0.8, 1.0, 1.2], dtype=F64)]
    leaves = [t.clone().requires_grad_() for t in theta]
    gradients = torch.autograd.grad(value(*leaves), leaves)
    direction = [torch.tensor(0.3 * size, dtype=F64), torch.tensor([0.3, -0.5, 0.8], dtype=F64)]

    def along(h: float) -> float:
        return float(value(*(t + h * d for t, d in zip(theta, direction, strict=True))))

    coarse, fine = ((along(h) - along(-h)) / (2 * h) for h in (2e-3, 1e-3))
    analytic = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    assert all(float(g.abs().max()) > 1e-4 for g in gradients)
    assert analytic == pytest.approx((4 * fine - coarse) / 3, rel=1e-6)


# Masks

POLICIES: dict[str, Differentiation | None] = {
    "analytic": None,
    "vectorized": Vectorized(),
    "forward": Vectorized("forward"),
    "network": BackwardNetwork(),
    "replicated": BackwardNetwork(replicated=True, chunk=4),
    "loop": Loop(),
    "dense": DenseAutodiff(),
}
# Batch element 0 lacks factors 1 and 4, element 1 factor 4 only.
MASK = torch.tensor([[1.0, 0, 1, 1, 0], [1, 1, 1, 1, 0]], dtype=F64)


def spoilt(policy: Differentiation | None, data: Tensor, mask: Tensor | None) -> Problem:
    """Absolute poses, NaN where they are masked, and a chain; nothing of the NaN may be seen."""
    z = SE2.exp(data)
    if mask is not None:
        hidden = torch.tensor(math.nan, dtype=F64)
        z = SE2(torch.where(mask[..., None] != 0, z.tensor, hidden))
    measured = prior if policy is None else Cost(prior.residual, True, policy)
    truth = SE2.exp(normal(1, 5, 3, seed=20))
    return Problem(
        seen=measured(
            pose[range(5)],
            z,
            noise=Diagonal(torch.tensor([0.3, 0.4, 0.2], dtype=F64)),
            loss=Cauchy(1.5),
            mask=mask,
        ),
        rest=prior(pose[range(5)], truth, noise=Isotropic(0.5)),
    )


def start() -> Values:
    return pose.values(range(5), SE2.exp(normal(2, 5, 3, seed=21)))


def element(tree: Any, b: int) -> Any:
    return pytree.tree_map(lambda t: t[b : b + 1] if len(t) == 2 else t, tree)


def without_masked(problem: Problem, b: int) -> Problem:
    """Batch element ``b`` of a problem, its masked factors taken out."""
    one = element(problem, b)
    seen = one["seen"]
    return one.replace(seen=replace(seen.select(MASK[b] != 0), mask=None))


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_masked_factor_is_as_if_it_were_not_there(policy: Differentiation | None) -> None:
    data, values = normal(2, 5, 3, seed=22), start()
    problem = spoilt(policy, data, MASK)
    together = normal_equations(problem, values, problem.structure(values))
    stop = Tolerances(1e-12, 1e-9, 1e-9, 30)
    found = minimize(problem, values, LevenbergMarquardt(), Dense(), stop)
    for b in range(2):
        fewer, x = without_masked(problem, b), element(values, b)
        alone = normal_equations(fewer, x, fewer.structure(x))
        torch.testing.assert_close(together.hessian[b], alone.hessian[0])
        torch.testing.assert_close(together.gradient[b], alone.gradient[0])
        torch.testing.assert_close(together.cost[b], alone.cost[0])
        torch.testing.assert_close(problem.objective(values)[b], fewer.objective(x)[0])
        torch.testing.assert_close(problem.gradient(values)[b], fewer.gradient(x)[0])
        single = minimize(fewer, x, LevenbergMarquardt(), Dense(), stop)
        assert single.status[0] is found.status[b]
        assert element(found.values, b).local(single.values).abs().max() < 1e-12


@pytest.mark.parametrize("adjoint", [Unroll(), Implicit()], ids=["unrolled", "implicit"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_gradients_pass_a_masked_nan_by(policy: Differentiation | None, adjoint: Adjoint) -> None:
    data = normal(2, 5, 3, seed=22).requires_grad_()
    method, stop = GaussNewton(), Tolerances(0, 1e-10, 1e-9, 20)
    if isinstance(adjoint, Unroll):
        stop = Tolerances(0, 0, 0, iterations=2)
    found = solve(
        spoilt(policy, data, MASK),
        start(),
        method,
        linear=Dense(),
        adjoint=adjoint,
        tolerances=stop,
    )
    x = found.values["pose"]
    assert isinstance(x, SE2)
    (gradient,) = torch.autograd.grad(x.translation.square().sum(), data)
    assert gradient.isfinite().all()
    assert ((gradient != 0).any(-1) == (MASK != 0)).all()


def test_shared_weights_get_no_nan_from_a_masked_factor() -> None:
    """The noise and the radius are those of all factors, also of one whose residual is NaN."""
    sigma = torch.tensor([0.3, 0.4, 0.2], dtype=F64, requires_grad=True)
    radius = torch.tensor(1.5, dtype=F64, requires_grad=True)
    z = normal(2, 5, 3, seed=22)
    gradients = []
    for hidden in (0.0, math.nan, math.inf):
        data = torch.where(MASK[..., None] != 0, z, torch.tensor(hidden, dtype=F64))
        group = offset(
            point[range(5)], data, noise=Diagonal(sigma), loss=Cauchy(radius), mask=MASK
        )
        values = point.values(range(5), normal(2, 5, 3, seed=23))
        gradients.append(torch.autograd.grad(numbers(group, values).sum(), [sigma, radius]))
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(b, a)
            assert a.abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, F64])
def test_a_mask_may_be_of_any_type(dtype: torch.dtype) -> None:
    z, values = normal(2, 5, 3, seed=22), point.values(range(5), normal(2, 5, 3, seed=23))
    masks = [MASK.to(dtype), MASK]
    a, b = (offset(point[range(5)], z, mask=m).objective(values) for m in masks)
    assert torch.equal(a, b)
