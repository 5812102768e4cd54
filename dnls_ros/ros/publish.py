"""The publisher thread: everything that leaves the node on topics.

Composing messages in Python costs as much as a small solve, so it happens beside the solver, which
never waits for it: what comes faster than it can leave is dropped, oldest first, and counted. What
leaves is checked once more: finite, a covariance that means something, stamps that strictly
increase per topic. What only depends on time (status, diagnostics, predicted odometry) leaves
whether or not the solver says anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from itertools import chain

from rclpy.clock import ROSClock
from rclpy.node import Node

from dnls_ros.io.compose import Composer
from dnls_ros.ros.publish_health import HealthOutputs
from dnls_ros.ros.publish_queue import OutputQueue
from dnls_ros.ros.publish_tf import TfBroadcasts
from dnls_ros.ros.publish_topics import Every, Topics
from dnls_ros.ros.publish_tracks import TrackOutputs
from dnls_ros.ros.publish_window import WindowOutputs
from dnls_ros.ros.types import message_class
from dnls_ros.runtime.transforms import Transforms
from dnls_ros.runtime.types import Event, Level, Output, Status
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.ingress import Settled
from dnls_ros.window.results import StepResult
from dnls_ros.window.snapshot import WindowSnapshot, snapshot
from dnls_ros.window.wanted import Wanted

IDLE = 0.1
"""Longest sleep [s]; so long may it take until a new listener is noticed."""
SIMULATED_TICK = 0.002
"""Sleep while predicted odometry follows a simulated clock, whose steps nobody announces [s]."""
TIME_CODES = ("time.jump_back",)
"""Events after which stamps start anew."""
JUMP_CODES = (*TIME_CODES, "reset", "set_pose")
"""Events after which transforms may jump."""

Item = Output | Status | WindowSnapshot | Transforms | EstimatorConfig


class PublisherThread:
    """Takes what the solver says and publishes it in order.

    Args:
        node: Whose topics they are.
        config: Tracks, sensors and rates.
    """

    def __init__(self, node: Node, config: EstimatorConfig) -> None:
        """Creates the topics and starts the thread."""
        self.wanted = Wanted(prediction=config.publish.predicted_rate > 0.0)
        self._node = node
        self._config = config
        self._clock = node.get_clock()
        compose = Composer(message_class)
        self._topics = Topics(node)
        published = [track for track in config.tracks if track.publish]
        self._tracks = {
            track.name: TrackOutputs(
                self._topics,
                compose,
                config,
                track,
                f"{track.name}/" if len(published) > 1 else "",
            )
            for track in published
        }
        self._health = HealthOutputs(node, self._topics, compose, config)
        self._window = WindowOutputs(self._topics, compose, config)
        self._tf = TfBroadcasts(node, self._topics, compose, config)
        self._predicted_due = Every(config.publish.predicted_rate)
        self._listeners_due = Every(1.0 / IDLE)
        self._queue: OutputQueue[Item] = OutputQueue()
        self._shown_window = 0  # owned by the solver's thread
        self._thread = threading.Thread(target=self._run, name="publisher")
        self._thread.start()

    def put(self, item: Item) -> None:
        """Takes something to be published; never waits.

        An `Output` or `Status` of the session, a snapshot, transforms that were heard on tf (they
        show who else broadcasts), or a changed configuration of the same tracks and sensors.
        """
        self._queue.put(item)

    def look(self, estimator: Estimator) -> None:
        """Tells an estimator what is wanted, and takes a snapshot of its window if one is due.

        For the thread that owns the estimator, after it put the results.
        """
        estimator.wanted = self.wanted
        solved = estimator.solved
        if solved is None or solved.window_id == self._shown_window or not self._window.order():
            return
        self._shown_window = solved.window_id
        shot = snapshot(estimator)
        if shot is not None:
            self._queue.put(shot)

    def topics(self) -> list[str]:
        """Fully resolved names of what is published."""
        return self._topics.names

    @property
    def waiting(self) -> int:
        """Outputs that have not left yet; a replay waits for them, a live solver never does."""
        return self._queue.waiting

    @property
    def dropped(self) -> int:
        """Outputs that found no room in the queue."""
        return self._queue.dropped

    def stop(self) -> None:
        """Publishes what is left, ends the thread and removes the topics."""
        self._queue.close()
        self._thread.join()
        self._topics.stop()

    def _run(self) -> None:
        """Publishes until told to stop; what is left then leaves too."""
        while not self._queue.ended:
            item = self._queue.take(self._wait())
            if item is not None:
                self._guarded(lambda item=item: self._publish(item))
            self._guarded(self._tick)
        self._guarded(self._window.clear)

    def _guarded(self, publish: Callable[[], object]) -> None:
        """A closing context, a full disk of a middleware: said, and not the end."""
        try:
            publish()
        except Exception as error:
            text = f"publishing failed: {type(error).__name__}: {error}"
            self._node.get_logger().error(text, throttle_duration_sec=5.0)

    def _publish(self, item: Item) -> None:
        """One item, by what it is."""
        if isinstance(item, StepResult):
            self._health.solved(item)
            if item.accepted:
                self._publish_estimates(item)
        elif isinstance(item, Event):
            self._health.event(item)
            if item.code in JUMP_CODES:
                self._restart(item.code in TIME_CODES)
        elif isinstance(item, Settled):
            self._health.settled(item)
            if item.evidence is not None and item.evidence.lines:
                self._window.reject(item.evidence.lines, time.monotonic())
        elif isinstance(item, Status):
            self._health.take_status(item)
        elif isinstance(item, WindowSnapshot):
            self._window.publish(item, time.monotonic())
        elif isinstance(item, Transforms):
            self._say(self._tf.hear(item))
        else:
            self._reconfigure(item)

    def _publish_estimates(self, result: StepResult) -> None:
        """Every published track of an accepted result, then their transforms."""
        now, clock = time.monotonic(), self._clock.now().nanoseconds
        for name, outputs in self._tracks.items():
            estimate = result.tracks.get(name)
            if estimate is not None and len(estimate.stamps):
                outputs.publish(estimate, now, clock)
        self._say(self._tf.publish(result))

    def _say(self, events: Iterable[Event]) -> None:
        """Events of our own; the session's are said by whoever drives it."""
        for event in events:
            self._health.event(event)
            log = self._node.get_logger()
            say = log.info if event.level is Level.INFO else log.warning
            say(f"{event.code}: {event.text}")

    def _restart(self, time_jumped: bool) -> None:
        """The estimate may jump; if time has jumped back, stamps of the new past may leave."""
        for outputs in self._tracks.values() if time_jumped else ():
            outputs.restart()
        self._tf.restart(time_jumped)

    def _reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over rates and limits; tracks and sensors are the same."""
        self._config = config
        self._predicted_due.rate = config.publish.predicted_rate
        self.wanted.prediction = config.publish.predicted_rate > 0.0
        for outputs in self._tracks.values():
            outputs.reconfigure(config)
        self._health.reconfigure(config)
        self._window.reconfigure(config)
        self._tf.reconfigure(config)

    def _tick(self) -> None:
        """What depends on time alone."""
        now, clock = time.monotonic(), self._clock.now().nanoseconds
        if self._listeners_due.due(now):
            self.wanted.details = self._health.stats_wanted
            self.wanted.evidence = self._health.measurements_wanted
            self.wanted.rejected = self._window.watched
        status = self._health.status
        leaves = status is not None and status.state.publishes
        if leaves and self._predicted_due.due(clock * 1e-9):
            for outputs in self._tracks.values():
                outputs.publish_predicted(clock, self._config.health.max_prediction)
        if self._health.wait(now) <= 0.0 or self._health.changed:
            latencies = chain(*(outputs.latencies for outputs in self._tracks.values()))
            more = {"outputs_dropped": str(self._queue.dropped)}
            if self._tf.conflict:
                more["tf_conflict"] = self._tf.conflict
            self._health.tick(now, clock, latencies, more)

    def _wait(self) -> float:
        """How long the thread may sleep [s]."""
        clock = self._clock.now().nanoseconds * 1e-9
        predicted = self._predicted_due.wait(clock)
        simulated = isinstance(self._clock, ROSClock) and self._clock.ros_time_is_active
        if simulated and predicted < IDLE:
            predicted = SIMULATED_TICK
        return max(0.0, min(IDLE, predicted, self._health.wait(time.monotonic())))
