"""A simulated push as files: rosbag2 (mcap), the true trajectories, the object as parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dnls_ros.io import compose_touch
from dnls_ros.io.bag import BagWriter, Record
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class
from dnls_ros.io.files import write_text
from dnls_ros.io.push_scene import Array
from dnls_ros.io.sim_messages import spatial_pose, with_planar_covariance
from dnls_ros.io.sim_motion import Stamps, to_stamps
from dnls_ros.io.sim_push import RATE
from dnls_ros.io.sim_push_sensors import PushLog, PushRecording
from dnls_ros.io.trajectory import Trajectory, write_tum
from dnls_ros.window.parameter_file import write_yaml

EE_TOPIC = "ee/pose"
IMAGE_TOPIC = "digit/image_raw"
WRENCH_TOPIC = "wrench"
TAG_TOPIC = "object/tag_pose"
TRUTH_TOPIC = "truth/object"
TRUTH_EE_TOPIC = "truth/ee"
WORLD, FINGER = "world", "ee"
TOPIC_TYPES = {
    EE_TOPIC: "geometry_msgs/msg/PoseStamped",
    IMAGE_TOPIC: "sensor_msgs/msg/Image",
    WRENCH_TOPIC: "geometry_msgs/msg/WrenchStamped",
    TAG_TOPIC: "geometry_msgs/msg/PoseWithCovarianceStamped",
    TRUTH_TOPIC: "geometry_msgs/msg/PoseStamped",
    TRUTH_EE_TOPIC: "geometry_msgs/msg/PoseStamped",
}
"""A recording's topics; all are announced in the bag, even if faults leave one empty."""
TRUTH_STEP = RATE // 100
"""Steps of the simulation between two true poses."""
OBJECT_FILE = "object.yaml"


@dataclass(frozen=True)
class PushFiles:
    """Where `write_push` put a recording.

    Attributes:
        bag: rosbag2.
        truth, truth_ee: TUM, of the object and of the fingertip.
        object: Parameters of the estimator: shape and size of the object.
    """

    bag: Path
    truth: Path
    truth_ee: Path
    object: Path


def write_push(
    recording: PushRecording,
    out_dir: Path | str,
    records: Iterable[Record] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int], object] | None = None,
) -> PushFiles:
    """Writes ``bag/``, ``truth.tum``, ``truth_ee.tum`` and ``object.yaml`` into a folder.

    Args:
        recording: What was simulated.
        out_dir: The folder, made where it is missing.
        records: What the bag holds: None for the recording's own messages, else those after
            faults.
        overwrite: Replace an earlier recording there.
        on_progress: Called with the number of messages written so far, every hundred.

    Raises:
        DnlsError: There is something at ``out_dir/bag`` and it may not be replaced.
    """
    folder = Path(out_dir)
    names = "bag", "truth.tum", "truth_ee.tum", OBJECT_FILE
    files = PushFiles(*(folder / name for name in names))
    with BagWriter(files.bag, overwrite) as bag:
        for topic, type_name in TOPIC_TYPES.items():
            bag.add_topic(topic, type_name)
        for record in push_records(recording) if records is None else records:
            bag.write(record.topic, record.message, record.receive_stamp)
            if on_progress is not None and bag.count % 100 == 0:
                on_progress(bag.count)
    motion = recording.motion
    write_tum(files.truth, _trajectory(motion.times, motion.object))
    write_tum(files.truth_ee, _trajectory(motion.times, motion.ee))
    write_text(files.object, object_parameters(recording))
    return files


def object_parameters(recording: PushRecording) -> str:
    """The object as a ROS parameter file, to lay over that of an estimator."""
    drawn, shape = recording.motion.drawn, recording.scene.shape
    size = [float(s) for s in drawn.size]
    content = {"/**": {"ros__parameters": {"track.object.shape": {"type": shape, "size": size}}}}
    head = (
        f"# Simulated with seed {recording.seed}: friction {drawn.friction:.4f} at the finger, "
        f"at most {drawn.pressing:.3f} N at the table.\n"
    )
    return head + write_yaml(content, sort_keys=False, default_flow_style=None, width=99)


def push_records(recording: PushRecording) -> list[Record]:
    """All messages in order of receive time: when something was measured, by the robot's clock.

    The clock of the tactile sensor may be another, see `Noise`: its stamps are then.
    """
    compose = Composer(message_class)
    records = [
        *_ee(recording, compose),
        *_tag(recording, compose),
        *_wrench(recording, compose),
        *_images(recording, compose),
        *_truth(recording, compose),
    ]
    return sorted(records, key=lambda record: record.receive_stamp)


def _record(topic: str, stamp: int, message: Any) -> Record:
    return Record(topic, message.__msgtype__, stamp, message)


def _said(recording: PushRecording, log: PushLog) -> Iterator[tuple[int, Array]]:
    stamps = to_stamps(recording.motion.times[log.steps]).tolist()
    return zip(stamps, log.values, strict=True)


def _ee(recording: PushRecording, compose: Composer) -> Iterator[Record]:
    for stamp, pose in _said(recording, recording.ee):
        yield _record(EE_TOPIC, stamp, compose.pose_stamped(stamp, WORLD, spatial_pose(pose)))


def _tag(recording: PushRecording, compose: Composer) -> Iterator[Record]:
    covariance = np.diag(np.square(recording.scene.noise.tag_sigma))
    for stamp, pose in _said(recording, recording.tag):
        message = compose.pose_with_covariance_stamped(stamp, WORLD, spatial_pose(pose), None)
        covered = with_planar_covariance(message.pose, covariance)
        yield _record(TAG_TOPIC, stamp, replace(message, pose=covered))


def _wrench(recording: PushRecording, compose: Composer) -> Iterator[Record]:
    for stamp, (x, y, torque) in _said(recording, recording.wrench):
        wrench = np.array([x, y, 0.0, 0.0, 0.0, torque])
        message = compose_touch.wrench_stamped(compose, stamp, FINGER, wrench)
        yield _record(WRENCH_TOPIC, stamp, message)


def _images(recording: PushRecording, compose: Composer) -> Iterator[Record]:
    log = recording.images
    taken = to_stamps(recording.motion.times[log.steps])
    offset = round(recording.scene.noise.image_offset * 1e9)
    for stamp, pixels in zip(taken.tolist(), log.images, strict=True):
        message = compose_touch.image(compose, stamp + offset, FINGER, pixels)
        yield _record(IMAGE_TOPIC, stamp, message)


def _truth(recording: PushRecording, compose: Composer) -> Iterator[Record]:
    motion = recording.motion
    stamps = to_stamps(motion.times[::TRUTH_STEP]).tolist()
    for topic, poses in ((TRUTH_TOPIC, motion.object), (TRUTH_EE_TOPIC, motion.ee)):
        for stamp, pose in zip(stamps, poses[::TRUTH_STEP], strict=True):
            message = compose.pose_stamped(stamp, WORLD, spatial_pose(pose))
            yield _record(topic, stamp, message)


def _trajectory(times: Array, planar: Array) -> Trajectory:
    stamps: Stamps = to_stamps(times)
    return Trajectory(stamps, spatial_pose(planar))
