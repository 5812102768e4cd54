"""The Schur complement that is never formed: conjugate gradients on S x = K x − W(E⁻¹(Wᵀx)).

As `Schur` the landmarks E are eliminated and follow by substitution; the reduced system is solved
by products through K and through the couplings W, so that memory is that of the matrix, also where
every camera shares points with every other and S is full. Its preconditioner, the block diagonal
of S (Schur–Jacobi), is found without the rest of S.

Agarwal, Snavely, Seitz, Szeliski: Bundle Adjustment in the Large, ECCV 2010.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dnls_ros.linear.eliminated import Eliminated, add
from dnls_ros.linear.elimination import DegreeClass, Partition
from dnls_ros.linear.jacobi import BlockJacobi, DiagonalPositions
from dnls_ros.linear.krylov import Operator
from dnls_ros.linear.pcg import ConjugateGradients, Iteration, no_factor
from dnls_ros.linear.product import gram_product, product_with
from dnls_ros.linear.schur import names_of
from dnls_ros.linear.solver import as_columns, check_rhs, check_values
from dnls_ros.problem.structure import Pattern


@dataclass(frozen=True)
class ImplicitSchur:
    """Eliminates blocks, and takes conjugate gradients for the reduced system without forming it.

    Attributes:
        eliminate: Names of blocks, e.g. ``"point"``; no factor may join two of their variables.
        inner: Limits and exactness of the iteration.
        schur_jacobi: Preconditions by the diagonal blocks of S; else by those of K, which are
            there already but ignore what the eliminated variables take away.
    """

    eliminate: str | tuple[str, ...]
    inner: ConjugateGradients = field(default_factory=ConjugateGradients)
    schur_jacobi: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The eliminated blocks."""
        return names_of(self.eliminate)

    @property
    def name(self) -> str:
        """For reports."""
        jacobi = "schur-jacobi" if self.schur_jacobi else "block-jacobi"
        return f"implicit_schur({', '.join(self.names)}; {self.inner.name}, {jacobi})"

    def analyze(self, pattern: Pattern) -> ImplicitSchurSymbolic:
        """Finds the couplings and the blocks of the diagonal.

        Raises:
            DnlsError: A block is unknown, none would remain, or two eliminated variables share a
                factor.
        """
        partition = Partition.of(pattern, self.names)
        diagonal = DiagonalPositions.of(partition.kept_pattern)
        sights = tuple(
            sight
            for number, variables in enumerate(partition.classes)
            for sight in _sights(number, variables, partition.kept_pattern)
        )
        return ImplicitSchurSymbolic(
            pattern, self, partition, diagonal, sights if self.schur_jacobi else ()
        )


@dataclass(frozen=True, eq=False)
class _Sights:
    """The P couplings of a class's variables to the variables of one remaining block.

    Attributes:
        number: Of the class.
        block: Of the remaining block.
        eliminated: (P,) variable of the class.
        columns: (P, t) columns of its H; d where the pattern has no entry.
        kept: (P,) variable of the block.
    """

    number: int
    block: int
    eliminated: Tensor
    columns: Tensor
    kept: Tensor


def _sights(number: int, variables: DegreeClass, pattern: Pattern) -> Iterator[_Sights]:
    touched = variables.touched.numpy()
    for index, block in enumerate(pattern.blocks):
        row, column = np.nonzero((touched >= block.offset) & (touched < block.stop))
        if len(row):
            kept, axis = np.divmod(touched[row, column] - block.offset, block.tangent_dim)
            pairs, pair_of = np.unique(row * block.count + kept, return_inverse=True)
            columns = np.full((len(pairs), block.tangent_dim), touched.shape[1], np.int64)
            columns[pair_of, axis] = column
            fields = (pairs // block.count, columns, pairs % block.count)
            yield _Sights(number, index, *map(torch.from_numpy, fields))


@dataclass(frozen=True, eq=False)
class ImplicitSchurSymbolic:
    """The partition, the blocks of K, and what elimination takes away from them."""

    pattern: Pattern
    solver: ImplicitSchur
    partition: Partition
    diagonal: DiagonalPositions
    sights: tuple[_Sights, ...]

    def factorize(self, values: Tensor) -> ImplicitSchurFactorization:
        """Eliminates, and factorizes the diagonal blocks, of values (B, nnz)."""
        check_values(values, self.pattern)
        values = values.detach()
        eliminated = Eliminated.of(self.partition, values)
        lower = self.diagonal.matrices(eliminated.kept_values)
        kept = BlockJacobi.of(self.diagonal.blocks, lower)
        jacobi = kept
        if self.solver.schur_jacobi:
            jacobi = BlockJacobi.of(self.diagonal.blocks, self._reduced(eliminated, lower))
        ok = eliminated.ok & jacobi.ok & values.isfinite().all(1)
        stays = product_with(self.partition.kept_pattern, eliminated.kept_values)
        goes = gram_product(eliminated.classes, len(eliminated.kept))
        iteration = Iteration(self.solver.inner, lambda x: stays(x) - goes(x), jacobi, kept, ok)
        return ImplicitSchurFactorization(self.pattern, self.solver, eliminated, iteration)

    def _reduced(self, eliminated: Eliminated, lower: list[Tensor]) -> list[Tensor]:
        """Lower triangles of the diagonal blocks of S: those of K less HᵀH, pair by pair."""
        out = [matrices.clone() for matrices in lower]
        padded = [torch.nn.functional.pad(c.half, (0, 1)) for c in eliminated.classes]
        for sight in self.sights:
            device = eliminated.kept.device
            at, columns, kept = (
                t.to(device) for t in (sight.eliminated, sight.columns, sight.kept)
            )
            axes = torch.arange(padded[sight.number].shape[2], device=device)
            h = padded[sight.number][:, at[:, None, None], axes[:, None], columns[:, None]]
            add(out[sight.block], kept, h.mT @ -h)
        return out


@dataclass(frozen=True, eq=False)
class ImplicitSchurFactorization:
    """The factors of the eliminated variables, and the iteration for the others.

    ``ok`` says that all is finite and that the eliminated and the diagonal blocks are positive
    definite. That the reduced matrix is not shows only in a solve: its rows are NaN then.
    """

    pattern: Pattern
    solver: ImplicitSchur
    eliminated: Eliminated
    iteration: Iteration

    @property
    def ok(self) -> Tensor:
        """(B,) all is finite; eliminated and diagonal blocks are positive definite."""
        return self.iteration.ok

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrices."""
        return self.eliminated.kept_values.dtype

    @property
    def nnz(self) -> int:
        """Entries of the factors of blocks, and of the couplings."""
        return self.eliminated.nnz + self.iteration.jacobi.nnz

    def solve(self, rhs: Tensor) -> Tensor:
        """A⁻¹ rhs for rhs (B, n) or (B, n, k)."""
        return self._through(rhs, self.iteration.solve)

    def step(self, rhs: Tensor) -> Tensor:
        """As `solve`, or inexactly if the solver says so."""
        return self._through(rhs, self.iteration.step)

    def diagonal(self) -> Tensor:
        """Raises a `DnlsError`: there is no factor."""
        raise no_factor(self.solver.name)

    def _through(self, rhs: Tensor, inner: Operator) -> Tensor:
        check_rhs(rhs, self.eliminated.kept_values, self.pattern.n)
        return self.eliminated.solve(as_columns(rhs), inner).view(rhs.shape)
