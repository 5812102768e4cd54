"""ROS parameter files: a section per node, nested or dotted names, numbers as ROS reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

from dnls_ros.errors import DnlsError, UnreadableInputError

SECTION = "ros__parameters"


class ProblemSink(Protocol):
    """Takes one problem: the parameter's name and what is wrong with it."""

    def add(self, name: str, text: str) -> None:
        """Notes one problem."""
        ...


class _RosLoader(yaml.SafeLoader):
    """YAML in which ``1e-5`` is a number, as in ROS, and a key given twice is an error.

    So is a bare ``y`` or ``n``, which ROS reads as true or false.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are all different."""
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"'{key}' is given twice", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)


_RosLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _refuse_bare(loader: yaml.SafeLoader, node: yaml.Node) -> None:
    """A letter that ROS takes for a truth value."""
    text = f"ROS reads {node.value} as a truth value; write '{node.value}'"
    raise yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)


class _RosDumper(yaml.SafeDumper):
    """YAML in which the texts ``y`` and ``n`` are quoted."""


_BARE = "tag:dnls,bare"
for _kind in (_RosLoader, _RosDumper):
    _kind.add_implicit_resolver(_BARE, re.compile(r"^[yYnN]$"), list("yYnN"))
_RosLoader.add_constructor(_BARE, _refuse_bare)


def write_yaml(content: Any, **style: Any) -> str:
    """YAML that ROS reads as it is meant; ``style`` as ``yaml.dump`` takes it."""
    return yaml.dump(content, Dumper=_RosDumper, **style)


def yaml_value(value: Any) -> str:
    """A value on one line of a parameter file."""
    text = write_yaml(value, default_flow_style=True, width=1000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def read_file(path: Path) -> dict[str, Any]:
    """The content of a YAML parameter file; DnlsError when it is missing or not a mapping."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_RosLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableInputError(f"parameter file '{path}' cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise DnlsError(f"parameter file '{path}' is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise DnlsError(
            f"parameter file '{path}' holds a {kind}; expected 'node_name: {{{SECTION}: …}}'"
        )
    return content  # type: ignore[return-value]


def ros_parameters(content: Mapping[str, Any], node: str) -> dict[str, Any]:
    """One node's parameters: ``/**`` first, its section over it; without sections all."""
    sections = dict(_sections(content, ""))
    if not sections:
        return dict(content)
    wanted = [name for name in sections if _matches(name, node)]
    if not wanted:
        raise DnlsError(
            f"no section for node '{node}'; the file has {sorted(sections)}; name one '/**'"
        )
    merged: dict[str, Any] = {}
    for name in sorted(wanted, key=lambda name: "*" not in name):
        merged.update(flatten(sections[name] or {}))
    return merged


def _sections(content: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """Node names and their parameters, at any depth (``namespace: node: ros__parameters``)."""
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{prefix}/{key}".replace("//", "/")
        if isinstance(value, Mapping) and SECTION in value:
            found.append((name, value[SECTION]))
        elif isinstance(value, Mapping):
            found += _sections(value, name)  # type: ignore[arg-type]
    return found


def _matches(section: str, node: str) -> bool:
    """Whether a section speaks to a node: ``/node``, ``/space/node``, ``/**``, ``/**/node``."""
    last = section.rsplit("/", 1)[-1]
    return last in (node.rsplit("/", 1)[-1], "**", "*")


def flatten(content: Any, problems: ProblemSink | None = None, prefix: str = "") -> dict[str, Any]:
    """Dotted names instead of nested mappings; a name given in both forms is a problem.

    An empty mapping stays as the value of its name.
    """
    result: dict[str, Any] = {}
    if not isinstance(content, Mapping):
        raise DnlsError(
            f"parameters are a {type(content).__name__}; expected a mapping of names to values"
        )
    for key, value in content.items():  # type: ignore[misc]
        name = f"{prefix}{key}"
        nested = (
            flatten(value, problems, f"{name}.")
            if isinstance(value, Mapping) and value
            else {name: value}
        )
        for twice in result.keys() & nested.keys():
            if problems is not None:
                problems.add(twice, "is given twice (nested and dotted); keep one")
        result.update(nested)
    return result
