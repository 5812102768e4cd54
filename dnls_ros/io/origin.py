"""What all measurements made of messages begin with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dnls_ros.io import fields


@dataclass(frozen=True)
class Origin:
    """Who sends a message, for the measurement made of it."""

    sensor: str
    sequence: int


def head(message: Any, origin: Origin) -> tuple[str, int, str, int]:
    """Read what all stamped messages begin with: sensor, stamp, frame, sequence."""
    header = message.header
    stamp, frame = fields.stamp(header.stamp), fields.text(header.frame_id, "header.frame_id")
    return origin.sensor, stamp, frame, origin.sequence
