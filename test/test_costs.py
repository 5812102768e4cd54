"""Built-in costs: Jacobians against autodiff and differences, cameras against OpenCV, laws."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from sync_rig import Watched, on_a_device
from torch import Tensor
from torch.func import hessian, jacfwd, jacrev, vmap
from torch.utils import _pytree as pytree

import dnls_ros.costs
from dnls_ros.costs import (
    MIN_DEPTH,
    DistanceField,
    Joint,
    KinematicTree,
    Mimic,
    PinholeCamera,
    bal_reprojection,
    between,
    body_twist,
    collision,
    constant_velocity,
    constant_velocity_noise,
    contact_in_plane,
    contact_normal,
    contact_point,
    double_integrator,
    end_effector_pose,
    end_effector_position,
    gp_motion,
    hinge,
    homography,
    homography_alignment,
    landmark_reprojection,
    moving_frame_between,
    no_side_slip,
    nonholonomic,
    partial_pose,
    point_to_plane,
    prior,
    push_along_force,
    quasi_static_push,
    random_walk,
    range_bearing,
    seen_point,
    stereo_reprojection,
    tactile_relative_pose,
    tactile_relative_yaw,
    tag_corners,
    tilt,
    velocity_prior,
    warped,
    white_acceleration_noise,
)
from dnls_ros.errors import DnlsError
from dnls_ros.lie import (
    SE2,
    SE3,
    SO2,
    SO3,
    Element,
    LieGroup,
    lift,
    retract,
    tangent_dim,
)
from dnls_ros.lie.so2 import quarter_turn
from dnls_ros.problem import (
    Cost,
    Shared,
    SquareRootInformation,
    Values,
    Variables,
    check_jacobians,
)

F64 = torch.float64
M = 6  # instances per case
# The first forward-mode derivative makes torch compile some of its own functions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

CAMERAS = {
    "none": ("", []),
    "radtan": ("plumb_bob", [-0.28, 0.07, 1.2e-3, -0.8e-3, 0.02]),
    "equidistant": ("equidistant", [-0.02, 0.03, -0.01, 0.002]),
}


def camera(model: str) -> PinholeCamera:
    name, coefficients = CAMERAS[model]
    focal, center = torch.tensor([[420.0, 430.0], [320.0, 240.0]], dtype=F64)
    return PinholeCamera(focal, center, torch.tensor(coefficients, dtype=F64), name)


@dataclass
class Draw:
    """Random arguments in one of the regimes: anywhere, near the identity, near half a turn."""

    regime: str
    seed: int = 0
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def vector(self, *shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.tensor(self.random.standard_normal((1, M, *shape)))

    def tangent(self, t: int) -> Tensor:
        if self.regime == "uniform":
            return torch.tensor(self.random.uniform(-1.7, 1.7, (1, M, t)))
        scale = {"normal": 1.0, "near_pi": 1.0, "1e-7": 1e-7, "1e-12": 1e-12}[self.regime]
        return self.vector(t, scale=scale)

    def step(self, kind: type[LieGroup] | int) -> Tensor:
        """A tangent vector; near π its angle is a hundredth to a tenth short of half a turn."""
        if isinstance(kind, int):
            return self.tangent(kind)
        delta = self.tangent(kind.tangent_dim)
        if self.regime != "near_pi":
            return delta
        n = 3 if kind in (SO3, SE3) else 1
        angle = math.pi - 10.0 ** torch.tensor(self.random.uniform(-2, -1, (1, M, 1)))
        turn = angle * torch.nn.functional.normalize(delta[..., -n:], dim=-1)
        return torch.cat([delta[..., :-n], turn], -1)

    def element(self, kind: type[LieGroup] | int) -> Element:
        return self.step(kind) if isinstance(kind, int) else kind.exp(self.step(kind))

    def pair(self, kind: type[LieGroup] | int) -> tuple[Element, Element]:
        """Two elements; in the small regimes anywhere, but near each other."""
        x = self.element(kind)
        if self.regime.startswith("1e"):
            x = kind.exp(self.vector(kind.tangent_dim)) if not isinstance(kind, int) else x
        return x, retract(x, self.step(kind))

    def duration(self) -> Tensor:
        return torch.tensor(self.random.uniform(0.05, 2.0, (1, M)))

    def viewpoint(self, planar: bool) -> tuple[Element, SE3]:
        """A body, and its camera that looks along the body's x axis."""
        body = self.element(SE2 if planar else SE3)
        forward = SE3(torch.tensor([0.1, 0.05, 0.4, -0.5, 0.5, -0.5, 0.5], dtype=F64))
        near = SE3.exp(0.1 * self.tangent(6))
        return body, forward @ near

    def in_view(self, body: Element, mount: SE3, *shape: int) -> Tensor:
        """World points (1, M, *shape, 3) in front of the camera."""
        p = torch.tensor(self.random.uniform(-1.0, 1.0, (1, M, *shape, 3)))
        p[..., 2] += 3.0
        world = (lift(body) if isinstance(body, SE2) else body) @ mount
        return SE3(world.tensor.view(1, M, *[1] * len(shape), 7)) @ p


Case = tuple[Cost, Callable[[Draw], tuple[Any, ...]]]


def poses(cost: Cost, kind: type[LieGroup] | int, extra: Callable[[Draw], tuple] = lambda d: ()):
    return cost, lambda d: (*d.pair(kind), *extra(d))


