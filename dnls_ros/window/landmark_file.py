"""The landmark map file: YAML in, ``LandmarkMap`` out, every mistake named with its place.

    family: tag36h11          # or any: the detector's family name is not compared
    default_size: 0.10        # edge of tags not named below [m]; absent: they are ignored, counted
    sizes: {3: 0.16}          # edges by tag number [m]
    tags:
      - id: 3                 # known exactly: world_T_tag
        size: 0.16
        pose: {position: [0, 0, 1], orientation: [0, 0, 0, 1]}
      - id: 4                 # known up to the tangent (v, ω) [m, rad]
        pose: {position: [2, 0, 1], orientation: [0, 0, 0, 1]}
        sigma: [0.01, 0.01, 0.01, 0.02, 0.02, 0.02]
      - id: 5                 # estimated
    boards:                   # rigid sets of tags; pose and sigma as above, absent: estimated
      - name: cube
        tags:                 # board_T_tag
          - {id: 10, size: 0.05, pose: {position: [0, 0, 0.03], orientation: [0, 0, 0, 1]}}
      - name: wall            # row by row; the pitch is size · (1 + spacing)
        grid: {rows: 2, columns: 3, first_id: 6, size: 0.12, spacing: 0.25}
    landmarks:
      - {id: "6", position: [1.0, 2.0, 0.0]}        # position absent: estimated

Orientations are unit quaternions (x y z w). A tag's size is its own, else the one in ``sizes``,
else ``default_size``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.window.landmark_map import (
    LandmarkBody,
    LandmarkMap,
    MapTag,
    PointLandmark,
    board_tag,
    grid_position,
    landmark_key,
    lone_tag,
)

Array = NDArray[np.float64]
Entry = Mapping[str, Any]

_UNIT_TOLERANCE = 1e-3


def read_landmark_map(path: str | Path) -> LandmarkMap:
    """Reads a landmark map file.

    Raises:
        UnreadableInputError: The file is missing or is not YAML.
        DnlsError: The content is wrong; the message names the place.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableInputError(
            f"landmark map '{path}': no such file; give the path of a YAML landmark map"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UnreadableInputError(f"landmark map '{path}' is not YAML: {reason}") from error
    return parse_landmark_map(content, source=str(path))


def parse_landmark_map(content: Any, source: str = "landmark map") -> LandmarkMap:
    """Makes a map of the file's content; ``source`` opens every error message.

    Raises:
        DnlsError: Unknown keys, wrong types, sizes that are not positive, quaternions that are not
            unit, numbers or names used twice.
    """
    top = _entry(
        content, source, ("family", "default_size", "sizes", "tags", "boards", "landmarks")
    )
    sizes = _sizes(top.get("sizes", {}), f"{source}, sizes")
    default = top.get("default_size")
    if default is not None:
        default = _positive(default, f"{source}, default_size")
    reader = _Reader(default, sizes)
    for index, item in enumerate(_list(top, "tags", source)):
        reader.lone_tag(item, f"{source}, tags[{index}]")
    for index, item in enumerate(_list(top, "boards", source)):
        reader.board(item, f"{source}, boards[{index}]")
    points = _points(_list(top, "landmarks", source), source)
    family = top.get("family", "tag36h11")
    if not isinstance(family, str) or not family:
        raise DnlsError(
            f"{source}, family: got {family!r}, expected a name such as tag36h11, or any"
        )
    return LandmarkMap(family, default, sizes, reader.tags, tuple(reader.bodies.values()), points)


class _Reader:
    """Collects tags and bodies while the file is read, and refuses what is there twice."""

    def __init__(self, default_size: float | None, sizes: Mapping[int, float]) -> None:
        self.default_size = default_size
        self.sizes = sizes
        self.tags: dict[int, MapTag] = {}
        self.bodies: dict[str, LandmarkBody] = {}

    def lone_tag(self, item: Any, where: str) -> None:
        entry = _entry(item, where, ("id", "size", "pose", "sigma"), required=("id",))
        number = _whole(entry["id"], f"{where}, id")
        pose, sigma = _pose_and_sigma(entry, where)
        tag = lone_tag(number, self._size(entry, number, where), pose, sigma)
        self._add_tag(number, tag, where)
        self._add_body(tag.body, where)

    def board(self, item: Any, where: str) -> None:
        entry = _entry(item, where, ("name", "pose", "sigma", "tags", "grid"), required=("name",))
        if ("tags" in entry) == ("grid" in entry):
            raise DnlsError(
                f"{where}: needs either 'tags' (a list with poses) or 'grid', and not both"
            )
        name = str(entry["name"])
        body = LandmarkBody(name, landmark_key(name), *_pose_and_sigma(entry, where))
        self._add_body(body, where)
        if "grid" in entry:
            self._grid(entry["grid"], body, f"{where} ('{name}'), grid")
        for index, tag in enumerate(_list(entry, "tags", where)):
            self._tag_on(tag, body, f"{where} ('{name}'), tags[{index}]")

    def _tag_on(self, item: Any, body: LandmarkBody, where: str) -> None:
        entry = _entry(item, where, ("id", "size", "pose"), required=("id", "pose"))
        number = _whole(entry["id"], f"{where}, id")
        tag = board_tag(
            body, self._size(entry, number, where), _pose(entry["pose"], f"{where}, pose")
        )
        self._add_tag(number, tag, where)

    def _grid(self, item: Any, body: LandmarkBody, where: str) -> None:
        names = ("rows", "columns", "first_id", "size", "spacing")
        entry = _entry(item, where, names, required=("rows", "columns", "first_id", "spacing"))
        rows, columns = (_whole(entry[n], f"{where}, {n}", least=1) for n in ("rows", "columns"))
        first = _whole(entry["first_id"], f"{where}, first_id")
        size = self._size(entry, first, where)
        spacing = _number(entry["spacing"], f"{where}, spacing")
        if spacing < 0:
            raise DnlsError(
                f"{where}, spacing: got {spacing}, expected ≥ 0: the gap in units of the size"
            )
        for index in range(rows * columns):
            body_T_tag = grid_position(index, columns, size, spacing)
            self._add_tag(first + index, board_tag(body, size, body_T_tag), where)

    def _size(self, entry: Entry, number: int, where: str) -> float:
        if entry.get("size") is not None:
            return _positive(entry["size"], f"{where}, size")
        size = self.sizes.get(number, self.default_size)
        if size is None:
            raise DnlsError(
                f"{where}: tag {number} has no size; give 'size', an entry in 'sizes' or "
                "'default_size' [m]"
            )
        return size

    def _add_tag(self, number: int, tag: MapTag, where: str) -> None:
        if number in self.tags:
            other = self.tags[number].body.name
            raise DnlsError(
                f"{where}: tag {number} is already part of '{other}'; "
                "a tag belongs to exactly one body"
            )
        self.tags[number] = tag

    def _add_body(self, body: LandmarkBody, where: str) -> None:
        if body.name in self.bodies:
            raise DnlsError(f"{where}: the name '{body.name}' is already taken; names must differ")
        self.bodies[body.name] = body


def _points(items: Sequence[Any], source: str) -> dict[str, PointLandmark]:
    points: dict[str, PointLandmark] = {}
    for index, item in enumerate(items):
        where = f"{source}, landmarks[{index}]"
        entry = _entry(item, where, ("id", "position"), required=("id",))
        name = str(entry["id"])
        if name in points:
            raise DnlsError(f"{where}: landmark '{name}' is there twice; ids must differ")
        position = None
        if entry.get("position") is not None:
            position = _vector(entry["position"], 3, f"{where}, position")
        points[name] = PointLandmark(name, landmark_key(name), position)
    return points


def _pose_and_sigma(entry: Entry, where: str) -> tuple[Array | None, Array | None]:
    pose = _pose(entry["pose"], f"{where}, pose") if entry.get("pose") is not None else None
    if entry.get("sigma") is None:
        return pose, None
    if pose is None:
        raise DnlsError(
            f"{where}: 'sigma' without 'pose'; it is the uncertainty of the given pose"
        )
    sigma = _vector(entry["sigma"], 6, f"{where}, sigma")
    if not np.all(sigma > 0):
        raise DnlsError(
            f"{where}, sigma: got {sigma.tolist()}, expected six positive numbers [m, rad]"
        )
    return pose, sigma


def _pose(item: Any, where: str) -> Array:
    entry = _entry(item, where, ("position", "orientation"), required=("position", "orientation"))
    position = _vector(entry["position"], 3, f"{where}, position")
    quaternion = _vector(entry["orientation"], 4, f"{where}, orientation")
    norm = float(np.linalg.norm(quaternion))
    if abs(norm - 1.0) > _UNIT_TOLERANCE:
        raise DnlsError(
            f"{where}, orientation: norm {norm:.6g}, "
            "expected a unit quaternion (x y z w); normalize it"
        )
    return np.concatenate([position, quaternion / norm])


def _entry(item: Any, where: str, names: Sequence[str], required: Sequence[str] = ()) -> Entry:
    if not isinstance(item, Mapping):
        raise DnlsError(
            f"{where}: got {type(item).__name__}, expected a mapping with {', '.join(names)}"
        )
    for key in item:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)[0]
            raise DnlsError(
                f"{where}: unknown key '{key}'; did you mean '{near}'? Known: {', '.join(names)}"
            )
    for name in required:
        if item.get(name) is None:
            raise DnlsError(f"{where}: '{name}' is missing")
    return item


def _list(entry: Entry, name: str, where: str) -> Sequence[Any]:
    items = entry.get(name) or ()
    if not isinstance(items, (list, tuple)):
        raise DnlsError(f"{where}, {name}: got {type(items).__name__}, expected a list")
    return items


def _sizes(item: Any, where: str) -> dict[int, float]:
    if not isinstance(item, Mapping):
        raise DnlsError(
            f"{where}: got {type(item).__name__}, expected a mapping from tag number to size [m]"
        )
    return {_whole(k, where): _positive(v, f"{where}[{k}]") for k, v in item.items()}


def _whole(value: Any, where: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DnlsError(f"{where}: got {value!r}, expected a whole number ≥ {least}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DnlsError(f"{where}: got {value!r}, expected a finite number")
    return float(value)


def _positive(value: Any, where: str) -> float:
    number = _number(value, where)
    if number <= 0:
        raise DnlsError(f"{where}: got {number}, expected a size > 0 [m]")
    return number


def _vector(value: Any, length: int, where: str) -> Array:
    if not isinstance(value, (list, tuple)) or len(value) != length:
        raise DnlsError(f"{where}: got {value!r}, expected {length} numbers")
    return np.array([_number(v, f"{where}[{i}]") for i, v in enumerate(value)])
