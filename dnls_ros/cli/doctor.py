"""``dnls doctor``: what is wrong with a recording, or with running sensors, and what to do."""

from __future__ import annotations

import argparse
from pathlib import Path

from dnls_ros.cli.common import (
    Exit,
    Subparsers,
    add_command,
    not_negative,
    positive,
    print_json,
    progress,
    read_config,
)
from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.io.doctor import Report
from dnls_ros.io.doctor_bag import examine
from dnls_ros.io.doctor_codes import Severity
from dnls_ros.io.doctor_suggest import write_suggestion
from dnls_ros.io.doctor_text import as_text
from dnls_ros.window.config import EstimatorConfig

LIVE_DURATION = 10.0


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(
        commands, "doctor", run, "Examines a recording or live topics; exit code 1 on errors."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("bag", type=Path, nargs="?", help="rosbag2 folder, .mcap, .db3 or .bag")
    what.add_argument("--live", action="store_true", help="listen to running publishers (ROS)")
    parser.add_argument(
        "--params", type=Path, metavar="F.yaml", help="compare with this estimator"
    )
    parser.add_argument("--start", type=not_negative, default=0.0, metavar="S", help="skip [s]")
    parser.add_argument(
        "--duration",
        type=positive,
        metavar="S",
        help=f"look at so much [s] (live: {LIVE_DURATION:g})",
    )
    parser.add_argument("--topics", nargs="+", metavar="TOPIC", help="only these")
    parser.add_argument(
        "--suggest", type=Path, metavar="OUT.yaml", help="write a configuration that fits the data"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")


def run(options: argparse.Namespace) -> int:
    """Examines and prints; the exit code tells whether there is an error."""
    config = read_config(options.params) if options.params is not None else None
    if options.suggest is not None and options.suggest.exists():
        raise DnlsError(f"{options.suggest} exists; choose another place for the suggestion")
    report = _listen(options, config) if options.live else _read(options, config)
    for line in as_text(report):
        print(line)
    if options.suggest is not None:
        for line in write_suggestion(report, options.suggest):
            print(line)
    print_json(report.to_json(), options.json)
    return Exit.BELOW_GATE if report.severity >= Severity.ERROR else Exit.OK


def _read(options: argparse.Namespace, config: EstimatorConfig | None) -> Report:
    with progress("examining") as advance:
        return examine(
            options.bag, config, options.start, options.duration, options.topics, advance
        )


def _listen(options: argparse.Namespace, config: EstimatorConfig | None) -> Report:
    if options.start:
        raise DnlsError("--start does not apply to --live")
    try:
        from dnls_ros.ros.doctor_node import listen
    except ImportError as error:
        raise UnavailableError(
            f"--live needs ROS 2 ({error}); source its setup file, or examine a recording"
        ) from error
    return listen(config, options.duration or LIVE_DURATION, options.topics)
