"""The tactile front end: background, contact, features once per image, pairs; its messages."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from touch_rig import RATE, SECOND, T0, Push, changed, measurements, push, yaw_of

from dnls_ros.errors import DnlsError
from dnls_ros.io.messages import adapt
from dnls_ros.runtime.session import Session
from dnls_ros.runtime.types import Event
from dnls_ros.window.config import ImageConfig
from dnls_ros.window.ingress import Settled
from dnls_ros.window.measurements import (
    ContactMeasurement,
    Measurement,
    Reason,
    Rejection,
    TactileFrame,
    TactileRelativeMeasurement,
)
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.results import StepResult
from dnls_ros.window.rigid import compose, inverse
from dnls_ros.window.tactile_frontend import LEARNING, FrontEndOptions, Seen, TactileFrontEnd

HEIGHT, WIDTH = 60, 80
OPTIONS = FrontEndOptions(4.0, 0.01, 3, (2, 5), ImageConfig((), (WIDTH, HEIGHT)))
GEL = np.linspace(60, 160, WIDTH)[None, :, None] + np.array([0.0, 20.0, 40.0])
GEL = np.broadcast_to(GEL, (HEIGHT, WIDTH, 3))


def picture(random: np.random.Generator, press: float = 0.0, light: float = 0.0) -> np.ndarray:
    """The gel with noise, a pressed disc of 6 % of it, and changed light (grey levels)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = ((x - 40) ** 2 + (y - 30) ** 2 < 10**2)[..., None]
    noise = 2.0 * random.standard_normal(GEL.shape)
    return np.clip(GEL + light + press * disc + noise, 0, 255).astype(np.uint8)


@dataclass
class Yaws:
    """A model whose feature is the brightness: what it saw it counts, and it fails when told."""

    hash: str = "abc"
    measured: tuple[str, ...] = ("yaw",)
    seen: int = 0
    bad: str = ""
    offsets: list[int] = field(default_factory=list[int])

    def feature(self, image: np.ndarray) -> np.ndarray:
        assert image.shape == (3, HEIGHT, WIDTH)
        assert image.dtype == np.float32
        self.seen += 1
        if self.bad == "raise":
            raise RuntimeError("out of memory")
        return np.array([np.nan if self.bad == "nan" else float(image.mean()), self.seen])

    def pairs(self, earlier: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.offsets += (later[:, 1] - earlier[:, 1]).astype(int).tolist()
        if self.bad == "shape":
            return np.zeros(3), np.zeros(3)
        motion = np.zeros((len(earlier), 3))
        return motion, np.full_like(motion, -1.0 if self.bad == "sigma" else 0.01)


def watch(front: TactileFrontEnd, pressed: list[bool], **keywords: Any) -> list[Seen]:
    random = np.random.default_rng(3)
    return [
        front.see(k + 1, picture(random, 30.0 * press, **keywords))
        for k, press in enumerate(pressed)
    ]


def test_contact_begins_and_ends_after_so_many_images_in_a_row():
    pressed = [False] * 20 + [True] * 2 + [False] * 5 + [True] * 10 + [False] * 10 + [True] * 5
    seen = watch(TactileFrontEnd(OPTIONS), pressed)
    assert [s.learning for s in seen] == [k < LEARNING for k in range(len(seen))]
    on = [k for k, s in enumerate(seen) if s.in_contact]
    assert on == [*range(29, 39), *range(49, 52)]
    assert [seen[k].episode for k in (25, 29, 38, 45, 51)] == [0, 1, 1, 1, 2]
    assert seen[30].area == pytest.approx(np.pi * 100 / (HEIGHT * WIDTH), rel=0.1)
    assert seen[30].confidence == 1.0
    touched = np.argwhere(seen[30].touched)
    np.testing.assert_allclose(touched.mean(0), [30, 40], atol=0.5)


def test_slow_drift_of_the_light_is_no_contact_and_a_press_on_it_is():
    front, random = TactileFrontEnd(OPTIONS), np.random.default_rng(5)
    drifting = [front.see(k + 1, picture(random, light=0.05 * k)) for k in range(600)]
    assert not any(s.in_contact for s in drifting)
    pressed = [front.see(601 + k, picture(random, 30.0, light=30.0)) for k in range(5)]
    assert pressed[-1].in_contact


def test_images_of_another_size_are_brought_to_the_one_that_is_wanted():
    front, random = TactileFrontEnd(OPTIONS), np.random.default_rng(5)
    for k in range(20):
        large = np.asarray(cv2.resize(picture(random), (320, 240)), dtype=np.uint8)
        assert not front.see(k + 1, large if k % 2 else picture(random)).in_contact
    cut = replace(OPTIONS, image=ImageConfig((10, 5, 40, 30), (WIDTH, HEIGHT)))
    assert TactileFrontEnd(cut).see(1, picture(random)).touched.shape == (HEIGHT, WIDTH)


def test_each_image_of_a_contact_is_seen_once_and_pairs_stay_within_it():
    model = Yaws()
    pressed = [False] * 12 + [True] * 12 + [False] * 8 + [True] * 6
    seen = watch(TactileFrontEnd(OPTIONS, model), pressed)
    assert model.seen == sum(s.in_contact for s in seen)
    assert set(model.offsets) == {2, 5}
    second = [s for s in seen if s.episode == 2 and s.in_contact]
    assert [[p.stamp for p in s.pairs] for s in second] == [
        [k for k in (s.stamp - 5, s.stamp - 2) if k >= second[0].stamp] for s in second
    ]
    assert all(s.model_hash == "abc" and s.seconds > 0 for s in second)
    assert all(s.feature is None for s in seen if not s.in_contact)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ("raise", "RuntimeError: out of memory"),
        ("nan", "the feature is not finite"),
        ("sigma", "its sigma not positive"),
        ("shape", r"have shapes \(3,\) and \(3,\), expected \(2, 3\)"),
    ],
)
def test_a_model_that_fails_takes_nothing_from_the_contact(bad: str, text: str) -> None:
    model = Yaws(bad=bad)
    front = TactileFrontEnd(OPTIONS, model)
    seen = watch(front, [False] * 12 + [True] * 10)[-1]
    assert seen.in_contact
    assert seen.pairs == ()
    assert re.search(text, seen.failure)
    front.take_model(Yaws(hash="new"))
    random = np.random.default_rng(3)
    again = [front.see(100 + k, picture(random, 30.0)) for k in range(6)]
    assert not any(s.failure for s in again)
    assert [len(s.pairs) for s in again] == [0, 0, 1, 1, 1, 2]


