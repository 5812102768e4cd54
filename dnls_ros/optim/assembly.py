"""Assembly: a problem's numbers put where the linear solver wants them.

The seam between *what* is minimized and *how fast*: everything above asks an `Assembly` for normal
equations and costs and knows nothing of groups. Each group takes one of two tiers. Kernels
(`dnls_ros.kernels`) linearize the costs that windows and pose graphs are made of, in float64 on
the CPU, where nothing is recorded for autograd; torch (`problem.normal`) takes any cost on any
device and is the reference. Both add into the same numbers, so a problem may have groups of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils import _pytree as pytree

from dnls_ros.linear import LinearSolver, Symbolic
from dnls_ros.linear.block_cholesky import in_threads
from dnls_ros.optim.program import Compiled, compiled, flat_state, part_of, plan
from dnls_ros.optim.recipes import Recipe
from dnls_ros.optim.slopes import Slopes
from dnls_ros.problem import (
    DensePrior,
    FactorGroup,
    NormalEquations,
    Problem,
    Structure,
    Values,
    cost_of,
    normal_equations,
)
from dnls_ros.problem.variables import storage


@dataclass(frozen=True, eq=False)
class Assembly:
    """A problem over a fixed structure.

    Attributes:
        problem: The factor groups.
        structure: Of this problem over the values it will be asked about.
        first_estimates: Variables whose Jacobians are always taken at these points; None: where
            asked.
        kernels: Whether kernels may be used.
    """

    problem: Problem
    structure: Structure
    first_estimates: Values | None = None
    kernels: bool = True

    def normal_equations(self, values: Values) -> NormalEquations:
        """H, g and the cost at ``values``."""
        if self.first_estimates is not None:
            point = values.overwrite(self.first_estimates)
            return normal_equations(
                self.problem, values, self.structure, dict.fromkeys(self.problem, point)
            )
        own = self.compiled(values)
        if own is None:
            return normal_equations(self.problem, values, self.structure)
        mine = self._by_kernels(own, values)
        rest = self._rest(own)
        if not rest:
            return mine
        other = normal_equations(rest, values, self.structure.part(self.problem, tuple(rest)))
        costs = {**mine.group_costs, **other.group_costs}
        return NormalEquations(
            mine.hessian + other.hessian,
            mine.gradient + other.gradient,
            mine.cost + other.cost,
            {name: costs[name] for name in self.problem},
        )

    def of_some(self, values: Values, chosen: Mapping[str, Tensor]) -> NormalEquations | None:
        """H and g of some factors only, on the pattern of all; None unless all go by kernels.

        Args:
            values: Where.
            chosen: Group → (M,) bool, which of its factors; of a `DensePrior` anything.
        """
        own = None if self.first_estimates is not None else self.compiled(values)
        groups = [self.problem[name] for name in chosen]
        masked = any(isinstance(g, FactorGroup) and g.mask is not None for g in groups)
        if own is None or masked or not set(chosen) <= set(own.names):
            return None
        return self._by_kernels(part_of(own, chosen), values)

    def cost(self, values: Values) -> Tensor:
        """S(x), (B,)."""
        own = self.compiled(values)
        if own is None:
            return cost_of(self.problem, values, self.structure)
        rest = self._rest(own)
        mine = self._costs_by_kernels(own, values)
        return mine + cost_of(rest, values, self.structure) if rest else mine

    def gradient(self, values: Values, at: Tensor) -> Tensor:
        """∂S(x ⊞ δ)/∂δ (B, n), differentiable in every leaf of the problem.

        Args:
            values: x, constants.
            at: What it is, of `normal_equations`.
        """
        slopes = self.slopes(values)
        if slopes is None:
            return self.problem.gradient(values, self.structure)
        found = slopes.gradient(values, at)
        constant = self.compiled(values)
        derived = (*slopes.own.names, *(() if constant is None else constant.names))
        rest = Problem({n: g for n, g in self.problem.items() if n not in derived})
        if not rest:
            return found
        other = rest.gradient(values, self.structure, recorded=True)
        return found + (other - other.detach())

    def cost_at_rest(self, values: Values, steps: Tensor, moved: Values) -> Tensor:
        """S(x ⊞ δ), (B,), differentiable in δ = 0 and in every leaf of the problem.

        Args:
            values: x, constants.
            steps: δ.
            moved: x ⊞ δ.
        """
        slopes = self.slopes(values)
        if slopes is None:
            return self.cost(moved)
        mine = slopes.cost(values, self._costs_by_kernels(slopes.own, values), steps)
        rest = self._rest(slopes.own)
        return mine + cost_of(rest, moved, self.structure) if rest else mine

    def curvature(self, values: Values) -> Callable[[Tensor], Tensor]:
        """U ↦ H u, both (B, n), with the exact Hessian of S(x ⊞ δ) in δ."""
        slopes = self.slopes(values)
        if slopes is None:
            return self.problem.curvature(values, self.structure)
        rest = self._rest(slopes.own)
        if not rest:
            return partial(slopes.product, values)
        other = rest.curvature(values, self.structure)
        return lambda u: slopes.product(values, u) + other(u)

    def slopes(self, values: Values) -> Slopes | None:
        """What kernels differentiate of the problem; None if they differentiate nothing."""
        if not self.kernels or self.first_estimates is not None:
            return None
        recording = torch.is_grad_enabled()
        if recording not in self._kept_slopes:
            found = Slopes.of(self.problem, self.structure, values)
            self._kept_slopes[recording] = found
        return self._kept_slopes[recording]

    def compiled(self, values: Values) -> Compiled | None:
        """What kernels take of the problem; None if they take nothing of it here."""
        leaves = [storage(element) for element in values.values()]
        recording = torch.is_grad_enabled()
        if not self.kernels or (recording and any(leaf.requires_grad for leaf in leaves)):
            return None
        if any(is_functorch_wrapped_tensor(leaf) for leaf in leaves):
            return None
        # A group that autograd records now may be one that it did not record before.
        if recording not in self._kept:
            planned = plan(self.problem, self.structure, values)
            some = any(not isinstance(found, str) for found in planned.values())
            made = compiled(self.problem, self.structure, values, planned) if some else None
            self._kept[recording] = made
        return self._kept[recording]

    def explain(self, values: Values) -> dict[str, str]:
        """For each group which tier linearizes it, and why if it is torch."""
        if not self.kernels:
            return dict.fromkeys(self.problem, "torch: kernels are switched off")
        if self.first_estimates is not None:
            return dict.fromkeys(self.problem, "torch: Jacobians are taken at first estimates")
        planned = plan(self.problem, self.structure, values)
        return {
            name: "kernel" if isinstance(found, Recipe | DensePrior) else f"torch: {found}"
            for name, found in planned.items()
        }

    @cached_property
    def _kept(self) -> dict[bool, Compiled | None]:
        """By whether autograd records."""
        return {}

    @cached_property
    def _kept_slopes(self) -> dict[bool, Slopes | None]:
        """By whether autograd records."""
        return {}

    def spent(self, linearizing: float, factorizing: float) -> None:
        """Told by a minimization in compiled code how long it took [s]; for subclasses."""

    def _rest(self, own: Compiled) -> Problem:
        return Problem({n: g for n, g in self.problem.items() if n not in own.names})

    def _batch(self, values: Values) -> int:
        return max(values.batch, *(group.batch for group in self.problem.values()))

    def _by_kernels(self, own: Compiled, values: Values) -> NormalEquations:
        from dnls_ros.kernels.program import linearize_each

        state, batch = flat_state(values), self._batch(values)
        hessian = np.empty((batch, self.structure.pattern.nnz))
        gradient = np.empty((batch, self.structure.n))
        costs = np.empty((batch, len(own.names)))
        in_threads(
            batch,
            lambda first, last: linearize_each(
                own.program, state, first, last, own.room, hessian, gradient, costs
            ),
        )
        return NormalEquations(
            torch.from_numpy(hessian),
            torch.from_numpy(gradient),
            torch.from_numpy(costs.sum(1)),
            _by_name(own, costs),
        )

    def _costs_by_kernels(self, own: Compiled, values: Values) -> Tensor:
        from dnls_ros.kernels.program import cost_each

        state, batch = flat_state(values), self._batch(values)
        costs = np.empty((batch, len(own.names)))
        in_threads(
            batch,
            lambda first, last: cost_each(own.program, state, first, last, own.room, costs),
        )
        return torch.from_numpy(costs.sum(1))

    def costs(self, values: Values, steps: Tensor) -> Tensor:
        """S(x ⊞ δ) of K steps for each batch element, all at once, (B, K).

        Args:
            values: x, (B, N, …).
            steps: δ, (B, K, n).
        """
        batch, count, n = steps.shape
        moved = values.map(lambda t: _repeated(t, batch, count)).retract(steps.reshape(-1, n))
        problem = pytree.tree_map(
            lambda t: _repeated(t, batch, count) if len(t) > 1 else t, self.problem
        )
        return cost_of(problem, moved, self.structure).view(batch, count)

    def symbolic(self, solver: LinearSolver) -> Symbolic:
        """The solver's symbolic analysis of this pattern, made once and kept with it."""
        known = self.structure.pattern.analyses
        if solver not in known:
            known[solver] = solver.analyze(self.structure.pattern)
        return known[solver]  # pyright: ignore[reportReturnType]  # the cache holds what analyze returned


def _repeated(leaf: Tensor, batch: int, count: int) -> Tensor:
    """(B|1, …) → (B · count, …), each element ``count`` times in a row."""
    return leaf.expand(batch, *leaf.shape[1:]).repeat_interleave(count, 0)


def _by_name(own: Compiled, costs: np.ndarray) -> Mapping[str, Tensor]:
    return {name: torch.from_numpy(costs[:, k]) for k, name in enumerate(own.names)}
