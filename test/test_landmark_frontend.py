"""The landmark front end: its core on messages, and the node over DDS."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import module_rig
import numpy as np
import pytest
import yaml

from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class, typestore
from dnls_ros.io.landmark_frontend import FrontendOptions, LandmarkFrontend, observation_array
from dnls_ros.io.messages import adapt
from dnls_ros.window.landmark_file import read_landmark_map
from dnls_ros.window.measurements import (
    CameraIntrinsics,
    LandmarkMeasurement,
    Reason,
    Rejection,
)

ROOT = Path(__file__).resolve().parents[1]
TYPE = "apriltag_msgs/msg/AprilTagDetectionArray"
STAMP = 1_700_000_000_123_456_789
CORNERS = np.array([[100.0, 220.0], [180.0, 222.0], [182.0, 140.0], [99.0, 141.0]])
CAMERA = CameraIntrinsics(
    focal=(450.0, 452.0),
    center=(322.5, 238.0),
    distortion_model="plumb_bob",
    coefficients=(-0.28, 0.07, 0.0002, -0.0001, 0.0),
    width=640,
    height=480,
)
MAKE = Composer(message_class)
TAGS = (("tag36h11", 3, CORNERS, 60.0), ("tag36h11", 4, CORNERS + 50.0, 12.0))


def detections(stamp: int = STAMP, frame: str = "camera_optical", make: Composer = MAKE) -> Any:
    return make.april_tags(stamp, frame, TAGS)


def frontend(tmp_path: Path | None = None, **options: Any) -> LandmarkFrontend:
    front = LandmarkFrontend(FrontendOptions(**options))
    if tmp_path is not None:
        front.landmarks = read_landmark_map(write_map(tmp_path))
    assert front.set_camera(MAKE.camera_info(STAMP, "camera_optical", CAMERA)) == ""
    return front


def write_map(folder: Path) -> Path:
    path = folder / "tags.yaml"
    path.write_text(yaml.safe_dump({"family": "tag36h11", "sizes": {3: 0.2}}))
    return path


def test_the_estimator_reads_what_the_front_end_says(tmp_path: Path) -> None:
    """Pixels, sizes, camera and stamp survive the wire."""
    seen = frontend(tmp_path, sigma=0.4).translate(TYPE, detections(), 0)
    assert isinstance(seen, LandmarkMeasurement)
    kind = "dnls_ros/msg/LandmarkObservationArray"
    raw = typestore().serialize_cdr(observation_array(MAKE, seen), kind)
    read = adapt("tags", kind, typestore().deserialize_cdr(raw, kind))
    assert isinstance(read, LandmarkMeasurement)
    assert (read.stamp, read.frame) == (STAMP, "camera_optical")
    assert read.intrinsics is not None
    assert read.intrinsics.focal == CAMERA.focal
    assert read.intrinsics.coefficients == CAMERA.coefficients
    known, unknown = read.observations
    assert (known.id, unknown.id) == ("tag36h11:3", "tag36h11:4")
    np.testing.assert_array_equal(known.pixels, CORNERS)
    np.testing.assert_allclose(known.points, 0.1 * np.array(
        [[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]))  # fmt: skip
    assert unknown.points is None  # the map says nothing of it: the estimator's may
    assert known.sigma == pytest.approx(0.4)
    assert known.quality == 60.0


def test_tags_below_the_least_margin_are_left_out() -> None:
    seen = frontend(min_quality=20.0).translate(TYPE, detections(), 0)
    assert [one.id for one in seen.observations] == ["tag36h11:3"]


def test_stamps_and_frames_follow_the_options() -> None:
    seen = frontend(stamp_offset=-0.02).translate(TYPE, detections(), 0)
    assert seen.stamp == STAMP - 20_000_000
    seen = frontend(stamp_source="arrival").translate(TYPE, detections(0), STAMP + 5)
    assert seen.stamp == STAMP + 5
    seen = frontend(frame_override="left").translate(TYPE, detections(frame=""), 0)
    assert seen.frame == "left"


def test_the_rectified_image_has_no_distortion() -> None:
    seen = frontend(rectified=True).translate(TYPE, detections(), 0)
    assert seen.intrinsics.distortion_model == ""
    assert seen.intrinsics.focal == CAMERA.focal


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (detections(0), Reason.ZERO_STAMP),
        (detections(frame=""), Reason.EMPTY_FRAME),
        (SimpleNamespace(), Reason.BAD_SHAPE),
        (MAKE.april_tags(STAMP, "c", [("tag36h11", 3, np.nan * CORNERS, 1.0)]), Reason.NOT_FINITE),
    ],
)
def test_what_cannot_be_passed_on_is_counted(message: Any, reason: Reason) -> None:
    front = frontend()
    refused = front.translate(TYPE, message, 0)
    assert isinstance(refused, Rejection)
    assert refused.text
    assert front.refused == {reason: 1}
    assert (front.received, front.passed) == (1, 0)


def test_without_a_calibration_images_are_refused_and_a_bad_one_is_told() -> None:
    front = LandmarkFrontend(FrontendOptions())
    refused = front.translate(TYPE, detections(), 0)
    assert isinstance(refused, Rejection)
    assert refused.reason is Reason.MODEL_FAILED
    empty = CameraIntrinsics(focal=(0.0, 0.0), center=(0.0, 0.0))
    assert "focal" in front.set_camera(MAKE.camera_info(STAMP, "c", empty))
    assert front.camera is None


running = partial(module_rig.running, "landmark_frontend")


@pytest.mark.ros
@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("min_qualty:=1.0", "did you mean min_quality?"),
        ("stamp_source:=clock", "expected header or arrival"),
        ("sigma:=-1.0", "sigma: got -1.0; expected 0 or more"),
        ("map_file:=nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_a_wrong_parameter_ends_the_node_with_what_is_wrong(parameter: str, words: str) -> None:
    pytest.importorskip("rclpy")
    with running(parameter) as process:
        text, _ = process.communicate(timeout=60.0)
        assert process.returncode in (2, 3)
        assert words in text


@pytest.mark.ros
@pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")  # lark, used by rclpy
def test_the_node_publishes_observations_over_dds(tmp_path: Path) -> None:
    rclpy = pytest.importorskip("rclpy")
    pytest.importorskip("apriltag_msgs.msg")
    from node_rig import reliable_publisher, wait_for
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor

    from dnls_ros.ros import types

    context = Context()
    rclpy.init(context=context)
    peer = rclpy.create_node("peer", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(peer)
    got: list[Any] = []
    kind = "dnls_ros/msg/LandmarkObservationArray"
    observed = peer.create_subscription(
        types.message_class(kind), "landmark_frontend/observations", got.append, 10
    )
    images = reliable_publisher(peer, TYPE, "detections")
    info = reliable_publisher(peer, "sensor_msgs/msg/CameraInfo", "camera_info")
    make = Composer(types.message_class)

    def answered() -> bool:
        info.publish(make.camera_info(STAMP, "camera_optical", CAMERA))
        images.publish(detections(make=make))
        executor.spin_once(timeout_sec=0.2)
        return bool(got)

    try:
        with running(f"map_file:={write_map(tmp_path)}", "sigma:=0.4") as process:
            wait_for(answered, 60.0, "observations")
            process.send_signal(signal.SIGINT)
            text, _ = process.communicate(timeout=20.0)
            assert process.returncode == 0, text
            assert "passed" in text
    finally:
        executor.shutdown()
        peer.destroy_subscription(observed)
        peer.destroy_node()
        rclpy.shutdown(context=context)
    read = adapt("tags", kind, got[0])
    assert isinstance(read, LandmarkMeasurement)
    assert (read.stamp, read.frame) == (STAMP, "camera_optical")
    assert [one.id for one in read.observations] == ["tag36h11:3", "tag36h11:4"]
    assert read.observations[0].points is not None
    assert read.observations[0].sigma == pytest.approx(0.4)
    assert read.intrinsics is not None
    assert read.intrinsics.center == CAMERA.center


@pytest.mark.ros
@pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")  # lark, used by rclpy
def test_images_pass_while_the_node_is_active_and_a_latched_calibration_is_heard() -> None:
    pytest.importorskip("rclpy")
    pytest.importorskip("apriltag_msgs.msg")
    from node_rig import call, reliable_publisher, wait_for
    from rclpy.qos import DurabilityPolicy, QoSProfile

    from dnls_ros.ros.live import free_domain, local_node
    from dnls_ros.ros.types import message_class

    make = Composer(message_class)
    change = message_class("lifecycle_msgs/srv/ChangeState")
    transition = message_class("lifecycle_msgs/msg/Transition")
    kind = message_class("dnls_ros/msg/LandmarkObservationArray")
    with (
        local_node("manager", free_domain()) as node,
        running("autostart:=false") as process,
    ):
        got: list[Any] = []
        node.create_subscription(kind, "landmark_frontend/observations", got.append, 10)
        images = reliable_publisher(node, TYPE, "detections")
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        info = message_class("sensor_msgs/msg/CameraInfo")
        calibration = node.create_publisher(info, "camera_info", latched)
        calibration.publish(make.camera_info(STAMP, "camera_optical", CAMERA))  # said once
        client = node.create_client(change, "landmark_frontend/change_state")
        assert client.wait_for_service(40.0)

        def go(number: int) -> bool:
            return call(client, change.Request(transition=transition(id=number))).success

        def seen() -> bool:
            images.publish(detections(make=make))
            time.sleep(0.05)
            return bool(got)

        assert not images.get_subscription_count()
        for _ in range(2):  # a second configure starts from nothing
            assert go(transition.TRANSITION_CONFIGURE)
            wait_for(lambda: images.get_subscription_count() == 1, 20.0, "images wanted")
            wait_for(lambda: calibration.get_subscription_count() == 2, 20.0, "the latched one")
            for _ in range(10):
                assert not seen(), "not active"
            assert go(transition.TRANSITION_ACTIVATE)
            wait_for(seen, 20.0, "observations")
            assert not go(transition.TRANSITION_CONFIGURE)
            assert go(transition.TRANSITION_DEACTIVATE)
            time.sleep(0.3)
            got.clear()
            assert go(transition.TRANSITION_CLEANUP)
            wait_for(lambda: not images.get_subscription_count(), 20.0, "the topics to go")
        assert go(transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
        text, _ = process.communicate(timeout=20.0)
        assert process.returncode == 0, text
        assert text.count("passed") == 2


@pytest.mark.ros
def test_parameters_do_not_change_while_the_node_is_active(tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    import rclpy
    from rclpy.context import Context
    from rclpy.lifecycle import TransitionCallbackReturn
    from rclpy.parameter import Parameter

    from dnls_ros.ros.landmark_frontend import LandmarkFrontendNode

    context = Context()
    rclpy.init(context=context)
    node = LandmarkFrontendNode(context=context)
    success, failure = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
    try:
        node.set_parameters([Parameter("sigma", value=-1.0)])
        assert node.trigger_configure() == failure  # and may be tried again
        node.set_parameters([Parameter("sigma", value=0.5)])
        assert node.trigger_configure() == success
        assert node.trigger_activate() == success
        (refused,) = node.set_parameters([Parameter("sigma", value=0.7)])
        assert not refused.successful
        assert "set while inactive" in refused.reason
        assert node.setting("sigma") == 0.5
        assert node.trigger_deactivate() == success
        (taken,) = node.set_parameters([Parameter("sigma", value=0.7)])
        assert taken.successful
    finally:
        node.trigger_shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert node.ended.is_set()