def _tag(planar: bool, model: str) -> Callable[[Draw], tuple[Any, ...]]:
    def arguments(d: Draw) -> tuple[Any, ...]:
        body, mount = d.viewpoint(planar)
        center = d.in_view(body, mount)
        turn = SO3.exp(d.tangent(3)).xyzw
        landmark = SE3(torch.cat([center, turn], -1))
        corners = 0.2 * d.vector(4, 3)
        shared = camera(model)
        data = PinholeCamera(
            *(t.expand(1, M, -1) for t in (shared.focal, shared.center, shared.coefficients)),
            shared.model,
        )
        return body, mount, landmark, corners, 100 * d.vector(4, 2), data

    return arguments


def _point(planar: bool, model: str) -> Callable[[Draw], tuple[Any, ...]]:
    def arguments(d: Draw) -> tuple[Any, ...]:
        body, mount, landmark, _, pixels, data = _tag(planar, model)(d)
        return body, mount, landmark.translation, pixels[..., 0, :], data

    return arguments


def _range(body: type[LieGroup], sensor: type[LieGroup], n: int) -> Case:
    def arguments(d: Draw) -> tuple[Any, ...]:
        z = torch.cat([d.duration()[..., None], 3 * d.vector(1)], -1)
        return d.element(body), d.element(sensor), 2 * d.vector(n), z

    return range_bearing, arguments


def _seen(kind: type[LieGroup], n: int) -> Case:
    return seen_point, lambda d: (d.element(kind), 2 * d.vector(n), d.element(kind), d.vector(n))


def _partial(kind: type[LieGroup]) -> Case:
    def arguments(d: Draw) -> tuple[Any, ...]:
        x, y = d.pair(kind)
        mount = kind.exp(d.vector(kind.tangent_dim))
        return x, mount, y @ mount

    return partial_pose, arguments


def _between(kind: type[LieGroup] | int) -> Case:
    def arguments(d: Draw) -> tuple[Any, ...]:
        x, y = d.pair(kind)
        z = x.between(y) if isinstance(x, LieGroup) else y - x
        return x, y, retract(z, d.step(kind))

    return between, arguments


def _velocity(kind: type[LieGroup] | int) -> Case:
    def arguments(d: Draw) -> tuple[Any, ...]:
        x, y = d.pair(kind)
        t = tangent_dim(x)
        return x, d.vector(t), y, d.vector(t), d.duration()

    return constant_velocity, arguments


def _point_to_plane(kind: type[LieGroup], n: int) -> Case:
    def arguments(d: Draw) -> tuple[Any, ...]:
        normal = torch.nn.functional.normalize(d.vector(n), dim=-1)
        return d.element(kind), d.vector(n), d.vector(n), normal

    return point_to_plane, arguments


def _moving_frame(kind: type[LieGroup]) -> Case:
    def arguments(d: Draw) -> tuple[Any, ...]:
        frames, poses = d.pair(kind), d.pair(kind)
        a, b = (f.between(x) for f, x in zip(frames, poses, strict=True))
        return *frames, *poses, retract(a.between(b), d.step(kind))

    return moving_frame_between, arguments


def _stereo(planar: bool) -> Callable[[Draw], tuple[Any, ...]]:
    def arguments(d: Draw) -> tuple[Any, ...]:
        body, mount, p, _, data = _point(planar, "none")(d)
        return body, mount, p, 0.1 + 0.1 * d.duration()[..., None], 100 * d.vector(3), data

    return arguments


def _integrator(kind: type[LieGroup] | int) -> Case:
    def arguments(d: Draw) -> tuple[Any, ...]:
        *states, dt = _velocity(kind)[1](d)
        return *states, d.vector(states[1].shape[-1]), dt

    return double_integrator, arguments


def _field(d: Draw) -> DistanceField:
    """A rough map of 3 m × 4 m around the origin, one per instance."""
    origin = torch.tensor([-2.0, -1.5], dtype=F64).expand(1, M, 2)
    return DistanceField(d.vector(7, 9), origin, torch.full((1, M, 1), 0.5, dtype=F64))


def _collision(kind: type[LieGroup] | int) -> Case:
    def arguments(d: Draw) -> tuple[Any, ...]:
        return d.element(kind), 0.7 * d.vector(4, 2), 0.3 + d.duration()[..., None], _field(d)

    return collision, arguments


def _contact(tip: type[LieGroup] | int) -> Case:
    def arguments(d: Draw) -> tuple[Any, ...]:
        touching = SE2.exp(d.vector(3))
        other = d.element(SE2)
        e = other @ touching
        return other, e if tip is SE2 else e.translation, d.duration()[..., None], _field(d)

    return contact_in_plane, arguments


def _contact_at(cost: Cost, last: int) -> Case:
    def arguments(d: Draw) -> tuple[Any, ...]:
        other = d.element(SE2)
        e = other @ SE2.exp(d.vector(3))
        return other, e, 0.25 * d.vector(2), d.vector(last), _field(d)

    return cost, arguments


def _push(tip: type[LieGroup] | int) -> Case:
    def arguments(d: Draw) -> tuple[Any, ...]:
        tips = d.pair(SE2)
        ends = tips if tip is SE2 else tuple(e.translation for e in tips)
        return *d.pair(SE2), *ends, d.duration()[..., None]

    return quasi_static_push, arguments


def _alignment(channels: int) -> Case:
    def arguments(d: Draw) -> tuple[Any, ...]:
        h = 0.1 * d.tangent(8)
        # Seen inside of cells of the image: between them its derivative jumps.
        cells = d.random.integers(0, 9, (1, M, 5, 2)) + d.random.uniform(0.1, 0.9, (1, M, 5, 2))
        seen = torch.cat([torch.tensor(cells) / 9, torch.ones(1, M, 5, 1, dtype=F64)], -1)
        back = seen @ torch.linalg.inv(homography(h)).mT
        points = back[..., :2] / back[..., 2:]
        image = d.vector(channels, 12, 10)
        return h, points, d.vector(5, channels), image, torch.full((1, M, 1), 9.0, dtype=F64)

    return homography_alignment, arguments


