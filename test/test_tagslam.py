"""Real recordings of AprilTags through the estimator: corners in, path and map out.

The reference poses are only compared with. Corners are counted in the recording itself, and their
residuals are taken with OpenCV's projection, which the estimator's costs do not use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dnls_ros.costs import tag_corners
from dnls_ros.io.bag import BagReader
from dnls_ros.io.convert import pose_from_fields, stamp_to_ns
from dnls_ros.io.evaluation import EvaluationOptions, evaluate
from dnls_ros.io.replay import ReplayOptions, ReplayResult, replay
from dnls_ros.io.trajectory import Trajectory
from dnls_ros.io.yaml_files import load_tagslam_cameras
from dnls_ros.lie import SE3
from dnls_ros.problem import FactorGroup
from dnls_ros.window.bodies import pose_of_rpy
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.estimator import Smoothed
from dnls_ros.window.landmark_file import read_landmark_map
from dnls_ros.window.measurements import CameraIntrinsics, Reason
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.reprojection import project
from dnls_ros.window.rigid import compose, inverse
from dnls_ros.window.state import LANDMARK

Array = NDArray[np.float64]
Find = Callable[[str], Path]

CONFIG = Path(__file__).parents[1] / "config" / "tags_se3.yaml"
TAGS = {"default_size": 0.12}
BOARDS = {
    "boards": [
        {
            "name": f"board {first}",
            "grid": {"rows": 2, "columns": 3, "first_id": first, "size": 0.12, "spacing": 0.25},
        }
        for first in (*range(6, 73, 6), *range(84, 103, 6))
    ]
}
STAIRS = {
    "default_size": 0.16,
    "sizes": dict.fromkeys(range(100, 109), 0.1),
    "tags": [
        {
            "id": 2,
            "pose": {
                "position": [0.93840377, -0.51000614, 0.13412727],
                "orientation": Rotation.from_rotvec([1.06798425, -1.0944786, -1.25097143])
                .as_quat()
                .tolist(),
            },
        }
    ],
}
ODOMETRY = {
    "type": "odometry",
    "topic": "/vio_node/odom",
    "differential": True,
    "covariance": "fixed",
    "sigma": [0.01, 0.01, 0.01, 0.005, 0.005, 0.005],
    "extrinsic": [
        *(0.010699568, 0.0, 0.0),
        *Rotation.from_rotvec([0.0135696, -0.0062165, 3.1391944]).as_euler("xyz").tolist(),
    ],
}


@dataclass
class Dataset:
    """One recording, and where its files for the estimator are put."""

    folder: Path
    work: Path
    cameras: dict[str, CameraIntrinsics] = field(default_factory=dict)
    topics: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, camera in load_tagslam_cameras(self.folder / "cameras.yaml").items():
            self.cameras[name], self.topics[name] = camera.intrinsics, camera.tag_topic
            write_calibration(self.work / f"{name}.yaml", camera.intrinsics)

    @property
    def bag(self) -> Path:
        return self.folder / "tag_detections.bag.bz2"

    def detections(self, duration: float | None = None) -> list[tuple[str, int, int, Array]]:
        """Camera, stamp [ns], tag and corners (4, 2) [px] of everything that was detected."""
        names = {topic: name for name, topic in self.topics.items()}
        seen: list[tuple[str, int, int, Array]] = []
        with BagReader(self.bag) as bag:
            end = None if duration is None else bag.start + round(duration * 1e9)
            for record in bag.records(list(names), None, end):
                stamp = stamp_of(record.message)
                for tag in record.message.apriltags:
                    corners = np.array([[c.x, c.y] for c in tag.corners])
                    seen.append((names[record.topic], stamp, int(tag.id), corners))
        return seen

    def reference(self) -> Trajectory:
        poses: dict[int, Array] = {}
        with BagReader(self.folder / "reference.bag.bz2") as bag:
            for record in bag.records(["/tagslam/odom/body_rig"]):
                pose = pose_from_fields(record.message.pose.pose)
                poses[stamp_of(record.message)] = pose
        stamps = sorted(poses)
        return Trajectory(np.array(stamps), np.array([poses[s] for s in stamps]))

    def mountings(self) -> dict[str, list[float]]:
        """rig_T_camera as x y z roll pitch yaw."""
        found: dict[str, list[float]] = {}
        with BagReader(self.folder / "reference.bag.bz2") as bag:
            for record in bag.records(["/tf"]):
                for tf in record.message.transforms:
                    if tf.header.frame_id == "rig":
                        t, q = tf.transform.translation, tf.transform.rotation
                        turn = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_euler("xyz")
                        found[tf.child_frame_id] = [t.x, t.y, t.z, *turn.tolist()]
        return found


def stamp_of(message: Any) -> int:
    return stamp_to_ns(message.header.stamp.sec, message.header.stamp.nanosec)


def write_calibration(path: Path, camera: CameraIntrinsics) -> None:
    """A ROS camera calibration."""
    (fx, fy), (cx, cy) = camera.focal, camera.center
    content = {
        "image_width": camera.width,
        "image_height": camera.height,
        "distortion_model": camera.distortion_model,
        "camera_matrix": {"data": [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]},
        "distortion_coefficients": {"data": list(camera.coefficients)},
    }
    path.write_text(yaml.safe_dump(content))


def configuration(
    data: Dataset,
    landmarks: Mapping[str, Any],
    camera: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    init: Mapping[str, Any] | None = None,
    solver: Mapping[str, Any] | None = None,
) -> EstimatorConfig:
    """The shipped configuration with a recording's cameras, ``more`` sensors and a map."""
    (data.work / "map.yaml").write_text(yaml.safe_dump(dict(landmarks)))
    content = yaml.safe_load(CONFIG.read_text())["dnls_estimator"]["ros__parameters"]
    shipped, mountings = content["sensor"]["tags"], data.mountings()
    del shipped["camera_info_topic"]
    content["sensor"] = {
        name: {
            **shipped,
            "topic": topic,
            "extrinsic": mountings[name],
            "landmarks": {"map_file": "map.yaml"},
            "camera": {"calibration_file": f"{name}.yaml"},
            **(camera or {}),
        }
        for name, topic in data.topics.items()
    } | dict(more or {})
    content |= {"sensors": list(content["sensor"]), "deterministic": True}
    content["track"]["rig"]["init"] |= init or {}
    content["solver"] |= solver or {}
    return load_parameters(content, base=data.work)


