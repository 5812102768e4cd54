"""The velocities of an odometry: read as a twist, mounted as one, as good as its poses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dnls_ros.cli.main import main
from dnls_ros.errors import DnlsError
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class
from dnls_ros.io.evaluation import EvaluationOptions, evaluate
from dnls_ros.io.messages import adapt_for
from dnls_ros.io.recording import odometry_trajectory, truth_trajectory, write_recording
from dnls_ros.io.replay import ReplayOptions, ReplayResult, replay
from dnls_ros.io.robot_localization import STATE
from dnls_ros.io.scene import load_scene
from dnls_ros.io.simulate import Recording, simulate
from dnls_ros.io.trajectory import read_tum
from dnls_ros.runtime.session import Session
from dnls_ros.runtime.transforms import StampedTransform
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.measurements import (
    OdometryMeasurement,
    Reason,
    Rejection,
    TwistMeasurement,
)
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.rigid import from_rotation_vector

CONFIG = Path(__file__).resolve().parents[1] / "config" / "localization_2d.yaml"
COMPOSE = Composer(message_class)
TYPE = "nav_msgs/msg/Odometry"
SECOND = 1_000_000_000
T0 = 1_000 * SECOND
TWIST = np.array([0.8, 0.1, 0.02, 0.03, -0.04, 0.6])
FACTOR = np.tril(np.arange(1.0, 37.0).reshape(6, 6) / 400.0)
COVARIANCE = FACTOR @ FACTOR.T
"""Each axis correlated with each other one, and every entry of its own size."""
FRONT = [0.4, -0.2, 0.0, 0.0, 0.0, 0.7]
"""body_T_sensor: x y z roll pitch yaw."""


def message(stamp: int = T0, child: str = "base_link", **changes: Any) -> Any:
    """Moves on in a frame of its own, heading backwards: no covariance may be turned by that."""
    pose = from_rotation_vector(np.array([0.0, 0.0, 3.0]), np.array([5.0, 6.0, 0.0]))
    made = COMPOSE.odometry(stamp, "odom", child, pose, TWIST)
    twist = replace(made.twist, covariance=COVARIANCE.reshape(36))
    return replace(made, twist=twist, **changes)


def configuration(axes: list[str] | None = None, manifold: str = "se2", **more: Any) -> Any:
    block = {"type": "odometry", "topic": "odom", **({} if axes is None else {"axes": axes})}
    free = 3 if manifold == "se2" else 6
    init = {"mode": "params", "pose": [0.0] * free, "sigma": [1e-3] * free}
    track = {
        "manifold": manifold,
        "child_frame": "base_link",
        "motion": more.pop("motion", "none"),
    }
    return load_parameters(
        {
            "world_frame": "map",
            "deterministic": True,
            "tracks": ["robot"],
            "track": {"robot": {**track, "init": init}},
            "sensors": ["wheels"],
            "sensor": {"wheels": {**block, **more}},
        }
    )


def read(config: Any, given: Any, type_name: str = TYPE) -> Any:
    return adapt_for(config.sensor("wheels"), type_name, given)


def test_the_covariance_is_the_message_s_own_in_the_order_of_rep_103() -> None:
    seen = read(configuration(["vx", "vyaw"]), message())
    assert isinstance(seen, TwistMeasurement)
    assert (seen.stamp, seen.frame) == (T0, "base_link")
    np.testing.assert_array_equal(seen.twist, TWIST)
    np.testing.assert_array_equal(seen.covariance, COVARIANCE)
    poses = read(configuration(["x", "yaw"]), message())
    assert isinstance(poses, OdometryMeasurement)


def test_a_pose_that_was_left_empty_does_no_harm() -> None:
    empty = message_class("geometry_msgs/msg/PoseWithCovariance")(
        pose=message_class("geometry_msgs/msg/Pose")(
            position=message().pose.pose.position,
            orientation=replace(message().pose.pose.orientation, x=0.0, y=0.0, z=0.0, w=0.0),
        ),
        covariance=np.full(36, np.nan),
    )
    given = message(pose=empty)
    assert isinstance(read(configuration(["vx"]), given), TwistMeasurement)
    refused = read(configuration(), given)
    assert isinstance(refused, Rejection)
    assert refused.reason is Reason.BAD_QUATERNION


def test_a_twist_that_is_no_number_is_refused() -> None:
    given = message()
    given.twist.twist.linear.x = float("nan")
    refused = read(configuration(["vx"]), given)
    assert isinstance(refused, Rejection)
    assert refused.reason is Reason.NOT_FINITE


@pytest.mark.parametrize(
    ("block", "where", "words"),
    [
        ({"axes": ["x", "yaw", "vx"]}, "sensor.wheels.axes", "make two sensors on topic 'odom'"),
        ({"axes": ["vx"], "differential": True}, "sensor.wheels.differential", "are velocities"),
        ({"axes": ["vx", "vz"]}, "sensor.wheels.axes", "'vz' is not an axis"),
        ({"axes": ["vx"], "ignition": True}, "sensor.wheels.ignition", "absolutely"),
        (
            {"axes": ["vx"], "extrinsic": [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]},
            "sensor.wheels.extrinsic",
            "mount a sensor of motion level",
        ),
    ],
)
def test_what_velocities_cannot_be_is_said(block: Any, where: str, words: str) -> None:
    with pytest.raises(DnlsError, match=where) as refused:
        configuration(**block)
    assert words in str(refused.value)


def estimate(config: Any, measured: list[Any], mounted: bool = False) -> tuple[Any, Any]:
    """The last pose and its covariance, through the frames of a session."""
    session = Session(config)
    if mounted:
        pose = from_rotation_vector(np.array([0.0, 0.0, FRONT[5]]), np.array(FRONT[:3]))
        session.add_transforms([StampedTransform("base_link", "wheel_link", 0, pose)], static=True)
    for one in measured:
        session.receive(one, one.stamp)
    session.finish()
    for counters in session.estimator.counters.values():
        assert counters.accepted == counters.received == len(measured)
    found = session.pose_at(measured[-1].stamp)
    assert found.covariance is not None
    return found.pose, found.covariance


@pytest.mark.parametrize("motion", ["none", "constant_velocity"])
@pytest.mark.parametrize("manifold", ["se2", "se3"])
def test_the_estimate_is_that_of_a_twist_sensor_given_or_mounted_by_tf(
    manifold: str, motion: str
) -> None:
    axes = ["vx", "vy", "vyaw"] if manifold == "se2" else ["vx", "vy", "vz", *STATE[9:12]]
    stamps = [T0 + k * SECOND // 10 for k in range(12)]
    common = {"manifold": manifold, "motion": motion}
    given = configuration(axes, extrinsic=FRONT, **common)
    pose, covariance = estimate(given, [read(given, message(t)) for t in stamps])
    twist = configuration(axes, type="twist", extrinsic=FRONT, **common)
    said = [
        TwistMeasurement(
            sensor="wheels", stamp=t, frame="anywhere", twist=TWIST, covariance=COVARIANCE
        )
        for t in stamps
    ]
    for same in (
        estimate(twist, said),
        estimate(c := configuration(axes, **common),
                 [read(c, message(t, "wheel_link")) for t in stamps], mounted=True),
        estimate(c := configuration(axes, target_frame="wheel_link", **common),
                 [read(c, message(t, "elsewhere")) for t in stamps], mounted=True),
    ):  # fmt: skip
        np.testing.assert_allclose(same[0], pose, atol=1e-9)
        np.testing.assert_allclose(same[1], covariance, rtol=1e-6, atol=1e-12)
    assert np.linalg.norm(pose[:2]) > 0.5


@pytest.mark.parametrize("motion", ["none", "constant_velocity"])
def test_an_axis_that_is_not_named_stays_free(motion: str) -> None:
    stamps = [T0 + k * SECOND // 10 for k in range(12)]

    def lateral(axes: list[str]) -> float:
        config = configuration(axes, motion=motion)
        _, covariance = estimate(config, [read(config, message(t)) for t in stamps])
        return float(np.sqrt(covariance[1, 1]))

    assert lateral(["vx", "vy", "vyaw"]) < 0.2
    assert lateral(["vx", "vyaw"]) > 2.0 * lateral(["vx", "vy", "vyaw"])


def test_another_kind_of_measurement_is_refused_by_name() -> None:
    estimator = Estimator(configuration(["vx", "vyaw"]))
    assert estimator.feed(read(configuration(), message())) is Reason.BAD_SHAPE
    problem = estimator.counters["wheels"].last_problem
    assert "got a OdometryMeasurement, sensor 'wheels' takes a TwistMeasurement" in problem


# --- The simulated robot -------------------------------------------------------------------------


@dataclass(frozen=True)
class Drive:
    """A simulated drive, the recording of it, and what is true."""

    recording: Recording
    bag: Path
    truth: Any
    truth_file: Path


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    recording = simulate(3, 8.0, load_scene())
    files = write_recording(recording, tmp_path_factory.mktemp("drive") / "d")
    return Drive(recording, files.bag, truth_trajectory(recording), files.truth)


def replayed(drive: Drive, **wheels: Any) -> ReplayResult:
    """By the demo's parameters, with other sensors on the topic of the odometry."""
    tree = yaml.safe_load(CONFIG.read_text())["dnls_estimator"]["ros__parameters"]
    tree["sensors"] = [*wheels, "tags", "absolute"]
    tags = tree["sensor"]["tags"]
    tags["landmarks"]["map_file"] = str(CONFIG.with_name("demo_tags.yaml"))
    common = {"type": "odometry", "topic": "odom", "robust": "huber", "robust_scale": 3.0}
    tree["sensor"] = {
        **{name: {**common, **block} for name, block in wheels.items()},
        "tags": tags,
        "absolute": tree["sensor"]["absolute"],
    }
    config = load_parameters(tree)
    return replay(drive.bag, replace(config, deterministic=True), ReplayOptions())


