"""Observed corners as factors: tags and boards, of known or of estimated place.

A body of known place constrains the state alone; one of unknown place is tied to its variable.
Observations wait beside the window until their body is placed; those whose state has left by then
are handed over (`Draft.left_rows`) to whoever keeps an archive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from dnls_ros.costs import PinholeCamera, tag_corners
from dnls_ros.lie import SE3
from dnls_ros.problem import FactorGroup, Isotropic, Ref, Shared, Values
from dnls_ros.window.config import SensorConfig
from dnls_ros.window.images import Camera, extrinsic_block
from dnls_ros.window.landmark_map import BodyPoints
from dnls_ros.window.measurements import LandmarkObservation
from dnls_ros.window.sensors import loss_of
from dnls_ros.window.state import LANDMARK, Draft, LandmarkRow

DEFAULT_SIGMA_PX = 1.0

CornerFactors = tuple[str, FactorGroup, list[int]]
"""Name of the group, its factors, and the position of each factor's observation."""


def ready_rows(draft: Draft, cameras: Mapping[str, Camera]) -> list[LandmarkRow]:
    """Takes the waiting observations of placed bodies; hands over those whose state is gone."""
    ready: list[LandmarkRow] = []
    waiting: list[LandmarkRow] = []
    left: list[LandmarkRow] = []
    for row in draft.state.pending_rows:
        camera = cameras[row.sensor]
        if not has(draft.state.values, camera.body.name, row.stamp):
            left.append(row)
        elif is_placed(draft.state.values, camera, row):
            ready.append(row)
        else:
            waiting.append(row)
    draft.left_rows += left
    uncertain = {k for k in draft.state.uncertain if has(draft.state.values, *k)}
    draft.update(pending_rows=tuple(waiting), uncertain=frozenset(uncertain))
    return ready


def points_of(camera: Camera, row: LandmarkRow) -> BodyPoints:
    """The observed points in the frame of their body."""
    seen = camera.landmarks.observe(row.observation.id, row.observation.points)
    assert seen is not None  # others never became rows
    return seen


def is_placed(values: Values, camera: Camera, row: LandmarkRow) -> bool:
    """Whether the body of an observation has a pose."""
    body = points_of(camera, row).body
    return body.fixed or has(values, LANDMARK, body.key)


def has(values: Values, name: str, key: int) -> bool:
    """Whether there is a variable of this name and id."""
    ids = values.ids.get(name)
    if ids is None:
        return False
    k = int(torch.searchsorted(ids, key))
    return k < len(ids) and int(ids[k]) == key


def corner_factors(
    draft: Draft, camera: Camera, rows: Sequence[LandmarkRow]
) -> list[CornerFactors]:
    """The reprojection factors of one camera's observations of placed bodies."""
    seen = [points_of(camera, r) for r in rows]
    kinds: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for k, (row, points) in enumerate(zip(rows, seen, strict=True)):
        c = row.intrinsics
        calibration = c.focal, c.center, c.distortion_model, c.coefficients
        kinds[len(points.points), points.body.fixed, calibration].append(k)
    out: list[CornerFactors] = []
    for members in kinds.values():
        first = seen[members[0]]
        known = ".known" if first.body.fixed else ""
        name = f"{camera.config.name}.{len(first.points)}{known}"
        chosen = [rows[k] for k in members], [seen[k] for k in members]
        out.append((name, _group(draft, camera, *chosen), members))
    return out


def _place(seen: Sequence[BodyPoints]) -> Ref | SE3:
    if not seen[0].body.fixed:
        return Ref(LANDMARK, torch.tensor([s.body.key for s in seen]))
    poses = [s.body.pose for s in seen if s.body.pose is not None]
    return SE3(torch.from_numpy(np.stack(poses))[None])


def _mounts(rows: Sequence[LandmarkRow]) -> Shared | SE3:
    """body_T_camera of each row; one for all where the camera does not move on the body."""
    first = rows[0].mount
    if all(np.array_equal(row.mount, first) for row in rows):
        return Shared(SE3(torch.tensor(first)))
    return SE3(torch.from_numpy(np.stack([row.mount for row in rows]))[None])


def _group(
    draft: Draft, camera: Camera, rows: Sequence[LandmarkRow], seen: Sequence[BodyPoints]
) -> FactorGroup:
    config, block = camera.config, extrinsic_block(camera.config.name)
    if block in draft.state.values:
        mount = Ref(block, torch.zeros(len(rows), dtype=torch.int64))
    else:
        mount = _mounts(rows)
    pixels = [np.asarray(r.observation.pixels, dtype=np.float64) for r in rows]
    sigma = torch.tensor([[_sigma(config, r.observation) for r in rows]], dtype=torch.float64)
    return tag_corners(
        Ref(camera.body.name, torch.tensor([r.stamp for r in rows])),
        mount,
        _place(seen),
        torch.from_numpy(np.stack([s.points for s in seen]))[None],
        torch.from_numpy(np.stack(pixels))[None],
        Shared(PinholeCamera.of(rows[0].intrinsics)),
        noise=Isotropic(sigma),
        loss=loss_of(config),
    )


def _sigma(config: SensorConfig, observation: LandmarkObservation) -> float:
    given = observation.sigma if config.covariance != "fixed" else 0.0
    fallback = config.sigma[0] if config.sigma else DEFAULT_SIGMA_PX
    return max(given or fallback, config.sigma_floor[0])
