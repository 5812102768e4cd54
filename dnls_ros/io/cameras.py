"""Camera intrinsics from what ROS and calibration tools write.

Distortion models carry several names for the same formula; here they become the two that the
camera costs know, ``plumb_bob`` (k1 k2 p1 p2 k3) and ``equidistant`` (k1 k2 k3 k4), or ``""`` for
rectified pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dnls_ros.io import fields
from dnls_ros.io.fields import Array, FieldError
from dnls_ros.window.measurements import CameraIntrinsics, Reason, Rejection

_MODELS = {
    "": "",
    "none": "",
    "plumb_bob": "plumb_bob",
    "radtan": "plumb_bob",
    "rational_polynomial": "plumb_bob",
    "equidistant": "equidistant",
    "equi": "equidistant",
    "fisheye": "equidistant",
}

_LENGTH = {"": 0, "plumb_bob": 5, "equidistant": 4}


def camera_from_matrix(
    matrix: Array, model: str, coefficients: Array, size: tuple[int, int] = (0, 0)
) -> CameraIntrinsics:
    """Make intrinsics of a camera matrix and distortion coefficients.

    Args:
        matrix: (9,) row-major K = [fx 0 cx; 0 fy cy; 0 0 1] [px].
        model: Distortion model, in any of its usual names; ``""`` for rectified pixels.
        coefficients: As many as the model has; missing ones at the end are zero.
        size: Image width and height [px], 0 = unknown.

    Raises:
        FieldError: No positive focal length, skew, an unknown model or coefficients that the model
            lacks.
    """
    fx, skew, cx, fy, cy = (float(matrix[i]) for i in (0, 1, 2, 4, 5))
    if fx <= 0.0 or fy <= 0.0 or skew != 0.0:
        raise FieldError(f"k should have positive focal lengths and no skew, got {fx} {fy} {skew}")
    name, kept = distortion(model, coefficients)
    return CameraIntrinsics(
        focal=(fx, fy),
        center=(cx, cy),
        distortion_model=name,
        coefficients=kept,
        width=size[0],
        height=size[1],
    )


def distortion(model: str, coefficients: Array) -> tuple[str, tuple[float, ...]]:
    """Bring a distortion model to our name and number of coefficients."""
    name = _MODELS.get(model.lower())
    if name is None:
        known = ", ".join(repr(known) for known in _MODELS)
        raise FieldError(f"distortion model {model!r} is unknown, expected one of {known}")
    length = _LENGTH[name]
    if np.any(coefficients[length:]):
        raise FieldError(
            f"distortion model {model!r} has {len(coefficients)} coefficients, "
            f"those after the first {length} should be zero"
        )
    kept = np.zeros(length)
    kept[: len(coefficients)] = coefficients[:length]
    return name, tuple(kept.tolist())


def camera_from_info(message: Any, rectified: bool = False) -> CameraIntrinsics | Rejection:
    """Read a sensor_msgs/CameraInfo of ROS 2 or ROS 1; never raises.

    Args:
        message: Any object with CameraInfo's attributes.
        rectified: The pixels come from the rectified image: use the projection matrix P and no
            distortion.

    Returns:
        The intrinsics of the image as published (binning and region of interest applied), or a
        rejection whose sensor is empty.
    """
    try:
        return _read_info(message, rectified)
    except FieldError as refusal:
        reason, words = refusal.reason, str(refusal)
    except Exception as error:  # a foreign object may raise anything
        reason, words = Reason.BAD_SHAPE, f"{type(error).__name__}: {error}"
    return Rejection("", 0, reason, f"sensor_msgs/msg/CameraInfo: {words}")


def _read_info(message: Any, rectified: bool) -> CameraIntrinsics:
    matrix = _info_numbers(message, "k", 9)
    model = fields.text(message.distortion_model, "distortion_model")
    coefficients = _info_numbers(message, "d", None)
    if rectified:
        matrix = _info_numbers(message, "p", 12).reshape(3, 4)[:, :3].reshape(9)
        model, coefficients = "", coefficients[:0]
    shift, binning, size = _window(message)
    return camera_from_matrix(_crop(matrix, shift, binning), model, coefficients, size)


def _window(message: Any) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Read the image's offset on the sensor, its binning and its own size [px]."""
    roi = message.roi
    x, y = (
        fields.integer(roi.x_offset, "roi.x_offset"),
        fields.integer(roi.y_offset, "roi.y_offset"),
    )
    columns = max(1, fields.integer(message.binning_x, "binning_x"))
    rows = max(1, fields.integer(message.binning_y, "binning_y"))
    width = fields.integer(roi.width, "roi.width") or fields.integer(message.width, "width")
    height = fields.integer(roi.height, "roi.height") or fields.integer(message.height, "height")
    return (x, y), (columns, rows), (width // columns, height // rows)


def _info_numbers(message: Any, name: str, count: int | None) -> Array:
    """Read K, D or P, which ROS 1 writes in capitals."""
    values = getattr(message, name) if hasattr(message, name) else getattr(message, name.upper())
    return fields.finite(fields.numbers(values, name, count), name)


def _crop(matrix: Array, shift: tuple[int, int], binning: tuple[int, int]) -> Array:
    """Turn the full-resolution matrix into that of the cropped, then binned image."""
    result = matrix.copy()
    result[[2, 5]] -= shift
    result[:3] /= binning[0]
    result[3:6] /= binning[1]
    return result
