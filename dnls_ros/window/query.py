"""The pose at any stamp: on the geodesic between two states, or ahead with the last twist.

Between states x_i and x_j the pose is x_i · Exp(α ξ), ξ = Log(x_i⁻¹ x_j). Its covariance is that
of the two states carried through this map, plus α(1 − α) Q for the motion in between that neither
end knows, Q being the noise of the whole interval (a Brownian bridge). Ahead of the newest state
the last twist is held and the noise grows.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dnls_ros.lie import LieGroup, local, retract


@dataclass(frozen=True, eq=False)
class Interpolated:
    """A pose (1,) and how it follows the two ends: δ = from_start · δ_i + from_end · δ_j."""

    pose: LieGroup
    from_start: Tensor
    from_end: Tensor


def interpolate(start: LieGroup, end: LieGroup, fraction: float) -> Interpolated:
    """The point at ``fraction`` of the way between two elements (1,); Jacobians (t, t)."""
    group = type(start)
    xi = local(start, end)
    pose = retract(start, fraction * xi)
    # Exp(αξ) moves by J_r(αξ)·α·dξ, and dξ = J_r⁻¹(ξ) δ_j − J_r⁻¹(−ξ) δ_i; the start itself is
    # carried by Ad(Exp(−αξ)).
    gain = fraction * group.right_jacobian(fraction * xi)
    from_end = gain @ group.right_jacobian_inverse(xi)
    carried = group.exp(-fraction * xi).adjoint()
    from_start = carried - gain @ group.right_jacobian_inverse(-xi)
    return Interpolated(pose, from_start[0], from_end[0])


def extrapolate(start: LieGroup, twist: Tensor, seconds: float) -> tuple[LieGroup, Tensor]:
    """The element (1,) after holding ``twist`` (1, t) for ``seconds``.

    With it its Jacobian (t, t) by the start.
    """
    moved = twist * seconds
    return retract(start, moved), type(start).exp(-moved).adjoint()[0]
