"""Statistics of stamps: pace, order, latency and its drift. Times are int64 nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Stamps = NDArray[np.int64]

NO_STAMP = -(2**63)
"""In place of the header stamp of a message that has none."""
GAP_FACTOR, LEAST_GAP = 3.0, 0.05
"""An interval is a gap when it exceeds the factor times the median and the least length [s]."""
OTHER_CLOCK = 3600.0
"""A larger difference of header and receive stamps is one of clocks, not of latency [s]."""
_BINS = 20
_WHOLE = 0.2


@dataclass(frozen=True)
class Pace:
    """How regularly messages come [Hz, s]; ``longest_at`` is the stamp [ns] where the gap begins.

    ``jitter`` is the 95th percentile of |Δ − median|. ``lost`` messages are missing where all
    intervals are whole multiples of the median, as when a regular sensor loses some; else 0.
    """

    rate: float
    period: float
    jitter: float
    gaps: int
    longest: float
    longest_at: int
    lost: int


@dataclass(frozen=True)
class Order:
    """Backward steps and repeated stamps; ``step`` is the largest backward step [s]."""

    backward: int
    step: float
    backward_at: int
    duplicates: int


@dataclass(frozen=True)
class Latency:
    """Receive minus header [s]; drift [s/s] is None where it cannot be told."""

    median: float
    p95: float
    largest: float
    least: float
    drift: float | None


def pace_of(stamps: Stamps) -> Pace | None:
    """The pace of stamps in any order; None with fewer than three different ones."""
    ordered = np.unique(stamps)
    if len(ordered) < 3:
        return None
    steps = np.diff(ordered) / 1e9
    period = float(np.median(steps))
    limit = max(GAP_FACTOR * period, LEAST_GAP)
    longest = int(np.argmax(steps))
    jitter = float(np.percentile(np.abs(steps - period), 95))
    gaps = int((steps > limit).sum())
    times = np.maximum(np.rint(steps / period), 1.0)
    rest = float(np.percentile(np.abs(steps - times * period), 95))
    lost = int((times - 1.0).sum()) if rest < _WHOLE * period else 0
    return Pace(
        1.0 / period, period, jitter, gaps, float(steps[longest]), int(ordered[longest]), lost
    )


def order_of(stamps: Stamps) -> Order:
    """How often stamps, in order of arrival, go back or repeat."""
    steps = np.diff(stamps)
    backward = np.flatnonzero(steps < 0)
    duplicates = len(stamps) - len(np.unique(stamps))
    if not len(backward):
        return Order(0, 0.0, 0, duplicates)
    largest = float(-steps.min() / 1e9)
    return Order(len(backward), largest, int(stamps[backward[0] + 1]), duplicates)


def latency_of(stamps: Stamps, receive: Stamps) -> Latency | None:
    """Receive minus header; None for no stamps."""
    if not len(stamps):
        return None
    delay = (receive - stamps) / 1e9
    median, p95 = np.percentile(delay, [50, 95])
    return Latency(
        float(median), float(p95), float(delay.max()), float(delay.min()), drift_of(receive, delay)
    )


def drift_of(receive: Stamps, delay: Array) -> float | None:
    """Slope of the delays' lower envelope [s/s], or None where a line does not describe it.

    The least delay of each of 20 spans is the delay without queueing; the median of the slopes
    between all pairs of them (Theil-Sen) is not moved by single spans. It is believed when the
    line moves the delay by more than twice what is left over.
    """
    span = (receive[-1] - receive[0]) / 1e9
    if len(delay) < 5 * _BINS or span < 5.0:
        return None
    place = ((receive - receive[0]) / 1e9 / span * _BINS).astype(int).clip(0, _BINS - 1)
    times, least = [], []
    for k in range(_BINS):
        inside = np.flatnonzero(place == k)
        if len(inside) >= 3:
            lowest = inside[np.argmin(delay[inside])]
            times.append((receive[lowest] - receive[0]) / 1e9)
            least.append(delay[lowest])
    if len(times) < _BINS // 2:
        return None
    t, d = np.array(times), np.array(least)
    first, second = np.triu_indices(len(t), 1)
    slope = float(np.median((d[second] - d[first]) / (t[second] - t[first])))
    rest = d - slope * t
    spread = float(np.percentile(rest, 90) - np.percentile(rest, 10))
    return slope if abs(slope) * span > 2.0 * spread else None


@dataclass(frozen=True)
class Shift:
    """How far a signal lags behind another [s] and how well it then agrees (correlation)."""

    lag: float
    correlation: float


_GRID, _LONGEST_LAG = 0.01, 0.5


def shift_between(
    stamps: Stamps, values: Array, reference_stamps: Stamps, reference: Array
) -> Shift | None:
    """The lag at which one turn rate agrees best with another, or None where it is not certain.

    Both are interpolated to 100 Hz and correlated at lags up to ±0.5 s, the peak refined by a
    parabola. It is believed when both turn (standard deviation above 0.05 rad/s), the correlation
    exceeds 0.8 inside the range, and the two halves of the recording agree within 15 ms.

    Args:
        stamps: Of the signal, ascending [ns].
        values: Turn rates ‖ω‖ [rad/s], which do not depend on how a sensor is mounted.
        reference_stamps: Of the reference [ns].
        reference: Its turn rates [rad/s].
    """
    if min(len(stamps), len(reference_stamps)) < 50:
        return None
    begin = max(stamps[0], reference_stamps[0])
    end = min(stamps[-1], reference_stamps[-1])
    if (end - begin) / 1e9 < 10.0:
        return None
    grid = np.arange(0.0, (end - begin) / 1e9, _GRID)
    one = np.interp(grid, (stamps - begin) / 1e9, values)
    two = np.interp(grid, (reference_stamps - begin) / 1e9, reference)
    half = len(grid) // 2
    found = [_peak(one, two), _peak(one[:half], two[:half]), _peak(one[half:], two[half:])]
    if any(peak is None for peak in found):
        return None
    whole, first, second = (peak for peak in found if peak is not None)
    if abs(first.lag - second.lag) > 0.015 or whole.correlation < 0.8:
        return None
    return whole


def _peak(signal: Array, reference: Array) -> Shift | None:
    """The best lag of two signals on one grid, or None at the edge or without motion."""
    reach = round(_LONGEST_LAG / _GRID)
    if len(signal) < 4 * reach or min(signal.std(), reference.std()) < 0.05:
        return None
    inner = reference[reach:-reach]
    scores = np.array([
        _correlation(signal[reach + k : len(signal) - reach + k], inner)
        for k in range(-reach, reach + 1)
    ])  # fmt: skip
    best = int(np.argmax(scores))
    if best in (0, 2 * reach) or scores[best] < 0.6:
        return None
    before, at, after = scores[best - 1 : best + 2]
    bend = before - 2.0 * at + after
    fine = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return Shift(float((best - reach + fine) * _GRID), float(at))


def _correlation(one: Array, two: Array) -> float:
    a, b = one - one.mean(), two - two.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else 0.0
