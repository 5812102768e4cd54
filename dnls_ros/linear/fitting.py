"""Sparse or dense, whichever fits the matrix.

The matrix of a window is sparse while it holds a chain of states and full once it holds a map:
the marginal prior joins all landmarks. On one core, 102 SE(3) variables joined by a prior take
20 ms by CHOLMOD and 4 ms dense; a chain is ten to twenty times faster by CHOLMOD.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnls_ros.linear.solver import LinearSolver, Symbolic
from dnls_ros.problem.structure import Pattern

DENSE_FILL = 0.25  # share of the lower triangle that is stored
DENSE_LARGEST = 2000  # unknowns; beyond it n³ takes its toll


@dataclass(frozen=True)
class Fitting:
    """Decides anew for every pattern.

    Attributes:
        sparse: For matrices with few entries, and for large ones.
        dense: For the others.
    """

    sparse: LinearSolver
    dense: LinearSolver

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.sparse.name} or {self.dense.name} by fill"

    def analyze(self, pattern: Pattern) -> Symbolic:
        """The analysis of the solver that fits."""
        filled = pattern.nnz >= DENSE_FILL * pattern.n * (pattern.n + 1) / 2
        chosen = self.dense if filled and pattern.n <= DENSE_LARGEST else self.sparse
        return chosen.analyze(pattern)
