"""What is known about landmarks before anything is seen: which points form which rigid bodies.

Every tag belongs to one *rigid body*: the board it is printed on, or itself. The estimator keeps
one pose per body; a tag adds only the constant points of its four corners in the frame of its
body. A tag that the map does not name becomes a body of its own by rule, from the default size, so
that the map never has to change while tags appear. Point landmarks (for range and bearing) are
listed beside the bodies.

The frame of a tag: origin in its centre, x to the right and y up as one reads it, z out of the tag
towards the reader. Corners are in the order (-s,-s) (s,-s) (s,s) (-s,s), s = size/2: lower left,
lower right, upper right, upper left. The frame of a grid board is the frame of its first tag. The
file format is described in ``dnls_ros.window.landmark_file``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dnls_ros.window.rigid import IDENTITY, transform

Array = NDArray[np.float64]

ANY_FAMILY = "any"
_CORNERS: Array = np.array(
    [[-0.5, -0.5, 0.0], [0.5, -0.5, 0.0], [0.5, 0.5, 0.0], [-0.5, 0.5, 0.0]]
)
_NAMED = 1 << 56  # keys of named bodies start here, above every tag number
_MAX_DIGITS = 16  # of a tag number: stays below the named keys


def tag_corners(size: float) -> Array:
    """The corners (4, 3) of a tag in its own frame [m], lower left first, against the clock."""
    return size * _CORNERS


def landmark_key(name: str) -> int:
    """The stable int64 key of a named landmark: it depends on nothing but the name."""
    digest = hashlib.blake2b(name.encode(), digest_size=7).digest()
    return _NAMED + int.from_bytes(digest, "big")


@dataclass(frozen=True, eq=False)
class LandmarkBody:
    """A rigid set of points with one pose: a board, a lone tag, a landmark of a message.

    Attributes:
        name: Name of the board, or ``"tag:3"`` for a tag on its own.
        key: Its variable's id: the tag number for lone tags, a hash of the name otherwise.
        pose: ``world_T_body`` (7,), or None where it is to be estimated.
        sigma: (6,) standard deviations of ``pose`` in the tangent (v, ω) [m, rad]; None = ``pose``
            is exact.
    """

    name: str
    key: int
    pose: Array | None = None
    sigma: Array | None = None

    @property
    def fixed(self) -> bool:
        """True where the pose is given without uncertainty: such a body is never optimized."""
        return self.pose is not None and self.sigma is None


@dataclass(frozen=True, eq=False)
class MapTag:
    """A tag that the map names: its body and its corners (4, 3) in the frame of that body [m]."""

    body: LandmarkBody
    size: float
    body_T_tag: Array
    corners: Array


@dataclass(frozen=True, eq=False)
class PointLandmark:
    """A landmark without extent; ``position`` (3,) [m] is None where it is estimated."""

    name: str
    key: int
    position: Array | None = None


@dataclass(frozen=True, eq=False)
class BodyPoints:
    """Points (K, 3) of one body [m], in the frame of the body."""

    body: LandmarkBody
    points: Array


@dataclass(frozen=True, eq=False)
class LandmarkMap:
    """Everything said about landmarks in advance; it never changes while the estimator runs.

    Attributes:
        family: Family of tags that the map is about; tags of another family are unknown. ``"any"``
            takes all.
        default_size: Edge of tags not named [m]; None: tags not named are unknown.
        sizes: Edges by tag number [m]; a tag with an edge here is known.
        tags: The tags that are named, by number, lone or on boards.
        bodies: The bodies that are named: boards and lone tags.
        points: Point landmarks by name.
    """

    family: str = "tag36h11"
    default_size: float | None = None
    sizes: Mapping[int, float] = field(default_factory=dict[int, float])
    tags: Mapping[int, MapTag] = field(default_factory=dict[int, MapTag])
    bodies: tuple[LandmarkBody, ...] = ()
    points: Mapping[str, PointLandmark] = field(default_factory=dict[str, PointLandmark])

    def tag_number(self, landmark_id: str) -> int | None:
        """The number in ``"tag36h11:3"`` or ``"3"``; None for other families and other names."""
        family, colon, number = landmark_id.rpartition(":")
        if colon and family != self.family and self.family != ANY_FAMILY:
            return None
        is_number = number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS
        return int(number) if is_number else None

    def tag(self, number: int) -> MapTag | None:
        """A tag by its number, named or a body of its own by rule; None without a size."""
        named = self.tags.get(number)
        size = self.sizes.get(number, self.default_size)
        if named is not None or size is None:
            return named
        return lone_tag(number, size)

    def points_of(self, number: int) -> tuple[int, Array] | None:
        """The key of a tag's body and the corners (4, 3) in its frame [m]; None if unknown."""
        tag = self.tag(number)
        return None if tag is None else (tag.body.key, tag.corners)

    def observe(self, landmark_id: str, points: Array | None = None) -> BodyPoints | None:
        """Says which points of which body an observation shows.

        Args:
            landmark_id: The observation's name, ``"tag36h11:3"`` for tags.
            points: (K, 3) points in the landmark's own frame [m] where the message carries them;
                for tags None means the four corners.

        Returns:
            The points in the frame of the body, or None for a landmark of unknown shape, which is
            to be counted.
        """
        number = self.tag_number(landmark_id)
        tag = None if number is None else self.tag(number)
        if tag is not None:
            moved = tag.corners if points is None else transform(tag.body_T_tag, points)
            return BodyPoints(tag.body, moved)
        if points is None:
            return None
        return BodyPoints(LandmarkBody(landmark_id, landmark_key(landmark_id)), points)


def lone_tag(
    number: int, size: float, pose: Array | None = None, sigma: Array | None = None
) -> MapTag:
    """A tag that is a body of its own; its key is its number."""
    body = LandmarkBody(f"tag:{number}", number, pose, sigma)
    return MapTag(body, size, IDENTITY, tag_corners(size))


def board_tag(body: LandmarkBody, size: float, body_T_tag: Array) -> MapTag:
    """A tag fixed to a board at ``body_T_tag`` (7,)."""
    return MapTag(body, size, body_T_tag, transform(body_T_tag, tag_corners(size)))


def grid_position(index: int, columns: int, size: float, spacing: float) -> Array:
    """The pose (7,) of the ``index``-th tag of a grid in the frame of its first tag.

    Tags are counted along the columns of a row first: x grows with the column, y with the row,
    both by the pitch ``size · (1 + spacing)`` (the layout that TagSLAM calls a board).
    """
    row, column = divmod(index, columns)
    pitch = size * (1.0 + spacing)
    return np.array([column * pitch, row * pitch, 0.0, 0.0, 0.0, 0.0, 1.0])
