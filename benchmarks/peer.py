"""A library beside ours: its own interpreter, asked for rounds that alternate with ours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any


class Peer:
    """Another library in a process of its own, asked for one round at a time.

    Args:
        python: Interpreter that has the library.
        script: Answers each line on stdin by a line of JSON, after a first line when it is ready.
        file: What it is about.
    """

    def __init__(self, python: str, script: Path, file: Path) -> None:
        self._name = script.name
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [python, str(script), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with {self._process.wait()}")
        return json.loads(line)

    def ask(self, what: str) -> dict[str, Any]:
        """A round."""
        assert self._process.stdin is not None
        print(what, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
