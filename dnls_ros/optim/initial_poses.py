"""First values of a pose graph: along a spanning tree, along the odometry, or chordal.

A tree composes measurements outwards from the poses that are held. The chordal relaxation uses all
of them: with rotations as free matrices, Σ κ‖R_j − R_i R_ij‖² is linear least squares, each row of
the matrices on its own; the solutions are projected to rotations, and the translations follow from
Σ τ‖t_j − t_i − R_i t_ij‖², linear again (Carlone, Tron, Daniilidis, Dellaert, *Initialization
techniques for 3D SLAM*, ICRA 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, SE3, Euclidean
from dnls_ros.linear import LinearSolver, choose_solver
from dnls_ros.optim.gauss_newton import OneShot
from dnls_ros.optim.minimize import minimize
from dnls_ros.optim.status import Tolerances
from dnls_ros.problem import Cost, Isotropic, Problem, Values, Variables, cost
from dnls_ros.problem.anchored import anchored_groups

Pose = SE2 | SE3
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RelativePoses:
    """Measured relative poses, the edges of a graph.

    Attributes:
        first: (M,) int64 ids.
        second: (M,) int64 ids.
        z: first_T_second, (1, M, …).
        information: (1, M, t, t) in the tangent of z.
    """

    first: Tensor
    second: Tensor
    z: Pose
    information: Tensor

    @property
    def ids(self) -> Tensor:
        """All ids, ascending."""
        return torch.unique(torch.cat([self.first, self.second]))

    def where(self, rows: Tensor) -> RelativePoses:
        """Those of ``rows`` (M,)."""
        z = type(self.z)(self.z.tensor[:, rows])
        return RelativePoses(self.first[rows], self.second[rows], z, self.information[:, rows])


def along_tree(edges: RelativePoses, held: Values) -> Values:
    """The poses along a breadth-first spanning tree from the held ones.

    Args:
        edges: The graph.
        held: Block ``pose`` of the poses that are known, at least one.

    Returns:
        Block ``pose`` of all ids of edges and ``held``.

    Raises:
        DnlsError: Poses are not connected to any held one.
    """
    ids = torch.unique(torch.cat([edges.ids, held.ids["pose"]]))
    return _spread(edges, ids, held, "hold one of each connected part")


def along_odometry(edges: RelativePoses, held: Values) -> Values:
    """The poses along the edges between consecutive ids only; as `along_tree`.

    Raises:
        DnlsError: Two consecutive poses have no edge.
    """
    ids = torch.unique(torch.cat([edges.ids, held.ids["pose"]]))
    steps = torch.searchsorted(ids, edges.second) - torch.searchsorted(ids, edges.first)
    chain = edges.where(steps.abs() == 1)
    return _spread(
        chain, ids, held, "consecutive poses need an edge for odometry; take a spanning tree"
    )


def _spread(edges: RelativePoses, ids: Tensor, held: Values, hint: str) -> Values:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order

    i, j = (torch.searchsorted(ids, end).numpy() for end in (edges.first, edges.second))
    known = torch.searchsorted(ids, held.ids["pose"]).numpy()
    count, source = len(ids), len(ids)  # a source that all held poses hang from
    rows = np.concatenate([i, np.full(len(known), source)])
    columns = np.concatenate([j, known])
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(count + 1, count + 1))
    order, parents = breadth_first_order(graph.tocsr(), source, directed=False)
    lost = np.setdiff1d(np.arange(count), order)
    if len(lost):
        raise DnlsError(
            f"{len(lost)} of {count} poses cannot be reached from the held ones, first ids "
            f"{ids[lost[:3]].tolist()}; {hint}"
        )
    poses = _composed(edges.z, i, j, known, held, order, parents)
    kind = type(edges.z)
    return Variables("pose", kind).values(ids, kind.from_matrix(torch.from_numpy(poses)[None]))


def _composed(
    z: Pose, i: Any, j: Any, known: Any, held: Values, order: Any, parents: Any
) -> Floats:
    """(N, k, k) matrices, each its parent's times the edge between them, in ``order``."""
    forward = z.matrix()[0].numpy()
    backward = z.inverse().matrix()[0].numpy()
    step = {(b, a): m for a, b, m in zip(j.tolist(), i.tolist(), forward, strict=True)}
    for a, b, m in zip(j.tolist(), i.tolist(), backward, strict=True):
        step.setdefault((a, b), m)
    anchor: Any = held["pose"]
    poses = np.empty((len(order) - 1, *forward.shape[1:]))
    poses[known] = anchor.matrix()[0].numpy()
    for node in order[1:].tolist():
        parent = int(parents[node])
        if parent < len(poses):
            poses[node] = poses[parent] @ step[parent, node]
    return poses


