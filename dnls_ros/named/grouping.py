"""Named costs become factor groups.

Costs with the same function, the same kinds of arguments in the same blocks and the same kind of
noise and loss become one `FactorGroup`; variables of one manifold (or of one named block) become
one block, with their order of declaration as ids. Done once per structure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dnls_ros.errors import DnlsError
from dnls_ros.named.columns import Column, Constants, Gathered, Made, shape_of
from dnls_ros.named.kinds import Kind, Structured
from dnls_ros.named.plan import GroupPlan, Plan, Variable
from dnls_ros.named.row import Exp, Named, Row, name_of
from dnls_ros.problem import Ref


def plan_of(
    variables: Mapping[str, Variable], data: Mapping[str, Kind], rows: Sequence[Row]
) -> Plan:
    """Groups the rows.

    Raises:
        DnlsError: There is nothing to optimize, or a variable that no cost takes.
    """
    used = {name for row in rows for name in (*row.argument_names(), *row.weight_names())}
    lonely = [name for name in variables if name not in used]
    if lonely or not variables:
        what = f"no cost takes {lonely[:3]}" if lonely else "there is nothing to optimize"
        raise DnlsError(
            f"the objective has {len(variables)} variables and {len(rows)} costs: {what}; every "
            "variable needs a cost"
        )
    members: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        members.setdefault(_signature(row, variables, data), []).append(row)
    blocks: dict[str, list[str]] = {}
    for name, variable in variables.items():
        blocks.setdefault(variable.block, []).append(name)
    constants = Constants()
    with torch.inference_mode(False):  # made once, used under any mode
        groups = tuple(_group(g, variables, data, constants) for g in members.values())
        ids = {block: torch.arange(len(names)) for block, names in blocks.items()}
    return Plan(
        dict(variables),
        {block: tuple(names) for block, names in blocks.items()},
        dict(data),
        tuple(rows),
        groups,
        tuple(constants.leaves),
        frozenset(used - variables.keys()),
        ids,
    )


def _signature(
    row: Row, variables: Mapping[str, Variable], data: Mapping[str, Kind]
) -> tuple[Any, ...]:
    """What rows must have in common to be factors of one group."""

    def of_name(name: str) -> Any:
        if name in variables:
            return ("variable", variables[name].block)
        kind = data[name]  # structured data can be shared, but not put side by side
        return (kind, name) if isinstance(kind, Structured) else kind

    def of_weighting(given: Any) -> Any:
        if not isinstance(given, Named):
            return None if given is None else shape_of(given)
        sources = ((type(s), data.get(name_of(s) or "")) for s in given.sources)
        return (given.kind, *sources)

    arguments = (of_name(a) if isinstance(a, str) else shape_of(a) for a in row.arguments)
    weighting = of_weighting(row.noise), of_weighting(row.loss), row.mask is not None
    return (row.cost, *arguments, *weighting)


def _group(
    rows: Sequence[Row],
    variables: Mapping[str, Variable],
    data: Mapping[str, Kind],
    constants: Constants,
) -> GroupPlan:
    first = rows[0]

    def column(where: str, sources: Sequence[Any]) -> Ref | Column:
        name = name_of(sources[0])
        if name is None:
            return constants.fixed(where, sources, axes=0)
        if name in variables:
            places = [variables[n] for n in sources]
            return Ref(places[0].block, torch.tensor([place.id for place in places]))
        names = tuple(str(name_of(s)) for s in sources)
        shared = len(set(names)) == 1
        return Gathered(data[name], names[:1] if shared else names, isinstance(sources[0], Exp))

    def weighting(what: str, given: Sequence[Any]) -> Column | Made | None:
        where = f"cost '{first.name}': {what}"
        if given[0] is None:
            return None
        if not isinstance(given[0], Named):
            return constants.fixed(where, given, axes=2)
        parts = zip(*(named.sources for named in given), strict=True)
        return Made(given[0].kind, tuple(column(where, part) for part in parts))  # pyright: ignore[reportArgumentType]

    return GroupPlan(
        tuple(row.name for row in rows),
        first.cost,
        tuple(
            column(f"cost '{first.name}': {parameter}", [row.arguments[k] for row in rows])
            for k, parameter in enumerate(first.cost.parameters)
        ),
        weighting("noise", [row.noise for row in rows]),
        weighting("loss", [row.loss for row in rows]),
        None if first.mask is None else column("mask", [row.mask for row in rows]),  # pyright: ignore[reportArgumentType]
    )
