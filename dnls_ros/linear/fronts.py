"""The fronts of a multifrontal factorization: which there are, and which are worked on together.

A front is a part of the dissection with the unknowns that its elimination fills: p pivots, and a
boundary of q unknowns that are eliminated later. Its level is its height above the leaves, so that
all fronts of a level are independent. They are put into buckets and padded to the largest of
their bucket: as few buckets as launches are dear, as many as padding is.

Duff, Reid: The multifrontal solution of indefinite sparse symmetric linear equations, ACM TOMS 9
(1983). Ashcraft, Grimes: The influence of relaxed supernode partitions on the multifrontal method,
ACM TOMS 15 (1989).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from dnls_ros.linear.dissection import Graph, Tree, dissect
from dnls_ros.problem.structure import Ints, Pattern

BUCKET_FLOPS = 2e6
"""What the launches of a bucket cost, in operations of each batch element."""


@dataclass(frozen=True, eq=False)
class Fronts:
    """All fronts, children before parents. Unknowns are numbered by their order of elimination.

    Attributes:
        place: (n,) where each unknown of the matrix comes in the order of elimination.
        starts: (K + 1,) the first pivot of each front, and n.
        boundaries: The unknowns of each front that are eliminated later, ascending.
        parents: The front that takes each front's update, −1 for roots.
    """

    place: Ints
    starts: Ints
    boundaries: tuple[Ints, ...]
    parents: tuple[int, ...]

    @classmethod
    def of(cls, pattern: Pattern, leaf: int, relax: int) -> Fronts:
        """By nested dissection of the pattern's variables.

        Args:
            pattern: Of the matrix.
            leaf: Unknowns up to which a part of the graph is one front.
            relax: Unknowns of a front up to which it takes the pivots of its children in.
        """
        owner, weights = _variables(pattern)
        rows, columns = owner[pattern.rows], owner[pattern.columns]
        count = len(weights)
        keys = np.unique(np.concatenate([rows * count + columns, columns * count + rows]))
        keys = keys[keys // count != keys % count]
        ones, (first, second) = np.ones(len(keys), np.int8), np.divmod(keys, count)
        graph = csr_matrix((ones, (first, second)), (count, count))
        tree = dissect(graph, weights, leaf)
        tree = _absorbed(tree, _boundaries(tree, graph), weights, relax)
        return cls._numbered(tree, graph, weights, owner)

    @classmethod
    def _numbered(cls, tree: Tree, graph: Graph, weights: Ints, owner: Ints) -> Fronts:
        """The unknowns of a tree of variables, in its order."""
        order = np.concatenate(tree.members)
        ends = np.cumsum(weights[order])
        begins = np.empty_like(ends)
        begins[order] = ends - weights[order]  # of each variable
        first = np.concatenate([[0], np.cumsum(weights)[:-1]])
        place = begins[owner] + np.arange(len(owner)) - first[owner]
        sizes = [int(weights[members].sum()) for members in tree.members]
        boundaries = tuple(
            np.sort(_spans(begins[variables], weights[variables]))
            for variables in _boundaries(tree, graph)
        )
        return cls(place, np.concatenate([[0], np.cumsum(sizes)]), boundaries, tree.parents)

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def pivots(self) -> Ints:
        """(K,) how many unknowns are eliminated in each front."""
        return np.diff(self.starts)

    @property
    def borders(self) -> Ints:
        """(K,) how many unknowns each boundary has."""
        return np.array([len(boundary) for boundary in self.boundaries], np.int64)

    def levels(self) -> Ints:
        """(K,) height above the leaves."""
        level = np.zeros(len(self), np.int64)
        for front, parent in enumerate(self.parents):
            if parent >= 0:
                level[parent] = max(level[parent], level[front] + 1)
        return level

    def children(self) -> tuple[tuple[int, ...], ...]:
        """The fronts that hang on each front, ascending."""
        found: list[list[int]] = [[] for _ in self.parents]
        for front, parent in enumerate(self.parents):
            if parent >= 0:
                found[parent].append(front)
        return tuple(map(tuple, found))

    def buckets(self) -> tuple[Ints, ...]:
        """Fronts that are worked on together, by ascending level."""
        level, p, q = self.levels(), self.pivots, self.borders
        found: list[Ints] = []
        for height in range(int(level.max()) + 1):
            fronts = np.flatnonzero(level == height)
            fronts = fronts[np.lexsort((fronts, -p[fronts], -(p + q)[fronts]))]
            found += _grouped(fronts, p, q)
        return tuple(found)


def flops(p: Ints, q: Ints) -> Ints:
    """Multiplications and additions that eliminate p unknowns from a front of p + q."""
    return p**3 // 3 + p * p * q + p * q * (q + 1)


def _variables(pattern: Pattern) -> tuple[Ints, Ints]:
    """(n,) the variable of each unknown, and (N,) the dimension of each variable."""
    weights = np.concatenate([np.full(b.count, b.tangent_dim, np.int64) for b in pattern.blocks])
    return np.repeat(np.arange(len(weights)), weights), weights


def _spans(begins: Ints, lengths: Ints) -> Ints:
    """The numbers begin … begin + length − 1 of each, side by side."""
    offsets = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(begins - offsets, lengths)


def _boundaries(tree: Tree, graph: Graph) -> tuple[Ints, ...]:
    """The variables that each part's elimination joins and that are eliminated later."""
    count = graph.shape[0]
    part = np.empty(count, np.int64)
    for index, members in enumerate(tree.members):
        part[members] = index
    inherited: list[list[Ints]] = [[] for _ in tree.members]
    found: list[Ints] = []
    for index, members in enumerate(tree.members):
        joined = np.unique(np.concatenate([graph[members].indices, *inherited[index]]))
        found.append(joined[part[joined] > index].astype(np.int64))
        if tree.parents[index] >= 0:
            inherited[tree.parents[index]].append(found[-1])
    return tuple(found)


