"""``dnls sim``: simulated recordings, with their true trajectories, maps and calibration.

A robot that drives on a plane among tags, or a finger that pushes an object over a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dnls_ros.cli.common import (
    Exit,
    Subparsers,
    add_command,
    add_fault_option,
    parse_faults,
    positive,
    print_json,
    progress,
)
from dnls_ros.errors import DnlsError
from dnls_ros.io import push_recording, recording
from dnls_ros.io.bag import BagWriter, Record
from dnls_ros.io.faults import FaultInjector
from dnls_ros.io.push_scene import is_push_scene, lasting, push_scene
from dnls_ros.io.scene import load_scene
from dnls_ros.io.sim_messages import recording_records
from dnls_ros.io.sim_push_sensors import PushRecording, simulate_push
from dnls_ros.io.simulate import Recording, simulate
from dnls_ros.io.trajectory import write_tum

DURATION = 15.0
"""Of a drive, if nothing else is asked for [s]."""
MOST = 10_000
"""Recordings in one go."""


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "sim",
        run,
        "Simulates a robot on a plane (odometry, a camera that sees tags, rare absolute poses), "
        "or a finger that pushes an object (tactile images, forces, poses).",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument(
        "--duration", type=positive, help=f"[s] (default {DURATION:g}; of pushes: the scene's)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder, or a .mcap file")
    parser.add_argument(
        "--scene",
        help="scene file, push_disc, push_rect, push_ellipse or push_polygon (default: the "
        "demo's drive)",
    )
    parser.add_argument(
        "--count",
        type=int,
        default=1,
        help="so many recordings, of seeds one after another, in folders OUT/0000 …",
    )
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    add_fault_option(parser)


def run(options: argparse.Namespace) -> int:
    """Simulates and writes; an earlier recording at the same place is replaced."""
    parse_faults(options.fault)  # before anything is written
    several = options.count > 1
    if not 1 <= options.count <= MOST or (several and options.out.suffix == ".mcap"):
        raise DnlsError(
            f"sim: got --count {options.count} --out {options.out}; expected 1..{MOST}, and a "
            "folder for more than one"
        )
    written: list[dict[str, object]] = []
    for k in range(options.count):
        out = options.out / f"{k:04d}" if several else options.out
        made = _simulated(options, options.seed + k)
        written.append(_write(made, out, options, options.seed + k))
    print_json({"recordings": written} if several else written[0], options.json)
    return Exit.OK


@dataclass(frozen=True)
class _Simulated:
    """A recording, its messages, their topics, and how long it is [s]."""

    recording: Recording | PushRecording
    records: list[Record]
    topics: Mapping[str, str]
    seconds: float


def _simulated(options: argparse.Namespace, seed: int) -> _Simulated:
    if options.scene is not None and is_push_scene(options.scene):
        scene = push_scene(options.scene)
        if options.duration is not None:
            scene = lasting(scene, options.duration)
        pushed = simulate_push(scene, seed)
        records = push_recording.push_records(pushed)
        seconds = float(pushed.motion.times[-1])
        return _Simulated(pushed, records, push_recording.TOPIC_TYPES, seconds)
    driven = simulate(seed, options.duration or DURATION, load_scene(options.scene))
    return _Simulated(driven, recording_records(driven), recording.TOPIC_TYPES, driven.duration)


def _write(
    made: _Simulated, out: Path, options: argparse.Namespace, seed: int
) -> dict[str, object]:
    """Writes what is left by the faults; says where it is."""
    names = {topic: topic for topic in made.topics}
    injector = FaultInjector(parse_faults(options.fault), seed, names)
    records = list(injector.apply(made.records))
    bag, truth = _files(made, records, out)
    print(f"{bag}: {len(records)} messages in {made.seconds:g} s; truth in {truth}")
    counts = dict(zip(options.fault, injector.counts, strict=True))
    for text, count in counts.items():
        print(f"fault {text}: {count} messages")
    return {"bag": str(bag), "truth": str(truth), "messages": len(records), "faults": counts}


def _files(made: _Simulated, records: list[Record], out: Path) -> tuple[Path, Path]:
    """The recording and its truth: in a folder of their own, or a bare file with companions."""
    with progress("writing the recording") as advance:

        def tell(count: int) -> None:
            advance(count / len(records))

        one = made.recording
        if isinstance(one, PushRecording):
            if out.suffix == ".mcap":
                raise DnlsError(f"sim: pushes need a folder, got --out {out}")
            pushed = push_recording.write_push(one, out, records, True, tell)
            return pushed.bag, pushed.truth
        if out.suffix != ".mcap":
            files = recording.write_recording(one, out, records, True, tell)
            return files.bag, files.truth
        with BagWriter(out, overwrite=True) as bag:
            for topic, kind in made.topics.items():
                bag.add_topic(topic, kind)
            for record in records:
                bag.write(record.topic, record.message, record.receive_stamp)
        advance(1.0)
        truth = out.with_name(f"{out.stem}_truth.tum")
        write_tum(truth, recording.truth_trajectory(one))
        return out, truth