def _bundle(d: Draw) -> tuple[Any, ...]:
    x = d.element(SE3)
    p_camera = d.vector(3) * torch.tensor([1.0, 1.0, 0.3], dtype=F64)
    p_camera = p_camera - torch.tensor([0.0, 0.0, 4.0], dtype=F64)
    lens = torch.tensor([500.0, 0.1, 0.05], dtype=F64) * (1 + 0.2 * d.vector(3))
    camera = torch.cat([x.rotation.log(), x.translation, lens], -1)
    return camera, x.inverse() @ p_camera, 100 * d.vector(2)


def _limits(d: Draw) -> tuple[Any, ...]:
    return d.tangent(5), -0.8 + 0.1 * d.vector(5), 0.6 + 0.1 * d.vector(1)


def _arm(d: Draw) -> KinematicTree:
    """A chain of all kinds of joints, placed at random; one for all instances."""
    kinds = ("revolute", "prismatic", "fixed", "continuous", "revolute", "revolute", "fixed")
    places = SE3.exp(d.vector(len(kinds), 6)[0, 0])
    axes = d.vector(len(kinds), 3)[0, 0].tolist()
    joints = [
        Joint(f"j{k}", kind, f"l{k}", f"l{k + 1}", places[k], tuple(axes[k]), (-2.0, 2.0))
        for k, kind in enumerate(kinds)
    ]
    joints[3] = replace(joints[3], mimic=Mimic("j1", -0.6, 0.2))
    return pytree.tree_map(lambda t: t[None, None], KinematicTree.of(joints))


def _reach(point: bool) -> Callable[[Draw], tuple[Any, ...]]:
    def arguments(d: Draw) -> tuple[Any, ...]:
        arm, q = _arm(d), d.tangent(4)
        tip = arm.pose(q)
        return q, tip.translation + d.vector(3) if point else retract(tip, d.step(SE3)), arm

    return arguments


KINDS: list[type[LieGroup] | int] = [SO2, SE2, SO3, SE3, 2]
CASES: dict[str, Case] = {
    **{f"prior-{k}": poses(prior, k) for k in KINDS},
    **{f"between-{k}": _between(k) for k in KINDS},
    **{f"random_walk-{k}": poses(random_walk, k) for k in KINDS},
    **{
        f"body_twist-{k}": poses(
            body_twist, k, lambda d, k=k: (d.duration(), d.vector(getattr(k, "tangent_dim", k)))
        )
        for k in KINDS
    },
    **{f"constant_velocity-{k}": _velocity(k) for k in KINDS},
    **{f"double_integrator-{k}": _integrator(k) for k in KINDS},
    **{f"gp_motion-{k}": (gp_motion, _velocity(k)[1]) for k in KINDS},
    **{f"no_side_slip-{k}": poses(no_side_slip, k) for k in (SE2, SE3)},
    **{
        f"nonholonomic-{n}": (nonholonomic, lambda d, n=n: (d.element(SE2), d.vector(n)))
        for n in (2, 3)
    },
    **{f"moving_frame_between-{k}": _moving_frame(k) for k in (SO2, SE2, SO3, SE3)},
    "point_to_plane-plane": _point_to_plane(SE2, 2),
    "point_to_plane-lifted": _point_to_plane(SE2, 3),
    "point_to_plane-space": _point_to_plane(SE3, 3),
    "stereo-planar": (stereo_reprojection, _stereo(True)),
    "stereo-space": (stereo_reprojection, _stereo(False)),
    "collision-SE2": _collision(SE2),
    "collision-point": _collision(2),
    "contact_in_plane-SE2": _contact(SE2),
    "contact_in_plane-point": _contact(2),
    "contact_point": _contact_at(contact_point, 1),
    "contact_normal": _contact_at(contact_normal, 2),
    "quasi_static_push-SE2": _push(SE2),
    "quasi_static_push-point": _push(2),
    "push_along_force": (
        push_along_force,
        lambda d: (*d.pair(SE2), d.element(SE2), d.vector(2)),
    ),
    "tactile_relative_pose": (
        tactile_relative_pose,
        lambda d: (*d.pair(SE2), *d.pair(SE2), d.element(SE2)),
    ),
    "tactile_relative_yaw": (
        tactile_relative_yaw,
        lambda d: (*d.pair(SE2), *d.pair(SE2), 0.5 + d.duration()[..., None] * d.vector(2).exp()),
    ),
    "homography_alignment-1": _alignment(1),
    "homography_alignment-3": _alignment(3),
    "bal_reprojection": (bal_reprojection, _bundle),
    "end_effector_pose": (end_effector_pose, _reach(False)),
    "end_effector_position": (end_effector_position, _reach(True)),
    "hinge": (hinge, _limits),
    "tilt": (tilt, lambda d: (d.element(SE3), torch.nn.functional.normalize(d.vector(3), dim=-1))),
    "velocity_prior": (velocity_prior, lambda d: (d.vector(6), d.vector(6))),
    "partial_pose-SE2": _partial(SE2),
    "partial_pose-SE3": _partial(SE3),
    "seen_point-plane": _seen(SE2, 2),
    "seen_point-space": _seen(SE3, 3),
    "range_bearing-plane": _range(SE2, SE2, 2),
    "range_bearing-mounted": _range(SE2, SE3, 3),
    "range_bearing-lifted": _range(SE2, SE2, 3),
    "range_bearing-space": _range(SE3, SE3, 3),
    **{
        f"tag_corners-{p}-{m}": (tag_corners, _tag(p == "planar", m))
        for p in ("planar", "space")
        for m in CAMERAS
    },
    **{
        f"landmark_reprojection-{p}-{m}": (landmark_reprojection, _point(p == "planar", m))
        for p in ("planar", "space")
        for m in CAMERAS
    },
}


