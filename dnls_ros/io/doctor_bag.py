"""A recording before the doctor: read once, as little decoded as the findings need.

Of large messages only the header is read. What is damaged is examined as far as it can be read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.bag import BagReader
from dnls_ros.io.doctor import Doctor, Report
from dnls_ros.io.doctor_codes import finding
from dnls_ros.io.doctor_topics import IMAGE_TYPES, HeaderOnly, Offer
from dnls_ros.io.salvage import salvaged
from dnls_ros.window.config import EstimatorConfig

LARGE = 4096
"""Of longer messages that begin with a header only that is read [byte]."""
_HEADER = "std_msgs/msg/Header"
_STORAGE = {".mcap": "mcap", ".db3": "sqlite3", ".bag": "ros1", ".active": "ros1"}

Progress = Callable[[float], object]


def examine(
    path: Path | str,
    config: EstimatorConfig | None = None,
    start: float = 0.0,
    duration: float | None = None,
    topics: Sequence[str] | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Examines a recording.

    Args:
        path: Anything that ``BagReader`` reads, a folder of mcap or db3 files without
            metadata.yaml, or one of these that ends early.
        config: What to compare it with.
        start: Seconds after its first message to begin at.
        duration: Seconds to look at; None for all.
        topics: Their names, with or without the leading '/'; None for all.
        on_progress: Called with the share done, now and then.

    Raises:
        UnreadableInputError: Nothing can be read, or there is no message.
        DnlsError: A chosen topic is not there, or no message lies between start and end.
    """
    path = Path(path)
    doctor = Doctor(config)
    with ExitStack() as stack:
        parts = [_open(part, doctor, stack) for part in _parts(path, doctor)]
        first = min(bag.start for bag in parts)
        last = max(bag.end for bag in parts)
        chosen = None if topics is None else _chosen(path, parts, topics)
        whole = start <= 0.0 and duration is None
        begin = None if start <= 0.0 else first + round(start * 1e9)
        end = None if duration is None else first + round((start + duration) * 1e9)
        for bag in parts:
            _announce(doctor, bag, chosen, whole)
            reading = _Reading(doctor, bag, chosen)
            try:
                for stamp in reading.run(begin, end):
                    if on_progress is not None:
                        on_progress((stamp - first) / max(last - first, 1))
            except UnreadableInputError as error:
                if not reading.count:
                    raise
                doctor.note(finding("RECORDING_TRUNCATED", f"{bag.path.name}: {error}"))
        storage = _storage(path, parts[0])
    if not any(log.count for log in doctor.topics.values()):
        raise DnlsError(
            f"recording {path} has no messages {start:g} s after its beginning or later; it lasts "
            f"{(last - first) / 1e9:.3g} s"
        )
    return doctor.report(str(path), storage)


def _parts(path: Path, doctor: Doctor) -> list[Path]:
    """The files to read: the recording itself, or the storage files of a folder."""
    if not path.exists():
        raise UnreadableInputError(f"recording {path} does not exist")
    if not path.is_dir():
        return [path]
    trouble = _trouble_with(path)
    if trouble is None:
        return [path]
    files = sorted(
        (f for f in path.iterdir() if f.suffix in (".mcap", ".db3") and f.stat().st_size),
        key=lambda f: (len(f.name), f.name),  # part 10 comes after part 9
    )
    if not files:
        raise UnreadableInputError(f"folder {path} holds no recording: no .mcap or .db3 file")
    if not (path / "metadata.yaml").is_file():
        doctor.note(finding("METADATA_MISSING", f"{path.name}/metadata.yaml is not there"))
    return files


def _trouble_with(folder: Path) -> str | None:
    """Why a rosbag2 folder cannot be opened as a whole, or None."""
    try:
        with BagReader(folder):
            return None
    except UnreadableInputError as error:
        return str(error)


def _open(path: Path, doctor: Doctor, stack: ExitStack) -> BagReader:
    """Opens a file, or a repaired copy of it, for as long as the stack lives."""
    try:
        return stack.enter_context(BagReader(path))
    except UnreadableInputError as error:
        if path.is_dir():
            raise
        rest = stack.enter_context(salvaged(path))
        if rest is None:
            raise
        code = "RECORDING_TRUNCATED" if rest.torn else "RECORDING_UNINDEXED"
        doctor.note(finding(code, f"{path.name}: {rest.count} messages could be read ({error})"))
        return stack.enter_context(BagReader(rest.path))


def _storage(path: Path, bag: BagReader) -> str:
    if path.is_dir():
        first = next((f.suffix for f in sorted(path.iterdir()) if f.suffix in _STORAGE), "")
        return _STORAGE.get(first, "rosbag2")
    return _STORAGE.get(bag.path.with_suffix("").suffix, "") or _STORAGE.get(
        bag.path.suffix, "rosbag2"
    )


