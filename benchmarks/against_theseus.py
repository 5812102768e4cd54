"""Theseus and this library on the same problems, with the truth beside them.

    PYTHONPATH=. python benchmarks/against_theseus.py [--json] [--directions 24]

Needs an environment in which both can be imported; docs/benchmarks_solver.md says how to make one.
Prints one table in markdown, and with --json one object as the last line. It is about right and
wrong, not about time: wall times of one machine are in no row.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks import side_dnls
from benchmarks.side_by_side import (
    F64,
    STARTS,
    Cube,
    Ends,
    Theta,
    exact_exp,
    make_cube,
    relative_errors,
    slopes,
    small_angles,
    small_tangents,
)
from dnls_ros.lie import SE3

MISSING = (
    "against_theseus: Theseus cannot be imported here ({why}); install theseus-ai 0.2.3 into this "
    "environment as docs/benchmarks_solver.md says"
)
OUTLIERS, SQUARED_RADIUS = 4, 25.0  # of the cube with Welsch's loss


@dataclass(frozen=True)
class Row:
    """One line of the table: words for people, figures for programs."""

    question: str
    theirs: str
    ours: str
    truth: str
    figures: Mapping[str, Any]


def rosenbrock_rows(theirs: ModuleType, ours: ModuleType) -> list[Row]:
    """Six starts as a batch, one by one, and as a batch that no tolerance ends."""
    sides = theirs, ours
    rows: list[Row] = []
    for method in ours.METHODS:
        for way, (left, right) in (
            ("in one batch", [side.rosenbrock_ends(method) for side in sides]),
            ("one by one", [_singles(side, method) for side in sides]),
            (
                "in one batch, tolerances 0",
                [side.rosenbrock_ends(method, tight=True) for side in sides],
            ),
        ):
            name = f"Rosenbrock, six starts {way}, {method}"
            figures = {"theirs": left._asdict(), "ours": right._asdict()}
            rows.append(Row(name, _told(left), _told(right), "6 at cost 0", figures))
    return rows


def _singles(side: ModuleType, method: str) -> Ends:
    ends = [side.rosenbrock_ends(method, STARTS[k : k + 1]) for k in range(len(STARTS))]
    return Ends(*(list(chain.from_iterable(part)) for part in zip(*ends, strict=True)))


def _told(ends: Ends) -> str:
    """How many reached the minimum, and the costs of those that are called converged elsewhere."""
    there = sum(cost < 1e-10 for cost in ends.costs)
    text = f"{there} at the minimum"
    if ends.wrong:
        costs = [f"{cost:.4g}" for cost in ends.costs if not cost < 1e-10]
        text += f"; {ends.wrong} called converged at cost {', '.join(costs)}"
    return text


def verdict_rows(theirs: ModuleType, ours: ModuleType) -> list[Row]:
    """Steps to NaN and singular neighbours."""
    rows: list[Row] = []
    for name, ask, truth in (
        ("r = log x, batch of x = 5 and 1.5, LM: x and status", "logarithm_ends", "1 and 1"),
        (
            "Gauss–Newton, the second of two systems singular: x₁ and status",
            "neighbour_ends",
            "3, and a failure",
        ),
    ):
        left, right = (getattr(side, ask)() for side in (theirs, ours))
        figures = {"theirs": left._asdict(), "ours": right._asdict()}
        rows.append(Row(name, _each(left), _each(right), truth, figures))
    return rows


def _each(ends: Ends) -> str:
    pairs = zip(ends.values, ends.statuses, strict=True)
    return "; ".join(f"{value:.6g} {status}" for value, status in pairs)


def quartic_rows(theirs: ModuleType, ours: ModuleType) -> list[Row]:
    """The derivative of a minimum where Gauss–Newton's Hessian is wrong."""
    name = "dx*/dθ of min ½(x − θ)⁴, implicit"
    left, right = theirs.quartic_slope("implicit"), ours.quartic_slope("implicit")
    cheap = ours.quartic_slope("implicit, Gauss–Newton")
    figures = {"theirs": left, "ours": right, "ours, Gauss–Newton": cheap}
    return [Row(name, f"{left:.10g}", f"{right:.10g} (Gauss–Newton {cheap:.10g})", "1", figures)]


