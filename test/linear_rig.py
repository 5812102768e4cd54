"""Problems, patterns, matrices and solvers that the tests of `dnls_ros.linear` share."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from banded_rig import CompiledForCpu, cpp_compiler
from torch import Tensor

from dnls_ros.costs.bal import bal_reprojection
from dnls_ros.costs.pose import between, prior
from dnls_ros.lie import SE2, Euclidean
from dnls_ros.linear import (
    Banded,
    BlockCholesky,
    Cholmod,
    ConjugateGradients,
    Dense,
    Fitting,
    ImplicitSchur,
    LinearSolver,
    Multifrontal,
    Schur,
)
from dnls_ros.problem import (
    Diagonal,
    Isotropic,
    Problem,
    Values,
    Variables,
    normal_equations,
)
from dnls_ros.problem.structure import Pattern
from dnls_ros.problem.variables import Block

POSES, POINTS = 4, 3
KINDS: dict[str, Callable[[str], LinearSolver]] = {
    "dense": lambda _: Dense(),
    "cholmod": lambda _: Cholmod(),
    "block": lambda _: BlockCholesky(),
    "banded": lambda _: Banded(CompiledForCpu(threads=1)),
    "schur block": lambda gone: Schur(gone, BlockCholesky()),
    "schur dense": lambda gone: Schur(gone, Dense()),
    "schur cholmod": lambda gone: Schur(gone, Cholmod()),
    "multifrontal": lambda _: Multifrontal(dense_below=0, leaf=6, relax=0),
    "schur multifrontal": lambda gone: Schur(gone, Multifrontal(dense_below=0, leaf=6, relax=0)),
    "fitting": lambda _: Fitting(Cholmod(), Dense()),
    "pcg": lambda _: ConjugateGradients(),
    "schur pcg": lambda gone: Schur(gone, ConjugateGradients()),
    "implicit schur": lambda gone: ImplicitSchur(gone),
    "implicit schur, block-jacobi": lambda gone: ImplicitSchur(gone, schur_jacobi=False),
}
"""One of each kind, by the block that may be eliminated."""
SOLVERS = [
    *(kind("point") for kind in KINDS.values()),
    Cholmod("natural"),
    BlockCholesky("natural"),
    BlockCholesky("minimum_degree"),
    Multifrontal(dense_below=0, leaf=1, relax=9),
    Multifrontal(),
    Schur(("point", "spare"), Dense()),
    ImplicitSchur(("point", "spare")),
]
ITERATIVE = [solver for solver in SOLVERS if "pcg" in solver.name]
DIRECT = [solver for solver in SOLVERS if "pcg" not in solver.name]


def usable(solver: LinearSolver) -> LinearSolver:
    """The solver, or the test is skipped: scikit-sparse, numba and a compiler are optional."""
    if "cholmod" in solver.name:
        pytest.importorskip("sksparse")
    if "block_cholesky" in solver.name:
        pytest.importorskip("numba")
    if "banded" in solver.name:
        cpp_compiler()
    return solver


def pattern_of(edges: list[tuple[int, int]], blocks: tuple[Block, ...]) -> Pattern:
    """The pattern of variables (numbered through all blocks) joined by edges."""
    spans = [
        np.arange(b.tangent_dim) + b.offset + i * b.tangent_dim
        for b in blocks
        for i in range(b.count)
    ]
    n = blocks[-1].stop
    linked = np.zeros((n, n), bool)
    for i, j in [*edges, *((i, i) for i in range(len(spans)))]:
        linked[np.ix_(spans[i], spans[j])] = linked[np.ix_(spans[j], spans[i])] = True
    columns, rows = np.nonzero(
        np.triu(linked)
    )  # the upper triangle by rows is the lower by columns
    return Pattern.of((columns * n + rows).astype(np.int64), n, blocks)


def window() -> Pattern:
    """A chain of planar poses, landmarks (the last is seen by none), an offset of the first."""
    blocks = (
        Block("pose", 0, POSES, 3),
        Block("point", 3 * POSES, POINTS, 2),
        Block("offset", 3 * POSES + 2 * POINTS, 1, 1),
        Block("spare", 3 * POSES + 2 * POINTS + 1, 2, 3),
    )
    offset = POSES + POINTS
    chain = [(i, i + 1) for i in range(POSES - 1)]
    seen = [(0, POSES), (1, POSES), (2, POSES), (1, POSES + 1), (3, POSES + 1)]
    rest = [(0, offset), (offset, offset + 1), (2, offset + 2)]
    return pattern_of([*chain, *seen, *rest], blocks)


def matrices(
    pattern: Pattern, batch: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Values (B, nnz) of positive definite matrices: random, made diagonally dominant."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, pattern.nnz, generator=generator, dtype=torch.float64)
    values[:, pattern.diagonal] = 0.0
    heavy = pattern.dense(values).abs().sum(2)
    values[:, pattern.diagonal] = (
        heavy + 0.1 + torch.rand(batch, pattern.n, generator=generator).double()
    )
    return values.to(dtype)


def vectors(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small() -> Pattern:
    """Two poses that see one landmark: small enough for second derivatives."""
    blocks = (Block("pose", 0, 2, 2), Block("point", 4, 2, 2), Block("spare", 8, 1, 1))
    return pattern_of([(0, 1), (0, 2), (1, 2), (1, 4)], blocks)


def broken(pattern: Pattern) -> tuple[Tensor, Tensor, Tensor]:
    """Good matrices, the same with bad ones among them, and which are good."""
    good = matrices(pattern, 7)
    bad = good.clone()
    bad[1, pattern.diagonal[2]] = -5.0
    bad[2, pattern.nnz // 2] = torch.nan
    bad[3, pattern.diagonal[-1]] = torch.inf
    bad[4] = 0.0
    bad[5, pattern.diagonal[3 * POSES]] = -1.0
    return good, bad, torch.tensor([True, False, False, False, False, False, True])


KEYFRAME, FRAME = Variables("keyframe", SE2), Variables("frame", SE2)
CAMERA, POINT = Variables("camera", Euclidean(9)), Variables("point", Euclidean(3))


def pose_graph(batch: int, keyframes: int, noise: float = 0.05) -> tuple[Problem, Values]:
    """Keyframes with a frame between any two, and loops among the keyframes."""
    k = torch.arange(keyframes)
    poses = SE2.exp(vectors(batch, 2 * keyframes, 3, seed=1))
    key, frame = poses[:, ::2], poses[:, 1::2]

    def measured(a: SE2, b: SE2, seed: int) -> SE2:
        return a.between(b) @ SE2.exp(noise * vectors(batch, a.tensor.shape[1], 3, seed=seed))

    sigmas = Diagonal(torch.tensor([0.1, 0.1, 0.05], dtype=torch.float64))
    loops = torch.tensor([[i, j] for i in range(keyframes) for j in range(i + 2, keyframes, 3)]).T
    problem = Problem(
        anchor=prior(KEYFRAME[[0]], key[:, :1], noise=Isotropic(0.01)),
        there=between(KEYFRAME[k], FRAME[k], measured(key, frame, 2), noise=sigmas),
        on=between(
            FRAME[k[:-1]], KEYFRAME[k[1:]], measured(frame[:, :-1], key[:, 1:], 3), noise=sigmas
        ),
        loops=between(
            KEYFRAME[loops[0]],
            KEYFRAME[loops[1]],
            measured(key[:, loops[0]], key[:, loops[1]], 4),
            noise=sigmas,
        ),
    )
    start = poses @ SE2.exp(0.2 * vectors(batch, 2 * keyframes, 3, seed=5))
    return problem, KEYFRAME.values(k, start[:, ::2]).merge(FRAME.values(k, start[:, 1::2]))


def bundle(batch: int, cameras: int, points: int) -> tuple[Problem, Values]:
    """Cameras on one side of a cloud of points, each seen by two of them or more."""
    rng = np.random.default_rng(4)
    away = torch.tensor([0, 0, -8.0, 300, -0.01, 0.001], dtype=torch.float64)
    truth = torch.cat([0.3 * vectors(1, cameras, 3, seed=1), away.expand(1, cameras, 6)], 2)
    truth[..., 3:5] = vectors(1, cameras, 2, seed=2)
    cloud = vectors(1, points, 3, seed=3)
    seen = [(c, p) for p in range(points) for c in _some(rng, cameras)]
    camera_of, point_of = torch.tensor(seen).T
    refs = CAMERA[camera_of], POINT[point_of]
    nowhere = torch.zeros(1, len(seen), 2, dtype=torch.float64)
    exact = CAMERA.values(range(cameras), truth).merge(POINT.values(range(points), cloud))
    looks = Problem(sights=bal_reprojection(*refs, nowhere))
    pixels = looks["sights"].whitened(exact, tuple(exact.slots(r) for r in refs))
    pixels = pixels + 0.5 * vectors(batch, len(seen), 2, seed=5)
    scale = torch.tensor([0.01] * 6 + [5, 1e-3, 1e-4], dtype=torch.float64)
    start = CAMERA.values(range(cameras), truth + scale * vectors(batch, cameras, 9, seed=6))
    moved = cloud + 0.05 * vectors(batch, points, 3, seed=7)
    known = prior(CAMERA[range(cameras)], truth, noise=Diagonal(10 * scale))
    problem = Problem(sights=bal_reprojection(*refs, pixels), known=known)
    return problem, start.merge(POINT.values(range(points), moved))


def _some(rng: np.random.Generator, count: int) -> list[int]:
    return sorted(rng.choice(count, rng.integers(2, count + 1), replace=False).tolist())


def linearized(problem: Problem, values: Values) -> tuple[Pattern, Tensor, Tensor]:
    """The pattern, H and −g where the problem starts."""
    structure = problem.structure(values)
    normal = normal_equations(problem, values, structure)
    return structure.pattern, normal.hessian, -normal.gradient


def equilibrated(pattern: Pattern, hessian: Tensor, damping: float = 0.1) -> Tensor:
    """H in units in which its diagonal is one, damped: finite differences suit it."""
    root = hessian[:, pattern.diagonal].sqrt()
    scaled = hessian / (root[:, pattern.rows] * root[:, pattern.columns])
    damp = torch.full_like(root, damping)
    return scaled.index_add(1, pattern.index("diagonal", hessian.device), damp)
