"""What the estimator says: immutable results that may cross threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from dnls_ros.window.bodies import Array
from dnls_ros.window.increments import Stamps
from dnls_ros.window.solve_report import SolveReport


@dataclass(frozen=True, eq=False)
class TrackEstimate:
    """One track after a solve.

    Attributes:
        stamps: (N,) states of the window, ascending [ns].
        poses: (N, 7) world_T_body; planar tracks at z = 0.
        covariance: (6, 6) of the newest state, tangent (v, ω) in body axes.
        twist: (6,) of the newest state in body axes [m/s, rad/s].
        twist_covariance: (6, 6), or None if the track estimates no twist.
        joint: (2t, 2t) of the newest pose and its twist, in the body's own axes; None where
            neither was computed.
        settled_stamps, settled_poses: States that left the window in this step, with their last
            estimates.
    """

    stamps: Stamps
    poses: Array
    covariance: Array
    twist: Array
    twist_covariance: Array | None
    settled_stamps: Stamps
    settled_poses: Array
    joint: Array | None = None


@dataclass(frozen=True, eq=False)
class StepResult:
    """One solve.

    Attributes:
        stamp: Newest state [ns].
        now: Time of the step [ns].
        window_id: Count of solves, from 1.
        accepted: Whether the solve ended at a finite, non-increased cost.
        status: How it ended, a sentence.
        iterations: Trials of the minimization.
        cost_initial, cost_final: ½Σρ with the prior.
        states, landmarks, factors: Sizes of the window.
        tracks: Track → its estimate.
        nis: Sensor → mean normalized innovation squared per degree of freedom of this step's gated
            measurements.
        notes: Counts of things worth telling (unknown landmarks, dropped landmarks …).
        seconds: Stage → wall time [s], for reports only.
        report: More figures; None where whoever made the result had none.
    """

    stamp: int
    now: int
    window_id: int
    accepted: bool
    status: str
    iterations: int
    cost_initial: float
    cost_final: float
    states: int
    landmarks: int
    factors: int
    tracks: Mapping[str, TrackEstimate]
    nis: Mapping[str, float]
    notes: Mapping[str, int]
    seconds: Mapping[str, float]
    report: SolveReport | None = None


class PoseReason(IntEnum):
    """Why a pose could or could not be given; values equal the constants of GetPoseAt.srv."""

    OK = 0
    BEFORE_WINDOW = 1
    TOO_FAR_AHEAD = 2
    NOT_TRACKING = 3
    UNKNOWN_TRACK = 4
    TF_FAILED = 5
    BAD_STAMP = 6


@dataclass(frozen=True, eq=False)
class PoseAt:
    """The answer to a query for the pose at a stamp.

    Attributes:
        success: Whether ``pose`` means anything.
        reason: Why not.
        pose: (7,) world_T_body.
        covariance: (6, 6) in the tangent, or None if not asked for.
        twist: (6,) in body axes.
        extrapolated: The stamp is beyond the newest state.
        extrapolation: By how much [s].
        window_id: The solve that it comes from.
        message: A sentence.
    """

    success: bool
    reason: PoseReason
    pose: Array
    covariance: Array | None
    twist: Array
    extrapolated: bool
    extrapolation: float
    window_id: int
    message: str
