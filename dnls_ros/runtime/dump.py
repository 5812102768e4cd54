"""A window in two files, so that whoever looks into a failure can solve it again elsewhere.

``<name>.npz`` holds the arrays, ``<name>.json`` says what they are: factors, values, prior, how
the solve ended. Nothing in them is executed when they are read: costs, groups and noise models are
looked up by name in this package, or in a module that the reader names.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.linear import LinearSolver, choose_device, choose_solver
from dnls_ros.optim import LevenbergMarquardt, Solution, Tolerances, minimize
from dnls_ros.problem import Problem, Values
from dnls_ros.problem.cost import Cost

FORMAT = "dnls_ros.window/1"
PREFIX = "window_"
ITERATIONS = 100
OWN = "dnls_ros"
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, BadZipFile)
"""What reading a damaged file may raise."""


@dataclass(frozen=True, eq=False)
class WindowDump:
    """A window's problem and where it stands.

    Attributes:
        problem: All factors and the prior.
        values: Start of the next solve.
        cost: ½Σρ there.
        about: Why and when it was written, in words and numbers.
    """

    problem: Problem
    values: Values
    cost: float
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, problem: Problem, values: Values, about: Mapping[str, Any]) -> WindowDump:
        """With the cost at the values."""
        with torch.no_grad():
            cost = sum(float(group.objective(values)[0]) for group in problem.values())
        return cls(problem, values, cost, about)

    def solve(self, linear: LinearSolver | None = None) -> Solution:
        """Minimizes it from its values on; ``linear`` defaults to what fits the size."""
        if linear is None:
            linear, _ = choose_solver("auto", 200, choose_device("cpu")[0])
        stop = Tolerances(iterations=ITERATIONS)
        return minimize(self.problem, self.values, LevenbergMarquardt(), linear, stop)


def save_window(dump: WindowDump, directory: Path, name: str, keep: int | None = None) -> Path:
    """Writes both files; the json one last, so that it stands for a complete dump.

    Args:
        dump: What.
        directory: Where; made if need be.
        name: Of the files, without suffix.
        keep: At most so many dumps stay in the directory, the oldest go; None: all.

    Returns:
        The json file.

    Raises:
        OSError: It cannot be written; nothing half written stays.
        DnlsError: A cost is no module's attribute, so that nobody could find it again.
    """
    arrays: dict[str, np.ndarray] = {}
    content = {
        "format": FORMAT,
        "cost": dump.cost,
        "about": dict(dump.about),
        "problem": {group: _encode(dump.problem[group], arrays) for group in dump.problem},
        "values": _encode(dump.values, arrays),
    }
    directory.mkdir(parents=True, exist_ok=True)
    path, data = directory / f"{name}.json", directory / f"{name}.npz"
    half = [p.with_name(p.name + ".part") for p in (data, path)]
    try:
        with half[0].open("wb") as file:
            np.savez(file, allow_pickle=False, **cast(Any, arrays))
        half[1].write_text(json.dumps(content))
        os.replace(half[0], data)
        os.replace(half[1], path)
    finally:
        for part in half:
            part.unlink(missing_ok=True)
    if keep is not None:
        prune(directory, keep)
    return path


def prune(directory: Path, keep: int) -> None:
    """Removes the oldest dumps beyond ``keep``."""
    dumps = sorted(directory.glob(f"{PREFIX}*.json"), key=lambda p: (p.stat().st_mtime_ns, p.name))
    for path in dumps[: max(len(dumps) - keep, 0)]:
        path.with_suffix(".npz").unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def load_window(path: Path | str, modules: Collection[str] = ()) -> WindowDump:
    """Reads a dump.

    Args:
        path: Its json or npz file.
        modules: Modules besides this package's whose costs may occur (custom sensors).

    Raises:
        UnreadableInputError: A file is missing or damaged, or it names what may not be loaded.
    """
    file = Path(path).with_suffix(".json")
    try:
        content = json.loads(file.read_text())
        with file.with_suffix(".npz").open("rb") as data:
            stored = np.load(data, allow_pickle=False)
            arrays = {name: stored[name] for name in stored.files}
        if content["format"] != FORMAT:
            raise ValueError(f"its format is '{content['format']}', expected '{FORMAT}'")
        problem = {n: _decode(g, arrays, modules) for n, g in content["problem"].items()}
        values = _decode(content["values"], arrays, modules)
        return WindowDump(Problem(problem), values, content["cost"], content["about"])
    except DAMAGE as error:
        text = f"{file} is no window dump that can be read: {type(error).__name__}: {error}"
        raise UnreadableInputError(text) from error


def _encode(thing: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A tree of plain JSON; tensors go into ``arrays``."""
    if isinstance(thing, Tensor):
        name = f"a{len(arrays)}"
        arrays[name] = thing.detach().cpu().numpy()
        return {"tensor": name}
    if thing is None or isinstance(thing, bool | int | float | str):
        return {"is": thing}
    if isinstance(thing, tuple | list):
        return {"tuple": [_encode(x, arrays) for x in thing]}
    if isinstance(thing, Mapping):
        pairs = cast(Mapping[str, Any], thing)
        if not isinstance(thing, Values):
            return {"map": {k: _encode(v, arrays) for k, v in pairs.items()}}
    if isinstance(thing, Cost):
        return {"cost": _name_of(thing)}
    if not dataclasses.is_dataclass(thing):
        raise DnlsError(f"a {type(thing).__name__} cannot be written to a window dump")
    fields = {f.name: _encode(getattr(thing, f.name), arrays) for f in dataclasses.fields(thing)}
    return {"class": f"{type(thing).__module__}:{type(thing).__qualname__}", "fields": fields}


def _name_of(cost: Cost) -> str:
    module, name = cost.residual.__module__, cost.name
    if getattr(importlib.import_module(module), name, None) is not cost:
        raise DnlsError(f"cost '{name}' is no attribute of module {module}")
    return f"{module}:{name}"


def _decode(node: Any, arrays: Mapping[str, np.ndarray], modules: Collection[str]) -> Any:
    (kind, content), *rest = node.items()
    if kind == "tensor":
        return torch.from_numpy(arrays[content].copy())
    if kind == "is":
        return content
    if kind == "tuple":
        return tuple(_decode(x, arrays, modules) for x in content)
    if kind == "map":
        return {k: _decode(v, arrays, modules) for k, v in content.items()}
    found = _look_up(content, modules)
    if kind == "cost":
        if not isinstance(found, Cost):
            raise ValueError(f"{content} is no cost")
        return found
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(f"{content} is no class of data")
    made = object.__new__(found)
    for name, value in rest[0][1].items():
        object.__setattr__(made, name, _decode(value, arrays, modules))
    return made


def _look_up(name: str, modules: Collection[str]) -> Any:
    module, _, attribute = name.partition(":")
    if module.split(".")[0] != OWN and module not in modules:
        raise ValueError(f"it uses {name}; name its module to allow that")
    return getattr(importlib.import_module(module), attribute)
