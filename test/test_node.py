"""The node in a process of its own, on real DDS: latency, queries, bad input, life cycle."""

from __future__ import annotations

import signal
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("dnls_ros.srv")

from node_rig import (
    COMPOSE,
    SERVICE_NAME,
    START,
    accounts,
    call,
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
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.io.compose_outputs import UNKNOWN_VARIANCE, usable_covariance
from dnls_ros.ros.listen import OdometryListener
from dnls_ros.ros.live import NodeProcess, free_domain, local_node
from dnls_ros.ros.types import message_class

pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, used by rclpy
]

GPS = {
    "world_frame": "map",
    "sensors": ["gps"],
    "solver": {"trigger": "measurement", "time_budget": 0.5},
    "track": {"object": {"motion_sigma": [0.2, 0.2, 0.2]}},
    "sensor": {
        "gps": {
            "type": "pose",
            "topic": "gps",
            "sigma_floor": [0.01],
            "qos": {"reliability": "reliable", "depth": 2000},
        }
    },
}
NOISE = np.diag([0.05, 0.05, 1.0, 1.0, 1.0, 0.05]) ** 2


def good_pose(seconds: float) -> Any:
    pose = spatial(truth(seconds))
    return COMPOSE.pose_with_covariance_stamped(stamp_of(seconds), "map", pose, NOISE)


class Bench:
    """A node fed with one pose sensor."""

    def __init__(self, node: Node, process: NodeProcess) -> None:
        self.node = node
        self.process = process
        kind = "geometry_msgs/msg/PoseWithCovarianceStamped"
        self.gps = reliable_publisher(node, kind, "gps")
        self.listener = OdometryListener(node)
        self.client = node.create_client(message_class("dnls_ros/srv/GetPoseAt"), SERVICE_NAME)

    def wait_until_subscribed(self) -> None:
        wait_for_subscriptions(self.process, [self.gps])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A running node; the module's tests feed it one after the other, with growing stamps."""
    params = write_params(tmp_path_factory.mktemp("gps") / "p.yaml", GPS)
    process = NodeProcess(params, free_domain())
    try:
        with local_node("bench", free_domain()) as node:
            made = Bench(node, process)
            made.wait_until_subscribed()
            yield made
    finally:
        process.stop()


def test_an_odometry_leaves_soon_after_its_measurement(bench):
    period = 0.05
    departures = []
    for k in range(60):
        departures.append(time.monotonic())
        bench.gps.publish(good_pose(k * period))
        time.sleep(period)
    bench.listener.wait_until_quiet(0.5, 20.0)
    stamps = bench.listener.trajectory().stamps
    index = np.rint((stamps - START) / (period * 1e9)).astype(int)
    latency = 1e3 * (np.array(bench.listener.arrivals) - np.array(departures)[index])
    p50, p95 = np.percentile(latency, [50, 95])
    print(f"measurement to odometry: p50 {p50:.1f} ms, p95 {p95:.1f} ms of {len(latency)}")
    assert len(latency) > 50
    assert p50 < 250.0


def test_a_late_joiner_gets_the_latched_pose(bench):
    received: list[Any] = []
    qos = QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
    kind = message_class("geometry_msgs/msg/PoseWithCovarianceStamped")
    bench.node.create_subscription(kind, "pose", received.append, qos)
    wait_for(lambda: bool(received), 5.0, "the latched pose")
    assert np.isfinite(received[0].pose.covariance).all()


def test_a_query_outside_the_window_says_why(bench):
    kind = message_class("dnls_ros/srv/GetPoseAt")
    assert pose_at(bench.client, -100.0).reason == kind.Response.BEFORE_WINDOW
    assert pose_at(bench.client, 100.0).reason == kind.Response.TOO_FAR_AHEAD
    assert pose_at(bench.client, 1.0, "nobody").reason == kind.Response.UNKNOWN_TRACK
    assert pose_at(bench.client, -START * 1e-9).reason == kind.Response.BAD_STAMP
    ahead = pose_at(bench.client, 3.0)
    assert ahead.success
    assert ahead.extrapolated
    assert ahead.extrapolation > 0.0
    request = kind.Request(target_frame="mars", stamp=COMPOSE.time(stamp_of(1.0)))
    assert call(bench.client, request).reason == kind.Response.TF_FAILED


def bad_poses(seconds: float) -> dict[str, Any]:
    """Messages that each must be rejected, by the reason that the node must count."""
    made = {f"{n}": good_pose(seconds + 0.001 * n) for n in range(9)}
    made["0"].pose.pose.position.x = float("nan")
    made["1"].pose.pose.orientation.w = float("inf")
    made["2"].pose.pose.orientation.z = made["2"].pose.pose.orientation.w = 0.0
    made["3"].pose.covariance = np.zeros(36)
    made["4"].pose.covariance = np.diag([-1.0, 1, 1, 1, 1, 1]).ravel()
    made["5"].pose.covariance[0] = float("nan")
    made["6"].header.stamp = COMPOSE.time(0)
    made["7"].header.frame_id = ""
    made["8"].header.stamp = COMPOSE.time(time.time_ns() + 10**13)
    return made


