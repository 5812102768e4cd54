"""``dnls bench``: a dumped window solved again: what it holds, how it ends, how long it takes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnls_ros.cli.common import (
    Exit,
    Subparsers,
    add_command,
    print_json,
    print_table,
    threads,
)
from dnls_ros.optim import Solution
from dnls_ros.runtime.dump import WindowDump, load_window


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(commands, "bench", run, "Solves a dumped window again and times it.")
    parser.add_argument(
        "--window", type=Path, required=True, help="dump, .json or .npz (~/dump_window, recovery)"
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
    """Solves and prints; 1 if the window's solve does not converge."""
    import torch

    torch.set_num_threads(options.threads)
    dump = load_window(options.window, options.module)
    figures = _solve(dump, options.repeat)
    _print(dump, figures)
    print_json({"about": dict(dump.about), **figures}, options.json)
    return Exit.OK if figures["converged"] else Exit.BELOW_GATE


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
