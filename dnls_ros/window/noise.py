"""Whose noise is believed: the message's covariance, as it is or scaled, or the given sigma.

Messages carry covariances that are zero (unknown, REP-145), −1 in the first entry (absent), not
symmetric, not positive definite, or absurd. Each ends in a usable covariance or in one reason.
"""

from __future__ import annotations

import numpy as np

from dnls_ros.window.bodies import Array
from dnls_ros.window.config import SensorConfig
from dnls_ros.window.measurements import Reason

LARGEST_VARIANCE = 1e6
"""Above it an axis counts as unmeasured [m², rad²]: drivers write 1e9 … 1e12 for «ignore»."""
LARGEST_ENTRY = 1e30
"""Above it an entry says nothing more, and sums of such would overflow."""
ASYMMETRY = 1e-3
"""Largest accepted |Σ − Σᵀ| relative to the largest entry."""

LEAST_EIGENVALUE = 1e-12
"""Of a matrix of correlations; below it rounding decides whether it is positive definite."""

Bad = tuple[Reason, str]
INDEFINITE: Bad = (Reason.BAD_COVARIANCE, "covariance is not positive definite")


def covariance_of(sensor: SensorConfig, given: Array | None, axes: tuple[int, ...]) -> Array | Bad:
    """The covariance (k, k) to use for a sensor's measured axes, or why there is none.

    Args:
        sensor: Its policy, sigma, floor and scale.
        given: The message's covariance (6, 6), or None.
        axes: Which of its rows are measured.
    """
    if sensor.covariance == "fixed" or given is None:
        return _fixed(sensor, len(axes))
    chosen = np.asarray(given, dtype=np.float64)[np.ix_(axes, axes)]
    if is_absent(given, axes):
        if sensor.on_zero_covariance == "use_fixed" and sensor.sigma:
            return _fixed(sensor, len(axes))
        kind = "all zero (unknown)" if not chosen.any() else "marked absent by −1"
        return (
            Reason.BAD_COVARIANCE,
            f"covariance is {kind}; set sigma and covariance: fixed for sensor '{sensor.name}'",
        )
    if not np.isfinite(chosen).all():
        return Reason.NOT_FINITE, f"covariance is not finite: diagonal {np.diag(chosen).tolist()}"
    scale = sensor.covariance_scale if sensor.covariance == "scaled" else 1.0
    return _checked(sensor, scale * chosen)


def is_absent(given: Array | None, axes: tuple[int, ...]) -> bool:
    """Whether a message says nothing of the noise of these axes: no covariance, zeros, a −1."""
    if given is None or given[0, 0] == -1.0:
        return True
    return not np.asarray(given)[np.ix_(axes, axes)].any()


def is_definite(covariance: Array) -> bool:
    """Whether a covariance stays positive definite whatever is rounded on the way."""
    diagonal = np.diag(covariance)
    if not (diagonal > 0).all():
        return False
    scale = np.sqrt(diagonal)
    return bool(np.linalg.eigvalsh(covariance / np.outer(scale, scale))[0] >= LEAST_EIGENVALUE)


def _fixed(sensor: SensorConfig, count: int) -> Array | Bad:
    if len(sensor.sigma) != count:
        return Reason.BAD_COVARIANCE, (
            f"no covariance in the message and sensor '{sensor.name}' has "
            f"{len(sensor.sigma)} sigmas for {count} axes"
        )
    return np.diag(np.square(sensor.sigma))


def _checked(sensor: SensorConfig, covariance: Array) -> Array | Bad:
    covariance = np.clip(covariance, -LARGEST_ENTRY, LARGEST_ENTRY)
    largest = np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > ASYMMETRY * largest:
        return Reason.BAD_COVARIANCE, "covariance is not symmetric"
    symmetric = 0.5 * (covariance + covariance.T)
    diagonal = np.diag(symmetric)
    if (diagonal < 0).any():
        return Reason.BAD_COVARIANCE, f"covariance has a negative variance: {diagonal.tolist()}"
    huge = diagonal > LARGEST_VARIANCE
    symmetric[huge, :] = 0.0
    symmetric[:, huge] = 0.0
    symmetric[huge, huge] = LARGEST_VARIANCE
    floor = np.square(np.broadcast_to(sensor.sigma_floor, diagonal.shape))
    raised = symmetric + np.diag(np.maximum(floor - np.diag(symmetric), 0.0))
    return raised if is_definite(raised) else INDEFINITE
