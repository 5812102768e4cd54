"""Collects what the estimator publishes into a trajectory."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from dnls_ros.io.convert import covariance_from_ros, stamp_to_ns
from dnls_ros.io.trajectory import Trajectory
from dnls_ros.ros.types import message_class


class OdometryListener:
    """Keeps every odometry message of a topic, with the moment it came.

    Attributes:
        messages: The messages in order of arrival.
        arrivals: ``time.monotonic()`` of each [s].
    """

    def __init__(self, node: Node, topic: str = "odometry/filtered") -> None:
        """Subscribes, reliably and deep enough to miss nothing."""
        self.messages: list[Any] = []
        self.arrivals: list[float] = []
        qos = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        kind = message_class("nav_msgs/msg/Odometry")
        self._subscription = node.create_subscription(kind, topic, self._receive, qos)

    def _receive(self, message: Any) -> None:
        """Keeps one message."""
        self.arrivals.append(time.monotonic())
        self.messages.append(message)

    def wait_until_quiet(self, seconds: float, timeout: float) -> None:
        """Returns when nothing has come for ``seconds``, or after ``timeout`` [s]."""
        deadline = time.monotonic() + timeout
        quiet_since = time.monotonic()
        count = len(self.messages)
        while time.monotonic() < min(deadline, quiet_since + seconds):
            time.sleep(0.02)
            if len(self.messages) != count:
                count, quiet_since = len(self.messages), time.monotonic()

    def trajectory(self) -> Trajectory:
        """What came, with covariances in the tangent; DnlsError if stamps do not ascend."""
        stamps = [stamp_to_ns(m.header.stamp.sec, m.header.stamp.nanosec) for m in self.messages]
        poses = np.array([_pose(m.pose.pose) for m in self.messages]).reshape(-1, 7)
        ros = np.array([m.pose.covariance for m in self.messages]).reshape(-1, 6, 6)
        return Trajectory(np.array(stamps, dtype=np.int64), poses, covariance_from_ros(ros, poses))


def _pose(pose: Any) -> list[float]:
    """A geometry_msgs/Pose as seven numbers."""
    p, q = pose.position, pose.orientation
    return [p.x, p.y, p.z, q.x, q.y, q.z, q.w]
