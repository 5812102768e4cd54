"""Reading one field of a foreign message, or saying in a sentence why it cannot be read.

The adapters in ``dnls_ros.io.messages`` read messages from anywhere: rosbags' dataclasses, rclpy's
classes, test doubles. A field may be missing, of another type, of another length or not finite.
The readers below turn it into what we compute with or raise ``FieldError``, which the adapters
turn into a counted rejection.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnls_ros.io.convert import (
    covariance_from_ros,
    is_rotation,
    pose_from_fields,
    rotation_matrix,
    stamp_to_ns,
    twist_from_fields,
)
from dnls_ros.window.measurements import Reason

Array = NDArray[np.float64]

_LATEST_STAMP = 2**63


class FieldError(Exception):
    """A field that cannot be read, with the reason to count it under."""

    def __init__(self, text: str, reason: Reason = Reason.BAD_SHAPE) -> None:
        """Keep the sentence and the reason."""
        super().__init__(text)
        self.reason = reason


def stamp(time: Any, name: str = "header.stamp") -> int:
    """Read a builtin_interfaces/Time as nanoseconds."""
    seconds, nanoseconds = integer(time.sec, name), integer(time.nanosec, name)
    total = stamp_to_ns(seconds, nanoseconds)
    if not (0 <= nanoseconds < 10**9 and abs(total) < _LATEST_STAMP):
        raise FieldError(f"{name} is out of range: sec {seconds:.3g}, nanosec {nanoseconds:.3g}")
    return total


def integer(value: Any, name: str) -> int:
    """Read a whole number."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise FieldError(f"{name} should be a whole number, got {value!r:.60}")
    return int(value)


def text(value: Any, name: str) -> str:
    """Read a string."""
    if not isinstance(value, str):
        raise FieldError(f"{name} should be text, got {value!r:.60}")
    return value


def numbers(values: Any, name: str, count: int | None = None) -> Array:
    """Read a flat array of ``count`` (None: any number of) real numbers, finite or not."""
    array = np.asarray(values)
    if array.size == 0 and array.ndim == 1:
        array = array.astype(np.float64)
    if array.dtype.kind not in "fiu" or array.ndim != 1:
        raise FieldError(f"{name} should be a flat list of numbers, got {values!r:.60}")
    if count is not None and len(array) != count:
        raise FieldError(f"{name} should have {count} numbers, got {len(array)}")
    return array.astype(np.float64)


def finite(array: Array, name: str) -> Array:
    """Pass an array on if all of it is finite."""
    if not np.isfinite(array).all():
        bad = int(np.size(array) - np.isfinite(array).sum())
        raise FieldError(f"{name} has {bad} values that are not finite", Reason.NOT_FINITE)
    return array


def number(value: Any, name: str) -> float:
    """Read one finite real number."""
    return float(finite(numbers([value], name, 1), name)[0])


def pose(message: Any, name: str) -> Array:
    """Read a finite pose (7,) whose quaternion names a rotation (its length is judged later)."""
    result = finite(pose_from_fields(message), name)
    if not is_rotation(result[3:]):
        raise FieldError(f"{name} has a quaternion of length zero", Reason.BAD_QUATERNION)
    return result


def twist(message: Any, name: str) -> Array:
    """Read a finite twist (6,)."""
    return finite(twist_from_fields(message), name)


def covariance(values: Any, name: str) -> Array | None:
    """Read a covariance as (6, 6) in ROS's axes; None where marked as absent by −1."""
    matrix = numbers(values, name, 36).reshape(6, 6)
    return None if matrix[0, 0] == -1.0 else matrix


def vector(message: Any, name: str) -> Array:
    """Read a geometry_msgs/Vector3 as (3,), finite or not."""
    return numbers([message.x, message.y, message.z], name, 3)


def vector_with_covariance(message: Any, name: str) -> tuple[Array | None, Array | None]:
    """Read a finite vector (3,) and its covariance (3, 3); None twice where marked by −1."""
    matrix = numbers(getattr(message, f"{name}_covariance"), f"{name}_covariance", 9)
    if matrix[0] == -1.0:
        return None, None
    return finite(vector(getattr(message, name), name), name), matrix.reshape(3, 3)


def orientation(message: Any) -> tuple[Array | None, Array | None]:
    """Read the orientation of a sensor_msgs/Imu: quaternion (4,) and covariance (3, 3), or None.

    The covariance is turned from the world's axes to the sensor's. A quaternion of zeros was never
    set: many drivers leave it so instead of marking the covariance.
    """
    q = message.orientation
    matrix = numbers(message.orientation_covariance, "orientation_covariance", 9)
    quaternion = numbers([q.x, q.y, q.z, q.w], "orientation", 4)
    if matrix[0] == -1.0 or not quaternion.any():
        return None, None
    if not is_rotation(finite(quaternion, "orientation")):
        raise FieldError("orientation has a length of zero", Reason.BAD_QUATERNION)
    turn = rotation_matrix(quaternion)
    return quaternion, turn.T @ matrix.reshape(3, 3) @ turn


def pose_with_covariance(message: Any, name: str) -> tuple[Array, Array | None]:
    """Read a geometry_msgs/PoseWithCovariance: pose (7,), tangent covariance or None."""
    value = pose(message.pose, f"{name}.pose")
    matrix = covariance(message.covariance, f"{name}.covariance")
    return value, None if matrix is None else covariance_from_ros(matrix, value)
