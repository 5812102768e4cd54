"""The named layer: equal to the grouped core, a torch module, saved and loaded, clear errors."""

import copy
import inspect
import json
import pickle
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dnls_ros.costs import (
    DistanceField,
    Joint,
    KinematicTree,
    between,
    collision,
    end_effector_position,
    prior,
)
from dnls_ros.costs.motion import body_twist
from dnls_ros.costs.point import seen_point
from dnls_ros.diff import (
    DirectLoss,
    Implicit,
    Minimizer,
    Truncated,
    Unroll,
    energy_loss,
    solve,
)
from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.lie import SE2, SE3, SO2, SO3, Euclidean
from dnls_ros.linear import Dense, Schur, Symbolic, marginal_covariance
from dnls_ros.named import Bound, Exp, Layer, Named, Objective
from dnls_ros.named import objective as objective_module
from dnls_ros.optim import Dogleg, GaussNewton, History, LevenbergMarquardt, Solution, Tolerances
from dnls_ros.problem import (
    Barron,
    Cauchy,
    Diagonal,
    Huber,
    Isotropic,
    Problem,
    Shared,
    SquareRootInformation,
    Values,
    Variables,
    cost,
)
from dnls_ros.problem.structure import Pattern

F64 = torch.float64
TIGHT = Tolerances(cost=0, step=1e-13, gradient=1e-13, iterations=100)
COUNT = 5

pose = Variables("SE2", SE2)


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=F64, generator=generator)


def x(k: int) -> str:
    return f"x{k}"


def z(k: int) -> str:
    return f"z{k}"


def chain() -> Objective:
    """An anchor of constants and robust odometry whose weights are data."""
    objective = Objective()
    objective.variables(SE2, *map(x, range(COUNT)))
    objective.data(SE2, *map(z, range(COUNT - 1)), "closure")
    objective.data(Euclidean(3), "sigmas")
    objective.data(float, "radius")
    objective.add(prior, "x0", SE2.identity(dtype=F64), noise=Isotropic(0.01), name="anchor")
    for k in range(COUNT - 1):
        objective.add(
            between,
            x(k),
            x(k + 1),
            z(k),
            noise="sigmas",
            loss=Named(Cauchy, "radius"),
            name=f"o{k}",
        )
    objective.add(between, "x0", x(COUNT - 1), "closure", loss=Huber(2.0), name="closure_cost")
    return objective


@dataclass
class Numbers:
    """The chain's inputs, all of them leaves that gradients are asked for."""

    start: Tensor = field(default_factory=lambda: 0.1 * normal(3, COUNT, 3, seed=0))
    odometry: Tensor = field(default_factory=lambda: 0.3 * normal(3, COUNT - 1, 3, seed=1))
    closure: Tensor = field(default_factory=lambda: 0.4 * normal(3, 3, seed=2))
    sigmas: Tensor = field(default_factory=lambda: torch.tensor([[0.4, 0.5, 0.3]], dtype=F64))
    radius: Tensor = field(default_factory=lambda: torch.tensor([1.2], dtype=F64))

    def leaves(self) -> list[Tensor]:
        return [self.start, self.odometry, self.closure, self.sigmas, self.radius]

    def require_grad(self, start: bool = True) -> "Numbers":
        for leaf in self.leaves()[0 if start else 1 :]:
            leaf.requires_grad_()
        return self

    def named(self) -> dict[str, Any]:
        starts, motions = SE2.exp(self.start), SE2.exp(self.odometry)
        return {
            **{x(k): starts[:, k] for k in range(COUNT)},
            **{z(k): motions[:, k] for k in range(COUNT - 1)},
            "closure": SE2.exp(self.closure),
            "sigmas": self.sigmas,
            "radius": self.radius,
        }

    def grouped(self) -> tuple[Problem, Values]:
        ids = torch.arange(COUNT)
        problem = Problem(
            anchor=prior(pose[0], Shared(SE2.identity(dtype=F64)), noise=Isotropic(0.01)),
            odometry=between(
                pose[ids[:-1]],
                pose[ids[1:]],
                SE2.exp(self.odometry),
                noise=Diagonal(self.sigmas[:, None]),
                loss=Cauchy(self.radius[:, None]),
            ),
            closure=between(
                pose[0], pose[COUNT - 1], SE2.exp(self.closure)[:, None], loss=Huber(2.0)
            ),
        )
        return problem, pose.values(ids, SE2.exp(self.start))


def scored(poses: list[SE2]) -> Tensor:
    weights = normal(COUNT, 4, seed=9)
    return sum(
        (weights[k] * p.tensor).sum() + (p.translation**2).sum() for k, p in enumerate(poses)
    )  # type: ignore[return-value]


# Named = grouped


