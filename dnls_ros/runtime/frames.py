"""The frames of measurements: in which frame a pose is, and where on the body its sensor sits.

The estimator knows one parent frame and one body per track. What arrives in other frames is
brought there by tf at its own stamp, or waits for it, at most ``tf.timeout``:

(a) A pose in a frame that is not the track's ``parent_frame`` is carried into it. Its covariance
    stays: it is that of a right perturbation, in the axes of the body, which a transform from the
    left does not touch. Axes and sigmas are then those of the parent frame.
(b) The mount (body_T_sensor) is ``extrinsic`` where that is given; else tf's, from the track's
    ``child_frame`` to the sensor's frame: ``target_frame``, or an odometry's ``child_frame_id``,
    for poses, ``header.frame_id`` for the rest. It may move (a camera on a pan-tilt head); of a
    twist it must not, since the motion of the mount itself is not subtracted.
    A sensor of touch sits on the pusher of its track: its mount is that on the pusher's frame.
(c) ``frame_override`` stands for ``header.frame_id``, whatever the message says.
(d) The frame of a differential sensor drifts and has no part in anything: it is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dnls_ros.runtime.transforms import Found, Impossible, TransformSource, bare
from dnls_ros.window.config import TOUCH_TYPES, EstimatorConfig, SensorConfig, TrackConfig
from dnls_ros.window.content import check_content
from dnls_ros.window.ingress import LATEST_STAMP
from dnls_ros.window.measurements import (
    Measurement,
    OdometryMeasurement,
    PoseMeasurement,
    Reason,
    Rejection,
    RelativePoseMeasurement,
    TwistMeasurement,
)
from dnls_ros.window.parameter_checks import LARGEST_TILT
from dnls_ros.window.rigid import compose, inverse, rotation_matrix

Array = NDArray[np.float64]

MOST_PARKED = 1000
"""Per sensor: measurements that wait for tf; the next one is QUEUE_FULL."""


@dataclass(frozen=True)
class Wait:
    """A transform that may still come is missing; if it does not, ``reason`` and ``text``."""

    reason: Reason
    text: str


@dataclass(frozen=True, eq=False)
class _Mount:
    """Where a sensor sits, body_T_sensor (7,), or None where the configuration says it."""

    pose: Array | None
    static: bool = True


class FrameResolver:
    """Brings one measurement into the frames of its track.

    Args:
        config: Tracks and sensors.
        source: Who knows the transforms.
    """

    def __init__(self, config: EstimatorConfig, source: TransformSource) -> None:
        self._source = source
        self.reconfigure(config)

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over a configuration of the same sensors and tracks."""
        self._sensors = {s.name: s for s in config.sensors}
        self._tracks = {t.name: t for t in config.tracks}

    def resolve(self, m: Measurement) -> Measurement | Wait | Rejection:
        """The measurement in the frames of its track; a wait; or why it never can be.

        What the estimator's door refuses anyway (no stamp, no frame, numbers that are none) is
        returned as it is, so that it is refused there, under its own reason.
        """
        sensor = self._sensors[m.sensor]
        stamp = m.stamp + round(sensor.stamp_offset * 1e9)
        frame = sensor.frame_override or m.frame
        if not sensor.enabled or not frame or not 0 < stamp <= LATEST_STAMP:
            return m
        track = self._tracks[sensor.track]
        if isinstance(m, PoseMeasurement) and not sensor.differential:
            carried = self.into_parent(m, track, frame, stamp)
            if not isinstance(carried, PoseMeasurement):
                return carried
            m = carried
        if sensor.type in TOUCH_TYPES:
            track = self._tracks[track.pusher_track]
        mount = self._mount(sensor, track, m, frame, stamp)
        if not isinstance(mount, _Mount):
            return mount
        if mount.pose is None:
            return m
        if isinstance(m, RelativePoseMeasurement) and not mount.static:
            return self._between_mounts(m, track, frame, mount.pose)
        return replace(m, extrinsic=mount.pose)

    def into_parent(
        self, m: PoseMeasurement, track: TrackConfig, frame: str, stamp: int
    ) -> PoseMeasurement | Wait | Rejection:
        """A pose in ``frame``, carried into the track's parent frame at ``stamp`` [ns]."""
        parent = track.parent_frame
        if bare(frame) == bare(parent) or check_content(m) is not None:
            return m
        advice = f"sensor.{m.sensor}.frame_override: {parent}, if its poses are in '{parent}'"
        found = self._find(m, parent, frame, stamp, advice)
        if not isinstance(found, Found):
            return found
        return replace(m, pose=compose(found.pose, m.pose), frame=parent)

    def _mount(
        self, sensor: SensorConfig, track: TrackConfig, m: Measurement, frame: str, stamp: int
    ) -> _Mount | Wait | Rejection:
        if sensor.extrinsic:
            return _Mount(None)
        if isinstance(m, PoseMeasurement):
            given = m.child_frame if isinstance(m, OdometryMeasurement) else track.child_frame
            frame = sensor.target_frame or given
            if not frame:
                text = f"child_frame_id is empty; set sensor.{m.sensor}.target_frame or extrinsic"
                return Rejection(m.sensor, m.stamp, Reason.EMPTY_FRAME, text)
        if bare(frame) == bare(track.child_frame):
            return _Mount(None)
        found = self._find(m, track.child_frame, frame, stamp, f"sensor.{m.sensor}.extrinsic")
        if not isinstance(found, Found):
            return found
        if track.planar and _is_of_motion(sensor, m) and _tilt(found.pose) > LARGEST_TILT:
            text = (
                f"tf mounts '{frame}' tilted on '{track.child_frame}': on an se2 track the x y "
                "yaw of a sensor of motion must be the plane's; mount it level, or use se3"
            )
            return Rejection(m.sensor, m.stamp, Reason.MODEL_FAILED, text)
        return _Mount(found.pose, found.static)

    def _between_mounts(
        self, m: RelativePoseMeasurement, track: TrackConfig, frame: str, mount: Array
    ) -> Measurement | Wait | Rejection:
        """A motion whose sensor sat elsewhere on the body when it began.

        The body moved by E_i·z·E_j⁻¹; a model that knows E_j only is told of z' = E_j⁻¹·E_i·z.
        """
        if check_content(m) is not None:
            return m
        advice = f"sensor.{m.sensor}.extrinsic"
        before = self._find(m, track.child_frame, frame, m.stamp_from, advice)
        if not isinstance(before, Found):
            return before
        relative = compose(compose(inverse(mount), before.pose), m.relative)
        return replace(m, relative=relative, extrinsic=mount)

    def _find(
        self, m: Measurement, target: str, source: str, stamp: int, advice: str
    ) -> Found | Wait | Rejection:
        found = self._source.lookup(target, source, stamp)
        if isinstance(found, Found):
            return found
        text = (
            f"no transform from '{bare(source)}' to '{bare(target)}': {found.text}; publish it on "
            f"tf, or set {advice}"
        )
        if isinstance(found, Impossible):
            return Rejection(m.sensor, m.stamp, Reason.TF_TIMEOUT, text)
        return Wait(Reason.TF_TIMEOUT if found.known else Reason.UNKNOWN_FRAME, text)


