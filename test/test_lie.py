"""Lie groups against a 50-digit reference, against other libraries, and against their own laws."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
import transforms3d
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.func import hessian, jacfwd, jacrev, vmap
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.lie import (
    SE2,
    SE3,
    SO2,
    SO3,
    Euclidean,
    LieGroup,
    cat,
    hat3,
    lift,
    local,
    project,
    retract,
    stack,
    tangent_dim,
)
from dnls_ros.lie.series import Constant

Group = type[LieGroup]
GROUPS: list[Group] = [SO2, SE2, SO3, SE3]
ANGLES = [0, 1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1, 3]
ANGLES += [math.pi - 1e-3, math.pi - 1e-6, math.pi - 1e-9, math.pi]
ANGLES += [0.0999, 0.1001, 0.2499, 0.2501]  # on either side of where series end
F64 = torch.float64
# The first forward-mode derivative makes torch compile some of its own functions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
mpmath.mp.dps = 50


def tangents(group: Group, angle: float, seed: int = 0) -> Tensor:
    """Three tangent vectors of the given angle: translation of length 1, of length θ, and none."""
    rng = np.random.default_rng(seed)
    rotation = {SO2: 1, SE2: 1, SO3: 3, SE3: 3}[group]
    w = rng.standard_normal((3, rotation))
    w *= angle / np.linalg.norm(w, axis=1, keepdims=True)
    v = rng.standard_normal((3, group.tangent_dim - rotation)) * [[1.0], [angle], [0.0]]
    return torch.tensor(np.concatenate([v, w], 1))


def elements(group: Group, *batch: int, seed: int = 0, scale: float = 1.0) -> LieGroup:
    generator = torch.Generator().manual_seed(seed)
    return group.exp(
        scale * torch.randn(*batch, group.tangent_dim, generator=generator, dtype=F64)
    )


def close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


# -- the 50-digit reference ---------------------------------------------------------------------


def exact(values: Tensor) -> mpmath.matrix:
    return mpmath.matrix([mpmath.mpf(float(v)) for v in values.flatten()])


def exact_ad(group: Group, delta: mpmath.matrix) -> mpmath.matrix:
    """ad(δ) from the definition of the algebra, not from the code under test."""

    def hat(a: mpmath.mpf, b: mpmath.mpf, c: mpmath.mpf) -> list[list[mpmath.mpf]]:
        return [[0, -c, b], [c, 0, -a], [-b, a, 0]]

    if group is SO2:
        return mpmath.zeros(1)
    if group is SE2:
        x, y, w = delta
        return mpmath.matrix([[0, -w, y], [w, 0, -x], [0, 0, 0]])
    if group is SO3:
        return mpmath.matrix(hat(*delta))
    out, v, w = mpmath.zeros(6), hat(*delta[:3]), hat(*delta[3:])
    for i in range(3):
        for j in range(3):
            out[i, j] = out[3 + i, 3 + j] = w[i][j]
            out[i, 3 + j] = v[i][j]
    return out


def exact_right_jacobian(group: Group, delta: mpmath.matrix, sign: int = -1) -> mpmath.matrix:
    ad = exact_ad(group, delta)
    total = term = mpmath.eye(group.tangent_dim)
    n = 1
    while mpmath.mnorm(term, 1) > mpmath.mpf(10) ** -52:
        n += 1
        term = term * ad * sign / n
        total = total + term
    return total


def exact_quaternion(w: mpmath.matrix) -> list[mpmath.mpf]:
    angle = mpmath.norm(w)
    s = mpmath.sin(angle / 2) / angle if angle else mpmath.mpf("0.5")
    return [s * c for c in w] + [mpmath.cos(angle / 2)]


def exact_left_jacobian_of_rotation(w: mpmath.matrix) -> mpmath.matrix:
    """V with Exp(v, ω) = (V v, Exp(ω))."""
    if len(w) == 1:
        return exact_right_jacobian(SO3, mpmath.matrix([0, 0, w[0]]), sign=1)[:2, :2]
    return exact_right_jacobian(SO3, w, sign=1)


def exact_exp(group: Group, delta: Tensor) -> list[mpmath.mpf]:
    d = exact(delta)
    if group is SO2:
        return [mpmath.cos(d[0]), mpmath.sin(d[0])]
    if group is SO3:
        return exact_quaternion(d)
    k = 2 if group is SE2 else 3
    translation = list(exact_left_jacobian_of_rotation(d[k:]) * d[:k])
    if group is SE2:
        return [*translation, mpmath.cos(d[2]), mpmath.sin(d[2])]
    return translation + exact_quaternion(d[3:])


def exact_log(group: Group, storage: Tensor) -> list[mpmath.mpf]:
    s = exact(storage)
    if group in (SO2, SE2):
        rotation = [mpmath.atan2(s[len(s) - 1], s[len(s) - 2])]
    else:
        q = s[len(s) - 4 :] * (-1 if s[len(s) - 1] < 0 else 1)
        sine = mpmath.norm(q[:3])
        ratio = 2 * mpmath.atan2(sine, q[3]) / sine if sine else mpmath.mpf(2)
        rotation = [ratio * c for c in q[:3]]
    k = {SO2: 0, SO3: 0, SE2: 2, SE3: 3}[group]
    if not k:
        return rotation
    left = exact_left_jacobian_of_rotation(mpmath.matrix(rotation))
    return list(mpmath.lu_solve(left, s[:k])) + rotation


def exact_adjoint(group: Group, storage: Tensor) -> mpmath.matrix:
    """Ad of stored elements, from the rotation matrix and the lever arm."""
    s = list(exact(storage))
    if group is SO2:
        return mpmath.eye(1)
    if group is SE2:
        x, y, c, w = s
        return mpmath.matrix([[c, -w, y], [w, c, -x], [0, 0, 1]])
    turn = exact_ad(SO3, mpmath.matrix(s[-4:-1]))
    rotation = mpmath.eye(3) + 2 * (s[-1] * turn + turn * turn)
    if group is SO3:
        return rotation
    out, corner = mpmath.zeros(6), exact_ad(SO3, mpmath.matrix(s[:3])) * rotation
    for i in range(3):
        for j in range(3):
            out[i, j] = out[3 + i, 3 + j] = rotation[i, j]
            out[i, 3 + j] = corner[i, j]
    return out


def error(got: Tensor, expected: list[mpmath.mpf] | mpmath.matrix) -> float:
    """‖got − expected‖ / ‖expected‖, in 50 digits."""
    expected = mpmath.matrix(list(expected))
    difference = exact(got) - expected
    size = mpmath.norm(expected)
    return float(mpmath.norm(difference) / size if size else mpmath.norm(difference))


def parts(group: Group, vector: list | Tensor, k: int) -> list:
    """Translation and rotation parts, whose relative errors are judged separately."""
    return [vector[:k], vector[k:]] if group in (SE2, SE3) else [vector]


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-14), (torch.float32, 3e-7)])
def test_exp_and_log_agree_with_a_fifty_digit_reference(group, angle, dtype, tolerance):
    k = group.storage_dim - {SO2: 2, SE2: 2, SO3: 4, SE3: 4}[group]
    for delta in tangents(group, angle).to(dtype):
        storage = group.exp(delta).tensor
        assert storage.dtype == dtype
        for got, expected in zip(
            parts(group, storage, k), parts(group, exact_exp(group, delta), k), strict=True
        ):
            assert error(got, expected) < tolerance
        storage = group.exp(delta).normalized().tensor
        for got, expected in zip(
            parts(group, group(storage).log(), k),
            parts(group, exact_log(group, storage), k),
            strict=True,
        ):
            assert error(got, expected) < tolerance


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-14), (torch.float32, 3e-7)])
def test_jacobians_agree_with_a_fifty_digit_reference(group, angle, dtype, tolerance):
    for delta in tangents(group, angle).to(dtype):
        reference = exact_right_jacobian(group, exact(delta))
        assert error(group.right_jacobian(delta), reference) < tolerance
        assert error(group.right_jacobian_inverse(delta), reference**-1) < tolerance


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-14), (torch.float32, 3e-7)])
def test_adjoints_agree_with_a_fifty_digit_reference(group, angle, dtype, tolerance):
    for delta in tangents(group, angle).to(dtype):
        x = group.exp(delta).normalized()
        assert error(x.adjoint(), exact_adjoint(group, x.tensor)) < tolerance
        close(
            group.ad(delta).double(),
            torch.tensor(exact_ad(group, exact(delta)).tolist(), dtype=F64),
            0,
        )


# Two roundings are chained in the next two identities, and float32 has only five of them to spare
# in 3e-7: both sides meet it by themselves (above), the identities within twice that.
CHAINED = pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-14), (torch.float32, 6e-7)])


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("group", GROUPS)
@CHAINED
def test_the_jacobian_times_its_inverse_is_the_identity(group, angle, dtype, tolerance):
    eye = mpmath.eye(group.tangent_dim)
    for delta in tangents(group, angle).to(dtype):
        jacobian, inverse = group.right_jacobian(delta), group.right_jacobian_inverse(delta)
        assert error(jacobian.double() @ inverse.double(), eye) < tolerance
        assert error(inverse.double() @ jacobian.double(), eye) < tolerance


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("group", GROUPS)
@CHAINED
def test_the_adjoint_of_exp_is_the_matrix_exponential_of_ad(group, angle, dtype, tolerance):
    for delta in tangents(group, angle).to(dtype):
        expected = mpmath.expm(exact_ad(group, exact(delta)), method="taylor")
        assert error(group.exp(delta).adjoint(), expected) < tolerance


# -- group laws ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e-12])
@pytest.mark.parametrize("group", GROUPS)
def test_group_laws_hold(group, scale):
    x, y, z = (elements(group, 7, seed=s, scale=scale) for s in range(3))
    one = group.identity(7, dtype=F64)
    close(((x @ y) @ z).tensor, (x @ (y @ z)).tensor, 1e-14)
    close((x @ x.inverse()).log(), one.log(), 1e-15)
    close((one @ x).tensor, x.tensor, 0)
    close((x @ y).matrix(), x.matrix() @ y.matrix(), 1e-14)
    close(x.between(y).tensor, (x.inverse() @ y).tensor, 1e-14)
    close((x @ y).adjoint(), x.adjoint() @ y.adjoint(), 1e-13)


@pytest.mark.parametrize("group", GROUPS)
def test_the_adjoint_carries_a_perturbation_to_the_other_side(group):
    x, delta = elements(group, 9), 0.3 * elements(group, 9, seed=1).log()
    left = group.exp((x.adjoint() @ delta[..., None])[..., 0]) @ x
    close(left.matrix(), retract(x, delta).matrix(), 1e-14)


@pytest.mark.parametrize("group", GROUPS)
def test_local_undoes_retract(group):
    x, delta = elements(group, 2, 5), 0.5 * elements(group, 5, seed=1).log()
    close(local(x, retract(x, delta)), delta.expand(2, 5, -1), 1e-14)


@pytest.mark.parametrize("group", GROUPS)
def test_leading_axes_broadcast(group):
    one, many, grid = elements(group), elements(group, 5), elements(group, 2, 5)
    assert (one @ grid).batch_shape == (2, 5)
    assert (grid @ many).batch_shape == (2, 5)
    close((grid @ many).tensor[1, 3], (grid[1, 3] @ many[3]).tensor, 1e-15)
    close(local(one, grid)[1, 3], local(one, grid[1, 3]), 1e-15)
    close(local(grid, many)[1, 3], local(grid[1, 3], many[3]), 1e-15)
    dim = 2 if group in (SO2, SE2) else 3
    points = torch.randn(4, 1, 5, dim, generator=torch.Generator().manual_seed(1), dtype=F64)
    close((grid @ points)[3, 1, 2], grid[1, 2] @ points[3, 0, 2], 1e-15)
    assert (one @ points).shape == points.shape


@pytest.mark.parametrize("group", GROUPS)
def test_points_are_moved_as_by_the_matrix(group):
    x = elements(group, 6)
    dim = 2 if group in (SO2, SE2) else 3
    p = torch.randn(6, dim, generator=torch.Generator().manual_seed(1), dtype=F64)
    m = x.matrix()
    expected = (m[..., :dim, :dim] @ p[..., None])[..., 0]
    if m.shape[-1] > dim:
        expected = expected + m[..., :dim, dim]
    close(x @ p, expected, 1e-14)


# -- derivatives --------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("group", GROUPS)
def test_the_derivatives_of_log_after_exp_are_those_of_the_identity(group, angle):
    delta = tangents(group, angle)
    eye = torch.eye(group.tangent_dim, dtype=F64).expand(3, -1, -1)

    def same(d: Tensor) -> Tensor:
        return group.exp(d).log()

    close(vmap(jacrev(same))(delta), eye, 4e-13)
    close(vmap(jacfwd(same))(delta), eye, 4e-13)
    second = vmap(hessian(same))(delta)
    close(second, torch.zeros_like(second), 1e-12)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("group", GROUPS)
def test_jacobians_are_the_derivatives_of_exp_and_log(group, angle):
    delta = tangents(group, angle)
    zero = torch.zeros_like(delta)

    def seen_from_exp(d: Tensor, e: Tensor) -> Tensor:
        return local(group.exp(d), group.exp(d + e))

    def logarithm(d: Tensor, e: Tensor) -> Tensor:
        return retract(group.exp(d), e).log()

    for differentiate in (jacrev, jacfwd):
        close(
            vmap(differentiate(seen_from_exp, 1))(delta, zero), group.right_jacobian(delta), 1e-13
        )
        close(
            vmap(differentiate(logarithm, 1))(delta, zero),
            group.right_jacobian_inverse(delta),
            1e-12,
        )


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("group", GROUPS)
def test_second_derivatives_are_the_first_derivatives_of_the_jacobian(group, angle):
    delta = tangents(group, angle)[:2]

    def logarithm(e: Tensor, d: Tensor) -> Tensor:
        return retract(group.exp(d), e).log()

    def jacobian_there(e: Tensor, d: Tensor) -> Tensor:
        # d Log(X Exp(e)) / de = J_r⁻¹(Log(X Exp(e))) J_r(e): products of closed forms.
        return group.right_jacobian_inverse(logarithm(e, d)) @ group.right_jacobian(e)

    zero = torch.zeros_like(delta)
    second = vmap(hessian(logarithm))(zero, delta)
    assert second.isfinite().all()
    close(second, vmap(jacrev(jacobian_there))(zero, delta), 2e-11)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("angle", [0.0, 1e-300, 1e-160, 1e-42, 1e-20, math.pi, 4.0, 6.0, 100.0])
def test_gradients_are_finite_at_the_hardest_angles(group, angle, dtype):
    delta = tangents(group, angle).to(dtype).requires_grad_()
    outputs = [group.exp(delta).tensor, group.exp(delta).log()]
    outputs.append(local(group.exp(delta.detach()), group.exp(delta)))
    if group is not SO2:
        outputs.append(group.right_jacobian(delta))
    if group is not SO2 and angle < 2 * math.pi:
        outputs.append(group.right_jacobian_inverse(delta))
    for output in outputs:
        assert output.isfinite().all()
        (gradient,) = torch.autograd.grad(output.square().sum(), delta, create_graph=True)
        assert gradient.isfinite().all()
        (second,) = torch.autograd.grad(gradient.sum(), delta, allow_unused=True)
        assert second is None or second.isfinite().all()


def half_turns(group: Group, dtype: torch.dtype) -> LieGroup:
    """Elements that turn by exactly π, with either sign of the zeros."""
    if group in (SO2, SE2):
        turns = [[-1.0, 0.0], [-1.0, -0.0]]
    else:
        turns = [[1.0, 0, 0, 0], [0, 0, -1.0, -0.0], [0.6, 0, -0.8, 0.0], [-0.6, 0.8, 0, -0.0]]
    rotation = torch.tensor(turns, dtype=dtype)
    k = group.storage_dim - rotation.shape[1]
    return group(torch.cat([elements(group, len(turns)).tensor[:, :k].to(dtype), rotation], -1))


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("group", GROUPS)
def test_exact_half_turns_have_a_finite_log_with_finite_derivatives(group, dtype):
    x = half_turns(group, dtype)
    n = {SO2: 1, SE2: 1, SO3: 3, SE3: 3}[group]
    angle = torch.linalg.vector_norm(x.log()[:, -n:], dim=-1)
    close(angle.double(), torch.full_like(angle, math.pi).double(), 3e-7)
    close((group.exp(x.log()).matrix() - x.matrix()).double(), 0 * x.matrix().double(), 2e-6)
    storage = x.tensor.requires_grad_()
    zero = torch.zeros(len(storage), group.tangent_dim, dtype=dtype, requires_grad=True)
    from_one = group.identity(dtype=dtype)
    for value, wrt in (
        (group(storage).log(), storage),
        (retract(group(storage.detach()), zero).log(), zero),
        (local(from_one, retract(group(storage.detach()), zero)), zero),
        (local(retract(group(storage.detach()), zero), from_one), zero),
    ):
        (gradient,) = torch.autograd.grad(value.square().sum(), wrt, create_graph=True)
        assert gradient.isfinite().all()
        (second,) = torch.autograd.grad(gradient.sum(), wrt)
        assert second.isfinite().all()


@pytest.mark.parametrize("group", [SO3, SE3])
def test_both_quaternions_of_a_rotation_have_the_same_log(group):
    x = elements(group, 20)
    k = group.storage_dim - 4
    other = group(torch.cat([x.tensor[..., :k], -x.tensor[..., k:]], -1))
    close(other.log(), x.log(), 1e-15)
    assert (torch.linalg.vector_norm(x.log()[..., -3:], dim=-1) <= math.pi).all()


def test_a_constant_made_inside_a_transform_does_not_escape_it():
    constant = Constant([1.0, 2.0])

    def scaled(x: Tensor) -> Tensor:
        return constant.like(x) * x

    x = torch.ones(2, dtype=torch.bfloat16)
    jacrev(scaled)(x)
    with torch.inference_mode():
        scaled(x)
    assert type(constant.like(x)) is Tensor
    x.requires_grad_()
    scaled(x).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0]


# -- conversions --------------------------------------------------------------------------------


def test_rotations_agree_with_scipy_and_transforms3d():
    # Random ones, and half turns about the axes, where each diagonal entry of 4qqᵀ leads in turn.
    xyzw = np.random.default_rng(0).standard_normal((40, 4))
    xyzw = np.concatenate([xyzw / np.linalg.norm(xyzw, axis=1, keepdims=True), np.eye(4)])
    x, reference = SO3(torch.tensor(xyzw)), Rotation.from_quat(xyzw)
    close(x.matrix(), torch.tensor(reference.as_matrix()), 1e-15)
    theirs = np.stack([transforms3d.quaternions.quat2mat(np.roll(q, 1)) for q in xyzw])
    close(x.matrix(), torch.tensor(theirs), 1e-15)
    close(x.log()[:40], torch.tensor(reference.as_rotvec())[:40], 1e-14)
    close(SO3.exp(x.log()).matrix(), x.matrix(), 1e-14)
    close(
        (x[:20] @ x[20:40]).matrix(),
        torch.tensor((reference[:20] * reference[20:40]).as_matrix()),
        1e-14,
    )
    close(SO3.from_matrix(x.matrix()).matrix(), x.matrix(), 1e-15)
    expected = torch.tensor(reference.as_quat(canonical=True))
    close(SO3.from_matrix(x.matrix()).xyzw, expected, 1e-15)


def test_motions_agree_with_transforms3d():
    x = elements(SE3, 10)
    for one in x.tensor.numpy():
        rotation = transforms3d.quaternions.quat2mat(np.roll(one[3:], 1))
        expected = transforms3d.affines.compose(one[:3], rotation, np.ones(3))
        close(SE3(torch.tensor(one)).matrix(), torch.tensor(expected), 1e-15)


@pytest.mark.parametrize("group", GROUPS)
def test_from_matrix_undoes_matrix_and_is_differentiable(group):
    x = elements(group, 3, 8)
    close(group.from_matrix(x.matrix()).log(), x.log(), 1e-14)

    def around(e: Tensor, storage: Tensor) -> Tensor:
        return local(group(storage), group.from_matrix(retract(group(storage), e).matrix()))

    storage = x.tensor[0]
    zero = torch.zeros(8, group.tangent_dim, dtype=F64)
    eye = torch.eye(group.tangent_dim, dtype=F64).expand(8, -1, -1)
    close(vmap(jacrev(around))(zero, storage), eye, 1e-14)


def test_planar_poses_speak_x_y_theta():
    xyt = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, -3.1]], dtype=F64)
    x = SE2.from_xyt(xyt)
    close(x.xyt(), xyt, 1e-15)
    close(x.angle, xyt[:, 2], 1e-15)
    close(x.rotation.angle, xyt[:, 2], 1e-15)
    close(SE2.from_parts(SO2.exp(xyt[:, 2:]), xyt[:, :2]).tensor, x.tensor, 0)


def test_a_lifted_pose_moves_in_three_columns_of_the_tangent():
    x, delta = elements(SE2, 12, scale=2.0), 0.4 * elements(SE2, 12, seed=1).log()
    in_space = torch.zeros(12, 6, dtype=F64)
    in_space[:, [0, 1, 5]] = delta
    close(lift(retract(x, delta)).matrix(), retract(lift(x), in_space).matrix(), 1e-14)
    close(project(lift(x)).tensor, x.tensor, 1e-15)
    p = torch.randn(12, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    close((lift(x) @ torch.nn.functional.pad(p, (0, 1)))[:, :2], x @ p, 1e-14)


def test_projection_keeps_the_yaw():
    x = elements(SE3, 30)
    yaw = Rotation.from_quat(x.rotation.xyzw.numpy()).as_euler("ZYX")[:, 0]
    close(project(x).angle, torch.tensor(yaw), 1e-13)


def test_hat3_is_the_cross_product():
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    close((hat3(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b), 1e-15)


# -- containers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
def test_elements_index_join_and_normalize(group):
    x = elements(group, 2, 5)
    assert torch.equal(x[1].tensor, x.tensor[1])
    assert torch.equal(x[..., 2].tensor, x.tensor[:, 2])
    assert torch.equal(x[:, torch.tensor([0, 3])].tensor, x.tensor[:, [0, 3]])
    assert cat([x, x], 1).batch_shape == cat([x, x], -1).batch_shape == (2, 10)
    assert stack([x, x, x], 0).batch_shape == (3, 2, 5)
    assert stack([x, x, x], -1).batch_shape == (2, 5, 3)
    assert tangent_dim(x) == group.tangent_dim
    k = group.storage_dim - {SO2: 2, SE2: 2, SO3: 4, SE3: 4}[group]
    scaled = torch.cat([x.tensor[..., :k], 3 * x.tensor[..., k:]], -1)
    close(group(scaled).normalized().tensor, x.tensor, 1e-15)


@pytest.mark.parametrize("group", GROUPS)
def test_elements_pass_through_transforms_as_pytrees(group):
    x, y = elements(group, 4), elements(group, 4, seed=1)
    product = vmap(lambda a, b: a @ b)(x, y)
    assert type(product) is group
    close(product.tensor, (x @ y).tensor, 1e-15)
    leaves, spec = pytree.tree_flatten(x)
    assert leaves == [x.tensor]
    assert torch.equal(pytree.tree_unflatten(leaves, spec).tensor, x.tensor)
    assert jacrev(group.exp)(torch.zeros(group.tangent_dim, dtype=F64)).tensor.ndim == 2


def test_plain_tensors_are_euclidean_elements():
    x, y = torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(retract(x, y), y)
    assert torch.equal(local(y, x), -y)
    assert tangent_dim(x) == Euclidean(3).tangent_dim == Euclidean(3).storage_dim == 3
    assert torch.equal(Euclidean(3).identity(2), x)
    assert cat([x, y], 0).shape == (4, 3)
    assert stack([x, y], -1).shape == (2, 2, 3)


@pytest.mark.parametrize("group", GROUPS)
def test_a_storage_of_the_wrong_length_is_refused(group):
    with pytest.raises(DnlsError, match=rf"{group.__name__}\(\w+\): got shape \(2, 9\)"):
        group(torch.zeros(2, 9))


def test_groups_are_not_mixed_silently():
    with pytest.raises(DnlsError, match="cannot compose SE3 with SE2"):
        SE3.identity() @ SE2.identity()


@pytest.mark.gpu
@pytest.mark.parametrize("group", GROUPS)
def test_the_device_gives_the_same_numbers(group):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    delta = torch.cat([tangents(group, a) for a in ANGLES])
    there = delta.cuda()
    for function in (group.exp, group.right_jacobian, group.right_jacobian_inverse):
        got, expected = function(there), function(delta)
        if isinstance(got, LieGroup):
            close(got.log().cpu(), expected.log(), 1e-12)
            got, expected = got.tensor, expected.tensor
        assert got.is_cuda
        close(got.cpu(), expected, 1e-13)
