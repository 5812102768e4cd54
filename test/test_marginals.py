"""Covariances from a factorization: inverse, samples, derivatives, and many at once."""

import weakref
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from linear_rig import (
    KINDS,
    POSES,
    SOLVERS,
    broken,
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

from dnls_ros.costs.pose import between, prior
from dnls_ros.errors import DnlsError
from dnls_ros.io.convert import covariance_to_ros
from dnls_ros.lie import SE3, Euclidean
from dnls_ros.linear import (
    ConjugateGradients,
    Dense,
    Factorization,
    LinearSolver,
    marginal_covariance,
    marginal_covariances,
    tangent_indices,
)
from dnls_ros.optim import GaussNewton, LevenbergMarquardt, Tolerances, minimize
from dnls_ros.problem import Diagonal, Isotropic, Problem, Variables, cost

F64 = torch.float64


@pytest.fixture(params=SOLVERS, ids=lambda s: s.name)
def solver(request: pytest.FixtureRequest) -> LinearSolver:
    return usable(request.param)


def test_marginal_covariances_are_blocks_of_the_inverse(solver: LinearSolver) -> None:
    pattern = window()
    values = matrices(pattern, 2)
    factorization = solver.analyze(pattern).factorize(values)
    inverse = torch.linalg.inv(pattern.dense(values))
    indices = [17, 3, 0, 12]
    joint = marginal_covariance(factorization, pattern, indices)
    torch.testing.assert_close(joint, inverse[:, indices][:, :, indices], rtol=0, atol=1e-13)
    assert torch.equal(joint, joint.mT)
    points = marginal_covariance(factorization, pattern, ("point", [2, 0]))
    expected = [16, 17, 12, 13]
    assert tangent_indices(pattern, "point", [2, 0]).tolist() == expected
    torch.testing.assert_close(points, inverse[:, expected][:, :, expected], rtol=0, atol=1e-13)
    several = np.concatenate([tangent_indices(pattern, "pose", [3]), [18]])
    torch.testing.assert_close(
        marginal_covariance(factorization, pattern, several),
        inverse[:, several][:, :, several],
        rtol=0,
        atol=1e-13,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_covariances_of_a_pose_graph_are_blocks_of_the_dense_inverse(kind: str) -> None:
    problem, start = pose_graph(2, 5)
    linear = usable(KINDS[kind]("frame"))
    found = minimize(problem, start, LevenbergMarquardt(), linear)
    assert all(status.converged for status in found.status)
    factorization = found.factorization()
    pattern = factorization.pattern
    hessian = found.assembly.normal_equations(found.values).hessian
    inverse = torch.linalg.inv(pattern.dense(hessian))
    for block in pattern.blocks:
        each = marginal_covariances(factorization, block.name)
        for k in range(block.count):
            own = slice(block.offset + 3 * k, block.offset + 3 * k + 3)
            torch.testing.assert_close(each[:, k], inverse[:, own, own], rtol=1e-10, atol=1e-12)


def test_a_marginal_covariance_is_the_spread_of_samples() -> None:
    """Draws with information H = L Lᵀ are L⁻ᵀ z; their sample covariance scatters by √(2/N)."""
    pattern = window()
    values = matrices(pattern, 1)
    factor = torch.linalg.cholesky(pattern.dense(values))
    samples = torch.linalg.solve_triangular(factor.mT, vectors(1, pattern.n, 40_000), upper=True)
    covariance = marginal_covariance(
        Dense().analyze(pattern).factorize(values), pattern, ("pose", [1])
    )
    drawn = samples[0, 3:6] @ samples[0, 3:6].T / 40_000
    scale = covariance[0].diagonal().sqrt()
    error = (drawn - covariance[0]) / (scale[:, None] * scale)
    assert error.abs().max() < 4 * (2 / 40_000) ** 0.5


def test_a_singular_element_has_no_covariance_and_harms_no_other(solver: LinearSolver) -> None:
    pattern = window()
    good, bad, expected = broken(pattern)
    symbolic = solver.analyze(pattern)
    covariance = marginal_covariance(symbolic.factorize(bad), pattern, ("pose", [0]))
    assert covariance[~expected].isnan().all()
    intact = marginal_covariance(symbolic.factorize(good), pattern, ("pose", [0]))
    assert torch.equal(covariance[expected], intact[expected])


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ([0, 25], r"0 … 24, got \[25\]"),
        ([-1], r"got \[-1\]"),
        ([0.5], "whole numbers"),
        (("point", [3]), r"slots of block 'point' lie in 0 … 2, got \[3\]"),
        (("tag", [0]), r"no block 'tag'; there are \['pose', 'point'"),
    ],
)
def test_marginals_of_what_does_not_exist_are_refused(which: object, message: str) -> None:
    pattern = window()
    factorization = Dense().analyze(pattern).factorize(matrices(pattern, 1))
    with pytest.raises(DnlsError, match=message):
        marginal_covariance(factorization, pattern, which)


