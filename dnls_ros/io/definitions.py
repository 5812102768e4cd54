"""Message definitions for reading and writing recordings without ROS.

Standard types come with ``rosbags``. Ours, and apriltag_msgs in its ROS 2 form, are read from
their ``.msg`` files, wherever the package lives: in a checkout, beside the installed Python files,
or under ``share/``. A recording's own definitions always come first.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from dnls_ros.errors import UnavailableError

PACKAGE = "dnls_ros"
PACKAGES = ("apriltag_msgs", PACKAGE)
"""The packages whose definitions ``rosbags`` does not bring."""


def message_folder(package: str = PACKAGE) -> Path:
    """Find the folder with a package's ``.msg`` files.

    Raises:
        UnavailableError: Neither a checkout nor an installation has them.
    """
    code = Path(__file__).resolve().parents[1]
    own = [code.parent / "msg"] if package == PACKAGE else []
    folders = [
        *own,
        code.parent / "interfaces" / package / "msg",
        code / "definitions" / package / "msg",
        *(prefix / "share" / package / "msg" for prefix in _prefixes(code)),
    ]
    for folder in folders:
        if any(folder.glob("*.msg")):
            return folder
    tried = ", ".join(map(str, folders))
    raise UnavailableError(
        f"the message definitions of {package} were not found; looked in {tried}. "
        "Install the package again."
    )


@cache
def typestore() -> Typestore:
    """Return the types that recordings are written with: ROS 2 Jazzy's, apriltag_msgs and ours."""
    store = get_typestore(Stores.ROS2_JAZZY)
    found: dict[str, Any] = {}
    for package in PACKAGES:
        for path in sorted(message_folder(package).glob("*.msg")):
            name = f"{package}/msg/{path.stem}"
            found.update(get_types_from_msg(path.read_text("utf-8"), name))
    store.register(found)
    return store


def message_class(type_name: str) -> type[Any]:
    """Return the class of a type such as ``"geometry_msgs/msg/Pose"``, for writing recordings."""
    return typestore().types[type_name]


def _prefixes(code: Path) -> list[Path]:
    """List where ``share/`` may be: the workspaces, this Python's prefix and above the code."""
    workspaces = [Path(one) for one in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if one]
    return [*workspaces, Path(sys.prefix), *list(code.parents)[1:5]]
