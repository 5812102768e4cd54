"""Inertial units: REP-145, mounts, what their turns and angles do to the estimate."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from dnls_ros.costs.imu import tilt
from dnls_ros.errors import DnlsError
from dnls_ros.io.messages import adapt, adapt_for
from dnls_ros.io.scene import load_scene
from dnls_ros.io.sim_messages import recording_records
from dnls_ros.io.simulate import Recording, simulate
from dnls_ros.lie import SE3, SO3
from dnls_ros.problem import check_jacobians
from dnls_ros.runtime.session import Session
from dnls_ros.runtime.transforms import StampedTransform
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.measurements import (
    ImuMeasurement,
    Measurement,
    OdometryMeasurement,
    PoseMeasurement,
    Reason,
    Rejection,
)
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.registry import build_registry
from dnls_ros.window.results import StepResult
from dnls_ros.window.turns import running_product

SECOND = 1_000_000_000
T0 = 1_000 * SECOND
TURN = 0.4
"""True yaw rate [rad/s]."""
ON_ITS_SIDE = (np.pi / 2, 0.0, 0.0)
ODOMETRY = {
    "type": "odometry",
    "topic": "odom",
    "differential": True,
    "covariance": "fixed",
    "sigma": [0.01, 0.01, 0.2],
}
GYRO = {"type": "imu", "topic": "imu", "axes": ["vyaw"], "covariance": "fixed", "sigma": [1e-3]}
SPACE = ["roll", "pitch", "vroll", "vpitch", "vyaw"]


def configuration(sensors: dict, track: dict | None = None, **extra: Any) -> EstimatorConfig:
    robot = {
        "manifold": "se2",
        "child_frame": "base_link",
        "motion": "none",
        "init": {"mode": "params", "sigma": [0.01] * 3},
        **(track or {}),
    }
    tight = {"cost_tolerance": 1e-14, "step_tolerance": 1e-12, "gradient_tolerance": 1e-12}
    settings = {
        "world_frame": "map",
        "deterministic": True,
        "tracks": ["robot"],
        "track": {"robot": robot},
        "sensors": list(sensors),
        "sensor": sensors,
        "solver": {**tight, "max_iterations": 50, **extra.pop("solver", {})},
    }
    return load_parameters({**settings, **extra})


def rotation(roll: float, pitch: float, yaw: float) -> Rotation:
    return Rotation.from_euler("ZYX", [yaw, pitch, roll])


def imu(
    stamp: int,
    rate: tuple[float, float, float] = (0.0, 0.0, TURN),
    angles: tuple[float, float, float] | None = None,
    mount: tuple[float, float, float] = (0.0, 0.0, 0.0),
    **more: Any,
) -> ImuMeasurement:
    """What a unit with a mount (roll, pitch, yaw) says of a body's rate and angles."""
    turn = rotation(*mount)
    orientation = None if angles is None else (rotation(*angles) * turn).as_quat()
    said = {
        "orientation": orientation,
        "orientation_covariance": None if angles is None else 1e-4 * np.eye(3),
        "angular_velocity": turn.inv().apply(rate),
        "angular_velocity_covariance": 1e-6 * np.eye(3),
    }
    return ImuMeasurement(sensor="imu", stamp=stamp, frame="imu_link", **{**said, **more})


def odometry(stamp: int, x: float, yaw: float = 0.0) -> OdometryMeasurement:
    pose = np.array([x, 0, 0, 0, 0, np.sin(yaw / 2), np.cos(yaw / 2)])
    return OdometryMeasurement(
        sensor="odometry",
        stamp=stamp,
        frame="odom",
        pose=pose,
        child_frame="base_link",
        twist=np.zeros(6),
    )


def run(estimator: Estimator, fed: list[Measurement], now: int | None = None) -> StepResult:
    for m in fed:
        assert estimator.feed(m) is None
    result = estimator.step(max(m.stamp for m in fed) if now is None else now)
    assert result is not None
    return result


def yaw_of(pose: np.ndarray) -> float:
    return float(Rotation.from_quat(pose[3:]).as_euler("ZYX")[0])


def newest(result: StepResult) -> np.ndarray:
    return result.tracks["robot"].poses[-1]


# ----- messages


