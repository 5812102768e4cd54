"""Replay: a recording through the session in lockstep, one process; the clock is the recording's.

Measurements are merged by (stamp, sensor, sequence) and solves fire at multiples of
1/``solver.rate`` of data time, so the result does not depend on how fast it is played, on the
machine's load or on threads. With faults the order of arrival is part of the experiment: then
measurements are fed in the order of their receive stamps. The clock that tells stamps of the
future is the receive stamp of each message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dnls_ros.io.feeds import Feed, ReplayOptions, Silence, read_feed
from dnls_ros.io.trajectory import Trajectory
from dnls_ros.io.yaml_files import load_camera_calibration
from dnls_ros.runtime.session import Session
from dnls_ros.runtime.transforms import Transforms
from dnls_ros.runtime.types import Event, Level, Output, Status
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.ingress import Settled
from dnls_ros.window.measurements import CameraIntrinsics, Measurement, Reason
from dnls_ros.window.results import StepResult

Array = NDArray[np.float64]


@dataclass
class TrackLog:
    """A track's estimates: causal at each solve, and settled when they left the window."""

    stamps: list[int] = field(default_factory=list[int])
    poses: list[Array] = field(default_factory=list[Array])
    covariances: list[Array] = field(default_factory=list[Array])
    settled_stamps: list[int] = field(default_factory=list[int])
    settled_poses: list[Array] = field(default_factory=list[Array])

    def add(self, result: StepResult, track: str) -> None:
        """Takes one solve: the newest state, once per stamp, and the states that left."""
        estimate = result.tracks.get(track)
        if estimate is None:
            return
        newest = int(estimate.stamps[-1])
        if result.accepted and (not self.stamps or newest > self.stamps[-1]):
            self.stamps.append(newest)
            self.poses.append(estimate.poses[-1])
            self.covariances.append(estimate.covariance)
        self.settled_stamps += estimate.settled_stamps.tolist()
        self.settled_poses += list(estimate.settled_poses)

    def causal(self) -> Trajectory:
        """What the filter said at the time."""
        return Trajectory(
            np.array(self.stamps, dtype=np.int64),
            np.array(self.poses).reshape(-1, 7),
            np.array(self.covariances).reshape(-1, 6, 6),
        )

    def smoothed(self, last: StepResult | None, track: str) -> Trajectory:
        """Each state's last estimate, those still in the window included."""
        stamps, poses = list(self.settled_stamps), list(self.settled_poses)
        if last is not None and track in last.tracks:
            left = set(last.tracks[track].settled_stamps.tolist())
            rest = [
                (int(s), p)
                for s, p in zip(last.tracks[track].stamps, last.tracks[track].poses, strict=True)
                if int(s) not in left
            ]
            stamps += [s for s, _ in rest]
            poses += [p for _, p in rest]
        order = np.argsort(np.array(stamps, dtype=np.int64), kind="stable")
        return Trajectory(
            np.array(stamps, dtype=np.int64)[order], np.array(poses).reshape(-1, 7)[order]
        )


@dataclass(frozen=True, eq=False)
class ReplayResult:
    """Everything a replay found out.

    Attributes:
        session: As it is at the end.
        steps: Every solve.
        events: What happened.
        tracks: Track → its log.
        settled: What became of every measurement.
        seconds: Wall time of the estimator [s], reading the recording excluded.
        span: Data time between first and last measurement [s].
        absent: Configured topics that the recording does not have.
    """

    session: Session
    steps: Sequence[StepResult]
    events: Sequence[Event]
    tracks: Mapping[str, TrackLog]
    settled: Sequence[Settled]
    seconds: float
    span: float
    absent: Sequence[str]

    @property
    def estimator(self) -> Estimator:
        """The session's estimator."""
        return self.session.estimator

    @property
    def status(self) -> Status:
        """How it ended."""
        return self.session.status()

    def smoothed(self, track: str) -> Trajectory:
        """Each state's last estimate."""
        return self.tracks[track].smoothed(self.steps[-1] if self.steps else None, track)


class Watcher(Protocol):
    """Looks on while a recording is replayed; what it raises ends the replay."""

    def wait(self, seconds: float) -> object:
        """Lets wall time pass, so that data time passes at the rate that is asked for."""
        ...

    def before(self, feed: Feed, share: float) -> object:
        """An item is next; ``share`` of the recording (0 … 1) is behind it."""
        ...

    def after(self, session: Session, outputs: Sequence[Output]) -> object:
        """An item, or the last tick, is done; ``outputs`` is what the session said to it."""
        ...


