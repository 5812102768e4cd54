"""Subscriptions of the sensors and of their cameras.

A sensor type may be fed by several message types (tags come as AprilTagDetectionArray or as
LandmarkObservationArray), and DDS lets a node join a topic with one type only. So where there is a
choice, the graph is asked until a publisher shows which one it is. Callbacks copy the message into
the inbox and do nothing else; before activation they drop it, since rclpy's lifecycle does not
gate subscriptions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.io.messages import types_of
from dnls_ros.ros.inbox import Arrival, CameraInfo, Inbox
from dnls_ros.ros.qos import EitherDurability, subscribe_to
from dnls_ros.ros.types import is_available
from dnls_ros.window.config import EstimatorConfig, SensorConfig

GRAPH_PERIOD = 0.2
"""Between two looks at the graph while a topic's type is unknown [s]."""
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
CAMERA_DEPTH = 5


class Subscriptions:
    """What the node listens to, from configure to cleanup."""

    def __init__(
        self, node: Node, config: EstimatorConfig, inbox: Inbox, active: Callable[[], bool]
    ) -> None:
        """Subscribes where the type is known and watches the graph for the rest.

        Raises:
            UnavailableError: No message type of a sensor is installed.
            DnlsError: One of ``qos_overrides`` cannot be.
        """
        self._node = node
        self._inbox = inbox
        self._active = active
        self._warned: set[tuple[str, str]] = set()
        self._subscriptions: list[Subscription[Any]] = []
        self._cameras: list[EitherDurability] = []
        self._undecided: dict[SensorConfig, tuple[str, ...]] = {}
        self._decided: dict[SensorConfig, tuple[str, ...]] = {}
        try:
            for sensor in config.sensors:
                if sensor.topic:  # a tf_pose has none
                    self._begin(sensor)
        except DnlsError:
            self._unsubscribe()
            raise
        self._timer = node.create_timer(
            GRAPH_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def stop(self) -> None:
        """Ends every subscription."""
        self._node.destroy_timer(self._timer)
        self._unsubscribe()

    def _unsubscribe(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        for camera in self._cameras:
            camera.stop()

    def _begin(self, sensor: SensorConfig) -> None:
        """Subscribes a sensor whose type is certain, and its camera."""
        known = types_of(sensor)
        types = tuple(name for name in known if is_available(name))
        if not types:
            raise UnavailableError(
                f"sensor.{sensor.name}: none of {', '.join(known)} is installed; install one"
            )
        if len(types) == 1:
            self._subscribe(sensor, types[0])
            self._decided[sensor] = types
        else:
            self._undecided[sensor] = types
        if sensor.camera_info_topic:
            self._subscribe_camera(sensor)

    def _subscribe(self, sensor: SensorConfig, type_name: str) -> None:
        """Listens to a sensor's topic."""
        clock = self._node.get_clock()

        def receive(message: Any) -> None:
            if self._active():
                stamp = clock.now().nanoseconds
                self._inbox.put(Arrival(sensor.name, type_name, message, stamp))

        reliable = sensor.qos.reliability == "reliable"
        qos = QoSProfile(
            depth=sensor.qos.depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.VOLATILE,
        )
        self._subscriptions.append(subscribe_to(self._node, type_name, sensor.topic, receive, qos))

    def _subscribe_camera(self, sensor: SensorConfig) -> None:
        """Listens to a camera's calibration; before activation too, since it is no measurement."""

        def receive(message: Any) -> None:
            self._inbox.put_uncounted(CameraInfo(sensor.name, message))

        self._cameras.append(
            EitherDurability(
                self._node, CAMERA_INFO, sensor.camera_info_topic, receive, CAMERA_DEPTH
            )
        )

    def _look(self) -> None:
        """Asks the graph for the types of undecided topics, and for types that cannot match."""
        for camera in self._cameras:
            camera.look()
        for sensor, types in list(self._undecided.items()):
            chosen = next((name for name in self._published(sensor) if name in types), None)
            if chosen is not None:
                del self._undecided[sensor]
                self._decided[sensor] = (chosen,)
                self._subscribe(sensor, chosen)
        for sensor, types in (*self._undecided.items(), *self._decided.items()):
            for name in self._published(sensor):
                if name not in types and (sensor.name, name) not in self._warned:
                    self._warned.add((sensor.name, name))
                    self._node.get_logger().error(
                        f"sensor.{sensor.name}: topic '{sensor.topic}' is published as {name}; "
                        f"type '{sensor.type}' takes {' or '.join(types)}"
                    )

    def _published(self, sensor: SensorConfig) -> list[str]:
        """Types with which a sensor's topic is published now."""
        topic = self._node.resolve_topic_name(sensor.topic)
        return [info.topic_type for info in self._node.get_publishers_info_by_topic(topic)]


def check_own_topics(node: Node, config: EstimatorConfig, outputs: list[str]) -> None:
    """Refuses a sensor whose topic, after namespaces and remapping, is one that we publish."""
    for sensor in (s for s in config.sensors if s.topic):
        topic = node.resolve_topic_name(sensor.topic)
        if topic in outputs:
            raise DnlsError(
                f"sensor.{sensor.name}.topic: '{sensor.topic}' resolves to '{topic}', which this "
                "node publishes; remap one of them"
            )
