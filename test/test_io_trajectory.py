"""Trajectories: exact stamps, equal bytes for equal values, interpolation, damaged files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import expm, logm
from scipy.spatial.transform import Rotation

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.trajectory import (
    Trajectory,
    parse_stamp,
    read_covariances,
    read_kitti,
    read_tum,
    stamp_text,
    write_covariances,
    write_kitti,
    write_tum,
)

DATA = Path(os.environ.get("DNLS_DATA", "../shared/data"))
START = 1527206741_075612384


@pytest.fixture
def trajectory():
    rng = np.random.default_rng(0)
    count = 50
    stamps = START + np.cumsum(rng.integers(1, 10**8, count))
    turns = Rotation.random(count, random_state=1).as_quat()
    roots = rng.normal(size=(count, 6, 6))
    return Trajectory(
        stamps,
        np.concatenate([rng.normal(size=(count, 3)) * 100, turns], axis=1),
        roots @ np.swapaxes(roots, 1, 2),
    )


def matrix_of(pose):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_quat(pose[3:]).as_matrix(), pose[:3]
    return matrix


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        ("1527206741.075612384", START),
        ("1.527206741075612384e9", START),
        ("0", 0),
        ("12", 12 * 10**9),
        ("-0.5", -(10**9) // 2),
        ("0.0000000014", 1),
        ("9007199.254740993", 9007199_254740993),
    ],
)
def test_stamps_are_read_exactly(text, stamp):
    assert parse_stamp(text) == stamp


@pytest.mark.parametrize("stamp", [0, 1, -1, 10**9, -1500000000, START, 2**62])
def test_stamps_read_back_as_written(stamp):
    assert parse_stamp(stamp_text(stamp)) == stamp


def test_a_tum_file_reads_back_bit_by_bit(trajectory, tmp_path):
    write_tum(tmp_path / "a.tum", trajectory)
    back = read_tum(tmp_path / "a.tum")
    assert np.array_equal(back.stamps, trajectory.stamps)
    assert np.array_equal(back.poses, trajectory.poses)
    write_tum(tmp_path / "b.tum", back)
    assert (tmp_path / "a.tum").read_bytes() == (tmp_path / "b.tum").read_bytes()


def test_evo_reads_the_same_poses_from_our_tum_file(trajectory, tmp_path):
    file_interface = pytest.importorskip("evo.tools.file_interface")
    write_tum(tmp_path / "a.tum", trajectory)
    theirs = file_interface.read_tum_trajectory_file(tmp_path / "a.tum")
    assert np.array_equal(theirs.positions_xyz, trajectory.poses[:, :3])
    assert np.array_equal(theirs.orientations_quat_wxyz, trajectory.poses[:, [6, 3, 4, 5]])
    assert np.abs(theirs.timestamps - trajectory.stamps / 1e9).max() < 1e-6


def test_comments_and_blank_lines_are_skipped_and_long_quaternions_shortened(tmp_path):
    path = tmp_path / "a.tum"
    path.write_text("# time x y z\n\n1.5 1 2 3 0 0 0 2 # end\n2 1 2 3 0 0 0 1\n")
    back = read_tum(path)
    assert back.stamps.tolist() == [1_500_000_000, 2_000_000_000]
    assert back.poses[0].tolist() == [1, 2, 3, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no poses"),
        ("# only words\n", "holds no poses"),
        ("1 2 3\n", ":1: expected 8 numbers"),
        ("1 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n", "ascend"),
        ("2 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n", "ascend"),
        ("1 0 0 0 0 0 0 0\n", ":1: the quaternion"),
        ("1 0 0 x 0 0 0 1\n", ":1: could not convert"),
        ("1 0 0 nan 0 0 0 1\n", "finite"),
        ("soon 0 0 0 0 0 0 1\n", "'soon' is not a time"),
        ("nan 0 0 0 0 0 0 1\n", "'nan' is not a time"),
        ("1e30 0 0 0 0 0 0 1\n", "'1e30' is not a time"),
    ],
)
def test_a_damaged_tum_file_says_what_is_wrong(tmp_path, text, complaint):
    path = tmp_path / "broken.tum"
    path.write_text(text)
    with pytest.raises(UnreadableInputError, match=complaint) as caught:
        read_tum(path)
    assert "broken.tum" in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(UnreadableInputError, match="nowhere"):
        read_tum(tmp_path / "nowhere.tum")
    (tmp_path / "image.tum").write_bytes(bytes([0x89, 0xFF, 0xFE]))
    with pytest.raises(UnreadableInputError, match=r"image\.tum"):
        read_tum(tmp_path / "image.tum")


def test_writing_leaves_only_the_file_and_keeps_the_old_one_on_failure(trajectory, tmp_path):
    write_tum(tmp_path / "deep" / "a.tum", trajectory)
    before = (tmp_path / "deep" / "a.tum").read_bytes()
    bare = Trajectory(trajectory.stamps, trajectory.poses)
    with pytest.raises(DnlsError, match="no covariances"):
        write_covariances(tmp_path / "deep" / "a.tum", bare)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.tum"]
    assert (tmp_path / "deep" / "a.tum").read_bytes() == before


def test_a_kitti_file_keeps_the_poses(trajectory, tmp_path):
    write_kitti(tmp_path / "a.txt", trajectory)
    back = read_kitti(tmp_path / "a.txt", trajectory.stamps)
    for ours, theirs in zip(back.poses, trajectory.poses, strict=True):
        assert np.allclose(matrix_of(ours), matrix_of(theirs), rtol=0, atol=1e-14)


def test_evo_reads_the_same_matrices_from_our_kitti_file(trajectory, tmp_path):
    file_interface = pytest.importorskip("evo.tools.file_interface")
    write_kitti(tmp_path / "a.txt", trajectory)
    theirs = file_interface.read_kitti_poses_file(tmp_path / "a.txt").poses_se3
    ours = [matrix_of(pose) for pose in trajectory.poses]
    assert np.allclose(theirs, ours, rtol=0, atol=1e-13)


def test_kitti_poses_without_stamps_come_at_ten_hertz(trajectory, tmp_path):
    write_kitti(tmp_path / "a.txt", trajectory)
    assert read_kitti(tmp_path / "a.txt").stamps[:3].tolist() == [0, 10**8, 2 * 10**8]
    with pytest.raises(UnreadableInputError, match="50 poses, but 3 stamps"):
        read_kitti(tmp_path / "a.txt", trajectory.stamps[:3])


def test_a_kitti_matrix_that_is_no_rotation_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("2 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(UnreadableInputError, match="rotation"):
        read_kitti(tmp_path / "a.txt")


def test_covariances_read_back(trajectory, tmp_path):
    write_covariances(tmp_path / "a_cov.csv", trajectory)
    bare = Trajectory(trajectory.stamps, trajectory.poses)
    back = read_covariances(tmp_path / "a_cov.csv", bare)
    assert np.allclose(back.covariances, trajectory.covariances, rtol=0, atol=1e-13)


def test_the_covariance_file_is_in_ros_axes(tmp_path):
    quarter = np.sqrt(0.5)
    pose = np.array([[0.0, 0, 0, 0, 0, quarter, quarter]])
    covariance = np.diag([1.0, 4, 9, 16, 25, 36])[None]
    write_covariances(tmp_path / "a.csv", Trajectory(np.array([0]), pose, covariance))
    header, line = (tmp_path / "a.csv").read_text().splitlines()
    values = dict(zip(header.split(","), line.split(","), strict=True))
    assert float(values["x_x"]) == pytest.approx(4)
    assert float(values["rx_rx"]) == pytest.approx(25)


def test_covariances_of_other_stamps_are_refused(trajectory, tmp_path):
    write_covariances(tmp_path / "a.csv", trajectory)
    other = Trajectory(trajectory.stamps + 1, trajectory.poses)
    with pytest.raises(UnreadableInputError, match="stamps"):
        read_covariances(tmp_path / "a.csv", other)


def test_interpolation_follows_the_screw_between_two_poses(trajectory):
    stamps = trajectory.stamps[:-1] + np.diff(trajectory.stamps) // 3
    for k, pose in enumerate(trajectory.at(stamps)):
        begin, end = matrix_of(trajectory.poses[k]), matrix_of(trajectory.poses[k + 1])
        interval = trajectory.stamps[k + 1] - trajectory.stamps[k]
        share = (stamps[k] - trajectory.stamps[k]) / interval
        expected = begin @ expm(share * logm(np.linalg.inv(begin) @ end).real)
        assert np.allclose(matrix_of(pose), expected, rtol=0, atol=1e-9)


def test_interpolation_at_the_poses_gives_the_poses(trajectory):
    assert np.allclose(trajectory.at(trajectory.stamps), trajectory.poses, rtol=0, atol=1e-13)
    assert np.array_equal(trajectory.at(trajectory.stamps[-1:])[0], trajectory.poses[-1])


def test_interpolation_outside_is_refused(trajectory):
    assert trajectory.at(np.array([], dtype=np.int64)).shape == (0, 7)
    for stamp in (trajectory.stamps[0] - 1, trajectory.stamps[-1] + 1):
        with pytest.raises(DnlsError, match="leave the trajectory"):
            trajectory.at(np.array([stamp]))


def test_arrays_that_disagree_are_refused(trajectory):
    with pytest.raises(DnlsError, match="poses should be"):
        Trajectory(trajectory.stamps, trajectory.poses[:-1])
    with pytest.raises(DnlsError, match="covariances should be"):
        Trajectory(trajectory.stamps, trajectory.poses, np.eye(6))
    with pytest.raises(DnlsError, match="int64"):
        Trajectory(trajectory.stamps / 1e9, trajectory.poses)


def test_a_published_ground_truth_reads_as_evo_reads_it():
    file_interface = pytest.importorskip("evo.tools.file_interface")
    paths = sorted((DATA / "traj/evo").glob("fr*groundtruth*.txt"))
    if not paths:
        pytest.skip(f"needs {DATA / 'traj/evo'}")
    theirs = file_interface.read_tum_trajectory_file(paths[0])
    ours = read_tum(paths[0])
    assert np.array_equal(ours.poses[:, :3], theirs.positions_xyz)
    assert np.abs(ours.stamps / 1e9 - theirs.timestamps).max() < 1e-6
