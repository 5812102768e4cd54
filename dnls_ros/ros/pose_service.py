"""The service ``~/get_pose_at``: the pose at an image's stamp, answered by the solver thread.

The callback is a coroutine: while the solver finishes its step, the executor goes on receiving
messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from rclpy.node import Node
from rclpy.task import Future

from dnls_ros.io.compose import Composer
from dnls_ros.io.compose_outputs import usable_covariance
from dnls_ros.io.convert import stamp_to_ns
from dnls_ros.ros.inbox import Ask, Inbox
from dnls_ros.ros.types import message_class
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.results import PoseAt

if TYPE_CHECKING:
    from dnls_ros.runtime.session import Session

SERVICE = "dnls_ros/srv/GetPoseAt"


class PoseService:
    """Serves pose queries from configure to cleanup."""

    def __init__(
        self, node: Node, config: EstimatorConfig, inbox: Inbox, active: Callable[[], bool]
    ) -> None:
        """Offers the service."""
        self._node = node
        self._config = config
        self._inbox = inbox
        self._active = active
        self._constants = message_class(SERVICE).Response
        self._composer = Composer(message_class)
        self._service = node.create_service(message_class(SERVICE), "~/get_pose_at", self._serve)

    def stop(self) -> None:
        """Withdraws the service."""
        self._node.destroy_service(self._service)

    async def _serve(self, request: Any, response: Any) -> Any:
        """Answers one request; a refusal has a reason and a sentence."""
        response.twist.covariance[0] = -1.0
        refusal = self._refusal(request)
        if refusal is not None:
            response.reason, response.message = refusal
            return response
        answer = cast("PoseAt | Exception", await self._ask(request))
        if isinstance(answer, Exception):
            response.reason = self._constants.NOT_TRACKING
            response.message = f"{type(answer).__name__}: {answer}"
            return response
        self._fill(response, request, answer)
        return response

    def _refusal(self, request: Any) -> tuple[int, str] | None:
        """Why a request is not even asked."""
        frame = request.target_frame
        if not self._active():
            return self._constants.NOT_TRACKING, "the node is not active"
        if request.track and request.track not in {t.name for t in self._config.tracks}:
            names = ", ".join(t.name for t in self._config.tracks)
            return self._constants.UNKNOWN_TRACK, f"no track '{request.track}'; there are: {names}"
        parent = self._config.track(request.track).parent_frame
        if frame not in ("", parent):
            return self._constants.TF_FAILED, f"only '{parent}' is served, not '{frame}'"
        if stamp_to_ns(request.stamp.sec, request.stamp.nanosec) <= 0:
            return self._constants.BAD_STAMP, "the stamp is zero or negative"
        if np.isnan(request.max_extrapolation):
            return self._constants.BAD_STAMP, "max_extrapolation is not a number"
        return None

    def _ask(self, request: Any) -> Future[Any]:
        """A future of the solver's answer."""
        executor = self._node.executor
        future: Future[Any] = Future(executor=executor)

        def reply(answer: PoseAt | Exception) -> None:
            future.set_result(answer)
            if executor is not None:
                executor.wake()  # else the coroutine goes on at the next step of spinning

        limit = request.max_extrapolation
        stamp = stamp_to_ns(request.stamp.sec, request.stamp.nanosec)

        def ask(session: Session) -> PoseAt:
            return session.pose_at(
                stamp, request.track, request.with_covariance, limit if limit >= 0.0 else None
            )

        self._inbox.ask(Ask(ask, reply))
        return future

    def _fill(self, response: Any, request: Any, answer: PoseAt) -> None:
        """Writes an answer into the response."""
        response.success = answer.success
        response.reason = answer.reason
        response.message = answer.message
        response.window_id = answer.window_id
        if not answer.success:
            return
        response.extrapolated = answer.extrapolated
        response.extrapolation = answer.extrapolation
        covariance = usable_covariance(answer.covariance) if request.with_covariance else None
        response.pose = self._composer.pose_with_covariance_stamped(
            stamp_to_ns(request.stamp.sec, request.stamp.nanosec),
            self._config.track(request.track).parent_frame,
            answer.pose,
            covariance,
        )
        if np.isfinite(answer.twist).all():
            response.twist = self._composer.twist_with_covariance(answer.twist, None)
            response.twist.covariance[0] = -1.0
