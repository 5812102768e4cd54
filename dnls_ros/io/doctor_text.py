"""A doctor's report as text of at most 100 columns."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from dnls_ros.io.doctor import Report, TopicReport
from dnls_ros.io.doctor_codes import Severity
from dnls_ros.io.doctor_system import YEAR_2001

WIDTH = 100
_HEADS = ("topic", "type", "count", "Hz", "jitter", "gaps", "latency", "frame", "")
_MARK = {Severity.OK: "ok", Severity.INFO: "info", Severity.WARN: "WARN", Severity.ERROR: "ERROR"}
_TYPE = 19
_WIDTHS = [*((30, frame) for frame in range(28, 9, -1)), *((t, 10) for t in range(29, 11, -1))]
"""Widths tried for the columns of topics and frames, until the table fits."""


def as_text(report: Report) -> Iterator[str]:
    """The report in lines: the recording, a table of topics, the frames, findings, suggestions."""
    yield from _wrapped("", _head(report))
    yield ""
    yield from _table(report)
    if report.tree:
        yield ""
        yield "frames"
        for line in report.tree:
            depth = " " * (2 + len(line) - len(line.lstrip()))
            yield from textwrap.wrap(
                line.lstrip(), WIDTH, initial_indent=depth, subsequent_indent=depth + "    "
            )
    yield ""
    yield from _findings(report)
    yield ""
    yield from _wrapped("suggested  ", f"window.duration {report.window:g} s: "
                        f"{report.window_reason}")  # fmt: skip
    for topic, offset in report.offsets.items():
        yield from _wrapped("           ", f"stamp_offset {offset:+.3f} s for {topic}")
    counts = Counter(one.severity for one in report.findings)
    totals = ", ".join(f"{counts[s]} {_MARK[s]}" for s in reversed(Severity) if counts[s])
    yield f"result     {_MARK[report.severity]}" + (f" ({totals})" if totals else "")


def _head(report: Report) -> str:
    count = sum(topic.count for topic in report.topics)
    length = (report.end - report.start) / 1e9
    text = f"{report.source}  ({report.storage}) {length:.2f} s, {count} messages"
    if report.start >= YEAR_2001 * 10**9:
        begin = datetime.fromtimestamp(report.start / 1e9, tz=UTC)
        text += f", from {begin:%Y-%m-%d %H:%M:%S} UTC"
    return text


def _table(report: Report) -> Iterator[str]:
    rows, widths = [_HEADS], [0]
    for limits in _WIDTHS:
        rows = [_HEADS, *(_row(topic, *limits) for topic in report.topics)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(_HEADS))]
        if sum(widths) + len(widths) - 1 <= WIDTH:
            break
    for number, row in enumerate(rows):
        left = {0, 1, 7, 8}
        cells = [
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield " ".join(cells).rstrip()
        if number == 0:
            yield " ".join("─" * width for width in widths)


def _row(topic: TopicReport, name_width: int, frame_width: int) -> tuple[str, ...]:
    """The cells of one topic; its name and its frame are cut to their widths."""
    frames = sorted(topic.frames, key=lambda name: -topic.frames[name])
    frame = (frames[0] or '""') + ("…" if len(frames) > 1 else "") if frames else "-"
    return (
        _cut(topic.name, name_width),
        _cut(topic.type.rpartition("/")[2], _TYPE, at_end=True),
        str(topic.count),
        "-" if topic.rate is None else f"{topic.rate:.4g}",
        _milliseconds(topic.jitter),
        "-" if topic.longest_gap is None else str(topic.gaps),
        _milliseconds(topic.latency),
        _cut(frame, frame_width),
        _MARK[topic.severity],
    )


def _cut(text: str, widest: int, at_end: bool = False) -> str:
    """A text that fits; topics and frames tell most at their end, types at their beginning."""
    if len(text) <= widest:
        return text
    return text[: widest - 1] + "…" if at_end else "…" + text[-(widest - 1) :]


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if abs(seconds) < 5e-7:
        return "0ms"
    return f"{1e3 * seconds:.3g}ms" if abs(seconds) < 1.0 else f"{seconds:.3g}s"


def _findings(report: Report) -> Iterator[str]:
    """One paragraph a finding, but topics that share code and text share it."""
    groups: dict[tuple[Severity, str, str], list[str]] = {}
    for one in report.findings:
        groups.setdefault((one.severity, one.code, one.text), []).append(one.topic)
    if not groups:
        yield "nothing to complain about"
    for (severity, code, text), topics in groups.items():
        where = ", ".join(topic for topic in topics if topic)
        yield from _wrapped(
            f"{_MARK[severity]:<5} {code}  ", f"{where}: {text}" if where else text
        )


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=" " * 6, break_on_hyphens=False
    )
