"""``dnls demo``: a simulated recording, the replay, and the real node on the same recording.

Everything is made from a seed and the committed scene; the table, the picture and the page say how
far the estimates are from the truth, and how far the live node is from the replay.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dnls_ros.cli.common import (
    Exit,
    Subparsers,
    add_command,
    add_figure_options,
    positive,
    print_json,
    print_table,
    progress,
    use_machine,
    warn,
)
from dnls_ros.cli.demo_live import LiveFigures, compare_live
from dnls_ros.cli.evaluate import PLANAR
from dnls_ros.cli.replay import speed
from dnls_ros.errors import DnlsError
from dnls_ros.io.convert import planar_covariance, spatial_covariance
from dnls_ros.io.evaluation import Evaluation, EvaluationOptions, evaluate
from dnls_ros.io.files import atomic_path, read_yaml, write_text
from dnls_ros.io.recording import (
    RecordingFiles,
    odometry_trajectory,
    truth_trajectory,
    write_recording,
)
from dnls_ros.io.replay import ReplayOptions, replay
from dnls_ros.io.report import Picture, Table, figures_table, parameters_table, write_report
from dnls_ros.io.results_files import ReplaySummary, TrackResult, summarize, write_results
from dnls_ros.io.scene import load_scene
from dnls_ros.io.sim_messages import recording_records
from dnls_ros.io.simulate import Recording, simulate
from dnls_ros.io.trajectory import Trajectory, write_tum
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.files import share_directories
from dnls_ros.window.parameter_file import write_yaml
from dnls_ros.window.parameters import DEFAULT_NODE, flat, load_parameters

PARAMETERS = "localization_2d.yaml"
OF_ODOMETRY, OF_FULL = 0.2, 1.2
"""Largest ATE of the fixed-lag estimate, relative to odometry alone and to full smoothing."""
LIVE_RATES = (0.7, 2.0)
"""Slowest and fastest playing to the live node, times real time, where none is asked for."""

ODOMETRY, CAUSAL, LAGGED, FULL = "odometry alone", "newest state", "fixed lag", "full smoothing"


def add_to(commands: Subparsers) -> None:
    """Adds the command."""
    parser = add_command(
        commands, "demo", run, "Simulates, replays, runs the live node, and writes a report."
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="default out/demo")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--duration", type=positive, default=60.0, help="[s] (default 60)")
    parser.add_argument("--no-live", action="store_true", help="leave the live node out")
    parser.add_argument(
        "--live-rate",
        type=positive,
        help="live, times real time (default: half of what the replay reached, 0.7 to 2)",
    )
    add_figure_options(parser)


@dataclass(frozen=True, eq=False)
class Run:
    """What the demo has so far; ``pace`` is how fast the replay was, in times real time."""

    recording: Recording
    files: RecordingFiles
    params: Path
    config: EstimatorConfig
    summary: ReplaySummary
    evaluations: Mapping[str, Evaluation]
    pace: float


def run(options: argparse.Namespace) -> int:
    """Runs the demo; 1 if an estimate is worse than promised."""
    began = time.monotonic()
    use_machine(options)
    done = _simulate_and_replay(options)
    parts = _report_parts(done)
    print()
    table = figures_table(done.evaluations)
    print_table(["against the truth", *table.columns[1:]], table.rows)
    print()
    print_table(["", ""], _replay_rows(done))
    _write_report(options, done, parts)
    live = None if options.no_live else _live(options, done)
    if live is not None:
        print()
        print_table(["", ""], live.rows())
        _write_report(options, done, [Table("Live node", ["", ""], live.rows()), *parts])
    failures = _failures(done, live)
    for failure in failures:
        warn(failure)
    print(f"\n{options.out}/report.html, after {time.monotonic() - began:.0f} s")
    print_json(_figures(done, live, failures), options.json)
    return Exit.BELOW_GATE if failures else Exit.OK


def _simulate_and_replay(options: argparse.Namespace) -> Run:
    scene, params = load_scene(), _write_parameters(options.out / PARAMETERS, options.device)
    config = load_parameters(params)
    recording = simulate(options.seed, options.duration, scene)
    records = recording_records(recording)
    print(f"{len(records)} messages of a robot that drives {options.duration:g} s, see {params}")
    with progress("writing the recording") as advance:
        files = write_recording(
            recording,
            options.out / "recording",
            records,
            True,
            lambda count: advance(count / len(records)),
        )
        advance(1.0)
    began = time.monotonic()
    with progress("replaying it") as advance:
        result = replay(files.bag, config, ReplayOptions(full=True), advance)
    pace = options.duration / (time.monotonic() - began)
    summary = summarize(result, full=True)
    write_results(summary, options.out / "replay")
    write_tum(options.out / "trajectory.tum", _track(summary).causal)
    evaluations = _evaluate(recording, summary)
    return Run(recording, files, params, config, summary, evaluations, pace)


def _write_parameters(path: Path, device: str) -> Path:
    """The demo's parameters for replay and node: one thread, and no time budget.

    A time budget would make the live result depend on the machine's load, and a second thread
    waits for its turn more than it helps with windows of this size.
    """
    content = read_yaml(parameter_file())
    changes = {"deterministic": True, "num_threads": 1, "device": device or "auto"}
    content[DEFAULT_NODE]["ros__parameters"] |= changes
    write_text(path, write_yaml(content, sort_keys=False, default_flow_style=None))
    return path


def parameter_file() -> Path:
    """The demo's parameter file, in the checkout or installed."""
    for share in share_directories():
        if (path := share / "config" / PARAMETERS).is_file():
            return path
    raise DnlsError(f"config/{PARAMETERS} was not found; install the package again")