@pytest.mark.parametrize(
    ("method", "adjoint"),
    [
        (LevenbergMarquardt(), Implicit()),
        (GaussNewton(), Unroll()),
        (Dogleg(), Implicit("gauss_newton")),
        (LevenbergMarquardt.ceres(), Truncated(2)),
        (LevenbergMarquardt(), DirectLoss(1e-3)),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_named_is_grouped_to_the_last_bit_gradients_included(method: Any, adjoint: Any) -> None:
    stop = Tolerances(cost=1e-12, iterations=20)
    unrolled = isinstance(adjoint, Unroll)
    ours, core = Numbers().require_grad(unrolled), Numbers().require_grad(unrolled)
    layer = Layer(chain(), method, Dense(), adjoint, stop)
    outputs, info = layer(ours.named())
    problem, values = core.grouped()
    expected = solve(problem, values, method, linear=Dense(), adjoint=adjoint, tolerances=stop)
    found = expected.values["SE2"]
    assert isinstance(found, SE2)
    for k in range(COUNT):
        assert torch.equal(outputs[x(k)].tensor, found.tensor[:, k])
    assert info.status == expected.status
    assert torch.equal(info.iterations, expected.iterations)
    assert torch.equal(info.cost, expected.cost)
    scored([outputs[x(k)] for k in range(COUNT)]).backward()
    scored([found[:, k] for k in range(COUNT)]).backward()
    compared = zip(ours.leaves(), core.leaves(), strict=True)
    for a, b in ((a, b) for a, b in compared if a.requires_grad):
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.norm() > 1e-6
        torch.testing.assert_close(a.grad, b.grad, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("manifold", [SE3, SE2, SO3, SO2, Euclidean(2)], ids=str)
def test_every_manifold_can_be_named(manifold: Any) -> None:
    def elements(*shape: int, seed: int) -> Any:
        delta = normal(*shape, manifold.tangent_dim, seed=seed)
        return delta if isinstance(manifold, Euclidean) else manifold.exp(delta)

    objective = Objective()
    objective.variables(manifold, "a", "b")
    objective.data(manifold, "za", "zab")
    objective.add(prior, "a", "za")
    objective.add(between, "a", "b", "zab", noise=Isotropic(0.3))
    starts, za, zab = elements(2, 2, seed=0), elements(2, seed=1), elements(1, seed=2)
    outputs, info = Layer(objective, tolerances=TIGHT)(
        {"a": starts[:, 0], "b": starts[:, 1], "za": za, "zab": zab}
    )
    assert all(status.converged for status in info.status)
    product = za + zab if isinstance(manifold, Euclidean) else za @ zab
    for found, expected in ((outputs["a"], za), (outputs["b"], product)):
        assert type(found) is type(expected)
        a, b = (t if isinstance(t, Tensor) else t.matrix() for t in (found, expected))
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def sightings() -> tuple[Objective, dict[str, Any]]:
    """Three spatial poses that see four landmarks; the first pose is data, not a variable."""
    objective = Objective()
    objective.variables(SE3, "x1", "x2")
    objective.variables(Euclidean(3), *(f"l{k}" for k in range(4)), block="point")
    objective.data(SE3, "x0", "mount")
    poses = SE3.exp(0.3 * normal(2, 3, 6, seed=3))
    points = normal(2, 4, 3, seed=4)
    inputs: dict[str, Any] = {
        "x0": poses[:, 0],
        "x1": SE3.exp(0.1 * normal(2, 6, seed=5)),
        "x2": SE3.identity(1, dtype=F64),
        "mount": SE3.exp(normal(1, 6, seed=6)),
    }
    for k in range(4):
        inputs[f"l{k}"] = points[:, k] + 0.1 * normal(2, 3, seed=20 + k)
        for i in range(3):
            seen = seen_point.residual(
                poses[:, i], points[:, k], inputs["mount"], torch.zeros(1, 3, dtype=F64)
            )
            objective.data(Euclidean(3), f"s{i}{k}")
            inputs[f"s{i}{k}"] = seen + 0.01 * normal(2, 3, seed=30 + 4 * i + k)
            objective.add(seen_point, f"x{i}", f"l{k}", "mount", f"s{i}{k}", name=f"c{i}{k}")
    return objective, inputs


def test_a_named_block_can_be_eliminated_and_an_argument_held() -> None:
    objective, inputs = sightings()
    assert len(objective.plan().groups) == 2  # of the held pose, and of the two that move
    dense, _ = Layer(objective, tolerances=TIGHT)(inputs)
    schur, info = Layer(objective, linear=Schur("point", Dense()), tolerances=TIGHT)(inputs)
    assert info.linear.name.startswith("schur(point")
    for name in ("x1", "x2", "l3"):
        a, b = (t if isinstance(t, Tensor) else t.tensor for t in (dense[name], schur[name]))
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_costs_of_a_kind_become_one_group_and_python_runs_once_for_all() -> None:
    calls = {3: 0, 30: 0}

    def solved(count: int) -> None:
        def drift(a: Tensor, b: Tensor, step: Tensor, scale: Tensor) -> Tensor:
            calls[count] += 1
            return (b - a - step) / scale

        objective = Objective()
        names = [f"p{k}" for k in range(count)]
        objective.variables(Euclidean(2), *names)
        objective.data(float, "scale")
        objective.add(prior, names[0], torch.zeros(2, dtype=F64))
        for k in range(count - 1):
            objective.add(
                drift, names[k], names[k + 1], torch.full((2,), float(k), dtype=F64), "scale"
            )
        assert [len(group.names) for group in objective.plan().groups] == [1, count - 1]
        layer = Layer(objective, tolerances=Tolerances(cost=0, step=0, gradient=0, iterations=4))
        start = {name: torch.zeros(1, 2, dtype=F64) for name in names}
        outputs, _ = layer({**start, "scale": torch.tensor([2.0], dtype=F64)})
        last = sum(range(count - 1))
        torch.testing.assert_close(outputs[names[-1]], torch.full((1, 2), float(last), dtype=F64))

    solved(3)
    solved(30)
    assert calls[3] == calls[30] > 0


def test_what_differs_in_kind_is_not_grouped() -> None:
    objective = Objective()
    objective.variables(SE2, "a", "b")
    objective.variables(Euclidean(3), "v")
    objective.data(SE2, "z")
    objective.data(float, "sigma", "radius")
    one = SE2.identity(dtype=F64)
    objective.add(prior, "a", "z")
    objective.add(prior, "b", "z")  # with the first one
    objective.add(prior, "a", one)  # of a constant
    objective.add(prior, "v", torch.zeros(3, dtype=F64))  # of another manifold
    objective.add(prior, "a", "z", noise="sigma")
    objective.add(prior, "b", "z", noise=Named(Isotropic, Exp("sigma")))
    objective.add(prior, "a", "z", noise=Isotropic(1.0))
    objective.add(prior, "b", "z", noise=Isotropic(2.0))  # with the one before
    objective.add(prior, "b", "z", loss=Named(Huber, "radius"))
    objective.add(prior, "b", "z", loss=Named(Cauchy, "radius"))
    sizes = [len(group.names) for group in objective.plan().groups]
    assert sizes == [2, 1, 1, 1, 1, 2, 1, 1]
    numbers = {"a": one.tensor[None], "b": one.tensor[None], "v": torch.ones(1, 3, dtype=F64)}
    more = {
        "z": one.tensor[None],
        "sigma": normal(1, seed=0).abs(),
        "radius": normal(1, seed=1).abs(),
    }
    assert list(objective.costs({**numbers, **more})) == list(objective)


def test_a_batch_is_its_elements_alone_and_one_of_them_may_be_spoilt() -> None:
    layer = Layer(chain())
    inputs = Numbers().named()
    inputs["z1"] = SE2(inputs["z1"].tensor.index_fill(0, torch.tensor([1]), torch.nan))
    outputs, info = layer(inputs)
    assert [status.converged for status in info.status] == [True, False, True]
    for b in (0, 2):
        single = {
            k: v[b : b + 1] if len(getattr(v, "tensor", v)) > 1 else v for k, v in inputs.items()
        }
        alone, _ = layer(single)
        for k in range(COUNT):
            torch.testing.assert_close(
                outputs[x(k)].tensor[b], alone[x(k)].tensor[0], atol=1e-13, rtol=0
            )


def test_outputs_are_of_the_form_of_the_inputs() -> None:
    inputs = Numbers().named()
    inputs["x1"] = inputs["x1"].tensor
    inputs["z0"] = inputs["z0"].tensor
    outputs, _ = Layer(chain())(inputs)
    assert list(outputs) == [x(k) for k in range(COUNT)]
    assert isinstance(outputs["x0"], SE2)
    assert isinstance(outputs["x1"], Tensor)
    assert outputs["x1"].shape == (3, 4)
    assert torch.equal(outputs["x2"].tensor, Layer(chain())(Numbers().named())[0]["x2"].tensor)


# Structure


@dataclass(frozen=True)
class Counting:
    """A solver that counts its analyses."""

    analyzed: list[int] = field(default_factory=list, hash=False, compare=False)
    name: str = "counting"

    def analyze(self, pattern: Pattern) -> Symbolic:
        self.analyzed.append(pattern.n)
        return Dense().analyze(pattern)


def test_structure_is_made_once_for_all_calls_and_batch_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grouped: list[int] = []
    plan_of = objective_module.plan_of

    def counted(*arguments: Any) -> Any:
        grouped.append(1)
        return plan_of(*arguments)

    monkeypatch.setattr(objective_module, "plan_of", counted)
    solver = Counting()
    layer = Layer(chain(), linear=solver)
    inputs = Numbers().named()
    results = {}
    for size in (3, 1, 2, 3):
        part = {k: v[:size] if len(getattr(v, "tensor", v)) > 1 else v for k, v in inputs.items()}
        outputs, info = layer(part)
        assert len(info.status) == size
        results[size] = outputs["x4"].tensor
    torch.testing.assert_close(results[1][0], results[3][0], atol=1e-13, rtol=0)
    assert solver.analyzed == [3 * COUNT]
    assert grouped == [1]
    assert layer.plan.memory.structures.misses == 1


def test_adjoints_that_solve_a_variant_do_not_make_the_structure_anew() -> None:
    layer = Layer(chain(), linear=(solver := Counting()), adjoint=DirectLoss())
    for seed in range(3):
        sigmas = (1 + 0.1 * normal(1, 3, seed=seed)).requires_grad_()
        outputs, _ = layer({**Numbers().named(), "sigmas": sigmas})
        outputs["x4"].tensor.sum().backward()
    assert solver.analyzed == [3 * COUNT]  # what pulls at the problem leaves its pattern as it is


def test_a_call_in_inference_mode_leaves_nothing_behind_that_cannot_be_differentiated() -> None:
    layer = Layer(chain(), GaussNewton(), adjoint=Unroll(), tolerances=Tolerances(iterations=5))
    with torch.inference_mode():
        layer(Numbers().named())
    numbers = Numbers().require_grad()
    outputs, _ = layer(numbers.named())
    outputs["x3"].tensor.sum().backward()
    assert numbers.sigmas.grad is not None


def test_a_copied_layer_solves_the_same_and_learns_alone() -> None:
    parameters = {"sigmas": nn.Parameter(Numbers().sigmas), "radius": Numbers().radius}
    layer = Layer(chain(), defaults=parameters)
    inputs = {k: v for k, v in Numbers().named().items() if k not in parameters}
    before, _ = layer(inputs)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(inputs)[0]["x4"].tensor, before["x4"].tensor)
    with torch.no_grad():
        twin.get_parameter("defaults.sigmas").mul_(2)
    assert not torch.equal(twin(inputs)[0]["x4"].tensor, before["x4"].tensor)
    assert torch.equal(layer(inputs)[0]["x4"].tensor, before["x4"].tensor)


def test_what_is_added_later_is_not_in_the_layer() -> None:
    objective = chain()
    layer = Layer(objective)
    objective.add(prior, "x4", SE2.identity(dtype=F64))
    assert len(objective) == len(layer.plan.rows) + 1
    assert len(objective.plan().rows) == len(objective)
    assert list(layer.objective) == list(objective)[:-1]


@dataclass(frozen=True)
class Recorded:
    """An adjoint of a user's own: the protocol is all that the layer knows of it."""

    seen: list[Any] = field(default_factory=list)

    def __call__(self, problem: Problem, initial: Values, minimizer: Minimizer) -> Solution:
        self.seen.append((minimizer.method, minimizer.linear, minimizer.tolerances))
        return minimizer(problem, initial, differentiable=True)


def test_any_adjoint_that_keeps_the_protocol_serves() -> None:
    method, stop, adjoint = GaussNewton(), Tolerances(iterations=3), Recorded()
    Layer(chain(), method, Dense(), adjoint, stop)(Numbers().named())
    assert adjoint.seen == [(method, Dense(), stop)]


def test_the_iterations_of_a_call_can_be_kept() -> None:
    history = History()
    _, info = Layer(chain())(Numbers().named(), history)
    assert len(history.cost) == int(info.iterations.max()) + 1
    assert torch.equal(history.cost[-1], info.cost)


def test_energies_of_a_named_truth_are_learned_from() -> None:
    sigmas = torch.tensor([[0.4, 0.5, 0.3]], dtype=F64, requires_grad=True)
    inputs = {**Numbers().named(), "sigmas": sigmas}
    layer = Layer(chain())
    with torch.no_grad():
        _, solution = layer(inputs)
    bound = layer.bind(inputs)  # a problem that is differentiable, at values taken for the truth
    kept = replace(solution, assembly=replace(solution.assembly, problem=bound.problem))
    generator = torch.Generator().manual_seed(0)
    loss = energy_loss(kept, bound.values, count=8, generator=generator)
    assert loss.shape == (3,)
    (gradient,) = torch.autograd.grad(loss.sum(), sigmas)
    assert gradient.norm() > 1e-3


# The module


class Weighted(nn.Module):
    """A network around the layer, as users write it."""

    def __init__(self) -> None:
        super().__init__()
        defaults = {
            "sigmas": nn.Parameter(torch.tensor([[0.4, 0.5, 0.3]], dtype=F64)),
            "radius": torch.tensor([1.2], dtype=F64),
        }
        stop = Tolerances(cost=0, step=1e-9)
        self.layer = Layer(chain(), tolerances=stop, defaults=defaults)

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        outputs, _ = self.layer(inputs)
        return outputs["x4"].tensor


def without_weights() -> dict[str, Any]:
    named = Numbers().named()
    del named["sigmas"], named["radius"]
    return named


def test_defaults_are_parameters_and_buffers_and_inputs_win_over_them() -> None:
    module = Weighted()
    assert [name for name, _ in module.named_parameters()] == ["layer.defaults.sigmas"]
    assert set(module.state_dict()) == {"layer.defaults.sigmas", "layer.defaults.radius"}
    by_default = module(without_weights())
    expected, _ = Layer(chain(), tolerances=module.layer.tolerances)(Numbers().named())
    assert torch.equal(by_default, expected["x4"].tensor)
    other = {**without_weights(), "sigmas": torch.tensor([[0.1, 2.0, 0.3]], dtype=F64)}
    assert (module(other) - by_default).norm() > 1e-3
    by_default.sum().backward()
    assert module.layer.get_parameter("defaults.sigmas").grad is not None


def test_a_state_dict_restores_what_was_learned() -> None:
    module, other = Weighted(), Weighted()
    with torch.no_grad():
        module.layer.get_parameter("defaults.sigmas").mul_(1.5)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(without_weights()), module(without_weights()))


def test_weights_are_learned_by_a_torch_optimizer() -> None:
    module = Weighted()
    truth, _ = Layer(chain(), tolerances=TIGHT)(
        {
            **without_weights(),
            "sigmas": torch.tensor([[0.8, 0.5, 0.2]], dtype=F64),
            "radius": torch.tensor([1.2], dtype=F64),
        }
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (module(without_weights()) - truth["x4"].tensor).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses) < 0.1 * losses[0]


def test_starting_values_can_be_defaults_of_both_forms() -> None:
    inputs = Numbers().named()
    start = {x(k): inputs.pop(x(k)) for k in range(COUNT)}
    start["x1"] = start["x1"].tensor
    layer = Layer(chain(), defaults=start)
    outputs, _ = layer(inputs)
    assert isinstance(outputs["x0"], SE2)
    assert isinstance(outputs["x1"], Tensor)
    assert torch.equal(outputs["x0"].tensor, Layer(chain())(Numbers().named())[0]["x0"].tensor)


def test_the_layer_moves_to_another_dtype_with_constants_and_defaults() -> None:
    weights = {"sigmas": Numbers().sigmas, "radius": Numbers().radius}
    layer = Layer(chain(), defaults=weights)
    wide = layer(without_weights())[0]["x4"].tensor

    def narrow(value: Any) -> Any:
        return SE2(value.tensor.float())

    inputs = {name: narrow(value) for name, value in without_weights().items()}
    with pytest.raises(
        DnlsError,
        match=r"'sigmas' is in torch.float64 on cpu, 'x0' in torch.float32 on cpu; convert",
    ):
        layer(inputs)
    moved, info = layer.to(torch.float32)(inputs)
    assert moved["x4"].tensor.dtype == info.cost.dtype == torch.float32
    torch.testing.assert_close(moved["x4"].tensor.double(), wide, atol=2e-3, rtol=0)


@pytest.mark.gpu
def test_the_layer_moves_to_a_gpu_and_back() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    layer = Layer(chain(), defaults={"sigmas": Numbers().sigmas, "radius": Numbers().radius})
    here = layer(without_weights())[0]["x4"].tensor
    there = {name: SE2(value.tensor.cuda()) for name, value in without_weights().items()}
    moved = layer.cuda()(there)[0]["x4"].tensor
    assert moved.device.type == "cuda"
    torch.testing.assert_close(moved.cpu(), here, atol=1e-10, rtol=0)
    assert torch.equal(layer.cpu()(without_weights())[0]["x4"].tensor, here)


def test_marginals_are_asked_for_by_name() -> None:
    layer = Layer(chain())
    _, info = layer(Numbers().named())
    assert layer.at("x4", "x1") == ("SE2", [4, 1])
    pattern = info.assembly.structure.pattern
    both = marginal_covariance(info.factorization(), pattern, layer.at("x4", "x1"))
    alone = marginal_covariance(info.factorization(), pattern, layer.at("x1"))
    assert both.shape == (3, 6, 6)
    torch.testing.assert_close(both[:, 3:, 3:], alone)
    with pytest.raises(DnlsError, match="data 'z0' is not optimized"):
        layer.at("z0")
    with pytest.raises(DnlsError, match="nearest valid name is 'x4'"):
        layer.at("x_4")


# Derivatives


@pytest.mark.parametrize(
    "adjoint", [Implicit(tolerance=1e-12), Unroll()], ids=["implicit", "unroll"]
)
@pytest.mark.parametrize("name", ["z1", "sigmas", "radius", "log_alpha"])
def test_gradients_by_name_are_finite_differences(adjoint: Any, name: str) -> None:
    objective = chain()
    objective.data(float, "log_alpha")
    objective.add(
        between, "x1", "x3", "z2", noise="sigmas", loss=Named(Barron, "radius", Exp("log_alpha"))
    )
    method = GaussNewton() if isinstance(adjoint, Unroll) else LevenbergMarquardt()
    layer = Layer(objective, method, Dense(), adjoint, TIGHT)
    inputs = {**Numbers().named(), "log_alpha": torch.tensor([-0.3], dtype=F64)}
    value = inputs[name]
    base = value.tensor if isinstance(value, SE2) else value
    direction = (
        torch.zeros(3, 3, dtype=F64) if isinstance(value, SE2) else normal(*base.shape, seed=8)
    )
    if isinstance(value, SE2):
        direction = normal(3, 3, seed=8)

    def along(h: Tensor) -> Tensor:
        moved = value @ SE2.exp(h * direction) if isinstance(value, SE2) else value + h * direction
        outputs, _ = layer({**inputs, name: moved})
        return scored([outputs[x(k)] for k in range(COUNT)])

    h = torch.zeros((), dtype=F64, requires_grad=True)
    (analytic,) = torch.autograd.grad(along(h), h)

    def central(step: float) -> float:
        ahead, behind = (along(torch.tensor(s * step, dtype=F64)) for s in (1, -1))
        return float(ahead - behind) / (2 * step)

    numeric = (4 * central(5e-4) - central(1e-3)) / 3
    assert abs(numeric) > 1e-6
    assert float(analytic) == pytest.approx(numeric, rel=1e-6)


# Evaluation by name


def test_costs_residuals_and_gradients_are_told_by_name() -> None:
    objective, numbers = chain(), Numbers()
    inputs = numbers.named()
    residuals, whitened = objective.residuals(inputs), objective.whitened(inputs)
    assert list(residuals) == list(objective) == ["anchor", "o0", "o1", "o2", "o3", "closure_cost"]
    expected = between.residual(inputs["x1"], inputs["x2"], inputs["z1"])
    torch.testing.assert_close(residuals["o1"], expected)
    torch.testing.assert_close(whitened["o1"], expected / numbers.sigmas)
    torch.testing.assert_close(whitened["anchor"], residuals["anchor"] / 0.01)
    costs = objective.costs(inputs)
    s = whitened["o1"].square().sum(-1)
    torch.testing.assert_close(costs["o1"], 0.5 * Cauchy(1.2).rho(s)[0])
    torch.testing.assert_close(sum(costs.values()), objective.cost(inputs))
    problem, values = numbers.grouped()
    torch.testing.assert_close(objective.cost(inputs), problem.objective(values))
    gradient = objective.gradient(inputs)
    stacked = torch.cat([gradient[x(k)] for k in range(COUNT)], 1)
    torch.testing.assert_close(stacked, problem.gradient(values))


def test_the_error_vector_has_the_cost_as_half_its_squared_norm_and_its_gradient() -> None:
    objective, numbers = chain(), Numbers().require_grad()
    vector = objective.error_vector(numbers.named())
    assert vector.shape == (3, 18)
    half = 0.5 * vector.square().sum(1)
    torch.testing.assert_close(half, objective.cost(numbers.named()))
    leaves = numbers.leaves()
    ours = torch.autograd.grad(half.sum(), leaves)
    core = torch.autograd.grad(objective.cost(numbers.named()).sum(), leaves)
    for a, b in zip(ours, core, strict=True):
        torch.testing.assert_close(a, b)


def test_the_error_vector_is_finite_with_its_derivative_where_a_residual_vanishes() -> None:
    objective = Objective()
    objective.variables(Euclidean(2), "p")
    objective.data(float, "radius")
    objective.add(prior, "p", torch.zeros(2, dtype=F64), loss=Named(Huber, "radius"))
    p = torch.zeros(1, 2, dtype=F64, requires_grad=True)
    radius = torch.ones(1, dtype=F64, requires_grad=True)
    vector = objective.error_vector({"p": p, "radius": radius})
    assert torch.equal(vector, torch.zeros(1, 2, dtype=F64))
    for gradient in torch.autograd.grad(vector.sum(), (p, radius)):
        assert gradient.isfinite().all()


def test_values_of_batch_one_meet_data_of_a_batch() -> None:
    objective, inputs = chain(), Numbers().named()
    for k in range(COUNT):
        inputs[x(k)] = inputs[x(k)][:1]
    assert objective.gradient(inputs)["x2"].shape == (3, 3)
    assert objective.residuals(inputs)["anchor"].shape == (3, 3)
    outputs, _ = Layer(objective)(inputs)
    assert outputs["x0"].tensor.shape == (3, 4)


def test_a_mask_switches_a_cost_off_even_where_its_data_is_not_finite() -> None:
    objective = chain()
    objective.data(float, "on", "always")
    objective.data(SE2, "fix")
    objective.add(prior, "x2", "fix", mask="on", name="fix2")
    objective.add(prior, "x3", "fix", mask="always", name="fix3")
    fix = SE2.exp(normal(3, 3, seed=7)).tensor
    on = torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    more = {"on": on, "always": torch.ones(1, dtype=F64)}
    inputs = {**Numbers().named(), "fix": fix, **more}
    costs = objective.costs(inputs)
    assert (costs["fix2"] > 0).tolist() == [True, False, True]
    assert bool((costs["fix3"] > 0).all())
    fix = fix.index_fill(0, torch.tensor([1]), torch.nan).requires_grad_()
    both_off = {**inputs, "fix": fix, "always": on}
    outputs, info = Layer(objective)(both_off)
    plain, _ = Layer(chain())(Numbers().named())
    assert all(status.converged for status in info.status)
    torch.testing.assert_close(outputs["x2"].tensor[1], plain["x2"].tensor[1], atol=1e-9, rtol=0)
    outputs["x2"].tensor.sum().backward()
    assert fix.grad is not None
    assert fix.grad.isfinite().all()


def test_constants_are_numbers_tensors_or_elements_and_numbers_take_any_dtype() -> None:
    objective = Objective()
    objective.variables(SE2, "a", "b", "c")
    objective.data(Euclidean(3), "twist")
    objective.add(prior, "a", SE2.identity(dtype=torch.float32))
    objective.add(body_twist, "a", "b", 0.5, "twist")
    objective.add(body_twist, "b", "c", 0.25, "twist")
    one = SE2.identity(1, dtype=torch.float32).tensor
    twist = torch.tensor([[2.0, 0.0, 1.0]])
    outputs, _ = Layer(objective)({"a": one, "b": one, "c": one, "twist": twist})
    assert outputs["c"].dtype == torch.float32
    expected = SE2.exp(0.75 * twist).tensor
    torch.testing.assert_close(outputs["c"], expected, atol=1e-5, rtol=0)


def test_a_map_is_shared_by_the_costs_that_name_it() -> None:
    objective = Objective()
    objective.variables(Euclidean(2), "p", "q")
    objective.data(DistanceField, "walls", "doors")
    center = torch.zeros(1, 2, dtype=F64)
    for name in ("p", "q"):
        objective.add(prior, name, center[0])
        objective.add(collision, name, center, 0.7, "walls", noise=Isotropic(0.1))
    objective.add(collision, "q", center, 0.7, "doors", noise=Isotropic(0.1))
    assert [len(group.names) for group in objective.plan().groups] == [2, 2, 1]
    grid = torch.arange(9, dtype=F64)
    wall = (grid[None, None, :] - 4).abs().expand(2, 9, 9) * torch.tensor([1.0, 0.1], dtype=F64)[
        :, None, None
    ]
    corner, cell = torch.full((1, 2), -2.0, dtype=F64), torch.full((1, 1), 0.5, dtype=F64)
    field_ = DistanceField(wall, corner, cell)
    inputs = {"p": center + 0.1, "q": center - 0.1, "walls": field_, "doors": field_}
    outputs, info = Layer(objective)(inputs)
    assert len(info.status) == 2
    assert bool((outputs["p"][:, 0] > 0.1).all())
    objective.data(float, "unused")
    assert "unused" not in objective.plan().needed


def test_a_layer_may_own_a_map_of_which_a_part_is_learned() -> None:
    objective = Objective()
    objective.variables(Euclidean(2), "p")
    objective.data(DistanceField, "walls")
    zero = torch.zeros(1, 2, dtype=F64)
    objective.add(prior, "p", zero[0])
    objective.add(collision, "p", zero, 9.0, "walls", noise=Isotropic(50.0))
    distance = nn.Parameter(normal(1, 6, 6, seed=0))
    walls = DistanceField(distance, zero - 3, torch.ones(1, 1, dtype=F64))
    layer = Layer(objective, defaults={"walls": walls})
    assert [n for n, _ in layer.named_parameters()] == ["defaults.walls:0"]
    outputs, _ = layer({"p": zero})
    outputs["p"].sum().backward()
    assert distance.grad is not None
    assert distance.grad.abs().sum() > 0


def test_an_arm_is_a_constant_or_data_that_is_calibrated(tmp_path: Path) -> None:
    def at(along: float) -> SE3:
        return SE3(torch.tensor([along, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], dtype=F64))

    up = (0.0, 0.0, 1.0)
    arm = KinematicTree.of(
        [
            Joint("shoulder", "continuous", "base", "upper", at(0.0), up),
            Joint("elbow", "continuous", "upper", "lower", at(1.0), up),
            Joint("wrist", "fixed", "lower", "hand", at(1.0)),
        ]
    )

    def reaching(chain: Any) -> Objective:
        objective = Objective()
        objective.variables(Euclidean(2), "q")
        objective.data(Euclidean(3), "goal")
        objective.data(KinematicTree, "arm")
        objective.add(end_effector_position, "q", "goal", chain, noise=Isotropic(0.01))
        objective.add(prior, "q", torch.tensor([0.3, 1.0], dtype=F64))
        return objective

    batched = pytree.tree_map(lambda t: nn.Parameter(t[None]), arm)
    fixed, learned = Layer(reaching(arm)), Layer(reaching("arm"), defaults={"arm": batched})
    inputs = {
        "q": torch.zeros(2, 2, dtype=F64) + 0.5,
        "goal": torch.tensor([[1.0, 1.0, 0.0], [1.5, 0.5, 0.0]], dtype=F64),
    }
    for layer in (fixed, learned):
        outputs, _ = layer(inputs)
        reached = arm.pose(outputs["q"]).translation
        torch.testing.assert_close(reached, inputs["goal"], atol=1e-3, rtol=0)
        layer.save(tmp_path / "arm")
        again = Layer.load(tmp_path / "arm")(inputs)[0]["q"]
        assert torch.equal(again, outputs["q"])
    outputs["q"].sum().backward()
    gradients = [p.grad for p in learned.parameters() if p.grad is not None]
    assert max(float(gradient.abs().max()) for gradient in gradients) > 0.1


# Errors


def objective_with(**extra: Any) -> Objective:
    objective = Objective()
    objective.variables(SE2, "x0", "x1")
    objective.data(SE2, "z01")
    objective.data(float, "sigma", "radius")
    objective.data(Euclidean(3), "sigmas")
    return objective


ADDING = {
    "an unknown name": (
        lambda o: o.add(between, "x0", "x_1", "z01"),
        r"cost 'between_0': 'x_1' is neither.*nearest valid name is 'x1'",
    ),
    "too few arguments": (lambda o: o.add(between, "x0", "x1"), r"takes 3 arguments.*got 2"),
    "no variable": (lambda o: o.add(prior, "z01", "z01"), r"none of its arguments is a variable"),
    "a name twice": (
        lambda o: (o.add(prior, "x0", "z01", name="p"), o.add(prior, "x1", "z01", name="p")),
        r"there is a cost 'p' already",
    ),
    "a constant to be learned": (
        lambda o: o.add(prior, "x0", SE2(torch.ones(4, requires_grad=True))),
        r"cost 'prior_0': z: what is learned is no constant",
    ),
    "a constant of no kind": (
        lambda o: o.add(prior, "x0", {"a": "b"}),
        r"a constant is a number, a tensor.*got str",
    ),
    "a learned noise": (
        lambda o: o.add(prior, "x0", "z01", noise=Diagonal(torch.ones(3, requires_grad=True))),
        r"noise: what is learned is no constant",
    ),
    "noise with a batch": (
        lambda o: o.add(prior, "x0", "z01", noise=Diagonal(torch.ones(2, 1, 3))),
        r"noise has shape \(2, 1, 3\), expected one factor's",
    ),
    "a loss as noise": (
        lambda o: o.add(prior, "x0", "z01", noise=Huber(1.0)),
        r"noise is a Huber, expected a Noise",
    ),
    "a noise as loss": (
        lambda o: o.add(prior, "x0", "z01", loss=Named(Diagonal, "sigmas")),
        r"loss: .*Diagonal.* is no class of Loss",
    ),
    "a radius of three": (
        lambda o: o.add(prior, "x0", "z01", loss=Named(Huber, "sigmas")),
        r"loss: Huber takes one number, but 'sigmas' is a tensor \(B\|1, 3\)",
    ),
    "sigmas that are one": (
        lambda o: o.add(prior, "x0", "z01", noise=Named(Diagonal, "radius")),
        r"noise: Diagonal takes a vector, but 'radius' is a tensor \(B\|1,\)",
    ),
    "noise by an unknown name": (
        lambda o: o.add(prior, "x0", "z01", noise="sigmaz"),
        r"noise 'sigmaz'; the nearest valid name is 'sigma'",
    ),
    "noise by the name of a pose": (
        lambda o: o.add(prior, "x0", "z01", noise="z01"),
        r"noise 'z01', which is SE2",
    ),
    "a radius that is optimized": (
        lambda o: o.add(prior, "x0", "z01", loss=Named(Huber, "x0")),
        r"'x0' is not declared as data",
    ),
    "an unknown mask": (
        lambda o: o.add(prior, "x0", "z01", mask="sigmq"),
        r"mask: 'sigmq' is not declared as data; the nearest",
    ),
    "a source of no kind": (
        lambda o: o.add(prior, "x0", "z01", loss=Named(Huber, [1.0])),  # type: ignore[arg-type]
        r"loss: \[1.0\] is no name",
    ),
    "a variable again": (lambda o: o.variables(SE2, "x0"), r"there is a variable 'x0' already"),
    "data again": (lambda o: o.data(SE2, "x0"), r"there is a variable 'x0' already"),
    "twice at once": (lambda o: o.data(SE2, "a", "a"), r"a name is declared twice"),
    "a list of names": (lambda o: o.data(SE2, ["a", "b"]), r"names are words.*did a \*"),
    "no names": (lambda o: o.variables(SE2), r"nothing is declared"),
    "a variable that is a shape": (
        lambda o: o.variables((3,), "a"),
        r"variables live in SE2, SE3",
    ),
    "data of no kind": (lambda o: o.data("SE2", "a"), r"data is declared as a group.*'SE2'"),
    "data of a wrong shape": (lambda o: o.data((3, 0), "a"), r"data is declared as a group"),
    "a block of two manifolds": (
        lambda o: o.variables(SE3, "a", block="SE2"),
        r"block 'SE2' holds SE2 .*, not SE3",
    ),
    "a variable without cost": (
        lambda o: (o.add(prior, "x0", "z01"), Layer(o)),
        r"2 variables and 1 costs: no cost takes \['x1'\]",
    ),
    "nothing": (lambda o: Layer(Objective()), r"there is nothing to optimize"),
}


@pytest.mark.parametrize("case", ADDING)
def test_a_mistake_in_an_objective_is_one_clear_error(case: str) -> None:
    act, message = ADDING[case]
    with pytest.raises(DnlsError, match=message):
        act(objective_with())


CALLING = {
    "a missing variable": ({"x1": None}, r"inputs lack 'x1' \(SE2 or a tensor \(B\|1, 4\)\)"),
    "missing data": (
        {"z0": None, "radius": None},
        r"inputs lack 'z0' .*, 'radius' \(a tensor \(B\|1,\)\)",
    ),
    "an unknown name": (
        {"z_0": SE2.identity(1, dtype=F64)},
        r"'z_0' is neither a variable nor data .*nearest valid name is 'z0'",
    ),
    "another group": ({"x1": SE3.identity(3, dtype=F64)}, r"variable 'x1' is SE2 .*, got SE3"),
    "a group where a vector is": (
        {"sigmas": SE2.identity(1, dtype=F64)},
        r"data 'sigmas' is a tensor \(B\|1, 3\), got SE2",
    ),
    "a number": ({"radius": 1.0}, r"data 'radius' is a tensor \(B\|1,\), got float"),
    "a wrong width": (
        {"x1": torch.zeros(3, 3, dtype=F64)},
        r"variable 'x1' is SE2 or a tensor \(B\|1, 4\), got shape \(3, 3\)",
    ),
    "no batch axis": ({"z1": SE2.identity(dtype=F64)}, r"data 'z1' is SE2 .*got shape \(4,\)"),
    "one axis too many": ({"sigmas": torch.ones(1, 1, 3, dtype=F64)}, r"'sigmas' .*\(1, 1, 3\)"),
    "another batch": (
        {"z1": SE2.identity(2, dtype=F64)},
        r"data 'z1' has batch size 2, 'x0' has 3; give 1 or 3",
    ),
    "another dtype": (
        {"z1": SE2.identity(1, dtype=torch.float32)},
        r"data 'z1' is in torch.float32 on cpu, 'x0' in torch.float64 on cpu; convert",
    ),
    "another device": (
        {"z1": SE2(torch.ones(1, 4, dtype=F64, device="meta"))},
        r"data 'z1' is in torch.float64 on meta, 'x0' in torch.float64 on cpu",
    ),
    "integers": (
        {x(k): torch.zeros(1, 4, dtype=torch.int64) for k in range(COUNT)},
        r"variable 'x0' is in torch.int64, not in floats",
    ),
    "a negative sigma": (
        {"sigmas": torch.tensor([[1.0, -1.0, 1.0]], dtype=F64)},
        r"data \['sigmas'\]: Diagonal: sigmas must be positive and finite",
    ),
    "a radius that is not a number": (
        {"radius": torch.tensor([torch.nan], dtype=F64)},
        r"data \['radius'\]: Cauchy: radius must be positive and finite",
    ),
}


@pytest.mark.parametrize("case", CALLING)
def test_a_mistake_in_the_inputs_is_one_clear_error(case: str) -> None:
    change, message = CALLING[case]
    inputs = {k: v for k, v in {**Numbers().named(), **change}.items() if v is not None}
    with pytest.raises(DnlsError, match=message):
        Layer(chain())(inputs)


def scalar_residual(p: Tensor) -> Tensor:
    return p.sum()


def failing_residual(p: Tensor) -> Tensor:
    return p[7:8] / p[9]


@pytest.mark.parametrize(
    ("function", "noise", "message"),
    [
        (
            scalar_residual,
            None,
            r"cost 'c' .*'scalar_residual': .* of one instance has shape \(\), expected \(r,\)",
        ),
        (failing_residual, None, r"cost 'c' .*failing_residual cannot be evaluated: IndexError"),
        (cost(lambda p: p), Diagonal(torch.ones(3)), r"noise does not fit a residual of length 2"),
        (cost(lambda p: p[:1]), Diagonal(torch.ones(3)), r"residual of length 1; got \[\(3,\)\]"),
        (
            cost(lambda p: p),
            SquareRootInformation(torch.ones(2, 3)),
            r"residual of length 2; got \[\(2, 3\)\]",
        ),
    ],
)
def test_a_cost_that_does_not_fit_is_named(function: Any, noise: Any, message: str) -> None:
    objective = Objective()
    objective.variables(Euclidean(2), "p", "q")
    objective.add(function, "p", noise=noise, name="c")
    objective.add(function, "q", noise=noise, name="d")
    p = torch.ones(1, 2, dtype=F64)
    with pytest.raises(
        DnlsError, match=message.replace("cost 'c' ", r"cost 'c' \(and 1 like it\)")
    ):
        objective.cost({"p": p, "q": p})


def test_a_default_that_does_not_fit_is_named() -> None:
    with pytest.raises(DnlsError, match=r"'sigmaz' is neither.*nearest valid name is 'sigmas'"):
        Layer(chain(), defaults={"sigmaz": torch.ones(1, 3)})
    with pytest.raises(
        DnlsError, match=r"data 'sigmas' is a tensor \(B\|1, 3\), got shape \(3,\)"
    ):
        Layer(chain(), defaults={"sigmas": torch.ones(3)})
    with pytest.raises(DnlsError, match=r"'sigmas' is a tensor that requires gradients"):
        Layer(chain(), defaults={"sigmas": torch.ones(1, 3, requires_grad=True)})
    objective = chain()
    objective.data(float, "type", "a.b")
    for name in ("type", "a.b"):
        with pytest.raises(DnlsError, match=f"'{name}' cannot have a default"):
            Layer(objective, defaults={name: torch.ones(1)})


# Save and load


@pytest.fixture
def user_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of a user's with a cost, a plain function and a lambda."""
    module = ModuleType("my_robot_costs")
    code = """
from dnls_ros.problem import cost

@cost
def spring(a, b, rest):
    return b - a - rest

def pull(a, strength):
    return strength * a

bend = lambda a, strength: strength * a
stretched = cost(lambda a: a)

def nested():
    def inner(a):
        return a
    return inner
"""
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def springs(module: Any) -> Objective:
    objective = Objective()
    objective.variables(Euclidean(2), "a", "b", block="node")
    objective.variables(Euclidean(2), "c", block="node")
    objective.data((2,), "rest")
    objective.data(float, "strength", "on")
    objective.data(DistanceField, "walls")
    objective.add(module.spring, "a", "b", "rest", noise=Isotropic(0.5), loss=Huber(3.0))
    objective.add(module.spring, "b", "c", torch.tensor([1.0, 2.0], dtype=F64), mask="on")
    for name in "abc":
        objective.add(module.pull, name, "strength", loss=Named(Barron, Exp("strength"), 1.0))
    return objective


def test_a_saved_layer_solves_the_same_to_the_last_bit(user_module: Any, tmp_path: Path) -> None:
    zero = torch.zeros(1, 2, dtype=F64)
    walls = DistanceField(nn.Parameter(normal(1, 3, 3, seed=0)), zero, torch.ones(1, 1, dtype=F64))
    layer = Layer(
        springs(user_module),
        Dogleg(initial=0.3),
        Dense(),
        Implicit("gauss_newton", iterations=7),
        Tolerances(step=1e-9, seconds=5.0),
        defaults={
            "strength": nn.Parameter(torch.tensor([0.3], dtype=F64)),
            "rest": nn.Parameter(normal(1, 2, seed=3), requires_grad=False),
            "on": torch.ones(1, dtype=F64),
            "walls": walls,
        },
    )
    path = tmp_path / "springs.pt"
    layer.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["springs.pt"]
    loaded = Layer.load(path, modules=["my_robot_costs"])
    assert vars(loaded.method) == vars(layer.method)
    assert loaded.linear == layer.linear
    assert (loaded.adjoint, loaded.tolerances) == (layer.adjoint, layer.tolerances)
    assert [len(g.names) for g in loaded.plan.groups] == [1, 1, 3]
    assert list(loaded.plan.blocks) == ["node"]
    before, after = (
        {n: (p.requires_grad, p.tolist()) for n, p in module.named_parameters()}
        for module in (layer, loaded)
    )
    assert before == after
    assert [flag for flag, _ in after.values()].count(False) == 1
    start = {name: normal(4, 2, seed=k) for k, name in enumerate("abc")}
    (ours, info), (theirs, other) = layer(start), loaded(start)
    for name in "abc":
        assert torch.equal(ours[name], theirs[name])
    assert info.status == other.status
    ours["a"].sum().backward()
    theirs["a"].sum().backward()
    a, b = (module.get_parameter("defaults.strength").grad for module in (layer, loaded))
    assert a is not None
    assert b is not None
    assert torch.equal(a, b)


def test_every_setting_that_there_is_can_be_saved(tmp_path: Path) -> None:
    objective, inputs = sightings()
    method = LevenbergMarquardt.ceres()
    layer = Layer(objective, method, Schur(("point",), Dense()), Unroll())
    layer.save(tmp_path / "layer")
    loaded = Layer.load(tmp_path / "layer")
    assert loaded.linear == layer.linear
    assert vars(loaded.method) == vars(method)
    a, b = layer(inputs)[0]["x2"], loaded(inputs)[0]["x2"]
    assert torch.equal(a.tensor, b.tensor)


@pytest.mark.parametrize("which", ["bend", "stretched", "nested"])
def test_a_cost_without_an_import_path_cannot_be_saved(
    user_module: Any, tmp_path: Path, which: str
) -> None:
    objective = Objective()
    objective.variables(Euclidean(2), "a")
    function = getattr(user_module, which)
    function = function() if which == "nested" else function
    objective.add(function, "a", *([1.0] if which == "bend" else []), name="c")
    with pytest.raises(
        DnlsError, match=r"'c' cannot be saved.*of module my_robot_costs.*no lambda"
    ):
        Layer(objective).save(tmp_path / "layer")
    assert not list(tmp_path.iterdir())


def test_a_learned_damping_is_a_parameter_and_is_saved(tmp_path: Path) -> None:
    damping = nn.Parameter(torch.tensor(0.5, dtype=F64))
    stop = Tolerances(cost=0, step=0, gradient=0, iterations=2)
    layer = Layer(chain(), LevenbergMarquardt(damping), adjoint=Unroll(), tolerances=stop)
    assert [name for name, _ in layer.named_parameters()] == ["method_initial"]
    outputs, _ = layer(Numbers().named())
    scored([outputs[x(k)] for k in range(COUNT)]).backward()
    assert damping.grad is not None
    assert damping.grad.abs() > 1e-6
    layer.save(tmp_path / "layer")
    loaded = Layer.load(tmp_path / "layer")
    assert torch.equal(loaded.get_parameter("method_initial"), damping)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.get_parameter("method_initial").mul_(100)
    assert float(damping.detach()) == 0.5
    slower, again = twin(Numbers().named())[0], loaded(Numbers().named())[0]
    assert not torch.equal(slower["x4"].tensor, outputs["x4"].tensor)
    assert torch.equal(again["x4"].tensor, outputs["x4"].tensor)


def test_a_setting_of_no_dataclass_cannot_be_saved(tmp_path: Path) -> None:
    class Own:
        name = "own"
        analyze = Dense().analyze

    layer = Layer(chain(), linear=Own())  # type: ignore[arg-type]
    with pytest.raises(DnlsError, match="a Own cannot be written to a file"):
        layer.save(tmp_path / "layer")


class Evil:
    """What a file must not bring to life."""

    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Evil, "ran", True)


