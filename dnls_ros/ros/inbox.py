"""The bounded queue between the executor and the solver thread, and the count of what entered it.

Callbacks put messages in and return; the solver thread takes work out. Services ask: their
question or command is a function of the session, run between two solves. A message that finds its
sensor's share of the queue full is dropped, and the drop itself becomes work, so that the
estimator counts it as QUEUE_FULL like any other rejection. Every message put is therefore in
exactly one place: waiting here, or handed over.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dnls_ros.runtime.transforms import Transforms

if TYPE_CHECKING:
    from dnls_ros.runtime.session import Session

CAPACITY = 1000


@dataclass(frozen=True, eq=False)
class Arrival:
    """A message as it came: sensor, ROS type, message, and the node's clock at arrival [ns]."""

    sensor: str
    type_name: str
    message: Any
    stamp: int


@dataclass(frozen=True)
class Dropped:
    """A message of ``sensor`` found the queue full."""

    sensor: str


@dataclass(frozen=True, eq=False)
class CameraInfo:
    """A CameraInfo for the landmarks sensor ``sensor``; no measurement, so it is not counted."""

    sensor: str
    message: Any


@dataclass(frozen=True, eq=False)
class Ask:
    """A question or a command: ``function`` is called with the session between two solves.

    ``reply`` gets what it returned, or the exception that it raised; called on the solver thread.
    """

    function: Callable[[Session], Any]
    reply: Callable[[Any], None]


Uncounted = CameraInfo | Transforms
"""What is no measurement."""
Work = Arrival | Dropped | Uncounted | Ask


class Inbox:
    """A queue with one taker; questions overtake messages, messages keep their order."""

    def __init__(self, sensors: Iterable[str], capacity: int = CAPACITY) -> None:
        """Makes room for ``capacity`` messages of each sensor."""
        self.capacity = capacity
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._received: Counter[str] = Counter(dict.fromkeys(sensors, 0))
        self._waiting: Counter[str] = Counter(dict.fromkeys(self._received, 0))
        self._queue: deque[Arrival | Dropped | Uncounted] = deque()
        self._questions: deque[Ask] = deque()
        self._closed = False

    def put(self, arrival: Arrival) -> bool:
        """Takes a message in; False when it was dropped because its sensor's share is full."""
        with self._changed:
            full = self._waiting[arrival.sensor] >= self.capacity
            self._received[arrival.sensor] += 1
            self._waiting[arrival.sensor] += 1
            self._queue.append(Dropped(arrival.sensor) if full else arrival)
            self._changed.notify()
            return not full

    def put_uncounted(self, item: Uncounted) -> None:
        """Takes a calibration or transforms in, in order with the messages they are for."""
        with self._changed:
            self._queue.append(item)
            self._changed.notify()

    def ask(self, ask: Ask) -> None:
        """Takes a question or command in; it comes before the next message."""
        with self._changed:
            self._questions.append(ask)
            self._changed.notify()

    def take(self, timeout: float) -> Work | None:
        """The next work; None when nothing came within ``timeout`` [s] or the queue is closed."""
        with self._changed:
            if not (self._questions or self._queue or self._closed):
                self._changed.wait(timeout)
            if self._questions:
                return self._questions.popleft()
            if self._closed or not self._queue:
                return None
            work = self._queue.popleft()
            if isinstance(work, Arrival | Dropped):
                self._waiting[work.sensor] -= 1
            return work

    def counts(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """Messages received since the start and waiting now, per sensor, at one instant."""
        with self._changed:
            return dict(self._received), dict(self._waiting)

    @property
    def oldest(self) -> int | None:
        """The clock at which the oldest waiting message arrived [ns]; None where none waits."""
        with self._changed:
            return next((one.stamp for one in self._queue if isinstance(one, Arrival)), None)

    @property
    def backlog(self) -> int:
        """How much is waiting, transforms and calibrations too."""
        return len(self._queue)

    @property
    def messages_waiting(self) -> int:
        """How many messages of sensors wait."""
        with self._changed:
            return self._waiting.total()

    def close(self) -> None:
        """Wakes the taker for the last time."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
