"""Scalars, vectors and quaternions to first order along a direction, and what pulls back through.

A dual number a + ε ȧ, ε² = 0, is the pair (a, ȧ); a dual vector a pair of vectors, a dual
quaternion the pair of its dual vector (x, y, z) and its dual scalar w. The functions named
``…_back`` are the reverse pass of those of `dnls_ros.kernels.lie`: they take the gradient with
respect to what comes out, and give those with respect to what went in. Run in dual numbers, a
reverse pass gives a gradient and its derivative along the direction. Nothing is normalized: like
the definitions in torch, the derivatives are those of the formulas in the stored numbers, also
where these leave the manifold.
"""

from __future__ import annotations

import math

from dnls_ros.kernels.jit import inlined
from dnls_ros.kernels.lie import add, cross, dot, scale, subtract
from dnls_ros.lie import series
from dnls_ros.lie.series import NEAR_SINE


def _slopes(coefficients: series.Series) -> tuple[tuple[float, ...], ...]:
    """The coefficients of a polynomial and its first two derivatives."""
    once = series.derivative(coefficients)
    every = coefficients, once, series.derivative(once)
    return tuple(tuple(float(c) for c in row) for row in every)


_ANGLE, _ANGLE_SLOPE, _ANGLE_BEND = _slopes([2 * c for c in series.arcsine_series()])
_D, _D_SLOPE, _D_BEND = _slopes(series.cotangent_of_sine_series())


@inlined
def _horner(x, c):
    total = 0.0
    for k in range(len(c) - 1, -1, -1):
        total = total * x + c[k]
    return total


# -- arithmetic --------------------------------------------------------------------------------


@inlined
def plus(a, b):
    """A + b of scalars."""
    return a[0] + b[0], a[1] + b[1]


@inlined
def times(a, b):
    """A b of scalars."""
    return a[0] * b[0], a[0] * b[1] + a[1] * b[0]


@inlined
def by(a, b):
    """A / b of scalars."""
    ratio = a[0] / b[0]
    return ratio, (a[1] - ratio * b[1]) / b[0]


@inlined
def multiple(s, a):
    """A scalar or vector without ε, s, times a dual scalar."""
    return s * a[0], s * a[1]


@inlined
def vector_plus(a, b):
    """A + b of vectors."""
    return add(a[0], b[0]), add(a[1], b[1])


@inlined
def vector_minus(a, b):
    """A − b of vectors."""
    return subtract(a[0], b[0]), subtract(a[1], b[1])


@inlined
def stretched(s, a):
    """S a of a dual scalar and a vector."""
    return scale(s[0], a[0]), add(scale(s[0], a[1]), scale(s[1], a[0]))


@inlined
def vector_multiple(s, a):
    """S a of a number and a vector."""
    return scale(s, a[0]), scale(s, a[1])


@inlined
def inner(a, b):
    """A · b of vectors."""
    return dot(a[0], b[0]), dot(a[0], b[1]) + dot(a[1], b[0])


@inlined
def outer(a, b):
    """A × b of vectors."""
    return cross(a[0], b[0]), add(cross(a[0], b[1]), cross(a[1], b[0]))


# -- rotations and their reverse passes --------------------------------------------------------


@inlined
def conjugated(q):
    """The inverse of a unit quaternion, and its own reverse pass."""
    return vector_multiple(-1.0, q[0]), q[1]


@inlined
def multiplied(a, b):
    """The product of two quaternions."""
    vector = vector_plus(stretched(a[1], b[0]), stretched(b[1], a[0]))
    scalar = plus(times(a[1], b[1]), multiple(-1.0, inner(a[0], b[0])))
    return vector_plus(vector, outer(a[0], b[0])), scalar


@inlined
def multiplied_back(a, b, bar):
    """Of a and b."""
    v, s = bar
    left = vector_plus(stretched(b[1], v), outer(b[0], v))
    right = vector_plus(stretched(a[1], v), outer(v, a[0]))
    return (
        (vector_minus(left, stretched(s, b[0])), plus(inner(b[0], v), times(s, b[1]))),
        (vector_minus(right, stretched(s, a[0])), plus(inner(a[0], v), times(s, a[1]))),
    )


@inlined
def rotated(q, p):
    """The vector p turned by q."""
    once = outer(q[0], p)
    moved = vector_plus(stretched(q[1], once), outer(q[0], once))
    return vector_plus(p, vector_multiple(2.0, moved))


