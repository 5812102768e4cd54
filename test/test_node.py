"""The node in a process of its own, on real DDS."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

pytest.importorskip("rclpy")
pytest.importorskip("dnls_ros.srv")

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.io.compose import Composer
from dnls_ros.io.convert import covariance_from_ros
from dnls_ros.ros.listen import OdometryListener
from dnls_ros.ros.live import NodeProcess, free_domain, local_node
from dnls_ros.ros.publish import UNKNOWN_VARIANCE, usable_covariance
from dnls_ros.ros.types import message_class

pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, used by rclpy
]

COMPOSE = Composer(message_class)
START = 1_700_000_000 * 10**9
SPEED, TURN = 0.5, 0.4  # m/s, rad/s: an arc, on which interpolation between states is exact
SERVICE_NAME = "dnls_estimator/get_pose_at"


def truth(seconds: float) -> np.ndarray:
    """x, y, yaw on the arc."""
    yaw = TURN * seconds
    return np.array([SPEED / TURN * np.sin(yaw), SPEED / TURN * (1.0 - np.cos(yaw)), yaw])


def spatial(planar: np.ndarray) -> np.ndarray:
    x, y, yaw = planar
    return np.array([x, y, 0.0, 0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)])


def planar_of(pose: Any) -> np.ndarray:
    yaw = 2.0 * np.arctan2(pose.orientation.z, pose.orientation.w)
    return np.array([pose.position.x, pose.position.y, yaw])


def error(estimate: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Tangent of true⁻¹ · estimate to first order, (x, y, yaw) in the body's axes."""
    delta = estimate - true
    cos, sin = np.cos(true[2]), np.sin(true[2])
    yaw = (delta[2] + np.pi) % (2 * np.pi) - np.pi
    return np.array([cos * delta[0] + sin * delta[1], -sin * delta[0] + cos * delta[1], yaw])


def stamp_of(seconds: float) -> int:
    return START + round(seconds * 1e9)


def write_params(path: Path, parameters: dict[str, Any]) -> Path:
    content = {"dnls_estimator": {"ros__parameters": parameters}}
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content))))  # ROS reads no YAML aliases
    return path


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def wait_for_subscriptions(process: NodeProcess, publishers: list[Any]) -> None:
    """Waits until the node listens to everything."""

    def ready() -> bool:
        assert process.running, process.log()
        return all(publisher.get_subscription_count() for publisher in publishers)

    wait_for(ready, 60.0, "the node to subscribe")
    time.sleep(0.3)


def reliable_publisher(node: Node, type_name: str, topic: str) -> Any:
    qos = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
    return node.create_publisher(message_class(type_name), topic, qos)


def call(client: Any, request: Any) -> Any:
    assert client.wait_for_service(10.0)
    future = client.call_async(request)
    wait_for(future.done, 10.0, "a service's answer")
    return future.result()


def pose_at(client: Any, seconds: float, track: str = "", ahead: float = -1.0) -> Any:
    request = message_class("dnls_ros/srv/GetPoseAt").Request()
    request.stamp = COMPOSE.time(stamp_of(seconds))
    request.track, request.with_covariance, request.max_extrapolation = track, True, ahead
    return call(client, request)


def accounts(log: str) -> dict[str, Counter[str]]:
    """The last account of each sensor that the node printed."""
    found: dict[str, Counter[str]] = {}
    for line in log.splitlines():
        if "sensor '" in line and ": received " in line:
            name, _, text = line.partition("sensor '")[2].partition("': ")
            parts = [part.rsplit(" ", 1) for part in text.split("; ")[0].split(", ")]
            found[name] = Counter({key: int(count) for key, count in parts})
    return found


# ------------ every sensor type alone

CAMERA = {"k": [400.0, 0.0, 320.0, 0.0, 400.0, 240.0, 0.0, 0.0, 1.0]}
OPTICAL = Rotation.from_euler("ZYX", [-np.pi / 2, 0.0, -np.pi / 2])  # looking along the body's x
TAGS = {k: np.array([3.0 * np.cos(a), 1.0 + 3.0 * np.sin(a), 0.4]) for k, a in enumerate(
    np.arange(0.0, 2 * np.pi, 0.35))}  # fmt: skip