def saved(path: Path) -> dict[str, Any]:
    Layer(chain()).save(path)
    return torch.load(path, weights_only=True)


def spoiled(path: Path, how: str) -> None:
    """Writes a file with one thing wrong."""
    stored = saved(path)
    content = json.loads(stored["content"])
    if how == "nothing there":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "no container":
        path.write_text("variables: [x0]")
    elif how == "cut off":
        path.write_bytes(path.read_bytes()[:-300])
    elif how == "pickled code":
        with path.open("wb") as file:
            pickle.dump(Evil(), file, protocol=2)
    elif how == "code in the container":
        torch.save({**stored, "tensors": Evil()}, path)
    elif how == "another version":
        torch.save({**stored, "format": "dnls_ros.layer/99"}, path)
    elif how == "another content":
        torch.save([1, 2], path)
    elif how == "no settings":
        del content["settings"]
    elif how == "a lost tensor":
        stored["tensors"].popitem()
    elif how == "a foreign module":
        content["costs"]["tuple"][0]["fields"]["cost"] = {"cost": "os:system"}
    elif how == "a class that is no cost":
        content["costs"]["tuple"][0]["fields"]["cost"] = {"cost": "dnls_ros.named:Layer"}
    elif how == "a word that is no name":
        content["costs"]["tuple"][0]["fields"]["arguments"]["tuple"][0] = {"is": "x99"}
    elif how == "a setting out of range":
        content["settings"]["tuple"][3]["fields"]["step"] = {"is": -1.0}
    elif how == "a method that is none":
        content["settings"]["tuple"][0] = {"is": 1.0}
    elif how == "an unknown setting":
        content["settings"]["tuple"][3]["fields"]["stepp"] = {"is": 1.0}
    if how in ("no settings", "a lost tensor") or how.startswith(("a ", "an unk")):
        torch.save({**stored, "content": json.dumps(content)}, path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nothing there", "FileNotFoundError"),
        ("empty", "EOFError"),
        ("no container", "UnpicklingError"),
        ("cut off", "(RuntimeError|OSError)"),
        ("pickled code", "UnpicklingError"),
        ("code in the container", "UnpicklingError"),
        ("another version", r"its format is 'dnls_ros.layer/99', expected 'dnls_ros.layer/1'"),
        ("another content", "TypeError"),
        ("no settings", "KeyError: 'settings'"),
        ("a lost tensor", "KeyError"),
        ("a foreign module", "it uses os:system; name its module to allow that"),
        ("a class that is no cost", "dnls_ros.named:Layer is no cost"),
        ("a word that is no name", r"'x99' is neither a variable nor data"),
        ("a setting out of range", "tolerances must not be negative"),
        ("an unknown setting", "Tolerances has no stepp"),
        ("a method that is none", "its settings are no method, solver"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, how: str, message: str) -> None:
    path = tmp_path / "layer.pt"
    spoiled(path, how)
    with pytest.raises(UnreadableInputError, match=rf"layer.pt is no layer.*{message}"):
        Layer.load(path)
    assert not Evil.ran


# The page for people who come from other libraries

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "coming_from.md").read_text()


