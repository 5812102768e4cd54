"""Conjugate gradients and Schur complements: when they end, what they equal, whole solves."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from linear_rig import (
    ITERATIVE,
    KINDS,
    bundle,
    linearized,
    matrices,
    pattern_of,
    pose_graph,
    usable,
    vectors,
    window,
)
from torch import Tensor

from dnls_ros.diff import Implicit, Unroll
from dnls_ros.diff import solve as solve_problem
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2
from dnls_ros.linear import (
    ConjugateGradients,
    Dense,
    ImplicitSchur,
    InexactStep,
    LinearSolver,
    Schur,
)
from dnls_ros.linear.krylov import Iterated, Stop
from dnls_ros.linear.product import gram_product, gram_product_by_classes, product_with
from dnls_ros.optim import Dogleg, GaussNewton, LevenbergMarquardt, Solution, Tolerances, minimize
from dnls_ros.problem import Problem, Values
from dnls_ros.problem.structure import Pattern
from dnls_ros.problem.variables import Block

F64 = torch.float64
PROBLEMS: dict[str, tuple[str, Problem, Values]] = {
    "pose graph": ("frame", *pose_graph(3, 6)),
    "bundle": ("point", *bundle(2, 4, 15)),
}


@pytest.fixture(params=ITERATIVE, ids=lambda s: s.name)
def iterative(request: pytest.FixtureRequest) -> LinearSolver:
    return request.param


def run(linear: Any, pattern: Pattern, values: Tensor, rhs: Tensor, **stop: Any) -> Iterated:
    """The bare iteration."""
    iteration = linear.analyze(pattern).factorize(values).iteration
    return iteration.run(rhs[..., None], Stop(**{"tolerance": 1e-14, "iterations": 500, **stop}))


# When they end


def test_the_tighter_the_tolerance_the_closer_to_the_direct_solution() -> None:
    pattern = window()
    values, rhs = matrices(pattern, 2), vectors(2, pattern.n)
    exact = torch.linalg.solve(pattern.dense(values), rhs)
    dense = pattern.dense(values)
    condition = float(torch.linalg.cond(dense).max())
    for tolerance in (1e-2, 1e-5, 1e-8, 1e-11, 0.0):
        linear = ConjugateGradients(tolerance)
        x = linear.analyze(pattern).factorize(values).solve(rhs)
        residual = (rhs - (dense @ x[..., None])[..., 0]).norm(dim=1) / rhs.norm(dim=1)
        assert (residual <= max(tolerance, 1e-14)).all()
        assert ((x - exact).norm(dim=1) <= condition * max(tolerance, 1e-14) * exact.norm()).all()


def test_iterations_are_as_many_as_distinct_eigenvalues_each_element_by_itself() -> None:
    """[[1, C], [Cᵀ, 1]] has the eigenvalues 1 ± σ of C's singular values."""
    pattern = pattern_of([(0, 1)], (Block("a", 0, 2, 6),))
    turn = torch.linalg.qr(vectors(6, 6)).Q
    coupling = torch.tensor([[0.0] * 6, [0.5] * 6, [0.2, 0.2, 0.5, 0.5, 0.5, 0.7]], dtype=F64)
    dense = torch.eye(12, dtype=F64).repeat(3, 1, 1)
    dense[:, 6:, :6] = coupling.diag_embed() @ turn
    values = dense[:, pattern.rows, pattern.columns]
    found = run(ConjugateGradients(), pattern, values, vectors(3, 12), tolerance=1e-12)
    assert found.iterations.flatten().tolist() == [1, 2, 6]
    assert bool(found.converged.all())


def test_an_element_that_is_done_keeps_its_value_while_others_go_on() -> None:
    pattern = window()
    values, rhs = matrices(pattern, 3), vectors(3, pattern.n)
    values[1] = 0.0
    values[1, pattern.diagonal] = 1.0
    together = run(ConjugateGradients(), pattern, values, rhs)
    assert together.iterations.flatten()[1] == 1
    for b in range(3):
        one = slice(b, b + 1)
        alone = run(ConjugateGradients(), pattern, values[one], rhs[one])
        assert int(alone.iterations) == int(together.iterations[b])
        torch.testing.assert_close(together.x[one], alone.x, rtol=1e-14, atol=1e-15)


