"""Derivatives of solutions: against finite differences, against unrolling, and their limits."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dnls_ros.costs.pose import between, prior
from dnls_ros.diff import Implicit, Unroll, solve
from dnls_ros.errors import DnlsError, DnlsWarning
from dnls_ros.lie import SE2, Euclidean
from dnls_ros.linear import Cholmod, Dense, LinearSolver
from dnls_ros.linear.krylov import Operator, Stop, iterate, minres
from dnls_ros.optim import GaussNewton, LevenbergMarquardt, Solution, Status, Tolerances
from dnls_ros.problem import (
    Cauchy,
    DensePrior,
    Diagonal,
    GemanMcClure,
    Problem,
    Shared,
    Values,
    Variables,
    Welsch,
    cost,
)

F64 = torch.float64
TIGHT = Tolerances(cost=0, step=1e-13, gradient=1e-13, iterations=300)
EXACT = Implicit(tolerance=1e-12)

pose = Variables("pose", SE2)
scalar = Variables("x", Euclidean(1))
COUNT = 6


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=F64, generator=generator)


def start(batch: int = 2) -> Values:
    return pose.values(range(COUNT), SE2.exp(normal(batch, COUNT, 3, seed=0)))


def chain(
    data: Tensor, sigma: Tensor, radius: Tensor, size: float = 1.0, batch: int = 2
) -> Problem:
    """Odometry, robust absolute poses and a marginal prior that contradict one another.

    Args:
        data: (B, COUNT, 3) tangents that displace the absolute poses.
        sigma: (3,) of the odometry.
        radius: () of the loss.
        size: Of the contradictions, in sigmas about.
    """
    ids = torch.arange(COUNT)
    truth = start(batch)["pose"]
    assert isinstance(truth, SE2)
    z = truth[:, :-1].between(truth[:, 1:]) @ SE2.exp(
        0.3 * size * normal(batch, COUNT - 1, 3, seed=1)
    )
    marginal = DensePrior(
        pose.values([0, 1], truth[:, :2]).retract(0.3 * size * normal(batch, 6, seed=2)),
        normal(1, 6, 6, seed=3).expand(batch, 6, 6),
        0.3 * size * normal(batch, 6, seed=4),
    )
    return Problem(
        odometry=between(pose[ids[:-1]], pose[ids[1:]], z, noise=Diagonal(sigma)),
        absolute=prior(
            pose[ids], truth @ SE2.exp(0.5 * size * data), loss=Cauchy(radius[None, None])
        ),
        marginal=marginal,
    )


Parameters = tuple[Tensor, Tensor, Tensor]


def parameters(batch: int = 2) -> Parameters:
    return (
        normal(batch, COUNT, 3, seed=5),
        torch.tensor([0.4, 0.5, 0.3], dtype=F64),
        torch.tensor(1.5, dtype=F64),
    )


def scored(solution: Solution) -> Tensor:
    """A smooth number of all poses."""
    x = solution.values["pose"]
    assert isinstance(x, SE2)
    weights = normal(COUNT, 4, seed=9)
    return (weights * x.tensor).sum() + (x.translation**2).sum()


def loss_of(adjoint: Any, size: float = 1.0, linear: LinearSolver | None = None) -> Any:
    def value(*theta: Tensor) -> Tensor:
        solution = solve(
            chain(*theta, size=size),
            start(),
            GaussNewton() if isinstance(adjoint, Unroll) else LevenbergMarquardt(),
            linear=linear or Dense(),
            adjoint=adjoint,
            tolerances=TIGHT,
        )
        return scored(solution)

    return value


def gradients(value: Callable[..., Tensor], theta: Parameters) -> tuple[Tensor, ...]:
    inputs = [t.clone().requires_grad_() for t in theta]
    return torch.autograd.grad(value(*inputs), inputs)


def richardson(f: Callable[[float], float], h: float = 0.02) -> float:
    """f'(0) of order h⁶ from three central differences."""

    def difference(step: float) -> float:
        return (f(step) - f(-step)) / (2 * step)

    coarse, middle, fine = (difference(h / 2**k) for k in range(3))
    first, second = (4 * middle - coarse) / 3, (4 * fine - middle) / 3
    return (16 * second - first) / 15


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_the_residual_of_the_example_is_about_one() -> None:
    solution = solve(chain(*parameters()), start(), linear=Dense(), tolerances=TIGHT)
    # 18 states and 39 residual components: about one each, at the minimum.
    assert all(status.converged for status in solution.status)
    assert ((solution.cost > 2) & (solution.cost < 30)).all()


