"""Images of landmarks: tags and boards, of known or of unknown place, through one or several cameras.

A tag of known place constrains the state alone; one of unknown place is tied to the variable of its rigid body. A new body is placed by
`landmark_init` (both planar minima, growth by quality); until then its observations wait beside the window, so that none is lost when it is placed
some images later. Cameras need not be synchronized: each image has its own state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dnls_ros.costs import PinholeCamera, prior, tag_corners
from dnls_ros.lie import SE3
from dnls_ros.problem import Diagonal, FactorGroup, Isotropic, Ref, Shared, Values
from dnls_ros.window.bodies import Array, Body, pose_of_rpy
from dnls_ros.window.config import SensorConfig
from dnls_ros.window.landmark_init import (
    BodyView,
    LandmarkInitializer,
    group_by_body,
    locate_robot,
)
from dnls_ros.window.landmark_map import LandmarkBody, LandmarkMap
from dnls_ros.window.measurements import CameraIntrinsics, LandmarkMeasurement, LandmarkObservation
from dnls_ros.window.rigid import compose
from dnls_ros.window.sensors import loss_of
from dnls_ros.window.state import LANDMARK, Draft, LandmarkRow, single

DEFAULT_SIGMA_PX = 1.0


def extrinsic_block(sensor: str) -> str:
    """Name of the block of an estimated camera mount."""
    return f"{sensor}.extrinsic"


@dataclass(frozen=True)
class Camera:
    """One landmarks sensor.

    Attributes:
        config: Its configuration.
        body: The track that carries it.
        landmarks: The map file's contents; all cameras share one.
        intrinsics: None until CameraInfo has arrived.
    """

    config: SensorConfig
    body: Body
    landmarks: LandmarkMap
    intrinsics: CameraIntrinsics | None = None

    def with_intrinsics(self, intrinsics: CameraIntrinsics) -> Camera:
        """The same camera, calibrated."""
        return replace(self, intrinsics=intrinsics)

    def intrinsics_of(self, m: LandmarkMeasurement) -> CameraIntrinsics | None:
        """The message's own intrinsics, else the sensor's."""
        return m.intrinsics or self.intrinsics

    def mount(self, draft: Draft) -> Array:
        """body_T_camera (7,), as currently estimated."""
        block = extrinsic_block(self.config.name)
        if block not in draft.state.values:
            return pose_of_rpy(self.config.extrinsic)
        element = draft.state.values[block]
        assert isinstance(element, SE3)
        return element[0, 0].normalized().tensor.detach().numpy().copy()

    def views(self, draft: Draft, m: LandmarkMeasurement) -> list[BodyView]:
        """The bodies in an image; landmarks of unknown shape are counted."""
        views, unknown = group_by_body(m.observations, self.landmarks)
        if unknown:
            draft.note("unknown_landmarks", unknown)
        return views

    def locate(self, draft: Draft, m: LandmarkMeasurement) -> Array | None:
        """The body's pose (7,) from the placed bodies in an image; None if they don't say."""
        intrinsics = self.intrinsics_of(m)
        assert intrinsics is not None
        known = known_bodies(draft, self.landmarks)
        stamps = draft.stamps(self.body)
        before = int(np.searchsorted(stamps, m.stamp)) - 1
        predicted = draft.pose(self.body, before) if before >= 0 else None
        views, _ = group_by_body(m.observations, self.landmarks)
        found = locate_robot(views, known, intrinsics, self.mount(draft), predicted)
        return None if found is None else found.world_T_robot


def known_bodies(draft: Draft, landmarks: LandmarkMap) -> dict[int, Array]:
    """Poses (7,) of all placed bodies by key: given by the map, or estimated."""
    fixed = {b.key: b.pose for b in landmarks.bodies if b.fixed and b.pose is not None}
    return {**fixed, **draft.known_landmarks()}


def observe(
    draft: Draft, camera: Camera, m: LandmarkMeasurement, initializer: LandmarkInitializer
) -> None:
    """Takes one image whose state exists: places new bodies and makes the factors of all placed ones."""
    intrinsics = camera.intrinsics_of(m)
    assert intrinsics is not None
    views = camera.views(draft, m)
    known = known_bodies(draft, camera.landmarks)
    _place_given(draft, [v.body for v in views if v.body.key not in known])
    known = known_bodies(draft, camera.landmarks)
    new = [v for v in views if v.body.key not in known]
    if new:
        slot = int(np.searchsorted(draft.stamps(camera.body), m.stamp))
        world_T_camera = compose(draft.pose(camera.body, slot), camera.mount(draft))
        placed = initializer.observe(
            m.stamp, new, intrinsics, world_T_camera, must_start=not known
        )
        for landmark in placed:
            draft.add_values(
                single(
                    LANDMARK, landmark.body.key, SE3(torch.from_numpy(landmark.pose[None].copy()))
                )
            )
    rows = [LandmarkRow(camera.config.name, m.stamp, o) for o in m.observations]
    seen = {v.body.key: max(m.stamp, draft.state.seen.get(v.body.key, 0)) for v in views}
    draft.update(
        pending_rows=(*draft.state.pending_rows, *rows), seen={**draft.state.seen, **seen}
    )


def _place_given(draft: Draft, bodies: Sequence[LandmarkBody]) -> None:
    """Bodies whose place the map gives with an uncertainty become variables with a prior."""
    for body in bodies:
        if body.pose is None or body.sigma is None:
            continue
        z = SE3(torch.from_numpy(np.array(body.pose)[None]))
        draft.add_values(single(LANDMARK, body.key, z))
        noise = Diagonal(torch.from_numpy(np.array(body.sigma)))
        draft.add_factors(
            f"{LANDMARK}.given",
            prior(Ref(LANDMARK, torch.tensor([body.key])), z[None], noise=noise),
        )


def ready_rows(draft: Draft, cameras: dict[str, Camera]) -> list[LandmarkRow]:
    """Takes the waiting observations whose body is placed and whose state is in the window; forgets the lost ones."""
    ready: list[LandmarkRow] = []
    waiting: list[LandmarkRow] = []
    for row in draft.state.pending_rows:
        camera = cameras[row.sensor]
        seen = camera.landmarks.observe(row.observation.id, row.observation.points)
        if seen is None or len(seen.points) != len(row.observation.pixels):
            continue  # counted when the image came
        placed = seen.body.fixed or _has(draft.state.values, LANDMARK, seen.body.key)
        if not placed:
            waiting.append(row)
        elif _has(draft.state.values, camera.body.name, row.stamp):
            ready.append(row)
    draft.update(pending_rows=tuple(waiting))
    return ready


def _has(values: Values, name: str, key: int) -> bool:
    ids = values.ids.get(name)
    if ids is None:
        return False
    k = int(torch.searchsorted(ids, key))
    return k < len(ids) and int(ids[k]) == key


def corner_factors(
    draft: Draft, camera: Camera, rows: Sequence[LandmarkRow]
) -> dict[str, tuple[FactorGroup, list[int]]]:
    """The reprojection factors of observations of placed bodies, by name of their group, with the row of each factor."""
    kinds: dict[tuple[int, bool], list[int]] = defaultdict(list)
    seen = [camera.landmarks.observe(r.observation.id, r.observation.points) for r in rows]
    for k, points in enumerate(seen):
        assert points is not None
        kinds[len(points.points), points.body.fixed].append(k)
    out: dict[str, tuple[FactorGroup, list[int]]] = {}
    for (count, fixed), members in kinds.items():
        name = f"{camera.config.name}.{count}{'.known' if fixed else ''}"
        bodies = [b for k in members if (b := seen[k]) is not None]
        points = torch.from_numpy(np.stack([b.points for b in bodies]))
        place = (
            _fixed_place([b.body for b in bodies])
            if fixed
            else Ref(LANDMARK, torch.tensor([b.body.key for b in bodies]))
        )
        chosen = [rows[k] for k in members]
        out[name] = _group(draft, camera, chosen, place, points), members
    return out


def _fixed_place(bodies: Sequence[LandmarkBody]) -> SE3:
    return SE3(torch.from_numpy(np.stack([b.pose for b in bodies if b.pose is not None]))[None])


def _group(
    draft: Draft,
    camera: Camera,
    rows: Sequence[LandmarkRow],
    place: Ref | SE3,
    points: torch.Tensor,
) -> FactorGroup:
    config = camera.config
    assert camera.intrinsics is not None
    pixels = torch.from_numpy(
        np.stack([np.asarray(r.observation.pixels, dtype=np.float64) for r in rows])
    )
    poses = Ref(camera.body.name, torch.tensor([r.stamp for r in rows]))
    block = extrinsic_block(config.name)
    estimated = block in draft.state.values
    mount = (
        Ref(block, torch.zeros(len(rows), dtype=torch.int64))
        if estimated
        else Shared(SE3(torch.from_numpy(camera.mount(draft))))
    )
    sigma = torch.tensor([[_sigma(config, r.observation) for r in rows]], dtype=torch.float64)
    model = Shared(PinholeCamera.of(camera.intrinsics))
    return tag_corners(
        poses,
        mount,
        place,
        points[None],
        pixels[None],
        model,
        noise=Isotropic(sigma),
        loss=loss_of(config),
    )


def _sigma(config: SensorConfig, observation: LandmarkObservation) -> float:
    given = observation.sigma if config.covariance != "fixed" else 0.0
    fallback = config.sigma[0] if config.sigma else DEFAULT_SIGMA_PX
    return max(given or fallback, config.sigma_floor[0])


def start_extrinsic(draft: Draft, camera: Camera) -> None:
    """Makes the camera's mount a variable with its prior, if it is to be estimated."""
    config = camera.config
    block = extrinsic_block(config.name)
    if not config.camera.estimate_extrinsic or block in draft.state.values:
        return
    z = SE3(torch.from_numpy(pose_of_rpy(config.extrinsic))[None])
    draft.add_values(single(block, 0, z))
    noise = Diagonal(torch.tensor(config.camera.extrinsic_sigma, dtype=torch.float64))
    draft.add_factors(f"{block}.given", prior(Ref(block, torch.tensor([0])), z[None], noise=noise))
