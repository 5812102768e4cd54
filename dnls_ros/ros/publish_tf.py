"""Broadcasts on ``tf``: a track's frame in its parent, or odom in map."""

from __future__ import annotations

from dataclasses import replace

from rclpy.node import Node

from dnls_ros.io.compose import Composer
from dnls_ros.ros.publish_health import other_broadcasters
from dnls_ros.ros.publish_topics import Topics
from dnls_ros.ros.types import message_class
from dnls_ros.runtime.tf_output import TfOutput
from dnls_ros.runtime.transforms import Transforms
from dnls_ros.runtime.types import Event
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.results import StepResult

TOPIC = "tf"
"""Relative: launch files remap it where a robot has a tf tree of its own."""
DEPTH = 100
CONFLICT = "tf.conflict"
"""Code of the event for another broadcaster of a frame of ours."""


class TfBroadcasts:
    """Publishes what `TfOutput` computes; without ``publish.tf`` there is no topic.

    Args:
        node: Whose graph is asked for other broadcasters.
        topics: Makes the publisher.
        compose: Makes the messages.
        config: Of the estimator.
    """

    def __init__(
        self, node: Node, topics: Topics, compose: Composer, config: EstimatorConfig
    ) -> None:
        self._node = node
        self._compose = compose
        self._output = TfOutput(config)
        self._publisher = (
            topics.add("tf2_msgs/msg/TFMessage", TOPIC, DEPTH) if config.publish.tf else None
        )
        self._stamps: dict[str, int] = {}  # frame → stamp that was sent last [ns]
        self.conflict = ""

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over offsets and limits."""
        self._output.reconfigure(config)

    def restart(self, time_jumped: bool) -> None:
        """Lets transforms jump, after a reset; and their stamps, if time itself has jumped."""
        self._output.restart()
        if time_jumped:
            self._stamps.clear()

    def hear(self, transforms: Transforms) -> list[Event]:
        """Takes what others broadcast; what waited for it is sent.

        Returns:
            Events: a conflict, named, with the nodes that may be its cause.
        """
        if self._publisher is None:
            return []
        events = self._output.hear(transforms.transforms, transforms.static)
        return [self._named(event) for event in events] + self._send()

    def publish(self, result: StepResult) -> list[Event]:
        """Sends the transforms of an accepted solve."""
        if self._publisher is None:
            return []
        for name, estimate in result.tracks.items():
            if len(estimate.stamps):
                self._output.estimate(name, int(estimate.stamps[-1]), estimate.poses[-1])
        return self._send()

    def _send(self) -> list[Event]:
        found, events = self._output.due()
        made = [one for one in found if one.stamp > self._stamps.get(one.child, 0)]
        self._stamps.update((one.child, one.stamp) for one in made)
        if made and self._publisher is not None:
            transforms = [
                self._compose.transform_stamped(one.stamp, one.parent, one.child, one.pose)
                for one in made
            ]
            self._publisher.publish(message_class("tf2_msgs/msg/TFMessage")(transforms=transforms))
        return events

    def _named(self, event: Event) -> Event:
        """A conflict with the names of all other nodes that publish on tf."""
        if event.code != CONFLICT:
            return event
        nodes = ", ".join(other_broadcasters(self._node, TOPIC)) or "unknown"
        text = f"{event.text}; other nodes on {self._node.resolve_topic_name(TOPIC)}: {nodes}"
        self.conflict = text
        return replace(event, text=text, values={**event.values, "nodes": nodes})
