"""What can still be read of a recording that ends early: a repaired copy of its intact part.

A recorder that was killed leaves no index, a full disk cuts a file anywhere. The copy holds every
record before the damage, in the same format, so that it is read like any other recording. It is
temporary and at most as large as the original.
"""

from __future__ import annotations

import bz2
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

MCAP_MAGIC = b"\x89MCAP0\r\n"
ROS1_MAGIC = b"#ROSBAG V2.0\n"
_FOOTER = b"\x02\x14" + bytes(27)  # opcode, length 20, no summary
_MESSAGE, _CHUNK, _SUMMARY_START = 0x05, 0x06, (0x0F, 0x02)
_LONGEST_RECORD = 2**32


@dataclass(frozen=True)
class Salvage:
    """A repaired copy, how many messages it holds, and whether the original ends in a torn one."""

    path: Path
    count: int
    torn: bool


@contextmanager
def salvaged(path: Path) -> Generator[Salvage | None]:
    """A repaired copy of a damaged file for as long as the block runs; None if nothing is left.

    Args:
        path: An ``.mcap``, ``.db3``, ``.bag`` or ``.bag.active`` file.
    """
    repair = _repair_for(path)
    if repair is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        suffix = ".bag" if repair is _repair_ros1 else path.suffix
        copy = Path(folder) / f"{path.stem}{suffix}"
        count, torn = repair(path, copy)
        yield Salvage(copy, count, torn) if count else None


_Repair = Callable[[Path, Path], tuple[int, bool]]
"""Makes the copy; says how many messages it holds and whether the last one is torn."""


def _repair_for(path: Path) -> _Repair | None:
    """How a file is repaired, by how it begins; None for what is no recording."""
    with path.open("rb") as file:
        begin = file.read(16)
    if begin.startswith(MCAP_MAGIC):
        return _repair_mcap
    if begin.startswith(ROS1_MAGIC):
        return _repair_ros1
    return _repair_sqlite if begin.startswith(b"SQLite format 3") else None


# --- mcap ------------------------------------------------------------------------------------


def _repair_mcap(path: Path, copy: Path) -> tuple[int, bool]:
    """Whole records up to the damage, what a torn chunk still holds, and an end."""
    count, torn = 0, False
    with path.open("rb") as source, copy.open("wb") as target:
        target.write(source.read(len(MCAP_MAGIC)))
        while head := source.read(9):
            code, size = struct.unpack("<BQ", head) if len(head) == 9 else (0, 0)
            if code in _SUMMARY_START:
                break
            if code == 0 or size > _LONGEST_RECORD:
                torn = True
                break
            body = source.read(size)
            torn = len(body) < size
            inner = _unpacked_chunk(body) if code == _CHUNK else b""
            damaged = torn or (code == _CHUNK and not _is_whole(body, inner))
            if code == _CHUNK and damaged:
                # Records inside a chunk are as those outside.
                target.writelines(record for _, record in _records(inner))
            elif not damaged:
                target.write(head + body)
            count += sum(1 for kind, _ in _records(inner) if kind == _MESSAGE)
            count += code == _MESSAGE and not damaged
        target.write(_FOOTER + MCAP_MAGIC)
    return count, torn


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Code and bytes of the whole records in a piece of an mcap file."""
    place = 0
    while place + 9 <= len(data):
        code, size = struct.unpack_from("<BQ", data, place)
        end = place + 9 + size
        if end > len(data):
            return
        yield code, data[place:end]
        place = end


def _unpacked_chunk(body: bytes) -> bytes:
    """As much of a chunk's records as can be unpacked."""
    if len(body) < 32:
        return b""
    (length,) = struct.unpack_from("<I", body, 28)
    name, packed = body[32 : 32 + length], body[40 + length :]
    return _unpack(name.decode("ascii", "replace"), packed)


def _is_whole(body: bytes, inner: bytes) -> bool:
    return len(inner) == struct.unpack_from("<Q", body, 16)[0]


def _unpack(compression: str, packed: bytes) -> bytes:
    """The beginning of what was packed, up to the damage."""
    if compression in ("", "none"):
        return packed
    unpacker = _unpacker(compression)
    if unpacker is None:
        return b""
    result = bytearray()
    with suppress(Exception):  # each library has its own error for damage: here the data ends
        for begin in range(0, len(packed), 4096):
            result += unpacker.decompress(packed[begin : begin + 4096])
    return bytes(result)


