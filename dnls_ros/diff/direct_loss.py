"""Derivatives from two more minimizations: direct loss minimization.

With v = ∂L/∂x* the minimum of S(x) + ‖εδ − ½v‖², δ = x ⊟ x*, lies at x* ⊞ (εH⁻¹v + O(ε²)), H being
the exact Hessian, so that differences of ∂S/∂θ give −dL/dθ. Nothing but minimizations and first
derivatives is needed. The quadratic is recentred at x* and lives in its tangent; the difference
between +v and −v leaves a bias of O(ε²), a one-sided one O(ε).

McAllester, Hazan and Keshet, *Direct loss minimization for structured prediction*, NeurIPS 2010;
Theseus, §3.2, in the form above but one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.costs.pose import log_jacobian
from dnls_ros.diff.adjoint import Minimizer, stepped, without_graph
from dnls_ros.errors import DnlsError
from dnls_ros.lie import Element, local
from dnls_ros.optim import Solution
from dnls_ros.problem import (
    FactorGroup,
    Isotropic,
    Problem,
    Values,
    Variables,
    cost,
    requires_grad,
    zero_step,
)

ACCURATE = 1e-9
"""Gradient of a perturbed minimum, relative to what perturbs it."""


@dataclass(frozen=True)
class DirectLoss:
    """Finite differences of ∂S/∂θ between minima that are pulled along the loss's gradient.

    Memory does not grow with iterations. Initial values get no gradient, and neither do batch
    elements whose cost is not finite; there are no second derivatives.

    Attributes:
        epsilon: ε: the minimum moves by about ε H⁻¹ ∂L/∂x*.
        central: Difference between pulls to both sides, bias O(ε²); else O(ε), at half the cost.
    """

    epsilon: float = 1e-2
    central: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise DnlsError(f"DirectLoss needs a positive epsilon, got {self.epsilon}")

    def __call__(self, problem: Problem, initial: Values, minimizer: Minimizer) -> Solution:
        """Minimizes without a graph; the backward pass minimizes again."""
        found = without_graph(problem, initial, minimizer, "DirectLoss")
        if not (torch.is_grad_enabled() and requires_grad(problem)):
            return found
        return stepped(found, lambda part, _: self._step(part, minimizer))

    def _step(self, found: Solution, minimizer: Minimizer) -> Tensor:
        """A step (B, n) of zero that carries the derivative."""
        leaves, spec = pytree.tree_flatten(found.assembly.problem)

        def rebuilt(tensors: tuple[Tensor, ...]) -> Problem:
            return pytree.tree_unflatten(list(tensors), spec)

        pulls = _Pulls(self, minimizer, found.values, rebuilt)
        return cast(Tensor, _DirectStep.apply(pulls, zero_step(found.values), *leaves))


@dataclass(frozen=True, eq=False)
class _Pulls:
    """What the backward pass needs: how to minimize, where, and what."""

    policy: DirectLoss
    minimizer: Minimizer
    point: Values
    rebuilt: Callable[[tuple[Tensor, ...]], Problem]

    def minimum(self, problem: Problem, v: Tensor) -> Values:
        """The minimum of S(x) + ‖εδ − ½v‖²."""
        size = v.abs().amax(1)
        finest = float(size[size > 0].amin()) * self.policy.epsilon * ACCURATE
        stop = replace(self.minimizer.tolerances, cost=0.0, step=1e-14, gradient=finest)
        pulled = problem.replace(**self._pull(v))
        return replace(self.minimizer, tolerances=stop, callback=None)(pulled, self.point).values

    def _pull(self, v: Tensor) -> dict[str, FactorGroup]:
        epsilon = self.policy.epsilon
        groups: dict[str, FactorGroup] = {}
        for block in self.point.layout():
            x: Any = self.point[block.name]
            every = Variables(block.name, type(x))[self.point.ids[block.name]]
            target = block.of(v) / (2 * epsilon)
            # ½‖(δ − v/2ε)/σ‖² with this σ is ‖εδ − ½v‖².
            noise = Isotropic(1 / (math.sqrt(2) * epsilon))
            groups[f"pull of {block.name}"] = _displacement(every, x, target, noise=noise)
        return groups


@cost(batched=True)
def _displacement(x: Element, point: Element, target: Tensor) -> Tensor:
    """How far x ⊟ point is from a target in the tangent."""
    return local(point, x) - target


@_displacement.jacobians
def _displacement_jacobians(x: Element, point: Element, target: Tensor) -> tuple[Tensor]:
    return (log_jacobian(x, local(point, x)),)


class _DirectStep(torch.autograd.Function):
    """A step of zero, whose derivative in the problem's leaves is that of the minimum."""

    @staticmethod
    def forward(ctx: Any, pulls: _Pulls, zero: Tensor, *leaves: Tensor) -> Tensor:
        ctx.pulls, ctx.needed = pulls, [leaf.requires_grad for leaf in leaves]
        ctx.save_for_backward(*leaves)
        return zero.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise DnlsError("DirectLoss has no second derivatives; use Unroll() or Truncated()")
        v, pulls = grads[0], cast(_Pulls, ctx.pulls)
        if not bool((v != 0).any()):
            return (None, None, *(None for _ in ctx.needed))
        leaves = tuple(
            leaf.detach().requires_grad_(needed)
            for leaf, needed in zip(ctx.saved_tensors, ctx.needed, strict=True)
        )
        constants = pulls.rebuilt(tuple(leaf.detach() for leaf in leaves))
        ahead = pulls.minimum(constants, v)
        central = pulls.policy.central
        behind = pulls.minimum(constants, -v) if central else pulls.point
        width = (2 if central else 1) * pulls.policy.epsilon
        with torch.enable_grad():
            problem = pulls.rebuilt(leaves)
            change = (problem.objective(behind) - problem.objective(ahead)).sum() / width
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            slopes = iter(torch.autograd.grad(change, wanted, allow_unused=True))
        return (None, None, *(next(slopes) if needed else None for needed in ctx.needed))