def _chosen(path: Path, parts: Sequence[BagReader], topics: Sequence[str]) -> set[str]:
    """The names in the recording of the topics that were asked for."""
    present = {name.lstrip("/"): name for bag in parts for name in bag.topics}
    for topic in topics:
        if topic.lstrip("/") not in present:
            near = get_close_matches(topic.lstrip("/"), present, n=1, cutoff=0.5)
            hint = f"; did you mean {present[near[0]]}?" if near else ""
            names = ", ".join(sorted(present.values()))
            raise DnlsError(f"recording {path} has no topic {topic}; it has {names}{hint}")
    return {present[topic.lstrip("/")] for topic in topics}


def _announce(doctor: Doctor, bag: BagReader, chosen: set[str] | None, whole: bool) -> None:
    for connection in bag.connections:
        if chosen is None or connection.topic in chosen:
            offers = [
                Offer(
                    qos.reliability.name == "RELIABLE",
                    qos.durability.name == "TRANSIENT_LOCAL",
                    qos.depth,
                )
                for qos in getattr(connection.ext, "offered_qos_profiles", ())
            ]
            doctor.announce(
                connection.topic,
                connection.msgtype,
                offers,
                connection.msgcount if whole else None,
                bag.knows(connection.msgtype),
            )


class _Reading:
    """One pass over a file."""

    def __init__(self, doctor: Doctor, bag: BagReader, chosen: set[str] | None) -> None:
        self.doctor = doctor
        self.bag = bag
        self.count = 0
        self._connections = [
            one for one in bag.connections if chosen is None or one.topic in chosen
        ]
        self._begins_with_header: dict[str, bool] = {}

    def run(self, begin: int | None, end: int | None) -> Iterator[int]:
        """Feeds the doctor; gives a receive stamp every hundred messages."""
        for connection, stamp, raw in self.bag.raw_messages(self._connections, begin, end):
            self.count += 1
            type_name, topic = connection.msgtype, connection.topic
            try:
                message = self._message(type_name, raw)
            except Exception as error:  # rosbags raises its own, struct's and NumPy's errors
                text = f"{type(error).__name__}: {error}"
                self.doctor.fail(topic, type_name, stamp, len(raw), text)
            else:
                self.doctor.observe(topic, type_name, message, stamp, len(raw))
            if self.count % 100 == 0:
                yield stamp

    def _message(self, type_name: str, raw: bytes) -> Any:
        if not self.bag.knows(type_name):
            return None
        if (len(raw) > LARGE or type_name in IMAGE_TYPES) and self._has_header(type_name):
            return peek(raw, type_name, self.bag.is_ros1)
        return self.bag.decode(raw, type_name)

    def _has_header(self, type_name: str) -> bool:
        known = self._begins_with_header.get(type_name)
        if known is None:
            fields = self.bag.fields(type_name)
            known = bool(fields) and _HEADER in str(fields[0])
            self._begins_with_header[type_name] = known
        return known


def peek(raw: bytes, type_name: str, ros1: bool) -> HeaderOnly:
    """The header of a serialized message that begins with one; of an image also size and encoding.

    Raises:
        struct.error: The message is shorter than that.
        UnicodeDecodeError: A name is not UTF-8.
    """
    order, place = "<", 4
    if not ros1:
        order = "<" if raw[1] & 1 else ">"  # after the four bytes that say how it is encoded
    seconds, nanoseconds = struct.unpack_from(order + ("II" if ros1 else "iI"), raw, place)
    frame, place = _text(raw, place + 8, order, ros1)
    stamp = SimpleNamespace(sec=seconds, nanosec=nanoseconds)
    header = SimpleNamespace(stamp=stamp, frame_id=frame)
    if type_name not in IMAGE_TYPES:
        return HeaderOnly(header)
    width = height = None
    if type_name == IMAGE_TYPES[0]:
        place += 0 if ros1 else -place % 4
        height, width = struct.unpack_from(order + "II", raw, place)
        place += 8
    encoding, _ = _text(raw, place, order, ros1)
    return HeaderOnly(header, width, height, encoding)


def _text(raw: bytes, place: int, order: str, ros1: bool) -> tuple[str, int]:
    """A string and where it ends; CDR aligns its length and ends it with a zero byte."""
    place += 0 if ros1 else -place % 4
    (size,) = struct.unpack_from(order + "I", raw, place)
    end = place + 4 + size
    if end > len(raw):
        raise struct.error(f"a string of {size} bytes goes beyond the message's end")
    return raw[place + 4 : end].rstrip(b"\0").decode(), end
