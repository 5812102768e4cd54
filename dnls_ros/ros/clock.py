"""Jumps of the ROS clock, told to the session.

Data show most jumps by their own stamps. The clock shows one at once: simulated time that starts
anew, a recording that is played again.
"""

from __future__ import annotations

from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node

from dnls_ros.ros.inbox import Ask, Inbox


class ClockWatch:
    """Tells the session when the node's clock goes back, from configure to cleanup.

    Args:
        node: Whose clock.
        inbox: Where the session is reached.
        threshold: Smaller steps back are none [s].
    """

    def __init__(self, node: Node, inbox: Inbox, threshold: float) -> None:
        self._inbox = inbox
        backward = Duration(nanoseconds=-round(threshold * 1e9))
        limits = JumpThreshold(min_forward=None, min_backward=backward, on_clock_change=False)
        self._handle = node.get_clock().create_jump_callback(limits, post_callback=self._jumped)

    def stop(self) -> None:
        """Ends watching."""
        self._handle.unregister()

    def _jumped(self, jump: TimeJump) -> None:
        """Called on the executor's thread."""
        seconds = jump.delta.nanoseconds * 1e-9
        why = f"the clock went back by {-seconds:.3f} s"
        self._inbox.ask(Ask(lambda session: session.jump(True, why), lambda answer: None))
