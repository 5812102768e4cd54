"""Samples of tf as measurements: when they are taken, what waits, what is counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from dnls_ros.runtime.session import Session
from dnls_ros.runtime.tf_pose import TfPoses
from dnls_ros.runtime.transforms import StampedTransform, TransformBuffer
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.measurements import OdometryMeasurement, PoseMeasurement, Reason, Rejection
from dnls_ros.window.parameters import load_parameters

MS = 1_000_000
T0 = 1_000_000 * MS


def configuration(odometry: bool = True, **sensor: Any) -> EstimatorConfig:
    tool = {
        "type": "tf_pose",
        "target_frame": "tool",
        "sigma": [0.001, 0.001, 0.002],
        **sensor,
    }
    odom = {
        "type": "odometry",
        "topic": "odom",
        "differential": True,
        "covariance": "fixed",
        "sigma": [0.1, 0.1, 0.1],
    }
    sensors = {"tool": tool, "odom": odom} if odometry else {"tool": tool}
    track = {"child_frame": "tool", "parent_frame": "world", "motion": "none"}
    settings = {"deterministic": True, "tracks": ["arm"], "track": {"arm": track}}
    return load_parameters({**settings, "sensors": list(sensors), "sensor": sensors})


def moved(stamp: int) -> StampedTransform:
    """The tool runs along x with 1 m/s."""
    pose = np.array([(stamp - T0) * 1e-9, 0, 0, 0, 0, 0, 1.0])
    return StampedTransform("world", "tool", stamp, pose)


def odometry(stamp: int) -> OdometryMeasurement:
    pose = np.array([0, 0, 0, 0, 0, 0, 1.0])
    return OdometryMeasurement(
        sensor="odom",
        stamp=stamp,
        frame="odom",
        pose=pose,
        child_frame="tool",
        twist=np.zeros(6),
    )


def rig(**settings: Any) -> tuple[TfPoses, TransformBuffer]:
    config = configuration(**settings)
    buffer = TransformBuffer(config.tf.cache)
    return TfPoses(config, buffer), buffer


def feed(sampler: TfPoses, buffer: TransformBuffer, *stamps: int) -> list:
    transforms = [moved(s) for s in stamps]
    assert buffer.add(transforms, static=False) == []
    sampler.saw_transforms(transforms)
    return sampler.take()


def test_tf_is_sampled_at_the_stamps_of_the_other_sensors_once_it_reaches_them() -> None:
    sampler, buffer = rig()
    assert feed(sampler, buffer, T0) == []
    sampler.saw(odometry(T0 + 5 * MS))
    sampler.saw(odometry(T0 + 5 * MS))
    assert sampler.take() == []
    (m,) = feed(sampler, buffer, T0 + 20 * MS)
    assert isinstance(m, PoseMeasurement)
    assert (m.sensor, m.stamp, m.frame, m.sequence) == ("tool", T0 + 5 * MS, "world", 0)
    np.testing.assert_allclose(m.pose[0], 0.005, atol=1e-12)
    assert m.covariance is None
    sampler.saw(odometry(T0 + 5 * MS))  # another sensor, the same stamp
    assert sampler.take() == []


def test_with_a_rate_tf_is_sampled_at_multiples_of_its_period() -> None:
    sampler, buffer = rig(expected_rate=100.0)
    taken = feed(sampler, buffer, T0 + 3 * MS)
    for k in range(1, 9):
        taken += feed(sampler, buffer, T0 + 3 * MS + 7 * k * MS)
    assert [m.stamp for m in taken] == [T0 + 10 * MS * k for k in range(1, 6)]


def test_where_there_are_no_other_sensors_each_transform_is_a_sample() -> None:
    sampler, buffer = rig(odometry=False)
    taken = feed(sampler, buffer, T0, T0 + 10 * MS)
    assert [m.stamp for m in taken] == [T0, T0 + 10 * MS]


def test_what_waits_longer_than_the_timeout_is_counted_with_its_frames() -> None:
    sampler, buffer = rig()
    feed(sampler, buffer, T0)
    sampler.saw(odometry(T0 + 5 * MS))
    assert sampler.take() == []
    sampler.saw(odometry(T0 + 200 * MS))
    (refused,) = sampler.take()
    assert isinstance(refused, Rejection)
    assert (refused.reason, refused.stamp) == (Reason.TF_TIMEOUT, T0 + 5 * MS)
    assert "world → tool" in refused.text


def test_a_frame_that_nobody_knows_is_named() -> None:
    sampler, _ = rig()
    sampler.saw(odometry(T0))
    sampler.saw(odometry(T0 + 200 * MS))
    (refused,) = sampler.take()
    assert isinstance(refused, Rejection)
    assert refused.reason is Reason.UNKNOWN_FRAME


def test_a_jump_of_data_time_makes_no_flood_of_samples() -> None:
    sampler, buffer = rig(expected_rate=100.0)
    feed(sampler, buffer, T0)
    taken = feed(sampler, buffer, T0 + 3_600_000 * MS)
    assert len(taken) <= 2


def test_the_session_estimates_a_track_by_tf_alone() -> None:
    session = Session(configuration(odometry=False))
    for k in range(40):
        session.add_transforms([moved(T0 + 10 * MS * k)])
    session.finish()
    counters = session.estimator.counters["tool"]
    assert counters.accepted == counters.received == 40
    at = session.pose_at(T0 + 300 * MS)
    assert at.success
    np.testing.assert_allclose(at.pose[0], 0.3, atol=1e-3)


def test_the_session_gives_each_state_of_the_odometry_its_pose_by_tf() -> None:
    session = Session(configuration())
    for k in range(40):
        session.receive(odometry(T0 + 10 * MS * k + 3 * MS), T0 + 10 * MS * k + 3 * MS)
        session.add_transforms([moved(T0 + 10 * MS * k)])
    session.finish()
    counters = session.estimator.counters["tool"]
    assert counters.accepted >= 37
    np.testing.assert_allclose(session.pose_at(T0 + 203 * MS).pose[0], 0.203, atol=2e-3)


def test_where_the_others_are_switched_off_each_transform_is_a_sample() -> None:
    session = Session(configuration())
    assert session.set_sensor_enabled("odom", False).success
    for k in range(20):
        session.add_transforms([moved(T0 + k * 50 * MS)])
    session.finish()
    health = {s.name: s for s in session.status().sensors}["tool"]
    assert health.accepted == 20
