"""What a minimization method is: three small functions, called by the one loop.

``init`` makes the state (damping, trust region …, one number per batch element), ``propose`` a
step from the linear model, ``update`` judges it by the gain ratio ρ = actual / predicted decrease.
All decisions are masks over the batch: elements never wait for or harm one another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear import Symbolic
from dnls_ros.problem import NormalEquations, Pattern

State = TypeVar("State")


@dataclass(frozen=True, eq=False)
class Model:
    """The quadratic model S + gᵀδ + ½δᵀHδ at the current point, and the means to solve it.

    Attributes:
        normal: H, g and S.
        pattern: Of H.
        symbolic: Solves with matrices like H.
        costs: S(x ⊞ δ) of steps (B, K, n), K for each batch element; (B, K).
    """

    normal: NormalEquations
    pattern: Pattern
    symbolic: Symbolic
    costs: Callable[[Tensor], Tensor]

    def diagonal(self) -> Tensor:
        """diag(H), (B, n)."""
        positions = self.pattern.index("diagonal", self.normal.hessian.device)
        return self.normal.hessian.index_select(1, positions)

    def multiply(self, vector: Tensor) -> Tensor:
        """H v, (B, n)."""
        return self.pattern.multiply(self.normal.hessian, vector)


@dataclass(frozen=True, eq=False)
class Proposal:
    """A step and what the model expects of it.

    Attributes:
        delta: (B, n).
        decrease: (B,) predicted decrease of the objective, ≥ 0.
        ok: (B,) the linear system could be solved.
        full: (B,) the step is the Gauss–Newton step, damped or cut by next to nothing.
    """

    delta: Tensor
    decrease: Tensor
    ok: Tensor
    full: Tensor


def per_element(number: float | Tensor, like: Tensor, what: str) -> Tensor:
    """A setting as a tensor (B,) in dtype and on device of ``like`` (B,); keeps its derivatives.

    Raises:
        DnlsError: It has other axes than () or (B,).
    """
    given = torch.as_tensor(number, dtype=like.dtype, device=like.device)
    if given.ndim > 1 or (given.ndim == 1 and len(given) != len(like)):
        raise DnlsError(
            f"{what} has shape {tuple(given.shape)}, expected a number or one per batch element, "
            f"({len(like)},)"
        )
    return given.expand_as(like)


def solvable(step: Tensor) -> Tensor:
    """(B,) whether a linear solve succeeded: solvers mark failed elements by NaN."""
    return step.isfinite().all(1)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the trial point showed: all (B,).

    Attributes:
        gain: ρ, actual over predicted decrease; NaN where the trial is not finite.
        finite: Step and trial cost are finite and the linear system was solvable.
        rounding: Actual and predicted decrease are both below the rounding error of the cost.
    """

    gain: Tensor
    finite: Tensor
    rounding: Tensor


class Method(Protocol[State]):
    """Gauss–Newton, Levenberg–Marquardt, Dogleg, sampling: siblings under one loop."""

    def init(self, model: Model) -> State:
        """The state before the first step."""
        ...

    def propose(self, state: State, model: Model, fresh: bool) -> tuple[Proposal, State]:
        """The next step; ``fresh`` is false when the model has not changed since the last call."""
        ...

    def update(self, state: State, proposal: Proposal, outcome: Outcome) -> tuple[Tensor, State]:
        """(B,) which elements take the step, and the state for the next one."""
        ...

    def exhausted(self, state: State) -> Tensor:
        """(B,) elements for which the method has nothing left to try.

        After a step that was accepted: it has done all that it does.
        """
        ...

    def damping(self, state: State) -> Tensor:
        """(B,) λ or 1/radius, for reports."""
        ...

    def resumed(self, damping: Tensor) -> Self:
        """The same method as it goes on from `damping` (B,), derivatives of its settings kept."""
        ...
