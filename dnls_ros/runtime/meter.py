"""How often and how fast was solved; for the status only, nothing depends on it but reports."""

from __future__ import annotations

from collections import deque

import numpy as np

from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.results import StepResult

STEPS = 200
"""Recent steps of which times are told."""
MEMORY = 5_000_000_000
"""The rate is that of so much data time [ns]."""
MISSED = 0.01
"""Share of recent steps over their period above which an estimate is not what was asked for."""
FEWEST = 3


class Meter:
    """Counts steps.

    Args:
        config: The rate, and whether wall times may matter at all.
    """

    def __init__(self, config: EstimatorConfig) -> None:
        self.total = 0
        self.refused = 0
        self.missed = 0
        self.skipped = 0
        self.resets = 0
        self._seconds: deque[float] = deque(maxlen=STEPS)
        self._late: deque[bool] = deque(maxlen=STEPS)
        self._stamps: deque[int] = deque()
        self.reconfigure(config)

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over the rate."""
        self._period = 1.0 / config.solver.rate
        self._deterministic = config.deterministic

    def add(self, result: StepResult) -> None:
        """One solve."""
        seconds = sum(result.seconds.values())
        late = seconds > self._period
        self.total += 1
        self.refused += not result.accepted
        self.missed += late
        self._seconds.append(seconds)
        self._late.append(late)
        if result.accepted:
            if self._stamps and result.now < self._stamps[-1]:
                self._stamps.clear()
            self._stamps.append(result.now)
        while self._stamps and self._stamps[0] <= self._stamps[-1] - MEMORY:
            self._stamps.popleft()

    @property
    def rate(self) -> float:
        """Accepted steps per second of data time [Hz]."""
        if len(self._stamps) < 2:
            return 0.0
        return (len(self._stamps) - 1) / max((self._stamps[-1] - self._stamps[0]) * 1e-9, 1e-9)

    @property
    def p95(self) -> float:
        """95th percentile of the wall time of recent steps [s]."""
        return float(np.percentile(np.array(self._seconds), 95)) if self._seconds else 0.0

    @property
    def overloaded(self) -> bool:
        """Whether too many recent steps missed their deadline; never where that may not matter."""
        late = sum(self._late)
        return not self._deterministic and late >= FEWEST and late > MISSED * len(self._late)
