"""Costs that tie states of one body at neighbouring times: velocities and motion models.

Velocities are body twists (v, ω) [m/s, rad/s], tangent vectors of the pose; durations are in
seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.costs.pose import difference_jacobians
from dnls_ros.lie import Element, local
from dnls_ros.problem import SquareRootInformation, cost
from dnls_ros.problem.checks import check_positive


@cost(batched=True)
def random_walk(x_i: Element, x_j: Element) -> Tensor:
    """The body hardly moves: r = Log(x_i⁻¹ x_j), of standard deviation σ √dt."""
    return local(x_i, x_j)


@random_walk.jacobians
def _random_walk_jacobians(x_i: Element, x_j: Element) -> tuple[Tensor, Tensor]:
    return difference_jacobians(x_i, x_j)


@cost(batched=True)
def body_twist(x_i: Element, x_j: Element, dt: Tensor, twist: Tensor) -> Tensor:
    """A measured mean body twist between two poses: r = Log(x_i⁻¹ x_j) / dt − twist."""
    return local(x_i, x_j) / dt[..., None] - twist


@body_twist.jacobians
def _body_twist_jacobians(
    x_i: Element, x_j: Element, dt: Tensor, twist: Tensor
) -> tuple[Tensor, Tensor]:
    of_i, of_j = difference_jacobians(x_i, x_j)
    return of_i / dt[..., None, None], of_j / dt[..., None, None]


@cost(batched=True)
def velocity_prior(v: Tensor, z: Tensor) -> Tensor:
    """A known body twist: r = v − z."""
    return v - z


@velocity_prior.jacobians
def _velocity_prior_jacobians(v: Tensor, z: Tensor) -> tuple[Tensor]:
    return (_scaled_identity(v, torch.ones_like(v[..., 0])),)


@cost(batched=True)
def constant_velocity(x_i: Element, v_i: Tensor, x_j: Element, v_j: Tensor, dt: Tensor) -> Tensor:
    """The body keeps its twist: r = (Log(x_i⁻¹ x_j) − v_i dt ; v_j − v_i).

    The noise is white acceleration, `constant_velocity_noise` (Barfoot, *State Estimation for
    Robotics*, 2nd ed., §11.1.4).
    """
    moved, faster = torch.broadcast_tensors(local(x_i, x_j) - v_i * dt[..., None], v_j - v_i)
    return torch.cat([moved, faster], -1)


@constant_velocity.jacobians
def _constant_velocity_jacobians(
    x_i: Element, v_i: Tensor, x_j: Element, v_j: Tensor, dt: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_i, of_j = difference_jacobians(x_i, x_j)
    one = _scaled_identity(v_i, torch.ones_like(v_i[..., 0]))
    of_i, of_j, one, span = torch.broadcast_tensors(of_i, of_j, one, _scaled_identity(v_i, dt))
    zero = torch.zeros_like(of_i)
    return (
        torch.cat([of_i, zero], -2),
        -torch.cat([span, one], -2),
        torch.cat([of_j, zero], -2),
        torch.cat([zero, one], -2),
    )


def _scaled_identity(v: Tensor, scale: Tensor) -> Tensor:
    eye = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
    return scale[..., None, None] * eye


def constant_velocity_noise(sigma: Tensor, dt: Tensor) -> SquareRootInformation:
    """The noise of `constant_velocity`: white acceleration, integrated over the interval.

    Q = [[dt³/3, dt²/2], [dt²/2, dt]] ⊗ diag(σ²); its inverse is factored in closed form.

    Args:
        sigma: (…, t) noise density of the velocity, per √s.
        dt: (…) [s].

    Raises:
        DnlsError: One of them is not positive and finite.
    """
    check_positive("constant_velocity_noise: sigma", sigma)
    check_positive("constant_velocity_noise: dt", dt)
    eye = torch.eye(sigma.shape[-1], dtype=sigma.dtype, device=sigma.device)
    return integrated_noise(eye / (sigma * dt[..., None].sqrt()).unsqueeze(-2), dt)


def integrated_noise(velocity: Tensor, dt: Tensor) -> SquareRootInformation:
    """White noise on a velocity, integrated to a pose: Q = [[dt²/3, dt/2], [dt/2, 1]] ⊗ Q_v.

    Args:
        velocity: (…, t, t) the factor of Q_v⁻¹, the information of the velocity after ``dt``.
        dt: (…) [s].
    """
    pose = 12**0.5 * velocity / dt[..., None, None]
    top = torch.cat([pose, -(3**0.5) * velocity], -1)
    return SquareRootInformation(
        torch.cat([top, torch.cat([torch.zeros_like(pose), velocity], -1)], -2)
    )
