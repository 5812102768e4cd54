"""Absolute and relative errors between paired trajectories.

The figures are those of the evo package (J. Sturm et al., "A benchmark for the evaluation of RGB-D
SLAM systems", IROS 2012): the absolute error is the distance between paired positions after an
alignment, the relative error compares the motions between pairs of instants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dnls_ros.errors import DnlsError
from dnls_ros.io.alignment import AlignMode, align
from dnls_ros.io.trajectory import Trajectory

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
RpeUnit = Literal["f", "s", "m"]


@dataclass(frozen=True)
class ErrorStatistics:
    """What is usually said about a list of error magnitudes, in their unit."""

    rmse: float
    mean: float
    median: float
    p90: float
    max: float
    count: int


@dataclass(frozen=True)
class RelativeError:
    """Relative pose error over one distance: its translation [m] and its rotation angle [rad]."""

    translation: ErrorStatistics
    rotation: ErrorStatistics


def ate(
    estimate: Trajectory, reference: Trajectory, align_mode: AlignMode = "none"
) -> ErrorStatistics:
    """Absolute position error [m] of associated trajectories of the same length."""
    _check_paired(estimate, reference)
    fit = align(estimate.poses[:, :3], reference.poses[:, :3], align_mode)
    difference = fit.apply(estimate.poses)[:, :3] - reference.poses[:, :3]
    return statistics(np.linalg.norm(difference, axis=1))


def rpe(
    estimate: Trajectory,
    reference: Trajectory,
    delta: float = 1.0,
    unit: RpeUnit = "s",
    all_pairs: bool = False,
) -> RelativeError:
    """Relative pose error of associated trajectories of the same length.

    Args:
        delta, unit: Distance between the two instants of a pair: frames ``"f"``, seconds ``"s"``
            (the first pose at least so much later) or metres of the estimate's path ``"m"``.
        all_pairs: Start a pair at every pose (frames, seconds) instead of where the last ended.

    Raises:
        DnlsError: No pair is that far apart, or delta or unit is wrong.
    """
    _check_paired(estimate, reference)
    first, second = distant_pairs(estimate, delta, unit, all_pairs)
    if not len(first):
        raise DnlsError(f"rpe: no two poses are {delta:g} {unit} apart; use a smaller delta")
    motion = _relative(estimate.poses[first], estimate.poses[second])
    truth = _relative(reference.poses[first], reference.poses[second])
    error = _relative(truth, motion)
    angle = Rotation.from_quat(error[:, 3:]).magnitude()
    return RelativeError(statistics(np.linalg.norm(error[:, :3], axis=1)), statistics(angle))


def statistics(magnitudes: Array) -> ErrorStatistics:
    """Root mean square, mean, median, 90 % quantile and maximum of error magnitudes (n,)."""
    return ErrorStatistics(
        rmse=float(np.sqrt(np.mean(magnitudes**2))),
        mean=float(np.mean(magnitudes)),
        median=float(np.median(magnitudes)),
        p90=float(np.quantile(magnitudes, 0.9)),
        max=float(np.max(magnitudes)),
        count=len(magnitudes),
    )


def yaw_errors(estimate: Array, reference: Array) -> Array:
    """Yaw of the estimate minus yaw of the reference, poses (n, 7), in (-π, π] [rad]."""
    difference = yaw_of(estimate) - yaw_of(reference)
    return np.arctan2(np.sin(difference), np.cos(difference))


def _check_paired(estimate: Trajectory, reference: Trajectory) -> None:
    if len(estimate.stamps) != len(reference.stamps) or not len(estimate.stamps):
        raise DnlsError(
            f"got {len(estimate.stamps)} estimated and {len(reference.stamps)} reference poses, "
            "expected as many of both and at least one; use associate() first"
        )


def distant_pairs(
    trajectory: Trajectory, delta: float, unit: RpeUnit, all_pairs: bool
) -> tuple[Indices, Indices]:
    """Indices of the poses where relative motions begin and end."""
    if unit not in get_args(RpeUnit) or not delta > 0 or (unit == "f" and delta != int(delta)):
        raise DnlsError(
            f"rpe: got delta={delta}, unit='{unit}', all_pairs={all_pairs}; expected delta > 0, "
            "unit f (whole number), s or m"
        )
    if unit == "m":
        return _pairs_by_path(trajectory.poses[:, :3], delta, all_pairs)
    count = len(trajectory.stamps)
    if unit == "f":
        second = np.arange(count, dtype=np.int64) + int(delta)
    else:
        ends = trajectory.stamps + round(delta * 1e9)
        second = np.searchsorted(trajectory.stamps, ends, side="left").astype(np.int64)
    first = np.arange(count, dtype=np.int64) if all_pairs else _chain(second)
    first = first[second[first] < count]
    return first, second[first]


def _chain(following: Indices) -> Indices:
    """Start at 0 and go on from wherever the last pair ended."""
    at, starts = 0, []
    while at < len(following):
        starts.append(at)
        at = int(following[at])
    return np.array(starts, dtype=np.int64)


def _pairs_by_path(positions: Array, delta: float, all_pairs: bool) -> tuple[Indices, Indices]:
    """Consecutive pairs at least ``delta`` of path apart, or for every pose the nearest to that.

    All pairs keep those within 10 % of ``delta``, as evo does by default.
    """
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    pairs: list[tuple[int, int]] = []
    if all_pairs:
        path = np.concatenate([[0.0], np.cumsum(steps)])
        for start in range(len(path) - 1):
            off = np.abs(path[start + 1 :] - path[start] - delta)
            best = int(np.argmin(off))
            if off[best] <= 0.1 * delta:
                pairs.append((start, start + 1 + best))
    else:
        start, travelled = 0, 0.0
        for end, step in enumerate(steps.tolist(), start=1):
            travelled += step
            if travelled >= delta:
                pairs.append((start, end))
                start, travelled = end, 0.0
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _relative(first: Array, second: Array) -> Array:
    """The motions (n, 7) from the first poses to the second, in the first one's axes."""
    inverse = Rotation.from_quat(first[:, 3:]).inv()
    turn = inverse * Rotation.from_quat(second[:, 3:])
    return np.hstack([inverse.apply(second[:, :3] - first[:, :3]), turn.as_quat()])


def yaw_of(poses: Array) -> Array:
    """(N,) about z of poses (N, 7) [rad]."""
    x, y, z, w = poses[:, 3:].T
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
