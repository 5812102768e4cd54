"""Recordings: written ones read back, damaged ones explained, real ones of every format."""

from __future__ import annotations

import bz2
import gzip
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from dnls_ros.errors import DnlsError, UnavailableError, UnreadableInputError
from dnls_ros.io import definitions
from dnls_ros.io.bag import BagReader, BagWriter, read_bag
from dnls_ros.io.compose import Composer
from dnls_ros.io.convert import planar_covariance
from dnls_ros.io.definitions import message_class, message_folder, typestore
from dnls_ros.io.messages import adapt, find_adapter
from dnls_ros.window.measurements import Measurement

DATA = Path(os.environ.get("DNLS_DATA", "../shared/data"))
MAKE = Composer(message_class)
POSE = np.array([1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 1.0])


def write(path, count=5, overwrite=False):
    with BagWriter(path, overwrite) as bag:
        bag.add_topic("silent", "geometry_msgs/msg/PoseStamped")
        for k in range(count):
            stamp = 10**9 + k * 10**8
            bag.write("pose", MAKE.pose_stamped(stamp, "map", POSE * k), stamp)
            seen = MAKE.range_bearing(stamp, "base", [str(k)], np.ones(1), np.ones(1), (0.1, 0.1))
            bag.write("ranges", seen, stamp + 1)
    return path


def real(name):
    path = DATA / "rosbag" / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    return path


@pytest.mark.parametrize("name", ["bag", "bag.mcap"])
def test_what_is_written_reads_back_in_order(tmp_path, name):
    with BagReader(write(tmp_path / name)) as bag:
        assert {topic: (t.type, t.count) for topic, t in bag.topics.items()} == {
            "pose": ("geometry_msgs/msg/PoseStamped", 5),
            "ranges": ("dnls_ros/msg/RangeBearingArray", 5),
            "silent": ("geometry_msgs/msg/PoseStamped", 0),
        }
        assert (bag.start, bag.end) == (10**9, 10**9 + 4 * 10**8 + 1)
        records = list(bag.records())
    assert [record.topic for record in records] == ["pose", "ranges"] * 5
    assert [record.message.ids for record in records[1::2]] == [[str(k)] for k in range(5)]
    stamps = [record.receive_stamp for record in records]
    assert stamps == sorted(stamps)


def test_chosen_topics_and_times_are_read_alone(tmp_path):
    with BagReader(write(tmp_path / "bag")) as bag:
        picked = list(bag.records(["pose"], start=10**9 + 10**8, end=10**9 + 3 * 10**8))
    assert [record.receive_stamp for record in picked] == [10**9 + 10**8, 10**9 + 2 * 10**8]
    assert {record.topic for record in picked} == {"pose"}


def test_no_topics_chosen_means_no_messages(tmp_path):
    assert list(read_bag(write(tmp_path / "bag"), [])) == []


def test_an_absent_topic_is_named_with_the_nearest_one(tmp_path):
    with (
        BagReader(write(tmp_path / "bag")) as bag,
        pytest.raises(DnlsError, match=r"no topic range.*did you mean ranges\?"),
    ):
        bag.records(["range"])


def test_equal_messages_give_equal_bytes(tmp_path):
    first, second = write(tmp_path / "a" / "bag"), write(tmp_path / "b" / "bag")
    for name in ("bag.mcap", "metadata.yaml"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert write(tmp_path / "bag.mcap").read_bytes() == (first / "bag.mcap").read_bytes()


def test_nothing_stays_when_writing_fails(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), BagWriter(tmp_path / "bag"):
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_recording_is_replaced_only_when_asked_and_only_as_a_whole(tmp_path):
    write(tmp_path / "bag")
    with pytest.raises(DnlsError, match="exists"):
        write(tmp_path / "bag")
    with pytest.raises(RuntimeError, match="stop"), BagWriter(tmp_path / "bag", True):
        raise RuntimeError("stop")
    assert len(list(read_bag(tmp_path / "bag"))) == 10
    write(tmp_path / "bag", count=2, overwrite=True)
    assert len(list(read_bag(tmp_path / "bag"))) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_a_folder_that_is_no_recording_is_never_replaced(tmp_path):
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "thesis.tex").write_text("years of work")
    with pytest.raises(DnlsError, match="exists"):
        write(tmp_path / "bag", overwrite=True)


def test_all_our_messages_are_known_without_ros():
    names = {f"dnls_ros/msg/{path.stem}" for path in message_folder().glob("*.msg")}
    assert "dnls_ros/msg/LandmarkObservationArray" in names
    assert names <= set(typestore().types)


def test_missing_definitions_are_said_to_be_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(definitions, "__file__", str(tmp_path / "a/b/c/d/e/f/io/definitions.py"))
    monkeypatch.setattr(definitions.sys, "prefix", str(tmp_path))
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    with pytest.raises(UnavailableError, match="not found"):
        message_folder()


def empty_bag(folder):
    with BagWriter(folder / "empty") as bag:
        bag.add_topic("pose", "geometry_msgs/msg/PoseStamped")
    return folder / "empty"


def truncated(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.95, 0.999])
def test_a_truncated_recording_is_explained(tmp_path, share):
    path = truncated(write(tmp_path / "bag.mcap", count=200), share)
    with pytest.raises(UnreadableInputError, match=r"bag\.mcap"):
        list(read_bag(path))


def test_every_damage_to_a_recording_is_explained_or_harmless(tmp_path):
    path = write(tmp_path / "bag.mcap", count=20)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    harmless = 0
    for _ in range(150):
        damaged = bytearray(good)
        place = int(rng.integers(len(good)))
        damaged[place : place + 8] = rng.bytes(8)
        path.write_bytes(damaged[: len(good)])
        with suppress(UnreadableInputError):
            list(read_bag(path))
            harmless += 1
    assert harmless < 125


