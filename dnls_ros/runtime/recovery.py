"""Has the estimate diverged, and who is right when sensors and estimate disagree?

The `Critic` looks at a solve before it counts. The `Witness` remembers the absolute measurements
that the estimate contradicts: each says by what motion of the whole track it would be right. If
they have said the same for long enough, and nothing spoke for the estimate, the robot is where
they say; outliers say something else each time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from dnls_ros.window.bodies import Array
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.estimator import Attempt
from dnls_ros.window.measurements import Measurement, PoseMeasurement
from dnls_ros.window.results import StepResult, TrackEstimate
from dnls_ros.window.rigid import compose, inverse

MEMORY = 50
"""Accepted costs of which the median is taken."""
FEWEST = 5
"""Fewer say nothing."""
LEAST_MEDIAN = 0.5
"""Cost per degree of freedom that honest noise has: a median below it does not count as less."""
GROWTH = 1.5
"""A cost that is not so many times the last accepted one has not jumped: what is wrong with the
window was so before, and robust losses bear it."""
SIGMAS = 4.0
"""Motion within so many standard deviations of the estimates is no divergence."""
SHORTEST = 0.2
"""A jump is held against the motion that so much time allows, at least [s]."""
CONFIRMATION = 1_000_000_000
"""For so long the refused measurements must agree [ns]."""
FORGOTTEN = 3 * CONFIRMATION
AGREEMENT = 0.8
"""Share of the refused measurements that must agree with the newest."""
SLACK = (0.2, 0.1)
"""By how much corrections that agree may differ, besides their noise [m, rad]."""
NOISE_SIGMAS = 6.0


@dataclass(frozen=True)
class Trouble:
    """Why a solve does not count: a token, a sentence, and the track if it is one track's."""

    code: str
    text: str
    track: str = ""


