"""Marginal covariances: blocks of H⁻¹, column by column from a factorization.

At the optimum the inverse of H = JᵀWJ is the covariance of the tangent vector (to first order, in
the body frames of the variables); the marginal of some unknowns is its sub-matrix. Only the
columns that are asked for are computed.

Kaess, Dellaert: Covariance Recovery from a Square Root Information Matrix, RAS 57 (2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dnls_ros.errors import DnlsError
from dnls_ros.linear.solver import Factorization, SelectedInverse, solve_with
from dnls_ros.problem.structure import Ints, Pattern
from dnls_ros.problem.variables import Block

Slots = Sequence[int] | range | Ints | Tensor
COLUMNS = 240
"""Of H⁻¹ that are computed together where all blocks of the diagonal are asked for."""


FEW = 8
"""Variables for which solving column by column is cheaper than inverting where L has blocks."""


def tangent_indices(pattern: Pattern, block: str, slots: Slots) -> Ints:
    """Indices of the tangent vector that belong to variables of a block, slot by slot.

    Args:
        pattern: Of the problem.
        block: Name.
        slots: Positions in the block (not ids; `Values.slots` finds them).

    Raises:
        DnlsError: The block or a slot does not exist.
    """
    found = _block(pattern, block)
    at = _checked(slots, found.count, f"slots of block '{block}'")
    t = found.tangent_dim
    return (found.offset + at[:, None] * t + np.arange(t)).reshape(-1)


def marginal_covariance(
    factorization: Factorization,
    pattern: Pattern,
    which: Slots | tuple[str, Slots],
    values: Tensor | None = None,
) -> Tensor:
    """The joint covariance of some unknowns, in the order they are named in.

    Args:
        factorization: Of H at the optimum, undamped.
        pattern: Of H.
        which: k indices of the tangent vector, or a block's name and slots in it.
        values: (B, nnz) of H, the very numbers that were factorized; with them the result is
            differentiable, also twice: ∂Σ_ab = −Σ_a· ∂H Σ_·b.

    Returns:
        (B, k, k), symmetric; NaN for elements whose H is not positive definite.

    Raises:
        DnlsError: An index, a slot or the block does not exist.
    """
    at = torch.from_numpy(_indices(pattern, which)).to(factorization.ok.device)
    return _blocks(factorization, at[None], values)[:, 0]


def marginal_covariances(
    factorization: Factorization,
    block: str,
    slots: Slots | None = None,
    values: Tensor | None = None,
    *,
    columns: int = COLUMNS,
) -> Tensor:
    """The covariance of each variable of a block, without those between them.

    Args:
        factorization: Of H at the optimum, undamped.
        block: Name.
        slots: N positions in the block; all of them if not given.
        values: As for `marginal_covariance`.
        columns: Of H⁻¹ that are computed at once. They bound the memory, also that of
            derivatives: what is needed for them is computed again.

    Returns:
        (B, N, t, t), symmetric; NaN for elements whose H is not positive definite.

    Raises:
        DnlsError: The block or a slot does not exist.
    """
    found = _block(factorization.pattern, block)
    which = range(found.count) if slots is None else slots
    indices = tangent_indices(factorization.pattern, block, which)
    at = torch.from_numpy(indices).view(-1, found.tangent_dim).to(factorization.ok.device)
    parts = at.split(max(columns // found.tangent_dim, 1))
    if values is None or not (torch.is_grad_enabled() and values.requires_grad):
        return torch.cat([_blocks(factorization, part, None) for part in parts], 1)
    again = partial(checkpoint, _blocks, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([again(factorization, part, values) for part in parts], 1)


def _blocks(factorization: Factorization, at: Tensor, values: Tensor | None) -> Tensor:
    """(B, N, t, t) sub-matrices of H⁻¹ on the unknowns (N, t)."""
    count, t = at.shape
    if values is None and at.numel() > FEW * t and isinstance(factorization, SelectedInverse):
        rows, columns = (at[:, :, None].expand(-1, -1, t), at[:, None, :].expand(-1, t, -1))
        found = factorization.inverse_entries(rows.flatten().numpy(), columns.flatten().numpy())
        if found is not None:
            return found.view(-1, count, t, t)
    numbers = torch.arange(count * t, device=at.device)
    units = torch.zeros(
        factorization.pattern.n, count * t, dtype=factorization.dtype, device=at.device
    )
    units.scatter_(0, at.flatten()[None], 1.0)
    rhs = units.expand(len(factorization.ok), -1, -1)
    columns = (
        factorization.solve(rhs) if values is None else solve_with(factorization, values, rhs)
    )
    own = columns[:, at[:, :, None], numbers.view(count, 1, t)]
    return 0.5 * (own + own.mT)


def _block(pattern: Pattern, name: str) -> Block:
    found = next((b for b in pattern.blocks if b.name == name), None)
    if found is None:
        raise DnlsError(f"no block '{name}'; there are {[b.name for b in pattern.blocks]}")
    return found


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
