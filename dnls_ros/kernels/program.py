"""A least-squares problem as arrays, and its linearization by one call.

A `Program` is what `dnls_ros.optim.program` makes of a problem and its structure: tables that say
which cost each group has and where its numbers lie. State, data, gradient and H are flat arrays.
Once per group: its row of the table. Once per factor: residual, Jacobian, whitening, loss,
products, and their place in H, without anything in between being stored.
"""

from __future__ import annotations

import numpy as np

from dnls_ros.kernels.dense import dense_cost, dense_linearize
from dnls_ros.kernels.jit import inlined, kernel, leaf
from dnls_ros.kernels.layout import (
    BETWEEN6,
    BETWEEN_PLANE,
    BETWEEN_VECTOR,
    CONSTANT_VELOCITY6,
    CONSTANT_VELOCITY_PLANE,
    CORNERS,
    COUNT,
    DATA,
    DATA_BATCH,
    DATA_ROW,
    DENSE,
    FIRST,
    FULL,
    KIND,
    LENGTH,
    LOSS,
    LOSS_AT,
    LOSS_BATCH,
    LOSS_ROW,
    MASK,
    MASK_BATCH,
    MODEL,
    NOISE,
    NOISE_AT,
    NOISE_BATCH,
    NOISE_LENGTH,
    NOISE_ROW,
    OTHERS,
    PARTIAL6,
    PARTIAL_PLANE,
    PLANAR,
    POINTS,
    POSITION,
    PRIOR6,
    PRIOR_PLANE,
    PRIOR_VECTOR,
    RANGE_BEARING,
    REFS,
    SCALED,
    SLOT,
    TO_HELD6,
    TO_HELD_PLANE,
    WHITE,
    WIDTH,
)
from dnls_ros.kernels.losses import loss
from dnls_ros.kernels.points import corners, range_bearing
from dnls_ros.kernels.poses import (
    between6,
    between_plane,
    between_vector,
    constant_velocity6,
    constant_velocity_plane,
    partial6,
    partial_plane,
    prior6,
    prior_plane,
    prior_vector,
    to_held6,
    to_held_plane,
)
from dnls_ros.kernels.vectors import (
    SPARE,
    UNIT4,
    UNIT8,
    UNIT16,
    add_scaled,
    store,
    zeros,
)


