"""Eliminated variables with their numbers: what explicit and implicit Schur complement share.

With E = L Lᵀ and H = L⁻¹Wᵀ, both small and independent per eliminated variable, the rest obeys
S x_k = b_k − Hᵀ L⁻¹ b_e with S = K − HᵀH, and x_e = L⁻ᵀ(L⁻¹ b_e − H x_k) follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dnls_ros.linear.elimination import DegreeClass, Partition


@dataclass(frozen=True, eq=False)
class EliminatedClass:
    """A class with its numbers: the factors L (B, N, t, t) and H = L⁻¹Wᵀ (B, N, t, d)."""

    variables: DegreeClass
    factor: Tensor
    half: Tensor


@dataclass(frozen=True, eq=False)
class Eliminated:
    """All eliminated variables of a batch of matrices.

    Attributes:
        classes: By the number of unknowns they touch.
        kept: (n_k,) unknowns that remain.
        kept_values: (B, nnz of K).
        ok: (B,) all blocks of E are finite and positive definite.
    """

    classes: tuple[EliminatedClass, ...]
    kept: Tensor
    kept_values: Tensor
    ok: Tensor

    @classmethod
    def of(cls, partition: Partition, values: Tensor) -> Eliminated:
        """Factorizes E and halves the couplings, of values (B, nnz)."""
        partition, device = partition.on(values.device), values.device
        padded = torch.nn.functional.pad(values, (0, 1))
        ok = torch.ones(len(values), dtype=torch.bool, device=device)
        classes: list[EliminatedClass] = []
        for variables in partition.classes:
            factor, info = torch.linalg.cholesky_ex(padded[:, variables.own_values])
            half = torch.linalg.solve_triangular(
                factor, padded[:, variables.coupling], upper=False
            )
            ok &= (info == 0).all(1) & factor.flatten(1).isfinite().all(1)
            classes.append(EliminatedClass(variables, factor, half))
        kept_values = values.index_select(1, partition.kept_values)
        return cls(tuple(classes), partition.kept, kept_values, ok)

    @property
    def nnz(self) -> int:
        """Entries of L and H."""
        total = 0
        for c in self.classes:
            (count, t), d = c.variables.own.shape, c.variables.touched.shape[1]
            total += count * (t * (t + 1) // 2 + t * d)
        return total

    def solve(self, b: Tensor, inner: Callable[[Tensor], Tensor]) -> Tensor:
        """A⁻¹ b for b (B, n, k), where ``inner`` solves the reduced system, or gives NaN."""
        rest = b[:, self.kept]
        forward: list[Tensor] = []
        for c in self.classes:
            y = torch.linalg.solve_triangular(c.factor, b[:, c.variables.own], upper=False)
            add(rest, c.variables.touched.flatten(), (c.half.mT @ -y).flatten(1, 2))
            forward.append(y)
        x_kept = inner(rest)
        x = torch.empty_like(b)
        x[:, self.kept] = x_kept
        for c, y in zip(self.classes, forward, strict=True):
            y = y - c.half @ x_kept[:, c.variables.touched]
            x[:, c.variables.own] = torch.linalg.solve_triangular(c.factor.mT, y, upper=True)
        solved = x_kept.isfinite().all(1, keepdim=True) & self.ok[:, None, None]
        return x.masked_fill(~solved, torch.nan)


def add(total: Tensor, positions: Tensor, parts: Tensor) -> None:
    """Adds parts (B, m, …) to total (B, size, …) at positions (m,), which may repeat.

    On the CPU ``scatter_add_`` takes them in order, so the result is the same every time; it is
    also many times faster than ``index_add_`` along this axis.
    """
    index = positions.view(-1, *[1] * (parts.ndim - 2)).expand(parts.shape)
    total.scatter_add_(1, index, parts)
