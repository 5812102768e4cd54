"""The landmark map: which points of which rigid body a tag shows, and clear words about wrong
files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from dnls_ros.errors import DnlsError
from dnls_ros.window.landmark_file import parse_landmark_map, read_landmark_map
from dnls_ros.window.landmark_map import LandmarkMap, landmark_key, tag_corners

POSE = {"position": [1.0, 2.0, 3.0], "orientation": [0.0, 0.0, 0.0, 1.0]}
QUARTER_TURN = {"position": [1.0, 0.0, 0.0], "orientation": [0.0, 0.0, 0.5**0.5, 0.5**0.5]}
WALL = {
    "name": "wall",
    "grid": {"rows": 2, "columns": 3, "first_id": 6, "size": 0.12, "spacing": 0.25},
}


def test_a_tag_that_is_not_named_becomes_a_body_of_its_own_from_the_default_size() -> None:
    landmarks = LandmarkMap(default_size=0.1)
    seen = landmarks.observe("tag36h11:42")
    assert seen is not None
    assert (seen.body.key, seen.body.pose, seen.body.fixed) == (42, None, False)
    np.testing.assert_array_equal(seen.points, tag_corners(0.1))
    assert landmarks.tags == {}


def test_without_a_default_size_only_tags_with_a_size_are_known() -> None:
    landmarks = parse_landmark_map({"sizes": {3: 0.16}, "tags": [{"id": 5, "size": 0.2}]})
    assert landmarks.points_of(4) is None
    assert landmarks.observe("tag36h11:4") is None
    for number, size in ((3, 0.16), (5, 0.2)):
        known = landmarks.points_of(number)
        assert known is not None
        assert np.ptp(known[1][:, 0]) == pytest.approx(size)


def test_the_size_of_a_tag_is_its_own_before_the_list_before_the_default() -> None:
    content = {
        "default_size": 0.1,
        "sizes": {1: 0.2, 2: 0.2},
        "tags": [{"id": 1, "size": 0.3}, {"id": 2}, {"id": 3}],
    }
    landmarks = parse_landmark_map(content)
    assert [landmarks.tags[n].size for n in (1, 2, 3)] == [0.3, 0.2, 0.1]


def test_corners_run_from_lower_left_against_the_clock() -> None:
    np.testing.assert_allclose(tag_corners(2.0), [[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])


def test_tags_of_another_family_are_unknown_unless_any_family_is_taken() -> None:
    assert LandmarkMap(default_size=0.1).observe("tagStandard41h12:3") is None
    assert LandmarkMap(family="any", default_size=0.1).observe("tagStandard41h12:3") is not None
    assert LandmarkMap(default_size=0.1).tag_number("3") == 3
    assert LandmarkMap(default_size=0.1).tag_number("tag36h11:" + 30 * "9") is None
    assert LandmarkMap(default_size=0.1).tag_number("tag36h11:-3") is None


def test_a_grid_counts_along_rows_in_the_frame_of_its_first_tag() -> None:
    landmarks = parse_landmark_map({"boards": [WALL]})
    centres = np.array([landmarks.tags[n].corners.mean(axis=0) for n in range(6, 12)])
    expected = [
        [0, 0, 0],
        [0.15, 0, 0],
        [0.3, 0, 0],
        [0, 0.15, 0],
        [0.15, 0.15, 0],
        [0.3, 0.15, 0],
    ]
    np.testing.assert_allclose(centres, expected, atol=1e-15)
    assert {landmarks.tags[n].body.key for n in range(6, 12)} == {landmark_key("wall")}


def test_a_tag_on_a_board_shows_its_corners_in_the_frame_of_the_board() -> None:
    board = {"name": "cube", "pose": POSE, "tags": [{"id": 9, "size": 2.0, "pose": QUARTER_TURN}]}
    landmarks = parse_landmark_map({"boards": [board]})
    seen = landmarks.observe("tag36h11:9")
    assert seen is not None
    assert seen.body.fixed
    np.testing.assert_allclose(
        seen.points, [[2, -1, 0], [2, 1, 0], [0, 1, 0], [0, -1, 0]], atol=1e-12
    )
    own = landmarks.observe("tag36h11:9", points=np.array([[1.0, 0.0, 0.5]]))
    assert own is not None
    np.testing.assert_allclose(own.points, [[1.0, 1.0, 0.5]], atol=1e-12)


def test_a_landmark_named_by_its_message_brings_its_own_points() -> None:
    points = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    seen = LandmarkMap().observe("door", points)
    assert seen is not None
    assert (seen.body.name, seen.body.key) == ("door", landmark_key("door"))
    np.testing.assert_array_equal(seen.points, points)
    assert LandmarkMap().observe("door") is None


def test_keys_are_the_same_in_every_run_and_fit_into_64_bits() -> None:
    assert landmark_key("wall") == 135458886989246889
    assert landmark_key("wall") != landmark_key("floor")
    assert 1 << 56 <= landmark_key("floor") < 1 << 63


def test_a_given_pose_is_exact_without_sigma_and_a_prior_with_it() -> None:
    tags = [{"id": 1, "pose": POSE}, {"id": 2, "pose": POSE, "sigma": [0.1] * 6}, {"id": 3}]
    landmarks = parse_landmark_map({"default_size": 0.1, "tags": tags})
    assert [body.fixed for body in landmarks.bodies] == [True, False, False]
    np.testing.assert_array_equal(landmarks.bodies[0].pose, [1, 2, 3, 0, 0, 0, 1])
    assert landmarks.bodies[2].pose is None


def test_point_landmarks_are_found_by_name() -> None:
    content = {"landmarks": [{"id": "6", "position": [1.0, 2.0, 0.0]}, {"id": 7}]}
    points = parse_landmark_map(content).points
    np.testing.assert_array_equal(points["6"].position, [1, 2, 0])
    assert points["7"].position is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"tag": []}, "unknown key 'tag'; did you mean 'tags'"),
        ([1, 2], "got list, expected a mapping"),
        ({"default_size": 0.0}, "default_size: got 0.0, expected a size > 0"),
        ({"default_size": True}, "default_size: got True"),
        ({"sizes": {3: -0.1}}, r"sizes\[3\]: got -0.1"),
        ({"tags": [{"id": 3}]}, "tag 3 has no size"),
        ({"tags": [{"size": 0.1}]}, r"tags\[0\]: 'id' is missing"),
        ({"tags": [{"id": "3", "size": 0.1}]}, "got '3', expected a whole number"),
        ({"tags": [{"id": 3, "size": 0.1}] * 2}, "tag 3 is already part of 'tag:3'"),
        ({"tags": [{"id": 7, "size": 0.1}], "boards": [WALL]}, "tag 7 is already part of 'tag:7'"),
        ({"boards": [WALL, {**WALL, "name": "floor"}]}, "tag 6 is already part of 'wall'"),
        ({"boards": [WALL, WALL]}, "name 'wall' is already taken"),
        ({"boards": [{"name": "empty"}]}, "either 'tags'"),
        ({"boards": [{**WALL, "grid": {**WALL["grid"], "rows": 0}}]}, "rows: got 0"),
        ({"boards": [{**WALL, "grid": {**WALL["grid"], "spacing": -1}}]}, "spacing: got -1"),
        ({"default_size": 1, "tags": [{"id": 1, "sigma": [1] * 6}]}, "'sigma' without 'pose'"),
        (
            {"default_size": 1, "tags": [{"id": 1, "pose": POSE, "sigma": [0] * 6}]},
            "six positive numbers",
        ),
        (
            {
                "default_size": 1,
                "tags": [{"id": 1, "pose": {**POSE, "orientation": [0, 0, 0, 2]}}],
            },
            "unit quaternion",
        ),
        (
            {"default_size": 1, "tags": [{"id": 1, "pose": {**POSE, "position": [0, 0]}}]},
            "expected 3 numbers",
        ),
        (
            {
                "default_size": 1,
                "tags": [{"id": 1, "pose": {**POSE, "position": [0, 0, float("nan")]}}],
            },
            "finite number",
        ),
        ({"landmarks": [{"id": "6"}, {"id": 6}]}, "landmark '6' is there twice"),
        ({"family": 36}, "family: got 36"),
    ],
)
def test_mistakes_are_named_with_their_place(content: object, words: str) -> None:
    with pytest.raises(DnlsError, match=words):
        parse_landmark_map(content)


def test_a_file_is_read_and_a_missing_or_broken_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(yaml.safe_dump({"family": "any", "boards": [WALL]}))
    assert sorted(read_landmark_map(path).tags) == [6, 7, 8, 9, 10, 11]
    with pytest.raises(DnlsError, match="no such file"):
        read_landmark_map(tmp_path / "absent.yaml")
    path.write_text("tags: [")
    with pytest.raises(DnlsError, match="is not YAML"):
        read_landmark_map(path)