def replay(
    path: Path | str,
    config: EstimatorConfig,
    options: ReplayOptions | None = None,
    on_progress: Callable[[float], object] | None = None,
    watcher: Watcher | None = None,
) -> ReplayResult:
    """Replays a recording.

    Args:
        path: The recording.
        config: The estimator's configuration; ``deterministic`` should be set.
        options: How.
        on_progress: Called with the share done, 0 … 1.
        watcher: Looks on.

    Raises:
        UnreadableInputError: The recording is unreadable, or has none of the configured topics.
        DnlsError: The configuration cannot be used.
    """
    chosen = options or ReplayOptions()
    session = Session(config, archive=chosen.full)
    calibrate_from_files(session, config)
    feeds, absent = read_feed(Path(path), config, chosen)
    return run_feed(session, feeds, chosen, absent, on_progress, watcher)


def calibrate_from_files(session: Session, config: EstimatorConfig) -> None:
    """Gives cameras with a calibration file their intrinsics."""
    for sensor in config.sensors:
        if sensor.type == "landmarks" and sensor.camera.calibration_file:
            camera = load_camera_calibration(sensor.camera.calibration_file)
            session.set_intrinsics(sensor.name, camera.intrinsics)


def run_feed(
    session: Session,
    feeds: Sequence[Feed],
    options: ReplayOptions,
    absent: Sequence[str] = (),
    on_progress: Callable[[float], object] | None = None,
    watcher: Watcher | None = None,
) -> ReplayResult:
    """Drives a session through prepared items, in their order."""
    log = _Log(session, watcher)
    pace = _Pace(options.rate, time.sleep if watcher is None else watcher.wait)
    silence = Silence()
    began = time.perf_counter()
    for k, feed in enumerate(feeds):
        pace.wait(feed.stamp)
        for clock in silence.until(feed.clock):
            session.advance(clock)
        if watcher is not None:
            watcher.before(feed, k / len(feeds))
        if isinstance(feed.item, CameraIntrinsics):
            session.set_intrinsics(feed.sensor, feed.item)
        elif isinstance(feed.item, Transforms):
            log.refused(feed.clock, feed.item.problems)
            if options.faults:  # the order of arrival: time passes with every message
                session.advance(feed.clock)
            session.add_transforms(feed.item.transforms, feed.item.static)
        else:
            session.receive(feed.item, feed.clock)
        log.collect()
        if on_progress is not None and k % 200 == 0:
            on_progress(k / len(feeds))
    session.finish()
    log.collect()
    if on_progress is not None:
        on_progress(1.0)
    stamps = [f.stamp for f in feeds if isinstance(f.item, Measurement)]
    span = (max(stamps) - min(stamps)) * 1e-9 if stamps else 0.0
    seconds = time.perf_counter() - began
    return ReplayResult(
        session, log.steps, log.events, log.tracks, log.settled, seconds, span, list(absent)
    )


class _Log:
    """Sorts what a session says."""

    def __init__(self, session: Session, watcher: Watcher | None) -> None:
        self._session = session
        self._watcher = watcher
        self.steps: list[StepResult] = []
        self.events: list[Event] = []
        self.settled: list[Settled] = []
        self.tracks = {t.name: TrackLog() for t in session.config.tracks}

    def refused(self, stamp: int, problems: Iterable[str]) -> None:
        """Transforms that could not be read."""
        self.events += [Event(stamp, Level.WARN, "tf.refused", text) for text in problems]

    def collect(self) -> None:
        """Takes what was said since the last call."""
        outputs = self._session.take()
        if self._watcher is not None:
            self._watcher.after(self._session, outputs)
        for output in outputs:
            if isinstance(output, Event):
                self.events.append(output)
            elif isinstance(output, Settled):
                self.settled.append(output)
            else:
                self.steps.append(output)
                for name, log in self.tracks.items():
                    log.add(output, name)


class _Pace:
    """Sleeps so that data time passes at a given rate."""

    def __init__(self, rate: float, sleep: Callable[[float], object]) -> None:
        self._rate = rate
        self._sleep = sleep
        self._start: tuple[float, int] | None = None

    def wait(self, stamp: int) -> None:
        """Returns when ``stamp`` is due."""
        if self._rate <= 0 or stamp <= 0:
            return
        if self._start is None:
            self._start = time.monotonic(), stamp
        due = self._start[0] + (stamp - self._start[1]) * 1e-9 / self._rate
        self._sleep(max(0.0, due - time.monotonic()))


def reasons(settled: Iterable[Settled]) -> dict[str, int]:
    """How often each reason occurred."""
    out: dict[str, int] = {}
    for one in settled:
        if one.reason is not Reason.ACCEPTED:
            out[one.reason.name] = out.get(one.reason.name, 0) + 1
    return out
