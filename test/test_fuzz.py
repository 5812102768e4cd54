"""Every field of every message wrong in every way: nothing raises, nothing infinite comes out.

A session gets good poses and, between them, messages of one type in which each field in turn is
NaN, infinite, zero, huge, negative or of the wrong length. ``pytest -m slow`` sends 10 000 of each
type, the quick run fewer.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class, typestore
from dnls_ros.io.messages import ADAPTERS, adapt
from dnls_ros.runtime.session import Session
from dnls_ros.runtime.types import Event
from dnls_ros.window.ingress import Settled
from dnls_ros.window.measurements import CameraIntrinsics, Reason
from dnls_ros.window.parameters import load_parameters

COMPOSE = Composer(message_class)
START = 1_700_000_000 * 10**9
STEP = 4_000_000
"""Between two messages [ns]."""
FLOATS = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1.7e308, -1.7e308, 1e-300)
INTEGERS = (0, 1, 2**31 - 1)
TEXTS = ("", "/", "nowhere", "x" * 10_000, "\x00", "ä/ö")
TAGS = Path(__file__).resolve().parents[1] / "config" / "tags_unknown.yaml"
CAMERA = CameraIntrinsics(focal=(400.0, 400.0), center=(320.0, 240.0), width=640, height=480)
ANCHOR = "geometry_msgs/msg/PoseWithCovarianceStamped"
SE3 = {"world_frame": "map", "solver.rate": 4.0, "window.duration": 1.0, "deterministic": True}


def good(type_name: str, stamp: int) -> Any:
    """A valid message of a type."""
    pose, twist = np.array([1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 1.0]), np.full(6, 0.1)
    covariance = 0.01 * np.eye(6)
    corners = np.array([[300.0, 200.0], [340.0, 200.0], [340.0, 160.0], [300.0, 160.0]])
    tags = COMPOSE.april_tags(stamp, "camera", [("tag36h11", 1, corners, 50.0)])
    makers = {
        ANCHOR: lambda: COMPOSE.pose_with_covariance_stamped(stamp, "map", pose, covariance),
        "geometry_msgs/msg/PoseStamped": lambda: COMPOSE.pose_stamped(stamp, "map", pose),
        "nav_msgs/msg/Odometry": lambda: COMPOSE.odometry(
            stamp, "odom", "base_link", pose, twist, covariance, covariance
        ),
        "apriltag_msgs/msg/AprilTagDetectionArray": lambda: tags,
    }
    if type_name in makers:
        return makers[type_name]()
    made = filled(type_name, stamp)
    return dataclasses.replace(made, **TOUCHING[type_name]) if type_name in TOUCHING else made


PIXELS = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
TOUCHING: dict[str, dict[str, Any]] = {
    "dnls_ros/msg/ContactState": {"in_contact": True, "has_center": True},
    "dnls_ros/msg/TactileRelativePose": {"axes": 32},
    "geometry_msgs/msg/WrenchStamped": {},
    "sensor_msgs/msg/Image": {
        "height": 8, "width": 8, "encoding": "rgb8", "step": 24, "data": PIXELS.reshape(-1),
    },
    "sensor_msgs/msg/CompressedImage": {"data": cv2.imencode(".png", PIXELS)[1].reshape(-1)},
}  # fmt: skip
"""Messages of touch, with what fits together in them."""
FINGER = np.array([0.88, 2.0, 0.0, 0.0, 0.0, 0.0, 1.0])
"""At the left side of the object that the anchor tells of."""


def touched(type_name: str) -> Any:
    """A session with an object, its finger, and the sensor under test on that."""
    (kind, *_) = ADAPTERS[type_name].sensor_types
    shape = {"type": "rect", "size": [0.24, 0.16]}
    tested: dict[str, Any] = {"type": kind, "topic": "under_test", "extrinsic": [0.0] * 6}
    if kind == "tactile_image":
        tested |= {"axes": ["distance"], "image.size": [8, 8]}
    given = {
        **SE3,
        "window.min_state_gap": 0.02,
        "tracks": ["object", "ee"],
        "track.object": {
            "motion": "quasi_static_push", "pusher_track": "ee", "shape": shape,
            "child_frame": "thing",
        },
        "sensors": ["anchor", "finger", "tested"],
        "sensor.anchor": {"type": "pose", "topic": "anchor", "extrinsic": [0.0] * 6},
        "sensor.finger": {
            "type": "pose", "topic": "finger", "track": "ee", "extrinsic": [0.0] * 6,
        },
        "sensor.tested": tested,
    }  # fmt: skip
    return load_parameters(given)


def filled(type_name: str, stamp: int) -> Any:
    """A message built from its definition: small numbers, unit quaternions, real frames."""
    kind = message_class(type_name)
    names = {f.name: str(f.type) for f in members(kind)}
    return kind(**{name: value_of(text, name, stamp) for name, text in names.items()})


def members(kind: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a message, without its constants."""
    return [
        f
        for f in dataclasses.fields(kind)
        if f.init and f.name[0] != "_" and "ClassVar" not in str(f.type)
    ]


