"""What leaves, without DDS: every field set, all of it finite, nothing lost in silence."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dnls_ros.io.compose import Composer
from dnls_ros.io.compose_diagnostics import diagnostics
from dnls_ros.io.compose_markers import MarkerComposer
from dnls_ros.io.compose_outputs import (
    UNKNOWN_VARIANCE,
    filtered_odometry,
    odometry,
    usable_covariance,
)
from dnls_ros.io.compose_stats import failed_solve, solver_stats
from dnls_ros.io.compose_status import (
    Figures,
    estimator_status,
    event_message,
    measurement_status,
)
from dnls_ros.io.definitions import message_class, typestore
from dnls_ros.ros.publish_queue import OutputQueue
from dnls_ros.ros.usage import Usage
from dnls_ros.runtime.types import (
    EstimatorState,
    Event,
    Level,
    SensorHealth,
    SensorState,
    Status,
)
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.evidence import Lines
from dnls_ros.window.ingress import Settled
from dnls_ros.window.measurements import PoseMeasurement, Reason
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.predict import Predicted, predict
from dnls_ros.window.results import StepResult
from dnls_ros.window.snapshot import WindowSnapshot, snapshot
from dnls_ros.window.solve_report import Termination
from dnls_ros.window.wanted import Wanted

SECOND = 1_000_000_000
T0 = 1_000 * SECOND
PERIOD = SECOND // 20
COMPOSE = Composer(message_class)
ANYTHING = st.floats(allow_nan=True, allow_infinity=True, width=64)


def configuration(manifold: str = "se2", motion: str = "constant_velocity", **gps: Any) -> Any:
    count = 3 if manifold == "se2" else 6
    return load_parameters(
        {
            "world_frame": "map",
            "deterministic": True,
            "tracks": ["robot"],
            "sensors": ["gps"],
            "track": {
                "robot": {
                    "manifold": manifold,
                    "child_frame": "base_link",
                    "motion": motion,
                    "motion_sigma": [0.3] * count,
                }
            },
            "sensor": {"gps": {"type": "pose", "topic": "gps", "frame_override": "map", **gps}},
        }
    )


def pose(k: int, error: float = 0.0) -> PoseMeasurement:
    seconds = k * PERIOD * 1e-9
    yaw = 0.3 * seconds
    place = [0.5 * seconds + error, 0.1 * seconds**2, 0.0, 0, 0, np.sin(yaw / 2), np.cos(yaw / 2)]
    return PoseMeasurement(
        sensor="gps",
        stamp=T0 + k * PERIOD,
        frame="map",
        sequence=k,
        pose=np.array(place),
        covariance=0.02**2 * np.eye(6),
    )


def run(
    config: EstimatorConfig, wanted: Wanted | None = None, count: int = 20, outlier: int = -1
) -> tuple[Estimator, list[StepResult], list[Settled]]:
    """An estimator after some poses, its results, and what became of the measurements."""
    estimator = Estimator(config)
    estimator.wanted = wanted or Wanted()
    results: list[StepResult] = []
    for k in range(count):
        m = pose(k, 3.0 if k == outlier else 0.0)
        estimator.feed(m, clock=m.stamp + 7_000_000)
        result = estimator.step(m.stamp)
        if result is not None:
            results.append(result)
    return estimator, results, estimator.drain()


def health(**changes: Any) -> SensorHealth:
    base = SensorHealth(
        "gps", SensorState.OK, 20.0, 0.01, 0.005, 0.02, 1.1, 10, 7, 1, {Reason.GATED: 2}, "far"
    )
    return replace(base, **changes)


def status(**changes: Any) -> Status:
    base = Status(
        stamp=T0,
        state=EstimatorState.TRACKING,
        previous_state=EstimatorState.INITIALIZING,
        state_since=T0 - SECOND,
        reason="",
        tracks=("robot",),
        window_states=20,
        window_span=1.0,
        output_age=0.1,
        solve_rate=20.0,
        solve_p95=0.01,
        solves_total=50,
        solves_rejected=2,
        solves_failed=1,
        deadlines_missed=3,
        cycles_skipped=4,
        resets_total=5,
        sensors=(health(),),
    )
    return replace(base, **changes)


def encoded(message: Any) -> bytes:
    """The message as it goes over the wire; raises where a field has the wrong type."""
    return bytes(typestore().serialize_cdr(message, message.__msgtype__))


def back(message: Any) -> Any:
    """The message after the way over the wire."""
    return typestore().deserialize_cdr(encoded(message), message.__msgtype__)


# Covariances and odometry


@settings(max_examples=200, deadline=None)
@given(arrays(np.float64, (6, 6), elements=ANYTHING))
def test_whatever_the_matrix_a_covariance_leaves_finite_and_definite(matrix):
    out = usable_covariance(matrix)
    assert np.isfinite(out).all()
    assert (np.diag(out) > 0.0).all()
    np.testing.assert_array_equal(out, out.T)
    scale = np.sqrt(np.outer(np.diag(out), np.diag(out)))
    assert np.linalg.eigvalsh(out / scale).min() > -1e-9


def test_what_is_unknown_is_huge_and_what_is_sound_stays():
    unknown = UNKNOWN_VARIANCE * np.eye(6)
    nan = np.full((6, 6), np.nan)
    for bad in (None, np.zeros((6, 6)), nan, np.diag([-1.0, 1, 1, 1, 1, 1])):
        np.testing.assert_array_equal(usable_covariance(bad), unknown)
    root = np.random.default_rng(0).normal(size=(6, 6))
    sound = root @ root.T + np.eye(6)
    np.testing.assert_allclose(usable_covariance(sound), sound, rtol=1e-15)


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float64, 7, elements=ANYTHING),
    arrays(np.float64, 6, elements=ANYTHING),
    arrays(np.float64, (6, 6), elements=ANYTHING),
)
def test_odometry_is_finite_or_does_not_leave(place, twist, matrix):
    track = configuration().track()
    if np.isfinite(place[3:]).all():
        place[3:] = [0.0, 0.0, 0.6, 0.8]
    message = odometry(COMPOSE, track, T0, Predicted(place, matrix, twist, matrix))
    if message is None:
        assert not np.isfinite(place).all()
        return
    numbers = [*message.pose.covariance, *message.twist.covariance]
    linear = message.twist.twist.linear
    numbers += [message.pose.pose.position.x, linear.x, linear.y, linear.z]
    assert np.isfinite(numbers).all()
    encoded(message)


@pytest.mark.parametrize("manifold", ["se2", "se3"])
@pytest.mark.parametrize("motion", ["constant_velocity", "random_walk", "none"])
def test_a_prediction_is_what_a_query_ahead_answers(manifold, motion):
    config = configuration(manifold, motion)
    estimator, results, _ = run(config, Wanted(prediction=True))
    newest = results[-1].tracks["robot"]
    for seconds in (0.0, 0.1, 0.4):
        found = predict(newest, config.track(), seconds)
        stamp = int(newest.stamps[-1]) + round(seconds * 1e9)
        asked = estimator.pose_at(stamp)
        assert asked.success
        np.testing.assert_allclose(found.pose, asked.pose, atol=1e-12)
        np.testing.assert_allclose(found.covariance, asked.covariance, rtol=1e-9, atol=1e-15)
        message = odometry(COMPOSE, config.track(), stamp, found)
        assert np.linalg.eigvalsh(message.pose.covariance.reshape(6, 6)).min() > 0.0


def test_odometry_is_in_the_frames_of_its_track():
    config = configuration()
    _, results, _ = run(config)
    message = filtered_odometry(COMPOSE, config.track(), results[-1].tracks["robot"])
    assert (message.header.frame_id, message.child_frame_id) == ("map", "base_link")
    assert message.twist.twist.linear.x == pytest.approx(0.5, abs=0.05)


# What a solve says


def test_nothing_that_is_wanted_changes_an_estimate():
    config = configuration(gate_probability=0.99)
    everything = Wanted(details=True, evidence=True, rejected=True, prediction=True)
    _, plain, _ = run(config, outlier=12)
    _, asked, _ = run(config, everything, outlier=12)
    for a, b in zip(plain, asked, strict=True):
        for name, track in a.tracks.items():
            np.testing.assert_array_equal(track.poses, b.tracks[name].poses)
            np.testing.assert_array_equal(track.covariance, b.tracks[name].covariance)
        assert a.cost_final == b.cost_final


def test_costs_by_factor_add_up():
    _, results, _ = run(configuration(robust="huber", robust_scale=1.0), Wanted(details=True), 60)
    report = results[-1].report
    assert report is not None
    costs = {cost.type: cost for cost in report.costs}
    assert set(costs) == {"gps", "robot.motion", "prior"}
    total = sum(cost.cost for cost in report.costs)
    assert total == pytest.approx(results[-1].cost_final, rel=1e-9)
    assert report.cost_prior == costs["prior"].cost
    assert costs["gps"].dim == 3 * costs["gps"].count
    assert report.residuals == sum(cost.dim for cost in report.costs)
    assert report.dof == 6 * results[-1].states
    assert report.termination <= Termination.MAX_ITERATIONS
    assert 0.0 < report.min_diag_ratio < 1.0
    assert report.weakest.startswith("robot@t-")


def test_an_outlier_counts_as_downweighted():
    config = configuration(robust="cauchy", robust_scale=1.0)
    _, results, settled = run(config, Wanted(details=True, evidence=True), outlier=12)
    report = results[-1].report
    assert report is not None
    gps = next(cost for cost in report.costs if cost.type == "gps")
    assert gps.downweighted == 1
    weights = {s.sequence: s.evidence.weight for s in settled if s.evidence is not None}
    assert weights[12] < 0.1
    assert weights[5] > 0.5


def test_the_weakest_direction_is_the_one_that_is_weak():
    """Only the position is measured: of a body in space, the attitude hardly is."""
    config = configuration("se3", "none", covariance="fixed", sigma=[0.01] * 5 + [50.0])
    _, results, _ = run(config, Wanted(details=True), 1)
    report = results[-1].report
    assert report is not None
    assert report.weakest == "robot@t-0.000s yaw"
    assert report.min_diag_ratio == pytest.approx(0.01 / 50.0, rel=1e-6)


def test_evidence_of_a_gated_measurement():
    config = configuration(gate_probability=0.999)
    _, _, settled = run(config, Wanted(evidence=True), outlier=12)
    by_sequence = {s.sequence: s for s in settled}
    out, fine = by_sequence[12], by_sequence[13]
    assert out.reason is Reason.GATED
    assert out.evidence is not None
    assert out.evidence.nis > out.evidence.gate == pytest.approx(16.266, abs=1e-3)
    assert out.evidence.weight == 0.0
    assert np.abs(out.evidence.residual).max() == pytest.approx(3.0 / 0.02, rel=0.05)
    (line,) = out.evidence.lines
    assert line.end[0, 0] - line.start[0, 0] == pytest.approx(3.0, abs=0.1)
    assert fine.reason is Reason.ACCEPTED
    assert fine.evidence is not None
    assert fine.evidence.nis <= fine.evidence.gate
    assert len(fine.evidence.residual) == fine.evidence.dim == 3
    assert fine.evidence.weight == 1.0
    assert fine.latency == pytest.approx(0.007)
    assert fine.frame == "map"


def test_a_rejection_at_the_door_has_a_frame_and_a_latency():
    estimator = Estimator(configuration())
    estimator.feed(pose(3), clock=pose(3).stamp + 5_000_000)
    estimator.feed(pose(3), clock=pose(3).stamp + 9_000_000)
    estimator.feed(replace(pose(4), frame="x", pose=np.full(7, np.nan)))
    duplicate, bad = estimator.drain()
    assert (duplicate.reason, duplicate.frame) == (Reason.DUPLICATE, "map")
    assert duplicate.latency == pytest.approx(0.009)
    assert (bad.reason, bad.frame) == (Reason.NOT_FINITE, "x")
    assert math.isnan(bad.latency)


# Snapshots and markers


def test_a_snapshot_agrees_with_the_result():
    estimator, results, _ = run(configuration())
    shot = snapshot(estimator)
    assert shot is not None
    states, newest = shot.tracks["robot"], results[-1].tracks["robot"]
    assert shot.window_id == results[-1].window_id
    np.testing.assert_array_equal(states.stamps, newest.stamps)
    np.testing.assert_allclose(states.poses, newest.poses)
    np.testing.assert_allclose(states.twists[-1], newest.twist)
    assert states.covariances is not None
    np.testing.assert_allclose(states.covariances[-1], newest.covariance, rtol=1e-9)
    for k, stamp in enumerate(states.stamps.tolist()):
        asked = estimator.pose_at(stamp)
        np.testing.assert_allclose(states.covariances[k], asked.covariance, rtol=1e-8)
    (lines,) = shot.lines
    measured = np.stack([pose(k).pose[:3] for k in range(20)])
    np.testing.assert_allclose(lines.end, measured, atol=1e-9)


def test_there_is_no_snapshot_before_the_first_solve():
    assert snapshot(Estimator(configuration())) is None


def marker_numbers(array: Any) -> np.ndarray:
    numbers: list[float] = []
    for m in array.markers:
        q = m.pose.orientation
        numbers += [m.pose.position.x, m.pose.position.y, m.pose.position.z]
        numbers += [m.scale.x, m.scale.y, m.scale.z, q.x, q.y, q.z, q.w]
        numbers += [c for point in m.points for c in (point.x, point.y, point.z)]
        for color in (m.color, *m.colors):
            numbers += [color.r, color.g, color.b, color.a]
    return np.array(numbers)


def spoilt(shot: WindowSnapshot, value: float) -> WindowSnapshot:
    """The snapshot with one bad pose, covariance and line."""
    states = shot.tracks["robot"]
    poses, covariances = states.poses.copy(), np.array(states.covariances)
    poses[3, 1] = covariances[5, 0, 0] = value
    track = replace(states, poses=poses, covariances=covariances)
    return replace(shot, tracks={"robot": track})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_markers_are_finite_whatever_the_window_holds(value):
    config = configuration()
    estimator, _, _ = run(config)
    shot = snapshot(estimator)
    assert shot is not None
    array = MarkerComposer(COMPOSE, config, 5.0).array(spoilt(shot, value))
    assert np.isfinite(marker_numbers(array)).all()
    encoded(array)


def test_ellipsoids_lie_along_the_uncertain_direction():
    config = configuration("se3", "none", covariance="fixed", sigma=[0.5, 0.1, 0.1, 1, 1, 1])
    estimator, _, _ = run(config, count=1)
    shot = snapshot(estimator)
    assert shot is not None
    markers = MarkerComposer(COMPOSE, config, 5.0).array(shot).markers
    ball = next(m for m in markers if m.ns == "robot/covariance")
    assert sorted([ball.scale.x, ball.scale.y, ball.scale.z]) == pytest.approx([0.4, 0.4, 2.0])


def test_markers_that_are_no_longer_drawn_are_deleted():
    config = configuration()
    estimator, _, _ = run(config)
    shot = snapshot(estimator)
    assert shot is not None
    painter = MarkerComposer(COMPOSE, config, 5.0)
    one = np.zeros((1, 3))
    first = painter.array(shot, [Lines("gps", "robot", one, one + 1.0, np.zeros(1))])
    second = painter.array(shot)
    third = painter.array(shot)
    red = [m for m in first.markers if m.ns == "rejected/gps/robot"]
    assert [(c.r, c.g, c.b) for c in red[0].colors] == [(1.0, 0.0, 0.0)] * 2
    gone = [m for m in second.markers if m.action == m.DELETE]
    assert [(m.ns, m.id) for m in gone] == [("rejected/gps/robot", 0)]
    assert not [m for m in third.markers if m.action == m.DELETE]
    (last,) = painter.nothing().markers
    assert last.action == last.DELETEALL


# Messages


def test_every_message_survives_the_wire():
    config = configuration(gate_probability=0.999)
    estimator, results, settled = run(config, Wanted(details=True, evidence=True), outlier=12)
    stats = back(solver_stats(COMPOSE, results[-1], config, status()))
    assert (stats.window_id, stats.accepted) == (results[-1].window_id, True)
    assert (stats.backlog, stats.cycles_skipped, stats.t_budget) == (1, 4, 0.0)
    assert {cost.type for cost in stats.costs} >= {"gps", "robot.motion"}
    failed = Event(T0, Level.ERROR, "solver.exception", "it raised")
    assert back(failed_solve(COMPOSE, failed, config, None)).termination == Termination.EXCEPTION
    for one in settled:
        message = back(measurement_status(COMPOSE, one))
        assert (message.reason, message.sequence) == (one.reason, one.sequence)
    event = Event(T0, Level.WARN, "time.jump_back", "by 3 s", {"seconds": "3"})
    message = back(event_message(COMPOSE, event, "map"))
    assert (message.level, message.values[0].key, message.values[0].value) == (1, "seconds", "3")
    shot = snapshot(estimator)
    assert shot is not None
    states = shot.tracks["robot"]
    window = back(
        COMPOSE.track_window(
            "robot", "map", "base_link", 7, states.stamps, states.poses, states.twists,
            states.covariances,
        )
    )  # fmt: skip
    assert len(window.covariances) == 36 * len(window.poses)


def test_status_keeps_the_account_by_reason():
    config = configuration(expected_rate=20.0)
    figures = Figures(0.2, 0.03, 55.0, 120.0, "cpu", "ab", "1", {"gps": "/r/gps"}, {"gps": 2})
    message = back(estimator_status(COMPOSE, status(), config, figures))
    (gps,) = message.sensors
    assert (gps.topic, gps.publishers, gps.expected_rate) == ("/r/gps", 2, 20.0)
    assert len(gps.rejected) == len(Reason)
    assert gps.rejected[Reason.GATED] == 2
    assert message.solves_rejected == 3  # refused or raised
    assert (message.output_age, message.latency_p95) == (0.2, 0.03)


@given(st.integers(-(2**63), 2**63 - 1))
def test_any_stamp_of_a_rejected_message_can_be_told(stamp):
    said = Settled("gps", -1, stamp, Reason.FUTURE_STAMP, "later", "")
    encoded(measurement_status(COMPOSE, said))


@pytest.mark.parametrize("state", list(EstimatorState))
def test_diagnostics_map_states_to_levels(state):
    levels = {
        EstimatorState.TRACKING: 0,
        EstimatorState.LOST: 2,
    }
    said = diagnostics(
        COMPOSE,
        T0,
        "ns/node",
        status(state=state, reason="because"),
        configuration(),
        Figures(),
        {},
    )
    estimator, gps = back(said).status
    assert estimator.level == levels.get(state, 1)
    assert estimator.message == f"{state.name}: because"
    assert (estimator.name, gps.name) == ("ns/node: estimator", "ns/node: sensor gps")
    keys = {pair.key: pair.value for pair in estimator.values}
    assert keys["rejected_gated"] == "2"
    assert keys["latency_p95_s"] == "unknown"


def test_a_required_sensor_that_is_stale_is_an_error():
    config = configuration()
    config = replace(config, health=replace(config.health, required_sensors=("gps",)))
    said = status(sensors=(health(state=SensorState.STALE),))
    message = diagnostics(COMPOSE, T0, "n", said, config, Figures(), {"tf_conflict": "robot"})
    estimator, gps = back(message).status
    assert gps.level == 2
    assert estimator.level == 1
    assert "robot" in estimator.message


# Threads


def result() -> StepResult:
    return run(configuration(), count=2)[1][-1]


def test_a_full_queue_drops_the_oldest_result_and_counts():
    queue: OutputQueue[Any] = OutputQueue(capacity=3)
    event = Event(T0, Level.INFO, "a", "b")
    base = result()
    results = [replace(base, window_id=k) for k in range(5)]
    queue.put(event)
    for one in results:
        queue.put(one)
    assert queue.dropped == 3
    assert queue.take(0.0) is event
    assert [queue.take(0.0), queue.take(0.0)] == results[3:]
    assert queue.take(0.0) is None


def test_the_queue_keeps_the_newest_status_and_what_is_left_at_the_end():
    queue: OutputQueue[Any] = OutputQueue()
    queue.put(status(solves_total=1))
    queue.put(status(solves_total=2))
    queue.close()
    assert not queue.ended
    taken = queue.take(10.0)
    assert taken.solves_total == 2
    assert queue.ended


def test_closing_wakes_the_taker():
    queue: OutputQueue[Any] = OutputQueue()
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take(30.0)))
    thread.start()
    queue.close()
    thread.join(5.0)
    assert taken == [None]


def test_a_period_neither_drifts_nor_bursts():
    every = pytest.importorskip("dnls_ros.ros.publish_topics").Every
    timer = every(10.0)
    times = np.arange(0.0, 10.0, 0.013)
    assert 99 <= sum(timer.due(float(t)) for t in times) <= 101
    assert timer.due(100.0)
    assert not timer.due(100.05)  # the ninety seconds between are not made up for
    assert timer.due(3.0)  # a clock that went back
    assert timer.wait(3.02) == pytest.approx(0.08)
    never = every(0.0)
    assert not never.due(0.0)
    assert never.wait(0.0) == math.inf


def test_usage_is_read():
    usage = Usage()
    assert math.isnan(usage.cpu_percent())
    assert usage.rss_mb() > 10.0
