"""Replays recordings through the estimator in lockstep and shows it: /clock and all outputs.

    ros2 run dnls_ros replay_node --ros-args -p bag:=run/bag -p params_file:=robot.yaml

With ``bag`` set the node replays it, again and again if ``loop`` is true, and ends: with exit code
0, with 2 if the configuration is wrong, with 3 if the recording is unreadable. Without, it serves
the action ``~/replay_bag`` until it is shut down. Files go into ``output_dir``, one folder per
recording, as ``dnls replay`` writes them.
"""

from __future__ import annotations

from dnls_ros.ros.stopping import hold_signals

if __name__ == "__main__":
    hold_signals()  # before the imports, which take seconds

import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from dnls_ros.errors import DnlsError
from dnls_ros.io.compose import Composer
from dnls_ros.ros.goals import GoalServer, describe
from dnls_ros.ros.publish import PublisherThread
from dnls_ros.ros.qos import publish_on
from dnls_ros.ros.replaying import (
    Progress,
    Replayed,
    Request,
    StoppedError,
    Watch,
    make_request,
    run_replay,
)
from dnls_ros.ros.running import OK, PlainNode, Setting, exit_code_of, run_node
from dnls_ros.ros.types import message_class
from dnls_ros.runtime.types import Event, Level, Output, Status
from dnls_ros.window.config import EstimatorConfig

if TYPE_CHECKING:
    from dnls_ros.runtime.session import Session

NAME = "dnls_replay"
ACTION = "dnls_ros/action/ReplayBag"
MOST_WAITING = 500
"""Outputs that may wait for the publisher: less than it keeps."""
SETTINGS = {
    "bag": Setting("", "recording to replay; '' = serve the action"),
    "params_file": Setting("", "parameter file of the estimator"),
    "rate": Setting(0.0, "times real time; 0 = as fast as possible"),
    "start_offset": Setting(0.0, "skip so much [s]"),
    "duration": Setting(0.0, "stop after so much [s]; 0 = all"),
    "loop": Setting(False, "again and again"),
    "publish": Setting(True, "/clock and all outputs"),
    "output_dir": Setting("~/.ros/dnls/replay", "folder for the results"),
}


class NodeStage:
    """Shows replays with one configuration on a node's topics, one after the other."""

    def __init__(self, node: Node, clock: Any, config: EstimatorConfig) -> None:
        """Creates the topics of the estimator node."""
        self.config = config
        self._publisher = PublisherThread(node, config)
        self._clock = clock
        self._composer = Composer(message_class)

    def begin(self) -> None:
        """Another replay begins: stamps start anew."""
        text = "a replay begins"
        self._publisher.put(Event(0, Level.INFO, "time.jump_back", text))

    def clock(self, stamp: int) -> None:
        """Publishes data time."""
        now = self._composer.time(stamp)
        self._clock.publish(message_class("rosgraph_msgs/msg/Clock")(clock=now))

    def put(self, output: Output | Status) -> None:
        """Publishes what the session said, all of it: a fast replay waits."""
        while self._publisher.waiting > MOST_WAITING:
            time.sleep(1e-3)
        self._publisher.put(output)

    def look(self, session: Session) -> None:
        """Publishes the window where someone listens to it."""
        self._publisher.look(session.estimator)

    def stop(self) -> None:
        """Publishes what is left and removes the topics."""
        self._publisher.stop()


@dataclass(frozen=True, eq=False)
class Job:
    """A replay that is asked for: what, who hears of its progress and of its end; how often."""

    request: Request
    report: Callable[[Progress], object]
    done: Callable[[Replayed | Exception], object]
    loop: bool = False


