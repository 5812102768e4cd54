"""The path of one track: final poses that left the window, then the window's current ones.

A result replaces every pose from its oldest stamp on, since the window still moves them; older
ones are final and keep the message that was made for them.
"""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnls_ros.io.compose import Composer
from dnls_ros.window.measurements import Array


class PathHistory:
    """At most ``max_poses`` poses of the last ``duration`` seconds."""

    def __init__(self, duration: float, max_poses: int) -> None:
        """Starts empty."""
        self._span = round(duration * 1e9)
        self._max_poses = max_poses
        self._stamps: list[int] = []
        self._poses: list[Array] = []
        self._messages: list[Any | None] = []

    def extend(self, stamps: NDArray[np.int64], poses: Array) -> None:
        """Takes a window's stamps (N,) [ns] and poses (N, 7) in."""
        keep = bisect.bisect_left(self._stamps, int(stamps[0]))
        del self._stamps[keep:], self._poses[keep:], self._messages[keep:]
        self._stamps += stamps.tolist()
        self._poses += list(poses)
        self._messages += [None] * len(stamps)
        oldest = min(self._stamps[-1] - self._span, int(stamps[0]))
        first = max(bisect.bisect_left(self._stamps, oldest), len(self._stamps) - self._max_poses)
        del self._stamps[:first], self._poses[:first], self._messages[:first]

    def messages(self, composer: Composer, frame: str) -> list[Any]:
        """The path as PoseStamped messages, oldest first."""
        for index in range(len(self._stamps) - 1, -1, -1):
            if self._messages[index] is None:
                pose = self._poses[index]
                message = composer.pose_stamped(self._stamps[index], frame, pose)
                self._messages[index] = message
        return list(self._messages)

    def __len__(self) -> int:
        """Number of poses."""
        return len(self._stamps)
