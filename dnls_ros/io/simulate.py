"""A robot that drives laps on a plane, and what its sensors say about it.

The simulator is the estimator's opponent: it shares no residual, camera or Lie-group code with it,
only NumPy and SciPy. Truth is a smooth closed curve known at any time. Each sensor draws from its
own random stream, so that one sensor's settings do not change another's noise. What a covariance
claims is what the noise is: the absolute poses', the inertial unit's and the corners' exactly, the
odometry's with its biases and slips counted as if they were white. The bias of a gyro is claimed
by nobody, as is usual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dnls_ros.errors import DnlsError
from dnls_ros.io.scene import Array, Scene
from dnls_ros.io.sim_camera import ImageLog, take_images
from dnls_ros.io.sim_imu import ImuLog, measure_imu
from dnls_ros.io.sim_motion import Lap, Stamps, make_lap, times, to_seconds, to_stamps, wrap
from dnls_ros.io.sim_odometry import OdometryLog, measure_odometry


@dataclass(frozen=True, eq=False)
class AbsoluteLog:
    """Absolute planar poses (n, 3) with one covariance (3, 3) of (x, y, yaw) in world axes."""

    stamps: Stamps
    poses: Array
    covariance: Array


@dataclass(frozen=True, eq=False)
class Recording:
    """One simulated run.

    ``truth`` (n, 3) = (x, y, yaw) at ``truth_stamps``: the regular grid ``truth_grid`` and the
    stamps of every sensor but the inertial unit, which is None where the scene has none.
    """

    seed: int
    duration: float
    scene: Scene
    odometry: OdometryLog
    images: ImageLog
    absolute: AbsoluteLog
    truth_grid: Stamps
    truth_stamps: Stamps
    truth: Array
    imu: ImuLog | None = None


def simulate(seed: int, duration: float, scene: Scene) -> Recording:
    """A recording of ``duration`` seconds; the same seed gives the same numbers.

    Raises:
        DnlsError: ``duration`` is shorter than one second or not finite, or the seed is negative.
    """
    if not np.isfinite(duration) or duration < 1.0 or seed < 0:
        raise DnlsError(
            f"simulate: got seed={seed}, duration={duration}; expected seed >= 0, duration >= 1 s"
        )
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(5)]
    lap = make_lap(scene.route, streams[0].uniform())
    odometry = measure_odometry(lap, duration, scene.odometry, streams[1])
    images = take_images(lap, duration, scene, streams[2])
    absolute = _absolute(lap, duration, scene, streams[3])
    grid = to_stamps(times(duration, scene.truth_rate))
    stamps = np.unique(np.concatenate([grid, odometry.stamps, images.stamps, absolute.stamps]))
    truth = lap.at(to_seconds(stamps))
    imu = scene.imu and measure_imu(lap, duration, scene.imu, streams[4])
    return Recording(seed, duration, scene, odometry, images, absolute, grid, stamps, truth, imu)


def _absolute(lap: Lap, duration: float, scene: Scene, random: np.random.Generator) -> AbsoluteLog:
    sensor = scene.absolute
    seconds = times(duration, sensor.rate, sensor.phase)
    poses = lap.at(seconds) + random.normal(size=(len(seconds), 3)) * sensor.sigma
    poses[:, 2] = wrap(poses[:, 2])
    return AbsoluteLog(to_stamps(seconds), poses, np.diag(np.square(sensor.sigma)))