@pytest.mark.parametrize("linear", [Dense(), Cholmod()], ids=lambda s: s.name)
def test_implicit_gradients_are_richardson_extrapolated_differences(linear: LinearSolver) -> None:
    theta = parameters()
    value = loss_of(EXACT, linear=linear)
    analytic = gradients(value, theta)
    for k, gradient in enumerate(analytic):  # data, sigma, radius
        direction = (
            normal(*gradient.shape, seed=20 + k) if gradient.ndim else torch.ones((), dtype=F64)
        )

        def along(h: float, k: int = k, direction: Tensor = direction) -> float:
            moved = [t + h * direction if m == k else t for m, t in enumerate(theta)]
            return float(value(*moved))

        numeric = richardson(along)
        assert float((gradient * direction).sum()) == pytest.approx(numeric, rel=1e-8)


def test_implicit_gradients_are_those_of_unrolling_to_convergence() -> None:
    theta = parameters()
    unrolled = gradients(loss_of(Unroll()), theta)
    for a, b in zip(gradients(loss_of(EXACT), theta), unrolled, strict=True):
        assert relative(a, b) < 1e-8


def test_gauss_newton_gradients_are_biased_by_the_residual() -> None:
    theta = parameters()
    biased = gradients(loss_of(Implicit("gauss_newton")), theta)
    for a, b in zip(biased, gradients(loss_of(EXACT), theta), strict=True):
        assert 1e-3 < relative(a, b) < 1


def test_gauss_newton_gradients_are_exact_where_residuals_vanish() -> None:
    def value(adjoint: Implicit, data: Tensor) -> Tensor:
        # At data = 0 everything agrees; the derivative with respect to it does not vanish.
        _, sigma, radius = parameters()
        problem = chain(data, sigma, radius, size=0.0)
        moved = prior(pose[range(COUNT)], moved_truth(data), loss=Cauchy(radius[None, None]))
        solution = solve(
            problem.replace(absolute=moved),
            start(),
            linear=Dense(),
            adjoint=adjoint,
            tolerances=TIGHT,
        )
        return scored(solution)

    def moved_truth(data: Tensor) -> SE2:
        truth = start()["pose"]
        assert isinstance(truth, SE2)
        return truth @ SE2.exp(data)

    data = torch.zeros(2, COUNT, 3, dtype=F64, requires_grad=True)
    exact, cheap = (
        torch.autograd.grad(value(a, data), data)[0] for a in (EXACT, Implicit("gauss_newton"))
    )
    assert exact.norm() > 0.1
    assert relative(cheap, exact) < 1e-10


# Small examples with derivatives in closed form


def derivative(
    problem: Callable[[Tensor], Problem],
    x0: Tensor,
    theta: Tensor,
    adjoint: Implicit,
    stop: Tolerances = TIGHT,
) -> Tensor:
    """∂x/∂θ of x (N,) = ``x0`` (N,) moved to the minimum, each x_k depending on θ_k alone."""
    theta = theta.clone().requires_grad_()
    initial = scalar.values(range(len(x0)), x0[None, :, None])
    found = solve(problem(theta), initial, linear=Dense(), adjoint=adjoint, tolerances=stop)
    x = found.values["x"]
    assert isinstance(x, Tensor)
    return torch.autograd.grad(x.sum(), theta)[0]


@cost(batched=True)
def squared(x: Tensor, theta: Tensor) -> Tensor:
    """S = ½(x − θ)⁴ with H = 6 (x − θ)², of which Gauss–Newton sees 4 (x − θ)²."""
    return (x - theta).square()


def test_the_quartic_has_derivative_one_and_not_one_and_a_half() -> None:
    def problem(theta: Tensor) -> Problem:
        return Problem(quartic=squared(scalar[[0]], theta[None, :, None]))

    x0, theta = torch.tensor([1.5], dtype=F64), torch.tensor([0.5], dtype=F64)
    stop = Tolerances(0, 0, 1e-8, 100)
    exact = derivative(problem, x0, theta, Implicit(), stop)
    biased = derivative(problem, x0, theta, Implicit("gauss_newton"), stop)
    assert exact.item() == pytest.approx(1.0, abs=1e-10)
    assert biased.item() == pytest.approx(1.5, abs=1e-10)


@cost(batched=True)
def bowl(x: Tensor, theta: Tensor, bend: Tensor) -> Tensor:
    """Residuals x − θ and 1 + ½ k x²: at x = θ = 0, H = 1 + k, and Gauss–Newton says 1."""
    return torch.cat([x - theta, 1 + 0.5 * bend * x.square()], -1)


