"""One block of parameters (the node's, a track's, a sensor's): read row by row, then completed.

Reading looks at one value at a time: type, finiteness, range, words. Completing fills in the
defaults that depend on other values, so that a finished configuration has no "empty means …" left.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnls_ros.errors import DnlsError
from dnls_ros.window import config as cfg
from dnls_ros.window.config import (
    CONTACT_AXES,
    POSE_AXES,
    QUASI_STATIC,
    TWIST_AXES,
    SensorConfig,
    TrackConfig,
)
from dnls_ros.window.files import candidates, find_file
from dnls_ros.window.parameter_table import (
    CLASS,
    DEVICE,
    FRAME,
    NAME,
    PATH,
    PATH_ROWS,
    RANGE_AXES,
    SENSOR,
    TOPIC,
    Row,
)

PLANAR_AXES = ("x", "y", "yaw", "vx", "vy", "vyaw", *RANGE_AXES, *CONTACT_AXES)
AXES_OF = {
    "pose": POSE_AXES,
    "pose_stamped": POSE_AXES,
    "odometry": (*POSE_AXES, *TWIST_AXES),
    "twist": TWIST_AXES,
    "imu": ("roll", "pitch", "yaw", "vroll", "vpitch", "vyaw"),
    "tf_pose": POSE_AXES,
    "relative_pose": POSE_AXES,
    "range_bearing": RANGE_AXES,
    "landmarks": (),
    "contact": ("distance",),
    "tactile_relative": POSE_AXES,
    "tactile_image": ("distance", *POSE_AXES),
    "wrench_contact": CONTACT_AXES,
    "custom": (*POSE_AXES, *TWIST_AXES, *RANGE_AXES),
}
SIGMA_OF_CONTACT = {"distance": 0.001, "normal": 0.3}
"""Standard deviations where none is set [m, rad]: of a gel's depth, of a cone of friction."""
NOISELESS = ("pose_stamped", "tf_pose", "contact", "wrench_contact")
"""Types whose messages carry no covariance."""


@dataclass
class Problems:
    """Collects what is wrong, one line per problem."""

    lines: list[str] = field(default_factory=list[str])

    def add(self, name: str, text: str) -> None:
        """Notes one problem of the parameter ``name``."""
        self.lines.append(f"{name}: {text}")

    def check(self, what: str) -> None:
        """Raises one DnlsError with all problems of ``what``, if there are any."""
        if self.lines:
            count = len(self.lines)
            heading = f"{what}: {count} problem{'s' if count > 1 else ''}"
            raise DnlsError("\n  - ".join([heading, *self.lines]))


@dataclass(frozen=True)
class Block:
    """Values by row name; ``given`` were in the input, ``wrong`` were refused (default used)."""

    values: Mapping[str, Any]
    given: frozenset[str]
    wrong: frozenset[str]
    prefix: str

    @property
    def complete(self) -> bool:
        """Whether everything that has no default was given and read."""
        return all(value is not None for value in self.values.values())

    def group(self, name: str) -> dict[str, Any]:
        """The rows ``name.*`` under their short names."""
        start = f"{name}."
        return {
            key.removeprefix(start): v for key, v in self.values.items() if key.startswith(start)
        }


class WrongValueError(Exception):
    """A value that its row does not allow; the text says got and expected."""


def read_block(
    rows: tuple[Row, ...],
    given: Mapping[str, Any],
    prefix: str,
    base: Path | None,
    problems: Problems,
) -> Block:
    """Reads the rows of one block from all parameters, noting every value that is not allowed."""
    values: dict[str, Any] = {}
    wrong: set[str] = set()
    present = {row.name for row in rows if prefix + row.name in given}
    for row in rows:
        values[row.name] = row.default
        if row.name not in present:
            if row.default is None:
                problems.add(
                    prefix + row.name, f"is required: {row.meaning}{_expected_words(row)}"
                )
            continue
        try:
            values[row.name] = read_value(row, given[prefix + row.name], base)
        except WrongValueError as error:
            wrong.add(row.name)
            problems.add(prefix + row.name, str(error))
    return Block(values, frozenset(present), frozenset(wrong), prefix)


def read_value(row: Row, raw: Any, base: Path | None = None) -> Any:
    """One value in the row's type; relative file names start at ``base``.

    Raises:
        WrongValueError: It has another type, is not finite, out of range or not a word of the row.
    """
    if row.type.endswith("[]"):
        raw = raw.tolist() if hasattr(raw, "tolist") else raw
        if not isinstance(raw, list | tuple):
            raise WrongValueError(f"got {raw!r}; expected a list of {_TYPE_WORDS[row.type[:-2]]}s")
        return tuple(_read_one(row, row.type[:-2], item) for item in raw)  # type: ignore[misc]
    value = _read_one(row, row.type, raw)
    if row.name in PATH_ROWS and isinstance(value, str) and value:
        found = find_file(value, base)
        if found is None:
            places = ", ".join(str(path) for path in candidates(value, base))
            raise WrongValueError(f"file '{value}' not found; looked for {places}")
        return str(found)
    return value


