"""The rows of a training run: a CSV file, TensorBoard where it is installed, a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.files import read_text, write_text


@dataclass(frozen=True)
class EpochRow:
    """One epoch in numbers.

    Attributes:
        epoch: From 1.
        phase: What was minimized.
        train_loss: Mean over the steps.
        val_loss, val_ate_m, val_are_rad: After it, on the windows of validation.
        grad_norm: Mean over the steps, before clipping.
        lr: Of the network.
        elapsed_s: Of this epoch.
    """

    epoch: int
    phase: str
    train_loss: float
    val_loss: float
    val_ate_m: float
    val_are_rad: float
    grad_norm: float
    lr: float
    elapsed_s: float


def write_metrics(path: Path | str, rows: Sequence[EpochRow]) -> None:
    """Writes the rows as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(EpochRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(path, buffer.getvalue())


def read_metrics(path: Path | str) -> list[EpochRow]:
    """The rows that `write_metrics` wrote.

    Raises:
        UnreadableInputError: There is no such file, or it holds something else.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path))))
        kinds: dict[str, Callable[[str], Any]] = {"epoch": int, "phase": str}
        return [EpochRow(**{k: kinds.get(k, float)(v) for k, v in row.items()}) for row in rows]
    except (TypeError, ValueError) as error:
        raise UnreadableInputError(f"{path}: no rows of a training run: {error}") from error


class TensorBoard:
    """Scalars for TensorBoard; where it is not installed nothing is written.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._writer = None
        else:
            self._writer = SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, row: EpochRow) -> None:
        """One epoch."""
        if self._writer is None:
            return
        for name, value in asdict(row).items():
            if name not in ("epoch", "phase"):
                self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()


def curves(runs: Mapping[str, Sequence[EpochRow]], title: str) -> Any:
    """A figure of runs: losses, and the object's errors on the windows of validation."""
    from matplotlib.figure import Figure

    from dnls_ros.io.plots import COLORS

    figure = Figure(figsize=(12.0, 4.0), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    panels: Any = figure.subplots(1, 3)
    shown = (("val_loss", 1.0, "loss"), ("val_ate_m", 1e3, "position [mm]"))
    for panel, (name, unit, label) in zip(
        panels, (*shown, ("val_are_rad", 1e3, "yaw [mrad]")), strict=True
    ):
        for k, (run, rows) in enumerate(runs.items()):
            values = [unit * getattr(row, name) for row in rows]
            panel.plot([r.epoch for r in rows], values, color=COLORS[k % len(COLORS)], label=run)
        panel.set(xlabel="epoch", ylabel=label, title=f"validation: {label}")
        if name != "val_loss":
            panel.set_yscale("log")
        panel.grid(color="#e4e4e4", linewidth=0.8)
    panels[0].legend(frameon=False)
    return figure