# Many at once


def test_the_covariances_of_a_block_are_those_of_its_variables(solver: LinearSolver) -> None:
    pattern = window()
    factorization = solver.analyze(pattern).factorize(matrices(pattern, 2))
    for name in ("pose", "point", "offset"):
        count = next(b.count for b in pattern.blocks if b.name == name)
        singles = [marginal_covariance(factorization, pattern, (name, [k])) for k in range(count)]
        for columns in (1, 4, 240):
            together = marginal_covariances(factorization, name, columns=columns)
            torch.testing.assert_close(together, torch.stack(singles, 1), rtol=0, atol=1e-13)
    some = marginal_covariances(factorization, "pose", [2, 0])
    assert torch.equal(some, some.mT)
    all_of_them = marginal_covariances(factorization, "pose")
    torch.testing.assert_close(some, all_of_them[:, [2, 0]], rtol=0, atol=1e-13)


def test_covariances_of_what_does_not_exist_are_refused() -> None:
    pattern = window()
    factorization = Dense().analyze(pattern).factorize(matrices(pattern, 1))
    with pytest.raises(DnlsError, match=r"no block 'tag'; there are \['pose', 'point'"):
        marginal_covariances(factorization, "tag")
    with pytest.raises(DnlsError, match=r"slots of block 'point' lie in 0 … 2, got \[7\]"):
        marginal_covariances(factorization, "point", [7])


# Derivatives


def test_derivatives_of_a_joint_covariance_equal_central_differences(solver: LinearSolver) -> None:
    pattern = small()
    symbolic = solver.analyze(pattern)
    values = matrices(pattern, 2).requires_grad_()

    def joint(v: Tensor) -> Tensor:
        return marginal_covariance(symbolic.factorize(v), pattern, [4, 0, 1], v)

    assert gradcheck(joint, values, fast_mode=True)
    assert gradgradcheck(joint, values, fast_mode=True)


@pytest.mark.parametrize("columns", [2, 240], ids=["in parts", "at once"])
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_all_covariances_equal_central_differences(kind: str, columns: int) -> None:
    pattern, hessian, _ = linearized(*pose_graph(2, 3))
    symbolic = usable(KINDS[kind]("frame")).analyze(pattern)
    values = equilibrated(pattern, hessian).requires_grad_()

    def blocks(v: Tensor) -> Tensor:
        return marginal_covariances(symbolic.factorize(v), "frame", None, v, columns=columns)

    assert gradcheck(blocks, values, fast_mode=True)
    assert gradgradcheck(blocks, values, fast_mode=True)


def test_the_derivative_of_a_covariance_is_the_known_formula() -> None:
    """∂Σ_ab = −Σ_a· ∂H Σ_·b."""
    pattern = window()
    values, change = matrices(pattern, 1), 1e-3 * vectors(1, pattern.nnz)
    at = [12, 13, 3]

    def joint(v: Tensor) -> Tensor:
        return marginal_covariance(Dense().analyze(pattern).factorize(v), pattern, at, v)

    _, moved = torch.autograd.functional.jvp(joint, values, change)
    sigma = torch.linalg.inv(pattern.dense(values))
    expected = -sigma[:, at] @ pattern.dense(change) @ sigma[:, :, at]
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-13)


@dataclass(frozen=True, eq=False)
class Watched:
    """A factorization that remembers, weakly, what it solved."""

    inner: Factorization
    solved: list[weakref.ref[np.ndarray]]

    pattern = property(lambda self: self.inner.pattern)
    ok = property(lambda self: self.inner.ok)
    dtype = property(lambda self: self.inner.dtype)

    def solve(self, rhs: Tensor) -> Tensor:
        memory = self.inner.solve(rhs).numpy().copy()  # lives as long as any tensor on it
        self.solved.append(weakref.ref(memory))
        return torch.from_numpy(memory)


def test_the_columns_of_all_covariances_are_not_kept_for_their_derivative() -> None:
    """They are computed again, in parts; those of one joint covariance are kept."""
    pattern = window()
    values = matrices(pattern, 1).requires_grad_()
    watched = Watched(Dense().analyze(pattern).factorize(values), [])
    joint = marginal_covariance(watched, pattern, ("pose", range(POSES)), values)
    assert [x() is not None for x in watched.solved] == [True]
    watched.solved.clear()
    each = marginal_covariances(watched, "pose", None, values, columns=3)
    assert [x() is not None for x in watched.solved] == [False] * POSES
    (ours,) = torch.autograd.grad(each.sum(), values)
    blocks = joint.unflatten(2, (POSES, 3)).unflatten(1, (POSES, 3)).diagonal(dim1=1, dim2=3)
    (theirs,) = torch.autograd.grad(blocks.sum(), values)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


