"""A simulated run as the ROS 2 messages that real drivers would publish, in order of receive time.

The camera's tags come as the AprilTag 3 detector reports them: corners from the upright tag's
bottom left one counter- clockwise, the homography from the tag's square [-1, 1]² (x right, y down)
to pixels, the centre from it. The robot moves on a plane: z, roll and pitch are zero with a small
variance. Receive times are stamps plus each sensor's latency.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from dnls_ros.io.bag import Record
from dnls_ros.io.compose import Composer
from dnls_ros.io.convert import spatial_covariance
from dnls_ros.io.definitions import message_class
from dnls_ros.io.scene import Array, CameraSensor
from dnls_ros.io.sim_camera import Detection
from dnls_ros.io.simulate import Recording
from dnls_ros.window.measurements import CameraIntrinsics

ODOMETRY_TOPIC = "odom"
DETECTIONS_TOPIC = "camera/tag_detections"
CAMERA_INFO_TOPIC = "camera/camera_info"
ABSOLUTE_TOPIC = "gps_pose"
TRUTH_TOPIC = "ground_truth"
IMU_TOPIC = "imu"
TF_TOPIC = "tf"
STATIC_TF_TOPIC = "tf_static"

_PLANE_VARIANCE = 1e-6  # of z, roll and pitch [m², rad²] and of their rates

# The detector's square as its four corners, in its order and its frame (y down).
_SQUARE = np.array([[-1.0, 1.0], [1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])


def recording_records(recording: Recording) -> list[Record]:
    """All messages of a run in order of receive time."""
    compose = Composer(message_class)
    records = [
        *_odometry(recording, compose),
        *_camera(recording, compose),
        *_absolute(recording, compose),
        *_truth(recording, compose),
        *_imu(recording, compose),
        *_transforms(recording, compose),
    ]
    return sorted(records, key=lambda record: record.receive_stamp)


def spatial_pose(planar: Array) -> Array:
    """Poses (…, 7) of planar ones (…, 3) = (x, y, yaw)."""
    pose = np.zeros((*planar.shape[:-1], 7))
    pose[..., :2] = planar[..., :2]
    pose[..., 5], pose[..., 6] = np.sin(planar[..., 2] / 2), np.cos(planar[..., 2] / 2)
    return pose


def camera_intrinsics(camera: CameraSensor) -> CameraIntrinsics:
    """The simulated camera as CameraInfo and calibration files describe it."""
    return CameraIntrinsics(
        focal=camera.focal,
        center=camera.center,
        distortion_model="plumb_bob",
        coefficients=camera.distortion,
        width=camera.size[0],
        height=camera.size[1],
    )


def _record(topic: str, receive_stamp: int, message: Any) -> Record:
    return Record(topic, message.__msgtype__, receive_stamp, message)


def _received(stamp: int, latency: float) -> int:
    return stamp + round(latency * 1e9)


def with_planar_covariance(message: Any, planar: Array) -> Any:
    """A copy with the covariance (3, 3) of (x, y, yaw) in the message's own axes."""
    spatial = spatial_covariance(planar, _PLANE_VARIANCE).reshape(36)
    return dataclasses.replace(message, covariance=spatial)


def _odometry(recording: Recording, compose: Composer) -> Iterator[Record]:
    log, frames = recording.odometry, recording.scene.frames
    twists = np.zeros((len(log.stamps), 6))
    twists[:, [0, 1, 5]] = log.twists
    for k, stamp in enumerate(log.stamps.tolist()):
        pose = spatial_pose(log.poses[k])
        message = compose.odometry(stamp, frames.odom, frames.base, pose, twists[k])
        message = dataclasses.replace(
            message,
            pose=with_planar_covariance(message.pose, log.pose_covariances[k]),
            twist=with_planar_covariance(message.twist, log.twist_covariance),
        )
        received = _received(stamp, recording.scene.odometry.latency)
        yield _record(ODOMETRY_TOPIC, received, message)


def _absolute(recording: Recording, compose: Composer) -> Iterator[Record]:
    log, scene = recording.absolute, recording.scene
    poses = spatial_pose(log.poses)
    for stamp, pose in zip(log.stamps.tolist(), poses, strict=True):
        message = compose.pose_with_covariance_stamped(stamp, scene.frames.world, pose, None)
        covered = with_planar_covariance(message.pose, log.covariance)
        received = _received(stamp, scene.absolute.latency)
        yield _record(ABSOLUTE_TOPIC, received, dataclasses.replace(message, pose=covered))