def bowls(bend: Tensor) -> Callable[[Tensor], Problem]:
    def problem(theta: Tensor) -> Problem:
        at = scalar[range(len(bend))]
        return Problem(bowl=bowl(at, theta[None, :, None], bend[None, :, None]))

    return problem


class Path:
    """Notes which solvers of the adjoint were tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import dnls_ros.diff.implicit as module

        self.tried: list[str] = []
        for name in ("iterate", "minres"):
            monkeypatch.setattr(module, name, self._noting(name, getattr(module, name)))

    def _noting(self, name: str, function: Any) -> Any:
        def noted(*arguments: Any) -> Any:
            self.tried.append(name)
            return function(*arguments)

        return noted


def test_a_hessian_beyond_twice_gauss_newtons_is_solved_by_conjugate_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, bend = Path(monkeypatch), torch.tensor([-0.3, 1.5, 3.0, 40.0], dtype=F64)
    zero = torch.zeros(4, dtype=F64)
    torch.testing.assert_close(derivative(bowls(bend), zero, zero, EXACT), 1 / (1 + bend))
    assert path.tried == ["iterate"]
    cheap = derivative(bowls(bend), zero, zero, Implicit("gauss_newton"))
    torch.testing.assert_close(cheap, torch.ones(4, dtype=F64))


def test_an_indefinite_hessian_is_solved_by_minres(monkeypatch: pytest.MonkeyPatch) -> None:
    path, bend = Path(monkeypatch), torch.tensor([1.5, -3.0, 10.0, -40.0], dtype=F64)
    zero = torch.zeros(4, dtype=F64)  # a saddle: the gradient vanishes
    torch.testing.assert_close(derivative(bowls(bend), zero, zero, EXACT), 1 / (1 + bend))
    assert path.tried == ["iterate", "minres"]


def test_a_singular_hessian_is_a_named_error() -> None:
    zero = torch.zeros(2, dtype=F64)
    bend = torch.tensor([0.5, -1.0], dtype=F64)
    with pytest.raises(DnlsError, match=r"adjoint system could not be solved .*MINRES"):
        derivative(bowls(bend), zero, zero, Implicit())


def test_a_singular_gauss_newton_hessian_is_a_named_error() -> None:
    @cost(batched=True)
    def total(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return x + y - z

    def problem(theta: Tensor) -> Problem:
        return Problem(total=total(scalar[[0]], scalar[[1]], Shared(theta)))

    zero = torch.zeros(2, dtype=F64)
    with pytest.raises(DnlsError, match=r"batch elements \[0\] is singular.*anchor"):
        derivative(problem, zero, torch.ones(1, dtype=F64), Implicit())


# Batches, and what carries gradients


def test_the_gradients_of_a_batch_are_those_of_its_elements() -> None:
    data, sigma, radius = parameters(3)

    def value(data: Tensor, keep: slice) -> Tensor:
        full = chain(normal(3, COUNT, 3, seed=5), sigma, radius, batch=3)
        from torch.utils import _pytree as pytree

        part = pytree.tree_map(lambda t: t[keep] if t.shape[0] == 3 else t, full)
        truth = start(3).map(lambda t: t[keep])
        x = truth["pose"]
        assert isinstance(x, SE2)
        part = part.replace(
            absolute=prior(
                pose[range(COUNT)], x @ SE2.exp(0.5 * data), loss=Cauchy(radius[None, None])
            )
        )
        found = solve(part, truth, linear=Dense(), adjoint=EXACT, tolerances=TIGHT)
        return scored(found)

    def gradient(keep: slice) -> Tensor:
        leaf = data[keep].clone().requires_grad_()
        return torch.autograd.grad(value(leaf, keep), leaf)[0]

    together = gradient(slice(0, 3))
    for b in range(3):
        torch.testing.assert_close(
            gradient(slice(b, b + 1))[0], together[b], atol=1e-11, rtol=1e-11
        )


@cost(batched=True)
def logarithm(x: Tensor, theta: Tensor) -> Tensor:
    """NaN for x ≤ 0; minimum at x = exp θ."""
    return x.log() - theta


@pytest.mark.parametrize("adjoint", [Implicit(), Implicit("gauss_newton"), Unroll()], ids=str)
def test_elements_that_failed_spoil_no_gradient_of_the_others(adjoint: Any) -> None:
    theta = torch.tensor([[[0.5]]], dtype=F64, requires_grad=True)  # shared by the batch
    x0 = torch.tensor([[[-1.0]], [[5.0]], [[1.2]]], dtype=F64)
    problem = Problem(
        f=logarithm(scalar[[0]], theta),
        data=logarithm(scalar[[0]], torch.tensor([[[0.5]], [[0.5]], [[0.5]]], dtype=F64)),
    )
    found = solve(
        problem, scalar.values([0], x0), linear=Dense(), adjoint=adjoint, tolerances=TIGHT
    )
    assert found.status[0] is Status.NOT_FINITE
    assert found.iterations[1] > found.accepted[1], "no step led to NaN: not a test"
    x = found.values["x"]
    assert isinstance(x, Tensor)
    (gradient,) = torch.autograd.grad(x[1:].sum(), theta)
    assert gradient.item() == pytest.approx(2 * 0.5 * torch.tensor(0.5).exp().item(), rel=1e-7)


def test_a_singular_element_matters_only_to_who_asks_for_it() -> None:
    @cost(batched=True)
    def scaled(x: Tensor, a: Tensor, theta: Tensor) -> Tensor:
        return a * (x - theta)

    theta = torch.ones(1, 1, 1, dtype=F64, requires_grad=True)
    a = torch.tensor([[[1.0]], [[0.0]]], dtype=F64)
    problem = Problem(f=scaled(scalar[[0]], a, theta))
    initial = scalar.values([0], torch.zeros(2, 1, 1, dtype=F64))
    for adjoint in (Implicit(), Implicit("gauss_newton")):
        found = solve(problem, initial, linear=Dense(), adjoint=adjoint)
        x = found.values["x"]
        assert isinstance(x, Tensor)
        (gradient,) = torch.autograd.grad(x[0].sum(), theta, retain_graph=True)
        assert gradient.item() == pytest.approx(1.0)
        with pytest.raises(DnlsError, match=r"batch elements \[1\] is singular"):
            torch.autograd.grad(x.sum(), theta)


@pytest.mark.parametrize("kind", [Cauchy, GemanMcClure, Welsch])
def test_strongly_robust_losses_still_have_exact_gradients(kind: Any) -> None:
    outlier = torch.tensor([[[0.0], [0.3], [2.5]]], dtype=F64)

    @cost(batched=True)
    def reading(x: Tensor, z: Tensor) -> Tensor:
        return x - z

    def minimum(z: Tensor) -> Tensor:
        problem = Problem(
            readings=reading(scalar[[0, 0, 0]], z, loss=kind(1.2)),
            weak=reading(scalar[[0]], torch.zeros(1, 1, 1, dtype=F64)),
        )
        initial = scalar.values([0], torch.zeros(1, 1, 1, dtype=F64))
        found = solve(problem, initial, linear=Dense(), adjoint=EXACT, tolerances=TIGHT)
        x = found.values["x"]
        assert isinstance(x, Tensor)
        return x.sum()

    z = outlier.clone().requires_grad_()
    (analytic,) = torch.autograd.grad(minimum(z), z)
    for k in range(3):
        unit = torch.zeros_like(outlier)
        unit[0, k] = 1
        numeric = richardson(lambda h, unit=unit: float(minimum(outlier + h * unit)))
        assert analytic[0, k].item() == pytest.approx(numeric, rel=1e-7, abs=1e-10)


def test_the_values_do_not_change_by_carrying_gradients() -> None:
    data, sigma, radius = parameters()
    plain = solve(chain(data, sigma, radius), start(), linear=Dense(), tolerances=TIGHT)
    assert not plain.values["pose"].tensor.requires_grad  # type: ignore[union-attr]
    data.requires_grad_()
    carrying = solve(chain(data, sigma, radius), start(), linear=Dense(), tolerances=TIGHT)
    assert carrying.values["pose"].tensor.requires_grad  # type: ignore[union-attr]
    assert plain.values.local(carrying.values.detach()).abs().max() < 1e-15


def test_a_problem_that_was_solved_before_can_still_be_differentiated() -> None:
    ids = torch.arange(COUNT)
    data, sigma, radius = parameters()
    truth = start()["pose"]
    assert isinstance(truth, SE2)

    def problem(data: Tensor) -> Problem:
        mask = (ids != 3)[None]
        z = truth @ SE2.exp(data)
        absolute = prior(pose[ids], z, loss=Cauchy(radius[None, None]), mask=mask)
        return chain(data.detach(), sigma, radius).replace(absolute=absolute)

    leaf = data.requires_grad_()
    learned = problem(leaf)
    for _ in range(2):  # constants that the first solution kept must not be inference tensors
        for adjoint in (replace(EXACT, warn_beyond=math.inf), Unroll()):
            found = solve(
                learned,
                start(),
                GaussNewton(),
                linear=Dense(),
                adjoint=adjoint,
                tolerances=Tolerances(1e-6, 0, 0, 4),
            )
            (gradient,) = torch.autograd.grad(scored(found), leaf, retain_graph=True)
            assert gradient[:, 3].abs().max() == 0  # masked
            assert gradient[:, 2].abs().max() > 1e-3


def test_initial_values_have_a_gradient_only_if_unrolled() -> None:
    theta = parameters()
    few = Tolerances(0, 0, 0, iterations=2)
    initial = start().map(lambda t: t.clone().requires_grad_())
    leaf = initial["pose"].tensor  # type: ignore[union-attr]
    unrolled = solve(
        chain(*theta), initial, GaussNewton(), linear=Dense(), adjoint=Unroll(), tolerances=few
    )
    (gradient,) = torch.autograd.grad(scored(unrolled), leaf)
    direction = start().local(start().retract(normal(2, 3 * COUNT, seed=8)))

    def along(h: float) -> float:
        moved = start().retract(h * direction)
        found = solve(chain(*theta), moved, GaussNewton(), linear=Dense(), tolerances=few)
        return float(scored(found))

    h = torch.zeros((), dtype=F64, requires_grad=True)
    moved = start().retract(h * direction)["pose"].tensor  # type: ignore[union-attr]
    (slope,) = torch.autograd.grad((gradient * moved).sum(), h)
    assert slope.item() == pytest.approx(richardson(along, 1e-3), rel=1e-7)
    with pytest.warns(DnlsWarning, match="Implicit gives them none.*use Unroll"):
        implicit = solve(chain(*theta), initial, linear=Dense(), tolerances=TIGHT)
    assert not implicit.values["pose"].tensor.requires_grad  # type: ignore[union-attr]


# Krylov solvers


def symmetric(eigenvalues: Tensor, seed: int) -> Tensor:
    q = torch.linalg.qr(normal(len(eigenvalues), *[eigenvalues.shape[1]] * 2, seed=seed))[0]
    return (q * eigenvalues[:, None, :]) @ q.mT


def system(indefinite: bool) -> tuple[Tensor, Tensor, Tensor]:
    """H, an approximate inverse that is positive definite, and a right-hand side; one is zero."""
    eigenvalues = 0.5 + 10 * normal(4, 12, seed=1).square()
    signs = torch.ones(12, dtype=F64)
    if indefinite:
        signs[::3] = -1
    h = symmetric(eigenvalues * signs, 2)
    approximate = symmetric(eigenvalues * (1 + 0.3 * normal(4, 12, seed=3).tanh()), 2)
    v = normal(4, 12, seed=4)
    v[3] = 0
    return h, approximate.inverse(), v


def conjugate_gradients(
    multiply: Operator, precondition: Operator, v: Tensor, u: Tensor, tolerance: float, limit: int
) -> Tensor:
    return iterate(multiply, precondition, v, u, Stop(tolerance, limit)).x


@pytest.mark.parametrize(
    ("iterate", "indefinite"), [(conjugate_gradients, False), (minres, False), (minres, True)]
)
def test_krylov_solvers_agree_with_a_dense_solve(iterate: Any, indefinite: bool) -> None:
    h, inverse, v = system(indefinite)

    def times(matrix: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: (matrix @ x[..., None])[..., 0]

    exact = torch.linalg.solve(h, v[..., None])[..., 0]
    for begin in (torch.zeros_like(v), normal(4, 12, seed=7)):
        u = iterate(times(h), times(inverse), v, begin, 1e-13, 60)
        torch.testing.assert_close(u, exact, atol=1e-10, rtol=1e-10)


def test_conjugate_gradients_stop_at_negative_curvature() -> None:
    h, inverse, v = system(indefinite=True)
    u = conjugate_gradients(
        lambda x: (h @ x[..., None])[..., 0],
        lambda x: (inverse @ x[..., None])[..., 0],
        v,
        torch.zeros_like(v),
        1e-13,
        60,
    )
    assert u.isfinite().all()


def test_a_converged_element_waits_for_the_others() -> None:
    h = torch.stack([torch.eye(12, dtype=F64), system(False)[0][0]])
    v = normal(2, 12, seed=4)
    for solver in (conjugate_gradients, minres):
        u = solver(
            lambda x: (h @ x[..., None])[..., 0], lambda x: x, v, torch.zeros_like(v), 1e-13, 60
        )
        torch.testing.assert_close(u[0], v[0], atol=1e-14, rtol=0)
        torch.testing.assert_close((h[1] @ u[1]), v[1], atol=1e-10, rtol=0)
