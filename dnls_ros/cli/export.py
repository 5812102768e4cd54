"""``dnls export``: the results of a replay in the formats of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from dnls_ros.cli.common import Exit, Subparsers, add_command, print_json, print_table
from dnls_ros.errors import DnlsError
from dnls_ros.io.export import WHICH, export_bag, export_files, read_run
from dnls_ros.io.trajectory_formats import FORMATS

MCAP = "mcap"


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(
        commands, "export", run, "Writes a replay's results in other programs' formats."
    )
    parser.add_argument(
        "folder", metavar="RUN", type=Path, help="folder that `dnls replay --out` wrote"
    )
    parser.add_argument("--to", choices=(*FORMATS, MCAP), required=True, help="format")
    parser.add_argument("--out", type=Path, help="folder (default RUN/export)")
    parser.add_argument(
        "--track", action="append", default=[], help="this track only; repeatable (default: all)"
    )
    parser.add_argument(
        "--which",
        choices=WHICH,
        default="best",
        help="best: full smoothing where there is some, else the newest states (default)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what was exported")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")


def run(options: argparse.Namespace) -> int:
    """Exports and says what was written."""
    tracks = read_run(options.folder, options.which, options.track)
    folder: Path = options.out or options.folder / "export"
    if options.to == MCAP:
        paths = [export_bag(tracks, folder / "run.mcap", options.overwrite)] * len(tracks)
    else:
        _refuse_existing(folder, [t.name for t in tracks], options)
        paths = export_files(tracks, options.to, folder)
    rows = [
        [track.name, str(len(track.trajectory)), str(path)]
        for track, path in zip(tracks, paths, strict=True)
    ]
    print_table(["track", "poses", "file"], rows)
    files = sorted({str(path) for path in paths})
    poses = {track.name: len(track.trajectory) for track in tracks}
    print_json({"files": files, "poses": poses}, options.json)
    return Exit.OK


def _refuse_existing(folder: Path, tracks: list[str], options: argparse.Namespace) -> None:
    """Nothing is replaced unasked; DnlsError names the first file that is there."""
    for name in tracks:
        path = folder / f"{name}{FORMATS[options.to].suffix}"
        if path.exists() and not options.overwrite:
            raise DnlsError(f"{path} exists; give --overwrite or another --out")
