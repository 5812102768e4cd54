"""Copies of messages with wrong content: stamps, frames, numbers, covariances, outliers.

Messages are dataclasses (those of ``rosbags``); what has nothing to spoil comes back as it is, the
very same object.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]


def shift_stamp(message: Any, nanoseconds: int) -> Any:
    """A copy whose header stamp, or those of its transforms, are moved; else it stays as it is."""
    transforms = getattr(message, "transforms", None)
    if transforms is not None:
        moved = [shift_stamp(one, nanoseconds) for one in transforms]
        return dataclasses.replace(message, transforms=moved)
    header = getattr(message, "header", None)
    if header is None:
        return message
    moved = max(0, header.stamp.sec * 10**9 + header.stamp.nanosec + nanoseconds)
    return with_header(message, stamp=moved)


def with_header(message: Any, *, stamp: int | None = None, frame: str | None = None) -> Any:
    """A copy with another stamp [ns] or frame; without a header it comes back as it is."""
    header = getattr(message, "header", None)
    if header is None:
        return message
    if stamp is not None:
        time = dataclasses.replace(header.stamp, sec=stamp // 10**9, nanosec=stamp % 10**9)
        header = dataclasses.replace(header, stamp=time)
    if frame is not None:
        header = dataclasses.replace(header, frame_id=frame)
    return dataclasses.replace(message, header=header)


def _negative(covariance: Array) -> Array:
    return -covariance - np.eye(len(covariance))


def _asymmetric(covariance: Array) -> Array:
    """A large entry above the diagonal only."""
    return covariance + np.triu(np.full_like(covariance, 1.0 + np.abs(covariance).max()), 1)


COVARIANCE_FAULTS: Mapping[str, Callable[[Array], Array]] = {
    "zero": np.zeros_like,
    "negative": _negative,
    "huge": lambda covariance: 1e12 * np.eye(len(covariance)),
    "asymmetric": _asymmetric,
    "nan": lambda covariance: np.full_like(covariance, np.nan),
}
"""What drivers write by mistake, on a square matrix."""


def with_covariances(value: Any, change: Callable[[Array], Array]) -> Any:
    """A copy with every covariance in it changed; fields are named ``…covariance``."""
    return _with_fields(value, lambda name: name.endswith("covariance"), partial(_square, change))


def _square(change: Callable[[Array], Array], flat: Any) -> Any:
    matrix = np.asarray(flat, dtype=np.float64)
    side = math.isqrt(matrix.size)
    return change(matrix.reshape(side, side)).reshape(matrix.shape)


def without_orientation(value: Any) -> Any:
    """A copy in which every quaternion is zero."""

    def zero(quaternion: Any) -> Any:
        return dataclasses.replace(quaternion, x=0.0, y=0.0, z=0.0, w=0.0)

    return _with_fields(value, lambda name: name in ("orientation", "rotation"), zero)


def _with_fields(value: Any, wanted: Callable[[str], bool], change: Callable[[Any], Any]) -> Any:
    """A copy with the fields of a wanted name changed, at any depth; lists are not entered."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    before = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    after = {
        name: change(item) if wanted(name) else _with_fields(item, wanted, change)
        for name, item in before.items()
    }
    same = _same(after.values(), before.values())
    return value if same else dataclasses.replace(value, **after)


def with_numbers(value: Any, change: Callable[[float], float], name: str = "") -> Any:
    """A copy with every floating-point number outside header and covariance changed."""
    if name in ("header", "covariance"):
        return value
    if isinstance(value, float):
        return change(value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        changed = [change(number) for number in value.ravel().tolist()]
        return np.array(changed, dtype=value.dtype).reshape(value.shape)
    if isinstance(value, list | np.ndarray) and len(value) and dataclasses.is_dataclass(value[0]):
        items = [with_numbers(item, change) for item in value]
        return value if _same(items, value) else items
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        before = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        after = {key: with_numbers(item, change, key) for key, item in before.items()}
        same = _same(after.values(), before.values())
        return value if same else dataclasses.replace(value, **after)
    return value


def _same(first: Iterable[Any], second: Iterable[Any]) -> bool:
    return all(one is other for one, other in zip(first, second, strict=True))


def with_outliers(message: Any, scale: float, random: np.random.Generator) -> Any:
    """A copy whose values are off by ``scale`` standard deviations, or pixels for corners."""
    if hasattr(message, "detections"):
        thrown = [_throw_tag(one, scale, random) for one in message.detections]
        return dataclasses.replace(message, detections=thrown) if thrown else message
    if hasattr(message, "sigma_range"):
        return _throw_ranges(message, scale, random)
    parts = {
        name: _throw(getattr(message, name), scale, random)
        for name in ("pose", "twist", "relative")
        if hasattr(getattr(message, name, None), "covariance")
    }
    return dataclasses.replace(message, **parts) if parts else message


def _throw_ranges(message: Any, scale: float, random: np.random.Generator) -> Any:
    ranges = random.normal(message.ranges, scale * message.sigma_range)
    bearings = random.normal(message.bearings, scale * message.sigma_bearing)
    return dataclasses.replace(message, ranges=ranges, bearings=bearings)


def _throw_tag(detection: Any, scale: float, random: np.random.Generator) -> Any:
    shift = random.normal(0.0, scale, (len(detection.corners), 2)).tolist()
    corners = [
        dataclasses.replace(corner, x=corner.x + dx, y=corner.y + dy)
        for corner, (dx, dy) in zip(detection.corners, shift, strict=True)
    ]
    return dataclasses.replace(detection, corners=corners)


def _throw(part: Any, scale: float, random: np.random.Generator) -> Any:
    """A pose or twist with covariance thrown off by ``scale`` standard deviations."""
    sigma = np.sqrt(np.maximum(np.asarray(part.covariance).reshape(6, 6).diagonal(), 0.0))
    noise = (scale * sigma * random.normal(size=6)).tolist()
    if hasattr(part, "twist"):
        twist = dataclasses.replace(
            part.twist,
            linear=_moved(part.twist.linear, noise[:3]),
            angular=_moved(part.twist.angular, noise[3:]),
        )
        return dataclasses.replace(part, twist=twist)
    pose = dataclasses.replace(
        part.pose,
        position=_moved(part.pose.position, noise[:3]),
        orientation=_turned(part.pose.orientation, noise[3:]),
    )
    return dataclasses.replace(part, pose=pose)


def _turned(quaternion: Any, by: Sequence[float]) -> Any:
    """A quaternion turned about the parent's axes; one that is no rotation stays as bad."""
    a, b, c, d = Rotation.from_rotvec(by).as_quat().tolist()
    x, y, z, w = quaternion.x, quaternion.y, quaternion.z, quaternion.w
    return dataclasses.replace(
        quaternion,
        x=d * x + a * w + b * z - c * y,
        y=d * y - a * z + b * w + c * x,
        z=d * z + a * y - b * x + c * w,
        w=d * w - a * x - b * y - c * z,
    )


def _moved(vector: Any, by: Sequence[float]) -> Any:
    return dataclasses.replace(vector, x=vector.x + by[0], y=vector.y + by[1], z=vector.z + by[2])
