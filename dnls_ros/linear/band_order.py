"""Orders of the variables in which a matrix is a narrow band with a border.

States joined in time are a band when they are taken by time, a pose and the velocity of its stamp
side by side; what many states share (a map's landmarks, an offset, one end of a loop) does not fit
into a band and makes up the border. A pattern knows slots, not stamps, and slots are sorted by
stamp: blocks are interleaved by slot. Other matrices are taken in the order of reverse
Cuthill–McKee (George, Liu 1981), with and without the variables that far too many others see.
Whichever the order, the border is found the same way: to come down to a bandwidth, variables are
taken out until no coupling is longer, those first that rid the band of most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import reverse_cuthill_mckee

from dnls_ros.problem.structure import Ints, Pattern, distinct

WIDTHS = 16
"""Bandwidths that are tried for an order."""

HUB = 4
"""Variables with as many times the usual neighbours are hubs."""


@dataclass(frozen=True, eq=False)
class Graph:
    """The variables that a matrix joins.

    Attributes:
        start: (V,) first unknown of each.
        dim: (V,) how many unknowns each has.
        time: (V,) slot in its block, as a share of the block.
        low, high: (E,) ends of each edge.
    """

    start: Ints
    dim: Ints
    time: np.ndarray
    low: Ints
    high: Ints

    @classmethod
    def of(cls, pattern: Pattern) -> Graph:
        """The pattern by variables."""
        dim = np.concatenate([np.full(k.count, k.tangent_dim, np.int64) for k in pattern.blocks])
        time = np.concatenate([(np.arange(k.count) + 0.5) / k.count for k in pattern.blocks])
        owner, count = np.repeat(np.arange(len(dim)), dim), len(dim)
        high, low = owner[pattern.rows], owner[pattern.columns]
        apart = high != low
        keys, _ = distinct(low[apart] * count + high[apart], count * count)
        low, high = np.divmod(keys, count)
        return cls(np.cumsum(dim) - dim, dim, time, low, high)

    def __len__(self) -> int:
        return len(self.dim)

    @property
    def degree(self) -> Ints:
        """(V,) neighbours of each variable."""
        both = np.concatenate([self.low, self.high])
        return np.bincount(both, minlength=len(self)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """A band, in order, and a border: variables by number."""

    band: Ints
    border: Ints

    def offsets(self, graph: Graph) -> Ints:
        """(V,) where each variable of the band begins; −1 for the border."""
        dim = graph.dim[self.band]
        at = np.full(len(graph), -1, np.int64)
        at[self.band] = np.cumsum(dim) - dim
        return at


def splits(graph: Graph, largest: int) -> Iterator[Split]:
    """Bands and borders to choose from, each border at most ``largest`` unknowns."""
    for order in _orders(graph):
        yield Split(order, np.zeros(0, np.int64))
        spans = _spans(graph, order)
        widths = np.unique(spans[spans <= largest])
        chosen = np.unique(np.linspace(0, len(widths) - 1, WIDTHS).round().astype(np.int64))
        for width in widths[chosen] if len(widths) else ():
            border = _cover(graph, spans > width, largest)
            if border is not None and 0 < len(border) < len(graph):
                yield Split(order[~np.isin(order, border)], border)


def _orders(graph: Graph) -> Iterator[Ints]:
    """Orders of all variables; what shall not be in the band comes last."""
    yield np.argsort(graph.time, kind="stable")
    everyone = np.ones(len(graph), bool)
    yield _cuthill_mckee(graph, everyone)
    degree = graph.degree
    usual = degree <= HUB * max(1, int(np.median(degree)))
    if not usual.all():
        yield np.concatenate([_cuthill_mckee(graph, usual), np.flatnonzero(~usual)])


def _cuthill_mckee(graph: Graph, which: np.ndarray) -> Ints:
    """Those of the variables in an order of small bandwidth."""
    inside = which[graph.low] & which[graph.high]
    low, high = graph.low[inside], graph.high[inside]
    number = np.cumsum(which) - 1
    ends = (number[np.concatenate([low, high])], number[np.concatenate([high, low])])
    size = int(which.sum())
    joined = csr_matrix((np.ones(2 * len(low), np.int8), ends), shape=(size, size))
    found = cast(np.ndarray, reverse_cuthill_mckee(joined, symmetric_mode=True))
    return np.flatnonzero(which)[found.astype(np.int64)]


def _spans(graph: Graph, order: Ints) -> Ints:
    """(E,) unknowns from the beginning of an edge's first variable to the end of its second."""
    begin = Split(order, order[:0]).offsets(graph)
    end = begin + graph.dim
    low, high = graph.low, graph.high
    return np.maximum(end[low], end[high]) - np.minimum(begin[low], begin[high])


def _cover(graph: Graph, long: np.ndarray, largest: int) -> Ints | None:
    """Variables that touch all long edges; None if they have too many unknowns."""
    low, high = graph.low[long], graph.high[long]
    found: list[int] = []
    room = largest
    while len(low):
        touched = np.bincount(np.concatenate([low, high]), minlength=len(graph))
        worst = int((touched / graph.dim).argmax())
        room -= int(graph.dim[worst])
        if room < 0:
            return None
        found.append(worst)
        left = (low != worst) & (high != worst)
        low, high = low[left], high[left]
    return np.sort(np.array(found, np.int64))
