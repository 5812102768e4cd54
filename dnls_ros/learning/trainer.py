"""The training loop: phases, epochs, steps; a checkpoint between epochs; the best by validation.

A run is a folder. After every epoch ``checkpoint.pt`` holds all of it and ``metrics.csv`` its
rows; ``model.pt`` and ``model.json`` are the best model so far, ``learned.yaml`` is it as
parameters of the estimator. What an epoch does depends on the
checkpoint before it and on the configuration only: on the CPU a run that is killed and resumed
gives the same bits as one that is not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from dnls_ros.errors import DnlsError
from dnls_ros.learned import ModelCard, TactileNet, save_model
from dnls_ros.learning.checkpoint import Checkpoint, check_same_run
from dnls_ros.learning.config import TrainConfig
from dnls_ros.learning.data import TrainingData
from dnls_ros.learning.distributed import Processes
from dnls_ros.learning.handover import write_learned
from dnls_ros.learning.metrics import EpochRow, write_metrics
from dnls_ros.learning.objective import Figures, Objective, make_model

CHECKPOINT, METRICS, MODEL = "checkpoint.pt", "metrics.csv", "model.pt"
HOPELESS = 20.0
"""How many times the best validation loss is divergence; of a likelihood, how much above it."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        model: File of the best model; None: there is none.
        rows: Of all epochs.
        reason: A sentence.
        diverged: Whether it was stopped because it failed or got worse and worse.
    """

    model: Path | None
    rows: list[EpochRow]
    reason: str
    diverged: bool = False


class DivergenceError(Exception):
    """What a step or a validation says that has no future."""


class Trainer:
    """A run that goes on epoch by epoch.

    Args:
        config: What is done.
        data: The windows.
        folder: Of the run.
        processes: This process among all.
        report: Told of every epoch.
        advance: Told the share of the present epoch that is done.

    Raises:
        DnlsError: A batch is larger than the training set, or a model to begin with does not fit.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: TrainingData,
        folder: Path,
        processes: Processes = Processes(),
        report: Callable[[EpochRow], None] = lambda row: None,
        advance: Callable[[float], None] = lambda share: None,
    ) -> None:
        if config.batch > len(data.training):
            raise DnlsError(
                f"training: a batch of {config.batch} is more than the {len(data.training)} "
                "windows there are"
            )
        self.config, self.data, self.folder, self.processes = config, data, folder, processes
        self._report, self._advance = report, advance
        self._model, self._network = make_model(config, data.training)
        self._objective = Objective(self._model, config)
        self._shared = processes.wrap(self._objective)
        self._optimizer = self._fresh_optimizer()
        self._epoch = 0
        self._rows: list[EpochRow] = []
        self._best: dict[str, Any] = {}

    def resume(self, kept: Checkpoint) -> None:
        """Goes on from a checkpoint.

        Raises:
            DnlsError: It is of other settings or recordings.
        """
        check_same_run(kept, self.config.plain(), self.data.hashes)
        self._model.load_state_dict(dict(kept.model))
        self._optimizer.load_state_dict(dict(kept.optimizer))
        self._epoch, self._best = kept.epoch, dict(kept.best)
        self._rows = [EpochRow(**row) for row in kept.rows]

    def run(self) -> TrainResult:
        """All epochs that are left, unless patience ends or the run diverges."""
        if not self._rows:
            self._note_untrained()
        while self._epoch < self.config.epochs:
            if self._patience_over():
                return self._result(
                    f"epoch {self._epoch}: no better validation in {self.config.patience} epochs"
                )
            try:
                self._run_epoch()
            except DivergenceError as error:
                return self._result(
                    f"training diverged: {error}; the last good model was kept: lower lr, "
                    "lr_noise or clip",
                    diverged=True,
                )
        return self._result(f"all {self._epoch} epochs are done")

    def _result(self, reason: str, diverged: bool = False) -> TrainResult:
        model = self.folder / MODEL
        return TrainResult(model if model.exists() else None, self._rows, reason, diverged)

    def _phase(self) -> tuple[str, int, int]:
        """The present phase: its loss, its first epoch and how many it has."""
        first = 0
        for loss, count in self.config.phases:
            if self._epoch < first + count:
                return loss, first, count
            first += count
        raise AssertionError("no epoch is left")

    def _patience_over(self) -> bool:
        """Only the last phase is ended early: those before give it its start."""
        loss, _, _ = self._phase()
        waited = self._epoch - self._best.get("epoch", self._epoch)
        return loss == self.config.phases[-1][0] and waited >= self.config.patience

    def _run_epoch(self) -> None:
        begin = time.perf_counter()
        loss, first, count = self._phase()
        if self._epoch == first and first:  # from the best model of the phase before
            self._model.load_state_dict(self._best["state"])
            self._optimizer, self._best = self._fresh_optimizer(), {}
        lr = self._set_rates(0.5 + 0.5 * math.cos(math.pi * (self._epoch - first) / count))
        try:
            train, norm = self._steps(loss)
            found = self._objective.evaluate(self.data.validation, loss)
        except DnlsError as error:  # what was solved before training is refused now: a σ of 0, say
            raise DivergenceError(f"epoch {self._epoch + 1}: {error}") from error
        self._check(found, loss)
        self._epoch += 1
        numbers = train, found.loss, found.ate, found.are, norm, lr, time.perf_counter() - begin
        self._rows.append(EpochRow(self._epoch, loss, *numbers))
        better = found.loss < self._best.get("loss", math.inf)
        if better:
            state = deepcopy(self._model.state_dict())
            self._best = {"loss": found.loss, "epoch": self._epoch, "state": state}
        if self.processes.first:
            self._write(better)
        self._report(self._rows[-1])

    def _note_untrained(self) -> None:
        """Row 0: how good first weights and guessed noise are."""
        loss, _, _ = self._phase()
        found = self._objective.evaluate(self.data.validation, loss)
        nothing = math.nan
        self._rows.append(
            EpochRow(0, "untrained", nothing, found.loss, found.ate, found.are, nothing, 0.0, 0.0)
        )
        self._report(self._rows[-1])

    def _steps(self, loss: str) -> tuple[float, float]:
        """One pass over the windows: mean loss and mean norm of the gradient."""
        losses: list[float] = []
        norms: list[float] = []
        batches = list(self._batches())
        for number, batch in enumerate(batches):
            self._optimizer.zero_grad()
            value = self._shared(self.data.training.select(self.processes.share(batch)), loss)
            value.backward()
            size = float(value.detach())
            norm = float(clip_grad_norm_(self._model.parameters(), self.config.clip))
            if not (math.isfinite(size) and math.isfinite(norm)):
                raise DivergenceError(
                    f"epoch {self._epoch + 1}, step {number + 1}: the loss is {size:g}, "
                    f"its gradient's norm {norm:g}"
                )
            self._optimizer.step()
            losses.append(self.processes.mean(size))
            norms.append(norm)
            self._advance((number + 1) / len(batches))
        return sum(losses) / len(losses), sum(norms) / len(norms)

    def _batches(self) -> Iterator[Tensor]:
        """Whole batches of windows in an order of the epoch's own."""
        order = torch.Generator().manual_seed(10_007 * self.config.seed + self._epoch)
        shuffled = torch.randperm(len(self.data.training), generator=order)
        count = len(shuffled) // self.config.batch * self.config.batch
        yield from shuffled[:count].split(self.config.batch)

    def _check(self, found: Figures, loss: str) -> None:
        best = self._best.get("loss", math.inf)
        limit = best + HOPELESS if loss == "likelihood" else HOPELESS * best
        if not found.loss <= limit or found.failed > 0.5:
            raise DivergenceError(
                f"epoch {self._epoch + 1}: the validation loss is {found.loss:g}, the best was "
                f"{best:g}; {100 * found.failed:.0f} % of its windows have no solution"
            )

    def _fresh_optimizer(self) -> torch.optim.Adam:
        net = [p for p in self._model.net.parameters() if p.requires_grad]
        noise = list(self._model.noise.parameters())
        return torch.optim.Adam([{"params": net}, {"params": noise}], lr=self.config.lr)

    def _set_rates(self, share: float) -> float:
        rates = self.config.lr * share, self.config.lr_noise * share
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        return rates[0]

    def _write(self, better: bool) -> None:
        """The model if it is the best, then the checkpoint: a kill between loses an epoch only."""
        if better:
            card = save_model(self.folder / MODEL, self._model.net, self._card())
            if card.kind == TactileNet.KIND:  # the estimator takes no network of forces yet
                write_learned(self.folder, card, self.config.estimator, MODEL)
        write_metrics(self.folder / METRICS, self._rows)
        Checkpoint(
            self.config.plain(),
            dict(self.data.hashes),
            self._network,
            self._epoch,
            self._model.state_dict(),
            self._optimizer.state_dict(),
            self._best,
            [asdict(row) for row in self._rows],
        ).write(self.folder / CHECKPOINT)

    def _card(self) -> ModelCard:
        image, row = self.config.windows.image, self._rows[-1]
        offsets = self.config.windows.pair_offsets
        names = "epoch", "phase", "val_loss", "val_ate_m", "val_are_rad"
        return ModelCard(
            self._network,
            {"size": list(image.size), "crop": list(image.crop)} if offsets else {},
            offsets,
            noise={name: s.sigma.tolist() for name, s in self._model.learned_noises().items()},
            data=dict(self.data.hashes),
            config=self.config.plain(),
            figures={name: getattr(row, name) for name in names},
        )
