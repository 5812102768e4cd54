"""Recordings in and out: rosbag2 (sqlite3, mcap) and ROS 1 bags read alike, rosbag2 mcap written.

Types come from the definitions inside the recording, then from ``dnls_ros.io.definitions``. A
recording that is missing, truncated or empty gives one ``UnreadableInputError`` that names it,
whatever the parser underneath stumbled over.
"""

from __future__ import annotations

import bz2
import gzip
import shutil
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapReader

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.definitions import typestore

_PACKED = {".bz2": bz2.open, ".gz": gzip.open}


@dataclass(frozen=True, eq=False)
class Record:
    """One message of a recording.

    Attributes:
        topic: Its topic.
        type: Its ROS type, ``"pkg/msg/Name"``.
        receive_stamp: When it was recorded [ns].
        message: The message, an object with the type's attributes.
    """

    topic: str
    type: str
    receive_stamp: int
    message: Any


@dataclass(frozen=True)
class Topic:
    """What a recording holds under one name; several types are joined by ``" | "``."""

    type: str
    count: int


class BagReader:
    """A recording opened for reading; use it in a ``with`` block.

    Args:
        path: A rosbag2 folder, a bare ``.mcap`` or ``.db3`` file, a ROS 1 ``.bag`` file, or one of
            these files compressed as ``.bz2`` or ``.gz`` (unpacked to a temporary file while
            open).

    Raises:
        UnreadableInputError: The recording is missing, truncated, empty or not a recording.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._stack = ExitStack()
        self._reader: AnyReader | None = None

    def __enter__(self) -> Self:
        """Open the recording."""
        if not self.path.exists():
            raise UnreadableInputError(f"recording {self.path} does not exist")
        try:
            with _explained(self.path):
                self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the recording."""
        self._reader = None
        self._stack.close()

    @property
    def topics(self) -> dict[str, Topic]:
        """The recording's topics by name, with types and message counts."""
        topics: dict[str, Topic] = {}
        for connection in sorted(self._opened.connections, key=lambda one: one.topic):
            before = topics.get(connection.topic, Topic("", 0))
            types = {*before.type.split(" | "), connection.msgtype} - {""}
            count = before.count + connection.msgcount
            topics[connection.topic] = Topic(" | ".join(sorted(types)), count)
        return topics

    @property
    def start(self) -> int:
        """Receive stamp of the first message [ns]."""
        return self._opened.start_time

    @property
    def end(self) -> int:
        """Receive stamp of the last message [ns]."""
        return self._opened.end_time - 1

    def records(
        self,
        topics: Iterable[str] | None = None,
        start: int | None = None,
        end: int | None = None,
    ) -> Iterator[Record]:
        """Read messages lazily in the order of their receive stamps.

        Args:
            topics: Names as in the recording, or None for all.
            start: First receive stamp to read [ns].
            end: Receive stamp to stop before [ns].

        Raises:
            DnlsError: A chosen topic is not in the recording.
            UnreadableInputError: The recording is damaged further on; raised where reading meets
                the damage.
        """
        reader = self._opened
        chosen = None if topics is None else self._known(topics)
        picked = [one for one in reader.connections if chosen is None or one.topic in chosen]
        return self._read(picked, start, end)

    @property
    def connections(self) -> list[Any]:
        """The recording's connections as ``rosbags`` has them: types, definitions, QoS."""
        return list(self._opened.connections)

    @property
    def is_ros1(self) -> bool:
        """Whether it is a ROS 1 bag, whose messages are serialized in another way."""
        return not self._opened.is2

    def knows(self, type_name: str) -> bool:
        """Whether messages of a type can be decoded."""
        return type_name in self._opened.typestore.fielddefs

    def fields(self, type_name: str) -> tuple[tuple[str, Any], ...]:
        """Names and types of a known type's fields, as ``rosbags`` describes them."""
        return tuple(self._opened.typestore.fielddefs[type_name][1])

    def raw_messages(
        self, connections: Sequence[Any], start: int | None = None, end: int | None = None
    ) -> Iterator[tuple[Any, int, bytes]]:
        """Read serialized messages lazily: connection, receive stamp [ns], bytes.

        A file without an index is read in the order in which it was written.

        Raises:
            UnreadableInputError: The recording is damaged further on.
        """
        reader = self._opened
        if not connections:
            return
        storage = getattr(reader.readers[0], "storage", None)
        with _explained(self.path):
            if isinstance(storage, McapReader) and not storage.chunks:
                yield from storage.messages_scan(connections, start, end)
            else:
                yield from reader.messages(connections, start, end)

    def decode(self, raw: bytes, type_name: str) -> Any:
        """Decode one serialized message of a known type; raises what ``rosbags`` raises."""
        return self._opened.deserialize(raw, type_name)

    def _read(
        self, connections: list[Any], start: int | None, end: int | None
    ) -> Iterator[Record]:
        reader = self._opened
        if not connections:
            return
        with _explained(self.path):
            for connection, stamp, raw in reader.messages(connections, start, end):
                message = reader.deserialize(raw, connection.msgtype)
                yield Record(connection.topic, connection.msgtype, stamp, message)

    def _known(self, topics: Iterable[str]) -> set[str]:
        chosen, present = set(topics), self.topics
        for topic in sorted(chosen - set(present)):
            near = get_close_matches(topic, present, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DnlsError(
                f"recording {self.path} has no topic {topic}; it has {', '.join(present)}{hint}"
            )
        return chosen

    @property
    def _opened(self) -> AnyReader:
        if self._reader is None:
            raise DnlsError(
                f"recording {self.path} is not open; use `with BagReader(path) as bag:`"
            )
        return self._reader

    def _open(self) -> None:
        store = typestore()
        reader = AnyReader([self._unpacked()], default_typestore=store)
        self._reader = self._stack.enter_context(reader)
        defined = reader.typestore.fielddefs
        if any(one.msgtype not in defined for one in reader.connections):
            ours = store.fielddefs.items()
            missing = {name: fields for name, fields in ours if name not in defined}
            reader.typestore.register(missing)
        if reader.message_count == 0:
            raise UnreadableInputError(f"recording {self.path} holds no messages")

    def _unpacked(self) -> Path:
        """Give the recording's path, unpacking a packed file for as long as we are open."""
        opener = _PACKED.get(self.path.suffix)
        if opener is None:
            return self.path
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        plain = Path(folder) / self.path.stem
        with opener(self.path, "rb") as packed, plain.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        return plain


def read_bag(path: Path | str, topics: Iterable[str] | None = None) -> Iterator[Record]:
    """Read a recording's messages lazily, in order; see ``BagReader.records``."""
    with BagReader(path) as bag:
        yield from bag.records(topics)


class BagWriter:
    """A rosbag2 recording (mcap) being written; use it in a ``with`` block.

    It grows in a hidden folder beside its place and moves there when the block ends well; on an
    error nothing stays. Equal messages give equal bytes: no clock and no host is recorded.

    Args:
        path: The rosbag2 folder to make, or a bare ``.mcap`` file.
        overwrite: Replace a recording that is there already.

    Raises:
        DnlsError: Something is at ``path`` and may not be replaced.
    """

    def __init__(self, path: Path | str, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.count = 0
        self._overwrite = overwrite
        self._connections: dict[tuple[str, str], Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start the recording."""
        if self.path.exists() and not (self._overwrite and _is_recording(self.path)):
            raise DnlsError(
                f"{self.path} exists; choose another place or ask for it to be overwritten"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        hidden = tempfile.TemporaryDirectory(prefix=f".{self.path.name}.", dir=self.path.parent)
        self._folder = Path(self._stack.enter_context(hidden))
        self._writer = Writer(
            self._folder / self.path.stem if self._is_bare else self._folder / self.path.name,
            version=9,
            storage_plugin=StoragePlugin.MCAP,
        )
        self._writer.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish and move the recording to its place, or drop it after an error."""
        with self._stack:
            if kind is not None:
                self._writer.abort()
                return
            self._writer.close()
            self._move_into_place()

    def add_topic(self, topic: str, type_name: str) -> None:
        """Announce a topic, so that it is listed even without messages."""
        self._connection(topic, type_name)

    def write(self, topic: str, message: Any, receive_stamp: int) -> None:
        """Write a message made of the classes of ``dnls_ros.io.definitions``; stamp in [ns]."""
        type_name = message.__msgtype__
        raw = typestore().serialize_cdr(message, type_name)
        self._writer.write(self._connection(topic, type_name), receive_stamp, raw)
        self.count += 1

    def _connection(self, topic: str, type_name: str) -> Any:
        key = (topic, type_name)
        if key not in self._connections:
            self._connections[key] = self._writer.add_connection(
                topic, type_name, typestore=typestore()
            )
        return self._connections[key]

    @property
    def _is_bare(self) -> bool:
        return self.path.suffix == ".mcap"

    def _move_into_place(self) -> None:
        made = self._writer.path
        if self._is_bare:
            made = made / f"{made.name}.mcap"
        if self.path.is_dir():
            self.path.rename(self._folder / "replaced")
        made.replace(self.path)


def _is_recording(path: Path) -> bool:
    """Say whether what is at ``path`` is a recording that ``overwrite`` may replace."""
    return (path / "metadata.yaml").is_file() if path.is_dir() else path.suffix == ".mcap"


@contextmanager
def _explained(path: Path) -> Generator[None]:
    """Turn whatever the parsers raise on damaged input into one error that names the recording."""
    try:
        yield
    except (DnlsError, GeneratorExit):
        raise
    except (
        Exception
    ) as error:  # the parsers raise their own, struct's, assert's and the OS's errors
        kind = type(error).__name__
        raise UnreadableInputError(
            f"recording {path} cannot be read ({kind}: {error}); "
            "it may be truncated or not a recording"
        ) from error
