"""What two libraries are given to compare them, and the truth about it.

Nothing here solves anything but finite differences of a solution that is handed in. Tangents are
(v, ω), perturbations are on the right, and a pose graph's residual is Log(z⁻¹ xᵢ⁻¹ xⱼ): both
libraries use these conventions, so they minimize the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import mpmath
import torch
from torch import Tensor

from dnls_ros.lie import SE2, SE3, SO3, LieGroup

F64 = torch.float64

STARTS = torch.tensor(
    [[-1.2, 1.0], [0.0, 0.0], [3.0, -4.0], [-3.0, -3.0], [1.0, 10.0], [8.0, 2.0]], dtype=F64
)
"""Of the Rosenbrock valley r = (10 (y − x²), 1 − x), whose minimum is 0 at (1, 1)."""


class Ends(NamedTuple):
    """How the elements of a batch ended: cost ½‖r‖², and what the library calls it."""

    costs: list[float]
    statuses: list[str]
    values: list[float]

    @property
    def wrong(self) -> int:
        """Elements that are called converged but are not at the minimum, where the cost is 0."""
        named = zip(self.costs, self.statuses, strict=True)
        return sum("converged" in status.lower() and not cost < 1e-10 for cost, status in named)


# -- Lie groups near the identity -------------------------------------------------------------


def small_angles(per_decade: int = 5) -> Tensor:
    """From 1e-9 to 1e-1 rad, evenly in the logarithm."""
    return torch.logspace(-9, -1, 8 * per_decade + 1, dtype=F64)


def small_tangents(group: type[LieGroup], per_decade: int = 5) -> Tensor:
    """(N, 3): random directions; SE(2) has translations of length 1."""
    generator = torch.Generator().manual_seed(0)
    angles = small_angles(per_decade)
    if group is SO3:
        axes = torch.randn(len(angles), 3, dtype=F64, generator=generator)
        return angles[:, None] * torch.nn.functional.normalize(axes, dim=1)
    course = 6.3 * torch.rand(len(angles), dtype=F64, generator=generator)
    return torch.stack([course.cos(), course.sin(), angles], 1)


def exact_exp(group: type[LieGroup], delta: Tensor) -> tuple[mpmath.matrix, mpmath.matrix]:
    """The matrix Exp(δ) and its right Jacobian Σ (−ad)ᵏ/(k+1)!, in 50 digits."""
    with mpmath.workdps(50):
        a, b, c = (mpmath.mpf(float(v)) for v in delta)
        hat = mpmath.matrix([[0, -c, b], [c, 0, -a], [-b, a, 0]])
        ad = hat
        if group is SE2:
            hat = mpmath.matrix([[0, -c, a], [c, 0, b], [0, 0, 0]])
            ad = mpmath.matrix([[0, -c, b], [c, 0, -a], [0, 0, 0]])
        total = term = mpmath.eye(3)
        for k in range(2, 40):  # angles below 0.1: the terms fall by ten each
            term = term * -ad / k
            total = total + term
        return mpmath.expm(hat), total


def relative_errors(got: Tensor, expected: list[mpmath.matrix]) -> Tensor:
    """(N,) ‖got − expected‖ / ‖expected‖ in the Frobenius norm, of matrices (N, 3, 3)."""
    with mpmath.workdps(50):
        found = []
        for one, reference in zip(got.tolist(), expected, strict=True):
            difference = mpmath.matrix(one) - reference
            found.append(float(mpmath.mnorm(difference, "f") / mpmath.mnorm(reference, "f")))
    return torch.tensor(found, dtype=F64)


# -- a cube of poses ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cube:
    """A walk through a grid of 4 × 4 × 4 poses with loops, the first pose anchored.

    Attributes:
        truth: (1, 64).
        start: (1, 64) where solvers begin.
        first: (M,) int64.
        second: (M,) int64.
        z: (1, M) measured relative poses.
        sigmas: (6,) of the noise [m, rad].
        anchor_sigma: Of the first pose's prior.
    """

    truth: SE3
    start: SE3
    first: Tensor
    second: Tensor
    z: SE3
    sigmas: Tensor
    anchor_sigma: float = 0.01

    @property
    def edges(self) -> int:
        """M."""
        return len(self.first)

    def loss(self, poses: Tensor) -> Tensor:
        """(B,) ½Σ‖T − T_true‖² of matrices (B, 64, 3, 4): the outer loss that is differentiated.

        It knows nothing of quaternions and tangents, so it is the same for both libraries.
        """
        return 0.5 * (poses - self.truth.matrix()[..., :3, :]).square().sum((1, 2, 3))


@dataclass(frozen=True, eq=False)
class Theta:
    """What the solution of a cube is differentiated by; every tensor has a batch axis.

    Attributes:
        log_weights: (B, M), of the whitened residuals.
        bend: (B, M, 6): the measurements are z · Exp(bend).
        log_radius: (B,) log R² of Welsch's loss, or None for least squares.
    """

    log_weights: Tensor
    bend: Tensor
    log_radius: Tensor | None = None

    @staticmethod
    def zero(cube: Cube, squared_radius: float | None = None) -> Theta:
        """Unit weights and the measurements as they are."""
        weights = torch.zeros(1, cube.edges, dtype=F64)
        bend = torch.zeros(1, cube.edges, 6, dtype=F64)
        radius = None if squared_radius is None else torch.tensor([squared_radius], dtype=F64)
        return Theta(weights, bend, None if radius is None else radius.log())

    def moved(self, name: str, by: Tensor) -> Theta:
        """A batch of one for each row of ``by`` (K, …), added to the tensor ``name``."""
        moved = {name: getattr(self, name) + by}
        everything = [t for t in (self.log_weights, self.bend, self.log_radius) if t is not None]
        names = ("log_weights", "bend", "log_radius")[: len(everything)]
        wide = {n: t.expand(len(by), *t.shape[1:]) for n, t in zip(names, everything, strict=True)}
        return replace(self, **(wide | moved))


def make_cube(outliers: int = 0, seed: int = 0) -> Cube:
    """63 steps of odometry and 24 loops, with noise of 0.05 m and 0.1 rad.

    The noise is that of Theseus' synthetic pose graphs.

    Args:
        outliers: So many loops are replaced by random poses.
        seed: Of everything random.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=F64, generator=generator)

    cells = [
        (x, y if x % 2 == 0 else 3 - y, z if (4 * x + y) % 2 == 0 else 3 - z)
        for x in range(4)
        for y in range(4)
        for z in range(4)
    ]
    places = torch.tensor(cells, dtype=F64)
    truth = SE3.from_parts(SO3.exp(0.5 * normal(1, 64, 3)), places[None])
    apart = torch.cdist(places, places)
    near = torch.nonzero((apart < 1.5).triu(2))
    loops = near[torch.randperm(len(near), generator=generator)[:24]]
    first = torch.cat([torch.arange(63), loops[:, 0]])
    second = torch.cat([torch.arange(1, 64), loops[:, 1]])
    sigmas = torch.tensor([0.05] * 3 + [0.1] * 3, dtype=F64)
    exact = truth[:, first].between(truth[:, second])
    z = exact @ SE3.exp(sigmas * normal(1, len(first), 6))
    if outliers:
        wild = SE3.exp(normal(1, outliers, 6))
        z = SE3(torch.cat([z.tensor[:, :-outliers], wild.tensor], 1))
    start = truth @ SE3.exp(sigmas * normal(1, 64, 6))
    start = SE3(torch.cat([truth.tensor[:, :1], start.tensor[:, 1:]], 1))
    return Cube(truth, start, first, second, z, sigmas)


def slopes(
    loss: Callable[[Theta], Tensor], theta: Theta, name: str, directions: Tensor, h: float = 4e-3
) -> Tensor:
    """(K,) derivatives of a loss along directions (K, …) of one of θ's tensors.

    Central differences at h, h/2 and h/4, extrapolated to O(h⁶) (Richardson).

    Args:
        loss: (B,) for each element of θ, solved tightly.
        theta: Where.
        name: Of the tensor.
        directions: In its space.
        h: The largest step.
    """
    columns = []
    for step in (h, h / 2, h / 4):
        ahead, behind = (loss(theta.moved(name, s * directions)) for s in (step, -step))
        columns.append((ahead - behind) / (2 * step))
    wide, middle, narrow = columns
    first, second = (4 * middle - wide) / 3, (4 * narrow - middle) / 3
    return (16 * second - first) / 15
