"""The sparse structure of a problem: everything about H = JᵀJ that does not depend on numbers.

Computed once per shape of the problem and shared by the whole batch: where each variable lies in
the tangent vector, the lower triangle of H in compressed columns, and where each group's products
are added. The cost is a few sorts on the host; a `StructureCache` hands the same object out again
while the slots stay the same, and with it the symbolic factorization.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from dnls_ros.problem.factors import Group
from dnls_ros.problem.sums import Ints, Sources
from dnls_ros.problem.variables import Block, Values, storage

Target = Literal["gradient", "hessian"]

PATTERNS = 8
"""So many of the last ones a `StructureCache` keeps."""

LARGEST_TABLE = 1_000_000
"""Entries of a matrix up to which a table of them is faster than sorting; windows have fewer."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """The lower triangle (with diagonal) of a symmetric matrix in compressed sparse columns.

    Attributes:
        n: Order of the matrix.
        indptr: (n + 1,) where each column starts.
        rows: (nnz,) row of each entry, ascending inside a column.
        columns: (nnz,) column of each entry.
        diagonal: (n,) positions of the diagonal entries.
        blocks: The variable blocks along the diagonal.
        analyses: Linear solver → its symbolic analysis, kept here by whoever makes one.
    """

    n: int
    indptr: Ints
    rows: Ints
    columns: Ints
    diagonal: Ints
    blocks: tuple[Block, ...]
    analyses: dict[object, object] = field(default_factory=dict, repr=False)
    _indices: dict[tuple[str, torch.device], Tensor] = field(default_factory=dict, repr=False)

    def equals(self, other: Pattern) -> bool:
        """Whether both hold the same entries of the same variables."""
        return (
            self.blocks == other.blocks
            and np.array_equal(self.rows, other.rows)
            and np.array_equal(self.indptr, other.indptr)
        )

    @property
    def nnz(self) -> int:
        """Stored entries."""
        return len(self.rows)

    def index(self, name: Literal["rows", "columns", "diagonal"], device: torch.device) -> Tensor:
        """One of the arrays as a tensor to index with; it is kept."""
        known = self._indices.get((name, device))
        if known is None:
            with torch.inference_mode(False):  # else it could not be saved for a backward pass
                known = torch.from_numpy(getattr(self, name)).to(device)
            self._indices[name, device] = known
        return known

    @classmethod
    def of(cls, keys: Ints, n: int, blocks: tuple[Block, ...]) -> Pattern:
        """From sorted unique keys ``column · n + row`` of the lower triangle with diagonal."""
        columns, rows = np.divmod(keys, n)
        diagonal = np.searchsorted(keys, np.arange(n) * (n + 1))
        return cls(n, np.searchsorted(keys, np.arange(n + 1) * n), rows, columns, diagonal, blocks)

    def dense(self, values: Tensor) -> Tensor:
        """The full symmetric matrices (B, n, n) of values (B, nnz); differentiable."""
        rows, columns = (self.index(name, values.device) for name in ("rows", "columns"))
        matrix = values.new_zeros(values.shape[0], self.n, self.n)
        matrix = matrix.index_put((torch.arange(values.shape[0])[:, None], rows, columns), values)
        return matrix + torch.tril(matrix, -1).mT

    def multiply(self, values: Tensor, vector: Tensor) -> Tensor:
        """A v for values (B, nnz) and v (B, n) or (B, n, k); differentiable."""
        rows, columns = (self.index(name, vector.device) for name in ("rows", "columns"))
        shape = (-1, *[1] * (vector.ndim - 2))
        below = values.view(*values.shape, *shape[1:])
        # The diagonal is stored once and counts once.
        above = torch.where((rows == columns).view(shape), 0.0, below)
        size = (*values.shape, *vector.shape[2:])
        product = torch.zeros_like(vector)
        product = product.scatter_add(
            1, rows.view(shape).expand(size), below * vector.index_select(1, columns)
        )
        return product.scatter_add(
            1, columns.view(shape).expand(size), above * vector.index_select(1, rows)
        )


HostSlots = Mapping[str, tuple[Tensor, ...]]
"""group → one (M,) slot tensor per reference, on the CPU."""


def _slots(groups: Mapping[str, Group], values: Values) -> HostSlots:
    return {name: tuple(values.slots(r) for r in group.refs) for name, group in groups.items()}


def distinct(keys: Ints, bound: int) -> tuple[Ints, Ints]:
    """The sorted distinct keys, all below ``bound``, and where each key lies among them."""
    if bound > LARGEST_TABLE:
        unique, inverse = np.unique(keys, return_inverse=True)
        return unique, inverse.reshape(-1).astype(np.int64)
    present = np.zeros(bound, dtype=bool)
    present[keys] = True
    unique = np.flatnonzero(present)
    place = np.empty(bound, dtype=np.int64)
    place[unique] = np.arange(len(unique))
    return unique, place[keys]


@dataclass(frozen=True, eq=False)
class Structure:
    """Where the numbers of a problem go.

    Attributes:
        pattern: The lower triangle of H.
        slots: group → one (M,) slot tensor per reference, on the values' device.
        gradient_positions: Where the groups' gradient products, side by side, are added, into n.
        hessian_positions: The same for the Hessian products, into nnz; ``nnz`` itself is a bin for
            upper triangles.
        ids: block → ids, for messages and caches.
    """

    pattern: Pattern
    slots: Mapping[str, tuple[Tensor, ...]]
    gradient_positions: Tensor
    hessian_positions: Tensor
    ids: Mapping[str, Tensor]
    symbolic: dict[object, object] = field(default_factory=dict, repr=False)

    @property
    def n(self) -> int:
        """Dimension of the tangent vector."""
        return self.pattern.n

    def positions(self, what: Target) -> Tensor:
        """Where products are added; beyond `size` they do not count."""
        return self.gradient_positions if what == "gradient" else self.hessian_positions

    def size(self, what: Target) -> int:
        """How many sums there are: n, or nnz."""
        return self.n if what == "gradient" else self.pattern.nnz

    def sources(self, what: Target, device: torch.device) -> tuple[Sources, int]:
        """What is added up in each place, and the length of the buffer for it; it is kept."""
        placed = self.symbolic.get(("sources", what, device))
        if placed is None:
            with torch.inference_mode(False):
                host = self.symbolic.get(("sources", what))
                if host is None:
                    positions = self.positions(what).cpu().numpy()
                    host = self.symbolic["sources", what] = Sources.of(positions, self.size(what))
                sources, length = cast(tuple[Sources, int], host)
                placed = self.symbolic["sources", what, device] = sources.to(device), length
        return cast(tuple[Sources, int], placed)

    def part(self, groups: Mapping[str, Group], names: Collection[str]) -> Structure:
        """The structure of some of the groups on the pattern of all; it is kept."""
        key = "part", tuple(names)
        known = self.symbolic.get(key)
        if not isinstance(known, Structure):
            with torch.inference_mode(False):  # it may be kept for a later backward pass
                known = self.symbolic[key] = self._make_part(groups, names)
        return known

    def _make_part(self, groups: Mapping[str, Group], names: Collection[str]) -> Structure:
        widths = {block.name: block.tangent_dim for block in self.pattern.blocks}
        gradient: list[Tensor] = []
        hessian: list[Tensor] = []
        at = square = 0
        for name, group in groups.items():
            width = sum(widths[r.name] * (len(r) if group.joint else 1) for r in group.refs)
            count = 1 if group.joint else len(group.refs[0])
            if name in names:
                gradient.append(self.gradient_positions[at : at + count * width])
                hessian.append(self.hessian_positions[square : square + count * width * width])
            at += count * width
            square += count * width * width
        return replace(
            self,
            slots={name: self.slots[name] for name in names},
            gradient_positions=torch.cat(gradient),
            hessian_positions=torch.cat(hessian),
            symbolic={},
        )

    def variable_at(self, index: int) -> tuple[str, int, int]:
        """Which (block, id, axis of the tangent) an index of the tangent vector is."""
        for block in self.pattern.blocks:
            if index < block.stop:
                slot, axis = divmod(index - block.offset, block.tangent_dim)
                return block.name, int(self.ids[block.name][slot]), axis
        raise IndexError(index)

    @classmethod
    def of(
        cls, groups: Mapping[str, Group], values: Values, known: HostSlots | None = None
    ) -> Structure:
        """Analyzes the groups over these values; ``known``: their slots, if found already."""
        blocks = values.layout()
        by_name = {b.name: b for b in blocks}
        n = blocks[-1].stop if blocks else 0
        slots = _slots(groups, values) if known is None else known
        columns = [
            _columns(group, slots[name], [by_name[r.name] for r in group.refs])
            for name, group in groups.items()
        ]
        diagonal = np.arange(n, dtype=np.int64) * (n + 1)
        keys = np.concatenate([diagonal, *(_keys(c, n) for c in columns)])
        unique, inverse = distinct(keys, n * n + 1)
        if len(unique) and unique[-1] == n * n:  # the bin's key sorts last
            unique = unique[:-1]
        positions = inverse[n:]
        gradient = np.concatenate([np.zeros(0, np.int64), *(c.reshape(-1) for c in columns)])
        device = _device(values)
        return cls(
            Pattern.of(unique, n, blocks),
            {name: tuple(at.to(device) for at in ats) for name, ats in slots.items()},
            torch.from_numpy(gradient).to(device),
            torch.from_numpy(positions).to(device),
            dict(values.ids),
        )


def _columns(group: Group, slots: Sequence[Tensor], blocks: Sequence[Block]) -> Ints:
    """(M, T) indices into the tangent vector of each factor's variables, by reference."""
    parts = [_tangents(block, at.numpy()) for at, block in zip(slots, blocks, strict=True)]
    if group.joint:
        parts = [part.reshape(1, -1) for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, 1)


