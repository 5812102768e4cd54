"""What must agree before a problem is solved: dtypes, devices, batches, kinds and widths.

Looked at once per structure, without evaluating anything; what only an evaluation shows, a pose of
another kind or a noise of another width, is told by `explained` when it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.problem.factors import FactorGroup, Group
from dnls_ros.problem.variables import Values

Result = TypeVar("Result")


def check_agreement(groups: Mapping[str, Group], values: Values) -> None:
    """Data and values are of one dtype, on one device, and their batches fit.

    Raises:
        DnlsError: Names the first group, argument or block that differs.
    """
    first = pytree.tree_leaves(values)[0]
    where = next(iter(values))
    for name, leaf in _leaves_of_values(values):
        _same(f"block '{name}'", leaf, first, f"block '{where}'")
    batch = max([values.batch, *(group.batch for group in groups.values())])
    for name, group in groups.items():
        for what, leaf in _leaves_of(name, group):
            _same(what, leaf, first, "the values")
        if group.batch not in (1, batch):
            raise DnlsError(
                f"group '{name}' has batch size {group.batch}, others have {batch}; give 1 or "
                f"{batch}"
            )


def _leaves_of_values(values: Values) -> Iterator[tuple[str, Tensor]]:
    for name, element in values.items():
        yield from ((name, leaf) for leaf in pytree.tree_leaves(element))


def _leaves_of(name: str, group: Group) -> Iterator[tuple[str, Tensor]]:
    """What is computed with as it is; noise and losses follow the residual's dtype and device."""
    if not isinstance(group, FactorGroup):
        yield from ((f"group '{name}'", leaf) for leaf in pytree.tree_leaves(group))
        return
    for parameter, argument in zip(group.cost.parameters, group.arguments, strict=True):
        for leaf in pytree.tree_leaves(argument):
            if isinstance(leaf, Tensor):
                yield f"group '{name}': {parameter}", leaf


def _same(what: str, leaf: Tensor, like: Tensor, other: str) -> None:
    if leaf.is_floating_point() and leaf.dtype != like.dtype:
        raise DnlsError(
            f"{what} is {leaf.dtype}, but {other} are {like.dtype}; convert one of them: dtypes "
            "are never changed silently"
        )
    if leaf.device != like.device:
        raise DnlsError(
            f"{what} is on {leaf.device}, but {other} are on {like.device}; move one of them"
        )


def explained(name: str, group: Group, values: Values, evaluate: Callable[[], Result]) -> Result:
    """What ``evaluate`` returns of a group; what PyTorch refuses is told in the group's terms.

    Raises:
        DnlsError: With shapes and kinds of all arguments, from the original error.
    """
    try:
        return evaluate()
    except (DnlsError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        if not isinstance(group, FactorGroup):
            raise
        text = str(error).partition("\n")[0]
        raise DnlsError(
            f"group '{name}': cost '{group.cost.name}' cannot be evaluated: {text}; its arguments "
            f"are {_described(group, values)}"
        ) from error


def _described(group: FactorGroup, values: Values) -> str:
    filled: list[Any] = list(group.arguments)
    for position, ref in zip(group.positions, group.refs, strict=True):
        filled[position] = values[ref.name]
    parts = [
        f"{parameter}: {_kind(argument)}"
        for parameter, argument in zip(group.cost.parameters, filled, strict=True)
    ]
    extra = [_kind(tree) for tree in (group.noise, group.loss) if tree is not None]
    return ", ".join([*parts, *extra])


def _kind(tree: Any) -> str:
    shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    return f"{type(tree).__name__} {', '.join(map(str, shapes))}"
