"""Graduated non-convexity: a bounded loss is reached from a convex one, so the start matters less.

Yang, Antonante, Tzoumas and Carlone, *Graduated non-convexity for robust spatial perception*, RA-L
2020: ρ_μ(s) = μR² s/(μR² + s), which is Geman–McClure with the radius √μ R. With a large μ it is
nearly least squares; μ shrinks to 1 and each minimum is the next one's start.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear import LinearSolver
from dnls_ros.optim.assembly import Assembly
from dnls_ros.optim.method import Method
from dnls_ros.optim.minimize import minimize, with_full_batch
from dnls_ros.optim.solution import Solution
from dnls_ros.optim.status import Tolerances
from dnls_ros.problem import FactorGroup, GemanMcClure, Problem, Values


def minimize_graduated(
    problem: Problem,
    initial: Values,
    method: Method[Any],
    linear: LinearSolver,
    tolerances: Tolerances | None = None,
    *,
    factor: float = 1.4,
    stage: Tolerances | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Solution:
    """Minimizes a problem with Geman–McClure losses through a sequence of less convex ones.

    Each batch element begins with its own μ, the power of ``factor`` at or just above 2 max(s)/R²,
    and waits for it: a batch gives what single solves give. Start at or near the minimum without
    losses. Other losses stay as they are.

    Args:
        problem: The factor groups; those with a `GemanMcClure` loss are graduated.
        initial: Starting values (B, N, …).
        method: How steps are found and judged.
        linear: Solves the linear systems.
        tolerances: When to stop the last minimization, μ = 1; its ``seconds`` are for all stages.
        factor: μ is divided by it from stage to stage.
        stage: When to stop the others; by default ten iterations or a decrease below 1e-3.
        clock: Monotonic seconds, read only when there is a time budget.

    Returns:
        The last minimization, of ``problem`` as it is, with the iterations and accepted steps of
        all stages and the cost of ``initial``.

    Raises:
        DnlsError: No group has a Geman–McClure loss, or the factor is not above 1.
    """
    graduated = _graduated(problem, factor)
    stop = tolerances or Tolerances()
    coarse = stage or Tolerances(cost=1e-3, step=1e-4, gradient=stop.gradient, iterations=10)
    deadline = None if stop.seconds is None else clock() + stop.seconds
    values = with_full_batch(problem, initial)
    structure = problem.structure(values)
    with torch.no_grad():
        first = problem.objective(values)
        stages = _stages(graduated, values, factor)
    iterations, accepted = torch.zeros_like(stages), torch.zeros_like(stages)

    def solve(one: Problem, limits: Tolerances) -> Solution:
        known = Assembly(one, structure)
        return minimize(one, values, method, linear, limits, assembly=known, clock=clock)

    for k in range(int(stages.max()), 0, -1):
        limits = _remaining(coarse, deadline, clock)
        if limits.seconds == 0:
            break
        wide = {name: _widened(group, factor**k) for name, group in graduated.items()}
        found, due = solve(problem.replace(**wide), limits), stages >= k
        values = found.values.where(due, values)
        iterations, accepted = iterations + found.iterations * due, accepted + found.accepted * due
    last = solve(problem, _remaining(stop, deadline, clock))
    iterations, accepted = iterations + last.iterations, accepted + last.accepted
    return replace(last, initial_cost=first, iterations=iterations, accepted=accepted)


def _remaining(
    limits: Tolerances, deadline: float | None, clock: Callable[[], float]
) -> Tolerances:
    return limits if deadline is None else replace(limits, seconds=max(0.0, deadline - clock()))


def _graduated(problem: Problem, factor: float) -> dict[str, FactorGroup]:
    found = {
        name: group
        for name, group in problem.items()
        if isinstance(group, FactorGroup) and isinstance(group.loss, GemanMcClure)
    }
    if not factor > 1 or not found:
        what = f"factor must be above 1, got {factor}" if found else "no group has this loss"
        raise DnlsError(f"graduated non-convexity of Geman–McClure losses: {what}")
    return found


def _widened(group: FactorGroup, mu: float) -> FactorGroup:
    loss = cast(GemanMcClure, group.loss)
    return replace(group, loss=GemanMcClure(cast(Tensor, loss.radius) * math.sqrt(mu)))


def _stages(graduated: Mapping[str, FactorGroup], values: Values, factor: float) -> Tensor:
    """(B,) how many times each element's μ is divided by ``factor``; 0 if it is not finite."""
    largest = torch.zeros(values.batch, dtype=torch.float64)
    for group in graduated.values():
        s = group.squared_norm(values)
        ratio = (s / cast(GemanMcClure, group.loss).squared_radius(s)).amax(1)
        largest = torch.maximum(largest, ratio.to(largest).expand_as(largest))
    mu = (2 * largest).where(largest.isfinite(), torch.ones_like(largest)).clamp(min=1)
    return (mu.log() / math.log(factor)).ceil().long()
