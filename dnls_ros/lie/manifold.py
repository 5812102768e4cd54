"""What all manifold elements share: ⊞, ⊟, concatenation, and the base class of the Lie groups.

A group element is a frozen dataclass around one tensor (*batch, storage_dim) and a pytree, so that
it passes through ``vmap``, ``jacrev`` and ``grad`` like a tensor. Perturbations are on the right,
x ⊞ δ = x · Exp(δ), with the translation first in the tangent: δ = (v, ω) in body axes. Plain
tensors are elements of a Euclidean space, where ⊞ is +.

The Jacobians are polynomials in the adjoint representation ad(δ) (Barfoot, *State Estimation for
Robotics*, 2nd ed., §8.1.5), with the scalar coefficients of `dnls_ros.lie.series`:

    J_r(δ) = Σ (−ad)ⁿ/(n+1)!        Exp(δ + ε) = Exp(δ) Exp(J_r(δ) ε + O(ε²))
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias, TypeVar, cast, overload

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.lie.series import Constant, cross

_EYE3 = Constant([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def eye3_like(x: Tensor) -> Tensor:
    """The 3 × 3 identity in the dtype and on the device of ``x``."""
    return _EYE3.like(x)


def hat3(w: Tensor) -> Tensor:
    """The matrix [w]× with [w]× p = w × p, (…, 3) → (…, 3, 3)."""
    # Row i of [w]× is eᵢ × w.
    return cross(eye3_like(w), w.unsqueeze(-2))


class LieGroup(ABC):
    """A matrix Lie group's elements, batched over leading axes.

    Attributes:
        tangent_dim: t, the dimension of the group.
        storage_dim: Length of the last axis of the storage tensor.
        identity_storage: The storage of the neutral element.
        leaf_names: The fields that are leaves as a pytree: the storage.
    """

    tangent_dim: ClassVar[int]
    storage_dim: ClassVar[int]
    identity_storage: ClassVar[tuple[float, ...]]
    leaf_names: ClassVar[tuple[str, ...]]

    def __init__(self, tensor: Tensor) -> None:
        raise NotImplementedError  # the dataclasses bring their own

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, Tensor):
            if torch.compiler.is_compiling():
                return  # the compiler's stand-in for a tensor
            raise DnlsError(
                f"{self._named()}: got {type(self.tensor).__name__}, expected a tensor"
            )
        got = tuple(self.tensor.shape)
        if not got or got[-1] != self.storage_dim:
            raise DnlsError(
                f"{self._named()}: got shape {got}, expected (*batch, {self.storage_dim})"
            )

    def _named(self) -> str:
        return f"{type(self).__name__}({dataclasses.fields(cast(Any, self))[0].name})"

    @property
    @abstractmethod
    def tensor(self) -> Tensor:
        """The storage tensor (*batch, storage_dim)."""

    @classmethod
    def identity(
        cls,
        *batch: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Neutral elements with batch axes ``batch``."""
        one = torch.tensor(
            cls.identity_storage, dtype=dtype or torch.get_default_dtype(), device=device
        )
        return cls(one.expand(*batch, cls.storage_dim))

    @staticmethod
    @abstractmethod
    def exp(delta: Tensor) -> LieGroup:
        """The element that the tangent vector (…, t) leads to from the identity."""

    @staticmethod
    @abstractmethod
    def ad(delta: Tensor) -> Tensor:
        """The adjoint representation of the algebra, (…, t) → (…, t, t): ad(a) b = [a, b]."""

    @staticmethod
    @abstractmethod
    def right_jacobian(delta: Tensor) -> Tensor:
        """The right Jacobian (…, t, t): Exp(δ + ε) ≈ Exp(δ) Exp(J_r(δ) ε)."""

    @staticmethod
    @abstractmethod
    def right_jacobian_inverse(delta: Tensor) -> Tensor:
        """Its inverse: Log(Exp(δ) Exp(ε)) ≈ δ + J_r(δ)⁻¹ ε; needs an angle below 2π."""

    @classmethod
    @abstractmethod
    def from_matrix(cls, matrix: Tensor) -> Self:
        """The element of a (homogeneous) matrix, as `matrix` returns it."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """The (homogeneous) matrix."""

    @abstractmethod
    def log(self) -> Tensor:
        """The tangent vector (…, t) of smallest angle whose exponential this is."""

    @abstractmethod
    def inverse(self) -> Self:
        """The inverse x⁻¹."""

    @abstractmethod
    def adjoint(self) -> Tensor:
        """The adjoint Ad(x), (…, t, t): x Exp(δ) x⁻¹ = Exp(Ad(x) δ)."""

    @staticmethod
    @abstractmethod
    def product(a: Tensor, b: Tensor) -> Tensor:
        """The storage of x · y from those of x and y."""

    @staticmethod
    @abstractmethod
    def quotient(a: Tensor, b: Tensor) -> Tensor:
        """The storage of x⁻¹ · y from those of x and y."""

    @abstractmethod
    def act(self, points: Tensor) -> Tensor:
        """The points (…, 2) or (…, 3) mapped by this element."""

    @abstractmethod
    def normalized(self) -> Self:
        """The same element with its quaternion or (cos, sin) scaled back to unit length."""

    @abstractmethod
    def pull_back(self, gradient: Tensor) -> Tensor:
        """∂f(x Exp(δ))/∂δ at δ = 0, (…, t), from the gradient by the storage (…, storage_dim)."""

    def compose(self, other: Self) -> Self:
        """The product x · y, also written ``x @ y``.

        In code for ``torch.compile`` call this: torch (2.13) does not trace the operator @ between
        elements; it breaks the graph there or, with ``fullgraph``, says so.
        """
        if type(other) is not type(self):
            raise DnlsError(
                f"cannot compose {type(self).__name__} with {type(other).__name__}: "
                "lift or project one of them first"
            )
        return type(self)(self.product(self.tensor, other.tensor))

    def between(self, other: Self) -> Self:
        """The other as seen from this one: x⁻¹ · y."""
        return type(self)(self.quotient(self.tensor, other.tensor))

    def to(self, *target: torch.device | str | torch.dtype | Tensor) -> Self:
        """The element with its storage converted as by ``Tensor.to``.

        More precision does not make the storage more exact: `normalized` does.
        """
        return type(self)(cast(Any, self.tensor).to(*target))

    @property
    def batch_shape(self) -> torch.Size:
        """The leading axes."""
        return self.tensor.shape[:-1]

    def __getitem__(self, index: Any) -> Self:
        """Indexes the batch axes."""
        parts = index if isinstance(index, tuple) else (index,)
        if any(part is Ellipsis for part in cast(tuple[Any, ...], parts)):
            return type(self)(self.tensor[(*cast(tuple[Any, ...], parts), slice(None))])
        return type(self)(self.tensor[index])

    @overload
    def __matmul__(self, other: Self) -> Self: ...
    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    def __matmul__(self, other: Self | Tensor) -> Self | Tensor:
        """Composition with an element of the same group, or action on points."""
        return self.act(other) if isinstance(other, Tensor) else self.compose(other)


Element: TypeAlias = Tensor | LieGroup
E = TypeVar("E", bound=Element)
G = TypeVar("G", bound=LieGroup)


def register_group(cls: type[G]) -> type[G]:
    """Class decorator: makes a group a pytree with its storage tensor as the only leaf."""
    field = dataclasses.fields(cast(Any, cls))[0].name
    cls.leaf_names = (field,)

    def unflatten(leaves: Any, _: Any) -> G:
        # Leaves may be placeholders or carry a transform's extra axes: no check of their shape.
        made = object.__new__(cls)
        object.__setattr__(made, field, next(iter(leaves)))
        return made

    pytree.register_pytree_node(
        cls,
        lambda x: ([getattr(x, field)], None),
        unflatten,
        serialized_type_name=f"dnls_ros.{cls.__name__}",
    )
    torch.serialization.add_safe_globals([cls])  # torch.load takes elements, weights_only too
    return cls


@dataclass(frozen=True)
class Euclidean:
    """The manifold of plain tensors (…, n).

    Attributes:
        dim: n.
    """

    dim: int

    @property
    def tangent_dim(self) -> int:
        """n, as for the groups."""
        return self.dim

    @property
    def storage_dim(self) -> int:
        """n, as for the groups."""
        return self.dim

    def identity(
        self,
        *batch: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Zeros (*batch, n)."""
        return torch.zeros(*batch, self.dim, dtype=dtype, device=device)


