"""The doctor: a clean recording is healthy, and every defect is found by its code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
from rosbags.typesys import Stores, get_typestore

from dnls_ros.cli import main
from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.bag import BagReader, BagWriter, Record
from dnls_ros.io.definitions import message_class, typestore
from dnls_ros.io.doctor import Doctor
from dnls_ros.io.doctor_bag import examine, peek
from dnls_ros.io.doctor_codes import CODES, Severity, markdown
from dnls_ros.io.doctor_suggest import suggestion
from dnls_ros.io.doctor_text import as_text
from dnls_ros.io.doctor_topics import Offer
from dnls_ros.io.faults import FaultInjector, parse_fault
from dnls_ros.io.scene import load_scene
from dnls_ros.io.sim_messages import recording_records
from dnls_ros.io.simulate import simulate
from dnls_ros.window.parameters import load_parameters

ROOT = Path(__file__).resolve().parents[1]
NS = 10**9
T0 = 1_700_000_000 * NS
TAGS = "camera/tag_detections"


# --- Making recordings -----------------------------------------------------------------------


def new(type_name, **fields):
    return message_class(type_name)(**fields)


def header(stamp, frame):
    time = new("builtin_interfaces/msg/Time", sec=stamp // NS, nanosec=stamp % NS)
    return new("std_msgs/msg/Header", stamp=time, frame_id=frame)


def vector(x=0.0, y=0.0, z=0.0):
    return new("geometry_msgs/msg/Vector3", x=x, y=y, z=z)


def quaternion(x=0.0, y=0.0, z=0.0, w=1.0):
    return new("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def transform(parent, child, stamp, x=0.0, turn=None):
    value = new(
        "geometry_msgs/msg/Transform",
        translation=vector(x),
        rotation=quaternion() if turn is None else turn,
    )
    return new(
        "geometry_msgs/msg/TransformStamped",
        header=header(stamp, parent),
        child_frame_id=child,
        transform=value,
    )


def tf(stamp, *transforms, topic="tf", receive=None):
    message = new("tf2_msgs/msg/TFMessage", transforms=list(transforms))
    return Record(topic, message.__msgtype__, stamp if receive is None else receive, message)


def imu(stamp, rate=0.1, covariance=None, turn=None, receive=None):
    good = np.diag([1e-4] * 3).ravel() if covariance is None else covariance
    message = new(
        "sensor_msgs/msg/Imu",
        header=header(stamp, "imu_link"),
        orientation=quaternion() if turn is None else turn,
        orientation_covariance=good,
        angular_velocity=vector(z=rate),
        angular_velocity_covariance=good,
        linear_acceleration=vector(z=9.81),
        linear_acceleration_covariance=good,
    )
    return Record("imu", message.__msgtype__, stamp if receive is None else receive, message)


def image(stamp, width=64, height=48, encoding="mono8", topic="camera/image_raw"):
    message = new(
        "sensor_msgs/msg/Image",
        header=header(stamp, "camera_optical"),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width,
        data=np.zeros(width * height, np.uint8),
    )
    return Record(topic, message.__msgtype__, stamp + 2_000_000, message)


@pytest.fixture(scope="session")
def clean():
    """A simulated run with a tf tree, in order of receipt."""
    recording = simulate(3, 8.0, load_scene(None))
    known = ("odom", "gps_pose", "ground_truth", "camera/tag_detections", "camera/camera_info")
    records = [one for one in recording_records(recording) if one.topic in known]
    begin = records[0].receive_stamp
    tree = [
        transform("base_link", "camera_optical", begin, 0.1),
        transform("base_link", "imu_link", begin, 0.2),
    ]
    records.append(tf(begin - NS, *tree, topic="tf_static"))
    for k in range(-40, 400):
        stamp = begin + k * NS // 40
        records.append(tf(stamp, transform("odom", "base_link", stamp, 0.01 * k)))
        records.append(imu(stamp, 0.1 + 0.01 * np.sin(k)))
    return sorted(records, key=lambda record: record.receive_stamp)


OFFERS = {
    "tf_static": Offer(reliable=True, transient_local=True),
}


def report_of(records, config=None, offers=OFFERS):
    doctor = Doctor(config)
    for topic, offer in offers.items():
        doctor.announce(topic, offers=[offer])
    for record in records:
        doctor.observe(record.topic, record.type, record.message, record.receive_stamp, 100)
    return doctor.report("test", "none")


def codes(report, least=Severity.OK):
    return {one.code for one in report.findings if one.severity >= least}


def spoil(records, topic, change, which=lambda k: True):
    """Copies in which ``change(k, record)`` replaces a topic's k-th message; None drops it."""
    result, k = [], -1
    for record in records:
        if record.topic != topic:
            result.append(record)
            continue
        k += 1
        after = change(k, record) if which(k) else record
        if after is not None:
            result.append(after)
    return result


