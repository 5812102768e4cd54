"""When to solve: at multiples of 1/rate of *data* time, the same for replay and for a live node.

A tick is due when a measurement stamped later than it has been fed. No wall clock decides
anything, so a replay at any speed solves at the same instants with the same measurements.
"""

from __future__ import annotations

import math
from fractions import Fraction

from dnls_ros.errors import DnlsError

MOST_TICKS = 1000
"""Ticks skipped at once are reduced to the last one: after a long gap there is nothing to solve in
between.
"""


class Ticker:
    """Data-time ticks at multiples of 1/rate, in whole numbers throughout.

    Args:
        rate: Ticks per second of data time [Hz].

    Raises:
        DnlsError: The rate is not positive.
    """

    def __init__(self, rate: float) -> None:
        if not rate > 0:
            raise DnlsError(f"solver.rate must be positive, got {rate}")
        # A float product of 1e18 ns would be off by microseconds; a ratio of integers is exact.
        per_second = Fraction(rate).limit_denominator(10**6)
        self._period = Fraction(10**9) / per_second
        self._next: int | None = None

    def due(self, stamp: int) -> list[int]:
        """The ticks [ns] before ``stamp`` that were not returned yet."""
        # The last tick that lies strictly before the stamp.
        before = math.ceil(stamp / self._period) - 1
        if self._next is None:
            self._next = before + 1
        if before < self._next:
            return []
        first = self._next if before - self._next < MOST_TICKS else before
        self._next = before + 1
        return [math.floor(k * self._period) for k in range(first, before + 1)]

    def reset(self) -> None:
        """Forgets the last tick, for a clock that starts anew."""
        self._next = None
