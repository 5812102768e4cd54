"""Block-sparse Cholesky on one structure, numbers only.

L lies in a flat array, block after block in compressed block columns, the diagonal block first in
each. Column j is what is left of A's column when the columns before it that have a block in row j
have been subtracted (left-looking; Davis, *Direct Methods for Sparse Linear Systems*, 2006, §4.9):
every block is read and written where it stays.

A structure is six int32 arrays, made and checked by `dnls_ros.linear.block_structure`:
``start`` (n + 1,) where each block column begins; ``rows`` row of each block; ``left_start``
(n + 1,), ``left_column``, ``left_block``: for each j the columns k < j with a block in row j, and
which block that is; ``work`` (n,) room.
"""

from __future__ import annotations

import numpy as np

from dnls_ros.kernels.jit import kernel
from dnls_ros.kernels.simd import (
    apply,
    apply_transposed,
    divide,
    factor,
    multiply,
    multiply_two,
    padding,
)


@kernel
def factorize(unit, start, rows, left_start, left_column, left_block, work, L):
    """L ← the Cholesky factor of the matrix whose lower triangle L holds.

    Returns:
        0, or 1 + the first block column whose pivots are not all positive and finite.
    """
    size = len(unit) * padding(unit)
    reciprocal = np.empty(len(unit))
    for j in range(start.shape[0] - 1):
        first, last = start[j], start[j + 1]
        for q in range(first, last):
            work[rows[q]] = q
        for t in range(left_start[j], left_start[j + 1]):
            q = np.int64(left_block[t])
            end = np.int64(start[left_column[t] + 1])
            pivot = q * size
            if len(unit) <= 3:  # larger blocks leave no registers for two at a time
                while q + 1 < end:
                    d = np.int64(work[rows[q]]) * size
                    e = np.int64(work[rows[q + 1]]) * size
                    multiply_two(unit, L, d, e, q * size, pivot)
                    q += 2
            while q < end:
                multiply(unit, L, np.int64(work[rows[q]]) * size, q * size, pivot)
                q += 1
        diagonal = np.int64(first) * size
        least = factor(unit, L, diagonal, reciprocal, 0)
        if not least > 0.0:
            return j + 1
        for q in range(first + 1, last):
            divide(unit, L, np.int64(q) * size, diagonal, reciprocal, 0)
    return 0


@kernel
def solve(unit, start, rows, L, x):
    """x ← (L Lᵀ)⁻¹ x for one padded vector, blocks in the order of elimination."""
    forward(unit, start, rows, L, x)
    backward(unit, start, rows, L, x)


@kernel
def forward(unit, start, rows, L, x):
    """x ← L⁻¹ x."""
    b, p = len(unit), padding(unit)
    for j in range(start.shape[0] - 1):
        diagonal, y = np.int64(start[j]) * (b * p), np.int64(j) * p
        for c in range(b):
            value = x[y + c] / L[diagonal + p * c + c]
            x[y + c] = value
            for r in range(c + 1, b):
                x[y + r] -= L[diagonal + p * c + r] * value
        for q in range(start[j] + 1, start[j + 1]):
            apply(unit, L, np.int64(q) * (b * p), x, np.int64(rows[q]) * p, y)


@kernel
def backward(unit, start, rows, L, x):
    """x ← L⁻ᵀ x."""
    b, p = len(unit), padding(unit)
    for j in range(start.shape[0] - 2, -1, -1):
        diagonal, y = np.int64(start[j]) * (b * p), np.int64(j) * p
        for q in range(start[j] + 1, start[j + 1]):
            apply_transposed(unit, L, np.int64(q) * (b * p), x, y, np.int64(rows[q]) * p)
        for c in range(b - 1, -1, -1):
            value = x[y + c]
            for r in range(c + 1, b):
                value -= L[diagonal + p * c + r] * x[y + r]
            x[y + c] = value / L[diagonal + p * c + c]