def error_of(drive: Drive, result: ReplayResult) -> float:
    """RMSE of the causal estimate [m]; every sample of motion counted."""
    options = EvaluationOptions(interpolate=True)
    return evaluate(result.tracks["robot"].causal(), drive.truth, options).translation.rmse


def test_velocities_are_as_good_as_differences_of_poses(drive: Drive) -> None:
    poses = replayed(drive, wheels={"differential": True})
    twists = replayed(drive, wheels={"axes": ["vx", "vy", "vyaw"]})
    assert twists.estimator.counters["wheels"].accepted == 161
    by_pose, by_twist = error_of(drive, poses), error_of(drive, twists)
    assert by_twist < 1.1 * by_pose
    assert by_pose < 0.02


def test_two_sensors_read_one_topic(drive: Drive) -> None:
    """Forward and lateral speed by one, the turn by the other: together they are the whole."""
    whole = replayed(drive, wheels={"axes": ["vx", "vy", "vyaw"]})
    parts = replayed(
        drive, poses={"differential": True, "axes": ["yaw"]}, speeds={"axes": ["vx", "vy"]}
    )
    for name in ("poses", "speeds"):
        assert parts.estimator.counters[name].accepted == 161
    assert error_of(drive, parts) < 1.2 * error_of(drive, whole)


