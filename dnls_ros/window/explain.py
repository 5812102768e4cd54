"""The evidence of a step's measurements, gathered while it is at hand.

What a gate found is noted always, for it was computed anyway; residuals and robust weights after
the solve only where someone asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dnls_ros.problem import FactorGroup, Values
from dnls_ros.window.absorb import NewFactors, Registry
from dnls_ros.window.bodies import Array, Body
from dnls_ros.window.evidence import Evidence
from dnls_ros.window.gating import Innovation, threshold
from dnls_ros.window.lines import group_lines
from dnls_ros.window.state import Draft
from dnls_ros.window.wanted import Wanted


def note_tests(
    draft: Draft, new: NewFactors, tested: Innovation, keep: Tensor, probability: float
) -> None:
    """Notes what the gate found for each factor's measurement; the worst factor stands for all.

    Args:
        draft: Takes the notes.
        new: The factors under test.
        tested: Their innovations.
        keep: (M,) which passed.
        probability: Of the gate.
    """
    gate = threshold(tested.dim, probability)
    for source, nis in zip(new.sources, tested.nis.tolist(), strict=True):
        if source is None:
            continue
        known = draft.evidence.get(id(source), Evidence())
        worse = not nis / gate <= known.nis / known.gate
        dim = known.dim + tested.dim
        draft.evidence[id(source)] = (
            replace(known, dim=dim, nis=nis, gate=gate) if worse else replace(known, dim=dim)
        )
    if not bool(keep.all()):
        lost = tuple(m for m, kept in zip(new.sources, keep.tolist(), strict=True) if not kept)
        draft.shut_out.append(replace(new, group=new.group.select(~keep), sources=lost))


def explain(draft: Draft, solved: Values, registry: Registry, wanted: Wanted) -> None:
    """Notes what is ``wanted`` of a solved step, of its new factors and of those shut out.

    Args:
        draft: Takes the notes.
        solved: The values after the solve.
        registry: The tracks.
        wanted: What someone listens to.
    """
    if not (wanted.evidence or wanted.rejected):
        return
    with torch.inference_mode():
        if draft.predicted is not None:
            bodies = {rules.body.name: rules.body for rules in registry.rules.values()}
            _explain_rejected(draft, draft.predicted, bodies)
        if wanted.evidence:
            _explain_accepted(draft, solved)


def _explain_rejected(draft: Draft, predicted: Values, bodies: Mapping[str, Body]) -> None:
    """Residuals at the prediction, and the lines that show them."""
    for new in draft.shut_out:
        for source in {id(m): m for m in new.sources if m is not None}.values():
            rows = [k for k, m in enumerate(new.sources) if m is source]
            group = new.group.select(torch.tensor(rows))
            lines = group_lines(new.sensor, group, predicted, bodies)
            known = draft.evidence[id(source)]
            draft.evidence[id(source)] = replace(
                known,
                weight=0.0,
                residual=np.append(known.residual, group.whitened(predicted)[0].numpy()),
                lines=known.lines if lines is None else (*known.lines, lines),
            )


def _explain_accepted(draft: Draft, values: Values) -> None:
    """Residuals and robust weights, after the solve, of the step's new factors."""
    rejected = {id(m) for m, verdict in draft.verdicts if verdict is not None}
    for new in draft.fresh:
        rows = [k for k, m in enumerate(new.sources) if m is not None and id(m) not in rejected]
        rows = [k for k in rows if _is_there(new.group, k, values)]
        if not rows:
            continue
        white, weight = _judge(new.group.select(torch.tensor(rows)), values)
        for k, row in enumerate(rows):
            key = id(new.sources[row])
            known = draft.evidence.get(key, Evidence())
            draft.evidence[key] = replace(
                known,
                dim=len(known.residual) + white.shape[1],
                weight=float(np.fmin(known.weight, weight[k])),
                residual=np.concatenate([known.residual, white[k]]),
            )


def _judge(group: FactorGroup, values: Values) -> tuple[Array, Array]:
    """Whitened residuals (M, r) and robust weights (M,)."""
    white = group.whitened(values)
    if group.loss is None:
        return white[0].numpy(), np.ones(group.count)
    return white[0].numpy(), group.loss.weight(white.square().sum(-1))[0].expand(
        group.count
    ).numpy()


def _is_there(group: FactorGroup, row: int, values: Values) -> bool:
    """Whether all variables of a factor are among the values."""
    for ref in group.refs:
        ids = values.ids.get(ref.name)
        if ids is None or not bool((ids == ref.ids[row]).any()):
            return False
    return True
