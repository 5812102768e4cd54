"""One file for an objective, the settings of its layer and its parameters.

The file is torch's container of tensors beside one JSON text. Reading it executes nothing: no
pickled object is restored but tensors, and costs and classes are looked up by import path in this
package or in modules that the reader names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from torch import Tensor

from dnls_ros.errors import UnreadableInputError
from dnls_ros.problem.coding import DAMAGE, decode, encode

FORMAT = "dnls_ros.layer/1"

Made = TypeVar("Made")


def write(path: Path | str, content: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all.

    Raises:
        DnlsError: Something cannot be written.
        OSError: The file cannot be.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps({name: encode(part, tensors) for name, part in content.items()})
    half = Path(path).with_name(Path(path).name + ".part")
    try:
        with half.open("wb") as file:
            torch.save({"format": FORMAT, "content": text, "tensors": tensors}, file)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


def read(
    path: Path | str, make: Callable[[Mapping[str, Any]], Made], modules: Collection[str]
) -> Made:
    """What ``make`` makes of the file's content; tensors are on the CPU.

    Raises:
        UnreadableInputError: The file is missing or damaged, of another version, or names what may
            not be loaded.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if stored["format"] != FORMAT:
            raise ValueError(f"its format is '{stored['format']}', expected '{FORMAT}'")
        content = json.loads(stored["content"])
        return make({n: decode(part, stored["tensors"], modules) for n, part in content.items()})
    except (*DAMAGE, UnpicklingError) as error:
        said = str(error).splitlines() or [""]
        text = f"{path} is no layer that can be read: {type(error).__name__}: {said[0]}"
        raise UnreadableInputError(text) from error
