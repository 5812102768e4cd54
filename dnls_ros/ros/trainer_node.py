"""Trains measurement models as ``dnls train`` does: a node with the action ``~/train``.

    ros2 run dnls_ros trainer_node --ros-args -p params_file:=sim_push.yaml
    ros2 action send_goal --feedback /dnls_trainer/train dnls_ros/action/Train "{config_path: …}"

Recordings that a goal names become training data first; then ``params_file`` is the estimator that
listens to their topics, and ``truth`` the topic of the object's true pose. A goal that is
cancelled ends after the present epoch and can be gone on with: its folder holds the run.
"""

from __future__ import annotations

from dnls_ros.ros.stopping import hold_signals

if __name__ == "__main__":
    hold_signals()  # before the imports, which take seconds

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rclpy.executors import SingleThreadedExecutor

from dnls_ros.errors import DnlsError
from dnls_ros.io.files import prepare_folder
from dnls_ros.io.push_bags import read_pushes
from dnls_ros.io.push_recording import TRUTH_TOPIC
from dnls_ros.io.tactile_json import write_tactile_json
from dnls_ros.learned import read_model
from dnls_ros.learning.checkpoint import read_checkpoint
from dnls_ros.learning.config import TrainConfig, load_config
from dnls_ros.learning.data import TrainingData, load_data
from dnls_ros.learning.metrics import EpochRow
from dnls_ros.learning.trainer import CHECKPOINT, METRICS, Trainer, TrainResult
from dnls_ros.ros.goals import GoalServer
from dnls_ros.ros.running import PlainNode, Setting, run_node

NAME = "dnls_trainer"
ACTION = "dnls_ros/action/Train"
SETTINGS = {
    "params_file": Setting("", "estimator that listens to the topics of recordings"),
    "truth": Setting(TRUTH_TOPIC, "topic of the object's true pose"),
    "threads": Setting(1.0, "of torch, a whole number"),
}
DATASET = "dataset.json"


class StoppedError(DnlsError):
    """The training was ended from outside."""


@dataclass(frozen=True)
class Trained:
    """What a goal left behind: how the run ended, None if it was only tried; and a sentence."""

    result: TrainResult | None
    folder: Path
    message: str


class TrainerNode(PlainNode):
    """Trains, one goal at a time, on a thread of its own."""

    def __init__(self) -> None:
        """Declares the parameters and offers the action."""
        super().__init__(NAME, SETTINGS)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._server = GoalServer(self, ACTION, "~/train", self)

    @property
    def busy(self) -> bool:
        """Whether a training runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def stop_event(self) -> threading.Event:
        """What ends it."""
        return self._stop

    def stop(self) -> None:
        """Ends the training that runs, and the action."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._server.destroy()

    def begin(
        self, goal: Any, feedback: Callable[..., object], done: Callable[[Any], object]
    ) -> None:
        """Starts on a goal."""
        if not goal.config_path or not goal.output_dir:
            raise DnlsError("train: config_path and output_dir must be given")
        config = load_config(Path(goal.config_path).expanduser())
        folder = prepare_folder(goal.output_dir)
        self._stop.clear()

        def work() -> None:
            try:
                answer = self._train(goal, config, folder, feedback)
            except Exception as error:
                if not isinstance(error, DnlsError):
                    self.get_logger().error(f"training failed: {type(error).__name__}: {error}")
                done(error)
            else:
                done(answer)

        self._thread = threading.Thread(target=work, name="training")
        self._thread.start()

    def fill(self, result: Any, answer: Trained) -> None:
        """Writes what a training left behind into a result."""
        ended = answer.result
        result.message = answer.message
        result.success = ended is None or not ended.diverged
        if ended is None or ended.model is None:
            return
        result.model_path = str(ended.model)
        result.model_hash = read_model(ended.model)[1].weights
        result.report_path = str(answer.folder / METRICS)

    def _train(
        self, goal: Any, config: TrainConfig, folder: Path, feedback: Callable[..., object]
    ) -> Trained:
        import torch

        torch.set_num_threads(max(1, int(self.setting("threads"))))
        config, data = self._data(goal, config, folder)
        counts = f"{len(data.training)} windows to train on, {len(data.validation)} to choose by"
        if goal.dry_run:
            return Trained(None, folder, f"settings and data can be used: {counts}")
        began = time.monotonic()

        def report(row: EpochRow) -> None:
            if self._stop.is_set():
                raise StoppedError(f"stopped after epoch {row.epoch}; the run can be gone on with")
            names = "epoch", "train_loss", "val_loss", "val_ate_m", "val_are_rad", "grad_norm"
            feedback(
                epochs=config.epochs,
                elapsed_s=time.monotonic() - began,
                **{name: getattr(row, name) for name in names},
            )

        trainer = Trainer(config, data, folder, report=report)
        if (folder / CHECKPOINT).exists():
            trainer.resume(read_checkpoint(folder / CHECKPOINT))
        ended = trainer.run()
        return Trained(ended, folder, ended.reason)

    def _data(
        self, goal: Any, config: TrainConfig, folder: Path
    ) -> tuple[TrainConfig, TrainingData]:
        """The training data, made of a goal's recordings if it names some."""
        if goal.bags:
            params = self.setting("params_file")
            if not params:
                raise DnlsError("train: recordings are named: set the node's params_file")
            made = folder / DATASET
            if not made.exists():
                bags = [Path(bag).expanduser() for bag in goal.bags]
                files = [Path(params).expanduser()]
                write_tactile_json(made, read_pushes(bags, files, self.setting("truth")))
            config = replace(config, data=(str(made),))
        return config, load_data(config)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; returns the exit code."""
    # Its goals wait for minutes: the events executor would ask them again all the time.
    return run_node(TrainerNode, SingleThreadedExecutor, args)


if __name__ == "__main__":
    sys.exit(main())
