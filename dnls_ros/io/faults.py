"""Faults on demand: what goes wrong between a sensor and the estimator.

A fault is written ``kind:target:key=value,…``, for example ``drop:odom:p=0.1``; the target is a
topic, a sensor name that the caller maps to a topic, or ``*`` for every topic. The same faults
serve simulated recordings and replays: records come in order of receive time and leave in order of
receive time, each fault draws from its own seeded stream, and messages are changed by copying.

    drop       p         the message is lost
    delay      s         every message is received s [s] later; its header stamp stays
    jitter     s         every message is received up to s [s] later, at random
    reorder    p, s      the message is received s [s] later, behind its successors
    duplicate  p         the message is received twice
    nan        p         all measured numbers of the message, not its covariances, become NaN
    outliers   p, scale  measured values get noise of ``scale`` of their own standard deviations,
                         tag corners of ``scale`` pixels
    time_jump  at, s     header stamps move by s [s] from ``at`` [s] after the first record on
    clock_pause          messages are received at the moment at which the fault began
    zero_stamp p         the header stamp is 0
    future_stamp p, s    the header stamp is s [s] later
    empty_frame p        the header names no frame
    bad_quaternion p     orientations are all zero
    zero_covariance, negative_covariance, huge_covariance, asymmetric_covariance, nan_covariance
               p         covariances are: all zero; of negative variances; 1e12 on the diagonal;
                         not symmetric; NaN

``p`` is the probability that it happens to a message. Every kind also takes ``at`` and ``for``
[s]: it then happens only from ``at`` after the first record on, for so long (default: to the
end). A sensor that drops out and returns is ``drop:odom:p=1,at=10,for=2``.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnls_ros.errors import DnlsError
from dnls_ros.io.bag import Record
from dnls_ros.io.spoil import (
    COVARIANCE_FAULTS,
    shift_stamp,
    with_covariances,
    with_header,
    with_numbers,
    with_outliers,
    without_orientation,
)

KEYS: Mapping[str, tuple[str, ...]] = {
    "drop": ("p",),
    "delay": ("s",),
    "jitter": ("s",),
    "reorder": ("p", "s"),
    "duplicate": ("p",),
    "nan": ("p",),
    "outliers": ("p", "scale"),
    "time_jump": ("at", "s"),
    "clock_pause": ("at", "for"),
    "zero_stamp": ("p",),
    "future_stamp": ("p", "s"),
    "empty_frame": ("p",),
    "bad_quaternion": ("p",),
    **{f"{name}_covariance": ("p",) for name in COVARIANCE_FAULTS},
}
"""Keys that a kind needs."""
TIMES = ("at", "for")
"""Keys that every kind takes."""
ANY_TOPIC = "*"
FOR_EVER = 1e9
"""Longer than any recording [s]."""


@dataclass(frozen=True)
class Fault:
    """A parsed fault: kind, target (topic, sensor name or ``*``) and its numbers by key."""

    kind: str
    target: str
    values: Mapping[str, float]


def parse_fault(text: str) -> Fault:
    """The fault that ``kind:target:key=value,…`` describes.

    Raises:
        DnlsError: the kind, a key or a value is wrong; the message lists the valid ones.
    """
    kind, target, pairs = _split(text)
    values: dict[str, float] = {}
    for pair in pairs:
        key, _, number = (part.strip() for part in pair.partition("="))
        if key not in (*KEYS[kind], *TIMES) or key in values:
            raise _wrong(text, f"key '{key}' is unknown or given twice", kind)
        values[key] = _number(text, key, number, kind)
    missing = [key for key in KEYS[kind] if key not in values]
    if missing:
        raise _wrong(text, f"key '{missing[0]}' is missing", kind)
    return Fault(kind, target, values)


def _split(text: str) -> tuple[str, str, list[str]]:
    parts = text.split(":", 2)
    kind = parts[0].strip()
    if kind not in KEYS:
        raise _wrong(text, f"kind '{kind}' is unknown")
    if len(parts) < 3 or not parts[1].strip():
        raise _wrong(text, "a target or the key=value part is missing", kind)
    return kind, parts[1].strip(), parts[2].split(",")


def _number(text: str, key: str, number: str, kind: str) -> float:
    try:
        value = float(number)
    except ValueError:
        raise _wrong(text, f"'{number}' for key '{key}' is not a number", kind) from None
    within = 0.0 <= value <= 1.0 if key == "p" else value >= 0.0
    if key == "s" and kind == "time_jump":
        within = True  # back too; but nothing is received before it is sent
    if not np.isfinite(value) or not within:
        raise _wrong(text, f"{key}={number} is out of range", kind)
    return value


def _wrong(text: str, problem: str, kind: str | None = None) -> DnlsError:
    kinds = [kind] if kind else list(KEYS)
    forms = ", ".join(
        f"{name}:TOPIC:" + ",".join(f"{key}=…" for key in KEYS[name]) for name in kinds
    )
    forms += " (each also with at=…,for=…)"
    return DnlsError(f"fault '{text}': {problem}; expected {forms}")


class FaultInjector:
    """Applies faults, in the order given, to one stream of records.

    Attributes:
        counts: For each fault, how many messages it has changed, lost, delayed or doubled so far.
    """

    def __init__(
        self, faults: Sequence[Fault], seed: int = 0, names: Mapping[str, str] | None = None
    ) -> None:
        """Prepares the faults.

        Args:
            faults: From ``parse_fault``.
            seed: Every fault's own random stream derives from it and from the fault's place in the
                list.
            names: Every valid target and its topic; sensor names and topics. None accepts any
                topic.

        Raises:
            DnlsError: a fault's target is none of ``names``.
        """
        self.faults = tuple(faults)
        self.counts = [0] * len(self.faults)
        self._topics = [_resolve(fault, names) for fault in self.faults]
        self._randoms = [np.random.default_rng([seed, k]) for k in range(len(self.faults))]

    def apply(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records as the estimator receives them, in order of receive time.

        Args:
            records: In order of receive time; read one by one, so that a long recording is never
                held in memory.
        """
        waiting: list[tuple[int, int, Record]] = []
        first_stamp: int | None = None
        pushed = 0
        for record in records:
            first_stamp = record.receive_stamp if first_stamp is None else first_stamp
            while waiting and waiting[0][0] < record.receive_stamp:
                yield heapq.heappop(waiting)[2]
            for received in self._through_all(record, first_stamp):
                heapq.heappush(waiting, (received.receive_stamp, pushed, received))
                pushed += 1
        while waiting:
            yield heapq.heappop(waiting)[2]

    def _through_all(self, record: Record, first_stamp: int) -> list[Record]:
        current = [record]
        for k, fault in enumerate(self.faults):
            if self._topics[k] not in (ANY_TOPIC, _bare(record.topic)):
                continue
            current = [
                received
                for one in current
                for received in self._through(k, fault, one, first_stamp)
            ]
        return current

    def _through(self, k: int, fault: Fault, record: Record, first_stamp: int) -> list[Record]:
        random, values = self._randoms[k], fault.values
        begin = first_stamp + _ns(values.get("at", 0.0))
        if random.uniform() >= values.get("p", 1.0) or record.receive_stamp < begin:
            return [record]
        if record.receive_stamp >= begin + _ns(values.get("for", FOR_EVER)):
            return [record]
        received = _received(fault, record, begin, random)
        # A message that has nothing to spoil is not counted.
        self.counts[k] += received != [record]
        return received


