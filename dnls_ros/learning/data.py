"""The recordings of a training run: read, split into training and validation, cut into windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dnls_ros.errors import DnlsError
from dnls_ros.io.tactile_json import TactileTrajectory, read_tactile_json
from dnls_ros.learned import sha256
from dnls_ros.learning.config import TrainConfig
from dnls_ros.learning.windows import Windows, cut


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Windows to train on and to choose by.

    Attributes:
        training, validation: The windows.
        hashes: SHA-256 of each file by its name.
    """

    training: Windows
    validation: Windows
    hashes: Mapping[str, str]


def load_data(config: TrainConfig) -> TrainingData:
    """The data that a configuration names.

    Raises:
        UnreadableInputError: A file cannot be read.
        DnlsError: There is none, too few to split, or no window in them.
    """
    if not config.data:
        raise DnlsError("training: data names no file of recordings")
    training = [t for file in config.data for t in read_tactile_json(file)]
    validation = [t for file in config.validation for t in read_tactile_json(file)]
    if not validation:
        training, validation = _split(training, config)
    rare = replace(config.windows, step=config.windows.states // 2)
    return TrainingData(cut(training, config.windows), cut(validation, rare), _hashes(config))


def _split(
    trajectories: list[TactileTrajectory], config: TrainConfig
) -> tuple[list[TactileTrajectory], list[TactileTrajectory]]:
    """Whole recordings to one side or the other."""
    count = max(1, round(config.val_ratio * len(trajectories)))
    if len(trajectories) <= count:
        raise DnlsError(
            f"training: {len(trajectories)} recordings cannot be split by val_ratio "
            f"{config.val_ratio}: record more, or name files of validation"
        )
    order = np.random.default_rng(config.seed).permutation(len(trajectories))
    held = set(order[:count].tolist())
    return (
        [t for k, t in enumerate(trajectories) if k not in held],
        [t for k, t in enumerate(trajectories) if k in held],
    )


def _hashes(config: TrainConfig) -> dict[str, str]:
    return {Path(f).name: sha256(f) for f in (*config.data, *config.validation)}
