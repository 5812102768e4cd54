"""A session fed as the node feeds it, by a simulated robot on which something goes wrong.

A scenario is a list of parts: records in order of arrival and the true poses by stamp. What
follows after a jump of time, or at another place, is a part of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dnls_ros.io.bag import Record
from dnls_ros.io.compose import Composer
from dnls_ros.io.convert import pose_from_fields
from dnls_ros.io.definitions import message_class
from dnls_ros.io.faults import FaultInjector, parse_fault
from dnls_ros.io.feeds import Silence, feeds_of
from dnls_ros.io.scene import load_scene
from dnls_ros.io.sim_messages import recording_records
from dnls_ros.io.simulate import Recording, simulate
from dnls_ros.io.spoil import shift_stamp
from dnls_ros.runtime.session import Session
from dnls_ros.runtime.transforms import Transforms
from dnls_ros.runtime.types import EstimatorState, Event, Status
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.ingress import Settled
from dnls_ros.window.measurements import CameraIntrinsics, Reason
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.results import StepResult
from dnls_ros.window.rigid import compose, inverse

CONFIG = Path(__file__).resolve().parents[1] / "config" / "localization_2d.yaml"
TOPICS = {"odometry": "odom", "tags": "camera/tag_detections", "absolute": "gps_pose"}


@lru_cache
def recorded(seed: int, duration: float) -> Recording:
    return simulate(seed, duration, load_scene())


@dataclass(frozen=True, eq=False)
class Part:
    """Records in order of arrival, and the true (x, y, yaw) by header stamp [ns]."""

    records: Sequence[Record]
    truth: Mapping[int, np.ndarray]

    @property
    def start(self) -> int:
        return self.records[0].receive_stamp

    @property
    def end(self) -> int:
        return self.records[-1].receive_stamp

    def between(self, begin: float, end: float) -> Part:
        """The part of it received in [begin, end) seconds after its start."""
        first = self.start + round(begin * 1e9)
        last = self.start + round(end * 1e9)
        return Part([r for r in self.records if first <= r.receive_stamp < last], self.truth)

    def moved(self, seconds: float) -> Part:
        """Stamps and clock moved together."""
        by = round(seconds * 1e9)
        moved = [
            replace(r, receive_stamp=r.receive_stamp + by, message=shift_stamp(r.message, by))
            for r in self.records
        ]
        return Part(moved, {stamp + by: pose for stamp, pose in self.truth.items()})

    def odometry_after(self, other: Part) -> Part:
        """With odometry that goes on where that of ``other`` ended: nobody told the wheels."""
        last = [r.message.pose.pose for r in other.records if r.topic == "odom"][-1]
        first = next(r.message.pose.pose for r in self.records if r.topic == "odom")
        carry = compose(pose_from_fields(last), inverse(pose_from_fields(first)))
        records = [
            replace(r, message=_carried(r.message, carry)) if r.topic == "odom" else r
            for r in self.records
        ]
        return Part(records, self.truth)

    def spoiled(self, *faults: str) -> Part:
        """With faults; sensors may be named."""
        injector = FaultInjector([parse_fault(text) for text in faults], names=targets())
        return Part(list(injector.apply(self.records)), self.truth)


def _carried(message: Any, by: np.ndarray) -> Any:
    """An odometry message in a frame that was moved."""
    pose = Composer(message_class).pose(compose(by, pose_from_fields(message.pose.pose)))
    return replace(message, pose=replace(message.pose, pose=pose))


def targets() -> dict[str, str]:
    topics = {"camera/camera_info": "camera/camera_info", "ground_truth": "ground_truth"}
    topics |= {topic: topic for topic in (*TOPICS.values(), "imu", "tf", "tf_static")}
    return {**TOPICS, **topics}


def part(seed: int = 0, duration: float = 12.0) -> Part:
    recording = recorded(seed, duration)
    truth = dict(zip(recording.truth_stamps.tolist(), recording.truth, strict=True))
    return Part(recording_records(recording), truth)


def configured(**changes: Any) -> EstimatorConfig:
    """The demo's configuration with some parameters changed (``__`` for the dots)."""
    from dnls_ros.window.parameter_file import flatten, read_file, ros_parameters

    given = flatten(ros_parameters(read_file(CONFIG), "dnls_estimator"))
    given |= {"deterministic": True}
    given |= {name.replace("__", "."): value for name, value in changes.items()}
    return load_parameters(given, base=CONFIG.parent)


