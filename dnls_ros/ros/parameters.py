"""The table of parameters as ROS parameters of the node.

Overrides (files and ``-p``) reach the node undeclared; they are read, checked by the table, and
then every row is declared with its description and the value in use, so that ``ros2 param list``
shows all of it. What was never given stays a default: after a change and a new configure, values
that depend on it follow.

A value that is wrong on its own is refused at any time. While the node is active only dynamic
parameters may change: those of one request are checked together with all others and handed to the
running estimator, which takes all of them or none. While it is inactive the others may change too;
they count from the next configure, where what they must satisfy together is checked.
"""

from __future__ import annotations

import array
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterNotDeclaredException
from rclpy.node import Node
from rclpy.parameter import Parameter

from dnls_ros.errors import DnlsError
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.parameter_changes import INACTIVE_ONLY, apply_changes, problem_of, row_of
from dnls_ros.window.parameter_table import NODE, Row
from dnls_ros.window.parameters import ROS_OWN, declared, flat, load_parameters

_ARRAY_TYPES = {
    "int[]": Parameter.Type.INTEGER_ARRAY,
    "double[]": Parameter.Type.DOUBLE_ARRAY,
    "string[]": Parameter.Type.STRING_ARRAY,
}


class Applied(Protocol):
    """What became of a configuration that was handed over."""

    @property
    def success(self) -> bool:
        """Whether it is in use; otherwise nothing has changed."""
        ...

    @property
    def message(self) -> str:
        """Why not."""
        ...


class RefusedParameterError(ParameterNotDeclaredException):
    """A parameter that does not exist, or a value that its row does not allow.

    rclpy's parameter services answer this exception with its text. It is raised before rclpy looks
    at the request itself, whose own words name neither the nearest parameter nor the unit.
    """

    def __init__(self, reason: str) -> None:
        Exception.__init__(self, reason)


class TableNode(Node):
    """A node whose parameter files may hold empty lists.

    ROS reads ``[]`` as a value without a type, and rclpy's Node ends with an exception when it is
    told to declare one. Such overrides are set aside, for the table to say what they mean.
    """

    def declare_parameters(
        self, namespace: str, parameters: Sequence[Any], ignore_override: bool = False
    ) -> list[Parameter]:
        """Declares those that have a value."""
        empty = {p[0] for p in parameters if len(p) > 1 and p[1] is None}
        self.empty_lists: frozenset[str] = getattr(self, "empty_lists", frozenset()) | empty
        typed = [p for p in parameters if p[0] not in empty]
        return super().declare_parameters(namespace, typed, ignore_override)


