"""The doctor: looks at every message of a recording or a running system and says what is wrong.

``Doctor.observe`` takes messages as they come, from a bag (``io.doctor_bag``) or from live topics
(``ros.doctor_node``); ``Doctor.report`` draws figures, findings and suggestions from what was
kept, which is 16 to 32 bytes a message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dnls_ros.io.doctor_codes import Finding, Severity, finding
from dnls_ros.io.doctor_judge import Times, judge, times_of
from dnls_ros.io.doctor_system import (
    Need,
    Shifted,
    View,
    base_frame,
    judge_availability,
    judge_cameras,
    judge_clocks,
    judge_configuration,
    judge_shifts,
    judge_tree,
    needs_of,
    shifts_of,
)
from dnls_ros.io.doctor_tf import Availability, TransformLog
from dnls_ros.io.doctor_topics import Offer, TopicLog
from dnls_ros.window.config import EstimatorConfig

TF_TIMEOUT = 0.1
"""How long a transform may be late where nothing is configured [s]: the default of tf.timeout."""
LAG = 2.0
"""Default of window.duration [s]."""
LONGEST_LAG = 60.0


@dataclass(frozen=True)
class TopicReport:
    """The figures of one topic; None where a figure cannot be told.

    Attributes:
        severity: The worst of its findings.
        rate: [Hz] one over the median interval of the header stamps (without: receive stamps).
        jitter: 95th percentile of |interval − median| [s].
        gaps, longest_gap: Intervals of more than three medians and 50 ms, and the longest [s].
        backward, duplicates, zero, future: Counts of stamps.
        latency, latency_p95, latency_max, drift: Of receive minus header [s], [s/s].
        frames, child_frames: Counts by name.
        size: Mean [byte]; ``bandwidth`` [byte/s].
        covariances: Counts by field and class.
        images: Counts by ``WxH encoding``.
        tf: Share of stamps with a transform, by ``source -> target``.
        qos: What publishers offer.
        sensors: The configured sensors that read it.
    """

    name: str
    type: str
    severity: Severity
    count: int
    rate: float | None
    jitter: float | None
    gaps: int
    longest_gap: float | None
    backward: int
    duplicates: int
    zero: int
    future: int
    latency: float | None
    latency_p95: float | None
    latency_max: float | None
    drift: float | None
    frames: dict[str, int]
    child_frames: dict[str, int]
    size: float
    bandwidth: float
    covariances: dict[str, dict[str, int]]
    images: dict[str, int]
    tf: dict[str, float]
    qos: list[str]
    sensors: list[str]


@dataclass(frozen=True)
class Report:
    """Everything the doctor has to say.

    Attributes:
        source: The recording, or ``live``.
        storage: ``mcap``, ``sqlite3``, ``ros1`` or ``live``.
        start, end: First and last receive stamp [ns].
        topics: By name.
        findings: The gravest first.
        tree: The tf tree as lines.
        base: The body's frame, or ``""``.
        window: Suggested window.duration [s], and why in ``window_reason``.
        offsets: Suggested stamp_offset [s] by topic.
        shifts: Lags found by correlating turn rates.
        flat: Topics with poses that never leave the plane.
    """

    source: str
    storage: str
    start: int
    end: int
    topics: tuple[TopicReport, ...]
    findings: tuple[Finding, ...]
    tree: tuple[str, ...]
    base: str
    window: float
    window_reason: str
    offsets: dict[str, float]
    shifts: tuple[Shifted, ...] = ()
    flat: frozenset[str] = field(default_factory=frozenset)

    @property
    def severity(self) -> Severity:
        """The worst finding's."""
        return max((one.severity for one in self.findings), default=Severity.OK)

    def to_json(self) -> dict[str, Any]:
        """As plain values, finite numbers and names of severities."""
        return {
            "source": self.source,
            "storage": self.storage,
            "start": self.start,
            "end": self.end,
            "duration": (self.end - self.start) / 1e9,
            "severity": self.severity.name,
            "topics": [{**asdict(t), "severity": t.severity.name} for t in self.topics],
            "findings": [{**asdict(f), "severity": f.severity.name} for f in self.findings],
            "tf": list(self.tree),
            "base_frame": self.base,
            "window_duration": self.window,
            "window_reason": self.window_reason,
            "stamp_offsets": self.offsets,
        }


