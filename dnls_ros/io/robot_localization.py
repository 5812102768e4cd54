"""Parameter files of robot_localization, read as they are: one set of values per filter.

Both layouts are read: ROS 2 (``node: ros__parameters: …``) and ROS 1 (``node: …`` or the values
alone). A file may hold several filters; sections of other nodes are named, not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnls_ros.errors import DnlsError
from dnls_ros.window.parameter_file import SECTION, flatten, read_file

INPUT = re.compile(r"(odom|pose|twist|imu)(\d+)")
"""Parameters that name an input's topic."""
INPUT_OPTION = re.compile(r"(odom|pose|twist|imu)(\d+)_(\w+)")
"""Parameters of an input."""
STATE = (
    *("x", "y", "z", "roll", "pitch", "yaw"),
    *("vx", "vy", "vz", "vroll", "vpitch", "vyaw"),
    *("ax", "ay", "az"),
)
"""What a filter estimates, in its order."""


@dataclass(frozen=True)
class Input:
    """One input of a filter.

    Attributes:
        name: Such as ``odom0``.
        kind: odom, pose, twist or imu.
        topic: As the file spells it.
        axes: Those of ``STATE`` that its ``_config`` switches on.
        options: The other parameters, without the input's name.
    """

    name: str
    kind: str
    topic: str
    axes: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Filter:
    """One EKF or UKF: its node's name ('' if the file has no sections), values and inputs."""

    node: str
    values: Mapping[str, Any]
    inputs: tuple[Input, ...]


def read_filters(path: Path) -> tuple[tuple[Filter, ...], tuple[str, ...]]:
    """The filters of a file, and the names of sections that are none.

    Raises:
        UnreadableInputError: The file is missing.
        DnlsError: It is not YAML, holds no filter, or an input is not described as it should be.
    """
    sections = dict(_sections(read_file(path), ""))
    shared: dict[str, Any] = {}
    for name in [name for name in sections if name.lstrip("/") in ("**", "*")]:
        shared |= sections[name]
        if len(sections) > 1:
            del sections[name]
    merged = {name: {**shared, **values} for name, values in sections.items()}
    filters = [name for name, values in merged.items() if any(map(INPUT.fullmatch, values))]
    if not filters:
        found = ", ".join(f"'{name}'" for name in merged if name) or "none"
        raise DnlsError(
            f"{path} has no filter of robot_localization: no section names an input (odom0, "
            f"pose0, twist0, imu0); sections found: {found}"
        )
    others = tuple(name for name in merged if name not in filters)
    return tuple(_filter(name, merged[name]) for name in filters), others


def _sections(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node's name and values: under ``ros__parameters``, or where values lie plainly."""
    if SECTION in content:
        yield prefix, flatten(content[SECTION] or {})
        return
    plain = {k: v for k, v in content.items() if not isinstance(v, Mapping)}
    if plain:
        yield prefix, flatten(content)
        return
    for name, value in content.items():
        yield from _sections(value, f"{prefix}/{name}".strip("/"))


def _filter(node: str, values: Mapping[str, Any]) -> Filter:
    """Sorts inputs from the filter's own values."""
    names = sorted(filter(INPUT.fullmatch, values), key=_order)
    options: dict[str, dict[str, Any]] = {name: {} for name in names}
    own: dict[str, Any] = {}
    for name, value in values.items():
        found = INPUT_OPTION.fullmatch(name)
        if found and f"{found[1]}{found[2]}" in options:
            options[f"{found[1]}{found[2]}"][found[3]] = value
        elif name not in options:
            own[name] = value
    return Filter(node, own, tuple(_input(name, values[name], options[name]) for name in names))


def _order(name: str) -> tuple[int, int]:
    """Inputs of a kind stay together: odom, pose, twist, imu."""
    kind, number = INPUT.fullmatch(name).groups()  # type: ignore[union-attr]
    return ("odom", "pose", "twist", "imu").index(kind), int(number)


def _input(name: str, topic: Any, options: dict[str, Any]) -> Input:
    """One input; DnlsError if its topic is no text or its ``_config`` not 15 truth values."""
    if not isinstance(topic, str) or not topic:
        raise DnlsError(f"{name}: got {topic!r}; expected the name of a topic")
    chosen = options.pop("config", None)
    if not (
        isinstance(chosen, list)
        and len(chosen) == len(STATE)
        and all(isinstance(one, bool) for one in chosen)
    ):
        text = "is missing" if chosen is None else f"is {chosen!r}"
        raise DnlsError(f"{name}_config {text}; expected 15 times true or false")
    axes = tuple(axis for axis, on in zip(STATE, chosen, strict=True) if on)
    return Input(name, name.rstrip("0123456789"), topic, axes, options)
