"""How a least-squares problem lies in arrays, for kernels and for those who fill them."""

from __future__ import annotations

from typing import Any, NamedTuple

(
    PRIOR6,
    PRIOR_PLANE,
    PRIOR_VECTOR,
    BETWEEN6,
    BETWEEN_PLANE,
    BETWEEN_VECTOR,
    PARTIAL6,
    PARTIAL_PLANE,
    CONSTANT_VELOCITY6,
    CONSTANT_VELOCITY_PLANE,
    RANGE_BEARING,
    CORNERS,
    DENSE,
) = range(13)
"""Kinds of groups."""

VECTOR, PLANE_TURN, TURN, PLANE, SPACE = range(5)
"""Manifolds: Rⁿ, SO(2), SO(3), SE(2), SE(3)."""

WHITE, SCALED, FULL = range(3)
"""Noise: none, one factor per row (or for all), a matrix."""

(
    KIND,
    COUNT,
    REFS,
    WIDTH,
    LENGTH,
    SLOT,
    POSITION,
    DATA,
    DATA_ROW,
    DATA_BATCH,
    NOISE,
    NOISE_AT,
    NOISE_ROW,
    NOISE_BATCH,
    NOISE_LENGTH,
    LOSS,
    LOSS_AT,
    LOSS_ROW,
    LOSS_BATCH,
    MASK,
    MASK_BATCH,
    FIRST,
    PLANAR,
    POINTS,
    MODEL,
    COLUMNS,
) = range(26)
"""Columns of the table of groups.

WIDTH is T, LENGTH the rows of the residual, FIRST the tangent width of the first reference; the
other references share the rest evenly. Numbers of a factor lie at AT + factor · ROW + element ·
BATCH of the data, the residual's own at DATA. For `DENSE` see `dnls_ros.kernels.dense`.
"""


class Program(NamedTuple):
    """The arrays.

    Attributes:
        groups: (G, COLUMNS) int64.
        slots: Where in the state each reference of each factor lies, int64.
        tangents: The same in the tangent vector.
        positions: Where in H each entry of a factor's lower triangle is added, by rows.
        blocks: (K, 6) int64: manifold, count, where in the state, its width, where in the
            tangent, its width.
        data: float64.
    """

    groups: Any
    slots: Any
    tangents: Any
    positions: Any
    blocks: Any
    data: Any
