"""A step of a window of fixed capacity: the oldest state leaves, a new one comes, all are solved.

Every state of the window has a slot, the oldest slot 0, and each kind of factor one row per
place where it fits, its first row the one that touches slot 0. So a window that goes on by a state
keeps its structure: rows and states move up by one place. What the leaving state knew goes into
the dense prior, whose place in the structure stays too. Tables: `dnls_ros.window.fixed_lag`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from dnls_ros.kernels.jit import kernel, leaf
from dnls_ros.kernels.layout import PLANE, SPACE
from dnls_ros.kernels.lie import (
    multiply,
    product_plane,
    quaternion_at,
    rotate,
    vector_at,
)
from dnls_ros.kernels.minimize import EPS, minimize_each
from dnls_ros.kernels.program import linearize

UNKNOWN = 1e-13
"""Pivots below this share of their diagonal entry belong to directions without information."""


class Tables(NamedTuple):
    """What stays the same from step to step.

    Attributes:
        sizes: How many unknowns leave with a state, and how many those are with all that share a
            factor with them.
        prior: Where point, A, b and AᵀA of the prior lie in the data.
        copies: (C, 3) from where in the state to where in the point how many numbers go.
        states, rows: (S, 3) begin, rows and width of what moves up, in the state and in the data.
        room, work: Space, rows of it.
    """

    sizes: Any
    prior: Any
    copies: Any
    states: Any
    rows: Any
    room: Any
    work: Any


class Given(NamedTuple):
    """What is new in a step.

    Attributes:
        leaves: Whether slot 0 holds a state, which leaves.
        places, numbers: (P, 2) where in the data and how many of the numbers go.
        move: Where a measured motion lies in the data that says where the new state is, its
            manifold, where the state before it and the new one lie, its tangent width; −1: none.
        guesses, guess: The same as places and numbers for the state.
    """

    leaves: bool
    places: Any
    numbers: Any
    move: Any
    guesses: Any
    guess: Any


@leaf
def eliminate(H, g, count, n, column, diagonal):
    """The Schur complement of the first ``count`` unknowns of H (n × n, lower rows) and g.

    Directions of theirs without information carry nothing over.
    """
    for k in range(count):
        diagonal[k] = H[k * n + k]
    for k in range(count):
        pivot = H[k * n + k]
        if not pivot > UNKNOWN * diagonal[k]:
            continue
        for i in range(k + 1, n):
            column[i] = H[i * n + k]
        for i in range(k + 1, n):
            share = column[i] / pivot
            for j in range(k + 1, i + 1):
                H[i * n + j] -= share * column[j]
            g[i] -= share * g[k]


@leaf
def square_root(S, g, m, diagonal, A, b):
    """A and b with AᵀA = S and Aᵀb = g on the range of S (m × m, rows); S and g are used up.

    Cholesky with the largest pivot first, relative to the diagonal; it ends where only rounding
    is left.
    """
    A[: m * m] = 0.0
    b[:m] = 0.0
    for k in range(m):
        diagonal[k] = S[k * m + k]
    for k in range(m):
        at, largest = 0, -1.0
        for i in range(m):
            left = S[i * m + i] / diagonal[i] if diagonal[i] > 0.0 else -1.0
            if left > largest:
                at, largest = i, left
        if not largest > 8 * m * EPS:
            break
        root = math.sqrt(S[at * m + at])
        for i in range(m):
            A[k * m + i] = S[at * m + i] / root
        b[k] = g[at] / root
        for i in range(m):
            share = A[k * m + i]
            g[i] -= share * b[k]
            for j in range(m):
                S[i * m + j] -= share * A[k * m + j]
        for i in range(m):
            S[at * m + i] = S[i * m + at] = 0.0


@leaf
def marginalize(local, x, tables):
    """The dense prior takes over what the states in slot 0 know, linearized at x.

    ``local`` is the program of everything that touches slot 0, over a dense lower triangle.
    """
    count, n, prior, copies = tables.sizes[0], tables.sizes[1], tables.prior, tables.copies
    m = n - count
    H, g, column = tables.work[0], tables.work[1], tables.work[2]
    linearize(local, x, 0, tables.room, H[: n * n], g[:n], column)
    eliminate(H, g, count, n, column, tables.work[3])
    data, S = local.data, tables.work[4]
    for i in range(m):
        for j in range(i + 1):
            S[i * m + j] = S[j * m + i] = H[(count + i) * n + count + j]
    for k in range(m * m):
        data[prior[3] + k] = S[k]
    square_root(S, g[count:], m, column, data[prior[1] :], data[prior[2] :])
    for c in range(copies.shape[0]):
        for k in range(copies[c, 2]):
            data[prior[0] + copies[c, 1] + k] = x[copies[c, 0] + k]


@leaf
def move_up(numbers, segments):
    """Each segment (begin, rows, width) loses its first row and repeats its last."""
    for s in range(segments.shape[0]):
        begin, width = segments[s, 0], segments[s, 2]
        for k in range(begin, begin + (segments[s, 1] - 1) * width):
            numbers[k] = numbers[k + width]


@leaf
def put(numbers, places, given):
    """Numbers of ``given`` one after the other to their places (begin, count)."""
    at = 0
    for p in range(places.shape[0]):
        for k in range(places[p, 1]):
            numbers[places[p, 0] + k] = given[at]
            at += 1


@leaf
def finite(numbers):
    """Whether all are."""
    good = True
    for k in range(numbers.shape[0]):
        good = good and math.isfinite(numbers[k])
    return good


@leaf
def predict(x, manifold, before, after, t, data, at):
    """The state at ``after`` ← the one at ``before`` moved by the difference at ``at``."""
    if manifold == SPACE:
        own = quaternion_at(x, before + 3)
        moved = rotate(own, vector_at(data, at))
        turned = multiply(own, quaternion_at(data, at + 3))
        for a in range(3):
            x[after + a] = x[before + a] + moved[a]
        for a in range(4):
            x[after + 3 + a] = turned[a]
    elif manifold == PLANE:
        moved = product_plane(quaternion_at(x, before), quaternion_at(data, at))
        for a in range(4):
            x[after + a] = moved[a]
    else:
        for a in range(t):
            x[after + a] = x[before + a] + data[at + a]


@kernel
def step(unit, program, blocks, settings, codes, damping, width, found, local, tables, given):
    """Slides the window and minimizes; `dnls_ros.window.fixed_lag` says what the tables hold.

    False, with nothing changed, if a given number is not finite.
    """
    x, data = found.x[0], program.data
    if not (finite(given.numbers) and finite(given.guess)):
        return False
    if given.leaves:
        marginalize(local, x, tables)
    move_up(x, tables.states)
    move_up(data, tables.rows)
    put(data, given.places, given.numbers)
    move = given.move
    if move[0] >= 0:
        predict(x, move[1], move[2], move[3], move[4], data, move[0])
    put(x, given.guesses, given.guess)
    minimize_each(unit, program, blocks, settings, codes, damping, 0, 1, width, found)
    return True
