"""Arrays in, messages out: the outgoing half of ``dnls_ros.io.messages``.

A ``Composer`` is given the message classes (rosbags' or rclpy's, both take their fields by
keyword) and builds standard and own messages of stamps [ns], poses (x y z qx qy qz qw) and tangent
covariances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnls_ros.io.convert import covariance_to_ros, ns_to_stamp
from dnls_ros.window.measurements import CameraIntrinsics

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Composer:
    """Builds messages from arrays.

    Attributes:
        find: Gives the class of a type name such as ``"geometry_msgs/msg/Pose"``; for recordings
            ``dnls_ros.io.bag.message_class``.
    """

    find: Callable[[str], type[Any]]

    def time(self, stamp: int) -> Any:
        """Make a builtin_interfaces/Time [ns]."""
        seconds, nanoseconds = ns_to_stamp(stamp)
        return self.find("builtin_interfaces/msg/Time")(sec=seconds, nanosec=nanoseconds)

    def header(self, stamp: int, frame: str) -> Any:
        """Make a std_msgs/Header."""
        return self.find("std_msgs/msg/Header")(stamp=self.time(stamp), frame_id=frame)

    def vector(self, values: Array, kind: str = "Vector3") -> Any:
        """Make a geometry_msgs/Vector3, or a Point."""
        x, y, z = (float(value) for value in values)
        return self.find(f"geometry_msgs/msg/{kind}")(x=x, y=y, z=z)

    def quaternion(self, values: Array) -> Any:
        """Make a geometry_msgs/Quaternion of (x y z w)."""
        x, y, z, w = (float(value) for value in values)
        return self.find("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w)

    def pose(self, pose: Array) -> Any:
        """Make a geometry_msgs/Pose of (7,)."""
        return self.find("geometry_msgs/msg/Pose")(
            position=self.vector(pose[:3], "Point"), orientation=self.quaternion(pose[3:])
        )

    def pose_with_covariance(self, pose: Array, covariance: Array | None) -> Any:
        """Make a geometry_msgs/PoseWithCovariance; None becomes all zeros, "unknown"."""
        matrix = np.zeros((6, 6)) if covariance is None else covariance_to_ros(covariance, pose)
        return self.find("geometry_msgs/msg/PoseWithCovariance")(
            pose=self.pose(pose), covariance=matrix.reshape(36)
        )

    def twist(self, twist: Array) -> Any:
        """Make a geometry_msgs/Twist of (6,) = (v, ω)."""
        return self.find("geometry_msgs/msg/Twist")(
            linear=self.vector(twist[:3]), angular=self.vector(twist[3:])
        )

    def twist_with_covariance(self, twist: Array, covariance: Array | None) -> Any:
        """Make a geometry_msgs/TwistWithCovariance of a body twist (6,), in the same axes."""
        matrix = np.zeros((6, 6)) if covariance is None else covariance
        return self.find("geometry_msgs/msg/TwistWithCovariance")(
            twist=self.twist(twist), covariance=np.array(matrix, dtype=np.float64).reshape(36)
        )

    def pose_stamped(self, stamp: int, frame: str, pose: Array) -> Any:
        """Make a geometry_msgs/PoseStamped."""
        return self.find("geometry_msgs/msg/PoseStamped")(
            header=self.header(stamp, frame), pose=self.pose(pose)
        )

    def pose_with_covariance_stamped(
        self, stamp: int, frame: str, pose: Array, covariance: Array | None
    ) -> Any:
        """Make a geometry_msgs/PoseWithCovarianceStamped."""
        return self.find("geometry_msgs/msg/PoseWithCovarianceStamped")(
            header=self.header(stamp, frame), pose=self.pose_with_covariance(pose, covariance)
        )

    def twist_with_covariance_stamped(
        self, stamp: int, frame: str, twist: Array, covariance: Array | None
    ) -> Any:
        """Make a geometry_msgs/TwistWithCovarianceStamped."""
        return self.find("geometry_msgs/msg/TwistWithCovarianceStamped")(
            header=self.header(stamp, frame), twist=self.twist_with_covariance(twist, covariance)
        )

    def transform_stamped(self, stamp: int, frame: str, child_frame: str, pose: Array) -> Any:
        """Make a geometry_msgs/TransformStamped."""
        transform = self.find("geometry_msgs/msg/Transform")(
            translation=self.vector(pose[:3]), rotation=self.quaternion(pose[3:])
        )
        return self.find("geometry_msgs/msg/TransformStamped")(
            header=self.header(stamp, frame), child_frame_id=child_frame, transform=transform
        )

    def odometry(
        self,
        stamp: int,
        frame: str,
        child_frame: str,
        pose: Array,
        twist: Array,
        covariance: Array | None = None,
        twist_covariance: Array | None = None,
    ) -> Any:
        """Make a nav_msgs/Odometry: pose of ``child_frame`` in ``frame`` and body twist."""
        return self.find("nav_msgs/msg/Odometry")(
            header=self.header(stamp, frame),
            child_frame_id=child_frame,
            pose=self.pose_with_covariance(pose, covariance),
            twist=self.twist_with_covariance(twist, twist_covariance),
        )

    def track_window(
        self,
        track: str,
        frame: str,
        child_frame: str,
        window_id: int,
        stamps: NDArray[np.int64],
        poses: Array,
        twists: Array | None = None,
        covariances: Array | None = None,
        flags: NDArray[np.uint8] | None = None,
    ) -> Any:
        """Make a dnls_ros/TrackWindow of N states, oldest first; its stamp is that of the newest.

        Args:
            track: Whose states.
            frame: Its parent frame.
            child_frame: Its own.
            window_id: The solve that they are from.
            stamps: (N,) [ns].
            poses: (N, 7).
            twists: (N, 6) in body axes, or None.
            covariances: (N, 6, 6) in the tangent, or None.
            flags: (N,) constants of the message; None = 0.
        """
        newest = int(stamps[-1]) if len(stamps) else 0
        matrices = np.zeros(0)
        if covariances is not None and len(stamps):
            matrices = covariance_to_ros(np.asarray(covariances), poses).reshape(-1)
        return self.find("dnls_ros/msg/TrackWindow")(
            header=self.header(newest, frame),
            track=track,
            child_frame_id=child_frame,
            window_id=window_id,
            stamps=[self.time(int(stamp)) for stamp in stamps],
            poses=[self.pose(pose) for pose in poses],
            twists=[] if twists is None else [self.twist(twist) for twist in twists],
            covariances=np.asarray(matrices, dtype=np.float64),
            flags=np.zeros(len(stamps), np.uint8)
            if flags is None
            else np.asarray(flags, np.uint8),
        )

    def range_bearing(
        self,
        stamp: int,
        frame: str,
        ids: Sequence[str],
        ranges: Array,
        bearings: Array,
        sigmas: tuple[float, float],
    ) -> Any:
        """Make a dnls_ros/RangeBearingArray; ``sigmas`` of range [m] and bearing [rad]."""
        return self.find("dnls_ros/msg/RangeBearingArray")(
            header=self.header(stamp, frame),
            ids=list(ids),
            ranges=np.asarray(ranges, dtype=np.float64),
            bearings=np.asarray(bearings, dtype=np.float64),
            sigma_range=sigmas[0],
            sigma_bearing=sigmas[1],
        )

    def relative_pose(
        self, stamp_from: int, stamp: int, frame: str, relative: Array, covariance: Array | None
    ) -> Any:
        """Make a dnls_ros/RelativePoseWithCovarianceStamped of ``T_from⁻¹ · T_to``."""
        return self.find("dnls_ros/msg/RelativePoseWithCovarianceStamped")(
            header=self.header(stamp, frame),
            stamp_i=self.time(stamp_from),
            relative=self.pose_with_covariance(relative, covariance),
            source="",
        )

    def april_tags(
        self, stamp: int, frame: str, tags: Sequence[tuple[str, int, Array, float]]
    ) -> Any:
        """Make an apriltag_msgs/AprilTagDetectionArray.

        Each tag is (family, id, corners (4, 2) [px], decision margin).
        """
        return self.find("apriltag_msgs/msg/AprilTagDetectionArray")(
            header=self.header(stamp, frame), detections=[self._april_tag(*tag) for tag in tags]
        )

    def _april_tag(self, family: str, number: int, corners: Array, margin: float) -> Any:
        point = self.find("apriltag_msgs/msg/Point")
        u, v = corners.mean(axis=0)
        return self.find("apriltag_msgs/msg/AprilTagDetection")(
            family=family,
            id=number,
            hamming=0,
            goodness=0.0,
            decision_margin=margin,
            centre=point(x=float(u), y=float(v)),
            corners=[point(x=float(x), y=float(y)) for x, y in corners],
            homography=np.zeros(9),
        )

    def camera_info(self, stamp: int, frame: str, camera: CameraIntrinsics) -> Any:
        """Make a sensor_msgs/CameraInfo of a single camera; its projection matrix is K."""
        (fx, fy), (cx, cy) = camera.focal, camera.center
        region = self.find("sensor_msgs/msg/RegionOfInterest")(
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self.find("sensor_msgs/msg/CameraInfo")(
            header=self.header(stamp, frame),
            height=camera.height,
            width=camera.width,
            distortion_model=camera.distortion_model,
            d=np.array(camera.coefficients, dtype=np.float64),
            k=np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1], dtype=np.float64),
            r=np.eye(3).reshape(9),
            p=np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0], dtype=np.float64),
            binning_x=0,
            binning_y=0,
            roi=region,
        )
