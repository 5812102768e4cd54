"""How well a solution explains the corners that cameras saw, in pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from dnls_ros.costs import tag_corners
from dnls_ros.problem import FactorGroup, Group, Values


@dataclass(frozen=True)
class ReprojectionStatistics:
    """Distances between seen and predicted corners.

    Attributes:
        corners: Number of corners that took part in the solution.
        median, p90: Of the distances [px].
        rmse: Root mean square of the distances [px].
    """

    corners: int
    median: float
    p90: float
    rmse: float


def reprojection_statistics(
    groups: Mapping[str, Group], values: Values
) -> ReprojectionStatistics | None:
    """The statistics of all corners in a problem, or None where it has none.

    Args:
        groups: A problem's factor groups.
        values: Where to look, batch of 1.
    """
    distances = [_distances(group, values) for group in groups.values() if _sees(group)]
    if not distances:
        return None
    every = torch.cat(distances).numpy()
    return ReprojectionStatistics(
        len(every),
        float(np.median(every)),
        float(np.quantile(every, 0.9)),
        float(np.sqrt(np.mean(every**2))),
    )


def _sees(group: Group) -> bool:
    return isinstance(group, FactorGroup) and group.cost is tag_corners


def _distances(group: Group, values: Values) -> torch.Tensor:
    """The distance of every corner of a group [px]."""
    assert isinstance(group, FactorGroup)
    with torch.no_grad():
        pixels = replace(group, noise=None, loss=None).whitened(values)[0]
    if group.live is not None:
        pixels = pixels[group.live[0]]
    return pixels.reshape(-1, 2).norm(dim=1)
