"""New states: which stamps get one, and from where they start.

Odometry samples enter their buffers first. Then each measurement gets a state at its stamp: an
existing one, or a new one started from measured motion, else from the motion model, else from what
the measurement itself says. A measurement ahead of the odometry waits for it; one older than the
window is too late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnls_ros.costs import prior
from dnls_ros.lie import LieGroup, local, retract
from dnls_ros.problem import Diagonal, Ref
from dnls_ros.window.bodies import Array, Body, pose_of_rpy
from dnls_ros.window.config import EstimatorConfig, TrackConfig
from dnls_ros.window.increments import Increments, Limits
from dnls_ros.window.measurements import Measurement, Reason, RelativePoseMeasurement
from dnls_ros.window.state import Draft, single

INITIAL_SPEED_SIGMA = 10.0
"""Of a new track's twist, every axis [m/s, rad/s]: it says next to nothing."""


@dataclass(frozen=True)
class TrackRules:
    """What growth needs to know of a track.

    Attributes:
        body: Its variables.
        track: Its configuration.
        chain: Its sensors of motion.
        period: Least distance of two states [ns].
        limits: Which odometry samples are believed.
    """

    body: Body
    track: TrackConfig
    chain: tuple[str, ...]
    period: int
    limits: Limits

    @classmethod
    def of(cls, config: EstimatorConfig, track: TrackConfig, chain: tuple[str, ...]) -> TrackRules:
        """From the configuration."""
        period, gap = (
            round(s * 1e9) for s in (config.window.min_state_gap, config.window.max_gap)
        )
        recovery = config.recovery
        fastest = (recovery.max_speed, recovery.max_turn_rate) if recovery.enabled else ()
        return cls(Body.of(track), track, chain, period, Limits(gap, *fastest))


def start_track(draft: Draft, rules: TrackRules, stamp: int, pose: Array) -> None:
    """The first state of a track, with the configured prior if it starts from parameters."""
    body, init = rules.body, rules.track.init
    put_first_state(draft, rules, stamp, body.elements(pose[None]))
    if init.mode == "params":
        sigma = torch.tensor(init.sigma, dtype=torch.float64)
        z = body.elements(pose_of_rpy(init.pose)[None])
        draft.add_factors(
            f"{body.name}.init",
            prior(Ref(body.name, torch.tensor([stamp])), z[None], noise=Diagonal(sigma)),
        )


def put_first_state(draft: Draft, rules: TrackRules, stamp: int, element: LieGroup) -> None:
    """The first state of a track at one element (1,), its twist next to unknown."""
    body = rules.body
    draft.add_values(single(body.name, stamp, element))
    if body.moving:
        rest = torch.zeros(1, body.dim, dtype=torch.float64)
        draft.add_values(single(body.velocity, stamp, rest))
        noise = Diagonal(torch.full((body.dim,), INITIAL_SPEED_SIGMA, dtype=torch.float64))
        ref = Ref(body.velocity, torch.tensor([stamp]))
        draft.add_factors(f"{body.name}.rest", prior(ref, rest[None], noise=noise))


def find_state(draft: Draft, rules: TrackRules, stamp: int) -> int | None:
    """The id of the state within the least distance of a stamp, the nearest one."""
    stamps = draft.stamps(rules.body)
    if not len(stamps):
        return None
    k = int(np.searchsorted(stamps, stamp))
    near = stamps[max(k - 1, 0) : k + 1]
    best = int(near[np.argmin(np.abs(near - stamp))])
    return best if abs(best - stamp) <= rules.period else None


def must_wait(draft: Draft, rules: TrackRules, stamp: int) -> bool:
    """Whether the track's odometry has not reached a stamp yet and can still be expected to."""
    samples = [draft.state.increments[name] for name in rules.chain]
    newest = [int(s.stamps[-1]) for s in samples if s.complete and len(s.stamps)]
    if not newest:
        return False
    return max(newest) < stamp and draft.now - max(newest) <= rules.limits.max_gap


def wanted_stamps(measurement: Measurement) -> tuple[int, ...]:
    """The stamps at which a measurement needs a state."""
    if isinstance(measurement, RelativePoseMeasurement):
        return measurement.stamp_from, measurement.stamp
    return (measurement.stamp,)


