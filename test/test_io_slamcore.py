"""Data sets in the layout of OpenLORIS-Scene: what is there is converted, what is broken named."""

from __future__ import annotations

import numpy as np
import pytest

from dnls_ros.cli import main
from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.bag import read_bag
from dnls_ros.io.doctor_bag import examine
from dnls_ros.io.doctor_codes import Severity
from dnls_ros.io.slamcore import convert_slamcore

SENSORS = """%YAML:1.0
d400_color_optical_frame:
   sensor_type: camera
   fps: 30
   width: 8
   height: 6
   intrinsics: !!opencv-matrix
      rows: 1
      cols: 4
      dt: d
      data: [ 5., 4., 6., 3. ]
   distortion_model: radial-tangential
   distortion_coefficients: !!opencv-matrix
      rows: 1
      cols: 5
      dt: d
      data: [ 0.1, 0., 0., 0., 0. ]
d400_gyroscope:
   sensor_type: imu
"""
MOUNTS = """%YAML:1.0
trans_matrix:
   -
      parent_frame: base_link
      child_frame: d400_color_optical_frame
      matrix: !!opencv-matrix
         rows: 4
         cols: 4
         dt: d
         data: [ 0., 0., 1., 0.2, -1., 0., 0., 0., 0., -1., 0., 0.9, 0., 0., 0., 1. ]
"""


@pytest.fixture
def folder(tmp_path):
    import cv2

    home = tmp_path / "set"
    (home / "color").mkdir(parents=True)
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    cv2.imwrite(str(home / "color" / "a.png"), pixels)
    (home / "color.txt").write_text("10.5 color/a.png\n")
    (home / "odom.txt").write_text("#Time …\n10.25 1 2 0 0 0 0 1 0.5 0 0 0 0 0.1\n")
    (home / "groundtruth.txt").write_text("10.125 1 2 0 0 0 0 1\n")
    (home / "d400_gyroscope.txt").write_text("10.000000001 0.1 0.2 0.3\n")
    (home / "d400_accelerometer.txt").write_text("10.75 0 0 9.81\n")
    (home / "sensors.yaml").write_text(SENSORS)
    (home / "trans_matrix.yaml").write_text(MOUNTS)
    return home


def test_every_table_becomes_messages_with_exact_stamps(folder, tmp_path):
    done = convert_slamcore(folder, tmp_path / "bag")
    assert set(done.topics.values()) == {1}
    records = {record.topic: record for record in read_bag(tmp_path / "bag")}
    assert records["d400/gyro"].receive_stamp == 10_000_000_001
    gyro = records["d400/gyro"].message
    assert (gyro.angular_velocity.y, gyro.angular_velocity_covariance[0]) == (0.2, 0.0)
    assert gyro.orientation_covariance[0] == gyro.linear_acceleration_covariance[0] == -1.0
    image = records["color/image_raw"].message
    assert (image.width, image.height, image.encoding, image.step) == (8, 6, "bgr8", 24)
    assert (image.data == np.arange(144)).all()
    info = records["color/camera_info"].message
    assert info.k.tolist() == [5, 0, 4, 0, 6, 3, 0, 0, 1]
    assert (info.distortion_model, info.d.tolist()) == ("plumb_bob", [0.1, 0, 0, 0, 0])
    mount = records["tf_static"].message.transforms[0].transform
    assert mount.translation.x == 0.2
    assert abs(mount.rotation.x) == pytest.approx(0.5)
    assert records["odom"].message.twist.twist.angular.z == 0.1


def test_what_is_absent_is_left_out(folder, tmp_path):
    for name in ("sensors.yaml", "trans_matrix.yaml", "odom.txt"):
        (folder / name).unlink()
    done = convert_slamcore(folder, tmp_path / "bag")
    assert set(done.topics) == {"color/image_raw", "d400/gyro", "d400/accel", "ground_truth"}


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("odom.txt", "10 1 2\n", "odom.txt:1"),
        ("odom.txt", "ten 1 2 0 0 0 0 1 0 0 0 0 0 0\n", "not a time"),
        ("d400_gyroscope.txt", "10 a b c\n", "gyroscope.txt:1"),
        ("color.txt", "10 color/missing.png\n", "missing.png"),
        ("sensors.yaml", "d400_color_optical_frame: {sensor_type: camera}\n", "intrinsics"),
        ("trans_matrix.yaml", "- a\n", "mapping"),
        ("trans_matrix.yaml", "trans_matrix: [{parent_frame: a}]\n", "matrix"),
        ("sensors.yaml", "{", "not valid YAML"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_stays(folder, tmp_path, name, text, match):
    (folder / name).write_text(text)
    with pytest.raises(UnreadableInputError, match=match):
        convert_slamcore(folder, tmp_path / "out" / "bag")
    assert not (tmp_path / "out" / "bag").exists()


def test_an_empty_folder_is_explained(tmp_path):
    with pytest.raises(UnreadableInputError, match=r"odom\.txt"):
        convert_slamcore(tmp_path, tmp_path / "bag")


def test_the_sample_goes_through_the_doctor(dnls_data, tmp_path, capsys):
    source = dnls_data("traj/slamcore_sample/sample_dataset")
    assert main(["convert", "slamcore", str(source), "--out", str(tmp_path / "bag")]) == 0
    assert "fisheye1/image_raw" in capsys.readouterr().out
    report = examine(tmp_path / "bag")
    assert {one.code for one in report.findings if one.severity >= Severity.WARN} == {
        "COVARIANCE_ZERO"
    }
    rates = {t.name: t.rate for t in report.topics}
    assert rates["d400/gyro"] == pytest.approx(400.0, rel=0.01)
    gyro = next(t for t in report.topics if t.name == "d400/gyro")
    assert gyro.tf == {"d400_gyroscope -> base_link": 1.0}
    depth = next(t for t in report.topics if t.name == "depth/image_raw")
    assert depth.images == {"848x480 16UC1": 4}
