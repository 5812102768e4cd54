"""Odometry, absolute and differential, by each covariance policy: errors are what is claimed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from dnls_ros.io.convert import covariance_from_ros
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.measurements import OdometryMeasurement
from dnls_ros.window.parameters import load_parameters

SECOND = 1_000_000_000
T0 = 1_000 * SECOND
RUNS, COUNT, RATE = 12, 11, 20
TWIST = np.array([0.8, 0.1, 0.6])
"""True forward and lateral speed [m/s] and yaw rate [rad/s]."""
AXES = [0, 1, 5]
CLAIM = np.array([[4.0, 1.0, 0.2], [1.0, 1.0, 0.1], [0.2, 0.1, 2.0]])
"""Shape of the covariances: neither round nor aligned."""


def step(pose: np.ndarray, twist: np.ndarray, seconds: float) -> np.ndarray:
    """A planar pose (x, y, yaw) after a constant twist."""
    turn = twist[2] * seconds
    half = np.sinc(turn / 2 / np.pi) * seconds
    cos, sin = np.cos(pose[2] + turn / 2), np.sin(pose[2] + turn / 2)
    vx, vy = twist[:2] * half
    return pose + np.array([cos * vx - sin * vy, sin * vx + cos * vy, turn])


def spatial(planar: np.ndarray) -> np.ndarray:
    x, y, yaw = planar
    return np.array([x, y, 0, 0, 0, np.sin(yaw / 2), np.cos(yaw / 2)])


def six(covariance: np.ndarray) -> np.ndarray:
    full = 1e-6 * np.eye(6)
    full[np.ix_(AXES, AXES)] = covariance
    return full


def measured(
    stamp: int, pose: np.ndarray, pose_claim: np.ndarray, twist_claim: np.ndarray
) -> OdometryMeasurement:
    """As the adapter makes it: the pose's covariance turned from fixed axes into the tangent."""
    here = spatial(pose)
    return OdometryMeasurement(
        sensor="odom",
        stamp=stamp,
        frame="map",
        pose=here,
        covariance=covariance_from_ros(six(pose_claim), here),
        child_frame="base_link",
        twist=np.zeros(6),
        twist_covariance=six(twist_claim),
    )


def configuration(differential: bool, **noise: Any) -> Any:
    block = {"type": "odometry", "topic": "odom", "differential": differential, **noise}
    init = {"mode": "params", "sigma": [1e-6] * 3} if differential else {}
    track = {"child_frame": "base_link", "motion": "none", "init": init}
    return load_parameters(
        {
            "world_frame": "map",
            "deterministic": True,
            "tracks": ["robot"],
            "track": {"robot": track},
            "sensors": ["odom"],
            "sensor": {"odom": block},
            "window": {"duration": 10.0},
        }
    )


def normalized_error(config: Any, fed: list[OdometryMeasurement], truth: np.ndarray) -> float:
    """ξᵀ Σ⁻¹ ξ of the newest state, ξ in the axes of the body."""
    estimator = Estimator(config)
    for m in fed:
        assert estimator.feed(m) is None
    result = estimator.step(fed[-1].stamp)
    assert result is not None
    estimate = result.tracks["robot"]
    pose = estimate.poses[-1]
    error = np.array([*pose[:2], 2 * np.arctan2(pose[5], pose[6])]) - truth
    cos, sin = np.cos(truth[2]), np.sin(truth[2])
    xi = np.array([cos * error[0] + sin * error[1], cos * error[1] - sin * error[0], error[2]])
    covariance = estimate.covariance[np.ix_(AXES, AXES)]
    return float(xi @ np.linalg.solve(covariance, xi))


def run(
    differential: bool, actual: np.ndarray, claim: np.ndarray, seed: int, config: Any
) -> float:
    """One drive; ``actual`` is the noise of each twist, or of each pose in fixed axes."""
    rng = np.random.default_rng(seed)
    draws = rng.multivariate_normal(np.zeros(3), actual, COUNT)
    truth, odometry = np.zeros(3), np.zeros(3)
    fed = []
    for k in range(COUNT):
        if k:
            truth = step(truth, TWIST, 1 / RATE)
            odometry = step(odometry, TWIST + draws[k], 1 / RATE)
        said = odometry if differential else truth + draws[k]
        fed.append(measured(T0 + k * SECOND // RATE, said, claim, claim))
    return normalized_error(config, fed, truth)


@pytest.mark.parametrize("differential", [False, True], ids=["absolute", "differential"])
@pytest.mark.parametrize("policy", ["message", "scaled", "fixed"])
def test_errors_are_as_large_as_the_policy_claims(differential: bool, policy: str) -> None:
    """The NEES over many drives lies in the interval of χ², and leaves it with wrong noise."""
    scale = 0.02**2 if differential else 0.01**2
    claim, noise = scale * CLAIM, {"covariance": policy}
    actual = claim
    if policy == "scaled":
        actual, noise["covariance_scale"] = 5.0 * claim, 5.0
    if policy == "fixed":  # one density per √s where differential, one deviation where not
        actual = np.diag(np.diag(claim))
        per_root = np.sqrt(1 / RATE) if differential else 1.0
        noise["sigma"] = (np.sqrt(np.diag(claim)) * per_root).tolist()
    config = configuration(differential, **noise)
    total = sum(run(differential, actual, claim, seed, config) for seed in range(RUNS))
    low, high = chi2.ppf([0.001, 0.999], 3 * RUNS)
    assert low < total < high, total / (3 * RUNS)
    wrong = sum(run(differential, 9.0 * actual, claim, seed, config) for seed in range(RUNS))
    assert wrong > 2 * high
