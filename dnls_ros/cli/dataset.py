"""``dnls dataset``: recordings of pushes as training data in one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from dnls_ros.cli.common import (
    Exit,
    Subparsers,
    add_command,
    add_params_option,
    positive,
    print_json,
    print_table,
    progress,
    read_config,
)
from dnls_ros.io.push_bags import read_pushes
from dnls_ros.io.push_recording import OBJECT_FILE, TRUTH_TOPIC
from dnls_ros.io.tactile_json import write_tactile_json


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "dataset",
        run,
        "Makes training data of recorded pushes, in the format of the published set.",
    )
    parser.add_argument(
        "bags",
        nargs="+",
        type=Path,
        metavar="BAG",
        help="recording, or a folder with one named bag and the object's parameters",
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file; images go beside it")
    add_params_option(parser)
    parser.add_argument(
        "--truth",
        default=TRUTH_TOPIC,
        metavar="TOPIC",
        help=f"the object's true pose (default {TRUTH_TOPIC})",
    )
    parser.add_argument(
        "--object",
        default=OBJECT_FILE,
        metavar="NAME",
        help="parameter file beside each recording that says which object it is, if it is there "
        f"(default {OBJECT_FILE})",
    )
    parser.add_argument(
        "--rate", type=positive, default=30.0, help="steps where there are no images [Hz]"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")


def run(options: argparse.Namespace) -> int:
    """Reads all, then writes; nothing is written if one of them cannot be used."""
    read_config(options.params)  # a mistake in it is one of configuration
    with progress("reading recordings") as advance:
        pushes = read_pushes(
            options.bags, options.params, options.truth, options.object, options.rate, advance
        )
    written = write_tactile_json(options.out, pushes)
    rows = [
        [str(bag), t.shape, f"{t.stamps[-1]:.1f}", str(len(t)), f"{100 * t.contact.mean():.0f}"]
        for bag, t in zip(options.bags, pushes, strict=True)
    ]
    print_table(["recording", "object", "[s]", "steps", "in contact [%]"], rows)
    print(f"{written}: {len(pushes)} recordings, {sum(map(len, pushes))} steps")
    steps = {str(b): len(t) for b, t in zip(options.bags, pushes, strict=True)}
    print_json({"file": str(written), "steps": steps}, options.json)
    return Exit.OK
