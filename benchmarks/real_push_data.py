"""The real pushes of $DNLS_DATA/tactile/pnpush as steps at one rate, and their calibration.

Yu, Bauza, Fazeli and Rodriguez, *More than a million ways to be pushed*, IROS 2016: a robot pushes
a block with a round probe below a force sensor; Vicon sees the block. Wrenches are those that the
block exerts on the probe, in the axes of the map, about the tip. All files have topics of ROS 1.

The recordings do not say where the cameras' frame is to a millimetre, nor how old a tip pose is.
Both show: while the tip touches, it lies on the block's outline. `calibrate` finds them from other
recordings of the same rig than the one that they are used for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from dnls_ros.costs import shape_of
from dnls_ros.io.bag import BagReader
from dnls_ros.io.messages import adapt
from dnls_ros.io.push_bags import planar, read_truth
from dnls_ros.io.tactile_json import TactileTrajectory
from dnls_ros.io.trajectory import Trajectory
from dnls_ros.window.measurements import WrenchMeasurement
from dnls_ros.window.rigid import compose, rotation_matrix
from dnls_ros.window.wrench import ZEROING

Array = NDArray[np.float64]
FOLDER = "tactile/pnpush/preliminary_push_testing"
STEEL = tuple(f"St_block/Test_st_{k}" for k in range(1, 7))
ALUMINIUM = tuple(f"Al_block/Test_metal_{k}" for k in range(1, 4))
STEP = 40_000_000
"""Between steps [ns]: four wrenches, three tip poses."""
SIDE, RADIUS = 0.1016, 0.00475
"""Of the blocks, 4 inches, and of the probe [m]."""
FORCE = 0.35
"""Mean of three steps that is a push [N]: the probe trembles at 15 Hz, a block may bounce off it
at first, and afterwards the robot's own acceleration is felt."""
DELAYS = np.arange(0.0, 0.045, 0.005)
"""How old a tip pose may be when it is stamped [s]."""
MOVING = 0.02
"""Speed of a block that is surely pushed [m/s]."""


@dataclass(frozen=True)
class Calibration:
    """What a rig's recordings do not say.

    Attributes:
        offset: (2,) of the camera's frame in the map, beyond what tf says [m].
        delay: Age of a tip pose when it is stamped [s].
        residual: Root mean square distance of the tip from the outline that is left [m].
    """

    offset: Array
    delay: float
    residual: float


@dataclass(frozen=True, eq=False)
class Recording:
    """One bag, in the map.

    Attributes:
        block, tip: Their poses.
        stamps: (W,) of wrenches [ns].
        wrench: (W, 3) f_x, f_y, τ_z without bias [N, Nm].
    """

    block: Trajectory
    tip: Trajectory
    stamps: NDArray[np.int64]
    wrench: Array


