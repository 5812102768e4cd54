"""How far an estimated trajectory is from a reference: ATE, RPE, yaw, NEES, coverage.

Poses of the two trajectories are paired by stamp and the estimate is aligned; the figures are
those of ``dnls_ros.io.metrics`` and ``dnls_ros.io.consistency``. Covariances are of the body's
tangent (right perturbation), which no rigid alignment changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnls_ros.io.alignment import AlignMode, align
from dnls_ros.io.association import associate, interpolate
from dnls_ros.io.consistency import Consistency, consistency, measured_axes, pose_errors, whiten
from dnls_ros.io.metrics import (
    ErrorStatistics,
    RelativeError,
    RpeUnit,
    ate,
    distant_pairs,
    rpe,
    statistics,
    yaw_errors,
)
from dnls_ros.io.trajectory import Trajectory

__all__ = [
    "ErrorSeries",
    "Evaluation",
    "EvaluationOptions",
    "associate",
    "ate",
    "coverage",
    "evaluate",
    "interpolate",
    "rpe",
]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class EvaluationOptions:
    """What ``evaluate`` does.

    Attributes:
        max_diff: Largest difference of stamps in a pair [s].
        align: See ``dnls_ros.io.alignment.align``.
        rpe_delta, rpe_unit: Distance of the relative error in frames, seconds or metres of path.
        interpolate: Compare with the reference interpolated at the estimate's stamps, between
            reference poses at most ``2 · max_diff`` apart, instead of with the nearest one.
        nees_axes: Tangent axes (0 … 5) of the NEES; None takes those with positive variance.
        max_gap: Estimates further apart leave the time between them uncovered [s].
    """

    max_diff: float = 0.01
    align: AlignMode = "none"
    rpe_delta: float = 1.0
    rpe_unit: RpeUnit = "s"
    interpolate: bool = False
    nees_axes: tuple[int, ...] | None = None
    max_gap: float = 0.5


@dataclass(frozen=True, eq=False)
class ErrorSeries:
    """The errors over time, for plots.

    Attributes:
        stamps: Of the compared poses (n,) [ns].
        estimate, reference: The compared poses (n, 7), the estimate aligned.
        errors: Tangents (n, 6) in the body's axes with reference = estimate · Exp(error).
        sigmas: Claimed standard deviations (n, 6), or None.
        nees: NEES per degree of freedom (n,), or None.
    """

    stamps: Indices
    estimate: Array
    reference: Array
    errors: Array
    sigmas: Array | None
    nees: Array | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All figures of one estimate against one reference.

    Attributes:
        poses: Number of compared poses.
        translation: Absolute position error [m].
        rotation: Absolute rotation angle [rad].
        yaw: Absolute value of the yaw error [rad].
        relative: Relative error over the options' distance, or None where no pair is that far
            apart.
        consistency: NEES, or None where the estimate has no covariances or was scaled.
        coverage: Share of the reference's time in which there is an estimate.
        scale: Of the alignment.
        series: The errors over time.
        options: What was asked.
    """

    poses: int
    translation: ErrorStatistics
    rotation: ErrorStatistics
    yaw: ErrorStatistics
    relative: RelativeError | None
    consistency: Consistency | None
    coverage: float
    scale: float
    series: ErrorSeries
    options: EvaluationOptions

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain numbers, for JSON."""
        relative, nees = self.relative, self.consistency
        return {
            "poses": self.poses,
            "align": self.options.align,
            "scale": self.scale,
            "coverage": self.coverage,
            "ate_rmse_m": self.translation.rmse,
            "ate_mean_m": self.translation.mean,
            "ate_median_m": self.translation.median,
            "ate_p90_m": self.translation.p90,
            "ate_max_m": self.translation.max,
            "are_rmse_rad": self.rotation.rmse,
            "are_max_rad": self.rotation.max,
            "yaw_rmse_rad": self.yaw.rmse,
            "yaw_max_rad": self.yaw.max,
            "rpe_delta": self.options.rpe_delta,
            "rpe_unit": self.options.rpe_unit,
            "rpe_translation_rmse_m": relative.translation.rmse if relative else None,
            "rpe_rotation_rmse_rad": relative.rotation.rmse if relative else None,
            "nees_per_dof": nees.mean if nees else None,
            "nees_interval_95": list(nees.interval) if nees else None,
            "nees_interval_95_independent": list(nees.interval_independent) if nees else None,
            "nees_equivalent_dof": nees.equivalent_dof if nees else None,
            "nees_inside": nees.inside if nees else None,
        }


def evaluate(
    estimate: Trajectory, reference: Trajectory, options: EvaluationOptions | None = None
) -> Evaluation:
    """All figures of an estimate against a reference.

    Raises:
        DnlsError: No two stamps are close enough, or an option is wrong.
    """
    options = options or EvaluationOptions()
    pair = interpolate if options.interpolate else associate
    est, ref = pair(estimate, reference, options.max_diff)
    fit = align(est.poses[:, :3], ref.poses[:, :3], options.align)
    est = replace(est, poses=fit.apply(est.poses))
    series, nees = _series(est, ref, options)
    return Evaluation(
        poses=len(est.stamps),
        translation=statistics(np.linalg.norm(est.poses[:, :3] - ref.poses[:, :3], axis=1)),
        rotation=statistics(np.linalg.norm(series.errors[:, 3:], axis=1)),
        yaw=statistics(np.abs(yaw_errors(est.poses, ref.poses))),
        relative=_relative_if_any(est, ref, options),
        consistency=nees,
        coverage=coverage(estimate, reference, options.max_gap),
        scale=fit.scale,
        series=series,
        options=options,
    )


def coverage(estimate: Trajectory, reference: Trajectory, max_gap: float = 0.5) -> float:
    """Share of the reference's time that lies between estimates at most ``max_gap`` [s] apart."""
    begin, end = int(reference.stamps[0]), int(reference.stamps[-1])
    inside = np.clip(estimate.stamps, begin, end)
    dense = np.diff(estimate.stamps) <= round(max_gap * 1e9)
    covered = int(np.sum(np.diff(inside)[dense]))
    return covered / (end - begin) if end > begin else float(len(estimate.stamps) > 0)


def _series(
    est: Trajectory, ref: Trajectory, options: EvaluationOptions
) -> tuple[ErrorSeries, Consistency | None]:
    errors = pose_errors(est.poses, ref.poses)
    sigmas = nees = result = None
    if est.covariances is not None and options.align != "sim3":
        axes = options.nees_axes or measured_axes(est.covariances)
        whitened = whiten(errors, est.covariances, axes)
        sigmas = np.sqrt(np.diagonal(est.covariances, axis1=1, axis2=2))
        nees, result = np.mean(whitened**2, axis=1), consistency(whitened)
    return ErrorSeries(est.stamps, est.poses, ref.poses, errors, sigmas, nees), result


def _relative_if_any(
    est: Trajectory, ref: Trajectory, options: EvaluationOptions
) -> RelativeError | None:
    first, _ = distant_pairs(est, options.rpe_delta, options.rpe_unit, all_pairs=False)
    return rpe(est, ref, options.rpe_delta, options.rpe_unit) if len(first) else None
