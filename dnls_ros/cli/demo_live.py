"""The live half of the demo: the real node on real DDS against the replay, at equal stamps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnls_ros.errors import UnavailableError
from dnls_ros.io.consistency import pose_errors
from dnls_ros.io.trajectory import Trajectory

LARGEST_DISTANCE, LARGEST_ANGLE = 1e-3, 1e-3
"""How far live may be from the replay [m, rad]."""
LEAST_SHARE = 0.9
"""Of the replay's poses that the live node must have published too."""
STARTING = 1_000_000_000
"""Poses of so long after the first are not compared [ns]."""


@dataclass(frozen=True, eq=False)
class LiveFigures:
    """How far a live run was from the replay.

    Attributes:
        trajectory: What the node published.
        expected: Number of poses of the replay, without those of its first second.
        distances, angles: At equal stamps [m], [rad].
        exit_code: Of the node after SIGINT.
        rate: Times real time.
    """

    trajectory: Trajectory
    expected: int
    distances: NDArray[np.float64]
    angles: NDArray[np.float64]
    exit_code: int
    rate: float

    def rows(self) -> list[list[str]]:
        """The figures as text."""
        compared = f"{len(self.distances)} of {self.expected} at equal stamps"
        rows = [["live node, poses compared with the replay", compared]]
        if len(self.distances):
            mm, mrad = 1e3 * self.distances, 1e3 * self.angles
            rows += [
                ["distance, median / maximum [mm]", f"{np.median(mm):.4f} / {mm.max():.4f}"],
                ["angle, median / maximum [mrad]", f"{np.median(mrad):.4f} / {mrad.max():.4f}"],
            ]
        return [*rows, ["played, times real time", f"{self.rate:.2g}"]]

    def failures(self) -> list[str]:
        """A sentence for each promise that was not kept."""
        found: list[str] = []
        if self.exit_code:
            found.append(f"the live node ended with exit code {self.exit_code} after SIGINT")
        if len(self.distances) < LEAST_SHARE * self.expected:
            found.append(
                f"the live node published {len(self.distances)} of the replay's {self.expected} "
                "poses; it cannot keep up, try a smaller --live-rate"
            )
        elif self.distances.max() > LARGEST_DISTANCE or self.angles.max() > LARGEST_ANGLE:
            found.append(
                f"live is up to {1e3 * self.distances.max():.3f} mm and "
                f"{1e3 * self.angles.max():.3f} mrad from the replay, expected 1 mm and 1 mrad"
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain numbers, for JSON."""
        some = len(self.distances) > 0
        return {
            "poses": len(self.distances),
            "expected": self.expected,
            "median_m": float(np.median(self.distances)) if some else None,
            "max_m": float(self.distances.max()) if some else None,
            "median_rad": float(np.median(self.angles)) if some else None,
            "max_rad": float(self.angles.max()) if some else None,
            "rate": self.rate,
            "exit_code": self.exit_code,
        }


def compare_live(
    bag: Path,
    params: Path,
    replayed: Trajectory,
    rate: float,
    duration: float,
    on_progress: Callable[[float], object],
) -> LiveFigures | str:
    """Plays a recording to the real node and compares what it publishes with the replay.

    Args:
        bag: The recording.
        params: The parameter file of both.
        replayed: The replay's causal estimate.
        rate: Times real time.
        duration: Length of the recording [s].
        on_progress: Called with the share that was played.

    Returns:
        The figures, or a sentence about what is missing for a live run.

    Raises:
        DnlsError: The node did not start or ended by itself.
    """
    try:
        from dnls_ros.ros.live import run_live
        from dnls_ros.ros.types import message_class

        message_class("dnls_ros/msg/EstimatorStatus")
        message_class("nav_msgs/msg/Odometry")
    except (ImportError, UnavailableError) as error:
        return f"ROS 2 is not installed here ({error})."
    start = int(replayed.stamps[0])
    live = run_live(
        bag, params, rate, lambda sent: on_progress((sent.receive_stamp - start) * 1e-9 / duration)
    )
    on_progress(1.0)
    # A live node solves before an image or a fix that is on its way: for the first pose that
    # matters, for later ones hardly.
    settled = replayed.stamps >= start + STARTING
    stamps = replayed.stamps[settled]
    _, here, there = np.intersect1d(live.trajectory.stamps, stamps, return_indices=True)
    there = np.flatnonzero(settled)[there]
    errors = pose_errors(live.trajectory.poses[here], replayed.poses[there])
    return LiveFigures(
        trajectory=live.trajectory,
        expected=len(stamps),
        distances=np.linalg.norm(errors[:, :3], axis=1),
        angles=np.linalg.norm(errors[:, 3:], axis=1),
        exit_code=live.exit_code,
        rate=rate,
    )
