"""Files that grow while a node runs, on a disk that may be full.

Lines are kept in memory and written every so often from a thread of their own. What the disk does
not take stays in memory and is tried again, from the very byte where the disk ended; a line is
never torn. Beyond a limit new lines are lost, counted and said.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path

MOST_WAITING = 64 * 1024 * 1024
"""Bytes of one file that may wait for the disk."""


class GrowingFile:
    """A text file to which lines are added; lines come from any thread, one thread flushes."""

    def __init__(self, path: Path, head: str = "", limit: int = MOST_WAITING) -> None:
        """Begins the file at the first flush, with ``head`` as its first line."""
        self.path = path
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting = bytearray(f"{head}\n".encode() if head else b"")
        self._written = 0
        self._lost = 0

    @property
    def lost(self) -> int:
        """Lines for which there was no room."""
        return self._lost

    @property
    def waiting(self) -> int:
        """Bytes that the disk has not taken yet."""
        return len(self._waiting)

    def add(self, line: str) -> None:
        """Adds a line."""
        data = f"{line}\n".encode()
        with self._lock:
            if len(self._waiting) + len(data) > self._limit:
                self._lost += 1
            else:
                self._waiting += data

    def flush(self) -> None:
        """Writes what waits.

        Raises:
            OSError: The disk does not take it; it goes on waiting.
        """
        with self._lock:
            data = bytes(self._waiting)
        if not data:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "r+b" if self._written else "wb", buffering=0) as file:
            taken, failure = _write_lines(file, self._written, data)
        self._written += taken
        with self._lock:
            del self._waiting[:taken]
        if failure is not None:
            raise failure


def _write_lines(file: FileIO, start: int, data: bytes) -> tuple[int, OSError | None]:
    """Writes whole lines from ``start`` on; how many bytes there are now, and what stopped it."""
    taken = 0
    file.seek(start)
    try:
        while taken < len(data):
            taken += file.write(data[taken:])
    except OSError as error:
        whole = data.rfind(b"\n", 0, taken) + 1
        file.truncate(start + whole)
        return whole, error
    return taken, None


class Flusher:
    """Flushes files once a period until stopped, and then once more."""

    def __init__(self, period: float, complain: Callable[[str], object]) -> None:
        """Prepares; ``complain`` takes a sentence whenever a file cannot be written."""
        self._period = period
        self._complain = complain
        self._lock = threading.Lock()
        self._files: list[GrowingFile] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer")

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def add(self, file: GrowingFile) -> GrowingFile:
        """Takes a file into its care."""
        with self._lock:
            self._files.append(file)
        return file

    def stop(self) -> None:
        """Writes what is left and ends the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        with self._lock:
            files = list(self._files)
        for file in files:
            try:
                file.flush()
            except OSError as error:
                lost = f", {file.lost} lines are lost" if file.lost else ""
                self._complain(
                    f"cannot write {file.path}: {error}; {file.waiting} bytes wait{lost}"
                )
