"""Where the tracks were: the window's states, and those that left it, for a while.

A state's pose is its last estimate. Between states the pose is on the geodesic; over a gap longer
than ``window.max_gap`` nothing is interpolated.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE3, local, retract
from dnls_ros.window.bodies import Array
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.results import StepResult

KEYFRAME = 1
"""Flag of TrackWindow.msg: the pose is that of a state, not one between states."""
MOST_POSES = 1_000_000
"""Longest answer."""
Stamps = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of a track.

    Attributes:
        stamps: (N,) ascending [ns].
        poses: (N, 7) world_T_body.
        twists: (N, 6) in body axes [m/s, rad/s], of the motion to the next pose; None if N < 2.
        covariances: None: they are kept of the newest state only.
        flags: (N,) of TrackWindow.msg.
        window_id: The solve that the newest of them come from.
    """

    stamps: Stamps
    poses: Array
    twists: Array | None
    covariances: Array | None
    flags: NDArray[np.uint8]
    window_id: int


class History:
    """Keeps settled states for ``history.duration``.

    Args:
        config: Tracks and durations.
    """

    def __init__(self, config: EstimatorConfig) -> None:
        self._keep = round(config.history.duration * 1e9)
        self._gap = round(config.window.max_gap * 1e9)
        self._settled = {t.name: deque[tuple[int, Array]]() for t in config.tracks}
        self._window = {t.name: (np.zeros(0, np.int64), np.zeros((0, 7))) for t in config.tracks}
        self._window_id = 0

    def add(self, result: StepResult) -> None:
        """Takes an accepted solve in."""
        self._window_id = result.window_id
        for name, track in result.tracks.items():
            kept = self._settled[name]
            for stamp, pose in zip(
                track.settled_stamps.tolist(), track.settled_poses, strict=True
            ):
                if not kept or stamp > kept[-1][0]:
                    kept.append((stamp, pose))
            while kept and kept[0][0] < result.stamp - self._keep:
                kept.popleft()
            self._window[name] = track.stamps, track.poses

    def clear(self) -> None:
        """Time began anew."""
        for name in self._settled:
            self._settled[name].clear()
            self._window[name] = np.zeros(0, np.int64), np.zeros((0, 7))

    def stretch(self, track: str, start: int, end: int, rate: float) -> Stretch:
        """The track between two stamps.

        Args:
            track: '' is the first.
            start, end: [ns], both included.
            rate: Poses per second of data time; 0: the states as they are.

        Raises:
            DnlsError: There is no such track, or the numbers make no sense.
        """
        name = track or next(iter(self._settled))
        if name not in self._settled:
            raise DnlsError(f"no track '{name}'; there are {list(self._settled)}")
        if not (np.isfinite(rate) and rate >= 0) or end < start:
            raise DnlsError(
                f"trajectory: got start {start}, end {end}, rate {rate}; expected start <= end "
                "and a rate >= 0"
            )
        stamps, poses = self._states(name)
        if rate > 0 and len(stamps):
            wanted = _grid(max(start, int(stamps[0])), min(end, int(stamps[-1])), rate)
            stamps, poses, at_state = self._between(stamps, poses, wanted)
        else:
            chosen = (stamps >= start) & (stamps <= end)
            stamps, poses, at_state = stamps[chosen], poses[chosen], np.ones(chosen.sum(), bool)
        flags = np.where(at_state, KEYFRAME, 0).astype(np.uint8)
        return Stretch(stamps, poses, _twists(stamps, poses), None, flags, self._window_id)

    def _states(self, name: str) -> tuple[Stamps, Array]:
        """All known states: those in the window count, of older ones the last estimate."""
        stamps, poses = self._window[name]
        first = int(stamps[0]) if len(stamps) else 1 << 62
        old = [(s, p) for s, p in self._settled[name] if s < first]
        old_stamps = np.array([s for s, _ in old], dtype=np.int64)
        old_poses = np.array([p for _, p in old]).reshape(-1, 7)
        return np.concatenate([old_stamps, stamps]), np.concatenate([old_poses, poses])

    def _between(
        self, stamps: Stamps, poses: Array, wanted: Stamps
    ) -> tuple[Stamps, Array, NDArray[np.bool_]]:
        after = np.clip(np.searchsorted(stamps, wanted), 1, max(len(stamps) - 1, 1))
        if len(stamps) == 1:
            return wanted, np.repeat(poses, len(wanted), 0), wanted == stamps[0]
        gap = stamps[after] - stamps[after - 1]
        exact = np.isin(wanted, stamps)
        usable = exact | (gap <= self._gap)
        wanted, after, gap, exact = wanted[usable], after[usable], gap[usable], exact[usable]
        fraction = torch.from_numpy((wanted - stamps[after - 1]) / gap)[:, None]
        before, behind = (SE3(torch.from_numpy(poses[k])) for k in (after - 1, after))
        moved = retract(before, local(before, behind) * fraction)
        return wanted, moved.normalized().tensor.numpy(), exact


def _grid(start: int, end: int, rate: float) -> Stamps:
    if end < start:
        return np.zeros(0, np.int64)
    count = int((end - start) * 1e-9 * rate) + 1
    if count > MOST_POSES:
        raise DnlsError(f"trajectory: {count} poses asked for, at most {MOST_POSES} are given")
    steps = np.arange(count) / rate if count > 1 else np.zeros(1)  # 1 / rate may be infinite
    return start + np.round(steps * 1e9).astype(np.int64)


def _twists(stamps: Stamps, poses: Array) -> Array | None:
    if len(stamps) < 2:
        return None
    elements = SE3(torch.from_numpy(np.ascontiguousarray(poses)))
    seconds = torch.from_numpy(np.diff(stamps) * 1e-9)[:, None]
    steps = (local(elements[:-1], elements[1:]) / seconds).numpy()
    return np.concatenate([steps, steps[-1:]])
