"""Recordings of pushes cut into windows of equal structure, which stack to a batch.

A window is T states of one contact, ``stride`` images apart. Images are prepared as the front end
of the estimator prepares them: what a network is trained on is what it will see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.costs import DistanceField, distance_field_of, shape_of
from dnls_ros.errors import DnlsError
from dnls_ros.io.tactile_json import TactileTrajectory
from dnls_ros.learned import push_signals
from dnls_ros.window.config import ImageConfig
from dnls_ros.window.tactile_frontend import FrontEndOptions, TactileFrontEnd

Array = NDArray[np.float64]
CELL = 0.004
"""Of the distance fields [m]."""
MARGIN = 0.08
"""How far the distance fields go beyond the largest object [m]."""


@dataclass(frozen=True)
class WindowRules:
    """How recordings are cut.

    Attributes:
        states: T.
        stride: Images between two states.
        pair_offsets: Images between the two of a pair; multiples of the stride. () where the
            sensor's measurements are not of pairs.
        step: States from the start of a window to that of the next.
        image: Which part of an image is used, and its size.
        observe: States from one at which the object's pose is observed to the next; 0: only the
            first is.
    """

    states: int = 25
    stride: int = 5
    pair_offsets: tuple[int, ...] = (10, 15, 20, 25, 30, 35, 40)
    step: int = 6
    image: ImageConfig = field(default_factory=lambda: ImageConfig((), (32, 24)))
    observe: int = 0

    def __post_init__(self) -> None:
        if self.states < 2 or self.stride < 1 or self.step < 1 or self.observe < 0:
            raise DnlsError(
                f"windows: states {self.states}, stride {self.stride}, step {self.step}, observe "
                f"{self.observe}; expected at least 2, 1, 1 and 0"
            )
        bad = [k for k in self.pair_offsets if k < 1 or k % self.stride]
        if bad:
            raise DnlsError(
                f"windows: pair_offsets {list(self.pair_offsets)} must be multiples of the "
                f"stride {self.stride}"
            )
        if self.pair_offsets and min(self.pair_offsets) // self.stride >= self.states:
            raise DnlsError(
                f"windows: no pair of {list(self.pair_offsets)} images fits into {self.states} "
                f"states {self.stride} images apart"
            )

    @property
    def frames(self) -> int:
        """Images from the first state of a window to the last, both included."""
        return (self.states - 1) * self.stride + 1

    def observed(self) -> Tensor:
        """The states at which the object's pose is observed."""
        return torch.arange(0, self.states, self.observe or self.states)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """(M,) the earlier and the later state of each pair; M ≥ 1."""
        found = [
            (k, k + offset // self.stride)
            for offset in self.pair_offsets
            for k in range(self.states - offset // self.stride)
        ]
        earlier, later = zip(*found, strict=True)
        return torch.tensor(earlier), torch.tensor(later)


@dataclass(frozen=True, eq=False)
class Windows:
    """N windows; what is per object is shared by the windows that show it.

    Attributes:
        rules: How they were cut.
        images: (K, 3, H, W) less the background, or (K, F) features of images, or `push_signals`
            of forces; float32.
        frames: (N, T) the image of each state.
        object: (N, T, 3) true x, y, yaw [m, rad].
        ee: (N, T, 3) measured.
        times: (N, T) [s].
        shape: (N,) which of the fields.
        fields: (S, H, W) signed distances, origins (2,) and cell (1,) are common.
        ratio: (S,) c of the limit surface [m].
        radius: (N,) of the fingertip [m].
        source: (N,) which recording.
    """

    rules: WindowRules
    images: Tensor
    frames: Tensor
    object: Tensor
    ee: Tensor
    times: Tensor
    shape: Tensor
    fields: DistanceField
    ratio: Tensor
    radius: Tensor
    source: Tensor

    def __len__(self) -> int:
        return len(self.frames)

    def select(self, which: Tensor) -> Windows:
        """Some windows; all objects and images are kept."""
        per_window = ("frames", "object", "ee", "times", "shape", "radius", "source")
        return replace(self, **{name: getattr(self, name)[which] for name in per_window})

    def first(self, states: int) -> Windows:
        """The first states of all windows."""
        per_state = ("frames", "object", "ee", "times")
        cut_short = {name: getattr(self, name)[:, :states] for name in per_state}
        return replace(self, rules=replace(self.rules, states=states), **cut_short)

    def with_images(self, images: Tensor) -> Windows:
        """The same windows with other images or features, of the same count."""
        return replace(self, images=images)

    def field(self) -> DistanceField:
        """The field of each window, with axes for windows and factors."""
        f = self.fields
        return DistanceField(
            f.distance[self.shape, None], f.origin[None, None], f.cell[None, None]
        )


def cut(trajectories: Sequence[TactileTrajectory], rules: WindowRules) -> Windows:
    """All windows of some recordings.

    Raises:
        DnlsError: There is none, or recordings differ in what they have.
    """
    if not trajectories:
        raise DnlsError("windows: no recordings were given")
    kinds = sorted({(t.shape, t.size) for t in trajectories})
    fields, ratio = _objects(kinds)
    rows: list[dict[str, Tensor]] = []
    pictures: list[Tensor] = []
    count = 0
    for number, one in enumerate(trajectories):
        images, contact, episode = _seen(one, rules)
        starts = list(_starts(contact, episode, rules))
        used, index = _used(starts, rules)
        for place, first in enumerate(starts):
            at = slice(first, first + rules.frames, rules.stride)
            rows.append(
                {
                    "frames": index[place] + count,
                    "object": torch.from_numpy(one.object[at]),
                    "ee": torch.from_numpy(one.ee[at]),
                    "times": torch.from_numpy(one.stamps[at]),
                    "shape": torch.tensor(kinds.index((one.shape, one.size))),
                    "radius": torch.tensor(one.tip_radius, dtype=torch.float64),
                    "source": torch.tensor(number),
                }
            )
        pictures.append(images[used])
        count += len(used)
    if not rows:
        raise DnlsError(
            f"windows: no contact in {len(trajectories)} recordings lasts {rules.frames} images: "
            "make windows shorter (states, stride), or record longer pushes"
        )
    _check_equal([tuple(p.shape[1:]) for p in pictures])
    stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return Windows(rules, torch.cat(pictures), fields=fields, ratio=ratio, **stacked)


def _objects(kinds: Sequence[tuple[str, tuple[float, ...]]]) -> tuple[DistanceField, Tensor]:
    """The fields and ratios of all objects, on one grid."""
    shapes = [shape_of(kind, size) for kind, size in kinds]
    half = max(float(np.abs(shape.outline(256)).max()) for shape in shapes) + MARGIN
    fields = [distance_field_of(shape, CELL, half=half) for shape in shapes]
    distance = torch.stack([f.distance for f in fields])
    ratio = torch.tensor([shape.friction_ratio() for shape in shapes], dtype=torch.float64)
    return DistanceField(distance, fields[0].origin, fields[0].cell), ratio


def _starts(
    contact: NDArray[np.bool_], episode: NDArray[np.int64], rules: WindowRules
) -> Iterator[int]:
    """First images of the windows: all images of one belong to the same contact."""
    whole = np.where(contact, episode, -1)
    ends = np.flatnonzero(np.diff(whole, prepend=-2, append=-2))
    for first, last in pairwise(ends):
        if contact[first]:
            yield from range(int(first), int(last) - rules.frames + 1, rules.step * rules.stride)


def _used(starts: Sequence[int], rules: WindowRules) -> tuple[NDArray[np.int64], list[Tensor]]:
    """The images that windows use, and for each window which of those it has."""
    wanted = [np.arange(rules.states) * rules.stride + first for first in starts]
    used = np.unique(np.concatenate(wanted)) if wanted else np.zeros(0, dtype=np.int64)
    return used, [torch.from_numpy(np.searchsorted(used, one)) for one in wanted]


class _Differences:
    """A model whose feature of an image is the image, so that the front end hands it out."""

    hash = "none"
    measured = ("x", "y", "yaw")

    def feature(self, image: NDArray[np.float32]) -> Array:
        """The image, flat."""
        return np.asarray(image, dtype=np.float64).reshape(-1)

    def pairs(self, earlier: Array, later: Array) -> tuple[Array, Array]:
        """Nobody asks for pairs."""
        raise NotImplementedError("a front end without pair_offsets asks for no pairs")


def _seen(
    one: TactileTrajectory, rules: WindowRules
) -> tuple[Tensor, NDArray[np.bool_], NDArray[np.int64]]:
    """What the network sees (T, …); which of it belongs to a contact, and to which."""
    if one.images is None:
        seen = one.features
        if not seen.shape[1] and one.wrench is not None:
            seen = push_signals(one.wrench, one.ee, one.stamps)
        if not seen.shape[1]:
            raise DnlsError(
                "windows: a recording has neither images nor features of them, nor forces"
            )
        return torch.from_numpy(seen).float(), one.contact, one.episode
    # pairs are made by the network, from the features of many images: none are asked for here
    front = TactileFrontEnd(FrontEndOptions(4.0, 0.01, 3, (), rules.image), _Differences())
    width, height = rules.image.size
    images = np.zeros((len(one), 3, height, width), dtype=np.float32)
    contact = np.zeros(len(one), dtype=np.bool_)
    episode = np.zeros(len(one), dtype=np.int64)
    for k, image in enumerate(one.images):
        seen = front.see(k + 1, image)
        contact[k], episode[k] = seen.feature is not None, seen.episode
        if seen.feature is not None:
            images[k] = seen.feature.reshape(3, height, width)
    if not contact.any():
        raise DnlsError(
            "windows: the front end sees no contact in a recording's images: the gel must be free "
            "in the first ten, and touched later"
        )
    return torch.from_numpy(images), contact & one.contact, episode


def _check_equal(shapes: Sequence[tuple[int, ...]]) -> None:
    if len(set(shapes)) > 1:
        raise DnlsError(
            f"windows: recordings hold images or features of different shapes "
            f"{sorted(set(shapes))}: train on those of one sensor"
        )
