"""Divergence: outliers do not move the estimate, a robot that was carried away is found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fault_rig
import numpy as np
import pytest
from session_rig import (
    FIX,
    GATED,
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

from dnls_ros.io.feeds import ReplayOptions, read_feed
from dnls_ros.io.recording import truth_trajectory, write_recording
from dnls_ros.io.scene import load_scene
from dnls_ros.io.simulate import simulate
from dnls_ros.runtime.dump import load_window
from dnls_ros.runtime.recovery import Critic, Witness
from dnls_ros.runtime.session import Session
from dnls_ros.runtime.types import EstimatorState, Event
from dnls_ros.window.estimator import Attempt, Estimator
from dnls_ros.window.measurements import (
    CameraIntrinsics,
    LandmarkMeasurement,
    Measurement,
    PoseMeasurement,
    Reason,
)
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.results import StepResult
from dnls_ros.window.rigid import compose

BOTH = pytest.mark.parametrize("fixes", [FIX, GATED], ids=["plain", "gated"])


def away(seconds: float) -> np.ndarray:
    return compose(pose2(6.0, -4.0, 1.0), truth(seconds))


def wild(seed: int):
    random = np.random.default_rng(seed)
    return lambda t: compose(
        truth(t), pose2(*random.uniform(-20, 20, 2), float(random.uniform(-3, 3)))
    )


@BOTH
def test_an_outlier_burst_does_not_move_the_estimate(fixes) -> None:
    record = Recorder(configuration(fixes)).send(drive(0, 3))
    record.send(drive(3, 5, where=wild(5))).send(drive(5, 6.5, seed=3))
    assert record.state is EstimatorState.TRACKING
    assert record.errors(3, 6.5).max() < 0.1
    refused = record.reasons("fix")
    assert sum(refused.values()) == 10  # all of the burst, none of the rest
    assert set(refused) <= {Reason.SUSPECT, Reason.GATED}
    assert "recovery.reinit" not in record.codes()
    if fixes is FIX:
        assert record.codes().count("recovery.start") <= 3  # told once a second
        assert {"recovery.rollback", "recovery.suspects"} <= set(record.codes())


@BOTH
def test_a_kidnapped_robot_is_found_within_two_seconds(fixes) -> None:
    record = Recorder(configuration(fixes)).send(drive(0, 3))
    record.send(drive(3, 6, where=away, seed=2))
    assert record.state is EstimatorState.TRACKING
    moved = record.since("recovery.reinit")
    assert moved.stamp - stamp_of(3) <= 1.5e9
    assert "elsewhere" in moved.text
    assert record.errors(3, 3.9).max() < 0.1  # until it was certain, where odometry leads
    assert record.errors(5, 6, away).max() < 0.15
    assert "RECOVERING" in record.states()


def test_single_outliers_are_suspects_and_said_so() -> None:
    record = Recorder()
    data = [*drive(0, 3), (1.95, fix(1.9, pose2(30, 30, 1)))]
    record.send(sorted(data, key=lambda pair: pair[0]))
    assert record.reasons("fix") == {Reason.SUSPECT: 1}
    event = record.since("recovery.suspects")
    assert event.values == {"fix": "1"}
    assert record.errors(1, 3).max() < 0.1


def test_an_odometry_that_starts_anew_elsewhere_is_survived() -> None:
    record = Recorder().send(drive(0, 3))
    jumped = [
        (a, odometry((m.stamp - stamp_of(0)) * 1e-9, compose(pose2(50, 9, 2), m.pose)))
        if m.sensor == "odometry"
        else (a, m)
        for a, m in drive(3, 5.5, seed=4)
    ]
    record.send(jumped)
    assert record.state is EstimatorState.TRACKING
    assert record.errors(3, 5.5).max() < 1.0
    assert record.errors(4.5, 5.5).max() < 0.15


def failing(estimator: Estimator, until: dict) -> None:
    """Solves raise while ``until["fails"]``; in steps without restart only if it says so."""
    original = estimator.attempt

    def attempt(measurements, now, **options) -> Attempt:
        until["tried"] = until.get("tried", 0) + 1
        if until["fails"]:
            return Attempt(None, None, None, {}, ZeroDivisionError("as told"))
        return original(measurements, now, **options)

    estimator.attempt = attempt  # pyright: ignore[reportAttributeAccessIssue]


def test_steps_that_cannot_be_repaired_lose_the_estimate_until_data_start_it_again() -> None:
    record = Recorder()
    switch = {"fails": False}
    failing(record.session.estimator, switch)
    record.send(drive(0, 2))
    steps = len(record.steps)
    switch["fails"] = True
    record.send(drive(2, 3))
    assert record.state is EstimatorState.LOST
    assert record.reason == "recovery.failed:solver.exception"
    assert "recovery.failed" in record.codes()
    assert len(record.steps) == steps  # nothing leaves
    assert not record.session.pose_at(stamp_of(2.9)).success
    assert record.session.status().solves_failed > 0
    switch["fails"] = False
    record.send(drive(3, 4.5, seed=5))
    assert record.state is EstimatorState.TRACKING
    assert record.states()[-4:] == ["RECOVERING", "LOST", "INITIALIZING", "TRACKING"]
    assert record.back_after(3.0) <= 0.5
    assert record.errors(3.5, 4.5).max() < 0.2


def test_without_recovery_a_failure_only_costs_its_measurements() -> None:
    record = Recorder(configuration(recovery={"enabled": False}))
    switch = {"fails": False}
    failing(record.session.estimator, switch)
    record.send(drive(0, 2))
    switch["fails"] = True
    record.send(drive(2, 2.3))
    switch["fails"] = False
    record.send(drive(2.3, 3))
    assert "solver.exception" in record.codes()
    assert "recovery.start" not in record.codes()
    assert record.errors(2.5, 3).max() < 0.2


def test_a_track_without_fixes_restarts_where_it_was() -> None:
    track = {"init": {"mode": "params", "pose": [0.0, 0.0, 0.0], "sigma": [0.01, 0.01, 0.01]}}
    record = Recorder(configuration(track=track))
    switch = {"fails": False}
    failing(record.session.estimator, switch)
    record.send(drive(0, 3, fixes=0))
    switch["fails"] = True
    record.send(drive(3, 4, fixes=0))
    assert record.state is EstimatorState.LOST
    switch["fails"] = False
    record.send(drive(4, 5, fixes=0))
    # Not back at the configured start: where it was lost, give or take what was not seen.
    assert record.state is EstimatorState.TRACKING
    assert record.errors(4, 5).max() < 1.2


def test_a_failing_window_is_written_once_and_a_full_disk_is_an_event(tmp_path) -> None:
    config = configuration(output_dir=str(tmp_path / "dumps"))
    record = Recorder(config, dumps=True).send(drive(0, 2))
    record.send([(2.1, fix(2.05, pose2(40, 40, 0)))]).send(drive(2.1, 2.6))
    (path,) = (tmp_path / "dumps").glob("*.json")
    assert load_window(path).cost > 100
    assert str(path) in record.since("dump.written").text
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    record = Recorder(configuration(output_dir=str(blocked)), dumps=True).send(drive(0, 2))
    record.send([(2.1, fix(2.05, pose2(40, 40, 0)))]).send(drive(2.1, 2.6))
    assert str(blocked) in record.since("dump.failed").text
    assert record.state is EstimatorState.TRACKING


def test_the_critic_knows_speed_turn_and_cost() -> None:
    record = Recorder().send(drive(0, 2))
    good = record.steps[-1]
    critic = Critic(record.session.config)
    for step in record.steps:
        critic.accept(step)

    def judge(result):
        return critic.judge(Attempt(None, None, result, {}, None))

    def moved(by: np.ndarray):
        track = good.tracks["robot"]
        poses = np.concatenate([track.poses[:-1], [compose(track.poses[-1], by)]])
        return replace(good, tracks={"robot": replace(track, poses=poses)})

    assert judge(good) is None
    assert judge(moved(pose2(0.5, 0, 0.5))) is None
    assert judge(moved(pose2(3.0, 0, 0))).code == "speed"
    assert judge(moved(pose2(0, 0, 3.0))).code == "turn_rate"
    assert judge(moved(pose2(np.nan, 0, 0))).code == "solver.not_finite"
    assert judge(replace(good, cost_final=1e6)).code == "cost.jump"
    assert judge(replace(good, accepted=False, report=None)).code == "solver.refused"


def test_witnesses_must_agree_for_long_enough() -> None:
    record = Recorder().send(drive(0, 2))
    estimate = record.steps[-1].tracks["robot"]
    witness = Witness()

    def say(t: float, correction: np.ndarray) -> bool:
        nearest = int(np.argmin(np.abs(estimate.stamps - stamp_of(t))))
        pose = compose(correction, estimate.poses[nearest])
        witness.refused("robot", fix(t), pose, estimate)
        return witness.confirmed("robot")

    elsewhere = pose2(6.0, -4.0, 1.0)
    assert [say(1.0 + 0.25 * k, elsewhere) for k in range(5)] == [False] * 4 + [True]
    witness.accepted("robot")
    assert not say(2.25, elsewhere)
    witness.forget()
    random = np.random.default_rng(1)
    scattered = [pose2(*random.uniform(-9, 9, 2), random.uniform(-3, 3)) for _ in range(9)]
    assert not any(say(1.0 + 0.25 * k, where) for k, where in enumerate(scattered))


CONFIG = Path(__file__).resolve().parents[1] / "config" / "localization_2d.yaml"
BEGIN = 1_700_000_000 * SECOND


def demo(folder: Path, change) -> tuple[list[StepResult], list[Event], Any]:
    """Nine seconds of the demo's robot; ``change`` spoils a measurement at a time [s]."""
    recording = simulate(3, 9.0, load_scene())
    files = write_recording(recording, folder)
    config = replace(load_parameters(CONFIG), deterministic=True)
    session = Session(config)
    for feed in read_feed(files.bag, config, ReplayOptions())[0]:
        item = feed.item
        if isinstance(item, CameraIntrinsics):
            session.set_intrinsics(feed.sensor, item)
        elif isinstance(item, Measurement):
            session.receive(change(item, (item.stamp - BEGIN) * 1e-9), feed.clock)
    session.finish()
    out = session.take()
    steps = [x for x in out if isinstance(x, StepResult)]
    return steps, [x for x in out if isinstance(x, Event)], truth_trajectory(recording)


