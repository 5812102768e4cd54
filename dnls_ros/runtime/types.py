"""What a session says about itself: immutable values that may cross threads.

Numbers equal the constants of the messages of the same name (EstimatorStatus, SensorHealth,
Event). Stamps are data time [ns] unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from dnls_ros.window.ingress import Settled
from dnls_ros.window.measurements import Reason
from dnls_ros.window.results import StepResult


class EstimatorState(IntEnum):
    """What the estimator is doing; values are those of EstimatorStatus.msg."""

    UNINITIALIZED = 0
    INITIALIZING = 1
    TRACKING = 2
    DEGRADED = 3
    LOST = 4
    RECOVERING = 5
    PAUSED = 6

    @property
    def publishes(self) -> bool:
        """Whether estimates leave in this state."""
        return self in (EstimatorState.TRACKING, EstimatorState.DEGRADED)


class Level(IntEnum):
    """How serious an event is; values are those of Event.msg."""

    INFO = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Event:
    """Something worth telling, once.

    Attributes:
        stamp: Data time at which it happened [ns].
        level: How serious.
        code: A token, such as ``time.jump_back`` or ``recovery.rollback``.
        text: A sentence: what, where, what to do.
        values: Figures that belong to it.
    """

    stamp: int
    level: Level
    code: str
    text: str
    values: Mapping[str, str] = field(default_factory=dict[str, str])


class SensorState(IntEnum):
    """How a sensor is doing; values are those of SensorHealth.msg."""

    OK = 0
    WAITING = 1
    STALE = 2
    REJECTING = 3
    DISABLED = 4
    MISCONFIGURED = 5


@dataclass(frozen=True)
class SensorHealth:
    """One sensor, as the session sees it.

    Attributes:
        name: Of its block.
        state: How it is doing.
        rate: Over the last 5 s of data time [Hz].
        age: Clock minus its newest stamp [s]; NaN before the first message.
        latency_mean, latency_max: Clock at arrival minus stamp, over the last 5 s [s]; NaN if
            unknown.
        nis_mean: Mean normalized innovation squared per degree of freedom of the last steps; NaN
            if not gated.
        received, accepted, waiting, rejected: Its account: received = accepted + Σ rejected +
            waiting.
        message: The last problem, a sentence.
        model_hash: Of the model that it uses; '' without one.
    """

    name: str
    state: SensorState
    rate: float
    age: float
    latency_mean: float
    latency_max: float
    nis_mean: float
    received: int
    accepted: int
    waiting: int
    rejected: Mapping[Reason, int]
    message: str
    model_hash: str = ""

    @property
    def balanced(self) -> bool:
        """Whether received = accepted + Σ rejected + waiting."""
        return self.received == self.accepted + sum(self.rejected.values()) + self.waiting


@dataclass(frozen=True)
class Status:
    """What the estimator is doing and why.

    Attributes:
        stamp: Newest state [ns]; 0 = none.
        state, previous_state: Now, and before the last change.
        state_since: Of the last change [ns].
        reason: A token, such as ``solver.singular`` or ``sensor.stale:tags``; '' = all is well.
        tracks: Names of the tracks that are estimated now.
        window_states: States in the window.
        window_span: Newest minus oldest state [s].
        output_age: Clock minus newest state [s]; NaN before the first.
        solve_rate: Accepted steps per second of data time over 5 s [Hz].
        solve_p95: Wall time of steps, 95th percentile [s]; for reports only.
        solves_total, solves_rejected, solves_failed: Steps; those not accepted; those that raised.
        deadlines_missed: Steps that took longer than 1/rate.
        cycles_skipped: Ticks left out under overload.
        resets_total: Resets for whatever reason.
        sensors: Their health, in order of configuration.
    """

    stamp: int
    state: EstimatorState
    previous_state: EstimatorState
    state_since: int
    reason: str
    tracks: tuple[str, ...]
    window_states: int
    window_span: float
    output_age: float
    solve_rate: float
    solve_p95: float
    solves_total: int
    solves_rejected: int
    solves_failed: int
    deadlines_missed: int
    cycles_skipped: int
    resets_total: int
    sensors: tuple[SensorHealth, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a command; a refusal has changed nothing."""

    success: bool
    message: str


Output = StepResult | Event | Settled
"""What leaves a session, in order."""
