"""MR.CLAM: exact integration, a small data set converted, the real one read."""

from __future__ import annotations

import gzip
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import expm

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.bag import BagReader
from dnls_ros.io.messages import adapt
from dnls_ros.io.mrclam import (
    ODOMETRY_DENSITY,
    convert_mrclam,
    dead_reckon,
    dead_reckoned_covariances,
    held_steps,
)
from dnls_ros.io.mrclam_files import read_mrclam
from dnls_ros.io.trajectory import read_tum
from dnls_ros.window.landmark_file import read_landmark_map
from dnls_ros.window.measurements import Measurement

DATA = Path(os.environ.get("DNLS_DATA", "../shared/data")) / "traj/mrclam/MRCLAM_Dataset7"


@pytest.fixture
def data_set(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "Barcodes.dat").write_text("# subject barcode\n 1 5\n 2 14\n 6 63\n 7 81\n")
    (folder / "Landmark_Groundtruth.dat").write_text("6 1.5 -2 0.1 0.1\n7 0 3 0.1 0.1\n")
    odometry = "# t v w\n10.000 0.5 0.2\n10.500 1.0 0\n10.500 9 9\n11.500 0 0\n"
    (folder / "Robot1_Odometry.dat.gz").write_bytes(gzip.compress(odometry.encode()))
    (folder / "Robot1_Groundtruth.dat").write_text("9 1 2 0.4\n11 1 2 0.8\n12 3 4 3.1\n")
    (folder / "Robot1_Measurement.dat").write_text(
        "10.200 63 1.5 0.1\n10.200 81 2.5 -0.1\n10.300 14 1 0\n10.300 99 1 0\n10.900 81 2 0\n"
    )
    return folder


def se2(x, y, yaw):
    return np.array([[np.cos(yaw), -np.sin(yaw), x], [np.sin(yaw), np.cos(yaw), y], [0, 0, 1]])


def test_held_commands_are_integrated_exactly():
    rng = np.random.default_rng(0)
    stamps = np.cumsum(rng.integers(1, 2 * 10**9, 30))
    commands = rng.normal(size=(30, 2)) * [1.0, 2.0]
    commands[::5, 1] = 0.0
    commands[::7, 1] = 1e-9
    pose = np.eye(3)
    poses = dead_reckon(stamps, commands)
    for k, seconds in enumerate(np.diff(stamps) / 1e9):
        assert np.allclose(se2(*poses[k]), pose, rtol=0, atol=1e-12)
        v, w = commands[k]
        pose = pose @ expm(np.array([[0, -w, v], [w, 0, 0], [0, 0, 0]]) * seconds)
    assert np.allclose(se2(*poses[-1]), pose, rtol=0, atol=1e-12)


def test_covariances_grow_as_sampled_motions_spread():
    rng = np.random.default_rng(1)
    stamps = np.arange(21) * 500_000_000
    commands = np.tile([0.4, 0.3], (21, 1))
    steps = held_steps(stamps, commands)
    runs = []
    for _ in range(2000):
        pose = np.eye(3)
        for step in steps:
            x, y, turn = rng.normal(size=3) * ODOMETRY_DENSITY * np.sqrt(0.5)
            pose = pose @ se2(*step) @ se2(x, y, turn)
        error = np.linalg.inv(se2(*dead_reckon(stamps, commands)[-1])) @ pose
        runs.append([error[0, 2], error[1, 2], np.arctan2(error[1, 0], error[0, 0])])
    expected = dead_reckoned_covariances(stamps, steps)[-1]
    sampled = np.cov(np.array(runs).T)
    sigma = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / len(runs))
    assert (np.abs(sampled - expected) < 4 * sigma).all()


def test_a_converted_data_set_holds_all_that_was_measured(data_set, tmp_path):
    summary = convert_mrclam(data_set, 1, tmp_path / "out" / "robot1")
    assert (summary.odometry, summary.images, summary.observations) == (3, 2, 3)
    assert (summary.other_robots, summary.unknown_barcodes, summary.repeated_stamps) == (1, 1, 1)
    assert summary.initial_stamp == 10 * 10**9
    assert summary.initial_pose == pytest.approx((1.0, 2.0, 0.6))
    with BagReader(summary.bag) as bag:
        counts = {name: topic.count for name, topic in bag.topics.items()}
        records = list(bag.records())
    assert counts == {"odom": 3, "range_bearing": 2, "ground_truth": 3, "initial_pose": 1}
    stamps = [record.receive_stamp for record in records]
    assert stamps == sorted(stamps)
    for record in records:
        measurement = adapt(record.topic, record.type, record.message)
        assert isinstance(measurement, Measurement), measurement
        assert measurement.stamp == record.receive_stamp


