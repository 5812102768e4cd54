"""Rigid motions in scalars: what `dnls_ros.lie` does with tensors, for one element at a time.

Vectors are tuples of 3, quaternions (x, y, z, w) of 4, matrices of 9 by rows; the compiler keeps
them in registers. Formulas, series and thresholds are those of `dnls_ros.lie`, which is the
reference.
"""

from __future__ import annotations

import math

from dnls_ros.kernels.jit import inlined
from dnls_ros.lie import series
from dnls_ros.lie.series import NEAR, NEAR_SINE, TERMS


def _numbers(coefficients: series.Series) -> tuple[float, ...]:
    return tuple(float(c) for c in coefficients)


_SINC = _numbers(series.stumpff_series(1))
_B = _numbers(series.stumpff_series(2))
_C = _numbers(series.stumpff_series(3))
_HALF_SINE = _numbers([c / 2 for c in series.at_half_angle(series.stumpff_series(1))])
_HALF_COSINE = _numbers(series.at_half_angle(series.stumpff_series(0)))
_D = _numbers(series.cotangent_series())
_D_SLOPE = _numbers(series.derivative(series.cotangent_series(TERMS + 1)))
_ANGLE = _numbers([2 * c for c in series.arcsine_series()])
_D_OF_SINE = _numbers(series.cotangent_of_sine_series())
ZERO3 = (0.0, 0.0, 0.0)


@inlined
def polynomial(x, c):
    """c₀ + c₁ x + … of `TERMS` coefficients."""
    return c[0] + x * (c[1] + x * (c[2] + x * (c[3] + x * (c[4] + x * c[5]))))


