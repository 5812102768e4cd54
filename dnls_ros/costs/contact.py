"""Contact in the plane: a round fingertip on the surface of an object."""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.costs.distance_field import DistanceField
from dnls_ros.costs.frames import of_carrier, of_viewer, seen_from, to_child, to_parent
from dnls_ros.lie import SE2
from dnls_ros.lie.so2 import quarter_turn
from dnls_ros.problem import cost


@cost(batched=True)
def contact_in_plane(
    world_T_object: SE2, world_T_tip: SE2 | Tensor, radius: Tensor, shape: DistanceField
) -> Tensor:
    """The tip touches the object: r = d(object⁻¹ tip) − radius, (…, 1) [m].

    Positive where they are apart, negative where they overlap (Sodhi et al., *Learning tactile
    models for factor graph-based estimation*, ICRA 2021, the geometry factor).

    Args:
        world_T_object: The object's pose.
        world_T_tip: The tip's pose, or its centre (…, 2) [m].
        radius: (…, 1) the tip's [m].
        shape: The object's distance field, in its own axes. A tip outside of it has no distance:
            the residual is NaN, so that a minimization does not go there, and cannot begin there.
    """
    distance, _ = shape.inside(seen_from(world_T_object, tip_center(world_T_tip)).unsqueeze(-2))
    return distance - radius


@contact_in_plane.jacobians
def _contact_in_plane_jacobians(
    world_T_object: SE2, world_T_tip: SE2 | Tensor, radius: Tensor, shape: DistanceField
) -> tuple[Tensor, Tensor, Tensor]:
    p = seen_from(world_T_object, tip_center(world_T_tip))
    _, in_object = shape.inside(p.unsqueeze(-2))
    of_tip = tip_columns(world_T_tip, to_parent(world_T_object, in_object))
    return of_viewer(in_object, p), of_tip, -torch.ones_like(in_object[..., :1])


@cost(batched=True)
def contact_point(
    world_T_object: SE2, world_T_ee: SE2, p_ee: Tensor, radius: Tensor, shape: DistanceField
) -> Tensor:
    """A point of the end effector touches the object: r = d(object⁻¹ ee p) − radius, (…, 1) [m].

    As `contact_in_plane`, for a tip that is not the origin of its frame.

    Args:
        world_T_object: The object's pose.
        world_T_ee: The end effector's.
        p_ee: (…, 2) the centre of the tip in its frame [m].
        radius: (…, 1) the tip's; 0 for the point of contact itself [m].
        shape: The object's distance field; outside of it the residual is NaN.
    """
    distance, _ = shape.inside(_carried(world_T_object, world_T_ee, p_ee).unsqueeze(-2))
    return distance - radius


@contact_point.jacobians
def _contact_point_jacobians(
    world_T_object: SE2, world_T_ee: SE2, p_ee: Tensor, radius: Tensor, shape: DistanceField
) -> tuple[Tensor, Tensor]:
    p = _carried(world_T_object, world_T_ee, p_ee)
    _, in_object = shape.inside(p.unsqueeze(-2))
    in_ee = to_child(world_T_ee, to_parent(world_T_object, in_object))
    return of_viewer(in_object, p), of_carrier(in_ee, p_ee)


@cost(batched=True)
def contact_normal(
    world_T_object: SE2, world_T_ee: SE2, p_ee: Tensor, force: Tensor, shape: DistanceField
) -> Tensor:
    """The line of a force at a contact is normal to the surface: r = ∇d × f, (…, 1) [rad].

    The sine of the angle between both, whichever way the force points; within a cone of friction
    it is no more than the coefficient of friction.

    Args:
        world_T_object: The object's pose.
        world_T_ee: The end effector's.
        p_ee: (…, 2) the point of contact in its frame [m].
        force: (…, 2) direction of the force there, unit length.
        shape: The object's distance field; outside of it the residual is NaN.
    """
    p = _carried(world_T_object, world_T_ee, p_ee).unsqueeze(-2)
    _, normal = shape.inside(p)
    along = _turned(world_T_object, world_T_ee, force)
    return (quarter_turn(normal) * along.unsqueeze(-2)).sum(-1)


@contact_normal.jacobians
def _contact_normal_jacobians(
    world_T_object: SE2, world_T_ee: SE2, p_ee: Tensor, force: Tensor, shape: DistanceField
) -> tuple[Tensor, Tensor]:
    p = _carried(world_T_object, world_T_ee, p_ee)
    along = _turned(world_T_object, world_T_ee, force)
    _, normal = shape.inside(p.unsqueeze(-2))
    # Within a cell the field is bilinear: its second derivative is the mixed one alone.
    mixed = shape.mixed(p.unsqueeze(-2)).unsqueeze(-1)
    in_object = mixed * torch.stack([-along[..., 0], along[..., 1]], -1).unsqueeze(-2)
    in_ee = to_child(world_T_ee, to_parent(world_T_object, in_object))
    turning = (normal * along.unsqueeze(-2)).sum(-1, keepdim=True)
    turn = torch.cat([torch.zeros_like(normal), turning], -1)
    return of_viewer(in_object, p) - turn, of_carrier(in_ee, p_ee) + turn


def _carried(world_T_object: SE2, world_T_ee: SE2, p_ee: Tensor) -> Tensor:
    """A point (…, 2) of the end effector in the object's axes."""
    return seen_from(world_T_object, world_T_ee.act(p_ee))


def _turned(world_T_object: SE2, world_T_ee: SE2, direction: Tensor) -> Tensor:
    """A direction (…, 2) of the end effector in the object's axes."""
    turned = world_T_ee.rotation.act(direction)
    return world_T_object.rotation.inverse().act(turned)


def tip_columns(tip: SE2 | Tensor, rows: Tensor) -> Tensor:
    """The Jacobian of a tip: ``rows`` (…, r, 2) are the derivative by its centre, world axes."""
    if isinstance(tip, Tensor):
        return rows
    turned = to_child(tip, rows)
    return torch.cat([turned, torch.zeros_like(turned[..., :1])], -1)


def tip_center(tip: SE2 | Tensor) -> Tensor:
    """The centre (…, 2) of a tip that is given by its pose or by its centre [m]."""
    return tip if isinstance(tip, Tensor) else tip.translation
