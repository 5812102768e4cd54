"""Changes of dynamic parameters, carried out between two solves while the caller waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from dnls_ros.ros.asking import PATIENCE
from dnls_ros.ros.inbox import Ask, Inbox
from dnls_ros.runtime.types import Outcome
from dnls_ros.window.config import EstimatorConfig


class Reconfiguring:
    """Hands a changed configuration to the session, then to whoever else works by it.

    rclpy asks for a parameter's fate within the callback, so this waits, at most `PATIENCE`.

    Args:
        inbox: Where the session is reached.
        tell: Takes the configuration once it is in use.
    """

    def __init__(self, inbox: Inbox, tell: Callable[[EstimatorConfig], object]) -> None:
        self._inbox = inbox
        self._tell = tell

    def __call__(self, config: EstimatorConfig) -> Outcome:
        """What became of it."""
        answers: list[Any] = []
        done, withdrawn, begun = threading.Event(), threading.Event(), threading.Event()
        turn = threading.Lock()

        def reply(answer: Any) -> None:
            answers.append(answer)
            done.set()

        def change(session: Any) -> Outcome:
            with turn:
                if withdrawn.is_set():
                    return Outcome(False, "came too late")
                begun.set()
            return session.reconfigure(config)

        self._inbox.ask(Ask(change, reply))
        if not done.wait(PATIENCE):
            with turn:
                if not begun.is_set():
                    withdrawn.set()
        # What has begun ends: an answer that it was refused would be a lie.
        if withdrawn.is_set() or not done.wait(PATIENCE):
            return Outcome(False, f"the solver gave no answer within {PATIENCE:g} s")
        outcome = answers[0]
        if isinstance(outcome, Exception):
            return Outcome(False, f"{type(outcome).__name__}: {outcome}")
        if outcome.success:
            self._tell(config)
        return outcome
