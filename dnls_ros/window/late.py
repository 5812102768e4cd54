"""Observations that outlived their states: factors for the full solution.

A body may be placed long after the first images of it have left the window, or never, if no few
images could choose between its two planar minima. Full smoothing forgets neither: with all states
at hand, bodies that still have no pose get the best one by all their images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dnls_ros.problem import FactorGroup, Values
from dnls_ros.window.corners import corner_factors, has, is_placed
from dnls_ros.window.images import Camera, place_body
from dnls_ros.window.landmark_init import (
    InitializationRules,
    LandmarkInitializer,
    ResolvedLandmark,
    group_by_body,
)
from dnls_ros.window.rigid import compose
from dnls_ros.window.state import Draft, LandmarkRow, State

MANY_VIEWS = 30


def late_factors(
    rows: Iterable[LandmarkRow], values: Values, cameras: Mapping[str, Camera]
) -> tuple[Mapping[str, FactorGroup], Values]:
    """The factors of waiting observations whose states are known, by name of their group.

    Args:
        rows: Observations that never became factors.
        values: All states and bodies, as last estimated.
        cameras: Landmarks sensors.

    Returns:
        The factors, and the values with the bodies that were placed for them.
    """
    draft = Draft(State(values=values), now=0)
    known = [r for r in rows if has(values, cameras[r.sensor].body.name, r.stamp)]
    known.sort(key=lambda r: r.stamp)
    _place_all(draft, known, cameras)
    for sensor, camera in cameras.items():
        mine = [r for r in known if r.sensor == sensor]
        mine = [r for r in mine if is_placed(draft.state.values, camera, r)]
        for name, group, _ in corner_factors(draft, camera, mine):
            draft.add_factors(name, group)
    return draft.state.factors, draft.state.values


def _place_all(draft: Draft, rows: Sequence[LandmarkRow], cameras: Mapping[str, Camera]) -> None:
    """Places the bodies without a pose, each by the best explanation of its images."""
    images: dict[tuple[str, int], list[LandmarkRow]] = {}
    for row in rows:
        if not is_placed(draft.state.values, cameras[row.sensor], row):
            images.setdefault((row.sensor, row.stamp), []).append(row)
    initializer = LandmarkInitializer(InitializationRules(most_views=MANY_VIEWS))
    found: list[ResolvedLandmark] = []
    for (sensor, stamp), seen in images.items():
        camera, done = cameras[sensor], {one.body.key for one in found}
        views = group_by_body([r.observation for r in seen], camera.landmarks)[0]
        slot = int(np.searchsorted(draft.stamps(camera.body), stamp))
        place = compose(draft.pose(camera.body, slot), camera.mount(draft, seen[0].mount))
        new = [v for v in views if v.body.key not in done]
        found += initializer.observe(stamp, new, seen[0].intrinsics, place)
    for one in [*found, *initializer.settle()]:
        place_body(draft, one.body.key, one.pose)
