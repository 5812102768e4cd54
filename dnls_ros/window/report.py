"""From a solved window to what is said outside: estimates, covariances, answers to queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnls_ros.lie import LieGroup, local
from dnls_ros.linear import (
    Factorization,
    marginal_covariance,
    marginal_covariances,
    tangent_indices,
)
from dnls_ros.optim import Solution, Status
from dnls_ros.problem import FactorGroup
from dnls_ros.window.absorb import Registry
from dnls_ros.window.bodies import Array, Body
from dnls_ros.window.chains import BRIDGE_SPEED
from dnls_ros.window.growth import TrackRules
from dnls_ros.window.predict import carry_ahead
from dnls_ros.window.query import Interpolated, interpolate
from dnls_ros.window.results import PoseAt, PoseReason, StepResult, TrackEstimate
from dnls_ros.window.rigid import IDENTITY
from dnls_ros.window.solve_report import details, solve_report
from dnls_ros.window.state import LANDMARK
from dnls_ros.window.step import Step
from dnls_ros.window.wanted import Wanted

ROUNDING = 1e-9
"""A cost that did not change may seem to have grown by so much, relative."""
UNKNOWN_VARIANCE = 1e6
"""Stands for a covariance that could not be computed: never zero, never NaN."""


@dataclass(frozen=True, eq=False)
class Marginals:
    """The last solved window, and covariances from its factorization.

    Attributes:
        solution: Of the minimization.
        factorization: Of the undamped Hessian there.
        registry: Tracks and sensors.
        window_id: Count of solves.
    """

    solution: Solution
    factorization: Factorization
    registry: Registry
    window_id: int

    def stamps(self, body: Body) -> np.ndarray:
        """The body's states [ns]."""
        ids = self.solution.values.ids.get(body.name)
        return np.zeros(0, np.int64) if ids is None else ids.numpy()

    def pose(self, body: Body, slot: int) -> LieGroup:
        """One state, an element (1,)."""
        poses = self.solution.values[body.name]
        assert isinstance(poses, LieGroup)
        return poses[0, slot : slot + 1]

    def indices(self, name: str, slots: list[int]) -> list[int]:
        """Tangent indices of some variables of a block."""
        return tangent_indices(self.factorization.pattern, name, slots).tolist()

    def covariance(self, which: list[int] | tuple[str, list[int]]) -> Tensor:
        """The joint covariance (k, k) of tangent entries, or of a block's slots.

        It is large if the window is singular.
        """
        joint = marginal_covariance(self.factorization, self.factorization.pattern, which)
        return _known(joint)[0]

    def blocks(self, name: str) -> Tensor:
        """The covariance (N, t, t) of each variable of a block, some columns at a time."""
        return _known(marginal_covariances(self.factorization, name))[0]

    def twist(self, body: Body, slot: int) -> Tensor:
        """The body twist (1, t) at a state: estimated, or from its neighbour."""
        if body.moving:
            velocity = self.solution.values[body.velocity]
            assert isinstance(velocity, Tensor)
            return velocity[0, slot : slot + 1]
        stamps = self.stamps(body)
        if len(stamps) < 2:
            return torch.zeros(1, body.dim, dtype=torch.float64)
        end = max(slot, 1)
        seconds = float(stamps[end] - stamps[end - 1]) * 1e-9
        return local(self.pose(body, end - 1), self.pose(body, end)) / seconds


def _known(covariances: Tensor) -> Tensor:
    """Covariances (…, t, t) with what could not be computed replaced."""
    unknown = torch.eye(covariances.shape[-1], dtype=covariances.dtype) * UNKNOWN_VARIANCE
    return torch.where(
        covariances.isfinite().all(-1).all(-1)[..., None, None], covariances, unknown
    )


