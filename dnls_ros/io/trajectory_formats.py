"""The file formats of trajectories by name: TUM, KITTI, EuRoC and CSV.

    tum    t x y z qx qy qz qw                          seconds with nine decimals
    kitti  the upper 3 × 4 part of the pose's matrix    no stamps
    euroc  t,x,y,z,qw,qx,qy,qz                          integer nanoseconds; w comes first
    csv    stamp,x,y,z,qx,qy,qz,qw and, where known, the 21 covariances of ``write_covariances``

Stamps and numbers are exact in all of them (KITTI has none and turns quaternions into matrices).
Files appear whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.convert import covariance_from_ros, covariance_to_ros
from dnls_ros.io.files import read_text, write_text
from dnls_ros.io.trajectory import (
    COVARIANCE_NAMES,
    UPPER,
    Array,
    Trajectory,
    named_trajectory,
    numbers_text,
    read_kitti,
    read_tum,
    row_numbers,
    row_stamp,
    rows_of,
    stamp_text,
    symmetric_matrices,
    unit_quaternions,
    write_kitti,
    write_tum,
)

_POSE_NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw")
_EUROC_HEAD = (
    "#timestamp [ns]",
    *(f"p_RS_R_{axis} [m]" for axis in "xyz"),
    *(f"q_RS_{axis} []" for axis in "wxyz"),
)
_EUROC_ORDER = [0, 1, 2, 6, 3, 4, 5]
"""Ours → EuRoC's: the quaternion's w comes first."""
_EUROC_WIDTHS = (8, 17)
"""Poses alone, and ground truth with velocities and biases behind them."""


def write_euroc(path: Path | str, trajectory: Trajectory) -> None:
    """Write EuRoC's ``data.csv``: nanoseconds, position, quaternion with w first."""
    lines = [",".join(_EUROC_HEAD) + "\n"]
    poses = trajectory.poses[:, _EUROC_ORDER].tolist()
    for stamp, pose in zip(trajectory.stamps.tolist(), poses, strict=True):
        lines.append(f"{stamp},{numbers_text(pose, ',')}\n")
    write_text(path, "".join(lines))


def read_euroc(path: Path | str) -> Trajectory:
    """Read EuRoC's ``data.csv``; velocities and biases behind the pose are left out.

    Raises:
        UnreadableInputError: The file is missing or empty, a line is no pose, or stamps do not
            ascend.
    """
    rows = list(rows_of(path, _EUROC_WIDTHS, "nanoseconds,x,y,z,qw,qx,qy,qz", ","))
    stamps = np.array([_nanoseconds(path, line, words[0]) for line, words in rows], np.int64)
    numbers = np.array([row_numbers(path, line, words[1:8]) for line, words in rows])
    poses = unit_quaternions(path, [line for line, _ in rows], numbers[:, [0, 1, 2, 4, 5, 6, 3]])
    return named_trajectory(path, stamps, poses, None)


def write_csv(path: Path | str, trajectory: Trajectory) -> None:
    """Write a table with a head; covariances, if there are any, in ROS's axes."""
    names = ["stamp", *_POSE_NAMES]
    numbers = trajectory.poses
    if trajectory.covariances is not None:
        names += COVARIANCE_NAMES
        matrices = covariance_to_ros(trajectory.covariances, trajectory.poses)
        numbers = np.concatenate([numbers, matrices[:, UPPER[0], UPPER[1]]], axis=1)
    lines = [",".join(names) + "\n"]
    for stamp, row in zip(trajectory.stamps.tolist(), numbers.tolist(), strict=True):
        lines.append(f"{stamp_text(stamp)},{numbers_text(row, ',')}\n")
    write_text(path, "".join(lines))


def read_csv(path: Path | str) -> Trajectory:
    """Read what ``write_csv`` wrote.

    Raises:
        UnreadableInputError: The file is missing or empty, its head is another one, a line is no
            pose, or stamps do not ascend.
    """
    head, _, _ = read_text(path).partition("\n")
    names = ["stamp", *_POSE_NAMES]
    full = [*names, *COVARIANCE_NAMES]
    if (found := head.strip().split(",")) not in (names, full):
        raise UnreadableInputError(
            f"{path}:1: expected the head {','.join(names)} with or without covariances, "
            f"got {head.strip()[:80]!r}"
        )
    rows = list(rows_of(path, (len(found),), ",".join(names) + ",…", ",", skip=1))
    stamps = np.array([row_stamp(path, line, words[0]) for line, words in rows], dtype=np.int64)
    numbers = np.array([row_numbers(path, line, words[1:]) for line, words in rows])
    poses = unit_quaternions(path, [line for line, _ in rows], numbers[:, :7])
    covariances: Array | None = None
    if len(found) == len(full):
        covariances = covariance_from_ros(symmetric_matrices(numbers[:, 7:]), poses)
    return named_trajectory(path, stamps, poses, covariances)


@dataclass(frozen=True)
class Format:
    """A file format of trajectories.

    Attributes:
        suffix: Of its files.
        write: Writes a file, whole or not at all.
        read: Reads one; UnreadableInputError says what is wrong with it.
    """

    suffix: str
    write: Callable[[Path | str, Trajectory], None]
    read: Callable[[Path | str], Trajectory]


FORMATS = {
    "tum": Format(".tum", write_tum, read_tum),
    "kitti": Format(".kitti", write_kitti, read_kitti),
    "euroc": Format(".euroc.csv", write_euroc, read_euroc),
    "csv": Format(".csv", write_csv, read_csv),
}
"""Every format by the name that services and command line take."""


def trajectory_format(name: str) -> Format:
    """Find a format by its name.

    Raises:
        DnlsError: There is no such format.
    """
    if name not in FORMATS:
        raise DnlsError(f"no trajectory format '{name}'; there are: {', '.join(FORMATS)}")
    return FORMATS[name]


def write_trajectory(path: Path | str, trajectory: Trajectory, name: str = "tum") -> None:
    """Write a trajectory in the format ``name``.

    Raises:
        DnlsError: There is no such format.
        OSError: The file cannot be written; what was there before stays.
    """
    trajectory_format(name).write(path, trajectory)


def _nanoseconds(path: Path | str, line: int, word: str) -> int:
    try:
        stamp = int(word)
    except ValueError as error:
        text = f"{path}:{line}: {word!r} is not a time in whole nanoseconds"
        raise UnreadableInputError(text) from error
    if abs(stamp) >= 2**63:
        raise UnreadableInputError(f"{path}:{line}: {word} ns is beyond the range of stamps")
    return stamp
