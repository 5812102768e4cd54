"""Where the numbers of a matrix with a band and a border lie; `banded.cu` says what is there.

The unknowns of the band are cut into blocks of one size, whatever their variables are; the last
block is filled up by the identity. The block size, the order and the border are those for which a
thread block needs the fewest cycles, by a rough count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dnls_ros.errors import DnlsError
from dnls_ros.linear.band_order import Graph, Split, splits
from dnls_ros.linear.block_structure import check_pattern
from dnls_ros.problem.structure import Ints, Pattern

LARGEST_BLOCK = 9
"""A pose with its velocity; the pivot of a block is in the registers of a thread."""

PER_COLUMN, PER_PIVOT, PER_PRODUCT = 1000, 300, 20
"""Cycles of a column for barriers and trips to memory, for each of its pivots in turn, and for
each entry of its diagonal block, which every thread computes; guesses, not measured."""

LANES = 32
"""Multiply-adds that a thread block does at once."""


@dataclass(frozen=True, eq=False)
class BandLayout:
    """A pattern's place in the storage of a banded matrix.

    Attributes:
        block: Unknowns of a block.
        count: Block columns.
        band: How many block columns a column is coupled to after itself.
        border: Unknowns coupled to all.
        place: (n,) where each unknown lies in a padded, ordered vector.
        entry: (nnz,) where each entry of the pattern lies in the storage.
        ones: Diagonal entries of the storage that belong to no unknown.
        nnz: Entries of the factor, without padding.
    """

    block: int
    count: int
    band: int
    border: int
    place: Ints
    entry: Ints
    ones: Ints
    nnz: int

    @property
    def front(self) -> int:
        """Unknowns that a column in hand is coupled to, its own among them."""
        return (self.band + 1) * self.block + self.border

    @property
    def padded(self) -> int:
        """Numbers of a vector."""
        return self.count * self.block + self.border

    @property
    def size(self) -> int:
        """Numbers of a matrix."""
        return self.count * self.front * self.block + self.border**2

    @property
    def panel(self) -> int:
        """Numbers in shared memory, without the front."""
        return self.front * self.block


def band_layout(pattern: Pattern, largest_front: int) -> BandLayout:
    """Finds a band and a border.

    Raises:
        DnlsError: The pattern has an index outside of the matrix or above the diagonal, no
            unknown, or no band and border of at most ``largest_front`` unknowns together.
    """
    check_pattern(pattern)
    if not pattern.n:
        raise DnlsError("the pattern has no unknowns: there is nothing to factorize")
    graph = Graph.of(pattern)
    shapes = [
        _Shape.of(graph, split, block)
        for split in splits(graph, largest_front)
        for block in range(1, LARGEST_BLOCK + 1)
    ]
    fitting = [shape for shape in shapes if shape.front <= largest_front]
    if not fitting:
        narrow = min(shapes, key=lambda shape: shape.front)
        raise DnlsError(
            f"Banded: the matrix of {pattern.n} unknowns is not banded enough. Its narrowest form "
            f"has a bandwidth of {narrow.front - narrow.border} unknowns and a border of "
            f"{narrow.border}, together {narrow.front}; at most {largest_front} can be worked on "
            "at once. Use Multifrontal() or Dense(), on the CPU BlockCholesky()"
        )
    return _placed(pattern, graph, min(fitting, key=lambda shape: shape.cycles))


@dataclass(frozen=True, eq=False)
class _Shape:
    """A split cut into blocks."""

    split: Split
    block: int
    count: int
    band: int
    border: int

    @classmethod
    def of(cls, graph: Graph, split: Split, block: int) -> _Shape:
        begin = split.offsets(graph)
        inside = (begin[graph.low] >= 0) & (begin[graph.high] >= 0)
        low, high = begin[graph.low[inside]], begin[graph.high[inside]]
        ends = begin + graph.dim - 1
        last = np.maximum(ends[graph.low[inside]], ends[graph.high[inside]])
        first, own = np.minimum(low, high), split.band  # a variable may lie in two blocks
        reach = np.concatenate(
            [last // block - first // block, ends[own] // block - begin[own] // block]
        )
        unknowns = int(graph.dim[own].sum())
        return cls(
            split,
            block,
            -(-unknowns // block),
            int(reach.max()),
            int(graph.dim[split.border].sum()),
        )

    @property
    def front(self) -> int:
        return (self.band + 1) * self.block + self.border

    @property
    def cycles(self) -> float:
        """Of a factorization, about."""
        rest, b = self.front - self.block, self.block
        work = rest * (rest + 1) / 2 * b + rest * b * b
        corner = self.border * (PER_COLUMN / 2 + PER_PIVOT) + self.border**3 / 6 / LANES
        column = PER_COLUMN + PER_PIVOT * b + PER_PRODUCT * b * b + work / LANES
        return self.count * column + corner


def _placed(pattern: Pattern, graph: Graph, shape: _Shape) -> BandLayout:
    b, front, split = shape.block, shape.front, shape.split
    padded_band, ring = shape.count * b, (shape.band + 1) * b
    place = np.empty(pattern.n, np.int64)
    band, border = _unknowns(graph, split.band), _unknowns(graph, split.border)
    place[band] = np.arange(len(band))
    place[border] = padded_band + np.arange(len(border))
    first, second = place[pattern.rows], place[pattern.columns]
    row, column = np.maximum(first, second), np.minimum(first, second)
    block, inside = np.divmod(column, b)
    panel_row = np.where(row < padded_band, row - block * b, ring + row - padded_band)
    in_panel = (block * front + panel_row) * b + inside
    corner = shape.count * front * b
    in_corner = corner + (row - padded_band) * shape.border + column - padded_band
    padding = np.arange(len(band), padded_band)
    ones = (padding // b * front + padding % b) * b + padding % b
    ends = np.minimum((np.arange(len(band)) // b + shape.band + 1) * b, len(band))
    entries = int((ends - np.arange(len(band))).sum()) + len(band) * len(border)
    return BandLayout(
        b,
        shape.count,
        shape.band,
        shape.border,
        place,
        np.where(column < padded_band, in_panel, in_corner),
        ones,
        entries + len(border) * (len(border) + 1) // 2,
    )


def _unknowns(graph: Graph, variables: Ints) -> Ints:
    """Unknowns of variables, in their order."""
    dim = graph.dim[variables]
    within = np.arange(int(dim.sum())) - np.repeat(np.cumsum(dim) - dim, dim)
    return np.repeat(graph.start[variables], dim) + within
