"""Contact in the plane: a round fingertip on the surface of an object."""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.costs.distance_field import DistanceField
from dnls_ros.costs.frames import of_viewer, seen_from, to_child, to_parent
from dnls_ros.lie import SE2
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


def tip_columns(tip: SE2 | Tensor, rows: Tensor) -> Tensor:
    """The Jacobian of a tip: ``rows`` (…, r, 2) are the derivative by its centre, world axes."""
    if isinstance(tip, Tensor):
        return rows
    turned = to_child(tip, rows)
    return torch.cat([turned, torch.zeros_like(turned[..., :1])], -1)


def tip_center(tip: SE2 | Tensor) -> Tensor:
    """The centre (…, 2) of a tip that is given by its pose or by its centre [m]."""
    return tip if isinstance(tip, Tensor) else tip.translation
