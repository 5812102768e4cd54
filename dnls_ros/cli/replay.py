"""``dnls replay``: a recording through the estimator, with files, figures and gates."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dnls_ros.cli.common import (
    Exit,
    Subparsers,
    add_command,
    add_fault_option,
    add_figure_options,
    add_params_option,
    not_negative,
    parse_faults,
    positive,
    print_json,
    print_table,
    progress,
    read_config,
    share,
    use_machine,
    warn,
)
from dnls_ros.cli.evaluate import PLANAR
from dnls_ros.io.evaluation import Evaluation, EvaluationOptions, evaluate
from dnls_ros.io.replay import ReplayOptions, ReplayResult, reasons, replay
from dnls_ros.io.results_files import ReplaySummary, summarize, write_results
from dnls_ros.io.trajectory import Trajectory, read_tum

Rows = list[list[str]]


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(
        commands, "replay", run, "Replays a recording through the estimator in lockstep."
    )
    parser.add_argument("bag", type=Path, help="rosbag2 folder, .mcap, .db3 or ROS 1 .bag")
    add_params_option(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--rate", type=not_negative, default=0.0, help="times real time; 0: as fast as possible"
    )
    parser.add_argument("--start", type=not_negative, default=0.0, help="skip so much [s]")
    parser.add_argument("--duration", type=positive, help="stop after so much [s]")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--full", action="store_true", help="full smoothing at the end")
    parser.add_argument("--bag-out", action="store_true", help="write out.mcap too")
    parser.add_argument("--check", type=Path, metavar="REF.tum", help="compare with a trajectory")
    parser.add_argument("--tol-ate", type=positive, help="largest ATE RMSE [m]; needs --check")
    parser.add_argument("--tol-are", type=positive, help="largest ARE RMSE [rad]; needs --check")
    parser.add_argument("--align", default="none", choices=("none", "yaw", "se3", "sim3"))
    parser.add_argument("--max-diff", type=positive, default=0.02, help="of paired stamps [s]")
    parser.add_argument(
        "--min-coverage", type=share, default=0.95, help="of the time by estimates (default 0.95)"
    )
    add_fault_option(parser)
    add_figure_options(parser)


def run(options: argparse.Namespace) -> int:
    """Replays, writes, prints; 1 if a gate is missed."""
    use_machine(options)
    config = replace(read_config(options.params), deterministic=True)
    if options.device:
        config = replace(config, device=options.device)
    reference = read_tum(options.check) if options.check else None
    chosen = ReplayOptions(
        start=options.start,
        duration=options.duration,
        full=options.full,
        faults=parse_faults(options.fault),
        seed=options.seed,
        rate=options.rate,
    )
    with progress("replaying") as advance:
        result = replay(options.bag, config, chosen, advance)
    for topic in result.absent:
        warn(f"recording {options.bag} has no topic {topic}")
    summary = summarize(result, options.full)
    status = write_results(summary, options.out, options.bag_out)
    checks = _compare(summary, reference, options)
    _print(summary, checks)
    failures = _failures(summary, checks, options)
    for failure in failures:
        warn(failure)
    figures = {"replay": speed(result), "check": {n: e.as_dict() for n, e in checks.items()}}
    print_json({**status, **figures, "failures": failures}, options.json)
    return Exit.BELOW_GATE if failures else Exit.OK


def speed(result: ReplayResult) -> dict[str, Any]:
    """How fast a replay was: factor to real time, and the solves' times [s]."""
    solves = np.array([sum(step.seconds.values()) for step in result.steps])
    p50, p95 = np.quantile(solves, [0.5, 0.95]).tolist() if len(solves) else (None, None)
    return {
        "steps": len(result.steps),
        "span_s": result.span,
        "seconds": result.seconds,
        "real_time_factor": result.span / max(result.seconds, 1e-9),
        "step_p50_s": p50,
        "step_p95_s": p95,
    }


def _compare(
    summary: ReplaySummary, reference: Trajectory | None, options: argparse.Namespace
) -> dict[str, Evaluation]:
    """The first track's estimates against the reference."""
    name, track = next(iter(summary.tracks.items()))
    if reference is None or not len(track.causal):
        return {}
    planar = summary.result.estimator.config.track(name).manifold == "se2"
    chosen = EvaluationOptions(
        max_diff=options.max_diff,
        align=options.align,
        interpolate=True,
        nees_axes=PLANAR if planar else None,
    )
    estimates = {name: track.causal, f"{name}, smoothed": track.smoothed}
    if track.full is not None:
        estimates[f"{name}, full"] = track.full
    return {key: evaluate(one, reference, chosen) for key, one in estimates.items()}


def _failures(
    summary: ReplaySummary, checks: Mapping[str, Evaluation], options: argparse.Namespace
) -> list[str]:
    """A sentence for each gate that is missed; the gates are for what TRACK.tum holds."""
    found: list[str] = []
    for name, track in summary.tracks.items():
        if not len(track.causal):
            found.append(f"track '{name}' was never started: no measurement says where it is")
        elif track.coverage < options.min_coverage:
            found.append(
                f"track '{name}': coverage {track.coverage:.3f} is below {options.min_coverage:g}"
            )
    if not checks:
        return found
    name = next(iter(summary.tracks))
    judged = checks.get(f"{name}, full", checks[name])
    gates = (
        ("ATE", judged.translation.rmse, options.tol_ate, "m"),
        ("ARE", judged.rotation.rmse, options.tol_are, "rad"),
    )
    for figure, value, limit, unit in gates:
        if limit is not None and value > limit:
            found.append(f"track '{name}': {figure} {value:.4g} {unit} is above {limit:g} {unit}")
    return found


def _print(summary: ReplaySummary, checks: Mapping[str, Evaluation]) -> None:
    result = summary.result
    figures = speed(result)
    rows: Rows = [
        ["solves", str(figures["steps"])],
        ["times real time", f"{figures['real_time_factor']:.1f}"],
    ]
    if result.steps:
        p50, p95 = 1e3 * figures["step_p50_s"], 1e3 * figures["step_p95_s"]
        rows.append(["time of a solve, p50 / p95 [ms]", f"{p50:.1f} / {p95:.1f}"])
    rows.append(["coverage", f"{100 * summary.coverage:.1f} %"])
    rows += [
        [f"rejected as {name}", str(n)] for name, n in sorted(reasons(result.settled).items())
    ]
    rows += [[f"{key}: ATE [m], yaw [mrad], NEES/dof", check_text(e)] for key, e in checks.items()]
    pixels = summary.reprojection
    if pixels is not None:
        text = f"{pixels.median:.3f}, {pixels.p90:.3f} of {pixels.corners}"
        rows.append(["reprojection of corners, median, p90 [px]", text])
    print_table(["", ""], rows)
    print()
    print_table(["sensor", "received", "accepted", "rejected", "waiting"], _sensor_rows(result))


def check_text(evaluation: Evaluation) -> str:
    """The figures of an evaluation, in short."""
    nees = evaluation.consistency
    parts = [f"{evaluation.translation.rmse:.4f}", f"{1e3 * evaluation.yaw.rmse:.2f}"]
    return ", ".join([*parts, "–" if nees is None else f"{nees.mean:.2f}"])


def _sensor_rows(result: ReplayResult) -> Rows:
    return [
        [name, *map(str, (c.received, c.accepted, sum(c.rejected.values()), c.waiting))]
        for name, c in result.estimator.counters.items()
    ]
