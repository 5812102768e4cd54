"""Forward kinematics: the Panda's data set, random robots against SciPy, Jacobians, bad input."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap
from torch.utils import _pytree as pytree

from dnls_ros.costs import (
    Joint,
    KinematicTree,
    Mimic,
    end_effector_pose,
    end_effector_position,
    hinge,
    prior,
)
from dnls_ros.diff import Implicit, solve
from dnls_ros.errors import DnlsError, UnavailableError, UnreadableInputError
from dnls_ros.lie import SE3, Euclidean, local, retract
from dnls_ros.linear import Dense
from dnls_ros.optim import LevenbergMarquardt, Tolerances, minimize
from dnls_ros.problem import Isotropic, Problem, Shared, Values, Variables, cost

F64 = torch.float64
PANDA = "planning/theseus/tests/theseus_tests/embodied/kinematics/data"
# The first forward-mode derivative makes torch compile some of its own functions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture
def read_urdf():
    pytest.importorskip("urdf_parser_py", reason="urdfdom-py is not installed: extra 'kinematics'")
    from dnls_ros.io.urdf import read_urdf

    return read_urdf


@pytest.fixture
def parse_urdf(read_urdf):
    from dnls_ros.io.urdf import parse_urdf

    return parse_urdf


# -- robots made here ---------------------------------------------------------------------------


@dataclass
class Part:
    """One joint of a random robot, as numbers."""

    name: str
    kind: str
    parent: str
    child: str
    xyz: np.ndarray
    rpy: np.ndarray
    axis: np.ndarray
    mimic: tuple[str, float, float] | None = None

    @property
    def urdf(self) -> str:
        def words(values: np.ndarray) -> str:
            return " ".join(map(repr, values.tolist()))

        limit = '<limit lower="-1.5" upper="2" effort="1" velocity="1"/>'
        bounded = self.kind in ("revolute", "prismatic")
        joint, multiplier, offset = self.mimic or ("", 0, 0)
        mimic = f'<mimic joint="{joint}" multiplier="{multiplier}" offset="{offset}"/>'
        return (
            f'<joint name="{self.name}" type="{self.kind}">'
            f'<parent link="{self.parent}"/><child link="{self.child}"/>'
            f'<origin xyz="{words(self.xyz)}" rpy="{words(self.rpy)}"/>'
            f'<axis xyz="{words(self.axis)}"/>'
            f"{limit if bounded else ''}{mimic if self.mimic else ''}</joint>"
        )


def random_robot(seed: int) -> list[Part]:
    """A branched robot with all kinds of joints, in an order that is not the tree's."""
    random = np.random.default_rng(seed)
    kinds = ["revolute", "continuous", "prismatic", "fixed"] * 3
    random.shuffle(kinds)
    parts = []
    for k, kind in enumerate(kinds):
        # A serial start, so that some ways are long; then branches.
        carrier = k if k < 5 else random.integers(0, k + 1)
        place, turn, axis = random.uniform(-1, 1, (3, 3)) * [[0.5], [3.0], [1.0]]
        parts.append(Part(f"j{k}", kind, f"l{carrier}", f"l{k + 1}", place, turn, axis))
    moving = [p for p in parts if p.kind != "fixed"]
    followers = random.choice(len(moving) - 3, 2, replace=False)
    first, second = (moving[k] for k in followers)
    first.mimic = (moving[-1].name, -0.7, 0.3)
    second.mimic = (first.name, 1.4, -0.2)  # mimics a mimic
    random.shuffle(parts)
    return parts


def urdf_of(parts: list[Part], extra: str = "") -> str:
    links = sorted({name for p in parts for name in (p.parent, p.child)})
    body = "".join(f'<link name="{name}"/>' for name in links) + "".join(p.urdf for p in parts)
    return f'<?xml version="1.0"?><robot name="random">{body}{extra}</robot>'


def by_scipy(parts: list[Part], q: dict[str, float], link: str) -> np.ndarray:
    """root_T_link (4, 4) by recursion over homogeneous matrices."""
    part = next((p for p in parts if p.child == link), None)
    if part is None:
        return np.eye(4)
    values = dict(q)
    for _ in parts:
        for p in parts:
            if p.mimic and p.mimic[0] in values:
                values[p.name] = p.mimic[1] * values[p.mimic[0]] + p.mimic[2]
    value = values.get(part.name, 0.0)
    placed, moved = np.eye(4), np.eye(4)
    placed[:3, :3] = Rotation.from_euler("xyz", part.rpy).as_matrix()
    placed[:3, 3] = part.xyz
    axis = part.axis / np.linalg.norm(part.axis)
    if part.kind in ("revolute", "continuous"):
        moved[:3, :3] = Rotation.from_rotvec(value * axis).as_matrix()
    if part.kind == "prismatic":
        moved[:3, 3] = value * axis
    return by_scipy(parts, q, part.parent) @ placed @ moved


