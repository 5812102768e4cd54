"""The session: states, time, commands, accounts, what it keeps; in process, on a simulated arc."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from session_rig import (
    FIX,
    LATENCY,
    ODOMETRY,
    SECOND,
    Data,
    Recorder,
    configuration,
    drive,
    fix,
    odometry,
    pose2,
    stamp_of,
    truth,
)

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.runtime.dump import load_window
from dnls_ros.runtime.transforms import StampedTransform
from dnls_ros.runtime.types import EstimatorState, SensorState
from dnls_ros.window.estimator import Attempt
from dnls_ros.window.measurements import PoseMeasurement, Reason, Rejection
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.results import PoseReason
from dnls_ros.window.rigid import compose

TRACKING = EstimatorState.TRACKING


def only(data: Data, sensor: str) -> Data:
    return [(a, m) for a, m in data if m.sensor == sensor]


def without(data: Data, sensor: str, start: float, end: float) -> Data:
    low, high = stamp_of(start), stamp_of(end)
    return [(a, m) for a, m in data if m.sensor != sensor or not low <= m.stamp < high]


# States


def test_from_no_data_to_tracking() -> None:
    record = Recorder()
    assert record.state is EstimatorState.UNINITIALIZED
    assert not record.session.pose_at(stamp_of(0)).success
    record.send(only(drive(0, 0.5), "odometry"))
    assert record.state is EstimatorState.INITIALIZING
    assert record.reason == "init.waiting:robot"
    record.send(drive(0.5, 1.5))
    assert record.states() == ["INITIALIZING", "TRACKING"]
    status = record.session.status()
    assert status.tracks == ("robot",)
    assert status.window_states > 5
    assert 0 < status.output_age < 0.2
    assert status.solve_rate == pytest.approx(10, rel=0.2)


def test_a_missing_required_sensor_degrades_and_its_return_cures() -> None:
    record = Recorder(configuration(health={"required_sensors": ["fix"], "stale_after": 0.3}))
    record.send(without(drive(0, 4), "fix", 2, 3))
    states = record.states()
    assert states == ["INITIALIZING", "TRACKING", "DEGRADED", "TRACKING"]
    degraded = next(e for e in record.events if e.values.get("to") == "DEGRADED")
    assert degraded.values["reason"] == "sensor.stale:fix"
    codes = record.codes()
    assert codes.index("sensor.stale") < codes.index("sensor.back")


@pytest.mark.parametrize("kind", ["rejection", "zero stamp", "future stamp"])
def test_nonsense_in_place_of_data_loses_the_estimate_once(kind: str) -> None:
    def spoil(item: Any) -> Any:
        if kind == "rejection":
            return Rejection(item.sensor, item.stamp, Reason.NOT_FINITE, "it is NaN")
        return replace(item, stamp=0 if kind == "zero stamp" else item.stamp + 5 * SECOND)

    bad = [(a, spoil(m) if 2 < (a - LATENCY) < 4 else m) for a, m in drive(0, 6)]
    record = Recorder().send(bad)
    states = record.states()
    assert states.count("LOST") == 1
    assert states[:3] == ["INITIALIZING", "TRACKING", "LOST"]
    lost = next(e for e in record.events if e.values.get("to") == "LOST")
    assert 0.4e9 < lost.stamp - stamp_of(2) < 1.0e9
    assert len(states) < 8
    assert record.state is TRACKING


def test_silence_loses_the_estimate_and_data_bring_it_back_at_once() -> None:
    record = Recorder().send(drive(0, 2)).wait(2, 4)
    assert record.state is EstimatorState.LOST
    assert record.reason == "estimate.stale"
    lost = next(e for e in record.events if e.values.get("to") == "LOST")
    assert 0.4e9 < lost.stamp - stamp_of(2) < 1.0e9
    # What the window knows it still tells; it is not carried ahead for ever.
    assert record.session.pose_at(stamp_of(1.5)).success
    far = record.session.pose_at(stamp_of(4), max_extrapolation=10.0)
    assert far.reason is PoseReason.NOT_TRACKING
    assert "LOST" in far.message
    record.send(drive(4, 5.5))
    assert record.state is TRACKING
    assert record.back_after(4) <= 0.5
    assert record.errors(4.8, 5.5).max() < 0.15


def test_a_track_that_cannot_start_is_lost_after_its_time() -> None:
    record = Recorder(configuration(init={"timeout": 1.0}))
    record.send(only(drive(0, 2), "odometry"))
    assert record.state is EstimatorState.LOST
    assert record.reason == "init.timeout"
    assert record.codes().count("init.timeout") == 1
    record.send(drive(2, 3))
    assert record.state is TRACKING


def test_a_sensor_that_is_refused_shows_in_its_health_and_in_the_state() -> None:
    record = Recorder().send(drive(0, 1))
    broken = [(a, fix((m.stamp - stamp_of(0)) * 1e-9, np.full(7, np.nan)))
              if m.sensor == "fix" else (a, m) for a, m in drive(1, 3.5)]  # fmt: skip
    record.send(broken)
    health = {s.name: s for s in record.session.status().sensors}
    assert health["fix"].state is SensorState.REJECTING
    assert health["odometry"].state is SensorState.OK
    assert record.reason == "sensor.rejecting:fix"
    assert health["fix"].rejected[Reason.NOT_FINITE] == 12
    assert "NOT_FINITE" in health["fix"].message
    assert health["odometry"].rate == pytest.approx(20, rel=0.1)
    assert health["odometry"].latency_mean == pytest.approx(0.01, abs=1e-3)


# Time


@pytest.mark.parametrize("clock", [True, False])
def test_after_a_jump_back_it_tracks_within_a_second(clock) -> None:
    record = Recorder().send(drive(50, 52), clock)
    record.send(drive(10, 12, seed=1), clock)
    assert record.codes().count("time.jump_back") == 1
    assert record.state is TRACKING
    first = min(s.stamp for s in record.steps if s.stamp < stamp_of(40))
    assert first - stamp_of(10) <= SECOND
    assert record.errors(10.5, 12).max() < 0.15
    # What revealed the jump was used: only what waited for a step of the old time was given up.
    lost = sum(sum(s.rejected.values()) for s in record.session.status().sensors)
    assert lost <= 4


def test_a_bag_looped_three_times_is_estimated_three_times() -> None:
    record = Recorder()
    for loop in range(3):
        data = [(a + 3 * loop, m) for a, m in drive(0, 2.5, seed=1)]
        record.send(data, clock=True)
    assert record.codes().count("time.jump_back") == 2
    assert record.session.status().resets_total == 2
    assert record.errors(0.5, 2.5).max() < 0.15
    assert record.state is TRACKING


def test_a_jump_of_all_stamps_ahead_starts_a_new_window() -> None:
    record = Recorder().send(drive(0, 2), clock=False)
    record.send(drive(2, 4, shift=100, seed=1), clock=False)
    event = record.since("time.jump_forward")
    assert "more than the window" in event.text
    assert record.state is TRACKING
    assert record.back_after(102) <= 1.0
    assert record.errors(2.5, 4, shift=100).max() < 0.15


def test_a_jump_ahead_may_be_ignored() -> None:
    record = Recorder(configuration(time={"on_jump_forward": "continue"}))
    record.send(drive(0, 2), clock=False).send(drive(2, 3, shift=100, seed=1), clock=False)
    assert "time.jump_forward" in record.codes()
    assert record.session.status().resets_total == 0
    assert record.state is TRACKING


def test_a_stamp_of_the_future_changes_nothing() -> None:
    data = drive(0, 3)
    reference = Recorder().send(data, clock=False)
    spoiled = [*data[:30], (1.0, fix(500.0)), *data[30:]]
    record = Recorder().send(spoiled, clock=False)
    assert record.reasons("fix") == {Reason.FUTURE_STAMP: 1}
    assert digest(record) == digest(reference)


def test_a_pause_by_a_jump_back_waits_for_its_end() -> None:
    record = Recorder(configuration(time={"on_jump_back": "pause"})).send(drive(50, 52))
    record.send(drive(10, 11))
    assert record.state is EstimatorState.PAUSED
    assert record.reason == "time.jump_back"
    steps = len(record.steps)
    record.session.set_paused(False)
    record.send(drive(11, 12))
    assert record.state is TRACKING
    assert len(record.steps) > steps


def test_a_clock_callback_is_a_jump() -> None:
    record = Recorder().send(drive(50, 52))
    record.session.jump(True, "the clock went back")
    record.collect()
    assert record.state is EstimatorState.INITIALIZING
    record.send(drive(10, 12))
    assert record.codes().count("time.jump_back") == 1
    assert record.state is TRACKING


def test_a_clock_that_stands_still_makes_nothing_stale() -> None:
    record = Recorder().send(drive(0, 2))
    for _ in range(100):
        record.session.advance(stamp_of(2))
    record.collect()
    assert record.state is TRACKING


# Commands


def test_set_pose_puts_the_track_there_and_what_is_wrong_is_refused() -> None:
    track = {"init": {"mode": "set_pose"}}
    record = Recorder(configuration(track=track)).send(drive(0, 1))
    assert record.state is EstimatorState.INITIALIZING
    session = record.session

    def told(message, track: str = "") -> str:
        before = session.estimator.state
        outcome = session.set_pose(message, track)
        assert not outcome.success
        assert session.estimator.state is before
        return outcome.message

    good = fix(1.0)
    assert "nobody" in told(good, "nobody")
    assert "BAD_QUATERNION" in told(replace(good, pose=np.zeros(7)))
    assert "NOT_FINITE" in told(replace(good, pose=np.full(7, np.nan)))
    assert "definite" in told(replace(good, covariance=-np.eye(6)))
    lopsided = np.eye(6)
    lopsided[0, 1] = 0.5
    assert "symmetric" in told(replace(good, covariance=lopsided))
    assert "finite" in told(replace(good, covariance=np.full((6, 6), np.nan)))
    assert "mars" in told(replace(good, frame="mars"))
    assert "empty" in told(replace(good, frame=""))
    assert "TOO_LATE" in told(replace(good, stamp=stamp_of(-30)))
    assert "FUTURE_STAMP" in told(replace(good, stamp=stamp_of(30)))
    assert session.set_pose(replace(good, stamp=0)).success
    record.send(drive(1, 2))
    assert record.state is TRACKING
    assert record.errors(1.3, 2).max() < 0.15


def test_set_pose_moves_a_track_without_fixes_and_keeps_its_odometry() -> None:
    track = {"init": {"mode": "params", "pose": [0.0, 0.0, 0.0], "sigma": [0.01, 0.01, 0.01]}}
    record = Recorder(configuration(track=track)).send(drive(0, 2, fixes=0))
    there = pose2(5.0, 5.0, 1.0)
    outcome = record.session.set_pose(fix(1.95, compose(there, truth(1.95)), covariance=None))
    assert outcome.success
    assert "set_pose" in [e.code for e in record.session.take() if hasattr(e, "code")]
    record.send(drive(2, 3, fixes=0))
    assert record.errors(2.1, 3, lambda t: compose(there, truth(t))).max() < 0.1


def test_a_track_may_start_where_tf_says() -> None:
    track = {"init": {"mode": "tf", "sigma": [0.01, 0.01, 0.01]}}
    record = Recorder(configuration(track=track))
    record.send(drive(0, 0.5, fixes=0))
    assert record.state is EstimatorState.INITIALIZING
    record.session.add_transforms([StampedTransform("map", "base_link", 0, truth(0.6))], True)
    record.send(drive(0.6, 1.5, fixes=0))
    assert record.state is TRACKING
    assert record.errors(0.6, 1.5).max() < 0.1


def test_reset_and_pause() -> None:
    record = Recorder().send(drive(0, 1.5))
    assert record.session.reset("test").success
    record.collect()
    assert record.state is EstimatorState.INITIALIZING
    accepted = {s.name: s.accepted for s in record.session.status().sensors}
    assert min(accepted.values()) > 0  # counters are kept
    record.send(drive(1.5, 2.5))
    assert record.state is TRACKING
    assert record.session.set_paused(True).success
    steps = len(record.steps)
    record.send(drive(2.5, 3.5))
    assert record.state is EstimatorState.PAUSED
    assert record.reasons("odometry")[Reason.PAUSED] >= 20
    assert len(record.steps) == steps
    assert record.session.set_paused(False).success
    record.send(drive(3.5, 4.5))
    assert record.state is TRACKING
    assert {"reset", "paused", "resumed"} <= set(record.codes())
    assert record.errors(4, 4.5).max() < 0.15


def test_sensors_are_switched_off_and_on() -> None:
    record = Recorder().send(drive(0, 1))
    assert not record.session.set_sensor_enabled("nobody", True).success
    assert record.session.set_sensor_enabled("fix", False).success
    record.send(drive(1, 2))
    assert record.reasons("fix") == {Reason.SENSOR_DISABLED: 5}
    assert {s.name: s.state for s in record.session.status().sensors}["fix"] is (
        SensorState.DISABLED
    )
    assert record.session.set_sensor_enabled("fix", True).success
    assert record.session.set_sensor_enabled("odometry", False).success
    record.send(drive(2, 2.5))
    record.session.set_sensor_enabled("odometry", True)
    record.send(drive(2.5, 3.5))
    assert record.state is TRACKING
    assert record.reasons("fix") == {Reason.SENSOR_DISABLED: 5}
    assert "param.change" in record.codes()
    assert record.errors(3, 3.5).max() < 0.15


def test_dynamic_parameters_change_between_two_solves() -> None:
    record = Recorder().send(drive(0, 1))
    states = record.session.estimator.state
    config = record.session.config
    faster = replace(config, solver=replace(config.solver, rate=20.0))
    assert "solver.rate: 10.0 → 20.0" in record.session.reconfigure(faster).message
    assert record.session.estimator.state is states
    before = len(record.steps)
    record.send(drive(1, 2))
    assert len(record.steps) - before == pytest.approx(20, abs=2)
    other = configuration({**FIX, "type": "pose_stamped", "sigma": [0.1] * 3})
    refused = record.session.reconfigure(other)
    assert not refused.success
    assert record.session.config == faster


# What it keeps


def test_a_trajectory_is_window_and_history_together() -> None:
    record = Recorder().send(drive(0, 4))
    every = record.session.trajectory("", 0, 1 << 62, 0.0)
    assert np.all(np.diff(every.stamps) > 0)
    assert every.stamps[0] < stamp_of(0.2)
    assert every.twists is not None
    even = record.session.trajectory("robot", stamp_of(1), stamp_of(3), 50.0)
    assert len(even.stamps) == 101
    for stamp, pose in zip(even.stamps, even.poses, strict=True):
        off = truth((stamp - stamp_of(0)) * 1e-9)[:2] - pose[:2]
        assert np.hypot(*off) < 0.15
    with pytest.raises(DnlsError, match="nobody"):
        record.session.trajectory("nobody", 0, 1, 0.0)
    with pytest.raises(DnlsError, match="start <= end"):
        record.session.trajectory("", 2, 1, 0.0)


def test_history_is_bounded() -> None:
    record = Recorder(configuration(history={"duration": 1.5})).send(drive(0, 5))
    kept = record.session.trajectory("", 0, 1 << 62, 0.0)
    assert stamp_of(3.2) < kept.stamps[0] < stamp_of(4.0)


def test_a_window_is_written_and_solved_again_to_the_same_cost(tmp_path) -> None:
    record = Recorder()
    with pytest.raises(DnlsError, match="nothing has been estimated"):
        record.session.dump_window(tmp_path, "empty")
    record.send(drive(0, 3))
    path = record.session.dump_window(tmp_path, "window_1")
    assert {p.name for p in tmp_path.iterdir()} == {"window_1.json", "window_1.npz"}
    for name in (path, path.with_suffix(".npz")):
        dump = load_window(name)
        assert dump.values["robot"].tensor.equal(
            record.session.estimator.state.values["robot"].tensor
        )
        again = dump.solve()
        assert float(again.cost[0]) == pytest.approx(dump.cost, rel=1e-6)
        assert float(again.initial_cost[0]) == pytest.approx(dump.cost, rel=1e-12)


def test_damaged_dumps_are_refused_with_a_sentence(tmp_path) -> None:
    record = Recorder().send(drive(0, 1))
    path = record.session.dump_window(tmp_path, "w")
    text = path.read_text()
    path.write_text(text.replace("dnls_ros.costs.pose:prior", "os:system"))
    with pytest.raises(UnreadableInputError, match="os:system"):
        load_window(path)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(UnreadableInputError, match="no window dump"):
        load_window(path)
    path.write_text(text)
    data = path.with_suffix(".npz")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(UnreadableInputError, match="no window dump"):
        load_window(path)


def test_covariances_are_never_zero_and_an_unknown_one_is_said() -> None:
    record = Recorder().send(drive(0, 1.5))
    guard = record.session._guard
    known = record.steps[-1]
    spoiled = {"robot": replace(known.tracks["robot"], covariance=np.full((6, 6), np.nan))}
    mended = guard.repaired(replace(known, tracks=spoiled)).tracks["robot"].covariance
    assert guard.unknown
    assert np.allclose(mended, known.tracks["robot"].covariance)
    guard.forget()
    mended = guard.repaired(replace(known, tracks=spoiled)).tracks["robot"].covariance
    assert np.array_equal(mended, 1e6 * np.eye(6))
    for step in record.steps:
        assert np.linalg.eigvalsh(step.tracks["robot"].covariance).min() > 0


# Accounts and determinism


def digest(record: Recorder) -> str:
    said = hashlib.sha256()
    for step in record.steps:
        track = step.tracks["robot"]
        said.update(track.stamps.tobytes() + track.poses.tobytes() + track.covariance.tobytes())
    return said.hexdigest()


def test_the_same_input_gives_the_same_output() -> None:
    data = [*drive(0, 2), *drive(0, 2, seed=1)]
    first, second = Recorder().send(data), Recorder().send(data)
    assert digest(first) == digest(second)
    assert [(e.stamp, e.code, e.text) for e in first.events] == [
        (e.stamp, e.code, e.text) for e in second.events
    ]


@pytest.mark.parametrize("seed", range(4))
def test_accounts_balance_through_jumps_commands_and_garbage(seed) -> None:
    random = np.random.default_rng(seed)
    record = Recorder(configuration(tf={"timeout": 0.2}))
    session, now = record.session, 100.0
    for _ in range(12):
        action = random.integers(10)
        if action == 0:
            now += random.choice([-60.0, 60.0])
        elif action == 1:
            session.reset("test")
        elif action == 2:
            session.set_paused(bool(random.integers(2)))
        elif action == 3:
            session.set_sensor_enabled("fix", bool(random.integers(2)))
        elif action == 4:
            session.set_pose(fix(now, pose2(*random.normal(size=3))))
        elif action == 5:
            session.jump(bool(random.integers(2)), "test")
        elif action == 6:
            record.wait(now, now + 1)
        elif action == 7:
            record.send([(now, Rejection("fix", 0, Reason.BAD_SHAPE, "test"))])
            record.send([(now, fix(now + 300, frame="mars")), (now, fix(0, frame=""))])
            record.send([(now, replace(fix(now), frame="mars")), (now, odometry(-2000.0))])
        record.check()
        length = float(random.choice([0.1, 0.4, 0.7]))
        data = drive(now, now + length, seed=seed)
        if random.random() < 0.3:
            data = [data[k] for k in random.permutation(len(data))]
        if random.random() < 0.3:
            data += data[:5]
        record.send(data, clock=bool(random.random() < 0.7))
        now += length
    record.finish()
    settled = len(record.settled)
    waiting = sum(s.waiting for s in session.status().sensors)
    assert settled + waiting == sum(record.sent.values())
    for step in record.steps:
        assert np.isfinite(step.tracks["robot"].poses).all()


def test_an_unknown_sensor_is_the_caller_s_mistake() -> None:
    with pytest.raises(DnlsError, match="ghost"):
        Recorder().session.receive(fix(0, sensor="ghost"))


def test_measurements_without_their_transform_wait_and_are_counted() -> None:
    blocks = {"odometry": ODOMETRY, "fix": FIX}
    record = Recorder(configuration(sensor=blocks, tf={"timeout": 0.3})).send(drive(0, 1))
    record.send([(1.0, replace(fix(1.0), frame="lidar_map"))])
    waiting = {s.name: s.waiting for s in record.session.status().sensors}
    assert waiting["fix"] == 1
    record.wait(1.0, 1.5)
    assert record.reasons("fix") == {Reason.UNKNOWN_FRAME: 1}
    record.send([(1.6, replace(fix(1.6), frame="lidar_map"))])
    identity = np.array([0.0, 0, 0, 0, 0, 0, 1])
    record.session.add_transforms([StampedTransform("map", "lidar_map", 0, identity)], True)
    record.collect()
    record.send(drive(1.6, 2.2))
    assert record.reasons("fix") == {Reason.UNKNOWN_FRAME: 1}


def test_a_pose_set_for_one_track_leaves_the_other_where_it_is() -> None:
    track = {"manifold": "se2", "motion": "constant_velocity", "motion_sigma": [0.5, 0.5, 0.5]}
    config = load_parameters(
        {
            "world_frame": "map",
            "deterministic": True,
            "tracks": ["one", "two"],
            "sensors": ["fix", "other"],
            "track": {"one": track, "two": {**track, "init": {"mode": "set_pose"}}},
            "sensor": {"fix": {**FIX, "track": "one"}, "other": {**FIX, "track": "two"}},
            "solver": {"rate": 10.0, "time_budget": 0.05},
        }
    )
    record = Recorder(config)
    fixes = [(k / 10 + 0.01, fix(k / 10)) for k in range(30)]
    both = sorted(
        [*fixes, *((a, replace(m, sensor="other")) for a, m in fixes)], key=lambda p: p[0]
    )
    record.send(both[:30])
    assert set(record.steps[-1].tracks) == {"one"}
    assert record.state is EstimatorState.DEGRADED
    assert record.reason == "init.waiting:two"
    known = record.session.estimator.state.values["one"].tensor.clone()
    assert record.session.set_pose(fix(1.4), "two").success
    assert record.session.estimator.state.values["one"].tensor.equal(known)
    record.send(both[30:])
    assert record.state is TRACKING
    for track_name in ("one", "two"):
        last = record.steps[-1].tracks[track_name]
        off = truth((last.stamps[-1] - stamp_of(0)) * 1e-9)[:2] - last.poses[-1][:2]
        assert np.hypot(*off) < 0.1


def test_events_after_a_reset_have_the_clock_s_stamp() -> None:
    record = Recorder().send(drive(0, 2))
    record.session.reset("asked for")
    record.collect()
    assert record.state is EstimatorState.INITIALIZING
    assert record.since("reset").stamp == record.session.status().state_since > stamp_of(1.9)


def test_a_reset_right_after_the_clock_s_jump_does_not_wait_for_the_old_time() -> None:
    record = Recorder().send(drive(0, 5))
    record.session.jump(backward=True, why="the clock went back")
    record.session.reset("asked for")
    record.send(drive(0, 4, shift=-100.0))
    assert record.state is EstimatorState.TRACKING
    assert record.errors(1, 4, shift=-100.0).max() < 0.1


def test_silence_while_recovering_loses_the_estimate() -> None:
    record = Recorder(configuration(recovery={"attempts": 20})).send(drive(0, 3))

    def attempt(measurements, now, **options) -> Attempt:
        return Attempt(None, None, None, {}, ZeroDivisionError("as told"))

    original = record.session.estimator.attempt
    record.session.estimator.attempt = attempt  # pyright: ignore[reportAttributeAccessIssue]
    record.send(drive(3, 3.3))
    assert record.state is EstimatorState.RECOVERING
    record.wait(3.3, 6.0)
    assert (record.state, record.reason) == (EstimatorState.LOST, "estimate.stale")
    record.session.estimator.attempt = original  # pyright: ignore[reportAttributeAccessIssue]
    record.send(drive(6, 8))
    assert record.state is EstimatorState.TRACKING


def test_what_waits_for_tf_is_not_used_in_a_pause() -> None:
    config = configuration(fixes={**FIX, "extrinsic": []}, tf={"timeout": 1.0})
    record = Recorder(config).send(drive(0, 2))
    record.send([(2.02, fix(2.01, frame="gps"))])
    before = record.session.estimator.counters["fix"].accepted
    record.session.set_paused(True)
    record.session.add_transforms([StampedTransform("map", "gps", 0, pose2(0, 0, 0))], True)
    record.check()
    assert record.reasons("fix") == {Reason.PAUSED: 1}
    assert record.session.estimator.counters["fix"].accepted == before


@pytest.mark.parametrize("reset", [False, True])
def test_a_pose_set_far_ahead_of_the_data_does_not_end_the_estimate(reset) -> None:
    year = 3e7  # a recording played without its clock
    record = Recorder().send([(a + year, m) for a, m in drive(0, 3)])
    if reset:
        record.session.reset("asked for")
    record.session.advance(stamp_of(3 + year))
    known = {"sensor": "", "frame": "map", "pose": truth(3), "covariance": 0.01 * np.eye(6)}
    late = record.session.set_pose(PoseMeasurement(stamp=stamp_of(3 + year), **known))
    assert not late.success
    assert "FUTURE_STAMP" in late.message
    assert record.session.set_pose(PoseMeasurement(stamp=0, **known)).success
    record.send([(a + year, m) for a, m in drive(3.05, 5)])
    assert record.state is EstimatorState.TRACKING
    assert record.errors(3.2, 5).max() < 0.1


def test_a_robot_with_one_slow_sensor_is_tracked_without_alarms() -> None:
    config = configuration(sensors=["fix"], sensor={"fix": FIX})
    record = Recorder(config).send(only(drive(0, 5, fixes=1.0), "fix"))
    record.events.clear()
    data = drive(5, 25, fixes=1.0)
    for second in range(5, 25):
        record.send([(a, m) for a, m in only(data, "fix") if second <= a < second + 1])
        record.wait(second + 0.1, second + 0.9)
    assert record.codes() == []
    assert record.state is EstimatorState.TRACKING
    record.wait(25, 29)
    assert record.state is EstimatorState.LOST


@pytest.mark.parametrize("rate", [1e-300, 5e-324, 1e-9])
def test_a_trajectory_at_next_to_no_rate_is_one_pose(rate) -> None:
    record = Recorder().send(drive(0, 2))
    found = record.session.trajectory("", stamp_of(1), stamp_of(2), rate)
    assert found.stamps.tolist() == [stamp_of(1)]
