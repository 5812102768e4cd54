"""The solver thread: the only owner of torch and of the session.

It takes work from the inbox one item at a time: a message is adapted and received, which solves
every step that is due; a question or command is run between two steps. What the session says
leaves through a callback as immutable values. Whatever an input does, the thread goes on: the
session keeps its last accepted window, and a failure outside of it is logged and counted.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any, Protocol

from dnls_ros.io.cameras import camera_from_info
from dnls_ros.io.messages import adapt_for
from dnls_ros.io.replay import calibrate_from_files
from dnls_ros.ros.inbox import Arrival, Ask, CameraInfo, Dropped, Inbox, Work
from dnls_ros.runtime.transforms import Transforms
from dnls_ros.runtime.types import Event, Level, Output, SensorHealth, Status
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.measurements import (
    CameraIntrinsics,
    LandmarkMeasurement,
    Measurement,
    Reason,
    Rejection,
)

if TYPE_CHECKING:
    from dnls_ros.runtime.session import Session
    from dnls_ros.window.estimator import Estimator

IDLE = 0.1
"""Longest sleep without work, and longest age of the status under load [s]."""
OVERLOAD = 200
"""Messages waiting at which steps are skipped until the rest is fed."""


class Log(Protocol):
    """What the thread says, and to whom."""

    def info(self, text: str) -> None:
        """Says that something happened."""

    def warning(self, text: str) -> None:
        """Says that something was lost or refused."""

    def error(self, text: str) -> None:
        """Says that something failed."""


class SolverThread:
    """Runs a session on what comes into an inbox.

    Args:
        config: The estimator's configuration.
        inbox: Where work comes from.
        publish: Takes every output of the session and every new status; must not block.
        log: Takes events and failures as sentences.
        make: Builds the session, on the thread.
        clock: The ROS clock [ns].
        look: Looks at the estimator after each item of work, when its results were published.
    """

    def __init__(
        self,
        config: EstimatorConfig,
        inbox: Inbox,
        publish: Callable[[Output | Status], object],
        log: Log,
        make: Callable[[EstimatorConfig], Session],
        clock: Callable[[], int],
        look: Callable[[Estimator], object] = lambda _: None,
    ) -> None:
        self._look = look
        self._config = config
        self._inbox = inbox
        self._publish = publish
        self._log = log
        self._make = make
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name="solver")
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._description = ""
        self._status: Status | None = None
        self._failed_items = 0
        self._began: float | None = None
        # Owned by the thread:
        self._calibrations: dict[str, tuple[object, ...]] = {}
        self._sequence = dict.fromkeys((s.name for s in config.sensors), 0)
        self._accounted = 0.0

    def start(self) -> str:
        """Starts the thread and waits for the session; returns what it runs on.

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
    def status(self) -> Status | None:
        """The newest status, the inbox's messages counted in; None before the session stands."""
        return self._status

    @property
    def failed_items(self) -> int:
        """Items of work that raised outside of the session: our own mistakes."""
        return self._failed_items

    @property
    def busy_for(self) -> float:
        """How long the thread has been at its present item [s]."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        """Builds the session, then works until stopped.

        Under load timeouts act too, but time passes only up to the oldest message that waits: a
        sensor is not silent while its messages lie here.
        """
        import torch

        try:
            torch.set_num_threads(self._config.num_threads)
            session = self._make(self._config)
            calibrate_from_files(session, self._config)
            self._description = "; ".join(session.estimator.choices)
            self._look(session.estimator)
            self._account(session)
        except Exception as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        while not self._stop.is_set():
            self._began = None
            work = self._inbox.take(IDLE)
            self._began = time.monotonic()
            try:
                if work is not None:
                    self._do(session, work)
                if work is None or time.monotonic() - self._accounted > IDLE:
                    session.advance(self._inbox.oldest or self._clock())
            except Exception as error:
                self._failed(type(work).__name__, error)
            changed = self._say(session)
            try:
                self._look(session.estimator)
            except Exception as error:
                self._failed("a snapshot of the window", error)
            if changed or work is None or time.monotonic() - self._accounted > IDLE:
                self._account(session)
        self._began = None
        self._account(session)

    def _do(self, session: Session, work: Work) -> None:
        """One item of work; nothing it does ends the thread."""
        if isinstance(work, Ask):
            _answer(session, work)
        elif isinstance(work, Transforms):
            session.add_transforms(work.transforms, work.static)
        elif isinstance(work, CameraInfo):
            camera = camera_from_info(work.message)
            if isinstance(camera, CameraIntrinsics):
                self._calibrate(session, work.sensor, camera)
            else:
                self._log.warning(f"CameraInfo of sensor '{work.sensor}' ignored: {camera.text}")
        elif isinstance(work, Dropped):
            text = f"more than {self._inbox.capacity} messages were waiting"
            session.receive(Rejection(work.sensor, 0, Reason.QUEUE_FULL, text))
        else:
            self._receive(session, work)

    def _receive(self, session: Session, arrival: Arrival) -> None:
        """One message into the session; under overload its ticks are skipped to catch up."""
        measurement = self._translate(arrival)
        if isinstance(measurement, LandmarkMeasurement) and measurement.intrinsics:
            self._calibrate(session, arrival.sensor, measurement.intrinsics)
        behind = self._inbox.messages_waiting > OVERLOAD
        if behind:
            self._log.warning(
                f"{self._inbox.messages_waiting} messages wait: steps are skipped to catch up"
            )
        session.receive(measurement, arrival.stamp or None, behind=behind)

    def _translate(self, arrival: Arrival) -> Measurement | Rejection:
        """The message as a measurement, stamped with its arrival where that is asked for."""
        name, sensor = arrival.sensor, self._config.sensor(arrival.sensor)
        sequence, self._sequence[name] = self._sequence[name], self._sequence[name] + 1
        measurement = adapt_for(sensor, arrival.type_name, arrival.message, sequence)
        if isinstance(measurement, Rejection):
            return measurement
        if sensor.stamp_source == "arrival":
            return replace(measurement, stamp=arrival.stamp)
        return measurement

    def _calibrate(self, session: Session, sensor: str, camera: CameraIntrinsics) -> None:
        """Tells the session a camera's calibration, if it is a new one."""
        if astuple(camera) != self._calibrations.get(sensor):
            self._calibrations[sensor] = astuple(camera)
            session.set_intrinsics(sensor, camera)

    def _say(self, session: Session) -> bool:
        """Hands on what the session says; True if an event was among it."""
        events = False
        for output in session.take():
            self._publish(output)
            if isinstance(output, Event):
                events = True
                say = {Level.INFO: self._log.info, Level.WARN: self._log.warning}
                say.get(output.level, self._log.error)(f"{output.code}: {output.text}")
        return events

    def _failed(self, what: str, error: Exception) -> None:
        """Counts and says a failure that nothing should have caused."""
        self._failed_items += 1
        trace = "".join(traceback.format_exception(error))
        self._log.error(f"{what} failed; the last state is kept\n{trace}")

    def _account(self, session: Session) -> None:
        """Brings the status up to date; nothing is in this thread's hands at this moment."""
        received, waiting = self._inbox.counts()
        status = session.status()
        sensors = tuple(_with_inbox(s, received[s.name], waiting[s.name]) for s in status.sensors)
        self._status = replace(status, sensors=sensors)
        self._accounted = time.monotonic()
        self._publish(self._status)


def _with_inbox(sensor: SensorHealth, received: int, waiting: int) -> SensorHealth:
    """A sensor's health with the messages that have not reached the session."""
    return replace(sensor, received=received, waiting=sensor.waiting + waiting)


def _answer(session: Session, ask: Ask) -> None:
    """Replies with what was asked for, or with the exception that asking raised."""
    answer: Any
    try:
        answer = ask.function(session)
    except Exception as error:
        answer = error
    ask.reply(answer)
