"""tf against scipy: trees, interpolation, what is missing and what never comes."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from dnls_ros.io.tf_messages import read_transforms
from dnls_ros.runtime.transforms import (
    RESTART_AFTER,
    Found,
    Impossible,
    NotYet,
    StampedTransform,
    TransformBuffer,
)

Array = NDArray[np.float64]
SECOND = 10**9
START = 1_700_000_000 * SECOND


def random_pose(rng: np.random.Generator) -> Array:
    turn = rng.normal(size=4)
    return np.concatenate([rng.uniform(-5, 5, 3), turn / np.linalg.norm(turn)])


def matrix(pose: Array) -> Array:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = Rotation.from_quat(pose[3:]).as_matrix(), pose[:3]
    return out


def slerp(a: Array, b: Array, share: float) -> Array:
    turn = Slerp([0.0, 1.0], Rotation.from_quat([a[3:], b[3:]]))(share)
    return np.concatenate([(1 - share) * a[:3] + share * b[:3], turn.as_quat()])


def at(seconds: float) -> int:
    return START + round(seconds * SECOND)


def pose_in(buffer: TransformBuffer, target: str, source: str, stamp: int) -> Array:
    found = buffer.lookup(target, source, stamp)
    assert isinstance(found, Found), found
    return found.pose


def link(parent: str, child: str, seconds: float, x: float = 0.0) -> StampedTransform:
    return StampedTransform(parent, child, at(seconds), np.array([x, 0, 0, 0, 0, 0, 1.0]))


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[int], np.random.Generator]:
    """A random tree as the parent of each frame but the first, and numbers for its poses."""
    count = draw(st.integers(2, 9))
    parents = [draw(st.integers(0, child - 1)) for child in range(1, count)]
    return parents, np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


@given(trees(), st.data())
@settings(max_examples=60, deadline=None)
def test_any_two_frames_of_a_tree_by_matrices(
    tree: tuple[list[int], np.random.Generator], data: st.DataObject
) -> None:
    parents, rng = tree
    buffer = TransformBuffer(30.0)
    stamp = at(1.0 + data.draw(st.floats(0.0, 1.0)))
    share = (stamp - at(1.0)) / SECOND
    roots = [np.eye(4)]  # root_T_frame
    for child, parent in enumerate(parents, start=1):
        ends = random_pose(rng), random_pose(rng)
        static = bool(rng.random() < 0.4)
        names = f"f{parent}", f"f{child}"
        if static:
            buffer.add([StampedTransform(*names, 0, ends[0])], True)
        else:
            buffer.add([StampedTransform(*names, at(1.0 + k), p) for k, p in enumerate(ends)])
        own = ends[0] if static else slerp(*ends, share)
        roots.append(roots[parent] @ matrix(own))
    a, b = (data.draw(st.integers(0, len(parents))) for _ in range(2))
    a_T_b = matrix(pose_in(buffer, f"f{a}", f"f{b}", stamp))
    assert_allclose(a_T_b, np.linalg.inv(roots[a]) @ roots[b], atol=1e-9)
    assert_allclose(a_T_b @ matrix(pose_in(buffer, f"f{b}", f"f{a}", stamp)), np.eye(4), atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.sampled_from([3.0, 1e-3, 1e-7, 0.0]))
@settings(max_examples=60, deadline=None)
def test_interpolation_is_slerp_for_turns_of_any_size(
    seed: int, share: float, angle: float
) -> None:
    rng = np.random.default_rng(seed)
    first, axis = random_pose(rng), rng.normal(size=3)
    turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis))
    second = np.concatenate([rng.normal(size=3), (Rotation.from_quat(first[3:]) * turn).as_quat()])
    second[3:] *= rng.choice([-1.0, 1.0])  # the same rotation
    buffer = TransformBuffer(30.0)
    buffer.add([StampedTransform("a", "b", at(t), p) for t, p in ((1, first), (2, second))])
    stamp = at(1 + share)
    got = pose_in(buffer, "a", "b", stamp)
    want = slerp(first, second, (stamp - at(1)) / SECOND)
    assert_allclose(matrix(got), matrix(want), atol=1e-12)


def test_nothing_is_extrapolated() -> None:
    buffer = TransformBuffer(30.0)
    buffer.add([link("odom", "base", 1.0), link("odom", "base", 2.0)])
    buffer.add([link("base", "camera", 0.0)], True)
    assert isinstance(buffer.lookup("odom", "camera", at(2.0)), Found)
    ahead = buffer.lookup("odom", "camera", at(2.25))
    assert isinstance(ahead, NotYet)
    assert ahead.known
    assert "0.250 s" in ahead.text
    behind = buffer.lookup("camera", "odom", at(0.5))
    assert isinstance(behind, Impossible)
    assert "0.500 s" in behind.text


def test_a_link_above_the_common_ancestor_is_not_needed() -> None:
    buffer = TransformBuffer(30.0)
    buffer.add([link("odom", "base", 1.0)])
    buffer.add([link("base", "left", 0.0, 1.0), link("base", "right", 0.0, 3.0)], True)
    found = buffer.lookup("left", "right", at(50.0))  # base in odom is unknown by then
    assert isinstance(found, Found)
    assert found.static
    assert_allclose(found.pose[:3], [2.0, 0, 0])


def test_frames_that_were_never_heard_of_are_named() -> None:
    buffer = TransformBuffer(30.0)
    assert "no frame did" in str(buffer.lookup("odom", "base", at(1.0)))
    buffer.add([link("odom", "base", 1.0), link("map", "tag", 1.0)])
    unknown = buffer.lookup("odom", "camera", at(1.0))
    assert isinstance(unknown, NotYet)
    assert not unknown.known
    assert "'camera'" in unknown.text
    assert "odom, base, map, tag" in unknown.text
    apart = buffer.lookup("odom", "tag", at(1.0))
    assert isinstance(apart, NotYet)
    assert not apart.known
    assert "below 'map'" in apart.text
    assert "below 'odom'" in apart.text
    buffer.add([link("map", "odom", 1.0)])
    assert isinstance(buffer.lookup("odom", "tag", at(1.0)), Found)


def test_slashes_of_ros_1_are_stripped() -> None:
    buffer = TransformBuffer(30.0)
    buffer.add([link("/odom", "/base", 1.0, 2.0)])
    assert_allclose(pose_in(buffer, "odom", "/base", at(1.0))[0], 2.0)


def test_samples_in_any_order_and_twice() -> None:
    buffer = TransformBuffer(30.0)
    order = [3, 1, 4, 2, 2, 0]
    buffer.add([link("a", "b", t, float(t)) for t in order])
    assert_allclose(pose_in(buffer, "a", "b", at(2.5))[0], 2.5)
    buffer.add([link("a", "b", 2.0, 20.0)])
    assert_allclose(pose_in(buffer, "a", "b", at(2.0))[0], 20.0)


def test_the_cache_has_a_length() -> None:
    buffer = TransformBuffer(10.0)
    buffer.add([link("a", "b", t) for t in range(0, 31)])
    assert isinstance(buffer.lookup("a", "b", at(20.0)), Found)
    assert isinstance(buffer.lookup("a", "b", at(19.9)), Impossible)
    (refusal,) = buffer.add([link("a", "b", 1.0)])
    assert "older" in refusal
    assert "tf.cache is 10 s" in refusal


def test_one_stamp_of_the_far_future_does_not_end_a_link() -> None:
    buffer = TransformBuffer(10.0)
    buffer.add([link("a", "b", 1.0), link("a", "b", 1e6)])
    for k in range(RESTART_AFTER + 1):
        buffer.add([link("a", "b", 2.0 + 0.1 * k)])
    assert isinstance(buffer.lookup("a", "b", at(2.0 + 0.1 * RESTART_AFTER)), Found)


def test_a_new_parent_holds_from_its_first_sample_as_in_tf2() -> None:
    buffer = TransformBuffer(30.0)
    buffer.add([link("shelf", "box", 1.0, 1.0), link("shelf", "box", 2.0, 2.0)])
    buffer.add([link("hand", "box", 3.0, 0.1), link("hand", "box", 4.0, 0.1)])
    assert_allclose(pose_in(buffer, "shelf", "box", at(2.5))[0], 2.0)  # the earlier one holds
    assert_allclose(pose_in(buffer, "hand", "box", at(3.5))[0], 0.1)
    assert not isinstance(buffer.lookup("shelf", "box", at(3.5)), Found)
    assert buffer.parent_of("box") == "hand"


def test_the_kind_of_a_link_is_that_of_its_newest_transform() -> None:
    buffer = TransformBuffer(30.0)
    buffer.add([link("a", "b", 1.0, 1.0)])
    buffer.add([link("a", "b", 0.0, 7.0)], True)
    assert_allclose(pose_in(buffer, "a", "b", at(99.0))[0], 7.0)
    buffer.add([link("a", "b", 2.0, 2.0)])
    assert isinstance(buffer.lookup("a", "b", at(99.0)), NotYet)
    assert_allclose(pose_in(buffer, "a", "b", at(2.0))[0], 2.0)


def test_a_loop_is_refused_and_named() -> None:
    buffer = TransformBuffer(30.0)
    buffer.add([link("a", "b", 1.0), link("b", "c", 1.0)])
    (refusal,) = buffer.add([link("c", "a", 1.0)])
    assert "loop: a → c → b → a" in refusal
    assert isinstance(buffer.lookup("a", "c", at(1.0)), Found)


def test_a_loop_over_time_ends_the_lookup() -> None:
    """No newest parents close it, but those of different times do."""
    buffer = TransformBuffer(30.0)
    buffer.add([link("b", "a", 1.0), link("b", "a", 2.0), link("root", "a", 9.0)])
    buffer.add([link("a", "b", 1.0), link("a", "b", 2.0)])
    found = buffer.lookup("elsewhere", "a", at(1.5))
    assert isinstance(found, NotYet)
    buffer.add([link("elsewhere", "x", 1.5)])
    found = buffer.lookup("elsewhere", "a", at(1.5))
    assert isinstance(found, Impossible)
    assert "loop" in found.text


@pytest.mark.parametrize(
    ("parent", "child", "pose", "word"),
    [
        ("", "b", [0, 0, 0, 0, 0, 0, 1], "name"),
        ("a", "/", [0, 0, 0, 0, 0, 0, 1], "name"),
        ("a", "/a", [0, 0, 0, 0, 0, 0, 1], "own parent"),
        ("a", "b", [0, 0, np.nan, 0, 0, 0, 1], "not finite"),
        ("a", "b", [0, 0, 0, np.inf, 0, 0, 1], "not finite"),
        ("a", "b", [0, 0, 0, 0, 0, 0, 0], "norm 0"),
        ("a", "b", [0, 0, 0, 0, 0, 0, 1e300], "norm"),
        ("a", "b", [1e300, 0, 0, 0, 0, 0, 1], "beyond"),
        ("a", "b", [0, 0, 0, 1], "shape"),
    ],
)
def test_malformed_transforms_are_refused_with_a_sentence(
    parent: str, child: str, pose: list[float], word: str
) -> None:
    buffer = TransformBuffer(30.0)
    for static in (False, True):
        (refusal,) = buffer.add([StampedTransform(parent, child, at(1), np.array(pose))], static)
        assert word in refusal
    assert isinstance(buffer.lookup("a", "b", at(1)), NotYet)


def test_a_dynamic_transform_needs_a_stamp() -> None:
    identity = np.array([0, 0, 0, 0, 0, 0, 1.0])
    buffer = TransformBuffer(30.0)
    (refusal,) = buffer.add([StampedTransform("a", "b", 0, identity)])
    assert "stamp" in refusal
    assert not buffer.add([StampedTransform("a", "b", 0, identity)], True)


def test_a_time_jump_forgets_what_moves() -> None:
    buffer = TransformBuffer(30.0)
    buffer.add([link("odom", "base", 1.0)])
    buffer.add([link("base", "camera", 0.0)], True)
    buffer.clear()
    assert isinstance(buffer.lookup("base", "camera", at(1.0)), Found)
    missing = buffer.lookup("odom", "base", at(1.0))
    assert isinstance(missing, NotYet)
    assert missing.known
    assert "time jumped" in missing.text
    buffer.add([link("odom", "base", -100.0)])  # the loop of a bag begins again
    assert isinstance(buffer.lookup("odom", "base", at(-100.0)), Found)


def test_lookups_leave_the_buffer_alone() -> None:
    buffer = TransformBuffer(30.0)
    pose = random_pose(np.random.default_rng(0))
    buffer.add([StampedTransform("a", "b", at(1.0), pose)])
    pose[:] = 0.0  # the caller's array
    with pytest.raises(ValueError, match="read-only"):
        pose_in(buffer, "a", "b", at(1.0))[0] = 5.0


def message(
    parent: Any, child: Any, stamp: Any = (1, 5), pose: Any = (0, 0, 0, 0, 0, 0, 1)
) -> Any:
    names = "x", "y", "z", "x", "y", "z", "w"
    numbers = [(n, float(v)) for n, v in zip(names, pose, strict=True)]
    header = SimpleNamespace(
        stamp=SimpleNamespace(sec=stamp[0], nanosec=stamp[1]), frame_id=parent
    )
    transform = SimpleNamespace(
        translation=SimpleNamespace(**dict(numbers[:3])),
        rotation=SimpleNamespace(**dict(numbers[3:])),
    )
    return SimpleNamespace(header=header, child_frame_id=child, transform=transform)


def test_messages_are_read_and_their_bad_parts_told_apart() -> None:
    good = message("/odom", "/base", pose=(1, 2, 3, 0, 0, 0, 1))
    bad = [
        message(7, "base"),
        message("odom", "base", stamp=(1, -1)),
        message("odom", "base", pose=(np.nan, 0, 0, 0, 0, 0, 1)),
        message("odom", "base", pose=(0,) * 7),
        SimpleNamespace(),
    ]
    heard = read_transforms(SimpleNamespace(transforms=[*bad[:2], good, *bad[2:]]), True)
    problems = heard.problems
    assert heard.static
    assert heard.newest == SECOND + 5
    (one,) = heard.transforms
    assert (one.parent, one.child, one.stamp) == ("/odom", "/base", SECOND + 5)
    assert_allclose(one.pose, [1, 2, 3, 0, 0, 0, 1])
    assert len(problems) == len(bad)
    assert problems[0].startswith("transforms[0]: ")
    assert "header.frame_id" in problems[0]
    heard = read_transforms(SimpleNamespace(), False)
    assert not heard.transforms
    assert "no TFMessage" in heard.problems[0]