# --- messages ------------------------------------------------------------------------------------


def message(
    pixels: np.ndarray, encoding: str = "rgb8", padding: int = 0, changes: Any = None
) -> Any:
    height, width = pixels.shape[:2]
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, padding)))
    fields: dict[str, Any] = {
        "header": SimpleNamespace(stamp=SimpleNamespace(sec=5, nanosec=7), frame_id="digit"),
        "height": height, "width": width, "encoding": encoding, "step": rows.shape[1],
        "data": rows.tobytes(),
    }  # fmt: skip
    return SimpleNamespace(**(fields | (changes or {})))


COLOURS = np.random.default_rng(1).integers(0, 255, (4, 6, 3), dtype=np.uint8)
ALPHA = np.dstack([COLOURS, np.full((4, 6), 9, np.uint8)])
GREY = np.repeat(COLOURS[..., :1], 3, -1)


@pytest.mark.parametrize(
    ("pixels", "encoding", "expected"),
    [
        (COLOURS, "rgb8", COLOURS),
        (COLOURS[..., ::-1], "bgr8", COLOURS),
        (ALPHA, "rgba8", COLOURS),
        (ALPHA[..., [2, 1, 0, 3]], "bgra8", COLOURS),
        (COLOURS[..., :1], "mono8", GREY),
    ],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_images_are_read_in_every_encoding(
    pixels: np.ndarray, encoding: str, expected: np.ndarray, padding: int
) -> None:
    read = adapt("gel", "sensor_msgs/msg/Image", message(pixels, encoding, padding))
    assert isinstance(read, TactileFrame)
    assert (read.stamp, read.frame) == (5 * SECOND + 7, "digit")
    np.testing.assert_array_equal(read.image, expected)


def test_a_compressed_image_is_decoded():
    smooth = cv2.resize(COLOURS, (64, 48))
    done, data = cv2.imencode(".png", smooth[..., ::-1])
    assert done
    header = message(COLOURS).header
    whole = SimpleNamespace(header=header, format="png", data=data.reshape(-1))
    read = adapt("gel", "sensor_msgs/msg/CompressedImage", whole)
    assert isinstance(read, TactileFrame)
    np.testing.assert_array_equal(read.image, smooth)
    for broken in (np.zeros(0, np.uint8), data.reshape(-1)[:20], np.arange(99, dtype=np.uint8)):
        whole.data = broken
        assert isinstance(adapt("gel", "sensor_msgs/msg/CompressedImage", whole), Rejection)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"encoding": "bayer_rggb8"}, "encoding is 'bayer_rggb8'; expected one of rgb8"),
        ({"height": 0}, "an image of 6 × 0 pixels"),
        ({"step": 17}, "rows of at least 18"),
        ({"data": b"123"}, "data has 3 bytes; expected 4 rows of 18"),
        ({"height": 1 << 30}, "an image of 6 × 1073741824 pixels"),
    ],
)
def test_what_is_no_image_is_rejected_with_what_is_wrong(
    changes: dict[str, Any], text: str
) -> None:
    read = adapt("gel", "sensor_msgs/msg/Image", message(COLOURS, changes=changes))
    assert isinstance(read, Rejection)
    assert read.reason is Reason.BAD_SHAPE
    assert text in read.text


