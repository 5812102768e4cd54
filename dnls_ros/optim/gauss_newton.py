"""Gauss–Newton: the linear model's step, or a fraction of it; no safeguard but finiteness.

`OneShot` takes it once: all there is to do where residuals are linear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear import solve_step
from dnls_ros.optim.method import Model, Outcome, Proposal, solvable


@dataclass(frozen=True)
class GaussNewton:
    """H δ = −g (Nocedal & Wright, Numerical Optimization, §10.3).

    Attributes:
        step_size: Fraction of the step that is taken, in (0, 1].
    """

    step_size: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.step_size <= 1:
            raise DnlsError(f"GaussNewton needs a step_size in (0, 1], got {self.step_size}")

    def init(self, model: Model) -> Tensor:
        """The state: (B,) whether a step has failed."""
        return torch.zeros_like(model.normal.cost, dtype=torch.bool)

    def propose(self, state: Tensor, model: Model, fresh: bool) -> tuple[Proposal, Tensor]:
        """The Gauss–Newton step."""
        gradient = model.normal.gradient
        full = solve_step(model.symbolic, model.normal.hessian, -gradient)
        delta = self.step_size * full
        # With H δ_full = −g the model's decrease is −gᵀδ(1 − s/2) for the fraction s.
        decrease = -(gradient * delta).sum(1) * (1 - 0.5 * self.step_size)
        ok = solvable(full)
        return Proposal(delta, decrease, ok, torch.full_like(ok, self.step_size == 1.0)), state

    def update(self, state: Tensor, proposal: Proposal, outcome: Outcome) -> tuple[Tensor, Tensor]:
        """Takes every finite step, even uphill: that is what Gauss–Newton is."""
        return outcome.finite, state | ~outcome.finite

    def exhausted(self, state: Tensor) -> Tensor:
        """A failed step would fail again."""
        return state

    def damping(self, state: Tensor) -> Tensor:
        """None."""
        return torch.zeros(state.shape, dtype=torch.float64, device=state.device)

    def resumed(self, damping: Tensor) -> GaussNewton:
        """There is nothing to go on from."""
        return self


@dataclass(frozen=True)
class OneShot:
    """One Gauss–Newton step, and no more: the solution of a linear problem.

    Residuals that are not linear are not noticed: that takes another method.
    """

    def init(self, model: Model) -> Tensor:
        """The state: (B,) whether the step was tried."""
        return torch.zeros_like(model.normal.cost, dtype=torch.bool)

    def propose(self, state: Tensor, model: Model, fresh: bool) -> tuple[Proposal, Tensor]:
        """The Gauss–Newton step; a small one is taken too."""
        proposal, state = GaussNewton().propose(state, model, fresh)
        return replace(proposal, full=torch.zeros_like(proposal.full)), state

    def update(self, state: Tensor, proposal: Proposal, outcome: Outcome) -> tuple[Tensor, Tensor]:
        """Takes it if it is finite."""
        return outcome.finite, torch.ones_like(state)

    def exhausted(self, state: Tensor) -> Tensor:
        """After one step."""
        return state

    def damping(self, state: Tensor) -> Tensor:
        """None."""
        return torch.zeros(state.shape, dtype=torch.float64, device=state.device)

    def resumed(self, damping: Tensor) -> OneShot:
        """There is nothing to go on from."""
        return self
