"""Detections of tags and the camera's calibration in, observations of landmarks out: a node.

    ros2 run dnls_ros landmark_frontend_node --ros-args -p map_file:=tags.yaml

Reads ``detections`` (apriltag_msgs/AprilTagDetectionArray) and ``camera_info``, publishes
``~/observations`` (dnls_ros/LandmarkObservationArray). A lifecycle node: configure reads the
parameters and files, images pass while it is active, and it starts itself unless ``autostart`` is
false.
"""

from __future__ import annotations

from dnls_ros.ros.stopping import hold_signals

if __name__ == "__main__":
    hold_signals()  # before the imports, which take seconds

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from dnls_ros.errors import DnlsError
from dnls_ros.io.compose import Composer
from dnls_ros.io.landmark_frontend import (
    NAME,
    FrontendOptions,
    LandmarkFrontend,
    observation_array,
)
from dnls_ros.io.yaml_files import load_camera_calibration
from dnls_ros.ros.lifecycle import ManagedNode, run_managed
from dnls_ros.ros.publish_topics import Topics
from dnls_ros.ros.qos import EitherDurability, subscribe_to
from dnls_ros.ros.running import Setting, Settings
from dnls_ros.ros.subscriptions import CAMERA_DEPTH, CAMERA_INFO, GRAPH_PERIOD
from dnls_ros.ros.types import message_class
from dnls_ros.window.landmark_file import read_landmark_map
from dnls_ros.window.landmark_map import LandmarkMap
from dnls_ros.window.measurements import CameraIntrinsics, Rejection
from dnls_ros.window.parameter_changes import INACTIVE_ONLY

DETECTIONS = "apriltag_msgs/msg/AprilTagDetectionArray"
OBSERVATIONS = "dnls_ros/msg/LandmarkObservationArray"
THROTTLE = 5.0
"""Between two log lines of one kind [s]."""
SETTINGS = {
    "autostart": Setting(True, "configure and activate without being told"),
    "map_file": Setting("", "landmark map (YAML) that says how large the tags are"),
    "calibration_file": Setting("", "ROS camera-calibration YAML instead of camera_info"),
    "rectified": Setting(False, "tags were found in the rectified image"),
    "min_quality": Setting(0.0, "least decision margin; tags below are left out"),
    "sigma": Setting(0.0, "noise of each corner coordinate [px]; 0: the estimator's own"),
    "stamp_source": Setting("header", "header or arrival"),
    "stamp_offset": Setting(0.0, "added to every stamp [s]"),
    "frame_override": Setting("", "replaces header.frame_id"),
}


class _Passage:
    """The front end's topics, from configure to cleanup."""

    def __init__(self, node: ManagedNode, frontend: LandmarkFrontend) -> None:
        """Subscribes and advertises; DnlsError if an override or a type does not allow it."""
        self._node = node
        self._frontend = frontend
        self._compose = Composer(message_class)
        self._camera: EitherDurability | None = None
        self._images: Subscription[Any] | None = None
        self._topics = Topics(node)
        try:
            self._publisher = self._topics.add(OBSERVATIONS, "~/observations", 20)
            self._listen()
        except DnlsError:
            self._close()
            raise
        self._timer = node.create_timer(
            GRAPH_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def stop(self) -> None:
        """Ends the topics and says the account."""
        self._node.destroy_timer(self._timer)
        self._close()
        front = self._frontend
        refused = ", ".join(f"{r.name} {n}" for r, n in sorted(front.refused.items()))
        self._node.get_logger().info(
            f"images {front.received}, passed {front.passed}, refused: {refused or 'none'}"
        )

    def _listen(self) -> None:
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)  # matches everyone
        self._images = subscribe_to(self._node, DETECTIONS, "detections", self._detected, qos)
        if self._frontend.camera is None:
            self._camera = EitherDurability(
                self._node, CAMERA_INFO, "camera_info", self._calibrated, CAMERA_DEPTH
            )

    def _close(self) -> None:
        if self._camera is not None:
            self._camera.stop()
        if self._images is not None:
            self._node.destroy_subscription(self._images)
        self._topics.stop()

    def _look(self) -> None:
        if self._camera is not None:
            self._camera.look()

    def _calibrated(self, info: Any) -> None:
        """Before activation too, since it is no measurement."""
        problem = self._frontend.set_camera(info)
        if problem:
            self._node.get_logger().warning(problem, throttle_duration_sec=THROTTLE)

    def _detected(self, message: Any) -> None:
        if not self._node.active():
            return
        now = self._node.get_clock().now().nanoseconds
        seen = self._frontend.translate(DETECTIONS, message, now)
        if isinstance(seen, Rejection):
            text = f"{seen.reason.name}: {seen.text}"
            self._node.get_logger().warning(text, throttle_duration_sec=THROTTLE)
            return
        self._publisher.publish(observation_array(self._compose, seen))


class LandmarkFrontendNode(ManagedNode):
    """The front end as a lifecycle node."""

    def __init__(self, **options: Any) -> None:
        """Creates it, unconfigured; ``options`` are those of rclpy's Node."""
        super().__init__(NAME, **options)
        self._settings = Settings(self, SETTINGS)
        self.setting = self._settings.read
        self.add_on_set_parameters_callback(self._may_set)

    def build(self) -> None:
        """Reads parameters and files, opens the topics; DnlsError if that cannot be."""
        self._settings.check()
        self.add(_Passage(self, self._frontend()))

    def _may_set(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        """What is read at configure does not change while it is in use."""
        names = ", ".join(p.name for p in parameters if p.name in SETTINGS)
        if not (self.active() and names):
            return SetParametersResult(successful=True)
        return SetParametersResult(successful=False, reason=f"{names}: {INACTIVE_ONLY}")

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


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM; returns the exit code."""
    return run_managed(LandmarkFrontendNode, NAME, args)


if __name__ == "__main__":
    sys.exit(main())
