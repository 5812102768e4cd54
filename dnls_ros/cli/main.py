"""``dnls COMMAND …``: one parser, one place where errors become exit codes.

    0 ok · 1 a figure is below its gate · 2 usage or configuration · 3 input unreadable or empty
    4 internal error · 130 interrupted

What the user can mend is one line on stderr; only a mistake of ours shows a traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from dnls_ros import __version__
from dnls_ros.cli import (
    bench,
    convert,
    dataset,
    demo,
    doctor,
    evaluate,
    export,
    migrate,
    params,
    replay,
    sim,
    solve,
    train,
    warmup,
)
from dnls_ros.cli.common import Exit, Parser
from dnls_ros.errors import DnlsError, UnreadableInputError

COMMANDS = (
    sim,
    replay,
    doctor,
    evaluate,
    export,
    convert,
    dataset,
    params,
    migrate,
    bench,
    solve,
    train,
    warmup,
    demo,
)


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="dnls", description="Sliding-window pose estimation without ROS.")
    parser.add_argument("--version", action="version", version=f"dnls {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    try:
        chosen = build_parser().parse_args(arguments)
        code = int(chosen.run(chosen))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _complain("interrupted", Exit.INTERRUPTED)
    except UnreadableInputError as error:
        return _complain(str(error), Exit.UNREADABLE)
    except DnlsError as error:
        return _complain(str(error), Exit.USAGE)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except OSError as error:  # files that are read raise UnreadableInputError: this one is written
        return _complain(str(error), Exit.USAGE)
    except Exception as error:
        traceback.print_exc()
        name = type(error).__name__
        return _complain(f"internal error ({name}: {error}); please report it", Exit.INTERNAL)


def _complain(text: str, code: Exit) -> int:
    print(f"dnls: {text}", file=sys.stderr)
    return int(code)
