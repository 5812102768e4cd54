"""Which time it is, and whether it jumped: decided by stamps and the given clock alone.

Late, reordered and delayed data are no jumps. Time jumped back where sensors go back behind *their
own* newest stamps, on consecutive messages, with nobody to contradict; a slow link is late behind
others, never behind itself. Time jumped forward where the data leave a gap longer than the window
that no clock saw pass. Until either is certain the messages that hint at it are held, neither used
nor lost: they belong to the new time if there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.measurements import Measurement, Reason

WITNESSES = 3
"""So many messages of at least two sensors in a row confirm a jump …"""
SPAN = 200_000_000
"""… if their stamps cover so much time [ns]: single messages are often late, never all of them."""
ALONE = 2
"""The same for the only sensor, …"""
ALONE_SPAN = 400_000_000
"""… and for one of several, if no other says anything meanwhile [ns]."""
CONTRADICTIONS = 3
"""Messages of the present that end a suspicion."""
MOST_HELD = 1000
"""Messages kept while it is open what time it is."""
STRAGGLING = 1_000_000_000
"""How long after a clock's jump messages from before it may come [ns of clock]."""


@dataclass(frozen=True, eq=False)
class Arrived:
    """A measurement and the clock at its arrival [ns]; ``stamp`` has the sensor's offset."""

    item: Measurement
    stamp: int
    clock: int | None


@dataclass(frozen=True)
class Jump:
    """Time has jumped.

    Attributes:
        backward: Which way.
        before, after: The newest stamps of the old and of the new time [ns]; 0 = unknown.
        first: The oldest stamp of the new time [ns]; 0 = unknown.
        why: A sentence.
    """

    backward: bool
    before: int
    after: int
    first: int
    why: str


@dataclass(frozen=True, eq=False)
class Refused:
    """A measurement that is of no time."""

    item: Measurement
    reason: Reason
    text: str


Action = Arrived | Refused | Jump
"""What is to be done, in order: use it, refuse it, start anew."""


@dataclass
class _Suspicion:
    """Messages that do not fit the present, in order of arrival."""

    held: list[Arrived] = field(default_factory=list[Arrived])
    run: list[Arrived] = field(default_factory=list[Arrived])
    contradictions: int = 0

    def add(self, arrived: Arrived) -> None:
        """Holds one more witness."""
        self.held.append(arrived)
        self.run.append(arrived)

    @property
    def sensors(self) -> list[str]:
        """Who suspects, since the last contradiction."""
        return sorted({arrived.item.sensor for arrived in self.run})

    def confirmed(self, only_one: bool) -> bool:
        """Whether these witnesses cannot all be wrong."""
        stamps = [arrived.stamp for arrived in self.run]
        span = max(stamps) - min(stamps)
        if len(self.sensors) > 1:
            return len(stamps) >= WITNESSES and span >= SPAN
        return len(stamps) >= ALONE and span >= (SPAN if only_one else ALONE_SPAN)

    def contradict(self) -> bool:
        """A message of the present; True if the suspicion ends."""
        self.contradictions += 1
        self.run = []
        return self.contradictions >= CONTRADICTIONS

    def drop(self) -> list[Arrived]:
        """Ends it; what was held."""
        held, self.held, self.run, self.contradictions = self.held, [], [], 0
        return held