def _truth(recording: Recording, compose: Composer) -> Iterator[Record]:
    """The truth at its own rate, received at once."""
    places = np.searchsorted(recording.truth_stamps, recording.truth_grid)
    poses = spatial_pose(recording.truth[places])
    for stamp, pose in zip(recording.truth_grid.tolist(), poses, strict=True):
        message = compose.pose_stamped(stamp, recording.scene.frames.world, pose)
        yield _record(TRUTH_TOPIC, stamp, message)


def _camera(recording: Recording, compose: Composer) -> Iterator[Record]:
    scene, frame = recording.scene, recording.scene.frames.camera
    intrinsics = camera_intrinsics(scene.camera)
    images = zip(recording.images.stamps.tolist(), recording.images.detections, strict=True)
    for stamp, found in images:
        received = _received(stamp, scene.camera.latency)
        info = compose.camera_info(stamp, frame, intrinsics)
        yield _record(CAMERA_INFO_TOPIC, received, info)
        yield _record(
            DETECTIONS_TOPIC, received, _tags(stamp, scene.family, frame, found, compose)
        )


def _imu(recording: Recording, compose: Composer) -> Iterator[Record]:
    log, scene, sigma = recording.imu, recording.scene, recording.scene.imu
    if log is None or sigma is None:
        return
    angles = np.square(sigma.orientation_sigma)
    readings = zip(log.stamps.tolist(), log.orientations, log.rates, log.forces, strict=True)
    for stamp, orientation, rate, force in readings:
        message = message_class("sensor_msgs/msg/Imu")(
            header=compose.header(stamp, scene.frames.imu),
            orientation=compose.quaternion(orientation),
            orientation_covariance=np.diag(angles).reshape(9),
            angular_velocity=compose.vector(rate),
            angular_velocity_covariance=(sigma.gyro_sigma**2 * np.eye(3)).reshape(9),
            linear_acceleration=compose.vector(force),
            linear_acceleration_covariance=(sigma.acceleration_sigma**2 * np.eye(3)).reshape(9),
        )
        yield _record(IMU_TOPIC, _received(stamp, sigma.latency), message)


def _transforms(recording: Recording, compose: Composer) -> Iterator[Record]:
    """The mounts at the start, and where the odometry has the base, with each of its messages."""
    log, scene = recording.odometry, recording.scene
    frames, start = scene.frames, int(log.stamps[0])
    tf_message = message_class("tf2_msgs/msg/TFMessage")
    mounts = {frames.camera: (scene.camera.base_p_camera, scene.camera.base_R_camera)}
    if scene.imu is not None:
        mounts[frames.imu] = scene.imu.base_p_imu, scene.imu.base_R_imu
    static = [
        compose.transform_stamped(start, frames.base, child, _mount(position, rotation))
        for child, (position, rotation) in mounts.items()
    ]
    yield _record(STATIC_TF_TOPIC, start, tf_message(transforms=static))
    for stamp, pose in zip(log.stamps.tolist(), spatial_pose(log.poses), strict=True):
        moved = compose.transform_stamped(stamp, frames.odom, frames.base, pose)
        received = _received(stamp, scene.odometry.latency)
        yield _record(TF_TOPIC, received, tf_message(transforms=[moved]))


def _mount(position: Array, rotation: Array) -> Array:
    """A pose (7,)."""
    return np.concatenate([position, Rotation.from_matrix(rotation).as_quat(canonical=True)])


def _tags(
    stamp: int, family: str, frame: str, found: tuple[Detection, ...], compose: Composer
) -> Any:
    tags = [(family, one.id, one.corners, one.margin) for one in found]
    message = compose.april_tags(stamp, frame, tags)
    complete = [
        _with_homography(tag, one.corners)
        for tag, one in zip(message.detections, found, strict=True)
    ]
    return dataclasses.replace(message, detections=complete)


def _with_homography(tag: Any, corners: Array) -> Any:
    """A copy of a detection with its corners' homography and the centre that follows."""
    homography = homography_of(corners)
    centre = dataclasses.replace(tag.centre, x=float(homography[0, 2]), y=float(homography[1, 2]))
    return dataclasses.replace(tag, centre=centre, homography=homography.reshape(9))


def homography_of(corners: Array) -> Array:
    """The projective map (3, 3) of the detector's square onto the corners (4, 2) [px]."""
    system, right = np.zeros((8, 8)), corners.ravel()
    for k, (x, y) in enumerate(_SQUARE):
        u, v = corners[k]
        system[2 * k] = [x, y, 1, 0, 0, 0, -u * x, -u * y]
        system[2 * k + 1] = [0, 0, 0, x, y, 1, -v * x, -v * y]
    return np.append(np.linalg.solve(system, right), 1.0).reshape(3, 3)
