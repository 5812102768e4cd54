"""The ways to differentiate a solution compared while a tactile model of pushes is learned.

    python -m benchmarks.pushing_modes --out DIR [--small] [--bless]

The comparison of Pineda et al., *Theseus* (NeurIPS 2022), on simulated pushes: windows of 25
states, batches of 8, Gauss–Newton steps of 0.05 as inner solver, 2 to 50 of them. Of every way and
number of steps: time forward and backward, memory, the gradient against that of unrolling and of
the converged minimum, and the validation loss after equal training from the same start. Of every
number of steps: how far from the minimum the implicit derivative is then taken.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import Kept, Live
from dnls_ros.errors import DnlsError, DnlsWarning
from dnls_ros.io.push_scene import push_scene
from dnls_ros.io.sim_tactile import simulated_push
from dnls_ros.learned import read_model
from dnls_ros.learning.checkpoint import read_checkpoint
from dnls_ros.learning.config import NetworkConfig, TrainConfig
from dnls_ros.learning.data import TrainingData
from dnls_ros.learning.objective import Objective, make_model
from dnls_ros.learning.pushing import PushingModel, initial_values
from dnls_ros.learning.trainer import CHECKPOINT, MODEL, Trainer
from dnls_ros.learning.windows import WindowRules, Windows, cut

MODES = (
    "unroll",
    "truncated_5",
    "truncated_10",
    "implicit",
    "implicit_gauss_newton",
    "direct_loss",
)
CONVERGED = 200
"""Levenberg–Marquardt steps that the reference may take; it ends earlier."""
PAPER = TrainConfig(batch=8, step_size=0.05, pretrain_epochs=0)
"""Batch and inner solver of the paper; windows of 25 states are the default."""


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        iterations: Of the inner solver.
        beyond: Others, at which only the exact implicit gradient is compared: where it gets right.
        trained: Those of the first with which models are trained.
        pushes, held: Recordings to train on and to validate on.
        duration: Of a push [s].
        pretraining: Epochs of the likelihood, whose model is the start of all.
        epochs: Of training through the solver.
        rounds: In which times are measured, one step of everything in each.
        validated: Inner iterations of the validation, for all models.
        config: The rest.
    """

    iterations: tuple[int, ...] = (2, 5, 10, 20, 30, 40, 50)
    beyond: tuple[int, ...] = (100, 150, 200)
    trained: tuple[int, ...] = (2, 10, 20, 50)
    pushes: int = 18
    held: int = 8
    duration: float = 8.0
    pretraining: int = 30
    epochs: int = 4
    rounds: int = 3
    validated: int = 50
    config: TrainConfig = PAPER


SMALL = Plan(
    iterations=(2, 6),
    beyond=(60,),
    trained=(2,),
    pushes=2,
    held=1,
    duration=3.0,
    pretraining=1,
    epochs=1,
    rounds=1,
    validated=6,
    config=TrainConfig(
        batch=2,
        step_size=0.05,
        pretrain_epochs=0,
        windows=WindowRules(states=8, pair_offsets=(10, 20), step=4),
        network=NetworkConfig(features=4, channels=(4, 4, 4), hidden=8),
    ),
)


def simulated(plan: Plan) -> TrainingData:
    """Windows of pushes of a rectangle; those of validation are other pushes."""
    scene = replace(push_scene("push_rect"), episodes=1, duration=plan.duration, pause=0.5)
    rules = plan.config.windows
    parts: list[Windows] = []
    for first, count in ((0, plan.pushes), (1000, plan.held)):
        recordings = [simulated_push(scene, first + k) for k in range(count)]
        step = rules.states // 2 if first else rules.step
        parts.append(cut(recordings, replace(rules, step=step)))
    return TrainingData(*parts, hashes={})


def pretrained(plan: Plan, data: TrainingData, folder: Path) -> TrainConfig:
    """The configuration that begins with a model fitted to the likelihood of each factor."""
    folder.mkdir(parents=True, exist_ok=True)
    surrogate = replace(plan.config, loss="likelihood", epochs=plan.pretraining)
    Trainer(surrogate, data, folder).run()
    _, card = read_model(folder / MODEL)
    noise = {name: tuple(sigma) for name, sigma in card.noise.items()}
    return replace(
        plan.config,
        model=str(folder / MODEL),
        epochs=plan.epochs,
        noise=replace(plan.config.noise, **noise),
    )


@dataclass(frozen=True, eq=False)
class Step:
    """One step of training without its update.

    Attributes:
        forward_s, backward_s: Times [s].
        kept: What autograd held in between [MiB]; 0 where it was not asked.
        loss: Of the batch [mm].
        gradient: (P,) of all that is trained.
    """

    forward_s: float
    backward_s: float
    kept: float
    loss: float
    gradient: Tensor


