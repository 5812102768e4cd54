"""The publisher thread in this process, given results by hand: prefixes, jumps, changing rates."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("dnls_ros.msg")

from node_rig import wait_for
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from test_outputs import COMPOSE, SECOND, T0, configuration, pose, run, status

from dnls_ros.ros.live import free_domain, local_node
from dnls_ros.ros.publish import PublisherThread
from dnls_ros.ros.types import message_class
from dnls_ros.runtime.transforms import StampedTransform, Transforms
from dnls_ros.runtime.types import EstimatorState, Event, Level
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.results import StepResult
from dnls_ros.window.wanted import Wanted

pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, used by rclpy
]
ODOMETRY = "nav_msgs/msg/Odometry"


class Stage:
    """A publisher on a node of its own, and what a listener hears of it."""

    def __init__(self, config: EstimatorConfig, **topics: str) -> None:
        self.context = local_node("stage", free_domain())
        self.node = self.context.__enter__()
        self.publisher = PublisherThread(self.node, config)
        self.heard: dict[str, list[Any]] = defaultdict(list)
        names = {topic.replace("__", "/"): kind for topic, kind in topics.items()}
        made = [
            self.node.create_subscription(
                message_class(kind), topic, self.heard[topic].append, QoSProfile(depth=100)
            )
            for topic, kind in names.items()
        ]
        wait_for(
            lambda: all(self.node.count_publishers(s.topic_name) for s in made), 10.0, "topics"
        )
        time.sleep(0.3)

    def stamps(self, topic: str) -> list[int]:
        return [m.header.stamp.sec * SECOND + m.header.stamp.nanosec for m in self.heard[topic]]

    def close(self) -> None:
        self.publisher.stop()
        self.context.__exit__(None, None, None)


@pytest.fixture
def stages() -> Iterator[list[Stage]]:
    """Takes the stages down that a test set up."""
    made: list[Stage] = []
    yield made
    for stage in made:
        stage.close()


def moved(result: StepResult, by: int, **changes: Any) -> StepResult:
    """A result of another time [ns]."""
    tracks = {
        name: replace(track, stamps=track.stamps + by, **changes)
        for name, track in result.tracks.items()
    }
    return replace(result, stamp=result.stamp + by, tracks=tracks)


def published(config: EstimatorConfig, **changes: Any) -> EstimatorConfig:
    return replace(config, publish=replace(config.publish, **changes))


def test_topics_have_a_prefix_only_where_there_are_several_tracks(stages):
    one = configuration()
    first, second = one.tracks[0], replace(one.tracks[0], name="arm", child_frame="arm")
    hidden = replace(first, name="helper", child_frame="helper", publish=False)
    stages.append(Stage(replace(one, tracks=(first, hidden))))
    stages.append(Stage(replace(one, tracks=(first, second))))
    alone, both = (set(stage.publisher.topics()) for stage in stages)
    assert {"/odometry/filtered", "/pose", "/path", "/stage/window", "/diagnostics"} <= alone
    assert {"/robot/pose", "/arm/pose", "/arm/odometry/filtered", "/stage/arm/window"} <= both
    assert "/stage/markers" in both
    assert not {"/tf", "/odometry/predicted"} & (alone | both)


def test_only_a_jump_of_time_lets_stamps_go_back(stages):
    config = configuration()
    stages.append(Stage(config, odometry__filtered=ODOMETRY))
    (stage,) = stages
    result = run(config, count=2)[1][-1]
    for by in (0, 0, -SECOND, SECOND):
        stage.publisher.put(moved(result, by))
    stage.publisher.put(Event(T0, Level.WARN, "time.jump_back", "the bag starts anew"))
    stage.publisher.put(moved(result, -SECOND))
    wait_for(lambda: len(stage.heard["odometry/filtered"]) >= 3, 5.0, "odometry")
    time.sleep(0.2)
    assert np.array_equal(
        np.array(stage.stamps("odometry/filtered")) - result.stamp, [0, SECOND, -SECOND]
    )


def test_what_is_not_finite_or_not_accepted_does_not_leave(stages):
    config = configuration()
    stages.append(Stage(config, odometry__filtered=ODOMETRY))
    (stage,) = stages
    result = run(config, count=2)[1][-1]
    bad = np.full((2, 7), np.nan)
    stage.publisher.put(moved(result, 1, poses=bad))
    stage.publisher.put(replace(moved(result, 2), accepted=False))
    nowhere = np.full((6, 6), np.nan)
    stage.publisher.put(moved(result, 3, covariance=nowhere, twist=np.full(6, np.inf)))
    wait_for(lambda: bool(stage.heard["odometry/filtered"]), 5.0, "odometry")
    (message,) = stage.heard["odometry/filtered"]
    assert stage.stamps("odometry/filtered") == [result.stamp + 3]
    for covariance in (message.pose.covariance, message.twist.covariance):
        assert covariance[0] == pytest.approx(1e6, rel=1e-12)
    assert message.twist.twist.linear.x == 0.0


def test_predictions_start_and_stop_with_their_rate_and_with_tracking(stages):
    config = configuration()
    config = replace(config, health=replace(config.health, max_prediction=5.0))
    stages.append(Stage(config))
    (stage,) = stages
    listener = stage.heard["odometry/predicted"]
    stage.node.create_subscription(
        message_class(ODOMETRY), "odometry/predicted", listener.append, QoSProfile(depth=100)
    )
    estimator, results, _ = run(config, count=5)
    estimator.feed(pose(5))
    stage.publisher.put(status())
    faster = published(config, predicted_rate=50.0)
    stage.publisher.put(faster)
    wait_for(lambda: stage.publisher.wanted.prediction, 5.0, "the new rate")
    stage.publisher.look(estimator)
    result = estimator.step(pose(5).stamp)
    assert result is not None
    assert result.tracks["robot"].joint is not None
    now = stage.node.get_clock().now().nanoseconds
    stage.publisher.put(moved(result, now - result.stamp))
    wait_for(lambda: len(listener) > 10, 5.0, "predictions")
    assert listener[-1].pose.covariance[0] < 1.0  # known, and grown
    assert listener[-1].pose.covariance[0] > listener[0].pose.covariance[0]
    stage.publisher.put(status(state=EstimatorState.LOST))
    time.sleep(0.3)
    count = len(listener)
    time.sleep(0.3)
    assert len(listener) == count
    assert results


def test_map_to_odom_waits_for_odometry(stages):
    config = published(configuration(), tf=True)
    stages.append(Stage(config, tf="tf2_msgs/msg/TFMessage"))
    (stage,) = stages
    result = run(config, count=2)[1][-1]
    stage.publisher.put(result)
    time.sleep(0.3)
    assert not stage.heard["tf"]
    odom_T_base = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    around = [
        StampedTransform("odom", "base_link", result.stamp + by, odom_T_base) for by in (-10, 10)
    ]
    stage.publisher.put(Transforms(tuple(around), False))
    wait_for(lambda: bool(stage.heard["tf"]), 5.0, "map to odom")
    (sent,) = stage.heard["tf"][0].transforms
    assert (sent.header.frame_id, sent.child_frame_id) == ("map", "odom")
    where = result.tracks["robot"].poses[-1]
    turned = np.array([where[6] ** 2 - where[5] ** 2, 2 * where[5] * where[6]])
    expected = where[:2] - turned  # one metre ahead of odom
    got = sent.transform.translation
    assert [got.x, got.y] == pytest.approx(expected, abs=1e-9)


def test_predictions_follow_a_simulated_clock(stages):
    config = published(configuration(), predicted_rate=20.0)
    stages.append(Stage(config, odometry__predicted=ODOMETRY))
    (stage,) = stages
    stage.node.set_parameters([Parameter("use_sim_time", value=True)])
    kind = message_class("rosgraph_msgs/msg/Clock")
    clock = stage.node.create_publisher(kind, "/clock", QoSProfile(depth=10))
    result = run(config, Wanted(prediction=True), count=5)[1][-1]

    def tick(stamp: int) -> None:
        clock.publish(kind(clock=COMPOSE.time(stamp)))
        time.sleep(0.005)

    for _ in range(20):
        tick(result.stamp)
    stage.publisher.put(status())
    stage.publisher.put(result)
    for k in range(1, 41):  # 0.4 s of simulated time, twice as fast as real time
        tick(result.stamp + k * 10_000_000)
    time.sleep(0.2)  # the clock stands still
    stamps = stage.stamps("odometry/predicted")
    assert 5 <= len(stamps) <= 9  # never more than 20 in a simulated second
    assert (np.diff(stamps) > 0).all()
    assert stamps[-1] <= result.stamp + 400_000_000