def residuals(
    data: Dataset, config: EstimatorConfig, full: Smoothed, duration: float | None = None
) -> Array:
    """‖projected − detected‖ of all detected corners [px]; infinite where no pose is known."""
    landmarks = read_landmark_map(config.sensors[0].landmarks.map_file)
    element = full.solution.values[LANDMARK]
    assert isinstance(element, SE3)
    keys = full.solution.values.ids[LANDMARK].tolist()
    bodies = dict(zip(keys, element[0].normalized().tensor.numpy(), strict=True))
    bodies |= {b.key: b.pose for b in landmarks.bodies if b.pose is not None}
    mounts = {name: pose_of_rpy(config.sensor(name).mount) for name in data.cameras}
    least_gap = round(config.window.min_state_gap * 1e9)
    norms: list[Array] = []
    for name, stamp, number, corners in data.detections(duration):
        tag, nearest = landmarks.tag(number), int(np.argmin(np.abs(full.stamps - stamp)))
        shared = abs(int(full.stamps[nearest]) - stamp) <= least_gap  # images may share a state
        if tag is None or tag.body.key not in bodies or not shared:
            norms.append(np.full(4, np.inf))
            continue
        camera_T_body = compose(
            inverse(compose(full.poses[nearest], mounts[name])), bodies[tag.body.key]
        )
        pixels = project(tag.corners, camera_T_body, data.cameras[name])
        norms.append(np.linalg.norm(pixels - corners, axis=1))
    return np.concatenate(norms)


def corner_factors(full: Smoothed) -> int:
    """How many corners the full solution was made from."""
    counts = [
        4 * group.count
        for group in full.solution.assembly.problem.values()
        if isinstance(group, FactorGroup) and group.cost is tag_corners
    ]
    return sum(counts)


@dataclass(frozen=True)
class Outcome:
    """What came out of one recording: of the window, and of all its images together."""

    replayed: ReplayResult
    full: Smoothed
    norms: Array
    ate: float
    ate_window: float

    @property
    def lost(self) -> int:
        """Corners that no pose explains, those of images that came before the track's start."""
        return int(np.isinf(self.norms).sum())

    def __str__(self) -> str:
        steps = 1e3 * np.array([sum(s.seconds.values()) for s in self.replayed.steps])
        p50, p90 = np.percentile(self.norms, [50, 90])
        return (
            f"{len(self.norms)} corners, {self.lost} lost, median {p50:.4f} px, p90 {p90:.4f} px, "
            f"ATE full {1e3 * self.ate:.2f} mm, window {1e3 * self.ate_window:.2f} mm; "
            f"{len(self.full.stamps)} states, step p50 {np.percentile(steps, 50):.0f} ms, "
            f"p95 {np.percentile(steps, 95):.0f} ms; {self.full.solution.status[0].value}"
        )


