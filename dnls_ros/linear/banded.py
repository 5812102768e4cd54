"""Cholesky of windows on a GPU: a band in time and a border, one window per thread block.

A batch of windows gives a GPU one small, narrow matrix each. `Banded` puts a whole factorization
into one launch and a solution into another: no levels, no batched products of padded fronts, and
the part of the matrix in work stays in shared memory. For patterns that are a band in some order
of their variables, with a border of what many of them share; others are refused.

The kernels ran on an H200 with CuPy 14 and gave what the CPU gives (tests marked ``gpu``); how
fast they are was not measured. Elsewhere tests compile the same source for the CPU, where it
passes what is asked of every solver. The GPU's default solver is `Multifrontal`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dnls_ros.linear.band_kernels import CUPY, BandKernels
from dnls_ros.linear.band_layout import BandLayout, band_layout
from dnls_ros.linear.solver import as_columns, check_rhs, check_values
from dnls_ros.problem.structure import Pattern


@dataclass(frozen=True)
class Banded:
    """Block-banded Cholesky with a border, in float64 or float32 on a CUDA device.

    Attributes:
        kernels: Who does the arithmetic.
        largest_front: Unknowns of a band and a border together up to which a pattern is accepted.
            A front of 128 in float64 takes 136 KB of the 227 KB of shared memory that a thread
            block of a Hopper has; where there is less, it lies in global memory.
    """

    kernels: BandKernels = CUPY
    largest_front: int = 128

    @property
    def name(self) -> str:
        """For reports."""
        return "banded"

    def analyze(self, pattern: Pattern) -> BandedSymbolic:
        """Finds the band and the border.

        Raises:
            DnlsError: The pattern is not banded enough, or has an index outside of the matrix.
        """
        return BandedSymbolic(pattern, band_layout(pattern, self.largest_front), self.kernels)


@dataclass(frozen=True, eq=False)
class BandedSymbolic:
    """A pattern and its band."""

    pattern: Pattern
    layout: BandLayout
    kernels: BandKernels
    _indices: dict[torch.device, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        """The layout's place, entry and ones on a device; they are kept."""
        known = self._indices.get(device)
        if known is None:
            where = self.layout.place, self.layout.entry, self.layout.ones
            with torch.inference_mode(False):  # they outlive the mode
                known = tuple(torch.from_numpy(numbers).to(device) for numbers in where)
            self._indices[device] = known
        return known

    def factorize(self, values: Tensor) -> BandedFactorization:
        """L Lᵀ of each of values (B, nnz), by one launch.

        Raises:
            UnavailableError: The values are not on a CUDA device, or CuPy is not installed.
            DnlsError: They are of a type other than float64 and float32.
        """
        check_values(values, self.pattern)
        self.kernels.check(values)
        _, entry, ones = self.on(values.device)
        storage = values.new_zeros(len(values), self.layout.size)
        storage.index_copy_(1, entry, values.detach()).index_fill_(1, ones, 1.0)
        ok = torch.empty(len(values), dtype=torch.bool, device=values.device)
        if len(values):  # a device refuses a launch of nothing
            self.kernels.factorize(self.layout, storage, ok)
        return BandedFactorization(self, storage, ok)


@dataclass(frozen=True, eq=False)
class BandedFactorization:
    """The factors of a batch.

    Attributes:
        symbolic: Where their numbers lie.
        storage: (B, size) L.
        ok: (B,) bool: the matrix is finite and positive definite.
    """

    symbolic: BandedSymbolic
    storage: Tensor
    ok: Tensor

    @property
    def pattern(self) -> Pattern:
        """Of the matrices."""
        return self.symbolic.pattern

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrices."""
        return self.storage.dtype

    @property
    def nnz(self) -> int:
        """Entries of the factor, without padding."""
        return self.symbolic.layout.nnz

    def solve(self, rhs: Tensor) -> Tensor:
        """A⁻¹ rhs for rhs (B, n) or (B, n, k), by one launch."""
        check_rhs(rhs, self.storage, self.pattern.n)
        place, _, _ = self.symbolic.on(rhs.device)
        columns, layout = as_columns(rhs), self.symbolic.layout
        x = columns.new_zeros(len(columns), layout.padded, columns.shape[2])
        x.index_copy_(1, place, columns)
        if x.numel():
            self.symbolic.kernels.solve(layout, self.storage, self.ok, x)
        return x.index_select(1, place).view(rhs.shape)

    def diagonal(self) -> Tensor:
        """(B, n) diagonal of L, by unknown."""
        _, entry, _ = self.symbolic.on(self.storage.device)
        at = entry.index_select(0, self.pattern.index("diagonal", self.storage.device))
        found = self.storage.index_select(1, at)
        return found.masked_fill(~self.ok[:, None], torch.nan)
