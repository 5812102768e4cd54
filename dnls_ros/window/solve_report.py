"""What one solve did, in figures: how it ended, what each kind of factor cost, what is weak."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

import torch

from dnls_ros.linear import Factorization
from dnls_ros.optim import Solution, Status
from dnls_ros.problem import DensePrior, FactorGroup, Group, Values
from dnls_ros.window.marginalize import PRIOR
from dnls_ros.window.timing import TimedAssembly

DOWNWEIGHTED = 0.5
"""A factor whose robust weight is below it hardly counts."""
PRIOR_TYPE = "prior"
NAN = float("nan")


class Termination(IntEnum):
    """How a solve ended; values are those of SolverStats.msg."""

    CONVERGED_COST = 0
    CONVERGED_STEP = 1
    CONVERGED_GRADIENT = 2
    MAX_ITERATIONS = 3
    TIME_BUDGET = 4
    DAMPING_LIMIT = 5
    SINGULAR = 6
    NOT_FINITE = 7
    EXCEPTION = 8


_TERMINATIONS = {
    Status.CONVERGED_COST: Termination.CONVERGED_COST,
    Status.CONVERGED_MODEL: Termination.CONVERGED_COST,
    Status.CONVERGED_STEP: Termination.CONVERGED_STEP,
    Status.CONVERGED_GRADIENT: Termination.CONVERGED_GRADIENT,
    Status.MAX_ITERATIONS: Termination.MAX_ITERATIONS,
    Status.DEADLINE: Termination.TIME_BUDGET,
    Status.DAMPING_LIMIT: Termination.DAMPING_LIMIT,
    Status.SINGULAR: Termination.SINGULAR,
    Status.STEP_NOT_FINITE: Termination.NOT_FINITE,
    Status.NOT_FINITE: Termination.NOT_FINITE,
}


@dataclass(frozen=True)
class FactorCost:
    """All factors of one kind.

    Attributes:
        type: Sensor, ``<track>.motion``, ``<track>.init``, or ``prior``.
        count: Factors that count.
        dim: Their residual entries.
        cost: ½Σρ.
        mean_sq: Mean squared whitened residual entry; about 1 where the sigmas are right.
        downweighted: Factors with a robust weight below one half.
    """

    type: str
    count: int
    dim: int
    cost: float
    mean_sq: float
    downweighted: int

    def __add__(self, other: FactorCost) -> FactorCost:
        """Both together."""
        dim = self.dim + other.dim
        squares = self.mean_sq * self.dim + other.mean_sq * other.dim
        return FactorCost(
            self.type,
            self.count + other.count,
            dim,
            self.cost + other.cost,
            squares / dim if dim else 0.0,
            self.downweighted + other.downweighted,
        )


@dataclass(frozen=True)
class SolveReport:
    """One solve in figures; what `details` adds is NaN, 0 or empty before.

    Attributes:
        termination: How it ended.
        steps_accepted: Of the trials.
        damping: Final λ.
        largest_gradient, largest_step: Largest entries of the last gradient and accepted step.
        dof: Tangent dimension of the window.
        linear_solver, device: What solved it.
        linearize, factorize: Wall time of these parts of the solve [s].
        residuals: Residual entries (details).
        factor_nnz: Entries of the Cholesky factor (details).
        min_diag_ratio: Least over largest entry of its diagonal (details); near 0 = weak.
        weakest: The variable and the direction of the least entry (details).
        costs: By kind of factor (details).
    """

    termination: Termination
    steps_accepted: int
    damping: float
    largest_gradient: float
    largest_step: float
    dof: int
    linear_solver: str
    device: str
    linearize: float
    factorize: float
    residuals: int = 0
    factor_nnz: int = 0
    min_diag_ratio: float = NAN
    weakest: str = ""
    costs: tuple[FactorCost, ...] = ()

    @property
    def cost_prior(self) -> float:
        """½‖·‖² of the marginal prior; 0 if there is none."""
        return sum(cost.cost for cost in self.costs if cost.type == PRIOR_TYPE)


def solve_report(solution: Solution) -> SolveReport:
    """What costs next to nothing to say about a solve."""
    assembly = solution.assembly
    timed = assembly.watch if isinstance(assembly, TimedAssembly) else None
    return SolveReport(
        termination=_TERMINATIONS[solution.status[0]],
        steps_accepted=int(solution.accepted[0]),
        damping=float(solution.damping[0]),
        largest_gradient=float(solution.largest_gradient[0]),
        largest_step=float(solution.largest_step[0]),
        dof=assembly.structure.n,
        linear_solver=solution.linear.name,
        device=str(solution.cost.device),
        linearize=NAN if timed is None else timed.linearize,
        factorize=NAN if timed is None else timed.factorize,
    )


def details(
    report: SolveReport,
    solution: Solution,
    factorization: Factorization,
    sensors: Collection[str],
    newest: int,
) -> SolveReport:
    """The report with what takes another evaluation of all factors.

    Args:
        report: From `solve_report`.
        solution: The same solve.
        factorization: Of its last Hessian.
        sensors: Their names; factors of a sensor are counted together.
        newest: Stamp of the newest state [ns].
    """
    with torch.inference_mode():
        costs = factor_costs(solution, sensors)
    diagonal = factorization.diagonal()[0]
    ratio, weakest = NAN, ""
    if bool(diagonal.isfinite().all()) and len(diagonal):
        ratio = float(diagonal.min() / diagonal.max())
        weakest = direction(solution.values, int(diagonal.argmin()), newest)
    return replace(
        report,
        residuals=sum(cost.dim for cost in costs),
        factor_nnz=factorization.nnz,
        min_diag_ratio=ratio,
        weakest=weakest,
        costs=costs,
    )


def factor_costs(solution: Solution, sensors: Collection[str]) -> tuple[FactorCost, ...]:
    """Costs by kind of factor, in order of their names, the prior last."""
    slots = solution.assembly.structure.slots
    found: dict[str, FactorCost] = {}
    for name, group in solution.assembly.problem.items():
        kind = kind_of(name, sensors)
        cost = _cost_of(kind, group, solution.values, slots[name])
        found[kind] = found[kind] + cost if kind in found else cost
    return tuple(sorted(found.values(), key=lambda cost: (cost.type == PRIOR_TYPE, cost.type)))


def kind_of(group: str, sensors: Collection[str]) -> str:
    """The sensor that a factor group belongs to (``tags.4.known`` → ``tags``), else its name."""
    if group == PRIOR:
        return PRIOR_TYPE
    sensor = group.partition(".")[0]
    return sensor if sensor in sensors and not group.endswith(".given") else group


def _cost_of(
    kind: str, group: Group, values: Values, slots: tuple[torch.Tensor, ...]
) -> FactorCost:
    if not isinstance(group, FactorGroup):
        assert isinstance(group, DensePrior)
        white = group.whitened(values, slots)[0]
        squares, dim = float(white.square().sum()), len(white)
        return FactorCost(kind, 1, dim, 0.5 * squares, squares / dim if dim else 0.0, 0)
    white = group.whitened(values, slots)
    live = torch.ones(white.shape[:2], dtype=torch.bool) if group.live is None else group.live
    s = white.square().sum(-1).where(live, 0.0)
    count, dim = int(live.sum()), int(live.sum()) * white.shape[-1]
    rho, down = s, 0
    if group.loss is not None and count:
        rho = group.loss.rho(s)
        down = int(((group.loss.weight(s) < DOWNWEIGHTED) & live).sum())
    mean = float(s.sum()) / dim if dim else 0.0
    return FactorCost(kind, count, dim, 0.5 * float(rho.sum()), mean, down)


_AXES: Mapping[int, tuple[str, ...]] = {
    2: ("x", "y"),
    3: ("x", "y", "yaw"),
    6: ("x", "y", "z", "roll", "pitch", "yaw"),
}


def direction(values: Values, index: int, newest: int) -> str:
    """A tangent entry in words: ``object@t-0.400s yaw``, ``map.landmark 7 z``.

    States are named by their age against ``newest`` [ns].
    """
    for block in values.layout():
        if index >= block.stop:
            continue
        slot, axis = divmod(index - block.offset, block.tangent_dim)
        key = int(values.ids[block.name][slot])
        names = _AXES.get(block.tangent_dim, tuple(map(str, range(block.tangent_dim))))
        track, _, kind = block.name.partition(".")
        if kind in ("", "velocity"):
            name = f"v{names[axis]}" if kind else names[axis]
            return f"{track}@t-{(newest - key) * 1e-9:.3f}s {name}"
        return f"{block.name} {key} {names[axis]}"
    raise IndexError(f"tangent index {index} is beyond the window")