@kernel
def inverse(unit, start, rows, work, L, Z):
    """Z ← the blocks of (L Lᵀ)⁻¹ where L has blocks, from the last column to the first.

    Erisman, Tinney: On computing certain elements of the inverse of a sparse matrix, CACM 18
    (1975): Z_Rj = −Z_RR M and Z_jj = L_jj⁻ᵀL_jj⁻¹ − Mᵀ Z_Rj with M = L_Rj L_jj⁻¹, and all that is
    needed of Z_RR lies where L has blocks.
    """
    b, p = len(unit), padding(unit)
    size = b * p
    n = start.shape[0] - 1
    longest = 0
    for j in range(n):
        longest = max(longest, start[j + 1] - start[j])
    scaled, total = np.empty((longest, b, b)), np.empty((longest, b, b))
    root = np.empty((b, b))  # L_jj⁻¹
    for j in range(n - 1, -1, -1):
        first = start[j]
        count = start[j + 1] - first
        diagonal = np.int64(first) * size
        _invert(unit, L, diagonal, root)
        for t in range(1, count):
            block = np.int64(first + t) * size
            for r in range(b):
                for c in range(b):
                    value = 0.0
                    for k in range(c, b):
                        value += L[block + p * k + r] * root[k, c]
                    scaled[t, r, c] = value
                    total[t, r, c] = 0.0
        for s in range(1, count):
            column = rows[first + s]
            for q in range(start[column], start[column + 1]):
                work[rows[q]] = q
            for t in range(s, count):
                block = np.int64(work[rows[first + t]]) * size
                _add_product(unit, Z, block, scaled, total, s, t)
        _put_column(unit, Z, np.int64(first), count, scaled, total, root)


@kernel
def _add_product(unit, Z, block, scaled, total, s, t):
    """total_t += Z_ts M_s and, below the diagonal, total_s += Z_tsᵀ M_t."""
    b, p = len(unit), padding(unit)
    for c in range(b):
        for k in range(b):
            factor, other = scaled[s, k, c], 0.0
            for r in range(b):
                z = Z[block + p * k + r]
                total[t, r, c] += z * factor
                other += z * scaled[t, r, c]
            if t != s:
                total[s, k, c] += other


@kernel
def _put_column(unit, Z, first, count, scaled, total, root):
    """Writes Z_jj and Z_Rj."""
    b, p = len(unit), padding(unit)
    size = b * p
    for r in range(b):
        for c in range(b):
            value = 0.0
            for k in range(max(r, c), b):
                value += root[k, r] * root[k, c]
            for t in range(1, count):
                for k in range(b):
                    value += scaled[t, k, r] * total[t, k, c]
            Z[first * size + p * c + r] = value
    for t in range(1, count):
        block = (first + t) * size
        for r in range(b):
            for c in range(b):
                Z[block + p * c + r] = -total[t, r, c]


@kernel
def _invert(unit, L, place, out):
    """The inverse of a lower triangular block."""
    b, p = len(unit), padding(unit)
    for c in range(b):
        for r in range(c):
            out[r, c] = 0.0
        out[c, c] = 1.0 / L[place + p * c + c]
        for r in range(c + 1, b):
            value = 0.0
            for k in range(c, r):
                value -= L[place + p * k + r] * out[k, c]
            out[r, c] = value / L[place + p * r + r]


@kernel
def load(entry, ones, values, L):
    """L ← the matrix with these entries; what pads a variable is the identity."""
    L[:] = 0.0
    for k in range(entry.shape[0]):
        L[entry[k]] += values[k]
    for k in range(ones.shape[0]):
        L[ones[k]] = 1.0


@kernel
def factorize_each(
    unit, start, rows, left_start, left_column, left_block, entry, ones, values, L, failed
):
    """Loads and factorizes the matrices values (B, nnz) into L (B, size)."""
    work = np.empty(start.shape[0] - 1, np.int32)
    for k in range(values.shape[0]):
        load(entry, ones, values[k], L[k])
        failed[k] = factorize(unit, start, rows, left_start, left_column, left_block, work, L[k])


@kernel
def solve_each(unit, start, rows, place, L, failed, rhs, out):
    """out ← A⁻¹ rhs for rhs (B, n, k); NaN where a factorization failed."""
    x = np.empty((start.shape[0] - 1) * padding(unit))
    for k in range(rhs.shape[0]):
        if failed[k] != 0:
            out[k] = np.nan
            continue
        for c in range(rhs.shape[2]):
            x[:] = 0.0
            for i in range(place.shape[0]):
                x[place[i]] = rhs[k, i, c]
            solve(unit, start, rows, L[k], x)
            for i in range(place.shape[0]):
                out[k, i, c] = x[place[i]]


@kernel
def invert_each(unit, start, rows, L, failed, out):
    """out (B, size) ← the inverses where L has blocks; NaN where a factorization failed."""
    work = np.empty(start.shape[0] - 1, np.int32)
    for k in range(L.shape[0]):
        if failed[k] != 0:
            out[k] = np.nan
        else:
            inverse(unit, start, rows, work, L[k], out[k])