class Doctor:
    """Takes messages and judges them.

    Args:
        config: An estimator's configuration to compare with; without one, everything that an
            estimator could read is judged as if it were used.
        live: The messages come from running publishers.
    """

    def __init__(self, config: EstimatorConfig | None = None, live: bool = False) -> None:
        """Starts with nothing seen."""
        self.config = config
        self.live = live
        self.topics: dict[str, TopicLog] = {}
        self.tf = TransformLog()
        self._own: list[Finding] = []

    def announce(
        self,
        topic: str,
        type_name: str = "",
        offers: Sequence[Offer] = (),
        expected: int | None = None,
        defined: bool = True,
    ) -> TopicLog:
        """Makes a topic known, also one that will carry no message.

        Args:
            topic: Its name.
            type_name: Its type, ``"pkg/msg/Name"``.
            offers: The QoS of its publishers.
            expected: Messages that the index promises.
            defined: Whether the type can be decoded.
        """
        log = self.topics.setdefault(topic, TopicLog(topic))
        if type_name:
            log.types[type_name] += 0
        log.offers.extend(offers)
        log.undefined |= not defined
        if expected is not None:
            log.expected = expected + (log.expected or 0)
        return log

    def observe(
        self, topic: str, type_name: str, message: Any, receive_stamp: int, size: int = 0
    ) -> None:
        """Takes a message.

        Args:
            topic: Where it came.
            type_name: ``"pkg/msg/Name"``.
            message: Any object with the type's attributes, a ``HeaderOnly``, or None where its
                type is not known.
            receive_stamp: When it came [ns].
            size: Serialized [byte].
        """
        log = self.topics.get(topic) or self.announce(topic, type_name)
        log.add(type_name, message, receive_stamp, size)
        if log.is_tf and message is not None:
            self.tf.add(message, receive_stamp, log.is_static_tf)

    def fail(self, topic: str, type_name: str, receive_stamp: int, size: int, text: str) -> None:
        """Takes a message that cannot be decoded, and why."""
        self.announce(topic, type_name).fail(type_name, receive_stamp, size, text)

    def note(self, item: Finding) -> None:
        """Adds a finding of whoever feeds us, on the file or on the graph."""
        self._own.append(item)

    def report(self, source: str, storage: str) -> Report:
        """Judges what was seen so far."""
        begin, end = self._span()
        view = View(self.topics, {}, self.tf, self.config, self.live)
        times = {
            name: times_of(log, begin, view.limits_of(log)) for name, log in self.topics.items()
        }
        view = View(self.topics, times, self.tf, self.config, self.live)
        base, shifts = base_frame(view), shifts_of(view)
        available = {name: list(self._available(view, log, base)) for name, log in _each(self)}
        findings = [*self._own, *_findings(view, available, shifts)]
        findings.sort(key=lambda one: (-one.severity, one.topic))
        window, reason = _window(view)
        return Report(
            source=source,
            storage=storage,
            start=begin,
            end=end,
            topics=tuple(
                _topic_report(view, log, findings, available[name], (end - begin) / 1e9)
                for name, log in _each(self)
            ),
            findings=tuple(findings),
            tree=tuple(self.tf.tree()),
            base=base,
            window=window,
            window_reason=reason,
            offsets={one.topic: -round(one.shift.lag, 4) for one in shifts if one.certain},
            shifts=tuple(shifts),
            flat=frozenset(name for name, log in self.topics.items() if log.flat),
        )

    def _span(self) -> tuple[int, int]:
        stamps = [s for log in self.topics.values() if log.receive
                  for s in (min(log.receive), max(log.receive))]  # fmt: skip
        return (min(stamps), max(stamps)) if stamps else (0, 0)

    def _available(
        self, view: View, log: TopicLog, base: str
    ) -> Iterator[tuple[Need, Availability]]:
        stamps, receive = log.header_stamps()
        valid = stamps != 0
        for need in needs_of(view, log, base):
            found = self.tf.availability(need.target, need.source, stamps[valid], receive[valid])
            yield need, found


