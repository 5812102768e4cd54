"""Inertial units: orientation and angular velocity, each as far as the unit gives them (REP-145).

Axes are those of the *body*: the mount turns what the unit says, so that one on its side still
measures the yaw rate of a body on a plane. Orientation holds the angles that ``axes`` names, about
the world's axes (roll and pitch without yaw: the direction of up, whatever the heading);
``differential`` uses its turns instead, for a unit whose heading drifts. The angular velocity
holds the twist where the track has one, else it is integrated between states. A bias is not
estimated, and linear acceleration is not used.

An inertial unit speaks often. Where its angular velocity is integrated, its samples make no states
of their own: an orientation counts once per period of the solver, or, where the unit is alone on
its track, makes a state that often.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch

from dnls_ros.costs import partial_pose, prior
from dnls_ros.costs.imu import tilt
from dnls_ros.problem import FactorGroup, SquareRootInformation
from dnls_ros.window.bodies import Array, Body, mount_of, pose_of_rpy
from dnls_ros.window.config import SensorConfig
from dnls_ros.window.increments import Increments, MotionNoise, Sample
from dnls_ros.window.ingress import Verdict
from dnls_ros.window.measurements import ImuMeasurement, Measurement, Reason
from dnls_ros.window.motion_noise import motion_noise
from dnls_ros.window.noise import covariance_of
from dnls_ros.window.rigid import IDENTITY, compose, inverse, rotation_matrix
from dnls_ros.window.sensors import Factors, loss_of, no_heading, noise_of, ref_of
from dnls_ros.window.turns import OrientationIncrements, RateIncrements

ANGLES = ("roll", "pitch", "yaw")
RATES = ("vroll", "vpitch", "vyaw")
_ANGLE_ROWS = ("", "", "", *ANGLES)  # of a covariance (6, 6) about the body's axes
_RATE_ROWS = ("", "", "", *RATES)


@dataclass(frozen=True)
class Imu:
    """One inertial unit.

    Attributes:
        config: Its configuration.
        body: The body that carries it.
        period: Of the solver [ns].
        alone: Whether no other sensor makes states on its track.
    """

    config: SensorConfig
    body: Body
    period: int
    alone: bool

    def guess(self, m: Measurement) -> Array | None:
        """None: it says nothing about the position."""
        return None

    @property
    def integrates(self) -> bool:
        """Whether its samples make the factors between states."""
        return self.config.differential or (bool(self._rates.axes) and not self.body.moving)

    @cached_property
    def _angles(self) -> SensorConfig:
        return part_of(self.config, ANGLES)

    @cached_property
    def _rates(self) -> SensorConfig:
        return part_of(self.config, RATES)

    def empty(self) -> Increments:
        """No samples yet."""
        kind = OrientationIncrements if self.config.differential else RateIncrements
        return kind.empty(self.body)

    def sample(self, m: Measurement) -> Sample | Verdict | None:
        """The sample of motion, if the message has one; or why the message cannot be used."""
        assert isinstance(m, ImuMeasurement)
        bad = self._nothing(m) or self._bad_orientation(m)
        if bad is not None:
            return bad
        if self.config.differential:
            return self._orientation_sample(m)
        if m.angular_velocity is None:
            return None
        noise = motion_noise(self._rates, self.body, self._rate_covariance(m), _RATE_ROWS)
        if not isinstance(noise, MotionNoise):
            return noise
        return Sample(m.stamp, self._mount(m) @ m.angular_velocity, noise)

    def _orientation_sample(self, m: ImuMeasurement) -> Sample | Verdict:
        pose = self._pose(m)
        noise = motion_noise(self._angles, self.body, None, _ANGLE_ROWS)
        if not isinstance(noise, MotionNoise):
            return noise
        bad = no_heading(self.body, pose)
        return bad or Sample(m.stamp, self.body.elements(pose[None]), noise)

    def needs_state(self, buffer: Increments | None, m: Measurement) -> bool:
        """Whether a message makes more than a sample: the first one of each period may."""
        assert isinstance(m, ImuMeasurement)
        if buffer is None:
            return True
        if not (self.alone or self._orients(m)):
            return False
        before = buffer.stamps[: int(np.searchsorted(buffer.stamps, m.stamp))]
        return not len(before) or before[-1] // self.period != m.stamp // self.period

    def factors(self, m: Measurement, states: tuple[int, ...]) -> Factors | Verdict:
        """One factor on the orientation and one on the twist, as far as both are given."""
        assert isinstance(m, ImuMeasurement)
        bad = self._nothing(m)
        if bad is not None:
            return bad
        made: Factors = {}
        if self._orients(m):
            angles = self._orientation(m, states[0])
            if isinstance(angles, tuple):
                return angles
            made[f"{self.config.name}.orientation"] = angles
        if self.body.moving and self._rates.axes and m.angular_velocity is not None:
            rates = self._twist(m, m.angular_velocity, states[0])
            if isinstance(rates, tuple):
                return rates
            made[f"{self.config.name}.rate"] = rates
        return made

    def _orients(self, m: ImuMeasurement) -> bool:
        """Whether a message's orientation is used as it is."""
        return (
            bool(self._angles.axes) and not self.config.differential and m.orientation is not None
        )

    def _nothing(self, m: ImuMeasurement) -> Verdict | None:
        """The verdict on a message that has none of the configured axes."""
        if self._angles.axes and m.orientation is not None:
            return None
        if self._rates.axes and m.angular_velocity is not None:
            return None
        text = (
            f"it has none of the axes {list(self.config.axes)}: "
            f"orientation {_given(m.orientation)}, angular velocity {_given(m.angular_velocity)}"
        )
        return Reason.BAD_COVARIANCE, text

    def _bad_orientation(self, m: ImuMeasurement) -> Verdict | None:
        """What is wrong with an orientation that will be used: asked before a sample is taken."""
        made = self._orientation(m, m.stamp) if self._orients(m) else None
        return made if isinstance(made, tuple) else None

    def _mount(self, m: ImuMeasurement) -> Array:
        """body_R_sensor (3, 3)."""
        return self._own_mount if m.extrinsic is None else rotation_matrix(self._extrinsic(m))

    @cached_property
    def _own_mount(self) -> Array:
        """The configured one."""
        return rotation_matrix(pose_of_rpy(self.config.mount))

    def _extrinsic(self, m: ImuMeasurement) -> Array:
        return np.concatenate([IDENTITY[:3], mount_of(self.config, m)[3:]])

    def _pose(self, m: ImuMeasurement) -> Array:
        """The body's orientation, as a pose (7,) at the origin."""
        assert m.orientation is not None
        sensor = np.concatenate([IDENTITY[:3], m.orientation])
        return compose(sensor, inverse(self._extrinsic(m)))

    def _rate_covariance(self, m: ImuMeasurement) -> Array | None:
        """(6, 6) of the twist in the body's axes."""
        return _turned(self._mount(m), m.angular_velocity_covariance)

    def _orientation(self, m: ImuMeasurement, state: int) -> FactorGroup | Verdict:
        """A factor on the configured angles, about the world's axes."""
        assert m.orientation is not None
        world_R_sensor = rotation_matrix(np.concatenate([IDENTITY[:3], m.orientation]))
        given = _turned(world_R_sensor, m.orientation_covariance)
        part = self._angles
        axes = tuple(_ANGLE_ROWS.index(a) for a in part.axes)
        covariance = covariance_of(part, given, axes)
        if isinstance(covariance, tuple):
            return covariance
        pose = self._pose(m)
        bad = no_heading(self.body, pose)
        if bad is not None:
            return bad
        ref, loss = ref_of(self.body.name, state), loss_of(self.config)
        root = noise_of(covariance).factor
        if "yaw" not in part.axes:
            up = torch.from_numpy(rotation_matrix(pose)[2].copy())
            noise = SquareRootInformation(root @ _selection([a - 3 for a in axes], 2))
            return tilt(ref, up[None, None], noise=noise, loss=loss)
        rows = [self.body.axes.index(a) for a in axes]
        noise = SquareRootInformation(root @ _selection(rows, self.body.dim))
        z, here = (self.body.elements(p[None])[None] for p in (pose, IDENTITY))
        return partial_pose(ref, here, z, noise=noise, loss=loss)

    def _twist(self, m: ImuMeasurement, rate: Array, state: int) -> FactorGroup | Verdict:
        """A factor on the configured rates of the body's twist."""
        part = self._rates
        axes = tuple(_RATE_ROWS.index(a) for a in part.axes)
        covariance = covariance_of(part, self._rate_covariance(m), axes)
        if isinstance(covariance, tuple):
            return covariance
        rows = [self.body.axes.index(a) for a in axes]
        noise = SquareRootInformation(
            noise_of(covariance).factor @ _selection(rows, self.body.dim)
        )
        z = self.body.tangent(np.concatenate([np.zeros(3), self._mount(m) @ rate]))
        ref = ref_of(self.body.velocity, state)
        return prior(ref, z[None, None], noise=noise, loss=loss_of(self.config))