def retract(x: E, delta: Tensor) -> E:
    """The perturbed element x ⊞ δ = x · Exp(δ); for tensors x + δ."""
    if isinstance(x, LieGroup):
        return cast(E, x.compose(type(x).exp(delta)))
    return cast(E, x + delta)


def local(x: E, y: E) -> Tensor:
    """The tangent vector (…, t) from x to y: y ⊟ x = Log(x⁻¹ y); for tensors y − x."""
    if isinstance(x, LieGroup):
        return x.between(cast(Any, y)).log()
    return cast(Tensor, y) - x


def tangent_dim(x: Element) -> int:
    """t, the dimension of the space in which ``x`` is perturbed."""
    return x.tangent_dim if isinstance(x, LieGroup) else x.shape[-1]


def cat(elements: Sequence[E], axis: int = 0) -> E:
    """Joins elements along a batch axis (negative: counted from the last)."""
    joined = torch.cat([_tensor(e) for e in elements], axis if axis >= 0 else axis - 1)
    return _like(elements[0], joined)


def stack(elements: Sequence[E], axis: int = 0) -> E:
    """Joins elements along a new batch axis (negative: counted from the result's last)."""
    joined = torch.stack([_tensor(e) for e in elements], axis if axis >= 0 else axis - 1)
    return _like(elements[0], joined)


def _tensor(element: Element) -> Tensor:
    return element.tensor if isinstance(element, LieGroup) else element


def _like(element: E, tensor: Tensor) -> E:
    return cast(E, type(element)(tensor) if isinstance(element, LieGroup) else tensor)