def test_a_solve_that_cannot_reach_its_tolerance_has_no_answer(iterative: LinearSolver) -> None:
    """Not even a plausible one; the neighbour that can is not affected."""
    few = _with(iterative, ConjugateGradients(iterations=3))
    pattern = window()
    values, rhs = matrices(pattern, 2), vectors(2, pattern.n)
    values[1] = 0.0
    values[1, pattern.diagonal] = 2.0
    factorization = few.analyze(pattern).factorize(values)
    x = factorization.solve(rhs)
    assert factorization.ok.tolist() == [True, True]
    assert x[0].isnan().all()
    torch.testing.assert_close(x[1], 0.5 * rhs[1])
    two = factorization.solve(torch.stack([rhs, torch.zeros_like(rhs)], 2))
    assert two[0, :, 0].isnan().all()
    assert (two[..., 1] == 0).all()


def _with(linear: Any, inner: ConjugateGradients) -> LinearSolver:
    """The same kind of solver with other settings of its iteration."""
    if isinstance(linear, ConjugateGradients):
        return inner
    return type(linear)(**{**vars(linear), "inner": inner})


def test_a_matrix_that_is_not_positive_definite_inside_is_found_by_a_solve(
    iterative: LinearSolver,
) -> None:
    """Its diagonal blocks are; the direction of negative curvature is met on the way."""
    pattern = window()
    good = matrices(pattern, 3)
    bad = good.clone()
    pose_of, axis = pattern.columns // 3, 3
    link = (pattern.rows == axis) & (pattern.columns == 0)
    assert link.sum() == 1
    assert pose_of[link] == 0
    bad[1, link] = 100.0
    symbolic, rhs = iterative.analyze(pattern), vectors(3, pattern.n, 2)
    assert float(torch.linalg.eigvalsh(pattern.dense(bad))[1, 0]) < 0
    x, intact = (symbolic.factorize(v).solve(rhs) for v in (bad, good))
    assert x[1].isnan().all()
    assert torch.equal(x[[0, 2]], intact[[0, 2]])


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e170, 1e300])
def test_the_size_of_a_right_hand_side_does_not_matter(
    iterative: LinearSolver, size: float
) -> None:
    pattern = window()
    factorization = iterative.analyze(pattern).factorize(matrices(pattern, 1))
    rhs = vectors(1, pattern.n)
    expected = factorization.solve(rhs)
    torch.testing.assert_close(factorization.solve(size * rhs) / size, expected, rtol=1e-9, atol=0)


def test_a_right_hand_side_that_is_not_finite_has_no_solution(iterative: LinearSolver) -> None:
    pattern = window()
    factorization = iterative.analyze(pattern).factorize(matrices(pattern, 2))
    rhs = vectors(2, pattern.n, 2)
    broken = rhs.clone()
    broken[0, 3, 1], broken[1, 0, 1] = torch.nan, torch.inf
    x = factorization.solve(broken)
    assert x[..., 1].isnan().all()
    torch.testing.assert_close(x[..., 0], factorization.solve(rhs)[..., 0], rtol=0, atol=1e-13)


def test_units_do_not_matter(iterative: LinearSolver) -> None:
    """With some unknowns in other units by 10¹² the solution is as exact as before."""
    pattern = window()
    values, rhs = matrices(pattern, 1), vectors(1, pattern.n)
    expected = torch.linalg.solve(pattern.dense(values), rhs)
    units = torch.ones(pattern.n, dtype=F64)
    units[3:9], units[12:14] = 1e-6, 1e6
    scaled = values * units[pattern.rows] * units[pattern.columns]
    x = iterative.analyze(pattern).factorize(scaled).solve(rhs * units)
    torch.testing.assert_close(x * units, expected, rtol=1e-9, atol=1e-9)


def test_single_precision_is_solved_to_single_precision(iterative: LinearSolver) -> None:
    pattern = window()
    values, rhs = matrices(pattern, 2, dtype=torch.float32), vectors(2, pattern.n).float()
    x = iterative.analyze(pattern).factorize(values).solve(rhs)
    assert x.dtype == torch.float32
    expected = torch.linalg.solve(pattern.dense(values), rhs)
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)


def test_the_residual_may_be_replaced_on_the_way() -> None:
    pattern = window()
    values, rhs = matrices(pattern, 2), vectors(2, pattern.n)
    for refresh in (1, 10):
        linear = ConjugateGradients(refresh=refresh)
        x = linear.analyze(pattern).factorize(values).solve(rhs)
        expected = torch.linalg.solve(pattern.dense(values), rhs)
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-12)


def test_there_is_no_diagonal_of_a_factor(iterative: LinearSolver) -> None:
    pattern = window()
    factorization = iterative.analyze(pattern).factorize(matrices(pattern, 1))
    with pytest.raises(DnlsError, match="factorizes no whole matrix"):
        factorization.diagonal()
    assert 0 < factorization.nnz < pattern.n * (pattern.n + 1) // 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConjugateGradients(-1.0),
        lambda: ConjugateGradients(iterations=0),
        lambda: ConjugateGradients(refresh=-1),
        lambda: ConjugateGradients(float("nan")),
        lambda: InexactStep(model=1.0),
        lambda: InexactStep(iterations=0),
    ],
)
def test_impossible_settings_are_refused(make: Any) -> None:
    with pytest.raises(DnlsError, match="at least one iteration, got"):
        make()


