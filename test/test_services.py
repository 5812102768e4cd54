"""The services of the node, one process on real DDS: what they do and how they refuse."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("std_srvs.srv")

from node_rig import COMPOSE, reliable_publisher, wait_for, wait_for_subscriptions, write_params
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.errors import DnlsError
from dnls_ros.io.convert import stamp_to_ns
from dnls_ros.io.trajectory_formats import FORMATS
from dnls_ros.ros.asking import Asker
from dnls_ros.ros.inbox import Ask, Inbox
from dnls_ros.ros.listen import OdometryListener
from dnls_ros.ros.live import NodeProcess, free_domain, local_node
from dnls_ros.ros.types import message_class
from dnls_ros.runtime.dump import load_window

pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, used by rclpy
]

PARAMS = {
    "world_frame": "map",
    "sensors": ["gps"],
    "init": {"listen_initialpose": True},
    "track": {"object": {"motion_sigma": [0.5, 0.5, 0.5]}},
    "sensor": {
        "gps": {"type": "pose", "topic": "gps", "sigma_floor": [0.01], "extrinsic": [0.0] * 6}
    },
}
POSE = "geometry_msgs/msg/PoseWithCovarianceStamped"
NODE = "dnls_estimator"
NOISE = np.diag([0.02, 0.02, 1.0, 1.0, 1.0, 0.02]) ** 2
SPEED = 0.5


class Bench:
    """A running node, fed with poses on a line at 20 Hz; ``offset`` [m] kidnaps the robot."""

    def __init__(self, node: Node, running: NodeProcess, folder: Path) -> None:
        self.node, self.process, self.folder = node, running, folder
        self.begin = time.time_ns()
        self.offset, self.feeding = 0.0, True
        self.gps = reliable_publisher(node, POSE, "gps")
        self.listener = OdometryListener(node)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._feed)
        self._clients: dict[str, Any] = {}

    def x(self, stamp: int) -> float:
        """Where it is."""
        return SPEED * (stamp - self.begin) * 1e-9 + self.offset

    def pose(self, stamp: int, frame: str = "map", noise: np.ndarray = NOISE) -> Any:
        pose = np.array([self.x(stamp), 0, 0, 0, 0, 0, 1.0])
        return COMPOSE.pose_with_covariance_stamped(stamp, frame, pose, noise)

    def _feed(self) -> None:
        while not self._ended.wait(0.05):
            if self.feeding:
                self.gps.publish(self.pose(time.time_ns()))

    @contextmanager
    def fed(self) -> Generator[None]:
        wait_for_subscriptions(self.process, [self.gps])
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()

    def call(self, name: str, type_name: str, **fields: Any) -> Any:
        """Calls a service of the node; the response."""
        kind = message_class(type_name)
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, f"{NODE}/{name}")
            assert self._clients[name].wait_for_service(10.0)
        future = self._clients[name].call_async(kind.Request(**fields))
        wait_for(future.done, 15.0, f"an answer of {name}")
        return future.result()

    def pose_now(self, **fields: Any) -> Any:
        stamp = COMPOSE.time(time.time_ns())
        fields = {"max_extrapolation": -1.0, "with_covariance": True, "stamp": stamp, **fields}
        return self.call("get_pose_at", "dnls_ros/srv/GetPoseAt", **fields)

    def set_pose(self, message: Any, track: str = "") -> Any:
        return self.call("set_pose", "dnls_ros/srv/SetPose", pose=message, track=track)

    def save(self, **fields: Any) -> Any:
        return self.call("save_trajectory", "dnls_ros/srv/SaveTrajectory", **fields)

    def trajectory(self, **fields: Any) -> Any:
        return self.call("get_trajectory", "dnls_ros/srv/GetTrajectory", **fields)

    def tracks(self) -> bool:
        """Whether it knows where the robot is."""
        answer = self.pose_now()
        stamp = answer.pose.header.stamp
        at = self.x(stamp_to_ns(stamp.sec, stamp.nanosec))
        return answer.success and abs(answer.pose.pose.pose.position.x - at) < 0.2

    def wait_until_tracking(self) -> None:
        wait_for(self.tracks, 10.0, f"TRACKING\n{self.process.log()}")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("services")
    params = write_params(folder / "p.yaml", {**PARAMS, "output_dir": str(folder / "out")})
    running = NodeProcess(params, free_domain())
    try:
        with local_node("bench", free_domain()) as node:
            made = Bench(node, running, folder)
            with made.fed():
                yield made
    finally:
        code = running.stop()
    assert code == 0, running.log()
    assert "Traceback" not in running.log()


@pytest.fixture(autouse=True)
def _tracking(request: pytest.FixtureRequest) -> None:
    if "bench" in request.fixturenames:
        made = request.getfixturevalue("bench")
        made.feeding = True
        made.call("set_paused", "std_srvs/srv/SetBool", data=False)
        made.wait_until_tracking()


def test_reset_starts_anew(bench):
    answer = bench.call("reset", "std_srvs/srv/Trigger")
    assert answer.success, answer.message
    wait_for(lambda: "reset: the estimator was reset: service" in bench.process.log(), 10.0, "it")
    bench.wait_until_tracking()


def test_paused_it_gives_nothing_and_goes_on_afterwards(bench):
    pause = "std_srvs/srv/SetBool"
    assert bench.call("set_paused", pause, data=True).success
    time.sleep(0.3)
    before = len(bench.listener.messages)
    time.sleep(0.5)
    assert len(bench.listener.messages) == before
    newest = bench.listener.messages[-1].header.stamp
    assert bench.pose_now(stamp=newest).success
    ahead = COMPOSE.time(stamp_to_ns(newest.sec, newest.nanosec) + 10**8)
    answer = bench.pose_now(stamp=ahead)
    assert not answer.success
    assert answer.reason == message_class("dnls_ros/srv/GetPoseAt").Response.NOT_TRACKING
    assert "PAUSED" in answer.message, bench.process.log()
    assert bench.call("set_paused", pause, data=False).success
    wait_for(lambda: len(bench.listener.messages) > before, 10.0, "odometry")


def test_a_sensor_is_left_aside_and_used_again(bench):
    name, kind = "set_sensor_enabled", "dnls_ros/srv/SetSensorEnabled"
    unknown = bench.call(name, kind, sensor="sonar", enabled=False)
    assert not unknown.success
    assert "no sensor 'sonar'" in unknown.message
    assert "gps" in unknown.message
    assert bench.call(name, kind, sensor="gps", enabled=False).success
    time.sleep(0.3)
    before = len(bench.listener.messages)
    time.sleep(0.5)
    assert len(bench.listener.messages) == before
    assert bench.call(name, kind, sensor="gps", enabled=True).success
    wait_for(lambda: len(bench.listener.messages) > before, 10.0, "odometry")


def test_a_pose_is_given_in_a_frame_that_tf_knows(bench):
    tf = message_class("tf2_msgs/msg/TFMessage")
    qos = QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
    publisher = bench.node.create_publisher(tf, "/tf_static", qos)
    quarter = np.array([100.0, 0, 0, 0, 0, np.sqrt(0.5), np.sqrt(0.5)])  # x of map is y of earth
    publisher.publish(tf(transforms=[COMPOSE.transform_stamped(1, "earth", "map", quarter)]))
    reasons = message_class("dnls_ros/srv/GetPoseAt").Response
    wait_for(lambda: bench.pose_now(target_frame="earth").success, 10.0, bench.process.log())
    answer = bench.pose_now(target_frame="earth")
    stamp = answer.pose.header.stamp
    assert answer.pose.header.frame_id == "earth"
    position = answer.pose.pose.pose.position
    assert position.x == pytest.approx(100.0, abs=0.1)
    assert position.y == pytest.approx(bench.x(stamp_to_ns(stamp.sec, stamp.nanosec)), abs=0.2)
    refused = bench.pose_now(target_frame="mars")
    assert not refused.success
    assert refused.reason == reasons.TF_FAILED
    assert "mars" in refused.message
    bench.node.destroy_publisher(publisher)


def test_a_trajectory_comes_as_states_and_at_a_rate(bench):
    answer = bench.trajectory()
    assert answer.success, answer.message
    found = answer.trajectory
    stamps = np.array([stamp_to_ns(s.sec, s.nanosec) for s in found.stamps])
    assert len(stamps) > 2
    assert (np.diff(stamps) > 0).all()
    assert len(found.poses) == len(found.flags) == len(found.twists) == len(stamps)
    assert (found.track, found.header.frame_id) == ("object", "map")
    even = bench.trajectory(rate_hz=100.0, start=found.stamps[0], end=found.stamps[-1]).trajectory
    steps = np.diff([stamp_to_ns(s.sec, s.nanosec) for s in even.stamps])
    assert steps.min() == 10_000_000
    assert not (steps % 10_000_000).any()  # over gaps of the data nothing is interpolated
    assert even.stamps[0] == found.stamps[0]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"track": "nobody"}, "no track 'nobody'; there are: object"),
        ({"rate_hz": -1.0}, "rate -1"),
        ({"rate_hz": float("nan")}, "rate nan"),
        ({"rate_hz": 1e12}, "poses asked for"),
        ({"start": COMPOSE.time(2 * 10**18), "end": COMPOSE.time(10**18)}, "start"),
        ({"start": COMPOSE.time(2 * 10**18)}, "has no poses there"),
    ],
)
def test_a_trajectory_is_refused_with_a_sentence(bench, fields, complaint):
    answer = bench.trajectory(**fields)
    assert not answer.success
    assert complaint in answer.message


@pytest.mark.parametrize("name", FORMATS)
def test_a_trajectory_is_saved_in_every_format(bench, name):
    answer = bench.save(format=name, path=f"deep/{name}")
    assert answer.success, answer.message
    assert Path(answer.message) == bench.folder / "out" / "deep" / name
    assert len(FORMATS[name].read(answer.message)) == answer.poses > 2


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"format": "ply"}, "no trajectory format 'ply'; there are: tum"),
        ({"track": "nobody"}, "no track 'nobody'"),
        ({"path": "/dev/null"}, "/dev/null exists and is no file"),
        ({"path": "/dev/null/a.tum"}, "cannot write /dev/null/a.tum"),
        ({"path": "."}, "is no file"),
    ],
)
def test_a_file_that_cannot_be_written_is_an_answer(bench, fields, complaint):
    answer = bench.save(**fields)
    assert not answer.success
    assert answer.poses == 0
    assert complaint in answer.message


def test_a_full_disk_is_an_answer_and_leaves_the_old_file(bench):
    assert bench.save(path="full.csv", format="csv").success
    path = bench.folder / "out" / "full.csv"
    before = path.read_bytes()
    number = bench.process.pid
    soft, hard = resource.prlimit(number, resource.RLIMIT_FSIZE)
    resource.prlimit(number, resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        answer = bench.save(path="full.csv", format="csv")
    finally:
        resource.prlimit(number, resource.RLIMIT_FSIZE, (soft, hard))
    assert not answer.success
    assert "too large" in answer.message
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.glob(".full*")] == []
    assert bench.save(path="full.csv", format="csv").success


def test_the_window_is_dumped_and_can_be_loaded(bench):
    answer = bench.call("dump_window", "std_srvs/srv/Trigger")
    assert answer.success, answer.message
    assert Path(answer.message).is_relative_to(bench.folder / "out")
    assert load_window(answer.message).problem


def test_a_pose_set_by_hand_counts_from_the_first_solve(bench):
    bench.offset += 20.0
    answer = bench.set_pose(bench.pose(time.time_ns()))
    assert answer.success, answer.message
    assert bench.tracks()


def test_a_pose_on_a_topic_counts_too(bench):
    for topic in ("set_pose", "initialpose"):
        publisher = reliable_publisher(bench.node, POSE, topic)
        wait_for_subscriptions(bench.process, [publisher])
        bench.offset += 20.0
        publisher.publish(bench.pose(time.time_ns()))
        bench.wait_until_tracking()
        taken = f"pose on '{topic}' taken"
        wait_for(lambda taken=taken: taken in bench.process.log(), 10.0, taken)
        bad = bench.pose(time.time_ns())
        bad.pose.pose.position.x = float("nan")
        publisher.publish(bad)
        refused = f"pose on '{topic}' refused: NOT_FINITE"
        wait_for(lambda refused=refused: refused in bench.process.log(), 10.0, refused)
        bench.node.destroy_publisher(publisher)


def bad_poses(bench: Bench) -> dict[str, Any]:
    """Messages by what the refusal must say."""
    now = time.time_ns()
    made = {
        "NOT_FINITE": bench.pose(now),
        "BAD_QUATERNION": bench.pose(now),
        "header.frame_id is empty": bench.pose(now, ""),
        "not positive definite": bench.pose(now),
        "not symmetric": bench.pose(now),
        "nowhere": bench.pose(now, "nowhere"),
        "TOO_LATE": bench.pose(now - 60 * 10**9),
        "FUTURE_STAMP": bench.pose(now + 60 * 10**9),
    }
    made["NOT_FINITE"].pose.pose.position.y = float("inf")
    made["BAD_QUATERNION"].pose.pose.orientation.w = 0.0
    made["not positive definite"].pose.covariance[0] = -4.0
    made["not symmetric"].pose.covariance[1] = 1e-4
    return made


def test_a_pose_that_cannot_be_used_is_refused_and_changes_nothing(bench):
    for complaint, message in bad_poses(bench).items():
        answer = bench.set_pose(message)
        assert not answer.success, complaint
        assert complaint in answer.message
    assert "no track 'nobody'" in bench.set_pose(bench.pose(time.time_ns()), "nobody").message
    assert bench.tracks()


def test_a_pose_without_data_says_so_after_a_while(bench):
    bench.feeding = False
    time.sleep(0.2)
    answer = bench.set_pose(bench.pose(time.time_ns()))
    assert not answer.success
    assert "no solve with it within 5 s" in answer.message


def test_an_inactive_node_refuses_with_a_sentence(bench):
    kind = "lifecycle_msgs/srv/ChangeState"
    transition = message_class("lifecycle_msgs/msg/Transition")
    change = {"transition": transition(id=transition.TRANSITION_DEACTIVATE)}
    assert bench.call("change_state", kind, **change).success
    for answer in (
        bench.call("reset", "std_srvs/srv/Trigger"),
        bench.call("set_paused", "std_srvs/srv/SetBool", data=True),
        bench.set_pose(bench.pose(time.time_ns())),
        bench.pose_now(),
    ):
        assert not answer.success
        assert answer.message == "the node is not active"
    assert bench.save(path="inactive.tum").success
    change = {"transition": transition(id=transition.TRANSITION_ACTIVATE)}
    assert bench.call("change_state", kind, **change).success


class _NoExecutor:
    """A node that nobody spins."""

    executor = None


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine as an executor does."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value


async def result_of(pending: Any) -> Any:
    return await pending


def test_a_solver_that_does_not_answer_is_an_answer_and_the_question_is_withdrawn():
    inbox = Inbox([])
    asked: list[Any] = []
    pending = Asker(_NoExecutor(), inbox).ask(asked.append, seconds=0.05)
    with pytest.raises(DnlsError, match=r"within 0\.05 s; nothing was changed"):
        run(result_of(pending))
    work = inbox.take(0.0)
    assert isinstance(work, Ask)
    work.reply(work.function("session"))
    assert asked == []


def test_a_command_that_has_begun_is_not_called_undone():
    inbox = Inbox([])
    pending = Asker(_NoExecutor(), inbox).ask(lambda session: session, seconds=0.05)
    work = inbox.take(0.0)
    assert isinstance(work, Ask)
    work.function("session")
    with pytest.raises(DnlsError, match="it has begun and may still finish"):
        run(result_of(pending))


def test_what_the_solver_raises_reaches_who_asked():
    inbox = Inbox([])
    pending = Asker(_NoExecutor(), inbox).ask(lambda session: session)
    work = inbox.take(0.0)
    assert isinstance(work, Ask)
    work.reply(DnlsError("there is no window"))
    with pytest.raises(DnlsError, match="there is no window"):
        run(result_of(pending))
