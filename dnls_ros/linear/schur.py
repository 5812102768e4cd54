"""The Schur complement: blocks that do not touch one another are eliminated first.

Landmarks E and the rest K of a problem split its matrix into [[E, Wᵀ], [W, K]] with E block
diagonal. The reduced system of the rest, S = K − WE⁻¹Wᵀ, is formed and left to another solver; the
landmarks follow by substitution. The result is that of a Cholesky factorization of the whole, with
the landmarks first in its order.

Triggs, McLauchlan, Hartley, Fitzgibbon: Bundle Adjustment, a Modern Synthesis (2000), section 6.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dnls_ros.linear.eliminated import Eliminated, add
from dnls_ros.linear.elimination import Fill, Partition
from dnls_ros.linear.krylov import Operator
from dnls_ros.linear.solver import (
    Factorization,
    LinearSolver,
    Symbolic,
    as_columns,
    check_rhs,
    check_values,
    step_of,
)
from dnls_ros.problem.structure import Pattern


@dataclass(frozen=True)
class Schur:
    """Eliminates blocks, and leaves the reduced system to another solver.

    Attributes:
        eliminate: Names of blocks, e.g. ``"point"``; no factor may join two of their variables.
        inner: Solves the reduced system.
    """

    eliminate: str | tuple[str, ...]
    inner: LinearSolver

    @property
    def names(self) -> tuple[str, ...]:
        """The eliminated blocks."""
        return names_of(self.eliminate)

    @property
    def name(self) -> str:
        """For reports."""
        return f"schur({', '.join(self.names)}; {self.inner.name})"

    def analyze(self, pattern: Pattern) -> SchurSymbolic:
        """Finds the reduced pattern and where the products go.

        Raises:
            DnlsError: A block is unknown, none would remain, or two eliminated variables share a
                factor.
        """
        partition = Partition.of(pattern, self.names)
        fill = Fill.of(partition)
        return SchurSymbolic(pattern, partition, fill, self.inner.analyze(fill.pattern))


def names_of(eliminate: str | tuple[str, ...]) -> tuple[str, ...]:
    """One name or several as several."""
    return (eliminate,) if isinstance(eliminate, str) else eliminate


@dataclass(frozen=True, eq=False)
class SchurSymbolic:
    """The elimination, and the inner solver's analysis of what remains."""

    pattern: Pattern
    partition: Partition
    fill: Fill
    inner: Symbolic

    def factorize(self, values: Tensor) -> SchurFactorization:
        """Eliminates, and factorizes the reduced systems, of values (B, nnz)."""
        check_values(values, self.pattern)
        eliminated = Eliminated.of(self.partition, values.detach())
        reduced = values.new_zeros(len(values), self.inner.pattern.nnz + 1)
        fill = self.fill.on(values.device)
        reduced.index_copy_(1, fill.kept, eliminated.kept_values)
        for c, positions in zip(eliminated.classes, fill.classes, strict=True):
            add(reduced, positions, (c.half.mT @ -c.half).flatten(1))
        inner = self.inner.factorize(reduced[:, :-1])
        return SchurFactorization(self.pattern, eliminated, inner, eliminated.ok & inner.ok)


@dataclass(frozen=True, eq=False)
class SchurFactorization:
    """The factors of the eliminated variables and of the reduced system."""

    pattern: Pattern
    eliminated: Eliminated
    inner: Factorization
    ok: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrices."""
        return self.eliminated.kept_values.dtype

    @property
    def nnz(self) -> int:
        """Entries of the factor of the whole."""
        return self.eliminated.nnz + self.inner.nnz

    def solve(self, rhs: Tensor) -> Tensor:
        """A⁻¹ rhs for rhs (B, n) or (B, n, k)."""
        return self._through(rhs, self.inner.solve)

    def step(self, rhs: Tensor) -> Tensor:
        """As `solve`, as exactly as the inner solver makes steps."""
        return self._through(rhs, lambda rest: step_of(self.inner, rest))

    def _through(self, rhs: Tensor, inner: Operator) -> Tensor:
        check_rhs(rhs, self.eliminated.kept_values, self.pattern.n)
        return self.eliminated.solve(as_columns(rhs), inner).view(rhs.shape)

    def diagonal(self) -> Tensor:
        """(B, n) diagonal of L, in the order of the matrix."""
        out = self.eliminated.kept_values.new_empty(len(self.ok), self.pattern.n)
        out[:, self.eliminated.kept] = self.inner.diagonal()
        for c in self.eliminated.classes:
            out[:, c.variables.own] = c.factor.diagonal(dim1=2, dim2=3)
        return out.masked_fill(~self.ok[:, None], torch.nan)
