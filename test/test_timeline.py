"""Which time it is: jumps, late data, stamps of the future; without an estimator."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from dnls_ros.runtime.timeline import Arrived, Jump, Refused, Timeline
from dnls_ros.window.measurements import Measurement, Reason
from dnls_ros.window.parameters import load_parameters

SECOND = 1_000_000_000
T0 = 1_000 * SECOND


def timeline(sensors: Iterable[str] = ("a", "b"), **settings) -> Timeline:
    names = list(sensors)
    blocks = {n: {"type": "pose", "topic": n} for n in names}
    return Timeline(load_parameters({"sensors": names, "sensor": blocks, **settings}))


def at(sensor: str, seconds: float) -> Measurement:
    return Measurement(sensor=sensor, stamp=T0 + round(seconds * 1e9), frame="map")


class Watch:
    """A timeline and everything that it did."""

    def __init__(self, line: Timeline) -> None:
        self.line = line
        self.fed = 0
        self.actions: list = []

    def say(self, sensor: str, seconds: float, clock: float | None = None) -> list:
        self.fed += 1
        when = None if clock is None else T0 + round(clock * 1e9)
        new = self.line.observe(at(sensor, seconds), when)
        self.actions += new
        return new

    def both(self, start: float, end: float, clock: float | None = None) -> None:
        for k in range(round((end - start) * 20)):
            t = start + k / 20
            lead = None if clock is None else t + clock
            self.say("a", t, lead)
            if k % 5 == 0:
                self.say("b", t + 0.001, None if lead is None else lead + 0.001)

    def of(self, kind: type) -> list:
        return [x for x in self.actions if isinstance(x, kind)]

    @property
    def jumps(self) -> list[Jump]:
        return self.of(Jump)

    def balanced(self) -> bool:
        settled = len(self.of(Arrived)) + len(self.of(Refused))
        return settled + sum(self.line.held.values()) == self.fed


def test_ordinary_data_pass_at_once() -> None:
    watch = Watch(timeline())
    watch.both(0, 3)
    assert len(watch.of(Arrived)) == watch.fed == len(watch.actions)
    assert watch.line.newest == at("a", 2.95).stamp


@pytest.mark.parametrize("clock", [None, 0.01])
def test_going_back_on_two_sensors_is_a_jump_and_its_witnesses_are_used(clock) -> None:
    watch = Watch(timeline())
    watch.both(50, 53, clock)
    before = watch.fed
    watch.both(10, 11, clock)
    assert [j.backward for j in watch.jumps] == [True]
    assert "went back by 4" in watch.jumps[0].why
    # Nothing that belongs to the new time is lost, and it comes after the jump.
    later = watch.actions[watch.actions.index(watch.jumps[0]) + 1 :]
    assert len(later) == watch.fed - before
    assert watch.balanced()
    assert watch.line.newest == at("a", 10.95).stamp
    # It took little of the new time to be certain.
    assert watch.jumps[0].after - at("a", 10).stamp <= 0.5 * SECOND


def test_a_single_message_with_a_clock_that_went_back_too_is_enough() -> None:
    watch = Watch(timeline())
    watch.both(50, 53, 0.01)
    assert isinstance(watch.say("a", 10, 10.01)[0], Jump)


def test_a_bag_in_a_loop_jumps_once_each_time() -> None:
    watch = Watch(timeline())
    for _ in range(4):
        watch.both(0, 10)
    assert [j.backward for j in watch.jumps] == [True] * 3
    assert watch.balanced()
    assert not watch.of(Refused)


def test_the_only_sensor_jumps_on_consecutive_messages() -> None:
    watch = Watch(timeline(["a"]))
    for k in range(20):
        watch.say("a", 50 + k)
    watch.say("a", 10)
    assert not watch.jumps
    watch.say("a", 11)
    assert len(watch.jumps) == 1


def test_one_of_two_sensors_jumps_for_all_when_the_other_is_silent() -> None:
    watch = Watch(timeline())
    watch.both(50, 53)
    for k in range(12):
        watch.say("a", 20 + k / 20)
    assert len(watch.jumps) == 1


def test_a_sensor_whose_own_clock_jumped_back_is_late_and_no_jump() -> None:
    watch = Watch(timeline())
    watch.both(50, 53)
    for k in range(100):
        watch.say("a", 53 + k / 20)
        if k % 5 == 0:
            watch.say("b", 10 + k / 20)
    assert not watch.jumps
    assert watch.balanced()
    assert sum(watch.line.held.values()) == 0  # all handed over: too late is the door's word


@pytest.mark.parametrize("seed", range(5))
def test_reordered_late_and_delayed_data_are_no_jump(seed: int) -> None:
    random = np.random.default_rng(seed)
    arrivals = []
    for k in range(1200):
        t = k / 20
        arrivals.append((t + (1.0 if random.random() < 0.1 else 0.0), "a", t))
        if k % 5 == 0:  # a slow link, and out of order on top
            arrivals.append((t + 2.0 + (1.0 if random.random() < 0.1 else 0.0), "b", t))
    watch = Watch(timeline())
    for arrival, sensor, t in sorted(arrivals):
        if arrival < 1199 / 20:  # what is late comes between what is not
            watch.say(sensor, t)
    assert not watch.jumps
    assert not watch.of(Refused)
    watch.actions += watch.line.finish()
    assert len(watch.of(Arrived)) == watch.fed


def test_a_single_stamp_of_the_far_future_drags_nobody_along() -> None:
    watch = Watch(timeline())
    watch.both(0, 2)
    assert watch.say("a", 1000) == []
    assert watch.line.newest < at("a", 2).stamp
    assert watch.line.held == {"a": 1}
    watch.both(2, 3)
    (refused,) = watch.of(Refused)
    assert refused.reason is Reason.FUTURE_STAMP
    assert "ahead of all others" in refused.text
    assert not watch.jumps
    assert watch.balanced()


def test_with_a_clock_the_future_goes_to_the_door_and_counts_for_nothing() -> None:
    watch = Watch(timeline())
    watch.both(0, 2, 0.0)
    for k in range(50):
        assert isinstance(watch.say("a", 1000 + k / 20, 2.0)[0], Arrived)
    assert watch.line.newest < at("a", 2).stamp
    assert not watch.jumps


def test_a_gap_on_two_sensors_that_no_clock_saw_is_a_jump_forward() -> None:
    watch = Watch(timeline())
    watch.both(0, 2)
    fed = watch.fed
    watch.both(100, 101)
    (jump,) = watch.jumps
    assert not jump.backward
    assert watch.balanced()
    later = watch.actions[watch.actions.index(jump) + 1 :]
    assert len(later) == watch.fed - fed


def test_a_silence_that_the_clock_saw_pass_is_no_jump() -> None:
    watch = Watch(timeline())
    watch.both(0, 2, 0.0)
    for k in range(100):
        watch.line.tick(at("a", 2 + k / 10).stamp)
    assert isinstance(watch.say("a", 12, 12.0)[0], Arrived)
    assert not watch.jumps


def test_a_clock_that_leapt_confirms_a_jump_forward_at_once() -> None:
    watch = Watch(timeline())
    watch.both(0, 2, 0.0)
    assert isinstance(watch.say("a", 100, 100.0)[0], Jump)


def test_a_clock_that_stands_still_or_wavers_is_no_jump() -> None:
    watch = Watch(timeline())
    watch.both(0, 2, 0.0)
    for k in range(40):
        watch.say("a", 2 - k / 100, 2.0 - 0.01 * (k % 3))
        watch.line.tick(at("a", 2).stamp)
    assert not watch.jumps
    assert len(watch.of(Arrived)) == watch.fed


def test_an_announced_jump_counts_once_and_stragglers_are_of_no_time() -> None:
    watch = Watch(timeline())
    watch.both(50, 53, 0.0)
    watch.actions += watch.line.jump(True, "clock callback")
    assert len(watch.jumps) == 1
    assert isinstance(watch.say("a", 53.0, 53.0)[0], Refused)  # was in the queue
    watch.both(10, 12, 0.0)
    watch.actions += watch.line.tick(at("a", 12).stamp)
    assert len(watch.jumps) == 1
    assert len(watch.of(Refused)) == 1


def test_a_clock_that_goes_back_without_data_is_a_jump() -> None:
    watch = Watch(timeline())
    watch.both(50, 53, 0.0)
    (jump,) = watch.line.tick(at("a", 10).stamp)
    assert isinstance(jump, Jump)
    assert jump.backward


def test_jumps_back_can_be_ignored() -> None:
    watch = Watch(timeline(time={"on_jump_back": "ignore"}))
    watch.both(50, 53, 0.0)
    watch.both(10, 12, 0.0)
    assert not watch.line.jump(True, "callback")
    assert not watch.line.tick(T0)
    assert not watch.jumps
    assert len(watch.of(Arrived)) == watch.fed


def test_a_first_stamp_of_the_future_does_not_bind_the_rest() -> None:
    watch = Watch(timeline())
    watch.say("a", 1000)
    watch.both(0, 2)
    assert len(watch.jumps) == 1
    assert watch.balanced()
    assert watch.line.newest < at("a", 2).stamp


def test_stragglers_may_be_older_than_the_time_that_has_passed_since() -> None:
    watch = Watch(timeline())
    watch.both(50, 53, 0.0)
    watch.actions += watch.line.tick(at("a", 53.2).stamp)  # while messages wait
    watch.actions += watch.line.jump(True, "clock callback")
    for clock in (53.05, 53.1):
        assert isinstance(watch.say("a", clock, clock)[0], Refused)
    watch.both(10, 12, 0.0)
    assert len(watch.jumps) == 1
    assert len(watch.of(Refused)) == 2
