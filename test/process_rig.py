"""A node of this package in a process of its own, for tests over real DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from dnls_ros.ros.live import free_domain, local_environment


class Process:
    """``python -m dnls_ros.ros.<module> --ros-args …``, its output in a file."""

    def __init__(self, module: str, log: Path, parameters: dict[str, str]) -> None:
        arguments = [word for k, v in parameters.items() for word in ("-p", f"{k}:={v}")]
        command = [sys.executable, "-m", f"dnls_ros.ros.{module}", "--ros-args", *arguments]
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **local_environment(free_domain())},
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.running, f"ended while waiting for {what}:\n{self.log()}"
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}:\n{self.log()}"
            time.sleep(0.02)

    def wait(self, timeout: float = 60.0) -> int:
        """Waits for it to end by itself; the exit code."""
        return self._process.wait(timeout)

    def stop(self, number: int = signal.SIGINT, timeout: float = 15.0) -> int:
        """Sends a signal and waits; the exit code. What does not end is killed: -9."""
        if self.running:
            self._process.send_signal(number)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


@contextmanager
def process(module: str, folder: Path, **parameters: str) -> Generator[Process]:
    """Starts a node; ends it with the block."""
    made = Process(module, folder / f"{module}.log", parameters)
    try:
        yield made
    finally:
        made.stop()
