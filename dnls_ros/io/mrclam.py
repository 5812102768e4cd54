"""UTIAS MR.CLAM recordings as rosbag2: one robot's odometry and the landmarks it saw by barcode.

The data set (Leung, Halpern, Barfoot, Liu, "The UTIAS multi-robot cooperative localization and
mapping dataset", International Journal of Robotics Research 30(8), 2011) gives per robot the
commanded speed and turn rate, ranges and bearings to barcodes, and the pose from motion capture at
100 Hz; landmarks have surveyed positions. Subjects 1 to 5 are the robots themselves: what a robot
sees of the others is counted and left out.

Odometry is a command that holds from its stamp to the next, so the dead-reckoned pose is
integrated exactly on SE(2). As drivers do, a message's twist is the motion of the interval that
ends at its stamp. The noise of its integral grows with the square root of time (densities below);
spread over one interval Δt the twist's variance is density² / Δt.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from dnls_ros.io.bag import BagWriter, Record
from dnls_ros.io.compose import Composer
from dnls_ros.io.convert import NANOSECONDS, spatial_covariance
from dnls_ros.io.definitions import message_class
from dnls_ros.io.files import write_text
from dnls_ros.io.mrclam_files import Sightings, Table, read_mrclam
from dnls_ros.io.trajectory import Stamps, Trajectory, write_tum
from dnls_ros.lie import SE2

Array = NDArray[np.float64]

WORLD, ODOM, BASE = "world", "odom", "base_link"
ODOMETRY_TOPIC, RANGE_BEARING_TOPIC = "odom", "range_bearing"
TRUTH_TOPIC, INITIAL_POSE_TOPIC = "ground_truth", "initial_pose"

ODOMETRY_DENSITY = np.array([0.013, 0.003, 0.04])
"""Growth of the odometry's error forward, sideways [m/√s] and in yaw [rad/√s], as measured."""

SIGMA_RANGE, SIGMA_BEARING = 0.12, 0.03
"""Standard deviations of range [m] and bearing [rad], as measured against the truth."""

INITIAL_SIGMA = np.array([0.01, 0.01, 0.01])
"""How well the initial pose is said to be known [m, m, rad]."""

_PLANE_VARIANCE = 1e-6  # of z, roll and pitch [m², rad²]


@dataclass(frozen=True)
class MrclamSummary:
    """What ``convert_mrclam`` wrote.

    Attributes:
        bag, truth, landmarks: The recording, its true trajectory (TUM) and its landmark map
        (YAML).
        odometry: Odometry messages.
        observations: Ranges and bearings to landmarks, in ``images`` messages.
        images: Range–bearing messages; what was seen at one stamp is one message.
        other_robots: Ranges and bearings to other robots, left out.
        unknown_barcodes: Ranges and bearings to barcodes that no subject carries, left out.
        repeated_stamps: Rows of odometry and truth that do not advance in time, left out.
        initial_stamp: Stamp of the initial pose [ns].
        initial_pose: True (x, y, yaw) at that stamp [m, m, rad].
        duration: From first to last odometry [s].
    """

    bag: Path
    truth: Path
    landmarks: Path
    odometry: int
    observations: int
    images: int
    other_robots: int
    unknown_barcodes: int
    repeated_stamps: int
    initial_stamp: int
    initial_pose: tuple[float, float, float]
    duration: float


