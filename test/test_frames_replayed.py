"""Frames through session and replay: what tf changes in a run, late or missing or in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from dnls_ros.io.bag import BagWriter
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class
from dnls_ros.io.faults import parse_fault
from dnls_ros.io.recording import write_recording
from dnls_ros.io.replay import ReplayOptions, ReplayResult, replay
from dnls_ros.io.scene import load_scene
from dnls_ros.io.simulate import simulate
from dnls_ros.runtime.session import Session
from dnls_ros.runtime.transforms import StampedTransform
from dnls_ros.runtime.types import Event
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.ingress import Settled
from dnls_ros.window.measurements import PoseMeasurement, Reason
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.rigid import angle_between, compose, from_rotation_vector, inverse

Array = NDArray[np.float64]
LOCALIZATION = Path(__file__).resolve().parents[1] / "config" / "localization_2d.yaml"
COMPOSE = Composer(message_class)
SECOND = 1_000_000_000
T0 = 1_000 * SECOND
MAP_T_SITE = from_rotation_vector(np.array([0.0, 0.0, 0.7]), np.array([4.0, -2.0, 0.0]))


def pose2(x: float, y: float, yaw: float) -> Array:
    return from_rotation_vector(np.array([0.0, 0.0, yaw]), np.array([x, y, 0.0]))


def truth(stamp: int) -> Array:
    seconds = (stamp - T0) / SECOND
    return pose2(0.5 * seconds, 0.2 * np.sin(seconds), 0.1 * seconds)


def arm(stamp: int) -> Array:
    """Where a marker on a moving arm sits on the robot."""
    angle = 0.8 * np.sin(2.0 * (stamp - T0) / SECOND)
    return pose2(0.3 * np.cos(angle), 0.3 * np.sin(angle), angle)


def configuration(timeout: float = 0.1, **fix: Any) -> EstimatorConfig:
    return load_parameters(
        {
            "world_frame": "map",
            "deterministic": True,
            "tracks": ["robot"],
            "sensors": ["fix"],
            "tf": {"timeout": timeout},
            "track": {
                "robot": {"manifold": "se2", "child_frame": "base", "motion": "constant_velocity",
                          "motion_sigma": [1.0, 1.0, 1.0]}
            },
            "sensor": {"fix": {"type": "pose", "topic": "fix", **fix}},
        }
    )  # fmt: skip


def fix(stamp: int, frame: str = "map") -> PoseMeasurement:
    value = truth(stamp) if frame == "map" else compose(inverse(MAP_T_SITE), truth(stamp))
    return PoseMeasurement(
        sensor="fix", stamp=stamp, frame=frame, pose=value, covariance=1e-4 * np.eye(6)
    )


SITE = StampedTransform("map", "site", 0, MAP_T_SITE)


def verdicts(session: Session) -> list[Settled]:
    """What was settled since the last call; the account is exact at every moment."""
    for sensor in session.status().sensors:
        assert sensor.balanced
    return [one for one in session.take() if isinstance(one, Settled)]


def test_a_measurement_waits_for_its_transform_and_is_used() -> None:
    session = Session(configuration())
    session.receive(fix(T0, "site"), T0)
    (sensor,) = session.status().sensors
    assert (sensor.received, sensor.waiting) == (1, 1)
    assert verdicts(session) == []
    session.advance(T0 + SECOND // 20)
    session.add_transforms([SITE], static=True)
    session.receive(fix(T0 + SECOND // 10, "site"), T0 + SECOND // 10)
    session.finish()
    assert [one.reason for one in verdicts(session)] == [Reason.ACCEPTED] * 2
    found = session.pose_at(T0)
    assert_allclose(found.pose, truth(T0), atol=1e-3)


def test_it_is_counted_when_the_transform_does_not_come() -> None:
    session = Session(configuration())
    session.receive(fix(T0, "site"), T0)
    session.advance(T0 + SECOND // 5)
    (settled,) = verdicts(session)
    assert settled.reason is Reason.UNKNOWN_FRAME
    assert "from 'site' to 'map'" in settled.text
    assert "sensor.fix.frame_override: map" in settled.text
    (sensor,) = session.status().sensors
    assert sensor.rejected == {Reason.UNKNOWN_FRAME: 1}


def test_a_transform_that_stays_behind_is_a_timeout() -> None:
    session = Session(configuration())
    session.add_transforms([replace(SITE, stamp=T0 - SECOND), replace(SITE, stamp=T0)])
    session.receive(fix(T0 + SECOND // 2, "site"), T0 + SECOND // 2)
    session.advance(T0 + SECOND)
    (settled,) = verdicts(session)
    assert settled.reason is Reason.TF_TIMEOUT
    assert "0.500 s too old" in settled.text


def test_a_reset_gives_up_what_waits() -> None:
    session = Session(configuration())
    session.receive(fix(T0, "site"), T0)
    assert session.reset("service").success
    (settled,) = verdicts(session)
    assert settled.reason is Reason.PAUSED


def test_transforms_that_are_refused_are_told() -> None:
    session = Session(configuration())
    session.add_transforms([replace(SITE, child="map")], static=True)
    (event,) = [one for one in session.take() if isinstance(one, Event)]
    assert event.code == "tf.refused"
    assert "own parent" in event.text


def record(path: Path, tf_delay: float = 0.01, slow: bool = False) -> Path:
    """A marker on a moving arm, tracked in the frame of a site; tf of both, at 20 Hz.

    A slow sensor sees the robot itself and says so 2 s later.
    """
    period = 0.05
    with BagWriter(path) as out:
        _write_tf(out, "tf_static", [("map", "site", 0, MAP_T_SITE)], T0 - SECOND)
        items: list[tuple[int, str, Any]] = []
        for k in range(-10, round(4.5 / period)):
            stamp = T0 + round(k * period * SECOND)
            link = ("base", "marker", stamp, arm(stamp))
            items.append((stamp + round(tf_delay * SECOND), "tf", link))
        for k in range(41):
            stamp = T0 + k * SECOND // 10 + 7_000_000
            seen = compose(inverse(MAP_T_SITE), compose(truth(stamp), arm(stamp)))
            message = COMPOSE.pose_with_covariance_stamped(stamp, "site", seen, 1e-4 * np.eye(6))
            items.append((stamp + 2_000_000, "fix", message))
            if slow:
                seen = COMPOSE.pose_with_covariance_stamped(
                    stamp + 3_000_000, "map", truth(stamp + 3_000_000), 1e-4 * np.eye(6)
                )
                items.append((stamp + 2 * SECOND, "slow", seen))
        for received, topic, item in sorted(items, key=lambda i: i[0]):
            if topic == "tf":
                _write_tf(out, "tf", [item], received)
            else:
                out.write(topic, item, received)
    return path


def _write_tf(
    out: BagWriter, topic: str, links: Sequence[tuple[str, str, int, Array]], received: int
) -> None:
    made = [COMPOSE.transform_stamped(t, parent, child, p) for parent, child, t, p in links]
    out.write(topic, message_class("tf2_msgs/msg/TFMessage")(transforms=made), received)


def largest_error(result: ReplayResult) -> float:
    causal = result.tracks["robot"].causal()
    assert len(causal.stamps) > 30
    return max(
        float(np.linalg.norm(p[:3] - truth(int(s))[:3])) + angle_between(p, truth(int(s)))
        for s, p in zip(causal.stamps, causal.poses, strict=True)
    )


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("tf") / "bag")


def test_a_recording_s_own_tf_carries_and_mounts(bag: Path) -> None:
    result = replay(bag, configuration(target_frame="marker"))
    counters = result.estimator.counters["fix"]
    assert (counters.received, counters.accepted) == (41, 41)
    assert largest_error(result) < 0.02


def test_a_slow_sensor_s_clock_does_not_end_the_patience_of_others(tmp_path: Path) -> None:
    """In order of stamps a clock that is 2 s ahead comes between a fix and its transform."""
    config = configuration(target_frame="marker")
    slow = replace(config.sensor("fix"), name="slow", topic="slow", target_frame="")
    both = config.with_sensors((*config.sensors, slow))
    result = replay(record(tmp_path / "bag", slow=True), both)
    for counters in result.estimator.counters.values():
        assert (counters.received, counters.accepted) == (41, 41)
    assert largest_error(result) < 0.02


def test_latched_transforms_hold_from_before_the_start(bag: Path) -> None:
    options = ReplayOptions(start=1.5, duration=2.0)
    result = replay(bag, configuration(target_frame="marker"), options)
    counters = result.estimator.counters["fix"]
    assert counters.received == counters.accepted > 0


def test_in_order_of_arrival_transforms_may_come_too_late(bag: Path, tmp_path: Path) -> None:
    """A fault that changes nothing asks for the order of arrival."""
    config = configuration(target_frame="marker")
    faults = (parse_fault("delay:fix:s=0"),)
    arrived = replay(bag, config, ReplayOptions(faults=faults))
    assert arrived.estimator.counters["fix"].accepted == 41
    assert largest_error(arrived) < 0.02
    late = record(tmp_path / "late", tf_delay=0.3)
    missed = replay(late, config, ReplayOptions(faults=faults)).estimator.counters["fix"]
    assert missed.rejected == {Reason.TF_TIMEOUT: 41}
    patient = configuration(timeout=1.0, target_frame="marker")
    waited = replay(late, patient, ReplayOptions(faults=faults))
    assert waited.estimator.counters["fix"].accepted == 41


def test_tf_can_be_lost_on_the_way(bag: Path) -> None:
    options = ReplayOptions(faults=(parse_fault("drop:tf_static:p=1"),))
    counters = replay(bag, configuration(target_frame="marker"), options).estimator.counters["fix"]
    assert counters.rejected == {Reason.UNKNOWN_FRAME: 41}


def test_a_given_mount_and_frame_need_no_tf(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as out:
        for k in range(41):
            stamp = T0 + k * SECOND // 10
            mount = pose2(0.3, 0.1, 0.5)
            message = COMPOSE.pose_with_covariance_stamped(
                stamp, "earth", compose(truth(stamp), mount), 1e-4 * np.eye(6)
            )
            out.write("fix", message, stamp)
    given = configuration(frame_override="map", extrinsic=[0.3, 0.1, 0.0, 0.0, 0.0, 0.5])
    assert largest_error(replay(tmp_path / "bag", given)) < 0.02
    unknown = replay(tmp_path / "bag", configuration()).estimator.counters["fix"]
    assert unknown.rejected == {Reason.UNKNOWN_FRAME: 41}
    assert "'earth'" in unknown.last_problem


@pytest.mark.parametrize("sensor", ["imu", "tags"])
def test_the_simulated_robot_s_tf_says_what_its_parameters_say(
    sensor: str, tmp_path: Path
) -> None:
    """A unit on its side and a tilted camera, mounted by /tf_static of the recording."""
    recording = write_recording(simulate(1, 4.0, load_scene()), tmp_path / "drive")
    config = replace(load_parameters(LOCALIZATION), deterministic=True)
    by_tf = config.with_sensors(
        tuple(replace(s, extrinsic=()) if s.name == sensor else s for s in config.sensors)
    )
    assert by_tf != config
    given, found = replay(recording.bag, config), replay(recording.bag, by_tf)
    for name, counters in given.estimator.counters.items():
        assert found.estimator.counters[name].accepted == counters.accepted > 0
    expected, poses = (one.tracks["robot"].causal() for one in (given, found))
    assert_allclose(poses.stamps, expected.stamps)
    assert_allclose(poses.poses, expected.poses, rtol=0.0, atol=1e-6)
    wrong = config.with_sensors(
        tuple(replace(s, extrinsic=(0.0,) * 6) if s.name == sensor else s for s in config.sensors)
    )
    off = replay(recording.bag, wrong).tracks["robot"].causal()
    shared = min(len(off.poses), len(expected.poses))
    assert np.abs(off.poses[:shared] - expected.poses[:shared]).max() > 1e-3
