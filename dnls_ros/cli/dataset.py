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
from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.push_bags import read_push
from dnls_ros.io.push_recording import OBJECT_FILE, TRUTH_TOPIC
from dnls_ros.io.tactile_json import TactileTrajectory, write_tactile_json


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
    pushes: list[TactileTrajectory] = []
    with progress("reading recordings") as advance:
        for k, given in enumerate(options.bags):
            bag, params = _place(given, options)
            pushes.append(read_push(bag, read_config(params), options.truth, options.rate))
            advance((k + 1) / len(options.bags))
    _check_equal(options.bags, pushes)
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


def _place(given: Path, options: argparse.Namespace) -> tuple[Path, list[Path]]:
    """The recording itself, and the parameter files that describe it."""
    inner = given / "bag"
    bag = inner if inner.exists() else given
    beside = bag.parent / options.object
    return bag, [*options.params, *([beside] if beside.is_file() else [])]


def _check_equal(bags: list[Path], pushes: list[TactileTrajectory]) -> None:
    """Images of one size, and forces in all or in none: else they are of different sensors."""
    for what, kinds in (
        ("images", [None if t.images is None else t.images.shape[1:] for t in pushes]),
        ("forces", [t.wrench is not None for t in pushes]),
    ):
        odd = next((k for k, kind in enumerate(kinds) if kind != kinds[0]), None)
        if odd is not None:
            raise UnreadableInputError(
                f"dataset: {what} of {bags[odd]} ({kinds[odd]}) are not like those of {bags[0]} "
                f"({kinds[0]}): make one file for each sensor"
            )
