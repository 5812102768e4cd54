"""A simulated push as a recording: images, forces and poses through the whole of a replay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from touch_rig import T0, pose2, yaw_of

from dnls_ros.cli.main import main
from dnls_ros.io import compose_touch
from dnls_ros.io.bag import BagWriter
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class
from dnls_ros.io.push_scene import push_scene
from dnls_ros.io.replay import ReplayResult, replay
from dnls_ros.io.sim_push import RATE, PushMotion, simulate_motion, turned
from dnls_ros.io.sim_tactile import sensor_steps, take_images
from dnls_ros.io.tactile_frontend import IMAGE, TactileTranslator, read_options
from dnls_ros.runtime.dump import load_window
from dnls_ros.window.measurements import Reason, Rejection
from dnls_ros.window.parameter_file import write_yaml
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.rigid import compose, inverse
from dnls_ros.window.tactile_frontend import TactileFrontEnd

ROOT = Path(__file__).resolve().parents[1]
MAKE = Composer(message_class)
SCENE = replace(push_scene("push_rect"), episodes=1, duration=2.5, pause=1.0)
FILE = ROOT / "config" / "tactile_pushing_rect.yaml"
RADIUS = {"sensor.contact.contact.radius": SCENE.tip_radius}
IN_PROCESS: dict[str, Any] = {
    "sensors": ["ee_pose", "tag", "gel", "wrench"],
    "health.required_sensors": [],
    "sensor.gel.type": "tactile_image", "sensor.gel.track": "object",
    "sensor.gel.topic": "digit/image_raw", "sensor.gel.axes": ["distance"],
    "sensor.gel.extrinsic": [0.0] * 6, "sensor.gel.image.size": [64, 48],
    "sensor.gel.contact.radius": SCENE.tip_radius,
    "sensor.wrench.type": "wrench_contact", "sensor.wrench.track": "object",
    "sensor.wrench.topic": "wrench", "sensor.wrench.throttle": 0.03,
    "sensor.wrench.extrinsic": [0.0] * 6, "sensor.wrench.sigma": [0.001, 0.35],
    "sensor.wrench.contact.radius": SCENE.tip_radius,
}  # fmt: skip


def parameters(changes: dict[str, Any]) -> dict[str, Any]:
    """Those of the shipped file, with changes; sensors that are not named are left out."""
    from dnls_ros.window.parameters import flat

    given: dict[str, Any] = flat(load_parameters(FILE)) | {"deterministic": True} | changes
    unused = {s for s in ("contact", "tactile") if s not in given["sensors"]}
    return {
        k: v for k, v in given.items() if not any(k.startswith(f"sensor.{s}.") for s in unused)
    }


def at(step: int) -> int:
    return T0 + round(step * 1e9 / RATE)


def record(path: Path, motion: PushMotion, seed: int = 1) -> None:
    """The topics of a simulated push, and those of the front end, which sees the same images."""
    random, noise = np.random.default_rng(seed), SCENE.noise
    said: list[tuple[int, str, Any]] = []
    for k in sensor_steps(len(motion.times), noise.ee_rate):
        pose = pose2(*(motion.ee[k] + random.normal(size=3) * noise.ee_sigma))
        said.append((at(k), "/ee/pose", MAKE.pose_stamped(at(k), "world", pose)))
        said.append((at(k), "/wrench", wrench(motion, k, random)))
    for k in sensor_steps(len(motion.times), noise.tag_rate):
        pose = pose2(*(motion.object[k] + random.normal(size=3) * noise.tag_sigma))
        made = MAKE.pose_with_covariance_stamped(at(k), "world", pose, 1e-5 * np.eye(6))
        said.append((at(k), "/object/tag_pose", made))
    options = read_options({"image.size": [64, 48]})
    front = TactileTranslator(options, TactileFrontEnd(options.front))
    log = take_images(SCENE, motion, seed)
    for k, pixels in zip(log.steps, log.images, strict=True):
        image = compose_touch.image(MAKE, at(k), "ee", pixels)
        said.append((at(k), "/digit/image_raw", image))
        looked = front.look(IMAGE, image, at(k))
        assert not isinstance(looked, Rejection)
        for _, made in front.messages(MAKE, looked):
            said.append((at(k), "/tactile_frontend/contact", made))
    with BagWriter(path) as bag:
        for stamp, topic, made in sorted(said, key=lambda one: one[0]):
            bag.write(topic, made, stamp)


def wrench(motion: PushMotion, k: int, random: np.random.Generator) -> Any:
    """The force of the object on the finger, with its moment, noise and a bias."""
    yaw = -motion.ee[k, 2]
    force, moment = turned(-motion.force[k], yaw), 0.0
    if motion.contact[k]:
        arm = turned(motion.point[k] - motion.ee[k, :2], yaw)
        moment = arm[0] * force[1] - arm[1] * force[0]
    values = np.array([*force, moment]) + random.normal(size=3) * SCENE.noise.wrench_sigma
    values += [0.2, -0.1, 0.003]
    full = np.array([*values[:2], 0.0, 0.0, 0.0, values[2]])
    return compose_touch.wrench_stamped(MAKE, at(k), "ee", full)


MOTION = simulate_motion(SCENE, 3)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("push") / "bag"
    record(path, MOTION)
    return path


def played(bag: Path, changes: dict[str, Any]) -> ReplayResult:
    result = replay(bag, load_parameters(parameters(changes)))
    assert all(sensor.balanced for sensor in result.status.sensors)
    assert not [e for e in result.events if e.code.startswith("recovery")]
    return result


def errors(result: ReplayResult) -> np.ndarray:
    """(N, 2) error of the object now [m, rad], at each solve after the first second."""
    found: list[tuple[float, float]] = []
    for step in result.steps:
        k = min(round((step.now - T0) * 1e-9 * RATE), len(MOTION.times) - 1)
        if "object" not in step.tracks or k < RATE:
            continue
        off = compose(inverse(pose2(*MOTION.object[k])), step.tracks["object"].poses[-1])
        turn = (yaw_of(off) + np.pi) % (2 * np.pi) - np.pi
        found.append((float(np.hypot(*off[:2])), abs(turn)))
    return np.sqrt(np.square(found).mean(0))


def test_the_shipped_configuration_follows_a_simulated_push(bag: Path) -> None:
    result = played(bag, RADIUS)
    tags = {"sensors": ["ee_pose", "tag"], "health.required_sensors": []}
    walk = {"track.object.motion": "random_walk", "track.object.pusher_track": ""}
    blind = played(bag, tags | walk)
    assert errors(result)[0] < 0.004
    assert errors(result)[1] < 0.06
    assert errors(blind)[0] > 3 * errors(result)[0]
    verdicts = {(s.sensor, s.reason) for s in result.settled}
    assert ("contact", Reason.ACCEPTED) in verdicts
    assert {reason for name, reason in verdicts if name != "ee_pose"} == {Reason.ACCEPTED}


def test_images_and_forces_in_one_process_are_the_same_to_the_last_bit_each_time(
    bag: Path, tmp_path: Path
) -> None:
    first, second = (played(bag, IN_PROCESS) for _ in range(2))
    assert errors(first)[0] < 0.004
    for name in ("poses", "stamps"):
        one, two = (np.array(getattr(r.tracks["object"], name)) for r in (first, second))
        assert one.tobytes() == two.tobytes()
    assert len(first.tracks["object"].poses) > 20
    dumped = first.session.dump_window(tmp_path, "window")
    window = load_window(dumped)
    assert {"gel", "wrench", "wrench.normal"} <= set(window.problem)
    again = window.solve()
    assert float(again.cost[0]) == pytest.approx(window.cost, rel=1e-6)


def test_the_doctor_finds_nothing_wrong_with_the_recording(bag: Path, tmp_path: Path) -> None:
    file = tmp_path / "push.yaml"
    file.write_text(write_yaml({"dnls_estimator": {"ros__parameters": parameters(IN_PROCESS)}}))
    assert main(["doctor", str(bag), "--params", str(file)]) == 0
