"""Pushes by the commands of the tutorial: recordings, data, training, replay; and bad input."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from dnls_ros.cli.common import Exit
from dnls_ros.cli.main import main
from dnls_ros.io.bag import BagReader, BagWriter
from dnls_ros.io.faults import FaultInjector, parse_fault
from dnls_ros.io.push_bags import read_push
from dnls_ros.io.push_recording import TOPIC_TYPES, push_records, write_push
from dnls_ros.io.push_scene import push_scene
from dnls_ros.io.sim_push_sensors import simulate_push
from dnls_ros.io.spoil import shift_stamp
from dnls_ros.learned import load_model
from dnls_ros.window.parameters import load_parameters

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "config" / "sim_push.yaml"
TUTORIAL = ROOT / "docs" / "touch_tutorial.md"
SMALL = {"--count 24": "--count 3", "--count 4": "--count 2", "--epochs 24": "--epochs 2"}
"""The tutorial's numbers, and those of the test."""


def tutorial() -> list[list[str]]:
    """The arguments of its `dnls` commands, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("dnls ")]
    for large, small in SMALL.items():
        assert sum(large in line for line in lines) == 1, f"{large} is not in the tutorial once"
        lines = [line.replace(large, small) for line in lines]
    return [shlex.split(line)[1:] for line in lines]


def expanded(words: list[str], folder: Path) -> list[str]:
    """Patterns of files as a shell expands them; files of the package where they are."""
    out: list[str] = []
    for word in words:
        if "*" in word:
            out += sorted(str(path.relative_to(folder)) for path in folder.glob(word))
        else:
            out.append(str(ROOT / word) if word.startswith("config/") else word)
    return out


def test_the_tutorial_leads_to_a_trained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = tutorial()
    assert [c[0] for c in commands] == [
        "sim", "sim", "dataset", "train", "gradcheck", "replay", "replay"
    ]  # fmt: skip
    for words in commands:
        assert main(expanded(words, tmp_path)) == Exit.OK, words
    shown = capsys.readouterr().out
    assert "exact derivatives are within 1e-06" in shown
    run = tmp_path / "push" / "run"
    for name in ("model.pt", "model.json", "learned.yaml", "metrics.csv", "curves.png"):
        assert (run / name).is_file(), name
    card = json.loads((run / "model.json").read_text())
    learned = load_parameters([PARAMS, run / "learned.yaml"])
    assert learned.sensor("gel").model == str(run / "model.pt")
    assert learned.track("object").motion_sigma == pytest.approx(card["noise"]["motion"], 1e-5)
    used = json.loads((tmp_path / "push" / "after" / "status.json").read_text())
    model = load_model(run / "model.pt").hash
    assert model in json.dumps(used)
    # what there is, goes on; and is not overwritten
    again = [w for w in expanded(commands[3], tmp_path) if w not in ("--epochs", "2")]
    assert main(again) == Exit.USAGE
    assert "--resume" in capsys.readouterr().err


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of one push."""
    scene = push_scene(str(ROOT / "config" / "scenes" / "push_training.yaml"))
    from dnls_ros.io.push_scene import lasting

    folder = tmp_path_factory.mktemp("push")
    write_push(simulate_push(lasting(scene, 1.0), 3), folder / "one")
    return folder / "one"


def test_a_recording_is_read_as_it_was_simulated(pushed: Path) -> None:
    scene = push_scene(str(ROOT / "config" / "scenes" / "push_training.yaml"))
    recording = simulate_push(scene, 3)
    config = load_parameters([PARAMS, pushed / "object.yaml"])
    found = read_push(pushed / "bag", config, "truth/object")
    motion, steps = recording.motion, recording.images.steps[: len(found)]
    np.testing.assert_allclose(found.object, motion.object[steps], atol=2e-5)
    assert np.abs(found.ee - motion.ee[steps])[:, :2].max() < 0.003
    np.testing.assert_array_equal(found.images, recording.images.images[: len(found)])
    assert found.size == pytest.approx(motion.drawn.size)
    assert found.tip_radius == scene.tip_radius
    assert (found.contact == motion.contact[steps]).mean() > 0.95


