"""What the commands share: exit codes, common options, tables on the terminal, one JSON line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

import torch

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.faults import Fault, parse_fault
from dnls_ros.linear import choose_device
from dnls_ros.optim.warmup import settle_memory
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.parameters import load_parameters

MOST_THREADS = 64


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    BELOW_GATE = 1
    USAGE = 2
    UNREADABLE = 3
    INTERNAL = 4
    INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raises the mistake, so that it ends like every other one."""
        raise DnlsError(f"{message}; see `{self.prog} --help`")


Subparsers = Any
"""What ``add_subparsers`` returns; argparse keeps its type to itself."""

Run = Callable[[argparse.Namespace], int]


def add_command(
    commands: Subparsers, name: str, run: Run, summary: str
) -> argparse.ArgumentParser:
    """Adds a command that ``run`` executes."""
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=run)
    return parser


def add_figure_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every command that reports figures."""
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    parser.add_argument(
        "--threads", type=threads, default=1, metavar="N", help="of torch (default 1)"
    )
    parser.add_argument("--device", default="", help="auto, cpu, cuda, cuda:N")


def add_fault_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--fault``, which may be given more than once."""
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="KIND:TARGET:KEY=VALUE,…",
        help="spoil messages, e.g. drop:odom:p=0.1; repeatable",
    )


def threads(text: str) -> int:
    """A number of threads."""
    count = int(text)
    if not 1 <= count <= MOST_THREADS:
        raise argparse.ArgumentTypeError(f"got {count}, expected 1..{MOST_THREADS}")
    return count


def positive(text: str) -> float:
    """A positive, finite number."""
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, expected a number above 0")
    return value


def not_negative(text: str) -> float:
    """A finite number that is not negative."""
    value = float(text)
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, expected a number of at least 0")
    return value


def share(text: str) -> float:
    """A number between 0 and 1."""
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"got {text}, expected a number in 0..1")
    return value


def use_machine(options: argparse.Namespace) -> None:
    """Sets threads and memory collection, on which no result depends; refuses an absent device."""
    torch.set_num_threads(options.threads)
    settle_memory()
    if options.device:
        choose_device(options.device)


def parse_faults(texts: Sequence[str]) -> tuple[Fault, ...]:
    """The faults of the command line."""
    return tuple(parse_fault(text) for text in texts)


def add_params_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--params``, which may be given more than once."""
    parser.add_argument(
        "--params",
        type=Path,
        action="append",
        required=True,
        metavar="F.yaml",
        help="parameter file; repeatable: a later one is laid over those before",
    )


def read_config(path: Path | Sequence[Path]) -> EstimatorConfig:
    """An estimator's configuration; a file that cannot be read is a mistake of configuration."""
    try:
        return load_parameters(path)
    except UnreadableInputError as error:
        raise DnlsError(str(error)) from error


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of text under their heads, columns aligned; the first one to the left."""
    lines = [list(line) for line in ([columns] if any(columns) else []) + [*rows]]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    for number, line in enumerate(lines):
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
        if number == 0 and any(columns):
            print("  ".join("─" * width for width in widths))


def print_json(content: Mapping[str, Any], wanted: bool) -> None:
    """Prints one JSON object on one line, if it is wanted."""
    if wanted:
        print(json.dumps(content, sort_keys=True, allow_nan=False))


def warn(text: str) -> None:
    """One line on stderr about something that does not stop us."""
    print(f"dnls: warning: {text}", file=sys.stderr)


@contextmanager
def progress(title: str) -> Generator[Callable[[float], None]]:
    """A progress bar; gives a function that is told the share done, 0 … 1.

    It is shown on a terminal only, and on stderr, so that figures can be piped.
    """
    from tqdm import tqdm

    form = "{desc:<28}{percentage:4.0f} % |{bar:30}| {elapsed}"
    with tqdm(total=1.0, desc=title, bar_format=form, file=sys.stderr, disable=None) as bar:
        yield lambda done: _advance(bar, done)


def _advance(bar: Any, done: float) -> None:
    bar.update(max(0.0, min(1.0, done) - bar.n))
