"""A filter's values, each checked when it is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dnls_ros.errors import DnlsError


class FilterValues:
    """The values of a robot_localization filter; ``left`` are those that nobody took.

    Raises:
        DnlsError: From every method, for a value that is not of its type.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.left = dict(values)

    def text(self, name: str, default: str) -> str:
        """A word."""
        return self._take(name, default, str, "text")

    def truth(self, name: str, default: bool = False) -> bool:
        """A truth value."""
        return self._take(name, default, bool, "true or false")

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        value = self.left.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DnlsError(f"{name}: got {value!r}; expected a number")
        if not math.isfinite(value):
            raise DnlsError(f"{name}: got {value!r}; expected a finite number")
        self.left.pop(name, None)
        return float(value)

    def vector(self, name: str) -> np.ndarray | None:
        """15 numbers, or None."""
        return self._numbers(name, (15,))

    def diagonal(self, name: str) -> tuple[np.ndarray | None, bool]:
        """The diagonal of a 15 × 15 matrix (or 15 numbers), and whether it had more than that."""
        values = self._numbers(name, (15, 225))
        if values is None or len(values) == 15:
            return values, False
        matrix = values.reshape(15, 15)
        return np.diag(matrix), bool(np.any(matrix != np.diag(np.diag(matrix))))

    def _take(self, name: str, default: Any, kind: type, words: str) -> Any:
        value = self.left.pop(name, default)
        if not isinstance(value, kind):
            raise DnlsError(f"{name}: got {value!r}; expected {words}")
        return value

    def _numbers(self, name: str, lengths: tuple[int, ...]) -> np.ndarray | None:
        if name not in self.left:
            return None
        value = self.left.pop(name)
        try:
            numbers = np.array(value, dtype=np.float64)
        except (TypeError, ValueError):
            numbers = np.array([math.nan])
        if numbers.ndim != 1 or not np.isfinite(numbers).all() or len(numbers) not in lengths:
            wanted = " or ".join(map(str, lengths))
            raise DnlsError(f"{name}: got {value!r}; expected {wanted} finite numbers")
        return numbers
