"""Frames of measurements: what tf changes in them, what waits for it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from dnls_ros.io.convert import covariance_from_ros, covariance_to_ros
from dnls_ros.runtime.frames import MOST_PARKED, FrameGate, FrameResolver, Wait
from dnls_ros.runtime.transforms import StampedTransform, TransformBuffer
from dnls_ros.window import landmark_map
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.measurements import (
    CameraIntrinsics,
    LandmarkMeasurement,
    LandmarkObservation,
    Measurement,
    OdometryMeasurement,
    PoseMeasurement,
    Reason,
    Rejection,
    RelativePoseMeasurement,
    TwistMeasurement,
)
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.reprojection import project
from dnls_ros.window.rigid import (
    IDENTITY,
    angle_between,
    compose,
    from_rotation_vector,
    inverse,
    rotation_matrix,
)

Array = NDArray[np.float64]
SECOND = 1_000_000_000
T0 = 1_000 * SECOND
SIGMAS = [0.1] * 6


def pose(*values: float) -> Array:
    """Of a position [m] and a rotation vector [rad]."""
    full = np.zeros(6)
    full[: len(values)] = values
    return from_rotation_vector(full[3:], full[:3])


def link(parent: str, child: str, stamp: int, value: Array) -> StampedTransform:
    return StampedTransform(parent, child, stamp, value)


SENSORS: dict[str, dict[str, Any]] = {
    "fix": {"type": "pose", "topic": "fix"},
    "odom": {"type": "odometry", "topic": "odom", "differential": True, "covariance": "fixed",
             "sigma": SIGMAS},
    "slam": {"type": "odometry", "topic": "slam"},
    "twist": {"type": "twist", "topic": "twist"},
    "match": {"type": "relative_pose", "topic": "match"},
}  # fmt: skip


def configuration(manifold: str = "se3", timeout: float = 0.1, **changes: Any) -> EstimatorConfig:
    sensors = {name: {**block, **changes.get(name, {})} for name, block in SENSORS.items()}
    if manifold == "se2":
        sensors["odom"]["sigma"] = SIGMAS[:3]
    return load_parameters(
        {
            "tracks": ["robot"],
            "sensors": list(sensors),
            "tf": {"timeout": timeout},
            "track": {
                "robot": {
                    "manifold": manifold,
                    "parent_frame": "map",
                    "child_frame": "base",
                    "motion": "none",
                }
            },
            "sensor": sensors,
        }
    )


def buffer(*static: StampedTransform) -> TransformBuffer:
    made = TransformBuffer(30.0)
    assert not made.add(static, True)
    return made


def fix(stamp: int = T0, frame: str = "map", **changes: Any) -> PoseMeasurement:
    value = pose(1.0, 2.0, 0.5, 0.3, -0.2, 0.7)
    covariance = np.diag([0.1, 0.2, 0.3, 0.01, 0.02, 0.03])
    m = PoseMeasurement(sensor="fix", stamp=stamp, frame=frame, pose=value, covariance=covariance)
    return replace(m, **changes)


def odometry(sensor: str, frame: str, child: str, stamp: int = T0) -> OdometryMeasurement:
    return OdometryMeasurement(
        sensor=sensor, stamp=stamp, frame=frame, pose=pose(1.0), child_frame=child,
        twist=np.zeros(6),
    )  # fmt: skip


def twist(frame: str) -> TwistMeasurement:
    return TwistMeasurement(sensor="twist", stamp=T0, frame=frame, twist=np.ones(6))


def resolved(config: EstimatorConfig, source: TransformBuffer, m: Measurement) -> Any:
    out = FrameResolver(config, source).resolve(m)
    assert isinstance(out, Measurement), out
    return out


def test_frames_that_agree_need_no_tf() -> None:
    config, nothing = configuration(), buffer()
    for m in (fix(), fix(frame="/map"), twist("base"), odometry("odom", "anything", "base")):
        assert resolved(config, nothing, m) is m


def test_a_pose_is_carried_into_the_parent_frame() -> None:
    map_T_site = pose(5.0, -1.0, 2.0, 0.0, 0.4, 1.2)
    out = resolved(configuration(), buffer(link("map", "site", 0, map_T_site)), fix(frame="site"))
    assert_allclose(out.pose, compose(map_T_site, fix().pose))
    assert out.frame == "map"
    assert out.extrinsic is None


def test_its_covariance_turns_with_it() -> None:
    """Said in ROS's fixed axes, which turn; in those of the body nothing changes."""
    map_T_site = pose(5.0, -1.0, 2.0, 0.0, 0.4, 1.2)
    m = fix(frame="site")
    assert m.covariance is not None
    in_site = covariance_to_ros(m.covariance, m.pose)
    out = resolved(configuration(), buffer(link("map", "site", 0, map_T_site)), m)
    in_map = covariance_to_ros(out.covariance, out.pose)
    turn = np.kron(np.eye(2), rotation_matrix(map_T_site))
    assert_allclose(in_map, turn @ in_site @ turn.T, atol=1e-12)
    assert_allclose(covariance_from_ros(in_map, out.pose), m.covariance, atol=1e-12)
    rng = np.random.default_rng(0)  # and by samples of the pose itself
    noise = rng.multivariate_normal(np.zeros(6), 1e-4 * m.covariance, 4000)
    seen = [
        compose(inverse(out.pose), compose(map_T_site, compose(m.pose, pose(*n)))) for n in noise
    ]
    assert_allclose(np.cov(np.array(seen)[:, :3].T), 1e-4 * np.diag([0.1, 0.2, 0.3]), atol=2e-6)