def test_bad_input_is_counted_and_nothing_bad_is_published(bench):
    before = len(bench.listener.messages)
    sent = 60
    for k in range(40):
        seconds = 4.0 + 0.1 * k
        bench.gps.publish(good_pose(seconds))
        bench.gps.publish(good_pose(seconds))  # a duplicate
        for message in bad_poses(seconds).values():
            bench.gps.publish(message)
        sent += 11
    bench.listener.wait_until_quiet(1.0, 60.0)
    published = bench.listener.messages[before:]
    assert published, bench.process.log()
    trajectory = bench.listener.trajectory()  # raises where a stamp does not ascend
    assert np.isfinite(trajectory.poses).all()
    assert trajectory.covariances is not None
    assert np.linalg.eigvalsh(trajectory.covariances).min() > 0.0
    last = planar_of(bench.listener.messages[-1].pose.pose)
    assert np.linalg.norm(error(last, truth((trajectory.stamps[-1] - START) * 1e-9))) < 0.05
    assert bench.process.stop(signal.SIGTERM) == 0
    account = accounts(bench.process.log())["gps"]
    assert account["received"] == sent
    assert account["accepted"] + account["waiting"] == 60 + 40
    expected = {"DUPLICATE": 40, "ZERO_STAMP": 40, "EMPTY_FRAME": 40, "FUTURE_STAMP": 40}
    assert {reason: account[reason] for reason in expected} == expected
    assert account["NOT_FINITE"] + account["BAD_QUATERNION"] + account["BAD_COVARIANCE"] == 240


def test_a_wrong_configuration_ends_the_node_with_code_two(tmp_path):
    wrong = {**GPS, "solver": {"rate": 0.0}, "colour": "red"}
    process = NodeProcess(write_params(tmp_path / "p.yaml", wrong), free_domain())
    assert process.wait(40.0) == 2
    assert "solver.rate: got 0; expected 0.5..500 Hz" in process.log()
    assert "colour: is not a parameter" in process.log()


def test_reading_one_s_own_output_is_a_wrong_configuration(tmp_path):
    params = write_params(tmp_path / "p.yaml", GPS)
    process = NodeProcess(params, free_domain(), ["-r", "gps:=pose"])
    assert process.wait(40.0) == 2
    assert "resolves to '/pose', which this node publishes" in process.log()


def test_the_life_cycle_gates_measurements_and_parameters(tmp_path):
    params = write_params(tmp_path / "p.yaml", {**GPS, "autostart": False})
    process = NodeProcess(params, free_domain())
    lifecycle = message_class("lifecycle_msgs/srv/ChangeState")
    transition = message_class("lifecycle_msgs/msg/Transition")
    parameters = message_class("rcl_interfaces/srv/SetParameters")
    try:
        with local_node("manager", free_domain()) as node:
            change = node.create_client(lifecycle, "dnls_estimator/change_state")
            assert change.wait_for_service(40.0), process.log()

            def go(number: int) -> bool:
                request = lifecycle.Request(transition=transition(id=number))
                return call(change, request).success

            def set_threads(value: int) -> Any:
                kind = message_class("rcl_interfaces/msg/Parameter")
                holder = message_class("rcl_interfaces/msg/ParameterValue")
                threads = kind(name="num_threads", value=holder(type=2, integer_value=value))
                client = node.create_client(parameters, "dnls_estimator/set_parameters")
                return call(client, parameters.Request(parameters=[threads])).results[0]

            bench = Bench(node, process)
            assert go(transition.TRANSITION_CONFIGURE)
            bench.wait_until_subscribed()
            bench.gps.publish(good_pose(0.0))  # before activation: not received
            assert pose_at(bench.client, 0.0).reason == 3
            assert set_threads(5).successful
            assert go(transition.TRANSITION_ACTIVATE)
            refusal = set_threads(6)
            assert not refusal.successful
            assert "set while inactive" in refusal.reason
            for k in range(1, 5):
                bench.gps.publish(good_pose(0.1 * k))
            wait_for(lambda: len(bench.listener.messages) >= 4, 20.0, "odometry")
            assert go(transition.TRANSITION_DEACTIVATE)
            assert go(transition.TRANSITION_CLEANUP)
            wait_for(lambda: not bench.gps.get_subscription_count(), 10.0, "the topics to go")
            assert accounts(process.log())["gps"]["received"] == 4
            assert go(transition.TRANSITION_CONFIGURE)
            assert go(transition.TRANSITION_ACTIVATE)
            assert go(transition.TRANSITION_ACTIVE_SHUTDOWN)
            assert process.wait(15.0) == 0
    finally:
        process.stop()


def test_a_covariance_that_leaves_is_never_zero_nor_infinite():
    unknown = UNKNOWN_VARIANCE * np.eye(6)
    for bad in (None, np.zeros((6, 6)), np.full((6, 6), np.nan)):
        np.testing.assert_array_equal(usable_covariance(bad), unknown)
    planar = np.diag([1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    assert np.linalg.eigvalsh(usable_covariance(planar)).min() > 0.0
