"""The node's services, from configure to cleanup.

    callback (executor) --Ask--> solver thread: between two solves
                        --job--> writer thread: files

Every answer comes within a time limit, whatever the solver does; every refusal has a sentence.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node

from dnls_ros.ros.asking import Asker, ServiceServer
from dnls_ros.ros.inbox import Inbox
from dnls_ros.ros.services_commands import Commands
from dnls_ros.ros.services_model import ModelLoading
from dnls_ros.ros.services_pose import PoseQueries
from dnls_ros.ros.services_set_pose import PoseSetting
from dnls_ros.ros.services_trajectory import Trajectories
from dnls_ros.ros.writer import WriterThread
from dnls_ros.window.config import EstimatorConfig


class Services:
    """All services of the estimator, and the topics that take poses by hand."""

    def __init__(
        self,
        node: Node,
        config: EstimatorConfig,
        inbox: Inbox,
        active: Callable[[], bool],
        adopt: Callable[[EstimatorConfig], object],
    ) -> None:
        """Offers them; ``adopt`` is shown a configuration that a service has changed."""
        self._writer = WriterThread()
        self._server = ServiceServer(node)
        asker = Asker(node, inbox)
        PoseQueries(self._server, asker, config, active)
        Commands(self._server, asker, config, active, adopt)
        Trajectories(self._server, asker, config, self._writer)
        self._models = ModelLoading(self._server, asker, config, active)
        self._poses = PoseSetting(node, self._server, asker, config, inbox, active)

    def stop(self) -> None:
        """Withdraws them; files that are being written are finished."""
        self._poses.stop()
        self._server.stop()
        self._models.stop()
        self._writer.stop()
