"""Recordings of pushes to training data: what the estimator's sensors said, and the truth.

The estimator's own configuration says which topic is what, where sensors sit, what counts as
contact, and which object is pushed; messages pass through the same adapters as in the node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.bag import BagReader
from dnls_ros.io.feeds import Feed, ReplayOptions, read_feed
from dnls_ros.io.messages import adapt
from dnls_ros.io.metrics import yaw_of
from dnls_ros.io.push_recording import OBJECT_FILE
from dnls_ros.io.sim_motion import Stamps
from dnls_ros.io.tactile_json import TactileTrajectory
from dnls_ros.io.trajectory import Trajectory, stamp_text
from dnls_ros.window.bodies import mount_of
from dnls_ros.window.config import (
    POSE_TYPES,
    QUASI_STATIC,
    EstimatorConfig,
    SensorConfig,
    TrackConfig,
)
from dnls_ros.window.measurements import (
    Measurement,
    PoseMeasurement,
    Rejection,
    TactileFrame,
    WrenchMeasurement,
)
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.rigid import compose, inverse
from dnls_ros.window.tactile_frontend import FrontEndOptions, TactileFrontEnd
from dnls_ros.window.wrench import WrenchContacts, at_finger

Array = NDArray[np.float64]
M = TypeVar("M", bound=Measurement)


@dataclass(frozen=True)
class PushSensors:
    """What a configuration has of a push.

    Attributes:
        object: The pushed track.
        ee: Says where the finger is.
        image: The tactile sensor; None: there is none.
        wrench: The force sensor; None: there is none.
    """

    object: TrackConfig
    ee: SensorConfig
    image: SensorConfig | None
    wrench: SensorConfig | None

    @property
    def tip_radius(self) -> float:
        """Of a round fingertip [m]."""
        sensor = self.image or self.wrench
        return 0.0 if sensor is None else sensor.contact.radius


def push_sensors(config: EstimatorConfig) -> PushSensors:
    """The sensors of a push.

    Raises:
        DnlsError: There is no pushed track, nothing says where its pusher is, no image and no
            force, or the object's shape is a file.
    """
    pushed = [t for t in config.tracks if t.motion == QUASI_STATIC and t.pusher_track]
    if len(pushed) != 1:
        raise DnlsError(
            f"dataset: {len(pushed)} tracks move by {QUASI_STATIC} with a pusher_track; expected "
            "one"
        )
    track = pushed[0]
    if track.shape.type == "sdf":
        raise DnlsError(
            "dataset: the object's shape is a file; expected disc, rect, ellipse or polygon"
        )

    def first(types: Sequence[str], name: str) -> SensorConfig | None:
        return next((s for s in config.sensors if s.type in types and s.track == name), None)

    ee = first(POSE_TYPES, track.pusher_track)
    image, wrench = (first([t], track.name) for t in ("tactile_image", "wrench_contact"))
    if ee is None or (image is None and wrench is None):
        lacking = f"pose of '{track.pusher_track}'" if ee is None else "tactile_image or wrench"
        raise DnlsError(f"dataset: the configuration has no sensor for the {lacking}")
    return PushSensors(track, ee, image, wrench)


def read_pushes(
    bags: Sequence[Path],
    params: Sequence[Path],
    truth: str,
    object_file: str = OBJECT_FILE,
    rate: float = 30.0,
    on_progress: Callable[[float], object] = lambda share: None,
) -> list[TactileTrajectory]:
    """Several recordings of the same sensors.

    Args:
        bags: Recordings, or folders with one named ``bag``.
        params: Parameter files of the estimator that listens to their topics.
        truth: See `read_push`.
        object_file: Parameter file beside each recording that says which object it is; laid over
            the others where it is there.
        rate: See `read_push`.
        on_progress: Told the share done.

    Raises:
        UnreadableInputError: See `read_push`; or recordings differ in what they hold.
        DnlsError: See `read_push`.
    """
    pushes: list[TactileTrajectory] = []
    for k, given in enumerate(bags):
        bag = given / "bag" if (given / "bag").exists() else given
        beside = bag.parent / object_file
        files = [*params, *([beside] if beside.is_file() else [])]
        pushes.append(read_push(bag, load_parameters(files), truth, rate))
        on_progress((k + 1) / len(bags))
    for what, kinds in (
        ("images", [None if t.images is None else t.images.shape[1:] for t in pushes]),
        ("forces", [t.wrench is not None for t in pushes]),
    ):
        odd = next((k for k, kind in enumerate(kinds) if kind != kinds[0]), None)
        if odd is not None:
            raise UnreadableInputError(
                f"dataset: {what} of {bags[odd]} ({kinds[odd]}) are not like those of {bags[0]} "
                f"({kinds[0]}): make one file for each sensor"
            )
    return pushes


def read_push(
    path: Path | str, config: EstimatorConfig, truth: str, rate: float = 30.0
) -> TactileTrajectory:
    """One recording.

    Args:
        path: The recording.
        config: Of the estimator that listens to its topics.
        truth: Topic of the object's true pose: PoseStamped, PoseWithCovarianceStamped,
            TransformStamped or Odometry.
        rate: Steps per second where there are no images, which are the steps otherwise [Hz].

    Raises:
        UnreadableInputError: The recording is damaged, a topic is missing or empty, an image
            cannot be used, or truth, finger and steps do not overlap in time.
        DnlsError: The configuration is not one of a push.
    """
    path, sensors = Path(path), push_sensors(config)
    feeds, absent = read_feed(path, config, ReplayOptions())
    used = [s for s in (sensors.ee, sensors.image, sensors.wrench) if s is not None]
    missing = [s.topic for s in used if s.topic in absent]
    if missing:
        with BagReader(path) as bag:
            has = ", ".join(bag.topics)
        raise UnreadableInputError(f"recording {path} has no topic {missing[0]}; it has {has}")
    object_ = read_truth(path, truth)
    ee = _finger(path, feeds, sensors.ee)
    frames = _said(path, feeds, sensors.image, TactileFrame)
    wrenches = _said(path, feeds, sensors.wrench, WrenchMeasurement)
    stamps = _steps(frames, wrenches, rate)
    kept = _common(path, stamps, object_, ee)
    wrench, touch = _forces(wrenches, stamps, sensors.wrench)
    images, seen = _seen(path, frames, sensors.image)
    touch = seen or touch
    assert touch is not None
    return TactileTrajectory(
        planar(object_.at(stamps[kept])),
        planar(ee.at(stamps[kept])),
        np.zeros((len(kept), 0)),
        touch.episode[kept],
        touch.contact[kept],
        (stamps[kept] - stamps[kept[0]]).astype(np.float64) * 1e-9,
        None if wrench is None else wrench[kept],
        None if images is None else images[kept],
        sensors.object.shape.type,
        tuple(sensors.object.shape.size),
        sensors.tip_radius,
    )


@dataclass(frozen=True, eq=False)
class _Touch:
    """(T,) whether it touches at each step, and in which contact."""

    contact: NDArray[np.bool_]
    episode: NDArray[np.int64]


def read_truth(path: Path | str, topic: str) -> Trajectory:
    """The poses that a topic says.

    Raises:
        UnreadableInputError: There is no such topic, or no pose in it.
    """
    with BagReader(path) as bag:
        names = {name.lstrip("/"): name for name in bag.topics}
        found = names.get(topic.lstrip("/"))
        if found is None:
            raise UnreadableInputError(
                f"recording {path} has no topic {topic}, which should say the object's true pose; "
                f"it has {', '.join(bag.topics)}"
            )
        said = [adapt("truth", r.type, r.message) for r in bag.records([found])]
    poses = {m.stamp: m.pose for m in said if isinstance(m, PoseMeasurement)}
    if not poses:
        why = next((m.text for m in said if isinstance(m, Rejection)), "it is empty")
        raise UnreadableInputError(f"recording {path}: no pose in topic {topic}: {why}")
    return _trajectory(poses)


def planar(poses: Array) -> Array:
    """(N, 3) x, y, yaw of poses (N, 7)."""
    return np.column_stack([poses[:, :2], yaw_of(poses)])


def _trajectory(poses: dict[int, Array]) -> Trajectory:
    stamps = np.array(sorted(poses), dtype=np.int64)
    return Trajectory(stamps, np.stack([poses[s] for s in stamps.tolist()]))


def _moved(stamp: int, sensor: SensorConfig) -> int:
    return stamp + round(sensor.stamp_offset * 1e9)


def _finger(path: Path, feeds: Sequence[Feed], sensor: SensorConfig) -> Trajectory:
    said = _said(path, feeds, sensor, PoseMeasurement)
    return _trajectory({s: compose(m.pose, inverse(mount_of(sensor, m))) for s, m in said})


def _said(
    path: Path, feeds: Sequence[Feed], sensor: SensorConfig | None, kind: type[M]
) -> list[tuple[int, M]]:
    """(stamp [ns], measurement) of one sensor in the order of time, each stamp once."""
    if sensor is None:
        return []
    found: dict[int, M] = {}
    for feed in feeds:
        if feed.sensor != sensor.name:
            continue
        if isinstance(feed.item, Rejection):
            raise UnreadableInputError(
                f"recording {path}, sensor '{sensor.name}': a message at "
                f"{stamp_text(feed.stamp)} cannot be used: {feed.item.reason.name}: "
                f"{feed.item.text}"
            )
        if isinstance(feed.item, kind):
            found.setdefault(_moved(feed.item.stamp, sensor), feed.item)
    if not found:
        raise UnreadableInputError(f"recording {path}: topic {sensor.topic} is empty")
    return sorted(found.items())


def _steps(
    frames: Sequence[tuple[int, object]], wrenches: Sequence[tuple[int, object]], rate: float
) -> Stamps:
    """(T,) of images, else at a rate while forces are measured [ns]."""
    if frames:
        return np.array([stamp for stamp, _ in frames], dtype=np.int64)
    return np.arange(wrenches[0][0], wrenches[-1][0] + 1, round(1e9 / rate), dtype=np.int64)


def _common(path: Path, stamps: Stamps, object_: Trajectory, ee: Trajectory) -> Stamps:
    """Which steps are within the truth and the finger's poses.

    Raises:
        UnreadableInputError: None is.
    """
    both = (object_, ee)
    inside = [(stamps >= t.stamps[0]) & (stamps <= t.stamps[-1]) for t in both]
    kept = np.flatnonzero(np.logical_and.reduce(inside))
    if len(kept):
        return kept
    named = (("truth", object_.stamps), ("finger", ee.stamps), ("steps", stamps))
    spans = ", ".join(
        f"{name} from {stamp_text(int(s[0]))} to {stamp_text(int(s[-1]))}" for name, s in named
    )
    raise UnreadableInputError(
        f"recording {path}: truth, finger and steps do not overlap in time: {spans}; check the "
        "clocks, or set stamp_offset"
    )


def _seen(
    path: Path, frames: Sequence[tuple[int, TactileFrame]], sensor: SensorConfig | None
) -> tuple[NDArray[np.uint8] | None, _Touch | None]:
    """Images (T, H, W, 3), and contact as the front end sees it."""
    if sensor is None:
        return None, None
    sizes = {frame.image.shape for _, frame in frames}
    if len(sizes) > 1:
        raise UnreadableInputError(
            f"recording {path}: images of topic {sensor.topic} have different sizes "
            f"{sorted(sizes)}; expected those of one sensor"
        )
    front = TactileFrontEnd(FrontEndOptions.of(sensor))
    seen = [front.see(stamp, frame.image) for stamp, frame in frames]
    touch = _Touch(np.array([s.in_contact for s in seen]), np.array([s.episode for s in seen]))
    return np.stack([frame.image for _, frame in frames]), touch


def _forces(
    wrenches: Sequence[tuple[int, WrenchMeasurement]],
    stamps: Stamps,
    sensor: SensorConfig | None,
) -> tuple[Array | None, _Touch | None]:
    """(T, 3) f_x, f_y, τ_z at the steps without bias, about the fingertip; and contact by them."""
    if sensor is None:
        return None, None
    known = WrenchContacts()
    for _, m in wrenches:
        known = known.heard(m, sensor)
    rows: list[Array] = []
    for _, m in wrenches:
        force, torque = at_finger(known.freed(m), mount_of(sensor, m))
        rows.append(np.array([force[0], force[1], torque[2]]))
    times = np.array([stamp for stamp, _ in wrenches], dtype=np.float64)
    columns = np.stack(rows).T
    at = [np.interp(stamps.astype(np.float64), times, column) for column in columns]
    contact = known.at(stamps)
    begun = np.diff(contact.astype(np.int64), prepend=0) > 0
    return np.column_stack(at), _Touch(contact, np.cumsum(begun, dtype=np.int64))
