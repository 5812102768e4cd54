"""Messages of touch in, measurements out: contact, relative poses, forces, tactile images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnls_ros.io import fields
from dnls_ros.io.fields import FieldError
from dnls_ros.io.origin import Origin, head
from dnls_ros.window.config import POSE_AXES
from dnls_ros.window.measurements import (
    ContactMeasurement,
    Reason,
    TactileFrame,
    TactileRelativeMeasurement,
    WrenchMeasurement,
)

Pixels = NDArray[np.uint8]
CHANNELS = {
    "rgb8": (0, 1, 2), "rgba8": (0, 1, 2, 3), "bgr8": (2, 1, 0), "bgra8": (2, 1, 0, 3),
    "mono8": (0,), "8UC1": (0,), "8UC3": (2, 1, 0),
}  # fmt: skip
"""Encodings that are read: where red, green and blue are; further channels are left out."""
LARGEST_IMAGE = 1 << 26
"""More bytes are no tactile image."""


def contact(message: Any, origin: Origin) -> ContactMeasurement:
    """Read dnls_ros/ContactState."""
    sensor, stamp, frame, sequence = head(message, origin)
    center = None
    if _flag(message.has_center, "has_center"):
        center = fields.finite(fields.vector(message.center, "center"), "center")
    return ContactMeasurement(
        sensor=sensor,
        stamp=stamp,
        frame=frame,
        sequence=sequence,
        in_contact=_flag(message.in_contact, "in_contact"),
        since=fields.stamp(message.since, "since"),
        center=center,
    )


def tactile_relative(message: Any, origin: Origin) -> TactileRelativeMeasurement:
    """Read dnls_ros/TactileRelativePose; its axes are bits, x first."""
    sensor, stamp, frame, sequence = head(message, origin)
    relative, covariance = fields.pose_with_covariance(message.delta, "delta")
    bits = fields.integer(message.axes, "axes")
    return TactileRelativeMeasurement(
        sensor=sensor,
        stamp=stamp,
        frame=frame,
        sequence=sequence,
        stamp_from=fields.stamp(message.stamp_i, "stamp_i"),
        relative=relative,
        covariance=covariance,
        measured=tuple(axis for k, axis in enumerate(POSE_AXES) if bits & (1 << k)),
    )


def wrench(message: Any, origin: Origin) -> WrenchMeasurement:
    """Read geometry_msgs/WrenchStamped."""
    sensor, stamp, frame, sequence = head(message, origin)
    return WrenchMeasurement(
        sensor=sensor,
        stamp=stamp,
        frame=frame,
        sequence=sequence,
        force=fields.finite(fields.vector(message.wrench.force, "wrench.force"), "wrench.force"),
        torque=fields.finite(
            fields.vector(message.wrench.torque, "wrench.torque"), "wrench.torque"
        ),
    )


def image(message: Any, origin: Origin) -> TactileFrame:
    """Read sensor_msgs/Image."""
    sensor, stamp, frame, sequence = head(message, origin)
    return TactileFrame(
        sensor=sensor, stamp=stamp, frame=frame, sequence=sequence, image=_raw(message)
    )


def compressed_image(message: Any, origin: Origin) -> TactileFrame:
    """Read sensor_msgs/CompressedImage."""
    import cv2

    sensor, stamp, frame, sequence = head(message, origin)
    data = _bytes(message.data)
    if not len(data):
        raise FieldError("data is empty")
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise FieldError(f"data cannot be decoded: {error}") from error
    if pixels is None:
        kind = fields.text(message.format, "format")
        raise FieldError(f"data cannot be decoded as an image (format '{kind}')")
    seen = np.ascontiguousarray(np.asarray(pixels, dtype=np.uint8)[..., ::-1])
    return TactileFrame(sensor=sensor, stamp=stamp, frame=frame, sequence=sequence, image=seen)


def _raw(message: Any) -> Pixels:
    """The pixels (H, W, 3) of a sensor_msgs/Image, rows without their padding."""
    encoding = fields.text(message.encoding, "encoding")
    order = CHANNELS.get(encoding)
    if order is None:
        raise FieldError(f"encoding is '{encoding}'; expected one of {', '.join(CHANNELS)}")
    height, width, step = (
        fields.integer(getattr(message, name), name) for name in ("height", "width", "step")
    )
    row = width * len(order)
    if min(height, width) < 1 or step < row or height * step > LARGEST_IMAGE:
        raise FieldError(
            f"an image of {width} × {height} pixels with rows of {step} bytes; expected pixels, "
            f"and rows of at least {row}"
        )
    data = _bytes(message.data)
    if len(data) != height * step:
        raise FieldError(f"data has {len(data)} bytes; expected {height} rows of {step}")
    pixels = data.reshape(height, step)[:, :row].reshape(height, width, len(order))
    chosen = order[:3] if len(order) > 1 else (0, 0, 0)
    return np.ascontiguousarray(pixels[..., chosen])


def _bytes(data: Any) -> Pixels:
    """Bytes of a message in any of the forms that they come in."""
    if isinstance(data, list | tuple):
        data = bytes(data)
    found = np.frombuffer(data, dtype=np.uint8)
    return found.reshape(-1)


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise FieldError(f"{name} should be true or false, got {value!r:.60}", Reason.BAD_SHAPE)
    return bool(value)
