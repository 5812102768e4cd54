"""Writes what an estimator says into files: trajectories, statistics of the solves, events.

    ros2 run dnls_ros recorder_node --ros-args -p output_dir:=runs

Each start makes a folder of its own in ``output_dir``:

    odometry_filtered.tum   one per topic; a stamp that goes back begins odometry_filtered_2.tum
    solver_stats.csv        one row per solve
    events.log              one line per event

Topics may be nav_msgs/Odometry, PoseWithCovarianceStamped or PoseStamped; they are joined when
someone publishes them. Files are written once a period and when the node ends; what a full disk
does not take is kept and tried again.
"""

from __future__ import annotations

from dnls_ros.ros.stopping import hold_signals

if __name__ == "__main__":
    hold_signals()  # before the imports, which take seconds

import csv
import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.errors import DnlsError
from dnls_ros.io.convert import pose_from_fields, stamp_to_ns
from dnls_ros.io.trajectory import numbers_text, stamp_text
from dnls_ros.ros.qos import subscribe_to
from dnls_ros.ros.record_files import Flusher, GrowingFile
from dnls_ros.ros.running import PlainNode, Setting, run_node
from dnls_ros.ros.spin import make_executor
from dnls_ros.ros.types import message_class
from dnls_ros.runtime.types import Level

NAME = "dnls_recorder"
SETTINGS = {
    "output_dir": Setting("~/.ros/dnls/record", "where the folder of this recording is made"),
    "topics": Setting(("odometry/filtered",), "trajectories to write"),
    "node": Setting("dnls_estimator", "whose solver_stats and events to write; '' = nobody's"),
    "flush_period": Setting(1.0, "between two writes [s]"),
}
DEPTH = 100
"""Messages of a topic that may wait for us."""
GRAPH_PERIOD = 0.1
"""Between two looks for publishers [s]."""
STATS = "dnls_ros/msg/SolverStats"
EVENT = "dnls_ros/msg/Event"

POSES: dict[str, Callable[[Any], Any]] = {
    "nav_msgs/msg/Odometry": lambda message: message.pose.pose,
    "geometry_msgs/msg/PoseWithCovarianceStamped": lambda message: message.pose.pose,
    "geometry_msgs/msg/PoseStamped": lambda message: message.pose,
}
"""Types of trajectories, and where their pose is."""


class TrajectoryFile:
    """The poses of one topic as TUM, in one file per stretch of ascending stamps."""

    def __init__(self, folder: Path, topic: str, files: Flusher) -> None:
        """Begins with the first pose."""
        self._folder = folder
        self._name = topic.strip("/").replace("/", "_")
        self._files = files
        self._file: GrowingFile | None = None
        self._parts = 0
        self._last = 0

    def add(self, stamp: int, pose: Any) -> None:
        """Adds a pose; one with the stamp of the last is the same one again."""
        if self._file is not None and stamp == self._last:
            return
        if self._file is None or stamp < self._last:
            self._parts += 1
            suffix = f"_{self._parts}" if self._parts > 1 else ""
            path = self._folder / f"{self._name}{suffix}.tum"
            self._file = self._files.add(GrowingFile(path))
        self._last = stamp
        numbers = pose_from_fields(pose).tolist()
        self._file.add(f"{stamp_text(stamp)} {numbers_text(numbers)}")


