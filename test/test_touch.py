"""A pushed object in the window: contact, pairs, forces, and what becomes of each measurement."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from touch_rig import (
    RATE,
    SECOND,
    SIDES,
    T0,
    Push,
    changed,
    measurements,
    pose2,
    push,
    wrenches,
    yaw_of,
)

from dnls_ros.errors import DnlsError
from dnls_ros.window.contacts import Contacts, throughout, touched_all_along
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.ingress import Settled
from dnls_ros.window.measurements import (
    ContactMeasurement,
    Measurement,
    PoseMeasurement,
    Reason,
    TactileRelativeMeasurement,
    WrenchMeasurement,
)
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.pushed import pushed_object
from dnls_ros.window.results import StepResult
from dnls_ros.window.rigid import compose, inverse
from dnls_ros.window.wrench import LineOfForce, WrenchContacts, line_of_force

TRUTH = push()
WRENCH = {
    "type": "wrench_contact", "track": "object", "topic": "wrench", "sigma": [0.001, 0.6],
    "extrinsic": [0.0] * 6,
}  # fmt: skip


def parameters(*without: str, **changes: Any) -> dict[str, Any]:
    """The rig's, without some sensors, with changes (``__`` for a dot)."""
    return changed({name.replace("__", "."): value for name, value in changes.items()}, without)


