"""The solver thread: the only owner of torch and of the estimator.

It takes work from the inbox one item at a time: a message is adapted and fed, then every step that
is due is solved; a question is answered between two steps. Accepted results leave through a
callback as immutable values. Whatever an input does to a step, the thread goes on: the failure is
logged and counted, and the estimator keeps its last state.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from dnls_ros.io.cameras import camera_from_info
from dnls_ros.io.messages import adapt
from dnls_ros.io.replay import calibrate_from_files
from dnls_ros.ros.inbox import Arrival, Ask, CameraInfo, Dropped, Inbox, Work
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.measurements import (
    CameraIntrinsics,
    LandmarkMeasurement,
    Measurement,
    Reason,
    Rejection,
)
from dnls_ros.window.results import StepResult
from dnls_ros.window.schedule import Ticker

if TYPE_CHECKING:
    from dnls_ros.window.estimator import Estimator

IDLE = 0.1
"""Longest sleep without work, and longest age of the report under load [s]."""
OVERLOAD = 200
"""Messages waiting at which steps are skipped until the rest is fed."""


class Log(Protocol):
    """What the thread says, and to whom."""

    def warning(self, text: str) -> None:
        """Says that something was lost or refused."""

    def error(self, text: str) -> None:
        """Says that something failed."""


@dataclass(frozen=True)
class SensorReport:
    """One sensor's account, node and estimator together."""

    received: int
    accepted: int
    rejected: Mapping[Reason, int]
    waiting: int
    last_problem: str

    @property
    def balanced(self) -> bool:
        """Whether received = accepted + Σ rejected + waiting."""
        return self.received == self.accepted + sum(self.rejected.values()) + self.waiting


@dataclass(frozen=True)
class Report:
    """What the thread has done so far, at one instant between two items of work.

    Attributes:
        sensors: Account of each sensor.
        steps: Steps solved.
        refused: Steps whose result was not accepted.
        failed: Steps and feeds that raised.
        skipped: Steps left out under overload.
    """

    sensors: Mapping[str, SensorReport]
    steps: int = 0
    refused: int = 0
    failed: int = 0
    skipped: int = 0


