"""What all measurements made of messages begin with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from dnls_ros.io import fields
from dnls_ros.window.ingress import LATEST_STAMP
from dnls_ros.window.measurements import Measurement, Reason, Rejection


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


class StampOptions(Protocol):
    """What a front end is told of a driver's headers."""

    @property
    def stamp_source(self) -> str:
        """``header`` or ``arrival``."""
        ...

    @property
    def stamp_offset(self) -> float:
        """Added to every stamp [s]."""
        ...

    @property
    def frame_override(self) -> str:
        """Instead of header.frame_id; '' keeps it."""
        ...


def stamp_and_frame(
    m: Measurement, options: StampOptions, arrival: int
) -> tuple[int, str] | Rejection:
    """The stamp [ns] and the frame that a front end gives an image, or why it has none."""
    stamp = arrival if options.stamp_source == "arrival" else m.stamp
    if stamp <= 0:
        text = "header.stamp is zero; set stamp_source: arrival if the driver sets none"
        return Rejection(m.sensor, stamp, Reason.ZERO_STAMP, text)
    stamp += round(options.stamp_offset * 1e9)
    if not 0 < stamp <= LATEST_STAMP:
        return Rejection(m.sensor, stamp, Reason.FUTURE_STAMP, f"stamp is {stamp} ns")
    frame = options.frame_override or m.frame
    if not frame:
        text = "header.frame_id is empty; set frame_override if that is meant"
        return Rejection(m.sensor, stamp, Reason.EMPTY_FRAME, text)
    return stamp, frame
