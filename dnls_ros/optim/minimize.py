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
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear import LinearSolver, Symbolic
from dnls_ros.optim.assembly import Assembly
from dnls_ros.optim.history import Callback, Iteration
from dnls_ros.optim.method import Method, Model, Outcome, Proposal
from dnls_ros.optim.native import minimize_native
from dnls_ros.optim.solution import Solution
from dnls_ros.optim.status import CODES, STATUSES, Status, Tolerances
from dnls_ros.problem import Problem, Values

CLOCK = time.monotonic
"""What time budgets are measured by."""


@dataclass
class _Progress:
    """What the loop changes: one entry per batch element."""

    values: Values
    cost: Tensor
    best: Values
    best_cost: Tensor
    running: Tensor
    status: Tensor
    iterations: Tensor
    accepted: Tensor
    step: Tensor

    def end(self, mask: Tensor, status: Status) -> None:
        """Ends the running elements of ``mask``."""
        self.status = self.status.masked_fill(self.running & mask, CODES[status])
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
    callback: Callback | None = None,
    clock: Callable[[], float] = CLOCK,
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
        callback: Sees the start and every iteration, and may stop by returning True; a `History`
            keeps them.
        clock: Monotonic seconds, read only when there is a time budget.

    Raises:
        DnlsError: A variable without factors, a reference to an unknown variable, dtypes, devices
            or batches that do not agree, or a group that cannot be evaluated.
    """
    stop = tolerances or Tolerances()
    _check_kinds(method, linear)
    initial = with_full_batch(problem, initial)
    known = assembly or Assembly(problem, problem.structure(initial))
    known.symbolic(linear)
    if not differentiable and callback is None and (stop.seconds is None or clock is CLOCK):
        found = minimize_native(known, initial, method, linear, stop)
        if found is not None:
            return found
    loop = partial(_loop, known, initial, method, linear, stop, callback, clock)
    if differentiable:
        return loop()
    with torch.inference_mode():  # a sixth faster than without gradients
        found = loop()
    return found.map(Tensor.clone)  # copies may enter autograd again


def _check_kinds(method: Any, linear: Any) -> None:
    for what, given, asked, like in (
        ("method", method, "propose", "LevenbergMarquardt()"),
        ("linear", linear, "analyze", "Dense()"),
    ):
        if isinstance(given, type) or not hasattr(given, asked):
            raise DnlsError(f"{what} is a value such as {like}, got {given!r}")


def _loop(
    assembly: Assembly,
    initial: Values,
    method: Method[Any],
    linear: LinearSolver,
    stop: Tolerances,
    callback: Callback | None,
    clock: Callable[[], float],
) -> Solution:
    deadline = None if stop.seconds is None else clock() + stop.seconds
    symbolic = assembly.symbolic(linear)
    model = model_at(assembly, initial, symbolic)
    first = model.normal.cost
    progress = _start(initial, model, stop)
    state = method.init(model)
    _report(callback, 0, progress, model, method.damping(state))
    fresh = True
    for k in range(stop.iterations):
        if not bool(progress.running.any()):
            break
        if deadline is not None and clock() >= deadline:
            progress.end(progress.running, Status.DEADLINE)
            break
        proposal, state = method.propose(state, model, fresh)
        progress.end(_idle(progress.cost, proposal, stop), Status.CONVERGED_MODEL)
        if not bool(progress.running.any()):
            break
        step = step_of(proposal).masked_fill(~progress.running[:, None], 0.0)
        trial = progress.values.retract(step)
        trial_cost = assembly.cost(trial).detach()
        decrease = progress.cost - trial_cost
        outcome = judge(progress.cost, decrease, proposal)
        accept, state = method.update(state, proposal, outcome)
        accept = accept & progress.running
        progress.iterations = progress.iterations + progress.running
        moved = bool(accept.any())
        if moved:
            _move(progress, accept, trial, trial_cost)
            progress.step = torch.where(accept, proposal.delta.abs().amax(1), progress.step)
            _check_step(progress, accept, decrease, proposal, stop)
        _check_exhausted(progress, method.exhausted(state), accept, proposal, outcome)
        fresh = moved and bool(progress.running.any())
        if fresh:
            model = model_at(assembly, progress.values, symbolic)
            progress.end(_gradient_small(model, stop), Status.CONVERGED_GRADIENT)
        _report(callback, k + 1, progress, model, method.damping(state))
    progress.end(progress.running, Status.MAX_ITERATIONS)
    return _solution(progress, first, method.damping(state), model, assembly, linear)


def model_at(assembly: Assembly, values: Values, symbolic: Symbolic) -> Model:
    """The linear model at ``values``."""
    normal, pattern = assembly.normal_equations(values), assembly.structure.pattern
    return Model(normal, pattern, symbolic, partial(assembly.costs, values))


def _solution(
    progress: _Progress,
    first: Tensor,
    damping: Tensor,
    model: Model,
    assembly: Assembly,
    linear: LinearSolver,
) -> Solution:
    recorded = torch.is_grad_enabled()
    return Solution(
        values=progress.values,
        best=progress.best,
        status=tuple(STATUSES[code] for code in progress.status.tolist()),
        cost=assembly.cost(progress.values) if recorded else progress.cost,
        best_cost=progress.best_cost.detach(),
        initial_cost=first,
        iterations=progress.iterations,
        accepted=progress.accepted,
        damping=damping.detach(),
        largest_gradient=model.normal.gradient.detach().abs().amax(1),
        largest_step=progress.step.detach(),
        hessian=model.normal.hessian,
        assembly=assembly,
        linear=linear,
    )


def _report(
    callback: Callback | None, index: int, progress: _Progress, model: Model, damping: Tensor
) -> None:
    if callback is None:
        return
    gradient = model.normal.gradient.detach().abs().amax(1)
    seen = Iteration(
        index,
        progress.values.map(lambda t: t.detach().clone()),
        progress.cost.detach().clone(),
        progress.running.clone(),
        progress.accepted.clone(),
        damping.detach().clone(),
        gradient,
    )
    if callback(seen):
        progress.end(progress.running, Status.STOPPED)


def _start(initial: Values, model: Model, stop: Tolerances) -> _Progress:
    cost = model.normal.cost
    count = torch.zeros(cost.shape, dtype=torch.int64, device=cost.device)
    still = torch.zeros_like(cost)
    progress = _Progress(initial, cost, initial, cost, count == 0, count, count, count, still)
    progress.end(~cost.isfinite(), Status.NOT_FINITE)
    progress.end(_gradient_small(model, stop), Status.CONVERGED_GRADIENT)
    return progress


def _gradient_small(model: Model, stop: Tolerances) -> Tensor:
    return model.normal.gradient.detach().abs().amax(1) <= stop.gradient


def step_of(proposal: Proposal) -> Tensor:
    """The proposed steps (B, n), zero for elements that have no finite one."""
    good = proposal.ok & proposal.delta.isfinite().all(1)
    return proposal.delta.masked_fill(~good[:, None], 0.0)


def _idle(cost: Tensor, proposal: Proposal, stop: Tolerances) -> Tensor:
    """Where the Newton decrement ½gᵀH⁻¹g is below the tolerance (Boyd, Vandenberghe, §9.5.1)."""
    small = proposal.decrease.abs() < stop.cost * cost
    return proposal.ok & proposal.full & small


def judge(cost: Tensor, decrease: Tensor, proposal: Proposal) -> Outcome:
    """The gain ratio, and what cannot be judged by it."""
    finite = proposal.ok & decrease.isfinite() & proposal.delta.isfinite().all(1)
    noise = 16 * torch.finfo(cost.dtype).eps * cost.abs()
    rounding = finite & (torch.maximum(decrease.abs(), proposal.decrease.abs()) <= noise)
    predicted = proposal.decrease.where(proposal.decrease > 0, torch.nan)
    return Outcome((decrease / predicted).detach(), finite, rounding)


def _move(progress: _Progress, accept: Tensor, trial: Values, cost: Tensor) -> None:
    progress.values = trial if bool(accept.all()) else trial.where(accept, progress.values)
    progress.cost = torch.where(accept, cost, progress.cost)
    progress.accepted = progress.accepted + accept
    behind = progress.cost > progress.best_cost
    if bool(behind.any()):
        progress.best = progress.best.where(behind, progress.values)
    else:
        progress.best = progress.values
    progress.best_cost = torch.minimum(progress.cost, progress.best_cost)


def _check_step(
    progress: _Progress, accept: Tensor, decrease: Tensor, proposal: Proposal, stop: Tolerances
) -> None:
    if stop.cost > 0:
        eps = 16 * torch.finfo(decrease.dtype).eps
        small = decrease.abs() <= max(stop.cost, eps) * (progress.cost + decrease).abs()
        progress.end(accept & small, Status.CONVERGED_COST)
    progress.end(accept & (proposal.delta.abs().amax(1) <= stop.step), Status.CONVERGED_STEP)


def _check_exhausted(
    progress: _Progress, exhausted: Tensor, accept: Tensor, proposal: Proposal, outcome: Outcome
) -> None:
    progress.end(exhausted & accept, Status.DONE)
    progress.end(exhausted & ~proposal.ok, Status.SINGULAR)
    progress.end(exhausted & ~outcome.finite, Status.STEP_NOT_FINITE)
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