def test_the_transform_is_taken_at_the_corrected_stamp() -> None:
    config = configuration(fix={"stamp_offset": -0.5})
    source = buffer()
    source.add([link("map", "train", T0 + k * SECOND, pose(10.0 * k)) for k in (-1, 0)])
    out = resolved(config, source, fix(frame="train"))
    assert_allclose(out.pose[:3], fix().pose[:3] + np.array([-5.0, 0, 0]))


@pytest.mark.parametrize(
    ("changes", "m", "sensor_frame"),
    [
        ({}, twist("imu"), "imu"),
        ({}, odometry("slam", "map", "lidar"), "lidar"),
        ({"slam": {"target_frame": "mast"}}, odometry("slam", "map", "lidar"), "mast"),
        ({}, odometry("odom", "elsewhere", "lidar"), "lidar"),
        ({"fix": {"target_frame": "antenna"}}, fix(), "antenna"),
        ({"twist": {"frame_override": "gyro"}}, twist("imu"), "gyro"),
    ],
)
def test_the_mount_comes_from_tf(changes: Any, m: Measurement, sensor_frame: str) -> None:
    base_T_sensor = pose(0.1, 0.2, 0.3, 0.0, 0.0, 0.5)
    source = buffer(link("base", sensor_frame, 0, base_T_sensor))
    out = resolved(configuration(**changes), source, m)
    assert_allclose(out.extrinsic, base_T_sensor)


def test_a_given_mount_wins_and_asks_nothing() -> None:
    config = configuration(twist={"extrinsic": [1.0, 0, 0, 0, 0, 0]})
    source = buffer(link("base", "imu", 0, pose(9.0)))
    assert resolved(config, source, twist("imu")).extrinsic is None


def test_frame_override_stands_for_the_header() -> None:
    config = configuration(fix={"frame_override": "map"})
    assert_allclose(resolved(config, buffer(), fix(frame="earth")).pose, fix().pose)


def test_what_the_door_refuses_goes_there_as_it_is() -> None:
    config, source = configuration(), buffer(link("map", "site", 0, pose(1.0)))
    for bad in (
        fix(frame=""),
        fix(stamp=0, frame="site"),
        fix(frame="site", pose=np.full(7, np.nan)),
        fix(frame="site", pose=np.zeros(7)),
        fix(frame="site", pose=np.zeros(3)),
    ):
        assert resolved(config, source, bad) is bad
    disabled = configuration(slam={"enabled": False})
    unknown = odometry("slam", "nowhere", "lidar")
    assert resolved(disabled, source, unknown) is unknown


