"""A pose graph whose robust loss is learned: which loop closures to believe.

A robot mows a field in lanes. Its odometry drifts; beside an earlier place it may close a loop,
and a quarter of these closures are false. A Welsch loss forgets residuals beyond its radius: one
too wide believes the false closures, one too narrow forgets the true ones as well. Here the radius
is learned end to end: twelve training graphs are solved as one batch, their distance to the true
paths is differentiated through the solutions, Adam moves the radius. It is judged on other graphs.

    python examples/pose_graph_learned_loss.py --out out/examples
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from dnls_ros.costs import between, prior
from dnls_ros.diff import solve
from dnls_ros.io.plots import COLORS, TRUTH_COLOR, write_png
from dnls_ros.lie import SE2, stack
from dnls_ros.linear import Dense
from dnls_ros.optim import Tolerances
from dnls_ros.problem import Diagonal, Isotropic, Loss, Problem, Values, Variables, Welsch

LANES, FALSE_SHARE, EPOCHS, START = 7, 0.25, 10, 30.0
ODOMETRY, CLOSURE = torch.tensor([[0.05, 0.02, 0.03], [0.05, 0.05, 0.03]]).double()  # m, m, rad
FALSE = torch.tensor([1.0, 1.0, 0.5]).double()  # by how much a false closure is off
RADII = (1.0, 1.5, 2.2, 3.5, 7.0, 14.0, 30.0)

pose = Variables("pose", SE2)


@dataclass(frozen=True)
class Graphs:
    """B graphs over the same places; M closures between the poses ``first`` and ``second``."""

    truth: SE2  # (B, N)
    odometry: SE2  # (B, N − 1)
    closures: SE2  # (B, M)
    false: Tensor  # (B, M) bool
    first: Tensor
    second: Tensor


def lanes() -> SE2:
    """The true poses (N,): lane by lane through a square of places 1 m apart."""
    row, column = torch.arange(LANES).repeat_interleave(LANES), torch.arange(LANES).repeat(LANES)
    column = torch.where(row % 2 == 0, column, LANES - 1 - column)
    places = torch.stack([column, row], 1).double()
    heading = torch.cat([places.diff(dim=0), places[-1:] - places[-2:-1]])
    return SE2.from_xyt(torch.cat([places, torch.atan2(heading[:, 1:], heading[:, :1])], 1))


def generated(count: int, seed: int) -> Graphs:
    """Random measurements along the lanes."""
    draw, path = torch.Generator().manual_seed(seed), lanes()
    truth = SE2(path.tensor.expand(count, -1, -1))
    first, second = torch.triu_indices(len(path.tensor), len(path.tensor), 2)
    near = (path[first].translation - path[second].translation).norm(dim=1) < 1.1
    first, second = first[near], second[near]

    def measured(exact: SE2, sigmas: Tensor) -> SE2:
        return exact @ SE2.exp(sigmas * torch.randn(*exact.batch_shape, 3, generator=draw))

    odometry = measured(truth[:, :-1].between(truth[:, 1:]), ODOMETRY)
    exact = truth[:, first].between(truth[:, second])
    false = torch.rand(count, len(first), generator=draw) < FALSE_SHARE
    right, wrong = measured(exact, CLOSURE), measured(exact, FALSE)
    closures = SE2(torch.where(false[..., None], wrong.tensor, right.tensor))
    return Graphs(truth, odometry, closures, false, first, second)


def solved(graphs: Graphs, initial: Values, loss: Loss | None) -> Values:
    """The poses (B, N), differentiable in the loss's radius."""
    ids, moves, closures = initial.ids["pose"], graphs.odometry, graphs.closures
    ends = pose[graphs.first], pose[graphs.second]
    problem = Problem(
        start=prior(pose[ids[:1]], graphs.truth[:, :1], noise=Isotropic(1e-3)),
        odometry=between(pose[ids[:-1]], pose[ids[1:]], moves, noise=Diagonal(ODOMETRY)),
        closures=between(*ends, closures, noise=Diagonal(CLOSURE), loss=loss),
    )
    stop = Tolerances(cost=0, step=1e-5, gradient=0, iterations=200)
    return solve(problem, initial, linear=Dense(), tolerances=stop).values


def least_squares(graphs: Graphs) -> Values:
    """All closures believed, from dead reckoning on; the robust solutions start there."""
    poses = [graphs.truth[:, 0]]
    for k in range(graphs.odometry.batch_shape[1]):
        poses.append(poses[-1] @ graphs.odometry[:, k])
    return solved(graphs, pose.values(range(len(poses)), stack(poses, 1)), None)