CORNERS = 0.15 * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=float)
POINTS = {"a": (3.0, 0.0), "b": (0.0, 3.0), "c": (-2.0, -1.0), "d": (2.0, -3.0)}
SIGMA = np.array([0.05, 0.04, 0.03])
TWIST_SIGMA = np.array([0.05, 0.02, 0.05])
STEP_SIGMA = np.array([0.005, 0.004, 0.003])
RATE, DURATION = 10.0, 4.0


def tag_rotation(position: np.ndarray) -> Rotation:
    """Upright, facing the middle of the arc."""
    normal = np.array([0.0, 1.0, position[2]]) - position
    normal /= np.linalg.norm(normal)
    right = np.cross([0.0, 0.0, 1.0], normal)
    return Rotation.from_matrix(np.stack([right, np.cross(normal, right), normal], axis=1))


def write_map(path: Path) -> str:
    tags = [
        {"id": k, "size": 0.3, "pose": {"position": p.tolist(),
         "orientation": tag_rotation(p).as_quat(canonical=True).tolist()}}
        for k, p in TAGS.items()
    ]  # fmt: skip
    points = [{"id": k, "position": [x, y, 0.0]} for k, (x, y) in POINTS.items()]
    path.write_text(yaml.safe_dump({"family": "any", "tags": tags, "landmarks": points}))
    return str(path)


def track_parameters(folder: Path) -> dict[str, Any]:
    """Eight tracks, each with one sensor of its own and nothing else."""
    started = {"mode": "params", "pose": [0.0, 0.0, 0.0], "sigma": [0.02, 0.02, 0.02]}
    moving = {"motion": "constant_velocity", "motion_sigma": [0.05, 0.05, 0.05]}
    landmarks = {"map_file": write_map(folder / "map.yaml")}
    sensors: dict[str, dict[str, Any]] = {
        "pose": {},
        "exact": {"type": "pose"},
        "pose_stamped": {"sigma": SIGMA.tolist()},
        "odometry": {},
        "twist": {"sigma_floor": [1e-6]},
        "relative_pose": {},
        "range_bearing": {"landmarks": landmarks},
        "landmarks": {
            "landmarks": landmarks,
            "sigma": [0.5],
            "camera_info_topic": "camera_info",
            "extrinsic": [0.1, 0.0, 0.3, *OPTICAL.as_euler("xyz").tolist()],
        },
    }
    for name, sensor in sensors.items():
        sensor.setdefault("type", name)
        qos = {"reliability": "reliable", "depth": 2000}
        sensor |= {"track": f"t_{name}", "topic": f"in/{name}", "qos": qos}
    tracks: dict[str, dict[str, Any]] = {f"t_{name}": dict(moving) for name in sensors}
    for name in ("twist", "relative_pose"):
        tracks[f"t_{name}"] = {"motion": "none", "init": dict(started)}
    tracks["t_relative_pose"]["init"]["pose"] = truth(1 / RATE).tolist()  # the end of its first
    for name in ("landmarks", "range_bearing"):
        tracks[f"t_{name}"]["init"] = started | {"sigma": [0.3, 0.3, 0.3]}
    return {
        "world_frame": "map",
        "deterministic": True,
        "tracks": list(tracks),
        "sensors": list(sensors),
        "solver": {"rate": 2.0, "max_iterations": 20},
        "window": {"duration": 10.0},
        "track": tracks,
        "sensor": sensors,
    }


def landmark_message(stamp: int, planar: np.ndarray, rng: np.random.Generator) -> Any:
    """What an ideal camera with half a pixel of noise sees of the tags."""
    body = Rotation.from_euler("z", planar[2])
    camera = body * OPTICAL
    position = np.array([*planar[:2], 0.0]) + body.apply([0.1, 0.0, 0.3])
    kind = message_class("dnls_ros/msg/LandmarkObservation")
    seen = []
    for number, tag in TAGS.items():
        corners = camera.inv().apply(tag + tag_rotation(tag).apply(CORNERS) - position)
        pixels = 400.0 * corners[:, :2] / corners[:, 2:] + [320.0, 240.0]
        inside = (corners[:, 2] > 0.3) & np.all((pixels > 0) & (pixels < [640, 480]), axis=1)
        if inside.all():
            noisy = pixels + rng.normal(0.0, 0.5, pixels.shape)
            seen.append(
                kind(id=f"tag36h11:{number}", pixels=noisy.ravel().tolist(), points=[],
                     sigma_px=0.5, quality=1.0)
            )  # fmt: skip
    header = COMPOSE.header(stamp, "camera")
    array = message_class("dnls_ros/msg/LandmarkObservationArray")
    return array(header=header, k=CAMERA["k"], distortion_model="", d=[], observations=seen)


