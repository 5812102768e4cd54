"""What the tests of the session share: a robot on an arc, its odometry and fixes, and a recorder.

Data are lists of (arrival [s], measurement); faults are functions on them. Stamps count from T0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dnls_ros.runtime.session import Session
from dnls_ros.runtime.types import EstimatorState, Event
from dnls_ros.window.ingress import Settled
from dnls_ros.window.measurements import (
    Measurement,
    OdometryMeasurement,
    PoseMeasurement,
    Reason,
)
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.results import StepResult
from dnls_ros.window.rigid import compose, inverse

SECOND = 1_000_000_000
T0 = 1_000 * SECOND
SPEED, TURN = 0.8, 0.3
NOISE = 0.03
LATENCY = 0.01

ODOMETRY = {
    "type": "odometry", "topic": "odom", "differential": True, "covariance": "fixed",
    "sigma": [0.02, 0.02, 0.02], "extrinsic": [0.0] * 6,
}  # fmt: skip
FIX = {"type": "pose", "topic": "fix", "extrinsic": [0.0] * 6}
GATED = {**FIX, "gate_probability": 0.999}
Data = list[tuple[float, Measurement]]


def pose2(x: float, y: float, yaw: float) -> np.ndarray:
    return np.array([x, y, 0, 0, 0, np.sin(yaw / 2), np.cos(yaw / 2)])


def truth(seconds: float) -> np.ndarray:
    angle, radius = TURN * seconds, SPEED / TURN
    return pose2(radius * np.sin(angle), radius * (1 - np.cos(angle)), angle)


def stamp_of(seconds: float) -> int:
    return T0 + round(seconds * 1e9)


def odometry(seconds: float, pose: np.ndarray | None = None, **changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "sensor": "odometry", "stamp": stamp_of(seconds), "frame": "odom",
        "pose": truth(seconds) if pose is None else pose, "covariance": np.zeros((6, 6)),
        "child_frame": "base_link", "twist": np.array([SPEED, 0, 0, 0, 0, TURN]),
        "twist_covariance": 1e-4 * np.eye(6),
    }  # fmt: skip
    return OdometryMeasurement(**(fields | changes))


def fix(seconds: float, pose: np.ndarray | None = None, **changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "sensor": "fix", "stamp": stamp_of(seconds), "frame": "map",
        "pose": truth(seconds) if pose is None else pose, "covariance": NOISE**2 * np.eye(6),
    }  # fmt: skip
    return PoseMeasurement(**(fields | changes))


def drive(
    start: float,
    end: float,
    *,
    seed: int = 0,
    where: Callable[[float], np.ndarray] = truth,
    shift: float = 0.0,
    fixes: float = 5.0,
) -> Data:
    """Odometry at 20 Hz and noisy fixes, in order of arrival.

    ``where`` says where the fixes see the robot; stamps and arrivals are moved by ``shift`` [s].
    """
    random, out = np.random.default_rng(seed), []
    for k in range(round((end - start) * 20)):
        t = start + k / 20
        out.append((t + shift + LATENCY, odometry(t + shift, truth(t))))
    for k in range(round((end - start) * fixes) if fixes else 0):
        t = start + 0.007 + k / fixes
        noisy = compose(where(t), pose2(*(NOISE * random.normal(size=3))))
        out.append((t + shift + LATENCY, fix(t + shift, noisy)))
    return sorted(out, key=lambda pair: pair[0])


def configuration(fixes: dict[str, Any] | None = None, **extra: Any) -> Any:
    track = {"manifold": "se2", "child_frame": "base_link", "motion": "none"}
    settings = {
        "world_frame": "map",
        "deterministic": True,
        "tracks": ["robot"],
        "sensors": ["odometry", "fix"],
        "track": {"robot": {**track, **extra.pop("track", {})}},
        "sensor": {"odometry": ODOMETRY, "fix": fixes or FIX},
        "window": {"duration": 1.0},
        "solver": {"rate": 10.0, "time_budget": 0.05},
        **extra,
    }
    return load_parameters(settings)


class Recorder:
    """A session, everything it said, and its invariant checked after every call."""

    def __init__(self, config: Any = None, **options: Any) -> None:
        self.session = Session(configuration() if config is None else config, **options)
        self.steps: list[StepResult] = []
        self.events: list[Event] = []
        self.settled: list[Settled] = []
        self.sent: Counter[str] = Counter()

    def collect(self) -> None:
        for output in self.session.take():
            kind = {StepResult: self.steps, Event: self.events}.get(type(output), self.settled)
            kind.append(output)  # pyright: ignore[reportArgumentType]

    def check(self) -> None:
        """received = accepted + Σ rejected + waiting, and received is what was sent."""
        for sensor in self.session.status().sensors:
            assert sensor.balanced, sensor
            assert sensor.received == self.sent[sensor.name], sensor

    def send(self, data: Iterable[tuple[float, Any]], clock: bool = True) -> Recorder:
        for arrival, item in data:
            self.sent[item.sensor] += 1
            self.session.receive(item, stamp_of(arrival) if clock else None)
            if sum(self.sent.values()) % 7 == 0:
                self.check()
        self.check()
        self.collect()
        return self

    def wait(self, start: float, end: float) -> Recorder:
        """The clock goes on and nothing comes."""
        for k in range(round((end - start) * 10) + 1):
            self.session.advance(stamp_of(start + k / 10))
        self.check()
        self.collect()
        return self

    def finish(self) -> Recorder:
        self.session.finish()
        self.collect()
        return self

    @property
    def state(self) -> EstimatorState:
        return self.session.status().state

    @property
    def reason(self) -> str:
        return self.session.status().reason

    def codes(self) -> list[str]:
        return [e.code for e in self.events]

    def states(self) -> list[str]:
        """Every state that was entered, in order."""
        return [e.values["to"] for e in self.events if e.code == "state.change"]

    def since(self, code: str) -> Event:
        return next(e for e in self.events if e.code == code)

    def back_after(self, seconds: float) -> float:
        """Data time from ``seconds`` to the first published estimate after it."""
        stamps = [s.stamp for s in self.steps if s.accepted and s.stamp >= stamp_of(seconds)]
        return (min(stamps) - stamp_of(seconds)) * 1e-9

    def reasons(self, sensor: str) -> dict[Reason, int]:
        found = {s.name: s for s in self.session.status().sensors}
        return dict(found[sensor].rejected)

    def errors(
        self,
        start: float,
        end: float,
        where: Callable[[float], np.ndarray] = truth,
        shift: float = 0.0,
    ) -> np.ndarray:
        """Distances of published poses from where the robot was [m]."""
        out = []
        for step in self.steps:
            t = (step.stamp - T0) * 1e-9 - shift
            if start <= t <= end and "robot" in step.tracks:
                off = compose(inverse(where(t)), step.tracks["robot"].poses[-1])
                out.append(np.hypot(off[0], off[1]))
        assert out, "nothing was published"
        return np.array(out)
