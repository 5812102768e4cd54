"""Settings as frozen dataclasses, filled from the mappings that YAML files hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeVar

from dnls_ros.errors import UnreadableInputError

Settings = TypeVar("Settings")


def filled(base: Settings, content: Mapping[str, Any], where: str) -> Settings:
    """The settings with those changed that ``content`` names.

    Nested dataclasses take mappings, tuples take lists, numbers take numbers.

    Args:
        base: A dataclass with its default values.
        content: By field.
        where: Begins the messages, the file's name.

    Raises:
        UnreadableInputError: There is no such field, or its value is of another type.
    """
    names = [f.name for f in fields(base)]  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for name, value in content.items():
        if name not in names:
            near = get_close_matches(str(name), names, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; there are {sorted(names)}"
            raise UnreadableInputError(f"{where}: no setting '{name}'{hint}")
        changes[name] = _taken(getattr(base, name), value, f"{where}: {name}")
    return replace(base, **changes)  # type: ignore[type-var]


def _taken(known: Any, value: Any, where: str) -> Any:
    if is_dataclass(known):
        if isinstance(value, Mapping):
            return filled(known, value, where)
    elif isinstance(known, tuple):
        if isinstance(value, list | tuple):
            return tuple(value)
    elif isinstance(known, bool) or isinstance(value, bool):
        if isinstance(known, bool) and isinstance(value, bool):
            return value
    elif isinstance(known, float) and isinstance(value, int):
        return float(value)
    elif isinstance(value, type(known)):
        return value
    wanted = "mapping" if is_dataclass(known) else type(known).__name__.replace("tuple", "list")
    raise UnreadableInputError(f"{where} must be a {wanted}, got {type(value).__name__} {value!r}")