def test_an_empty_child_frame_has_its_own_sentence() -> None:
    out = FrameResolver(configuration(), buffer()).resolve(odometry("slam", "map", ""))
    assert isinstance(out, Rejection)
    assert out.reason is Reason.EMPTY_FRAME
    assert "sensor.slam.target_frame" in out.text


def test_a_sensor_of_motion_must_be_level_on_a_plane() -> None:
    tilted = buffer(link("base", "imu", 0, pose(0, 0, 0, 0.5)))
    out = FrameResolver(configuration("se2"), tilted).resolve(twist("imu"))
    assert isinstance(out, Rejection)
    assert "tilted" in out.text
    assert isinstance(FrameResolver(configuration(), tilted).resolve(twist("imu")), Measurement)
    upside_down = buffer(link("base", "imu", 0, pose(0, 0, 0, np.pi)))
    assert resolved(configuration("se2"), upside_down, twist("imu")).extrinsic is not None


def test_a_motion_between_two_places_of_its_sensor() -> None:
    """The head turned while the robot moved: the robot's motion, not the head's, is told."""
    mounts = {T0: pose(0.2, 0, 1.0, 0, 0, 0.3), T0 + SECOND: pose(0.2, 0, 1.0, 0, 0.1, -0.8)}
    source = buffer()
    source.add([link("base", "head", t, p) for t, p in mounts.items()])
    moved = pose(0.5, 0.1, 0.0, 0.0, 0.0, 0.2)
    first, second = mounts.values()
    m = RelativePoseMeasurement(
        sensor="match", stamp=T0 + SECOND, stamp_from=T0, frame="head",
        relative=compose(compose(inverse(first), moved), second), covariance=np.eye(6),
    )  # fmt: skip
    out = resolved(configuration(), source, m)
    body = compose(compose(out.extrinsic, out.relative), inverse(out.extrinsic))
    assert_allclose(body, moved, atol=1e-12)


def test_missing_transforms_say_what_to_do() -> None:
    source = buffer(link("map", "site", 0, pose(1.0)))
    source.add([link("base", "head", T0 - SECOND, pose(1.0))])
    resolver = FrameResolver(configuration(), source)
    out = resolver.resolve(fix(frame="earth"))
    assert isinstance(out, Wait)
    assert out.reason is Reason.UNKNOWN_FRAME
    assert "from 'earth' to 'map'" in out.text
    assert "sensor.fix.frame_override: map" in out.text
    out = resolver.resolve(twist("head"))
    assert isinstance(out, Wait)
    assert out.reason is Reason.TF_TIMEOUT
    assert "1.000 s too old" in out.text
    assert "sensor.twist.extrinsic" in out.text
    source.add([link("base", "head", T0 + SECOND, pose(1.0))])
    source.clear()
    source.add([link("base", "head", T0 + SECOND, pose(1.0))])
    out = resolver.resolve(twist("head"))  # before the first one: it will not come any more
    assert isinstance(out, Rejection)
    assert out.reason is Reason.TF_TIMEOUT


