"""Residuals as lines in the world: from a body to what a measurement says about it.

A factor with a landmark leads from the body to the landmark; one between two states from one to
the other; any other one from the body to where this measurement alone would move it (for a pose,
the measured one). Lines are for people to look at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from dnls_ros.lie import LieGroup, retract
from dnls_ros.problem import FactorGroup, Values
from dnls_ros.window.bodies import Array, Body
from dnls_ros.window.evidence import Lines
from dnls_ros.window.solve_report import kind_of

LANDMARK_PARAMETERS = ("world_T_landmark", "p_world", "p_landmark")
"""Arguments of costs that say where a landmark is, the first that a cost has."""


def window_lines(
    groups: Mapping[str, object],
    values: Values,
    bodies: Mapping[str, Body],
    sensors: Collection[str],
) -> tuple[Lines, ...]:
    """The lines of every measured factor of a window."""
    found: list[Lines] = []
    with torch.inference_mode():
        for name, group in groups.items():
            sensor = kind_of(name, sensors)
            if sensor in sensors and isinstance(group, FactorGroup):
                lines = group_lines(sensor, group, values, bodies)
                found += [] if lines is None else [lines]
    return tuple(found)


def group_lines(
    sensor: str, group: FactorGroup, values: Values, bodies: Mapping[str, Body]
) -> Lines | None:
    """The lines of one group, or None where it touches no pose of a body.

    Args:
        sensor: Whose factors.
        group: They.
        values: Of the variables.
        bodies: By the name of their pose blocks.
    """
    seen = [(ref, bodies[ref.name]) for ref in group.refs if ref.name in bodies]
    if not seen or not group.count:
        return None
    ref, body = seen[0]
    element = values.gather(ref)
    assert isinstance(element, LieGroup)
    start = _positions(body, element)
    line = group.linearize(values)
    weight = np.ones(group.count) if line.weight is None else line.weight[0].numpy().copy()
    target = _landmark(group, values)
    if target is not None:
        end = target
    elif len(seen) > 1:
        last = values.gather(seen[-1][0])
        assert isinstance(last, LieGroup)
        end = _positions(seen[-1][1], last)
    else:
        position = next(k for k, one in enumerate(group.refs) if one is ref)
        pull = torch.linalg.pinv(line.jacobians[position]) @ line.residual[..., None]
        moved = retract(element, -pull[..., 0])
        assert isinstance(moved, LieGroup)
        end = _positions(body, moved)
    whole = np.isfinite(start).all(1) & np.isfinite(end).all(1) & np.isfinite(weight)
    return Lines(sensor, body.name, start[whole], end[whole], weight[whole].clip(0.0, 1.0))


def joined(lines: Iterable[Lines]) -> dict[tuple[str, str], Lines]:
    """(track, sensor) → all lines of both."""
    parts: dict[tuple[str, str], list[Lines]] = {}
    for one in lines:
        parts.setdefault((one.track, one.sensor), []).append(one)
    return {
        key: Lines(
            key[1],
            key[0],
            np.concatenate([p.start for p in some]),
            np.concatenate([p.end for p in some]),
            np.concatenate([p.weight for p in some]),
        )
        for key, some in parts.items()
    }


def _positions(body: Body, elements: LieGroup) -> Array:
    """(M, 3) of elements (1, M)."""
    return body.poses(elements[0])[:, :3]


def _landmark(group: FactorGroup, values: Values) -> Array | None:
    """Where the factors' landmarks are, (M, 3) [m]; None for a cost without one."""
    names = group.cost.parameters
    name = next((n for n in LANDMARK_PARAMETERS if n in names), None)
    if name is None:
        return None
    position = names.index(name)
    if position in group.positions:
        place = values.gather(group.refs[group.positions.index(position)])
    else:
        place = group.arguments[position]
    tensor = place.tensor if isinstance(place, LieGroup) else place
    if not isinstance(tensor, Tensor) or tensor.ndim != 3:
        return None
    size = 2 if tensor.shape[-1] in (2, 4) else 3  # SE(2) is (x y cos sin), lifted to z = 0
    points = np.zeros((group.count, 3))
    points[:, :size] = tensor[0, :, :size].detach().numpy()
    return points
