"""Odometry of estimates, checked once more before it leaves.

Covariances are never zero and never NaN: what is unknown is huge, what a body on a plane cannot do
is nearly certain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnls_ros.io.compose import Composer
from dnls_ros.window.config import TrackConfig
from dnls_ros.window.predict import Predicted
from dnls_ros.window.results import TrackEstimate

Array = NDArray[np.float64]

UNKNOWN_VARIANCE = 1e6
"""On the diagonal where the estimator has no covariance [m², rad²]."""
LARGEST_ENTRY = 1e12
"""Of a covariance: beyond it nothing is known, and squares may overflow at the receiver."""
EXACT = 1e-15
"""A smaller variance is none [m², rad²]: readers divide by its root and multiply by its square."""
LEAST_VARIANCE = 1e-9
"""Of what is exact, such as z of a body on a plane [m², rad²]: certain, yet not zero."""


def usable_covariance(covariance: Array | None) -> Array:
    """A covariance (6, 6) fit to leave: symmetric, positive definite, finite.

    Unknown (None, not finite, immense, all zero, or with a negative variance) becomes huge; exact
    axes become nearly exact.
    """
    unknown = UNKNOWN_VARIANCE * np.eye(6)
    if covariance is None or not covariance.any():
        return unknown
    if not np.abs(covariance).max() <= LARGEST_ENTRY:  # NaN neither
        return unknown
    diagonal = np.diag(covariance)
    if diagonal.min() < -LEAST_VARIANCE:
        return unknown
    even = 0.5 * (covariance + covariance.T)
    even = even + np.diag(np.where(diagonal < EXACT, LEAST_VARIANCE - diagonal, 0.0))
    least = float(np.linalg.eigvalsh(even)[0])
    if least > 0.0:
        return even
    # Rounding, or a matrix that is no covariance: the variances are kept, and grow by the excess.
    return even + (LEAST_VARIANCE - least) * np.eye(6)


def filtered_odometry(compose: Composer, track: TrackConfig, estimate: TrackEstimate) -> Any:
    """Make the nav_msgs/Odometry of a track's newest state; None if its pose is not finite."""
    found = Predicted(
        estimate.poses[-1], estimate.covariance, estimate.twist, estimate.twist_covariance
    )
    return odometry(compose, track, int(estimate.stamps[-1]), found)


def odometry(compose: Composer, track: TrackConfig, stamp: int, found: Predicted) -> Any:
    """Make a nav_msgs/Odometry; None if the pose is not finite.

    A twist that is not finite becomes zero with an unknown covariance.
    """
    if not np.isfinite(found.pose).all():
        return None
    moves = bool(np.isfinite(found.twist).all())
    return compose.odometry(
        stamp,
        track.parent_frame,
        track.child_frame,
        found.pose,
        found.twist if moves else np.zeros(6),
        usable_covariance(found.covariance),
        usable_covariance(found.twist_covariance if moves else None),
    )
