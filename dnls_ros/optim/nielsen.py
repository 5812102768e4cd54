"""Levenberg–Marquardt whose damping follows the gain ratio, each batch element's its own.

After a good step λ shrinks by max(⅓, 1 − (2ρ − 1)³), the less the worse the model was; rejected
steps multiply it by 2, 4, 8 … (Nielsen, *Damping parameter in Marquardt's method*, 1999; Ceres'
radius, 1/λ, obeys the same rule). Where the model is good only near by, as in bundle adjustment,
it rejects far fewer steps than a fixed factor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dnls_ros.linear import solve
from dnls_ros.optim.levenberg_marquardt import NEXT_TO_NOTHING, DampingState, LevenbergMarquardt
from dnls_ros.optim.method import Model, Outcome, Proposal, solvable

LEAST = 1e-6
"""Of D, relative to diag(H) at the start: what has lost its information does not run away."""


@dataclass(frozen=True, eq=False)
class NielsenState:
    """λ of each element, what the next rejected step multiplies it by, and the least of D."""

    inner: DampingState
    growth: Tensor
    floor: Tensor


@dataclass(frozen=True)
class NielsenLevenbergMarquardt:
    """`LevenbergMarquardt` with another rule for λ.

    Attributes:
        base: Its first λ and limits, D, and what it accepts; its factor is not used.
    """

    base: LevenbergMarquardt = field(
        default_factory=lambda: LevenbergMarquardt(initial=1e-4, largest=1e16, smallest=1e-16)
    )

    def init(self, model: Model) -> NielsenState:
        """The same λ for all."""
        inner = self.base.init(model)
        return NielsenState(inner, torch.full_like(inner.damping, 2.0), self._floor(model))

    def _floor(self, model: Model) -> Tensor:
        return LEAST * model.diagonal().detach()

    def propose(
        self, state: NielsenState, model: Model, fresh: bool
    ) -> tuple[Proposal, NielsenState]:
        """Solves the damped system."""
        scale = state.floor.new_ones(state.floor.shape)
        if self.base.scaled:
            scale = torch.maximum(model.diagonal().detach(), state.floor)
        weight = state.inner.damping[:, None] * scale
        positions = model.pattern.index("diagonal", weight.device)
        damped = model.normal.hessian.index_add(1, positions, weight)
        gradient = model.normal.gradient
        delta = solve(model.symbolic, damped, -gradient)
        decrease = 0.5 * (delta * (weight * delta - gradient)).sum(1)
        full = (state.inner.damping <= NEXT_TO_NOTHING) & self.base.scaled
        return Proposal(delta, decrease, solvable(delta), full), state

    def update(
        self, state: NielsenState, proposal: Proposal, outcome: Outcome
    ) -> tuple[Tensor, NielsenState]:
        """Accepts as the base does; λ follows ρ."""
        accept, judged = self.base.update(state.inner, proposal, outcome)
        gain = outcome.gain.where(outcome.gain.isfinite(), 0.5)  # rounding: λ stays
        shrink = (1 - (2 * gain.clamp(max=2.0) - 1) ** 3).clamp(min=1 / 3)
        # A step that is accepted though ρ is tiny or negative (rounding) must not raise λ by much.
        factor = torch.where(accept, shrink.clamp(max=2.0), state.growth)
        damping = state.inner.damping * factor
        limit = ~accept & (damping > self.base.largest)
        damping = damping.clamp(self.base.smallest, self.base.largest)
        growth = torch.where(accept, 2.0, 2 * state.growth)
        return accept, NielsenState(
            DampingState(damping, judged.solvable, limit), growth, state.floor
        )

    def exhausted(self, state: NielsenState) -> Tensor:
        """λ reached its limit without an acceptable step."""
        return state.inner.limit

    def damping(self, state: NielsenState) -> Tensor:
        """λ."""
        return state.inner.damping
