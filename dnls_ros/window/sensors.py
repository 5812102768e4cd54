"""What each kind of measurement says about the states: measurements in, factors out.

A sensor model is a small class with two answers: which pose a measurement suggests for a state
without a prediction (`guess`), and which factors it makes (`factors`). One of motion also has a
buffer (`empty`) for its samples (`sample`). Images have a module of their own, `images`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch

from dnls_ros.costs import between, partial_pose, prior, range_bearing
from dnls_ros.lie import SE3
from dnls_ros.problem import (
    DCS,
    Cauchy,
    FactorGroup,
    GemanMcClure,
    Huber,
    Loss,
    Ref,
    Shared,
    SquareRootInformation,
    Tukey,
    Welsch,
)
from dnls_ros.window.bodies import Array, Body, adjoint, mount_of
from dnls_ros.window.config import POSE_AXES, TWIST_AXES, SensorConfig
from dnls_ros.window.increments import (
    Increments,
    MotionNoise,
    PoseIncrements,
    Sample,
    TwistIncrements,
)
from dnls_ros.window.ingress import Verdict
from dnls_ros.window.landmark_map import LandmarkMap
from dnls_ros.window.measurements import (
    Measurement,
    OdometryMeasurement,
    PoseMeasurement,
    RangeBearingMeasurement,
    Reason,
    RelativePoseMeasurement,
    TwistMeasurement,
)
from dnls_ros.window.motion_noise import motion_noise
from dnls_ros.window.noise import INDEFINITE, covariance_of, is_definite
from dnls_ros.window.rigid import compose, inverse, rotation_matrix

LEAST_HEADING = 0.1
"""Least length of a body's x axis, of unit length, in the plane."""

Factors = dict[str, FactorGroup]


class SensorModel(Protocol):
    """How a sensor's measurements become factors."""

    @property
    def config(self) -> SensorConfig:
        """The sensor's configuration."""
        ...

    @property
    def body(self) -> Body:
        """The body that it measures."""
        ...

    def guess(self, m: Measurement) -> Array | None:
        """The body's pose (7,) by this measurement alone."""
        ...

    def factors(self, m: Measurement, states: tuple[int, ...]) -> Factors | Verdict:
        """The factors on a measurement's states (ids, in time order), by name of their group."""
        ...


@lru_cache(maxsize=256)
def loss_of(config: SensorConfig) -> Loss | None:
    """The configured robust loss."""
    kinds: dict[str, type[Huber | Cauchy | GemanMcClure | Tukey | Welsch | DCS]] = {
        "huber": Huber,
        "cauchy": Cauchy,
        "geman_mcclure": GemanMcClure,
        "tukey": Tukey,
        "welsch": Welsch,
        "dcs": DCS,
    }
    kind = kinds.get(config.robust)
    return None if kind is None else kind(config.robust_scale)


