"""Curve fitting with learned parameters: force cells that share an exponent and a noise.

A skin of 256 force cells: each answers a force x with y = exp(a) xᵖ + b. Gain and offset are a
cell's own, fitted by least squares to four readings on a good balance and twelve on a worn one.
What all cells share is unknown too: the exponent p, and how much noisier the worn balance is. Adam
learns both by the error on *held-out* readings. Its gradient goes through the 256 fits, one batch,
by the implicit function theorem; the noise shapes the fits and nothing else, so only the
derivative of a solution can teach it.

    python examples/curve_fitting.py --out out/examples
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dnls_ros.diff import solve
from dnls_ros.io.plots import COLORS, TRUTH_COLOR, write_png
from dnls_ros.lie import Euclidean
from dnls_ros.linear import Dense
from dnls_ros.optim import Tolerances
from dnls_ros.problem import Isotropic, Problem, Shared, Variables, cost

CELLS, EPOCHS, SIGMA = 256, 60, 0.03  # the good balance's noise [V]
WORN = torch.tensor([0.0] * 4 + [1.0] * 12).double()  # which readings are the worn balance's
TRUTH = torch.tensor([1.7, 6.0]).double()  # θ: the exponent p, and the ratio of the noises
SHOWN = (213, 68, 209)  # cells with similar gains: their curves do not cross
START = torch.tensor([1.0, 1.0]).double()

cell = Variables("cell", Euclidean(2))


def answer(gain_offset: Tensor, force: Tensor, exponent: Tensor) -> Tensor:
    """The model, y = exp(a) xᵖ + b [V]."""
    return gain_offset[..., :1].exp() * force**exponent + gain_offset[..., 1:]


@cost
def reading(gain_offset: Tensor, force: Tensor, exponent: Tensor, volts: Tensor) -> Tensor:
    """The residual of one reading of one cell [V]."""
    return answer(gain_offset, force, exponent) - volts


@dataclass(frozen=True)
class Skin:
    """Cells' true log gains and offsets (B, 1, 2), forces [N] and readings [V] (B, M, 1)."""

    cells: Tensor
    force: Tensor
    volts: Tensor
    held_out_force: Tensor
    held_out_volts: Tensor


def generated(seed: int) -> Skin:
    """Random cells at random forces."""
    draw = torch.Generator().manual_seed(seed)
    cells = torch.rand(CELLS, 1, 2, generator=draw).double() - 0.5
    force, held_out = (0.05 + 1.95 * torch.rand(2, CELLS, 16, 1, generator=draw)).double()
    noise, held_out_noise = SIGMA * torch.randn(2, CELLS, 16, 1, generator=draw).double()
    volts = answer(cells, force, TRUTH[0]) + noise * TRUTH[1] ** WORN[:, None]
    return Skin(cells, force, volts, held_out, answer(cells, held_out, TRUTH[0]) + held_out_noise)


def fit(theta: Tensor, skin: Skin) -> Tensor:
    """Log gain and offset of every cell, (B, 1, 2); differentiable in θ."""
    exponent, ratio = theta
    ids = torch.zeros(len(WORN), dtype=torch.int64)  # a batch element is a cell, its one variable
    noise = Isotropic((SIGMA * ratio**WORN)[None])
    problem = Problem(
        readings=reading(cell[ids], skin.force, Shared(exponent[None]), skin.volts, noise=noise)
    )
    start = cell.values([0], torch.zeros_like(skin.cells))
    stop = Tolerances(cost=0, step=1e-8, gradient=0)  # implicit derivatives want an optimum
    return solve(problem, start, linear=Dense(), tolerances=stop).values["cell"]


def held_out_error(theta: Tensor, skin: Skin) -> Tensor:
    """RMSE of the fitted cells on readings that they were not fitted to [V]."""
    predicted = answer(fit(theta, skin), skin.held_out_force, theta[0])
    return (predicted - skin.held_out_volts).square().mean().sqrt()