def run(
    given: dict[str, Any], data: list[Measurement], **keywords: Any
) -> tuple[Estimator, list[StepResult], list[Settled]]:
    """Feeds data in order and solves at every tenth of a second of it."""
    estimator, results = Estimator(load_parameters(given), **keywords), []
    names, settled = set(estimator.counters), []
    waiting = [m for m in data if m.sensor in names]
    for tick in range(T0, max(m.stamp for m in data) + SECOND // 10, SECOND // 10):
        while waiting and waiting[0].stamp <= tick:
            estimator.feed(waiting.pop(0))
        result = estimator.step(tick)
        results += [] if result is None else [result]
        settled += estimator.drain()
        assert all(c.balanced for c in estimator.counters.values())
    return estimator, results, settled


def errors(results: list[StepResult], truth: Push = TRUTH, after: float = 1.0) -> np.ndarray:
    """(N, 2) error [m, rad] of the object's newest state in each result."""
    found: list[tuple[float, float]] = []
    for result in results:
        track = result.tracks.get("object")
        if track is None or track.stamps[-1] < T0 + after * 1e9:
            continue
        k = round(float(track.stamps[-1] - T0) * 1e-9 * RATE)
        off = compose(inverse(truth.object[k]), track.poses[-1])
        found.append((float(np.hypot(*off[:2])), abs(yaw_of(off))))
    return np.array(found)


def rms(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(values).mean(0))


def reasons(settled: list[Settled], sensor: str) -> Counter[Reason]:
    return Counter(one.reason for one in settled if one.sensor == sensor)


# --- the estimate --------------------------------------------------------------------------------


def test_touch_follows_an_object_that_a_tag_shows_once_a_second():
    _, results, settled = run(parameters(), measurements(TRUTH))
    walk = {"motion": "random_walk", "motion_sigma": [0.05, 0.05, 0.3]}
    blind = parameters("contact", "tactile", track__object=walk)
    _, without, _ = run(blind, measurements(TRUTH))
    assert {one.reason for one in settled} == {Reason.ACCEPTED}
    with_touch, last_tag = rms(errors(results)), rms(errors(without))
    assert with_touch[0] < 0.003
    assert with_touch[1] < 0.03
    assert errors(results)[:, 0].max() < 0.006
    # Between tags nothing says where it is now: its newest state is that of the tag, long ago.
    stale = [r.stamp - r.tracks["object"].stamps[-1] for r in without]
    assert max(stale) > 0.8e9
    assert last_tag[0] > with_touch[0]


def test_without_noise_the_estimate_is_the_truth_up_to_the_steps_of_the_chain():
    clean = measurements(TRUTH, noise=0.0)
    _, results, _ = run(parameters(sensor__tactile__sigma=[0.003]), clean)
    assert errors(results)[:, 0].max() < 5e-4
    assert errors(results)[:, 1].max() < 5e-3


def test_the_window_with_its_prior_is_the_whole_problem():
    data = measurements(push(2.5))
    short = parameters(window__duration=1.2)
    estimator, results, _ = run(short, data, archive=True)
    track = results[-1].tracks["object"]
    whole = estimator.smooth("object")
    assert len(track.stamps) < 0.6 * len(whole.stamps)  # the rest was marginalized
    assert np.isin(track.stamps, whole.stamps).all()
    there = np.isin(whole.stamps, track.stamps)
    np.testing.assert_allclose(track.poses, whole.poses[there], atol=3e-4)


def test_every_state_of_the_object_has_one_of_the_finger():
    late = [m for m in measurements(TRUTH) if m.sensor != "ee_pose"]
    finger = [
        replace(m, stamp=m.stamp + SECOND // 200)
        for m in measurements(TRUTH)
        if m.sensor == "ee_pose"
    ]
    data = sorted([*late, *finger], key=lambda m: m.stamp)
    estimator, results, _ = run(parameters(), data)
    ids = estimator.state.values.ids
    oldest = int(ids["ee"][0])
    pushed = [stamp for stamp in ids["object"].tolist() if stamp >= oldest]
    assert len(pushed) > 40
    assert set(pushed) <= set(ids["ee"].tolist())
    assert rms(errors(results))[0] < 0.004


def test_a_replay_is_the_same_to_the_last_bit():
    outputs = []
    for _ in range(2):
        _, results, settled = run(parameters(), measurements(push(2.0)))
        tracks = [(n, t.stamps.tobytes(), t.poses.tobytes()) for r in results
                  for n, t in sorted(r.tracks.items())]  # fmt: skip
        outputs.append((tracks, [(s.sensor, s.stamp, s.reason) for s in settled]))
    assert outputs[0] == outputs[1]


def test_an_object_that_nobody_touches_rests():
    def let_go(m: Measurement) -> Measurement:
        return replace(m, in_contact=False) if isinstance(m, ContactMeasurement) else m

    data = [let_go(m) for m in measurements(TRUTH) if m.stamp == T0 or m.sensor != "tag"]
    _, results, _ = run(parameters("tactile"), data)
    first, last = (r.tracks["object"].poses[-1] for r in (results[0], results[-1]))
    assert np.linalg.norm(first - last) < 1e-6
    assert results[-1].tracks["object"].stamps[-1] == TRUTH.stamp(len(TRUTH.seconds) - 1)


def test_what_is_known_of_a_resting_object_outlives_the_window():
    still = Push(
        np.arange(6 * 30 + 1) / 30,
        *(np.repeat(poses[:1], 181, axis=0) for poses in (TRUTH.object, TRUTH.finger)),
        np.zeros(181, dtype=bool),
    )
    data = [m for m in measurements(still) if m.stamp == T0 or m.sensor != "tag"]
    # fewer states of the object than of the finger, which therefore leave at other times
    rare = parameters("tactile", window__duration=1.0, sensor__contact__throttle=0.16)
    _, results, _ = run(rare, data)
    last = results[-1].tracks["object"]
    assert last.stamps[0] > T0 + SECOND
    sigma = np.sqrt(np.diag(last.covariance))
    assert sigma[0] == pytest.approx(0.005, rel=0.05)
    assert sigma[5] == pytest.approx(0.03, rel=0.05)


def test_a_contact_that_shows_late_began_with_the_first_image_that_showed_it():
    first = int(np.argmax(TRUTH.touching))

    def late(m: Measurement, told: bool) -> Measurement:
        if not isinstance(m, ContactMeasurement):
            return m
        on = m.sequence >= first + 3
        return replace(m, in_contact=on, since=TRUTH.stamp(first) if on and told else 0)

    found: list[float] = []
    for told in (True, False):
        exact = measurements(TRUTH, noise=0.02)
        data = [late(m, told) for m in exact if m.sensor != "tactile"]
        data = [m for m in data if m.stamp == T0 or m.sensor != "tag"]
        rare = parameters("tactile", window__duration=6.0, sensor__contact__throttle=0.16)
        estimator, results, settled = run(rare, data)
        assert (TRUTH.stamp(first) in estimator.state.values.ids["object"].tolist()) == told
        begun = {s.stamp for s in settled if s.sensor == "contact" and not s.text}
        assert (TRUTH.stamp(first + 3) in begun) == told  # not throttled
        found.append(rms(errors(results))[0])
    assert found[0] < 0.7 * found[1]


# --- what becomes of measurements ----------------------------------------------------------------


def test_a_pair_over_a_lost_contact_is_refused_as_no_contact():
    gap = range(60, 63)
    data = [
        replace(m, in_contact=False)
        if isinstance(m, ContactMeasurement) and m.sequence in gap
        else m
        for m in measurements(TRUTH)
    ]
    _, _, settled = run(parameters(), data)
    bad = [s for s in settled if s.sensor == "tactile" and s.reason is Reason.NO_CONTACT]
    expected = {(k, g) for k in range(60, 93) for g in (10, 20, 30) if k - g <= 62}
    assert Counter(s.sequence for s in bad) == Counter(k for k, _ in expected)


def test_a_pair_whose_other_end_left_is_refused_as_no_pair():
    data = measurements(push(2.5), offsets=(10,))
    old = [m for m in data if isinstance(m, TactileRelativeMeasurement)][-1]
    data.append(replace(old, stamp_from=TRUTH.stamp(19)))
    _, _, settled = run(parameters(window__duration=1.0), data)
    assert reasons(settled, "tactile")[Reason.NO_PAIR] == 1


def test_what_measures_other_axes_than_are_asked_for_is_refused():
    pairs = [
        replace(m, measured=("x", "y")) if isinstance(m, TactileRelativeMeasurement) else m
        for m in measurements(push(1.5))
    ]
    _, _, settled = run(parameters(), pairs)
    assert set(reasons(settled, "tactile")) == {Reason.BAD_SHAPE}


def test_a_finger_far_from_the_object_does_not_touch_it():
    def elsewhere(m: Measurement) -> Measurement:
        if isinstance(m, PoseMeasurement) and m.sensor == "tag":
            return replace(m, pose=compose(pose2(0.5, 0.5, 0), m.pose))
        return m

    estimator, results, settled = run(
        parameters("tactile"), [elsewhere(m) for m in measurements(push(1.5))]
    )
    contact = reasons(settled, "contact")
    assert contact[Reason.NO_CONTACT] > 20
    assert contact[Reason.ACCEPTED] > 10  # those that said «not touching»
    text = estimator.counters["contact"].last_problem
    assert "beyond its distance field" in text
    assert np.isfinite(results[-1].tracks["object"].poses).all()


def test_contact_waits_for_the_finger_and_is_refused_if_that_never_comes():
    data = [m for m in measurements(TRUTH) if m.sensor != "ee_pose"]
    estimator, _, settled = run(parameters("tactile", window__duration=1.0), data)
    verdicts = reasons(settled, "contact")
    assert verdicts[Reason.NO_PAIR] > 30
    assert estimator.counters["contact"].waiting > 20
    assert "nothing said where the finger was" in estimator.counters["contact"].last_problem


# --- forces --------------------------------------------------------------------------------------


def test_forces_do_what_a_contact_sensor_does():
    given = parameters("contact", "tactile")
    given["sensors"] = [*given["sensors"], "wrench"]
    given |= {f"sensor.wrench.{name}": value for name, value in WRENCH.items()}
    data = [m for m in measurements(TRUTH) if m.sensor in ("ee_pose", "tag")]
    data = sorted([*data, *wrenches(TRUTH)], key=lambda m: m.stamp)
    estimator, results, settled = run(given, data)
    assert {one.reason for one in settled} == {Reason.ACCEPTED}
    _, without, _ = run(parameters("contact", "tactile"), data)
    assert rms(errors(results))[0] < 0.7 * rms(errors(without))[0]
    heard = estimator.state.contacts["wrench"]
    assert isinstance(heard, WrenchContacts)
    np.testing.assert_allclose(heard.bias, [0.3, -0.2, 0.1, 0.01, 0.0, 0.02], atol=1e-12)


def test_a_force_is_a_contact_with_hysteresis_after_its_bias_is_known():
    given = parameters()
    given["sensors"] = [*given["sensors"], "wrench"]
    given |= {f"sensor.wrench.{name}": value for name, value in WRENCH.items()}
    sensor = load_parameters(given).sensor("wrench")
    known, m = WrenchContacts(), None
    forces = {0.0: 5.0, 0.2: 7.0, 0.39: 6.0, 0.5: 6.4, 0.6: 6.6, 0.7: 6.3, 0.8: 6.1, 0.9: 6.4}
    for seconds, force in forces.items():
        m = WrenchMeasurement(
            sensor="wrench", stamp=T0 + round(seconds * 1e9), frame="ee",
            force=np.array([force, 0.0, 0.0]), torque=np.zeros(3),
        )  # fmt: skip
        known = known.heard(m, sensor)
    assert known.bias[0] == 6.0
    assert known.on.tolist() == [False, True, True, False, False]
    assert m is not None
    assert known.heard(m, sensor) is known  # late or again: nothing changes


def test_the_line_of_force_meets_the_tip():
    def wrench(force: list[float], point: list[float]) -> WrenchMeasurement:
        return WrenchMeasurement(
            sensor="w", stamp=1, frame="f", force=np.array(force),
            torque=np.cross([*point, 0.0], force),
        )  # fmt: skip

    here = pose2(0, 0, 0)
    flat = line_of_force(wrench([-2.0, 0.5, 0.1], [0.0, 0.003]), here, 0.0)
    assert isinstance(flat, LineOfForce)
    np.testing.assert_allclose(flat.point, [0.0, 0.003], atol=1e-15)
    tip = 0.01 * np.array([np.cos(0.3), np.sin(0.3)])
    round_tip = line_of_force(wrench([-1.0, -0.2, 0.0], tip.tolist()), here, 0.01)
    assert isinstance(round_tip, LineOfForce)
    np.testing.assert_allclose(round_tip.point, tip, atol=1e-12)
    mount = pose2(0.02, -0.01, np.pi / 2)  # the sensor's x axis is the finger's y axis
    turned = line_of_force(wrench([0.0, 2.0, 0.0], [-0.01, 0.02]), mount, 0.0)
    assert isinstance(turned, LineOfForce)
    np.testing.assert_allclose(turned.point, [0.0, -0.02], atol=1e-12)
    for force, point, radius, word in [
        ([0.0, 0.0, 1.0], [0.0, 0.0], 0.0, "no part in the plane"),
        ([0.0, 1.0, 0.0], [0.0, 0.0], 0.0, "along the tip"),
        ([-1.0, 0.0, 0.0], [0.0, 0.02], 0.01, "passes the tip's centre at 0.0200 m"),
    ]:
        refused = line_of_force(wrench(force, point), here, radius)
        assert isinstance(refused, tuple)
        assert refused[0] is Reason.MODEL_FAILED
        assert word in refused[1]


# --- timelines and parameters --------------------------------------------------------------------


def test_a_timeline_holds_its_last_word_and_any_sensor_will_do():
    one = Contacts()
    for stamp, on in [(10, True), (30, False), (20, True), (30, True), (40, False)]:
        one = one.inserted(stamp, on)
    assert one.stamps.tolist() == [10, 20, 30, 40]
    assert one.at(np.array([5, 10, 35, 40, 99])).tolist() == [False, True, True, False, False]
    start, end = np.array([10, 10, 5, 1, 40]), np.array([39, 40, 20, 9, 99])
    assert one.throughout(True, start, end).tolist() == [True, False, False, False, False]
    assert one.throughout(False, start, end).tolist() == [False, False, False, True, True]
    kept = one.since(35)
    assert kept.stamps.tolist() == [30, 40]
    assert kept.at(np.array([36]))[0]
    two = Contacts().inserted(38, True)
    assert throughout([one, two], True, start, end).tolist() == [True, False, False, False, True]
    assert throughout([one, two], False, start, end).tolist() == [False, False, False, True, False]
    assert throughout([], True, start, end).all()
    assert touched_all_along([one, two], 40, 60)
    assert not touched_all_along([one, two], 20, 60)


PROBLEMS = {
    "no pusher": ({"track.object.pusher_track": ""}, "track.object.pusher_track: is required"),
    "strange pusher": ({"track.object.pusher_track": "arm"}, r"got 'arm'; expected one of \['ee'"),
    "own pusher": ({"track.object.pusher_track": "object"}, "got 'object'; expected one of"),
    "chain of pushers": ({"track.ee.pusher_track": "object"}, "'ee' is pushed itself"),
    "in space": ({"track.ee.manifold": "se3"}, "both tracks must have manifold se2"),
    "no shape": ({"track.object.shape.type": ""}, "track.object.shape.type: is required"),
    "wrong size": ({"track.object.shape.size": [0.1]}, "shape rect: size has 1 numbers"),
    "negative size": ({"track.object.shape.size": [0.1, -1.0]}, "sizes must be positive"),
    "no file": ({"track.object.shape": {"type": "sdf"}}, "shape.sdf_file: is required"),
    "two forms": ({"track.object.shape.sdf_file": __file__}, "applies to shape.type 'sdf' only"),
    "no field": (
        {"track.object.shape": {"type": "sdf", "sdf_file": __file__}},
        "expected an .npz with grid, origin, resolution",
    ),
    "not pushed": ({"sensor.contact.track": "ee"}, "needs track.ee.pusher_track"),
    "pairs": (
        {"sensor.contact.type": "tactile_image", "sensor.contact.pair_offsets": [20, 10]},
        r"pair_offsets: got \[20, 10\]; expected ascending",
    ),
    "window": (
        {"sensor.contact.type": "tactile_image", "sensor.contact.model": __file__,
         "sensor.contact.expected_rate": 20.0},
        "expected at least 2.1 s",
    ),
    "thresholds": (
        {"sensor.contact.type": "wrench_contact", "sensor.contact.force_threshold_off": 0.5},
        "expected more than force_threshold_off",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_parameters_that_do_not_fit_are_one_line_each(name: str) -> None:
    changes, text = PROBLEMS[name]
    with pytest.raises(DnlsError, match=text):
        load_parameters(changed(changes))


def test_an_object_may_be_given_by_its_distances(tmp_path: Path) -> None:
    cell = 0.002
    low = -np.array(SIDES) / 2 - 0.05
    count = np.ceil(-2 * low / cell).astype(int) + 1
    grid = np.stack(np.meshgrid(*(low[k] + cell * np.arange(count[k]) for k in (0, 1))), -1)
    apart = np.abs(grid) - np.array(SIDES) / 2
    distance = np.linalg.norm(np.maximum(apart, 0), axis=-1) + np.minimum(apart.max(-1), 0)
    file = tmp_path / "rectangle.npz"
    np.savez(file, grid=distance, origin=low, resolution=cell)
    changes = {"track.object.shape": {"type": "sdf", "sdf_file": str(file)}}
    by_file = load_parameters(changed(changes))
    by_size = load_parameters(changed({}))
    ratios = [pushed_object(c.track("object").shape).ratio for c in (by_file, by_size)]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.01)
    results = [run(changed(c), measurements(push(1.5)))[1] for c in (changes, {})]
    last = [r[-1].tracks["object"].poses[-1] for r in results]
    np.testing.assert_allclose(last[0], last[1], atol=5e-4)