@pytest.mark.slow
def test_tags_and_fixes_gone_wild_together_do_not_move_the_demo_robot(tmp_path) -> None:
    random = np.random.default_rng(0)

    def change(m: Measurement, t: float) -> Measurement:
        if 4 <= t < 6 and isinstance(m, LandmarkMeasurement):
            noisy = [
                replace(o, pixels=o.pixels + random.normal(0, 60, np.shape(o.pixels)))
                for o in m.observations
            ]
            return replace(m, observations=tuple(noisy))
        if 4 <= t < 6 and m.sensor == "absolute" and isinstance(m, PoseMeasurement):
            return replace(m, pose=compose(pose2(*random.uniform(-9, 9, 2), 0.0), m.pose))
        return m

    steps, events, true = demo(tmp_path, change)
    assert "recovery.suspects" in [e.code for e in events]
    assert not {"recovery.reinit", "recovery.failed"} & {e.code for e in events}
    for step in steps:
        if step.stamp > BEGIN + SECOND:
            k = int(np.argmin(np.abs(true.stamps - step.stamp)))
            off = step.tracks["robot"].poses[-1][:2] - true.poses[k][:2]
            assert np.hypot(*off) < 0.1


def restarted(data: Data, by: np.ndarray) -> Data:
    """With odometry whose frame is another one."""
    return [
        (a, odometry((m.stamp - stamp_of(0)) * 1e-9, compose(by, m.pose)))
        if m.sensor == "odometry"
        else (a, m)
        for a, m in data
    ]


