"""The ways to differentiate a solution, held to one another and to finite differences."""

import functools
import math
import warnings
from typing import Any

import pytest
import torch
from test_diff import (
    COUNT,
    F64,
    TIGHT,
    chain,
    gradients,
    loss_of,
    normal,
    parameters,
    pose,
    relative,
    richardson,
    scalar,
    scored,
    start,
)
from torch import Tensor

from dnls_ros.costs import prior
from dnls_ros.diff import (
    DirectLoss,
    Implicit,
    Truncated,
    Unroll,
    energy_loss,
    local_samples,
    solve,
)
from dnls_ros.errors import DnlsError, DnlsWarning
from dnls_ros.lie import SE2, Euclidean
from dnls_ros.linear import Cholmod, Dense, Schur
from dnls_ros.optim import (
    CrossEntropy,
    Dogleg,
    Fixed,
    GaussNewton,
    LevenbergMarquardt,
    OneShot,
    Tolerances,
)
from dnls_ros.problem import Isotropic, Problem, Values, Variables, cost

SIZE = 1.0  # of the contradictions


def gauss_newton_loss(adjoint: Any, size: float = SIZE) -> Any:
    def value(*theta: Tensor) -> Tensor:
        problem = chain(*theta, size=size)
        found = solve(
            problem, start(), GaussNewton(), linear=Dense(), adjoint=adjoint, tolerances=TIGHT
        )
        return scored(found)

    return value


def flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def test_implicit_gauss_newton_is_one_truncated_step() -> None:
    theta = parameters()
    one = gradients(gauss_newton_loss(Truncated(1)), theta)
    implicit = gradients(gauss_newton_loss(Implicit("gauss_newton")), theta)
    for a, b in zip(one, implicit, strict=True):
        assert relative(a, b) < 1e-12


