"""Inputs of a robot_localization filter as sensors of this estimator.

A filter's input has a pose part and a twist part. Here each part is a sensor of its own, both on
the same topic: poses as ``NAME``, velocities as ``NAME_twist``, or as ``NAME`` where no pose is
used. Poses that are ``differential`` become the motion between them, with the noise of the
message's twist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scipy.stats import chi2

from dnls_ros.errors import DnlsError
from dnls_ros.io.robot_localization import STATE, Input

Sensor = dict[str, Any]
Notes = list[tuple[str, str, str]]
"""Kind (a name of ``migrate.Kind``), parameter, why."""

POSE, TWIST, ACCELERATION = STATE[:6], STATE[6:12], STATE[12:]
SPATIAL = ("z", "roll", "pitch", "vz", "vroll", "vpitch", "az")
"""What two_d_mode leaves out."""
GATE = 0.5, 0.999999
UNKNOWN_DENSITY = {"x": 0.02, "y": 0.02, "z": 0.02, "roll": 0.01, "pitch": 0.01, "yaw": 0.01}
"""A first guess for the noise of a drifting pose [m/√s, rad/√s]."""


def migrate_input(source: Input, planar: bool) -> tuple[dict[str, Sensor], Notes]:
    """The sensors of one input by name, and what is to be known about it.

    Raises:
        DnlsError: An option is not of its type.
    """
    notes: Notes = []
    options = dict(source.options)
    axes = [a for a in source.axes if not (planar and a in SPATIAL)]
    lost = [axis for axis in axes if axis in ACCELERATION]
    if lost:
        text = f"accelerations ({' '.join(lost)}) are not fused; orientation and gyro are"
        notes.append(("LOST", f"{source.name}_config", text))
    pose = [axis for axis in axes if axis in POSE]
    twist = [axis for axis in axes if axis in TWIST]
    differential = _truth(source, options, "differential")
    if _truth(source, options, "relative"):
        text = "poses count as they are, not from the first one on; differential or tf does that"
        notes.append(("LOST", f"{source.name}_relative", text))
    common: Sensor = {"topic": source.topic}
    depth = options.pop("queue_size", None)
    if depth is not None:
        common["qos.depth"] = _depth(source, depth)
    gates = _gates(source, options, pose, twist, notes)
    makers = {"odom": _odometry, "pose": _pose, "twist": _twist, "imu": _imu}
    sensors = makers[source.kind](source, pose, twist, differential, notes)
    for sensor in sensors.values():
        gate = gates["twist" if set(sensor["axes"]) <= set(TWIST) else "pose"]
        sensor |= common | ({} if gate is None else {"gate_probability": gate})
    _rest(source, options, notes)
    if not sensors:
        text = "measures nothing that can be used; left out"
        notes.append(("LOST", source.name, text))
    order = ("type", "topic")
    return {
        name: {**{key: sensor[key] for key in order}, **sensor} for name, sensor in sensors.items()
    }, notes


def _odometry(
    source: Input, pose: list[str], twist: list[str], differential: bool, notes: Notes
) -> dict[str, Sensor]:
    """Poses, velocities, or both."""
    found: dict[str, Sensor] = {}
    if pose:
        found[source.name] = {"type": "odometry", "axes": pose}
    if pose and differential:
        found[source.name]["differential"] = True
        text = "its motion is the difference of its poses, with the covariance of its twist"
        notes.append(("CHANGED", f"{source.name}_differential", text))
    if twist:
        name = f"{source.name}_twist" if pose else source.name
        found[name] = {"type": "odometry", "axes": twist}
    if len(found) == 2:
        text = "pose and twist of one odometry are fused as if they were independent, as before"
        notes.append(("CHANGED", f"{source.name}_config", text))
    return found


def _pose(
    source: Input, pose: list[str], twist: list[str], differential: bool, notes: Notes
) -> dict[str, Sensor]:
    """Absolute poses, or the motion between them, whose noise nobody says."""
    if not pose:
        return {}
    if not differential:
        return {source.name: {"type": "pose", "axes": pose}}
    text = "the noise of a drifting pose is per √s here, and in no message: set "
    notes.append(
        ("OPEN", f"{source.name}_differential", f"{text}sensor.{source.name}.sigma (a guess)")
    )
    return {
        source.name: {
            "type": "pose",
            "differential": True,
            "axes": pose,
            "covariance": "fixed",
            "sigma": [UNKNOWN_DENSITY[axis] for axis in pose],
        }
    }


def _twist(
    source: Input, pose: list[str], twist: list[str], differential: bool, notes: Notes
) -> dict[str, Sensor]:
    """Twists."""
    return {source.name: {"type": "twist", "axes": twist}} if twist else {}


def _imu(
    source: Input, pose: list[str], twist: list[str], differential: bool, notes: Notes
) -> dict[str, Sensor]:
    """Orientation and gyro."""
    turns = [axis for axis in pose if axis in POSE[3:]]
    if differential and turns:
        text = (
            f"differences of orientation ({' '.join(turns)}) are not formed; the gyro gives them"
        )
        notes.append(("LOST", f"{source.name}_differential", text))
        turns = []
    axes = [*turns, *(axis for axis in twist if axis in TWIST[3:])]
    return {source.name: {"type": "imu", "axes": axes}} if axes else {}


def _truth(source: Input, options: dict[str, Any], name: str) -> bool:
    """An option that is a truth value."""
    value = options.pop(name, False)
    if not isinstance(value, bool):
        raise DnlsError(f"{source.name}_{name}: got {value!r}; expected true or false")
    return value


def _depth(source: Input, value: Any) -> int:
    """Messages in a queue."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DnlsError(f"{source.name}_queue_size: got {value!r}; expected an integer")
    return min(max(value, 1), 5000)


def _gates(
    source: Input, options: dict[str, Any], pose: list[str], twist: list[str], notes: Notes
) -> dict[str, float | None]:
    """χ² probabilities of the gates: of n axes at a Mahalanobis distance of d, χ²ₙ(d²)."""
    found: dict[str, float | None] = {"pose": None, "twist": None}
    names: Mapping[str, tuple[str, int]] = {
        "pose_rejection_threshold": ("pose", len(pose)),
        "twist_rejection_threshold": ("twist", len(twist)),
        "rejection_threshold": ("twist" if source.kind == "twist" else "pose", len(pose or twist)),
    }
    for option, (part, count) in names.items():
        if option not in options:
            continue
        value = options.pop(option)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0.0:
            raise DnlsError(f"{source.name}_{option}: got {value!r}; expected a positive number")
        if not count or value > 1e6:  # no axes, or no gate
            continue
        probability = float(chi2.cdf(float(value) ** 2, count))
        found[part] = float(f"{min(max(probability, GATE[0]), GATE[1]):.6f}")
        if not GATE[0] <= probability <= GATE[1]:
            text = f"{value:g} standard deviations are cut to a probability of {found[part]}"
            notes.append(("CHANGED", f"{source.name}_{option}", text))
    return found


def _rest(source: Input, options: dict[str, Any], notes: Notes) -> None:
    """Options that are left over."""
    silent = {
        "nodelay": "of TCPROS; ROS 2 has none",
        "remove_gravitational_acceleration": "accelerations are not fused",
        "linear_acceleration_rejection_threshold": "accelerations are not fused",
        "pose_use_child_frame": "a pose counts for the message's child_frame_id always",
    }
    for option in options:
        name = f"{source.name}_{option}"
        if option in silent:
            notes.append(("SILENT", name, silent[option]))
        else:
            notes.append(("LOST", name, "is no parameter of robot_localization; not read"))
