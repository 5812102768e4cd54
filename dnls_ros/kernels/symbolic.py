"""Which blocks a Cholesky factor has, before any number is known.

Row indices of column j of L are those of A's column and those of the columns whose first row below
the diagonal is j, its children in the elimination tree (Davis, *Direct Methods for Sparse Linear
Systems*, 2006, §4.3).
"""

from __future__ import annotations

import numpy as np

from dnls_ros.kernels.jit import kernel


@kernel
def fill(start, rows):
    """Block columns of L from those of A's lower triangle, diagonal left out, rows in any order.

    Returns:
        ``start`` (n + 1,) and ``rows`` of L, ascending in each column, the diagonal first.
    """
    n = start.shape[0] - 1
    mark = np.full(n, -1, np.int32)
    child, sibling = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    begin = np.zeros(n + 1, np.int32)
    found = np.empty(2 * (rows.shape[0] + n), np.int32)
    count = 0
    for j in range(n):
        if count + n - j > found.shape[0]:
            longer = np.empty(max(2 * found.shape[0], count + n - j), np.int32)
            longer[:count] = found[:count]
            found = longer
        first = count
        mark[j] = j
        found[count] = j
        count += 1
        for q in range(start[j], start[j + 1]):
            if mark[rows[q]] != j:
                mark[rows[q]] = j
                found[count] = rows[q]
                count += 1
        c = child[j]
        while c >= 0:
            for q in range(begin[c] + 1, begin[c + 1]):
                if mark[found[q]] != j:
                    mark[found[q]] = j
                    found[count] = found[q]
                    count += 1
            c = sibling[c]
        found[first:count].sort()
        begin[j + 1] = count
        if count - first > 1:
            parent = found[first + 1]
            sibling[j] = child[parent]
            child[parent] = j
    return begin, found[:count].copy()


@kernel
def by_rows(start, rows):
    """For each row, the columns before the diagonal with a block in it, and which block.

    Returns:
        ``left_start`` (n + 1,), ``left_column``, ``left_block``.
    """
    n = start.shape[0] - 1
    left_start = np.zeros(n + 1, np.int32)
    for j in range(n):
        for q in range(start[j] + 1, start[j + 1]):
            left_start[rows[q] + 1] += 1
    for j in range(n):
        left_start[j + 1] += left_start[j]
    place = left_start[:n].copy()
    column = np.empty(left_start[n], np.int32)
    block = np.empty(left_start[n], np.int32)
    for j in range(n):
        for q in range(start[j] + 1, start[j + 1]):
            r = rows[q]
            column[place[r]] = j
            block[place[r]] = q
            place[r] += 1
    return left_start, column, block


@kernel
def locate(start, rows, b, p, row, row_in, col, col_in):
    """Offsets of entries in the storage of L; −1 where L has no block.

    Args:
        start, rows: Of L.
        b, p: Block size, and rows of a stored column.
        row, row_in: Block and place in the block of each entry's row, in the order of elimination.
        col, col_in: The same of its column.
    """
    out = np.empty(row.shape[0], np.int64)
    for k in range(row.shape[0]):
        i, r, j, c = row[k], row_in[k], col[k], col_in[k]
        if i < j or (i == j and r < c):
            i, r, j, c = j, c, i, r
        low, high = start[j], start[j + 1]
        while low < high:
            middle = (low + high) // 2
            if rows[middle] < i:
                low = middle + 1
            else:
                high = middle
        there = low < start[j + 1] and rows[low] == i
        out[k] = np.int64(low) * (b * p) + p * c + r if there else -1
    return out
