"""Messages of touch out: contact, features, relative poses, forces, images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnls_ros.io.compose import Composer
from dnls_ros.window.bodies import Array
from dnls_ros.window.config import POSE_AXES
from dnls_ros.window.measurements import TactileFrame
from dnls_ros.window.tactile_frontend import Pair, Seen, planar_covariance, planar_pose

UNKNOWN_FORCE = math.nan


def contact_state(compose: Composer, frame: TactileFrame, seen: Seen, sensor_id: str) -> Any:
    """Make a dnls_ros/ContactState; where on the gel it is, and how hard, is not known."""
    return compose.find("dnls_ros/msg/ContactState")(
        header=compose.header(frame.stamp, frame.frame),
        sensor_id=sensor_id,
        in_contact=seen.in_contact,
        since=compose.time(seen.since),
        confidence=seen.confidence,
        episode=seen.episode,
        has_center=False,
        center=compose.vector(np.zeros(3), "Point"),
        normal=compose.vector(np.zeros(3)),
        area=0.0,
        normal_force=UNKNOWN_FORCE,
    )


def tactile_feature(compose: Composer, frame: TactileFrame, seen: Seen, sensor_id: str) -> Any:
    """Make a dnls_ros/TactileFeature of an image's embedding."""
    kind = compose.find("dnls_ros/msg/TactileFeature")
    feature = np.zeros(0) if seen.feature is None else seen.feature
    return kind(
        header=compose.header(frame.stamp, frame.frame),
        sensor_id=sensor_id,
        sequence=frame.sequence,
        kind=kind.EMBEDDING,
        data=feature.astype(np.float32),
        sigma=np.zeros(0, np.float32),
        model_hash=seen.model_hash,
        inference_time=seen.seconds,
    )


def relative_pose(
    compose: Composer, frame: TactileFrame, seen: Seen, pair: Pair, sensor_id: str
) -> Any:
    """Make a dnls_ros/TactileRelativePose of one pair of images."""
    pose, covariance = planar_pose(pair.motion), planar_covariance(pair.sigma)
    return compose.find("dnls_ros/msg/TactileRelativePose")(
        header=compose.header(frame.stamp, frame.frame),
        stamp_i=compose.time(pair.stamp),
        sensor_id=sensor_id,
        object_id="",
        delta=compose.pose_with_covariance(pose, covariance),
        axes=axis_bits(seen.measured),
        model_hash=seen.model_hash,
    )


def axis_bits(axes: tuple[str, ...]) -> int:
    """The bits of TactileRelativePose.axes."""
    return sum(1 << POSE_AXES.index(axis) for axis in axes)


def wrench_stamped(compose: Composer, stamp: int, frame: str, wrench: Array) -> Any:
    """Make a geometry_msgs/WrenchStamped of force and torque (6,) [N, N m]."""
    inner = compose.find("geometry_msgs/msg/Wrench")(
        force=compose.vector(wrench[:3]), torque=compose.vector(wrench[3:])
    )
    return compose.find("geometry_msgs/msg/WrenchStamped")(
        header=compose.header(stamp, frame), wrench=inner
    )


def image(compose: Composer, stamp: int, frame: str, pixels: NDArray[np.uint8]) -> Any:
    """Make a sensor_msgs/Image, rgb8, of (H, W, 3)."""
    height, width = pixels.shape[:2]
    return compose.find("sensor_msgs/msg/Image")(
        header=compose.header(stamp, frame),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
        data=np.ascontiguousarray(pixels).reshape(-1),
    )
