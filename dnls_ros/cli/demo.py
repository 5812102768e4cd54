"""``dnls demo``."""

import argparse

from dnls_ros.cli.common import Subparsers, add_command


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    add_command(commands, "demo", run, "Demo.")


def run(options: argparse.Namespace) -> int:
    """Nothing yet."""
    return 2
