"""All variables of a problem moved by a tangent vector."""

from __future__ import annotations

import numpy as np

from dnls_ros.kernels.jit import leaf
from dnls_ros.kernels.layout import PLANE, SPACE, TURN, VECTOR
from dnls_ros.kernels.lie import (
    exp3,
    exp6,
    exp_plane,
    multiply,
    product_plane,
    quaternion_at,
    rotate,
    vector_at,
)


@leaf
def retract(blocks, x, delta, out):
    """Out = x ⊞ δ."""
    for n in range(blocks.shape[0]):
        kind, count, at, width, step, t = (
            blocks[n, 0],
            blocks[n, 1],
            blocks[n, 2],
            blocks[n, 3],
            blocks[n, 4],
            blocks[n, 5],
        )
        for k in range(count):
            _retract_one(kind, x, at + k * width, delta, step + k * t, t, out)


@leaf
def _retract_one(kind, x, i, delta, d, t, out):
    if kind == SPACE:
        p, q = exp6(vector_at(delta, d), vector_at(delta, d + 3))
        own = quaternion_at(x, i + 3)
        moved, turned = rotate(own, p), multiply(own, q)
        for a in range(3):
            out[i + a] = x[i + a] + moved[a]
        for a in range(4):
            out[i + 3 + a] = turned[a]
    elif kind == PLANE:
        moved = product_plane(quaternion_at(x, i), exp_plane(vector_at(delta, d)))
        for a in range(4):
            out[i + a] = moved[a]
    elif kind == VECTOR:
        for a in range(t):
            out[i + a] = x[i + a] + delta[d + a]
    elif kind == TURN:
        turned = multiply(quaternion_at(x, i), exp3(vector_at(delta, d)))
        for a in range(4):
            out[i + a] = turned[a]
    else:
        c, s = np.cos(delta[d]), np.sin(delta[d])
        out[i] = x[i] * c - x[i + 1] * s
        out[i + 1] = x[i] * s + x[i + 1] * c