def _each(doctor: Doctor) -> list[tuple[str, TopicLog]]:
    return sorted(doctor.topics.items())


def _findings(
    view: View,
    available: dict[str, list[tuple[Need, Availability]]],
    shifts: list[Shifted],
) -> Iterator[Finding]:
    """Everything found, with one line instead of many where all topics share a clock problem."""
    timeout = TF_TIMEOUT if view.config is None else view.config.tf.timeout
    stamped = [t for t in view.times.values() if t.headers > t.zero]
    apart = [t.other_clock for t in stamped if t.other_clock is not None]
    together = len(stamped) > 1 and len(apart) == len(stamped)
    if together:
        text = f"on all topics, by {min(apart):.6g} s at least (played back without use_sim_time?)"
        yield finding("CLOCKS_DIFFER", text, severity=Severity.WARN)
    for name, log in sorted(view.topics.items()):
        if not log.count:
            if not view.sensors_of(log) and view.most(log) > Severity.INFO:
                yield finding("TOPIC_EMPTY", "no messages", name, Severity.INFO)
            continue
        for item in judge(log, view.times[name], view.most(log), view.limits_of(log)):
            if not (together and item.code == "CLOCKS_DIFFER"):
                yield item
        for need, found in available[name]:
            yield from judge_availability(log, need, found, timeout, bool(view.tf.edges))
    yield from judge_configuration(view)
    yield from judge_tree(view.tf)
    yield from judge_cameras(view)
    yield from judge_clocks(view)
    yield from judge_shifts(shifts)


def _topic_report(
    view: View,
    log: TopicLog,
    findings: Sequence[Finding],
    available: Sequence[tuple[Need, Availability]],
    duration: float,
) -> TopicReport:
    times: Times = view.times[log.name]
    pace, latency, order = times.pace, times.latency, times.order
    own = [one.severity for one in findings if one.topic == log.name]
    return TopicReport(
        name=log.name,
        type=" | ".join(sorted(log.types)),
        severity=max(own, default=Severity.OK),
        count=log.count,
        rate=pace.rate if pace else None,
        jitter=pace.jitter if pace and times.headers else None,
        gaps=pace.gaps if pace and times.headers else 0,
        longest_gap=pace.longest if pace and times.headers else None,
        backward=order.backward,
        duplicates=order.duplicates,
        zero=times.zero,
        future=times.future,
        latency=latency.median if latency else None,
        latency_p95=latency.p95 if latency else None,
        latency_max=latency.largest if latency else None,
        drift=latency.drift if latency else None,
        frames=dict(log.frames),
        child_frames=dict(log.child_frames),
        size=log.size / max(log.count, 1),
        bandwidth=log.size / duration if duration > 0 else 0.0,
        covariances={k: dict(v.classes) for k, v in log.values.covariances.items()},
        images={_image(*key): n for key, n in log.images.items()},
        tf={f"{n.source} -> {n.target}": a.share for n, a in available},
        qos=sorted({str(offer) for offer in log.offers}),
        sensors=[s.name for s in view.sensors_of(log)],
    )


def _image(width: int | None, height: int | None, code: str) -> str:
    return f"{width}x{height} {code}" if width is not None else code


def _window(view: View) -> tuple[float, str]:
    """A window that outlasts the slowest sensor's latency and three of its periods."""
    needed, reason = LAG, f"the default; no sensor asks for more than {LAG:g} s"
    for name, log in sorted(view.topics.items()):
        times = view.times[name]
        if not log.measures or times.pace is None or view.most(log) < Severity.ERROR:
            continue
        delay = times.latency.p95 if times.latency is not None else 0.0
        period = float(np.clip(times.pace.period, 0.0, LONGEST_LAG))
        own = min(2.0 * max(delay, 0.0) + 3.0 * period, LONGEST_LAG)
        if own > needed:
            needed = own
            reason = (
                f"twice the latency (p95 {delay:.3g} s) and three periods ({period:.3g} s) "
                f"of {name}"
            )
    return float(np.ceil(2.0 * needed) / 2.0), reason
