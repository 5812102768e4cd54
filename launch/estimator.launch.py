"""Starts the estimator, which configures and activates itself unless told otherwise.

    ros2 launch dnls_ros estimator.launch.py params_file:=my_robot.yaml namespace:=robot1

An argument left empty stays as the parameter file has it.
"""

import tempfile
import textwrap
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, PushROSNamespace, SetParameter
from launch_ros.parameter_descriptions import ParameterFile

CONFIG = Path(__file__).resolve().parents[1] / "config"  # share/dnls_ros or a checkout
DEFAULT_FILE = str(CONFIG / "localization_2d.yaml")

ARGUMENTS = {
    "namespace": ("", "namespace of the node and of its relative topics"),
    "params_file": (DEFAULT_FILE, "ROS parameter file with a section 'dnls_estimator'"),
    "use_sim_time": ("false", "take the time from /clock"),
    "autostart": ("", "false: wait for a lifecycle manager"),
    "use_respawn": ("false", "start the node again when it ends"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "device": ("", "auto, cpu, cuda or cuda:N"),
}


def generate_launch_description() -> LaunchDescription:
    """Declares the arguments and starts the node."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    buffered = SetEnvironmentVariable("RCUTILS_LOGGING_BUFFERED_STREAM", "1")
    return LaunchDescription([buffered, *declared, OpaqueFunction(function=_start)])


def _start(context: LaunchContext) -> list[GroupAction]:
    """The node, once the arguments are known; a missing parameter file ends the launch here."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    file = Path(value["params_file"]).expanduser()
    if not file.is_file():
        raise RuntimeError(f"params_file '{file}' does not exist; give params_file:=/path/to.yaml")
    node = LifecycleNode(
        package="dnls_ros",
        executable="estimator_node",
        name="dnls_estimator",
        namespace="",
        output="screen",
        parameters=[ParameterFile(_for_namespace(file, value["namespace"])), _overrides(value)],
        cwd=str(file.resolve().parent),  # where files that the parameters name are looked for
        remappings=[("/tf", "tf"), ("/tf_static", "tf_static")],
        arguments=["--ros-args", "--log-level", value["log_level"]],
        respawn=_truth(value["use_respawn"]),
        respawn_delay=2.0,
    )
    sim_time = SetParameter("use_sim_time", _truth(value["use_sim_time"]))
    return [GroupAction([PushROSNamespace(value["namespace"]), sim_time, node])]


def _for_namespace(file: Path, namespace: str) -> str:
    """The file, or a copy whose sections are those of the nodes in ``namespace``.

    ROS matches a section ``dnls_estimator`` only with a node in the root namespace. Sections with
    a full name (``/**``, ``/robot1/dnls_estimator``) stay as they are.
    """
    text = file.read_text(encoding="utf-8")
    names = [line for line in text.splitlines() if line[:1] not in ("", " ", "#", "-")]
    if not namespace.strip("/") or any(name.lstrip("'\"").startswith("/") for name in names):
        return str(file.resolve())
    handle, copy = tempfile.mkstemp(prefix="dnls_params_", suffix=".yaml")
    with open(handle, "w", encoding="utf-8") as target:
        target.write(f"/{namespace.strip('/')}:\n" + textwrap.indent(text, "  "))
    return copy


def _overrides(value: dict[str, str]) -> dict[str, str | bool]:
    """Parameters given as launch arguments; they win over the file."""
    given: dict[str, str | bool] = {"device": value["device"]} if value["device"] else {}
    if value["autostart"]:
        given["autostart"] = _truth(value["autostart"])
    return given


def _truth(text: str) -> bool:
    """A launch argument as a truth value."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise RuntimeError(f"got '{text}'; expected true or false")
    return text.lower() in ("true", "1")
