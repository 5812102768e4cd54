"""Examines running publishers: rates, stamps, frames, covariances, tf and QoS, then ends.

    ros2 run dnls_ros doctor_node --ros-args -p params_file:=robot.yaml -p duration:=10.0

With ``params_file`` the topics of an estimator are heard and compared with its configuration,
without it all topics there are. The table of ``dnls doctor`` is printed and the exit code is 0, or
1 if something is an error, 2 if the configuration is wrong. Messages are taken serialized, so that
large ones cost nothing but their header.
"""

from __future__ import annotations

from dnls_ros.ros.stopping import hold_signals

if __name__ == "__main__":
    hold_signals()  # before the imports, which take seconds

import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rclpy.clock import Clock
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from dnls_ros.errors import UnavailableError
from dnls_ros.io.doctor import Doctor, Report
from dnls_ros.io.doctor_bag import LARGE, peek
from dnls_ros.io.doctor_codes import Severity, finding
from dnls_ros.io.doctor_text import as_text
from dnls_ros.io.doctor_topics import IMAGE_TYPES, TF_TYPES, Offer
from dnls_ros.ros.running import FAILED, OK, PlainNode, Setting, exit_code_of, run_node
from dnls_ros.ros.spin import make_executor, spin_until
from dnls_ros.ros.types import message_class
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.parameters import load_parameters

NAME = "dnls_doctor"
SETTINGS = {
    "params_file": Setting("", "parameter file of an estimator to compare with; '' = none"),
    "duration": Setting(10.0, "how long to listen [s]"),
    "topics": Setting((), "listen to these only"),
}
DISCOVERY = 1.0
"""How long the graph is given before the first look [s]."""
GRAPH_PERIOD = 0.25
"""Between two looks at the graph [s]."""
DEPTH = 200
WAITING = 5000
"""Messages that may wait to be examined; more are dropped and counted."""
PRIVATE = ("/rosout", "/parameter_events")

_Item = tuple[str, str, bytes, int]


