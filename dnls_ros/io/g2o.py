"""g2o files: pose graphs on a plane and in space, with full information matrices.

    VERTEX_SE2 id x y θ                        EDGE_SE2 i j x y θ  Ω (6 upper entries)
    VERTEX_SE3:QUAT id x y z qx qy qz qw       EDGE_SE3:QUAT i j x y z qx qy qz qw  Ω (21)
    VERTEX_XY id x y                           EDGE_SE2_XY i l x y  Ω (3)
    VERTEX_TRACKXYZ id x y z                   EDGE_SE3_TRACKXYZ i l sensor x y z  Ω (6)
    FIX id …                                   PARAMS_SE3OFFSET sensor x y z qx qy qz qw

Vertices may be missing altogether (of poses, of landmarks); where there are some, every edge must
end at one. Information is read as that of the tangent (v, ω); some writers mean the quaternion's
vector part q ≈ ω/2, of which `read_g2o` can be told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.files import write_text
from dnls_ros.io.number_lines import Line, lines_of
from dnls_ros.io.pose_graph import Pose, PoseGraph, Sightings
from dnls_ros.lie import SE2, SE3, Euclidean
from dnls_ros.optim.initial_poses import RelativePoses
from dnls_ros.problem import Values, Variables

ROTATION_INFORMATION = ("tangent", "quaternion")

_POSES = {"VERTEX_SE2": SE2, "VERTEX_SE3:QUAT": SE3}
_POINTS = {"VERTEX_XY": SE2, "VERTEX_TRACKXYZ": SE3}
_EDGES = {"EDGE_SE2": SE2, "EDGE_SE3:QUAT": SE3}
_SIGHTINGS = {"EDGE_SE2_XY": SE2, "EDGE_SE3_TRACKXYZ": SE3}
_KINDS = _POSES | _POINTS | _EDGES | _SIGHTINGS | {"PARAMS_SE3OFFSET": SE3}
_NUMBERS = {SE2: 3, SE3: 7}  # of a pose
_POINT_DIM = {SE2: 2, SE3: 3}
_MAX_UNIT_ERROR = 1e-2  # of a quaternion's length: files have few digits


def read_g2o(path: Path | str, rotation_information: str = "tangent") -> PoseGraph:
    """Read a pose graph.

    Args:
        path: The file.
        rotation_information: ``tangent``, or ``quaternion``: the information of the rotation is
            that of the quaternion's vector part, a quarter of which is that of ω (SE(3) only).

    Raises:
        UnreadableInputError: Names file and line: unknown tag, wrong count, a number that is not
            finite, a vertex that is there twice, an edge to none, information that is not positive
            semidefinite.
        DnlsError: ``rotation_information`` is neither of the two.
    """
    if rotation_information not in ROTATION_INFORMATION:
        raise DnlsError(
            f"rotation_information is one of {ROTATION_INFORMATION}, got '{rotation_information}'"
        )
    parts = _Parts(Path(path))
    for line in lines_of(path):
        parts.add(line)
    return parts.graph(0.5 if rotation_information == "quaternion" else 1.0)


@dataclass
class _Rows:
    """Edges of one sort as they are read."""

    lines: list[Line] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)
    measured: list[list[float]] = field(default_factory=list)
    information: list[list[float]] = field(default_factory=list)
    sensors: list[int] = field(default_factory=list)

    def matrices(self, scale: Tensor) -> Tensor:
        """(1, M, t, t) information, checked."""
        upper = torch.tensor(self.information, dtype=torch.float64)
        t = len(scale)
        rows, columns = torch.triu_indices(t, t)
        full = upper.new_zeros(len(upper), t, t)
        full[:, rows, columns] = upper
        full[:, columns, rows] = upper
        full = full * scale[:, None] * scale
        self._check(full)
        return full[None]

    def _check(self, full: Tensor) -> None:
        indefinite = torch.linalg.cholesky_ex(full)[1] != 0
        for k in torch.nonzero(indefinite).flatten().tolist():
            lowest, highest = torch.linalg.eigvalsh(full[k])[[0, -1]].tolist()
            if lowest < -1e-9 * max(highest, 0.0) or highest <= 0:
                self.lines[k].fail(
                    f"the information matrix has the eigenvalues {lowest:.3g} … {highest:.3g}; "
                    "it must be positive semidefinite and not zero"
                )


@dataclass
class _Parts:
    """A file as it is read."""

    path: Path
    kind: type[Pose] | None = None
    poses: dict[int, tuple[Line, list[float]]] = field(default_factory=dict)
    points: dict[int, tuple[Line, list[float]]] = field(default_factory=dict)
    sensors: dict[int, tuple[Line, list[float]]] = field(default_factory=dict)
    fixed: list[tuple[int, Line]] = field(default_factory=list)
    edges: _Rows = field(default_factory=_Rows)
    sightings: _Rows = field(default_factory=_Rows)

    def add(self, line: Line) -> None:
        """Takes one line."""
        tag = line.words[0]
        if tag == "FIX":
            if len(line.words) < 2:
                line.fail("FIX names no vertex")
            self.fixed += [(line.whole(word, "a vertex id"), line) for word in line.words[1:]]
            return
        if tag not in _KINDS:
            line.fail(f"unknown tag '{tag}'; known are {', '.join(sorted(_KINDS))} and FIX")
        kind = _KINDS[tag]
        if self.kind not in (None, kind):
            line.fail(f"{tag} in a file of {self.kind.__name__}: one file is 2-D or 3-D")
        self.kind = kind
        if tag in _EDGES:
            self._edge(line, kind)
        elif tag in _SIGHTINGS:
            self._sighting(line, kind)
        elif tag in _POINTS:
            self._vertex(line, self.points, line.reals(2, _POINT_DIM[kind], tag))
        else:
            pose = _pose(line, kind, line.reals(2, _NUMBERS[kind], tag))
            self._vertex(line, self.poses if tag in _POSES else self.sensors, pose)

    def _vertex(
        self, line: Line, where: dict[int, tuple[Line, list[float]]], numbers: list[float]
    ) -> None:
        number = line.whole(line.words[1], "an id")
        others = [self.sensors] if where is self.sensors else [self.poses, self.points]
        for other in others:
            if number in other:
                line.fail(f"id {number} is there already, in line {other[number][0].number}")
        where[number] = line, numbers

    def _edge(self, line: Line, kind: type[Pose]) -> None:
        n, t = _NUMBERS[kind], 6 if kind is SE3 else 3
        numbers = line.reals(3, n + t * (t + 1) // 2, line.words[0])
        self._row(self.edges, line, (_pose(line, kind, numbers[:n]), numbers[n:]))

    def _sighting(self, line: Line, kind: type[Pose]) -> None:
        d, at = _POINT_DIM[kind], 4 if kind is SE3 else 3
        numbers = line.reals(at, d + d * (d + 1) // 2, line.words[0])
        self._row(self.sightings, line, (numbers[:d], numbers[d:]))
        sensor = line.whole(line.words[3], "a sensor's number") if kind is SE3 else -1
        self.sightings.sensors.append(sensor)

    def _row(self, rows: _Rows, line: Line, numbers: tuple[list[float], list[float]]) -> None:
        i, j = (line.whole(word, "a vertex id") for word in line.words[1:3])
        if i == j:
            line.fail(f"an edge from vertex {i} to itself")
        rows.lines.append(line)
        rows.ends.append((i, j))
        rows.measured.append(numbers[0])
        rows.information.append(numbers[1])

    def graph(self, rotation: float) -> PoseGraph:
        """The whole, checked.

        Args:
            rotation: What the axes of rotation are multiplied by to get those of the information.
        """
        if self.kind is None or not self.edges.lines:
            raise UnreadableInputError(f"{self.path}: no edge between poses, expected EDGE_SE2 …")
        self._check_ends()
        first, second = torch.tensor(self.edges.ends).T.contiguous()
        scale = torch.ones(self.kind.tangent_dim, dtype=torch.float64)
        if self.kind is SE3:
            scale[3:] = rotation
        z = _elements(self.kind, self.edges.measured)
        edges = RelativePoses(first, second, z, self.edges.matrices(scale))
        fixed = torch.tensor([number for number, _ in self.fixed], dtype=torch.int64)
        poses = _values("pose", self.kind, self.poses) if self.poses else None
        space = Euclidean(_POINT_DIM[self.kind])
        landmarks = _values("landmark", space, self.points) if self.points else None
        return PoseGraph(edges, poses, fixed, self._seen(), landmarks)

    def _seen(self) -> Sightings | None:
        rows = self.sightings
        if not rows.lines:
            return None
        assert self.kind is not None
        offsets = []
        for sensor, line in zip(rows.sensors, rows.lines, strict=True):
            if sensor >= 0 and sensor not in self.sensors:
                line.fail(f"sensor {sensor} has no PARAMS_SE3OFFSET line")
            offsets.append(self.sensors[sensor][1] if sensor >= 0 else [0.0, 0.0, 0.0])
        poses, landmarks = torch.tensor(rows.ends).T.contiguous()
        z = torch.tensor(rows.measured, dtype=torch.float64)[None]
        scale = torch.ones(z.shape[-1], dtype=torch.float64)
        mount = _elements(self.kind, offsets)
        sensors = torch.tensor(rows.sensors)
        return Sightings(poses, landmarks, z, rows.matrices(scale), mount, sensors)

    def _check_ends(self) -> None:
        """Every id that is spoken of is a vertex of the right sort."""
        connected = {end for ends in self.edges.ends for end in ends}
        poses = set(self.poses) or connected
        seen = {ends[1] for ends in self.sightings.ends}
        landmarks = set(self.points) or seen
        for both, line in zip(self.edges.ends, self.edges.lines, strict=True):
            _require(both, poses, line, "pose")
        for (i, j), line in zip(self.sightings.ends, self.sightings.lines, strict=True):
            _require((i,), poses, line, "pose")
            _require((j,), landmarks, line, "landmark")
            if j in poses:
                line.fail(f"vertex {j} is a pose, and here a landmark")
        for number, line in self.fixed:
            _require((number,), poses, line, "pose")
        for number in self.points.keys() - seen:
            self.points[number][0].fail(f"landmark {number} is seen by no edge")


def _require(ids: tuple[int, ...], known: set[int], line: Line, what: str) -> None:
    for number in ids:
        if number not in known:
            line.fail(f"there is no {what} vertex {number}")


def _pose(line: Line, kind: type[Pose], numbers: list[float]) -> list[float]:
    if kind is SE3:
        length = sum(q * q for q in numbers[3:]) ** 0.5
        if abs(length - 1) > _MAX_UNIT_ERROR:
            line.fail(f"the quaternion has length {length:.6g}, expected 1")
    return numbers


def _elements(kind: type[Pose], rows: list[list[float]]) -> Pose:
    """(1, M, …) elements of a pose's numbers in a file."""
    numbers = torch.tensor(rows, dtype=torch.float64)[None]
    return SE2.from_xyt(numbers) if kind is SE2 else SE3(numbers).normalized()


