"""TFMessage in, transforms out: of ROS 2 and ROS 1, live and recorded."""

from __future__ import annotations

from typing import Any

from dnls_ros.io import fields
from dnls_ros.io.fields import FieldError
from dnls_ros.runtime.transforms import StampedTransform, Transforms

TF_TYPES = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
"""The types of tf topics; the second is that of ROS 1 before tf2."""
TF_TOPICS = {"tf": False, "tf_static": True}
"""Relative name of a tf topic → whether its transforms are static."""


def read_transforms(message: Any, static: bool) -> Transforms:
    """Read a TFMessage; never raises.

    Args:
        message: Any object with its attributes.
        static: Whether it came from tf_static.
    """
    found: list[StampedTransform] = []
    problems: list[str] = []
    try:
        items = list(message.transforms)
    except Exception as error:  # a foreign object may raise anything
        return Transforms((), static, (f"no TFMessage: {type(error).__name__}: {error}",))
    for k, item in enumerate(items):
        try:
            found.append(_transform(item))
        except FieldError as refusal:
            problems.append(f"transforms[{k}]: {refusal}")
        except Exception as error:  # ″
            problems.append(f"transforms[{k}]: {type(error).__name__}: {error}")
    return Transforms(tuple(found), static, tuple(problems))


def transforms_of(topic: str, type_name: str, message: Any) -> Transforms | None:
    """Read a recorded message if its topic, ``"/tf"`` for example, is one of tf's; else None."""
    static = TF_TOPICS.get(topic.lstrip("/"))
    if static is None or type_name not in TF_TYPES:
        return None
    return read_transforms(message, static)


def _transform(item: Any) -> StampedTransform:
    """Read a geometry_msgs/TransformStamped."""
    parent = fields.text(item.header.frame_id, "header.frame_id")
    child = fields.text(item.child_frame_id, "child_frame_id")
    name = f"transform of '{child}' in '{parent}'"
    stamp = fields.stamp(item.header.stamp)
    return StampedTransform(parent, child, stamp, fields.pose(item.transform, name))
