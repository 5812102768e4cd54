"""The node in real time: a simulated robot played to it, its deadlines, latencies, CPU and memory.

    python benchmarks/live_run.py [--duration 600] [--config config/localization_2d.yaml]

The recording is stamped with the present, so that the node's clock and the stamps agree. A client
asks for poses all the while. Prints one table, and with --json one object as the last line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from dnls_ros.io.compose import Composer
from dnls_ros.io.convert import stamp_to_ns
from dnls_ros.io.recording import write_recording
from dnls_ros.io.scene import load_scene
from dnls_ros.io.simulate import simulate
from dnls_ros.ros.live import NodeProcess, free_domain, local_node, sensor_topics
from dnls_ros.ros.player import Player, load_sendings
from dnls_ros.ros.types import is_available, message_class
from dnls_ros.window.parameters import load_parameters

CONFIG = Path(__file__).resolve().parents[1] / "config" / "localization_2d.yaml"
LEAD = 12.0
"""For the node to start before the recording begins [s]."""
QUERY_PERIOD = 0.1


class Listener:
    """Everything that the node says about itself, with the moment at which it came."""

    def __init__(self, node: Node) -> None:
        self.odometry: list[tuple[int, int]] = []  # stamp, arrival [ns]
        self.stats: list[Any] = []
        self.statuses: list[Any] = []
        self.events: list[Any] = []
        qos = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        for kind, topic, take in (
            ("nav_msgs/msg/Odometry", "odometry/filtered", self._take_odometry),
            ("dnls_ros/msg/SolverStats", "dnls_estimator/solver_stats", self.stats.append),
            ("dnls_ros/msg/EstimatorStatus", "dnls_estimator/status", self.statuses.append),
            ("dnls_ros/msg/Event", "dnls_estimator/event", self.events.append),
        ):
            node.create_subscription(message_class(kind), topic, take, qos)

    def _take_odometry(self, message: Any) -> None:
        stamp = stamp_to_ns(message.header.stamp.sec, message.header.stamp.nanosec)
        self.odometry.append((stamp, time.time_ns()))


class Questions(threading.Thread):
    """Asks for the pose a little before the newest one, again and again."""

    def __init__(self, node: Node, listener: Listener) -> None:
        super().__init__(name="questions")
        self._kind = message_class("dnls_ros/srv/GetPoseAt")
        self._client = node.create_client(self._kind, "dnls_estimator/get_pose_at")
        self._listener = listener
        self._done = threading.Event()
        self.seconds: list[float] = []
        self.failures = 0

    def run(self) -> None:
        compose = Composer(message_class)
        while not self._done.wait(QUERY_PERIOD):
            if not self._listener.odometry:
                continue
            request = self._kind.Request(with_covariance=True, max_extrapolation=-1.0)
            request.stamp = compose.time(self._listener.odometry[-1][0] - 200_000_000)
            began, done = time.perf_counter(), threading.Event()
            future = self._client.call_async(request)
            future.add_done_callback(lambda _, done=done: done.set())
            if done.wait(5.0) and future.result().success:
                self.seconds.append(time.perf_counter() - began)
            else:
                self.failures += 1

    def stop(self) -> None:
        """Ends the thread."""
        self._done.set()
        self.join()


def percentiles(values: list[float], scale: float = 1e3) -> dict[str, float]:
    """p50, p95, p99 and the largest, scaled."""
    numbers = scale * np.array(values or [np.nan])
    numbers = numbers[np.isfinite(numbers)] if np.isfinite(numbers).any() else numbers
    out = {f"p{q}": float(np.percentile(numbers, q)) for q in (50, 95, 99)}
    return {**out, "max": float(numbers.max()), "count": len(values)}


def memory_slope(statuses: list[Any]) -> float:
    """Growth of resident memory over the second half [MB per minute]."""
    half = statuses[len(statuses) // 2 :]
    seconds = [stamp_to_ns(s.header.stamp.sec, s.header.stamp.nanosec) * 1e-9 for s in half]
    if len(half) < 3:
        return float("nan")
    return float(np.polyfit(np.array(seconds) - seconds[0], [s.rss_mb for s in half], 1)[0] * 60)


def measure(config_file: Path, duration: float) -> dict[str, Any]:
    """Plays a simulated robot to a node for so long [s]."""
    config = load_parameters(config_file)
    with tempfile.TemporaryDirectory() as folder:
        bag = write_recording(simulate(0, duration, load_scene()), folder).bag
        begin = time.time_ns() + round((LEAD + 0.05 * duration) * 1e9)  # serializing takes time
        wanted = [*sensor_topics(config), *(["tf_static"] if is_available(TF) else [])]
        sendings, types = load_sendings(bag, wanted, begin)
    domain = free_domain()
    process = NodeProcess(config_file, domain)
    try:
        with local_node("live_run", domain) as node:
            listener = Listener(node)
            player = Player(node, types)
            player.wait_for_subscribers(sensor_topics(config), 30.0, lambda: process.running)
            time.sleep(max(0.0, (begin - time.time_ns()) * 1e-9))
            questions = Questions(node, listener)
            questions.start()
            sent = player.play(sendings)
            time.sleep(2.0)
            questions.stop()
    finally:
        code = process.stop()
    return figures(listener, questions, sum(sent.values()), code)


TF = "tf2_msgs/msg/TFMessage"


def figures(listener: Listener, questions: Questions, sent: int, code: int) -> dict[str, Any]:
    """What the run showed."""
    last = listener.statuses[-1]
    return {
        "messages_sent": sent,
        "exit_code": code,
        "steps": int(last.solves_total),
        "steps_rejected": int(last.solves_rejected),
        "deadlines_missed": int(last.deadlines_missed),
        "solve_ms": percentiles([s.t_total for s in listener.stats]),
        "measurement_to_odometry_ms": percentiles(
            [(arrival - stamp) * 1e-9 for stamp, arrival in listener.odometry]
        ),
        "get_pose_at_ms": percentiles(questions.seconds),
        "get_pose_at_failures": questions.failures,
        "cpu_percent": percentiles([s.cpu_percent for s in listener.statuses], 1.0),
        "rss_mb": float(last.rss_mb),
        "rss_mb_per_minute": memory_slope(listener.statuses),
        "states": sorted({int(s.state) for s in listener.statuses}),
        "events": sorted({e.code for e in listener.events}),
        "rejected": {s.name: int(sum(s.rejected)) for s in last.sensors if sum(s.rejected)},
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="The node in real time.")
    parser.add_argument("--duration", type=float, default=600.0, help="[s]")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    options = parser.parse_args()
    found = measure(options.config, options.duration)
    for name, value in found.items():
        shown = (
            ", ".join(f"{k} {v:.1f}" for k, v in value.items())
            if isinstance(value, dict)
            else value
        )
        print(f"{name:28} {shown}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