def spoiled(pushed: Path, out: Path, *faults: str, shift: int = 0, without: str = "") -> Path:
    """A copy of the recording, with faults, without a topic, or with later images."""
    injector = FaultInjector([parse_fault(f) for f in faults], 0)
    with BagReader(pushed / "bag") as bag, BagWriter(out) as copy:
        for record in injector.apply(bag.records()):
            message = record.message
            if shift and record.topic == "digit/image_raw":
                message = shift_stamp(message, shift)
            if record.topic != without:
                copy.write(record.topic, message, record.receive_stamp)
    return out


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"without": "truth/object"}, "no topic truth/object, which should say the object's true"),
        ({"without": "digit/image_raw"}, "no topic digit/image_raw; it has ee/pose"),
        ({"shift": 10**12}, "do not overlap in time: truth from"),
        ({"faults": ("empty_frame:ee/pose:p=1",)}, None),
    ],
)
def test_a_recording_that_cannot_be_used_is_named_and_nothing_is_written(
    pushed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    changes: dict[str, object], told: str | None,
) -> None:  # fmt: skip
    faults = changes.pop("faults", ())
    bag = spoiled(pushed, tmp_path / "bad", *faults, **changes)  # type: ignore[misc,arg-type]
    out = tmp_path / "data.json"
    code = main(["dataset", str(bag), "--params", str(PARAMS), "--out", str(out)])
    said = capsys.readouterr().err
    if told is None:  # the frame of a pose that is taken as it is does not matter
        assert code == Exit.OK
        return
    assert code == Exit.UNREADABLE
    assert told in said
    assert str(bag) in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoding": "yuv422"}, "encoding is 'yuv422'; expected one of rgb8"),
        ({"height": 24, "data": np.zeros(24 * 192, np.uint8)}, "have different sizes"),
    ],
)
def test_images_of_another_encoding_or_size_are_named(
    pushed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    changes: dict[str, object], told: str,
) -> None:  # fmt: skip
    bag, number = tmp_path / "odd", 0
    with BagReader(pushed / "bag") as whole, BagWriter(bag) as copy:
        for record in whole.records():
            message = record.message
            if record.topic == "digit/image_raw":
                number += 1
                if number == 40:  # one of them
                    message = dataclasses.replace(message, **changes)  # type: ignore[type-var]
            copy.write(record.topic, message, record.receive_stamp)
    out = tmp_path / "data.json"
    code = main(["dataset", str(bag), "--params", str(PARAMS), "--out", str(out)])
    assert code == Exit.UNREADABLE
    assert told in capsys.readouterr().err
    assert not out.exists()


def test_faults_and_several_recordings_of_a_scene(tmp_path: Path) -> None:
    scene = tmp_path / "scene.yaml"
    scene.write_text(yaml.safe_dump({"shape": "disc", "size": [0.06], "duration": 1.0}))
    arguments = ["--scene", str(scene), "--out", str(tmp_path / "out"), "--duration", "2"]
    assert main(["sim", *arguments, "--count", "2", "--fault", "drop:wrench:p=1"]) == Exit.OK
    for k in range(2):
        with BagReader(tmp_path / "out" / f"{k:04d}" / "bag") as bag:
            assert set(bag.topics) == set(TOPIC_TYPES)
            assert bag.topics["wrench"].count == 0
            assert bag.topics["digit/image_raw"].count == 60
    shape = yaml.safe_load((tmp_path / "out" / "0001" / "object.yaml").read_text())
    assert shape["/**"]["ros__parameters"]["track.object.shape"]["type"] == "disc"
    assert main(["sim", *arguments, "--count", "0"]) == Exit.USAGE


def test_equal_seeds_give_equal_messages() -> None:
    scene = push_scene("push_rect")
    first, second = (push_records(simulate_push(scene, 5)) for _ in range(2))
    assert len(first) == len(second)
    assert all(
        repr(a.message) == repr(b.message) for a, b in zip(first[::50], second[::50], strict=True)
    )
