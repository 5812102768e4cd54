"""Projection through OpenCV's camera models, and the pose of one body from some images.

OpenCV gives ∂pixel/∂point of its pinhole models with distortion; a right perturbation of the
body's pose moves a body point x by ``R (v − x × ω)``. The two together make the few lines of
Levenberg–Marquardt by which starting poses are brought to a minimum before the estimator sees
them. The estimator's own costs are independent of this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from dnls_ros.errors import DnlsError
from dnls_ros.window.measurements import CameraIntrinsics
from dnls_ros.window.rigid import (
    IDENTITY,
    compose,
    from_rotation_vector,
    rotation_matrix,
    transform,
)

Array = NDArray[np.float64]

HUBER_PX = 2.0  # residuals above this count linearly [px]
_UNDISTORTED_PX = 0.05  # an undistorted point must project back to within this [px]
_LARGEST_DAMPING = 1e8
_CONVERGED = 1e-10  # relative to the cost


@dataclass(frozen=True, eq=False)
class Sighting:
    """Points of one body in one image.

    Attributes:
        points: (K, 3) in the frame of the body [m].
        pixels: (K, 2) where the image shows them [px].
        intrinsics: The camera.
        camera_T_world: (7,) where the camera was; the identity makes the camera the world.
    """

    points: Array
    pixels: Array
    intrinsics: CameraIntrinsics
    camera_T_world: Array = field(default_factory=lambda: IDENTITY)


@dataclass(frozen=True, eq=False)
class PoseFit:
    """A minimum of the reprojection error over the pose of one body.

    Attributes:
        pose: ``world_T_body`` (7,).
        rms_px: Root mean square of the residuals' norms [px].
        cost: Σ ρ(‖r‖), Huber, with ½‖r‖² for small residuals [px²].
        information: (6, 6) ``JᵀWJ`` of the tangent (v, ω) at unit pixel noise.
    """

    pose: Array
    rms_px: float
    cost: float
    information: Array


def project(points: Array, camera_T_body: Array, intrinsics: CameraIntrinsics) -> Array:
    """The pixels (K, 2) of body points (K, 3) [m]; NaN for points not in front of the camera."""
    in_camera = transform(camera_T_body, points)
    pixels = _project(in_camera, intrinsics)[0]
    return np.where(in_camera[:, 2:] > 0, pixels, math.nan)


def undistort(pixels: Array, intrinsics: CameraIntrinsics) -> Array:
    """Normalized image points (x/z, y/z) (K, 2); NaN where the distortion cannot be inverted.

    Raises:
        DnlsError: The distortion model or the number of its coefficients is unknown.
    """
    matrix, coefficients = _matrix(intrinsics), _coefficients(intrinsics)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 60, 1e-12)
    flat = np.ascontiguousarray(pixels, dtype=np.float64).reshape(-1, 1, 2)
    fisheye = intrinsics.distortion_model == "equidistant"
    function = cv2.fisheye.undistortPoints if fisheye else cv2.undistortPoints
    undistorted = function(flat, matrix, coefficients, criteria=criteria)
    plane = np.asarray(undistorted, dtype=np.float64).reshape(-1, 2)
    back = _project(np.column_stack([plane, np.ones(len(plane))]), intrinsics)[0]
    reached = np.linalg.norm(back - pixels, axis=1) < _UNDISTORTED_PX
    return np.where(reached[:, None], plane, math.nan)


def residual_norms(sightings: Sequence[Sighting], world_T_body: Array) -> Array:
    """‖projected − measured‖ of all points, in order [px]; infinite behind a camera."""
    parts: list[Array] = []
    for seen in sightings:
        projected = project(
            seen.points, compose(seen.camera_T_world, world_T_body), seen.intrinsics
        )
        norms = np.linalg.norm(projected - seen.pixels, axis=1)
        parts.append(np.where(np.isfinite(norms), norms, math.inf))
    return np.concatenate(parts)


def huber_cost(norms: Array, huber_px: float = HUBER_PX) -> float:
    """Σ ρ(‖r‖): ½‖r‖² up to ``huber_px``, linear beyond [px²]."""
    linear = np.minimum(norms, huber_px)
    return float((linear * (norms - 0.5 * linear)).sum())


def refine(
    sightings: Sequence[Sighting],
    start: Array,
    huber_px: float = HUBER_PX,
    iterations: int = 20,
) -> PoseFit | None:
    """Minimizes the (Huber) reprojection error of a body by Levenberg–Marquardt.

    Args:
        sightings: Where images show points of the body.
        start: ``world_T_body`` (7,) to start from.
        huber_px: Residuals above this count linearly [px]; infinite = least squares.
        iterations: Linearizations at most.

    Returns:
        The minimum, or None when it is not finite or lies behind a camera.
    """
    pose, damping = start, 1e-4
    cost, gradient, information = _linearize(sightings, pose, huber_px)
    for _ in range(iterations):
        if not math.isfinite(cost) or damping > _LARGEST_DAMPING:
            break
        damped = information + damping * np.diag(information.diagonal() + 1e-12)
        step = np.asarray(np.linalg.lstsq(damped, -gradient, rcond=None)[0], dtype=np.float64)
        if -gradient @ step <= _CONVERGED * cost:  # what the step promises to gain
            break
        trial_pose = compose(pose, from_rotation_vector(step[3:], step[:3]))
        trial = _linearize(sightings, trial_pose, huber_px)
        if not trial[0] < cost:
            damping *= 10.0
            continue
        pose, (cost, gradient, information) = trial_pose, trial
        damping = max(0.1 * damping, 1e-12)
    norms = residual_norms(sightings, pose)
    if not np.all(np.isfinite(norms)):
        return None
    return PoseFit(pose, math.sqrt(float(np.mean(norms**2))), cost, information)


def _linearize(
    sightings: Sequence[Sighting], world_T_body: Array, huber_px: float
) -> tuple[float, Array, Array]:
    """Cost, gradient (6,) and Gauss–Newton matrix (6, 6); infinite cost behind a camera."""
    cost, gradient, information = 0.0, np.zeros(6), np.zeros((6, 6))
    for seen in sightings:
        camera_T_body = compose(seen.camera_T_world, world_T_body)
        rotation = rotation_matrix(camera_T_body)
        in_camera = seen.points @ rotation.T + camera_T_body[:3]
        if not np.all(in_camera[:, 2] > 0):
            return math.inf, gradient, information
        projected, pixel_by_point = _project(in_camera, seen.intrinsics)
        by_v = pixel_by_point @ rotation
        by_ω = -by_v @ _hat(seen.points)
        residual = projected - seen.pixels
        norms = np.linalg.norm(residual, axis=1)
        weights = np.minimum(1.0, huber_px / np.maximum(norms, 1e-300))
        jacobian = np.concatenate([by_v, by_ω], axis=2).reshape(-1, 6)
        weighted = jacobian * np.repeat(weights, 2)[:, None]
        cost += huber_cost(norms, huber_px)
        gradient += weighted.T @ residual.ravel()
        information += weighted.T @ jacobian
    return cost, gradient, information


def _hat(vectors: Array) -> Array:
    """The matrices (K, 3, 3) of the cross products with vectors (K, 3)."""
    hat = np.zeros((len(vectors), 3, 3))
    hat[:, 2, 1], hat[:, 0, 2], hat[:, 1, 0] = vectors.T
    return hat - np.swapaxes(hat, 1, 2)


def _project(in_camera: Array, intrinsics: CameraIntrinsics) -> tuple[Array, Array]:
    """Pixels (K, 2) of points in camera axes, and ∂pixel/∂point (K, 2, 3)."""
    matrix, coefficients = _matrix(intrinsics), _coefficients(intrinsics)
    points = np.ascontiguousarray(in_camera, dtype=np.float64).reshape(-1, 1, 3)
    zero = np.zeros(3)
    if intrinsics.distortion_model == "equidistant":
        pixels, jacobian = cv2.fisheye.projectPoints(points, zero, zero, matrix, coefficients)
        by_translation = slice(11, 14)  # after focal lengths, centre, coefficients, rotation
    else:
        pixels, jacobian = cv2.projectPoints(points, zero, zero, matrix, coefficients)
        by_translation = slice(3, 6)  # after the rotation
    derivative = np.asarray(jacobian, dtype=np.float64)[:, by_translation].reshape(-1, 2, 3)
    return np.asarray(pixels, dtype=np.float64).reshape(-1, 2), derivative


def _matrix(intrinsics: CameraIntrinsics) -> Array:
    (fx, fy), (cx, cy) = intrinsics.focal, intrinsics.center
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _coefficients(intrinsics: CameraIntrinsics) -> Array:
    model, given = intrinsics.distortion_model, intrinsics.coefficients
    longest = {"": 0, "plumb_bob": 5, "equidistant": 4}
    if model not in longest or len(given) > longest[model]:
        raise DnlsError(
            f"camera: distortion model '{model}' with {len(given)} coefficients; expected "
            "'' with none, 'plumb_bob' with up to 5 (k1 k2 p1 p2 k3) or "
            "'equidistant' with up to 4 (k1 k2 k3 k4)"
        )
    return np.array([*given, *([0.0] * ((longest[model] or 4) - len(given)))])
