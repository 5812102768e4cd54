"""An objective whose structure is settled: a call only fills in numbers.

Once per structure: `dnls_ros.named.grouping` makes factor groups of the named costs. Once per
call: the inputs are held to what was declared, put side by side, and an ordinary problem with
starting values comes out. The sparse structure and the symbolic factorization are kept from call
to call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.lie import LieGroup
from dnls_ros.named.bound import Bound
from dnls_ros.named.columns import (
    Column,
    Gathered,
    Inputs,
    Made,
    side_by_side,
)
from dnls_ros.named.kinds import Kind, Space, nearest
from dnls_ros.named.row import Row
from dnls_ros.problem import (
    Cost,
    FactorGroup,
    Problem,
    Ref,
    SquareRootInformation,
    StructureCache,
    Values,
)

KEPT = 3
"""Structures that are kept: adjoints may solve variants of the problem, with a factor more."""


@dataclass(frozen=True)
class Variable:
    """A variable's manifold and its place.

    Attributes:
        space: Where it lives.
        block: The block that holds it.
        id: Its id there: the number of variables before it.
    """

    space: Space
    block: str
    id: int


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """How a factor group is filled in.

    Attributes:
        names: Of its costs, one per factor.
        cost: What they evaluate.
        arguments: In the order of the cost's parameters.
        noise: None = white.
        loss: None = least squares.
        mask: None = all count.
    """

    names: tuple[str, ...]
    cost: Cost
    arguments: tuple[Ref | Column, ...]
    noise: Column | Made | None
    loss: Column | Made | None
    mask: Gathered | None

    def group(self, inputs: Inputs) -> FactorGroup:
        """The group with a call's numbers."""
        filled = [a if isinstance(a, Ref) else a.column(inputs) for a in self.arguments]
        noise, loss, mask = (
            None if part is None else part.column(inputs)
            for part in (self.noise, self.loss, self.mask)
        )
        live = None if mask is None else mask.expand(-1, len(self.names))
        return self.cost(*filled, noise=noise, loss=loss, mask=live)

    def describe(self) -> str:
        """Its costs, for messages."""
        first, *others = self.names
        return f"cost '{first}'" + (f" (and {len(others)} like it)" if others else "")


