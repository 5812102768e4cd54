"""The publisher thread: results of the solver as odometry, pose and path.

Composing messages in Python costs as much as a small solve, so it happens beside the solver. What
leaves is checked once more: finite, a covariance that means something, stamps that strictly
increase per topic.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.io.compose import Composer
from dnls_ros.ros.path import PathHistory
from dnls_ros.ros.types import message_class
from dnls_ros.runtime.types import Output, Status
from dnls_ros.window.config import EstimatorConfig, TrackConfig
from dnls_ros.window.measurements import Array
from dnls_ros.window.results import StepResult, TrackEstimate

UNKNOWN_VARIANCE = 1e6
"""On the diagonal where the estimator has no covariance [m², rad²]."""
OFF_PLANE_VARIANCE = 1e-9
"""Of z, roll and pitch of a body that moves on a plane [m², rad²]: certain, yet not zero."""


def usable_covariance(covariance: Array | None) -> Array:
    """A covariance (6, 6) fit to leave: unknown becomes huge, exact axes become nearly exact."""
    if covariance is None or not np.isfinite(covariance).all() or not covariance.any():
        return UNKNOWN_VARIANCE * np.eye(6)
    exact = np.diag(covariance) <= 0.0
    return covariance + np.diag(np.where(exact, OFF_PLANE_VARIANCE - np.diag(covariance), 0.0))


@dataclass
class TrackOutputs:
    """The topics of one track and what was last sent on them."""

    track: TrackConfig
    frame: str
    odometry: Publisher
    pose: Publisher
    path: Publisher
    history: PathHistory
    last_stamp: int = 0
    last_path: float = -np.inf

    def publish(self, estimate: TrackEstimate, composer: Composer, path_period: float) -> None:
        """Sends the newest state if it is newer than the last, and the path when it is time."""
        self.history.extend(
            np.concatenate([estimate.settled_stamps, estimate.stamps]),
            np.concatenate([estimate.settled_poses, estimate.poses]),
        )
        stamp, pose = int(estimate.stamps[-1]), estimate.poses[-1]
        if stamp > self.last_stamp and np.isfinite(pose).all():
            self.last_stamp = stamp
            self._publish_state(stamp, pose, estimate, composer)
        self._publish_path(stamp, composer, path_period)

    def _publish_state(
        self, stamp: int, pose: Array, estimate: TrackEstimate, composer: Composer
    ) -> None:
        """Odometry and the latched pose of one stamp."""
        covariance = usable_covariance(estimate.covariance)
        finite = bool(np.isfinite(estimate.twist).all())
        twist = estimate.twist if finite else np.zeros(6)
        known = estimate.twist_covariance if finite else None
        odometry = composer.odometry(
            stamp,
            self.frame,
            self.track.child_frame,
            pose,
            twist,
            covariance,
            usable_covariance(known),
        )
        self.odometry.publish(odometry)
        message = message_class("geometry_msgs/msg/PoseWithCovarianceStamped")
        self.pose.publish(message(header=odometry.header, pose=odometry.pose))

    def _publish_path(self, stamp: int, composer: Composer, period: float) -> None:
        """The path, at most once a period and only if someone listens."""
        now = time.monotonic()
        if now - self.last_path < period or not self.path.get_subscription_count():
            return
        self.last_path = now
        poses = self.history.messages(composer, self.frame)
        message = message_class("nav_msgs/msg/Path")
        self.path.publish(message(header=composer.header(stamp, self.frame), poses=poses))


class PublisherThread:
    """Takes results and publishes them in order."""

    def __init__(self, node: Node, config: EstimatorConfig) -> None:
        """Creates the topics of every published track."""
        self._composer = Composer(message_class)
        rate = config.publish.path_rate
        self._path_period = 1.0 / rate if rate > 0.0 else np.inf
        published = [track for track in config.tracks if track.publish]
        self._node = node
        self._outputs = {
            track.name: _outputs(
                node, config, track, f"{track.name}/" if len(published) > 1 else ""
            )
            for track in published
        }
        self._results: queue.SimpleQueue[StepResult | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="publisher")
        self._thread.start()

    def put(self, output: Output | Status) -> None:
        """Takes an output of the session to be published."""
        if isinstance(output, StepResult) and output.accepted:
            self._results.put(output)

    def topics(self) -> list[str]:
        """Fully resolved names of what is published."""
        outputs = self._outputs.values()
        return [p.topic_name for o in outputs for p in (o.odometry, o.pose, o.path)]

    def stop(self) -> None:
        """Publishes what is left, ends the thread and removes the topics."""
        self._results.put(None)
        self._thread.join()
        for outputs in self._outputs.values():
            for publisher in (outputs.odometry, outputs.pose, outputs.path):
                self._node.destroy_publisher(publisher)

    def _run(self) -> None:
        """Publishes until told to stop."""
        while (result := self._results.get()) is not None:
            try:
                self._publish(result)
            except Exception as error:  # a closing context, a full disk of a middleware: not ours
                text = f"publishing failed: {type(error).__name__}: {error}"
                self._node.get_logger().error(text, throttle_duration_sec=5.0)

    def _publish(self, result: StepResult) -> None:
        """Every published track of one result."""
        for name, outputs in self._outputs.items():
            estimate = result.tracks.get(name)
            if estimate is not None and len(estimate.stamps):
                outputs.publish(estimate, self._composer, self._path_period)


def _outputs(node: Node, config: EstimatorConfig, track: TrackConfig, prefix: str) -> TrackOutputs:
    """The three topics of a track."""

    def publisher(type_name: str, topic: str, depth: int, latched: bool = False) -> Any:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        qos = QoSProfile(
            depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=durability
        )
        return node.create_publisher(message_class(type_name), prefix + topic, qos)

    pose_type = "geometry_msgs/msg/PoseWithCovarianceStamped"
    return TrackOutputs(
        track=track,
        frame=track.parent_frame,
        odometry=publisher("nav_msgs/msg/Odometry", "odometry/filtered", 10),
        pose=publisher(pose_type, "pose", 1, latched=True),
        path=publisher("nav_msgs/msg/Path", "path", 1),
        history=PathHistory(config.history.duration, config.publish.path_max_poses),
    )