class ReplayNode(PlainNode):
    """Replays recordings, one at a time, on a thread of its own."""

    def __init__(self) -> None:
        """Declares the parameters and offers the action."""
        # Its own time is that of the recording, which it publishes itself.
        super().__init__(NAME, SETTINGS, sim_time=True)
        # Time sources listen to /clock, whatever the namespace.
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._clock_publisher = publish_on(self, "rosgraph_msgs/msg/Clock", "/clock", qos)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._stage: NodeStage | None = None
        self._server = GoalServer(self, ACTION, "~/replay_bag", self)
        if self.setting("bag"):
            self._play()

    def stop(self) -> None:
        """Ends the replay that runs, and the action."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._stage is not None:
            self._stage.stop()
        self._server.destroy()

    def _play(self) -> None:
        """Replays what the parameters name, then ends the process."""
        names = ("bag", "params_file", "rate", "start_offset", "duration", "publish")
        request = make_request(*(self.setting(name) for name in names))
        log = self.get_logger()

        def report(progress: Progress) -> None:
            log.info(
                f"{100 * progress.share:.0f} %, {progress.rtf:.1f} times real time",
                throttle_duration_sec=5.0,
            )

        def done(answer: Replayed | Exception) -> None:
            if isinstance(answer, Replayed):
                log.info(f"{answer.message}: {answer.trajectory}, sha256 {answer.sha256}")
                self.end(OK)
            elif isinstance(answer, StoppedError):
                log.info(str(answer))
                self.end(OK)
            else:
                log.fatal(describe(answer))
                self.end(exit_code_of(answer))

        self._begin(Job(request, report, done, self.setting("loop")))

    def _begin(self, job: Job) -> None:
        """Starts a replay; ``job.done`` is called on its thread."""
        self._busy = True
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(job,), name="replay")
        self._thread.start()

    def _run(self, job: Job) -> None:
        """One replay or many; whatever goes wrong is the result."""
        import torch

        torch.set_num_threads(job.request.config.num_threads)
        answer = self._once(job)
        while job.loop and isinstance(answer, Replayed):
            self.get_logger().info(f"{answer.message}; again")
            answer = self._once(job)
        self._busy = False
        job.done(answer)

    def _once(self, job: Job) -> Replayed | Exception:
        """One replay."""
        try:
            stage = self._stage_for(job.request)
            watch = Watch(self._stop, stage, job.report)
            return run_replay(job.request, self._folder(job.request.bag), watch)
        except DnlsError as error:
            return error
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            self.get_logger().error(f"the replay failed\n{trace}")
            return error

    def _stage_for(self, request: Request) -> NodeStage | None:
        """Where a replay is shown; topics stay as long as the configuration does."""
        if not request.publish:
            return None
        if self._stage is None or self._stage.config != request.config:
            if self._stage is not None:
                self._stage.stop()
            self._stage = NodeStage(self, self._clock_publisher, request.config)
        self._stage.begin()
        return self._stage

    def _folder(self, bag: Path) -> Path:
        """Where the results of a recording go: named after it."""
        resolved = bag.resolve()
        name = resolved.stem if resolved.is_file() else resolved.name
        return Path(self.setting("output_dir")).expanduser() / name

    @property
    def busy(self) -> bool:
        """Whether a replay runs."""
        return self._busy

    @property
    def stop_event(self) -> threading.Event:
        """What ends it."""
        return self._stop

    def begin(
        self, goal: Any, feedback: Callable[..., object], done: Callable[[Any], object]
    ) -> None:
        """Starts the replay of a goal, which sends feedback while it runs."""
        config = goal.config_path or self.setting("params_file")
        numbers = goal.rate, goal.start_offset, goal.duration
        request = make_request(goal.bag, config, *numbers, goal.publish)
        composer = Composer(message_class)

        def report(progress: Progress) -> None:
            stamp = composer.time(progress.stamp)
            feedback(stamp=stamp, progress=progress.share, rtf=progress.rtf)

        self._begin(Job(request, report, done))

    def fill(self, result: Any, answer: Replayed) -> None:
        """Writes what a replay left behind into a result."""
        result.success, result.message = True, answer.message
        result.trajectory_path = str(answer.trajectory)
        result.sha256, result.coverage = answer.sha256, answer.coverage


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; returns the exit code."""
    # Its goals wait for minutes: the events executor would ask them again all the time.
    return run_node(ReplayNode, SingleThreadedExecutor, args)


if __name__ == "__main__":
    sys.exit(main())