@pytest.fixture
def default_dtype() -> Iterator[None]:
    """The page sets torch's default type; other tests do not expect that."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def test_the_code_of_the_page_runs_and_gives_what_gtsam_gives(
    default_dtype: None, capsys: pytest.CaptureFixture[str]
) -> None:
    there: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for number, code in enumerate(blocks, start=1):
        exec(compile(code, f"coming_from.md, block {number}", "exec", dont_inherit=True), there)
    assert capsys.readouterr().out.count("converged") == 2
    assert there["layer"].defaults.sigmas.grad.abs().max() > 1e-5
    # GTSAM 4.3.0, asked for the same problem
    x3 = torch.tensor([[4.0404, 0.0595141, 0.00959348]])
    torch.testing.assert_close(there["result"]["x3"].xyt(), x3, atol=1e-5, rtol=0)
    covariance = torch.tensor(
        [
            [1.01191058e-01, -1.76837229e-04, -1.14055800e-04],
            [-1.76837229e-04, 1.49676351e-01, 2.42748204e-02],
            [-1.14055800e-04, 2.42748204e-02, 2.41261757e-02],
        ]
    )
    torch.testing.assert_close(there["covariance"][0], covariance, atol=1e-6, rtol=0)
    fitted = there["solution"].values["curve"][0, 0]
    torch.testing.assert_close(fitted, torch.tensor([0.3, 0.1]), atol=0.01, rtol=0)


def test_the_words_of_the_page_are_names_that_there_are() -> None:
    parts = ("named", "problem", "optim", "diff", "linear", "lie", "costs")
    known = {name for part in parts for name in dir(import_module(f"dnls_ros.{part}"))}
    known |= {*dir(Objective), *dir(Layer), *(f.name for f in fields(Bound))}
    for function in (Objective.add, Objective.variables, Layer.__init__, Layer.forward):
        known |= set(inspect.signature(function).parameters)
    spoken = {"objective", "layer", "solution", "truth", "example", "path", "dnls_ros", "window"}
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert len(rows) > 20
    for row in rows[2:]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 5, row
        for code in re.findall(r"`([^`]+)`", cells[-1]):
            words = re.findall(r"[^\W\d]\w+", re.sub(r'"[^"]*"', "", code))
            unknown = [word for word in words if word not in known | spoken]
            assert not unknown, f"{unknown} in {code}"