def unknown_name(name: str, valid: Iterable[str]) -> str:
    """What to say about a name that no parameter has: the nearest one that there is."""
    near = difflib.get_close_matches(name, sorted(valid), n=1, cutoff=0.0)
    return "is not a parameter" + (f"; the nearest valid name is '{near[0]}'" if near else "")


def _read_one(row: Row, kind: str, raw: Any) -> bool | int | float | str:
    """One scalar in the row's type, range and vocabulary."""
    value = _CONVERT[kind](raw)
    if value is None:
        raise WrongValueError(f"got {raw!r} ({type(raw).__name__}); expected {_TYPE_WORDS[kind]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise WrongValueError(f"got {raw!r}; numbers must be finite")
    if row.range is not None and not isinstance(value, str) and value not in row.range:
        raise WrongValueError(
            f"got {value if isinstance(value, int) else f'{value:g}'}; "
            f"expected {row.range}{' ' + row.unit if row.unit else ''}"
        )
    if isinstance(value, str):
        _check_word(row, value)
    return value


def _check_word(row: Row, word: str) -> None:
    """Refuses a word that is not in the row's vocabulary or shape."""
    if row.choices and word not in row.choices:
        near = difflib.get_close_matches(word, row.choices, n=1)
        raise WrongValueError(
            f"got '{word}'{_expected_words(row)}"
            + (f"; did you mean '{near[0]}'?" if near else "")
        )
    if row.pattern and not re.fullmatch(row.pattern, word):
        raise WrongValueError(f"got '{word}'; expected {_SHAPES.get(row.pattern, row.pattern)}")


def _expected_words(row: Row) -> str:
    """The row's words for a message, or ''."""
    return f"; expected one of {', '.join(c for c in row.choices if c)}" if row.choices else ""


def _as_double(raw: Any) -> float | None:
    """A float; integers count as numbers, booleans do not."""
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        return None
    try:
        return float(raw)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf


_CONVERT: Mapping[str, Callable[[Any], bool | int | float | str | None]] = {
    "bool": lambda raw: raw if isinstance(raw, bool) else None,
    "int": lambda raw: raw if isinstance(raw, int) and not isinstance(raw, bool) else None,
    "double": _as_double,
    "string": lambda raw: raw if isinstance(raw, str) else None,
}
_TYPE_WORDS = {
    "bool": "true or false",
    "int": "an integer",
    "double": "a number",
    "string": "text",
}
_SHAPES = {
    NAME: "a name of lower-case letters, digits and '_' that starts with a letter",
    f"{NAME}|": "a name of lower-case letters, digits and '_' that starts with a letter, or ''",
    FRAME: "a frame name: not empty, no leading '/', no spaces",
    f"{FRAME}|": "a frame name: no leading '/', no spaces; or '' for the default",
    f"({TOPIC})|": "a topic name: words of letters, digits and '_' joined by '/'",
    f"({CLASS})|": "a class as pkg.module:Class",
    DEVICE: "auto, cpu, cuda or cuda:N",
    PATH: "a path: not empty, no leading space",
}


def resolve_track(name: str, block: Block, root: Block, problems: Problems) -> TrackConfig:
    """A track with the defaults that depend on its manifold, its motion and the node filled in."""
    v = block.values
    planar = v["manifold"] == "se2"
    dim = 3 if planar else 6
    sigma = v["motion_sigma"] or (0.5 if v["motion"] == "constant_velocity" else 0.001,) * dim
    if len(sigma) != dim:
        text = f"has {len(sigma)} numbers; manifold {v['manifold']} needs {dim}"
        problems.add(f"{block.prefix}motion_sigma", text)
    rest = v["rest_sigma"] or (
        tuple(0.1 * s for s in sigma) if v["motion"] == QUASI_STATIC else ()
    )
    if rest and len(rest) != dim:
        text = f"has {len(rest)} numbers; manifold {v['manifold']} needs {dim}"
        problems.add(f"{block.prefix}rest_sigma", text)
    return TrackConfig(
        name=name,
        manifold=v["manifold"],
        child_frame=v["child_frame"] or name,
        parent_frame=v["parent_frame"] or root.values["world_frame"],
        motion=v["motion"],
        motion_sigma=sigma,
        rest_sigma=rest,
        pusher_track=v["pusher_track"],
        shape=cfg.ShapeConfig(**block.group("shape")),
        publish=v["publish"],
        init=_resolve_init(block, root, planar, problems),
    )


def _resolve_init(block: Block, root: Block, planar: bool, problems: Problems) -> cfg.InitConfig:
    """The track's own init rows over the node's, cut to the plane where the track is on one."""
    merged: dict[str, Any] = {}
    for key in ("mode", "pose", "sigma"):
        own = f"init.{key}" in block.given
        merged[key] = (block if own else root).values[f"init.{key}"]
        where = f"{block.prefix if own else ''}init.{key}"
        if key != "mode":
            merged[key] = _cut_to_plane(merged[key], planar, key, where, problems)
    return cfg.InitConfig(**merged)


def _cut_to_plane(
    values: tuple[float, ...], planar: bool, key: str, where: str, problems: Problems
) -> tuple[float, ...]:
    """Six numbers, or three (x y yaw) for a track on a plane, which may also be given six."""
    if len(values) == 6 and planar:
        if key == "pose" and any(values[i] != 0.0 for i in (2, 3, 4)):
            problems.add(
                where,
                f"got {list(values)}; a track on a plane has no z, roll, pitch: give x y yaw",
            )
        return values[0], values[1], values[5]
    if len(values) != (3 if planar else 6):
        problems.add(
            where,
            f"has {len(values)} numbers; expected {'3 (x y yaw)' if planar else '6 (x y z rpy)'}",
        )
    return values


def resolve_sensor(
    name: str, block: Block, tracks: Mapping[str, TrackConfig], problems: Problems
) -> SensorConfig | None:
    """A sensor with axes, noise and track filled in; None when its track does not exist."""
    v = block.values
    track = tracks.get(v["track"] or next(iter(tracks), ""))
    if track is None:
        if tracks:
            problems.add(
                f"{block.prefix}track", f"got '{v['track']}'; expected one of {[*tracks]}"
            )
        return None
    possible = [a for a in AXES_OF[v["type"]] if not track.planar or a in PLANAR_AXES]
    turns = v["type"] == "imu" and v["differential"]
    axes = v["axes"] or tuple(a for a in possible if _is_default_axis(v["type"], a, turns))
    for axis in (a for a in v["axes"] if a not in possible):
        text = f"'{axis}' is not an axis of a {v['type']} sensor on an {track.manifold} track"
        problems.add(f"{block.prefix}axes", f"{text}; expected a subset of {possible}")
    sigma = v["sigma"] or _default_sigma(v["type"], axes)
    width = noise_width(v["type"], axes, sigma)
    floor = v["sigma_floor"] * width if len(v["sigma_floor"]) == 1 else v["sigma_floor"]
    plain: dict[str, Any] = {key: value for key, value in v.items() if "." not in key}
    noise: dict[str, Any] = {
        "axes": axes,
        "sigma": sigma,
        "sigma_floor": floor,
        "covariance": "fixed" if v["type"] in NOISELESS else v["covariance"],
        "on_zero_covariance": v["on_zero_covariance"] or ("use_fixed" if sigma else "reject"),
    }
    filled: dict[str, Any] = {**plain, **noise, "name": name, "track": track.name}
    return SensorConfig(
        **filled,
        qos=cfg.QosConfig(**block.group("qos") | _depth(block)),
        landmarks=cfg.LandmarksConfig(**block.group("landmarks")),
        contact=cfg.ContactConfig(**block.group("contact")),
        image=cfg.ImageConfig(**block.group("image")),
        camera=cfg.CameraConfig(**block.group("camera")),
    )


def _default_sigma(kind: str, axes: tuple[str, ...]) -> tuple[float, ...]:
    """The standard deviations of a sensor that is given none; () where it needs none."""
    if kind == "landmarks":
        return (1.0,)
    if kind in ("contact", "wrench_contact"):
        return tuple(SIGMA_OF_CONTACT.get(axis, 1.0) for axis in axes)
    return ()


def noise_width(kind: str, axes: tuple[str, ...], sigma: tuple[float, ...]) -> int:
    """How many standard deviations a sensor has: one per axis; landmarks one [px].

    A custom sensor that names no axes has as many as it is given: its class knows what they are.
    """
    if kind == "landmarks":
        return 1
    return len(axes) if axes or kind != "custom" else len(sigma)


def _is_default_axis(kind: str, axis: str, turns: bool) -> bool:
    """Whether a sensor that names no axes measures this one; ``turns``: a differential imu."""
    if kind == "custom":
        return False
    if turns:
        return axis in POSE_AXES
    if kind == "imu":
        return axis != "yaw"
    return kind != "odometry" or axis in POSE_AXES


def _depth(block: Block) -> dict[str, Any]:
    """The depth of the queue that goes with the type, where none was given."""
    if "qos.depth" in block.given:
        return {}
    row = next(row for row in SENSOR if row.name == "qos.depth")
    return {"depth": dict(row.by_type).get(block.values["type"], row.default)}


def attribute(item: object, dotted: str) -> Any:
    """``item.a.b`` for ``"a.b"``."""
    value: Any = item
    for part in dotted.split("."):
        value = getattr(value, part)
    return value
