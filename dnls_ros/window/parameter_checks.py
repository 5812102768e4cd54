"""What several parameters must satisfy together; a violation names the parameter to change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from dnls_ros.errors import DnlsError
from dnls_ros.window.config import (
    POSE_TYPES,
    TWIST_AXES,
    EstimatorConfig,
    SensorConfig,
    TrackConfig,
)
from dnls_ros.window.parameter_blocks import NOISELESS, Problems, attribute, noise_width
from dnls_ros.window.touch_checks import check_touch

OUTPUTS = ("odometry/filtered", "odometry/predicted", "pose", "path")
DIFFERENTIAL_TYPES = (*POSE_TYPES, "imu")
ABOUT_TYPE: Mapping[str, tuple[str, ...]] = {
    "target_frame": POSE_TYPES,
    "cost": ("custom",),
    "camera_info_topic": ("landmarks",),
    "model": ("tactile_image",),
    "contact.radius": ("contact", "tactile_image"),
    "image.crop": ("tactile_image",),
    "camera.calibration_file": ("landmarks",),
    "camera.estimate_extrinsic": ("landmarks",),
    "landmarks.map_file": ("landmarks", "range_bearing"),
}
"""Rows of a sensor that apply to some types only."""
LARGEST_TILT = 0.2
"""Of a sensor of motion on a plane, sine of roll and pitch."""


def check_configuration(
    config: EstimatorConfig, problems: Problems, unread: tuple[str, ...] = ()
) -> None:
    """Notes every violation of a rule about more than one parameter.

    Sensors that could not be read (``unread``) are not in the configuration: their own problems
    are noted already, and whether one of them starts a track or is required is not known.
    """
    _check_node(config, problems)
    _check_frames(config, problems)
    _check_health(config, unread, problems)
    check_touch(config, problems)
    outputs = own_outputs(config)
    for sensor in config.sensors:
        _check_noise(sensor, problems)
        _check_landmarks(sensor, problems)
        _check_type(sensor, problems)
        _check_use(sensor, config.track(sensor.track), problems)
        _check_topics(sensor, outputs, problems)
    for track in config.tracks if not unread else ():
        _check_start(track, config, problems)


def own_outputs(config: EstimatorConfig) -> tuple[str, ...]:
    """Relative names of the published topics, prefixed by the track when there are several."""
    published = [track.name for track in config.tracks if track.publish]
    prefixes = [f"{name}/" for name in published] if len(published) > 1 else [""] * len(published)
    return tuple(prefix + topic for prefix in prefixes for topic in OUTPUTS)


def warnings_of(config: EstimatorConfig) -> tuple[str, ...]:
    """Sentences about settings that are allowed but seldom wanted."""
    found: list[str] = []
    if config.gate.reopen_after == 0.0:
        found.append("gate.reopen_after: a gated sensor may stay out for ever")
    for track in config.tracks:
        starters = [s for s in config.sensors if s.track == track.name and s.ignition]
        if track.init.mode == "first_measurement" and not any(s.enabled for s in starters):
            names = ", ".join(s.name for s in starters)
            text = f"nothing starts it until one of its sensors is enabled: {names}"
            found.append(f"track.{track.name}: {text}")
    return tuple(found)


def _check_node(config: EstimatorConfig, problems: Problems) -> None:
    """Rules between rows of the node."""
    solver = config.solver
    if solver.lambda_init >= solver.lambda_max:
        limit = f"solver.lambda_max = {solver.lambda_max:g}"
        text = f"got {solver.lambda_init:g}; expected less than {limit}"
        problems.add("solver.lambda_init", text)
    timed = solver.trigger == "rate" and not config.deterministic
    if timed and solver.time_budget > 1.0 / solver.rate * (1.0 + 1e-9):
        limit = f"1/solver.rate = {1.0 / solver.rate:g} s"
        text = f"got {solver.time_budget:g} s; expected at most {limit}"
        problems.add("solver.time_budget", text)
    least = config.window.duration + 1.0
    if config.tf.cache < least:
        text = f"got {config.tf.cache:g} s; expected at least window.duration + 1 = {least:g} s"
        problems.add("tf.cache", text)
    if config.init.mode == "params" and len(config.init.pose) != len(config.init.sigma):
        problems.add(
            "init.sigma",
            f"has {len(config.init.sigma)} numbers, init.pose {len(config.init.pose)}",
        )


def _check_frames(config: EstimatorConfig, problems: Problems) -> None:
    """Frames that must differ."""
    if config.odom_frame == config.map_frame:
        problems.add("odom_frame", f"equals map_frame '{config.map_frame}'; they must differ")
    for frame, count in Counter(t.child_frame for t in config.tracks).items():
        if count > 1:
            names = [
                f"track.{t.name}.child_frame" for t in config.tracks if t.child_frame == frame
            ]
            problems.add(
                names[-1], f"'{frame}' is the frame of {count} tracks; each track needs its own"
            )
    for track in config.tracks:
        if track.child_frame == track.parent_frame:
            problems.add(
                f"track.{track.name}.child_frame",
                f"equals its parent_frame '{track.parent_frame}'",
            )


def _check_health(config: EstimatorConfig, unread: tuple[str, ...], problems: Problems) -> None:
    """Required sensors exist."""
    names = [*(sensor.name for sensor in config.sensors), *unread]
    for name in config.health.required_sensors:
        if name not in names:
            problems.add("health.required_sensors", f"got '{name}'; expected some of {names}")


def _check_noise(sensor: SensorConfig, problems: Problems) -> None:
    """Lengths and presence of the noise settings."""
    where = f"sensor.{sensor.name}"
    width = noise_width(sensor.type, sensor.axes, sensor.sigma)
    meaning = "[px]" if sensor.type == "landmarks" else f"({' '.join(sensor.axes)})"
    if len(set(sensor.axes)) != len(sensor.axes):
        problems.add(f"{where}.axes", f"names an axis twice: {list(sensor.axes)}")
    if sensor.sigma and len(sensor.sigma) != width:
        problems.add(
            f"{where}.sigma", f"has {len(sensor.sigma)} numbers; expected {width} {meaning}"
        )
    if len(sensor.sigma_floor) != width:
        problems.add(
            f"{where}.sigma_floor",
            f"has {len(sensor.sigma_floor)} numbers; expected 1 or {width} {meaning}",
        )
    if not sensor.sigma and sensor.covariance == "fixed":
        reason = (
            "its messages carry no noise" if sensor.type in NOISELESS else "covariance is 'fixed'"
        )
        problems.add(
            f"{where}.sigma", f"is required ({reason}): {width} standard deviations {meaning}"
        )
    if not sensor.sigma and sensor.on_zero_covariance == "use_fixed":
        problems.add(f"{where}.on_zero_covariance", "is 'use_fixed' but sigma is not set")
    if 0.0 < sensor.gate_probability < 0.5:
        text = f"got {sensor.gate_probability:g}; expected 0 (off) or 0.5..0.999999"
        problems.add(f"{where}.gate_probability", text)


def _check_landmarks(sensor: SensorConfig, problems: Problems) -> None:
    """Cameras know their calibration."""
    if sensor.type != "landmarks":
        return
    where = f"sensor.{sensor.name}"
    if not sensor.camera_info_topic and not sensor.camera.calibration_file:
        text = "a landmarks sensor needs intrinsics: set this or camera.calibration_file"
        problems.add(f"{where}.camera_info_topic", text)
    sigmas = len(sensor.camera.extrinsic_sigma)
    if sigmas != 6:
        problems.add(f"{where}.camera.extrinsic_sigma", f"has {sigmas} numbers; expected 6")


def _check_type(sensor: SensorConfig, problems: Problems) -> None:
    """What a type needs is given, and nothing that only other types use."""
    where = f"sensor.{sensor.name}"
    for name, types in ABOUT_TYPE.items():
        if attribute(sensor, name) and sensor.type not in types:
            text = f"does not apply to type '{sensor.type}'; only to {', '.join(types)}"
            problems.add(f"{where}.{name}", text)
    if sensor.type == "tf_pose":
        if sensor.topic:
            problems.add(f"{where}.topic", "does not apply to type 'tf_pose', which reads tf")
        if not sensor.target_frame:
            text = "is required for type 'tf_pose': the frame whose pose is measured"
            problems.add(f"{where}.target_frame", text)
    elif not sensor.topic:
        problems.add(f"{where}.topic", f"is required for type '{sensor.type}': what is read")
    if sensor.type == "custom":
        _check_cost(sensor, problems)


def _check_cost(sensor: SensorConfig, problems: Problems) -> None:
    """The class of a custom sensor can be loaded."""
    where = f"sensor.{sensor.name}.cost"
    if not sensor.cost:
        problems.add(where, "is required for type 'custom': a class as pkg.module:Class")
        return
    from dnls_ros.window.custom import load_custom  # brings torch, which nothing else here needs

    try:
        load_custom(sensor.cost)
    except DnlsError as error:
        problems.add(where, str(error))


def _check_use(sensor: SensorConfig, track: TrackConfig, problems: Problems) -> None:
    """Whether the sensor can be used as it is asked to be."""
    where = f"sensor.{sensor.name}"
    if len(sensor.extrinsic) not in (0, 6):
        problems.add(
            f"{where}.extrinsic",
            f"has {len(sensor.extrinsic)} numbers; expected 6 (x y z roll pitch yaw), or none: "
            "from tf",
        )
    if sensor.differential and sensor.type not in DIFFERENTIAL_TYPES:
        problems.add(
            f"{where}.differential",
            f"does not apply to type '{sensor.type}'; only to poses, odometry and imu",
        )
    if sensor.differential and sensor.type in ("pose", "imu") and sensor.covariance != "fixed":
        text = "a pose's covariance is not that of the motion: set 'fixed' and sigma per √s"
        problems.add(f"{where}.covariance", f"got '{sensor.covariance}'; {text}")
    rates = [axis for axis in sensor.axes if axis in TWIST_AXES]
    if sensor.type == "odometry" and rates:
        _check_velocities(sensor, rates, problems)
    if sensor.differential and sensor.type == "imu" and rates:
        text = "its gyro and the turns of its orientation are the same motion twice: name one kind"
        problems.add(f"{where}.axes", f"got {rates} of a differential imu; {text}")
    if track.planar and _measures_motion(sensor) and _is_tilted(sensor):
        text = "its x y yaw must be the plane's: mount a sensor of motion level, or use se3"
        problems.add(f"{where}.extrinsic", f"rolls or pitches a sensor of an se2 track; {text}")
    says_where = sensor.type in ("landmarks", "custom") or sensor.measures_pose(track)
    if sensor.ignition and not says_where:
        text = "a sensor that starts a track measures its whole pose absolutely; this one does not"
        problems.add(f"{where}.ignition", text)


def _check_velocities(sensor: SensorConfig, rates: list[str], problems: Problems) -> None:
    """An odometry is read as poses or as velocities, and velocities have no differences."""
    where = f"sensor.{sensor.name}"
    pose = [axis for axis in sensor.axes if axis not in rates]
    if pose:
        text = f"its pose ({' '.join(pose)}) and its velocities ({' '.join(rates)}) have noise of "
        text += f"their own: make two sensors on topic '{sensor.topic}', one with each"
        problems.add(f"{where}.axes", f"got {list(sensor.axes)}; {text}")
    if sensor.differential:
        text = f"axes {rates} are velocities, the motion itself: leave differential out, or name "
        problems.add(f"{where}.differential", f"{text}axes of the pose")


def _measures_motion(sensor: SensorConfig) -> bool:
    """Whether the axes of the sensor's noise are its own, not those of the world."""
    if sensor.type == "imu":  # its axes are those of the body
        return False
    return sensor.differential or sensor.measures_twist or sensor.type == "relative_pose"


