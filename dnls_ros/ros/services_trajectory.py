"""The services ``~/get_trajectory`` and ``~/save_trajectory``: window and history of a track."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnls_ros.errors import DnlsError
from dnls_ros.io.compose import Composer
from dnls_ros.io.convert import stamp_to_ns
from dnls_ros.io.trajectory import Trajectory
from dnls_ros.io.trajectory_formats import trajectory_format
from dnls_ros.ros.asking import Asker, ServiceServer
from dnls_ros.ros.types import message_class
from dnls_ros.ros.writer import WriterThread
from dnls_ros.window.config import EstimatorConfig, TrackConfig

if TYPE_CHECKING:
    from dnls_ros.runtime.history import Stretch

LATEST = 2**63 - 1
"""The end of time [ns]: up to the newest state."""
WRITING = 10.0
"""Longest wait for a file [s]; a slow disk goes on writing after it."""


class Trajectories:
    """Answers the services that give or write a stretch of a track."""

    def __init__(
        self,
        server: ServiceServer,
        asker: Asker,
        config: EstimatorConfig,
        writer: WriterThread,
    ) -> None:
        """Offers the services."""
        self._asker = asker
        self._config = config
        self._writer = writer
        self._composer = Composer(message_class)
        server.offer("~/get_trajectory", "dnls_ros/srv/GetTrajectory", self._get)
        server.offer("~/save_trajectory", "dnls_ros/srv/SaveTrajectory", self._save)

    async def _get(self, request: Any, response: Any) -> None:
        track = self._track(request.track)
        start = stamp_to_ns(request.start.sec, request.start.nanosec)
        end = stamp_to_ns(request.end.sec, request.end.nanosec) or LATEST
        found = await self._ask(track.name, start, end, request.rate_hz)
        response.trajectory = self._composer.track_window(
            track.name,
            track.parent_frame,
            track.child_frame,
            found.window_id,
            found.stamps,
            found.poses,
            found.twists,
            found.covariances,
            found.flags,
        )
        response.success = len(found.stamps) > 0
        response.message = f"{len(found.stamps)} poses" if response.success else _empty(track.name)

    async def _save(self, request: Any, response: Any) -> None:
        name = request.format or "tum"
        chosen = trajectory_format(name)
        track = self._track(request.track)
        folder = Path(self._config.output_dir).expanduser()
        path = folder / os.path.expanduser(request.path or f"{track.name}{chosen.suffix}")
        if path.exists() and not path.is_file():
            raise DnlsError(f"{path} exists and is no file; give the name of a file")
        found = await self._ask(track.name, 0, LATEST, 0.0)
        if not len(found.stamps):
            raise DnlsError(_empty(track.name))
        trajectory = Trajectory(found.stamps, found.poses, found.covariances)
        pending = self._asker.pending("writer", WRITING)

        def write() -> None:
            if pending.begin():
                chosen.write(path, trajectory)

        self._writer.put(write, pending.reply)
        try:
            await pending
        except OSError as error:
            raise DnlsError(f"cannot write {path}: {error}") from error
        response.success, response.poses = True, len(trajectory)
        response.message = str(path)

    def _ask(self, track: str, start: int, end: int, rate: float) -> Awaitable[Stretch]:
        """The solver's answer; DnlsError if the numbers make no sense."""
        return self._asker.ask(lambda session: session.trajectory(track, start, end, rate))

    def _track(self, name: str) -> TrackConfig:
        """The track that a request means."""
        names = [track.name for track in self._config.tracks]
        if name and name not in names:
            raise DnlsError(f"no track '{name}'; there are: {', '.join(names)}")
        return self._config.track(name)


def _empty(track: str) -> str:
    return f"track '{track}' has no poses there: it was not tracked, or the history has gone"