def take_step(objective: Objective, windows: Windows, count_kept: bool = False) -> Step:
    """Network, solution, loss; then all derivatives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DnlsWarning)  # far from a minimum: `measure_point` says
        kept = Kept()
        begin = time.perf_counter()
        if count_kept:
            with kept:
                value = objective(windows, "tracking")
        else:
            value = objective(windows, "tracking")
        middle = time.perf_counter()
        held = kept.mebibytes
        after = time.perf_counter()
        gradient = gradient_of(value, objective.model)
        end = time.perf_counter()
    return Step(middle - begin, end - after, held, float(value.detach()), gradient)


def gradient_of(value: Tensor, model: PushingModel) -> Tensor:
    """(P,) of all that is trained."""
    learned = [p for p in model.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(value, learned, materialize_grads=True, allow_unused=True)
    return torch.cat([g.double().flatten() for g in slopes])


def exact_gradient(model: PushingModel, config: TrainConfig, windows: Windows) -> Tensor:
    """The gradient (P,) at the converged minimum; a `DnlsWarning` that it is none is an error."""
    exact = replace(config, adjoint="implicit", step_size=0.0, iterations=CONVERGED)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DnlsWarning)
        value = Objective(model, exact)(windows, "tracking")
    return gradient_of(value, model)


def compared(gradient: Tensor, reference: Tensor) -> dict[str, float]:
    """Angle [°], length as a share, and relative error of a gradient."""
    cosine = float(gradient @ reference / (gradient.norm() * reference.norm()))
    return {
        "angle_deg": math.degrees(math.acos(max(-1.0, min(1.0, cosine)))),
        "length": float(gradient.norm() / reference.norm()),
        "error": float((gradient - reference).norm() / reference.norm()),
    }


def measure_point(objective: Objective, windows: Windows) -> dict[str, float]:
    """How far from the minimum the inner solver ends, medians over the windows.

    The norm of the gradient JᵀWr by that at the start, its distance √(gᵀH⁻¹g) from the minimum in
    standard deviations, and both losses.
    """
    with torch.no_grad():
        found = objective.solve(windows)
        loss = float(objective(windows, "tracking"))
        problem, structure = found.assembly.problem, found.assembly.structure
        first = problem.gradient(initial_values(windows), structure).norm(dim=1)
        gradient = problem.gradient(found.values, structure)
        squared = (gradient * found.factorization().solve(gradient)).sum(1)
    return {
        "iterations": float(found.iterations.double().median()),
        "gradient": float(gradient.norm(dim=1).median()),
        "gradient_ratio": float((gradient.norm(dim=1) / first).median()),
        "distance_sigma": float(squared.clamp(min=0).sqrt().median()),
        "loss_mm": loss,
    }


def measure_steps(
    plan: Plan, config: TrainConfig, model: PushingModel, batch: Windows
) -> list[dict[str, Any]]:
    """Times, memory and gradients of every way and number of iterations.

    A way that refuses has its message instead: far from a minimum the Hessian may be indefinite.
    """
    objectives = {
        (mode, count): Objective(model, replace(config, adjoint=mode, iterations=count))
        for mode in MODES
        for count in plan.iterations
    }
    few = batch.select(torch.arange(1))
    taken: dict[tuple[str, int], list[Step]] = {key: [] for key in objectives}
    refused: dict[tuple[str, int], str] = {}
    for mode in MODES:  # imports and the first structures are not what is measured
        take_step(objectives[mode, plan.iterations[-1]], few)
    for number in range(plan.rounds):
        for key, objective in objectives.items():
            try:
                taken[key].append(take_step(objective, batch))
            except DnlsError as error:
                refused[key] = str(error)
        print(f"times: round {number + 1} of {plan.rounds}", flush=True)
    exact = exact_gradient(model, config, batch)
    rows: list[dict[str, Any]] = []
    for key, objective in objectives.items():
        row: dict[str, Any] = {"mode": key[0], "iterations": key[1]}
        rows.append(row)
        if key in refused:
            row["refused"] = refused[key]
            continue
        steps, gradient = taken[key], taken[key][0].gradient
        with Live() as live:
            kept = take_step(objective, batch, count_kept=True).kept
        row |= {
            "forward_s": statistics.median(s.forward_s for s in steps),
            "backward_s": statistics.median(s.backward_s for s in steps),
            "kept_mib": kept,
            "peak_mib": live.peak_mebibytes,
            "against_unroll": compared(gradient, taken["unroll", key[1]][0].gradient),
            "against_exact": compared(gradient, exact),
        }
    return rows


def measure_beyond(
    plan: Plan, config: TrainConfig, model: PushingModel, batch: Windows
) -> list[dict[str, float]]:
    """The exact implicit gradient after so many steps that it is nearly that of the minimum."""
    exact = exact_gradient(model, config, batch)
    rows: list[dict[str, float]] = []
    for count in plan.beyond:
        objective = Objective(model, replace(config, adjoint="implicit", iterations=count))
        found = take_step(objective, batch)
        rows.append(measure_point(objective, batch) | compared(found.gradient, exact))
    return rows


def judged(
    model: PushingModel, plan: Plan, config: TrainConfig, held: Windows
) -> dict[str, float]:
    """The validation of a model: after the same inner iterations for all, and at the minimum."""
    same = Objective(model, replace(config, iterations=plan.validated))
    minimum = Objective(model, replace(config, step_size=0.0, iterations=CONVERGED))
    found, best = (o.evaluate(held, "tracking") for o in (same, minimum))
    return {"val_loss": found.loss, "val_ate_m": found.ate, "val_loss_minimum": best.loss}


def train(plan: Plan, config: TrainConfig, data: TrainingData, folder: Path) -> dict[str, Any]:
    """One model: how its training went, and its validation; or why training was refused."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DnlsWarning)
            result = Trainer(config, data, folder).run()
    except DnlsError as error:
        return {"refused": str(error)}
    model, _ = make_model(config, data.training)
    model.load_state_dict(dict(read_checkpoint(folder / CHECKPOINT).model))
    return {
        "diverged": result.diverged,
        "reason": result.reason,
        "train_s": sum(r.elapsed_s for r in result.rows),
        **judged(model, plan, replace(config, step_size=PAPER.step_size), data.validation),
    }


