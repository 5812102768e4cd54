"""Tactile images in, contact, features and relative poses of the finger out: a node.

    ros2 run dnls_ros tactile_frontend_node --ros-args -r image_raw:=/digit/image_raw

Reads ``image_raw`` (sensor_msgs/Image) or ``image_raw/compressed`` (CompressedImage), publishes
``~/contact``, ``~/feature``, ``~/relative_pose`` and, while someone looks, ``~/debug_image``. A
lifecycle node: configure reads parameters and model, images pass while it is active, and it starts
itself unless ``autostart`` is false. Callbacks put images into a queue; one thread sees them.
"""

from __future__ import annotations

from dnls_ros.ros.stopping import hold_signals

if __name__ == "__main__":
    hold_signals()  # before the imports, which take seconds

import array
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from dnls_ros.errors import DnlsError
from dnls_ros.io import compose_touch
from dnls_ros.io.compose import Composer
from dnls_ros.io.compose_diagnostics import diagnostic_status
from dnls_ros.io.tactile_frontend import (
    COMPRESSED,
    CONTACT,
    FEATURE,
    IMAGE,
    NAME,
    RELATIVE_POSE,
    ROWS,
    Looked,
    NodeOptions,
    TactileTranslator,
    read_options,
)
from dnls_ros.learned import load_model
from dnls_ros.ros.asking import ServiceServer, pending_for
from dnls_ros.ros.lifecycle import ManagedNode, run_managed
from dnls_ros.ros.parameters import descriptor_of, plain_value
from dnls_ros.ros.publish_topics import Topics
from dnls_ros.ros.qos import subscribe_to
from dnls_ros.ros.services_model import LOADING
from dnls_ros.ros.types import message_class
from dnls_ros.ros.writer import WriterThread
from dnls_ros.runtime.touch import OpenModel
from dnls_ros.window.measurements import Reason, Rejection
from dnls_ros.window.parameter_changes import INACTIVE_ONLY
from dnls_ros.window.parameters import ROS_OWN
from dnls_ros.window.tactile_frontend import TactileFrontEnd, TactileModel, checked

THROTTLE = 5.0
"""Between two log lines of one kind [s]."""
WAITING = 100
"""Images that wait at most; the next one is QUEUE_FULL."""
DIAGNOSTICS_PERIOD = 1.0


