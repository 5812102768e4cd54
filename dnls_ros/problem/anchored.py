"""Factor groups of which some variables are held where they are.

A variable that does not move is data: it has no place in the tangent and no prior to hold it. One
set of factors becomes one group for each way in which its variables are free or held.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.problem.cost import Cost
from dnls_ros.problem.factors import FactorGroup
from dnls_ros.problem.variables import Ref, Values
from dnls_ros.problem.weighting import Noise


def anchored_groups(
    name: str,
    cost: Cost,
    refs: tuple[Ref, ...],
    data: tuple[Any, ...],
    held: Values,
    noise: Noise | None = None,
) -> dict[str, FactorGroup]:
    """M factors ``cost(*refs, *data)``, with the variables of ``held`` as constants.

    Args:
        name: Of the group; those with held variables are called ``name_held_0``, ``name_held_1``.
        cost: Takes the references first.
        refs: Each with M ids.
        data: The other arguments, leaves (B|1, M, …).
        held: The variables that do not move, with their values.
        noise: Leaves (B|1, M, …).

    Returns:
        The groups that have a factor. Factors of held variables only are constant: left out.
    """
    known = [_is_held(ref, held) for ref in refs]
    groups: dict[str, FactorGroup] = {}
    for pattern in product((False, True), repeat=len(refs)):
        rows = torch.stack([k == p for k, p in zip(known, pattern, strict=True)]).all(0)
        if all(pattern) or not bool(rows.any()):
            continue
        chosen = [Ref(ref.name, ref.ids[rows]) for ref in refs]
        ends = [held.gather(r) if p else r for r, p in zip(chosen, pattern, strict=True)]
        label = "_".join([name, *(f"held_{k}" for k, is_held in enumerate(pattern) if is_held)])
        groups[label] = cost(*ends, *(_rows(d, rows) for d in data), noise=_rows(noise, rows))
    return groups


def _is_held(ref: Ref, held: Values) -> Tensor:
    if ref.name not in held:
        return torch.zeros(len(ref), dtype=torch.bool)
    return torch.isin(ref.ids, held.ids[ref.name])


def _rows(tree: Any, rows: Tensor) -> Any:
    """The factors of ``rows`` (M,) from leaves (B|1, M, …)."""
    return None if tree is None else pytree.tree_map(lambda leaf: leaf[:, rows], tree)
