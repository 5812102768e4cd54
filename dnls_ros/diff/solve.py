"""The front door: minimize, and be differentiable in everything that shaped the problem."""

from __future__ import annotations

from typing import Any

from dnls_ros.diff.adjoint import Adjoint, Minimizer
from dnls_ros.diff.implicit import Implicit
from dnls_ros.linear import LinearSolver
from dnls_ros.optim import (
    Callback,
    LevenbergMarquardt,
    Method,
    OnDevice,
    Solution,
    Tolerances,
)
from dnls_ros.problem import Problem, Values


def solve(
    problem: Problem,
    initial: Values,
    method: Method[Any] | None = None,
    *,
    linear: LinearSolver,
    adjoint: Adjoint | None = None,
    tolerances: Tolerances | None = None,
    callback: Callback | None = None,
    loop: OnDevice | None = None,
) -> Solution:
    """Minimizes ½Σρ(‖L r(x)‖²); the result is differentiable in the problem's tensors.

    Args:
        problem: The factor groups.
        initial: Starting values (B, N, …).
        method: Levenberg–Marquardt if not given.
        linear: Solves the linear systems, e.g. ``Cholmod()`` or ``Dense()``.
        adjoint: `Implicit` with the exact Hessian if not given.
        tolerances: When to stop; tight ones make implicit derivatives exact.
        callback: Sees every iteration and may stop, see `minimize`.
        loop: For a device that the host does not wait for, see `minimize`.

    Raises:
        DnlsError: A variable without factors, a reference to an unknown variable, or mismatching
            batches.
    """
    minimizer = Minimizer(
        method or LevenbergMarquardt(), linear, tolerances or Tolerances(), callback, loop
    )
    return (adjoint or Implicit())(problem, initial, minimizer)
