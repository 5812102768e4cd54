"""Levenberg–Marquardt with its own damping for every batch element."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear import solve
from dnls_ros.optim.method import Model, Outcome, Proposal, solvable

NEXT_TO_NOTHING = 1e-3
"""A λ relative to diag(H) that changes a step by no more than that share."""


@dataclass(frozen=True, eq=False)
class DampingState:
    """λ of each element, and whether its last system could be solved."""

    damping: Tensor
    solvable: Tensor
    limit: Tensor


@dataclass(frozen=True)
class LevenbergMarquardt:
    """(H + λD) δ = −g, D = diag(H) or I; ρ = (S − S⁺) / ½δᵀ(λDδ − g) (Marquardt 1963).

    Attributes:
        initial: First λ.
        factor: λ is divided by it after a good step and multiplied after a rejected one.
        largest: Beyond it the method gives up.
        smallest: Floor of λ.
        minimal_gain: Steps with a smaller ρ are rejected.
        scaled: D = diag(H) (invariant to units) instead of I.
    """

    initial: float = 1e-5
    factor: float = 10.0
    largest: float = 1e7
    smallest: float = 1e-12
    minimal_gain: float = 1e-4
    scaled: bool = True

    def __post_init__(self) -> None:
        if not (0 < self.initial < self.largest and self.factor > 1):
            raise DnlsError(
                "LevenbergMarquardt needs 0 < initial < largest and factor > 1, got "
                f"initial={self.initial}, largest={self.largest}, factor={self.factor}"
            )

    def init(self, model: Model) -> DampingState:
        """The same λ for all."""
        cost = model.normal.cost
        return DampingState(
            torch.full_like(cost, self.initial).detach(),
            torch.ones_like(cost, dtype=torch.bool),
            torch.zeros_like(cost, dtype=torch.bool),
        )

    def propose(
        self, state: DampingState, model: Model, fresh: bool
    ) -> tuple[Proposal, DampingState]:
        """Solves the damped system."""
        weight = state.damping[:, None] * self._scale(model)
        positions = model.pattern.index("diagonal", weight.device)
        damped = model.normal.hessian.index_add(1, positions, weight)
        gradient = model.normal.gradient
        delta = solve(model.symbolic, damped, -gradient)
        decrease = 0.5 * (delta * (weight * delta - gradient)).sum(1)
        full = (state.damping <= NEXT_TO_NOTHING) & self.scaled
        return Proposal(delta, decrease, solvable(delta), full), state

    def _scale(self, model: Model) -> Tensor:
        diagonal = model.diagonal().detach()
        if not self.scaled:
            return torch.ones_like(diagonal)
        # A direction without information would stay undamped: a floor relative to the others.
        return torch.maximum(diagonal, 1e-12 * diagonal.amax(1, keepdim=True))

    def update(
        self, state: DampingState, proposal: Proposal, outcome: Outcome
    ) -> tuple[Tensor, DampingState]:
        """Accepts by gain ratio; λ follows."""
        accept = outcome.finite & ((outcome.gain > self.minimal_gain) | outcome.rounding)
        damping = torch.where(accept, state.damping / self.factor, state.damping * self.factor)
        limit = ~accept & (damping > self.largest)
        return accept, DampingState(damping.clamp(self.smallest, self.largest), proposal.ok, limit)

    def exhausted(self, state: DampingState) -> Tensor:
        """λ reached its limit without an acceptable step."""
        return state.limit

    def damping(self, state: DampingState) -> Tensor:
        """λ."""
        return state.damping
