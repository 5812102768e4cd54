"""Checks of the numbers that users weight with: one clear error, which names the first bad one."""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError


def check_positive(what: str, tensor: Tensor) -> None:
    """Raises a `DnlsError` unless all entries are positive and finite."""
    good = (tensor.detach() > 0) & tensor.detach().isfinite()
    _check(good, tensor, f"{what} must be positive and finite")


def check_finite(what: str, tensor: Tensor) -> None:
    """Raises a `DnlsError` unless all entries are finite."""
    _check(tensor.detach().isfinite(), tensor, f"{what} must be finite")


def switches(what: str, mask: Tensor) -> Tensor:
    """A mask (B|1, M) in floating point.

    Raises:
        DnlsError: It has other axes, or holds anything but 0 and 1 (or false and true).
    """
    if mask.ndim != 2:
        raise DnlsError(f"{what} has shape {tuple(mask.shape)}, expected (B|1, M)")
    good = (mask == 0) | (mask == 1)
    _check(good, mask, f"{what} must be 0 or 1 (other weights belong to the noise, σ / √weight)")
    return mask.to(torch.float64)


def _check(good: Tensor, tensor: Tensor, must: str) -> None:
    if bool(good.all()):
        return
    bad = (~good).nonzero()
    got = tensor.detach()[tuple(bad[0])].item()
    at = f" at {tuple(bad[0].tolist())}" if tensor.ndim else ""
    count = f", {len(bad)} of {tensor.numel()} entries" if tensor.numel() > 1 else ""
    raise DnlsError(f"{must}, got {got:g}{at}{count}")
