"""Recordings of robots with inertial units: what the gyro is worth. Prints the figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnls_ros.io.alignment import align
from dnls_ros.io.bag import read_bag
from dnls_ros.io.convert import stamp_to_ns
from dnls_ros.io.replay import ReplayResult, replay
from dnls_ros.window.parameters import load_parameters

pytestmark = pytest.mark.slow

EARTH = 6_378_137.0  # m, equatorial radius of WGS 84
SQUARED_ECCENTRICITY = 6.694379990e-3


def run(
    bag: Path, sensors: dict[str, Any], rate: float, child_frame: str = "base_link"
) -> ReplayResult:
    """A robot on a plane that starts at the origin, by motion alone."""
    robot = {"child_frame": child_frame, "motion": "none", "init": {"mode": "params"}}
    config = load_parameters(
        {
            "world_frame": "map",
            "deterministic": True,
            "tracks": ["robot"],
            "track": {"robot": robot},
            "sensors": list(sensors),
            "sensor": sensors,
            "window": {"duration": 1.0},
            "solver": {"rate": rate},
        }
    )
    result = replay(bag, config)
    for name, counters in result.estimator.counters.items():
        assert counters.balanced, name
        assert counters.accepted > 0.99 * counters.received, (name, counters)
    return result


def loop_error(result: ReplayResult) -> float:
    """Distance between start and end [m]."""
    places = result.tracks["robot"].causal().poses[:, :3]
    return float(np.linalg.norm(places[-1] - places[0]))


def test_turtlebot3_ends_where_it_started_with_and_without_its_gyro(
    dnls_data: Callable[[str], Path],
) -> None:
    """A loop of 25 m in a simulator whose odometry hardly drifts: the gyro must not spoil it."""
    bag = dnls_data("rosbag/fuse/turtlebot3.bag")
    odometry = {"type": "odometry", "topic": "odom", "differential": True}
    gyro = {"type": "imu", "topic": "imu", "axes": ["vyaw"], "extrinsic": [0.0] * 6}
    frame = "base_footprint"
    alone = loop_error(run(bag, {"odometry": odometry}, 10.0, frame))
    both = loop_error(run(bag, {"odometry": odometry, "imu": gyro}, 10.0, frame))
    print(f"\nturtlebot3: start to end {alone:.3f} m by odometry, {both:.3f} m with the gyro")
    assert both < 0.1
    assert abs(both - alone) < 0.01


def local_places(bag: Path) -> tuple[np.ndarray, np.ndarray]:
    """Stamps [ns] and east, north (n, 2) [m] about the first fix."""
    fixes = [r.message for r in read_bag(bag, ["/fix"])]
    stamps = [stamp_to_ns(m.header.stamp.sec, m.header.stamp.nanosec) for m in fixes]
    angles = np.radians([[m.longitude, m.latitude] for m in fixes])
    valid = np.array([m.status.status >= 0 for m in fixes])
    latitude = angles[0, 1]
    w = 1 - SQUARED_ECCENTRICITY * np.sin(latitude) ** 2
    east = EARTH * np.cos(latitude) / np.sqrt(w)
    north = EARTH * (1 - SQUARED_ECCENTRICITY) / w**1.5
    places = (angles - angles[0]) * [east, north]
    return np.array(stamps)[valid], places[valid]


def position_error(result: ReplayResult, fixes: tuple[np.ndarray, np.ndarray]) -> float:
    """RMSE against the fixes after a rigid alignment in the plane [m]."""
    causal = result.tracks["robot"].causal()
    seconds, places = (causal.stamps - fixes[0][0]) * 1e-9, causal.poses[:, :3]
    at = (fixes[0] - fixes[0][0]) * 1e-9
    inside = (at >= seconds[0]) & (at <= seconds[-1])
    mine = np.column_stack([np.interp(at[inside], seconds, axis) for axis in places.T])
    theirs = np.column_stack([fixes[1][inside], np.zeros(inside.sum())])
    by = align(mine, theirs, "yaw")
    error = mine @ by.rotation.T + by.translation - theirs
    return float(np.sqrt(np.mean(np.sum(error[:, :2] ** 2, 1))))


def test_the_husky_with_its_unit_on_its_side_is_where_the_fixes_are(
    dnls_data: Callable[[str], Path],
) -> None:
    """The mount is that of the recording's own launch file: turned about z and x."""
    bag = dnls_data("rosbag/robot_localization/test1.bag")
    odometry = {"type": "odometry", "topic": "husky_velocity_controller/odom"}
    odometry |= {"differential": True, "covariance": "message"}
    mount = [0.0, -0.3, 0.52, np.pi / 2, 0.0, -np.pi / 2]
    gyro = {"type": "imu", "topic": "imu/data", "axes": ["vyaw"], "extrinsic": mount}
    fixes = local_places(bag)
    alone = position_error(run(bag, {"odometry": odometry}, 5.0), fixes)
    both = position_error(run(bag, {"odometry": odometry, "imu": gyro}, 5.0), fixes)
    print(
        f"\nhusky: {alone:.2f} m by odometry, {both:.2f} m with the gyro (RMSE against the fixes)"
    )
    assert both < 0.5 * alone