@dataclass(eq=False)
class _Memory:
    """What a plan learns from its calls: the structure, and that its groups fit together."""

    structures: StructureCache = field(default_factory=lambda: StructureCache(KEPT))
    checked: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """An objective whose structure is settled.

    Attributes:
        variables: name → place.
        blocks: block → names of its variables by id.
        data: name → kind, of all data that were declared.
        rows: The named costs in order.
        groups: What they become.
        constants: Leaves of all constants.
        needed: Names of the data that some cost takes.
        ids: block → its ids, 0 … N − 1.
        memory: What was found out at earlier calls.
    """

    variables: Mapping[str, Variable]
    blocks: Mapping[str, tuple[str, ...]]
    data: Mapping[str, Kind]
    rows: tuple[Row, ...]
    groups: tuple[GroupPlan, ...]
    constants: tuple[Tensor, ...]
    needed: frozenset[str]
    ids: Mapping[str, Tensor]
    memory: _Memory = field(default_factory=_Memory, repr=False)

    def __deepcopy__(self, memo: object) -> Plan:
        return self

    def bind(self, given: Mapping[str, Any], constants: Sequence[Tensor] | None = None) -> Bound:
        """The problem and the starting values of a call.

        Args:
            given: name → element or tensor (B|1, …), for all variables and all needed data.
            constants: The plan's constants in another dtype or on another device.

        Raises:
            DnlsError: Names are missing or unknown, or an input does not fit its name.
        """
        tensors, batch = self._read(given)
        like = next(iter(tensors.values()))
        inputs = Inputs(tensors, self.constants if constants is None else constants, like)
        blocks = {
            block: self.variables[names[0]].space.element(
                side_by_side([tensors[name] for name in names], batch)
            )
            for block, names in self.blocks.items()
        }
        values = Values(blocks, self.ids, checked=True)
        groups = {plan.names[0]: plan.group(inputs) for plan in self.groups}
        problem = Problem(groups, self.memory.structures)
        if not self.memory.checked:
            for plan, group in zip(self.groups, groups.values(), strict=True):
                _check_group(plan, group, values)
            self.memory.checked = True
        wrapped = frozenset(n for n in self.variables if isinstance(given[n], LieGroup))
        names = tuple(plan.names for plan in self.groups)
        return Bound(
            problem, values, self.blocks, names, tuple(r.name for r in self.rows), wrapped
        )

    def declarations(self) -> dict[str, Any]:
        """All that was declared and added, as plain data that `Objective.declared` takes."""
        return {
            "variables": tuple((n, v.space.declared, v.block) for n, v in self.variables.items()),
            "data": tuple((name, kind.declared) for name, kind in self.data.items()),
            "costs": self.rows,
        }

    def kind(self, name: str) -> Kind:
        """What a name stands for.

        Raises:
            DnlsError: It is unknown; names the nearest.
        """
        if name in self.variables:
            return self.variables[name].space
        if name not in self.data:
            raise DnlsError(
                f"'{name}' is neither a variable nor data of this objective"
                f"{nearest(name, (*self.variables, *self.data))}"
            )
        return self.data[name]

    def check_complete(self, given: Mapping[str, Any]) -> None:
        """Raises a `DnlsError` that names what is unknown or missing."""
        for name in given:
            self.kind(name)
        wanted = [*self.variables, *(n for n in self.data if n in self.needed)]
        missing = [name for name in wanted if name not in given]
        if missing:
            kinds = ", ".join(f"'{name}' ({self.kind(name)})" for name in missing[:3])
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise DnlsError(
                f"the inputs lack {kinds}{more}; they name {len(given)} of {len(wanted)}: every "
                "variable needs a starting value and every datum a value"
            )

    def _read(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """name → storage tensor or structured data, held to their kinds and to one another; B."""
        self.check_complete(given)
        tensors = {
            name: self.kind(name).read(describe(name, self.variables), given[name])
            for name in (*self.variables, *(n for n in self.data if n in given))
        }
        return tensors, self._batch(tensors)

    def _batch(self, tensors: Mapping[str, Any]) -> int:
        """B, of inputs in one dtype on one device."""
        first = next(iter(tensors))
        like, batch, largest = tensors[first], 1, first
        if not like.is_floating_point():
            raise DnlsError(f"{describe(first, self.variables)} is in {like.dtype}, not in floats")
        leaves = [
            (name, leaf)
            for name, tree in tensors.items()
            for leaf in ((tree,) if isinstance(tree, Tensor) else pytree.tree_leaves(tree))
        ]
        for name, leaf in leaves:
            floats = leaf.is_floating_point() or name in self.variables
            if leaf.device != like.device or (floats and leaf.dtype != like.dtype):
                raise DnlsError(
                    f"{describe(name, self.variables)} is in {leaf.dtype} on {leaf.device}, "
                    f"'{first}' in {like.dtype} on {like.device}; convert one of them"
                )
            if leaf.shape[0] > batch:
                batch, largest = leaf.shape[0], name
        for name, leaf in leaves:
            if leaf.shape[0] not in (1, batch):
                raise DnlsError(
                    f"{describe(name, self.variables)} has batch size {leaf.shape[0]}, "
                    f"'{largest}' has {batch}; give 1 or {batch}"
                )
        return batch


def describe(name: str, variables: Mapping[str, Any]) -> str:
    """A name for messages."""
    return f"variable '{name}'" if name in variables else f"data '{name}'"


def _check_group(plan: GroupPlan, group: FactorGroup, values: Values) -> None:
    """Evaluates the group once, so that what does not fit together is told by name.

    Raises:
        DnlsError: The cost fails, its residual is no vector, or the noise has another length.
    """
    try:
        with torch.no_grad():
            residual = replace(group, noise=None, loss=None).whitened(values)
    except DnlsError as error:
        raise DnlsError(f"{plan.describe()}: {error}") from error
    except Exception as error:  # a user's function may raise anything
        raise DnlsError(
            f"{plan.describe()}: {plan.cost.name} cannot be evaluated: "
            f"{type(error).__name__}: {error}"
        ) from error
    if group.noise is None:
        return
    try:
        white = group.noise.whiten(residual)
    except RuntimeError:
        white = None
    free = isinstance(group.noise, SquareRootInformation)  # it may select rows
    if white is None or (not free and white.shape[-1] != residual.shape[-1]):
        raise DnlsError(
            f"{plan.describe()}: its noise does not fit a residual of length {residual.shape[-1]}"
            f"; got {[tuple(t.shape[2:]) for t in pytree.tree_leaves(group.noise)]} per factor"
        )
