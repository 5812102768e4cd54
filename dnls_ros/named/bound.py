"""A plan with one call's numbers: an ordinary problem, its starting values, and the names.

`Bound` is the way from names to the core and back: solve `problem` from `values` by whatever means
the core has, and `outputs` gives the result its names again. What an objective can tell of its
costs is told here, in names too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dnls_ros.lie import Element
from dnls_ros.problem import FactorGroup, Problem, Values
from dnls_ros.problem.variables import on_storage, storage


@dataclass(frozen=True, eq=False)
class Bound:
    """The problem and the starting values of one call.

    Attributes:
        problem: Factor groups, each called by its first cost.
        values: Starting values (B, N, …) by block.
        blocks: block → names of its variables.
        groups: Per group, the names of its costs.
        order: All names of costs, in the order in which they were added.
        wrapped: Variables that were given as elements and not as plain tensors.
    """

    problem: Problem
    values: Values
    blocks: Mapping[str, tuple[str, ...]]
    groups: tuple[tuple[str, ...], ...]
    order: tuple[str, ...]
    wrapped: frozenset[str]

    def outputs(self, values: Values) -> dict[str, Element]:
        """name → (B, …) of values with these blocks; a tensor where a tensor was given."""
        found: dict[str, Element] = {}
        for block, names in self.blocks.items():
            element = values[block]
            for name, tensor in zip(names, storage(element).unbind(1), strict=True):
                wrap = name in self.wrapped
                found[name] = on_storage(element, lambda _, t=tensor: t) if wrap else tensor
        return found

    def residuals(self) -> dict[str, Tensor]:
        """Cost → its residual r (B, r), in its own units."""
        groups = (replace(group, noise=None, loss=None) for group in self._factors())
        return self._by_cost([group.whitened(self.values) for group in groups])

    def whitened(self) -> dict[str, Tensor]:
        """Cost → L r (B, r), in standard deviations."""
        return self._by_cost([group.whitened(self.values) for group in self._factors()])

    def costs(self) -> dict[str, Tensor]:
        """Cost → ½ρ(‖L r‖²) (B,)."""
        return self._by_cost([0.5 * _rho(g, g.squared_norm(self.values)) for g in self._factors()])

    def cost(self) -> Tensor:
        """½Σρ(‖L r‖²), (B,)."""
        return self.problem.objective(self.values)

    def error_vector(self) -> Tensor:
        """All costs below one another, (B, Σr): L r, scaled so that ½‖·‖² is the cost."""
        parts = self._by_cost([_scaled(group, self.values) for group in self._factors()])
        return torch.cat(list(parts.values()), 1)

    def gradient(self) -> dict[str, Tensor]:
        """Variable → ∂cost/∂δ (B, t) in its tangent space."""
        whole = self.problem.gradient(self.values)
        found: dict[str, Tensor] = {}
        for block in self.values.layout():
            parts = block.of(whole).unbind(1)
            found.update(zip(self.blocks[block.name], parts, strict=True))
        return found

    def _factors(self) -> list[FactorGroup]:
        groups = list(self.problem.values())
        assert all(isinstance(group, FactorGroup) for group in groups)
        return groups  # pyright: ignore[reportReturnType]

    def _by_cost(self, parts: list[Tensor]) -> dict[str, Tensor]:
        """Tensors (B, M, …) per group as (B, …) per cost."""
        batch = self.values.batch
        found: dict[str, Tensor] = {}
        for names, part in zip(self.groups, parts, strict=True):
            whole = part.expand(batch, *part.shape[1:])
            found.update(zip(names, whole.unbind(1), strict=True))
        return {name: found[name] for name in self.order}


def _rho(group: FactorGroup, s: Tensor) -> Tensor:
    return s if group.loss is None else group.loss.rho(s)


def _scaled(group: FactorGroup, values: Values) -> Tensor:
    """√(ρ(s)/s) L r with s = ‖L r‖², (B, M, r); finite derivatives where ρ vanishes."""
    white = group.whitened(values)
    if group.live is not None:
        white = white.where(group.live[..., None], 0.0)
    if group.loss is None:
        return white
    s = white.square().sum(-1)
    rho = group.loss.rho(s)
    some = (s > 0) & (rho > 0)
    one = torch.ones_like(s)
    scale = (torch.where(some, rho, one) / torch.where(some, s, one)).sqrt()
    scale = torch.where(some, scale, torch.zeros_like(s))
    return white * scale[..., None]
