"""A simulated run as files: rosbag2 (mcap), true trajectory, landmark map, camera calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.spatial.transform import Rotation

from dnls_ros.io.bag import BagWriter, Record
from dnls_ros.io.files import write_text
from dnls_ros.io.scene import Array, CameraSensor, Scene, Tag
from dnls_ros.io.sim_messages import (
    ABSOLUTE_TOPIC,
    CAMERA_INFO_TOPIC,
    DETECTIONS_TOPIC,
    IMU_TOPIC,
    ODOMETRY_TOPIC,
    STATIC_TF_TOPIC,
    TF_TOPIC,
    TRUTH_TOPIC,
    recording_records,
    spatial_pose,
)
from dnls_ros.io.simulate import Recording
from dnls_ros.io.trajectory import Trajectory, write_tum

TOPIC_TYPES = {
    ODOMETRY_TOPIC: "nav_msgs/msg/Odometry",
    DETECTIONS_TOPIC: "apriltag_msgs/msg/AprilTagDetectionArray",
    CAMERA_INFO_TOPIC: "sensor_msgs/msg/CameraInfo",
    ABSOLUTE_TOPIC: "geometry_msgs/msg/PoseWithCovarianceStamped",
    TRUTH_TOPIC: "geometry_msgs/msg/PoseStamped",
    IMU_TOPIC: "sensor_msgs/msg/Imu",
    TF_TOPIC: "tf2_msgs/msg/TFMessage",
    STATIC_TF_TOPIC: "tf2_msgs/msg/TFMessage",
}
"""A simulated run's topics; all are announced in the bag, even if faults leave one empty."""


@dataclass(frozen=True)
class RecordingFiles:
    """Where ``write_recording`` put a run."""

    bag: Path
    truth: Path
    landmarks: Path
    camera: Path


def write_recording(
    recording: Recording,
    out_dir: Path | str,
    records: Iterable[Record] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int], object] | None = None,
) -> RecordingFiles:
    """Writes ``bag/``, ``truth.tum``, ``landmarks.yaml`` and ``camera.yaml`` into a folder.

    Args:
        recording: The run.
        out_dir: The folder, made where it is missing.
        records: What the bag holds: None for the run's own messages, else those after faults.
        overwrite: Replace an earlier recording there.
        on_progress: Called with the number of messages written so far, every hundred.

    Raises:
        DnlsError: There is something at ``out_dir/bag`` and it may not be replaced.
    """
    folder = Path(out_dir)
    files = RecordingFiles(
        folder / "bag", folder / "truth.tum", folder / "landmarks.yaml", folder / "camera.yaml"
    )
    with BagWriter(files.bag, overwrite) as bag:
        for topic, type_name in TOPIC_TYPES.items():
            bag.add_topic(topic, type_name)
        for record in recording_records(recording) if records is None else records:
            bag.write(record.topic, record.message, record.receive_stamp)
            if on_progress is not None and bag.count % 100 == 0:
                on_progress(bag.count)
    write_tum(files.truth, truth_trajectory(recording))
    write_text(files.landmarks, _yaml(landmark_map(recording.scene)))
    write_text(files.camera, _yaml(camera_calibration(recording.scene.camera)))
    return files


def truth_trajectory(recording: Recording) -> Trajectory:
    """The true poses at the truth rate and at every sensor's stamps."""
    return Trajectory(recording.truth_stamps, spatial_pose(recording.truth))


def odometry_trajectory(recording: Recording) -> Trajectory:
    """Odometry alone: its poses chained onto the true first pose."""
    first = recording.truth[np.searchsorted(recording.truth_stamps, recording.odometry.stamps[0])]
    cos, sin = np.cos(first[2]), np.sin(first[2])
    planar = recording.odometry.poses.copy()
    planar[:, :2] = planar[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + first[:2]
    planar[:, 2] += first[2]
    return Trajectory(recording.odometry.stamps, spatial_pose(planar))


def landmark_map(scene: Scene) -> dict[str, Any]:
    """The scene's tags as a landmark map: true poses, world_T_tag."""
    return {"family": scene.family, "tags": [_tag(tag) for tag in scene.tags]}


def camera_calibration(camera: CameraSensor) -> dict[str, Any]:
    """The camera in ROS's calibration format, with its mount added as ``extrinsic``.

    The mount is base_T_camera as x y z roll pitch yaw [m, rad], as the estimator's parameter takes
    it.
    """
    (fx, fy), (cx, cy) = camera.focal, camera.center
    matrix = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    yaw_pitch_roll = Rotation.from_matrix(camera.base_R_camera).as_euler("ZYX")
    projection = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return {
        "camera_name": "camera",
        "image_width": camera.size[0],
        "image_height": camera.size[1],
        "camera_matrix": {"rows": 3, "cols": 3, "data": matrix},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": list(camera.distortion)},
        "rectification_matrix": {"rows": 3, "cols": 3, "data": np.eye(3).ravel().tolist()},
        "projection_matrix": {"rows": 3, "cols": 4, "data": projection},
        "extrinsic": [*camera.base_p_camera.tolist(), *yaw_pitch_roll[::-1].tolist()],
    }


def _tag(tag: Tag) -> dict[str, Any]:
    return {"id": tag.id, "size": tag.size, "pose": _pose(tag.position, tag.rotation)}


def _pose(position: Array, rotation: Array) -> dict[str, list[float]]:
    turn = Rotation.from_matrix(rotation).as_quat(canonical=True)
    return {"position": position.tolist(), "orientation": turn.tolist()}


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=99)
