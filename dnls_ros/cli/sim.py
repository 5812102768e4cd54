"""``dnls sim``: a simulated robot's recording, with its true trajectory, map and calibration."""

from __future__ import annotations

import argparse
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
from dnls_ros.io.bag import BagWriter, Record
from dnls_ros.io.faults import FaultInjector
from dnls_ros.io.recording import TOPIC_TYPES, truth_trajectory, write_recording
from dnls_ros.io.scene import load_scene
from dnls_ros.io.sim_messages import recording_records
from dnls_ros.io.simulate import Recording, simulate
from dnls_ros.io.trajectory import write_tum


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "sim",
        run,
        "Simulates a robot on a plane: odometry, a camera that sees tags, rare absolute poses.",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--duration", type=positive, default=15.0, help="[s] (default 15)")
    parser.add_argument("--out", type=Path, required=True, help="folder, or a .mcap file")
    parser.add_argument("--scene", type=Path, help="scene file (default: the demo's)")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    add_fault_option(parser)


def run(options: argparse.Namespace) -> int:
    """Simulates and writes; an earlier recording at the same place is replaced."""
    faults = parse_faults(options.fault)
    recording = simulate(options.seed, options.duration, load_scene(options.scene))
    names = {topic: topic for topic in TOPIC_TYPES}
    injector = FaultInjector(faults, options.seed, names)
    records = list(injector.apply(recording_records(recording)))
    bag, truth = _write(recording, records, options.out)
    print(f"{bag}: {len(records)} messages in {options.duration:g} s; truth in {truth}")
    for text, count in zip(options.fault, injector.counts, strict=True):
        print(f"fault {text}: {count} messages")
    content = {"bag": str(bag), "truth": str(truth), "messages": len(records)}
    print_json(
        {**content, "faults": dict(zip(options.fault, injector.counts, strict=True))}, options.json
    )
    return Exit.OK


def _write(recording: Recording, records: list[Record], out: Path) -> tuple[Path, Path]:
    """The recording and its truth: in a folder of their own, or a bare file with a companion."""
    with progress("writing the recording") as advance:
        if out.suffix != ".mcap":
            files = write_recording(
                recording, out, records, True, lambda count: advance(count / len(records))
            )
            return files.bag, files.truth
        with BagWriter(out, overwrite=True) as bag:
            for topic, kind in TOPIC_TYPES.items():
                bag.add_topic(topic, kind)
            for record in records:
                bag.write(record.topic, record.message, record.receive_stamp)
        advance(1.0)
    truth = out.with_name(f"{out.stem}_truth.tum")
    write_tum(truth, truth_trajectory(recording))
    return out, truth