class _Passage:
    """The front end's topics and its thread, from configure to cleanup."""

    def __init__(
        self, node: ManagedNode, options: NodeOptions, translator: TactileTranslator
    ) -> None:
        """Subscribes and advertises; DnlsError if an override or a type does not allow it."""
        self._node = node
        self._options = options
        self._translator = translator
        self._compose = Composer(message_class)
        self._subscriptions: list[Subscription[Any]] = []
        self._topics = Topics(node)
        self._lock = threading.Lock()
        self._waiting = 0  # guarded by _lock
        try:
            self._outputs = {
                kind: self._topics.add(kind, topic, 50)
                for kind, topic in (
                    (CONTACT, "~/contact"),
                    (FEATURE, "~/feature"),
                    (RELATIVE_POSE, "~/relative_pose"),
                )
            }
            self._debug = self._topics.add(IMAGE, "~/debug_image", 1)
            kind = "diagnostic_msgs/msg/DiagnosticArray"
            self._diagnostics = self._topics.add(kind, "/diagnostics", 10)
            self._listen()
        except DnlsError:
            self._close()
            raise
        self._thread = WriterThread()
        self._timer = node.create_timer(
            DIAGNOSTICS_PERIOD, self._tell, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def stop(self) -> None:
        """Ends the topics when the images that wait are seen, and says the account."""
        self._node.destroy_timer(self._timer)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self._thread.stop()
        self._close()
        front = self._translator
        refused = ", ".join(f"{r.name} {n}" for r, n in sorted(front.refused.items()))
        self._node.get_logger().info(
            f"images {front.received}, passed {front.passed}, model failed {front.failed}, "
            f"refused: {refused or 'none'}"
        )

    def swap(self, model: TactileModel, reply: Callable[[Any], None]) -> None:
        """Takes another model between two images."""
        self._thread.put(lambda: self._translator.front.take_model(model), reply)

    def _listen(self) -> None:
        policies = {"reliable": ReliabilityPolicy.RELIABLE}
        chosen = policies.get(self._options.reliability, ReliabilityPolicy.BEST_EFFORT)
        qos = QoSProfile(depth=self._options.depth, reliability=chosen)
        for kind, topic in ((IMAGE, "image_raw"), (COMPRESSED, "image_raw/compressed")):
            self._subscriptions.append(
                subscribe_to(self._node, kind, topic, self._receiver(kind), qos)
            )

    def _close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._topics.stop()

    def _receiver(self, kind: str) -> Callable[[Any], None]:
        """What hands images of a type to the thread."""

        def receive(message: Any) -> None:
            if not self._node.active():
                return
            now = self._node.get_clock().now().nanoseconds
            with self._lock:
                full = self._waiting >= WAITING
                self._waiting += not full
            if full:
                self._thread.put(self._translator.drop, self._told)
            else:
                self._thread.put(lambda: self._see(kind, message, now), self._told)

        return receive

    def _see(self, kind: str, message: Any, now: int) -> None:
        """One image, on the thread."""
        with self._lock:
            self._waiting -= 1
        looked = self._translator.look(kind, message, now)
        if isinstance(looked, Rejection):
            self._warn(f"{looked.reason.name}: {looked.text}")
            return
        for name, made in self._translator.messages(self._compose, looked):
            self._outputs[name].publish(made)
        if looked.seen.failure:
            self._warn(f"{Reason.MODEL_FAILED.name}: {looked.seen.failure}")
        if self._options.publish_debug and self._debug.get_subscription_count():
            self._show(looked)

    def _show(self, looked: Looked) -> None:
        pixels = self._translator.picture(looked)
        frame = looked.frame
        made = compose_touch.image(self._compose, frame.stamp, frame.frame, pixels[:0])
        made.height, made.data = pixels.shape[0], array.array("B", pixels.tobytes())
        self._debug.publish(made)

    def _told(self, answer: Any) -> None:
        """After each job: a mistake of ours is said, and the next image comes."""
        if isinstance(answer, Exception):
            self._warn(f"{type(answer).__name__}: {answer}")

    def _warn(self, text: str) -> None:
        self._node.get_logger().warning(text, throttle_duration_sec=THROTTLE)

    def _tell(self) -> None:
        """The account, once a second."""
        node, front = self._node.get_fully_qualified_name().lstrip("/"), self._translator
        values = {
            "received": str(front.received),
            "passed": str(front.passed),
            "model_failed": str(front.failed),
            **{f"rejected_{r.name.lower()}": str(n) for r, n in sorted(front.refused.items())},
            "model_hash": "" if front.front.model is None else front.front.model.hash,
            "last_problem": front.last_problem,
        }
        level, text = ("OK", "images pass") if front.passed else ("WARN", "no image has passed")
        status = diagnostic_status(self._compose, level, f"{node}: images", text, node, values)
        now = self._node.get_clock().now().nanoseconds
        self._diagnostics.publish(
            self._compose.find("diagnostic_msgs/msg/DiagnosticArray")(
                header=self._compose.header(now, ""), status=[status]
            )
        )


class _Models:
    """The service ``~/load_model``: reads and tests on a thread of its own."""

    def __init__(
        self, node: ManagedNode, passage: _Passage, options: NodeOptions, read: OpenModel
    ) -> None:
        self._node = node
        self._passage = passage
        self._options = options
        self._read = read
        self._thread = WriterThread()
        self._server = ServiceServer(node)
        self._server.offer("~/load_model", "dnls_ros/srv/LoadModel", self._load)

    def stop(self) -> None:
        """Withdraws the service."""
        self._server.stop()
        self._thread.stop()

    async def _load(self, request: Any, response: Any) -> None:
        path = str(Path(str(request.path)).expanduser())
        reading = pending_for(self._node, "reader of models", LOADING)
        image = self._options.front.image

        def read() -> TactileModel | None:
            return checked(self._read(path), image) if reading.begin() else None

        self._thread.put(read, reading.reply)
        model: TactileModel = await reading
        swapping = pending_for(self._node, "front end")
        self._passage.swap(model, swapping.reply)
        await swapping
        response.success, response.model_hash = True, model.hash
        response.message = f"goes on with model {model.hash} from {path}"
        self._node.get_logger().info(response.message)


class TactileFrontendNode(ManagedNode):
    """The front end as a lifecycle node.

    Args:
        read: Opens a file of a model.
        options: Those of rclpy's Node.
    """

    def __init__(self, read: OpenModel = load_model, **options: Any) -> None:
        """Creates it, unconfigured."""
        super().__init__(NAME, **options)
        self._read = read
        for row in ROWS:
            if not self.has_parameter(row.name):
                default: Any = row.default
                default = list(default) if isinstance(default, tuple) else default
                self.declare_parameter(row.name, default, descriptor_of(row))
        self.add_on_set_parameters_callback(self._may_set)

    def build(self) -> None:
        """Reads parameters and model, opens the topics; DnlsError if that cannot be."""
        given = {
            name: plain_value(parameter.value)
            for name, parameter in self.get_parameters_by_prefix("").items()
            if name.split(".")[0] not in ROS_OWN
        }
        options = read_options(given, self.get_name())
        model = None
        if options.model:
            model = checked(self._read(options.model), options.front.image)
        translator = TactileTranslator(options, TactileFrontEnd(options.front, model))
        passage = self.add(_Passage(self, options, translator))
        self.add(_Models(self, passage, options, self._read))

    def _may_set(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        """What is read at configure does not change while it is in use."""
        names = ", ".join(p.name for p in parameters if p.name in {row.name for row in ROWS})
        if not (self.active() and names):
            return SetParametersResult(successful=True)
        return SetParametersResult(successful=False, reason=f"{names}: {INACTIVE_ONLY}")


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM; returns the exit code."""
    return run_managed(TactileFrontendNode, NAME, args)


if __name__ == "__main__":
    sys.exit(main())
