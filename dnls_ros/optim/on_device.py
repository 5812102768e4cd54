"""The optimization loop for a device that the host does not wait for.

It ends like the loop on the host (`minimize`), element by element and number by number. But where
that one looks whether anything was accepted and saves itself a linearization, this one computes
and chooses by masks: every iteration is the same sequence of operations, and the host runs ahead
of the device and asks only now and then whether all elements have ended. What is computed after
that changes nothing. The same sequence can be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.linear import LinearSolver, Symbolic
from dnls_ros.optim.assembly import Assembly
from dnls_ros.optim.carry import chosen
from dnls_ros.optim.cuda_graph import Recordings
from dnls_ros.optim.method import Method, Model
from dnls_ros.optim.progress import (
    Progress,
    check_exhausted,
    check_step,
    gradient_small,
    idle,
    judge,
    model_at,
    solution_of,
    started,
    step_of,
)
from dnls_ros.optim.solution import Solution
from dnls_ros.optim.status import Status, Tolerances
from dnls_ros.problem import NormalEquations, Values


@dataclass(frozen=True)
class OnDevice:
    """Iterations without questions to the device.

    Attributes:
        every: Iterations after which the host asks whether all elements have ended. Asking costs
            what the host was ahead; not asking costs iterations after the end.
        graph: Capture an iteration as a CUDA graph and replay it, so that launching it takes the
            host next to no time. Graphs are kept with the structure and replayed by later calls
            with the same structure, batch, dtype, method, solver and tolerances, whatever the
            numbers. The solver must not ask the device either: `Dense`, `Multifrontal`, or
            `Schur` of one of these.
    """

    every: int = 10
    graph: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise DnlsError(f"OnDevice asks every 1 iterations or more, got every={self.every}")


@dataclass(frozen=True, eq=False)
class Line:
    """The numbers of a linearization: H (B, nnz), g (B, n) and the cost (B,)."""

    hessian: Tensor
    gradient: Tensor
    cost: Tensor


@dataclass(frozen=True, eq=False)
class Carry:
    """All that an iteration changes.

    Attributes:
        progress: Of the elements.
        state: The method's.
        line: The last linearization that counts.
    """

    progress: Progress
    state: Any
    line: Line


@dataclass(frozen=True, eq=False)
class Body:
    """One iteration, as a function that changes nothing but what it returns.

    Attributes:
        method: How steps are found and judged.
        symbolic: Solves the linear systems.
        stop: When to stop.
    """

    method: Method[Any]
    symbolic: Symbolic
    stop: Tolerances

    def start(self, assembly: Assembly, initial: Values) -> Carry:
        """Before the first iteration."""
        model = model_at(assembly, initial, self.symbolic)
        progress = started(initial, model, self.stop)
        return Carry(progress, self.method.init(model), _line(model))

    def model(self, assembly: Assembly, carry: Carry) -> Model:
        """The linear model of the last linearization."""
        line, values = carry.line, carry.progress.values
        normal = NormalEquations(line.hessian, line.gradient, line.cost, {})
        pattern = assembly.structure.pattern
        return Model(normal, pattern, self.symbolic, partial(assembly.costs, values))

    def __call__(self, assembly: Assembly, carry: Carry) -> Carry:
        """The next iteration."""
        progress = replace(carry.progress)
        # Whether the model has changed is not asked: it is taken for a fresh one.
        proposal, state = self.method.propose(carry.state, self.model(assembly, carry), True)
        progress.end(idle(progress.cost, proposal, self.stop), Status.CONVERGED_MODEL)
        alive = progress.running.any()
        step = step_of(proposal).masked_fill(~progress.running[:, None], 0.0)
        trial = progress.values.retract(step)
        trial_cost = assembly.cost(trial)
        decrease = progress.cost - trial_cost
        outcome = judge(progress.cost, decrease, proposal)
        accept, updated = self.method.update(state, proposal, outcome)
        accept = accept & progress.running
        progress.iterations = progress.iterations + progress.running
        _move(progress, accept, trial, trial_cost)
        progress.step = torch.where(accept, proposal.delta.abs().amax(1), progress.step)
        check_step(progress, accept, decrease, proposal, self.stop)
        check_exhausted(progress, self.method.exhausted(updated), accept, proposal, outcome)
        fresh = accept.any() & progress.running.any()
        model = model_at(assembly, progress.values, self.symbolic)
        progress.end(gradient_small(model, self.stop) & fresh, Status.CONVERGED_GRADIENT)
        line = chosen(fresh, _line(model), carry.line)
        return Carry(progress, chosen(alive, updated, state), line)


def _line(model: Model) -> Line:
    normal = model.normal
    return Line(normal.hessian, normal.gradient, normal.cost)


def _move(progress: Progress, accept: Tensor, trial: Values, cost: Tensor) -> None:
    progress.values = trial.where(accept, progress.values)
    progress.cost = torch.where(accept, cost, progress.cost)
    progress.accepted = progress.accepted + accept
    behind = progress.cost > progress.best_cost
    progress.best = progress.best.where(behind, progress.values)
    progress.best_cost = torch.minimum(progress.cost, progress.best_cost)


def loop_on_device(
    assembly: Assembly,
    initial: Values,
    method: Method[Any],
    linear: LinearSolver,
    stop: Tolerances,
    policy: OnDevice,
) -> Solution:
    """The loop; it waits for the device once at its end, and every ``policy.every`` iterations.

    Raises:
        DnlsError: A group cannot be evaluated.
        UnavailableError: A graph is asked for and the values are not on a CUDA device.
    """
    body = Body(method, assembly.symbolic(linear), stop)
    placed = _placed(assembly, initial)
    carry = body.start(placed, initial)
    first = carry.line.cost
    advance: Callable[[Carry], Carry] = partial(body, placed)
    if policy.graph:
        advance = Recordings.of(placed.structure).replayed(body, linear, placed, carry)
    for k in range(stop.iterations):
        if k and k % policy.every == 0 and not bool(carry.progress.running.any()):
            break
        carry = advance(carry)
    progress = replace(carry.progress)
    progress.end(progress.running, Status.MAX_ITERATIONS)
    if not bool((progress.cost > progress.best_cost).any()):
        progress.best = progress.values
    damping = method.damping(carry.state)
    return solution_of(progress, first, damping, body.model(placed, carry), assembly, linear)


def _placed(assembly: Assembly, values: Values) -> Assembly:
    """The same with all tensors of the problem on the values' device, and in torch.

    Noise and losses may be elsewhere, and would be copied there in every iteration.
    """
    device = pytree.tree_leaves(values)[0].device
    problem = pytree.tree_map(lambda t: t.to(device), assembly.problem)
    return replace(assembly, problem=problem, kernels=False)
