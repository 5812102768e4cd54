"""Which variables and directions a problem says nothing about.

A singular H is told apart from a merely badly scaled one in the matrix of unit diagonal C = D⁻½ H
D⁻½: a diagonal entry of zero is a coordinate that no factor sees, an eigenvalue of zero is a
combination of coordinates (all poses of an unanchored graph moved together). The report names the
variables, by block and id, and the directions of their tangents that take part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, SE3, SO2, SO3, Element
from dnls_ros.problem import Problem, Structure, Values, normal_equations

Floats = NDArray[np.float64]

AXES: dict[type, tuple[str, ...]] = {
    SE3: ("vx", "vy", "vz", "ωx", "ωy", "ωz"),
    SE2: ("vx", "vy", "ω"),
    SO3: ("ωx", "ωy", "ωz"),
    SO2: ("ω",),
}
"""Names of the axes of a tangent."""

DENSE_UP_TO = 1500  # unknowns: beyond, the few smallest eigenvalues by shifted inverse iteration
RELATIVE = 1e-12  # eigenvalue of C below which a direction counts as without information
SHOWN = 4  # coordinates that a direction's text names
ENOUGH = 8  # directions looked for in large problems


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction of the tangent in which the objective does not change.

    Attributes:
        information: Its eigenvalue in the matrix of unit diagonal: 0 up to rounding.
        parts: (block, id, axis, share) of the coordinates that take part, the largest first;
            shares are of the squared length.
        vector: (n,) the direction, of unit length.
    """

    information: float
    parts: tuple[tuple[str, int, str, float], ...]
    vector: Tensor

    def __str__(self) -> str:
        shown = [f"{block}[{key}] {axis}" for block, key, axis, _ in self.parts[:SHOWN]]
        rest = len(self.parts) - len(shown)
        if not rest:
            return ", ".join(shown)
        names = sorted({block for block, *_ in self.parts})
        touched = len({(block, key) for block, key, *_ in self.parts})
        return f"{', '.join(shown)} and {rest} more: {touched} variables of {names} together"


def unobservable(problem: Problem, values: Values, element: int = 0) -> tuple[Direction, ...]:
    """The directions about which a problem says nothing at ``values``, the emptiest first.

    Of a large problem (over 1500 unknowns) the first eight combinations.

    Args:
        problem: The factor groups.
        values: Where it is linearized, (B, N, …).
        element: Which batch element.

    Raises:
        DnlsError: Its linearization is not finite, or there is no such element.
    """
    structure = Structure.of(problem, values)
    with torch.no_grad():
        hessian = normal_equations(problem, values, structure).hessian
    return directions_without_information(structure, values, hessian, element)


def directions_without_information(
    structure: Structure, values: Values, hessian: Tensor, element: int = 0
) -> tuple[Direction, ...]:
    """As `unobservable`, of an H (B, nnz) that is known already."""
    if not 0 <= element < len(hessian):
        raise DnlsError(f"there is no batch element {element}, the batch has {len(hessian)}")
    entries = hessian[element].double().numpy(force=True)
    if not np.isfinite(entries).all():
        raise DnlsError(f"the normal equations of batch element {element} are not finite")
    names = _coordinates(structure, values)
    diagonal = entries[structure.pattern.diagonal]
    unseen = np.flatnonzero(diagonal <= 0)
    alone = [(0.0, np.eye(1, len(diagonal), k)[0]) for k in unseen.tolist()]
    joint = _null_vectors(structure, entries, diagonal)
    return tuple(_direction(size, vector, names) for size, vector in (*alone, *joint))


def _coordinates(structure: Structure, values: Values) -> list[tuple[str, int, str]]:
    """(block, id, axis) of every entry of the tangent."""
    out: list[tuple[str, int, str]] = []
    for block in structure.pattern.blocks:
        axes = _axes(values[block.name], block.tangent_dim)
        ids = values.ids[block.name].tolist()
        out += [(block.name, key, axis) for key in ids for axis in axes]
    return out


def _axes(element: Element, dim: int) -> tuple[str, ...]:
    return AXES.get(type(element), tuple(f"x{k}" for k in range(dim)))


def _null_vectors(
    structure: Structure, entries: Floats, diagonal: Floats
) -> list[tuple[float, Floats]]:
    """Eigenvalues next to zero of C on the coordinates that are seen, and vectors of H."""
    from scipy.sparse import csc_array, diags_array
    from scipy.sparse.linalg import eigsh

    pattern = structure.pattern
    seen = np.flatnonzero(diagonal > 0)
    if not len(seen):
        return []
    lower: Any = csc_array((entries, pattern.rows, pattern.indptr), shape=(pattern.n,) * 2)
    whole = lower + lower.T - diags_array(diagonal)
    scale = 1 / np.sqrt(diagonal[seen])
    unit: Any = diags_array(scale) @ whole[seen][:, seen] @ diags_array(scale)
    if len(seen) <= DENSE_UP_TO:
        sizes, vectors = np.linalg.eigh(unit.toarray())
    else:
        start = np.cos(np.arange(len(seen)))  # any; fixed, so that reports repeat
        sizes, vectors = eigsh(unit.tocsc(), k=ENOUGH, sigma=-1e-9, v0=start)
    out: list[tuple[float, Floats]] = []
    for k in np.argsort(sizes):
        if sizes[k] < max(RELATIVE, len(seen) * np.finfo(float).eps):
            vector = np.zeros(pattern.n)
            vector[seen] = scale * vectors[:, k]
            out.append((max(float(sizes[k]), 0.0), vector))
    return out


def _direction(size: float, vector: Floats, names: list[tuple[str, int, str]]) -> Direction:
    unit = vector / np.linalg.norm(vector)
    share = unit**2
    parts = [(*names[k], float(share[k])) for k in np.argsort(-share, kind="stable")]
    return Direction(size, tuple(p for p in parts if p[3] > 1e-6), torch.from_numpy(unit))