@pytest.mark.parametrize("name", ["nowhere", "nowhere.mcap", "nowhere.bag"])
def test_a_missing_recording_is_named(tmp_path, name):
    with pytest.raises(UnreadableInputError, match="does not exist"):
        list(read_bag(tmp_path / name))


def test_empty_recordings_and_folders_are_explained(tmp_path):
    with pytest.raises(UnreadableInputError, match="no messages"):
        list(read_bag(empty_bag(tmp_path)))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnreadableInputError, match="folder"):
        list(read_bag(tmp_path / "folder"))


@pytest.mark.parametrize("name", ["a.bag", "a.mcap", "a.db3", "a.txt", "a.bag.bz2"])
def test_a_file_of_another_kind_is_explained(tmp_path, name):
    (tmp_path / name).write_text("these are words and no recording\n" * 100)
    with pytest.raises(UnreadableInputError, match=name):
        list(read_bag(tmp_path / name))


def test_a_reader_that_is_not_open_says_so(tmp_path):
    with pytest.raises(DnlsError, match="not open"):
        BagReader(write(tmp_path / "bag")).records()


@pytest.mark.parametrize("plugin", StoragePlugin)
def test_both_storages_of_rosbag2_are_read(tmp_path, plugin):
    store, name = typestore(), "geometry_msgs/msg/PoseStamped"
    with Writer2(tmp_path / "bag", version=8, storage_plugin=plugin) as writer:
        connection = writer.add_connection("/pose", name, typestore=store)
        raw = store.serialize_cdr(MAKE.pose_stamped(7, "map", POSE), name)
        writer.write(connection, 8, raw)
    (file,) = (path for path in (tmp_path / "bag").iterdir() if path.suffix != ".yaml")
    for path in (tmp_path / "bag", file):
        (record,) = read_bag(path)
        assert (record.type, record.receive_stamp) == (name, 8)
        assert adapt("it", record.type, record.message).stamp == 7


def test_ros_1_bags_are_read_plain_and_packed(tmp_path):
    store = get_typestore(Stores.ROS1_NOETIC)
    name = "geometry_msgs/msg/PoseStamped"
    message = MAKE.pose_stamped(7, "map", POSE)
    header = store.types["std_msgs/msg/Header"]
    message.header = header(seq=3, stamp=message.header.stamp, frame_id="map")
    with Writer1(tmp_path / "a.bag") as writer:
        connection = writer.add_connection("/pose", name, typestore=store)
        writer.write(connection, 8, store.serialize_ros1(message, name))
    content = (tmp_path / "a.bag").read_bytes()
    (tmp_path / "b.bag.bz2").write_bytes(bz2.compress(content))
    (tmp_path / "c.bag.gz").write_bytes(gzip.compress(content))
    for path in sorted(tmp_path.iterdir()):
        (record,) = read_bag(path)
        measurement = adapt("it", record.type, record.message)
        assert (measurement.stamp, measurement.frame) == (7, "map")
        assert np.array_equal(measurement.pose, POSE)


REAL = {
    "evo/nav2_turtlebot.mcap": {"/odom": 2639, "/amcl_pose": 135},
    "evo/tf_example": {"/tf": 517},
    "evo/tf_example.bag": {"/tf": 517},
    "robot_localization/test1.bag": {"/husky_velocity_controller/odom": 3952},
    "robot_localization/test2.bag": {"/jackal_velocity_controller/odom": 3060},
    "fuse/turtlebot3.bag": {"/odom": 2741},
    "tagslam_test/tests/test_13/tag_detections.bag.bz2": {"/apriltag_detector/tags": 681},
    "tagslam_test/tests/test_21/tag_detections.bag.bz2": {
        "/t265/fisheye1/tags": 431,
        "/vio_node/odom": 2596,
    },
}


@pytest.mark.parametrize("name", REAL)
def test_real_recordings_are_read_and_all_their_measurements_accepted(name):
    with BagReader(real(name)) as bag:
        assert {topic: bag.topics[topic].count for topic in REAL[name]} == REAL[name]
        counts = dict.fromkeys(REAL[name], 0)
        latest = 0
        for record in bag.records(REAL[name]):
            counts[record.topic] += 1
            assert record.receive_stamp >= latest
            latest = record.receive_stamp
            if find_adapter(record.type):
                measurement = adapt("it", record.type, record.message)
                assert isinstance(measurement, Measurement), measurement
        assert counts == REAL[name]


def test_real_covariances_keep_their_eigenvalues_in_the_tangent():
    for record in read_bag(real("evo/nav2_turtlebot.mcap"), ["/amcl_pose"]):
        measurement = adapt("amcl", record.type, record.message)
        ros = record.message.pose.covariance.reshape(6, 6)
        planar, planar_ros = planar_covariance(measurement.covariance), planar_covariance(ros)
        values = np.linalg.eigvalsh(planar)
        assert values.min() > 0
        assert np.allclose(values, np.linalg.eigvalsh(planar_ros), rtol=1e-9)
        assert not np.allclose(planar, planar_ros, rtol=1e-3, atol=0)


def test_one_of_every_sensor_message_is_read():
    (path,) = real("rerun").glob("*.mcap")
    assert len({record.type for record in read_bag(path)}) > 20


def test_a_real_recording_cut_short_is_explained(tmp_path):
    path = tmp_path / "cut.bag"
    shutil.copy(real("fuse/turtlebot3.bag"), path)
    with pytest.raises(UnreadableInputError, match=r"cut\.bag"):
        list(read_bag(truncated(path, 0.5)))