def _tangents(block: Block, at: Ints) -> Ints:
    """(M, t) indices into the tangent vector of a block's variables."""
    t = block.tangent_dim
    return np.arange(block.offset, block.stop).reshape(-1, t)[at]


def _keys(columns: Ints, n: int) -> Ints:
    """Keys of all entries (M, T, T) of the factors' products; above the diagonal the bin's.

    A variable that a factor touches twice needs no care: all four products of it are there.
    """
    row, column = columns[:, :, None], columns[:, None, :]
    return np.where(row >= column, column * n + row, n * n).reshape(-1)


class StructureCache:
    """Hands out the last structures again while blocks and slots are those of one of them.

    In a sliding window the slots hardly repeat, but the pattern of H does: a new structure gets
    the pattern of a former one if it is the same, and with it the symbolic factorization.

    Args:
        size: How many structures are kept.
    """

    def __init__(self, size: int = 1) -> None:
        self._size = size
        self._known: dict[tuple[object, ...], Structure] = {}  # the last one used comes last
        self._patterns: list[Pattern] = []
        self.hits = 0
        self.misses = 0

    def get(self, groups: Mapping[str, Group], values: Values) -> Structure:
        """The groups' structure over the values, analyzed only if it is none of the last ones."""
        with torch.inference_mode(False):  # it may be kept for a later backward pass
            slots = _slots(groups, values)
            signature = _signature(groups, values, slots)
            known = self._known.pop(signature, None)
            if known is None:
                self.misses += 1
                made = Structure.of(groups, values, slots)
                structure = known = replace(made, pattern=self._same(made.pattern))
            else:
                self.hits += 1
                structure = replace(known, ids=dict(values.ids))
        while len(self._known) >= self._size:
            del self._known[next(iter(self._known))]
        self._known[signature] = known
        return structure

    def _same(self, pattern: Pattern) -> Pattern:
        """The pattern, or a known one that equals it."""
        known = next((k for k in self._patterns if k.equals(pattern)), pattern)
        others = [k for k in self._patterns if k is not known]
        self._patterns = [known, *others[: PATTERNS - 1]]
        return known


def _signature(
    groups: Mapping[str, Group], values: Values, slots: HostSlots
) -> tuple[object, ...]:
    """What structures depend on."""
    touched = (
        (name, ref.name, at.numpy().tobytes())
        for name, group in groups.items()
        for ref, at in zip(group.refs, slots[name], strict=True)
    )
    return (_device(values), values.layout(), *touched)


def _device(values: Values) -> torch.device:
    return storage(next(iter(values.values()))).device