# Inexact steps


def test_a_truncated_step_ends_where_the_model_hardly_falls() -> None:
    problem, values = bundle(2, 4, 15)
    pattern, hessian, rhs = linearized(problem, values)
    full = run(ConjugateGradients(), pattern, hessian, rhs)
    short = run(ConjugateGradients(), pattern, hessian, rhs, model=1e-3)
    assert (short.iterations < full.iterations).all()

    def model(x: Tensor) -> Tensor:
        x = x[..., 0]
        return 0.5 * (x * pattern.multiply(hessian, x)).sum(1) - (x * rhs).sum(1)

    assert (model(full.x) < model(short.x)).all()
    assert (model(short.x) < 0.98 * model(full.x)).all()


@pytest.mark.parametrize(
    "make",
    [lambda c: c, lambda c: Schur("point", c), lambda c: ImplicitSchur("point", c)],
    ids=["pcg", "schur", "implicit schur"],
)
def test_the_predicted_decrease_holds_for_truncated_steps(make: Any) -> None:
    """½δᵀ(λDδ − g) is what the model says, though the system is not solved."""
    problem, values = bundle(2, 4, 15)
    pattern, hessian, rhs = linearized(problem, values)
    weight = 1e-2 * hessian[:, pattern.diagonal]
    damped = hessian.index_add(1, pattern.index("diagonal", hessian.device), weight)
    rough = make(ConjugateGradients(inexact=InexactStep(iterations=4)))
    factorization: Any = rough.analyze(pattern).factorize(damped)
    delta = factorization.step(rhs)
    residual = (rhs - pattern.multiply(damped, delta)).norm(dim=1) / rhs.norm(dim=1)
    assert (residual > 1e-6).all()
    model = (rhs * delta).sum(1) - 0.5 * (delta * pattern.multiply(hessian, delta)).sum(1)
    predicted = 0.5 * (delta * (weight * delta + rhs)).sum(1)
    torch.testing.assert_close(predicted, model, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", PROBLEMS)
def test_inexact_steps_lead_to_the_same_minimum(name: str) -> None:
    eliminate, problem, start = PROBLEMS[name]
    stop = Tolerances(1e-14, 0.0, 1e-10, 200)
    rough = ConjugateGradients(inexact=InexactStep())
    method = LevenbergMarquardt.ceres()
    exact = minimize(problem, start, method, Dense(), stop)
    for linear in (rough, Schur(eliminate, rough), ImplicitSchur(eliminate, rough)):
        found = minimize(problem, start, method, linear, stop)
        assert all(status.converged for status in found.status)
        torch.testing.assert_close(found.cost, exact.cost, rtol=1e-9, atol=1e-12)


# What they equal


def test_the_preconditioner_is_the_block_diagonal_of_what_is_solved() -> None:
    """Schur–Jacobi without S: of K − WE⁻¹Wᵀ."""
    problem, values = bundle(2, 4, 15)
    pattern, hessian, _ = linearized(problem, values)
    dense, cameras = pattern.dense(hessian), pattern.blocks[0].stop
    k, w, e = (
        dense[:, :cameras, :cameras],
        dense[:, cameras:, :cameras],
        dense[:, cameras:, cameras:],
    )
    schur = k - w.mT @ torch.linalg.solve(e, w)
    for linear, matrix in (
        (ConjugateGradients(), dense),
        (ImplicitSchur("point"), schur),
        (ImplicitSchur("point", schur_jacobi=False), k),
    ):
        factorization: Any = linear.analyze(pattern).factorize(hessian)
        n = matrix.shape[1]
        blocks = factorization.iteration.jacobi.multiply(torch.eye(n, dtype=F64).expand(2, n, n))
        for block in pattern.blocks[: 1 if n == cameras else 2]:
            for i in range(block.count):
                own = slice(block.offset, block.stop)
                one = slice(i * block.tangent_dim, (i + 1) * block.tangent_dim)
                torch.testing.assert_close(
                    blocks[:, own, own][:, one, one], matrix[:, own, own][:, one, one]
                )


def test_explicit_and_implicit_schur_complement_take_the_same_iterates() -> None:
    problem, values = bundle(2, 4, 15)
    pattern, hessian, rhs = linearized(problem, values)
    for limit in (1, 3, 10, 60):
        rough = ConjugateGradients(inexact=InexactStep(0.0, limit))
        one: Any = Schur("point", rough).analyze(pattern).factorize(hessian)
        two: Any = ImplicitSchur("point", rough).analyze(pattern).factorize(hessian)
        torch.testing.assert_close(one.step(rhs), two.step(rhs), rtol=1e-8, atol=1e-10)


def test_scaled_by_its_blocks_a_hessian_of_factors_on_two_variables_is_below_two() -> None:
    pattern, hessian, _ = linearized(*pose_graph(3, 6))
    factorization: Any = ConjugateGradients().analyze(pattern).factorize(hessian)
    scaled = factorization.iteration.jacobi.solve(pattern.dense(hessian))
    assert float(torch.linalg.eigvals(scaled).real.max()) <= 2 + 1e-9


@pytest.mark.parametrize("columns", [1, 3])
def test_products_equal_dense_products_on_every_path(columns: int) -> None:
    """SciPy's on the CPU, and torch's that other devices take."""
    pattern = window()
    values, x = matrices(pattern, 2), vectors(2, pattern.n, columns)
    expected = pattern.dense(values) @ x
    torch.testing.assert_close(product_with(pattern, values)(x), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(pattern.multiply(values, x), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        pattern.multiply(values, x[..., 0]), expected[..., 0], rtol=0, atol=1e-13
    )
    factorization: Any = Schur("point", Dense()).analyze(pattern).factorize(values)
    classes, size = factorization.eliminated.classes, len(factorization.eliminated.kept)
    x = vectors(2, size, columns)
    torch.testing.assert_close(
        gram_product(classes, size)(x), gram_product_by_classes(classes, x), rtol=0, atol=1e-13
    )


# Whole solves


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_levenberg_marquardt_takes_the_same_iterates_with_every_solver(
    name: str, kind: str
) -> None:
    eliminate, problem, start = PROBLEMS[name]
    linear = usable(KINDS[kind](eliminate))
    for limit in (1, 3, 6):
        stop = Tolerances(0.0, 0.0, 0.0, limit)
        ours, dense = (
            minimize(problem, start, LevenbergMarquardt.ceres(), s, stop)
            for s in (linear, Dense())
        )
        assert ours.accepted.tolist() == dense.accepted.tolist()
        torch.testing.assert_close(ours.cost, dense.cost, rtol=1e-10, atol=0)
        for block in start.blocks:
            torch.testing.assert_close(
                _numbers(ours, block), _numbers(dense, block), rtol=1e-8, atol=1e-9
            )


def _numbers(solution: Solution, block: str) -> Tensor:
    element = solution.values[block]
    return element if isinstance(element, Tensor) else element.tensor


@pytest.mark.parametrize("method", [GaussNewton(), Dogleg(), LevenbergMarquardt()])
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_method_finds_the_minimum_by_conjugate_gradients(name: str, method: Any) -> None:
    eliminate, problem, start = PROBLEMS[name]
    exact = minimize(problem, start, method, Dense())
    for linear in (ConjugateGradients(), ImplicitSchur(eliminate)):
        found = minimize(problem, start, method, linear)
        assert found.status == exact.status
        torch.testing.assert_close(found.cost, exact.cost, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("inexact", [None, InexactStep()], ids=["exact", "inexact steps"])
@pytest.mark.parametrize("adjoint", [Implicit(), Implicit("gauss_newton"), Unroll()], ids=str)
def test_gradients_through_a_solution_are_the_same_with_every_solver(
    adjoint: Any, inexact: InexactStep | None
) -> None:
    eliminate, problem, start = PROBLEMS["pose graph"]
    group: Any = problem["loops"]
    inner = ConjugateGradients(inexact=inexact)

    def gradient(linear: LinearSolver) -> Tensor:
        z = group.arguments[-1].tensor.clone().requires_grad_()
        arguments = (*group.arguments[:-1], SE2(z))
        changed = Problem(**{**problem, "loops": replace(group, arguments=arguments)})
        stop = Tolerances(1e-15, 1e-12, 1e-11, 40)
        found = solve_problem(
            changed, start, LevenbergMarquardt(), linear=linear, adjoint=adjoint, tolerances=stop
        )
        score = sum(_numbers(found, block).square().sum() for block in start.blocks)
        return torch.autograd.grad(score, z)[0]

    expected = gradient(Dense())
    tolerance = 1e-7 if inexact is None else 1e-6  # inexact steps end a little beside the minimum
    for linear in (inner, Schur(eliminate, inner), ImplicitSchur(eliminate, inner)):
        torch.testing.assert_close(gradient(linear), expected, rtol=tolerance, atol=1e-8)