def named(case: str) -> str:
    return case.replace("<class 'dnls_ros.lie.", "").replace("'>", "")


def test_every_cost_of_the_package_is_public_and_among_the_cases():
    listed = {cost.name: cost for cost, _ in CASES.values()}
    found: dict[str, Cost] = {}
    for module in pkgutil.iter_modules(dnls_ros.costs.__path__):
        named_here = vars(importlib.import_module(f"dnls_ros.costs.{module.name}"))
        found |= {c.name: c for c in named_here.values() if isinstance(c, Cost)}
    assert found.keys() == listed.keys(), "a cost without a case: add one to CASES"
    for name, cost in found.items():
        assert cost.analytic is not None
        assert listed[name] is cost
        assert getattr(dnls_ros.costs, name) is cost, f"dnls_ros.costs does not export {name}"


@pytest.mark.parametrize("regime", ["uniform", "normal", "1e-7", "1e-12", "near_pi"])
@pytest.mark.parametrize("case", CASES, ids=[named(c) for c in CASES])
def test_analytic_jacobians_equal_autodiff_and_central_differences(case, regime):
    cost, draw = CASES[case]
    arguments = draw(Draw(regime))
    assert cost.analytic is not None
    together, _ = cost.linearize(arguments, (1, M), (0,))
    assert torch.equal(together, cost.evaluate(arguments, (1, M)))
    blocks = cost.analytic(*arguments)
    analytic = [b() if callable(b) else b for b in blocks]
    positions = tuple(range(len(analytic)))
    residual = cost.evaluate(arguments, (1, M))
    scale = max(1.0, float(residual.abs().max()))
    auto = cost.autodiff(arguments, (1, M), positions)
    for k in positions:
        expected = (1, M, residual.shape[-1], tangent_dim(arguments[k]))
        block = analytic[k].expand(expected)
        assert block.isfinite().all()
        torch.testing.assert_close(block, auto[k], rtol=1e-10, atol=1e-10)
        numeric = central_differences(cost, arguments, k)
        torch.testing.assert_close(block, numeric, rtol=1e-7, atol=1e-7 * scale)


@pytest.mark.parametrize("case", CASES, ids=[named(c) for c in CASES])
def test_no_cost_asks_a_device_for_numbers(case):
    cost, draw = CASES[case]
    arguments = on_a_device(draw(Draw("normal")))

    def evaluated() -> None:
        with torch.inference_mode():
            residual, blocks = cost.linearize(arguments, (1, M), (0,))
            differentiated = cost.autodiff(arguments, (1, M), (0,))
            moved = retract(arguments[0], blocks[0].sum(-2))
            assert cost.evaluate((moved, *arguments[1:]), (1, M)).shape == residual.shape
        assert differentiated[0].shape == blocks[0].shape

    evaluated()  # constants are moved once
    with Watched():
        evaluated()


def central_differences(cost: Cost, arguments: tuple[Any, ...], k: int) -> Tensor:
    """Fourth order: rounding and truncation of the pixel costs are both below 1e-7."""
    columns, step = [], 2e-4
    for axis in torch.eye(tangent_dim(arguments[k]), dtype=F64):

        def at(steps: float, axis: Tensor = axis) -> Tensor:
            moved = retract(arguments[k], steps * step * axis)
            return cost.evaluate((*arguments[:k], moved, *arguments[k + 1 :]), (1, M))

        columns.append((8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step))
    return torch.stack(columns, -1)


def test_the_public_check_accepts_a_built_in_cost():
    x, y, z = (SE3.exp(v) for v in Draw("normal").vector(6)[0, :3])
    worst = check_jacobians(between, x, y, z)
    assert worst["autodiff"] < 1e-13
    assert worst["numeric"] < 1e-8


@pytest.mark.parametrize("batch", [1, 3])
def test_residuals_and_jacobians_broadcast_over_the_batch_axis(batch):
    d = Draw("normal")
    for case in (
        "between-" + str(SE3),
        "constant_velocity-" + str(SE2),
        "tag_corners-planar-radtan",
    ):
        cost, draw = CASES[case]
        arguments = draw(d)
        first = arguments[0]
        many = type(first)(first.tensor.expand(batch, -1, -1))
        expected = cost.evaluate(arguments, (1, M)).expand(batch, -1, -1)
        torch.testing.assert_close(cost.evaluate((many, *arguments[1:]), (batch, M)), expected)
        blocks = cost.differentiate((many, *arguments[1:]), (batch, M), (0, 1))
        assert all(b.shape[:2] == (batch, M) for b in blocks)


# -- cameras ------------------------------------------------------------------------------------


def points_in_view(n: int = 200) -> Tensor:
    random = np.random.default_rng(3)
    p = random.uniform(-1.0, 1.0, (n, 3)) * [1.2, 0.9, 1.0] + [0, 0, 2.2]
    p[0, :2] = 0.0  # the optical axis
    p[1, :2] = 1e-9
    return torch.tensor(p)


