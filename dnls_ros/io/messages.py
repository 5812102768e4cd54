"""Messages in, measurements out: one adapter per ROS message type, reading by attribute.

An adapter serves rosbags' dataclasses, rclpy's classes and anything else with the same attributes.
It never raises: what cannot be read becomes a ``Rejection`` with a reason and a sentence, so that
every message is counted once. What depends on the configuration (zero stamps, frames, covariance
policy, gating) is judged by the estimator, not here.

Tag corners need no reordering. Ours run (-s,-s) (s,-s) (s,s) (-s,s) in a tag frame with x to the
right, y up and z out of the tag. The AprilTag 3 library, whose order
apriltag_msgs/AprilTagDetection carries, begins at the lower left corner and goes counter-clockwise
as seen in the image, which is the same; the older apriltag_msgs/Apriltag does too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnls_ros.io import fields, touch_messages
from dnls_ros.io.cameras import camera_from_matrix
from dnls_ros.io.fields import FieldError
from dnls_ros.io.origin import Origin, head
from dnls_ros.window.config import SensorConfig
from dnls_ros.window.custom import Head, load_custom
from dnls_ros.window.measurements import (
    ImuMeasurement,
    LandmarkMeasurement,
    LandmarkObservation,
    Measurement,
    OdometryMeasurement,
    PoseMeasurement,
    RangeBearingMeasurement,
    Reason,
    Rejection,
    RelativePoseMeasurement,
    TwistMeasurement,
)

ODOMETRY = "nav_msgs/msg/Odometry"
FAMILY_BY_BITS = {4: "tag16h5", 5: "tag25h9", 6: "tag36h11"}
"""Tag families by the edge of their payload in bits, where the family field does not say."""


@dataclass(frozen=True)
class Adapter:
    """How one ROS type becomes a measurement, and the sensor types that may listen to it."""

    read: Callable[[Any, Origin], Measurement]
    sensor_types: tuple[str, ...]


def adapt(sensor: str, type_name: str, message: Any, sequence: int = 0) -> Measurement | Rejection:
    """Turn a message into a measurement, or say why not; never raises.

    Args:
        sensor: Name of the sensor's block in the configuration.
        type_name: ROS type, ``"geometry_msgs/msg/PoseStamped"`` or
            ``"geometry_msgs/PoseStamped"``.
        message: Any object with that type's attributes.
        sequence: Count of this sensor's messages, from 0.
    """
    adapter = find_adapter(type_name)
    if adapter is None:
        text = f"no adapter reads messages of type {type_name}"
        return Rejection(sensor, _stamp_if_any(message), Reason.BAD_SHAPE, text)
    return _read(adapter.read, message, Origin(sensor, sequence), type_name)


def adapt_for(
    sensor: SensorConfig, type_name: str, message: Any, sequence: int = 0
) -> Measurement | Rejection:
    """`adapt` for a configured sensor: an odometry's velocities, a class of its own."""
    if sensor.type == "custom":
        read = _custom(sensor.cost)
    elif sensor.measures_twist and find_adapter(type_name) is ADAPTERS[ODOMETRY]:
        read = _odometry_twist(sensor.target_frame)
    else:
        return adapt(sensor.name, type_name, message, sequence)
    return _read(read, message, Origin(sensor.name, sequence), type_name)


def _custom(cost: str) -> Callable[[Any, Origin], Measurement]:
    """How a custom sensor's class reads a message."""
    kind = load_custom(cost)

    def read(message: Any, origin: Origin) -> Measurement:
        begin = Head(sensor=origin.sensor, stamp=0, frame="", sequence=origin.sequence)
        if hasattr(message, "header"):
            _, begin["stamp"], begin["frame"], _ = head(message, origin)
        made = kind.read(message, begin)
        if not isinstance(made, kind.measurement):
            wanted, got = kind.measurement.__name__, type(made).__name__
            raise FieldError(f"{cost}.read gave a {got}, expected a {wanted}")
        return made

    return read


