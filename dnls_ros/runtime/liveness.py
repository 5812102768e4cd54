"""Is anything new being estimated while time goes on?

Measured by the session's clock between new states, not by their stamps: data that are late by a
constant are late, not lost.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from dnls_ros.window.config import EstimatorConfig

PERIODS = 9
FEWEST = 3
"""Fewer say nothing of what is usual; of more, single dropouts do not change the median."""
MISSED = 2.5
"""Usual periods between new states without a new one: where sensors are slow that is normal."""


class Liveness:
    """When the newest state came, and when the first data did.

    Args:
        config: Limits.
    """

    def __init__(self, config: EstimatorConfig) -> None:
        self.reconfigure(config)
        self.forget()

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over limits."""
        period = 1.0 / config.solver.rate if config.solver.trigger == "rate" else 0.0
        self._limit = (config.health.max_prediction + 2 * period) * 1e9
        self._timeout = config.init.timeout * 1e9

    def forget(self) -> None:
        """Everything starts anew."""
        self._stamp = 0
        self._alive: int | None = None
        self._first: int | None = None
        self._periods: deque[int] = deque(maxlen=PERIODS)

    def data(self, now: int) -> None:
        """A measurement came when the clock showed ``now`` [ns]."""
        self._first = now if self._first is None else self._first

    def estimate(self, stamp: int, now: int) -> None:
        """A state stamped ``stamp`` [ns] is the newest."""
        if stamp <= self._stamp:
            return
        if self._alive is not None:
            self._periods.append(now - self._alive)
        self._stamp, self._alive = stamp, now

    def revive(self, now: int) -> None:
        """Silence was meant; it counts from ``now`` [ns]."""
        self._alive = None if self._alive is None else now

    def silent(self, now: int) -> bool:
        """Whether there has been no new state for too long."""
        usual = median(self._periods) if len(self._periods) >= FEWEST else 0
        limit = max(self._limit, MISSED * usual)
        return self._alive is not None and now - self._alive > limit

    def expired(self, now: int, started: bool) -> bool:
        """Whether no track started within ``init.timeout`` of the first data."""
        waiting = not started and self._alive is None and self._first is not None
        return bool(waiting and self._timeout and now - (self._first or 0) > self._timeout)
