"""Training through the estimator: derivatives, resuming, model files."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.push_scene import push_scene
from dnls_ros.io.sim_tactile import simulated_push
from dnls_ros.io.tactile_json import TactileTrajectory, write_tactile_json
from dnls_ros.learned.model_file import read_model
from dnls_ros.learning.checkpoint import read_checkpoint
from dnls_ros.learning.config import NetworkConfig, TrainConfig
from dnls_ros.learning.data import load_data
from dnls_ros.learning.gradcheck import gradcheck
from dnls_ros.learning.objective import Objective, make_model
from dnls_ros.learning.trainer import CHECKPOINT, MODEL, Trainer
from dnls_ros.learning.windows import WindowRules

RULES = WindowRules(states=8, stride=5, pair_offsets=(10, 20), step=4)


@lru_cache(maxsize=16)
def push(seed: int) -> TactileTrajectory:
    rect = push_scene("push_rect")
    exact = replace(rect.noise, ee_sigma=(0.0, 0.0, 0.0))
    return simulated_push(replace(rect, episodes=1, duration=3.0, pause=0.5, noise=exact), seed)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    data = write_tactile_json(tmp_path / "train.json", [push(seed) for seed in (0, 1)])
    held = write_tactile_json(tmp_path / "held.json", [push(2)])
    return TrainConfig(
        data=(str(data),),
        validation=(str(held),),
        epochs=4,
        pretrain_epochs=2,
        batch=4,
        windows=RULES,
        network=NetworkConfig(features=4, channels=(4, 4, 4), hidden=8),
    )


def test_exact_derivatives_are_those_of_central_differences(config: TrainConfig) -> None:
    data = load_data(config)
    model, _ = make_model(config, data.training)
    found = gradcheck(Objective(model, config), data.training.select(torch.arange(1)), 3)
    assert found.error("exact") <= 1e-6
    assert found.error("gauss_newton") > 10 * found.error("exact")


def train(config: TrainConfig, folder: Path, resume: Path | None = None) -> Trainer:
    folder.mkdir(exist_ok=True)
    trainer = Trainer(config, load_data(config), folder)
    if resume is not None:
        trainer.resume(read_checkpoint(resume / CHECKPOINT))
    result = trainer.run()
    assert not result.diverged
    assert result.rows
    return trainer


class KilledError(Exception):
    """Like a kill between two epochs."""


def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    config: TrainConfig, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, whole)
    cut.mkdir()

    def kill(row: object) -> None:
        if (cut / CHECKPOINT).exists() and read_checkpoint(cut / CHECKPOINT).epoch == 3:
            raise KilledError

    with pytest.raises(KilledError):
        Trainer(config, load_data(config), cut, report=kill).run()
    train(config, cut, resume=cut)
    first, second = (read_model(folder / MODEL)[0].state_dict() for folder in (whole, cut))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    other = replace(config, lr=0.5)
    with pytest.raises(DnlsError, match="lr"):
        Trainer(other, load_data(other), cut).resume(read_checkpoint(cut / CHECKPOINT))


SCRIPT = """
import json, sys
from pathlib import Path
import torch
from dnls_ros.learning.config import config_from
from dnls_ros.learning.data import load_data
from dnls_ros.learning.distributed import processes
from dnls_ros.learning.trainer import Trainer
torch.set_num_threads(1)
config = config_from(json.loads(Path(sys.argv[1]).read_text()), "test")
with processes(config.batch) as mine:
    trainer = Trainer(config, load_data(config), Path(sys.argv[2]), mine)
    rows = trainer.run().rows
    if mine.first:
        Path(sys.argv[2], "rows.json").write_text(
            json.dumps([[r.train_loss, r.grad_norm, r.val_loss] for r in rows])
        )
"""


def test_two_processes_take_the_steps_of_one(config: TrainConfig, tmp_path: Path) -> None:
    script, settings = tmp_path / "train.py", tmp_path / "config.json"
    script.write_text(SCRIPT)
    settings.write_text(json.dumps(replace(config, epochs=2, pretrain_epochs=1).plain()))
    root = Path(__file__).resolve().parents[1]
    found = []
    for count in (1, 2):
        folder = tmp_path / f"by{count}"
        folder.mkdir()
        several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        command = [sys.executable, *(several if count > 1 else []), str(script)]
        subprocess.run(
            [*command, str(settings), str(folder)],
            check=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        )
        found.append(json.loads((folder / "rows.json").read_text()))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


def test_training_through_the_solver_helps_on_other_pushes(tmp_path: Path) -> None:
    held = write_tactile_json(tmp_path / "held.json", [push(100), push(101)])
    config = TrainConfig(
        data=(str(write_tactile_json(tmp_path / "train.json", [push(s) for s in range(8)])),),
        validation=(str(held),),
        epochs=16,
        pretrain_epochs=8,
        batch=8,
        windows=RULES,
        network=NetworkConfig(features=8, channels=(8, 8, 8), hidden=16),
    )
    untrained, *rows = train(config, tmp_path / "run").run().rows
    assert (untrained.epoch, untrained.phase) == (0, "untrained")
    assert [row.phase for row in rows] == ["likelihood"] * 8 + ["tracking"] * 8
    surrogate, tracking = (min(r.val_ate_m for r in part) for part in (rows[:8], rows[8:]))
    assert surrogate < 0.8 * untrained.val_ate_m
    assert tracking < 0.7 * surrogate


def test_a_model_file_that_does_not_fit_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "run")
    model = tmp_path / "run" / MODEL
    card = json.loads(model.with_suffix(".json").read_text())
    model.with_suffix(".json").write_text(json.dumps({**card, "schema": "other/9"}))
    with pytest.raises(UnreadableInputError, match="schema is 'other/9'"):
        read_model(model)
    model.with_suffix(".json").write_text(json.dumps(card))
    model.write_bytes(model.read_bytes()[:-10] + b"0123456789")
    with pytest.raises(UnreadableInputError, match=r"model\.pt"):
        read_model(model)


def test_a_run_that_diverges_is_stopped_and_keeps_its_last_good_model(
    config: TrainConfig, tmp_path: Path
) -> None:
    wild = replace(config, lr=1e3, lr_noise=50.0, clip=1e9, epochs=30, pretrain_epochs=1)
    trainer = Trainer(wild, load_data(wild), tmp_path)
    result = trainer.run()
    assert result.diverged
    assert "training diverged" in result.reason
    assert len(result.rows) < 30
    kept = tmp_path / CHECKPOINT
    good = read_checkpoint(kept) if kept.exists() else None
    assert (result.model is not None) == (good is not None)
    if result.model is not None:
        state = read_model(result.model)[0].state_dict()
        assert all(bool(t.isfinite().all()) for t in state.values())


def test_recordings_of_two_sensors_and_models_of_another_architecture_are_refused(
    config: TrainConfig, tmp_path: Path
) -> None:
    one = push(0)
    assert one.images is not None
    features = replace(one, images=None, features=np.zeros((len(one), 4)))
    mixed = replace(
        config,
        data=(config.data[0], str(write_tactile_json(tmp_path / "other.json", [features]))),
    )
    with pytest.raises(DnlsError, match="images or features of different shapes"):
        load_data(mixed)
    train(replace(config, epochs=1, pretrain_epochs=0), tmp_path / "run")
    other = replace(
        config,
        model=str(tmp_path / "run" / MODEL),
        network=replace(config.network, features=config.network.features + 1),
    )
    with pytest.raises(DnlsError, match="another kind or architecture"):
        make_model(other, load_data(other).training)