class Critic:
    """Judges solves against those that were accepted before.

    Args:
        config: Limits.
    """

    def __init__(self, config: EstimatorConfig) -> None:
        self._limits = config.recovery
        self._costs: deque[float] = deque(maxlen=MEMORY)
        self._newest: dict[str, TrackEstimate] = {}

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over limits."""
        self._limits = config.recovery

    @property
    def newest(self) -> Mapping[str, TrackEstimate]:
        """Track → its last accepted estimate."""
        return self._newest

    def forget(self) -> None:
        """Everything starts anew."""
        self._costs.clear()
        self._newest = {}

    def accept(self, result: StepResult, anew: bool = False) -> None:
        """A solve counts; ``anew``: it has nothing to do with those before."""
        if anew:
            self.forget()
        self._costs.append(_cost_per_dof(result))
        self._newest.update(result.tracks)

    def judge(self, attempt: Attempt, continuous: bool = True) -> Trouble | None:
        """What is wrong with an attempt; None if nothing, or if there was nothing to solve.

        Args:
            attempt: What was computed.
            continuous: Hold its poses too against what was accepted before.
        """
        if attempt.failure is not None:
            return Trouble("solver.exception", attempt.failure_text)
        result = attempt.result
        if result is None:
            return None
        bad = next((n for n, t in result.tracks.items() if not np.isfinite(t.poses).all()), None)
        if bad is not None or not np.isfinite(result.cost_final):
            return Trouble("solver.not_finite", f"the solve is not finite: {result.status}")
        if not result.accepted:
            return Trouble(_token(result), f"the solve was not accepted: {result.status}")
        return self._cost(result) or (self._motion(result) if continuous else None)

    def _cost(self, result: StepResult) -> Trouble | None:
        if len(self._costs) < FEWEST:
            return None
        usual, now = max(median(self._costs), LEAST_MEDIAN), _cost_per_dof(result)
        if now <= max(self._limits.cost_jump * usual, GROWTH * self._costs[-1]):
            return None
        text = (
            f"the cost per degree of freedom is {now:.3g}, more than recovery.cost_jump = "
            f"{self._limits.cost_jump:g} times the usual {usual:.3g}"
        )
        return Trouble("cost.jump", text)

    def _motion(self, result: StepResult) -> Trouble | None:
        for name, track in result.tracks.items():
            before = self._newest.get(name)
            if before is None or track.stamps[-1] < before.stamps[-1]:
                continue
            moved = compose(inverse(before.poses[-1]), track.poses[-1])
            seconds = max(float(track.stamps[-1] - before.stamps[-1]) * 1e-9, SHORTEST)
            spread = before.covariance + track.covariance
            far = float(np.linalg.norm(moved[:3]))
            allowed = self._limits.max_speed * seconds + SIGMAS * _sigma(spread, 0)
            if far > allowed:
                text = f"track '{name}' moved {far:.3g} m; recovery.max_speed = "
                text += f"{self._limits.max_speed:g} m/s and its noise allow {allowed:.3g} m"
                return Trouble("speed", text, name)
            turned = _angle(moved)
            allowed = self._limits.max_turn_rate * seconds + SIGMAS * _sigma(spread, 3)
            if turned > allowed:
                text = f"track '{name}' turned {turned:.3g} rad; recovery.max_turn_rate = "
                text += f"{self._limits.max_turn_rate:g} rad/s and its noise allow {allowed:.3g}"
                return Trouble("turn_rate", text, name)
        return None


def _token(result: StepResult) -> str:
    report = result.report
    return "solver.refused" if report is None else f"solver.{report.termination.name.lower()}"


def _cost_per_dof(result: StepResult) -> float:
    dof = 3 * result.states if result.report is None else result.report.dof
    return result.cost_final / max(dof, 1)


def _sigma(covariance: Array, first: int) -> float:
    """Standard deviation of a position (first = 0) or an orientation (first = 3)."""
    return float(np.sqrt(np.trace(covariance[first : first + 3, first : first + 3])))


def _angle(pose: Array) -> float:
    return 2.0 * float(np.arctan2(np.linalg.norm(pose[3:6]), abs(pose[6])))


@dataclass(frozen=True, eq=False)
class _Statement:
    """What one refused measurement says: when, and the motion of the track that it asks for."""

    stamp: int
    correction: Array
    place: Array
    sigma: tuple[float, float]

    def agrees(self, other: _Statement) -> bool:
        """Whether both corrections take this place to the same pose."""
        apart = compose(
            inverse(compose(self.correction, self.place)), compose(other.correction, self.place)
        )
        noise = [np.hypot(a, b) for a, b in zip(self.sigma, other.sigma, strict=True)]
        near = float(np.linalg.norm(apart[:3])) <= SLACK[0] + NOISE_SIGMAS * noise[0]
        return bool(near and _angle(apart) <= SLACK[1] + NOISE_SIGMAS * noise[1])


@dataclass
class Witness:
    """The absolute measurements that contradict the estimate, track by track."""

    statements: dict[str, list[_Statement]] = field(default_factory=dict[str, list[_Statement]])

    def forget(self) -> None:
        """Everything starts anew."""
        self.statements.clear()

    def accepted(self, track: str) -> None:
        """An absolute measurement spoke for the estimate."""
        self.statements.pop(track, None)

    def refused(self, track: str, m: Measurement, pose: Array, estimate: TrackEstimate) -> None:
        """An absolute measurement contradicts the estimate.

        Args:
            track: Whose.
            m: The measurement.
            pose: (7,) where it says that the track is.
            estimate: Where the track is without it, by odometry and what was known before.
        """
        nearest = int(np.argmin(np.abs(estimate.stamps - m.stamp)))
        place = estimate.poses[nearest]
        correction = compose(pose, inverse(place))
        new = _Statement(m.stamp, correction, place, _noise(m))
        kept = [s for s in self.statements.get(track, []) if m.stamp - s.stamp <= FORGOTTEN]
        self.statements[track] = [*kept, new]

    def contradicts(self, track: str) -> bool:
        """Whether an absolute measurement contradicts it, and none since spoke for it."""
        return bool(self.statements.get(track))

    def confirmed(self, track: str) -> bool:
        """Whether they have agreed for long enough."""
        statements = self.statements.get(track, [])
        if len(statements) < 2:
            return False
        newest = statements[-1]
        recent = [s for s in statements if newest.stamp - s.stamp <= 1.5 * CONFIRMATION]
        agreeing = [s for s in recent if newest.agrees(s)]
        span = newest.stamp - min(s.stamp for s in agreeing)
        long_enough = span >= CONFIRMATION and len(agreeing) >= 2
        return long_enough and len(agreeing) >= AGREEMENT * len(recent)


def _noise(m: Measurement) -> tuple[float, float]:
    if not isinstance(m, PoseMeasurement) or m.covariance is None:
        return 0.0, 0.0
    variance = np.clip(np.nan_to_num(np.diag(m.covariance)), 0.0, 1e6)
    return float(np.sqrt(variance[:3].max())), float(np.sqrt(variance[3:].max()))
