"""Front ends of the tactile_image sensors: an image becomes a measurement before it is timed.

Images are seen in the order of their arrival, each once. A model is opened when the session is
made; one that is loaded later takes its place between two images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dnls_ros.errors import DnlsError
from dnls_ros.runtime.types import SensorHealth
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.measurements import Measurement, TactileFrame
from dnls_ros.window.tactile_frontend import (
    FrontEndOptions,
    TactileFrontEnd,
    TactileModel,
    checked,
    measurement_of,
)

OpenModel = Callable[[str], TactileModel]


class TouchFronts:
    """The front ends of a configuration.

    Args:
        config: The sensors.
        open_model: Reads the file that ``sensor.<name>.model`` names.

    Raises:
        DnlsError: A model cannot be used.
    """

    def __init__(self, config: EstimatorConfig, open_model: OpenModel) -> None:
        self._fronts = {
            s.name: TactileFrontEnd(
                FrontEndOptions.of(s),
                checked(open_model(s.model), s.image) if s.model else None,
            )
            for s in config.sensors
            if s.type == "tactile_image"
        }

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over a configuration of the same sensors."""
        for name, front in self._fronts.items():
            front.options = FrontEndOptions.of(config.sensor(name))

    def see(self, frame: TactileFrame) -> Measurement:
        """What the sensor's front end makes of a frame; as it is where it has none."""
        front = self._fronts.get(frame.sensor)
        return (
            frame if front is None else measurement_of(frame, front.see(frame.stamp, frame.image))
        )

    def clear(self) -> None:
        """Time has jumped: pairs and background begin anew."""
        for front in self._fronts.values():
            front.forget()

    def take_model(self, sensor: str, model: TactileModel) -> None:
        """Goes on with another model.

        Raises:
            DnlsError: There is no such tactile_image sensor.
        """
        front = self._fronts.get(sensor)
        if front is None:
            names = sorted(self._fronts) or "none"
            raise DnlsError(f"'{sensor}' is no tactile_image sensor; there are {names}")
        front.take_model(model)

    def named(self, sensors: Sequence[SensorHealth]) -> tuple[SensorHealth, ...]:
        """The health of sensors, with the hashes of the models that they use."""
        hashes = {n: f.model.hash for n, f in self._fronts.items() if f.model is not None}
        return tuple(replace(s, model_hash=hashes.get(s.name, "")) for s in sensors)
