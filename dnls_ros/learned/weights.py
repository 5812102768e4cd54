"""Learned noise: the standard deviations of an existing sensor or factor as parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dnls_ros.errors import DnlsError
from dnls_ros.problem import Diagonal


class LearnedSigma(nn.Module):
    """Standard deviations σ = e^θ, the same for all factors of a group.

    Args:
        sigma: (r,) their first values, in the units of the residual.
    """

    def __init__(self, sigma: Sequence[float]) -> None:
        super().__init__()
        if not sigma or not all(0 < s < float("inf") for s in sigma):
            raise DnlsError(f"learned noise: σ must be positive and finite, got {list(sigma)}")
        self.log_sigma = nn.Parameter(torch.tensor(list(sigma), dtype=torch.float64).log())

    @property
    def sigma(self) -> Tensor:
        """(r,)."""
        return self.log_sigma.exp()

    def noise(self, scale: Tensor | None = None) -> Diagonal:
        """The noise model; ``scale`` (B|1, M|1, r) multiplies σ, for intervals and lengths."""
        return Diagonal(self.sigma if scale is None else self.sigma * scale)
