"""The wish to end, from SIGINT or SIGTERM, heard from the first line of a node on.

Importing takes seconds, and whoever ends a system while it starts means its nodes too. So a node
that runs as a program calls `hold_signals` before its other imports; its main function then takes
over what was heard.
"""

from __future__ import annotations

import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Set once, by a signal.

    No threading.Event: a second signal (a terminal and a launch file both send one) may come while
    the first is handled, in the same thread, and would wait for the event's lock for ever.
    """

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        """The end is wished for."""
        self._set = True

    def is_set(self) -> bool:
        """Whether it is."""
        return self._set


_held: list[StopFlag] = []
"""Of a program that has not reached its main function."""


def hold_signals() -> None:
    """From now on signals do not end the process; what comes is kept for `stop_on_signals`."""
    _held[:] = [_install()]


def stop_on_signals() -> StopFlag:
    """A flag that SIGINT and SIGTERM set; set already if one came since `hold_signals`."""
    return _held.pop() if _held else _install()


def _install() -> StopFlag:
    flag = StopFlag()
    for number in SIGNALS:
        signal.signal(number, lambda *_: flag.set())
    return flag
