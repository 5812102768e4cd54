"""The tensors inside nested dataclasses: to choose between two of a kind, and to keep them apart.

States of methods are plain dataclasses of tensors and other values, which torch's pytrees do not
look into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.problem import Values

Tree = TypeVar("Tree")


def tensors_of(tree: Any) -> list[Tensor]:
    """All tensors of it that are computed with, in a fixed order; ids are not."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Values):
        return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    if is_dataclass(tree) and not isinstance(tree, type):
        return [t for field in fields(tree) for t in tensors_of(getattr(tree, field.name))]
    return []


def refilled(tree: Tree, tensors: Iterator[Tensor]) -> Tree:
    """The same with the next of ``tensors`` in place of its own."""
    changed: Any = tree
    if isinstance(tree, Tensor):
        changed = next(tensors)
    elif isinstance(tree, Values):
        changed = tree.map(lambda _: next(tensors))
    elif is_dataclass(tree) and not isinstance(tree, type):
        parts: dict[str, Any] = {}
        for field in fields(tree):
            parts[field.name] = refilled(getattr(tree, field.name), tensors)
        changed = replace(tree, **parts)
    return changed


def mapped(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The same with ``function`` of each of its tensors."""
    return refilled(tree, iter([function(t) for t in tensors_of(tree)]))


def chosen(mask: Tensor, new: Tree, old: Tree) -> Tree:
    """``new`` where a mask () is true, else ``old``; what is no tensor is of ``new``."""
    pairs = zip(tensors_of(new), tensors_of(old), strict=True)
    return refilled(new, iter([torch.where(mask, a, b) for a, b in pairs]))