def with_message(record, **fields):
    return dataclasses.replace(record, message=dataclasses.replace(record.message, **fields))


def stamped(record, stamp):
    frame = record.message.header.frame_id
    return with_message(record, header=header(stamp, frame))


def stamp_of(record):
    stamp = record.message.header.stamp
    return stamp.sec * NS + stamp.nanosec


def framed(record, frame):
    return with_message(record, header=header(stamp_of(record), frame))


def covariance(record, change):
    values = np.array(record.message.pose.covariance)
    pose = dataclasses.replace(record.message.pose, covariance=change(values))
    return with_message(record, pose=pose)


def entries(**values):
    """A change of single entries of a covariance, ``c01=5.0``."""

    def change(matrix):
        for name, value in values.items():
            matrix[6 * int(name[1]) + int(name[2])] = value
        return matrix

    return change


def turned(record, x, y, z, w):
    pose = dataclasses.replace(record.message.pose.pose, orientation=quaternion(x, y, z, w))
    return with_message(record, pose=dataclasses.replace(record.message.pose, pose=pose))


def moved(record, x):
    position = dataclasses.replace(record.message.pose.pose.position, x=x)
    pose = dataclasses.replace(record.message.pose.pose, position=position)
    return with_message(record, pose=dataclasses.replace(record.message.pose, pose=pose))


def at(records, k=0):
    return records[0].receive_stamp + k * NS // 10


def drifting(records):
    """The odometry's clock runs 0.3 % slow."""
    begin = records[0].receive_stamp
    return spoil(
        records,
        "odom",
        lambda k, r: stamped(r, stamp_of(r) - int(0.003 * (r.receive_stamp - begin))),
    )


def camera_info(record, width=640, focal=450.0):
    k = np.array([focal, 0, 320, 0, focal, 240, 0, 0, 1.0])
    return with_message(record, k=k, width=width, height=480)


