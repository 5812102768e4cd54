"""Replays a recording through the estimator in lockstep and shows it on the node's topics.

    ros2 launch dnls_ros replay.launch.py bag:=drive.mcap params_file:=robot.yaml rate:=1

The replay publishes /clock. Results go into output_dir, as ``dnls replay`` writes them. With
``rate:=0`` it is as fast as it can be; the result is the same at any rate.
"""

from pathlib import Path
from typing import Any

from launch import LaunchDescription
from launch.actions import EmitEvent, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown

from dnls_ros.ros.launching import (
    TRUTH,
    Argument,
    Given,
    common,
    companions,
    describe,
    grouped,
    plain_node,
)

NOT_HERE = ("autostart", "use_lifecycle_manager", "record", "device")
"""What belongs to a node that lives, not to a recording."""
ARGUMENTS = [
    Argument("bag", "", "recording: rosbag2 folder, .mcap, .db3 or ROS 1 .bag; required"),
    Argument("rate", "0", "times real time; 0: as fast as possible"),
    Argument("start_offset", "0", "skip so much [s]"),
    Argument("duration", "0", "stop after so much [s]; 0: all"),
    Argument("loop", "false", "again and again", TRUTH),
]


def generate_launch_description() -> LaunchDescription:
    shared = common(__file__, "localization_2d.yaml", without=NOT_HERE, use_sim_time="true")
    return describe(__file__, [*shared, *ARGUMENTS], _start)


def _start(given: Given) -> list[Any]:
    """The replay; everything ends with it."""
    file = given.file("params_file")
    parameters: dict[str, Any] = {
        "bag": str(given.path("bag")),
        "params_file": str(file),
        "loop": given.truth("loop"),
        "use_sim_time": False,  # it makes the time
    }
    parameters |= {name: given.number(name) for name in ("rate", "start_offset", "duration")}
    if given["output_dir"]:
        parameters["output_dir"] = str(Path(given["output_dir"]).expanduser())
    replay = plain_node(given, "replay_node", "dnls_replay", parameters)
    end = OnProcessExit(target_action=replay, on_exit=[EmitEvent(event=Shutdown())])
    return [RegisterEventHandler(end), grouped(given, [replay, *companions(given)])]
