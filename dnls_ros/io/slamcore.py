"""Folders of images and text tables with one calibration file as rosbag2 recordings.

The layout is that of the OpenLORIS-Scene data sets and of the sample that Slamcore publishes:
``odom.txt`` (pose and twist), ``groundtruth.txt``, ``*_gyroscope.txt``, ``*_accelerometer.txt``,
image folders with a table of stamps each, ``sensors.yaml`` (intrinsics) and ``trans_matrix.yaml``
(mounts). Whatever of it is there is converted; no noise is known, so that covariances are zero
("unknown") and the parts that an IMU message does not carry are marked absent by −1 (REP-145).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.spatial.transform import Rotation

from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.bag import BagWriter
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class
from dnls_ros.io.fields import Array
from dnls_ros.io.files import read_text
from dnls_ros.io.trajectory import row_numbers, row_stamp, rows_of
from dnls_ros.window.measurements import CameraIntrinsics

MAP, ODOM, BASE = "map", "odom", "base_link"
CAMERAS = {
    "color": "d400_color_optical_frame",
    "depth": "d400_depth_optical_frame",
    "aligned_depth": "d400_color_optical_frame",
    "fisheye1": "t265_fisheye1_optical_frame",
    "fisheye2": "t265_fisheye2_optical_frame",
}
"""Image folders and the frames, which are also the names in sensors.yaml, of their cameras."""
_MODELS = {"radial-tangential": ("plumb_bob", 5), "Kannala-Brandt": ("equidistant", 4)}
_ENCODINGS = {(2, 1): "mono8", (3, 1): "bgr8", (2, 2): "16UC1"}  # dimensions, bytes per value


@dataclass(frozen=True)
class SlamcoreSummary:
    """What ``convert_slamcore`` wrote: the recording and its messages per topic."""

    bag: Path
    topics: dict[str, int]
    duration: float


def convert_slamcore(
    directory: Path | str, out_bag: Path | str, overwrite: bool = False
) -> SlamcoreSummary:
    """Convert a data set; the receive stamps are the header stamps.

    Topics: ``odom``, ``ground_truth``, ``tf_static``, ``SENSOR/gyro``, ``SENSOR/accel``,
    ``CAMERA/image_raw`` and ``CAMERA/camera_info``.

    Args:
        directory: Folder with the tables.
        out_bag: The recording to write: a folder, or a file that ends in ``.mcap``.
        overwrite: Replace a recording that is there already.

    Raises:
        UnreadableInputError: There is no such table, or a file is damaged.
        DnlsError: ``out_bag`` exists and may not be replaced.
    """
    folder = Path(directory)
    entries = sorted(_entries(folder), key=lambda entry: entry.stamp)
    if not entries:
        raise UnreadableInputError(
            f"{folder} holds none of odom.txt, groundtruth.txt, *_gyroscope.txt, "
            f"*_accelerometer.txt, {', '.join(f'{name}.txt' for name in CAMERAS)}"
        )
    entries = [*_mounts(folder, entries[0].stamp), *entries]
    counts = Counter(entry.topic for entry in entries)
    with BagWriter(out_bag, overwrite) as bag:
        for entry in entries:
            bag.write(entry.topic, entry.make(), entry.stamp)
    span = entries[-1].stamp - entries[0].stamp
    return SlamcoreSummary(Path(out_bag), dict(sorted(counts.items())), span / 1e9)


@dataclass(frozen=True)
class _Entry:
    """A message to be made when it is written: images would not all fit into memory."""

    topic: str
    stamp: int
    make: Callable[[], Any]


def _entries(folder: Path) -> Iterator[_Entry]:
    compose = Composer(message_class)
    for stamp, row in _table(folder / "odom.txt", 13):
        make = partial(compose.odometry, stamp, ODOM, BASE, row[:7], row[7:])
        yield _Entry("odom", stamp, make)
    for stamp, row in _table(folder / "groundtruth.txt", 7):
        yield _Entry("ground_truth", stamp, partial(compose.pose_stamped, stamp, MAP, row))
    for kind, topic, key in (("gyroscope", "gyro", "turn"), ("accelerometer", "accel", "force")):
        for path in sorted(folder.glob(f"*_{kind}.txt")):
            name = f"{path.stem.removesuffix(f'_{kind}')}/{topic}"
            for stamp, row in _table(path, 3):
                yield _Entry(name, stamp, partial(_imu, compose, stamp, path.stem, **{key: row}))
    calibrations = _calibrations(folder)
    for name, frame in CAMERAS.items():
        yield from _images(folder, name, frame, calibrations.get(frame), compose)


def _images(
    folder: Path, name: str, frame: str, camera: CameraIntrinsics | None, compose: Composer
) -> Iterator[_Entry]:
    """The images of one camera, each with its calibration."""
    table = folder / f"{name}.txt"
    for line, (first, file) in _rows(table, 2):
        stamp = row_stamp(table, line, first)
        make = partial(_image, folder / file, stamp, frame, compose)
        yield _Entry(f"{name}/image_raw", stamp, make)
        if camera is not None:
            info = partial(compose.camera_info, stamp, frame, camera)
            yield _Entry(f"{name}/camera_info", stamp, info)


def _image(path: Path, stamp: int, frame: str, compose: Composer) -> Any:
    """An image file as sensor_msgs/Image, its values as they are."""
    import cv2

    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if pixels is None:
        raise UnreadableInputError(f"image {path} is missing or cannot be read")
    encoding = _ENCODINGS.get((pixels.ndim, pixels.dtype.itemsize))
    if encoding is None:
        raise UnreadableInputError(
            f"image {path} has {pixels.ndim} dimensions of {pixels.dtype}; "
            "expected grey, 8-bit colour or 16-bit depth"
        )
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels).view(np.uint8).reshape(-1)
    return message_class("sensor_msgs/msg/Image")(
        header=compose.header(stamp, frame),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=data.size // height,
        data=data,
    )


def _imu(
    compose: Composer,
    stamp: int,
    frame: str,
    turn: Array | None = None,
    force: Array | None = None,
) -> Any:
    """A sensor_msgs/Imu with one of turn rate [rad/s] and specific force [m/s²]."""
    unknown, absent = np.zeros(9), np.array([-1.0, *[0.0] * 8])
    return message_class("sensor_msgs/msg/Imu")(
        header=compose.header(stamp, frame),
        orientation=compose.quaternion(np.array([0.0, 0.0, 0.0, 1.0])),
        orientation_covariance=absent,
        angular_velocity=compose.vector(np.zeros(3) if turn is None else turn),
        angular_velocity_covariance=absent if turn is None else unknown,
        linear_acceleration=compose.vector(np.zeros(3) if force is None else force),
        linear_acceleration_covariance=absent if force is None else unknown,
    )


# --- Tables ----------------------------------------------------------------------------------


def _rows(path: Path, width: int) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and words of a table; nothing for an absent one."""
    if path.is_file():
        yield from rows_of(path, (width,), "a stamp [s] and values")


