"""Camera poses from known points: OpenCV as the oracle, both planar minima, bad geometry."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dnls_ros.errors import DnlsError
from dnls_ros.window.landmark_map import tag_corners
from dnls_ros.window.measurements import CameraIntrinsics
from dnls_ros.window.pnp import (
    camera_from_body_candidates,
    camera_pose_from_map,
)
from dnls_ros.window.reprojection import Sighting, project, refine, residual_norms, undistort
from dnls_ros.window.rigid import (
    IDENTITY,
    angle_between,
    compose,
    from_rotation_vector,
    inverse,
    transform,
)

Array = NDArray[np.float64]

PLAIN = CameraIntrinsics(focal=(600.0, 610.0), center=(320.0, 240.0))
RADTAN = CameraIntrinsics(
    focal=(1500.0, 1501.0),
    center=(1025.0, 1030.0),
    distortion_model="plumb_bob",
    coefficients=(-0.164, 0.0915, -0.0002, 0.0003),
)
FISHEYE = CameraIntrinsics(
    focal=(470.0, 471.0),
    center=(640.0, 524.0),
    distortion_model="equidistant",
    coefficients=(-0.0132, -0.0099, 0.0121, -0.0045),
)
CAMERAS = pytest.mark.parametrize(
    "camera", [PLAIN, RADTAN, FISHEYE], ids=["plain", "radtan", "fisheye"]
)
BOX = np.array([[x, y, z] for x in (-0.2, 0.2) for y in (-0.1, 0.1) for z in (0.0, 0.15)])


def facing(tilt: float, distance: float, turn: float = 0.3) -> Array:
    """A body turned towards the camera (its z against the line of sight), then tilted [rad]."""
    rotation = Rotation.from_euler("xyz", [math.pi + tilt, 0.0, turn])
    return np.concatenate([[0.1 * distance, -0.05 * distance, distance], rotation.as_quat()])


def assert_same_pose(a: Array, b: Array, tolerance: float) -> None:
    assert np.linalg.norm(a[:3] - b[:3]) < tolerance
    assert angle_between(a, b) < tolerance


@CAMERAS
def test_undistortion_is_the_inverse_of_opencvs_projection(camera: CameraIntrinsics) -> None:
    plane = np.random.default_rng(1).uniform(-0.45, 0.45, (50, 2))
    rays = np.column_stack([plane, np.ones(50)])
    pixels = project(rays, np.array([0.0, 0, 0, 0, 0, 0, 1]), camera)
    np.testing.assert_allclose(undistort(pixels, camera), plane, atol=1e-7)


def test_a_pixel_that_no_ray_reaches_is_undistorted_to_nan() -> None:
    # r(1 − 0.8 r²) never exceeds 0.43: nothing is seen beyond 0.43 focal lengths from the centre
    camera = CameraIntrinsics(
        focal=(200.0, 200.0),
        center=(100.0, 100.0),
        distortion_model="plumb_bob",
        coefficients=(-0.8,),
    )
    plane = undistort(np.array([[120.0, 100.0], [290.0, 100.0]]), camera)
    assert np.all(np.isfinite(plane[0]))
    assert np.all(np.isnan(plane[1]))


@CAMERAS
@pytest.mark.parametrize("points", [tag_corners(0.12), BOX], ids=["tag", "box"])
def test_the_true_pose_is_the_best_candidate_of_exact_pixels(
    camera: CameraIntrinsics, points: Array
) -> None:
    for tilt in (-1.0, -0.4, 0.2, 0.7, 1.2):
        truth = facing(tilt, 1.5)
        candidates = camera_from_body_candidates(points, project(points, truth, camera), camera)
        assert_same_pose(candidates[0].pose, truth, 1e-6)
        assert candidates[0].rms_px < 1e-6


def test_a_body_that_lies_in_no_coordinate_plane_is_recognized_as_planar() -> None:
    tilted = tag_corners(0.3) @ Rotation.from_euler("xyz", [0.4, 1.1, -0.3]).as_matrix().T + [
        1.0,
        2.0,
        3.0,
    ]
    truth = np.concatenate(
        [[-1.0, -2.0, 0.5], Rotation.from_euler("xyz", [0.1, -0.2, 0.3]).as_quat()]
    )
    candidates = camera_from_body_candidates(tilted, project(tilted, truth, RADTAN), RADTAN)
    assert len(candidates) == 2
    assert_same_pose(candidates[0].pose, truth, 1e-6)


def test_a_small_tag_seen_nearly_face_on_has_two_poses_that_explain_it() -> None:
    points, truth = tag_corners(0.1), facing(0.25, 4.0)
    generator = np.random.default_rng(3)
    best_is_wrong, second_minima = 0, 0
    for _ in range(40):
        pixels = project(points, truth, PLAIN) + 0.3 * generator.standard_normal((4, 2))
        candidates = camera_from_body_candidates(points, pixels, PLAIN)
        errors = [angle_between(c.pose, truth) for c in candidates]
        best_is_wrong += errors[0] > 0.25 and errors[0] == max(errors)
        second_minima += len(candidates) == 2 and candidates[0].rms_px <= candidates[1].rms_px
    assert second_minima > 30  # where noise makes them merge there is one
    assert 5 < best_is_wrong < 35  # one view cannot tell


@pytest.mark.parametrize("turn", [0.0, 0.5 * math.pi, math.pi, 1.5 * math.pi])
def test_half_a_turn_between_tag_and_camera_is_no_special_case(turn: float) -> None:
    for tilt in (0.0, 1e-9, 1e-6, 0.35):
        truth = facing(tilt, 1.0, turn)
        pixels = project(tag_corners(0.1), truth, PLAIN)
        candidates = camera_from_body_candidates(tag_corners(0.1), pixels, PLAIN)
        assert min(angle_between(c.pose, truth) for c in candidates) < 1e-5


@CAMERAS
def test_refinement_ends_where_the_gradient_of_the_squared_error_vanishes(
    camera: CameraIntrinsics,
) -> None:
    truth = facing(0.5, 1.0)
    pixels = project(BOX, truth, camera) + np.random.default_rng(5).standard_normal((8, 2))
    found = refine([Sighting(BOX, pixels, camera)], truth + 0.01, math.inf)
    assert found is not None

    def cost(step: Array) -> float:
        turned = Rotation.from_quat(found.pose[3:]) * Rotation.from_rotvec(step[3:])
        pose = np.concatenate([found.pose[:3] + step[:3], turned.as_quat()])
        return 0.5 * float(((project(BOX, pose, camera) - pixels) ** 2).sum())

    steps = 1e-5 * np.eye(6)
    gradient = np.array([cost(s) - cost(-s) for s in steps]) / 2e-5
    curvature = np.array([cost(s) - 2 * cost(0 * s) + cost(-s) for s in steps]) / 1e-10
    assert np.all(np.abs(gradient / curvature) < 1e-6)
    assert found.rms_px == pytest.approx(math.sqrt(2 * cost(np.zeros(6)) / 8))


def test_one_wrong_corner_among_many_does_not_move_the_camera() -> None:
    points = np.concatenate(
        [tag_corners(0.2) + 0.1 * np.array([5 * i, 3 * (i % 2), i]) for i in range(5)]
    )
    truth = np.concatenate(
        [[-1.0, -0.2, 3.0], Rotation.from_euler("xyz", [2.8, 0.2, 0.1]).as_quat()]
    )
    pixels = project(points, truth, RADTAN)
    pixels[7] += [60.0, -40.0]
    found = camera_pose_from_map(points, pixels, RADTAN)
    assert_same_pose(found[0].pose, truth, 3e-3)


def test_a_prediction_decides_where_the_points_alone_lead_nowhere() -> None:
    points, truth = tag_corners(0.2)[:3], facing(0.5, 1.0)
    pixels = project(points, truth, PLAIN)
    assert camera_pose_from_map(points, pixels, PLAIN) == []
    near = truth + np.array([0.01, 0.01, -0.02, 0.0, 0.0, 0.0, 0.0])
    found = camera_pose_from_map(points, pixels, PLAIN, starts=(near,))
    assert_same_pose(found[0].pose, truth, 1e-5)


@pytest.mark.parametrize(
    ("points", "pixels"),
    [
        (tag_corners(0.1)[:3], np.zeros((3, 2))),
        (np.outer(np.arange(5.0), [1.0, 2.0, 3.0]), np.outer(np.arange(5.0), [40.0, 10.0])),
        (np.zeros((4, 3)), np.array([[0.0, 0], [50, 0], [50, 50], [0, 50]])),
        (tag_corners(0.1), np.full((4, 2), 100.0)),
        (tag_corners(0.1), np.array([[100.0, 100], [100.3, 100], [100.3, 100.3], [100, 100.3]])),
        (tag_corners(0.1), np.array([[math.nan, 0], [50, 0], [50, 50], [0, 50]])),
        (tag_corners(0.1), np.array([[math.inf, 0], [50, 0], [50, 50], [0, 50]])),
        (np.zeros((0, 3)), np.zeros((0, 2))),
    ],
    ids=["three", "collinear", "one point", "no extent", "tiny", "nan", "inf", "nothing"],
)
def test_degenerate_views_have_no_candidates(points: Array, pixels: Array) -> None:
    assert camera_from_body_candidates(points, pixels, PLAIN) == []
    assert camera_pose_from_map(points, pixels, PLAIN) == []


def test_random_pixels_never_raise_and_never_give_a_pose_behind_the_camera() -> None:
    generator = np.random.default_rng(7)
    for _ in range(100):
        pixels = generator.uniform(-500, 1500, (4, 2))
        for camera in (PLAIN, RADTAN, FISHEYE):
            for candidate in camera_from_body_candidates(tag_corners(0.1), pixels, camera):
                assert np.all(np.isfinite(candidate.pose))
                assert np.all(np.isfinite(project(tag_corners(0.1), candidate.pose, camera)))


def test_points_behind_the_camera_project_to_nan() -> None:
    pose = facing(0.0, -1.0)
    assert np.all(np.isnan(project(tag_corners(0.1), pose, PLAIN)))


def test_projection_equals_opencvs_for_a_body_at_an_angle() -> None:
    pose = facing(0.4, 2.0)
    matrix = np.array([[1500.0, 0, 1025], [0, 1501, 1030], [0, 0, 1]])
    coefficients = np.array(RADTAN.coefficients)
    expected = cv2.projectPoints(
        BOX, Rotation.from_quat(pose[3:]).as_rotvec(), pose[:3], matrix, coefficients
    )[0]
    np.testing.assert_allclose(project(BOX, pose, RADTAN), expected.reshape(-1, 2), atol=1e-9)


@pytest.mark.parametrize(
    ("model", "count"), [("rational", 8), ("plumb_bob", 8), ("equidistant", 5), ("", 4)]
)
def test_an_unknown_distortion_is_an_error_that_names_it(model: str, count: int) -> None:
    camera = CameraIntrinsics(
        focal=(1.0, 1.0), center=(0.0, 0.0), distortion_model=model, coefficients=(0.0,) * count
    )
    with pytest.raises(DnlsError, match=f"distortion model '{model}' with {count} coefficients"):
        undistort(np.zeros((1, 2)), camera)


def test_two_images_from_different_places_fix_a_body_that_one_leaves_open() -> None:
    points, world_T_body = tag_corners(0.1), np.array([0.0, 0.0, 4.0, 1.0, 0.0, 0.0, 0.0])
    cameras = [
        np.concatenate([[x, 0.0, 0.0], Rotation.from_euler("y", turn).as_quat()])
        for x, turn in ((1.5, -0.35), (-1.5, 0.35))
    ]
    sightings = [
        Sighting(points, project(points, compose(c, world_T_body), PLAIN), PLAIN, c)
        for c in cameras
    ]
    candidates = camera_from_body_candidates(points, sightings[0].pixels, PLAIN)
    assert len(candidates) == 2
    right, wrong = (
        refine(sightings, compose(inverse(cameras[0]), c.pose), math.inf) for c in candidates
    )
    assert right is not None
    assert_same_pose(right.pose, world_T_body, 1e-6)
    np.testing.assert_allclose(residual_norms(sightings, right.pose), 0.0, atol=1e-6)
    assert wrong is None or wrong.cost > 1.0 or angle_between(wrong.pose, world_T_body) < 1e-6


def test_single_pose_algebra_equals_scipys() -> None:
    generator = np.random.default_rng(8)
    for _ in range(20):
        a, b = (
            np.concatenate([generator.normal(size=3), Rotation.random(rng=generator).as_quat()])
            for _ in range(2)
        )
        first, second = Rotation.from_quat(a[3:]), Rotation.from_quat(b[3:])
        points = generator.normal(size=(5, 3))
        np.testing.assert_allclose(transform(a, points), first.apply(points) + a[:3], atol=1e-14)
        together = transform(compose(a, b), points)
        np.testing.assert_allclose(together, transform(a, transform(b, points)), atol=1e-14)
        np.testing.assert_allclose(transform(inverse(a), transform(a, points)), points, atol=1e-14)
        assert angle_between(a, b) == pytest.approx((first.inv() * second).magnitude(), abs=1e-12)
        vector = generator.normal(size=3)
        pose = from_rotation_vector(vector, a[:3])
        np.testing.assert_allclose(
            transform(pose, points), Rotation.from_rotvec(vector).apply(points) + a[:3], atol=1e-14
        )
    np.testing.assert_array_equal(from_rotation_vector(np.zeros(3), np.zeros(3)), IDENTITY)
