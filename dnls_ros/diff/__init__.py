"""Differentiation of solutions (layer 5)."""

from dnls_ros.diff.adjoint import Adjoint, Minimizer
from dnls_ros.diff.direct_loss import DirectLoss
from dnls_ros.diff.energy import energy_loss, local_samples
from dnls_ros.diff.implicit import Implicit
from dnls_ros.diff.solve import solve
from dnls_ros.diff.unroll import Truncated, Unroll

__all__ = [
    "Adjoint",
    "DirectLoss",
    "Implicit",
    "Minimizer",
    "Truncated",
    "Unroll",
    "energy_loss",
    "local_samples",
    "solve",
]