def message(**changes: Any) -> SimpleNamespace:
    """A sensor_msgs/Imu."""
    vector = SimpleNamespace(x=0.1, y=0.2, z=0.3)
    fields = {
        "header": SimpleNamespace(stamp=SimpleNamespace(sec=5, nanosec=6), frame_id="imu_link"),
        "orientation": SimpleNamespace(x=0.0, y=0.0, z=0.6, w=0.8),
        "orientation_covariance": np.diag([1.0, 2.0, 3.0]).ravel(),
        "angular_velocity": vector,
        "angular_velocity_covariance": np.diag([4.0, 5.0, 6.0]).ravel(),
        "linear_acceleration": vector,
        "linear_acceleration_covariance": np.zeros(9),
    }
    return SimpleNamespace(**{**fields, **changes})


def read(**changes: Any) -> Measurement | Rejection:
    return adapt("imu", "sensor_msgs/msg/Imu", message(**changes), 3)


ABSENT = np.array([-1.0, *np.zeros(8)])


def test_a_complete_message_is_read_with_its_covariance_in_the_axes_of_the_sensor() -> None:
    m = read()
    assert isinstance(m, ImuMeasurement)
    assert (m.stamp, m.frame, m.sequence) == (5 * SECOND + 6, "imu_link", 3)
    turn = Rotation.from_quat([0, 0, 0.6, 0.8]).as_matrix()
    np.testing.assert_allclose(m.orientation_covariance, turn.T @ np.diag([1.0, 2, 3]) @ turn)
    np.testing.assert_allclose(m.angular_velocity, [0.1, 0.2, 0.3])
    np.testing.assert_allclose(m.angular_velocity_covariance, np.diag([4.0, 5, 6]))


def test_what_is_marked_absent_is_none_and_is_not_even_looked_at() -> None:
    nonsense = SimpleNamespace(x=np.nan, y=0.0, z=0.0, w=0.0)
    m = read(orientation=nonsense, orientation_covariance=ABSENT)
    assert isinstance(m, ImuMeasurement)
    assert m.orientation is None
    assert m.angular_velocity is not None
    m = read(angular_velocity=nonsense, angular_velocity_covariance=ABSENT)
    assert isinstance(m, ImuMeasurement)
    assert m.angular_velocity is None
    assert m.orientation is not None


def test_an_orientation_that_was_never_set_is_absent() -> None:
    m = read(orientation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=0.0))
    assert isinstance(m, ImuMeasurement)
    assert m.orientation is None


def test_an_acceleration_that_is_no_number_harms_nothing() -> None:
    m = read(linear_acceleration=SimpleNamespace(x=np.nan, y=0.0, z=0.0))
    assert isinstance(m, ImuMeasurement)
    assert m.linear_acceleration is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"orientation": SimpleNamespace(x=np.nan, y=0.0, z=0.0, w=1.0)}, Reason.NOT_FINITE),
        ({"orientation": SimpleNamespace(x=1e-12, y=0.0, z=0.0, w=0.0)}, Reason.BAD_QUATERNION),
        ({"angular_velocity": SimpleNamespace(x=np.inf, y=0.0, z=0.0)}, Reason.NOT_FINITE),
        ({"angular_velocity_covariance": np.zeros(8)}, Reason.BAD_SHAPE),
        ({"orientation_covariance": "none"}, Reason.BAD_SHAPE),
        ({"angular_velocity": None}, Reason.BAD_SHAPE),
    ],
)
def test_a_message_that_cannot_be_read_is_rejected_with_its_reason(
    changes: dict, reason: Reason
) -> None:
    refused = read(**changes)
    assert isinstance(refused, Rejection)
    assert refused.reason is reason
    assert refused.text


# ----- the door and the policies


def reason_of(m: ImuMeasurement, **sensor: Any) -> Reason | None:
    """What becomes of one message on a track in space."""
    block = {"type": "imu", "topic": "imu", **sensor}
    space = {"manifold": "se3", "motion": "random_walk", "init": {"mode": "params"}}
    estimator = Estimator(configuration({"imu": block}, space))
    at_the_door = estimator.feed(m)
    if at_the_door is not None:
        return at_the_door
    estimator.step(m.stamp)
    (settled,) = estimator.drain()
    assert estimator.counters["imu"].balanced
    return None if settled.reason is Reason.ACCEPTED else settled.reason


LEVEL = (0.0, 0.0, 0.0)
ZEROS = np.zeros((3, 3))


