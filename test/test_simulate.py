"""The simulator: honest noise, the detector's corner order, equal bytes from equal seeds."""

from __future__ import annotations

import ast
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

import dnls_ros.io.simulate as simulation
from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.bag import Record, read_bag
from dnls_ros.io.messages import adapt
from dnls_ros.io.metrics import ate
from dnls_ros.io.recording import (
    RecordingFiles,
    camera_calibration,
    odometry_trajectory,
    truth_trajectory,
    write_recording,
)
from dnls_ros.io.scene import Scene, default_scene_path, load_scene
from dnls_ros.io.sim_messages import homography_of, recording_records
from dnls_ros.io.sim_motion import make_lap, to_seconds, wrap
from dnls_ros.io.simulate import Recording, simulate
from dnls_ros.io.trajectory import Trajectory, read_tum
from dnls_ros.io.yaml_files import load_camera_calibration
from dnls_ros.window.landmark_file import read_landmark_map
from dnls_ros.window.landmark_map import LandmarkMap
from dnls_ros.window.measurements import (
    LandmarkMeasurement,
    OdometryMeasurement,
    PoseMeasurement,
)

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return load_scene()


@pytest.fixture(scope="module")
def run(scene: Scene) -> Recording:
    return simulate(3, 60.0, scene)


@pytest.fixture(scope="module")
def records(run: Recording) -> list[Record]:
    return recording_records(run)


@pytest.fixture(scope="module")
def files(run: Recording, tmp_path_factory: pytest.TempPathFactory) -> RecordingFiles:
    return write_recording(run, tmp_path_factory.mktemp("run"))


def true_at(run: Recording, stamps: np.ndarray) -> np.ndarray:
    return run.truth[np.searchsorted(run.truth_stamps, stamps)]


def start_of(run: Recording) -> float:
    """The fraction of the route at which a run begins: its first random number."""
    return np.random.default_rng(np.random.SeedSequence(run.seed).spawn(5)[0]).uniform()


def quiet(scene: Scene) -> Scene:
    """The scene without biases and slips."""
    slip = dataclasses.replace(scene.odometry.slip, magnitude=0.0, yaw_rate=0.0)
    odometry = dataclasses.replace(scene.odometry, scale_error=0.0, yaw_bias=0.0, slip=slip)
    return dataclasses.replace(scene, odometry=odometry)


def blind(scene: Scene) -> Scene:
    """The scene without tags, which is quicker to simulate."""
    return dataclasses.replace(scene, tags=())


def world_points(landmarks: LandmarkMap, tag: str) -> np.ndarray:
    """The corners of a tag of known pose in the world (4, 3) [m]."""
    seen = landmarks.observe(tag)
    assert seen is not None
    assert seen.body.pose is not None
    pose = np.asarray(seen.body.pose, dtype=float)
    return Rotation.from_quat(pose[3:]).apply(seen.points) + pose[:3]


def projected(tag: str, run: Recording, image: int, landmarks: LandmarkMap) -> np.ndarray:
    """Exact corners in our order, from the written map and calibration, by OpenCV."""
    world = world_points(landmarks, tag)
    x, y, yaw = true_at(run, run.images.stamps[image : image + 1])[0]
    base = Rotation.from_euler("z", yaw).inv().apply(world - [x, y, 0.0])
    camera = run.scene.camera
    optical = (base - camera.base_p_camera) @ camera.base_R_camera
    (fx, fy), (cx, cy) = camera.focal, camera.center
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    distortion = np.array(camera.distortion)
    pixels, _ = cv2.projectPoints(optical, np.zeros(3), np.zeros(3), matrix, distortion)
    return pixels.reshape(-1, 2)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    scene: Scene, tmp_path: Path
) -> None:
    def content(seed: int, name: str) -> dict[str, bytes]:
        folder = tmp_path / name
        write_recording(simulate(seed, 2.0, scene), folder)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    first = content(5, "a")
    assert first == content(5, "b")
    assert first["bag/bag.mcap"] != content(6, "c")["bag/bag.mcap"]


