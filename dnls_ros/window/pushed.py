"""The pushed object of a track: its distance field and the ratio of its limit surface."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from dnls_ros.costs import DistanceField, distance_field_of, shape_of
from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.window.config import ShapeConfig

CELL = 0.001
"""Distance between samples of a field [m]."""
MARGIN = 0.06
"""How far beyond its outline an object's field goes [m]: a contact further off is none."""


@dataclass(frozen=True, eq=False)
class PushedObject:
    """What pushing needs to know of an object.

    Attributes:
        field: Signed distances in its own axes.
        ratio: Largest frictional moment by largest frictional force [m].
    """

    field: DistanceField
    ratio: float


@lru_cache(maxsize=32)
def pushed_object(shape: ShapeConfig) -> PushedObject:
    """The object that a track's configuration describes.

    Raises:
        DnlsError: There is no such shape; the size does not fit it; the file holds no field.
    """
    if shape.type == "sdf":
        return _of_file(shape.sdf_file)
    made = shape_of(shape.type, shape.size)
    return PushedObject(distance_field_of(made, CELL, MARGIN), made.friction_ratio())


def _of_file(path: str) -> PushedObject:
    """Distances on a grid, and ∫|r| dA / A over the cells inside."""
    try:
        with np.load(path, allow_pickle=False) as file:
            grid, origin, cell = (
                np.asarray(file[k], dtype=np.float64) for k in ("grid", "origin", "resolution")
            )
    except (OSError, ValueError, KeyError, EOFError) as error:
        text = f"{path}: no field of distances: {error}; expected an .npz with grid, origin, "
        raise UnreadableInputError(f"{text}resolution") from error
    if not (np.isfinite(grid).all() and np.isfinite(origin).all() and np.isfinite(cell).all()):
        raise DnlsError(f"{path}: holds numbers that are not finite")
    field = DistanceField(*(torch.from_numpy(a) for a in (grid, origin, cell.reshape(-1))))
    rows, columns = np.nonzero(grid < 0)
    if not len(rows):
        raise DnlsError(f"{path}: no distance is negative: the object has no inside")
    places = origin + cell * np.stack([columns, rows], 1)
    return PushedObject(field, float(np.linalg.norm(places, axis=1).mean()))
