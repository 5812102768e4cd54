"""The window under hostile input: transactions, accounts, clocks, gates, memory, uncertainties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from dnls_ros.costs import between, prior
from dnls_ros.errors import DnlsError
from dnls_ros.io.bag import Record
from dnls_ros.io.feeds import feeds_of
from dnls_ros.lie import SE2, SE3, local, retract
from dnls_ros.optim import Assembly
from dnls_ros.problem import FactorGroup, Isotropic, Problem, Ref, Values
from dnls_ros.window.bodies import Body, pose_of_rpy
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.increments import MotionNoise, PoseIncrements
from dnls_ros.window.marginalize import marginalize
from dnls_ros.window.measurements import (
    CameraIntrinsics,
    LandmarkMeasurement,
    LandmarkObservation,
    Measurement,
    OdometryMeasurement,
    PoseMeasurement,
    Reason,
    RelativePoseMeasurement,
    TwistMeasurement,
)
from dnls_ros.window.noise import covariance_of
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.results import StepResult
from dnls_ros.window.rigid import compose, inverse

SECOND = 1_000_000_000
T0 = 1_000 * SECOND
SPEED, TURN = 0.8, 0.3

ODOMETRY = {
    "type": "odometry",
    "topic": "odom",
    "differential": True,
    "covariance": "fixed",
    "sigma": [0.01, 0.01, 0.01],
}
FIX = {"type": "pose", "topic": "fix"}
BOTH = {"odometry": ODOMETRY, "fix": FIX}
VELOCITY = {"motion": "constant_velocity", "motion_sigma": [0.5, 0.5, 0.5]}


def pose2(x: float, y: float, yaw: float) -> np.ndarray:
    return np.array([x, y, 0, 0, 0, np.sin(yaw / 2), np.cos(yaw / 2)])


def truth(stamp: int) -> np.ndarray:
    """A circle, from the origin along x."""
    angle, radius = TURN * (stamp - T0) / SECOND, SPEED / TURN
    return pose2(radius * np.sin(angle), radius * (1 - np.cos(angle)), angle)


def configuration(
    sensors: dict, track: dict | None = None, tracks: dict | None = None, **extra
) -> EstimatorConfig:
    robot = {"manifold": "se2", "child_frame": "base_link", "motion": "none", **(track or {})}
    blocks = tracks or {"robot": robot}
    tight = {"cost_tolerance": 1e-14, "step_tolerance": 1e-12, "gradient_tolerance": 1e-12}
    solver = {**tight, "max_iterations": 50, **extra.pop("solver", {})}
    settings = {
        "world_frame": "map",
        "deterministic": True,
        "tracks": list(blocks),
        "track": blocks,
    }
    settings |= {"sensors": list(sensors), "sensor": sensors, "solver": solver}
    return load_parameters({**settings, **extra})


def odometry(stamp: int, pose: np.ndarray | None = None) -> OdometryMeasurement:
    return OdometryMeasurement(
        sensor="odometry",
        stamp=stamp,
        frame="odom",
        pose=truth(stamp) if pose is None else pose,
        covariance=np.zeros((6, 6)),
        child_frame="base_link",
        twist=np.array([SPEED, 0, 0, 0, 0, TURN]),
        twist_covariance=1e-4 * np.eye(6),
    )


def fix(
    stamp: int, pose: np.ndarray | None = None, sigma: float = 0.05, sensor: str = "fix"
) -> PoseMeasurement:
    where = truth(stamp) if pose is None else pose
    noise = sigma**2 * np.eye(6)
    return PoseMeasurement(sensor=sensor, stamp=stamp, frame="map", pose=where, covariance=noise)


def twist(stamp: int, value: np.ndarray) -> TwistMeasurement:
    return TwistMeasurement(sensor="twist", stamp=stamp, frame="base_link", twist=value)


def relative(stamp: int) -> RelativePoseMeasurement:
    return RelativePoseMeasurement(
        sensor="relative",
        stamp=stamp,
        frame="base_link",
        stamp_from=stamp - SECOND,
        relative=pose2(0, 0, 0),
    )


def run(estimator: Estimator, fed: list[Measurement], now: int | None = None) -> StepResult | None:
    for m in fed:
        estimator.feed(m)
    return estimator.step(max(m.stamp for m in fed) if now is None else now)


def drive(estimator: Estimator, start: int, end: int) -> StepResult | None:
    """Odometry at 20 Hz and a fix at 5 Hz, one step each, until the end [ns]."""
    result = None
    for k, stamp in enumerate(range(start, end + 1, SECOND // 20)):
        estimator.feed(odometry(stamp))
        if k % 4 == 0:
            estimator.feed(fix(stamp))
        result = estimator.step(stamp) or result
    return result


def balanced(estimator: Estimator) -> bool:
    return all(c.balanced for c in estimator.counters.values())


def off(estimate: np.ndarray, stamp: int) -> float:
    """Distance to the truth [m]."""
    return float(np.linalg.norm(estimate[:2] - truth(stamp)[:2]))


# Marginalization with first estimates


def chain_of_poses(seed: int) -> tuple[dict[str, FactorGroup], Values]:
    """An anchor and four steps, started far from where they agree."""
    generator = torch.Generator().manual_seed(seed)
    steps = SE3.exp(0.4 * torch.randn(1, 4, 6, generator=generator, dtype=torch.float64))
    ids = torch.arange(5)
    z = SE3.exp(0.3 * torch.randn(1, 2, 6, generator=generator, dtype=torch.float64))
    groups = {
        "anchor": prior(Ref("pose", ids[:1]), z[:, :1], noise=Isotropic(0.1)),
        "steps": between(Ref("pose", ids[:4]), Ref("pose", ids[1:]), steps, noise=Isotropic(0.2)),
    }
    start = SE3.exp(0.3 * torch.randn(1, 5, 6, generator=generator, dtype=torch.float64))
    return groups, Values({"pose": start}, {"pose": ids})


def poses_of(elements: dict[int, SE3]) -> Values:
    tensors = torch.cat([x.tensor for x in elements.values()], 1)
    return Values({"pose": SE3(tensors)}, {"pose": torch.tensor(list(elements))})


def test_with_first_estimates_two_marginalizations_equal_one_of_the_same_quadratic() -> None:
    """Poses 0 and 1 leave one after the other; pose 1 has moved away from its first estimate."""
    groups, values = chain_of_poses(0)
    first = marginalize(groups, None, values, {"pose": torch.arange(5) == 0}, True)
    assert first.prior is not None
    generator = torch.Generator().manual_seed(1)
    delta = 0.2 * torch.randn(1, 24, generator=generator, dtype=torch.float64)
    moved = first.values.retract(delta)
    second = marginalize(first.groups, first.prior, moved, {"pose": torch.arange(4) == 0}, True)
    assert second.prior is not None
    # The oracle: one quadratic over poses 1 and 2 in tangents at their points, minimized over 1.
    # Pose 1 keeps the point of the first prior, pose 2 starts at where it is now.
    x1, x2 = values["pose"][:, 1:2], moved["pose"][:, 1:2]
    group = groups["steps"].select(torch.arange(4) == 1)
    point = poses_of({1: x1, 2: x2})
    now = poses_of({1: moved["pose"][:, :1], 2: x2})
    line = group.linearize(now, at=point)
    jacobian = torch.cat([j[0, 0] for j in line.jacobians], 1)
    tilde = torch.cat([local(x1, moved["pose"][:, :1])[0, 0], torch.zeros(6, dtype=torch.float64)])
    b = line.residual[0, 0] - jacobian @ tilde  # the residual, linear in the tangent at the points
    a1 = torch.cat([first.prior.factor[0], torch.zeros(6, 6, dtype=torch.float64)], 1)
    matrix = torch.cat([a1, jacobian])
    offset = torch.cat([first.prior.offset[0], b])
    h, g = matrix.T @ matrix, matrix.T @ offset
    gain = h[6:, :6] @ torch.linalg.inv(h[:6, :6])
    information, gradient = h[6:, 6:] - gain @ h[:6, 6:], g[6:] - gain @ g[:6]
    made = second.prior
    assert float((made.factor[0].T @ made.factor[0] - information).abs().max()) < 1e-9
    assert float((made.factor[0].T @ made.offset[0] - gradient).abs().max()) < 1e-9
    assert torch.equal(made.point["pose"].tensor, x2.tensor)


def test_with_first_estimates_unobservable_directions_stay_unobservable() -> None:
    """Relative factors alone say nothing about the place of the whole chain, at any step."""
    groups, values = chain_of_poses(2)
    del groups["anchor"]
    marginal, active = None, groups
    for _ in range(3):
        newest = len(values.ids["pose"])
        made = marginalize(active, marginal, values, {"pose": torch.arange(newest) == 0}, True)
        assert made.prior is not None
        delta = 0.05 * torch.ones(1, 6 * (newest - 1), dtype=torch.float64)
        marginal, active, values = made.prior, made.groups, made.values.retract(delta)
        problem = Problem({**active, "window": marginal})
        assembly = Assembly(problem, problem.structure(values), marginal.point)
        normal = assembly.normal_equations(values)
        hessian = assembly.structure.pattern.dense(normal.hessian)[0]
        eigenvalues = torch.linalg.eigvalsh(hessian)
        assert float(eigenvalues[:6].abs().max()) < 1e-10 * float(eigenvalues[-1])
        assert float(eigenvalues[6]) > 1e-6 * float(eigenvalues[-1])


# Transactions and accounts


def test_a_report_that_fails_undoes_the_step(monkeypatch) -> None:
    estimator = Estimator(configuration(BOTH))
    drive(estimator, T0, T0 + SECOND)
    state, answer = estimator.state, estimator.pose_at(T0 + SECOND)
    monkeypatch.setattr("dnls_ros.window.estimator.describe", lambda *a, **k: 1 / 0)
    estimator.feed(odometry(T0 + 2 * SECOND))
    with pytest.raises(ZeroDivisionError):
        estimator.step(T0 + 2 * SECOND)
    assert estimator.state is state
    assert np.array_equal(estimator.pose_at(T0 + SECOND).pose, answer.pose)
    assert estimator.counters["odometry"].rejected == {Reason.SUSPECT: 1}
    assert balanced(estimator)


def test_a_step_that_ends_at_a_cost_that_is_not_finite_leaves_the_window_as_it_was(
    monkeypatch,
) -> None:
    from dnls_ros.window import sensors

    estimator = Estimator(configuration(BOTH))
    drive(estimator, T0, T0 + SECOND)
    state, real = estimator.state, sensors.AbsolutePose.factors

    def poisoned(model, m, states):
        (group,) = real(model, m, states).values()
        nowhere = SE2(torch.full((1, 1, 4), torch.nan, dtype=torch.float64))
        return {"fix": replace(group, arguments=(None, nowhere))}

    monkeypatch.setattr(sensors.AbsolutePose, "factors", poisoned)
    estimator.feed(fix(T0 + SECOND + 50_000_000))
    estimator.feed(odometry(T0 + SECOND + 50_000_000))
    with pytest.raises(DnlsError, match="not finite"):
        estimator.step(T0 + SECOND + 50_000_000)
    monkeypatch.undo()
    assert estimator.state is state
    result = drive(estimator, T0 + SECOND + 100_000_000, T0 + 2 * SECOND)
    assert result is not None
    assert result.accepted
    assert np.isfinite(result.tracks["robot"].poses).all()
    assert balanced(estimator)


MALFORMED: dict[str, Callable[[int], Measurement]] = {
    "fix": lambda s: replace(fix(s), covariance=np.eye(3)),
    "odometry": lambda s: replace(odometry(s), twist_covariance=np.eye(4)),
    "twist": lambda s: replace(twist(s, np.zeros(6)), covariance=np.zeros(36)),
    "relative": lambda s: replace(relative(s), covariance=np.eye(5)),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_covariance_of_the_wrong_shape_is_refused_at_the_door(kind: str) -> None:
    more = {"twist": {"type": "twist"}, "relative": {"type": "relative_pose"}}
    sensors = {name: {**block, "topic": name} for name, block in more.items()}
    estimator = Estimator(configuration({**BOTH, **sensors}))
    assert estimator.feed(MALFORMED[kind](T0)) is Reason.BAD_SHAPE
    assert balanced(estimator)


def test_content_that_is_no_number_is_refused_and_counted() -> None:
    estimator = Estimator(configuration(BOTH))
    words = np.array(list("abcdefg"), dtype=object)
    assert estimator.feed(fix(T0, words)) is Reason.BAD_SHAPE
    assert estimator.feed(fix(1 << 70, truth(T0))) is Reason.FUTURE_STAMP
    assert balanced(estimator)


def test_a_track_whose_first_measurement_cannot_be_used_starts_with_the_next_one() -> None:
    for motion in ({"motion": "none"}, VELOCITY):
        estimator = Estimator(configuration({"fix": FIX}, motion))
        assert run(estimator, [replace(fix(T0), covariance=-np.eye(6))]) is None
        result = run(estimator, [fix(T0 + SECOND), fix(T0 + SECOND + 100_000_000)])
        assert result is not None
        assert result.tracks["robot"].stamps.tolist() == [T0 + SECOND, T0 + SECOND + 100_000_000]
        assert off(result.tracks["robot"].poses[-1], result.stamp) < 1e-3
        assert balanced(estimator)


def test_landmarks_alone_are_no_result_yet(tmp_path) -> None:
    """A tag of uncertain place becomes a variable before any pose of the track is known."""
    (tmp_path / "map.yaml").write_text(
        "tags:\n  - {id: 1, size: 0.2, sigma: [0.1, 0.1, 0.1, 0.1, 0.1, 0.1],\n"
        "     pose: {position: [2, 0, 0], orientation: [0, 0, 0, 1]}}\n"
    )
    camera = {
        "type": "landmarks",
        "topic": "c",
        "camera_info_topic": "i",
        "ignition": True,
        "landmarks": {"map_file": str(tmp_path / "map.yaml")},
    }
    estimator = Estimator(configuration({"fix": FIX, "camera": camera}, {"manifold": "se3"}))
    estimator.set_intrinsics("camera", CameraIntrinsics(focal=(300.0, 300.0), center=(0.0, 0.0)))
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    seen = LandmarkObservation(id="tag36h11:1", pixels=corners)
    image = LandmarkMeasurement(sensor="camera", stamp=T0, frame="camera", observations=(seen,))
    assert run(estimator, [image]) is None
    assert balanced(estimator)


def test_a_gated_sensor_may_be_the_only_one_there_is() -> None:
    for motion in ({"motion": "none"}, VELOCITY):
        estimator = Estimator(configuration({"fix": {**FIX, "gate_probability": 0.99}}, motion))
        result = None
        for k in range(20):
            result = run(estimator, [fix(T0 + k * SECOND // 10)])
        assert result is not None
        assert estimator.counters["fix"].accepted == 20
        assert off(result.tracks["robot"].poses[-1], result.stamp) < 1e-2


def test_a_window_that_is_solved_already_is_accepted_again() -> None:
    """The second solution differs from the first by rounding only, up or down."""
    generator = np.random.default_rng(7)
    estimator = Estimator(configuration(BOTH, solver={"cost_tolerance": 1e-6}))
    for k in range(60):
        stamp = T0 + k * SECOND // 20
        noisy = compose(truth(stamp), pose2(*(0.05 * generator.normal(size=3))))
        result = run(estimator, [odometry(stamp), fix(stamp, noisy)])
        assert result is not None
        assert result.accepted
        unknown = replace(fix(stamp + 1, noisy), covariance=np.diag([1e12] * 6))
        again = run(estimator, [unknown, odometry(stamp + 2)], stamp + 2)
        assert again is not None
        assert again.accepted, (again.cost_initial, again.cost_final)


# Clocks


def test_when_all_stamps_jump_back_everything_is_too_late_and_nothing_piles_up() -> None:
    estimator = Estimator(configuration(BOTH))
    drive(estimator, T0, T0 + 3 * SECOND)
    for k in range(100):
        assert estimator.feed(odometry(T0 - SECOND + k)) is Reason.TOO_LATE
    assert estimator.counters["odometry"].waiting == 0
    assert estimator.counters["odometry"].rejected == {Reason.TOO_LATE: 100}
    result = drive(estimator, T0 + 3 * SECOND + 50_000_000, T0 + 4 * SECOND)
    assert result is not None
    assert off(result.tracks["robot"].poses[-1], result.stamp) < 0.02
    assert balanced(estimator)


def test_after_a_reset_the_same_stamps_are_no_duplicates_and_nothing_is_throttled() -> None:
    throttled = {"odometry": ODOMETRY, "fix": {**FIX, "throttle": 10.0}}
    estimator = Estimator(configuration(throttled))
    assert run(estimator, [fix(T0), odometry(T0)]) is not None
    estimator.reset()
    assert run(estimator, [fix(T0), odometry(T0)]) is not None
    assert sum(sum(c.rejected.values()) for c in estimator.counters.values()) == 0


def test_after_a_reset_full_smoothing_knows_only_what_came_after_it() -> None:
    estimator = Estimator(configuration(BOTH, window={"duration": 0.3}), archive=True)
    drive(estimator, T0, T0 + SECOND)
    estimator.reset()
    drive(estimator, T0 + 5 * SECOND, T0 + 6 * SECOND)
    assert int(estimator.smooth().stamps[0]) == T0 + 5 * SECOND
    with pytest.raises(DnlsError, match="nobody"):
        estimator.smooth("nobody")


def test_a_pause_of_everything_is_survived_whatever_the_last_velocity_was() -> None:
    spin = {**VELOCITY, "motion_sigma": [0.5, 0.5, 0.5]}
    estimator = Estimator(configuration({"fix": FIX}, spin))
    for k in range(30):
        run(estimator, [fix(T0 + k * SECOND // 20)])
    later = T0 + 600 * SECOND
    result = None
    for k in range(20):
        result = run(estimator, [fix(later + k * SECOND // 20)])
        assert result is not None
        assert result.accepted
    assert result is not None
    assert off(result.tracks["robot"].poses[-1], result.stamp) < 0.05


def test_measurements_wait_for_odometry_no_longer_than_the_window_is_long() -> None:
    short = {"duration": 0.2, "max_gap": 1.0}
    estimator = Estimator(configuration(BOTH, window=short))
    drive(estimator, T0, T0 + SECOND)
    for k in range(1, 20):  # the odometry has stopped
        run(estimator, [fix(T0 + SECOND + k * SECOND // 10)])
    assert estimator.counters["fix"].rejected == {}
    assert estimator.counters["fix"].waiting <= 3


# Duplicates, memory


def test_a_sample_of_motion_that_comes_twice_long_after_is_still_a_duplicate(monkeypatch) -> None:
    monkeypatch.setattr("dnls_ros.window.ingress.REMEMBERED_STAMPS", 4)
    estimator = Estimator(configuration(BOTH, window={"duration": 10.0}))
    drive(estimator, T0, T0 + 2 * SECOND)
    again = T0 + SECOND
    assert estimator.feed(odometry(again)) is None
    result = run(estimator, [odometry(T0 + 2 * SECOND + 50_000_000)])
    assert result is not None
    assert result.accepted
    assert estimator.counters["odometry"].rejected == {Reason.DUPLICATE: 1}
    assert balanced(estimator)


def test_odometry_of_a_track_that_never_starts_is_not_collected_for_ever() -> None:
    estimator = Estimator(configuration(BOTH, window={"duration": 0.5}))
    for k in range(200):
        assert run(estimator, [odometry(T0 + k * SECOND // 20)]) is None
    assert len(estimator.state.increments["odometry"].stamps) < 15
    now = T0 + 200 * SECOND // 20
    result = run(estimator, [fix(now), odometry(now)])
    assert result is not None
    assert balanced(estimator)


def test_nobody_has_to_read_the_log_of_measurements() -> None:
    estimator = Estimator(configuration(BOTH))
    bad = fix(0)
    for _ in range(70_000):
        estimator.feed(bad)
    assert len(estimator.drain()) < 70_000
    assert estimator.counters["fix"].received == 70_000


# Names


@pytest.mark.parametrize("name", ["prior", "landmark", "robot", "motion"])
def test_a_sensor_or_a_track_may_have_any_name(name: str) -> None:
    sensors = {name: {**FIX}, "odometry": ODOMETRY}
    block = {"manifold": "se2", "motion": "none"}
    estimator = Estimator(configuration(sensors, tracks={name: block}))
    result = None
    for k in range(60):
        stamp = T0 + k * SECOND // 20
        result = run(estimator, [odometry(stamp), fix(stamp, sensor=name, sigma=0.01)])
    assert result is not None
    assert estimator.counters[name].accepted == 60
    # Sixty fixes of 1 cm, of which the window holds forty: none may have been lost.
    assert np.sqrt(result.tracks[name].covariance[0, 0]) < 0.01 / np.sqrt(1.5)


# Gates


def test_a_gate_asks_the_window_after_what_is_trusted_has_spoken() -> None:
    """A precise ungated sensor corrects a drift in the same step in which the gate looks."""
    sensors = {
        "odometry": {**ODOMETRY, "sigma": [0.5, 0.5, 0.5]},
        "survey": FIX,
        "fix": {**FIX, "gate_probability": 0.99},
    }
    estimator = Estimator(configuration(sensors))
    run(estimator, [fix(T0, sigma=0.01, sensor="survey"), odometry(T0)])
    stamp = T0 + SECOND // 2
    drifted = compose(truth(stamp), pose2(0.4, 0.2, 0.1))
    surveyed = fix(stamp, sigma=0.01, sensor="survey")
    run(estimator, [odometry(stamp, drifted), surveyed, fix(stamp, sigma=0.02)])
    assert estimator.counters["fix"].rejected == {}


def test_a_new_track_does_not_open_the_gates_of_another() -> None:
    block = {"manifold": "se2", "motion": "none"}
    sensors = {
        "odometry": {**ODOMETRY, "track": "robot"},
        "fix": {**FIX, "gate_probability": 0.99, "track": "robot"},
        "other": {**FIX, "gate_probability": 0.99, "track": "cart"},
    }
    estimator = Estimator(configuration(sensors, tracks={"robot": block, "cart": block}))
    drive(estimator, T0, T0 + SECOND)
    stamp = T0 + SECOND + 50_000_000
    wild = compose(truth(stamp), pose2(30, 0, 0))
    run(estimator, [odometry(stamp), fix(stamp, wild), fix(stamp, sensor="other")])
    assert estimator.counters["fix"].rejected == {Reason.GATED: 1}
    assert estimator.counters["other"].accepted == 1
    assert balanced(estimator)


def test_innovations_are_as_large_as_the_chi_square_distribution_says() -> None:
    sensors = {
        "odometry": {**ODOMETRY, "sigma": [0.05] * 3},
        "fix": {**FIX, "gate_probability": 0.999999},
    }
    generator = np.random.default_rng(3)
    total, count = 0.0, 0
    for _ in range(2):
        estimator = Estimator(configuration(sensors))
        pose = truth(T0)
        for k in range(60):
            stamp = T0 + k * SECOND // 20
            if k:
                step = compose(inverse(truth(stamp - SECOND // 20)), truth(stamp))
                noise = 0.05 / np.sqrt(20) * generator.normal(size=3)
                pose = compose(pose, compose(step, pose2(*noise)))
            measured = compose(truth(stamp), pose2(*(0.05 * generator.normal(size=3))))
            result = run(estimator, [odometry(stamp, pose), fix(stamp, measured)])
            if k > 2 and result is not None and "fix" in result.nis:
                total, count = total + 3 * result.nis["fix"], count + 3
    low, high = chi2.ppf([0.001, 0.999], count) / count
    assert low < total / count < high


# Uncertainty


def test_ahead_of_the_newest_state_the_covariance_covers_the_uncertainty_of_the_twist() -> None:
    """Held twist from two poses with independent errors: after Δt the error has trebled."""
    sigma, step = 0.05, SECOND // 10
    track = {"motion": "random_walk", "motion_sigma": [10.0, 10.0, 10.0]}
    estimator = Estimator(configuration({"fix": FIX}, track))
    run(estimator, [fix(T0, sigma=sigma), fix(T0 + step, sigma=sigma)])
    answer = estimator.pose_at(T0 + 2 * step)
    assert answer.covariance is not None
    assert answer.covariance[0, 0] > 4 * sigma**2


def test_ahead_of_a_moving_body_pose_and_velocity_count_together() -> None:
    estimator = Estimator(configuration({"fix": FIX}, VELOCITY))
    for k in range(20):
        run(estimator, [fix(T0 + k * SECOND // 20)])
    newest, ahead = T0 + 19 * SECOND // 20, SECOND // 5
    marginals = estimator._marginals
    assert marginals is not None
    body = Body("robot", True, True)
    slots = marginals.indices("robot", [19]) + marginals.indices("robot.velocity", [19])
    joint = marginals.covariance(slots)
    # Monte Carlo through the motion model, velocity noise left out.
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(20000, 6, generator=generator, dtype=torch.float64)
    draws = draws @ torch.linalg.cholesky(joint).mT
    pose = marginals.pose(body, 19)
    velocity = marginals.twist(body, 19)
    mean = retract(pose, velocity * 0.2)
    there = retract(retract(pose, draws[:, :3]), (velocity + draws[:, 3:]) * 0.2)
    expected = torch.cov(local(SE2(mean.tensor.expand(20000, -1)), there).mT)
    growth = 0.5**2 * 0.2**3 / 3 * torch.eye(3, dtype=torch.float64)
    answer = estimator.pose_at(newest + ahead)
    assert answer.covariance is not None
    mine = torch.from_numpy(answer.covariance[np.ix_((0, 1, 5), (0, 1, 5))])
    scale = (expected + growth).diagonal().sqrt()
    assert float(((mine - expected - growth) / scale[:, None] / scale).abs().max()) < 0.05


def test_at_exactly_a_state_the_answer_is_that_state() -> None:
    estimator = Estimator(configuration(BOTH))
    result = drive(estimator, T0, T0 + SECOND)
    assert result is not None
    estimate = result.tracks["robot"]
    for k in (0, 7, len(estimate.stamps) - 1):
        answer = estimator.pose_at(int(estimate.stamps[k]))
        assert answer.success
        assert not answer.extrapolated
        assert np.abs(answer.pose - estimate.poses[k]).max() < 1e-12
        assert answer.twist[0] == pytest.approx(SPEED, rel=0.01)
    newest = estimator.pose_at(result.stamp).covariance
    assert newest is not None
    assert np.abs(newest - estimate.covariance).max() < 1e-12


# Planar bodies and sensors in other axes


def tilted(stamp: int, roll: float, pitch: float) -> np.ndarray:
    return compose(truth(stamp), pose_of_rpy((0, 0, 0, roll, pitch, 0)))


@pytest.mark.parametrize("roll", [0.2, np.pi / 2, np.pi])
def test_a_body_on_a_plane_takes_the_heading_of_a_tilted_measurement(roll: float) -> None:
    estimator = Estimator(configuration(BOTH))
    drive(estimator, T0, T0 + SECOND)
    stamp = T0 + SECOND + 50_000_000
    result = run(estimator, [odometry(stamp), fix(stamp, tilted(stamp, roll, 0.0))])
    assert result is not None
    assert result.accepted
    assert off(result.tracks["robot"].poses[-1], result.stamp) < 0.01
    covariance = estimator.pose_at(stamp).covariance
    assert covariance is not None
    assert 1e-5 < covariance[5, 5] < 0.05**2


def test_a_body_on_a_plane_has_no_heading_when_it_looks_straight_up() -> None:
    for sensor in (fix, odometry):
        estimator = Estimator(configuration(BOTH))
        drive(estimator, T0, T0 + SECOND)
        stamp = T0 + SECOND + 50_000_000
        bad = sensor(stamp, tilted(stamp, 0.0, -np.pi / 2))
        result = run(estimator, [bad, odometry(stamp + 1)], stamp + 1)
        assert result is None or np.isfinite(result.tracks["robot"].poses).all()
        name = sensor(stamp).sensor
        assert estimator.counters[name].rejected == {Reason.BAD_QUATERNION: 1}
        assert balanced(estimator)


def test_a_twist_sensor_mounted_askew_measures_its_own_axes() -> None:
    """A speedometer that looks to the left of the robot: its x is the robot's y."""
    speed = {
        "type": "twist",
        "topic": "t",
        "axes": ["vx"],
        "covariance": "fixed",
        "sigma": [0.01],
        "extrinsic": [0, 0, 0, 0, 0, np.pi / 2],
    }
    track = {**VELOCITY, "init": {"mode": "params", "pose": [0, 0, 0], "sigma": [0.01] * 3}}
    estimator = Estimator(configuration({"twist": speed}, track))
    result = None
    for k in range(20):
        stamp = T0 + k * SECOND // 20
        result = run(estimator, [twist(stamp, np.array([0.7, 0, 0, 0, 0, 0]))])
    assert result is not None
    assert result.tracks["robot"].twist[1] == pytest.approx(0.7, abs=0.01)
    covariance = result.tracks["robot"].twist_covariance
    assert covariance is not None
    assert covariance[0, 0] > 100 * covariance[1, 1]