def configurations(tree: KinematicTree, *batch: int, seed: int = 0) -> Tensor:
    """Random values inside of the limits; continuous joints turn several times."""
    random = torch.Generator().manual_seed(seed)
    low, high = tree.lower.clamp(min=-9.0), tree.upper.clamp(max=9.0)
    share = torch.rand(*batch, len(tree.joints), generator=random, dtype=F64)
    return low + share * (high - low)


def differentiated(tree: KinematicTree, q: Tensor, link: str | None) -> Tensor:
    """Body Jacobians (N, 6, n) of configurations (N, n) by reverse mode."""

    def moved(step: Tensor, at: Tensor) -> Tensor:
        return local(tree.pose(at, link), tree.pose(at + step, link))

    return vmap(jacrev(moved), (None, 0))(torch.zeros_like(q[0]), q)


def central(tree: KinematicTree, q: Tensor, link: str | None, step: float = 3e-4) -> Tensor:
    """The same by central differences of fourth order."""
    x, columns = tree.pose(q, link), []
    for axis in step * torch.eye(q.shape[-1], dtype=F64):
        far = [local(x, tree.pose(q + k * axis, link)) for k in (-2, -1, 1, 2)]
        columns.append((far[0] - 8 * far[1] + 8 * far[2] - far[3]) / (12 * step))
    return torch.stack(columns, -1)


# -- the Panda ----------------------------------------------------------------------------------


@pytest.fixture
def panda(dnls_data, read_urdf) -> KinematicTree:
    return read_urdf(dnls_data(f"{PANDA}/panda_no_gripper.urdf"))


def test_the_data_set_of_the_panda_is_reproduced(dnls_data, panda):
    known = json.loads(dnls_data(f"{PANDA}/panda_fk_dataset.json").read_text())
    q = torch.tensor(known["joint_states"], dtype=F64)
    z = SE3(torch.tensor([[*p, *r] for p, r in known["ee_poses"]], dtype=F64))
    x = panda.pose(q, known["ee_name"])
    same_sign = torch.sign((x.rotation.xyzw * z.rotation.xyzw).sum(-1, keepdim=True))
    errors = (x.translation - z.translation).abs().amax(), local(z, x).abs().amax()
    turned = (x.rotation.xyzw - same_sign * z.rotation.xyzw).abs().amax()
    assert len(q) == 3
    # The data set's numbers are rounded to single precision.
    assert max(*errors, turned) < 2e-7


def test_jacobians_of_the_panda_equal_autodiff_and_central_differences(panda):
    q = configurations(panda, 20)
    for link in (None, "panda_link4", "panda_link7"):
        x, jacobian = panda.linearize(q, link)
        close = {"rtol": 0.0, "atol": 1e-13}
        torch.testing.assert_close(jacobian, differentiated(panda, q, link), **close)
        torch.testing.assert_close(jacobian, central(panda, q, link), rtol=0, atol=1e-10)
        torch.testing.assert_close(jacobian, panda.body_jacobian(q, link), **close)
        spatial = panda.spatial_jacobian(q, link)
        torch.testing.assert_close(spatial, x.adjoint() @ jacobian, **close)
        assert x.tensor.isfinite().all()
    assert (panda.body_jacobian(q, "panda_link4")[..., 4:] == 0).all()


def test_limits_and_names_of_the_panda_are_those_of_its_file(panda):
    assert panda.joints == tuple(f"panda_joint{k}" for k in range(1, 8))
    assert (panda.root, panda.tip) == ("panda_link0", "panda_virtual_ee_link")
    assert (float(panda.lower[3]), float(panda.upper[5])) == (-3.1416, 3.8223)


