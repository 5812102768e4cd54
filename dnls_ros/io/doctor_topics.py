"""What the doctor keeps of one topic: 16 bytes a message, counters, and nothing else.

Turn rates, which tell how sensors are shifted in time, take another 16 bytes a message of the
topics that have them.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dnls_ros.io.convert import stamp_to_ns
from dnls_ros.io.doctor_time import NO_STAMP, Array, Stamps
from dnls_ros.io.doctor_values import ValueLog
from dnls_ros.io.messages import adapt, find_adapter, types_for
from dnls_ros.window.measurements import Rejection

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
IMU = "sensor_msgs/msg/Imu"
TF_TYPES = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
LIST_TYPES = (*types_for("landmarks"), *types_for("range_bearing"))
"""Types whose numbers are in lists; whether they can be read, their adapter says."""
MOST_NAMES = 20
"""Distinct frame names that are kept per topic."""
_HEIGHT, _TILT = 0.05, 0.02
"""Poses within these of the plane [m, half an angle in rad] are those of a body on it."""


@dataclass(frozen=True)
class HeaderOnly:
    """Stands in for a large message of which only the beginning was read."""

    header: Any
    width: int | None = None
    height: int | None = None
    encoding: str = ""


@dataclass(frozen=True)
class Offer:
    """One publisher's QoS as far as it matters for who hears it."""

    reliable: bool
    transient_local: bool
    depth: int = 0

    def __str__(self) -> str:
        """In words, as `ros2 topic info -v` has them."""
        kept = "transient local" if self.transient_local else "volatile"
        return f"{'reliable' if self.reliable else 'best effort'}, {kept}"


@dataclass(eq=False)
class TopicLog:
    """Everything kept of one topic; ``expected`` messages are promised by the index."""

    name: str
    types: Counter[str] = field(default_factory=Counter)
    offers: list[Offer] = field(default_factory=list)
    expected: int | None = None
    undefined: bool = False
    count: int = 0
    size: int = 0
    receive: array[int] = field(default_factory=lambda: array("q"))
    stamps: array[int] = field(default_factory=lambda: array("q"))
    frames: Counter[str] = field(default_factory=Counter)
    child_frames: Counter[str] = field(default_factory=Counter)
    values: ValueLog = field(default_factory=ValueLog)
    images: Counter[tuple[int | None, int | None, str]] = field(default_factory=Counter)
    calibrations: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    refused: int = 0
    refusal: str = ""
    failures: int = 0
    failure: str = ""
    turns: TurnLog = field(default_factory=lambda: TurnLog())
    flat: bool = True

    @property
    def type(self) -> str:
        """The type that most messages have."""
        return self.types.most_common(1)[0][0] if self.types else ""

    @property
    def measures(self) -> bool:
        """Whether the estimator can read this type."""
        return any(name == IMU or find_adapter(name) is not None for name in self.types)

    @property
    def is_static_tf(self) -> bool:
        """Whether it carries static transforms."""
        return self.name.split("/")[-1] == "tf_static"

    @property
    def is_tf(self) -> bool:
        """Whether it carries transforms."""
        return any(name in TF_TYPES for name in self.types)

    def header_stamps(self) -> tuple[Stamps, Stamps]:
        """Header stamps and receive stamps of the messages that have a header."""
        stamps, receive = np.array(self.stamps, np.int64), np.array(self.receive, np.int64)
        has = stamps != NO_STAMP
        return stamps[has], receive[has]

    def add(self, type_name: str, message: Any, receive_stamp: int, size: int) -> None:
        """Takes one message; ``message`` None means that it could not be decoded."""
        self.count += 1
        self.size += size
        if not self.types or type_name not in self.types:
            self.types[type_name] += 0
        self.types[type_name] += 1
        self.receive.append(receive_stamp)
        header = getattr(message, "header", None)
        stamp = NO_STAMP
        if header is not None:
            stamp = stamp_to_ns(header.stamp.sec, header.stamp.nanosec)
            _tally(self.frames, header.frame_id)
        self.stamps.append(stamp)
        if message is not None:
            self._content(type_name, message, stamp)

    def fail(self, type_name: str, receive_stamp: int, size: int, text: str) -> None:
        """Takes a message that could not be decoded."""
        self.add(type_name, None, receive_stamp, size)
        self.failures += 1
        self.failure = self.failure or text

    def _content(self, type_name: str, message: Any, stamp: int) -> None:
        if type_name in IMAGE_TYPES:
            width, height = getattr(message, "width", None), getattr(message, "height", None)
            code = getattr(message, "encoding", "") or getattr(message, "format", "")
            self.images[width, height, code] += 1
            return
        if isinstance(message, HeaderOnly):
            return
        if hasattr(message, "child_frame_id"):
            _tally(self.child_frames, message.child_frame_id)
        if type_name == CAMERA_INFO:
            k = getattr(message, "k", None)
            k = message.K if k is None else k  # ROS 1 spells it in capitals
            numbers = (message.width, message.height, *np.asarray(k, float).tolist())
            if len(self.calibrations) < MOST_NAMES or numbers in self.calibrations:
                self.calibrations[numbers] += 1
            return
        self.values.add(message)
        if type_name in LIST_TYPES:
            read = adapt(self.name, type_name, message, self.count)
            if isinstance(read, Rejection):
                self.refused += 1
                self.refusal = self.refusal or read.text
            return
        pose = _pose_of(message)
        if pose is not None:
            position, turn = pose
            tilt = max(abs(turn.x), abs(turn.y))
            self.flat &= abs(position.z) < _HEIGHT and tilt < _TILT
        self.turns.add(type_name, message, stamp, None if pose is None else pose[1])