def errors(values: Values, graphs: Graphs) -> Tensor:
    """Absolute trajectory error (ATE) of each graph (B,), RMS over its poses [m]."""
    off = values["pose"].translation - graphs.truth.translation
    return off.square().sum(-1).mean(1).sqrt()


def learn(graphs: Graphs) -> list[tuple[float, float]]:
    """Radius and mean training error [m], epoch by epoch."""
    initial = least_squares(graphs)
    log_radius = torch.tensor(START).double().log().requires_grad_()
    adam = torch.optim.Adam([log_radius], lr=0.35)
    slower = torch.optim.lr_scheduler.ExponentialLR(adam, 0.85)
    path = []
    for _ in range(EPOCHS):
        adam.zero_grad()
        error = errors(solved(graphs, initial, Welsch(log_radius.exp())), graphs).mean()
        error.backward()
        # Where a solution is about to jump to another valley its derivative is huge: one such
        # epoch must not set Adam's pace for all that follow.
        torch.nn.utils.clip_grad_value_([log_radius], 0.5)
        path.append((float(log_radius.detach().exp()), float(error.detach())))
        adam.step()
        slower.step()
    return path


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Draws graphs, learns the radius, judges it; returns the figures that it prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    out = parser.parse_args(argv).out
    path = learn(generated(12, seed=1))
    held_out = generated(8, seed=2)
    start = least_squares(held_out)
    results = {
        "least squares": start,
        "initial radius": solved(held_out, start, Welsch(START)),
        "learned radius": solved(held_out, start, Welsch(path[-1][0])),
    }
    sweep = [errors(solved(held_out, start, Welsch(r)), held_out).mean() for r in RADII]
    write_png(out / "pose_graph_learned_loss.png", picture(held_out, results, sweep, path))
    figures = {f"ATE, {name} [m]": errors(v, held_out).mean() for name, v in results.items()}
    figures |= {"learned radius [σ]": path[-1][0]}
    for name, value in figures.items():
        print(f"{name:28}{float(value):8.3f}")
    return {name: float(value) for name, value in figures.items()}


def draw_map(panel: Axes, poses: Tensor, graphs: Graphs, which: int) -> None:
    """One graph from above: truth, estimate (N, 2) and closures where the estimate puts them."""
    edges, false = torch.stack([poses[graphs.first], poses[graphs.second]], 1), graphs.false[which]
    for rows, color, name in ((~false, "#a0a0a0", "true"), (false, COLORS[0], "false")):
        lines = LineCollection(list(edges[rows]), colors=color, lw=1.3, label=f"{name} closures")
        panel.add_collection(lines)
    truth = graphs.truth.translation[which]
    panel.plot(*truth.T, color=TRUTH_COLOR, lw=5, alpha=0.2, label="true path")
    panel.plot(*poses.T, "o-", color=COLORS[1], ms=3, lw=1.6, label="estimate")
    panel.set(xlabel="x [m]", ylabel="y [m]", xlim=(-1.8, LANES - 0.2), ylim=(-1, LANES))
    panel.set_aspect("equal")


def picture(
    graphs: Graphs,
    results: dict[str, Values],
    sweep: list[Tensor],
    path: list[tuple[float, float]],
) -> Figure:
    """A held-out graph thrice, and the error over the radius with the way that Adam took."""
    which = int(errors(results["least squares"], graphs).argmax())
    figure = Figure(figsize=(10.0, 10.0), layout="constrained")
    *maps, panel = figure.subplots(2, 2).flat
    for one, (name, values) in zip(maps, results.items(), strict=True):
        draw_map(one, values["pose"].translation[which], graphs, which)
        one.set_title(f"{name}: ATE {errors(values, graphs)[which]:.2f} m")
    figure.legend(*maps[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    panel.plot(RADII, sweep, "-", color=TRUTH_COLOR, label=f"{len(graphs.false)} held-out graphs")
    steps = torch.tensor(path).T
    panel.plot(*steps, "o--", color=COLORS[1], ms=4, label="12 training graphs, by epochs")
    worst = float(errors(results["least squares"], graphs).mean())
    panel.axhline(worst, color=COLORS[0], ls=":", label="held-out, least squares")
    panel.set(xscale="log", xlabel="radius of the Welsch loss [σ]", ylabel="mean ATE [m]")
    panel.set(ylim=(0, None), title=f"learned: {START:g} σ → {path[-1][0]:.1f} σ")
    panel.set_xticks([1, 2, 5, 10, 20, 30], ["1", "2", "5", "10", "20", "30"])
    panel.minorticks_off()
    panel.grid(color="#e4e4e4")
    panel.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
