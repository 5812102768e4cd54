"""Each sensor type alone, through the node in a process of its own on real DDS."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

pytest.importorskip("rclpy")
pytest.importorskip("dnls_ros.srv")

from node_rig import (
    COMPOSE,
    SERVICE_NAME,
    SPEED,
    TURN,
    accounts,
    error,
    planar_of,
    pose_at,
    spatial,
    stamp_of,
    truth,
    wait_for,
    wait_for_subscriptions,
    write_params,
)
from rclpy.qos import QoSProfile, ReliabilityPolicy

from dnls_ros.io.convert import covariance_from_ros
from dnls_ros.ros.live import NodeProcess, free_domain, local_node
from dnls_ros.ros.types import message_class

pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, used by rclpy
]

CAMERA = {"k": [400.0, 0.0, 320.0, 0.0, 400.0, 240.0, 0.0, 0.0, 1.0]}
OPTICAL = Rotation.from_euler("ZYX", [-np.pi / 2, 0.0, -np.pi / 2])  # looking along the body's x
TAGS = {k: np.array([3.0 * np.cos(a), 1.0 + 3.0 * np.sin(a), 0.4]) for k, a in enumerate(
    np.arange(0.0, 2 * np.pi, 0.35))}  # fmt: skip
CORNERS = 0.15 * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=float)
POINTS = {"a": (3.0, 0.0), "b": (0.0, 3.0), "c": (-2.0, -1.0), "d": (2.0, -3.0)}
SIGMA = np.array([0.05, 0.04, 0.03])
TWIST_SIGMA = np.array([0.05, 0.02, 0.05])
STEP_SIGMA = np.array([0.005, 0.004, 0.003])
RATE, DURATION = 10.0, 4.0


def tag_rotation(position: np.ndarray) -> Rotation:
    """Upright, facing the middle of the arc."""
    normal = np.array([0.0, 1.0, position[2]]) - position
    normal /= np.linalg.norm(normal)
    right = np.cross([0.0, 0.0, 1.0], normal)
    return Rotation.from_matrix(np.stack([right, np.cross(normal, right), normal], axis=1))


def write_map(path: Path) -> str:
    tags = [
        {"id": k, "size": 0.3, "pose": {"position": p.tolist(),
         "orientation": tag_rotation(p).as_quat(canonical=True).tolist()}}
        for k, p in TAGS.items()
    ]  # fmt: skip
    points = [{"id": k, "position": [x, y, 0.0]} for k, (x, y) in POINTS.items()]
    path.write_text(yaml.safe_dump({"family": "any", "tags": tags, "landmarks": points}))
    return str(path)


def track_parameters(folder: Path) -> dict[str, Any]:
    """Eight tracks, each with one sensor of its own and nothing else."""
    started = {"mode": "params", "pose": [0.0, 0.0, 0.0], "sigma": [0.02, 0.02, 0.02]}
    moving = {"motion": "constant_velocity", "motion_sigma": [0.05, 0.05, 0.05]}
    landmarks = {"map_file": write_map(folder / "map.yaml")}
    sensors: dict[str, dict[str, Any]] = {
        "pose": {},
        "exact": {"type": "pose"},
        "pose_stamped": {"sigma": SIGMA.tolist()},
        "odometry": {},
        "twist": {"sigma_floor": [1e-6]},
        "relative_pose": {},
        "range_bearing": {"landmarks": landmarks},
        "landmarks": {
            "landmarks": landmarks,
            "sigma": [0.5],
            "camera_info_topic": "camera_info",
            "extrinsic": [0.1, 0.0, 0.3, *OPTICAL.as_euler("xyz").tolist()],
        },
    }
    for name, sensor in sensors.items():
        sensor.setdefault("type", name)
        qos = {"reliability": "reliable", "depth": 2000}
        sensor |= {"track": f"t_{name}", "topic": f"in/{name}", "qos": qos}
    tracks: dict[str, dict[str, Any]] = {f"t_{name}": dict(moving) for name in sensors}
    for name in ("twist", "relative_pose"):
        tracks[f"t_{name}"] = {"motion": "none", "init": dict(started)}
    tracks["t_relative_pose"]["init"]["pose"] = truth(1 / RATE).tolist()  # the end of its first
    for name in ("landmarks", "range_bearing"):
        tracks[f"t_{name}"]["init"] = started | {"sigma": [0.3, 0.3, 0.3]}
    return {
        "world_frame": "map",
        "deterministic": True,
        "tracks": list(tracks),
        "sensors": list(sensors),
        "solver": {"rate": 2.0, "max_iterations": 20},
        "window": {"duration": 10.0},
        "track": tracks,
        "sensor": sensors,
    }


def landmark_message(stamp: int, planar: np.ndarray, rng: np.random.Generator) -> Any:
    """What an ideal camera with half a pixel of noise sees of the tags."""
    body = Rotation.from_euler("z", planar[2])
    camera = body * OPTICAL
    position = np.array([*planar[:2], 0.0]) + body.apply([0.1, 0.0, 0.3])
    kind = message_class("dnls_ros/msg/LandmarkObservation")
    seen = []
    for number, tag in TAGS.items():
        corners = camera.inv().apply(tag + tag_rotation(tag).apply(CORNERS) - position)
        pixels = 400.0 * corners[:, :2] / corners[:, 2:] + [320.0, 240.0]
        inside = (corners[:, 2] > 0.3) & np.all((pixels > 0) & (pixels < [640, 480]), axis=1)
        if inside.all():
            noisy = pixels + rng.normal(0.0, 0.5, pixels.shape)
            seen.append(
                kind(id=f"tag36h11:{number}", pixels=noisy.ravel().tolist(), points=[],
                     sigma_px=0.5, quality=1.0)
            )  # fmt: skip
    header = COMPOSE.header(stamp, "camera")
    array = message_class("dnls_ros/msg/LandmarkObservationArray")
    return array(header=header, k=CAMERA["k"], distortion_model="", d=[], observations=seen)


def messages_at(k: int, rng: np.random.Generator) -> dict[str, Any]:
    """One message of each sensor at step k."""
    seconds = k / RATE
    stamp, now = stamp_of(seconds), truth(seconds)

    def noisy(sigma: np.ndarray) -> np.ndarray:
        x, y, yaw = sigma * rng.normal(size=3)
        cos, sin = np.cos(now[2]), np.sin(now[2])
        return spatial(now + np.array([cos * x - sin * y, sin * x + cos * y, yaw]))

    covariance = np.diag([*SIGMA[:2], 1.0, 1.0, 1.0, SIGMA[2]]) ** 2
    twist = np.array([SPEED, 0, 0, 0, 0, TURN])
    twist[[0, 1, 5]] += TWIST_SIGMA * rng.normal(size=3)
    twist_covariance = np.diag([*TWIST_SIGMA[:2], 1, 1, 1, TWIST_SIGMA[2]]) ** 2
    exact = np.diag([1e-4, 1e-4, 1, 1, 1, 1e-4]) ** 2
    made = {
        "pose": COMPOSE.pose_with_covariance_stamped(stamp, "map", noisy(SIGMA), covariance),
        "exact": COMPOSE.pose_with_covariance_stamped(stamp, "map", spatial(now), exact),
        "pose_stamped": COMPOSE.pose_stamped(stamp, "map", noisy(SIGMA)),
        "odometry": COMPOSE.odometry(
            stamp, "map", "t_odometry", noisy(SIGMA), np.zeros(6), covariance
        ),
        "twist": COMPOSE.twist_with_covariance_stamped(stamp, "t_twist", twist, twist_covariance),
        "range_bearing": range_bearing_message(stamp, now, rng),
        "landmarks": landmark_message(stamp, now, rng),
    }
    if k > 0:
        moved = spatial(truth(1 / RATE) + STEP_SIGMA * rng.normal(size=3))
        noise = np.diag([*STEP_SIGMA[:2], 1, 1, 1, STEP_SIGMA[2]]) ** 2
        before = stamp_of((k - 1) / RATE)
        made["relative_pose"] = COMPOSE.relative_pose(
            before, stamp, "t_relative_pose", moved, noise
        )
    return made


def range_bearing_message(stamp: int, planar: np.ndarray, rng: np.random.Generator) -> Any:
    delta = np.array(list(POINTS.values())) - planar[:2]
    ranges = np.hypot(*delta.T) + 0.05 * rng.normal(size=len(POINTS))
    bearings = np.arctan2(delta[:, 1], delta[:, 0]) - planar[2] + 0.03 * rng.normal(size=4)
    return COMPOSE.range_bearing(
        stamp, "t_range_bearing", list(POINTS), ranges, bearings, (0.05, 0.03)
    )


@pytest.fixture(scope="module")
def eight_tracks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers of get_pose_at for each track at and between its stamps; the node's accounts."""
    folder = tmp_path_factory.mktemp("tracks")
    parameters = track_parameters(folder)
    process = NodeProcess(write_params(folder / "p.yaml", parameters), free_domain())
    answers: dict[str, list[tuple[float, Any]]] = {}
    sent: Counter[str] = Counter()
    try:
        with local_node("sender", free_domain()) as node:
            rng = np.random.default_rng(7)
            first = messages_at(1, rng)
            kinds = {name: type(message) for name, message in first.items()}
            qos = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
            publishers = {
                name: node.create_publisher(kind, f"in/{name}", qos)
                for name, kind in kinds.items()
            }
            wait_for_subscriptions(process, list(publishers.values()))
            count = int(DURATION * RATE)
            for k in range(count + 1):
                for name, message in messages_at(k, rng).items():
                    publishers[name].publish(message)
                    sent[name] += 1
            client = node.create_client(message_class("dnls_ros/srv/GetPoseAt"), SERVICE_NAME)
            last = DURATION - 1 / RATE
            for name in sorted(kinds):
                track = f"t_{name}"
                wait_for(
                    lambda track=track: pose_at(client, last - 0.45, track).success,
                    60.0,
                    f"a pose of {track}",
                )
                times = np.arange(1.0, last - 0.5, 0.25 / RATE)
                answers[name] = [(t, pose_at(client, t, track)) for t in times]
    finally:
        code = process.stop()
        print(process.log())
    return answers, sent, accounts(process.log()), code