@dataclass(eq=False)
class TurnLog:
    """Turn rates ‖ω‖ [rad/s] of a topic, for finding out how it is shifted in time."""

    stamps: array[int] = field(default_factory=lambda: array("q"))
    rates: array[float] = field(default_factory=lambda: array("d"))
    _last: tuple[int, Any] | None = None

    def add(self, type_name: str, message: Any, stamp: int, turn: Any) -> None:
        """Takes the rate that a message states, or that follows from two orientations."""
        if type_name == IMU:
            omega = message.angular_velocity
        elif hasattr(getattr(message, "twist", None), "twist"):
            omega = message.twist.twist.angular
        else:
            if turn is not None and stamp > 0:
                self._from_orientation(turn, stamp)
            return
        self.note(stamp, math.sqrt(omega.x**2 + omega.y**2 + omega.z**2))

    def note(self, stamp: int, rate: float) -> None:
        """Keeps a finite rate at a later stamp than the last."""
        if math.isfinite(rate) and stamp > 0 and (not self.stamps or stamp > self.stamps[-1]):
            self.stamps.append(stamp)
            self.rates.append(rate)

    def arrays(self) -> tuple[Stamps, Array]:
        """Stamps [ns] and rates [rad/s]."""
        return np.array(self.stamps, np.int64), np.array(self.rates)

    def _from_orientation(self, q: Any, stamp: int) -> None:
        if self._last is not None and stamp > self._last[0]:
            before, p = self._last
            dot = min(1.0, abs(q.x * p.x + q.y * p.y + q.z * p.z + q.w * p.w))
            self.note((stamp + before) // 2, 2.0 * math.acos(dot) / ((stamp - before) / 1e9))
        self._last = (stamp, q)


def _pose_of(message: Any) -> tuple[Any, Any] | None:
    """Position and quaternion of a message with one pose or transform."""
    pose: Any = getattr(message, "pose", None)
    pose = getattr(pose, "pose", pose)
    if hasattr(pose, "orientation"):
        return (pose.position, pose.orientation)  # pyright: ignore[reportOptionalMemberAccess]
    transform: Any = getattr(message, "transform", None)
    if hasattr(transform, "rotation"):
        return (transform.translation, transform.rotation)  # pyright: ignore[reportOptionalMemberAccess]
    return None


def _tally(names: Counter[str], name: str) -> None:
    """Counts a name; after the first few new ones count under '…'."""
    names[name if name in names or len(names) < MOST_NAMES else "…"] += 1
