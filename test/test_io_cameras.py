"""Cameras from CameraInfo, ROS calibration files and tagslam's cameras.yaml."""

from __future__ import annotations

import numpy as np
import pytest

from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.cameras import camera_from_info
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class
from dnls_ros.io.yaml_files import load_camera_calibration, load_tagslam_cameras
from dnls_ros.window.measurements import CameraIntrinsics, Rejection

STAMP = 1527206741_075612384
MAKE = Composer(message_class)
CAMERA = CameraIntrinsics(
    focal=(400.0, 410.0),
    center=(320.0, 240.0),
    distortion_model="plumb_bob",
    coefficients=(-0.1, 0.01, 0.001, 0.002, 0.0),
    width=640,
    height=480,
)


def test_camera_info_round_trips():
    camera = camera_from_info(MAKE.camera_info(STAMP, "camera", CAMERA))
    assert vars(camera) == vars(CAMERA)


def test_rectified_pixels_use_the_projection_matrix_without_distortion():
    info = MAKE.camera_info(STAMP, "camera", CAMERA)
    info.p = np.array([300.0, 0, 310, 0, 0, 305, 230, 0, 0, 0, 1, 0])
    camera = camera_from_info(info, rectified=True)
    assert (camera.focal, camera.center) == ((300.0, 305.0), (310.0, 230.0))
    assert (camera.distortion_model, camera.coefficients) == ("", ())


def test_binning_and_region_of_interest_move_the_camera_matrix():
    info = MAKE.camera_info(STAMP, "camera", CAMERA)
    info.binning_x = info.binning_y = 2
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 20, 40, 600, 400
    camera = camera_from_info(info)
    assert (camera.focal, camera.center) == ((200.0, 205.0), (150.0, 100.0))
    assert (camera.width, camera.height) == (300, 200)


@pytest.mark.parametrize(
    ("model", "coefficients"), [("thin_prism", np.zeros(5)), ("plumb_bob", np.ones(8))]
)
def test_a_distortion_that_we_cannot_compute_is_refused(model, coefficients):
    info = MAKE.camera_info(STAMP, "camera", CAMERA)
    info.distortion_model, info.d = model, coefficients
    result = camera_from_info(info)
    assert isinstance(result, Rejection)
    assert model in result.text


CALIBRATION = """
image_width: 640
image_height: 480
camera_name: left
camera_matrix: {rows: 3, cols: 3, data: [400, 0, 320, 0, 410, 240, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.1, 0.01, 0.001, 0.002, 0]}
projection_matrix: {rows: 3, cols: 4, data: [300, 0, 310, 0, 0, 305, 230, 0, 0, 0, 1, 0]}
"""


def test_a_calibration_file_is_the_same_camera_as_its_camera_info(tmp_path):
    (tmp_path / "left.yaml").write_text(CALIBRATION)
    camera = load_camera_calibration(tmp_path / "left.yaml")
    assert camera.name == "left"
    assert vars(camera.intrinsics) == vars(CAMERA)
    rectified = load_camera_calibration(tmp_path / "left.yaml", rectified=True).intrinsics
    assert (rectified.focal, rectified.coefficients) == ((300, 305), ())


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "a: [", CALIBRATION.replace("camera_matrix", "matrix"), "\0"]
)
def test_a_broken_calibration_file_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UnreadableInputError, match=r"broken\.yaml"):
        load_camera_calibration(path)


def test_a_tagslam_camera_file_gives_cameras_with_their_topics(tmp_path):
    path = tmp_path / "cameras.yaml"
    path.write_text(
        "cam0: {camera_model: pinhole, intrinsics: [400, 410, 320, 240], resolution: [640, 480],\n"
        "  distortion_model: radtan, distortion_coeffs: [-0.1, 0.01, 0.001, 0.002],\n"
        "  tagtopic: /tags, frame_id: cam}\n"
    )
    camera = load_tagslam_cameras(path)["cam0"]
    assert (camera.name, camera.tag_topic, camera.frame) == ("cam0", "/tags", "cam")
    assert vars(camera.intrinsics) == vars(CAMERA)
