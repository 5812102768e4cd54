"""The doctor on running publishers: real DDS, one process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from dnls_ros.io.compose import Composer
from dnls_ros.io.doctor_codes import Severity
from dnls_ros.window.parameters import load_parameters

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, used by rclpy
]

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402

from dnls_ros.cli import main  # noqa: E402
from dnls_ros.ros.doctor_node import listen  # noqa: E402
from dnls_ros.ros.live import local_node  # noqa: E402
from dnls_ros.ros.types import message_class  # noqa: E402

POSE = np.array([1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 1.0])
COVARIANCE = np.diag([0.01] * 6)
MAKE = Composer(message_class)
PARAMETERS = """
dnls_estimator:
  ros__parameters:
    world_frame: map
    tracks: [robot]
    track.robot.child_frame: base_link
    sensors: [gps]
    sensor.gps.type: pose
    sensor.gps.topic: gps
    sensor.gps.qos.reliability: {reliability}
"""


@contextmanager
def publishing(topic="gps", rate=50.0, reliable=True, stamp=lambda now: now, frame="map"):
    """Poses at a rate, with stamps made of the time."""
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    kind = message_class("geometry_msgs/msg/PoseWithCovarianceStamped")
    stop = threading.Event()
    with local_node("doctor_" + topic.replace("/", "_"), int(os.environ["ROS_DOMAIN_ID"])) as node:
        publisher = node.create_publisher(
            kind, topic, QoSProfile(depth=10, reliability=reliability)
        )

        def publish():
            while not stop.wait(1.0 / rate):
                at = stamp(node.get_clock().now().nanoseconds)
                publisher.publish(MAKE.pose_with_covariance_stamped(at, frame, POSE, COVARIANCE))

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            yield node
        finally:
            stop.set()
            thread.join()


def codes(report, least=Severity.OK):
    return {one.code for one in report.findings if one.severity >= least}


def config(reliability="best_effort"):
    import yaml

    return load_parameters(yaml.safe_load(PARAMETERS.format(reliability=reliability)))


def test_a_healthy_publisher_is_healthy():
    with publishing():
        report = listen(config(), 2.0)
    (topic,) = report.topics
    assert topic.name == "gps"
    assert topic.sensors == ["gps"]
    assert topic.count > 50
    assert topic.rate == pytest.approx(50.0, rel=0.2)
    assert 0.0 <= topic.latency < 0.1
    assert topic.qos == ["reliable, volatile"]
    assert not codes(report, Severity.WARN) - {"GAPS", "JITTER"}, report.findings


def test_live_defects_are_found():
    with publishing(reliable=False, stamp=lambda now: 0, frame=""):
        report = listen(config("reliable"), 1.5)
    assert {"ZERO_STAMP", "EMPTY_FRAME", "QOS_INCOMPATIBLE"} <= codes(report, Severity.ERROR)


def test_a_configured_topic_without_publisher_is_an_error():
    report = listen(config(), 0.5)
    assert codes(report) == {"NO_PUBLISHER"}
    assert report.severity == Severity.ERROR
    assert codes(listen(None, 0.3), Severity.ERROR) == {"NO_PUBLISHER"}


def test_without_a_configuration_everything_is_heard_but_the_logs():
    with publishing("a/pose"), publishing("b/pose", rate=20.0):
        report = listen(None, 1.5)
    assert {t.name for t in report.topics} == {"/a/pose", "/b/pose"}
    with publishing("a/pose"), publishing("b/pose", rate=20.0):
        report = listen(None, 1.0, ["b/pose"])
    assert [t.name for t in report.topics] == ["b/pose"]


def test_latched_transforms_are_heard_and_an_unknown_type_is_named():
    kind = message_class("tf2_msgs/msg/TFMessage")
    latched = QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
    transform = message_class("geometry_msgs/msg/TransformStamped")()
    transform.header.frame_id, transform.child_frame_id = "base_link", "camera"
    with local_node("doctor_patient", int(os.environ["ROS_DOMAIN_ID"])) as node:
        publisher = node.create_publisher(kind, "tf_static", latched)
        publisher.publish(kind(transforms=[transform]))
        report = listen(None, 1.0)
    assert report.tree == ("base_link", "  camera  (static)")
    assert "QOS_TF_STATIC" not in codes(report)


def test_the_command_listens(tmp_path, capfd):
    file = tmp_path / "p.yaml"
    file.write_text(PARAMETERS.format(reliability="best_effort"))
    with publishing():
        code = main(["doctor", "--live", "--duration", "1", "--params", str(file)])
    assert code == 0
    assert "PoseWithCovariance" in capfd.readouterr().out
    assert main(["doctor", "--live", "--duration", "0.3", "--params", str(file)]) == 1
    assert main(["doctor", "--live", "--start", "1"]) == 2


@pytest.mark.parametrize(("stamp", "code"), [(lambda now: now, 0), (lambda now: 0, 1)])
def test_the_node_prints_the_table_and_exits_by_severity(tmp_path, stamp, code):
    file = tmp_path / "p.yaml"
    file.write_text(PARAMETERS.format(reliability="best_effort"))
    command = [sys.executable, "-m", "dnls_ros.ros.doctor_node", "--ros-args"]
    command += ["-p", f"params_file:={file}", "-p", "duration:=1.5"]
    with publishing(stamp=stamp):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "gps" in done.stdout
    assert "result" in done.stdout


def test_a_wrong_parameter_file_ends_the_node_with_code_2(tmp_path):
    command = [sys.executable, "-m", "dnls_ros.ros.doctor_node", "--ros-args"]
    command += ["-p", f"params_file:={tmp_path / 'none.yaml'}"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (2, 3), done.stdout + done.stderr
    assert "none.yaml" in done.stderr
    assert time.monotonic() - began < 30.0
