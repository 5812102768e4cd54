"""SO(3): rotations of space, stored as unit quaternions (x, y, z, w)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dnls_ros.lie import series
from dnls_ros.lie.manifold import LieGroup, eye3_like, hat3, register_group
from dnls_ros.lie.series import Constant, contract, cross, squared_norm

_CONJUGATE = Constant([-1.0, -1.0, -1.0, 1.0])


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product of quaternions (…, 4)."""
    u, s, v, t = a[..., :3], a[..., 3:], b[..., :3], b[..., 3:]
    vector = torch.addcmul(torch.addcmul(cross(u, v), s, v), t, u)
    return torch.cat([vector, s * t - (u * v).sum(-1, keepdim=True)], -1)


def conjugate(q: Tensor) -> Tensor:
    """The inverse of unit quaternions (…, 4)."""
    return q * _CONJUGATE.like(q)


def rotate(q: Tensor, p: Tensor) -> Tensor:
    """The vectors p (…, 3) rotated by unit quaternions q (…, 4)."""
    u = q[..., :3]
    once = cross(u, p)
    return torch.add(p, torch.addcmul(cross(u, once), q[..., 3:], once), alpha=2)


def transposed_matrix(q: Tensor) -> Tensor:
    """Rᵀ (…, 3, 3): its rows are the rotated unit vectors."""
    return rotate(q.unsqueeze(-2), eye3_like(q))


def shortest(q: Tensor) -> Tensor:
    """The one of ±q (…, 4) with w ≥ 0: a rotation by at most π."""
    return torch.where(q[..., 3:] < 0, -q, q)


def _from_matrix_table() -> list[list[float]]:
    """The symmetric matrix 4 q qᵀ − 1 (16 entries) as a linear function of the 9 entries of R."""
    table = [[0.0] * 9 for _ in range(16)]

    def put(i: int, j: int, *terms: tuple[int, int, float]) -> None:
        for row, column, sign in terms:
            table[4 * i + j][3 * row + column] = sign

    for i in range(3):
        put(i, i, *[(k, k, 1.0 if k == i else -1.0) for k in range(3)])
        put(3, 3, (i, i, 1.0))
        a, b = (i + 1) % 3, (i + 2) % 3
        for first, second in ((a, b), (b, a)):
            put(first, second, (a, b, 1.0), (b, a, 1.0))
        for first, second in ((i, 3), (3, i)):
            put(first, second, (b, a, 1.0), (a, b, -1.0))
    return table


_FROM_MATRIX = Constant(_from_matrix_table())
_EYE4 = Constant([float(k % 5 == 0) for k in range(16)])


@register_group
@dataclass(frozen=True, eq=False)
class SO3(LieGroup):
    """Rotations of space; the tangent is the rotation vector [rad] in body axes.

    Attributes:
        xyzw: (*batch, 4), unit quaternions.
    """

    xyzw: Tensor

    tangent_dim = 3
    storage_dim = 4
    identity_storage = (0.0, 0.0, 0.0, 1.0)

    @property
    def tensor(self) -> Tensor:
        return self.xyzw

    @staticmethod
    def exp(delta: Tensor) -> SO3:
        k = series.rotation(squared_norm(delta))
        return SO3(torch.cat([k[..., :1] * delta, k[..., 1:]], -1))

    def log(self) -> Tensor:
        q = shortest(self.xyzw)
        u = q[..., :3]
        return series.rotation_log(squared_norm(u), q[..., 3:]) * u

    @staticmethod
    def ad(delta: Tensor) -> Tensor:
        return hat3(delta)

    @staticmethod
    def right_jacobian(delta: Tensor) -> Tensor:
        k = series.jacobian(squared_norm(delta)).unsqueeze(-1)
        ad = hat3(delta)
        return torch.addcmul(
            torch.addcmul(eye3_like(delta), k[..., 1:, :], ad @ ad), k[..., :1, :], ad, value=-1
        )

    @staticmethod
    def right_jacobian_inverse(delta: Tensor) -> Tensor:
        k = series.inverse(squared_norm(delta)).unsqueeze(-1)
        ad = hat3(delta)
        return torch.addcmul(torch.add(eye3_like(delta), ad, alpha=0.5), k, ad @ ad)

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> Self:
        """From rotation matrices (…, 3, 3).

        Each row of 4 q qᵀ is a multiple of q; the one with the largest diagonal is normalized,
        which is accurate for all rotations (Shepperd, *Quaternion from rotation matrix*, 1978).
        """
        products = (contract(_FROM_MATRIX, matrix.flatten(-2)) + _EYE4.like(matrix)).unflatten(
            -1, (4, 4)
        )
        best = products.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
        row = torch.take_along_dim(products, best, -2).squeeze(-2)
        return cls(shortest(row)).normalized()

    def matrix(self) -> Tensor:
        return transposed_matrix(self.xyzw).mT

    def inverse(self) -> Self:
        return type(self)(conjugate(self.xyzw))

    def adjoint(self) -> Tensor:
        return self.matrix()

    @staticmethod
    def product(a: Tensor, b: Tensor) -> Tensor:
        return multiply(a, b)

    @staticmethod
    def quotient(a: Tensor, b: Tensor) -> Tensor:
        return multiply(conjugate(a), b)

    def act(self, points: Tensor) -> Tensor:
        return rotate(self.xyzw, points)

    def pull_back(self, gradient: Tensor) -> Tensor:
        # Exp(δ) ≈ (δ/2, 1), and left multiplication by a unit quaternion is a rotation of R⁴.
        return 0.5 * self.quotient(self.xyzw, gradient)[..., :3]

    def normalized(self) -> Self:
        return type(self)(self.xyzw / torch.linalg.vector_norm(self.xyzw, dim=-1, keepdim=True))
