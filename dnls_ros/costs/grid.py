"""Images and maps between their samples: bilinear interpolation with its derivative."""

from __future__ import annotations

import torch
from torch import Tensor


def bilinear(values: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Values and gradients of a grid at real-valued columns and rows.

    Beyond the outermost samples it takes the value at the nearest point of the border, and the
    gradient across the border is zero. At a sample, where the gradient jumps, it is that of the
    cell that begins there (of the last cell, at the last sample).

    Args:
        values: (…, C, H, W), at least 2 × 2; C channels.
        at: (…, K, 2) column and row; the leading axes broadcast with those of ``values``.

    Returns:
        Values (…, K, C), and gradients (…, K, C, 2) by column and row.
    """
    channels, height, width = values.shape[-3:]
    # Filled where it is: a tensor of numbers would be copied to a device, which takes waiting.
    last = torch.cat([at.new_full((1,), size - 1) for size in (width, height)])
    inside = torch.minimum(at.clamp(min=0), last)
    cell = torch.minimum(inside.detach().floor(), last - 1)
    across, down = (inside - cell).unsqueeze(-2).split(1, -1)  # (…, K, 1, 1)
    column, row = cell.long().unbind(-1)
    batch = torch.broadcast_shapes(values.shape[:-3], at.shape[:-2])
    flat = values.flatten(-2).expand(*batch, channels, height * width)
    first = (row * width + column).unsqueeze(-2).expand(*batch, channels, at.shape[-2])

    def corner(offset: int) -> Tensor:
        return flat.gather(-1, first + offset).mT.unsqueeze(-1)

    a, b, c, d = (corner(k) for k in (0, 1, width, width + 1))
    top, bottom = a + across * (b - a), c + across * (d - c)
    value = top + down * (bottom - top)
    by_column = (b - a) + down * ((d - c) - (b - a))
    free = ((at >= 0) & (at <= last)).to(at).unsqueeze(-2)
    return value.squeeze(-1), torch.cat([by_column, bottom - top], -1) * free
