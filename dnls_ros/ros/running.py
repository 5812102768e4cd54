"""A plain node's life: from its parameters to SIGINT, SIGTERM or its own end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.ros.spin import spin_until
from dnls_ros.ros.stopping import stop_on_signals
from dnls_ros.window.parameters import ROS_OWN

OK, FAILED, MISCONFIGURED, UNREADABLE = 0, 1, 2, 3
"""Exit codes of the nodes: those of the command line."""


def exit_code_of(error: Exception) -> int:
    """The exit code for what ended a node."""
    if isinstance(error, UnreadableInputError):
        return UNREADABLE
    return MISCONFIGURED if isinstance(error, DnlsError) else FAILED


@dataclass(frozen=True)
class Setting:
    """A parameter of a plain node: its default, which gives its type too, and its meaning."""

    default: bool | float | str | tuple[str, ...]
    meaning: str

    def read(self, value: Any) -> Any:
        """A value of the default's type; whole numbers count as numbers. None if it is not."""
        if isinstance(self.default, tuple):
            texts = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
            return tuple(value) if texts else None
        if isinstance(self.default, bool | str):
            return value if type(value) is type(self.default) else None
        return float(value) if type(value) in (int, float) else None

    @property
    def kind(self) -> str:
        """The type's name for a user."""
        names: dict[type, str] = {bool: "true or false", str: "a string", float: "a number"}
        return names.get(type(self.default), "a list of strings")


class Settings:
    """The parameters of a node that has few of them: declared, checked, read by name."""

    def __init__(self, node: Node, table: Mapping[str, Setting]) -> None:
        """Declares what was not given."""
        self._node = node
        self._table = table
        for name, setting in table.items():
            if not node.has_parameter(name):
                default = setting.default
                value = list(default) if isinstance(default, tuple) else default
                node.declare_parameter(
                    name, value, ParameterDescriptor(description=setting.meaning)
                )

    def check(self) -> None:
        """DnlsError for a parameter that is unknown or of a wrong type."""
        table, name = self._table, self._node.get_name()
        given = [n for n in self._node.get_parameters_by_prefix("") if not n.startswith(ROS_OWN)]
        for unknown in (one for one in given if one not in table):
            near = get_close_matches(unknown, table, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(table)}"
            raise DnlsError(f"{unknown}: is not a parameter of {name}; {hint}")
        for one in table:
            self.read(one)

    def read(self, name: str) -> Any:
        """A parameter's value, of its default's type; DnlsError if it is of another."""
        value = self._node.get_parameter(name).value
        read = self._table[name].read(value)
        if read is None:
            raise DnlsError(f"{name}: got {value!r}; expected {self._table[name].kind}")
        return read


class PlainNode(Node):
    """A node that may end by itself.

    Attributes:
        exit_code: What the process ends with.
        ended: Set when the node has nothing more to do.
    """

    def __init__(
        self, name: str, settings: Mapping[str, Setting], *, sim_time: bool = False
    ) -> None:
        """Creates it and declares its parameters; ``sim_time``: what use_sim_time is by default.

        Raises:
            DnlsError: One is unknown or of a wrong type.
        """
        super().__init__(
            name,
            automatically_declare_parameters_from_overrides=True,
            parameter_overrides=[Parameter("use_sim_time", value=True)] if sim_time else [],
        )
        self.exit_code = OK
        self.ended = threading.Event()
        self._settings = Settings(self, settings)
        self._settings.check()

    def setting(self, name: str) -> Any:
        """A parameter's value, of its default's type; DnlsError if it is of another."""
        return self._settings.read(name)

    def end(self, code: int) -> None:
        """Ends the process, from whatever thread."""
        self.exit_code = code
        self.ended.set()

    def stop(self) -> None:
        """Ends the node's threads; called once, while the context still stands."""


def run_node(
    make: Callable[[], PlainNode],
    make_executor: Callable[[], Executor],
    args: Sequence[str] | None = None,
) -> int:
    """Runs a node until a signal or its own end; returns the exit code.

    Args:
        make: Creates it; a DnlsError or a value that ROS refuses is a wrong configuration.
        make_executor: Creates what spins it.
        args: Of the command line; None = the process's.
    """
    stop = stop_on_signals()
    try:
        rclpy.init(
            args=list(args) if args else None, signal_handler_options=SignalHandlerOptions.NO
        )
        node = make()
    except Exception as error:  # rclpy has no one class for parameters that it cannot take
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return exit_code_of(error) if isinstance(error, DnlsError) else MISCONFIGURED
    executor = make_executor()
    executor.add_node(node)
    try:
        spin_until(executor, stop, node.ended)
        return node.exit_code
    finally:
        node.stop()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