def describe(done: Step, marginals: Marginals, wanted: Wanted | None = None) -> StepResult:
    """The result of a step, with what is ``wanted`` beside the estimates."""
    asked = wanted or Wanted()
    registry, solution = marginals.registry, done.solution
    tracks = {
        name: _track(done, marginals, rules, asked.prediction)
        for name, rules in registry.rules.items()
        if len(marginals.stamps(rules.body))
    }
    final, status = float(solution.cost[0]), solution.status[0]
    initial = float(solution.initial_cost[0])
    landmarks = solution.values.ids.get(LANDMARK)
    stamp = max(int(t.stamps[-1]) for t in tracks.values())
    report = solve_report(solution)
    if asked.details:
        sensors = registry.track_of.keys()
        report = details(report, solution, done.factorization, sensors, stamp)
    return StepResult(
        stamp=stamp,
        now=done.draft.now,
        window_id=marginals.window_id,
        accepted=status not in (Status.NOT_FINITE, Status.SINGULAR)
        and final <= initial * (1 + ROUNDING),
        status=status.value,
        iterations=int(solution.iterations[0]),
        cost_initial=initial,
        cost_final=final,
        states=sum(len(t.stamps) for t in tracks.values()),
        landmarks=0 if landmarks is None else len(landmarks),
        factors=sum(getattr(g, "count", 1) for g in solution.assembly.problem.values()),
        tracks=tracks,
        nis={sensor: total / dims for sensor, (total, dims) in done.nis.items()},
        notes=dict(done.draft.notes),
        seconds=dict(done.seconds),
        report=report,
    )


def _track(done: Step, marginals: Marginals, rules: TrackRules, predicting: bool) -> TrackEstimate:
    body, t = rules.body, rules.body.dim
    stamps = marginals.stamps(body)
    poses = marginals.solution.values[body.name]
    assert isinstance(poses, LieGroup)
    newest = len(stamps) - 1
    joint, twist_covariance = None, None
    if body.moving or predicting:
        joint = _joint_covariance(marginals, body, newest).numpy()
        covariance = joint[:t, :t]
    else:
        covariance = marginals.covariance((body.name, [newest])).numpy()
    if body.moving and joint is not None:
        twist_covariance = body.expand(joint[t:, t:])
    settled_stamps, settled_poses = _settled(done, body)
    return TrackEstimate(
        stamps=stamps.copy(),
        poses=body.poses(poses[0]),
        covariance=body.expand(covariance),
        twist=body.expand_vector(marginals.twist(body, newest)[0].numpy()),
        twist_covariance=twist_covariance,
        joint=joint,
        settled_stamps=settled_stamps,
        settled_poses=settled_poses,
    )


def _settled(done: Step, body: Body) -> tuple[np.ndarray, Array]:
    left = done.marginalized.removed_values if done.marginalized is not None else None
    if left is None or body.name not in left:
        return np.zeros(0, np.int64), np.zeros((0, 7))
    poses = left[body.name]
    assert isinstance(poses, LieGroup)
    return left.ids[body.name].numpy().copy(), body.poses(poses[0])


def answer(
    marginals: Marginals | None,
    registry: Registry,
    stamp: int,
    track: str,
    with_covariance: bool,
    limit: float,
) -> PoseAt:
    """The pose of a track at a stamp, or why there is none."""
    name = track or next(iter(registry.rules))
    rules = registry.rules.get(name)
    if rules is None:
        return _no(
            PoseReason.UNKNOWN_TRACK,
            f"no track '{name}'; there are {list(registry.rules)}",
            marginals,
        )
    if stamp <= 0:
        return _no(PoseReason.BAD_STAMP, f"stamp {stamp} ns is not positive", marginals)
    stamps = np.zeros(0, np.int64) if marginals is None else marginals.stamps(rules.body)
    if marginals is None or not len(stamps):
        return _no(PoseReason.NOT_TRACKING, f"track '{name}' has no estimate yet", marginals)
    if stamp < stamps[0]:
        early = (int(stamps[0]) - stamp) * 1e-9
        return _no(
            PoseReason.BEFORE_WINDOW,
            f"{early:.3f} s before the oldest state of the window",
            marginals,
        )
    ahead = (stamp - int(stamps[-1])) * 1e-9
    if ahead > limit:
        return _no(
            PoseReason.TOO_FAR_AHEAD,
            f"{ahead:.3f} s ahead of the newest state, the limit is {limit:g} s",
            marginals,
        )
    if ahead > 0:
        return _ahead(marginals, rules, ahead, with_covariance)
    return _between(marginals, rules, stamp, with_covariance)


def _no(reason: PoseReason, message: str, marginals: Marginals | None) -> PoseAt:
    window_id = 0 if marginals is None else marginals.window_id
    return PoseAt(
        False, reason, IDENTITY.copy(), None, np.zeros(6), False, 0.0, window_id, message
    )


