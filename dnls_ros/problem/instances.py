"""The B · M instances of a function, and the three ways to evaluate them all.

A function written over leading axes is called once (`Instances.together`); one that takes a single
instance is lifted by ``vmap`` (`Instances.vectorized`) or called once per instance
(`Instances.one_by_one`). What all instances share is not copied for each. A box is a part of the
B × M grid: `in_boxes` works through them one after the other, so that what is needed meanwhile
stays within a number of instances or within an amount of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from dnls_ros.errors import DnlsError
from dnls_ros.problem.axes import map_leaves


@dataclass(frozen=True, eq=False)
class Instances:
    """A function and the arguments of its instances.

    Attributes:
        name: Of the cost, for messages.
        function: Maps an instance's arguments to a residual (r,), or to a tuple of blocks (r, t).
        batched: It is written over leading axes.
        arguments: By position; leaves (B|1, M|1, …).
        shape: (B, M).
        axes: How many axes an instance's value has: 1, or 2 for each of a tuple of blocks.
    """

    name: str
    function: Callable[..., Any]
    batched: bool
    arguments: tuple[Any, ...]
    shape: tuple[int, int]
    axes: int = 1

    @property
    def count(self) -> int:
        """B · M."""
        return self.shape[0] * self.shape[1]

    def narrowed(self) -> Instances:
        """Without the repetitions along an axis on which all arguments have length 1."""
        leading = [leaf.shape[:2] for leaf in _tensors(self.arguments)]
        b, m = (_longest([axes[k] for axes in leading]) for k in (0, 1))
        return replace(self, shape=(b, m))

    def together(self) -> Any:
        """The values of all, (B|1, M|1, …), of a function that is written over leading axes."""
        return self._checked(self.function(*self.arguments), self.shape)

    def of_one(self, *arguments: Any) -> Any:
        """The value of one instance with these arguments, without leading axes."""
        return self._checked(self.function(*arguments), ())

    def vectorized(self, function: Callable[..., Any] | None = None) -> Any:
        """The values of all, (B, M, …), by ``vmap`` over a function of one instance.

        Args:
            function: Takes one instance's arguments; `of_one` if not given.

        Raises:
            DnlsError: The cost runs by itself, but not under ``vmap``.
        """
        leaves, spec = pytree.tree_flatten(self.arguments)
        own = [k for k, leaf in enumerate(leaves) if _is_own(leaf, self.shape)]
        shared = [
            leaf if k in own or not isinstance(leaf, Tensor) else leaf[0, 0]
            for k, leaf in enumerate(leaves)
        ]
        lifted = function or self.of_one

        def one(*parts: Tensor) -> Any:
            filled = list(shared)
            for k, part in zip(own, parts, strict=True):
                filled[k] = part
            return lifted(*pytree.tree_unflatten(filled, spec))

        flat = [leaves[k].expand(*self.shape, *leaves[k].shape[2:]).flatten(0, 1) for k in own]
        try:
            found = vmap(one)(*flat)
        except DnlsError:
            raise
        except Exception as error:  # vmap's refusals have many types and texts
            if self._runs_alone(error):
                raise DnlsError(self._advice(error)) from error
            raise
        return pytree.tree_map(lambda t: t.unflatten(0, self.shape), found)

    def one_by_one(self) -> Any:
        """The values of all, (B, M, …), of a function of one instance, without ``vmap``."""
        if not self.count:
            raise DnlsError(f"cost '{self.name}' has no factor to evaluate: leave the group out")
        return in_boxes(self, 1, lambda box: pytree.tree_map(lambda t: t[None, None], box.alone()))

    def alone(self) -> Any:
        """The value of a single instance of a function of one."""
        return self.of_one(*self.map(lambda t: t[0, 0]).arguments)

    def singles(self) -> Iterator[Instances]:
        """Boxes of one instance each, factors running fastest."""
        for b in range(self.shape[0]):
            for m in range(self.shape[1]):
                yield self.box(slice(b, b + 1), slice(m, m + 1))

    def box(self, rows: slice, columns: slice) -> Instances:
        """The instances of some batch elements and some factors."""

        def cut(leaf: Tensor) -> Tensor:
            leaf = leaf[rows] if leaf.shape[0] > 1 else leaf
            return leaf[:, columns] if leaf.shape[1] > 1 else leaf

        b, m = (len(range(n)[part]) for n, part in zip(self.shape, (rows, columns), strict=True))
        return replace(self.map(cut), shape=(b, m))

    def map(self, function: Callable[[Tensor], Tensor]) -> Instances:
        """The same function of other arguments: ``function`` of each leaf."""
        return replace(self, arguments=map_leaves(function, self.arguments))

    def _checked(self, value: Any, leading: tuple[int, ...]) -> Any:
        """The value, if it has the right type and axes."""
        tensors = [value] if self.axes == 1 else pytree.tree_leaves(value)
        for tensor in tensors:
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                what = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise DnlsError(
                    f"cost '{self.name}' returns {what}, expected a tensor of floating point"
                )
            lead = tensor.shape[: len(leading)]
            fits = all(n in (1, want) for n, want in zip(lead, leading, strict=False))
            if tensor.ndim != len(leading) + self.axes or not fits:
                raise DnlsError(self._misshapen(tensor, leading))
        return value

    def _misshapen(self, tensor: Tensor, leading: tuple[int, ...]) -> str:
        got, what = tuple(tensor.shape), "residual" if self.axes == 1 else "Jacobian block"
        wanted = ", ".join([*map(str, leading), "r" if self.axes == 1 else "r, t"])
        if leading:
            return (
                f"cost '{self.name}': the {what}s have shape {got}, expected ({wanted}); a cost "
                "declared as batched keeps the leading axes (batch, factors) of its arguments and "
                "returns its residual along the last axis"
            )
        hint = (
            "return a vector, as in r[None]"
            if tensor.ndim < self.axes
            else "flatten it; a function over leading axes is declared by @cost(batched=True)"
        )
        comma = "," if self.axes == 1 else ""
        return (
            f"cost '{self.name}': the {what} of one instance has shape {got}, expected "
            f"({wanted}{comma}): {hint}"
        )

    def _runs_alone(self, error: Exception) -> bool:
        """Whether the function runs without ``vmap``: otherwise the error is its own."""
        if not self.count or "allocate" in str(error):
            return False
        first = next(self.singles()).map(torch.clone)
        try:
            with torch.no_grad():
                _ = first.together() if self.batched else first.alone()
        except Exception:  # whatever it raises, the caller sees the first error
            return False
        return True

    def _advice(self, error: Exception) -> str:
        over_axes = "@cost(batched=True, differentiation=BackwardNetwork())"
        advice = (
            f"it is written over leading axes: take {over_axes}"
            if self.batched
            else "take @cost(differentiation=Loop()), one instance after the other, or write it "
            f"over leading axes for {over_axes}"
        )
        reason = str(error).split(". ")[0].strip()
        return (
            f"cost '{self.name}' runs by itself but not under torch's vmap "
            f"({type(error).__name__}: {reason}); {advice}"
        )


@dataclass(frozen=True)
class Memory:
    """As many instances at a time as need no more than so much memory.

    One instance is worked through first and what it allocates is added up, its own arguments
    included: what is freed meanwhile is not subtracted, so the estimate is on the safe side.

    Attributes:
        bytes: For what is needed meanwhile; the results themselves come on top.
    """

    bytes: float

    def __post_init__(self) -> None:
        if not self.bytes > 0:
            raise DnlsError(f"Memory: bytes must be positive, got {self.bytes}")

    def chunk(
        self, instances: Instances, function: Callable[[Instances], Any], copies: int
    ) -> int | None:
        """How many fit if ``function`` works through them and copies them; None: all."""
        if instances.count <= 1:
            return None
        with _Allocations() as allocations:
            function(next(instances.singles()))
        own = [t[:1, :1] for t in _tensors(instances.arguments) if _is_own(t, instances.shape)]
        needed = allocations.bytes + copies * sum(t.numel() * t.element_size() for t in own)
        return max(1, int(min(self.bytes // max(1, needed), instances.count)))


Chunk = int | Memory | None
"""How many instances at a time: a number, what fits into a `Memory`, or all of them (None)."""


def check_chunk(chunk: Chunk) -> None:
    """Raises a `DnlsError` unless it is a `Chunk`."""
    number = isinstance(chunk, int) and not isinstance(chunk, bool) and chunk >= 1
    if not (chunk is None or isinstance(chunk, Memory) or number):
        raise DnlsError(
            f"chunk must be a number of instances ≥ 1, a Memory(bytes) or None, got {chunk!r}"
        )


def in_boxes(
    instances: Instances,
    chunk: Chunk,
    function: Callable[[Instances], Any],
    copies: int = 1,
) -> Any:
    """What ``function`` gives for all instances, by boxes of at most ``chunk`` of them.

    Args:
        instances: All of them, narrowed.
        chunk: Instances at a time.
        function: Gives a pytree with leaves (B, M, …) for the instances of a box.
        copies: How often it repeats each instance; a number as ``chunk`` counts them all.
    """
    if isinstance(chunk, Memory):
        chunk = chunk.chunk(instances, function, copies)
    elif chunk is not None:
        chunk = max(1, chunk // copies)
    if chunk is None or instances.count <= chunk:
        return function(instances)
    b, m = instances.shape
    rows = min(b, chunk)
    columns = chunk // rows
    grid = [
        [
            function(instances.box(slice(i, i + rows), slice(j, j + columns)))
            for j in range(0, m, columns)
        ]
        for i in range(0, b, rows)
    ]
    return _joined(instances.name, [_joined(instances.name, parts, 1) for parts in grid], 0)


class _Allocations(TorchDispatchMode):
    """Adds up the sizes of all storages that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        for storage in (t.untyped_storage() for t in _tensors(made)):
            if storage.data_ptr() not in known:
                self.bytes += storage.nbytes()
        return made


def _joined(name: str, parts: list[Any], axis: int) -> Any:
    shapes = sorted({tuple(tuple(t.shape[2:]) for t in _tensors(part)) for part in parts})
    if len(shapes) > 1:
        raise DnlsError(
            f"cost '{name}': the residuals of its instances have different shapes, such as "
            f"{shapes[0][0]} and {shapes[1][0]}; all must have the same length"
        )
    return pytree.tree_map(lambda *t: torch.cat(t, axis), *parts)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_own(leaf: Any, shape: tuple[int, int]) -> bool:
    """Whether each instance has its own: not what all of several instances share."""
    return isinstance(leaf, Tensor) and (shape == (1, 1) or tuple(leaf.shape[:2]) != (1, 1))


def _longest(lengths: list[int]) -> int:
    """The length that broadcasting makes of several: the one that is not 1."""
    return next((n for n in lengths if n != 1), 1)
