"""Powell's dogleg: a trust region of its own radius for every batch element."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear import solve_step
from dnls_ros.optim.method import Model, Outcome, Proposal, per_element, solvable


@dataclass(frozen=True, eq=False)
class RegionState:
    """Radius of each element, and the two corners of its path, kept while the model stays."""

    radius: Tensor
    newton: Tensor
    cauchy: Tensor
    solvable: Tensor
    limit: Tensor


@dataclass(frozen=True, eq=False)
class Dogleg:
    """Along the path origin → Cauchy point → Gauss–Newton step (Nocedal & Wright, §4.1).

    Attributes:
        initial: First radius, in the norm of the tangent: a number, or a tensor () or (B,).
        smallest: Below it the method gives up.
        minimal_gain: Steps with a smaller ρ are rejected.
    """

    initial: float | Tensor = 1.0
    smallest: float = 1e-12
    minimal_gain: float = 1e-4

    def __post_init__(self) -> None:
        first = torch.as_tensor(self.initial).detach()
        if not (self.smallest > 0 and bool((first >= self.smallest).all())):
            raise DnlsError(
                "Dogleg needs 0 < smallest ≤ initial, got "
                f"smallest={self.smallest}, initial={first.tolist()}"
            )

    def init(self, model: Model) -> RegionState:
        """The same radius for all; corners come with the first proposal."""
        cost, gradient = model.normal.cost, model.normal.gradient
        none = torch.zeros_like(cost, dtype=torch.bool)
        radius = per_element(self.initial, cost, "Dogleg: initial")
        return RegionState(
            radius, torch.zeros_like(gradient), torch.zeros_like(gradient), none, none
        )

    def propose(
        self, state: RegionState, model: Model, fresh: bool
    ) -> tuple[Proposal, RegionState]:
        """The point of the path at the radius; a singular system leaves the Cauchy direction."""
        gradient = model.normal.gradient
        if fresh:
            newton = solve_step(model.symbolic, model.normal.hessian, -gradient)
            ok = solvable(newton)
            curvature = (gradient * model.multiply(gradient)).sum(1, keepdim=True)
            squared = gradient.square().sum(1, keepdim=True)
            cauchy = (
                -gradient
                * squared
                / torch.where(curvature > 0, curvature, squared.clamp(min=1e-300))
            )
            newton = torch.where(ok[:, None], newton, cauchy)
            state = replace(state, newton=newton, cauchy=cauchy, solvable=ok)
        delta = _dogleg(state.cauchy, state.newton, state.radius[:, None])
        decrease = -(gradient * delta).sum(1) - 0.5 * (delta * model.multiply(delta)).sum(1)
        inside = state.newton.norm(dim=1) <= state.radius
        sure = torch.ones_like(state.solvable)
        return Proposal(delta, decrease, sure, inside & state.solvable), state

    def update(
        self, state: RegionState, proposal: Proposal, outcome: Outcome
    ) -> tuple[Tensor, RegionState]:
        """Accepts by gain ratio; the radius shrinks below ρ = ¼ and grows above ¾."""
        accept = outcome.finite & ((outcome.gain > self.minimal_gain) | outcome.rounding)
        length = proposal.delta.norm(dim=1)
        good = outcome.finite & (outcome.gain > 0.75)
        poor = ~outcome.finite | ~(outcome.gain > 0.25)
        shrunk = 0.25 * torch.where(
            outcome.finite, torch.minimum(length, state.radius), state.radius
        )
        grown = torch.maximum(state.radius, 3 * length)
        radius = torch.where(
            good, grown, torch.where(poor & ~outcome.rounding, shrunk, state.radius)
        )
        return accept, replace(state, radius=radius, limit=~accept & (radius < self.smallest))

    def exhausted(self, state: RegionState) -> Tensor:
        """The radius vanished without an acceptable step."""
        return state.limit

    def damping(self, state: RegionState) -> Tensor:
        """1/radius."""
        return 1 / state.radius

    def resumed(self, damping: Tensor) -> Dogleg:
        """The same method from the radius 1/``damping`` (B,)."""
        radius = (1 / damping).detach().clamp(min=self.smallest)
        first = per_element(self.initial, damping, "Dogleg: initial")
        return replace(self, initial=first * (radius / first).detach())


def _dogleg(cauchy: Tensor, newton: Tensor, radius: Tensor) -> Tensor:
    to_cauchy = cauchy.norm(dim=1, keepdim=True)
    to_newton = newton.norm(dim=1, keepdim=True)
    leg = newton - cauchy
    a = leg.square().sum(1, keepdim=True)
    b = (cauchy * leg).sum(1, keepdim=True)
    c = to_cauchy.square() - radius.square()
    # The positive root of ‖cauchy + t·leg‖ = radius, in the form that does not cancel for b > 0.
    root = (b.square() - a * c).clamp(min=0).sqrt()
    t = torch.where(b > 0, -c / (b + root).clamp(min=1e-300), (root - b) / a.clamp(min=1e-300))
    between = cauchy + t.clamp(0, 1) * leg
    short = cauchy * (radius / to_cauchy.clamp(min=1e-300))
    return torch.where(
        to_newton <= radius, newton, torch.where(to_cauchy >= radius, short, between)
    )