def test_a_relative_pose_measured_askew_weighs_its_own_axes() -> None:
    matcher = {
        "type": "relative_pose",
        "topic": "t",
        "covariance": "fixed",
        "sigma": [0.01, 1.0, 0.01],
        "extrinsic": [0, 0, 0, 0, 0, np.pi / 2],
    }
    track = {"init": {"mode": "params", "pose": [0, 0, 0], "sigma": [0.001] * 3}}
    estimator = Estimator(configuration({"relative": matcher}, track))
    result = run(estimator, [relative(T0 + SECOND)])
    assert result is not None
    sigma = np.sqrt(np.diag(result.tracks["robot"].covariance))
    assert sigma[0] == pytest.approx(1.0, rel=0.01)
    assert sigma[1] == pytest.approx(0.01, rel=0.02)


# Noise


def sensor_config(**settings):
    start = {"init": {"mode": "params", "pose": [0, 0, 0], "sigma": [0.1] * 3}}
    config = configuration({"odometry": ODOMETRY, "fix": {**FIX, **settings}}, start)
    return config.sensor("fix")


def test_a_scaled_covariance_is_the_messages_times_the_factor_and_never_below_the_floor() -> None:
    given = np.diag([4.0, 1.0, 9.0, 9.0, 9.0, 1e-12])
    sensor = sensor_config(covariance="scaled", covariance_scale=2.0, sigma_floor=[0.1])
    assert sensor.sigma_floor == (0.1, 0.1, 0.1)
    used = covariance_of(sensor, given, (0, 1, 5))
    assert isinstance(used, np.ndarray)
    assert np.allclose(np.diag(used), [8.0, 2.0, 0.01], rtol=1e-14)


