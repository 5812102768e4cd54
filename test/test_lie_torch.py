"""Group elements as citizens of torch: function transforms, files, copies, conversions."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lie_rig import F64, FUNCTIONS, GROUPS, arguments, elements, example, normal, same
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE3, local, retract
from dnls_ros.problem import Problem

# Forward mode compiles some of torch's own functions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

EVERY = pytest.mark.parametrize("name", FUNCTIONS)
IN_GROUP = pytest.mark.parametrize("group", GROUPS)


# -- torch.func ---------------------------------------------------------------------------------


@EVERY
@IN_GROUP
def test_vmap_over_elements_is_the_batched_function(group, name):
    f, (x, y, d, p) = FUNCTIONS[name], arguments(group, 2, 5)
    same(vmap(vmap(f))(x, y, d, p), f(x, y, d, p), 1e-14)
    some = y[:, 0]
    mapped = vmap(f, in_dims=(1, None, 1, -2), out_dims=1)(x, some, d, p)
    repeated = group(some.tensor[:, None].expand_as(y.tensor))
    same(mapped, f(x, repeated, d, p), 1e-14)


def moved(f: Callable[..., Any], batch: Any) -> Callable[[Tensor], Tensor]:
    """The function of the perturbations of all its arguments, flattened."""
    x, y, d, p = batch
    dims = [x.tangent_dim, y.tangent_dim, d.shape[-1], p.shape[-1]]

    def g(e: Tensor) -> Tensor:
        out = f(*(retract(a, part) for a, part in zip(batch, e.split(dims), strict=True)))
        return torch.cat([leaf.flatten() for leaf in pytree.tree_leaves(out)])

    return g


@EVERY
@IN_GROUP
def test_derivatives_agree_in_both_modes_and_with_differences(group, name):
    batch = arguments(group)
    g = moved(FUNCTIONS[name], batch)
    zero = torch.zeros(2 * group.tangent_dim + batch[2].numel() + batch[3].numel(), dtype=F64)
    reverse, forward = jacrev(g)(zero), jacfwd(g)(zero)
    torch.testing.assert_close(reverse, forward, rtol=0, atol=1e-13)
    h = 1e-5 * torch.eye(len(zero), dtype=F64)
    numeric = torch.stack([(g(e) - g(-e)) / 2e-5 for e in h], -1)
    torch.testing.assert_close(reverse, numeric, rtol=0, atol=1e-8)
    second = hessian(lambda e: g(e).sin().sum())(zero)
    torch.testing.assert_close(second, second.mT, rtol=0, atol=1e-12)
    slope = grad(lambda e: g(e).sin().sum())
    numeric = torch.stack([(slope(e) - slope(-e)) / 2e-5 for e in h])
    torch.testing.assert_close(second, numeric, rtol=0, atol=1e-7)


@EVERY
@IN_GROUP
def test_products_with_jacobians_take_and_give_elements(group, name):
    f, batch = FUNCTIONS[name], arguments(group, 3)
    tangents = pytree.tree_map(lambda t: normal(*t.shape, seed=9), batch)
    out, along = jvp(f, batch, tangents)
    again, back = vjp(f, *batch)
    same(again, out, 0)
    cotangent = pytree.tree_map(lambda t: normal(*t.shape, seed=8), out)
    slopes = back(cotangent)
    assert type(slopes[0]) is group
    assert type(along) is type(out)

    def dot(a: Any, b: Any) -> Tensor:
        pairs = zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True)
        return torch.stack([(s * t).sum() for s, t in pairs]).sum()

    torch.testing.assert_close(
        dot(slopes, tangents), dot(cotangent, along), rtol=1e-12, atol=1e-12
    )


@IN_GROUP
def test_gradients_by_an_element_are_elements(group):
    x, y, *_ = arguments(group, 4)
    slope = grad(lambda a: local(a, y).square().sum())(x)
    assert type(slope) is group
    storage = x.tensor.clone().requires_grad_()
    (expected,) = torch.autograd.grad(local(group(storage), y).square().sum(), storage)
    torch.testing.assert_close(slope.tensor, expected, rtol=0, atol=1e-14)
    rows = jacrev(lambda a: a.inverse())(x[0])
    assert type(rows) is group
    assert rows.tensor.tensor.shape == (group.storage_dim, group.storage_dim)
    at = pytree.tree_unflatten([0], pytree.tree_structure(x))  # in_dims written as an element
    same(vmap(lambda a: a.inverse(), in_dims=(at,))(x), x.inverse(), 0)


class Pose(torch.nn.Module):
    """A learned mounting, and a network behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = torch.nn.Parameter(elements(SE3).tensor)
        self.head = torch.nn.Linear(3, 1, dtype=F64)

    def forward(self, world_T_body: SE3, p_world: Tensor) -> Tensor:
        return self.head((world_T_body @ SE3(self.storage)).inverse() @ p_world)


