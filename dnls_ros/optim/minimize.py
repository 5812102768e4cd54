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
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.linear import LinearSolver
from dnls_ros.optim.assembly import Assembly
from dnls_ros.optim.history import Callback, Iteration
from dnls_ros.optim.method import Method, Model
from dnls_ros.optim.native import minimize_native
from dnls_ros.optim.on_device import OnDevice, loop_on_device
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
from dnls_ros.problem import Problem, Values

CLOCK = time.monotonic
"""What time budgets are measured by."""


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
    loop: OnDevice | None = None,
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
        loop: `OnDevice`: without questions to the device. Taken by itself where the values are
            on a CUDA device and nobody has to look on: no callback, no time budget, no recording.
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
    watched = differentiable or callback is not None
    away = _away(initial, loop, watched or stop.seconds is not None)
    if loop is None and not watched and (stop.seconds is None or clock is CLOCK):
        with torch.no_grad():  # nothing is to be recorded, whatever requires gradients
            found = minimize_native(known, initial, method, linear, stop)
        if found is not None:
            return found
    if away is not None:
        run = partial(loop_on_device, known, initial, method, linear, stop, away)
    else:
        run = partial(_loop, known, initial, method, linear, stop, callback, clock)
    if differentiable:
        return run()
    with torch.inference_mode():  # a sixth faster than without gradients
        found = run()
    return found.map(Tensor.clone)  # copies may enter autograd again


def _check_kinds(method: Any, linear: Any) -> None:
    for what, given, asked, like in (
        ("method", method, "propose", "LevenbergMarquardt()"),
        ("linear", linear, "analyze", "Dense()"),
    ):
        if isinstance(given, type) or not hasattr(given, asked):
            raise DnlsError(f"{what} is a value such as {like}, got {given!r}")


def _away(initial: Values, asked: OnDevice | None, watched: bool) -> OnDevice | None:
    """The loop on the device, if it is asked for or suits; None: the one on the host."""
    if asked is not None and watched:
        raise DnlsError(
            "OnDevice does not look at single iterations: with a callback, a time budget or "
            "differentiable=True leave loop out"
        )
    on_gpu = pytree.tree_leaves(initial)[0].device.type == "cuda"
    return OnDevice() if asked is None and on_gpu and not watched else asked


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
    progress = started(initial, model, stop)
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
        progress.end(idle(progress.cost, proposal, stop), Status.CONVERGED_MODEL)
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
            check_step(progress, accept, decrease, proposal, stop)
        check_exhausted(progress, method.exhausted(state), accept, proposal, outcome)
        fresh = moved and bool(progress.running.any())
        if fresh:
            model = model_at(assembly, progress.values, symbolic)
            progress.end(gradient_small(model, stop), Status.CONVERGED_GRADIENT)
        _report(callback, k + 1, progress, model, method.damping(state))
    progress.end(progress.running, Status.MAX_ITERATIONS)
    return solution_of(progress, first, method.damping(state), model, assembly, linear)


def _report(
    callback: Callback | None, index: int, progress: Progress, model: Model, damping: Tensor
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


def _move(progress: Progress, accept: Tensor, trial: Values, cost: Tensor) -> None:
    progress.values = trial if bool(accept.all()) else trial.where(accept, progress.values)
    progress.cost = torch.where(accept, cost, progress.cost)
    progress.accepted = progress.accepted + accept
    behind = progress.cost > progress.best_cost
    if bool(behind.any()):
        progress.best = progress.best.where(behind, progress.values)
    else:
        progress.best = progress.values
    progress.best_cost = torch.minimum(progress.cost, progress.best_cost)


def with_full_batch(problem: Problem, initial: Values) -> Values:
    """Values with the batch axis of the problem's data: each element can move by itself."""
    batch = max([initial.batch, *(group.batch for group in problem.values())])
    sizes = {name: _batch_of(element) for name, element in initial.blocks.items()}
    for name, size in sizes.items():
        if size not in (1, batch):
            raise DnlsError(
                f"block '{name}' has batch size {size}, the problem has {batch}; give 1 or {batch}"
            )
    if set(sizes.values()) == {batch}:
        return initial
    return initial.map(lambda t: t.expand(batch, *t.shape[1:]))


def _batch_of(element: Any) -> int:
    return (element if isinstance(element, Tensor) else element.tensor).shape[0]
