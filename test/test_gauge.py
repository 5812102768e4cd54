"""Where the world's origin lies does not matter: costs that are not anchored do not see it.

A global transform T moves everything that is said in the axes of the world, x ↦ T x, and leaves
alone what is said in the axes of a body. Residuals stay, and so do cost, gradient and Hessian of
poses, whose perturbations are in body axes; along the transform itself a problem is flat.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_costs import CASES, Draw, M, camera, named
from torch import Tensor

from dnls_ros import costs
from dnls_ros.lie import SE2, SE3, SO3, Element, Euclidean, LieGroup, hat3, lift
from dnls_ros.lie.so2 import quarter_turn
from dnls_ros.problem import (
    Cost,
    Diagonal,
    FactorGroup,
    GemanMcClure,
    Huber,
    Isotropic,
    Problem,
    Shared,
    SquareRootInformation,
    Values,
    Variables,
    normal_equations,
)

F64 = torch.float64
# What each argument is, a letter each: x pose or position in the world, d direction in the world,
# c camera of BAL, which maps from the world; what is left (and -) belongs to a body.
IN_THE_WORLD: dict[Cost, str] = {
    costs.between: "xx",
    costs.push_along_force: "xxx-",
    costs.random_walk: "xx",
    costs.body_twist: "xx",
    costs.constant_velocity: "x-x",
    costs.double_integrator: "x-x",
    costs.gp_motion: "x-x",
    costs.no_side_slip: "xx",
    costs.nonholonomic: "xd",
    costs.moving_frame_between: "xxxx",
    costs.point_to_plane: "x-xd",
    costs.stereo_reprojection: "x-x",
    costs.contact_in_plane: "xx",
    costs.contact_point: "xx",
    costs.contact_normal: "xx",
    costs.tactile_relative_pose: "xxxx",
    costs.tactile_relative_yaw: "xxxx",
    costs.quasi_static_push: "xxxx",
    costs.bal_reprojection: "cx",
    costs.range_bearing: "x-x",
    costs.seen_point: "xx",
    costs.tag_corners: "x-x",
    costs.landmark_reprojection: "x-x",
}
# A known pose, up, a map or an image says where the world is; joints and velocities are in none.
ANCHORED = {
    costs.prior,
    costs.partial_pose,
    costs.tilt,
    costs.collision,
    costs.homography_alignment,
    costs.end_effector_pose,
    costs.end_effector_position,
    costs.hinge,
    costs.velocity_prior,
}
FREE = [case for case, (cost, _) in CASES.items() if cost not in ANCHORED]


def moved(what: str, argument: Any, move: Element) -> Any:
    """One argument as it is after the world has moved."""
    if what == "-":
        return argument
    if isinstance(move, Tensor):
        return argument + move
    if isinstance(move, SE2) and (
        isinstance(argument, SE3) or (isinstance(argument, Tensor) and argument.shape[-1] == 3)
    ):
        move = lift(move)
    if what == "d":
        return move.rotation.act(argument)
    if what == "c":
        turn = SO3.exp(argument[..., :3]) @ move.rotation.inverse()
        shift = argument[..., 3:6] - turn.act(move.translation)
        return torch.cat([turn.log(), shift, argument[..., 6:]], -1)
    return move @ argument


def random_move(like: Element, seed: int = 5) -> Element:
    """A large transform of the poses' group; of space if the first argument is BAL's camera."""
    generator = torch.Generator().manual_seed(seed)
    group = type(like) if isinstance(like, LieGroup) else SE3 if like.shape[-1] == 9 else None
    t = group.tangent_dim if group else like.shape[-1]
    delta = 1.5 * torch.randn(1, 1, t, generator=generator, dtype=F64)
    return group.exp(delta) if group else delta


@pytest.mark.parametrize("regime", ["uniform", "normal", "near_pi"])
@pytest.mark.parametrize("case", FREE, ids=[named(c) for c in FREE])
def test_residuals_do_not_see_where_the_world_is(case, regime):
    cost, draw = CASES[case]
    assert cost in IN_THE_WORLD, (
        "say in IN_THE_WORLD what its arguments are, or that it is ANCHORED"
    )
    arguments = draw(Draw(regime))
    move = random_move(arguments[0])
    letters = IN_THE_WORLD[cost].ljust(len(arguments), "-")
    there = tuple(moved(w, a, move) for w, a in zip(letters, arguments, strict=True))
    before, after = (cost.evaluate(a, (1, M)) for a in (arguments, there))
    scale = max(1.0, float(before.abs().max()))
    torch.testing.assert_close(after / scale, before / scale, rtol=0, atol=1e-12)


def everything(group: type[SE2] | type[SE3]) -> tuple[Problem, Values]:
    """Odometry, motion, landmarks and points between 6 poses; nothing is anchored."""
    d, t, n = Draw("normal"), group.tangent_dim, 2 if group is SE2 else 3
    pose, twist = Variables("pose", group), Variables("twist", Euclidean(t))
    point, tag = Variables("point", Euclidean(n)), Variables("tag", group)
    start, end, ids = list(range(M - 1)), list(range(1, M)), list(range(M))
    few = slice(M - 1)
    x, v, z, mount = d.element(group), d.vector(t), group.exp(d.vector(t)), group.exp(d.vector(t))
    dt = d.duration()[:, few]
    factor = torch.eye(t, dtype=F64) + 0.3 * d.vector(t, t)[:, few]
    problem = Problem(
        odometry=costs.between(
            pose[start], pose[end], z[:, few], noise=SquareRootInformation(factor)
        ),
        loop=costs.between(pose[[0]], pose[[M - 1]], z[:, :1], loss=Huber(0.5)),
        walk=costs.random_walk(pose[start], pose[end], noise=Isotropic(0.2)),
        speed=costs.body_twist(pose[start], pose[end], dt, d.vector(t)[:, few]),
        motion=costs.constant_velocity(
            pose[start],
            twist[start],
            pose[end],
            twist[end],
            dt,
            noise=costs.constant_velocity_noise(torch.full((1, M - 1, t), 0.3, dtype=F64), dt),
        ),
        smooth=costs.gp_motion(pose[start], twist[start], pose[end], twist[end], dt),
        wheels=costs.no_side_slip(pose[start], pose[end]),
        relative=costs.moving_frame_between(
            tag[start], tag[end], pose[start], pose[end], z[:, few], loss=GemanMcClure(2.0)
        ),
        seen=costs.seen_point(pose[ids], point[ids], mount, 3 * d.vector(n)),
        bearing=costs.range_bearing(pose[ids], mount, point[ids], d.vector(2).abs()),
        marks=costs.between(pose[ids], tag[ids], z, noise=Diagonal(0.1 + d.vector(t).abs())),
    )
    blocks = {"pose": x, "twist": v, "point": 3 * d.vector(n), "tag": d.element(group)}
    if isinstance(x, SE3):
        seen, blocks["point"], blocks["tag"] = pictures(d, pose, point, tag, x)
        problem = problem.replace(**seen)
    return problem, Values(blocks, {name: torch.arange(M) for name in blocks})


def pictures(
    d: Draw, pose: Variables, point: Variables, tag: Variables, x: SE3
) -> tuple[dict[str, FactorGroup], Tensor, SE3]:
    """Reprojections of points and tags, and where those lie in front of the camera."""
    ids = list(range(M))
    _, mount = d.viewpoint(False)
    p, centers = d.in_view(x, mount), d.in_view(x, mount)
    lens = camera("radtan")
    corners, pixels = 0.2 * d.vector(4, 3), 200 + 100 * d.vector(4, 2)
    seen = {
        "pixels": costs.landmark_reprojection(
            pose[ids], mount, point[ids], pixels[..., 0, :], Shared(lens), loss=Huber(3.0)
        ),
        "tags": costs.tag_corners(pose[ids], mount, tag[ids], corners, pixels, Shared(lens)),
    }
    return seen, p, SE3.from_parts(SO3.exp(d.vector(3)), centers)


def carried(values: Values, move: LieGroup) -> Values:
    blocks = {n: x if n == "twist" else move @ x for n, x in values.items()}
    return Values(blocks, values.ids)


@pytest.mark.parametrize("group", [SE2, SE3])
def test_the_cost_of_a_problem_without_an_anchor_stays(group):
    problem, values = everything(group)
    there = carried(values, random_move(values["pose"]))
    for name, part in problem.items():
        torch.testing.assert_close(
            part.objective(there), part.objective(values), rtol=1e-12, atol=0, msg=name
        )
    torch.testing.assert_close(
        problem.objective(there), problem.objective(values), rtol=1e-12, atol=0
    )
    anchored = problem.replace(
        anchor=costs.prior(Variables("pose", group)[[0]], values["pose"][:, :1])
    )
    assert anchored.objective(there) > anchored.objective(values) + 1


@pytest.mark.parametrize("group", [SE2, SE3])
def test_gradient_and_hessian_of_poses_stay(group):
    problem, values = everything(group)
    move = random_move(values["pose"])
    structure = problem.structure(values)
    ends = []
    for at in (values, carried(values, move)):
        equations = normal_equations(problem, at, structure)
        dense = structure.pattern.dense(equations.hessian)
        of_body = {b.name: slice(b.offset, b.stop) for b in values.layout()}
        keep = torch.cat(
            [torch.arange(of_body[n].start, of_body[n].stop) for n in ("pose", "twist", "tag")]
        )
        ends.append((equations.gradient[:, keep], dense[:, keep][..., keep]))
    for before, after in zip(*ends, strict=True):
        scale = before.abs().max()
        torch.testing.assert_close(after / scale, before / scale, rtol=0, atol=1e-12)


def pushed(x: Element, step: Tensor) -> Tensor:
    """How x moves when the world moves by Exp(step), to first order."""
    if isinstance(x, LieGroup):  # Exp(τ) x = x Exp(Ad(x)⁻¹ τ)
        return (x.inverse().adjoint() @ step[:, None])[..., 0]
    turned = quarter_turn(x) if x.shape[-1] == 2 else hat3(step[3:])
    return step[:2] + step[2] * turned if x.shape[-1] == 2 else step[:3] + x @ turned.mT


@pytest.mark.parametrize("group", [SE2, SE3])
def test_a_problem_is_flat_along_a_global_motion_and_nowhere_else(group):
    problem, values = everything(group)
    structure = problem.structure(values)
    flat = torch.stack(
        [
            torch.cat(
                [
                    (0 * x if name == "twist" else pushed(x, step)).flatten(1)
                    for name, x in values.items()
                ],
                1,
            )
            for step in torch.eye(group.tangent_dim, dtype=F64)
        ],
        -1,
    )
    equations = normal_equations(problem, values, structure)
    hessian = structure.pattern.dense(equations.hessian)
    for product, size in (
        (equations.gradient[:, None] @ flat, equations.gradient.norm()),
        (hessian @ flat, hessian.norm()),
    ):
        assert product.norm() < 1e-12 * size * flat.norm()
    spectrum = torch.linalg.eigvalsh(hessian)[0]
    assert (spectrum < 1e-12 * spectrum[-1]).sum() == group.tangent_dim