def _received(
    fault: Fault, record: Record, begin: int, random: np.random.Generator
) -> list[Record]:
    """What arrives of a record that the fault hits."""
    if fault.kind == "drop":
        return []
    if fault.kind == "duplicate":
        return [record, record]
    if fault.kind == "clock_pause":
        return [dataclasses.replace(record, receive_stamp=begin)]
    if fault.kind in ("delay", "reorder", "jitter"):
        share = random.uniform() if fault.kind == "jitter" else 1.0
        later = record.receive_stamp + _ns(share * fault.values["s"])
        return [dataclasses.replace(record, receive_stamp=later)]
    changed = _changed(fault, record.message, random)
    if changed is record.message:
        return [record]
    return [dataclasses.replace(record, message=changed)]


def _changed(fault: Fault, message: Any, random: np.random.Generator) -> Any:
    if fault.kind == "nan":
        return with_numbers(message, lambda value: np.nan)
    if fault.kind == "outliers":
        return with_outliers(message, fault.values["scale"], random)
    if fault.kind == "zero_stamp":
        return with_header(message, stamp=0)
    if fault.kind == "empty_frame":
        return with_header(message, frame="")
    if fault.kind == "bad_quaternion":
        return without_orientation(message)
    if fault.kind.endswith("_covariance"):
        return with_covariances(message, COVARIANCE_FAULTS[fault.kind.removesuffix("_covariance")])
    return shift_stamp(message, _ns(fault.values["s"]))


def _resolve(fault: Fault, names: Mapping[str, str] | None) -> str:
    if fault.target == ANY_TOPIC or names is None:
        return _bare(fault.target)
    by_name = {_bare(name): topic for name, topic in names.items()}
    if _bare(fault.target) not in by_name:
        known = ", ".join(sorted(names)) or "none"
        raise DnlsError(
            f"fault '{fault.kind}:{fault.target}': no such sensor or topic; "
            f"known: {known}, or * for all"
        )
    return _bare(by_name[_bare(fault.target)])


def _bare(topic: str) -> str:
    return topic.lstrip("/")


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
