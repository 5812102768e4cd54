"""The marginal prior: what variables that left a window knew about those that stayed.

One dense quadratic ½‖A (x ⊟ x̄) + b‖² over a *set* of variables. A, b and the linearization point
x̄ are constants, also when the parameters that shaped them are being learned. With first estimates
the Jacobian is A itself, so that the prior is exactly that quadratic in the tangent at x̄;
otherwise A is carried to the current point by the inverse right Jacobian of x ⊟ x̄.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.lie import LieGroup
from dnls_ros.problem.factors import Products, Slots
from dnls_ros.problem.variables import Ref, Values

CLEAR_PIVOT = 1e-5
"""Cholesky pivots of a matrix of unit diagonal above which it is definite beyond rounding."""


@dataclass(frozen=True, eq=False)
class DensePrior:
    """½‖A (x ⊟ x̄) + b‖² over the variables of ``point``.

    Attributes:
        point: x̄, (B, K, …) per block; its blocks and ids say which variables are touched.
        factor: A, (B, k, n_p), columns in the order of ``point``'s tangent.
        offset: b, (B, k).
        first_estimates: Use A itself as the Jacobian, not A · ∂(x ⊟ x̄).
    """

    point: Values
    factor: Tensor
    offset: Tensor
    first_estimates: bool = False

    @classmethod
    def from_information(
        cls, point: Values, information: Tensor, gradient: Tensor, first_estimates: bool = False
    ) -> DensePrior:
        """From H (B, n, n), possibly singular, and g (B, n) at ``point``.

        AᵀA = H, and Aᵀb = g on the range of H: by Cholesky where H is clearly definite, else by
        eigen-decomposition, where directions without information stay without.
        """
        scale = information.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        # Columns have mixed units: make them comparable.
        unit = information / scale[:, :, None] / scale[:, None, :]
        factor, offset = _square_root(0.5 * (unit + unit.mT), gradient / scale)
        factor = factor * scale[:, None, :]
        return cls(point.detach(), factor.detach(), offset.detach(), first_estimates)

    @property
    def refs(self) -> tuple[Ref, ...]:
        """One reference per block, holding all of the block's touched variables."""
        return tuple(Ref(name, ids) for name, ids in self.point.ids.items())

    @property
    def joint(self) -> bool:
        """True: one dense factor over all references."""
        return True

    @property
    def batch(self) -> int:
        """Size of the batch axis."""
        return self.factor.shape[0]

    @cached_property
    def information(self) -> Tensor:
        """AᵀA, (B, n_p, n_p), a constant."""
        with torch.inference_mode(False):  # else it could not be saved for a later backward pass
            return (self.factor.mT @ self.factor).detach()

    def whitened(self, values: Values, slots: Slots | None = None) -> Tensor:
        """A (x ⊟ x̄) + b, (B, k)."""
        return self._residual(self.point.local(self._gather(values, slots)))

    def objective(self, values: Values, slots: Slots | None = None) -> Tensor:
        return 0.5 * self.whitened(values, slots).square().sum(1)

    def products(
        self, values: Values, slots: Slots | None = None, at: Values | None = None
    ) -> Products:
        moved = self.point.local(self._gather(values, slots))
        residual = self._residual(moved)
        gradient, hessian = residual[:, None] @ self.factor, self.information
        if not self.first_estimates:  # J = A C with C block diagonal: CᵀAᵀAC needs no product of A
            blocks = self._blocks(
                moved if at is None else self.point.local(self._gather(at, slots))
            )
            gradient = self._carried(gradient, blocks)
            hessian = self._carried(self._carried(hessian, blocks).mT, blocks)
        return Products(0.5 * residual.square().sum(1), gradient, hessian[:, None])

    def without(self, name: str, keep: Tensor) -> DensePrior:
        """The prior on fewer variables of a block; the others are forgotten, not marginalized."""
        columns = []
        for block in self.point.layout():
            mask = keep if block.name == name else torch.ones(block.count, dtype=torch.bool)
            columns.append(mask.repeat_interleave(block.tangent_dim))
        return replace(
            self, point=self.point.select(name, keep), factor=self.factor[:, :, torch.cat(columns)]
        )

    def _gather(self, values: Values, slots: Slots | None) -> Values:
        at = tuple(values.slots(r) for r in self.refs) if slots is None else slots
        blocks = {r.name: values.gather(r, s) for r, s in zip(self.refs, at, strict=True)}
        return Values(blocks, self.point.ids, checked=True)

    def _residual(self, moved: Tensor) -> Tensor:
        return (self.factor @ moved[..., None])[..., 0] + self.offset

    def _blocks(self, moved: Tensor) -> tuple[Tensor | None, ...]:
        """∂(x ⊟ x̄)/∂x = J_r⁻¹(x ⊟ x̄) of each variable, (B, K, t, t); None where it is 1."""
        return tuple(
            type(x).right_jacobian_inverse(block.of(moved)) if isinstance(x, LieGroup) else None
            for block, x in zip(self.point.layout(), self.point.values(), strict=True)
        )

    def _carried(self, matrix: Tensor, blocks: tuple[Tensor | None, ...]) -> Tensor:
        """``matrix`` (B, k, n_p) with each variable's columns times its block."""
        parts: list[Tensor] = []
        for block, inverse in zip(self.point.layout(), blocks, strict=True):
            columns = matrix[:, :, block.offset : block.stop]
            if inverse is not None:
                each = columns.unflatten(2, (block.count, block.tangent_dim)).transpose(1, 2)
                columns = (each @ inverse).transpose(1, 2).flatten(2)
            parts.append(columns)
        return torch.cat(parts, 2)


def _square_root(unit: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """A and b with AᵀA = ``unit`` (B, n, n), of diagonal 0 or 1, and Aᵀb = ``gradient`` (B, n)."""
    lower, info = torch.linalg.cholesky_ex(unit)
    if bool((info == 0).all()) and bool((lower.diagonal(dim1=-2, dim2=-1) > CLEAR_PIVOT).all()):
        offset = torch.linalg.solve_triangular(lower, gradient[..., None], upper=False)
        return lower.mT, offset[..., 0]
    eigenvalues, vectors = torch.linalg.eigh(unit)
    known = eigenvalues > eigenvalues[:, -1:].clamp(min=0) * 1e-14 * unit.shape[-1]
    root = torch.where(known, eigenvalues, torch.zeros_like(eigenvalues)).sqrt()
    inverse_root = torch.where(
        known, 1 / torch.where(known, root, torch.ones_like(root)), torch.zeros_like(root)
    )
    offset = inverse_root * (vectors.mT @ gradient[..., None])[..., 0]
    return root[:, :, None] * vectors.mT, offset


pytree.register_pytree_node(
    DensePrior,
    lambda p: ([p.point, p.factor, p.offset], p.first_estimates),
    lambda children, first: DensePrior(*children, first_estimates=first),
    serialized_type_name="dnls_ros.DensePrior",
)
