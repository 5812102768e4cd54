"""Sensors on a finger: what they say about the object that it pushes.

Their factors touch two tracks, the object's and its pusher's, at the same stamps. Besides, most
say whether the finger touches at all (`hear`), which decides how the object moves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from dnls_ros.costs import contact_normal, contact_point, tactile_relative_pose
from dnls_ros.problem import FactorGroup, Isotropic, Shared
from dnls_ros.window.bodies import Array, Body, mount_of
from dnls_ros.window.config import POSE_AXES, SensorConfig
from dnls_ros.window.contacts import Contacts
from dnls_ros.window.ingress import Verdict
from dnls_ros.window.measurements import (
    ContactMeasurement,
    Measurement,
    Reason,
    TactileImageMeasurement,
    TactileRelativeMeasurement,
    WrenchMeasurement,
)
from dnls_ros.window.noise import covariance_of
from dnls_ros.window.parameter_blocks import SIGMA_OF_CONTACT
from dnls_ros.window.pushed import PushedObject
from dnls_ros.window.rigid import compose, inverse, transform
from dnls_ros.window.sensors import Factors, loss_of, noise_of_mount, ref_of, unit_pose
from dnls_ros.window.wrench import LineOfForce, WrenchContacts, line_of_force

_NOWHERE = np.zeros((0, 2))


@lru_cache(maxsize=256)
def for_axes(config: SensorConfig, axes: tuple[str, ...]) -> SensorConfig:
    """The sensor with some of its axes only, and their noise."""
    rows = [config.axes.index(axis) for axis in axes]
    sigma = tuple(config.sigma[k] for k in rows) if config.sigma else ()
    floor = tuple(config.sigma_floor[k] for k in rows)
    return replace(config, axes=axes, sigma=sigma, sigma_floor=floor)


def _sigma(config: SensorConfig, axis: str) -> float:
    """The standard deviation of one axis of a contact."""
    return config.sigma[config.axes.index(axis)] if config.sigma else SIGMA_OF_CONTACT[axis]


class Touch:
    """What all of them have in common."""

    def guess(self, m: Measurement) -> Array | None:
        """None: touch does not say where the object is."""
        return None


@dataclass(frozen=True)
class Contact(Touch):
    """The finger touches, or it does not: a point of it is on the object's surface."""

    config: SensorConfig
    body: Body
    finger: Body
    object: PushedObject

    def hear(self, known: Contacts | None, m: Measurement) -> Contacts | None:
        """Whether it touches, from this stamp on."""
        assert isinstance(m, ContactMeasurement)
        known = known or Contacts()
        if 0 < m.since < m.stamp:
            known = known.inserted(m.since, m.in_contact)
        return known.inserted(m.stamp, m.in_contact)

    def points(self, m: Measurement) -> Array | Verdict:
        """The contact's centre where it is known, else the tip's."""
        assert isinstance(m, ContactMeasurement)
        if not m.in_contact or "distance" not in self.config.axes:
            return _NOWHERE
        center = np.zeros(3) if m.center is None else m.center
        return transform(mount_of(self.config, m), center[None])[:, :2]

    def factors(self, m: Measurement, states: tuple[int, ...]) -> Factors | Verdict:
        """One distance to the surface while it touches, else none."""
        points = self.points(m)
        assert isinstance(m, ContactMeasurement)
        if isinstance(points, tuple):
            return points
        if not len(points):
            return {}
        radius = 0.0 if m.center is not None else self.config.contact.radius
        return {
            self.config.name: contact_point(
                ref_of(self.body.name, states[0]),
                ref_of(self.finger.name, states[0]),
                torch.from_numpy(np.ascontiguousarray(points))[None],
                torch.tensor([[[radius]]], dtype=torch.float64),
                Shared(self.object.field),
                noise=Isotropic(_sigma(self.config, "distance")),
                loss=loss_of(self.config),
            )
        }


@dataclass(frozen=True)
class TactileRelative(Touch):
    """How the finger moved as the object sees it, between two stamps."""

    config: SensorConfig
    body: Body
    finger: Body

    def hear(self, known: Contacts | None, m: Measurement) -> Contacts | None:
        """None: a pair says nothing of when the contact begins or ends."""
        return None

    def points(self, m: Measurement) -> Array | Verdict:
        """None."""
        return _NOWHERE

    def factors(self, m: Measurement, states: tuple[int, ...]) -> Factors | Verdict:
        """One factor on both poses of both bodies."""
        assert isinstance(m, TactileRelativeMeasurement)
        axes = tuple(axis for axis in self.config.axes if axis in m.measured)
        if not axes:
            text = f"it measures {list(m.measured)}, sensor '{self.config.name}' takes "
            return Reason.BAD_SHAPE, f"{text}{list(self.config.axes)}"
        config = for_axes(self.config, axes)
        rows = tuple(POSE_AXES.index(axis) for axis in axes)
        covariance = covariance_of(config, m.covariance, rows)
        if isinstance(covariance, tuple):
            return covariance
        mount = mount_of(config, m)
        moved = compose(compose(mount, unit_pose(m.relative)), inverse(mount))
        group = tactile_relative_pose(
            *(ref_of(self.body.name, stamp) for stamp in states),
            *(ref_of(self.finger.name, stamp) for stamp in states),
            self.finger.elements(moved[None])[None],
            noise=noise_of_mount(mount, self.finger, covariance, rows),
            loss=loss_of(config),
        )
        return {f"{config.name}.{'_'.join(axes)}": group}


