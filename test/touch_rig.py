"""What the tests of touch share: a rectangle that a finger approaches and pushes, and its sensors.

The finger sticks to one point of the rectangle's left side; the object's twist follows from the
velocity of that point on an ellipsoidal limit surface (Lynch et al., IROS 1992). Stamps count from
T0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnls_ros.costs import Rectangle
from dnls_ros.window.measurements import (
    ContactMeasurement,
    Measurement,
    PoseMeasurement,
    TactileRelativeMeasurement,
    WrenchMeasurement,
)
from dnls_ros.window.rigid import compose, inverse

SECOND = 1_000_000_000
T0 = 1_000 * SECOND
RATE = 30
SIDES = (0.2363, 0.1579)
POINT = np.array([-SIDES[0] / 2, 0.02])
"""Of contact, in the object's axes [m]."""
TOUCH = 0.6
"""When the finger arrives [s]."""

PARAMETERS: dict[str, Any] = {
    "world_frame": "world",
    "tracks": ["object", "ee"],
    "sensors": ["ee_pose", "tag", "contact", "tactile"],
    "window.duration": 2.0,
    "solver.rate": 10.0,
    "deterministic": True,
    "track.object": {
        "manifold": "se2", "motion": "quasi_static_push", "pusher_track": "ee",
        "shape": {"type": "rect", "size": list(SIDES)},
    },
    "track.ee": {
        "manifold": "se2", "motion": "constant_velocity", "motion_sigma": [0.1, 0.1, 0.5],
    },
    "sensor.ee_pose": {
        "type": "pose_stamped", "track": "ee", "topic": "ee", "sigma": [0.0005, 0.0005, 0.003],
        "extrinsic": [0.0] * 6,
    },
    "sensor.tag": {
        "type": "pose_stamped", "track": "object", "topic": "tag", "sigma": [0.005, 0.005, 0.03],
        "extrinsic": [0.0] * 6,
    },
    "sensor.contact": {
        "type": "contact", "track": "object", "topic": "contact", "extrinsic": [0.0] * 6,
    },
    "sensor.tactile": {
        "type": "tactile_relative", "track": "object", "topic": "pairs", "axes": ["yaw"],
        "covariance": "fixed", "sigma": [0.01], "extrinsic": [0.0] * 6,
    },
}  # fmt: skip


