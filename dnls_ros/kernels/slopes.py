"""The gradient of the objective in state, data and noise, and its derivative along a direction.

Forward over reverse mode, by hand: what moves is the state, x ⊞ ε u; each factor's residual and
the reverse pass from its cost ½ρ(‖L r‖²) are taken in the dual numbers of `dnls_ros.kernels.dual`.
To order 0 they give the gradients; to order 1 those of the slope uᵀg: H u with the exact Hessian
H, and what an adjoint needs, ∂(uᵀg)/∂θ, in one pass and without a matrix.
"""

from __future__ import annotations

import numpy as np

from dnls_ros.kernels.dual import (
    logarithm,
    logarithm_back,
    multiplied_back,
    parted,
    parted_back,
)
from dnls_ros.kernels.jit import inlined, kernel, leaf
from dnls_ros.kernels.layout import (
    BETWEEN6,
    BETWEEN_VECTOR,
    COUNT,
    DATA,
    DATA_BATCH,
    DATA_ROW,
    FULL,
    KIND,
    LENGTH,
    LOSS,
    LOSS_AT,
    LOSS_BATCH,
    LOSS_ROW,
    NOISE,
    NOISE_AT,
    NOISE_BATCH,
    NOISE_LENGTH,
    NOISE_ROW,
    PRIOR6,
    PRIOR_VECTOR,
    REFS,
    SLOT,
    WHITE,
)
from dnls_ros.kernels.lie import (
    add,
    conjugate,
    cross,
    multiply,
    quaternion_at,
    rotate,
    scale,
    vector_at,
)
from dnls_ros.kernels.losses import curvature, loss
from dnls_ros.kernels.program import live

KINDS = (PRIOR6, BETWEEN6, PRIOR_VECTOR, BETWEEN_VECTOR)
"""Of groups that can be differentiated so."""

# -- poses -------------------------------------------------------------------------------------


@inlined
def _held(z, k):
    """A motion that does not move."""
    p, q = vector_at(z, k), vector_at(z, k + 3)
    zero = (0.0, 0.0, 0.0)
    return (p, zero), ((q, zero), (z[k + 6], 0.0))


@inlined
def _moving(x, i, u, d):
    """x ⊞ ε u."""
    p, q = vector_at(x, i), quaternion_at(x, i + 3)
    w = vector_at(u, d + 3)
    turn = multiply(q, (0.5 * w[0], 0.5 * w[1], 0.5 * w[2], 0.0))
    moved = rotate(q, vector_at(u, d))
    return (p, moved), (((q[0], q[1], q[2]), (turn[0], turn[1], turn[2])), (q[3], turn[3]))


@inlined
def _write_motion(bar, order, out, at):
    """The gradient with respect to the 7 stored numbers."""
    for a in range(3):
        out[at + a] = bar[0][order][a]
        out[at + 3 + a] = bar[1][0][order][a]
    out[at + 6] = bar[1][1][order]


@inlined
def _add_tangent(x, i, bar, order, u, d, g):
    """The gradient with respect to δ of x ⊞ δ at ε u, from that with respect to x ⊞ δ.

    Exp(δ) = (v + ½ ω × v, (½ ω, 1 − ⅛ ‖ω‖²)) to second order.
    """
    q = quaternion_at(x, i + 3)
    zero = (0.0, 0.0, 0.0)
    back = conjugate(q)
    of_v = rotate(back, bar[0][order])
    own = ((q[0], q[1], q[2]), zero), (q[3], 0.0)
    of_e = multiplied_back(own, own, bar[1])[1]
    of_w = scale(0.5, of_e[0][order])
    if order == 1:
        v, w = vector_at(u, d), vector_at(u, d + 3)
        push = rotate(back, bar[0][0])
        of_v = add(of_v, scale(0.5, cross(push, w)))
        of_w = add(of_w, add(scale(0.5, cross(v, push)), scale(-0.25 * of_e[1][0], w)))
    for a in range(3):
        g[d + a] += of_v[a]
        g[d + 3 + a] += of_w[a]


@inlined
def _put_residual(xi, r):
    for a in range(3):
        r[0, a], r[0, 3 + a] = xi[0][0][a], xi[1][0][a]
        r[1, a], r[1, 3 + a] = xi[0][1][a], xi[1][1][a]


@inlined
def _bar_of(r):
    v, w = (vector_at(r[0], 0), vector_at(r[1], 0)), (vector_at(r[0], 3), vector_at(r[1], 3))
    return v, w


@leaf
def _prior6(program, table, x, u, f, k, r, room, element, order, g, bars, at):
    """Log(z⁻¹ x)."""
    n = table[SLOT] + f
    i, d = program.slots[n], program.tangents[n]
    z, y = _held(program.data, k), _moving(x, i, u, d)
    e = parted(z, y)
    _put_residual(logarithm(e), r)
    through_cost(program, table, f, element, order, r, room, bars, at)
    of_z, of_y = parted_back(z, y, logarithm_back(e, _bar_of(r)))
    _write_motion(of_z, order, bars, at[0])
    _add_tangent(x, i, of_y, order, u, d, g)


@leaf
def _between6(program, table, x, u, f, k, r, room, element, order, g, bars, at):
    """Log(z⁻¹ x_i⁻¹ x_j)."""
    n = table[SLOT] + 2 * f
    i, j = program.slots[n], program.slots[n + 1]
    d_i, d_j = program.tangents[n], program.tangents[n + 1]
    z, a, b = _held(program.data, k), _moving(x, i, u, d_i), _moving(x, j, u, d_j)
    y = parted(a, b)
    e = parted(z, y)
    _put_residual(logarithm(e), r)
    through_cost(program, table, f, element, order, r, room, bars, at)
    of_z, of_y = parted_back(z, y, logarithm_back(e, _bar_of(r)))
    of_a, of_b = parted_back(a, b, of_y)
    _write_motion(of_z, order, bars, at[0])
    _add_tangent(x, i, of_a, order, u, d_i, g)
    _add_tangent(x, j, of_b, order, u, d_j, g)


