"""What is broadcast on tf: directly or as map to odom, smoothly if asked, and rivals named."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from dnls_ros.runtime.tf_output import MOST_WAITING, TfOutput
from dnls_ros.runtime.transforms import StampedTransform
from dnls_ros.runtime.types import Event
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.rigid import angle_between, compose, from_rotation_vector

Array = NDArray[np.float64]
SECOND = 1_000_000_000
T0 = 1_000 * SECOND


def pose(x: float = 0.0, y: float = 0.0, yaw: float = 0.0) -> Array:
    return from_rotation_vector(np.array([0.0, 0.0, yaw]), np.array([x, y, 0.0]))


def at(seconds: float) -> int:
    return T0 + round(seconds * SECOND)


def output(parent: str = "map", child: str = "base_link", **publish: Any) -> TfOutput:
    config = load_parameters(
        {
            "tracks": ["robot"],
            "sensors": ["fix"],
            "publish": {"tf": True, **publish},
            "track": {"robot": {"parent_frame": parent, "child_frame": child}},
            "sensor": {"fix": {"type": "pose", "topic": "fix"}},
        }
    )
    return TfOutput(config)


def odometry(seconds: float, value: Array) -> StampedTransform:
    return StampedTransform("odom", "base_link", at(seconds), value)


def told(made: TfOutput) -> list[StampedTransform]:
    transforms, events = made.due()
    assert not events
    return transforms


def test_a_track_is_broadcast_in_its_parent_frame() -> None:
    made = output("odom", tf_offset=0.05)
    assert made.children == {"base_link"}
    made.estimate("robot", at(1.0), pose(1.0))
    (sent,) = told(made)
    assert (sent.parent, sent.child, sent.stamp) == ("odom", "base_link", at(1.05))
    assert_allclose(sent.pose, pose(1.0))


def test_of_several_estimates_the_newest_counts_and_stamps_increase() -> None:
    made = output("odom")
    for seconds in (1.0, 2.0):
        made.estimate("robot", at(seconds), pose(seconds))
    (sent,) = told(made)
    assert sent.stamp == at(2.0)
    for seconds in (2.0, 1.5):
        made.estimate("robot", at(seconds), pose())
        assert told(made) == []
    assert told(made) == []


def test_nothing_is_broadcast_unless_asked_for() -> None:
    made = output("odom", tf=False)
    made.estimate("robot", at(1.0), pose(1.0))
    assert told(made) == []
    assert not made.children
    assert made.hear([odometry(1.0, pose())], False) == []


def test_map_to_odom_is_what_the_odometry_lacks() -> None:
    made = output()
    assert made.children == {"odom"}
    made.hear([odometry(1.0, pose(1.0)), odometry(2.0, pose(2.0, 1.0, 0.5))], False)
    made.estimate("robot", at(1.5), pose(7.0, 3.0, 1.0))
    (sent,) = told(made)
    assert (sent.parent, sent.child, sent.stamp) == ("map", "odom", at(1.5))
    assert_allclose(compose(sent.pose, pose(1.5, 0.5, 0.25)), pose(7.0, 3.0, 1.0), atol=1e-12)


def test_an_estimate_ahead_of_the_odometry_waits_for_it() -> None:
    made = output()
    made.hear([odometry(1.0, pose())], False)
    made.estimate("robot", at(1.0), pose(5.0))
    made.estimate("robot", at(1.1), pose(6.0))
    (sent,) = told(made)
    assert sent.stamp == at(1.0)
    made.hear([odometry(1.2, pose())], False)
    (sent,) = told(made)
    assert sent.stamp == at(1.1)
    assert_allclose(sent.pose, pose(6.0), atol=1e-12)


def test_missing_odometry_is_told_once() -> None:
    made, events = output(), list[Event]()
    for k in range(3 * MOST_WAITING):
        made.estimate("robot", at(0.1 * k), pose())
        transforms, more = made.due()
        assert not transforms
        events += more
    (event,) = events
    assert event.code == "tf.missing"
    assert "'odom' to 'base_link'" in event.text
    assert "track.robot.parent_frame: odom" in event.text


def test_other_tracks_of_the_map_are_broadcast_directly() -> None:
    made = output("map", "box")
    made.estimate("robot", at(1.0), pose(1.0))
    (sent,) = told(made)
    assert (sent.parent, sent.child) == ("map", "box")


def test_steps_of_map_to_odom_are_limited() -> None:
    made = output(max_slew_linear=0.5, max_slew_angular=0.1)
    seconds, jump = 0.0, pose(1.0, 0.0, 0.3)
    made.hear([odometry(0.0, pose()), odometry(20.0, pose())], False)
    made.estimate("robot", at(seconds), pose())
    before = told(made)[0]
    while angle_between(before.pose, jump) > 1e-6:
        seconds += 0.2
        assert seconds < 5.0
        made.estimate("robot", at(seconds), jump)
        (sent,) = told(made)
        assert np.linalg.norm(sent.pose[:3] - before.pose[:3]) <= 0.5 * 0.2 + 1e-9
        assert angle_between(sent.pose, before.pose) <= 0.1 * 0.2 + 1e-9
        before = sent
    assert_allclose(before.pose, jump, atol=1e-6)
    assert seconds >= 0.3 / 0.1 - 1e-9  # the turn took longest
    made.restart()
    made.hear([odometry(seconds, pose()), odometry(20.0, pose())], False)
    made.estimate("robot", at(seconds), pose(-9.0))
    assert_allclose(told(made)[0].pose, pose(-9.0), atol=1e-9)  # a reset may jump


def test_a_direct_transform_is_never_held_back() -> None:
    made = output("odom", max_slew_linear=0.1)
    for k in range(2):
        made.estimate("robot", at(k), pose(10.0 * k))
        (sent,) = told(made)
        assert_allclose(sent.pose[0], 10.0 * k)


def test_another_broadcaster_of_the_same_frame_is_named_once() -> None:
    made = output()
    made.hear([odometry(1.0, pose())], False)
    made.estimate("robot", at(1.0), pose(5.0))
    (sent,) = told(made)
    assert made.hear([sent], False) == []  # our own voice
    rival = StampedTransform("/map", "/odom", at(1.0), pose(4.0))
    (event,) = made.hear([rival, rival], False)
    assert event.code == "tf.conflict"
    assert event.values == {"frame": "odom", "parent": "map"}
    assert "another node broadcasts 'odom'" in event.text
    assert made.hear([rival], False) == []
    (event,) = made.hear([StampedTransform("earth", "odom", 0, pose())], True)
    assert event.values["parent"] == "earth"
