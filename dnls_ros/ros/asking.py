"""Service callbacks that wait for another thread without stopping the executor.

A callback is a coroutine. What it waits for is done by the solver thread (``Asker``) or by the
writer thread, and it goes on when the answer is there or its time is over, whichever comes first.
A question whose time is over before anybody looked at it is withdrawn: it will not be done later
behind the caller's back.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

from dnls_ros.errors import DnlsError
from dnls_ros.ros.inbox import Ask, Inbox
from dnls_ros.ros.types import message_class

if TYPE_CHECKING:
    from dnls_ros.runtime.session import Session

PATIENCE = 2.0
"""Longest wait for the solver or the writer [s]."""
PAUSE = 1e-3
"""The events executor calls a waiting coroutine again at once: without a pause it would take a
whole core away from the solver [s]."""
LINGER = 0.05
"""Between two looks whether the last answer has left, when services are withdrawn [s]."""


class Pending:
    """An answer that another thread will give; await it.

    Raises, where it is awaited, what the other thread raised, or a DnlsError when there is no
    answer in time.
    """

    def __init__(self, who: str, seconds: float, wake: Callable[[], None]) -> None:
        """Waits for ``who`` for so many seconds; ``wake`` makes the executor look again."""
        self._who = who
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._wake = wake
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._begun = False
        self._withdrawn = False
        self._answer: Any = None

    def begin(self) -> bool:
        """Called by the other thread before it begins: False if nobody waits any more."""
        with self._lock:
            self._begun = not self._withdrawn
            return self._begun

    def reply(self, answer: Any) -> None:
        """Called by the other thread with its answer, or with the exception it met."""
        self._answer = answer
        self._done.set()
        self._wake()

    def __await__(self) -> Generator[None, None, Any]:
        """Waits on the executor's thread, in small steps between which it does other work."""
        while not self._done.wait(PAUSE):
            if time.monotonic() > self._deadline:
                raise DnlsError(self._give_up())
            yield
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def _give_up(self) -> str:
        """Withdraws the question and says what that means."""
        with self._lock:
            self._withdrawn = True
            begun = self._begun
        late = "it has begun and may still finish" if begun else "nothing was changed"
        return f"the {self._who} gave no answer within {self._seconds:g} s; {late}"


class _Sleep:
    """A pause of a coroutine; await it."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def __await__(self) -> Generator[None, None, None]:
        while time.monotonic() < self._until:
            time.sleep(PAUSE)
            yield


def pending_for(node: Node, who: str, seconds: float = PATIENCE) -> Pending:
    """An answer of another thread for a node's executor to wait for."""

    def wake() -> None:
        executor = node.executor
        if executor is not None:
            executor.wake()

    return Pending(who, seconds, wake)


class Asker:
    """Asks the solver thread."""

    def __init__(self, node: Node, inbox: Inbox) -> None:
        """Asks through ``inbox``; ``node`` is the one whose executor runs the callbacks."""
        self._node = node
        self._inbox = inbox

    def pending(self, who: str, seconds: float = PATIENCE) -> Pending:
        """An answer for the node's executor to wait for."""
        return pending_for(self._node, who, seconds)

    def ask(self, function: Callable[[Session], Any], seconds: float = PATIENCE) -> Pending:
        """Has ``function`` called with the session between two solves; await what it returns."""
        pending = self.pending("solver", seconds)

        def unless_withdrawn(session: Session) -> Any:
            return function(session) if pending.begin() else None

        self._inbox.ask(Ask(unless_withdrawn, pending.reply))
        return pending

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Lets time pass in a coroutine."""
        return _Sleep(seconds)


Handler = Callable[[Any, Any], Awaitable[None]]
"""Fills a response from a request; what it raises becomes ``success = False`` and a sentence."""


class ServiceServer:
    """A node's services; every response has ``success`` and ``message``."""

    def __init__(self, node: Node) -> None:
        """Offers nothing yet."""
        self._node = node
        self._services: list[Any] = []
        self._serving = 0

    def offer(self, name: str, type_name: str, handler: Handler, **failure: Any) -> None:
        """Offers a service; nothing that a caller sends ends the node.

        Args:
            name: Of the service.
            type_name: ``"pkg/srv/Name"``.
            handler: Fills the response.
            failure: Further fields of the response if the handler raises.
        """
        kind = message_class(type_name)

        async def serve(request: Any, response: Any) -> Any:
            self._serving += 1
            try:
                await handler(request, response)
            except Exception as error:
                text = self._sentence(name, error)
                response = kind.Response(success=False, message=text, **failure)
            finally:
                self._serving -= 1
            return response

        self._services.append(self._node.create_service(kind, name, serve))

    def stop(self) -> None:
        """Withdraws the services, once the last answer has left."""
        if not self._serving:
            self._destroy()
            return
        clock = Clock(clock_type=ClockType.STEADY_TIME)

        def look() -> None:
            if not self._serving:
                self._node.destroy_timer(timer)
                self._destroy()

        timer = self._node.create_timer(LINGER, look, clock=clock)

    def _destroy(self) -> None:
        for service in self._services:
            self._node.destroy_service(service)
        self._services.clear()

    def _sentence(self, name: str, error: Exception) -> str:
        """What a caller is told; a mistake of ours goes into the log with its trace."""
        if isinstance(error, DnlsError | OSError):
            return str(error)
        trace = "".join(traceback.format_exception(error))
        self._node.get_logger().error(f"service {name} failed\n{trace}")
        return f"{type(error).__name__}: {error}"
