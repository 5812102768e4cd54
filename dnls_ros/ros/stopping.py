"""The wish to end, from SIGINT or SIGTERM, heard from the first line of a node on.

Importing takes seconds, and whoever ends a system while it starts means its nodes too. So a node
that runs as a program calls `hold_signals` before its other imports; its main function then asks
for the flag that it looks at.
"""

from __future__ import annotations

import os
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


def hold_signals() -> None:
    """Until `stop_on_signals` a signal ends the process at once, as a success.

    There is nothing yet to take down; finishing the imports first could take longer than whoever
    ends a system waits before it kills.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))


def stop_on_signals() -> StopFlag:
    """A flag that SIGINT and SIGTERM set from now on."""
    flag = StopFlag()
    for number in SIGNALS:
        signal.signal(number, lambda *_: flag.set())
    return flag
