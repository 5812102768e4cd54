"""A window as markers: where the states are, how sure, what pulls at them.

Per track: the trajectory, its states, the newest one's axes, and ellipsoids of two standard
deviations. Landmarks with their names. Residuals as lines from green (full weight) through yellow
to orange (hardly any); what a gate shut out in red. A marker that is no longer drawn is deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnls_ros.io.compose import Composer
from dnls_ros.io.convert import rotation_matrix
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.evidence import Lines
from dnls_ros.window.lines import joined
from dnls_ros.window.rigid import from_rotation
from dnls_ros.window.snapshot import Landmark, TrackStates, WindowSnapshot

Array = NDArray[np.float64]
Color = tuple[float, float, float, float]

ELLIPSOIDS = 12
"""Of a track at most, spread over its states."""
DEVIATIONS = 2.0
LEAST_EXTENT, LARGEST_EXTENT = 1e-3, 100.0
"""Of an ellipsoid's axis [m]: thinner ones vanish, larger ones fill the view."""
POINT, WIDTH, AXIS = 0.04, 0.01, 0.3
"""Size of a state, width of a line, length of the newest state's axes [m]."""
TRACK_COLORS: tuple[Color, ...] = (
    (0.1, 0.5, 1.0, 1.0),
    (0.8, 0.3, 1.0, 1.0),
    (0.1, 0.8, 0.8, 1.0),
)
AXES_COLORS: tuple[Color, ...] = ((1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1))
LANDMARK_COLOR: Color = (0.9, 0.9, 0.9, 0.9)
ESTIMATED_COLOR: Color = (1.0, 0.8, 0.2, 0.9)
REJECTED_COLOR: Color = (1.0, 0.0, 0.0, 1.0)
NOWHERE: Array = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


@dataclass
class MarkerComposer:
    """Makes MarkerArrays and remembers what was drawn, so that it can be deleted.

    Attributes:
        compose: Makes the parts.
        config: Tracks and frames.
        lifetime: After which a marker vanishes by itself [s].
    """

    compose: Composer
    config: EstimatorConfig
    lifetime: float
    _drawn: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])

    def array(self, shot: WindowSnapshot, rejected: Iterable[Lines] = ()) -> Any:
        """Make a visualization_msgs/MarkerArray of a window and of what was shut out lately."""
        brush = _Brush(self.compose, shot.stamp, self.lifetime)
        for index, (name, states) in enumerate(shot.tracks.items()):
            frame = self.config.track(name).parent_frame
            _draw_track(brush, frame, name, states, TRACK_COLORS[index % len(TRACK_COLORS)])
        cameras = [s for s in self.config.sensors if s.type in ("landmarks", "range_bearing")]
        world = self.config.track(cameras[0].track).parent_frame if cameras else ""
        for index, landmark in enumerate(shot.landmarks):
            _draw_landmark(brush, world or self.config.world_frame, index, landmark)
        for (track, sensor), lines in joined(shot.lines).items():
            frame = self.config.track(track).parent_frame
            brush.lines(frame, f"residuals/{sensor}/{track}", lines, _weight_colors(lines.weight))
        for (track, sensor), lines in joined(rejected).items():
            frame = self.config.track(track).parent_frame
            colors = [REJECTED_COLOR] * len(lines)
            brush.lines(frame, f"rejected/{sensor}/{track}", lines, colors)
        made = {(m.ns, m.id): m.header.frame_id for m in brush.markers}
        gone = [brush.deleted(k, frame) for k, frame in self._drawn.items() if k not in made]
        self._drawn = made
        return self._message([*brush.markers, *gone])

    def nothing(self) -> Any:
        """Make the MarkerArray that deletes everything."""
        self._drawn = {}
        brush = _Brush(self.compose, 0, 0.0)
        return self._message([brush.deleted(("", 0), self.config.world_frame, everything=True)])

    def _message(self, markers: list[Any]) -> Any:
        return self.compose.find("visualization_msgs/msg/MarkerArray")(markers=markers)


def _draw_track(brush: _Brush, frame: str, name: str, states: TrackStates, color: Color) -> None:
    whole = np.isfinite(states.poses).all(1)
    poses = states.poses[whole]
    if not len(poses):
        return
    if len(poses) > 1:
        brush.points(frame, f"{name}/trajectory", "LINE_STRIP", WIDTH, poses[:, :3], color)
    brush.points(frame, f"{name}/states", "SPHERE_LIST", POINT, poses[:, :3], color)
    newest, axes = poses[-1], rotation_matrix(poses[-1, 3:]).T
    ends = np.repeat(newest[None, :3], 6, axis=0)
    ends[1::2] += AXIS * axes
    brush.line_list(frame, f"{name}/axes", 3 * WIDTH, ends, AXES_COLORS)
    if states.covariances is None:
        return
    covariances = states.covariances[whole]
    chosen = np.unique(np.linspace(0, len(poses) - 1, ELLIPSOIDS).round().astype(int))[::-1]
    pale: Color = (*color[:3], 0.25)
    for index, k in enumerate(chosen):
        brush.ellipsoid(frame, f"{name}/covariance", index, poses[k], covariances[k], pale)


