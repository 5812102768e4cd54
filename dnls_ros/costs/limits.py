"""Limits of coordinates: joints, speeds, workspaces."""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.problem import cost


@cost(batched=True)
def hinge(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """How far each coordinate is outside its limits: r = x − min(max(x, lower), upper).

    Zero inside, and negative below the lower limit (Mukadam et al., *Continuous-time Gaussian
    process motion planning via probabilistic inference*, IJRR 2018, for joint limits). A
    margin is put into the limits.

    Args:
        x: (…, n).
        lower: (…, n) or (…, 1); −inf where there is none.
        upper: (…, n) or (…, 1), not below ``lower``; inf where there is none.
    """
    return x - torch.minimum(torch.maximum(x, lower), upper)


@hinge.jacobians
def _hinge_jacobians(x: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor]:
    outside = (x < lower) | (x > upper)
    return (torch.diag_embed(outside.to(x).expand(torch.broadcast_shapes(x.shape, lower.shape))),)
