"""The tactile front end as a node: its options, its account, and the real process over DDS."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import module_rig
import numpy as np
import pytest
from test_tactile_frontend import GEL, HEIGHT, WIDTH, Yaws, picture

from dnls_ros.errors import DnlsError
from dnls_ros.io import compose_touch
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class
from dnls_ros.io.messages import adapt
from dnls_ros.io.tactile_frontend import (
    CONTACT,
    FEATURE,
    IMAGE,
    RELATIVE_POSE,
    Looked,
    TactileTranslator,
    read_options,
)
from dnls_ros.window.measurements import (
    ContactMeasurement,
    Reason,
    Rejection,
    TactileRelativeMeasurement,
)
from dnls_ros.window.tactile_frontend import TactileFrontEnd

ROOT = Path(__file__).resolve().parents[1]
MAKE = Composer(message_class)
SECOND = 1_000_000_000
STAMP = 1_700_000_000 * SECOND
SMALL = {"image.size": [WIDTH, HEIGHT], "pair_offsets": [2, 5]}


def translator(model: Any = None, **options: Any) -> TactileTranslator:
    chosen = read_options(SMALL | options)
    return TactileTranslator(chosen, TactileFrontEnd(chosen.front, model))


def image(k: int, pixels: np.ndarray, frame: str = "digit", make: Composer = MAKE) -> Any:
    return compose_touch.image(make, STAMP + k * SECOND // 30, frame, pixels)


def test_what_an_image_says_is_what_the_estimator_reads() -> None:
    front, random = translator(Yaws(), sensor_id="D20"), np.random.default_rng(2)
    said: list[tuple[str, Any]] = []
    looked = None
    for k in range(30):
        looked = front.look(IMAGE, image(k, picture(random, 30.0 * (k >= 15))), 0)
        assert isinstance(looked, Looked)
        said += front.messages(MAKE, looked)
    kinds = [kind for kind, _ in said]
    assert [kinds.count(k) for k in (CONTACT, FEATURE, RELATIVE_POSE)] == [20, 13, 11 + 8]
    contacts = [adapt("c", kind, m) for kind, m in said if kind == CONTACT]
    touching = [c.in_contact for c in contacts if isinstance(c, ContactMeasurement)]
    assert touching == [False] * 7 + [True] * 13
    last = said[-1][1]
    read = adapt("t", RELATIVE_POSE, last)
    assert isinstance(read, TactileRelativeMeasurement)
    assert (read.frame, read.measured, last.sensor_id) == ("digit", ("yaw",), "D20")
    assert read.stamp - read.stamp_from == pytest.approx(2 * SECOND / 30, abs=2)
    assert read.covariance is not None
    assert read.covariance[5, 5] == pytest.approx(1e-4)
    assert last.model_hash == "abc"
    assert isinstance(looked, Looked)
    assert looked.seen.in_contact
    red = front.picture(looked)
    assert red[30, 40, 0] == 255
    assert red[0, 0, 0] < 255


def test_drivers_that_stamp_nothing_and_name_no_frame() -> None:
    front, pixels = translator(), GEL.astype(np.uint8)
    bare = compose_touch.image(MAKE, 0, "", pixels)
    for expected, options in [
        (Reason.ZERO_STAMP, {}),
        (Reason.EMPTY_FRAME, {"stamp_source": "arrival"}),
    ]:
        front = translator(**options)
        refused = front.look(IMAGE, bare, STAMP)
        assert isinstance(refused, Rejection)
        assert refused.reason is expected
        assert front.refused == {expected: 1}
        assert expected.name in front.last_problem
    front = translator(stamp_source="arrival", stamp_offset=-0.5, frame_override="gel")
    looked = front.look(IMAGE, bare, STAMP)
    assert isinstance(looked, Looked)
    assert (looked.frame.stamp, looked.frame.frame) == (STAMP - SECOND // 2, "gel")


def test_every_image_is_in_the_account_and_a_second_run_of_a_recording_begins_anew() -> None:
    front, random = translator(Yaws(bad="nan")), np.random.default_rng(2)
    for k in (*range(20), 19):
        front.look(IMAGE, image(k, picture(random, 30.0 * (k > 12))), 0)
    front.look(IMAGE, image(40, picture(random)[:1, :1]), 0)
    front.drop()
    assert front.refused == {Reason.DUPLICATE: 1, Reason.QUEUE_FULL: 1}
    assert (front.received, front.passed) == (23, 21)
    assert front.failed == 6  # images 15 to 19, and the one of a single pixel
    again = front.look(IMAGE, image(0, picture(random)), 0)
    assert isinstance(again, Looked)
    assert again.seen.learning
    cut = translator(**{"image.crop": [60, 0, 40, 30]})
    refused = cut.look(IMAGE, image(0, picture(random)), 0)
    assert isinstance(refused, Rejection)
    assert "image.crop [60, 0, 40, 30] is not within 80 × 60" in refused.text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"stamp_sorce": "arrival"}, "nearest valid name is 'stamp_source'"),
        ({"contact.hysteresis": 0}, "expected 1..100 frames"),
        ({"model": "nowhere.pt"}, "file 'nowhere.pt' not found"),
        ({"image.size": [320]}, "image.size: has 1 numbers; expected width and height"),
        ({"image.crop": [1, 2]}, "image.crop: has 2 numbers; expected 4, or none"),
        ({"pair_offsets": [20, 10]}, "expected ascending numbers"),
    ],
)
def test_options_that_do_not_fit_are_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(DnlsError, match="parameters of 'tactile_frontend': 1 problem") as caught:
        read_options(SMALL | changes)
    assert text in str(caught.value)


# --- the process ---------------------------------------------------------------------------------


running = partial(module_rig.running, "tactile_frontend")


@pytest.mark.ros
def test_a_wrong_parameter_ends_the_node_with_what_is_wrong() -> None:
    pytest.importorskip("rclpy")
    with running("pair_ofsets:=[10]") as process:
        text, _ = process.communicate(timeout=60.0)
        assert process.returncode == 2
        assert "nearest valid name is 'pair_offsets'" in text


@pytest.mark.ros
@pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")  # lark, used by rclpy
def test_the_node_loses_no_image_at_thirty_a_second_and_refuses_a_bad_model() -> None:
    pytest.importorskip("rclpy")
    from node_rig import call, reliable_publisher, wait_for

    from dnls_ros.ros.live import free_domain, local_node
    from dnls_ros.ros.types import message_class as ros_class

    make = Composer(ros_class)
    with (
        local_node("peer", free_domain()) as peer,
        running("image.size:=[80, 60]") as process,
    ):
        contacts: list[Any] = []
        pictures: list[Any] = []
        accounts: list[Any] = []
        name = "tactile_frontend"
        peer.create_subscription(ros_class(CONTACT), f"{name}/contact", contacts.append, 50)
        peer.create_subscription(ros_class(IMAGE), f"{name}/debug_image", pictures.append, 5)
        diagnostics = ros_class("diagnostic_msgs/msg/DiagnosticArray")
        peer.create_subscription(diagnostics, "/diagnostics", accounts.append, 10)
        images = reliable_publisher(peer, IMAGE, "image_raw")
        wait_for(lambda: images.get_subscription_count() == 1, 60.0, "images wanted")
        time.sleep(1.0)  # the other side of the match comes later
        random = np.random.default_rng(2)
        for k in range(90):
            images.publish(image(k, picture(random, 30.0 * (40 <= k < 70)), make=make))
            time.sleep(1 / 30)
        wait_for(lambda: len(contacts) == 80, 10.0, "a contact for each image but the first ten")
        touching = [c.header.stamp.sec * SECOND + c.header.stamp.nanosec for c in contacts
                    if c.in_contact]  # fmt: skip
        assert touching == [STAMP + k * SECOND // 30 for k in range(42, 72)]
        assert pictures
        assert (pictures[-1].width, pictures[-1].height) == (WIDTH, HEIGHT)
        load = ros_class("dnls_ros/srv/LoadModel")
        client = peer.create_client(load, f"{name}/load_model")
        assert client.wait_for_service(10.0)
        answer = call(client, load.Request(path="/nowhere/model.pt"))
        assert not answer.success
        assert "/nowhere/model.json" in answer.message  # its card is read first
        wait_for(lambda: _value(accounts, "received") == "90", 5.0, "the account")
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=20.0)
        assert process.returncode == 0, text
        assert "images 90, passed 90, model failed 0, refused: none" in text


def _value(accounts: list[Any], key: str) -> str:
    """The newest value of a key in the front end's diagnostics."""
    for account in reversed(accounts):
        for status in account.status:
            return next((v.value for v in status.values if v.key == key), "")
    return ""