def test_minus_one_marks_a_message_without_covariance_whichever_axes_are_used() -> None:
    given = np.diag([-1.0, 0.3, 0, 0, 0, 0.3])
    sensor = sensor_config(axes=["y", "yaw"], sigma=[0.1, 0.2])
    used = covariance_of(sensor, given, (1, 5))
    assert isinstance(used, np.ndarray)
    assert np.allclose(np.diag(used), [0.01, 0.04])


def test_a_sample_that_says_nothing_takes_no_digits_from_the_others() -> None:
    body, noise = Body("robot", True, False), MotionNoise(1e-9 * np.eye(3), np.zeros((3, 3)))
    wild = MotionNoise(np.diag([1e6, 1e6, 1e6]), np.zeros((3, 3)))
    buffer = PoseIncrements.empty(body)
    for k in range(20):
        pose = body.elements(truth(T0)[None])
        buffer = buffer.insert(T0 + k * SECOND, pose, wild if k == 3 else noise)
    starts = T0 + np.array([4, 5, 6, 10, 2, 18]) * SECOND
    spans = np.array([1.0, 0.25, 4.5, 0.0, 0.5, 1.0])
    covariance = buffer.covariance(starts, starts + np.round(spans * SECOND).astype(np.int64))
    expected = spans * np.array([1e-9, 1e-9, 1e-9, 1e-9, 1e6, 1e-9])
    assert np.allclose(covariance[:, 0, 0], expected, rtol=1e-14, atol=0)


