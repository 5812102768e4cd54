"""The blocks of a symmetric matrix and of its Cholesky factor: what `BlockCholesky` analyzes.

All blocks have one size b. A variable of another dimension takes several blocks, the last of which
is filled up by the identity: SE(3) and points share b = 3, SE(3) alone takes 6, SE(2) with
velocities 3. The size is the one for which the padded blocks of all variables are cheapest.
Everything here is done once per structure, and every index is checked here, since kernels do not.

The order of elimination is that of the variables or one of multiple minimum degree (Liu 1985, as
SuperLU has it), whichever needs less arithmetic: a window without loops is best taken in order of
time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu

from dnls_ros.errors import DnlsError
from dnls_ros.problem.structure import Ints, Pattern, distinct
from dnls_ros.problem.variables import Block

Ordering = Literal["auto", "natural", "minimum_degree"]
Int32s = NDArray[np.int32]

FEW_FILLED = 1.5
"""With so little fill-in the order of the variables is taken without looking for a better one."""
PER_BLOCK = 16
"""What handling a block costs, in multiply-adds of its arithmetic."""


@dataclass(frozen=True, eq=False)
class BlockStructure:
    """Where the numbers of a matrix and of its factor lie.

    Attributes:
        b: Block size.
        p: Rows of a stored column.
        start: (N + 1,) where each block column of L begins.
        rows: Row of each block.
        left_start, left_column, left_block: Blocks of L by rows (`dnls_ros.kernels.cholesky`).
        place: (n,) where each unknown lies in a padded vector, in the order of elimination.
        entry: (nnz,) where each entry of the pattern lies in L's storage.
        ones: Diagonal entries of L's storage that pad a variable.
    """

    b: int
    p: int
    start: Int32s
    rows: Int32s
    left_start: Int32s
    left_column: Int32s
    left_block: Int32s
    place: Ints
    entry: Ints
    ones: Ints

    @property
    def count(self) -> int:
        """N, block columns."""
        return len(self.start) - 1

    @property
    def size(self) -> int:
        """Numbers in L's storage."""
        return len(self.rows) * self.b * self.p

    @cached_property
    def unit(self) -> tuple[int, ...]:
        """What tells kernels the block size."""
        return (0,) * self.b

    @cached_property
    def operations(self) -> int:
        """Multiply-adds of a factorization, about."""
        return _operations(self.start) * self.b**3

    def locate(self, rows: Ints, columns: Ints) -> Ints:
        """Where entries of the matrix lie in L's storage; −1 where L has no block."""
        from dnls_ros.kernels.symbolic import locate

        row, row_in = np.divmod(self.place[rows], self.p)
        column, column_in = np.divmod(self.place[columns], self.p)
        return locate(self.start, self.rows, self.b, self.p, row, row_in, column, column_in)


def block_structure(pattern: Pattern, ordering: Ordering = "auto") -> BlockStructure:
    """Analyzes a pattern.

    Raises:
        DnlsError: An index of the pattern lies outside of the matrix, or above the diagonal.
    """
    from dnls_ros.kernels.simd import padded
    from dnls_ros.kernels.symbolic import by_rows

    check_pattern(pattern)
    b = block_size(pattern.blocks)
    p = padded(b)
    block, inside, count = _blocks_of(pattern, b)
    below, above = _graph(pattern, block, count)
    position, (start, rows) = _order(count, below, above, ordering)
    place = position[block] * p + inside
    none = np.zeros(0, np.int64)
    left_start, left_column, left_block = by_rows(start, rows)
    bare = BlockStructure(
        b, p, start, rows, left_start, left_column, left_block, place, entry=none, ones=none
    )
    entry = bare.locate(pattern.rows, pattern.columns)
    return replace(bare, entry=entry, ones=_padding(bare))


