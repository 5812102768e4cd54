"""Quality of service on real DDS: overrides, latched calibrations, two sensors on one topic."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("dnls_ros.srv")

from node_rig import (
    COMPOSE,
    SERVICE_NAME,
    SPEED,
    TURN,
    accounts,
    error,
    planar_of,
    pose_at,
    reliable_publisher,
    spatial,
    stamp_of,
    truth,
    wait_for,
    wait_for_subscriptions,
    write_params,
)
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.errors import DnlsError
from dnls_ros.ros.live import NodeProcess, free_domain, local_node
from dnls_ros.ros.qos import publish_on, subscribe_to
from dnls_ros.ros.types import message_class
from dnls_ros.window.measurements import CameraIntrinsics

pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, used by rclpy
]

ODOMETRY = "nav_msgs/msg/Odometry"
CAMERA = CameraIntrinsics(focal=(400.0, 400.0), center=(320.0, 240.0), width=640, height=480)
OVERRIDES = {
    "/odom": {"subscription": {"reliability": "reliable", "depth": 50}},
    "/odometry/filtered": {"publisher": {"reliability": "best_effort"}},
}
RATE, COUNT = 10.0, 31


def parameters() -> dict[str, Any]:
    wheels = {"type": "odometry", "topic": "odom", "extrinsic": [0.0] * 6}
    start = {"mode": "params", "pose": [0.0, 0.0, 0.0], "sigma": [0.01, 0.01, 0.01]}
    return {
        "world_frame": "map",
        "deterministic": True,
        "tracks": ["robot", "head"],
        "sensors": ["turns", "speeds", "tags"],
        "solver": {"rate": 5.0},
        "track": {
            "robot": {"child_frame": "base", "motion": "none", "init": start},
            "head": {"motion": "random_walk", "init": start, "publish": False},
        },
        "sensor": {
            "turns": {**wheels, "differential": True, "axes": ["yaw"]},
            "speeds": {**wheels, "axes": ["vx", "vy"]},
            "tags": {"type": "landmarks", "track": "head", "topic": "tags", "qos.depth": 50,
                     "camera_info_topic": "camera_info", "extrinsic": [0.0] * 6},
        },
        "qos_overrides": OVERRIDES,
    }  # fmt: skip


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A drive past a latched calibration: offered quality of service, accounts, the last pose."""
    found: dict[str, Any] = {}
    domain = free_domain()
    with local_node("sender", domain) as node:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        info = message_class("sensor_msgs/msg/CameraInfo")
        calibration = node.create_publisher(info, "camera_info", latched)
        calibration.publish(COMPOSE.camera_info(stamp_of(0.0), "camera", CAMERA))  # said once
        odometry = reliable_publisher(node, ODOMETRY, "odom")
        images = reliable_publisher(node, "dnls_ros/msg/LandmarkObservationArray", "tags")
        params = write_params(tmp_path_factory.mktemp("qos") / "p.yaml", parameters())
        process = NodeProcess(params, domain)
        try:
            wait_for_subscriptions(process, [odometry])
            wait_for(lambda: odometry.get_subscription_count() == 2, 20.0, "both sensors")
            wait_for(lambda: calibration.get_subscription_count() == 2, 20.0, "the latched one")
            found["odom"] = node.get_subscriptions_info_by_topic("/odom")
            found["filtered"] = node.get_publishers_info_by_topic("/odometry/filtered")
            found["pose"] = node.get_publishers_info_by_topic("/pose")
            covariance = 1e-4 * np.eye(6)
            for k in range(COUNT):
                stamp, here = stamp_of(k / RATE), truth(k / RATE)
                twist = np.array([SPEED, 0, 0, 0, 0, TURN])
                said = COMPOSE.odometry(stamp, "odom", "base", spatial(here), twist, covariance)
                said.twist.covariance = covariance.ravel()
                odometry.publish(said)
                images.publish(empty_image(stamp))
                time.sleep(0.02)
            client = node.create_client(message_class("dnls_ros/srv/GetPoseAt"), SERVICE_NAME)
            wait_for(lambda: pose_at(client, 2.0).success, 20.0, "a pose")
            found["answer"] = pose_at(client, 2.0)
        finally:
            found["code"] = process.stop()
            print(process.log())
    found["accounts"] = accounts(process.log())
    return found


