"""tf for the node: what is heard goes to the solver thread through its inbox, like all data.

No listener of tf2_ros is used, on purpose. It would fill its buffer in the executor's thread while
the solver thread asks: whether a transform is there at a lookup would depend on the scheduler, a
run could not be repeated from its recording, and the solver thread would not own all it uses.
Here the transforms enter in the order of arrival, between the measurements that they belong to.
The buffer that the solver thread fills is tf2's own core where tf2_py is installed, so that odd
data are treated as by every other node, and `TransformBuffer` elsewhere and in replays.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time

from dnls_ros.io.compose import Composer
from dnls_ros.io.convert import pose_from_fields
from dnls_ros.io.tf_messages import TF_TOPICS, TF_TYPES, read_transforms
from dnls_ros.ros.qos import subscribe_to
from dnls_ros.ros.types import message_class
from dnls_ros.runtime.transforms import (
    Found,
    Impossible,
    Lookup,
    NotYet,
    StampedTransform,
    TransformBuffer,
    Transforms,
    TransformSource,
    bare,
    defect,
)

DEPTH = 100
"""Of both subscriptions, as in tf2."""
LOG_PERIOD = 5.0
"""Shortest time between two warnings about malformed transforms [s]."""


class TransformSubscriptions:
    """Listens to ``tf`` and ``tf_static``, from configure to cleanup.

    Before activation too: static transforms are latched, but dynamic ones must have a past.

    Args:
        node: Whose they are.
        sinks: What takes each message's transforms, such as ``Inbox.put_uncounted``; called in
            the executor's thread, must not block.

    Raises:
        UnavailableError: tf2_msgs is not installed.
    """

    def __init__(self, node: Node, sinks: Sequence[Callable[[Transforms], object]]) -> None:
        self._node = node
        self._sinks = tuple(sinks)
        self._subscriptions = [
            subscribe_to(node, TF_TYPES[0], topic, self._receiver(topic, static), _qos(static))
            for topic, static in TF_TOPICS.items()
        ]

    def stop(self) -> None:
        """Ends both."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _receiver(self, topic: str, static: bool) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            heard = read_transforms(message, static)
            for text in heard.problems:
                self._node.get_logger().warning(
                    f"{topic}: {text}", throttle_duration_sec=LOG_PERIOD
                )
            for sink in self._sinks:
                sink(heard)

        return receive


def _qos(static: bool) -> QoSProfile:
    """tf2's own."""
    latched = DurabilityPolicy.TRANSIENT_LOCAL if static else DurabilityPolicy.VOLATILE
    return QoSProfile(depth=DEPTH, durability=latched)


def without(frames: frozenset[str], heard: Transforms) -> Transforms:
    """The transforms without those of frames that we broadcast: an estimate is no measurement."""
    kept = tuple(one for one in heard.transforms if bare(one.child) not in frames)
    return replace(heard, transforms=kept)


def make_source(cache: float) -> TransformSource:
    """The solver thread's buffer: tf2's core where installed, else our own; ``cache`` [s]."""
    try:
        tf2 = importlib.import_module("tf2_py")
    except ImportError:
        return TransformBuffer(cache)
    return Tf2Source(tf2, cache)


class Tf2Source:
    """tf2's buffer core behind our protocol, filled and asked by one thread.

    Args:
        tf2: The module ``tf2_py``.
        cache: How long samples are kept [s].
    """

    def __init__(self, tf2: Any, cache: float) -> None:
        self._tf2 = tf2
        self._core = tf2.BufferCore(Duration(nanoseconds=round(cache * 1e9)))
        self._compose = Composer(message_class)
        self._revision = 0

    @property
    def revision(self) -> int:
        """Counts the calls that change something."""
        return self._revision

    def add(self, transforms: Sequence[StampedTransform], static: bool) -> list[str]:
        """Takes transforms in; a sentence for each that is refused."""
        refused: list[str] = []
        put = self._core.set_transform_static if static else self._core.set_transform
        for one in transforms:
            parent, child = bare(one.parent), bare(one.child)
            bad = defect(parent, child, one, static)
            if bad is not None:
                refused.append(f"transform of '{child}' in '{parent}' at {one.stamp} ns: {bad}")
                continue
            put(self._compose.transform_stamped(one.stamp, parent, child, one.pose), "dnls_ros")
        self._revision += 1
        return refused

    def lookup(self, target: str, source: str, stamp: int) -> Lookup:
        """target_T_source at ``stamp`` [ns]; tf2 does not say whether it is static."""
        target, source = bare(target), bare(source)
        try:
            found = self._core.lookup_transform_core(target, source, Time(nanoseconds=stamp))
        except self._tf2.ExtrapolationException as missing:
            return self._missing(target, source, stamp, str(missing))
        except self._tf2.TransformException as missing:  # unknown frames, or in different trees
            return NotYet(str(missing), False)
        return Found(pose_from_fields(found.transform), False)

    def clear(self) -> None:
        """Forgets dynamic transforms; static ones stay."""
        self._core.clear()
        self._revision += 1

    def _missing(self, target: str, source: str, stamp: int, text: str) -> NotYet | Impossible:
        """Whether waiting helps: it does if the newest common data are older than the stamp."""
        try:
            newest = self._core.get_latest_common_time(target, source).nanoseconds
        except self._tf2.TransformException:
            return NotYet(text, True)
        return NotYet(text, True) if newest < stamp else Impossible(text)
