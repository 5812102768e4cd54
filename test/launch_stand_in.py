"""Executes our launch files where ROS's ``launch`` is not installed (Python wheels have none).

    python test/launch_stand_in.py FILE [name:=value …]

It puts modules named ``launch`` and ``launch_ros`` in the place of the real ones, with the few
classes that our files use, runs the file, starts the processes that it declares and ends with
them. So a test can see that the files run, that arguments arrive as parameters, names and
namespaces, and that the nodes take the command line that they are given.

It does NOT prove that real launch would do the same: its substitutions, its scopes (here a group
keeps namespace and parameters to itself, and launch configurations are global), its way to find an
executable in an ament index (here: ``scripts/``), its writing of parameter files, lifecycle
transitions, shutting down by SIGINT then SIGTERM then SIGKILL, or ``ros2 launch`` itself. Where
``launch_ros`` is installed, ``test_launch.py`` uses that instead.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@dataclass
class LaunchContext:
    """What actions know: configurations, environment, and what the groups around them set."""

    configurations: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    namespace: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    handlers: list[OnProcessExit] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    ending: bool = False


class LaunchDescription:
    def __init__(self, entities: Iterable[Any] = ()) -> None:
        self.entities = list(entities)


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: str | None = None
    description: str = ""
    choices: Sequence[str] | None = None

    def execute(self, context: LaunchContext) -> None:
        value = context.configurations.get(self.name, self.default_value)
        if value is None:
            raise RuntimeError(f"argument '{self.name}' is required")
        if self.choices is not None and value not in self.choices:
            text = f'Argument "{self.name}" provided value "{value}" is not valid'
            raise RuntimeError(f"{text}. Valid options are: {self.choices}")
        context.configurations[self.name] = value


@dataclass
class LaunchConfiguration:
    name: str

    def perform(self, context: LaunchContext) -> str:
        return context.configurations[self.name]


@dataclass
class SetEnvironmentVariable:
    name: str
    value: str

    def execute(self, context: LaunchContext) -> None:
        context.environment[self.name] = self.value


@dataclass
class OpaqueFunction:
    function: Callable[[LaunchContext], list[Any] | None]

    def execute(self, context: LaunchContext) -> None:
        visit(self.function(context) or [], context)


@dataclass
class GroupAction:
    actions: Sequence[Any]

    def execute(self, context: LaunchContext) -> None:
        kept = context.namespace, dict(context.parameters)
        visit(self.actions, context)
        context.namespace, context.parameters = kept


@dataclass
class PushROSNamespace:
    namespace: str

    def execute(self, context: LaunchContext) -> None:
        below = self.namespace.strip("/")
        if below:
            context.namespace = f"{context.namespace}/{below}"


@dataclass
class SetParameter:
    name: str
    value: Any

    def execute(self, context: LaunchContext) -> None:
        context.parameters[self.name] = self.value


@dataclass
class ParameterFile:
    param_file: str


@dataclass(eq=False)
class ExecuteProcess:
    cmd: Sequence[str]
    output: str = "log"
    cwd: str | None = None
    respawn: bool = False
    respawn_delay: float = 0.0

    def execute(self, context: LaunchContext) -> None:
        start(self, Path(self.cmd[0]).name, list(self.cmd), context)


@dataclass(eq=False, kw_only=True)
class Node:
    package: str
    executable: str
    name: str = ""
    namespace: str = ""
    output: str = "log"
    parameters: Sequence[Any] = ()
    remappings: Sequence[tuple[str, str]] = ()
    arguments: Sequence[str] = ()
    cwd: str | None = None
    respawn: bool = False
    respawn_delay: float = 0.0

    def execute(self, context: LaunchContext) -> None:
        if self.package != "dnls_ros":
            raise RuntimeError(f"package '{self.package}' not found")
        command = [str(SCRIPTS / self.executable), *self.arguments, "--ros-args"]
        if self.name:
            command += ["-r", f"__node:={self.name}"]
        if context.namespace:
            command += ["-r", f"__ns:={context.namespace}"]
        for name, value in context.parameters.items():
            command += ["-p", f"{name}:={yaml.safe_dump(value).splitlines()[0]}"]
        for one in self.parameters:
            command += ["--params-file", _parameter_file(one)]
        for one, other in self.remappings:
            command += ["-r", f"{one}:={other}"]
        start(self, self.executable, command, context)


class LifecycleNode(Node):
    pass


@dataclass
class OnProcessExit:
    target_action: Any
    on_exit: Sequence[Any]


@dataclass
class RegisterEventHandler:
    event_handler: OnProcessExit

    def execute(self, context: LaunchContext) -> None:
        context.handlers.append(self.event_handler)


class Shutdown:
    pass


@dataclass
class EmitEvent:
    event: Shutdown

    def execute(self, context: LaunchContext) -> None:
        end(context)


@dataclass
class Running:
    """A process that was started, and the action that wanted it."""

    action: Any
    label: str
    process: subprocess.Popen[str]
    reader: threading.Thread


def _parameter_file(one: ParameterFile | dict[str, Any]) -> str:
    """The path of a file, written for parameters that are given directly."""
    if isinstance(one, ParameterFile):
        return one.param_file
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump({"/**": {"ros__parameters": dict(one)}}, file)
    return file.name


def visit(entities: Iterable[Any], context: LaunchContext) -> None:
    """Executes entities in order; everything but a process is over at once."""
    for entity in entities:
        entity.execute(context)


def start(action: Any, name: str, command: list[str], context: LaunchContext) -> None:
    """Starts a process whose output is passed on, line by line."""
    label = f"{name}-{len(context.running) + 1}"
    folder = Path(sys.executable).parent  # the scripts take the interpreter of the path
    path = os.pathsep.join([str(folder), context.environment["PATH"]])
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=action.cwd,
        env={**context.environment, "PATH": path},
    )
    print(f"[INFO] [{label}]: process started with pid [{process.pid}]", flush=True)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"[{label}] {line.rstrip()}", flush=True)

    reader = threading.Thread(target=read)
    reader.start()
    context.running.append(Running(action, label, process, reader))


def end(context: LaunchContext) -> None:
    """Asks every process to end."""
    context.ending = True
    for one in context.running:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGINT)


def wait(context: LaunchContext) -> None:
    """Until every process has ended and nothing starts another one."""
    while context.running:
        for one in [r for r in context.running if r.process.poll() is not None]:
            one.reader.join()
            context.running.remove(one)
            code = one.process.returncode
            fate = f"has died [exit code {code}]" if code else "has finished cleanly"
            print(f"[{'ERROR' if code else 'INFO'}] [{one.label}]: process {fate}", flush=True)
            for handler in context.handlers:
                if handler.target_action is one.action and not context.ending:
                    visit(handler.on_exit, context)
            if one.action.respawn and not context.ending:
                time.sleep(one.action.respawn_delay)
                one.action.execute(context)
        time.sleep(0.02)


def install() -> None:
    """Puts the stand-ins where launch files import from."""
    places = {
        "launch": (LaunchDescription, LaunchContext),
        "launch.actions": (
            *(DeclareLaunchArgument, EmitEvent, ExecuteProcess, GroupAction, OpaqueFunction),
            *(RegisterEventHandler, SetEnvironmentVariable),
        ),
        "launch.event_handlers": (OnProcessExit,),
        "launch.events": (Shutdown,),
        "launch.substitutions": (LaunchConfiguration,),
        "launch_ros": (),
        "launch_ros.actions": (LifecycleNode, Node, PushROSNamespace, SetParameter),
        "launch_ros.parameter_descriptions": (ParameterFile,),
    }
    for name, classes in places.items():
        module = types.ModuleType(name)
        for one in classes:
            setattr(module, one.__name__, one)
        sys.modules[name] = module


def load(file: Path) -> LaunchDescription:
    """The description that a launch file gives."""
    description = runpy.run_path(str(file))["generate_launch_description"]()
    assert isinstance(description, LaunchDescription)
    return description


def main(arguments: Sequence[str]) -> int:
    """Runs one launch file; 1 if it cannot be started, like ``ros2 launch``."""
    install()
    file, *given = arguments
    context = LaunchContext(dict(one.split(":=", 1) for one in given))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end(context))
    try:
        visit(load(Path(file)).entities, context)
    except RuntimeError as error:
        print(f"[ERROR] [launch]: {error}", flush=True)
        end(context)
        wait(context)
        return 1
    wait(context)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
