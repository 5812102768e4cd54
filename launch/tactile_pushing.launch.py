"""Starts the front end of a tactile sensor and the estimator of the object that its finger pushes.

    ros2 launch dnls_ros tactile_pushing.launch.py object:=rect sensor_ns:=digit_left

The front end reads ``<sensor_ns>/image_raw`` (or ``image_raw/compressed`` beside it). The finger's
pose comes from the topic ``ee/pose``, or with ``ee_source:=tf`` from tf, where it is the frame
``ee`` in the world.
"""

from typing import Any

from launch import LaunchDescription

from dnls_ros.ros.launching import (
    Argument,
    Given,
    common,
    companions,
    config_folder,
    describe,
    estimator,
    front_end,
    grouped,
)

OBJECTS = ("rect", "disc")
ARGUMENTS = [
    Argument("sensor_ns", "digit", "namespace of the tactile sensor's topics"),
    Argument("model", "", "trained model; empty: as params_file"),
    Argument("object", "rect", f"{', '.join(OBJECTS)}: which of config/ is the params_file"),
    Argument("ee_source", "pose", "pose: the topic ee/pose; tf: the frame ee", ("pose", "tf")),
]
BY_TF = {
    "sensor.ee_pose.type": "tf_pose",
    "sensor.ee_pose.topic": "",
    "sensor.ee_pose.target_frame": "ee",
    "sensor.ee_pose.throttle": 0.0,
    "sensor.ee_pose.expected_rate": 30.0,
}


def generate_launch_description() -> LaunchDescription:
    return describe(__file__, [*common(__file__, ""), *ARGUMENTS], _start)


def _start(given: Given) -> list[Any]:
    """Front end, estimator and what was asked for beside them."""
    file = given["params_file"] or _parameters(given)
    chosen = given.with_value("params_file", file)
    images = f"{given['sensor_ns'].rstrip('/')}/image_raw"
    topics = [("image_raw", images), ("image_raw/compressed", f"{images}/compressed")]
    model = {"model": str(given.file("model"))} if given["model"] else {}
    where = BY_TF if given["ee_source"] == "tf" else {}
    nodes = [
        front_end(chosen, topics, model, "tactile_frontend"),
        estimator(chosen, where),
        *companions(chosen),
    ]
    return [grouped(chosen, nodes)]


def _parameters(given: Given) -> str:
    """The parameter file of the object."""
    if given["object"] not in OBJECTS:
        raise RuntimeError(f"object is '{given['object']}'; expected one of {', '.join(OBJECTS)}")
    return str(config_folder(__file__) / f"tactile_pushing_{given['object']}.yaml")