@lru_cache(maxsize=256)
def part_of(config: SensorConfig, names: tuple[str, ...]) -> SensorConfig:
    """The sensor reduced to some of its axes, whose data are in the body's axes already."""
    kept = [k for k, axis in enumerate(config.axes) if axis in names]
    return replace(
        config,
        axes=tuple(config.axes[k] for k in kept),
        sigma=tuple(config.sigma[k] for k in kept) if config.sigma else (),
        sigma_floor=tuple(config.sigma_floor[k] for k in kept),
        extrinsic=(),
    )


def _turned(rotation: Array, covariance: Array | None) -> Array | None:
    """A covariance (3, 3) in other axes, in the rotational corner of (6, 6); zeros stay zeros."""
    if covariance is None:
        return None
    return _remembered(rotation.tobytes(), np.asarray(covariance, dtype=np.float64).tobytes())


@lru_cache(maxsize=256)
def _remembered(rotation: bytes, covariance: bytes) -> Array:
    """Drivers write the same covariance into every message, so it is turned once; read only."""
    turn, given = (np.frombuffer(b).reshape(3, 3) for b in (rotation, covariance))
    full = np.zeros((6, 6))
    with np.errstate(all="ignore"):
        turned = turn @ given @ turn.T
    full[3:, 3:] = turned if given.any() else 0.0
    full.setflags(write=False)
    return full


def _selection(rows: list[int], size: int) -> torch.Tensor:
    return torch.eye(size, dtype=torch.float64)[rows]


def _given(value: Array | None) -> str:
    return "not given" if value is None else "given"
