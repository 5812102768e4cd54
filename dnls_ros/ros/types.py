"""Generated message and service classes by their ROS type names, looked up once each."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from dnls_ros.errors import UnavailableError


@cache
def message_class(type_name: str) -> type[Any]:
    """The class of ``"pkg/msg/Name"`` or ``"pkg/srv/Name"``; UnavailableError if absent."""
    package, kind, name = type_name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), name)
    except (ImportError, AttributeError) as error:
        hint = (
            "run `pip install .` or build the workspace" if package == "dnls_ros" else "install it"
        )
        raise UnavailableError(f"{type_name} is not available here ({error}); {hint}") from error


def is_available(type_name: str) -> bool:
    """Whether the class of a type can be imported."""
    try:
        message_class(type_name)
    except UnavailableError:
        return False
    return True
