"""The door of the estimator: each measurement is counted, checked and queued, or rejected.

A rejection has one reason and a sentence.

Accounting, always and per sensor: received = accepted + Σ rejected + waiting.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dnls_ros.window.config import EstimatorConfig, SensorConfig
from dnls_ros.window.content import check_content
from dnls_ros.window.custom import expected_type
from dnls_ros.window.evidence import NAN, Evidence
from dnls_ros.window.measurements import (
    ContactMeasurement,
    Measurement,
    Reason,
    Rejection,
    RelativePoseMeasurement,
    TactileImageMeasurement,
)

REMEMBERED_STAMPS = 1 << 16
"""At most, per sensor, to recognize duplicates: a window of 60 s at 1 kHz."""
REMEMBERED_WINDOWS = 4
"""Older stamps are forgotten: what comes with them is too late, whether it is new or not."""
LOG_LENGTH = 1 << 16
"""Settled measurements that wait for `Ingress.drain`; older ones are forgotten."""
LATEST_STAMP = 1 << 62
"""In the year 2116 [ns]: later stamps do not leave room for arithmetic in 64 bits."""

Verdict = tuple[Reason, str]


@dataclass
class SensorCounters:
    """One sensor's account."""

    received: int = 0
    accepted: int = 0
    waiting: int = 0
    rejected: dict[Reason, int] = field(default_factory=dict[Reason, int])
    last_problem: str = ""

    @property
    def balanced(self) -> bool:
        """Whether received = accepted + Σ rejected + waiting."""
        return self.received == self.accepted + sum(self.rejected.values()) + self.waiting


@dataclass(frozen=True)
class Settled:
    """What became of one measurement, for logs.

    Attributes:
        sensor, sequence, stamp: Which measurement.
        reason: ACCEPTED, or why not.
        text: A sentence, empty if accepted.
        frame: ``header.frame_id`` as received; '' if the message was no measurement.
        latency: Clock at arrival minus stamp [s]; NaN if unknown.
        evidence: Why, in numbers, where there are any.
    """

    sensor: str
    sequence: int
    stamp: int
    reason: Reason
    text: str
    frame: str = ""
    latency: float = NAN
    evidence: Evidence | None = None


@dataclass(order=True)
class _Queued:
    key: tuple[int, int, int]
    measurement: Measurement = field(compare=False)


