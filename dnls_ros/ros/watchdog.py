"""The watchdog: on a steady clock, it checks the accounts and says what goes wrong.

It looks at the solver's status from a thread of its own, so it also speaks when the solver hangs
or the ROS clock stands still. An account that does not balance is our own mistake and is said as
an error. Rejections are said by sensor and reason, at most once a period; so is a sensor from
which nothing has come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from rclpy.impl.rcutils_logger import RcutilsLogger

from dnls_ros.ros.solver import SolverThread
from dnls_ros.runtime.types import SensorHealth
from dnls_ros.window.config import EstimatorConfig

PERIOD = 1.0
"""Between two looks [s]."""
RATE_WINDOW = 5.0
"""Over which rates are counted [s]."""
HANGING = 2.0
"""A single item of work that takes longer is said [s]."""
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
            status = self._solver.status
            sensors = () if status is None else status.sensors
            for sensor in sensors:
                if not sensor.balanced:
                    text = f"the account of sensor '{sensor.name}' does not balance: {sensor}"
                    self._log.error(text)
            self._look_at_solver()
            self._say_silence(sensors)
            self._say_slow(sensors)
            if time.monotonic() - self._last_words >= self._throttle:
                self._say_rejections(sensors)

    def _look_at_solver(self) -> None:
        """Says when the solver thread has ended, or sits on one item for long."""
        if not self._solver.alive:
            self._log.error("the solver thread has ended", throttle_duration_sec=self._throttle)
        elif self._solver.busy_for > HANGING:
            text = f"the solver has been at one item for {self._solver.busy_for:.0f} s"
            self._log.error(text, throttle_duration_sec=self._throttle)

    def _say_rejections(self, sensors: Sequence[SensorHealth]) -> None:
        """New rejections since the last words, by sensor."""
        for sensor in sensors:
            total = sum(sensor.rejected.values())
            if total > self._said.get(sensor.name, 0):
                self._last_words = time.monotonic()
                self._said[sensor.name] = total
                self._log.warning(account(sensor))

    def _say_silence(self, sensors: Sequence[SensorHealth]) -> None:
        """Sensors from which nothing came since activation, once each."""
        if not self._active():
            self._active_since = None
            return
        self._active_since = self._active_since or time.monotonic()
        if time.monotonic() - self._active_since < SILENCE:
            return
        for sensor in sensors:
            if sensor.received == 0 and sensor.name not in self._silent:
                self._silent.add(sensor.name)
                topic = self._topics[sensor.name]
                self._log.warning(f"sensor '{sensor.name}': nothing received on '{topic}' yet")

    def _say_slow(self, sensors: Sequence[SensorHealth]) -> None:
        """Sensors that sent less than half of their declared rate since the last count."""
        counts = {s.name: s.received for s in sensors if s.name in self._expected}
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


def account(sensor: SensorHealth) -> str:
    """One sensor's account in one line; with the newest problem's words where there was one."""
    rejected = "".join(f", {reason.name} {count}" for reason, count in sensor.rejected.items())
    text = f"sensor '{sensor.name}': received {sensor.received}, accepted {sensor.accepted}"
    text += f"{rejected}, waiting {sensor.waiting}"
    return text + (f"; last problem: {sensor.message}" if sensor.message else "")
