"""What deployed nodes meet: faults, restarts, kills, signals, clocks that jump, full disks.

Over real DDS with the simulated robot; ``pytest -s`` prints the tables. The same faults, more of
them, are driven through the session alone in ``test_fault_matrix.py``.
"""

from __future__ import annotations

import random
import resource
import signal
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("dnls_ros.srv")

from fault_rig import Part
from node_rig import COMPOSE, call, planar_of, wait_for
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from robot_rig import (
    DURATION,
    RATE,
    STARTUP,
    TRACKING,
    Back,
    Robot,
    chunks_of,
    distance,
    drive,
    estimator,
    segments,
    wait_for_handlers,
)

from dnls_ros.ros.live import DOMAINS, NodeProcess, free_domain, local_node
from dnls_ros.ros.types import message_class
from dnls_ros.window.measurements import Reason

pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, used by rclpy
]

TRIGGER = "std_srvs/srv/Trigger"
AFTER_RETURN, AFTER_JUMP = 0.5, 1.0
"""Longest time to a good pose while TRACKING [s of data]."""
REJECTING = 2.0
"""So long a sensor counts as rejecting after it does no more, and the state is DEGRADED [s]."""
BACK = -100.0
"""How far time jumps back [s]."""


@dataclass(frozen=True)
class Fault:
    """What happens from ``at`` for ``seconds`` of data; ``reason`` is counted for it."""

    name: str
    faults: tuple[str, ...]
    at: float
    seconds: float
    reason: Reason | None

    def texts(self) -> list[str]:
        return [f"{text},at={self.at},for={self.seconds}" for text in self.faults]


FAULTS = (
    Fault("outliers, absolute", ("outliers:gps_pose:p=1,scale=100",), 6.0, 3.0, Reason.GATED),
    Fault("NaN in all", ("nan:*:p=1",), 12.0, 1.5, Reason.NOT_FINITE),
    Fault(
        "negative covariance", ("negative_covariance:gps_pose:p=1",), 17.0, 3.0,
        Reason.BAD_COVARIANCE,
    ),
    Fault("bad quaternions", ("bad_quaternion:*:p=1",), 23.0, 2.0, Reason.BAD_QUATERNION),
    Fault("zero stamp in all", ("zero_stamp:*:p=1",), 28.0, 1.5, Reason.ZERO_STAMP),
    Fault("dropout of everything", ("drop:*:p=1",), 33.0, 2.0, None),
)  # fmt: skip
MATRIX_END = 37.0
STEADY = 1.0
"""After a fault, over which errors are shown until the next one begins [s]."""


@contextmanager
def running(
    folder: Path, simulated: bool = False, **changes: Any
) -> Generator[tuple[Robot, NodeProcess]]:
    """A robot, and a node that listens to it; on simulated time that is the robot's."""
    arguments = ["-p", "use_sim_time:=true"] if simulated else []
    domain = free_domain() if not simulated else 1 + (free_domain() + 49) % DOMAINS
    with (  # the bench lives through all tests and must not hear the others
        estimator(folder, *arguments, domain=domain, **changes) as process,
        local_node("robot", domain) as node,
    ):
        robot = Robot(node, simulated=simulated)
        robot.wait_until_ready(process)
        yield robot, process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the bench's node."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def bench(folder: Path) -> Any:
    """One node for several tests, each of which begins a new time."""
    with running(folder, simulated=True) as made:
        yield made


def row(name: str, counted: str, states: Any, back: Back, rmse: float) -> str:
    seen = " ".join(sorted(state.name for state in states if state is not TRACKING)) or "-"
    times = f"{back.good:8.2f} {back.tracking:8.2f} {back.wall:8.2f}"
    return f"{name:22} {counted:18} {seen:24} {times} {rmse:8.3f}"


HEAD = (
    f"{'fault':22} {'counted':18} {'states beside TRACKING':24} "
    f"{'good [s]':>8} {'TRACKING':>8} {'wall [s]':>8} {'rmse [m]':>8}"
)


