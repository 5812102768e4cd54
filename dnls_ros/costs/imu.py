"""Costs of inertial units: how a body is tilted, whatever way it heads."""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.lie import SE3
from dnls_ros.lie.manifold import hat3
from dnls_ros.problem import cost


@cost(batched=True)
def tilt(x: SE3, up: Tensor) -> Tensor:
    """A known direction of up: r = (−u_y, u_x) with u = R · up, seen from the world.

    A body that is turned by a small δ about the world's axes too far has u = e_z + δ × e_z, so the
    residual is the error of roll and pitch [rad] about the world's x and y. Its heading is free.

    Args:
        x: The body's pose.
        up: (…, 3) the unit vector up in the body's axes.
    """
    u = x.rotation.act(up)
    return torch.stack([-u[..., 1], u[..., 0]], -1)


@tilt.jacobians
def _tilt_jacobians(x: SE3, up: Tensor) -> tuple[Tensor]:
    turned = -x.rotation.matrix() @ hat3(up)  # R Exp(ω) up = R up − R [up]× ω
    rows = torch.stack([-turned[..., 1, :], turned[..., 0, :]], -2)
    return (torch.cat([torch.zeros_like(rows), rows], -1),)
