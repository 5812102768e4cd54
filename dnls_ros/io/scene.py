"""The simulated world as plain data: a room with tags, a route, and the sensors' quality.

A scene is read from YAML (``config/demo_scene.yaml`` is the demo's) and never changes. A tag's own
frame is seen by a viewer in front of it as x to the right, y up, z out of the wall towards the
viewer; with it the corners that the AprilTag 3 detector reports (bottom left first, then
counter-clockwise) are (-s,-s) (s,-s) (s,s) (-s,s), s = size/2.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.files import read_yaml

Array = NDArray[np.float64]

# Columns: the axes of an optical frame (right, down, forward) in a body frame (forward, left, up).
_BODY_R_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class Frames:
    """Names for ``header.frame_id``."""

    world: str
    odom: str
    base: str
    camera: str
    imu: str = "imu_link"


@dataclass(frozen=True)
class Route:
    """A closed smooth route: corner points of a periodic spline and the speed profile along it."""

    speed: float
    speed_variation: float
    speed_period: float
    waypoints: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Slip:
    """Wheels that turn more than the robot moves, now and then.

    Attributes:
        mean_interval: Mean time between two slips (exponential) [s].
        duration: Length of one slip [s].
        magnitude: Forward speed that is reported too much, as a fraction of the true speed.
        yaw_rate: Yaw rate that is reported too much, of random sign [rad/s].
    """

    mean_interval: float
    duration: float
    magnitude: float
    yaw_rate: float


@dataclass(frozen=True)
class OdometrySensor:
    """Wheel odometry: white noise per message, biases drawn once a recording, slips now and then.

    Attributes:
        rate: Messages per second [Hz].
        latency: Receive time minus header stamp [s].
        sigma: White noise of one message's twist: forward, lateral, yaw rate [m/s, m/s, rad/s].
        scale_error: Typical size of the forward scale error.
        yaw_bias: Typical size of the yaw-rate bias [rad/s].
        slip: See ``Slip``.
    """

    rate: float
    latency: float
    sigma: tuple[float, float, float]
    scale_error: float
    yaw_bias: float
    slip: Slip


@dataclass(frozen=True, eq=False)
class CameraSensor:
    """A camera that reports tag corners.

    Attributes:
        rate, phase, jitter, latency: Timing [Hz, s, s, s].
        size: (width, height) [px].
        focal, center: Pinhole intrinsics [px].
        distortion: (k1 k2 p1 p2 k3) of the plumb_bob model.
        base_p_camera: Mount position (3,) in the base frame [m].
        base_R_camera: Mount rotation (3, 3) of the optical frame.
        corner_sigma: Noise of each corner coordinate [px].
        miss_probability: Share of visible tags that are not reported.
        min_side: Shortest edge of a tag that is found [px].
        max_view: Largest angle between the tag's normal and the line of sight [rad].
        border: Corners nearer than this to the image's edge are not found [px].
    """

    rate: float
    phase: float
    jitter: float
    latency: float
    size: tuple[int, int]
    focal: tuple[float, float]
    center: tuple[float, float]
    distortion: tuple[float, ...]
    base_p_camera: Array
    base_R_camera: Array
    corner_sigma: float
    miss_probability: float
    min_side: float
    max_view: float
    border: float


@dataclass(frozen=True)
class AbsoluteSensor:
    """Planar absolute poses: timing and standard deviations of x, y, yaw [m, m, rad]."""

    rate: float
    phase: float
    latency: float
    sigma: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class ImuSensor:
    """An inertial unit: white noise per message and a bias of the gyro drawn once a recording.

    Attributes:
        rate, phase, latency: Timing [Hz, s, s].
        gyro_sigma: White noise of each rate [rad/s].
        gyro_bias: Standard deviation of each rate's bias [rad/s].
        orientation_sigma: White noise of the orientation about the world's axes, roll, pitch, yaw
            [rad].
        acceleration_sigma: White noise of each acceleration [m/s²].
        base_p_imu: Mount position (3,) in the base frame [m].
        base_R_imu: Mount rotation (3, 3).
    """

    rate: float
    phase: float
    latency: float
    gyro_sigma: float
    gyro_bias: float
    orientation_sigma: tuple[float, float, float]
    acceleration_sigma: float
    base_p_imu: Array
    base_R_imu: Array


@dataclass(frozen=True, eq=False)
class Tag:
    """One tag: edge of the black square [m], world_T_tag as position (3,), rotation (3, 3)."""

    id: int
    size: float
    position: Array
    rotation: Array

    def corners(self) -> Array:
        """The four corners (4, 3) in the world frame [m], in the module's order."""
        half = self.size / 2
        local = half * np.array(
            [[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]]
        )
        return self.position + local @ self.rotation.T


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything the simulator needs to know except seed and duration; imu None: there is none."""

    frames: Frames
    route: Route
    odometry: OdometrySensor
    camera: CameraSensor
    absolute: AbsoluteSensor
    truth_rate: float
    family: str
    tags: tuple[Tag, ...]
    imu: ImuSensor | None = None


def default_scene_path() -> Path:
    """Where the demo's scene lies: in the checkout, else in the installed share folder."""
    candidates = (
        Path(__file__).resolve().parents[2] / "config" / "demo_scene.yaml",
        Path(sys.prefix) / "share" / "dnls_ros" / "config" / "demo_scene.yaml",
    )
    for path in candidates:
        if path.is_file():
            return path
    raise UnreadableInputError(
        f"demo_scene.yaml is neither at {candidates[0]} nor at {candidates[1]}; name a scene file"
    )