def _read(
    read: Callable[[Any, Origin], Measurement], message: Any, origin: Origin, type_name: str
) -> Measurement | Rejection:
    """What an adapter makes of a message, or why nothing."""
    try:
        with np.errstate(all="ignore"):
            return read(message, origin)
    except FieldError as refusal:
        reason, words = refusal.reason, str(refusal)
    except Exception as error:  # a foreign object may raise anything
        reason, words = Reason.BAD_SHAPE, f"{type(error).__name__}: {error}"
    return Rejection(origin.sensor, _stamp_if_any(message), reason, f"{type_name}: {words}")


def find_adapter(type_name: str) -> Adapter | None:
    """Look up the adapter of a ROS type in either spelling, or None."""
    package, _, name = type_name.partition("/")
    return ADAPTERS.get(f"{package}/msg/{name.removeprefix('msg/')}")


def types_for(sensor_type: str) -> tuple[str, ...]:
    """List the ROS types that a sensor of this type may listen to, ``"pkg/msg/Name"`` each."""
    return tuple(name for name, adapter in ADAPTERS.items() if sensor_type in adapter.sensor_types)


def types_of(sensor: SensorConfig) -> tuple[str, ...]:
    """List the ROS types that a configured sensor may listen to, those of its class included."""
    if sensor.type == "custom":
        return tuple(load_custom(sensor.cost).message_types)
    return types_for(sensor.type)


def _stamp_if_any(message: Any) -> int:
    try:
        return fields.stamp(message.header.stamp)
    except Exception:  # the same foreign object
        return 0


def _pose_with_covariance_stamped(message: Any, origin: Origin) -> PoseMeasurement:
    sensor, stamp, frame, sequence = head(message, origin)
    pose, covariance = fields.pose_with_covariance(message.pose, "pose")
    return PoseMeasurement(
        sensor=sensor,
        stamp=stamp,
        frame=frame,
        sequence=sequence,
        pose=pose,
        covariance=covariance,
    )


def _pose_stamped(message: Any, origin: Origin) -> PoseMeasurement:
    sensor, stamp, frame, sequence = head(message, origin)
    pose = fields.pose(message.pose, "pose")
    return PoseMeasurement(sensor=sensor, stamp=stamp, frame=frame, sequence=sequence, pose=pose)


def _transform_stamped(message: Any, origin: Origin) -> PoseMeasurement:
    sensor, stamp, frame, sequence = head(message, origin)
    pose = fields.pose(message.transform, "transform")
    return PoseMeasurement(sensor=sensor, stamp=stamp, frame=frame, sequence=sequence, pose=pose)


def _twist_with_covariance_stamped(message: Any, origin: Origin) -> TwistMeasurement:
    sensor, stamp, frame, sequence = head(message, origin)
    return TwistMeasurement(
        sensor=sensor,
        stamp=stamp,
        frame=frame,
        sequence=sequence,
        twist=fields.twist(message.twist.twist, "twist.twist"),
        covariance=fields.covariance(message.twist.covariance, "twist.covariance"),
    )


def _odometry(message: Any, origin: Origin) -> OdometryMeasurement:
    sensor, stamp, frame, sequence = head(message, origin)
    pose, covariance = fields.pose_with_covariance(message.pose, "pose")
    return OdometryMeasurement(
        sensor=sensor,
        stamp=stamp,
        frame=frame,
        sequence=sequence,
        pose=pose,
        covariance=covariance,
        child_frame=fields.text(message.child_frame_id, "child_frame_id"),
        twist=fields.twist(message.twist.twist, "twist.twist"),
        twist_covariance=fields.covariance(message.twist.covariance, "twist.covariance"),
    )


def _odometry_twist(target_frame: str) -> Callable[[Any, Origin], TwistMeasurement]:
    """How the twist of nav_msgs/Odometry is read, of ``target_frame`` or the message's own child.

    The pose is not looked at: drivers that know velocities only leave it empty.
    """

    def read(message: Any, origin: Origin) -> TwistMeasurement:
        sensor, stamp, _, sequence = head(message, origin)
        return TwistMeasurement(
            sensor=sensor,
            stamp=stamp,
            frame=target_frame or fields.text(message.child_frame_id, "child_frame_id"),
            sequence=sequence,
            twist=fields.twist(message.twist.twist, "twist.twist"),
            covariance=fields.covariance(message.twist.covariance, "twist.covariance"),
        )

    return read


