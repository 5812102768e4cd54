"""Trajectories and their files: TUM, KITTI, and covariances as CSV.

Stamps are int64 nanoseconds from end to end: the text ``1527206741.075612384`` never passes
through a float, which would lose the last two digits. Numbers are written in the shortest form
that reads back as the same double, so that equal trajectories give equal bytes. Files appear whole
or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.convert import (
    NANOSECONDS,
    covariance_from_ros,
    covariance_to_ros,
    rotation_matrix,
)
from dnls_ros.io.files import read_text, write_text
from dnls_ros.lie import SE3

Array = NDArray[np.float64]
Stamps = NDArray[np.int64]

KITTI_PERIOD = 100_000_000
"""Time between KITTI's poses [ns], which its pose files do not hold."""

_AXES = ("x", "y", "z", "rx", "ry", "rz")
COVARIANCE_NAMES = tuple(f"{row}_{column}" for k, row in enumerate(_AXES) for column in _AXES[k:])
"""Columns of the upper triangle of a covariance, row by row."""
UPPER = np.triu_indices(6)
"""Its rows and columns in the matrix."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Poses of one body over time.

    Attributes:
        stamps: (N,) strictly ascending [ns].
        poses: (N, 7) world_T_body as (x y z qx qy qz qw) [m], unit quaternions.
        covariances: (N, 6, 6) in the tangent (v, ω) of the body's axes [m, rad], or None.

    Raises:
        DnlsError: The arrays disagree in length, stamps do not ascend or a value is not finite.
    """

    stamps: Stamps
    poses: Array
    covariances: Array | None = None

    def __post_init__(self) -> None:
        count = len(self.stamps)
        covariances = np.zeros((count, 6, 6)) if self.covariances is None else self.covariances
        parts = (("poses", self.poses, (count, 7)), ("covariances", covariances, (count, 6, 6)))
        if self.stamps.dtype != np.int64 or self.stamps.ndim != 1:
            raise DnlsError("trajectory stamps should be an int64 vector of nanoseconds")
        for name, array, shape in parts:
            if array.shape != shape:
                raise DnlsError(f"trajectory {name} should be {shape}, got {array.shape}")
        if not np.isfinite(self.poses).all():
            raise DnlsError("trajectory poses should be finite")
        _check_ascending(self.stamps)

    def __len__(self) -> int:
        """Return the number of poses."""
        return len(self.stamps)

    def at(self, stamps: Stamps) -> Array:
        """Interpolate poses (K, 7) at ``stamps`` (K,) [ns] with constant body twist in between.

        Raises:
            DnlsError: A stamp lies outside the trajectory.
        """
        wanted = np.asarray(stamps, dtype=np.int64)
        if len(wanted) == 0:
            return np.empty((0, 7))
        if len(self) == 0 or wanted.min() < self.stamps[0] or wanted.max() > self.stamps[-1]:
            raise DnlsError(f"stamps to interpolate at leave the trajectory {self._span()}")
        if len(self) == 1:
            return np.repeat(self.poses, len(wanted), axis=0)
        left = np.clip(np.searchsorted(self.stamps, wanted, side="right") - 1, 0, len(self) - 2)
        elapsed = (wanted - self.stamps[left]) / (self.stamps[left + 1] - self.stamps[left])
        begin = SE3(torch.from_numpy(self.poses[left]))
        motion = (begin.inverse() @ SE3(torch.from_numpy(self.poses[left + 1]))).log()
        poses = (begin @ SE3.exp(torch.from_numpy(elapsed)[:, None] * motion)).tensor.numpy()
        exact = wanted == self.stamps[left + 1]
        poses[exact] = self.poses[left + 1][exact]
        return poses

    def _span(self) -> str:
        if len(self) == 0:
            return "without poses"
        return f"of {stamp_text(self.stamps[0])} to {stamp_text(self.stamps[-1])}"


def stamp_text(stamp: int) -> str:
    """Write nanoseconds as seconds with nine decimals."""
    sign, rest = ("-", -int(stamp)) if stamp < 0 else ("", int(stamp))
    return f"{sign}{rest // NANOSECONDS}.{rest % NANOSECONDS:09d}"


