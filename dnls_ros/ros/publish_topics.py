"""Publishers by their quality of service, and periods on a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.ros.qos import publish_on


class Topics:
    """Creates a node's publishers and takes them down again."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publishers: list[Publisher[Any]] = []

    def add(self, type_name: str, topic: str, depth: int, latched: bool = False) -> Publisher[Any]:
        """A reliable publisher; a latched one keeps its last messages for late joiners."""
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        qos = QoSProfile(
            depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=durability
        )
        made = publish_on(self._node, type_name, topic, qos)
        self._publishers.append(made)
        return made

    @property
    def names(self) -> list[str]:
        """Fully resolved names."""
        return [publisher.topic_name for publisher in self._publishers]

    def stop(self) -> None:
        """Removes every publisher."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._publishers.clear()


@dataclass
class Every:
    """Something that is due once a period, on any clock that counts seconds.

    A clock that jumped back, or that stood still for long, starts a new period.

    Attributes:
        rate: [Hz]; 0 = never.
    """

    rate: float
    _next: float | None = None

    def due(self, now: float) -> bool:
        """Whether it is time; if so, the next period begins."""
        if self.rate <= 0.0:
            return False
        period = 1.0 / self.rate
        if self._next is None or self._next > now + period:
            self._next = now
        if now < self._next:
            return False
        missed = now - self._next >= period
        self._next = now + period if missed else self._next + period
        return True

    def wait(self, now: float) -> float:
        """How long until it is time [s]."""
        if self.rate <= 0.0:
            return float("inf")
        return 0.0 if self._next is None else min(max(self._next - now, 0.0), 1.0 / self.rate)
