"""Derivatives of a solution with respect to everything that shaped the problem.

At a minimum g(x*, θ) = 0, so dL/dθ = −uᵀ ∂g/∂θ with H u = ∂L/∂x*: one step x* ⊞ (−H⁻¹ g) whose
value is zero and whose derivative is exact, H held fixed. H here is the *Hessian* JᵀWJ + Σ rₖ∇²rₖ,
applied by double backward and solved by conjugate gradients that the cached Gauss–Newton factor
preconditions; where H is indefinite (strongly robust losses, large residuals) by MINRES.
Gauss–Newton alone is cheaper and biased unless residuals vanish (Theseus, §3.2, uses it).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor

from dnls_ros.diff.adjoint import Minimizer, stepped, without_graph
from dnls_ros.errors import DnlsError, DnlsWarning
from dnls_ros.linear import Factorization
from dnls_ros.linear.krylov import Operator, Stop, iterate, minres
from dnls_ros.optim import Solution
from dnls_ros.problem import Problem, Values, requires_grad

ATTAINABLE = 1e-6
"""Relative residual that is good enough where rounding admits no better one."""


@dataclass(frozen=True)
class Implicit:
    """The implicit function theorem at the solution: memory does not grow with iterations.

    Initial values get no gradient, and neither do batch elements whose cost is not finite. Where
    kernels give the derivative (on the CPU, see `dnls_ros.optim.slopes`), it has no graph itself:
    differentiating it again is a `DnlsError`.

    Attributes:
        hessian: ``"exact"`` by Hessian-vector products, or ``"gauss_newton"``: cheaper, with a
            bias that grows with the residual.
        tolerance: Relative residual ‖v − Hu‖/‖v‖ that the exact adjoint must reach.
        iterations: Limit for each of conjugate gradients and MINRES.
        warn_beyond: Distance from the minimum, √(gᵀH⁻¹g) in standard deviations, from which on a
            `DnlsWarning` says that the derivative is not that of a minimum.
        checked: Look at the numbers to warn and to raise errors; None: on the CPU only, since the
            host would have to wait for another device. Unchecked, there is no warning, and an
            element without information has derivatives of NaN where it would be an error. With
            ``"gauss_newton"`` nothing then waits from problem to gradient; ``"exact"`` waits
            once per iteration of its adjoint, to see whether all elements have converged.
    """

    hessian: Literal["exact", "gauss_newton"] = "exact"
    tolerance: float = 1e-10
    iterations: int = 200
    warn_beyond: float = 1e-2
    checked: bool | None = None

    def __call__(self, problem: Problem, initial: Values, minimizer: Minimizer) -> Solution:
        """Minimizes without a graph, then attaches the implicit derivative."""
        found = without_graph(problem, initial, minimizer, "Implicit")
        if not (torch.is_grad_enabled() and requires_grad(problem)):
            return found
        checked = found.cost.device.type == "cpu" if self.checked is None else self.checked
        return stepped(found, partial(self._step, checked=checked), asked=checked, stays=True)

    def _step(self, found: Solution, which: Tensor, checked: bool) -> Tensor:
        """A step (B, n) of zero that carries the derivative."""
        assembly = found.assembly
        with torch.no_grad():
            here = assembly.normal_equations(found.values)
        gradient = assembly.gradient(found.values, here.gradient)
        factor = assembly.symbolic(found.linear).factorize(here.hessian)
        adjoint = _Adjoint(self, found, factor, None if checked else which)
        if checked:
            adjoint.warn_away_from_optimum(gradient.detach(), which)
        return cast(Tensor, _NewtonStep.apply(gradient, adjoint))


@dataclass(frozen=True, eq=False)
class _Adjoint:
    """Solves H u = v at a solution, with its Gauss–Newton factor at hand.

    Attributes:
        policy: How.
        found: The solution.
        factor: Of its Gauss–Newton Hessian.
        unchecked: None, or (B,) the elements of a finite cost, of which nothing is asked.
    """

    policy: Implicit
    found: Solution
    factor: Factorization
    unchecked: Tensor | None = None

    def warn_away_from_optimum(self, gradient: Tensor, good: Tensor) -> None:
        """Says so if a Newton step would still move the solution by more than rounding of it.

        Args:
            gradient: (B', n) of the elements that are left.
            good: (B,) which those are.
        """
        step = self.factor.solve(gradient)
        distance = (gradient * step).sum(1).clamp(min=0).sqrt()
        far = distance > self.policy.warn_beyond
        if bool(far.any()):
            which = good.nonzero().flatten()[far].tolist()
            worst = int(distance.where(far, 0.0).argmax())
            warnings.warn(
                f"implicit differentiation away from a minimum: batch elements {which[:5]} end "
                f"with gradients up to ‖g‖ = {float(gradient[worst].norm()):.3g}, "
                f"{float(distance[worst]):.3g} standard deviations from it "
                f"({self.found.status[worst].value}); their derivatives are off by about that "
                "much: solve to tighter tolerances, or use Unroll()",
                DnlsWarning,
                stacklevel=6,
            )

    def solve(self, v: Tensor) -> Tensor:
        """u (B, n).

        Raises:
            DnlsError: The Gauss–Newton Hessian is singular, or no iteration reached the tolerance.
        """
        factor = self.factor
        singular = ~factor.ok & (v != 0).any(1)  # v = 0: nobody asks for that element's gradient
        if self.unchecked is not None:
            lost = (singular & self.unchecked)[:, None]
            return self._solved(
                v.masked_fill(~(self.unchecked & factor.ok)[:, None], 0.0)
            ).masked_fill(lost, torch.nan)
        if bool(singular.any()):
            bad = singular.nonzero().flatten()[:3].tolist()
            free = "; ".join(str(d) for d in self.found.unobservable(bad[0])[:3])
            raise DnlsError(
                "implicit differentiation needs a regular problem; the Gauss–Newton Hessian of "
                f"batch elements {bad} is singular at the solution: no information on "
                f"{free or 'a direction that is lost in rounding'}; anchor the free directions "
                "with a prior"
            )
        return self._solved(v)

    def _solved(self, v: Tensor) -> Tensor:
        factor = self.factor

        def gauss_newton(vector: Tensor) -> Tensor:
            return factor.solve(vector).masked_fill(~factor.ok[:, None], 0.0)

        return gauss_newton(v) if self.policy.hessian != "exact" else self._exact(v, gauss_newton)

    def _exact(self, v: Tensor, gauss_newton: Operator) -> Tensor:
        multiply = self.found.assembly.curvature(self.found.values)
        stop = Stop(self.policy.tolerance, self.policy.iterations)
        first = iterate(multiply, gauss_newton, v, None, stop)
        if bool(first.converged.all()):
            return first.x
        start = _better(multiply, v, torch.zeros_like(v), first.x)
        last = minres(multiply, gauss_newton, v, start, stop.tolerance, stop.iterations)
        u = _better(multiply, v, start, last)
        left = float(_relative(v - multiply(u), v).max())
        if left <= ATTAINABLE:
            return u
        raise DnlsError(
            f"the adjoint system could not be solved to {self.policy.tolerance:g}: MINRES ends "
            f"with a relative residual of {left:.3g}; the Hessian may be singular here (not a "
            "minimum?): solve to tighter tolerances, or use Implicit('gauss_newton')"
        )


def _relative(residual: Tensor, v: Tensor) -> Tensor:
    """‖r‖/‖v‖ per batch element, 0 where v = 0; infinite where r is not finite."""
    norm = v.norm(dim=1)
    ratio = residual.norm(dim=1) / torch.where(norm > 0, norm, torch.ones_like(norm))
    return torch.where(ratio.isfinite(), ratio, torch.full_like(ratio, torch.inf))


def _better(multiply: Operator, v: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Per batch element the one with the smaller residual."""
    improved = _relative(v - multiply(new), v) < _relative(v - multiply(old), v)
    return torch.where(improved[:, None], new, old)


class _NewtonStep(torch.autograd.Function):
    """The step −H⁻¹ g at a minimum: zero in value, −H⁻¹ as its derivative."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, adjoint: _Adjoint) -> Tensor:
        ctx.adjoint = adjoint
        return torch.zeros_like(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.adjoint.solve(grads[0]), None
