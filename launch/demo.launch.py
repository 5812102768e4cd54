"""Plays a recording to the estimator in real time, after simulating one where none is given.

    ros2 launch dnls_ros demo.launch.py                       # a simulated robot, half a minute
    ros2 launch dnls_ros demo.launch.py bag:=drive.mcap rate:=2.0 params_file:=my_robot.yaml

Everything ends with the recording. Watch it with ``rviz:=true`` or
`ros2 topic echo /odometry/filtered`.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from launch import LaunchDescription
from launch.actions import EmitEvent, ExecuteProcess, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown

from dnls_ros.ros.launching import (
    Argument,
    Given,
    common,
    companions,
    describe,
    estimator,
    grouped,
)

ARGUMENTS = [
    Argument("bag", "", "recording to play; empty: simulate one"),
    Argument("rate", "1.0", "speed of playing"),
    Argument("seed", "0", "seed of the simulated recording"),
    Argument("duration", "30", "its length [s]"),
]


def generate_launch_description() -> LaunchDescription:
    return describe(__file__, [*common(__file__, "localization_2d.yaml"), *ARGUMENTS], _start)


def _start(given: Given) -> list[Any]:
    """The estimator and the player, after the simulator where there is no recording yet."""
    nodes = grouped(given, [estimator(given), *companions(given)])
    seed, duration = given.number("seed"), given.number("duration", least=1.0)
    simulated = Path(tempfile.gettempdir()) / f"dnls_demo_{seed:g}_{duration:g}.mcap"
    bag = given.path("bag") if given["bag"] else simulated
    space = ("--namespace", given["namespace"]) if given["namespace"] else ()
    rate = f"{given.number('rate', least=0.01):g}"
    player = _python("-m", "dnls_ros.ros.player", str(bag), "--rate", rate, *space)
    end = OnProcessExit(target_action=player, on_exit=[EmitEvent(event=Shutdown())])
    if given["bag"]:
        return [RegisterEventHandler(end), nodes, player]
    arguments = ("--seed", f"{seed:g}", "--duration", f"{duration:g}", "--out", str(bag))
    simulator = _python("-m", "dnls_ros.cli", "sim", *arguments)
    then = OnProcessExit(target_action=simulator, on_exit=[player])
    return [RegisterEventHandler(end), RegisterEventHandler(then), nodes, simulator]


def _python(*arguments: str) -> ExecuteProcess:
    """A process of this interpreter."""
    return ExecuteProcess(cmd=[sys.executable, *arguments], output="screen")