def changed(changes: dict[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """The parameters, flat, without some sensors; a block among the changes replaces the block."""
    blocks = [f"sensor.{name}" for name in without]
    blocks += [name for name, value in changes.items() if isinstance(value, dict)]
    kept = {
        k: v
        for k, v in flat(PARAMETERS).items()
        if not k.startswith(tuple(f"{b}." for b in blocks))
    }
    kept["sensors"] = [name for name in kept["sensors"] if name not in without]
    return kept | flat(changes)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names only."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else key
        found |= flat(value, name) if isinstance(value, dict) else {name: value}
    return found


def pose2(x: float, y: float, yaw: float) -> np.ndarray:
    return np.array([x, y, 0, 0, 0, np.sin(yaw / 2), np.cos(yaw / 2)])


def yaw_of(pose: np.ndarray) -> float:
    return 2 * float(np.arctan2(pose[5], pose[6]))


@dataclass(frozen=True)
class Push:
    """True poses (N, 7) of object and finger at RATE; whether they touch (N,)."""

    seconds: np.ndarray
    object: np.ndarray
    finger: np.ndarray
    touching: np.ndarray

    def stamp(self, k: int) -> int:
        return T0 + round(float(self.seconds[k]) * 1e9)


def push(duration: float = 4.0, speed: float = 0.05) -> Push:
    """The finger comes along x, pushes with a slowly turning direction and leans on the side."""
    ratio = Rectangle(*SIDES).friction_ratio()
    fine = 20
    seconds = np.arange(round(duration * RATE) + 1) / RATE
    x, y, yaw = 0.1, -0.05, 0.3
    objects, fingers = [], []
    for t in seconds:
        for _ in range(fine if t > TOUCH else 0):
            direction = 0.6 * np.sin(0.9 * (t - TOUCH))
            u = speed * np.array([np.cos(direction), np.sin(direction)])  # in the object's axes
            p = POINT
            scale = ratio**2 + p @ p
            v = np.array([(ratio**2 + p[0] ** 2) * u[0] + p[0] * p[1] * u[1],
                          p[0] * p[1] * u[0] + (ratio**2 + p[1] ** 2) * u[1]]) / scale  # fmt: skip
            w = (p[0] * v[1] - p[1] * v[0]) / ratio**2
            c, s, dt = np.cos(yaw), np.sin(yaw), 1 / (RATE * fine)
            x, y, yaw = (
                x + dt * (c * v[0] - s * v[1]),
                y + dt * (s * v[0] + c * v[1]),
                yaw + dt * w,
            )
        away = speed * max(TOUCH - float(t), 0.0)
        lean = 0.15 * np.sin(1.3 * max(float(t) - TOUCH, 0.0))
        objects.append(pose2(x, y, yaw))
        fingers.append(compose(objects[-1], pose2(POINT[0] - away, POINT[1], lean)))
    return Push(seconds, np.stack(objects), np.stack(fingers), seconds >= TOUCH)


def measurements(
    truth: Push, *, seed: int = 0, offsets: Sequence[int] = (10, 20, 30), tag: float = 1.0,
    noise: float = 1.0,
) -> list[Measurement]:  # fmt: skip
    """All sensors' data in order of arrival: finger, contact, pairs, and tags once a second."""
    random = np.random.default_rng(seed)
    out: list[Measurement] = []

    def noisy(pose: np.ndarray, sigma: tuple[float, float, float]) -> np.ndarray:
        return compose(pose, pose2(*(noise * random.standard_normal(3) * sigma)))

    next_tag = 0.0
    for k, t in enumerate(truth.seconds):
        head: dict[str, Any] = {"stamp": truth.stamp(k), "sequence": k}
        pose = noisy(truth.finger[k], (0.0005, 0.0005, 0.003))
        out.append(PoseMeasurement(sensor="ee_pose", frame="world", pose=pose, **head))
        touch = bool(truth.touching[k])
        out.append(ContactMeasurement(sensor="contact", frame="ee", in_contact=touch, **head))
        for gap in offsets:
            if k >= gap and truth.touching[k - gap]:
                i = k - gap
                seen = [compose(inverse(truth.object[n]), truth.finger[n]) for n in (i, k)]
                delta = noisy(compose(inverse(seen[0]), seen[1]), (0.001, 0.001, 0.01))
                out.append(
                    TactileRelativeMeasurement(
                        sensor="tactile",
                        frame="ee",
                        stamp_from=truth.stamp(i),
                        relative=delta,
                        measured=("yaw",),
                        **head,
                    )
                )
        if t >= next_tag - 1e-9:
            next_tag += tag
            pose = noisy(truth.object[k], (0.005, 0.005, 0.03))
            out.append(PoseMeasurement(sensor="tag", frame="world", pose=pose, **head))
    return out


BIAS = (0.3, -0.2, 0.1, 0.01, 0.0, 0.02)
"""Of the force sensor [N, N m]."""


def wrenches(truth: Push) -> list[Measurement]:
    """Forces on the finger from the twist that they make, with a bias."""
    ratio = Rectangle(*SIDES).friction_ratio()
    out: list[Measurement] = []
    for k in range(1, len(truth.seconds)):
        force = np.zeros(3)
        if truth.touching[k] and truth.touching[k - 1]:
            move = compose(inverse(truth.object[k - 1]), truth.object[k])
            load = np.array([move[0], move[1], 0.0]) / (
                np.linalg.norm([*move[:2], ratio * yaw_of(move)])
            )
            relative = compose(inverse(truth.finger[k]), truth.object[k])
            c, s = np.cos(yaw_of(relative)), np.sin(yaw_of(relative))
            force = -2.0 * np.array([c * load[0] - s * load[1], s * load[0] + c * load[1], 0.0])
        reading = np.concatenate([force, np.zeros(3)]) + BIAS
        out.append(
            WrenchMeasurement(
                sensor="wrench",
                stamp=truth.stamp(k),
                frame="ee",
                force=reading[:3],
                torque=reading[3:],
                sequence=k,
            )
        )
    return out