def test_faults_one_after_the_other(bench):
    robot, process = bench
    run = drive().between(0.0, MATRIX_END)
    spoiled = run.spoiled(*(text for fault in FAULTS for text in fault.texts()))
    robot.play(spoiled.records)
    robot.settle()
    truth, table, late = run.truth, [], []
    for number, fault in enumerate(FAULTS):
        end = run.start + round((fault.at + fault.seconds) * 1e9)
        following = FAULTS[number + 1].at if number + 1 < len(FAULTS) else MATRIX_END
        back = robot.good_again(truth, end)
        rmse = robot.rmse(truth, end + round(STEADY * 1e9), run.start + round(following * 1e9))
        states = robot.states_between(run.start + round(fault.at * 1e9), end)
        count = f"{fault.reason.name} {robot.reasons()[fault.reason]}" if fault.reason else "-"
        table.append(row(fault.name, count, states, back, rmse))
        patience = AFTER_RETURN + (REJECTING if fault.reason else 0.0)
        good = back.good <= AFTER_RETURN and back.tracking <= patience and rmse < 0.05
        counted = fault.reason is None or robot.reasons()[fault.reason] > 0
        late += [] if good and counted else [fault.name]
    jumped = drive().between(MATRIX_END, DURATION).moved(BACK)
    since = time.monotonic()
    robot.play(jumped.records)
    robot.settle()
    back = robot.good_again(jumped.truth, jumped.start, since)
    rmse = robot.rmse(jumped.truth, jumped.start + round(STEADY * 1e9), jumped.end)
    codes = robot.codes(since)
    count = f"time.jump_back {codes['time.jump_back']}"
    table.append(row(f"time jump {BACK:.0f} s", count, robot.states(since), back, rmse))
    print("\n" + "\n".join([HEAD, *table]))
    assert not late, process.log()
    assert back.tracking <= AFTER_JUMP
    assert rmse < 0.05
    assert codes["time.jump_back"] == 1
    assert robot.poses[-1].state is TRACKING
    assert all(pose.finite for pose in robot.poses)
    assert process.running


def test_a_recording_played_three_times(tmp_path):
    loop = drive().between(0.0, 6.0)  # the clock goes on, as with a player that has none
    with running(tmp_path) as (robot, _):
        table = [play_again(robot, loop, number) for number in range(3)]
        print("\n" + "\n".join([HEAD, *table]))
        assert len(segments(robot.poses)) == 3  # within each, stamps strictly increase


def play_again(robot: Robot, loop: Part, number: int) -> str:
    """One loop, checked; a row of the table."""
    since = time.monotonic()
    robot.play(loop.records)
    states = robot.states(since)
    robot.settle()
    back = robot.good_again_in(loop, since)
    rmse = robot.rmse_since(loop, since)
    codes = robot.codes(since)
    assert back.tracking <= AFTER_JUMP
    assert rmse < 0.05
    assert codes["time.jump_back"] == (number > 0)
    assert robot.poses[-1].state is TRACKING
    count = f"time.jump_back {codes['time.jump_back']}"
    return row(f"loop {number + 1} of 3", count, states, back, rmse)


def test_simulated_time_that_pauses_and_jumps_back(bench):
    robot, process = bench
    run = drive().moved(1000.0)
    first, second = run.between(0.0, 6.0), run.between(6.0, 9.0)
    began, poses = time.monotonic(), len(robot.poses)
    robot.play(first.records)
    robot.settle()
    assert robot.state is TRACKING
    paused = time.monotonic()
    for _ in range(20):  # a simulator in pause repeats its time
        robot.show_clock(first.end)
        time.sleep(0.1)
    assert robot.states(paused) == {TRACKING}
    robot.play(second.records)
    robot.settle()
    assert robot.states(paused) == {TRACKING}
    assert robot.codes(began)["time.jump_back"] == 0
    assert robot.rmse(run.truth, second.start, second.end) < 0.05
    restarted = time.monotonic()
    robot.play(first.records)
    robot.settle()
    back = robot.good_again_in(first, restarted)
    count = f"time.jump_back {robot.codes(restarted)['time.jump_back']}"
    rmse = robot.rmse_since(first, restarted)
    print("\n" + HEAD + "\n" + row("clock back by 9 s", count, {TRACKING}, back, rmse))
    assert robot.codes(restarted)["time.jump_back"] == 1
    assert back.tracking <= AFTER_JUMP
    assert rmse < 0.05
    assert robot.state is TRACKING
    assert len(segments(robot.poses[poses:])) == 2
    assert process.running


def test_a_full_disk_is_an_answer(bench, folder, tmp_path):
    robot, process = bench
    run = drive().moved(2000.0)
    robot.play(run.between(0.0, 3.0).records)
    dump = robot.client("dump_window", TRIGGER)
    kind = message_class("dnls_ros/srv/SaveTrajectory")
    output = folder / "output"
    before = set(output.iterdir())
    save = robot.client("save_trajectory", "dnls_ros/srv/SaveTrajectory")
    target = kind.Request(path=str(tmp_path / "robot.tum"))
    no_limit = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1024, no_limit[1]))
    try:
        refused = [call(dump, message_class(TRIGGER).Request()), call(save, target)]
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, no_limit)
    for answer in refused:
        assert not answer.success
        assert "File too large" in answer.message
    assert not list(tmp_path.iterdir())  # nothing half done
    assert set(output.iterdir()) == before
    since = time.monotonic()
    robot.play(run.between(3.0, 5.0).records)
    robot.settle()
    assert robot.state is TRACKING
    assert robot.poses[-1].arrival > since
    assert call(save, target).success
    dumped = call(dump, message_class(TRIGGER).Request())
    assert dumped.success, dumped.message
    assert {p.suffix for p in set(output.iterdir()) - before} == {".json", ".npz"}


