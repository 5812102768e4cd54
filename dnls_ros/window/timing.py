"""Where the time of a minimization goes: linearizing, and factorizing.

The loop asks an `Assembly` for numbers and a `Symbolic` for factors; here both note how long they
took. Reports only: no result depends on a clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from torch import Tensor

from dnls_ros.linear import Factorization, LinearSolver, Symbolic
from dnls_ros.optim import Assembly
from dnls_ros.problem import NormalEquations, Pattern, Values


@dataclass
class Stopwatch:
    """Seconds of wall time by what they were spent on."""

    linearize: float = 0.0
    factorize: float = 0.0

    def restart(self) -> None:
        """From zero."""
        self.linearize = self.factorize = 0.0


@dataclass(frozen=True, eq=False)
class TimedAssembly(Assembly):
    """An assembly that notes the time of its own work and of factorizations."""

    watch: Stopwatch = field(default_factory=Stopwatch)

    def normal_equations(self, values: Values) -> NormalEquations:
        """H, g and the cost at ``values``."""
        began = time.perf_counter()
        try:
            return super().normal_equations(values)
        finally:
            self.watch.linearize += time.perf_counter() - began

    def cost(self, values: Values) -> Tensor:
        """S(x), (B,)."""
        began = time.perf_counter()
        try:
            return super().cost(values)
        finally:
            self.watch.linearize += time.perf_counter() - began

    def spent(self, linearizing: float, factorizing: float) -> None:
        """Adds what compiled code has noted."""
        self.watch.linearize += linearizing
        self.watch.factorize += factorizing

    def symbolic(self, solver: LinearSolver) -> Symbolic:
        """The solver's symbolic analysis, made once; its factorizations are timed."""
        return _TimedSymbolic(super().symbolic(solver), self.watch)


@dataclass(frozen=True, eq=False)
class _TimedSymbolic:
    """A symbolic analysis that notes the time of its factorizations."""

    inner: Symbolic
    watch: Stopwatch

    @property
    def pattern(self) -> Pattern:
        """What was analyzed."""
        return self.inner.pattern

    def factorize(self, values: Tensor) -> Factorization:
        """Factorizes matrices given by their lower triangles (B, nnz)."""
        began = time.perf_counter()
        try:
            return self.inner.factorize(values)
        finally:
            self.watch.factorize += time.perf_counter() - began
