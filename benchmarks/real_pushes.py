"""A block that a robot pushes, followed by touch: what forces, weights and a network are worth.

PYTHONPATH=. python benchmarks/real_pushes.py [--epochs N] [--seed N] [--out FOLDER]

Trained on St_1 … St_4 (the last chooses the epoch), evaluated on St_5, St_6 and Al_1 … Al_3. The
block's pose is observed at the first touch and then once a second; errors are those of all steps
of the push. *Causal*: of the newest pose, when it is new. *Smoothed*: of all poses, at the end.
Takes four minutes on one core; prints tables, writes errors.json and real_pushes.png.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.real_push_data import (
    ALUMINIUM,
    SIDE,
    STEEL,
    STEP,
    Array,
    Recording,
    calibrate,
    path_of,
    push_of,
    read_recording,
)
from dnls_ros.io.tactile_json import TactileTrajectory
from dnls_ros.learned import WrenchNet, read_model, sha256
from dnls_ros.learning.config import NetworkConfig, NoiseConfig, TrainConfig
from dnls_ros.learning.data import TrainingData
from dnls_ros.learning.losses import ate, pose_errors
from dnls_ros.learning.objective import Objective, make_model
from dnls_ros.learning.trainer import Trainer
from dnls_ros.learning.windows import WindowRules, Windows, cut
from dnls_ros.learning.wrench_pushing import WrenchPushing

SECOND = round(1e9 / STEP)
"""Steps between two observations of the block's pose."""
TRAINING, EVALUATION = STEEL[:4], (*STEEL[4:], *ALUMINIUM)
RULES = WindowRules(states=SECOND + 1, stride=1, pair_offsets=(), step=1)
PUSH_ONLY = NoiseConfig(normal=())
"""Guessed noise, and forces say only when the tip touches."""
METHODS: tuple[str, ...] = (
    "no contact",
    "tip, guessed noise",
    "tip, trained weights",
    "forces, guessed noise",
    "forces, trained weights",
    "forces, trained weights + model",
)


@dataclass(frozen=True, eq=False)
class Errors:
    """Of the block in one recording by one method: (T, 3) x, y [m], yaw [rad]."""

    causal: Tensor
    smoothed: Tensor

    def rmse(self) -> tuple[float, float, float, float]:
        """Causal, then smoothed: position [mm] and rotation [mrad]."""
        (a, b), (c, d) = ate(self.causal), ate(self.smoothed)
        return 1e3 * a, 1e3 * b, 1e3 * c, 1e3 * d


Found = Mapping[str, Mapping[str, Errors]]
"""By method and recording."""


def pushes() -> dict[str, TactileTrajectory]:
    """All pushes, each calibrated by others: steel by those of training, aluminium by the rest.

    The age of a tip pose is the robot's, and taken from the steel for both.
    """
    found = {name: read_recording(name) for name in (*STEEL, *ALUMINIUM)}

    def others(name: str) -> list[Recording]:
        return [found[n] for n in ALUMINIUM if n != name]

    steel = calibrate([found[name] for name in TRAINING])
    rigs = {n: calibrate(others(n), [steel.delay]) for n in ALUMINIUM}
    for name, rig in (("steel", steel), *rigs.items()):
        print(
            f"{name}: camera off by {(1e3 * rig.offset).round(1)} mm, tip poses "
            f"{1e3 * rig.delay:.0f} ms old; tip to outline {1e3 * rig.residual:.2f} mm"
        )
    return {name: push_of(one, rigs.get(name, steel)) for name, one in found.items()}


def configs(epochs: int, seed: int) -> dict[str, TrainConfig]:
    """What each method with a problem to solve is made of."""
    model = TrainConfig(
        kind=WrenchNet.KIND,
        windows=RULES,
        network=NetworkConfig(hidden=16),
        epochs=epochs,
        pretrain_epochs=epochs // 4,
        patience=epochs,
        lr=0.01,
        lr_noise=0.05,
        adjoint="implicit_gauss_newton",
        seed=seed,
    )
    weights = replace(model, mode="weights_only")
    tip = replace(weights, noise=PUSH_ONLY)
    return dict(zip(METHODS[1:], (tip, tip, weights, weights, model), strict=True))


