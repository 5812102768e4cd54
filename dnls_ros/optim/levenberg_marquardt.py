"""Levenberg–Marquardt with its own damping for every batch element."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear import solve_step
from dnls_ros.optim.damping import DampingRule, GainRatio, Geometric
from dnls_ros.optim.method import Model, Outcome, Proposal, per_element, solvable

NEXT_TO_NOTHING = 1e-3
"""A λ relative to diag(H) that changes a step by no more than that share."""

LEAST_OF_FIRST = 1e-12
"""Of D, relative to its own entries at the start."""

LEAST = 1e-12
"""Of D, relative to its largest entry: a direction without information would stay undamped."""


@dataclass(frozen=True, eq=False)
class DampingState:
    """Each element's λ.

    Attributes:
        damping: (B,) λ.
        growth: (B,) what the next rejected step multiplies λ by, for rules that go 2, 4, 8 …
        floor: (B, n) of D, from the first model.
        limit: (B,) no step within the largest λ was acceptable.
    """

    damping: Tensor
    growth: Tensor
    floor: Tensor
    limit: Tensor


@dataclass(frozen=True, eq=False)
class LevenbergMarquardt:
    """(H + λD) δ = −g with D = diag(H) or I; ρ = (S − S⁺) / ½δᵀ(λDδ − g) (Marquardt 1963).

    Attributes:
        initial: First λ: a number, or a tensor () or (B,), which can be learned.
        rule: How λ changes: `Geometric`, `GainRatio` (Nielsen's and Ceres') or `Fixed`.
        largest: Beyond it the method gives up.
        smallest: Floor of λ.
        minimal_gain: Steps with a smaller ρ are rejected.
        scaled: D = diag(H), ellipsoidal damping that is invariant to units, instead of I.
        floor: Of the scaled D: ``"relative"`` to its largest entry, or ``"first"``: also to the
            first D, so that a variable that loses its information on the way keeps some damping.
        relative: λ starts at ``initial`` · max diag(H) (Nielsen's τ), for D = I.
    """

    initial: float | Tensor = 1e-5
    rule: DampingRule = field(default_factory=Geometric)
    largest: float = 1e7
    smallest: float = 1e-12
    minimal_gain: float = 1e-4
    scaled: bool = True
    floor: Literal["relative", "first"] = "relative"
    relative: bool = False

    def __post_init__(self) -> None:
        first = torch.as_tensor(self.initial).detach()
        if not bool(((first > 0) & (first <= self.largest)).all()):
            raise DnlsError(
                "LevenbergMarquardt needs 0 < initial ≤ largest, got "
                f"initial={first.tolist()}, largest={self.largest}"
            )

    @classmethod
    def ceres(cls, initial: float | Tensor = 1e-4) -> LevenbergMarquardt:
        """As Ceres does it: scaled damping by the gain ratio, from a radius of 1e4."""
        rule = GainRatio()
        return cls(initial, rule, 1e32, 1e-16, minimal_gain=1e-3, scaled=True, floor="first")

    @classmethod
    def nielsen(cls, tau: float | Tensor = 1e-3) -> LevenbergMarquardt:
        """As Nielsen does it: λI by the gain ratio, from τ · max diag(H)."""
        return cls(tau, GainRatio(), 1e300, 1e-300, minimal_gain=0.0, scaled=False, relative=True)

    def init(self, model: Model) -> DampingState:
        """The first λ of each element."""
        diagonal = model.diagonal().detach()
        damping = per_element(self.initial, model.normal.cost, "LevenbergMarquardt: initial")
        if self.relative:
            damping = damping * diagonal.amax(1)
        least = LEAST * diagonal.amax(1, keepdim=True)
        floor = torch.where(diagonal > 0, LEAST_OF_FIRST * diagonal, least)
        none = torch.zeros_like(damping, dtype=torch.bool)
        return DampingState(damping, torch.full_like(damping.detach(), 2.0), floor, none)

    def propose(
        self, state: DampingState, model: Model, fresh: bool
    ) -> tuple[Proposal, DampingState]:
        """Solves the damped system."""
        weight = state.damping[:, None] * self._scale(model, state)
        positions = model.pattern.index("diagonal", weight.device)
        damped = model.normal.hessian.index_add(1, positions, weight)
        gradient = model.normal.gradient
        delta = solve_step(model.symbolic, damped, -gradient)
        decrease = 0.5 * (delta * (weight * delta - gradient)).sum(1)
        full = (state.damping <= NEXT_TO_NOTHING) & self.scaled
        return Proposal(delta, decrease, solvable(delta), full), state

    def _scale(self, model: Model, state: DampingState) -> Tensor:
        diagonal = model.diagonal()
        if not self.scaled:
            return torch.ones_like(diagonal)
        if self.floor == "first":
            return torch.maximum(diagonal, state.floor)
        return torch.maximum(diagonal, LEAST * diagonal.amax(1, keepdim=True))

    def update(
        self, state: DampingState, proposal: Proposal, outcome: Outcome
    ) -> tuple[Tensor, DampingState]:
        """Accepts by gain ratio; λ follows by the rule."""
        accept = outcome.finite & ((outcome.gain > self.minimal_gain) | outcome.rounding)
        factor = self.rule.factor(accept, outcome.gain, state.growth)
        damping = state.damping * factor
        limit = ~accept & ((damping > self.largest) | (factor == 1))
        growth = torch.where(accept, 2.0, 2 * state.growth)
        damping = damping.clamp(self.smallest, self.largest)
        return accept, replace(state, damping=damping, growth=growth, limit=limit)

    def exhausted(self, state: DampingState) -> Tensor:
        """λ reached its limit without an acceptable step."""
        return state.limit

    def damping(self, state: DampingState) -> Tensor:
        """λ."""
        return state.damping

    def resumed(self, damping: Tensor) -> LevenbergMarquardt:
        """The same method from λ (B,), with the derivatives of the λ that it began with."""
        first = per_element(self.initial, damping, "LevenbergMarquardt: initial")
        return replace(self, initial=first * (damping / first).detach(), relative=False)
