"""A dense prior ½‖A (x ⊟ x̄) + b‖² over many variables; see `dnls_ros.problem.prior`.

In the table of groups its factors are its variables: ``slots`` holds for each where it lies in the
state, its manifold and its tangent width, WIDTH is n_p and LENGTH the rows of A. The data are x̄
at DATA, A at NOISE_AT, b at LOSS_AT and AᵀA at MASK; MODEL is 1 for first estimates.
"""

from __future__ import annotations

import numpy as np

from dnls_ros.kernels.jit import inlined, leaf
from dnls_ros.kernels.layout import (
    COUNT,
    DATA,
    DATA_BATCH,
    LENGTH,
    LOSS_AT,
    LOSS_BATCH,
    MASK,
    MASK_BATCH,
    MODEL,
    NOISE_AT,
    NOISE_BATCH,
    PLANE,
    PLANE_TURN,
    POSITION,
    SLOT,
    SPACE,
    TURN,
    WIDTH,
)
from dnls_ros.kernels.lie import (
    conjugate,
    inverse_jacobian3,
    inverse_jacobian6,
    inverse_jacobian_plane,
    log3,
    log6,
    log_plane,
    multiply,
    quaternion_at,
    quotient,
    quotient_plane,
    vector_at,
)
from dnls_ros.kernels.vectors import UNIT8, add_scaled, store, zeros


@leaf
def storage_width(manifold, t):
    """Numbers that store an element."""
    if manifold == SPACE:
        return 7
    if manifold in (PLANE, TURN):
        return 4
    return 2 if manifold == PLANE_TURN else t


@leaf
def local(manifold, t, z, k, x, i, d, at):
    """x ⊟ x̄ into d from ``at``; x̄ lies at z[k]."""
    if manifold == SPACE:
        v, w = log6(
            *quotient(
                vector_at(z, k), quaternion_at(z, k + 3), vector_at(x, i), quaternion_at(x, i + 3)
            )
        )
        for a in range(3):
            d[at + a], d[at + 3 + a] = v[a], w[a]
    elif manifold == PLANE:
        xi = log_plane(quotient_plane(quaternion_at(z, k), quaternion_at(x, i)))
        for a in range(3):
            d[at + a] = xi[a]
    elif manifold == TURN:
        w = log3(multiply(conjugate(quaternion_at(z, k)), quaternion_at(x, i)))[0]
        for a in range(3):
            d[at + a] = w[a]
    elif manifold == PLANE_TURN:
        c, s = z[k], z[k + 1]
        d[at] = np.arctan2(c * x[i + 1] - s * x[i], c * x[i] + s * x[i + 1])
    else:
        for a in range(t):
            d[at + a] = x[i + a] - z[k + a]


@leaf
def carry(manifold, t, d, at, C):
    """C (t × t, by rows from 0) ← J_r⁻¹ at d; false where it is the identity."""
    if manifold == SPACE:
        A, B = inverse_jacobian6(vector_at(d, at), vector_at(d, at + 3))
        for a in range(3):
            for b in range(3):
                C[6 * a + b] = C[6 * a + b + 21] = A[3 * a + b]
                C[6 * a + b + 3] = B[3 * a + b]
                C[6 * a + b + 18] = 0.0
        return True
    if manifold == PLANE:
        A = inverse_jacobian_plane(vector_at(d, at))
        for a in range(9):
            C[a] = A[a]
        return True
    if manifold == TURN:
        A = inverse_jacobian3(vector_at(d, at))
        for a in range(9):
            C[a] = A[a]
        return True
    return False


@leaf
def dense_residual(program, table, x, element, moved, r):
    """``moved`` = x ⊟ x̄ and r = A moved + b; ‖r‖²."""
    data, slots = program.data, program.slots
    k, at = table[DATA] + element * table[DATA_BATCH], 0
    for v in range(table[COUNT]):
        slot = table[SLOT] + 3 * v
        manifold, t = slots[slot + 1], slots[slot + 2]
        local(manifold, t, data, k, x, slots[slot], moved, at)
        k += storage_width(manifold, t)
        at += t
    n = table[WIDTH]
    factor = table[NOISE_AT] + element * table[NOISE_BATCH]
    offset = table[LOSS_AT] + element * table[LOSS_BATCH]
    square = 0.0
    for a in range(table[LENGTH]):
        total = data[offset + a]
        for b in range(n):
            total += data[factor + a * n + b] * moved[b]
        r[a] = total
        square += total * total
    return square


