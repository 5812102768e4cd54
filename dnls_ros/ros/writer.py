"""The writer thread: files are written here, so that no disk holds up the solver.

A job is a function that writes; it reports what it returns or the exception that it met. A full
disk or a folder that may not be written is an answer, never the end of the thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class _Job:
    work: Callable[[], Any]
    reply: Callable[[Any], None]


class WriterThread:
    """Does jobs in the order in which they came."""

    def __init__(self) -> None:
        """Starts the thread."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer")
        self._thread.start()

    def put(self, work: Callable[[], Any], reply: Callable[[Any], None]) -> None:
        """Has ``work`` done; ``reply`` gets what it returns or raises, on the writer's thread."""
        self._jobs.put(_Job(work, reply))

    def stop(self) -> None:
        """Finishes the jobs that are waiting and ends the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                answer = job.work()
            except Exception as error:
                answer = error
            job.reply(answer)
