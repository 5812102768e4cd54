"""Every topic that the node publishes, on real DDS: type, quality of service, content, rate."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("dnls_ros.srv")

from node_rig import (
    COMPOSE,
    reliable_publisher,
    spatial,
    truth,
    wait_for,
    wait_for_subscriptions,
    write_params,
)
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.ros.live import NodeProcess, free_domain, local_node
from dnls_ros.ros.types import message_class

pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, used by rclpy
]

PERIOD = 0.05
NOISE = np.diag([0.05, 0.05, 1.0, 1.0, 1.0, 0.05]) ** 2
PARAMETERS = {
    "world_frame": "map",
    "map_frame": "map",
    "odom_frame": "odom",
    "sensors": ["gps"],
    "solver": {"trigger": "measurement", "time_budget": 0.5},
    "track": {"object": {"motion_sigma": [0.2, 0.2, 0.2], "child_frame": "robot"}},
    "health": {"max_prediction": 0.5},
    "publish": {
        "tf": True,
        "predicted_rate": 40.0,
        "path_rate": 5.0,
        "window_rate": 4.0,
        "marker_rate": 4.0,
    },
    "diagnostics": {"rate": 2.0},
    "sensor": {
        "gps": {
            "type": "pose",
            "topic": "gps",
            "gate_probability": 0.999,
            "sigma_floor": [0.01],
            "expected_rate": 20.0,
            "qos": {"reliability": "reliable", "depth": 2000},
        }
    },
}
# topic → type, depth of the listener, latched
TOPICS = {
    "odometry/filtered": ("nav_msgs/msg/Odometry", False),
    "odometry/predicted": ("nav_msgs/msg/Odometry", False),
    "pose": ("geometry_msgs/msg/PoseWithCovarianceStamped", True),
    "path": ("nav_msgs/msg/Path", False),
    "tf": ("tf2_msgs/msg/TFMessage", False),
    "dnls_estimator/status": ("dnls_ros/msg/EstimatorStatus", True),
    "dnls_estimator/solver_stats": ("dnls_ros/msg/SolverStats", False),
    "dnls_estimator/measurement_status": ("dnls_ros/msg/MeasurementStatus", False),
    "dnls_estimator/window": ("dnls_ros/msg/TrackWindow", False),
    "dnls_estimator/markers": ("visualization_msgs/msg/MarkerArray", True),
    "/diagnostics": ("diagnostic_msgs/msg/DiagnosticArray", False),
    "dnls_estimator/event": ("dnls_ros/msg/Event", True),
}


def quality(latched: bool, depth: int = 1000) -> QoSProfile:
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=durability)


class Bench:
    """A node that was fed with poses at its clock for some seconds; one of them an outlier."""

    def __init__(self, node: Node, process: NodeProcess) -> None:
        self.node, self.process = node, process
        self.messages: dict[str, list[Any]] = defaultdict(list)
        self.arrivals: dict[str, list[float]] = defaultdict(list)
        self.gps = reliable_publisher(node, "geometry_msgs/msg/PoseWithCovarianceStamped", "gps")
        for topic, (kind, latched) in TOPICS.items():
            node.create_subscription(
                message_class(kind), topic, self._listener(topic), quality(latched)
            )
        wait_for_subscriptions(process, [self.gps])
        time.sleep(1.0)
        self.began = time.time_ns()
        self.sent = 0
        self.feed(5.0)

    def _listener(self, topic: str) -> Any:
        def receive(message: Any) -> None:
            self.messages[topic].append(message)
            self.arrivals[topic].append(time.monotonic())

        return receive

    def feed(self, seconds: float) -> None:
        """Poses of an arc, stamped now; every thirtieth is three metres off."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stamp = time.time_ns()
            pose = spatial(truth((stamp - self.began) * 1e-9))
            self.sent += 1
            if self.sent % 30 == 0:
                pose[0] += 3.0
            self.gps.publish(COMPOSE.pose_with_covariance_stamped(stamp, "map", pose, NOISE))
            time.sleep(PERIOD)

    def last(self, topic: str) -> Any:
        wait_for(lambda: bool(self.messages[topic]), 5.0, topic)
        return self.messages[topic][-1]

    def rate(self, topic: str) -> float:
        times = self.arrivals[topic]
        return (len(times) - 1) / (times[-1] - times[0])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    params = write_params(tmp_path_factory.mktemp("outputs") / "p.yaml", PARAMETERS)
    process = NodeProcess(params, free_domain())
    try:
        with local_node("bench", free_domain()) as node:
            yield Bench(node, process)
    finally:
        process.stop()


def nanoseconds(stamp: Any) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


def covariance_is_sound(values: Any) -> bool:
    matrix = np.asarray(values, dtype=np.float64).reshape(6, 6)
    return bool(np.isfinite(matrix).all()) and float(np.linalg.eigvalsh(matrix).min()) > 0.0


