"""The session: an estimator under supervision, the one object that node and replay both drive.

``receive`` takes data in and solves what became due, ``advance`` lets time pass without data,
``take`` gives what is to be said. Single-threaded; nothing in it depends on the wall clock, so
that a recording gives the same output as the live run it came from.
"""

from __future__ import annotations

from collections.abc import Callable

from dnls_ros.runtime.types import (
    EstimatorState,
    Event,
    Level,
    Output,
    SensorHealth,
    SensorState,
    Status,
)
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.measurements import CameraIntrinsics, Measurement, Rejection
from dnls_ros.window.results import PoseAt
from dnls_ros.window.schedule import Ticker

NAN = float("nan")


class Session:
    """Drives one estimator through data, time and commands.

    Args:
        config: From `load_parameters`.
        archive: Keep what leaves the window, for `Estimator.smooth`.
        make: Builds the estimator from the configuration (and ``archive=True`` if asked for).

    Raises:
        DnlsError: The estimator cannot be built as configured.
    """

    def __init__(
        self,
        config: EstimatorConfig,
        *,
        archive: bool = False,
        make: Callable[..., Estimator] = Estimator,
    ) -> None:
        self.config = config
        self.estimator = make(config, archive=True) if archive else make(config)
        self._ticker = Ticker(config.solver.rate)
        self._out: list[Output] = []
        self._newest = 0
        self._clock = 0
        self._steps = 0
        self._refused = 0
        self._failed = 0
        self._skipped = 0

    def receive(
        self, item: Measurement | Rejection, clock: int | None = None, *, behind: bool = False
    ) -> None:
        """Takes an item in, and solves every step that it made due.

        Args:
            item: From an adapter, or made by hand.
            clock: The ROS clock at its arrival [ns]; None = unknown.
            behind: There is more waiting than can be solved for: due steps are skipped, counted.
        """
        self._clock = max(self._clock, clock or 0)
        waits = self.estimator.feed(item, clock) is None
        if waits and isinstance(item, Measurement):
            self._newest = max(self._newest, item.stamp)
            if self.config.solver.trigger == "measurement":
                due = [self._newest]
            else:
                due = self._ticker.due(self._newest)
            if behind:
                self._skipped += len(due)
            else:
                for now in due:
                    self._step(now)
        self._out += self.estimator.drain()

    def advance(self, clock: int) -> None:
        """Tells that time passed without data.

        Args:
            clock: The ROS clock [ns].
        """
        self._clock = max(self._clock, clock)

    def finish(self) -> None:
        """Ends a recording: the last, incomplete tick; what still waits after it stays waiting."""
        if self._newest:
            self._step(self._newest)
        self._out += self.estimator.drain()

    def take(self) -> list[Output]:
        """What is to be said since the last call, in order; call it after every other call."""
        out, self._out = self._out, []
        return out

    def set_intrinsics(self, sensor: str, intrinsics: CameraIntrinsics) -> None:
        """Calibrates a camera.

        Raises:
            DnlsError: There is no such landmarks sensor.
        """
        self.estimator.set_intrinsics(sensor, intrinsics)

    def pose_at(
        self,
        stamp: int,
        track: str = "",
        with_covariance: bool = True,
        max_extrapolation: float | None = None,
    ) -> PoseAt:
        """The pose at a stamp; see `Estimator.pose_at`."""
        return self.estimator.pose_at(
            stamp,
            track=track,
            with_covariance=with_covariance,
            max_extrapolation=max_extrapolation,
        )

    def status(self) -> Status:
        """What the estimator is doing."""
        started = self._steps > 0
        sensors = tuple(
            SensorHealth(
                name,
                SensorState.OK if c.received else SensorState.WAITING,
                NAN,
                NAN,
                NAN,
                NAN,
                NAN,
                c.received,
                c.accepted,
                c.waiting,
                dict(c.rejected),
                c.last_problem,
            )
            for name, c in self.estimator.counters.items()
        )
        return Status(
            stamp=0,
            state=EstimatorState.TRACKING if started else EstimatorState.UNINITIALIZED,
            previous_state=EstimatorState.UNINITIALIZED,
            state_since=0,
            reason="",
            tracks=(),
            window_states=0,
            window_span=0.0,
            output_age=(self._clock - self._newest) * 1e-9 if started and self._clock else NAN,
            solve_rate=0.0,
            solve_p95=0.0,
            solves_total=self._steps,
            solves_rejected=self._refused,
            solves_failed=self._failed,
            deadlines_missed=0,
            cycles_skipped=self._skipped,
            resets_total=0,
            sensors=sensors,
        )

    def _step(self, now: int) -> None:
        try:
            result = self.estimator.step(now)
        except Exception as failure:
            self._failed += 1
            text = f"the step at {now} ns failed: {type(failure).__name__}: {failure}"
            self._out += self.estimator.drain()
            self._out.append(Event(now, Level.ERROR, "solver.exception", text))
            return
        self._out += self.estimator.drain()
        if result is not None:
            self._steps += 1
            self._refused += not result.accepted
            self._out.append(result)
