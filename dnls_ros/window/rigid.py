"""Rigid transforms of single poses ``(x y z qx qy qz qw)`` in plain numpy.

Initialization, before the optimizer starts, handles a few poses at a time between OpenCV calls;
tensors, batches and general rotation classes would cost more than the work itself. The derivatives
and everything that is optimized live in ``dnls_ros.lie``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

IDENTITY: Array = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
IDENTITY.setflags(write=False)


def rotation_matrix(pose: Array) -> Array:
    """The (3, 3) rotation of a pose (7,); its quaternion need not be normalized."""
    x, y, z, w = pose[3:].tolist()
    s = 2.0 / (x * x + y * y + z * z + w * w)
    return np.array(
        [
            [1.0 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
            [s * (x * y + z * w), 1.0 - s * (x * x + z * z), s * (y * z - x * w)],
            [s * (x * z - y * w), s * (y * z + x * w), 1.0 - s * (x * x + y * y)],
        ]
    )


def from_rotation(rotation: Array, translation: Array) -> Array:
    """The pose (7,) with a rotation matrix (3, 3) and a translation (3,) [m]."""
    return np.concatenate([translation, Rotation.from_matrix(rotation).as_quat()])


def from_rotation_vector(vector: Array, translation: Array) -> Array:
    """The pose (7,) with a rotation vector (3,) [rad] and a translation (3,) [m]."""
    half = 0.5 * float(np.linalg.norm(vector))
    scale = 0.5 * float(np.sinc(half / math.pi))  # sin(half) / angle, smooth at 0
    return np.concatenate([translation, scale * vector, [math.cos(half)]])


def compose(a_T_b: Array, b_T_c: Array) -> Array:
    """``a_T_c``: the pose that first applies ``b_T_c``, then ``a_T_b``; unit quaternion."""
    x, y, z, w = a_T_b[3:].tolist()
    i, j, k, r = b_T_c[3:].tolist()
    quaternion = np.array(
        [
            w * i + x * r + y * k - z * j,
            w * j - x * k + y * r + z * i,
            w * k + x * j - y * i + z * r,
            w * r - x * i - y * j - z * k,
        ]
    )
    position = a_T_b[:3] + rotation_matrix(a_T_b) @ b_T_c[:3]
    return np.concatenate([position, quaternion / math.sqrt(float(quaternion @ quaternion))])


def inverse(a_T_b: Array) -> Array:
    """``b_T_a``."""
    conjugate = a_T_b[3:] * np.array([-1.0, -1.0, -1.0, 1.0])
    return np.concatenate([-a_T_b[:3] @ rotation_matrix(a_T_b), conjugate])


def transform(a_T_b: Array, points_b: Array) -> Array:
    """Points (K, 3) of frame b, expressed in frame a [m]."""
    return points_b @ rotation_matrix(a_T_b).T + a_T_b[:3]


def angle_between(a: Array, b: Array) -> float:
    """The angle of the rotation that takes the orientation of pose a to that of pose b [rad]."""
    turn = compose(inverse(a), b)[3:]
    return 2.0 * math.atan2(float(np.linalg.norm(turn[:3])), abs(float(turn[3])))
