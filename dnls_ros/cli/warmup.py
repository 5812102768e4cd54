"""``dnls warmup``: compiles the kernels of windows now, or loads them if they are kept already."""

from __future__ import annotations

import argparse

from dnls_ros.cli.common import Exit, Subparsers, add_command, print_json, print_table, progress


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(
        commands, "warmup", run, "Compiles kernels before they are needed, and keeps them."
    )
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")


def run(options: argparse.Namespace) -> int:
    """Compiles; without numba or a folder to keep kernels in it says so, which is no failure."""
    from dnls_ros.linear import has_kernels
    from dnls_ros.optim.warmup import kept_in, remove_outdated, warm_up

    if not has_kernels():
        print("numba is not installed: there are no kernels, CHOLMOD and torch do all the work")
        print_json({"kernels": False, "seconds": {}, "folder": None}, options.json)
        return Exit.OK
    with progress("kernels") as advance:
        seconds = warm_up()
        advance(1.0)
    folder, old = kept_in(), remove_outdated()
    rows = [[name, f"{value:.2f} s"] for name, value in seconds.items()]
    where = str(folder) if folder else "nowhere: no folder can be written, every process compiles"
    print_table(["", ""], [*rows, ["kept in", where], ["outdated folders removed", str(old)]])
    print_json(
        {"kernels": True, "seconds": seconds, "folder": str(folder) if folder else None},
        options.json,
    )
    return Exit.OK