@pytest.mark.parametrize(
    ("changes", "sensor", "reason"),
    [
        ({}, {}, None),
        ({"orientation": np.array([0, 0, 0, 1.5])}, {}, Reason.BAD_QUATERNION),
        ({"orientation": np.zeros(3)}, {}, Reason.BAD_SHAPE),
        ({"angular_velocity": np.array([0, 0, 1e10])}, {}, Reason.NOT_FINITE),
        ({"angular_velocity_covariance": np.eye(6)}, {}, Reason.BAD_SHAPE),
        ({"orientation_covariance": ZEROS}, {}, Reason.BAD_COVARIANCE),
        ({"orientation_covariance": ZEROS}, {"axes": ["vyaw"]}, None),
        ({"angular_velocity_covariance": ZEROS}, {}, Reason.BAD_COVARIANCE),
        ({"angular_velocity_covariance": ZEROS}, {"sigma": [0.01] * 5}, None),
        ({"angular_velocity_covariance": -np.eye(3)}, {}, Reason.BAD_COVARIANCE),
        ({"angular_velocity_covariance": np.nan * np.eye(3)}, {}, Reason.NOT_FINITE),
        ({"orientation": None}, {}, None),
        ({"orientation": None}, {"axes": ["roll", "pitch"]}, Reason.BAD_COVARIANCE),
        ({"angular_velocity": None}, {}, None),
        ({"angular_velocity": None}, {"axes": ["vyaw"]}, Reason.BAD_COVARIANCE),
        ({"orientation": None, "angular_velocity": None}, {}, Reason.BAD_COVARIANCE),
    ],
)
def test_unknown_absent_and_bad_parts_have_their_reason(
    changes: dict, sensor: dict, reason: Reason | None
) -> None:
    assert reason_of(imu(T0, angles=LEVEL, **changes), **sensor) is reason


# ----- turns


def drive(sensors: dict, fed: list[Measurement], track: dict | None = None) -> StepResult:
    estimator = Estimator(configuration(sensors, track))
    result = run(estimator, sorted(fed, key=lambda m: m.stamp))
    assert all(c.balanced for c in estimator.counters.values())
    assert not any(sum(c.rejected.values()) for c in estimator.counters.values())
    return result


