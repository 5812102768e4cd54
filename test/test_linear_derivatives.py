"""The one derivative of all linear solvers: on real patterns, twice, with bad elements."""

from collections.abc import Callable

import pytest
import torch
from linear_rig import (
    KINDS,
    SOLVERS,
    broken,
    bundle,
    equilibrated,
    linearized,
    matrices,
    pose_graph,
    small,
    usable,
    vectors,
    window,
)
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from dnls_ros.linear import (
    ConjugateGradients,
    Dense,
    InexactStep,
    LinearSolver,
    Schur,
    solve,
    solve_step,
    solve_with,
)
from dnls_ros.linear.solver import Symbolic
from dnls_ros.problem.structure import Pattern

GRAPHS: dict[str, tuple[str, Callable[[], tuple[Pattern, Tensor, Tensor]]]] = {
    "pose graph": ("frame", lambda: linearized(*pose_graph(2, 3))),
    "bundle": ("point", lambda: linearized(*bundle(1, 2, 3))),
}


@pytest.fixture(params=SOLVERS, ids=lambda s: s.name)
def solver(request: pytest.FixtureRequest) -> LinearSolver:
    return usable(request.param)


@pytest.fixture(params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=KINDS)
def real(request: pytest.FixtureRequest, graph: str) -> tuple[Symbolic, Tensor]:
    """A solver's analysis of a real problem's pattern, and its matrices."""
    eliminate, make = GRAPHS[graph]
    chosen = usable(KINDS[request.param](eliminate))
    pattern, hessian, _ = make()
    return chosen.analyze(pattern), equilibrated(pattern, hessian)


@pytest.mark.parametrize("columns", [(), (2,)], ids=["one", "two"])
def test_derivatives_equal_central_differences_on_real_patterns(
    real: tuple[Symbolic, Tensor], columns: tuple[int, ...]
) -> None:
    """Along random directions; every entry by itself in the tests below."""
    symbolic, values = real
    rhs = vectors(len(values), symbolic.pattern.n, *columns).requires_grad_()
    values = values.requires_grad_()
    assert gradcheck(lambda v, b: solve(symbolic, v, b), (values, rhs), fast_mode=True)
    assert gradgradcheck(lambda v, b: solve(symbolic, v, b), (values, rhs), fast_mode=True)


def test_first_and_second_derivatives_equal_central_differences(solver: LinearSolver) -> None:
    """Every entry by itself."""
    pattern = small()
    symbolic = solver.analyze(pattern)
    for check, batch in ((gradcheck, 2), (gradgradcheck, 1)):
        values = matrices(pattern, batch).requires_grad_()
        rhs = vectors(batch, pattern.n).requires_grad_()
        assert check(lambda v, b: solve(symbolic, v, b), (values, rhs))


def test_derivatives_hold_for_several_right_hand_sides(solver: LinearSolver) -> None:
    pattern = small()
    symbolic = solver.analyze(pattern)
    values, rhs = matrices(pattern, 1).requires_grad_(), vectors(1, pattern.n, 2).requires_grad_()
    assert gradcheck(lambda v, b: solve(symbolic, v, b), (values, rhs))
    assert gradgradcheck(lambda v, b: solve(symbolic, v, b), (values, rhs), fast_mode=True)


def test_a_factorization_is_reused_by_the_derivative(solver: LinearSolver) -> None:
    pattern = window()
    values, rhs = matrices(pattern, 2).requires_grad_(), vectors(2, pattern.n)
    factorization = solver.analyze(pattern).factorize(values)
    reference = torch.linalg.solve(pattern.dense(values), rhs)
    x = solve_with(factorization, values, rhs)
    weights = vectors(2, pattern.n, seed=2)
    (ours,) = torch.autograd.grad((weights * x).sum(), values)
    (theirs,) = torch.autograd.grad((weights * reference).sum(), values)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


def test_a_bad_matrix_that_is_masked_out_passes_on_zero_gradients(solver: LinearSolver) -> None:
    pattern = window()
    good, bad, expected = broken(pattern)
    symbolic = solver.analyze(pattern)

    def gradients(numbers: Tensor) -> list[Tensor]:
        values, rhs = numbers.clone().requires_grad_(), vectors(7, pattern.n).requires_grad_()
        x = solve(symbolic, values, rhs)
        kept = torch.where(expected[:, None], x, torch.zeros_like(x))
        return list(torch.autograd.grad(kept.square().sum(), (values, rhs)))

    for harmed, intact in zip(gradients(bad), gradients(good), strict=True):
        assert torch.equal(harmed[expected], intact[expected])
        assert (harmed[~expected] == 0).all()


def test_a_bad_matrix_that_is_used_passes_on_nan(solver: LinearSolver) -> None:
    pattern = window()
    _, bad, expected = broken(pattern)
    values = bad.requires_grad_()
    (gradient,) = torch.autograd.grad(
        solve(solver.analyze(pattern), values, vectors(7, pattern.n)).sum(), values
    )
    assert gradient[~expected].isnan().all()
    assert gradient[expected].isfinite().all()


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "in Schur"])
def test_inexact_steps_never_enter_a_derivative(wrapped: bool) -> None:
    """Where autograd records, and in every derivative, the solution is the exact one."""
    pattern = window()
    rough = ConjugateGradients(inexact=InexactStep(iterations=2))
    symbolic = (Schur("point", rough) if wrapped else rough).analyze(pattern)
    values, rhs = matrices(pattern, 2), vectors(2, pattern.n)
    exact = torch.linalg.solve(pattern.dense(values), rhs)
    assert not torch.allclose(solve_step(symbolic, values, rhs), exact, rtol=1e-3)
    recorded = solve_step(symbolic, values.clone().requires_grad_(), rhs)
    torch.testing.assert_close(recorded, exact, rtol=0, atol=1e-13)
    torch.testing.assert_close(solve(symbolic, values, rhs), exact, rtol=0, atol=1e-13)
    weights = vectors(2, pattern.n, seed=3).requires_grad_()
    (adjoint,) = torch.autograd.grad((solve_step(symbolic, values, weights)).sum(), weights)
    ones = torch.linalg.solve(pattern.dense(values), torch.ones_like(rhs))
    torch.testing.assert_close(adjoint, ones, rtol=0, atol=1e-13)


def test_one_column_without_a_solution_that_is_masked_out_harms_no_other() -> None:
    """A column of NaN has no solution; the derivative of the other one stays."""
    pattern = window()
    values = matrices(pattern, 1).requires_grad_()
    rhs = vectors(1, pattern.n, 2)
    broken_rhs = rhs.clone()
    broken_rhs[:, 0, 1] = torch.nan
    symbolic = Dense().analyze(pattern)

    def gradient(b: Tensor) -> Tensor:
        return torch.autograd.grad(solve(symbolic, values, b)[..., 0].sum(), values)[0]

    assert torch.equal(gradient(broken_rhs), gradient(rhs))
