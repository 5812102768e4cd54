"""Sums of entries of a buffer, by gathering only: the same every time, on every device.

What is added up lies in one buffer, and each sum is read by itself, in a fixed order. So nothing
is added to a place that others add to as well, which on a GPU takes atomic operations whose order
differs from run to run. Where the entries lie is found once per structure, on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Several:
    """Entries that are sums of several: of a number of sources between ½K and K.

    Attributes:
        sources: (K · D,) the sources of D sums, the first of each, then the second …; short sums
            are filled up with the place of a zero.
        start: Where in the buffer the sums are put.
        count: D.
    """

    sources: Tensor
    start: int
    count: int

    def to(self, device: torch.device) -> Several:
        """The same on a device."""
        return Several(self.sources.to(device), self.start, self.count)


@dataclass(frozen=True, eq=False)
class Sources:
    """Where the entries of an array come from.

    Attributes:
        first: (m,) the place in the buffer of each entry: what it is, or its sum.
        several: The sums, which are made before.
    """

    first: Tensor
    several: tuple[Several, ...]

    @classmethod
    def of(cls, positions: Ints, size: int) -> tuple[Sources, int]:
        """Of the sums of a buffer's first entries, each added at its position among ``size``.

        What lies at positions from ``size`` on does not count.

        Returns:
            The sources, and how long the buffer is: the entries, a zero, and the sums.
        """
        counted = np.flatnonzero(positions < size)
        layout = Layout(zero=len(positions), size=len(positions) + 1)
        found = layout.sources([(positions[counted], counted)], np.full(size, layout.zero))
        return found, layout.size

    def to(self, device: torch.device) -> Sources:
        """The same on a device."""
        return Sources(self.first.to(device), tuple(s.to(device) for s in self.several))

    def split(self, *sizes: int) -> tuple[Sources, ...]:
        """The same in parts; what gathers the first one makes the sums for all."""
        first, *rest = self.first.split(sizes)
        return Sources(first, self.several), *(Sources(part, ()) for part in rest)

    def gather(self, buffer: Tensor) -> Tensor:
        """The entries (B, m, …) from a buffer (B, size, …), in which sums are put, too."""
        for several in self.several:
            terms = taken(buffer, several.sources).unflatten(1, (-1, several.count))
            place = buffer[:, several.start : several.start + several.count]
            torch.sum(terms, 1, out=place)
        return taken(buffer, self.first)


def taken(buffer: Tensor, places: Tensor) -> Tensor:
    """The entries (B, m, …) of a buffer (B, size, …) at places (m,)."""
    index = places.view(1, -1, *[1] * (buffer.ndim - 2))
    # Twice as fast as index_select on the CPU.
    return buffer.gather(1, index.expand(len(buffer), -1, *buffer.shape[2:]))


@dataclass(eq=False)
class Layout:
    """A buffer whose places are given out one after the other.

    Attributes:
        zero: A place that holds 0.
        size: Places given out so far.
    """

    zero: int
    size: int

    def reserve(self, count: int) -> int:
        """The first of so many new places."""
        self.size += count
        return self.size - count

    def sources(self, terms: list[tuple[Ints, Ints]], fill: Ints) -> Sources:
        """The sources of m entries.

        Args:
            terms: Entries and the places of what is added to them; an entry may occur often.
            fill: (m,) place of an entry without any term.
        """
        entries = np.concatenate([fill[:0], *(entry for entry, _ in terms)])
        places = np.concatenate([fill[:0], *(place for _, place in terms)])
        order = np.argsort(entries, kind="stable")  # sums keep the order of the terms
        entries, places = entries[order], places[order]
        counts = np.bincount(entries, minlength=len(fill))
        starts = np.cumsum(counts) - counts
        first, several = fill.copy(), list[Several]()
        single = np.flatnonzero(counts == 1)
        first[single] = places[starts[single]]
        width = 2
        while (counts > width // 2).any() and len(entries):
            chosen = np.flatnonzero((counts > width // 2) & (counts <= width))
            if len(chosen):
                table = np.full((width, len(chosen)), self.zero, np.int64)
                for k in range(width):
                    there = counts[chosen] > k
                    table[k, there] = places[starts[chosen[there]] + k]
                start = self.reserve(len(chosen))
                several.append(Several(torch.from_numpy(table.ravel()), start, len(chosen)))
                first[chosen] = start + np.arange(len(chosen))
            width *= 2
        return Sources(torch.from_numpy(first), tuple(several))
