"""A whole minimization of one batch element without leaving compiled code.

The loop is that of `dnls_ros.optim.minimize`, the methods are `LevenbergMarquardt` and
`GaussNewton`; those are the reference, statement by statement, for what is accepted and when it
ends. Here stands nothing that they do not say.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from dnls_ros.kernels.cholesky import factorize, load, solve
from dnls_ros.kernels.jit import kernel
from dnls_ros.kernels.program import cost, linearize, retract
from dnls_ros.kernels.simd import padding

GEOMETRIC, GAIN_RATIO, FIXED, GAUSS_NEWTON = range(4)
"""Rules of the damping; Gauss–Newton has none."""

EPS = float(np.finfo(np.float64).eps)
_MONOTONIC = 1
_clock_gettime = types.ExternalFunction(
    "clock_gettime", types.int32(types.int32, types.CPointer(types.int64))
)


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
        numbers: (B, 7) float64: cost, best cost, first cost, damping, largest gradient, largest
            step, and nothing.
        counts: (B, 3) int64: status, iterations, accepted.
    """

    x: Any
    best: Any
    hessian: Any
    numbers: Any
    counts: Any


@kernel
def _seconds(room: Any) -> Any:
    """The monotonic clock."""
    _clock_gettime(_MONOTONIC, room.ctypes)
    return room[0] + 1e-9 * room[1]


@kernel
def _largest(v: Any) -> Any:
    """The largest magnitude; NaN if one is."""
    found = 0.0
    for k in range(v.shape[0]):
        size = abs(v[k])
        if size > found or size != size:
            found = size
        if found != found:
            break
    return found


@kernel
def _weights(H: Any, blocks: Any, settings: Any, floor: Any, out: Any) -> Any:
    """D of the damping."""
    n = out.shape[0]
    if not settings.scaled:
        for k in range(n):
            out[k] = 1.0
        return
    top = 0.0
    for k in range(n):
        top = max(top, H[blocks.diagonal[k]])
    for k in range(n):
        value = H[blocks.diagonal[k]]
        least = floor[k] if settings.floor_first else settings.least * top
        out[k] = max(value, least) if value == value else value


@kernel
def _step(
    unit: Any, blocks: Any, H: Any, g: Any, damping: Any, D: Any, L: Any, work: Any, x: Any, d: Any
) -> Any:
    """d ← −(H + λD)⁻¹ g; whether that could be solved."""
    load(blocks.entry, blocks.ones, H, L)
    if damping > 0.0:
        for k in range(d.shape[0]):
            L[blocks.entry[blocks.diagonal[k]]] += damping * D[k]
    failed = factorize(
        unit,
        blocks.start,
        blocks.rows,
        blocks.left_start,
        blocks.left_column,
        blocks.left_block,
        work,
        L,
    )
    if failed != 0:
        return False
    x[:] = 0.0
    for k in range(d.shape[0]):
        x[blocks.place[k]] = -g[k]
    solve(unit, blocks.start, blocks.rows, L, x)
    finite = True
    for k in range(d.shape[0]):
        d[k] = x[blocks.place[k]]
        finite = finite and math.isfinite(d[k])
    return finite


@kernel
def _predicted(g: Any, d: Any, D: Any, damping: Any) -> Any:
    """½δᵀ(λDδ − g)."""
    total = 0.0
    for k in range(d.shape[0]):
        total += d[k] * (damping * D[k] * d[k] - g[k])
    return 0.5 * total


@kernel
def _factor(settings: Any, accept: Any, gain: Any, growth: Any) -> Any:
    """What the damping is multiplied by."""
    if settings.rule == FIXED:
        return 1.0
    if settings.rule == GEOMETRIC:
        return 1.0 / settings.ratio if accept else settings.ratio
    if not accept:
        return growth
    known = min(gain, 2.0) if math.isfinite(gain) else 0.5
    return min(max(1 - (2 * known - 1) ** 3, 1.0 / 3.0), 2.0)


