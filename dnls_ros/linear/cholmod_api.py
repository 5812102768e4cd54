"""scikit-sparse's two interfaces to CHOLMOD, 0.4 and 0.5, behind one.

Version 0.5 renamed everything and reports differently: 0.4 factorizes small matrices as L D Lᵀ and
accepts negative pivots, 0.5 makes L Lᵀ and raises; 0.5 refuses to solve, or warns, by its estimate
of the condition. Here both give a factor, or None for a matrix that is not positive definite, and
solve without a word. The library is imported when it is first asked for.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dnls_ros.errors import UnavailableError

Floats = NDArray[np.float64]


class Factor(Protocol):
    """A positive definite factor P A Pᵀ = L Lᵀ of one matrix."""

    def solve(self, rhs: Floats) -> Floats:
        """A⁻¹ rhs, (n,) or (n, k)."""
        ...

    def diagonal(self) -> Floats:
        """(n,) diagonal of L, in the order of A's rows."""
        ...

    def nnz(self) -> int:
        """Entries of L."""
        ...


class Analysis(Protocol):
    """The symbolic factorization of a pattern."""

    def factorize(self, matrix: Any) -> Factor | None:
        """Of a matrix on that pattern, given as to `analyze`; None if not positive definite."""
        ...


def analyze(matrix: Any, ordering: str) -> Analysis:
    """Finds a fill-reducing ordering and the pattern of the factor.

    Args:
        matrix: Lower triangle, a ``csc_matrix`` of float64 with int32 indices; only its pattern
            matters here.
        ordering: CHOLMOD's name of the method.

    Raises:
        UnavailableError: scikit-sparse is not installed or cannot be loaded.
    """
    cholmod = load()
    if hasattr(cholmod, "CholeskyFactor"):
        return _Analysis5(cholmod, cholmod.CholeskyFactor(matrix, lower=True, order=ordering))
    return _Analysis4(cholmod, cholmod.analyze(matrix, mode="auto", ordering_method=ordering))


def load() -> Any:
    """The module ``sksparse.cholmod``.

    Raises:
        UnavailableError: It is not installed or cannot be loaded.
    """
    try:
        import sksparse.cholmod as cholmod
    except ImportError as cause:
        raise UnavailableError(
            "sparse Cholesky on the CPU needs scikit-sparse, which cannot be imported "
            f"({cause}); install it (`pip install scikit-sparse`, which needs a C compiler and "
            "libsuitesparse-dev), or use the dense solver"
        ) from cause
    return cholmod


@dataclass(frozen=True, eq=False)
class _Analysis4:
    cholmod: Any
    symbolic: Any

    def factorize(self, matrix: Any) -> Factor | None:
        try:
            factor = self.symbolic.cholesky(matrix)
        except self.cholmod.CholmodNotPositiveDefiniteError:
            return None
        pivots = factor.D()
        # L D Lᵀ exists for most indefinite matrices too. Comparisons with NaN are false.
        return _Factor4(factor, pivots) if pivots.min() > 0 and pivots.max() < np.inf else None


@dataclass(frozen=True, eq=False)
class _Factor4:
    factor: Any
    pivots: Floats

    def solve(self, rhs: Floats) -> Floats:
        return self.factor.solve_A(rhs)

    def diagonal(self) -> Floats:
        return _by_row(np.sqrt(self.pivots), self.factor.P())

    def nnz(self) -> int:
        return int(self.factor.copy().L().nnz)  # L() would convert the factor in place


@dataclass(frozen=True, eq=False)
class _Analysis5:
    cholmod: Any
    symbolic: Any

    def factorize(self, matrix: Any) -> Factor | None:
        try:
            factor = self.symbolic.copy().factorize(matrix, ldl=False)
        except self.cholmod.CholmodNotPositiveDefiniteError:
            return None
        return (
            _Factor5(factor, self.cholmod) if factor.rcond > 0 else None
        )  # 0 or NaN: L is not finite


@dataclass(frozen=True, eq=False)
class _Factor5:
    factor: Any
    cholmod: Any

    def solve(self, rhs: Floats) -> Floats:
        if self.factor.rcond > 2 * self.factor.N * np.finfo(np.float64).eps:
            return self.factor.solve(rhs)
        with (
            warnings.catch_warnings()
        ):  # ill-conditioned: the optimizer's gain ratio judges the step
            warnings.simplefilter("ignore", self.cholmod.CholmodWarning)
            return self.factor.solve(rhs)

    def diagonal(self) -> Floats:
        return _by_row(self.factor.factor.diagonal(), self.factor.perm)

    def nnz(self) -> int:
        return int(self.factor.factor.nnz)


def _by_row(permuted: Floats, permutation: NDArray[np.int32]) -> Floats:
    out = np.empty_like(permuted)
    out[permutation] = permuted
    return out
