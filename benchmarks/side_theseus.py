"""Theseus' answers to the questions of `side_by_side`, through its public interface.

Importing this module needs Theseus (0.2.3 was measured). Problems are written as its documentation
does: `AutoDiffCostFunction` for a user's cost, `Between` and `Difference` for pose graphs, and a
`TheseusLayer` around the optimizer. Everything is in float64, with its defaults unless said.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import theseus as th
import torch
from torch import Tensor

from benchmarks.side_by_side import F64, STARTS, Cube, Ends, Theta, small_tangents
from dnls_ros.lie import SE2, SE3, SO3, LieGroup

# It calls functions that this version of torch discourages.
warnings.filterwarnings("ignore", module="theseus|torchlie")

NAME = f"Theseus {th.__version__}"
METHODS: dict[str, tuple[type, dict[str, Any]]] = {
    "LM": (th.LevenbergMarquardt, {"adaptive_damping": True}),
    "Dogleg": (th.Dogleg, {}),
}
ADJOINTS: dict[str, dict[str, Any]] = {
    "implicit": {"backward_mode": "implicit"},
    "unroll": {"backward_mode": "unroll"},
    "truncated(5)": {"backward_mode": "truncated", "backward_num_iterations": 5},
    "DLM": {"backward_mode": "dlm"},  # ε = 0.01
}
CUBE_ITERATIONS = 20
"""Of Gauss–Newton, all of them done (tolerances 0), as in its cube example; half would do."""


def _rosenbrock(optim_vars: Any, aux_vars: Any) -> Tensor:
    p = optim_vars[0].tensor
    return torch.stack([10 * (p[:, 1] - p[:, 0] ** 2), 1 - p[:, 0]], 1)


def _logarithm(optim_vars: Any, aux_vars: Any) -> Tensor:
    return optim_vars[0].tensor.log()


def _square(optim_vars: Any, aux_vars: Any) -> Tensor:
    return (optim_vars[0].tensor - aux_vars[0].tensor) ** 2


def rosenbrock_ends(method: str, starts: Tensor = STARTS, tight: bool = False) -> Ends:
    """The batch of starts (B, 2), in at most 300 iterations; ``tight`` with tolerances of 0."""
    p = th.Vector(2, name="x", dtype=F64)
    objective = th.Objective(dtype=F64)
    objective.add(th.AutoDiffCostFunction([p], _rosenbrock, 2, cost_weight=_unit()))
    kind, options = METHODS[method]
    tolerances = {"abs_err_tolerance": 0.0, "rel_err_tolerance": 0.0} if tight else {}
    optimizer = kind(objective, max_iterations=300, **tolerances)
    return _ends(optimizer, {"x": starts.clone()}, options)


def logarithm_ends() -> Ends:
    """From 5 and from 1.5; the minimum is at 1."""
    p = th.Vector(1, name="x", dtype=F64)
    objective = th.Objective(dtype=F64)
    objective.add(th.AutoDiffCostFunction([p], _logarithm, 1, cost_weight=_unit()))
    start = torch.tensor([[5.0], [1.5]], dtype=F64)
    optimizer, options = METHODS["LM"]
    return _ends(optimizer(objective, max_iterations=100), {"x": start}, options)


def neighbour_ends() -> Ends:
    """Gauss–Newton on two lines of one weight each: the second has no information about y."""
    p, target = (th.Vector(2, name=name, dtype=F64) for name in ("x", "t"))
    weights = th.Variable(torch.ones(2, 2, dtype=F64), name="w")
    objective = th.Objective(dtype=F64)
    objective.add(th.Difference(p, target, th.DiagonalCostWeight(weights)))
    inputs = {
        "x": torch.zeros(2, 2, dtype=F64),
        "t": torch.tensor([[3.0, 4.0]], dtype=F64).repeat(2, 1),
        "w": torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=F64),
    }
    return _ends(th.GaussNewton(objective, max_iterations=50), inputs, {})


def _unit() -> Any:
    return th.ScaleCostWeight(torch.ones(1, 1, dtype=F64))


def _ends(optimizer: Any, inputs: dict[str, Tensor], options: dict[str, Any]) -> Ends:
    layer = th.TheseusLayer(optimizer)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a failed solve is told by its status
        solved, info = layer.forward(inputs, optimizer_kwargs=options)
        costs = optimizer.objective.error_metric(solved)
    statuses = [status.name for status in info.status]
    return Ends(costs.tolist(), statuses, solved["x"][:, 0].tolist())


def quartic_slope(mode: Literal["implicit"]) -> float:
    """dx*/dθ at θ = 0 of the minimum x* = θ of ½(x − θ)⁴, from x = 1: its own test's problem."""
    p = th.Vector(1, name="x", dtype=F64)
    theta = torch.zeros(1, 1, dtype=F64, requires_grad=True)
    data = th.Variable(torch.zeros(1, 1, dtype=F64), name="theta")
    objective = th.Objective(dtype=F64)
    objective.add(th.AutoDiffCostFunction([p], _square, 1, aux_vars=[data], cost_weight=_unit()))
    layer = th.TheseusLayer(th.GaussNewton(objective, max_iterations=15))
    inputs = {"x": torch.ones(1, 1, dtype=F64), "theta": theta}
    solved, _ = layer.forward(inputs, optimizer_kwargs=ADJOINTS[mode])
    return float(torch.autograd.grad(solved["x"].sum(), theta)[0])


