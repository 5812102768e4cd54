"""Camera calibrations from YAML files: camera_info_manager's and tagslam's formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnls_ros.errors import UnreadableInputError
from dnls_ros.io import fields
from dnls_ros.io.cameras import camera_from_matrix
from dnls_ros.io.fields import Array, FieldError
from dnls_ros.io.files import read_yaml
from dnls_ros.window.measurements import CameraIntrinsics


@dataclass(frozen=True)
class NamedCamera:
    """A camera as a calibration file knows it.

    Attributes:
        name: Its name in the file.
        intrinsics: The camera itself.
        tag_topic: Where its tag detections arrive; ``""`` where the file does not say.
        frame: Its optical frame; ``""`` where the file does not say.
    """

    name: str
    intrinsics: CameraIntrinsics
    tag_topic: str = ""
    frame: str = ""


def load_camera_calibration(path: Path | str, rectified: bool = False) -> NamedCamera:
    """Read one camera from a ROS camera calibration (camera_matrix, distortion_coefficients, …).

    Args:
        path: The YAML file that ``camera_calibration`` and ``camera_info_manager`` write.
        rectified: Use ``projection_matrix`` and no distortion, for pixels of the rectified image.

    Raises:
        UnreadableInputError: The file or one of its fields cannot be read.
    """
    content = read_yaml(path)
    try:
        return _calibrated(content, rectified)
    except (FieldError, KeyError, TypeError) as error:
        raise _unreadable(path, "a ROS camera calibration", error) from error


def load_tagslam_cameras(path: Path | str) -> dict[str, NamedCamera]:
    """Read all cameras of a tagslam ``cameras.yaml`` by name, in the order of the file.

    Raises:
        UnreadableInputError: The file or one of its fields cannot be read.
    """
    cameras: dict[str, NamedCamera] = {}
    for name, entry in read_yaml(path).items():
        try:
            cameras[name] = _tagslam_camera(str(name), entry)
        except (FieldError, KeyError, TypeError) as error:
            raise _unreadable(path, f"a tagslam camera under {name!r}", error) from error
    return cameras


def _calibrated(content: dict[str, Any], rectified: bool) -> NamedCamera:
    matrix = _matrix(content, "camera_matrix", 9)
    model = fields.text(content["distortion_model"], "distortion_model")
    coefficients = _matrix(content, "distortion_coefficients", None)
    if rectified:
        matrix = _matrix(content, "projection_matrix", 12).reshape(3, 4)[:, :3].reshape(9)
        model, coefficients = "", coefficients[:0]
    size = (_pixels(content["image_width"]), _pixels(content["image_height"]))
    name = str(content.get("camera_name", "camera"))
    return NamedCamera(name, camera_from_matrix(matrix, model, coefficients, size))


def _tagslam_camera(name: str, entry: dict[str, Any]) -> NamedCamera:
    if entry["camera_model"] != "pinhole":
        raise FieldError(f"camera_model should be 'pinhole', got {entry['camera_model']!r}")
    fx, fy, cx, cy = _numbers(entry["intrinsics"], "intrinsics", 4).tolist()
    coefficients = _numbers(entry["distortion_coeffs"], "distortion_coeffs", None)
    width, height = (_pixels(value) for value in entry["resolution"])
    matrix = np.array([fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0])
    return NamedCamera(
        name,
        camera_from_matrix(matrix, str(entry["distortion_model"]), coefficients, (width, height)),
        tag_topic=str(entry.get("tagtopic", "")),
        frame=str(entry.get("frame_id", "")),
    )


def _matrix(content: dict[str, Any], name: str, count: int | None) -> Array:
    return _numbers(content[name]["data"], name, count)


def _numbers(values: Any, name: str, count: int | None) -> Array:
    return fields.finite(fields.numbers(values, name, count), name)


def _pixels(value: Any) -> int:
    return fields.integer(value, "image size")


def _unreadable(path: Path | str, kind: str, error: Exception) -> UnreadableInputError:
    detail = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return UnreadableInputError(f"{path}: cannot be read as {kind}: {detail}")