class Timeline:
    """Sorts measurements into the present, the future, and a time that began anew.

    Args:
        config: Limits, the window and the sensors.
    """

    def __init__(self, config: EstimatorConfig) -> None:
        self.reconfigure(config)
        self._back, self._ahead = _Suspicion(), _Suspicion()
        self._last: dict[str, int] = {}
        self._newest = 0
        self._clock = 0
        self._latency = 0
        self._clock_leapt = False
        self._stragglers_until: int | None = None

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over a configuration of the same sensors."""
        self._offsets = {s.name: round(s.stamp_offset * 1e9) for s in config.sensors}
        self._only_one = sum(s.enabled for s in config.sensors) == 1
        self._threshold = round(config.time.jump_threshold * 1e9)
        self._future = round(config.time.stamp_future_limit * 1e9)
        self._gap = round(config.window.duration * 1e9)
        self._ignore_back = config.time.on_jump_back == "ignore"

    @property
    def newest(self) -> int:
        """Newest stamp of the present [ns]; 0 before the first."""
        return self._newest

    @property
    def clock(self) -> int:
        """The newest clock of the present [ns]; the newest stamp if none was given."""
        return self._clock or self._newest

    @property
    def present(self) -> int:
        """What data of now would be stamped [ns]: the clock less their latency; 0: unknown."""
        return max(self._newest, self._clock - self._latency if self._clock else 0)

    @property
    def held(self) -> dict[str, int]:
        """Sensor → measurements that are held."""
        out: dict[str, int] = {}
        for arrived in (*self._back.held, *self._ahead.held):
            out[arrived.item.sensor] = out.get(arrived.item.sensor, 0) + 1
        return out

    def tick(self, clock: int) -> list[Action]:
        """Time passed without data, until ``clock`` [ns]."""
        if self._stragglers_until is not None and clock < self._clock:
            self._stragglers_until, self._clock = None, clock
            return []
        if self._ignore_back:
            self._clock = clock
            return []
        if self._clock and clock < self._clock - self._threshold:
            why = f"the clock went back by {(self._clock - clock) * 1e-9:.3f} s"
            return self._jumped(True, 0, [], why, clock)
        self._pass(clock)
        return []

    def jump(self, backward: bool, why: str) -> list[Action]:
        """The clock's owner says that it jumped."""
        if not backward:
            self._clock_leapt = True
            return []
        if self._ignore_back:
            self._clock = 0
            return []
        clock = self._clock
        actions = self._jumped(True, 0, [], why, None)
        # What was received before the jump may still be on its way here.
        self._clock, self._stragglers_until = clock, clock + STRAGGLING if clock else None
        return actions

    def observe(self, item: Measurement, clock: int | None) -> list[Action]:
        """Sorts one measurement; it is used, refused or held."""
        arrived = Arrived(item, item.stamp + self._offsets[item.sensor], clock)
        if self._straggles(clock):
            text = "it was received before the clock jumped back"
            return [Refused(item, Reason.PAUSED, text)]
        if clock is not None and arrived.stamp > clock + self._future:
            self._pass(clock)
            return [arrived]  # refused at the estimator's door; no witness of any time but this
        if self._is_back(arrived):
            return self._suspect_back(arrived)
        if self._is_ahead(arrived):
            return self._suspect_ahead(arrived)
        if clock is not None:
            self._pass(clock)
        return self._present(arrived)

    def finish(self) -> list[Action]:
        """The end of a recording: what is held is settled as what it most likely is."""
        return [*self._back.drop(), *self._too_far(self._ahead.drop())]

    def clear(self, keep_clock: bool = False) -> list[Arrived]:
        """Forgets what time it is, or the stamps alone; what was held."""
        held = [*self._back.drop(), *self._ahead.drop()]
        self._last, self._newest, self._clock_leapt = {}, 0, False
        self._clock, self._stragglers_until = self._clock if keep_clock else 0, None
        return held

    def _straggles(self, clock: int | None) -> bool:
        """Whether a message is from before a clock's jump that was announced."""
        if self._stragglers_until is None or clock is None:
            return False
        # One that waited here is a little older than the time that has passed meanwhile.
        back = clock < self._clock - self._threshold // 2
        if back or clock > self._stragglers_until:
            self._stragglers_until, self._clock = None, clock
            return False
        self._clock = max(self._clock, clock)
        return True

    def _pass(self, clock: int) -> None:
        if self._clock and clock - self._clock > self._gap:
            self._clock_leapt = True
        self._clock = max(self._clock, clock)

    def _is_back(self, arrived: Arrived) -> bool:
        """Whether it is behind its own sensor's past, or a new sensor's behind everyone's."""
        if self._ignore_back or not self._newest:
            return False
        own = self._last.get(arrived.item.sensor, self._newest)
        return arrived.stamp < own - self._threshold

    def _is_ahead(self, arrived: Arrived) -> bool:
        """Whether it leaves a gap longer than the window that no clock saw pass."""
        if not self._newest or arrived.stamp <= self._newest + self._gap:
            return False
        clock = arrived.clock
        seen = clock is not None and self._clock and not self._clock_leapt
        return not seen or clock is None or clock - self._clock > self._gap

    def _suspect_back(self, arrived: Arrived) -> list[Action]:
        self._back.add(arrived)
        clock = arrived.clock
        by_clock = clock is not None and clock < self._clock - self._threshold
        if by_clock or self._back.confirmed(self._only_one):
            seconds = (self._newest - arrived.stamp) * 1e-9
            who = ", ".join(self._back.sensors)
            why = f"the stamps of {who} went back by {seconds:.3f} s"
            return self._jumped(True, arrived.stamp, self._back.drop(), why, clock)
        if len(self._back.held) > MOST_HELD:
            return self._release(self._back.drop())
        return []

    def _suspect_ahead(self, arrived: Arrived) -> list[Action]:
        """Held until others confirm; a clock that leapt as far has confirmed it already."""
        self._ahead.add(arrived)
        clock = arrived.clock
        if clock is not None or self._ahead.confirmed(self._only_one):
            seconds = (arrived.stamp - self._newest) * 1e-9
            who = ", ".join(self._ahead.sensors)
            why = f"the stamps of {who} went ahead by {seconds:.3f} s, more than the window"
            return self._jumped(False, arrived.stamp, self._ahead.drop(), why, clock)
        return []

    def _present(self, arrived: Arrived) -> list[Action]:
        """A message that fits; it speaks against a jump if it is no late one."""
        out: list[Action] = []
        sensor = arrived.item.sensor
        if arrived.stamp >= self._newest - self._threshold:
            if self._back.held and self._back.contradict():
                out += self._release(self._back.drop())
            if self._ahead.held and self._ahead.contradict():
                out += self._too_far(self._ahead.drop())
        self._last[sensor] = max(self._last.get(sensor, 0), arrived.stamp)
        self._advance(arrived)
        self._clock_leapt = False
        return [*out, arrived]

    def _release(self, held: list[Arrived]) -> list[Action]:
        """No jump: late data. A sensor that stays behind has a clock of its own."""
        for arrived in held:
            self._last[arrived.item.sensor] = arrived.stamp
        return list(held)

    def _too_far(self, held: list[Arrived]) -> list[Action]:
        return [
            Refused(
                a.item,
                Reason.FUTURE_STAMP,
                f"stamp is {(a.stamp - self._newest) * 1e-9:.3f} s ahead of all others",
            )
            for a in held
        ]

    def _jumped(
        self, backward: bool, after: int, held: list[Arrived], why: str, clock: int | None
    ) -> list[Action]:
        """A new time begins, with the messages that revealed it; what else was held is of none."""
        before, new = self._newest, [a for a in held if abs(a.stamp - after) <= self._gap]
        out: list[Action] = [
            Refused(a.item, Reason.TOO_LATE, "time jumped while it was open what time it is")
            for a in (*self.clear(), *held)
            if a not in new
        ]
        first = min((a.stamp for a in new), default=0)
        out.append(Jump(backward, before, after, first, why))
        self._clock = clock or 0
        for arrived in new:
            self._last[arrived.item.sensor] = arrived.stamp
            self._advance(arrived)
        return [*out, *new]

    def _advance(self, arrived: Arrived) -> None:
        """The newest stamp, and how far it is behind the clock."""
        if arrived.stamp >= self._newest:
            self._newest = arrived.stamp
            self._latency = 0 if arrived.clock is None else arrived.clock - arrived.stamp