class Ingress:
    """Counts, checks and queues measurements by (stamp, sensor, sequence).

    Args:
        config: The sensors.
        too_late: Whether a measurement can never be used any more. Asked at the door, so that
            nothing piles up when all stamps jump back and no step becomes due.
    """

    def __init__(
        self,
        config: EstimatorConfig,
        too_late: Callable[[Measurement], Verdict | None] = lambda _: None,
    ) -> None:
        self.sensors = {s.name: s for s in config.sensors}
        self.order = {s.name: k for k, s in enumerate(config.sensors)}
        self.counters = {s.name: SensorCounters() for s in config.sensors}
        self.future_limit = round(config.time.stamp_future_limit * 1e9)
        self._queue: list[_Queued] = []
        self._log: deque[Settled] = deque(maxlen=LOG_LENGTH)
        self._too_late = too_late
        self._memory = round(REMEMBERED_WINDOWS * config.window.duration * 1e9)
        self._seen = {s.name: _Recent(self._memory) for s in config.sensors}
        self._last_used = dict.fromkeys(self.sensors, -(1 << 62))
        self._since: dict[str, int] = {}
        self._sequence = dict.fromkeys(self.sensors, 0)
        self._latency: dict[int, float] = {}  # of what is not settled, by its identity

    def feed(self, item: Measurement | Rejection, now: int | None) -> Reason | None:
        """Takes one measurement in: None if it waits for a solve, else why it is rejected.

        Args:
            item: A measurement, or a message that could not become one.
            now: The clock [ns], to recognize stamps of the future; None does not look.

        Raises:
            KeyError: The sensor is not configured (the caller's mistake, not the data's).
        """
        counters = self.counters[item.sensor]
        counters.received += 1
        if isinstance(item, Rejection):
            return self._reject(item, (item.reason, item.text))
        sensor = self.sensors[item.sensor]
        if sensor.stamp_offset:
            item = _moved(item, round(sensor.stamp_offset * 1e9))
        if now is not None:
            self._latency[id(item)] = (now - item.stamp) * 1e-9
        verdict = self._check(sensor, item, now)
        if verdict is not None:
            return self._reject(item, verdict)
        counters.waiting += 1
        sequence = self._sequence[item.sensor]
        self._sequence[item.sensor] += 1
        bisect.insort(self._queue, _Queued((item.stamp, self.order[item.sensor], sequence), item))
        return None

    def _reject(
        self,
        item: Measurement | Rejection,
        verdict: Verdict,
        evidence: Evidence | None = None,
    ) -> Reason:
        reason, text = verdict
        counters = self.counters[item.sensor]
        counters.rejected[reason] = counters.rejected.get(reason, 0) + 1
        counters.last_problem = f"{reason.name}: {text}"
        self._note(item, reason, text, evidence)
        return reason

    def _note(
        self,
        item: Measurement | Rejection,
        reason: Reason,
        text: str,
        evidence: Evidence | None,
    ) -> None:
        sequence, frame = (
            (item.sequence, item.frame) if isinstance(item, Measurement) else (-1, "")
        )
        latency = self._latency.pop(id(item), NAN)
        settled = Settled(
            item.sensor, sequence, item.stamp, reason, text, frame, latency, evidence
        )
        self._log.append(settled)

    def drain(self) -> list[Settled]:
        """What was settled since the last call, in order."""
        log = list(self._log)
        self._log.clear()
        return log

    def take(self, now: int) -> list[Measurement]:
        """Removes what is stamped at or before ``now``, in order; settle each or `put_back` it."""
        end = bisect.bisect_right(self._queue, (now, 1 << 62, 1 << 62), key=lambda q: q.key)
        taken, self._queue = self._queue[:end], self._queue[end:]
        return [q.measurement for q in taken]

    def put_back(self, measurements: list[Measurement]) -> None:
        """Returns measurements that must wait for others."""
        for index, m in enumerate(measurements):
            key = (m.stamp, self.order[m.sensor], index - (1 << 40))
            bisect.insort(self._queue, _Queued(key, m))

    def settle(
        self,
        measurement: Measurement,
        verdict: Verdict | None,
        evidence: Evidence | None = None,
    ) -> None:
        """Ends the waiting of one measurement: accepted (None) or rejected."""
        counters = self.counters[measurement.sensor]
        counters.waiting -= 1
        if verdict is None:
            counters.accepted += 1
            self._note(measurement, Reason.ACCEPTED, "", evidence)
        else:
            self._reject(measurement, verdict, evidence)

    def clear(self, reason: Reason, text: str) -> None:
        """Rejects everything that waits, and forgets which stamps were seen."""
        for queued in self._queue:
            self.settle(queued.measurement, (reason, text))
        self._since = {}
        self._queue = []
        self._seen = {name: _Recent(self._memory) for name in self.sensors}
        self._last_used = dict.fromkeys(self.sensors, -(1 << 62))

    @property
    def waiting(self) -> int:
        """Measurements in the queue."""
        return len(self._queue)

    def _check(self, sensor: SensorConfig, m: Measurement, now: int | None) -> Verdict | None:
        if not sensor.enabled:
            return Reason.SENSOR_DISABLED, "the sensor is disabled"
        expected = expected_type(sensor)
        if not isinstance(m, expected):
            text = f"got a {type(m).__name__}, sensor '{sensor.name}' takes a {expected.__name__}"
            return Reason.BAD_SHAPE, text
        if m.stamp <= 0:
            return Reason.ZERO_STAMP, f"stamp is {m.stamp} ns"
        if m.stamp > LATEST_STAMP:
            return Reason.FUTURE_STAMP, f"stamp is {m.stamp} ns, beyond the year 2116"
        if now is not None and m.stamp > now + self.future_limit:
            return (
                Reason.FUTURE_STAMP,
                f"stamp is {(m.stamp - now) * 1e-9:.3f} s ahead of the clock",
            )
        if not (m.frame or sensor.frame_override):
            return (
                Reason.EMPTY_FRAME,
                "header.frame_id is empty; set frame_override if that is meant",
            )
        return check_content(m) or self._too_late(m) or self._check_history(sensor, m)

    def _check_history(self, sensor: SensorConfig, m: Measurement) -> Verdict | None:
        key = (m.stamp, m.stamp_from) if isinstance(m, RelativePoseMeasurement) else (m.stamp, 0)
        if not self._seen[sensor.name].add(key):
            return Reason.DUPLICATE, f"a measurement stamped {m.stamp} ns was received before"
        throttle = round(sensor.throttle * 1e9)
        if isinstance(m, ContactMeasurement) and m.since != self._since.get(m.sensor, 0):
            self._since[m.sensor] = m.since  # a contact that begins or ends is never left out
            throttle = 0
        # Several of one stamp, such as an image's pairs, are one.
        if 0 < abs(m.stamp - self._last_used[sensor.name]) < throttle:
            return Reason.THROTTLED, f"closer than {sensor.throttle} s to the last used one"
        self._last_used[sensor.name] = m.stamp
        return None


def _moved(m: Measurement, by: int) -> Measurement:
    """The measurement with all its stamps moved [ns]."""
    if isinstance(m, RelativePoseMeasurement):
        return replace(m, stamp=m.stamp + by, stamp_from=m.stamp_from + by)
    if isinstance(m, ContactMeasurement):
        m = replace(m, since=m.since + by if m.since else 0)
    if isinstance(m, TactileImageMeasurement):
        moved = tuple(
            replace(r, stamp=r.stamp + by, stamp_from=r.stamp_from + by) for r in m.relatives
        )
        m = replace(m, relatives=moved)
    return replace(m, stamp=m.stamp + by)


class _Recent:
    """The keys (stamp, …) seen of late.

    Args:
        span: How much older than the newest a stamp may be to be remembered [ns].
    """

    def __init__(self, span: int) -> None:
        self._span = span
        self._newest = 0
        self._order: deque[tuple[int, int]] = deque()
        self._known: set[tuple[int, int]] = set()

    def add(self, key: tuple[int, int]) -> bool:
        """False if the key is known."""
        if key in self._known:
            return False
        self._newest = max(self._newest, key[0])
        self._order.append(key)
        self._known.add(key)
        oldest = self._newest - self._span
        while self._order[0][0] < oldest or len(self._order) > REMEMBERED_STAMPS:
            self._known.discard(self._order.popleft())
        return True
