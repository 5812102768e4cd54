"""The nodes of pushing over DDS: simulator, front end and estimator together; the trainer."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("dnls_ros.action")

from rclpy.action.client import ActionClient

from benchmarks.touch_live import measure
from dnls_ros.io.push_recording import write_push
from dnls_ros.io.push_scene import lasting, push_scene
from dnls_ros.io.sim_push_sensors import simulate_push
from dnls_ros.learned import ModelCard, build_network, save_model
from dnls_ros.learning.checkpoint import read_checkpoint
from dnls_ros.ros.live import NodeProcess, free_domain, local_node
from dnls_ros.ros.types import message_class

pytestmark = [
    pytest.mark.ros,
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, used by rclpy
]

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "config" / "sim_push.yaml"
NETWORK = {
    "encoder": {"size": [32, 24], "features": 4, "channels": [4, 4, 4], "scale": 0.1},
    "head": {"features": 4, "hidden": 8, "sigma": [0.01, 0.01, 0.1]},
}


def model(path: Path, seed: int) -> Path:
    """An untrained model, which claims little."""
    torch.manual_seed(seed)
    card = ModelCard(NETWORK, {"size": [32, 24], "crop": []}, (10, 20))
    save_model(path, build_network(NETWORK), card)
    return path


def test_images_become_odometry_and_a_model_is_changed_without_a_missed_solve(
    tmp_path: Path,
) -> None:
    found = measure(*(model(tmp_path / f"{k}" / "model.pt", k) for k in (0, 1)), 10.0)
    assert found["exit_codes"] == [0, 0, 0]
    assert found["images"] == 300  # of two pushes
    assert found["contacts"] == found["images"] - 10  # the first ten make the background
    assert found["reloaded"]
    assert len(found["pairs_by_model"]) == 2
    assert found["steps_rejected"] == 0
    assert found["steps"] > 10


@pytest.fixture
def goal(tmp_path: Path) -> dict[str, Any]:
    """A goal that names recordings."""
    scene = lasting(push_scene(str(ROOT / "config" / "scenes" / "push_training.yaml")), 1.0)
    for seed in range(3):
        write_push(simulate_push(scene, seed), tmp_path / f"{seed}")
    settings = {
        "epochs": 3, "pretrain_epochs": 1, "batch": 2, "val_ratio": 0.34,
        "windows": {"states": 10, "step": 2, "pair_offsets": [10], "image": {"size": [32, 24]}},
        "network": {"features": 4, "channels": [4, 4, 4], "hidden": 8},
    }  # fmt: skip
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(settings))
    bags = [str(tmp_path / f"{seed}") for seed in range(3)]
    return {"config_path": str(config), "bags": bags, "output_dir": str(tmp_path / "run")}


class Trainer:
    """Sends goals, one after the other."""

    def __init__(self, node: Any) -> None:
        self.kind = message_class("dnls_ros/action/Train")
        self.client = ActionClient(node, self.kind, "/dnls_trainer/train")
        self.feedback: list[Any] = []

    def ask(self, cancel_after: int = 0, **fields: Any) -> Any:
        """The result of a goal, which may be cancelled after so many epochs."""
        assert self.client.wait_for_server(timeout_sec=30.0)
        self.feedback = []
        future = self.client.send_goal_async(
            self.kind.Goal(**fields), feedback_callback=lambda m: self.feedback.append(m.feedback)
        )
        handle = waited(future)
        assert handle.accepted
        result = handle.get_result_async()
        while cancel_after and len(self.feedback) < cancel_after and not result.done():
            time.sleep(0.005)
        if cancel_after:
            handle.cancel_goal_async()
        return waited(result).result


def waited(future: Any) -> Any:
    """What a future gives; its node is spun by another thread."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    assert done.wait(120.0)
    return future.result()


def test_the_trainer_makes_a_model_of_recordings_and_says_what_is_wrong(
    goal: dict[str, Any], tmp_path: Path
) -> None:
    domain = free_domain()
    process = NodeProcess(None, domain, ["-p", f"params_file:={PARAMS}"], "trainer_node")
    try:
        with local_node("asks", domain) as node:
            trainer = Trainer(node)
            tried = trainer.ask(**goal, dry_run=True)
            assert tried.success, tried.message
            assert "windows to train on" in tried.message
            result = trainer.ask(**goal)
            assert result.success, result.message
            assert [f.epoch for f in trainer.feedback] == [0, 1, 2, 3]
            assert all(f.epochs == 3 and f.val_ate_m > 0 for f in trainer.feedback)
            assert Path(result.model_path).is_file()
            assert len(result.model_hash) == 64
            assert Path(result.report_path).read_text().count("\n") == 5
            for changes, told in (
                ({"config_path": str(tmp_path / "none.yaml")}, "none.yaml"),
                ({"bags": [str(tmp_path / "gone")], "output_dir": str(tmp_path / "o")}, "gone"),
                ({"output_dir": ""}, "output_dir must be given"),
            ):
                refused = trainer.ask(**{**goal, **changes})
                assert not refused.success
                assert told in refused.message
            stopped = trainer.ask(1, **{**goal, "output_dir": str(tmp_path / "half")})
            assert not stopped.success
            kept = tmp_path / "half" / "checkpoint.pt"
            if kept.exists():  # else it was stopped before the first epoch
                assert read_checkpoint(kept).epoch < 3
            again = trainer.ask(**{**goal, "output_dir": str(tmp_path / "half")})
            assert again.success, again.message
    finally:
        code = process.stop()
    assert code == 0, process.log()
