"""How the estimator is: status, statistics, measurements, events, diagnostics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from rclpy.node import Node

from dnls_ros import __version__
from dnls_ros.io.compose import Composer
from dnls_ros.io.compose_diagnostics import diagnostics
from dnls_ros.io.compose_stats import EXCEPTION_CODE, failed_solve, solver_stats
from dnls_ros.io.compose_status import (
    Figures,
    estimator_status,
    event_message,
    measurement_status,
)
from dnls_ros.ros.publish_topics import Every, Topics
from dnls_ros.ros.usage import Usage
from dnls_ros.runtime.types import Event, Status
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.ingress import Settled
from dnls_ros.window.parameters import config_hash
from dnls_ros.window.results import StepResult

STATUS_RATE = 1.0
"""Of the status while nothing changes [Hz]."""


class HealthOutputs:
    """Publishes everything that is about the estimator itself.

    Args:
        node: Whose graph is asked.
        topics: Makes the publishers.
        compose: Makes the messages.
        config: Of the estimator.
    """

    def __init__(
        self, node: Node, topics: Topics, compose: Composer, config: EstimatorConfig
    ) -> None:
        self._node = node
        self._compose = compose
        self._status_topic = topics.add("dnls_ros/msg/EstimatorStatus", "~/status", 1, True)
        self._stats = topics.add("dnls_ros/msg/SolverStats", "~/solver_stats", 10)
        self._measurements = topics.add(
            "dnls_ros/msg/MeasurementStatus", "~/measurement_status", 100
        )
        self._events = topics.add("dnls_ros/msg/Event", "~/event", 20, True)
        self._diagnostics = topics.add("diagnostic_msgs/msg/DiagnosticArray", "/diagnostics", 10)
        self._sensor_topics = {
            s.name: node.resolve_topic_name(s.topic) if s.topic else "" for s in config.sensors
        }
        self._usage = Usage()
        self._status: Status | None = None
        self._said: tuple[object, ...] = ()
        self._status_due = Every(STATUS_RATE)
        self._diagnostics_due = Every(config.diagnostics.rate)
        self._device = ""
        self._config = config
        self._hash = config_hash(config)

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over a configuration."""
        self._config = config
        self._hash = config_hash(config)
        self._diagnostics_due.rate = config.diagnostics.rate

    @property
    def status(self) -> Status | None:
        """The newest status that was taken."""
        return self._status

    @property
    def stats_wanted(self) -> bool:
        """Whether someone listens to the statistics."""
        return self._stats.get_subscription_count() > 0

    @property
    def measurements_wanted(self) -> bool:
        """Whether someone listens to single measurements."""
        return self._measurements.get_subscription_count() > 0

    def take_status(self, status: Status) -> None:
        """Takes a status; it is sent with the next `tick`."""
        self._status = status

    def solved(self, result: StepResult) -> None:
        """Sends the statistics of a solve, accepted or not."""
        if result.report is not None:
            self._device = result.report.device
        if self.stats_wanted:
            self._stats.publish(solver_stats(self._compose, result, self._config, self._status))

    def settled(self, settled: Settled) -> None:
        """Sends what became of a measurement."""
        if self.measurements_wanted:
            self._measurements.publish(measurement_status(self._compose, settled))

    def event(self, event: Event) -> None:
        """Sends an event; a solve that raised has statistics too."""
        self._events.publish(event_message(self._compose, event, self._config.world_frame))
        if event.code == EXCEPTION_CODE and self.stats_wanted:
            self._stats.publish(failed_solve(self._compose, event, self._config, self._status))

    @property
    def changed(self) -> bool:
        """Whether the status says something else than the one that was sent last."""
        return self._status is not None and _gist(self._status) != self._said

    def wait(self, now: float) -> float:
        """How long until something is due [s]."""
        if self._status is None:
            return math.inf
        return min(self._status_due.wait(now), self._diagnostics_due.wait(now))

    def tick(
        self, now: float, clock: int, latencies: Iterable[float], more: Mapping[str, str]
    ) -> None:
        """Sends the status when it changed or a second passed, and diagnostics at their rate.

        Args:
            now: Steady clock [s].
            clock: The node's clock [ns].
            latencies: Of the last odometry [s].
            more: Further keys for diagnostics.
        """
        status = self._status
        if status is None:
            return
        changed, due = self.changed, self._status_due.due(now)
        diagnose = self._diagnostics_due.due(now)
        if not (changed or due or diagnose):
            return
        figures = self._figures(status, clock, latencies)
        if changed or due:
            self._said = _gist(status)
            message = estimator_status(self._compose, status, self._config, figures)
            self._status_topic.publish(message)
        if diagnose:
            name = self._node.get_fully_qualified_name().lstrip("/")
            self._diagnostics.publish(
                diagnostics(self._compose, clock, name, status, self._config, figures, more)
            )

    def _figures(self, status: Status, clock: int, latencies: Iterable[float]) -> Figures:
        delays = np.fromiter(latencies, dtype=np.float64)
        return Figures(
            output_age=(clock - status.stamp) * 1e-9 if status.stamp else math.nan,
            latency_p95=float(np.percentile(delays, 95)) if len(delays) else math.nan,
            cpu_percent=self._usage.cpu_percent(),
            rss_mb=self._usage.rss_mb(),
            device=self._device or "cpu",
            config_hash=self._hash,
            software_version=__version__,
            topics=self._sensor_topics,
            publishers={n: self._publishers(t) for n, t in self._sensor_topics.items()},
        )

    def _publishers(self, topic: str) -> int:
        return self._node.count_publishers(topic) if topic else 0


def _gist(status: Status) -> tuple[object, ...]:
    """What makes a status worth sending at once when it changes."""
    return (status.state, status.reason, *(sensor.state for sensor in status.sensors))


def other_broadcasters(node: Node, topic: str) -> list[str]:
    """Fully qualified names of the other nodes that publish on a topic."""
    own = node.get_fully_qualified_name()
    found: set[str] = set()
    for info in node.get_publishers_info_by_topic(node.resolve_topic_name(topic)):
        name = f"{info.node_namespace.rstrip('/')}/{info.node_name}"
        if name != own:
            found.add(name)
    return sorted(found)
