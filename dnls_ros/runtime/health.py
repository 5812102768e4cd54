"""How each sensor is doing: rate, age, latency, plausibility, rejections; by the session's clock.

A sensor is stale by when it last *arrived*, not by its stamps: a clock that is off by a constant
makes no sensor stale, it shows in the latency.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from dnls_ros.runtime.types import Event, Level, SensorHealth, SensorState
from dnls_ros.window.config import EstimatorConfig, SensorConfig
from dnls_ros.window.ingress import SensorCounters, Settled
from dnls_ros.window.measurements import Reason

NAN = float("nan")
MEMORY = 5_000_000_000
"""Rates, latencies and innovations are those of so much time [ns]."""
RECENT = 2_000_000_000
"""Rejections are those of so much time [ns]."""
FEWEST = 3
"""Fewer measurements say nothing about a ratio."""
REDEEMED = 4
"""Accepted in a row after which earlier refusals are over."""
MISSED = 2.5
"""Periods without a message after which a slow sensor is stale."""
PERIODS = 9
"""Recent intervals of which the median is the period."""
UNCOUNTED = (Reason.PAUSED, Reason.SENSOR_DISABLED, Reason.THROTTLED)
"""Rejections that say nothing about the sensor."""
CONFIGURATION = (Reason.BAD_SHAPE, Reason.EMPTY_FRAME, Reason.UNKNOWN_FRAME)
"""Rejections that no new data will cure."""


@dataclass
class SensorWatch:
    """What one sensor did lately; times are those of the session's clock [ns]."""

    config: SensorConfig
    arrivals: deque[tuple[int, float]] = field(default_factory=deque[tuple[int, float]])
    verdicts: deque[tuple[int, Reason]] = field(default_factory=deque[tuple[int, Reason]])
    nis: deque[tuple[int, float]] = field(default_factory=deque[tuple[int, float]])
    periods: deque[int] = field(default_factory=lambda: deque[int](maxlen=PERIODS))
    bad: int = 0
    good_in_a_row: int = 0
    last_arrival: int = 0
    last_stamp: int = 0
    stale: bool = False

    def arrived(self, when: int, stamp: int, latency: float) -> None:
        """A measurement has come."""
        if self.last_arrival and when > self.last_arrival:
            self.periods.append(when - self.last_arrival)
        self.last_arrival = when
        self.last_stamp = max(self.last_stamp, stamp)
        self.arrivals.append((when, latency))
        _prune(self.arrivals, when - MEMORY)

    def settled(self, when: int, reason: Reason) -> None:
        """A measurement was used or refused."""
        if reason not in UNCOUNTED:
            self.verdicts.append((when, reason))
            self.bad += reason is not Reason.ACCEPTED
            self.good_in_a_row = self.good_in_a_row + 1 if reason is Reason.ACCEPTED else 0
        self._forget_verdicts(when - RECENT)

    def _forget_verdicts(self, before: int) -> None:
        while self.verdicts and self.verdicts[0][0] < before:
            self.bad -= self.verdicts.popleft()[1] is not Reason.ACCEPTED

    def tested(self, when: int, nis: float) -> None:
        """A step's mean normalized innovation squared."""
        self.nis.append((when, nis))
        _prune(self.nis, when - MEMORY)

    def limit(self, stale_after: float) -> float:
        """How long it may be silent [ns]; a slow sensor longer, unless its own limit is set."""
        if self.config.stale_after > 0:
            return self.config.stale_after * 1e9
        if self.config.expected_rate > 0:
            return max(stale_after, MISSED / self.config.expected_rate) * 1e9
        usual = MISSED * median(self.periods) if len(self.periods) > 1 else MEMORY
        return max(stale_after * 1e9, usual)

    def rejected(self, when: int) -> float:
        """Share of recent measurements that were refused; 0 if too few, or if that is over."""
        self._forget_verdicts(when - RECENT)
        if self.good_in_a_row >= REDEEMED:
            return 0.0
        return self.bad / len(self.verdicts) if len(self.verdicts) >= FEWEST else 0.0


def _prune(entries: deque[tuple[int, float]], before: int) -> None:
    while entries and entries[0][0] < before:
        entries.popleft()


