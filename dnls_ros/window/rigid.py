"""Rigid transforms of single poses ``(x y z qx qy qz qw)`` in plain numpy.

Initialization, before the optimizer starts, handles a few poses at a time between OpenCV calls;
tensors and batches would only be in the way. The derivatives and everything that is optimized live
in ``dnls_ros.lie``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

IDENTITY: Array = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
IDENTITY.setflags(write=False)


def rotation_matrix(pose: Array) -> Array:
    """The (3, 3) rotation of a pose (7,)."""
    return Rotation.from_quat(pose[3:]).as_matrix()


def from_rotation(rotation: Array, translation: Array) -> Array:
    """The pose (7,) with a rotation matrix (3, 3) and a translation (3,) [m]."""
    return np.concatenate([translation, Rotation.from_matrix(rotation).as_quat()])


def compose(a_T_b: Array, b_T_c: Array) -> Array:
    """``a_T_c``: the pose that first applies ``b_T_c``, then ``a_T_b``."""
    rotation = Rotation.from_quat(a_T_b[3:])
    quaternion = (rotation * Rotation.from_quat(b_T_c[3:])).as_quat()
    return np.concatenate([a_T_b[:3] + rotation.apply(b_T_c[:3]), quaternion])


def inverse(a_T_b: Array) -> Array:
    """``b_T_a``."""
    rotation = Rotation.from_quat(a_T_b[3:]).inv()
    return np.concatenate([-rotation.apply(a_T_b[:3]), rotation.as_quat()])


def transform(a_T_b: Array, points_b: Array) -> Array:
    """Points (K, 3) of frame b, expressed in frame a [m]."""
    return points_b @ rotation_matrix(a_T_b).T + a_T_b[:3]
