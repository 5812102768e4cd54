"""Gradients in the tangent space, and Adam and SGD that follow them by retraction."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vjp

from dnls_ros.errors import DnlsError
from dnls_ros.lie import (
    SE2,
    SE3,
    SO2,
    SO3,
    Euclidean,
    LieGroup,
    ManifoldAdam,
    ManifoldSGD,
    local,
    retract,
    tangent_gradient,
)

F64 = torch.float64
GROUPS = [SO2, SE2, SO3, SE3]
Group = type[LieGroup]
OURS = {ManifoldAdam: torch.optim.Adam, ManifoldSGD: torch.optim.SGD}
OPTIONS: dict[type, list[dict[str, Any]]] = {
    ManifoldAdam: [
        {"lr": 0.03},
        {"lr": 0.03, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True},
        {"lr": 0.01, "maximize": True},
        {"lr": torch.tensor(0.02)},
    ],
    ManifoldSGD: [
        {"lr": 0.003},
        {"lr": 0.003, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1},
        {"lr": 0.003, "momentum": 0.8, "nesterov": True},
        {"lr": 0.001, "momentum": 0.5, "maximize": True},
    ],
}
CASES = [(kind, options) for kind, all_of in OPTIONS.items() for options in all_of]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def elements(group: Group, *batch: int, seed: int = 0, scale: float = 1.0) -> LieGroup:
    return group.exp(scale * normal(*batch, group.tangent_dim, seed=seed))


def parameter(x: LieGroup | Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(x.tensor.clone() if isinstance(x, LieGroup) else x.clone())


def equal(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


# -- gradients ----------------------------------------------------------------------------------


def by_autograd(x: LieGroup | Tensor, gradient: Tensor) -> Tensor:
    """Dᵀ g by reverse mode through the retraction."""

    def moved(delta: Tensor) -> Tensor:
        y = retract(x, delta)
        return y.tensor if isinstance(y, LieGroup) else y

    t = x.tangent_dim if isinstance(x, LieGroup) else x.shape[-1]
    zero = torch.zeros(*gradient.shape[:-1], t, dtype=gradient.dtype)
    return vjp(moved, zero)[1](gradient)[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-15), (torch.float32, 5e-7)])
@pytest.mark.parametrize("group", GROUPS)
def test_a_pulled_back_gradient_is_that_of_autograd_through_the_retraction(
    group, dtype, tolerance
):
    half = torch.zeros(1, group.tangent_dim, dtype=F64)
    half[0, -1] = math.pi
    batch = torch.cat([elements(group, 20).tensor, group.exp(half).tensor])
    x = group(torch.cat([batch, group.identity(1, dtype=F64).tensor])).to(dtype)
    gradient = normal(22, group.storage_dim, seed=1).to(dtype)
    got = tangent_gradient(x, gradient)
    assert got.dtype == dtype
    scale = gradient.abs().max()
    torch.testing.assert_close(
        got / scale, by_autograd(x, gradient) / scale, rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("group", GROUPS)
def test_a_tangent_gradient_is_the_slope_along_perturbations(group):
    x, goal = elements(group, 6), elements(group, 6, seed=1)
    storage = parameter(x)
    (of_storage,) = torch.autograd.grad(local(goal, group(storage)).square().sum(), storage)
    got = tangent_gradient(x, of_storage)

    def cost(delta: Tensor) -> Tensor:
        return local(goal, retract(x, delta)).square().sum()

    steps = 1e-5 * torch.eye(6 * group.tangent_dim, dtype=F64).unflatten(1, (6, -1))
    slope = torch.stack([cost(s) - cost(-s) for s in steps]) / 2e-5
    torch.testing.assert_close(got.flatten(), slope, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("group", GROUPS)
def test_a_gradient_that_points_off_the_manifold_vanishes_in_the_tangent(group):
    x = elements(group, 8)
    k = group.storage_dim - (2 if group in (SO2, SE2) else 4)
    radial = torch.cat([torch.zeros(8, k, dtype=F64), x.tensor[..., k:]], -1)
    torch.testing.assert_close(
        tangent_gradient(x, radial),
        torch.zeros(8, group.tangent_dim, dtype=F64),
        rtol=0,
        atol=1e-15,
    )


def test_rows_of_a_jacobian_by_the_storage_become_rows_by_the_perturbation():
    x, rows = elements(SE3, 5), normal(5, 3, 7, seed=2)
    got = tangent_gradient(x[..., None], rows)
    equal(got[2, 1], tangent_gradient(x[2], rows[2, 1]))
    plain = normal(4, 3)
    assert tangent_gradient(torch.zeros(4, 3), plain) is plain


def test_a_tangent_gradient_is_differentiable():
    storage, gradient = elements(SE3, 3).tensor, normal(3, 7, seed=1)
    assert torch.autograd.gradcheck(
        lambda s, g: tangent_gradient(SE3(s), g),
        (storage.requires_grad_(), gradient.requires_grad_()),
    )


@pytest.mark.parametrize("x", [SE3.identity(2), torch.zeros(2, 5)])
def test_a_gradient_of_the_wrong_width_is_refused(x):
    with pytest.raises(DnlsError, match=r"got a gradient of shape \(2, 6\), expected \(…, [75]\)"):
        tangent_gradient(x, torch.zeros(2, 6))


# -- plain tensors ------------------------------------------------------------------------------


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


@pytest.mark.parametrize(("kind", "options"), CASES)
@pytest.mark.parametrize("manifold", [None, "euclidean"])
def test_plain_tensors_move_bit_for_bit_as_with_torch(kind, options, manifold):
    ours, theirs = network(), network()
    inputs, targets = normal(16, 3).float(), normal(16, 2, seed=1).float()
    named = [{"params": [p], "manifold": Euclidean(p.shape[-1])} for p in ours.parameters()]
    mine = kind(ours.parameters() if manifold is None else named, **options)
    reference = OURS[kind](theirs.parameters(), **options)
    for _ in range(12):
        for net, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            (net(inputs) - targets).square().mean().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        equal(a, b)


# -- steps on manifolds -------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_on_a_group_is_the_loop_one_writes_by_hand(group, nesterov):
    x, goal = elements(group, 4, scale=0.5), elements(group, 4, seed=1, scale=0.5)
    moved, lr, mu = parameter(x), 0.1, 0.8
    optimizer = ManifoldSGD([moved], lr, mu, nesterov=nesterov, manifold=group)
    velocity = torch.zeros(4, group.tangent_dim, dtype=F64)
    for step in range(30):
        optimizer.zero_grad()
        (0.5 * local(group(moved), goal).square().sum()).backward()
        optimizer.step()
        # ∂ ½‖Log(x⁻¹ y)‖² / ∂δ = −J_l⁻ᵀ(e) e, and J_l(e) = J_r(−e).
        e = local(x, goal)
        left_inverse = group.right_jacobian_inverse(-e)
        gradient = -(left_inverse.mT @ e[..., None])[..., 0]
        velocity = gradient if step == 0 else mu * velocity + gradient
        along = gradient + mu * velocity if nesterov else velocity
        x = retract(x, -lr * along).normalized()
        torch.testing.assert_close(moved.detach(), x.tensor, rtol=0, atol=1e-13)


@pytest.mark.parametrize("group", GROUPS)
def test_adam_on_a_group_is_the_formula_of_its_paper_in_the_tangent(group):
    x, goal = elements(group, 4, scale=0.5), elements(group, 4, seed=1, scale=0.5)
    moved, lr, b1, b2, eps = parameter(x), 0.05, 0.9, 0.99, 1e-8
    optimizer = ManifoldAdam([moved], lr, (b1, b2), eps, manifold=group)
    m = v = torch.zeros(4, group.tangent_dim, dtype=F64)
    for step in range(1, 30):
        optimizer.zero_grad()
        (local(goal, group(moved)).square().sum()).backward()
        optimizer.step()
        storage = parameter(x)
        (of_storage,) = torch.autograd.grad(local(goal, group(storage)).square().sum(), storage)
        gradient = by_autograd(x, of_storage)
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        delta = -lr * (m / (1 - b1**step)) / ((v / (1 - b2**step)).sqrt() + eps)
        x = retract(x, delta).normalized()
        torch.testing.assert_close(moved.detach(), x.tensor, rtol=0, atol=1e-12)


def minimize(
    optimizer: torch.optim.Optimizer, cost: Callable[[], Tensor], steps: int, decay: float = 1.0
) -> Tensor:
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    loss = torch.tensor(math.nan)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = cost()
        loss.backward()
        optimizer.step()
        schedule.step()
    return loss.detach()


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("kind", [ManifoldAdam, ManifoldSGD])
def test_the_mean_of_rotations_and_poses_is_karchers(group, kind):
    center = elements(group, 3)
    samples = retract(center[:, None], 0.4 * normal(3, 25, group.tangent_dim, seed=1))
    mean = parameter(samples[:, 0])
    options = {"lr": 0.2} if kind is ManifoldAdam else {"lr": 0.5, "momentum": 0.3}

    def cost() -> Tensor:
        return 0.5 * local(group(mean)[:, None], samples).square().sum(-1).mean(1).sum()

    minimize(kind([mean], **options, manifold=group), cost, 250, 0.98)
    # Karcher (1977): no tangent vector remains on average, seen through the slope of the distance.
    x = group(mean.detach())
    apart = local(x[:, None], samples)
    slope = (group.right_jacobian_inverse(-apart).mT @ apart[..., None])[..., 0].mean(1)
    assert slope.abs().max() < 1e-5
    if group in (SO2, SO3):
        assert apart.mean(1).abs().max() < 1e-5  # there the slope is the vector itself
        # An independent fixed-point iteration (Manton, 2004) ends in the same rotation.
        y = samples[:, 0]
        for _ in range(100):
            y = retract(y, local(y[:, None], samples).mean(1))
        assert local(x, y).abs().max() < 1e-5


@pytest.mark.parametrize("kind", [ManifoldAdam, ManifoldSGD])
def test_points_are_registered(kind):
    truth = elements(SE3, 2, seed=3)
    points = normal(2, 30, 3, seed=4)
    seen = truth[:, None] @ points
    pose = parameter(SE3.identity(2, dtype=F64))
    options = {"lr": 0.2} if kind is ManifoldAdam else {"lr": 0.1, "momentum": 0.8}
    loss = minimize(
        kind([pose], **options, manifold=SE3),
        lambda: (SE3(pose)[:, None].act(points) - seen).square().sum(-1).mean(1).sum(),
        250,
        0.98,
    )
    assert loss < 1e-9
    assert local(SE3(pose.detach()), truth).abs().max() < 1e-4


def test_one_optimizer_trains_a_network_and_poses():
    truth, points = elements(SE3, 4, seed=1, scale=0.3), normal(50, 3, seed=2)
    gain = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=F64)
    seen = truth[:, None] @ (points @ gain.mT)
    net = torch.nn.Linear(3, 3, bias=False, dtype=F64)
    torch.nn.init.eye_(net.weight)
    free = parameter(SE3.identity(3, dtype=F64))  # the first pose is known
    optimizer = ManifoldAdam(
        [{"params": net.parameters()}, {"params": [free], "manifold": SE3}], lr=0.05
    )

    def cost() -> Tensor:
        poses = SE3(torch.cat([truth.tensor[:1], free]))
        return (poses[:, None].act(net(points)) - seen).square().mean()

    assert cost() > 0.3
    assert minimize(optimizer, cost, 400, 0.985) < 1e-4
    torch.testing.assert_close(net.weight.detach(), gain, rtol=0, atol=2e-2)
    assert local(SE3(free.detach()), truth[1:]).abs().max() < 2e-2


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("kind", [ManifoldAdam, ManifoldSGD])
def test_the_storage_stays_of_unit_length_and_keeps_its_dtype(group, kind, dtype):
    goal = elements(group, 5).to(dtype)
    moved = parameter(elements(group, 5, seed=1).to(dtype))
    optimizer = kind([moved], lr=0.3, manifold=group)
    before = moved.data_ptr()
    for _ in range(100):
        optimizer.zero_grad()
        local(goal, group(moved)).square().sum().backward()
        optimizer.step()
    assert moved.dtype == dtype
    assert moved.data_ptr() == before
    assert moved.is_leaf
    assert moved.requires_grad
    k = group.storage_dim - (2 if group in (SO2, SE2) else 4)
    length = torch.linalg.vector_norm(moved.detach()[..., k:], dim=-1)
    torch.testing.assert_close(
        length, torch.ones_like(length), rtol=0, atol=4 * torch.finfo(dtype).eps
    )
    for state in optimizer.state.values():
        for name in state.keys() - {"step"}:
            assert state[name] is None or state[name].shape == (5, group.tangent_dim)


def test_a_gauge_does_not_matter():
    """Moments live in body axes: moving the world moves the whole trajectory with it."""
    world, x, goal = elements(SE3, seed=5), elements(SE3, 3), elements(SE3, 3, seed=1)
    ends = []
    for move in (SE3.identity(dtype=F64), world):
        pose, target = parameter((move @ x).normalized()), move @ goal
        optimizer = ManifoldAdam([pose], lr=0.05, manifold=SE3)
        for _ in range(20):
            optimizer.zero_grad()
            local(SE3(pose), target).square().sum().backward()
            optimizer.step()
        ends.append(move.inverse() @ SE3(pose.detach()))
    assert local(*ends).abs().max() < 1e-12


# -- the ways of torch's optimizers -------------------------------------------------------------


def setup(kind: type, options: dict[str, Any]) -> tuple[Any, Callable[[], Tensor], list[Tensor]]:
    pose, weight = parameter(elements(SE3, 3)), parameter(normal(2, 2))
    goal = elements(SE3, 3, seed=1)
    optimizer = kind([{"params": [weight]}, {"params": [pose], "manifold": SE3}], **options)

    def cost() -> Tensor:
        return local(goal, SE3(pose)).square().sum() * (1 + weight.square().sum())

    return optimizer, cost, [pose, weight]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_saved_state_resumes_identically(kind, options):
    optimizer, cost, parameters = setup(kind, options)
    minimize(optimizer, cost, 7)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "parameters": parameters}, file)
    minimize(optimizer, cost, 5)
    file.seek(0)
    saved = torch.load(file)  # weights_only, torch's default: the manifold is a safe global
    again, same_cost, copies = setup(kind, {**options, "lr": 77.0})
    again.load_state_dict(saved["optimizer"])
    with torch.no_grad():
        for target, value in zip(copies, saved["parameters"], strict=True):
            target.copy_(value)
    minimize(again, same_cost, 5)
    for a, b in zip(copies, parameters, strict=True):
        equal(a, b)


def test_optimizers_can_be_copied():
    optimizer, cost, _ = setup(ManifoldAdam, {"lr": 0.1})
    minimize(optimizer, cost, 3)
    twin = copy.deepcopy(optimizer)
    assert twin.param_groups[1]["manifold"] is SE3
    assert [len(s) for s in twin.state.values()] == [3, 3]


def test_a_learning_rate_scheduler_sets_the_pace():
    x, scheduled, by_hand = elements(SO3), *(parameter(elements(SO3)) for _ in range(2))
    goal = elements(SO3, seed=1)
    optimizer = ManifoldSGD([scheduled], lr=0.2, manifold=SO3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.1)
    manual = ManifoldSGD([by_hand], lr=0.2, manifold=SO3)
    for step in range(9):
        manual.param_groups[0]["lr"] = 0.2 * 0.1 ** (step // 3)
        for chosen, storage in ((optimizer, scheduled), (manual, by_hand)):
            chosen.zero_grad()
            local(goal, SO3(storage)).square().sum().backward()
            chosen.step()
        schedule.step()
    torch.testing.assert_close(scheduled, by_hand, rtol=0, atol=1e-15)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2e-4)
    assert local(x, SO3(scheduled.detach())).abs().max() > 0.1


@pytest.mark.parametrize("kind", [ManifoldAdam, ManifoldSGD])
def test_a_closure_is_called_with_gradients_and_its_loss_returned(kind):
    optimizer, cost, (pose, _) = setup(kind, {"lr": 0.1})
    before = pose.detach().clone()
    expected = cost().item()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cost()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == expected
    assert not torch.equal(pose, before)
    assert optimizer.step() is None


def test_hooks_are_called_once_a_step():
    optimizer, cost, _ = setup(ManifoldSGD, {"lr": 0.1})
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    minimize(optimizer, cost, 2)
    assert calls == ["before", "after"] * 2


def test_parameters_without_a_gradient_stay_and_get_no_state():
    pose, other = parameter(elements(SE3, 2)), parameter(elements(SE3, 2))
    optimizer = ManifoldAdam([pose, other], manifold=SE3)
    local(SE3.identity(dtype=F64), SE3(pose)).square().sum().backward()
    optimizer.step()
    equal(other, elements(SE3, 2).tensor)
    assert list(optimizer.state) == [pose]


def test_weight_decay_moves_plain_tensors_only():
    pose, weight = parameter(elements(SE3, 2)), parameter(normal(3))
    optimizer = ManifoldSGD(
        [{"params": [weight]}, {"params": [pose], "manifold": SE3}], lr=0.1, weight_decay=0.5
    )
    for p in (pose, weight):
        p.grad = torch.zeros_like(p)
    before = weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), 0.95 * before, rtol=1e-15, atol=0)
    torch.testing.assert_close(pose.detach(), elements(SE3, 2).tensor, rtol=0, atol=1e-15)


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ManifoldAdam, ManifoldSGD])
@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        (
            lambda: [torch.zeros(2, 6)],
            {"manifold": SE3},
            r"shape \(2, 6\), expected \(\*batch, 7\)",
        ),
        (lambda: [torch.tensor(1.0)], {"manifold": SO2}, r"shape \(\), expected \(\*batch, 2\)"),
        (lambda: [torch.zeros(3)], {"manifold": Euclidean(2)}, r"shape \(3,\), expected"),
        (
            lambda: [torch.zeros(2, 4)],
            {"manifold": SO3},
            r"unit part is off by nan; start from SO3",
        ),
        (
            lambda: [2 * torch.eye(4)],
            {"manifold": SO3},
            r"off by 1; start from SO3\(…\)\.normalized",
        ),
        (lambda: [torch.eye(4)], {"manifold": "SO3"}, "manifold must be a Lie group such as SE3"),
        (lambda: [torch.eye(4)], {"manifold": SO3, "weight_decay": 0.1}, "no origin to decay to"),
        (lambda: [torch.zeros(2, dtype=torch.complex64)], {}, "is complex .torch.complex64."),
        (lambda: [torch.zeros(2)], {"lr": -1.0}, "lr must be finite and not negative, got -1"),
        (lambda: [torch.zeros(2)], {"weight_decay": math.nan}, "weight_decay must be finite"),
    ],
)
def test_what_makes_no_sense_is_refused(kind, params, options, message):
    with pytest.raises(DnlsError, match=message):
        kind(params(), **options)


def test_options_of_the_algorithms_are_checked():
    with pytest.raises(DnlsError, match=r"betas must lie in \[0, 1\), got \(0.9, 1.0\)"):
        ManifoldAdam([torch.zeros(2)], betas=(0.9, 1.0))
    with pytest.raises(DnlsError, match="nesterov needs a momentum above 0"):
        ManifoldSGD([torch.zeros(2)], nesterov=True)


def test_a_refused_group_is_not_half_added():
    optimizer = ManifoldAdam([torch.zeros(2)])
    for bad in (torch.zeros(2, 6), torch.zeros(2, 7)):
        with pytest.raises(DnlsError):
            optimizer.add_param_group({"params": [bad], "manifold": SE3})
    with pytest.raises(DnlsError, match="no origin"):
        optimizer.add_param_group(
            {"params": [SE3.identity(1).tensor], "manifold": SE3, "weight_decay": 1.0}
        )
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [SE3.identity(1).tensor], "manifold": SE3})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize("kind", [ManifoldAdam, ManifoldSGD])
def test_a_sparse_gradient_is_refused_before_anything_moves(kind):
    pose = parameter(elements(SE3, 2))
    table = torch.nn.Embedding(4, 2, sparse=True, dtype=F64)
    optimizer = kind([{"params": [pose], "manifold": SE3}, {"params": table.parameters()}], lr=0.1)
    (SE3(pose).log().sum() + table(torch.tensor([1, 2])).sum()).backward()
    with pytest.raises(DnlsError, match=r"of shape \(4, 2\) is sparse, expected a dense one"):
        optimizer.step()
    equal(pose, elements(SE3, 2).tensor)


def test_a_state_is_not_loaded_for_other_manifolds():
    optimizer, _, _ = setup(ManifoldAdam, {"lr": 0.1})
    plain = ManifoldAdam([{"params": [torch.zeros(2, 2)]}, {"params": [torch.zeros(3, 7)]}])
    with pytest.raises(
        DnlsError, match=r"saved for groups of parameters with manifolds \[None, N"
    ):
        optimizer.load_state_dict(plain.state_dict())
    assert optimizer.param_groups[1]["manifold"] is SE3
