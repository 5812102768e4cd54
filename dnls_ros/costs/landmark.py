"""The cost of range and bearing to a point landmark, on a plane or in space.

The bearing is the angle in the sensor's x-y plane, from its x axis. Its difference is taken as the
angle of one direction in the frame of the other, which is smooth where the bearing itself jumps
from π to −π.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.costs.frames import in_space, of_viewer, own_columns, seen_from, to_parent
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, SE3
from dnls_ros.lie.series import squared_norm
from dnls_ros.problem import cost

NEAREST = 1e-18  # [m²]: closer to the sensor than its root, range and bearing have no derivative


@cost(batched=True)
def range_bearing(
    world_T_body: SE2 | SE3, body_T_sensor: SE2 | SE3, p_landmark: Tensor, z: Tensor
) -> Tensor:
    """Range and bearing differences (…, 2) [m, rad] to a landmark.

    Args:
        world_T_body: The body's pose; a planar one is lifted to z = 0 for landmarks in space.
        body_T_sensor: The extrinsic.
        p_landmark: (…, 3), or (…, 2) when body and sensor are planar [m].
        z: (…, 2) the measured range [m] and bearing [rad].

    Raises:
        DnlsError: The landmark is planar but body or sensor is not.
    """
    body, sensor = _frames(world_T_body, body_T_sensor, p_landmark)
    p = seen_from(sensor, seen_from(body, p_landmark))
    distance = squared_norm(p).clamp(min=NEAREST).sqrt()
    x, y = _direction(p)
    c, s = z[..., 1:].cos(), z[..., 1:].sin()
    return torch.cat([distance - z[..., :1], torch.atan2(y * c - x * s, x * c + y * s)], -1)


@range_bearing.jacobians
def _range_bearing_jacobians(
    world_T_body: SE2 | SE3, body_T_sensor: SE2 | SE3, p_landmark: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    body, sensor = _frames(world_T_body, body_T_sensor, p_landmark)
    p_body = seen_from(body, p_landmark)
    p = seen_from(sensor, p_body)
    in_sensor = _rows(p)
    in_body = to_parent(sensor, in_sensor)
    of_body, of_sensor = of_viewer(in_body, p_body), of_viewer(in_sensor, p)
    if p.shape[-1] == 3:
        of_body, of_sensor = (
            own_columns(world_T_body, of_body),
            own_columns(body_T_sensor, of_sensor),
        )
    return of_body, of_sensor, to_parent(body, in_body)


def _frames(
    world_T_body: SE2 | SE3, body_T_sensor: SE2 | SE3, p_landmark: Tensor
) -> tuple[SE2 | SE3, SE2 | SE3]:
    if p_landmark.shape[-1] == 3:
        return in_space(world_T_body), in_space(body_T_sensor)
    if isinstance(world_T_body, SE3) or isinstance(body_T_sensor, SE3):
        raise DnlsError(
            "range_bearing: p_landmark has 2 coordinates but world_T_body is "
            f"{type(world_T_body).__name__} and body_T_sensor {type(body_T_sensor).__name__}; "
            "give landmarks in space 3 coordinates"
        )
    return world_T_body, body_T_sensor


def _direction(p: Tensor) -> tuple[Tensor, Tensor]:
    """x and y of the points; the x axis where both vanish."""
    x, y = p[..., 0:1], p[..., 1:2]
    away = x * x + y * y > NEAREST
    return torch.where(away, x, torch.ones_like(x)), torch.where(away, y, torch.zeros_like(y))


def _rows(p: Tensor) -> Tensor:
    """The derivatives (…, 2, n) of range and bearing with respect to the point."""
    square = squared_norm(p)
    range_row = p * torch.where(square > NEAREST, square, torch.inf).rsqrt()
    x, y = p[..., 0:1], p[..., 1:2]
    flat = x * x + y * y
    inverse = torch.where(flat > NEAREST, flat, torch.inf).reciprocal()
    bearing_row = torch.cat([-y * inverse, x * inverse, torch.zeros_like(p[..., 2:])], -1)
    return torch.stack([range_row, bearing_row], -2)
