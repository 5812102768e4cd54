"""Sparse Cholesky by CHOLMOD (SuiteSparse), through scikit-sparse.

It works in float64 on the CPU and takes one matrix of the batch after the other. Ordering and
symbolic factorization are done once per pattern. One CSC matrix is kept with them and its numbers
overwritten, since making a new one would take about as long as factorizing a window.

Chen, Davis, Hager, Rajamanickam: Algorithm 887: CHOLMOD, ACM TOMS 35 (2008).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear.cholmod_api import Analysis, Factor, analyze
from dnls_ros.linear.solver import check_rhs, check_values
from dnls_ros.problem.structure import Pattern

Ordering = Literal["amd", "metis", "nesdis", "colamd", "natural", "default", "best"]


@dataclass(frozen=True)
class Cholmod:
    """CHOLMOD with a fill-reducing ordering.

    Attributes:
        ordering: "amd" suits windows and chains; "metis" and "nesdis" large meshes and grids.
    """

    ordering: Ordering = "amd"

    @property
    def name(self) -> str:
        """For reports."""
        return f"cholmod({self.ordering})"

    def analyze(self, pattern: Pattern) -> CholmodSymbolic:
        """Orders and factorizes the pattern symbolically.

        Raises:
            UnavailableError: scikit-sparse is not installed.
        """
        indices, indptr = pattern.rows.astype(np.int32), pattern.indptr.astype(np.int32)
        matrix = csc_matrix((np.ones(pattern.nnz), indices, indptr), shape=(pattern.n, pattern.n))
        matrix.has_canonical_format = True
        return CholmodSymbolic(pattern, matrix, analyze(matrix, self.ordering))


@dataclass(frozen=True, eq=False)
class CholmodSymbolic:
    """The ordering, the factor's pattern, and a matrix whose numbers are overwritten."""

    pattern: Pattern
    matrix: Any
    analysis: Analysis
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def factorize(self, values: Tensor) -> CholmodFactorization:
        """L Lᵀ of each of values (B, nnz).

        Raises:
            DnlsError: The values are not float64 on the CPU.
        """
        check_values(values, self.pattern)
        if values.dtype != torch.float64 or values.device.type != "cpu":
            raise DnlsError(
                f"CHOLMOD solves in float64 on the CPU, got {values.dtype} on {values.device}; "
                "convert the problem or use Dense()"
            )
        with self.lock:
            factors = tuple(self._factor(row) for row in values.detach().numpy())
        return CholmodFactorization(
            self.pattern, factors, torch.tensor([f is not None for f in factors])
        )

    def _factor(self, row: NDArray[np.float64]) -> Factor | None:
        if not np.isfinite(row).all():
            return None
        self.matrix.data[:] = row
        return self.analysis.factorize(self.matrix)


@dataclass(frozen=True, eq=False)
class CholmodFactorization:
    """One factor per batch element, None where there is none."""

    pattern: Pattern
    factors: tuple[Factor | None, ...]
    ok: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """CHOLMOD's."""
        return torch.float64

    @property
    def nnz(self) -> int:
        """Entries of L, 0 if no matrix was positive definite."""
        return next((f.nnz() for f in self.factors if f is not None), 0)

    def solve(self, rhs: Tensor) -> Tensor:
        """A⁻¹ rhs for rhs (B, n) or (B, n, k)."""
        check_rhs(rhs, torch.empty(len(self.factors), dtype=torch.float64), self.pattern.n)
        columns = rhs.detach().numpy()
        x = np.full(columns.shape, np.nan)
        for out, factor, column in zip(x, self.factors, columns, strict=True):
            if factor is not None:
                out[:] = factor.solve(column)
        return torch.from_numpy(x)

    def diagonal(self) -> Tensor:
        """(B, n) diagonal of L, by variable."""
        out = np.full((len(self.factors), self.pattern.n), np.nan)
        for row, factor in zip(out, self.factors, strict=True):
            if factor is not None:
                row[:] = factor.diagonal()
        return torch.from_numpy(out)
