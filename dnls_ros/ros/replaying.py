"""One replay of a recording, watched: /clock and the node's outputs leave while it runs.

The replay itself is ``io.replay``'s; the result does not depend on who looks on, nor on the rate.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.feeds import Feed, ReplayOptions
from dnls_ros.io.replay import replay
from dnls_ros.io.results_files import summarize, write_results
from dnls_ros.runtime.types import Event, Output, Status
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.parameters import load_parameters

if TYPE_CHECKING:
    from dnls_ros.runtime.session import Session

CLOCK_PERIOD = 10_000_000
"""Data time between two messages on /clock, unless something is published [ns]."""
STATUS_PERIOD = 1_000_000_000
"""Data time between two statuses, unless something happens [ns]."""
FEEDBACK_PERIOD = 0.2
"""Wall time between two reports of progress [s]."""


class StoppedError(DnlsError):
    """The replay was ended from outside."""


@dataclass(frozen=True)
class Request:
    """What to replay.

    Attributes:
        bag: The recording.
        config: The estimator's configuration.
        rate: Times real time; 0 = as fast as possible.
        start_offset: Skip so much [s].
        duration: Stop after so much [s]; 0 = all.
        publish: Whether /clock and outputs leave.
    """

    bag: Path
    config: EstimatorConfig
    rate: float
    start_offset: float
    duration: float
    publish: bool


@dataclass(frozen=True)
class Progress:
    """How far a replay is: data time [ns], share (0 … 1), data time per wall time."""

    stamp: int
    share: float
    rtf: float


@dataclass(frozen=True)
class Replayed:
    """What a replay left behind.

    Attributes:
        trajectory: TUM file of the first track.
        sha256: Of that file.
        coverage: Share of the recording's time with an estimate, of the worst track.
        message: A sentence.
    """

    trajectory: Path
    sha256: str
    coverage: float
    message: str


class Stage(Protocol):
    """Where a replay is shown."""

    def clock(self, stamp: int) -> None:
        """Data time has come to ``stamp`` [ns]."""

    def put(self, output: Output | Status) -> None:
        """Takes what the session says."""

    def look(self, session: Session) -> None:
        """Looks at the session, when what it said has been put."""


def make_request(
    bag: str,
    params_file: str,
    rate: float,
    start_offset: float,
    duration: float,
    publish: bool,
) -> Request:
    """Checks what a user asks for.

    Raises:
        UnreadableInputError: There is no such recording.
        DnlsError: A number or the parameter file cannot be used.
    """
    if not bag:
        raise DnlsError("no recording is named: set bag")
    if not params_file:
        raise DnlsError("no parameter file is named: set config_path, or the node's params_file")
    for name, value in (("rate", rate), ("start_offset", start_offset), ("duration", duration)):
        if not (math.isfinite(value) and value >= 0.0):
            raise DnlsError(f"{name} is {value}; expected 0 or a positive number")
    if not Path(bag).expanduser().exists():
        raise UnreadableInputError(f"recording {bag} does not exist")
    try:
        config = load_parameters(Path(params_file).expanduser())
    except UnreadableInputError as error:
        raise DnlsError(str(error)) from error
    config = replace(config, deterministic=True)
    return Request(Path(bag).expanduser(), config, rate, start_offset, duration, publish)


class Watch:
    """Shows a replay, reports its progress and ends it when asked to."""

    def __init__(
        self,
        stop: threading.Event,
        stage: Stage | None,
        report: Callable[[Progress], object],
    ) -> None:
        """Ends the replay when ``stop`` is set; shows it on ``stage``, if there is one."""
        self._stop = stop
        self._stage = stage
        self._report = report
        self._first = 0
        self._stamp = 0
        self._clock = 0
        self._status = 0
        self._began = time.monotonic()
        self._reported = -math.inf

    def wait(self, seconds: float) -> None:
        """Lets wall time pass; StoppedError if the replay is to end."""
        if self._stop.wait(seconds):
            raise StoppedError("stopped before the end of the recording")

    def before(self, feed: Feed, share: float) -> None:
        """Data time goes on; StoppedError if the replay is to end."""
        if self._stop.is_set():
            raise StoppedError("stopped before the end of the recording")
        self._stamp = max(self._stamp, feed.stamp)
        self._first = self._first or self._stamp
        if self._stage is not None and self._stamp - self._clock >= CLOCK_PERIOD:
            self._show_clock(self._stage)
        self._tell(share)

    def after(self, session: Session, outputs: Sequence[Output]) -> None:
        """Shows what the session said, and its status where that has changed."""
        if self._stage is None:
            return
        if outputs and self._stamp > self._clock:
            self._show_clock(self._stage)
        for output in outputs:
            self._stage.put(output)
        changed = any(isinstance(output, Event) for output in outputs)
        if changed or self._stamp - self._status >= STATUS_PERIOD:
            self._status = self._stamp
            self._stage.put(session.status())
        self._stage.look(session)

    def finish(self) -> None:
        """Reports the end."""
        self._reported = -math.inf
        self._tell(1.0)

    def _show_clock(self, stage: Stage) -> None:
        self._clock = self._stamp
        stage.clock(self._stamp)

    def _tell(self, share: float) -> None:
        now = time.monotonic()
        if now - self._reported < FEEDBACK_PERIOD:
            return
        self._reported = now
        elapsed = (self._stamp - self._first) * 1e-9
        self._report(Progress(self._stamp, share, elapsed / max(now - self._began, 1e-9)))


def run_replay(request: Request, folder: Path, watch: Watch) -> Replayed:
    """Replays a recording and writes its results into ``folder``.

    Raises:
        StoppedError: The watch ended it; nothing is written.
        UnreadableInputError: The recording is unreadable, or empty where it is to be replayed.
        DnlsError: The configuration cannot be used, or the results cannot be written.
    """
    options = ReplayOptions(
        start=request.start_offset, duration=request.duration or None, rate=request.rate
    )
    result = replay(request.bag, request.config, options, watcher=watch)
    watch.finish()
    if not result.settled:
        raise UnreadableInputError(
            f"recording {request.bag} has no message of the configured topics in the stretch from "
            f"{request.start_offset:g} s on"
        )
    summary = summarize(result, full=False)
    try:
        status: dict[str, Any] = write_results(summary, folder)
    except OSError as error:
        raise DnlsError(f"cannot write the results into {folder}: {error}") from error
    track = request.config.tracks[0].name
    name = f"{track}.tum"
    poses = len(summary.tracks[track].causal)
    absent = f"; absent: {', '.join(result.absent)}" if result.absent else ""
    return Replayed(
        folder / name,
        status["sha256"][name],
        summary.coverage,
        f"{poses} poses of track '{track}' in {result.seconds:.1f} s{absent}",
    )
