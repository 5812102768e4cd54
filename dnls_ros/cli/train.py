"""``dnls train``: measurement models and noise, learned through the estimator; ``dnls gradcheck``.

Several processes train one model when ``torchrun`` starts them:
``torchrun --nproc_per_node 2 -m dnls_ros.cli train …``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from dnls_ros.cli.common import (
    Exit,
    Subparsers,
    add_command,
    positive,
    print_json,
    print_table,
    progress,
    share,
    threads,
    warn,
)
from dnls_ros.errors import DnlsError
from dnls_ros.io.files import prepare_folder
from dnls_ros.learning.checkpoint import read_checkpoint
from dnls_ros.learning.config import LOSSES, MODES, TrainConfig, load_config
from dnls_ros.learning.data import load_data
from dnls_ros.learning.distributed import Processes, processes
from dnls_ros.learning.gradcheck import GATE, gradcheck
from dnls_ros.learning.handover import LEARNED
from dnls_ros.learning.metrics import EpochRow, TensorBoard, curves
from dnls_ros.learning.objective import Objective, make_model
from dnls_ros.learning.trainer import CHECKPOINT, METRICS, Trainer, TrainResult

CURVES = "curves.png"
COLUMNS = (
    "epoch", "minimized", "loss", "validation", "position [mm]", "yaw [mrad]", "gradient", "[s]"
)  # fmt: skip
FORM = "{:>5}  {:<10}  {:>9}  {:>10}  {:>13}  {:>10}  {:>9}  {:>6}"


def add_to(commands: Subparsers) -> None:
    """Adds both commands."""
    parser = add_command(
        commands, "train", run, "Trains a measurement model and noise through the estimator."
    )
    _add_config_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run that is in the folder"
    )
    parser.add_argument("--validation", type=Path, action="append", metavar="F.json")
    parser.add_argument("--val-ratio", type=share, help="share of the recordings to choose by")
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("--loss", choices=LOSSES)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch", type=int, help="windows in a step, all processes together")
    parser.add_argument("--lr", type=positive)
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    checker = add_command(
        commands,
        "gradcheck",
        check,
        "Holds derivatives through the estimator to central differences, on recorded windows.",
    )
    _add_config_options(checker)
    checker.add_argument("--n", type=int, default=10, help="directions (default 10)")
    checker.add_argument("--windows", type=int, default=1, help="how many (default 1)")
    checker.add_argument("--json", action="store_true", help="a JSON object as the last line")


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    """Those of both: the settings, and what is changed most often."""
    parser.add_argument("--config", type=Path, required=True, help="settings (YAML)")
    parser.add_argument("--data", type=Path, action="append", metavar="F.json", help="repeatable")
    parser.add_argument("--model", type=Path, help="trained model to begin with")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=threads, default=1, metavar="N", help="(default 1)")


def _settings(options: argparse.Namespace) -> TrainConfig:
    """Those of the file with what the command line says."""
    torch.set_num_threads(options.threads)
    names = "mode", "loss", "epochs", "batch", "lr", "seed", "val_ratio"
    given = {name: getattr(options, name, None) for name in names}
    changes: dict[str, object] = {name: v for name, v in given.items() if v is not None}
    for name in ("data", "validation"):
        if getattr(options, name, None):
            changes[name] = tuple(str(path) for path in getattr(options, name))
    if options.model is not None:
        changes["model"] = str(options.model)
    return replace(load_config(options.config), **changes)  # pyright: ignore[reportArgumentType]


def run(options: argparse.Namespace) -> int:
    """Trains; 1 if the run diverged."""
    config = _settings(options)
    folder = prepare_folder(options.out)
    if (folder / CHECKPOINT).exists() != options.resume:
        text = "holds a run: give --resume to go on with it" if not options.resume else "has none"
        raise DnlsError(f"train: {folder} {text}, or name another --out")
    with processes(config.batch) as mine:
        result = _train(config, folder, mine, options.resume)
    if not mine.first:
        return Exit.OK
    print(result.reason)
    if result.model is not None:
        learned = folder / LEARNED
        parameters = f"; parameters {learned}" if learned.exists() else ""
        print(f"model {result.model}{parameters}; rows {folder / METRICS}")
    if result.diverged:
        warn(result.reason)
    last = result.rows[-1] if result.rows else None
    print_json(
        {
            "model": str(result.model or ""),
            "epochs": 0 if last is None else last.epoch,
            "diverged": result.diverged,
            "val_ate_m": None if last is None else min(r.val_ate_m for r in result.rows),
        },
        options.json,
    )
    return Exit.BELOW_GATE if result.diverged else Exit.OK


def _train(config: TrainConfig, folder: Path, mine: Processes, resume: bool) -> TrainResult:
    data = load_data(config)
    if not mine.first:
        trainer = Trainer(config, data, folder, mine)
        return _resumed(trainer, folder, resume).run()
    board = TensorBoard(folder)
    print(f"{len(data.training)} windows to train on, {len(data.validation)} to choose by")
    print(FORM.format(*COLUMNS), flush=True)
    done = 0
    with progress("training") as advance:

        def report(row: EpochRow) -> None:
            nonlocal done
            done = row.epoch
            print(_line(row), flush=True)
            board(row)

        def part(share_of_epoch: float) -> None:
            advance((done + share_of_epoch) / config.epochs)

        trainer = Trainer(config, data, folder, mine, report, part)
        result = _resumed(trainer, folder, resume).run()
    curves({config.loss: result.rows}, str(folder)).savefig(folder / CURVES, dpi=110)
    return result


def _resumed(trainer: Trainer, folder: Path, resume: bool) -> Trainer:
    if resume:
        trainer.resume(read_checkpoint(folder / CHECKPOINT))
    return trainer


def _line(row: EpochRow) -> str:
    cells = (
        str(row.epoch),
        row.phase,
        f"{row.train_loss:.4f}",
        f"{row.val_loss:.4f}",
        f"{1e3 * row.val_ate_m:.3f}",
        f"{1e3 * row.val_are_rad:.2f}",
        f"{row.grad_norm:.3g}",
        f"{row.elapsed_s:.1f}",
    )
    return FORM.format(*cells)


def check(options: argparse.Namespace) -> int:
    """Compares derivatives; 1 if the exact ones are not within the gate."""
    config = _settings(options)
    data = load_data(config)
    model, _ = make_model(config, data.training)
    order = torch.randperm(
        len(data.training), generator=torch.Generator().manual_seed(config.seed)
    )
    some = data.training.select(order[: options.windows])
    found = gradcheck(Objective(model, config), some, options.n, config.seed)
    names = {
        "exact": "implicit, exact",
        "gauss_newton": "implicit, Gauss–Newton",
        "unrolled": "unrolled",
    }
    rows = [[text, f"{found.error(name):.2e}"] for name, text in names.items()]
    print_table(["derivatives", "relative error to central differences"], rows)
    verdict = "within" if found.passed else "NOT within"
    print(f"exact derivatives are {verdict} {GATE:g}, along {options.n} directions")
    print_json(
        {"passed": found.passed, "gate": GATE, **{n: found.error(n) for n in names}}, options.json
    )
    return Exit.OK if found.passed else Exit.BELOW_GATE
