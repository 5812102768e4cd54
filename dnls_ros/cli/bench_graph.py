"""``dnls bench FILE.g2o``: a pose graph minimized by us and by a peer, round after round.

Both start from the same values and minimize the same objective to the same relative decrease.
Rounds are interleaved (ours, theirs, ours, …), because machines drift; medians and their ratio are
told, and both objectives. The peer runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from dnls_ros.errors import DnlsError, UnavailableError, UnreadableInputError
from dnls_ros.io.g2o import read_g2o, write_g2o
from dnls_ros.io.pose_graph import PoseGraph
from dnls_ros.lie import SE3
from dnls_ros.linear import LinearSolver, choose_solver
from dnls_ros.optim import LevenbergMarquardt, Tolerances, minimize
from dnls_ros.optim.assembly import Assembly
from dnls_ros.problem import Values

PEERS = ("gtsam",)
ITERATIONS, TOLERANCE = 50, 1e-10


@dataclass(frozen=True, eq=False)
class Graph:
    """A pose graph ready to be minimized."""

    graph: PoseGraph
    initial: Values
    assembly: Assembly
    linear: LinearSolver

    @classmethod
    def read(cls, path: Path, init: str) -> Graph:
        """From a g2o file.

        Raises:
            UnreadableInputError: It is missing or malformed.
        """
        if path.suffix != ".g2o":
            raise UnreadableInputError(f"{path}: expected a pose graph, a file named *.g2o")
        graph = read_g2o(path)
        everything = graph.initial(init)
        initial = graph.free(everything)
        problem = graph.problem()
        assembly = Assembly(problem, problem.structure(initial))
        device = next(iter(initial.values())).tensor.device  # type: ignore[union-attr]
        linear, _ = choose_solver("auto", assembly.structure.n, device)
        assembly.symbolic(linear)
        return cls(graph.moved(initial), initial, assembly, linear)

    def explain(self) -> dict[str, str]:
        """Group → its tier, and why."""
        return self.assembly.explain(self.initial)

    def round(self) -> dict[str, float]:
        """One minimization; its structure is analyzed before, as the peer's graph is built."""
        stop = Tolerances(TOLERANCE, 0.0, 0.0, ITERATIONS)
        method = LevenbergMarquardt()
        problem, assembly = self.assembly.problem, self.assembly
        began = time.perf_counter()
        found = minimize(problem, self.initial, method, self.linear, stop, assembly=assembly)
        seconds = time.perf_counter() - began
        return {
            "seconds": seconds,
            "iterations": int(found.iterations),
            "objective": float(found.cost),
        }


@contextmanager
def peer_of(name: str, python: str, graph: PoseGraph) -> Generator[Any]:
    """A peer that minimizes the graph whenever it is asked.

    Raises:
        UnavailableError: It is not installed where ``python`` looks.
    """
    if name not in PEERS:
        raise DnlsError(f"--peer is one of {', '.join(PEERS)}; got '{name}'")
    script = str(files("dnls_ros.cli").joinpath(f"peer_{name}.py"))
    spatial = isinstance(graph.edges.z, SE3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.g2o"
        write_g2o(path, graph)
        command = [python, script, str(path), "3" if spatial else "2"]
        with _started([*command, str(ITERATIONS), str(TOLERANCE)], name, python) as process:
            yield lambda: _asked(process, name)
            process.stdin.close()


def _started(command: list[str], name: str, python: str) -> Any:
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    except OSError as error:
        raise UnavailableError(f"--peer-python {python} cannot be run: {error}") from error
    assert process.stdout is not None
    if not process.stdout.readline():
        last = (process.communicate()[1].strip().splitlines() or ["it said nothing"])[-1]
        raise UnavailableError(
            f"peer '{name}' does not start with {python}: {last}; `pip install {name}` there, or "
            "name an interpreter that has it with --peer-python"
        )
    return process


def _asked(process: Any, name: str) -> dict[str, float]:
    process.stdin.write("round\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise DnlsError(f"peer '{name}' ended: {process.communicate()[1].strip()[-300:]}")
    return json.loads(answer)


def compare(path: Path, peer: str, python: str, rounds: int, init: str = "file") -> dict[str, Any]:
    """The figures of both; the first round of each warms up and does not count."""
    ours = Graph.read(path, init)
    mine: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    with peer_of(peer, python or sys.executable, ours.graph) as ask:
        for _ in range(rounds + 1):
            mine.append(ours.round())
            theirs.append(ask())
    seconds, peer_seconds = _per_iteration(mine), _per_iteration(theirs)
    return {
        "file": path.name,
        "poses": len(ours.graph.pose_ids),
        "rounds": rounds,
        "seconds_per_iteration": seconds,
        "peer": peer,
        "peer_seconds_per_iteration": peer_seconds,
        "ratio": seconds / peer_seconds,
        "ratio_of_whole": _whole(mine) / _whole(theirs),
        "iterations": mine[-1]["iterations"],
        "peer_iterations": theirs[-1]["iterations"],
        "objective": mine[-1]["objective"],
        "peer_objective": theirs[-1]["objective"],
    }


def alone(path: Path, rounds: int, init: str = "file") -> dict[str, Any]:
    """Our figures where no peer is asked for."""
    ours = Graph.read(path, init)
    mine = [ours.round() for _ in range(rounds + 1)]
    return {
        "file": path.name,
        "poses": len(ours.graph.pose_ids),
        "rounds": rounds,
        "seconds_per_iteration": _per_iteration(mine),
        "iterations": mine[-1]["iterations"],
        "objective": mine[-1]["objective"],
    }


def _per_iteration(rounds: list[dict[str, float]]) -> float:
    return float(np.median([r["seconds"] / max(r["iterations"], 1) for r in rounds[1:]]))


def _whole(rounds: list[dict[str, float]]) -> float:
    return float(np.median([r["seconds"] for r in rounds[1:]]))
