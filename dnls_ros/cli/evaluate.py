"""``dnls eval``: how far a trajectory is from a reference, and whether it got worse."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dnls_ros.cli.common import (
    Exit,
    Subparsers,
    add_command,
    add_figure_options,
    positive,
    print_json,
    print_table,
    use_machine,
    warn,
)
from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.evaluation import EvaluationOptions, evaluate
from dnls_ros.io.files import read_text
from dnls_ros.io.report import figures_table
from dnls_ros.io.trajectory import read_covariances, read_tum

GATED = (
    "ate_rmse_m",
    "are_rmse_rad",
    "yaw_rmse_rad",
    "rpe_translation_rmse_m",
    "rpe_rotation_rmse_rad",
)
"""The figures that a baseline bounds; smaller is better for all of them."""

PLANAR = (0, 1, 5)
"""Tangent axes that a body on a plane has: x, y, yaw."""


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(commands, "eval", run, "Compares a trajectory with a reference.")
    parser.add_argument("estimate", type=Path, help="TUM file")
    parser.add_argument("reference", type=Path, help="TUM file")
    parser.add_argument("--align", default="none", choices=("se3", "sim3", "yaw", "none"))
    parser.add_argument("--max-diff", type=positive, default=0.02, help="of paired stamps [s]")
    parser.add_argument("--rpe", type=positive, default=1.0, help="distance of the RPE")
    parser.add_argument(
        "--rpe-unit", default="s", choices=("f", "s", "m"), help="of that distance"
    )
    parser.add_argument("--cov", type=Path, help="covariances of the estimate, for the NEES")
    parser.add_argument("--planar", action="store_true", help="NEES of x, y and yaw only")
    parser.add_argument("--interpolate", action="store_true", help="the reference, not nearest")
    parser.add_argument("--plot", type=Path, help="write a picture (PNG)")
    parser.add_argument("--baseline", type=Path, help="JSON of an earlier run to compare with")
    parser.add_argument(
        "--threshold", type=percentage, default=0.1, help="tolerated growth (default 10%%)"
    )
    add_figure_options(parser)


def percentage(text: str) -> float:
    """``10%`` or ``0.1`` as a share."""
    value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, expected a share such as 10%")
    return value


def run(options: argparse.Namespace) -> int:
    """Evaluates and prints; 1 if a figure is worse than the baseline's by more than allowed."""
    use_machine(options)
    estimate, reference = read_tum(options.estimate), read_tum(options.reference)
    if options.cov is not None:
        estimate = read_covariances(options.cov, estimate)
    chosen = EvaluationOptions(
        max_diff=options.max_diff,
        align=options.align,
        rpe_delta=options.rpe,
        rpe_unit=options.rpe_unit,
        interpolate=options.interpolate,
        nees_axes=PLANAR if options.planar else None,
    )
    baseline = _read_baseline(options.baseline) if options.baseline else {}
    evaluation = evaluate(estimate, reference, chosen)
    table = figures_table({options.estimate.name: evaluation})
    print_table(table.columns, table.rows)
    if options.plot is not None:
        from dnls_ros.io.plots import overview, write_png

        write_png(options.plot, overview({options.estimate.name: evaluation}, "Evaluation"))
    figures = evaluation.as_dict()
    failures = _regressions(figures, baseline, options.threshold)
    for failure in failures:
        warn(failure)
    print_json({**figures, "failures": failures}, options.json)
    return Exit.BELOW_GATE if failures else Exit.OK


def _read_baseline(path: Path) -> dict[str, Any]:
    """The last line that is a JSON object: a file of figures, or what ``--json`` printed."""
    text = read_text(path)
    for part in (text, *reversed(text.strip().splitlines())):
        try:
            content = json.loads(part)
        except json.JSONDecodeError:
            continue
        if isinstance(content, dict) and set(GATED) & set(content):
            return content
    raise UnreadableInputError(f"baseline {path} is no JSON object with any of {', '.join(GATED)}")


def _regressions(figures: dict[str, Any], baseline: dict[str, Any], threshold: float) -> list[str]:
    """A sentence for each figure that grew too much."""
    found: list[str] = []
    for name in GATED:
        new, old = figures.get(name), baseline.get(name)
        if new is None or not isinstance(old, int | float):
            continue
        if new > old * (1.0 + threshold):
            found.append(f"{name} is {new:.4g}, was {old:.4g}: more than {threshold:.0%} worse")
    return found
