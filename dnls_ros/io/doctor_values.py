"""What messages hold, looked at without knowing their types: numbers, covariances, quaternions.

The fields of a type are found once, on its first message; rosbags' dataclasses and rclpy's classes
serve alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np

from dnls_ros.io.convert import SHORTEST_QUATERNION
from dnls_ros.window.noise import ASYMMETRY, LARGEST_VARIANCE, is_definite

QUATERNION_TOLERANCE = 0.01
"""Largest accepted |‖q‖ − 1|."""
LONGEST_ARRAY = 1000
"""Longer arrays are data of a sensor (ranges, pixels) in which NaN may be a value."""
_LARGE = {9: 3, 36: 6}
_GONE = ("zero", "absent", "not_finite")


@dataclass(eq=False)
class CovarianceLog:
    """The classes of one covariance field, and whether it ever changed.

    ``classes`` counts messages by ``zero``, ``absent``, ``not_finite``, ``asymmetric``,
    ``not_positive``, ``partial`` or ``good``; ``huge`` those with a variance that means
    «unmeasured»; ``partial`` means positive definite on the axes that are not all zero. ``axes``
    are those with a positive, not huge variance in every message.
    """

    classes: Counter[str] = field(default_factory=Counter)
    huge: int = 0
    changed: bool = False
    axes: frozenset[int] = frozenset(range(6))
    _last: bytes = b""
    _kind: tuple[str, bool] = ("", False)

    def add(self, values: Any) -> None:
        """Takes one covariance, flat and row-major."""
        matrix = np.asarray(values, dtype=np.float64)
        raw = matrix.tobytes()
        if raw != self._last:
            self.changed |= bool(self._last)
            self._last = raw
            side = _LARGE[matrix.size]
            square = matrix.reshape(side, side)
            self._kind = classify(square)
            diagonal = np.diag(square)
            good = np.flatnonzero((diagonal > 0) & (diagonal <= LARGEST_VARIANCE))
            self.axes &= frozenset(good.tolist())
        self.classes[self._kind[0]] += 1
        self.huge += self._kind[1]

    @property
    def count(self) -> int:
        """Messages seen."""
        return sum(self.classes.values())


def classify(matrix: Any) -> tuple[str, bool]:
    """The class of a covariance (n, n), and whether one of its variances is huge."""
    if matrix[0, 0] == -1.0:
        return "absent", False
    if not matrix.any():
        return "zero", False
    if not np.isfinite(matrix).all():
        return "not_finite", False
    diagonal = np.diag(matrix)
    huge = bool((diagonal > LARGEST_VARIANCE).any())
    if np.abs(matrix - matrix.T).max() > ASYMMETRY * np.abs(matrix).max():
        return "asymmetric", huge
    empty = ~matrix.any(axis=1)
    kept = 0.5 * (matrix + matrix.T)[np.ix_(~empty, ~empty)]
    # Some margin below zero: a rank that is short by rounding is no mistake of the publisher.
    if (np.diag(kept) < 0).any() or not is_definite(kept + 1e-9 * np.diag(np.diag(kept))):
        return "not_positive", huge
    return ("partial" if empty.any() else "good"), huge


@dataclass(eq=False)
class ValueLog:
    """What one topic's messages hold.

    Attributes:
        not_finite: Messages with NaN or infinity, by field.
        quaternions: Messages whose quaternion is ``zero`` or ``off``, by field and class.
        worst_norm: The quaternion norm furthest from one.
        covariances: By field.
    """

    not_finite: Counter[str] = field(default_factory=Counter)
    quaternions: Counter[tuple[str, str]] = field(default_factory=Counter)
    worst_norm: float = 1.0
    covariances: dict[str, CovarianceLog] = field(default_factory=dict)
    _plans: dict[type, _Plan] = field(default_factory=dict)

    def add(self, message: Any) -> None:
        """Takes one decoded message."""
        plan = self._plans.get(type(message))
        if plan is None:  # a topic may carry several types
            plan = self._plans[type(message)] = _Plan.of(message)
        if plan.numbers is not None:
            values = plan.numbers(message)
            if not all(map(math.isfinite, values)):
                pairs = zip(plan.number_names, values, strict=True)
                self.not_finite.update(n for n, v in pairs if not math.isfinite(v))
        for name, get in plan.arrays:
            values = np.asarray(get(message))
            if values.size <= LONGEST_ARRAY and not np.isfinite(values).all():
                self.not_finite[name] += 1
        marked: set[str] = set()
        for name, get in plan.covariances:
            log = self.covariances.setdefault(name, CovarianceLog())
            values = get(message)
            log.add(values)
            if values[0] == -1.0:
                marked.add(name.removesuffix("_covariance"))
        for name, get in plan.quaternions:
            if name not in marked:  # an IMU without orientation may leave it empty
                self._quaternion(name, get(message))

    def _quaternion(self, name: str, q: Any) -> None:
        norm = math.sqrt(q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w)
        if abs(norm - 1.0) <= QUATERNION_TOLERANCE or not math.isfinite(norm):
            return
        kind = "zero" if norm < SHORTEST_QUATERNION else "off"
        self.quaternions[name, kind] += 1
        if abs(norm - 1.0) > abs(self.worst_norm - 1.0):
            self.worst_norm = norm


_Getter = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class _Plan:
    """How the fields of one type are read."""

    number_names: tuple[str, ...]
    numbers: _Getter | None
    arrays: tuple[tuple[str, _Getter], ...]
    covariances: tuple[tuple[str, _Getter], ...]
    quaternions: tuple[tuple[str, _Getter], ...]

    @classmethod
    def of(cls, message: Any) -> _Plan:
        names: dict[str, list[str]] = {
            "number": [], "array": [], "covariance": [], "quaternion": []
        }  # fmt: skip
        for kind, name in _fields(message, ""):
            names[kind].append(name)
        numbers = names["number"]
        getter = attrgetter(*numbers) if numbers else None
        if len(numbers) == 1:
            alone = attrgetter(numbers[0])
            getter = lambda message: (alone(message),)  # noqa: E731 - one expression, one use
        pairs = {
            kind: tuple((name, attrgetter(name)) for name in names[kind])
            for kind in ("array", "covariance", "quaternion")
        }
        return cls(
            tuple(numbers), getter, pairs["array"], pairs["covariance"], pairs["quaternion"]
        )


def _fields(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """The kinds and dotted names of the fields that are looked at."""
    for name in field_names(value):
        if name == "header":
            continue
        inner, path = getattr(value, name), prefix + name
        if isinstance(inner, float):
            yield "number", path
        elif field_names(inner):
            if {"x", "y", "z", "w"} == set(field_names(inner)):
                yield "quaternion", path
            yield from _fields(inner, f"{path}.")
        elif _is_numeric(inner):
            large = name.endswith("covariance") and len(inner) in _LARGE
            yield ("covariance" if large else "array"), path


def field_names(value: Any) -> tuple[str, ...]:
    """The fields of a message of rosbags or rclpy; none for anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(f.name for f in dataclasses.fields(value) if not f.name.startswith("__"))
    known = getattr(value, "get_fields_and_field_types", None)
    return tuple(known()) if known is not None else ()


def _is_numeric(value: Any) -> bool:
    """Whether a field is an array of floating-point numbers."""
    code = getattr(value, "typecode", "")
    return (
        code in ("f", "d") if code else getattr(getattr(value, "dtype", None), "kind", "") == "f"
    )
