"""A simulated finger that pushes an object, as the topics of a robot: a node.

    ros2 run dnls_ros sim_push_node --ros-args -p scene:=push_disc -p duration:=60.0

Tactile images, forces, the poses of finger and object and the truth leave as they would from real
drivers, stamped with the time at which they are sent; ``faults`` spoils them as ``dnls sim
--fault`` does. It begins when someone listens to the images, and ends after ``duration``.
"""

from __future__ import annotations

from dnls_ros.ros.stopping import hold_signals

if __name__ == "__main__":
    hold_signals()  # before the imports, which take seconds

import sys
import threading
import time
from collections.abc import Sequence

from rclpy.executors import SingleThreadedExecutor

from dnls_ros.errors import DnlsError
from dnls_ros.io.faults import FaultInjector, parse_fault
from dnls_ros.io.push_recording import IMAGE_TOPIC, TOPIC_TYPES, push_records
from dnls_ros.io.push_scene import lasting, push_scene
from dnls_ros.io.sim_push_sensors import simulate_push
from dnls_ros.ros.player import Player, Sending, sendings_of
from dnls_ros.ros.running import OK, PlainNode, Setting, exit_code_of, run_node

NAME = "sim_push"
SETTINGS = {
    "scene": Setting("push_rect", "push_disc, push_rect, push_ellipse, push_polygon or a file"),
    "duration": Setting(60.0, "of the whole, at least one push [s]"),
    "seed": Setting(0.0, "of everything random, a whole number"),
    "faults": Setting((), "as dnls sim --fault takes them"),
    "wait": Setting(30.0, "for someone who listens to the images [s]"),
}


SERIALIZING = 2e-4
"""More than one message takes [s]."""


class StoppedError(Exception):
    """The node ends."""


class SimPushNode(PlainNode):
    """Simulates before it begins, then plays."""

    def __init__(self) -> None:
        """Checks the parameters and starts."""
        super().__init__(NAME, SETTINGS)
        faults = tuple(parse_fault(text) for text in self.setting("faults"))
        seed, duration = self.setting("seed"), self.setting("duration")
        if seed != int(seed) or seed < 0 or not 0 < duration < float("inf"):
            raise DnlsError(
                f"sim_push: seed {seed:g}, duration {duration:g}; expected a whole number of at "
                "least 0, and seconds above 0"
            )
        self._scene = lasting(push_scene(self.setting("scene")), duration)
        self._seed = int(seed)
        self._injector = FaultInjector(faults, self._seed, {topic: topic for topic in TOPIC_TYPES})
        self._stop = threading.Event()
        self._player = Player(self, TOPIC_TYPES)
        self._thread = threading.Thread(target=self._run, name="simulator")
        self._thread.start()

    def stop(self) -> None:
        """Ends playing."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            records = list(
                self._injector.apply(push_records(simulate_push(self._scene, self._seed)))
            )
            self._player.wait_for_subscribers(
                [IMAGE_TOPIC], self.setting("wait"), lambda: not self._stop.is_set()
            )
            # Stamps are those of sending: serializing everything takes a while before it.
            begin = self.get_clock().now().nanoseconds + round(len(records) * SERIALIZING * 1e9)
            sendings = sendings_of(records, begin - records[0].receive_stamp)
            if self._stop.wait(max(0, begin - self.get_clock().now().nanoseconds) * 1e-9):
                raise StoppedError
            sent = self._player.play(sendings, 1.0, self._look)
        except StoppedError:
            self.end(OK)
        except DnlsError as error:
            self.get_logger().fatal(str(error))
            self.end(exit_code_of(error))
        else:
            time.sleep(1.0)  # the last messages are on their way
            self.get_logger().info(", ".join(f"{t} {n}" for t, n in sorted(sent.items())))
            self.end(OK)

    def _look(self, sending: Sending) -> None:
        if self._stop.is_set():
            raise StoppedError


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; returns the exit code."""
    return run_node(SimPushNode, SingleThreadedExecutor, args)


if __name__ == "__main__":
    sys.exit(main())
