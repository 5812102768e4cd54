"""Costs of geometry: points on planes, and motion seen from frames that move themselves.

The local difference of two elements is `dnls_ros.costs.pose.prior` (to a known one) and
`dnls_ros.costs.motion.random_walk` (of two variables).
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from dnls_ros.costs.frames import in_space, of_carrier, own_columns, to_child
from dnls_ros.costs.pose import log_jacobian
from dnls_ros.lie import SE2, SE3, LieGroup, local
from dnls_ros.problem import cost

Group = TypeVar("Group", bound=LieGroup)


@cost(batched=True)
def point_to_plane(x: SE2 | SE3, p_body: Tensor, p_world: Tensor, normal: Tensor) -> Tensor:
    """The distance (…, 1) [m] of a body's point from a plane: r = nᵀ(x p_body − p_world).

    In two dimensions, from a line. Chen and Medioni, *Object modelling by registration of multiple
    range images*, 1992.

    Args:
        x: The body's pose; a planar one is lifted to z = 0 for points in space.
        p_body: (…, 3) or, all of them planar, (…, 2) [m].
        p_world: A point of the plane [m].
        normal: The plane's normal, of unit length.
    """
    body = in_space(x) if p_body.shape[-1] == 3 else x
    return (normal * (body.act(p_body) - p_world)).sum(-1, keepdim=True)


@point_to_plane.jacobians
def _point_to_plane_jacobians(
    x: SE2 | SE3, p_body: Tensor, p_world: Tensor, normal: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    body = in_space(x) if p_body.shape[-1] == 3 else x
    row = normal.unsqueeze(-2)
    in_body = to_child(body, row)
    of_body = of_carrier(in_body, p_body)
    if p_body.shape[-1] == 3:
        of_body = own_columns(x, of_body)
    apart = (body.act(p_body) - p_world).unsqueeze(-2)
    return of_body, in_body, -row, apart


@cost(batched=True)
def moving_frame_between(
    frame_i: Group, frame_j: Group, x_i: Group, x_j: Group, z: Group
) -> Tensor:
    """A known motion of x relative to a frame that moves too.

    r = Log(z⁻¹ a⁻¹ b) with a = frame_i⁻¹ x_i and b = frame_j⁻¹ x_j: the difference of two poses
    that were each seen from the frame (a hand's motion on an object that is pushed meanwhile). The
    Jacobians are exact for residuals of any size, with J_r⁻¹(r) and the adjoints of b and a⁻¹ b.
    """
    return local(z, frame_i.between(x_i).between(frame_j.between(x_j)))


@moving_frame_between.linearization
def _moving_frame_between_linearized(
    frame_i: Group, frame_j: Group, x_i: Group, x_j: Group, z: Group
) -> tuple[Tensor, tuple[Tensor, ...]]:
    seen = frame_j.between(x_j)
    relative = frame_i.between(x_i).between(seen)
    xi = local(z, relative)
    right = log_jacobian(x_j, xi)
    of_frame = right @ seen.inverse().adjoint()
    return xi, (of_frame, -of_frame, -(right @ relative.inverse().adjoint()), right)
