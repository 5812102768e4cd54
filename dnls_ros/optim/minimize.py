"""The one optimization loop.

Once per call: structure and symbolic analysis. Once per accepted step: linearization. Once per
trial: factorization, retraction, cost. Every batch element has its own damping, acceptance,
convergence and status; one that has ended does not move any more, so a batch gives what single
solves give. A rejected step is never convergence, and a trial that is not finite is a rejected
step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear import Factorization, LinearSolver
from dnls_ros.optim.assembly import Assembly
from dnls_ros.optim.method import Method, Model, Outcome, Proposal
from dnls_ros.problem import Problem, Values


class Status(Enum):
    """How the minimization of one batch element ended."""

    RUNNING = "still running"
    CONVERGED_COST = "converged: an accepted step decreased the cost by less than its tolerance"
    CONVERGED_MODEL = "converged: a full step would decrease the cost by less than its tolerance"
    CONVERGED_STEP = "converged: an accepted step was shorter than its tolerance"
    CONVERGED_GRADIENT = "converged: the gradient is below its tolerance"
    MAX_ITERATIONS = "stopped: the iteration limit was reached"
    DEADLINE = "stopped: the time budget was used up; the best values so far are returned"
    DAMPING_LIMIT = "failed: no step within the damping limit decreases the cost"
    SINGULAR = "failed: the normal equations are singular; some direction has no information"
    STEP_NOT_FINITE = "failed: the last step leads to where the cost is not finite"
    NOT_FINITE = "failed: the cost is not finite at the starting values"

    @property
    def converged(self) -> bool:
        """Whether a tolerance was met."""
        return self in (
            Status.CONVERGED_MODEL,
            Status.CONVERGED_COST,
            Status.CONVERGED_STEP,
            Status.CONVERGED_GRADIENT,
        )


_CODES = {status: code for code, status in enumerate(Status)}
_STATUSES = tuple(Status)


@dataclass(frozen=True)
class Tolerances:
    """When to stop.

    Attributes:
        cost: Relative decrease of the cost by an accepted step; 0 = not looked at.
        step: Largest entry of an accepted step [m, rad].
        gradient: Largest entry of the gradient.
        iterations: Limit on trials, rejected ones included.
        seconds: Wall-clock budget, None = unlimited (and then the result depends on no clock).
    """

    cost: float = 1e-6
    step: float = 1e-7
    gradient: float = 1e-8
    iterations: int = 50
    seconds: float | None = None

    def __post_init__(self) -> None:
        if not (self.cost >= 0 and self.step >= 0 and self.gradient >= 0 and self.iterations >= 0):
            raise DnlsError(f"tolerances must not be negative, got {self}")


@dataclass(frozen=True, eq=False)
class Solution:
    """The result of a minimization.

    Attributes:
        values: After the last accepted step; unless the method goes uphill (Gauss–Newton), the
            best that were found.
        status: One per batch element.
        cost: (B,) final objective.
        initial_cost: (B,).
        iterations: (B,) trials of each element, rejected ones included.
        accepted: (B,) accepted steps.
        damping: (B,) final λ or 1/radius.
        largest_gradient: (B,) largest entry of the gradient at the last linearization.
        largest_step: (B,) largest entry of the last step that was accepted [m, rad]; 0 before one.
        hessian: (B, nnz) of the last linearization: at the values, or before the last step of an
            element that converged by it.
        assembly: The problem over its structure.
        linear: The solver that was used.
    """

    values: Values
    status: tuple[Status, ...]
    cost: Tensor
    initial_cost: Tensor
    iterations: Tensor
    accepted: Tensor
    damping: Tensor
    largest_gradient: Tensor
    largest_step: Tensor
    hessian: Tensor
    assembly: Assembly
    linear: LinearSolver

    def last_factorization(self) -> Factorization:
        """The factor of the last linearization: as good as `factorization` for a covariance.

        It differs by the curvature over the last step and costs no linearization.
        """
        return self.assembly.symbolic(self.linear).factorize(self.hessian)

    def factorization(self) -> Factorization:
        """The Cholesky factor of the undamped H at the solution, for marginals and adjoints."""
        with torch.inference_mode():
            hessian = self.assembly.normal_equations(self.values).hessian
        return self.assembly.symbolic(self.linear).factorize(hessian.clone())

    def map(self, function: Callable[[Tensor], Tensor]) -> Solution:
        """The same solution with ``function`` applied to each of its tensors."""
        return replace(
            self,
            values=self.values.map(function),
            cost=function(self.cost),
            initial_cost=function(self.initial_cost),
            iterations=function(self.iterations),
            accepted=function(self.accepted),
            damping=function(self.damping),
            largest_gradient=function(self.largest_gradient),
            largest_step=function(self.largest_step),
            hessian=function(self.hessian),
        )


@dataclass
class _Progress:
    """What the loop changes: one entry per batch element."""

    values: Values
    cost: Tensor
    running: Tensor
    status: Tensor
    iterations: Tensor
    accepted: Tensor
    step: Tensor

    def end(self, mask: Tensor, status: Status) -> None:
        """Ends the running elements of ``mask``."""
        self.status = self.status.masked_fill(self.running & mask, _CODES[status])
        self.running = self.running & ~mask


def minimize(
    problem: Problem,
    initial: Values,
    method: Method[Any],
    linear: LinearSolver,
    tolerances: Tolerances | None = None,
    *,
    assembly: Assembly | None = None,
    differentiable: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Solution:
    """Minimizes ½Σρ(‖L r(x)‖²) from ``initial``.

    Unless ``differentiable``, costs are evaluated in torch's inference mode: a tensor that a cost
    keeps for later must be made under ``torch.inference_mode(False)``.

    Args:
        problem: The factor groups.
        initial: Starting values (B, N, …).
        method: How steps are found and judged.
        linear: Solves the linear systems.
        tolerances: When to stop.
        assembly: The problem over a structure that is known already (a window's); made here
            otherwise.
        differentiable: Record the iterations for autograd (unrolling).
        clock: Monotonic seconds, read only when there is a time budget.

    Raises:
        DnlsError: A variable without factors, or a reference to an unknown variable.
    """
    stop = tolerances or Tolerances()
    initial = with_full_batch(problem, initial)
    known = assembly or Assembly(problem, problem.structure(initial))
    known.symbolic(linear)
    if differentiable:
        return _loop(known, initial, method, linear, stop, clock)
    with torch.inference_mode():  # a sixth faster than without gradients
        found = _loop(known, initial, method, linear, stop, clock)
    return found.map(Tensor.clone)  # copies may enter autograd again


def _loop(
    assembly: Assembly,
    initial: Values,
    method: Method[Any],
    linear: LinearSolver,
    stop: Tolerances,
    clock: Callable[[], float],
) -> Solution:
    deadline = None if stop.seconds is None else clock() + stop.seconds
    symbolic = assembly.symbolic(linear)
    model = Model(assembly.normal_equations(initial), assembly.structure.pattern, symbolic)
    first = model.normal.cost
    progress = _start(initial, model, stop)
    state = method.init(model)
    fresh = True
    for _ in range(stop.iterations):
        if not bool(progress.running.any()):
            break
        if deadline is not None and clock() >= deadline:
            progress.end(progress.running, Status.DEADLINE)
            break
        proposal, state = method.propose(state, model, fresh)
        progress.end(_idle(progress.cost, proposal, stop), Status.CONVERGED_MODEL)
        if not bool(progress.running.any()):
            break
        trial = progress.values.retract(_masked(proposal, progress.running))
        trial_cost = assembly.cost(trial).detach()
        decrease = progress.cost - trial_cost
        outcome = _judge(progress.cost, decrease, proposal)
        accept, state = method.update(state, proposal, outcome)
        accept = accept & progress.running
        progress.iterations = progress.iterations + progress.running
        moved = bool(accept.any())
        if moved:
            _move(progress, accept, trial, trial_cost)
            progress.step = torch.where(accept, proposal.delta.abs().amax(1), progress.step)
            _check_step(progress, accept, decrease, proposal, stop)
        _check_exhausted(progress, method.exhausted(state), proposal, trial_cost)
        fresh = moved and bool(progress.running.any())
        if fresh:
            model = Model(assembly.normal_equations(progress.values), model.pattern, symbolic)
            progress.end(_gradient_small(model, stop), Status.CONVERGED_GRADIENT)
    progress.end(progress.running, Status.MAX_ITERATIONS)
    return Solution(
        progress.values,
        tuple(_STATUSES[code] for code in progress.status.tolist()),
        assembly.cost(progress.values) if torch.is_grad_enabled() else progress.cost,
        first,
        progress.iterations,
        progress.accepted,
        method.damping(state),
        model.normal.gradient.detach().abs().amax(1),
        progress.step.detach(),
        model.normal.hessian,
        assembly,
        linear,
    )


def _start(initial: Values, model: Model, stop: Tolerances) -> _Progress:
    cost = model.normal.cost
    count = torch.zeros(cost.shape, dtype=torch.int64, device=cost.device)
    still = torch.zeros_like(cost)
    progress = _Progress(initial, cost, count == 0, count, count, count, still)
    progress.end(~cost.isfinite(), Status.NOT_FINITE)
    progress.end(_gradient_small(model, stop), Status.CONVERGED_GRADIENT)
    return progress


def _gradient_small(model: Model, stop: Tolerances) -> Tensor:
    return model.normal.gradient.detach().abs().amax(1) <= stop.gradient


def _masked(proposal: Proposal, running: Tensor) -> Tensor:
    """Zero steps for elements that have ended or were not solvable: theirs may be NaN."""
    return proposal.delta.masked_fill(~(running & proposal.ok)[:, None], 0.0)


def _idle(cost: Tensor, proposal: Proposal, stop: Tolerances) -> Tensor:
    """Where the Newton decrement ½gᵀH⁻¹g is below the tolerance (Boyd, Vandenberghe, §9.5.1)."""
    small = proposal.decrease.abs() < stop.cost * cost
    return proposal.ok & proposal.full & small


def _judge(cost: Tensor, decrease: Tensor, proposal: Proposal) -> Outcome:
    finite = proposal.ok & decrease.isfinite() & proposal.delta.isfinite().all(1)
    noise = 16 * torch.finfo(cost.dtype).eps * cost.abs()
    rounding = finite & (torch.maximum(decrease.abs(), proposal.decrease.abs()) <= noise)
    predicted = proposal.decrease.where(proposal.decrease > 0, torch.nan)
    return Outcome((decrease / predicted).detach(), finite, rounding)


def _move(progress: _Progress, accept: Tensor, trial: Values, cost: Tensor) -> None:
    progress.values = trial if bool(accept.all()) else trial.where(accept, progress.values)
    progress.cost = torch.where(accept, cost, progress.cost)
    progress.accepted = progress.accepted + accept


def _check_step(
    progress: _Progress, accept: Tensor, decrease: Tensor, proposal: Proposal, stop: Tolerances
) -> None:
    if stop.cost > 0:
        eps = 16 * torch.finfo(decrease.dtype).eps
        small = decrease.abs() <= max(stop.cost, eps) * (progress.cost + decrease).abs()
        progress.end(accept & small, Status.CONVERGED_COST)
    progress.end(accept & (proposal.delta.abs().amax(1) <= stop.step), Status.CONVERGED_STEP)


def _check_exhausted(
    progress: _Progress, exhausted: Tensor, proposal: Proposal, trial: Tensor
) -> None:
    progress.end(exhausted & ~proposal.ok, Status.SINGULAR)
    progress.end(exhausted & ~trial.isfinite(), Status.STEP_NOT_FINITE)
    progress.end(exhausted, Status.DAMPING_LIMIT)


def with_full_batch(problem: Problem, initial: Values) -> Values:
    """Values with the batch axis of the problem's data: each element can move by itself."""
    batch = max([initial.batch, *(group.batch for group in problem.values())])
    for name, element in initial.blocks.items():
        size = _batch_of(element)
        if size not in (1, batch):
            raise DnlsError(
                f"block '{name}' has batch size {size}, the problem has {batch}; give 1 or {batch}"
            )
    return initial.map(lambda t: t.expand(batch, *t.shape[1:]))


def _batch_of(element: Any) -> int:
    return (element if isinstance(element, Tensor) else element.tensor).shape[0]
