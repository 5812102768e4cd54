"""What a policy of differentiation is, and what all of them need.

A policy gets a problem whose tensors may require gradients, and a `Minimizer` that knows how to
solve it; it hands back the solution with values that carry derivatives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsWarning
from dnls_ros.linear import LinearSolver
from dnls_ros.optim import Callback, Method, OnDevice, Solution, Tolerances, minimize
from dnls_ros.problem import FactorGroup, Group, Problem, Values, requires_grad, zero_step


@dataclass(frozen=True, eq=False)
class Minimizer:
    """How a problem is minimized: the arguments of `minimize` but for problem and start.

    Attributes:
        method: How steps are found and judged.
        linear: Solves the linear systems.
        tolerances: When to stop.
        callback: Sees every iteration.
        loop: For a device that the host does not wait for, see `minimize`.
    """

    method: Method[Any]
    linear: LinearSolver
    tolerances: Tolerances
    callback: Callback | None = None
    loop: OnDevice | None = None

    def __call__(
        self, problem: Problem, initial: Values, differentiable: bool = False
    ) -> Solution:
        """Minimizes; ``differentiable``: while recording."""
        return minimize(
            problem,
            initial,
            self.method,
            self.linear,
            self.tolerances,
            differentiable=differentiable,
            callback=self.callback,
            loop=self.loop,
        )

    @property
    def learned(self) -> bool:
        """Whether a setting of the method, such as its first damping, requires a gradient."""
        settings: Any = self.method
        of_method = (getattr(settings, field.name) for field in fields(settings))
        return any(isinstance(s, Tensor) and s.requires_grad for s in of_method)


class Adjoint(Protocol):
    """How a solution is made differentiable."""

    def __call__(self, problem: Problem, initial: Values, minimizer: Minimizer) -> Solution:
        """Solves; the values of the result carry gradients."""
        ...


def without_graph(problem: Problem, initial: Values, minimizer: Minimizer, who: str) -> Solution:
    """The minimization from detached initial values, with a warning if those wanted gradients."""
    if torch.is_grad_enabled() and requires_grad(initial):
        warnings.warn(
            f"initial values require gradients, but {who} gives them none: at a minimum the "
            "solution does not depend on where it was started from; use Unroll(), or detach them",
            DnlsWarning,
            stacklevel=4,
        )
    return minimizer(problem, initial.detach())


def stepped(
    found: Solution,
    step: Callable[[Solution, Tensor], Tensor],
    asked: bool = True,
    stays: bool = False,
) -> Solution:
    """The solution after a step that carries the derivatives of those elements that have any.

    Elements whose cost is not finite are left out: what their NaN would do to tensors that all
    elements share, it does not do.

    Args:
        found: Without derivatives.
        step: Makes the step (B', n) of the other elements' solution, told which (B,) they are.
        asked: Whether the host may ask which those are. Otherwise they are all elements, and the
            factors of those without a finite cost are masked; their steps must be zero.
        stays: The steps are zero and carry derivatives only.
    """
    good = found.cost.isfinite()
    if not asked:
        return attached(found, step(masked(found, good), good), stays)
    part = found if bool(good.all()) else elements(found, good)
    steps = zero_step(found.values).index_put((good,), step(part, good))
    return attached(found, steps, stays)


def elements(found: Solution, keep: Tensor) -> Solution:
    """The solution for some batch elements."""
    problem = pytree.tree_map(
        lambda t: t[keep] if len(t) == len(keep) else t, found.assembly.problem
    )
    assembly = replace(found.assembly, problem=problem)
    status = tuple(s for s, kept in zip(found.status, keep.tolist(), strict=True) if kept)
    return replace(found.map(lambda t: t[keep]), assembly=assembly, status=status)


def masked(found: Solution, keep: Tensor) -> Solution:
    """The solution of a problem in which the factors of some batch elements do not count.

    Dense priors are kept: they are constants and get no derivatives.
    """
    groups: dict[str, Group] = {}
    for name, group in found.assembly.problem.items():
        if isinstance(group, FactorGroup):
            live = keep[:, None].to(torch.float64).expand(-1, group.count)
            groups[name] = replace(group, mask=live if group.mask is None else live * group.mask)
    problem = found.assembly.problem.replace(**groups)
    return replace(found, assembly=replace(found.assembly, problem=problem))


def attached(found: Solution, steps: Tensor, stays: bool) -> Solution:
    """The solution after steps (B, n) that carry derivatives, with its cost; see `stepped`."""
    values, assembly = found.values.retract(steps), found.assembly
    best = values if found.best is found.values else found.best
    cost = assembly.cost_at_rest(found.values, steps, values) if stays else assembly.cost(values)
    return replace(found, values=values, best=best, cost=cost.where(cost.isfinite(), found.cost))
