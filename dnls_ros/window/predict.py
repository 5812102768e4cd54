"""The newest estimate carried ahead with its twist, its covariance grown by the motion model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnls_ros.lie import LieGroup
from dnls_ros.window.bodies import Array, Body
from dnls_ros.window.config import TrackConfig
from dnls_ros.window.query import extrapolate
from dnls_ros.window.results import TrackEstimate


@dataclass(frozen=True, eq=False)
class Predicted:
    """A pose ahead of the newest state.

    Attributes:
        pose: (7,).
        covariance: (6, 6) in the tangent; None if that of the estimate is unknown.
        twist: (6,) in body axes, held.
        twist_covariance: (6, 6); None if unknown.
    """

    pose: Array
    covariance: Array | None
    twist: Array
    twist_covariance: Array | None


def carry_ahead(
    body: Body, track: TrackConfig, pose: LieGroup, twist: Tensor, seconds: float
) -> tuple[LieGroup, Tensor, Tensor]:
    """The pose (1,) after holding ``twist`` (1, t), and how its covariance follows.

    Returns:
        The pose; its Jacobian (t, 2t) by the pose and the twist; the noise (t, t) that is added.
    """
    moved, by_pose = extrapolate(pose, twist, seconds)
    by_twist = seconds * body.group.right_jacobian(twist * seconds)[0]
    density = torch.diag(torch.tensor(track.motion_sigma, dtype=torch.float64) ** 2)
    # A velocity's random walk adds σ² t³/3 to the pose, a pose's own adds σ² t.
    noise = density * (seconds**3 / 3 if body.moving else seconds)
    return moved, torch.cat([by_pose, by_twist], 1), noise


def predict(estimate: TrackEstimate, track: TrackConfig, seconds: float) -> Predicted:
    """The track's pose ``seconds`` ≥ 0 after its newest state."""
    body = Body.of(track)
    axes = list(body.axes)
    with torch.inference_mode():
        pose = body.elements(estimate.poses[-1:])
        twist = torch.from_numpy(estimate.twist[axes].copy())[None]
        moved, carry, noise = carry_ahead(body, track, pose, twist, seconds)
        out = body.poses(moved)[0]
        joint = estimate.joint
        if joint is None or not np.isfinite(joint).all():
            return Predicted(out, None, estimate.twist, estimate.twist_covariance)
        spread = torch.from_numpy(joint)
        covariance = (carry @ spread @ carry.mT + noise).numpy()
        t = body.dim
        of_twist = joint[t:, t:] + body.moving * seconds * np.diag(np.square(track.motion_sigma))
    return Predicted(
        out, body.expand(0.5 * (covariance + covariance.T)), estimate.twist, body.expand(of_twist)
    )