def samples(count: int) -> tuple[Tensor, Tensor]:
    """Solves r = 2 (x − (3, 4)) from 0, then draws (count, 2) from the Gaussian there.

    Returns:
        The samples, and the solution (2,).
    """
    p, target = (th.Vector(2, name=name, dtype=F64) for name in ("x", "t"))
    objective = th.Objective(dtype=F64)
    objective.add(th.Difference(p, target, th.ScaleCostWeight(2 * torch.ones(1, 1, dtype=F64))))
    optimizer = th.GaussNewton(objective)
    layer = th.TheseusLayer(optimizer)
    inputs = {"x": torch.zeros(1, 2, dtype=F64), "t": torch.tensor([[3.0, 4.0]], dtype=F64)}
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        solved, _ = layer.forward(inputs)
        drawn = layer.compute_samples(optimizer.linear_solver, n_samples=count)
    return drawn[0].mT, solved["x"][0]


def small_angle_maps(group: type[LieGroup]) -> tuple[Tensor, Tensor]:
    """Exp as matrices, and its right Jacobians, (N, 3, 3) each."""
    jacobians: list[Tensor] = []
    found = {SE2: th.SE2, SO3: th.SO3}[group].exp_map(small_tangents(group), jacobians)
    if group is SO3:
        return found.tensor, jacobians[0]
    return SE2(found.tensor).matrix(), jacobians[0]


def cube_poses(cube: Cube, theta: Theta, mode: str) -> Tensor:
    """The solved cube as matrices (1, 64, 3, 4), differentiable by θ."""
    poses = [th.SE3(name=f"pose_{k}", dtype=F64) for k in range(64)]
    objective = th.Objective(dtype=F64)
    inputs = {f"pose_{k}": _matrix(cube.start[:, k]) for k in range(64)}
    measured = _matrix(cube.z @ SE3.exp(theta.bend))
    roots = theta.log_weights.exp()[..., None] / cube.sigmas
    radius = th.Variable(torch.zeros(1, 1, dtype=F64), name="radius")
    for k, (i, j) in enumerate(zip(cube.first.tolist(), cube.second.tolist(), strict=True)):
        z = th.SE3(name=f"z_{k}", dtype=F64)
        root = th.Variable(torch.ones(1, 6, dtype=F64), name=f"root_{k}")
        edge: Any = th.Between(poses[i], poses[j], z, th.DiagonalCostWeight(root), name=f"e_{k}")
        if theta.log_radius is not None:
            edge = th.RobustCostFunction(edge, th.WelschLoss, radius, name=f"robust_{k}")
        objective.add(edge)
        inputs |= {f"z_{k}": measured[:, k], f"root_{k}": roots[:, k]}
    if theta.log_radius is not None:
        inputs["radius"] = theta.log_radius[:, None]
    target = th.SE3(name="anchor", dtype=F64)
    weight = th.ScaleCostWeight(torch.full((1, 1), 1 / cube.anchor_sigma, dtype=F64))
    objective.add(th.Difference(poses[0], target, weight))
    inputs["anchor"] = _matrix(cube.truth[:, 0])
    optimizer = th.GaussNewton(
        objective,
        linear_solver_cls=th.CholmodSparseSolver,
        max_iterations=CUBE_ITERATIONS,
        abs_err_tolerance=0.0,
        rel_err_tolerance=0.0,
    )
    solved, _ = th.TheseusLayer(optimizer).forward(inputs, optimizer_kwargs=ADJOINTS[mode])
    return torch.stack([solved[f"pose_{k}"] for k in range(64)], 1)


def _matrix(x: SE3) -> Tensor:
    return x.matrix()[..., :3, :]


def moving_frame_jacobians(elements: list[SE3]) -> tuple[Tensor, Tensor]:
    """Analytic (6, 24) and by central differences, of the moving frame's four poses and z."""
    groups = [th.SE3(tensor=_matrix(e)[None], name=str(k)) for k, e in enumerate(elements)]
    cost = th.eb.MovingFrameBetween(*groups, _unit())
    blocks, _ = cost.jacobians()
    columns = []
    for group in groups[:4]:
        still = group.tensor.clone()
        for axis in torch.eye(6, dtype=F64):
            ends = []
            for step in (1e-5, -1e-5):
                group.update(th.SE3(tensor=still).retract(step * axis[None]).tensor)
                ends.append(cost.error()[0])
            columns.append((ends[0] - ends[1]) / 2e-5)
        group.update(still)
    return torch.cat(blocks, -1)[0], torch.stack(columns, 1)
