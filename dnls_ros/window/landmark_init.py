"""Starting values from images: where the robot is among known landmarks, and where new ones are.

A view is located by all points of known bodies at once. A new body is then placed by the located
view, from both planar minima. Where one view cannot choose between them, the body stays *pending*
and collects views; each new view adds its own minima as hypotheses, all of them are refined over
all views, and the body is resolved when one explains the images clearly better than every other
and its orientation is certain enough. Bodies seen well therefore enter the map at once and bodies
seen badly when they can, which is what keeps the map growing from its good parts.

Everything here gives starting points for the estimator, never measurements.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnls_ros.window.landmark_map import LandmarkBody, LandmarkMap
from dnls_ros.window.measurements import CameraIntrinsics, LandmarkObservation
from dnls_ros.window.pnp import (
    camera_from_body_candidates,
    camera_pose_from_map,
    distinct,
)
from dnls_ros.window.reprojection import PoseFit, Sighting, refine
from dnls_ros.window.rigid import compose, inverse, transform

Array = NDArray[np.float64]

_MUCH_NEARER = 0.3  # of two poses, one is chosen by a prediction that is nearer by this factor


@dataclass(frozen=True)
class InitializationRules:
    """When a view or a new body counts as certain.

    Attributes:
        sigma_px: Pixel noise [px]; larger misfits enlarge it.
        margin: Least difference of two minima in χ² (squared residuals over variance).
        largest_tilt: Largest standard deviation of an orientation [rad].
        largest_rms_px: Views that fit worse than this resolve nothing [px].
        most_views: A pending body with so many views is resolved by the best hypothesis.
    """

    sigma_px: float = 0.5
    margin: float = 25.0
    largest_tilt: float = 0.1
    largest_rms_px: float = 5.0
    most_views: int = 8


@dataclass(frozen=True, eq=False)
class BodyView:
    """What one image shows of one body: points (K, 3) of the body [m] at pixels (K, 2) [px]."""

    body: LandmarkBody
    points: Array
    pixels: Array


@dataclass(frozen=True, eq=False)
class LocatedRobot:
    """The robot's pose from one image of known bodies.

    Attributes:
        world_T_robot: (7,).
        rms_px: Root mean square of the residuals' norms [px].
        points: How many points it rests on.
        certain: False where another pose explains the image almost as well, or where the fit is
            bad: nothing should be built on such a view.
    """

    world_T_robot: Array
    rms_px: float
    points: int
    certain: bool


@dataclass(frozen=True, eq=False)
class ResolvedLandmark:
    """A new body with a starting pose ``world_T_body`` (7,) and the stamps of its views [ns]."""

    body: LandmarkBody
    pose: Array
    stamps: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PendingLandmark:
    """A body seen but not yet placed: its views and the hypotheses, best first."""

    body: LandmarkBody
    stamps: tuple[int, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    hypotheses: tuple[PoseFit, ...] = ()


def group_by_body(
    observations: Iterable[LandmarkObservation], landmarks: LandmarkMap
) -> tuple[list[BodyView], int]:
    """Gathers the tags of one image by the bodies they belong to.

    Returns:
        One view per body, in order of first appearance, and how many observations were left out:
        unknown to the map, points and pixels that do not match, or several of the same name in
        one image, of which at most one can be right.
    """
    gathered: dict[int, tuple[LandmarkBody, list[Array], list[Array]]] = {}
    observations = tuple(observations)
    good = usable(observations, landmarks)
    for observation in good:
        seen = landmarks.observe(observation.id, observation.points)
        assert seen is not None
        _, points, pixels = gathered.setdefault(seen.body.key, (seen.body, [], []))
        points.append(seen.points)
        pixels.append(observation.pixels)
    views = [BodyView(b, np.concatenate(p), np.concatenate(q)) for b, p, q in gathered.values()]
    return views, len(observations) - len(good)


def usable(
    observations: Sequence[LandmarkObservation], landmarks: LandmarkMap
) -> list[LandmarkObservation]:
    """The observations of one image that are whole, of known shape, and of a name seen once."""
    times_seen = Counter(observation.id for observation in observations)

    def is_good(observation: LandmarkObservation) -> bool:
        seen = landmarks.observe(observation.id, observation.points)
        whole = seen is not None and 0 < len(seen.points) == len(observation.pixels)
        return whole and times_seen[observation.id] == 1

    return [observation for observation in observations if is_good(observation)]


def locate_robot(
    views: Sequence[BodyView],
    known: Mapping[int, Array],
    intrinsics: CameraIntrinsics,
    robot_T_camera: Array,
    predicted: Array | None = None,
    rules: InitializationRules = InitializationRules(),
) -> LocatedRobot | None:
    """Finds the robot from all points of known bodies in one image.

    Args:
        views: What the image shows.
        known: ``world_T_body`` (7,) by the body's key.
        intrinsics: The camera.
        robot_T_camera: (7,) where the camera sits.
        predicted: ``world_T_robot`` (7,) expected, a further start and the tie-break.
        rules: When the result is certain.

    Returns:
        The pose of lowest Huber cost. Of several that the image cannot tell apart, the one nearest
        to the prediction, certain only if the others are much farther from it. None when the image
        shows no known body or no pose explains it.
    """
    seen = [view for view in views if view.body.key in known]
    if not seen:
        return None
    points = np.concatenate([transform(known[v.body.key], v.points) for v in seen])
    pixels = np.concatenate([v.pixels for v in seen])
    starts = [
        compose(f.pose, inverse(known[v.body.key])) for v, f in _best_alone(seen, intrinsics)
    ]
    if predicted is not None:
        starts.append(inverse(compose(predicted, robot_T_camera)))
    fits = camera_pose_from_map(points, pixels, intrinsics, starts)
    if not fits:
        return None
    rivals = [fit for fit in fits if not _clearly_better(fits[0], fit, len(points), rules)]
    poses = [inverse(compose(robot_T_camera, fit.pose)) for fit in rivals]
    nearest, told_apart = _nearest(poses, predicted)
    chosen = rivals[nearest]
    fitting = _misfit(chosen, len(points)) <= rules.largest_rms_px
    steady = _tilt(chosen, len(points), rules) <= rules.largest_tilt
    certain = told_apart and fitting and steady
    return LocatedRobot(poses[nearest], chosen.rms_px, len(points), certain)


class LandmarkInitializer:
    """Places new bodies as views of them arrive.

    The state is ``pending``, the bodies seen but not placed, by key. Whoever drives it keeps the
    poses of placed bodies and calls ``observe`` with views of the others only.
    """

    def __init__(self, rules: InitializationRules = InitializationRules()) -> None:
        self.rules = rules
        self.pending: dict[int, PendingLandmark] = {}

    def observe(
        self,
        stamp: int,
        views: Sequence[BodyView],
        intrinsics: CameraIntrinsics,
        world_T_camera: Array,
        must_start: bool = False,
    ) -> list[ResolvedLandmark]:
        """Takes one image from a known place.

        Args:
            stamp: When the image was taken [ns].
            views: The bodies in it that have no pose yet.
            intrinsics: The camera.
            world_T_camera: (7,) where the camera was.
            must_start: Nothing is known yet: place at least the body seen best, if any can be.

        Returns:
            The bodies placed by this view, which are then no longer pending.
        """
        camera_T_world = inverse(world_T_camera)
        for view in views:
            sighting = Sighting(view.points, view.pixels, intrinsics, camera_T_world)
            before = self.pending.get(view.body.key, PendingLandmark(view.body))
            self.pending[view.body.key] = _collect(before, stamp, sighting, self.rules)
        keys = list(dict.fromkeys(view.body.key for view in views))
        placed = [key for key in keys if _is_resolved(self.pending[key], self.rules)]
        if must_start and not placed:
            tried = [key for key in keys if self.pending[key].hypotheses]
            placed = sorted(tried, key=lambda key: -_certainty(self.pending[key], self.rules))[:1]
        return [self._resolve(key) for key in placed]

    def forget(self, before: int) -> None:
        """Drops views older than ``before`` [ns], and pending bodies that have none left."""
        for key, pending in list(self.pending.items()):
            kept = [i for i, stamp in enumerate(pending.stamps) if stamp >= before]
            del self.pending[key]
            if kept:
                stamps = tuple(pending.stamps[i] for i in kept)
                sightings = tuple(pending.sightings[i] for i in kept)
                hypotheses = pending.hypotheses
                self.pending[key] = PendingLandmark(pending.body, stamps, sightings, hypotheses)

    def settle(self) -> list[ResolvedLandmark]:
        """Places every pending body by its best hypothesis, if any: no more views will come."""
        return [self._resolve(k) for k, p in list(self.pending.items()) if p.hypotheses]

    def _resolve(self, key: int) -> ResolvedLandmark:
        pending = self.pending.pop(key)
        return ResolvedLandmark(pending.body, pending.hypotheses[0].pose, pending.stamps)


def _collect(
    pending: PendingLandmark, stamp: int, sighting: Sighting, rules: InitializationRules
) -> PendingLandmark:
    """Adds a view and refines every hypothesis, old and new, over all views."""
    own = camera_from_body_candidates(sighting.points, sighting.pixels, sighting.intrinsics)
    if not own:
        return pending
    world_T_camera = inverse(sighting.camera_T_world)
    starts = [hypothesis.pose for hypothesis in pending.hypotheses]
    starts += [compose(world_T_camera, fit.pose) for fit in own]
    sightings = (*pending.sightings, sighting)[-rules.most_views :]
    stamps = (*pending.stamps, stamp)[-rules.most_views :]
    fits = distinct([fit for start in starts if (fit := refine(sightings, start)) is not None])
    return PendingLandmark(pending.body, stamps, sightings, tuple(fits[:4]))


def _is_resolved(pending: PendingLandmark, rules: InitializationRules) -> bool:
    points = sum(len(sighting.points) for sighting in pending.sightings)
    if not pending.hypotheses or _misfit(pending.hypotheses[0], points) > rules.largest_rms_px:
        return False
    if len(pending.sightings) >= rules.most_views:
        return True
    return _certainty(pending, rules) >= 1.0


def _certainty(pending: PendingLandmark, rules: InitializationRules) -> float:
    """How far the best hypothesis meets the rules: 1 = just so, by margin and by orientation."""
    best, points = pending.hypotheses[0], sum(len(s.points) for s in pending.sightings)
    variance = _variance(best, points, rules)
    gaps = [2.0 * (other.cost - best.cost) / variance for other in pending.hypotheses[1:]]
    margin = min(gaps, default=math.inf) / rules.margin
    return min(margin, rules.largest_tilt / _tilt(best, points, rules))


def _clearly_better(
    best: PoseFit, other: PoseFit, points: int, rules: InitializationRules
) -> bool:
    gap = 2.0 * (other.cost - best.cost)
    return gap >= rules.margin * _variance(best, points, rules)


def _nearest(poses: Sequence[Array], predicted: Array | None) -> tuple[int, bool]:
    """The pose nearest to the prediction (the first without one), and whether it stands alone."""
    if len(poses) == 1 or predicted is None:
        return 0, len(poses) == 1
    distances = [float(np.linalg.norm(pose[:3] - predicted[:3])) for pose in poses]
    first, second = np.argsort(distances)[:2]
    return int(first), distances[first] < _MUCH_NEARER * distances[second]


def _misfit(fit: PoseFit, points: int) -> float:
    """Like ``rms_px``, but residuals beyond Huber's threshold count less [px]."""
    return math.sqrt(2.0 * fit.cost / points)


