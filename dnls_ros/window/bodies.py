"""How a track's states look to the optimizer, and back.

Outside, poses are ``(x y z qx qy qz qw)`` arrays and covariances 6 × 6; inside, a body on a plane
is an SE(2) state and a body in space an SE(3) state, both in the right-perturbation tangent. A
track with a constant-velocity motion model has a second block, the body twist, with the same ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.lie import SE2, SE3, LieGroup
from dnls_ros.window.config import SensorConfig, TrackConfig, Vector
from dnls_ros.window.measurements import Measurement
from dnls_ros.window.rigid import IDENTITY

Array = NDArray[np.float64]

# A body on a plane has no freedom in z, roll and pitch; messages must not carry zero variances
# there.
PLANAR_VARIANCE = 1e-6
_PLANAR_AXES = (0, 1, 5)


@dataclass(frozen=True)
class Body:
    """The variables of one track.

    Attributes:
        name: The track, and its pose block.
        planar: SE(2) instead of SE(3).
        moving: Has a block of body twists.
    """

    name: str
    planar: bool
    moving: bool

    @classmethod
    def of(cls, track: TrackConfig) -> Body:
        """The body that a track's configuration describes."""
        return cls(track.name, track.planar, track.motion == "constant_velocity")

    @property
    def group(self) -> type[LieGroup]:
        """SE2 or SE3."""
        return SE2 if self.planar else SE3

    @property
    def dim(self) -> int:
        """Degrees of freedom of the pose."""
        return self.group.tangent_dim

    @property
    def velocity(self) -> str:
        """Name of the block of body twists."""
        return f"{self.name}.velocity"

    @property
    def axes(self) -> tuple[int, ...]:
        """The tangent axes of the body among (v, ω) of SE(3)."""
        return _PLANAR_AXES if self.planar else tuple(range(6))

    def elements(self, poses: Array) -> LieGroup:
        """Poses (N, 7) as group elements (N,); a planar body takes x, y and yaw."""
        poses = np.asarray(poses, dtype=np.float64).reshape(-1, 7)
        if not self.planar:
            return SE3(torch.from_numpy(poses.copy())).normalized()
        x, y, z, w = poses[:, 3:].T
        # Yaw of the rotation's x axis; (cos, sin) of it without going through the angle.
        heading = np.stack([1 - 2 * (y * y + z * z), 2 * (w * z + x * y)], 1)
        heading /= np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-300)
        return SE2(torch.from_numpy(np.concatenate([poses[:, :2], heading], 1)))

    def poses(self, elements: LieGroup) -> Array:
        """Group elements (N,) as poses (N, 7)."""
        if isinstance(elements, SE3):
            return elements.normalized().tensor.detach().numpy().copy()
        x, y, cosine, sine = elements.tensor.detach().numpy().T
        half = 0.5 * np.arctan2(sine, cosine)
        zero = np.zeros_like(x)
        return np.stack([x, y, zero, zero, zero, np.sin(half), np.cos(half)], 1)

    def tangent(self, vector: Array) -> Tensor:
        """The body's entries of (…, 6) tangent vectors."""
        return torch.from_numpy(np.ascontiguousarray(np.asarray(vector)[..., self.axes]))

    def reduce(self, covariance: Array) -> Array:
        """The body's rows and columns of (…, 6, 6) covariances."""
        return np.asarray(covariance)[..., self.axes, :][..., :, self.axes]

    def expand(self, covariance: Array) -> Array:
        """(t, t) as (6, 6), the axes without freedom at a small positive variance."""
        if not self.planar:
            return covariance
        full = PLANAR_VARIANCE * np.eye(6)
        full[np.ix_(self.axes, self.axes)] = covariance
        return full

    def expand_vector(self, vector: Array) -> Array:
        """(t,) as (6,)."""
        full = np.zeros(6)
        full[list(self.axes)] = vector
        return full


def pose_of_rpy(values: tuple[float, ...]) -> Array:
    """The pose (7,) of x y z roll pitch yaw, or of x y yaw [m, rad]."""
    if len(values) == 3:
        values = (values[0], values[1], 0.0, 0.0, 0.0, values[2])
    roll, pitch, yaw = (0.5 * a for a in values[3:])
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (roll, pitch, yaw))
    pose = IDENTITY.copy()
    pose[:3] = values[:3]
    pose[3:] = (
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
        cr * cp * cy + sr * sp * sy,
    )
    return pose


def mount_of(config: SensorConfig, m: Measurement) -> Array:
    """body_T_sensor (7,) of a measurement: what tf gave, else the configured one; read only."""
    return _mount_of_rpy(config.mount) if m.extrinsic is None else m.extrinsic


@lru_cache(maxsize=256)
def _mount_of_rpy(values: Vector) -> Array:
    pose = pose_of_rpy(values)
    pose.setflags(write=False)
    return pose


def adjoint(pose: Array) -> Array:
    """Ad(x) (6, 6) of a pose (7,), read only; that of a mount is asked for again and again."""
    return _remembered_adjoint(tuple(pose.tolist()))


@lru_cache(maxsize=256)
def _remembered_adjoint(pose: tuple[float, ...]) -> Array:
    made = SE3(torch.tensor(pose, dtype=torch.float64)).adjoint().numpy()
    made.setflags(write=False)
    return made