def test_odometry_alone_drifts_by_decimetres_for_every_demo_seed(scene: Scene) -> None:
    for seed in range(10):
        run = simulate(seed, 60.0, blind(scene))
        chained = odometry_trajectory(run)
        truth = Trajectory(chained.stamps, truth_at(run, chained))
        assert 0.2 < ate(chained, truth).rmse < 0.8


def truth_at(run: Recording, trajectory: Trajectory) -> np.ndarray:
    return truth_trajectory(run).at(trajectory.stamps)


def test_the_robot_moves_smoothly_inside_the_room_at_the_asked_speed(run: Recording) -> None:
    grid = true_at(run, run.truth_grid)
    assert np.all(np.abs(grid[:, :2]) < [3.5, 2.5])
    speed = np.linalg.norm(np.diff(grid[:, :2], axis=0), axis=1) * run.scene.truth_rate
    assert np.mean(speed) == pytest.approx(0.5, abs=0.02)
    assert np.max(np.abs(np.diff(speed))) < 0.01
    turn = wrap(np.diff(grid[:, 2])) * run.scene.truth_rate
    assert np.max(np.abs(turn)) < 2.0
    heading = np.arctan2(np.diff(grid[:, 1]), np.diff(grid[:, 0]))
    assert np.max(np.abs(wrap(heading - grid[:-1, 2] - turn / run.scene.truth_rate / 2))) < 1e-3


def test_absolute_poses_err_by_what_their_covariance_claims(scene: Scene) -> None:
    squares = []
    for seed in range(5):
        run = simulate(seed, 60.0, blind(scene))
        error = run.absolute.poses - true_at(run, run.absolute.stamps)
        error[:, 2] = wrap(error[:, 2])
        whitened = error / np.sqrt(np.diag(run.absolute.covariance))
        squares.append(np.sum(whitened**2))
    low, high = chi2.ppf([0.005, 0.995], 5 * len(error) * 3)
    assert low < sum(squares) < high


def test_without_bias_and_slip_the_twists_err_by_what_their_covariance_claims(
    scene: Scene,
) -> None:
    run = simulate(0, 60.0, blind(quiet(scene)))
    steps = relative_twists(true_at(run, run.odometry.stamps), 1 / scene.odometry.rate)
    error = run.odometry.twists[1:] - steps
    whitened = error / np.sqrt(np.diag(run.odometry.twist_covariance))
    for axis in range(3):
        low, high = chi2.ppf([0.005, 0.995], len(error))
        assert low < np.sum(whitened[:, axis] ** 2) < high
    correlation = np.corrcoef(whitened[:-1].ravel(), whitened[1:].ravel())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(whitened.size)


def relative_twists(poses: np.ndarray, interval: float) -> np.ndarray:
    """Mean twists in complex numbers, another way than the simulator's."""
    place = poses[:, 0] + 1j * poses[:, 1]
    moved = np.diff(place) * np.exp(-1j * poses[:-1, 2])
    turn = wrap(np.diff(poses[:, 2]))
    velocity = moved * (1j * turn) / (np.exp(1j * turn) - 1)
    return np.column_stack([velocity.real, velocity.imag, turn]) / interval


def test_the_claimed_pose_covariance_is_the_spread_over_many_runs(scene: Scene) -> None:
    errors, claims = [], []
    for seed in range(60):
        run = simulate(seed, 8.0, blind(quiet(scene)))
        start, end = true_at(run, run.odometry.stamps[[0, -1]])
        shift = Rotation.from_euler("z", start[2]).inv().apply([*(end - start)[:2], 0.0])[:2]
        error = run.odometry.poses[-1] - [*shift, end[2] - start[2]]
        error[2] = wrap(error[2])
        errors.append(error)
        claims.append(run.odometry.pose_covariances[-1])
    nees = [
        error @ np.linalg.solve(claim, error) for error, claim in zip(errors, claims, strict=True)
    ]
    low, high = chi2.ppf([0.005, 0.995], 3 * len(nees))
    assert low < sum(nees) < high


