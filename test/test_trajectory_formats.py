"""Trajectory formats keep stamps and poses; damaged files are refused with line and reason."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.trajectory import Trajectory
from dnls_ros.io.trajectory_formats import (
    FORMATS,
    read_csv,
    read_euroc,
    trajectory_format,
    write_csv,
    write_euroc,
    write_trajectory,
)

START = 1527206741_075612384


@pytest.fixture
def trajectory():
    rng = np.random.default_rng(0)
    count = 30
    stamps = START + np.cumsum(rng.integers(1, 10**8, count))
    turns = Rotation.random(count, random_state=1).as_quat()
    roots = rng.normal(size=(count, 6, 6))
    return Trajectory(
        stamps,
        np.concatenate([rng.normal(size=(count, 3)) * 100, turns], axis=1),
        roots @ np.swapaxes(roots, 1, 2),
    )


@pytest.mark.parametrize("name", ["tum", "euroc", "csv"])
def test_stamps_and_poses_read_back_bit_by_bit(trajectory, tmp_path, name):
    chosen = FORMATS[name]
    write_trajectory(tmp_path / "a", trajectory, name)
    back = chosen.read(tmp_path / "a")
    assert np.array_equal(back.stamps, trajectory.stamps)
    assert np.array_equal(back.poses, trajectory.poses)
    chosen.write(tmp_path / "b", back if name != "csv" else trajectory)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_kitti_keeps_poses_up_to_the_sign_of_the_quaternion(trajectory, tmp_path):
    write_trajectory(tmp_path / "a.kitti", trajectory, "kitti")
    back = FORMATS["kitti"].read(tmp_path / "a.kitti")
    np.testing.assert_array_equal(back.poses[:, :3], trajectory.poses[:, :3])
    turn = (
        Rotation.from_quat(back.poses[:, 3:]) * Rotation.from_quat(trajectory.poses[:, 3:]).inv()
    )
    assert turn.magnitude().max() < 1e-12


def test_csv_keeps_covariances_and_their_absence(trajectory, tmp_path):
    write_csv(tmp_path / "a.csv", trajectory)
    np.testing.assert_allclose(
        read_csv(tmp_path / "a.csv").covariances, trajectory.covariances, rtol=1e-12, atol=1e-12
    )
    write_csv(tmp_path / "b.csv", Trajectory(trajectory.stamps, trajectory.poses))
    assert read_csv(tmp_path / "b.csv").covariances is None


def test_csv_writes_covariances_in_the_axes_of_the_parent_frame(tmp_path):
    quarter = [0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)]  # the body's x is the parent's y
    covariance = np.diag([4.0, 1, 1, 1, 1, 1])[None]
    one = Trajectory(np.array([1]), np.array([[0.0, 0, 0, *quarter]]), covariance)
    write_csv(tmp_path / "a.csv", one)
    head, row = (tmp_path / "a.csv").read_text().splitlines()
    cells = dict(zip(head.split(","), row.split(","), strict=True))
    assert cells["stamp"] == "0.000000001"
    assert float(cells["x_x"]) == pytest.approx(1.0)
    assert float(cells["y_y"]) == pytest.approx(4.0)


def test_evo_reads_our_euroc_file(trajectory, tmp_path):
    file_interface = pytest.importorskip("evo.tools.file_interface")
    write_euroc(tmp_path / "data.csv", trajectory)
    theirs = file_interface.read_euroc_csv_trajectory(tmp_path / "data.csv")
    assert np.array_equal(theirs.positions_xyz, trajectory.poses[:, :3])
    assert np.array_equal(theirs.orientations_quat_wxyz, trajectory.poses[:, [6, 3, 4, 5]])


def test_euroc_ground_truth_with_velocities_is_read(tmp_path):
    rest = ",".join("0" * 9)
    (tmp_path / "gt.csv").write_text(
        "#timestamp, p_RS_R_x [m], …\n"
        f"1403636580838555648,4.6,-1.7,0.7,0.5,-0.5,0.5,-0.5,{rest}\n"
        f"1403636580843555328,4.7,-1.7,0.7,0.5,-0.5,0.5,-0.5,{rest}\n"
    )
    back = read_euroc(tmp_path / "gt.csv")
    assert back.stamps.tolist() == [1403636580838555648, 1403636580843555328]
    assert back.poses[0].tolist() == [4.6, -1.7, 0.7, -0.5, 0.5, -0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("euroc", "", "holds no poses"),
        ("euroc", "1,0,0,0,1,0,0\n", ":1: expected 8 or 17 numbers"),
        ("euroc", "1.5,0,0,0,1,0,0,0\n", r":1: '1\.5' is not a time in whole nanoseconds"),
        ("euroc", "9999999999999999999,0,0,0,1,0,0,0\n", "beyond the range"),
        ("euroc", "1,0,0,0,0,0,0,0\n", ":1: the quaternion has length zero"),
        ("euroc", "1,0,0,nan,1,0,0,0\n", "finite"),
        ("euroc", "2,0,0,0,1,0,0,0\n1,0,0,0,1,0,0,0\n", "ascend"),
        ("csv", "", ":1: expected the head"),
        ("csv", "t,x\n1,2\n", ":1: expected the head"),
        ("csv", "stamp,x,y,z,qx,qy,qz,qw\n", "holds no poses"),
        ("csv", "stamp,x,y,z,qx,qy,qz,qw\n1,0,0,0,0,0,0\n", ":2: expected 8 numbers"),
        ("csv", "stamp,x,y,z,qx,qy,qz,qw\nsoon,0,0,0,0,0,0,1\n", ":2: 'soon' is not a time"),
        ("csv", "stamp,x,y,z,qx,qy,qz,qw\n1,a,0,0,0,0,0,1\n", ":2: could not convert"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(tmp_path, name, text, complaint):
    path = tmp_path / "broken"
    path.write_text(text)
    with pytest.raises(UnreadableInputError, match=complaint):
        FORMATS[name].read(path)


def test_an_unknown_format_names_those_that_exist():
    with pytest.raises(DnlsError, match="no trajectory format 'ply'; there are: tum, kitti"):
        trajectory_format("ply")


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_that_cannot_be_written_leaves_nothing_behind(trajectory, tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        write_trajectory(tmp_path / "file" / "a", trajectory, name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