@leaf
def _vectors(program, table, x, u, f, k, r, room, element, order, g, bars, at):
    """X − z, or x_j − x_i − z."""
    refs, length = table[REFS], table[LENGTH]
    n = table[SLOT] + refs * f
    for a in range(length):
        r[0, a], r[1, a] = -program.data[k + a], 0.0
        sign = -1.0 if refs == 2 else 1.0
        for m in range(refs):
            r[0, a] += sign * x[program.slots[n + m] + a]
            r[1, a] += sign * u[program.tangents[n + m] + a]
            sign = 1.0
    through_cost(program, table, f, element, order, r, room, bars, at)
    for a in range(length):
        bars[at[0] + a] = -r[order, a]
        sign = -1.0 if refs == 2 else 1.0
        for m in range(refs):
            g[program.tangents[n + m] + a] += sign * r[order, a]
            sign = 1.0


# -- noise and loss ----------------------------------------------------------------------------


@leaf
def through_cost(program, table, f, element, order, r, room, bars, at):
    """In place of r the gradient with respect to it of ½ρ(‖L r‖²); L's own to ``bars``.

    Args:
        program, table, f, element: Which factor.
        order: Of what goes to ``bars``.
        r: (2, length) the residual and its derivative.
        room: (2, …) for L r.
        bars: Flat; at ``at[1]`` the entries of the noise, if there is any.
        at: Where.
    """
    data, kind, length = program.data, table[NOISE], table[LENGTH]
    begin = table[NOISE_AT] + f * table[NOISE_ROW] + element * table[NOISE_BATCH]
    rows = table[NOISE_LENGTH] if kind == FULL else length
    step = 1 if kind != WHITE and table[NOISE_LENGTH] > 1 else 0
    s = slope = 0.0
    for a in range(rows):
        for m in range(2):
            if kind == FULL:
                total = 0.0
                for c in range(length):
                    total += data[begin + a * length + c] * r[m, c]
            else:
                total = r[m, a] * (1.0 if kind == WHITE else data[begin + a * step])
            room[m, a] = total
        s += room[0, a] * room[0, a]
        slope += room[0, a] * room[1, a]
    where = table[LOSS_AT] + f * table[LOSS_ROW] + element * table[LOSS_BATCH]
    radius = data[where] if table[LOSS] != 0 else 1.0
    weight = loss(table[LOSS], s, radius)[1]
    bend = 2 * curvature(table[LOSS], s, radius) * slope
    for a in range(rows):
        room[1, a] = weight * room[1, a] + bend * room[0, a]
        room[0, a] *= weight
    if kind != WHITE:
        _noise_back(kind, rows, length, step, order, r, room, bars, at[1])
    for c in range(length):
        for m in range(2):
            if kind == FULL:
                total = 0.0
                for a in range(rows):
                    total += data[begin + a * length + c] * room[m, a]
            else:
                total = room[m, c] * (1.0 if kind == WHITE else data[begin + c * step])
            r[m, c] = total


@inlined
def _noise_back(kind, rows, length, step, order, r, room, bars, at):
    """The gradient with respect to the numbers of L."""
    if kind != FULL and step == 0:
        bars[at] = 0.0
    for a in range(rows):
        for c in range(length if kind == FULL else 1):
            from_r = c if kind == FULL else a
            value = room[0, a] * r[order, from_r]
            if order == 1:
                value += room[1, a] * r[0, from_r]
            if kind == FULL:
                bars[at + a * length + c] = value
            elif step == 1:
                bars[at + a] = value
            else:
                bars[at] += value


# -- all factors -------------------------------------------------------------------------------


@leaf
def slopes(program, places, x, u, element, order, room, g, bars):
    """The gradient (``order`` 0), or its derivative along u (1), of one batch element.

    Args:
        program: Of groups of `KINDS`.
        places: (G, 4) int64 where in ``bars`` the first factor's data begin and how far the next
            one's are; the same of the noise.
        x: The state.
        u: (n,) the direction.
        element: Which.
        order: 0 or 1.
        room: (4, …).
        g: (n,) of the state; everything is added.
        bars: Flat, of data and noise; zeros before.
    """
    groups = program.groups
    r, more = room[:2], room[2:]
    for n in range(groups.shape[0]):
        table = groups[n]
        kind = table[KIND]
        for f in range(table[COUNT]):
            if not live(table, program.data, f, element):
                continue
            k = table[DATA] + f * table[DATA_ROW] + element * table[DATA_BATCH]
            at = places[n, 0] + f * places[n, 1], places[n, 2] + f * places[n, 3]
            if kind == BETWEEN6:
                _between6(program, table, x, u, f, k, r, more, element, order, g, bars, at)
            elif kind == PRIOR6:
                _prior6(program, table, x, u, f, k, r, more, element, order, g, bars, at)
            else:
                _vectors(program, table, x, u, f, k, r, more, element, order, g, bars, at)


@kernel
def slopes_each(program, places, x, u, first, last, order, width, g, bars):
    """`slopes` of batch elements first … last − 1."""
    room = np.empty((4, width))
    for k in range(first, last):
        g[k, :] = 0.0
        bars[k, :] = 0.0
        slopes(program, places, x[min(k, x.shape[0] - 1)], u[k], k, order, room, g[k], bars[k])