def convert_mrclam(
    directory: Path | str, robot: int, out_bag: Path | str, overwrite: bool = False
) -> MrclamSummary:
    """Convert one robot of a MR.CLAM data set.

    Topics: ``odom`` (nav_msgs/Odometry), ``range_bearing`` (dnls_ros/RangeBearingArray, ids =
        subject numbers), ``ground_truth`` (geometry_msgs/PoseStamped) and one ``initial_pose``
        (geometry_msgs/PoseWithCovarianceStamped), the truth where odometry begins.

    Args:
        directory: Folder with ``Barcodes.dat``, ``Landmark_Groundtruth.dat`` and the robots'
            files, plain or ``.gz``.
        robot: Its number, 1 to 5.
        out_bag: The recording to write: a folder, or a file that ends in ``.mcap``.
            ``NAME_truth.tum`` and ``NAME_landmarks.yaml`` appear beside it.
        overwrite: Replace a recording that is there already.

    Raises:
        UnreadableInputError: A file of the data set is missing or damaged.
        DnlsError: ``out_bag`` exists and may not be replaced.
    """
    bag, data = Path(out_bag), read_mrclam(directory, robot)
    odometry, sightings = data.odometry, data.sightings
    truth = Trajectory(data.truth.stamps, _spatial(data.truth.columns))
    initial_stamp = max(int(odometry.stamps[0]), int(truth.stamps[0]))
    initial = truth.at(np.array([initial_stamp]))[0]
    with BagWriter(bag, overwrite) as writer:
        for record in _records(odometry, sightings, truth, initial_stamp, initial):
            writer.write(record.topic, record.message, record.receive_stamp)
    truth_file, landmarks_file = _write_companions(bag, truth, data.landmarks)
    x, y, *_, qz, qw = initial.tolist()
    return MrclamSummary(
        bag=bag,
        truth=truth_file,
        landmarks=landmarks_file,
        odometry=len(odometry.stamps),
        observations=sum(map(len, sightings.by_stamp.values())),
        images=len(sightings.by_stamp),
        other_robots=sightings.other_robots,
        unknown_barcodes=sightings.unknown_barcodes,
        repeated_stamps=odometry.repeated + data.truth.repeated,
        initial_stamp=initial_stamp,
        initial_pose=(x, y, 2.0 * float(np.arctan2(qz, qw))),
        duration=float(odometry.stamps[-1] - odometry.stamps[0]) / NANOSECONDS,
    )


def dead_reckon(stamps: Stamps, commands: Array) -> Array:
    """Integrate commands (N, 2) = (v, ω) [m/s, rad/s] from the origin, each held to the next.

    Returns:
        (N, 3) poses (x, y, yaw) at the stamps; exact for the held commands.
    """
    steps = held_steps(stamps, commands)
    yaw = np.concatenate([[0.0], np.cumsum(steps[:, 2])])
    cos, sin = np.cos(yaw[:-1]), np.sin(yaw[:-1])
    moves = np.stack(
        [cos * steps[:, 0] - sin * steps[:, 1], sin * steps[:, 0] + cos * steps[:, 1]], axis=1
    )
    return np.column_stack([np.concatenate([[[0.0, 0.0]], np.cumsum(moves, axis=0)]), yaw])


def held_steps(stamps: Stamps, commands: Array) -> Array:
    """Return the motions (N−1, 3) = Exp((v, 0, ω) Δt) from stamp to stamp, in body axes."""
    seconds = np.diff(stamps) / NANOSECONDS
    turn = commands[:-1, 1] * seconds
    length = commands[:-1, 0] * seconds
    half = np.sinc(turn / (2.0 * np.pi))  # sin(turn/2) / (turn/2)
    return np.stack(
        [length * half * np.cos(turn / 2), length * half * np.sin(turn / 2), turn], axis=1
    )


def dead_reckoned_covariances(stamps: Stamps, steps: Array) -> Array:
    """Return the covariance (N, 3, 3) of the integrated pose in body axes, growing by the density.

    Σ' = Ad(step⁻¹) Σ Ad(step⁻¹)ᵀ + diag(density²) Δt: exact for small errors under the right
    perturbation.
    """
    growth = np.diff(stamps)[:, None, None] / NANOSECONDS * np.diag(ODOMETRY_DENSITY**2)
    carry = SE2.from_xyt(torch.from_numpy(steps)).inverse().adjoint().numpy()
    result = np.empty((len(stamps), 3, 3))
    result[0] = 1e-12 * np.eye(3)  # the origin is exact, but a singular covariance means nothing
    for k in range(len(steps)):
        result[k + 1] = carry[k] @ result[k] @ carry[k].T + growth[k]
    return result