def block_size(blocks: Sequence[Block]) -> int:
    """The block size for which the variables' padded blocks are cheapest."""
    from dnls_ros.kernels.simd import LARGEST, padded

    def cost(b: int) -> int:
        pieces = ((k.count, -(-k.tangent_dim // b)) for k in blocks)
        return sum(n * m * m for n, m in pieces) * (b * padded(b) + PER_BLOCK)

    return min(range(1, LARGEST + 1), key=cost)


def check_pattern(pattern: Pattern) -> None:
    """Raises a `DnlsError` unless the pattern lies in the lower triangle of its matrix."""
    n, rows, columns = pattern.n, pattern.rows, pattern.columns
    inside = not len(rows) or (rows.max() < n and columns.min() >= 0 and (rows >= columns).all())
    if not inside:
        raise DnlsError(
            f"a pattern of order {n} holds the lower triangle, 0 ≤ column ≤ row < {n}; got rows "
            f"{rows.min()} … {rows.max()} and columns {columns.min()} … {columns.max()}"
        )
    if len(columns) != len(rows) or sum(k.count * k.tangent_dim for k in pattern.blocks) != n:
        raise DnlsError(
            f"the pattern has {len(rows)} rows, {len(columns)} columns and blocks of "
            f"{sum(k.count * k.tangent_dim for k in pattern.blocks)} unknowns; its order is {n}"
        )


def _blocks_of(pattern: Pattern, b: int) -> tuple[Ints, Ints, int]:
    """Of each unknown: its block (n,), its place in the block (n,); and how many blocks."""
    block, inside = np.empty(pattern.n, np.int64), np.empty(pattern.n, np.int64)
    count = 0
    for kind in pattern.blocks:
        pieces = -(-kind.tangent_dim // b)
        piece, within = np.divmod(np.arange(kind.tangent_dim), b)
        first = count + pieces * np.arange(kind.count)
        block[kind.offset : kind.stop] = (first[:, None] + piece).reshape(-1)
        inside[kind.offset : kind.stop] = np.tile(within, kind.count)
        count += pieces * kind.count
    return block, inside, count


def _graph(pattern: Pattern, block: Ints, count: int) -> tuple[Ints, Ints]:
    """Pairs of different blocks (row, column) below the diagonal that the matrix joins."""
    row, column = block[pattern.rows], block[pattern.columns]
    apart = row != column
    keys, _ = distinct(column[apart] * count + row[apart], count * count)
    column, row = np.divmod(keys, count)
    return row, column


def _order(
    count: int, row: Ints, column: Ints, ordering: Ordering
) -> tuple[Ints, tuple[Int32s, Int32s]]:
    """Position of each block in the elimination, and the block columns of L."""
    natural = np.arange(count)
    if ordering != "minimum_degree":
        plain = _filled(count, row, column, natural)
        if ordering == "natural" or len(plain[1]) <= FEW_FILLED * (count + len(row)):
            return natural, plain
        found = _minimum_degree(count, row, column)
        filled = _filled(count, row, column, found)
        return (
            (found, filled) if _operations(filled[0]) < _operations(plain[0]) else (natural, plain)
        )
    found = _minimum_degree(count, row, column)
    return found, _filled(count, row, column, found)


def _filled(count: int, row: Ints, column: Ints, position: Ints) -> tuple[Int32s, Int32s]:
    from dnls_ros.kernels.symbolic import fill

    i, j = position[row], position[column]
    low, high = np.minimum(i, j), np.maximum(i, j)
    order = np.argsort(low, kind="stable")
    start = np.searchsorted(low[order], np.arange(count + 1)).astype(np.int32)
    return fill(start, high[order].astype(np.int32))


def _minimum_degree(count: int, row: Ints, column: Ints) -> Ints:
    if count < 3 or not len(row):
        return np.arange(count)
    # Any matrix of this pattern will do that needs no pivoting: the order depends on it alone.
    both, other = np.concatenate([row, column]), np.concatenate([column, row])
    everywhere = np.concatenate([both, np.arange(count)])
    weights = np.concatenate([np.full(len(both), -1.0), np.full(count, count + 1.0)])
    matrix = csc_matrix(
        (weights, (everywhere, np.concatenate([other, np.arange(count)]))), shape=(count, count)
    )
    factors = splu(
        matrix,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True, "Equil": False},
    )
    return factors.perm_c.astype(np.int64)


def _operations(start: Int32s) -> int:
    """Block products of a factorization."""
    lengths = np.diff(start).astype(np.int64)
    return int((lengths * (lengths + 1) // 2).sum())


def _padding(structure: BlockStructure) -> Ints:
    """Diagonal entries of L's storage that belong to no unknown."""
    b, p = structure.b, structure.p
    taken = np.zeros((structure.count, p), bool)
    taken.reshape(-1)[structure.place] = True
    block, inside = np.nonzero(~taken[:, :b])
    return structure.start[block].astype(np.int64) * (b * p) + (p + 1) * inside
