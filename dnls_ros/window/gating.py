"""Gates: is a new measurement plausible, given what the window already knows?

The normalized innovation squared νᵀ(J P Jᵀ + R)⁻¹ν of each new factor is held against the χ²
quantile of its dimension; P is the covariance of the window *without* the measurements under test.
A sensor that has been shut out for long is believed again with larger noise: then the estimate,
not the sensor, is probably wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy.stats import chi2
from torch import Tensor

from dnls_ros.linear import Factorization
from dnls_ros.problem import FactorGroup, Structure, Values


@dataclass(frozen=True, eq=False)
class Innovation:
    """Of M new factors: normalized innovation squared (M,) and dimension."""

    nis: Tensor
    dim: int

    def passes(self, probability: float) -> Tensor:
        """(M,) which lie inside the gate."""
        return self.nis <= threshold(self.dim, probability)


@lru_cache(maxsize=256)
def threshold(dim: int, probability: float) -> float:
    """The χ² quantile."""
    return float(chi2.ppf(probability, dim))


def innovation(
    group: FactorGroup, values: Values, structure: Structure, factorization: Factorization
) -> Innovation:
    """The innovations of a group's factors.

    Args:
        group: New factors, not yet part of the window.
        values: The window's values, the new states predicted.
        structure: Of the window without the group.
        factorization: Of its Hessian, positive definite.
    """
    line = group.linearize(values)
    batch, count, dim = line.residual.shape
    jacobian = line.residual.new_zeros(batch, count, dim, structure.n)
    for ref, block in zip(group.refs, line.jacobians, strict=True):
        place = next(b for b in structure.pattern.blocks if b.name == ref.name)
        columns = (
            place.offset
            + values.slots(ref)[:, None] * place.tangent_dim
            + torch.arange(place.tangent_dim)
        )
        index = columns[None, :, None, :].expand(batch, -1, dim, -1)
        jacobian = jacobian.scatter_add(3, index, block)
    flat = jacobian.reshape(batch, count * dim, structure.n)
    spread = factorization.solve(flat.mT).mT.reshape(batch, count, dim, structure.n)
    covariance = torch.eye(dim, dtype=flat.dtype) + jacobian @ spread.mT
    solved = torch.linalg.solve(covariance, line.residual[..., None])[..., 0]
    return Innovation((line.residual * solved).sum(-1)[0], dim)
