"""The recorder: files that grow on a disk that may be full, and the node that fills them."""

from __future__ import annotations

import resource
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("dnls_ros.msg")

from process_rig import process
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.errors import DnlsError
from dnls_ros.io.compose import Composer
from dnls_ros.io.trajectory import read_tum
from dnls_ros.ros.live import free_domain, local_node
from dnls_ros.ros.record_files import Flusher, GrowingFile
from dnls_ros.ros.recorder_node import TrajectoryFile, event_line, make_folder, stats_columns
from dnls_ros.ros.types import message_class

pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, used by rclpy
]

COMPOSE = Composer(message_class)
START = 1_700_000_000 * 10**9


@contextmanager
def disk_of(size: int) -> Generator[None]:
    """The kernel takes no more than ``size`` bytes of a file, and then refuses, as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_a_full_disk_refuses_is_written_later_and_no_line_is_torn(tmp_path):
    file = GrowingFile(tmp_path / "deep" / "a.csv", "head")
    lines = [f"line {k:03d} of the file" for k in range(100)]
    for line in lines[:50]:
        file.add(line)
    with disk_of(333):
        with pytest.raises(OSError, match="too large"):
            file.flush()
        text = file.path.read_text()
        assert text.endswith("\n")
        assert text.splitlines() == ["head", *lines[: len(text.splitlines()) - 1]]
        assert 0 < len(text) <= 333
        file.add(lines[50])
        with pytest.raises(OSError, match="too large"):
            file.flush()
        assert file.path.read_text() == text
    for line in lines[51:]:
        file.add(line)
    file.flush()
    assert file.path.read_text().splitlines() == ["head", *lines]
    assert file.lost == file.waiting == 0


def test_beyond_the_limit_lines_are_lost_and_counted(tmp_path):
    file = GrowingFile(tmp_path / "a", limit=30)
    for _ in range(5):
        file.add("123456789")
    assert file.lost == 2
    file.flush()
    file.add("again")
    file.flush()
    assert file.path.read_text() == "123456789\n" * 3 + "again\n"


def test_a_file_that_cannot_be_written_is_said_and_the_others_go_on(tmp_path):
    (tmp_path / "way").write_text("a file where a folder should be")
    said: list[str] = []
    flusher = Flusher(0.01, said.append)
    bad = flusher.add(GrowingFile(tmp_path / "way" / "a"))
    good = flusher.add(GrowingFile(tmp_path / "b"))
    for file in (bad, good):
        file.add("line")
    flusher.start()
    flusher.stop()
    assert (tmp_path / "b").read_text() == "line\n"
    assert "cannot write" in said[0]
    assert "5 bytes wait" in said[0]


def test_a_stamp_that_goes_back_begins_another_file(tmp_path):
    flusher = Flusher(10.0, print)
    file = TrajectoryFile(tmp_path, "/odometry/filtered", flusher)
    for seconds in (1, 2, 2, 3, 1, 2):
        file.add(START + seconds * 10**9, COMPOSE.pose(np.array([seconds, 0, 0, 0, 0, 0, 1.0])))
    flusher.start()
    flusher.stop()
    first = read_tum(tmp_path / "odometry_filtered.tum")
    second = read_tum(tmp_path / "odometry_filtered_2.tum")
    assert first.poses[:, 0].tolist() == [1, 2, 3]
    assert second.poses[:, 0].tolist() == [1, 2]


def test_a_folder_that_cannot_be_made_is_a_wrong_configuration(tmp_path):
    (tmp_path / "way").write_text("")
    with pytest.raises(DnlsError, match="output_dir: cannot make"):
        make_folder(tmp_path / "way")
    assert make_folder(tmp_path) != make_folder(tmp_path)


def test_an_event_is_one_line():
    pair = message_class("diagnostic_msgs/msg/KeyValue")
    event = message_class("dnls_ros/msg/Event")(
        header=COMPOSE.header(START, "map"),
        level=1,
        code="time.jump_back",
        text="the clock\njumped",
        values=[pair(key="by", value="3 s")],
    )
    assert (
        event_line(event) == "1700000000.000000000 WARN time.jump_back: the clock jumped (by=3 s)"
    )


def odometry(k: int) -> Any:
    pose = np.array([0.1 * k, 0, 0, 0, 0, 0, 1.0])
    return COMPOSE.odometry(START + k * 10**8, "map", "base", pose, np.zeros(6), np.eye(6))


def test_the_node_records_until_sigint(tmp_path):
    reliable = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
    latched = QoSProfile(
        depth=20,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
    topics = "['odometry/filtered', 'gps']"
    out = tmp_path / "out"
    with (
        process("recorder_node", tmp_path, output_dir=str(out), topics=topics) as recorder,
        local_node("talker", free_domain()) as node,
    ):
        kinds = {
            "odometry/filtered": "nav_msgs/msg/Odometry",
            "gps": "geometry_msgs/msg/PoseWithCovarianceStamped",
            "dnls_estimator/solver_stats": "dnls_ros/msg/SolverStats",
        }
        talk = {n: node.create_publisher(message_class(k), n, reliable) for n, k in kinds.items()}
        event_type = message_class("dnls_ros/msg/Event")
        events = node.create_publisher(event_type, "dnls_estimator/event", latched)
        events.publish(event_type(code="state.change", text="before anyone listened"))
        for publisher in (*talk.values(), events):
            recorder.wait_for(publisher.get_subscription_count, 30.0, publisher.topic_name)
        for k in range(20):
            talk["odometry/filtered"].publish(odometry(k))
            message = odometry(k)
            kind = message_class(kinds["gps"])
            talk["gps"].publish(kind(header=message.header, pose=message.pose))
            stats = message_class(kinds["dnls_estimator/solver_stats"])
            talk["dnls_estimator/solver_stats"].publish(
                stats(window_id=k, accepted=True, message='with "quotes", commas')
            )
        (folder,) = out.iterdir()
        last = folder / "solver_stats.csv"
        recorder.wait_for(
            lambda: last.exists() and len(last.read_text().splitlines()) == 21, 20.0, "the rows"
        )
        assert recorder.stop(signal.SIGINT) == 0
    for name in ("odometry_filtered", "gps"):
        recorded = read_tum(folder / f"{name}.tum")
        np.testing.assert_allclose(recorded.poses[:, 0], 0.1 * np.arange(20))
        assert recorded.stamps[-1] == START + 19 * 10**8
    head, row, *_ = last.read_text().splitlines()
    assert head.split(",") == stats_columns()
    assert '"with ""quotes"", commas"' in row
    assert "before anyone listened" in (folder / "events.log").read_text()