def _imu(message: Any, origin: Origin) -> ImuMeasurement:
    """Read sensor_msgs/Imu; what REP-145 marks as absent is None, and so is an unset quaternion.

    The covariance of the orientation is about the world's axes, as that of a pose.
    """
    sensor, stamp, frame, sequence = head(message, origin)
    orientation, orientation_covariance = fields.orientation(message)
    rate, rate_covariance = fields.vector_with_covariance(message, "angular_velocity")
    acceleration = fields.vector(message.linear_acceleration, "linear_acceleration")
    return ImuMeasurement(
        sensor=sensor,
        stamp=stamp,
        frame=frame,
        sequence=sequence,
        orientation=orientation,
        orientation_covariance=orientation_covariance,
        angular_velocity=rate,
        angular_velocity_covariance=rate_covariance,
        linear_acceleration=acceleration if np.isfinite(acceleration).all() else None,
    )


def _relative_pose(message: Any, origin: Origin) -> RelativePoseMeasurement:
    sensor, stamp, frame, sequence = head(message, origin)
    relative, covariance = fields.pose_with_covariance(message.relative, "relative")
    return RelativePoseMeasurement(
        sensor=sensor,
        stamp=stamp,
        frame=frame,
        sequence=sequence,
        stamp_from=fields.stamp(message.stamp_i, "stamp_i"),
        relative=relative,
        covariance=covariance,
    )


def _range_bearing(message: Any, origin: Origin) -> RangeBearingMeasurement:
    sensor, stamp, frame, sequence = head(message, origin)
    ids = tuple(fields.text(name, "ids") for name in message.ids)
    ranges = fields.numbers(message.ranges, "ranges", len(ids))
    bearings = fields.numbers(message.bearings, "bearings", len(ids))
    return RangeBearingMeasurement(
        sensor=sensor,
        stamp=stamp,
        frame=frame,
        sequence=sequence,
        ids=ids,
        ranges=fields.finite(ranges, "ranges"),
        bearings=fields.finite(bearings, "bearings"),
        sigma_range=fields.number(message.sigma_range, "sigma_range"),
        sigma_bearing=fields.number(message.sigma_bearing, "sigma_bearing"),
    )


def _landmarks(message: Any, origin: Origin) -> LandmarkMeasurement:
    sensor, stamp, frame, sequence = head(message, origin)
    matrix = fields.finite(fields.numbers(message.k, "k", 9), "k")
    model = fields.text(message.distortion_model, "distortion_model")
    coefficients = fields.finite(fields.numbers(message.d, "d"), "d")
    return LandmarkMeasurement(
        sensor=sensor,
        stamp=stamp,
        frame=frame,
        sequence=sequence,
        observations=tuple(_observation(item) for item in message.observations),
        intrinsics=camera_from_matrix(matrix, model, coefficients) if matrix.any() else None,
    )


