"""Sensors of the user's own: one class, named by the parameter ``cost: pkg.module:Class``.

The class says which messages it reads, turns one into a measurement, and a measurement into
factors. `load_custom` imports it once and refuses what is not such a class; `CustomModel` keeps
its mistakes from harming the rest: an exception rejects one measurement, not the solve.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol, TypedDict, cast

import numpy as np

from dnls_ros.errors import DnlsError
from dnls_ros.problem import FactorGroup
from dnls_ros.window.bodies import Array, Body
from dnls_ros.window.config import SensorConfig
from dnls_ros.window.measurements import (
    ContactMeasurement,
    ImuMeasurement,
    LandmarkMeasurement,
    Measurement,
    OdometryMeasurement,
    PoseMeasurement,
    RangeBearingMeasurement,
    Reason,
    RelativePoseMeasurement,
    TactileImageMeasurement,
    TactileRelativeMeasurement,
    TwistMeasurement,
    WrenchMeasurement,
)

Verdict = tuple[Reason, str]
Factors = Mapping[str, FactorGroup]

_EXPECTED: dict[str, type[Measurement]] = {
    "pose": PoseMeasurement,
    "pose_stamped": PoseMeasurement,
    "tf_pose": PoseMeasurement,
    "odometry": OdometryMeasurement,
    "twist": TwistMeasurement,
    "imu": ImuMeasurement,
    "landmarks": LandmarkMeasurement,
    "range_bearing": RangeBearingMeasurement,
    "relative_pose": RelativePoseMeasurement,
    "contact": ContactMeasurement,
    "tactile_relative": TactileRelativeMeasurement,
    "tactile_image": TactileImageMeasurement,
    "wrench_contact": WrenchMeasurement,
}
_TYPE_NAME = re.compile(r"\w+/msg/\w+")


class Head(TypedDict):
    """What all measurements begin with: sensor, stamp [ns], frame, sequence."""

    sensor: str
    stamp: int
    frame: str
    sequence: int


class CustomSensor(Protocol):
    """What the class of a custom sensor offers.

    Attributes:
        message_types: ROS types that it reads, ``"sensor_msgs/msg/Range"`` each.
        measurement: The class of its measurements. One that is about two states derives from
            RelativePoseMeasurement, whose ``stamp_from`` is the stamp of the other.
    """

    message_types: ClassVar[Sequence[str]]
    measurement: ClassVar[type[Measurement]]

    def __init__(self, config: SensorConfig, body: Body) -> None:
        """Takes the sensor's parameters and the body that it measures.

        ``config.sigma`` may have any length; raise DnlsError if it does not suit.
        """
        ...

    @staticmethod
    def read(message: Any, head: Head) -> Measurement:
        """A measurement made of a message, ``Measurement(**head, …)``.

        What it raises rejects the message as BAD_SHAPE with that text. A message without a header
        has stamp 0 and no frame: set ``stamp_source: arrival`` and ``frame_override`` for it.
        """
        ...

    def guess(self, m: Measurement) -> Array | None:
        """The body's pose (7,) by this measurement alone; None if it does not say."""
        ...

    def factors(self, m: Measurement, states: tuple[int, ...]) -> Factors | Verdict:
        """The factors on a measurement's states (ids, in time order), or why there are none."""
        ...


@lru_cache(maxsize=64)
def load_custom(cost: str) -> type[CustomSensor]:
    """The class that a parameter ``cost`` names.

    Raises:
        DnlsError: It cannot be imported, is no class, or lacks what `CustomSensor` has; the text
            begins with what was given.
    """
    module_name, _, class_name = cost.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a foreign module may raise anything
        raise DnlsError(
            f"got '{cost}'; importing '{module_name}' failed: {type(error).__name__}: {error}; "
            "is its package installed for this Python?"
        ) from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        what = "has no" if found is None else "has, but not as a class,"
        raise DnlsError(f"got '{cost}'; the module '{module_name}' {what} '{class_name}'")
    lacking = _lacking(found)
    if lacking:
        raise DnlsError(f"got '{cost}'; the class {'; '.join(lacking)}; see window/custom.py")
    return cast(type[CustomSensor], found)


def _lacking(found: type) -> list[str]:
    """What keeps a class from being a custom sensor's."""
    lacking = [
        f"lacks the method '{name}'"
        for name in ("read", "guess", "factors")
        if not callable(getattr(found, name, None))
    ]
    types = getattr(found, "message_types", None)
    if isinstance(types, str) or not isinstance(types, Sequence) or not types:
        lacking.append("lacks 'message_types', a list of names such as 'sensor_msgs/msg/Range'")
    else:
        bad = [t for t in types if not (isinstance(t, str) and _TYPE_NAME.fullmatch(t))]
        lacking += [f"has {t!r} in 'message_types', expected 'package/msg/Name'" for t in bad]
    kind = getattr(found, "measurement", None)
    if not (inspect.isclass(kind) and issubclass(kind, Measurement)):
        lacking.append("lacks 'measurement', a class derived from Measurement")
    return lacking


def expected_type(sensor: SensorConfig) -> type[Measurement]:
    """The class of measurement that a sensor takes."""
    if sensor.type == "custom":
        return load_custom(sensor.cost).measurement
    return TwistMeasurement if sensor.measures_twist else _EXPECTED[sensor.type]


@dataclass(frozen=True)
class CustomModel:
    """A user's sensor among the others.

    Attributes:
        config: Its configuration.
        body: The body that it measures.
        inner: The user's object.
    """

    config: SensorConfig
    body: Body
    inner: CustomSensor

    @classmethod
    def of(cls, config: SensorConfig, body: Body) -> CustomModel:
        """Makes the user's object.

        Raises:
            DnlsError: The class cannot be loaded, or refuses the configuration.
        """
        kind = load_custom(config.cost)
        try:
            return cls(config, body, kind(config, body))
        except Exception as error:  # a foreign class may raise anything
            raise DnlsError(
                f"sensor.{config.name}.cost: {config.cost} cannot be made: "
                f"{type(error).__name__}: {error}"
            ) from error

    def guess(self, m: Measurement) -> Array | None:
        """The user's guess; None where it fails or is no pose."""
        try:
            pose = self.inner.guess(m)
        except Exception:  # `factors` is asked too and says what is wrong
            return None
        usable = isinstance(pose, np.ndarray) and pose.shape == (7,) and np.isfinite(pose).all()
        return pose if usable else None

    def factors(self, m: Measurement, states: tuple[int, ...]) -> dict[str, FactorGroup] | Verdict:
        """The user's factors under the sensor's name; MODEL_FAILED where it fails."""
        try:
            made = self.inner.factors(m, states)
        except Exception as error:  # a foreign class may raise anything
            text = f"{self.config.cost}.factors raised {type(error).__name__}: {error}"
            return Reason.MODEL_FAILED, text
        if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Reason):
            return made
        if not isinstance(made, Mapping) or not all(
            isinstance(group, FactorGroup) for group in made.values()
        ):
            text = f"{self.config.cost}.factors gave {made!r:.80}, expected factor groups by name"
            return Reason.MODEL_FAILED, text
        return {self._group(name): group for name, group in made.items()}

    def _group(self, name: str) -> str:
        """A name that no other sensor's groups have."""
        own = self.config.name
        return name if name == own or name.startswith(f"{own}.") else f"{own}.{name}"