class Health:
    """All sensors.

    Args:
        config: Their limits.
    """

    def __init__(self, config: EstimatorConfig) -> None:
        self._watches = {s.name: SensorWatch(s) for s in config.sensors}
        self._began: int | None = None
        self.reconfigure(config)

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over a configuration of the same sensors."""
        self._limits = config.health
        for sensor in config.sensors:
            self._watches[sensor.name].config = sensor

    def arrived(self, sensor: str, now: int, stamp: int, clock: int | None) -> None:
        """A measurement of a sensor came when the session's clock showed ``now`` [ns]."""
        self._began = now if self._began is None else self._began
        latency = NAN if clock is None or stamp <= 0 else (clock - stamp) * 1e-9
        self._watches[sensor].arrived(now, stamp if stamp > 0 else 0, latency)

    def settled(self, one: Settled, now: int) -> None:
        """A measurement was used or refused."""
        self._watches[one.sensor].settled(now, one.reason)

    def tested(self, nis: Mapping[str, float], now: int) -> None:
        """A step's innovations, by sensor."""
        for sensor, value in nis.items():
            self._watches[sensor].tested(now, value)

    def forgive(self) -> None:
        """The estimate was wrong, not the sensors: what it refused lately is not held to them."""
        for watch in self._watches.values():
            watch.verdicts.clear()
            watch.bad = 0

    def restart(self) -> None:
        """Time began anew: when things happened means nothing any more."""
        self._began = None
        for name, watch in self._watches.items():
            self._watches[name] = SensorWatch(watch.config)

    def changes(self, now: int) -> list[Event]:
        """Sensors that have fallen silent or are back since the last call."""
        out: list[Event] = []
        for name, watch in self._watches.items():
            if not watch.config.enabled or not watch.last_arrival:
                continue
            silent = now - watch.last_arrival
            stale = silent > watch.limit(self._limits.stale_after)
            if stale == watch.stale:
                continue
            watch.stale = stale
            seconds = f"{silent * 1e-9:.3f}"
            if stale:
                text = f"sensor '{name}' ({watch.config.topic}) is silent for {seconds} s"
                out.append(Event(now, Level.WARN, "sensor.stale", text, {"sensor": name}))
            else:
                text = f"sensor '{name}' is back"
                out.append(Event(now, Level.INFO, "sensor.back", text, {"sensor": name}))
        return out

    def complaint(self, now: int) -> str:
        """Why the estimate is not as it should be, a token; '' if no sensor is to blame."""
        for name in self._limits.required_sensors:
            watch = self._watches[name]
            began = watch.last_arrival or self._began
            if not watch.config.enabled:
                return f"sensor.disabled:{name}"
            silent = began is not None and now - began > watch.limit(self._limits.stale_after)
            if silent:
                return f"sensor.stale:{name}"
        for name, watch in self._watches.items():
            if watch.config.enabled and watch.rejected(now) > self._limits.max_reject_ratio:
                return f"sensor.rejecting:{name}"
        return ""

    def report(
        self, now: int, counters: Mapping[str, SensorCounters], kept: Mapping[str, int]
    ) -> tuple[SensorHealth, ...]:
        """Every sensor's health.

        Args:
            now: The session's clock [ns].
            counters: The estimator's accounts.
            kept: Sensor → measurements that have not reached the estimator yet.
        """
        return tuple(
            self._of(name, watch, now, counters[name], kept.get(name, 0))
            for name, watch in self._watches.items()
        )

    def _of(
        self, name: str, watch: SensorWatch, now: int, counters: SensorCounters, kept: int
    ) -> SensorHealth:
        recent = [a for a in watch.arrivals if a[0] >= now - MEMORY]
        latencies = [latency for _, latency in recent if latency == latency]
        nis = [value for when, value in watch.nis if when >= now - MEMORY]
        since = (now - self._began) if self._began is not None else 0
        return SensorHealth(
            name=name,
            state=self._state(watch, now, counters.received + kept),
            rate=len(recent) / (min(max(since, 1), MEMORY) * 1e-9) if len(recent) > 1 else 0.0,
            age=(now - watch.last_stamp) * 1e-9 if watch.last_stamp else NAN,
            latency_mean=sum(latencies) / len(latencies) if latencies else NAN,
            latency_max=max(latencies, default=NAN),
            nis_mean=sum(nis) / len(nis) if nis else NAN,
            received=counters.received + kept,
            accepted=counters.accepted,
            waiting=counters.waiting + kept,
            rejected=dict(counters.rejected),
            message=counters.last_problem,
        )

    def _state(self, watch: SensorWatch, now: int, received: int) -> SensorState:
        if not watch.config.enabled:
            return SensorState.DISABLED
        if not received:
            return SensorState.WAITING
        limit = watch.limit(self._limits.stale_after)
        if not watch.last_arrival or now - watch.last_arrival > limit:
            return SensorState.STALE
        reasons = {reason for _, reason in watch.verdicts}
        if reasons and reasons <= set(CONFIGURATION):
            return SensorState.MISCONFIGURED
        if watch.rejected(now) > self._limits.max_reject_ratio:
            return SensorState.REJECTING
        return SensorState.OK
