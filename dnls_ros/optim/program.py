"""From a problem over a structure to the arrays that kernels work on.

Where the numbers of the groups lie in state, tangent and H depends on the structure alone and is
kept with it; indices are checked here, because kernels do not. For each problem the measurements,
noises and radii are put one after the other into one array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils import _pytree as pytree

from dnls_ros.lie import SE2, SE3, SO2, SO3, Element
from dnls_ros.linear import has_kernels
from dnls_ros.optim.recipes import Recipe, Refused, recipe_of
from dnls_ros.problem import DensePrior, FactorGroup, Group, Problem, Structure, Values
from dnls_ros.problem.structure import Ints
from dnls_ros.problem.variables import on_storage, storage

Floats = NDArray[np.float64]

SPARE_ROOM = 64
"""Numbers after a row of room that vectors may touch."""


@dataclass(frozen=True, eq=False)
class Tables:
    """What of a program depends on the structure only.

    Attributes:
        slots, tangents, positions, blocks: See `dnls_ros.kernels.layout.Program`.
        slot_of, position_of: Group → where its slots and positions begin.
        room: Numbers that a kernel needs beside, per row of room.
    """

    slots: Ints
    tangents: Ints
    positions: Ints
    blocks: Ints
    slot_of: Mapping[str, int]
    position_of: Mapping[str, int]
    room: int


@dataclass(frozen=True, eq=False)
class Compiled:
    """The groups of a problem that kernels take.

    Attributes:
        names: Of these groups.
        program: The arrays.
        room: See `Tables`.
    """

    names: tuple[str, ...]
    program: object
    room: int


def plan(
    problem: Problem, structure: Structure, values: Values
) -> dict[str, Recipe | DensePrior | Refused]:
    """For every group what a kernel needs of it, or why it is left to torch."""
    reason = _no_kernels(values)
    if reason is not None:
        return dict.fromkeys(problem, reason)
    return {name: _planned(name, group, structure, values) for name, group in problem.items()}


def compiled(
    problem: Problem,
    structure: Structure,
    values: Values,
    planned: Mapping[str, Recipe | DensePrior | Refused],
) -> Compiled:
    """The arrays of the groups that have a plan."""
    from dnls_ros.kernels.layout import COLUMNS, Program

    names = tuple(name for name, found in planned.items() if not isinstance(found, str))
    tables = _tables(problem, structure, values, names, planned)
    data = _Data()
    rows = [[0] * COLUMNS for _ in names]
    for row, name in zip(rows, names, strict=True):
        found, group = planned[name], problem[name]
        slot, position = tables.slot_of[name], tables.position_of[name]
        if isinstance(found, Recipe):
            assert isinstance(group, FactorGroup)
            _fill(row, group, found, slot, position, data)
        else:
            assert isinstance(group, DensePrior)
            _fill_dense(row, group, slot, position, data)
    arrays = tables.slots, tables.tangents, tables.positions, tables.blocks, data.joined()
    return Compiled(names, Program(np.array(rows, np.int64), *arrays), tables.room)


def part_of(own: Compiled, chosen: Mapping[str, Tensor]) -> Compiled:
    """Only some factors of some groups.

    Args:
        own: Compiled groups without masks of their own.
        chosen: Group → (M,) bool, which factors; of a `DensePrior` anything.
    """
    from dnls_ros.kernels import layout as c

    program: Any = own.program
    rows, parts, at = [], [program.data], len(program.data)
    for name in chosen:
        row = program.groups[own.names.index(name)].copy()
        if row[c.KIND] != c.DENSE:
            row[c.MASK], row[c.MASK_BATCH] = at, 0
            parts.append(chosen[name].numpy().astype(np.float64))
            at += len(parts[-1])
        rows.append(row)
    some = program._replace(groups=np.array(rows), data=np.concatenate(parts))
    return Compiled(tuple(chosen), some, own.room)


def flat_state(values: Values) -> Floats:
    """(B, S) the blocks' storage side by side."""
    batch = values.batch
    parts = [storage(x).detach().reshape(storage(x).shape[0], -1) for x in values.values()]
    joined = torch.cat([part.expand(batch, -1) for part in parts], 1)
    return joined.contiguous().numpy()


def with_state(values: Values, state: Floats) -> Values:
    """The values whose storage is ``state`` (B, S)."""
    rest = torch.from_numpy(state)
    blocks: dict[str, Element] = {}
    at = 0
    for name, element in values.items():
        shape = storage(element).shape
        size = int(np.prod(shape[1:]))
        part = rest[:, at : at + size].reshape(len(state), *shape[1:])
        blocks[name] = on_storage(element, lambda _, part=part: part)
        at += size
    return Values(blocks, values.ids, checked=True)


