"""Steps under supervision: what is wrong does not count, and is repaired.

A solve is judged before it counts. One that is refused leaves the window as it was (1: rolled
back); then the step is tried again (2) without what does not fit, (3) with a prior of a hundred
times the variance, (4) on a new window that starts from the newest absolute measurement, or where
the track was. The first that holds counts. If none does the new measurements are given up, and
after ``recovery.attempts`` of such steps in a row the estimate is lost until data start it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from dnls_ros.runtime.condition import Condition
from dnls_ros.runtime.recovery import CONFIRMATION, Critic, Trouble, Witness
from dnls_ros.runtime.types import EstimatorState, Event, Level
from dnls_ros.window.config import EstimatorConfig, SensorConfig
from dnls_ros.window.estimator import Attempt, Estimator
from dnls_ros.window.measurements import Measurement, Reason, TwistMeasurement
from dnls_ros.window.placement import Anchor, inflated
from dnls_ros.window.results import StepResult

STRICT = 0.9999
"""Gate probability of every sensor while suspects are looked for."""
INFLATION = 100.0
"""On the variance of a prior that is doubted."""
QUIET = 1_000_000_000
"""Repairs of one kind are told once in so much data time [ns]."""
ODD = 1.5
"""Twists so many times faster than the limits are suspects."""
DESPAIR = 3_000_000_000
"""For so long a track that nothing fits waits for an absolute measurement [ns]."""
REMARKS = {
    "gate_reopened": ("gate.reopened", "was refused for long and is believed again"),
    "leap": (
        "motion.leap",
        "moved faster than recovery.max_speed or max_turn_rate allows: taken as a gap",
    ),
}
"""Notes of a step that are told: event and sentence."""
REFUSALS = (Reason.GATED, Reason.SUSPECT)


class Supervisor:
    """Drives an estimator's steps and repairs it.

    Args:
        estimator: Whose steps.
        condition: Where RECOVERING is entered.
        dump: Keeps a failing window; what became of it.
    """

    def __init__(
        self,
        estimator: Estimator,
        condition: Condition,
        dump: Callable[[Attempt, int], Sequence[Event]],
    ) -> None:
        self._estimator = estimator
        self._condition = condition
        self._dump = dump
        self.reconfigure(estimator.config)
        self.critic = Critic(estimator.config)
        self._witness = Witness()
        self.events: list[Event] = []
        self.refused = 0
        self.failed = 0
        self.forget()

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over a configuration of the same sensors."""
        self._config = config
        closed = replace(config, gate=replace(config.gate, reopen_after=0.0))
        self._closed = closed
        self._strict = closed.with_sensors(
            tuple(
                s if s.gate_probability else replace(s, gate_probability=STRICT)
                for s in config.sensors
            )
        )
        if hasattr(self, "critic"):
            self.critic.reconfigure(config)

    def forget(self) -> None:
        """The window starts anew: nothing is known of it."""
        self.critic.forget()
        self._witness.forget()
        self.recovering, self.lost = "", ""
        self._failures = 0
        self._refusing: dict[str, tuple[int, int]] = {}  # since when, and when last
        self._told: dict[str, int] = {}

    def take(self) -> list[Event]:
        """What happened since the last call."""
        events, self.events = self.events, []
        return events

    def step(self, now: int) -> StepResult | None:
        """Solves with what is stamped at or before ``now`` [ns]; None if nothing was accepted."""
        measurements = self._estimator.due(now)
        if not measurements:
            return None
        attempt = self._estimator.attempt(measurements, now)
        if not self._config.recovery.enabled:
            return self._unsupervised(measurements, attempt, now)
        trouble = self.critic.judge(attempt)
        if trouble is not None:
            return self._recover(measurements, attempt, trouble, now)
        self._note(attempt, now)
        kidnapped = self._kidnapped(now, measurements)
        reopened = self._reopened(attempt)
        if kidnapped is None and reopened:  # what does not even agree with itself stays outside
            again = self._estimator.attempt(measurements, now, config=self._closed)
            if self.critic.judge(again) is None:
                return self._accept(again, now)
        if kidnapped is not None and not reopened:
            return self._recover(measurements, attempt, kidnapped, now)
        return self._accept(attempt, now)

    def _unsupervised(
        self, measurements: Sequence[Measurement], attempt: Attempt, now: int
    ) -> StepResult | None:
        """Without recovery: what solved counts, what raised is given up."""
        if attempt.failure is not None:
            self.failed += 1
            self._estimator.give_up(measurements, attempt.failure_text)
            self._say(now, Level.ERROR, "solver.exception", attempt.failure_text)
            return None
        return self._accept(attempt, now)

    def _accept(self, attempt: Attempt, now: int, anew: bool = False) -> StepResult | None:
        """A solve counts."""
        result = self._estimator.commit(attempt)
        if result is None:
            return None
        if anew:
            self._witness.forget()
            self._refusing = {}
        self.critic.accept(result, anew)
        self._failures, self.recovering, self.lost = 0, "", ""
        for note in result.notes:
            what, _, sensor = note.partition(".")
            if what in REMARKS:
                code, text = REMARKS[what]
                self._tell(now, Level.WARN, code, f"sensor '{sensor}' {text}", {"sensor": sensor})
        return result

    def _note(self, attempt: Attempt, now: int, left: Sequence[Measurement] = ()) -> None:
        """Which absolute measurements speak for the estimate, and which against it.

        Args:
            attempt: A solve that might count.
            now: Its time [ns].
            left: Measurements that were left out of it.
        """
        draft, result = attempt.draft, attempt.result
        if draft is None or result is None:
            return
        for m, verdict in [*draft.verdicts, *((m, (Reason.SUSPECT, "")) for m in left)]:
            sensor = self._config.sensor(m.sensor)
            outside = f"gate_reopened.{m.sensor}" in result.notes
            refused = outside if verdict is None else verdict[0] in REFUSALS
            if verdict is None and not outside:
                self._refusing.pop(m.sensor, None)
            elif refused:
                since = self._refused_since(m.sensor, now)
                self._refusing[m.sensor] = now if since is None else since, now
            if not sensor.ignition or not (refused or verdict is None):
                continue
            track = result.tracks.get(sensor.track)
            if not refused:
                self._vouch(sensor.track)
                continue
            pose = self._estimator.suggestion(m)
            if pose is not None and track is not None:
                self._witness.refused(sensor.track, m, pose, track)

    def _vouch(self, track: str) -> None:
        """An absolute measurement spoke for a track: what is refused is refused rightly."""
        self._witness.accepted(track)
        for sensor in self._config.sensors:
            if sensor.track == track:
                self._refusing.pop(sensor.name, None)

    def _kidnapped(self, now: int, measurements: Sequence[Measurement]) -> Trouble | None:
        """Whether a track is elsewhere: its absolute measurements agree, or nothing else fits."""
        for track in self._config.tracks:
            why = ""
            if self._witness.confirmed(track.name):
                why = f"for {CONFIRMATION * 1e-9:g} s all absolute measurements of track "
                why += f"'{track.name}' have agreed that it is elsewhere"
            elif self._witness.contradicts(track.name) and self._stuck(track.name, now):
                why = f"nothing that measures track '{track.name}' fits its estimate any more"
            starters = self._starters(track.name)
            if why and any(self._is_starter(m, starters) for m in measurements):
                return Trouble("kidnapped", why, track.name)
        return None

    def _reopened(self, attempt: Attempt) -> bool:
        """Whether a sensor that may start its track is believed again in this attempt."""
        notes = () if attempt.result is None else attempt.result.notes
        return any(f"gate_reopened.{s.name}" in notes for s in self._config.sensors if s.ignition)

    def _recover(
        self, measurements: Sequence[Measurement], attempt: Attempt, trouble: Trouble, now: int
    ) -> StepResult | None:
        """The ladder: the first rung that holds counts."""
        self._begin(attempt, trouble, now)
        if trouble.code != "kidnapped":
            result, kidnapped = self._without_suspects(measurements, now)
            if result is not None:
                return result
            if kidnapped is None:
                wide = inflated(self._estimator.state, INFLATION)
                again = self._estimator.attempt(measurements, now, state=wide)
                if again.result is not None and self.critic.judge(again, False) is None:
                    text = f"solved with {INFLATION:g} times the variance of the prior"
                    self._tell(now, Level.WARN, "recovery.inflate", text)
                    return self._accept(again, now, anew=True)
            trouble = kidnapped or trouble
        return self._anew(measurements, trouble, now) or self._fail(measurements, trouble, now)

    def start_anew(self, stamp: int) -> None:
        """A new window at ``stamp`` [ns]: data start it, or it is where the track was."""
        tracks = [t.name for t in self._config.tracks]
        anchors = {
            name: replace(a, stamp=stamp) for name in tracks if (a := self._anchor(name, ()))
        }
        self._estimator.take_over(self._estimator.fresh(tracks, anchors))
        self.forget()

    def _begin(self, attempt: Attempt, trouble: Trouble, now: int) -> None:
        self.refused += attempt.failure is None
        self.failed += attempt.failure is not None
        self.recovering = trouble.code
        if not self._tell(now, Level.WARN, "recovery.start", trouble.text, {"why": trouble.code}):
            return
        change = self._condition.enter(EstimatorState.RECOVERING, trouble.code, now)
        self.events += [] if change is None else [change]
        text = "the solve does not count; the window is the last accepted one"
        self._say(now, Level.INFO, "recovery.rollback", text)
        if self._config.recovery.dump:
            self.events += self._dump(attempt, now)

    def _without_suspects(
        self, measurements: Sequence[Measurement], now: int
    ) -> tuple[StepResult | None, Trouble | None]:
        """The step without what does not fit; else whether the robot is elsewhere."""
        odd = [m for m in measurements if self._is_odd(m)]
        rest = [m for m in measurements if not any(m is o for o in odd)]
        attempt = self._estimator.attempt(rest, now, config=self._strict)
        if self.critic.judge(attempt) is not None:  # none of what is new, but how it moved
            odd += [m for m in rest if m.sensor not in self._estimator.state.increments]
            rest = [m for m in rest if m.sensor in self._estimator.state.increments]
            attempt = self._estimator.attempt(rest, now, config=self._strict)
        if not rest or attempt.result is None or self.critic.judge(attempt) is not None:
            return None, None
        self._note(attempt, now, odd)
        kidnapped = self._kidnapped(now, measurements)
        if kidnapped is not None or self._without_hope(now):
            return None, kidnapped
        count = self._mark_suspects(attempt)
        for m in odd:
            count[m.sensor] = count.get(m.sensor, 0) + 1
        self._estimator.give_up(odd, "it does not fit; removed by recovery")
        text = f"solved without {sum(count.values())} new measurements that do not fit"
        values = {name: str(many) for name, many in count.items()}
        self._tell(now, Level.WARN, "recovery.suspects", text, values)
        return self._accept(attempt, now), None

    def _mark_suspects(self, attempt: Attempt) -> dict[str, int]:
        """What failed a gate that its sensor does not have is a suspect; how many by sensor."""
        count: dict[str, int] = {}
        assert attempt.draft is not None
        verdicts = attempt.draft.verdicts
        for k, (m, verdict) in enumerate(verdicts):
            if verdict is None or verdict[0] is not Reason.GATED:
                continue
            count[m.sensor] = count.get(m.sensor, 0) + 1
            if not self._config.sensor(m.sensor).gate_probability:
                verdicts[k] = m, (Reason.SUSPECT, "it does not fit; removed by recovery")
        return count

    def _refused_since(self, sensor: str, now: int) -> int | None:
        """Since when a sensor is refused; None if it is not, or has said nothing for long."""
        since, last = self._refusing.get(sensor, (0, now - DESPAIR))
        return since if now - last < DESPAIR and self._config.sensor(sensor).enabled else None

    def _stuck(self, track: str, now: int) -> bool:
        """Whether sensors of a track that cannot start it have been refused for long."""
        mine = [s.name for s in self._config.sensors if s.track == track and not s.ignition]
        since = [t for name in mine if (t := self._refused_since(name, now)) is not None]
        return now - min(since, default=now) >= CONFIRMATION

    def _without_hope(self, now: int) -> bool:
        """Whether a track is stuck that no absolute measurement will save soon."""
        for track in self._config.tracks:
            saviours = any(s.enabled for s in self._starters(track.name))
            since = [self._refused_since(name, now) or now for name in self._refusing]
            patience = now - min(since, default=now)
            if self._stuck(track.name, now) and (not saviours or patience > DESPAIR):
                return True
        return False

    def _anew(
        self, measurements: Sequence[Measurement], trouble: Trouble, now: int
    ) -> StepResult | None:
        """A new window: from the newest absolute measurement, or where the track was."""
        tracks = [trouble.track] if trouble.track else [t.name for t in self._config.tracks]
        anchors = {name: a for name in tracks if (a := self._anchor(name, measurements))}
        state = self._estimator.fresh(tracks, anchors)
        attempt = self._estimator.attempt(measurements, now, state=state)
        if attempt.result is None or self.critic.judge(attempt, False) is not None:
            return None
        started = [name for name in tracks if name in attempt.result.tracks]
        if not started:
            return None
        where = "where it was" if anchors else "from the newest absolute measurement"
        text = f"track {', '.join(started)} starts anew, {where}: {trouble.text}"
        self._say(now, Level.WARN, "recovery.reinit", text, {"why": trouble.code})
        return self._accept(attempt, now, anew=True)

    def _anchor(self, name: str, measurements: Sequence[Measurement]) -> Anchor | None:
        """Where a track restarts; None: its first absolute measurement says."""
        track = self._config.track(name)
        starters = self._starters(name)
        if track.init.mode == "first_measurement" and any(s.enabled for s in starters):
            return None
        before = self.critic.newest.get(name)
        if before is None:
            return None
        covariance = INFLATION * before.covariance
        for m in reversed(measurements):
            pose = self._estimator.suggestion(m) if self._is_starter(m, starters) else None
            if pose is not None:
                return Anchor(m.stamp, pose, covariance)
        return Anchor(int(before.stamps[-1]), before.poses[-1], covariance)

    def _starters(self, track: str) -> list[SensorConfig]:
        return [s for s in self._config.sensors if s.track == track and s.ignition]

    def _is_starter(self, m: Measurement, starters: Sequence[SensorConfig]) -> bool:
        return any(s.name == m.sensor for s in starters)

    def _fail(self, measurements: Sequence[Measurement], trouble: Trouble, now: int) -> None:
        """Nothing holds: the new measurements are given up; at last the estimate too."""
        self._estimator.give_up(measurements, trouble.text)
        self._failures += 1
        if self.lost or self._failures < self._config.recovery.attempts:
            return
        text = f"{self._failures} steps in a row could not be repaired: {trouble.text}"
        self._say(now, Level.ERROR, "recovery.failed", text, {"why": trouble.code})
        tracks = [t.name for t in self._config.tracks]
        anchors = {name: a for name in tracks if (a := self._anchor(name, ()))}
        self._estimator.take_over(self._estimator.fresh(tracks, anchors))
        self.critic.forget()
        self._witness.forget()
        self.recovering, self.lost = "", f"recovery.failed:{trouble.code}"

    def _is_odd(self, m: Measurement) -> bool:
        """Whether a twist is faster than the robot can be; poses that are so are gaps."""
        limits = self._config.recovery
        if isinstance(m, TwistMeasurement):
            speed, turn = np.linalg.norm(m.twist[:3]), np.linalg.norm(m.twist[3:])
            return bool(speed > ODD * limits.max_speed or turn > ODD * limits.max_turn_rate)
        return False

    def _say(
        self,
        now: int,
        level: Level,
        code: str,
        text: str,
        values: dict[str, str] | None = None,
    ) -> None:
        self.events.append(Event(now, level, code, text, values or {}))

    def _tell(
        self,
        now: int,
        level: Level,
        code: str,
        text: str,
        values: dict[str, str] | None = None,
    ) -> bool:
        """Says it, unless the same was said a moment ago; whether it did."""
        last = self._told.get(code)
        if last is not None and 0 <= now - last < QUIET:
            return False
        self._told[code] = now
        self._say(now, level, code, text, values)
        return True
