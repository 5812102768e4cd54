"""Plays a recording to the estimator in real time, after simulating one where none is given.

    ros2 launch dnls_ros demo.launch.py                       # a simulated robot, half a minute
    ros2 launch dnls_ros demo.launch.py bag:=drive.mcap rate:=2.0 params_file:=my_robot.yaml

Everything ends with the recording. Watch it with `ros2 topic echo /odometry/filtered`.
"""

import sys
import tempfile
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

HERE = Path(__file__).resolve().parent
DEFAULT_FILE = str(HERE.parent / "config" / "localization_2d.yaml")

ARGUMENTS = {
    "bag": ("", "recording to play; empty: simulate one"),
    "rate": ("1.0", "speed of playing"),
    "seed": ("0", "seed of the simulated recording"),
    "duration": ("30", "its length [s]"),
    "params_file": (DEFAULT_FILE, "parameters of the estimator"),
}


def generate_launch_description() -> LaunchDescription:
    """Declares the arguments, starts the estimator and then the recording."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    estimator = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / "estimator.launch.py")),
        launch_arguments={"params_file": LaunchConfiguration("params_file")}.items(),
    )
    return LaunchDescription([*declared, estimator, OpaqueFunction(function=_play)])


def _play(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The player, after the simulator where there is no recording yet."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    simulated = Path(tempfile.gettempdir()) / f"dnls_demo_{value['seed']}_{value['duration']}.mcap"
    bag = value["bag"] or str(simulated)
    player = _python("-m", "dnls_ros.ros.player", bag, "--rate", value["rate"])
    end = OnProcessExit(target_action=player, on_exit=[EmitEvent(event=Shutdown())])
    if value["bag"]:
        return [RegisterEventHandler(end), player]
    arguments = ("--seed", value["seed"], "--duration", value["duration"], "--out", bag)
    simulator = _python("-m", "dnls_ros.cli", "sim", *arguments)
    then = OnProcessExit(target_action=simulator, on_exit=[player])
    return [RegisterEventHandler(end), RegisterEventHandler(then), simulator]


def _python(*arguments: str) -> ExecuteProcess:
    """A process of this interpreter."""
    return ExecuteProcess(cmd=[sys.executable, *arguments], output="screen")
