"""The laws of linear solvers, written once: a new one is added to `SOLVERS` and inherits them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from linear_rig import (
    DIRECT,
    POSES,
    SOLVERS,
    broken,
    matrices,
    pattern_of,
    usable,
    vectors,
    window,
)
from torch import Tensor

from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.linear import (
    BlockCholesky,
    Cholmod,
    Dense,
    Fitting,
    LinearSolver,
    Multifrontal,
    Schur,
    choose_device,
    choose_solver,
    solve,
)
from dnls_ros.problem.structure import Pattern
from dnls_ros.problem.variables import Block


@pytest.fixture(params=SOLVERS, ids=lambda s: s.name)
def solver(request: pytest.FixtureRequest) -> LinearSolver:
    return usable(request.param)


@pytest.fixture(params=DIRECT, ids=lambda s: s.name)
def direct(request: pytest.FixtureRequest) -> LinearSolver:
    return usable(request.param)


def test_a_solve_equals_the_dense_solve(solver: LinearSolver) -> None:
    pattern = window()
    values, rhs = matrices(pattern, 3), vectors(3, pattern.n)
    x = solver.analyze(pattern).factorize(values).solve(rhs)
    torch.testing.assert_close(
        x, torch.linalg.solve(pattern.dense(values), rhs), rtol=0, atol=1e-13
    )


def test_several_right_hand_sides_are_solved_at_once(solver: LinearSolver) -> None:
    pattern = window()
    factorization = solver.analyze(pattern).factorize(matrices(pattern, 2))
    rhs = vectors(2, pattern.n, 4)
    single = torch.stack([factorization.solve(rhs[..., k]) for k in range(4)], 2)
    torch.testing.assert_close(factorization.solve(rhs), single, rtol=0, atol=1e-13)


def test_an_analysis_serves_many_factorizations_and_old_ones_stay_valid(
    solver: LinearSolver,
) -> None:
    pattern = window()
    symbolic, rhs = solver.analyze(pattern), vectors(2, pattern.n)
    values = [matrices(pattern, 2, seed) for seed in range(3)]
    factorizations = [symbolic.factorize(v) for v in values]
    for v, factorization in zip(values, factorizations, strict=True):
        expected = torch.linalg.solve(pattern.dense(v), rhs)
        torch.testing.assert_close(factorization.solve(rhs), expected, rtol=0, atol=1e-13)


def test_a_bad_matrix_is_reported_and_harms_no_other(solver: LinearSolver) -> None:
    pattern = window()
    good, bad, expected = broken(pattern)
    symbolic, rhs = solver.analyze(pattern), vectors(7, pattern.n)
    factorization = symbolic.factorize(bad)
    assert factorization.ok.tolist() == expected.tolist()
    x, intact = factorization.solve(rhs), symbolic.factorize(good)
    assert x[~expected].isnan().all()
    assert torch.equal(x[expected], intact.solve(rhs)[expected])


def test_a_bad_matrix_has_no_diagonal_and_harms_no_other(direct: LinearSolver) -> None:
    pattern = window()
    good, bad, expected = broken(pattern)
    symbolic = direct.analyze(pattern)
    diagonal = symbolic.factorize(bad).diagonal()
    assert diagonal[~expected].isnan().all()
    assert torch.equal(diagonal[expected], symbolic.factorize(good).diagonal()[expected])


def test_the_batch_gives_what_single_solves_give(solver: LinearSolver) -> None:
    pattern = window()
    values, rhs = matrices(pattern, 3), vectors(3, pattern.n)
    symbolic = solver.analyze(pattern)
    together = symbolic.factorize(values).solve(rhs)
    alone = torch.cat(
        [symbolic.factorize(values[i : i + 1]).solve(rhs[i : i + 1]) for i in range(3)]
    )
    # Not to the last bit: some processors' BLAS rounds by where in memory a matrix begins.
    torch.testing.assert_close(together, alone, rtol=1e-14, atol=1e-15)


def test_two_runs_are_equal_to_the_last_bit(solver: LinearSolver) -> None:
    pattern = window()

    def run() -> Tensor:
        values = matrices(pattern, 2).requires_grad_()
        x = solve(solver.analyze(pattern), values, vectors(2, pattern.n))
        (gradient,) = torch.autograd.grad(x.square().sum(), values)
        return torch.cat([x.detach(), gradient], 1)

    assert torch.equal(run(), run())


def test_the_diagonal_belongs_to_a_factor(direct: LinearSolver) -> None:
    """Whatever the order of elimination, the product of the pivots is the determinant."""
    pattern = window()
    values = matrices(pattern, 3)
    factorization = direct.analyze(pattern).factorize(values)
    determinant = 2 * factorization.diagonal().log().sum(1)
    torch.testing.assert_close(determinant, torch.logdet(pattern.dense(values)))
    assert pattern.nnz <= factorization.nnz <= pattern.n * (pattern.n + 1) // 2


def test_a_weak_direction_shows_in_its_own_entry_of_the_diagonal(direct: LinearSolver) -> None:
    pattern = window()
    values = matrices(pattern, 1)
    weak = 3 * POSES + 2 * 2  # the first axis of the landmark that nobody sees
    values[:, (pattern.rows == weak) | (pattern.columns == weak)] = 0.0
    values[:, pattern.diagonal[weak]] = 1e-10
    factorization = direct.analyze(pattern).factorize(values)
    assert factorization.ok.all()
    assert int(factorization.diagonal().argmin()) == weak
    assert float(factorization.diagonal()[0, weak]) == pytest.approx(1e-5)


def test_solvers_are_keys_of_a_cache(solver: LinearSolver) -> None:
    assert {solver: 1}[type(solver)(**vars(solver))] == 1


@pytest.mark.parametrize("shape", [(3, 25), (2, 4), (2, 25, 1, 1), (25,)])
def test_a_right_hand_side_of_another_shape_is_refused(
    solver: LinearSolver, shape: tuple[int, ...]
) -> None:
    pattern = window()
    factorization = solver.analyze(pattern).factorize(matrices(pattern, 2))
    with pytest.raises(DnlsError, match=r"right-hand sides of these 2 matrices of order 25"):
        factorization.solve(vectors(*shape))


def test_a_right_hand_side_of_another_type_is_refused(solver: LinearSolver) -> None:
    pattern = window()
    factorization = solver.analyze(pattern).factorize(matrices(pattern, 2))
    with pytest.raises(DnlsError, match=r"torch.float32 on cpu.*torch.float64 on cpu"):
        factorization.solve(vectors(2, pattern.n).float())


def test_values_that_do_not_fit_the_pattern_are_refused(solver: LinearSolver) -> None:
    pattern = window()
    with pytest.raises(DnlsError, match=rf"\(B, {pattern.nnz}\)"):
        solver.analyze(pattern).factorize(matrices(pattern, 2)[:, :-1])


def test_dense_solves_in_single_precision() -> None:
    pattern = window()
    values, rhs = matrices(pattern, 2, dtype=torch.float32), vectors(2, pattern.n).float()
    x = Dense().analyze(pattern).factorize(values).solve(rhs)
    assert x.dtype == torch.float32
    torch.testing.assert_close(
        x, torch.linalg.solve(pattern.dense(values), rhs), rtol=1e-5, atol=1e-6
    )


def test_cholmod_refuses_single_precision() -> None:
    pytest.importorskip("sksparse")
    pattern = window()
    with pytest.raises(DnlsError, match=r"float64 on the CPU, got torch\.float32"):
        Cholmod().analyze(pattern).factorize(matrices(pattern, 2, dtype=torch.float32))


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_cholmod_handles_matrices_large_enough_for_supernodes(shift: float) -> None:
    pytest.importorskip("sksparse")
    n = 240
    pattern = pattern_of([], (Block("pose", 0, 1, n),))
    values = matrices(pattern, 2)
    values[1, pattern.diagonal[-1]] *= shift
    factorization = Cholmod().analyze(pattern).factorize(values)
    assert factorization.ok.tolist() == [True, shift > 0]
    rhs = vectors(2, n)
    expected = torch.linalg.solve(pattern.dense(values), rhs)
    torch.testing.assert_close(factorization.solve(rhs)[0], expected[0], rtol=0, atol=1e-13)
    determinant = 2 * factorization.diagonal().log().sum(1)[0]
    torch.testing.assert_close(determinant, torch.logdet(pattern.dense(values))[0])
    assert factorization.nnz == n * (n + 1) // 2


def test_nearly_singular_systems_are_solved_without_a_warning(solver: LinearSolver) -> None:
    pattern = window()
    values = torch.zeros(1, pattern.nnz, dtype=torch.float64)
    values[:, pattern.diagonal] = torch.logspace(-20, 0, pattern.n, dtype=torch.float64)
    factorization = solver.analyze(pattern).factorize(values)
    x = factorization.solve(torch.ones(1, pattern.n, dtype=torch.float64))
    torch.testing.assert_close(x * values[:, pattern.diagonal], torch.ones_like(x))


@pytest.mark.parametrize("inner", [Dense(), Cholmod()], ids=lambda s: s.name)
def test_a_random_bundle_is_solved_the_same_with_and_without_elimination(
    inner: LinearSolver,
) -> None:
    """Landmarks seen by 0 … 6 cameras, with other blocks before, between and after."""
    pytest.importorskip("sksparse")
    rng = np.random.default_rng(3)
    blocks = (
        Block("beacon", 0, 5, 1),
        Block("camera", 5, 6, 6),
        Block("point", 41, 30, 3),
        Block("focal", 131, 1, 2),
    )
    cameras, points, focal = range(5, 11), range(11, 41), 41
    edges = [(int(c), p) for p in points for c in rng.choice(cameras, rng.integers(0, 7), False)]
    edges += [(c, focal) for c in cameras] + [(int(rng.choice(cameras)), b) for b in range(4)]
    pattern = pattern_of(edges, blocks)
    values, rhs = matrices(pattern, 2), vectors(2, pattern.n, 3)
    full = Dense().analyze(pattern).factorize(values)
    for names in ("point", ("point", "beacon")):
        reduced = Schur(names, inner).analyze(pattern).factorize(values)
        torch.testing.assert_close(reduced.solve(rhs), full.solve(rhs), rtol=0, atol=1e-12)


def test_elimination_works_on_a_pattern_with_holes_in_its_blocks() -> None:
    """Only the diagonal is certain to be stored."""
    whole = window()
    keep = np.random.default_rng(1).random(whole.nnz) < 0.6
    keep[whole.diagonal] = True
    keys = (whole.columns * whole.n + whole.rows)[keep]
    pattern = Pattern.of(keys, whole.n, whole.blocks)
    values, rhs = matrices(pattern, 2), vectors(2, pattern.n)
    x = Schur("point", Dense()).analyze(pattern).factorize(values).solve(rhs)
    torch.testing.assert_close(
        x, torch.linalg.solve(pattern.dense(values), rhs), atol=1e-13, rtol=0
    )


def test_what_cannot_be_eliminated_is_refused() -> None:
    with pytest.raises(
        DnlsError, match=r"variable 0 of block 'pose' and variable 1 of block 'pose'"
    ):
        Schur("pose", Dense()).analyze(window())
    with pytest.raises(DnlsError, match=r"no block \['landmark'\] .*'point'"):
        Schur("landmark", Dense()).analyze(window())
    with pytest.raises(DnlsError, match="no block was named"):
        Schur((), Dense()).analyze(window())
    alone = pattern_of([], (Block("point", 0, 3, 2),))
    with pytest.raises(DnlsError, match="leaves nothing"):
        Schur("point", Dense()).analyze(alone)


CPU = torch.device("cpu")


@pytest.fixture
def no_scikit_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed: importing it fails."""
    monkeypatch.setitem(sys.modules, "sksparse.cholmod", None)
    monkeypatch.setitem(sys.modules, "sksparse", None)


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed."""
    monkeypatch.setattr("dnls_ros.linear.block_cholesky.has_kernels", lambda: False)
    monkeypatch.setattr("dnls_ros.linear.choose.has_kernels", lambda: False)


@pytest.mark.usefixtures("no_numba")
def test_without_numba_block_cholesky_says_what_to_install() -> None:
    with pytest.raises(UnavailableError, match="pip install numba"):
        BlockCholesky().analyze(window())


def test_auto_and_sparse_are_block_cholesky_where_numba_is() -> None:
    pytest.importorskip("numba")
    for name in ("auto", "sparse_cpu"):
        solver, why = choose_solver(name, 10, CPU)
        assert isinstance(solver, BlockCholesky)
        assert "block Cholesky" in why


@pytest.mark.usefixtures("no_scikit_sparse", "no_numba")
def test_without_scikit_sparse_the_sparse_solver_says_what_to_install() -> None:
    with pytest.raises(UnavailableError, match="pip install scikit-sparse"):
        Cholmod().analyze(window())
    with pytest.raises(UnavailableError, match="pip install scikit-sparse"):
        choose_solver("sparse_cpu", 200, CPU)


@pytest.mark.usefixtures("no_scikit_sparse", "no_numba")
def test_without_scikit_sparse_auto_is_dense_and_says_why() -> None:
    solver, why = choose_solver("auto", 200, CPU)
    assert isinstance(solver, Dense)
    assert "scikit-sparse cannot be imported" in why


@pytest.mark.usefixtures("no_numba")
def test_auto_is_dense_for_small_problems_and_sparse_for_large_ones() -> None:
    pytest.importorskip("sksparse")
    small_one, why_small = choose_solver("auto", 30, CPU)
    large_one, why_large = choose_solver("auto", 200, CPU)
    assert (isinstance(small_one, Dense), isinstance(large_one, Fitting)) == (True, True)
    assert "30 unknowns" in why_small
    assert "200 unknowns" in why_large


def test_a_matrix_that_is_full_is_factorized_dense_and_a_chain_sparse() -> None:
    pytest.importorskip("sksparse")
    poses = (Block("pose", 0, 40, 3),)
    chain = pattern_of([(k, k + 1) for k in range(39)], poses)
    full = pattern_of([(j, k) for k in range(40) for j in range(k)], poses)
    solver = Fitting(Cholmod(), Dense())
    assert type(solver.analyze(full)) is type(Dense().analyze(full))
    assert type(solver.analyze(chain)) is type(Cholmod().analyze(chain))


@pytest.mark.usefixtures("no_numba")
def test_a_solver_that_is_asked_for_is_taken() -> None:
    pytest.importorskip("sksparse")
    assert isinstance(choose_solver("dense_cpu", 1000, CPU)[0], Dense)
    assert isinstance(choose_solver("sparse_cpu", 10, CPU)[0], Cholmod)


@pytest.mark.parametrize("n", [20, 1000])
def test_auto_on_a_cuda_device_is_multifrontal(n: int) -> None:
    """Which is dense by itself where the matrix is small."""
    solver, why = choose_solver("auto", n, torch.device("cuda", 0))
    assert isinstance(solver, Multifrontal)
    assert f"cuda:0: dense below 192 unknowns, sparse from there; {n} are expected" in why


@pytest.mark.parametrize("name", ["dense_cuda", "sparse_cuda"])
def test_a_cuda_solver_is_refused_where_there_is_no_cuda(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match=rf"'{name}' is asked for but"):
        choose_solver(name, 100, CPU)


def test_names_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(DnlsError, match="got 'fast'"):
        choose_solver("fast", 100, CPU)
    with pytest.raises(DnlsError, match="'dense_cuda' does not fit device 'cpu'"):
        choose_solver("dense_cuda", 100, CPU)
    with pytest.raises(DnlsError, match="'sparse_cpu' does not fit device 'cuda:0'"):
        choose_solver("sparse_cpu", 100, torch.device("cuda", 0))
    with pytest.raises(DnlsError, match="'sparse_cuda' does not fit device 'cpu'"):
        choose_solver("sparse_cuda", 100, CPU)
    assert isinstance(choose_solver("sparse_cuda", 100, torch.device("cuda", 0))[0], Multifrontal)


def test_devices_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu")[0] == CPU
    assert choose_device("auto")[0] == CPU
    for wrong in ("gpu", "cuda:", "cuda:x", "cpu:0", ""):
        with pytest.raises(DnlsError, match=f"got '{wrong}'"):
            choose_device(wrong)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"board {index}")
    assert choose_device("cuda")[0] == torch.device("cuda", 0)
    assert choose_device("cuda:1") == (
        torch.device("cuda", 1),
        "device cuda:1 (board 1), as asked for",
    )
    with pytest.raises(UnavailableError, match="'cuda:2' is asked for but this machine offers 2"):
        choose_device("cuda:2")


@pytest.mark.gpu
def test_dense_and_schur_on_a_gpu_equal_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    pattern = window()
    _, bad, expected = broken(pattern)
    rhs = vectors(7, pattern.n)
    for solver in (Dense(), Schur("point", Dense()), Multifrontal(0, 6, 0)):
        symbolic = solver.analyze(pattern)
        there = symbolic.factorize(bad.cuda())
        assert there.ok.tolist() == expected.tolist()
        here = symbolic.factorize(bad).solve(rhs)
        torch.testing.assert_close(there.solve(rhs.cuda()).cpu(), here, equal_nan=True)


def test_importing_the_solvers_does_not_import_scikit_sparse() -> None:
    code = "import sys, dnls_ros.linear; sys.exit('sksparse' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
