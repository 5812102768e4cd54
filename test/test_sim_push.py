"""The pushing simulator obeys the limit surface and the friction cone, and its images tell yaw."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.push_scene import PushScene, push_scene
from dnls_ros.io.sim_push import contact_twist, simulate_motion, surface, turned
from dnls_ros.io.sim_tactile import sensor_steps, take_images
from dnls_ros.io.tactile_json import TactileTrajectory, read_tactile_json, write_tactile_json

TURNED = {"disc": 0.03, "ellipse": 0.05, "rect": 1e-3, "polygon": 1e-3}
"""How far the normal may turn within a step [rad]."""


def scene_of(kind: str) -> PushScene:
    return replace(push_scene(f"push_{kind}"), episodes=1, duration=2.0, pause=0.2)


@pytest.mark.parametrize("kind", ["disc", "rect", "ellipse", "polygon"])
def test_the_finger_keeps_touching_and_does_work_within_its_friction_cone(kind: str) -> None:
    scene = scene_of(kind)
    motion = simulate_motion(scene, 1)
    touching = np.flatnonzero(motion.contact)
    assert len(touching) > 0.7 * len(motion.times)
    for k in touching[:: max(len(touching) // 40, 1)]:
        yaw = motion.object[k, 2]
        p = turned(motion.ee[k, :2] - motion.object[k, :2], -yaw)
        distance, outward = surface(motion.polygon, p)
        assert abs(distance - scene.tip_radius) < 2e-4
        force = turned(motion.force[k], -yaw)
        normal = -float(force @ outward)
        assert normal > 0
        # The outline has moved on by a step: a round one's normal has turned with its corners.
        cone = np.tan(np.arctan(scene.friction[0]) + TURNED[kind])
        assert np.linalg.norm(force + normal * outward) <= cone * normal
    moved = np.diff(motion.object[:, :2], axis=0)
    assert np.linalg.norm(motion.object[-1, :2] - motion.object[0, :2]) > 0.02
    power = (moved * motion.force[1:]).sum(1)
    assert power.sum() > 0


def test_a_push_through_the_centre_does_not_turn_and_one_beside_it_does() -> None:
    inward, along = np.array([1.0, 0.0]), np.array([0.05, 0.0])
    twist, force = contact_twist(np.array([-0.1, 0.0]), inward, along, 0.3, 0.06)
    np.testing.assert_allclose(twist, [0.05, 0, 0], atol=1e-15)
    np.testing.assert_allclose(force, [0.05, 0], atol=1e-15)
    twist, _ = contact_twist(np.array([-0.1, 0.03]), inward, along, 1.0, 0.06)
    assert twist[2] < 0
    stuck = twist[:2] + twist[2] * np.array([-0.03, -0.1])
    np.testing.assert_allclose(stuck, along, atol=1e-15)  # the contact point goes with the finger
    slid, _ = contact_twist(np.array([-0.1, 0.03]), inward, np.array([0.05, 0.2]), 0.1, 0.06)
    point = slid[:2] + slid[2] * np.array([-0.03, -0.1])
    assert point[0] == pytest.approx(0.05)
    assert point[1] < 0.2
    assert not contact_twist(np.zeros(2), inward, -along, 0.3, 0.06)[0].any()


def test_images_are_seeded_and_tell_the_yaw_of_the_surface() -> None:
    scene = scene_of("rect")
    motion = simulate_motion(scene, 4)
    log = take_images(scene, motion, 4)
    assert np.array_equal(log.images, take_images(scene, motion, 4).images)
    assert not np.array_equal(log.images, take_images(scene, motion, 5).images)
    steps = sensor_steps(len(motion.times), scene.noise.image_rate)
    assert np.array_equal(steps, log.steps)
    free = log.images[~motion.contact[steps]].mean(0)
    seen = motion.contact[steps]
    bright = np.clip(log.images[seen].mean(-1) - free.mean(-1) - 10, 0, None).sum(1)
    place = (bright * np.arange(bright.shape[1])).sum(1) / bright.sum(1)
    yaw = np.unwrap(motion.object[steps[seen], 2] - motion.ee[steps[seen], 2])
    assert abs(np.corrcoef(place, yaw)[0, 1]) > 0.95


def test_what_was_written_is_read(tmp_path: Path) -> None:
    motion = simulate_motion(scene_of("rect"), 2)
    steps = sensor_steps(len(motion.times), 30.0)
    images = take_images(scene_of("rect"), motion, 2).images
    written = TactileTrajectory(
        motion.object[steps],
        motion.ee[steps],
        np.zeros((len(steps), 0)),
        motion.episode[steps],
        motion.contact[steps],
        motion.times[steps],
        wrench=np.zeros((len(steps), 3)),
        images=images,
        tip_radius=0.012,
    )
    file = write_tactile_json(tmp_path / "a.json", [written, written.part(3, 9)])
    first, second = read_tactile_json(file)
    assert len(second) == 6
    for name, value in vars(written).items():
        assert np.array_equal(np.asarray(getattr(first, name)), np.asarray(value)), name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "no tactile pushing data"),
        ("{}", "are missing"),
        (
            '{"obj_poses_2d": [[[0,0,0]]], "ee_poses_2d": [], "contact_episode": [[0]], '
            '"contact_flag": [[1]]}',
            "different numbers",
        ),
        (
            '{"obj_poses_2d": [[[0,0]]], "ee_poses_2d": [[[0,0,0]]], "contact_episode": [[0]], '
            '"contact_flag": [[1]]}',
            r"must be \(T, 3\)",
        ),
        (
            '{"obj_poses_2d": [[[0,0,0]]], "ee_poses_2d": [[[0,0,0]]], "contact_episode": '
            '[[0, 1]], "contact_flag": [[1]]}',
            "different lengths",
        ),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(UnreadableInputError, match=told):
        read_tactile_json(file)


def test_scenes(tmp_path: Path) -> None:
    file = tmp_path / "scene.yaml"
    file.write_text("shape: disc\nsize: [0.05]\nepisodes: 2\nnoise: {tag_rate: 2.0}\n")
    made = push_scene(str(file))
    assert (made.size, made.episodes, made.noise.tag_rate) == ((0.05,), 2, 2.0)
    with pytest.raises(DnlsError, match="no scene 'push_cube'"):
        push_scene("push_cube")
    file.write_text("speeed: [1, 2]\n")
    with pytest.raises(UnreadableInputError, match="no setting 'speeed'"):
        push_scene(str(file))
    with pytest.raises(DnlsError, match="positive"):
        PushScene(episodes=0)
