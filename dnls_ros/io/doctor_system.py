"""Findings about how topics fit together: the configuration, tf, cameras, clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dnls_ros.io.doctor_codes import Finding, Severity, finding
from dnls_ros.io.doctor_judge import Limits, Times
from dnls_ros.io.doctor_tf import CONFLICTS, Availability, TransformLog
from dnls_ros.io.doctor_time import Shift, shift_between
from dnls_ros.io.doctor_topics import CAMERA_INFO, IMAGE_TYPES, IMU, TopicLog
from dnls_ros.io.messages import types_for
from dnls_ros.window.config import EstimatorConfig, SensorConfig, TrackConfig

ODOMETRY = "nav_msgs/msg/Odometry"
DETECTION_TYPES = types_for("landmarks")
BODY_TYPES = (IMU, "geometry_msgs/msg/TwistWithCovarianceStamped", *DETECTION_TYPES, *IMAGE_TYPES,
              *types_for("range_bearing"))  # fmt: skip
"""Types whose header names the frame of the sensor itself, which is fixed to the body."""
BASE_FRAMES = ("base_link", "base_footprint")
YEAR_2001 = 978_307_200
LEAST_SHIFT = 0.01
"""A smaller shift in time is within the method's own error [s]."""


@dataclass(frozen=True)
class View:
    """All that the findings are drawn from."""

    topics: Mapping[str, TopicLog]
    times: Mapping[str, Times]
    tf: TransformLog
    config: EstimatorConfig | None
    live: bool

    def find(self, topic: str) -> TopicLog | None:
        """A topic by its name, with or without the leading '/'."""
        wanted = topic.lstrip("/")
        return next((log for name, log in self.topics.items() if name.lstrip("/") == wanted), None)

    def sensors_of(self, log: TopicLog) -> list[SensorConfig]:
        """The configured sensors that read a topic."""
        if self.config is None:
            return []
        name = log.name.lstrip("/")
        return [s for s in self.config.sensors if s.topic.lstrip("/") == name]

    def limits_of(self, log: TopicLog) -> Limits:
        """What the configuration says is too much for a topic."""
        if self.config is None:
            return Limits()
        window = self.config.window.duration if self.sensors_of(log) else None
        return Limits(self.config.time.stamp_future_limit, window)

    def most(self, log: TopicLog) -> Severity:
        """How much findings on a topic weigh at most."""
        if self.config is not None:
            cameras = {s.camera_info_topic.lstrip("/") for s in self.config.sensors}
            used = bool(self.sensors_of(log)) or log.name.lstrip("/") in cameras
            return Severity.ERROR if used or log.is_tf else Severity.INFO
        known = {CAMERA_INFO, *IMAGE_TYPES} & set(log.types)
        return Severity.ERROR if log.measures or log.is_tf or known else Severity.INFO


def base_frame(view: View) -> str:
    """The body's frame: configured, the odometry's child, or one that REP-105 names; or ``""``."""
    if view.config is not None:
        return view.config.track().child_frame
    children: Counter[str] = Counter()
    for log in view.topics.values():
        if ODOMETRY in log.types:
            children.update(log.child_frames)
    named = [name for name, _ in children.most_common() if name]
    return next(iter([*named, *(f for f in BASE_FRAMES if f in view.tf.frames)]), "")


# --- Configuration ---------------------------------------------------------------------------


def judge_configuration(view: View) -> Iterator[Finding]:
    """Whether the configured topics are there and are what the sensors read."""
    for sensor in () if view.config is None else view.config.sensors:
        if not sensor.topic:
            continue
        log = view.find(sensor.topic)
        who = f"sensor '{sensor.name}'"
        if log is None:
            code = "NO_PUBLISHER" if view.live else "TOPIC_MISSING"
            yield finding(code, f"{who} reads it", sensor.topic)
            continue
        if not log.count:
            yield finding("TOPIC_EMPTY", f"{who} reads it; no messages", log.name)
        yield from _judge_sensor(view, sensor, log)
        if sensor.camera_info_topic and view.find(sensor.camera_info_topic) is None:
            yield finding("TOPIC_MISSING", f"camera of {who}", sensor.camera_info_topic)


def _judge_sensor(view: View, sensor: SensorConfig, log: TopicLog) -> Iterator[Finding]:
    known = types_for(sensor.type)
    if known and log.types and not set(known) & set(log.types):
        text = f"{log.type}; type '{sensor.type}' of sensor '{sensor.name}' reads "
        yield finding("TYPE_MISMATCH", text + " or ".join(known), log.name)
    times = view.times[log.name]
    rate = times.pace.rate if times.pace is not None else 0.0
    if log.count and rate < 0.8 * sensor.expected_rate:
        text = f"{rate:.3g} Hz, expected_rate {sensor.expected_rate:g} Hz"
        yield finding("RATE_LOW", text, log.name)
    weak = [offer for offer in log.offers if not offer.reliable]
    if sensor.qos.reliability == "reliable" and weak:
        text = f"{len(weak)} of {len(log.offers)} publishers are best effort, sensor "
        yield finding("QOS_INCOMPATIBLE", f"{text}'{sensor.name}' asks for reliable", log.name)
    yield from _judge_noise(sensor, log)