def parse_stamp(text: str) -> int:
    """Read decimal seconds as nanoseconds exactly; digits beyond the ninth decimal are rounded."""
    stamp = int((Decimal(text) * NANOSECONDS).to_integral_value())
    if abs(stamp) >= 2**63:
        raise OverflowError(f"{text} s is beyond the range of stamps")
    return stamp


def write_tum(path: Path | str, trajectory: Trajectory) -> None:
    """Write ``t x y z qx qy qz qw`` lines."""
    lines = (
        f"{stamp_text(stamp)} {numbers_text(pose)}\n"
        for stamp, pose in zip(trajectory.stamps.tolist(), trajectory.poses.tolist(), strict=True)
    )
    write_text(path, "".join(lines))


def read_tum(path: Path | str) -> Trajectory:
    """Read a TUM file; comments (``#``) and empty lines are skipped, quaternions are normalized.

    Raises:
        UnreadableInputError: The file is missing or empty, a line is no pose, or stamps do not
            ascend.
    """
    rows = list(rows_of(path, (8,), "t x y z qx qy qz qw"))
    stamps = np.array([row_stamp(path, line, words[0]) for line, words in rows], dtype=np.int64)
    poses = np.array([row_numbers(path, line, words[1:]) for line, words in rows])
    poses = unit_quaternions(path, [line for line, _ in rows], poses)
    return named_trajectory(path, stamps, poses, None)


def write_kitti(path: Path | str, trajectory: Trajectory) -> None:
    """Write each pose as the upper 3 × 4 part of its matrix, row by row; KITTI keeps no stamps."""
    matrices = np.concatenate(
        [rotation_matrix(trajectory.poses[:, 3:]), trajectory.poses[:, :3, None]], axis=2
    )
    lines = (f"{numbers_text(row)}\n" for row in matrices.reshape(-1, 12).tolist())
    write_text(path, "".join(lines))


def read_kitti(path: Path | str, stamps: Stamps | None = None) -> Trajectory:
    """Read KITTI poses; ``stamps`` (N,) [ns], or None for KITTI's 10 Hz from zero.

    Raises:
        UnreadableInputError: The file is missing or empty, a line is no pose, or there are not as
            many as ``stamps``.
    """
    numbers = [
        row_numbers(path, line, words) for line, words in rows_of(path, (12,), "a 3 × 4 matrix")
    ]
    matrices = np.array(numbers).reshape(-1, 3, 4)
    turns = matrices[:, :, :3]
    if not np.allclose(turns @ np.swapaxes(turns, 1, 2), np.eye(3), atol=1e-3):
        raise UnreadableInputError(f"{path}: a pose's 3 × 3 part is no rotation")
    if stamps is None:
        stamps = np.arange(len(matrices), dtype=np.int64) * KITTI_PERIOD
    if len(stamps) != len(matrices):
        raise UnreadableInputError(f"{path}: {len(matrices)} poses, but {len(stamps)} stamps")
    bottom = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(matrices), 1, 4))
    homogeneous = torch.from_numpy(np.concatenate([matrices, bottom], axis=1))
    poses = SE3.from_matrix(homogeneous).normalized().tensor.numpy()
    return named_trajectory(path, np.asarray(stamps, dtype=np.int64), poses, None)


def write_covariances(path: Path | str, trajectory: Trajectory) -> None:
    """Write the upper triangles of the covariances in ROS's axes: ``stamp,x_x,x_y,…,rz_rz``.

    Raises:
        DnlsError: The trajectory has no covariances.
    """
    if trajectory.covariances is None:
        raise DnlsError(f"cannot write {path}: the trajectory has no covariances")
    matrices = covariance_to_ros(trajectory.covariances, trajectory.poses)
    lines = [",".join(("stamp", *COVARIANCE_NAMES)) + "\n"]
    for stamp, matrix in zip(trajectory.stamps.tolist(), matrices, strict=True):
        lines.append(f"{stamp_text(stamp)},{numbers_text(matrix[UPPER].tolist(), ',')}\n")
    write_text(path, "".join(lines))


