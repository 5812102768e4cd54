"""Inverse kinematics of a batch of poses, and the learning of what a redundant arm prefers.

An arm with seven joints has to reach random poses inside its joint limits. Every pose is tried
from eight random configurations, all of them one batch of Levenberg–Marquardt. A pose leaves one
freedom: the elbow may turn about the line from shoulder to wrist. A controller that we only watch
uses it to stay near a posture of its own. That posture is learned from joint angles, by gradients
through the inverse kinematics: no pose depends on it, only the derivative of a solution does. (Of
the elbow's own angle nothing is learned: it follows from the distance of shoulder and wrist.)

    python examples/inverse_kinematics.py --out out/examples [--urdf robot.urdf [--tip LINK]]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dnls_ros.costs import KinematicTree, end_effector_pose, hinge, prior
from dnls_ros.diff import solve
from dnls_ros.io.plots import COLORS, TRUTH_COLOR, write_png
from dnls_ros.io.urdf import parse_urdf, read_urdf
from dnls_ros.lie import SE3, Euclidean, local
from dnls_ros.linear import Dense
from dnls_ros.optim import GainRatio, LevenbergMarquardt, Tolerances, minimize
from dnls_ros.problem import Isotropic, Problem, Shared, Variables

TARGETS, TRIES, TRAINING, STEPS = 64, 8, 32, 14
REACHED = 1e-6  # [m, rad]
JOINTS = (  # axis, distance from the joint before along z [m], limits [rad]
    *(("0 0 1", 0.15, 2.9), ("0 1 0", 0.19, 2.0), ("0 0 1", 0.21, 2.9)),  # shoulder
    ("0 -1 0", 0.19, 2.1),  # elbow
    *(("0 0 1", 0.20, 2.9), ("0 1 0", 0.19, 2.0), ("0 0 1", 0.08, 3.0)),  # wrist
)
PREFERRED = (0.2, 0.25, 0.25, 0.5, -0.2, 0.3, 0.1)  # of the way from the middle to the limits


def generated() -> str:
    """The URDF of an arm with the joints above and a hand."""
    text = ['<robot name="arm"><link name="link0"/>']
    for k, (axis, z, limit) in enumerate(JOINTS, 1):
        text.append(
            f'<link name="link{k}"/><joint name="joint{k}" type="revolute"><axis xyz="{axis}"/>'
            f'<parent link="link{k - 1}"/><child link="link{k}"/><origin xyz="0 0 {z}"/>'
            f'<limit lower="{-limit}" upper="{limit}" effort="99" velocity="2"/></joint>'
        )
    text.append('<link name="hand"/><joint name="mount" type="fixed"><parent link="link7"/>')
    return "".join(text) + '<child link="hand"/><origin xyz="0 0 0.1"/></joint></robot>'


def span(arm: KinematicTree) -> tuple[Tensor, Tensor]:
    """The limits (n,), half a turn to both sides where there are none."""
    return arm.lower.nan_to_num(neginf=-torch.pi), arm.upper.nan_to_num(posinf=torch.pi)


def drawn(arm: KinematicTree, count: int, draw: torch.Generator) -> Tensor:
    """Random configurations (count, 1, n) inside the limits."""
    low, high = span(arm)
    return low + torch.rand(count, 1, len(low), generator=draw).double() * (high - low)


def variable(arm: KinematicTree) -> Variables:
    """The configuration, one per batch element."""
    return Variables("q", Euclidean(len(arm.joints)))


def reaching(arm: KinematicTree, targets: SE3) -> Problem:
    """The tip on its target (B, 1), the joints inside their limits."""
    q = variable(arm)[[0]]
    limits = hinge(q, Shared(arm.lower), Shared(arm.upper), noise=Isotropic(0.1))
    return Problem(reach=end_effector_pose(q, targets, Shared(arm)), limits=limits)


def errors(arm: KinematicTree, targets: SE3, q: Tensor) -> Tensor:
    """How far (B, 3) tips are off their targets [m, rad], and joints outside of limits [rad]."""
    off = local(targets, arm.pose(q))[:, 0]
    outside = (q - q.clamp(arm.lower, arm.upper)).abs().amax((1, 2))
    return torch.stack([off[:, :3].norm(dim=1), off[:, 3:].norm(dim=1), outside], 1)


def reached(arm: KinematicTree, targets: SE3, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Configurations (TRIES, TARGETS, n) from random starts, and which of them are solutions."""
    every = SE3(targets.tensor.repeat(TRIES, 1, 1))
    start = variable(arm).values([0], drawn(arm, TRIES * TARGETS, draw))
    stop = Tolerances(cost=1e-8, step=1e-10, gradient=1e-12, iterations=60)
    found = minimize(reaching(arm, every), start, LevenbergMarquardt(), Dense(), stop).values["q"]
    good = (errors(arm, every, found) < REACHED).all(1)
    return found.view(TRIES, TARGETS, -1), good.view(TRIES, TARGETS)


