"""Marginal covariances: blocks of H⁻¹, column by column from a factorization.

At the optimum the inverse of H = JᵀWJ is the covariance of the tangent vector (to first order, in
the body frames of the variables); the marginal of some unknowns is its sub-matrix. Only the
columns that are asked for are computed.

Kaess, Dellaert: Covariance Recovery from a Square Root Information Matrix, RAS 57 (2009).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear.solver import Factorization
from dnls_ros.problem.structure import Ints, Pattern

Slots = Sequence[int] | range | Ints | Tensor


def tangent_indices(pattern: Pattern, block: str, slots: Slots) -> Ints:
    """Indices of the tangent vector that belong to variables of a block, slot by slot.

    Args:
        pattern: Of the problem.
        block: Name.
        slots: Positions in the block (not ids; `Values.slots` finds them).

    Raises:
        DnlsError: The block or a slot does not exist.
    """
    found = next((b for b in pattern.blocks if b.name == block), None)
    if found is None:
        raise DnlsError(f"no block '{block}'; there are {[b.name for b in pattern.blocks]}")
    at = _checked(slots, found.count, f"slots of block '{block}'")
    t = found.tangent_dim
    return (found.offset + at[:, None] * t + np.arange(t)).reshape(-1)


def marginal_covariance(
    factorization: Factorization, pattern: Pattern, which: Slots | tuple[str, Slots]
) -> Tensor:
    """The joint covariance of some unknowns, in the order they are named in.

    Args:
        factorization: Of H at the optimum, undamped.
        pattern: Of H.
        which: k indices of the tangent vector, or a block's name and slots in it.

    Returns:
        (B, k, k), symmetric; NaN for elements whose H is not positive definite.

    Raises:
        DnlsError: An index, a slot or the block does not exist.
    """
    indices = _indices(pattern, which)
    like = factorization.diagonal()
    units = like.new_zeros(pattern.n, len(indices))
    at = torch.from_numpy(indices).to(like.device)
    units[at, torch.arange(len(indices), device=like.device)] = 1.0
    columns = factorization.solve(units.expand(len(like), -1, -1))[:, at]
    return 0.5 * (columns + columns.mT)


def _indices(pattern: Pattern, which: Slots | tuple[str, Slots]) -> Ints:
    if isinstance(which, tuple) and len(which) == 2 and isinstance(which[0], str):
        return tangent_indices(pattern, which[0], which[1])  # pyright: ignore[reportArgumentType]
    return _checked(which, pattern.n, "indices of the tangent vector")  # pyright: ignore[reportArgumentType]


def _checked(numbers: Slots, count: int, what: str) -> Ints:
    """As int64 (k,), each within [0, count)."""
    given = numbers.numpy(force=True) if isinstance(numbers, Tensor) else np.asarray(numbers)
    if given.size and given.dtype.kind not in "iu":
        raise DnlsError(f"{what} must be whole numbers, got {given.dtype}")
    at = given.astype(np.int64).reshape(-1)
    outside = at[(at < 0) | (at >= count)]
    if len(outside):
        raise DnlsError(f"{what} lie in 0 … {count - 1}, got {outside[:3].tolist()}")
    return at