def test_corners_pass_the_adapter_in_our_order_with_the_noise_of_the_scene(
    run: Recording, records: list[Record], files: RecordingFiles
) -> None:
    arrays = [one for one in records if one.topic == "camera/tag_detections"]
    errors, landmarks = [], read_landmark_map(files.landmarks)
    for image, record in enumerate(arrays[:200]):
        seen = adapt("tags", record.type, record.message)
        assert isinstance(seen, LandmarkMeasurement)
        assert seen.stamp == run.images.stamps[image]
        for one in seen.observations:
            exact = projected(one.id, run, image, landmarks)
            errors.append(one.pixels - exact)
    error = np.array(errors)
    assert np.max(np.abs(error)) < 6 * run.scene.camera.corner_sigma
    low, high = chi2.ppf([0.005, 0.995], error.size)
    assert low < np.sum((error / run.scene.camera.corner_sigma) ** 2) < high


def test_a_tag_seen_upright_has_its_first_corner_at_the_bottom_left(run: Recording) -> None:
    for found in itertools.chain.from_iterable(run.images.detections):
        left_bottom, right_bottom, right_top, left_top = found.corners
        assert max(left_bottom[0], left_top[0]) < min(right_bottom[0], right_top[0])
        assert min(left_bottom[1], right_bottom[1]) > max(left_top[1], right_top[1])


def test_the_homography_carries_the_square_to_the_corners() -> None:
    corners = np.array([[10.0, 50.0], [52.0, 48.0], [50.0, 9.0], [12.0, 13.0]])
    square = np.array([[-1, 1, 1], [1, 1, 1], [1, -1, 1], [-1, -1, 1.0]])
    mapped = square @ homography_of(corners).T
    np.testing.assert_allclose(mapped[:, :2] / mapped[:, 2:], corners, atol=1e-11)


def test_tags_outside_the_limits_are_not_detected(run: Recording) -> None:
    camera = run.scene.camera
    tags = {tag.id: tag for tag in run.scene.tags}
    poses = true_at(run, run.images.stamps)
    for pose, found in zip(poses, run.images.detections, strict=True):
        turn = Rotation.from_euler("z", pose[2])
        eye = np.array([*pose[:2], 0.0]) + turn.apply(camera.base_p_camera)
        for one in found:
            sight = eye - tags[one.id].position
            angle = np.arccos(tags[one.id].rotation[:, 2] @ sight / np.linalg.norm(sight))
            assert angle < camera.max_view
            assert one.margin >= camera.min_side
            assert np.all(one.corners > -1)
            assert np.all(one.corners < np.array(camera.size) + 1)


def test_most_images_show_several_tags_and_most_tags_are_seen(run: Recording) -> None:
    counts = [len(found) for found in run.images.detections]
    assert np.mean(counts) > 3
    seen = {one.id for found in run.images.detections for one in found}
    assert len(seen) >= 18


def test_missed_tags_are_as_many_as_asked_and_do_not_change_the_others(scene: Scene) -> None:
    complete = dataclasses.replace(scene.camera, miss_probability=0.0)
    half = dataclasses.replace(scene.camera, miss_probability=0.5)
    full = simulate(1, 20.0, dataclasses.replace(scene, camera=complete)).images.detections
    some = simulate(1, 20.0, dataclasses.replace(scene, camera=half)).images.detections
    for every, found in zip(full, some, strict=True):
        by_id = {one.id: one for one in every}
        assert all(np.array_equal(by_id[one.id].corners, one.corners) for one in found)
    share = sum(map(len, some)) / sum(map(len, full))
    assert share == pytest.approx(0.5, abs=0.06)


def test_one_sensors_settings_leave_the_others_alone(scene: Scene) -> None:
    camera = dataclasses.replace(scene.camera, rate=5.0, corner_sigma=1.0)
    first = simulate(2, 5.0, scene)
    second = simulate(2, 5.0, dataclasses.replace(scene, camera=camera))
    np.testing.assert_array_equal(first.odometry.twists, second.odometry.twists)
    np.testing.assert_array_equal(first.absolute.poses, second.absolute.poses)


def test_camera_and_odometry_never_share_a_stamp(run: Recording) -> None:
    assert not np.intersect1d(run.images.stamps, run.odometry.stamps).size
    assert np.all(np.diff(run.images.stamps) > 0.08e9)


