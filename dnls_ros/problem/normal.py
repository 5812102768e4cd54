"""The normal equations H δ = −g of a problem: H = JᵀWJ on its sparse pattern, g = JᵀWr.

Once per linearization: every group's products, concatenated and added into place in one scatter.
This is the torch tier: any cost, any device, differentiable. `optim.assembly` decides which tier a
group takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dnls_ros.problem.agreement import explained
from dnls_ros.problem.factors import Group
from dnls_ros.problem.structure import Structure, Target
from dnls_ros.problem.variables import Values


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """H and g at a linearization point.

    Attributes:
        hessian: (B, nnz) the lower triangle of JᵀWJ in the structure's pattern.
        gradient: (B, n) JᵀWr, the exact gradient of the objective.
        cost: (B,) the objective.
        group_costs: group → (B,).
    """

    hessian: Tensor
    gradient: Tensor
    cost: Tensor
    group_costs: Mapping[str, Tensor]


def normal_equations(
    groups: Mapping[str, Group],
    values: Values,
    structure: Structure,
    at: Mapping[str, Values] | None = None,
) -> NormalEquations:
    """Linearizes all groups and adds their products up.

    Args:
        groups: The problem.
        values: Where residuals are taken.
        structure: Of these groups over these values.
        at: For some groups, where their Jacobians are taken instead (first-estimates Jacobians).

    Raises:
        DnlsError: A group cannot be evaluated: names it, its arguments and the reason.
    """
    fixed = at or {}
    products = {
        name: explained(
            name,
            group,
            values,
            partial(group.products, values, structure.slots[name], fixed.get(name)),
        )
        for name, group in groups.items()
    }
    costs = {name: p.cost for name, p in products.items()}
    batch = max([values.batch, *(c.shape[0] for c in costs.values())])
    hessian = _add_up([p.hessian for p in products.values()], structure, "hessian", batch)
    gradient = _add_up([p.gradient for p in products.values()], structure, "gradient", batch)
    total = torch.stack([c.expand(batch) for c in costs.values()]).sum(0)
    return NormalEquations(hessian, gradient, total, costs)


def _add_up(parts: Sequence[Tensor], structure: Structure, what: Target, batch: int) -> Tensor:
    """The parts, side by side, added up where the structure says, (B, size).

    On the CPU they are taken in order; elsewhere that takes gathering, unless autograd records.
    """
    flat = [part.flatten(1).expand(batch, -1) for part in parts]
    if flat[0].device.type == "cpu" or torch.is_grad_enabled():
        return added(torch.cat(flat, 1), structure, what)
    return gathered(flat, structure, what)


def added(flat: Tensor, structure: Structure, what: Target) -> Tensor:
    """By adding each entry of (B, m) to its place; differentiable."""
    size, positions = structure.size(what), structure.positions(what)
    # One more place: a bin for what does not count.
    total = flat.new_zeros(len(flat), size + 1).scatter_add(1, positions.expand_as(flat), flat)
    return total[:, :size]


def gathered(flat: Sequence[Tensor], structure: Structure, what: Target) -> Tensor:
    """By gathering the terms of each sum: the same every time on every device."""
    sources, length = structure.sources(what, flat[0].device)
    room = length - sum(part.shape[1] for part in flat)
    buffer = torch.cat([*flat, flat[0].new_zeros(len(flat[0]), room)], 1)
    return sources.gather(buffer)
