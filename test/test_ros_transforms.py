"""tf in the node: what is heard over DDS, and tf2's buffer behind our protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

rclpy = pytest.importorskip("rclpy")

from rclpy.context import Context  # noqa: E402 - after the check that ROS is there
from rclpy.executors import SingleThreadedExecutor  # noqa: E402 - ″
from rclpy.node import Node  # noqa: E402 - ″
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402 - ″

from dnls_ros.io.compose import Composer  # noqa: E402 - ″
from dnls_ros.io.convert import pose_from_fields, stamp_to_ns  # noqa: E402 - ″
from dnls_ros.ros import transforms as ros_transforms  # noqa: E402 - ″
from dnls_ros.ros.inbox import Inbox  # noqa: E402 - ″
from dnls_ros.ros.transforms import (  # noqa: E402 - ″
    Tf2Source,
    TransformSubscriptions,
    make_source,
    without,
)
from dnls_ros.ros.types import message_class  # noqa: E402 - ″
from dnls_ros.runtime.transforms import (  # noqa: E402 - ″
    Found,
    Impossible,
    NotYet,
    StampedTransform,
    TransformBuffer,
    Transforms,
)

pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")  # of lark

COMPOSE = Composer(message_class)
SECOND = 10**9


def shifted(x: float) -> np.ndarray:
    return np.array([x, 0, 0, 0, 0, 0, 1.0])


def tf_message(*links: tuple[str, str, int, float]) -> Any:
    made = [COMPOSE.transform_stamped(t, p, c, shifted(x)) for p, c, t, x in links]
    return message_class("tf2_msgs/msg/TFMessage")(transforms=made)


@pytest.fixture
def graph() -> Iterator[tuple[Node, Node, Callable[[Callable[[], bool]], None]]]:
    """A listener, a broadcaster, and a way to wait."""
    context = Context()
    rclpy.init(context=context)
    nodes = [
        Node(name, namespace="robot", context=context) for name in ("estimator", "state_publisher")
    ]
    executor = SingleThreadedExecutor(context=context)
    for node in nodes:
        executor.add_node(node)

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20.0
        while not condition():
            assert time.monotonic() < deadline
            executor.spin_once(timeout_sec=0.05)

    yield nodes[0], nodes[1], wait
    executor.shutdown()
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


def test_both_topics_reach_the_inbox_in_order(graph: Any) -> None:
    listener, other, wait = graph
    kind = message_class("tf2_msgs/msg/TFMessage")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    fixed = other.create_publisher(kind, "tf_static", latched)
    fixed.publish(tf_message(("base", "camera", 0, 0.5)))  # before anyone listens
    moving = other.create_publisher(kind, "tf", 100)
    inbox = Inbox([])
    heard: list[Transforms] = []
    subscriptions = TransformSubscriptions(listener, [inbox.put_uncounted, heard.append])
    wait(lambda: len(heard) == 1 and moving.get_subscription_count() == 1)
    for k in range(5):
        moving.publish(tf_message(("odom", "base", (1 + k) * SECOND, float(k)), ("", "x", 1, 0.0)))
    wait(lambda: len(heard) == 6)
    taken = [inbox.take(0.0) for _ in range(6)]
    assert taken == heard
    assert [one.static for one in heard] == [True] + 5 * [False]
    assert [one.transforms[0].stamp for one in heard[1:]] == [k * SECOND for k in range(1, 6)]
    subscriptions.stop()
    wait(lambda: moving.get_subscription_count() == 0)


def test_our_own_frames_are_no_input() -> None:
    links = tuple(
        StampedTransform(p, c, SECOND, shifted(1.0))
        for p, c in (("map", "/odom"), ("odom", "base"))
    )
    kept = without(frozenset({"odom"}), Transforms(links, False))
    assert [one.child for one in kept.transforms] == ["base"]


class FakeTf2(SimpleNamespace):
    """Names and signatures of ``tf2_py`` as its source has them, over our own buffer.

    It proves that `Tf2Source` calls what is there, and what becomes of each exception. It does not
    prove that tf2's buffer behaves as its documentation says.
    """

    class TransformException(Exception):  # noqa: N818 - tf2's name
        pass

    class LookupException(TransformException): ...

    class ExtrapolationException(TransformException): ...

    class BufferCore:
        def __init__(self, cache_time: Any) -> None:
            self.buffer = TransformBuffer(cache_time.nanoseconds * 1e-9)
            self.newest = 0

        def _set(self, message: Any, authority: str, static: bool) -> None:
            assert isinstance(message, message_class("geometry_msgs/msg/TransformStamped"))
            assert isinstance(authority, str)
            stamp = stamp_to_ns(message.header.stamp.sec, message.header.stamp.nanosec)
            self.newest = max(self.newest, stamp)
            one = StampedTransform(
                message.header.frame_id,
                message.child_frame_id,
                stamp,
                pose_from_fields(message.transform),
            )
            assert not self.buffer.add([one], static)

        def set_transform(self, message: Any, authority: str) -> None:
            self._set(message, authority, False)

        def set_transform_static(self, message: Any, authority: str) -> None:
            self._set(message, authority, True)

        def lookup_transform_core(self, target: str, source: str, time: Any) -> Any:
            assert not target.startswith("/")
            assert not source.startswith("/")
            found = self.buffer.lookup(target, source, time.nanoseconds)
            if isinstance(found, Found):
                return COMPOSE.transform_stamped(time.nanoseconds, target, source, found.pose)
            known = isinstance(found, Impossible) or found.known
            raise (FakeTf2.ExtrapolationException if known else FakeTf2.LookupException)(
                found.text
            )

        def get_latest_common_time(self, target: str, source: str) -> Any:
            return SimpleNamespace(nanoseconds=self.newest)

        def clear(self) -> None:
            self.buffer.clear()
            self.newest = 0


def test_tf2_behind_our_protocol() -> None:
    source = Tf2Source(FakeTf2, 30.0)
    before = source.revision
    fixed = [StampedTransform("/base", "/camera", 0, shifted(0.5))]
    assert source.add(fixed, True) == []
    moving = [StampedTransform("odom", "base", k * SECOND, shifted(float(k))) for k in (1, 2)]
    assert source.add(moving, False) == []
    assert source.revision > before
    found = source.lookup("/odom", "camera", 3 * SECOND // 2)
    assert isinstance(found, Found)
    assert_allclose(found.pose, shifted(2.0))
    ahead = source.lookup("odom", "camera", 3 * SECOND)
    assert isinstance(ahead, NotYet)
    assert ahead.known
    assert isinstance(source.lookup("odom", "camera", SECOND // 2), Impossible)
    unknown = source.lookup("odom", "gripper", SECOND)
    assert isinstance(unknown, NotYet)
    assert not unknown.known
    (refusal,) = source.add([StampedTransform("odom", "base", SECOND, np.zeros(7))], False)
    assert "norm 0" in refusal
    source.clear()
    assert isinstance(source.lookup("base", "camera", SECOND), Found)
    assert isinstance(source.lookup("odom", "base", SECOND), NotYet)


def test_tf2_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(ros_transforms.importlib, "import_module", absent)
    assert isinstance(make_source(30.0), TransformBuffer)
    monkeypatch.setattr(ros_transforms.importlib, "import_module", lambda _: FakeTf2)
    assert isinstance(make_source(30.0), Tf2Source)
