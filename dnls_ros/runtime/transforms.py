"""Transforms between frames over time: what tf is, without ROS.

A link says where its child is in its parent. Dynamic links keep their samples for ``tf.cache``
seconds and are interpolated (translation linearly, rotation by slerp), never extrapolated; static
links hold at all times. What tf2 does where the data are odd, this does too: between two samples
with different parents the earlier one holds, the kind (static, dynamic) of a link is that of its
newest transform, a time jump forgets dynamic links only. Of two samples with the same stamp the
later one received counts. Lookups cost O(log n) in the samples of a link.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from math import acos, hypot, sin
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dnls_ros.window.rigid import IDENTITY, compose, inverse

Array = NDArray[np.float64]

NORM_TOLERANCE = 0.01
"""Of ‖q‖² about 1, as in tf2: beyond it no other node would take the transform either."""
LARGEST_COORDINATE = 1e9
"""Positions beyond it [m] are of no robot's frames."""
RESTART_AFTER = 10
"""So many transforms in a row older than the cache, and the newest one was wrong, not they."""
_ALIGNED = 1.0 - 1e-9  # cosine of half the angle below which slerp is linear to rounding
_NAMES_TOLD = 12


@dataclass(frozen=True, eq=False)
class StampedTransform:
    """Where a frame is.

    Attributes:
        parent: ``header.frame_id``.
        child: ``child_frame_id``.
        stamp: [ns]; means nothing if static.
        pose: parent_T_child (7,).
    """

    parent: str
    child: str
    stamp: int
    pose: Array


@dataclass(frozen=True, eq=False)
class Transforms:
    """What one message of a tf topic says.

    Attributes:
        transforms: Those that can be read.
        static: Whether the topic is tf_static.
        problems: A sentence for each that cannot.
    """

    transforms: tuple[StampedTransform, ...]
    static: bool
    problems: tuple[str, ...] = ()

    @property
    def newest(self) -> int:
        """The latest stamp [ns]; 0 if there is none."""
        return max((one.stamp for one in self.transforms), default=0)


@dataclass(frozen=True, eq=False)
class Found:
    """A transform: target_T_source (7,), and whether it holds at all times."""

    pose: Array
    static: bool


@dataclass(frozen=True)
class NotYet:
    """Data that may still come is missing.

    Attributes:
        text: What is missing, a sentence.
        known: Whether the frames are known and connected, so that only the time is missing.
    """

    text: str
    known: bool


@dataclass(frozen=True)
class Impossible:
    """Waiting does not help; ``text`` says why."""

    text: str


Lookup = Found | NotYet | Impossible


class TransformSource(Protocol):
    """Who knows where frames are. Owned by one thread, the solver's."""

    @property
    def revision(self) -> int:
        """Changes whenever a lookup might answer differently."""
        ...

    def add(self, transforms: Sequence[StampedTransform], static: bool) -> list[str]:
        """Takes transforms in; a sentence for each that is refused."""
        ...

    def lookup(self, target: str, source: str, stamp: int) -> Lookup:
        """target_T_source at ``stamp`` [ns]: maps coordinates in ``source`` to ``target``."""
        ...

    def clear(self) -> None:
        """Forgets what is not static: time has jumped."""
        ...


def bare(frame: str) -> str:
    """A frame's name without the leading slash of ROS 1, as in tf2."""
    return frame.removeprefix("/")


@dataclass(frozen=True, eq=False)
class _Sample:
    parent: str
    pose: Array
    static: bool