def _no_kernels(values: Values) -> Refused | None:
    if not has_kernels():
        return "numba is not installed"
    for name, element in values.items():
        tensor = storage(element)
        if tensor.dtype != torch.float64 or tensor.device.type != "cpu":
            return f"block '{name}' is {tensor.dtype} on {tensor.device}; kernels: float64 on cpu"
        if _manifold(element) is None:
            return f"there is no kernel for block '{name}' of {type(element).__name__}"
    return None


def _planned(
    name: str, group: Group, structure: Structure, values: Values
) -> Recipe | DensePrior | Refused:
    leaves = group.tensors if isinstance(group, FactorGroup) else pytree.tree_leaves(group)
    if not all(_is_plain(leaf) for leaf in leaves):
        if any(is_functorch_wrapped_tensor(leaf) for leaf in leaves):
            return "it is inside a function transform"
        if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
            return "autograd records it"
        if any(leaf.dtype != torch.float64 or leaf.device.type != "cpu" for leaf in leaves):
            return "its data are not all float64 on the CPU"
    if isinstance(group, DensePrior):
        return group
    if not isinstance(group, FactorGroup):
        return f"there is no kernel for {type(group).__name__}"
    if _touches_twice(group, structure.slots[name]):
        return "a factor touches one variable twice"
    made = recipe_of(group, values)
    if isinstance(made, str):
        return made
    length = None if group.noise is None else group.noise.length
    if length not in (None, made.length) or made.data.ndim != 3:
        return "its data or its noise do not fit its residual"  # and torch says how
    return made


def _is_plain(leaf: Tensor) -> bool:
    """Whether nothing speaks against a tensor, whatever the circumstances."""
    wrapped = leaf.requires_grad or is_functorch_wrapped_tensor(leaf)
    return leaf.dtype == torch.float64 and leaf.is_cpu and not wrapped


def _touches_twice(group: FactorGroup, slots: Sequence[Tensor]) -> bool:
    names = [ref.name for ref in group.refs]
    return any(
        names[i] == names[j] and bool((slots[i].numpy() == slots[j].numpy()).any())
        for i in range(len(names))
        for j in range(i)
    )


def _manifold(element: Element) -> int | None:
    """Number of its manifold in `dnls_ros.kernels.layout`."""
    from dnls_ros.kernels import layout

    if isinstance(element, Tensor):
        return layout.VECTOR if element.ndim == 3 else None
    kinds = {SO2: layout.PLANE_TURN, SO3: layout.TURN, SE2: layout.PLANE, SE3: layout.SPACE}
    return kinds.get(type(element))  # pyright: ignore[reportArgumentType, reportCallIssue]


def _tables(
    problem: Problem,
    structure: Structure,
    values: Values,
    names: tuple[str, ...],
    planned: Mapping[str, Recipe | DensePrior | Refused],
) -> Tables:
    key = "program", names
    known = structure.symbolic.get(key)
    if not isinstance(known, Tables):
        known = structure.symbolic[key] = _make_tables(problem, structure, values, names, planned)
    return known


def _make_tables(
    problem: Problem,
    structure: Structure,
    values: Values,
    names: tuple[str, ...],
    planned: Mapping[str, Recipe | DensePrior | Refused],
) -> Tables:
    from dnls_ros.kernels.tables import fill_tables

    blocks = _blocks(values)
    row_of = {name: k for k, name in enumerate(values)}
    groups: list[tuple[int, ...]] = []
    refs: list[tuple[int, int, int]] = []
    found: list[Ints] = []
    slot_of, position_of = {}, {}
    slot = position = pair = begin = room = 0
    for name, group in problem.items():
        rows = [row_of[ref.name] for ref in group.refs]
        counts = [len(at) for at in structure.slots[name]]
        widths = blocks[rows, 5].tolist()
        width = int(np.dot(widths, counts)) if group.joint else sum(widths)
        factors = 1 if group.joint else counts[0]
        if name in names:
            groups.append((len(refs), len(rows), factors, width, group.joint, pair))
            for row, at in zip(rows, structure.slots[name], strict=True):
                refs.append((row, begin, len(at)))
                found.append(at.numpy())
                begin += len(at)
            slot_of[name], position_of[name] = slot, position
            slot += 3 * sum(counts) if group.joint else sum(counts)
            position += factors * width * (width + 1) // 2
            room = max(room, _room_of(group, planned[name], width, max(widths)) + SPARE_ROOM)
        pair += factors * width * width
    slots, tangents, positions = (np.empty(k, np.int64) for k in (slot, slot, position))
    sizes = int((blocks[:, 1] * blocks[:, 3]).sum()), structure.n, structure.pattern.nnz
    inside = fill_tables(
        np.array(groups, np.int64),
        np.array(refs, np.int64),
        np.concatenate(found),
        blocks,
        structure.hessian_positions.numpy(),
        sizes,
        slots,
        tangents,
        positions,
    )
    assert inside, "structure is broken"
    return Tables(slots, tangents, positions, blocks, slot_of, position_of, room)