def _positions(config: SensorConfig, names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(names.index(a) for a in config.axes)


def noise_of(covariance: Array) -> SquareRootInformation:
    """The noise of one factor with a covariance (k, k)."""
    return SquareRootInformation.from_covariance(
        torch.from_numpy(np.ascontiguousarray(covariance))[None, None]
    )


def noise_of_mount(
    mount: Array, body: Body, covariance: Array, axes: tuple[int, ...]
) -> SquareRootInformation:
    """L (k, t) of a covariance (k, k) along the sensor's own axes, for a body's tangent."""
    sensor_of_body = adjoint(inverse(mount))
    seen = torch.from_numpy(sensor_of_body[np.ix_(axes, body.axes)])
    return SquareRootInformation(noise_of(covariance).factor @ seen)


def no_heading(body: Body, pose: Array) -> Verdict | None:
    """Why a body on a plane cannot take a pose: its x axis is nearly vertical."""
    if not body.planar or np.hypot(*rotation_matrix(pose)[:2, 0]) > LEAST_HEADING:
        return None
    return Reason.BAD_QUATERNION, "the x axis is vertical: a body on a plane then has no heading"


def ref_of(name: str, stamp: int) -> Ref:
    """One state of a block."""
    return Ref(name, torch.tensor([stamp]))


@dataclass(frozen=True)
class AbsolutePose:
    """Poses in a frame that does not drift: pose, pose_stamped, odometry taken as absolute.

    Axes are those of ROS, fixed in the parent frame. All axes of the body: one prior on the pose.
    Some: a residual on those axes only, of the sensor's own frame, so that a position fix with a
    lever arm says nothing about the orientation it did not measure.
    """

    config: SensorConfig
    body: Body

    def guess(self, m: Measurement) -> Array | None:
        """The measured pose, if all axes of the body are measured."""
        assert isinstance(m, PoseMeasurement)
        if not self._complete:
            return None
        return compose(unit_pose(m.pose), inverse(mount_of(self.config, m)))

    @property
    def _axes(self) -> tuple[int, ...]:
        return _positions(self.config, POSE_AXES)

    @property
    def _complete(self) -> bool:
        return set(self._axes) >= set(self.body.axes)

    def factors(self, m: Measurement, states: tuple[int, ...]) -> Factors | Verdict:
        """One prior on the pose, or on the measured axes."""
        assert isinstance(m, PoseMeasurement)
        pose = unit_pose(m.pose)
        turn = _twice(rotation_matrix(pose))
        given = None if m.covariance is None else _turned(turn, m.covariance)
        covariance = covariance_of(self.config, given, self._axes)
        if isinstance(covariance, tuple):
            return covariance
        ref, loss = ref_of(self.body.name, states[0]), loss_of(self.config)
        extrinsic = mount_of(self.config, m)
        if not self._complete:
            partial = self._partial(ref, pose, extrinsic, covariance, loss)
            return {self.config.name: partial}
        body = compose(pose, inverse(extrinsic))
        return no_heading(self.body, body) or self._full(ref, body, extrinsic, covariance, loss)

    def _full(
        self, ref: Ref, body: Array, extrinsic: Array, covariance: Array, loss: Loss | None
    ) -> Factors | Verdict:
        axes = list(self._axes)
        everything = np.zeros((6, 6))  # a planar body has no freedom in the axes left out
        everything[np.ix_(axes, axes)] = covariance
        z = self.body.elements(body[None])
        # As the body stands in the track's manifold: a planar one upright, however z was tilted.
        sensor = compose(self.body.poses(z)[0], extrinsic)
        turn = _twice(rotation_matrix(sensor))
        carry = adjoint(extrinsic) @ turn.T  # fixed axes → axes of the sensor → axes of the body
        tangent = self.body.reduce(carry @ everything @ carry.T)
        if not is_definite(tangent):
            return INDEFINITE
        return {self.config.name: prior(ref, z[None], noise=noise_of(tangent), loss=loss)}

    def _partial(
        self, ref: Ref, pose: Array, mount: Array, covariance: Array, loss: Loss | None
    ) -> FactorGroup:
        rows = [self.body.axes.index(axis) for axis in self._axes]
        selection = torch.eye(self.body.dim, dtype=torch.float64)[rows]
        noise = SquareRootInformation(noise_of(covariance).factor @ selection)
        extrinsic = self.body.elements(mount[None])
        z = self.body.elements(pose[None])
        return partial_pose(ref, extrinsic[None], z[None], noise=noise, loss=loss)


@dataclass(frozen=True)
class DifferentialPose:
    """Poses in a drifting frame (odometry, a matcher): only the motion between them counts."""

    config: SensorConfig
    body: Body

    def guess(self, m: Measurement) -> Array | None:
        """None: the frame drifts."""
        return None

    def factors(self, m: Measurement, states: tuple[int, ...]) -> Factors | Verdict:
        """None of its own: the samples make them."""
        return {}

    def empty(self) -> Increments:
        """No samples yet."""
        return PoseIncrements.empty(self.body)

    def sample(self, m: Measurement) -> Sample | Verdict | None:
        """The pose; sigma² is noise per second, the twist's covariance noise of the rate."""
        assert isinstance(m, PoseMeasurement)
        given = m.twist_covariance if isinstance(m, OdometryMeasurement) else m.covariance
        mount = mount_of(self.config, m)
        noise = motion_noise(self.config, self.body, given, POSE_AXES, mount)
        if not isinstance(noise, MotionNoise):
            return noise
        pose = compose(unit_pose(m.pose), inverse(mount))
        bad = no_heading(self.body, pose)
        if bad is not None:
            return bad
        return Sample(m.stamp, self.body.elements(pose[None]), noise)


@dataclass(frozen=True)
class Twist:
    """Body twists: factors on the twist block if the track has one, else integrated motion.

    An axis that is not measured stays free: a lateral velocity that is not named is not zero.
    """

    config: SensorConfig
    body: Body

    def guess(self, m: Measurement) -> Array | None:
        """None: a twist says nothing about the pose."""
        return None

    def _body_twist(self, m: Measurement) -> Array:
        assert isinstance(m, TwistMeasurement)
        return adjoint(mount_of(self.config, m)) @ m.twist

    def factors(self, m: Measurement, states: tuple[int, ...]) -> Factors | Verdict:
        """A prior on the twist block, if there is one."""
        assert isinstance(m, TwistMeasurement)
        if not self.body.moving:
            return {}
        axes = _positions(self.config, TWIST_AXES)
        covariance = covariance_of(self.config, m.covariance, axes)
        if isinstance(covariance, tuple):
            return covariance
        noise = noise_of_mount(mount_of(self.config, m), self.body, covariance, axes)
        z = self.body.tangent(self._body_twist(m))
        return {
            self.config.name: prior(
                ref_of(self.body.velocity, states[0]),
                z[None, None],
                noise=noise,
                loss=loss_of(self.config),
            )
        }

    def empty(self) -> Increments:
        """No samples yet."""
        return TwistIncrements.empty(self.body)

    def sample(self, m: Measurement) -> Sample | Verdict | None:
        """The twist, its covariance as noise of the rate."""
        assert isinstance(m, TwistMeasurement)
        mount = mount_of(self.config, m)
        noise = motion_noise(self.config, self.body, m.covariance, TWIST_AXES, mount)
        if not isinstance(noise, MotionNoise):
            return noise
        return Sample(m.stamp, self._body_twist(m)[list(self.body.axes)], noise)


@dataclass(frozen=True)
class RelativePose:
    """Motion between two stamps by an external matcher."""

    config: SensorConfig
    body: Body

    def guess(self, m: Measurement) -> Array | None:
        """None: growth starts its later state from the earlier one."""
        return None

    def motion(self, m: RelativePoseMeasurement) -> Array:
        """The body's motion (7,) by the measurement."""
        mount = mount_of(self.config, m)
        return compose(compose(mount, unit_pose(m.relative)), inverse(mount))

    def factors(self, m: Measurement, states: tuple[int, ...]) -> Factors | Verdict:
        """One factor between the states at its two stamps."""
        assert isinstance(m, RelativePoseMeasurement)
        axes = _positions(self.config, POSE_AXES)
        covariance = covariance_of(self.config, m.covariance, axes)
        if isinstance(covariance, tuple):
            return covariance
        noise = noise_of_mount(mount_of(self.config, m), self.body, covariance, axes)
        z = self.body.elements(self.motion(m)[None])
        refs = ref_of(self.body.name, states[0]), ref_of(self.body.name, states[1])
        return {self.config.name: between(*refs, z[None], noise=noise, loss=loss_of(self.config))}


@dataclass(frozen=True)
class RangeBearing:
    """Ranges and bearings to point landmarks of known position."""

    config: SensorConfig
    body: Body
    landmarks: LandmarkMap

    def guess(self, m: Measurement) -> Array | None:
        """None: a range alone gives no pose."""
        return None

    def factors(self, m: Measurement, states: tuple[int, ...]) -> Factors | Verdict:
        """One factor per known landmark; the others are left out."""
        assert isinstance(m, RangeBearingMeasurement)
        known = [
            (k, p.position)
            for k, name in enumerate(m.ids)
            if (p := self.landmarks.points.get(name)) and p.position is not None
        ]
        if not known:
            return {}
        sigma = self._sigma(m)
        if not isinstance(sigma, np.ndarray):
            return sigma
        rows = [k for k, _ in known]
        z = torch.from_numpy(np.stack([m.ranges[rows], m.bearings[rows]], 1))
        points = torch.from_numpy(np.stack([p for _, p in known]))
        mount = SE3(torch.tensor(mount_of(self.config, m)))
        ref = Ref(self.body.name, torch.full((len(rows),), states[0]))
        noise = SquareRootInformation(
            torch.from_numpy(np.diag(1 / sigma))[None, None].expand(1, len(rows), 2, 2)
        )
        return {
            self.config.name: range_bearing(
                ref, Shared(mount), points[None], z[None], noise=noise, loss=loss_of(self.config)
            )
        }

    def _sigma(self, m: RangeBearingMeasurement) -> Array | Verdict:
        given = np.array([m.sigma_range, m.sigma_bearing])
        if self.config.covariance == "fixed" or not given.any():
            if len(self.config.sigma) != 2:
                return (
                    Reason.BAD_COVARIANCE,
                    f"sigmas are zero and sensor '{self.config.name}' sets none",
                )
            given = np.array(self.config.sigma)
        return np.maximum(given, self.config.sigma_floor)


def unit_pose(pose: Array) -> Array:
    """With a quaternion of exactly unit length."""
    return np.concatenate([pose[:3], pose[3:] / np.linalg.norm(pose[3:])])


def _twice(rotation: Array) -> Array:
    """(6, 6) that turns position and rotation vector alike."""
    turn = np.zeros((6, 6))
    turn[:3, :3] = turn[3:, 3:] = rotation
    return turn


def _turned(turn: Array, covariance: Array) -> Array:
    """The tangent covariance in the parent's fixed axes; markers and zeros stay as they are."""
    given = np.asarray(covariance, dtype=np.float64)
    if given[0, 0] == -1.0 or not given.any() or not np.isfinite(given).all():
        return given
    return turn @ given @ turn.T