@dataclass(frozen=True, eq=False)
class _Parked:
    measurement: Measurement
    deadline: int


class FrameGate:
    """Lets measurements pass whose frames are resolved and keeps the others for a while.

    The caller accounts for what is kept as received and waiting.

    Args:
        config: Tracks, sensors and ``tf.timeout``.
        source: Who knows the transforms.
    """

    def __init__(self, config: EstimatorConfig, source: TransformSource) -> None:
        self._source = source
        self._resolver = FrameResolver(config, source)
        self._parked: list[_Parked] = []
        self._waiting = {s.name: 0 for s in config.sensors}
        self._tried = source.revision
        self._data_time = 0
        self.reconfigure(config)

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over a configuration of the same sensors and tracks."""
        self._resolver.reconfigure(config)
        self._timeout = round(config.tf.timeout * 1e9)
        self._future = round(config.time.stamp_future_limit * 1e9)

    @property
    def resolver(self) -> FrameResolver:
        """What resolves a single measurement."""
        return self._resolver

    @property
    def waiting(self) -> Mapping[str, int]:
        """Sensor → measurements kept here."""
        return self._waiting

    def take(self, m: Measurement, clock: int | None) -> Measurement | Rejection | None:
        """The resolved measurement, or why it is refused; None: kept, see `release`.

        Args:
            m: As it arrived.
            clock: The clock at its arrival [ns]; None: data time stands in.
        """
        if clock is not None and m.stamp > clock + self._future:
            return m  # the door refuses it; here it would wait for a time that is not to come
        now = self._now(clock, m)
        resolved = self._resolver.resolve(m)
        if not isinstance(resolved, Wait):
            return resolved
        if self._timeout == 0:
            return _refused(m, resolved, "tf.timeout is 0 s")
        if self._waiting[m.sensor] >= MOST_PARKED:
            text = f"{MOST_PARKED} measurements wait for tf already; {resolved.text}"
            return Rejection(m.sensor, m.stamp, Reason.QUEUE_FULL, text)
        self._parked.append(_Parked(m, now + self._timeout))
        self._waiting[m.sensor] += 1
        return None

    def release(self, clock: int | None) -> list[Measurement | Rejection]:
        """What can go now: transforms came, or patience ended; in order of arrival."""
        if not self._parked:
            return []
        now = self._now(clock, None)
        changed = self._source.revision != self._tried
        if not changed and all(now < kept.deadline for kept in self._parked):
            return []
        self._tried = self._source.revision
        return self._sort_out(now, f"waited {self._timeout * 1e-9:g} s")

    def finish(self) -> list[Measurement | Rejection]:
        """The end of a recording: nothing more will come."""
        return self._sort_out(LATEST_STAMP * 2, "the recording ended")

    def clear(self, reason: Reason, text: str) -> list[Rejection]:
        """Refuses all that is kept, and forgets data time."""
        kept, self._parked = self._parked, []
        self._waiting = dict.fromkeys(self._waiting, 0)
        self._data_time = 0
        return [Rejection(k.measurement.sensor, k.measurement.stamp, reason, text) for k in kept]

    def _sort_out(self, now: int, why: str) -> list[Measurement | Rejection]:
        out: list[Measurement | Rejection] = []
        kept: list[_Parked] = []
        for one in self._parked:
            m = one.measurement
            resolved = self._resolver.resolve(m)
            if isinstance(resolved, Wait) and now < one.deadline:
                kept.append(one)
                continue
            self._waiting[m.sensor] -= 1
            out.append(_refused(m, resolved, why) if isinstance(resolved, Wait) else resolved)
        self._parked = kept
        return out

    def _now(self, clock: int | None, m: Measurement | None) -> int:
        if m is not None and m.stamp <= LATEST_STAMP:
            self._data_time = max(self._data_time, m.stamp)
        return self._data_time if clock is None else clock


def _refused(m: Measurement, wait: Wait, why: str) -> Rejection:
    return Rejection(m.sensor, m.stamp, wait.reason, f"{wait.text} ({why})")


def _is_of_motion(sensor: SensorConfig, m: Measurement) -> bool:
    """Whether the axes of the sensor's noise are its own, not those of the world."""
    return sensor.differential or isinstance(m, TwistMeasurement | RelativePoseMeasurement)


def _tilt(pose: Array) -> float:
    """Sine of the angle between the z axes of a sensor and its body."""
    return float(np.hypot(*rotation_matrix(pose)[:2, 2]))