def path_of(name: str) -> Path:
    """Of a recording by its name, such as ``St_block/Test_st_1``, in DNLS_DATA."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("DNLS_DATA", beside)) / FOLDER / f"{name}.bag.gz"


def read_recording(name: str) -> Recording:
    """A recording by its name."""
    path = path_of(name)
    with BagReader(path) as bag:
        vicon = next(t for t in bag.topics if t.startswith("/vicon/") and t != "/vicon/markers")
        said = [adapt("wrench", r.type, r.message) for r in bag.records(["/netft_data"])]
        frame = next(bag.records([vicon])).message.header.frame_id
        frames = {t.child_frame_id: t for r in bag.records(["/tf"]) for t in r.message.transforms}
    tip, block = read_truth(path, "/tip_pose"), read_truth(path, vicon)
    while frame != "map":
        poses = [compose(_pose(frames[frame].transform), pose) for pose in block.poses]
        block, frame = Trajectory(block.stamps, np.stack(poses)), frames[frame].header.frame_id
    forces = {m.stamp: [*m.force, *m.torque] for m in said if isinstance(m, WrenchMeasurement)}
    stamps = np.array(sorted(forces), dtype=np.int64)
    wrench = np.array([forces[s] for s in stamps.tolist()])
    return Recording(block, tip, stamps, _at_tip(stamps, wrench, rotation_matrix(tip.poses[0])))


def _pose(transform: Any) -> Array:
    p, q = transform.translation, transform.rotation
    return np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])


def _at_tip(stamps: NDArray[np.int64], wrench: Array, turn: Array) -> Array:
    """(W, 3) in the map: the sensor has the axes of the tip, which never turns, and lies above it.

    A force in the plane has no moment about the vertical through the tip at either place.
    """
    free = wrench - wrench[stamps - stamps[0] < ZEROING].mean(0)
    return np.column_stack([free[:, :3] @ turn[:2].T, free[:, 3:] @ turn[2]])


def calibrate(
    recordings: Sequence[Recording], delays: Sequence[float] = DELAYS.tolist()
) -> Calibration:
    """What makes the tip lie on the outline while the blocks of some recordings move."""
    best: Calibration | None = None
    for delay in delays:
        touching = [_touching(r, delay) for r in recordings]

        def residuals(x: Array, touching: list[tuple[Array, Array]] = touching) -> Array:
            parts = [_distance(block, tip, x) - RADIUS for block, tip in touching]
            return np.concatenate(parts)

        found = least_squares(residuals, [0.0, 0.0], x_scale=0.01, loss="soft_l1", f_scale=1e-3)
        left = float(np.sqrt(np.mean(residuals(found.x) ** 2)))
        if best is None or left < best.residual:
            best = Calibration(found.x, delay, left)
    assert best is not None
    return best


def _touching(recording: Recording, delay: float) -> tuple[Array, Array]:
    """Poses (n, 3) of the block and places (n, 2) of the tip while the block moves."""
    stamps = recording.tip.stamps - round(delay * 1e9)
    inside = (stamps > recording.block.stamps[0]) & (stamps < recording.block.stamps[-1])
    stamps, tip = stamps[inside], recording.tip.poses[inside, :2]
    block = _planar(recording.block, stamps)
    wide = round(0.05e9)
    first, last = recording.block.stamps[[0, -1]]
    ends = (_planar(recording.block, np.clip(stamps + k, first, last)) for k in (-wide, wide))
    before, after = ends
    moving = np.linalg.norm((after - before)[:, :2], axis=1) > MOVING * 2e-9 * wide
    return block[moving], tip[moving]


def _planar(trajectory: Trajectory, stamps: NDArray[np.int64]) -> Array:
    poses = planar(trajectory.at(stamps))
    poses[:, 2] = np.unwrap(poses[:, 2])
    return poses


def _distance(block: Array, tip: Array, offset: Array) -> Array:
    """(n,) signed distances of places of the tip to the block's outline [m]."""
    apart = tip - block[:, :2] - offset
    c, s = np.cos(block[:, 2]), np.sin(block[:, 2])
    seen = np.column_stack([c * apart[:, 0] + s * apart[:, 1], c * apart[:, 1] - s * apart[:, 0]])
    return shape_of("rect", (SIDE, SIDE)).signed_distance(seen)


def push_of(recording: Recording, calibration: Calibration) -> TactileTrajectory:
    """The push in steps of `STEP`: mean wrench since the step before, poses interpolated."""
    late = round(calibration.delay * 1e9)
    begin = max(recording.block.stamps[0], recording.tip.stamps[0], recording.stamps[0] + ZEROING)
    end = min(recording.block.stamps[-1], recording.tip.stamps[-1] - late, recording.stamps[-1])
    stamps = np.arange(begin + STEP, end, STEP, dtype=np.int64)
    total = np.cumsum(np.vstack([np.zeros(3), recording.wrench]), axis=0)
    upto = np.searchsorted(recording.stamps, np.concatenate([stamps[:1] - STEP, stamps]), "right")
    wrench = np.diff(total[upto], axis=0) / np.diff(upto)[:, None]
    block = _planar(recording.block, stamps) + np.array([*calibration.offset, 0.0])
    tip = recording.tip.at(stamps + late)
    first, last = _push(wrench[:, :2])
    whole = TactileTrajectory(
        block,
        np.column_stack([tip[:, :2], np.zeros(len(stamps))]),
        np.zeros((len(stamps), 0)),
        np.zeros(len(stamps), dtype=np.int64),
        np.ones(len(stamps), dtype=np.bool_),
        (stamps - stamps[0]) * 1e-9,
        wrench,
        size=(SIDE, SIDE),
        tip_radius=RADIUS,
    )
    return whole.part(first, last)


def _push(force: Array) -> tuple[int, int]:
    """First step of the longest push, and the step after its last."""
    mean = np.column_stack([np.convolve(f, np.full(3, 1 / 3), "same") for f in force.T])
    on = np.linalg.norm(mean, axis=1) > FORCE
    ends = np.flatnonzero(np.diff(on, prepend=False, append=False)).reshape(-1, 2)
    first, last = ends[np.argmax(ends[:, 1] - ends[:, 0])]
    return int(first), int(last)
