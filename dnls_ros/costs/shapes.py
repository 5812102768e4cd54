"""Outlines of objects that lie on a plane and are pushed: disc, rectangle, ellipse, polygon.

A shape knows the distance to its outline and the ratio of its limit surface, by NumPy: it is made
once. What is optimized asks its `DistanceField`. The origin is the centre of friction; pressure is
taken as the same all over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ellipe

from dnls_ros.costs.distance_field import DistanceField
from dnls_ros.errors import DnlsError

Array = NDArray[np.float64]


class Shape(Protocol):
    """The outline of an object in its own axes [m]."""

    def signed_distance(self, points: Array) -> Array:
        """Distances (…,) of points (…, 2) to the outline, negative inside [m]."""
        ...

    def outline(self, count: int) -> Array:
        """(count, 2) points along the outline, counter-clockwise [m]."""
        ...

    def friction_ratio(self) -> float:
        """c of `quasi_static_push`: largest frictional moment by largest frictional force [m]."""
        ...


@dataclass(frozen=True)
class Disc:
    """A disc about the origin.

    Attributes:
        radius: [m].
    """

    radius: float

    def __post_init__(self) -> None:
        _check_positive("disc", radius=self.radius)

    def signed_distance(self, points: Array) -> Array:
        """Distances (…,) of points (…, 2) to the outline, negative inside [m]."""
        return np.linalg.norm(points, axis=-1) - self.radius

    def outline(self, count: int) -> Array:
        """(count, 2) points along the outline, counter-clockwise [m]."""
        return Ellipse(self.radius, self.radius).outline(count)

    def friction_ratio(self) -> float:
        """2R/3."""
        return 2.0 * self.radius / 3.0


@dataclass(frozen=True)
class Ellipse:
    """An ellipse about the origin.

    Attributes:
        a, b: Half of its lengths along x and y [m].
    """

    a: float
    b: float

    def __post_init__(self) -> None:
        _check_positive("ellipse", a=self.a, b=self.b)

    def signed_distance(self, points: Array) -> Array:
        """Distances (…,) of points (…, 2) to the outline, negative inside [m].

        The nearest point is (a²x/(t + a²), b²y/(t + b²)) with t > −min(a, b)² such that it lies on
        the ellipse, found by bisection (Eberly, *Distance from a point to an ellipse*, 2013).
        """
        p = np.abs(np.asarray(points, dtype=np.float64))
        half = np.array([self.a, self.b])
        shortest = half.min()
        low = np.full(p.shape[:-1], -(shortest**2))
        high = np.linalg.norm(p * half, axis=-1)
        for _ in range(100):
            t = 0.5 * (low + high)
            inside = self._level(p, t) > 1.0
            low, high = np.where(inside, t, low), np.where(inside, high, t)
        t = 0.5 * (low + high)[..., None]
        with np.errstate(all="ignore"):
            nearest = half**2 * p / (t + half**2)
        # On the longer axis near the centre the limit is taken by what lies on the ellipse.
        axis = int(np.argmin(half))
        other = 1 - axis
        rest = np.sqrt(np.clip(1 - (nearest[..., other] / half[other]) ** 2, 0, None))
        lost = ~np.isfinite(nearest[..., axis]) | (p[..., axis] == 0)
        nearest[..., axis] = np.where(
            lost & (low <= -(shortest**2) * (1 - 1e-12)), half[axis] * rest, nearest[..., axis]
        )
        distance = np.linalg.norm(p - nearest, axis=-1)
        return np.where(((p / half) ** 2).sum(-1) <= 1.0, -distance, distance)

    def _level(self, p: Array, t: Array) -> Array:
        half = np.array([self.a, self.b])
        with np.errstate(all="ignore"):
            level = (half * p / (t[..., None] + half**2)) ** 2
        return np.where(p == 0, 0.0, level).sum(-1)

    def outline(self, count: int) -> Array:
        """(count, 2) points along the outline, counter-clockwise [m]."""
        angle = 2 * np.pi * np.arange(count) / count
        return np.stack([self.a * np.cos(angle), self.b * np.sin(angle)], -1)

    def friction_ratio(self) -> float:
        """∫|r| dA / A = 4 a E(1 − b²/a²) / 3π with the longer half axis a."""
        long, short = max(self.a, self.b), min(self.a, self.b)
        return float(4 * long * ellipe(1 - (short / long) ** 2) / (3 * math.pi))


@dataclass(frozen=True, eq=False)
class Polygon:
    """A simple polygon.

    Attributes:
        vertices: (n, 2) counter-clockwise [m].
    """

    vertices: Array

    def __post_init__(self) -> None:
        given = np.asarray(self.vertices, dtype=np.float64)
        if (
            given.ndim != 2
            or given.shape[-1] != 2
            or len(given) < 3
            or not np.isfinite(given).all()
        ):
            raise DnlsError(
                f"polygon: vertices must be (n, 2), n ≥ 3, finite; got {given.tolist()}"
            )
        if self.area <= 0:
            raise DnlsError(
                f"polygon: vertices must go round counter-clockwise; their area is {self.area:g} "
                "m²: reverse their order"
            )

    @property
    def area(self) -> float:
        """[m²]."""
        p, q = self.vertices, np.roll(self.vertices, -1, 0)
        return float(0.5 * (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum())

    @property
    def centroid(self) -> Array:
        """(2,) [m]."""
        p, q = self.vertices, np.roll(self.vertices, -1, 0)
        twice = p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]
        return ((p + q) * twice[:, None]).sum(0) / (6 * self.area)

    def signed_distance(self, points: Array) -> Array:
        """Distances (…,) of points (…, 2) to the outline, negative inside [m]."""
        at = np.asarray(points, dtype=np.float64)[..., None, :]
        p = self.vertices
        edge = np.roll(p, -1, 0) - p
        along = np.clip(((at - p) * edge).sum(-1) / (edge**2).sum(-1), 0.0, 1.0)
        distance = np.linalg.norm(at - p - along[..., None] * edge, axis=-1).min(-1)
        # Edges that cross the half line to the right of a point, upwards less downwards.
        below, next_below = p[:, 1] <= at[..., 1], np.roll(p, -1, 0)[:, 1] <= at[..., 1]
        left = edge[:, 0] * (at[..., 1] - p[:, 1]) - (at[..., 0] - p[:, 0]) * edge[:, 1] > 0
        turns = (below & ~next_below & left).sum(-1) - (~below & next_below & ~left).sum(-1)
        return np.where(turns != 0, -distance, distance)

    def outline(self, count: int) -> Array:
        """(count, 2) points along the outline at equal distances, counter-clockwise [m]."""
        p = np.concatenate([self.vertices, self.vertices[:1]])
        lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))])
        at = lengths[-1] * np.arange(count) / count
        return np.stack([np.interp(at, lengths, p[:, k]) for k in range(2)], -1)

    def friction_ratio(self) -> float:
        """∫|r| dA / A, edge by edge: each makes a triangle with the origin, ∫∫ ρ² dρ dφ."""
        p, q = self.vertices, np.roll(self.vertices, -1, 0)
        edge = q - p
        length = np.linalg.norm(edge, axis=1)
        height = (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]) / length  # signed distance of its line
        first, last = ((x * edge).sum(1) / length for x in (p, q))
        far = np.abs(height) > 1e-15

        def integral(s: Array) -> Array:
            """∫ sec³ by the tangent s/h, times h³: ½ h (s √(s² + h²) + h² asinh(s/h))."""
            h = np.where(far, height, 1.0)
            return 0.5 * h * (s * np.hypot(s, h) + h**2 * np.arcsinh(s / np.abs(h)))

        parts = np.where(far, integral(last) - integral(first), 0.0)
        return float(parts.sum() / 3.0 / self.area)


def Rectangle(x: float, y: float) -> Polygon:
    """A rectangle about the origin with sides x and y [m]."""
    _check_positive("rectangle", x=x, y=y)
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    return Polygon(corners * np.array([x, y]) / 2)


def distance_field_of(
    shape: Shape, cell: float = 0.002, margin: float = 0.05, half: float | None = None
) -> DistanceField:
    """The shape's signed distances on a grid.

    Args:
        shape: Whose.
        cell: Distance between samples [m].
        margin: How far the grid goes beyond the outline [m].
        half: Instead of that, a square of ±half [m]: fields of several shapes can be stacked.
    """
    _check_positive("distance field", cell=cell, margin=margin)
    points = shape.outline(256)
    low, high = points.min(0) - margin, points.max(0) + margin
    if half is not None:
        low, high = np.full(2, -half), np.full(2, half)
    columns, rows = (
        low[k] + cell * np.arange(math.ceil((high - low)[k] / cell) + 1) for k in (0, 1)
    )
    grid = np.stack(np.meshgrid(columns, rows), -1)
    return DistanceField(
        torch.from_numpy(shape.signed_distance(grid)),
        torch.from_numpy(low),
        torch.tensor([cell], dtype=torch.float64),
    )


KINDS = ("disc", "rect", "ellipse", "polygon")
"""Names of shapes in parameters and files."""


def shape_of(kind: str, size: Sequence[Any]) -> Shape:
    """A shape by its name and size: disc [r], rect [x, y], ellipse [a, b], polygon [x, y, x, y …].

    Raises:
        DnlsError: There is no such shape, or the size does not fit it.
    """
    numbers = np.asarray(size, dtype=np.float64).reshape(-1)
    wanted = {"disc": (1,), "rect": (2,), "ellipse": (2,)}.get(kind)
    if kind == "polygon":
        if len(numbers) < 6 or len(numbers) % 2:
            raise DnlsError(
                f"shape polygon: size has {len(numbers)} numbers; give x and y of each vertex"
            )
        return Polygon(numbers.reshape(-1, 2))
    if wanted is None:
        raise DnlsError(f"there is no shape '{kind}'; there are {', '.join(KINDS)}")
    if numbers.shape != wanted:
        raise DnlsError(f"shape {kind}: size has {len(numbers)} numbers, expected {wanted[0]}")
    made = {"disc": Disc, "rect": Rectangle, "ellipse": Ellipse}[kind]
    return made(*numbers.tolist())


def _check_positive(what: str, **sizes: float) -> None:
    bad = {name: size for name, size in sizes.items() if not (math.isfinite(size) and size > 0)}
    if bad:
        raise DnlsError(f"{what}: sizes must be positive and finite, got {bad}")
