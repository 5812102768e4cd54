"""The watchdog: on a steady clock, it checks the accounts and says what goes wrong.

An account that does not balance is our own mistake and is said as an error. Rejections are said by
sensor and reason, at most once a period; so is a sensor from which nothing has come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rclpy.impl.rcutils_logger import RcutilsLogger

from dnls_ros.ros.solver import Report, SensorReport, SolverThread
from dnls_ros.window.config import EstimatorConfig

PERIOD = 1.0
"""Between two looks [s]."""
RATE_WINDOW = 5.0
"""Over which rates are counted [s]."""
SILENCE = 5.0
"""Without any message from a sensor for this long after activation, it is said [s]."""


class Watchdog:
    """Looks at the solver's reports until stopped."""

    def __init__(
        self,
        config: EstimatorConfig,
        solver: SolverThread,
        log: RcutilsLogger,
        active: Callable[[], bool],
    ) -> None:
        """Starts looking."""
        self._topics = {sensor.name: sensor.topic for sensor in config.sensors}
        self._expected = {s.name: s.expected_rate for s in config.sensors if s.expected_rate > 0.0}
        self._counted: dict[str, int] = {}
        self._counted_at = time.monotonic()
        self._throttle = config.log.throttle
        self._solver = solver
        self._log = log
        self._active = active
        self._said: dict[str, int] = {}
        self._silent: set[str] = set()
        self._last_words = 0.0
        self._active_since: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog")
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        """One look per period."""
        while not self._stop.wait(PERIOD):
            report = self._solver.report
            for name, sensor in report.sensors.items():
                if not sensor.balanced:
                    self._log.error(f"the account of sensor '{name}' does not balance: {sensor}")
            if not self._solver.alive:
                self._log.error(
                    "the solver thread has ended", throttle_duration_sec=self._throttle
                )
            self._say_silence(report)
            self._say_slow(report)
            if time.monotonic() - self._last_words >= self._throttle:
                self._say_rejections(report)

    def _say_rejections(self, report: Report) -> None:
        """New rejections since the last words, by sensor."""
        for name, sensor in report.sensors.items():
            total = sum(sensor.rejected.values())
            if total > self._said.get(name, 0):
                self._last_words = time.monotonic()
                self._said[name] = total
                self._log.warning(account(name, sensor))

    def _say_silence(self, report: Report) -> None:
        """Sensors from which nothing came since activation, once each."""
        if not self._active():
            self._active_since = None
            return
        self._active_since = self._active_since or time.monotonic()
        if time.monotonic() - self._active_since < SILENCE:
            return
        for name, sensor in report.sensors.items():
            if sensor.received == 0 and name not in self._silent:
                self._silent.add(name)
                self._log.warning(
                    f"sensor '{name}': nothing received on '{self._topics[name]}' yet"
                )

    def _say_slow(self, report: Report) -> None:
        """Sensors that sent less than half of their declared rate since the last count."""
        counts = {n: report.sensors[n].received for n in self._expected if n in report.sensors}
        now = time.monotonic()
        if now - self._counted_at < RATE_WINDOW:
            return
        for name, count in counts.items():
            rate = (count - self._counted.get(name, 0)) / (now - self._counted_at)
            topic, expected = self._topics[name], self._expected[name]
            if self._active() and rate < 0.5 * expected:
                text = f"sensor '{name}': {rate:.1f} Hz on '{topic}', declared {expected:g} Hz"
                self._log.warning(text, throttle_duration_sec=self._throttle)
        self._counted, self._counted_at = counts, now


def account(name: str, sensor: SensorReport) -> str:
    """One sensor's account in one line; with the newest problem's words where there was one."""
    rejected = "".join(f", {reason.name} {count}" for reason, count in sensor.rejected.items())
    text = f"sensor '{name}': received {sensor.received}, accepted {sensor.accepted}"
    text += f"{rejected}, waiting {sensor.waiting}"
    return text + (f"; last problem: {sensor.last_problem}" if sensor.last_problem else "")
