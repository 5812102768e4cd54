"""The session: an estimator under supervision, the one object that node and replay both drive.

``receive`` takes data in and solves what became due, ``advance`` lets time pass without data,
``take`` gives what is to be said; commands come between two solves. A measurement passes the
timeline (is it of this time?), then its frames are resolved, then it reaches the estimator's door.
Single-threaded; nothing but reported durations depends on the wall clock, so that a recording
gives the same output as the live run it came from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dnls_ros.errors import DnlsError
from dnls_ros.learned import load_model
from dnls_ros.runtime.commands import Commands
from dnls_ros.runtime.condition import Condition, Facts
from dnls_ros.runtime.covariance import CovarianceGuard
from dnls_ros.runtime.frames import FrameGate
from dnls_ros.runtime.health import Health
from dnls_ros.runtime.history import History, Stretch
from dnls_ros.runtime.liveness import Liveness
from dnls_ros.runtime.meter import Meter
from dnls_ros.runtime.supervisor import Supervisor
from dnls_ros.runtime.tf_pose import TfPoses
from dnls_ros.runtime.timeline import Action, Jump, Refused, Timeline
from dnls_ros.runtime.touch import OpenModel, TouchFronts
from dnls_ros.runtime.transforms import StampedTransform, TransformBuffer, TransformSource
from dnls_ros.runtime.types import EstimatorState, Event, Level, Output, Status
from dnls_ros.runtime.window_dumps import WindowDumps
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.ingress import LATEST_STAMP, Settled
from dnls_ros.window.measurements import (
    CameraIntrinsics,
    Measurement,
    Reason,
    Rejection,
    TactileFrame,
)
from dnls_ros.window.results import PoseAt, PoseReason, StepResult
from dnls_ros.window.rigid import IDENTITY
from dnls_ros.window.schedule import Ticker

NAN = float("nan")


class Session(Commands):
    """Drives one estimator through data, time and commands.

    Args:
        config: From `load_parameters`.
        archive: Keep what leaves the window, for `Estimator.smooth`.
        make: Builds the estimator from the configuration (and ``archive=True`` if asked for).
        transforms: Who knows where frames are; by default a buffer that `add_transforms` fills.
        dumps: Write failing windows to ``output_dir`` (if ``recovery.dump``).
        open_model: Reads the model of a tactile_image sensor.

    Raises:
        DnlsError: The estimator cannot be built as configured.
    """

    def __init__(
        self,
        config: EstimatorConfig,
        *,
        archive: bool = False,
        make: Callable[..., Estimator] = Estimator,
        transforms: TransformSource | None = None,
        dumps: bool = False,
        open_model: OpenModel = load_model,
    ) -> None:
        self.config = config
        self.estimator = make(config, archive=True) if archive else make(config)
        own = TransformBuffer(config.tf.cache)
        self.transforms: TransformSource = own if transforms is None else transforms
        self._frames = FrameGate(config, self.transforms)
        self._tf_poses = TfPoses(config, self.transforms)
        self._fronts = TouchFronts(config, open_model)
        self._line = Timeline(config)
        self._ticker = Ticker(config.solver.rate)
        self._health = Health(config)
        self._history = History(config)
        self._meter = Meter(config)
        self._liveness = Liveness(config)
        self._guard = CovarianceGuard(config)
        self._condition = Condition()
        self._dumps = WindowDumps(self.estimator, config, dumps)
        self._supervisor = Supervisor(self.estimator, self._condition, self._dumps.failing)
        self._out: list[Output] = []
        self._newest = 0
        self._data = False
        self._paused = ""
        self._last: StepResult | None = None

    # Data

    def receive(
        self, item: Measurement | Rejection, clock: int | None = None, *, behind: bool = False
    ) -> None:
        """Takes an item in, and solves every step that it made due.

        Args:
            item: From an adapter, or made by hand.
            clock: The ROS clock at its arrival [ns]; None = unknown.
            behind: There is more waiting than can be solved for: due steps are skipped, counted.

        Raises:
            DnlsError: Its sensor is not configured.
        """
        if item.sensor not in self.estimator.counters:
            known = sorted(self.estimator.counters)
            raise DnlsError(f"no sensor '{item.sensor}' is configured; there are {known}")
        if isinstance(item, TactileFrame) and not self._paused:
            item = self._fronts.see(item)
        if clock is not None and self._condition.state.publishes and self._liveness.silent(clock):
            self._assess(clock)  # it was lost until this item came
        self._release(clock, behind)
        self._take_in(item, clock, behind)
        if isinstance(item, Measurement):
            self._tf_poses.saw(item)
            self._sample_tf(clock, behind)
        self._conclude()

    def advance(self, clock: int) -> None:
        """Time passed without data: what waits for it acts.

        Args:
            clock: The ROS clock [ns].
        """
        self._act(self._line.tick(clock), behind=False)
        self._release(clock, behind=False)
        self._conclude()

    def finish(self) -> None:
        """Ends a recording: the last, incomplete tick; what still waits after it stays waiting."""
        self._act(self._line.finish(), behind=False)
        for item in self._frames.finish():
            self._feed(item, None, behind=False)
        if self._newest and not self._paused:
            self._step(self._newest)
        self._conclude()

    def take(self) -> list[Output]:
        """What is to be said since the last call, in order; call it after every other call."""
        out, self._out = self._out, []
        return out

    def add_transforms(self, transforms: Sequence[StampedTransform], static: bool = False) -> None:
        """Takes transforms in; measurements that waited for them go on."""
        for text in self.transforms.add(transforms, static):
            self._say(Level.WARN, "tf.refused", text)
        self._release(self._line.clock or None, behind=False)
        if not static:
            self._tf_poses.saw_transforms(transforms)
        self._sample_tf(None, behind=False)
        self._conclude()

    def set_intrinsics(self, sensor: str, intrinsics: CameraIntrinsics) -> None:
        """Calibrates a camera.

        Raises:
            DnlsError: There is no such landmarks sensor.
        """
        self.estimator.set_intrinsics(sensor, intrinsics)

    def jump(self, backward: bool, why: str) -> None:
        """The clock jumped, says whoever owns it.

        Args:
            backward: Which way; whether a jump forward matters the data show.
            why: A sentence.
        """
        self._act(self._line.jump(backward, why), behind=False)
        self._conclude()

    # Questions

    def pose_at(
        self,
        stamp: int,
        track: str = "",
        with_covariance: bool = True,
        max_extrapolation: float | None = None,
    ) -> PoseAt:
        """The pose at a stamp; see `Estimator.pose_at`.

        What the last accepted window knows it tells in any state. While nothing is published it is
        not carried ahead by more than ``health.max_prediction``, and not at all in a pause:
        NOT_TRACKING.
        """
        found = self.estimator.pose_at(stamp, track, with_covariance, max_extrapolation)
        state = self._condition.state
        near = found.extrapolation <= self.config.health.max_prediction and not self._paused
        if state.publishes or not found.extrapolated or near:
            return found
        text = f"the estimator is {state.name}"
        text += f": {self._condition.reason}" if self._condition.reason else ""
        nowhere, reason = IDENTITY.copy(), PoseReason.NOT_TRACKING
        return PoseAt(False, reason, nowhere, None, np.zeros(6), False, 0.0, found.window_id, text)

    def trajectory(self, track: str, start: int, end: int, rate: float) -> Stretch:
        """The track between two stamps; see `History.stretch`."""
        return self._history.stretch(track, start, end, rate)

    def dump_window(self, directory: Path, name: str) -> Path:
        """Writes the window as it is; see `dnls_ros.runtime.dump`.

        Raises:
            DnlsError: There is no window.
            OSError: It cannot be written.
        """
        return self._dumps.write(directory, name)

    def status(self) -> Status:
        """What the estimator is doing."""
        condition, last, now = self._condition, self._last, self._line.clock
        oldest = min((int(t.stamps[0]) for t in last.tracks.values()), default=0) if last else 0
        newest, kept = last.stamp if last else 0, self._kept()
        return Status(
            stamp=newest,
            state=condition.state,
            previous_state=condition.previous,
            state_since=condition.since,
            reason=condition.reason,
            tracks=tuple(last.tracks) if last else (),
            window_states=last.states if last else 0,
            window_span=(newest - oldest) * 1e-9,
            output_age=(now - newest) * 1e-9 if last else NAN,
            solve_rate=self._meter.rate,
            solve_p95=self._meter.p95,
            solves_total=self._meter.total,
            solves_rejected=self._meter.refused + self._supervisor.refused,
            solves_failed=self._supervisor.failed,
            deadlines_missed=self._meter.missed,
            cycles_skipped=self._meter.skipped,
            resets_total=self._meter.resets,
            sensors=self._fronts.named(self._health.report(now, self.estimator.counters, kept)),
        )

    # Inside

    def _kept(self) -> Mapping[str, int]:
        """Sensor → measurements that have not reached the estimator's door."""
        return Counter(self._line.held) + Counter(self._frames.waiting)

    def _say(self, level: Level, code: str, text: str, **values: str) -> None:
        self._out.append(Event(self._line.clock, level, code, text, values))

    def _arrive(self, item: Measurement, clock: int | None, behind: bool) -> None:
        """One measurement into the timeline; nonsense goes straight to the door."""
        sensor = self.config.sensor(item.sensor)
        if not sensor.enabled or not 0 < item.stamp <= LATEST_STAMP:
            self._refused(item, clock, behind)
            return
        actions = self._line.observe(item, clock)
        now = self._line.clock
        self._data = True
        self._liveness.data(now)
        self._health.arrived(item.sensor, now, item.stamp, clock)
        self._act(actions, behind)

    def _ignored(self, item: Measurement | Rejection) -> Rejection:
        return Rejection(item.sensor, item.stamp, Reason.PAUSED, f"paused ({self._paused})")

    def _act(self, actions: Sequence[Action], behind: bool) -> None:
        for action in actions:
            if isinstance(action, Jump):
                self._jumped(action)
            elif isinstance(action, Refused):
                item = action.item
                refusal = Rejection(item.sensor, item.stamp, action.reason, action.text)
                self._feed(refusal, None, behind)
            elif self._paused:
                self._feed(self._ignored(action.item), None, behind)
            else:
                resolved = self._frames.take(action.item, action.clock)
                if resolved is not None:
                    self._feed(resolved, action.clock, behind)

    def _sample_tf(self, clock: int | None, behind: bool) -> None:
        """Poses by tf that can be had now."""
        for item in self._tf_poses.take():
            self._take_in(item, clock, behind)

    def _take_in(self, item: Measurement | Rejection, clock: int | None, behind: bool) -> None:
        """One item: while paused to nowhere, else a rejection to the door, the rest onwards."""
        if self._paused:
            self._feed(self._ignored(item), clock, behind)
        elif isinstance(item, Rejection):
            self._refused(item, clock, behind)
        else:
            self._arrive(item, clock, behind)

    def _refused(self, item: Measurement | Rejection, clock: int | None, behind: bool) -> None:
        """To the door, where it is refused: of all that it says only the clock is believed."""
        if clock is not None:
            self._act(self._line.tick(clock), behind)
        self._feed(item, clock, behind)

    def _release(self, clock: int | None, behind: bool) -> None:
        """What waited for transforms, or has waited long enough."""
        for item in self._frames.release(clock):
            ignored = self._paused and isinstance(item, Measurement)
            self._feed(self._ignored(item) if ignored else item, clock, behind)

    def _feed(self, item: Measurement | Rejection, clock: int | None, behind: bool) -> None:
        """To the estimator's door, and the steps that it makes due."""
        if isinstance(item, Measurement):
            self._start_by_tf(item)
        if self.estimator.feed(item, clock) is not None or not isinstance(item, Measurement):
            return
        offset = round(self.config.sensor(item.sensor).stamp_offset * 1e9)
        self._newest = max(self._newest, item.stamp + offset)
        if self.config.solver.trigger == "measurement":
            due = [self._newest]
        else:
            due = self._ticker.due(self._newest)
        if behind:
            self._meter.skipped += len(due)
            return
        for now in due:
            self._step(now)

    def _step(self, now: int) -> None:
        result = self._supervisor.step(now)
        self._drain()
        said = self._supervisor.take()
        if any(event.code == "recovery.reinit" for event in said):
            self._health.forgive()
        self._out += said
        if result is None:
            return
        result = self._guard.repaired(result)
        self._meter.add(result)
        self._health.tested(result.nis, self._line.clock)
        if result.accepted:
            self._last = result
            self._liveness.estimate(result.stamp, self._line.clock)
            self._history.add(result)
        if self._condition.state is EstimatorState.LOST:
            self._change(EstimatorState.INITIALIZING, "")
        self._assess(self._line.clock)
        self._out.append(result)

    def _drain(self) -> None:
        now = self._line.clock
        settled: list[Settled] = self.estimator.drain()
        for one in settled:
            self._health.settled(one, now)
        self._out += settled

    def _conclude(self) -> None:
        """After each call: what was settled, who fell silent, which state follows."""
        self._drain()
        now = self._line.clock
        self._out += self._health.changes(now)
        self._assess(now)

    def _change(self, state: EstimatorState, reason: str) -> None:
        change = self._condition.enter(state, reason, self._line.clock)
        self._out += [] if change is None else [change]

    def _assess(self, now: int) -> None:
        """Which state follows from the facts."""
        values = self.estimator.state.values
        absent = [t.name for t in self.config.tracks if t.name not in values]
        lost = self._supervisor.lost
        expired = self._liveness.expired(now, started=self._last is not None)
        if expired and not lost:
            lost = "init.timeout"
            if self._condition.reason != lost:
                text = f"no track could start within {self.config.init.timeout:g} s"
                self._say(Level.ERROR, "init.timeout", f"{text}: {_wish(absent)}")
        complaint = self._health.complaint(now)
        if not complaint and self._guard.unknown:
            complaint = "covariance.unknown"
        if not complaint and self._meter.overloaded:
            complaint = "deadline.missed"
        facts = Facts(
            paused=self._paused,
            lost=lost,
            data=self._data,
            recovering=self._supervisor.recovering,
            waiting=_wish(absent) if absent else "",
            estimates=self._last is not None,
            silent="estimate.stale" if self._liveness.silent(now) else "",
            complaint=complaint,
        )
        change = self._condition.update(facts, now)
        self._out += [] if change is None else [change]


def _wish(absent: Sequence[str]) -> str:
    return f"init.waiting:{absent[0]}" if absent else ""