def too_late(
    draft: Draft, rules: TrackRules, measurement: Measurement
) -> tuple[Reason, str] | None:
    """The verdict on a measurement that needs a state older than the window, if there is one."""
    stamps = draft.stamps(rules.body)
    if not len(stamps):
        return None
    oldest = int(stamps[0])
    first = min(wanted_stamps(measurement))
    if first >= oldest - rules.period:
        return None
    age = (oldest - first) * 1e-9
    if first != measurement.stamp and measurement.stamp >= oldest:
        return Reason.NO_PAIR, f"its earlier end left the window {age:.3f} s ago"
    return Reason.TOO_LATE, f"stamped {age:.3f} s before the oldest state of the window"


def add_state(
    draft: Draft, rules: TrackRules, stamp: int, guess: Callable[[], Array | None]
) -> bool:
    """A new state at ``stamp``; false if nothing says where it is.

    Args:
        draft: The working copy.
        rules: The track.
        stamp: Its id [ns].
        guess: Gives a pose (7,) from the measurement itself, asked only if nothing predicts one.
    """
    body = rules.body
    element = predict(draft, rules, stamp)
    if element is None:
        suggested = guess()
        if suggested is None:
            return False
        element = body.elements(suggested[None])
    put_state(draft, rules, stamp, element)
    return True


def put_state(draft: Draft, rules: TrackRules, stamp: int, pose: LieGroup) -> None:
    """A new state at ``stamp`` that starts from ``pose``, one element (1,)."""
    body = rules.body
    draft.add_values(single(body.name, stamp, pose))
    if body.moving:
        draft.add_values(single(body.velocity, stamp, _nearest_velocity(draft, body, stamp)))


def predict(draft: Draft, rules: TrackRules, stamp: int) -> LieGroup | None:
    """The body at ``stamp`` by odometry or motion model, one element (1,), if either says."""
    by_odometry = measured(draft, rules, stamp)
    if by_odometry is not None:
        return by_odometry
    if rules.track.motion == "none" and not rules.chain:
        return None
    body, stamps = rules.body, draft.stamps(rules.body)
    k = int(np.searchsorted(stamps, stamp))
    anchor = max(k - 1, 0)
    poses = draft.state.values[body.name]
    assert isinstance(poses, LieGroup)
    here = poses[0, anchor : anchor + 1]
    if 0 < k < len(stamps):  # between two states: on the geodesic
        after = poses[0, k : k + 1]
        return retract(
            here, local(here, after) * ((stamp - stamps[anchor]) / (stamps[k] - stamps[anchor]))
        )
    if body.moving:
        velocity = draft.state.values[body.velocity]
        assert isinstance(velocity, Tensor)
        return retract(
            here, velocity[0, anchor : anchor + 1] * ((stamp - int(stamps[anchor])) * 1e-9)
        )
    turned = _moved(draft, rules, stamp, complete=False)
    return here if turned is None else turned


def measured(draft: Draft, rules: TrackRules, stamp: int) -> LieGroup | None:
    """Where the body is at ``stamp`` by odometry, one element (1,); None where there was none."""
    return _moved(draft, rules, stamp, complete=True)


def _moved(draft: Draft, rules: TrackRules, stamp: int, complete: bool) -> LieGroup | None:
    """The state before ``stamp``, moved by what measures the whole motion, or its turn only."""
    stamps = draft.stamps(rules.body)
    anchor = max(int(np.searchsorted(stamps, stamp)) - 1, 0)
    poses = draft.state.values[rules.body.name]
    assert isinstance(poses, LieGroup)
    samples = [s for n in rules.chain if (s := draft.state.increments[n]).complete is complete]
    moved = _measured_motion(samples, rules, int(stamps[anchor]), stamp)
    return None if moved is None else poses[0, anchor : anchor + 1] @ moved


def _measured_motion(
    increments: Sequence[Increments], rules: TrackRules, start: int, end: int
) -> LieGroup | None:
    low, high = np.array([min(start, end)]), np.array([max(start, end)])
    for samples in increments:
        if samples.covered(low, high, rules.limits)[0]:
            motion = samples.motion(low, high)
            return motion if start <= end else motion.inverse()
    return None


def _nearest_velocity(draft: Draft, body: Body, stamp: int) -> Tensor:
    velocity = draft.state.values[body.velocity]
    assert isinstance(velocity, Tensor)
    ids = draft.state.values.ids[body.velocity].numpy()
    k = min(max(int(np.searchsorted(ids, stamp)) - 1, 0), len(ids) - 1)
    return velocity[0, k : k + 1].clone()
