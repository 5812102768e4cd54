"""``dnls convert``: public data sets as rosbag2 recordings."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from dnls_ros.cli.common import Exit, Subparsers, add_command, print_json, print_table
from dnls_ros.io.mrclam import convert_mrclam
from dnls_ros.io.slamcore import convert_slamcore


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(commands, "convert", run, "Turns a public data set into a recording.")
    parser.add_argument(
        "format",
        choices=("mrclam", "slamcore"),
        help="UTIAS MR.CLAM; OpenLORIS-Scene and Slamcore's sample",
    )
    parser.add_argument("directory", type=Path, help="the data set's folder")
    parser.add_argument(
        "--robot", type=int, default=1, choices=range(1, 6), help="of MR.CLAM (default 1)"
    )
    parser.add_argument("--out", type=Path, required=True, help="recording: folder or .mcap")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier one")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")


def run(options: argparse.Namespace) -> int:
    """Converts and says what was taken and what was left out."""
    if options.format == "slamcore":
        done = convert_slamcore(options.directory, options.out, options.overwrite)
    else:
        done = convert_mrclam(options.directory, options.robot, options.out, options.overwrite)
    content = {name: _plain(value) for name, value in asdict(done).items()}
    rows = {k: v for name, value in content.items() for k, v in _rows(name, value)}
    print_table(["", ""], [[name, str(value)] for name, value in rows.items()])
    print_json(content, options.json)
    return Exit.OK


def _rows(name: str, value: object) -> list[tuple[str, object]]:
    """A figure, or the figures of a mapping each on its own line."""
    return list(value.items()) if isinstance(value, dict) else [(name.replace("_", " "), value)]


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
