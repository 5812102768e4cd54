"""Data of M factors: pytrees whose leaves have axes (B|1, M|1, …), batch first, then factors.

A leaf of length 1 on an axis is shared along it. Once per group the axes are checked; selecting
and joining groups selects and joins their leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError


@dataclass(frozen=True)
class Shared:
    """Marks data that all factors of a group share: its leaves have no batch and no factor axis.

    Attributes:
        value: A number, tensor, group element or pytree of them.
    """

    value: Any


def with_axes(argument: Any) -> Any:
    """The argument with its constants unwrapped and brought to axes (1, 1, …)."""
    if isinstance(argument, Shared):
        return pytree.tree_map(lambda t: _as_tensor(t)[None, None], argument.value)
    if isinstance(argument, (int, float)):
        return torch.tensor([[float(argument)]], dtype=torch.float64)
    return argument


def _as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def rebuilt(kind: type, leaves: Mapping[str, Any]) -> Any:
    """A frozen dataclass of these leaves; they may be placeholders of a transform: no checks."""
    made = object.__new__(kind)
    for name, leaf in leaves.items():
        object.__setattr__(made, name, leaf)
    return made


def leaves_of(tree: Any) -> list[Any]:
    """The leaves of a pytree; of what data mostly are, at a tenth of pytree's time."""
    if tree is None:
        return []
    if isinstance(tree, Tensor):
        return [tree]
    names = getattr(tree, "leaf_names", None)
    return pytree.tree_leaves(tree) if names is None else [getattr(tree, n) for n in names]


def check_axes(where: str, argument: Any, count: int) -> None:
    """Raises a `DnlsError` unless all leaves are tensors (B|1, M|1, …) for M = ``count``."""
    for leaf in leaves_of(argument):
        if leaf is None:
            continue
        if not isinstance(leaf, Tensor):
            raise DnlsError(f"{where} holds {type(leaf).__name__}, expected tensors")
        if leaf.ndim < 2 or leaf.shape[1] not in (1, count):
            rest = "".join(f", {n}" for n in leaf.shape[2:])
            raise DnlsError(
                f"{where} has shape {tuple(leaf.shape)} but its references have M={count}; "
                f"data must be (B|1, M|1{rest}); wrap constants in Shared(...)"
            )


def map_leaves(function: Any, tree: Any) -> Any:
    """``pytree.tree_map`` that leaves None alone."""
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return function(tree)
    names = getattr(tree, "leaf_names", None)
    if names is not None:
        return rebuilt(type(tree), {n: function(getattr(tree, n)) for n in names})
    return pytree.tree_map(lambda leaf: leaf if leaf is None else function(leaf), tree)


def picker(keep: Tensor, count: int) -> Any:
    """Takes indices on the factor axis of a leaf that has one; leaves that all share stay."""
    return lambda leaf: (
        leaf.index_select(1, keep.to(leaf.device)) if leaf.shape[1] == count else leaf
    )


def join(a: Any, b: Any, m: int, n: int) -> Any:
    """Leaf by leaf on the factor axis; leaves without one must be equal, else they get one."""
    if a is None:
        return None
    if isinstance(a, Tensor):
        return _join_leaf(a, b, m, n)
    names = getattr(a, "leaf_names", None)
    if names is not None:
        pairs = {name: (getattr(a, name), getattr(b, name)) for name in names}
        return rebuilt(type(a), {name: _join_leaf(*p, m, n) for name, p in pairs.items()})
    left, spec = pytree.tree_flatten(a)
    right = pytree.tree_leaves(b)
    joined = [
        _join_leaf(x, y, m, n) if isinstance(x, Tensor) else x
        for x, y in zip(left, right, strict=True)
    ]
    return pytree.tree_unflatten(joined, spec)


def _join_leaf(x: Tensor, y: Tensor, m: int, n: int) -> Tensor:
    same = x is y or not (x.requires_grad or y.requires_grad)
    if same and x.shape == y.shape and x.shape[1] == 1 and torch.equal(x, y):
        return x
    batch = max(x.shape[0], y.shape[0])
    return torch.cat([t.expand(batch, k, *t.shape[2:]) for t, k in ((x, m), (y, n))], 1)
