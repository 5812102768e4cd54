"""The simulated robot played to the real node over DDS, and everything that the node answers.

Times are told twice: in seconds of data (by header stamps: what the estimator can be held to) and
in seconds on the clock of the wall, which depend on the machine.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fault_rig import CONFIG, Part, part
from node_rig import COMPOSE, planar_of, wait_for, write_params
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.io.bag import Record
from dnls_ros.io.convert import stamp_to_ns
from dnls_ros.io.definitions import typestore
from dnls_ros.ros.live import NodeProcess, free_domain
from dnls_ros.ros.player import Player, Sending
from dnls_ros.ros.types import message_class
from dnls_ros.runtime.types import EstimatorState
from dnls_ros.window.measurements import Reason

DURATION = 42.0
"""Of the simulated run [s]."""
RATE = 2.0
"""Times real time at which recordings are played."""
GOOD = 0.1
"""Errors below it are those of a good estimate [m]."""
CHUNK = 0.5
"""Data between two looks whether playing shall end [s]."""
CLOCK_STEP = 20_000_000
"""Of the simulated time [ns]."""
SETTLED = 300_000_000
"""The last estimate is so near the end of the data [ns]."""
SETTLING = 30.0
"""Longest time to it on a busy machine [s]."""
TOPICS = ("odom", "camera/tag_detections", "camera/camera_info", "gps_pose")
STARTUP = 40.0
"""Longest start of a node on a busy machine [s]."""
TRACKING = EstimatorState.TRACKING


@lru_cache
def drive(seed: int = 0, duration: float = DURATION) -> Part:
    """The topics that the node listens to, of one simulated run."""
    made = part(seed, duration)
    wanted = {*TOPICS, "tf_static"}
    return Part([record for record in made.records if record.topic in wanted], made.truth)


def robot_parameters(output_dir: Path, **changes: Any) -> dict[str, Any]:
    """The shipped configuration with some parameters changed (``__`` for the dots)."""
    parameters = yaml.safe_load(CONFIG.read_text())["dnls_estimator"]["ros__parameters"]
    tags = parameters["sensor"]["tags"]
    tags["landmarks"]["map_file"] = str(CONFIG.parent / tags["landmarks"]["map_file"])
    parameters |= {"output_dir": str(output_dir), "deterministic": True}  # no wall in the state
    parameters["solver"] |= {"rate": 10.0}  # so that a busy machine keeps up …
    parameters["sensors"].remove("imu")  # …: what it gives up when it does not is not shown here
    del parameters["sensor"]["imu"]
    for name, value in changes.items():
        *path, last = name.split("__")
        block = parameters
        for key in path:
            block = block.setdefault(key, {})
        block[last] = value
    return parameters


@dataclass(frozen=True, eq=False)
class Pose:
    """One odometry: when it came [s], its stamp, what the last status before it said."""

    arrival: float
    stamp: int
    state: EstimatorState | None
    planar: np.ndarray
    finite: bool


@dataclass(frozen=True)
class Back:
    """How long it took to a good pose, and to one while TRACKING [s of data], [s of the wall]."""

    good: float
    tracking: float
    wall: float


class Robot:
    """Publishes a robot's topics and listens to its estimator.

    Attributes:
        poses, statuses, events: What came, in order of arrival; the latter two with their moments.
        simulated: Whether /clock goes with what is played.
        stop: Ends `play_chunks`.
    """

    def __init__(self, node: Node, namespace: str = "", simulated: bool = False) -> None:
        self.node, self.namespace, self.simulated = node, namespace, simulated
        self.poses: list[Pose] = []
        self.statuses: list[tuple[float, Any]] = []
        self.events: list[tuple[float, Any]] = []
        types = {record.topic: record.type for record in drive().records}
        self.player = Player(node, {self._name(topic): kind for topic, kind in types.items()})
        self._departures: dict[int, float] = {}
        self._clock: Any = None
        self._last_play = 0.0, 0
        self.stop = threading.Event()
        self._listen("nav_msgs/msg/Odometry", "odometry/filtered", self._pose)
        self._listen("dnls_ros/msg/EstimatorStatus", "dnls_estimator/status", self._status, True)
        self._listen("dnls_ros/msg/Event", "dnls_estimator/event", self._event, True)

    def _name(self, topic: str) -> str:
        return f"{self.namespace}/{topic.lstrip('/')}" if self.namespace else topic

    def _listen(self, kind: str, topic: str, receive: Any, latched: bool = False) -> None:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        qos = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE, durability=durability)
        self.node.create_subscription(message_class(kind), self._name(topic), receive, qos)

    def _pose(self, message: Any) -> None:
        stamp = stamp_to_ns(message.header.stamp.sec, message.header.stamp.nanosec)
        numbers = np.array(message.pose.covariance)
        planar = planar_of(message.pose.pose)
        finite = bool(np.isfinite(numbers).all() and np.isfinite(planar).all())
        finite = finite and float(np.linalg.eigvalsh(numbers.reshape(6, 6)).min()) > 0.0
        self.poses.append(Pose(time.monotonic(), stamp, self.state, planar, finite))

    def _status(self, message: Any) -> None:
        self.statuses.append((time.monotonic(), message))

    def _event(self, message: Any) -> None:
        self.events.append((time.monotonic(), message))

    def client(self, service: str, kind: str) -> Any:
        name = self._name(f"dnls_estimator/{service}")
        return self.node.create_client(message_class(kind), name)

    @property
    def state(self) -> EstimatorState | None:
        return EstimatorState(self.statuses[-1][1].state) if self.statuses else None

    def states_between(self, begin: int, end: int) -> set[EstimatorState]:
        """States while the records received in [begin, end] left, and a little later."""
        times = [t for r, t in self._departures.items() if begin <= r <= end]
        first = min(times, default=0.0)
        last = max(times, default=0.0) + 0.5 / RATE
        return {EstimatorState(m.state) for t, m in self.statuses if first <= t <= last}

    def sensor(self, name: str) -> Any:
        """The newest SensorHealth."""
        return next(s for s in self.statuses[-1][1].sensors if s.name == name)

    def states(self, since: float) -> set[EstimatorState]:
        return {EstimatorState(m.state) for arrival, m in self.statuses if arrival >= since}

    def codes(self, since: float = 0.0) -> Counter[str]:
        return Counter(message.code for arrival, message in self.events if arrival >= since)

    def reasons(self) -> Counter[Reason]:
        """Counted by all sensors, says the newest status."""
        found = Counter[Reason]()
        for sensor in self.statuses[-1][1].sensors:
            found.update({Reason(k): n for k, n in enumerate(sensor.rejected) if n and k})
        return found

    def wait_until_ready(self, process: NodeProcess) -> None:
        topics = [self._name(topic) for topic in TOPICS]
        self.player.wait_for_subscribers(topics, STARTUP, lambda: process.running)

    def play(self, records: Sequence[Record], rate: float = RATE) -> None:
        """Plays to the end; simulated time goes with it where there is one."""
        shown = 0
        self._last_play = time.monotonic(), records[-1].receive_stamp

        def note(sending: Sending) -> None:
            nonlocal shown
            if self.simulated and not shown <= sending.receive_stamp < shown + CLOCK_STEP:
                shown = sending.receive_stamp
                self.show_clock(shown)
            self._departures[sending.receive_stamp] = time.monotonic()

        self.player.play([self._sending(record) for record in records], rate, note)

    def play_chunks(self, chunks: Sequence[Part], rate: float) -> None:
        """Plays until the end or until ``stop`` is set."""
        for chunk in chunks:
            if self.stop.is_set():
                return
            self.play(chunk.records, rate)

    def _sending(self, record: Record) -> Sending:
        data = bytes(typestore().serialize_cdr(record.message, record.type))
        return Sending(record.receive_stamp, self._name(record.topic), data)

    def settle(self) -> None:
        """Returns when what was played last has been estimated to its end, and a status came."""
        begun, end = self._last_play

        def done() -> bool:
            last = self.poses[-1] if self.poses else None
            return last is not None and last.arrival > begun and abs(last.stamp - end) < SETTLED

        wait_for(done, SETTLING, f"the estimate at {end} after {self.poses[-1:]}")
        seen = len(self.statuses)
        wait_for(lambda: len(self.statuses) > seen, SETTLING, "a status")

    def good_again(
        self, truth: Mapping[int, np.ndarray], after: int, since: float = 0.0, first: float = 0.0
    ) -> Back:
        """From the first record of ``after`` [ns] on that left at ``since`` or later [s].

        Poses that came before ``first`` [s] do not count.
        """
        departed = min(
            (t for r, t in self._departures.items() if r >= after and t >= since), default=np.inf
        )
        good = tracking = wall = float("inf")
        for pose in self.poses:
            if pose.stamp < after or pose.arrival < max(departed, first):
                continue
            if distance(pose, truth) < GOOD:
                good = min(good, (pose.stamp - after) * 1e-9)
                if pose.state is TRACKING:
                    tracking, wall = (pose.stamp - after) * 1e-9, pose.arrival - departed
                    break
        return Back(good, tracking, wall)

    def rmse(self, truth: Mapping[int, np.ndarray], begin: int, end: int) -> float:
        """Of the poses with stamps in [begin, end) [m]."""
        errors = [distance(p, truth) for p in self.poses if begin <= p.stamp < end]
        return float(np.sqrt(np.mean(np.square(errors)))) if errors else float("nan")

    def good_again_in(self, run: Part, since: float) -> Back:
        """`good_again` from the beginning of a run that was played from ``since`` [s] on."""
        restart = next((p.arrival for p in self._played(run, since)), float("inf"))
        return self.good_again(run.truth, run.start, since, restart)

    def rmse_since(self, run: Part, since: float) -> float:
        """Of the poses of a run that was played from ``since`` [s] on, its first second aside."""
        settled = run.start + 10**9
        errors = [distance(p, run.truth) for p in self._played(run, since) if p.stamp > settled]
        return float(np.sqrt(np.mean(np.square(errors)))) if errors else float("nan")

    def _played(self, run: Part, since: float) -> list[Pose]:
        """Poses that belong to it: those after the last one of what was played before it."""
        late = [p for p in self.poses if p.arrival >= since]
        return segments(late)[-1] if late else []

    def show_clock(self, stamp: int) -> None:
        """Publishes the simulated time [ns]."""
        if self._clock is None:
            qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
            kind = message_class("rosgraph_msgs/msg/Clock")
            self._clock = self.node.create_publisher(kind, "/clock", qos)
        now = message_class("rosgraph_msgs/msg/Clock")(clock=COMPOSE.time(stamp))
        self._clock.publish(now)


def distance(pose: Pose, truth: Mapping[int, np.ndarray]) -> float:
    true = truth.get(pose.stamp)
    return float("nan") if true is None else float(np.hypot(*(pose.planar[:2] - true[:2])))


def segments(poses: Sequence[Pose]) -> list[list[Pose]]:
    """Split where a stamp does not increase."""
    out: list[list[Pose]] = []
    for pose in poses:
        if not out or pose.stamp <= out[-1][-1].stamp:
            out.append([])
        out[-1].append(pose)
    return out


def chunks_of(run: Part, duration: float) -> list[Part]:
    return [run.between(k * CHUNK, (k + 1) * CHUNK) for k in range(round(duration / CHUNK))]


@contextmanager
def estimator(
    folder: Path, *arguments: str, node: str = "dnls_estimator", domain: int = 0, **changes: Any
) -> Generator[NodeProcess]:
    """The node with the shipped configuration; ended with the block."""
    output = folder / "output"
    params = write_params(folder / "p.yaml", robot_parameters(output, **changes), node)
    process = NodeProcess(params, domain or free_domain(), arguments)
    try:
        yield process
    finally:
        process.stop()


def wait_for_handlers(process: NodeProcess) -> float:
    """Waits until the node hears signals; how long that took [s].

    SIGTERM tells: SIGINT Python itself hears from its start, before a line of ours has run.
    """
    began = time.monotonic()

    def caught() -> bool:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
        return bool(mask >> (signal.SIGTERM - 1) & 1)

    while not caught():
        assert process.running, process.log()
        assert time.monotonic() < began + STARTUP, "no handlers"
        os.sched_yield()
        time.sleep(0.002)
    return time.monotonic() - began
