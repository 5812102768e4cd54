"""Where the numbers of a program lie: the tables of `dnls_ros.kernels.layout.Program`."""

from __future__ import annotations

from dnls_ros.kernels.jit import kernel


@kernel
def fill_tables(groups, refs, found, blocks, pairs, sizes, slots, tangents, positions):
    """Writes slots, tangents and positions, group by group.

    Args:
        groups: (G, 6) first reference, how many, factors, width, whether all references form one
            factor, and where the group's entries in ``pairs`` begin.
        refs: (R, 3) row among the blocks, where its slots begin in ``found``, and how many.
        found: Slots of all references.
        blocks: See `dnls_ros.kernels.layout.Program`.
        pairs: Where in H each entry (a, b) of each factor's product is added. Of (a, b) and
            (b, a) one lies below H's diagonal, the other in its bin, behind all entries.
        sizes: Lengths of the state, of the tangent, and entries of H.
        slots, tangents, positions: Filled.

    Returns:
        Whether everything lies within ``sizes``: kernels do not look where they write.
    """
    inside = True
    s = p = 0
    for g in range(groups.shape[0]):
        first, many, factors, width = groups[g, 0], groups[g, 1], groups[g, 2], groups[g, 3]
        joint, pair = groups[g, 4], groups[g, 5]
        for r in range(first, first + many):
            block = blocks[refs[r, 0]]
            for k in range(refs[r, 2]):
                at = found[refs[r, 1] + k]
                place, tangent = block[2] + at * block[3], block[4] + at * block[5]
                inside &= 0 <= at < block[1] and place < sizes[0] and tangent < sizes[1]
                if joint:
                    slots[s], slots[s + 1], slots[s + 2] = place, block[0], block[5]
                    tangents[s], tangents[s + 1], tangents[s + 2] = tangent, 0, 0
                    s += 3
                else:
                    slots[s + k * many + r - first] = place
                    tangents[s + k * many + r - first] = tangent
        if not joint:
            s += factors * many
        for _ in range(factors):
            for a in range(width):
                for b in range(a + 1):
                    entry = min(pairs[pair + a * width + b], pairs[pair + b * width + a])
                    inside &= 0 <= entry < sizes[2]
                    positions[p] = entry
                    p += 1
            pair += width * width
    return inside
