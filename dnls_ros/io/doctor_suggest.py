"""A configuration that fits a recording: which topics to read, how, and what is only a guess.

Every figure that the data do not say is marked ``# guess``; the rest was measured. What is written
loads: it is checked before the file appears.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dnls_ros.errors import DnlsError
from dnls_ros.io.doctor import Report, TopicReport
from dnls_ros.io.doctor_topics import CAMERA_INFO, IMU
from dnls_ros.io.files import write_text
from dnls_ros.io.messages import types_for
from dnls_ros.window.parameter_file import yaml_value
from dnls_ros.window.parameters import load_parameters

TRUTH = re.compile(r"truth|reference", re.IGNORECASE)
"""Topics by whose name they are what an estimate is compared with, not what it is made of."""
_SENSOR_TYPES = (
    "odometry", "pose", "pose_stamped", "twist", "imu", "landmarks", "range_bearing",
    "relative_pose",
)  # fmt: skip
_GOOD = {"good", "partial"}
_ABSOLUTE = ("pose", "pose_stamped")


@dataclass
class _Sensor:
    """One proposed block: values as they are written, comments by key."""

    name: str
    type: str
    topic: TopicReport
    values: dict[str, object] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, value: object, comment: str = "") -> None:
        self.values[key] = value
        if comment:
            self.comments[key] = comment


def write_suggestion(report: Report, path: Path | str) -> list[str]:
    """Writes the configuration and says in lines what it holds.

    Raises:
        DnlsError: There is nothing in the recording that an estimator could read.
    """
    text, sensors = suggestion(report)
    write_text(path, text)
    guesses = text.count("# guess")
    names = ", ".join(f"{one.name} ({one.type})" for one in sensors)
    return [f"configuration  {path}: {names}; {guesses} values are marked '# guess'"]


def suggestion(report: Report) -> tuple[str, list[_Sensor]]:
    """The configuration as YAML, and its sensors."""
    sensors = _sensors(report)
    if not sensors:
        readable = ", ".join(_SENSOR_TYPES)
        raise DnlsError(
            f"{report.source}: no configuration can be suggested, since no topic is one of "
            f"{readable}, or each is empty or named like a truth"
        )
    poses = [s for s in sensors if s.type in (*_ABSOLUTE, "odometry")]
    flat = bool(poses) and all(s.topic.name in report.flat for s in poses)
    world = next((_frame(s.topic) for s in sensors if s.type in _ABSOLUTE), "") or next(
        (_frame(s.topic) for s in poses), ""
    )
    base = report.base or "base_link"
    world = world if world and world != base else "world"
    for sensor in sensors:
        _fill(sensor, report, flat, world, base)
    lines = [*_head(report, sensors, flat, world, base), *_blocks(sensors)]
    text = "\n".join(lines) + "\n"
    load_parameters(yaml.safe_load(text))
    return text, sensors


def _sensors(report: Report) -> list[_Sensor]:
    """The topics that become sensors, with unique names."""
    found: list[_Sensor] = []
    taken: set[str] = set()
    for topic in report.topics:
        kind = _type_of(topic)
        if kind is None or not topic.count or TRUTH.search(topic.name):
            continue
        words = [w for w in re.split(r"[^a-z0-9]+", topic.name.lower()) if w and w[0].isalpha()]
        name = next(
            (n for k in range(1, len(words) + 1) if (n := "_".join(words[-k:])) not in taken),
            f"sensor_{len(taken)}",
        )
        taken.add(name)
        found.append(_Sensor(name, kind, topic))
    return found


def _type_of(topic: TopicReport) -> str | None:
    if topic.type == IMU:
        return "imu"
    return next((kind for kind in _SENSOR_TYPES if topic.type in types_for(kind)), None)


def _fill(sensor: _Sensor, report: Report, flat: bool, world: str, base: str) -> None:
    """The values of one block."""
    topic, frame = sensor.topic, _frame(sensor.topic)
    sensor.put("type", sensor.type)
    sensor.put("topic", topic.name)
    if topic.rate is not None and topic.jitter is not None and topic.jitter < 0.5 / topic.rate:
        sensor.put("expected_rate", float(f"{topic.rate:.3g}"))
    if sensor.type == "odometry":
        sensor.put("differential", True, "odometry drifts: its motion is used, not its pose")
    _fill_noise(sensor, flat)
    if topic.zero > 0.5 * topic.count:
        sensor.put("stamp_source", "arrival", "header stamps are zero")
    if topic.name in report.offsets:
        sensor.put("stamp_offset", report.offsets[topic.name], "from correlated turn rates")
    on_body = sensor.type not in (*_ABSOLUTE, "odometry")
    if not frame:
        sensor.put("frame_override", base if on_body else world, "header.frame_id is empty")
    if on_body and frame and frame != base and not _has_tf(report, frame, base):
        sensor.put("extrinsic", [0.0] * 6, "guess: no tf says where it is mounted; measure it")
    if not on_body and not _child(topic, base) and not _has_tf(report, _measured(topic), base):
        sensor.put("extrinsic", [0.0] * 6, "guess: where the measured frame is on the body")
    if sensor.type == "landmarks":
        _fill_camera(sensor, report)


def _fill_noise(sensor: _Sensor, flat: bool) -> None:
    """Axes and noise: the message's covariance if it is usable, else a guess."""
    topic = sensor.topic
    if sensor.type == "landmarks":
        sensor.put("sigma", [1.0], "guess [px]")
        return
    if sensor.type == "range_bearing":
        return
    if sensor.type == "imu":
        turned = _usable(topic, "orientation_covariance")
        axes = ["vyaw"] if flat else ["vroll", "vpitch", "vyaw"]
        sensor.put("axes", [*(["roll", "pitch"] if turned and not flat else []), *axes])
        if not _usable(topic, "angular_velocity_covariance"):
            sensor.put("axes", axes)
            sensor.put("covariance", "fixed")
            sensor.put("sigma", [0.02] * len(axes), "guess [rad/s]: covariance is unknown")
        return
    names = {"odometry": "twist.covariance", "twist": "twist.covariance",
             "relative_pose": "relative.covariance"}  # fmt: skip
    if not _usable(topic, names.get(sensor.type, "pose.covariance")):
        sensor.put("covariance", "fixed")
        density = " per √s" if sensor.type == "odometry" else ""
        sensor.put("sigma", [0.05] * (3 if flat else 6), f"guess{density}: no usable covariance")


