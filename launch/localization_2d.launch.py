"""Starts the estimator of a robot on a plane and, beside it, the front end of its camera.

    ros2 launch dnls_ros localization_2d.launch.py params_file:=robot.yaml tags_file:=tags.yaml

The front end reads tag detections and camera_info below ``camera/`` and gives the estimator one
message with both, so that it needs neither apriltag_msgs nor the camera's calibration. The sensor
of type landmarks in the parameter file is called ``tags``.
"""

from typing import Any

from launch import LaunchDescription

from dnls_ros.ros.launching import (
    Argument,
    Given,
    common,
    companions,
    describe,
    estimator,
    front_end,
    grouped,
)

ARGUMENTS = [Argument("tags_file", "", "map of the tags (YAML); empty: as params_file")]
TOPICS = [("detections", "camera/tag_detections"), ("camera_info", "camera/camera_info")]


def generate_launch_description() -> LaunchDescription:
    return describe(__file__, [*common(__file__, "localization_2d.yaml"), *ARGUMENTS], _start)


def _start(given: Given) -> list[Any]:
    """Front end, estimator and what was asked for beside them."""
    tags = {"sensor.tags.topic": "landmark_frontend/observations"}
    sizes: dict[str, str] = {}
    if given["tags_file"]:
        sizes["map_file"] = str(given.file("tags_file"))
        tags["sensor.tags.landmarks.map_file"] = sizes["map_file"]
    nodes = [front_end(given, TOPICS, sizes), estimator(given, tags), *companions(given)]
    return [grouped(given, nodes)]
