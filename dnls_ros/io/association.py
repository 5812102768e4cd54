"""Which poses of an estimate and of a reference belong to the same instant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dnls_ros.errors import DnlsError
from dnls_ros.io.trajectory import Trajectory

Indices = NDArray[np.int64]


def associate(
    estimate: Trajectory, reference: Trajectory, max_diff: float = 0.01
) -> tuple[Trajectory, Trajectory]:
    """The poses of both trajectories that belong together, as many of both.

    Each pose of the shorter trajectory gets the nearest one of the longer, at most ``max_diff``
    [s] away; both results carry the stamps of the shorter.

    Raises:
        DnlsError: There is none.
    """
    if len(reference) > len(estimate):
        short, long = nearest(estimate.stamps, reference.stamps, max_diff)
        stamps, chosen = estimate.stamps[short], (short, long)
    else:
        short, long = nearest(reference.stamps, estimate.stamps, max_diff)
        stamps, chosen = reference.stamps[short], (long, short)
    if not len(short):
        raise _no_pair(estimate, reference, max_diff)
    return _select(estimate, chosen[0], stamps), _select(reference, chosen[1], stamps)


def nearest(stamps: Indices, among: Indices, max_diff: float) -> tuple[Indices, Indices]:
    """Indices into two ascending lists of stamps [ns]: each of the first with its nearest.

    Pairs further apart than ``max_diff`` [s] are left out; of two equally near the earlier is
    taken.
    """
    if not len(stamps) or not len(among):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    after = np.clip(np.searchsorted(among, stamps, side="right"), 0, len(among) - 1)
    before = np.maximum(after - 1, 0)
    best = np.where(np.abs(among[after] - stamps) < np.abs(stamps - among[before]), after, before)
    kept = np.flatnonzero(np.abs(among[best] - stamps) <= round(max_diff * 1e9))
    return kept, best[kept]


def interpolate(
    estimate: Trajectory, reference: Trajectory, max_diff: float = 0.01
) -> tuple[Trajectory, Trajectory]:
    """The estimates within the reference's time, and the reference interpolated at their stamps.

    Estimates between two reference poses more than ``2 · max_diff`` [s] apart are left out.

    Raises:
        DnlsError: None is left.
    """
    known, wanted = reference.stamps, estimate.stamps
    if len(known) < 2:
        raise _no_pair(estimate, reference, max_diff)
    after = np.clip(np.searchsorted(known, wanted, side="left"), 1, len(known) - 1)
    inside = (wanted >= known[0]) & (wanted <= known[-1])
    close = known[after] - known[after - 1] <= round(2 * max_diff * 1e9)
    inside &= close | np.isin(wanted, known)
    kept = np.flatnonzero(inside)
    if not len(kept):
        raise _no_pair(estimate, reference, max_diff)
    stamps = wanted[kept]
    return _select(estimate, kept, stamps), Trajectory(stamps, reference.at(stamps))


def _no_pair(estimate: Trajectory, reference: Trajectory, max_diff: float) -> DnlsError:
    def span(trajectory: Trajectory) -> str:
        stamps = trajectory.stamps
        if not len(stamps):
            return "empty"
        return f"{len(stamps)} poses from {stamps[0] * 1e-9:.3f} to {stamps[-1] * 1e-9:.3f} s"

    return DnlsError(
        f"no pose of the estimate ({span(estimate)}) lies within {max_diff:g} s of one of the "
        f"reference ({span(reference)}); check the clocks or raise max_diff"
    )


def _select(trajectory: Trajectory, ids: Indices, stamps: Indices) -> Trajectory:
    covariances = None if trajectory.covariances is None else trajectory.covariances[ids]
    return Trajectory(stamps, trajectory.poses[ids], covariances)
