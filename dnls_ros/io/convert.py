"""ROS covariances and pose fields to tangent and pose arrays, and back: nowhere else.

ROS gives the covariance of a pose in the axes of the *parent* frame (order x y z rotX rotY rotZ,
REP-103). Our tangent is the right perturbation ``T·Exp(v, ω)`` in the axes of the *body*. To first
order the translation moves by ``R v`` and the rotation about the parent axes is ``R ω``, so with
``B = blkdiag(R, R)``

    Σ_ros = B Σ_tangent Bᵀ.

Values pass as received: asymmetric or non-finite matrices stay so for whoever judges them. One
marker means the same in any axes and is kept apart: a first element of −1 says "no covariance"
(REP-145). All zeros, "unknown", stay zeros.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NANOSECONDS = 1_000_000_000
"""Nanoseconds in a second."""

PLANAR_AXES = np.array([0, 1, 5])
"""Rows of the SE(3) tangent that SE(2) has: x, y and the turn about z."""

SHORTEST_QUATERNION = 1e-9
"""Below this norm a quaternion names no rotation."""


def rotation_matrix(quaternion: Array) -> Array:
    """Return the matrices (…, 3, 3) of quaternions (…, 4), x y z w, of any non-zero length."""
    norm = np.linalg.norm(quaternion, axis=-1, keepdims=True)
    x, y, z, w = np.moveaxis(quaternion / norm, -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def covariance_from_ros(covariance: Array, pose: Array) -> Array:
    """Turn a ROS covariance into the tangent's axes.

    Args:
        covariance: (…, 6, 6) in the fixed axes of the pose's parent frame [m, rad].
        pose: (…, 7) the pose that it belongs to; any non-zero quaternion length.

    Returns:
        (…, 6, 6) covariance of ``(v, ω)`` in body axes.
    """
    turn = _block_rotation(pose)
    return _congruence(np.swapaxes(turn, -1, -2), covariance)


def covariance_to_ros(covariance: Array, pose: Array) -> Array:
    """Turn a tangent covariance (…, 6, 6) at ``pose`` (…, 7) into ROS's parent axes."""
    return _congruence(_block_rotation(pose), covariance)


def planar_covariance(covariance: Array) -> Array:
    """Select the SE(2) tangent covariance (…, 3, 3) of (x, y, yaw) from an SE(3) one (…, 6, 6)."""
    return covariance[..., PLANAR_AXES[:, None], PLANAR_AXES]


def spatial_covariance(covariance: Array, variance: float = 0.0) -> Array:
    """Place an SE(2) covariance (…, 3, 3) in an SE(3) one; z, roll, pitch get ``variance``."""
    result = np.zeros((*covariance.shape[:-2], 6, 6))
    result[..., [2, 3, 4], [2, 3, 4]] = variance
    result[..., PLANAR_AXES[:, None], PLANAR_AXES] = covariance
    return result


def stamp_to_ns(seconds: int, nanoseconds: int) -> int:
    """Return a ROS time as one number of nanoseconds."""
    return seconds * NANOSECONDS + nanoseconds


def ns_to_stamp(stamp: int) -> tuple[int, int]:
    """Split nanoseconds into ROS's (sec, nanosec) with 0 ≤ nanosec < 10⁹."""
    return divmod(stamp, NANOSECONDS)


def pose_from_fields(pose: Any) -> Array:
    """Read a geometry_msgs/Pose or geometry_msgs/Transform into (7,)."""
    position = pose.position if hasattr(pose, "position") else pose.translation
    orientation = pose.orientation if hasattr(pose, "orientation") else pose.rotation
    return _numbers(
        position.x, position.y, position.z,
        orientation.x, orientation.y, orientation.z, orientation.w,
    )  # fmt: skip


def twist_from_fields(twist: Any) -> Array:
    """Read a geometry_msgs/Twist into (6,) = (v, ω) [m/s, rad/s]."""
    linear, angular = twist.linear, twist.angular
    return _numbers(linear.x, linear.y, linear.z, angular.x, angular.y, angular.z)


def is_rotation(quaternion: Array) -> bool:
    """Say whether a quaternion (4,) is long enough, and finite, so that it names a rotation."""
    norm = math.hypot(*quaternion.tolist())
    return SHORTEST_QUATERNION < norm < math.inf


def _numbers(*values: float) -> Array:
    """Make a float64 vector; anything but real numbers is a TypeError (text is not parsed)."""
    array = np.array(values)
    if array.dtype.kind not in "fiu" or array.ndim != 1:
        raise TypeError(f"expected {len(values)} numbers, got {values!r:.120}")
    return array.astype(np.float64)


def _block_rotation(pose: Array) -> Array:
    """Return ``blkdiag(R, R)`` (…, 6, 6) of poses (…, 7)."""
    rotation = rotation_matrix(pose[..., 3:])
    result = np.zeros((*rotation.shape[:-2], 6, 6))
    result[..., :3, :3] = rotation
    result[..., 3:, 3:] = rotation
    return result


def _congruence(left: Array, matrix: Array) -> Array:
    """Return ``left · matrix · leftᵀ``; what is not finite spreads without a warning."""
    with np.errstate(invalid="ignore", over="ignore"):
        return left @ matrix @ np.swapaxes(left, -1, -2)
