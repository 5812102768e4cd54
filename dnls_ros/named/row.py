"""One named cost: a function, the names of what it takes, and how much it counts.

A word is always a name; everything else is a constant as one instance sees it, without axes. Noise
and losses are constants too, or *made of* named data: ``Named(Huber, "radius")``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.named.kinds import Kind, Space, nearest
from dnls_ros.problem import Cost, Diagonal, Isotropic, Loss, Noise, SquareRootInformation
from dnls_ros.problem.weighting import RadiusLoss

_NOISE_AXES = {Isotropic: 0, Diagonal: 1, SquareRootInformation: 2}
_BY_AXES = {axes: kind for kind, axes in _NOISE_AXES.items()}


@dataclass(frozen=True)
class Exp:
    """The exponential of named data: a positive number that can be learned without bounds.

    >>> Named(Welsch, Exp("log_radius"))
    """

    name: str


Source = str | Exp | float


@dataclass(frozen=True)
class Named:
    """A noise model or a loss made of named data.

    >>> Named(Diagonal, "sigmas")
    >>> Named(Barron, "radius", 1.0)

    Attributes:
        kind: The class.
        first: Its first argument: a name, ``Exp(name)`` or a number.
        second: Its second one, if it takes one.
    """

    kind: type[Noise] | type[Loss]
    first: Source
    second: Source | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The arguments in order."""
        return (self.first,) if self.second is None else (self.first, self.second)


@dataclass(frozen=True, eq=False)
class Row:
    """A named cost.

    Attributes:
        name: Its own.
        cost: What it evaluates.
        arguments: In the order of the cost's parameters: names and constants.
        noise: None = the residual is white already.
        loss: None = plain least squares.
        mask: Name of data that switches it off where it is 0.
    """

    name: str
    cost: Cost
    arguments: tuple[Any, ...]
    noise: Noise | Named | None = None
    loss: Loss | Named | None = None
    mask: str | None = None

    def argument_names(self) -> tuple[str, ...]:
        """Names among the arguments, repeated ones too."""
        return tuple(a for a in self.arguments if isinstance(a, str))

    def weight_names(self) -> tuple[str, ...]:
        """Names of the data that noise, loss and mask are made of."""
        found = [] if self.mask is None else [self.mask]
        for named in (self.noise, self.loss):
            if isinstance(named, Named):
                found += [name for name in map(name_of, named.sources) if name is not None]
        return tuple(found)


def name_of(source: Source) -> str | None:
    """The name that a source stands for; None for a number."""
    return source.name if isinstance(source, Exp) else source if isinstance(source, str) else None


def noise_by_name(noise: Any, data: Mapping[str, Kind]) -> Any:
    """A name in place of a noise model: which model is told by the shape of the data."""
    if not isinstance(noise, str):
        return noise
    kind = data.get(noise)
    if not isinstance(kind, Space) or kind.group or len(kind.shape) not in _BY_AXES:
        known = nearest(noise, data) if kind is None else f", which is {kind}"
        raise DnlsError(
            f"noise '{noise}'{known}; expected data that holds a standard deviation (float), one "
            "per residual dimension (Euclidean(r)) or a square root of the information (k, r)"
        )
    return Named(_BY_AXES[len(kind.shape)], noise)


def check_row(row: Row, variables: Mapping[str, Any], data: Mapping[str, Kind]) -> None:
    """Raises a `DnlsError` unless the row fits what has been declared."""
    where = f"cost '{row.name}'"
    expected = row.cost.parameters
    if len(row.arguments) != len(expected):
        raise DnlsError(
            f"{where}: {row.cost.name} takes {len(expected)} arguments {expected}, got "
            f"{len(row.arguments)}"
        )
    for name in row.argument_names():
        if name not in variables and name not in data:
            raise DnlsError(
                f"{where}: '{name}' is neither a variable nor data; declare it first"
                f"{nearest(name, (*variables, *data))}"
            )
    if not any(name in variables for name in row.argument_names()):
        raise DnlsError(f"{where}: none of its arguments is a variable, so it cannot matter")
    for parameter, argument in zip(expected, row.arguments, strict=True):
        if not isinstance(argument, str | int | float):
            _check_constant(f"{where}: {parameter}", argument, ())
    _check_weighting(f"{where}: noise", row.noise, Noise, data)
    _check_weighting(f"{where}: loss", row.loss, Loss, data)
    if row.mask is not None:
        _check_number(f"{where}: mask", row.mask, data)


def _check_constant(where: str, constant: Any, leading: tuple[int, ...]) -> None:
    """Constants are trees of tensors whose leading axes are ``leading``."""
    leaves = pytree.tree_leaves(constant)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise DnlsError(
                f"{where}: a constant is a number, a tensor, a group element or a pytree of "
                f"them, got {type(leaf).__name__}"
            )
        if leaf.requires_grad:
            raise DnlsError(f"{where}: what is learned is no constant; declare data and name it")
        if leaf.shape[: len(leading)] != leading:
            raise DnlsError(
                f"{where} has shape {tuple(leaf.shape)}, expected one factor's, (1, 1, …); "
                "what differs between batch elements is data: declare and name it"
            )
    if not leaves:
        raise DnlsError(f"{where}: {constant!r:.40} holds no tensor")


def _check_weighting(where: str, given: Any, base: type, data: Mapping[str, Kind]) -> None:
    if given is None:
        return
    if not isinstance(given, Named):
        if not isinstance(given, base):
            raise DnlsError(
                f"{where} is a {type(given).__name__}, expected a {base.__name__} such as "
                f"{'Diagonal(sigmas)' if base is Noise else 'Huber(2.0)'} or Named(kind, names)"
            )
        _check_constant(where, given, (1, 1))
        return
    if not (isinstance(given.kind, type) and issubclass(given.kind, base)):
        raise DnlsError(f"{where}: {given.kind!r} is no class of {base.__name__}")
    for source in given.sources:
        name = name_of(source)
        if name is None:
            if not isinstance(source, int | float):
                raise DnlsError(f"{where}: {source!r:.40} is no name, Exp(name) or number")
        elif issubclass(given.kind, RadiusLoss) or given.kind is Isotropic:
            _check_number(f"{where}: {given.kind.__name__}", name, data)
        else:
            _check_axes(f"{where}: {given.kind.__name__}", name, given.kind, data)


def _check_number(where: str, name: str, data: Mapping[str, Kind]) -> None:
    kind = _known(where, name, data)
    if kind != Space(None, ()):
        raise DnlsError(f"{where} takes one number, but '{name}' is {kind}; declare it as float")


def _check_axes(where: str, name: str, kind: type, data: Mapping[str, Kind]) -> None:
    axes = next((n for noise, n in _NOISE_AXES.items() if noise is kind), None)
    found = _known(where, name, data)
    shape = found.shape if isinstance(found, Space) and found.group is None else None
    if shape is None or (axes is not None and len(shape) != axes):
        wanted = "a vector" if axes == 1 else "a matrix" if axes == 2 else "a plain tensor"
        raise DnlsError(f"{where} takes {wanted}, but '{name}' is {found}")


def _known(where: str, name: str, data: Mapping[str, Kind]) -> Kind:
    if name not in data:
        raise DnlsError(f"{where}: '{name}' is not declared as data{nearest(name, data)}")
    return data[name]
