"""Batched Krylov solvers for H u = v with H given by its products: the exact adjoint's fall-backs.

Conjugate gradients for positive definite H, MINRES (Paige & Saunders 1975) also for indefinite H,
which an objective stopped early can have. Both take the Gauss–Newton factor as preconditioner and
run all batch elements side by side: an element that has converged keeps its value.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


def _safe(x: Tensor) -> Tensor:
    """x without zeros, to divide by; callers mask what came of them."""
    return torch.where(x == 0, torch.ones_like(x), x)


def conjugate_gradients(
    multiply: Operator,
    precondition: Operator,
    v: Tensor,
    u: Tensor,
    tolerance: float,
    iterations: int,
) -> Tensor:
    """Preconditioned conjugate gradients from ``u``.

    Args:
        multiply: H, symmetric positive definite.
        precondition: An approximate inverse, symmetric positive definite.
        v: (B, n) right-hand sides.
        u: (B, n) start.
        tolerance: Relative residual to reach.
        iterations: Limit.

    Returns:
        (B, n); an element whose H turned out indefinite keeps its last iterate.
    """
    goal = tolerance * v.norm(dim=1, keepdim=True)
    residual = v - multiply(u)
    z = precondition(residual)
    direction, rho = z, _dot(residual, z)
    for _ in range(iterations):
        product = multiply(direction)
        curvature = _dot(direction, product)
        live = (residual.norm(dim=1, keepdim=True) > goal) & (curvature > 0)
        if not bool(live.any()):
            break
        alpha = torch.where(live, rho / _safe(curvature), torch.zeros_like(rho))
        u = u + alpha * direction
        residual = residual - alpha * product
        z = precondition(residual)
        rho_next = _dot(residual, z)
        direction = z + rho_next / _safe(rho) * direction
        rho = rho_next
    return u


def minres(
    multiply: Operator,
    precondition: Operator,
    v: Tensor,
    u: Tensor,
    tolerance: float,
    iterations: int,
) -> Tensor:
    """Preconditioned MINRES from ``u``, for a symmetric H that may be indefinite.

    Arguments as in `conjugate_gradients`.
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
