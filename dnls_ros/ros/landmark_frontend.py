"""Detections of tags and the camera's calibration in, observations of landmarks out: a node.

    ros2 run dnls_ros landmark_frontend_node --ros-args -p map_file:=tags.yaml

Reads ``detections`` (apriltag_msgs/AprilTagDetectionArray) and ``camera_info``, publishes
``~/observations`` (dnls_ros/LandmarkObservationArray). It works from its start until it is
stopped.
"""

from __future__ import annotations

from dnls_ros.ros.stopping import hold_signals

if __name__ == "__main__":
    hold_signals()  # before the imports, which take seconds

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.errors import DnlsError
from dnls_ros.io.compose import Composer
from dnls_ros.io.landmark_frontend import (
    NAME,
    FrontendOptions,
    LandmarkFrontend,
    observation_array,
)
from dnls_ros.io.yaml_files import load_camera_calibration
from dnls_ros.ros.running import PlainNode, Setting, run_node
from dnls_ros.ros.spin import make_executor
from dnls_ros.ros.types import message_class
from dnls_ros.window.landmark_file import read_landmark_map
from dnls_ros.window.landmark_map import LandmarkMap
from dnls_ros.window.measurements import CameraIntrinsics, Rejection

DETECTIONS = "apriltag_msgs/msg/AprilTagDetectionArray"
OBSERVATIONS = "dnls_ros/msg/LandmarkObservationArray"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
THROTTLE = 5.0
"""Between two log lines of one kind [s]."""
SETTINGS = {
    "map_file": Setting("", "landmark map (YAML) that says how large the tags are"),
    "calibration_file": Setting("", "ROS camera-calibration YAML instead of camera_info"),
    "rectified": Setting(False, "tags were found in the rectified image"),
    "min_quality": Setting(0.0, "least decision margin; tags below are left out"),
    "sigma": Setting(0.0, "noise of each corner coordinate [px]; 0: the estimator's own"),
    "stamp_source": Setting("header", "header or arrival"),
    "stamp_offset": Setting(0.0, "added to every stamp [s]"),
    "frame_override": Setting("", "replaces header.frame_id"),
}


class LandmarkFrontendNode(PlainNode):
    """The front end's topics."""

    def __init__(self) -> None:
        """Reads the parameters and subscribes.

        Raises:
            DnlsError: A parameter is wrong or a file cannot be read.
            UnavailableError: A message type is not installed.
        """
        super().__init__(NAME, SETTINGS)
        self.frontend = self._frontend()
        self._compose = Composer(message_class)
        reliable = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
        self._publisher = self.create_publisher(
            message_class(OBSERVATIONS), "~/observations", reliable
        )
        self._listen(DETECTIONS, "detections", self._detected, 10)
        if self.frontend.camera is None:
            self._listen(CAMERA_INFO, "camera_info", self._calibrated, 5)

    def _listen(self, kind: str, topic: str, receive: Callable[[Any], None], depth: int) -> None:
        """Best effort and volatile, which every publisher matches."""
        qos = QoSProfile(
            depth=depth,
            reliability=ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.VOLATILE,
        )
        self.create_subscription(message_class(kind), topic, receive, qos)

    def _frontend(self) -> LandmarkFrontend:
        """The front end that the parameters describe."""
        source = self.setting("stamp_source")
        if source not in ("header", "arrival"):
            raise DnlsError(f"stamp_source: got '{source}'; expected header or arrival")
        for name in ("min_quality", "sigma"):
            if not 0.0 <= self.setting(name) < float("inf"):
                raise DnlsError(f"{name}: got {self.setting(name)}; expected 0 or more")
        if not -5.0 <= self.setting("stamp_offset") <= 5.0:
            got = self.setting("stamp_offset")
            raise DnlsError(f"stamp_offset: got {got}; expected -5 to 5 s")
        map_file, calibration = self.setting("map_file"), self.setting("calibration_file")
        names = ("rectified", "min_quality", "sigma", "stamp_offset", "frame_override")
        return LandmarkFrontend(
            FrontendOptions(stamp_source=source, **{name: self.setting(name) for name in names}),
            read_landmark_map(Path(map_file)) if map_file else LandmarkMap(),
            self._calibration(calibration) if calibration else None,
        )

    def _calibration(self, path: str) -> CameraIntrinsics:
        return load_camera_calibration(path, self.setting("rectified")).intrinsics

    def _calibrated(self, info: Any) -> None:
        problem = self.frontend.set_camera(info)
        if problem:
            self.get_logger().warning(problem, throttle_duration_sec=THROTTLE)

    def _detected(self, message: Any) -> None:
        seen = self.frontend.translate(DETECTIONS, message, self.get_clock().now().nanoseconds)
        if isinstance(seen, Rejection):
            text = f"{seen.reason.name}: {seen.text}"
            self.get_logger().warning(text, throttle_duration_sec=THROTTLE)
            return
        self._publisher.publish(observation_array(self._compose, seen))

    def stop(self) -> None:
        """Says the account."""
        front = self.frontend
        refused = ", ".join(f"{r.name} {n}" for r, n in sorted(front.refused.items()))
        self.get_logger().info(
            f"images {front.received}, passed {front.passed}, refused: {refused or 'none'}"
        )


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM; returns the exit code."""
    return run_node(LandmarkFrontendNode, make_executor, args)


if __name__ == "__main__":
    sys.exit(main())