def train_all(
    plan: Plan, config: TrainConfig, data: TrainingData, folder: Path
) -> list[dict[str, Any]]:
    """Models trained each way from the same start by the same number of steps."""
    rows: list[dict[str, Any]] = []
    for count in plan.trained:
        for mode in MODES:
            mine = replace(config, adjoint=mode, iterations=count)
            found = train(plan, mine, data, folder / f"{mode}_{count}")
            rows.append({"mode": mode, "iterations": count, **found})
            print(f"trained {mode}, {count}: {found}", flush=True)
    return rows


def compare(plan: Plan, folder: Path) -> dict[str, Any]:
    """Everything; models are kept in the folder."""
    data = simulated(plan)
    print(f"{len(data.training)} windows, {len(data.validation)} of validation", flush=True)
    config = pretrained(plan, data, folder / "start")
    model, _ = make_model(config, data.training)
    batch = data.training.select(_spread(len(data.training), plan.config.batch))
    start = judged(model, plan, config, data.validation)
    print(f"start: {start}", flush=True)
    points = [
        measure_point(Objective(model, replace(config, iterations=count)), batch)
        for count in plan.iterations
    ]
    steps = measure_steps(plan, config, model, batch)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    minimum = replace(config, adjoint="implicit", step_size=0.0, iterations=plan.validated)
    settings = {k: v for k, v in asdict(plan).items() if k != "config"}
    return {
        "settings": {
            **settings,
            "batch": plan.config.batch,
            "step_size": plan.config.step_size,
            "states": plan.config.windows.states,
            "lr": plan.config.lr,
            "windows": len(data.training),
            "validation_windows": len(data.validation),
            "parameters": parameters,
        },
        "start": start,
        "points": points,
        "minimum": measure_point(Objective(model, minimum), batch),
        "beyond": measure_beyond(plan, config, model, batch),
        "steps": steps,
        "converged": train(plan, minimum, data, folder / "converged"),
        "training": train_all(plan, config, data, folder / "trained"),
    }


def _spread(count: int, batch: int) -> Tensor:
    """``batch`` windows from all over the recordings."""
    return torch.linspace(0, count - 1, batch).round().long()


def main(arguments: Sequence[str] | None = None) -> None:
    """Compares, and writes results, tables and picture."""
    from benchmarks import pushing_modes_page as page

    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of results and models")
    parser.add_argument("--small", action="store_true", help="a minute's run, to see it work")
    parser.add_argument("--bless", action="store_true", help="commit results and picture")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    results = compare(SMALL if options.small else Plan(), options.out)
    results["seconds"] = round(time.perf_counter() - begin)
    text = json.dumps(results, indent=1) + "\n"
    (options.out / "results.json").write_text(text)
    (options.out / "tables.md").write_text(page.tables(results))
    page.picture(results, options.out / "pushing_modes.png")
    if options.bless:
        page.RESULTS.write_text(text)
        page.picture(results, page.PICTURE)


if __name__ == "__main__":
    main()
