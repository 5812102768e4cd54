"""The fault matrix: what goes wrong, what is counted, when the estimate is good again, how good.

``pytest -s test/test_fault_matrix.py`` prints the table. Every case drives the session as the node
does; the robot, its odometry, its camera and its poor absolute pose are simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from fault_rig import Part, Story, configured, drive, part

from dnls_ros.runtime.types import EstimatorState
from dnls_ros.window.measurements import Reason

BEGIN, END = 5.0, 7.0
"""When most faults begin and end [s]."""
TRACKING = EstimatorState.TRACKING


def spoiled(*faults: str) -> Callable[[], list[Part]]:
    return lambda: [part().spoiled(*faults)]


def jump(seconds: float) -> Callable[[], list[Part]]:
    """Stamps and clock jump at BEGIN."""

    def parts() -> list[Part]:
        return [part().between(0.0, BEGIN), part().between(BEGIN, 99.0).moved(seconds)]

    return parts


def kidnapped() -> list[Part]:
    """At BEGIN the robot is somewhere else: the same clock, another run."""
    other = part(seed=3)
    first = part().between(0.0, BEGIN)
    rest = other.between(BEGIN, 99.0)
    return [first, rest.moved((first.start - other.start) * 1e-9).odometry_after(first)]


def looped() -> list[Part]:
    return [part().between(0.0, 6.0)] * 3


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        parts: What happens.
        reason: Counted for something, if anything.
        back: When all is well again: seconds of the last part.
        within: Longest time from then to a good estimate while TRACKING [s].
        rmse: Largest error of what left [m], over everything after ``back``.
        ends: The state at the end; no time to TRACKING is asked of another one.
        changes: Parameters.
    """

    parts: Callable[[], Sequence[Part]]
    reason: Reason | None = None
    back: float = 0.5
    within: float = 0.5
    rmse: float = 0.03
    worst: float = 0.3
    ends: EstimatorState = TRACKING
    changes: dict[str, Any] = field(default_factory=dict[str, Any])