def test_a_migrated_filter_replays_the_simulated_robot(drive: Drive, tmp_path: Path) -> None:
    """The most common ekf.yaml: velocities of the wheels, turn rate of the inertial unit."""

    def chosen(*axes: str) -> list[bool]:
        return [axis in axes for axis in STATE]

    ekf = {
        "frequency": 20.0, "two_d_mode": True, "publish_tf": False, "world_frame": "odom",
        "odom0": "odom", "odom0_config": chosen("vx", "vy", "vyaw"),
        "imu0": "imu", "imu0_config": chosen("vyaw"),
    }  # fmt: skip
    source = tmp_path / "ekf.yaml"
    source.write_text(yaml.safe_dump({"ekf": {"ros__parameters": ekf}}))
    assert main(["migrate", str(source), "--out", str(tmp_path / "est.yaml")]) == 0
    out = tmp_path / "out"
    command = ["replay", str(drive.bag), "--params", str(tmp_path / "est.yaml"), "--out", str(out)]
    assert main([*command, "--min-coverage", "0.95", "--duration", "4"]) == 0
    ours = read_tum(out / "robot.tum")
    assert len(ours.stamps) > 70
    options = EvaluationOptions(align="yaw", interpolate=True)
    found = evaluate(ours, drive.truth, options)
    odometry = odometry_trajectory(drive.recording)
    kept = odometry.stamps <= ours.stamps[-1]
    before = evaluate(
        replace(odometry, stamps=odometry.stamps[kept], poses=odometry.poses[kept]),
        drive.truth,
        options,
    )
    assert found.translation.rmse < 0.03
    assert found.rotation.rmse < 0.7 * before.rotation.rmse
