"""Commands: ``~/reset``, ``~/set_paused``, ``~/set_sensor_enabled``, ``~/dump_window``.

Each runs between two solves on the solver thread; a refusal has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnls_ros.errors import DnlsError
from dnls_ros.ros.asking import Asker, ServiceServer
from dnls_ros.window.config import EstimatorConfig

if TYPE_CHECKING:
    from dnls_ros.runtime.session import Session
    from dnls_ros.runtime.types import Outcome

TRIGGER = "std_srvs/srv/Trigger"


class Commands:
    """Answers the services that command the session."""

    def __init__(
        self,
        server: ServiceServer,
        asker: Asker,
        config: EstimatorConfig,
        active: Callable[[], bool],
        adopt: Callable[[EstimatorConfig], object],
    ) -> None:
        """Offers the services."""
        self._adopt = adopt
        self._asker = asker
        self._config = config
        self._active = active
        server.offer("~/reset", TRIGGER, self._reset)
        server.offer("~/set_paused", "std_srvs/srv/SetBool", self._set_paused)
        server.offer("~/set_sensor_enabled", "dnls_ros/srv/SetSensorEnabled", self._set_enabled)
        server.offer("~/dump_window", TRIGGER, self._dump)

    async def _reset(self, request: Any, response: Any) -> None:
        await self._command(response, lambda session: session.reset("service"))

    async def _set_paused(self, request: Any, response: Any) -> None:
        paused = bool(request.data)
        await self._command(response, lambda session: session.set_paused(paused))

    async def _set_enabled(self, request: Any, response: Any) -> None:
        sensor, enabled = str(request.sensor), bool(request.enabled)
        names = [s.name for s in self._config.sensors]
        if sensor not in names:
            raise DnlsError(f"no sensor '{sensor}'; there are: {', '.join(names)}")
        await self._command(response, lambda session: session.set_sensor_enabled(sensor, enabled))
        if response.success:
            self._adopt(await self._asker.ask(lambda session: session.config))

    async def _command(self, response: Any, command: Callable[[Session], Outcome]) -> None:
        """Has a command carried out and says what became of it."""
        if not self._active():
            raise DnlsError("the node is not active")
        outcome = await self._asker.ask(command)
        response.success, response.message = outcome.success, outcome.message

    async def _dump(self, request: Any, response: Any) -> None:
        folder = Path(self._config.output_dir).expanduser()

        def dump(session: Session) -> Path:
            return session.dump_window(folder, f"window_{session.status().stamp}")

        path = await self._asker.ask(dump)
        response.success, response.message = True, str(path)