def _judge_noise(sensor: SensorConfig, log: TopicLog) -> Iterator[Finding]:
    """Whether a pose, odometry or twist has a usable noise."""
    if sensor.sigma or sensor.covariance == "fixed":
        return
    # The motion between two odometry messages has the noise of their twists.
    moving = sensor.differential or sensor.measures_twist
    covariance = log.values.covariances.get("twist.covariance" if moving else "pose.covariance")
    if covariance is None:
        return
    bad = sum(n for kind, n in covariance.classes.items() if kind not in ("good", "partial"))
    if bad > 0.01 * covariance.count:
        text = f"{bad} of {covariance.count} covariances, and sensor '{sensor.name}' has no sigma"
        yield finding("COVARIANCE_UNUSABLE", text, log.name)


# --- Transforms ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """A transform that a topic needs: which frame is to be found from which, and who says so."""

    target: str
    source: str
    sensor: str = ""


def needs_of(view: View, log: TopicLog, base: str) -> list[Need]:
    """The transforms that the estimator looks up for a topic."""
    sensors = view.sensors_of(log)
    if view.config is not None:
        return [need for s in sensors for need in _configured(s, view.config.track(s.track), log)]
    if not base or not set(BODY_TYPES) & set(log.types):
        return []
    return [Need(base, frame) for frame in log.frames if frame and frame != base]


def _configured(sensor: SensorConfig, track: TrackConfig, log: TopicLog) -> Iterator[Need]:
    header = sensor.frame_override or _most(log.frames)
    measured = sensor.target_frame or _most(log.child_frames)
    if sensor.type == "odometry" and sensor.measures_twist:
        header = sensor.frame_override or measured
    elif sensor.type in ("pose", "pose_stamped", "odometry"):
        if not sensor.differential and header and header != track.parent_frame:
            yield Need(track.parent_frame, header, sensor.name)
        header = measured
    if not sensor.extrinsic and header and header != track.child_frame:
        yield Need(track.child_frame, header, sensor.name)


def judge_availability(log: TopicLog, need: Need, found: Availability, timeout: float,
                       any_tf: bool) -> Iterator[Finding]:  # fmt: skip
    """What it means for a topic that a transform is, or is not, there."""
    pair = f"'{need.source}' to '{need.target}'"
    if found.why:
        severity = Severity.ERROR if need.sensor else Severity.WARN
        if not any_tf:
            found_text = "there is no tf"
            severity = severity if need.sensor else Severity.INFO
        else:
            found_text = found.why
        yield finding("TF_MISSING", f"{pair}: {found_text}", log.name, severity)
    elif found.share < 0.99:
        text = f"{pair} at {100 * found.share:.1f} % of the stamps"
        most = Severity.WARN if found.share < 0.9 else Severity.INFO
        yield finding("TF_UNAVAILABLE", text, log.name, most)
    elif found.wait > timeout:
        text = f"{pair} arrives {found.wait:.3g} s after the message (p95), timeout {timeout:g} s"
        yield finding("TF_LATE", text, log.name)


def judge_tree(tf: TransformLog) -> Iterator[Finding]:
    """The tree of frames itself."""
    for loop in tf.loops():
        yield finding("TF_LOOP", " -> ".join([*loop, loop[0]]), "tf")
    if len(tf.roots) > 1:
        yield finding("TF_ROOTS", ", ".join(tf.roots[:8]), "tf")
    for edge in tf.edges.values():
        parents = list(edge.parents)
        if len(parents) > 1:
            text = ", ".join(f"'{name}' ({n})" for name, n in edge.parents.most_common(4))
            yield finding("TF_REPARENTED", f"'{edge.child}' has parents {text}", "tf")
        elif edge.conflicts >= max(CONFLICTS, 0.01 * edge.dynamic):
            text = f"'{edge.child}': {edge.conflicts} of {edge.dynamic} go back in time or "
            yield finding("TF_SEVERAL_PUBLISHERS", text + "contradict their predecessor", "tf")
        if edge.static and edge.dynamic:
            text = f"'{edge.child}': {edge.static} static, {edge.dynamic} moving"
            yield finding("TF_STATIC_AND_DYNAMIC", text, "tf")
        if edge.bad:
            text = f"'{edge.child}': rotation not normalised or not finite in {edge.bad}"
            yield finding("BAD_QUATERNION", text, "tf")
        slashed = next((f for f in (edge.child, *parents) if f.startswith("/")), None)
        if slashed is not None:
            yield finding("SLASH_FRAME", f"'{slashed}'", "tf")


