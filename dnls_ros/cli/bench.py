"""``dnls bench``: a pose graph timed, also beside a peer; or a dumped window solved again."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnls_ros.cli.bench_graph import PEERS, Graph, alone, compare
from dnls_ros.cli.common import (
    Exit,
    Subparsers,
    add_command,
    print_json,
    print_table,
    threads,
)
from dnls_ros.errors import DnlsError
from dnls_ros.io.pose_graph import INITIALIZATIONS
from dnls_ros.optim import Solution
from dnls_ros.runtime.dump import WindowDump, load_window


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(commands, "bench", run, "Times a pose graph or a dumped window.")
    parser.add_argument("file", type=Path, nargs="?", help="a pose graph, FILE.g2o")
    parser.add_argument(
        "--window", type=Path, help="dump, .json or .npz (~/dump_window, recovery)"
    )
    parser.add_argument("--peer", help=f"minimize it with {' or '.join(PEERS)} too, interleaved")
    parser.add_argument(
        "--peer-python", default="", metavar="PYTHON", help="interpreter that has the peer"
    )
    parser.add_argument("--rounds", type=_count, default=5, metavar="N", help="default 5")
    parser.add_argument(
        "--init", choices=INITIALIZATIONS, default="file", help="first values of a pose graph"
    )
    parser.add_argument(
        "--explain", action="store_true", help="which tier linearizes each group, and why"
    )
    parser.add_argument("--repeat", type=_count, default=5, metavar="N", help="solves (default 5)")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        help="may be imported for costs of sensors of your own; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    parser.add_argument(
        "--threads", type=threads, default=1, metavar="N", help="of torch (default 1)"
    )


def _count(text: str) -> int:
    """At least one."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"got {count}, expected at least 1")
    return count


def run(options: argparse.Namespace) -> int:
    """Times and prints; 1 if a window's solve does not converge."""
    import torch

    torch.set_num_threads(options.threads)
    if (options.file is None) == (options.window is None):
        raise DnlsError("dnls bench takes a pose graph, FILE.g2o, or a dump, --window FILE")
    if options.file is not None:
        return _run_graph(options)
    dump = load_window(options.window, options.module)
    figures = _solve(dump, options.repeat)
    _print(dump, figures)
    print_json({"about": dict(dump.about), **figures}, options.json)
    return Exit.OK if figures["converged"] else Exit.BELOW_GATE


def _run_graph(options: argparse.Namespace) -> int:
    told = Graph.read(options.file, options.init).explain() if options.explain else {}
    if options.peer:
        python = options.peer_python
        figures = compare(options.file, options.peer, python, options.rounds, options.init)
    else:
        figures = alone(options.file, options.rounds, options.init)
    rows = [[key.replace("_", " "), str(value)] for key, value in figures.items()]
    rows += [[f"tier of {name}", tier] for name, tier in told.items()]
    print_table(["", ""], rows)
    print_json({**figures, **({"tiers": told} if told else {})}, options.json)
    return Exit.OK


def _solve(dump: WindowDump, repeat: int) -> dict[str, Any]:
    """The figures of the last solve, and the times of all."""
    runs = [_timed(dump) for _ in range(repeat)]
    solution, seconds = runs[-1][0], [one[1] for one in runs]
    p50, p95 = np.quantile(seconds, [0.5, 0.95]).tolist()
    status = solution.status[0]
    cost = float(solution.cost[0])
    return {
        "cost_initial": float(dump.cost) if np.isfinite(dump.cost) else None,
        "cost_final": cost if np.isfinite(cost) else None,
        "iterations": int(solution.iterations[0]),
        "status": status.value,
        "converged": status.converged,
        "solve_p50_s": p50,
        "solve_p95_s": p95,
    }


def _timed(dump: WindowDump) -> tuple[Solution, float]:
    """One solve and its wall time [s]."""
    began = time.perf_counter()
    solution = dump.solve()
    return solution, time.perf_counter() - began


def _print(dump: WindowDump, figures: Mapping[str, Any]) -> None:
    rows = [[key, str(value)] for key, value in dump.about.items()]
    for name, group in dump.problem.items():
        rows.append([f"factors of {name}", str(getattr(group, "count", 1))])  # or one joint prior
    rows += [[key.replace("_", " "), str(value)] for key, value in figures.items()]
    print_table(["", ""], rows)
