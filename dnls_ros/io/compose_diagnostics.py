"""A DiagnosticArray: one status for the estimator, one for each sensor.

Levels: what works is OK; what is not (yet) as it was declared to be is WARN; what needs a person
is ERROR.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from dnls_ros.io.compose import Composer
from dnls_ros.io.compose_status import Figures, text_of
from dnls_ros.runtime.types import EstimatorState, SensorHealth, SensorState, Status
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.measurements import Reason

_LEVELS = {
    EstimatorState.UNINITIALIZED: "WARN",
    EstimatorState.INITIALIZING: "WARN",
    EstimatorState.TRACKING: "OK",
    EstimatorState.DEGRADED: "WARN",
    EstimatorState.LOST: "ERROR",
    EstimatorState.RECOVERING: "WARN",
    EstimatorState.PAUSED: "WARN",
}
_SENSOR_LEVELS = {
    SensorState.OK: "OK",
    SensorState.WAITING: "WARN",
    SensorState.STALE: "WARN",
    SensorState.REJECTING: "WARN",
    SensorState.DISABLED: "OK",
    SensorState.MISCONFIGURED: "ERROR",
}


def diagnostics(
    compose: Composer,
    stamp: int,
    node: str,
    status: Status,
    config: EstimatorConfig,
    figures: Figures,
    more: Mapping[str, str],
) -> Any:
    """Make a diagnostic_msgs/DiagnosticArray.

    Args:
        compose: Makes messages.
        stamp: The node's clock [ns].
        node: Its fully qualified name without the leading slash; also the hardware id.
        status: Of the estimator.
        config: Of the estimator.
        figures: Of the process.
        more: Further keys of the estimator's status. A value under ``tf_conflict`` is a warning.
    """
    parts = [_estimator(compose, node, status, figures, more)]
    parts += [_sensor(compose, node, one, config, figures) for one in status.sensors]
    return compose.find("diagnostic_msgs/msg/DiagnosticArray")(
        header=compose.header(stamp, ""), status=parts
    )


def _estimator(
    compose: Composer, node: str, status: Status, figures: Figures, more: Mapping[str, str]
) -> Any:
    level = _LEVELS[status.state]
    text = status.state.name
    if status.reason:
        text += f": {status.reason}"
    if more.get("tf_conflict"):
        level = "WARN" if level == "OK" else level
        text += f"; {more['tf_conflict']}"
    rejected: Counter[Reason] = Counter()
    for sensor in status.sensors:
        rejected.update(sensor.rejected)
    values = {
        "state": status.state.name,
        "reason": status.reason,
        "solve_rate_hz": text_of(status.solve_rate),
        "solve_p95_s": text_of(status.solve_p95),
        "deadline_missed": str(status.deadlines_missed),
        "cycles_skipped": str(status.cycles_skipped),
        "solves_rejected": str(status.solves_rejected),
        "solves_failed": str(status.solves_failed),
        "resets": str(status.resets_total),
        "latency_p95_s": text_of(figures.latency_p95),
        "output_age_s": text_of(figures.output_age),
        **{f"rejected_{r.name.lower()}": str(n) for r, n in sorted(rejected.items()) if n},
        "cpu_percent": text_of(figures.cpu_percent),
        "rss_mb": text_of(figures.rss_mb),
        "device": figures.device,
        "config_hash": figures.config_hash,
        "software_version": figures.software_version,
        **more,
    }
    return diagnostic_status(compose, level, f"{node}: estimator", text, node, values)


def _sensor(
    compose: Composer, node: str, sensor: SensorHealth, config: EstimatorConfig, figures: Figures
) -> Any:
    level = _SENSOR_LEVELS[sensor.state]
    required = sensor.name in config.health.required_sensors
    if required and sensor.state in (SensorState.STALE, SensorState.DISABLED):
        level = "ERROR"
    values = {
        "state": sensor.state.name,
        "topic": figures.topics.get(sensor.name, config.sensor(sensor.name).topic),
        "publishers": str(figures.publishers.get(sensor.name, 0)),
        "required": str(required).lower(),
        "rate_hz": text_of(sensor.rate),
        "expected_rate_hz": text_of(config.sensor(sensor.name).expected_rate),
        "age_s": text_of(sensor.age),
        "latency_mean_s": text_of(sensor.latency_mean),
        "latency_max_s": text_of(sensor.latency_max),
        "nis_mean": text_of(sensor.nis_mean),
        "received": str(sensor.received),
        "accepted": str(sensor.accepted),
        "waiting": str(sensor.waiting),
        **{f"rejected_{r.name.lower()}": str(n) for r, n in sorted(sensor.rejected.items()) if n},
        "last_problem": sensor.message,
    }
    text = sensor.state.name
    if level != "OK" and sensor.message:
        text += f": {sensor.message}"
    return diagnostic_status(compose, level, f"{node}: sensor {sensor.name}", text, node, values)


def diagnostic_status(
    compose: Composer, level: str, name: str, text: str, node: str, values: Mapping[str, str]
) -> Any:
    """Make a diagnostic_msgs/DiagnosticStatus; ``level`` is the name of its constant."""
    kind = compose.find("diagnostic_msgs/msg/DiagnosticStatus")
    pair = compose.find("diagnostic_msgs/msg/KeyValue")
    return kind(
        level=getattr(kind, level),
        name=name,
        message=text,
        hardware_id=node,
        values=[pair(key=key, value=value) for key, value in values.items()],
    )
