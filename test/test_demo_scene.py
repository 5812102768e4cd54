"""The demo's scene over ten seeds: accuracy against odometry and full smoothing; consistency."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from dnls_ros.io.consistency import pool
from dnls_ros.io.evaluation import Evaluation, EvaluationOptions, evaluate
from dnls_ros.io.recording import odometry_trajectory, truth_trajectory, write_recording
from dnls_ros.io.replay import ReplayOptions, replay
from dnls_ros.io.scene import load_scene
from dnls_ros.io.simulate import simulate
from dnls_ros.io.trajectory import Trajectory
from dnls_ros.window.parameters import load_parameters

CONFIG = Path(__file__).resolve().parents[1] / "config" / "localization_2d.yaml"
PLANAR = EvaluationOptions(interpolate=True, nees_axes=(0, 1, 5))


@dataclass(frozen=True)
class Run:
    """One seed: odometry alone, the causal estimate, the window's last word, full smoothing."""

    odometry: Evaluation
    causal: Evaluation
    settled: Evaluation
    full: Evaluation


def run(seed: int, seconds: float, folder: Path) -> Run:
    recording = simulate(seed, seconds, load_scene())
    files = write_recording(recording, folder / str(seed))
    config = replace(load_parameters(CONFIG), deterministic=True)
    result = replay(files.bag, config, ReplayOptions(full=True))
    smoothed = result.estimator.smooth()
    truth = truth_trajectory(recording)
    return Run(
        evaluate(odometry_trajectory(recording), truth, PLANAR),
        evaluate(result.tracks["robot"].causal(), truth, PLANAR),
        evaluate(result.smoothed("robot"), truth, PLANAR),
        evaluate(Trajectory(smoothed.stamps, smoothed.poses), truth, PLANAR),
    )


def check(one: Run) -> None:
    assert one.causal.translation.rmse <= 0.2 * one.odometry.translation.rmse
    assert one.settled.translation.rmse <= 1.2 * one.full.translation.rmse


def test_twelve_seconds_of_the_demo_stay_far_below_odometry_and_near_full_smoothing(
    tmp_path,
) -> None:
    check(run(0, 12.0, tmp_path))


@pytest.mark.slow
def test_over_ten_seeds_accuracy_holds_and_the_covariance_is_honest(tmp_path) -> None:
    runs = [run(seed, 60.0, tmp_path) for seed in range(10)]
    for seed, one in enumerate(runs):
        nees = one.causal.consistency
        assert nees is not None
        print(
            f"seed {seed}: odometry {1e3 * one.odometry.translation.rmse:.0f} mm, causal "
            f"{1e3 * one.causal.translation.rmse:.2f} mm, "
            f"settled {1e3 * one.settled.translation.rmse:.2f} mm, "
            f"full {1e3 * one.full.translation.rmse:.2f} mm, NEES {nees.mean:.3f} in "
            f"[{nees.interval[0]:.3f}, {nees.interval[1]:.3f}]"
        )
    for one in runs:
        check(one)
    found = [one.causal.consistency for one in runs if one.causal.consistency is not None]
    together = pool(found)
    inside = [c.interval[0] <= c.mean <= c.interval[1] for c in found]
    print(
        f"pooled NEES {together.mean:.3f} in [{together.interval[0]:.3f}, "
        f"{together.interval[1]:.3f}]; {sum(inside)} of 10 inside"
    )
    assert together.interval[0] <= together.mean <= together.interval[1]
    assert (
        np.mean(inside) >= 0.8
    )  # of ten 95 % intervals, two may miss by chance (p = 0.01 for more)
