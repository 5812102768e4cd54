"""The block diagonal of a matrix as its preconditioner: one Cholesky factor per variable.

Scaled by them, the Hessian of factors that touch at most q variables each has no eigenvalue above
q, whatever the units and weights; what remains slow is what spreads far, as along a chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnls_ros.problem.structure import Ints, Pattern
from dnls_ros.problem.variables import Block


def own_positions(pattern: Pattern, block: Block) -> Ints:
    """(N, t, t) where the lower triangles of a block's variables lie among the values.

    It is nnz where the pattern has no entry, and above the diagonal.
    """
    t, rows, columns = block.tangent_dim, pattern.rows, pattern.columns
    inside = (columns >= block.offset) & (rows < block.stop)  # columns never exceed rows
    where = np.flatnonzero(inside)
    variable, axis = np.divmod(rows[where] - block.offset, t)
    owner, other = np.divmod(columns[where] - block.offset, t)
    own = variable == owner
    positions = np.full((block.count, t, t), pattern.nnz, np.int64)
    positions[variable[own], axis[own], other[own]] = where[own]
    return positions


@dataclass(frozen=True, eq=False)
class DiagonalPositions:
    """Where the blocks of a pattern's diagonal lie among its values, once per pattern."""

    blocks: tuple[Block, ...]
    positions: tuple[Tensor, ...]

    @classmethod
    def of(cls, pattern: Pattern) -> DiagonalPositions:
        """Of all variables."""
        found = [torch.from_numpy(own_positions(pattern, block)) for block in pattern.blocks]
        return cls(pattern.blocks, tuple(found))

    def matrices(self, values: Tensor) -> list[Tensor]:
        """(B, N, t, t) lower triangles for each block, of values (B, nnz)."""
        padded = torch.nn.functional.pad(values, (0, 1))
        return [padded[:, at.to(values.device)] for at in self.positions]


@dataclass(frozen=True, eq=False)
class BlockJacobi:
    """A block diagonal M = L Lᵀ.

    Attributes:
        blocks: The variable blocks along the diagonal.
        factors: L, (B, N, t, t) for each block; identities where there is none.
        inverses: L⁻¹, the same.
        ok: (B,) all blocks are finite and positive definite.
    """

    blocks: tuple[Block, ...]
    factors: tuple[Tensor, ...]
    inverses: tuple[Tensor, ...]
    ok: Tensor

    @classmethod
    def of(cls, blocks: tuple[Block, ...], matrices: Sequence[Tensor]) -> BlockJacobi:
        """From the lower triangles (B, N, t, t) for each block."""
        factors: list[Tensor] = []
        inverses: list[Tensor] = []
        ok = torch.ones(len(matrices[0]), dtype=torch.bool, device=matrices[0].device)
        for lower in matrices:
            eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
            factor, info = torch.linalg.cholesky_ex(lower)
            good = (info == 0) & factor.flatten(2).isfinite().all(2)
            factor = torch.where(good[..., None, None], factor, eye)
            factors.append(factor)
            inverses.append(torch.linalg.solve_triangular(factor, eye, upper=False))
            ok = ok & good.all(1)
        return cls(blocks, tuple(factors), tuple(inverses), ok)

    @property
    def nnz(self) -> int:
        """Entries of the lower triangles."""
        return sum(b.count * b.tangent_dim * (b.tangent_dim + 1) // 2 for b in self.blocks)

    def solve(self, x: Tensor) -> Tensor:
        """M⁻¹ x for x (B, n, k)."""
        return self._each(x, [(inverse, inverse.mT) for inverse in self.inverses])

    def multiply(self, x: Tensor) -> Tensor:
        """M x for x (B, n, k)."""
        return self._each(x, [(factor.mT, factor) for factor in self.factors])

    def _each(self, x: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        parts = [
            (second @ (first @ x[:, b.offset : b.stop].unflatten(1, (b.count, b.tangent_dim))))
            for b, (first, second) in zip(self.blocks, pairs, strict=True)
        ]
        return torch.cat([part.flatten(1, 2) for part in parts], 1)
