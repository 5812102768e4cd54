"""Images in the estimator: what is placed, what waits, what counts, and where a track starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from dnls_ros.costs import tag_corners
from dnls_ros.problem import FactorGroup, Problem
from dnls_ros.window import landmark_map
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.measurements import CameraIntrinsics, LandmarkMeasurement, LandmarkObservation
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.reprojection import project
from dnls_ros.window.results import StepResult
from dnls_ros.window.rigid import (
    IDENTITY,
    angle_between,
    compose,
    from_rotation_vector,
    inverse,
)
from dnls_ros.window.state import LANDMARK

Array = NDArray[np.float64]

SECOND = 1_000_000_000
T0 = 1_000 * SECOND
SIZE = 0.1
CAMERA = CameraIntrinsics(focal=(600.0, 600.0), center=(320.0, 240.0))
FACING = np.array([1.0, 0.0, 0.0, 0.0])  # a tag that is read by a camera looking along z
TAGS = {
    0: np.array([0.05, 0.02, 0.5, *FACING]),
    1: np.array([-0.15, 0.05, 0.6, *FACING]),
    7: np.array([0.0, 0.0, 4.0, *FACING]),  # so far away that its tilt cannot be seen
}


def camera_at(x: float, y: float = 0.0, z: float = 0.0, turn: float = 0.0) -> Array:
    return from_rotation_vector(np.array([0.0, turn, 0.0]), np.array([x, y, z]))


def image(
    stamp: int,
    world_T_camera: Array,
    tags: Iterable[int],
    seed: int = 0,
    camera: CameraIntrinsics = CAMERA,
    carried: bool = False,
) -> LandmarkMeasurement:
    """The corners of some tags with a little noise."""
    noise = 0.01 * np.random.default_rng([seed, stamp]).standard_normal((len(TAGS), 4, 2))
    corners = landmark_map.tag_corners(SIZE)
    seen = [
        LandmarkObservation(
            id=f"tag36h11:{number}",
            pixels=project(corners, compose(inverse(world_T_camera), TAGS[number]), camera)
            + noise[list(TAGS).index(number)],
        )
        for number in tags
    ]
    return LandmarkMeasurement(
        sensor="tags",
        stamp=stamp,
        frame="camera",
        observations=tuple(seen),
        intrinsics=camera if carried else None,
    )


def estimator(folder: Path, known: Mapping[int, Array] | None = None, **sensor: Any) -> Estimator:
    """One camera that starts at the origin, or at the known tags if there are any."""
    entries = [
        {"id": n, "pose": {"position": p[:3].tolist(), "orientation": p[3:].tolist()}}
        for n, p in (known or {}).items()
    ]
    (folder / "map.yaml").write_text(yaml.safe_dump({"default_size": SIZE, "tags": entries}))
    init = {"mode": "first_measurement"} if known else {"mode": "params", "sigma": [1e-3] * 6}
    parameters = {
        "deterministic": True,
        "tracks": ["rig"],
        "sensors": ["tags"],
        "window": {"duration": 2.0, "prior_fej": True},
        "track": {"rig": {"manifold": "se3", "motion": "none", "init": init}},
        "sensor": {
            "tags": {
                "type": "landmarks",
                "topic": "tags",
                "camera_info_topic": "info",
                "landmarks": {"map_file": "map.yaml"},
                "ignition": bool(known),
                "sigma": [0.1],
                **sensor,
            }
        },
    }
    made = Estimator(load_parameters(parameters, base=folder), archive=True)
    made.set_intrinsics("tags", CAMERA)
    return made


def feed(made: Estimator, m: LandmarkMeasurement) -> StepResult | None:
    assert made.feed(m) is None
    return made.step(m.stamp)


def observed(problem: Problem | Mapping[str, Any]) -> int:
    """How many tags in images are factors."""
    groups = problem.values()
    return sum(g.count for g in groups if isinstance(g, FactorGroup) and g.cost is tag_corners)


def placed(made: Estimator) -> list[int]:
    ids = made.state.values.ids.get(LANDMARK)
    return [] if ids is None else ids.tolist()


def test_an_ambiguous_view_places_nothing_and_its_observations_count_later(
    tmp_path: Path,
) -> None:
    made = estimator(tmp_path)
    feed(made, image(T0, camera_at(0.0), [0]))
    assert placed(made) == [0]
    # Backwards until the tilt of the known tag is anyone's guess: tag 1 would be placed wrongly.
    feed(made, image(T0 + SECOND // 4, camera_at(0.0, z=-4.0), [0, 1]))
    assert made.state.uncertain == {("rig", T0 + SECOND // 4)}
    assert placed(made) == [0]
    assert [row.observation.id for row in made.state.pending_rows] == ["tag36h11:1"]
    feed(made, image(T0 + SECOND // 2, camera_at(0.05, turn=0.2), [0, 1]))
    assert placed(made) == [0, 1]
    assert made.state.pending_rows == ()
    assert observed(made.state.factors) == 5


def test_a_second_image_of_the_same_instant_settles_an_ambiguous_view(tmp_path: Path) -> None:
    made = estimator(tmp_path)
    feed(made, image(T0, camera_at(0.0), [0, 1]))
    feed(made, image(T0 + SECOND // 4, camera_at(0.02), [0, 1]))
    assert placed(made) == [0, 1]
    place, stamp = camera_at(0.1, turn=-0.5), T0 + SECOND // 2
    feed(made, image(stamp, camera_at(0.0, z=-4.0), [0]))
    assert made.state.uncertain == {("rig", stamp)}
    feed(made, image(stamp + 1000, place, [0, 1]))  # within the least distance of two states
    assert made.state.uncertain == frozenset()


def test_what_was_seen_before_it_could_be_placed_is_part_of_the_full_solution(
    tmp_path: Path,
) -> None:
    made = estimator(tmp_path)
    stamps = [T0 + k * SECOND // 4 for k in range(16)]
    for k, stamp in enumerate(stamps):
        feed(made, image(stamp, camera_at(0.01 * k), [0, 7] if k < 3 else [0]))
    assert placed(made) == [0]  # tag 7 never was, and its images have left the window
    assert all(row.stamp > stamps[2] for row in made.state.pending_rows)
    full = made.smooth()
    assert full.solution.values.ids[LANDMARK].tolist() == [0, 7]
    assert observed(full.solution.assembly.problem) == 16 + 3
    assert full.stamps.tolist() == stamps


def test_a_clear_view_of_a_known_tag_starts_a_track_where_it_is(tmp_path: Path) -> None:
    made = estimator(tmp_path, known={0: TAGS[0]})
    place = camera_at(0.1, 0.05, -0.1, turn=0.3)
    assert feed(made, image(T0, place, [1])) is None  # of unknown place: it says nothing
    assert made.counters["tags"].waiting == 1
    feed(made, image(T0 + SECOND // 4, place, [0, 1]))
    feed(made, image(T0 + SECOND // 2, camera_at(0.1, 0.0, -0.1, turn=0.2), [0, 1]))
    pose = made.pose_at(T0 + SECOND // 4).pose
    assert np.linalg.norm(pose[:3] - place[:3]) < 2e-3
    assert angle_between(pose, place) < 5e-3
    assert made.counters["tags"].balanced


def test_a_known_tag_too_far_away_does_not_start_a_track(tmp_path: Path) -> None:
    made = estimator(tmp_path, known={7: TAGS[7]})
    assert feed(made, image(T0, IDENTITY, [7])) is None
    assert made.counters["tags"].waiting == 1


def test_intrinsics_that_come_with_an_image_are_the_ones_of_that_image(tmp_path: Path) -> None:
    made = estimator(tmp_path, known={0: TAGS[0]})
    other = CameraIntrinsics(focal=(900.0, 880.0), center=(400.0, 300.0))
    place = camera_at(0.1, 0.05, -0.1, turn=0.3)
    feed(made, image(T0, place, [0], camera=CAMERA))
    feed(made, image(T0 + SECOND // 4, place, [0], camera=other, carried=True))
    feed(made, image(T0 + SECOND // 2, place, [0], camera=CAMERA))
    for k in range(3):
        pose = made.pose_at(T0 + k * SECOND // 4).pose
        assert np.linalg.norm(pose[:3] - place[:3]) < 2e-3


@pytest.mark.parametrize("extra", [[0], [0, 0]])
def test_of_a_tag_that_is_seen_twice_in_one_image_neither_is_used(
    tmp_path: Path, extra: list[int]
) -> None:
    made = estimator(tmp_path)
    feed(made, image(T0, camera_at(0.0), [0, 1]))
    result = feed(made, image(T0 + SECOND // 4, camera_at(0.02), [0, 1, *extra]))
    assert result is not None
    assert result.notes["unknown_landmarks"] == 1 + len(extra)
    assert observed(made.state.factors) + len(made.state.pending_rows) == 3