def test_every_topic_has_its_type_and_quality_of_service(bench):
    for topic, (kind, latched) in TOPICS.items():
        name = bench.node.resolve_topic_name(topic)
        offers = [
            info
            for info in bench.node.get_publishers_info_by_topic(name)
            if info.node_name == "dnls_estimator"
        ]
        assert [offer.topic_type for offer in offers] == [kind], topic
        profile = offers[0].qos_profile
        assert profile.reliability == ReliabilityPolicy.RELIABLE, topic
        expected = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        assert profile.durability == expected, topic
        assert bench.messages[topic], f"nothing on {topic}\n{bench.process.log()}"


@pytest.mark.parametrize("topic", ["odometry/filtered", "odometry/predicted"])
def test_odometry_has_ascending_stamps_and_sound_covariances(bench, topic):
    messages = bench.messages[topic]
    stamps = np.array([nanoseconds(m.header.stamp) for m in messages])
    assert len(stamps) > 10
    assert (np.diff(stamps) > 0).all()
    for message in messages:
        assert message.header.frame_id == "map"
        assert message.child_frame_id == "robot"
        assert covariance_is_sound(message.pose.covariance)
        assert covariance_is_sound(message.twist.covariance)


def test_predicted_odometry_is_of_now_and_less_certain(bench):
    predicted = bench.messages["odometry/predicted"]
    assert 5.0 < bench.rate("odometry/predicted") < 45.0
    by_stamp = {nanoseconds(m.header.stamp): m for m in bench.messages["odometry/filtered"]}
    stamps = np.array(sorted(by_stamp))
    errors = []
    grown = 0
    for message in predicted[5:]:
        stamp = nanoseconds(message.header.stamp)
        base = by_stamp[stamps[np.searchsorted(stamps, stamp, side="right") - 1]]
        grown += message.pose.covariance[0] > base.pose.covariance[0]
        true = truth((stamp - bench.began) * 1e-9)
        position = message.pose.pose.position
        errors.append(np.hypot(position.x - true[0], position.y - true[1]))
    assert np.median(errors) < 0.05
    assert grown > 0.8 * len(errors)


def test_predictions_end_when_nothing_new_is_estimated(bench):
    predicted = bench.messages["odometry/predicted"]
    count = -1
    while len(predicted) != count:  # until what was sent is solved, and the limit has passed
        count = len(predicted)
        time.sleep(1.0)
    filtered = np.array(
        sorted(nanoseconds(m.header.stamp) for m in bench.messages["odometry/filtered"])
    )
    stamps = np.array([nanoseconds(m.header.stamp) for m in predicted])
    ahead = stamps - filtered[np.searchsorted(filtered, stamps, side="right") - 1]
    assert ahead.max() <= 0.5e9  # health.max_prediction


def test_tf_says_what_odometry_says(bench):
    odometry = {nanoseconds(m.header.stamp): m for m in bench.messages["odometry/filtered"]}
    sent = [t for m in bench.messages["tf"] for t in m.transforms]
    stamps = [nanoseconds(t.header.stamp) for t in sent]
    assert len(sent) > 40
    assert (np.diff(stamps) > 0).all()
    for stamp, transform in zip(stamps, sent, strict=True):
        assert (transform.header.frame_id, transform.child_frame_id) == ("map", "robot")
        same = odometry[stamp].pose.pose.position
        assert transform.transform.translation.x == pytest.approx(same.x, abs=1e-12)


def test_path_and_window_hold_the_states(bench):
    path = bench.last("path")
    assert [p.header.frame_id for p in path.poses] == ["map"] * len(path.poses)
    assert (np.diff([nanoseconds(p.header.stamp) for p in path.poses]) > 0).all()
    window = bench.last("dnls_estimator/window")
    count = len(window.stamps)
    assert count > 10
    assert len(window.poses) == len(window.twists) == len(window.flags) == count
    assert len(window.covariances) == 36 * count
    assert (np.diff([nanoseconds(s) for s in window.stamps]) > 0).all()
    assert nanoseconds(window.header.stamp) == nanoseconds(window.stamps[-1])
    blocks = np.asarray(window.covariances).reshape(count, 6, 6)
    assert np.linalg.eigvalsh(blocks).min() > 0.0
    assert 0.5 < bench.rate("dnls_estimator/window") < 4.5


def test_statistics_of_every_solve_are_complete(bench):
    stats = bench.last("dnls_estimator/solver_stats")
    assert stats.accepted
    assert stats.termination <= stats.MAX_ITERATIONS
    assert stats.dof == stats.states * 6  # poses and twists of a body on a plane
    assert stats.residuals > 0
    assert stats.factor_nnz >= stats.dof
    assert 0.0 < stats.min_diag_ratio <= 1.0
    assert stats.weakest.startswith("object@t-")
    assert sum(c.cost for c in stats.costs) == pytest.approx(stats.cost_final, rel=1e-6)
    assert {"gps", "object.motion"} <= {c.type for c in stats.costs}
    assert 0.0 < stats.t_linearize < stats.t_total
    assert 0.0 < stats.t_factorize < stats.t_total
    assert stats.linear_solver
    ids = [m.window_id for m in bench.messages["dnls_estimator/solver_stats"]]
    assert (np.diff(ids) == 1).all()  # every solve