PREDICTED = ("pose", "pose_stamped", "odometry", "twist", "relative_pose", "range_bearing",
             "landmarks")  # fmt: skip


@pytest.mark.parametrize("name", PREDICTED)
def test_each_sensor_type_alone_gives_the_error_that_its_noise_predicts(eight_tracks, name):
    answers, *_ = eight_tracks
    errors, sigmas, nees = [], [], []
    for seconds, answer in answers[name]:
        assert answer.success, answer.message
        pose = planar_of(answer.pose.pose.pose)
        ros = np.array(answer.pose.pose.covariance).reshape(6, 6)
        tangent = covariance_from_ros(ros, spatial(pose))[np.ix_([0, 1, 5], [0, 1, 5])]
        delta = error(pose, truth(seconds))
        errors.append(delta)
        sigmas.append(np.diag(tangent))
        nees.append(delta @ np.linalg.solve(tangent, delta) / 3)
    rmse = np.sqrt(np.mean(np.square(errors), axis=0))
    predicted = np.sqrt(np.mean(sigmas, axis=0))
    print(f"{name}: rmse {rmse}, predicted {predicted}, NEES/dof {np.mean(nees):.2f}")
    assert np.all(rmse < 2.5 * predicted)
    assert 0.05 < np.mean(nees) < 3.0
    if name in ("pose", "pose_stamped", "odometry"):
        assert np.all(rmse < 0.75 * SIGMA)  # better than any single measurement


def test_the_pose_between_two_states_is_exact_without_noise(eight_tracks):
    answers, *_ = eight_tracks
    for seconds, answer in answers["exact"]:
        delta = error(planar_of(answer.pose.pose.pose), truth(seconds))
        assert np.linalg.norm(delta[:2]) < 1e-3, seconds
        assert abs(delta[2]) < 1e-3, seconds


def test_every_message_sent_is_in_the_accounts(eight_tracks):
    _, sent, found, code = eight_tracks
    assert code == 0
    for name, count in sent.items():
        account = found[name]
        assert account["received"] == count
        assert account["received"] * 2 == account.total()
