"""From a filter of robot_localization to parameters of this estimator.

    done = migrate(one)  # one of ``robot_localization.read_filters``
    text = as_yaml(done, file, node, section)

Every parameter of the filter is carried over or named in a note that says why not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from dnls_ros.errors import DnlsError
from dnls_ros.io.migrate_inputs import migrate_input
from dnls_ros.io.migrate_values import FilterValues
from dnls_ros.io.robot_localization import STATE, Filter
from dnls_ros.window.parameter_file import yaml_value
from dnls_ros.window.parameter_table import NODE

TRACK = "robot"
LEAST_SIGMA = 1e-3
"""Where a filter says that something does not change at all [SI per √s]."""
LEAST_INIT_SIGMA = 1e-4
"""Where a filter says that its first pose is exact [m, rad]."""
OPEN_INIT_SIGMA = (100.0, 100.0, 100.0, math.pi, math.pi, math.pi)
"""Of axes that a sensor measures absolutely: the first pose says nothing about them [m, rad]."""
FASTEST_SOLVES = 30.0
"""A smoothing window costs milliseconds: a filter's higher rate is met by predictions [Hz]."""
DEFAULT_PROCESS_NOISE = (0.05, 0.05, 0.06, 0.03, 0.03, 0.06, 0.025, 0.025, 0.04, 0.01, 0.01, 0.02)
DEFAULT_ESTIMATE_VARIANCE = 1e-9
"""What robot_localization takes where a file says nothing."""
PLANE = (0, 1, 5)

CONTROL = (
    *("use_control", "stamped_control", "control_timeout", "control_config"),
    *("acceleration_limits", "acceleration_gains", "deceleration_limits", "deceleration_gains"),
)
NO_EQUIVALENT: Mapping[str, str] = {
    **dict.fromkeys(CONTROL, "commands are no input here; measured motion is (odometry, twist)"),
    "dynamic_process_noise_covariance": "the motion noise is constant; set "
    f"track.{TRACK}.motion_sigma for the fastest motion that you expect",
    "publish_acceleration": "accelerations are not estimated",
    "permit_corrected_publication": "an odometry is never sent again for an older stamp; corrected"
    " poses are in the topics path and ~/window",
    "tf_prefix": "frames are named in full",
}
"""Parameters that matter and have no equivalent, and why."""
SILENT: Mapping[str, str] = {
    "print_diagnostics": "diagnostics are always published; diagnostics.rate says how often",
    "debug": "see ~/measurement_status, ~/solver_stats and ~/dump_window instead",
    "debug_out_file": "see ~/dump_window instead",
    "gravitational_acceleration": "accelerations are not fused",
    **dict.fromkeys(("alpha", "kappa", "beta"), "of the unscented transform, which is not used"),
}
"""Parameters whose loss changes no result."""


class Kind(Enum):
    """What a note means for whoever reads it."""

    LOST = "no equivalent"
    OPEN = "to be set by you"
    CHANGED = "other meaning"
    SILENT = "nothing to do"


@dataclass(frozen=True)
class Note:
    """Something to know about one parameter of the filter."""

    kind: Kind
    parameter: str
    why: str


@dataclass
class Migration:
    """What a migration collects.

    Attributes:
        given: Names in the filter's file.
        values: New parameters by dotted name.
        sources: Where each came from.
        notes: What was not carried over as it was.
    """

    given: frozenset[str]
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    sources: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[Note] = field(default_factory=list[Note])

    def set(self, name: str, value: Any, source: str = "") -> None:
        """Sets a parameter."""
        self.values[name] = value
        self.sources[name] = source

    def note(self, kind: Kind, parameter: str, why: str) -> None:
        """Adds a note."""
        self.notes.append(Note(kind, parameter, why))

    @property
    def complete(self) -> bool:
        """Whether nothing that mattered was lost or is still to be set."""
        return not any(note.kind in (Kind.LOST, Kind.OPEN) for note in self.notes)


def migrate(one: Filter) -> Migration:
    """The estimator's parameters for a filter.

    Raises:
        DnlsError: A value of the filter is not of its type.
    """
    done, values = Migration(frozenset(one.values)), FilterValues(one.values)
    planar = values.truth("two_d_mode")
    done.set("tracks", [TRACK])
    done.set("sensors", [])
    _frames(done, values)
    _rates(done, values)
    _lag(done, values)
    _tf(done, values)
    done.set(f"track.{TRACK}.manifold", "se2" if planar else "se3", "two_d_mode")
    _motion(done, values, planar)
    sensors: dict[str, dict[str, Any]] = {}
    for source in one.inputs:
        made, notes = migrate_input(source, planar)
        sensors |= made
        done.notes += [Note(Kind[kind], parameter, why) for kind, parameter, why in notes]
    if not sensors:
        raise DnlsError(f"no input of '{one.node}' measures anything that can be used")
    done.values["sensors"] = list(sensors)
    _start(done, values, planar, sensors)
    for name, block in sensors.items():
        for row, value in block.items():
            done.set(f"sensor.{name}.{row}", value)
    _rest(done, values)
    return done