@pytest.mark.parametrize("model", CAMERAS)
def test_projection_agrees_with_opencv(model):
    c, p = camera(model), points_in_view()
    matrix = np.array([[420.0, 0, 320], [0, 430, 240], [0, 0, 1]])
    coefficients = np.array(CAMERAS[model][1])
    still = np.zeros(3)
    if model == "equidistant":
        theirs, _ = cv2.fisheye.projectPoints(
            p[:, None].numpy(), still, still, matrix, coefficients
        )
    else:
        theirs, _ = cv2.projectPoints(p.numpy(), still, still, matrix, coefficients)
    torch.testing.assert_close(c.project(p), torch.tensor(theirs[:, 0]), rtol=0, atol=1e-9)
    assert c.visible(p).all()


@pytest.mark.parametrize("model", CAMERAS)
def test_the_projection_jacobian_is_its_derivative(model):
    c, p = camera(model), points_in_view()
    for differentiate in (jacrev, jacfwd):
        torch.testing.assert_close(c.jacobian(p), vmap(differentiate(c.project))(p))
    assert vmap(hessian(c.project))(p).isfinite().all()


@pytest.mark.parametrize("model", CAMERAS)
def test_points_behind_the_camera_give_finite_numbers_and_are_not_visible(model):
    c = camera(model)
    p = torch.tensor([[0.3, 0.2, -1.0], [0.3, 0.2, 0.0], [0, 0, 0], [1, 1, 1e-9]], dtype=F64)
    assert not c.visible(p).any()
    assert c.project(p).isfinite().all()
    assert c.jacobian(p).isfinite().all()
    torch.testing.assert_close(c.jacobian(p), vmap(jacrev(c.project))(p))
    assert (c.jacobian(p)[..., 2] == 0).all()
    edge = torch.tensor([0.3, 0.2, MIN_DEPTH], dtype=F64)
    torch.testing.assert_close(c.project(p[0]), c.project(edge))


def test_points_where_the_distortion_folds_back_are_not_visible():
    c = PinholeCamera(*torch.ones(2, 2, dtype=F64), torch.tensor([-0.3, 0, 0, 0, 0.0]), "radtan")
    p = torch.tensor([[0.9, 0.0, 1.0], [1.2, 0.0, 1.0]], dtype=F64)  # the fold is at r = 1.054
    assert c.visible(p).tolist() == [True, False]


def test_a_camera_with_the_wrong_coefficients_is_refused():
    with pytest.raises(DnlsError, match="'rational_polynomial' is unknown"):
        PinholeCamera(torch.ones(2), torch.ones(2), torch.ones(8), "rational_polynomial")
    with pytest.raises(DnlsError, match=r"expected \(2, 2, 5\)"):
        PinholeCamera(torch.ones(2), torch.ones(2), torch.ones(4), "plumb_bob")


def test_a_camera_is_made_of_a_calibration():
    @dataclass
    class Calibration:
        focal: tuple[float, float] = (400.0, 401.0)
        center: tuple[float, float] = (320.0, 240.0)
        distortion_model: str = "equidistant"
        coefficients: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)

    made = PinholeCamera.of(Calibration())
    assert made.model == "equidistant"
    assert made.focal.tolist() == [400.0, 401.0]
    assert made.coefficients.dtype == F64
    assert PinholeCamera.of(Calibration(distortion_model="", coefficients=())).model == ""


# -- what the residuals mean --------------------------------------------------------------------


def test_tag_corners_of_a_planar_body_are_those_of_the_lifted_body():
    body, *rest = _tag(True, "radtan")(Draw("normal"))
    torch.testing.assert_close(
        tag_corners.residual(body, *rest), tag_corners.residual(lift(body), *rest)
    )


def test_a_tag_seen_where_it_is_leaves_no_residual():
    body, mount, landmark, corners, pixels, data = _tag(False, "equidistant")(Draw("normal"))
    predicted = tag_corners.residual(body, mount, landmark, corners, 0 * pixels, data)
    again = tag_corners.residual(
        body, mount, landmark, corners, predicted.unflatten(-1, (4, 2)), data
    )
    torch.testing.assert_close(again, torch.zeros_like(again), rtol=0, atol=1e-12)
    world = SE3(landmark.tensor.unsqueeze(-2)) @ corners
    for k in range(4):
        one = landmark_reprojection.residual(
            body, mount, world[..., k, :], 0 * pixels[..., k, :], data
        )
        torch.testing.assert_close(one, predicted[..., 2 * k : 2 * k + 2])


@pytest.mark.parametrize("offset", [-1e-3, 0.0, 1e-3])
def test_the_bearing_difference_is_smooth_across_half_a_turn(offset):
    behind = torch.tensor([-2.0, offset], dtype=F64)
    z = torch.tensor([2.0, math.pi - 1e-4], dtype=F64)
    here = SE2.identity(dtype=F64)
    bearing = math.atan2(behind[1], behind[0])
    expected = math.remainder(bearing - float(z[1]), 2 * math.pi)
    assert abs(float(range_bearing.residual(here, here, behind, z)[1]) - expected) < 1e-14
    assert abs(expected) < 1e-3


def test_a_landmark_at_the_sensor_gives_finite_numbers():
    for n, kind in ((2, SE2), (3, SE3)):
        here, z = kind.identity(1, 1, dtype=F64), torch.ones(1, 1, 2, dtype=F64)
        p = torch.zeros(1, 1, n, dtype=F64)
        assert range_bearing.residual(here, here, p, z).isfinite().all()
        analytic = range_bearing.analytic(here, here, p, z)
        auto = range_bearing.autodiff((here, here, p, z), (1, 1), (0, 1, 2))
        for a, b in zip(analytic, auto, strict=True):
            assert a.isfinite().all()
            torch.testing.assert_close(a, b)


