"""A lifecycle node's life: parts built at configure, a gate between, taken down at cleanup.

Unless ``autostart`` is false, the node configures and activates itself. rclpy's lifecycle gates
neither subscriptions nor timers, so callbacks ask `ManagedNode.active` themselves. No input ends
the process; only a wrong configuration does, with exit code 2.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from dnls_ros.errors import DnlsError
from dnls_ros.ros.running import MISCONFIGURED, OK
from dnls_ros.ros.spin import make_executor, spin_until
from dnls_ros.ros.stopping import stop_on_signals


class Part(Protocol):
    """Something built at configure."""

    def stop(self) -> None:
        """Ends it."""


PartT = TypeVar("PartT", bound=Part)


class ManagedNode(LifecycleNode):
    """A lifecycle node made of parts; a subclass says how they are built.

    Attributes:
        ended: Set when the node was shut down.
    """

    def __init__(self, name: str, **options: Any) -> None:
        """Creates it, unconfigured; ``options`` are those of rclpy's Node."""
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **options)
        self.ended = threading.Event()
        self._parts: list[Part] = []
        self._open = threading.Event()

    @property
    def autostart(self) -> bool:
        """Whether the node configures and activates itself."""
        return not self.has_parameter("autostart") or self.get_parameter("autostart").value is True

    def active(self) -> bool:
        """Whether measurements may pass."""
        return self._open.is_set()

    def build(self) -> None:
        """Reads the parameters and builds everything; DnlsError if that cannot be."""
        raise NotImplementedError

    def add(self, part: PartT) -> PartT:
        """Remembers what must be stopped."""
        self._parts.append(part)
        return part

    def take_down(self) -> None:
        """Closes the gate and stops what was built, last first."""
        self._open.clear()
        while self._parts:
            self._parts.pop().stop()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Checks the parameters and builds everything; a mistake leaves the node unconfigured."""
        try:
            self.build()
        except DnlsError as error:
            self.take_down()
            self.get_logger().fatal(str(error))
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Opens the gate for measurements."""
        self._open.set()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Closes the gate; what came before is still worked on."""
        self._open.clear()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Takes everything down."""
        self.take_down()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Takes everything down for good, and with it the process."""
        self.take_down()
        self.ended.set()
        return TransitionCallbackReturn.SUCCESS


def run_managed(
    make: Callable[[], ManagedNode], name: str, args: Sequence[str] | None = None
) -> int:
    """Runs a node until SIGINT, SIGTERM or its shutdown; returns the exit code."""
    stop = stop_on_signals()
    try:
        rclpy.init(
            args=list(args) if args else None, signal_handler_options=SignalHandlerOptions.NO
        )
        node = make()
    except (
        Exception
    ) as error:  # a parameter file that ROS cannot parse; rclpy has no one class for it
        print(f"{name}: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return MISCONFIGURED
    executor = make_executor()
    executor.add_node(node)
    try:
        if node.autostart and not stop.is_set() and not _start(node):
            return MISCONFIGURED
        spin_until(executor, stop, node.ended)
        return OK
    finally:
        if not node.ended.is_set():
            node.trigger_shutdown()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


def _start(node: ManagedNode) -> bool:
    """Configures and activates; False if the configuration is wrong."""
    configured = node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    return configured and node.trigger_activate() == TransitionCallbackReturn.SUCCESS