def test_odometry_messages_carry_the_motion_that_ends_at_their_stamp(data_set, tmp_path):
    summary = convert_mrclam(data_set, 1, tmp_path / "robot1.mcap")
    with BagReader(summary.bag) as bag:
        odometry = [adapt("odom", r.type, r.message) for r in bag.records(["odom"])]
    assert [one.twist[0] for one in odometry] == [0.5, 0.5, 1.0]
    assert [one.twist[5] for one in odometry] == [0.2, 0.2, 0.0]
    for before, after in pairwise(odometry):
        seconds = (after.stamp - before.stamp) / 1e9
        turns = 2 * np.arctan2(before.pose[5], before.pose[6])
        twist = after.twist
        hat = np.array([[0, -twist[5], twist[0]], [twist[5], 0, 0], [0, 0, 0]])
        moved = se2(before.pose[0], before.pose[1], turns) @ expm(hat * seconds)
        assert np.allclose(moved[:2, 2], after.pose[:2], rtol=0, atol=1e-12)
        variances = np.diag(after.twist_covariance)[[0, 1, 5]] * seconds
        assert np.allclose(variances, ODOMETRY_DENSITY**2)


def test_truth_and_landmarks_are_written_beside_the_recording(data_set, tmp_path):
    summary = convert_mrclam(data_set, 1, tmp_path / "robot1.mcap")
    assert summary.truth == tmp_path / "robot1_truth.tum"
    assert read_tum(summary.truth).stamps.tolist() == [9 * 10**9, 11 * 10**9, 12 * 10**9]
    points = read_landmark_map(summary.landmarks).points
    positions = {name: point.position.tolist() for name, point in points.items()}
    assert positions == {"6": [1.5, -2.0, 0.0], "7": [0.0, 3.0, 0.0]}
    names = {path.name for path in tmp_path.iterdir()} - {"set"}
    assert names == {"robot1.mcap", "robot1_truth.tum", "robot1_landmarks.yaml"}


def test_two_conversions_give_the_same_bytes(data_set, tmp_path):
    first = convert_mrclam(data_set, 1, tmp_path / "a" / "robot1.mcap").bag.read_bytes()
    second = convert_mrclam(data_set, 1, tmp_path / "b" / "robot1.mcap").bag.read_bytes()
    assert first == second


def test_an_existing_recording_is_only_replaced_when_asked(data_set, tmp_path):
    convert_mrclam(data_set, 1, tmp_path / "robot1")
    with pytest.raises(DnlsError, match="exists"):
        convert_mrclam(data_set, 1, tmp_path / "robot1")
    assert convert_mrclam(data_set, 1, tmp_path / "robot1", overwrite=True).odometry == 3


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("Barcodes.dat", "", "holds no data"),
        ("Robot1_Measurement.dat", "10.2 63 one 0\n", ":1: not a line of numbers"),
        ("Robot1_Measurement.dat", "10.2 63 1\n", ":1: expected 4"),
        ("Robot1_Groundtruth.dat", "9 nan 2 0\n", ":1: expected 4 finite"),
        ("Robot1_Groundtruth.dat", "9 1 2 0\n", "at least two"),
        ("Robot1_Odometry.dat.gz", "not gzipped", "cannot read"),
    ],
)
def test_damaged_files_are_named(data_set, tmp_path, name, text, complaint):
    (data_set / name).write_text(text)
    with pytest.raises(UnreadableInputError, match=complaint) as caught:
        convert_mrclam(data_set, 1, tmp_path / "robot1")
    assert name.removesuffix(".gz") in str(caught.value)
    assert not (tmp_path / "robot1").exists()


def test_a_robot_that_is_not_there_is_named(data_set, tmp_path):
    with pytest.raises(UnreadableInputError, match=r"Robot3_Odometry\.dat"):
        convert_mrclam(data_set, 3, tmp_path / "robot3")


def test_the_real_data_set_reads_as_documented():
    if not DATA.exists():
        pytest.skip(f"needs {DATA}")
    data = read_mrclam(DATA, 1)
    seen = sum(map(len, data.sightings.by_stamp.values()))
    assert (len(data.odometry.stamps), len(data.truth.stamps)) == (58_598, 58_389)
    assert (seen, data.sightings.other_robots, len(data.landmarks)) == (2578, 650, 15)
    seconds = data.truth.stamps / 1e9
    x, y, yaw = (
        np.interp(data.odometry.stamps / 1e9, seconds, column)
        for column in (*data.truth.columns[:, :2].T, np.unwrap(data.truth.columns[:, 2]))
    )
    start = se2(x[0], y[0], yaw[0])
    reckoned = dead_reckon(data.odometry.stamps, data.odometry.columns)
    positions = reckoned[:, :2] @ start[:2, :2].T + start[:2, 2]
    known = data.odometry.stamps <= data.truth.stamps[-1]
    errors = np.hypot(*(positions - np.stack([x, y], axis=1)).T)[known]
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(4.09, abs=0.01)