def _frames(done: Migration, values: FilterValues) -> None:
    """Frames of REP-105; the filter estimates base_link in its world frame."""
    odom = values.text("odom_frame", "odom")
    base = values.text("base_link_frame", "base_link")
    done.set("world_frame", values.text("world_frame", odom), "world_frame")
    done.set("map_frame", values.text("map_frame", "map"), "map_frame")
    done.set("odom_frame", odom, "odom_frame")
    done.set("base_link_frame", base, "base_link_frame")
    output = values.text("base_link_frame_output", base)
    done.set(f"track.{TRACK}.child_frame", output, "base_link_frame_output")
    if output != base:
        done.note(
            Kind.CHANGED,
            "base_link_frame_output",
            f"'{output}' is the frame that is estimated; sensors are mounted on it by tf",
        )
    if "use_sim_time" in values.left:
        done.set("use_sim_time", values.truth("use_sim_time"), "use_sim_time")


def _rates(done: Migration, values: FilterValues) -> None:
    """How often, and how far ahead."""
    given = "frequency" in values.left
    frequency = values.number("frequency", 30.0)
    if frequency <= 0.0:
        raise DnlsError(f"frequency: got {frequency:g}; expected a number above 0")
    done.set("solver.rate", min(max(frequency, 0.5), FASTEST_SOLVES), "frequency")
    ahead = values.truth("predict_to_current_time")
    if ahead or frequency > FASTEST_SOLVES:
        done.set("publish.predicted_rate", min(frequency, 1000.0), "frequency")
    if frequency > FASTEST_SOLVES:
        done.note(
            Kind.CHANGED,
            "frequency",
            f"{frequency:g} Hz: the window is solved at {FASTEST_SOLVES:g} Hz; odometry/predicted "
            "has the rate that you had",
        )
    elif given and not ahead:
        text = "odometry/filtered comes with new data only, not on a timer; for that set "
        done.note(Kind.CHANGED, "frequency", f"{text}publish.predicted_rate: {frequency:g}")
    if "sensor_timeout" in values.left:
        timeout = values.number("sensor_timeout", 0.0)
        if timeout > 0.0:
            done.set("health.stale_after", min(timeout, 3600.0), "sensor_timeout")
            text = "a sensor silent for so long is reported as stale; predicting needs no timeout"
            done.note(Kind.CHANGED, "sensor_timeout", text)


def _lag(done: Migration, values: FilterValues) -> None:
    """Late data and jumps of the clock."""
    smooth = values.truth("smooth_lagged_data")
    history = values.number("history_length", 0.0)
    if smooth and history > 0.0:
        duration = min(max(history, 2.0), 60.0)
        done.set("window.duration", duration, "history_length")
        done.set("tf.cache", max(30.0, duration + 1.0))
        if duration != history:
            text = f"{history:g} s: window.duration is {duration:g} s (2 to 60)"
            done.note(Kind.CHANGED, "history_length", text)
    elif not smooth:
        done.note(
            Kind.CHANGED,
            "smooth_lagged_data",
            "late data are always used where they belong, as long as they are younger than "
            "window.duration (2 s)",
        )
    jump = "reset" if values.truth("reset_on_time_jump") else "ignore"
    done.set("time.on_jump_back", jump, "reset_on_time_jump")
    if values.truth("disabled_at_startup"):
        done.set("autostart", False, "disabled_at_startup")
        text = "the node waits for configure and activate instead of the service enable"
        done.note(Kind.CHANGED, "disabled_at_startup", text)


def _tf(done: Migration, values: FilterValues) -> None:
    """What is broadcast and waited for."""
    done.set("publish.tf", values.truth("publish_tf", True), "publish_tf")
    offset = values.number("transform_time_offset", 0.0)
    if offset:
        done.set("publish.tf_offset", min(max(offset, -1.0), 1.0), "transform_time_offset")
        if abs(offset) > 1.0:
            done.note(Kind.CHANGED, "transform_time_offset", f"{offset:g} s: cut to 1 s")
    timeout = values.number("transform_timeout", 0.0)
    if timeout > 0.0:
        done.set("tf.timeout", min(timeout, 10.0), "transform_timeout")


def _motion(done: Migration, values: FilterValues, planar: bool) -> None:
    """The noise of the constant-velocity model: the filter's, of its velocities."""
    diagonal, coupled = values.diagonal("process_noise_covariance")
    density = np.array(DEFAULT_PROCESS_NOISE) if diagonal is None else diagonal[:12]
    if (density < 0.0).any():
        raise DnlsError("process_noise_covariance: its diagonal has negative numbers")
    sigma = np.maximum(np.sqrt(density[6:12]), LEAST_SIGMA)
    chosen = sigma[list(PLANE)] if planar else sigma
    done.set(f"track.{TRACK}.motion", "constant_velocity")
    done.set(f"track.{TRACK}.motion_sigma", _short(chosen), "process_noise_covariance")
    text = "the square roots of its entries for velocities are the noise of the motion; its "
    text += "other entries are not used, because position follows from velocity"
    done.note(Kind.CHANGED, "process_noise_covariance", text)
    if coupled:
        text = "entries off its diagonal are not used"
        done.note(Kind.LOST, "process_noise_covariance", text)


