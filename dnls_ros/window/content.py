"""Whether a measurement's numbers are numbers, of the right shape and of this world."""

from __future__ import annotations

import numpy as np

from dnls_ros.window.bodies import Array
from dnls_ros.window.measurements import (
    ContactMeasurement,
    ImuMeasurement,
    LandmarkMeasurement,
    Measurement,
    OdometryMeasurement,
    PoseMeasurement,
    RangeBearingMeasurement,
    Reason,
    RelativePoseMeasurement,
    TactileImageMeasurement,
    TwistMeasurement,
    WrenchMeasurement,
)

LARGEST_COORDINATE = 1e7
"""Positions beyond it [m] are not of this planet's map frames and cost float precision."""
LARGEST_NUMBER = 1e9
"""Twists, pixels and ranges beyond it are no measurements, and their squares may overflow."""
QUATERNION_TOLERANCE = 0.1
"""Accepted | ‖q‖ − 1 |: drivers round; what is further off is no rotation."""

Verdict = tuple[Reason, str]


def check_content(m: Measurement) -> Verdict | None:
    """What is wrong with a measurement's numbers, whatever the configuration."""
    if isinstance(m, RelativePoseMeasurement):
        if m.stamp_from <= 0 or m.stamp_from >= m.stamp:
            return (
                Reason.ZERO_STAMP,
                f"stamp_from {m.stamp_from} must be positive and before {m.stamp}",
            )
        return _check_pose(m.relative) or _check_covariance("covariance", m.covariance)
    if isinstance(m, OdometryMeasurement):
        return (
            _check_pose(m.pose)
            or _check_covariance("covariance", m.covariance)
            or _check_numbers("twist", m.twist, (6,))
            or _check_covariance("twist_covariance", m.twist_covariance)
        )
    if isinstance(m, PoseMeasurement):
        return _check_pose(m.pose) or _check_covariance("covariance", m.covariance)
    if isinstance(m, TwistMeasurement):
        return _check_numbers("twist", m.twist, (6,)) or _check_covariance(
            "covariance", m.covariance
        )
    if isinstance(m, RangeBearingMeasurement):
        return _check_range_bearing(m)
    if isinstance(m, LandmarkMeasurement):
        return _check_landmarks(m)
    if isinstance(m, ImuMeasurement):
        return _check_imu(m)
    if isinstance(m, WrenchMeasurement):
        return _check_numbers("force", m.force, (3,)) or _check_numbers("torque", m.torque, (3,))
    if isinstance(m, ContactMeasurement):
        return _check_contact(m)
    return None


def _check_contact(m: ContactMeasurement) -> Verdict | None:
    bad = None if m.center is None else _check_numbers("center", m.center, (3,))
    for one in m.relatives if isinstance(m, TactileImageMeasurement) else ():
        bad = bad or check_content(one)
    return bad


def _check_array(name: str, values: Array, shape: tuple[int, ...]) -> Verdict | None:
    if values.shape != shape:
        return Reason.BAD_SHAPE, f"{name} has shape {values.shape}, expected {shape}"
    if values.dtype.kind not in "fiu":
        return Reason.BAD_SHAPE, f"{name} holds {values.dtype}, expected numbers"
    return None


def _check_numbers(name: str, values: Array, shape: tuple[int, ...]) -> Verdict | None:
    values = np.asarray(values)
    bad = _check_array(name, values, shape)
    if bad is None and not np.isfinite(values).all():
        return Reason.NOT_FINITE, f"{name} is not finite: {values.tolist()}"
    if bad is None and values.size and np.abs(values).max() > LARGEST_NUMBER:
        return Reason.NOT_FINITE, f"{name} is beyond {LARGEST_NUMBER:g}: {values.tolist()}"
    return bad


def _check_covariance(name: str, given: Array | None, size: int = 6) -> Verdict | None:
    """Whether it is an array at all; what its numbers are worth depends on the sensor."""
    return None if given is None else _check_array(name, np.asarray(given), (size, size))


def _check_pose(pose: Array) -> Verdict | None:
    bad = _check_numbers("pose", pose, (7,))
    if bad is not None:
        return bad
    if np.abs(pose[:3]).max() > LARGEST_COORDINATE:
        return (
            Reason.NOT_FINITE,
            f"position {pose[:3].tolist()} is beyond {LARGEST_COORDINATE:g} m",
        )
    return _check_quaternion(pose[3:])


def _check_quaternion(quaternion: Array) -> Verdict | None:
    norm = float(np.linalg.norm(quaternion))
    if abs(norm - 1.0) <= QUATERNION_TOLERANCE:
        return None
    text = f"quaternion {quaternion.tolist()} has norm {norm:.6g}, expected 1"
    return Reason.BAD_QUATERNION, text


def _check_imu(m: ImuMeasurement) -> Verdict | None:
    """Linear acceleration is not looked at: nothing uses it."""
    bad = None
    if m.orientation is not None:
        bad = (
            _check_numbers("orientation", m.orientation, (4,))
            or _check_quaternion(m.orientation)
            or _check_covariance("orientation_covariance", m.orientation_covariance, 3)
        )
    if bad is None and m.angular_velocity is not None:
        bad = _check_numbers("angular_velocity", m.angular_velocity, (3,)) or _check_covariance(
            "angular_velocity_covariance", m.angular_velocity_covariance, 3
        )
    return bad


def _check_range_bearing(m: RangeBearingMeasurement) -> Verdict | None:
    count = (len(m.ids),)
    bad = _check_numbers("ranges", m.ranges, count) or _check_numbers(
        "bearings", m.bearings, count
    )
    if bad is not None:
        return bad
    if count[0] and float(np.min(m.ranges)) <= 0:
        return Reason.BAD_SHAPE, f"ranges must be positive, got {float(np.min(m.ranges))}"
    if not all(np.isfinite(s) and s >= 0 for s in (m.sigma_range, m.sigma_bearing)):
        return (
            Reason.BAD_COVARIANCE,
            f"sigmas {m.sigma_range}, {m.sigma_bearing} must be finite and not negative",
        )
    return None


def _check_landmarks(m: LandmarkMeasurement) -> Verdict | None:
    camera = m.intrinsics
    if camera is not None:
        numbers = (*camera.focal, *camera.center, *camera.coefficients)
        if not np.isfinite(numbers).all() or min(camera.focal) <= 0:
            return Reason.MODEL_FAILED, f"the camera's calibration cannot be used: {camera}"
    for seen in m.observations:
        pixels = np.asarray(seen.pixels)
        bad = _check_numbers(
            f"pixels of '{seen.id}'", pixels, (len(pixels), 2) if pixels.ndim else (0, 2)
        )
        if bad is None and seen.points is not None:
            bad = _check_numbers(f"points of '{seen.id}'", seen.points, (len(pixels), 3))
        if bad is not None:
            return bad
        if not np.isfinite(seen.sigma) or seen.sigma < 0:
            return Reason.BAD_COVARIANCE, f"sigma of '{seen.id}' is {seen.sigma} px"
    return None