@inlined
def dot(a, b):
    """A · b."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inlined
def cross(a, b):
    """A × b."""
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


@inlined
def add(a, b):
    """A + b."""
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


@inlined
def subtract(a, b):
    """A − b."""
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


@inlined
def scale(s, a):
    """S a."""
    return (s * a[0], s * a[1], s * a[2])


@inlined
def conjugate(q):
    """The inverse of a unit quaternion."""
    return (-q[0], -q[1], -q[2], q[3])


@inlined
def multiply(a, b):
    """The product of two quaternions."""
    return (
        a[3] * b[0] + b[3] * a[0] + a[1] * b[2] - a[2] * b[1],
        a[3] * b[1] + b[3] * a[1] + a[2] * b[0] - a[0] * b[2],
        a[3] * b[2] + b[3] * a[2] + a[0] * b[1] - a[1] * b[0],
        a[3] * b[3] - a[0] * b[0] - a[1] * b[1] - a[2] * b[2],
    )


@inlined
def rotate(q, p):
    """The vector p turned by the unit quaternion q."""
    u = (q[0], q[1], q[2])
    once = cross(u, p)
    return add(p, scale(2.0, add(scale(q[3], once), cross(u, once))))


@inlined
def rotation_matrix(q):
    """R of a unit quaternion, by rows."""
    x, y, z = (rotate(q, (1.0, 0.0, 0.0)), rotate(q, (0.0, 1.0, 0.0)), rotate(q, (0.0, 0.0, 1.0)))
    return (x[0], y[0], z[0], x[1], y[1], z[1], x[2], y[2], z[2])


@inlined
def transposed(a):
    """Aᵀ."""
    return (a[0], a[3], a[6], a[1], a[4], a[7], a[2], a[5], a[8])


@inlined
def product(a, b):
    """A B of 3 × 3 matrices."""
    return (
        a[0] * b[0] + a[1] * b[3] + a[2] * b[6],
        a[0] * b[1] + a[1] * b[4] + a[2] * b[7],
        a[0] * b[2] + a[1] * b[5] + a[2] * b[8],
        a[3] * b[0] + a[4] * b[3] + a[5] * b[6],
        a[3] * b[1] + a[4] * b[4] + a[5] * b[7],
        a[3] * b[2] + a[4] * b[5] + a[5] * b[8],
        a[6] * b[0] + a[7] * b[3] + a[8] * b[6],
        a[6] * b[1] + a[7] * b[4] + a[8] * b[7],
        a[6] * b[2] + a[7] * b[5] + a[8] * b[8],
    )


@inlined
def cross_matrix(t, a):
    """[t]× A."""
    return (
        t[1] * a[6] - t[2] * a[3],
        t[1] * a[7] - t[2] * a[4],
        t[1] * a[8] - t[2] * a[5],
        t[2] * a[0] - t[0] * a[6],
        t[2] * a[1] - t[0] * a[7],
        t[2] * a[2] - t[0] * a[8],
        t[0] * a[3] - t[1] * a[0],
        t[0] * a[4] - t[1] * a[1],
        t[0] * a[5] - t[1] * a[2],
    )


@inlined
def sum_of(a, b):
    """A + B of 3 × 3 matrices."""
    return (
        a[0] + b[0],
        a[1] + b[1],
        a[2] + b[2],
        a[3] + b[3],
        a[4] + b[4],
        a[5] + b[5],
        a[6] + b[6],
        a[7] + b[7],
        a[8] + b[8],
    )


@inlined
def vector_at(x, i):
    """Three numbers from there."""
    return (x[i], x[i + 1], x[i + 2])


@inlined
def quaternion_at(x, i):
    """Four numbers from there."""
    return (x[i], x[i + 1], x[i + 2], x[i + 3])


@inlined
def cotangent(x):
    """(d, dd/dx) with d = (1 − (θ/2) cot(θ/2))/θ², x = θ²."""
    if x < NEAR:
        return polynomial(x, _D), polynomial(x, _D_SLOPE)
    half = 0.5 * math.sqrt(x)
    along = half * math.cos(half) / math.sin(half)
    d = (1 - along) / x
    return d, (0.125 - d * (1 + 0.5 * along)) / x


# -- SO(3) and SE(3) ---------------------------------------------------------------------------


@inlined
def log3(q):
    """(ω, d): the rotation vector of a unit quaternion and d(θ²) of `cotangent`."""
    sign = -1.0 if q[3] < 0.0 else 1.0
    u, cosine = scale(sign, (q[0], q[1], q[2])), sign * q[3]
    sine2 = dot(u, u)
    if sine2 < NEAR_SINE:
        return scale(polynomial(sine2, _ANGLE), u), polynomial(sine2, _D_OF_SINE)
    sine = math.sqrt(sine2)
    angle = 2 * math.atan2(sine, cosine)
    ratio = angle / sine
    return scale(ratio, u), (1 - 0.5 * ratio * cosine) / (angle * angle)


@inlined
def exp3(w):
    """The unit quaternion of a rotation vector."""
    x = dot(w, w)
    if x < NEAR:
        s, c = polynomial(x, _HALF_SINE), polynomial(x, _HALF_COSINE)
    else:
        angle = math.sqrt(x)
        s, c = math.sin(0.5 * angle) / angle, math.cos(0.5 * angle)
    return (s * w[0], s * w[1], s * w[2], c)


@inlined
def log6(p, q):
    """(v, ω) of the motion with translation p and rotation q."""
    w, d = log3(q)
    turned = cross(w, p)
    return add(subtract(p, scale(0.5, turned)), scale(d, cross(w, turned))), w


@inlined
def exp6(v, w):
    """(p, q) of the tangent vector (v, ω)."""
    x = dot(w, w)
    if x < NEAR:
        b, c = polynomial(x, _B), polynomial(x, _C)
    else:
        angle = math.sqrt(x)
        s = math.sin(0.5 * angle) / angle
        b, c = 2 * s * s, (1 - 2 * s * math.cos(0.5 * angle)) / x
    turned = cross(w, v)
    return add(add(v, scale(b, turned)), scale(c, cross(w, turned))), exp3(w)


@inlined
def quotient(p, q, r, s):
    """(p, q)⁻¹ (r, s)."""
    back = conjugate(q)
    return rotate(back, subtract(r, p)), multiply(back, s)


@inlined
def inverse_jacobian3(w):
    """J_r⁻¹(ω) of SO(3)."""
    x = dot(w, w)
    d = cotangent(x)[0]
    return _turned(w, x, d)


@inlined
def _turned(w, x, d):
    """I + ½ [ω]× + d [ω]×²."""
    a, b, c = w
    return (
        1 + d * (a * a - x),
        -0.5 * c + d * a * b,
        0.5 * b + d * a * c,
        0.5 * c + d * a * b,
        1 + d * (b * b - x),
        -0.5 * a + d * b * c,
        -0.5 * b + d * a * c,
        0.5 * a + d * b * c,
        1 + d * (c * c - x),
    )


@inlined
def inverse_jacobian6(v, w):
    """(A, B): J_r⁻¹(v, ω) of SE(3) is [[A, B], [0, A]]; see `dnls_ros.lie.se3`."""
    x = dot(w, w)
    d, slope = cotangent(x)
    change = 2 * dot(w, v)
    e = change * slope
    a, b, c = w
    f, g, h = v
    corner = (
        d * (2 * a * f - change) + e * (a * a - x),
        -0.5 * h + d * (a * g + b * f) + e * a * b,
        0.5 * g + d * (a * h + c * f) + e * a * c,
        0.5 * h + d * (a * g + b * f) + e * a * b,
        d * (2 * b * g - change) + e * (b * b - x),
        -0.5 * f + d * (b * h + c * g) + e * b * c,
        -0.5 * g + d * (a * h + c * f) + e * a * c,
        0.5 * f + d * (b * h + c * g) + e * b * c,
        d * (2 * c * h - change) + e * (c * c - x),
    )
    return _turned(w, x, d), corner


# -- SE(2): (x, y, cos, sin) -------------------------------------------------------------------


@inlined
def quotient_plane(a, b):
    """A⁻¹ b."""
    x, y = b[0] - a[0], b[1] - a[1]
    return (
        a[2] * x + a[3] * y,
        a[2] * y - a[3] * x,
        a[2] * b[2] + a[3] * b[3],
        a[2] * b[3] - a[3] * b[2],
    )


@inlined
def product_plane(a, b):
    """A b."""
    return (
        a[0] + a[2] * b[0] - a[3] * b[1],
        a[1] + a[2] * b[1] + a[3] * b[0],
        a[2] * b[2] - a[3] * b[3],
        a[2] * b[3] + a[3] * b[2],
    )


@inlined
def log_plane(a):
    """(vx, vy, ω)."""
    w = math.atan2(a[3], a[2])
    x = w * w
    shrink = 1 - x * cotangent(x)[0]
    return (shrink * a[0] + 0.5 * w * a[1], shrink * a[1] - 0.5 * w * a[0], w)


@inlined
def exp_plane(delta):
    """(x, y, cos, sin) of (vx, vy, ω)."""
    w = delta[2]
    x = w * w
    if x < NEAR:
        sinc, b = polynomial(x, _SINC), polynomial(x, _B)
    else:
        angle = math.sqrt(x)
        s = math.sin(0.5 * angle) / angle
        sinc, b = math.sin(angle) / angle, 2 * s * s
    return (
        sinc * delta[0] - b * w * delta[1],
        sinc * delta[1] + b * w * delta[0],
        math.cos(w),
        math.sin(w),
    )


@inlined
def inverse_jacobian_plane(xi):
    """J_r⁻¹ of SE(2), by rows."""
    v, u, w = xi
    d = cotangent(w * w)[0]
    c = 1 - d * w * w
    return (
        c,
        -0.5 * w,
        0.5 * u + d * w * v,
        0.5 * w,
        c,
        -0.5 * v + d * w * u,
        0.0,
        0.0,
        1.0,
    )


@inlined
def lift(a):
    """(p, q) of a planar pose at z = 0."""
    half = 0.5 * math.atan2(a[3], a[2])
    return (a[0], a[1], 0.0), (0.0, 0.0, math.sin(half), math.cos(half))