def windows_of(pushed: Mapping[str, TactileTrajectory]) -> TrainingData:
    """Of the recordings of training."""
    *names, last = TRAINING
    return TrainingData(
        cut([pushed[name] for name in names], RULES),
        cut([pushed[last]], replace(RULES, step=4)),
        {Path(name).name: sha256(path_of(name)) for name in TRAINING},
    )


def trained(config: TrainConfig, data: TrainingData, folder: Path) -> Objective:
    """The best epoch's model, read from its file."""
    folder.mkdir(parents=True)
    result = Trainer(config, data, folder).run()
    assert result.model is not None, result.reason
    best = min((r for r in result.rows if r.phase == "tracking"), key=lambda r: r.val_loss)
    print(
        f"  {result.reason}; epoch {best.epoch}: {1e3 * best.val_ate_m:.2f} mm, "
        f"{1e3 * best.val_are_rad:.1f} mrad on {TRAINING[-1]}"
    )
    net, card = read_model(result.model)
    assert isinstance(net, WrenchNet)
    print("  " + ", ".join(f"{n} {np.round(s, 5).tolist()}" for n, s in card.noise.items()))
    return Objective(WrenchPushing(net, config.noise.start, card.noise), config)


def errors_of(objective: Objective, push: TactileTrajectory) -> Errors:
    """Of a push, step by step and at the end."""
    whole = cut([push], replace(RULES, states=len(push), observe=SECOND))
    newest = [torch.zeros(3, dtype=torch.float64)]  # the first is observed
    newest += [_solved(objective, whole.first(k))[-1] for k in range(2, len(push) + 1)]
    return Errors(torch.stack(newest), _solved(objective, whole))


def _solved(objective: Objective, windows: Windows) -> Tensor:
    with torch.no_grad():
        found = objective.solve(windows)
    assert bool(found.cost.isfinite().all()), "a push has no solution"
    return pose_errors(found.values, windows)[0]


