"""Adapters: round trips, real message classes, and ten thousand messages of garbage a type."""

from __future__ import annotations

import bz2
import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dnls_ros.io import compose_touch
from dnls_ros.io.bag import BagReader
from dnls_ros.io.cameras import camera_from_info
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class, typestore
from dnls_ros.io.messages import ADAPTERS, adapt, find_adapter, types_for
from dnls_ros.io.yaml_files import load_tagslam_cameras
from dnls_ros.window.measurements import (
    CameraIntrinsics,
    Measurement,
    Reason,
    Rejection,
    TactileFrame,
)
from dnls_ros.window.tactile_frontend import Pair, Seen

DATA = Path(os.environ.get("DNLS_DATA", "../shared/data"))
STAMP = 1527206741_075612384
POSE = np.array([1.0, -2.0, 0.5, *Rotation.from_rotvec([0.7, -1.9, 0.4]).as_quat()])
COVARIANCE = np.diag([0.1, 0.2, 0.3, 0.01, 0.02, 0.03]) + 0.001
MAKE = Composer(message_class)
CAMERA = CameraIntrinsics(
    focal=(400.0, 410.0),
    center=(320.0, 240.0),
    distortion_model="plumb_bob",
    coefficients=(-0.1, 0.01, 0.001, 0.002, 0.0),
    width=640,
    height=480,
)


PIXELS = np.random.default_rng(0).integers(0, 255, (8, 10, 3), dtype=np.uint8)
PNG = cv2.imencode(".png", PIXELS)[1].reshape(-1)
FRAME = TactileFrame(sensor="gel", stamp=STAMP, frame="finger", sequence=7, image=PIXELS)
SEEN = Seen(
    stamp=STAMP,
    learning=False,
    in_contact=True,
    area=0.1,
    confidence=1.0,
    episode=1,
    since=STAMP - 10**8,
    touched=PIXELS[..., 0] > 100,
    pairs=(Pair(STAMP - 10**9, np.array([0.01, 0.0, 0.1]), np.array([0.1, 0.1, 0.01])),),
    measured=("yaw",),
)


def apriltag_array():
    """A ROS 1 apriltag_msgs/ApriltagArrayStamped."""
    corners = [SimpleNamespace(x=float(u), y=float(v), z=0.0) for u, v in np.eye(4, 2)]
    tag = SimpleNamespace(id=3, family="mit", hamming=1, border=1, bits=6, corners=corners)
    return SimpleNamespace(header=MAKE.header(STAMP, "camera"), apriltags=[tag, tag])


def landmark_array():
    """A dnls_ros/LandmarkObservationArray."""
    one = message_class("dnls_ros/msg/LandmarkObservation")(
        id="tag36h11:3",
        pixels=np.arange(8.0),
        points=np.arange(12.0),
        sigma_px=0.5,
        quality=60.0,
    )
    return message_class("dnls_ros/msg/LandmarkObservationArray")(
        header=MAKE.header(STAMP, "camera"),
        k=np.array([400.0, 0, 320, 0, 410, 240, 0, 0, 1]),
        distortion_model="plumb_bob",
        d=np.array([-0.1, 0.01, 0.001, 0.002]),
        observations=[one, one],
    )


def imu():
    """A sensor_msgs/Imu."""
    small = 0.01 * np.eye(3).reshape(9)
    return message_class("sensor_msgs/msg/Imu")(
        header=MAKE.header(STAMP, "imu"),
        orientation=MAKE.quaternion(POSE[3:]),
        orientation_covariance=small,
        angular_velocity=MAKE.vector(np.array([0.1, -0.2, 0.3])),
        angular_velocity_covariance=2 * small,
        linear_acceleration=MAKE.vector(np.array([0.0, 0.0, 9.8])),
        linear_acceleration_covariance=3 * small,
    )