@pytest.mark.parametrize("fixes", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("by", [pose2(50, 9, 2), pose2(-1.5, 0.2, 0), pose2(0, 0, 3)])
def test_an_odometry_that_starts_anew_within_one_interval_says_nothing_of_it(fixes, by) -> None:
    init = {"mode": "params", "pose": [0.0] * 6} if not fixes else {}
    record = Recorder(configuration(track={"init": init}))
    record.send(drive(0, 3, fixes=fixes))
    record.send(restarted(drive(3, 6, seed=4, fixes=fixes), by))
    assert record.codes().count("motion.leap") == 1
    assert record.since("motion.leap").values == {"sensor": "odometry"}
    assert not [code for code in record.codes() if code.startswith("recovery")]
    assert record.reasons("odometry") == {}
    assert record.errors(3, 6).max() < 0.12


def test_a_leap_of_the_odometry_on_the_simulated_robot() -> None:
    run = fault_rig.part(duration=10.0)
    first, rest = run.between(0.0, 5.0), run.between(5.0, 99.0)
    moved = fault_rig.part(seed=3, duration=10.0).between(0.0, 5.0)
    story = fault_rig.drive(fault_rig.configured(), [first, rest.odometry_after(moved)])
    assert story.good_again(story.starts[1]) < 0.1
    assert story.worst(story.starts[1]) < 0.1
    assert story.codes["motion.leap"] == 1
    assert not story.codes["recovery.start"]


@pytest.mark.parametrize("end", ["disabled", "silent"])
def test_a_sensor_that_was_refused_long_ago_takes_nobody_s_hope(end) -> None:
    """One outlier of another sensor is a suspect again once the refused one is gone."""
    quiet = {**FIX, "axes": ["x", "y"]}  # cannot start a track
    sensors = {"odometry": ODOMETRY, "fix": {**quiet, "gate_probability": 0.999}, "other": quiet}
    config = configuration(
        sensors=list(sensors),
        sensor={name: {**one, "topic": name} for name, one in sensors.items()},
        track={"init": {"mode": "params", "pose": [0.0] * 6}},
        gate={"reopen_after": 0.0},
    )
    record = Recorder(config).send(
        (a, replace(m, sensor="other")) if m.sensor == "fix" else (a, m) for a, m in drive(0, 2)
    )
    record.send(
        (a, replace(m, pose=pose2(a**2, 30 * np.sin(9 * a), a)) if m.sensor == "fix" else m)
        for a, m in drive(2, 4)
    )
    assert set(record.reasons("fix")) == {Reason.GATED}
    if end == "disabled":
        assert record.session.set_sensor_enabled("fix", False).success
    seconds = 5.0 if end == "disabled" else 8.0
    record.send((a, m) for a, m in drive(4, seconds) if m.sensor == "odometry")
    outlier = fix(seconds, compose(pose2(3, 2, 0), truth(seconds)), sensor="other")
    record.send([(seconds + 0.01, outlier)])
    record.send((a, m) for a, m in drive(seconds, seconds + 1) if m.sensor == "odometry")
    assert record.reasons("other") == {Reason.SUSPECT: 1}
    assert record.errors(4, seconds + 1).max() < 0.3
