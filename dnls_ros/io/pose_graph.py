"""Pose graphs: relative poses, sightings of point landmarks, and the problem they make.

Poses that are held (FIX lines, else the pose with the smallest id) are constants of the problem:
nothing is added to the objective to anchor it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dnls_ros.costs import between
from dnls_ros.costs.point import seen_point
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, SE3, Euclidean
from dnls_ros.optim.initial_poses import RelativePoses, along_odometry, along_tree, chordal
from dnls_ros.problem import Problem, Ref, SquareRootInformation, Values, Variables
from dnls_ros.problem.anchored import anchored_groups

Pose = SE2 | SE3
INITIALIZATIONS = ("file", "odometry", "tree", "chordal")


@dataclass(frozen=True, eq=False)
class Sightings:
    """Measured positions of point landmarks.

    Attributes:
        poses: (M,) int64 ids of who saw.
        landmarks: (M,) int64 ids of what was seen.
        z: (1, M, d) in the sensor's axes [m].
        information: (1, M, d, d).
        body_T_sensor: (1, M, …).
        sensors: (M,) int64 number of the sensor in the file; −1 = the body itself.
    """

    poses: Tensor
    landmarks: Tensor
    z: Tensor
    information: Tensor
    body_T_sensor: Pose
    sensors: Tensor


@dataclass(frozen=True, eq=False)
class PoseGraph:
    """What a g2o file says.

    Attributes:
        edges: Relative poses.
        poses: Block ``pose`` as given; None where no pose is.
        held: (k,) int64 ids that the file fixes; may be empty.
        sightings: None where there are none.
        landmarks: Block ``landmark`` as given; None where none is.
    """

    edges: RelativePoses
    poses: Values | None
    held: Tensor
    sightings: Sightings | None = None
    landmarks: Values | None = None

    @property
    def kind(self) -> type[Pose]:
        """SE2 or SE3."""
        return type(self.edges.z)

    @property
    def pose_ids(self) -> Tensor:
        """All ids of poses, ascending."""
        return self.edges.ids if self.poses is None else self.poses.ids["pose"]

    @property
    def landmark_ids(self) -> Tensor:
        """All ids of landmarks, ascending."""
        if self.landmarks is not None:
            return self.landmarks.ids["landmark"]
        if self.sightings is None:
            return torch.zeros(0, dtype=torch.int64)
        return torch.unique(self.sightings.landmarks)

    def held_poses(self) -> Values:
        """Block ``pose`` of the poses that do not move, where they are.

        Raises:
            DnlsError: Several are fixed, but the file does not say where.
        """
        ids = torch.unique(self.held) if len(self.held) else self.pose_ids[:1]
        if self.poses is not None:
            return self.poses.select("pose", torch.isin(self.poses.ids["pose"], ids))
        if len(ids) > 1:
            raise DnlsError(
                f"{len(ids)} poses are fixed but the file has no vertices that say where; add "
                "VERTEX lines or fix one"
            )
        identity = self.kind.identity(1, 1, dtype=torch.float64)
        return Variables("pose", self.kind).values(ids, identity)

    def initial(self, how: str) -> Values:
        """First values of all poses and landmarks.

        Args:
            how: ``file`` (the vertices as given), ``odometry``, ``tree`` or ``chordal``; the last
                three place landmarks at the mean of their sightings.

        Raises:
            DnlsError: The file does not have what that needs.
        """
        if how == "file":
            return self._given()
        if how not in INITIALIZATIONS:
            raise DnlsError(f"an initialization is one of {INITIALIZATIONS}, got '{how}'")
        make = {"odometry": along_odometry, "tree": along_tree, "chordal": chordal}[how]
        poses = make(self.edges, self.held_poses())
        lost = self.pose_ids[~torch.isin(self.pose_ids, poses.ids["pose"])]
        if len(lost):
            raise DnlsError(
                f"{len(lost)} poses have no edge to another pose, first ids {lost[:3].tolist()}; "
                "remove them or take --init file"
            )
        return poses if self.sightings is None else poses.merge(_seen(self.sightings, poses))

    def _given(self) -> Values:
        needs = self.sightings is not None and self.landmarks is None
        if self.poses is None or needs:
            what = "landmark" if self.poses is not None else "pose"
            raise DnlsError(
                f"the file has no {what} vertices to start from; use --init odometry or chordal"
            )
        return self.poses if self.landmarks is None else self.poses.merge(self.landmarks)

    def problem(self) -> Problem:
        """½ΣrᵀΩr with r = Log(Z⁻¹Xᵢ⁻¹Xⱼ), and of sightings with r = X⁻¹p − z."""
        held = self.held_poses()
        edges = self.edges
        groups = anchored_groups(
            "edges",
            between,
            (Ref("pose", edges.first), Ref("pose", edges.second)),
            (edges.z,),
            held,
            SquareRootInformation(square_root(edges.information)),
        )
        seen = self.sightings
        if seen is not None:
            groups |= anchored_groups(
                "sightings",
                seen_point,
                (Ref("pose", seen.poses), Ref("landmark", seen.landmarks)),
                (seen.body_T_sensor, seen.z),
                held,
                SquareRootInformation(square_root(seen.information)),
            )
        if not groups:
            raise DnlsError("there is nothing to optimize: every edge joins two fixed poses")
        return Problem(groups)

    def free(self, values: Values) -> Values:
        """The values without the held poses: what the problem optimizes."""
        fixed = self.held_poses().ids["pose"]
        return values.select("pose", ~torch.isin(values.ids["pose"], fixed))

    def moved(self, solved: Values) -> PoseGraph:
        """The same graph with vertices at ``solved`` (free values), held poses where they are."""
        everything = solved.merge(self.held_poses())
        poses = Values({"pose": everything["pose"]}, {"pose": everything.ids["pose"]})
        if self.sightings is None:
            return replace(self, poses=poses)
        landmarks = {"landmark": everything["landmark"]}, {"landmark": everything.ids["landmark"]}
        return replace(self, poses=poses, landmarks=Values(*landmarks))


def square_root(information: Tensor) -> Tensor:
    """L (…, t, t) with LᵀL = Ω for positive semidefinite Ω, of full precision where definite."""
    lower, info = torch.linalg.cholesky_ex(information)
    if not bool((info != 0).any()):
        return lower.mT
    values, vectors = torch.linalg.eigh(information)
    root = values.clamp(min=0).sqrt()[..., None] * vectors.mT
    return torch.where((info == 0)[..., None, None], lower.mT, root)


def _seen(seen: Sightings, poses: Values) -> Values:
    """Block ``landmark``: the mean of where each landmark was seen."""
    pose: Any = poses.gather(Ref("pose", seen.poses))
    sensor: Any = pose @ seen.body_T_sensor
    p_world = sensor.act(seen.z)[0]
    ids, which = torch.unique(seen.landmarks, return_inverse=True)
    total = torch.zeros(len(ids), p_world.shape[-1], dtype=p_world.dtype)
    total.index_add_(0, which, p_world)
    mean = total / torch.bincount(which, minlength=len(ids))[:, None]
    return Variables("landmark", Euclidean(mean.shape[-1])).values(ids, mean[None])