@leaf
def residual(table, slots, data, x, f, element, r, J, jac):
    """The residual and, if ``jac``, the Jacobian of factor f of a group."""
    kind, T = table[KIND], table[WIDTH]
    at = table[SLOT] + f * table[REFS]
    k = table[DATA] + f * table[DATA_ROW] + element * table[DATA_BATCH]
    i = slots[at]
    if kind == BETWEEN6:
        between6(x, i, slots[at + 1], data, k, r, J, 12, jac)
    elif kind == BETWEEN_PLANE:
        between_plane(x, i, slots[at + 1], data, k, r, J, 6, jac)
    elif kind == PRIOR6:
        prior6(x, i, data, k, r, J, 6, jac)
    elif kind == PRIOR_PLANE:
        prior_plane(x, i, data, k, r, J, 3, jac)
    elif kind == CORNERS:
        landmark = slots[at + 1] if table[REFS] > 1 else -1
        planar, count, model = table[PLANAR] != 0, table[POINTS], table[MODEL]
        corners(x, i, landmark, planar, count, model, data, k, r, J, T, jac)
    elif kind == RANGE_BEARING:
        range_bearing(x, i, table[PLANAR] != 0, data, k, r, J, T, jac)
    elif kind == PARTIAL6:
        partial6(x, i, data, k, r, J, 6, jac)
    elif kind == PARTIAL_PLANE:
        partial_plane(x, i, data, k, r, J, 3, jac)
    elif kind == CONSTANT_VELOCITY6:
        v_i, j, v_j = slots[at + 1], slots[at + 2], slots[at + 3]
        constant_velocity6(x, i, v_i, j, v_j, data[k], r, J, 24, jac)
    elif kind == CONSTANT_VELOCITY_PLANE:
        v_i, j, v_j = slots[at + 1], slots[at + 2], slots[at + 3]
        constant_velocity_plane(x, i, v_i, j, v_j, data[k], r, J, 12, jac)
    elif kind == TO_HELD6:
        to_held6(x, i, data, k, r, J, 6, jac)
    elif kind == TO_HELD_PLANE:
        to_held_plane(x, i, data, k, r, J, 3, jac)
    elif kind == PRIOR_VECTOR:
        prior_vector(x, i, T, data, k, r, J, T, jac)
    elif kind == BETWEEN_VECTOR:
        between_vector(x, i, slots[at + 1], T // 2, data, k, r, J, T, jac)


@leaf
def whiten(table, data, f, element, r, J, room, jac):
    """L r and L J in place; the length of L r."""
    kind, length, T = table[NOISE], table[LENGTH], table[WIDTH]
    at = table[NOISE_AT] + f * table[NOISE_ROW] + element * table[NOISE_BATCH]
    if kind == WHITE:
        return length
    if kind == SCALED:
        step = 1 if table[NOISE_LENGTH] > 1 else 0
        for a in range(length):
            weight = data[at + a * step]
            r[a] *= weight
            if jac:
                for b in range(T):
                    J[a * T + b] *= weight
        return length
    rows = table[NOISE_LENGTH]
    for a in range(rows):
        total = 0.0
        for c in range(length):
            total += data[at + a * length + c] * r[c]
        room[a] = total
    for a in range(rows):
        r[a] = room[a]
    if jac:
        if T <= 4:
            _multiply_rows(UNIT4, data, at, rows, length, J, T, room)
        elif T <= 8:
            _multiply_rows(UNIT8, data, at, rows, length, J, T, room)
        elif T <= 16:
            _multiply_rows(UNIT16, data, at, rows, length, J, T, room)
        else:
            for first in range(0, T, 12):
                _multiply_part(data, at, rows, length, J, T, first, room)
        for a in range(rows * T):
            J[a] = room[a]
    return rows


@inlined
def _multiply_rows(unit, data, at, rows, length, J, T, out):
    """Out = L J for J of up to len(unit) columns."""
    for a in range(rows):
        total = zeros(unit)
        for c in range(length):
            total = add_scaled(total, J, c * T, data[at + a * length + c])
        store(total, out, a * T)


@leaf
def _multiply_part(data, at, rows, length, J, T, first, out):
    """Columns first … first + 11 of L J, one number after the other."""
    for a in range(rows):
        for b in range(first, min(first + 12, T)):
            total = 0.0
            for c in range(length):
                total += data[at + a * length + c] * J[c * T + b]
            out[a * T + b] = total


@inlined
def squared(r, rows):
    """‖r‖²."""
    s = 0.0
    for a in range(rows):
        s += r[a] * r[a]
    return s


@inlined
def weigh(table, data, f, element, s):
    """(ρ, ρ') of a factor."""
    at = table[LOSS_AT] + f * table[LOSS_ROW] + element * table[LOSS_BATCH]
    radius = data[at] if table[LOSS] != 0 else 1.0
    return loss(table[LOSS], s, radius)


@inlined
def live(table, data, f, element):
    """Whether a factor counts."""
    return table[MASK] < 0 or data[table[MASK] + f + element * table[MASK_BATCH]] != 0.0


@leaf
def cost(program, x, element, room, costs):
    """½Σρ; by group in ``costs``."""
    groups, data = program.groups, program.data
    r, J, more = room[0], room[1], room[2]
    total = 0.0
    for g in range(groups.shape[0]):
        table = groups[g]
        part = 0.0
        if table[KIND] == DENSE:
            part = dense_cost(program, table, x, element, room)
        else:
            for f in range(table[COUNT]):
                if live(table, data, f, element):
                    residual(table, program.slots, data, x, f, element, r, J, False)
                    rows = whiten(table, data, f, element, r, J, more, False)
                    part += weigh(table, data, f, element, squared(r, rows))[0]
        costs[g] = 0.5 * part
        total += 0.5 * part
    return total


@leaf
def linearize(program, x, element, room, H, g, costs):
    """H, g and ½Σρ, by group in ``costs``; H and g begin at zero."""
    groups, data = program.groups, program.data
    r, J, more = room[0], room[1], room[2]
    H[:] = 0.0
    g[:] = 0.0
    total = 0.0
    for n in range(groups.shape[0]):
        table = groups[n]
        part = 0.0
        if table[KIND] == DENSE:
            part = dense_linearize(program, table, x, element, room, H, g)
        else:
            for k in range(table[LENGTH] * table[WIDTH]):
                J[k] = 0.0
            for f in range(table[COUNT]):
                if not live(table, data, f, element):
                    continue
                if table[NOISE] == FULL:  # whitening has filled it
                    for k in range(table[LENGTH] * table[WIDTH]):
                        J[k] = 0.0
                residual(table, program.slots, data, x, f, element, r, J, True)
                rows = whiten(table, data, f, element, r, J, more, True)
                rho, weight = weigh(table, data, f, element, squared(r, rows))
                part += rho
                add_products(program, table, f, rows, weight, r, J, more, H, g)
        costs[n] = 0.5 * part
        total += 0.5 * part
    return total


@inlined
def add_products(program, table, f, rows, weight, r, J, gradient, H, g):
    """H += w JᵀJ and g += w Jᵀr of a factor."""
    T = table[WIDTH]
    refs = table[REFS]
    at = table[POSITION] + f * (T * (T + 1) // 2)
    if T <= 4:
        _add_square(UNIT4, program.positions, at, rows, T, weight, r, J, gradient, H)
    elif T <= 8:
        _add_square(UNIT8, program.positions, at, rows, T, weight, r, J, gradient, H)
    elif T <= 16:
        _add_square(UNIT16, program.positions, at, rows, T, weight, r, J, gradient, H)
    else:
        _add_square_long(program.positions, at, rows, T, weight, r, J, gradient, H)
    first, begin, width = table[SLOT] + f * refs, 0, table[FIRST]
    for n in range(refs):
        place = program.tangents[first + n]
        for a in range(width):
            g[place + a] += gradient[begin + a]
        begin += width
        width = table[OTHERS]


@inlined
def _add_square(unit, positions, at, rows, T, weight, r, J, gradient, H):
    """The lower triangle of w JᵀJ into H, and w Jᵀr, for up to len(unit) columns."""
    total = zeros(unit)
    for k in range(rows):
        total = add_scaled(total, J, k * T, weight * r[k])
    store(total, gradient, 0)
    line = T + SPARE
    for a in range(T):
        total = zeros(unit)
        for k in range(rows):
            total = add_scaled(total, J, k * T, weight * J[k * T + a])
        store(total, gradient, line)
        for b in range(a + 1):
            H[positions[at]] += gradient[line + b]
            at += 1


@leaf
def _add_square_long(positions, at, rows, T, weight, r, J, gradient, H):
    """The same for more columns than vectors have, one number after the other."""
    for a in range(T):
        total = 0.0
        for k in range(rows):
            total += J[k * T + a] * r[k]
        gradient[a] = weight * total
        for b in range(a + 1):
            value = 0.0
            for k in range(rows):
                value += J[k * T + a] * J[k * T + b]
            H[positions[at]] += weight * value
            at += 1


@kernel
def linearize_each(program, x, first, last, width, H, g, costs):
    """`linearize` of batch elements first … last − 1; x is (B | 1, S)."""
    room = np.empty((5, width))
    for k in range(first, last):
        linearize(program, x[min(k, x.shape[0] - 1)], k, room, H[k], g[k], costs[k])


@kernel
def cost_each(program, x, first, last, width, costs):
    """`cost` of batch elements first … last − 1."""
    room = np.empty((5, width))
    for k in range(first, last):
        cost(program, x[min(k, x.shape[0] - 1)], k, room, costs[k])
