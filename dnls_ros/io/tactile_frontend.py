"""Tactile images in, messages of contact, features and relative poses out; no ROS in here.

Drivers of tactile sensors may stamp nothing and name no frame: `stamp_source`, `frame_override`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnls_ros.io import compose_touch
from dnls_ros.io.compose import Composer
from dnls_ros.io.messages import adapt
from dnls_ros.io.origin import stamp_and_frame
from dnls_ros.window.config import ImageConfig
from dnls_ros.window.measurements import Reason, Rejection, TactileFrame
from dnls_ros.window.parameter_blocks import Problems
from dnls_ros.window.parameter_changes import read_rows
from dnls_ros.window.parameter_table import NODE, SENSOR, Row
from dnls_ros.window.tactile_frontend import FrontEndOptions, Seen, TactileFrontEnd, fitted
from dnls_ros.window.touch_checks import check_images

NAME = "tactile_frontend"
RELATIVE_POSE = "dnls_ros/msg/TactileRelativePose"
FEATURE = "dnls_ros/msg/TactileFeature"
CONTACT = "dnls_ros/msg/ContactState"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
SHARED_ROWS = (
    "autostart", "qos.reliability", "qos.depth", "stamp_source", "stamp_offset", "frame_override",
    "model", "pair_offsets", "contact.z_threshold", "contact.area_fraction", "contact.hysteresis",
    "image.crop", "image.size",
)  # fmt: skip
"""What the front end has of the estimator's table."""
DEPTH = 5
"""Of the queue of images."""
ROWS = (
    *(
        replace(row, default=DEPTH) if row.name == "qos.depth" else row
        for row in (*NODE, *SENSOR)
        if row.name in SHARED_ROWS
    ),
    Row("publish_debug", "bool", True, "whether ~/debug_image is published while someone listens"),
    Row("sensor_id", "string", "", "serial number or name of the sensor in all messages"),
)


@dataclass(frozen=True)
class NodeOptions:
    """The parameters of the node.

    Attributes:
        autostart: Configure and activate without being told.
        reliability, depth: Of the subscription.
        stamp_source: ``header`` or ``arrival``.
        stamp_offset: Added to every stamp [s].
        frame_override: Instead of header.frame_id; '' keeps it.
        model: Absolute path of a model's file; '' for none.
        sensor_id: In all messages.
        publish_debug: Whether there is a picture of what is touched.
        front: What counts as contact, and which images are paired.
    """

    autostart: bool
    reliability: str
    depth: int
    stamp_source: str
    stamp_offset: float
    frame_override: str
    model: str
    sensor_id: str
    publish_debug: bool
    front: FrontEndOptions


def read_options(
    given: Mapping[str, Any], node: str = NAME, base: Path | None = None
) -> NodeOptions:
    """The options by a node's parameters.

    Raises:
        DnlsError: One line for each problem.
    """
    v = read_rows(ROWS, given, node, base)
    front = FrontEndOptions(
        v["contact.z_threshold"],
        v["contact.area_fraction"],
        v["contact.hysteresis"],
        v["pair_offsets"],
        ImageConfig(v["image.crop"], v["image.size"]),
    )
    problems = Problems()
    check_images("", front.pair_offsets, front.image, problems)
    problems.check(f"parameters of '{node}'")
    return NodeOptions(
        autostart=v["autostart"],
        reliability=v["qos.reliability"],
        depth=v["qos.depth"],
        stamp_source=v["stamp_source"],
        stamp_offset=v["stamp_offset"],
        frame_override=v["frame_override"],
        model=v["model"],
        sensor_id=v["sensor_id"],
        publish_debug=v["publish_debug"],
        front=front,
    )


@dataclass(frozen=True, eq=False)
class Looked:
    """An image and what the front end saw in it."""

    frame: TactileFrame
    seen: Seen


@dataclass
class TactileTranslator:
    """Images to messages, one at a time, with an account: received = passed + Σ refused.

    An image whose model failed still says whether the finger touches: it passes, and is counted in
    ``failed`` besides.

    Attributes:
        options: What is done.
        front: Sees the images.
        received, passed, failed: Images.
        refused: Images by reason.
        last_problem: A sentence.
    """

    options: NodeOptions
    front: TactileFrontEnd
    received: int = 0
    passed: int = 0
    failed: int = 0
    refused: Counter[Reason] = field(default_factory=Counter[Reason])
    last_problem: str = ""
    _last: int = 0

    def look(self, type_name: str, message: Any, arrival: int) -> Looked | Rejection:
        """One image, or why it is refused; never raises.

        Args:
            type_name: ROS type of the image.
            message: The image.
            arrival: When it came [ns].
        """
        self.received += 1
        frame = self._frame(adapt(NAME, type_name, message, self.received - 1), arrival)
        if isinstance(frame, Rejection):
            self.refused[frame.reason] += 1
            self.last_problem = f"{frame.reason.name}: {frame.text}"
            return frame
        self._last = frame.stamp
        seen = self.front.see(frame.stamp, frame.image)
        self.passed += 1
        if seen.failure:
            self.failed += 1
            self.last_problem = f"{Reason.MODEL_FAILED.name}: {seen.failure}"
        return Looked(frame, seen)

    def drop(self) -> None:
        """Counts an image that found the queue full."""
        self.received += 1
        self.refused[Reason.QUEUE_FULL] += 1
        self.last_problem = f"{Reason.QUEUE_FULL.name}: images come faster than they are seen"

    def _frame(self, m: Any, arrival: int) -> TactileFrame | Rejection:
        options = self.options
        if not isinstance(m, TactileFrame):
            return m if isinstance(m, Rejection) else _refused(m, "this is no image")
        placed = stamp_and_frame(m, options, arrival)
        if isinstance(placed, Rejection):
            return placed
        stamp, frame = placed
        if stamp == self._last:
            return Rejection(NAME, stamp, Reason.DUPLICATE, "an image of that stamp was seen")
        if stamp < self._last:  # a recording that is played again
            self.front.forget()
        height, width = m.image.shape[:2]
        if not _holds(options.front.image.crop, width, height):
            text = f"image.crop {list(options.front.image.crop)} is not within {width} × {height}"
            return Rejection(NAME, stamp, Reason.BAD_SHAPE, text)
        return replace(m, stamp=stamp, frame=frame)

    def messages(self, compose: Composer, looked: Looked) -> list[tuple[str, Any]]:
        """(type, message) of everything that an image says, contact first."""
        frame, seen, name = looked.frame, looked.seen, self.options.sensor_id
        if seen.learning:
            return []
        out = [(CONTACT, compose_touch.contact_state(compose, frame, seen, name))]
        if seen.feature is not None:
            out.append((FEATURE, compose_touch.tactile_feature(compose, frame, seen, name)))
        for pair in seen.pairs:
            made = compose_touch.relative_pose(compose, frame, seen, pair, name)
            out.append((RELATIVE_POSE, made))
        return out

    def picture(self, looked: Looked) -> NDArray[np.uint8]:
        """The image (H, W, 3) with what is touched in red, for people."""
        out = fitted(looked.frame.image, self.options.front.image).copy()
        out[looked.seen.touched, 0] = 255
        out[looked.seen.touched, 1:] //= 2
        return out


def _refused(m: Any, text: str) -> Rejection:
    return Rejection(NAME, m.stamp, Reason.BAD_SHAPE, text)


def _holds(crop: tuple[int, ...], width: int, height: int) -> bool:
    """Whether a part (left, top, width, height) lies in an image."""
    if not crop:
        return True
    left, top, wide, high = crop
    return wide > 0 and high > 0 and left + wide <= width and top + high <= height
