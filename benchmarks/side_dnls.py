"""This library's answers to the questions of `side_by_side`; `side_theseus` has the same names."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.side_by_side import F64, STARTS, Cube, Ends, Theta, small_tangents
from dnls_ros.costs import between, moving_frame_between, prior
from dnls_ros.diff import (
    Adjoint,
    DirectLoss,
    Implicit,
    Truncated,
    Unroll,
    local_samples,
    solve,
)
from dnls_ros.lie import SE2, SE3, SO3, Euclidean, LieGroup
from dnls_ros.linear import Cholmod, Dense
from dnls_ros.optim import (
    Dogleg,
    GaussNewton,
    LevenbergMarquardt,
    Method,
    Solution,
    Tolerances,
    minimize,
)
from dnls_ros.problem import Diagonal, Isotropic, Problem, Values, Variables, Welsch, cost

NAME = "dnls_ros"
METHODS: dict[str, Method[Any]] = {"LM": LevenbergMarquardt(), "Dogleg": Dogleg()}
ADJOINTS: dict[str, Adjoint] = {
    "implicit": Implicit(),
    "implicit, Gauss–Newton": Implicit("gauss_newton"),
    "unroll": Unroll(),
    "truncated(5)": Truncated(5),
    "DLM": DirectLoss(),  # ε = 0.01
}
TIGHT = Tolerances(cost=0, step=1e-12, gradient=1e-12, iterations=100)

x = Variables("x", Euclidean(1))
plane = Variables("x", Euclidean(2))
pose = Variables("pose", SE3)


@cost
def rosenbrock(p: Tensor) -> Tensor:
    """r = (10 (y − x²), 1 − x)."""
    return torch.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]])


@cost
def logarithm(p: Tensor) -> Tensor:
    """r = log x, NaN below zero."""
    return p.log()


@cost
def square(p: Tensor, theta: Tensor) -> Tensor:
    """r = (x − θ)²."""
    return (p - theta) ** 2


def rosenbrock_ends(method: str, starts: Tensor = STARTS, tight: bool = False) -> Ends:
    """The batch of starts (B, 2), in at most 300 iterations; ``tight`` with tolerances of 0."""
    initial = plane.values([0], starts[:, None])
    problem = Problem(valley=rosenbrock(plane[[0]]))
    stop = Tolerances(0, 0, 0, 300) if tight else Tolerances(iterations=300)
    return _ends(minimize(problem, initial, METHODS[method], Dense(), stop))


def logarithm_ends() -> Ends:
    """From 5 and from 1.5; the minimum is at 1."""
    initial = x.values([0], torch.tensor([5.0, 1.5], dtype=F64)[:, None, None])
    problem = Problem(f=logarithm(x[[0]]))
    return _ends(minimize(problem, initial, METHODS["LM"], Dense(), Tolerances(iterations=100)))


def neighbour_ends() -> Ends:
    """Gauss–Newton on two lines of one weight each: the second has no information about y."""
    target = torch.tensor([[[3.0, 4.0]]], dtype=F64)
    weights = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]]], dtype=F64)
    initial = plane.values([0], torch.zeros(2, 1, 2, dtype=F64))
    problem = Problem(known=weighted(plane[[0]], target, weights))
    return _ends(minimize(problem, initial, GaussNewton(), Dense()))


@cost
def weighted(p: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """r = w (p − t)."""
    return weights * (p - target)


def _ends(found: Solution) -> Ends:
    block = found.values["x"]
    assert isinstance(block, Tensor)
    statuses = [status.name for status in found.status]
    return Ends(found.cost.tolist(), statuses, block[:, 0, 0].tolist())


def quartic_slope(mode: Literal["implicit", "implicit, Gauss–Newton"]) -> float:
    """dx*/dθ at θ = 0 of the minimum x* = θ of ½(x − θ)⁴, from x = 1."""
    theta = torch.zeros(1, 1, 1, dtype=F64, requires_grad=True)
    initial = x.values([0], torch.ones(1, 1, 1, dtype=F64))
    problem = Problem(quartic=square(x[[0]], theta))
    stop = Tolerances(0, 0, 1e-8, 100)
    adjoint = ADJOINTS[mode]
    found = solve(problem, initial, linear=Dense(), adjoint=adjoint, tolerances=stop)
    block = found.values["x"]
    assert isinstance(block, Tensor)
    return float(torch.autograd.grad(block.sum(), theta)[0])


def samples(count: int) -> tuple[Tensor, Tensor]:
    """Solves r = 2 (x − (3, 4)) from 0, then draws (count, 2) from the Gaussian there.

    Returns:
        The samples, and the solution (2,).
    """
    target = torch.tensor([[[3.0, 4.0]]], dtype=F64)
    problem = Problem(known=prior(plane[[0]], target, noise=Isotropic(0.5)))
    initial = plane.values([0], torch.zeros(1, 1, 2, dtype=F64))
    found = minimize(problem, initial, GaussNewton(), Dense())
    steps = local_samples(found, count, generator=torch.Generator().manual_seed(1))
    block = found.values["x"]
    assert isinstance(block, Tensor)
    return block[0] + steps[0], block[0, 0]


def small_angle_maps(group: type[LieGroup]) -> tuple[Tensor, Tensor]:
    """Exp as matrices, and its right Jacobians, (N, 3, 3) each."""
    delta = small_tangents(group)
    return group.exp(delta).matrix(), group.right_jacobian(delta)


def cube_poses(cube: Cube, theta: Theta, mode: str, start: SE3 | None = None) -> Tensor:
    """The solved cube as matrices (B, 64, 3, 4), differentiable by θ."""
    sigmas = cube.sigmas * torch.exp(-theta.log_weights)[..., None]
    radius = theta.log_radius
    edges = between(
        pose[cube.first],
        pose[cube.second],
        cube.z @ SE3.exp(theta.bend),
        noise=Diagonal(sigmas),
        loss=None if radius is None else Welsch((0.5 * radius).exp()[:, None]),
    )
    anchor = prior(pose[[0]], cube.truth[:, :1], noise=Isotropic(cube.anchor_sigma))
    found = solve(
        Problem(edges=edges, anchor=anchor),
        _cube_values(cube.start if start is None else start),
        LevenbergMarquardt(),
        linear=Cholmod(),
        adjoint=ADJOINTS[mode],
        tolerances=TIGHT,
    )
    poses = found.values["pose"]
    assert isinstance(poses, SE3)
    return poses.matrix()[..., :3, :]


def _cube_values(poses: SE3) -> Values:
    return pose.values(range(64), poses)


def moving_frame_jacobians(elements: list[SE3]) -> tuple[Tensor, Tensor]:
    """Analytic (6, 24) and by central differences, of the moving frame's four poses and z."""
    lifted = tuple(SE3(e.tensor[None, None]) for e in elements)
    blocks = moving_frame_between.analytic_blocks(lifted, (1, 1))
    columns = []
    for k in range(4):
        for axis in torch.eye(6, dtype=F64):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [*lifted]
                moved[k] = lifted[k] @ SE3.exp(step * axis)
                ends.append(moving_frame_between.evaluate(tuple(moved), (1, 1))[0, 0])
            columns.append((ends[0] - ends[1]) / 2e-5)
    return torch.cat(blocks, -1)[0, 0], torch.stack(columns, 1)


GROUPS: dict[str, type[LieGroup]] = {"SE(2)": SE2, "SO(3)": SO3}