def test_a_static_transform_that_comes_late(tmp_path):
    run = drive().between(0.0, 8.0)
    static = [r for r in run.records if r.topic == "tf_static"]
    rest = Part([r for r in run.records if r.topic != "tf_static"], run.truth)
    with running(tmp_path, sensor__tags__extrinsic=[]) as (robot, _):
        robot.play(rest.between(0.0, 4.0).records)
        robot.settle()
        before = robot.sensor("tags")
        late = robot.reasons()
        robot.play([*static, *rest.between(4.0, 8.0).records])
        robot.settle()
        after = robot.sensor("tags")
        rmse = robot.rmse(run.truth, run.start + round(6e9), run.end)
        print(f"\nbefore tf: {dict(late)}; tags accepted after it {after.accepted}, {rmse:.3f} m")
        assert before.accepted == 0
        assert late[Reason.UNKNOWN_FRAME] + late[Reason.TF_TIMEOUT] > 20
        assert "camera" in before.message
        assert after.accepted > 20
        assert rmse < 0.05
        assert robot.poses[-1].state is TRACKING


def test_two_robots_in_one_system(tmp_path):
    runs = {f"robot{k}": drive(k, 12.0).between(0.0, 6.0 + k) for k in (1, 2)}
    for name in runs:
        (tmp_path / name).mkdir()
    with (
        estimator(tmp_path / "robot1", "-r", "__ns:=/robot1", node="/**") as first,
        estimator(tmp_path / "robot2", "-r", "__ns:=/robot2", node="/**") as second,
        local_node("robots", free_domain()) as node,
    ):
        robots = {name: Robot(node, name) for name in runs}
        for robot, process in zip(robots.values(), (first, second), strict=True):
            robot.wait_until_ready(process)
        players = [
            threading.Thread(target=robots[name].play, args=(run.records, 2.0))
            for name, run in runs.items()
        ]
        for player in players:
            player.start()
        for player in players:
            player.join()
        for name, run in runs.items():
            robot = robots[name]
            robot.settle()
            sent = sum(record.topic == "odom" for record in run.records)
            rmse = robot.rmse(run.truth, run.start + round(STEADY * 1e9), run.end)
            other = runs["robot2" if name == "robot1" else "robot1"]
            stranger = robot.rmse(other.truth, run.start, run.end)
            print(f"\n{name}: {rmse:.3f} m from its own truth, {stranger:.3f} m from the other's")
            assert rmse < 0.05
            assert not stranger < 0.5
            assert robot.sensor("odometry").received <= sent
            assert robot.sensor("odometry").topic == f"/{name}/odom"
            last = robot.poses[-1]
            pose = pose_at(robot, last.stamp)
            assert distance_to(planar_of(pose.pose.pose.pose), last.planar) < 0.05


def pose_at(robot: Robot, stamp: int) -> Any:
    kind = message_class("dnls_ros/srv/GetPoseAt")
    request = kind.Request(stamp=COMPOSE.time(stamp), max_extrapolation=-1.0)
    answer = call(robot.client("get_pose_at", "dnls_ros/srv/GetPoseAt"), request)
    assert answer.success, answer.message
    return answer


def distance_to(one: Any, other: Any) -> float:
    return float(((one[:2] - other[:2]) ** 2).sum() ** 0.5)


@contextmanager
def playing(robot: Robot, rate: float = RATE) -> Generator[None]:
    """The robot drives within the block, or until ``robot.stop`` is set."""
    feeding = threading.Thread(target=robot.play_chunks, args=(chunks_of(drive(), DURATION), rate))
    feeding.start()
    try:
        yield
    finally:
        robot.stop.set()
        feeding.join()


