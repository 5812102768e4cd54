"""Touch in real time: simulator, front end and estimator over DDS, the model changed midway.

    python -m benchmarks.touch_live RUN/model.pt OTHER/model.pt [--duration 60]

Images at 30 Hz pass through the front end, whose pairs reach the estimator; in the middle the
front end is told to go on with the second model. Prints a table, and with --json one object as
the last line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.qos import QoSProfile, ReliabilityPolicy

from benchmarks.live_run import Listener, percentiles
from dnls_ros.io.convert import stamp_to_ns
from dnls_ros.learned import read_model
from dnls_ros.ros.live import NodeProcess, free_domain, local_node
from dnls_ros.ros.types import message_class

CONFIG = Path(__file__).resolve().parents[1] / "config" / "tactile_pushing_rect.yaml"
FINGER = {
    "sensor.contact.contact.radius": "0.012",
    "sensor.contact.throttle": "0.16",
    "sensor.tactile.throttle": "0.16",
    "sensor.tactile.axes": "['x', 'y', 'yaw']",
    "sensor.ee_pose.throttle": "0.05",
    "window.duration": "3.2",
}
"""Parameters of the estimator beside CONFIG, as in demo_sim_push.launch.py."""
TRUTH, TRUTH_TYPE = "truth/object", "geometry_msgs/msg/PoseStamped"
FRONT = "tactile_frontend"
SETTLED = 2.0
"""After the start, before errors and latencies count [s]."""


class Touched:
    """What the front end says, what the truth was, and the answer to a new model."""

    def __init__(self, node: Any) -> None:
        self.contacts: list[Any] = []
        self.pairs: list[Any] = []
        self.truth: dict[int, Any] = {}
        self.images = 0
        self.answer: Any = None
        self.asked = 0
        qos = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        for kind, topic, take in (
            ("dnls_ros/msg/ContactState", f"{FRONT}/contact", self.contacts.append),
            ("dnls_ros/msg/TactileRelativePose", f"{FRONT}/relative_pose", self.pairs.append),
            ("sensor_msgs/msg/Image", "digit/image_raw", self._count),
            (TRUTH_TYPE, TRUTH, self._take_truth),
        ):
            node.create_subscription(message_class(kind), topic, take, qos)
        self._load = message_class("dnls_ros/srv/LoadModel")
        self._client = node.create_client(self._load, f"{FRONT}/load_model")

    def ask_for(self, model: Path) -> None:
        """Asks for another model."""
        self.asked = time.time_ns()
        future = self._client.call_async(self._load.Request(path=str(model)))
        future.add_done_callback(lambda done: setattr(self, "answer", done.result()))

    def _count(self, message: Any) -> None:
        self.images += 1

    def _take_truth(self, message: Any) -> None:
        self.truth[_stamp(message)] = message.pose


def measure(model: Path, other: Path, duration: float) -> dict[str, Any]:
    """Runs all of it for so long [s]."""
    domain = free_domain()
    sizes = [str(s) for s in read_model(model)[1].image["size"]]
    front = [
        *("-r", "image_raw:=digit/image_raw"),
        *("-p", "qos.reliability:=reliable", "-p", "qos.depth:=100"),
        *("-p", f"model:={model.resolve()}", "-p", f"image.size:=[{', '.join(sizes)}]"),
    ]
    settings = [part for n, v in FINGER.items() for part in ("-p", f"{n}:={v}")]
    simulated = ["-p", f"duration:={duration:.1f}", "-p", "wait:=60.0"]
    nodes = [
        NodeProcess(CONFIG, domain, settings),
        NodeProcess(CONFIG, domain, front, FRONT),
    ]
    try:
        with local_node("touch_live", domain) as node:
            listener, touched = Listener(node), Touched(node)
            time.sleep(12.0)  # for the others to import and configure
            simulator = NodeProcess(None, domain, simulated, "sim_push_node")
            nodes.append(simulator)
            while simulator.running:
                if touched.images and touched.asked == 0:
                    first = min(touched.truth, default=0)
                    newest = max(touched.truth, default=0)
                    if newest - first > 0.5e9 * duration:
                        touched.ask_for(other)
                time.sleep(0.01)
            time.sleep(1.0)
    finally:
        logs = [one.log() for one in nodes]
        codes = [one.stop() for one in nodes]
    if not listener.odometry:
        raise RuntimeError("the estimator said nothing:\n" + "\n".join(logs))
    return figures(listener, touched, codes)


def figures(listener: Listener, touched: Touched, codes: list[int]) -> dict[str, Any]:
    """What the run showed."""
    last = listener.statuses[-1]
    first = listener.odometry[0][0] + round(SETTLED * 1e9)
    stamps = {_stamp(c) for c in touched.contacts}
    # the object's newest state is stamped as the image of which it was made, and said again until
    # there is a newer one
    came: dict[int, int] = {}
    for stamp, arrival in listener.odometry:
        came.setdefault(stamp, arrival)
    latency = [(came[s] - s) * 1e-9 for s in came if s in stamps and s >= first]
    solves = np.array([_stamp(s) for s in listener.stats], dtype=np.float64)
    around = np.diff(solves[np.abs(solves - touched.asked) < 2e9]) * 1e-9
    hashes = [p.model_hash for p in touched.pairs]
    return {
        "exit_codes": codes,
        "images": touched.images,
        "contacts": len(touched.contacts),
        "pairs": len(touched.pairs),
        "pairs_by_model": {h: hashes.count(h) for h in dict.fromkeys(hashes)},
        "reloaded": bool(touched.answer is not None and touched.answer.success),
        "image_to_odometry_ms": percentiles(latency),
        "solve_ms": percentiles([s.t_total for s in listener.stats]),
        "steps": int(last.solves_total),
        "steps_rejected": int(last.solves_rejected),
        "deadlines_missed": int(last.deadlines_missed),
        "longest_gap_of_solves_around_reload_s": float(around.max()) if len(around) else None,
        "longest_gap_of_solves_s": float(np.diff(solves).max() * 1e-9),
        "events": sorted({e.code for e in listener.events}),
        "rejected": {s.name: int(sum(s.rejected)) for s in last.sensors if sum(s.rejected)},
    }


def _stamp(message: Any) -> int:
    return stamp_to_ns(message.header.stamp.sec, message.header.stamp.nanosec)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Touch in real time.")
    parser.add_argument("model", type=Path)
    parser.add_argument("other", type=Path, help="the model of the second half")
    parser.add_argument("--duration", type=float, default=60.0, help="[s]")
    parser.add_argument("--json", action="store_true", help="one object as the last line")
    options = parser.parse_args()
    found = measure(options.model, options.other, options.duration)
    for name, value in found.items():
        timed = isinstance(value, dict) and "p95" in value
        text = ", ".join(f"{k} {v:.1f}" for k, v in value.items()) if timed else value
        print(f"{name:40} {text}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
