"""What a replay leaves behind: trajectories, covariances, statistics and verdicts as files.

No file holds a wall time, a path or the playing rate: two runs over the same recording with the
same configuration leave the same bytes. Every file appears whole or not at all.

    TRACK.tum            newest state at each solve; with full smoothing the full solution
    TRACK_causal.tum     newest state at each solve, only with full smoothing
    TRACK_smoothed.tum   each state as it was when it left the window
    TRACK_cov.csv        covariances of the newest states, in ROS's axes
    solver_stats.csv     one row per solve
    measurements.csv     one row per measurement: what became of it, and why
    status.json          counters, coverage, hashes
    out.mcap             the causal estimate as nav_msgs/Odometry, on request
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnls_ros import __version__
from dnls_ros.io.bag import BagWriter
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class
from dnls_ros.io.evaluation import coverage
from dnls_ros.io.files import write_text
from dnls_ros.io.replay import ReplayResult, reasons
from dnls_ros.io.reprojection_statistics import ReprojectionStatistics, reprojection_statistics
from dnls_ros.io.trajectory import Trajectory, write_covariances, write_tum
from dnls_ros.window.config import EstimatorConfig, TrackConfig
from dnls_ros.window.estimator import Smoothed
from dnls_ros.window.parameter_checks import own_outputs
from dnls_ros.window.parameters import config_hash
from dnls_ros.window.results import StepResult, TrackEstimate

LONGEST_GAP = 1.0
"""Estimates further apart than this leave the time between them uncovered [s]."""


@dataclass(frozen=True, eq=False)
class TrackResult:
    """What a replay says about one track.

    Attributes:
        causal: Newest state at each solve, with covariances.
        smoothed: Each state as it was when it left the window.
        full: The full solution, or None.
        coverage: Share of the recording's time in which there is a causal estimate.
    """

    causal: Trajectory
    smoothed: Trajectory
    full: Trajectory | None
    coverage: float

    @property
    def best(self) -> Trajectory:
        """What the file named after the track holds."""
        return self.causal if self.full is None else self.full


@dataclass(frozen=True, eq=False)
class ReplaySummary:
    """A replay's results by track, and of the cameras where there was full smoothing."""

    result: ReplayResult
    tracks: Mapping[str, TrackResult]
    full: Mapping[str, Smoothed]
    reprojection: ReprojectionStatistics | None

    @property
    def coverage(self) -> float:
        """That of the worst track."""
        return min(track.coverage for track in self.tracks.values())


def summarize(result: ReplayResult, full: bool) -> ReplaySummary:
    """Collects the results, after full smoothing where that is wanted.

    A track that was never started has trajectories without poses.
    """
    logs = result.tracks.items()
    started = [name for name, log in logs if log.stamps]
    smoothed = {name: result.estimator.smooth(name) for name in started} if full else {}
    pixels = None
    for one in smoothed.values():
        pixels = reprojection_statistics(one.solution.assembly.problem, one.solution.values)
        break  # every track's solution is of the whole problem
    tracks = {
        name: TrackResult(
            log.causal(),
            result.smoothed(name),
            Trajectory(smoothed[name].stamps, smoothed[name].poses) if name in smoothed else None,
            _coverage(log.causal(), result),
        )
        for name, log in logs
    }
    return ReplaySummary(result, tracks, smoothed, pixels)


def _coverage(causal: Trajectory, result: ReplayResult) -> float:
    """Share of the time between first and last measurement in which there is an estimate."""
    stamps = [one.stamp for one in result.settled if one.stamp > 0]
    if not stamps or not len(causal):
        return 0.0
    ends = np.array(sorted({min(stamps), max(stamps)}), dtype=np.int64)
    poses = np.tile([0.0, 0, 0, 0, 0, 0, 1], (len(ends), 1))
    longest = max(LONGEST_GAP, 2.0 / result.estimator.config.solver.rate)
    return coverage(causal, Trajectory(ends, poses), longest)


