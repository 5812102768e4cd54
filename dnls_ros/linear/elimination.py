"""Which blocks can be eliminated from a pattern, what remains, and where every number goes.

All of it is done once per structure, with sorted keys and no loop over variables. Eliminated
variables that touch equally many unknowns are put into one class, so that their numbers are a
dense batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear.jacobi import own_positions
from dnls_ros.problem.structure import Ints, Pattern, distinct
from dnls_ros.problem.variables import Block


@dataclass(frozen=True, eq=False)
class DegreeClass:
    """N eliminated variables of dimension t that touch d remaining unknowns each.

    Positions among the values are nnz where the pattern has no entry: a zero is kept there.

    Attributes:
        own: (N, t) the variables' unknowns.
        own_values: (N, t, t) positions of E's lower triangles.
        touched: (N, d) unknowns of the reduced system, ascending.
        coupling: (N, t, d) positions of Wᵀ.
    """

    own: Tensor
    own_values: Tensor
    touched: Tensor
    coupling: Tensor

    def to(self, device: torch.device) -> DegreeClass:
        """The same positions on a device."""
        fields = (self.own, self.own_values, self.touched, self.coupling)
        return DegreeClass(*(t.to(device) for t in fields))


@dataclass(frozen=True, eq=False)
class Partition:
    """How a pattern falls into eliminated variables and the rest.

    Attributes:
        classes: The eliminated variables.
        kept: (n_k,) unknowns that remain.
        kept_values: (nnz of K,) positions of K among the values.
        kept_pattern: Of K.
    """

    classes: tuple[DegreeClass, ...]
    kept: Tensor
    kept_values: Tensor
    kept_pattern: Pattern
    brought: dict[torch.device, Partition] = field(
        default_factory=dict["torch.device", "Partition"], repr=False
    )

    def on(self, device: torch.device) -> Partition:
        """The same positions on a device, brought there once."""
        if device not in self.brought:
            with torch.inference_mode(False):  # else it could not be used outside of it
                self.brought[device] = Partition(
                    tuple(c.to(device) for c in self.classes),
                    self.kept.to(device),
                    self.kept_values.to(device),
                    self.kept_pattern,
                )
        return self.brought[device]

    @classmethod
    def of(cls, pattern: Pattern, names: tuple[str, ...]) -> Partition:
        """Eliminates the named blocks.

        Raises:
            DnlsError: A block is unknown, none would remain, or two eliminated variables share
                a factor.
        """
        gone, remaining = _split(pattern, names)
        member = _membership(pattern, gone)
        _check_uncoupled(pattern, member)
        stays = member < 0
        reduced_of, size = np.cumsum(stays) - 1, int(stays.sum())
        inside = np.flatnonzero(stays[pattern.rows] & stays[pattern.columns])
        keys = reduced_of[pattern.columns[inside]] * size + reduced_of[pattern.rows[inside]]
        classes = [_by_degree(_couplings(pattern, block, reduced_of)) for block in gone]
        return cls(
            tuple(c for same_block in classes for c in same_block),
            torch.from_numpy(np.flatnonzero(stays)),
            torch.from_numpy(inside),
            Pattern.of(keys, size, remaining),
        )


@dataclass(frozen=True, eq=False)
class Fill:
    """Where the numbers of K − HᵀH go.

    Attributes:
        pattern: Of the reduced system.
        kept: (nnz of K,) positions of K's entries in it.
        classes: For each class (N · d · d,) positions of HᵀH; upper halves go to a bin.
    """

    pattern: Pattern
    kept: Tensor
    classes: tuple[Tensor, ...]
    brought: dict[torch.device, Fill] = field(
        default_factory=dict["torch.device", "Fill"], repr=False
    )

    def on(self, device: torch.device) -> Fill:
        """The same positions on a device, brought there once."""
        if device not in self.brought:
            with torch.inference_mode(False):  # else it could not be used outside of it
                classes = tuple(c.to(device) for c in self.classes)
                self.brought[device] = Fill(self.pattern, self.kept.to(device), classes)
        return self.brought[device]

    @classmethod
    def of(cls, partition: Partition) -> Fill:
        """The pattern that elimination fills."""
        k = partition.kept_pattern
        parts = [k.columns * k.n + k.rows]
        parts += [_pair_keys(c.touched.numpy(), k.n) for c in partition.classes]
        keys, places = distinct(np.concatenate(parts), k.n * k.n + 1)
        keys = keys[keys < k.n * k.n]  # without the bin for upper halves
        kept, *classes = torch.from_numpy(places).split([len(part) for part in parts])
        return cls(Pattern.of(keys, k.n, k.blocks), kept, tuple(classes))


@dataclass(frozen=True, eq=False)
class _Couplings:
    """The eliminated variables of one block, and what they touch, before they are grouped.

    Attributes:
        own: (N, t) unknowns.
        own_values: (N, t, t) positions of E's lower triangles.
        degree: (N,) how many unknowns each touches.
        touched: (m,) unknowns of the reduced system, ascending variable by variable.
        positions: (m, t) positions of W's rows.
    """

    own: Ints
    own_values: Ints
    degree: Ints
    touched: Ints
    positions: Ints


def _split(
    pattern: Pattern, names: tuple[str, ...]
) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    """The blocks to eliminate, and the others moved together."""
    known = [b.name for b in pattern.blocks]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise DnlsError(
            f"Schur: no block {unknown or 'was named'} to eliminate; the problem has {known}"
        )
    gone = tuple(b for b in pattern.blocks if b.name in names)
    remaining: list[Block] = []
    offset = 0
    for block in pattern.blocks:
        if block.name not in names:
            remaining.append(Block(block.name, offset, block.count, block.tangent_dim))
            offset = remaining[-1].stop
    if not remaining:
        raise DnlsError(f"Schur: eliminating {list(names)} leaves nothing; leave a block out")
    return gone, tuple(remaining)


def _membership(pattern: Pattern, gone: tuple[Block, ...]) -> Ints:
    """(n,) for each unknown the number of its eliminated variable, −1 if it stays."""
    member, start = np.full(pattern.n, -1, np.int64), 0
    for block in gone:
        member[block.offset : block.stop] = start + np.repeat(
            np.arange(block.count), block.tangent_dim
        )
        start += block.count
    return member


def _check_uncoupled(pattern: Pattern, member: Ints) -> None:
    """Raises a `DnlsError` if two eliminated variables share an entry of the pattern."""
    rows, columns = member[pattern.rows], member[pattern.columns]
    joined = np.flatnonzero((rows >= 0) & (columns >= 0) & (rows != columns))
    if len(joined):
        first, second = (
            _where(pattern, int(at[joined[0]])) for at in (pattern.columns, pattern.rows)
        )
        raise DnlsError(
            f"Schur: {first} and {second} share a factor, but eliminated variables may only touch "
            "variables that remain; leave one of their blocks out, or use Dense() or Cholmod()"
        )


def _where(pattern: Pattern, unknown: int) -> str:
    block = next(b for b in pattern.blocks if unknown < b.stop)
    return f"variable {(unknown - block.offset) // block.tangent_dim} of block '{block.name}'"


def _couplings(pattern: Pattern, block: Block, reduced_of: Ints) -> _Couplings:
    t, count, n = block.tangent_dim, block.count, pattern.n
    rows, columns = pattern.rows, pattern.columns
    outside = np.flatnonzero(_inside(rows, block) ^ _inside(columns, block))
    is_row = _inside(rows[outside], block)
    variable, axis = np.divmod(np.where(is_row, rows[outside], columns[outside]) - block.offset, t)
    other = np.where(is_row, columns[outside], rows[outside])
    pairs, pair_of = np.unique(variable * n + other, return_inverse=True)
    positions = np.full((len(pairs), t), pattern.nnz, np.int64)
    positions[pair_of, axis] = outside
    return _Couplings(
        block.offset + np.arange(count * t, dtype=np.int64).reshape(count, t),
        own_positions(pattern, block),
        np.bincount(pairs // n, minlength=count),
        reduced_of[pairs % n],
        positions,
    )


def _inside(unknowns: Ints, block: Block) -> NDArray[np.bool_]:
    return (unknowns >= block.offset) & (unknowns < block.stop)


def _by_degree(couplings: _Couplings) -> list[DegreeClass]:
    """One class for each number of touched unknowns."""
    start = np.cumsum(couplings.degree) - couplings.degree
    out: list[DegreeClass] = []
    for degree in np.unique(couplings.degree):
        which = np.flatnonzero(couplings.degree == degree)
        at = start[which, None] + np.arange(degree)
        coupling = np.ascontiguousarray(couplings.positions[at].swapaxes(1, 2))
        own, own_values = couplings.own[which], couplings.own_values[which]
        fields = (own, own_values, couplings.touched[at], coupling)
        out.append(DegreeClass(*map(torch.from_numpy, fields)))
    return out


def _pair_keys(touched: Ints, size: int) -> Ints:
    """Keys of the (N, d, d) products of touched unknowns, flat; size² for upper halves."""
    row, column = touched[:, :, None], touched[:, None, :]
    return np.where(row >= column, column * size + row, size * size).reshape(-1)
