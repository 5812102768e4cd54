"""The cost of a point landmark whose position a sensor measures, on a plane or in space."""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.costs.frames import of_viewer, seen_from, to_parent
from dnls_ros.lie import SE2, SE3
from dnls_ros.problem import cost


@cost(batched=True)
def seen_point(
    world_T_body: SE2 | SE3, p_world: Tensor, body_T_sensor: SE2 | SE3, z: Tensor
) -> Tensor:
    """A measured position: r = (world_T_body · body_T_sensor)⁻¹ p_world − z [m].

    Args:
        world_T_body: The body's pose.
        p_world: (…, 2) for SE(2), (…, 3) for SE(3) [m].
        body_T_sensor: The extrinsic, of the same group.
        z: Like the point, in the sensor's axes [m].
    """
    return seen_from(body_T_sensor, seen_from(world_T_body, p_world)) - z


@seen_point.jacobians
def _seen_point_jacobians(
    world_T_body: SE2 | SE3, p_world: Tensor, body_T_sensor: SE2 | SE3, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    p_body = seen_from(world_T_body, p_world)
    p_sensor = seen_from(body_T_sensor, p_body)
    n = p_world.shape[-1]
    rows = torch.eye(n, dtype=z.dtype, device=z.device).expand(*p_sensor.shape, n)
    in_body = to_parent(body_T_sensor, rows)
    return (
        of_viewer(in_body, p_body),
        to_parent(world_T_body, in_body),
        of_viewer(rows, p_sensor),
    )