def test_records_come_in_order_of_reception_with_each_sensors_latency(
    run: Recording, records: list[Record]
) -> None:
    received = [record.receive_stamp for record in records]
    assert received == sorted(received)
    latency = {"odom": 0.003, "gps_pose": 0.05, "ground_truth": 0.0, "imu": 0.001}
    latency |= {"tf": 0.003, "tf_static": 0.0}
    for record in records:
        message = record.message
        stamped = message.transforms[0] if hasattr(message, "transforms") else message
        stamp = stamped.header.stamp
        late = record.receive_stamp - stamp.sec * 10**9 - stamp.nanosec
        assert late == round(latency.get(record.topic, 0.035) * 1e9)


def test_the_unit_on_its_side_reports_the_true_turns_and_angles_with_the_claimed_noise(
    run: Recording, scene: Scene
) -> None:
    log, sensor = run.imu, scene.imu
    assert log is not None
    assert sensor is not None
    mount = Rotation.from_matrix(sensor.base_R_imu)
    lap = make_lap(scene.route, start_of(run))
    seconds = to_seconds(log.stamps)
    h = 1e-4
    turned = wrap(lap.at(seconds + h)[:, 2] - lap.at(seconds - h)[:, 2]) / (2 * h)
    in_base = mount.apply(log.rates)
    error = in_base - np.column_stack([0 * turned, 0 * turned, turned])
    assert np.abs(error.mean(axis=0)).max() < 4 * sensor.gyro_bias  # the bias, drawn once
    np.testing.assert_allclose(error.std(axis=0), sensor.gyro_sigma, rtol=0.05)
    truth = Rotation.from_euler("Z", lap.at(seconds)[:, 2:])
    off = (Rotation.from_quat(log.orientations) * mount.inv() * truth.inv()).as_rotvec()
    np.testing.assert_allclose(off.std(axis=0), sensor.orientation_sigma, rtol=0.05)
    up = truth.apply(mount.apply(log.forces)).mean(axis=0)
    np.testing.assert_allclose(up, [0.0, 0.0, 9.81], atol=0.05)


def test_the_transforms_are_the_mounts_and_the_odometry(
    run: Recording, records: list[Record], scene: Scene
) -> None:
    (static,) = [r.message for r in records if r.topic == "tf_static"]
    children = {t.child_frame_id: t for t in static.transforms}
    assert set(children) == {"camera_optical", "imu_link"}
    assert scene.imu is not None
    turn = children["imu_link"].transform.rotation
    got = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
    np.testing.assert_allclose(got, scene.imu.base_R_imu, atol=1e-12)
    moving = [r.message.transforms[0] for r in records if r.topic == "tf"]
    assert len(moving) == len(run.odometry.stamps)
    assert {(t.header.frame_id, t.child_frame_id) for t in moving} == {("odom", "base_link")}
    last = moving[-1].transform.translation
    np.testing.assert_array_equal([last.x, last.y], run.odometry.poses[-1, :2])


def test_a_scene_may_have_no_inertial_unit(scene: Scene) -> None:
    run = simulate(3, 2.0, dataclasses.replace(scene, imu=None))
    topics = {record.topic for record in recording_records(run)}
    assert "imu" not in topics
    assert {"tf", "tf_static", "odom"} <= topics


def test_the_bag_holds_every_message_as_measurements_read_it(
    run: Recording, records: list[Record], files: RecordingFiles
) -> None:
    read = list(read_bag(files.bag))
    key = [(one.topic, one.type, one.receive_stamp) for one in records]
    assert sorted((one.topic, one.type, one.receive_stamp) for one in read) == sorted(key)
    odometry = [adapt("o", one.type, one.message) for one in read if one.topic == "odom"]
    first, last = odometry[0], odometry[-1]
    assert isinstance(first, OdometryMeasurement)
    assert isinstance(last, OdometryMeasurement)
    assert (first.frame, first.child_frame) == ("odom", "base_link")
    np.testing.assert_array_equal(last.twist[[0, 1, 5]], run.odometry.twists[-1])
    np.testing.assert_array_equal(last.pose[:2], run.odometry.poses[-1, :2])
    assert last.covariance is not None
    yaw = run.odometry.poses[-1, 2]
    turn = Rotation.from_euler("z", yaw).as_matrix()
    claimed = turn.T @ run.odometry.pose_covariances[-1] @ turn
    np.testing.assert_allclose(last.covariance[np.ix_([0, 1, 5], [0, 1, 5])], claimed, atol=1e-12)
    poses = [adapt("g", one.type, one.message) for one in read if one.topic == "gps_pose"]
    assert all(isinstance(one, PoseMeasurement) for one in poses)


