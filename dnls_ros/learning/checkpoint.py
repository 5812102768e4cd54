"""All of a training run between two epochs, so that one that was killed goes on as if it was not.

A file of tensors, numbers and text; reading it executes nothing. It is written whole or not at
all, and replaced after every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.files import atomic_path
from dnls_ros.problem.coding import DAMAGE

FORMAT = "dnls_ros.training/1"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a run is made of after an epoch.

    Attributes:
        config: `TrainConfig.plain`.
        data: SHA-256 of each recording by name.
        network: Arguments of the network.
        epoch: Epochs done.
        model: State of the `PushingModel`.
        optimizer: Its state.
        best: The best model of the present phase: its loss, epoch and state.
        rows: One mapping for each epoch, see `EpochRow`.
    """

    config: Mapping[str, Any]
    data: Mapping[str, str]
    network: Mapping[str, Any]
    epoch: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    best: Mapping[str, Any]
    rows: list[dict[str, Any]]

    def write(self, path: Path | str) -> None:
        """Replaces the file."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        with atomic_path(path) as half:
            torch.save({"format": FORMAT, **content}, half)


def read_checkpoint(path: Path | str) -> Checkpoint:
    """The run of a file.

    Raises:
        UnreadableInputError: It is missing, damaged or of another version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content.pop("format", None)
        if found != FORMAT:
            raise ValueError(f"its format is {found!r}, this version reads '{FORMAT}'")
        return Checkpoint(**content)
    except (*DAMAGE, UnpicklingError) as error:
        said = str(error).splitlines() or [""]
        raise UnreadableInputError(f"checkpoint {path} cannot be used: {said[0]}") from error


def check_same_run(kept: Checkpoint, config: Mapping[str, Any], data: Mapping[str, str]) -> None:
    """Sees that a run goes on with what it began with.

    Raises:
        DnlsError: Settings or recordings differ; they are named.
    """
    changed = sorted(k for k in config if config[k] != kept.config.get(k))
    if changed:
        raise DnlsError(
            f"this run was begun with other settings {changed}: go on with those, or begin anew "
            "in another folder"
        )
    if dict(data) != dict(kept.data):
        names = sorted(set(data) ^ set(kept.data)) or sorted(
            n for n in data if data[n] != kept.data[n]
        )
        raise DnlsError(f"recordings {names} are not those that this run was begun with")