class RecorderNode(PlainNode):
    """Subscribes and writes."""

    def __init__(self) -> None:
        """Makes the folder and subscribes.

        Raises:
            DnlsError: A parameter is wrong, or the folder cannot be made.
        """
        super().__init__(NAME, SETTINGS)
        period, topics = self.setting("flush_period"), self.setting("topics")
        if not 0.01 <= period <= 60.0:
            raise DnlsError(f"flush_period: got {period:g}; expected 0.01..60 s")
        if len({self.resolve_topic_name(topic) for topic in topics}) < len(topics):
            raise DnlsError(f"topics: a name is given twice in {', '.join(topics)}")
        self.folder = make_folder(Path(self.setting("output_dir")).expanduser())
        self._files = Flusher(period, self._complain)
        self._undecided = {
            topic: TrajectoryFile(self.folder, topic, self._files) for topic in topics
        }
        if whose := self.setting("node"):
            self._record_node(whose)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(GRAPH_PERIOD, self._look, clock=steady)
        self._files.start()
        self.get_logger().info(f"recording into {self.folder}")

    def stop(self) -> None:
        """Writes what is left."""
        self._files.stop()

    def _complain(self, text: str) -> None:
        self.get_logger().error(text, throttle_duration_sec=5.0)

    def _record_node(self, whose: str) -> None:
        """Statistics and events of a node; its last events come although they were earlier."""
        columns = stats_columns()
        stats = self._files.add(GrowingFile(self.folder / "solver_stats.csv", ",".join(columns)))
        events = self._files.add(GrowingFile(self.folder / "events.log"))

        def add_stats(message: Any) -> None:
            stats.add(stats_row(message, columns))

        def add_event(message: Any) -> None:
            events.add(event_line(message))

        self._subscribe(STATS, f"{whose}/solver_stats", add_stats)
        self._subscribe(EVENT, f"{whose}/event", add_event, latched=True)

    def _look(self) -> None:
        """Joins the topics that someone publishes by now."""
        for topic, file in list(self._undecided.items()):
            infos = self.get_publishers_info_by_topic(self.resolve_topic_name(topic))
            for info in infos:
                if (kind := info.topic_type) in POSES:
                    del self._undecided[topic]
                    best = info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
                    self._join(kind, topic, file, reliable=not best)
                    break
                self.get_logger().error(
                    f"'{topic}' is published as {kind}; expected {' or '.join(POSES)}", once=True
                )

    def _join(self, kind: str, topic: str, file: TrajectoryFile, reliable: bool) -> None:
        """Subscribes to a trajectory."""
        pose_of = POSES[kind]

        def receive(message: Any) -> None:
            stamp = message.header.stamp
            file.add(stamp_to_ns(stamp.sec, stamp.nanosec), pose_of(message))

        self._subscribe(kind, topic, receive, reliable=reliable)

    def _subscribe(
        self,
        kind: str,
        topic: str,
        receive: Callable[[Any], None],
        reliable: bool = True,
        latched: bool = False,
    ) -> None:
        qos = QoSProfile(
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        subscribe_to(self, kind, topic, receive, qos)


def make_folder(parent: Path) -> Path:
    """Makes a new folder, named after the time of day; DnlsError if that cannot be."""
    name = time.strftime("%Y%m%d_%H%M%S")
    for count in range(1, 100):
        folder = parent / (name if count == 1 else f"{name}_{count}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise DnlsError(f"output_dir: cannot make {folder}: {error}") from error
        return folder
    raise DnlsError(f"output_dir: {parent} is full of recordings of this second")


def stats_columns() -> list[str]:
    """The stamp and every single number or text of a SolverStats, as the message orders them."""
    fields = message_class(STATS).get_fields_and_field_types()
    single = [name for name, kind in fields.items() if "/" not in kind and "[" not in kind]
    return ["stamp", *single]


def stats_row(message: Any, columns: Sequence[str]) -> str:
    """One solve as a line of CSV."""
    stamp = message.header.stamp
    cells = [stamp_text(stamp_to_ns(stamp.sec, stamp.nanosec))]
    for name in columns[1:]:
        value = getattr(message, name)
        cells.append(str(int(value)) if isinstance(value, bool) else str(value))
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def event_line(message: Any) -> str:
    """One event as a line."""
    stamp = message.header.stamp
    level = Level(message.level).name if message.level in set(Level) else str(message.level)
    values = ", ".join(f"{pair.key}={pair.value}" for pair in message.values)
    when = stamp_text(stamp_to_ns(stamp.sec, stamp.nanosec))
    text = f"{when} {level} {message.code}: {message.text}" + (f" ({values})" if values else "")
    return " ".join(text.splitlines())


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; returns the exit code."""
    return run_node(RecorderNode, make_executor, args)


if __name__ == "__main__":
    sys.exit(main())
