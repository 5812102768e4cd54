"""The topics of a track: filtered and predicted odometry, the latched pose, the path."""

from __future__ import annotations

from collections import deque
from typing import Any

from rclpy.publisher import Publisher

from dnls_ros.io.compose import Composer
from dnls_ros.io.compose_outputs import filtered_odometry, odometry
from dnls_ros.ros.path import PathHistory
from dnls_ros.ros.publish_topics import Every, Topics
from dnls_ros.ros.types import message_class
from dnls_ros.window.config import EstimatorConfig, TrackConfig
from dnls_ros.window.predict import predict
from dnls_ros.window.results import TrackEstimate

ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
LATENCIES = 200
"""Of odometry that left, over which percentiles are taken."""
POSE_TYPE = "geometry_msgs/msg/PoseWithCovarianceStamped"


class TrackOutputs:
    """What one track publishes, and what was last sent.

    Args:
        topics: Makes the publishers.
        compose: Makes the messages.
        config: Of the estimator.
        track: Whose outputs.
        prefix: Of the topics: ``<track>/`` where several tracks are published.
    """

    def __init__(
        self,
        topics: Topics,
        compose: Composer,
        config: EstimatorConfig,
        track: TrackConfig,
        prefix: str,
    ) -> None:
        self.track = track
        self.latencies: deque[float] = deque(maxlen=LATENCIES)
        self._compose = compose
        self._topics, self._prefix = topics, prefix
        self._filtered = topics.add(ODOMETRY_TYPE, f"{prefix}odometry/filtered", 10)
        self._predicted: Publisher[Any] | None = None
        self._pose = topics.add(POSE_TYPE, f"{prefix}pose", 1, latched=True)
        self._path = topics.add("nav_msgs/msg/Path", f"{prefix}path", 1)
        self._history_limits = (config.history.duration, config.publish.path_max_poses)
        self._path_due = Every(config.publish.path_rate)
        self.reconfigure(config)
        self.restart()

    def restart(self) -> None:
        """Forgets what was sent: time has jumped back, and stamps start anew."""
        self._history = PathHistory(*self._history_limits)
        self._newest: TrackEstimate | None = None
        self._sent = 0
        self._predicted_sent = 0

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over new rates; predicted odometry has a topic from when it is first asked for."""
        self._path_due.rate = config.publish.path_rate
        if config.publish.predicted_rate > 0.0 and self._predicted is None:
            topic = f"{self._prefix}odometry/predicted"
            self._predicted = self._topics.add(ODOMETRY_TYPE, topic, 10)

    def publish(self, estimate: TrackEstimate, now: float, clock: int) -> bool:
        """Sends the newest state if it is newer than the last, and the path when it is time.

        Args:
            estimate: Of an accepted solve.
            now: Steady clock [s].
            clock: The node's clock [ns].

        Returns:
            Whether odometry was sent.
        """
        # States that leave the window in this solve are still among these, with their last poses.
        self._history.extend(estimate.stamps, estimate.poses)
        stamp = int(estimate.stamps[-1])
        message = None
        if stamp > self._sent:
            message = filtered_odometry(self._compose, self.track, estimate)
        if message is not None:
            self._sent, self._newest = stamp, estimate
            self._filtered.publish(message)
            self.latencies.append((clock - stamp) * 1e-9)
            pose = message_class(POSE_TYPE)
            self._pose.publish(pose(header=message.header, pose=message.pose))
        if self._path.get_subscription_count() and self._path_due.due(now):
            self._path.publish(self._path_message(stamp))
        return message is not None

    def publish_predicted(self, clock: int, limit: float) -> None:
        """Sends the newest estimate carried ahead to ``clock`` [ns], at most by ``limit`` [s]."""
        if self._predicted is None or self._newest is None or clock <= self._predicted_sent:
            return
        seconds = (clock - self._sent) * 1e-9
        if not 0.0 <= seconds <= limit or not self._predicted.get_subscription_count():
            return
        found = predict(self._newest, self.track, seconds)
        message = odometry(self._compose, self.track, clock, found)
        if message is not None:
            self._predicted_sent = clock
            self._predicted.publish(message)

    def _path_message(self, stamp: int) -> Any:
        """The path of the history and of the window."""
        frame = self.track.parent_frame
        poses = self._history.messages(self._compose, frame)
        header = self._compose.header(stamp, frame)
        return message_class("nav_msgs/msg/Path")(header=header, poses=poses)