def test_a_module_that_holds_a_pose_works_functionally_and_in_ensembles():
    module, x, p = Pose(), elements(SE3, seed=3), normal(6, 3)
    weights = dict(module.named_parameters())
    slopes = grad(lambda w: functional_call(module, w, (x, p)).square().sum())(weights)
    module(x, p).square().sum().backward()
    for name, weight in module.named_parameters():
        torch.testing.assert_close(slopes[name], weight.grad, rtol=0, atol=1e-13)
    many = torch.func.stack_module_state([Pose(), Pose()])[0]
    both = vmap(lambda w: functional_call(module, w, (x, p)))(many)
    first = functional_call(module, {k: v[0] for k, v in many.items()}, (x, p))
    torch.testing.assert_close(both[0], first, rtol=0, atol=1e-14)


# -- whole problems ------------------------------------------------------------------------------


def test_gradients_by_data_and_values_of_a_problem_are_problems_and_values():
    problem, values = example()
    by_data, by_value = grad(lambda p, x: p.objective(x).sum(), argnums=(0, 1))(problem, values)
    assert type(by_data) is Problem
    assert type(by_value["pose"]) is SE3
    assert type(by_data["odometry"].arguments[2]) is SE3
    # The storage's slope, pulled back, is the gradient of the problem.
    parts = [by_value["pose"], by_value["point"]]
    pulled = torch.cat(
        [values["pose"].pull_back(parts[0].tensor).flatten(1), parts[1].flatten(1)], 1
    )
    torch.testing.assert_close(pulled, problem.gradient(values), rtol=1e-12, atol=1e-12)


# -- files, copies, conversions -----------------------------------------------------------------


def saved_and_loaded(x: Any) -> Any:
    file = io.BytesIO()
    torch.save({"x": x}, file)
    file.seek(0)
    return torch.load(file)["x"]  # weights_only, torch's default


@pytest.mark.parametrize(
    "through",
    [saved_and_loaded, copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))],
    ids=["torch.save", "deepcopy", "copy", "pickle"],
)
@IN_GROUP
def test_elements_can_be_saved_copied_and_pickled(group, through):
    x = elements(group, 2, 3)
    same(through(x), x, 0)


@IN_GROUP
def test_elements_are_converted_like_tensors(group):
    x = elements(group, 4)
    single = x.to(torch.float32)
    assert type(single) is group
    assert single.tensor.dtype == torch.float32
    assert x.to(F64).tensor is x.tensor
    assert x.to("cpu", torch.float32).tensor.dtype == torch.float32
    assert x.to(single.tensor).tensor.dtype == torch.float32
    assert x.to("meta").tensor.is_meta
    back = single.to(F64).normalized()
    assert local(x, back).abs().max() < 3e-7
    assert (back.inverse() @ back).log().abs().max() < 1e-15


def test_what_is_no_tensor_is_refused():
    with pytest.raises(DnlsError, match=r"SE3\(xyz_xyzw\): got list, expected a tensor"):
        SE3([0, 0, 0, 0, 0, 0, 1])