def value_of(kind: str, name: str, stamp: int) -> Any:
    """A valid value for a field by its annotation and name."""
    if name == "stamp_i":
        return COMPOSE.time(stamp - 100_000_000)
    if name == "header":
        return COMPOSE.header(stamp, "base_link")
    if name in ("orientation", "rotation"):
        return COMPOSE.quaternion(np.array([0.0, 0.0, 0.0, 1.0]))
    if "ndarray" in kind:
        return array_of(name)
    if kind in ("float", "int", "bool", "str"):
        return {"float": 0.1, "int": 1, "bool": False, "str": "base_link"}[kind]
    if kind.startswith("list"):
        inner = kind[kind.index("[") + 1 : -1]
        return ["a"] if inner == "str" else [filled(typename(inner), stamp)]
    return filled(typename(kind), stamp)


def array_of(name: str) -> np.ndarray:
    if "covariance" in name:
        size = 3 if name in IMU_COVARIANCES else 6
        return 0.01 * np.eye(size).ravel()
    sizes = {"k": np.array([400.0, 0, 320, 0, 400, 240, 0, 0, 1]), "d": np.zeros(5)}
    sizes |= {
        "pixels": np.array([300.0, 200, 340, 200, 340, 160, 300, 160]),
        "points": np.zeros(0),
    }
    return sizes.get(name, np.full(1, 1.5))


IMU_COVARIANCES = (
    "orientation_covariance",
    "angular_velocity_covariance",
    "linear_acceleration_covariance",
)


def typename(annotation: str) -> str:
    """``geometry_msgs/msg/Pose`` of rosbags' ``geometry_msgs__msg__Pose``."""
    return annotation.strip("'\"").replace("__", "/")


def spoiled(value: Any, name: str = "") -> Iterator[Any]:
    """Copies of a message, each with one thing wrong."""
    if isinstance(value, bool):
        return
    if isinstance(value, float):
        yield from FLOATS
    elif isinstance(value, int):
        yield from INTEGERS
    elif isinstance(value, str):
        yield from TEXTS
    elif isinstance(value, np.ndarray):
        yield from spoiled_arrays(value)
    elif isinstance(value, list):
        yield []
        yield value * 3
        yield from ([one] for one in spoiled(value[0]))
    elif dataclasses.is_dataclass(value):
        for field in members(value):
            for wrong in spoiled(getattr(value, field.name), field.name):
                yield dataclasses.replace(value, **{field.name: wrong})


