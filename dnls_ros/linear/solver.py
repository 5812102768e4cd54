"""What a linear solver is, and the one derivative of A x = b that all of them share.

A solver is three methods. ``analyze`` is done once per sparsity pattern (ordering, symbolic work),
``factorize`` once per linearization and damping, ``solve`` once per right-hand side; a
factorization is reused by marginals and adjoints. All are batched, and one element that is not
positive definite never harms the others: its ``ok`` is false and its rows are NaN. An iterative
solver factorizes its preconditioner only; what it cannot solve to its tolerance is NaN too.

With A symmetric, λ = A⁻¹g and g = ∂f/∂x, implicit differentiation of A x = b gives ∂f/∂b = λ and
∂f/∂A = −λxᵀ. An entry (i, j) of the lower triangle stands for two entries of A when i ≠ j, hence
−(λᵢxⱼ + λⱼxᵢ), and for one on the diagonal, hence −λᵢxᵢ.
"""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.problem.structure import Ints, Pattern


class Factorization(Protocol):
    """A batch of matrices on one pattern, ready to be solved: their Cholesky factors."""

    @property
    def pattern(self) -> Pattern:
        """Of the matrices that were factorized."""
        ...

    @property
    def ok(self) -> Tensor:
        """(B,) bool: the matrix is finite and positive definite."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrices, and of right-hand sides."""
        ...

    @property
    def nnz(self) -> int:
        """Entries stored for the factor of one matrix."""
        ...

    def solve(self, rhs: Tensor) -> Tensor:
        """A⁻¹ rhs for rhs (B, n) or (B, n, k); NaN for elements that are not ok.

        Not recorded by autograd: that is what `solve_with` is for.
        """
        ...

    def diagonal(self) -> Tensor:
        """(B, n) diagonal of the factor L, in the order of the matrix; NaN where not ok.

        An entry is small where a direction is weakly determined.

        Raises:
            DnlsError: The solver is iterative: there is no factor.
        """
        ...


@runtime_checkable
class Inexact(Protocol):
    """A factorization that can do less for a step of an optimizer than for anything else."""

    def step(self, rhs: Tensor) -> Tensor:
        """As `Factorization.solve`, less exactly if its solver says so."""
        ...


@runtime_checkable
class SelectedInverse(Protocol):
    """A factorization that finds entries of A⁻¹ without solving for their columns."""

    def inverse_entries(self, rows: Ints, columns: Ints) -> Tensor | None:
        """Entries (B, k) of A⁻¹; None if they cannot be had this way."""
        ...


class Symbolic(Protocol):
    """All that is known of a matrix before its numbers."""

    @property
    def pattern(self) -> Pattern:
        """What was analyzed."""
        ...

    def factorize(self, values: Tensor) -> Factorization:
        """Factorizes matrices given by their lower triangles (B, nnz).

        Never raises for what the numbers are: see `Factorization.ok`.
        """
        ...


class LinearSolver(Protocol):
    """A way to solve symmetric positive definite systems.

    Solvers are hashable values, so that symbolic analyses can be kept by solver.
    """

    @property
    def name(self) -> str:
        """For reports."""
        ...

    def analyze(self, pattern: Pattern) -> Symbolic:
        """Does all that depends on the pattern only."""
        ...


def solve(symbolic: Symbolic, values: Tensor, rhs: Tensor) -> Tensor:
    """x = A⁻¹ rhs, differentiable (also twice) in both arguments.

    Args:
        symbolic: Of A's pattern, by any solver.
        values: (B, nnz) lower triangle of A.
        rhs: (B, n) or (B, n, k).

    Returns:
        x like rhs. The rows of an element that is not positive definite are NaN; where they are
        masked out, so that their incoming gradient is zero, they pass on a gradient of zero.
    """
    return solve_with(symbolic.factorize(values), values, rhs)


