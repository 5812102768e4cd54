"""What a name stands for: elements of a group, tensors of one shape, or structured data.

The kind is declared once; every input is held to it, with its name in the message. Inputs have one
batch axis in front, of length B or 1, and nothing else: one name is one variable or one datum.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.lie import Element, Euclidean, LieGroup

Declared = type[LieGroup] | Euclidean | type[float] | tuple[int, ...] | type
"""As users say it: ``SE3``, ``Euclidean(3)``, ``float``, ``(480, 640)`` or a class of data."""


@dataclass(frozen=True)
class Space:
    """Group elements or plain tensors.

    Attributes:
        group: None = plain tensors.
        shape: Of one element's storage, without the batch axis.
    """

    group: type[LieGroup] | None
    shape: tuple[int, ...]

    def __str__(self) -> str:
        sizes = "".join(f", {n}" for n in self.shape)
        plain = f"a tensor (B|1{sizes})" if sizes else "a tensor (B|1,)"
        return plain if self.group is None else f"{self.group.__name__} or {plain}"

    @property
    def declared(self) -> Declared:
        """As a user declares it."""
        if self.group is not None:
            return self.group
        return Euclidean(self.shape[0]) if len(self.shape) == 1 else self.shape

    def read(self, where: str, value: Any) -> Tensor:
        """The storage tensor of an input (B|1, *shape).

        Raises:
            DnlsError: It is of another kind or shape; names ``where``.
        """
        tensor = value.tensor if isinstance(value, LieGroup) else value
        other_group = isinstance(value, LieGroup) and type(value) is not self.group
        if not isinstance(tensor, Tensor) or other_group:
            raise DnlsError(f"{where} is {self}, got {type(value).__name__}")
        if tensor.ndim != 1 + len(self.shape) or tensor.shape[1:] != self.shape:
            raise DnlsError(f"{where} is {self}, got shape {tuple(tensor.shape)}")
        return tensor

    def element(self, storage: Tensor) -> Element:
        """The element with this storage, whatever its leading axes."""
        return storage if self.group is None else self.group(storage)


@dataclass(frozen=True)
class Structured:
    """Objects of one class that is a pytree of tensors with a batch axis each, such as a map.

    Attributes:
        cls: The class.
    """

    cls: type

    def __str__(self) -> str:
        return f"a {self.cls.__name__} with a batch axis in front of its tensors"

    @property
    def declared(self) -> Declared:
        """As a user declares it."""
        return self.cls

    def read(self, where: str, value: Any) -> Any:
        """The input itself, checked.

        Raises:
            DnlsError: It is of another class or no pytree of tensors; names ``where``.
        """
        leaves = pytree.tree_leaves(value)
        if not isinstance(value, self.cls) or any(leaf is value for leaf in leaves):
            raise DnlsError(f"{where} is {self}, got {type(value).__name__}")
        for leaf in leaves:
            if not isinstance(leaf, Tensor) or leaf.ndim == 0:
                raise DnlsError(f"{where} is {self}, but holds {leaf!r:.40}")
        return value


Kind = Space | Structured


def manifold(declared: Any) -> Space:
    """The kind of a variable, from ``SE2`` or ``Euclidean(3)``.

    Raises:
        DnlsError: It is none that can be optimized over.
    """
    if isinstance(declared, type) and issubclass(declared, LieGroup):
        return Space(declared, (declared.storage_dim,))
    if isinstance(declared, Euclidean):
        return Space(None, (declared.dim,))
    raise DnlsError(f"variables live in SE2, SE3, SO2, SO3 or Euclidean(n), got {declared!r}")


def kind_of(declared: Any) -> Kind:
    """The kind of data.

    Raises:
        DnlsError: It is none of the things that data can be declared as.
    """
    if declared is float:
        return Space(None, ())
    if isinstance(declared, tuple):
        sizes = cast(tuple[Any, ...], declared)
        if all(isinstance(n, int) and n > 0 for n in sizes):
            return Space(None, sizes)
    elif isinstance(declared, Euclidean):
        return manifold(declared)
    elif isinstance(declared, type) and declared not in (int, bool, str, Tensor, Euclidean):
        return manifold(declared) if issubclass(declared, LieGroup) else Structured(declared)
    raise DnlsError(
        "data is declared as a group (SE3), Euclidean(n), float (one number), a shape (480, 640) "
        f"or a class that is a pytree of tensors, got {declared!r}"
    )


def nearest(name: str, valid: Iterable[str]) -> str:
    """How to go on after a wrong name: with the nearest valid one."""
    near = difflib.get_close_matches(name, sorted(valid), n=1, cutoff=0.0)
    return f"; the nearest valid name is '{near[0]}'" if near else ""