def test_a_planar_landmark_needs_a_planar_sensor():
    z = torch.ones(2, dtype=F64)
    with pytest.raises(DnlsError, match="give landmarks in space 3 coordinates"):
        range_bearing.residual(SE2.identity(dtype=F64), SE3.identity(dtype=F64), z, z)


def test_a_position_fix_with_a_lever_arm_is_measured_along_the_axes_of_the_world():
    d = Draw("normal")
    x, mount, z = (SE3.exp(d.vector(6)) for _ in range(3))
    r = partial_pose.residual(x, mount, z)
    antenna = x @ mount.translation
    torch.testing.assert_close(r[..., :3], antenna - z.translation)
    turned = SO3.exp(r[..., 3:]) @ z.rotation
    torch.testing.assert_close(turned.matrix(), (x @ mount).rotation.matrix())


# -- motion models ------------------------------------------------------------------------------


def test_constant_velocity_noise_is_integrated_white_acceleration():
    sigma, dt = torch.tensor([0.1, 0.5, 2.0], dtype=F64), torch.tensor(0.7, dtype=F64)
    factor = constant_velocity_noise(sigma, dt).factor.reshape(6, 6)
    q = torch.tensor([[0.7**3 / 3, 0.7**2 / 2], [0.7**2 / 2, 0.7]], dtype=F64)
    covariance = torch.kron(q, torch.diag(sigma**2))
    torch.testing.assert_close(factor.mT @ factor @ covariance, torch.eye(6, dtype=F64))


def test_white_acceleration_of_any_covariance_is_integrated() -> None:
    root = Draw("normal").vector(3, 3)[0, :2]
    density, dt = root @ root.mT + torch.eye(3, dtype=F64), torch.tensor([0.4, 1.3], dtype=F64)
    factor = white_acceleration_noise(density, dt).factor
    for k, h in enumerate(dt.tolist()):
        q = torch.tensor([[h**3 / 3, h**2 / 2], [h**2 / 2, h]], dtype=F64)
        product = factor[k].mT @ factor[k] @ torch.kron(q, density[k])
        torch.testing.assert_close(product, torch.eye(6, dtype=F64))
    sigma = torch.tensor([[0.1, 0.5, 2.0]], dtype=F64).expand(2, 3)
    torch.testing.assert_close(
        white_acceleration_noise(torch.diag_embed(sigma.square()), dt).factor,
        constant_velocity_noise(sigma, dt).factor.reshape(2, 6, 6),
    )


def test_the_double_integrator_keeps_to_newton() -> None:
    d = Draw("normal")
    x, v, a, dt = d.vector(2), d.vector(2), d.vector(2), d.duration()
    h = dt[..., None]
    r = double_integrator.residual(x, v, x + v * h + a * h * h / 2, v + a * h, a, dt)
    torch.testing.assert_close(r, torch.zeros_like(r), rtol=0, atol=1e-14)