# -- random robots ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_all_links_of_random_robots_are_where_scipy_puts_them(parse_urdf, seed):
    parts = random_robot(seed)
    tree = parse_urdf(urdf_of(parts))
    assert len(tree.joints) == 7
    assert len(tree.links) == 13
    q = configurations(tree, 4, seed=seed)
    x = tree.poses(q)
    assert x.batch_shape == (4, 13)
    for k, link in enumerate(tree.links):
        one = tree.pose(q, link)
        torch.testing.assert_close(one.tensor, x[:, k].tensor, rtol=0, atol=1e-14)
        for row in range(4):
            named = dict(zip(tree.joints, q[row].tolist(), strict=True))
            known = torch.tensor(by_scipy(parts, named, link))
            torch.testing.assert_close(x[row, k].matrix(), known, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_jacobians_of_random_robots_equal_autodiff_and_central_differences(parse_urdf, seed):
    tree = parse_urdf(urdf_of(random_robot(seed)))
    q = configurations(tree, 5, seed=seed)
    for link in tree.links:
        jacobian = tree.body_jacobian(q, link)
        assert jacobian.shape == (5, 6, 7)
        torch.testing.assert_close(jacobian, differentiated(tree, q, link), rtol=0, atol=1e-13)
        torch.testing.assert_close(jacobian, central(tree, q, link), rtol=0, atol=1e-9)
        spatial = tree.pose(q, link).adjoint() @ jacobian
        torch.testing.assert_close(tree.spatial_jacobian(q, link), spatial, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_a_chain_of_a_random_robot_moves_as_in_the_robot(parse_urdf, seed):
    tree = parse_urdf(urdf_of(random_robot(seed)))
    q = configurations(tree, 3, seed=seed)
    tip = "l5"
    chain = tree.chain(tip)
    entries = [tree.joints.index(name) for name in chain.joints]
    torch.testing.assert_close(chain.pose(q[:, entries]).tensor, tree.pose(q, tip).tensor)
    jacobian = tree.body_jacobian(q, tip)
    torch.testing.assert_close(chain.body_jacobian(q[:, entries]), jacobian[..., entries])
    assert torch.equal(chain.lower, tree.lower[entries])
    upper = tree.chain(tip, "l2")
    entries = [tree.joints.index(name) for name in upper.joints]
    expected = tree.pose(q, "l2").between(tree.pose(q, tip))
    assert (upper.root, upper.tip, len(upper.links)) == ("l2", tip, 4)
    torch.testing.assert_close(upper.pose(q[:, entries]).tensor, expected.tensor)


def test_a_batch_is_the_same_as_its_elements(parse_urdf):
    tree = parse_urdf(urdf_of(random_robot(1)))
    q = configurations(tree, 2, 3)
    together, jacobians = tree.poses(q), tree.body_jacobian(q, "l5")
    assert together.batch_shape == (2, 3, 13)
    for i in range(2):
        for j in range(3):
            one = tree.poses(q[i, j]).tensor
            torch.testing.assert_close(together[i, j].tensor, one, rtol=0, atol=1e-15)
            one = tree.body_jacobian(q[i, j], "l5")
            torch.testing.assert_close(jacobians[i, j], one, rtol=0, atol=1e-15)


def test_a_batch_of_robots_moves_by_a_batch_of_configurations(parse_urdf):
    tree = parse_urdf(urdf_of(random_robot(2)))
    q = configurations(tree, 4)
    noise = 0.1 * torch.randn(4, 12, 6, dtype=F64, generator=torch.Generator().manual_seed(3))
    several = replace(tree, placements=retract(tree.placements, noise))
    together = several.poses(q)
    same_q = several.poses(q[0])
    for k in range(4):
        one = replace(tree, placements=SE3(several.placements.tensor[k]))
        torch.testing.assert_close(together[k].tensor, one.poses(q[k]).tensor)
        torch.testing.assert_close(same_q[k].tensor, one.poses(q[0]).tensor)


def test_a_configuration_that_is_not_finite_spoils_no_other(parse_urdf):
    tree = parse_urdf(urdf_of(random_robot(1)))
    q = configurations(tree, 3)
    spoilt = q.index_fill(0, torch.tensor([1]), torch.nan)
    x, jacobian = tree.linearize(spoilt, "l5")
    good = torch.tensor([0, 2])
    expected, expected_jacobian = tree.linearize(q[good], "l5")
    assert torch.equal(x.tensor[good], expected.tensor)
    assert torch.equal(jacobian[good], expected_jacobian)
    assert x.tensor[1].isnan().any()


def test_a_robot_is_moved_to_single_precision_as_a_pytree(parse_urdf):
    tree = parse_urdf(urdf_of(random_robot(1)))
    q = configurations(tree, 3)
    single = pytree.tree_map(Tensor.float, tree)
    x = single.poses(q.float())
    assert x.tensor.dtype == torch.float32
    torch.testing.assert_close(x.tensor.double(), tree.poses(q).tensor, rtol=0, atol=3e-6)


def test_a_robot_passes_through_function_transforms(parse_urdf):
    tree = parse_urdf(urdf_of(random_robot(0)))
    q = configurations(tree, 3)

    def position(tree: KinematicTree, q: Tensor) -> Tensor:
        return tree.pose(q, "l5").translation

    expected = tree.pose(q, "l5")
    linear = expected.rotation.matrix() @ tree.body_jacobian(q, "l5")[:, :3]
    many = pytree.tree_map(lambda t: torch.stack([t] * 3), tree)
    torch.testing.assert_close(vmap(position)(many, q), expected.translation)
    for differentiate in (jacrev, jacfwd):
        by_q = vmap(differentiate(position, 1), (None, 0))(tree, q)
        torch.testing.assert_close(by_q, linear, rtol=0, atol=1e-13)
    by_tree = jacrev(position)(tree, q[0])
    assert by_tree.placements.tensor.shape == (3, 12, 7)
    # Nothing that was made inside of a transform is used again outside of it.
    torch.testing.assert_close(tree.pose(q, "l5").tensor, expected.tensor)
    jacobian = vmap(jacrev(lambda q: tree.body_jacobian(q, "l5").sum()))(q)
    assert jacobian.isfinite().all()


def test_the_jacobian_can_be_differentiated_again(parse_urdf):
    tree = parse_urdf(urdf_of(random_robot(0)))
    q = configurations(tree, 7)[0]
    link = "l5"
    second = jacrev(lambda q: tree.spatial_jacobian(q, link))(q)
    for k, axis in enumerate(1e-5 * torch.eye(7, dtype=F64)):
        ahead, behind = (tree.spatial_jacobian(q + s * axis, link) for s in (1, -1))
        torch.testing.assert_close(second[..., k], (ahead - behind) / 2e-5, rtol=1e-8, atol=1e-8)


# -- the kinds of joints by hand ----------------------------------------------------------------


def joint(name: str, kind: str, parent: str, child: str, x: float = 0.0, **more) -> Joint:
    """A joint x metres along its parent's x axis."""
    placement = SE3(torch.tensor([x, 0, 0, 0, 0, 0, 1], dtype=F64))
    axis = more.pop("axis", (0.0, 0.0, 1.0))
    limits = more.pop("limits", (-2.0, 2.0) if kind in ("revolute", "prismatic") else None)
    return Joint(name, kind, parent, child, placement, axis, limits, **more)


def planar_arm(reach: tuple[float, float] = (0.5, 0.4)) -> KinematicTree:
    return KinematicTree.of(
        [
            joint("shoulder", "revolute", "base", "upper"),
            joint("elbow", "revolute", "upper", "fore", reach[0]),
            joint("wrist", "fixed", "fore", "hand", reach[1]),
        ]
    )


def test_a_planar_arm_is_the_sum_of_its_links():
    q = torch.tensor([[0.3, -0.8], [1.2, 0.4]], dtype=F64)
    a, b = q[:, 0], q.sum(1)
    x = planar_arm().pose(q)
    expected = torch.stack([0.5 * a.cos() + 0.4 * b.cos(), 0.5 * a.sin() + 0.4 * b.sin()], -1)
    torch.testing.assert_close(x.translation[:, :2], expected)
    torch.testing.assert_close(x.rotation.log()[:, 2], b)


def test_a_gripper_closes_by_one_joint():
    tree = KinematicTree.of(
        [
            joint("left", "prismatic", "palm", "left_finger", axis=(0, 2, 0), limits=(0, 0.04)),
            joint(
                *("right", "prismatic", "palm", "right_finger"),
                axis=(0, -1, 0),
                mimic=Mimic("left", 0.5, 0.01),
            ),
        ]
    )
    assert tree.joints == ("left",)
    q = torch.tensor([0.03], dtype=F64)
    x = tree.poses(q)
    expected = torch.tensor([0, 0.03, -(0.5 * 0.03 + 0.01)], dtype=F64)
    torch.testing.assert_close(x.translation[:, 1], expected)
    velocity = tree.body_jacobian(q, "right_finger")
    assert velocity[:, 0].tolist() == [0, -0.5, 0, 0, 0, 0]
    chain = tree.chain("right_finger")  # its master is on another branch
    assert chain.joints == ("left",)
    torch.testing.assert_close(chain.pose(q).tensor, x[2].tensor)
    assert (float(chain.lower), float(chain.upper)) == (0.0, 0.04)


def test_a_mimic_on_the_same_way_adds_to_its_masters_column():
    parts = [
        joint("a", "revolute", "base", "one"),
        joint("b", "revolute", "one", "two", 0.5, mimic=Mimic("a", -2.0, 0.1)),
        joint("c", "fixed", "two", "tip", 0.3),
    ]
    free = [parts[0], joint("b", "revolute", "one", "two", 0.5), parts[2]]
    q = torch.tensor([0.4], dtype=F64)
    both = torch.tensor([0.4, -2.0 * 0.4 + 0.1], dtype=F64)
    tied, loose = KinematicTree.of(parts), KinematicTree.of(free)
    torch.testing.assert_close(tied.pose(q).tensor, loose.pose(both).tensor)
    columns = loose.body_jacobian(both)
    torch.testing.assert_close(tied.body_jacobian(q)[:, 0], columns[:, 0] - 2 * columns[:, 1])


def test_a_continuous_joint_turns_without_end():
    tree = KinematicTree.of([joint("wheel", "continuous", "car", "rim", axis=(0, 3, 0))])
    assert (float(tree.lower), float(tree.upper)) == (-torch.inf, torch.inf)
    turns = torch.tensor([[0.7], [0.7 + 2 * torch.pi], [0.7 - 6 * torch.pi]], dtype=F64)
    x = tree.pose(turns).matrix()
    torch.testing.assert_close(x[1:], x[:1].expand(2, 4, 4))
    assert (
        tree.pose(turns[0]).rotation.log() - torch.tensor([0, 0.7, 0], dtype=F64)
    ).abs().max() < 1e-15


def test_the_root_stays_and_a_robot_may_have_no_moving_joint():
    tree = KinematicTree.of([joint("mount", "fixed", "base", "camera", 0.2)])
    q = torch.zeros(3, 0, dtype=F64)
    torch.testing.assert_close(tree.pose(q).translation[:, 0], torch.full((3,), 0.2, dtype=F64))
    assert tree.body_jacobian(q).shape == (3, 6, 0)
    arm = planar_arm()
    root = arm.pose(torch.ones(2, dtype=F64), "base")
    assert root.tensor.tolist() == list(SE3.identity_storage)
    assert (arm.body_jacobian(torch.ones(2, dtype=F64), "base") == 0).all()


def test_the_order_of_the_configuration_is_that_of_the_tree():
    parts = [
        joint("finger_b", "revolute", "hand", "b"),
        joint("finger_a", "revolute", "hand", "a"),
        joint("elbow", "revolute", "upper", "hand"),
        joint("shoulder", "revolute", "base", "upper"),
    ]
    tree = KinematicTree.of(parts)
    assert tree.joints == ("shoulder", "elbow", "finger_b", "finger_a")
    assert tree.links == ("base", "upper", "hand", "b", "a")


# -- problems -----------------------------------------------------------------------------------


def reaching(arm: KinematicTree, target: SE3, q0: Tensor) -> tuple[Problem, Values]:
    """Inverse kinematics inside the limits; (B, 6 or 7) targets, one variable each."""
    joints = Variables("q", Euclidean(len(arm.joints)))
    limits = Shared(arm.lower), Shared(arm.upper)
    problem = Problem(
        reach=end_effector_pose(joints[[0]], target, Shared(arm)),
        limits=hinge(joints[[0]], *limits, noise=Isotropic(1e-2)),
        rest=prior(
            joints[[0]], Shared(torch.zeros(len(arm.joints), dtype=F64)), noise=Isotropic(1e5)
        ),
    )
    return problem, joints.values([0], q0)


def test_a_batch_of_targets_is_reached_inside_the_limits(panda):
    truth = configurations(panda, 16, 1, seed=4)
    target = panda.pose(truth)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(5), dtype=F64)
    problem, start = reaching(panda, target, truth + 0.1 * noise)
    found = minimize(problem, start, LevenbergMarquardt(), Dense(), Tolerances(iterations=100))
    q = found.values["q"]
    assert local(target, panda.pose(q)).abs().max() < 1e-5
    assert (q - q.clamp(panda.lower, panda.upper)).abs().max() < 1e-5


def test_a_target_out_of_reach_stretches_the_arm_towards_it():
    arm, joints = planar_arm(), Variables("q", Euclidean(2))
    point = torch.tensor([[[0.0, 2.0, 0.0]]], dtype=F64)
    problem = Problem(reach=end_effector_position(joints[[0]], point, Shared(arm)))
    start = joints.values([0], torch.tensor([[[0.5, 0.5]]], dtype=F64))
    found = minimize(problem, start, LevenbergMarquardt(), Dense(), Tolerances(0, 1e-9, 0, 500))
    stretched = torch.tensor([torch.pi / 2, 0.0], dtype=F64)
    torch.testing.assert_close(found.values["q"][0, 0], stretched, rtol=0, atol=1e-6)


def test_the_pose_of_the_tip_may_be_a_variable_that_other_costs_measure():
    arm = planar_arm()
    joints, pose = Variables("q", Euclidean(2)), Variables("tip", SE3)
    truth = torch.tensor([[[0.4, 0.9]]], dtype=F64)
    z = arm.pose(truth)
    problem = Problem(
        encoders=prior(joints[[0]], truth + 0.02, noise=Isotropic(0.02)),
        arm=end_effector_pose(joints[[0]], pose[[0]], Shared(arm), noise=Isotropic(1e-6)),
        camera=prior(pose[[0]], z, noise=Isotropic(1e-4)),
    )
    start = joints.values([0], truth + 0.3).merge(pose.values([0], z))
    found = minimize(problem, start, LevenbergMarquardt(), Dense(), Tolerances(iterations=100))
    assert (found.values["q"] - truth).abs().max() < 1e-4


def test_gradients_reach_placements_axes_and_offsets():
    arm = planar_arm()
    q = configurations(arm, 4)

    def loss(length: Tensor, offset: Tensor) -> Tensor:
        shift = torch.zeros(3, 6, dtype=F64)
        shift = torch.cat(
            [shift[:1], torch.nn.functional.pad(length[None, None], (0, 5)), shift[2:]]
        )
        moved = replace(arm, placements=retract(arm.placements, shift), offset=offset)
        return moved.pose(q).translation.square().sum() + moved.body_jacobian(q).pow(3).sum()

    arguments = (
        torch.tensor(0.01, dtype=F64, requires_grad=True),
        torch.tensor([0.1, -0.2, 0.0], dtype=F64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(loss, arguments)
    assert torch.autograd.gradgradcheck(loss, arguments)
    turned = torch.autograd.functional.jacobian(
        lambda axes: replace(arm, axes=axes).pose(q).tensor, arm.axes
    )
    assert turned.isfinite().all()
    assert turned[..., :2, :].abs().sum() > 0


def test_the_placements_of_an_arm_are_found_from_where_its_tip_was_seen(panda):
    """Calibration: every joint's placement is a variable, autodiff differentiates through them."""
    random = torch.Generator().manual_seed(1)
    errors = 0.01 * torch.randn(1, 8, 6, dtype=F64, generator=random)
    real = replace(panda, placements=retract(panda.placements, errors[0]))
    q = configurations(panda, 1, 40)
    z = real.pose(q)

    @cost
    def seen(error: Tensor, q: Tensor, z: SE3, arm: KinematicTree) -> Tensor:
        moved = replace(arm, placements=retract(arm.placements, error.unflatten(-1, (8, 6))))
        return local(z, moved.pose(q))

    error = Variables("error", Euclidean(48))
    problem = Problem(
        seen=seen(error[[0] * 40], q, z, Shared(panda)),
        # Many errors look the same: of these the smallest.
        small=prior(error[[0]], Shared(torch.zeros(48, dtype=F64)), noise=Isotropic(1e3)),
    )
    start = error.values([0], torch.zeros(1, 1, 48, dtype=F64))
    found = minimize(problem, start, LevenbergMarquardt(), Dense(), Tolerances(iterations=30))
    fitted = found.values["error"].unflatten(-1, (8, 6))[0, 0]
    again = configurations(panda, 10, seed=9)
    moved = replace(panda, placements=retract(panda.placements, fitted))
    before = local(real.pose(again), panda.pose(again)).abs().max()
    after = local(real.pose(again), moved.pose(again)).abs().max()
    assert before > 1e-2
    assert after < 1e-6


def test_implicit_gradients_of_inverse_kinematics_equal_finite_differences():
    target = SE3(torch.tensor([[[0.5, 0.6, 0.0, 0, 0, 0.5, 0.75**0.5]]], dtype=F64))

    def loss(length: Tensor) -> Tensor:
        arm = planar_arm()
        shift = torch.cat([torch.zeros(1, 6), torch.nn.functional.pad(length[:, None], (0, 5))])
        arm = replace(arm, placements=retract(arm.placements, shift))
        problem, start = reaching(arm, target, torch.tensor([[[0.3, 0.8]]], dtype=F64))
        found = solve(
            problem, start, linear=Dense(), adjoint=Implicit(), tolerances=Tolerances(0, 0, 1e-13)
        )
        return found.values["q"].pow(3).sum()

    length = torch.tensor([0.02, -0.03], dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(length), length)
    with torch.no_grad():
        steps = 1e-4 * torch.eye(2, dtype=F64)
        numeric = [(loss(length + s) - loss(length - s)) / 2e-4 for s in steps]
    assert gradient.abs().min() > 0.05
    torch.testing.assert_close(gradient, torch.stack(numeric), rtol=1e-7, atol=1e-7)


# -- reading ------------------------------------------------------------------------------------


def test_what_does_not_move_is_not_looked_at(parse_urdf, capsys):
    parts = random_robot(3)
    extra = """
      <gazebo reference="l0"><nonsense/></gazebo>
      <ros2_control name="x" type="system"><hardware/></ros2_control>
      <transmission name="t"><type>SimpleTransmission</type><joint name="j0"/></transmission>
      <!-- a comment -->
    """
    text = urdf_of(parts, extra).replace(
        '<link name="l0"/>',
        '<link name="l0"><visual><geometry><capsule radius="1"/></geometry></visual></link>',
    )
    tree, plain = parse_urdf(text), parse_urdf(urdf_of(parts).encode())
    assert tree.layout == plain.layout
    assert torch.equal(tree.placements.tensor, plain.placements.tensor)
    assert capsys.readouterr().err == ""


def test_what_a_urdf_leaves_out_has_its_default(parse_urdf):
    tree = parse_urdf(
        '<robot name="r"><link name="a"/><link name="b"/><link name="c"/>'
        '<joint name="j" type="continuous"><parent link="a"/><child link="b"/></joint>'
        '<joint name="k" type="continuous"><origin rpy="0 0 1.5"/><parent link="b"/>'
        '<child link="c"/><mimic joint="j"/></joint></robot>'
    )
    assert tree.axes.tolist() == [[1, 0, 0]] * 2
    assert tree.placements.tensor[0].tolist() == list(SE3.identity_storage)
    assert tree.placements.translation[1].tolist() == [0, 0, 0]
    assert (tree.multiplier.tolist(), tree.offset.tolist()) == ([1, 1], [0, 0])


LIMIT = '<limit lower="-1" upper="1" effort="1" velocity="1"/>'
GOOD = f"""<robot name="arm">
  <link name="base"/><link name="upper"/><link name="hand"/>
  <joint name="shoulder" type="revolute">
    <parent link="base"/><child link="upper"/><origin xyz="0 0 1" rpy="0 0 0"/><axis xyz="0 0 1"/>
    {LIMIT}
  </joint>
  <joint name="wrist" type="continuous">
    <parent link="upper"/><child link="hand"/><axis xyz="0 1 0"/>
  </joint>
</robot>
"""
MIMIC = '<axis xyz="0 1 0"/><mimic joint="{}"/>'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"continuous"', '"floating"', "joint 'wrist' is of type 'floating', expected one of rev"),
        ('"continuous"', '"planar"', "joint 'wrist' is of type 'planar', expected one of rev"),
        ('"continuous"', '"screw"', "joint 'wrist' is of type 'screw', expected one of revolute"),
        (' type="continuous"', "", "joint 'wrist' is of type 'None', expected one of revolute"),
        (LIMIT, "", "joint 'shoulder' is revolute and has no limits; give it a lower and an"),
        ('"continuous"', '"prismatic"', "joint 'wrist' is prismatic and has no limits; give"),
        ('lower="-1"', 'lower="2"', r"joint 'shoulder' has the limits \(2.0, 1.0\), expected low"),
        ('lower="-1"', 'lower="nan"', "joint 'shoulder' has the limits .nan, 1.0., expected low"),
        (' effort="1"', "", r"joint 'shoulder' is not as the URDF format says.*effort"),
        ('<axis xyz="0 1 0"/>', MIMIC.format("thumb"), "'wrist' mimics 'thumb', which is no joi"),
        ('<axis xyz="0 1 0"/>', MIMIC.format("wrist"), "joint 'wrist' mimics itself"),
        ('child link="hand"', 'child link="base"', "the links ['hand'] .* expected|form a cycle"),
        ('<link name="hand"/>', '<link name="hand"/><link name="tool"/>', r"\['base', 'tool'\].*"),
        ('parent link="upper"', 'parent link="uper"', "joint 'wrist' names the link 'uper', whi"),
        ('child link="hand"', 'child link="upper"', "'upper', which joint 'shoulder' moves alre"),
        ('name="wrist"', 'name="shoulder"', r"two joints are called \['shoulder'\]"),
        ('<link name="hand"/>', '<link name="hand"/><link name="hand"/>', "two links are called"),
        ('xyz="0 1 0"', 'xyz="0 0 0"', "joint 'wrist' has the axis .* not all zero"),
        ('xyz="0 1 0"', 'xyz="0 1"', "joint 'wrist' is not as the URDF .*: Invalid vector leng"),
        ('xyz="0 0 1" rpy', 'xyz="0 0 inf" rpy', "joint 'shoulder' has the placement .* finite"),
        ('xyz="0 0 1" rpy', 'xyz="0 0 one" rpy', "joint 'shoulder' is not as .* 'one'"),
        ('<parent link="upper"/>', "", r"joint 'wrist' is not as .*parent"),
        (
            "<robot",
            '<robot xmlns:xacro="http://www.ros.org/wiki/xacro"><xacro:if/><robot',
            "no XML",
        ),
        ("</robot>", '<x:a xmlns:x="http://www.ros.org/wiki/xacro"/></robot>', "expand it first"),
        ("robot", "sdf", "has <sdf> as its top element, expected <robot>"),
        ("</robot>", "", "is no XML: no element found: line 11"),
    ],
)
def test_a_bad_urdf_is_refused_with_file_joint_and_what_is_expected(
    read_urdf, tmp_path, old, new, message
):
    assert old in GOOD
    path = tmp_path / "arm.urdf"
    path.write_text(GOOD)
    assert read_urdf(path).joints == ("shoulder", "wrist")
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(UnreadableInputError, match=message) as caught:
        read_urdf(path)
    assert str(caught.value).startswith(str(path))


def test_a_cycle_beside_the_tree_is_refused():
    parts = [
        joint("a", "fixed", "base", "one"),
        joint("b", "fixed", "three", "two"),
        joint("c", "fixed", "two", "three"),
    ]
    with pytest.raises(DnlsError, match=r"the joints \['b', 'c'\] form a cycle; expected a tree"):
        KinematicTree.of(parts)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"b": "c", "c": "b"}, "joint 'b' mimics itself by way of other joints"),
        ({"b": "fixed"}, "joint 'b' mimics 'fixed', which is fixed and has no value"),
    ],
)
def test_a_joint_follows_one_that_has_a_value(rules, message):
    parts = [
        joint("fixed", "fixed", "base", "one"),
        *(
            joint(n, "continuous", p, c, mimic=Mimic(rules[n]) if n in rules else None)
            for n, p, c in (("b", "one", "two"), ("c", "two", "three"))
        ),
    ]
    with pytest.raises(DnlsError, match=message):
        KinematicTree.of(parts)


