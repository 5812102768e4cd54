"""Motion models for planning and smoothing: double integrator, Gaussian process, wheels.

Velocities are body twists (v, ω) [m/s, rad/s] unless they say otherwise. `constant_velocity` and
its noise (`dnls_ros.costs.motion`) are the double integrator without a command.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from dnls_ros.costs.motion import constant_velocity, integrated_noise
from dnls_ros.costs.pose import difference_jacobians, log_jacobian
from dnls_ros.lie import SE2, SE3, SO2, Element, LieGroup, local
from dnls_ros.lie.series import inverse_slopes, squared_norm
from dnls_ros.problem import SquareRootInformation, cost
from dnls_ros.problem.checks import check_positive

Motion = TypeVar("Motion", SE2, SE3)


@cost(batched=True)
def double_integrator(
    x_i: Element, v_i: Tensor, x_j: Element, v_j: Tensor, a: Tensor, dt: Tensor
) -> Tensor:
    """A commanded acceleration: r = (Log(x_i⁻¹ x_j) − v_i dt − ½ a dt² ; v_j − v_i − a dt).

    Exact in a Euclidean space; on a group while the twist keeps its direction.

    Args:
        x_i: Pose or coordinates, (…, t) in the tangent.
        v_i: (…, t).
        x_j: After ``dt``.
        v_j: (…, t).
        a: (…, t) the acceleration, in body axes; known or optimized.
        dt: (…) [s].
    """
    h = dt[..., None]
    pushed = torch.cat([0.5 * a * h * h, a * h], -1)
    return constant_velocity.residual(x_i, v_i, x_j, v_j, dt) - pushed


@double_integrator.jacobians
def _double_integrator_jacobians(
    x_i: Element, v_i: Tensor, x_j: Element, v_j: Tensor, a: Tensor, dt: Tensor
) -> tuple[Tensor, ...]:
    assert constant_velocity.analytic is not None
    blocks = constant_velocity.analytic(x_i, v_i, x_j, v_j, dt)
    eye, h = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device), dt[..., None, None]
    of_a = -torch.cat([0.5 * h * h * eye, h * eye], -2)
    return *(b if isinstance(b, Tensor) else b() for b in blocks), of_a


@cost(batched=True)
def gp_motion(x_i: Element, v_i: Tensor, x_j: Element, v_j: Tensor, dt: Tensor) -> Tensor:
    """White noise on acceleration: r = (ξ − v_i dt ; J_r⁻¹(ξ) v_j − v_i) with ξ = Log(x_i⁻¹ x_j).

    The prior of a Gaussian process over ξ(t), local to x_i, whose velocity is ξ̇ = J_r⁻¹(ξ) v
    (Barfoot, *State Estimation for Robotics*, 2nd ed., §11.1.4; Anderson and Barfoot, IROS 2015).
    It differs from `constant_velocity` where a body turns between its states. Its noise is
    `white_acceleration_noise`.
    """
    xi = local(x_i, x_j)
    faster = (log_jacobian(x_i, xi) @ v_j[..., None])[..., 0] - v_i
    moved, faster = torch.broadcast_tensors(xi - v_i * dt[..., None], faster)
    return torch.cat([moved, faster], -1)


@gp_motion.jacobians
def _gp_motion_jacobians(
    x_i: Element, v_i: Tensor, x_j: Element, v_j: Tensor, dt: Tensor
) -> tuple[Tensor, ...]:
    xi = local(x_i, x_j)
    of_i, of_j = difference_jacobians(x_i, x_j)
    slope = _log_jacobian_slope(x_i, xi, v_j)
    right = log_jacobian(x_i, xi)
    eye = torch.eye(xi.shape[-1], dtype=xi.dtype, device=xi.device)
    span, right, eye = torch.broadcast_tensors(dt[..., None, None] * eye, right, eye)
    return (
        torch.cat([of_i, slope @ of_i], -2),
        -torch.cat([span, eye], -2),
        torch.cat([of_j, slope @ of_j], -2),
        torch.cat([torch.zeros_like(right), right], -2),
    )


def _log_jacobian_slope(x: Element, xi: Tensor, v: Tensor) -> Tensor:
    """∂(J_r⁻¹(ξ) v)/∂ξ, (…, t, t).

    On each of the groups J_r⁻¹(ξ) = I + ½ ad + c₂ ad² + c₄ ad⁴, where with s = θ² and
    d(s) = (1 − (θ/2) cot(θ/2))/s the coefficients are c₂ = d − s d′ and c₄ = −d′ (SE(3) by the
    double root −s of ad² on its translations; on SO(3) and SE(2) ad⁴ = −s ad²). The derivative of
    a power is Σ adᵏ ad(η) adⁿ⁻¹⁻ᵏ v, and ad(η) u = −ad(u) η.
    """
    if not isinstance(x, LieGroup) or isinstance(x, SO2):
        return xi.new_zeros(*torch.broadcast_shapes(xi.shape, v.shape), xi.shape[-1])
    of = type(x).ad
    ad, turn = of(xi), xi[..., 2:] if isinstance(x, SE2) else xi[..., -3:]
    powers = [v.expand(torch.broadcast_shapes(xi.shape, v.shape))]
    for _ in range(4):
        powers.append((ad @ powers[-1][..., None])[..., 0])
    v, first, second, third, fourth = powers
    s = squared_norm(turn)
    d, d1 = inverse_slopes(s).split(1, -1)
    c2, c4 = (d - s * d1).unsqueeze(-1), d1.unsqueeze(-1)
    squares = ad @ of(v) + of(first)
    fourths = of(third) + ad @ (of(second) + ad @ squares)
    of_s = 2 * torch.cat([torch.zeros_like(xi[..., turn.shape[-1] :]), turn], -1)
    bend = (_second_slope(s, d, d1) * (s * second + fourth)).unsqueeze(-1) * of_s.unsqueeze(-2)
    return c4 * fourths - c2 * squares - 0.5 * of(v) - bend


def _second_slope(s: Tensor, d: Tensor, d1: Tensor) -> Tensor:
    """d″ of `inverse_slopes`, by s d″ = ½ d² + s d d′ − 5/2 d′."""
    near = s < 1e-3
    away = torch.where(near, torch.ones_like(s), s)
    series = 1 / 15120 + s * (1 / 201600 + s / 3991680)
    return torch.where(near, series, (0.5 * d * d + s * d * d1 - 2.5 * d1) / away)


def white_acceleration_noise(density: Tensor, dt: Tensor) -> SquareRootInformation:
    """The noise of `gp_motion`: white acceleration of any covariance, over the interval.

    Q = [[dt³/3, dt²/2], [dt²/2, dt]] ⊗ Q_c (Barfoot, §11.1.4); `constant_velocity_noise`
    is the diagonal case.

    Args:
        density: Q_c, (…, t, t) power spectral density of the acceleration.
        dt: (…) [s].

    Raises:
        DnlsError: A density is not positive definite, or dt not positive and finite.
    """
    check_positive("white_acceleration_noise: dt", dt)
    factor = SquareRootInformation.from_covariance(density).factor
    return integrated_noise(factor / dt.sqrt()[..., None, None], dt)


@cost(batched=True)
def no_side_slip(x_i: Motion, x_j: Motion) -> Tensor:
    """Wheels roll between two poses: the entries of Log(x_i⁻¹ x_j) across their heading [m].

    (…, 1): y in the plane; (…, 2): y and z in space. Zero on every arc, however long.
    """
    return local(x_i, x_j)[..., _across(x_i)]


@no_side_slip.jacobians
def _no_side_slip_jacobians(x_i: Motion, x_j: Motion) -> tuple[Tensor, Tensor]:
    of_i, of_j = difference_jacobians(x_i, x_j)
    return of_i[..., _across(x_i), :], of_j[..., _across(x_i), :]


def _across(x: SE2 | SE3) -> slice:
    return slice(1, 2) if isinstance(x, SE2) else slice(1, 3)


@cost(batched=True)
def nonholonomic(x: SE2, v_world: Tensor) -> Tensor:
    """Wheels do not slip: the lateral velocity (…, 1) [m/s], r = −v_x sin θ + v_y cos θ.

    For states that keep their velocity in the axes of the world; of a body twist it is an entry.

    Args:
        x: The vehicle's pose.
        v_world: (…, 2), or (…, 3) with the turn rate last [m/s, rad/s].
    """
    return x.rotation.inverse().act(v_world[..., :2])[..., 1:]


@nonholonomic.jacobians
def _nonholonomic_jacobians(x: SE2, v_world: Tensor) -> tuple[Tensor, Tensor]:
    forward = x.rotation.inverse().act(v_world[..., :2])[..., :1]
    lateral = torch.cat([-x.rotation.cossin[..., 1:], x.rotation.cossin[..., :1]], -1)
    still = torch.zeros_like(forward)
    rest = torch.zeros_like(v_world[..., 2:]).expand(*lateral.shape[:-1], v_world.shape[-1] - 2)
    return (
        torch.cat([still, still, -forward], -1).unsqueeze(-2),
        torch.cat([lateral, rest], -1).unsqueeze(-2),
    )