MESSAGES = {
    "geometry_msgs/msg/PoseWithCovarianceStamped": lambda: MAKE.pose_with_covariance_stamped(
        STAMP, "map", POSE, COVARIANCE
    ),
    "geometry_msgs/msg/PoseStamped": lambda: MAKE.pose_stamped(STAMP, "map", POSE),
    "geometry_msgs/msg/TransformStamped": lambda: MAKE.transform_stamped(
        STAMP, "map", "block", POSE
    ),
    "geometry_msgs/msg/TwistWithCovarianceStamped": lambda: MAKE.twist_with_covariance_stamped(
        STAMP, "base_link", np.arange(6.0), COVARIANCE
    ),
    "nav_msgs/msg/Odometry": lambda: MAKE.odometry(
        STAMP, "odom", "base_link", POSE, np.arange(6.0), COVARIANCE, 2 * COVARIANCE
    ),
    "sensor_msgs/msg/Imu": imu,
    "dnls_ros/msg/RangeBearingArray": lambda: MAKE.range_bearing(
        STAMP, "base_link", ["6", "7"], np.array([1.0, 2.0]), np.array([0.1, -0.2]), (0.1, 0.05)
    ),
    "dnls_ros/msg/RelativePoseWithCovarianceStamped": lambda: MAKE.relative_pose(
        STAMP - 10**8, STAMP, "base_link", POSE, COVARIANCE
    ),
    "dnls_ros/msg/LandmarkObservationArray": landmark_array,
    "apriltag_msgs/msg/AprilTagDetectionArray": lambda: MAKE.april_tags(
        STAMP, "camera", [("tag36h11", 3, np.eye(4, 2), 55.0)]
    ),
    "apriltag_msgs/msg/ApriltagArrayStamped": apriltag_array,
    "dnls_ros/msg/ContactState": lambda: compose_touch.contact_state(MAKE, FRAME, SEEN, "gel"),
    "dnls_ros/msg/TactileRelativePose": lambda: compose_touch.relative_pose(
        MAKE, FRAME, SEEN, SEEN.pairs[0], "gel"
    ),
    "geometry_msgs/msg/WrenchStamped": lambda: compose_touch.wrench_stamped(
        MAKE, STAMP, "tip", np.arange(6.0)
    ),
    "sensor_msgs/msg/Image": lambda: compose_touch.image(MAKE, STAMP, "gel", PIXELS),
    "sensor_msgs/msg/CompressedImage": lambda: message_class("sensor_msgs/msg/CompressedImage")(
        header=MAKE.header(STAMP, "gel"), format="png", data=PNG
    ),
}


WITH_ROS = [
    name for name in MESSAGES if not any(word in name for word in ("Apriltag", "Landmark", "Imu"))
]


def accepted(type_name, message=None):
    result = adapt("it", type_name, MESSAGES[type_name]() if message is None else message, 7)
    assert isinstance(result, Measurement), result
    assert (result.sensor, result.stamp, result.sequence) == ("it", STAMP, 7)
    return result


def refused(type_name, message):
    result = adapt("it", type_name, message)
    assert isinstance(result, Rejection)
    return result


def test_every_registered_type_has_a_message_in_these_tests():
    assert set(MESSAGES) == set(ADAPTERS)


@pytest.mark.parametrize("type_name", [name for name in MESSAGES if "Apriltag" not in name])
def test_a_message_survives_the_wire(type_name):
    store = typestore()
    raw = store.serialize_cdr(MESSAGES[type_name](), type_name)
    accepted(type_name, store.deserialize_cdr(raw, type_name))


@pytest.mark.ros
@pytest.mark.parametrize("type_name", WITH_ROS)
def test_the_classes_of_rclpy_are_built_and_read_alike(type_name, monkeypatch):
    def generated(name):
        package, _, last = name.split("/")
        return getattr(pytest.importorskip(f"{package}.msg"), last)

    expected = accepted(type_name)
    monkeypatch.setitem(globals(), "MAKE", Composer(generated))
    result = accepted(type_name)
    for name, value in vars(expected).items():
        assert np.array_equal(getattr(result, name), value) or name == "observations"


def test_a_pose_comes_back_with_its_tangent_covariance():
    result = accepted("geometry_msgs/msg/PoseWithCovarianceStamped")
    assert result.frame == "map"
    assert np.array_equal(result.pose, POSE)
    assert np.allclose(result.covariance, COVARIANCE, rtol=0, atol=1e-15)


def test_poses_without_covariance_have_none():
    for name in ("geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/TransformStamped"):
        result = accepted(name)
        assert np.array_equal(result.pose, POSE)
        assert result.covariance is None


def test_odometry_keeps_pose_twist_and_both_covariances():
    result = accepted("nav_msgs/msg/Odometry")
    assert (result.frame, result.child_frame) == ("odom", "base_link")
    assert np.array_equal(result.twist, np.arange(6.0))
    assert np.allclose(result.covariance, COVARIANCE, rtol=0, atol=1e-15)
    assert np.array_equal(result.twist_covariance, 2 * COVARIANCE)


def test_a_relative_pose_keeps_both_stamps():
    result = accepted("dnls_ros/msg/RelativePoseWithCovarianceStamped")
    assert result.stamp_from == STAMP - 10**8
    assert np.allclose(result.covariance, COVARIANCE, rtol=0, atol=1e-15)


def test_ranges_and_bearings_keep_their_names():
    result = accepted("dnls_ros/msg/RangeBearingArray")
    assert result.ids == ("6", "7")
    assert result.ranges.tolist() == [1.0, 2.0]
    assert (result.sigma_range, result.sigma_bearing) == (0.1, 0.05)