def messages_at(k: int, rng: np.random.Generator) -> dict[str, Any]:
    """One message of each sensor at step k."""
    seconds = k / RATE
    stamp, now = stamp_of(seconds), truth(seconds)

    def noisy(sigma: np.ndarray) -> np.ndarray:
        x, y, yaw = sigma * rng.normal(size=3)
        cos, sin = np.cos(now[2]), np.sin(now[2])
        return spatial(now + np.array([cos * x - sin * y, sin * x + cos * y, yaw]))

    covariance = np.diag([*SIGMA[:2], 1.0, 1.0, 1.0, SIGMA[2]]) ** 2
    twist = np.array([SPEED, 0, 0, 0, 0, TURN])
    twist[[0, 1, 5]] += TWIST_SIGMA * rng.normal(size=3)
    twist_covariance = np.diag([*TWIST_SIGMA[:2], 1, 1, 1, TWIST_SIGMA[2]]) ** 2
    exact = np.diag([1e-4, 1e-4, 1, 1, 1, 1e-4]) ** 2
    made = {
        "pose": COMPOSE.pose_with_covariance_stamped(stamp, "map", noisy(SIGMA), covariance),
        "exact": COMPOSE.pose_with_covariance_stamped(stamp, "map", spatial(now), exact),
        "pose_stamped": COMPOSE.pose_stamped(stamp, "map", noisy(SIGMA)),
        "odometry": COMPOSE.odometry(
            stamp, "map", "t_odometry", noisy(SIGMA), np.zeros(6), covariance
        ),
        "twist": COMPOSE.twist_with_covariance_stamped(stamp, "t_twist", twist, twist_covariance),
        "range_bearing": range_bearing_message(stamp, now, rng),
        "landmarks": landmark_message(stamp, now, rng),
    }
    if k > 0:
        moved = spatial(truth(1 / RATE) + STEP_SIGMA * rng.normal(size=3))
        noise = np.diag([*STEP_SIGMA[:2], 1, 1, 1, STEP_SIGMA[2]]) ** 2
        before = stamp_of((k - 1) / RATE)
        made["relative_pose"] = COMPOSE.relative_pose(before, stamp, "map", moved, noise)
    return made


def range_bearing_message(stamp: int, planar: np.ndarray, rng: np.random.Generator) -> Any:
    delta = np.array(list(POINTS.values())) - planar[:2]
    ranges = np.hypot(*delta.T) + 0.05 * rng.normal(size=len(POINTS))
    bearings = np.arctan2(delta[:, 1], delta[:, 0]) - planar[2] + 0.03 * rng.normal(size=4)
    return COMPOSE.range_bearing(stamp, "sensor", list(POINTS), ranges, bearings, (0.05, 0.03))


@pytest.fixture(scope="module")
def eight_tracks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers of get_pose_at for each track at and between its stamps; the node's accounts."""
    folder = tmp_path_factory.mktemp("tracks")
    parameters = track_parameters(folder)
    process = NodeProcess(write_params(folder / "p.yaml", parameters), free_domain())
    answers: dict[str, list[tuple[float, Any]]] = {}
    sent: Counter[str] = Counter()
    try:
        with local_node("sender", free_domain()) as node:
            rng = np.random.default_rng(7)
            first = messages_at(1, rng)
            kinds = {name: type(message) for name, message in first.items()}
            qos = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
            publishers = {
                name: node.create_publisher(kind, f"in/{name}", qos)
                for name, kind in kinds.items()
            }
            wait_for_subscriptions(process, list(publishers.values()))
            count = int(DURATION * RATE)
            for k in range(count + 1):
                for name, message in messages_at(k, rng).items():
                    publishers[name].publish(message)
                    sent[name] += 1
            client = node.create_client(message_class("dnls_ros/srv/GetPoseAt"), SERVICE_NAME)
            last = DURATION - 1 / RATE
            for name in sorted(kinds):
                track = f"t_{name}"
                wait_for(
                    lambda track=track: pose_at(client, last - 0.45, track).success,
                    60.0,
                    f"a pose of {track}",
                )
                times = np.arange(1.0, last - 0.5, 0.25 / RATE)
                answers[name] = [(t, pose_at(client, t, track)) for t in times]
    finally:
        code = process.stop()
        print(process.log())
    return answers, sent, accounts(process.log()), code


