"""The simulated robot's true motion, known at any time, and the clock of a recording."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from dnls_ros.io.scene import Array, Route

Stamps = NDArray[np.int64]

# Any fixed time: recordings must not depend on the clock [ns].
START_STAMP = 1_700_000_000_000_000_000


@dataclass(frozen=True, eq=False)
class Lap:
    """The true motion: distance along a closed curve over time, and the pose from distance."""

    curve: CubicSpline
    parameter_of_distance: CubicSpline
    length: float
    route: Route
    offset: float

    def at(self, seconds: Array) -> Array:
        """(x, y, yaw) at the given times (n,) [s] since the start, yaw in (-π, π]."""
        route = self.route
        rate = 2 * np.pi / route.speed_period
        ripple = route.speed_variation / rate * (1 - np.cos(rate * seconds))
        distance = self.offset + route.speed * (seconds + ripple)
        parameter = self.parameter_of_distance(np.mod(distance, self.length))
        position, tangent = self.curve(parameter), self.curve(parameter, 1)
        return np.column_stack([position, np.arctan2(tangent[:, 1], tangent[:, 0])])


def make_lap(route: Route, start: float) -> Lap:
    """The motion along a route that starts at the fraction ``start`` of its length."""
    points = np.array([*route.waypoints, route.waypoints[0]])
    curve = CubicSpline(np.arange(len(points)), points, bc_type="periodic")
    parameter = np.linspace(0.0, len(points) - 1.0, 200 * len(points))
    speed = np.linalg.norm(curve(parameter, 1), axis=1)
    distance = CubicSpline(parameter, speed).antiderivative()(parameter)
    length = float(distance[-1])
    return Lap(curve, CubicSpline(distance, parameter), length, route, start * length)


def times(duration: float, rate: float, phase: float = 0.0) -> Array:
    """Regular instants from ``phase`` to at most ``duration`` [s]."""
    return phase + np.arange(int(np.floor((duration - phase) * rate + 1e-9)) + 1) / rate


def to_stamps(seconds: Array) -> Stamps:
    """Seconds since the start as stamps [ns]."""
    return START_STAMP + np.round(seconds * 1e9).astype(np.int64)


def to_seconds(stamps: Stamps) -> Array:
    """Stamps [ns] as seconds since the start."""
    return np.multiply(stamps - START_STAMP, 1e-9, dtype=np.float64)


def wrap(angle: Array) -> Array:
    """The angle in (-π, π] [rad]."""
    return -np.mod(np.pi - angle, 2 * np.pi) + np.pi
