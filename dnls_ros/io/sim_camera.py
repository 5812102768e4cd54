"""What a tag detector finds in the simulated camera's images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dnls_ros.io.scene import Array, CameraSensor, Scene, Tag
from dnls_ros.io.sim_motion import Lap, Stamps, times, to_seconds, to_stamps


@dataclass(frozen=True, eq=False)
class Detection:
    """One tag in one image: corners (4, 2) in the detector's order [px] and a decision margin."""

    id: int
    corners: Array
    margin: float


@dataclass(frozen=True, eq=False)
class ImageLog:
    """What the tag detector found in each image."""

    stamps: Stamps
    detections: tuple[tuple[Detection, ...], ...]


def take_images(lap: Lap, duration: float, scene: Scene, random: np.random.Generator) -> ImageLog:
    """The detections of a whole run, at jittered instants of the camera's own."""
    camera = scene.camera
    seconds = times(duration, camera.rate, camera.phase)
    jitter = np.clip(
        random.normal(0.0, camera.jitter, len(seconds)), -3 * camera.jitter, 3 * camera.jitter
    )
    stamps = to_stamps(np.clip(seconds + jitter, 0.0, duration))
    poses = lap.at(to_seconds(stamps))
    return ImageLog(stamps, tuple(_detect(pose, scene, random) for pose in poses))


def _detect(pose: Array, scene: Scene, random: np.random.Generator) -> tuple[Detection, ...]:
    """The tags that the detector reports in an image taken at a planar pose (3,)."""
    camera = scene.camera
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    world_R_base = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    world_R_camera = world_R_base @ camera.base_R_camera
    world_p_camera = np.array([pose[0], pose[1], 0.0]) + world_R_base @ camera.base_p_camera
    found: list[Detection] = []
    for tag in scene.tags:
        pixels = _visible_corners(tag, world_R_camera, world_p_camera, camera)
        if pixels is None:
            continue
        # Drawn for every visible tag: one missed tag does not change the noise of the others.
        noise, luck = random.normal(0.0, camera.corner_sigma, (4, 2)), random.uniform()
        if luck >= camera.miss_probability:
            found.append(Detection(tag.id, pixels + noise, _shortest_side(pixels)))
    return tuple(found)


def _visible_corners(
    tag: Tag, rotation: Array, position: Array, camera: CameraSensor
) -> Array | None:
    """The exact corners (4, 2) [px] of a tag, or None where a detector would not find it."""
    sight = position - tag.position
    if tag.rotation[:, 2] @ sight <= np.cos(camera.max_view) * np.linalg.norm(sight):
        return None
    points = (tag.corners() - position) @ rotation
    # Far outside the image the distortion polynomial folds back into it.
    if np.any(points[:, 2] < 0.1) or np.any(np.abs(points[:, :2]) > 1.1 * points[:, 2:]):
        return None
    pixels = project(points, camera)
    upper = np.array(camera.size) - camera.border
    if (
        np.any(pixels < camera.border)
        or np.any(pixels > upper)
        or _shortest_side(pixels) < camera.min_side
    ):
        return None
    return pixels


def _shortest_side(pixels: Array) -> float:
    return float(np.min(np.linalg.norm(pixels - np.roll(pixels, 1, axis=0), axis=1)))


def project(points: Array, camera: CameraSensor) -> Array:
    """Pixels (n, 2) of points (n, 3) in the optical frame: pinhole with plumb_bob distortion."""
    k1, k2, p1, p2, k3 = camera.distortion
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    square = x * x + y * y
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    bent_x = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
    bent_y = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y
    return np.column_stack([bent_x, bent_y]) * camera.focal + camera.center
