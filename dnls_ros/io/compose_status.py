"""Messages that say how the estimator is: status, health of sensors, events, measurements.

Unknown numbers are NaN, as in the values that they are made of; counts never are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dnls_ros.io.compose import Composer
from dnls_ros.runtime.types import Event, SensorHealth, Status
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.evidence import Evidence
from dnls_ros.window.ingress import Settled
from dnls_ros.window.measurements import Reason

NAN = float("nan")
LATEST_SECOND = 2**31 - 1
"""Stamps of messages end there; a header may carry anything, so what lies beyond is cut off."""


@dataclass(frozen=True)
class Figures:
    """What the process that publishes knows beside the session.

    Attributes:
        output_age: Clock minus newest state [s]; NaN before the first.
        latency_p95: Header stamp to publishing, 95th percentile [s]; NaN before the first.
        cpu_percent: Of one core; NaN where it cannot be read.
        rss_mb: Resident memory [MB]; NaN where it cannot be read.
        device, config_hash, software_version: As in the message.
        topics: Sensor → its topic, fully resolved.
        publishers: Sensor → publishers on its topic.
    """

    output_age: float = NAN
    latency_p95: float = NAN
    cpu_percent: float = NAN
    rss_mb: float = NAN
    device: str = ""
    config_hash: str = ""
    software_version: str = ""
    topics: Mapping[str, str] = field(default_factory=dict[str, str])
    publishers: Mapping[str, int] = field(default_factory=dict[str, int])


def estimator_status(
    compose: Composer, status: Status, config: EstimatorConfig, figures: Figures
) -> Any:
    """Make a dnls_ros/EstimatorStatus."""
    return compose.find("dnls_ros/msg/EstimatorStatus")(
        header=compose.header(status.stamp, config.world_frame),
        state=int(status.state),
        previous_state=int(status.previous_state),
        state_since=compose.time(status.state_since),
        reason=status.reason,
        tracks=list(status.tracks),
        window_states=status.window_states,
        window_span=float(status.window_span),
        output_age=float(figures.output_age),
        solve_rate=float(status.solve_rate),
        solve_p95=float(status.solve_p95),
        latency_p95=float(figures.latency_p95),
        solves_total=status.solves_total,
        solves_rejected=status.solves_rejected + status.solves_failed,
        deadlines_missed=status.deadlines_missed,
        resets_total=status.resets_total,
        cpu_percent=float(figures.cpu_percent),
        rss_mb=float(figures.rss_mb),
        device=figures.device,
        config_hash=figures.config_hash,
        software_version=figures.software_version,
        sensors=[sensor_health(compose, sensor, config, figures) for sensor in status.sensors],
    )


def sensor_health(
    compose: Composer, health: SensorHealth, config: EstimatorConfig, figures: Figures
) -> Any:
    """Make a dnls_ros/SensorHealth; counts of rejections by reason, ACCEPTED's stays 0."""
    sensor = config.sensor(health.name)
    rejected = np.zeros(len(Reason), dtype=np.uint64)
    for reason, count in health.rejected.items():
        rejected[reason] = count
    return compose.find("dnls_ros/msg/SensorHealth")(
        name=health.name,
        type=sensor.type,
        topic=figures.topics.get(health.name, sensor.topic),
        state=int(health.state),
        publishers=figures.publishers.get(health.name, 0),
        rate=float(health.rate),
        expected_rate=float(sensor.expected_rate),
        age=float(health.age),
        latency_mean=float(health.latency_mean),
        latency_max=float(health.latency_max),
        nis_mean=float(health.nis_mean),
        received=health.received,
        accepted=health.accepted,
        rejected=rejected,
        model_hash=health.model_hash,
        message=health.message,
    )


def event_message(compose: Composer, event: Event, frame: str) -> Any:
    """Make a dnls_ros/Event."""
    pair = compose.find("diagnostic_msgs/msg/KeyValue")
    return compose.find("dnls_ros/msg/Event")(
        header=compose.header(_stamp(event.stamp), frame),
        level=int(event.level),
        code=event.code,
        text=event.text,
        values=[pair(key=str(k), value=str(v)) for k, v in event.values.items()],
    )


def measurement_status(compose: Composer, settled: Settled) -> Any:
    """Make a dnls_ros/MeasurementStatus; messages that were no measurement have no sequence."""
    evidence = settled.evidence or Evidence()
    return compose.find("dnls_ros/msg/MeasurementStatus")(
        header=compose.header(_stamp(settled.stamp), settled.frame),
        sensor=settled.sensor,
        sequence=max(settled.sequence, 0),
        reason=int(settled.reason),
        residual_dim=min(evidence.dim, 255),
        mahalanobis_sq=float(evidence.nis),
        gate=float(evidence.gate),
        robust_weight=float(evidence.weight),
        latency=float(settled.latency),
        residual=np.asarray(evidence.residual, dtype=np.float64),
    )


def text_of(value: float, digits: int = 4) -> str:
    """A number for people; an unknown one as ``unknown``."""
    return f"{value:.{digits}g}" if math.isfinite(value) else "unknown"


def _stamp(stamp: int) -> int:
    """A stamp that a message can carry: rejected ones may be anything."""
    return min(max(stamp, 0), LATEST_SECOND * 10**9)
