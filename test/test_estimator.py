"""The estimator as its users drive it: feed, step, ask; every kind of sensor and of bad input."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from dnls_ros.errors import DnlsError
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.measurements import (
    Measurement,
    OdometryMeasurement,
    PoseMeasurement,
    RangeBearingMeasurement,
    Reason,
    Rejection,
    RelativePoseMeasurement,
    TwistMeasurement,
)
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.results import PoseReason
from dnls_ros.window.rigid import compose, inverse

SECOND = 1_000_000_000
T0 = 1_000 * SECOND
SPEED, TURN = 0.8, 0.3


def pose2(x: float, y: float, yaw: float) -> np.ndarray:
    return np.array([x, y, 0, 0, 0, np.sin(yaw / 2), np.cos(yaw / 2)])


def truth(stamp: int) -> np.ndarray:
    """A circle, from the origin along x."""
    angle = TURN * (stamp - T0) / SECOND
    radius = SPEED / TURN
    return pose2(radius * np.sin(angle), radius * (1 - np.cos(angle)), angle)


def configuration(sensors: dict, track: dict | None = None, **extra):
    settings = {
        "world_frame": "map",
        "deterministic": True,
        "tracks": ["robot"],
        "sensors": list(sensors),
        "track": {
            "robot": {
                "manifold": "se2",
                "child_frame": "base_link",
                "motion": "none",
                **(track or {}),
            }
        },
        "sensor": sensors,
        "solver": {
            "cost_tolerance": 1e-14,
            "step_tolerance": 1e-12,
            "gradient_tolerance": 1e-12,
            "max_iterations": 50,
        },
        **extra,
    }
    return load_parameters(settings)


ODOMETRY = {
    "type": "odometry",
    "topic": "odom",
    "differential": True,
    "covariance": "fixed",
    "sigma": [0.01, 0.01, 0.01],
}
FIX = {"type": "pose", "topic": "fix"}
BOTH = {"odometry": ODOMETRY, "fix": FIX}


def odometry(stamp: int, pose: np.ndarray | None = None) -> OdometryMeasurement:
    twist = np.array([SPEED, 0, 0, 0, 0, TURN])
    return OdometryMeasurement(
        sensor="odometry", stamp=stamp, frame="odom", pose=truth(stamp) if pose is None else pose,
        covariance=np.zeros((6, 6)), child_frame="base_link", twist=twist,
        twist_covariance=1e-4 * np.eye(6),
    )  # fmt: skip


def fix(
    stamp: int, pose: np.ndarray | None = None, sigma: float = 0.05, sensor: str = "fix"
) -> PoseMeasurement:
    pose = truth(stamp) if pose is None else pose
    return PoseMeasurement(
        sensor=sensor, stamp=stamp, frame="map", pose=pose, covariance=sigma**2 * np.eye(6)
    )


def noisy(pose: np.ndarray, generator: np.random.Generator, sigma: float) -> np.ndarray:
    dx, dy, dyaw = sigma * generator.normal(size=3)
    return compose(pose, pose2(dx, dy, dyaw))


def yaw_of(pose: np.ndarray) -> float:
    return 2 * np.arctan2(pose[5], pose[6])


def stream(seconds: float, seed: int = 0) -> list[Measurement]:
    """Odometry at 20 Hz and fixes at 4 Hz, at distinct stamps, noisy."""
    generator = np.random.default_rng(seed)
    out: list[Measurement] = []
    pose, last = truth(T0), T0
    for k in range(round(20 * seconds) + 1):
        stamp = T0 + k * SECOND // 20
        pose = compose(pose, noisy(compose(inverse(truth(last)), truth(stamp)), generator, 0.002))
        last = stamp
        out.append(odometry(stamp, pose))
    for k in range(round(4 * seconds)):
        stamp = T0 + 7_000_000 + k * SECOND // 4
        out.append(fix(stamp, noisy(truth(stamp), generator, 0.05)))
    return sorted(out, key=lambda m: m.stamp)


def run(estimator: Estimator, measurements: list[Measurement], now: int | None = None):
    for m in measurements:
        estimator.feed(m)
    return estimator.step(now if now is not None else max(m.stamp for m in measurements))


def balanced(estimator: Estimator) -> bool:
    return all(c.balanced for c in estimator.counters.values())


def test_any_order_of_arrival_inside_the_lag_gives_the_same_estimate() -> None:
    measurements = stream(1.5)
    reference = run(Estimator(configuration(BOTH)), measurements)
    assert reference is not None
    # The first fix starts the track, so it comes first; everything else may come in any order,
    # in any number of steps.
    first = next(m for m in measurements if m.sensor == "fix")
    rest = [m for m in measurements if m is not first and m.stamp > first.stamp]
    early = [m for m in measurements if m.stamp < first.stamp]
    now = measurements[-1].stamp
    for seed in range(3):
        estimator = Estimator(configuration(BOTH))
        shuffled = list(np.random.default_rng(seed).permutation(np.array(rest, dtype=object)))
        run(estimator, [*early, first], now)
        for part in np.array_split(np.array(shuffled, dtype=object), 5):
            run(estimator, list(part), now)
        final = run(estimator, [odometry(now + 1)], now + 1)
        expected = Estimator(configuration(BOTH))
        run(expected, measurements, now)
        same = run(expected, [odometry(now + 1)], now + 1)
        assert final is not None
        assert same is not None
        mine, theirs = final.tracks["robot"], same.tracks["robot"]
        assert np.array_equal(mine.stamps, theirs.stamps)
        assert np.abs(mine.poses - theirs.poses).max() < 1e-9
        assert np.abs(mine.covariance - theirs.covariance).max() < 1e-9
        assert balanced(estimator)


def test_a_state_is_made_at_every_stamp_and_the_error_is_what_the_noise_predicts() -> None:
    errors = []
    for seed in range(8):
        result = run(Estimator(configuration(BOTH)), stream(1.5, seed))
        assert result is not None
        estimate = result.tracks["robot"]
        error = compose(inverse(truth(int(estimate.stamps[-1]))), estimate.poses[-1])
        planar = np.array([error[0], error[1], yaw_of(error)])
        covariance = estimate.covariance[np.ix_((0, 1, 5), (0, 1, 5))]
        errors.append(planar @ np.linalg.solve(covariance, planar))
    assert 0.3 < np.mean(errors) / 3 < 2.2  # χ²₂₄/24 lies in it with 99.9 %


def test_old_states_leave_and_their_knowledge_stays() -> None:
    estimator = Estimator(configuration(BOTH, window={"duration": 0.5}))
    settled: list[int] = []
    result = None
    for m in stream(3.0):
        estimator.feed(m)
        result = estimator.step(m.stamp) or result
        if result is not None:
            settled += result.tracks["robot"].settled_stamps.tolist()
    assert result is not None
    assert result.states <= 20
    assert len(set(settled)) > 40
    assert np.linalg.norm(result.tracks["robot"].poses[-1][:2] - truth(result.stamp)[:2]) < 0.1
    # Twelve fixes of 5 cm, and not only the two of the window: better than those two could be.
    assert np.sqrt(result.tracks["robot"].covariance[0, 0]) < 0.05 / np.sqrt(3)


def test_a_measurement_older_than_the_window_is_too_late_and_counted() -> None:
    estimator = Estimator(configuration(BOTH, window={"duration": 0.5}))
    run(estimator, stream(2.0))
    assert estimator.feed(fix(T0 + 3)) is Reason.TOO_LATE
    estimator.step(T0 + 3 * SECOND)
    assert estimator.counters["fix"].rejected == {Reason.TOO_LATE: 1}
    assert balanced(estimator)


def test_full_smoothing_is_at_least_as_good_as_the_window_and_uses_every_factor() -> None:
    measurements = stream(4.0)
    estimator = Estimator(configuration(BOTH, window={"duration": 0.5}), archive=True)
    for m in measurements:
        estimator.feed(m)
        estimator.step(m.stamp)
    smoothed = estimator.smooth()
    batch = run(Estimator(configuration(BOTH, window={"duration": 60.0})), measurements)
    assert batch is not None
    assert np.array_equal(smoothed.stamps, batch.tracks["robot"].stamps)
    assert np.abs(smoothed.poses - batch.tracks["robot"].poses).max() < 1e-6


@pytest.mark.parametrize("ahead", [0.0, 0.013, 0.2])
def test_the_pose_at_any_stamp_is_within_a_millimetre_on_noise_free_data(ahead: float) -> None:
    estimator = Estimator(configuration(BOTH))
    stamps = [T0 + k * SECOND // 20 for k in range(30)]
    result = run(estimator, [fix(T0), *(odometry(s) for s in stamps)])
    assert result is not None
    stamp = stamps[-1] + round(ahead * SECOND) if ahead else stamps[17] + 21_000_000
    answer = estimator.pose_at(stamp)
    assert answer.success
    assert answer.extrapolated == (ahead > 0)
    assert np.linalg.norm(answer.pose[:2] - truth(stamp)[:2]) < 1e-3
    assert abs(yaw_of(answer.pose) - yaw_of(truth(stamp))) < 1e-3
    assert answer.covariance is not None
    assert np.linalg.eigvalsh(answer.covariance)[0] > 0
    assert answer.twist[0] == pytest.approx(SPEED, rel=1e-3)


def test_a_query_that_cannot_be_answered_says_why() -> None:
    estimator = Estimator(configuration(BOTH))
    assert estimator.pose_at(T0).reason is PoseReason.NOT_TRACKING
    run(estimator, stream(1.0))
    assert estimator.pose_at(T0 - SECOND).reason is PoseReason.BEFORE_WINDOW
    assert estimator.pose_at(T0 + 9 * SECOND).reason is PoseReason.TOO_FAR_AHEAD
    assert estimator.pose_at(0).reason is PoseReason.BAD_STAMP
    assert estimator.pose_at(T0, "nobody").reason is PoseReason.UNKNOWN_TRACK


def test_an_outlier_is_gated_and_a_sensor_shut_out_for_long_is_believed_again() -> None:
    sensors = {
        "odometry": {**ODOMETRY, "sigma": [0.05, 0.05, 0.05]},
        "fix": {**FIX, "gate_probability": 0.999},
    }
    gate = {"reopen_after": 1.0, "reopen_inflation": 10.0}
    estimator = Estimator(configuration(sensors, gate=gate))
    run(estimator, stream(1.0))
    moments = [T0 + SECOND + k * SECOND // 5 + 1 for k in range(1, 40)]
    jumped = [fix(s, compose(pose2(3, 0, 0), truth(s))) for s in moments]
    driving = [odometry(T0 + SECOND + k * SECOND // 20) for k in range(1, 170)]
    result = None
    for m in sorted([*jumped, *driving], key=lambda m: m.stamp):
        estimator.feed(m)
        result = estimator.step(m.stamp) or result
    counters = estimator.counters["fix"]
    assert counters.rejected[Reason.GATED] >= 4
    assert counters.accepted > 4
    assert result is not None
    assert result.tracks["robot"].poses[-1][0] > truth(result.stamp)[0] + 1.0
    assert balanced(estimator)


def test_gates_predict_alike_from_the_whole_problem_and_from_one_without_the_tested_factors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tested() -> list[float]:
        sensors = {"odometry": ODOMETRY, "fix": {**FIX, "gate_probability": 0.9}}
        estimator, found = Estimator(configuration(sensors)), []
        for m in sorted(stream(2.0), key=lambda m: m.stamp):
            estimator.feed(m)
            result = estimator.step(m.stamp)
            found += [] if result is None else result.nis.values()
        assert estimator.counters["fix"].rejected.get(Reason.GATED, 0)
        return found

    by_rows = tested()
    monkeypatch.setattr("dnls_ros.optim.Assembly.of_some", lambda *_: None)
    by_itself = tested()
    assert len(by_rows) > 5
    np.testing.assert_allclose(by_rows, by_itself, rtol=1e-9)


SMOOTH = {"motion": "constant_velocity", "motion_sigma": [0.1, 0.1, 0.1]}
SENSORS_ALONE = {
    "pose": (
        {"a": {"type": "pose", "topic": "t"}},
        lambda s, g: fix(s, noisy(truth(s), g, 0.05), sensor="a"),
        SMOOTH,
    ),
    "pose_stamped": (
        {"a": {"type": "pose_stamped", "topic": "t", "sigma": [0.05, 0.05, 0.05]}},
        lambda s, g: PoseMeasurement(
            sensor="a", stamp=s, frame="map", pose=noisy(truth(s), g, 0.05)
        ),
        SMOOTH,
    ),
    "odometry": (
        {"a": {"type": "odometry", "topic": "t"}},
        lambda s, g: replace(
            odometry(s, noisy(truth(s), g, 0.05)), sensor="a", covariance=0.0025 * np.eye(6)
        ),
        {"motion": "random_walk", "motion_sigma": [1.0, 1.0, 0.5]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SENSORS_ALONE)
def test_each_absolute_sensor_alone_brings_the_error_below_its_own_noise(kind: str) -> None:
    sensors, make, track = SENSORS_ALONE[kind]
    errors = []
    for seed in range(4):
        generator = np.random.default_rng(seed)
        estimator = Estimator(configuration(sensors, track))
        result = run(estimator, [make(T0 + k * SECOND // 20, generator) for k in range(40)])
        assert result is not None
        assert result.accepted
        estimate = result.tracks["robot"]
        middle = len(estimate.stamps) // 2
        errors.append(
            np.linalg.norm(estimate.poses[middle][:2] - truth(int(estimate.stamps[middle]))[:2])
        )
    alone = 0.05 * np.sqrt(2)  # of one measurement's position
    assert np.sqrt(np.mean(np.square(errors))) < 0.9 * alone


def test_twists_alone_carry_the_pose_from_where_it_was_started() -> None:
    sensors = {"a": {"type": "twist", "topic": "t"}}
    for motion in ("none", "constant_velocity"):
        track = {
            "motion": motion,
            "init": {"mode": "params", "pose": [0, 0, 0], "sigma": [0.01, 0.01, 0.01]},
        }
        estimator = Estimator(configuration(sensors, track))
        twist = np.array([SPEED, 0, 0, 0, 0, TURN])
        fed = [
            TwistMeasurement(
                sensor="a",
                stamp=T0 + k * SECOND // 20,
                frame="base_link",
                twist=twist,
                covariance=1e-6 * np.eye(6),
            )
            for k in range(30)
        ]
        result = run(estimator, fed)
        assert result is not None
        final = result.tracks["robot"]
        assert np.linalg.norm(final.poses[-1][:2] - truth(fed[-1].stamp)[:2]) < 2e-3
        assert final.twist[0] == pytest.approx(SPEED, rel=1e-3)


def test_relative_poses_alone_chain_from_the_start() -> None:
    sensors = {"a": {"type": "relative_pose", "topic": "t"}}
    track = {"init": {"mode": "params", "pose": [0, 0, 0], "sigma": [0.01, 0.01, 0.01]}}
    estimator = Estimator(configuration(sensors, track))
    stamps = [T0 + k * SECOND // 10 for k in range(12)]
    fed = [
        RelativePoseMeasurement(
            sensor="a",
            stamp=b,
            frame="base_link",
            stamp_from=a,
            relative=compose(inverse(truth(a)), truth(b)),
            covariance=1e-6 * np.eye(6),
        )
        for a, b in pairwise(stamps)
    ]
    result = run(estimator, fed)
    assert result is not None
    assert result.states == 12
    assert np.linalg.norm(result.tracks["robot"].poses[-1][:2] - truth(stamps[-1])[:2]) < 1e-6


def test_ranges_and_bearings_to_known_landmarks_correct_a_drifting_odometry(tmp_path) -> None:
    (tmp_path / "map.yaml").write_text(
        "landmarks:\n  - {id: '6', position: [3, 1, 0]}\n  - {id: '9', position: [-1, 3, 0]}\n"
    )
    sensors = {
        "odometry": {**ODOMETRY, "sigma": [0.05, 0.05, 0.05]},
        "radar": {
            "type": "range_bearing",
            "topic": "r",
            "landmarks": {"map_file": str(tmp_path / "map.yaml")},
        },
    }
    track = {"init": {"mode": "params", "pose": [0, 0, 0], "sigma": [0.05, 0.05, 0.05]}}
    estimator = Estimator(configuration(sensors, track))
    points = {"6": np.array([3.0, 1.0]), "9": np.array([-1.0, 3.0]), "77": np.array([0.0, 0.0])}
    generator, fed = np.random.default_rng(0), []
    for k in range(40):
        stamp = T0 + k * SECOND // 20
        drift = compose(truth(stamp), pose2(0.01 * k, 0.005 * k, 0.002 * k))
        fed.append(odometry(stamp, drift))
        here = truth(stamp)
        away = np.stack([p - here[:2] for p in points.values()])
        fed.append(
            RangeBearingMeasurement(
                sensor="radar", stamp=stamp + 1, frame="base_link", ids=tuple(points),
                ranges=np.linalg.norm(away, axis=1) + 0.02 * generator.normal(size=3),
                bearings=np.arctan2(away[:, 1], away[:, 0]) - yaw_of(here)
                + 0.01 * generator.normal(size=3),
                sigma_range=0.02, sigma_bearing=0.01,
            )
        )  # fmt: skip
    result = run(estimator, fed[:-1], fed[-2].stamp)
    assert result is not None
    final = result.tracks["robot"]
    assert (
        np.linalg.norm(final.poses[-1][:2] - truth(int(final.stamps[-1]))[:2]) < 0.06
    )  # the odometry is off by 0.4


BAD = {
    Reason.NOT_FINITE: fix(T0 + 1, np.array([np.nan, 0, 0, 0, 0, 0, 1.0])),
    Reason.BAD_QUATERNION: fix(T0 + 2, np.array([0, 0, 0, 0, 0, 0, 0.0])),
    Reason.BAD_SHAPE: fix(T0 + 3, np.zeros(5)),
    Reason.ZERO_STAMP: fix(0),
    Reason.FUTURE_STAMP: fix(T0 + 100 * SECOND),
    Reason.EMPTY_FRAME: replace(fix(T0 + 4), frame=""),
    Reason.DUPLICATE: fix(T0 + 5),
}


def test_each_kind_of_bad_input_is_counted_under_its_own_reason() -> None:
    estimator = Estimator(configuration(BOTH))
    assert estimator.feed(fix(T0 + 5)) is None
    for reason, m in BAD.items():
        assert estimator.feed(m, clock=T0 + SECOND) is reason
    assert estimator.feed(Rejection("fix", 0, Reason.BAD_SHAPE, "not a pose")) is Reason.BAD_SHAPE
    rejected = estimator.counters["fix"].rejected
    assert rejected == {**dict.fromkeys(BAD, 1), Reason.BAD_SHAPE: 2}
    assert estimator.counters["fix"].received == len(BAD) + 2
    assert balanced(estimator)


COVARIANCES = {
    "zero": np.zeros((6, 6)),
    "negative": -np.eye(6),
    "asymmetric": np.eye(6) + np.triu(np.ones((6, 6)), 1),
    "absent": np.diag([-1.0, 0, 0, 0, 0, 0]),
    "not finite": np.full((6, 6), np.inf),
}


@pytest.mark.parametrize("kind", COVARIANCES)
def test_a_covariance_that_cannot_be_used_rejects_the_measurement_with_a_sentence(
    kind: str,
) -> None:
    estimator = Estimator(configuration(BOTH))
    run(estimator, stream(0.5))
    estimator.feed(replace(fix(T0 + 600_000_000), covariance=COVARIANCES[kind]))
    estimator.feed(odometry(T0 + 700_000_000))
    result = estimator.step(T0 + SECOND)
    assert result is not None
    assert np.isfinite(result.tracks["robot"].poses).all()
    assert sum(estimator.counters["fix"].rejected.values()) == 1
    assert "covariance" in estimator.counters["fix"].last_problem
    assert balanced(estimator)


def test_a_huge_variance_means_that_the_axis_was_not_measured() -> None:
    estimator = Estimator(configuration(BOTH))
    run(estimator, stream(0.5))
    wild = replace(fix(T0 + 507_000_000, pose2(500, -700, 2.0)), covariance=np.diag([1e12] * 6))
    result = run(estimator, [wild, odometry(T0 + 550_000_000)])
    assert result is not None
    assert estimator.counters["fix"].rejected == {}
    assert np.linalg.norm(result.tracks["robot"].poses[-1][:2] - truth(result.stamp)[:2]) < 0.1


def test_an_image_ahead_of_the_odometry_waits_and_is_then_used() -> None:
    estimator = Estimator(configuration(BOTH))
    run(estimator, stream(0.5))
    accepted = estimator.counters["fix"].accepted
    ahead = T0 + 520_000_000
    estimator.feed(fix(ahead))
    estimator.step(ahead)
    assert estimator.counters["fix"].waiting == 1
    run(estimator, [odometry(T0 + 550_000_000)])
    assert estimator.counters["fix"].waiting == 0
    assert estimator.counters["fix"].accepted == accepted + 1


def test_a_pause_of_the_odometry_leaves_the_window_in_one_piece() -> None:
    estimator = Estimator(configuration(BOTH, window={"duration": 10.0}))
    before = [odometry(T0 + k * SECOND // 20) for k in range(10)]
    after = [odometry(T0 + 2 * SECOND + k * SECOND // 20) for k in range(10)]
    result = run(estimator, [fix(T0), *before, *after, fix(T0 + 2 * SECOND + 100_000_000)])
    assert result is not None
    assert result.accepted
    estimate = result.tracks["robot"]
    assert np.linalg.norm(estimate.poses[-1][:2] - truth(int(estimate.stamps[-1]))[:2]) < 0.1


def test_a_failed_step_changes_nothing_and_loses_no_count(monkeypatch) -> None:
    estimator = Estimator(configuration(BOTH))
    run(estimator, stream(0.5))
    state = estimator.state
    monkeypatch.setattr("dnls_ros.window.step.minimize", lambda *a, **k: 1 / 0)
    estimator.feed(odometry(T0 + SECOND))
    with pytest.raises(ZeroDivisionError):
        estimator.step(T0 + SECOND)
    assert estimator.state is state
    assert estimator.counters["odometry"].rejected == {Reason.SUSPECT: 1}
    assert balanced(estimator)


def test_a_sensor_that_is_not_configured_is_the_callers_mistake() -> None:
    with pytest.raises(DnlsError, match="no sensor 'ghost'"):
        Estimator(configuration(BOTH)).feed(replace(fix(T0), sensor="ghost"))


def test_a_solver_that_is_absent_is_an_error_and_auto_says_what_it_took() -> None:
    with pytest.raises(DnlsError, match="sparse_cuda"):
        Estimator(configuration(BOTH, solver={"linear_solver": "sparse_cuda"}))
    if not torch.cuda.is_available():
        with pytest.raises(DnlsError, match="cuda"):
            Estimator(configuration(BOTH, device="cuda"))
    assert any("linear solver" in sentence for sentence in Estimator(configuration(BOTH)).choices)


def test_reset_forgets_the_window_but_not_the_counts() -> None:
    estimator = Estimator(configuration(BOTH))
    run(estimator, stream(1.0))
    received = estimator.counters["odometry"].received
    estimator.reset()
    assert estimator.pose_at(T0).reason is PoseReason.NOT_TRACKING
    assert estimator.counters["odometry"].received == received
    assert run(estimator, [fix(T0 + 20 * SECOND), odometry(T0 + 20 * SECOND)]) is not None


def test_position_fixes_with_a_lever_arm_say_nothing_about_the_orientation() -> None:
    arm = [0.4, 0.2, 0.0, 0.0, 0.0, 0.0]
    sensors = {
        "odometry": ODOMETRY,
        "fix": {
            **FIX,
            "axes": ["x", "y"],
            "covariance": "fixed",
            "sigma": [0.01, 0.01],
            "extrinsic": arm,
        },
    }
    track = {"init": {"mode": "params", "pose": [0.1, -0.1, 0.2], "sigma": [0.5, 0.5, 0.5]}}
    estimator = Estimator(configuration(sensors, track, window={"duration": 20.0}))
    fed: list[Measurement] = []
    for k in range(60):
        stamp = T0 + k * SECOND // 10
        antenna = compose(truth(stamp), pose2(0.4, 0.2, 0.0))
        fed += [
            odometry(stamp),
            fix(stamp, np.concatenate([antenna[:3], [0, 0, 1, 0]])),
        ]  # its yaw is nonsense
    result = run(estimator, fed)
    assert result is not None
    final = result.tracks["robot"]
    error = compose(inverse(truth(int(final.stamps[-1]))), final.poses[-1])
    assert np.linalg.norm(error[:2]) < 0.02
    assert abs(yaw_of(error)) < 0.02
