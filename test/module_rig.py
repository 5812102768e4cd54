"""A node of this package in a process of its own, for files that also run without rclpy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def running(module: str, *parameters: str) -> Generator[subprocess.Popen[str]]:
    """``python -m dnls_ros.ros.<module>`` in this domain, its output in a pipe."""
    command = [sys.executable, "-m", f"dnls_ros.ros.{module}", "--ros-args"]
    for one in parameters:
        command += ["-p", one]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