@cost(batched=True)
def _chord(row_i: Tensor, row_j: Tensor, rotation: Tensor) -> Tensor:
    """One row of R_j − R_i R_ij, (…, n)."""
    return row_j - (row_i[..., None, :] @ rotation)[..., 0, :]


@_chord.jacobians
def _chord_jacobians(row_i: Tensor, row_j: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
    return -rotation.mT, torch.eye(row_j.shape[-1], dtype=row_j.dtype).expand(rotation.shape)


@cost(batched=True)
def _offset(x_i: Tensor, x_j: Tensor, z: Tensor) -> Tensor:
    """One coordinate of t_j − t_i − R_i t_ij, (…, 1)."""
    return x_j - x_i - z


@_offset.jacobians
def _offset_jacobians(x_i: Tensor, x_j: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    one = torch.ones_like(z)[..., None]
    return -one, one


def chordal(edges: RelativePoses, held: Values, linear: LinearSolver | None = None) -> Values:
    """The poses by the chordal relaxation, with isotropic weights.

    κ and τ are those of the isotropic noise with the same total variance as an edge's rotation
    has, its translation given, and its translation, its rotation given (as SE-Sync takes them).

    Args:
        edges: The graph.
        held: Block ``pose`` of the poses that are known, at least one.
        linear: For the two linear systems; chosen by size if not given.

    Returns:
        Block ``pose`` of all ids of edges and ``held``.

    Raises:
        DnlsError: Poses are not connected to any held one.
    """
    start = along_tree(edges, held)
    ids, held_ids = start.ids["pose"], held.ids["pose"]
    if len(ids) == len(held_ids):
        return start
    kind, known = type(edges.z), cast(Pose, held["pose"])
    n = edges.z.translation.shape[-1]
    rotation_sigma, translation_sigma = _isotropic(edges.information, n)
    # The rows of the matrices, then the coordinates, do not mix: they are the batch, (B, N, …).
    fixed = known.rotation.matrix()[0].transpose(0, 1)
    measured = edges.z.rotation.matrix()
    rows = _solved(edges, _chord, measured, rotation_sigma, ids, (held_ids, fixed), linear)
    rotations = _nearest_rotation(rows.transpose(0, 1))
    at = torch.searchsorted(ids, edges.first)
    moved = (rotations[at] @ edges.z.translation[0][..., None])[..., 0]
    fixed, measured = known.translation[0].T[..., None], moved.T[..., None]
    points = _solved(edges, _offset, measured, translation_sigma, ids, (held_ids, fixed), linear)
    matrix = torch.eye(n + 1, dtype=rotations.dtype).repeat(len(ids), 1, 1)
    matrix[:, :n, :n], matrix[:, :n, n] = rotations, points[..., 0].T
    found = Variables("pose", kind).values(ids, kind.from_matrix(matrix[None]))
    return found.overwrite(held)


def _isotropic(information: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Standard deviations (1, M) of rotation and of translation, the same in all directions."""
    blocks = information[..., n:, n:], information[..., :n, :n]
    covariances = (torch.linalg.pinv(block, hermitian=True) for block in blocks)
    turn, shift = (c.diagonal(dim1=-2, dim2=-1).mean(-1).sqrt() for c in covariances)
    return turn, shift


def _solved(
    edges: RelativePoses,
    chord: Cost,
    measured: Tensor,
    sigma: Tensor,
    ids: Tensor,
    held: tuple[Tensor, Tensor],
    linear: LinearSolver | None,
) -> Tensor:
    """The minimum of a linear cost, (B, N, k) for all ``ids``.

    Args:
        edges: Which variables each factor joins.
        chord: The cost.
        measured: (B|1, M, …) its data.
        sigma: (1, M).
        ids: (N,) of all variables.
        held: Ids and values (B, H, k) of those that are known.
        linear: The solver; chosen by size if None.
    """
    k = held[1].shape[-1]
    block = Variables("x", Euclidean(k))
    known = block.values(held[0], held[1].contiguous())
    free = ids[~torch.isin(ids, held[0])]
    start = block.values(free, held[1].new_zeros(len(held[1]), len(free), k))
    refs = block[edges.first], block[edges.second]
    groups = anchored_groups("edges", chord, refs, (measured,), known, Isotropic(sigma))
    solver = linear or choose_solver("auto", len(free) * k, torch.device("cpu"))[0]
    found = minimize(Problem(groups), start, OneShot(), solver, Tolerances(0, 0, 0))
    return cast(Tensor, found.values.merge(known)["x"])


def _nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotations (…, n, n) nearest to matrices in the Frobenius norm (Umeyama 1991)."""
    u, _, vh = torch.linalg.svd(matrix)
    sign = torch.linalg.det(u @ vh)
    last = torch.cat([u[..., :-1], u[..., -1:] * sign[..., None, None]], -1)
    return last @ vh
