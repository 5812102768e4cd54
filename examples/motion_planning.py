"""Motion planning in SE(2): a long robot on wheels among obstacles, taught by a demonstration.

A plan is the minimum of a least-squares problem: a Gaussian-process prior keeps it smooth, wheels
do not slip sideways, both ends are given, and the circles that cover the robot keep a margin to
the obstacles of a signed distance field. How much obstacles count and how wide the margin is are
not guessed but learned: Adam moves both until the plan resembles a demonstration, with gradients
through the planner by the implicit function theorem.

    python examples/motion_planning.py                                      # a generated map
    python examples/motion_planning.py --data 0_sdf.npy env_0_prob_0.npz

The files are a map and an expert of Theseus' planning data: distances [m] on a square of 10 m,
rows from the top; th_opt (101, 4), positions and velocities of a disc of radius 0.4 m every 0.1 s.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from dnls_ros.costs import (
    DistanceField,
    collision,
    gp_motion,
    prior,
    velocity_prior,
    white_acceleration_noise,
)
from dnls_ros.diff import solve
from dnls_ros.io.plots import COLORS, write_png
from dnls_ros.lie import SE2, Euclidean
from dnls_ros.linear import Dense
from dnls_ros.optim import Solution, Tolerances
from dnls_ros.problem import (
    Isotropic,
    Problem,
    Shared,
    SquareRootInformation,
    Values,
    Variables,
)

STATES, DT, EPOCHS = 51, 0.2, 14
SIDE, CELL = 10.0, 10.0 / 128  # of the map [m]
CENTRES = np.arange(CELL / 2, SIDE, CELL) - SIDE / 2
UNTAUGHT = torch.tensor([1.0, 0.1]).double()  # θ: σ of a distance that is too small, margin [m]
HIDDEN = torch.tensor([0.3, 0.4]).double()  # the demonstrator's on the generated map

pose, twist = Variables("pose", SE2), Variables("twist", Euclidean(3))


@dataclass(frozen=True)
class Body:
    """Circles that cover a robot: centres (K, 2) and one radius [m]."""

    circles: Tensor
    radius: float


ROBOT = Body(torch.tensor([[-0.4, 0.0], [0.0, 0.0], [0.4, 0.0]]).double(), 0.3)
DISC = Body(torch.zeros(1, 2).double(), 0.4)


@dataclass(frozen=True)
class Task:
    """A map, both ends, and somebody's poses (STATES,) between them."""

    field: DistanceField
    ends: SE2  # (2,)
    shown: SE2
    shown_body: Body


def field_of(distance: np.ndarray) -> DistanceField:
    """Of distances [m] on the map's cells, rows from below."""
    first, cell = torch.tensor([CENTRES[0], CENTRES[0]]), torch.tensor([CELL]).double()
    return DistanceField(torch.from_numpy(distance), first, cell)


def generated() -> Task:
    """Two discs and two walls; the demonstration is a plan whose θ the learner is not told."""
    x, y = np.meshgrid(CENTRES, CENTRES)
    hit = (np.hypot(x + 1.7, y + 0.3) < 1) | (np.hypot(x - 1.7, y - 0.3) < 1)
    hit |= (abs(x + 2.6) < 1.6) & (abs(y - 2) < 0.4) | (abs(x - 2.6) < 1.6) & (abs(y + 2) < 0.4)
    distance = (distance_transform_edt(~hit) - distance_transform_edt(hit)) * CELL
    ends = SE2.from_xyt(torch.tensor([[-4.0, -3.0, 0.6], [4.0, 3.0, 0.6]]).double())
    blank = Task(field_of(distance), ends, ends, ROBOT)
    return Task(blank.field, ends, planned(HIDDEN, blank).values["pose"][0], ROBOT)


