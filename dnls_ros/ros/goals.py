"""An action whose goals take minutes: one at a time, each on a thread of its own.

A goal that cannot be worked on is accepted and aborted at once, because only a result can carry
the sentence that says why; one that comes while another is worked on is rejected.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from rclpy.action.server import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from rclpy.task import Future

from dnls_ros.errors import DnlsError
from dnls_ros.ros.types import message_class


class Worker(Protocol):
    """Does what goals ask for."""

    @property
    def busy(self) -> bool:
        """Whether something is being done."""
        ...

    @property
    def stop_event(self) -> threading.Event:
        """What ends it."""
        ...

    def begin(
        self, goal: Any, feedback: Callable[..., object], done: Callable[[Any], object]
    ) -> None:
        """Starts on a goal and returns.

        Args:
            goal: Its message.
            feedback: Sends feedback of these fields.
            done: Takes what came out, or the exception that ended it; called on any thread.

        Raises:
            DnlsError: The goal cannot be worked on.
        """
        ...

    def fill(self, result: Any, answer: Any) -> None:
        """Writes what came out, no exception, into the fields of a result."""
        ...


class GoalServer:
    """An action server for a worker.

    Args:
        node: Whose it is.
        action: Type of the action; its result has ``success`` and ``message``.
        name: Of the action.
        worker: Does the work.
    """

    def __init__(self, node: Node, action: str, name: str, worker: Worker) -> None:
        self._node, self._worker, self._type = node, worker, message_class(action)
        self._server = ActionServer(
            node,
            self._type,
            name,
            execute_callback=self._execute,
            goal_callback=self._goal,
            cancel_callback=self._cancel,
        )

    def destroy(self) -> None:
        """Ends the action."""
        self._server.destroy()

    def _goal(self, goal: Any) -> GoalResponse:
        if self._worker.busy:
            self._node.get_logger().warning("a goal is rejected: another one is worked on")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _cancel(self, handle: Any) -> CancelResponse:
        self._worker.stop_event.set()
        return CancelResponse.ACCEPT

    async def _execute(self, handle: Any) -> Any:
        """One goal, from its start to its result."""
        result = self._type.Result()
        try:
            if self._worker.busy:
                raise DnlsError("another goal is worked on")
            future = self._begun(handle)
        except DnlsError as error:
            result.message = str(error)
            handle.abort()
            return result
        answer: Any = await future
        if not isinstance(answer, Exception):
            self._worker.fill(result, answer)
            handle.succeed()
            return result
        result.message = describe(answer)
        if handle.is_cancel_requested and self._worker.stop_event.is_set():
            handle.canceled()
        else:
            handle.abort()
        return result

    def _begun(self, handle: Any) -> Future[Any]:
        """The future answer to a goal."""
        executor = self._node.executor
        future: Future[Any] = Future(executor=executor)

        def feedback(**fields: Any) -> None:
            handle.publish_feedback(self._type.Feedback(**fields))

        def done(answer: Any) -> None:
            future.set_result(answer)
            if executor is not None:
                executor.wake()

        self._worker.begin(handle.request, feedback, done)
        return future


def describe(error: Exception) -> str:
    """A sentence for a user."""
    return str(error) if isinstance(error, DnlsError) else f"{type(error).__name__}: {error}"