def test_a_killed_node_comes_back_while_data_go_on(tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    with local_node("robot", free_domain()) as node, ExitStack() as stack:
        robot = Robot(node)
        with estimator(folders[0]) as first:
            robot.wait_until_ready(first)
            stack.enter_context(playing(robot, rate=1.0))
            wait_for(lambda: robot.state is TRACKING, 20.0, "tracking")
            assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        time.sleep(0.5)  # what the first one said last has come
        robot.statuses.clear()
        second = stack.enter_context(estimator(folders[1]))
        began = time.monotonic()
        wait_for(lambda: bool(robot.statuses), STARTUP, "the second node")
        spoke = time.monotonic()
        wait_for(lambda: robot.state is TRACKING, 20.0, "tracking again")
        tracked = time.monotonic()
        print(
            f"\nafter SIGKILL: first status {spoke - began:.1f} s after the start, "
            f"TRACKING {tracked - spoke:.2f} s later"
        )
        wait_for(lambda: robot.poses[-1].arrival > tracked + 1.0, 20.0, "poses")
        assert tracked - spoke < 3.0
        robot.stop.set()
        robot.settle()
        assert distance(robot.poses[-1], drive().truth) < 0.05
        check_late_joiner(robot)
        assert second.stop() == 0, second.log()


def check_late_joiner(robot: Robot) -> None:
    """Who comes after the last data gets the last pose, the status and the events."""
    received: dict[str, Any] = {}
    qos = QoSProfile(
        depth=20,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
    kinds = {
        "pose": "geometry_msgs/msg/PoseWithCovarianceStamped",
        "dnls_estimator/status": "dnls_ros/msg/EstimatorStatus",
        "dnls_estimator/event": "dnls_ros/msg/Event",
    }
    with local_node("late", free_domain()) as node:
        for topic, kind in kinds.items():

            def receive(message: Any, topic: str = topic) -> None:
                received[topic] = message

            node.create_subscription(message_class(kind), topic, receive, qos)
        wait_for(lambda: received.keys() == kinds.keys(), 10.0, "latched messages")
    stamp = received["pose"].header.stamp
    assert stamp.sec * 10**9 + stamp.nanosec == robot.poses[-1].stamp


# Signals

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MOMENTS = ("importing", "configuring", "under load", "serving")


def end_at(moment: str, number: int, folder: Path, random_: random.Random) -> str:
    """Ends a node at a moment; what went wrong, or ''."""
    with estimator(folder) as process, local_node("robot", free_domain()) as node:
        robot = Robot(node)
        wait_for_handlers(process)
        if moment == "importing":
            time.sleep(random_.uniform(0.0, 3.0))
        elif moment == "configuring":
            wait_for(lambda: "dnls_estimator" in node.get_node_names(), STARTUP, "the node")
            time.sleep(random_.uniform(0.0, 0.5))
        else:
            robot.wait_until_ready(process)
            with playing(robot):
                time.sleep(random_.uniform(0.2, 1.5))
                if moment == "serving":
                    ask_everything(robot)
                    time.sleep(random_.uniform(0.0, 0.01))
                code = process.stop(number)
            return "" if code == 0 else f"{moment}, {number}: {code}\n{process.log()}"
        code = process.stop(number)
    return "" if code == 0 else f"{moment}, {number}: {code}\n{process.log()}"


def ask_everything(robot: Robot) -> None:
    """Several requests at once, whose answers nobody waits for."""
    kind = message_class("dnls_ros/srv/GetPoseAt")
    stamp = robot.poses[-1].stamp if robot.poses else 1
    requests = {
        ("get_pose_at", "dnls_ros/srv/GetPoseAt"): kind.Request(stamp=COMPOSE.time(stamp)),
        ("dump_window", TRIGGER): message_class(TRIGGER).Request(),
        ("save_trajectory", "dnls_ros/srv/SaveTrajectory"): message_class(
            "dnls_ros/srv/SaveTrajectory"
        ).Request(),
    }
    clients = {key: robot.client(*key) for key in requests}
    for client in clients.values():
        assert client.wait_for_service(10.0)
    for key, request in requests.items():
        clients[key].call_async(request)


@pytest.mark.parametrize(
    ("moment", "number"), list(zip(MOMENTS, SIGNALS * 2, strict=True)), ids=MOMENTS
)
def test_a_signal_ends_the_node_with_code_zero(moment, number, tmp_path):
    assert end_at(moment, number, tmp_path, random.Random(1)) == ""


@pytest.mark.slow
def test_fifty_signals_of_fifty(tmp_path):
    random_ = random.Random(0)
    failures = []
    for k in range(50):
        moment, number = MOMENTS[k // 2 % len(MOMENTS)], SIGNALS[k % 2]
        folder = tmp_path / str(k)
        folder.mkdir()
        failures.append(end_at(moment, number, folder, random_))
    failures = [failure for failure in failures if failure]
    print(f"\n{50 - len(failures)} of 50 ended with code 0")
    assert not failures, "\n".join(failures)