def load_scene(path: str | Path | None = None) -> Scene:
    """The scene of a YAML file; ``None`` is the demo's.

    Raises:
        UnreadableInputError: the file is missing or no YAML.
        DnlsError: a key is missing, unknown or has a value of the wrong shape.
    """
    source = default_scene_path() if path is None else Path(path)
    tree = read_yaml(source)
    try:
        return _scene(tree)
    except KeyError as error:
        raise DnlsError(
            f"scene file {source}: key {error} is missing; see demo_scene.yaml"
        ) from error
    except (TypeError, ValueError) as error:
        raise DnlsError(
            f"scene file {source}: {error}; see demo_scene.yaml for keys and units"
        ) from error


def _scene(tree: dict[str, Any]) -> Scene:
    route = dict(tree["route"])
    route["waypoints"] = tuple((float(x), float(y)) for x, y in route["waypoints"])
    odometry = dict(tree["odometry"])
    odometry["sigma"] = _triple(odometry["sigma"])
    odometry["slip"] = Slip(**odometry["slip"])
    absolute = dict(tree["absolute"])
    absolute["sigma"] = _triple(absolute["sigma"])
    return Scene(
        frames=Frames(**tree["frames"]),
        route=Route(**route),
        odometry=OdometrySensor(**odometry),
        camera=_camera(dict(tree["camera"])),
        absolute=AbsoluteSensor(**absolute),
        truth_rate=float(tree["truth"]["rate"]),
        family=str(tree["tags"]["family"]),
        tags=tuple(_tag(entry) for entry in tree["tags"]["wall_tags"]),
        imu=_imu(dict(tree["imu"])) if "imu" in tree else None,
    )


def _triple(values: list[float]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _camera(entry: dict[str, Any]) -> CameraSensor:
    mount = entry.pop("mount")
    turn = Rotation.from_euler("ZY", [mount["yaw_degrees"], -mount["pitch_degrees"]], degrees=True)
    entry["max_view"] = float(np.deg2rad(entry.pop("max_view_degrees")))
    for key in ("size", "focal", "center", "distortion"):
        entry[key] = tuple(entry[key])
    return CameraSensor(
        **entry,
        base_p_camera=np.array(mount["position"], dtype=float),
        base_R_camera=turn.as_matrix() @ _BODY_R_OPTICAL,
    )


def _imu(entry: dict[str, Any]) -> ImuSensor:
    mount = entry.pop("mount")
    angles = [mount[f"{axis}_degrees"] for axis in ("yaw", "pitch", "roll")]
    entry["orientation_sigma"] = _triple(entry["orientation_sigma"])
    return ImuSensor(
        **entry,
        base_p_imu=np.array(mount["position"], dtype=float),
        base_R_imu=Rotation.from_euler("ZYX", angles, degrees=True).as_matrix(),
    )


def _tag(entry: dict[str, Any]) -> Tag:
    angle = np.deg2rad(entry["facing"])
    normal = np.array([np.cos(angle), np.sin(angle), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    rotation = np.stack([np.cross(up, normal), up, normal], axis=1)
    position = np.array(entry["position"], dtype=float)
    return Tag(int(entry["id"]), float(entry["size"]), position, rotation)
