"""The state machine: which state follows from the facts, and an event for every change.

UNINITIALIZED (no data) → INITIALIZING (data, no estimate) → TRACKING ↔ DEGRADED; RECOVERING while
a diverged solve is being repaired; LOST when nothing helps or nothing new was estimated for too
long; PAUSED on command.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnls_ros.runtime.types import EstimatorState, Event, Level


@dataclass(frozen=True)
class Facts:
    """What the state depends on; the first that holds decides.

    Attributes:
        paused: Why nothing is consumed; '' if it is.
        lost: Why no estimate can be believed; '' if one can.
        data: Whether any measurement came.
        recovering: What is being repaired; ''.
        waiting: Which track has no estimate, and for what it waits; '' if all have one.
        estimates: Whether any track has one.
        silent: Why the estimate is too old; ''.
        complaint: Which requirement is unmet; ''.
    """

    paused: str = ""
    lost: str = ""
    data: bool = False
    recovering: str = ""
    waiting: str = ""
    estimates: bool = False
    silent: str = ""
    complaint: str = ""


def state_of(facts: Facts) -> tuple[EstimatorState, str]:
    """The state that follows from the facts, and its reason."""
    if facts.paused:
        return EstimatorState.PAUSED, facts.paused
    if facts.lost:
        return EstimatorState.LOST, facts.lost
    if not facts.data:
        return EstimatorState.UNINITIALIZED, ""
    if facts.recovering and not facts.silent:
        return EstimatorState.RECOVERING, facts.recovering
    if not facts.estimates:
        return EstimatorState.INITIALIZING, facts.waiting
    if facts.silent:
        return EstimatorState.LOST, facts.silent
    if facts.complaint or facts.waiting:
        return EstimatorState.DEGRADED, facts.complaint or facts.waiting
    return EstimatorState.TRACKING, ""


_LEVELS = {
    EstimatorState.DEGRADED: Level.WARN,
    EstimatorState.RECOVERING: Level.WARN,
    EstimatorState.LOST: Level.ERROR,
}


class Condition:
    """The present state, the one before, and why."""

    def __init__(self) -> None:
        self.state = EstimatorState.UNINITIALIZED
        self.previous = EstimatorState.UNINITIALIZED
        self.since = 0
        self.reason = ""

    def update(self, facts: Facts, now: int) -> Event | None:
        """Takes the facts in; the event if the state changed."""
        return self.enter(*state_of(facts), now)

    def enter(self, state: EstimatorState, reason: str, now: int) -> Event | None:
        """Goes to a state; the event if it is another one. A new reason alone is no event."""
        self.reason = reason
        if state is self.state:
            return None
        self.previous, self.state, self.since = self.state, state, now
        text = f"{self.previous.name} → {state.name}" + (f": {reason}" if reason else "")
        values = {"from": self.previous.name, "to": state.name, "reason": reason}
        return Event(now, _LEVELS.get(state, Level.INFO), "state.change", text, values)
