"""Results of a replay leave in other formats, and come back as they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dnls_ros.cli.main import main
from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.bag import BagReader
from dnls_ros.io.convert import covariance_from_ros, pose_from_fields, stamp_to_ns
from dnls_ros.io.export import TrackRun, export_bag, read_run
from dnls_ros.io.trajectory import Trajectory, read_covariances, read_tum
from dnls_ros.io.trajectory_formats import FORMATS

PARAMS = Path(__file__).resolve().parents[1] / "config" / "localization_2d.yaml"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A replay, and one with full smoothing."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["sim", "--seed", "2", "--duration", "3", "--out", str(folder)]) == 0
    call = ["replay", str(folder / "bag"), "--params", str(PARAMS), "--min-coverage", "0"]
    assert main([*call, "--out", str(folder / "plain")]) == 0
    assert main([*call, "--out", str(folder / "full"), "--full"]) == 0
    return folder / "plain", folder / "full"


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_each_format_reads_back_as_the_run_has_it(runs, tmp_path, capsys, kind):
    call = ["export", str(runs[0]), "--to", kind, "--out", str(tmp_path), "--json"]
    assert main(call) == 0
    path = tmp_path / f"robot{FORMATS[kind].suffix}"
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["files"] == [str(path)]
    read, own = FORMATS[kind].read(path), read_tum(runs[0] / "robot.tum")
    assert report["poses"] == {"robot": len(own)}
    assert np.allclose(read.poses[:, :3], own.poses[:, :3], atol=1e-12)
    turned = np.abs(np.einsum("ij,ij->i", read.poses[:, 3:], own.poses[:, 3:]))
    assert np.allclose(turned, 1.0, atol=1e-12)
    if kind != "kitti":  # it keeps no stamps
        assert np.array_equal(read.stamps, own.stamps)
    if kind == "csv":
        known = read_covariances(runs[0] / "robot_cov.csv", own)
        assert np.allclose(read.covariances, known.covariances, rtol=1e-9, atol=1e-15)


def test_a_recording_holds_poses_with_covariances_and_transforms(runs, tmp_path):
    assert main(["export", str(runs[0]), "--to", "mcap", "--out", str(tmp_path)]) == 0
    own = read_covariances(runs[0] / "robot_cov.csv", read_tum(runs[0] / "robot.tum"))
    with BagReader(tmp_path / "run.mcap") as bag:
        records = list(bag.records())
    poses = [record for record in records if record.topic.lstrip("/") == "pose"]
    moved = [record for record in records if record.topic.lstrip("/") == "tf"]
    assert len(poses) == len(moved) == len(own)
    for k, (record, transform) in enumerate(zip(poses, moved, strict=True)):
        message = record.message
        stamp = stamp_to_ns(message.header.stamp.sec, message.header.stamp.nanosec)
        assert stamp == own.stamps[k] == record.receive_stamp
        assert message.header.frame_id == "map"
        pose = pose_from_fields(message.pose.pose)
        assert np.array_equal(pose, own.poses[k])
        matrix = np.array(message.pose.covariance).reshape(6, 6)
        assert np.allclose(covariance_from_ros(matrix, pose), own.covariances[k], atol=1e-12)
        (one,) = transform.message.transforms
        assert (one.header.frame_id, one.child_frame_id) == ("map", "base_link")
        assert one.transform.translation.x == own.poses[k, 0]


def test_newest_and_smoothed_and_full_are_told_apart(runs):
    (best,), (newest,), (smoothed,) = (
        read_run(runs[1], w) for w in ("best", "newest", "smoothed")
    )
    assert best.trajectory.covariances is None
    assert newest.trajectory.covariances is not None
    (plain,) = read_run(runs[0])
    assert np.array_equal(newest.trajectory.poses, plain.trajectory.poses)
    assert np.array_equal(best.trajectory.stamps, smoothed.trajectory.stamps)
    assert not np.array_equal(best.trajectory.poses, smoothed.trajectory.poses)


def test_several_tracks_are_kept_apart_and_in_order_of_time(tmp_path):
    poses = np.tile([0.0, 0, 0, 0, 0, 0, 1], (3, 1))
    first = Trajectory(np.array([1, 3, 5], np.int64) * 10**9, poses)
    second = Trajectory(np.array([2, 3, 4], np.int64) * 10**9, poses)
    tracks = [TrackRun("a", "map", "a_link", first), TrackRun("b", "a_link", "b", second)]
    export_bag(tracks, tmp_path / "two.mcap")
    with BagReader(tmp_path / "two.mcap") as bag:
        records = list(bag.records())
    stamps = [record.receive_stamp for record in records]
    assert stamps == sorted(stamps)
    topics = {record.topic.lstrip("/") for record in records}
    assert topics == {"a/pose", "b/pose", "tf"}
    unknown = next(r for r in records if r.topic.lstrip("/") == "b/pose").message
    assert not np.any(unknown.pose.covariance)


def test_nothing_is_replaced_unasked(runs, tmp_path, capsys):
    for kind, name in (("tum", "robot.tum"), ("mcap", "run.mcap")):
        call = ["export", str(runs[0]), "--to", kind, "--out", str(tmp_path)]
        assert main(call) == 0
        before = (tmp_path / name).read_bytes()
        assert main(call) == 2
        assert "exists" in capsys.readouterr().err
        assert main([*call, "--overwrite"]) == 0
        assert (tmp_path / name).read_bytes() == before
    assert main(["export", str(runs[0]), "--to", "tum"]) == 0
    assert (runs[0] / "export" / "robot.tum").read_bytes() == (runs[0] / "robot.tum").read_bytes()


def test_a_folder_that_is_no_run_is_refused(runs, tmp_path, capsys):
    with pytest.raises(UnreadableInputError, match=r"status\.json"):
        read_run(tmp_path)
    for content in ("{", "[]", "{}", '{"tracks": {"robot": {"causal_poses": 1}}}'):
        (tmp_path / "status.json").write_text(content)
        with pytest.raises(UnreadableInputError, match="replay again"):
            read_run(tmp_path)
    about = {"causal_poses": 0, "parent_frame": "map", "child_frame": "b"}
    (tmp_path / "status.json").write_text(json.dumps({"tracks": {"robot": about}}))
    with pytest.raises(UnreadableInputError, match="was ever started"):
        read_run(tmp_path)
    with pytest.raises(DnlsError, match="has no track 'arm'; it has robot"):
        read_run(runs[0], tracks=["arm"])
    assert main(["export", str(tmp_path), "--to", "tum"]) == 3
    assert main(["export", str(runs[0]), "--to", "bvh"]) == 2
    capsys.readouterr()