PREDICTED = ("pose", "pose_stamped", "odometry", "twist", "relative_pose", "range_bearing",
             "landmarks")  # fmt: skip


@pytest.mark.parametrize("name", PREDICTED)
def test_each_sensor_type_alone_gives_the_error_that_its_noise_predicts(eight_tracks, name):
    answers, *_ = eight_tracks
    errors, sigmas, nees = [], [], []
    for seconds, answer in answers[name]:
        assert answer.success, answer.message
        pose = planar_of(answer.pose.pose.pose)
        ros = np.array(answer.pose.pose.covariance).reshape(6, 6)
        tangent = covariance_from_ros(ros, spatial(pose))[np.ix_([0, 1, 5], [0, 1, 5])]
        delta = error(pose, truth(seconds))
        errors.append(delta)
        sigmas.append(np.diag(tangent))
        nees.append(delta @ np.linalg.solve(tangent, delta) / 3)
    rmse = np.sqrt(np.mean(np.square(errors), axis=0))
    predicted = np.sqrt(np.mean(sigmas, axis=0))
    print(f"{name}: rmse {rmse}, predicted {predicted}, NEES/dof {np.mean(nees):.2f}")
    assert np.all(rmse < 2.5 * predicted)
    assert 0.05 < np.mean(nees) < 3.0
    if name in ("pose", "pose_stamped", "odometry"):
        assert np.all(rmse < 0.75 * SIGMA)  # better than any single measurement


def test_the_pose_between_two_states_is_exact_without_noise(eight_tracks):
    answers, *_ = eight_tracks
    for seconds, answer in answers["exact"]:
        delta = error(planar_of(answer.pose.pose.pose), truth(seconds))
        assert np.linalg.norm(delta[:2]) < 1e-3, seconds
        assert abs(delta[2]) < 1e-3, seconds


def test_every_message_sent_is_in_the_accounts(eight_tracks):
    _, sent, found, code = eight_tracks
    assert code == 0
    for name, count in sent.items():
        account = found[name]
        assert account["received"] == count
        assert account["received"] * 2 == account.total()


# ------------ one sensor: latency, bad input, lifecycle

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

            def set_seed(value: int) -> Any:
                kind = message_class("rcl_interfaces/msg/Parameter")
                holder = message_class("rcl_interfaces/msg/ParameterValue")
                seed = kind(name="seed", value=holder(type=2, integer_value=value))
                client = node.create_client(parameters, "dnls_estimator/set_parameters")
                return call(client, parameters.Request(parameters=[seed])).results[0]

            bench = Bench(node, process)
            assert go(transition.TRANSITION_CONFIGURE)
            bench.wait_until_subscribed()
            bench.gps.publish(good_pose(0.0))  # before activation: not received
            assert pose_at(bench.client, 0.0).reason == 3
            assert set_seed(5).successful
            assert go(transition.TRANSITION_ACTIVATE)
            refusal = set_seed(6)
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


# ------------ what leaves


def test_a_covariance_that_leaves_is_never_zero_nor_infinite():
    unknown = UNKNOWN_VARIANCE * np.eye(6)
    for bad in (None, np.zeros((6, 6)), np.full((6, 6), np.nan)):
        np.testing.assert_array_equal(usable_covariance(bad), unknown)
    planar = np.diag([1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    assert np.linalg.eigvalsh(usable_covariance(planar)).min() > 0.0
