"""Where the arguments of a group's factors come from: one column of M values per argument.

A column is made once per structure. At each call it fetches named inputs, (B|1, …) each, and puts
them side by side on the factor axis; where all factors name the same datum, that axis has length
1. Constants lie side by side already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.named.kinds import Kind, Space
from dnls_ros.problem import Loss, Noise


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a call brings.

    Attributes:
        data: name → storage tensor (B|1, …) or structured data.
        constants: Leaves of all constants, (1, M|1, …).
        like: A tensor in the dtype and on the device of all inputs.
    """

    data: Mapping[str, Any]
    constants: Sequence[Tensor]
    like: Tensor


@dataclass(frozen=True)
class Gathered:
    """Named data: a name per factor, or one for all of them.

    Attributes:
        kind: Of each.
        names: M, or 1.
        exp: Their exponential is meant.
    """

    kind: Kind
    names: tuple[str, ...]
    exp: bool = False

    def column(self, inputs: Inputs) -> Any:
        """Leaves (B|1, M|1, …)."""
        values = [inputs.data[name] for name in self.names]
        if len(values) == 1 or not isinstance(self.kind, Space):
            column = pytree.tree_map(lambda t: t[:, None], values[0])
        else:
            column = side_by_side(values)
        if self.exp:
            column = column.exp()
        return self.kind.element(column) if isinstance(self.kind, Space) else column


@dataclass(frozen=True)
class Fixed:
    """Constants.

    Attributes:
        where: For messages.
        first: Position of the first leaf among the constants.
        tree: How the leaves are put together.
        number: They were given as numbers: they take the inputs' dtype and device.
        strict: Their dtype and device must be those of the inputs. Constants of noise and losses
            follow the residual by themselves.
    """

    where: str
    first: int
    tree: pytree.TreeSpec
    number: bool
    strict: bool

    def column(self, inputs: Inputs) -> Any:
        """Leaves (1, M|1, …).

        Raises:
            DnlsError: Their dtype or device is not that of the inputs.
        """
        leaves = inputs.constants[self.first : self.first + self.tree.num_leaves]
        if self.number:
            leaves = [leaf.to(inputs.like) for leaf in leaves]
        for leaf in leaves if self.strict else ():
            if leaf.is_floating_point() and not _alike(leaf, inputs.like):
                raise DnlsError(
                    f"{self.where} is a constant in {leaf.dtype} on {leaf.device}, but the inputs "
                    f"are in {inputs.like.dtype} on {inputs.like.device}; convert one of them "
                    "(Layer.to(…) converts the constants of a layer)"
                )
        return pytree.tree_unflatten(leaves, self.tree)


Column = Gathered | Fixed


@dataclass(frozen=True)
class Made:
    """Noise or loss made of columns."""

    kind: type[Noise] | type[Loss]
    columns: tuple[Column, ...]

    def column(self, inputs: Inputs) -> Any:
        """The noise or loss of all factors.

        Raises:
            DnlsError: Its class refuses the numbers; names them.
        """
        arguments = [column.column(inputs) for column in self.columns]
        try:
            return self.kind(*arguments)
        except DnlsError as error:
            named = (c for c in self.columns if isinstance(c, Gathered))
            names = [f"exp({n})" if c.exp else n for c in named for n in c.names]
            raise DnlsError(f"data {names[:4]}: {error}") from error


def _alike(a: Tensor, b: Tensor) -> bool:
    return (a.dtype, a.device) == (b.dtype, b.device)


def side_by_side(tensors: Sequence[Tensor], batch: int | None = None) -> Tensor:
    """Tensors (B|1, …) as (B|1, M, …), or with ``batch`` elements."""
    size = max(t.shape[0] for t in tensors) if batch is None else batch
    full = [t if t.shape[0] == size else t.expand(size, *t.shape[1:]) for t in tensors]
    return torch.stack(full, 1)


class Constants:
    """Collects the leaves of all constants while columns are made."""

    def __init__(self) -> None:
        self.leaves: list[Tensor] = []

    def fixed(self, where: str, trees: Sequence[Any], axes: int) -> Fixed:
        """The column of one constant per factor.

        Args:
            where: For messages.
            trees: M of one structure.
            axes: How many leading axes the leaves have already, 0 or 2.
        """
        number = isinstance(trees[0], int | float)
        flat = [
            [torch.as_tensor(leaf, dtype=torch.float64) if number else leaf for leaf in leaves]
            for leaves in map(pytree.tree_leaves, trees)
        ]
        first = len(self.leaves)
        for leaves in zip(*flat, strict=True):
            lifted = [leaf if axes else leaf[None, None] for leaf in leaves]
            same = all(torch.equal(leaf, lifted[0]) for leaf in lifted[1:])
            self.leaves.append(lifted[0].clone() if same else torch.cat(lifted, 1))
        tree = pytree.tree_structure(trees[0])
        return Fixed(where, first, tree, number, strict=not (number or axes))


def shape_of(constant: Any) -> tuple[Any, ...]:
    """What constants must have in common to be put side by side."""
    leaves = pytree.tree_leaves(constant)
    if isinstance(constant, int | float):
        return (float,)
    return (
        pytree.tree_structure(constant),
        *((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves),
    )
