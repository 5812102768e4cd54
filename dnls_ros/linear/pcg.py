"""Conjugate gradients as a linear solver: only the blocks of the diagonal are factorized.

Memory is that of the matrix, whatever its fill; time grows with the root of its condition after
scaling by the blocks, so it suits large and well-connected problems, not long chains.

A solve that cannot reach its tolerance has no answer: its rows are NaN, as for a matrix that is
not positive definite, and an optimizer rejects the step and damps more. Steps of an optimizer may
be asked for less (`InexactStep`): gain ratio and acceptance judge them anyway. Derivatives,
marginals and adjoints never are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear.jacobi import BlockJacobi, DiagonalPositions
from dnls_ros.linear.krylov import Iterated, Operator, Stop, iterate
from dnls_ros.linear.product import product_with
from dnls_ros.linear.solver import as_columns, check_rhs, check_values
from dnls_ros.problem.structure import Pattern

ROUNDING = 256.0
"""Units of ‖M x‖ below which a residual is due to rounding; measured are 1 to 120."""


@dataclass(frozen=True)
class InexactStep:
    """When going on would hardly improve a step: the last iterate is taken, converged or not.

    The iterates from zero minimize the quadratic model over growing subspaces, so what a method
    predicts from ½δᵀ(λDδ − g) holds for each of them (Nocedal, Wright, Numerical Optimization,
    §7.1).

    Attributes:
        model: Ends where i (Qᵢ − Qᵢ₋₁) / Qᵢ falls below it (as Ceres, and DeepLM with 1e-3).
        iterations: Limit (DeepLM: 150).
    """

    model: float = 1e-3
    iterations: int = 150

    def __post_init__(self) -> None:
        if not (0 <= self.model < 1 and self.iterations >= 1):
            raise DnlsError(
                "InexactStep needs 0 ≤ model < 1 and at least one iteration, got "
                f"model={self.model}, iterations={self.iterations}"
            )


@dataclass(frozen=True)
class ConjugateGradients:
    """Preconditioned by the blocks of the diagonal (block-Jacobi).

    Attributes:
        tolerance: Of the residual relative to the right-hand side, Euclidean and scaled by the
            blocks; or what rounding admits, if that is more.
        iterations: Limit beyond which a solve has failed; None: ten times the order.
        refresh: The residual is replaced by the true one every so many iterations (Ceres and
            DeepLM: 10); 0 = where it seems small, which takes fewer iterations.
        inexact: Steps of an optimizer that nobody differentiates through end by this instead.
    """

    tolerance: float = 1e-14
    iterations: int | None = None
    refresh: int = 0
    inexact: InexactStep | None = None

    def __post_init__(self) -> None:
        limit = 1 if self.iterations is None else self.iterations
        if not (0 <= self.tolerance < 1 and limit >= 1 and self.refresh >= 0):
            raise DnlsError(
                "ConjugateGradients needs 0 ≤ tolerance < 1 and at least one iteration, got "
                f"tolerance={self.tolerance}, iterations={self.iterations}, "
                f"refresh={self.refresh}"
            )

    @property
    def name(self) -> str:
        """For reports."""
        return f"pcg({self.tolerance:g}{', inexact steps' if self.inexact else ''})"

    def analyze(self, pattern: Pattern) -> ConjugateGradientsSymbolic:
        """Finds the blocks of the diagonal."""
        return ConjugateGradientsSymbolic(pattern, self, DiagonalPositions.of(pattern))

    def exact(self, n: int) -> Stop:
        """When a solve of order ``n`` ends."""
        limit = 10 * n if self.iterations is None else self.iterations
        return Stop(self.tolerance, limit, self.refresh)


@dataclass(frozen=True, eq=False)
class ConjugateGradientsSymbolic:
    """Where the blocks of the diagonal lie."""

    pattern: Pattern
    solver: ConjugateGradients
    diagonal: DiagonalPositions

    def factorize(self, values: Tensor) -> ConjugateGradientsFactorization:
        """Factorizes the blocks of the diagonal of values (B, nnz)."""
        check_values(values, self.pattern)
        values = values.detach()
        jacobi = BlockJacobi.of(self.diagonal.blocks, self.diagonal.matrices(values))
        ok = jacobi.ok & values.isfinite().all(1)
        multiply = product_with(self.pattern, values)
        return ConjugateGradientsFactorization(
            self.pattern, Iteration(self.solver, multiply, jacobi, jacobi, ok)
        )


@dataclass(frozen=True, eq=False)
class Iteration:
    """A batch of operators with their preconditioners: takes right-hand sides (B, n, k).

    Attributes:
        solver: Says when to end.
        multiply: x ↦ A x.
        jacobi: M.
        scale: The blocks of what is summed up in a product: rounding is relative to them.
        ok: (B,) nothing is known yet that speaks against A.
    """

    solver: ConjugateGradients
    multiply: Operator
    jacobi: BlockJacobi
    scale: BlockJacobi
    ok: Tensor

    def solve(self, rhs: Tensor) -> Tensor:
        """A⁻¹ rhs; NaN where the tolerance is not reached."""
        found = self.run(rhs, self.solver.exact(rhs.shape[1]))
        return self._valid(found, found.converged)

    def step(self, rhs: Tensor) -> Tensor:
        """As `solve`, unless inexact steps are wanted."""
        inexact = self.solver.inexact
        if inexact is None:
            return self.solve(rhs)
        stop = Stop(self.solver.tolerance, inexact.iterations, self.solver.refresh, inexact.model)
        found = self.run(rhs, stop)
        return self._valid(found, found.x.isfinite().all(1, keepdim=True))

    def run(self, rhs: Tensor, stop: Stop) -> Iterated:
        """The iteration; elements that are not ok take no part and stay zero."""
        largest = rhs.abs().amax(1, keepdim=True)
        # A power of two: changes no digit, and the squares of any right-hand side are finite.
        scale = torch.where(largest == 0, 1.0, largest / torch.frexp(largest).mantissa)
        b = (rhs / scale).masked_fill(~self.ok[:, None, None], 0.0)
        found = iterate(self.multiply, self.jacobi.solve, b, None, stop, self._rounding)
        return replace(found, x=found.x * scale)

    def _rounding(self, x: Tensor) -> Tensor:
        summed = self.scale.multiply(x)
        norm = (summed * self.jacobi.solve(summed)).sum(1, keepdim=True).sqrt()
        return ROUNDING * torch.finfo(x.dtype).eps * norm

    def _valid(self, found: Iterated, reached: Tensor) -> Tensor:
        """One direction of negative curvature: the matrix has no Cholesky factor either."""
        definite = self.ok & ~found.indefinite.flatten(1).any(1)
        return found.x.masked_fill(~(reached & definite[:, None, None]), torch.nan)


@dataclass(frozen=True, eq=False)
class ConjugateGradientsFactorization:
    """The matrices, and the factors of their diagonal blocks.

    ``ok`` says that all is finite and the blocks are positive definite. That a whole matrix is
    not shows only in a solve: its rows are NaN then.
    """

    pattern: Pattern
    iteration: Iteration

    @property
    def ok(self) -> Tensor:
        """(B,) all is finite, and the blocks of the diagonal are positive definite."""
        return self.iteration.ok

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrices."""
        return self.iteration.jacobi.factors[0].dtype

    @property
    def nnz(self) -> int:
        """Entries of the factors of the diagonal blocks."""
        return self.iteration.jacobi.nnz

    def solve(self, rhs: Tensor) -> Tensor:
        """A⁻¹ rhs for rhs (B, n) or (B, n, k)."""
        return self._through(rhs, self.iteration.solve)

    def step(self, rhs: Tensor) -> Tensor:
        """As `solve`, or inexactly if the solver says so."""
        return self._through(rhs, self.iteration.step)

    def diagonal(self) -> Tensor:
        """Raises a `DnlsError`: there is no factor."""
        raise no_factor(self.iteration.solver.name)

    def _through(self, rhs: Tensor, take: Operator) -> Tensor:
        check_rhs(rhs, self.iteration.jacobi.factors[0], self.pattern.n)
        return take(as_columns(rhs)).view(rhs.shape)


def no_factor(name: str) -> DnlsError:
    """For who asks for the diagonal of a factor where there is none."""
    return DnlsError(
        f"{name} factorizes no whole matrix, so there is no diagonal of a factor; use Dense(), "
        "Cholmod() or Schur(…) where determinants or weak directions are asked for"
    )