def test_a_late_transform_lets_its_measurement_pass() -> None:
    source = buffer()
    gate = FrameGate(configuration(), source)
    assert gate.take(fix(frame="site"), T0) is None
    assert gate.waiting["fix"] == 1
    assert gate.release(T0 + SECOND // 20) == []
    source.add([link("map", "site", 0, pose(1.0))], True)
    (out,) = gate.release(T0 + SECOND // 20)
    assert isinstance(out, PoseMeasurement)
    assert out.frame == "map"
    assert gate.waiting["fix"] == 0


def test_patience_ends_by_the_clock() -> None:
    gate = FrameGate(configuration(timeout=0.25), buffer())
    assert gate.take(fix(frame="site"), T0) is None
    assert gate.release(T0 + SECOND // 4 - 1) == []
    (out,) = gate.release(T0 + SECOND // 4)
    assert isinstance(out, Rejection)
    assert (out.sensor, out.stamp, out.reason) == ("fix", T0, Reason.UNKNOWN_FRAME)
    assert "waited 0.25 s" in out.text
    assert gate.waiting["fix"] == 0


def test_without_a_clock_data_time_passes() -> None:
    gate = FrameGate(configuration(), buffer())
    assert gate.take(fix(frame="site"), None) is None
    assert gate.take(fix(stamp=T0 + SECOND // 20), None) is not None
    assert gate.release(None) == []
    assert gate.take(fix(stamp=T0 + SECOND // 10), None) is not None
    (out,) = gate.release(None)
    assert isinstance(out, Rejection)


def test_no_patience_and_the_end_of_a_recording() -> None:
    impatient = FrameGate(configuration(timeout=0.0), buffer()).take(fix(frame="site"), T0)
    assert isinstance(impatient, Rejection)
    gate = FrameGate(configuration(), buffer())
    assert gate.take(fix(frame="site"), T0) is None
    (out,) = gate.finish()
    assert isinstance(out, Rejection)
    assert "recording ended" in out.text


def test_stamps_of_the_future_do_not_wait() -> None:
    gate = FrameGate(configuration(), buffer())
    far = fix(stamp=T0 + 10 * SECOND, frame="site")
    assert gate.take(far, T0) is far


def test_what_waits_is_bounded_and_can_be_cleared() -> None:
    gate = FrameGate(configuration(), buffer())
    for k in range(MOST_PARKED):
        assert gate.take(fix(stamp=T0 + k, frame="site"), T0) is None
    full = gate.take(fix(stamp=T0 + MOST_PARKED, frame="site"), T0)
    assert isinstance(full, Rejection)
    assert full.reason is Reason.QUEUE_FULL
    refused = gate.clear(Reason.PAUSED, "reset")
    assert len(refused) == MOST_PARKED
    assert gate.waiting["fix"] == 0
    assert gate.finish() == []


CAMERA = CameraIntrinsics(focal=(600.0, 600.0), center=(320.0, 240.0))
FACING = compose(pose(0, 0, 0, 0, -np.pi / 2), pose(0, 0, 0, 0, 0, -np.pi / 2))  # z towards −x
TAGS = {n: compose(pose(3.0, 0.8 * n - 0.8, 0.3 * n), FACING) for n in range(3)}
OPTICAL = np.array([0.1, 0.0, 0.3, -0.5, 0.5, -0.5, 0.5])
STEPS = 21


def scene(folder: Path, sensor: dict[str, Any], known: bool) -> EstimatorConfig:
    """A robot in space in front of three tags whose places are known (or not)."""
    tags = [{"id": n, **(_placed(p) if known else {})} for n, p in TAGS.items()]
    (folder / "map.yaml").write_text(yaml.safe_dump({"default_size": 0.4, "tags": tags}))
    block = {
        "type": "landmarks",
        "topic": "tags",
        "camera_info_topic": "info",
        "landmarks": {"map_file": "map.yaml"},
        "sigma": [0.5],
        "ignition": known,
        **sensor,
    }
    init = {} if known else {"init": {"mode": "params", "pose": [0.0] * 6, "sigma": [1e-3] * 6}}
    settings = {
        "deterministic": True,
        "tracks": ["robot"],
        "sensors": ["tags"],
        "window": {"duration": 10.0},
        "track": {"robot": {"manifold": "se3", "child_frame": "base", "motion": "none", **init}},
        "sensor": {"tags": block},
    }
    return load_parameters(settings, base=folder)


def _placed(tag: Array) -> dict[str, Any]:
    return {"pose": {"position": tag[:3].tolist(), "orientation": tag[3:].tolist()}}


def _image(stamp: int, world_T_camera: Array) -> LandmarkMeasurement:
    corners = landmark_map.tag_corners(0.4)
    noise = 0.02 * np.random.default_rng(stamp % 1009).standard_normal((3, 4, 2))
    seen = [
        LandmarkObservation(
            id=f"tag36h11:{n}",
            pixels=project(corners, compose(inverse(world_T_camera), TAGS[n]), CAMERA) + noise[n],
        )
        for n in TAGS
    ]
    return LandmarkMeasurement(
        sensor="tags", stamp=stamp, frame="camera", observations=tuple(seen)
    )


def _body(k: int) -> Array:
    return pose(0.03 * k, 0.05 * np.sin(0.4 * k), 0.0, 0.0, 0.0, 0.02 * k)


def _head(k: int) -> Array:
    """A head that pans and tilts."""
    return compose(pose(0.1, 0.0, 0.3, 0.0, 0.1 * np.sin(0.5 * k), 0.2 * np.sin(0.7 * k)), OPTICAL)


def run(config: EstimatorConfig, moving: bool) -> tuple[list[Array], Estimator]:
    """Images through the gate into an estimator; the head's transforms come after each image."""
    made = Estimator(config, archive=True)
    made.set_intrinsics("tags", CAMERA)
    source = buffer() if moving else buffer(link("base", "camera", 0, _head(0)))
    gate = FrameGate(config, source)
    out: list[Array] = []
    for k in range(STEPS):
        stamp = T0 + k * SECOND // 10
        m = gate.take(_image(stamp, compose(_body(k), _head(k if moving else 0))), stamp)
        if moving:
            assert m is None
            source.add([link("base", "camera", stamp, _head(k))])
            (m,) = gate.release(stamp)
        assert isinstance(m, Measurement)
        assert made.feed(m) is None
        result = made.step(stamp)
        assert result is not None
        out.append(result.tracks["robot"].poses[-1])
    return out, made


@pytest.mark.parametrize("known", [True, False])
def test_a_camera_on_a_moving_head_sees_what_a_fixed_one_sees(tmp_path: Path, known: bool) -> None:
    config = scene(tmp_path, {}, known)
    fixed, moving = run(config, False)[0], run(config, True)[0]
    for k in range(STEPS):
        for estimate in (fixed[k], moving[k]):
            assert np.linalg.norm(estimate[:3] - _body(k)[:3]) < 0.01
            assert angle_between(estimate, _body(k)) < 0.01
    assert np.linalg.norm(moving[-1][:3] - IDENTITY[:3]) > 0.5  # it did move


def test_full_smoothing_keeps_each_image_its_mount(tmp_path: Path) -> None:
    _, made = run(scene(tmp_path, {}, False), True)
    smooth = made.smooth()
    for k, estimate in enumerate(smooth.poses):
        assert np.linalg.norm(estimate[:3] - _body(k)[:3]) < 0.01


def test_a_head_that_is_taken_for_fixed_would_be_seen(tmp_path: Path) -> None:
    """The scene tells the two apart."""
    config = scene(tmp_path, {}, True)
    made = Estimator(config)
    made.set_intrinsics("tags", CAMERA)
    for k in (0, 3):
        m = _image(T0 + k * SECOND, compose(_body(k), _head(k)))
        made.feed(replace(m, extrinsic=_head(0)))
        result = made.step(m.stamp)
    assert result is not None
    assert angle_between(result.tracks["robot"].poses[-1], _body(3)) > 0.05


def test_an_estimated_mount_starts_from_tf(tmp_path: Path) -> None:
    config = scene(tmp_path, {"camera": {"estimate_extrinsic": True}}, True)
    made = Estimator(config)
    made.set_intrinsics("tags", CAMERA)
    wrong = compose(_head(0), pose(0.02, 0.0, 0.0, 0.0, 0.02, 0.0))
    gate = FrameGate(config, buffer(link("base", "camera", 0, wrong)))
    m = gate.take(_image(T0, compose(_body(0), _head(0))), T0)
    assert isinstance(m, Measurement)
    made.feed(m)
    assert made.step(m.stamp) is not None
    block = made.state.values["tags.extrinsic"]
    estimated = block[0, 0].tensor.numpy()  # pyright: ignore[reportAttributeAccessIssue]  # SE3
    assert np.linalg.norm(estimated[:3] - wrong[:3]) < 0.1
    assert np.linalg.norm(estimated[:3] - IDENTITY[:3]) > 0.2  # not where no mount is given
