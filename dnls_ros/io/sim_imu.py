"""What a simulated inertial unit reports: turns with noise and a bias, angles, specific force."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from dnls_ros.io.scene import Array, ImuSensor
from dnls_ros.io.sim_motion import Lap, Stamps, times, to_stamps, wrap

GRAVITY = 9.81  # m/s²
_HALF_STEP = 1e-3  # s, of the differences that give rates and accelerations of the true motion


@dataclass(frozen=True, eq=False)
class ImuLog:
    """Readings in the unit's own axes.

    Attributes:
        stamps: (n,) [ns].
        orientations: (n, 4) world_T_unit, x y z w.
        rates: (n, 3) [rad/s].
        forces: (n, 3) acceleration minus gravity [m/s²].
    """

    stamps: Stamps
    orientations: Array
    rates: Array
    forces: Array


def measure_imu(
    lap: Lap, duration: float, sensor: ImuSensor, random: np.random.Generator
) -> ImuLog:
    """The readings of a whole run; the bias of the gyro is drawn once."""
    seconds = times(duration, sensor.rate, sensor.phase)
    count = len(seconds)
    bias = random.normal(size=3) * sensor.gyro_bias
    gyro_noise = random.normal(size=(count, 3)) * sensor.gyro_sigma
    turn_noise = random.normal(size=(count, 3)) * sensor.orientation_sigma
    force_noise = random.normal(size=(count, 3)) * sensor.acceleration_sigma
    unit = _orientation(lap, seconds, sensor)
    before, after = (_orientation(lap, seconds + h, sensor) for h in (-_HALF_STEP, _HALF_STEP))
    rates = (before.inv() * after).as_rotvec() / (2 * _HALF_STEP)
    # Noise of the orientation is a turn about the world's axes, as its covariance says.
    noisy = Rotation.from_rotvec(turn_noise) * unit
    return ImuLog(
        to_stamps(seconds),
        noisy.as_quat(canonical=True),
        rates + bias + gyro_noise,
        unit.inv().apply(_force(lap, seconds, sensor)) + force_noise,
    )


def _orientation(lap: Lap, seconds: Array, sensor: ImuSensor) -> Rotation:
    """world_R_unit at each time."""
    yaw = wrap(lap.at(seconds)[:, 2])
    return Rotation.from_euler("Z", yaw[:, None]) * Rotation.from_matrix(sensor.base_R_imu)


def _force(lap: Lap, seconds: Array, sensor: ImuSensor) -> Array:
    """Acceleration minus gravity (n, 3) of the unit, in the world's axes."""
    before, here, after = (
        _place(lap, seconds + h, sensor) for h in (-_HALF_STEP, 0.0, _HALF_STEP)
    )
    acceleration = (before - 2 * here + after) / _HALF_STEP**2
    return acceleration + np.array([0.0, 0.0, GRAVITY])


def _place(lap: Lap, seconds: Array, sensor: ImuSensor) -> Array:
    """Where the unit is (n, 3) [m]."""
    pose = lap.at(seconds)
    base = np.column_stack([pose[:, :2], np.zeros(len(pose))])
    return base + Rotation.from_euler("Z", pose[:, 2:]).apply(sensor.base_p_imu)
