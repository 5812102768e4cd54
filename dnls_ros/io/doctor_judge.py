"""From what was kept of one topic to figures and findings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dnls_ros.io.doctor_codes import Finding, Severity, finding
from dnls_ros.io.doctor_time import (
    OTHER_CLOCK,
    Latency,
    Order,
    Pace,
    Stamps,
    latency_of,
    order_of,
    pace_of,
)
from dnls_ros.io.doctor_topics import CAMERA_INFO, IMAGE_TYPES, IMU, TopicLog
from dnls_ros.io.doctor_values import CovarianceLog

SLOW = 0.2
"""A larger median latency is worth a word [s]."""
FASTEST_DRIFT = 1e-4
"""A clock that drifts by more than 100 ppm is worth a word."""
MOST_LOST = 0.01
"""A larger share of missing messages is worth a word."""
BUSY = 20e6
"""A larger bandwidth is worth a word [byte/s]."""
REGULAR_TYPES = (
    "nav_msgs/msg/Odometry",
    "geometry_msgs/msg/TwistWithCovarianceStamped",
    IMU,
    CAMERA_INFO,
    *IMAGE_TYPES,
)
"""Types that come at a fixed rate; others may come on events (tags seen, AMCL updates)."""


ALWAYS = ("TYPES_SEVERAL", "DECODE_FAILED", "COUNT_MISMATCH", "ZERO_STAMP", "FUTURE_STAMP",
          "CLOCKS_DIFFER")  # fmt: skip
"""Of topics that the estimator does not use, only these are told."""


@dataclass(frozen=True)
class Times:
    """The figures of a topic's stamps.

    Attributes:
        begin: First receive stamp of everything that was looked at [ns].
        headers: How many messages have a header.
        zero, future: How many stamps are zero, or ahead of their receive stamp.
        ahead: How far at most [s].
        other_clock: Median of receive minus header where it is one of clocks [s], else None.
        pace: Of the header stamps, or of the receive stamps where there are none.
        latency: None where clocks differ or nothing is stamped.
    """

    begin: int
    headers: int
    zero: int
    future: int
    ahead: float
    other_clock: float | None
    pace: Pace | None
    order: Order
    latency: Latency | None


@dataclass(frozen=True)
class Limits:
    """What counts as too much, from the configuration where there is one [s]."""

    future: float = 0.1
    window: float | None = None


def times_of(log: TopicLog, begin: int, limits: Limits) -> Times:
    """The figures of a topic."""
    stamps, receive = log.header_stamps()
    if not len(stamps):
        everything = np.array(log.receive, np.int64)
        nothing = Order(0, 0.0, 0, 0)
        return Times(begin, 0, 0, 0, 0.0, None, pace_of(everything), nothing, None)
    zero = stamps == 0
    valid, came = stamps[~zero], receive[~zero]
    ahead = (valid - came) / 1e9
    apart = float(np.median(-ahead)) if len(ahead) else 0.0
    other = apart if abs(apart) > OTHER_CLOCK else None
    future = ahead > limits.future if other is None else np.zeros(len(ahead), bool)
    good, taken = valid[~future], came[~future]
    # A message whose stamp is nonsense is there all the same: no gap where it came.
    lost = np.concatenate([receive[zero], came[future]])
    delay = int(np.median(taken - good)) if len(good) else 0
    return Times(
        begin=begin,
        headers=len(stamps),
        zero=int(zero.sum()),
        future=int(future.sum()),
        ahead=float(ahead[future].max()) if future.any() else 0.0,
        other_clock=other,
        pace=pace_of(np.concatenate([_believable(good, taken), lost - delay])),
        order=order_of(good),
        latency=latency_of(good, taken) if other is None else None,
    )


def _believable(stamps: Stamps, receive: Stamps) -> Stamps:
    """Stamps without those far from all others, which would count as one enormous gap."""
    if not len(stamps):
        return stamps
    delay = (receive - stamps) / 1e9
    return stamps[np.abs(delay - np.median(delay)) < 0.5 * OTHER_CLOCK]


def judge(log: TopicLog, times: Times, most: Severity, limits: Limits) -> Iterator[Finding]:
    """Everything about one topic alone; findings weigh ``most`` at most.

    Of topics that the estimator does not use (``most`` is INFO) only ``ALWAYS`` is told.
    """
    for item in (
        *_judge_type(log),
        *_judge_stamps(log, times, limits),
        *_judge_pace(log, times),
        *_judge_frames(log),
        *_judge_values(log),
        *_judge_covariances(log),
        *_judge_images(log),
        *_judge_offers(log),
    ):
        if most <= Severity.INFO and item.code not in ALWAYS:
            continue
        severity = min(item.severity, most)
        yield Finding(severity, item.code, log.name, item.text)


def _share(part: int, whole: int) -> str:
    """A count as people say it: ``3 of 400 messages``, ``all 400 messages``."""
    if whole == 1:
        return "the one message"
    return f"all {whole} messages" if part == whole else f"{part} of {whole} messages"


def _seldom(part: int, whole: int) -> Severity:
    """Up to 1 % of the messages is a warning, more an error."""
    return Severity.WARN if part <= 0.01 * whole else Severity.ERROR


def _judge_type(log: TopicLog) -> Iterator[Finding]:
    if len(log.types) > 1:
        yield finding("TYPES_SEVERAL", f"carries {' and '.join(sorted(log.types))}")
    if log.undefined:
        yield finding("TYPE_UNKNOWN", f"no definition of {log.type}: only counted")
    if log.failures:
        yield finding("DECODE_FAILED", f"{_share(log.failures, log.count)}: {log.failure:.120}")
    if log.expected is not None and log.expected != log.count:
        yield finding("COUNT_MISMATCH", f"index: {log.expected} messages, read: {log.count}")


def _judge_stamps(log: TopicLog, times: Times, limits: Limits) -> Iterator[Finding]:
    count = times.headers
    if times.zero:
        yield finding(
            "ZERO_STAMP", f"{_share(times.zero, count)}", severity=_seldom(times.zero, count)
        )
    if times.other_clock is not None:
        yield finding("CLOCKS_DIFFER", f"receive minus header stamp is {times.other_clock:.4g} s")
    if times.future:
        text = f"{_share(times.future, count)}, up to {times.ahead:.3g} s ahead"
        yield finding("FUTURE_STAMP", text, severity=_seldom(times.future, count))
    order = times.order
    if order.backward:
        place = _at(order.backward_at, times)
        text = f"{order.backward} times, by up to {order.step:.3g} s, first at {place}"
        yield finding("BACKWARD_STAMP", text)
    if order.duplicates:
        yield finding("DUPLICATE_STAMP", f"{_share(order.duplicates, count)} repeat a stamp")
    yield from _judge_latency(times, limits)


def _judge_latency(times: Times, limits: Limits) -> Iterator[Finding]:
    latency = times.latency
    if latency is None or times.headers < 3:
        return
    if limits.window is not None and latency.p95 > limits.window:
        text = f"p95 {latency.p95:.3g} s, window {limits.window:g} s"
        yield finding("LATENCY_BEYOND_WINDOW", text)
    elif latency.median > SLOW:
        yield finding("LATENCY", f"median {latency.median:.3g} s, p95 {latency.p95:.3g} s")
    if latency.drift is not None and abs(latency.drift) > FASTEST_DRIFT:
        yield finding("CLOCK_DRIFT", f"the latency changes by {1e3 * latency.drift:+.3g} ms/s")


def _judge_pace(log: TopicLog, times: Times) -> Iterator[Finding]:
    pace = times.pace
    if pace is None:
        if 0 < times.headers < 3:
            yield finding("TOO_FEW", f"{log.count} message{'s' if log.count > 1 else ''}")
        return
    if times.headers == 0:
        return  # receive times scatter by themselves
    regular = any(name in REGULAR_TYPES for name in log.types)
    scatter = f"median {1e3 * pace.period:.3g} ms, p95 deviation {1e3 * pace.jitter:.3g} ms"
    longest = f"the longest {pace.longest:.3g} s at {_at(pace.longest_at, times)}"
    if pace.lost > MOST_LOST * times.headers:
        text = f"about {pace.lost} of {times.headers + pace.lost} messages are missing, {longest}"
        yield finding("GAPS", text)
    elif pace.jitter > 0.5 * pace.period and not regular:
        yield finding("IRREGULAR", f"{scatter}, {longest}")
    else:
        if pace.jitter > 0.5 * pace.period:
            yield finding("JITTER", scatter)
        if pace.gaps:
            yield finding("GAPS", f"{pace.gaps}, {longest}")
    if log.size / max(times.headers * pace.period, 1e-9) > BUSY:
        rate = log.size / (times.headers * pace.period) / 1e6
        yield finding("BANDWIDTH", f"{rate:.0f} MB/s")


def _at(stamp: int, times: Times) -> str:
    """A moment by the clock of the recording, from its beginning."""
    moment = (stamp - times.begin) / 1e9 + (times.other_clock or 0.0)
    return f"{max(moment, 0.0):.2f} s"


def _judge_frames(log: TopicLog) -> Iterator[Finding]:
    if log.is_tf or not log.frames:
        return
    for names, kind in ((log.frames, "frame_id"), (log.child_frames, "child_frame_id")):
        total, empty = sum(names.values()), names[""]
        if empty:
            severity = _seldom(empty, total) if kind == "frame_id" else Severity.WARN
            yield finding("EMPTY_FRAME", f"{kind} in {_share(empty, total)}", severity=severity)
        if len(names) > 1:
            counts = ", ".join(f"'{name}' {count}" for name, count in names.most_common(4))
            yield finding("FRAME_CHANGES", f"{kind}: {counts}")
        slashed = next((name for name in names if name.startswith("/")), None)
        if slashed is not None:
            yield finding("SLASH_FRAME", f"{kind} '{slashed}'")


def _judge_values(log: TopicLog) -> Iterator[Finding]:
    values = log.values
    if values.not_finite:
        worst = ", ".join(f"{name} ({n})" for name, n in values.not_finite.most_common(3))
        yield finding("NOT_FINITE", f"of {log.count} messages: {worst}")
    if values.quaternions:
        parts = ", ".join(
            f"{name} {'of length zero' if kind == 'zero' else 'not normalised'} in {n}"
            for (name, kind), n in values.quaternions.items()
        )
        text = f"{parts} of {log.count} messages, worst norm {values.worst_norm:.3g}"
        yield finding("BAD_QUATERNION", text)
    if log.refused:
        text = f"{_share(log.refused, log.count)}: {log.refusal:.150}"
        yield finding("MEASUREMENT_REFUSED", text)


_BAD_CLASSES = {
    "not_finite": "COVARIANCE_NOT_FINITE",
    "asymmetric": "COVARIANCE_ASYMMETRIC",
    "not_positive": "COVARIANCE_NOT_POSITIVE",
    "zero": "COVARIANCE_ZERO",
    "absent": "COVARIANCE_ABSENT",
    "partial": "COVARIANCE_PARTIAL",
}


def _judge_covariances(log: TopicLog) -> Iterator[Finding]:
    """One finding per code; the fields that it concerns are named together."""
    concerned: dict[str, list[str]] = {}
    for name, covariance in log.values.covariances.items():
        for code, text in _covariance_findings(covariance):
            concerned.setdefault(code, []).append(f"{_short(name)} {text}")
    imu = IMU in log.types
    for code, parts in concerned.items():
        mild = imu and code == "COVARIANCE_ZERO"
        yield finding(code, "; ".join(parts), severity=Severity.INFO if mild else None)


def _covariance_findings(log: CovarianceLog) -> Iterator[tuple[str, str]]:
    for kind, code in _BAD_CLASSES.items():
        if log.classes[kind]:
            yield code, f"in {_share(log.classes[kind], log.count)}"
    if log.huge:
        yield "COVARIANCE_HUGE", f"in {_share(log.huge, log.count)}"
    usable = log.classes["good"] + log.classes["partial"]
    if not log.changed and usable == log.count > 10:
        yield "COVARIANCE_CONSTANT", f"the same in all {log.count} messages"


def _short(name: str) -> str:
    """``pose.covariance`` as ``pose``, ``orientation_covariance`` as ``orientation``."""
    return name.removesuffix("covariance").rstrip("._") or "covariance"


def _judge_images(log: TopicLog) -> Iterator[Finding]:
    sizes = {(w, h) for w, h, _ in log.images if w is not None}
    codes = {code for _, _, code in log.images}
    if len(sizes) > 1:
        text = ", ".join(f"{w}x{h}" for w, h in sorted(sizes)[:4])
        yield finding("IMAGE_SIZE_CHANGES", text)
    if len(codes) > 1:
        yield finding("IMAGE_ENCODING_CHANGES", ", ".join(sorted(codes)[:4]))
    if len(log.calibrations) > 1:
        yield finding("CAMERA_INFO_CHANGES", f"{len(log.calibrations)} different ones")
    for width, height, *k in log.calibrations:
        fx, cx, fy, cy = k[0], k[2], k[4], k[5]
        inside = 0 < cx < (width or np.inf) and 0 < cy < (height or np.inf)
        if not (np.isfinite(k).all() and fx > 0 and fy > 0 and inside):
            text = f"fx {fx:g}, fy {fy:g}, cx {cx:g}, cy {cy:g} for {width}x{height}"
            yield finding("CAMERA_UNCALIBRATED", text)
            break


def _judge_offers(log: TopicLog) -> Iterator[Finding]:
    kinds = {(offer.reliable, offer.transient_local) for offer in log.offers}
    if log.is_static_tf:
        if log.offers and not all(offer.transient_local for offer in log.offers):
            yield finding("QOS_TF_STATIC", ", ".join(sorted({str(o) for o in log.offers})))
    elif len(kinds) > 1 and not log.is_tf:
        yield finding("QOS_MIXED", "; ".join(sorted({str(o) for o in log.offers})))