@leaf
def dense_cost(program, table, x, element, room):
    """‖A (x ⊟ x̄) + b‖²."""
    return dense_residual(program, table, x, element, room[0], room[1])


@leaf
def dense_linearize(program, table, x, element, room, H, g):
    """H += CᵀAᵀAC and g += CᵀAᵀr with C the block diagonal of the J_r⁻¹; ‖r‖²."""
    data = program.data
    moved, r, gradient, hessian, C = room[0], room[1], room[2], room[3], room[4]
    square = dense_residual(program, table, x, element, moved, r)
    n = table[WIDTH]
    factor = table[NOISE_AT] + element * table[NOISE_BATCH]
    information = table[MASK] + element * table[MASK_BATCH]
    for b in range(n):
        gradient[b] = 0.0
    for a in range(table[LENGTH]):
        for b in range(n):
            gradient[b] += data[factor + a * n + b] * r[a]
    for a in range(n * n):
        hessian[a] = data[information + a]
    if table[MODEL] == 0:
        _carry_all(program, table, moved, C, gradient, hessian, r)
    at = 0
    for v in range(table[COUNT]):
        slot = table[SLOT] + 3 * v
        place, t = program.tangents[slot], program.slots[slot + 2]
        for a in range(t):
            g[place + a] += gradient[at + a]
        at += t
    position = table[POSITION]
    for a in range(n):
        for b in range(a + 1):
            H[program.positions[position]] += hessian[a * n + b]
            position += 1
    return square


@leaf
def _carry_all(program, table, moved, C, gradient, hessian, scratch):
    """The lower triangle of CᵀHC, and Cᵀg, in place; the blocks of C lie one after the other.

    Vectors go past the end of a row: rows and variables are written in order, so that what was
    written too much is overwritten.
    """
    n, at, k = table[WIDTH], 0, 0
    for v in range(table[COUNT]):
        manifold, t = _variable(program, table, v)
        block = C[k:]
        if carry(manifold, t, moved, at, block):
            for c in range(t):
                total = 0.0
                for b in range(t):
                    total += block[b * t + c] * gradient[at + b]
                scratch[c] = total
            for c in range(t):
                gradient[at + c] = scratch[c]
        else:
            for b in range(t):
                for c in range(t):
                    block[b * t + c] = 1.0 if b == c else 0.0
        at += t
        k += t * t
    at = k = 0
    for v in range(table[COUNT]):
        t = _variable(program, table, v)[1]
        for c in range(t):
            for column in range(0, at + t, 8):
                total = zeros(UNIT8)
                for b in range(t):
                    total = add_scaled(total, hessian, (at + b) * n + column, C[k + b * t + c])
                store(total, scratch, (at + c) * n + column)
        at += t
        k += t * t
    at = 0
    for v in range(table[COUNT]):
        t = _variable(program, table, v)[1]
        for a in range(at, at + t):
            _times_blocks(program, table, v, a * n, C, scratch, hessian)
        at += t


@leaf
def _times_blocks(program, table, last, row, C, scratch, out):
    """A row up to variable ``last`` times the blocks of C."""
    at = k = 0
    for v in range(last + 1):
        t = _variable(program, table, v)[1]
        for column in range(0, t, 8):
            total = zeros(UNIT8)
            for b in range(t):
                total = add_scaled(total, C, k + b * t + column, scratch[row + at + b])
            store(total, out, row + at + column)
        at += t
        k += t * t


@inlined
def _variable(program, table, v):
    """Manifold and tangent width."""
    slot = table[SLOT] + 3 * v
    return program.slots[slot + 1], program.slots[slot + 2]
