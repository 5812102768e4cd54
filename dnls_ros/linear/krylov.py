"""Batched Krylov solvers for H u = v with H given by its products.

Conjugate gradients for positive definite H (Hestenes, Stiefel 1952), MINRES (Paige, Saunders 1975)
also for indefinite H, which an objective stopped early can have. Both run all batch elements side
by side: one that has converged keeps its value, so a batch gives what single solves give.

The residual that conjugate gradients carry along drifts from v − H u. Before it is believed to be
small it is computed anew, and where it is not small they start again from there. Ceres and DeepLM
(Huang, Huang, Sun, CVPR 2021) replace it every 10 iterations; that is possible too but costs
conjugacy, and on ill-conditioned chains up to three quarters more iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stop:
    """When conjugate gradients end.

    Attributes:
        tolerance: Of the residual relative to v, in the Euclidean norm and in the
            preconditioner's, which no change of units affects; at least one unit of rounding.
        iterations: Limit.
        refresh: The residual is replaced by the true one every so many iterations; 0 = only
            where it seems small.
        model: Ends also where i (Qᵢ − Qᵢ₋₁) / Qᵢ falls below it, Q = ½uᵀHu − uᵀv: more iterations
            would hardly lower the quadratic model (Nash, Sofer: Assessing a Search Direction
            within a Truncated-Newton Method, 1990). 0 = not looked at.
    """

    tolerance: float
    iterations: int
    refresh: int = 0
    model: float = 0.0


@dataclass(frozen=True, eq=False)
class Iterated:
    """Where conjugate gradients ended; but for ``x`` all are (B, 1) or (B, 1, k).

    Attributes:
        x: (B, n) or (B, n, k).
        converged: The tolerance was reached, or as much of it as rounding admits, or the test of
            the quadratic model was met.
        indefinite: A direction of no or negative curvature was met.
        iterations: Products with H that moved x.
    """

    x: Tensor
    converged: Tensor
    indefinite: Tensor
    iterations: Tensor


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


def _safe(x: Tensor) -> Tensor:
    """x without zeros, to divide by; callers mask what came of them."""
    return torch.where(x == 0, torch.ones_like(x), x)


def iterate(
    multiply: Operator,
    precondition: Operator,
    v: Tensor,
    start: Tensor | None,
    stop: Stop,
    rounding: Operator | None = None,
) -> Iterated:
    """Preconditioned conjugate gradients, and how they ended.

    An element whose H turns out indefinite keeps its last iterate.

    Args:
        multiply: H, symmetric positive definite.
        precondition: M⁻¹, an approximate inverse, symmetric positive definite.
        v: (B, n) or (B, n, k) right-hand sides.
        start: Like ``v``; zero if not given.
        stop: When to end.
        rounding: For x the size (B, 1) or (B, 1, k) of what rounding alone leaves of the residual,
            in the norm of M⁻¹: a residual that small counts as converged.
    """
    run = _Run(multiply, precondition, v, start, stop)
    for count in range(1, stop.iterations + 1):
        if not bool(run.live.any()):
            break
        run.advance(count, rounding)
    return Iterated(run.x, run.converged, run.indefinite, run.iterations)


class _Run:
    """What conjugate gradients change, side by side for all right-hand sides."""

    def __init__(
        self,
        multiply: Operator,
        precondition: Operator,
        v: Tensor,
        start: Tensor | None,
        stop: Stop,
    ) -> None:
        self.multiply, self.precondition, self.v, self.stop = multiply, precondition, v, stop
        self.x = torch.zeros_like(v) if start is None else start
        self.residual = v if start is None else v - multiply(start)
        self.z = precondition(self.residual)
        self.rho = _dot(self.residual, self.z)
        whitened = self.rho if start is None else _dot(v, precondition(v))
        tolerance = max(stop.tolerance, torch.finfo(v.dtype).eps)
        self.goal, self.white_goal = (tolerance**2 * s for s in (_dot(v, v), whitened))
        self.direction = self.z
        self.q = torch.zeros_like(self.rho)
        self.converged = self._small()
        self.live = ~self.converged
        self.indefinite = torch.zeros_like(self.live)
        self.iterations = torch.zeros_like(self.live, dtype=torch.int64)

    def advance(self, count: int, rounding: Operator | None) -> None:
        """One iteration of all that are live; what is computed for the others is dropped."""
        product = self.multiply(self.direction)
        curvature = _dot(self.direction, product)
        self.indefinite = self.indefinite | self.live & (curvature <= 0)
        self.live = self.live & (curvature > 0)  # NaN ends too, as neither
        self.iterations = self.iterations + self.live
        alpha, old = self.rho / curvature, self.rho
        self.x = torch.where(self.live, self.x + alpha * self.direction, self.x)
        refresh = self.stop.refresh > 0 and count % self.stop.refresh == 0
        self._look(self.v - self.multiply(self.x) if refresh else self.residual - alpha * product)
        direction = self.z + self.rho / old * self.direction
        if bool((self.live & (self.rho <= self.white_goal)).any()):
            direction = self._verify(direction, rounding)
        if self.stop.model > 0:
            self._end(self._settled(count))
        self.direction = direction

    def _verify(self, direction: Tensor, rounding: Operator | None) -> Tensor:
        """Ends what is small with its true residual too; the rest of it starts again."""
        small = self.live & self._small()
        if not bool(small.any()):
            return direction
        self._look(torch.where(small, self.v - self.multiply(self.x), self.residual))
        enough = self._small()
        if rounding is not None:
            enough = enough | (self.rho <= rounding(self.x).square())
        self._end(small & enough)
        return torch.where(small, self.z, direction)

    def _look(self, residual: Tensor) -> None:
        self.residual = torch.where(self.live, residual, self.residual)
        self.z = self.precondition(self.residual)
        self.rho = _dot(self.residual, self.z)

    def _small(self) -> Tensor:
        squared = _dot(self.residual, self.residual)
        return (squared <= self.goal) & (self.rho <= self.white_goal) & squared.isfinite()

    def _settled(self, count: int) -> Tensor:
        """By the quadratic model, Q = −½xᵀ(v + r)."""
        before, self.q = self.q, -0.5 * _dot(self.x, self.v + self.residual)
        return count * (self.q - before) / self.q < self.stop.model

    def _end(self, done: Tensor) -> None:
        self.converged = self.converged | self.live & done
        self.live = self.live & ~done


def minres(
    multiply: Operator,
    precondition: Operator,
    v: Tensor,
    u: Tensor,
    tolerance: float,
    iterations: int,
) -> Tensor:
    """Preconditioned MINRES for a symmetric H that may be indefinite.

    Args:
        multiply: H.
        precondition: An approximate inverse, symmetric positive definite.
        v: (B, n) right-hand sides.
        u: (B, n) start.
        tolerance: Relative residual to reach.
        iterations: Limit.
    """
    start = u
    right = v - multiply(u)
    old, current = torch.zeros_like(v), right
    y = precondition(right)
    beta = _dot(right, y).clamp(min=0).sqrt()
    goal = tolerance * _dot(v, precondition(v)).clamp(min=0).sqrt()
    beta_old = torch.ones_like(beta)
    rotation = (-torch.ones_like(beta), torch.zeros_like(beta))
    delta_bar, epsilon, phi = torch.zeros_like(beta), torch.zeros_like(beta), beta
    w_old, w, step = torch.zeros_like(v), torch.zeros_like(v), torch.zeros_like(v)
    live = beta > 0
    for k in range(iterations):
        # Lanczos
        basis = y / _safe(beta)
        product = multiply(basis)
        if k:
            product = product - beta / _safe(beta_old) * old
        alpha = _dot(basis, product)
        product = product - alpha / _safe(beta) * current
        old, current = current, product
        y = precondition(current)
        beta_old, beta = beta, _dot(current, y).clamp(min=0).sqrt()
        # Givens rotation of the new column
        cosine, sine = rotation
        epsilon_old = epsilon
        delta = cosine * delta_bar + sine * alpha
        gamma_bar = sine * delta_bar - cosine * alpha
        epsilon, delta_bar = sine * beta, -cosine * beta
        gamma = _safe((gamma_bar.square() + beta.square()).sqrt())
        cosine, sine = gamma_bar / gamma, beta / gamma
        rotation = (cosine, sine)
        tau, phi = cosine * phi, sine * phi
        w_older, w_old = w_old, w
        w = (basis - epsilon_old * w_older - delta * w_old) / gamma
        step = torch.where(live, step + tau * w, step)
        live = live & (phi.abs() > goal) & (beta > 0)
        if not bool(live.any()):
            break
    return start + step
