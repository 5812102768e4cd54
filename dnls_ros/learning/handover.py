"""What training has learned as parameters of the estimator: a file to lay over its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnls_ros.io.files import write_text
from dnls_ros.learned import ModelCard
from dnls_ros.window.parameter_file import write_yaml

LEARNED = "learned.yaml"
DIGITS = 6
"""Significant digits of noise."""


@dataclass(frozen=True)
class EstimatorNames:
    """Blocks of the estimator's parameters that take over what was learned.

    Attributes:
        object: The pushed track.
        ee: The sensor of the fingertip's pose.
        tactile: The tactile_image sensor.
    """

    object: str = "object"
    ee: str = "ee_pose"
    tactile: str = "gel"


def learned_parameters(card: ModelCard, names: EstimatorNames, model: str) -> dict[str, Any]:
    """Parameters by name: the model, what it was trained on, and the noise beside it.

    Args:
        card: Of the model.
        names: Whose parameters they are.
        model: Its file, as the parameter file names it.
    """
    noise = {name: [float(f"{s:.{DIGITS}g}") for s in sigma] for name, sigma in card.noise.items()}
    tactile = f"sensor.{names.tactile}"
    # A model says the noise of its pairs itself: only that of the distance is the sensor's.
    pairs = [0.002, 0.002, 0.03]
    return {
        f"track.{names.object}.motion_sigma": noise["motion"],
        f"sensor.{names.ee}.sigma": noise["ee"],
        f"{tactile}.sigma": [*noise["contact"], *pairs],
        f"{tactile}.axes": ["distance", *card.measured],
        f"{tactile}.covariance": "learned",
        f"{tactile}.model": model,
        f"{tactile}.pair_offsets": list(card.pair_offsets),
        f"{tactile}.image.size": list(card.image["size"]),
        f"{tactile}.image.crop": list(card.image["crop"]),
    }


def write_learned(folder: Path, card: ModelCard, names: EstimatorNames, model: str) -> Path:
    """Writes the file beside the model."""
    path = folder / LEARNED
    figures: Mapping[str, Any] = card.figures
    head = (
        f"# Learned (model {card.weights[:16]}, epoch {figures.get('epoch')}): lay it over the "
        "estimator's parameters.\n"
    )
    content = {"/**": {"ros__parameters": learned_parameters(card, names, model)}}
    text = write_yaml(content, sort_keys=False, default_flow_style=None, width=99)
    write_text(path, head + text)
    return path