@dataclass(frozen=True)
class Estimate:
    """One accepted step: the clock, the part it belongs to, the newest state and its error."""

    clock: int
    part: int
    stamp: int
    error: float
    state: EstimatorState


@dataclass
class Story:
    """What a session said while it was driven."""

    session: Session
    estimates: list[Estimate] = field(default_factory=list[Estimate])
    events: list[Event] = field(default_factory=list[Event])
    settled: list[Settled] = field(default_factory=list[Settled])
    states: list[tuple[int, EstimatorState]] = field(
        default_factory=list[tuple[int, EstimatorState]]
    )
    starts: list[int] = field(default_factory=list[int])

    @property
    def status(self) -> Status:
        return self.session.status()

    @property
    def reasons(self) -> Counter[Reason]:
        found = Counter[Reason]()
        for sensor in self.status.sensors:
            found.update(sensor.rejected)
        return found

    @property
    def codes(self) -> Counter[str]:
        return Counter(event.code for event in self.events)

    def seen(self) -> set[EstimatorState]:
        return {state for _, state in self.states}

    def good_again(self, after: int, part: int | None = None, limit: float = 0.1) -> float:
        """Seconds of the clock from ``after`` to the first good estimate while TRACKING."""
        for one in self.estimates:
            late = one.clock >= after and (part is None or one.part == part)
            if late and one.state is EstimatorState.TRACKING and one.error < limit:
                return (one.clock - after) * 1e-9
        return float("inf")

    def rmse(self, after: int = 0, part: int | None = None) -> float:
        """Of the estimates that left [m]."""
        errors = [
            e.error
            for e in self.estimates
            if e.clock >= after and (part is None or e.part == part) and e.state.publishes
        ]
        return float(np.sqrt(np.mean(np.square(errors)))) if errors else float("nan")

    def worst(self, after: int = 0) -> float:
        """The largest error that left [m]."""
        return max(
            (e.error for e in self.estimates if e.clock >= after and e.state.publishes),
            default=float("nan"),
        )


def drive(config: EstimatorConfig, parts: Sequence[Part], session: Session | None = None) -> Story:
    """Feeds the parts one after the other; checks what must hold at every moment."""
    story = Story(session or Session(config))
    for number, one in enumerate(parts):
        story.starts.append(one.start)
        _play(story, one, number)
    story.session.finish()
    _collect(story, parts[-1], len(parts) - 1, parts[-1].end)
    for sensor in story.status.sensors:
        assert sensor.balanced, sensor
    return story


def _play(story: Story, one: Part, number: int) -> None:
    for clock, item, sensor in _timeline(one, story.session.config):
        if item is None:
            story.session.advance(clock)
        elif isinstance(item, CameraIntrinsics):
            story.session.set_intrinsics(sensor, item)
        elif isinstance(item, Transforms):
            story.session.add_transforms(item.transforms, item.static)
        else:
            story.session.receive(item, clock)
        _collect(story, one, number, clock)


def _timeline(one: Part, config: EstimatorConfig) -> Iterator[tuple[int, Any, str]]:
    """Items with the clock at which they come, and moments at which nothing comes."""
    silence = Silence()
    for feed in feeds_of(one.records, config):
        yield from ((clock, None, "") for clock in silence.until(feed.clock))
        yield feed.clock, feed.item, feed.sensor


def _collect(story: Story, one: Part, number: int, clock: int) -> None:
    outputs = story.session.take()
    state = story.session.status().state
    if not story.states or story.states[-1][1] is not state:
        story.states.append((clock, state))
    for output in outputs:
        if isinstance(output, Event):
            story.events.append(output)
        elif isinstance(output, Settled):
            story.settled.append(output)
        elif isinstance(output, StepResult) and output.accepted:
            story.estimates += _estimates(output, one, number, clock, state)


def _estimates(
    result: StepResult, one: Part, number: int, clock: int, state: EstimatorState
) -> Iterable[Estimate]:
    for track in result.tracks.values():
        stamp, pose = int(track.stamps[-1]), track.poses[-1]
        assert np.isfinite(pose).all()
        assert np.isfinite(track.covariance).all()
        assert (np.diag(track.covariance)[[0, 1, 5]] > 0).all()
        true = one.truth.get(stamp)
        error = float("nan") if true is None else float(np.hypot(*(pose[:2] - true[:2])))
        yield Estimate(clock, number, stamp, error, state)
