"""Implicit derivatives held to central differences, on one window of a recording.

The differences are taken of the whole: forward pass of the network, inner solve to its minimum,
outer loss, each in float64, at two distances, extrapolated (Richardson).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dnls_ros.diff import Adjoint, Implicit, Unroll, solve
from dnls_ros.errors import DnlsError
from dnls_ros.learning.losses import pose_errors, tracking_loss
from dnls_ros.learning.objective import Objective
from dnls_ros.learning.pushing import initial_values
from dnls_ros.learning.windows import Windows
from dnls_ros.linear import BlockCholesky
from dnls_ros.optim import GaussNewton, Tolerances

GATE = 1e-6
"""Largest relative difference between exact implicit derivatives and central differences."""
STEP = 1e-5
"""Of the differences, along a direction of unit length; rectifiers hardly switch within it."""


@dataclass(frozen=True)
class Check:
    """Directional derivatives of the loss.

    Attributes:
        numeric: (n,) by central differences.
        exact, gauss_newton, unrolled: (n,) by `Implicit`, by its approximation, by `Unroll`.
    """

    numeric: Tensor
    exact: Tensor
    gauss_newton: Tensor
    unrolled: Tensor

    def error(self, name: str) -> float:
        """‖difference from the central differences‖ / ‖those‖."""
        found = getattr(self, name)
        return float((found - self.numeric).norm() / self.numeric.norm())

    @property
    def passed(self) -> bool:
        """Whether the exact ones are within `GATE`."""
        return self.error("exact") <= GATE


def gradcheck(objective: Objective, windows: Windows, directions: int, seed: int = 0) -> Check:
    """Derivatives along random directions in the space of all trained numbers.

    Args:
        objective: With the model at which derivatives are taken; it stays as it is.
        windows: One or a few.
        directions: How many.
        seed: Of the directions.

    Raises:
        DnlsError: No window converges.
    """
    model = copy.deepcopy(objective.model).double()
    windows = windows.with_images(windows.images.double())
    trained = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(seed)
    along = [_direction(trained, generator) for _ in range(directions)]

    def loss(adjoint: Adjoint) -> Tensor:
        found = solve(
            model.problem(windows),
            initial_values(windows),
            GaussNewton(),
            linear=BlockCholesky(),
            adjoint=adjoint,
            tolerances=Tolerances(0.0, 1e-13, 0.0, 100),
        )
        if not bool(found.cost.isfinite().all()):
            raise DnlsError("gradcheck: a window has no solution; take another one")
        return tracking_loss(pose_errors(found.values, windows))

    def slopes(adjoint: Adjoint) -> Tensor:
        model.zero_grad()
        loss(adjoint).backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        return torch.stack([_dot(grads, d) for d in along])

    numeric = [_difference(lambda: loss(Implicit()), trained, d) for d in along]
    return Check(
        torch.stack(numeric),
        slopes(Implicit(tolerance=1e-12)),
        slopes(Implicit("gauss_newton")),
        slopes(Unroll()),
    )


def _difference(
    loss: Callable[[], Tensor], trained: list[nn.Parameter], direction: list[Tensor]
) -> Tensor:
    """The central difference, extrapolated from two distances to the fourth order."""

    def at(distance: float) -> Tensor:
        with torch.no_grad():
            for p, d in zip(trained, direction, strict=True):
                p.add_(d, alpha=distance)
            value = loss()
            for p, d in zip(trained, direction, strict=True):
                p.add_(d, alpha=-distance)
        return value

    wide, narrow = ((at(h) - at(-h)) / (2 * h) for h in (STEP, STEP / 2))
    return (4 * narrow - wide) / 3


def _direction(trained: list[nn.Parameter], generator: torch.Generator) -> list[Tensor]:
    parts = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in trained]
    length = torch.stack([p.norm() for p in parts]).norm()
    return [p / length for p in parts]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