# Each: the code, its severity, and how a clean recording gets the defect.
DEFECTS = {
    "zero stamps": (
        "ZERO_STAMP", "ERROR",
        lambda r: spoil(r, "odom", lambda k, one: stamped(one, 0), lambda k: k % 3 == 0),
    ),
    "one zero stamp": (
        "ZERO_STAMP", "WARN",
        lambda r: spoil(r, "odom", lambda k, one: stamped(one, 0), lambda k: k == 5),
    ),
    "future stamps": (
        "FUTURE_STAMP", "ERROR",
        lambda r: spoil(
            r, "odom", lambda k, one: stamped(one, stamp_of(one) + 10 * NS), lambda k: k % 10 == 0
        ),
    ),
    "gap": (
        "GAPS", "WARN", lambda r: spoil(r, "odom", lambda k, one: None, lambda k: 40 < k < 60),
    ),
    "single losses": (
        "GAPS", "WARN",
        lambda r: spoil(r, "odom", lambda k, one: None, lambda k: k % 7 == 3),
    ),
    "backward": (
        "BACKWARD_STAMP", "WARN",
        lambda r: spoil(
            r, "odom", lambda k, one: stamped(one, stamp_of(one) - NS), lambda k: k == 60
        ),
    ),
    "duplicate": (
        "DUPLICATE_STAMP", "WARN",
        lambda r: [one for one in r for _ in range(2 if one.topic == "odom" else 1)],
    ),
    "jitter": (
        "JITTER", "WARN",
        lambda r: spoil(r, "odom", lambda k, one: stamped(one, stamp_of(one) - k % 2 * NS // 25)),
    ),
    "latency": (
        "LATENCY", "WARN",
        lambda r: spoil(
            r, "odom", lambda k, one: dataclasses.replace(one, receive_stamp=stamp_of(one) + NS)
        ),
    ),
    "drift": ("CLOCK_DRIFT", "WARN", drifting),
    "other clock": (
        "CLOCKS_DIFFER", "ERROR",
        lambda r: spoil(r, "odom", lambda k, one: stamped(one, stamp_of(one) - T0 + NS)),
    ),
    "empty frame": (
        "EMPTY_FRAME", "ERROR", lambda r: spoil(r, "odom", lambda k, one: framed(one, "")),
    ),
    "frame change": (
        "FRAME_CHANGES", "ERROR",
        lambda r: spoil(r, "odom", lambda k, one: framed(one, "map"), lambda k: k > 70),
    ),
    "slash": ("SLASH_FRAME", "WARN", lambda r: spoil(r, "odom", lambda k, o: framed(o, "/odom"))),
    "zero covariance": (
        "COVARIANCE_ZERO", "WARN",
        lambda r: spoil(r, "gps_pose", lambda k, one: covariance(one, lambda m: 0 * m)),
    ),
    "absent covariance": (
        "COVARIANCE_ABSENT", "INFO",
        lambda r: spoil(r, "gps_pose", lambda k, one: covariance(one, entries(c00=-1.0))),
    ),
    "negative covariance": (
        "COVARIANCE_NOT_POSITIVE", "ERROR",
        lambda r: spoil(r, "gps_pose", lambda k, one: covariance(one, entries(c11=-1.0))),
    ),
    "indefinite covariance": (
        "COVARIANCE_NOT_POSITIVE", "ERROR",
        lambda r: spoil(r, "gps_pose", lambda k, o: covariance(o, entries(c01=9.0, c10=9.0))),
    ),
    "asymmetric covariance": (
        "COVARIANCE_ASYMMETRIC", "ERROR",
        lambda r: spoil(r, "gps_pose", lambda k, one: covariance(one, entries(c01=0.005))),
    ),
    "covariance not a number": (
        "COVARIANCE_NOT_FINITE", "ERROR",
        lambda r: spoil(r, "gps_pose", lambda k, one: covariance(one, entries(c00=np.nan))),
    ),
    "huge covariance": (
        "COVARIANCE_HUGE", "INFO",
        lambda r: spoil(r, "gps_pose", lambda k, one: covariance(one, entries(c22=1e9))),
    ),
    "partial covariance": (
        "COVARIANCE_PARTIAL", "INFO",
        lambda r: spoil(r, "gps_pose", lambda k, one: covariance(one, entries(c22=0.0))),
    ),
    "zero quaternion": (
        "BAD_QUATERNION", "ERROR",
        lambda r: spoil(r, "gps_pose", lambda k, one: turned(one, 0.0, 0.0, 0.0, 0.0)),
    ),
    "quaternion not normalised": (
        "BAD_QUATERNION", "ERROR",
        lambda r: spoil(r, "odom", lambda k, one: turned(one, 0.0, 0.0, 0.0, 1.2)),
    ),
    "not a number": (
        "NOT_FINITE", "ERROR",
        lambda r: spoil(r, "odom", lambda k, one: moved(one, np.nan), lambda k: k == 9),
    ),
    "tag corner not a number": (
        "MEASUREMENT_REFUSED", "ERROR",
        lambda r: FaultInjector(
            [parse_fault("nan:camera/tag_detections:p=0.5")], 0, {TAGS: TAGS}
        ).apply(r),
    ),
    "missing tf": (
        "TF_MISSING", "WARN",
        lambda r: [one for one in r if one.topic != "tf_static"],
    ),
    "late tf": (
        "TF_LATE", "WARN",
        lambda r: sorted(
            [
                *(one for one in r if one.topic != "tf_static"),
                *(
                    tf(at(r, k), transform("base_link", "camera_optical", at(r, k), 0.1),
                       receive=at(r, k) + NS)
                    for k in range(-50, 100)
                ),
            ],
            key=lambda one: one.receive_stamp,
        ),
    ),
    "tf for a part": (
        "TF_UNAVAILABLE", "WARN",
        lambda r: [
            *(one for one in r if one.topic != "tf_static"),
            *(
                tf(at(r, k), transform("base_link", "camera_optical", at(r, k), 0.1))
                for k in range(0, 40)
            ),
        ],
    ),
    "two tf publishers": (
        "TF_SEVERAL_PUBLISHERS", "ERROR",
        lambda r: [
            x
            for one in r
            for x in ((one,) if one.topic != "tf" else (
                one,
                tf(one.receive_stamp, transform("odom", "base_link", one.receive_stamp, 7.0)),
            ))
        ],
    ),
    "two parents": (
        "TF_REPARENTED", "ERROR",
        lambda r: [*r, tf(at(r, 90), transform("map", "base_link", at(r, 90)))],
    ),
    "tf loop": (
        "TF_LOOP", "ERROR",
        lambda r: [*r, tf(at(r, 90), transform("base_link", "odom", at(r, 90)))],
    ),
    "several roots": (
        "TF_ROOTS", "INFO", lambda r: [*r, tf(at(r, 9), transform("a", "b", at(r, 9)))],
    ),
    "static and moving": (
        "TF_STATIC_AND_DYNAMIC", "WARN",
        lambda r: [*r, tf(at(r, 9), transform("base_link", "imu_link", at(r, 9), 0.2))],
    ),
    "bad tf quaternion": (
        "BAD_QUATERNION", "ERROR",
        lambda r: [*r, tf(at(r, 9), transform("imu_link", "x", at(r, 9), 0.0, quaternion(w=0.5)))],
    ),
    "image size": (
        "IMAGE_SIZE_CHANGES", "ERROR",
        lambda r: [*r, *(image(at(r, k), 64 + 16 * (k > 5)) for k in range(10))],
    ),
    "image encoding": (
        "IMAGE_ENCODING_CHANGES", "WARN",
        lambda r: [*r, *(image(at(r, k), encoding=("mono8", "rgb8")[k % 2]) for k in range(10))],
    ),
    "image against calibration": (
        "CAMERA_SIZE_MISMATCH", "ERROR", lambda r: [*r, *(image(at(r, k)) for k in range(10))],
    ),
    "missing CameraInfo": (
        "CAMERA_INFO_MISSING", "WARN",
        lambda r: [one for one in r if one.topic != "camera/camera_info"],
    ),
    "uncalibrated camera": (
        "CAMERA_UNCALIBRATED", "ERROR",
        lambda r: spoil(r, "camera/camera_info", lambda k, one: camera_info(one, focal=0.0)),
    ),
    "changing calibration": (
        "CAMERA_INFO_CHANGES", "WARN",
        lambda r: spoil(r, "camera/camera_info", lambda k, o: camera_info(o, focal=400.0 + k)),
    ),
    "two types": (
        "TYPES_SEVERAL", "ERROR",
        lambda r: [*r, dataclasses.replace(imu(at(r, 9)), topic="odom")],
    ),
    "few messages": ("TOO_FEW", "INFO", lambda r: [*r, image(at(r, 9), 640, 480)]),
}  # fmt: skip


def test_a_clean_recording_is_healthy(clean):
    report = report_of(clean)
    assert report.severity <= Severity.INFO, [f for f in report.findings if f.severity > 1]
    assert report.base == "base_link"
    odometry = next(t for t in report.topics if t.name == "odom")
    assert odometry.rate == pytest.approx(20.0, rel=1e-3)
    assert odometry.latency == pytest.approx(0.003, abs=1e-6)
    detections = next(t for t in report.topics if t.name == "camera/tag_detections")
    assert detections.tf == {"camera_optical -> base_link": 1.0}


@pytest.mark.parametrize("name", DEFECTS)
def test_every_defect_is_found_by_its_code(clean, name):
    code, severity, make = DEFECTS[name]
    assert code not in codes(report_of(clean)), "the clean recording has it too"
    found = [one for one in report_of(list(make(clean))).findings if one.code == code]
    assert {one.severity.name for one in found} == {severity}, found
    assert all(CODES[code].advice in one.text for one in found)


ALONE = ("two parents", "tf loop", "missing tf", "late tf", "tf for a part", "missing CameraInfo")
"""Defects of the one tf tree that would hide another."""


def with_every_defect(clean):
    """One recording with all defects, each on topics of its own, and a spoiled tf tree."""
    records = []
    for number, name in enumerate(name for name in DEFECTS if name not in ALONE):
        for one in DEFECTS[name][2](clean):
            if one.topic not in ("tf", "tf_static"):
                records.append(dataclasses.replace(one, topic=f"case{number}/{one.topic}"))
    records += DEFECTS["two tf publishers"][2](clean)
    records += [one for one in DEFECTS["static and moving"][2](clean) if one.topic == "tf"]
    begin = clean[0].receive_stamp + NS
    records += [
        tf(begin, transform("map", "odom", begin), transform("odom", "map", begin)),
        tf(begin, transform("a", "b", begin), transform("c", "b", begin)),
        tf(begin, transform("c", "d", begin, 0.0, quaternion(w=0.5))),
    ]
    return sorted(records, key=lambda one: one.receive_stamp)


def test_all_defects_are_found_together_in_one_truncated_recording(clean, tmp_path):
    path = write(tmp_path / "all.mcap", with_every_defect(clean))
    path.write_bytes(path.read_bytes()[: int(0.98 * path.stat().st_size)])
    report = examine(path)
    expected = {DEFECTS[name][0] for name in DEFECTS if name not in ALONE}
    expected |= {"TF_REPARENTED", "TF_LOOP", "RECORDING_TRUNCATED"}
    assert expected <= codes(report), expected - codes(report)
    assert max(map(len, as_text(report))) <= 100


def test_a_simulated_recording_is_healthy_and_its_faults_are_found(tmp_path, capsys):
    call = ["sim", "--duration", "8", "--out"]
    assert main([*call, str(tmp_path / "a")]) == 0
    report = examine(tmp_path / "a" / "bag")
    assert report.severity <= Severity.INFO, report.findings
    faults = ["drop:odom:p=0.2", "delay:gps_pose:s=0.5", "time_jump:imu:at=4,s=-2",
              "nan:camera/tag_detections:p=0.1", "duplicate:gps_pose:p=0.9"]  # fmt: skip
    options = [part for text in faults for part in ("--fault", text)]
    assert main([*call, str(tmp_path / "b"), *options]) == 0
    found = {(f.code, f.topic) for f in examine(tmp_path / "b" / "bag").findings}
    assert {
        ("GAPS", "odom"),
        ("LATENCY", "gps_pose"),
        ("BACKWARD_STAMP", "imu"),
        ("MEASUREMENT_REFUSED", "camera/tag_detections"),
        ("DUPLICATE_STAMP", "gps_pose"),
    } <= found


def test_a_defect_is_told_where_it_is(clean):
    spoiled = DEFECTS["gap"][2](clean)
    (found,) = [one for one in report_of(spoiled).findings if one.code == "GAPS"]
    assert found.topic == "odom"
    gap = next(t for t in report_of(spoiled).topics if t.name == "odom")
    assert gap.gaps == 1
    assert gap.longest_gap == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", ["zero stamps", "future stamps"])
def test_a_message_with_a_senseless_stamp_is_not_missing(clean, name):
    report = report_of(DEFECTS[name][2](clean))
    assert not {"GAPS", "JITTER"} & codes(report)
    odometry = next(t for t in report.topics if t.name == "odom")
    assert odometry.rate == pytest.approx(20.0, rel=0.01)


def test_topics_that_no_estimator_reads_do_not_alarm(clean):
    scan = [dataclasses.replace(one, topic="other", type="my_msgs/msg/Odd") for one in clean
            if one.topic == "odom"]  # fmt: skip
    spoiled = spoil([*clean, *scan], "other", lambda k, one: stamped(one, 0))
    found = [one for one in report_of(spoiled).findings if one.topic == "other"]
    assert {one.severity for one in found} == {Severity.INFO}


# --- Time shifts -----------------------------------------------------------------------------


def turning(lag, noise=0.0, rate=50.0, seconds=40.0, seed=0):
    """An odometry and an IMU mounted on its side that see one motion, the IMU ``lag`` later."""
    rng = np.random.default_rng(seed)
    cells = rng.normal(0.0, 0.6, int(seconds) + 2)

    def omega(t):
        return np.interp(t, np.arange(len(cells)), cells)

    doctor = Doctor()
    zero = np.zeros(36)
    for k in range(int(seconds * rate)):
        t = k / rate
        stamp = T0 + round(t * 1e9)
        twist = new(
            "geometry_msgs/msg/Twist",
            linear=vector(1.0),
            angular=vector(z=omega(t) + noise * rng.normal()),
        )
        pose = new(
            "geometry_msgs/msg/Pose",
            position=new("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0),
            orientation=quaternion(),
        )
        odometry = new(
            "nav_msgs/msg/Odometry",
            header=header(stamp, "odom"),
            child_frame_id="base_link",
            pose=new("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=zero),
            twist=new("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=zero),
        )
        doctor.observe("odom", "nav_msgs/msg/Odometry", odometry, stamp)
        record = imu(stamp)
        sideways = vector(y=omega(t - lag) + noise * rng.normal())
        message = dataclasses.replace(record.message, angular_velocity=sideways)
        doctor.observe("imu", "sensor_msgs/msg/Imu", message, stamp)
    return doctor.report("test", "none")


@pytest.mark.parametrize("lag", [-0.3, -0.05, 0.08, 0.25])
def test_a_shifted_imu_is_told_its_offset_however_it_is_mounted(lag):
    report = turning(lag, noise=0.05)
    assert report.offsets == {"imu": pytest.approx(-lag, abs=0.01)}
    assert "STAMP_OFFSET" in codes(report, Severity.WARN)


@pytest.mark.parametrize(("lag", "noise"), [(0.0, 0.05), (0.004, 0.05), (0.2, 5.0)])
def test_no_offset_is_suggested_without_a_reason(lag, noise):
    assert turning(lag, noise).offsets == {}


# --- Configurations --------------------------------------------------------------------------

CONFIG = {
    "world_frame": "map",
    "tracks": ["robot"],
    "track.robot.child_frame": "base_link",
    "sensors": ["odom", "gps"],
    "sensor.odom.type": "odometry",
    "sensor.odom.topic": "odom",
    "sensor.odom.differential": True,
    "sensor.gps.type": "pose",
    "sensor.gps.topic": "/gps_pose",
    "sensor.gps.expected_rate": 1.0,
}


def compared(records, offers=OFFERS, **changes):
    given = {**CONFIG, **{key.replace("__", "."): value for key, value in changes.items()}}
    return report_of(records, load_parameters(given), offers)


def test_a_recording_that_fits_its_configuration_is_healthy(clean):
    report = compared(clean)
    assert report.severity <= Severity.INFO, report.findings
    assert {t.name: t.sensors for t in report.topics if t.sensors} == {
        "odom": ["odom"],
        "gps_pose": ["gps"],
    }


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("TOPIC_MISSING", {"sensor__gps__topic": "gps"}),
        ("TYPE_MISMATCH", {"sensor__gps__topic": "odom"}),
        ("RATE_LOW", {"sensor__gps__expected_rate": 5.0}),
        ("TF_MISSING", {"world_frame": "earth"}),
        ("TF_MISSING", {"track__robot__child_frame": "base_footprint"}),
        ("LATENCY_BEYOND_WINDOW", {"window__duration": 0.1}),
        ("FUTURE_STAMP", {"time__stamp_future_limit": 0.0}),
    ],
)
def test_what_does_not_fit_the_configuration_is_found(clean, code, changes):
    slow = spoil(
        clean, "odom", lambda k, r: dataclasses.replace(r, receive_stamp=stamp_of(r) + NS // 5)
    )
    early = spoil(clean, "odom", lambda k, r: stamped(r, r.receive_stamp + 10**6))
    records = {"LATENCY_BEYOND_WINDOW": slow, "FUTURE_STAMP": early}.get(code, clean)
    assert code not in codes(compared(clean))
    assert code in codes(compared(records, **changes), Severity.WARN)


def test_an_offer_that_the_subscription_does_not_accept_is_an_error(clean):
    weak = {**OFFERS, "odom": Offer(reliable=False, transient_local=False)}
    assert "QOS_INCOMPATIBLE" not in codes(compared(clean, weak))
    asked = compared(clean, weak, sensor__odom__qos__reliability="reliable")
    assert "QOS_INCOMPATIBLE" in codes(asked, Severity.ERROR)


def test_a_static_tf_that_latecomers_miss_is_found(clean):
    volatile = {"tf_static": Offer(reliable=True, transient_local=False)}
    assert "QOS_TF_STATIC" in codes(report_of(clean, offers=volatile), Severity.WARN)


def test_unusable_covariances_are_an_error_only_without_sigma(clean):
    records = DEFECTS["zero covariance"][2](clean)
    assert "COVARIANCE_UNUSABLE" in codes(compared(records), Severity.ERROR)
    given = compared(records, sensor__gps__sigma=[0.1, 0.1, 0.1])
    assert "COVARIANCE_UNUSABLE" not in codes(given)


# --- Files -----------------------------------------------------------------------------------


def write(path, records):
    with BagWriter(path) as bag:
        for record in records:
            bag.write(record.topic, record.message, record.receive_stamp)
    return path


@pytest.fixture(scope="session")
def bag(clean, tmp_path_factory):
    return write(tmp_path_factory.mktemp("doctor") / "bag", clean)


def test_a_recording_gives_the_same_figures_as_its_messages(bag, clean):
    read, fed = examine(bag), report_of(clean)
    assert [(t.name, t.count, t.rate, t.frames) for t in read.topics] == [
        (t.name, t.count, t.rate, t.frames) for t in fed.topics
    ]
    assert codes(read) - codes(fed) <= {"QOS_TF_STATIC"}  # the writer states no QoS
    assert read.storage == "mcap"


def test_chosen_topics_and_times_are_examined_alone(bag):
    report = examine(bag, start=2.0, duration=3.0, topics=["/odom"])
    assert [(t.name, t.count) for t in report.topics] == [("odom", 60)]
    with pytest.raises(DnlsError, match="did you mean odom"):
        examine(bag, topics=["odometry"])
    with pytest.raises(DnlsError, match="no messages"):
        examine(bag, start=100.0)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95, 0.999])
def test_a_truncated_recording_is_examined_as_far_as_it_goes(bag, tmp_path, share):
    whole = (bag / "bag.mcap").read_bytes()
    path = tmp_path / "torn.mcap"
    path.write_bytes(whole[: int(len(whole) * share)])
    report = examine(path)
    cut = "RECORDING_UNINDEXED" if share == 0.999 else "RECORDING_TRUNCATED"
    assert cut in codes(report, Severity.WARN)
    assert (report.severity == Severity.ERROR) == (share < 0.999)
    count = sum(t.count for t in report.topics)
    assert count > 0.8 * min(share, 1.0) * sum(t.count for t in examine(bag).topics)


def test_compressed_chunks_are_salvaged_up_to_the_damage(clean, tmp_path):
    store = typestore()
    for compression in (CompressionMode.STORAGE, CompressionMode.MESSAGE):
        path = tmp_path / compression.name
        writer = Writer2(path, version=9, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(compression, CompressionFormat.ZSTD)
        with writer:
            one = writer.add_connection("odom", "nav_msgs/msg/Odometry", typestore=store)
            for record in (r for r in clean for _ in range(6)):
                if record.topic == "odom":
                    raw = store.serialize_cdr(record.message, record.type)
                    writer.write(one, record.receive_stamp, raw)
        assert examine(path).topics[0].count == 6 * 161
        if compression is CompressionMode.STORAGE:
            file = next(path.glob("*.mcap"))
            torn = tmp_path / "torn.mcap"
            torn.write_bytes(file.read_bytes()[: int(0.4 * file.stat().st_size)])
            assert 100 < examine(torn).topics[0].count < 6 * 161


def test_a_torn_database_gives_the_rows_before_the_damage(clean, tmp_path):
    store, path = typestore(), tmp_path / "db"
    with Writer2(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        one = writer.add_connection("odom", "nav_msgs/msg/Odometry", typestore=store)
        for _ in range(3):
            for record in clean:
                if record.topic == "odom":
                    raw = store.serialize_cdr(record.message, record.type)
                    writer.write(one, record.receive_stamp, raw)
    assert examine(path).storage == "sqlite3"
    file = path / "db.db3"
    file.write_bytes(file.read_bytes()[: int(0.5 * file.stat().st_size)])
    report = examine(file)
    assert "RECORDING_TRUNCATED" in codes(report, Severity.ERROR)
    assert 20 < report.topics[0].count < 483


def write_ros1(path, clean):
    store = get_typestore(Stores.ROS1_NOETIC)
    with Writer1(path) as writer:
        one = writer.add_connection("/imu", "sensor_msgs/msg/Imu", typestore=store)
        for record in clean:
            if record.topic == "imu":
                own = store.types
                h = record.message.header
                message = dataclasses.replace(
                    record.message,
                    header=own["std_msgs/msg/Header"](0, h.stamp, h.frame_id),
                )
                raw = store.serialize_ros1(message, record.type)
                writer.write(one, record.receive_stamp, raw)
    return path


@pytest.mark.parametrize("share", [0.4, 0.99])
def test_a_torn_ros_1_bag_gives_the_messages_before_the_damage(clean, tmp_path, share):
    path = write_ros1(tmp_path / "x.bag", clean)
    assert examine(path).topics[0].count == 440
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    report = examine(path)
    assert "RECORDING_TRUNCATED" in codes(report, Severity.ERROR)
    assert report.topics[0].count > 0.8 * share * 440
    assert report.topics[0].frames == {"imu_link": report.topics[0].count}


def test_a_folder_without_metadata_is_read(bag, clean, tmp_path):
    (tmp_path / "split").mkdir()
    half = len(clean) // 2
    write(tmp_path / "split" / "x_9.mcap", clean[:half])
    write(tmp_path / "split" / "x_10.mcap", clean[half:])
    report = examine(tmp_path / "split")
    assert "METADATA_MISSING" in codes(report, Severity.WARN)
    assert sum(t.count for t in report.topics) == len(clean)
    assert "BACKWARD_STAMP" not in codes(report)


def test_what_is_no_recording_is_unreadable(tmp_path):
    with pytest.raises(UnreadableInputError, match="does not exist"):
        examine(tmp_path / "nowhere")
    with pytest.raises(UnreadableInputError, match="no recording"):
        examine(tmp_path)
    (tmp_path / "x.mcap").write_text("words")
    with pytest.raises(UnreadableInputError, match=r"x\.mcap"):
        examine(tmp_path / "x.mcap")
    with BagWriter(tmp_path / "empty") as writer:
        writer.add_topic("odom", "nav_msgs/msg/Odometry")
    with pytest.raises(UnreadableInputError, match="no messages"):
        examine(tmp_path / "empty")


def test_every_damage_gives_a_report_or_one_sentence(bag, tmp_path):
    good = (bag / "bag.mcap").read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for k in range(25):
        damaged = bytearray(good[: int(rng.integers(100, len(good)))] if k % 2 else good)
        place = int(rng.integers(len(damaged) - 8))
        damaged[place : place + 8] = rng.bytes(8)
        path = tmp_path / "x.mcap"
        path.write_bytes(damaged)
        try:
            outcomes.add(examine(path).severity)
        except DnlsError:
            outcomes.add("refused")
    assert Severity.ERROR in outcomes


def test_of_a_large_message_only_the_header_is_read():
    record = image(T0 + 5, 320, 240, "bgr8")
    cdr = typestore().serialize_cdr(record.message, record.type)
    found = peek(bytes(cdr), record.type, ros1=False)
    assert (found.width, found.height, found.encoding) == (320, 240, "bgr8")
    assert (found.header.frame_id, found.header.stamp.nanosec) == ("camera_optical", 5)
    store = get_typestore(Stores.ROS1_NOETIC)
    h = record.message.header
    old = dataclasses.replace(
        record.message, header=store.types["std_msgs/msg/Header"](7, h.stamp, h.frame_id)
    )
    found = peek(bytes(store.serialize_ros1(old, record.type)), record.type, ros1=True)
    assert (found.width, found.height, found.encoding) == (320, 240, "bgr8")
    assert found.header.frame_id == "camera_optical"


# --- Suggestions and words -------------------------------------------------------------------


def test_the_suggested_configuration_loads_and_fits(bag, tmp_path):
    text, _ = suggestion(examine(bag))
    file = tmp_path / "s.yaml"
    file.write_text(text)
    config = load_parameters(file)
    types = {s.topic: s.type for s in config.sensors}
    assert types == {
        "camera/tag_detections": "landmarks",
        "gps_pose": "pose",
        "imu": "imu",
        "odom": "odometry",
    }
    assert config.track().child_frame == "base_link"
    assert config.track().planar
    assert config.world_frame == "map"
    report = examine(bag, config)
    assert report.severity <= Severity.WARN
    assert codes(report, Severity.WARN) <= {"QOS_TF_STATIC"}


def test_nothing_is_suggested_where_nothing_can_be_read(tmp_path):
    write(tmp_path / "images", [image(T0 + k * NS) for k in range(5)])
    with pytest.raises(DnlsError, match="no configuration can be suggested"):
        suggestion(examine(tmp_path / "images"))


def test_the_text_fits_a_terminal(clean):
    for name in ("gap", "frame change", "tf loop"):
        lines = list(as_text(report_of(list(DEFECTS[name][2](clean)))))
        assert max(map(len, lines)) <= 100
        assert DEFECTS[name][0] in "\n".join(lines)


def test_the_command_exits_by_severity(bag, clean, tmp_path, capsys):
    assert main(["doctor", str(bag), "--json"]) == 0
    content = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert content["severity"] in ("INFO", "WARN")
    assert {t["name"] for t in content["topics"]} >= {"odom", "imu", "tf"}
    spoiled = write(tmp_path / "spoiled", DEFECTS["empty frame"][2](clean))
    assert main(["doctor", str(spoiled)]) == 1
    assert "EMPTY_FRAME" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path / "nowhere")]) == 3
    assert main(["doctor"]) == 2
    assert main(["doctor", str(bag), "--live"]) == 2
    assert main(["doctor", str(bag), "--params", str(tmp_path / "none.yaml")]) == 2
    out = tmp_path / "s.yaml"
    assert main(["doctor", str(bag), "--suggest", str(out)]) == 0
    assert main(["doctor", str(bag), "--suggest", str(out)]) == 2
    assert main(["params", "--check", str(out)]) == 0


def test_every_code_is_documented_and_no_other():
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert "\n".join(markdown()) in page


def test_every_code_in_the_sources_is_in_the_table():
    text = "".join(path.read_text() for path in (ROOT / "dnls_ros").rglob("doctor*.py"))
    unused = [code for code in CODES if text.count(f'"{code}"') < 2]
    assert not unused, f"{unused} are never reported"


# --- Real recordings -------------------------------------------------------------------------


def test_the_husky_imu_is_shifted_against_its_odometry(dnls_data):
    report = examine(dnls_data("rosbag/robot_localization/test1.bag"))
    assert report.storage == "ros1"
    assert report.severity == Severity.WARN
    assert report.offsets == {"/imu/data": pytest.approx(0.394, abs=0.02)}
    imu_report = next(t for t in report.topics if t.name == "/imu/data")
    assert imu_report.count == 11865
    assert imu_report.rate == pytest.approx(30.0, rel=0.01)


def test_the_turtlebot_was_recorded_on_two_clocks(dnls_data):
    report = examine(dnls_data("rosbag/evo/nav2_turtlebot.mcap"))
    assert codes(report, Severity.WARN) == {"CLOCKS_DIFFER", "GAPS", "COVARIANCE_ZERO"}
    assert report.tree[0] == "map"
    load_parameters_of(report)


def test_one_of_every_sensor_message_is_examined(dnls_data):
    path = dnls_data("rosbag/rerun/rosbag2_2025_09_10-13_03_56_0.mcap")
    report = examine(path)
    assert report.severity == Severity.INFO
    with BagReader(path) as opened:
        assert {t.name: t.count for t in report.topics} == {
            name: topic.count for name, topic in opened.topics.items()
        }


@pytest.mark.parametrize("name", ["tf_example", "tf_example.bag"])
def test_a_recording_of_transforms_alone_is_healthy(dnls_data, name):
    report = examine(dnls_data(f"rosbag/evo/{name}"))
    assert report.severity == Severity.OK
    assert report.tree[:2] == ("odom", "  base_footprint  (10.0 Hz)")


def load_parameters_of(report):
    import yaml

    return load_parameters(yaml.safe_load(suggestion(report)[0]))
