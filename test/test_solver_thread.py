"""The inbox and the solver thread, with a stand-in for the session and without ROS."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from dnls_ros.errors import DnlsError
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class
from dnls_ros.ros.inbox import Arrival, Ask, CameraInfo, Dropped, Inbox, Transforms
from dnls_ros.ros.path import PathHistory
from dnls_ros.ros.solver import OVERLOAD, SolverThread
from dnls_ros.runtime.session import Session
from dnls_ros.runtime.types import Event, Level, Status
from dnls_ros.window.measurements import CameraIntrinsics, Reason, Rejection
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.results import StepResult

COMPOSE = Composer(message_class)
POSE = np.array([1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 1.0])
TYPE = "geometry_msgs/msg/PoseWithCovarianceStamped"
CLOCK = 123 * 10**9


class StandIn(Session):
    """A session that notes what it is called with, and raises where a pose says so."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.received: list[Any] = []
        self.threads = {threading.get_ident()}
        self.cameras: list[Any] = []
        self.advanced: list[int] = []
        self.transforms: list[Any] = []

    def receive(self, item: Any, clock: int | None = None, *, behind: bool = False) -> None:
        self.threads.add(threading.get_ident())
        self.received.append((item, clock, behind))
        if not isinstance(item, Rejection) and item.pose[0] == 666.0:
            raise ZeroDivisionError("a session that fails")
        super().receive(item, clock, behind=behind)

    def advance(self, clock: int) -> None:
        self.advanced.append(clock)
        super().advance(clock)

    def set_intrinsics(self, sensor: str, intrinsics: CameraIntrinsics) -> None:
        self.cameras.append((sensor, intrinsics, len(self.received)))

    def add_transforms(self, transforms: Any, static: bool = False) -> None:
        self.transforms.append((transforms, static))


class Words:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str) -> None:
        self.lines.append(text)

    info = error = warning


