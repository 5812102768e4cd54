"""What this process uses of the machine."""

from __future__ import annotations

import os
import time
from pathlib import Path

PERIOD = 0.5
"""Shortest time over which the share of a core is taken [s]."""


class Usage:
    """Processor and memory of this process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()
        self._percent = float("nan")

    def cpu_percent(self) -> float:
        """Share of one core since the last look, all threads [%]; NaN at first."""
        wall, cpu = time.monotonic(), time.process_time()
        if wall - self._wall >= PERIOD:
            self._percent = 100.0 * (cpu - self._cpu) / (wall - self._wall)
            self._wall, self._cpu = wall, cpu
        return self._percent

    @staticmethod
    def rss_mb() -> float:
        """Resident memory [MB = 10⁶ bytes]; NaN where there is no /proc."""
        try:
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        except (OSError, ValueError, IndexError):
            return float("nan")
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