def _draw_landmark(brush: _Brush, frame: str, index: int, landmark: Landmark) -> None:
    position, turn = landmark.position, landmark.orientation
    if not np.isfinite(position).all() or (turn is not None and not np.isfinite(turn).all()):
        return
    color = ESTIMATED_COLOR if landmark.estimated else LANDMARK_COLOR
    pose = np.concatenate([position, [0.0, 0.0, 0.0, 1.0] if turn is None else turn])
    size = landmark.size
    shape, thickness = ("SPHERE", size) if turn is None else ("CUBE", 0.05 * size)
    scale = np.array([size, size, thickness])
    brush.add(frame, "landmarks", index, shape, pose, scale, color)
    above = pose + np.array([0.0, 0.0, size, 0.0, 0.0, 0.0, 0.0])
    height = np.array([0.0, 0.0, max(0.6 * size, 0.08)])
    brush.add(
        frame, "landmark_names", index, "TEXT_VIEW_FACING", above, height, color, landmark.name
    )
    if landmark.covariance is not None:
        pale: Color = (*color[:3], 0.25)
        brush.ellipsoid(frame, "landmark_covariance", index, pose, landmark.covariance, pale)


def _weight_colors(weights: Array) -> list[Color]:
    """Green at 1, yellow at one half, orange at 0."""
    return [
        (min(1.0, 2.0 * (1.0 - w)), 0.4 + 0.6 * min(1.0, 2.0 * w), 0.0, 0.3 + 0.5 * (1.0 - w))
        for w in weights.tolist()
    ]


class _Brush:
    """Collects the markers of one picture."""

    def __init__(self, compose: Composer, stamp: int, lifetime: float) -> None:
        self.markers: list[Any] = []
        self._compose = compose
        self._stamp = stamp
        seconds, nanoseconds = divmod(round(lifetime * 1e9), 10**9)
        duration = compose.find("builtin_interfaces/msg/Duration")
        self._lifetime = duration(sec=seconds, nanosec=nanoseconds)
        self._mesh = compose.find("visualization_msgs/msg/MeshFile")(
            filename="", data=np.zeros(0, np.uint8)
        )
        self._texture = compose.find("sensor_msgs/msg/CompressedImage")(
            header=compose.header(0, ""), format="", data=np.zeros(0, np.uint8)
        )

    def points(
        self, frame: str, ns: str, kind: str, size: float, points: Array, color: Color
    ) -> None:
        """A marker of points (M, 3) in one colour."""
        made = self._marker(frame, ns, 0, kind, NOWHERE, np.full(3, size), color)
        made.points = [self._compose.vector(p, "Point") for p in points]
        self.markers.append(made)

    def lines(self, frame: str, ns: str, lines: Lines, colors: list[Color]) -> None:
        """The lines of residuals; none, no marker."""
        if len(lines):
            ends = np.stack([lines.start, lines.end], 1).reshape(-1, 3)
            self.line_list(frame, ns, WIDTH, ends, colors)

    def line_list(
        self, frame: str, ns: str, width: float, ends: Array, colors: Iterable[Color]
    ) -> None:
        """Lines between ends (2M, 3), each of M in its colour."""
        made = self._marker(frame, ns, 0, "LINE_LIST", NOWHERE, np.full(3, width), (1, 1, 1, 1))
        made.points = [self._compose.vector(p, "Point") for p in ends]
        shades = [self._color(color) for color in colors]
        made.colors = [shade for shade in shades for _ in range(2)]
        self.markers.append(made)

    def ellipsoid(
        self, frame: str, ns: str, index: int, pose: Array, covariance: Array, color: Color
    ) -> None:
        """Where the position lies within two standard deviations; covariance in the tangent."""
        turn = rotation_matrix(pose[3:])
        spread = turn @ covariance[:3, :3] @ turn.T
        if not np.isfinite(spread).all():
            return
        variances, axes = np.linalg.eigh(0.5 * (spread + spread.T))
        axes[:, 0] *= np.sign(np.linalg.det(axes))
        extent = 2.0 * DEVIATIONS * np.sqrt(np.maximum(variances, 0.0))
        scale = extent.clip(LEAST_EXTENT, LARGEST_EXTENT)
        self.add(frame, ns, index, "SPHERE", from_rotation(axes, pose[:3]), scale, color)

    def add(
        self,
        frame: str,
        ns: str,
        index: int,
        kind: str,
        pose: Array,
        scale: Array,
        color: Color,
        text: str = "",
    ) -> None:
        """One marker with a pose."""
        self.markers.append(self._marker(frame, ns, index, kind, pose, scale, color, text))

    def deleted(self, key: tuple[str, int], frame: str, everything: bool = False) -> Any:
        """The marker that deletes another one, or all."""
        made = self._marker(frame, *key, "CUBE", NOWHERE, np.zeros(3), (0, 0, 0, 0))
        made.action = type(made).DELETEALL if everything else type(made).DELETE
        return made

    def _color(self, color: Color) -> Any:
        r, g, b, a = map(float, color)
        return self._compose.find("std_msgs/msg/ColorRGBA")(r=r, g=g, b=b, a=a)

    def _marker(
        self,
        frame: str,
        ns: str,
        index: int,
        kind: str,
        pose: Array,
        scale: Array,
        color: Color,
        text: str = "",
    ) -> Any:
        cls = self._compose.find("visualization_msgs/msg/Marker")
        return cls(
            header=self._compose.header(self._stamp, frame),
            ns=ns,
            id=index,
            type=getattr(cls, kind),
            action=cls.ADD,
            pose=self._compose.pose(pose),
            scale=self._compose.vector(scale),
            color=self._color(color),
            lifetime=self._lifetime,
            frame_locked=False,
            points=[],
            colors=[],
            texture_resource="",
            texture=self._texture,
            uv_coordinates=[],
            text=text,
            mesh_resource="",
            mesh_file=self._mesh,
            mesh_use_embedded_materials=False,
        )