def _absorbed(tree: Tree, boundaries: tuple[Ints, ...], weights: Ints, limit: int) -> Tree:
    """The tree in which parts have taken all their children in, from the roots down.

    Zeros are factorized then, but fewer levels are left.
    """
    members = list(tree.members)
    parents = list(tree.parents)
    children = [set[int]() for _ in members]
    for index, parent in enumerate(parents):
        if parent >= 0:
            children[parent].add(index)
    sizes = [int(weights[m].sum()) for m in members]
    borders = [int(weights[b].sum()) for b in boundaries]
    kept = [True] * len(members)
    for index in reversed(range(len(members))):
        while kept[index] and children[index]:
            taken = sorted(children[index])
            if sizes[index] + sum(sizes[c] for c in taken) + borders[index] > limit:
                break
            sizes[index] += sum(sizes[c] for c in taken)
            members[index] = np.concatenate([*(members[c] for c in taken), members[index]])
            children[index] = set().union(*(children[c] for c in taken))
            for child in taken:
                kept[child] = False
            for grandchild in children[index]:
                parents[grandchild] = index
    number = np.cumsum(kept) - 1
    left = [index for index, stays in enumerate(kept) if stays]
    renamed = tuple(-1 if parents[i] < 0 else int(number[parents[i]]) for i in left)
    return Tree(tuple(members[i] for i in left), renamed)


def _grouped(fronts: Ints, p: Ints, q: Ints) -> list[Ints]:
    """Fronts, sorted by size, cut into buckets so that padding and launches cost least."""
    count = len(fronts)
    best, cut = np.zeros(count + 1), np.zeros(count + 1, np.int64)
    for end in range(1, count + 1):
        # Buckets fronts[begin:end] for all begins at once: the largest sizes from begin on.
        largest_p = np.maximum.accumulate(p[fronts[:end]][::-1])[::-1]
        largest_q = np.maximum.accumulate(q[fronts[:end]][::-1])[::-1]
        each = flops(largest_p, largest_q)
        costs = best[:end] + BUCKET_FLOPS + each * np.arange(end, 0, -1)
        cut[end] = int(np.argmin(costs))
        best[end] = costs[cut[end]]
    found, end = list[Ints](), count
    while end:
        found.append(fronts[cut[end] : end])
        end = int(cut[end])
    return found[::-1]