def with_gyro(
    mount: tuple[float, float, float] = (0.0, 0.0, 0.0), **changes: Any
) -> list[Measurement]:
    """One second of odometry at 20 Hz that misses the turn, and of a gyro at 100 Hz."""
    straight = [odometry(T0 + k * SECOND // 20, 0.05 * k) for k in range(21)]
    turning = [imu(T0 + k * SECOND // 100, mount=mount, **changes) for k in range(101)]
    return [*straight, *turning]


def test_the_gyro_decides_over_the_odometry_how_the_body_turned() -> None:
    result = drive({"odometry": ODOMETRY, "imu": GYRO}, with_gyro())
    assert yaw_of(newest(result)) == pytest.approx(TURN, abs=0.01)
    # one second at 1 m/s on a circle
    np.testing.assert_allclose(
        newest(result)[:2], np.array([np.sin(TURN), 1 - np.cos(TURN)]) / TURN, atol=0.02
    )


def test_gyro_samples_make_no_states_where_another_sensor_does() -> None:
    result = drive({"odometry": ODOMETRY, "imu": GYRO}, with_gyro())
    assert len(result.tracks["robot"].stamps) == 21


def test_a_gyro_says_nothing_about_the_way() -> None:
    """The translation between two states is as uncertain as without it."""
    slow = {**ODOMETRY, "sigma": [0.5, 0.5, 0.01]}
    fed = with_gyro(rate=(0.0, 0.0, 0.0))
    alone = drive({"odometry": slow}, [m for m in fed if m.sensor == "odometry"])
    both = drive({"odometry": slow, "imu": GYRO}, fed)
    for axis in (0, 1):
        before, after = (r.tracks["robot"].covariance[axis, axis] for r in (alone, both))
        assert after == pytest.approx(before, rel=0.01)
    assert both.tracks["robot"].covariance[5, 5] < alone.tracks["robot"].covariance[5, 5]


@pytest.mark.parametrize("mount", [ON_ITS_SIDE, (0.3, -0.7, 2.0), (np.pi, 0.0, 0.0)])
def test_a_tilted_unit_measures_the_yaw_of_a_body_on_a_plane(mount: tuple) -> None:
    block = {**GYRO, "extrinsic": [0.1, 0.2, 0.3, *mount]}
    result = drive({"odometry": ODOMETRY, "imu": block}, with_gyro(mount))
    assert yaw_of(newest(result)) == pytest.approx(TURN, abs=0.01)


def test_the_mount_of_tf_counts_before_the_configured_one() -> None:
    pose = np.array([0.0, 0, 0, *rotation(*ON_ITS_SIDE).as_quat()])
    fed = with_gyro(ON_ITS_SIDE, extrinsic=pose)
    result = drive({"odometry": ODOMETRY, "imu": {**GYRO, "extrinsic": [0.0] * 6}}, fed)
    assert yaw_of(newest(result)) == pytest.approx(TURN, abs=0.01)


def test_a_unit_without_a_configured_mount_sits_where_tf_static_says() -> None:
    session = Session(configuration({"odometry": ODOMETRY, "imu": GYRO}))
    pose = np.array([0.0, 0, 0, *rotation(*ON_ITS_SIDE).as_quat()])
    session.add_transforms([StampedTransform("base_link", "imu_link", 0, pose)], static=True)
    for m in sorted(with_gyro(ON_ITS_SIDE), key=lambda m: m.stamp):
        session.receive(m, m.stamp)
    session.finish()
    assert session.estimator.counters["imu"].accepted == 101
    assert yaw_of(session.pose_at(T0 + SECOND).pose) == pytest.approx(TURN, abs=0.01)


def test_the_noise_of_a_tilted_unit_turns_with_it() -> None:
    """On its side, the covariance of the sensor's y is that of the yaw."""
    noisy = np.diag([1.0, 1e-8, 1.0])
    block = {
        "type": "imu",
        "topic": "imu",
        "axes": ["vyaw"],
        "extrinsic": [0.0] * 3 + [np.pi / 2, 0, 0],
    }
    fed = with_gyro(ON_ITS_SIDE, angular_velocity_covariance=noisy)
    result = drive({"odometry": ODOMETRY, "imu": block}, fed)
    assert yaw_of(newest(result)) == pytest.approx(TURN, abs=1e-3)


@pytest.mark.parametrize(("policy", "factor"), [("message", 1.0), ("scaled", 9.0)])
def test_a_gyro_covariance_is_noise_of_the_rate(policy: str, factor: float) -> None:
    """Each interval of 10 ms has one draw of variance σ²: together σ² · dt · t."""
    block = {"type": "imu", "topic": "imu", "axes": ["vyaw"], "covariance": policy}
    block |= {"covariance_scale": 9.0} if policy == "scaled" else {}
    variance = 0.04
    fed = with_gyro(angular_velocity_covariance=variance * np.eye(3))
    loose = {**ODOMETRY, "sigma": [0.01, 0.01, 50.0]}
    start = {"init": {"mode": "params", "sigma": [1e-6] * 3}}
    result = drive({"odometry": loose, "imu": block}, fed, start)
    expected = factor * variance * 0.01
    assert result.tracks["robot"].covariance[5, 5] == pytest.approx(expected, rel=0.02)


def test_the_order_of_arrival_of_gyro_samples_does_not_matter() -> None:
    fed = with_gyro()
    last = max(m.stamp for m in fed)
    results = []
    for order in (fed, fed[::-1]):
        estimator = Estimator(configuration({"odometry": ODOMETRY, "imu": GYRO}))
        results.append(newest(run(estimator, order, last)))
    np.testing.assert_array_equal(*results)


def test_a_unit_alone_makes_a_state_in_each_period_of_the_solver() -> None:
    space = {"manifold": "se3", "motion": "random_walk", "motion_sigma": [1.0] * 6}
    space["init"] = {"mode": "params"}
    fed = [imu(T0 + k * SECOND // 200, (0.3, -0.2, 0.5)) for k in range(201)]
    result = drive({"imu": {**GYRO, "axes": SPACE[2:], "sigma": [1e-3] * 3}}, fed, space)
    estimate = result.tracks["robot"]
    assert len(estimate.stamps) == 21
    turned = Rotation.from_quat(estimate.poses[-1][3:]).as_rotvec()
    np.testing.assert_allclose(turned, [0.3, -0.2, 0.5], atol=2e-3)


def test_a_gyro_carries_the_heading_over_a_pause_of_the_odometry() -> None:
    fed = [m for m in with_gyro() if m.sensor == "imu" or m.stamp in (T0, T0 + SECOND)]
    result = drive({"odometry": ODOMETRY, "imu": GYRO}, fed)
    assert yaw_of(newest(result)) == pytest.approx(TURN, abs=1e-2)
    assert result.tracks["robot"].covariance[0, 0] > 1.0  # where it went, nobody saw


def test_turns_are_multiplied_as_one_after_the_other() -> None:
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(37, 3))
    got = running_product(SO3.exp(torch.from_numpy(steps))).tensor.numpy()
    expected = Rotation.identity()
    for k, step in enumerate(steps):
        expected = expected * Rotation.from_rotvec(step)
        assert (expected.inv() * Rotation.from_quat(got[k + 1])).magnitude() < 1e-12


def test_the_turns_of_a_drifting_heading_count_and_the_heading_does_not() -> None:
    """Its heading begins anywhere."""
    block = {**GYRO, "axes": ["yaw"], "differential": True}
    fed: list[Measurement] = [odometry(T0 + k * SECOND // 20, 0.05 * k) for k in range(21)]
    fed += [
        imu(T0 + k * SECOND // 100, angles=(0.0, 0.0, 2.5 + TURN * k / 100)) for k in range(101)
    ]
    result = drive({"odometry": ODOMETRY, "imu": block}, fed)
    assert yaw_of(newest(result)) == pytest.approx(TURN, abs=0.01)


# ----- angles


def test_the_residual_of_tilt_is_the_error_of_roll_and_pitch() -> None:
    truth = rotation(0.0, 0.0, 0.8)
    up = torch.from_numpy(truth.inv().apply([0.0, 0.0, 1.0]))
    wrong = Rotation.from_rotvec([0.01, -0.02, 0.5]) * truth  # about the world's axes
    x = SE3(torch.from_numpy(np.concatenate([np.zeros(3), wrong.as_quat()])))
    np.testing.assert_allclose(tilt.residual(x, up), [0.01, -0.02], atol=0.006)
    assert max(check_jacobians(tilt, x, up).values()) < 1e-6


def test_roll_and_pitch_are_held_whatever_the_heading_of_the_unit() -> None:
    space = {"manifold": "se3", "motion": "random_walk", "motion_sigma": [0.1] * 6}
    space["init"] = {"mode": "params", "sigma": [0.3] * 6, "pose": [0.0] * 5 + [0.7]}
    block = {"type": "imu", "topic": "imu", "axes": ["roll", "pitch"], "covariance": "fixed"}
    block["sigma"] = [0.001, 0.001]
    fed = [imu(T0 + k * SECOND // 20, angles=(0.0, 0.0, 2.9)) for k in range(2)]
    # tilted by 0.1 rad about its own x axis, which points along the unit's heading
    fed = [replace(m, orientation=rotation(0.1, 0.0, 2.9).as_quat()) for m in fed]
    result = drive({"imu": block}, fed, space)
    yaw, pitch, roll = Rotation.from_quat(newest(result)[3:]).as_euler("ZYX")
    assert yaw == pytest.approx(0.7, abs=1e-3)  # the prior's, not the unit's
    np.testing.assert_allclose([roll, pitch], [0.1, 0.0], atol=1e-3)


@pytest.mark.parametrize("manifold", ["se2", "se3"])
def test_an_absolute_heading_holds_the_yaw(manifold: str) -> None:
    angles = (0.0, 0.0, 0.6)
    axes = ["yaw"] if manifold == "se2" else ["roll", "pitch", "yaw"]
    track = {"manifold": manifold, "motion": "random_walk"}
    track["init"] = {"mode": "params", "sigma": [0.5] * (3 if manifold == "se2" else 6)}
    mount = (0.2, -0.4, 1.0)
    block = {"type": "imu", "topic": "imu", "axes": axes, "extrinsic": [0.0] * 3 + list(mount)}
    result = drive({"imu": block}, [imu(T0, angles=angles, mount=mount)], track)
    assert yaw_of(newest(result)) == pytest.approx(0.6, abs=1e-3)


def test_a_message_holds_angles_and_twist_by_a_factor_group_each() -> None:
    space = {"manifold": "se3", "motion": "constant_velocity", "init": {"mode": "params"}}
    block = {"type": "imu", "topic": "imu"}
    fed = [imu(T0 + k * SECOND // 20, (0.0, 0.1, TURN), (0.0, 0.0, 0.0)) for k in range(3)]
    result = drive({"imu": block}, [*fed], space)
    model = build_registry(configuration({"imu": block}, space)).models["imu"]
    assert set(model.factors(fed[0], (T0,))) == {"imu.orientation", "imu.rate"}
    twist = result.tracks["robot"].twist
    assert twist is not None
    np.testing.assert_allclose(twist[3:], [0.0, 0.1, TURN], atol=0.1)


def test_an_orientation_ahead_of_the_odometry_waits_for_it_and_counts_once() -> None:
    block = {"type": "imu", "topic": "imu", "axes": ["yaw", "vyaw"]}
    estimator = Estimator(configuration({"odometry": ODOMETRY, "imu": block}))
    run(estimator, [odometry(T0, 0.0), odometry(T0 + SECOND // 20, 0.05)])
    ahead = T0 + SECOND // 10
    estimator.feed(imu(ahead, angles=(0.0, 0.0, 0.04)))
    estimator.step(ahead)
    assert estimator.counters["imu"].waiting == 1
    result = run(estimator, [odometry(ahead + SECOND // 50, 0.12)])
    assert estimator.counters["imu"].accepted == 1
    assert ahead in result.tracks["robot"].stamps
    assert estimator.counters["imu"].balanced


def test_differential_uses_the_orientation_and_needs_a_density() -> None:
    with pytest.raises(DnlsError, match=r"sensor\.imu\.axes.*the same motion"):
        configuration({"imu": {**GYRO, "differential": True}})
    with pytest.raises(DnlsError, match=r"sensor\.imu\.covariance.*fixed"):
        configuration(
            {"imu": {"type": "imu", "topic": "imu", "differential": True, "axes": ["yaw"]}}
        )


def test_the_pose_is_where_a_planar_fix_says_and_the_unit_turns_it() -> None:
    """A fix of x and y alone says nothing of the heading: the gyro does."""
    fix = {"type": "pose", "topic": "fix", "axes": ["x", "y"]}
    fed: list[Measurement] = [imu(T0 + k * SECOND // 100) for k in range(101)]
    for k in (0, 50, 100):
        pose = np.array([0.01 * k, 0, 0, 0, 0, 0, 1.0])
        fed.append(
            PoseMeasurement(
                sensor="fix",
                stamp=T0 + k * SECOND // 100,
                frame="map",
                pose=pose,
                covariance=1e-4 * np.eye(6),
            )
        )
    result = drive({"imu": GYRO, "fix": fix}, fed)
    np.testing.assert_allclose(newest(result)[:2], [1.0, 0.0], atol=0.01)
    assert yaw_of(newest(result)) == pytest.approx(TURN, abs=1e-2)


# ----- the simulated robot


@pytest.fixture(scope="module")
def drive_with_slips() -> Recording:
    """A quarter of a minute without tags; its odometry slips, its unit lies on its side."""
    return simulate(1, 15.0, replace(load_scene(), tags=()))


def dead_reckoning_error(recording: Recording, sensors: dict) -> tuple[float, float]:
    """RMSE of position [m] and yaw [rad] of the newest states, from the true start."""
    x, y, yaw = recording.truth[0]
    init = {"mode": "params", "pose": [x, y, yaw], "sigma": [1e-3] * 3}
    loose = {"cost_tolerance": 1e-6, "step_tolerance": 1e-7, "gradient_tolerance": 1e-8}
    config = configuration(sensors, {"init": init}, solver={"rate": 2.0, **loose})
    estimator, by_topic = Estimator(config), {s.topic: s for s in config.sensors}
    errors = []
    tick = recording.truth_stamps[0]
    for record in recording_records(recording):
        if record.topic not in by_topic:
            continue
        m = adapt_for(by_topic[record.topic], record.type, record.message)
        while m.stamp > tick:
            result = estimator.step(tick)
            tick += SECOND // 2
            if result is not None:
                k = np.searchsorted(recording.truth_stamps, result.stamp)
                error = np.array([*newest(result)[:2], yaw_of(newest(result))])
                errors.append(error - recording.truth[k])
        assert estimator.feed(m) is None
    squares = np.square(np.array(errors))
    squares[:, 2] = np.square((np.sqrt(squares[:, 2]) + np.pi) % (2 * np.pi) - np.pi)
    return float(np.sqrt(squares[:, :2].sum(1).mean())), float(np.sqrt(squares[:, 2].mean()))


def test_on_the_simulated_robot_the_gyro_makes_the_odometry_better(
    drive_with_slips: Recording,
) -> None:
    unit = drive_with_slips.scene.imu
    assert unit is not None
    mount = Rotation.from_matrix(unit.base_R_imu).as_euler("ZYX")[::-1].tolist()
    wheels = {"type": "odometry", "topic": "odom", "differential": True}
    gyro = {"type": "imu", "topic": "imu", "extrinsic": [*unit.base_p_imu.tolist(), *mount]}
    alone = dead_reckoning_error(drive_with_slips, {"wheels": wheels})
    both = dead_reckoning_error(drive_with_slips, {"wheels": wheels, "imu": gyro})
    assert both[0] < 0.7 * alone[0]
    assert both[1] < 0.2 * alone[1]