def run(data: Dataset, config: EstimatorConfig, duration: float | None = None) -> Outcome:
    replayed = replay(data.bag, config, ReplayOptions(full=True, duration=duration))
    full, reference = replayed.estimator.smooth(), data.reference()
    norms = residuals(data, config, full, duration)
    whole, window = (
        evaluate(estimate, reference, EvaluationOptions(align="se3")).translation.rmse
        for estimate in (Trajectory(full.stamps, full.poses), replayed.smoothed("rig"))
    )
    outcome = Outcome(replayed, full, norms, whole, window)
    print(outcome)
    for counters in replayed.estimator.counters.values():
        assert counters.balanced
    assert all(step.accepted for step in replayed.steps)
    assert corner_factors(full) == np.isfinite(norms).sum()
    return outcome


@pytest.fixture(scope="module")
def dataset(dnls_data: Find, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Dataset]:
    def find(number: int) -> Dataset:
        folder = dnls_data(f"rosbag/tagslam_test/tests/test_{number}")
        return Dataset(folder, tmp_path_factory.mktemp(f"test_{number}"))

    return find


@pytest.mark.parametrize(
    ("landmarks", "median", "p90"),
    [pytest.param(TAGS, 0.13, 0.30, id="tags"), pytest.param(BOARDS, 0.20, 0.45, id="boards")],
)
def test_the_first_images_of_a_tour_become_a_path_and_a_map(
    dataset: Callable[[int], Dataset], landmarks: Mapping[str, Any], median: float, p90: float
) -> None:
    data = dataset(13)
    outcome = run(data, configuration(data, landmarks), duration=21.0)
    counters = outcome.replayed.estimator.counters["cam0"]
    assert counters.received == counters.accepted >= 50
    assert len(outcome.norms) > 2500
    assert outcome.lost == 0
    assert np.median(outcome.norms) <= median
    assert np.percentile(outcome.norms, 90) <= p90
    assert outcome.ate <= 0.008
    assert outcome.ate_window <= 3 * outcome.ate


@pytest.mark.slow
@pytest.mark.parametrize(
    ("landmarks", "bodies", "median", "p90", "ate"),
    [
        pytest.param(TAGS, 96, 0.23, 0.50, 0.008, id="tags"),
        pytest.param(BOARDS, 16, 0.27, 0.56, 0.005, id="boards"),
    ],
)
def test_every_corner_of_a_tour_is_explained(
    dataset: Callable[[int], Dataset],
    landmarks: Mapping[str, Any],
    bodies: int,
    median: float,
    p90: float,
    ate: float,
) -> None:
    data = dataset(13)
    outcome = run(data, configuration(data, landmarks))
    counters = outcome.replayed.estimator.counters["cam0"]
    assert (counters.received, counters.accepted) == (681, 681)
    assert (len(outcome.norms), outcome.lost) == (51384, 0)
    assert len(outcome.full.stamps) == 680  # one image shows nothing
    assert len(outcome.full.solution.values.ids[LANDMARK]) == bodies
    assert np.median(outcome.norms) <= median
    assert np.percentile(outcome.norms, 90) <= p90
    assert outcome.ate <= ate
    assert outcome.ate_window <= 3 * outcome.ate


@pytest.mark.slow
def test_four_cameras_on_one_rig_share_their_states(dataset: Callable[[int], Dataset]) -> None:
    data = dataset(7)
    # The cameras' stamps are equal but their shutters are not: fast motion makes outliers.
    camera = {"robust": "cauchy", "robust_scale": 4.0}
    outcome = run(data, configuration(data, {"default_size": 0.15}, camera))
    for counters in outcome.replayed.estimator.counters.values():
        assert (counters.received, counters.accepted) == (454, 454)
    assert (len(outcome.norms), outcome.lost) == (12940, 0)
    assert len(outcome.full.stamps) == 347  # the images of the others show nothing
    assert np.median(outcome.norms) <= 0.30
    assert outcome.ate <= 0.010
    assert outcome.ate_window <= 3 * outcome.ate


@pytest.mark.slow
def test_cameras_without_common_stamps_are_tied_by_odometry(
    dataset: Callable[[int], Dataset],
) -> None:
    data = dataset(21)
    config = configuration(
        data,
        STAIRS,
        camera={"ignition": True},
        more={"odometry": ODOMETRY},
        init={"mode": "first_measurement"},
        solver={"trigger": "rate", "rate": 5.0},  # that of the cameras; odometry has 30 Hz
    )
    outcome = run(data, config)
    for name, counters in outcome.replayed.estimator.counters.items():
        late = counters.rejected.get(Reason.TOO_LATE, 0)
        assert counters.received == counters.accepted + late
        assert late <= (0 if name == "odometry" else 39)  # before the tag of known place is seen
    assert len(outcome.norms) == 12316
    assert outcome.lost <= 0.06 * len(outcome.norms)  # in those images
    assert np.median(outcome.norms) <= 0.20
    assert outcome.ate <= 0.005
    assert outcome.ate_window <= 3 * outcome.ate
