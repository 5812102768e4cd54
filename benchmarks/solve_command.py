"""``dnls solve`` as other programs use it: called in this process, its JSON line read."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from dnls_ros.cli import main
from dnls_ros.errors import DnlsError


def solve(folder: Path, file: Path, *options: str | int) -> dict[str, Any]:
    """The figures of one solve; the result and its picture are written to ``folder``.

    Raises:
        DnlsError: The command refused what it was given.
    """
    output = folder / f"solved{file.suffix}"
    arguments = ["solve", str(file), *map(str, options), "--json", "--output", str(output)]
    with redirect_stdout(io.StringIO()) as printed:
        code = main(arguments)
    lines = printed.getvalue().splitlines()
    if code not in (0, 1) or not lines:  # 1: solved, but not converged
        raise DnlsError(f"dnls {' '.join(arguments)} ended with the code {code}")
    return json.loads(lines[-1])


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    ruled = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)