@dataclass
class _Link:
    """The samples of one child, by stamp."""

    static: _Sample | None = None
    stamps: list[int] = field(default_factory=list[int])
    samples: list[_Sample] = field(default_factory=list[_Sample])
    too_old: int = 0

    def put(self, stamp: int, sample: _Sample, cache: int) -> str | None:
        """Takes a sample in; why not, if it is older than the cache."""
        if sample.static:
            self.static = sample
            self.clear()
            return None
        self.static = None
        if self.stamps and stamp < self.stamps[-1] - cache:
            self.too_old += 1
            if self.too_old < RESTART_AFTER:
                age = (self.stamps[-1] - stamp) * 1e-9
                return f"it is {age:.3f} s older than the newest; tf.cache is {cache * 1e-9:g} s"
            self.clear()
        self.too_old = 0
        k = bisect_left(self.stamps, stamp)
        if k < len(self.stamps) and self.stamps[k] == stamp:
            self.samples[k] = sample
            return None
        self.stamps.insert(k, stamp)
        self.samples.insert(k, sample)
        old = bisect_left(self.stamps, self.stamps[-1] - cache)
        del self.stamps[:old], self.samples[:old]
        return None

    def clear(self) -> None:
        """Forgets the dynamic samples."""
        self.stamps.clear()
        self.samples.clear()
        self.too_old = 0

    @property
    def newest(self) -> _Sample | None:
        """The sample that was stamped last."""
        return self.static or (self.samples[-1] if self.samples else None)

    def at(self, child: str, stamp: int) -> _Sample | NotYet | Impossible:
        """The sample at a stamp, interpolated if need be."""
        if self.static is not None:
            return self.static
        if not self.stamps:
            return NotYet(f"nothing was heard of '{child}' since time jumped", True)
        k = bisect_left(self.stamps, stamp)
        if k == len(self.stamps):
            late = (stamp - self.stamps[-1]) * 1e-9
            where = f"'{child}' in '{self.samples[-1].parent}'"
            return NotYet(f"the newest transform of {where} is {late:.3f} s too old", True)
        if self.stamps[k] == stamp:
            return self.samples[k]
        if k == 0:
            early = (self.stamps[0] - stamp) * 1e-9
            where = f"'{child}' in '{self.samples[0].parent}'"
            return Impossible(f"the transforms of {where} begin {early:.3f} s later")
        before, after = self.samples[k - 1], self.samples[k]
        if before.parent != after.parent:
            return before
        share = (stamp - self.stamps[k - 1]) / (self.stamps[k] - self.stamps[k - 1])
        return _Sample(before.parent, interpolate(before.pose, after.pose, share), False)


@dataclass
class _Climb:
    """The way up from a frame: ancestor → (ancestor_T_frame, whether static)."""

    top: str
    reached: dict[str, tuple[Array, bool]]
    problem: NotYet | Impossible | None = None