def _fill_camera(sensor: _Sensor, report: Report) -> None:
    """The calibration beside the detections and the map, which only people know."""
    infos = [t.name for t in report.topics if t.type == CAMERA_INFO]
    place = sensor.topic.name.rpartition("/")[0]
    beside = [name for name in infos if name.rpartition("/")[0] == place] or infos
    guess = "" if beside else "guess: no CameraInfo was found"
    sensor.put("camera_info_topic", beside[0] if beside else f"{place}/camera_info", guess)
    sensor.put("landmarks.map_file", "", "tags are mapped; name a file if their places are known")


def _usable(topic: TopicReport, field_name: str) -> bool:
    classes = topic.covariances.get(field_name, {})
    total = sum(classes.values())
    return total > 0 and sum(n for k, n in classes.items() if k in _GOOD) > 0.99 * total


def _frame(topic: TopicReport) -> str:
    return max(topic.frames, key=lambda name: topic.frames[name], default="")


def _measured(topic: TopicReport) -> str:
    return max(topic.child_frames, key=lambda name: topic.child_frames[name], default="")


def _child(topic: TopicReport, base: str) -> bool:
    """Whether a pose is the body's own: it says so, or says nothing."""
    return _measured(topic) in ("", base)


def _has_tf(report: Report, frame: str, base: str) -> bool:
    """Whether tf connects two frames, as far as the report's tree shows."""
    return any(topic.tf.get(f"{frame} -> {base}", 0.0) > 0.0 for topic in report.topics)


def _head(
    report: Report, sensors: Sequence[_Sensor], flat: bool, world: str, base: str
) -> list[str]:
    starts = any(s.type in _ABSOLUTE for s in sensors)
    lines = [
        f"# Suggested by `dnls doctor` from {Path(report.source).name}; values marked `# guess` "
        "are not measured.",
        "dnls_estimator:",
        "  ros__parameters:",
        f"    world_frame: {yaml_value(world)}",
        f"    sensors: {yaml_value([s.name for s in sensors])}",
        "    tracks: [robot]",
        f"    window.duration: {report.window}  # {report.window_reason}",
    ]
    if report.window + 1.0 > 30.0:
        lines.append(f"    tf.cache: {report.window + 1.0}")
    lines += [
        f"    track.robot.manifold: {'se2' if flat else 'se3'}"
        + ("  # the poses never leave the plane" if flat else ""),
        f"    track.robot.child_frame: {yaml_value(base)}",
    ]
    if not starts:
        width = 3 if flat else 6
        lines += [
            "    track.robot.init.mode: params  # guess: nothing absolute says where it starts",
            f"    track.robot.init.pose: {yaml_value([0.0] * width)}",
            f"    track.robot.init.sigma: {yaml_value([0.01] * width)}",
        ]
    return lines


def _blocks(sensors: Sequence[_Sensor]) -> list[str]:
    lines: list[str] = []
    for sensor in sensors:
        lines.append("")
        for key, value in sensor.values.items():
            comment = sensor.comments.get(key)
            line = f"    sensor.{sensor.name}.{key}: {yaml_value(value)}"
            lines.append(f"{line}  # {comment}" if comment else line)
    return lines