def preferring(arm: KinematicTree, targets: SE3, q0: Tensor, posture: Tensor) -> Tensor:
    """Of the configurations (B, 1, n) around q0 those near a posture; differentiable in it."""
    q = variable(arm)
    near = prior(
        q[[0]], Shared(posture), noise=Isotropic(100.0)
    )  # gives way to poses, up to millimetres
    problem = reaching(arm, targets).replace(posture=near)
    stop = Tolerances(cost=0, step=1e-6, gradient=0, iterations=200)
    method = LevenbergMarquardt(rule=GainRatio())
    return solve(problem, q.values([0], q0), method, linear=Dense(), tolerances=stop).values["q"]


def learn(arm: KinematicTree, targets: SE3, shown: Tensor, start: Tensor) -> Tensor:
    """The posture (n,) with which inverse kinematics gives the configurations that were shown."""
    posture = start.clone().requires_grad_()
    method = torch.optim.LBFGS(
        [posture], max_iter=STEPS, max_eval=STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        method.zero_grad()
        loss = (preferring(arm, targets, shown, posture) - shown).square().mean()
        loss.backward()
        return loss

    method.step(closure)
    return posture.detach()


def draw_arm(panel: Any, arm: KinematicTree, q: Tensor, **style: Any) -> None:
    """The links of one configuration (n,), and the axes of the hand."""
    x = arm.poses(q)
    panel.plot(*x.translation.T.numpy(), "-o", ms=4, **style)
    ends = x[-1] @ (0.12 * torch.cat([torch.zeros(1, 3), torch.eye(3)]).double())
    for k, color in enumerate(("#d62728", "#2ca02c", "#1f77b4"), 1):
        panel.plot(*ends[[0, k]].T.numpy(), color=color, lw=1.5)


def picture(arm: KinematicTree, solutions: Tensor, postures: dict[str, Tensor]) -> Figure:
    """Arms that reach (T, n); by name a posture and a configuration near it (2, n)."""
    figure = Figure(figsize=(11.0, 8.8), layout="constrained")
    rows, kind = [["reach", "hand"], ["limits", "posture"]], {"projection": "3d"}
    above = dict.fromkeys(rows[0], kind)
    panels: Any = figure.subplot_mosaic(rows, height_ratios=[2.2, 1.0], per_subplot_kw=above)
    points = arm.pose(solutions).translation
    panels["reach"].scatter(*points.T.numpy(), s=10, color="#888888")
    outermost = [*points[:, :2].argmax(0), *points[:, :2].argmin(0)]
    for k, color in zip(outermost, COLORS, strict=True):
        draw_arm(panels["reach"], arm, solutions[k], color=color, lw=3)
    low, high = (limit.numpy() for limit in span(arm))
    joints = range(1, len(low) + 1)
    styles = (TRUTH_COLOR, 7, 0.35), (COLORS[0], 2, 1), (COLORS[1], 2, 1)
    for (name, both), (color, width, alpha) in zip(postures.items(), styles, strict=True):
        style = {"color": color, "lw": width, "alpha": alpha, "label": name}
        draw_arm(panels["hand"], arm, both[1], **style)
        panels["posture"].plot(joints, both[0].numpy(), "-o", **style)
    panels["limits"].bar(joints, high - low, 0.7, low, color="#e4e4e4")
    for k, q in enumerate(solutions.numpy()):
        shift = 0.6 * k / len(solutions) - 0.3
        panels["limits"].plot([j + shift for j in joints], q, ".", color=COLORS[1], ms=3)
    half = 0.5 * abs(panels["hand"].get_zlim()[1] - panels["hand"].get_zlim()[0])
    panels["hand"].set(xlim=(-half, half), ylim=(-half, half))
    panels["hand"].legend(loc="upper left", frameon=False)
    titles = f"{len(solutions)} poses reached, four of the arms", "a pose that was never shown"
    for name, title in zip(rows[0], titles, strict=True):
        panels[name].set(title=title, aspect="equal", xlabel="x [m]", ylabel="y [m]")
        panels[name].set_zlabel("z [m]")
        panels[name].set_box_aspect(None if name == "reach" else (1, 1, 1), zoom=0.9)
        panels[name].locator_params(nbins=5)
    for name, title in zip(rows[1], ("all inside the limits", "preferred posture"), strict=True):
        panels[name].set(title=title, xlabel="joint", ylabel="[rad]")
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Reaches poses, learns the posture, draws; returns the figures that it prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--urdf", type=Path, help="of another robot")
    parser.add_argument("--tip", help="the link that reaches; needed if the robot has branches")
    options = parser.parse_args(argv)
    tree = parse_urdf(generated()) if options.urdf is None else read_urdf(options.urdf)
    arm, draw = tree.chain(options.tip or tree.tip), torch.Generator().manual_seed(0)

    targets = arm.pose(drawn(arm, TARGETS, draw))
    found, good = reached(arm, targets, draw)
    some = good.any(0)
    if int(some.sum()) <= TRAINING:
        parser.exit(1, f"only {int(some.sum())} of {TARGETS} poses were reached: too few\n")
    q0 = found[good.int().argmax(0), torch.arange(TARGETS)][some, None]
    targets = targets[some]
    worst = errors(arm, targets, q0).amax(0)

    low, high = span(arm)
    middle = 0.5 * (low + high)
    truth = middle + 0.5 * (high - low) * torch.tensor(PREFERRED).double().repeat(9)[: len(low)]
    shown = preferring(arm, targets, q0, truth)  # the controller that we watch
    learned = learn(arm, targets[:TRAINING], shown[:TRAINING], middle)
    others = targets[TRAINING:], q0[TRAINING:]
    before, after = (preferring(arm, *others, r) for r in (middle, learned))
    off = [(q - shown[TRAINING:]).square().mean((1, 2)) for q in (before, after)]
    k = int((off[0] - off[1]).argmax())
    near = zip((truth, middle, learned), (shown[TRAINING:], before, after), strict=True)
    pairs = [torch.stack([posture, q[k, 0]]) for posture, q in near]
    postures = dict(zip(("the controller's", "before", "learned"), pairs, strict=True))
    write_png(options.out / "inverse_kinematics.png", picture(arm, q0[:, 0], postures))
    figures = {
        "starts that end in a solution [%]": 100 * good.double().mean(),
        "poses reached [%]": 100 * some.double().mean(),
        "worst position error [m]": worst[0],
        "worst rotation error [rad]": worst[1],
        "furthest outside of limits [rad]": worst[2],
        "joints off before, unseen poses [deg]": off[0].mean().sqrt().rad2deg(),
        "joints off learned, unseen poses [deg]": off[1].mean().sqrt().rad2deg(),
    }
    for name, value in figures.items():
        print(f"{name:40}{float(value):12.4g}")
    return {name: float(value) for name, value in figures.items()}


if __name__ == "__main__":
    main()
