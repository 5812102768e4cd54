"""Marginalization: variables leave, what they knew stays as one dense prior on their neighbours.

All factors that touch a leaving variable, and the previous prior, are linearized; the Schur
complement of the leaving part is the information the others keep, and its square root is the new
prior. Exact for linear problems; for nonlinear ones the linearization is frozen here, at the
current values or, with first estimates, at the points where the previous prior was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
        groups: Factors that touch none of the leaving variables.
        prior: What the leaving variables knew about the others; None if nothing.
        removed: Factors that were absorbed by the prior.
        removed_values: The variables that left.
    """

    values: Values
    groups: dict[str, FactorGroup]
    prior: DensePrior | None
    removed: dict[str, FactorGroup]
    removed_values: Values


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
    hits = _hits(groups, values, leaving)
    touched, rest = _split(groups, hits)
    kept = values
    for name, mask in leaving.items():
        kept = kept.select(name, ~mask)
    removed_values = _subset(
        values, {name: mask for name, mask in leaving.items() if bool(mask.any())}
    )
    involved: dict[str, Group] = dict(touched)
    if prior is not None:
        involved[PRIOR] = prior
    new_prior = None
    if involved:
        normal = None
        if assembly is not None and not first_estimates and values.batch == 1:
            border = {} if prior is None else {PRIOR: torch.ones(1, dtype=torch.bool)}
            made = assembly.of_some(values, {**{n: hits[n] for n in touched}, **border})
            normal = None if made is None else (assembly.structure, made)
        new_prior = _schur(involved, prior, values, leaving, first_estimates, normal)
    return Marginalized(kept, rest, new_prior, touched, removed_values)


def _hits(
    groups: Mapping[str, FactorGroup], values: Values, leaving: Leaving
) -> dict[str, Tensor]:
    """Group → (M,) which factors touch a leaving variable."""
    out: dict[str, Tensor] = {}
    for name, group in groups.items():
        hit = torch.zeros(group.count, dtype=torch.bool)
        for ref in group.refs:
            if ref.name in leaving:
                hit |= leaving[ref.name][values.slots(ref)]
        out[name] = hit
    return out


def _split(
    groups: Mapping[str, FactorGroup], hits: Mapping[str, Tensor]
) -> tuple[dict[str, FactorGroup], dict[str, FactorGroup]]:
    """Factors that touch a leaving variable, and the others."""
    touched: dict[str, FactorGroup] = {}
    rest: dict[str, FactorGroup] = {}
    for name, group in groups.items():
        hit = hits[name]
        if bool(hit.all()):
            touched[name] = group
        elif bool(hit.any()):
            touched[name], rest[name] = group.select(hit), group.select(~hit)
        else:
            rest[name] = group
    return touched, rest


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
    prior: DensePrior | None,
    values: Values,
    leaving: Leaving,
    first: bool,
    normal: tuple[Structure, NormalEquations] | None,
) -> DensePrior | None:
    masks = _involved_masks(involved, values)
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


def _involved_masks(involved: Mapping[str, Group], values: Values) -> dict[str, Tensor]:
    masks: dict[str, Tensor] = {}
    for name, ids in values.ids.items():
        seen = [r.ids for group in involved.values() for r in group.refs if r.name == name]
        if seen:
            masks[name] = among(ids, seen)
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