@pytest.mark.parametrize("group", [SE2, SO3, SE3])
def test_the_gaussian_process_carries_a_changing_twist_of_the_body(group):
    """ξ(t) = a t + b t²: the velocity of the body is J_r(ξ) ξ̇, and the process is a t."""
    d = Draw("normal")
    x, a, b, dt = (
        d.element(group),
        *(0.4 * d.vector(group.tangent_dim) for _ in "ab"),
        d.duration(),
    )
    h = dt[..., None]
    xi = a * h + b * h * h
    v_j = (group.right_jacobian(xi) @ (a + 2 * b * h)[..., None])[..., 0]
    step = 1e-6
    ahead = retract(x, a * (h + step) + b * (h + step) ** 2)
    torch.testing.assert_close(v_j, retract(x, xi).between(ahead).log() / step, atol=1e-5, rtol=0)
    r = gp_motion.residual(x, a, retract(x, xi), v_j, dt)
    expected = torch.cat([b * h * h, 2 * b * h], -1)
    torch.testing.assert_close(r, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", [SE2, SE3])
def test_a_wheeled_body_on_an_arc_does_not_slip(group):
    d, n = Draw("normal"), 2 if group is SE2 else 3
    twist = d.vector(group.tangent_dim)
    twist[..., 1:n] = 0.0
    x = d.element(group)
    r = no_side_slip.residual(x, retract(x, twist))
    torch.testing.assert_close(r, torch.zeros_like(r), rtol=0, atol=1e-14)
    if group is SE2:
        v = x.rotation.act(twist[..., :2])
        torch.testing.assert_close(nonholonomic.residual(x, v), torch.zeros_like(r))


def test_stereo_pixels_are_those_of_two_cameras_and_of_a_rectified_pair_only() -> None:
    body, mount, p, baseline, pixels, data = _stereo(False)(Draw("normal"))
    r = stereo_reprojection.residual(body, mount, p, baseline, 0 * pixels, data)
    shift = torch.cat([baseline, torch.zeros(1, M, 5, dtype=F64)], -1)
    left, right = (
        landmark_reprojection.residual(body, m, p, torch.zeros(1, 1, 2, dtype=F64), data)
        for m in (mount, retract(mount, shift))
    )
    torch.testing.assert_close(r, torch.stack([left[..., 0], right[..., 0], left[..., 1]], -1))
    torch.testing.assert_close(left[..., 1], right[..., 1])
    bent = camera("radtan").per_point()
    with pytest.raises(DnlsError, match="'plumb_bob', expected none; rectify"):
        stereo_reprojection.residual(body, mount, p, baseline, pixels, bent)


def test_a_bal_camera_is_a_pinhole_that_looks_along_minus_z() -> None:
    nine, p, pixel = _bundle(Draw("normal"))
    lens = nine[..., 6:]
    ahead = (SO3.exp(nine[..., :3]).act(p) + nine[..., 3:6]) * torch.tensor(
        [1.0, 1.0, -1.0], dtype=F64
    )
    zero = torch.zeros_like(lens[..., :1])
    coefficients = torch.cat([lens[..., 1:], zero, zero, zero], -1)
    focal = lens[..., :1].expand(1, M, 2)
    pinhole = PinholeCamera(focal, torch.zeros_like(focal), coefficients, "plumb_bob")
    r = bal_reprojection.residual(nine, p, pixel)
    torch.testing.assert_close(r, pinhole.project(ahead) - pixel)


def test_a_hinge_counts_only_what_is_beyond_the_limits() -> None:
    x = torch.tensor([-2.0, -1.0, 0.3, 1.0, 1.5], dtype=F64)
    r = hinge.residual(x, torch.tensor([-1.0], dtype=F64), torch.ones(5, dtype=F64))
    assert r.tolist() == [-1.0, 0.0, 0.0, 0.0, 0.5]


# -- maps, contact, images ----------------------------------------------------------------------


def test_a_distance_field_is_bilinear_inside_and_keeps_its_border_outside() -> None:
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=F64) for n in (5, 7)), indexing="ij")
    origin, cell = torch.tensor([-1.0, 2.0], dtype=F64), torch.tensor([0.25], dtype=F64)
    x, y = origin[0] + 0.25 * columns, origin[1] + 0.25 * rows
    field = DistanceField(2 * x - 3 * y + x * y, origin, cell)
    p = torch.tensor([[-1.0, 2.0], [-0.4, 2.3], [0.5, 3.0], [0.31, 2.99]], dtype=F64)
    distance, gradient = field.at(p)
    x, y = p.unbind(-1)
    torch.testing.assert_close(distance, 2 * x - 3 * y + x * y)
    torch.testing.assert_close(gradient, torch.stack([2 + y, x - 3], -1))
    far = torch.tensor([[-9.0, 2.3], [0.2, 99.0], [9.0, -9.0]], dtype=F64)
    border = torch.tensor([[-1.0, 2.3], [0.2, 3.0], [0.5, 2.0]], dtype=F64)
    torch.testing.assert_close(field.at(far)[0], field.at(border)[0])
    assert (field.at(far)[1] == 0).tolist() == [[True, False], [False, True], [True, True]]


def test_a_distance_field_of_the_wrong_shape_is_refused() -> None:
    origin, cell = torch.zeros(2, dtype=F64), torch.ones(1, dtype=F64)
    with pytest.raises(DnlsError, match="H, W ≥ 2"):
        DistanceField(torch.zeros(1, 5, dtype=F64), origin, cell)
    with pytest.raises(DnlsError, match="cell must be positive"):
        DistanceField(torch.zeros(3, 5, dtype=F64), origin, -cell)


def _disc(radius: float) -> DistanceField:
    axis = torch.linspace(-1, 1, 401, dtype=F64)
    distance = torch.hypot(axis[None, :], axis[:, None]) - radius
    return DistanceField(distance, torch.tensor([-1.0, -1.0], dtype=F64), axis[1:2] - axis[0])


def test_a_tip_that_touches_a_disc_leaves_no_residual_and_a_circle_inside_it_collides() -> None:
    d, disc = Draw("normal"), _disc(0.3)
    angle = d.vector(1)[0]
    p = torch.cat([angle.cos(), angle.sin()], -1)
    thing, radius = SE2.exp(d.vector(3)[0]), torch.tensor([0.05], dtype=F64)
    tip = thing.act(0.35 * p)
    r = contact_in_plane.residual(thing, tip, radius, disc)
    torch.testing.assert_close(r, torch.zeros_like(r), rtol=0, atol=2e-5)
    points = torch.stack([0.2 * p, 0.32 * p, 0.5 * p], -2)
    r = collision.residual(SE2.identity(dtype=F64), points, radius, disc)
    expected = torch.tensor([0.15, 0.03, 0.0], dtype=F64).expand_as(r)
    torch.testing.assert_close(r, expected, rtol=0, atol=2e-5)


def test_a_tip_beyond_the_distance_field_has_no_distance() -> None:
    thing, radius = SE2.identity(dtype=F64), torch.tensor([0.05], dtype=F64)
    tips = torch.tensor([[0.9, 0.9], [1.01, 0.0], [0.0, -1.01]], dtype=F64)
    r = contact_in_plane.residual(thing, tips, radius, _disc(0.3))
    assert r.isfinite().flatten().tolist() == [True, False, False]


def test_pushing_along_the_motion_of_the_limit_surface_leaves_no_residual() -> None:
    """The motion cone's map of Lynch: the velocity of the contact point gives the twist."""
    d = Draw("normal")
    thing, p, push = d.element(SE2), 0.1 * d.vector(2), d.vector(2)
    c = 0.05 + 0.1 * d.duration()[..., None]
    x, y = p.split(1, -1)
    u, v = push.split(1, -1)
    scale = c * c + x * x + y * y
    vx = ((c * c + x * x) * u + x * y * v) / scale
    vy = (x * y * u + (c * c + y * y) * v) / scale
    twist = torch.cat([vx, vy, (x * vy - y * vx) / (c * c)], -1)
    contact_speed = torch.cat([vx - twist[..., 2:] * y, vy + twist[..., 2:] * x], -1)
    torch.testing.assert_close(contact_speed, push)
    after = retract(thing, twist)
    r = quasi_static_push.residual(thing, after, thing.act(p), after.act(p), c)
    torch.testing.assert_close(r, torch.zeros_like(r), rtol=0, atol=1e-13)


