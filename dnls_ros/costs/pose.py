"""Costs of poses and differences of poses, for every Lie group and for plain tensors.

The derivatives are those of the logarithm, J_r⁻¹ (see `dnls_ros.lie.manifold`). Moving the *first*
pose of a pair acts on the other side of the difference; with ξ = Log(x_i⁻¹ x_j) that is
−J_l⁻¹(ξ) = −J_r⁻¹(−ξ), and J_r⁻¹(ξ) − J_r⁻¹(−ξ) = ad(ξ), because all terms of the series after the
linear one are even.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from dnls_ros.lie import SE2, SE3, SO2, SO3, Element, LieGroup, local
from dnls_ros.problem import cost

Motion = TypeVar("Motion", SE2, SE3)


def log_jacobian(x: Element, xi: Tensor) -> Tensor:
    """J_r⁻¹(ξ), (…, t, t), in the group of ``x``; the identity for tensors."""
    if isinstance(x, LieGroup):
        return x.right_jacobian_inverse(xi)
    return torch.eye(xi.shape[-1], dtype=xi.dtype, device=xi.device).expand(
        *xi.shape, xi.shape[-1]
    )


def difference_jacobians(x_i: Element, x_j: Element) -> tuple[Tensor, Tensor]:
    """The Jacobians of Log(x_i⁻¹ x_j) with respect to x_i and x_j."""
    xi = local(x_i, x_j)
    right = log_jacobian(x_i, xi)
    left = right - x_i.ad(xi) if isinstance(x_i, LieGroup) else right
    return -left, right


@cost(batched=True)
def prior(x: Element, z: Element) -> Tensor:
    """A known pose or vector: r = Log(z⁻¹ x), in the axes of z."""
    return local(z, x)


@prior.linearization
def _prior_linearized(x: Element, z: Element) -> tuple[Tensor, tuple[Tensor]]:
    xi = local(z, x)
    return xi, (log_jacobian(x, xi),)


@cost(batched=True)
def between(x_i: Element, x_j: Element, z: Element) -> Tensor:
    """A known difference: r = Log(z⁻¹ x_i⁻¹ x_j), in the axes of the predicted x_j."""
    return local(z, _relative(x_i, x_j))


@between.linearization
def _between_linearized(
    x_i: Element, x_j: Element, z: Element
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    relative = _relative(x_i, x_j)
    xi = local(z, relative)
    right = log_jacobian(x_j, xi)
    if isinstance(relative, LieGroup):
        return xi, (-(right @ relative.inverse().adjoint()), right)
    return xi, (-right, right)


def _relative(x_i: Element, x_j: Element) -> Element:
    if isinstance(x_i, LieGroup) and isinstance(x_j, LieGroup):
        return x_i.between(x_j)
    return local(x_i, x_j)


@cost(batched=True)
def partial_pose(x: Motion, body_T_sensor: Motion, z: Motion) -> Tensor:
    """A pose measurement of which only some axes count, in the axes of the world.

    With y = x · body_T_sensor the residual is (t_y − t_z ; Log(R_y R_z⁻¹)) [m, rad], along and
    about the *world's* axes: position and orientation do not mix, so a noise model that selects
    rows (a `SquareRootInformation` of shape (k, t)) measures exactly those axes, whatever z says
    of the others.
    """
    sensor = x @ body_T_sensor
    turn = sensor.rotation @ z.rotation.inverse()
    return torch.cat([sensor.translation - z.translation, turn.log()], -1)


@partial_pose.jacobians
def _partial_pose_jacobians(x: Motion, body_T_sensor: Motion, z: Motion) -> tuple[Tensor, Tensor]:
    sensor = x @ body_T_sensor
    turn = (sensor.rotation @ z.rotation.inverse()).log()
    left = type(x.rotation).right_jacobian_inverse(-turn)
    of_mount = _turned_axes(sensor.rotation, left)
    # x Exp(δ) E = x E Exp(Ad(E⁻¹) δ)
    return of_mount @ body_T_sensor.inverse().adjoint(), of_mount


def _turned_axes(rotation: SO2 | SO3, left: Tensor) -> Tensor:
    """The matrix blkdiag(R, J_l⁻¹ R): body perturbations along and about the world's axes."""
    matrix = rotation.matrix()
    turned = left if isinstance(rotation, SO2) else left @ matrix
    n, t = matrix.shape[-1], matrix.shape[-1] + turned.shape[-1]
    pad = torch.nn.functional.pad
    return pad(matrix, (0, t - n, 0, t - n)) + pad(turned, (n, 0, n, 0))
