"""Elements, functions of them and a small problem, for the tests of how they get on with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.costs import between, prior, range_bearing
from dnls_ros.lie import SE2, SE3, SO2, SO3, Euclidean, LieGroup, local, retract, stack
from dnls_ros.problem import Huber, Isotropic, Problem, Values, Variables, cost

F64 = torch.float64
Group = type[LieGroup]
GROUPS: list[Group] = [SO2, SE2, SO3, SE3]

# What the groups offer, as functions of two elements, a tangent vector and points.
Arguments = tuple[LieGroup, LieGroup, Tensor, Tensor]
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": lambda x, y, d, p: type(x).exp(d),
    "log": lambda x, y, d, p: x.log(),
    "compose": lambda x, y, d, p: x.compose(y),
    "inverse": lambda x, y, d, p: x.inverse(),
    "between": lambda x, y, d, p: x.between(y),
    "act": lambda x, y, d, p: x.act(p),
    "matmul_points": lambda x, y, d, p: x.inverse() @ p,
    "adjoint": lambda x, y, d, p: x.adjoint(),
    "matrix": lambda x, y, d, p: x.matrix(),
    "from_matrix": lambda x, y, d, p: type(x).from_matrix(x.matrix()),
    "normalized": lambda x, y, d, p: type(x)(2 * x.tensor).normalized(),
    "ad": lambda x, y, d, p: type(x).ad(d),
    "right_jacobian": lambda x, y, d, p: type(x).right_jacobian(d),
    "right_jacobian_inverse": lambda x, y, d, p: type(x).right_jacobian_inverse(d),
    "retract": lambda x, y, d, p: retract(x, d),
    "local": lambda x, y, d, p: local(x, y),
    "pull_back": lambda x, y, d, p: x.pull_back(y.tensor),
    "stack": lambda x, y, d, p: stack([x, y], -1),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def elements(group: Group, *batch: int, seed: int = 0) -> LieGroup:
    return group.exp(normal(*batch, group.tangent_dim, seed=seed))


def arguments(group: Group, *batch: int) -> Arguments:
    points = normal(*batch, 2 if group in (SO2, SE2) else 3, seed=4)
    delta = 0.7 * normal(*batch, group.tangent_dim, seed=3)
    return elements(group, *batch, seed=1), elements(group, *batch, seed=2), delta, points


def same(got: Any, expected: Any, tolerance: float = 1e-13) -> None:
    """Equal pytrees of equal types."""
    assert type(got) is type(expected)
    for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(expected), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@cost
def sighting(world_T_body: SE3, p_world: Tensor, z: Tensor, scale: Tensor) -> Tensor:
    """A user's cost: one instance, no Jacobians."""
    return scale * (world_T_body.inverse() @ p_world - z)


def example() -> tuple[Problem, Values]:
    pose, point = Variables("pose", SE3), Variables("point", Euclidean(3))
    x, p = elements(SE3, 2, 4), normal(2, 3, 3, seed=1)
    motion = elements(SE3, 1, 3, seed=2)
    problem = Problem(
        anchor=prior(pose[[0]], elements(SE3, 2, 1, seed=3), noise=Isotropic(0.1)),
        odometry=between(pose[[0, 1, 2]], pose[[1, 2, 3]], motion, loss=Huber(0.7)),
        seen=range_bearing(pose[[0, 2]], elements(SE3, 1, 2), point[[0, 1]], normal(1, 2, 2)),
        mine=sighting(pose[[1, 3, 3]], point[[1, 2, 0]], normal(1, 3, 3), normal(1, 1).exp()),
    )
    ids = {"pose": torch.arange(4), "point": torch.arange(3)}
    return problem, Values({"pose": x, "point": p}, ids)