def test_the_other_messages_of_touch_are_read():
    header = message(COLOURS).header
    vector = SimpleNamespace(x=1.0, y=2.0, z=3.0)
    since = SimpleNamespace(sec=4, nanosec=5)
    state = SimpleNamespace(
        header=header, in_contact=True, since=since, has_center=False, center=vector
    )
    read = adapt("c", "dnls_ros/msg/ContactState", state)
    assert isinstance(read, ContactMeasurement)
    assert (read.in_contact, read.since, read.center) == (True, 4_000_000_005, None)
    state.has_center = True
    read = adapt("c", "dnls_ros/msg/ContactState", state)
    assert isinstance(read, ContactMeasurement)
    np.testing.assert_array_equal(read.center, [1, 2, 3])
    turn = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
    pose = SimpleNamespace(position=vector, orientation=turn)
    delta = SimpleNamespace(pose=pose, covariance=np.eye(6).reshape(-1))
    stamp = SimpleNamespace(sec=4, nanosec=0)
    pair = SimpleNamespace(header=header, stamp_i=stamp, delta=delta, axes=1 | 32)
    read = adapt("t", "dnls_ros/msg/TactileRelativePose", pair)
    assert isinstance(read, TactileRelativeMeasurement)
    assert (read.stamp_from, read.measured) == (4 * SECOND, ("x", "yaw"))
    pair.axes = True
    assert isinstance(adapt("t", "dnls_ros/msg/TactileRelativePose", pair), Rejection)
    force = SimpleNamespace(x=float("nan"), y=0.0, z=0.0)
    wrench = SimpleNamespace(header=header, wrench=SimpleNamespace(force=force, torque=vector))
    read = adapt("w", "geometry_msgs/msg/WrenchStamped", wrench)
    assert isinstance(read, Rejection)
    assert read.reason is Reason.NOT_FINITE


# --- in the estimator ----------------------------------------------------------------------------

SENSOR = {
    "type": "tactile_image", "track": "object", "topic": "image", "axes": ["distance", "yaw"],
    "covariance": "learned", "extrinsic": [0.0] * 6, "pair_offsets": [10, 20, 30],
    "image.size": [16, 16], "model": __file__,
}  # fmt: skip


