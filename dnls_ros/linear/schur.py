"""The Schur complement: blocks that do not touch one another are eliminated first.

Landmarks E and the rest K of a problem split its matrix into [[E, Wᵀ], [W, K]] with E block
diagonal. With E = L Lᵀ and H = L⁻¹Wᵀ, both small and independent per landmark, the rest obeys the
reduced system (K − HᵀH) x_k = b_k − Hᵀ L⁻¹ b_e, which another solver takes; the landmarks follow
by substitution. The result is that of a Cholesky factorization of the whole, with the landmarks
first in its order.

Triggs, McLauchlan, Hartley, Fitzgibbon: Bundle Adjustment, a Modern Synthesis (2000), section 6.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dnls_ros.linear.elimination import DegreeClass, Elimination
from dnls_ros.linear.solver import (
    Factorization,
    LinearSolver,
    Symbolic,
    check_rhs,
    check_values,
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
        return (self.eliminate,) if isinstance(self.eliminate, str) else self.eliminate

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
        elimination = Elimination.of(pattern, self.names)
        return SchurSymbolic(pattern, elimination, self.inner.analyze(elimination.reduced))


@dataclass(frozen=True, eq=False)
class SchurSymbolic:
    """The elimination, and the inner solver's analysis of what remains."""

    pattern: Pattern
    elimination: Elimination
    inner: Symbolic

    def factorize(self, values: Tensor) -> SchurFactorization:
        """Eliminates, and factorizes the reduced systems, of values (B, nnz)."""
        check_values(values, self.pattern)
        values, device = values.detach(), values.device
        padded = torch.nn.functional.pad(values, (0, 1))
        reduced = values.new_zeros(len(values), self.inner.pattern.nnz + 1)
        reduced[:, self.elimination.kept_targets.to(device)] = values[
            :, self.elimination.kept_values.to(device)
        ]
        ok = torch.ones(len(values), dtype=torch.bool, device=device)
        eliminated: list[Eliminated] = []
        for variables in (c.to(device) for c in self.elimination.classes):
            factor, info = torch.linalg.cholesky_ex(padded[:, variables.own_values])
            half = torch.linalg.solve_triangular(
                factor, padded[:, variables.coupling], upper=False
            )
            _add(reduced, variables.fill, (half.mT @ -half).flatten(1))
            ok &= (info == 0).all(1) & factor.flatten(1).isfinite().all(1)
            eliminated.append(Eliminated(variables, factor, half))
        inner = self.inner.factorize(reduced[:, :-1])
        kept = self.elimination.kept.to(device)
        return SchurFactorization(self.pattern, tuple(eliminated), kept, inner, ok & inner.ok)


@dataclass(frozen=True, eq=False)
class Eliminated:
    """A class with its numbers: the factors L (B, N, t, t) and H = L⁻¹Wᵀ (B, N, t, d)."""

    variables: DegreeClass
    factor: Tensor
    half: Tensor


@dataclass(frozen=True, eq=False)
class SchurFactorization:
    """The factors of the eliminated variables and of the reduced system."""

    pattern: Pattern
    eliminated: tuple[Eliminated, ...]
    kept: Tensor
    inner: Factorization
    ok: Tensor

    @property
    def nnz(self) -> int:
        """Entries of the factor of the whole."""
        own = 0
        for e in self.eliminated:
            (count, t), d = e.variables.own.shape, e.variables.touched.shape[1]
            own += count * (t * (t + 1) // 2 + t * d)
        return own + self.inner.nnz

    def solve(self, rhs: Tensor) -> Tensor:
        """A⁻¹ rhs for rhs (B, n) or (B, n, k)."""
        check_rhs(rhs, self._like(), self.pattern.n)
        b = rhs.detach() if rhs.ndim == 3 else rhs.detach()[:, :, None]
        rest = b[:, self.kept]
        forward: list[Tensor] = []
        for e in self.eliminated:
            y = torch.linalg.solve_triangular(e.factor, b[:, e.variables.own], upper=False)
            _add(rest, e.variables.touched.flatten(), (e.half.mT @ -y).flatten(1, 2))
            forward.append(y)
        x_kept = self.inner.solve(rest)
        x = torch.empty_like(b)
        x[:, self.kept] = x_kept
        for e, y in zip(self.eliminated, forward, strict=True):
            y = y - e.half @ x_kept[:, e.variables.touched]
            x[:, e.variables.own] = torch.linalg.solve_triangular(e.factor.mT, y, upper=True)
        return x.masked_fill(~self.ok[:, None, None], torch.nan).view(rhs.shape)

    def diagonal(self) -> Tensor:
        """(B, n) diagonal of L, in the order of the matrix."""
        out = self._like().new_empty(len(self.ok), self.pattern.n)
        out[:, self.kept] = self.inner.diagonal()
        for e in self.eliminated:
            out[:, e.variables.own] = e.factor.diagonal(dim1=2, dim2=3)
        return out.masked_fill(~self.ok[:, None], torch.nan)

    def _like(self) -> Tensor:
        return self.eliminated[0].factor


def _add(total: Tensor, positions: Tensor, parts: Tensor) -> None:
    """Adds parts (B, m, …) to total (B, size, …) at positions (m,), which may repeat.

    On the CPU ``scatter_add_`` takes them in order, so the result is the same every time; it is
    also many times faster than ``index_add_`` along this axis.
    """
    index = positions.view(-1, *[1] * (parts.ndim - 2)).expand(parts.shape)
    total.scatter_add_(1, index, parts)