def _room_of(
    group: Group, planned: Recipe | DensePrior | Refused, width: int, largest: int
) -> int:
    """Numbers that a kernel needs beside, for one factor."""
    if isinstance(planned, Recipe):
        return max(max(planned.length, planned.noise[2]) * width, 2 * width)
    assert isinstance(group, DensePrior)
    return max(width * max(width, largest), group.factor.shape[1])


def _blocks(values: Values) -> Ints:
    """(K, 6): manifold, count, where in the state, its width, where in the tangent, its width."""
    rows, at = [], 0
    for block, element in zip(values.layout(), values.values(), strict=True):
        width = storage(element).shape[-1]
        manifold = _manifold(element)
        assert manifold is not None
        rows.append((manifold, block.count, at, width, block.offset, block.tangent_dim))
        at += block.count * width
    return np.array(rows, np.int64)


class _Data:
    """Numbers one after the other."""

    def __init__(self) -> None:
        self._parts: list[Floats] = []
        self._size = 0

    def put(self, numbers: Tensor, batch: int = 1) -> tuple[int, int, int]:
        """Where numbers (B|1, M|1, k) begin, the distance of factors, and of batch elements."""
        part = numbers.detach().contiguous().numpy()
        b, m, k = part.shape
        at = self._size
        self._parts.append(part.reshape(-1))
        self._size += part.size
        return at, (k if m > 1 else 0), (m * k if b > 1 else 0)

    def joined(self) -> Floats:
        """All of them."""
        return np.concatenate(self._parts) if self._parts else np.zeros(1)


def _fill(
    row: list[int], group: FactorGroup, recipe: Recipe, slot: int, position: int, data: _Data
) -> None:
    from dnls_ros.kernels import layout as c

    noise, loss = recipe.noise, recipe.loss
    row[c.KIND], row[c.COUNT], row[c.REFS] = recipe.kind, group.count, len(group.refs)
    row[c.WIDTH], row[c.LENGTH], row[c.FIRST] = recipe.width, recipe.length, recipe.first
    row[c.OTHERS] = (recipe.width - recipe.first) // max(len(group.refs) - 1, 1)
    row[c.SLOT], row[c.POSITION] = slot, position
    row[c.DATA], row[c.DATA_ROW], row[c.DATA_BATCH] = data.put(recipe.data)
    row[c.NOISE], row[c.NOISE_LENGTH] = noise[0], noise[2]
    if noise[1] is not None:
        row[c.NOISE_AT], row[c.NOISE_ROW], row[c.NOISE_BATCH] = data.put(noise[1])
    row[c.LOSS] = loss[0]
    if loss[1] is not None:
        row[c.LOSS_AT], row[c.LOSS_ROW], row[c.LOSS_BATCH] = data.put(loss[1])
    row[c.MASK] = -1
    if group.mask is not None:
        row[c.MASK], _, row[c.MASK_BATCH] = data.put(group.mask.to(torch.float64)[..., None])
    row[c.PLANAR], row[c.POINTS], row[c.MODEL] = recipe.planar, recipe.points, recipe.model


def _fill_dense(row: list[int], group: DensePrior, slot: int, position: int, data: _Data) -> None:
    from dnls_ros.kernels import layout as c

    point = torch.from_numpy(flat_state(group.point))
    row[c.KIND], row[c.COUNT], row[c.REFS] = c.DENSE, sum(map(len, group.refs)), 3
    row[c.WIDTH], row[c.LENGTH] = group.factor.shape[2], group.factor.shape[1]
    row[c.SLOT], row[c.POSITION] = slot, position
    row[c.DATA], _, row[c.DATA_BATCH] = data.put(point[:, None])
    row[c.NOISE_AT], _, row[c.NOISE_BATCH] = data.put(group.factor.flatten(1)[:, None])
    row[c.LOSS_AT], _, row[c.LOSS_BATCH] = data.put(group.offset[:, None])
    row[c.MASK], _, row[c.MASK_BATCH] = data.put(group.information.flatten(1)[:, None])
    row[c.MODEL] = group.first_estimates
