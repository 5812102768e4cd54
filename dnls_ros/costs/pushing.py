"""Quasi-static pushing in the plane: how an object follows the tip that sticks to it."""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.costs.contact import tip_center, tip_columns
from dnls_ros.costs.frames import of_viewer, seen_from, to_child, to_parent
from dnls_ros.costs.pose import difference_jacobians
from dnls_ros.lie import SE2, local
from dnls_ros.lie.so2 import quarter_turn
from dnls_ros.problem import cost


@cost(batched=True)
def quasi_static_push(
    object_i: SE2, object_j: SE2, tip_i: SE2 | Tensor, tip_j: SE2 | Tensor, c: Tensor
) -> Tensor:
    """Pushing without sliding on an ellipsoidal limit surface, (…, 3) [m].

    With p = object⁻¹ tip, (v, ω) = Log(object_i⁻¹ object_j) and (x, y) the mean of p_i and p_j:

        r = (p_j − p_i ;  (x v_y − y v_x)/c − c ω)

    The contact stays where it is on the object, and the twist is normal to the limit surface
    f² + (m/c)² = const for the force f at the contact and its moment m = x f_y − y f_x: v ∥ f,
    c² ω ∥ m (Lynch, Maekawa and Tanie, *Manipulation and active sensing by pushing using tactile
    feedback*, IROS 1992; Zhou et al., ICRA 2016, for convex limit surfaces). Both are
    written in the object's axes: the residual is zero for a constant twist of any length.

    Args:
        object_i: The object's pose; its origin is the centre of friction.
        object_j: After the motion.
        tip_i: The tip's pose, or the contact point (…, 2) in the world [m].
        tip_j: After the motion.
        c: (…, 1) largest frictional moment over largest frictional force [m]; positive.
    """
    p_i = seen_from(object_i, tip_center(tip_i))
    p_j = seen_from(object_j, tip_center(tip_j))
    v, w = local(object_i, object_j).split((2, 1), -1)
    arm = quarter_turn(0.5 * (p_i + p_j))
    return torch.cat([p_j - p_i, (arm * v).sum(-1, keepdim=True) / c - c * w], -1)


@quasi_static_push.jacobians
def _quasi_static_push_jacobians(
    object_i: SE2, object_j: SE2, tip_i: SE2 | Tensor, tip_j: SE2 | Tensor, c: Tensor
) -> tuple[Tensor, ...]:
    p_i = seen_from(object_i, tip_center(tip_i))
    p_j = seen_from(object_j, tip_center(tip_j))
    v, w = local(object_i, object_j).split((2, 1), -1)
    arm = quarter_turn(0.5 * (p_i + p_j))
    of_i, of_j = difference_jacobians(object_i, object_j)
    of_twist = torch.cat([arm / c, -c.expand_as(w)], -1).unsqueeze(-2)
    # arm · v = −(mean p) · (quarter turn of v)
    half = -0.5 * quarter_turn(v) / c
    eye = torch.eye(2, dtype=v.dtype, device=v.device).expand(*half.shape, 2)
    of_p_i = torch.cat([-eye, half.unsqueeze(-2)], -2)
    of_p_j = torch.cat([eye, half.unsqueeze(-2)], -2)

    def of_object(rows: Tensor, p: Tensor, of_pose: Tensor) -> Tensor:
        moment = of_twist @ of_pose
        return of_viewer(rows, p) + torch.cat([torch.zeros_like(of_pose[..., :2, :]), moment], -2)

    def of_tip(x: SE2, tip: SE2 | Tensor, rows: Tensor) -> Tensor:
        return tip_columns(tip, to_parent(x, rows))

    along = -(arm * v).sum(-1, keepdim=True) / (c * c) - w
    return (
        of_object(of_p_i, p_i, of_i),
        of_object(of_p_j, p_j, of_j),
        of_tip(object_i, tip_i, of_p_i),
        of_tip(object_j, tip_j, of_p_j),
        torch.cat([torch.zeros_like(v), along], -1).unsqueeze(-1),
    )


@cost(batched=True)
def push_along_force(object_i: SE2, object_j: SE2, ee_j: SE2, force: Tensor) -> Tensor:
    """The centre of friction moves along the force: r = f × (p_j − p_i), (…, 1) [m].

    What an ellipsoidal limit surface says beyond `quasi_static_push` once the force is measured
    (Lynch, Maekawa and Tanie, IROS 1992, v ∥ f); it holds whether or not the contact slides. The
    chord between two places has the direction of the velocity half way.

    Args:
        object_i: The object's pose; its origin p_i is the centre of friction.
        object_j: After the motion.
        ee_j: The end effector's, after the motion.
        force: (…, 2) direction of the mean force during the motion in its axes, of unit length,
            either way.
    """
    along = ee_j.rotation.act(force)
    moved = object_j.translation - object_i.translation
    return _cross(along, moved)


@push_along_force.jacobians
def _push_along_force_jacobians(
    object_i: SE2, object_j: SE2, ee_j: SE2, force: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    along = ee_j.rotation.act(force)
    moved = object_j.translation - object_i.translation
    row = quarter_turn(along).unsqueeze(-2)
    turn = _cross(quarter_turn(along), moved).unsqueeze(-1)
    none = torch.zeros_like(turn)
    return (
        torch.cat([to_child(object_i, -row), none], -1),
        torch.cat([to_child(object_j, row), none], -1),
        torch.cat([torch.zeros_like(row), turn], -1),
    )


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """(…, 1)."""
    return (quarter_turn(a) * b).sum(-1, keepdim=True)
