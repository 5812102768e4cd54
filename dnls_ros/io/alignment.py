"""Which rigid motion (or similarity) lays one trajectory best onto another.

The least-squares similarity between two point sets, S. Umeyama, "Least-squares estimation of
transformation parameters between two point patterns", PAMI 13(4), 1991, eqs. 38-43; with the turn
limited to the vertical it has a closed form of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dnls_ros.errors import DnlsError

Array = NDArray[np.float64]
AlignMode = Literal["se3", "sim3", "yaw", "none"]


@dataclass(frozen=True, eq=False)
class Alignment:
    """A similarity of positions p ↦ scale · R p + t; orientations are turned by R."""

    rotation: Array
    translation: Array
    scale: float = 1.0

    def apply(self, poses: Array) -> Array:
        """The poses (n, 7) after the alignment."""
        positions = self.scale * poses[:, :3] @ self.rotation.T + self.translation
        turned = Rotation.from_matrix(self.rotation) * Rotation.from_quat(poses[:, 3:])
        return np.hstack([positions, turned.as_quat()])


def align(estimate: Array, reference: Array, mode: AlignMode) -> Alignment:
    """The alignment of positions that brings an estimate closest to its reference.

    Args:
        estimate, reference: Positions (n, 3) of the same instants [m].
        mode: ``"se3"`` turn and shift; ``"sim3"`` also one scale; ``"yaw"`` turn about z and
            shift; ``"none"``.

    Raises:
        DnlsError: The mode is unknown, or too few distinct positions determine the turn.
    """
    if mode not in get_args(AlignMode):
        raise DnlsError(f"align: got '{mode}', expected one of {', '.join(get_args(AlignMode))}")
    if mode == "none":
        return Alignment(np.eye(3), np.zeros(3))
    center_e, center_r = estimate.mean(axis=0), reference.mean(axis=0)
    spread_e, spread_r = estimate - center_e, reference - center_r
    correlation = spread_r.T @ spread_e / len(estimate)
    turn = _turn_about_z(correlation) if mode == "yaw" else _turn(correlation)
    scale = 1.0
    if mode == "sim3":
        scale = float(np.trace(turn.T @ correlation) / np.mean(np.sum(spread_e**2, axis=1)))
    return Alignment(turn, center_r - scale * turn @ center_e, scale)


def _turn(correlation: Array) -> Array:
    """The rotation R that maximizes tr(Rᵀ C)."""
    left, singular, right = np.linalg.svd(correlation)
    if singular[1] <= 1e-13 * singular[0]:
        raise DnlsError(
            "align: the positions lie on one line or point, so the rotation is not determined; "
            "use 'yaw' or 'none', or a trajectory that moves"
        )
    mirror = np.sign(np.linalg.det(left) * np.linalg.det(right))
    return left @ np.diag([1.0, 1.0, mirror]) @ right


def _turn_about_z(correlation: Array) -> Array:
    """The same among the rotations about z."""
    sin = correlation[1, 0] - correlation[0, 1]
    cos = correlation[0, 0] + correlation[1, 1]
    if np.hypot(sin, cos) == 0.0:
        raise DnlsError("align: the positions do not move in x and y; use 'none'")
    return Rotation.from_euler("z", np.arctan2(sin, cos)).as_matrix()
