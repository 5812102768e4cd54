"""When to solve: at multiples of 1/rate of *data* time, the same for replay and for a live node.

A tick is due when a measurement stamped later than it has been fed. No wall clock decides anything, so a replay at any speed solves at the
same instants with the same measurements.
"""

from __future__ import annotations

from dnls_ros.errors import DnlsError

_FAR = 1000
"""Ticks skipped at once are reduced to the last one: after a long gap there is nothing to solve in between."""


class Ticker:
    """Data-time ticks at multiples of 1/rate.

    Args:
        rate: Ticks per second of data time [Hz].
    """

    def __init__(self, rate: float) -> None:
        if not rate > 0:
            raise DnlsError(f"solver.rate must be positive, got {rate}")
        self.rate = rate
        self._next: int | None = None

    def _time(self, k: int) -> int:
        return round(k * 1e9 / self.rate)

    def due(self, stamp: int) -> list[int]:
        """The ticks [ns] that a measurement stamped ``stamp`` makes due: those before it and not yet returned."""
        if self._next is None:
            self._next = int(stamp * 1e-9 * self.rate)
            while self._time(self._next) < stamp:
                self._next += 1
        if self._time(self._next) >= stamp:
            return []
        last = int((stamp - 1) * 1e-9 * self.rate)
        while self._time(last + 1) < stamp:
            last += 1
        while self._time(last) >= stamp:
            last -= 1
        first = self._next if last - self._next < _FAR else last
        self._next = last + 1
        return [self._time(k) for k in range(first, last + 1)]

    def reset(self) -> None:
        """Forgets the last tick, for a clock that starts anew."""
        self._next = None
