"""Do the covariances tell the truth? The normalized estimation error squared (NEES).

With the error ξ = Log(estimate⁻¹ · truth) in the body's tangent and the claimed covariance Σ, the
NEES ξᵀ Σ⁻¹ ξ of a consistent estimate has mean d, the number of degrees of freedom (Bar-Shalom,
Li, Kirubarajan, "Estimation with Applications to Tracking and Navigation", 2001, section 5.4).

Errors at neighbouring instants are correlated, so n instants are worth fewer independent ones. For
a whitened Gaussian component with autocorrelation ρ(k) the variance of the mean of its square is
larger by τ = 1 + 2 Σ ρ(k)²; the χ² interval is that of n·d / mean(τ) degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from dnls_ros.errors import DnlsError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Consistency:
    """The mean NEES per degree of freedom and the interval where 95 % of honest estimates lie.

    Attributes:
        mean: Mean NEES / d; 1 is honest, above is overconfident, below timid.
        interval: 95 % χ² interval of the mean for ``equivalent_dof`` degrees of freedom.
        interval_independent: The same, were all instants independent.
        instants: Number of instants n.
        dof: Degrees of freedom d of one pose.
        equivalent_dof: What the n·d correlated numbers are worth.
    """

    mean: float
    interval: tuple[float, float]
    interval_independent: tuple[float, float]
    instants: int
    dof: int
    equivalent_dof: float

    @property
    def inside(self) -> bool:
        """The mean lies in its interval."""
        return self.interval[0] <= self.mean <= self.interval[1]


def pose_errors(estimate: Array, reference: Array) -> Array:
    """Tangents ξ (n, 6) = (v, ω) with reference = estimate · Exp(ξ), in the body's axes.

    Args:
        estimate, reference: Poses (n, 7) as x y z qx qy qz qw.
    """
    inverse = Rotation.from_quat(estimate[:, 3:]).inv()
    turn = (inverse * Rotation.from_quat(reference[:, 3:])).as_rotvec()
    shift = inverse.apply(reference[:, :3] - estimate[:, :3])
    return np.hstack([_left_jacobian_inverse(turn, shift), turn])


def _left_jacobian_inverse(turn: Array, shift: Array) -> Array:
    """V(ω)⁻¹ t for rotation vectors (n, 3), which makes (v, ω) the logarithm of (t, ω)."""
    angle = np.linalg.norm(turn, axis=1, keepdims=True)
    half = angle / 2
    small = angle < 1e-4
    safe = np.where(small, 1.0, half)
    weight = np.where(small, 1 / 12, (1 - safe / np.tan(safe)) / (4 * safe**2))
    cross = np.cross(turn, shift)
    return shift - cross / 2 + weight * np.cross(turn, cross)


def measured_axes(covariances: Array) -> tuple[int, ...]:
    """The tangent axes whose variance is positive at every instant; planar ones are three."""
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    return tuple(np.flatnonzero(np.all(variances > 0, axis=0)).tolist())


def whiten(errors: Array, covariances: Array, axes: Sequence[int]) -> Array:
    """Errors (n, d) along ``axes``, divided by the Cholesky factors of their covariances.

    Args:
        errors: Tangents (n, 6).
        covariances: Of the tangents (n, 6, 6).
        axes: Which of the six axes, in order.

    Raises:
        DnlsError: No axis is left, or a covariance is not finite and positive definite.
    """
    chosen = list(axes)
    if not chosen:
        raise DnlsError("NEES: no axis has a positive variance at every instant; nothing to test")
    blocks = covariances[:, chosen][:, :, chosen]
    try:
        factors = np.linalg.cholesky(blocks)
    except np.linalg.LinAlgError:
        factors = np.full_like(blocks, np.nan)
    if not np.all(np.isfinite(factors)):
        raise DnlsError(
            f"NEES: a covariance of axes {chosen} is not finite and positive definite; "
            "choose the axes that are estimated (0 … 5 = x y z roll pitch yaw)"
        )
    return np.linalg.solve(factors, errors[:, chosen, None])[..., 0].astype(np.float64)


def consistency(whitened: Array) -> Consistency:
    """The mean NEES per degree of freedom of whitened errors (n, d), in the order of time."""
    instants, dof = whitened.shape
    stretch = float(np.mean([_stretch(whitened[:, axis]) for axis in range(dof)]))
    mean = float(np.mean(whitened**2))
    return _consistency(mean, instants, dof, instants * dof / stretch)


def pool(parts: Sequence[Consistency]) -> Consistency:
    """Several independent runs of the same kind taken as one."""
    instants = sum(part.instants for part in parts)
    mean = sum(part.mean * part.instants for part in parts) / instants
    return _consistency(mean, instants, parts[0].dof, sum(part.equivalent_dof for part in parts))


def _consistency(mean: float, instants: int, dof: int, equivalent: float) -> Consistency:
    independent = _mean_interval(float(instants * dof))
    return Consistency(mean, _mean_interval(equivalent), independent, instants, dof, equivalent)


def _mean_interval(dof: float) -> tuple[float, float]:
    low, high = chi2.ppf([0.025, 0.975], dof) / dof
    return float(low), float(high)


def _stretch(series: Array) -> float:
    """1 + 2 Σ ρ(k)² of a series about zero, up to where ρ drowns in its noise."""
    count, power = len(series), float(series @ series)
    total = 1.0
    for lag in range(1, count // 2):
        rho = float(series[:-lag] @ series[lag:]) / power if power > 0 else 0.0
        if rho < 2 / np.sqrt(count):
            break
        total += 2 * rho**2
    return total