def gradients(skin: Skin, half: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The error's gradient at the start: implicit, and by central differences."""
    theta = START.clone().requires_grad_()
    (implicit,) = torch.autograd.grad(held_out_error(theta, skin), theta)
    steps = half * torch.eye(2).double()
    pairs = [(held_out_error(START + s, skin), held_out_error(START - s, skin)) for s in steps]
    return implicit, torch.stack([ahead - behind for ahead, behind in pairs]) / (2 * half)


def learn(skin: Skin) -> tuple[Tensor, Tensor]:
    """Adam on log θ; θ (EPOCHS, 2) and the error (EPOCHS,) along the way."""
    log_theta = START.log().requires_grad_()
    adam = torch.optim.Adam([log_theta], lr=0.1)
    slower = torch.optim.lr_scheduler.ExponentialLR(adam, 0.97)
    path, errors = [], []
    for _ in range(EPOCHS):
        adam.zero_grad()
        error = held_out_error(log_theta.exp(), skin)
        error.backward()
        path.append(log_theta.detach().exp())
        errors.append(error.detach())
        adam.step()
        slower.step()
    return torch.stack(path), torch.stack(errors)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Generates readings, learns, draws; returns the figures that it prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    out = parser.parse_args(argv).out
    skin = generated(seed=0)
    implicit, numeric = gradients(skin)
    path, errors = learn(skin)
    write_png(out / "curve_fitting.png", picture(skin, path, errors))
    figures = {
        "held-out RMSE before [V]": errors[0],
        "held-out RMSE learned [V]": errors[-1],
        "held-out RMSE of the truth [V]": held_out_error(TRUTH, skin),
        "exponent p": path[-1, 0],
        "ratio of the noises": path[-1, 1],
        "dRMSE/dp, implicit": implicit[0],
        "dRMSE/dp, central difference": numeric[0],
        "dRMSE/dratio, implicit": implicit[1],
        "dRMSE/dratio, central difference": numeric[1],
    }
    for name, value in figures.items():
        print(f"{name:34}{value:12.6f}")
    return {name: float(value) for name, value in figures.items()}


def picture(skin: Skin, path: Tensor, errors: Tensor) -> Figure:
    """Three cells before and after, beside what was learned on the way."""
    figure = Figure(figsize=(12.5, 5.6), layout="constrained")
    rows = [["fits", "held-out RMSE [V]"], ["fits", "exponent p"], ["fits", "ratio of the noises"]]
    panels = figure.subplot_mosaic(rows, width_ratios=[1.35, 1.0])
    fits, x = panels["fits"], torch.linspace(0.0, 2.05, 100).double()
    for k in SHOWN:
        for cells, theta, color, width, style in (
            (skin.cells, TRUTH, "#c0c0c0", 5, "-"),
            (fit(path[0], skin), path[0], COLORS[0], 1.6, "--"),
            (fit(path[-1], skin), path[-1], COLORS[1], 1.6, "-"),
        ):
            fits.plot(x, answer(cells[k, 0], x, theta[0]), style, color=color, lw=width)
        for worn, fill in ((1, "none"), (0, TRUTH_COLOR)):
            some = worn == WORN
            data = skin.force[k, some], skin.volts[k, some]
            fits.plot(*data, "o", color=TRUTH_COLOR, mfc=fill, ms=5)
    learned = f"learned: p = {path[-1, 0]:.2f}"
    names = ("truth", "before: p = 1", learned, "worn balance", "good balance")
    fits.legend(fits.lines[:5], names, loc="upper left", frameon=False)
    fits.set(xlabel="force [N]", ylabel="reading [V]", title=f"three of {CELLS} cells")
    tracks = (errors, path[:, 0], path[:, 1])
    goals = (held_out_error(TRUTH, skin), *TRUTH)
    for name, track, truth in zip(rows, tracks, goals, strict=True):
        panel = panels[name[1]]
        panel.plot(track, color=COLORS[1], label="learned")
        panel.axhline(float(truth), color=TRUTH_COLOR, ls="--", lw=1, label="truth")
        panel.set(title=name[1], xlim=(0, EPOCHS), ylim=(0, None))
        panel.grid(color="#e4e4e4")
    panels["held-out RMSE [V]"].legend(loc="upper right", frameon=False)
    panels["ratio of the noises"].set_xlabel("epoch of Adam")
    return figure


if __name__ == "__main__":
    main()