def test_wrong_names_and_shapes_are_refused_by_name():
    arm, q = planar_arm(), torch.zeros(2, dtype=F64)
    with pytest.raises(DnlsError, match=r"no link 'hnad' .* \['base', 'upper', 'fore', 'hand'\]"):
        arm.pose(q, "hnad")
    with pytest.raises(DnlsError, match=r"\(5, 3\), expected \(…, 2\): the values of \['shoulder"):
        arm.poses(torch.zeros(5, 3, dtype=F64))
    with pytest.raises(
        DnlsError, match=r"is torch.float32 on cpu, the kinematic tree torch.float"
    ):
        arm.pose(q.float())
    with pytest.raises(DnlsError, match=r"link 'fore' does not carry 'upper'; start .*'base'"):
        arm.chain("upper", "fore")
    with pytest.raises(DnlsError, match="the chain from 'fore' to itself has no joint"):
        arm.chain("fore", "fore")
    with pytest.raises(
        DnlsError, match=r"axes is torch.float64 of shape .2, 3., expected .* 3, 3."
    ):
        replace(arm, axes=arm.axes[:2])
    with pytest.raises(DnlsError, match="a kinematic tree has at least one joint"):
        KinematicTree.of([])
    branched = KinematicTree.of([joint("a", "fixed", "r", "x"), joint("b", "fixed", "r", "y")])
    with pytest.raises(DnlsError, match=r"has the tips \['x', 'y'\]: name a link, or take a cha"):
        branched.pose(torch.zeros(0, dtype=F64))
    with pytest.raises(DnlsError, match="joint 'j' is of kind 'ball', expected one of revolute"):
        joint("j", "ball", "a", "b")


def test_a_missing_file_or_parser_is_said(read_urdf, tmp_path, monkeypatch):
    with pytest.raises(UnreadableInputError, match=r"cannot read .*none\.urdf"):
        read_urdf(tmp_path / "none.urdf")
    path = tmp_path / "arm.urdf"
    path.write_text(GOOD)
    for name in [n for n in sys.modules if re.match(r"urdf_parser_py(\.|$)", n)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "urdf_parser_py", None)
    with pytest.raises(UnavailableError, match=r"install dnls_ros\[kinematics\].*urdfdom_py"):
        read_urdf(path)
