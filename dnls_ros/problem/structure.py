"""The sparse structure of a problem: everything about H = JᵀJ that does not depend on numbers.

Computed once per shape of the problem and shared by the whole batch: where each variable lies in
the tangent vector, the lower triangle of H in compressed columns, and where each group's products
are added. The cost is a few sorts on the host; a `StructureCache` hands the same object out again
while the slots stay the same, and with it the symbolic factorization.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.problem.factors import Group
from dnls_ros.problem.variables import Block, Values

Ints = NDArray[np.int64]


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
    """

    n: int
    indptr: Ints
    rows: Ints
    columns: Ints
    diagonal: Ints
    blocks: tuple[Block, ...]

    @property
    def nnz(self) -> int:
        """Stored entries."""
        return len(self.rows)

    @classmethod
    def of(cls, keys: Ints, n: int, blocks: tuple[Block, ...]) -> Pattern:
        """From sorted unique keys ``column · n + row`` of the lower triangle with diagonal."""
        columns, rows = np.divmod(keys, n)
        diagonal = np.searchsorted(keys, np.arange(n) * (n + 1))
        return cls(n, np.searchsorted(keys, np.arange(n + 1) * n), rows, columns, diagonal, blocks)

    def dense(self, values: Tensor) -> Tensor:
        """The full symmetric matrices (B, n, n) of values (B, nnz); differentiable."""
        rows, columns = torch.from_numpy(self.rows), torch.from_numpy(self.columns)
        matrix = values.new_zeros(values.shape[0], self.n, self.n)
        matrix = matrix.index_put((torch.arange(values.shape[0])[:, None], rows, columns), values)
        return matrix + torch.tril(matrix, -1).mT


@dataclass(frozen=True, eq=False)
class Structure:
    """Where the numbers of a problem go.

    Attributes:
        pattern: The lower triangle of H.
        slots: group → one (M,) slot tensor per reference.
        gradient_positions: Where the concatenated gradient products of all groups are added, into
            n.
        hessian_positions: The same for the Hessian products, into nnz; ``nnz`` itself is a bin for
            the upper halves.
        twice: Positions among the Hessian products that count double (a factor that touches one
            variable twice).
        ids: block → ids, for messages and caches.
    """

    pattern: Pattern
    slots: Mapping[str, tuple[Tensor, ...]]
    gradient_positions: Tensor
    hessian_positions: Tensor
    twice: Tensor
    ids: Mapping[str, Tensor]
    symbolic: dict[object, object] = field(default_factory=dict, repr=False)

    @property
    def n(self) -> int:
        """Dimension of the tangent vector."""
        return self.pattern.n

    @property
    def diagonal(self) -> Tensor:
        """(n,) positions of H's diagonal among its values."""
        return torch.from_numpy(self.pattern.diagonal)

    def variable_at(self, index: int) -> tuple[str, int, int]:
        """Which (block, id, axis of the tangent) an index of the tangent vector is."""
        for block in self.pattern.blocks:
            if index < block.stop:
                slot, axis = divmod(index - block.offset, block.tangent_dim)
                return block.name, int(self.ids[block.name][slot]), axis
        raise IndexError(index)

    @classmethod
    def of(cls, groups: Mapping[str, Group], values: Values) -> Structure:
        """Analyzes the groups over these values."""
        blocks = values.layout()
        by_name = {b.name: b for b in blocks}
        n = blocks[-1].stop if blocks else 0
        slots = {
            name: tuple(values.slots(r) for r in group.refs) for name, group in groups.items()
        }
        columns = {
            name: [
                _columns(by_name[r.name], at)
                for r, at in zip(group.refs, slots[name], strict=True)
            ]
            for name, group in groups.items()
        }
        for name, group in groups.items():
            if group.joint:
                columns[name] = [np.concatenate([c.reshape(1, -1) for c in columns[name]], 1)]
        gradient = [c.reshape(-1) for cs in columns.values() for c in cs]
        pairs = [
            _pair_keys(cs[k], cs[m], n, k == m)
            for cs in columns.values()
            for k in range(len(cs))
            for m in range(k, len(cs))
        ]
        keys = np.concatenate([np.arange(n, dtype=np.int64) * (n + 1), *(key for key, _ in pairs)])
        unique, inverse = np.unique(keys, return_inverse=True)
        if len(unique) and unique[-1] == n * n:  # the bin's key sorts last
            unique = unique[:-1]
        positions = inverse.reshape(-1)[n:].astype(np.int64)
        twice = (
            np.flatnonzero(np.concatenate([t for _, t in pairs]))
            if pairs
            else np.zeros(0, np.int64)
        )
        return cls(
            Pattern.of(unique, n, blocks),
            slots,
            torch.from_numpy(np.concatenate(gradient) if gradient else np.zeros(0, np.int64)),
            torch.from_numpy(positions),
            torch.from_numpy(twice),
            dict(values.ids),
        )


def _columns(block: Block, slots: Tensor) -> Ints:
    """(M, t) indices into the tangent vector."""
    start = block.offset + slots.numpy() * block.tangent_dim
    return start[:, None] + np.arange(block.tangent_dim, dtype=np.int64)


def _pair_keys(a: Ints, b: Ints, n: int, same: bool) -> tuple[Ints, NDArray[np.bool_]]:
    """Lower-triangle keys of two references' (M, t_a, t_b) products, and which count twice."""
    first, second = np.broadcast_arrays(a[:, :, None], b[:, None, :])
    low, high = np.minimum(first, second), np.maximum(first, second)
    keys = low * n + high
    if same:  # a symmetric block: its upper half goes to the bin
        return np.where(first >= second, keys, n * n).reshape(-1), np.zeros(keys.size, bool)
    return keys.reshape(-1), (first == second).reshape(-1)


class StructureCache:
    """Hands out the last structure again while blocks and slots have not changed."""

    def __init__(self) -> None:
        self._signature: tuple[object, ...] = ()
        self._structure: Structure | None = None
        self.hits = 0
        self.misses = 0

    def get(self, groups: Mapping[str, Group], values: Values) -> Structure:
        """The groups' structure over the values, analyzed only if it differs from the last one."""
        signature = (
            values.layout(),
            tuple(
                (n, r.name, values.slots(r).numpy().tobytes())
                for n, g in groups.items()
                for r in g.refs
            ),
        )
        if self._structure is None or signature != self._signature:
            self._structure, self._signature = Structure.of(groups, values), signature
            self.misses += 1
            return self._structure
        self.hits += 1
        same = self._structure
        return Structure(
            same.pattern,
            same.slots,
            same.gradient_positions,
            same.hessian_positions,
            same.twice,
            dict(values.ids),
            same.symbolic,
        )