def test_landmarks_bring_their_camera():
    result = accepted("dnls_ros/msg/LandmarkObservationArray")
    assert result.intrinsics.focal == (400.0, 410.0)
    assert result.intrinsics.coefficients == (-0.1, 0.01, 0.001, 0.002, 0.0)
    assert result.observations[1].points.shape == (4, 3)
    assert result.observations[0].sigma == 0.5


def test_landmarks_without_a_camera_matrix_leave_the_camera_to_the_sensor():
    message = landmark_array()
    message.k = np.zeros(9)
    assert accepted("dnls_ros/msg/LandmarkObservationArray", message).intrinsics is None


def test_tags_of_both_packages_get_the_same_name_and_corner_order():
    new = accepted("apriltag_msgs/msg/AprilTagDetectionArray").observations[0]
    old = accepted("apriltag_msgs/msg/ApriltagArrayStamped").observations[0]
    assert new.id == old.id == "tag36h11:3"
    assert np.array_equal(new.pixels, np.eye(4, 2))
    assert np.array_equal(old.pixels, np.eye(4, 2))
    assert (new.quality, old.quality) == (55.0, 0.5)


def test_a_family_without_its_prefix_is_the_same_family():
    message = MAKE.april_tags(STAMP, "camera", [("36h11", 3, np.eye(4, 2), 55.0)])
    result = accepted("apriltag_msgs/msg/AprilTagDetectionArray", message)
    assert result.observations[0].id == "tag36h11:3"


def test_an_image_without_tags_is_a_measurement():
    message = MAKE.april_tags(STAMP, "camera", [])
    assert accepted("apriltag_msgs/msg/AprilTagDetectionArray", message).observations == ()


def test_an_absent_covariance_is_none_and_an_unknown_one_stays_zero():
    for first, expected in ((-1.0, None), (0.0, 0.0)):
        message = MESSAGES["nav_msgs/msg/Odometry"]()
        for part in (message.pose, message.twist):
            part.covariance = np.zeros(36)
            part.covariance[0] = first
        result = accepted("nav_msgs/msg/Odometry", message)
        for matrix in (result.covariance, result.twist_covariance):
            assert (matrix is None) if expected is None else not matrix.any()


def test_each_flaw_has_its_reason():
    name = "geometry_msgs/msg/PoseWithCovarianceStamped"
    flaws = {
        Reason.NOT_FINITE: lambda m: setattr(m.pose.pose.position, "x", float("nan")),
        Reason.BAD_SHAPE: lambda m: setattr(m.pose, "covariance", np.zeros(35)),
        Reason.BAD_QUATERNION: lambda m: [
            setattr(m.pose.pose.orientation, axis, 0.0) for axis in "xyzw"
        ],
    }
    for reason, spoil in flaws.items():
        message = MESSAGES[name]()
        spoil(message)
        result = refused(name, message)
        assert (result.reason, result.stamp) == (reason, STAMP)
        assert name in result.text


def test_ranges_of_another_length_than_ids_are_a_bad_shape():
    message = MESSAGES["dnls_ros/msg/RangeBearingArray"]()
    message.ranges = np.zeros(3)
    assert refused("dnls_ros/msg/RangeBearingArray", message).reason == Reason.BAD_SHAPE


def test_an_unknown_type_is_refused_by_name():
    assert "std_msgs/msg/String" in refused("std_msgs/msg/String", object()).text


def test_types_are_found_in_both_spellings_and_by_sensor_type():
    assert find_adapter("nav_msgs/Odometry") is find_adapter("nav_msgs/msg/Odometry")
    assert types_for("odometry") == ("nav_msgs/msg/Odometry",)
    assert len(types_for("landmarks")) == 3
    assert types_for("no_such_sensor") == ()


class Hostile:
    """An object whose every attribute raises."""

    def __getattribute__(self, name):
        raise RuntimeError("no")


GARBAGE = [
    *(None, True, object(), Hostile(), lambda: 1, b"bytes", "text", "", {}, {"x": 1}, 1 + 2j),
    *(-1, 0, 10**400, 2**70, float("nan"), float("inf"), 1e308, 1e-320),
    *([], [1.0], ["a"], [[1.0, 2.0]], [1.0, [2.0]], (1, 2, 3), range(36)),
    *(np.full(36, value) for value in (0.0, 1e300, np.nan, np.inf, "a", None)),
    *(np.zeros(8), np.zeros((6, 6)), np.zeros(3, dtype=complex)),
]


