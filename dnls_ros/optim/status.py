"""How a minimization ends, and when it shall."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dnls_ros.errors import DnlsError


class Status(Enum):
    """How the minimization of one batch element ended."""

    RUNNING = "still running"
    CONVERGED_COST = "converged: an accepted step decreased the cost by less than its tolerance"
    CONVERGED_MODEL = "converged: a full step would decrease the cost by less than its tolerance"
    CONVERGED_STEP = "converged: an accepted step was shorter than its tolerance"
    CONVERGED_GRADIENT = "converged: the gradient is below its tolerance"
    DONE = "done: the method has taken all the steps that it takes"
    MAX_ITERATIONS = "stopped: the iteration limit was reached"
    DEADLINE = "stopped: the time budget was used up; the best values so far are returned"
    STOPPED = "stopped: the callback asked for it"
    DAMPING_LIMIT = "failed: no step within the damping limit decreases the cost"
    SINGULAR = "failed: the normal equations are singular; some direction has no information"
    STEP_NOT_FINITE = "failed: the last step leads to where the cost is not finite"
    NOT_FINITE = "failed: the cost is not finite at the starting values"

    @property
    def converged(self) -> bool:
        """Whether a tolerance was met."""
        return self in (
            Status.CONVERGED_MODEL,
            Status.CONVERGED_COST,
            Status.CONVERGED_STEP,
            Status.CONVERGED_GRADIENT,
        )

    @property
    def failed(self) -> bool:
        """Whether it ended because it could not go on."""
        return self.value.startswith("failed: ")


CODES = {status: code for code, status in enumerate(Status)}
"""Numbers of the statuses, for tensors (B,) of them."""

STATUSES = tuple(Status)
"""Statuses by number."""


@dataclass(frozen=True)
class Tolerances:
    """When to stop.

    Attributes:
        cost: Relative decrease of the cost by an accepted step; 0 = not looked at.
        step: Largest entry of an accepted step [m, rad].
        gradient: Largest entry of the gradient.
        iterations: Limit on trials, rejected ones included.
        seconds: Wall-clock budget, None = unlimited (and then the result depends on no clock).
    """

    cost: float = 1e-6
    step: float = 1e-7
    gradient: float = 1e-8
    iterations: int = 50
    seconds: float | None = None

    def __post_init__(self) -> None:
        if not (self.cost >= 0 and self.step >= 0 and self.gradient >= 0 and self.iterations >= 0):
            raise DnlsError(f"tolerances must not be negative, got {self}")