def iteration_matrix(theta: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """K = I − H_GN⁻¹∇²S at the minimum, and ∇²S, (2, n, n) each."""
    problem = chain(*theta, size=SIZE)
    found = solve(problem, start(), GaussNewton(), linear=Dense(), tolerances=TIGHT)
    values = found.values

    def objective(delta: Tensor) -> Tensor:
        return problem.objective(values.retract(delta)).sum()

    n = 3 * COUNT
    full = torch.autograd.functional.hessian(objective, torch.zeros(2, n, dtype=F64))
    hessian = torch.stack([full[b, :, b] for b in range(2)])  # type: ignore[index]
    pattern = found.assembly.structure.pattern
    approximate = pattern.dense(found.final_hessian())
    return torch.eye(n, dtype=F64) - torch.linalg.solve(approximate, hessian), hessian


@pytest.mark.parametrize("k", [1, 2, 5, 10])
def test_the_error_of_k_truncated_steps_is_the_kth_power_of_the_contraction(k: int) -> None:
    """dL/dθ = −vᵀ(I − Kᵏ)(∇²S)⁻¹ ∂g/∂θ: short of the truth by vᵀKᵏ(∇²S)⁻¹ ∂g/∂θ."""
    theta = parameters()
    exact = flat(gradients(gauss_newton_loss(Implicit(tolerance=1e-13)), theta))
    truncated = flat(gradients(gauss_newton_loss(Truncated(k)), theta))
    contraction, hessian = iteration_matrix(theta)
    inputs = [t.clone().requires_grad_() for t in theta]
    problem = chain(*inputs, size=SIZE)
    found = solve(problem, start(), GaussNewton(), linear=Dense(), tolerances=TIGHT)
    delta = torch.zeros(2, 3 * COUNT, dtype=F64, requires_grad=True)
    moved = found.values.detach().retract(delta)
    shifted = found.__class__(**{**found.__dict__, "values": moved})
    (v,) = torch.autograd.grad(scored(shifted), delta)
    left = (torch.linalg.matrix_power(contraction, k).mT @ v[..., None])[..., 0]
    u = torch.linalg.solve(hessian, left[..., None])[..., 0]
    gradient = problem.gradient(found.values.detach())
    predicted = flat(torch.autograd.grad(-(gradient * u).sum(), inputs))
    error = exact - truncated
    assert float(error.norm()) > 1e-14
    ratio = float((error @ predicted) / (predicted @ predicted))
    assert ratio == pytest.approx(1.0, abs=1e-3)
    assert float((error - predicted).norm() / predicted.norm()) < 1e-3


def test_more_truncated_steps_come_closer_to_the_truth() -> None:
    theta = parameters()
    exact = flat(gradients(gauss_newton_loss(Implicit(tolerance=1e-13)), theta))
    errors = [
        relative(flat(gradients(gauss_newton_loss(Truncated(k)), theta)), exact)
        for k in (1, 2, 5, 10, 40)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-10


@pytest.mark.parametrize(("central", "slope"), [(False, 1.0), (True, 2.0)])
def test_direct_loss_tends_to_the_implicit_gradient(central: bool, slope: float) -> None:
    theta = parameters()
    exact = flat(gradients(loss_of(Implicit(tolerance=1e-13)), theta))
    epsilons = (3e-2, 1e-2, 3e-3)
    errors = [
        relative(flat(gradients(loss_of(DirectLoss(e, central)), theta)), exact) for e in epsilons
    ]
    measured = math.log(errors[0] / errors[-1]) / math.log(epsilons[0] / epsilons[-1])
    assert measured == pytest.approx(slope, abs=0.1), errors


def direction() -> list[Tensor]:
    return [
        normal(2, COUNT, 3, seed=11),
        torch.tensor([0.1, -0.2, 0.1], dtype=F64),
        torch.tensor(0.5, dtype=F64),
    ]


@functools.cache
def finite_difference() -> float:
    """Of the loss along `direction`; all methods find the same minimum."""

    def along(h: float) -> float:
        moved = (t + h * d for t, d in zip(parameters(), direction(), strict=True))
        return float(loss_of(Implicit())(*moved))

    return richardson(along, 4e-3)


@pytest.mark.parametrize(
    "method",
    [
        GaussNewton(),
        LevenbergMarquardt(),
        LevenbergMarquardt.ceres(),
        LevenbergMarquardt.nielsen(),
        Dogleg(),
    ],
    ids=lambda m: str(m)[:60],
)
@pytest.mark.parametrize(
    ("adjoint", "tolerance"),
    [
        (Implicit(), 1e-8),
        (Unroll(), 1e-6),
        (Truncated(60), 1e-6),
        (DirectLoss(1e-3), 1e-5),
    ],
    ids=str,
)
def test_every_mode_of_every_method_gives_the_finite_difference(
    method: Any, adjoint: Any, tolerance: float
) -> None:
    def value(*theta: Tensor) -> Tensor:
        problem = chain(*theta, size=SIZE)
        few = Tolerances(0, 1e-11, 1e-11, 60)
        return scored(
            solve(problem, start(), method, linear=Dense(), adjoint=adjoint, tolerances=few)
        )

    slopes = gradients(value, parameters())
    got = sum(float((g * d).sum()) for g, d in zip(slopes, direction(), strict=True))
    assert got == pytest.approx(finite_difference(), rel=tolerance)


# What the method is made of


def bent(theta: Tensor) -> tuple[Problem, Values]:
    block = Variables("x", Euclidean(2))

    @cost(batched=True)
    def curve(x: Tensor, z: Tensor) -> Tensor:
        return torch.cat([x.sin() + x - z, 0.3 * x.square()], -1)

    problem = Problem(f=curve(block[[0]], theta[:, None]))
    return problem, block.values([0], torch.zeros(2, 1, 2, dtype=F64))


LEARNED_FROM = normal(2, 2, seed=3)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_learned_damping_has_the_gradient_of_the_iterations(scaled: bool, steps: int) -> None:
    def value(damping: Tensor) -> Tensor:
        method = LevenbergMarquardt(damping, Fixed(), scaled=scaled)
        found = solve(
            *bent(LEARNED_FROM),
            method,
            linear=Dense(),
            adjoint=Unroll(),
            tolerances=Tolerances(0, 0, 0, steps),
        )
        x: Any = found.values["x"]
        return (x * normal(2, 1, 2, seed=4)).sum()

    damping = torch.tensor([0.3, 0.7], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(value, damping)
    (slope,) = torch.autograd.grad(value(damping), damping)
    assert (slope.abs() > 1e-3).all()


def test_one_damped_step_has_the_closed_form() -> None:
    """∂L/∂λ = −uᵀDδ with (H + λD)u = ∂L/∂δ."""
    problem, initial = bent(LEARNED_FROM)
    structure = problem.structure(initial)
    from dnls_ros.optim import Assembly

    normal_equations = Assembly(problem, structure).normal_equations(initial)
    hessian = structure.pattern.dense(normal_equations.hessian)
    d = hessian.diagonal(dim1=1, dim2=2)
    damping = torch.tensor(0.4, dtype=F64, requires_grad=True)
    weights = normal(2, 2, seed=6)
    system = hessian + damping.detach() * torch.diag_embed(d)
    delta = torch.linalg.solve(system, -normal_equations.gradient)
    expected = -(torch.linalg.solve(system, weights) * d * delta).sum()
    method = LevenbergMarquardt(damping, Fixed())
    one = Tolerances(0, 0, 0, 1)
    found = solve(problem, initial, method, linear=Dense(), adjoint=Unroll(), tolerances=one)
    x: Any = found.values["x"]
    (slope,) = torch.autograd.grad((x[:, 0] * weights).sum(), damping)
    torch.testing.assert_close(slope, expected)


def test_a_learned_damping_matters_to_unrolled_and_truncated_steps_only() -> None:
    stopped = Tolerances(0, 0, 0, 3)
    for adjoint in (Truncated(2), Unroll(), Implicit(warn_beyond=math.inf), DirectLoss()):
        damping = torch.tensor(0.5, dtype=F64, requires_grad=True)
        theta = LEARNED_FROM.clone().requires_grad_()
        problem, initial = bent(theta)
        method = LevenbergMarquardt(damping, Fixed())
        found = solve(
            problem, initial, method, linear=Dense(), adjoint=adjoint, tolerances=stopped
        )
        x: Any = found.values["x"]
        (slope,) = torch.autograd.grad(x.sum(), damping, allow_unused=True)
        if isinstance(adjoint, (Truncated, Unroll)):
            assert float(slope) != 0
        else:
            assert slope is None


def test_truncated_steps_follow_an_adaptive_damping_to_where_it_went() -> None:
    damping = torch.tensor(0.1, dtype=F64, requires_grad=True)
    problem, initial = bent(LEARNED_FROM)
    stop = Tolerances(0, 0, 0, 4)
    method = LevenbergMarquardt(damping)
    found = solve(problem, initial, method, linear=Dense(), adjoint=Truncated(1), tolerances=stop)
    expected = damping.detach() * torch.tensor([1e-4, 1e-4], dtype=F64)
    torch.testing.assert_close(found.damping, expected)
    x: Any = found.values["x"]
    assert x.requires_grad


# Initial values (identity 16)


@pytest.mark.parametrize("adjoint", [Implicit(), Truncated(2), DirectLoss()], ids=str)
def test_modes_without_a_gradient_for_initial_values_say_so(adjoint: Any) -> None:
    leaf = normal(2, COUNT, 3, seed=0).requires_grad_()
    initial = pose.values(range(COUNT), SE2.exp(leaf))
    theta = parameters()
    theta[0].requires_grad_()
    with pytest.warns(DnlsWarning, match="gives them none"):
        found = solve(
            chain(*theta, size=SIZE), initial, linear=Dense(), adjoint=adjoint, tolerances=TIGHT
        )
    to_initial, to_data = torch.autograd.grad(scored(found), [leaf, theta[0]], allow_unused=True)
    assert to_initial is None
    assert float(to_data.abs().max()) > 1e-3


def test_learned_initial_values_get_their_gradient_from_unrolling() -> None:
    def value(leaf: Tensor) -> Tensor:
        initial = pose.values(range(COUNT), SE2.exp(leaf))
        few = Tolerances(0, 0, 0, 2)
        problem = chain(*parameters(), size=SIZE)
        return scored(
            solve(
                problem, initial, GaussNewton(), linear=Dense(), adjoint=Unroll(), tolerances=few
            )
        )

    leaf = normal(2, COUNT, 3, seed=0).requires_grad_()
    assert torch.autograd.gradcheck(value, leaf, atol=1e-6)


# Warnings


def test_implicit_away_from_an_optimum_warns_with_the_gradient() -> None:
    theta = [t.requires_grad_() for t in parameters()]
    early = Tolerances(0, 0, 0, 1)
    with pytest.warns(DnlsWarning, match=r"elements \[0, 1\] end with gradients up to .*g.* = \d"):
        solve(chain(*theta), start(), linear=Dense(), tolerances=early)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(chain(*theta), start(), linear=Dense(), tolerances=TIGHT)
        with torch.no_grad():
            solve(chain(*theta), start(), linear=Dense(), tolerances=early)
        mode = Implicit(warn_beyond=math.inf)
        solve(chain(*theta), start(), linear=Dense(), adjoint=mode, tolerances=early)


def test_impossible_policies_are_refused() -> None:
    with pytest.raises(DnlsError, match="at least one step, got 0"):
        Truncated(0)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(DnlsError, match="positive epsilon"):
            DirectLoss(bad)


# Memory (identity 14)


class Saved:
    """Counts the bytes that autograd keeps for backward passes."""

    def __init__(self) -> None:
        self.bytes = 0

    def __enter__(self) -> "Saved":
        def pack(t: Tensor) -> Tensor:
            self.bytes += t.numel() * t.element_size()
            return t

        self.hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
        self.hooks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.hooks.__exit__(None, None, None)


def kept(adjoint: Any, iterations: int) -> int:
    theta = [t.requires_grad_() for t in parameters()]
    with Saved() as saved:
        solve(
            chain(*theta, size=SIZE),
            start(),
            GaussNewton(0.3),
            linear=Dense(),
            adjoint=adjoint,
            tolerances=Tolerances(0, 0, 0, iterations),
        )
    return saved.bytes


@pytest.mark.parametrize(
    "adjoint", [Implicit(warn_beyond=math.inf), DirectLoss(), Truncated(2)], ids=str
)
def test_memory_does_not_grow_with_iterations(adjoint: Any) -> None:
    few, many = kept(adjoint, 2), kept(adjoint, 50)
    assert few == many > 0


def test_the_memory_of_unrolling_is_linear_in_iterations() -> None:
    two, ten, fifty = (kept(Unroll(), k) for k in (2, 10, 50))
    assert (fifty - two) / (ten - two) == pytest.approx(48 / 8, rel=0.02)


# Elements that failed, and methods without normal equations


@pytest.mark.parametrize("adjoint", [Truncated(2), DirectLoss()], ids=str)
def test_a_failed_element_spoils_no_gradient_of_the_others(adjoint: Any) -> None:
    @cost(batched=True)
    def logarithm(x: Tensor, scale: Tensor) -> Tensor:
        return scale * x.log() - 0.3

    def slope(starts: list[float]) -> Tensor:
        scale = torch.tensor([[[1.5]]], dtype=F64, requires_grad=True)
        initial = scalar.values([0], torch.tensor(starts, dtype=F64)[:, None, None])
        problem = Problem(f=logarithm(scalar[[0]], scale))
        found = solve(problem, initial, linear=Dense(), adjoint=adjoint, tolerances=TIGHT)
        x: Any = found.values["x"]
        (g,) = torch.autograd.grad(x[0].sum(), scale)
        return g

    assert torch.equal(slope([2.0, -1.0]), slope([2.0]))
    assert slope([2.0]).isfinite().all()


def test_a_linear_problem_is_differentiated_through_its_one_step() -> None:
    block = Variables("x", Euclidean(2))
    data = normal(3, 4, 2, seed=2).requires_grad_()
    sigma = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def value(data: Tensor, sigma: Tensor) -> Tensor:
        problem = Problem(
            seen=prior(block[[0, 0, 1, 1]], data, noise=Isotropic(sigma)),
            weak=prior(block[[0, 1]], torch.zeros(1, 2, 2, dtype=F64)),
        )
        start = block.values([0, 1], torch.zeros(3, 2, 2, dtype=F64))
        found = solve(problem, start, OneShot(), linear=Dense(), adjoint=Unroll())
        x: Any = found.values["x"]
        return x.square().sum()

    assert torch.autograd.gradcheck(value, (data, sigma))
    assert torch.autograd.gradgradcheck(value, (data, sigma))


def test_unrolled_minimizations_have_second_derivatives() -> None:
    def value(theta: Tensor) -> Tensor:
        problem, initial = bent(theta)
        few = Tolerances(0, 0, 0, 3)
        found = solve(
            problem, initial, GaussNewton(), linear=Dense(), adjoint=Unroll(), tolerances=few
        )
        x: Any = found.values["x"]
        return x.square().sum()

    assert torch.autograd.gradgradcheck(value, LEARNED_FROM.clone().requires_grad_())


def test_the_implicit_derivative_does_not_ask_how_the_minimum_was_found() -> None:
    theta = LEARNED_FROM.clone().requires_grad_()
    problem, initial = bent(theta)
    method = CrossEntropy(sigma=1.0, momentum=0.5, smallest=1e-9)
    long = Tolerances(0, 0, 0, 300)
    sampled = solve(problem, initial, method, linear=Dense(), tolerances=long)
    stepped = solve(problem, initial, linear=Dense(), tolerances=TIGHT)
    slopes = [
        torch.autograd.grad(f.values["x"].sum(), theta)[0]  # type: ignore[union-attr]
        for f in (sampled, stepped)
    ]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-5, atol=1e-7)


def test_the_cost_of_a_solution_carries_its_derivative() -> None:
    theta = LEARNED_FROM.clone().requires_grad_()
    slopes = []
    for adjoint in (Implicit(), Unroll(), Truncated(3)):
        problem, initial = bent(theta)
        found = solve(
            problem, initial, GaussNewton(), linear=Dense(), adjoint=adjoint, tolerances=TIGHT
        )
        slopes.append(torch.autograd.grad(found.cost.sum(), theta)[0])
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(slopes[0], slopes[2], rtol=1e-9, atol=1e-12)


# Energies


@pytest.mark.parametrize("linear", [Dense(), Cholmod()], ids=lambda s: s.name)
def test_local_samples_have_the_covariance_of_the_solution(linear: Any) -> None:
    problem = chain(*parameters(), size=SIZE)
    found = solve(problem, start(), linear=linear, tolerances=TIGHT)
    count, temperature = 20000, 0.5
    generator = torch.Generator().manual_seed(0)
    steps = local_samples(found, count, temperature, generator)
    assert steps.shape == (2, count, 3 * COUNT)
    assert steps.dtype == F64
    hessian = found.assembly.structure.pattern.dense(found.final_hessian())
    expected = temperature * torch.linalg.inv(hessian)
    sampled = steps.mT @ steps / count
    scale = expected.diagonal(dim1=1, dim2=2).sqrt()
    unit = scale[:, :, None] * scale[:, None, :]
    # A sample covariance's entries have standard deviation √((1 + ρ²)/K); 4.5 of it, for 648.
    spread = ((1 + (expected / unit) ** 2) / count).sqrt()
    assert ((sampled - expected).abs() / unit < 4.5 * spread).all()
    assert (steps.mean(1).abs() / scale < 4.5 * (temperature / count) ** 0.5).all()


def test_samples_of_float32_problems_are_float32_and_repeat() -> None:
    theta = [t.float() for t in parameters()]
    problem = Problem(a=prior(pose[range(COUNT)], SE2.exp(theta[0]), noise=Isotropic(0.3)))
    initial = pose.values(range(COUNT), SE2.identity(2, COUNT, dtype=torch.float32))
    found = solve(problem, initial, linear=Dense())
    first, second = (
        local_samples(found, 3, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert first.dtype == torch.float32
    assert torch.equal(first, second)


def test_learning_from_energies_finds_the_noise_of_the_data() -> None:
    """Residuals of σ = 0.5: the likelihood of the truth is greatest there."""
    block = Variables("x", Euclidean(1))
    truth = block.values([0], torch.zeros(400, 1, 1, dtype=F64))
    data = 0.5 * normal(400, 3, 1, seed=1)
    log_sigma = torch.tensor(0.5, dtype=F64, requires_grad=True)
    learner = torch.optim.Adam([log_sigma], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        problem = Problem(seen=prior(block[[0] * 3], data, noise=Isotropic(log_sigma.exp())))
        with torch.no_grad():
            found = solve(problem, truth, OneShot(), linear=Dense())
        learner.zero_grad()
        energy_loss(found, truth, count=8, generator=generator).mean().backward()
        learner.step()
    # Given three data the mean is known to σ/√3; the truth's distance from it tells σ.
    expected = math.sqrt(float(3 * data.mean(1).square().mean()))
    assert float(log_sigma.detach().exp()) == pytest.approx(expected, rel=0.05)
    assert expected == pytest.approx(0.5, rel=0.1)


def test_the_energy_loss_is_the_objective_of_truth_and_samples() -> None:
    theta = [t.requires_grad_() for t in parameters()]
    problem = chain(*theta, size=SIZE)
    with torch.no_grad():
        found = solve(problem, start(), linear=Dense(), tolerances=TIGHT)
    loss = energy_loss(found, start(), 5, generator=torch.Generator().manual_seed(2))
    steps = local_samples(found, 5, generator=torch.Generator().manual_seed(2))
    sampled = [problem.objective(found.values.retract(steps[:, k])) for k in range(5)]
    expected = problem.objective(start()) - torch.stack(sampled).mean(0)
    torch.testing.assert_close(loss, expected)
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss.sum(), theta))
    other = pose.values(range(COUNT - 1), SE2.identity(2, COUNT - 1, dtype=F64))
    with pytest.raises(DnlsError, match="must be the same variables"):
        energy_loss(found, other)
    with pytest.raises(DnlsError, match="count ≥ 1"):
        local_samples(found, 0)


def test_modes_agree_under_a_schur_complement() -> None:
    point = Variables("point", Euclidean(2))

    @cost(batched=True)
    def seen(x: SE2, p: Tensor, z: Tensor) -> Tensor:
        return x.inverse() @ p - z

    def value(z: Tensor, linear: Any, adjoint: Any) -> Tensor:
        problem = Problem(
            a=prior(pose[[0, 1]], SE2.exp(normal(1, 2, 3, seed=1)), noise=Isotropic(0.2)),
            s=seen(pose[[0, 1, 0, 1]], point[[0, 0, 1, 1]], z),
        )
        initial = pose.values([0, 1], SE2.exp(normal(1, 2, 3, seed=1))).merge(
            point.values([0, 1], normal(1, 2, 2, seed=2))
        )
        found = solve(problem, initial, linear=linear, adjoint=adjoint, tolerances=TIGHT)
        p: Any = found.values["point"]
        return p.square().sum()

    z = normal(1, 4, 2, seed=3).requires_grad_()
    reference = torch.autograd.grad(value(z, Dense(), Implicit(tolerance=1e-12)), z)[0]
    for adjoint, rel in ((Implicit(), 1e-8), (Truncated(80), 1e-6), (DirectLoss(1e-3), 1e-4)):
        got = torch.autograd.grad(value(z, Schur("point", Dense()), adjoint), z)[0]
        assert relative(got, reference) < rel