def spoiled(message, rng):
    """A copy of a message in which about one field in eight is garbage or gone."""
    if isinstance(message, list):
        return [spoiled(item, rng) for item in message]
    names = getattr(message, "__dict__", None)
    if names is None:
        return message
    copy = SimpleNamespace()
    draws = rng.random(len(names))
    for (name, value), draw in zip(names.items(), draws, strict=True):
        if draw < 0.1:
            setattr(copy, name, GARBAGE[rng.integers(len(GARBAGE))])
        elif draw < 0.98:
            setattr(copy, name, spoiled(value, rng))
    return copy


@pytest.mark.parametrize("type_name", MESSAGES)
def test_ten_thousand_random_messages_raise_nothing(type_name):
    rng = np.random.default_rng(5)
    message = MESSAGES[type_name]()
    reasons = set()
    for _ in range(10_000):
        result = adapt("it", type_name, spoiled(message, rng))
        if isinstance(result, Rejection):
            assert result.text
            reasons.add(result.reason)
        else:
            assert_sound(result)
            reasons.add(Reason.ACCEPTED)
    # Bytes are always finite; the centre of a contact counts with its flag only.
    finite = "Image" in type_name or "ContactState" in type_name
    assert reasons >= {Reason.ACCEPTED, Reason.BAD_SHAPE}
    assert finite or Reason.NOT_FINITE in reasons


def assert_sound(measurement):
    """What an adapter lets through has the promised types; only covariances may be non-finite."""
    assert type(measurement.stamp) is int
    assert type(measurement.frame) is str
    arrays = [
        value
        for name, value in vars(measurement).items()
        if isinstance(value, np.ndarray)
        and "covariance" not in name
        and name != "image"
        and name != "image"
    ]
    arrays += [one.pixels for one in getattr(measurement, "observations", ())]
    for array in arrays:
        assert array.dtype == np.float64
        assert np.isfinite(array).all()


def test_random_camera_infos_raise_nothing():
    rng = np.random.default_rng(6)
    message = MAKE.camera_info(STAMP, "camera", CAMERA)
    for _ in range(10_000):
        result = camera_from_info(spoiled(message, rng), rectified=bool(rng.integers(2)))
        assert isinstance(result, CameraIntrinsics | Rejection)


def projected(points, camera):
    """Pixels of points in the camera's frame; our own formula, independent of the costs."""
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    k1, k2, p1, p2, k3 = camera.coefficients
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.stack([u, v], axis=1) * camera.focal + camera.center


def unpack(name, folder):
    source = DATA / "rosbag/tagslam_test/tests/test_13" / name
    if not source.exists():
        pytest.skip(f"needs {source}")
    path = folder / name.removesuffix(".bz2")
    path.write_bytes(bz2.decompress(source.read_bytes()))
    return path


def matrix_of(transform):
    q, t = transform.rotation, transform.translation
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    matrix[:3, 3] = t.x, t.y, t.z
    return matrix


def reference_frames(path):
    """The rig's poses by stamp, and the poses of boards and tags in their parents."""
    rig, parents = {}, {}
    with BagReader(path) as bag:
        for record in bag.records(["/tf"]):
            for one in record.message.transforms:
                if one.child_frame_id == "rig":
                    stamp = one.header.stamp.sec * 10**9 + one.header.stamp.nanosec
                    rig[stamp] = matrix_of(one.transform)
                else:
                    parents[one.child_frame_id] = (one.header.frame_id, matrix_of(one.transform))
    return rig, parents


def test_the_reference_of_a_real_recording_reprojects_on_our_corners(tmp_path):
    rig, parents = reference_frames(unpack("reference.bag.bz2", tmp_path))
    camera = load_tagslam_cameras(DATA / "rosbag/tagslam_test/tests/test_13/cameras.yaml")["cam0"]
    half = 0.06
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * half
    errors, frames = [], 0
    with BagReader(unpack("tag_detections.bag.bz2", tmp_path)) as bag:
        for record in bag.records([camera.tag_topic]):
            seen = adapt("tags", record.type, record.message)
            assert isinstance(seen, Measurement), seen
            frames += 1
            for one in seen.observations:
                board, board_T_tag = parents[f"tag_{one.id.removeprefix('tag36h11:')}"]
                camera_T_tag = np.linalg.inv(rig[seen.stamp]) @ parents[board][1] @ board_T_tag
                points = corners @ camera_T_tag[:3, :3].T + camera_T_tag[:3, 3]
                offsets = projected(points, camera.intrinsics) - one.pixels
                errors.extend(np.linalg.norm(offsets, axis=1))
    assert (frames, len(errors)) == (681, 51_384)
    assert np.median(errors) == pytest.approx(0.276, abs=5e-4)
    assert np.quantile(errors, 0.9) == pytest.approx(0.588, abs=5e-4)