def test_the_centre_of_friction_moves_along_the_force() -> None:
    """On an arc too: its chord has the direction of the velocity half way."""
    d = Draw("normal")
    thing, twist, ee = d.element(SE2), 0.1 * d.vector(3), d.element(SE2)
    after = retract(thing, twist)
    half_way = retract(thing, 0.5 * twist).rotation.act(twist[..., :2])
    force = ee.rotation.inverse().act(half_way)
    r = push_along_force.residual(thing, after, ee, force)
    torch.testing.assert_close(r, torch.zeros_like(r), rtol=0, atol=1e-13)
    across = push_along_force.residual(thing, after, ee, quarter_turn(force)).abs()
    length = (after.translation - thing.translation).norm(dim=-1) * force.norm(dim=-1)
    torch.testing.assert_close(across.squeeze(-1), length)


def test_a_homography_warps_as_opencv_does_and_aligned_images_leave_no_residual() -> None:
    random = np.random.default_rng(5)
    h = torch.tensor(0.1 * random.standard_normal(8))
    p = torch.tensor(random.uniform(0, 1, (20, 2)))
    theirs = cv2.perspectiveTransform(p[None].numpy(), homography(h).numpy())[0]
    torch.testing.assert_close(warped(h, p), torch.tensor(theirs))
    scene = torch.tensor(random.standard_normal((2, 30, 40)))
    scale = torch.tensor([29.0], dtype=F64)
    at = (warped(h, p) * 29.0).clamp(min=0).minimum(torch.tensor([39.0, 29.0], dtype=F64))
    seen = cv2.remap(
        np.ascontiguousarray(scene.permute(1, 2, 0)).astype(np.float32),
        at[:, 0].numpy().astype(np.float32)[None],
        at[:, 1].numpy().astype(np.float32)[None],
        cv2.INTER_LINEAR,
    )[0]
    r = homography_alignment.residual(h, p, torch.tensor(seen).to(F64), scene, scale)
    assert r.abs().max() < 0.15  # OpenCV rounds positions to 1/32 px
    same = homography_alignment.residual(h, p, 0 * p, scene, scale).unflatten(-1, (20, 2))
    r = homography_alignment.residual(h, p, same, scene, scale)
    assert (r == 0).all()


def test_motion_relative_to_a_moving_frame_is_the_motion_in_its_axes() -> None:
    d = Draw("normal")
    frame, x, moved, z = (SE3.exp(d.vector(6)) for _ in range(4))
    r = moving_frame_between.residual(frame, moved @ frame, x, moved @ x @ z, z)
    torch.testing.assert_close(r, torch.zeros_like(r), rtol=0, atol=1e-13)


def test_two_half_steps_of_constant_velocity_make_one_step():
    sigma = torch.tensor([[[0.3, 0.9]]], dtype=F64)
    whole, halves = torch.tensor([[0.8]], dtype=F64), torch.tensor([[0.3, 0.5]], dtype=F64)

    def information(dt: Tensor) -> Tensor:
        """The information matrix of x0, v0, x1, v1, …"""
        n = dt.shape[1]
        x, v = (torch.zeros(1, n, 2, dtype=F64) for _ in range(2))
        blocks = constant_velocity.analytic(x, v, x, v, dt)
        noise = constant_velocity_noise(sigma.expand(1, n, 2), dt)
        total = torch.zeros(4 * (n + 1), 4 * (n + 1), dtype=F64)
        j = noise.whiten_jacobian(torch.cat(blocks, -1))[0]
        for k in range(n):
            total[4 * k : 4 * k + 8, 4 * k : 4 * k + 8] += j[k].mT @ j[k]
        return total

    h = information(halves)
    ends, middle = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7]
    cross = h[ends][:, middle]
    marginal = h[ends][:, ends] - cross @ torch.linalg.inv(h[middle][:, middle]) @ cross.mT
    torch.testing.assert_close(marginal, information(whole), rtol=1e-11, atol=1e-9)


def test_motion_along_a_constant_twist_leaves_no_residual():
    d = Draw("normal")
    x, v, dt = d.element(SE3), 0.5 * d.vector(6), d.duration()
    y = retract(x, v * dt[..., None])
    r = constant_velocity.residual(x, v, y, v, dt)
    torch.testing.assert_close(r, torch.zeros_like(r), rtol=0, atol=1e-13)
    r = body_twist.residual(x, y, dt, v)
    torch.testing.assert_close(r, torch.zeros_like(r), rtol=0, atol=1e-12)
    torch.testing.assert_close(random_walk.residual(x, y), v * dt[..., None])


def test_costs_make_groups_with_selected_rows_and_shared_constants():
    d = Draw("normal")
    pose = Variables("pose", SE2)
    ids = list(range(M))
    values = Values({"pose": d.element(SE2)}, {"pose": torch.tensor(ids)})
    z = SE2.exp(d.vector(3))
    only_y = SquareRootInformation(torch.tensor([[0.0, 2.0, 0.0]], dtype=F64)[None, None])
    fix = partial_pose(pose[ids], Shared(SE2.identity(dtype=F64)), z, noise=only_y)
    expected = 2 * (values["pose"].translation - z.translation).square()[..., 1].sum(1)
    torch.testing.assert_close(fix.objective(values), expected)
