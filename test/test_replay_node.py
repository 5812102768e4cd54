"""replay_node on real DDS: /clock and outputs, the action with its refusals, exit codes."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("dnls_ros.action")

from node_rig import stamp_of
from process_rig import Process, process
from rclpy.action.client import ActionClient

from dnls_ros.io.bag import BagWriter
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class as recorded_class
from dnls_ros.io.replay import ReplayOptions, replay
from dnls_ros.io.results_files import summarize, write_results
from dnls_ros.ros.listen import OdometryListener
from dnls_ros.ros.live import free_domain, local_node
from dnls_ros.ros.replay_node import main
from dnls_ros.ros.replaying import make_request
from dnls_ros.ros.types import message_class

pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, used by rclpy
]

PARAMS = """
dnls_estimator:
  ros__parameters:
    world_frame: map
    sensors: [gps]
    sensor:
      gps: {type: pose, topic: gps, sigma_floor: [0.01]}
"""
KIND = "geometry_msgs/msg/PoseWithCovarianceStamped"
SECONDS, RATE = 8.0, 20
ACTION = "dnls_ros/action/ReplayBag"
SUCCEEDED, CANCELED, ABORTED = 4, 5, 6  # of action_msgs/GoalStatus


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bag`` (poses on a line) and ``params.yaml``."""
    folder = tmp_path_factory.mktemp("recording")
    (folder / "params.yaml").write_text(PARAMS)
    compose = Composer(recorded_class)
    with BagWriter(folder / "bag") as bag:
        bag.add_topic("gps", KIND)
        for k in range(round(SECONDS * RATE)):
            stamp = stamp_of(k / RATE)
            pose = np.array([0.5 * k / RATE, 0, 0, 0, 0, 0, 1.0])
            message = compose.pose_with_covariance_stamped(stamp, "map", pose, 1e-2 * np.eye(6))
            bag.write("gps", message, stamp)
    return folder


class Rig:
    """A replay node that serves its action, and a client of it."""

    def __init__(self, node: Any, process: Process) -> None:
        self.process = process
        self.client = ActionClient(node, message_class(ACTION), "dnls_replay/replay_bag")
        self.listener = OdometryListener(node)
        self.clocks: list[int] = []
        self.feedback: list[Any] = []

        def tick(message: Any) -> None:
            self.clocks.append(message.clock.sec * 10**9 + message.clock.nanosec)

        clock = message_class("rosgraph_msgs/msg/Clock")
        node.create_subscription(clock, "/clock", tick, 1000)

    def send(self, **fields: Any) -> Any:
        """Sends a goal; its handle."""
        goal = message_class(ACTION).Goal(**{"publish": True, **fields})
        sent = self.client.send_goal_async(
            goal, feedback_callback=lambda m: self.feedback.append(m.feedback)
        )
        self.process.wait_for(sent.done, 20.0, "an answer to the goal")
        return sent.result()

    def result(self, handle: Any) -> Any:
        """Waits for a goal's end; status and result."""
        future = handle.get_result_async()
        self.process.wait_for(future.done, 40.0, "the result")
        return future.result()


