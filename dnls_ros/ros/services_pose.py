"""The service ``~/get_pose_at``: the pose at an image's stamp, in any frame that tf knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dnls_ros.io.compose import Composer
from dnls_ros.io.compose_outputs import usable_covariance
from dnls_ros.io.convert import stamp_to_ns
from dnls_ros.ros.asking import Asker, ServiceServer
from dnls_ros.ros.types import message_class
from dnls_ros.runtime.transforms import Found, bare
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.results import PoseAt, PoseReason
from dnls_ros.window.rigid import compose

if TYPE_CHECKING:
    from dnls_ros.runtime.session import Session

SERVICE = "dnls_ros/srv/GetPoseAt"


class PoseQueries:
    """Answers ``~/get_pose_at``; a refusal has a reason and a sentence."""

    def __init__(
        self,
        server: ServiceServer,
        asker: Asker,
        config: EstimatorConfig,
        active: Callable[[], bool],
    ) -> None:
        """Offers the service."""
        self._asker = asker
        self._config = config
        self._active = active
        self._composer = Composer(message_class)
        failed = int(PoseReason.NOT_TRACKING)
        server.offer("~/get_pose_at", SERVICE, self._serve, reason=failed)

    async def _serve(self, request: Any, response: Any) -> None:
        response.twist.covariance[0] = -1.0
        refusal = self._refusal(request)
        if refusal is not None:
            response.reason, response.message = refusal
            return
        track = self._config.track(request.track)
        frame = bare(request.target_frame) or track.parent_frame
        answer = await self._asker.ask(_question(request, frame, track.parent_frame))
        self._fill(response, request, frame, answer)

    def _refusal(self, request: Any) -> tuple[int, str] | None:
        """Why a request is not even asked."""
        if not self._active():
            return PoseReason.NOT_TRACKING, "the node is not active"
        if request.track and request.track not in {t.name for t in self._config.tracks}:
            names = ", ".join(t.name for t in self._config.tracks)
            return PoseReason.UNKNOWN_TRACK, f"no track '{request.track}'; there are: {names}"
        if stamp_to_ns(request.stamp.sec, request.stamp.nanosec) <= 0:
            return PoseReason.BAD_STAMP, "the stamp is zero or negative"
        if np.isnan(request.max_extrapolation):
            return PoseReason.BAD_STAMP, "max_extrapolation is not a number"
        return None

    def _fill(self, response: Any, request: Any, frame: str, answer: PoseAt) -> None:
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
        stamp = stamp_to_ns(request.stamp.sec, request.stamp.nanosec)
        response.pose = self._composer.pose_with_covariance_stamped(
            stamp, frame, answer.pose, covariance
        )
        if np.isfinite(answer.twist).all():
            response.twist = self._composer.twist_with_covariance(answer.twist, None)
            response.twist.covariance[0] = -1.0


def _question(request: Any, frame: str, parent: str) -> Callable[[Session], PoseAt]:
    """What the solver thread does for a request: the pose, carried into ``frame`` by tf."""
    stamp = stamp_to_ns(request.stamp.sec, request.stamp.nanosec)
    limit = request.max_extrapolation if request.max_extrapolation >= 0.0 else None

    def ask(session: Session) -> PoseAt:
        answer = session.pose_at(stamp, request.track, request.with_covariance, limit)
        if not answer.success or frame == parent:
            return answer
        found = session.transforms.lookup(frame, parent, stamp)
        if not isinstance(found, Found):
            return replace(
                answer,
                success=False,
                reason=PoseReason.TF_FAILED,
                message=f"no transform from '{parent}' to '{frame}': {found.text}",
            )
        # The covariance is that of a right perturbation, in the body's axes: it stays as it is.
        return replace(answer, pose=compose(found.pose, answer.pose))

    return ask
