"""What the simulated wheels report: a noisy, biased, sometimes slipping integral of the motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dnls_ros.io.scene import Array, OdometrySensor
from dnls_ros.io.sim_motion import Lap, Stamps, times, to_stamps, wrap


@dataclass(frozen=True, eq=False)
class OdometryLog:
    """Planar odometry: poses (n, 3) = (x, y, yaw) and twists (n, 3) = (vx, vy, yaw rate).

    Poses are in the odom frame, ``pose_covariances`` (n, 3, 3) in its fixed axes,
    ``twist_covariance`` (3, 3) in body axes. The twist of a message is the mean over the interval
    that ends at its stamp; the first one repeats the second.
    """

    stamps: Stamps
    poses: Array
    pose_covariances: Array
    twists: Array
    twist_covariance: Array


def _mean_twists(poses: Array, interval: float) -> Array:
    """The constant twists (n-1, 3) that carry each planar pose (n, 3) to the next."""
    step = np.diff(poses, axis=0)
    turn = wrap(step[:, 2])
    cos, sin = np.cos(poses[:-1, 2]), np.sin(poses[:-1, 2])
    forward = cos * step[:, 0] + sin * step[:, 1]
    lateral = -sin * step[:, 0] + cos * step[:, 1]
    half = turn / 2
    stretch = 1 / np.sinc(half / np.pi)  # half / sin(half)
    along = stretch * (np.cos(half) * forward + np.sin(half) * lateral)
    aside = stretch * (-np.sin(half) * forward + np.cos(half) * lateral)
    return np.column_stack([along, aside, turn]) / interval


def _integrate(twists: Array, interval: float) -> Array:
    """Planar poses (n+1, 3) from the origin on by constant twists (n, 3)."""
    yaw = np.concatenate([[0.0], np.cumsum(twists[:, 2] * interval)])
    half = twists[:, 2] * interval / 2
    chord = np.sinc(half / np.pi)[:, None] * twists[:, :2] * interval
    direction = yaw[:-1] + half
    cos, sin = np.cos(direction), np.sin(direction)
    step = np.column_stack(
        [cos * chord[:, 0] - sin * chord[:, 1], sin * chord[:, 0] + cos * chord[:, 1]]
    )
    position = np.vstack([np.zeros(2), np.cumsum(step, axis=0)])
    return np.column_stack([position, wrap(yaw)])


def _slip_mask(
    count: int, sensor: OdometrySensor, random: np.random.Generator
) -> tuple[Array, Array]:
    """For each interval 1 or 0 (slipping or not), and the sign of its slip in yaw."""
    mask, sign = np.zeros(count), np.zeros(count)
    time = random.exponential(sensor.slip.mean_interval)
    while time < count / sensor.rate:
        first = int(time * sensor.rate)
        last = first + round(sensor.slip.duration * sensor.rate)
        mask[first:last], sign[first:last] = 1.0, random.choice([-1.0, 1.0])
        time += sensor.slip.duration + random.exponential(sensor.slip.mean_interval)
    return mask, sign


def _biases(sensor: OdometrySensor, random: np.random.Generator) -> tuple[float, float]:
    """This recording's forward scale error and yaw-rate bias [rad/s], of random sign."""
    signs = random.choice([-1.0, 1.0], size=2)
    spread = random.uniform(0.8, 1.2, size=2)
    scale_error, bias = signs * spread * [sensor.scale_error, sensor.yaw_bias]
    return float(scale_error), float(bias)


def _claimed_twist_covariance(sensor: OdometrySensor, speed: float) -> Array:
    """The mean square error (3, 3) of a twist: noise, with biases and slips as if white."""
    slip = sensor.slip
    share = slip.duration / (slip.duration + slip.mean_interval)
    bias = np.array([sensor.scale_error * speed, 0.0, sensor.yaw_bias])
    slipping = share * np.array([slip.magnitude * speed, 0.0, slip.yaw_rate]) ** 2
    return np.diag(np.square(sensor.sigma) + bias**2 + slipping)


def measure_odometry(
    lap: Lap, duration: float, sensor: OdometrySensor, random: np.random.Generator
) -> OdometryLog:
    """The odometry of a whole run; it starts at the origin of its own frame."""
    seconds, interval = times(duration, sensor.rate), 1 / sensor.rate
    true_twists = _mean_twists(lap.at(seconds), interval)
    count = len(true_twists)
    scale_error, bias = _biases(sensor, random)
    slipping, sign = _slip_mask(count, sensor, random)
    twists = true_twists + random.normal(size=(count, 3)) * sensor.sigma
    twists[:, 0] += true_twists[:, 0] * (scale_error + sensor.slip.magnitude * slipping)
    twists[:, 2] += bias + sensor.slip.yaw_rate * sign
    covariance = _claimed_twist_covariance(sensor, lap.route.speed)
    poses = _integrate(twists, interval)
    return OdometryLog(
        to_stamps(seconds),
        poses,
        _pose_covariances(poses, covariance * interval**2),
        np.vstack([twists[:1], twists]),
        covariance,
    )


def _pose_covariances(poses: Array, step_covariance: Array) -> Array:
    """First-order growth (n, 3, 3) of the integrated pose's covariance, in fixed odom axes."""
    covariances = np.zeros((len(poses), 3, 3))
    covariances[0] = 1e-12 * np.eye(
        3
    )  # exact, but a singular covariance would be refused by its readers
    for k in range(1, len(poses)):
        step = poses[k, :2] - poses[k - 1, :2]
        carry = np.array([[1.0, 0.0, -step[1]], [0.0, 1.0, step[0]], [0.0, 0.0, 1.0]])
        cos, sin = np.cos(poses[k - 1, 2]), np.sin(poses[k - 1, 2])
        turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        covariances[k] = carry @ covariances[k - 1] @ carry.T + turn @ step_covariance @ turn.T
    return covariances