def _variance(fit: PoseFit, points: int, rules: InitializationRules) -> float:
    """Variance of one coordinate [px²]: as configured, or what the fit leaves if that is more."""
    freedom = max(2 * points - 6, 2)
    return max(rules.sigma_px**2, 2.0 * fit.cost / freedom)


def _tilt(fit: PoseFit, points: int, rules: InitializationRules) -> float:
    """Largest standard deviation of the fit's orientation, whatever its position is [rad]."""
    by_v, coupling, by_ω = (
        fit.information[:3, :3],
        fit.information[:3, 3:],
        fit.information[3:, 3:],
    )
    marginal = by_ω - coupling.T @ np.linalg.pinv(by_v) @ coupling
    smallest = float(np.linalg.eigvalsh(marginal)[0])
    return math.sqrt(_variance(fit, points, rules) / smallest) if smallest > 0 else math.inf


def _best_alone(
    views: Sequence[BodyView], intrinsics: CameraIntrinsics
) -> list[tuple[BodyView, PoseFit]]:
    """Both minima of the one body that fills most of the image."""
    largest = max(views, key=lambda view: float(np.ptp(view.pixels, axis=0).prod()))
    fits = camera_from_body_candidates(largest.points, largest.pixels, intrinsics)
    return [(largest, fit) for fit in fits]
