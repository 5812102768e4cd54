"""Points seen from moving frames, and derivatives pulled back through the chain of frames.

A residual of a point is differentiated once with respect to the point, giving rows (…, r, n) in
the sensor's axes. Walking up the chain world ← body ← sensor, each frame turns the rows into its
parent's axes and reads off its own Jacobian from them, so that no matrix is multiplied:

    d(row · x⁻¹p)/dδ  =  [−row, row × x⁻¹p]     of the frame x, with row in the axes of x
    d(row · x p)/dδ   =  [row R, −(row R) × p]   of a frame x that carries the point p
"""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.lie import SE2, SE3, LieGroup, lift
from dnls_ros.lie.series import cross
from dnls_ros.lie.so2 import quarter_turn


def in_space(x: SE2 | SE3) -> SE3:
    """The pose, a planar one lifted to z = 0."""
    return lift(x) if isinstance(x, SE2) else x


def own_columns(x: SE2 | SE3, jacobian: Tensor) -> Tensor:
    """The columns of a Jacobian (…, r, 6) in which ``x`` can move: 0, 1, 5 if it is planar."""
    if isinstance(x, SE2):
        return torch.cat([jacobian[..., :2], jacobian[..., 5:]], -1)
    return jacobian


def per_point(x: SE3) -> SE3:
    """The pose with an axis of length 1 for the points that it acts on."""
    return SE3(x.tensor.unsqueeze(-2))


def seen_from(x: SE2 | SE3, p: Tensor) -> Tensor:
    """The coordinates x⁻¹ p of points in the frame ``x``."""
    return x.rotation.inverse().act(p - x.translation)


def to_parent(x: SE2 | SE3, rows: Tensor) -> Tensor:
    """Rows (…, r, n) in the axes of ``x`` as rows in those of its parent."""
    return _per_row(x.rotation).act(rows)


def to_child(x: SE2 | SE3, rows: Tensor) -> Tensor:
    """Rows (…, r, n) in the axes of the parent of ``x`` as rows in its own."""
    return _per_row(x.rotation.inverse()).act(rows)


def of_viewer(rows: Tensor, p: Tensor) -> Tensor:
    """The Jacobian (…, r, t) of the frame in which the point ``p`` and ``rows`` are expressed."""
    if p.shape[-1] == 2:
        return -torch.cat([rows, (rows * quarter_turn(p).unsqueeze(-2)).sum(-1, keepdim=True)], -1)
    return torch.cat([-rows, cross(rows, p.unsqueeze(-2))], -1)


def of_carrier(rows: Tensor, p: Tensor) -> Tensor:
    """The Jacobian (…, r, 6) of the frame that carries the point: rows in its axes."""
    return -of_viewer(rows, p)


def _per_row(x: LieGroup) -> LieGroup:
    return type(x)(x.tensor.unsqueeze(-2))