def _unpacker(compression: str) -> Any:
    """A decompressor that takes pieces, or None for an unknown compression."""
    if compression == "bz2":
        return bz2.BZ2Decompressor()
    if compression == "lz4":
        from lz4.frame import LZ4FrameDecompressor

        return LZ4FrameDecompressor()
    if compression == "zstd":
        from backports import zstd

        return zstd.ZstdDecompressor()
    return None


# --- ROS 1 -----------------------------------------------------------------------------------


def _repair_ros1(path: Path, copy: Path) -> tuple[int, bool]:
    """All intact messages written anew, with an index."""
    from rosbags.rosbag1 import Writer

    connections: dict[bytes, Any] = {}
    count, torn = 0, False
    with path.open("rb") as source, Writer(copy) as writer:
        source.seek(len(ROS1_MAGIC))
        for header, data in _ros1_messages(source):
            if len(data) < header["size"]:
                torn = True
                continue
            key = header.get("conn", b"")
            if header["op"] == b"\x07" and key not in connections:
                connections[key] = _connect(writer, header, data)
            elif header["op"] == b"\x02" and key in connections:
                seconds, nanoseconds = struct.unpack("<LL", header["time"])
                writer.write(connections[key], seconds * 10**9 + nanoseconds, data)
                count += 1
    return count, torn


def _connect(writer: Any, header: dict[str, bytes], data: bytes) -> Any:
    """Announces a connection of the damaged bag."""
    fields = _ros1_fields(data)
    package, _, name = fields["type"].decode().rpartition("/")
    known = {k: v.decode() for k, v in fields.items() if k in ("callerid",)}
    return writer.add_connection(
        header["topic"].decode(),
        f"{package}/msg/{name}",
        msgdef=fields["message_definition"].decode(),
        md5sum=fields["md5sum"].decode(),
        **known,
    )


def _ros1_messages(source: BinaryIO) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Connections and messages of all chunks, and torn records, which are short."""
    for header, data in _ros1_records(source):
        if header.get("op") == b"\x05":
            inner = _unpack(header.get("compression", b"none").decode(), data)
            yield from _ros1_records(BytesIO(inner))
        if header.get("op") in (b"\x02", b"\x07") or len(data) < header["size"]:
            yield header, data


def _ros1_records(source: BinaryIO) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Header fields and data of each record; ``size`` is what the data's length should be."""
    while len(length := source.read(4)) == 4:
        header = source.read(struct.unpack("<L", length)[0])
        size = source.read(4)
        if len(size) < 4:
            return
        expected = struct.unpack("<L", size)[0]
        yield {**_ros1_fields(header), "size": expected}, source.read(expected)


def _ros1_fields(data: bytes) -> dict[str, bytes]:
    """The ``name=value`` fields of a ROS 1 record."""
    fields, place = {}, 0
    while place + 4 <= len(data):
        (size,) = struct.unpack_from("<L", data, place)
        name, _, value = data[place + 4 : place + 4 + size].partition(b"=")
        fields[name.decode("ascii", "replace")] = value
        place += 4 + size
    return fields


# --- sqlite3 ---------------------------------------------------------------------------------


def _repair_sqlite(path: Path, copy: Path) -> tuple[int, bool]:
    """The rows that can be read, in a new database."""
    torn = copy.with_suffix(".torn")
    shutil.copyfile(path, torn)
    with torn.open("rb+") as file:
        head = file.read(100)
        page, pages = struct.unpack_from(">H", head, 16)[0], struct.unpack_from(">I", head, 28)[0]
        if torn.stat().st_size < max(page, 512) * pages:
            file.truncate(max(page, 512) * pages)  # else SQLite refuses the whole file
    count = 0
    with closing(sqlite3.connect(torn)) as source, closing(sqlite3.connect(copy)) as target:
        with suppress(sqlite3.Error):
            tables = source.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL "
                "AND name NOT LIKE 'sqlite_%' ORDER BY name = 'messages'"
            ).fetchall()
            for name, declaration in tables:
                target.execute(declaration)
                count = _copy_rows(source, target, name)
        target.commit()
    torn.unlink()
    return count, True


def _copy_rows(source: sqlite3.Connection, target: sqlite3.Connection, table: str) -> int:
    """Copies a table's rows up to the damage, in the order in which they were written."""
    count = 0
    with suppress(sqlite3.Error):
        for row in source.execute(f"SELECT * FROM '{table}' ORDER BY rowid"):
            marks = ", ".join("?" * len(row))
            target.execute(f"INSERT INTO '{table}' VALUES ({marks})", row)
            count += 1
    return count
