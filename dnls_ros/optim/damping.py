"""How the damping λ of Levenberg–Marquardt follows what its steps achieved.

A rule sees, for every batch element, whether the step was accepted and its gain ratio ρ, and gives
the factor by which λ changes. What is accepted is none of its business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError


class DampingRule(Protocol):
    """The change of λ after a trial."""

    def factor(self, accept: Tensor, gain: Tensor, growth: Tensor) -> Tensor:
        """What λ is multiplied by, (B,).

        Args:
            accept: (B,) bool.
            gain: (B,) ρ; NaN where the trial was not finite or all is rounding.
            growth: (B,) 2, 4, 8 … after as many rejections in a row.
        """
        ...


@dataclass(frozen=True)
class Fixed:
    """λ stays what it is: a step that is rejected is the last one."""

    def factor(self, accept: Tensor, gain: Tensor, growth: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(growth)


@dataclass(frozen=True)
class Geometric:
    """λ is divided by ``ratio`` after a good step and multiplied after a rejected one.

    Marquardt, *An algorithm for least-squares estimation of nonlinear parameters*, 1963.
    """

    ratio: float = 10.0

    def __post_init__(self) -> None:
        if not self.ratio > 1:
            raise DnlsError(f"Geometric needs a ratio above 1, got {self.ratio}")

    def factor(self, accept: Tensor, gain: Tensor, growth: Tensor) -> Tensor:
        """1/ratio or ratio."""
        return torch.where(accept, 1 / self.ratio, self.ratio).to(growth)


@dataclass(frozen=True)
class GainRatio:
    """λ shrinks by max(⅓, 1 − (2ρ − 1)³), the less the worse the model was; grows by 2, 4, 8 ….

    Nielsen, *Damping parameter in Marquardt's method*, 1999; Ceres' radius, 1/λ, obeys the same
    rule. Where the model is good only near by, as in bundle adjustment, it rejects far fewer steps
    than a fixed ratio.
    """

    def factor(self, accept: Tensor, gain: Tensor, growth: Tensor) -> Tensor:
        """By the gain ratio; a step that was accepted as rounding leaves λ as it is."""
        known = gain.where(gain.isfinite(), 0.5)
        shrink = (1 - (2 * known.clamp(max=2.0) - 1) ** 3).clamp(min=1 / 3)
        # A step that is accepted though ρ is tiny or negative (rounding) must not raise λ by much.
        return torch.where(accept, shrink.clamp(max=2.0), growth)
