"""Where models of tactile images come from."""

from __future__ import annotations

from dnls_ros.learned import load_model
from dnls_ros.window.tactile_frontend import TactileModel


def open_model(path: str) -> TactileModel:
    """The model of a file.

    Raises:
        UnreadableInputError: It cannot be used.
    """
    return load_model(path)