class Rig:
    """A solver thread around a stand-in, and everything that it says."""

    def __init__(self, capacity: int = 1000, **parameters: Any) -> None:
        gps = {"sensors": ["gps"], "sensor.gps.type": "pose", "sensor.gps.topic": "fix"}
        base = {} if "sensors" in parameters else gps
        given = {name.replace("__", "."): value for name, value in parameters.items()}
        self.config = load_parameters(
            base | {"solver.trigger": "measurement", "world_frame": "map"} | given
        )
        self.inbox = Inbox((s.name for s in self.config.sensors), capacity)
        self.outputs: list[Any] = []
        self.log = Words()
        self.session: StandIn | None = None
        self.thread = self.make_thread(self.make)

    def make_thread(self, make: Any) -> SolverThread:
        return SolverThread(
            self.config, self.inbox, self.outputs.append, self.log, make, lambda: CLOCK
        )

    def make(self, config: Any) -> StandIn:
        self.session = StandIn(config)
        return self.session

    def put(self, stamp: int, x: float = 0.0, arrival: int = 0, sensor: str = "gps") -> None:
        pose = np.array([x, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
        message = COMPOSE.pose_with_covariance_stamped(stamp, "map", pose, 0.01 * np.eye(6))
        self.inbox.put(Arrival(sensor, TYPE, message, arrival))

    def finish(self) -> Status:
        deadline = time.monotonic() + 10.0
        while self.inbox.backlog and time.monotonic() < deadline:
            time.sleep(0.001)
        self.thread.stop()
        assert self.thread.status is not None
        return self.thread.status

    def gps(self) -> Any:
        (sensor,) = self.finish().sensors
        return sensor


@pytest.fixture
def rig():
    made = Rig()
    yield made
    made.thread.stop()


def test_the_session_lives_on_one_thread_that_is_not_ours(rig):
    assert "linear solver" in rig.thread.start()
    rig.put(10**9)
    rig.finish()
    assert len(rig.session.threads) == 1
    assert threading.get_ident() not in rig.session.threads


def test_a_session_that_cannot_be_built_is_an_error_at_start(rig):
    def refuse(config: Any) -> Any:
        raise DnlsError("no such device")

    thread = rig.make_thread(refuse)
    with pytest.raises(DnlsError, match="no such device"):
        thread.start()
    assert not thread.alive


def test_an_item_that_raises_is_counted_and_the_next_one_is_taken(rig):
    rig.thread.start()
    for k, x in enumerate([0.0, 666.0, 0.0], start=1):
        rig.put(k * 10**9, x)
    rig.finish()
    assert rig.thread.failed_items == 1
    steps = [o for o in rig.outputs if isinstance(o, StepResult)]
    assert [step.stamp for step in steps] == [10**9, 3 * 10**9]
    assert any("ZeroDivisionError: a session that fails" in line for line in rig.log.lines)


def test_every_message_put_is_accounted_for():
    rig = Rig(capacity=5)
    for k in range(20):
        rig.put(k * 10**8)  # the first is a zero stamp; from the sixth on the queue is full
    rig.inbox.put(Arrival("gps", TYPE, object(), 0))
    rig.thread.start()
    account = rig.gps()
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
        (account,) = rig.thread.status.sensors
        assert account.balanced
        seen = max(seen, account.received)
    assert rig.gps().received == 399
    assert seen > 0


def test_a_status_goes_out_again_and_again_without_any_message(rig):
    rig.thread.start()
    time.sleep(0.5)
    rig.finish()
    assert sum(isinstance(o, Status) for o in rig.outputs) >= 3
    assert set(rig.session.advanced) == {CLOCK}


def test_a_sensor_is_not_silent_while_its_messages_wait():
    rig = Rig(health__stale_after=0.5)
    tenth, go_on = 10**8, threading.Event()
    clock = [CLOCK - 20 * tenth]
    say, log = rig.outputs.append, rig.log
    rig.thread = SolverThread(rig.config, rig.inbox, say, log, rig.make, lambda: clock[0])
    rig.thread.start()
    try:
        rig.put(clock[0], arrival=clock[0])
        while rig.inbox.messages_waiting:
            time.sleep(0.001)
        rig.inbox.ask(Ask(lambda session: go_on.wait(10.0), lambda answer: None))
        for k in range(19, 0, -1):  # all this while the solver is at one item
            rig.put(CLOCK - k * tenth, arrival=CLOCK - k * tenth)
        clock[0] = CLOCK
        time.sleep(0.2)
        go_on.set()
        status = rig.finish()
    finally:
        go_on.set()
        rig.thread.stop()
    assert status.sensors[0].accepted == 20
    assert CLOCK - 19 * tenth in rig.session.advanced
    assert "sensor.stale" not in [o.code for o in rig.outputs if isinstance(o, Event)]


def test_events_are_published_and_said(rig):
    rig.thread.start()
    event = Event(10**9, Level.WARN, "time.jump_back", "the stamps went back")
    rig.inbox.ask(Ask(lambda session: session._out.append(event), lambda answer: None))
    time.sleep(0.1)
    rig.finish()
    assert event in rig.outputs
    assert "time.jump_back: the stamps went back" in rig.log.lines


def test_the_session_is_told_when_too_much_waits():
    rig = Rig()
    for k in range(1, 301):
        rig.put(k * 10**7)
    rig.thread.start()
    rig.finish()
    behind = [behind for _, _, behind in rig.session.received]
    assert behind == [True] * (299 - OVERLOAD) + [False] * (OVERLOAD + 1)
    assert any("steps are skipped" in line for line in rig.log.lines)


def test_the_clock_at_arrival_is_told_and_can_be_the_stamp():
    rig = Rig(sensor__gps__stamp_source="arrival")
    rig.thread.start()
    rig.put(10 * 10**9, arrival=9 * 10**9)
    rig.finish()
    ((measurement, clock, _),) = rig.session.received
    assert (measurement.stamp, clock) == (9 * 10**9, 9 * 10**9)


def test_transforms_come_in_order_with_the_messages(rig):
    rig.thread.start()
    rig.inbox.put_uncounted(Transforms((), True))
    rig.finish()
    assert rig.session.transforms == [((), True)]


def test_a_camera_is_calibrated_in_order_with_its_images_and_once():
    rig = Rig(
        sensors=["tags"], sensor__tags__type="landmarks", sensor__tags__topic="t",
        sensor__tags__camera_info_topic="i", init__mode="params",
    )  # fmt: skip
    camera = CameraIntrinsics(focal=(400.0, 410.0), center=(320.0, 240.0), width=640, height=480)
    kind = "apriltag_msgs/msg/AprilTagDetectionArray"
    rig.thread.start()
    rig.inbox.put_uncounted(CameraInfo("tags", object()))
    rig.inbox.put_uncounted(CameraInfo("tags", COMPOSE.camera_info(10**9, "cam", camera)))
    rig.inbox.put_uncounted(CameraInfo("tags", COMPOSE.camera_info(2 * 10**9, "cam", camera)))
    rig.inbox.put(Arrival("tags", kind, object(), 0))
    rig.finish()
    ((sensor, learned, before),) = rig.session.cameras
    assert (sensor, learned.focal, before) == ("tags", camera.focal, 0)
    assert any(line.startswith("CameraInfo of sensor 'tags' ignored") for line in rig.log.lines)


def test_a_question_is_answered_before_the_messages_that_wait(rig):
    answers: list[Any] = []
    done = threading.Event()

    def reply(answer: Any) -> None:
        answers.append((answer, len(rig.session.received)))
        if len(answers) == 2:
            done.set()

    for k in range(1, 50):
        rig.put(k * 10**9)
    rig.inbox.ask(Ask(lambda session: session.config.sensors[0].name, reply))
    rig.inbox.ask(Ask(lambda session: 1 / 0, reply))
    rig.thread.start()
    assert done.wait(10.0)
    assert answers[0] == ("gps", 0)
    assert isinstance(answers[1][0], ZeroDivisionError)


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
