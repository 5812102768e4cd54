"""A pushed track and its pusher: states in pairs, and the motion between them.

Whatever gives a pushed track a state gives its pusher one of the same stamp, as soon as something
says where that is. Between two such pairs the object is pushed quasi-statically where the finger
touches all along, and rests where it does not touch at all; where a contact begins or ends in
between it may have moved. As `chains`, these factors are derived for every
solve; a pair whose finger has left the window has none, because the marginal prior has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.costs import quasi_static_push, random_walk
from dnls_ros.problem import Diagonal, FactorGroup, Ref, Shared, Values
from dnls_ros.window.chains import BRIDGE_SPEED, inflation
from dnls_ros.window.config import Vector
from dnls_ros.window.contacts import Contacts, throughout
from dnls_ros.window.growth import TrackRules, add_state, find_state
from dnls_ros.window.increments import Stamps
from dnls_ros.window.pushed import pushed_object
from dnls_ros.window.state import Draft


def common_stamp(draft: Draft, pusher: TrackRules, stamp: int) -> int:
    """The stamp for a new state of the pushed track: that of a finger's state near it, if any."""
    near = find_state(draft, pusher, stamp)
    return stamp if near is None else near


def pair(draft: Draft, pusher: TrackRules, stamp: int) -> bool:
    """Gives the finger a state at one of the pushed track; false if nothing says where it is."""
    stamps = draft.stamps(pusher.body)
    if not len(stamps) or stamp < stamps[0]:
        return False
    known = stamps[np.searchsorted(stamps, stamp)] if stamp <= stamps[-1] else None
    return known == stamp or add_state(draft, pusher, stamp, lambda: None)


def pair_all(draft: Draft, pushed: TrackRules, pusher: TrackRules) -> None:
    """Gives the finger a state at every one of the pushed track, where it can have one."""
    for stamp in np.setdiff1d(draft.stamps(pushed.body), draft.stamps(pusher.body)).tolist():
        pair(draft, pusher, stamp)


def push_groups(
    pushed: TrackRules, values: Values, timelines: Sequence[Contacts]
) -> dict[str, FactorGroup]:
    """The factors between neighbouring states of a track that moves when it is pushed.

    Args:
        pushed: The track.
        values: Of the window.
        timelines: When the finger touched, by each sensor of contact.
    """
    stamps = values.ids[pushed.body.name].numpy()
    finger = values.ids.get(pushed.track.pusher_track)
    there = np.isin(stamps, [] if finger is None else finger.numpy())
    start, end = stamps[:-1], stamps[1:]
    # A state may stand for a stamp so close to it that it has none of its own.
    slack = np.minimum(pushed.period, (end - start) // 2)
    inner = start + slack, end - slack
    touched, free = (throughout(timelines, on, *inner) for on in (True, False))
    paired = there[:-1] & there[1:]
    rest, motion = pushed.track.rest_sigma, pushed.track.motion_sigma
    makers: dict[str, tuple[NDArray[np.bool_], Callable[[Stamps, Stamps], FactorGroup]]] = {
        "rest": (free, partial(_walking, pushed, rest)),
        "change": (~touched & ~free, partial(_walking, pushed, motion)),
        "motion": (touched & paired, partial(_pushed, pushed)),
        # Where the finger is not known next to nothing is said.
        "bridge": (touched & ~paired, partial(_bridge, pushed)),
    }
    return {
        f"{pushed.body.name}.{name}": make(start[some], end[some])
        for name, (some, make) in makers.items()
        if some.any()
    }


def _pushed(rules: TrackRules, start: Stamps, end: Stamps) -> FactorGroup:
    """The twist's part of the residual is in metres: a turn times the ratio c."""
    finger, ratio = rules.track.pusher_track, pushed_object(rules.track.shape).ratio
    scale = torch.tensor([1.0, 1.0, ratio], dtype=torch.float64)
    return quasi_static_push(
        *_refs(rules.body.name, start, end),
        *_refs(finger, start, end),
        Shared(torch.tensor([ratio], dtype=torch.float64)),
        noise=Diagonal((_sigma(rules, rules.track.motion_sigma, start, end) * scale)[None]),
    )


def _walking(rules: TrackRules, density: Vector, start: Stamps, end: Stamps) -> FactorGroup:
    noise = Diagonal(_sigma(rules, density, start, end)[None])
    return random_walk(*_refs(rules.body.name, start, end), noise=noise)


def _bridge(rules: TrackRules, start: Stamps, end: Stamps) -> FactorGroup:
    sigma = BRIDGE_SPEED * _seconds(start, end).expand(-1, rules.body.dim)
    return random_walk(*_refs(rules.body.name, start, end), noise=Diagonal(sigma[None]))


def _sigma(rules: TrackRules, density: Vector, start: Stamps, end: Stamps) -> Tensor:
    """(N, 3) standard deviations over intervals; a long gap is hardly believed."""
    wide = inflation(end - start, rules.limits.max_gap)
    return torch.tensor(density, dtype=torch.float64) * wide * _seconds(start, end).sqrt()


def _seconds(start: Stamps, end: Stamps) -> Tensor:
    return torch.from_numpy((end - start) * 1e-9)[:, None]


def _refs(name: str, start: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[Ref, Ref]:
    return Ref(name, torch.from_numpy(start.copy())), Ref(name, torch.from_numpy(end.copy()))
