"""How far a minimization is: what the loop on the host and the one on a device share.

Every number is one per batch element, and every decision a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dnls_ros.linear import LinearSolver, Symbolic
from dnls_ros.optim.assembly import Assembly
from dnls_ros.optim.method import Model, Outcome, Proposal
from dnls_ros.optim.solution import Solution
from dnls_ros.optim.status import CODES, STATUSES, Status, Tolerances
from dnls_ros.problem import Values


@dataclass
class Progress:
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


def started(initial: Values, model: Model, stop: Tolerances) -> Progress:
    """Before the first iteration."""
    cost = model.normal.cost
    count = torch.zeros(cost.shape, dtype=torch.int64, device=cost.device)
    still = torch.zeros_like(cost)
    progress = Progress(initial, cost, initial, cost, count == 0, count, count, count, still)
    progress.end(~cost.isfinite(), Status.NOT_FINITE)
    progress.end(gradient_small(model, stop), Status.CONVERGED_GRADIENT)
    return progress


def gradient_small(model: Model, stop: Tolerances) -> Tensor:
    """Where no entry of the gradient is above its tolerance."""
    return model.normal.gradient.detach().abs().amax(1) <= stop.gradient


def step_of(proposal: Proposal) -> Tensor:
    """The proposed steps (B, n), zero for elements that have no finite one."""
    good = proposal.ok & proposal.delta.isfinite().all(1)
    return proposal.delta.masked_fill(~good[:, None], 0.0)


def idle(cost: Tensor, proposal: Proposal, stop: Tolerances) -> Tensor:
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


def model_at(assembly: Assembly, values: Values, symbolic: Symbolic) -> Model:
    """The linear model at ``values``."""
    normal, pattern = assembly.normal_equations(values), assembly.structure.pattern
    return Model(normal, pattern, symbolic, partial(assembly.costs, values))


def solution_of(
    progress: Progress,
    first: Tensor,
    damping: Tensor,
    model: Model,
    assembly: Assembly,
    linear: LinearSolver,
) -> Solution:
    """What has come of it; the host waits for the statuses."""
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


def check_step(
    progress: Progress, accept: Tensor, decrease: Tensor, proposal: Proposal, stop: Tolerances
) -> None:
    """Ends elements whose step was accepted and small, or gained little."""
    if stop.cost > 0:
        eps = 16 * torch.finfo(decrease.dtype).eps
        small = decrease.abs() <= max(stop.cost, eps) * (progress.cost + decrease).abs()
        progress.end(accept & small, Status.CONVERGED_COST)
    progress.end(accept & (proposal.delta.abs().amax(1) <= stop.step), Status.CONVERGED_STEP)


def check_exhausted(
    progress: Progress, exhausted: Tensor, accept: Tensor, proposal: Proposal, outcome: Outcome
) -> None:
    """Ends elements whose method cannot go on, or need not."""
    progress.end(exhausted & accept, Status.DONE)
    progress.end(exhausted & ~proposal.ok, Status.SINGULAR)
    progress.end(exhausted & ~outcome.finite, Status.STEP_NOT_FINITE)
    progress.end(exhausted, Status.DAMPING_LIMIT)
