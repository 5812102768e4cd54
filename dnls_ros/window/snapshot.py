"""The whole window at one instant, for people to look at: states, landmarks, residuals.

It costs about as much as a solve, so it is made on demand, on the thread that owns the estimator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from dnls_ros.lie import LieGroup, local
from dnls_ros.window.bodies import Array, Body
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.evidence import Lines
from dnls_ros.window.increments import Stamps
from dnls_ros.window.landmark_map import LandmarkMap
from dnls_ros.window.lines import window_lines
from dnls_ros.window.report import Marginals
from dnls_ros.window.sensors import RangeBearing
from dnls_ros.window.state import LANDMARK

MOST_COVARIANCES = 3000
"""Tangent dimension of a window beyond which it is shown without covariances: each takes a
column of the inverse Hessian."""
UNKNOWN_SIZE = 0.15
"""Edge with which a landmark of unknown size is shown [m]."""


@dataclass(frozen=True, eq=False)
class TrackStates:
    """All states of one track.

    Attributes:
        stamps: (N,) ascending [ns].
        poses: (N, 7) parent_T_child.
        twists: (N, 6) in body axes.
        covariances: (N, 6, 6) of the poses in the tangent; None for a window too large.
    """

    stamps: Stamps
    poses: Array
    twists: Array
    covariances: Array | None


@dataclass(frozen=True, eq=False)
class Landmark:
    """One landmark.

    Attributes:
        name: As in the map, or ``tag:<number>``.
        position: (3,) [m].
        orientation: Quaternion (4,), or None for a point.
        size: Edge of a tag [m].
        covariance: (6, 6) in the tangent; None where it is given exactly, or is not known.
        estimated: Whether it is a variable of the window.
    """

    name: str
    position: Array
    orientation: Array | None
    size: float
    covariance: Array | None
    estimated: bool


@dataclass(frozen=True, eq=False)
class WindowSnapshot:
    """A solved window.

    Attributes:
        stamp: Newest state [ns].
        window_id: The solve.
        tracks: Track → its states; tracks without any are left out.
        landmarks: Those of the map and those that are estimated.
        lines: Residuals by sensor.
    """

    stamp: int
    window_id: int
    tracks: Mapping[str, TrackStates]
    landmarks: tuple[Landmark, ...]
    lines: tuple[Lines, ...]


def snapshot(estimator: Estimator) -> WindowSnapshot | None:
    """The last solved window; None before the first solve."""
    marginals = estimator.solved
    if marginals is None:
        return None
    bodies = {rules.body.name: rules.body for rules in marginals.registry.rules.values()}
    tracks = {
        name: _track(marginals, body)
        for name, body in bodies.items()
        if len(marginals.stamps(body))
    }
    solution = marginals.solution
    sensors = [sensor.name for sensor in estimator.config.sensors]
    return WindowSnapshot(
        stamp=max(int(track.stamps[-1]) for track in tracks.values()),
        window_id=marginals.window_id,
        tracks=tracks,
        landmarks=_landmarks(marginals),
        lines=window_lines(solution.assembly.problem, solution.values, bodies, sensors),
    )


def _track(marginals: Marginals, body: Body) -> TrackStates:
    poses = marginals.solution.values[body.name]
    assert isinstance(poses, LieGroup)
    stamps = marginals.stamps(body)
    covariances = _covariances(marginals, body.name)
    if covariances is not None:
        covariances = np.stack([body.expand(c) for c in covariances])
    twists = _twists(marginals, body, poses, stamps)
    return TrackStates(
        stamps.copy(),
        body.poses(poses[0]),
        np.stack([body.expand_vector(t) for t in twists]),
        covariances,
    )


def _twists(marginals: Marginals, body: Body, poses: LieGroup, stamps: Stamps) -> Array:
    """(N, t): estimated, or from each state's predecessor; the first has that of the second."""
    if body.moving:
        velocity = marginals.solution.values[body.velocity]
        assert isinstance(velocity, torch.Tensor)
        return velocity[0].detach().numpy().copy()
    if len(stamps) < 2:
        return np.zeros((len(stamps), body.dim))
    steps = local(poses[0, :-1], poses[0, 1:]).detach().numpy()
    twists = steps / (np.diff(stamps)[:, None] * 1e-9)
    return np.concatenate([twists[:1], twists])


def _covariances(marginals: Marginals, block: str) -> Array | None:
    """(N, t, t) of a block's variables; None if the window is too large for that."""
    if marginals.factorization.pattern.n > MOST_COVARIANCES:
        return None
    return marginals.blocks(block).numpy()


def _landmarks(marginals: Marginals) -> tuple[Landmark, ...]:
    """Estimated ones first; of the map those that are given exactly."""
    maps = [camera.landmarks for camera in marginals.registry.cameras.values()]
    models = marginals.registry.models.values()
    maps += [model.landmarks for model in models if isinstance(model, RangeBearing)]
    found = _estimated(marginals, maps)
    for one in maps:
        for body in one.bodies:
            if body.fixed and body.pose is not None and body.name not in found:
                size = _size(maps, body.key)
                position, turn = body.pose[:3], body.pose[3:]
                found[body.name] = Landmark(body.name, position, turn, size, None, False)
        for point in one.points.values():
            if point.position is not None:
                place = np.zeros(3)
                place[: len(point.position)] = point.position
                found[point.name] = Landmark(point.name, place, None, UNKNOWN_SIZE, None, False)
    return tuple(found.values())


def _estimated(marginals: Marginals, maps: list[LandmarkMap]) -> dict[str, Landmark]:
    element = marginals.solution.values.blocks.get(LANDMARK)
    if not isinstance(element, LieGroup):
        return {}
    keys = marginals.solution.values.ids[LANDMARK].tolist()
    poses = element[0].normalized().tensor.detach().numpy()
    covariances = _covariances(marginals, LANDMARK)
    names = {body.key: body.name for one in maps for body in one.bodies}
    out: dict[str, Landmark] = {}
    for k, key in enumerate(keys):
        name = names.get(key, f"tag:{key}")
        covariance = None if covariances is None else covariances[k]
        out[name] = Landmark(
            name, poses[k, :3].copy(), poses[k, 3:].copy(), _size(maps, key), covariance, True
        )
    return out


def _size(maps: list[LandmarkMap], key: int) -> float:
    """Edge of a lone tag [m]."""
    for one in maps:
        tag = one.tag(key)
        if tag is not None and tag.body.key == key:
            return tag.size
    return UNKNOWN_SIZE
