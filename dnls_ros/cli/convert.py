"""``dnls convert``: public data sets as rosbag2 recordings."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from dnls_ros.cli.common import Exit, Subparsers, add_command, print_json, print_table
from dnls_ros.io.mrclam import convert_mrclam


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(commands, "convert", run, "Turns a public data set into a recording.")
    parser.add_argument("format", choices=("mrclam",), help="UTIAS MR.CLAM")
    parser.add_argument("directory", type=Path, help="the data set's folder")
    parser.add_argument("--robot", type=int, default=1, choices=range(1, 6), help="default 1")
    parser.add_argument("--out", type=Path, required=True, help="recording: folder or .mcap")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier one")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")


def run(options: argparse.Namespace) -> int:
    """Converts and says what was taken and what was left out."""
    done = convert_mrclam(options.directory, options.robot, options.out, options.overwrite)
    content = {name: _plain(value) for name, value in asdict(done).items()}
    print_table(["", ""], [[name.replace("_", " "), str(v)] for name, v in content.items()])
    print_json(content, options.json)
    return Exit.OK


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
