"""The table of parameters as ROS parameters of the node.

Overrides (files and ``-p``) reach the node undeclared; they are read, checked by the table, and
then every row is declared with its description and the value in use, so that ``ros2 param list``
shows all of it. What was never given stays a default: after a change and a new configure, values
that depend on it follow.
"""

from __future__ import annotations

import array
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.parameter_table import Row
from dnls_ros.window.parameters import ROS_OWN, declared, load_parameters

_ARRAY_TYPES = {
    "double[]": Parameter.Type.DOUBLE_ARRAY,
    "string[]": Parameter.Type.STRING_ARRAY,
}


class TableParameters:
    """The node's parameters, what was given of them, and when they may change."""

    def __init__(self, node: Node) -> None:
        """Takes note of the overrides and watches later changes."""
        self._node = node
        self._given = {name for name in node.get_parameters_by_prefix("") if not _is_ros_own(name)}
        self._declaring = False
        self.locked = False
        node.add_on_set_parameters_callback(self._may_set)
        node.add_post_set_parameters_callback(self._was_set)

    def load(self) -> EstimatorConfig:
        """Checks what was given and declares the rest; DnlsError lists every problem."""
        values = {name: _plain(self._node.get_parameter(name).value) for name in self._given}
        config = load_parameters(values, self._node.get_name())
        self._declaring = True
        for declaration in declared(config):
            self._declare(declaration.name, declaration.value, declaration.row)
        self._declaring = False
        return config

    def _declare(self, name: str, value: Any, row: Row) -> None:
        """One row as a ROS parameter; one that was given keeps its value."""
        descriptor = ParameterDescriptor(
            description=row.meaning + (f" [{row.unit}]" if row.unit else ""),
            additional_constraints=_constraints(row),
            dynamic_typing=True,
        )
        if self._node.has_parameter(name):
            if name not in self._given:
                self._node.set_parameters([_parameter(name, value, row)])
            self._node.set_descriptor(name, descriptor)
            return
        self._node.declare_parameter(name, _parameter(name, value, row).value, descriptor)

    def _may_set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Refuses changes while the estimator runs."""
        names = [p.name for p in parameters if not _is_ros_own(p.name)]
        if self.locked and names:
            text = (
                f"{', '.join(names)}: set while inactive; a change counts from the next configure"
            )
            return SetParametersResult(successful=False, reason=text)
        return SetParametersResult(successful=True)

    def _was_set(self, parameters: list[Parameter]) -> None:
        """A parameter that was set is given from now on."""
        if not self._declaring:
            self._given |= {p.name for p in parameters if not _is_ros_own(p.name)}


def _is_ros_own(name: str) -> bool:
    """Whether rclpy itself declares the parameter."""
    return name.split(".")[0] in ROS_OWN


def _plain(value: Any) -> Any:
    """Arrays as lists."""
    return value.tolist() if isinstance(value, array.array) else value


def _parameter(name: str, value: Any, row: Row) -> Parameter:
    """A value with its ROS type, which an empty list cannot tell."""
    if row.type in _ARRAY_TYPES:
        return Parameter(name, _ARRAY_TYPES[row.type], value)
    return Parameter(name, value=value)


def _constraints(row: Row) -> str:
    """The row's range and words, for ``ros2 param describe``."""
    parts = [str(row.range)] if row.range else []
    parts += [f"one of {', '.join(word for word in row.choices if word)}"] if row.choices else []
    return "; ".join(parts)
