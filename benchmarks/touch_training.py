"""What training through the estimator gains on held-out pushes: seeds, table, picture.

    python -m benchmarks.touch_training --out DIR [--seeds 3] [--small] [--page docs]

For every seed the commands of docs/touch_tutorial.md: pushes to train on are simulated, made to
training data, and one network is trained twice from the same first weights on the same windows:
by the likelihood of each factor until its validation has not fallen for eight epochs (the
surrogate), and through the solver. Then recordings of other objects, friction and seeds are
replayed by ``dnls replay`` with guessed noise and no model, with the untrained model, with the
surrogate, and with the model that was trained through the solver.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnls_ros.cli.main import main as dnls
from dnls_ros.io.evaluation import EvaluationOptions, evaluate
from dnls_ros.io.trajectory import read_tum
from dnls_ros.learned import ModelCard, save_model
from dnls_ros.learning.config import TrainConfig, load_config
from dnls_ros.learning.data import load_data
from dnls_ros.learning.handover import LEARNED, write_learned
from dnls_ros.learning.metrics import EpochRow, read_metrics
from dnls_ros.learning.objective import make_model
from dnls_ros.learning.trainer import METRICS, MODEL

CONFIG = Path(__file__).resolve().parents[1] / "config"
PARAMS, TRAINING = CONFIG / "sim_push.yaml", CONFIG / "train_push.yaml"
METHODS = {
    "guess": "guessed noise, no model",
    "untrained": "guessed noise, untrained model",
    "surrogate": "surrogate (likelihood)",
    "solver": "through the solver",
}
SURROGATE_EPOCHS = 60
"""At most: it stops at its validation minimum."""
SEED_STEP = 100
"""Between the recordings of two seeds."""


def run(*words: str | Path) -> None:
    """One command; RuntimeError if it fails."""
    code = dnls([str(w) for w in words])
    if code:
        raise RuntimeError(f"dnls {' '.join(map(str, words))}: exit code {code}")


def train(out: Path, seed: int, recordings: int, epochs: int) -> dict[str, float]:
    """Simulates, and trains both ways; seconds by stage."""
    clock, seconds = time.perf_counter(), dict[str, float]()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[name], clock = now - clock, now

    first = str(SEED_STEP * seed)
    scene = CONFIG / "scenes" / "push_training.yaml"
    run("sim", "--scene", scene, "--seed", first, "--count", str(recordings), "--out", out / "t")
    lap("simulate")
    data = out / "train.json"
    run("dataset", *sorted((out / "t").iterdir()), "--params", PARAMS, "--out", data)
    lap("dataset")
    common = ("train", "--config", TRAINING, "--data", data, "--seed", str(seed))
    most = str(min(SURROGATE_EPOCHS, 3 * epochs))
    run(*common, "--out", out / "surrogate", "--loss", "likelihood", "--epochs", most)
    lap("surrogate")
    run(*common, "--out", out / "solver", "--epochs", str(epochs))
    lap("solver")
    _untrained(replace(load_config(TRAINING), data=(str(data),), seed=seed), out / "untrained")
    return seconds


def _untrained(config: TrainConfig, folder: Path) -> None:
    """The model as training begins with it, and its parameters."""
    windows = load_data(config).training
    model, network = make_model(config, windows)
    image = config.windows.image
    card = ModelCard(
        network,
        {"size": list(image.size), "crop": list(image.crop)},
        config.windows.pair_offsets,
        noise={name: list(s) for name, s in config.noise.guesses().items()},
    )
    card = save_model(folder / MODEL, model.net, card)
    write_learned(folder, card, config.estimator, MODEL)


def judge(out: Path, held: Sequence[Path]) -> dict[str, dict[str, list[float]]]:
    """Method → errors of the object's newest pose in each recording [m, rad], and NEES/dof."""
    found: dict[str, dict[str, list[float]]] = {}
    for method in METHODS:
        rows: dict[str, list[float]] = {"ate": [], "are": [], "nees": []}
        for one in held:
            params = [PARAMS, one / "object.yaml"]
            params += [] if method == "guess" else [out / method / LEARNED]
            folder = out / "replays" / method / one.name
            words = [w for p in params for w in ("--params", p)]
            run("replay", one / "bag", *words, "--out", folder, "--min-coverage", "0.9")
            result = _evaluated(folder, one / "truth.tum")
            for name, value in result.items():
                rows[name].append(value)
        found[method] = rows
    return found


def _evaluated(folder: Path, truth: Path) -> dict[str, float]:
    from dnls_ros.cli.evaluate import PLANAR
    from dnls_ros.io.trajectory import read_covariances

    estimate = read_covariances(folder / "object_cov.csv", read_tum(folder / "object.tum"))
    options = EvaluationOptions(interpolate=True, nees_axes=PLANAR)
    made = evaluate(estimate, read_tum(truth), options)
    nees = np.nan if made.consistency is None else made.consistency.mean
    return {"ate": made.translation.rmse, "are": made.yaw.rmse, "nees": float(nees)}


