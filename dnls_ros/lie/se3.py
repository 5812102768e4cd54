"""SE(3): rigid motions of space, stored as (x, y, z, qx, qy, qz, qw), tangent (v, ω)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from dnls_ros.lie import series
from dnls_ros.lie.manifold import LieGroup, eye3_like, hat3, register_group
from dnls_ros.lie.se2 import SE2
from dnls_ros.lie.series import Constant, cross, squared_norm
from dnls_ros.lie.so2 import SO2
from dnls_ros.lie.so3 import SO3, conjugate, multiply, rotate, shortest, transposed_matrix

_BOTTOM = Constant([0.0, 0.0, 0.0, 1.0])


def _block_upper(diagonal: Tensor, corner: Tensor) -> Tensor:
    """[[diagonal, corner], [0, diagonal]], (…, 3, 3) → (…, 6, 6)."""
    low = torch.cat([torch.zeros_like(diagonal), diagonal], -1)
    return torch.cat([torch.cat([diagonal, corner], -1), low], -2)


def _dual(
    delta: Tensor,
    x: Tensor,
    values: tuple[Tensor | float, Tensor],
    slopes: tuple[Tensor | None, Tensor],
) -> Tensor:
    """I + p(x) ad + q(x) ad² over dual numbers, (…, 6) → (…, 6, 6), x = ‖ω‖².

    Args:
        delta: (v, ω).
        x: (…, 1).
        values: p and q, (…, 1, 1).
        slopes: dp/dx (None = p is constant) and dq/dx.
    """
    (p, q), (p_slope, q_slope) = values, slopes
    v, w = delta[..., :3], delta[..., 3:]
    eye, turn, column = eye3_like(delta), hat3(w), w.unsqueeze(-1)
    change = 2 * (w * v).sum(-1, keepdim=True).unsqueeze(-1)  # of x along v
    outer = column * v.unsqueeze(-2)
    square = torch.addcmul(column * w.unsqueeze(-2), x.unsqueeze(-1), eye, value=-1)  # [ω]×²
    mixed = torch.addcmul(outer + outer.mT, change, eye, value=-1)  # its derivative along v
    diagonal = torch.addcmul(eye + p * turn, q, square)
    corner = torch.addcmul(p * hat3(v), q, mixed)
    corner = torch.addcmul(corner, change * q_slope, square)
    if p_slope is not None:
        corner = torch.addcmul(corner, change * p_slope, turn)
    return _block_upper(diagonal, corner)


@register_group
@dataclass(frozen=True, eq=False)
class SE3(LieGroup):
    """Rigid motions of space.

    SE(3) is SO(3) over dual numbers, ε² = 0: ad(v, ω) = [[[ω]×, [v]×], [0, [ω]×]] is [ω + εv]×.
    Its Jacobians are therefore those of SO(3) with their derivatives along v in the corner.

    Attributes:
        xyz_xyzw: (*batch, 7): translation [m], then the unit quaternion.
    """

    xyz_xyzw: Tensor

    tangent_dim = 6
    storage_dim = 7
    identity_storage = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def tensor(self) -> Tensor:
        return self.xyz_xyzw

    @property
    def translation(self) -> Tensor:
        """(*batch, 3) [m]."""
        return self.xyz_xyzw[..., :3]

    @property
    def rotation(self) -> SO3:
        """The rotation part."""
        return SO3(self.xyz_xyzw[..., 3:])

    @classmethod
    def from_parts(cls, rotation: SO3, translation: Tensor) -> Self:
        """The motion p ↦ rotation · p + translation."""
        batch = np.broadcast_shapes(rotation.batch_shape, translation.shape[:-1])
        return cls(torch.cat([translation.expand(*batch, 3), rotation.xyzw.expand(*batch, 4)], -1))

    @staticmethod
    def exp(delta: Tensor) -> SE3:
        v, w = delta[..., :3], delta[..., 3:]
        half_sine, half_cosine, b, c = series.screw(squared_norm(w)).split(1, -1)
        turned = cross(w, v)
        translation = torch.addcmul(torch.addcmul(v, b, turned), c, cross(w, turned))
        return SE3(torch.cat([translation, half_sine * w, half_cosine], -1))

    def log(self) -> Tensor:
        p, q = self.xyz_xyzw[..., :3], shortest(self.xyz_xyzw[..., 3:])
        u = q[..., :3]
        k = series.screw_log(squared_norm(u), q[..., 3:])
        w = k[..., :1] * u
        turned = cross(w, p)
        v = torch.addcmul(torch.add(p, turned, alpha=-0.5), k[..., 1:], cross(w, turned))
        return torch.cat([v, w], -1)

    @staticmethod
    def ad(delta: Tensor) -> Tensor:
        return _block_upper(hat3(delta[..., 3:]), hat3(delta[..., :3]))

    @staticmethod
    def right_jacobian(delta: Tensor) -> Tensor:
        x = squared_norm(delta[..., 3:])
        b, c, db, dc = series.jacobian_slopes(x).unsqueeze(-1).split(1, -2)
        return _dual(delta, x, (-b, c), (-db, dc))

    @staticmethod
    def right_jacobian_inverse(delta: Tensor) -> Tensor:
        x = squared_norm(delta[..., 3:])
        d, dd = series.inverse_slopes(x).unsqueeze(-1).split(1, -2)
        return _dual(delta, x, (0.5, d), (None, dd))

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> Self:
        return cls.from_parts(SO3.from_matrix(matrix[..., :3, :3]), matrix[..., :3, 3])

    def matrix(self) -> Tensor:
        top = torch.cat([self.rotation.matrix(), self.translation.unsqueeze(-1)], -1)
        return torch.cat([top, _BOTTOM.like(top).expand(*top.shape[:-2], 1, 4)], -2)

    def inverse(self) -> Self:
        back = conjugate(self.xyz_xyzw[..., 3:])
        return type(self)(torch.cat([-rotate(back, self.translation), back], -1))

    def adjoint(self) -> Tensor:
        rows = transposed_matrix(self.xyz_xyzw[..., 3:])  # Rᵀ
        corner = cross(self.translation.unsqueeze(-2), rows)  # ([t]× R)ᵀ
        low = torch.cat([corner, rows], -1)
        return torch.cat([torch.cat([rows, torch.zeros_like(rows)], -1), low], -2).mT

    @staticmethod
    def product(a: Tensor, b: Tensor) -> Tensor:
        q = a[..., 3:]
        return torch.cat([a[..., :3] + rotate(q, b[..., :3]), multiply(q, b[..., 3:])], -1)

    @staticmethod
    def quotient(a: Tensor, b: Tensor) -> Tensor:
        q = conjugate(a[..., 3:])
        return torch.cat([rotate(q, b[..., :3] - a[..., :3]), multiply(q, b[..., 3:])], -1)

    def act(self, points: Tensor) -> Tensor:
        return rotate(self.xyz_xyzw[..., 3:], points) + self.translation

    def pull_back(self, gradient: Tensor) -> Tensor:
        turn = self.rotation
        moved = turn.inverse().act(gradient[..., :3])
        return torch.cat([moved, turn.pull_back(gradient[..., 3:])], -1)

    def normalized(self) -> Self:
        return type(self)(torch.cat([self.translation, self.rotation.normalized().xyzw], -1))


def lift(x: SE2) -> SE3:
    """The planar pose in space: z = 0, rotation about z.

    A perturbation of ``x`` is the one of the result in the columns (0, 1, 5) of the tangent.
    """
    half = 0.5 * x.rotation.log()
    zero = torch.zeros_like(half)
    return SE3(torch.cat([x.translation, zero, zero, zero, half.sin(), half.cos()], -1))


def project(x: SE3) -> SE2:
    """The planar pose with the same x, y and yaw: the heading of the x axis seen from above.

    The yaw is undefined where that axis is vertical.
    """
    heading = transposed_matrix(x.xyz_xyzw[..., 3:])[..., 0, :2]
    return SE2.from_parts(SO2(heading).normalized(), x.translation[..., :2])