def _is_tilted(sensor: SensorConfig) -> bool:
    """Whether the sensor's axes x and y leave the plane noticeably."""
    return any(abs(math.sin(angle)) > LARGEST_TILT for angle in sensor.extrinsic[3:5])


def _check_topics(sensor: SensorConfig, outputs: tuple[str, ...], problems: Problems) -> None:
    """An estimator that reads its own output believes itself."""
    for name in ("topic", "camera_info_topic"):
        topic = getattr(sensor, name)
        if topic in outputs:
            text = f"'{topic}' is one of the estimator's own outputs; remap one of them"
            problems.add(f"sensor.{sensor.name}.{name}", text)


def _check_start(track: TrackConfig, config: EstimatorConfig, problems: Problems) -> None:
    """A track has a sensor that can start it, or a prior."""
    if track.init.mode != "first_measurement":
        return
    own = [sensor for sensor in config.sensors if sensor.track == track.name]
    if any(sensor.ignition for sensor in own):
        return
    have = (
        ", ".join(f"{s.name} ({s.type}{', differential' if s.differential else ''})" for s in own)
        or "none"
    )
    text = (
        f"nothing absolute starts this track (its sensors: {have}); add an absolute pose sensor "
        f"of all its axes or set "
        f"track.{track.name}.init.mode: params with init.pose and init.sigma"
    )
    problems.add(f"track.{track.name}", text)