def _table(path: Path, width: int) -> Iterator[tuple[int, Array]]:
    """Stamps [ns] and numbers of a table."""
    for line, words in _rows(path, width + 1):
        yield row_stamp(path, line, words[0]), np.array(row_numbers(path, line, words[1:]))


# --- Calibration -----------------------------------------------------------------------------


class _MatrixLoader(yaml.SafeLoader):
    """YAML with OpenCV's matrices, which are mappings with a tag."""


def _matrix(loader: _MatrixLoader, node: yaml.Node) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]


_MatrixLoader.add_constructor("tag:yaml.org,2002:opencv-matrix", _matrix)


def _opencv_yaml(path: Path) -> dict[str, Any]:
    """A file that OpenCV wrote; its first line, ``%YAML:1.0``, is not YAML."""
    text = read_text(path)
    if text.startswith("%YAML:"):
        text = text.partition("\n")[2]
    try:
        content = yaml.load(text, Loader=_MatrixLoader)
    except yaml.YAMLError as error:
        raise UnreadableInputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UnreadableInputError(f"{path}: expected a mapping at the top level")
    return content  # type: ignore[return-value]


def _calibrations(folder: Path) -> dict[str, CameraIntrinsics]:
    """The cameras of sensors.yaml by frame."""
    path = folder / "sensors.yaml"
    if not path.is_file():
        return {}
    content = _opencv_yaml(path)
    try:
        cameras = {k: v for k, v in content.items() if v.get("sensor_type") == "camera"}
        return {frame: _camera(entry) for frame, entry in cameras.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableInputError(f"{path}: a camera cannot be read: {error!r}") from error


def _camera(entry: dict[str, Any]) -> CameraIntrinsics:
    """One camera; its intrinsics are in the order fx cx fy cy."""
    fx, cx, fy, cy = entry["intrinsics"]["data"]
    model, count = _MODELS[entry["distortion_model"]]
    coefficients = entry["distortion_coefficients"]["data"][:count]
    return CameraIntrinsics(
        focal=(float(fx), float(fy)),
        center=(float(cx), float(cy)),
        distortion_model=model,
        coefficients=tuple(float(value) for value in coefficients),
        width=int(entry["width"]),
        height=int(entry["height"]),
    )


def _mounts(folder: Path, stamp: int) -> list[_Entry]:
    """trans_matrix.yaml as one message of static transforms."""
    path = folder / "trans_matrix.yaml"
    if not path.is_file():
        return []
    compose = Composer(message_class)
    content = _opencv_yaml(path)
    try:
        transforms = [_mount(compose, entry, stamp) for entry in content["trans_matrix"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableInputError(f"{path}: a transform cannot be read: {error!r}") from error
    message = message_class("tf2_msgs/msg/TFMessage")(transforms=transforms)
    return [_Entry("tf_static", stamp, lambda: message)]


def _mount(compose: Composer, entry: dict[str, Any], stamp: int) -> Any:
    matrix = np.array(entry["matrix"]["data"], dtype=np.float64).reshape(4, 4)
    turn = Rotation.from_matrix(matrix[:3, :3]).as_quat(canonical=True)
    pose = np.concatenate([matrix[:3, 3], turn])
    return compose.transform_stamped(stamp, entry["parent_frame"], entry["child_frame"], pose)
