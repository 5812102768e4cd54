"""What a camera behind a round elastic gel sees while the fingertip touches an object.

The gel is a dome; where the object's outline reaches into it, it is dented. The dent is blurred as
rubber does, and lit from three sides in red, green and blue, as in a DIGIT sensor (Lambeta et al.,
2020). Where the object's surface turns against the finger, the dent moves along the gel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from dnls_ros.costs import Polygon
from dnls_ros.io.push_scene import Array, PushScene
from dnls_ros.io.sim_push import RATE, PushMotion, simulate_motion
from dnls_ros.io.tactile_json import TactileTrajectory

WIDTH, HEIGHT = 64, 48
"""Of an image [px]; columns go along the finger's y axis."""
SPAN = 0.016, 0.012
"""What an image shows, across and up [m]."""
COMPLIANCE = 3e-4
"""How far the gel gives way [m/N]."""
UPRIGHT_RADIUS = 0.03
"""Of the dome from top to bottom [m]."""
BLUR = 1.2
"""Of the rubber [px]."""
LIGHTS = np.array([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]])
"""Directions that red, green and blue come from, along the image's axes."""


@dataclass(frozen=True, eq=False)
class TactileLog:
    """Images (k, HEIGHT, WIDTH, 3) of 0 … 255, and the steps (k,) of the motion that they show."""

    steps: np.ndarray
    images: np.ndarray


def simulated_push(scene: PushScene, seed: int) -> TactileTrajectory:
    """One recording at the times of its images: true object, measured fingertip, contact."""
    motion = simulate_motion(scene, seed)
    log = take_images(scene, motion, seed)
    at = log.steps
    noise = np.random.default_rng([seed, 3]).normal(size=(len(at), 3)) * scene.noise.ee_sigma
    return TactileTrajectory(
        motion.object[at],
        motion.ee[at] + noise,
        np.zeros((len(at), 0)),
        motion.episode[at],
        motion.contact[at],
        motion.times[at],
        images=log.images,
        shape=scene.shape,
        size=tuple(motion.drawn.size),
        tip_radius=scene.tip_radius,
    )


def take_images(scene: PushScene, motion: PushMotion, seed: int) -> TactileLog:
    """The tactile images of a recording."""
    steps = sensor_steps(len(motion.times), scene.noise.image_rate)
    dents = indentations(scene, motion, steps)
    random = np.random.default_rng([seed, 2])
    base = _background(random)
    slope_up, slope_across = np.gradient(gaussian_filter(dents, (0, BLUR, BLUR)), axis=(1, 2))
    pixel = SPAN[0] / WIDTH
    shading = [(a * slope_across + u * slope_up) / pixel for a, u in LIGHTS]
    images = base + 60.0 * np.stack(shading, -1) + 4e4 * dents[..., None]
    seconds = motion.times[steps]
    phase, slow = random.uniform(0, 2 * np.pi, 3), random.uniform(0.02, 0.05, 3)
    drift = scene.noise.image_drift * np.sin(2 * np.pi * slow * seconds[:, None] + phase)
    images = images + drift[:, None, None]
    images += scene.noise.image_sigma * random.normal(size=images.shape)
    return TactileLog(steps, np.clip(np.rint(images), 0, 255).astype(np.uint8))


def sensor_steps(count: int, rate: float) -> np.ndarray:
    """The steps of the simulation at which a sensor of this rate measures."""
    return np.rint(np.arange(int(count / RATE * rate)) * RATE / rate).astype(np.int64)


def indentations(scene: PushScene, motion: PushMotion, steps: np.ndarray) -> Array:
    """(k, HEIGHT, WIDTH) how deep the gel is dented [m]."""
    across = SPAN[0] * ((np.arange(WIDTH) + 0.5) / WIDTH - 0.5)
    up = SPAN[1] * ((np.arange(HEIGHT) + 0.5) / HEIGHT - 0.5)
    gel = np.sqrt(np.clip(scene.tip_radius**2 - across**2, 0, None))
    wall = wall_distance(motion.polygon, motion.object[steps], motion.ee[steps], across)
    pressed = COMPLIANCE * np.linalg.norm(motion.force[steps], axis=1)
    dent = np.clip(gel + pressed[:, None] - wall, 0, 0.002) * motion.contact[steps, None]
    return np.clip(dent[:, None, :] - (up**2 / (2 * UPRIGHT_RADIUS))[:, None], 0, None)


def wall_distance(polygon: Polygon, object_: Array, ee: Array, across: Array) -> Array:
    """(k, s) how far ahead of the finger's centre the outline is, along its x axis [m].

    Rays from (0, across) of the finger's axes meet the edges; infinite where there is none.
    """
    corners = _seen_from(ee, object_, polygon.vertices)  # (k, n, 2)
    x, y = np.moveaxis(corners, -1, 0)
    next_x, next_y = np.roll(x, -1, 1), np.roll(y, -1, 1)
    s = across[:, None]
    with np.errstate(all="ignore"):
        share = (s - y[:, None]) / (next_y - y)[:, None]
        meets = x[:, None] + share * (next_x - x)[:, None]
    hit = (share >= 0) & (share < 1) & (meets > 0)
    return np.where(hit, meets, np.inf).min(-1)


def _seen_from(ee: Array, object_: Array, points: Array) -> Array:
    """Points (n, 2) of the object in the finger's axes, (k, n, 2)."""
    angle = object_[:, 2] - ee[:, 2]
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    gap = object_[:, :2] - ee[:, :2]
    ce, se = np.cos(ee[:, 2]), np.sin(ee[:, 2])
    x = c * points[:, 0] - s * points[:, 1] + (ce * gap[:, 0] + se * gap[:, 1])[:, None]
    y = s * points[:, 0] + c * points[:, 1] + (-se * gap[:, 0] + ce * gap[:, 1])[:, None]
    return np.stack([x, y], -1)


def _background(random: np.random.Generator) -> Array:
    """What the sensor shows untouched: three lamps, unevenly."""
    up, across = np.meshgrid(np.linspace(-1, 1, HEIGHT), np.linspace(-1, 1, WIDTH), indexing="ij")
    lit = [95 + 18 * (a * across + u * up) - 12 * (across**2 + up**2) for a, u in LIGHTS]
    return (
        np.stack(lit, -1) + gaussian_filter(random.normal(size=(HEIGHT, WIDTH, 3)), (4, 4, 0)) * 20
    )
