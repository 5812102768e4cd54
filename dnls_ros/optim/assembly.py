"""Assembly: a problem's numbers put where the linear solver wants them.

The seam between *what* is minimized and *how fast*: everything above asks an `Assembly` for normal
equations and costs and knows nothing of groups. Today every group takes the torch tier
(`problem.normal`): any cost, any device, differentiable. A kernel tier plugs in here, per group,
without a word changed above or below.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.linear import LinearSolver, Symbolic
from dnls_ros.problem import NormalEquations, Problem, Structure, Values, cost_of, normal_equations


@dataclass(frozen=True, eq=False)
class Assembly:
    """A problem over a fixed structure.

    Attributes:
        problem: The factor groups.
        structure: Of this problem over the values it will be asked about.
        first_estimates: Variables whose Jacobians are always taken at these points; None: where
            asked.
    """

    problem: Problem
    structure: Structure
    first_estimates: Values | None = None

    def normal_equations(self, values: Values) -> NormalEquations:
        """H, g and the cost at ``values``."""
        if self.first_estimates is None:
            return normal_equations(self.problem, values, self.structure)
        point = values.overwrite(self.first_estimates)
        return normal_equations(
            self.problem, values, self.structure, dict.fromkeys(self.problem, point)
        )

    def cost(self, values: Values) -> Tensor:
        """S(x), (B,)."""
        return cost_of(self.problem, values, self.structure)

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
        """The solver's symbolic analysis of this structure, made once and kept with it."""
        known = self.structure.symbolic
        if solver not in known:
            known[solver] = solver.analyze(self.structure.pattern)
        return known[solver]  # pyright: ignore[reportReturnType]  # the cache holds what analyze returned


def _repeated(leaf: Tensor, batch: int, count: int) -> Tensor:
    """(B|1, …) → (B · count, …), each element ``count`` times in a row."""
    return leaf.expand(batch, *leaf.shape[1:]).repeat_interleave(count, 0)