# --- Cameras and clocks ----------------------------------------------------------------------


def judge_cameras(view: View) -> Iterator[Finding]:
    """Images and detections against the calibration beside them."""
    infos = {log.name: log for log in view.topics.values() if CAMERA_INFO in log.types}
    for log in view.topics.values():
        if not log.count or not {*IMAGE_TYPES, *DETECTION_TYPES} & set(log.types):
            continue
        if _brings_calibration(view, log):
            continue
        info = _calibration_of(view, log, infos)
        if info is None:
            place = _parent(log.name) or "/"
            text = f"no CameraInfo below '{place}' nor in frame '{_most(log.frames)}'"
            yield finding("CAMERA_INFO_MISSING", text, log.name, view.most(log))
            continue
        sizes = {(w, h) for w, h, _ in log.images if w is not None}
        known = {(w, h) for w, h, *_ in info.calibrations if w and h}
        if sizes and known and not sizes <= known:
            text = f"images {_sizes(sizes)}, {info.name} {_sizes(known)}"
            yield finding("CAMERA_SIZE_MISMATCH", text, log.name, view.most(log))


def _brings_calibration(view: View, log: TopicLog) -> bool:
    """Whether no CameraInfo is needed: the message or a file has the calibration."""
    if "dnls_ros/msg/LandmarkObservationArray" in log.types:
        return True
    return any(s.camera.calibration_file for s in view.sensors_of(log))


def _calibration_of(view: View, log: TopicLog, infos: Mapping[str, TopicLog]) -> TopicLog | None:
    """The CameraInfo of an image topic: configured, beside it, or in its frame."""
    for sensor in view.sensors_of(log):
        if sensor.camera_info_topic:
            return view.find(sensor.camera_info_topic)
    place = _parent(log.name)
    while place:
        beside = [info for name, info in infos.items() if _parent(name) == place]
        if beside:
            return beside[0]
        place = _parent(place)
    frame = _most(log.frames)
    same = [info for info in infos.values() if frame and frame in info.frames]
    beside = [info for name, info in infos.items() if _parent(name) == _parent(log.name)]
    return next(iter([*same, *beside]), None)


def judge_clocks(view: View) -> Iterator[Finding]:
    """Which clock the stamps are of."""
    stamps = [log.receive[0] for log in view.topics.values() if log.receive]
    if stamps and 0 <= min(stamps) < YEAR_2001 * 10**9:
        yield finding("CLOCK_SIM", f"the recording begins at {min(stamps) / 1e9:.3f} s")


@dataclass(frozen=True)
class Shifted:
    """A topic that is shifted in time against another [s]; ``certain`` if it is worth acting."""

    topic: str
    reference: str
    shift: Shift
    certain: bool


def shifts_of(view: View) -> list[Shifted]:
    """How topics with turn rates lag behind the odometry (or else the fastest of them)."""
    turning = {}
    for log in view.topics.values():
        pace = view.times[log.name].pace
        if len(log.turns.stamps) >= 50 and pace is not None and pace.period < 0.2:
            turning[log.name] = (log, pace.period)
    if len(turning) < 2:
        return []
    odometries = [name for name, (log, _) in turning.items() if ODOMETRY in log.types]
    reference = odometries[0] if odometries else min(turning, key=lambda n: turning[n][1])
    found = []
    for name, (log, period) in turning.items():
        if name == reference:
            continue
        shift = shift_between(*log.turns.arrays(), *turning[reference][0].turns.arrays())
        if shift is not None:
            # A rate may be the mean over the interval before its stamp: half a period of lag.
            limit = LEAST_SHIFT + 0.5 * max(period, turning[reference][1])
            configured = sum(s.stamp_offset for s in view.sensors_of(log))
            certain = abs(shift.lag + configured) > limit
            found.append(Shifted(name, reference, shift, certain))
    return found


def judge_shifts(shifts: list[Shifted]) -> Iterator[Finding]:
    """Shifts that are worth acting on."""
    for one in shifts:
        if one.certain:
            text = (
                f"turns {abs(one.shift.lag):.3f} s {'after' if one.shift.lag > 0 else 'before'} "
                f"{one.reference} (correlation {one.shift.correlation:.2f}); suggested "
                f"stamp_offset {-one.shift.lag:+.3f} s"
            )
            yield finding("STAMP_OFFSET", text, one.topic)


def _most(names: Counter[str]) -> str:
    return names.most_common(1)[0][0] if names else ""


def _parent(topic: str) -> str:
    return topic.rpartition("/")[0]


def _sizes(sizes: Iterable[tuple[object, object]]) -> str:
    return ", ".join(f"{w}x{h}" for w, h in list(sizes)[:3])
