"""Forces on a finger: zeroing, contact with hysteresis, and where the line of force meets the tip.

The wrench is that which the object exerts on the finger (the sign of a sensor that says the
opposite does not matter for a flat tip). The first `ZEROING` of a sensor is taken as free of
contact: its mean is the bias that is subtracted from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dnls_ros.window.bodies import Array
from dnls_ros.window.config import SensorConfig
from dnls_ros.window.contacts import Contacts
from dnls_ros.window.ingress import Verdict
from dnls_ros.window.measurements import Reason, WrenchMeasurement
from dnls_ros.window.rigid import rotation_matrix

ZEROING = 400_000_000
"""How long a sensor is zeroed [ns]."""
LEAST_SLOPE = 0.2
"""Of a line of force to a flat tip (sine): flatter ones meet it nowhere in particular."""


@dataclass(frozen=True, eq=False)
class WrenchContacts(Contacts):
    """The timeline of a force sensor, with its bias.

    Attributes:
        begin, last: Of what was heard [ns]; −1: nothing yet.
        count: Samples of the bias.
        total: (6,) their sum, force and torque.
    """

    begin: int = -1
    last: int = -1
    count: int = 0
    total: Array = field(default_factory=lambda: np.zeros(6))

    @property
    def bias(self) -> Array:
        """(6,) force [N] and torque [N m] without any contact."""
        return self.total / max(self.count, 1)

    def zeroing(self, stamp: int) -> bool:
        """Whether the bias is still being measured at a stamp."""
        return self.begin < 0 or stamp - self.begin < ZEROING

    def heard(self, m: WrenchMeasurement, config: SensorConfig) -> WrenchContacts:
        """With one sample more; one that comes late changes nothing."""
        if m.stamp <= self.last:
            return self
        begin = m.stamp if self.begin < 0 else self.begin
        now = replace(self, begin=begin, last=m.stamp)
        if now.zeroing(m.stamp):
            total = self.total + np.concatenate([m.force, m.torque])
            return replace(now, count=self.count + 1, total=total)
        size = float(np.linalg.norm(m.force - self.bias[:3]))
        was = bool(len(self.on) and self.on[-1])
        on = size > (config.force_threshold_off if was else config.force_threshold_on)
        return now.inserted(m.stamp, on)

    def freed(self, m: WrenchMeasurement) -> WrenchMeasurement:
        """The measurement without its bias."""
        bias = self.bias
        return replace(m, force=m.force - bias[:3], torque=m.torque - bias[3:])


@dataclass(frozen=True, eq=False)
class LineOfForce:
    """Where a force acts on a tip.

    Attributes:
        point: (2,) in the finger's axes x and y [m].
        direction: (2,) of unit length.
    """

    point: Array
    direction: Array


def at_finger(m: WrenchMeasurement, mount: Array) -> tuple[Array, Array]:
    """Force (3,) [N] and torque (3,) [N m] about the finger's origin, in its axes.

    Args:
        m: The wrench.
        mount: finger_T_sensor (7,).
    """
    turn = rotation_matrix(mount)
    force = turn @ m.force
    return force, turn @ m.torque + np.cross(mount[:3], force)


def line_of_force(m: WrenchMeasurement, mount: Array, radius: float) -> LineOfForce | Verdict:
    """Where the line of a force meets the tip, and its direction.

    Args:
        m: The wrench, free of its bias.
        mount: finger_T_sensor (7,).
        radius: Of a round tip about the finger's origin [m]; 0: flat, along y through the origin.

    Returns:
        The line, or why there is none.
    """
    force, torque = at_finger(m, mount)
    moment = float(torque[2])
    flat, size = force[:2], float(np.linalg.norm(force[:2]))
    if size == 0.0:
        return Reason.MODEL_FAILED, "the force has no part in the plane"
    foot = moment / size**2 * np.array([flat[1], -flat[0]])  # of the line, nearest to the origin
    if radius == 0.0:
        if abs(flat[0]) < LEAST_SLOPE * size:
            return Reason.MODEL_FAILED, "the line of force runs along the tip"
        return LineOfForce(np.array([0.0, -moment / flat[0]]), flat / size)
    inside = radius**2 - float(foot @ foot)
    if inside < 0.0:
        off = float(np.linalg.norm(foot))
        text = (
            f"the line of force passes the tip's centre at {off:.4f} m, its radius is {radius:g}"
        )
        return Reason.MODEL_FAILED, text
    return LineOfForce(foot - np.sqrt(inside) * flat / size, flat / size)
