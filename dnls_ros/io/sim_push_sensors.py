"""What the sensors of a pushing scene say, each with noise from a random stream of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dnls_ros.errors import DnlsError
from dnls_ros.io.push_scene import Array, PushScene
from dnls_ros.io.sim_push import PushMotion, simulate_motion, turned
from dnls_ros.io.sim_tactile import TactileLog, sensor_steps, take_images


@dataclass(frozen=True, eq=False)
class PushLog:
    """One sensor: steps (k,) of the motion at which it measured, and values (k, 3)."""

    steps: np.ndarray
    values: Array


@dataclass(frozen=True, eq=False)
class PushRecording:
    """One simulated recording.

    Attributes:
        scene, seed: What was simulated.
        motion: The truth.
        ee: x, y, yaw of the fingertip by the robot [m, m, rad].
        tag: x, y, yaw of the object by a tag on it [m, m, rad].
        wrench: f_x, f_y, τ_z that the object exerts, about the fingertip and in its axes
            [N, N, N m]; with the sensor's bias.
        images: Of the gel.
    """

    scene: PushScene
    seed: int
    motion: PushMotion
    ee: PushLog
    tag: PushLog
    wrench: PushLog
    images: TactileLog


def simulate_push(scene: PushScene, seed: int) -> PushRecording:
    """One recording; the same seed gives the same numbers.

    Raises:
        DnlsError: The seed is negative.
    """
    if seed < 0:
        raise DnlsError(f"simulate: got seed={seed}; expected seed >= 0")
    motion, noise = simulate_motion(scene, seed), scene.noise
    count = len(motion.times)

    def noisy(truth: Array, rate: float, sigma: tuple[float, ...], stream: int) -> PushLog:
        random, steps = np.random.default_rng([seed, stream]), sensor_steps(count, rate)
        values = truth[steps] + random.normal(size=(len(steps), 3)) * sigma
        return PushLog(steps, values)

    bias = np.random.default_rng([seed, 6]).uniform(-1, 1, 3) * noise.wrench_bias
    return PushRecording(
        scene,
        seed,
        motion,
        noisy(motion.ee, noise.ee_rate, noise.ee_sigma, 3),
        noisy(motion.object, noise.tag_rate, noise.tag_sigma, 4),
        noisy(_wrench(motion) + bias, noise.wrench_rate, noise.wrench_sigma, 5),
        take_images(scene, motion, seed),
    )


def _wrench(motion: PushMotion) -> Array:
    """(n, 3) force and moment of the object on the finger, in the finger's axes about its tip."""
    yaw = -motion.ee[:, 2]
    force = turned(-motion.force, yaw)
    arm = turned(np.nan_to_num(motion.point - motion.ee[:, :2]), yaw)
    moment = arm[:, 0] * force[:, 1] - arm[:, 1] * force[:, 0]
    return np.column_stack([force, moment])