def _track(summary: ReplaySummary) -> TrackResult:
    return next(iter(summary.tracks.values()))


def _evaluate(recording: Recording, summary: ReplaySummary) -> dict[str, Evaluation]:
    chosen = EvaluationOptions(interpolate=True, nees_axes=PLANAR)
    truth, track = truth_trajectory(recording), _track(summary)
    assert track.full is not None
    estimates = {
        ODOMETRY: odometry_trajectory(recording),
        CAUSAL: _planar(track.causal),
        LAGGED: track.smoothed,
        FULL: track.full,
    }
    return {name: evaluate(one, truth, chosen) for name, one in estimates.items()}


def _planar(trajectory: Trajectory) -> Trajectory:
    """Without the nominal variances that a robot on a plane has off the plane."""
    assert trajectory.covariances is not None
    covariances = spatial_covariance(planar_covariance(trajectory.covariances))
    return replace(trajectory, covariances=covariances)


def _replay_rows(done: Run) -> list[list[str]]:
    figures = speed(done.summary.result)
    p50, p95 = 1e3 * figures["step_p50_s"], 1e3 * figures["step_p95_s"]
    pixels = done.summary.reprojection
    rows = [
        ["replay, times real time", f"{figures['real_time_factor']:.1f}"],
        ["solves", str(figures["steps"])],
        ["time of a solve, p50 / p95 [ms]", f"{p50:.1f} / {p95:.1f}"],
    ]
    if pixels is not None:
        text = f"{pixels.median:.2f} / {pixels.p90:.2f} ({pixels.corners} corners)"
        rows.append(["reprojection, median / p90 [px]", text])
    for name, c in done.summary.result.estimator.counters.items():
        text = f"{c.accepted} of {c.received} accepted"
        rows.append([f"sensor {name}", text + (f", {c.waiting} waiting" if c.waiting else "")])
    return rows


def _report_parts(done: Run) -> list[Table | Picture]:
    from dnls_ros.io.plots import overview, png

    shown = {ODOMETRY: done.evaluations[ODOMETRY], "estimate": done.evaluations[CAUSAL]}
    tags = np.array([tag.position for tag in done.recording.scene.tags])
    picture = png(overview(shown, f"Simulated robot, seed {done.recording.seed}", tags))
    parameters = {
        name: value for name, value in flat(done.config).items() if value not in ("", [])
    }
    return [
        figures_table(done.evaluations, "Against the truth"),
        Picture("The path from above; errors over time with their 3σ bands; NEES.", picture),
        Table("Replay", ["", ""], _replay_rows(done)),
        parameters_table(parameters),
    ]


def _write_report(options: argparse.Namespace, done: Run, parts: list[Table | Picture]) -> None:
    picture = next(part for part in parts if isinstance(part, Picture))
    with atomic_path(options.out / "trajectory.png") as temporary:
        temporary.write_bytes(picture.png)
    text = (
        f"A simulated robot drives {done.recording.duration:g} s (seed {done.recording.seed}): "
        "odometry with bias and slip, a camera that sees tags, a poor absolute pose. 'Newest "
        "state' is what the estimator says at the time, 'fixed lag' what it says when a state "
        "leaves the window, 'full smoothing' the solution over the whole recording."
    )
    write_report(options.out / "report.html", "dnls_ros demonstration", text, parts)


def _live(options: argparse.Namespace, done: Run) -> LiveFigures | None:
    """The live node on the same recording; None, with a sentence, where ROS is absent."""
    causal = _track(done.summary).causal
    # The node shares the machine with the player and the middleware: leave it room.
    slow, fast = LIVE_RATES
    rate = options.live_rate or min(fast, max(slow, done.pace / 2.0))
    with progress("live node, real DDS") as advance:
        found = compare_live(done.files.bag, done.params, causal, rate, options.duration, advance)
    if isinstance(found, str):
        print(f"\nThe live part is left out: {found}")
        return None
    write_tum(options.out / "live.tum", found.trajectory)
    return found


def _failures(done: Run, live: LiveFigures | None) -> list[str]:
    """A sentence for each promise that was not kept."""
    ate = {name: one.translation.rmse for name, one in done.evaluations.items()}
    bounds = ((ODOMETRY, OF_ODOMETRY), (FULL, OF_FULL))
    found = [
        f"ATE of the {LAGGED} estimate is {ate[LAGGED]:.4f} m, more than {share:g} × that of "
        f"{name}, {ate[name]:.4f} m"
        for name, share in bounds
        if ate[LAGGED] > share * ate[name]
    ]
    return found + ([] if live is None else live.failures())


def _figures(done: Run, live: LiveFigures | None, failures: list[str]) -> dict[str, Any]:
    return {
        "seed": done.recording.seed,
        "evaluations": {name: one.as_dict() for name, one in done.evaluations.items()},
        "replay": speed(done.summary.result),
        "live": None if live is None else live.as_dict(),
        "failures": failures,
    }
