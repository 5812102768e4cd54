"""Block-sparse Cholesky on the CPU, in kernels that are compiled for the block size.

Matrices of windows and pose graphs are made of small dense blocks, one for each pair of variables
that share a factor. Taken block by block, with the arithmetic of a block unrolled into vector
instructions, they factorize many times as fast as by a general sparse solver. Ordering and
structure are found once per pattern (`block_structure`), a factorization reuses them, and the
elements of a batch are taken by as many threads as torch has, without any influence on the result.
Needs numba, and float64.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.linear.block_structure import BlockStructure, Ordering, block_structure
from dnls_ros.linear.solver import check_rhs, check_values
from dnls_ros.problem.structure import Ints, Pattern

Array = NDArray[np.float64]


@lru_cache(maxsize=1)
def has_kernels() -> bool:
    """Whether numba, which compiles kernels, is installed."""
    return importlib.util.find_spec("numba") is not None


@dataclass(frozen=True)
class BlockCholesky:
    """Cholesky by blocks.

    Attributes:
        ordering: Of the elimination: ``"auto"`` takes the order of the variables or one of minimum
            degree, whichever needs less arithmetic.
    """

    ordering: Ordering = "auto"

    @property
    def name(self) -> str:
        """For reports."""
        return "block_cholesky" if self.ordering == "auto" else f"block_cholesky({self.ordering})"

    def analyze(self, pattern: Pattern) -> BlockSymbolic:
        """Orders the blocks and finds those of the factor.

        Raises:
            UnavailableError: numba is not installed.
            DnlsError: The pattern has an index outside of the matrix.
        """
        if not has_kernels():
            raise UnavailableError(
                "BlockCholesky needs numba, which is not installed: `pip install numba`, or use "
                "Cholmod() or Dense()"
            )
        return BlockSymbolic(pattern, block_structure(pattern, self.ordering))


@dataclass(frozen=True, eq=False)
class BlockSymbolic:
    """A pattern and its blocks."""

    pattern: Pattern
    structure: BlockStructure

    def factorize(self, values: Tensor) -> BlockFactorization:
        """L Lᵀ of each of values (B, nnz).

        Raises:
            DnlsError: The values are not float64 on the CPU.
        """
        from dnls_ros.kernels.cholesky import factorize_each

        check_values(values, self.pattern)
        if values.dtype != torch.float64 or values.device.type != "cpu":
            raise DnlsError(
                f"BlockCholesky solves in float64 on the CPU, got {values.dtype} on "
                f"{values.device}; convert the problem or use Dense() or Multifrontal()"
            )
        s = self.structure
        numbers = np.ascontiguousarray(values.detach().numpy())
        storage = np.empty((len(numbers), s.size))
        failed = np.empty(len(numbers), np.int64)
        in_threads(
            len(numbers),
            lambda first, last: factorize_each(
                s.unit,
                s.start,
                s.rows,
                s.left_start,
                s.left_column,
                s.left_block,
                s.entry,
                s.ones,
                numbers[first:last],
                storage[first:last],
                failed[first:last],
            ),
        )
        return BlockFactorization(self.pattern, s, storage, failed)


@dataclass(frozen=True, eq=False)
class BlockFactorization:
    """The factors of a batch.

    Attributes:
        pattern: Of the matrices.
        structure: Their blocks.
        storage: (B, size) blocks of L.
        failed: (B,) 0, or 1 + the first block column without a positive definite pivot.
    """

    pattern: Pattern
    structure: BlockStructure
    storage: Array
    failed: NDArray[np.int64] = field(repr=False)

    @property
    def ok(self) -> Tensor:
        """(B,) bool: the matrix is finite and positive definite."""
        return torch.from_numpy(self.failed == 0)

    @property
    def dtype(self) -> torch.dtype:
        """The only one."""
        return torch.float64

    @property
    def nnz(self) -> int:
        """Entries of the lower triangle that are stored, padding included."""
        return len(self.structure.rows) * self.structure.b**2

    def solve(self, rhs: Tensor) -> Tensor:
        """A⁻¹ rhs for rhs (B, n) or (B, n, k)."""
        from dnls_ros.kernels.cholesky import solve_each

        s = self.structure
        check_rhs(rhs, torch.empty(len(self.failed), dtype=torch.float64), self.pattern.n)
        columns = np.ascontiguousarray(rhs.detach().numpy()).reshape(*rhs.shape[:2], -1)
        out = np.empty_like(columns)
        in_threads(
            len(out),
            lambda first, last: solve_each(
                s.unit,
                s.start,
                s.rows,
                s.place,
                self.storage[first:last],
                self.failed[first:last],
                columns[first:last],
                out[first:last],
            ),
        )
        return torch.from_numpy(out).view(rhs.shape)

    def diagonal(self) -> Tensor:
        """(B, n) diagonal of L, by unknown."""
        found = self.storage[:, self.structure.entry[self.pattern.diagonal]]
        found[self.failed != 0] = np.nan
        return torch.from_numpy(found)

    def inverse_entries(self, rows: Ints, columns: Ints) -> Tensor | None:
        """Entries (B, k) of A⁻¹; None if one of them lies where L has no block.

        The first call computes A⁻¹ wherever L has blocks, at a few times the cost of L itself.
        """
        at = self.structure.locate(rows, columns)
        if bool((at < 0).any()):
            return None
        return torch.from_numpy(self._inverse[:, at])

    @cached_property
    def _inverse(self) -> Array:
        from dnls_ros.kernels.cholesky import invert_each

        s = self.structure
        out = np.empty_like(self.storage)
        in_threads(
            len(out),
            lambda first, last: invert_each(
                s.unit,
                s.start,
                s.rows,
                self.storage[first:last],
                self.failed[first:last],
                out[first:last],
            ),
        )
        return out


def in_threads(count: int, work: Callable[[int, int], object]) -> None:
    """Calls ``work(first, last)`` on parts of 0 … count, in as many threads as torch has."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        work(0, count)
        return
    bounds = [count * k // threads for k in range(threads + 1)]
    waiting = [_pool(threads).submit(work, a, b) for a, b in pairwise(bounds)]
    for part in waiting:
        part.result()


@lru_cache(maxsize=8)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dnls_kernels")
