"""A pose given by hand: the service ``~/set_pose`` and the topics ``set_pose``, ``initialpose``.

The track is reset and starts again at the pose, with its covariance as prior. The service answers
when the first solve has taken it in; the topics (RViz's "2D Pose Estimate" among them) have nobody
to answer and say in the log what became of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dnls_ros.errors import DnlsError
from dnls_ros.io.messages import adapt
from dnls_ros.ros.asking import Asker, ServiceServer
from dnls_ros.ros.inbox import Ask, Inbox
from dnls_ros.ros.qos import subscribe_to
from dnls_ros.runtime.transforms import bare
from dnls_ros.runtime.types import Outcome
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.measurements import PoseMeasurement, Rejection

TYPE = "geometry_msgs/msg/PoseWithCovarianceStamped"
SOLVE = 5.0
"""Longest wait for the first solve with the pose [s]."""
LOOK = 0.02
"""Between two looks whether it has been solved [s]."""


class PoseSetting:
    """Takes poses by service and by topic."""

    def __init__(
        self,
        node: Node,
        server: ServiceServer,
        asker: Asker,
        config: EstimatorConfig,
        inbox: Inbox,
        active: Callable[[], bool],
    ) -> None:
        """Offers the service and subscribes; ``initialpose`` only where it is asked for."""
        self._node = node
        self._asker = asker
        self._config = config
        self._inbox = inbox
        self._active = active
        server.offer("~/set_pose", "dnls_ros/srv/SetPose", self._serve)
        topics = ["set_pose", *(["initialpose"] if config.init.listen_initialpose else [])]
        self._subscriptions = [self._subscribe(topic) for topic in topics]

    def stop(self) -> None:
        """Ends the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _subscribe(self, topic: str) -> Any:
        """Reliable and volatile: RViz publishes so, and an old pose must not come back."""
        qos = QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.VOLATILE,
        )

        def receive(message: Any) -> None:
            self._take(topic, message)

        return subscribe_to(self._node, TYPE, topic, receive, qos)

    def _take(self, topic: str, message: Any) -> None:
        """A pose from a topic: on its way to the solver, or refused in the log."""
        log = self._node.get_logger()
        try:
            if not self._active():
                raise DnlsError("the node is not active")
            measurement = _measurement(message)
        except DnlsError as error:
            log.warning(f"pose on '{topic}' refused: {error}")
            return
        track = self._track_in(measurement.frame)

        def say(answer: Outcome | Exception) -> None:
            if isinstance(answer, Outcome) and answer.success:
                log.info(f"pose on '{topic}' taken: {answer.message}")
            else:
                text = answer.message if isinstance(answer, Outcome) else str(answer)
                log.warning(f"pose on '{topic}' refused: {text}")

        self._inbox.ask(Ask(lambda session: session.set_pose(measurement, track), say))

    def _track_in(self, frame: str) -> str:
        """The track that a pose on a topic is for: the first in its frame, else the first."""
        tracks = self._config.tracks
        return next((t.name for t in tracks if t.parent_frame == bare(frame)), tracks[0].name)

    async def _serve(self, request: Any, response: Any) -> None:
        if not self._active():
            raise DnlsError("the node is not active")
        names = [track.name for track in self._config.tracks]
        if request.track and request.track not in names:
            raise DnlsError(f"no track '{request.track}'; there are: {', '.join(names)}")
        measurement = _measurement(request.pose)
        track = self._config.track(request.track).name
        outcome = await self._asker.ask(lambda session: session.set_pose(measurement, track))
        response.success, response.message = outcome.success, outcome.message
        if outcome.success:
            await self._solved(track)

    async def _solved(self, track: str) -> None:
        """Returns after the track's first solve; DnlsError if there is none in time."""
        deadline = time.monotonic() + SOLVE
        while not await self._asker.ask(lambda session: track in session.status().tracks):
            if time.monotonic() > deadline:
                raise DnlsError(
                    f"the pose is set, but there was no solve with it within {SOLVE:g} s: "
                    "no measurements of the track arrive, see ~/status"
                )
            await self._asker.sleep(LOOK)


def _measurement(message: Any) -> PoseMeasurement:
    """The message as a measurement.

    Raises:
        DnlsError: It cannot be read.
    """
    measurement = adapt("set_pose", TYPE, message)
    if isinstance(measurement, Rejection):
        raise DnlsError(f"{measurement.reason.name}: {measurement.text}")
    assert isinstance(measurement, PoseMeasurement)
    return measurement