def _start(
    done: Migration, values: FilterValues, planar: bool, sensors: Mapping[str, Mapping[str, Any]]
) -> None:
    """Where the first pose comes from: the filter's initial state, or a sensor of whole poses."""
    state = values.vector("initial_state")
    variance, _ = values.diagonal("initial_estimate_covariance")
    known = _absolute_axes(sensors)
    if state is None and any(
        ({"x", "y", "yaw"} if planar else set(STATE[:6])) <= k for k in known
    ):
        done.set("init.mode", "first_measurement")
        return
    done.set("init.mode", "params", "initial_state")
    pose = np.zeros(6) if state is None else state[:6]
    spread = np.full(6, DEFAULT_ESTIMATE_VARIANCE) if variance is None else variance[:6]
    if (spread < 0.0).any():
        raise DnlsError("initial_estimate_covariance: its diagonal has negative numbers")
    sigma = np.maximum(np.sqrt(spread), LEAST_INIT_SIGMA)
    if variance is None:
        measured = [axis in set().union(*known) for axis in STATE[:6]]
        sigma = np.where(measured, OPEN_INIT_SIGMA, sigma)
        text = "axes that a sensor measures absolutely start open, the others where initial_state"
        done.note(Kind.CHANGED, "initial_estimate_covariance", f"{text} says (zero)")
    axes = list(PLANE) if planar else list(range(6))
    done.set("init.pose", _short(pose[axes]), "initial_state")
    done.set("init.sigma", _short(sigma[axes]), "initial_estimate_covariance")
    if state is not None and np.any(state[6:]):
        done.note(Kind.LOST, "initial_state", "velocities and accelerations start at zero")


def _absolute_axes(sensors: Mapping[str, Mapping[str, Any]]) -> list[set[str]]:
    """The axes of the pose that each sensor measures in a frame that does not drift."""
    return [
        set(block["axes"]) & set(STATE[:6])
        for block in sensors.values()
        if block["type"] in ("odometry", "pose", "imu") and not block.get("differential")
    ]


def _rest(done: Migration, values: FilterValues) -> None:
    """What is left has no equivalent, or is no parameter of robot_localization."""
    for name, value in values.left.items():
        if name in SILENT:
            done.note(Kind.SILENT, name, SILENT[name])
        elif name in NO_EQUIVALENT:
            switch = name not in CONTROL or values.left.get("use_control", False)
            off = value in (False, [], "") or not switch
            done.note(Kind.SILENT if off else Kind.LOST, name, NO_EQUIVALENT[name])
        elif name.startswith("qos_overrides"):
            done.note(Kind.LOST, name, "see sensor.<name>.qos.reliability and .depth")
        else:
            done.note(Kind.LOST, name, "is no parameter of robot_localization; not read")


def _short(numbers: np.ndarray) -> list[float]:
    """Numbers with four digits that count, for people to read."""
    return [float(f"{value:.4g}") for value in numbers]


def as_yaml(done: Migration, file: str, node: str, section: str) -> str:
    """The parameter file, with where each value came from and all notes as comments."""
    title = f"# From {file} (robot_localization)" + (f", node '{node}'" if node else "")
    lines = [f"{title}, by `dnls migrate`. What to know about it stands at the end."]
    lines += [f"{section}:", "  ros__parameters:"]
    lines += _block(_nested(done), 4)
    for kind in Kind:
        chosen = [note for note in done.notes if note.kind is kind]
        if chosen:
            lines += ["", f"# {kind.value}:"]
            lines += [f"#   {note.parameter}: {note.why}" for note in chosen]
    return "\n".join(lines) + "\n"


def _nested(done: Migration) -> dict[str, Any]:
    """Dotted names as blocks; a leaf is the text after its name."""
    root: dict[str, Any] = {}
    rows = {row.name: row.unit for row in NODE}
    for name, value in done.values.items():
        block = root
        *path, last = name.split(".")
        for part in path:
            block = block.setdefault(part, {})
        about = ", ".join(filter(None, (rows.get(name, ""), _origin(done, name))))
        block[last] = yaml_value(value) + (f"  # {about}" if about else "")
    return root


def _origin(done: Migration, name: str) -> str:
    source = done.sources[name]
    if not source:
        return ""
    return f"from {source}" if source in done.given else f"default of {source}"


def _block(content: Mapping[str, Any], indent: int) -> Sequence[str]:
    """A block's lines."""
    lines: list[str] = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            lines += [f"{' ' * indent}{name}:", *_block(value, indent + 2)]
        else:
            lines.append(f"{' ' * indent}{name}: {value}")
    return lines