def test_the_files_beside_the_bag_describe_the_same_run(
    run: Recording, files: RecordingFiles
) -> None:
    truth = read_tum(files.truth)
    np.testing.assert_array_equal(truth.stamps, run.truth_stamps)
    np.testing.assert_array_equal(truth.poses[:, :2], run.truth[:, :2])
    for stamps in (run.odometry.stamps, run.images.stamps, run.absolute.stamps):
        assert np.all(np.isin(stamps, truth.stamps))
    camera = load_camera_calibration(files.camera).intrinsics
    assert camera.focal == run.scene.camera.focal
    assert camera.coefficients == run.scene.camera.distortion
    assert sorted(read_landmark_map(files.landmarks).tags) == [tag.id for tag in run.scene.tags]


def test_the_demos_configuration_knows_the_tags_and_the_camera_of_its_scene(
    scene: Scene, files: RecordingFiles
) -> None:
    folder = default_scene_path().parent
    told, true = read_landmark_map(folder / "demo_tags.yaml"), read_landmark_map(files.landmarks)
    assert sorted(told.tags) == sorted(true.tags)
    for number in true.tags:
        name = f"tag36h11:{number}"
        np.testing.assert_allclose(world_points(told, name), world_points(true, name), atol=1e-9)
    parameters = yaml.safe_load((folder / "localization_2d.yaml").read_text())
    sensors = parameters["dnls_estimator"]["ros__parameters"]["sensor"]
    mount = camera_calibration(scene.camera)["extrinsic"]
    np.testing.assert_allclose(sensors["tags"]["extrinsic"], mount, atol=1e-9)


def test_a_detection_array_may_be_empty(scene: Scene) -> None:
    run = simulate(0, 1.0, blind(scene))
    assert all(found == () for found in run.images.detections)
    arrays = [one for one in recording_records(run) if one.topic == "camera/tag_detections"]
    assert all(one.message.detections == [] for one in arrays)


@pytest.mark.parametrize(("seed", "duration"), [(-1, 10.0), (0, 0.5), (0, float("nan"))])
def test_an_impossible_run_is_refused(scene: Scene, seed: int, duration: float) -> None:
    with pytest.raises(DnlsError, match="simulate: got"):
        simulate(seed, duration, scene)


def test_a_scene_file_with_a_missing_or_unknown_key_is_named(tmp_path: Path) -> None:
    text = default_scene_path().read_text()
    for broken, hint in (
        (text.replace("  latency: 0.003 ", "  latencies: 0.003 "), "latenc"),
        (text.replace("frames: {", "frame: {"), "frames"),
        (text.replace("sigma: [0.1, 0.1, 0.05]", "sigma: [0.1]"), "sigma|unpack"),
    ):
        path = tmp_path / "scene.yaml"
        path.write_text(broken)
        with pytest.raises(DnlsError, match=hint):
            load_scene(path)
    with pytest.raises(UnreadableInputError, match="nowhere"):
        load_scene(tmp_path / "nowhere.yaml")


def test_the_simulator_shares_no_code_with_what_it_tests() -> None:
    folder = Path(simulation.__file__).parent
    for name in ("scene", "simulate", "sim_motion", "sim_odometry", "sim_camera", "sim_imu"):
        tree = ast.parse((folder / f"{name}.py").read_text())
        imported = [
            node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        ]
        layers = {module.split(".")[1] for module in imported if module.startswith("dnls_ros.")}
        assert layers <= {"errors", "io"}, f"{name} imports {layers}"
