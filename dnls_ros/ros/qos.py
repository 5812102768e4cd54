"""Topics of our nodes: with the quality of service that we chose, or that ``qos_overrides`` says.

``qos_overrides.<full topic>.subscription.depth`` (or ``publisher``; ``history``, ``reliability``,
``durability``) wins over what a node chooses itself. It counts whenever the topic is made; only
what was given is declared, so that a node's own parameters keep their say on the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from dnls_ros.errors import DnlsError
from dnls_ros.ros.types import message_class

Receive = Callable[[Any], None]

_WORDS: dict[QoSPolicyKind, type[IntEnum]] = {
    QoSPolicyKind.HISTORY: HistoryPolicy,
    QoSPolicyKind.RELIABILITY: ReliabilityPolicy,
    QoSPolicyKind.DURABILITY: DurabilityPolicy,
}
"""Policies that may be overridden, besides the depth, and their words."""


def publish_on(node: Node, type_name: str, topic: str, qos: QoSProfile) -> Publisher[Any]:
    """A publisher; DnlsError for an override that cannot be, or a type that is not installed."""
    options = _given(node, topic, "publisher")
    kind = message_class(type_name)
    return node.create_publisher(kind, topic, qos, qos_overriding_options=options)


def subscribe_to(
    node: Node,
    type_name: str,
    topic: str,
    receive: Receive,
    qos: QoSProfile,
    events: SubscriptionEventCallbacks | None = None,
) -> Subscription[Any]:
    """A subscription; DnlsError as for `publish_on`."""
    options = _given(node, topic, "subscription")
    return node.create_subscription(
        message_class(type_name),
        topic,
        receive,
        qos,
        event_callbacks=events,
        qos_overriding_options=options,
    )


def _given(node: Node, topic: str, entity: str) -> QoSOverridingOptions:
    """The overrides that were given for a topic, each with a value that it may have."""
    full = node.resolve_topic_name(topic)
    chosen: list[QoSPolicyKind] = []
    for policy in (*_WORDS, QoSPolicyKind.DEPTH):
        name = f"qos_overrides.{full}.{entity}.{policy.name.lower()}"
        if not node.has_parameter(name):
            continue
        value = node.get_parameter(name).value
        if policy in _WORDS:
            words = [one.name.lower() for one in _WORDS[policy] if one.name != "UNKNOWN"]
            if not (isinstance(value, str) and value.lower() in words):
                raise DnlsError(f"{name}: got {value!r}; expected one of {', '.join(words)}")
        elif type(value) is not int or value < 1:
            raise DnlsError(f"{name}: got {value!r}; expected an integer of at least 1")
        chosen.append(policy)
    return QoSOverridingOptions(chosen)


class EitherDurability:
    """Hears publishers that latch and such that do not: CameraInfo comes as both.

    A volatile subscription matches every publisher, but gets nothing of what a latched one said
    before. So one that is transient local joins it as soon as such a publisher is there; what
    comes twice must do no harm.
    """

    def __init__(
        self, node: Node, type_name: str, topic: str, receive: Receive, depth: int
    ) -> None:
        """Subscribes, best effort and volatile; `look` does the rest."""
        self._node = node
        self._type = type_name
        self._topic = topic
        self._receive = receive
        self._depth = depth
        qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._subscriptions = [subscribe_to(node, type_name, topic, receive, qos)]

    def look(self) -> None:
        """Looks whether a publisher latches; to be called now and then."""
        if len(self._subscriptions) > 1:
            return
        topic = self._node.resolve_topic_name(self._topic)
        offers = [info.qos_profile for info in self._node.get_publishers_info_by_topic(topic)]
        latched = DurabilityPolicy.TRANSIENT_LOCAL
        reliable = ReliabilityPolicy.RELIABLE  # else there is no history to be had
        if not any(o.durability == latched and o.reliability == reliable for o in offers):
            return
        qos = QoSProfile(depth=self._depth, reliability=reliable, durability=latched)
        silent = SubscriptionEventCallbacks(incompatible_qos=lambda _: None)  # the other hears it
        self._subscriptions.append(
            subscribe_to(self._node, self._type, self._topic, self._receive, qos, silent)
        )

    def stop(self) -> None:
        """Ends what listens."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