@pytest.fixture(scope="module")
def rig(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("replay")
    parameters = {
        "params_file": str(recording / "params.yaml"),
        "output_dir": str(folder / "out"),
    }
    with (
        process("replay_node", folder, **parameters) as running,
        local_node("asker", free_domain()) as node,
    ):
        made = Rig(node, running)
        assert made.client.wait_for_server(40.0), running.log()
        yield made


def test_a_goal_gives_the_bytes_of_the_replay_without_ros(rig, recording, tmp_path):
    handle = rig.send(bag=str(recording / "bag"), publish=False)
    assert handle.accepted
    done = rig.result(handle)
    assert done.status == SUCCEEDED, done.result.message
    request = make_request(
        str(recording / "bag"), str(recording / "params.yaml"), 0.0, 0.0, 0.0, False
    )
    write_results(summarize(replay(request.bag, request.config, ReplayOptions()), False), tmp_path)
    expected = (tmp_path / "object.tum").read_bytes()
    assert Path(done.result.trajectory_path).read_bytes() == expected
    assert done.result.sha256 == hashlib.sha256(expected).hexdigest()
    assert done.result.coverage > 0.95
    assert not rig.clocks


def test_clock_odometry_and_feedback_leave_while_it_runs_and_a_cancel_ends_it(rig, recording):
    rig.feedback.clear()
    handle = rig.send(bag=str(recording / "bag"), rate=2.0, start_offset=1.0)
    rig.process.wait_for(lambda: len(rig.listener.messages) > 20, 30.0, "odometry")
    second = rig.send(bag=str(recording / "bag"))
    assert not second.accepted
    assert "another one is worked on" in rig.process.log()
    cancel = handle.cancel_goal_async()
    rig.process.wait_for(cancel.done, 10.0, "an answer to the cancellation")
    assert len(cancel.result().goals_canceling) == 1
    done = rig.result(handle)
    assert done.status == CANCELED
    assert not done.result.success
    assert "stopped before the end" in done.result.message
    assert rig.clocks[0] >= stamp_of(1.0)
    assert all(b > a for a, b in pairwise(rig.clocks))
    newest = rig.listener.trajectory()
    assert newest.stamps[-1] < stamp_of(SECONDS) - 10**9
    assert newest.stamps[-1] <= rig.clocks[-1]
    at = (newest.stamps - stamp_of(0.0)) * 1e-9
    np.testing.assert_allclose(newest.poses[:, 0], 0.5 * at, atol=0.02)
    shares = [one.progress for one in rig.feedback]
    assert len(shares) > 2
    assert shares == sorted(shares)
    assert 0.5 < rig.feedback[-1].rtf < 3.0


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"bag": "/nowhere"}, "recording /nowhere does not exist"),
        ({"bag": ""}, "no recording is named"),
        ({"bag": "BAG", "rate": -1.0}, "rate is -1.0"),
        ({"bag": "BAG", "duration": float("nan")}, "duration is nan"),
        ({"bag": "BAG", "config_path": "/none.yaml"}, "none.yaml"),
        ({"bag": "PARAMS"}, "params.yaml"),
        ({"bag": "BAG", "start_offset": 100.0}, "no message of the configured topics"),
    ],
)
def test_a_goal_that_cannot_be_replayed_is_aborted_with_a_sentence(
    rig, recording, fields, complaint
):
    places = {"BAG": recording / "bag", "PARAMS": recording / "params.yaml"}
    bag = str(places.get(fields["bag"], fields["bag"]))
    done = rig.result(rig.send(**{**fields, "bag": bag}))
    assert done.status == ABORTED, done
    assert not done.result.success
    assert done.result.message
    assert complaint in done.result.message
    assert rig.process.running


@pytest.fixture
def run() -> Iterator[Callable[..., int]]:
    """Runs the node in this process until it ends; its exit code."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def start(**parameters: str) -> int:
        words = [word for k, v in parameters.items() for word in ("-p", f"{k}:={v}")]
        return main(["--ros-args", *words])

    yield start
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_node_replays_what_its_parameters_name_and_ends(run, recording, tmp_path, capfd):
    given = {"bag": str(recording / "bag"), "params_file": str(recording / "params.yaml")}
    assert run(**given, output_dir=str(tmp_path), rate="0") == 0
    assert "coverage" in json.loads((tmp_path / "bag" / "status.json").read_text())
    assert run(**given, output_dir="/dev/null/x") == 2
    assert "cannot write the results into /dev/null/x" in capfd.readouterr().err


def test_a_loop_shows_the_recording_again_and_again_until_sigint(recording, tmp_path):
    given = {"bag": str(recording / "bag"), "params_file": str(recording / "params.yaml")}
    with local_node("listener", free_domain()) as node:
        listener = OdometryListener(node)
        loop = {"output_dir": str(tmp_path), "rate": "20.0", "loop": "true"}
        with process("replay_node", tmp_path, **given, **loop) as running:
            running.wait_for(lambda: returns(listener) >= 2, 90.0, "three loops")
            assert running.log().count("; again") >= 2
            assert running.stop() == 0


def returns(listener: OdometryListener) -> int:
    """How often the stamps went back."""
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in listener.messages]
    return sum(b < a for a, b in pairwise(stamps))


@pytest.mark.parametrize(
    ("wrong", "code", "complaint"),
    [
        ({"bag": "/nowhere"}, 3, "/nowhere does not exist"),
        ({"rate": "fast"}, 2, "rate: got 'fast'; expected a number"),
        ({"rat": "1.0"}, 2, "did you mean rate?"),
    ],
)
def test_the_exit_code_says_what_was_wrong(run, recording, capfd, wrong, code, complaint):
    assert run(**{"params_file": str(recording / "params.yaml"), **wrong}) == code
    assert complaint in capfd.readouterr().err
