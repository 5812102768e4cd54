"""Nested dissection: an order of elimination whose tree is low.

A light set of variables, the separator, is taken out so that what remains falls into two parts of
about equal weight that share no factor; both are treated alike, and the separator is eliminated
after them. What stands on one level of the tree can then be eliminated at once: a chain of n
variables has log n levels, where an order of least fill may have n.

The variables are sorted by the difference of their distances from two far ends of the graph, and
the separator is the lightest one within a band in the middle of that order: a minimum cut, given
by a maximum flow through variables of limited capacity. The best of several orders and bands is
taken. It is done once per structure, on the host.

George: Nested dissection of a regular finite element mesh, SIAM J. Numer. Anal. 10 (1973).
Sanders, Schulz: Advanced multilevel node separator algorithms, SEA 2016 (flows in bands).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import (
    breadth_first_order,
    connected_components,
    dijkstra,
    maximum_flow,
)

from dnls_ros.problem.structure import Ints

BANDS = (0.45, 0.4, 0.3)
"""Where bands begin, as shares of the weight; they end as far from the other end."""

LAST_BANDS = (0.15, 0.0)
"""The same where no other band holds a separator."""

HUB = 0.25
"""A variable that touches more than this share of a part belongs to its separator."""

Graph = Any
"""A symmetric `csr_matrix` N × N; what it holds does not matter, nor does its diagonal."""

Parts = tuple[Ints, Ints, Ints]
"""A separator, and the two sides that it leaves."""


@dataclass(frozen=True, eq=False)
class Tree:
    """The parts of a dissection, children before parents.

    Attributes:
        members: The variables that are eliminated with each part; none is empty.
        parents: The part that each part hangs on, −1 for roots.
    """

    members: tuple[Ints, ...]
    parents: tuple[int, ...]


def dissect(graph: Graph, weights: Ints, leaf: int) -> Tree:
    """The dissection of a graph.

    Args:
        graph: Which variables share a factor.
        weights: (N,) dimension of each variable.
        leaf: Parts of no more than this weight are not dissected.
    """
    members: list[Ints] = []
    parents: list[int] = []
    waiting = [(np.arange(len(weights)), -1)]
    while waiting:
        nodes, parent = waiting.pop()
        separator, sides = _split(graph[nodes][:, nodes], weights[nodes], leaf)
        if len(separator):
            parents.append(parent)
            members.append(nodes[separator])
            parent = len(members) - 1
        waiting += [(nodes[side], parent) for side in sides]
    last = len(members) - 1  # parents were found first: the order is turned round
    turned = tuple(-1 if parent < 0 else last - parent for parent in reversed(parents))
    return Tree(tuple(reversed(members)), turned)


def _split(graph: Graph, weights: Ints, leaf: int) -> tuple[Ints, list[Ints]]:
    """What is eliminated last of a part, and what then remains: nothing if it is a leaf."""
    everything = np.arange(len(weights))
    degrees = np.diff(graph.indptr)
    hubs = degrees > max(4.0, HUB * len(weights))
    rest, separator = np.flatnonzero(~hubs), np.flatnonzero(hubs)
    if weights[rest].sum() <= leaf or weights.sum() <= leaf:
        return everything, []
    inner = graph[rest][:, rest]
    count, labels = connected_components(inner, directed=False)
    if count > 1:
        return separator, [rest[side] for side in _halves(labels, weights[rest])]
    cut, first, second = _bisected(inner, weights[rest])
    if not (len(first) and len(second)):
        return everything, []
    return np.concatenate([separator, rest[cut]]), [rest[first], rest[second]]


def _halves(labels: Ints, weights: Ints) -> tuple[Ints, Ints]:
    """Whole components in two groups of about equal weight."""
    sizes = np.bincount(labels, weights)
    first, load = np.zeros(len(sizes), bool), [0.0, 0.0]
    for component in np.argsort(-sizes, kind="stable").tolist():
        lighter = int(load[1] < load[0])
        first[component] = lighter == 0
        load[lighter] += float(sizes[component])
    return np.flatnonzero(first[labels]), np.flatnonzero(~first[labels])


def _bisected(graph: Graph, weights: Ints) -> Parts:
    """The best of several separators of a connected graph; sides are empty if there is none."""
    none = np.zeros(0, np.int64)
    best, found = np.inf, (none, none, none)
    orders = _orders(graph)
    for low in (*BANDS, *LAST_BANDS):
        if low in LAST_BANDS and best < np.inf:
            break
        for order in orders:
            share = np.cumsum(weights[order]) / weights.sum()
            begin = max(1, int(np.searchsorted(share, low)))
            end = min(len(order) - 1, int(np.searchsorted(share, 1 - low)) + 1)
            if begin < end:
                parts = _least_separator(graph, weights, order, begin, end)
                cost = _cost(parts, weights)
                if cost < best:
                    best, found = cost, parts
    return found


def _cost(parts: Parts, weights: Ints) -> float:
    """A light separator is good, and sides of equal weight are."""
    cut, first, second = (float(weights[part].sum()) for part in parts)
    if not (first and second):
        return np.inf
    return cut * (1 + abs(first - second) / (first + second))


def _orders(graph: Graph) -> list[Ints]:
    """Orders of the nodes along which the graph may be cut; more for larger ones."""
    start, orders = 0, list[Ints]()
    for _ in range(2):
        start = int(np.argmax(_distances(graph, start)))
    for _ in range(1 + (graph.shape[0] > 32) + (graph.shape[0] > 128)):
        near = _distances(graph, start)
        far = _distances(graph, int(np.argmax(near)))
        orders.append(np.lexsort((near, near - far)))
        start = int(np.argmax(np.minimum(near, far)))  # far from both: another direction
    return orders


def _distances(graph: Graph, start: int) -> NDArray[np.float64]:
    return dijkstra(graph, unweighted=True, indices=start)


def _least_separator(graph: Graph, weights: Ints, order: Ints, begin: int, end: int) -> Parts:
    """The lightest separator in order[begin:end] of what lies before from what lies behind.

    Nothing is left of a side if there is none: the band is narrower than an edge is long.
    """
    size, band = end - begin, order[begin:end]
    network = _network(graph, weights, order, begin, end)
    flow = maximum_flow(network, 0, 1)
    if flow.flow_value > weights.sum():
        return order, order[:0], order[:0]
    left = network - flow.flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = np.zeros(network.shape[0], bool)
    reached[breadth_first_order(left, 0, return_predecessors=False)] = True
    enters, leaves = reached[2 : 2 + size], reached[2 + size :]
    first = np.concatenate([order[:begin], band[enters & leaves]])
    return band[enters & ~leaves], first, np.concatenate([order[end:], band[~enters]])


def _network(graph: Graph, weights: Ints, order: Ints, begin: int, end: int) -> Graph:
    """What flows from before a band to behind it: node 0 is the source and node 1 the sink.

    A variable of the band is an edge from its entry, 2 + i, to its exit, 2 + size + i, with its
    weight as capacity; the graph's edges lead from exits to entries and have no limit.
    """
    size = end - begin
    place = np.empty(len(order), np.int64)
    place[order] = np.clip(np.arange(len(order)) - begin, -1, size)
    edges = graph.tocoo()
    tail, head = place[edges.row], place[edges.col]
    across = (tail != head) & (tail < size) & (head >= 0)
    tail, head = tail[across], head[across]
    tail = np.where(tail < 0, 0, 2 + size + tail)
    head = np.where(head >= size, 1, 2 + head)
    inside, count = np.arange(2, 2 + size), 2 + 2 * size
    keys = np.concatenate([tail * count + head, inside * count + inside + size])
    limits = np.concatenate([np.full(len(tail), weights.sum() + 1), weights[order[begin:end]]])
    keys, first = np.unique(keys, return_index=True)
    rows, columns = np.divmod(keys, count)
    return csr_matrix((limits[first].astype(np.int32), (rows, columns)), (count, count))
