"""What is gathered from where, bucket by bucket: the index maps of a multifrontal factorization.

Matrices: the buffer begins with the values of the matrix, a zero and a one, and goes on with the
sums and updates of the buckets in their order. Vectors: it begins with the right-hand side and a
zero; solutions lie bucket by bucket in the padded order of elimination. All is made once per
pattern, on the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dnls_ros.linear.fronts import Fronts
from dnls_ros.problem.structure import Ints, Pattern
from dnls_ros.problem.sums import Layout, Sources

Terms = list[tuple[Ints, Ints]]
"""Entries of a bucket's array, and the places of what is added to them."""


@dataclass(frozen=True, eq=False)
class Bucket:
    """F fronts that are worked on together, padded to P pivots and Q unknowns of the boundary.

    Attributes:
        shape: (F, P, Q).
        pivots: Of (F, P, P), lower triangles; padding is the identity. To be gathered before
            ``coupling`` and ``corner``, as ``rhs_pivots`` before ``rhs_boundary``.
        coupling: Of (F, P, Q), the pivots' rows of the upper triangle.
        corner: Of (F, Q, Q), lower triangles: what children add; None if there are none.
        update: Where in the buffer (F, Q, Q) is put for the parents.
        rhs_pivots: Of (F, P).
        rhs_boundary: Of (F, Q): what children add.
        rest: Where in the buffer (F, Q) is put for the parents.
        start: Where the solution's (F, P) begin in the padded order.
        boundary: (F · Q,) where the boundary's unknowns lie in it; its end holds a zero.
    """

    shape: tuple[int, int, int]
    pivots: Sources
    coupling: Sources
    corner: Sources | None
    update: int
    rhs_pivots: Sources
    rhs_boundary: Sources
    rest: int
    start: int
    boundary: Tensor

    def to(self, device: torch.device) -> Bucket:
        """The same on a device."""
        return replace(
            self,
            pivots=self.pivots.to(device),
            coupling=self.coupling.to(device),
            corner=None if self.corner is None else self.corner.to(device),
            rhs_pivots=self.rhs_pivots.to(device),
            rhs_boundary=self.rhs_boundary.to(device),
            boundary=self.boundary.to(device),
        )


@dataclass(frozen=True, eq=False)
class Schedule:
    """All buckets, children before parents.

    Attributes:
        buckets: In the order of elimination.
        matrix_size: Length of the buffer for matrices.
        vector_size: Length of the buffer for vectors.
        padded: Length of the padded order.
        place: (n,) where the unknowns of the matrix lie in the padded order.
    """

    buckets: tuple[Bucket, ...]
    matrix_size: int
    vector_size: int
    padded: int
    place: Tensor

    @classmethod
    def of(cls, pattern: Pattern, fronts: Fronts) -> Schedule:
        """Of a pattern and its fronts."""
        return _Builder(pattern, fronts).schedule()

    def to(self, device: torch.device) -> Schedule:
        """The same on a device."""
        buckets = tuple(bucket.to(device) for bucket in self.buckets)
        return replace(self, buckets=buckets, place=self.place.to(device))