class Listening:
    """Subscriptions that feed a doctor. Callbacks only enqueue; ``run`` examines."""

    def __init__(
        self, node: Node, config: EstimatorConfig | None, topics: Sequence[str] | None = None
    ) -> None:
        """Listens to nothing yet; see ``run``.

        Args:
            node: Subscribes; somebody spins it.
            config: Whose topics are heard; None for all there are.
            topics: Hear these only.
        """
        self._node = node
        self._doctor = Doctor(config, live=True)
        self._names = _wanted(node, config, topics)
        self._queue: queue.Queue[_Item] = queue.Queue(WAITING)
        self._subscriptions: dict[str, Any] = {}
        self._dropped = 0
        self._began = time.monotonic()

    def run(self, duration: float, stop: Callable[[], bool]) -> Report:
        """Listens for ``duration`` [s], or until ``stop`` says so, and reports.

        Raises:
            DnlsError: A topic's name is not valid.
        """
        end = time.monotonic() + duration
        next_look = 0.0
        while not stop() and (now := time.monotonic()) < end:
            if now >= next_look:
                self._look()
                next_look = now + GRAPH_PERIOD
            self._examine(min(next_look, end))
        for topic in self._subscriptions:
            self._doctor.announce(self._shown(topic), offers=self._offers(topic))
        for subscription in self._subscriptions.values():
            if subscription is not None:
                self._node.destroy_subscription(subscription)
        while not self._queue.empty():
            self._examine(0.0)
        if not self._subscriptions and self._doctor.config is None:
            self._doctor.note(finding("NO_PUBLISHER", "no wanted topic is published by anybody"))
        if self._dropped:
            self._doctor.note(finding("OVERLOAD", f"{self._dropped} messages were not examined"))
        return self._doctor.report("live", f"heard for {time.monotonic() - self._began:.1f} s")

    def _look(self) -> None:
        """Subscribes to wanted topics that somebody publishes now."""
        for topic, types in self._node.get_topic_names_and_types():
            wanted = topic in self._names if self._names is not None else topic not in PRIVATE
            if wanted and topic not in self._subscriptions and self._offers(topic):
                self._subscribe(topic, types)

    def _subscribe(self, topic: str, types: Sequence[str]) -> None:
        shown, type_name = self._shown(topic), types[0]
        for name in types:
            self._doctor.announce(shown, name)
        try:
            kind = message_class(type_name)
        except UnavailableError:
            self._doctor.announce(shown, type_name, defined=False)
            self._subscriptions[topic] = None
            return
        clock = self._node.get_clock()
        latched = all(offer.transient_local for offer in self._offers(topic))
        qos = QoSProfile(
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE
            if type_name in TF_TYPES and all(o.reliable for o in self._offers(topic))
            else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

        def receive(raw: bytes) -> None:
            self._put((shown, type_name, raw, clock.now().nanoseconds))

        self._subscriptions[topic] = self._node.create_subscription(
            kind, topic, receive, qos, raw=True
        )

    def _put(self, item: _Item) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._dropped += 1

    def _examine(self, until: float) -> None:
        """Feeds the doctor until a moment of ``time.monotonic()``, or with one message."""
        while True:
            wait = max(until - time.monotonic(), 0.0)
            try:
                topic, type_name, raw, stamp = self._queue.get(timeout=wait) if wait else (
                    self._queue.get_nowait()
                )  # fmt: skip
            except queue.Empty:
                return
            try:
                message = _decode(type_name, raw)
            except Exception as error:  # whatever a message from elsewhere makes a parser raise
                text = f"{type(error).__name__}: {error}"
                self._doctor.fail(topic, type_name, stamp, len(raw), text)
            else:
                self._doctor.observe(topic, type_name, message, stamp, len(raw))
            if time.monotonic() >= until:
                return

    def _offers(self, topic: str) -> list[Offer]:
        """The QoS of a topic's publishers."""
        return [
            Offer(
                info.qos_profile.reliability == ReliabilityPolicy.RELIABLE,
                info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
                info.qos_profile.depth,
            )
            for info in self._node.get_publishers_info_by_topic(topic)
        ]

    def _shown(self, topic: str) -> str:
        """The name in the report: as it is configured, if it is."""
        return (self._names or {}).get(topic, topic)


def _wanted(
    node: Node, config: EstimatorConfig | None, topics: Sequence[str] | None
) -> dict[str, str] | None:
    """The topics to hear by their resolved names, with the names as given; None for all."""
    if topics:
        return {node.resolve_topic_name(name): name for name in topics}
    if config is None:
        return None
    names = [t for s in config.sensors for t in (s.topic, s.camera_info_topic) if t]
    return {node.resolve_topic_name(name): name for name in (*names, "tf", "tf_static", "/tf",
                                                             "/tf_static")}  # fmt: skip


def _decode(type_name: str, raw: bytes) -> Any:
    """A message, or its header alone where that is enough."""
    kind = message_class(type_name)
    large = len(raw) > LARGE or type_name in IMAGE_TYPES
    if large and kind.get_fields_and_field_types().get("header") == "std_msgs/Header":
        first = next(iter(kind.get_fields_and_field_types()))
        if first == "header":
            return peek(raw, type_name, ros1=False)
    return deserialize_message(raw, kind)


def listen(
    config: EstimatorConfig | None, duration: float, topics: Sequence[str] | None = None
) -> Report:
    """Listens in this process, in a context of its own; for ``dnls doctor --live``.

    Where somebody publishes /clock, that is the clock. Ctrl-C ends the listening early.

    Raises:
        DnlsError: A topic's name is not valid.
    """
    context = Context()
    context.init()
    node = Node(NAME, context=context)
    executor = make_executor(context)
    executor.add_node(node)
    stop = threading.Event()
    thread = threading.Thread(target=spin_until, args=(executor, stop), name="doctor-spin")
    thread.start()
    try:
        time.sleep(DISCOVERY)
        if node.count_publishers("/clock"):
            node.set_parameters([Parameter("use_sim_time", value=True)])
            _wait_for_clock(node.get_clock(), DISCOVERY)
        return _until_interrupted(Listening(node, config, topics), duration)
    finally:
        stop.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()
        context.shutdown()


def _until_interrupted(listening: Listening, duration: float) -> Report:
    """Listens; after Ctrl-C with what was heard until then."""
    try:
        return listening.run(duration, lambda: False)
    except KeyboardInterrupt:
        return listening.run(0.0, lambda: True)


def _wait_for_clock(clock: Clock, timeout: float) -> None:
    """Until simulated time has begun, so that no message is received at time zero."""
    deadline = time.monotonic() + timeout
    while clock.now().nanoseconds == 0 and time.monotonic() < deadline:
        time.sleep(0.01)


class DoctorNode(PlainNode):
    """Listens in a thread and ends with the report's exit code."""

    def __init__(self) -> None:
        """Reads the parameters and begins.

        Raises:
            DnlsError: A parameter or the parameter file is wrong.
        """
        super().__init__(NAME, SETTINGS)
        file = self.setting("params_file")
        config = load_parameters(Path(file)) if file else None
        self._listening = Listening(self, config, self.setting("topics") or None)
        self._duration: float = self.setting("duration")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="doctor")
        self._thread.start()

    def stop(self) -> None:
        """Ends the listening."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            self._stop.wait(DISCOVERY)
            report = self._listening.run(self._duration, self._stop.is_set)
            print("\n".join(as_text(report)), flush=True)
            self.end(FAILED if report.severity >= Severity.ERROR else OK)
        except Exception as error:
            self.get_logger().error(f"{type(error).__name__}: {error}")
            self.end(exit_code_of(error))


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; returns the exit code."""
    return run_node(DoctorNode, make_executor, args)


if __name__ == "__main__":
    sys.exit(main())
