"""Residuals and Jacobians of costs of points that a body's sensor sees.

As in `dnls_ros.kernels.poses`; the formulas are those of `dnls_ros.costs.landmark` and
`dnls_ros.costs.camera`. A planar body is lifted to z = 0, and its Jacobian has the columns
0, 1, 5 of SE(3).
"""

from __future__ import annotations

import math

from dnls_ros.costs.camera import MIN_DEPTH
from dnls_ros.costs.landmark import NEAREST
from dnls_ros.kernels.jit import leaf
from dnls_ros.kernels.lie import (
    add,
    conjugate,
    cross,
    dot,
    lift,
    quaternion_at,
    rotate,
    subtract,
    vector_at,
)
from dnls_ros.lie.series import NEAR_TANGENT, TERMS, arctangent_series, derivative

_ARCTANGENT = tuple(float(c) for c in arctangent_series())
_ARCTANGENT_SLOPE = tuple(float(c) for c in derivative(arctangent_series(TERMS + 1)))
PINHOLE, PLUMB_BOB, EQUIDISTANT = 0, 1, 2
"""Camera models."""


@leaf
def body_at(x, i, planar):
    """(p, q) of a body's state."""
    if planar:
        return lift(quaternion_at(x, i))
    return vector_at(x, i), quaternion_at(x, i + 3)


@leaf
def put_viewer(J, T, row, column, planar, line, point):
    """The row [−line, line × point] of the frame that sees ``point``, both in its axes."""
    turn = cross(line, point)
    if planar:
        J[row * T + column] = -line[0]
        J[row * T + column + 1] = -line[1]
        J[row * T + column + 2] = turn[2]
    else:
        for a in range(3):
            J[row * T + column + a] = -line[a]
            J[row * T + column + 3 + a] = turn[a]


@leaf
def range_bearing(x, i, planar, z, k, r, J, T, jac):
    """Range and bearing differences; the data are the mount (7), the point (3) and z (2)."""
    p, q = body_at(x, i, planar)
    mount_p, mount_q = vector_at(z, k), quaternion_at(z, k + 3)
    in_body = rotate(conjugate(q), subtract(vector_at(z, k + 7), p))
    seen = rotate(conjugate(mount_q), subtract(in_body, mount_p))
    square = dot(seen, seen)
    flat = seen[0] * seen[0] + seen[1] * seen[1]
    u, v = (seen[0], seen[1]) if flat > NEAREST else (1.0, 0.0)
    c, s = math.cos(z[k + 11]), math.sin(z[k + 11])
    r[0] = math.sqrt(max(square, NEAREST)) - z[k + 10]
    r[1] = math.atan2(v * c - u * s, u * c + v * s)
    if jac:
        near = 1.0 / math.sqrt(square) if square > NEAREST else 0.0
        level = 1.0 / flat if flat > NEAREST else 0.0
        far = (near * seen[0], near * seen[1], near * seen[2])
        put_viewer(J, T, 0, 0, planar, rotate(mount_q, far), in_body)
        side = (-level * seen[1], level * seen[0], 0.0)
        put_viewer(J, T, 1, 0, planar, rotate(mount_q, side), in_body)


@leaf
def project(p, z, c, model):
    """The pixel of a point in the camera's axes, and its two derivatives by the point.

    ``z`` holds focal (2), center (2) and the coefficients from ``c``.
    """
    depth = max(p[2], MIN_DEPTH)
    a, b = p[0] / depth, p[1] / depth
    u = a * a + b * b
    x, y, xx, xy, yx, yy = a, b, 1.0, 0.0, 0.0, 1.0
    if model == PLUMB_BOB:
        k1, k2, k3, t, s = z[c + 4], z[c + 5], z[c + 8], z[c + 7], z[c + 6]
        radial = 1 + u * (k1 + u * (k2 + u * k3))
        slope = k1 + u * (2 * k2 + u * (3 * k3))
        bend = radial + 2 * (t * a + s * b)
        x, y = bend * a + u * t, bend * b + u * s
        xx, yy = bend + 2 * a * (slope * a + 2 * t), bend + 2 * b * (slope * b + 2 * s)
        xy = a * (slope * b + 2 * s) + b * (slope * a + 2 * t)
        yx = xy
    elif model == EQUIDISTANT:
        ratio, change = _arctangent(u)
        k1, k2, k3, k4 = z[c + 4], z[c + 5], z[c + 6], z[c + 7]
        w = u * ratio * ratio
        value = 1 + w * (k1 + w * (k2 + w * (k3 + w * k4)))
        slope = k1 + w * (2 * k2 + w * (3 * k3 + w * (4 * k4)))
        change = change * value + ratio * slope * ratio * (ratio + 2 * u * change)
        x, y = ratio * value * a, ratio * value * b
        xx, yy = ratio * value + 2 * a * change * a, ratio * value + 2 * b * change * b
        xy = 2 * a * change * b
        yx = xy
    fx, fy = z[c] / depth, z[c + 1] / depth
    if p[2] < MIN_DEPTH:
        a, b = 0.0, 0.0
    pixel = (z[c] * x + z[c + 2], z[c + 1] * y + z[c + 3])
    first = (fx * xx, fx * xy, -fx * (xx * a + xy * b))
    second = (fy * yx, fy * yy, -fy * (yx * a + yy * b))
    return pixel, first, second


@leaf
def _arctangent(x):
    """(f, df/dx) of f = atan(√x)/√x."""
    if x < NEAR_TANGENT:
        f, slope = _ARCTANGENT[-1], _ARCTANGENT_SLOPE[-1]
        for n in range(len(_ARCTANGENT) - 2, -1, -1):
            f = _ARCTANGENT[n] + x * f
            slope = _ARCTANGENT_SLOPE[n] + x * slope
        return f, slope
    root = math.sqrt(x)
    f = math.atan(root) / root
    return f, 0.5 * (1 / (1 + x) - f) / x


@leaf
def corners(x, i, landmark, planar, count, model, z, k, r, J, T, jac):
    """Reprojection errors of a rigid landmark's points; ``landmark`` < 0 if its pose is known.

    The data are the mount (7), the landmark (7), points (3 K), pixels (2 K), focal (2), center (2)
    and coefficients.
    """
    p, q = body_at(x, i, planar)
    mount_p, mount_q = vector_at(z, k), quaternion_at(z, k + 3)
    if landmark < 0:
        place, aim = vector_at(z, k + 7), quaternion_at(z, k + 10)
    else:
        place, aim = vector_at(x, landmark), quaternion_at(x, landmark + 3)
    width = 3 if planar else 6
    for n in range(count):
        own = vector_at(z, k + 14 + 3 * n)
        in_body = rotate(conjugate(q), subtract(add(place, rotate(aim, own)), p))
        seen = rotate(conjugate(mount_q), subtract(in_body, mount_p))
        pixel, first, second = project(seen, z, k + 14 + 5 * count, model)
        at = k + 14 + 3 * count + 2 * n
        r[2 * n] = pixel[0] - z[at]
        r[2 * n + 1] = pixel[1] - z[at + 1]
        if jac:
            for row in range(2):
                line = rotate(mount_q, first if row == 0 else second)
                put_viewer(J, T, 2 * n + row, 0, planar, line, in_body)
                if landmark >= 0:
                    carried = rotate(conjugate(aim), rotate(q, line))
                    turn = cross(carried, own)
                    for a in range(3):
                        J[(2 * n + row) * T + width + a] = carried[a]
                        J[(2 * n + row) * T + width + 3 + a] = -turn[a]
