"""Learning from forces: what the network is built to be, its files, training with them."""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.push_scene import push_scene
from dnls_ros.io.sim_push import simulate_motion
from dnls_ros.io.tactile_json import TactileTrajectory, write_tactile_json
from dnls_ros.learned import ModelCard, WrenchNet, load_model, push_signals, read_model, save_model
from dnls_ros.learning.config import NetworkConfig, NoiseConfig, TrainConfig
from dnls_ros.learning.data import load_data
from dnls_ros.learning.gradcheck import gradcheck
from dnls_ros.learning.handover import LEARNED
from dnls_ros.learning.objective import Objective, make_model
from dnls_ros.learning.trainer import MODEL, Trainer
from dnls_ros.learning.windows import WindowRules
from dnls_ros.lie.so2 import rotate

RULES = WindowRules(states=10, stride=10, pair_offsets=(), step=3)
FORCE_NOISE = 0.05
"""Of the simulated sensor [N]."""


@lru_cache(maxsize=16)
def push(seed: int) -> TactileTrajectory:
    """A simulated push at 100 Hz with the force on the finger, in its axes."""
    scene = replace(push_scene("push_rect"), episodes=1, duration=3.0, pause=0.5)
    motion = simulate_motion(scene, seed)
    at = np.arange(0, len(motion.times), round(0.01 / float(np.diff(motion.times[:2])[0])))
    c, s = np.cos(motion.ee[at, 2]), np.sin(motion.ee[at, 2])
    x, y = -motion.force[at].T
    noise = FORCE_NOISE * np.random.default_rng(seed).standard_normal((len(at), 2))
    force = np.column_stack([c * x + s * y, c * y - s * x]) + noise
    return TactileTrajectory(
        motion.object[at],
        motion.ee[at],
        np.zeros((len(at), 0)),
        motion.episode[at],
        motion.contact[at],
        motion.times[at],
        np.column_stack([force, np.zeros(len(at))]),
        size=tuple(motion.drawn.size),
        tip_radius=scene.tip_radius,
    )


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    data = write_tactile_json(tmp_path / "train.json", [push(seed) for seed in range(4)])
    held = write_tactile_json(tmp_path / "held.json", [push(seed) for seed in (10, 11)])
    return TrainConfig(
        kind="wrench_contact",
        data=(str(data),),
        validation=(str(held),),
        epochs=8,
        pretrain_epochs=4,
        batch=8,
        lr=0.01,
        lr_noise=0.05,
        windows=RULES,
        network=NetworkConfig(hidden=8),
    )


def drawn_net() -> WrenchNet:
    torch.manual_seed(0)
    net = WrenchNet(hidden=8)
    torch.nn.init.normal_(net.layers[-1].weight)
    return net


def signals() -> Tensor:
    return torch.randn(50, 5, generator=torch.Generator().manual_seed(1))


def test_untrained_the_normal_is_the_force_and_a_contact_slides_as_usual() -> None:
    given = signals()
    reading = WrenchNet(sigma=0.2)(given)
    parallel = (reading.normal * torch.nn.functional.normalize(given[:, :2], dim=-1)).sum(-1)
    torch.testing.assert_close(parallel.abs(), torch.ones(50))
    assert bool(((reading.normal * given[:, 3:]).sum(-1) >= 0).all())
    torch.testing.assert_close(reading.sigma, torch.full((50, 1), 0.2))
    torch.testing.assert_close(reading.slip, torch.ones(50, 1))


def test_a_reading_turns_with_the_finger_and_does_not_depend_on_the_unit_of_force() -> None:
    net, given = drawn_net(), signals()
    turn = torch.tensor([0.6, 0.8])
    parts = rotate(turn, given[:, :2]), given[:, 2:3], rotate(turn, given[:, 3:])
    first, turned = net(given), net(torch.cat(parts, -1))
    torch.testing.assert_close(turned.normal, rotate(turn, first.normal))
    torch.testing.assert_close(turned.sigma, first.sigma)
    for factor in (7.0, -1.0):
        scaled = net(given * torch.tensor([factor, factor, 1.0, 1.0, 1.0]))
        torch.testing.assert_close(scaled.normal, first.normal)
        torch.testing.assert_close(scaled.slip, first.slip)


