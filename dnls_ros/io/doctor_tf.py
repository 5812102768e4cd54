"""The transforms of a recording: the tree, who contradicts whom, and what was available when.

Only the stamps and the arrival of each transform are kept, 16 bytes each.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dnls_ros.io.convert import stamp_to_ns
from dnls_ros.io.doctor_time import Stamps

CONFLICTS = 2
"""So many contradictions on one child are not a coincidence."""
_SAME = 1e-6
_DEEPEST = 50


@dataclass(eq=False)
class Edge:
    """All that was said about one child frame."""

    child: str
    parents: Counter[str] = field(default_factory=Counter)
    static: int = 0
    dynamic: int = 0
    conflicts: int = 0
    bad: int = 0
    stamps: array[int] = field(default_factory=lambda: array("q"))
    receive: array[int] = field(default_factory=lambda: array("q"))
    last: tuple[int, tuple[float, ...]] = (0, ())

    @property
    def parent(self) -> str:
        """The parent that was given most often."""
        return self.parents.most_common(1)[0][0]


@dataclass(frozen=True)
class Availability:
    """Whether a frame can be found from another at a sensor's stamps.

    Attributes:
        share: Of the stamps at which all transforms can be interpolated; 0 without a connection.
        wait: 95th percentile of how long after the message the transform arrived [s]; 0 = before.
        why: What is missing, or ``""``.
    """

    share: float
    wait: float
    why: str = ""


class TransformLog:
    """Collects /tf and /tf_static."""

    def __init__(self) -> None:
        """Starts without frames."""
        self.edges: dict[str, Edge] = {}

    def add(self, message: Any, receive_stamp: int, static: bool) -> None:
        """Takes a tf2_msgs/TFMessage."""
        for transform in message.transforms:
            header = transform.header
            child, parent = transform.child_frame_id, header.frame_id
            edge = self.edges.get(child)
            if edge is None:
                edge = self.edges[child] = Edge(child)
            edge.parents[parent] += 1
            stamp = stamp_to_ns(header.stamp.sec, header.stamp.nanosec)
            value = _numbers(transform.transform)
            edge.bad += not abs(math.hypot(*value[3:]) - 1.0) < 0.01
            if static:
                edge.static += 1
            else:
                _note_dynamic(edge, stamp, receive_stamp, value)

    @property
    def frames(self) -> set[str]:
        """Every frame that was named."""
        return {*self.edges, *(name for edge in self.edges.values() for name in edge.parents)}

    @property
    def roots(self) -> list[str]:
        """Frames without a parent."""
        return sorted(self.frames - set(self.edges))

    def loops(self) -> list[list[str]]:
        """Chains of parents that come back to where they began, each once."""
        found: dict[frozenset[str], list[str]] = {}
        for child in self.edges:
            path = list(self._ancestors(child))
            last = self.edges.get(path[-1])
            if last is not None:  # the chain ended at a frame it had been at
                loop = path[path.index(last.parent) :]
                found[frozenset(loop)] = loop
        return list(found.values())

    def tree(self) -> list[str]:
        """The tree as indented lines, with the rate of what moves."""
        children: dict[str, list[str]] = {}
        for child, edge in self.edges.items():
            children.setdefault(edge.parent, []).append(child)
        lines: list[str] = []

        def show(frame: str, depth: int) -> None:
            edge = self.edges.get(frame)
            lines.append("  " * depth + (frame or '""') + (f"  {_kind(edge)}" if edge else ""))
            below = sorted(children.get(frame, []))
            alike: dict[str, list[str]] = {}
            for child in (c for c in below if c not in children):
                alike.setdefault(_kind(self.edges[child]), []).append(child)
            many = {kind: names for kind, names in alike.items() if len(names) >= 3}
            joined = {name for names in many.values() for name in names}
            for child in below if depth < _DEEPEST else ():
                if child not in joined:
                    show(child, depth + 1)
            for kind, names in many.items():
                lines.append("  " * (depth + 1) + f"{', '.join(names)}  {kind}")

        for root in self.roots:
            show(root, 0)
        return lines

    def availability(
        self, target: str, source: str, stamps: Stamps, receive: Stamps
    ) -> Availability:
        """Whether ``target_T_source`` could be interpolated at each stamp.

        Args:
            target: One frame.
            source: The other one.
            stamps: When it was needed [ns].
            receive: When the measurement came [ns].
        """
        if target == source:
            return Availability(1.0, 0.0)
        missing = [name for name in (target, source) if name not in self.frames]
        if missing:
            return Availability(0.0, 0.0, f"tf never names frame {_quoted(missing)}")
        edges = self._between(target, source)
        if edges is None:
            return Availability(0.0, 0.0, f"'{target}' and '{source}' are in different trees")
        moving = [edge for edge in edges if not edge.static]
        if not len(stamps) or not moving:
            return Availability(1.0, 0.0)
        there, wait = np.ones(len(stamps), bool), np.zeros(len(stamps))
        for edge in moving:
            known, came = _sorted(edge)
            there &= (stamps >= known[0]) & (stamps <= known[-1])
            place = np.searchsorted(known, stamps).clip(0, len(known) - 1)
            wait = np.maximum(wait, (came[place] - receive) / 1e9)
        share = float(there.mean())
        worst = float(np.percentile(wait[there], 95)) if there.any() else 0.0
        return Availability(share, max(worst, 0.0))

    def _ancestors(self, frame: str) -> Iterator[str]:
        """A frame, its parent, and so on, until the root or a frame seen before."""
        seen: set[str] = set()
        while frame not in seen:
            yield frame
            seen.add(frame)
            edge = self.edges.get(frame)
            if edge is None:
                return
            frame = edge.parent

    def _between(self, target: str, source: str) -> list[Edge] | None:
        """The transforms on the way from one frame to another; None if there is none."""
        one, two = list(self._ancestors(target)), list(self._ancestors(source))
        shared = next((frame for frame in one if frame in two), None)
        if shared is None:
            return None
        chain = [*one[: one.index(shared)], *two[: two.index(shared)]]
        return [self.edges[frame] for frame in chain]


def _note_dynamic(edge: Edge, stamp: int, receive: int, value: tuple[float, ...]) -> None:
    before, known = edge.last
    if edge.dynamic:
        moved = max(abs(a - b) for a, b in zip(value, known, strict=True)) > _SAME
        # One publisher neither goes back in time nor says two things about one moment.
        edge.conflicts += stamp < before or (stamp == before and moved)
    edge.dynamic += 1
    edge.last = (stamp, value)
    edge.stamps.append(stamp)
    edge.receive.append(receive)


def _sorted(edge: Edge) -> tuple[Stamps, Stamps]:
    """A transform's stamps in order, and from when on one at or after each was known."""
    stamps = np.array(edge.stamps, dtype=np.int64)
    order = np.argsort(stamps, kind="stable")
    came = np.array(edge.receive, dtype=np.int64)[order]
    return stamps[order], np.minimum.accumulate(came[::-1])[::-1]


def _kind(edge: Edge) -> str:
    if not edge.dynamic:
        return "(static)"
    span = (max(edge.stamps) - min(edge.stamps)) / 1e9
    return f"({(edge.dynamic - 1) / span:.1f} Hz)" if span > 0 else "(once)"


def _numbers(transform: Any) -> tuple[float, ...]:
    p, q = transform.translation, transform.rotation
    return (p.x, p.y, p.z, q.x, q.y, q.z, q.w)


def _quoted(names: list[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)
