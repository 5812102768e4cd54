"""Starts the node that trains measurement models by the action ``~/train``.

ros2 launch dnls_ros train.launch.py params_file:=sim_push.yaml
"""

from typing import Any

from launch import LaunchDescription

from dnls_ros.ros.launching import Argument, Given, common, describe, grouped, plain_node

NOT_HERE = ("autostart", "use_lifecycle_manager", "record", "device", "rviz", "foxglove")
"""What belongs to an estimator."""
ARGUMENTS = [
    Argument("truth", "truth/object", "topic of the object's true pose in recordings"),
    Argument("threads", "1", "of torch"),
]


def generate_launch_description() -> LaunchDescription:
    shared = common(__file__, "sim_push.yaml", without=NOT_HERE)
    return describe(__file__, [*shared, *ARGUMENTS], _start)


def _start(given: Given) -> list[Any]:
    """The node."""
    parameters = {
        "params_file": str(given.file("params_file")),
        "truth": given["truth"],
        "threads": given.number("threads", least=1.0),
    }
    return [grouped(given, [plain_node(given, "trainer_node", "dnls_trainer", parameters)])]
