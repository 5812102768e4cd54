"""Minimizations that run in compiled code from the first linearization to the last step.

`minimize` comes here by itself if all it was given is known to kernels: every group, the method
(`LevenbergMarquardt` with any of its rules, `GaussNewton`), and `BlockCholesky`. The elements of a
batch are taken by as many threads as torch has; each is minimized by itself, so that the result
does not depend on their number.
"""

from __future__ import annotations

import math
import time
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from dnls_ros.linear import LinearSolver
from dnls_ros.linear.block_cholesky import BlockSymbolic, in_threads
from dnls_ros.optim.assembly import Assembly
from dnls_ros.optim.damping import Fixed, GainRatio, Geometric
from dnls_ros.optim.gauss_newton import GaussNewton
from dnls_ros.optim.levenberg_marquardt import (
    LEAST,
    LEAST_OF_FIRST,
    NEXT_TO_NOTHING,
    LevenbergMarquardt,
)
from dnls_ros.optim.method import per_element
from dnls_ros.optim.program import flat_state, with_state
from dnls_ros.optim.solution import Solution
from dnls_ros.optim.status import CODES, STATUSES, Status, Tolerances
from dnls_ros.problem import Values


def minimize_native(
    assembly: Assembly, initial: Values, method: Any, linear: LinearSolver, stop: Tolerances
) -> Solution | None:
    """The solution, or None if something is not known to kernels.

    Args:
        assembly: The problem over its structure.
        initial: (B, N, …), with the batch axis of the problem.
        method: Any method.
        linear: Any solver.
        stop: When to stop; a time budget begins now.
    """
    if not isinstance(method, LevenbergMarquardt | GaussNewton) or not _known_rule(method):
        return None
    if assembly.first_estimates is not None:
        return None
    symbolic = Assembly.symbolic(assembly, linear)  # as it is, not wrapped by a subclass
    if not isinstance(symbolic, BlockSymbolic):
        return None
    own = assembly.compiled(initial)
    if own is None or len(own.names) < len(assembly.problem):
        return None
    return _run(assembly, initial, method, linear, symbolic, stop)


def _run(
    assembly: Assembly,
    initial: Values,
    method: LevenbergMarquardt | GaussNewton,
    linear: LinearSolver,
    symbolic: BlockSymbolic,
    stop: Tolerances,
) -> Solution:
    from dnls_ros.kernels.layout import Blocks, Found
    from dnls_ros.kernels.minimize import minimize_each

    own, s = assembly.compiled(initial), symbolic.structure
    assert own is not None
    state = flat_state(initial)
    batch = len(state)
    found = Found(
        state.copy(),
        np.empty_like(state),
        np.empty((batch, symbolic.pattern.nnz)),
        np.zeros((batch, 8)),
        np.zeros((batch, 3), np.int64),
    )
    left = s.left_start, s.left_column, s.left_block
    ends = s.place, s.entry, s.ones, symbolic.pattern.diagonal
    blocks = Blocks(s.start, s.rows, *left, *ends)
    settings, damping = settings_of(method, stop), first_damping(method, batch)
    in_threads(
        batch,
        lambda first, last: minimize_each(
            s.unit,
            own.program,
            blocks,
            settings,
            status_codes(),
            damping,
            first,
            last,
            own.room,
            found,
        ),
    )
    assembly.spent(*found.numbers[:, 6:].sum(0).tolist())
    return _solution(assembly, initial, linear, found)


def _solution(assembly: Assembly, initial: Values, linear: LinearSolver, found: Any) -> Solution:
    numbers, counts = torch.from_numpy(found.numbers), torch.from_numpy(found.counts)
    values = with_state(initial, found.x)
    uphill = bool((found.numbers[:, 1] < found.numbers[:, 0]).any())
    return Solution(
        values=values,
        best=with_state(initial, found.best) if uphill else values,
        status=tuple(STATUSES[code] for code in found.counts[:, 0].tolist()),
        cost=numbers[:, 0],
        best_cost=numbers[:, 1],
        initial_cost=numbers[:, 2],
        iterations=counts[:, 1],
        accepted=counts[:, 2],
        damping=numbers[:, 3],
        largest_gradient=numbers[:, 4],
        largest_step=numbers[:, 5],
        hessian=torch.from_numpy(found.hessian),
        assembly=assembly,
        linear=linear,
    )


@lru_cache(maxsize=1)
def status_codes() -> Any:
    """The numbers of the statuses, for kernels."""
    from dnls_ros.kernels.layout import Codes

    return Codes(
        *(
            CODES[status]
            for status in (
                Status.RUNNING,
                Status.CONVERGED_COST,
                Status.CONVERGED_MODEL,
                Status.CONVERGED_STEP,
                Status.CONVERGED_GRADIENT,
                Status.MAX_ITERATIONS,
                Status.DEADLINE,
                Status.DAMPING_LIMIT,
                Status.SINGULAR,
                Status.STEP_NOT_FINITE,
                Status.NOT_FINITE,
            )
        )
    )


def settings_of(method: LevenbergMarquardt | GaussNewton, stop: Tolerances) -> Any:
    """How to minimize, for kernels; a time budget begins now."""
    from dnls_ros.kernels import layout as native

    newton = isinstance(method, GaussNewton)
    lm = LevenbergMarquardt() if newton else method  # Gauss–Newton looks at none of it
    rule, ratio = native.FIXED, 1.0
    if isinstance(method, GaussNewton):
        rule, ratio = native.GAUSS_NEWTON, float(method.step_size)
    elif isinstance(method.rule, Geometric):
        rule, ratio = native.GEOMETRIC, float(method.rule.ratio)
    elif isinstance(method.rule, GainRatio):
        rule = native.GAIN_RATIO
    assert isinstance(lm, LevenbergMarquardt)
    return native.Settings(
        rule=rule,
        ratio=ratio,
        largest=float(lm.largest),
        smallest=float(lm.smallest),
        minimal_gain=float(lm.minimal_gain),
        scaled=lm.scaled,
        floor_first=lm.floor == "first",
        relative=lm.relative and not newton,
        near=NEXT_TO_NOTHING,
        least=LEAST,
        least_of_first=LEAST_OF_FIRST,
        cost=float(stop.cost),
        step=float(stop.step),
        gradient=float(stop.gradient),
        iterations=stop.iterations,
        deadline=math.inf if stop.seconds is None else time.monotonic() + stop.seconds,
        ends_linearized=True,
    )


def first_damping(method: LevenbergMarquardt | GaussNewton, batch: int) -> np.ndarray:
    """(B,) where the damping starts."""
    if isinstance(method, GaussNewton):
        return np.zeros(batch)
    like = torch.zeros(batch, dtype=torch.float64)
    return per_element(method.initial, like, "LevenbergMarquardt: initial").detach().numpy().copy()


def _known_rule(method: LevenbergMarquardt | GaussNewton) -> bool:
    """Whether kernels know how the method's damping follows its steps."""
    return isinstance(method, GaussNewton) or isinstance(
        method.rule, Geometric | GainRatio | Fixed
    )