def small_angle_rows(theirs: ModuleType, ours: ModuleType) -> list[Row]:
    """Worst relative errors of Exp and of its right Jacobian for angles of 1e-9 … 0.1 rad."""
    rows: list[Row] = []
    for name, group in side_dnls.GROUPS.items():
        exact = [exact_exp(group, delta) for delta in small_tangents(group)]
        maps = [side.small_angle_maps(group) for side in (theirs, ours)]
        for k, what in enumerate(("Exp", "right Jacobian of Exp")):
            errors = [relative_errors(got[k], [pair[k] for pair in exact]) for got in maps]
            worst = [float(e.max()) for e in errors]
            at = float(small_angles()[errors[0].argmax()])
            question = f"{name} {what}, 1e-9 … 0.1 rad: worst relative error"
            left = f"{worst[0]:.1e} at {at:.1e} rad"
            figures = {"theirs": worst[0], "ours": worst[1], "angle of theirs": at}
            rows.append(Row(question, left, f"{worst[1]:.1e}", "0", figures))
    return rows


def moving_frame_error(side: ModuleType, size: float) -> float:
    """Relative error of the moving frame's Jacobian at random poses, with a residual of ``size``.

    Against central differences of the side's own residual.
    """
    generator = torch.Generator().manual_seed(0)
    tangents = torch.randn(5, 6, dtype=F64, generator=generator)
    frame_i, frame_j, x_i, x_j = (SE3.exp(delta) for delta in tangents[:4])
    away = SE3.exp(size * tangents[4] / tangents[4].norm())
    z = frame_i.between(x_i).between(frame_j.between(x_j)) @ away
    analytic, numeric = side.moving_frame_jacobians([frame_i, frame_j, x_i, x_j, z])
    return float((analytic - numeric).norm() / numeric.norm())


def moving_frame_rows(theirs: ModuleType, ours: ModuleType) -> list[Row]:
    """At a small and at a large residual."""
    rows: list[Row] = []
    for size in (0.1, 1.0):
        question = f"moving-frame between, residual {size:g}: relative error of the Jacobian"
        left, right = (moving_frame_error(side, size) for side in (theirs, ours))
        figures = {"theirs": left, "ours": right}
        rows.append(Row(question, f"{left:.1e}", f"{right:.1e}", "0", figures))
    return rows


def sample_rows(theirs: ModuleType, ours: ModuleType, count: int = 10_000) -> list[Row]:
    """The Gaussian at the minimum of ½‖2 (x − (3, 4))‖², in float64."""
    cells: list[str] = []
    figures: dict[str, Any] = {}
    for key, side in (("theirs", theirs), ("ours", ours)):
        drawn, solution = side.samples(count)
        mean, spread = drawn.double().mean(0), drawn.double().std(0)
        kind = str(drawn.dtype).removeprefix("torch.")
        figures[key] = {"mean": mean.tolist(), "deviation": spread.tolist(), "dtype": kind}
        figures[key]["solution"] = solution.tolist()
        cells.append(f"{mean[0]:.2f}, {mean[1]:.2f} ± {spread[0]:.2f}, {spread[1]:.2f}; {kind}")
    question = "samples around the solution (3, 4): mean ± deviation, type"
    return [Row(question, *cells, "3, 4 ± 0.5, 0.5; float64", figures)]


@dataclass(frozen=True)
class CubeCase:
    """By what a solved cube is differentiated."""

    name: str
    tensor: str
    robust: bool

    def cube(self) -> Cube:
        """With outliers where the loss is robust."""
        return make_cube(OUTLIERS if self.robust else 0)

    def theta(self, cube: Cube) -> Theta:
        """Where the derivative is taken."""
        return Theta.zero(cube, SQUARED_RADIUS if self.robust else None)

    def directions(self, theta: Theta, count: int) -> Tensor:
        """(K, …) of unit length on average; the radius has but one."""
        like = getattr(theta, self.tensor)
        if self.tensor == "log_radius":
            return torch.ones(1, dtype=F64)
        generator = torch.Generator().manual_seed(1)
        random = torch.randn(count, *like.shape[1:], dtype=F64, generator=generator)
        return random / math.sqrt(like.numel())


