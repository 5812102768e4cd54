"""Derivatives of a solution with respect to everything that shaped the problem.

At a minimum g(x*, θ) = 0, so dL/dθ = −uᵀ ∂g/∂θ with H u = ∂L/∂x*: one step x* ⊞ (−H⁻¹ g) whose
value is zero and whose derivative is exact, H held fixed. H here is the *Hessian* JᵀWJ + Σ rₖ∇²rₖ,
applied by double backward and solved by refinement with the cached Gauss–Newton factor, u ← u +
H_GN⁻¹(v − H u); where that stalls or diverges (strongly robust losses, large residuals) by
preconditioned conjugate gradients, then by MINRES. Gauss–Newton alone is cheaper and biased unless
residuals vanish (Theseus, §3.2, uses it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.diff.krylov import Operator, conjugate_gradients, minres
from dnls_ros.errors import DnlsError
from dnls_ros.linear import LinearSolver
from dnls_ros.optim import LevenbergMarquardt, Method, Solution, Tolerances, minimize
from dnls_ros.problem import Problem, Values, requires_grad, zero_step

ATTAINABLE = 1e-6
"""Relative residual that is good enough where rounding admits no better one."""


class Adjoint(Protocol):
    """How a solution is made differentiable."""

    def __call__(
        self,
        problem: Problem,
        initial: Values,
        method: Method[Any],
        linear: LinearSolver,
        stop: Tolerances,
    ) -> Solution:
        """Solves; the values of the result carry gradients."""
        ...


@dataclass(frozen=True)
class Implicit:
    """The implicit function theorem at the solution: memory does not grow with iterations.

    Initial values get no gradient, and neither do batch elements whose cost is not finite.

    Attributes:
        hessian: ``"exact"`` by Hessian-vector products, or ``"gauss_newton"``: cheaper, with a
            bias that grows with the residual.
        tolerance: Relative residual ‖v − Hu‖/‖v‖ that the exact adjoint must reach.
        iterations: Limit for each of refinement, conjugate gradients and MINRES.
    """

    hessian: Literal["exact", "gauss_newton"] = "exact"
    tolerance: float = 1e-10
    iterations: int = 200

    def __call__(
        self,
        problem: Problem,
        initial: Values,
        method: Method[Any],
        linear: LinearSolver,
        stop: Tolerances,
    ) -> Solution:
        """Minimizes without a graph, then attaches the implicit derivative."""
        found = minimize(problem, initial.detach(), method, linear, stop)
        if not requires_grad(problem):
            return found
        alive = found.cost.isfinite()
        part = found if bool(alive.all()) else _elements(found, alive)
        gradient = part.assembly.problem.gradient(part.values)
        step = _NewtonStep.apply(gradient, _Adjoint(self, part))
        assert isinstance(step, Tensor)
        steps = zero_step(found.values).index_put((alive,), step)
        return replace(found, values=found.values.retract(steps))


@dataclass(frozen=True)
class Unroll:
    """Backpropagation through all iterations.

    It also differentiates the initial values; its memory grows with the iterations.
    """

    def __call__(
        self,
        problem: Problem,
        initial: Values,
        method: Method[Any],
        linear: LinearSolver,
        stop: Tolerances,
    ) -> Solution:
        """Minimizes while recording."""
        return minimize(problem, initial, method, linear, stop, differentiable=True)


def solve(
    problem: Problem,
    initial: Values,
    method: Method[Any] | None = None,
    *,
    linear: LinearSolver,
    adjoint: Adjoint | None = None,
    tolerances: Tolerances | None = None,
) -> Solution:
    """Minimizes ½Σρ(‖L r(x)‖²); the result is differentiable in the problem's tensors.

    Args:
        problem: The factor groups.
        initial: Starting values (B, N, …).
        method: Levenberg–Marquardt if not given.
        linear: Solves the linear systems, e.g. ``Cholmod()`` or ``Dense()``.
        adjoint: `Implicit` with the exact Hessian if not given.
        tolerances: When to stop; tight ones make implicit derivatives exact.

    Raises:
        DnlsError: A variable without factors, a reference to an unknown variable, or mismatching
            batches.
    """
    policy = adjoint or Implicit()
    return policy(
        problem, initial, method or LevenbergMarquardt(), linear, tolerances or Tolerances()
    )


def _elements(found: Solution, keep: Tensor) -> Solution:
    """The solution for some batch elements: a NaN of the others would spread to shared tensors."""
    problem = pytree.tree_map(
        lambda t: t[keep] if len(t) == len(keep) else t, found.assembly.problem
    )
    assembly = replace(found.assembly, problem=problem)
    return replace(found.map(lambda t: t[keep]), assembly=assembly)


@dataclass(frozen=True, eq=False)
class _Adjoint:
    """Solves H u = v at a solution."""

    policy: Implicit
    found: Solution

    def solve(self, v: Tensor) -> Tensor:
        """u (B, n).

        Raises:
            DnlsError: The Gauss–Newton Hessian is singular, or no iteration reached the tolerance.
        """
        factor = self.found.factorization()
        singular = ~factor.ok & (v != 0).any(1)  # v = 0: nobody asks for that element's gradient
        if bool(singular.any()):
            bad = singular.nonzero().flatten()[:3].tolist()
            raise DnlsError(
                "implicit differentiation needs a regular problem; the Gauss–Newton Hessian of "
                f"batch elements {bad} is singular at the solution; anchor the free directions "
                "with a prior"
            )

        def gauss_newton(vector: Tensor) -> Tensor:
            return factor.solve(vector).masked_fill(~factor.ok[:, None], 0.0)

        return gauss_newton(v) if self.policy.hessian != "exact" else self._exact(v, gauss_newton)

    def _exact(self, v: Tensor, gauss_newton: Operator) -> Tensor:
        multiply = self._hessian()
        u = torch.zeros_like(v)
        residuals: dict[str, float] = {}
        for name, iterate in (
            ("refinement", refine),
            ("conjugate gradients", conjugate_gradients),
            ("MINRES", minres),
        ):
            trial = iterate(
                multiply, gauss_newton, v, u, self.policy.tolerance, self.policy.iterations
            )
            u = _better(multiply, v, u, trial)
            residuals[name] = float(_relative(v - multiply(u), v).max())
            if residuals[name] <= self.policy.tolerance:
                return u
        if residuals["MINRES"] <= ATTAINABLE:
            return u
        raise DnlsError(
            f"the adjoint system could not be solved to {self.policy.tolerance:g}: relative "
            f"residuals {residuals}; the Hessian may be singular here (not a minimum?): solve to "
            "tighter tolerances, or use Implicit('gauss_newton')"
        )

    def _hessian(self) -> Operator:
        """v ↦ H v by double backward; the graph of g is recorded once."""
        values = self.found.values.detach()
        with torch.enable_grad():
            delta = zero_step(values).requires_grad_()
            problem = _detached(self.found.assembly.problem)
            objective = problem.objective(values.retract(delta)).sum()
            (gradient,) = torch.autograd.grad(objective, delta, create_graph=True)

        def multiply(vector: Tensor) -> Tensor:
            if not gradient.requires_grad:
                return torch.zeros_like(vector)
            (product,) = torch.autograd.grad(gradient, delta, vector, retain_graph=True)
            return product

        return multiply


def _detached(problem: Problem) -> Problem:
    return pytree.tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, problem)


def _relative(residual: Tensor, v: Tensor) -> Tensor:
    """‖r‖/‖v‖ per batch element, 0 where v = 0; infinite where r is not finite."""
    norm = v.norm(dim=1)
    ratio = residual.norm(dim=1) / torch.where(norm > 0, norm, torch.ones_like(norm))
    return torch.where(ratio.isfinite(), ratio, torch.full_like(ratio, torch.inf))


def _better(multiply: Operator, v: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Per batch element the one with the smaller residual."""
    improved = _relative(v - multiply(new), v) < _relative(v - multiply(old), v)
    return torch.where(improved[:, None], new, old)


def refine(
    multiply: Operator,
    precondition: Operator,
    v: Tensor,
    u: Tensor,
    tolerance: float,
    iterations: int,
) -> Tensor:
    """u ← u + H_GN⁻¹(v − H u) until it converges or stops contracting by at least a half."""
    residual = v - multiply(u)
    size = _relative(residual, v)
    for _ in range(iterations):
        if bool((size <= tolerance).all()):
            break
        trial = u + precondition(residual)
        trial_residual = v - multiply(trial)
        trial_size = _relative(trial_residual, v)
        if not bool(((trial_size < 0.5 * size) | (trial_size <= tolerance)).all()):
            return _better(multiply, v, u, trial)
        u, residual, size = trial, trial_residual, trial_size
    return u


class _NewtonStep(torch.autograd.Function):
    """The step −H⁻¹ g at a minimum: zero in value, −H⁻¹ as its derivative."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, adjoint: _Adjoint) -> Tensor:
        ctx.adjoint = adjoint
        return torch.zeros_like(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.adjoint.solve(grads[0]), None
