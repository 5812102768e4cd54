"""Message definitions for reading and writing recordings without ROS.

Standard types come with ``rosbags``. Ours are read from this package's own ``.msg`` files,
wherever it lives: beside the sources in a checkout, inside the package or under ``share/`` when
installed. The ROS 2 form of apriltag_msgs is written out here, because no Python package carries
it; a recording's own definitions always come first.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from dnls_ros.errors import UnavailableError

PACKAGE = "dnls_ros"

APRILTAG_MSGS = {
    "Point": "float64 x\nfloat64 y\n",
    "AprilTagDetection": (
        "string family\nint32 id\nint32 hamming\nfloat32 goodness\nfloat32 decision_margin\n"
        "apriltag_msgs/Point centre\napriltag_msgs/Point[4] corners\nfloat64[9] homography\n"
    ),
    "AprilTagDetectionArray": (
        "std_msgs/Header header\napriltag_msgs/AprilTagDetection[] detections\n"
    ),
}
"""The definitions of apriltag_msgs (ROS 2): one text per message name."""

_A_MESSAGE_OF_OURS = "RangeBearingArray.msg"


def message_folder() -> Path:
    """Find the folder with this package's ``.msg`` files.

    Raises:
        UnavailableError: Neither a checkout nor an installation has them.
    """
    package = Path(__file__).resolve().parents[1]
    folders = (
        package.parent / "msg",
        package / "interfaces" / "msg",
        package / "msg",
        *(Path(prefix) / "share" / PACKAGE / "msg" for prefix in _prefixes(package)),
    )
    for folder in folders:
        if (folder / _A_MESSAGE_OF_OURS).is_file():
            return folder
    tried = ", ".join(str(folder) for folder in folders)
    raise UnavailableError(
        f"the message definitions of {PACKAGE} were not found; looked in {tried}. "
        "Install the package again."
    )


@cache
def typestore() -> Typestore:
    """Return the types that recordings are written with: ROS 2 Jazzy's, apriltag_msgs and ours."""
    store = get_typestore(Stores.ROS2_JAZZY)
    found: dict[str, Any] = {}
    for name, text in APRILTAG_MSGS.items():
        found.update(get_types_from_msg(text, f"apriltag_msgs/msg/{name}"))
    for path in sorted(message_folder().glob("*.msg")):
        found.update(get_types_from_msg(path.read_text("utf-8"), f"{PACKAGE}/msg/{path.stem}"))
    store.register(found)
    return store


def message_class(type_name: str) -> type[Any]:
    """Return the class of a type such as ``"geometry_msgs/msg/Pose"``, for writing recordings."""
    return typestore().types[type_name]


def _prefixes(package: Path) -> list[Path]:
    """List where an installation may keep share/: the environment and above the package."""
    return [Path(sys.prefix), *list(package.parents)[1:5]]
