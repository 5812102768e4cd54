"""Dense batched Cholesky, on any device and in any floating-point type.

The reference for the other solvers, and the fastest for small matrices and for batches on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dnls_ros.linear.solver import as_columns, check_rhs, check_values
from dnls_ros.problem.structure import Pattern


@dataclass(frozen=True)
class Dense:
    """Fills the matrices in and calls LAPACK, or its CUDA counterpart."""

    name: str = "dense"

    def analyze(self, pattern: Pattern) -> DenseSymbolic:
        """Where the pattern's entries lie in a row-major matrix."""
        return DenseSymbolic(pattern, torch.from_numpy(pattern.rows * pattern.n + pattern.columns))


@dataclass(frozen=True, eq=False)
class DenseSymbolic:
    """Positions of the lower triangle in the flat n × n matrix."""

    pattern: Pattern
    positions: Tensor
    brought: dict[torch.device, Tensor] = field(
        default_factory=dict[torch.device, Tensor], repr=False
    )

    def _at(self, device: torch.device) -> Tensor:
        """The positions on a device, brought there once."""
        if device not in self.brought:
            with torch.inference_mode(False):  # else it could not be used outside of it
                self.brought[device] = self.positions.to(device)
        return self.brought[device]

    def factorize(self, values: Tensor) -> DenseFactorization:
        """Batched L Lᵀ of values (B, nnz)."""
        check_values(values, self.pattern)
        values, n = values.detach(), self.pattern.n
        flat = values.new_zeros(len(values), n * n)
        flat.index_copy_(1, self._at(values.device), values)  # the upper triangle is never read
        factor, info = torch.linalg.cholesky_ex(flat.view(-1, n, n))
        # Whatever is not finite in a row of A or L ends up in that row's diagonal entry.
        ok = (info == 0) & factor.diagonal(dim1=1, dim2=2).isfinite().all(1)
        return DenseFactorization(self.pattern, factor, ok)


@dataclass(frozen=True, eq=False)
class DenseFactorization:
    """The lower factors (B, n, n)."""

    pattern: Pattern
    factor: Tensor
    ok: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrices."""
        return self.factor.dtype

    @property
    def nnz(self) -> int:
        """The whole lower triangle."""
        return self.pattern.n * (self.pattern.n + 1) // 2

    def solve(self, rhs: Tensor) -> Tensor:
        """A⁻¹ rhs for rhs (B, n) or (B, n, k)."""
        check_rhs(rhs, self.factor, self.pattern.n)
        x = torch.cholesky_solve(as_columns(rhs), self.factor)
        return x.masked_fill(~self.ok[:, None, None], torch.nan).view(rhs.shape)

    def diagonal(self) -> Tensor:
        """(B, n) diagonal of L."""
        return self.factor.diagonal(dim1=1, dim2=2).masked_fill(~self.ok[:, None], torch.nan)