def read(sdf: Path, expert: Path) -> Task:
    """A map and an expert of Theseus' data; the robot heads straight for the goal at both ends."""
    path = torch.from_numpy(np.load(expert)["th_opt"])[::2, :2]
    ahead = torch.atan2(*(path[-1] - path[0]).flip(0)).expand(STATES, 1)
    poses = SE2.from_xyt(torch.cat([path, ahead], 1))
    return Task(field_of(np.load(sdf)[::-1].copy()), poses[[0, -1]], poses, DISC)


def straight(task: Task) -> Values:
    """From end to end at constant speed."""
    way = task.ends[0].between(task.ends[1]).log()
    share = torch.linspace(0, 1, STATES).double()[:, None]
    speed = (way / (DT * (STATES - 1))).repeat(STATES, 1)
    speed[[0, -1]] = 0
    ids = range(STATES)
    start = pose.values(ids, (task.ends[:1] @ SE2.exp(share * way))[None])
    return start.merge(twist.values(ids, speed[None]))


def planned(theta: Tensor, task: Task) -> Solution:
    """The best plan; its poses (1, STATES) are differentiable in θ."""
    sigma, margin = theta
    ids, ends, dt = torch.arange(STATES), [0, STATES - 1], torch.full((1, 1), DT).double()
    smooth = white_acceleration_noise(torch.eye(3).double(), dt)
    still, sideways = torch.zeros(1, 1, 3).double(), torch.tensor([[0, 1 / 0.05, 0]]).double()
    i, j = ids[:-1], ids[1:]
    problem = Problem(
        ends=prior(pose[ends], task.ends[None], noise=Isotropic(1e-3)),
        rest=velocity_prior(twist[ends], still, noise=Isotropic(1e-3)),
        smooth=gp_motion(pose[i], twist[i], pose[j], twist[j], dt, noise=smooth),
        wheels=velocity_prior(twist[ids], still, noise=SquareRootInformation(sideways)),
        obstacles=collision(
            pose[ids],
            Shared(ROBOT.circles),
            Shared((ROBOT.radius + margin)[None]),
            Shared(task.field),
            noise=Isotropic(sigma),
        ),
    )
    stop = Tolerances(cost=0, step=1e-6, gradient=0, iterations=200)
    return solve(problem, straight(task), linear=Dense(), tolerances=stop)


def learn(task: Task) -> tuple[Tensor, list[float]]:
    """The best θ, and how far plans are from what was shown, RMS [m], epoch by epoch."""
    log_theta = UNTAUGHT.log().requires_grad_()
    adam = torch.optim.Adam([log_theta], lr=0.4, betas=(0.5, 0.9))
    slower = torch.optim.lr_scheduler.ExponentialLR(adam, 0.85)
    path, errors = [], []
    for _ in range(EPOCHS):
        adam.zero_grad()
        error = distance_from_shown(planned(log_theta.exp(), task).values["pose"][0], task)
        error.square().backward()
        path.append(log_theta.detach().exp())
        errors.append(float(error.detach()))
        adam.step()
        slower.step()
    return path[errors.index(min(errors))], errors


def distance_from_shown(poses: SE2, task: Task) -> Tensor:
    """RMS of the distances at equal times [m]."""
    return (poses.translation - task.shown.translation).square().sum(-1).mean().sqrt()


def clearance(poses: SE2, body: Body, field: DistanceField) -> Tensor:
    """Free space around the body, at ten times between every two poses (10 (STATES − 1),) [m]."""
    share, way = torch.arange(10).double()[:, None] / 10, poses[:-1].between(poses[1:]).log()
    fine = poses[:-1, None] @ SE2.exp(share * way[:, None])
    distance, _ = field.at(fine[..., None].act(body.circles))
    return distance.amin(-1).flatten() - body.radius


