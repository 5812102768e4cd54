"""Trees of data as plain JSON and tensors, and back, for files that are safe to read.

What is written: numbers, words, tuples, mappings, tensors, frozen dataclasses field by field,
costs and classes by their import path ``module:name``. Nothing is executed when it is read:
classes and costs are looked up in this package, or in a module that the reader names.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from torch import Tensor
from torch.nn import Parameter

from dnls_ros.errors import DnlsError
from dnls_ros.problem.cost import Cost

OWN = "dnls_ros"


def encode(thing: Any, tensors: dict[str, Tensor]) -> Any:
    """A tree of plain JSON; its tensors go, detached and on the CPU, into ``tensors``.

    Raises:
        DnlsError: Something is of a kind that cannot be written, or a cost that nobody could find
            again.
    """
    if isinstance(thing, Tensor):
        name = f"a{len(tensors)}"
        tensors[name] = thing.detach().cpu()
        if isinstance(thing, Parameter):
            return {"parameter": name, "learned": thing.requires_grad}
        return {"tensor": name}
    if thing is None or isinstance(thing, bool | int | float | str):
        return {"is": thing}
    if isinstance(thing, tuple | list):
        return {"tuple": [encode(x, tensors) for x in thing]}
    if isinstance(thing, Cost):
        return {"cost": path_of(thing)}
    if isinstance(thing, type):
        return {"type": f"{thing.__module__}:{thing.__qualname__}"}
    if dataclasses.is_dataclass(thing):
        kind = f"{type(thing).__module__}:{type(thing).__qualname__}"
        names = [f.name for f in dataclasses.fields(thing)]
        return {"class": kind, "fields": {n: encode(getattr(thing, n), tensors) for n in names}}
    if isinstance(thing, Mapping):
        pairs = cast(Mapping[str, Any], thing)
        return {"map": {key: encode(value, tensors) for key, value in pairs.items()}}
    raise DnlsError(f"a {type(thing).__name__} cannot be written to a file: {thing!r:.60}")


def decode(node: Any, tensors: Mapping[str, Tensor], modules: Collection[str] = ()) -> Any:
    """What `encode` wrote.

    Args:
        node: The JSON.
        tensors: What its tensors are called.
        modules: Modules besides this package's whose costs and classes may occur.

    Raises:
        Exception: Of any kind that a damaged tree leads to; `DAMAGE` are those to expect.
    """
    (kind, content), *rest = node.items()
    if kind == "tensor":
        return tensors[content].clone()
    if kind == "parameter":
        return Parameter(tensors[content].clone(), requires_grad=rest[0][1])
    if kind == "is":
        return content
    if kind == "tuple":
        return tuple(decode(x, tensors, modules) for x in content)
    if kind == "map":
        return {k: decode(v, tensors, modules) for k, v in content.items()}
    found = _look_up(content, modules)
    if kind == "cost":
        return _as_cost(found, content)
    if not isinstance(found, type):
        raise ValueError(f"{content} is no class")
    if kind == "type":
        return found
    fields = {k: decode(v, tensors, modules) for k, v in rest[0][1].items()}
    return _made(found, content, fields)


DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
)
"""What reading a damaged file may raise."""


def path_of(cost: Cost) -> str:
    """Where a cost, or the function that it was made of, can be imported from: ``module:name``.

    Raises:
        DnlsError: It is no module's attribute, so that nobody could find it again.
    """
    function = cast(Callable[..., Any], cost.residual)
    module = getattr(function, "__module__", None)
    if module is not None and "<" not in getattr(function, "__qualname__", "<"):
        found = getattr(importlib.import_module(module), cost.name, None)
        if found is cost or (found is function and vars(Cost(function)) == vars(cost)):
            return f"{module}:{cost.name}"
    raise DnlsError(
        f"cost '{cost.name}' is no attribute of module {module}: a file names costs by their "
        "import path, so define it with def at the top of a module (no lambda, no function "
        "inside a function)"
    )


def _as_cost(found: Any, name: str) -> Cost:
    if isinstance(found, Cost):
        return found
    if not callable(found) or isinstance(found, type):
        raise ValueError(f"{name} is no cost")
    return _plain(cast(Callable[..., Tensor], found))


@functools.cache
def _plain(function: Callable[..., Tensor]) -> Cost:
    """One cost per function, so that its factors are recognized as alike."""
    return Cost(function)


def _made(cls: type, name: str, fields: Mapping[str, Any]) -> Any:
    """An object with these fields and the checks of its class, whatever its constructor takes."""
    if not dataclasses.is_dataclass(cls):
        raise ValueError(f"{name} is no class of data")
    unknown = fields.keys() - {f.name for f in dataclasses.fields(cls)}
    if unknown:
        raise ValueError(f"{name} has no {', '.join(sorted(unknown))}")
    made = object.__new__(cls)
    for field, value in fields.items():
        object.__setattr__(made, field, value)
    check = getattr(made, "__post_init__", None)
    if check is not None:
        check()
    return made


def _look_up(name: str, modules: Collection[str]) -> Any:
    module, _, attribute = name.partition(":")
    if module.split(".")[0] != OWN and module not in modules:
        raise ValueError(f"it uses {name}; name its module to allow that")
    return getattr(importlib.import_module(module), attribute)