def _ahead(
    marginals: Marginals, rules: TrackRules, seconds: float, with_covariance: bool
) -> PoseAt:
    body, newest = rules.body, len(marginals.stamps(rules.body)) - 1
    twist = marginals.twist(body, newest)
    start = marginals.pose(body, newest)
    pose, carry, noise = carry_ahead(body, rules.track, start, twist, seconds)
    covariance = None
    if with_covariance:
        ahead = carry @ _joint_covariance(marginals, body, newest) @ carry.mT + noise
        covariance = body.expand(ahead.numpy())
    return PoseAt(
        True,
        PoseReason.OK,
        body.poses(pose)[0],
        covariance,
        body.expand_vector(twist[0].numpy()),
        True,
        seconds,
        marginals.window_id,
        f"extrapolated by {seconds:.3f} s",
    )


def _joint_covariance(marginals: Marginals, body: Body, newest: int) -> Tensor:
    """Covariance (2t, 2t) of the newest pose and its twist.

    A twist that is no variable is the difference of the last two poses; the measured motion
    between them says how uncertain it is.
    """
    t = body.dim
    pose = marginals.indices(body.name, [newest])
    if body.moving:
        return marginals.covariance([*pose, *marginals.indices(body.velocity, [newest])])
    twist = torch.diag(torch.full((t,), BRIDGE_SPEED**2, dtype=torch.float64))
    if newest > 0:
        seconds = float(np.diff(marginals.stamps(body)[-2:])[0]) * 1e-9
        twist = _interval_covariance(marginals, body, (newest - 1, newest)) / seconds**2
    return torch.block_diag(marginals.covariance(pose), twist)


def _between(marginals: Marginals, rules: TrackRules, stamp: int, with_covariance: bool) -> PoseAt:
    body, stamps = rules.body, marginals.stamps(rules.body)
    after = int(np.searchsorted(stamps, stamp))
    before = after if stamps[after] == stamp else after - 1
    span = float(stamps[after] - stamps[before])
    fraction = (stamp - int(stamps[before])) / span if span else 0.0
    between = interpolate(marginals.pose(body, before), marginals.pose(body, after), fraction)
    covariance = None
    if with_covariance:
        covariance = body.expand(
            _interpolated_covariance(marginals, body, (before, after), fraction, between).numpy()
        )
    twist = marginals.twist(body, after)
    return PoseAt(
        True,
        PoseReason.OK,
        body.poses(between.pose)[0],
        covariance,
        body.expand_vector(twist[0].numpy()),
        False,
        0.0,
        marginals.window_id,
        "interpolated" if span else "at a state",
    )


def _interpolated_covariance(
    marginals: Marginals, body: Body, ends: tuple[int, int], fraction: float, between: Interpolated
) -> Tensor:
    if ends[0] == ends[1]:
        return marginals.covariance((body.name, [ends[0]]))
    joint = marginals.covariance((body.name, list(ends)))
    carry = torch.cat([between.from_start, between.from_end], 1)
    bridge = fraction * (1 - fraction) * _interval_covariance(marginals, body, ends)
    return carry @ joint @ carry.mT + bridge


def _interval_covariance(marginals: Marginals, body: Body, ends: tuple[int, int]) -> Tensor:
    """Covariance (t, t) of the measured motion between two neighbours; 0 if nothing did."""
    start, end = marginals.stamps(body)[list(ends)].tolist()
    information = torch.zeros(body.dim, body.dim, dtype=torch.float64)
    for group in marginals.solution.assembly.problem.values():
        if not isinstance(group, FactorGroup) or [r.name for r in group.refs] != [body.name] * 2:
            continue
        rows = (group.refs[0].ids == start) & (group.refs[1].ids == end)
        if group.noise is None or not bool(rows.any()):
            continue
        chosen = group.select(rows)
        assert chosen.noise is not None
        white = chosen.noise.whiten_jacobian(torch.eye(body.dim, dtype=torch.float64)[None, None])
        information += (white.mT @ white).sum((0, 1))
    covariance, failed = torch.linalg.inv_ex(information)
    return covariance if int(failed) == 0 else torch.zeros_like(information)