class TableParameters:
    """The node's parameters, what was given of them, and when they may change.

    Attributes:
        locked: Whether the node is active: then only dynamic parameters change.
        apply: Hands a changed configuration to the running estimator and waits for its answer;
            None while there is no estimator.
    """

    def __init__(self, node: TableNode) -> None:
        """Takes note of the overrides and watches later changes."""
        self._node = node
        self._given = {name for name in node.get_parameters_by_prefix("") if not _is_ros_own(name)}
        self._own_change = False
        self._config: EstimatorConfig | None = None
        self._following: list[Parameter] = []
        self.locked = False
        self.apply: Callable[[EstimatorConfig], Applied] | None = None
        node.add_pre_set_parameters_callback(self._look_at)
        node.add_on_set_parameters_callback(self._may_set)
        node.add_post_set_parameters_callback(self._was_set)

    def load(self) -> EstimatorConfig:
        """Checks what was given and declares the rest; DnlsError lists every problem."""
        values: dict[str, Any] = {name: [] for name in self._node.empty_lists}
        values |= {name: plain_value(self._node.get_parameter(name).value) for name in self._given}
        config = load_parameters(values, self._node.get_name())
        self._own_change = True
        try:
            for declaration in declared(config):
                self._declare(declaration.name, declaration.value, declaration.row)
        finally:
            self._own_change = False
        self._config = config
        return config

    def adopt(self, config: EstimatorConfig) -> None:
        """Shows what was changed by other means than parameters (a service) as given.

        To be called where parameters are set: in the executor's thread.
        """
        changed = self._differences(config)
        self._config = config
        self._given |= {parameter.name for parameter in changed}
        self._set(changed)

    def _differences(self, config: EstimatorConfig) -> list[Parameter]:
        """The parameters that another configuration would change."""
        before = flat(self._config) if self._config is not None else {}
        return [
            typed_parameter(d.name, d.value, d.row)
            for d in declared(config)
            if before.get(d.name) != d.value
        ]

    def _set(self, parameters: list[Parameter]) -> None:
        """Shows values that are in use already."""
        self._own_change = True
        try:
            self._node.set_parameters(parameters)
        finally:
            self._own_change = False

    def _declare(self, name: str, value: Any, row: Row) -> None:
        """One row as a ROS parameter; one that was given keeps its value."""
        descriptor = descriptor_of(row)
        if self._node.has_parameter(name):
            if name not in self._given:
                self._node.set_parameters([typed_parameter(name, value, row)])
            self._node.set_descriptor(name, descriptor)
            return
        self._node.declare_parameter(name, value, descriptor, ignore_override=True)

    def _look_at(self, parameters: list[Parameter]) -> list[Parameter]:
        """Refuses names that do not exist and values that are wrong on their own."""
        asked = [
            p for p in parameters if not _is_ros_own(p.name) and p.type_ != Parameter.Type.NOT_SET
        ]
        if asked and not self._own_change:
            present = self._node.list_parameters([], 0).names
            valid = {*(n for n in present if row_of(n)), *(row.name for row in NODE)}
            wrong = filter(None, (self._problem(p, valid) for p in asked))
            if text := "; ".join(wrong):
                raise RefusedParameterError(text)
        return parameters

    def _problem(self, parameter: Parameter, valid: set[str]) -> str:
        """What is wrong with one parameter on its own; '' if nothing."""
        name = parameter.name
        if row_of(name) is not None and not self._node.has_parameter(name):
            return f"{name}: is not declared now; give it in the parameter file, then configure"
        return problem_of(name, plain_value(parameter.value), valid)

    def _may_set(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        """Refuses what may not change now; hands dynamic changes to the running estimator."""
        own = [p for p in parameters if not _is_ros_own(p.name) and not self._is_held(p)]
        if self._own_change or not own:
            return SetParametersResult(successful=True)
        fixed = [p.name for p in own if p.type_ == Parameter.Type.NOT_SET or not _is_dynamic(p)]
        if self.locked and fixed:
            return _refusal(f"{', '.join(fixed)}: {INACTIVE_ONLY}")
        changes = {p.name: plain_value(p.value) for p in own if p.name not in fixed}
        return self._apply_now(changes) if changes else SetParametersResult(successful=True)

    def _is_held(self, parameter: Parameter) -> bool:
        """Whether a parameter has this value already."""
        if not self._node.has_parameter(parameter.name):
            return False
        held = self._node.get_parameter(parameter.name)
        same_type = held.type_ == parameter.type_
        return same_type and plain_value(held.value) == plain_value(parameter.value)

    def _apply_now(self, changes: dict[str, Any]) -> SetParametersResult:
        """Dynamic changes, all or none; without an estimator they wait for the next configure."""
        if self.apply is None or self._config is None:
            if self.locked:
                return _refusal(f"{', '.join(changes)}: there is no estimator; {INACTIVE_ONLY}")
            return SetParametersResult(successful=True)
        try:
            free = flat(self._config).keys() - self._given - changes.keys()
            config = apply_changes(self._config, changes, free)
        except DnlsError as error:
            return _refusal(str(error))
        applied = self.apply(config)
        if not applied.success:
            return _refusal(applied.message)
        self._following = [p for p in self._differences(config) if p.name not in changes]
        self._config = config
        return SetParametersResult(successful=True)

    def _was_set(self, parameters: Sequence[Parameter]) -> None:
        """A parameter that was set is given from now on; one that was deleted no longer is."""
        if self._own_change:
            return
        for parameter in parameters:
            if parameter.type_ == Parameter.Type.NOT_SET:
                self._given.discard(parameter.name)
            elif not _is_ros_own(parameter.name):
                self._given.add(parameter.name)
        following, self._following = self._following, []
        if following:
            self._set(following)


def _is_ros_own(name: str) -> bool:
    """Whether rclpy itself declares the parameter."""
    return name.split(".")[0] in ROS_OWN


def _is_dynamic(parameter: Parameter) -> bool:
    """Whether the parameter may change while the node is active."""
    row = row_of(parameter.name)
    return row is not None and row.dynamic


def _refusal(reason: str) -> SetParametersResult:
    """An answer that says why not."""
    return SetParametersResult(successful=False, reason=reason)


def plain_value(value: Any) -> Any:
    """Arrays as lists."""
    return value.tolist() if isinstance(value, array.array) else value


def typed_parameter(name: str, value: Any, row: Row) -> Parameter:
    """A value with its ROS type, which an empty list cannot tell."""
    if row.type in _ARRAY_TYPES:
        return Parameter(name, _ARRAY_TYPES[row.type], value)
    return Parameter(name, value=value)


def descriptor_of(row: Row) -> ParameterDescriptor:
    """A row for ``ros2 param describe`` and for the sliders of a GUI."""
    descriptor = ParameterDescriptor(
        description=row.meaning + (f" [{row.unit}]" if row.unit else ""),
        additional_constraints=_constraints(row),
        dynamic_typing=True,  # an integer is a number as well
    )
    span = row.range
    if span is not None and math.isfinite(span.low) and math.isfinite(span.high):
        if row.type == "int":
            ends = {"from_value": int(span.low), "to_value": int(span.high)}
            descriptor.integer_range = [IntegerRange(**ends)]
        elif row.type == "double":
            ends = {"from_value": float(span.low), "to_value": float(span.high)}
            descriptor.floating_point_range = [FloatingPointRange(**ends)]
    return descriptor


def _constraints(row: Row) -> str:
    """The row's range and words, and when it may change."""
    parts = [str(row.range)] if row.range else []
    parts += [f"one of {', '.join(word for word in row.choices if word)}"] if row.choices else []
    return "; ".join([*parts, "dynamic" if row.dynamic else "set while inactive"])