def empty_image(stamp: int) -> Any:
    """An image in which no tag is seen; without a calibration even that is refused."""
    corners = np.array([[300.0, 250.0], [340.0, 250.0], [340.0, 210.0], [300.0, 210.0]])
    seen = message_class("dnls_ros/msg/LandmarkObservation")(
        id="tag36h11:3", pixels=corners.ravel().tolist(), sigma_px=1.0, quality=1.0,
        points=[-0.1, -0.1, 0.0, 0.1, -0.1, 0.0, 0.1, 0.1, 0.0, -0.1, 0.1, 0.0],
    )  # fmt: skip
    array = message_class("dnls_ros/msg/LandmarkObservationArray")
    return array(header=COMPOSE.header(stamp, "camera"), k=[0.0] * 9, observations=[seen])


def test_two_sensors_hear_one_topic(drive: dict[str, Any]) -> None:
    for name in ("turns", "speeds"):
        account = drive["accounts"][name]
        assert account["received"] == account["accepted"] + account["waiting"] == COUNT
    assert drive["answer"].success
    far = error(planar_of(drive["answer"].pose.pose.pose), truth(2.0))
    assert np.abs(far).max() < 0.02
    assert drive["code"] == 0


def test_overrides_take_effect(drive: dict[str, Any]) -> None:
    reliability = [info.qos_profile.reliability for info in drive["odom"]]
    assert reliability == [ReliabilityPolicy.RELIABLE] * 2  # best effort is the default
    (filtered,) = drive["filtered"]
    assert filtered.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    (pose,) = drive["pose"]
    assert pose.qos_profile.reliability == ReliabilityPolicy.RELIABLE


def test_a_calibration_that_was_latched_before_is_heard(drive: dict[str, Any]) -> None:
    account = drive["accounts"]["tags"]
    assert account["received"] == account["accepted"] + account["waiting"] == COUNT


@pytest.fixture
def overriding() -> Generator[Any]:
    """Makes nodes with overrides, as a parameter file gives them."""
    context = Context()
    context.init(domain_id=free_domain())
    made: list[Node] = []

    def make(**overrides: Any) -> Node:
        prefix = "qos_overrides./odom.subscription."
        given = [Parameter(prefix + name, value=value) for name, value in overrides.items()]
        node = Node(
            "odd",
            context=context,
            parameter_overrides=given,
            automatically_declare_parameters_from_overrides=True,
        )
        made.append(node)
        return node

    yield make
    for node in made:
        node.destroy_node()
    context.shutdown()


def test_what_is_given_wins_and_the_rest_is_the_node_s(overriding: Any) -> None:
    node = overriding(depth=7, history="keep_last")
    for depth in (10, 20):  # as after a change of a parameter and a new configure
        qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        heard = subscribe_to(node, ODOMETRY, "odom", print, qos)
        assert (qos.depth, qos.history) == (7, HistoryPolicy.KEEP_LAST)
        assert qos.reliability == ReliabilityPolicy.BEST_EFFORT
        other = QoSProfile(depth=depth)
        sent = publish_on(node, ODOMETRY, "odom", other)
        assert other.depth == depth
        node.destroy_subscription(heard)
        node.destroy_publisher(sent)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("reliability", "realiable", "expected one of .*best_effort"),
        ("history", 3, "expected one of .*keep_last"),
        ("depth", 0, "expected an integer of at least 1"),
        ("depth", "many", "expected an integer of at least 1"),
    ],
)
def test_an_override_that_cannot_be_is_a_wrong_configuration(
    overriding: Any, name: str, value: Any, words: str
) -> None:
    node = overriding(**{name: value})
    with pytest.raises(DnlsError, match=rf"qos_overrides\./odom\.subscription\.{name}: .*{words}"):
        subscribe_to(node, ODOMETRY, "odom", print, QoSProfile(depth=1))