def acceleration(poses: SE2) -> Tensor:
    """RMS of the second differences of the positions [m/s²]: how smooth a plan is."""
    return (poses.translation.diff(n=2, dim=0) / DT**2).square().sum(-1).mean().sqrt()


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Learns, plans, draws; returns the figures that it prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--data", type=Path, nargs=2, metavar=("MAP", "EXPERT"))
    options = parser.parse_args(argv)
    task = read(*options.data) if options.data else generated()
    theta, errors = learn(task)
    first, found = planned(UNTAUGHT, task), planned(theta, task)
    plans = {
        "straight line": (straight(task)["pose"][0], ROBOT),
        "demonstration": (task.shown, task.shown_body),
        "plan before learning": (first.values["pose"][0], ROBOT),
        "plan after learning": (found.values["pose"][0], ROBOT),
    }
    write_png(options.out / "motion_planning.png", picture(task, plans, errors))
    figures = {"learned sigma [m]": theta[0], "learned margin [m]": theta[1]}
    figures |= {"cost, straight line": found.initial_cost, "cost, plan": found.cost}
    for name, (poses, body) in plans.items():
        figures[f"least clearance, {name} [m]"] = clearance(poses, body, task.field).min()
        figures[f"RMS acceleration, {name} [m/s²]"] = acceleration(poses)
        figures[f"RMS distance, {name} [m]"] = distance_from_shown(poses, task)
    figures = {name: float(value) for name, value in figures.items()}
    for name, value in figures.items():
        print(f"{name:48}{value:12.3f}")
    return figures


def outline(body: Body) -> Tensor:
    """The hull of circles in a row, back to front, (P, 2)."""
    angle = torch.linspace(0.5, 1.5, 15).double()[:, None] * torch.pi
    back = body.radius * torch.cat([angle.cos(), angle.sin()], 1)
    return torch.cat([body.circles[0] + back, body.circles[-1] - back])


def picture(task: Task, plans: dict[str, tuple[SE2, Body]], errors: list[float]) -> Figure:
    """The map with all plans, their clearance over time, and what was learned."""
    figure = Figure(figsize=(12.5, 6.8), layout="constrained")
    panels = figure.subplot_mosaic([["map", "gaps"], ["map", "error"]], width_ratios=[1.3, 1])
    chart, gaps, error = panels["map"], panels["gaps"], panels["error"]
    field = CENTRES, CENTRES, task.field.distance
    chart.contourf(*field, [-SIDE, 0], colors="#707070")
    lines = chart.contour(*field, [0.5, 1, 2, 3], colors="#c0c0c0", linewidths=0.7)
    chart.clabel(lines, fmt="%g m", fontsize=7)
    styles = ((COLORS[3], ":", 2), ("#b8b8b8", "-", 6), (COLORS[0], "--", 2), (COLORS[1], "-", 2))
    for (name, (poses, body)), (color, style, width) in zip(plans.items(), styles, strict=True):
        chart.plot(*poses.translation.T, style, color=color, lw=width, label=name)
        free = clearance(poses, body, task.field)
        gaps.plot(DT / 10 * torch.arange(len(free)), free, style, color=color, lw=0.8 * width)
    poses, body = list(plans.values())[-1]
    hulls = [Polygon(hull) for hull in poses[::5, None].act(outline(body))]
    chart.add_collection(PatchCollection(hulls, fc="#0072b220", ec="#0072b280"))
    chart.set(
        xlabel="x [m]", ylabel="y [m]", aspect="equal", title="lines: distance to the obstacles"
    )
    chart.legend(loc="upper left", framealpha=1)
    gaps.axhline(0, color="#606060", lw=1)
    gaps.set(xlabel="time [s]", ylabel="clearance [m]", title="free space around the body")
    error.plot(errors, "o-", color=COLORS[1], ms=4)
    error.set(xlabel="epoch of Adam", ylabel="RMS distance [m]", ylim=(0, None))
    error.set(title="from the plan to the demonstration", xticks=range(0, EPOCHS, 2))
    for panel in (gaps, error):
        panel.grid(color="#e4e4e4")
    return figure


if __name__ == "__main__":
    main()
