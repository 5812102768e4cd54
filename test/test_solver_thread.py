"""The inbox and the solver thread, with a stand-in for the estimator and without ROS."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dnls_ros.errors import DnlsError
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class
from dnls_ros.ros.inbox import Arrival, Ask, CameraInfo, Dropped, Inbox
from dnls_ros.ros.path import PathHistory
from dnls_ros.ros.solver import SolverThread
from dnls_ros.window.ingress import Ingress
from dnls_ros.window.measurements import CameraIntrinsics, Reason
from dnls_ros.window.parameters import load_parameters

COMPOSE = Composer(message_class)
POSE = np.array([1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 1.0])
TYPE = "geometry_msgs/msg/PoseWithCovarianceStamped"


class StandIn:
    """Counts like the estimator; its steps note their times, or raise where a pose says so."""

    choices = ("stand-in", "for tests")

    def __init__(self, config: Any) -> None:
        self.ingress = Ingress(config)
        self.counters = self.ingress.counters
        self.steps: list[int] = []
        self.fed: list[Any] = []
        self.threads = {threading.get_ident()}
        self.cameras: list[Any] = []

    def feed(self, item: Any, now: int | None = None) -> Reason | None:
        self.threads.add(threading.get_ident())
        self.fed.append(item)
        return self.ingress.feed(item, now)

    def step(self, now: int) -> Any:
        self.steps.append(now)
        taken = self.ingress.take(now)
        for measurement in taken:
            self.ingress.settle(measurement, None)
        if any(getattr(m, "pose", POSE)[0] == 666.0 for m in taken):
            raise ZeroDivisionError("a step that fails")
        refused = any(getattr(m, "pose", POSE)[0] == 667.0 for m in taken)
        return SimpleNamespace(accepted=not refused, status="as told", stamp=now)

    def drain(self) -> list[Any]:
        return []

    def set_intrinsics(self, sensor: str, camera: CameraIntrinsics) -> None:
        self.cameras.append((sensor, camera, len(self.fed)))

    def pose_at(self, stamp: int, **options: Any) -> Any:
        if stamp < 0:
            raise ValueError("negative")
        return stamp, options


class Words:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str) -> None:
        self.lines.append(text)

    def error(self, text: str) -> None:
        self.lines.append(text)


class Rig:
    """A solver thread around a stand-in, and everything that it says."""

    def __init__(self, capacity: int = 1000, **parameters: Any) -> None:
        gps = {"sensors": ["gps"], "sensor.gps.type": "pose", "sensor.gps.topic": "fix"}
        base = {} if "sensors" in parameters else gps
        given = {name.replace("__", "."): value for name, value in parameters.items()}
        self.config = load_parameters(base | {"solver.trigger": "measurement"} | given)
        self.inbox = Inbox((s.name for s in self.config.sensors), capacity)
        self.results: list[Any] = []
        self.log = Words()
        self.estimator: StandIn | None = None
        self.thread = SolverThread(
            self.config, self.inbox, self.results.append, self.log, self.make
        )

    def make(self, config: Any) -> Any:
        self.estimator = StandIn(config)
        return self.estimator

    def put(self, stamp: int, x: float = 0.0, arrival: int = 0, sensor: str = "gps") -> None:
        pose = np.array([x, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
        message = COMPOSE.pose_with_covariance_stamped(stamp, "map", pose, 0.01 * np.eye(6))
        self.inbox.put(Arrival(sensor, TYPE, message, arrival))

    def finish(self) -> Any:
        deadline = time.monotonic() + 5.0
        while self.inbox.backlog and time.monotonic() < deadline:
            time.sleep(0.001)
        self.thread.stop()
        return self.thread.report


@pytest.fixture
def rig():
    made = Rig()
    yield made
    made.thread.stop()


def test_the_estimator_lives_on_one_thread_that_is_not_ours(rig):
    assert rig.thread.start() == "stand-in; for tests"
    rig.put(10**9)
    rig.finish()
    assert len(rig.estimator.threads) == 1
    assert threading.get_ident() not in rig.estimator.threads


def test_an_estimator_that_cannot_be_built_is_an_error_at_start(rig):
    def refuse(config: Any) -> Any:
        raise DnlsError("no such device")

    thread = SolverThread(rig.config, rig.inbox, rig.results.append, rig.log, refuse)
    with pytest.raises(DnlsError, match="no such device"):
        thread.start()
    assert not thread.alive


def test_a_step_that_raises_is_counted_and_the_next_one_is_solved(rig):
    rig.thread.start()
    for k, x in enumerate([0.0, 666.0, 667.0, 0.0], start=1):
        rig.put(k * 10**9, x)
    report = rig.finish()
    assert (report.steps, report.failed, report.refused) == (3, 1, 1)
    assert [result.stamp for result in rig.results] == [10**9, 4 * 10**9]
    assert any("ZeroDivisionError: a step that fails" in line for line in rig.log.lines)


def test_every_message_put_is_accounted_for():
    rig = Rig(capacity=5)
    for k in range(20):
        rig.put(k * 10**8)  # the first is a zero stamp; from the sixth on the queue is full
    rig.inbox.put(Arrival("gps", TYPE, object(), 0))
    rig.thread.start()
    account = rig.finish().sensors["gps"]
    assert account.balanced
    assert account.received == 21
    assert account.accepted == 4
    assert account.rejected == {Reason.ZERO_STAMP: 1, Reason.QUEUE_FULL: 16}


def test_accounts_balance_while_messages_are_coming():
    rig = Rig()
    rig.thread.start()
    seen = 0
    for k in range(1, 400):
        rig.put(k * 10**7)
        time.sleep(0.0005)
        for account in rig.thread.report.sensors.values():
            assert account.balanced
            seen = max(seen, account.received)
    assert rig.finish().sensors["gps"].received == 399
    assert seen > 0


def test_ticks_are_multiples_of_the_period_in_data_time():
    rig = Rig(solver__trigger="rate", solver__rate=10.0)
    rig.thread.start()
    for stamp in (1_020, 1_080, 1_120, 1_390):
        rig.put(stamp * 10**6)
    rig.finish()
    assert rig.estimator is not None
    assert rig.estimator.steps == [1_100 * 10**6, 1_200 * 10**6, 1_300 * 10**6]


def test_a_late_measurement_is_solved_at_the_newest_time(rig):
    rig.thread.start()
    for stamp in (5, 3):
        rig.put(stamp * 10**9)
    rig.finish()
    assert rig.estimator.steps == [5 * 10**9, 5 * 10**9]


def test_steps_are_skipped_while_too_much_waits():
    rig = Rig()
    for k in range(1, 301):
        rig.put(k * 10**7)
    rig.thread.start()
    report = rig.finish()
    assert report.skipped == 99
    assert report.steps == 201
    assert report.sensors["gps"].accepted == 300


def test_a_stamp_ahead_of_the_clock_is_rejected_and_the_arrival_can_be_the_stamp():
    rig = Rig()
    rig.thread.start()
    rig.put(10 * 10**9, arrival=9 * 10**9)
    rig.put(11 * 10**9, arrival=11 * 10**9)
    assert rig.finish().sensors["gps"].rejected == {Reason.FUTURE_STAMP: 1}
    rig = Rig(sensor__gps__stamp_source="arrival")
    rig.thread.start()
    rig.put(10 * 10**9, arrival=9 * 10**9)
    rig.finish()
    assert rig.estimator is not None
    assert rig.estimator.steps == [9 * 10**9]


def test_a_camera_is_calibrated_in_order_with_its_images_and_once():
    rig = Rig(
        sensors=["tags"], sensor__tags__type="landmarks", sensor__tags__topic="t",
        sensor__tags__camera_info_topic="i", init__mode="params",
    )  # fmt: skip
    camera = CameraIntrinsics(focal=(400.0, 410.0), center=(320.0, 240.0), width=640, height=480)
    kind = "apriltag_msgs/msg/AprilTagDetectionArray"
    rig.thread.start()
    rig.inbox.put(Arrival("tags", kind, COMPOSE.april_tags(10**9, "cam", []), 0))
    rig.inbox.put_uncounted(CameraInfo("tags", object()))
    rig.inbox.put_uncounted(CameraInfo("tags", COMPOSE.camera_info(10**9, "cam", camera)))
    rig.inbox.put_uncounted(CameraInfo("tags", COMPOSE.camera_info(2 * 10**9, "cam", camera)))
    rig.inbox.put(Arrival("tags", kind, COMPOSE.april_tags(2 * 10**9, "cam", []), 0))
    rig.finish()
    assert rig.estimator is not None
    ((sensor, learned, after),) = rig.estimator.cameras
    assert (sensor, learned.focal, after) == ("tags", camera.focal, 1)
    assert any(line.startswith("CameraInfo of sensor 'tags' ignored") for line in rig.log.lines)


def test_a_question_is_answered_before_the_messages_that_wait(rig):
    answers: list[Any] = []
    done = threading.Event()

    def reply(answer: Any) -> None:
        answers.append((answer, len(rig.estimator.fed)))
        if len(answers) == 2:
            done.set()

    for k in range(1, 50):
        rig.put(k * 10**9)
    rig.inbox.ask(Ask(lambda session: session.pose_at(7), reply))
    rig.inbox.ask(Ask(lambda session: session.pose_at(-1), reply))
    rig.thread.start()
    assert done.wait(5.0)
    assert answers[0] == ((7, {}), 0)
    assert isinstance(answers[1][0], ValueError)


def test_the_inbox_keeps_order_and_turns_an_overflow_into_work():
    inbox = Inbox(["a", "b"], capacity=1)
    messages = [Arrival("a", "t", n, 0) for n in range(2)]
    assert [inbox.put(message) for message in messages] == [True, False]
    assert inbox.put(Arrival("b", "t", 9, 0))
    assert inbox.counts() == ({"a": 2, "b": 1}, {"a": 2, "b": 1})
    assert inbox.take(0.0) is messages[0]
    assert inbox.take(0.0) == Dropped("a")
    assert inbox.counts() == ({"a": 2, "b": 1}, {"a": 0, "b": 1})
    inbox.close()
    assert inbox.take(10.0) is None


def test_a_path_keeps_final_poses_and_replaces_those_of_the_window():
    path = PathHistory(duration=3.0, max_poses=100)
    poses = np.tile(POSE, (3, 1))
    path.extend(np.array([1, 2, 3]) * 10**9, poses)
    before = path.messages(COMPOSE, "map")
    moved = poses + np.array([5.0, 0, 0, 0, 0, 0, 0])
    path.extend(np.array([2, 3, 4]) * 10**9, moved)
    after = path.messages(COMPOSE, "map")
    assert [m.header.stamp.sec for m in after] == [1, 2, 3, 4]
    assert [m.pose.position.x for m in after] == [1.0, 6.0, 6.0, 6.0]
    assert after[0] is before[0]
    path.extend(np.array([6]) * 10**9, moved[:1])
    assert [m.header.stamp.sec for m in path.messages(COMPOSE, "map")] == [3, 4, 6]


def test_a_path_never_has_more_poses_than_allowed():
    path = PathHistory(duration=1e6, max_poses=10)
    for k in range(1, 100):
        path.extend(np.array([k, k + 1]) * 10**9, np.tile(POSE, (2, 1)))
        assert len(path) <= 10
    assert path.messages(COMPOSE, "map")[-1].header.stamp.sec == 100
