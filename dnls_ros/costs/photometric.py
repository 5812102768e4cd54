"""Aligning two images of a plane by their brightness or features, through a homography."""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.costs.grid import bilinear
from dnls_ros.problem import cost

LEAST_DEPTH = 1e-6
"""A point whose third homogeneous coordinate is smaller is treated as if it had this one."""


def homography(h: Tensor) -> Tensor:
    """The matrix I + [[h₀, h₁, h₂], [h₃, h₄, h₅], [h₆, h₇, 0]], (…, 8) → (…, 3, 3)."""
    change = torch.cat([h, torch.zeros_like(h[..., :1])], -1).unflatten(-1, (3, 3))
    return change + torch.eye(3, dtype=h.dtype, device=h.device)


def warped(h: Tensor, points: Tensor) -> Tensor:
    """Where the homography of ``h`` (…, 8) puts points (…, K, 2)."""
    p = _homogeneous(h, points)
    return p[..., :2] / p[..., 2:].clamp(min=LEAST_DEPTH)


@cost(batched=True)
def homography_alignment(
    h: Tensor, points: Tensor, template: Tensor, image: Tensor, scale: Tensor
) -> Tensor:
    """Photometric or feature-metric differences, r = image(warp(p; h)) − template(p), (…, K C).

    Baker and Matthews, *Lucas-Kanade 20 years on: a unifying framework*, IJCV 2004, §2 (forward
    additive). Between pixels the image is bilinear; a point that leaves the image keeps the value
    of its border and has no derivative: leave out (`mask`) groups of points that are not seen.

    Args:
        h: (…, 8) the homography `homography`, zero where points and image coincide.
        points: (…, K, 2) where the template was sampled, in units of ``scale``.
        template: (…, K, C) its values there; one channel of brightness or C of features.
        image: (…, C, H, W) the other image, or its features; usually `Shared`.
        scale: (…, 1) pixels per unit of ``points``, from the centre of the first pixel. Units of
            the image's size give the eight parameters similar effects.
    """
    value, _ = bilinear(image, warped(h, points) * scale.unsqueeze(-2))
    return (value - template).flatten(-2)


@homography_alignment.linearization
def _homography_alignment_linearized(
    h: Tensor, points: Tensor, template: Tensor, image: Tensor, scale: Tensor
) -> tuple[Tensor, tuple[Tensor]]:
    p = _homogeneous(h, points)
    depth = p[..., 2:].clamp(min=LEAST_DEPTH)
    q = p[..., :2] / depth
    value, slope = bilinear(image, q * scale.unsqueeze(-2))
    slope = slope * (scale.unsqueeze(-2) / depth).unsqueeze(-1)  # (…, K, C, 2)
    bend = -(slope * q.unsqueeze(-2)).sum(-1, keepdim=True)
    bend = bend * (p[..., 2:] >= LEAST_DEPTH).to(bend).unsqueeze(-1)
    x = torch.cat([points, torch.ones_like(points[..., :1])], -1).unsqueeze(-2)
    u, v = slope.split(1, -1)
    jacobian = torch.cat([u * x, v * x, bend * x[..., :2]], -1)
    return (value - template).flatten(-2), (jacobian.flatten(-3, -2),)


def _homogeneous(h: Tensor, points: Tensor) -> Tensor:
    one = torch.ones_like(points[..., :1])
    return torch.cat([points, one], -1) @ homography(h).mT