def summary(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Root mean square over recordings by method and seed, and the gains in percent."""
    errors = {
        method: {
            name: [float(np.sqrt(np.mean(np.square(s["errors"][method][name])))) for s in seeds]
            for name in ("ate", "are")
        }
        | {"nees": [float(np.mean(s["errors"][method]["nees"])) for s in seeds]}
        for method in METHODS
    }
    gains = {
        f"{name}_below_{other}": [
            100.0 * (1 - a / b)
            for a, b in zip(errors["solver"][name], errors[other][name], strict=True)
        ]
        for other in METHODS
        if other != "solver"
        for name in ("ate", "are")
    }
    return {"errors": errors, "gains": gains, "seconds": [s["seconds"] for s in seeds]}


def table(found: Mapping[str, Any]) -> str:
    """The summary as Markdown: means over seeds, and from the least to the most."""
    lines = ["| model | position [mm] | yaw [mrad] | NEES/dof |", "| --- | --- | --- | --- |"]
    for method, title in METHODS.items():
        e = found["errors"][method]
        cells = [_spread(e["ate"], 1e3), _spread(e["are"], 1e3), _spread(e["nees"], 1.0)]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "| through the solver is below … by | position | yaw |", "| --- | --- | --- |"]
    for other in ("surrogate", "untrained", "guess"):
        cells = [_spread(found["gains"][f"{n}_below_{other}"], 1.0, " %") for n in ("ate", "are")]
        lines.append(f"| {METHODS[other]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], unit: float, suffix: str = "") -> str:
    v = unit * np.array(values)
    return f"{v.mean():.2f}{suffix} ({v.min():.2f} … {v.max():.2f})"


def picture(
    found: Mapping[str, Any], runs: Mapping[str, Sequence[Sequence[EpochRow]]], path: Path
) -> None:
    """Validation while training, and the errors on held-out pushes, a dot for each seed."""
    from matplotlib.figure import Figure

    from dnls_ros.io.plots import COLORS

    colors = dict(zip(METHODS, ("#999999", COLORS[3], COLORS[0], COLORS[1]), strict=True))
    figure = Figure(figsize=(12.0, 4.2), layout="constrained")
    panels: Any = figure.subplots(1, 3)
    for panel, (name, label) in zip(
        panels, (("val_ate_m", "position [mm]"), ("val_are_rad", "yaw [mrad]")), strict=False
    ):
        for method, several in runs.items():
            for k, rows in enumerate(several):
                values = [1e3 * getattr(row, name) for row in rows]
                title = METHODS[method] if k == 0 else None
                panel.plot([r.epoch for r in rows], values, color=colors[method], label=title)
        panel.set(xlabel="epoch", ylabel=label, yscale="log", title=f"validation: {label}")
        panel.grid(color="#e4e4e4", linewidth=0.8)
    panels[0].legend(frameon=False)
    for row, method in enumerate(METHODS):
        values = 1e3 * np.array(found["errors"][method]["ate"])
        panels[2].barh(row, values.mean(), color=colors[method], alpha=0.6)
        panels[2].plot(values, np.full(len(values), row), "k.", markersize=6)
    panels[2].set_yticks(range(len(METHODS)), METHODS.values())
    panels[2].invert_yaxis()
    panels[2].set(xscale="log", xlabel="position [mm]", title="held-out pushes, replayed")
    panels[2].grid(axis="x", which="both", color="#e4e4e4", linewidth=0.8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs all seeds."""
    parser = argparse.ArgumentParser(description="Gains of training through the estimator.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="few recordings and epochs")
    parser.add_argument("--judge", action="store_true", help="what was trained before, anew")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recordings, epochs, held = (4, 3, 2) if options.small else (24, 24, 4)
    seeds: list[dict[str, Any]] = []
    runs: dict[str, list[list[EpochRow]]] = {"surrogate": [], "solver": []}
    scene = CONFIG / "scenes" / "push_held_out.yaml"
    folder = options.out / "held"
    run("sim", "--scene", scene, "--seed", "90000", "--count", str(held), "--out", folder)
    for seed in range(options.seeds):
        out = options.out / f"seed{seed}"
        seconds = {} if options.judge else train(out, seed, recordings, epochs)
        errors = judge(out, sorted(folder.iterdir()))
        seeds.append({"seconds": seconds, "errors": errors})
        for method, several in runs.items():
            several.append(read_metrics(out / method / METRICS))
    found = summary(seeds)
    (options.out / "touch_training.json").write_text(json.dumps({**found, "seeds": seeds}))
    (options.out / "touch_training.md").write_text(table(found) + "\n")
    picture(found, runs, options.out / "touch_training.png")
    print(table(found))
    print("seconds:", [{k: round(v) for k, v in s.items()} for s in found["seconds"]])


if __name__ == "__main__":
    main()
