"""Marginalization: variables leave, what they knew stays as one dense prior on their neighbours.

All factors that touch a leaving variable, and the previous prior, are linearized; the Schur
complement of the leaving part is the information the others keep, and its square root is the new
prior. Exact for linear problems; for nonlinear ones the linearization is frozen here, at the
current values or, with first estimates, at the points where the previous prior was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dnls_ros.lie import Element
from dnls_ros.optim import Assembly
from dnls_ros.problem import (
    DensePrior,
    FactorGroup,
    Group,
    NormalEquations,
    Problem,
    Structure,
    Values,
    normal_equations,
)
from dnls_ros.problem.variables import among, on_storage

PRIOR = "window.prior"
"""Name of the marginal prior among the groups; names of sensors have no dot."""
Leaving = Mapping[str, Tensor]
"""Block name → (N,) bool, which of its variables leave."""


@dataclass(frozen=True, eq=False)
class Marginalized:
    """What is left, and what was taken out.

    Attributes:
        values: The variables that stay.
        prior: What the leaving variables knew about the others; None if nothing.
        removed_values: The variables that left.
        all_groups: All factors.
        hits: Group → (M,) which of its factors touch a leaving variable.
    """

    values: Values
    prior: DensePrior | None
    removed_values: Values
    all_groups: Mapping[str, FactorGroup]
    hits: Mapping[str, Tensor]

    @cached_property
    def groups(self) -> dict[str, FactorGroup]:
        """Factors that touch none of the leaving variables."""
        return self.left(self.all_groups)

    @cached_property
    def removed(self) -> dict[str, FactorGroup]:
        """Factors that were absorbed by the prior."""
        return _parts(self.all_groups, self.hits)

    def left(self, names: Iterable[str]) -> dict[str, FactorGroup]:
        """Those of some groups that touch none of the leaving variables."""
        return _parts({n: self.all_groups[n] for n in names}, {n: ~self.hits[n] for n in names})


def marginalize(
    groups: Mapping[str, FactorGroup],
    prior: DensePrior | None,
    values: Values,
    leaving: Leaving,
    first_estimates: bool = False,
    assembly: Assembly | None = None,
) -> Marginalized:
    """Takes the ``leaving`` variables out of the problem.

    Args:
        groups: All factors, those between states included.
        prior: The marginal prior so far.
        values: The linearization point.
        leaving: Which variables go.
        first_estimates: Keep the previous prior's linearization point for the variables that it
            touches.
        assembly: Of exactly these factors and values, if there is one: kernels then linearize.
    """
    slots = _slots(groups, values) if assembly is None else assembly.structure.slots
    hits = _hits(groups, slots, leaving)
    kept = values
    for name, mask in leaving.items():
        kept = kept.select(name, ~mask)
    removed_values = _subset(
        values, {name: mask for name, mask in leaving.items() if bool(mask.any())}
    )
    touched = [name for name, hit in hits.items() if bool(hit.any())]
    new_prior = None
    if touched or prior is not None:
        normal = None
        if assembly is not None and not first_estimates and values.batch == 1:
            border = {} if prior is None else {PRIOR: torch.ones(1, dtype=torch.bool)}
            made = assembly.of_some(values, {**{n: hits[n] for n in touched}, **border})
            normal = None if made is None else (assembly.structure, made)
        masks = _involved_masks(groups, slots, hits, prior, values)
        involved: dict[str, Group] = {}
        if normal is None:
            involved.update(_parts(groups, hits))
            if prior is not None:
                involved[PRIOR] = prior
        new_prior = _schur(involved, masks, prior, values, leaving, first_estimates, normal)
    return Marginalized(kept, new_prior, removed_values, groups, hits)


def _slots(groups: Mapping[str, FactorGroup], values: Values) -> Mapping[str, tuple[Tensor, ...]]:
    return {name: group.slots(values) for name, group in groups.items()}


def _hits(
    groups: Mapping[str, FactorGroup],
    slots: Mapping[str, tuple[Tensor, ...]],
    leaving: Leaving,
) -> dict[str, Tensor]:
    """Group → (M,) which factors touch a leaving variable."""
    out: dict[str, Tensor] = {}
    for name, group in groups.items():
        hit = np.zeros(group.count, bool)
        for ref, at in zip(group.refs, slots[name], strict=True):
            if ref.name in leaving:
                hit |= leaving[ref.name].numpy()[at.numpy()]
        out[name] = torch.from_numpy(hit)
    return out


def _parts(
    groups: Mapping[str, FactorGroup], chosen: Mapping[str, Tensor]
) -> dict[str, FactorGroup]:
    """The chosen factors; groups without any are left out."""
    return {
        name: group.select(chosen[name])
        for name, group in groups.items()
        if bool(chosen[name].any())
    }


def _subset(values: Values, masks: Mapping[str, Tensor]) -> Values:
    def part(name: str, mask: Tensor) -> Element:
        return on_storage(values[name], lambda t: t[:, mask])

    return Values(
        {n: part(n, m) for n, m in masks.items()},
        {n: values.ids[n][m] for n, m in masks.items()},
        checked=True,
    )


def _schur(
    involved: Mapping[str, Group],
    masks: Mapping[str, Tensor],
    prior: DensePrior | None,
    values: Values,
    leaving: Leaving,
    first: bool,
    normal: tuple[Structure, NormalEquations] | None,
) -> DensePrior | None:
    local = _subset(values, masks)
    point = _linearization_point(local, prior) if first else local
    gone = _flags(local, values, leaving)
    if bool(gone.all()):
        return None
    if normal is None:
        problem = Problem(involved)
        structure = Structure.of(problem, local)
        fixed = dict.fromkeys(involved, point) if first else None
        made = normal_equations(problem, local, structure, fixed)
        matrix, slope = structure.pattern.dense(made.hessian), made.gradient
    else:
        matrix, slope = _of_involved(*normal, _tangent_mask(values, masks))
    information, gradient = schur_complement(matrix, slope, gone)
    stay = {name: ~_leaving_here(name, local, values, leaving) for name in local}
    kept = _subset(local, {name: mask for name, mask in stay.items() if bool(mask.any())})
    kept_point = _subset(point, {name: mask for name, mask in stay.items() if bool(mask.any())})
    if first:
        # g was taken at the current values; the quadratic is written around the first estimates.
        shift = kept_point.local(kept)
        gradient = gradient - (information @ shift[..., None])[..., 0]
    return DensePrior.from_information(kept_point, information, gradient, first)


def _of_involved(
    structure: Structure, normal: NormalEquations, involved: Tensor
) -> tuple[Tensor, Tensor]:
    """H (1, k, k) and g (1, k) of some entries of the tangent; the others have none in H."""
    at = np.flatnonzero(involved.numpy())
    place = np.full(structure.n, -1)
    place[at] = np.arange(len(at))
    pattern = structure.pattern
    rows, columns = place[pattern.rows], place[pattern.columns]
    there = (rows >= 0) & (columns >= 0)
    entries = normal.hessian[0].numpy()[there]
    matrix = np.zeros((len(at), len(at)))
    matrix[rows[there], columns[there]] = entries
    matrix[columns[there], rows[there]] = entries
    return torch.from_numpy(matrix)[None], normal.gradient[:, torch.from_numpy(at)]


def _tangent_mask(values: Values, masks: Mapping[str, Tensor]) -> Tensor:
    """(n,) the entries of the tangent of masked variables."""
    return torch.cat(
        [
            masks.get(block.name, torch.zeros(block.count, dtype=torch.bool)).repeat_interleave(
                block.tangent_dim
            )
            for block in values.layout()
        ]
    )


def schur_complement(matrix: Tensor, gradient: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
    """Information and gradient (B, k, k), (B, k) of the variables that stay.

    Args:
        matrix: (B, n, n) H.
        gradient: (B, n) g.
        gone: (n,) bool, which entries leave. Directions of theirs without information carry
            nothing over.
    """
    m, k = gone.nonzero()[:, 0], (~gone).nonzero()[:, 0]
    rows = matrix.index_select(1, m)
    h_mm, h_mk = rows.index_select(2, m), rows.index_select(2, k)
    h_kk = matrix.index_select(1, k).index_select(2, k)
    right = torch.cat([h_mk, gradient.index_select(1, m)[..., None]], 2)
    lower, info = torch.linalg.cholesky_ex(h_mm)
    if bool((info == 0).all()):
        solved = torch.cholesky_solve(right, lower)
    else:
        solved = torch.linalg.pinv(h_mm, hermitian=True, rtol=1e-13) @ right
    information = h_kk - h_mk.mT @ solved[..., :-1]
    reduced = gradient.index_select(1, k) - (h_mk.mT @ solved[..., -1:])[..., 0]
    return 0.5 * (information + information.mT), reduced


def _involved_masks(
    groups: Mapping[str, FactorGroup],
    slots: Mapping[str, tuple[Tensor, ...]],
    hits: Mapping[str, Tensor],
    prior: DensePrior | None,
    values: Values,
) -> dict[str, Tensor]:
    """Block → (N,) which variables the prior or a factor of a leaving variable touches."""
    masks: dict[str, Tensor] = {}
    for name, ids in values.ids.items():
        mask = np.zeros(len(ids), bool)
        if prior is not None and name in prior.point:
            mask |= among(ids, [prior.point.ids[name]]).numpy()
        for group_name, group in groups.items():
            for ref, at in zip(group.refs, slots[group_name], strict=True):
                if ref.name == name:
                    mask[at.numpy()[hits[group_name].numpy()]] = True
        if mask.any():
            masks[name] = torch.from_numpy(mask)
    return masks


def _leaving_here(name: str, local: Values, values: Values, leaving: Leaving) -> Tensor:
    ids = local.ids[name]
    return among(ids, [values.ids[name][leaving[name]]] if name in leaving else [])


def _flags(local: Values, values: Values, leaving: Leaving) -> Tensor:
    """(n,) which entries of the local tangent vector leave."""
    parts = [
        _leaving_here(block.name, local, values, leaving).repeat_interleave(block.tangent_dim)
        for block in local.layout()
    ]
    return torch.cat(parts)


def _linearization_point(local: Values, prior: DensePrior | None) -> Values:
    return local if prior is None else local.overwrite(prior.point)