@dataclass(frozen=True)
class TactileImage(Touch):
    """What a front end in this process made of an image: a contact, and pairs of it."""

    config: SensorConfig
    contact: Contact
    relative: TactileRelative

    @classmethod
    def of(
        cls, config: SensorConfig, body: Body, finger: Body, pushed: PushedObject
    ) -> TactileImage:
        """The parts with their axes."""
        surface = tuple(axis for axis in config.axes if axis == "distance")
        motion = tuple(axis for axis in config.axes if axis != "distance")
        return cls(
            config,
            Contact(for_axes(config, surface), body, finger, pushed),
            TactileRelative(for_axes(config, motion), body, finger),
        )

    @property
    def body(self) -> Body:
        """The object."""
        return self.contact.body

    @property
    def finger(self) -> Body:
        """What pushes it."""
        return self.contact.finger

    def hear(self, known: Contacts | None, m: Measurement) -> Contacts | None:
        """Whether it touches, from this stamp on."""
        return self.contact.hear(known, m)

    def points(self, m: Measurement) -> Array | Verdict:
        """The tip's."""
        return self.contact.points(m)

    def factors(self, m: Measurement, states: tuple[int, ...]) -> Factors | Verdict:
        """That of the contact, and one for each pair."""
        assert isinstance(m, TactileImageMeasurement)
        made = self.contact.factors(m, states)
        if isinstance(made, tuple):
            return made
        groups: dict[str, FactorGroup] = dict(made)
        for one in m.relatives:
            more = self.relative.factors(one, (one.stamp_from, states[0]))
            if isinstance(more, tuple):
                return more
            for name, group in more.items():
                groups[name] = groups[name].concat(group) if name in groups else group
        return groups


@dataclass(frozen=True)
class WrenchContact(Touch):
    """A force: the point where its line meets the tip is on the surface, and normal to it."""

    config: SensorConfig
    body: Body
    finger: Body
    object: PushedObject

    def hear(self, known: Contacts | None, m: Measurement) -> WrenchContacts:
        """Zeroing first, then whether it touches, with hysteresis."""
        assert isinstance(m, WrenchMeasurement)
        known = known if isinstance(known, WrenchContacts) else WrenchContacts()
        return known.heard(m, self.config)

    def points(self, m: Measurement) -> Array | Verdict:
        """Where the line of force meets the tip."""
        assert isinstance(m, WrenchMeasurement)
        line = line_of_force(m, mount_of(self.config, m), self.config.contact.radius)
        return line.point[None] if isinstance(line, LineOfForce) else line

    def factors(self, m: Measurement, states: tuple[int, ...]) -> Factors | Verdict:
        """One distance to the surface and one angle to its normal, of a wrench without bias."""
        assert isinstance(m, WrenchMeasurement)
        line = line_of_force(m, mount_of(self.config, m), self.config.contact.radius)
        if not isinstance(line, LineOfForce):
            return line
        point, along = (torch.from_numpy(x)[None, None] for x in (line.point, line.direction))
        refs = ref_of(self.body.name, states[0]), ref_of(self.finger.name, states[0])
        field, loss, name = Shared(self.object.field), loss_of(self.config), self.config.name
        made: Factors = {}
        if "distance" in self.config.axes:
            noise = Isotropic(_sigma(self.config, "distance"))
            none = torch.zeros(1, 1, 1, dtype=torch.float64)
            made[name] = contact_point(*refs, point, none, field, noise=noise, loss=loss)
        if "normal" in self.config.axes:
            noise = Isotropic(_sigma(self.config, "normal"))
            made[f"{name}.normal"] = contact_normal(
                *refs, point, along, field, noise=noise, loss=loss
            )
        return made


TouchModel = Contact | TactileRelative | TactileImage | WrenchContact
"""The models of sensors on a finger.

Beside what a `SensorModel` has they know the ``finger``, take a measurement's word on contact into
a timeline (`hear`), and say which points of the finger the measurement puts on the surface.
"""
