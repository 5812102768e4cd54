"""The differentiable cross-entropy method: minimization by samples in the tangent space.

Around the current point samples δ ~ N(0, diag σ²) are drawn, on Lie groups in the tangent, and the
best of them give the next mean and σ. "The best" are chosen softly, by the projection of their
costs onto {0 ≤ w ≤ 1, Σw = elites}, so that derivatives flow through the choice. No derivative of
the costs is needed to make a step, only to unroll the method.

Amos and Yarats, *The differentiable cross-entropy method*, ICML 2020; Amos, Koltun and Kolter,
*The limited multi-label projection layer*, 2019.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.optim.method import Model, Outcome, Proposal, per_element

BISECTIONS = 60
"""Halvings of an interval that holds the projection's multiplier: beyond float64's digits."""


@dataclass(frozen=True, eq=False)
class SamplingState:
    """The spread of the samples.

    Attributes:
        sigma: (B, n) standard deviations in the tangent at the current point.
        proposed: (B, n) those after the step under trial.
        generator: Draws the same samples for every batch element, so that a batch gives what its
            elements give alone.
        narrow: (B,) the spread has fallen below its limit.
    """

    sigma: Tensor
    proposed: Tensor
    generator: torch.Generator
    narrow: Tensor


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """The differentiable cross-entropy method.

    Attributes:
        sigma: First standard deviation in the tangent [m, rad]: a number, () or (B,).
        samples: Drawn per step.
        elites: How many of them make the next mean and spread.
        temperature: Of the choice, in standard deviations of the costs: 0 takes the best only.
        smallest: The method has done its work when all σ are below it.
        momentum: Share of the old σ in the new one, against collapse before the minimum.
        seed: Of the samples.
    """

    sigma: float | Tensor = 1.0
    samples: int = 100
    elites: int = 10
    temperature: float = 0.1
    smallest: float = 1e-6
    momentum: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        good = 1 < self.elites < self.samples and self.temperature >= 0 and 0 <= self.momentum < 1
        if not good or not bool((torch.as_tensor(self.sigma).detach() > 0).all()):
            raise DnlsError(
                "CrossEntropy needs sigma > 0, 1 < elites < samples, temperature ≥ 0 and 0 ≤ "
                f"momentum < 1, got {self}"
            )

    def init(self, model: Model) -> SamplingState:
        """The same spread in all directions."""
        gradient = model.normal.gradient
        first = per_element(self.sigma, gradient[:, 0], "CrossEntropy: sigma")
        sigma = first[:, None].expand_as(gradient)
        generator = torch.Generator(gradient.device).manual_seed(self.seed)
        return SamplingState(sigma, sigma, generator, torch.zeros_like(first, dtype=torch.bool))

    def propose(
        self, state: SamplingState, model: Model, fresh: bool
    ) -> tuple[Proposal, SamplingState]:
        """To the mean of the elites."""
        n = state.sigma.shape[1]
        noise = torch.randn(
            (self.samples, n),
            generator=state.generator,
            dtype=state.sigma.dtype,
            device=state.sigma.device,
        )
        steps = state.sigma[:, None] * noise
        costs = model.costs(steps)
        usable = costs.isfinite().sum(1) >= self.elites
        weight = self._weights(costs)[..., None] / self.elites
        delta = (weight * steps).sum(1)
        variance = (weight * (steps - delta[:, None]).square()).sum(1)
        spread = variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()
        proposed = self.momentum * state.sigma + (1 - self.momentum) * spread
        delta = delta.masked_fill(~usable[:, None], torch.nan)
        unknown = torch.full_like(costs[:, 0], torch.nan).detach()
        no = torch.zeros_like(usable)
        return Proposal(delta, unknown, ~no, no), replace(state, proposed=proposed)

    def _weights(self, costs: Tensor) -> Tensor:
        """(B, K) in [0, 1], Σ = elites; samples whose cost is not finite get none."""
        finite = costs.isfinite()
        known = costs.where(finite, 0.0)
        count = finite.sum(1, keepdim=True).clamp(min=1)
        mean = known.sum(1, keepdim=True) / count
        spread = (finite * (known - mean).square()).sum(1, keepdim=True) / count
        scores = (mean - known) / spread.clamp(min=torch.finfo(costs.dtype).tiny).sqrt()
        worst = scores.detach().amin(1, keepdim=True) - 1e3
        scores = torch.where(finite, scores, worst)
        if self.temperature == 0:
            best = scores.topk(self.elites, 1).indices
            return torch.zeros_like(scores).scatter(1, best, 1.0)
        return multi_label(scores / self.temperature, self.elites)

    def update(
        self, state: SamplingState, proposal: Proposal, outcome: Outcome
    ) -> tuple[Tensor, SamplingState]:
        """Takes every finite step, even uphill; without one the samples come closer."""
        accept = outcome.finite
        sigma = torch.where(accept[:, None], state.proposed, 0.5 * state.sigma)
        narrow = sigma.detach().amax(1) < self.smallest
        return accept, replace(state, sigma=sigma, narrow=narrow)

    def exhausted(self, state: SamplingState) -> Tensor:
        """The spread is below its limit."""
        return state.narrow

    def damping(self, state: SamplingState) -> Tensor:
        """1/σ of the widest direction."""
        return 1 / state.sigma.amax(1)

    def resumed(self, damping: Tensor) -> CrossEntropy:
        """The same method from σ = 1/``damping`` (B,) in all directions."""
        first = per_element(self.sigma, damping, "CrossEntropy: sigma")
        return replace(self, sigma=first * (1 / (damping * first)).detach())


def multi_label(scores: Tensor, count: int) -> Tensor:
    """The limited multi-label projection: w = sigmoid(scores + ν) with Σw = ``count``; (B, K).

    Differentiable: ν is one Newton step, zero in value, from where bisection ends.
    """
    fixed = scores.detach()
    low, high = -fixed.amax(1, keepdim=True) - 50.0, -fixed.amin(1, keepdim=True) + 50.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        above = torch.sigmoid(fixed + middle).sum(1, keepdim=True) > count
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    nu = 0.5 * (low + high)
    weight = torch.sigmoid(scores + nu)
    slope = (weight * (1 - weight)).sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    shift = -(weight - weight.detach()).sum(1, keepdim=True) / slope
    return torch.sigmoid(scores + nu + shift)
