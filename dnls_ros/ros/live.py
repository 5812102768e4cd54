"""The node as it really runs: in a process of its own, on real DDS, fed from a recording.

``run_live`` is what the demo and the tests use. It starts ``estimator_node`` with a parameter
file, plays the recording to it, collects the odometry that comes out, and ends the node with
SIGINT.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from dnls_ros.errors import DnlsError
from dnls_ros.io.trajectory import Trajectory
from dnls_ros.ros.listen import OdometryListener
from dnls_ros.ros.player import Player, Sending, load_sendings
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.parameter_checks import own_outputs
from dnls_ros.window.parameters import load_parameters

STARTUP = 30.0
"""For the node to import, configure and be discovered [s]."""
PACKAGE_PARENT = Path(__file__).resolve().parents[2]
"""So that the process runs the same code as this one, a checkout's or an installed one."""
DOMAINS = 100
"""Domain ids 1…100 leave the system's ports alone on every platform."""


@dataclass(frozen=True)
class LiveRun:
    """What a live run gave.

    Attributes:
        trajectory: The odometry that was published, covariances in the tangent.
        arrivals: ``time.monotonic()`` at which each of its poses came [s].
        sent: Messages played per topic.
        departures: ``time.monotonic()`` at which each message left, by topic and receive stamp
            [s].
        exit_code: Of the node, after SIGINT.
        log: What the node printed.
    """

    trajectory: Trajectory
    arrivals: tuple[float, ...]
    sent: Counter[str]
    departures: dict[tuple[str, int], float]
    exit_code: int
    log: str


class NodeProcess:
    """One of our nodes in a process of its own.

    Args:
        params_file: Its parameters; None: the defaults.
        domain: ROS domain.
        arguments: After ``--ros-args``.
        module: Of ``dnls_ros.ros``.
    """

    def __init__(
        self,
        params_file: Path | str | None,
        domain: int,
        arguments: Sequence[str] = (),
        module: str = "node",
    ) -> None:
        """Starts it, visible on this machine only."""
        descriptor, name = tempfile.mkstemp(prefix=f"{module}_", suffix=".log")
        self._log = Path(name)
        path = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", f"dnls_ros.ros.{module}", "--ros-args"]
        file = None if params_file is None else Path(params_file).resolve()
        given = [] if file is None else ["--params-file", str(file)]
        self._process = subprocess.Popen(
            [*command, *given, *arguments],
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            cwd=file and file.parent,  # where files that it names are looked for
            env={**os.environ, **local_environment(domain), "PYTHONPATH": os.pathsep.join(path)},
        )
        os.close(descriptor)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def stop(self, number: int = signal.SIGINT, timeout: float = 15.0) -> int:
        """Sends a signal and waits; the exit code. A node that does not end is killed: -9."""
        if self.running:
            self._process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float = 15.0) -> int:
        """Waits for it to end by itself, killing it after ``timeout`` [s]."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def log(self) -> str:
        """What it printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")


def local_environment(domain: int) -> dict[str, str]:
    """Environment that keeps ROS traffic on this machine and in one domain."""
    return {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": str(domain),
        "RCUTILS_LOGGING_BUFFERED_STREAM": "1",
        "RCUTILS_COLORIZED_OUTPUT": "0",
    }


def free_domain() -> int:
    """A domain id that differs between processes running at the same time, nearly always."""
    return 1 + os.getpid() % DOMAINS


@contextmanager
def local_node(name: str, domain: int) -> Generator[Node]:
    """A node of this process in a context of its own, spun by a thread."""
    os.environ.update(local_environment(domain))
    context = Context()
    context.init(domain_id=domain)
    node = Node(name, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield node
    finally:
        stop.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()
        context.shutdown()


def sensor_topics(config: EstimatorConfig) -> list[str]:
    """The topics that a configuration listens to, cameras included, each once."""
    topics = [t for s in config.sensors for t in (s.topic, s.camera_info_topic) if t]
    return list(dict.fromkeys(topics))


def run_live(
    recording: Path | str,
    params_file: Path | str,
    rate: float = 1.0,
    on_send: Callable[[Sending], object] | None = None,
) -> LiveRun:
    """Plays a recording to the node and collects its odometry.

    Raises:
        DnlsError: The configuration is wrong, or the node ended by itself; with what it printed.
    """
    config = load_parameters(params_file)
    topics = sensor_topics(config)
    sendings, types = load_sendings(recording, topics)
    departures: dict[tuple[str, int], float] = {}

    def note(sending: Sending) -> None:
        departures[sending.topic, sending.receive_stamp] = time.monotonic()
        if on_send is not None:
            on_send(sending)

    domain = free_domain()
    process = NodeProcess(params_file, domain)
    try:
        with local_node("dnls_live", domain) as node:
            listener = OdometryListener(node, own_outputs(config)[0])
            player = Player(node, types)
            player.wait_for_subscribers(topics, STARTUP, lambda: process.running)
            sent = player.play(sendings, rate, note)
            listener.wait_until_quiet(1.0, timeout=30.0)
            exit_code = process.stop()
    except DnlsError as error:
        raise DnlsError(f"{error}\n{process.log()}") from error
    finally:
        process.stop()
    return LiveRun(
        listener.trajectory(),
        tuple(listener.arrivals),
        sent,
        departures,
        exit_code,
        process.log(),
    )
