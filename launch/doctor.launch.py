"""Looks at what the sensors publish, prints a table and ends: rates, stamps, frames, covariances.

    ros2 launch dnls_ros doctor.launch.py params_file:=my_robot.yaml duration:=10

The same on a recording, without ROS: ``dnls doctor BAG --params my_robot.yaml``.
"""

from typing import Any

from launch import LaunchDescription

from dnls_ros.ros.launching import Argument, Given, common, describe, grouped, plain_node

HERE = ("namespace", "params_file", "use_sim_time", "log_level")
ARGUMENTS = [Argument("duration", "10", "how long to look [s]")]


def generate_launch_description() -> LaunchDescription:
    shared = common(__file__, "localization_2d.yaml")
    return describe(__file__, [*(a for a in shared if a.name in HERE), *ARGUMENTS], _start)


def _start(given: Given) -> list[Any]:
    """The doctor."""
    parameters = {
        "params_file": str(given.file("params_file")),
        "duration": given.number("duration", least=0.1),
    }
    return [grouped(given, [plain_node(given, "doctor_node", "dnls_doctor", parameters)])]
