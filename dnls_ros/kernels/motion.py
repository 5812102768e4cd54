"""Measured motion between any two stamps, read from the samples of a sensor.

The kernels of `dnls_ros.window.increments` and `dnls_ros.window.turns`, whose torch is the
reference. Storage of elements as there: (x, y, cos, sin) of a body on a plane, (p, q) in space.
"""

from __future__ import annotations

import math

import numpy as np

from dnls_ros.kernels.jit import inlined, kernel, leaf
from dnls_ros.kernels.lie import (
    add,
    conjugate,
    dot,
    exp3,
    exp6,
    exp_plane,
    log3,
    log6,
    log_plane,
    multiply,
    product_plane,
    quaternion_at,
    quotient,
    quotient_plane,
    rotate,
    scale,
    vector_at,
)


@inlined
def _place(stamps, at):
    """The sample before a stamp, and the fraction of the way to the next."""
    k = min(max(np.searchsorted(stamps, at, side="right") - 1, 0), len(stamps) - 2)
    return k, (at - stamps[k]) / (stamps[k + 1] - stamps[k])


@inlined
def _on_plane(stamps, poses, at):
    k, fraction = _place(stamps, at)
    before = quaternion_at(poses[k], 0)
    step = log_plane(quotient_plane(before, quaternion_at(poses[k + 1], 0)))
    return product_plane(before, exp_plane(scale(fraction, step)))


@inlined
def _in_space(stamps, poses, at):
    k, fraction = _place(stamps, at)
    p, q = vector_at(poses[k], 0), quaternion_at(poses[k], 3)
    step = quotient(p, q, vector_at(poses[k + 1], 0), quaternion_at(poses[k + 1], 3))
    v, w = log6(step[0], step[1])
    moved, turned = exp6(scale(fraction, v), scale(fraction, w))
    return add(p, rotate(q, moved)), multiply(q, turned)


@kernel
def poses_between(stamps, poses, start, end, out):
    """Out (N, 4|7) = the motions from start (N,) to end (N,) along geodesics through the poses."""
    for n in range(len(start)):
        if poses.shape[1] == 4:
            a, b = _on_plane(stamps, poses, start[n]), _on_plane(stamps, poses, end[n])
            moved = quotient_plane(a, b)
            for i in range(4):
                out[n, i] = moved[i]
        else:
            p, q = _in_space(stamps, poses, start[n])
            r, s = _in_space(stamps, poses, end[n])
            shift, turn = quotient(p, q, r, s)
            for i in range(3):
                out[n, i] = shift[i]
            for i in range(4):
                out[n, 3 + i] = turn[i]


@kernel
def steps_of(poses, far, turned):
    """How far (K − 1,) each pose is from the one before, and how much it is turned (K − 1,)."""
    for k in range(len(far)):
        if poses.shape[1] == 4:
            step = quotient_plane(quaternion_at(poses[k], 0), quaternion_at(poses[k + 1], 0))
            far[k] = math.sqrt(step[0] * step[0] + step[1] * step[1])
            turned[k] = abs(math.atan2(step[3], step[2]))
        else:
            p, q = vector_at(poses[k], 0), quaternion_at(poses[k], 3)
            shift, turn = quotient(
                p, q, vector_at(poses[k + 1], 0), quaternion_at(poses[k + 1], 3)
            )
            w = log3(turn)[0]
            far[k], turned[k] = math.sqrt(dot(shift, shift)), math.sqrt(dot(w, w))


@leaf
def _turn(stamps, rates, k, fraction):
    """The rotation vector of the first part of the interval from sample k to the next."""
    seconds = (stamps[k + 1] - stamps[k]) * 1e-9 * fraction
    first, after = vector_at(rates[k], 0), vector_at(rates[k + 1], 0)
    half = 0.5 * fraction
    return scale(seconds, add(scale(1.0 - half, first), scale(half, after)))


@kernel
def turns_between(stamps, rates, planar, start, end, out):
    """Out (N, 4|7) = the turns from start (N,) to end (N,), as motions without translation."""
    for n in range(len(start)):
        first, head = _place(stamps, start[n])
        last, tail = _place(stamps, end[n])
        before, after = (
            _turn(stamps, rates, first, head),
            _turn(stamps, rates, last, tail),
        )
        if planar:
            angle = after[2] - before[2]
            for k in range(first, last):
                angle += _turn(stamps, rates, k, 1.0)[2]
            out[n, 0], out[n, 1] = 0.0, 0.0
            out[n, 2], out[n, 3] = math.cos(angle), math.sin(angle)
        else:
            turn = conjugate(exp3(before))
            for k in range(first, last):
                turn = multiply(turn, exp3(_turn(stamps, rates, k, 1.0)))
            turn = multiply(turn, exp3(after))
            for i in range(3):
                out[n, i] = 0.0
            for i in range(4):
                out[n, 3 + i] = turn[i]
