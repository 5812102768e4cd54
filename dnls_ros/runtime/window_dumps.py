"""Failing windows kept for whoever asks why; a disk that is full is told, never a failure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnls_ros.errors import DnlsError
from dnls_ros.runtime.dump import PREFIX, WindowDump, save_window
from dnls_ros.runtime.types import Event, Level
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.estimator import Attempt, Estimator
from dnls_ros.window.step import Step


class WindowDumps:
    """Writes windows of one estimator.

    Args:
        estimator: Whose.
        config: Where, and how many at most.
        active: Whether failing windows are written.
    """

    def __init__(self, estimator: Estimator, config: EstimatorConfig, active: bool) -> None:
        self._estimator = estimator
        self._directory = Path(config.output_dir).expanduser()
        self._keep = config.dump.max_files
        self._active = active

    def write(self, directory: Path, name: str) -> Path:
        """Writes the window as it is.

        Raises:
            DnlsError: There is no window, or it holds what cannot be written.
            OSError: It cannot be written.
        """
        problem, values = self._estimator.problem(), self._estimator.state.values
        if not problem or not values:
            raise DnlsError("there is no window: nothing has been estimated yet")
        return save_window(WindowDump.of(problem, values, {"why": "asked for"}), directory, name)

    def failing(self, attempt: Attempt, now: int) -> Sequence[Event]:
        """Keeps a window that did not solve; what became of it."""
        if not self._active or self._keep == 0:
            return []
        problem, values = self._estimator.problem(), self._estimator.state.values
        about: dict[str, Any] = {"now": now, "why": attempt.failure_text}
        if isinstance(attempt.done, Step):
            problem = attempt.done.solution.assembly.problem
            values = attempt.done.solution.values
            about["status"] = attempt.done.solution.status[0].value
        if not problem or not values:
            return []
        try:
            dump = WindowDump.of(problem, values, about)
            path = save_window(dump, self._directory, f"{PREFIX}{now}", self._keep)
        except (OSError, DnlsError) as error:
            text = f"the failing window could not be written to {self._directory}: {error}"
            return [Event(now, Level.WARN, "dump.failed", text)]
        return [Event(now, Level.INFO, "dump.written", f"the failing window is {path}")]