def solve_with(factorization: Factorization, values: Tensor, rhs: Tensor) -> Tensor:
    """As `solve`, with a factorization of these very ``values`` that is there already."""
    return cast(Tensor, _Solve.apply(values, rhs, factorization))


def solve_step(symbolic: Symbolic, values: Tensor, rhs: Tensor) -> Tensor:
    """As `solve`, for a step that an optimizer will judge.

    A solver with inexact steps may stop early, but not where autograd records: the derivative of
    `solve` is that of an exact solution.
    """
    if torch.is_grad_enabled() and (values.requires_grad or rhs.requires_grad):
        return solve(symbolic, values, rhs)
    return step_of(symbolic.factorize(values), rhs)


def step_of(factorization: Factorization, rhs: Tensor) -> Tensor:
    """Its inexact solution if it has one, else its solution."""
    return (factorization.step if isinstance(factorization, Inexact) else factorization.solve)(rhs)


class _Solve(torch.autograd.Function):
    """The derivative of every solver; the module's docstring derives it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rhs: Tensor, factorization: Factorization) -> Tensor:
        x = factorization.solve(rhs)
        ctx.factorization = factorization
        ctx.save_for_backward(values, x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None]:
        values, x = ctx.saved_tensors
        gradient, factorization = grads[0], cast(Factorization, ctx.factorization)
        adjoint = cast(Tensor, _Solve.apply(values, gradient, factorization))
        # Where there is no solution and nobody asks for it, the derivative is zero.
        unasked = ~(x.isfinite().all(1, keepdim=True) | (gradient != 0).any(1, keepdim=True))
        adjoint = adjoint.masked_fill(unasked, 0.0)
        if not ctx.needs_input_grad[0]:
            return None, adjoint, None
        x = x.masked_fill(unasked, 0.0)
        return _on_pattern(adjoint, x, factorization.pattern), adjoint, None


def _on_pattern(adjoint: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """−(λxᵀ + xλᵀ) on the lower triangle, halved on the diagonal; (B, nnz)."""
    rows, columns = (pattern.index(name, x.device) for name in ("rows", "columns"))
    weight = torch.where(rows == columns, -0.5, -1.0).to(x.dtype)
    product = adjoint.index_select(1, rows) * x.index_select(1, columns)
    product = product + adjoint.index_select(1, columns) * x.index_select(1, rows)
    return weight * (product if x.ndim == 2 else product.sum(2))


def as_columns(rhs: Tensor) -> Tensor:
    """(B, n, k) of (B, n) or (B, n, k), not recorded by autograd."""
    return rhs.detach() if rhs.ndim == 3 else rhs.detach()[:, :, None]


def check_values(values: Tensor, pattern: Pattern) -> None:
    """Raises a `DnlsError` unless ``values`` are floating-point numbers of shape (B, nnz)."""
    if values.ndim != 2 or values.shape[1] != pattern.nnz or not values.is_floating_point():
        raise DnlsError(
            f"a matrix on this pattern has values of shape (B, {pattern.nnz}), its lower triangle "
            f"in floating point; got shape {tuple(values.shape)}, {values.dtype}"
        )


def check_rhs(rhs: Tensor, like: Tensor, n: int) -> None:
    """Raises a `DnlsError` unless ``rhs`` can be solved for.

    Args:
        rhs: Shall be (B, n) or (B, n, k).
        like: (B, …) with the batch, type and device that are expected.
        n: Order of the matrix.
    """
    if rhs.ndim not in (2, 3) or rhs.shape[:2] != (len(like), n):
        raise DnlsError(
            f"right-hand sides of these {len(like)} matrices of order {n} have shape "
            f"({len(like)}, {n}) or ({len(like)}, {n}, k), got {tuple(rhs.shape)}"
        )
    if (rhs.dtype, rhs.device) != (like.dtype, like.device):
        raise DnlsError(
            f"the right-hand side is {rhs.dtype} on {rhs.device}, the factorized matrix "
            f"{like.dtype} on {like.device}; convert one of them"
        )