def spoiled_arrays(value: np.ndarray) -> Iterator[np.ndarray]:
    yield value[:-1] if len(value) else np.ones(1)
    yield np.append(value, 1.0)
    yield np.zeros(0)
    for wrong, place in itertools.product(FLOATS, {0, len(value) // 2, len(value) - 1}):
        if len(value):
            changed = np.array(value, dtype=np.float64)
            changed[place] = wrong
            yield changed
            yield np.full(len(value), wrong)


def config_for(type_name: str) -> Any:
    """A session with an anchor and the sensor under test."""
    (kind, *_) = ADAPTERS[type_name].sensor_types
    sensor: dict[str, Any] = {"type": kind, "topic": "under_test"}
    if kind in ("pose_stamped", "imu", "range_bearing", "twist", "odometry", "relative_pose"):
        sensor["extrinsic"] = [0.0] * 6
    if kind == "pose_stamped":
        sensor |= {"sigma": [0.1] * 3, "frame_override": "map"}
    if kind == "landmarks":
        sensor |= {"camera_info_topic": "info", "extrinsic": [0.0, 0, 0, -1.57, 0.0, -1.57]}
        sensor["landmarks"] = {"map_file": str(TAGS)}
    if kind == "odometry":
        sensor["differential"] = True
    anchor = {"type": "pose", "topic": "anchor", "ignition": True}
    given = {
        **SE3,
        "sensors": ["anchor", "tested"],
        "sensor": {"anchor": anchor, "tested": sensor},
    }
    return load_parameters(given)


def check(session: Session) -> None:
    """What leaves is finite; events do not speak of our own failures."""
    for output in session.take():
        if isinstance(output, Event):
            assert output.code != "solver.exception", output.text
        elif not isinstance(output, Settled):
            for track in output.tracks.values():
                assert np.isfinite(track.poses).all()
                assert np.isfinite(track.covariance).all()
                assert np.isfinite(track.twist).all()


def fuzz(type_name: str, count: int) -> Session:
    touch = type_name in TOUCHING
    session = Session(touched(type_name) if touch else config_for(type_name))
    if ADAPTERS[type_name].sensor_types == ("landmarks",):
        session.set_intrinsics("tested", CAMERA)
    variants = itertools.cycle(spoiled(good(type_name, START)))
    for number in range(count):
        stamp = START + (number + 1) * STEP
        if number % 25 == 0:
            message = good(ANCHOR, stamp)
            session.receive(adapt("anchor", ANCHOR, message, number), stamp)
            if touch:
                pose = COMPOSE.pose_with_covariance_stamped(stamp, "map", FINGER, 1e-6 * np.eye(6))
                session.receive(adapt("finger", ANCHOR, pose, number), stamp)
        wrong = restamped(next(variants), stamp)
        session.receive(adapt("tested", type_name, wrong, number), stamp)
        check(session)
    session.finish()
    check(session)
    return session


def restamped(message: Any, stamp: int) -> Any:
    """The message at a new time, unless its stamp is what is wrong with it."""
    header = message.header
    if COMPOSE.time(START) != header.stamp:
        return message
    changed = {"header": dataclasses.replace(header, stamp=COMPOSE.time(stamp))}
    if hasattr(message, "stamp_i") and message.stamp_i == COMPOSE.time(START - 100_000_000):
        changed["stamp_i"] = COMPOSE.time(stamp - 100_000_000)
    return dataclasses.replace(message, **changed)


def judge(session: Session, count: int) -> None:
    tested = session.estimator.counters["tested"]
    assert tested.balanced
    assert tested.received == count
    assert sum(tested.rejected.values()) > 0.2 * count, tested
    assert tested.accepted > 0, tested
    anchor = session.estimator.counters["anchor"]
    assert anchor.accepted > 0.8 * anchor.received, anchor
    assert Reason.SUSPECT not in anchor.rejected


KINDS = sorted(ADAPTERS.keys() & typestore().types.keys())
"""All but the one type of ROS 1, whose definition lies in its recordings."""


@pytest.mark.parametrize("type_name", KINDS)
def test_a_thousand_bad_messages_of_each_type(type_name: str) -> None:
    judge(fuzz(type_name, 1000), 1000)


@pytest.mark.slow
@pytest.mark.parametrize("type_name", KINDS)
def test_ten_thousand_bad_messages_of_each_type(type_name: str) -> None:
    judge(fuzz(type_name, 10_000), 10_000)
