"""The queue between the solver and the publisher: bounded, never blocking who puts.

When it is full the oldest result goes, for new odometry is worth more than old. Events stay as
long as anything else is left.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

from dnls_ros.runtime.types import Event, Status

ItemT = TypeVar("ItemT")

CAPACITY = 1000


class OutputQueue(Generic[ItemT]):
    """A queue with one taker.

    Args:
        capacity: Items that may wait.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._items: deque[ItemT] = deque()
        self._dropped = 0
        self._closed = False

    def put(self, item: ItemT) -> None:
        """Takes an item in; a status replaces one that is the last to wait."""
        with self._changed:
            if self._items and isinstance(item, Status) and isinstance(self._items[-1], Status):
                self._items.pop()
            self._items.append(item)
            if len(self._items) > self._capacity:
                self._drop()
            self._changed.notify()

    def take(self, timeout: float) -> ItemT | None:
        """The next item; None when there is none within ``timeout`` [s]."""
        with self._changed:
            if not self._items and not self._closed:
                self._changed.wait(timeout)
            return self._items.popleft() if self._items else None

    def close(self) -> None:
        """Wakes the taker; what is left can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether it was closed and nothing is left."""
        with self._changed:
            return self._closed and not self._items

    @property
    def waiting(self) -> int:
        """Items that have not been taken."""
        return len(self._items)

    @property
    def dropped(self) -> int:
        """Items that found no room."""
        return self._dropped

    def _drop(self) -> None:
        """Lets the oldest item go that is no event."""
        self._dropped += 1
        for index, item in enumerate(self._items):
            if not isinstance(item, Event):
                del self._items[index]
                return
        self._items.popleft()
