"""Where models of tactile images come from."""

from __future__ import annotations

from dnls_ros.errors import UnavailableError
from dnls_ros.window.tactile_frontend import TactileModel


def open_model(path: str) -> TactileModel:
    """The model of a file.

    Raises:
        UnavailableError: This version reads no models; give `Session` an ``open_model`` that does.
    """
    raise UnavailableError(
        f"the model {path} cannot be read: this version reads no models of tactile images; "
        "without one (model: '') they say whether the finger touches"
    )
