"""What of a factor group a kernel needs: its kind, its numbers in a row, its noise and loss.

One small function per cost says how its arguments become a row of data. A group that no kernel can
take gets a sentence that says why, and goes the way of torch; the torch definition of a cost stays
the reference for its kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dnls_ros.costs import (
    between,
    constant_velocity,
    partial_pose,
    prior,
    random_walk,
    range_bearing,
    tag_corners,
    velocity_prior,
)
from dnls_ros.lie import SE2, SE3, Element, lift
from dnls_ros.problem import (
    DCS,
    Cauchy,
    Diagonal,
    FactorGroup,
    GemanMcClure,
    Hinge,
    Huber,
    Isotropic,
    Loss,
    Noise,
    SquareRootInformation,
    Tukey,
    Values,
    Welsch,
)
from dnls_ros.problem.cost import Cost

_MODELS = ("", "plumb_bob", "equidistant")
_LOSSES: tuple[type[Loss] | None, ...] = (
    None,
    Huber,
    Cauchy,
    GemanMcClure,
    Tukey,
    Welsch,
    DCS,
    Hinge,
)  # in the order of dnls_ros.kernels.losses


@dataclass(frozen=True, eq=False)
class Recipe:
    """A group as kernels see it.

    Attributes:
        kind: Its number in `dnls_ros.kernels.layout`.
        width: T, tangent width of a factor's references together.
        length: Rows of the residual.
        data: (B|1, M|1, k) numbers of the residual.
        first: Tangent width of the first reference.
        planar: A body on a plane whose sensor sees in space.
        points: Points per factor.
        model: Of the camera.
        noise: Kind, (B|1, M|1, k) numbers, and rows of the noise.
        loss: Kind and (B|1, M|1, 1) radius of the loss.
    """

    kind: int
    width: int
    length: int
    data: Tensor
    first: int
    planar: bool = False
    points: int = 0
    model: int = 0
    noise: tuple[int, Tensor | None, int] = (0, None, 0)
    loss: tuple[int, Tensor | None] = (0, None)


Refused = str
"""Why a group is left to torch."""


def recipe_of(group: FactorGroup, values: Values) -> Recipe | Refused:
    """The recipe of a group over these values, or why there is none."""
    noise, loss = _noise_of(group.noise), _loss_of(group.loss)
    if isinstance(noise, str):
        return noise
    if isinstance(loss, str):
        return loss
    write = _WRITERS.get(group.cost)
    if write is None:
        return f"there is no kernel for the cost '{group.cost.name}'"
    positions, make = write
    if group.positions not in positions:
        names = [group.cost.parameters[k] for k in group.positions]
        return f"no kernel for '{group.cost.name}' optimizes {' and '.join(names)}"
    made = make(group, tuple(values[ref.name] for ref in group.refs))
    return made if isinstance(made, str) else replace(made, noise=noise, loss=loss)


def _noise_of(noise: Noise | None) -> tuple[int, Tensor | None, int] | Refused:
    """Kind, (B|1, M|1, k) numbers and rows of a noise model."""
    from dnls_ros.kernels import layout

    if noise is None:
        return layout.WHITE, None, 0
    if isinstance(noise, Isotropic):
        sigma = torch.as_tensor(noise.sigma)
        return layout.SCALED, sigma.reciprocal()[..., None], 1
    if isinstance(noise, Diagonal):
        return layout.SCALED, noise.sigmas.reciprocal(), noise.sigmas.shape[-1]
    if isinstance(noise, SquareRootInformation):
        return layout.FULL, noise.factor.flatten(-2), noise.factor.shape[-2]
    return f"there is no kernel for {type(noise).__name__}"


def _loss_of(loss: Loss | None) -> tuple[int, Tensor | None] | Refused:
    """Kind and (B|1, M|1, 1) radius of a robust loss."""
    if loss is None:
        return 0, None
    if type(loss) not in _LOSSES:
        return f"there is no kernel for the loss {type(loss).__name__}"
    radius = torch.as_tensor(loss.radius)  # type: ignore[attr-defined]
    return _LOSSES.index(type(loss)), radius[..., None]


Writer = Callable[[FactorGroup, tuple[Element, ...]], Recipe | Refused]


def _unsupported(group: FactorGroup, optimized: tuple[Element, ...]) -> Refused:
    kinds = [type(x).__name__ for x in optimized]
    return f"there is no kernel for '{group.cost.name}' of {' and '.join(kinds)}"


def _pose_writer(space: str, plane: str, vector: str) -> Writer:
    """Of costs whose only datum is an element like those that are optimized."""

    def write(group: FactorGroup, optimized: tuple[Element, ...]) -> Recipe | Refused:
        from dnls_ros.kernels import layout

        x, count = optimized[0], len(optimized)
        z = group.arguments[-1]
        if any(type(other) is not type(x) for other in (*optimized, z)):
            return _unsupported(group, optimized)
        if isinstance(x, SE3):
            return Recipe(getattr(layout, space), 6 * count, 6, z.tensor, 6)
        if isinstance(x, SE2):
            return Recipe(getattr(layout, plane), 3 * count, 3, z.tensor, 3)
        if isinstance(x, Tensor) and x.ndim == 3 and z.shape[2:] == x.shape[2:]:
            n = x.shape[-1]
            return Recipe(getattr(layout, vector), n * count, n, z, n)
        return _unsupported(group, optimized)

    return write


def _write_between(group: FactorGroup, optimized: tuple[Element, ...]) -> Recipe | Refused:
    """Both ends are optimized, or one is held: if it is the first, it is a prior on the other."""
    from dnls_ros.kernels import layout

    if len(optimized) == 2:
        return _BETWEEN(group, optimized)
    x, z = optimized[0], group.arguments[2]
    held = group.arguments[1 - group.positions[0]]
    if not isinstance(x, SE2 | SE3) or type(held) is not type(x) or type(z) is not type(x):
        return _unsupported(group, optimized)
    space, t = isinstance(x, SE3), x.tangent_dim
    if group.positions == (1,):
        kind = layout.PRIOR6 if space else layout.PRIOR_PLANE
        return Recipe(kind, t, t, type(x).product(held.tensor, z.tensor), t)
    kind = layout.TO_HELD6 if space else layout.TO_HELD_PLANE
    return Recipe(kind, t, t, _side_by_side(z.tensor, held.tensor), t)


def _write_random_walk(group: FactorGroup, optimized: tuple[Element, ...]) -> Recipe | Refused:
    """The difference to no motion."""
    from dnls_ros.kernels import layout

    x, y = optimized
    if type(x) is not type(y) or not isinstance(x, SE2 | SE3):
        return _unsupported(group, optimized)
    still = torch.tensor(x.identity_storage, dtype=torch.float64)[None, None]
    if isinstance(x, SE3):
        return Recipe(layout.BETWEEN6, 12, 6, still, 6)
    return Recipe(layout.BETWEEN_PLANE, 6, 3, still, 3)


def _write_constant_velocity(
    group: FactorGroup, optimized: tuple[Element, ...]
) -> Recipe | Refused:
    from dnls_ros.kernels import layout

    x_i, _, x_j, _ = optimized
    dt = group.arguments[4][..., None]
    if isinstance(x_i, SE3) and isinstance(x_j, SE3):
        return Recipe(layout.CONSTANT_VELOCITY6, 24, 12, dt, 6)
    if isinstance(x_i, SE2) and isinstance(x_j, SE2):
        return Recipe(layout.CONSTANT_VELOCITY_PLANE, 12, 6, dt, 3)
    return _unsupported(group, optimized)


def _write_partial(group: FactorGroup, optimized: tuple[Element, ...]) -> Recipe | Refused:
    from dnls_ros.kernels import layout

    x, mount, z = optimized[0], group.arguments[1], group.arguments[2]
    if isinstance(x, SE3) and isinstance(mount, SE3) and isinstance(z, SE3):
        return Recipe(layout.PARTIAL6, 6, 6, _side_by_side(mount.tensor, z.tensor), 6)
    if isinstance(x, SE2) and isinstance(mount, SE2) and isinstance(z, SE2):
        return Recipe(layout.PARTIAL_PLANE, 3, 3, _side_by_side(mount.tensor, z.tensor), 3)
    return _unsupported(group, optimized)


def _write_range_bearing(group: FactorGroup, optimized: tuple[Element, ...]) -> Recipe | Refused:
    from dnls_ros.kernels import layout

    x = optimized[0]
    _, mount, point, z = group.arguments
    if not isinstance(x, SE2 | SE3) or (point.shape[-1] == 2 and not isinstance(x, SE2)):
        return _unsupported(group, optimized)
    if point.shape[-1] == 2 and isinstance(mount, SE3):
        return _unsupported(group, optimized)
    point = torch.nn.functional.pad(point, (0, 3 - point.shape[-1]))
    mount = lift(mount) if isinstance(mount, SE2) else mount
    planar = isinstance(x, SE2)
    width = 3 if planar else 6
    data = _side_by_side(mount.tensor, point, z)
    return Recipe(layout.RANGE_BEARING, width, 2, data, width, planar)


def _write_corners(group: FactorGroup, optimized: tuple[Element, ...]) -> Recipe | Refused:
    from dnls_ros.kernels import layout

    body, landmark = optimized[0], (*optimized, group.arguments[2])[1]
    _, mount, _, points, pixels, camera = group.arguments
    if not isinstance(body, SE2 | SE3) or not isinstance(mount, SE2 | SE3):
        return _unsupported(group, optimized)
    if not isinstance(landmark, SE3) or pixels.shape[-2] != points.shape[-2]:
        return _unsupported(group, optimized)
    mount = lift(mount) if isinstance(mount, SE2) else mount
    known = landmark.tensor if len(optimized) == 1 else torch.zeros(1, 1, 7, dtype=torch.float64)
    lens = camera.focal, camera.center, camera.coefficients
    data = _side_by_side(mount.tensor, known, points.flatten(-2), pixels.flatten(-2), *lens)
    planar, count = isinstance(body, SE2), points.shape[-2]
    first = 3 if planar else 6
    width = first + 6 * (len(optimized) - 1)
    model = _MODELS.index(camera.model)
    return Recipe(layout.CORNERS, width, 2 * count, data, first, planar, count, model)


def _side_by_side(*parts: Tensor) -> Tensor:
    """(B|1, M|1, …) parts in one row per factor."""
    batch = max(part.shape[0] for part in parts)
    count = max(part.shape[1] for part in parts)
    return torch.cat([part.expand(batch, count, part.shape[-1]) for part in parts], -1)


_BETWEEN = _pose_writer("BETWEEN6", "BETWEEN_PLANE", "BETWEEN_VECTOR")
_WRITERS: Mapping[Cost, tuple[tuple[tuple[int, ...], ...], Writer]] = {
    prior: (((0,),), _pose_writer("PRIOR6", "PRIOR_PLANE", "PRIOR_VECTOR")),
    velocity_prior: (((0,),), _pose_writer("PRIOR6", "PRIOR_PLANE", "PRIOR_VECTOR")),
    between: (((0, 1), (0,), (1,)), _write_between),
    random_walk: (((0, 1),), _write_random_walk),
    constant_velocity: (((0, 1, 2, 3),), _write_constant_velocity),
    partial_pose: (((0,),), _write_partial),
    range_bearing: (((0,),), _write_range_bearing),
    tag_corners: (((0,), (0, 2)), _write_corners),
}
"""Cost → the arguments that may be optimized, and how a group of it is written."""
