"""When a finger touched: what sensors of contact said, in the order of time.

Each sensor has a timeline of its own; a finger touches where any of them says so. Before the first
word of its sensors it does not; without any such sensor it is taken to touch all the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dnls_ros.window.increments import Stamps


def _none() -> Stamps:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Contacts:
    """One sensor's timeline.

    Attributes:
        stamps: (N,) ascending [ns].
        on: (N,) touching from that stamp to the next.
    """

    stamps: Stamps = field(default_factory=_none)
    on: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))

    def inserted(self, stamp: int, on: bool) -> Self:
        """With one word more; a second one of a stamp stands for the first."""
        k = int(np.searchsorted(self.stamps, stamp))
        keep = k + 1 if k < len(self.stamps) and self.stamps[k] == stamp else k
        return replace(
            self,
            stamps=np.concatenate([self.stamps[:k], [stamp], self.stamps[keep:]]),
            on=np.concatenate([self.on[:k], [on], self.on[keep:]]),
        )

    def since(self, stamp: int) -> Self:
        """Without what was said before ``stamp``, but for the last word, which still holds."""
        first = int(np.searchsorted(self.stamps, stamp, side="right")) - 1
        if first <= 0:
            return self
        return replace(self, stamps=self.stamps[first:], on=self.on[first:])

    def at(self, stamps: Stamps) -> NDArray[np.bool_]:
        """(K,) whether it touched at each of ``stamps`` (K,)."""
        if not len(self.stamps):
            return np.zeros(len(stamps), dtype=np.bool_)
        last = np.searchsorted(self.stamps, stamps, side="right") - 1
        return self.on[np.maximum(last, 0)] & (last >= 0)

    def throughout(self, on: bool, start: Stamps, end: Stamps) -> NDArray[np.bool_]:
        """(K,) whether it touched (``on``), or did not, from each start to each end (K,)."""
        other = np.concatenate([[0], np.cumsum(self.on != on)])
        first, last = (np.searchsorted(self.stamps, s, side="right") for s in (start, end))
        return (self.at(start) == on) & (other[last] == other[first])


def throughout(
    timelines: Sequence[Contacts], on: bool, start: Stamps, end: Stamps
) -> NDArray[np.bool_]:
    """(K,) whether a finger with these sensors touched (``on``), or did not, all along (K,)."""
    if not timelines:
        return np.full(len(start), on)
    all_of_them = [one.throughout(on, start, end) for one in timelines]
    return np.any(all_of_them, axis=0) if on else np.all(all_of_them, axis=0)


def touched_all_along(timelines: Sequence[Contacts], start: int, end: int) -> bool:
    """Whether one of the sensors saw no end of the contact between two stamps."""
    return bool(throughout(timelines, True, *(np.array([s]) for s in (start, end)))[0])
