"""SO(2): rotations of the plane, stored as (cos θ, sin θ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dnls_ros.lie.manifold import LieGroup, register_group
from dnls_ros.lie.series import Constant, contract

_QUARTER_TURN = Constant([[0.0, -1.0], [1.0, 0.0]])
_CONJUGATE = Constant([1.0, -1.0])


def quarter_turn(p: Tensor) -> Tensor:
    """The vectors turned by +90°: (x, y) → (−y, x)."""
    return contract(_QUARTER_TURN, p)


def rotate(cossin: Tensor, p: Tensor) -> Tensor:
    """The vectors p (…, 2) turned by the angle whose (cos, sin) is given."""
    return torch.addcmul(cossin[..., :1] * p, cossin[..., 1:], quarter_turn(p))


@register_group
@dataclass(frozen=True, eq=False)
class SO2(LieGroup):
    """Rotations of the plane; the tangent is the angle [rad].

    Attributes:
        cossin: (*batch, 2), of unit length.
    """

    cossin: Tensor

    tangent_dim = 1
    storage_dim = 2
    identity_storage = (1.0, 0.0)

    @property
    def tensor(self) -> Tensor:
        return self.cossin

    @property
    def angle(self) -> Tensor:
        """θ in (−π, π], (*batch,)."""
        return torch.atan2(self.cossin[..., 1], self.cossin[..., 0])

    @staticmethod
    def exp(delta: Tensor) -> SO2:
        return SO2(torch.cat([delta.cos(), delta.sin()], -1))

    def log(self) -> Tensor:
        return torch.atan2(self.cossin[..., 1:], self.cossin[..., :1])

    @staticmethod
    def ad(delta: Tensor) -> Tensor:
        return torch.zeros_like(delta).unsqueeze(-1)

    @staticmethod
    def right_jacobian(delta: Tensor) -> Tensor:
        return torch.ones_like(delta).unsqueeze(-1)

    @staticmethod
    def right_jacobian_inverse(delta: Tensor) -> Tensor:
        return torch.ones_like(delta).unsqueeze(-1)

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> Self:
        return cls(matrix[..., :, 0])

    def matrix(self) -> Tensor:
        return torch.stack([self.cossin, quarter_turn(self.cossin)], -1)

    def inverse(self) -> Self:
        return type(self)(self.cossin * _CONJUGATE.like(self.cossin))

    def adjoint(self) -> Tensor:
        return torch.ones_like(self.cossin[..., :1]).unsqueeze(-1)

    @staticmethod
    def product(a: Tensor, b: Tensor) -> Tensor:
        return rotate(a, b)

    @staticmethod
    def quotient(a: Tensor, b: Tensor) -> Tensor:
        return rotate(a * _CONJUGATE.like(a), b)

    def act(self, points: Tensor) -> Tensor:
        return rotate(self.cossin, points)

    def pull_back(self, gradient: Tensor) -> Tensor:
        return self.quotient(self.cossin, gradient)[..., 1:]

    def normalized(self) -> Self:
        return type(self)(
            self.cossin / torch.linalg.vector_norm(self.cossin, dim=-1, keepdim=True)
        )
