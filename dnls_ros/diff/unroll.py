"""Derivatives by backpropagation through iterations: all of them, or the last few.

Both differentiate what the method is made of, too, such as a learned first damping λ. The optimum
itself does not depend on λ: what is learned is how the iterations get there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dnls_ros.diff.adjoint import Minimizer, stepped, without_graph
from dnls_ros.errors import DnlsError
from dnls_ros.optim import Solution
from dnls_ros.optim.progress import model_at, step_of
from dnls_ros.problem import Problem, Values, requires_grad


@dataclass(frozen=True)
class Unroll:
    """Backpropagation through all iterations.

    It also differentiates the initial values; its memory grows with the iterations.
    """

    def __call__(self, problem: Problem, initial: Values, minimizer: Minimizer) -> Solution:
        """Minimizes while recording."""
        return minimizer(problem, initial, differentiable=True)


@dataclass(frozen=True)
class Truncated:
    """Backpropagation through k more iterations from where the minimization ended.

    At a minimum the derivative is short of the exact one by (I − H_GN⁻¹∇²S)ᵏ of it for
    Gauss–Newton steps: k = 1 is `Implicit("gauss_newton")`. Memory grows with k only. Initial
    values get no gradient, and neither do batch elements whose cost is not finite.

    Shaban, Cheng, Hatch and Boots, *Truncated back-propagation for bilevel optimization*, AISTATS
    2019.

    Attributes:
        steps: k.
    """

    steps: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise DnlsError(f"Truncated needs at least one step, got {self.steps}")

    def __call__(self, problem: Problem, initial: Values, minimizer: Minimizer) -> Solution:
        """Minimizes without a graph, then goes on while recording."""
        found = without_graph(problem, initial, minimizer, "Truncated")
        if not (torch.is_grad_enabled() and (requires_grad(problem) or minimizer.learned)):
            return found
        return stepped(found, lambda part, _: self._steps(part, minimizer))

    def _steps(self, found: Solution, minimizer: Minimizer) -> Tensor:
        """The tangent vector (B, n) that k recorded steps lead to."""
        values, method = found.values, minimizer.method.resumed(found.damping)
        symbolic = found.assembly.symbolic(minimizer.linear)
        for _ in range(self.steps):
            model = model_at(found.assembly, values, symbolic)
            proposal, _ = method.propose(method.init(model), model, True)
            values = values.retract(step_of(proposal))
        return found.values.local(values)
