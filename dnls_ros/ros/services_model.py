"""``~/load_model``: another model for a tactile_image sensor, from one image to the next.

Reading and testing it takes seconds and happens on a thread of its own; only the exchange is done
by the solver thread, between two solves. A file that cannot be used leaves the old model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dnls_ros.errors import DnlsError
from dnls_ros.learned import load_model
from dnls_ros.ros.asking import Asker, ServiceServer
from dnls_ros.ros.writer import WriterThread
from dnls_ros.runtime.touch import OpenModel
from dnls_ros.window.config import EstimatorConfig, SensorConfig
from dnls_ros.window.tactile_frontend import TactileModel, checked

LOADING = 20.0
"""Longest wait for a file to be read and its model to be tested [s]."""


class ModelLoading:
    """Answers the service."""

    def __init__(
        self,
        server: ServiceServer,
        asker: Asker,
        config: EstimatorConfig,
        active: Callable[[], bool],
        read: OpenModel = load_model,
    ) -> None:
        """Offers it."""
        self._asker = asker
        self._sensors = {s.name: s for s in config.sensors if s.type == "tactile_image"}
        self._active = active
        self._read = read
        self._thread = WriterThread()
        server.offer("~/load_model", "dnls_ros/srv/LoadModel", self._load)

    def stop(self) -> None:
        """Ends the thread after the file that it reads."""
        self._thread.stop()

    async def _load(self, request: Any, response: Any) -> None:
        sensor, path = self._sensor(str(request.sensor)), str(request.path)
        if not self._active():
            raise DnlsError("the node is not active")
        file = str(Path(path).expanduser())
        reading = self._asker.pending("reader of models", LOADING)

        def read() -> TactileModel | None:
            return checked(self._read(file), sensor.image) if reading.begin() else None

        self._thread.put(read, reading.reply)
        model: TactileModel = await reading
        outcome = await self._asker.ask(lambda s: s.load_model(sensor.name, model, file))
        response.success, response.message = outcome.success, outcome.message
        response.model_hash = model.hash if outcome.success else ""

    def _sensor(self, name: str) -> SensorConfig:
        """The sensor that a request means."""
        if not name and len(self._sensors) == 1:
            return next(iter(self._sensors.values()))
        if name not in self._sensors:
            names = ", ".join(self._sensors) or "none"
            raise DnlsError(f"no tactile_image sensor '{name}'; there are: {names}")
        return self._sensors[name]
