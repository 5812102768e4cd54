"""Functions of elements, and whole problems, under torch.compile.

Forward-mode derivatives *inside* compiled code are left out: torch 2.13 cannot compile them for
plain tensors either (vmap of jvp of x·y fails, addcmul with a factor crashes).
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from lie_rig import FUNCTIONS, GROUPS, arguments, example, same
from torch import Tensor
from torch.func import grad, jacrev, vmap
from torch.utils import _pytree as pytree

from dnls_ros.lie import SE2, SE3, SO2, SO3, cat, lift, local, project, retract
from dnls_ros.problem import Problem, Values, cost_of

# The compiler's first use compiles some of torch's own functions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

slow = pytest.mark.slow
IN_GROUP = pytest.mark.parametrize("group", GROUPS)
# Compiling takes seconds: one group stands for the others, which `make test-all` runs.
MOSTLY_SLOW = pytest.mark.parametrize(
    "group", [SE3, *(pytest.param(group, marks=slow) for group in (SO2, SE2, SO3))]
)
BACKENDS = pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=slow)])


@pytest.fixture(autouse=True)
def _forget_graphs():
    yield
    torch.compiler.reset()


def everything(x: Any, y: Any, d: Tensor, p: Tensor) -> dict[str, Any]:
    """All functions in one graph, and what containers offer."""
    results = {name: f(x, y, d, p) for name, f in FUNCTIONS.items()}
    results["joined"] = cat([x, y])
    results["indexed"] = x[1:3]
    results["identity"] = type(x).identity(5, dtype=d.dtype).compose(y)
    results["mapped"] = pytree.tree_map(lambda t: 2 * t, x)
    results["converted"] = x.to(torch.float32)
    if isinstance(x, SE2):
        results["parts"] = SE2.from_parts(x.rotation, SE2.from_xyt(y.xyt()).translation)
        results["lifted"] = project(lift(x))
    if isinstance(x, SE3):
        results["parts"] = SE3.from_parts(x.rotation, y.translation)
    return results


@BACKENDS
@MOSTLY_SLOW
def test_functions_of_elements_compile_to_one_graph(group, backend):
    compiled = torch.compile(everything, fullgraph=True, backend=backend)
    batch = arguments(group, 5)
    got, expected = compiled(*batch), everything(*batch)
    assert got.keys() == expected.keys()
    for name in expected:
        same(got[name], expected[name])
    with torch.inference_mode():
        same(compiled(*batch)["local"], expected["local"])


@MOSTLY_SLOW
def test_one_graph_serves_batches_of_all_sizes(group):
    def f(x: Any, y: Any) -> Any:
        return retract(x, 0.5 * local(x, y)), x.adjoint()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    x, y, *_ = arguments(group, 9)
    same(compiled(x, y), f(x, y))
    with torch.compiler.set_stance("fail_on_recompile"):
        same(compiled(x[:4], y[:4]), f(x[:4], y[:4]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@MOSTLY_SLOW
def test_other_dtypes_compile_too(group, dtype):
    def f(x: Any, d: Tensor) -> Any:
        return x.inverse().compose(type(x).exp(d)), type(x).right_jacobian_inverse(d)

    x, _, d, _ = arguments(group, 3)
    x, d = x.to(dtype), d.to(dtype)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    same(compiled(x, d), f(x, d), 8 * torch.finfo(dtype).eps)


@MOSTLY_SLOW
def test_compiled_gradients_are_those_of_eager_code(group):
    x, y, d, _ = arguments(group, 4)
    d.requires_grad_()

    def f(e: Tensor) -> Tensor:
        return local(x, retract(y, e)).square().sum()

    torch.compile(f, fullgraph=True, backend="aot_eager")(d).backward()
    (expected,) = torch.autograd.grad(f(d), d)
    torch.testing.assert_close(d.grad, expected, rtol=0, atol=1e-13)


def residual(e: Tensor, x: Any, y: Any) -> Tensor:
    return local(x, retract(y, e))


@MOSTLY_SLOW
def test_jacobians_compile_in_reverse_mode(group):
    x, y, d, _ = arguments(group, 4)
    f = vmap(jacrev(residual))
    same(torch.compile(f, fullgraph=True, backend="aot_eager")(d, x, y), f(d, x, y), 1e-12)


@pytest.mark.slow
@IN_GROUP
def test_second_derivatives_compile_in_reverse_mode(group):
    x, y, d, _ = arguments(group, 4)
    f = vmap(jacrev(grad(lambda e, x, y: residual(e, x, y).square().sum())))
    same(torch.compile(f, fullgraph=True, backend="aot_eager")(d, x, y), f(d, x, y), 1e-12)


@BACKENDS
@MOSTLY_SLOW
def test_the_operator_between_elements_breaks_the_graph_and_is_right(group, backend):
    x, y, _, p = arguments(group, 4)

    def f(a: Any, b: Any) -> Any:
        return a @ b, (a @ b.inverse()) @ p

    same(torch.compile(f, backend=backend)(x, y), f(x, y))


def test_a_whole_problem_compiles_to_one_graph_with_its_gradients():
    problem, values = example()
    structure = problem.structure(values)

    def objective(p: Problem, x: Values) -> Tensor:
        return cost_of(p, x, structure)

    inputs = [t.clone().requires_grad_() for t in pytree.tree_leaves((problem, values))]
    p, x = pytree.tree_unflatten(inputs, pytree.tree_structure((problem, values)))
    got = torch.compile(objective, fullgraph=True, backend="aot_eager")(p, x)
    torch.testing.assert_close(got, p.objective(x), rtol=1e-13, atol=0)
    slopes = torch.autograd.grad(got.sum(), inputs)
    expected = torch.autograd.grad(p.objective(x).sum(), inputs)
    torch.testing.assert_close(slopes, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
def test_an_objective_that_looks_its_ids_up_compiles_around_that():
    problem, values = example()
    got = torch.compile(Problem.objective, backend="aot_eager")(problem, values)
    torch.testing.assert_close(got, problem.objective(values), rtol=1e-13, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler for inductor")
@pytest.mark.filterwarnings("ignore:`torch._prims_common.check`:FutureWarning")  # torch's own
@IN_GROUP
def test_inductor_makes_the_same_numbers(group):
    batch = arguments(group, 5)
    got, expected = torch.compile(everything, fullgraph=True)(*batch), everything(*batch)
    for name in expected:
        same(got[name], expected[name], 1e-6 if name == "converted" else 1e-13)
