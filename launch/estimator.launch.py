"""Starts the estimator, which configures and activates itself unless told otherwise.

    ros2 launch dnls_ros estimator.launch.py params_file:=my_robot.yaml namespace:=robot1

An argument left empty stays as the parameter file has it.
"""

from typing import Any

from launch import LaunchDescription

from dnls_ros.ros.launching import Given, common, companions, describe, estimator, grouped


def generate_launch_description() -> LaunchDescription:
    return describe(__file__, common(__file__, "localization_2d.yaml"), _start)


def _start(given: Given) -> list[Any]:
    """The node and what was asked for beside it."""
    return [grouped(given, [estimator(given), *companions(given)])]