CASES: dict[str, Case] = {
    "nothing": Case(spoiled()),
    "drop 30 % of everything": Case(spoiled("drop:*:p=0.3")),
    "delay of tags 0.3 s": Case(spoiled("delay:tags:s=0.3"), worst=0.4, rmse=0.05),
    "delay of tags 3 s, beyond the window": Case(
        spoiled("delay:tags:s=3"), Reason.TOO_LATE, within=2.0, rmse=0.3, worst=0.8
    ),
    "jitter 50 ms": Case(spoiled("jitter:*:s=0.05")),
    "duplicates 30 %": Case(spoiled("duplicate:*:p=0.3"), Reason.DUPLICATE),
    "reordered 20 % by 0.2 s": Case(spoiled("reorder:*:p=0.2,s=0.2"), worst=0.4),
    "NaN in 20 %": Case(spoiled("nan:*:p=0.2"), Reason.NOT_FINITE),
    "NaN in everything 1.5 s": Case(
        spoiled("nan:*:p=1,at=5,for=1.5"), Reason.NOT_FINITE, back=6.5
    ),
    "zero stamps on everything 1.5 s": Case(
        spoiled("zero_stamp:*:p=1,at=5,for=1.5"), Reason.ZERO_STAMP, back=6.5
    ),
    "zero covariance": Case(spoiled("zero_covariance:absolute:p=0.5"), Reason.BAD_COVARIANCE),
    "negative covariance": Case(
        spoiled("negative_covariance:absolute:p=0.5"), Reason.BAD_COVARIANCE
    ),
    "asymmetric covariance": Case(
        spoiled("asymmetric_covariance:absolute:p=0.5"), Reason.BAD_COVARIANCE
    ),
    "NaN covariance": Case(spoiled("nan_covariance:absolute:p=0.5"), Reason.NOT_FINITE),
    "huge covariance": Case(spoiled("huge_covariance:absolute:p=0.5")),
    "bad quaternion": Case(spoiled("bad_quaternion:*:p=0.2"), Reason.BAD_QUATERNION),
    "zero stamp": Case(spoiled("zero_stamp:*:p=0.2"), Reason.ZERO_STAMP),
    "future stamp 5 s": Case(spoiled("future_stamp:*:p=0.05,s=5"), Reason.FUTURE_STAMP),
    "empty frame": Case(spoiled("empty_frame:*:p=0.2"), Reason.EMPTY_FRAME),
    "missing tf of the camera": Case(
        spoiled("drop:tf_static:p=1"), Reason.UNKNOWN_FRAME, rmse=0.3, worst=0.8,
        ends=EstimatorState.DEGRADED,
        changes={"sensor__tags__extrinsic": []},
    ),
    "tf of the camera 3 s late": Case(
        spoiled("delay:tf_static:s=3"), Reason.UNKNOWN_FRAME, back=3.0, within=1.0,
        changes={"sensor__tags__extrinsic": []},
    ),
    "clock paused 2 s while data comes": Case(
        spoiled(f"clock_pause:*:at={BEGIN},for=2"),
        Reason.FUTURE_STAMP, back=END,
    ),
    "outlier burst of the absolute pose": Case(
        spoiled(f"outliers:absolute:p=1,scale=100,at={BEGIN},for=2"), Reason.GATED, back=BEGIN
    ),
    "outlier burst of the tags": Case(
        spoiled(f"outliers:tags:p=1,scale=40,at={BEGIN},for=2"), back=END, rmse=0.05, worst=0.5
    ),
    "dropout of odometry 2 s": Case(spoiled(f"drop:odometry:p=1,at={BEGIN},for=2"), back=END),
    "dropout of the tags 2 s": Case(spoiled(f"drop:tags:p=1,at={BEGIN},for=2"), back=END),
    "dropout of everything 2 s": Case(spoiled(f"drop:*:p=1,at={BEGIN},for=2"), back=END),
    "time jump +100 s": Case(jump(100.0), within=1.0),
    "time jump -100 s": Case(jump(-100.0), within=1.0),
    "time jump -1 s": Case(jump(-1.0), within=1.0),
    "bag looped three times": Case(looped, within=1.0),
    "kidnapped robot": Case(kidnapped, within=2.0, worst=9.0),
}  # fmt: skip


TABLE: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def _table() -> Any:
    yield
    figures = f"{'back [s]':>9} {'rmse [m]':>9} {'worst [m]':>9}"
    head = f"{'fault':38} {'status':11} {'counted':30} {figures}"
    print("\n" + "\n".join([head, *TABLE]))


def row(name: str, story: Story, back: float, after: int) -> str:
    counted = ", ".join(f"{r.name} {n}" for r, n in story.reasons.most_common(2))
    return (
        f"{name:38} {story.status.state.name:11} {counted:30} {back:9.2f} "
        f"{story.rmse(after):9.3f} {story.worst(after):9.3f}"
    )


EVERY_OTHER = [
    pytest.param(name, marks=pytest.mark.slow) if k % 2 else name for k, name in enumerate(CASES)
]


@pytest.mark.parametrize("name", EVERY_OTHER)
def test_what_a_fault_does(name: str) -> None:
    case = CASES[name]
    parts = case.parts()
    story = drive(configured(**case.changes), parts)
    back_at = story.starts[-1] + (round(case.back * 1e9) if len(parts) == 1 else 0)
    back = story.good_again(back_at, len(parts) - 1)
    steady = back_at + round(case.within * 1e9)
    TABLE.append(row(name, story, back, steady))
    assert story.status.state is case.ends
    assert back <= case.within or case.ends is not TRACKING
    assert story.rmse(steady, len(parts) - 1) <= case.rmse
    assert story.worst(steady) <= case.worst
    if case.reason is not None:
        assert story.reasons[case.reason] > 0