def without_contact(push: TactileTrajectory) -> Errors:
    """A random walk between observations: it stays where it was seen; smoothed, it is a line."""
    steps, seen = np.arange(len(push)), np.arange(0, len(push), SECOND)
    line = [np.interp(steps, seen, column) for column in push.object[seen].T]
    stays = push.object[steps // SECOND * SECOND]
    return Errors(*(torch.from_numpy(x - push.object) for x in (stays, np.stack(line, 1))))


def compare(pushed: Mapping[str, TactileTrajectory], epochs: int, seed: int) -> Found:
    """Errors by method and recording."""
    data = windows_of(pushed)
    print(f"windows: {len(data.training)} to train on, {len(data.validation)} to choose by")
    found = {METHODS[0]: {name: without_contact(pushed[name]) for name in EVALUATION}}
    with tempfile.TemporaryDirectory() as folder:
        for number, (method, config) in enumerate(configs(epochs, seed).items()):
            print(method, flush=True)
            if "guessed" in method:
                objective = Objective(make_model(config, data.training)[0], config)
            else:
                objective = trained(config, data, Path(folder) / str(number))
            found[method] = {name: errors_of(objective, pushed[name]) for name in EVALUATION}
    return found


def mean(found: Mapping[str, Errors]) -> Array:
    """(4,) root mean square over recordings of what `Errors.rmse` gives."""
    return np.sqrt(np.mean([np.square(e.rmse()) for e in found.values()], axis=0))


def table(found: Found, first: int) -> str:
    """Position [mm] / rotation [mrad], causal (first 0) or smoothed (first 2)."""
    short = list(map(_short, EVALUATION))
    rows = [["", *short, "all"], ["---"] * (len(short) + 2)]
    for method, by_name in found.items():
        cells = [by_name[name].rmse() for name in EVALUATION] + [mean(by_name).tolist()]
        rows.append([method, *(f"{c[first]:.1f} / {c[first + 1]:.0f}" for c in cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("real_pushes"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    pushed = pushes()
    found = compare(pushed, options.epochs, options.seed)
    for title, first in (("causal", 0), ("smoothed", 2)):
        print(f"\n{title}: position [mm] / rotation [mrad]\n{table(found, first)}")
    options.out.mkdir(parents=True, exist_ok=True)
    numbers = {m: {n: e.rmse() for n, e in rows.items()} for m, rows in found.items()}
    (options.out / "errors.json").write_text(json.dumps(numbers, indent=1) + "\n")
    picture(pushed, found, options.out / "real_pushes.png")


COLORS: Mapping[str, str] = dict(zip(METHODS, ("0.6", "C1", "C8", "C2", "C0", "C3"), strict=True))
SHOWN = (METHODS[0], METHODS[1], METHODS[4], METHODS[5])
"""In the pictures of single pushes; the bars have all."""


def picture(pushed: Mapping[str, TactileTrajectory], found: Found, path: Path) -> None:
    """A push of each metal from above and over time, and all errors as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 10.5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.75, 1])
    for row, name in zip(above.subplots(2, 3), (EVALUATION[1], EVALUATION[2]), strict=True):
        errors = {method: found[method][name] for method in SHOWN}
        _from_above(row[0], pushed[name], errors)
        row[0].set_title(f"{_short(name)} after {2 - STEP * 1e-9:.2f} s, last seen at 1 s")
        for ax, (label, size) in zip(row[1:], PARTS, strict=True):
            for method, one in errors.items():
                error = 1e3 * size(one.causal).numpy()
                times = np.arange(len(error)) * STEP * 1e-9
                ax.plot(times, np.maximum(error, 0.1), color=COLORS[method], lw=1.4)
            ax.set(yscale="log", xlabel="since the first touch [s]", ylabel=f"error: {label}")
            ax.set_title(f"{_short(name)}, seen at 0, 1, 2 s")
            ax.yaxis.set_major_formatter("{x:g}")
            ax.grid(alpha=0.3)
    handles = _bars(below.subplots(1, 2), found)
    figure.legend(handles, METHODS, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("A pushed block, followed by touch: error of the newest pose")
    figure.savefig(path, dpi=130)


PARTS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("position [mm]", lambda errors: errors[:, :2].norm(dim=1)),
    ("rotation [mrad]", lambda errors: errors[:, 2].abs()),
)


def _short(name: str) -> str:
    return Path(name).name.replace("Test_", "").replace("metal", "al")


def _from_above(ax: Any, push: TactileTrajectory, errors: Mapping[str, Errors]) -> None:
    """The block just before it is seen again: where it is, and where methods have it."""
    at = 2 * SECOND - 1
    square = 0.5 * SIDE * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1], [1, 1]])

    def outline(pose: Array) -> Array:
        c, s = np.cos(pose[2]), np.sin(pose[2])
        return 1e3 * (square @ np.array([[c, s], [-s, c]]) + pose[:2])

    ax.fill(*outline(push.object[at]).T, color="0.85")
    for method, one in errors.items():
        x, y = outline(push.object[at] + one.causal[at].numpy()).T
        ax.plot(x, y, color=COLORS[method], lw=1.4)
    ax.plot(*(1e3 * push.ee[: at + 1, :2]).T, "k:", lw=1)
    ax.plot(*(1e3 * push.ee[at, :2]), "ko", ms=5)
    ax.set(aspect="equal", xlabel="x [mm]", ylabel="y [mm]")


def _bars(axes: Array, found: Found) -> list[Any]:
    """Root mean square errors of all recordings; their handles for a legend."""
    handles: list[Any] = []
    width = 0.8 / len(METHODS)
    for number, (label, _) in enumerate(PARTS):
        ax = axes[number]
        for k, (method, by_name) in enumerate(found.items()):
            heights = [by_name[name].rmse()[number] for name in EVALUATION]
            heights.append(float(mean(by_name)[number]))
            places = np.arange(len(heights)) + (k - len(METHODS) / 2 + 0.5) * width
            bars = ax.bar(places, heights, width, color=COLORS[method])
            handles += [bars] if number == 0 else []
        ax.set_xticks(range(len(EVALUATION) + 1), [*map(_short, EVALUATION), "all"])
        ax.set(yscale="log", ylabel=f"RMSE: {label}")
        ticks = ([1, 2, 5, 10, 20, 50], [20, 50, 100, 200])[number]
        ax.set_yticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
        ax.grid(axis="y", alpha=0.3)
    return handles


if __name__ == "__main__":
    main()
