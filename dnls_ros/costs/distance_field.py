"""Signed distance fields of the plane, and the cost of coming too near to what they show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dnls_ros.costs.frames import of_carrier, to_child
from dnls_ros.costs.grid import bilinear
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2
from dnls_ros.problem import cost
from dnls_ros.problem.weighting import leaves


@leaves
@dataclass(frozen=True, eq=False)
class DistanceField:
    """Signed distances to the nearest surface, negative inside; a pytree of tensors.

    Attributes:
        distance: (…, H, W) [m]; the sample in row i and column k is that of the point
            origin + cell · (k, i).
        origin: (…, 2) the first sample's place [m].
        cell: (…, 1) distance between samples [m].
    """

    distance: Tensor
    origin: Tensor
    cell: Tensor

    def __post_init__(self) -> None:
        shapes = tuple(tuple(t.shape) for t in (self.distance, self.origin, self.cell))
        grid, origin, cell = shapes
        if len(grid) < 2 or min(grid[-2:]) < 2 or origin[-1:] != (2,) or cell[-1:] != (1,):
            raise DnlsError(
                f"distance field: distance, origin and cell have shapes {shapes}, expected "
                "(…, H, W) with H, W ≥ 2, (…, 2) and (…, 1)"
            )
        if not bool((self.cell.detach() > 0).all()):
            raise DnlsError(f"distance field: cell must be positive, got {self.cell.tolist()}")

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (…, K) and gradients (…, K, 2) at points (…, K, 2).

        Outside of the map: of the nearest point of its border.
        """
        place = (points - self.origin.unsqueeze(-2)) / self.cell.unsqueeze(-2)
        value, slope = bilinear(self.distance.unsqueeze(-3), place)
        return value.squeeze(-1), slope.squeeze(-2) / self.cell.unsqueeze(-2)

    def inside(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """As `at`, but NaN outside of the map: for where its border says nothing."""
        distance, gradient = self.at(points)
        column, row = ((points - self.origin.unsqueeze(-2)) / self.cell.unsqueeze(-2)).unbind(-1)
        height, width = self.distance.shape[-2:]
        known = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
        return (
            torch.where(known, distance, torch.nan),
            torch.where(known.unsqueeze(-1), gradient, torch.nan),
        )

    def mixed(self, points: Tensor) -> Tensor:
        """∂²d/∂x∂y (…, K) [1/m] at points (…, K, 2), the same all over a cell of the grid."""
        height, width = self.distance.shape[-2:]
        place = (points - self.origin.unsqueeze(-2)) / self.cell.unsqueeze(-2)
        last = torch.cat([place.new_full((1,), size - 2) for size in (width, height)])
        corner = torch.minimum(place.detach().clamp(min=0).floor(), last)
        grid, quarter = self.distance.unsqueeze(-3), corner.new_full((2,), 0.25)
        low, high = (
            bilinear(grid, torch.cat([corner[..., :1], corner[..., 1:] + k], -1) + quarter)[1]
            for k in (0.0, 0.5)
        )
        return 2 * (high - low)[..., 0].squeeze(-1) / self.cell.square()


@cost(batched=True)
def collision(x: SE2 | Tensor, p_body: Tensor, clearance: Tensor, field: DistanceField) -> Tensor:
    """How much too near the points of a body are: r = max(clearance − d(x p_body), 0), (…, K) [m].

    Mukadam et al., *Continuous-time Gaussian process motion planning via probabilistic inference*,
    IJRR 2018, the obstacle cost, with the distance interpolated bilinearly.

    Args:
        x: The body's pose, or its position (…, 2) if it cannot turn.
        p_body: (…, K, 2) centres of the circles that cover the body [m].
        clearance: (…, K) or (…, 1) their radii plus a margin [m].
        field: The map, in the frame of ``x``.
    """
    distance, _ = field.at(_placed(x, p_body))
    return (clearance - distance).clamp(min=0)


@collision.jacobians
def _collision_jacobians(
    x: SE2 | Tensor, p_body: Tensor, clearance: Tensor, field: DistanceField
) -> tuple[Tensor]:
    distance, gradient = field.at(_placed(x, p_body))
    rows = -gradient * (distance < clearance).to(gradient).unsqueeze(-1)
    if isinstance(x, Tensor):
        return (rows,)
    return (of_carrier(to_child(x, rows).unsqueeze(-2), p_body).squeeze(-2),)


def _placed(x: SE2 | Tensor, p: Tensor) -> Tensor:
    if isinstance(x, Tensor):
        return x.unsqueeze(-2) + p
    return SE2(x.tensor.unsqueeze(-2)).act(p)