def test_a_mirrored_push_has_a_mirrored_reading() -> None:
    net, given = drawn_net(), signals()
    mirror = torch.tensor([1.0, -1.0])
    first, other = net(given), net(given * torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0]))
    torch.testing.assert_close(other.normal, first.normal * mirror)
    torch.testing.assert_close(other.sigma, first.sigma)
    assert not torch.allclose(first.normal, first.force, atol=0.05)


def test_without_force_or_motion_a_reading_is_finite() -> None:
    net = drawn_net()
    reading = net(torch.zeros(3, 5))
    assert bool(reading.normal.isfinite().all())
    assert bool(reading.sigma.isfinite().all())
    at_rest = torch.tensor([[0.6, 0.8, 0.0, 0.0, 0.0]])
    along = at_rest + torch.tensor([0.0, 0.0, 0.0, 0.06, 0.08])
    torch.testing.assert_close(net(at_rest).slip, net(along).slip)


def test_velocities_are_in_the_axes_of_the_finger() -> None:
    ee = np.array([[0.0, 0.0, np.pi / 2], [0.0, 0.1, np.pi / 2], [0.2, 0.1, np.pi / 2]])
    found = push_signals(np.ones((3, 3)), ee, np.array([0.0, 1.0, 2.0]))
    wanted = [[0.1, 0.0], [0.1, 0.0], [0.0, -0.2]]
    np.testing.assert_allclose(found[:, 3:], wanted, atol=1e-12)


def test_a_file_holds_a_network_of_forces_and_others_are_refused_by_name(tmp_path: Path) -> None:
    net = drawn_net()
    card = save_model(tmp_path / "model.pt", net, ModelCard({"hidden": 8}, {}))
    assert card.kind == "wrench_contact"
    read, _ = read_model(tmp_path / "model.pt")
    assert isinstance(read, WrenchNet)
    torch.testing.assert_close(read(signals()).normal, net(signals()).normal)
    with pytest.raises(DnlsError, match=r"kind 'wrench_contact'.*need 'tactile_pairs'"):
        load_model(tmp_path / "model.pt")
    text = tmp_path / "model.json"
    text.write_text(json.dumps({**json.loads(text.read_text()), "kind": "smell"}))
    with pytest.raises(UnreadableInputError, match=r"kind is 'smell'.*'wrench_contact'"):
        read_model(tmp_path / "model.pt")


def test_a_model_of_another_kind_is_not_trained_on(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    Trainer(replace(config, epochs=1), load_data(config), tmp_path / "run").run()
    assert not (tmp_path / "run" / LEARNED).exists()  # the estimator takes no network of forces
    other = replace(config, model=str(tmp_path / "run" / MODEL), network=NetworkConfig(hidden=4))
    with pytest.raises(DnlsError, match="another kind or architecture"):
        make_model(other, load_data(config).training)
    with pytest.raises(DnlsError, match=r"needs windows\.pair_offsets"):
        replace(config, kind="tactile_pairs")


def test_exact_derivatives_are_those_of_central_differences(config: TrainConfig) -> None:
    data = load_data(config)
    model, _ = make_model(config, data.training)
    torch.nn.init.normal_(model.net.layers[-1].weight, std=0.1)
    found = gradcheck(Objective(model, config), data.training.select(torch.arange(1)), 3)
    assert found.error("exact") <= 1e-6


def test_training_with_forces_helps_on_other_pushes(config: TrainConfig, tmp_path: Path) -> None:
    data = load_data(config)
    untrained = Objective(make_model(config, data.training)[0], config)
    before = untrained.evaluate(data.validation, "tracking").loss
    (tmp_path / "run").mkdir()
    rows = Trainer(config, data, tmp_path / "run").run().rows
    assert min(row.val_loss for row in rows if row.phase == "tracking") < 0.7 * before


def test_forces_can_be_left_out(config: TrainConfig) -> None:
    data = load_data(config)
    model, _ = make_model(replace(config, noise=NoiseConfig(normal=())), data.training)
    assert set(model.groups(data.training)) == {"start", "ee", "motion", "contact"}


def test_the_pose_of_the_object_is_observed_now_and_then(config: TrainConfig) -> None:
    seen = replace(config, windows=replace(RULES, observe=4))
    windows = load_data(seen).training
    assert windows.rules.observed().tolist() == [0, 4, 8]
    model, _ = make_model(seen, windows)
    assert model.groups(windows)["start"].count == 3
    assert windows.first(3).rules.observed().tolist() == [0]
