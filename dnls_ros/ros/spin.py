"""The executor of the node and how it is spun: one thread, small steps, a stop flag.

The events executor takes three times as many messages as the single-threaded one; its ``spin()``
does not return reliably, so both are spun in steps. The multi-threaded executor collapses under
load and is not used.
"""

from __future__ import annotations

from typing import Protocol

from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor

STEP = 0.2
"""Longest wait between two looks at the stop flag [s]."""


class Stop(Protocol):
    """A wish to end: a threading.Event, or the flag of a signal."""

    def is_set(self) -> bool:
        """Whether there is one."""
        ...


def make_executor(context: Context | None = None) -> Executor:
    """The events executor where rclpy has it."""
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)


def spin_until(executor: Executor, *stops: Stop) -> None:
    """Runs callbacks until one of ``stops`` is set."""
    while not any(stop.is_set() for stop in stops):
        executor.spin_once(timeout_sec=STEP)
