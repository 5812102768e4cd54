"""Camera poses from points of known shape: the perspective-n-point problem, solved with OpenCV.

A planar target seen small or nearly face on has two poses that explain its image almost equally
well (Collins and Bartoli, "Infinitesimal plane-based pose estimation", IJCV 2014, §5): the true
one and roughly its mirror image about the line of sight. Both minima are returned, best first, and
the choice is left to whoever sees the target again. Closed forms start from undistorted
coordinates; every candidate is then refined on the pixels as measured, with the camera's full
distortion, so that its residual is comparable with what the estimator will minimize.

Nothing here raises for bad geometry (collinear, tiny, behind the camera, NaN): there are then
simply no candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dnls_ros.window.measurements import CameraIntrinsics
from dnls_ros.window.reprojection import PoseFit, Sighting, refine, undistort
from dnls_ros.window.rigid import (
    angle_between,
    compose,
    from_rotation,
    from_rotation_vector,
    transform,
)

Array = NDArray[np.float64]

_PLANAR = 1e-4  # thickness over length below which points count as coplanar
_COLLINEAR = 1e-3  # width over length below which points count as collinear
_SMALLEST_IMAGE_PX = 2.0


def camera_from_body_candidates(
    points: Array, pixels: Array, intrinsics: CameraIntrinsics
) -> list[PoseFit]:
    """The poses ``camera_T_body`` that explain one image of a body, best first.

    Args:
        points: (K, 3) points in the body's frame [m], K ≥ 4.
        pixels: (K, 2) where the image shows them [px].
        intrinsics: The camera.

    Returns:
        Both minima for coplanar points where both exist, one pose otherwise, none for degenerate
        input.
    """
    if len(points) < 4 or not (np.all(np.isfinite(points)) and np.all(np.isfinite(pixels))):
        return []
    if _extents(pixels)[0] < _SMALLEST_IMAGE_PX:
        return []
    plane = undistort(pixels, intrinsics)
    usable = np.all(np.isfinite(plane), axis=1)
    if usable.sum() < 4:
        return []
    length, width, thickness = _extents(points[usable])
    if width <= _COLLINEAR * length:
        return []
    flat = bool(thickness < _PLANAR * length)
    starts = _closed_form(points[usable], plane[usable], flat)
    seen = [Sighting(points, pixels, intrinsics)]
    return distinct([fit for s in starts if (fit := refine(seen, s, math.inf)) is not None])


def camera_pose_from_map(
    points: Array,
    pixels: Array,
    intrinsics: CameraIntrinsics,
    starts: Sequence[Array] = (),
) -> list[PoseFit]:
    """The camera's poses from everything known in one image, robust against single wrong points.

    Args:
        points: (K, 3) known points in the world [m], of any number of bodies.
        pixels: (K, 2) where the image shows them [px].
        intrinsics: The camera.
        starts: Further ``camera_T_world`` (7,) to start from: a prediction, or the minima of
            single bodies.

    Returns:
        The distinct minima ``camera_T_world`` of the Huber cost, lowest first; empty when no
        start leads to one.
    """
    own = [fit.pose for fit in camera_from_body_candidates(points, pixels, intrinsics)]
    seen = [Sighting(points, pixels, intrinsics)]
    return distinct([fit for s in (*own, *starts) if (fit := refine(seen, s)) is not None])


def distinct(fits: Sequence[PoseFit]) -> list[PoseFit]:
    """The fits by rising cost, without those that refinement has led to the same minimum."""
    kept: list[PoseFit] = []
    for fit in sorted(fits, key=lambda f: f.cost):
        if all(_differ(fit.pose, other.pose) for other in kept):
            kept.append(fit)
    return kept


def _differ(a: Array, b: Array) -> bool:
    shift = float(np.linalg.norm(a[:3] - b[:3]))
    return angle_between(a, b) > 1e-3 or shift > 1e-3 * max(1.0, float(np.linalg.norm(a[:3])))


def _extents(points: Array) -> Array:
    """Singular values of centred points, largest first: their length, width and thickness."""
    centred = points - points.mean(axis=0)
    return np.linalg.svd(centred, compute_uv=False).astype(np.float64)


def _closed_form(points: Array, plane: Array, flat: bool) -> list[Array]:
    """Starting poses from normalized coordinates: both IPPE minima of a plane, SQPnP otherwise."""
    centre = points.mean(axis=0)
    axes = _plane_axes(points - centre, plane - plane.mean(axis=0)) if flat else np.eye(3)
    local_T_body = from_rotation(axes, -axes @ centre)
    local = transform(local_T_body, points)
    if flat:
        local[:, 2] = 0.0
    method = cv2.SOLVEPNP_IPPE if flat else cv2.SOLVEPNP_SQPNP
    try:
        found = cv2.solvePnPGeneric(local, plane, np.eye(3), None, flags=method)
    except cv2.error:
        return []
    poses: list[Array] = []
    for turn, translation in zip(found[1], found[2], strict=True):
        numbers = np.concatenate([np.ravel(turn), np.ravel(translation)]).astype(np.float64)
        if np.all(np.isfinite(numbers)):
            poses.append(compose(from_rotation_vector(numbers[:3], numbers[3:]), local_T_body))
    return [pose for pose in poses if np.all(transform(pose, points)[:, 2] > 0)]


def _plane_axes(points: Array, image: Array) -> Array:
    """Axes (3, 3), rows, of a plane's centred points: x and y as in the image, z away from it.

    The camera's rotation against them is a mere tilt. OpenCV's IPPE returns a rotation vector that
    is wrong at half a turn, and half a turn is what a tag that faces the camera has.
    """
    axes = np.linalg.svd(points)[2]
    axes[2] *= np.linalg.det(axes)  # a rotation, not a reflection
    affine = np.linalg.lstsq(points @ axes[:2].T, image, rcond=None)[0].T
    if np.linalg.det(affine) < 0:  # seen from behind: turn about x
        axes[1:] *= -1.0
        affine[:, 1] *= -1.0
    left, _, right = np.linalg.svd(affine)
    axes[:2] = left @ right @ axes[:2]
    return axes
