"""What the doctor can find: one table of codes with severity, meaning and what to do.

``docs/doctor.md`` is rendered from it. Of topics that the estimator does not use, only what
concerns types and clocks is told, as INFO.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How much a finding matters."""

    OK = 0
    INFO = 1
    WARN = 2
    ERROR = 3


@dataclass(frozen=True)
class Code:
    """One kind of finding.

    Attributes:
        severity: Its greatest severity; the doctor may lower it.
        meaning: When it is reported.
        advice: What to do, as an imperative sentence.
    """

    severity: Severity
    meaning: str
    advice: str


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found.

    Attributes:
        severity: How much it matters here.
        code: A key of ``CODES``.
        topic: Where; ``""`` for the recording or the system as a whole.
        text: What was found, with figures, and what to do.
    """

    severity: Severity
    code: str
    topic: str
    text: str


def finding(code: str, text: str, topic: str = "", severity: Severity | None = None) -> Finding:
    """A finding whose advice comes from the table; its severity too, unless it is given."""
    entry = CODES[code]
    worst = entry.severity if severity is None else min(severity, entry.severity)
    return Finding(worst, code, topic, f"{text}. {entry.advice}.")


def markdown() -> Iterator[str]:
    """The table of codes as Markdown, for ``docs/doctor.md``."""
    yield "| Code | Severity | Reported when | What to do |"
    yield "|---|---|---|---|"
    for name, code in CODES.items():
        yield f"| `{name}` | {code.severity.name} | {code.meaning} | {code.advice} |"


_INFO, _WARN, _ERROR = Severity.INFO, Severity.WARN, Severity.ERROR

CODES: dict[str, Code] = {
    # The recording or the system
    "RECORDING_TRUNCATED": Code(
        _ERROR,
        "the file ends early or a part is damaged; what could be read was analysed",
        "Record again, or repair a copy (`mcap recover`, `rosbag reindex`, `ros2 bag reindex`)",
    ),
    "RECORDING_UNINDEXED": Code(
        _WARN,
        "the recorder was stopped before it wrote the index; no message is torn",
        "Stop the recorder with Ctrl-C and wait; rebuild the index (`mcap recover`, "
        "`rosbag reindex`)",
    ),
    "METADATA_MISSING": Code(
        _WARN,
        "a rosbag2 folder has no usable metadata.yaml",
        "Run `ros2 bag reindex` on the folder",
    ),
    "COUNT_MISMATCH": Code(
        _WARN,
        "the index promises another number of messages than can be read",
        "Rebuild the index; the figures here are those of the messages read",
    ),
    "CLOCK_SIM": Code(
        _INFO,
        "stamps lie before the year 2001: a simulated clock, or one that was never set",
        "Use `use_sim_time: true` with a live replay of it",
    ),
    "CLOCKS_DIFFER": Code(
        _ERROR,
        "header and receive stamps differ by more than an hour on a topic",
        "Set the sensor's clock (NTP, PTP) or `stamp_source: arrival`; for a simulation, record "
        "with `use_sim_time`",
    ),
    # Configuration against data
    "TOPIC_MISSING": Code(
        _ERROR,
        "a configured topic is not there",
        "Correct `sensor.<name>.topic`, or record or publish the topic",
    ),
    "TOPIC_EMPTY": Code(
        _ERROR,
        "a topic is announced but carries no messages (INFO where nothing is configured on it)",
        "Check the driver behind it",
    ),
    "TYPE_MISMATCH": Code(
        _ERROR,
        "a topic's message type is not one that the configured sensor type reads",
        "Change `sensor.<name>.type` or the topic",
    ),
    "TYPES_SEVERAL": Code(
        _ERROR,
        "a topic carries several message types",
        "Rename one of the topics: subscribers can join with one type only",
    ),
    "TYPE_UNKNOWN": Code(
        _WARN,
        "the definition of a message type is neither in the recording nor known here",
        "Record with definitions (mcap), or install the package with the type",
    ),
    "RATE_LOW": Code(
        _WARN,
        "a sensor comes at less than 80 % of its `expected_rate`",
        "Check driver and bandwidth, or correct `expected_rate`",
    ),
    "COVARIANCE_UNUSABLE": Code(
        _ERROR,
        "a configured sensor has no usable covariance on its axes and no `sigma` to replace it",
        "Set `sensor.<name>.sigma`, with `covariance: fixed` unless some messages are good",
    ),
    # Rates
    "GAPS": Code(
        _WARN,
        "messages are missing: an interval of more than three times the median and 50 ms, or more "
        "than 1 % lost of a regular sensor",
        "Look for lost messages (QoS depth, bandwidth, recorder cache) or a driver that pauses; "
        "`window.max_gap` must exceed gaps that are normal",
    ),
    "JITTER": Code(
        _WARN,
        "the intervals between stamps scatter by more than half their median (p95)",
        "Stamp in the driver when the sensor measures, not when a message is sent",
    ),
    "IRREGULAR": Code(
        _INFO,
        "as JITTER, for a type that may come on events (poses, tags), not at a rate",
        "Nothing, if it is meant to; `window.max_gap` and `health.stale_after` must allow it",
    ),
    "TOO_FEW": Code(
        _INFO,
        "fewer than three stamped messages: neither rate nor latency can be judged",
        "Record for longer",
    ),
    # Stamps
    "ZERO_STAMP": Code(
        _ERROR,
        "header stamps are zero; the estimator refuses them",
        "Fill `header.stamp` in the driver, or set `stamp_source: arrival`",
    ),
    "FUTURE_STAMP": Code(
        _ERROR,
        "stamps lie ahead of the receive time by more than `time.stamp_future_limit`",
        "Synchronise the clocks (NTP, PTP), or set `stamp_offset` or `stamp_source: arrival`",
    ),
    "BACKWARD_STAMP": Code(
        _WARN,
        "stamps go backwards",
        "Publish one sensor per topic, in order; late ones are still used inside the window",
    ),
    "DUPLICATE_STAMP": Code(
        _WARN,
        "messages share a stamp; the estimator counts the repeats as DUPLICATE",
        "Look for a second publisher, a relay loop or a driver that repeats its last sample",
    ),
    "LATENCY": Code(
        _WARN,
        "messages arrive late: median of receive minus header above 0.2 s",
        "Speed the pipeline up, or make `window.duration` longer than the latency",
    ),
    "LATENCY_BEYOND_WINDOW": Code(
        _ERROR,
        "more than 5 % of a sensor's messages arrive after the window has passed their stamp",
        "Raise `window.duration` above the latency",
    ),
    "CLOCK_DRIFT": Code(
        _WARN,
        "the least latency grows or falls steadily: two clocks run at different speeds",
        "Synchronise the clocks (NTP, PTP)",
    ),
    "STAMP_OFFSET": Code(
        _WARN,
        "a turn rate agrees with the reference's only when shifted in time by more than 10 ms",
        "Set `sensor.<name>.stamp_offset` to the value suggested",
    ),
    # Frames and tf
    "EMPTY_FRAME": Code(
        _ERROR,
        "header.frame_id is empty",
        "Set the frame in the driver, or `frame_override`",
    ),
    "FRAME_CHANGES": Code(
        _ERROR,
        "header.frame_id (or child_frame_id) is not the same in all messages of a topic",
        "Publish each sensor on a topic of its own, or set `frame_override`",
    ),
    "SLASH_FRAME": Code(
        _WARN,
        "a frame begins with '/', which tf2 refuses",
        "Drop the '/' in the driver, or set `frame_override`",
    ),
    "TF_MISSING": Code(
        _ERROR,
        "no transform connects a sensor's frame with the body's (WARN where nothing is "
        "configured; INFO where the recording has no tf at all)",
        "Record /tf and /tf_static, publish the transform, or set `sensor.<name>.extrinsic`",
    ),
    "TF_UNAVAILABLE": Code(
        _WARN,
        "transforms exist, but not at all of a sensor's stamps",
        "Publish the transform from before the first measurement on, without pauses",
    ),
    "TF_LATE": Code(
        _WARN,
        "transforms arrive later after the measurement than `tf.timeout`",
        "Raise `tf.timeout`, or publish the transform earlier",
    ),
    "TF_ROOTS": Code(
        _INFO,
        "the tf tree has several roots (WARN when it splits frames that sensors use)",
        "Connect the trees if their frames are used together",
    ),
    "TF_LOOP": Code(_ERROR, "the tf frames form a loop", "Remove one of the publishers"),
    "TF_REPARENTED": Code(
        _ERROR,
        "a frame has more than one parent; tf2 keeps whichever came last",
        "Keep one publisher per child frame (two localizations? set `publish_tf: false` in one)",
    ),
    "TF_SEVERAL_PUBLISHERS": Code(
        _ERROR,
        "one child frame comes from several publishers that disagree",
        "Switch one of the publishers off",
    ),
    "TF_STATIC_AND_DYNAMIC": Code(
        _WARN, "a child frame is on /tf and on /tf_static", "Keep one of the two"
    ),
    # Values
    "NOT_FINITE": Code(
        _ERROR,
        "fields hold NaN or infinity",
        "Mend the driver; such measurements are refused",
    ),
    "BAD_QUATERNION": Code(
        _ERROR,
        "a quaternion has length zero, or differs from length one by more than 1 %",
        "Normalise it in the driver",
    ),
    "COVARIANCE_ZERO": Code(
        _WARN,
        "all-zero covariances, which mean «unknown» (REP-145; INFO in an IMU message)",
        "Set `sigma` for the sensor; the default refuses such messages",
    ),
    "COVARIANCE_ABSENT": Code(
        _INFO,
        "covariances begin with −1: the value beside them is not measured (REP-145)",
        "Do not use these axes",
    ),
    "COVARIANCE_HUGE": Code(
        _INFO,
        "variances above 1e6: these axes count as unmeasured",
        "Leave the axes out of `axes`",
    ),
    "COVARIANCE_ASYMMETRIC": Code(
        _ERROR, "covariances are not symmetric", "Mend the publisher, or set `covariance: fixed`"
    ),
    "COVARIANCE_NOT_POSITIVE": Code(
        _ERROR,
        "covariances have a negative variance or eigenvalue",
        "Mend the publisher, or set `covariance: fixed`",
    ),
    "COVARIANCE_PARTIAL": Code(
        _INFO,
        "covariances are zero on some axes and positive on others: zero does not mean exact",
        "Leave the zero axes out of `axes`, or count on `sigma_floor`",
    ),
    "COVARIANCE_NOT_FINITE": Code(
        _ERROR,
        "covariances hold NaN or infinity",
        "Mend the publisher, or set `covariance: fixed`",
    ),
    "COVARIANCE_CONSTANT": Code(
        _INFO,
        "the covariance never changes: a constant of the driver, not an estimate",
        "Check it against the sensor's real noise (`dnls eval` reports NEES)",
    ),
    "MEASUREMENT_REFUSED": Code(
        _ERROR,
        "messages of a type that the estimator reads cannot be turned into measurements",
        "Mend the publisher",
    ),
    "DECODE_FAILED": Code(
        _ERROR,
        "messages do not decode with their definition",
        "Record again with the definitions that the publisher was built with",
    ),
    # Cameras
    "IMAGE_SIZE_CHANGES": Code(
        _ERROR,
        "images of one topic change their size",
        "Fix the camera's mode; a calibration is for one size",
    ),
    "IMAGE_ENCODING_CHANGES": Code(
        _WARN, "images of one topic change their encoding", "Fix the camera's mode"
    ),
    "CAMERA_INFO_MISSING": Code(
        _WARN,
        "images or tag detections without a CameraInfo topic beside them",
        "Record the camera's `camera_info`, or set `camera.calibration_file`",
    ),
    "CAMERA_UNCALIBRATED": Code(
        _ERROR,
        "a CameraInfo has a zero or implausible K",
        "Calibrate the camera; pixels mean nothing without it",
    ),
    "CAMERA_SIZE_MISMATCH": Code(
        _ERROR,
        "CameraInfo and images have different sizes",
        "Load the calibration that belongs to the camera's mode",
    ),
    "CAMERA_INFO_CHANGES": Code(
        _WARN, "the calibration changes while it runs", "Publish one calibration per camera"
    ),
    # Communication
    "QOS_INCOMPATIBLE": Code(
        _ERROR,
        "a publisher offers less than the configured subscription asks for: no messages pass",
        "Set `sensor.<name>.qos.reliability: best_effort`, or make the publisher reliable",
    ),
    "QOS_MIXED": Code(
        _INFO,
        "publishers of one topic offer different QoS",
        "Subscribe with best effort and volatile, which match all",
    ),
    "QOS_TF_STATIC": Code(
        _WARN,
        "/tf_static is not transient local: who starts later never hears it",
        "Publish it with a static transform broadcaster; override the QoS when playing the bag",
    ),
    "BANDWIDTH": Code(
        _INFO,
        "a topic carries more than 20 MB/s",
        "Compress or throttle it if messages get lost",
    ),
    "OVERLOAD": Code(
        _WARN,
        "live: the doctor itself could not keep up",
        "Name fewer topics; gaps and rates reported here may be its own",
    ),
    "NO_PUBLISHER": Code(
        _ERROR,
        "live: nobody publishes a configured topic, or any topic at all",
        "Start the driver; check name, namespace and `ROS_DOMAIN_ID`",
    ),
}
"""Every code by its name, in the order of the documentation."""
