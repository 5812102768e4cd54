"""A window in two files, so that whoever looks into a failure can solve it again elsewhere.

``<name>.npz`` holds the arrays, ``<name>.json`` says what they are: factors, values, prior, how
the solve ended. Nothing in them is executed when they are read: costs, groups and noise models are
looked up by name in this package, or in a module that the reader names.
"""

from __future__ import annotations

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

from dnls_ros.errors import UnreadableInputError
from dnls_ros.linear import LinearSolver, choose_device, choose_solver
from dnls_ros.optim import LevenbergMarquardt, Solution, Tolerances, minimize
from dnls_ros.problem import Problem, Values
from dnls_ros.problem.coding import DAMAGE, decode, encode

FORMAT = "dnls_ros.window/1"
PREFIX = "window_"
ITERATIONS = 100


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
    tensors: dict[str, Tensor] = {}
    content = {
        "format": FORMAT,
        "cost": dump.cost,
        "about": dict(dump.about),
        "problem": {group: encode(dump.problem[group], tensors) for group in dump.problem},
        "values": encode(dump.values, tensors),
    }
    directory.mkdir(parents=True, exist_ok=True)
    path, data = directory / f"{name}.json", directory / f"{name}.npz"
    half = [p.with_name(p.name + ".part") for p in (data, path)]
    try:
        with half[0].open("wb") as file:
            arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
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
            arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
        if content["format"] != FORMAT:
            raise ValueError(f"its format is '{content['format']}', expected '{FORMAT}'")
        problem = {n: decode(g, arrays, modules) for n, g in content["problem"].items()}
        values = decode(content["values"], arrays, modules)
        return WindowDump(Problem(problem), values, content["cost"], content["about"])
    except (*DAMAGE, BadZipFile) as error:
        text = f"{file} is no window dump that can be read: {type(error).__name__}: {error}"
        raise UnreadableInputError(text) from error