@inlined
def rotated_back(q, p, bar):
    """Of q and p."""
    u, w = q
    once, twice = outer(u, p), vector_multiple(2.0, bar)
    of_once = vector_plus(stretched(w, twice), outer(twice, u))
    of_u = vector_plus(outer(once, twice), outer(p, of_once))
    return (of_u, inner(once, twice)), vector_plus(bar, outer(of_once, u))


@inlined
def parted(a, b):
    """a⁻¹ b of motions (p, q)."""
    back = conjugated(a[1])
    return rotated(back, vector_minus(b[0], a[0])), multiplied(back, b[1])


@inlined
def parted_back(a, b, bar):
    """Of a and b."""
    back = conjugated(a[1])
    of_turn, of_p = rotated_back(back, vector_minus(b[0], a[0]), bar[0])
    of_back, of_b = multiplied_back(back, b[1], bar[1])
    of_q = vector_plus(of_turn[0], of_back[0]), plus(of_turn[1], of_back[1])
    return (vector_multiple(-1.0, of_p), conjugated(of_q)), (of_p, of_b)


# -- the logarithm -----------------------------------------------------------------------------


@inlined
def _coefficients(s, c):
    """(k, d) with ω = k u and d of `cotangent`, and their slopes in s = ‖u‖² and c = w ≥ 0."""
    x, step = s
    if x < NEAR_SINE:
        return (
            (_horner(x, _ANGLE), step * _horner(x, _ANGLE_SLOPE)),
            (_horner(x, _ANGLE_SLOPE), step * _horner(x, _ANGLE_BEND)),
            (0.0, 0.0),
            (_horner(x, _D), step * _horner(x, _D_SLOPE)),
            (_horner(x, _D_SLOPE), step * _horner(x, _D_BEND)),
            (0.0, 0.0),
        )
    sine = math.sqrt(x)
    k = 2 * math.atan2(sine, c[0]) / sine
    h = plus(s, times(c, c))
    cosine = by(c, h)
    k_s, k_c = (cosine[0] - 0.5 * k) / x, -2.0 / h[0]
    k = (k, k_s * step + k_c * c[1])
    k_s = by((cosine[0] - 0.5 * k[0], cosine[1] - 0.5 * k[1]), s)
    k_c = by((-2.0, 0.0), h)
    along = times(k, c)
    square = times(times(k, k), s)
    d = by((1 - 0.5 * along[0], -0.5 * along[1]), square)
    hk = times(h, k)
    slope_s = by(multiple(-0.5, times(c, k_s)), square)
    slope_c = by(multiple(-0.5, plus(k, times(c, k_c))), square)
    d_s = plus(slope_s, multiple(-2.0, times(d, by(c, times(hk, s)))))
    d_c = plus(slope_c, multiple(4.0, by(d, hk)))
    return k, k_s, k_c, d, d_s, d_c


@inlined
def _shortest(q):
    """(±q with w ≥ 0, the sign)."""
    sign = -1.0 if q[1][0] < 0.0 else 1.0
    return vector_multiple(sign, q[0]), multiple(sign, q[1]), sign


@inlined
def logarithm(x):
    """(v, ω) of a motion (p, q)."""
    p = x[0]
    u, c, _ = _shortest(x[1])
    k, _, _, d, _, _ = _coefficients(inner(u, u), c)
    w = stretched(k, u)
    turned = outer(w, p)
    half = vector_plus(p, vector_multiple(-0.5, turned))
    return vector_plus(half, stretched(d, outer(w, turned))), w


@inlined
def logarithm_back(x, bar):
    """Of the motion."""
    p = x[0]
    u, c, sign = _shortest(x[1])
    k, k_s, k_c, d, d_s, d_c = _coefficients(inner(u, u), c)
    w = stretched(k, u)
    turned = outer(w, p)
    of_v, of_w = bar
    of_d = inner(of_v, outer(w, turned))
    of_turned = vector_plus(vector_multiple(-0.5, of_v), stretched(d, outer(of_v, w)))
    of_w = vector_plus(of_w, stretched(d, outer(turned, of_v)))
    of_w = vector_plus(of_w, outer(p, of_turned))
    of_p = vector_plus(of_v, outer(of_turned, w))
    of_k = inner(of_w, u)
    of_s = plus(times(of_k, k_s), times(of_d, d_s))
    of_c = plus(times(of_k, k_c), times(of_d, d_c))
    of_u = vector_plus(stretched(k, of_w), vector_multiple(2.0, stretched(of_s, u)))
    return of_p, (vector_multiple(sign, of_u), multiple(sign, of_c))
