"""Every fault does exactly what it says, to as many messages as it counts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dnls_ros.errors import DnlsError
from dnls_ros.io.bag import Record
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class, typestore
from dnls_ros.io.faults import KEYS, FaultInjector, parse_fault
from dnls_ros.io.scene import load_scene
from dnls_ros.io.sim_messages import recording_records
from dnls_ros.io.simulate import simulate

ODOM, TAGS, GPS = "odom", "camera/tag_detections", "gps_pose"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return recording_records(simulate(0, 20.0, load_scene()))


def inject(
    records: Sequence[Record], *texts: str, seed: int = 0
) -> tuple[list[Record], FaultInjector]:
    injector = FaultInjector([parse_fault(text) for text in texts], seed)
    return list(injector.apply(records)), injector


def of(records: Sequence[Record], topic: str) -> list[Record]:
    return [record for record in records if record.topic == topic]


def sent(record: Record) -> int:
    message = record.message
    stamped = message.transforms[0] if hasattr(message, "transforms") else message
    stamp = stamped.header.stamp
    return stamp.sec * 10**9 + stamp.nanosec


def raw(record: Record) -> bytes:
    return bytes(typestore().serialize_cdr(record.message, record.type))


def same_but(records: Sequence[Record], changed: Sequence[Record], topic: str) -> None:
    """All other topics are the very same records in the same order."""
    rest = [record for record in records if record.topic != topic]
    assert [one for one in changed if one.topic != topic] == rest


def test_no_fault_changes_nothing(records: list[Record]) -> None:
    assert inject(records)[0] == records


def test_drop_loses_as_many_as_it_counts(records: list[Record]) -> None:
    left, injector = inject(records, "drop:odom:p=0.1")
    before, after = of(records, ODOM), of(left, ODOM)
    assert injector.counts == [len(before) - len(after)]
    assert len(before) * 0.05 < injector.counts[0] < len(before) * 0.16
    assert set(map(id, after)) <= set(map(id, before))
    same_but(records, left, ODOM)


def test_probability_one_and_zero_are_all_and_none(records: list[Record]) -> None:
    assert not of(inject(records, "drop:gps_pose:p=1")[0], GPS)
    assert inject(records, "drop:gps_pose:p=0")[0] == records


def test_delay_moves_the_reception_and_not_the_stamp(records: list[Record]) -> None:
    late, injector = inject(records, "delay:camera/tag_detections:s=0.2")
    before, after = of(records, TAGS), of(late, TAGS)
    assert injector.counts == [len(before)]
    assert [one.receive_stamp for one in after] == [
        one.receive_stamp + 200_000_000 for one in before
    ]
    assert [sent(one) for one in after] == [sent(one) for one in before]
    received = [one.receive_stamp for one in late]
    assert received == sorted(received)
    same_but(records, late, TAGS)


def test_reorder_lets_later_messages_overtake(records: list[Record]) -> None:
    mixed, injector = inject(records, "reorder:odom:p=0.1,s=0.12")
    before, after = of(records, ODOM), of(mixed, ODOM)
    assert Counter(map(sent, before)) == Counter(map(sent, after))
    held = [one for one in after if one.receive_stamp - sent(one) > 100_000_000]
    assert len(held) == injector.counts[0] > 0
    stamps = [sent(one) for one in after]
    assert np.sum(np.diff(stamps) < 0) > 0.5 * injector.counts[0]
    received = [one.receive_stamp for one in mixed]
    assert received == sorted(received)


def test_duplicate_sends_the_same_message_twice_in_a_row(records: list[Record]) -> None:
    more, injector = inject(records, "duplicate:gps_pose:p=0.4")
    counts = Counter(map(id, of(more, GPS)))
    assert set(counts.values()) == {1, 2}
    assert sum(count == 2 for count in counts.values()) == injector.counts[0]
    assert len(more) == len(records) + injector.counts[0]


@pytest.mark.parametrize("topic", [ODOM, TAGS, GPS, "camera/camera_info", "ground_truth"])
def test_nan_spoils_the_values_and_leaves_header_and_covariances(
    records: list[Record], topic: str
) -> None:
    spoiled, injector = inject(records, f"nan:{topic}:p=0.3")
    differing = 0
    for before, after in zip(of(records, topic), of(spoiled, topic), strict=True):
        assert after.message.header == before.message.header
        if raw(after) != raw(before):
            differing += 1
            assert np.isnan(first_number(after.message))
            assert not np.isnan(first_number(before.message))
            part = getattr(after.message, "pose", None)
            assert not hasattr(part, "covariance") or np.isfinite(part.covariance).all()
    assert injector.counts[0] == differing > 0


def first_number(message: Any) -> float:
    if hasattr(message, "detections"):
        return message.detections[0].corners[0].x
    if hasattr(message, "k"):
        return message.k[0]
    pose = message.pose.pose if hasattr(message.pose, "pose") else message.pose
    return pose.position.x


def test_a_detection_array_without_tags_has_nothing_to_spoil(records: list[Record]) -> None:
    array = dataclasses.replace(of(records, TAGS)[0].message, detections=[])
    record = Record(TAGS, of(records, TAGS)[0].type, 5, array)
    for text in ("nan:*:p=1", "outliers:*:p=1,scale=9"):
        received, injector = inject([record], text)
        assert (received, injector.counts) == ([record], [0])


def test_outliers_are_as_large_as_asked_in_the_messages_own_sigmas(records: list[Record]) -> None:
    thrown, injector = inject(records, "outliers:gps_pose:p=1,scale=30")
    shifts = [
        after.message.pose.pose.position.x - before.message.pose.pose.position.x
        for before, after in zip(of(records, GPS), of(thrown, GPS), strict=True)
    ]
    assert injector.counts == [len(shifts)]
    assert 1.0 < np.std(shifts) < 6.0  # 30 · 0.1 m

    def turn(record: Record) -> Rotation:
        q = record.message.pose.pose.orientation
        return Rotation.from_quat([q.x, q.y, q.z, q.w])

    turns = [
        (turn(after) * turn(before).inv()).as_rotvec()
        for before, after in zip(of(records, GPS), of(thrown, GPS), strict=True)
    ]
    assert np.max(np.abs(turns), axis=0)[:2] == pytest.approx(0.0, abs=0.15)  # 30 · 0.001 rad
    assert 0.5 < np.std(turns, axis=0)[2] < 3.0  # 30 · 0.05 rad


def test_outliers_throw_tag_corners_by_pixels(records: list[Record]) -> None:
    thrown, injector = inject(records, "outliers:camera/tag_detections:p=0.2,scale=10")
    shifts, touched = [], 0
    for before, after in zip(of(records, TAGS), of(thrown, TAGS), strict=True):
        touched += before is not after
        if before is not after:
            shifts += [
                new.x - old.x
                for one, two in zip(
                    before.message.detections, after.message.detections, strict=True
                )
                for old, new in zip(one.corners, two.corners, strict=True)
            ]
    assert touched == injector.counts[0] > 0
    assert np.std(shifts) == pytest.approx(10.0, rel=0.1)


def test_outliers_move_an_odometrys_pose_and_twist(records: list[Record]) -> None:
    thrown, _ = inject(records, "outliers:odom:p=1,scale=100")
    before, after = of(records, ODOM)[7].message, of(thrown, ODOM)[7].message
    assert abs(after.twist.twist.linear.x - before.twist.twist.linear.x) > 0.05
    assert after.pose.pose.position.x != before.pose.pose.position.x
    np.testing.assert_array_equal(after.twist.covariance, before.twist.covariance)


def test_outliers_count_only_messages_that_have_something_to_throw(records: list[Record]) -> None:
    thrown, injector = inject(records, "outliers:*:p=1,scale=3")
    known = [one for one in records if one.topic in (ODOM, GPS)]
    tags = [one for one in of(records, TAGS) if one.message.detections]
    assert injector.counts == [len(known) + len(tags)]
    assert of(thrown, "ground_truth") == of(records, "ground_truth")


def test_outliers_throw_ranges_and_bearings_by_the_messages_sigmas() -> None:
    compose = Composer(message_class)
    one = compose.range_bearing(
        5, "robot", ["6"] * 400, np.full(400, 2.0), np.zeros(400), (0.1, 0.01)
    )
    record = Record("seen", one.__msgtype__, 5, one)
    thrown = inject([record], "outliers:seen:p=1,scale=10")[0][0].message
    assert np.std(thrown.ranges) == pytest.approx(1.0, rel=0.15)
    assert np.std(thrown.bearings) == pytest.approx(0.1, rel=0.15)
    assert raw(Record("seen", one.__msgtype__, 5, thrown))


def test_a_time_jump_moves_the_stamps_from_its_moment_on(records: list[Record]) -> None:
    jumped, injector = inject(records, "time_jump:*:at=10,s=-3")
    begin = records[0].receive_stamp + 10 * 10**9
    assert len(jumped) == len(records)
    for before, after in zip(records, jumped, strict=True):
        moved = -3 * 10**9 if before.receive_stamp >= begin else 0
        assert sent(after) - sent(before) == moved
        assert after.receive_stamp == before.receive_stamp
    assert injector.counts == [sum(one.receive_stamp >= begin for one in records)]


def test_faults_act_one_after_the_other(records: list[Record]) -> None:
    both, injector = inject(records, "duplicate:gps_pose:p=1", "delay:gps_pose:s=0.5")
    assert injector.counts == [20, 40]
    assert len(of(both, GPS)) == 40
    assert inject(records, "drop:odom:p=1", "nan:odom:p=1")[1].counts == [401, 0]


def test_equal_seeds_give_equal_streams_and_messages_are_never_changed_in_place(
    records: list[Record],
) -> None:
    before = [raw(record) for record in records]
    texts = ("drop:odom:p=0.2", "nan:gps_pose:p=0.5", "outliers:camera/tag_detections:p=1,scale=5")
    first, second = inject(records, *texts, seed=4)[0], inject(records, *texts, seed=4)[0]
    assert [raw(record) for record in first] == [raw(record) for record in second]
    assert [raw(record) for record in records] == before
    third = inject(records, *texts, seed=5)[0]
    assert [sent(one) for one in of(first, ODOM)] != [sent(one) for one in of(third, ODOM)]


def test_records_are_taken_one_by_one(records: list[Record]) -> None:
    taken = 0

    def counted() -> Any:
        nonlocal taken
        for record in records:
            taken += 1
            yield record

    stream = FaultInjector([parse_fault("delay:odom:s=0.1")]).apply(counted())
    for _ in range(100):
        next(stream)
    assert taken < 200


def test_a_target_is_a_topic_with_or_without_slash_or_a_sensors_name(
    records: list[Record],
) -> None:
    names = {"wheels": "/odom", "odom": "odom", GPS: GPS}
    for target in ("wheels", "odom", "/odom"):
        injector = FaultInjector([parse_fault(f"drop:{target}:p=1")], names=names)
        assert not of(list(injector.apply(records)), ODOM)
    with pytest.raises(DnlsError, match="'drop:imu': no such sensor or topic; known: gps_pose"):
        FaultInjector([parse_fault("drop:imu:p=1")], names=names)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lose:odom:p=0.1", "kind 'lose' is unknown; expected drop:TOPIC:p=…, delay:TOPIC:s=…"),
        ("drop", "target or the key=value part is missing; expected drop:TOPIC:p=…"),
        ("drop::p=0.1", "target or the key=value part is missing"),
        ("drop:odom:q=0.1", "key 'q' is unknown or given twice; expected drop:TOPIC:p=…"),
        ("drop:odom:p=0.1,p=0.2", "key 'p' is unknown or given twice"),
        ("drop:odom:", "key '' is unknown"),
        ("reorder:odom:p=0.1", "key 's' is missing; expected reorder:TOPIC:p=…,s=…"),
        ("drop:odom:p=often", "'often' for key 'p' is not a number"),
        ("drop:odom:p=1.5", "p=1.5 is out of range"),
        ("delay:odom:s=-1", "s=-1 is out of range"),
        ("delay:odom:s=nan", "s=nan is out of range"),
        ("outliers:odom:p=0.1,scale=inf", "scale=inf is out of range"),
    ],
)
def test_a_wrong_fault_is_refused_with_the_form_it_should_have(text: str, said: str) -> None:
    with pytest.raises(DnlsError) as refusal:
        parse_fault(text)
    assert f"fault '{text}': " in str(refusal.value)
    assert said in str(refusal.value)


def test_a_fault_with_times_happens_only_then(records: list[Record]) -> None:
    left, injector = inject(records, "drop:odom:p=1,at=5,for=2")
    first = records[0].receive_stamp
    gone = set(map(id, of(records, ODOM))) - set(map(id, of(left, ODOM)))
    lost = [one for one in of(records, ODOM) if id(one) in gone]
    assert injector.counts == [len(lost)] == [40]
    assert all(5.0 <= (one.receive_stamp - first) * 1e-9 < 7.0 for one in lost)


def test_jitter_delays_each_message_by_another_time(records: list[Record]) -> None:
    late, _ = inject(records, "jitter:odom:s=0.03")
    by_stamp = {sent(one): one.receive_stamp for one in of(records, ODOM)}
    waits = np.array([one.receive_stamp - by_stamp[sent(one)] for one in of(late, ODOM)]) * 1e-9
    assert (waits >= 0.0).all()
    assert waits.max() > 0.028
    assert abs(waits.mean() - 0.015) < 0.002


def test_a_paused_clock_stands_still_for_receivers_only(records: list[Record]) -> None:
    paused, injector = inject(records, "clock_pause:*:at=5,for=2")
    begin = records[0].receive_stamp + 5 * 10**9
    held = [one for one in paused if one.receive_stamp == begin]
    assert injector.counts == [len(held)]
    assert sent(held[-1]) > begin + 1.9e9
    assert [raw(one) for one in paused] == [raw(one) for one in records]


def test_headers_lose_what_the_fault_says(records: list[Record]) -> None:
    zero = of(inject(records, "zero_stamp:odom:p=1")[0], ODOM)
    assert {sent(one) for one in zero} == {0}
    ahead = of(inject(records, "future_stamp:odom:p=1,s=5")[0], ODOM)
    assert [sent(one) for one in ahead] == [sent(one) + 5 * 10**9 for one in of(records, ODOM)]
    empty = of(inject(records, "empty_frame:camera/tag_detections:p=1")[0], TAGS)
    assert {one.message.header.frame_id for one in empty} == {""}


def test_orientations_and_covariances_are_spoiled_as_named(records: list[Record]) -> None:
    turned = of(inject(records, "bad_quaternion:odom:p=1")[0], ODOM)[0].message.pose.pose
    assert turned.orientation.w == turned.orientation.z == 0.0
    before = of(records, ODOM)[0].message

    def matrices(kind: str) -> list[np.ndarray]:
        message = of(inject(records, f"{kind}_covariance:odom:p=1")[0], ODOM)[0].message
        assert message.pose.pose == before.pose.pose
        return [message.pose.covariance.reshape(6, 6), message.twist.covariance.reshape(6, 6)]

    assert not np.any(matrices("zero"))
    assert all((m.diagonal() < 0).all() for m in matrices("negative"))
    assert all((m == 1e12 * np.eye(6)).all() for m in matrices("huge"))
    assert all(np.abs(m - m.T).max() >= 1.0 for m in matrices("asymmetric"))
    assert np.isnan(matrices("nan")).all()


def test_every_kind_parses_and_runs(records: list[Record]) -> None:
    values = {"p": "0.5", "s": "0.1", "scale": "3", "at": "1", "for": "15"}
    texts = [
        f"{kind}:{ODOM}:" + ",".join(f"{key}={values[key]}" for key in keys)
        for kind, keys in KEYS.items()
    ]
    _, injector = inject(records, *texts)
    assert len(injector.counts) == len(KEYS)
    assert min(injector.counts) > 0