def read_covariances(path: Path | str, trajectory: Trajectory) -> Trajectory:
    """Give ``trajectory`` the covariances that ``write_covariances`` wrote for the same stamps.

    Raises:
        UnreadableInputError: The file is unreadable or its stamps are not those of the trajectory.
    """
    rows = [
        row
        for row in rows_of(path, (22,), "a stamp and 21 covariances", ",")
        if row[1][0] != "stamp"
    ]
    stamps = np.array([row_stamp(path, line, words[0]) for line, words in rows], dtype=np.int64)
    if not np.array_equal(stamps, trajectory.stamps):
        raise UnreadableInputError(f"{path}: its stamps are not those of the trajectory")
    upper = np.array([row_numbers(path, line, words[1:]) for line, words in rows])
    covariances = covariance_from_ros(symmetric_matrices(upper), trajectory.poses)
    return Trajectory(trajectory.stamps, trajectory.poses, covariances)


def numbers_text(values: Iterable[float], separator: str = " ") -> str:
    """Write numbers in the shortest form that reads back as the same doubles."""
    return separator.join(map(repr, values))


def rows_of(
    path: Path | str,
    widths: Sequence[int],
    form: str,
    separator: str | None = None,
    skip: int = 0,
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, words) of lines with content, the first ``skip`` lines aside.

    Raises:
        UnreadableInputError: A line has none of the ``widths``, or there is no line.
    """
    found = False
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content or number <= skip:
            continue
        words = content.split(separator)
        if len(words) not in widths:
            wanted = " or ".join(map(str, widths))
            raise UnreadableInputError(
                f"{path}:{number}: expected {wanted} numbers ({form}), got {len(words)}"
            )
        found = True
        yield number, words
    if not found:
        raise UnreadableInputError(f"{path} holds no poses")


def row_stamp(path: Path | str, line: int, word: str) -> int:
    """Read the stamp [ns] of a line; UnreadableInputError names it."""
    try:
        return parse_stamp(word)
    except (DecimalException, ValueError, OverflowError) as error:
        raise UnreadableInputError(f"{path}:{line}: {word!r} is not a time in seconds") from error


def row_numbers(path: Path | str, line: int, words: Sequence[str]) -> list[float]:
    """Read the numbers of a line; UnreadableInputError names it."""
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise UnreadableInputError(f"{path}:{line}: {error}") from error


def unit_quaternions(path: Path | str, lines: Sequence[int], poses: Array) -> Array:
    """Normalize the quaternions of poses (N, 7) that were read from ``lines`` of a file.

    Raises:
        UnreadableInputError: One has length zero.
    """
    lengths = np.linalg.norm(poses[:, 3:], axis=1, keepdims=True)
    if (short := np.flatnonzero(lengths < 1e-9)).size:
        raise UnreadableInputError(f"{path}:{lines[short[0]]}: the quaternion has length zero")
    unit = np.abs(lengths - 1.0) < 1e-12  # what we wrote reads back bit by bit
    turns = np.where(unit, poses[:, 3:], poses[:, 3:] / lengths)
    return np.concatenate([poses[:, :3], turns], axis=1)


def symmetric_matrices(upper: Array) -> Array:
    """Make matrices (N, 6, 6) of their upper triangles (N, 21), row by row."""
    matrices = np.zeros((len(upper), 6, 6))
    matrices[:, UPPER[0], UPPER[1]] = upper
    matrices[:, UPPER[1], UPPER[0]] = upper
    return matrices


def _check_ascending(stamps: Stamps) -> None:
    if (back := np.flatnonzero(np.diff(stamps) <= 0)).size:
        k = int(back[0])
        earlier, later = stamp_text(stamps[k]), stamp_text(stamps[k + 1])
        raise DnlsError(
            f"trajectory stamps should ascend strictly, got {later} after {earlier} (pose {k + 1})"
        )


def named_trajectory(
    path: Path | str, stamps: Stamps, poses: Array, covariances: Array | None
) -> Trajectory:
    """Make the trajectory read from ``path``, whose name goes into what is wrong with it."""
    try:
        return Trajectory(stamps, poses, covariances)
    except DnlsError as error:
        raise UnreadableInputError(f"{path}: {error}") from error
