"""``dnls solve``: a g2o, BAL or NIST problem solved: costs, iterations, status, seconds."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dnls_ros.cli.common import (
    Exit,
    Subparsers,
    add_command,
    not_negative,
    print_json,
    print_table,
    threads,
)
from dnls_ros.errors import DnlsError
from dnls_ros.io.bal import BundleAdjustment
from dnls_ros.io.g2o import ROTATION_INFORMATION
from dnls_ros.io.nist import PARAMETERS, Regression, correct_digits
from dnls_ros.io.pose_graph import INITIALIZATIONS
from dnls_ros.io.problem_file import ProblemFile, read_problem
from dnls_ros.linear import (
    SOLVER_NAMES,
    ConjugateGradients,
    ImplicitSchur,
    InexactStep,
    LinearSolver,
    Schur,
    choose_solver,
)
from dnls_ros.optim import (
    Dogleg,
    GaussNewton,
    LevenbergMarquardt,
    Solution,
    Status,
    Tolerances,
    minimize,
)
from dnls_ros.optim.method import Method
from dnls_ros.problem import Values

METHODS = ("lm", "gn", "dogleg")
ELIMINATING = ("schur", "implicit_schur")
GRADIENT = 1e-8  # where the minimum is zero, no relative decrease of the cost ends a solve


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(commands, "solve", run, "Solves a g2o, BAL or NIST file.")
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--init",
        choices=INITIALIZATIONS,
        default="file",
        help="first values; all but file are for pose graphs",
    )
    parser.add_argument("--start", type=_count, default=1, help="of a NIST file (default 1)")
    parser.add_argument("--method", choices=METHODS, default="lm")
    parser.add_argument(
        "--damping",
        choices=("scaled", "identity"),
        default="scaled",
        help="of lm: by the diagonal of H, or the same for all unknowns",
    )
    parser.add_argument(
        "--linear",
        choices=(*SOLVER_NAMES, "pcg", *ELIMINATING),
        default="auto",
        help="pcg: conjugate gradients; schur and implicit_schur are for BAL",
    )
    parser.add_argument(
        "--information",
        choices=ROTATION_INFORMATION,
        default="tangent",
        help="what rotation's information means in a g2o file",
    )
    parser.add_argument("--iterations", type=_count, default=200, help="limit (default 200)")
    parser.add_argument("--tolerance", type=not_negative, default=1e-10, help="of the cost")
    parser.add_argument("--output", type=Path, help="result (default <name>_solved.<ending>)")
    parser.add_argument("--plot", type=Path, help="picture (default beside the result, .png)")
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
    """Solves, writes and prints; 1 if the solve does not converge."""
    torch.set_num_threads(options.threads)
    output = options.output or Path(f"{options.file.stem}_solved{options.file.suffix}")
    plot = options.plot or output.with_suffix(".png")
    if output.resolve() == options.file.resolve():
        raise DnlsError(f"--output {output} is the input; name another file")
    clock = _Clock()
    loaded = read_problem(options.file, options.information)
    clock.lap("read")
    initial = loaded.initial(options.init, options.start)
    clock.lap("init")
    linear, why = _linear(options.linear, loaded, initial)
    stop = _tolerances(loaded, options)
    found = minimize(
        loaded.problem(), initial, _method(options.method, options.damping), linear, stop
    )
    clock.lap("solve")
    solved = loaded.solved(found.values)
    solved.write(output)
    clock.lap("write")
    _plot(plot, loaded.solved(initial), solved, f"{options.file.name}: {_costs(found)}")
    clock.lap("plot")
    figures = {**loaded.counts(), **_figures(found, loaded), "seconds": clock.laps}
    files = {"linear": why, "result": str(output), "plot": str(plot)}
    _print(figures, files)
    print_json({"format": loaded.format, **figures, **files}, options.json)
    return Exit.OK if found.status[0].converged else Exit.BELOW_GATE


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends a stage."""
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


def _method(name: str, damping: str) -> Method[Any]:
    if name == "gn":
        return GaussNewton()
    if name == "dogleg":
        return Dogleg()
    return replace(LevenbergMarquardt.ceres(), scaled=damping == "scaled")


def _linear(name: str, loaded: ProblemFile, initial: Values) -> tuple[LinearSolver, str]:
    """The solver and a sentence about it."""
    cpu = torch.device("cpu")
    order = initial.layout()[-1].stop
    bundle = loaded.content if isinstance(loaded.content, BundleAdjustment) else None
    if name in ELIMINATING and bundle is None:
        raise DnlsError(
            f"--linear {name} eliminates the points of BAL, got a {loaded.format} file"
        )
    iterative = ConjugateGradients(inexact=InexactStep())
    if name == "pcg":
        return iterative, "conjugate gradients with inexact steps, block-Jacobi"
    if name == "implicit_schur":
        return ImplicitSchur("point", iterative), (
            "points eliminated, then conjugate gradients with inexact steps, Schur–Jacobi; the "
            "reduced matrix is never formed"
        )
    if bundle is None or name not in ("auto", "schur"):
        return choose_solver(name, order, cpu)
    inner, why = choose_solver("auto", 9 * len(bundle.cameras), cpu)
    return Schur("point", inner), f"points eliminated, then {why}"


def _tolerances(loaded: ProblemFile, options: argparse.Namespace) -> Tolerances:
    """A regression runs until its parameters stand: their digits are what it is about."""
    if isinstance(loaded.content, Regression):
        return Tolerances(0.0, 1e-14, 0.0, max(options.iterations, 1000))
    return Tolerances(options.tolerance, 0.0, GRADIENT, options.iterations)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _figures(found: Solution, loaded: ProblemFile) -> dict[str, Any]:
    status = found.status[0]
    figures: dict[str, Any] = {
        "cost_initial": _finite(float(found.initial_cost[0])),
        "cost_final": _finite(float(found.cost[0])),
        "iterations": int(found.iterations[0]),
        "accepted": int(found.accepted[0]),
        "status": status.value,
        "converged": status.converged,
    }
    if status is Status.SINGULAR:
        figures["unobservable"] = [str(one) for one in found.unobservable()]
    one = loaded.content
    if isinstance(one, Regression):
        b: Any = found.values[PARAMETERS]
        certified = torch.tensor(one.residual_sum, dtype=torch.float64)
        figures["digits_parameters"] = one.digits(b[0, 0])
        figures["digits_residual_sum"] = float(correct_digits(2 * found.cost[0], certified))
    return figures


def _costs(found: Solution) -> str:
    return f"½‖r‖² {float(found.initial_cost[0]):.6g} → {float(found.cost[0]):.6g}"


def _plot(path: Path, before: ProblemFile, after: ProblemFile, title: str) -> None:
    from dnls_ros.io.plots import write_png
    from dnls_ros.io.solve_plots import solution_figure

    write_png(path, solution_figure(before, after, title))


def _print(figures: Mapping[str, Any], files: Mapping[str, str]) -> None:
    rows: list[list[str]] = []
    for key, value in figures.items():
        if isinstance(value, list):
            rows += [["unobservable", str(one)] for one in value]
        elif isinstance(value, Mapping):
            rows += [[f"seconds {name}", f"{taken:.3f}"] for name, taken in value.items()]
        else:
            text = f"{value:.13g}" if isinstance(value, float) else str(value)
            rows.append([key.replace("_", " "), text])
    print_table(["", ""], [*rows, *([key, value] for key, value in files.items())])
