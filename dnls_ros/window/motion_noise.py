"""The noise of sensors of motion: a density per second, or an error of the rate in each interval.

A configured sigma is a density, because odometry errs more the longer it runs. A message's
covariance is that of its twist: the rate was wrong by one draw over the interval that ends there,
so that the motion over it has that covariance times Δt². The covariance of an odometry's *pose* is
not used where only differences count: it grows without bound, and its errors are common to both
ends. (fuse takes the twist's covariance times Δt there; robot_localization adds up those of both
poses: after a change from either, `scaled` with `covariance_scale` sets the level.)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dnls_ros.window.bodies import Array, Body, adjoint
from dnls_ros.window.config import SensorConfig
from dnls_ros.window.increments import MotionNoise
from dnls_ros.window.ingress import Verdict
from dnls_ros.window.noise import INDEFINITE, covariance_of, is_absent, is_definite
from dnls_ros.window.rigid import IDENTITY

UNMEASURED_DENSITY = 1e4
"""Variance per second of axes that a sensor of motion does not measure [m²/s, rad²/s]."""


def motion_noise(
    config: SensorConfig,
    body: Body,
    given: Array | None,
    names: tuple[str, ...],
    mount: Array = IDENTITY,
) -> MotionNoise | Verdict:
    """The noise of one sample in the body's tangent, or why there is none.

    Args:
        config: The sensor's policy.
        body: The body that it measures.
        given: The message's covariance (6, 6), of a twist where the sensor gives one.
        names: The sensor's axes in the order of ``given``.
        mount: body_T_sensor (7,); the identity where the data are in the body's axes.
    """
    said = None if given is None or config.covariance == "fixed" else given.tobytes()
    return _remembered(config, body, said, names, tuple(mount.tolist()))


@lru_cache(maxsize=1024)
def _remembered(
    config: SensorConfig,
    body: Body,
    given: bytes | None,
    names: tuple[str, ...],
    mount: tuple[float, ...],
) -> MotionNoise | Verdict:
    """Drivers write the same covariance into every message, so its noise is made once."""
    covariance = None if given is None else np.frombuffer(given).reshape(6, 6)
    return _noise_of_motion(config, body, covariance, names, np.array(mount))


def _noise_of_motion(
    config: SensorConfig, body: Body, given: Array | None, names: tuple[str, ...], mount: Array
) -> MotionNoise | Verdict:
    axes = tuple(names.index(a) for a in config.axes)
    covariance = covariance_of(config, given, axes)
    if isinstance(covariance, tuple):
        return covariance
    fixed = config.covariance == "fixed" or is_absent(given, axes)
    carry = adjoint(mount)
    seen = np.zeros((6, 6))
    seen[np.ix_(axes, axes)] = covariance
    unseen = np.diag([0.0 if a in axes else UNMEASURED_DENSITY for a in range(6)])
    measured, missing = (body.reduce(carry @ c @ carry.T) for c in (seen, unseen))
    if not is_definite(measured + missing):
        return INDEFINITE
    zero = np.zeros_like(measured)
    return MotionNoise(measured + missing, zero) if fixed else MotionNoise(missing, measured)
