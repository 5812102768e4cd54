"""A track is put where someone says it is: what was known of it goes, one prior comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from dnls_ros.costs import prior
from dnls_ros.errors import DnlsError
from dnls_ros.problem import FactorGroup, Ref, SquareRootInformation
from dnls_ros.window.absorb import Registry
from dnls_ros.window.bodies import Array
from dnls_ros.window.growth import TrackRules, put_first_state
from dnls_ros.window.marginalize import marginalize
from dnls_ros.window.noise import is_definite
from dnls_ros.window.state import Draft, State


@dataclass(frozen=True, eq=False)
class Anchor:
    """Where a track is said to be.

    Attributes:
        stamp: [ns].
        pose: (7,) world_T_body, a unit quaternion.
        covariance: (6, 6) in the tangent, definite on the body's axes.
    """

    stamp: int
    pose: Array
    covariance: Array


def inflated(state: State, factor: float) -> State:
    """The window with ``factor`` times the variance of its marginal prior."""
    known = state.prior
    if known is None:
        return state
    shrink = factor**-0.5
    weak = replace(known, factor=known.factor * shrink, offset=known.offset * shrink)
    return replace(state, prior=weak)


def without_track(
    state: State, registry: Registry, rules: TrackRules, chains: Mapping[str, FactorGroup]
) -> State:
    """The window without one track; what that knew about others stays as their prior.

    If no other track has states nothing is left but the samples of motion and of contact.

    Args:
        state: The window.
        registry: Tracks and sensors.
        rules: Of the track that goes.
        chains: The factors between neighbouring states.
    """
    body = rules.body
    mine = {name for name, track in registry.track_of.items() if track == rules.track.name}
    others = [r for r in registry.rules.values() if r is not rules]
    if not any(r.body.name in state.values for r in others):
        return State(increments=state.increments, contacts=state.contacts)
    leaving = {
        name: torch.ones(len(ids), dtype=torch.bool)
        for name, ids in state.values.ids.items()
        if name in (body.name, body.velocity)
    }
    rest = marginalize({**state.factors, **chains}, state.prior, state.values, leaving)
    return State(
        values=rest.values,
        factors={n: g for n, g in rest.groups.items() if n in state.factors},
        prior=rest.prior,
        increments=state.increments,
        pending_rows=tuple(r for r in state.pending_rows if r.sensor not in mine),
        seen=state.seen,
        uncertain=frozenset(u for u in state.uncertain if u[0] != body.name),
        gates={name: gate for name, gate in state.gates.items() if name not in mine},
        contacts=state.contacts,
    )


def with_prior(state: State, rules: TrackRules, anchor: Anchor) -> State:
    """The window with one state of a track that has none, and a prior on it.

    Raises:
        DnlsError: The covariance is not definite on the body's axes.
    """
    body = rules.body
    tangent = np.ascontiguousarray(body.reduce(anchor.covariance))
    if not is_definite(tangent):
        raise DnlsError(
            f"the covariance of track '{rules.track.name}' is not positive definite on its axes: "
            f"its diagonal there is {np.diag(tangent).tolist()}"
        )
    element = body.elements(np.asarray(anchor.pose)[None])
    draft = Draft(state, anchor.stamp)
    put_first_state(draft, rules, anchor.stamp, element)
    noise = SquareRootInformation.from_covariance(torch.from_numpy(tangent)[None, None])
    ref = Ref(body.name, torch.tensor([anchor.stamp]))
    draft.add_factors(f"{body.name}.init", prior(ref, element[None], noise=noise))
    return draft.state