def test_how_a_covariance_depends_on_a_sigma() -> None:
    """Through problem, linearization and factorization: against central differences."""
    problem, values = pose_graph(1, 3)
    sigma = torch.tensor([0.1, 0.1, 0.05], dtype=F64)

    def spread(s: Tensor) -> Tensor:
        changed = Problem(**{**problem, "there": replace(problem["there"], noise=Diagonal(s))})
        pattern, hessian, _ = linearized(changed, values)
        factorization = Dense().analyze(pattern).factorize(hessian)
        return marginal_covariances(factorization, "frame", None, hessian).logdet().sum()

    assert gradcheck(spread, sigma.requires_grad_())
    assert gradgradcheck(spread, sigma)


# Samples


plane, pose = Variables("x", Euclidean(2)), Variables("pose", SE3)


@cost(batched=True)
def step(a: Tensor, b: Tensor, z: Tensor) -> Tensor:
    return b - a - z


@cost(batched=True)
def seen(a: Tensor, z: Tensor) -> Tensor:
    return a - z


@pytest.mark.parametrize("linear", [Dense(), ConjugateGradients()], ids=lambda s: s.name)
def test_the_solutions_of_many_noise_realisations_scatter_by_the_covariance(
    linear: LinearSolver,
) -> None:
    """A linear-Gaussian chain with a loop, solved for 4000 draws of its measurements."""
    draws, count = 4000, 5
    rng = np.random.default_rng(6)
    first, second = torch.tensor([[i, i + 1] for i in range(count - 1)] + [[0, count - 1]]).T
    odometry = Diagonal(torch.tensor([0.1, 0.3], dtype=F64))
    z = torch.from_numpy(rng.normal(size=(draws, count, 2))) * torch.tensor([0.1, 0.3])
    fix = torch.from_numpy(rng.normal(size=(draws, 1, 2))) * 0.5
    problem = Problem(
        fix=seen(plane[[0]], fix, noise=Isotropic(0.5)),
        steps=step(plane[first], plane[second], z.to(F64), noise=odometry),
    )
    initial = plane.values(range(count), torch.zeros(1, count, 2, dtype=F64))
    found = minimize(problem, initial, GaussNewton(), linear, Tolerances(1e-12))
    one = found.map(lambda t: t[:1]).hessian
    pattern = found.assembly.structure.pattern
    at = tangent_indices(pattern, "x", [1, 3])
    covariance = marginal_covariance(linear.analyze(pattern).factorize(one), pattern, at)[0]
    x = found.values["x"][:, [1, 3]].flatten(1)
    _assert_scatter(x.T @ x / draws, covariance, draws)


def test_the_published_covariance_of_a_pose_is_the_scatter_of_its_errors() -> None:
    """From marginal through ROS's axes to the errors of 3000 solutions in those axes."""
    draws, sigma = 3000, torch.tensor([3e-3, 1e-3, 2e-3, 4e-3, 1e-3, 2e-3], dtype=F64)
    truth = SE3.exp(vectors(1, 3, 6, seed=8))
    z = truth[:, :-1].between(truth[:, 1:])
    z = SE3(z.tensor.expand(draws, -1, -1)) @ SE3.exp(sigma * vectors(draws, 2, 6, seed=9))
    fix = SE3(truth.tensor[:, :1].expand(draws, -1, -1))
    fix = fix @ SE3.exp(sigma * vectors(draws, 1, 6, seed=10))
    problem = Problem(
        fix=prior(pose[[0]], fix, noise=Diagonal(sigma)),
        odometry=between(pose[[0, 1]], pose[[1, 2]], z, noise=Diagonal(sigma)),
    )
    initial = pose.values(range(3), truth)
    found = minimize(problem, initial, GaussNewton(), Dense(), Tolerances(1e-12))
    last = found.values["pose"][:, 2]
    pattern, hessian, _ = linearized(problem, initial)
    factorization = Dense().analyze(pattern).factorize(hessian[:1])
    covariance = marginal_covariance(factorization, pattern, ("pose", [2]))[0].numpy()
    goal = truth[:, 2]
    published = torch.from_numpy(covariance_to_ros(covariance, goal.tensor[0].numpy()))
    turn = (last.rotation @ goal.rotation.inverse()).log()
    errors = torch.cat([last.translation - goal.translation, turn], 1)
    _assert_scatter(errors.T @ errors / draws, published, draws)


def _assert_scatter(sampled: Tensor, expected: Tensor, draws: int) -> None:
    """Within three standard deviations of a sample covariance, entry by entry."""
    variances = expected.diagonal()
    sigma = ((variances[:, None] * variances + expected.square()) / draws).sqrt()
    assert ((sampled - expected).abs() < 3 * sigma).all()