def _records(
    odometry: Table, sightings: Sightings, truth: Trajectory, initial_stamp: int, initial: Array
) -> Iterator[Record]:
    """Merge all messages by stamp, which is also their receive stamp; ties keep this order."""
    compose = Composer(message_class)
    covariance = spatial_covariance(np.diag(INITIAL_SIGMA**2), _PLANE_VARIANCE)
    first = compose.pose_with_covariance_stamped(initial_stamp, WORLD, initial, covariance)
    streams = (
        iter([_record(INITIAL_POSE_TOPIC, initial_stamp, first)]),
        _odometry_records(odometry, compose),
        _sighting_records(sightings, compose),
        _truth_records(truth, compose),
    )
    return heapq.merge(*streams, key=lambda record: record.receive_stamp)


def _odometry_records(odometry: Table, compose: Composer) -> Iterator[Record]:
    stamps, commands = odometry.stamps, odometry.columns
    seconds = np.diff(stamps) / NANOSECONDS
    poses = _spatial(dead_reckon(stamps, commands))
    planar = dead_reckoned_covariances(stamps, held_steps(stamps, commands))
    covariances = spatial_covariance(planar, _PLANE_VARIANCE)
    twist = np.zeros(6)
    for k, stamp in enumerate(stamps.tolist()):
        ended = max(k - 1, 0)  # the command whose interval ends here; the first message repeats it
        twist[[0, 5]] = commands[ended]
        variance = np.diag(ODOMETRY_DENSITY**2 / seconds[ended])
        message = compose.odometry(
            stamp,
            ODOM,
            BASE,
            poses[k],
            twist,
            covariances[k],
            spatial_covariance(variance, _PLANE_VARIANCE),
        )
        yield _record(ODOMETRY_TOPIC, stamp, message)


def _sighting_records(sightings: Sightings, compose: Composer) -> Iterator[Record]:
    for stamp, seen in sorted(sightings.by_stamp.items()):
        ids, ranges, bearings = zip(*seen, strict=True)
        message = compose.range_bearing(
            stamp, BASE, ids, np.array(ranges), np.array(bearings), (SIGMA_RANGE, SIGMA_BEARING)
        )
        yield _record(RANGE_BEARING_TOPIC, stamp, message)


def _truth_records(truth: Trajectory, compose: Composer) -> Iterator[Record]:
    for stamp, pose in zip(truth.stamps.tolist(), truth.poses, strict=True):
        yield _record(TRUTH_TOPIC, stamp, compose.pose_stamped(stamp, WORLD, pose))


def _record(topic: str, stamp: int, message: Any) -> Record:
    return Record(topic, message.__msgtype__, stamp, message)


def _write_companions(
    bag: Path, truth: Trajectory, landmarks: dict[str, tuple[float, float]]
) -> tuple[Path, Path]:
    """Write the true trajectory and the landmark map beside the recording."""
    name = bag.stem if bag.suffix == ".mcap" else bag.name
    truth_file, landmarks_file = (
        bag.with_name(f"{name}_truth.tum"),
        bag.with_name(f"{name}_landmarks.yaml"),
    )
    write_tum(truth_file, truth)
    entries = [{"id": key, "position": [x, y, 0.0]} for key, (x, y) in landmarks.items()]
    write_text(landmarks_file, yaml.safe_dump({"landmarks": entries}, default_flow_style=None))
    return truth_file, landmarks_file


def _spatial(planar: Array) -> Array:
    """Lift poses (N, 3) = (x, y, yaw) to (N, 7)."""
    result = np.zeros((len(planar), 7))
    result[:, :2] = planar[:, :2]
    result[:, 5], result[:, 6] = np.sin(planar[:, 2] / 2.0), np.cos(planar[:, 2] / 2.0)
    return result