def test_measurements_say_why(bench):
    said = bench.messages["dnls_estimator/measurement_status"]
    accepted = [m for m in said if m.reason == m.ACCEPTED]
    gated = [m for m in said if m.reason == m.GATED]
    assert len(accepted) > 50
    assert gated
    for message in accepted[5:]:
        assert message.header.frame_id == "map"
        assert message.residual_dim == len(message.residual) == 3
        assert message.mahalanobis_sq <= message.gate
        assert 0.0 < message.robust_weight <= 1.0
        assert 0.0 <= message.latency < 30.0
    for message in gated:
        assert message.mahalanobis_sq > message.gate
        assert np.abs(message.residual).max() > 10.0


def test_status_tells_the_state_and_the_account(bench):
    states = [m.state for m in bench.messages["dnls_estimator/status"]]
    status = bench.last("dnls_estimator/status")
    assert status.TRACKING in states
    assert status.header.frame_id == "map"
    assert list(status.tracks) == ["object"]
    assert status.solves_total > 50
    assert status.rss_mb > 20.0
    assert np.isfinite(status.cpu_percent)
    assert 0.0 < status.latency_p95 < 30.0
    assert len(status.config_hash) == 16
    assert status.software_version
    assert status.device == "cpu"
    (gps,) = status.sensors
    assert (gps.name, gps.type, gps.topic, gps.publishers) == ("gps", "pose", "/gps", 1)
    assert gps.expected_rate == 20.0
    assert gps.received >= gps.accepted + sum(gps.rejected)
    assert gps.rejected[11] > 0  # GATED


def test_diagnostics_have_the_keys(bench):
    messages = bench.messages["/diagnostics"]
    by_name = {s.name: s for s in messages[-1].status}
    assert set(by_name) == {"dnls_estimator: estimator", "dnls_estimator: sensor gps"}
    keys = {v.key: v.value for v in by_name["dnls_estimator: estimator"].values}
    needed = "state reason solve_rate_hz solve_p95_s deadline_missed latency_p95_s cpu_percent"
    assert set(needed.split()) | {"rss_mb", "device", "rejected_gated", "outputs_dropped"} <= set(
        keys
    )
    assert {s.hardware_id for s in messages[-1].status} == {"dnls_estimator"}
    levels = {s.level for m in messages for s in m.status if s.name.endswith("estimator")}
    assert type(messages[-1].status[0]).OK in levels
    assert 0.5 < bench.rate("/diagnostics") < 2.5


def test_events_tell_the_changes_of_state(bench):
    events = bench.messages["dnls_estimator/event"]
    assert "state.change" in {e.code for e in events}
    assert all(e.text and e.header.frame_id == "map" for e in events)


def test_markers_are_drawn_and_deleted(bench):
    bench.feed(0.3)
    drawn: set[tuple[str, int]] = set()
    deleted: set[tuple[str, int]] = set()
    for array in bench.messages["dnls_estimator/markers"]:
        for marker in array.markers:
            key = (marker.ns, marker.id)
            if marker.action == marker.ADD:
                assert marker.header.frame_id == "map"
                assert marker.lifetime.sec >= 4
                drawn.add(key)
            else:
                assert key in drawn
                deleted.add(key)
    spaces = {ns for ns, _ in drawn}
    track = {f"object/{name}" for name in ("trajectory", "states", "axes", "covariance")}
    assert track <= spaces
    assert "residuals/gps/object" in spaces
    assert "rejected/gps/object" in {ns for ns, _ in deleted}  # an outlier leaves the picture


def test_late_joiners_get_what_is_latched(bench):
    received: dict[str, Any] = {}
    for topic, (kind, latched) in TOPICS.items():
        if latched:
            bench.node.create_subscription(
                message_class(kind),
                topic,
                lambda message, topic=topic: received.setdefault(topic, message),
                quality(True),
            )
    latched = {topic for topic, (_, keeps) in TOPICS.items() if keeps}
    wait_for(lambda: set(received) == latched, 5.0, f"{latched}; got {set(received)}")


def test_another_broadcaster_of_our_frame_is_named(bench):
    rival = bench.node.create_publisher(
        message_class("tf2_msgs/msg/TFMessage"), "tf", quality(False, 100)
    )
    wait_for(lambda: rival.get_subscription_count() > 1, 10.0, "the node to listen to tf")
    kind = message_class("tf2_msgs/msg/TFMessage")
    pose = spatial(np.array([5.0, 5.0, 0.0]))
    rival.publish(
        kind(transforms=[COMPOSE.transform_stamped(time.time_ns(), "odom", "robot", pose)])
    )

    def found() -> list[Any]:
        events = bench.messages["dnls_estimator/event"]
        return [e for e in events if e.code == "tf.conflict"]

    wait_for(lambda: bool(found()), 5.0, "the conflict to be said")
    assert "'robot'" in found()[0].text
    assert "/bench" in found()[0].text
    bench.messages["/diagnostics"].clear()
    estimator = bench.last("/diagnostics").status[0]
    assert "tf_conflict" in {v.key for v in estimator.values}
