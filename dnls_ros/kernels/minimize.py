"""A whole minimization of one batch element without leaving compiled code.

The loop is that of `dnls_ros.optim.minimize`, the methods are `LevenbergMarquardt` and
`GaussNewton`; those are the reference, statement by statement, for what is accepted and when it
ends. Here stands nothing that they do not say.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from dnls_ros.kernels.cholesky import factorize, load, solve
from dnls_ros.kernels.jit import kernel
from dnls_ros.kernels.layout import FIXED, GAUSS_NEWTON, GEOMETRIC, Room
from dnls_ros.kernels.program import cost, linearize
from dnls_ros.kernels.retract import retract
from dnls_ros.kernels.simd import padding

EPS = float(np.finfo(np.float64).eps)
_MONOTONIC = 1
_clock_gettime = types.ExternalFunction(
    "clock_gettime", types.int32(types.int32, types.CPointer(types.int64))
)


@kernel
def _seconds(room):
    """The monotonic clock."""
    _clock_gettime(_MONOTONIC, room.ctypes)
    return room[0] + 1e-9 * room[1]


@kernel
def _largest(v):
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
def _weights(H, blocks, settings, floor, out):
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
def _step(unit, blocks, H, g, damping, D, L, work, x, d):
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
def _predicted(g, d, D, damping):
    """½δᵀ(λDδ − g)."""
    total = 0.0
    for k in range(d.shape[0]):
        total += d[k] * (damping * D[k] * d[k] - g[k])
    return 0.5 * total


@kernel
def _factor(settings, accept, gain, growth):
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
def minimize(unit, program, blocks, how, codes, k, damping, found, room):
    """Minimizes element k in place; see `dnls_ros.kernels.layout.Found`."""
    x, H = found.x[k], found.hessian[k]
    began = _seconds(room.clock)
    value = linearize(program, x, k, room.factors, H, room.g, room.costs)
    linearizing, factorizing = _seconds(room.clock) - began, 0.0
    found.best[k, :] = x
    first, lowest, growth, longest = value, value, 2.0, 0.0
    slope = _largest(room.g)
    top = _begin(H, blocks, how, room.floor)
    damping *= top if how.relative else 1.0
    status, iterations, accepted = _status_at(how, codes, value, slope), 0, 0
    while status == codes.running and iterations < how.iterations:
        began = _seconds(room.clock)
        if began >= how.deadline:
            status = codes.deadline
            break
        ok, predicted, full = _propose(unit, blocks, how, H, damping, room)
        middle = _seconds(room.clock)
        factorizing += middle - began
        if ok and full and abs(predicted) < how.cost * value:
            status = codes.converged_model
            break
        retract(program.blocks, x, room.d, room.trial)
        after = cost(program, room.trial, k, room.factors, room.costs)
        iterations += 1
        finite = ok and math.isfinite(value - after)
        accept, limit, damping, growth = _judge(
            how, value, value - after, predicted, finite, damping, growth
        )
        if accept:
            accepted += 1
            x[:] = room.trial
            longest = _largest(room.d)
            status = _status_after(how, codes, value, after, longest)
            value = after
            if value <= lowest:
                found.best[k, :] = x
                lowest = value
        if status == codes.running and limit:
            status = _status_at_limit(codes, ok, finite)
        goes_on = iterations < how.iterations or how.ends_linearized
        if accept and status == codes.running and goes_on:
            linearize(program, x, k, room.factors, H, room.g, room.costs)
            slope = _largest(room.g)
            if slope <= how.gradient:
                status = codes.converged_gradient
        linearizing += _seconds(room.clock) - middle
    if status == codes.running:
        status = codes.max_iterations
    _report(found.numbers[k], value, lowest, first, damping, slope, longest)
    found.numbers[k, 6], found.numbers[k, 7] = linearizing, factorizing
    found.counts[k, 0], found.counts[k, 1], found.counts[k, 2] = status, iterations, accepted


@kernel
def _report(numbers, value, lowest, first, damping, slope, longest):
    numbers[0], numbers[1], numbers[2] = value, lowest, first
    numbers[3], numbers[4], numbers[5] = damping, slope, longest


@kernel
def _begin(H, blocks, settings, floor):
    """The least values of D; the largest entry of diag(H)."""
    top = 0.0
    for k in range(floor.shape[0]):
        top = max(top, H[blocks.diagonal[k]])
    for k in range(floor.shape[0]):
        entry = H[blocks.diagonal[k]]
        floor[k] = settings.least_of_first * entry if entry > 0 else settings.least * top
    return top


@kernel
def _propose(unit, blocks, settings, H, damping, room):
    """The step (zero if there is none): whether there is one, its decrease, whether it is full."""
    newton = settings.rule == GAUSS_NEWTON
    if not newton:
        _weights(H, blocks, settings, room.floor, room.D)
    ok = _step(unit, blocks, H, room.g, damping, room.D, room.L, room.work, room.padded, room.d)
    if newton:
        predicted, full = _newton(room.g, room.d, settings.ratio), settings.ratio == 1.0
    else:
        predicted = _predicted(room.g, room.d, room.D, damping)
        full = damping <= settings.near and settings.scaled
    if not ok:
        room.d[:] = 0.0
    return ok, predicted, full


@kernel
def _judge(settings, value, decrease, predicted, finite, damping, growth):
    """Whether the step is taken, whether it was the last resort, the next damping and growth."""
    if settings.rule == GAUSS_NEWTON:
        return finite, not finite, damping, growth
    noise = 16 * EPS * abs(value)
    rounding = finite and max(abs(decrease), abs(predicted)) <= noise
    gain = decrease / predicted if predicted > 0 else np.nan
    accept = finite and (gain > settings.minimal_gain or rounding)
    factor = _factor(settings, accept, gain, growth)
    damping *= factor
    limit = not accept and (damping > settings.largest or factor == 1.0)
    damping = min(max(damping, settings.smallest), settings.largest)
    return accept, limit, damping, 2.0 if accept else 2 * growth


@kernel
def _status_at(settings, codes, value, slope):
    """At the start."""
    if not math.isfinite(value):
        return codes.not_finite
    return codes.converged_gradient if slope <= settings.gradient else codes.running


@kernel
def _status_after(settings, codes, before, after, longest):
    """After a step that was taken."""
    small = max(settings.cost, 16 * EPS) * abs(before)
    if settings.cost > 0 and abs(before - after) <= small:
        return codes.converged_cost
    return codes.converged_step if longest <= settings.step else codes.running


@kernel
def _status_at_limit(codes, ok, finite):
    """Where no step was possible any more."""
    if not ok:
        return codes.singular
    return codes.damping_limit if finite else codes.step_not_finite


@kernel
def _newton(g, d, fraction):
    """Shortens the Gauss–Newton step; the model's decrease −gᵀδ (1 − s/2)."""
    total = 0.0
    for k in range(d.shape[0]):
        d[k] *= fraction
        total -= g[k] * d[k]
    return total * (1 - 0.5 * fraction)


@kernel
def minimize_each(unit, program, blocks, settings, codes, damping, first, last, width, found):
    """`minimize` of batch elements first … last − 1, each by itself."""
    n, size = blocks.place.shape[0], blocks.rows.shape[0] * len(unit) * padding(unit)
    count = blocks.start.shape[0] - 1
    room = Room(
        np.empty((5, width)),
        np.empty(program.groups.shape[0]),
        np.empty(size),
        np.empty(count, np.int32),
        np.empty(n),
        np.empty(n),
        np.empty(n),
        np.empty(n),
        np.empty(count * padding(unit)),
        np.empty(found.x.shape[1]),
        np.zeros(2, np.int64),
    )
    for k in range(first, last):
        minimize(unit, program, blocks, settings, codes, k, damping[k], found, room)