def _observation(message: Any) -> LandmarkObservation:
    """Read one dnls_ros/LandmarkObservation."""
    pixels = fields.finite(fields.numbers(message.pixels, "pixels"), "pixels")
    points = fields.finite(fields.numbers(message.points, "points"), "points")
    if pixels.size == 0 or pixels.size % 2:
        raise FieldError(f"pixels should be u, v pairs, got {pixels.size} numbers")
    if points.size not in (0, pixels.size // 2 * 3):
        raise FieldError(
            f"points should be empty or {pixels.size // 2 * 3} numbers, got {points.size}"
        )
    return LandmarkObservation(
        id=fields.text(message.id, "id"),
        pixels=pixels.reshape(-1, 2),
        points=points.reshape(-1, 3) if points.size else None,
        sigma=fields.number(message.sigma_px, "sigma_px"),
        quality=fields.number(message.quality, "quality"),
    )


def _april_tag_detections(message: Any, origin: Origin) -> LandmarkMeasurement:
    """Read apriltag_msgs/AprilTagDetectionArray (ROS 2); quality is the decision margin."""
    sensor, stamp, frame, sequence = head(message, origin)
    seen = tuple(
        LandmarkObservation(
            id=_tag_id(fields.text(tag.family, "family"), tag.id),
            pixels=_corners(tag.corners),
            quality=fields.number(tag.decision_margin, "decision_margin"),
        )
        for tag in message.detections
    )
    return LandmarkMeasurement(
        sensor=sensor, stamp=stamp, frame=frame, sequence=sequence, observations=seen
    )


def _apriltag_array(message: Any, origin: Origin) -> LandmarkMeasurement:
    """Read apriltag_msgs/ApriltagArrayStamped (ROS 1); wrong bits lower the quality from 1."""
    sensor, stamp, frame, sequence = head(message, origin)
    seen = tuple(
        LandmarkObservation(
            id=_tag_id(_family(tag), tag.id),
            pixels=_corners(tag.corners),
            quality=1.0 / (1.0 + abs(fields.number(tag.hamming, "hamming"))),
        )
        for tag in message.apriltags
    )
    return LandmarkMeasurement(
        sensor=sensor, stamp=stamp, frame=frame, sequence=sequence, observations=seen
    )


def _family(tag: Any) -> str:
    """Name an apriltag_msgs/Apriltag's family; its own field holds the detector's name."""
    bits = fields.integer(tag.bits, "bits")
    return FAMILY_BY_BITS.get(bits) or fields.text(tag.family, "family")


def _tag_id(family: str, number: Any) -> str:
    """Name a tag; detectors write its family as ``tag36h11`` or ``36h11``."""
    prefix = "tag" if family[:1].isdigit() else ""
    return f"{prefix}{family}:{fields.integer(number, 'id')}"


def _corners(corners: Any) -> fields.Array:
    """Read four corners with x and y as (4, 2) pixels."""
    flat = [value for corner in corners for value in (corner.x, corner.y)]
    return fields.finite(fields.numbers(flat, "corners", 8), "corners").reshape(4, 2)


ADAPTERS: dict[str, Adapter] = {
    "geometry_msgs/msg/PoseWithCovarianceStamped": Adapter(
        _pose_with_covariance_stamped, ("pose",)
    ),
    "geometry_msgs/msg/PoseStamped": Adapter(_pose_stamped, ("pose_stamped",)),
    "geometry_msgs/msg/TransformStamped": Adapter(_transform_stamped, ("pose_stamped",)),
    "geometry_msgs/msg/TwistWithCovarianceStamped": Adapter(
        _twist_with_covariance_stamped, ("twist",)
    ),
    ODOMETRY: Adapter(_odometry, ("odometry",)),
    "sensor_msgs/msg/Imu": Adapter(_imu, ("imu",)),
    "dnls_ros/msg/RangeBearingArray": Adapter(_range_bearing, ("range_bearing",)),
    "dnls_ros/msg/RelativePoseWithCovarianceStamped": Adapter(_relative_pose, ("relative_pose",)),
    "dnls_ros/msg/LandmarkObservationArray": Adapter(_landmarks, ("landmarks",)),
    "apriltag_msgs/msg/AprilTagDetectionArray": Adapter(_april_tag_detections, ("landmarks",)),
    "apriltag_msgs/msg/ApriltagArrayStamped": Adapter(_apriltag_array, ("landmarks",)),
    "dnls_ros/msg/ContactState": Adapter(touch_messages.contact, ("contact",)),
    "dnls_ros/msg/TactileRelativePose": Adapter(
        touch_messages.tactile_relative, ("tactile_relative",)
    ),
    "geometry_msgs/msg/WrenchStamped": Adapter(touch_messages.wrench, ("wrench_contact",)),
    "sensor_msgs/msg/Image": Adapter(touch_messages.image, ("tactile_image",)),
    "sensor_msgs/msg/CompressedImage": Adapter(
        touch_messages.compressed_image, ("tactile_image",)
    ),
}
"""All message types that can be measured with."""