class TransformBuffer:
    """Our own source of transforms, fed from /tf and /tf_static.

    Args:
        cache: How long samples are kept [s].
    """

    def __init__(self, cache: float) -> None:
        self._cache = round(cache * 1e9)
        self._links: dict[str, _Link] = {}
        self._frames: dict[str, None] = {}  # ordered, so that sentences are reproducible
        self._revision = 0

    @property
    def revision(self) -> int:
        """Counts the transforms taken in, and the calls of `clear`."""
        return self._revision

    def add(self, transforms: Sequence[StampedTransform], static: bool = False) -> list[str]:
        """Takes transforms in; a sentence for each that is refused."""
        said = [self._put(one, static) for one in transforms]
        return [text for text in said if text is not None]

    def clear(self) -> None:
        """Forgets dynamic transforms; frames stay known, static transforms stay."""
        self._revision += 1
        for link in self._links.values():
            link.clear()

    def parent_of(self, frame: str) -> str:
        """The parent of a frame in its newest transform; '' if there is none."""
        link = self._links.get(bare(frame))
        newest = None if link is None else link.newest
        return "" if newest is None else newest.parent

    def lookup(self, target: str, source: str, stamp: int) -> Lookup:
        """target_T_source at ``stamp`` [ns]."""
        target, source = bare(target), bare(source)
        if target == source:
            return Found(IDENTITY, True)
        for frame in (target, source):
            if frame not in self._frames:
                return NotYet(f"frame '{frame}' never appeared on tf ({self._known()})", False)
        up = self._climb(source, stamp, (target,))
        if target in up.reached:
            return Found(*up.reached[target])
        down = self._climb(target, stamp, up.reached)
        if down.top in up.reached:
            (to_source, fixed), (to_target, also) = up.reached[down.top], down.reached[down.top]
            return Found(compose(inverse(to_target), to_source), fixed and also)
        problem = up.problem or down.problem
        if problem is not None:
            return problem
        return NotYet(
            f"no transform connects '{source}' (below '{up.top}') with '{target}' "
            f"(below '{down.top}')",
            False,
        )

    def _climb(self, start: str, stamp: int, goals: Container[str]) -> _Climb:
        climb = _Climb(start, {start: (IDENTITY, True)})
        while climb.top not in goals:
            link = self._links.get(climb.top)
            if link is None:
                break  # a root
            sample = link.at(climb.top, stamp)
            if not isinstance(sample, _Sample):
                climb.problem = sample
                break
            if sample.parent in climb.reached:
                loop = " → ".join([*climb.reached, sample.parent])
                climb.problem = Impossible(f"the transforms go round in a loop: {loop}")
                break
            pose, static = climb.reached[climb.top]
            pose = sample.pose if climb.top == start else compose(sample.pose, pose)
            climb.top = sample.parent
            climb.reached[climb.top] = pose, static and sample.static
        return climb

    def _put(self, one: StampedTransform, static: bool) -> str | None:
        parent, child = bare(one.parent), bare(one.child)
        refusal = defect(parent, child, one, static) or self._loop(parent, child)
        if refusal is None:
            pose = np.array(one.pose, dtype=np.float64)
            pose[3:] /= np.linalg.norm(pose[3:])
            pose.setflags(write=False)
            link = self._links.setdefault(child, _Link())
            refusal = link.put(one.stamp, _Sample(parent, pose, static), self._cache)
        if refusal is not None:
            return f"transform of '{child}' in '{parent}' at {one.stamp} ns: {refusal}"
        self._frames |= {parent: None, child: None}
        self._revision += 1
        return None

    def _loop(self, parent: str, child: str) -> str | None:
        """Why a link would close a loop: its child is above its parent already."""
        above, path = parent, [parent]
        while above:
            if above == child:
                return f"it would close a loop: {' → '.join([child, *path])}"
            above = self.parent_of(above)
            path.append(above)
        return None

    def _known(self) -> str:
        """The known frames, in words."""
        names = list(self._frames)
        more = f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else ""
        return f"there are {', '.join(names[:_NAMES_TOLD])}{more}" if names else "no frame did"


def interpolate(start: Array, end: Array, share: float) -> Array:
    """Between two poses (7,): position on the line, orientation by the shorter slerp."""
    p, q = start[3:].tolist(), end[3:].tolist()
    cosine = p[0] * q[0] + p[1] * q[1] + p[2] * q[2] + p[3] * q[3]
    sign = -1.0 if cosine < 0.0 else 1.0
    before, after = 1.0 - share, share
    if sign * cosine < _ALIGNED:
        angle = acos(sign * cosine)
        before, after = sin(before * angle) / sin(angle), sin(after * angle) / sin(angle)
    out = start + share * (end - start)
    out[3:] = before * start[3:] + sign * after * end[3:]
    out[3:] /= np.linalg.norm(out[3:])
    return out


def defect(parent: str, child: str, one: StampedTransform, static: bool) -> str | None:
    """What is wrong with a transform by itself; its frames are given without slash."""
    if not parent or not child:
        return "both frames must have a name"
    if parent == child:
        return "a frame cannot be its own parent"
    if not static and one.stamp <= 0:
        return "a dynamic transform needs a stamp"
    pose = np.asarray(one.pose)
    if pose.shape != (7,):
        return f"its pose has shape {pose.shape}, expected (7,)"
    if not np.isfinite(pose).all():
        return f"its numbers are not finite: {pose.tolist()}"
    if np.abs(pose[:3]).max() > LARGEST_COORDINATE:
        return f"its position {pose[:3].tolist()} is beyond {LARGEST_COORDINATE:g} m"
    norm = hypot(*pose[3:].tolist())
    if abs(norm * norm - 1.0) >= NORM_TOLERANCE:
        return f"its quaternion {pose[3:].tolist()} has norm {norm:.6g}, expected 1"
    return None
