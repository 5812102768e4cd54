"""Plays a recording over topics, paced by its receive stamps.

    python -m dnls_ros.ros.player RECORDING [--rate 2] [--topic NAME ...] [--namespace NAME]

Everything is serialized before the first message leaves, so that pacing costs nothing but the
sending. Messages keep their stamps: an estimator that works in data time gives the same result at
any rate it can keep up with. Playing begins when every topic in ``wait_for`` has a subscriber.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.bag import BagReader, Record
from dnls_ros.io.definitions import typestore
from dnls_ros.io.spoil import shift_stamp
from dnls_ros.io.tf_messages import TF_TOPICS
from dnls_ros.ros.types import is_available, message_class

DEPTH = 1000
"""Messages that a reliable publisher keeps for a slow reader."""
SETTLING = 0.2
"""After the last subscriber appeared, until its endpoints are matched both ways [s]."""


@dataclass(frozen=True)
class Sending:
    """One message ready to leave: when [ns], on which topic, and its bytes."""

    receive_stamp: int
    topic: str
    data: bytes


def load_sendings(
    path: Path | str, topics: Collection[str] | None = None, begin: int | None = None
) -> tuple[list[Sending], dict[str, str]]:
    """Reads and serializes a recording.

    Args:
        path: The recording.
        topics: Topics to play, with or without a leading ``/``; None plays all whose types are
            installed.
        begin: Moves all stamps so that the recording begins then [ns]; None keeps them.

    Returns:
        The messages in order of receive stamps, and the type of every topic.

    Raises:
        DnlsError: A chosen topic is not in the recording or its type is not installed.
        UnreadableInputError: The recording cannot be read.
    """
    with BagReader(path) as bag:
        types = {name: topic.type for name, topic in bag.topics.items()}
        chosen = _choose(types, topics, str(path))
        sendings = sendings_of(bag.records(chosen), 0 if begin is None else begin - bag.start)
    return sendings, {name: types[name] for name in chosen}


def sendings_of(records: Iterable[Record], shift: int = 0) -> list[Sending]:
    """Records serialized, their stamps moved by ``shift`` [ns]."""
    store = typestore()
    return [
        Sending(record.receive_stamp + shift, record.topic, _serialize(store, record, shift))
        for record in records
    ]


def _serialize(store: Any, record: Any, shift: int) -> bytes:
    """A message as CDR, its stamps moved by ``shift`` [ns]."""
    message = record.message
    if shift and hasattr(message, "transforms"):
        moved = [shift_stamp(transform, shift) for transform in message.transforms]
        message = dataclasses.replace(message, transforms=moved)
    elif shift:
        message = shift_stamp(message, shift)
    return bytes(store.serialize_cdr(message, record.type))


def _choose(types: Mapping[str, str], topics: Collection[str] | None, path: str) -> list[str]:
    """The topics to play, as the recording spells them."""
    if topics is None:
        return [name for name, kind in types.items() if is_available(kind)]
    by_name = {name.lstrip("/"): name for name in types}
    for topic in topics:
        if topic.lstrip("/") not in by_name:
            raise DnlsError(f"recording {path} has no topic {topic}; it has {', '.join(types)}")
        message_class(types[by_name[topic.lstrip("/")]])
    return [by_name[topic.lstrip("/")] for topic in topics]


class Player:
    """Publishers for a recording's topics, relative to the node's namespace."""

    def __init__(self, node: Node, types: Mapping[str, str]) -> None:
        """Creates a reliable publisher per topic; that of static transforms is latched."""
        self._publishers: dict[str, Publisher] = {
            name: node.create_publisher(message_class(kind), name.lstrip("/"), _qos(name))
            for name, kind in types.items()
        }

    def wait_for_subscribers(
        self,
        topics: Collection[str],
        timeout: float = 10.0,
        hopeful: Callable[[], bool] = lambda: True,
    ) -> None:
        """Waits until someone listens to each of the topics.

        Args:
            topics: Names, with or without a leading ``/``.
            timeout: Longest wait [s].
            hopeful: Whether there is still someone who could subscribe.

        Raises:
            DnlsError: Nobody subscribed in time, or there is no hope.
        """
        wanted = {topic.lstrip("/") for topic in topics}
        deadline = time.monotonic() + timeout
        while missing := wanted - self.subscribed():
            if time.monotonic() > deadline or not hopeful():
                raise DnlsError(
                    f"nobody subscribed to {', '.join(sorted(missing))} within {timeout:g} s"
                )
            time.sleep(0.02)
        time.sleep(SETTLING)

    def wait_for_anyone(self, timeout: float = 10.0) -> None:
        """Waits until someone listens and no further topic finds a listener for a moment."""
        deadline = time.monotonic() + timeout
        before: set[str] = set()
        while not before or before != self.subscribed():
            if time.monotonic() > deadline:
                raise DnlsError(f"nobody subscribed to any topic within {timeout:g} s")
            before = self.subscribed()
            time.sleep(3 * SETTLING)

    def subscribed(self) -> set[str]:
        """Topics that have a subscriber, without leading ``/``."""
        publishers = self._publishers.items()
        return {name.lstrip("/") for name, p in publishers if p.get_subscription_count()}

    def play(
        self,
        sendings: Sequence[Sending],
        rate: float = 1.0,
        on_send: Callable[[Sending], object] | None = None,
    ) -> Counter[str]:
        """Publishes in order, ``rate`` times as fast as recorded; 0 means without pauses.

        Args:
            sendings: Messages in order of receive stamps.
            rate: Speed.
            on_send: Shown each message just before it leaves.

        Returns:
            How many were sent on each topic.
        """
        if not rate >= 0.0:
            raise DnlsError(f"rate is {rate}; expected 0 (no pauses) or a positive number")
        sent: Counter[str] = Counter()
        start = time.monotonic()
        for sending in sendings:
            if rate > 0.0:
                elapsed = (sending.receive_stamp - sendings[0].receive_stamp) * 1e-9 / rate
                time.sleep(max(0.0, start + elapsed - time.monotonic()))
            if on_send is not None:
                on_send(sending)
            self._publishers[sending.topic].publish(sending.data)
            sent[sending.topic] += 1
        return sent


def _qos(topic: str) -> QoSProfile:
    """Of a topic's publisher."""
    latched = TF_TOPICS.get(topic.rpartition("/")[2], False)  # of a namespace too
    return QoSProfile(
        depth=DEPTH,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays a recording from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Plays a recording over ROS 2 topics.")
    parser.add_argument("recording", type=Path)
    parser.add_argument("--rate", type=float, default=1.0, help="speed; 0: no pauses")
    parser.add_argument("--topic", action="append", help="play only this one (repeatable)")
    parser.add_argument("--namespace", default="", help="namespace of the topics")
    parser.add_argument("--timeout", type=float, default=10.0, help="for subscribers [s]")
    chosen = parser.parse_args(arguments)
    try:
        sendings, types = load_sendings(chosen.recording, chosen.topic)
        rclpy.init(args=[])
        player = Player(rclpy.create_node("dnls_player", namespace=chosen.namespace), types)
        player.wait_for_anyone(chosen.timeout)
        sent = player.play(sendings, chosen.rate)
    except UnreadableInputError as error:
        print(f"player: {error}", file=sys.stderr)
        return 3
    except DnlsError as error:
        print(f"player: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        rclpy.try_shutdown()
    print(", ".join(f"{topic} {count}" for topic, count in sorted(sent.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