@dataclass
class Told:
    """A model that is told the truth: the finger's yaw on the object is the image's brightness."""

    hash: str = "told"
    measured: tuple[str, ...] = ("yaw",)
    bad: bool = False

    def feature(self, image: np.ndarray) -> np.ndarray:
        return np.array([np.nan if self.bad else (float(image.mean()) * 255 - 100) / 200])

    def pairs(self, earlier: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turn = later - earlier
        zero = np.zeros_like(turn)
        return np.hstack([zero, zero, turn]), np.full((len(turn), 3), 0.01)


def frames(truth: Push) -> list[Measurement]:
    """A uniform image that tells the finger's yaw on the object while it touches."""
    out: list[Measurement] = []
    for k in range(len(truth.seconds)):
        relative = compose(inverse(truth.object[k]), truth.finger[k])
        level = 20 + (100 + 200 * yaw_of(relative)) * truth.touching[k]
        image = np.full((16, 16, 3), round(level), np.uint8)
        out.append(
            TactileFrame(sensor="gel", stamp=truth.stamp(k), frame="ee", sequence=k, image=image)
        )
    return out


def drive(session: Session, data: list[Measurement]) -> tuple[list[StepResult], list[Settled]]:
    results: list[StepResult] = []
    settled: list[Settled] = []
    for m in sorted(data, key=lambda m: m.stamp):
        session.receive(m, m.stamp)
        for one in session.take():
            results += [one] if isinstance(one, StepResult) else []
            settled += [one] if isinstance(one, Settled) else []
    assert all(s.balanced for s in session.status().sensors)
    return results, settled


def session_with(model: Any) -> Session:
    given = changed({"sensor.gel": SENSOR}, ("contact", "tactile"))
    given["sensors"] = [*given["sensors"], "gel"]
    return Session(load_parameters(given), open_model=lambda _: model)


def off(results: list[StepResult], truth: Push) -> float:
    """Error of the object's newest state, root mean square after the first second [m]."""
    found: list[float] = []
    for track in (r.tracks["object"] for r in results if "object" in r.tracks):
        k = round(float(track.stamps[-1] - T0) * 1e-9 * RATE)
        if truth.seconds[k] > 1.0:
            found.append(float(np.hypot(*compose(inverse(truth.object[k]), track.poses[-1])[:2])))
    return float(np.sqrt(np.square(found).mean()))


def test_images_in_the_estimators_own_process_do_what_the_front_ends_messages_do():
    truth = push()
    others = [m for m in measurements(truth) if m.sensor in ("ee_pose", "tag")]
    session = session_with(Told())
    results, settled = drive(session, [*others, *frames(truth)])
    verdicts = {one.reason for one in settled if one.sensor == "gel"}
    assert verdicts == {Reason.ACCEPTED}
    assert off(results, truth) < 0.003
    assert "gel.yaw" in session.estimator.problem()
    health = {s.name: s for s in session.status().sensors}["gel"]
    assert (health.model_hash, health.received) == ("told", len(truth.seconds))


def test_a_failing_model_is_counted_and_another_one_takes_its_place():
    truth = push(3.0)
    others = [m for m in measurements(truth) if m.sensor in ("ee_pose", "tag")]
    model = Told()
    session = session_with(model)
    model.bad = True
    half = T0 + round(1.6 * SECOND)
    data = [*others, *frames(truth)]
    _, before = drive(session, [m for m in data if m.stamp < half])
    failed = [s for s in before if s.reason is Reason.MODEL_FAILED]
    assert len(failed) > 10
    assert {s.text for s in failed} == {"the feature is not finite"}
    assert session.load_model("gel", Told(hash="better"), "b.pt").success
    refused = session.load_model("tag", Told(), "b.pt")
    assert not refused.success
    assert "'tag' is no tactile_image sensor; there are ['gel']" in refused.message
    events = [e for e in session.take() if isinstance(e, Event)]
    assert [e.values["hash"] for e in events if e.code == "model.reload"] == ["better"]
    results, after = drive(session, [m for m in data if m.stamp >= half])
    assert not [s for s in after if s.stamp > half + SECOND and s.reason is not Reason.ACCEPTED]
    assert off(results, truth) < 0.006


def test_a_model_is_tested_before_it_is_used():
    for model, text in [(Told(bad=True), "has shape"), (Yaws(), "AssertionError")]:
        with pytest.raises(DnlsError, match=f"fails its test on a black image of 16 × 16.*{text}"):
            session_with(model)
