"""How a least-squares problem and its minimization lie in arrays, for all who touch them."""

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
    TO_HELD6,
    TO_HELD_PLANE,
) = range(15)
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
    OTHERS,
    PLANAR,
    POINTS,
    MODEL,
    COLUMNS,
) = range(27)
"""Columns of the table of groups.

WIDTH is T, LENGTH the rows of the residual, FIRST the tangent width of the first reference,
OTHERS that of each other one. Numbers of a factor lie at AT + factor · ROW + element ·
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


GEOMETRIC, GAIN_RATIO, FIXED, GAUSS_NEWTON = range(4)
"""Rules of the damping; Gauss–Newton has none."""


class Blocks(NamedTuple):
    """The block structure of H; see `dnls_ros.linear.block_structure`."""

    start: Any
    rows: Any
    left_start: Any
    left_column: Any
    left_block: Any
    place: Any
    entry: Any
    ones: Any
    diagonal: Any


class Settings(NamedTuple):
    """How to minimize.

    Attributes:
        rule: Of the damping.
        ratio: Of the geometric rule, or the fraction of a Gauss–Newton step.
        largest, smallest: Of the damping.
        minimal_gain: Of a step that is taken.
        scaled: D = diag(H) instead of I.
        floor_first: D is not below a share of the first one.
        relative: The first damping is relative to the largest entry of D.
        near: λ relative to diag(H) that changes a step by next to nothing.
        least, least_of_first: Floors of D.
        cost, step, gradient: Tolerances.
        iterations: Limit.
        deadline: Monotonic seconds, infinity if there is none.
        ends_linearized: Linearize after the last iteration too, where the limit ends it.
    """

    rule: int
    ratio: float
    largest: float
    smallest: float
    minimal_gain: float
    scaled: bool
    floor_first: bool
    relative: bool
    near: float
    least: float
    least_of_first: float
    cost: float
    step: float
    gradient: float
    iterations: int
    deadline: float
    ends_linearized: bool


class Codes(NamedTuple):
    """Numbers of the statuses."""

    running: int
    converged_cost: int
    converged_model: int
    converged_step: int
    converged_gradient: int
    max_iterations: int
    deadline: int
    damping_limit: int
    singular: int
    step_not_finite: int
    not_finite: int


class Found(NamedTuple):
    """What comes out, one entry per batch element; x, best, H are rows.

    Attributes:
        x: Starts as the first values, ends as the last.
        best: The values of least cost.
        hessian: Of the last linearization.
        numbers: (B, 8) float64: cost, best cost, first cost, damping, largest gradient, largest
            step, seconds of linearizations and costs, seconds of factorizations and solutions.
        counts: (B, 3) int64: status, iterations, accepted.
    """

    x: Any
    best: Any
    hessian: Any
    numbers: Any
    counts: Any


class Room(NamedTuple):
    """What a thread needs to minimize: nothing in it outlives an element.

    Attributes:
        factors: Rows for kernels of groups.
        costs: (G,).
        L: Storage of the factor.
        work: (N,) int32.
        g, d, D, floor: (n,) gradient, step, damping's diagonal, its least values.
        padded: A right-hand side in the order of elimination.
        trial: A state.
        clock: (2,) int64.
    """

    factors: Any
    costs: Any
    L: Any
    work: Any
    g: Any
    d: Any
    D: Any
    floor: Any
    padded: Any
    trial: Any
    clock: Any
