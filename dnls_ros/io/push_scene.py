"""A finger that pushes an object over a table, as plain data, read from YAML or made by name.

What differs between recordings (size, friction, where and how the finger pushes) is drawn by the
seed; what a scene gives are the ranges.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnls_ros.costs import Shape, shape_of
from dnls_ros.errors import DnlsError
from dnls_ros.io.files import read_yaml
from dnls_ros.io.settings import filled

Array = NDArray[np.float64]
SIZES: dict[str, tuple[float, ...]] = {
    "disc": (0.08,),
    "rect": (0.2363, 0.1579),
    "ellipse": (0.07, 0.105),
    "polygon": (-0.08, -0.06, 0.084, -0.055, 0.056, 0.057, -0.052, 0.0766),
}
"""Of the scenes by name; the rectangle is that of the published recordings [m]."""


@dataclass(frozen=True)
class Noise:
    """Sensors: rates [Hz], standard deviations, latencies and clock offsets [s].

    Attributes:
        ee_rate, ee_sigma: The finger's pose by the robot: x, y, yaw [m, m, rad].
        image_rate, image_sigma, image_drift: Tactile images, of 0 … 255.
        image_offset: The sensor's clock less the others' [s].
        wrench_rate, wrench_sigma, wrench_bias: Force and torque: f_x, f_y, τ_z [N, N, Nm].
        tag_rate, tag_sigma: The object's pose from a tag on it [m, m, rad].
    """

    ee_rate: float = 100.0
    ee_sigma: tuple[float, ...] = (0.0005, 0.0005, 0.002)
    image_rate: float = 30.0
    image_sigma: float = 2.0
    image_drift: float = 3.0
    image_offset: float = 0.0
    wrench_rate: float = 100.0
    wrench_sigma: tuple[float, ...] = (0.03, 0.03, 0.0006)
    wrench_bias: tuple[float, ...] = (0.2, 0.2, 0.003)
    tag_rate: float = 1.0
    tag_sigma: tuple[float, ...] = (0.003, 0.003, 0.02)


@dataclass(frozen=True)
class PushScene:
    """What is pushed, by what, and how it is seen.

    Attributes:
        shape: ``disc``, ``rect``, ``ellipse`` or ``polygon``.
        size: Of it, see `shape_of` [m].
        size_spread: Sizes are scaled by a factor of 1 ± this.
        friction: Range of the coefficient between finger and object.
        pressing: Range of the largest frictional force of the table [N].
        tip_radius: Of the finger's round gel [m].
        speed: Range of the finger's speed [m/s].
        turn: Largest yaw rate of the finger [rad/s].
        aim: Largest angle between its first heading and the surface's normal [rad].
        episodes: Pushes in a recording.
        duration: Of one push [s].
        pause: Between two [s].
        noise: Of the sensors.
    """

    shape: str = "rect"
    size: tuple[float, ...] = SIZES["rect"]
    size_spread: float = 0.0
    friction: tuple[float, float] = (0.3, 0.3)
    pressing: tuple[float, float] = (2.5, 2.5)
    tip_radius: float = 0.012
    speed: tuple[float, float] = (0.025, 0.05)
    turn: float = 0.15
    aim: float = 0.2
    episodes: int = 3
    duration: float = 4.0
    pause: float = 1.0
    noise: Noise = field(default_factory=Noise)

    def __post_init__(self) -> None:
        shape_of(self.shape, self.size)
        positive = {
            name: getattr(self, name)
            for name in ("friction", "pressing", "speed", "tip_radius", "duration", "pause")
        }
        bad = {n: v for n, v in positive.items() if not np.all(np.asarray(v) > 0)}
        if bad or self.episodes < 1 or not 0 <= self.size_spread < 1:
            raise DnlsError(
                f"pushing scene: these must be positive (spread in [0, 1)): {bad or self}"
            )


@dataclass(frozen=True)
class Drawn:
    """A scene's object, with the numbers that the seed has drawn.

    Attributes:
        outline: The shape.
        size: Its numbers [m].
        friction, pressing: See `PushScene`.
    """

    outline: Shape
    size: tuple[float, ...]
    friction: float
    pressing: float


def draw(scene: PushScene, random: np.random.Generator) -> Drawn:
    """The object of one recording."""
    scale = 1.0 + random.uniform(-scene.size_spread, scene.size_spread)
    size = tuple(scale * s for s in scene.size)
    friction, pressing = random.uniform(*scene.friction), random.uniform(*scene.pressing)
    return Drawn(shape_of(scene.shape, size), size, friction, pressing)


def is_push_scene(name: str) -> bool:
    """Whether a name or a file is that of a pushing scene: such a file says a ``shape``."""
    path = Path(name)
    return name.startswith("push_") or (path.is_file() and "shape" in read_yaml(path))


def push_scene(name: str) -> PushScene:
    """``push_disc``, ``push_rect``, ``push_ellipse``, ``push_polygon``, or a YAML file.

    Raises:
        DnlsError: There is no such scene, or the file holds what no scene has.
    """
    kind = name.removeprefix("push_")
    if name == f"push_{kind}" and kind in SIZES:
        return PushScene(shape=kind, size=SIZES[kind])
    path = Path(name)
    if not path.is_file():
        known = ", ".join(f"push_{kind}" for kind in SIZES)
        raise DnlsError(f"no scene '{name}': give {known}, or a YAML file")
    return filled(PushScene(), read_yaml(path), str(path))


def lasting(scene: PushScene, seconds: float) -> PushScene:
    """The scene with as many pushes as fit into a time, at least one."""
    return replace(scene, episodes=max(1, int(seconds / (scene.duration + scene.pause))))
