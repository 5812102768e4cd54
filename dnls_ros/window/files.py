"""Where a file named in a configuration is looked for.

 A name is an absolute path, ``~/…``, ``package://dnls_ros/…`` (the package's share directory), or
relative: then it is sought beside the parameter file, in the working directory and in the
package's ``config`` directory, in this order.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE_URL = "package://dnls_ros/"


def share_directories() -> tuple[Path, ...]:
    """Directories of launch and config files: a checkout, ament prefixes, this Python's prefix."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    shares = [prefix / "share" / "dnls_ros" for prefix in (*prefixes, Path(sys.prefix))]
    checkout = Path(__file__).resolve().parents[2]
    found = [share for share in shares if (share / "config").is_dir()]
    return (checkout, *found) if (checkout / "package.xml").is_file() else tuple(found)


def candidates(name: str, base: Path | None) -> tuple[Path, ...]:
    """The places where a file of this name is looked for, first choice first."""
    if name.startswith(PACKAGE_URL):
        return tuple(share / name.removeprefix(PACKAGE_URL) for share in share_directories())
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~someone who has no home here
        path = Path(name)
    if path.is_absolute():
        return (path,)
    beside = (base / path,) if base is not None else ()
    return (
        *beside,
        Path.cwd() / path,
        *(share / "config" / path for share in share_directories()),
    )


def find_file(name: str, base: Path | None = None) -> Path | None:
    """The first existing file of this name, absolute; None when there is none."""
    return next((path.resolve() for path in candidates(name, base) if path.is_file()), None)