def _values(name: str, kind: Any, vertices: dict[int, tuple[Line, list[float]]]) -> Values:
    ids = sorted(vertices)
    rows = [vertices[number][1] for number in ids]
    if isinstance(kind, Euclidean):
        return Variables(name, kind).values(ids, torch.tensor(rows, dtype=torch.float64)[None])
    return Variables(name, kind).values(ids, _elements(kind, rows))


def write_g2o(path: Path | str, graph: PoseGraph) -> None:
    """Write a pose graph, whole or not at all; numbers keep all their digits."""
    space = graph.kind is SE3
    lines: list[str] = []
    seen = graph.sightings
    if seen is not None and space:
        for number in torch.unique(seen.sensors).tolist():
            at = int(torch.nonzero(seen.sensors == number)[0])
            mount = _numbers(type(seen.body_T_sensor)(seen.body_T_sensor.tensor[:, at : at + 1]))
            lines.append(f"PARAMS_SE3OFFSET {number} {_text(mount[0])}")
    for name, values, tag in (
        ("pose", graph.poses, "VERTEX_SE3:QUAT" if space else "VERTEX_SE2"),
        ("landmark", graph.landmarks, "VERTEX_TRACKXYZ" if space else "VERTEX_XY"),
    ):
        if values is not None:
            rows = zip(values.ids[name].tolist(), _numbers(values[name]), strict=True)
            lines += [f"{tag} {number} {_text(row)}" for number, row in rows]
    lines += [f"FIX {number}" for number in graph.held.tolist()]
    edges = graph.edges
    ends = torch.stack([edges.first, edges.second], -1).tolist()
    tag = "EDGE_SE3:QUAT" if space else "EDGE_SE2"
    lines += _edge_lines(tag, ends, _numbers(edges.z), edges.information)
    if seen is not None:
        columns = [seen.poses, seen.landmarks, *([seen.sensors] if space else [])]
        ends = torch.stack(columns, -1).tolist()
        tag = "EDGE_SE3_TRACKXYZ" if space else "EDGE_SE2_XY"
        lines += _edge_lines(tag, ends, seen.z[0].tolist(), seen.information)
    write_text(path, "\n".join(lines) + "\n")


def _edge_lines(
    tag: str, ends: list[list[int]], numbers: list[list[float]], information: Tensor
) -> list[str]:
    t = information.shape[-1]
    rows, columns = torch.triu_indices(t, t)
    upper = information[0][:, rows, columns].tolist()
    return [
        f"{tag} {' '.join(map(str, end))} {_text(z)} {_text(u)}"
        for end, z, u in zip(ends, numbers, upper, strict=True)
    ]


def _numbers(element: Any) -> list[list[float]]:
    """Rows of numbers as a file has them."""
    if isinstance(element, SE2):
        return element.xyt()[0].tolist()
    return (element if isinstance(element, Tensor) else element.tensor)[0].tolist()


def _text(numbers: list[float]) -> str:
    return " ".join(map(repr, numbers))