class _Builder:
    """Gives out places while it goes through the buckets."""

    def __init__(self, pattern: Pattern, fronts: Fronts) -> None:
        self.fronts, self.n, self.nnz = fronts, pattern.n, pattern.nnz
        self.matrix = Layout(zero=pattern.nnz, size=pattern.nnz + 2)
        self.vector = Layout(zero=pattern.n, size=pattern.n + 1)
        self.children = fronts.children()
        self.groups = fronts.buckets()
        pivots, borders = fronts.pivots, fronts.borders
        self.shapes = [
            (len(group), int(pivots[group].max()), int(borders[group].max()))
            for group in self.groups
        ]
        # Where each front's update, and what its vector leaves, begins, and how long its rows are.
        self.update = np.zeros(len(fronts), np.int64)
        self.rest = np.zeros(len(fronts), np.int64)
        self.width = np.zeros(len(fronts), np.int64)
        self.padded_place = self._padded_places()
        self.entries = self._entries(pattern)

    def schedule(self) -> Schedule:
        """The buckets, and how long their buffers have become."""
        starts = np.cumsum([0, *(f * p for f, p, _ in self.shapes)])
        buckets = tuple(
            self._bucket(index, int(starts[index])) for index in range(len(self.groups))
        )
        place = torch.from_numpy(self.padded_place[self.fronts.place])
        return Schedule(buckets, self.matrix.size, self.vector.size, int(starts[-1]), place)

    def _padded_places(self) -> Ints:
        """(n,) where the unknowns, in the order of elimination, lie in the padded order."""
        place, start = np.empty(self.n, np.int64), 0
        for group, (_, p, _) in zip(self.groups, self.shapes, strict=True):
            for front in group.tolist():
                first, size = self.fronts.starts[front], self._pivots(front)
                place[first : first + size] = start + np.arange(size)
                start += p
        return place

    def _entries(self, pattern: Pattern) -> list[tuple[Ints, Ints, Ints]]:
        """Pivots, other unknowns and places of the matrix's entries, front by front."""
        rows, columns = self.fronts.place[pattern.rows], self.fronts.place[pattern.columns]
        early, late = np.minimum(rows, columns), np.maximum(rows, columns)
        order = np.argsort(early, kind="stable")
        cuts = np.searchsorted(early[order], self.fronts.starts)
        return [(early[order[a:b]], late[order[a:b]], order[a:b]) for a, b in pairwise(cuts)]

    def _bucket(self, index: int, start: int) -> Bucket:
        group, (count, p, q) = self.groups[index], self.shapes[index]
        sizes = count * p * p, count * p * q, count * q * q
        pivots, coupling, corner = Terms(), Terms(), Terms()
        blank = np.full((count, p, p), self.matrix.zero)
        for slot, front in enumerate(group.tolist()):
            for terms, part in zip(
                (pivots, coupling, corner), self._terms(front, slot, p, q), strict=True
            ):
                terms += part
            spare = np.arange(self._pivots(front), p)
            blank[slot, spare, spare] = self.matrix.zero + 1
        adds = any(len(entries) for entries, _ in corner)
        update, rest = self.matrix.reserve(count * q * q), self.vector.reserve(count * q)
        slots = np.arange(count)
        self.update[group] = update + slots * q * q
        self.rest[group], self.width[group] = rest + slots * q, q
        terms = [*pivots, *_shifted(coupling, sizes[0]), *_shifted(corner, sizes[0] + sizes[1])]
        fill = np.concatenate([blank.ravel(), np.full(sizes[1] + sizes[2], self.matrix.zero)])
        of_pivots, of_coupling, of_corner = self.matrix.sources(terms, fill).split(*sizes)
        rhs_pivots, rhs_boundary = self._of_vectors(index)
        return Bucket(
            (count, p, q),
            of_pivots,
            of_coupling,
            of_corner if adds else None,
            update,
            rhs_pivots,
            rhs_boundary,
            rest,
            start,
            self._boundary(index),
        )

    def _pivots(self, front: int) -> int:
        return int(self.fronts.starts[front + 1] - self.fronts.starts[front])

    def _terms(self, front: int, slot: int, p: int, q: int) -> tuple[Terms, Terms, Terms]:
        """What is added to one front's pivots, coupling and corner."""
        first = self.fronts.starts[front]
        size = self._pivots(front)
        early, late, places = self.entries[front]
        local = self._local(front, late)
        own = local < size
        a = early - first
        base = (slot * p * p, slot * p * q, slot * q * q)
        pivots: Terms = [(base[0] + local[own] * p + a[own], places[own])]
        coupling: Terms = [(base[1] + a[~own] * q + local[~own] - size, places[~own])]
        corner: Terms = []
        for child in self.children[front]:
            at = self._local(front, self.fronts.boundaries[child])
            i, j = np.tril_indices(len(at))
            source = self.update[child] + i * self.width[child] + j
            i, j = at[i], at[j]  # ascending, like the child's own
            inside, outside = i < size, j >= size
            across = ~inside & ~outside
            pivots.append((base[0] + i[inside] * p + j[inside], source[inside]))
            coupling.append((base[1] + j[across] * q + i[across] - size, source[across]))
            corner.append((base[2] + (i[outside] - size) * q + j[outside] - size, source[outside]))
        return pivots, coupling, corner

    def _local(self, front: int, unknowns: Ints) -> Ints:
        """Where unknowns lie in a front: pivots first, then the boundary."""
        first, size = self.fronts.starts[front], self._pivots(front)
        beyond = size + np.searchsorted(self.fronts.boundaries[front], unknowns)
        return np.where(unknowns < first + size, unknowns - first, beyond)

    def _of_vectors(self, index: int) -> tuple[Sources, Sources]:
        """What is added to the right-hand sides of a bucket's pivots and of its boundary."""
        group, (count, p, q) = self.groups[index], self.shapes[index]
        matrix_order = np.argsort(self.fronts.place)
        pivots, boundary = Terms(), Terms()
        for slot, front in enumerate(group.tolist()):
            own = np.arange(self._pivots(front))
            pivots.append((slot * p + own, matrix_order[self.fronts.starts[front] + own]))
            for child in self.children[front]:
                at = self._local(front, self.fronts.boundaries[child])
                source = self.rest[child] + np.arange(len(at))
                inside = at < len(own)
                pivots.append((slot * p + at[inside], source[inside]))
                boundary.append((slot * q + at[~inside] - len(own), source[~inside]))
        terms = [*pivots, *_shifted(boundary, count * p)]
        fill = np.full(count * (p + q), self.vector.zero)
        of_pivots, of_boundary = self.vector.sources(terms, fill).split(count * p, count * q)
        return of_pivots, of_boundary

    def _boundary(self, index: int) -> Tensor:
        """(F · Q,) where a bucket's boundaries lie in the padded order."""
        group, (count, _, q) = self.groups[index], self.shapes[index]
        padded = sum(f * p for f, p, _ in self.shapes)
        at = np.full((count, q), padded)
        for slot, front in enumerate(group.tolist()):
            boundary = self.fronts.boundaries[front]
            at[slot, : len(boundary)] = self.padded_place[boundary]
        return torch.from_numpy(at.ravel())


def _shifted(terms: Terms, by: int) -> Terms:
    """The same of entries that lie behind others."""
    return [(entries + by, places) for entries, places in terms]