def test_sigma_in_place_of_a_missing_covariance_is_a_density_for_odometry() -> None:
    """The variances of the axes in use are zero, those of the others are not."""
    told = {**ODOMETRY, "covariance": "message", "sigma": [0.2, 0.2, 0.2]}
    estimator = Estimator(configuration({"odometry": told, "fix": FIX}))
    missing = np.diag([0, 0, 1e6, 1e6, 1e6, 0])
    fed = [replace(odometry(T0 + k * SECOND // 20), twist_covariance=missing) for k in range(21)]
    result = run(estimator, [fix(T0, sigma=1e-3), *fed])
    assert result is not None
    assert np.sqrt(result.tracks["robot"].covariance[1, 1]) == pytest.approx(0.2, rel=0.3)


# Garbage

EXTREME = (0.0, -1.0, np.nan, np.inf, -np.inf, 1e300, 1e12, 1e-300, 1e7, np.pi)


class Vandal:
    """Measurements of every kind, of which some numbers are anything."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def spoil(self, numbers: np.ndarray) -> np.ndarray:
        flat = np.array(numbers, dtype=np.float64).reshape(-1)
        if self.random.random() < 0.2:
            flat[self.random.integers(len(flat), size=2)] = self.random.choice(EXTREME, 2)
        return flat.reshape(np.shape(numbers))

    def pose(self, pose: np.ndarray) -> np.ndarray:
        turned = pose.copy()
        if self.random.random() < 0.2:
            turned[3:] = self.random.normal(size=4)
            turned[3:] /= np.linalg.norm(turned[3:])
        return self.spoil(turned)

    def covariance(self) -> np.ndarray:
        root = self.random.normal(size=(6, 6)) * 10.0 ** self.random.integers(-6, 4)
        diagonal = np.diag(10.0 ** self.random.uniform(-14, 12, 6))
        kinds = [1e-3 * np.eye(6), np.zeros((6, 6)), root @ root.T, diagonal]
        return self.spoil(kinds[self.random.integers(4)])

    def measurement(self, stamp: int) -> Measurement:
        stamp += int(self.random.choice([0, 0, 0, 1, -(SECOND // 5), SECOND // 10, -SECOND]))
        noise, step = self.covariance(), compose(inverse(truth(stamp - SECOND)), truth(stamp))
        made = [
            replace(odometry(stamp, self.pose(truth(stamp))), twist_covariance=noise),
            replace(fix(stamp, self.pose(truth(stamp))), covariance=noise),
            replace(fix(stamp, self.pose(truth(stamp)), sensor="xy"), covariance=noise),
            replace(twist(stamp, self.spoil(np.ones(6))), covariance=noise),
            replace(relative(stamp), relative=self.pose(step), covariance=noise),
        ]
        return made[self.random.integers(len(made))]


@pytest.mark.parametrize("manifold", ["se2", "se3"])
@pytest.mark.parametrize("motion", ["none", "constant_velocity"])
def test_garbage_is_counted_and_never_raises_nor_is_anything_said_that_is_not_finite(
    manifold: str, motion: str
) -> None:
    sigma = [0.01] * (3 if manifold == "se2" else 6)
    sensors = {
        "odometry": {**ODOMETRY, "covariance": "message", "sigma": sigma},
        "fix": {**FIX, "gate_probability": 0.99},
        "xy": {**FIX, "axes": ["x", "y"], "robust": "cauchy"},
        "twist": {"type": "twist", "topic": "twist"},
        "relative": {"type": "relative_pose", "topic": "relative", "gate_probability": 0.99},
    }
    track, window = {"manifold": manifold, "motion": motion}, {"duration": 0.5, "prior_fej": True}
    solver = {"cost_tolerance": 1e-6, "step_tolerance": 1e-7, "max_iterations": 10}
    vandal, solved = Vandal(5), 0
    estimator = Estimator(configuration(sensors, track, window=window, solver=solver))
    for stamp in range(T0 + SECOND, T0 + 3 * SECOND, SECOND // 20):
        for _ in range(3):
            estimator.feed(vandal.measurement(stamp), clock=stamp)
        result = estimator.step(stamp)
        assert balanced(estimator)
        solved += result is not None
        for estimate in [] if result is None else result.tracks.values():
            said = (estimate.poses, estimate.covariance, estimate.twist)
            assert all(np.isfinite(numbers).all() for numbers in said)
            assert np.linalg.eigvalsh(estimate.covariance)[0] > 0
    assert solved > 20


def test_a_replay_stamps_with_the_arrival_where_that_is_asked_for() -> None:
    header = SimpleNamespace(frame_id="map", stamp=SimpleNamespace(sec=5, nanosec=0))
    point = SimpleNamespace(x=1.0, y=2.0, z=0.0)
    upright = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
    inner = SimpleNamespace(
        pose=SimpleNamespace(position=point, orientation=upright), covariance=np.eye(6).ravel()
    )
    message = SimpleNamespace(header=header, pose=inner)
    kind = "geometry_msgs/msg/PoseWithCovarianceStamped"
    record = Record("fix", kind, 7 * SECOND, message)
    for source, stamp in (("header", 5 * SECOND), ("arrival", 7 * SECOND)):
        config = configuration({"fix": {**FIX, "stamp_source": source}})
        (feed,) = feeds_of([record], config)
        assert feed.stamp == stamp
        assert isinstance(feed.item, PoseMeasurement)
        assert feed.item.stamp == stamp