@kernel
def minimize(
    unit: Any,
    program: Any,
    blocks: Any,
    settings: Any,
    codes: Any,
    element: Any,
    first_damping: Any,
    x: Any,
    best: Any,
    H: Any,
    numbers: Any,
    counts: Any,
    room: Any,
    costs: Any,
    L: Any,
    work: Any,
    vectors: Any,
    padded: Any,
    trial: Any,
    clock: Any,
) -> Any:
    """Minimizes one element in place; see `Found`."""
    g, d, D, floor = vectors[0], vectors[1], vectors[2], vectors[3]
    newton = settings.rule == GAUSS_NEWTON
    value = linearize(program, x, element, room, H, g, costs)
    numbers[2] = value
    best[:] = x
    best_value, damping, growth, longest = value, first_damping, 2.0, 0.0
    status, iterations, accepted = codes.running, 0, 0
    slope = _largest(g)
    top = 0.0
    for k in range(d.shape[0]):
        top = max(top, H[blocks.diagonal[k]])
    for k in range(d.shape[0]):
        entry = H[blocks.diagonal[k]]
        floor[k] = settings.least_of_first * entry if entry > 0 else settings.least * top
    if settings.relative:
        damping *= top
    if not math.isfinite(value):
        status = codes.not_finite
    elif slope <= settings.gradient:
        status = codes.converged_gradient
    fresh = True
    while status == codes.running and iterations < settings.iterations:
        if settings.deadline < np.inf and _seconds(clock) >= settings.deadline:
            status = codes.deadline
            break
        if fresh and not newton:
            _weights(H, blocks, settings, floor, D)
        ok = _step(unit, blocks, H, g, damping if not newton else 0.0, D, L, work, padded, d)
        if newton:
            predicted, full = _newton(g, d, settings.ratio), settings.ratio == 1.0
        else:
            predicted = _predicted(g, d, D, damping)
            full = damping <= settings.near and settings.scaled
        if ok and full and abs(predicted) < settings.cost * value:
            status = codes.converged_model
            break
        if not ok:
            d[:] = 0.0
        retract(program.blocks, x, d, trial)
        after = cost(program, trial, element, room, costs)
        decrease = value - after
        finite = ok and math.isfinite(decrease)
        noise = 16 * EPS * abs(value)
        rounding = finite and max(abs(decrease), abs(predicted)) <= noise
        gain = decrease / predicted if predicted > 0 else np.nan
        if newton:
            accept, limit = finite, not finite
        else:
            accept = finite and (gain > settings.minimal_gain or rounding)
            factor = _factor(settings, accept, gain, growth)
            damping *= factor
            limit = not accept and (damping > settings.largest or factor == 1.0)
            growth = 2.0 if accept else 2 * growth
            damping = min(max(damping, settings.smallest), settings.largest)
        iterations += 1
        if accept:
            x[:] = trial
            before, value = value, after
            accepted += 1
            if value <= best_value:
                best[:] = x
                best_value = value
            longest = _largest(d)
            small = max(settings.cost, 16 * EPS) * abs(before)
            if settings.cost > 0 and abs(decrease) <= small:
                status = codes.converged_cost
            elif longest <= settings.step:
                status = codes.converged_step
        if status == codes.running and limit:
            if not ok:
                status = codes.singular
            else:
                status = codes.step_not_finite if not finite else codes.damping_limit
        fresh = accept and status == codes.running
        if fresh:
            linearize(program, x, element, room, H, g, costs)
            slope = _largest(g)
            if slope <= settings.gradient:
                status = codes.converged_gradient
    if status == codes.running:
        status = codes.max_iterations
    numbers[0], numbers[1], numbers[3] = value, best_value, damping if not newton else 0.0
    numbers[4], numbers[5] = slope, longest
    counts[0], counts[1], counts[2] = status, iterations, accepted


@kernel
def _newton(g: Any, d: Any, fraction: Any) -> Any:
    """Shortens the Gauss–Newton step; the model's decrease −gᵀδ (1 − s/2)."""
    total = 0.0
    for k in range(d.shape[0]):
        d[k] *= fraction
        total -= g[k] * d[k]
    return total * (1 - 0.5 * fraction)


@kernel
def minimize_each(
    unit: Any,
    program: Any,
    blocks: Any,
    settings: Any,
    codes: Any,
    damping: Any,
    first: Any,
    last: Any,
    width: Any,
    found: Any,
) -> Any:
    """`minimize` of batch elements first … last − 1, each by itself."""
    n, size = blocks.place.shape[0], blocks.rows.shape[0] * len(unit) * padding(unit)
    count = blocks.start.shape[0] - 1
    room, costs = np.empty((5, width)), np.empty(program.groups.shape[0])
    L, work = np.empty(size), np.empty(count, np.int32)
    vectors, padded = np.empty((4, n)), np.empty(count * padding(unit))
    trial, clock = np.empty(found.x.shape[1]), np.zeros(2, np.int64)
    for k in range(first, last):
        minimize(
            unit,
            program,
            blocks,
            settings,
            codes,
            k,
            damping[k],
            found.x[k],
            found.best[k],
            found.hessian[k],
            found.numbers[k],
            found.counts[k],
            room,
            costs,
            L,
            work,
            vectors,
            padded,
            trial,
            clock,
        )
