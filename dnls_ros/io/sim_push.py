"""Quasi-static pushing of an object by a round fingertip, step by step in time.

The force at the contact and the object's twist obey an ellipsoidal limit surface (Lynch, Maekawa,
Tanie, IROS 1992; Lynch, Mason, 1996): the contact sticks while the force that would move it is
inside of the friction cone, else the force is the cone's edge and the contact slides. The
simulator shares no residual and no Lie-group code with the estimator, only the shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dnls_ros.costs import Polygon, Shape
from dnls_ros.io.push_scene import Array, Drawn, PushScene, draw

RATE = 600
"""Steps of the simulation per second; sensors take every so many-th."""
SETTLING = 0.5
"""Share of an overlap that a step removes."""
REST = 2e-5
"""Overlap that is left: else rounding would end and begin the contact at every step [m]."""


@dataclass(frozen=True, eq=False)
class PushMotion:
    """A recording's truth on the simulation's grid.

    Attributes:
        drawn: The object.
        polygon: Its outline as the simulation sees it.
        ratio: c of the limit surface [m].
        times: (n,) from the start [s].
        object, ee: (n, 3) x, y, yaw of object and fingertip; the gel's centre is its origin.
        contact: (n,) bool.
        episode: (n,) number of the push, from 0.
        force: (n, 2) of the finger on the object, world axes [N].
        point: (n, 2) contact, world [m].
    """

    drawn: Drawn
    polygon: Polygon
    ratio: float
    times: Array
    object: Array
    ee: Array
    contact: np.ndarray
    episode: np.ndarray
    force: Array
    point: Array


def simulate_motion(scene: PushScene, seed: int) -> PushMotion:
    """The truth of one recording."""
    random = np.random.default_rng([seed, 1])
    drawn = draw(scene, random)
    polygon = polygon_of(drawn.outline)
    run = _Run(scene, drawn, polygon, drawn.outline.friction_ratio(), random)
    for _ in range(scene.episodes):
        run.push()
    return run.motion()


def polygon_of(shape: Shape, count: int = 240) -> Polygon:
    """The shape as a polygon; round ones with so many corners."""
    return shape if isinstance(shape, Polygon) else Polygon(shape.outline(count))


def surface(polygon: Polygon, p: Array) -> tuple[float, Array]:
    """Distance to the outline and the outward normal (2,) at a point (2,), object axes."""
    h = 1e-6
    around = p + h * np.array([[0.0, 0.0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    d = polygon.signed_distance(around)
    normal = np.array([d[1] - d[2], d[3] - d[4]])
    return float(d[0]), normal / max(float(np.linalg.norm(normal)), 1e-12)


def contact_twist(
    point: Array, inward: Array, velocity: Array, friction: float, ratio: float
) -> tuple[Array, Array]:
    """Twist (3,) of the object and the direction (2,) of the force, object axes.

    Args:
        point: (2,) of the contact [m].
        inward: (2,) the surface's inward normal.
        velocity: (2,) of the finger at the contact, against the object at rest [m/s].
        friction: Coefficient.
        ratio: c of the limit surface [m].
    """
    if float(velocity @ inward) <= 0:
        return np.zeros(3), np.zeros(2)
    x, y = point / ratio
    moved = np.array([[1 + y * y, -x * y], [-x * y, 1 + x * x]])  # contact's velocity by force
    force: Array = np.linalg.solve(moved, velocity).astype(np.float64)
    along = np.array([-inward[1], inward[0]])
    normal, tangential = float(force @ inward), float(force @ along)
    if abs(tangential) > friction * normal:
        edge = inward + math.copysign(friction, tangential) * along
        speed = float(moved @ edge @ inward)
        force = edge * float(velocity @ inward) / speed if speed > 0 else np.zeros(2)
    turn = (point[0] * force[1] - point[1] * force[0]) / ratio**2
    return np.array([force[0], force[1], turn]), force


class _Run:
    """The state while it goes on."""

    def __init__(
        self,
        scene: PushScene,
        drawn: Drawn,
        polygon: Polygon,
        ratio: float,
        random: np.random.Generator,
    ) -> None:
        self.scene, self.drawn, self.polygon, self.ratio = scene, drawn, polygon, ratio
        self.random = random
        self.object = np.array([*random.uniform(-0.02, 0.02, 2), random.uniform(-np.pi, np.pi)])
        self.ee: Array | None = None
        self.episode = 0
        self.rows: list[tuple[Array, Array, bool, int, Array, Array]] = []

    def push(self) -> None:
        """Goes to a new place at the outline, and pushes."""
        start, sway = self._place()
        self._go(start)
        scene, random = self.scene, self.random
        speed, phase = random.uniform(*scene.speed), random.uniform(0, 2 * np.pi)
        ee = start.copy()
        for k in range(round(scene.duration * RATE)):
            turn = sway * math.sin(2 * np.pi * k / RATE / scene.duration + phase)
            velocity = speed * np.array([math.cos(ee[2]), math.sin(ee[2])])
            ee = ee + np.array([*velocity, turn]) / RATE
            self._advance(ee, velocity)
        self.ee = ee
        self.episode += 1

    def _place(self) -> tuple[Array, float]:
        """Where the finger begins, half a millimetre off the outline; how fast it will turn."""
        random, corners = self.random, self.polygon.vertices
        edges = np.roll(corners, -1, 0) - corners
        lengths = np.linalg.norm(edges, axis=1)
        k = int(random.choice(len(corners), p=lengths / lengths.sum()))
        on = corners[k] + random.uniform(0.25, 0.75) * edges[k]
        outward = np.array([edges[k, 1], -edges[k, 0]]) / lengths[k]
        tip = on + (self.scene.tip_radius + 0.0005) * outward
        heading = math.atan2(-outward[1], -outward[0])
        heading += random.uniform(-self.scene.aim, self.scene.aim)
        place = turned(tip, self.object[2]) + self.object[:2]
        sway = random.uniform(-self.scene.turn, self.scene.turn)
        return np.array([*place, heading + self.object[2]]), sway

    def _go(self, start: Array) -> None:
        """Lifted, without contact, from the last place to the next."""
        if self.ee is None:
            self.ee = start - np.array([0.02 * math.cos(start[2]), 0.02 * math.sin(start[2]), 0.0])
        way = start - self.ee
        way[2] = (way[2] + np.pi) % (2 * np.pi) - np.pi
        steps = round(self.scene.pause * RATE)
        for k in range(steps):
            share = 0.5 - 0.5 * math.cos(np.pi * (k + 1) / steps)
            self._note(self.ee + share * way, False, np.zeros(2), np.full(2, np.nan))

    def _advance(self, ee: Array, velocity: Array) -> None:
        yaw = float(self.object[2])
        p = turned(ee[:2] - self.object[:2], -yaw)
        distance, outward = surface(self.polygon, p)
        overlap = self.scene.tip_radius - distance
        if overlap <= 0:
            self._note(ee, False, np.zeros(2), np.full(2, np.nan))
            return
        point = p - distance * outward
        push = turned(velocity, -yaw) - SETTLING * (overlap - REST) * RATE * outward
        twist, force = contact_twist(point, -outward, push, self.drawn.friction, self.ratio)
        if force.any():
            moment = (point[0] * force[1] - point[1] * force[0]) / self.ratio
            force = force * self.drawn.pressing / math.hypot(*force, moment)
        step = twist / RATE
        middle = yaw + 0.5 * step[2]
        self.object = self.object + np.array([*turned(step[:2], middle), step[2]])
        world = turned(point, yaw) + self.object[:2]
        self._note(ee, bool(force.any()), turned(force, yaw), world)

    def _note(self, ee: Array, contact: bool, force: Array, point: Array) -> None:
        self.rows.append((self.object.copy(), ee.copy(), contact, self.episode, force, point))

    def motion(self) -> PushMotion:
        """What was noted."""
        columns = [np.array(column) for column in zip(*self.rows, strict=True)]
        return PushMotion(
            self.drawn, self.polygon, self.ratio, np.arange(len(self.rows)) / RATE, *columns
        )


def turned(v: Array, angle: float | Array) -> Array:
    """Vectors (…, 2) turned by an angle, or each by its own (…)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * v[..., 0] - s * v[..., 1], s * v[..., 0] + c * v[..., 1]], -1)
