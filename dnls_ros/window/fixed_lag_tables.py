"""The arrays of a window of fixed capacity: see `dnls_ros.window.fixed_lag`.

A factor given over the ids 0 … a says how a factor lies to the newest state, a. It becomes a
group with a row for every place in the window where it fits, so that row 0 touches slot 0.
Marginalization needs the row 0 of each group and the prior, over the slots that those touch: a
small problem of its own whose numbers are those of the window, only with a dense H.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnls_ros.costs import prior
from dnls_ros.errors import DnlsError
from dnls_ros.lie import LieGroup
from dnls_ros.linear import BlockCholesky
from dnls_ros.linear.block_cholesky import BlockSymbolic
from dnls_ros.optim.program import Floats, compiled, plan
from dnls_ros.optim.recipes import Recipe, recipe_of
from dnls_ros.problem import (
    DensePrior,
    FactorGroup,
    Group,
    Problem,
    Ref,
    Structure,
    Values,
    Variables,
)
from dnls_ros.problem.axes import map_leaves
from dnls_ros.problem.structure import Ints
from dnls_ros.problem.variables import on_storage
from dnls_ros.window.marginalize import PRIOR

UNUSED = "unused slots of "
"""Groups that hold the slots without a state; their rows are masked by and by."""


@dataclass(frozen=True, eq=False)
class Channel:
    """Where the numbers of one kind of factor lie.

    Attributes:
        span: How many states older its oldest variable is than its newest.
        last: Where the data, noise and loss of the newest row lie, and how many numbers they are.
        mask: Where its mask lies.
        measured: Which of the data the measurement is: begin and count.
        kind: Of the cost, in `dnls_ros.kernels.layout`.
    """

    span: int
    last: tuple[tuple[int, int], ...]
    mask: int
    measured: tuple[int, int]
    kind: int


@dataclass(frozen=True, eq=False)
class Plan:
    """A window's arrays.

    Attributes:
        values: The first values, (1, capacity, …) per block.
        structure: Of the whole window.
        symbolic: Its blocks.
        window: The program of the whole window.
        local: Of what touches slot 0.
        channels: Kind of factor → where its numbers lie.
        unused: Where the mask of each block's newest unused slot lies.
        tables: For the kernel.
    """

    values: Values
    structure: Structure
    symbolic: BlockSymbolic
    window: Any
    local: Any
    channels: Mapping[str, Channel]
    unused: tuple[int, ...]
    tables: Any


def make_plan(
    states: Sequence[Variables], capacity: int, factors: Mapping[str, FactorGroup]
) -> Plan:
    """Arrays for ``capacity`` states.

    Raises:
        DnlsError: A factor is none that kernels know, or does not fit a window.
    """
    spans = {name: _span(name, group, states, capacity) for name, group in factors.items()}
    reach = max(spans.values(), default=0)
    if not reach:
        raise DnlsError(
            f"fixed-lag window: no factor connects states of different time; got {list(factors)}. "
            "Give one over two ids, such as between(pose[0], pose[1], motion)"
        )
    values = _first_values(states, capacity)
    border = _dense(_first_values(states, reach))
    window = _compile(_whole(factors, spans, states, values, border), values)
    first = {
        name: replace(group, mask=torch.ones(1, 1, dtype=torch.float64))
        for name, group in factors.items()
    }
    local = _compile(Problem({**first, PRIOR: border}), _first_values(states, reach + 1))
    channels = {
        name: _channel(name, group, spans[name], capacity - spans[name], window)
        for name, group in factors.items()
    }
    unused = tuple(_mask_of(window, UNUSED + state.name) + capacity - 1 for state in states)
    small, tables = _local(local, window)
    return Plan(
        values,
        window.structure,
        BlockCholesky().analyze(window.structure.pattern),
        window.made,
        small,
        channels,
        unused,
        tables,
    )


@dataclass(frozen=True, eq=False)
class _Made:
    values: Values
    structure: Structure
    made: Any

    def row(self, name: str) -> Any:
        """The row of a group in the table of groups."""
        return self.made.program.groups[self.made.names.index(name)]


def _compile(problem: Problem, values: Values) -> _Made:
    structure = Structure.of(problem, values)
    planned = plan(problem, structure, values)
    refused = {name: why for name, why in planned.items() if isinstance(why, str)}
    if refused:
        raise DnlsError(
            "fixed-lag window: factors must be known to kernels, but "
            + "; ".join(f"'{name}': {why}" for name, why in refused.items())
            + ". Take `minimize` and `marginalize` for these"
        )
    return _Made(values, structure, compiled(problem, structure, values, planned))


def _span(name: str, group: FactorGroup, states: Sequence[Variables], capacity: int) -> int:
    known = {state.name for state in states}
    ids = [int(i) for ref in group.refs for i in ref.ids]
    if group.count != 1 or group.batch != 1:
        raise DnlsError(
            f"fixed-lag window: '{name}' must be one factor, which says how it lies to the newest "
            f"state; got {group.count} factors in a batch of {group.batch}"
        )
    strangers = {ref.name for ref in group.refs} - known
    if strangers:
        raise DnlsError(
            f"fixed-lag window: '{name}' is about {sorted(strangers)}, "
            f"but the states are {sorted(known)}"
        )
    if min(ids) != 0 or max(ids) >= capacity:
        raise DnlsError(
            f"fixed-lag window: '{name}' has the ids {sorted(set(ids))}, expected 0 for its "
            f"oldest state up to the newest, at most {capacity - 1} for a window of {capacity}"
        )
    return max(ids)


def _first_values(states: Sequence[Variables], count: int) -> Values:
    ids = torch.arange(count)
    return Values(
        {s.name: s.manifold.identity(1, count, dtype=torch.float64) for s in states},
        {state.name: ids for state in states},
    )


def _dense(point: Values) -> DensePrior:
    n = sum(block.stop - block.offset for block in point.layout())
    nothing = torch.zeros(1, n, n, dtype=torch.float64)
    return DensePrior(point, nothing, nothing[:, 0])


def _whole(
    factors: Mapping[str, FactorGroup],
    spans: Mapping[str, int],
    states: Sequence[Variables],
    values: Values,
    border: DensePrior,
) -> Problem:
    capacity = len(values.ids[states[0].name])
    groups: dict[str, Group] = {}
    for name, group in factors.items():
        groups[name] = _rows(group, capacity - spans[name])
    for state in states:
        at = torch.arange(capacity)
        held = prior(state[at], values[state.name])
        groups[UNUSED + state.name] = replace(
            held, mask=torch.ones(1, capacity, dtype=torch.float64)
        )
    groups[PRIOR] = border
    return Problem(groups)


def _rows(group: FactorGroup, count: int) -> FactorGroup:
    """``count`` copies of a factor, each one state later than the one before; all masked."""
    at = torch.arange(count)

    def repeated(leaf: Tensor) -> Tensor:
        return leaf.expand(1, count, *leaf.shape[2:]).contiguous()

    return replace(
        group,
        refs=tuple(Ref(ref.name, ref.ids + at) for ref in group.refs),
        arguments=map_leaves(repeated, group.arguments),
        noise=map_leaves(repeated, group.noise),
        loss=map_leaves(repeated, group.loss),
        mask=torch.zeros(1, count, dtype=torch.float64),
    )


def _channel(name: str, group: FactorGroup, span: int, rows: int, made: _Made) -> Channel:
    from dnls_ros.kernels import layout as c

    row, recipe = made.row(name), recipe_of(group, made.values)
    assert isinstance(recipe, Recipe)
    widths = tuple(part.size for part in numbers_of(recipe))
    begins = row[c.DATA], row[c.NOISE_AT], row[c.LOSS_AT]
    last = tuple(int(at) + (rows - 1) * width for at, width in zip(begins, widths, strict=True))
    return Channel(
        span,
        tuple(zip(last, widths, strict=True)),
        int(row[c.MASK]) + rows - 1,
        _measured(group, made.values),
        recipe.kind,
    )


def numbers_of(recipe: Recipe) -> tuple[Floats, Floats, Floats]:
    """The numbers of one factor: data, noise and loss."""
    parts = recipe.data, recipe.noise[1], recipe.loss[1]
    return tuple(  # pyright: ignore[reportReturnType]
        np.zeros(0) if part is None else part.detach().numpy().reshape(-1) for part in parts
    )


def _measured(group: FactorGroup, values: Values) -> tuple[int, int]:
    """Which of the data the measurement is: it is marked, and looked for."""
    for k in reversed(range(len(group.arguments))):
        argument = group.arguments[k]
        if isinstance(argument, Tensor | LieGroup):
            marked = on_storage(argument, lambda t: torch.full_like(t, torch.nan))
            arguments = (*group.arguments[:k], marked, *group.arguments[k + 1 :])
            recipe = recipe_of(replace(group, arguments=arguments), values)
            assert isinstance(recipe, Recipe)
            at = np.flatnonzero(np.isnan(recipe.data.numpy().reshape(-1)))
            return int(at[0]), len(at)
    return 0, 0


def _mask_of(made: _Made, name: str) -> int:
    from dnls_ros.kernels import layout as c

    return int(made.row(name)[c.MASK])


def _local(local: _Made, window: _Made) -> tuple[Any, Any]:
    """The program of slot 0 on the numbers of the window, and the tables of a step."""
    from dnls_ros.kernels import layout as c
    from dnls_ros.kernels.fixed_lag import Tables

    own, whole = local.made.program, window.made.program
    groups = own.groups.copy()
    for row, name in zip(groups, local.made.names, strict=True):
        for at in (c.DATA, c.NOISE_AT, c.LOSS_AT, c.MASK):
            row[at] = window.row(name)[at]
    n = local.structure.n
    order, leaving = _leaving_first(local.values)
    rows, columns = order[local.structure.pattern.rows], order[local.structure.pattern.columns]
    dense = np.maximum(rows, columns) * n + np.minimum(rows, columns)
    slots, tangents = _moved(local, _state_map(own.blocks, whole.blocks), order)
    program = own._replace(
        groups=groups,
        slots=slots,
        tangents=tangents,
        positions=dense[own.positions],
        blocks=whole.blocks,
        data=whole.data,
    )
    border = window.row(PRIOR)
    tables = Tables(
        sizes=np.array([leaving, n]),
        prior=border[[c.DATA, c.NOISE_AT, c.LOSS_AT, c.MASK]],
        copies=_copies(whole.blocks, len(next(iter(local.values.ids.values()))) - 1),
        states=np.stack([whole.blocks[:, 2], whole.blocks[:, 1], whole.blocks[:, 3]], 1),
        rows=_segments(window),
        room=np.empty((5, max(local.made.room, window.made.room))),
        work=np.empty((5, n * n + len(groups))),
    )
    return program, tables


def _leaving_first(values: Values) -> tuple[Ints, int]:
    """Where each unknown goes if those of slot 0 come first, and how many they are."""
    blocks = values.layout()
    first = sum(block.tangent_dim for block in blocks)
    order = np.empty(blocks[-1].stop, np.int64)
    lead, rest = 0, first
    for block in blocks:
        t, count = block.tangent_dim, (block.count - 1) * block.tangent_dim
        order[block.offset : block.offset + t] = np.arange(lead, lead + t)
        order[block.offset + t : block.stop] = np.arange(rest, rest + count)
        lead, rest = lead + t, rest + count
    return order, first


def _state_map(few: Ints, all_: Ints) -> Ints:
    """Where each number of the small state lies in the whole one."""
    parts = [whole[2] + np.arange(own[1] * own[3]) for own, whole in zip(few, all_, strict=True)]
    return np.concatenate(parts)


def _moved(local: _Made, place: Ints, order: Ints) -> tuple[Ints, Ints]:
    """The slots and tangents of the small program in the whole state, and leaving first."""
    from dnls_ros.kernels import layout as c

    program = local.made.program
    slots, tangents = program.slots.copy(), program.tangents.copy()
    for row in program.groups:
        step = 3 if row[c.KIND] == c.DENSE else 1  # the prior's are triples
        part = slice(row[c.SLOT], row[c.SLOT] + row[c.COUNT] * row[c.REFS], step)
        slots[part], tangents[part] = place[program.slots[part]], order[program.tangents[part]]
    return slots, tangents


def _copies(blocks: Ints, reach: int) -> Ints:
    """The states in slots 1 … reach are the prior's point."""
    rows, at = [], 0
    for _, _, begin, width, _, _ in blocks.tolist():
        rows.append((begin + width, at, reach * width))
        at += reach * width
    return np.array(rows, np.int64)


def _segments(window: _Made) -> Ints:
    """Begin, rows and width of what moves up with the factors."""
    from dnls_ros.kernels import layout as c

    columns = (c.DATA, c.DATA_ROW), (c.NOISE_AT, c.NOISE_ROW), (c.LOSS_AT, c.LOSS_ROW)
    found = []
    for row in window.made.program.groups:
        if row[c.KIND] == c.DENSE:
            continue
        found += [(row[at], row[c.COUNT], row[width]) for at, width in columns if row[width] > 0]
        found.append((row[c.MASK], row[c.COUNT], 1))
    return np.array(found, np.int64)
