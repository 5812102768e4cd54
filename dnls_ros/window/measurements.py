"""What a sensor said, free of ROS types: the only thing the estimator is fed.

Adapters (``dnls_ros.io.messages``) turn messages into these; library users make them directly.
Arrays are float64 numpy. Values are *as received*: checks, gating and covariance policy belong to
the estimator, so that both kinds of user meet the same ones. Poses are ``(x y z qx qy qz qw)``;
covariances are already in the tangent order ``(v, ω)`` of the right perturbation (body axes), see
``dnls_ros.io.convert``. ``None`` means that the sensor gave no such thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Reason(IntEnum):
    """Why a measurement was or was not used; values are those of MeasurementStatus.msg."""

    ACCEPTED = 0
    NOT_FINITE = 1
    ZERO_STAMP = 2
    FUTURE_STAMP = 3
    TOO_LATE = 4
    DUPLICATE = 5
    EMPTY_FRAME = 6
    UNKNOWN_FRAME = 7
    TF_TIMEOUT = 8
    BAD_QUATERNION = 9
    BAD_COVARIANCE = 10
    GATED = 11
    QUEUE_FULL = 12
    SENSOR_DISABLED = 13
    MODEL_FAILED = 14
    NO_CONTACT = 15
    BAD_SHAPE = 16
    PAUSED = 17
    SUSPECT = 18
    SELF_INPUT = 19
    NO_PAIR = 20
    THROTTLED = 21


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """What all measurements share.

    Attributes:
        sensor: Name of the sensor's block in the configuration.
        stamp: Time of the measurement [ns].
        frame: ``header.frame_id`` as received.
        sequence: Count of this sensor's measurements, from 0.
        extrinsic: body_T_sensor (7,) at the stamp, where tf gave it; None: the configured one.
    """

    sensor: str
    stamp: int
    frame: str
    sequence: int = 0
    extrinsic: Array | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class PoseMeasurement(Measurement):
    """The pose of the body in ``frame``; covariance (6, 6) or None (PoseStamped)."""

    pose: Array
    covariance: Array | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class OdometryMeasurement(PoseMeasurement):
    """A pose in the drifting odometry frame; the twist (6,) in ``child_frame`` [m/s, rad/s]."""

    child_frame: str
    twist: Array
    twist_covariance: Array | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class TwistMeasurement(Measurement):
    """The body's twist (6,) = (v, ω) in its own axes [m/s, rad/s]; covariance (6, 6) or None."""

    twist: Array
    covariance: Array | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ImuMeasurement(Measurement):
    """What an inertial unit says, in its own axes; None = it gave no such thing (REP-145).

    Attributes:
        orientation: ``world_T_sensor`` as a quaternion (4,), x y z w; its world has z up.
        orientation_covariance: (3, 3) of a turn about the sensor's axes [rad²]; zeros = unknown.
        angular_velocity: (3,) [rad/s].
        angular_velocity_covariance: (3, 3); zeros = unknown.
        linear_acceleration: (3,) [m/s²], gravity included. Nothing uses or checks it.
    """

    orientation: Array | None = None
    orientation_covariance: Array | None = None
    angular_velocity: Array | None = None
    angular_velocity_covariance: Array | None = None
    linear_acceleration: Array | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class RelativePoseMeasurement(Measurement):
    """Body motion ``T_from⁻¹ · T_to`` (7,) from ``stamp_from`` to ``stamp``.

    Its covariance is (6, 6) or None.
    """

    stamp_from: int
    relative: Array
    covariance: Array | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class RangeBearingMeasurement(Measurement):
    """Ranges [m] and bearings [rad, about z of the sensor frame] to the landmarks ``ids``."""

    ids: tuple[str, ...]
    ranges: Array
    bearings: Array
    sigma_range: float
    sigma_bearing: float


@dataclass(frozen=True, eq=False, kw_only=True)
class LandmarkObservation:
    """K points of one landmark seen in one image.

    Attributes:
        id: Landmark name, ``"tag36h11:3"`` (family and number) for tags.
        pixels: (K, 2) image points, raw or rectified as the camera model says [px].
        points: (K, 3) the same points in the landmark's frame [m], or None: the map file's tag
            size gives them, corners in the order (-s,-s) (s,-s) (s,s) (-s,s), s = size/2.
        sigma: Pixel noise [px]; 0 = the sensor's configured one.
        quality: Decision margin or a number in 0..1; only compared within one sensor.
    """

    id: str
    pixels: Array
    points: Array | None = None
    sigma: float = 0.0
    quality: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class CameraIntrinsics:
    """A pinhole camera with distortion, as in sensor_msgs/CameraInfo.

    Attributes:
        focal: (fx, fy) [px].
        center: (cx, cy) [px].
        distortion_model: ``""`` (rectified), ``"plumb_bob"`` (radtan) or ``"equidistant"``.
        coefficients: (k1 k2 p1 p2 k3) or (k1 k2 k3 k4).
        width, height: Image size [px]; 0 = unknown.
    """

    focal: tuple[float, float]
    center: tuple[float, float]
    distortion_model: str = ""
    coefficients: tuple[float, ...] = ()
    width: int = 0
    height: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class LandmarkMeasurement(Measurement):
    """All landmarks seen in one image; its ``intrinsics``, if any, override the sensor's own."""

    observations: tuple[LandmarkObservation, ...]
    intrinsics: CameraIntrinsics | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ContactMeasurement(Measurement):
    """Whether a finger touches; ``center`` (3,), if known, in the sensor's frame [m].

    ``since`` is when it began to be so, as it showed later [ns]; 0: nobody says.
    """

    in_contact: bool
    since: int = 0
    center: Array | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class TactileRelativeMeasurement(RelativePoseMeasurement):
    """How a finger moved as the touched object sees it, from ``stamp_from`` to ``stamp``.

    ``relative`` (7,) is (object_i⁻¹ finger_i)⁻¹ (object_j⁻¹ finger_j), of which the axes
    ``measured`` count.
    """

    measured: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class TactileImageMeasurement(ContactMeasurement):
    """What a front end made of one tactile image: contact, and pairs with earlier images.

    ``failure`` says why its model said nothing, if that failed.
    """

    relatives: tuple[TactileRelativeMeasurement, ...] = ()
    failure: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class TactileFrame(Measurement):
    """A tactile image (H, W, 3), red green blue, that no front end has seen yet."""

    image: NDArray[np.uint8]


@dataclass(frozen=True, eq=False, kw_only=True)
class WrenchMeasurement(Measurement):
    """Force (3,) [N] and torque (3,) [N m] about the origin of the sensor's frame, in its axes."""

    force: Array
    torque: Array


@dataclass(frozen=True)
class Rejection:
    """A message that could not become a measurement, counted under ``reason`` for its sensor."""

    sensor: str
    stamp: int
    reason: Reason
    text: str
