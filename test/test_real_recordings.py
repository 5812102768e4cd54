"""Public recordings through the estimator: a TurtleBot with AMCL, and UTIAS MR.CLAM 7."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dnls_ros.io.bag import read_bag
from dnls_ros.io.evaluation import EvaluationOptions, evaluate
from dnls_ros.io.messages import adapt
from dnls_ros.io.mrclam import convert_mrclam
from dnls_ros.io.replay import ReplayOptions, replay
from dnls_ros.io.trajectory import Trajectory, read_tum
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.measurements import Measurement, OdometryMeasurement, PoseMeasurement
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.rigid import compose, inverse

# AMCL's positions err slowly and together with the odometry's drift, and its headings are poor:
# from one pose to the next the positions are good to millimetres, the headings to 0.1 rad, and
# wheels hardly slip sideways.
NAV2 = {
    "world_frame": "map",
    "deterministic": True,
    "tracks": ["robot"],
    "sensors": ["odometry", "fix"],
    "track": {"robot": {"manifold": "se2", "child_frame": "base_link", "motion": "none"}},
    "window": {"max_gap": 2.0},
    "sensor": {
        "odometry": {
            "type": "odometry",
            "topic": "odom",
            "differential": True,
            "covariance": "fixed",
            "sigma": [0.03, 0.005, 0.1],
        },
        "fix": {
            "type": "pose",
            "topic": "amcl_pose",
            "covariance": "fixed",
            "sigma": [0.003, 0.003, 0.1],
        },
    },
}


def odometry_at(trajectory: Trajectory, stamp: int) -> np.ndarray:
    return trajectory.at(np.array([stamp]))[0]


def test_between_amcl_poses_the_causal_estimate_beats_odometry_chained_from_the_last_one(
    dnls_data,
) -> None:
    bag = dnls_data("rosbag/evo/nav2_turtlebot.mcap")
    names = {"/odom": "odometry", "/amcl_pose": "fix"}
    everything = [
        adapt(names[r.topic], r.type, r.message, k) for k, r in enumerate(read_bag(bag, names))
    ]
    measurements = [m for m in everything if isinstance(m, Measurement)]
    assert len(measurements) == 2639 + 135
    poses = [m for m in measurements if m.sensor == "fix" and isinstance(m, PoseMeasurement)]
    wheels = [m for m in measurements if isinstance(m, OdometryMeasurement)]
    odometry = Trajectory(np.array([m.stamp for m in wheels]), np.stack([m.pose for m in wheels]))
    held_out = {m.stamp for m in poses[::5]}
    estimator = Estimator(load_parameters(NAV2))
    last, ours, chained = None, [], []
    for m in sorted(measurements, key=lambda m: (m.stamp, m.sensor)):
        if isinstance(m, OdometryMeasurement):
            estimator.feed(m)
            continue
        assert isinstance(m, PoseMeasurement)
        estimator_ready = (
            last is not None
            and odometry.stamps[0] <= last.stamp
            and m.stamp <= odometry.stamps[-1]
        )
        if m.stamp in held_out:
            if estimator_ready and last is not None:
                estimator.step(m.stamp)
                answer = estimator.pose_at(m.stamp)
                assert answer.success, answer.message
                moved = compose(
                    inverse(odometry_at(odometry, last.stamp)), odometry_at(odometry, m.stamp)
                )
                ours.append(answer.pose[:2] - m.pose[:2])
                chained.append(compose(last.pose, moved)[:2] - m.pose[:2])
            continue
        estimator.feed(m)
        estimator.step(m.stamp)
        last = m
    rmse, baseline = (
        float(np.sqrt(np.square(e).sum(1).mean())) for e in (np.array(ours), np.array(chained))
    )
    print(
        f"held-out AMCL poses: {len(ours)}, ours {1e3 * rmse:.2f} mm, "
        f"odometry chained {1e3 * baseline:.2f} mm"
    )
    assert len(ours) == 26
    assert rmse < baseline


def mrclam_parameters(landmarks: Path) -> dict:
    return {
        "world_frame": "world",
        "deterministic": True,
        "tracks": ["robot"],
        "sensors": ["odometry", "camera", "start"],
        "track": {"robot": {"manifold": "se2", "child_frame": "base_link", "motion": "none"}},
        "window": {"duration": 2.0, "max_gap": 1.5},
        "solver": {"rate": 5.0},
        "sensor": {
            "odometry": {
                "type": "odometry",
                "topic": "odom",
                "differential": True,
                "throttle": 0.1,
                "covariance": "fixed",
                "sigma": [0.02, 0.005, 0.05],
            },
            "camera": {
                "type": "range_bearing",
                "topic": "range_bearing",
                "landmarks": {"map_file": str(landmarks)},
                "covariance": "fixed",
                "sigma": [0.1, 0.025],
                "robust": "cauchy",  # the tails are heavy
                "robust_scale": 1.5,
            },
            "start": {"type": "pose", "topic": "initial_pose"},
        },
    }


@pytest.mark.slow
def test_mrclam_7_robot_1_is_localized_by_ranges_and_bearings(dnls_data, tmp_path) -> None:
    summary = convert_mrclam(dnls_data("traj/mrclam/MRCLAM_Dataset7"), 1, tmp_path / "robot1")
    config = load_parameters(mrclam_parameters(tmp_path / "robot1_landmarks.yaml"))
    result = replay(tmp_path / "robot1", config, ReplayOptions())
    truth = read_tum(summary.truth)
    found = evaluate(result.tracks["robot"].causal(), truth, EvaluationOptions(interpolate=True))
    print(f"MR.CLAM 7 robot 1: ATE {found.translation.rmse:.4f} m over {result.span:.0f} s")
    assert result.estimator.counters["camera"].rejected == {}
    assert found.translation.rmse <= 0.18