class SolverThread:
    """Runs an estimator on what comes into an inbox."""

    def __init__(
        self,
        config: EstimatorConfig,
        inbox: Inbox,
        publish: Callable[[StepResult], None],
        log: Log,
        make: Callable[[EstimatorConfig], Estimator],
    ) -> None:
        """Prepares the thread; ``make`` builds the estimator on it."""
        self._config = config
        self._inbox = inbox
        self._publish = publish
        self._log = log
        self._make = make
        self._thread = threading.Thread(target=self._run, name="solver")
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._description = ""
        self._report = Report({})
        # Owned by the thread:
        self._calibrations: dict[str, tuple[object, ...]] = {}
        self._sequence = dict.fromkeys((s.name for s in config.sensors), 0)
        self._newest = 0
        self._accounted = 0.0
        self._ticker = Ticker(config.solver.rate)

    def start(self) -> str:
        """Starts the thread and waits for the estimator; returns what it runs on.

        Raises:
            DnlsError: The estimator cannot be built as configured.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self._description

    def stop(self) -> None:
        """Ends the thread after the item it is at."""
        self._stop.set()
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def report(self) -> Report:
        """The newest report."""
        return self._report

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        """Builds the estimator, then works until stopped."""
        import torch

        try:
            torch.set_num_threads(self._config.num_threads)
            estimator = self._make(self._config)
            calibrate_from_files(estimator, self._config)
            self._description = "; ".join(estimator.choices)
        except Exception as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        while not self._stop.is_set():
            work = self._inbox.take(IDLE)
            if work is not None:
                try:
                    self._do(estimator, work)
                except Exception as error:
                    self._failed(type(work).__name__, error)
            if not self._inbox.backlog or time.monotonic() - self._accounted > IDLE:
                self._account(estimator)
        self._account(estimator)

    def _do(self, estimator: Estimator, work: Work) -> None:
        """One item of work; nothing it does ends the thread."""
        if isinstance(work, Ask):
            self._answer(estimator, work)
        elif isinstance(work, CameraInfo):
            camera = camera_from_info(work.message)
            if isinstance(camera, CameraIntrinsics):
                self._calibrate(estimator, work.sensor, camera)
            else:
                self._log.warning(f"CameraInfo of sensor '{work.sensor}' ignored: {camera.text}")
        elif isinstance(work, Dropped):
            text = f"more than {self._inbox.capacity} messages were waiting"
            self._feed(estimator, Rejection(work.sensor, 0, Reason.QUEUE_FULL, text), None)
        else:
            measurement = self._translate(work)
            if isinstance(measurement, LandmarkMeasurement) and measurement.intrinsics:
                self._calibrate(estimator, work.sensor, measurement.intrinsics)
            if self._feed(estimator, measurement, work.stamp or None):
                self._newest = max(self._newest, measurement.stamp)
                self._step_if_due(estimator)

    def _translate(self, arrival: Arrival) -> Measurement | Rejection:
        """The message as a measurement, stamped with its arrival where that is asked for."""
        sensor = arrival.sensor
        sequence, self._sequence[sensor] = self._sequence[sensor], self._sequence[sensor] + 1
        measurement = adapt(sensor, arrival.type_name, arrival.message, sequence)
        if isinstance(measurement, Rejection):
            return measurement
        if self._config.sensor(sensor).stamp_source == "arrival":
            return replace(measurement, stamp=arrival.stamp)
        return measurement

    def _calibrate(self, estimator: Estimator, sensor: str, camera: CameraIntrinsics) -> None:
        """Tells the estimator a camera's calibration, if it is a new one."""
        if astuple(camera) != self._calibrations.get(sensor):
            self._calibrations[sensor] = astuple(camera)
            estimator.set_intrinsics(sensor, camera)

    def _feed(self, estimator: Estimator, item: Measurement | Rejection, now: int | None) -> bool:
        """Hands one item over; True if it now waits for a step."""
        try:
            return estimator.feed(item, now) is None
        except Exception as error:
            self._failed(f"feeding sensor '{item.sensor}'", error)
            return False

    def _step_if_due(self, estimator: Estimator) -> None:
        """Solves what the newest measurement made due."""
        if self._config.solver.trigger == "measurement":
            due = [self._newest]
        else:
            due = self._ticker.due(self._newest)
        if due and self._inbox.backlog > OVERLOAD:
            self._report = replace(self._report, skipped=self._report.skipped + len(due))
            self._log.warning(
                f"{self._inbox.backlog} messages wait: steps are skipped to catch up"
            )
            return
        for now in due:
            self._step(estimator, now)

    def _step(self, estimator: Estimator, now: int) -> None:
        """One solve; its result goes out if it was accepted."""
        try:
            result = estimator.step(now)
        except Exception as error:
            self._failed(f"the step at {now} ns", error)
            return
        finally:
            estimator.drain()  # a log of single measurements, which nobody here reads
        if result is None:
            return
        self._report = replace(self._report, steps=self._report.steps + 1)
        if result.accepted:
            self._publish(result)
        else:
            self._report = replace(self._report, refused=self._report.refused + 1)
            self._log.warning(f"step at {now} ns not accepted: {result.status}")

    def _failed(self, what: str, error: Exception) -> None:
        """Counts and says a failure that nothing should have caused."""
        self._report = replace(self._report, failed=self._report.failed + 1)
        trace = "".join(traceback.format_exception(error))
        self._log.error(f"{what} failed; the last state is kept\n{trace}")

    def _answer(self, estimator: Estimator, ask: Ask) -> None:
        """Replies with what was asked for, or with the exception that asking raised."""
        answer: Any
        try:
            answer = ask.function(estimator)
        except Exception as error:
            answer = error
        ask.reply(answer)

    def _account(self, estimator: Estimator) -> None:
        """Brings the report up to date; nothing is in this thread's hands at this moment."""
        received, waiting = self._inbox.counts()
        sensors = {
            name: SensorReport(
                received=received[name],
                accepted=counters.accepted,
                rejected=dict(counters.rejected),
                waiting=counters.waiting + waiting[name],
                last_problem=counters.last_problem,
            )
            for name, counters in estimator.counters.items()
        }
        self._report = replace(self._report, sensors=sensors)
        self._accounted = time.monotonic()