CUBES = (
    CubeCase("weights of 87 edges", "log_weights", False),
    CubeCase("87 measurements", "bend", False),
    CubeCase("radius of Welsch's loss, 4 outliers", "log_radius", True),
)


def true_slopes(case: CubeCase, cube: Cube, directions: Tensor) -> Tensor:
    """(K,) finite differences of the outer loss, each solved anew from the solution."""
    theta = case.theta(cube)
    with torch.no_grad():
        top = side_dnls.cube_poses(cube, theta, "implicit")
        bottom = torch.tensor([0.0, 0, 0, 1], dtype=F64).expand(*top.shape[:-2], 1, 4)
        start = SE3.from_matrix(torch.cat([top, bottom], -2))

        def loss(moved: Theta) -> Tensor:
            return cube.loss(side_dnls.cube_poses(cube, moved, "implicit", start))

        h = 0.05 if case.robust else 0.02
        parts = directions.split(32)  # solved together
        return torch.cat([slopes(loss, theta, case.tensor, part, h) for part in parts])


def cube_slopes(
    side: ModuleType, case: CubeCase, cube: Cube, directions: Tensor, mode: str
) -> tuple[Tensor, float]:
    """(K,) by a backward pass of ``side`` along the directions, and its value of the loss."""
    theta = case.theta(cube)
    leaf = getattr(theta, case.tensor).clone().requires_grad_()
    loss = cube.loss(side.cube_poses(cube, replace(theta, **{case.tensor: leaf}), mode)).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return (gradient * directions).flatten(1).sum(1) if leaf.ndim > 1 else gradient, float(
        loss.detach()
    )


def cube_rows(theirs: ModuleType, ours: ModuleType, count: int) -> list[Row]:
    """Gradients of an outer loss of a solved pose graph, against finite differences."""
    rows: list[Row] = []
    for case in CUBES:
        cube = case.cube()
        directions = case.directions(case.theta(cube), count)
        truth = true_slopes(case, cube, directions)
        cells: list[str] = []
        figures: dict[str, Any] = {"directions": len(truth)}
        for key, side in (("theirs", theirs), ("ours", ours)):
            told: list[str] = []
            for mode in side.ADJOINTS:
                got, value = cube_slopes(side, case, cube, directions, mode)
                wrong = float((got - truth).norm() / truth.norm())
                told.append(f"{mode} {wrong:.1e}")
                figures[f"{key}, {mode}"] = {"error": wrong, "loss": value}
            cells.append("; ".join(told))
        question = f"cube of 64 poses, gradient by the {case.name}: relative error"
        rows.append(Row(question, *cells, "0", figures))
    return rows


def all_rows(theirs: ModuleType, ours: ModuleType, directions: int) -> list[Row]:
    """The table, from two modules that answer the same questions."""
    return [
        *rosenbrock_rows(theirs, ours),
        *verdict_rows(theirs, ours),
        *quartic_rows(theirs, ours),
        *cube_rows(theirs, ours, directions),
        *small_angle_rows(theirs, ours),
        *moving_frame_rows(theirs, ours),
        *sample_rows(theirs, ours),
    ]


def markdown(rows: Sequence[Row], theirs: str, ours: str) -> str:
    """The table for people."""
    lines = [f"| | {theirs} | {ours} | truth |", "|---|---|---|---|"]
    lines += [f"| {r.question} | {r.theirs} | {r.ours} | {r.truth} |" for r in rows]
    return "\n".join(lines)


def finite(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(
    arguments: Sequence[str] | None = None,
    load: Callable[[str], ModuleType] = importlib.import_module,
) -> int:
    """Prints the table; 2 where Theseus is not installed."""
    parser = argparse.ArgumentParser(description="Theseus and this library side by side")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    parser.add_argument("--directions", type=int, default=24, help="of finite differences")
    options = parser.parse_args(arguments)
    try:
        theirs = load("benchmarks.side_theseus")
    except ImportError as missing:
        print(MISSING.format(why=missing), file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    rows = all_rows(theirs, side_dnls, options.directions)
    print(markdown(rows, theirs.NAME, side_dnls.NAME))
    if options.json:
        print(json.dumps({row.question: finite(row.figures) for row in rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
