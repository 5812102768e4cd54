"""What the launch files share: nav2's argument names, our nodes as actions, failing early.

A launch file lists its arguments and gives a function from their values to actions::

    def generate_launch_description():
        return describe(__file__, [*common("localization_2d.yaml"), Argument(…)], start)

Nothing starts before every value is checked. An argument left empty stays as the parameter file
has it; an argument that is given wins over the file.
"""
# Only environments with ROS 2 have these two; a checker elsewhere cannot look into them.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import difflib
import math
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node, PushROSNamespace, SetParameter
from launch_ros.parameter_descriptions import ParameterFile

from dnls_ros.window.parameter_file import write_yaml

PACKAGE = "dnls_ros"
TRUTH = ("true", "false", "True", "False")
LEVELS = ("debug", "info", "warn", "error", "fatal")
RESPAWN_DELAY = 2.0
"""Between the end of a node and its next start [s]."""


@dataclass(frozen=True)
class Argument:
    """A launch argument; ``choices`` are the only values that it takes, () means any."""

    name: str
    default: str
    text: str
    choices: tuple[str, ...] = ()


class Given:
    """The values of all arguments, read as what they mean.

    Raises:
        RuntimeError: From every method, for a value that cannot be used: it ends the launch.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def with_value(self, name: str, value: str) -> Given:
        """The same with another value."""
        return Given({**self._values, name: value})

    def truth(self, name: str) -> bool:
        """A truth value."""
        return self._values[name].lower() == "true"

    def path(self, name: str) -> Path:
        """A file or folder that exists."""
        if not self._values[name]:
            raise RuntimeError(f"{name} is empty; give {name}:=/path/to/it")
        path = Path(self._values[name]).expanduser()
        if not path.exists():
            raise RuntimeError(f"{name} '{path}' does not exist; give {name}:=/path/to/it")
        return path.resolve()

    def file(self, name: str) -> Path:
        """A file that exists."""
        path = self.path(name)
        if not path.is_file():
            raise RuntimeError(f"{name} '{path}' is no file")
        return path

    def number(self, name: str, least: float = 0.0) -> float:
        """A finite number of at least ``least``."""
        text = self._values[name]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= least):
            raise RuntimeError(f"{name} is '{text}'; expected a number of at least {least:g}")
        return value


Start = Callable[[Given], list[Any]]
"""From the values of the arguments to what is started."""


def config_folder(launch_file: str) -> Path:
    """Where the parameter files lie: beside launch/, in share/dnls_ros or in a checkout."""
    return Path(launch_file).resolve().parents[1] / "config"


def common(
    launch_file: str, params_file: str, without: Sequence[str] = (), **defaults: str
) -> list[Argument]:
    """The arguments that every launch file with an estimator has, named as nav2 names them.

    Args:
        launch_file: ``__file__`` of the launch file.
        params_file: The default, a file in config/; '' for none.
        without: Names of arguments that mean nothing there.
        defaults: Other defaults by name.
    """
    config = config_folder(launch_file)
    arguments = [
        Argument("namespace", "", "namespace of the nodes and of their relative topics"),
        Argument(
            "params_file", str(config / params_file) if params_file else "", "ROS parameter file"
        ),
        Argument("use_sim_time", "false", "take the time from /clock", TRUTH),
        Argument(
            "autostart", "", "false: wait for transitions; empty: as params_file", ("", *TRUTH)
        ),
        Argument("use_lifecycle_manager", "false", "a manager does the transitions", TRUTH),
        Argument("use_respawn", "false", "start a node again when it ends", TRUTH),
        Argument("log_level", "info", ", ".join(LEVELS), LEVELS),
        Argument("rviz", "false", "start RViz", TRUTH),
        Argument("rviz_config", str(config / "rviz" / "estimator.rviz"), "layout of RViz"),
        Argument("foxglove", "false", "start foxglove_bridge", TRUTH),
        Argument("record", "false", "write trajectory, statistics and events to files", TRUTH),
        Argument("output_dir", "", "where files are written; empty: as params_file"),
        Argument("device", "", "auto, cpu, cuda or cuda:N; empty: as params_file"),
    ]
    chosen = [argument for argument in arguments if argument.name not in without]
    return [replace(a, default=defaults.get(a.name, a.default)) for a in chosen]


def describe(launch_file: str, arguments: Sequence[Argument], start: Start) -> LaunchDescription:
    """The description: declares the arguments, then starts what ``start`` says."""
    names = [argument.name for argument in arguments]
    declared = [
        DeclareLaunchArgument(
            a.name, default_value=a.default, description=a.text, choices=list(a.choices) or None
        )
        for a in arguments
    ]

    def begin(context: LaunchContext) -> list[Any]:
        refuse_unknown(launch_file, names, sys.argv)
        return start(Given({n: LaunchConfiguration(n).perform(context) for n in names}))

    buffered = SetEnvironmentVariable("RCUTILS_LOGGING_BUFFERED_STREAM", "1")
    return LaunchDescription([buffered, *declared, OpaqueFunction(function=begin)])


def refuse_unknown(launch_file: str, names: Sequence[str], command: Sequence[str]) -> None:
    """Refuses arguments that the launch file does not declare; launch would ignore them.

    Only what was typed for this very file counts: a file that includes it has arguments of its
    own.
    """
    if Path(launch_file).name not in (Path(word).name for word in command):
        return
    for name in (word.split(":=")[0] for word in command if ":=" in word):
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise RuntimeError(f"'{name}' is not an argument; the nearest valid name is '{near}'")


def grouped(given: Given, actions: Sequence[Any]) -> GroupAction:
    """Actions in the given namespace and on the given clock."""
    sim_time = SetParameter("use_sim_time", given.truth("use_sim_time"))
    return GroupAction([PushROSNamespace(given["namespace"]), sim_time, *actions])


def estimator(given: Given, extra: Mapping[str, Any] | None = None) -> LifecycleNode:
    """The estimator, which configures and activates itself unless told otherwise.

    Args:
        given: The common arguments.
        extra: Further parameters that win over the file.
    """
    file = given.file("params_file")
    parameters = {**_overrides(given), **(extra or {})}
    return LifecycleNode(
        **_node(given, "estimator_node", "dnls_estimator"),
        parameters=_sections(given, file, "dnls_estimator", parameters),
        cwd=str(file.parent),  # where files that the parameters name are looked for
    )


def front_end(
    given: Given,
    topics: Sequence[tuple[str, str]],
    parameters: Mapping[str, Any],
    name: str = "landmark_frontend",
) -> LifecycleNode:
    """A front end, which configures and activates itself unless told otherwise.

    Args:
        given: The common arguments.
        topics: What it reads, by its own names for them.
        parameters: Its parameters; they win over a section of its name in the file.
        name: ``landmark_frontend`` or ``tactile_frontend``.
    """
    file = given.file("params_file")
    node = _node(given, f"{name}_node", name)
    node["remappings"] = [*node["remappings"], *topics]
    chosen = {**_autostart(given), **parameters}
    sections = _sections(given, file, name, chosen)
    return LifecycleNode(**node, parameters=sections, cwd=str(file.parent))


def plain_node(
    given: Given, executable: str, name: str, parameters: Mapping[str, Any], cwd: str = ""
) -> Node:
    """One of our nodes that has no lifecycle."""
    more = {"cwd": cwd} if cwd else {}
    return Node(**_node(given, executable, name), parameters=[dict(parameters)], **more)


def _node(given: Given, executable: str, name: str) -> dict[str, Any]:
    """What all our nodes have in common."""
    return {
        "package": PACKAGE,
        "executable": executable,
        "name": name,
        "namespace": "",
        "output": "screen",
        "remappings": [("/tf", "tf"), ("/tf_static", "tf_static")],
        "arguments": ["--ros-args", "--log-level", given["log_level"]],
        "respawn": "use_respawn" in given and given.truth("use_respawn"),
        "respawn_delay": RESPAWN_DELAY,
    }


def companions(given: Given) -> list[Node]:
    """What is started beside the estimator when it is asked for: RViz, Foxglove, the recorder."""
    started: list[Node] = []
    tf = [("/tf", "tf"), ("/tf_static", "tf_static")]
    if given.truth("rviz"):
        layout = ["-d", str(given.file("rviz_config"))]
        started.append(Node(package="rviz2", executable="rviz2", arguments=layout, remappings=tf))
    if given.truth("foxglove"):
        started.append(Node(package="foxglove_bridge", executable="foxglove_bridge"))
    if "record" in given and given.truth("record"):
        folder = {"output_dir": given["output_dir"]} if given["output_dir"] else {}
        sections = _sections(given, given.file("params_file"), "dnls_recorder", folder)
        node = _node(given, "recorder_node", "dnls_recorder")
        started.append(Node(**node, parameters=sections))
    return started


def _overrides(given: Given) -> dict[str, Any]:
    """Parameters that were given as launch arguments."""
    found: dict[str, Any] = {n: given[n] for n in ("device", "output_dir") if given[n]}
    if given.truth("use_sim_time"):
        found["use_sim_time"] = True
    return found | _autostart(given)


def _autostart(given: Given) -> dict[str, bool]:
    """Whether a node starts itself, where that was given; what a manager starts does not."""
    if given.truth("use_lifecycle_manager"):
        return {"autostart": False}
    return {"autostart": given.truth("autostart")} if given["autostart"] else {}


def _sections(
    given: Given, file: Path, node: str, parameters: Mapping[str, Any]
) -> list[ParameterFile]:
    """A node's parameters by the file, and those that win over it.

    The latter go under the node's own name: launch would write them for every node (``/**``), and
    since use_sim_time is given that way before, ROS takes the file's for the later ones.
    """
    files = [for_namespace(file, given["namespace"])]
    if parameters:
        name = "/".join(filter(None, ["", given["namespace"].strip("/"), node]))
        handle, own = tempfile.mkstemp(prefix="dnls_params_", suffix=".yaml")
        with open(handle, "w", encoding="utf-8") as target:
            target.write(write_yaml({name: {"ros__parameters": dict(parameters)}}))
        files.append(own)
    return [ParameterFile(one) for one in files]


def for_namespace(file: Path, namespace: str) -> str:
    """The file, or a copy whose sections are those of the nodes in ``namespace``.

    ROS matches a section ``dnls_estimator`` only with a node in the root namespace. Sections with
    a full name (``/**``, ``/robot1/dnls_estimator``) stay as they are.
    """
    text = file.read_text(encoding="utf-8")
    names = [line for line in text.splitlines() if line[:1] not in ("", " ", "#", "-")]
    if not namespace.strip("/") or any(name.lstrip("'\"").startswith("/") for name in names):
        return str(file)
    handle, copy = tempfile.mkstemp(prefix="dnls_params_", suffix=".yaml")
    with open(handle, "w", encoding="utf-8") as target:
        target.write(f"/{namespace.strip('/')}:\n" + textwrap.indent(text, "  "))
    return copy
