"""What is broadcast on tf, and who else broadcasts it.

A track's child is broadcast directly in its parent frame. The robot in the map is the exception
(REP-105): its odometry already broadcasts odom → base, and a frame has one parent, so map → odom
is broadcast instead,

    map_T_odom = map_T_base · (odom_T_base)⁻¹,

with odom_T_base at the stamp of the estimate. An estimate may be ahead of that transform; it then
waits for it. The step of map → odom from one broadcast to the next may be limited, for controllers
that do not bear a jump. Owned by one thread, the publisher's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dnls_ros.runtime.transforms import (
    Found,
    Impossible,
    StampedTransform,
    TransformBuffer,
    bare,
    interpolate,
)
from dnls_ros.runtime.types import Event, Level
from dnls_ros.window.config import EstimatorConfig, TrackConfig
from dnls_ros.window.rigid import angle_between, compose, inverse

Array = NDArray[np.float64]

REMEMBERED = 1000
"""Own transforms that are recognized when they are heard again."""
MOST_WAITING = 20
"""Estimates of a track that wait for odom → base; so many in vain, and it is told missing."""
_SAME = 1e-9  # [m] and of a quaternion: the same transform, heard again


@dataclass(frozen=True, eq=False)
class _Estimate:
    stamp: int
    pose: Array


@dataclass
class _Broadcast:
    """One transform that we send: which, and how far it has got."""

    track: TrackConfig
    parent: str
    child: str
    by_subtraction: bool
    waiting: deque[_Estimate] = field(
        default_factory=lambda: deque[_Estimate](maxlen=MOST_WAITING)
    )
    last: StampedTransform | None = None
    missing_told: bool = False


class TfOutput:
    """Turns estimates into transforms to broadcast.

    Args:
        config: Tracks, frames and ``publish.*``.
    """

    def __init__(self, config: EstimatorConfig) -> None:
        self._config = config
        self._heard = TransformBuffer(config.tf.cache)
        self._broadcasts = {t.name: _broadcast(config, t) for t in config.tracks if t.publish}
        self._sent: deque[StampedTransform] = deque(maxlen=REMEMBERED)
        self._rivals: set[tuple[str, str]] = set()

    @property
    def children(self) -> frozenset[str]:
        """The frames whose place we broadcast; what others say of them is no input."""
        if not self._config.publish.tf:
            return frozenset()
        return frozenset(one.child for one in self._broadcasts.values())

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over a configuration of the same tracks."""
        self._config = config

    def restart(self) -> None:
        """Forgets what was broadcast: a reset may jump, and stamps may go back."""
        self._heard.clear()
        for one in self._broadcasts.values():
            one.waiting.clear()
            one.last = None

    def hear(self, transforms: Sequence[StampedTransform], static: bool) -> list[Event]:
        """Takes transforms of a tf topic in; an event if another node broadcasts our frame."""
        mine = [one for one in transforms if bare(one.child) in self.children]
        self._heard.add(
            [one for one in transforms if bare(one.child) not in self.children], static
        )
        events = [self._rival(one) for one in mine if not self._is_own(one)]
        return [event for event in events if event is not None]

    def estimate(self, track: str, stamp: int, pose: Array) -> None:
        """Takes the newest estimate of a track: parent_T_child (7,) at ``stamp`` [ns]."""
        one = self._broadcasts.get(track)
        if one is not None and self._config.publish.tf:
            one.waiting.append(_Estimate(stamp, pose))

    def due(self) -> tuple[list[StampedTransform], list[Event]]:
        """What is to be broadcast now; call it after `estimate` and after `hear`.

        Returns:
            Transforms, of each frame with strictly increasing stamps, and what is missing for one.
        """
        out: list[StampedTransform] = []
        events: list[Event] = []
        for one in self._broadcasts.values():
            made = self._newest(one, events)
            if made is None or (one.last is not None and made.stamp <= one.last.stamp):
                continue
            if one.by_subtraction and one.last is not None:
                made = self._slewed(one.last, made)
            one.last = made
            self._sent.append(made)
            out.append(made)
        return out, events

    def _newest(self, one: _Broadcast, events: list[Event]) -> StampedTransform | None:
        """The transform of the newest estimate that can be told; older ones are dropped."""
        offset = round(self._config.publish.tf_offset * 1e9)
        for k in reversed(range(len(one.waiting))):
            estimate = one.waiting[k]
            pose = estimate.pose
            if one.by_subtraction:
                base = one.track.child_frame
                found = self._heard.lookup(one.child, base, estimate.stamp)
                if not isinstance(found, Found):
                    if isinstance(found, Impossible) or not found.known:
                        self._tell_missing(one, found.text, estimate.stamp, events)
                    continue
                pose = compose(pose, inverse(found.pose))
            for _ in range(k + 1):
                one.waiting.popleft()
            return StampedTransform(one.parent, one.child, estimate.stamp + offset, pose)
        return None

    def _slewed(self, last: StampedTransform, new: StampedTransform) -> StampedTransform:
        """The new transform, or as far on the way to it as the limits allow."""
        limits = self._config.publish
        seconds = (new.stamp - last.stamp) * 1e-9
        way = float(np.linalg.norm(new.pose[:3] - last.pose[:3]))
        turn = angle_between(last.pose, new.pose)
        share = 1.0
        if limits.max_slew_linear > 0 and way > limits.max_slew_linear * seconds:
            share = min(share, limits.max_slew_linear * seconds / way)
        if limits.max_slew_angular > 0 and turn > limits.max_slew_angular * seconds:
            share = min(share, limits.max_slew_angular * seconds / turn)
        return new if share == 1.0 else replace(new, pose=interpolate(last.pose, new.pose, share))

    def _tell_missing(self, one: _Broadcast, why: str, stamp: int, events: list[Event]) -> None:
        if one.missing_told or len(one.waiting) < MOST_WAITING:
            return
        one.missing_told = True
        base, track = one.track.child_frame, one.track.name
        text = (
            f"'{one.parent}' to '{one.child}' cannot be broadcast for track '{track}': {why}; "
            f"broadcast '{one.child}' to '{base}' (odometry), or set "
            f"track.{track}.parent_frame: {one.child} to broadcast '{base}' itself"
        )
        events.append(Event(stamp, Level.WARN, "tf.missing", text, {"frame": one.child}))

    def _is_own(self, heard: StampedTransform) -> bool:
        """Whether it is one of ours, heard again."""
        return any(
            heard.stamp == sent.stamp
            and bare(heard.child) == sent.child
            and np.allclose(heard.pose, sent.pose, rtol=0.0, atol=_SAME)
            for sent in reversed(self._sent)
        )

    def _rival(self, heard: StampedTransform) -> Event | None:
        """The event for another broadcaster, once per parent that it names."""
        parent, child = bare(heard.parent), bare(heard.child)
        if (parent, child) in self._rivals:
            return None
        self._rivals.add((parent, child))
        text = (
            f"another node broadcasts '{child}' too (in '{parent}'): listeners see it jump; stop "
            "that node's broadcast, or set publish.tf: false"
        )
        values = {"frame": child, "parent": parent}
        return Event(heard.stamp, Level.ERROR, "tf.conflict", text, values)


def _broadcast(config: EstimatorConfig, track: TrackConfig) -> _Broadcast:
    """What is broadcast for a track."""
    parent, child = bare(track.parent_frame), bare(track.child_frame)
    by_subtraction = parent == bare(config.map_frame) and child == bare(config.base_link_frame)
    return _Broadcast(
        track, parent, config.odom_frame if by_subtraction else child, by_subtraction
    )