def write_results(summary: ReplaySummary, folder: Path | str, bag: bool = False) -> dict[str, Any]:
    """Writes all files into a folder, made where it is missing.

    Args:
        summary: From `summarize`.
        folder: Where to; files of an earlier run are replaced.
        bag: Write ``out.mcap`` too.

    Returns:
        The content of ``status.json``.
    """
    folder, result = Path(folder), summary.result
    hashes: dict[str, str] = {}
    for name, track in summary.tracks.items():
        files = {f"{name}.tum": track.best, f"{name}_smoothed.tum": track.smoothed}
        if track.full is not None:
            files[f"{name}_causal.tum"] = track.causal
        for file, trajectory in files.items():
            write_tum(folder / file, trajectory)
            hashes[file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        write_covariances(folder / f"{name}_cov.csv", track.causal)
    write_text(folder / "solver_stats.csv", _solver_stats(result.steps))
    write_text(folder / "measurements.csv", _measurements(result))
    if bag:
        write_result_bag(result.steps, result.estimator.config, folder / "out.mcap")
    status = _status(summary, hashes)
    write_text(folder / "status.json", json.dumps(status, indent=2, sort_keys=True) + "\n")
    return status


def _status(summary: ReplaySummary, hashes: Mapping[str, str]) -> dict[str, Any]:
    result, steps = summary.result, summary.result.steps
    notes: Counter[str] = Counter()
    for step in steps:
        notes.update(step.notes)
    pixels = summary.reprojection
    return {
        "version": __version__,
        "config_hash": config_hash(result.estimator.config),
        "tracks": {
            name: _track_status(track, result.estimator.config.track(name))
            for name, track in summary.tracks.items()
        },
        "sensors": _sensors(result),
        "waiting": sum(c.waiting for c in result.estimator.counters.values()),
        "reasons": reasons(result.settled),
        "coverage": summary.coverage,
        "absent_topics": sorted(result.absent),
        "steps": {
            "count": len(steps),
            "accepted": sum(step.accepted for step in steps),
            "iterations": sum(step.iterations for step in steps),
            "statuses": dict(Counter(step.status for step in steps)),
            "notes": dict(notes),
        },
        "full": {name: _full_status(one) for name, one in summary.full.items()},
        "reprojection_px": None if pixels is None else asdict(pixels),
        "sha256": dict(hashes),
    }


def _track_status(track: TrackResult, config: TrackConfig) -> dict[str, Any]:
    """Counts, times and frames of a track; one that never started has no stamps."""
    stamps = track.smoothed.stamps
    return {
        "states": len(stamps),
        "causal_poses": len(track.causal),
        "first_stamp_ns": int(stamps[0]) if len(stamps) else None,
        "last_stamp_ns": int(stamps[-1]) if len(stamps) else None,
        "coverage": track.coverage,
        "parent_frame": config.parent_frame,
        "child_frame": config.child_frame,
    }


def _full_status(smoothed: Smoothed) -> dict[str, Any]:
    solution = smoothed.solution
    return {
        "status": solution.status[0].value,
        "iterations": int(solution.iterations[0]),
        "cost": float(solution.cost[0]),
        "states": len(smoothed.stamps),
    }


def _sensors(result: ReplayResult) -> dict[str, Any]:
    models = {s.name: s.model_hash for s in result.status.sensors if s.model_hash}
    return {
        name: {
            "received": c.received,
            "accepted": c.accepted,
            "waiting": c.waiting,
            "rejected": {reason.name: count for reason, count in c.rejected.items()},
            "last_problem": c.last_problem,
            **({"model": models[name]} if name in models else {}),
        }
        for name, c in result.estimator.counters.items()
    }


def _solver_stats(steps: Sequence[StepResult]) -> str:
    sensors = sorted({name for step in steps for name in step.nis})
    plain = ("window_id", "stamp", "now", "accepted", "status", "iterations", "cost_initial")
    plain += ("cost_final", "states", "landmarks", "factors")
    rows = [
        [
            *(_cell(getattr(step, name)) for name in plain),
            *(repr(float(step.nis[s])) if s in step.nis else "" for s in sensors),
        ]
        for step in steps
    ]
    return _csv([*plain, *(f"nis_{s}" for s in sensors)], rows)


def _cell(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


def _measurements(result: ReplayResult) -> str:
    rows = [
        [one.sensor, str(one.sequence), str(one.stamp), one.reason.name, one.text]
        for one in result.settled
    ]
    return _csv(["sensor", "sequence", "stamp", "reason", "text"], rows)


def _csv(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def write_result_bag(
    steps: Sequence[StepResult], config: EstimatorConfig, path: Path | str
) -> None:
    """Writes the causal estimates as nav_msgs/Odometry, on the topics that the node has."""
    compose = Composer(message_class)
    tracks = [track for track in config.tracks if track.publish]
    topics = [name for name in own_outputs(config) if name.endswith("odometry/filtered")]
    last = dict.fromkeys((track.name for track in tracks), -1)
    with BagWriter(path, overwrite=True) as bag:
        for topic in topics:
            bag.add_topic(topic, "nav_msgs/msg/Odometry")
        for step in (one for one in steps if one.accepted):
            for track, topic in zip(tracks, topics, strict=True):
                estimate = step.tracks.get(track.name)
                if estimate is None or int(estimate.stamps[-1]) <= last[track.name]:
                    continue
                last[track.name] = int(estimate.stamps[-1])
                bag.write(topic, _odometry(compose, track, estimate), step.now)


def _odometry(compose: Composer, track: TrackConfig, estimate: TrackEstimate) -> Any:
    return compose.odometry(
        int(estimate.stamps[-1]),
        track.parent_frame,
        track.child_frame,
        estimate.poses[-1],
        estimate.twist,
        estimate.covariance,
        estimate.twist_covariance,
    )
