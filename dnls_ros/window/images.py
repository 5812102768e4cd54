"""Images of landmarks: where the robot was, and where new landmarks are.

Cameras need not be synchronized: each image has its own state. A state starts where odometry says;
else where the placed bodies in the image say. If they leave several answers, as one small tag seen
from afar does, the state is *uncertain*: nothing new is placed from it until another image of the
same instant settles it. A new body is placed by `landmark_init` (both planar minima, growth by
quality); until then its observations wait beside the window, see `corners`, so that none is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dnls_ros.costs import prior
from dnls_ros.lie import SE3
from dnls_ros.problem import Diagonal, Ref
from dnls_ros.window.bodies import Array, Body, mount_of
from dnls_ros.window.config import SensorConfig
from dnls_ros.window.growth import TrackRules, add_state, find_state, measured, put_state
from dnls_ros.window.landmark_init import (
    BodyView,
    LandmarkInitializer,
    LocatedRobot,
    group_by_body,
    locate_robot,
    usable,
)
from dnls_ros.window.landmark_map import LandmarkBody, LandmarkMap
from dnls_ros.window.measurements import CameraIntrinsics, LandmarkMeasurement
from dnls_ros.window.rigid import compose
from dnls_ros.window.state import LANDMARK, Draft, LandmarkRow, single


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

    def mount(self, draft: Draft, given: Array) -> Array:
        """body_T_camera (7,): as currently estimated, else as ``given`` for an image."""
        block = extrinsic_block(self.config.name)
        if block not in draft.state.values:
            return given
        element = draft.state.values[block]
        assert isinstance(element, SE3)
        return element[0, 0].normalized().tensor.detach().numpy().copy()

    def views(self, m: LandmarkMeasurement) -> list[BodyView]:
        """The bodies in an image."""
        return group_by_body(m.observations, self.landmarks)[0]

    def locate(self, draft: Draft, m: LandmarkMeasurement) -> LocatedRobot | None:
        """The body by the placed landmarks in an image; None if it shows none or nothing fits."""
        intrinsics = self.intrinsics_of(m)
        assert intrinsics is not None
        views = self.views(m)
        place_given(draft, [v.body for v in views])
        known = known_bodies(draft, self.landmarks)
        stamps = draft.stamps(self.body)
        before = int(np.searchsorted(stamps, m.stamp)) - 1
        predicted = draft.pose(self.body, before) if before >= 0 else None
        mount = self.mount(draft, mount_of(self.config, m))
        return locate_robot(views, known, intrinsics, mount, predicted)


def known_bodies(draft: Draft, landmarks: LandmarkMap) -> dict[int, Array]:
    """Poses (7,) of all placed bodies by key: given by the map, or estimated."""
    fixed = {b.key: b.pose for b in landmarks.bodies if b.fixed and b.pose is not None}
    return {**fixed, **draft.known_landmarks()}


def image_state(
    draft: Draft, rules: TrackRules, camera: Camera, m: LandmarkMeasurement
) -> int | None:
    """The state of an image, made if need be; None if nothing says where the image was taken."""
    body, state = rules.body, find_state(draft, rules, m.stamp)
    if state is not None and (body.name, state) not in draft.state.uncertain:
        return state
    if state is None and (by_odometry := measured(draft, rules, m.stamp)) is not None:
        put_state(draft, rules, m.stamp, by_odometry)
        return m.stamp
    located = camera.locate(draft, m)
    stamp = m.stamp if state is None else state
    if located is None:
        known = state is not None or add_state(draft, rules, stamp, lambda: None)
        return stamp if known else None
    pose = body.elements(located.world_T_robot[None])
    if state is None:
        put_state(draft, rules, stamp, pose)
    elif located.certain:
        values = draft.state.values
        draft.update(values=values.overwrite(single(body.name, stamp, pose)))
    key = {(body.name, stamp)}
    uncertain = draft.state.uncertain
    draft.update(uncertain=uncertain - key if located.certain else uncertain | key)
    return stamp


def observe(
    draft: Draft, camera: Camera, m: LandmarkMeasurement, initializer: LandmarkInitializer
) -> None:
    """Takes an image whose state exists: places new bodies; observations wait for `corners`."""
    intrinsics = camera.intrinsics_of(m)
    assert intrinsics is not None
    views = camera.views(m)
    place_given(draft, [v.body for v in views])
    known = known_bodies(draft, camera.landmarks)
    new = [v for v in views if v.body.key not in known]
    if new and (camera.body.name, m.stamp) not in draft.state.uncertain:
        slot = int(np.searchsorted(draft.stamps(camera.body), m.stamp))
        mount = camera.mount(draft, mount_of(camera.config, m))
        place = compose(draft.pose(camera.body, slot), mount)
        for found in initializer.observe(m.stamp, new, intrinsics, place, must_start=not known):
            place_body(draft, found.body.key, found.pose)
    _await_factors(draft, camera, m, intrinsics)
    seen = {v.body.key: max(m.stamp, draft.state.seen.get(v.body.key, 0)) for v in views}
    draft.update(seen={**draft.state.seen, **seen})


def _await_factors(
    draft: Draft, camera: Camera, m: LandmarkMeasurement, intrinsics: CameraIntrinsics
) -> None:
    """Notes an image's observations as waiting; those that cannot be used are counted."""
    good = usable(m.observations, camera.landmarks)
    if len(good) < len(m.observations):
        draft.note("unknown_landmarks", len(m.observations) - len(good))
    mount = mount_of(camera.config, m)
    rows = [LandmarkRow(camera.config.name, m.stamp, o, intrinsics, mount) for o in good]
    draft.update(pending_rows=(*draft.state.pending_rows, *rows))


def place_body(draft: Draft, key: int, pose: Array) -> None:
    """Makes a landmark body a variable, started at ``pose`` (7,)."""
    draft.add_values(single(LANDMARK, key, SE3(torch.from_numpy(pose[None].copy()))))


def place_given(draft: Draft, bodies: Sequence[LandmarkBody]) -> None:
    """Bodies that the map places with an uncertainty become variables with a prior when seen."""
    placed = draft.known_landmarks()
    for body in bodies:
        if body.pose is None or body.sigma is None or body.key in placed:
            continue
        place_body(draft, body.key, body.pose)
        z = SE3(torch.from_numpy(np.array(body.pose)[None]))
        noise = Diagonal(torch.from_numpy(np.array(body.sigma)))
        ref = Ref(LANDMARK, torch.tensor([body.key]))
        draft.add_factors(f"{LANDMARK}.given", prior(ref, z[None], noise=noise))


def start_extrinsic(draft: Draft, camera: Camera, m: LandmarkMeasurement) -> None:
    """Makes the camera's mount a variable with its prior, if it is to be estimated.

    It starts from the mount of the first image, and is one for all images: an estimated mount does
    not move.
    """
    config = camera.config
    block = extrinsic_block(config.name)
    if not config.camera.estimate_extrinsic or block in draft.state.values:
        return
    z = SE3(torch.tensor(mount_of(config, m))[None])
    draft.add_values(single(block, 0, z))
    noise = Diagonal(torch.tensor(config.camera.extrinsic_sigma, dtype=torch.float64))
    draft.add_factors(f"{block}.given", prior(Ref(block, torch.tensor([0])), z[None], noise=noise))
