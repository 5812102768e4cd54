"""``dnls migrate``: parameters of robot_localization as parameters of this estimator.

0 everything that mattered was carried over
1 written, but something has no equivalent or is to be set by you: the list says what
2 the file's values are wrong
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dnls_ros.cli.common import Exit, Subparsers, add_command, print_json, warn
from dnls_ros.errors import DnlsError
from dnls_ros.io.files import read_text, write_text
from dnls_ros.io.migrate import Kind, Migration, as_yaml, migrate
from dnls_ros.io.robot_localization import Filter, read_filters
from dnls_ros.window.parameters import DEFAULT_NODE, load_parameters


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(
        commands, "migrate", run, "Turns parameters of robot_localization into parameters of ours."
    )
    parser.add_argument("file", type=Path, help="parameter file of ekf_node or ukf_node (YAML)")
    parser.add_argument("--out", type=Path, required=True, help="parameter file that is written")
    parser.add_argument(
        "--node", default="", help="of several filters in the file this one (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")


def run(options: argparse.Namespace) -> int:
    """Migrates each filter to a file of its own, and says what to know about it."""
    read_text(options.file)  # missing: exit code 3, as for every input
    filters, others = read_filters(options.file)
    if options.node:
        names = [one.node for one in filters]
        filters = tuple(one for one in filters if one.node.rsplit("/", 1)[-1] == options.node)
        if not filters:
            raise DnlsError(f"{options.file} has no filter '{options.node}'; it has {names}")
    for name in others:
        warn(f"section '{name}' is no filter (no odom0, pose0, twist0, imu0); not migrated")
    report = [_one(one, options, len(filters) > 1) for one in filters]
    lost = bool(others) and not options.node
    code = Exit.OK if all(item["complete"] for item in report) and not lost else Exit.BELOW_GATE
    print_json({"filters": report, "not_migrated": list(others)}, options.json)
    return code


def _one(one: Filter, options: argparse.Namespace, several: bool) -> dict[str, object]:
    """One filter: file, list, whether all that mattered was carried over."""
    done = migrate(one)
    path = options.out
    if several:
        node = one.node.replace("/", "_")
        path = path.with_name(f"{path.stem}.{node}{path.suffix}")
    # Two filters of one file run as nodes of two names: a section for any name fits both.
    section = "/**" if several else DEFAULT_NODE
    write_text(path, as_yaml(done, options.file.name, one.node, section))
    try:
        load_parameters(path)
    except DnlsError as error:
        for line in str(error).splitlines()[1:]:
            done.note(Kind.OPEN, "the result", line.removeprefix("  - "))
        write_text(path, as_yaml(done, options.file.name, one.node, section))
    _print(done, one.node, path)
    notes = [{"kind": n.kind.value, "parameter": n.parameter, "why": n.why} for n in done.notes]
    return {"node": one.node, "out": str(path), "complete": done.complete, "notes": notes}


def _print(done: Migration, node: str, path: Path) -> None:
    """The list of notes, gravest first."""
    print(f"{path}: {', '.join(done.values['sensors'])}" + (f" (from '{node}')" if node else ""))
    for kind in Kind:
        chosen = [note for note in done.notes if note.kind is kind]
        if chosen:
            print(f"\n{kind.value}:")
            for note in chosen:
                print(f"  {note.parameter}: {note.why}")
    print()
