"""SE(2): rigid motions of the plane, stored as (x, y, cos θ, sin θ), tangent (vx, vy, ω)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from dnls_ros.lie import series
from dnls_ros.lie.manifold import LieGroup, eye3_like, register_group
from dnls_ros.lie.series import Constant, contract
from dnls_ros.lie.so2 import SO2, quarter_turn, rotate

# The storage is two plane vectors, so one map turns both: (x, y, c, s) → (−y, x, −s, c).
_QUARTER_TURNS = Constant(
    [[0.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0], [0.0, 0.0, 1.0, 0.0]]
)
_TRANSLATION = Constant([1.0, 1.0, 0.0, 0.0])
# Rows of ad(v, ω) = [[0, −ω, vy], [ω, 0, −vx], [0, 0, 0]].
_AD = Constant(
    [
        [0, 0, 0],
        [0, 0, -1],
        [0, 1, 0],
        [0, 0, 1],
        [0, 0, 0],
        [-1, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]
)


@register_group
@dataclass(frozen=True, eq=False)
class SE2(LieGroup):
    """Rigid motions of the plane.

    Attributes:
        xy_cossin: (*batch, 4): translation [m], then (cos θ, sin θ) of unit length.
    """

    xy_cossin: Tensor

    tangent_dim = 3
    storage_dim = 4
    identity_storage = (0.0, 0.0, 1.0, 0.0)

    @property
    def tensor(self) -> Tensor:
        return self.xy_cossin

    @property
    def translation(self) -> Tensor:
        """(*batch, 2) [m]."""
        return self.xy_cossin[..., :2]

    @property
    def rotation(self) -> SO2:
        """The rotation part."""
        return SO2(self.xy_cossin[..., 2:])

    @property
    def angle(self) -> Tensor:
        """θ in (−π, π], (*batch,)."""
        return torch.atan2(self.xy_cossin[..., 3], self.xy_cossin[..., 2])

    @classmethod
    def from_parts(cls, rotation: SO2, translation: Tensor) -> Self:
        """The motion p ↦ rotation · p + translation."""
        # torch's function of this name imports 500 modules at its first call: 1.5 s in a solve
        shape = np.broadcast_shapes(rotation.cossin.shape, translation.shape)
        return cls(torch.cat([translation.expand(shape), rotation.cossin.expand(shape)], -1))

    @classmethod
    def from_xyt(cls, xyt: Tensor) -> Self:
        """From (x, y, θ), (*batch, 3)."""
        return cls(torch.cat([xyt[..., :2], xyt[..., 2:].cos(), xyt[..., 2:].sin()], -1))

    def xyt(self) -> Tensor:
        """(x, y, θ), (*batch, 3)."""
        return torch.cat([self.translation, self.rotation.log()], -1)

    @staticmethod
    def exp(delta: Tensor) -> SE2:
        v, w = delta[..., :2], delta[..., 2:]
        k = series.planar(w * w)
        translation = torch.addcmul(k[..., :1] * v, k[..., 1:] * w, quarter_turn(v))
        return SE2(torch.cat([translation, w.cos(), w.sin()], -1))

    def log(self) -> Tensor:
        p, w = (
            self.xy_cossin[..., :2],
            torch.atan2(self.xy_cossin[..., 3:], self.xy_cossin[..., 2:3]),
        )
        x = w * w
        v = torch.addcmul(p, x * series.inverse(x), p, value=-1)
        return torch.cat([torch.addcmul(v, w, quarter_turn(p), value=-0.5), w], -1)

    @staticmethod
    def ad(delta: Tensor) -> Tensor:
        return contract(_AD, delta).unflatten(-1, (3, 3))

    @staticmethod
    def right_jacobian(delta: Tensor) -> Tensor:
        k = series.jacobian(delta[..., 2:] ** 2).unsqueeze(-1)
        ad = SE2.ad(delta)
        return torch.addcmul(
            torch.addcmul(eye3_like(delta), k[..., 1:, :], ad @ ad), k[..., :1, :], ad, value=-1
        )

    @staticmethod
    def right_jacobian_inverse(delta: Tensor) -> Tensor:
        k = series.inverse(delta[..., 2:] ** 2).unsqueeze(-1)
        ad = SE2.ad(delta)
        return torch.addcmul(torch.add(eye3_like(delta), ad, alpha=0.5), k, ad @ ad)

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> Self:
        return cls(torch.cat([matrix[..., :2, 2], matrix[..., :2, 0]], -1))

    def matrix(self) -> Tensor:
        top = torch.cat([self.rotation.matrix(), self.translation.unsqueeze(-1)], -1)
        return torch.cat([top, eye3_like(top)[2:].expand(*top.shape[:-2], 1, 3)], -2)

    def inverse(self) -> Self:
        back = SO2(self.xy_cossin[..., 2:]).inverse()
        return type(self)(torch.cat([-back.act(self.translation), back.cossin], -1))

    def adjoint(self) -> Tensor:
        moved = torch.cat(
            [self.rotation.matrix(), -quarter_turn(self.translation).unsqueeze(-1)], -1
        )
        return torch.cat([moved, eye3_like(moved)[2:].expand(*moved.shape[:-2], 1, 3)], -2)

    @staticmethod
    def product(a: Tensor, b: Tensor) -> Tensor:
        turned = torch.addcmul(a[..., 2:3] * b, a[..., 3:], contract(_QUARTER_TURNS, b))
        return torch.addcmul(turned, a, _TRANSLATION.like(a))

    @staticmethod
    def quotient(a: Tensor, b: Tensor) -> Tensor:
        b = torch.addcmul(b, a, _TRANSLATION.like(a), value=-1)
        return torch.addcmul(a[..., 2:3] * b, a[..., 3:], contract(_QUARTER_TURNS, b), value=-1)

    def act(self, points: Tensor) -> Tensor:
        return rotate(self.xy_cossin[..., 2:], points) + self.translation

    def pull_back(self, gradient: Tensor) -> Tensor:
        turn = self.rotation
        moved = turn.inverse().act(gradient[..., :2])
        return torch.cat([moved, turn.pull_back(gradient[..., 2:])], -1)

    def normalized(self) -> Self:
        return type(self)(torch.cat([self.translation, self.rotation.normalized().cossin], -1))
