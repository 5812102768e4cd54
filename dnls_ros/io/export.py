"""Results of a replay in the formats of other programs: trajectory files, or one recording.

    run = read_run("result")
    export_files(run, "euroc", Path("out"))
    export_bag(run, Path("out/run.mcap"))

A run is the folder that ``results_files.write_results`` left behind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.bag import BagWriter
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class
from dnls_ros.io.files import read_text
from dnls_ros.io.trajectory import Trajectory, read_covariances, read_tum
from dnls_ros.io.trajectory_formats import trajectory_format, write_trajectory

WHICH = ("best", "newest", "smoothed")
"""Full smoothing where there was some, else the newest states; newest states; fixed lag."""


@dataclass(frozen=True, eq=False)
class TrackRun:
    """One track's estimates, with covariances where the run has them, and its frames."""

    name: str
    parent_frame: str
    child_frame: str
    trajectory: Trajectory


def read_run(
    folder: Path | str, which: str = "best", tracks: Sequence[str] = ()
) -> tuple[TrackRun, ...]:
    """The estimates in a folder of results.

    Args:
        folder: Written by ``dnls replay --out``.
        which: One of ``WHICH``.
        tracks: Names; () means every track that was started.

    Raises:
        UnreadableInputError: It is no such folder, a file is damaged, or no track was started.
        DnlsError: A track that it does not have.
    """
    folder = Path(folder)
    known = _tracks(folder)
    for name in tracks:
        if name not in known:
            raise DnlsError(f"{folder} has no track '{name}'; it has {', '.join(sorted(known))}")
    chosen = [name for name in known if not tracks or name in tracks]
    started = [name for name in chosen if known[name]["causal_poses"]]
    if not started:
        raise UnreadableInputError(f"{folder}: none of its tracks was ever started")
    return tuple(_read_track(folder, name, known[name], which) for name in started)


def _tracks(folder: Path) -> dict[str, Mapping[str, Any]]:
    """What ``status.json`` says of each track."""
    path = folder / "status.json"
    try:
        tracks = json.loads(read_text(path))["tracks"]
        needed = ("causal_poses", "parent_frame", "child_frame")
        return {name: {key: track[key] for key in needed} for name, track in tracks.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableInputError(
            f"{path} is not what `dnls replay` of this version writes: {error!r}; replay again"
        ) from error


def _read_track(folder: Path, name: str, about: Mapping[str, Any], which: str) -> TrackRun:
    """One track; its covariances are those of the newest states."""
    newest = folder / f"{name}_causal.tum"  # only after full smoothing
    plain = folder / f"{name}.tum"
    file = {
        "best": plain,
        "newest": newest if newest.is_file() else plain,
        "smoothed": folder / f"{name}_smoothed.tum",
    }[which]
    trajectory = read_tum(file)
    if file == newest or (file == plain and not newest.is_file()):
        trajectory = read_covariances(folder / f"{name}_cov.csv", trajectory)
    return TrackRun(name, about["parent_frame"], about["child_frame"], trajectory)


def export_files(run: Sequence[TrackRun], kind: str, folder: Path) -> list[Path]:
    """Writes one file per track, ``TRACK.SUFFIX``; returns their paths.

    Raises:
        DnlsError: There is no such format.
    """
    suffix = trajectory_format(kind).suffix
    paths = [folder / f"{track.name}{suffix}" for track in run]
    for track, path in zip(run, paths, strict=True):
        write_trajectory(path, track.trajectory, kind)
    return paths


def export_bag(run: Sequence[TrackRun], path: Path, overwrite: bool = False) -> Path:
    """Writes poses and transforms as a recording: ``pose`` and ``/tf``, in order of stamps.

    With several tracks each pose topic has the track's name before it, as the node's have. A
    covariance that the run does not have is written as zeros: unknown.
    """
    compose = Composer(message_class)
    transforms = message_class("tf2_msgs/msg/TFMessage")
    topics = {t.name: f"/{t.name}/pose" if len(run) > 1 else "/pose" for t in run}
    order = sorted(
        (int(stamp), number, k)
        for number, track in enumerate(run)
        for k, stamp in enumerate(track.trajectory.stamps)
    )
    with BagWriter(path, overwrite) as bag:
        for topic in topics.values():
            bag.add_topic(topic, "geometry_msgs/msg/PoseWithCovarianceStamped")
        for stamp, number, k in order:
            track = run[number]
            pose, known = track.trajectory.poses[k], track.trajectory.covariances
            message = compose.pose_with_covariance_stamped(
                stamp, track.parent_frame, pose, None if known is None else known[k]
            )
            bag.write(topics[track.name], message, stamp)
            moved = compose.transform_stamped(stamp, track.parent_frame, track.child_frame, pose)
            bag.write("/tf", transforms(transforms=[moved]), stamp)
    return path
