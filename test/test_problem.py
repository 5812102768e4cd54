"""The problem layer against dense autograd: normal equations, values, groups, weighting, prior."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, SE3, Element, Euclidean, local
from dnls_ros.linear import Dense
from dnls_ros.optim import Assembly
from dnls_ros.problem import (
    DCS,
    Barron,
    Cauchy,
    DensePrior,
    Diagonal,
    FactorGroup,
    GemanMcClure,
    Hinge,
    Huber,
    Isotropic,
    Loss,
    Noise,
    Problem,
    Shared,
    SquareRootInformation,
    Structure,
    StructureCache,
    Tukey,
    Values,
    Variables,
    Welsch,
    check_jacobians,
    cost,
    normal_equations,
    zero_step,
)

F64 = torch.float64
BARRON = {
    f"Barron({alpha})": partial(Barron, alpha=alpha)
    for alpha in (2.0, 2 - 1e-9, 1.0, 1e-7, 0.0, -1e-7, -2.0, -1e6)
}
Robust = Callable[[float], Loss]
LOSSES = pytest.mark.parametrize(
    "kind",
    [Huber, Cauchy, GemanMcClure, Tukey, Welsch, DCS, *BARRON.values()],
    ids=["Huber", "Cauchy", "GemanMcClure", "Tukey", "Welsch", "DCS", *BARRON],
)
pose = Variables("pose", SE3)
point = Variables("point", Euclidean(3))


@cost(batched=True)
def anchor(x: Element, z: Element) -> Tensor:
    return local(z, x)


@cost(batched=True)
def between(x_i: SE3, x_j: SE3, z: SE3) -> Tensor:
    return local(z, x_i.between(x_j))


@between.jacobians
def _between(x_i: SE3, x_j: SE3, z: SE3) -> tuple[Tensor, Tensor]:
    relative = x_i.between(x_j)
    right = SE3.right_jacobian_inverse(local(z, relative))
    return -(right @ relative.inverse().adjoint()), right


@cost
def sighting(world_T_body: SE3, p_world: Tensor, z: Tensor, scale: Tensor) -> Tensor:
    """Written for one instance, without Jacobians."""
    p = world_T_body.inverse() @ p_world
    return scale * p[:2] / (2.0 + p[2].square()) - z


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=rng(seed))


def poses(batch: int, count: int, seed: int = 0, size: float = 0.7) -> SE3:
    return SE3.exp(size * normal(batch, count, 6, seed=seed))


def example(batch: int = 3) -> tuple[Problem, Values]:
    """Repeated ids, one variable twice in a factor, data with and without axes, two losses."""
    values = pose.values([10, 20, 30, 40], poses(batch, 4)).merge(
        point.values([7, 8, 9], normal(batch, 3, 3, seed=1))
    )
    i, j = pose[[10, 20, 20, 30, 40]], pose[[20, 10, 20, 40, 10]]
    problem = Problem(
        anchor=anchor(pose[[30]], poses(1, 1, 2), noise=Diagonal(0.5 + normal(6, seed=3).abs())),
        between=between(i, j, poses(batch, 5, 4), noise=Isotropic(0.3), loss=Cauchy(2.0)),
        sighting=sighting(
            pose[[10, 10, 40, 10]],
            point[[9, 7, 9, 9]],
            normal(1, 4, 2, seed=5),
            Shared(1.5),
            loss=Huber(0.8),
        ),
        points=anchor(point[[7, 8, 9]], normal(batch, 1, 3, seed=6)),
    )
    return problem, values


def whitened_of(problem: Problem, values: Values, delta: Tensor, b: int) -> Tensor:
    """All weighted whitened residuals of batch element ``b``, the weights held at δ = 0."""
    moved = values.retract(delta)
    parts: list[Tensor] = []
    for group in problem.values():
        assert isinstance(group, FactorGroup)
        r = group.whitened(moved)[b]
        if group.loss is not None:
            s = group.squared_norm(values).detach()
            r = r * group.loss.weight(s)[b, :, None].sqrt()
        parts.append(r.reshape(-1))
    return torch.cat(parts)


# Normal equations


def test_the_sparse_normal_equations_are_the_dense_jtj_of_autograd() -> None:
    problem, values = example()
    structure = problem.structure(values)
    equations = normal_equations(problem, values, structure)
    dense = structure.pattern.dense(equations.hessian)
    zero = zero_step(values)
    for b in range(values.batch):
        jacobian = torch.autograd.functional.jacobian(
            lambda d, b=b: whitened_of(problem, values, d, b), zero
        )[:, b]
        torch.testing.assert_close(dense[b], jacobian.mT @ jacobian, atol=1e-12, rtol=1e-12)
        r = whitened_of(problem, values, zero, b)
        torch.testing.assert_close(equations.gradient[b], jacobian.mT @ r, atol=1e-12, rtol=1e-12)


def test_the_gradient_is_that_of_the_objective_and_the_cost_its_value() -> None:
    problem, values = example()
    equations = normal_equations(problem, values, problem.structure(values))
    torch.testing.assert_close(
        equations.gradient, problem.gradient(values), atol=1e-12, rtol=1e-12
    )
    torch.testing.assert_close(equations.cost, problem.objective(values), atol=0, rtol=1e-14)
    total = sum(equations.group_costs[name] for name in problem)
    torch.testing.assert_close(total, equations.cost, atol=0, rtol=1e-14)


def test_a_batch_gives_what_its_elements_give_alone() -> None:
    problem, values = example(3)
    together = normal_equations(problem, values, problem.structure(values))
    for b in range(3):
        alone = values.map(lambda t, b=b: t[b : b + 1])
        single = pytree.tree_map(lambda t, b=b: t[b : b + 1] if t.shape[0] == 3 else t, problem)
        equations = normal_equations(single, alone, single.structure(alone))
        torch.testing.assert_close(equations.hessian[0], together.hessian[b], atol=0, rtol=1e-13)
        torch.testing.assert_close(equations.gradient[0], together.gradient[b])


def test_the_structure_of_no_factor_between_two_variables_has_no_entry_between_them() -> None:
    problem, values = example()
    pattern = problem.structure(values).pattern
    blocks = torch.zeros(7, 7, dtype=torch.bool)
    of = torch.cat(
        [torch.arange(4).repeat_interleave(6), 4 + torch.arange(3).repeat_interleave(3)]
    )
    blocks[of[torch.from_numpy(pattern.rows)], of[torch.from_numpy(pattern.columns)]] = True
    pairs = {(1, 0), (3, 2), (3, 0), (6, 0), (4, 0), (6, 3)}
    assert {tuple(p) for p in blocks.nonzero().tolist() if p[0] != p[1]} == pairs
    assert pattern.nnz == 4 * 21 + 3 * 6 + 3 * 36 + 3 * 18


def test_indices_of_the_tangent_have_names() -> None:
    problem, values = example()
    structure = problem.structure(values)
    assert structure.variable_at(0) == ("pose", 10, 0)
    assert structure.variable_at(23) == ("pose", 40, 5)
    assert structure.variable_at(28) == ("point", 8, 1)
    with pytest.raises(IndexError):
        structure.variable_at(33)


def test_jacobians_can_be_taken_at_first_estimates() -> None:
    problem, values = example()
    elsewhere = values.retract(0.2 * normal(3, 33, seed=9))
    structure = problem.structure(values)
    fixed = normal_equations(problem, values, structure, dict.fromkeys(problem, elsewhere))
    here = normal_equations(problem, values, structure)
    there = normal_equations(problem, elsewhere, structure)
    torch.testing.assert_close(fixed.cost, here.cost)
    assert (fixed.gradient - here.gradient).abs().max() > 1e-3
    unweighted = problem.replace(
        between=replace(problem["between"], loss=None),
        sighting=replace(problem["sighting"], loss=None),
    )
    fixed = normal_equations(unweighted, values, structure, dict.fromkeys(problem, elsewhere))
    there = normal_equations(unweighted, elsewhere, structure)
    torch.testing.assert_close(fixed.hessian, there.hessian, atol=1e-12, rtol=1e-12)


def test_float32_stays_float32() -> None:
    problem, values = pytree.tree_map(lambda t: t.float(), example())
    equations = normal_equations(problem, values, problem.structure(values))
    assert equations.hessian.dtype == equations.gradient.dtype == torch.float32
    exact = normal_equations(*example(), example()[0].structure(example()[1]))
    torch.testing.assert_close(equations.hessian.double(), exact.hessian, atol=1e-3, rtol=1e-4)


def test_a_problem_without_a_factor_on_a_variable_says_which() -> None:
    values = pose.values([1, 2, 3], poses(1, 3))
    problem = Problem(anchor=anchor(pose[[2]], poses(1, 1)))
    with pytest.raises(DnlsError, match=r"'pose': 2 of 3 variables have no factor.*\[1, 3\]"):
        problem.structure(values)
    with pytest.raises(DnlsError, match="nothing to optimize"):
        problem.structure(Values({}, {}))


# Structure cache


def test_the_cache_recognizes_a_structure_whose_ids_have_moved_on() -> None:
    cache = StructureCache()

    def window(first: int) -> tuple[Problem, Values]:
        ids = torch.arange(first, first + 4)
        chain = between(pose[ids[:-1]], pose[ids[1:]], poses(1, 3))
        return Problem(start=anchor(pose[ids[:1]], poses(1, 1)), chain=chain), pose.values(
            ids, poses(1, 4)
        )

    first = cache.get(*window(0))
    second = cache.get(*window(100))
    assert (cache.hits, cache.misses) == (1, 1)
    assert second.pattern is first.pattern
    assert second.symbolic is first.symbolic
    assert second.variable_at(0) == ("pose", 100, 0)
    problem, values = window(0)
    cache.get(problem.replace(start=anchor(pose[[1]], poses(1, 1))), values)
    assert (cache.hits, cache.misses) == (1, 2)


def test_a_cache_keeps_as_many_structures_as_it_is_told() -> None:
    cache = StructureCache(2)

    def got(count: int) -> Structure:
        ids = torch.arange(count)
        return cache.get(
            Problem(a=anchor(pose[ids], poses(1, count))), pose.values(ids, poses(1, count))
        )

    first = got(1)
    for count in (2, 1, 2, 3, 2):
        got(count)
    assert (cache.hits, cache.misses) == (3, 3)
    again = got(1)
    assert again.symbolic is not first.symbolic  # not used for the longest time, so it went
    assert again.pattern is first.pattern


def test_other_slots_with_the_same_pattern_share_its_analysis() -> None:
    cache, linear = StructureCache(), Dense()
    values = pose.values([0, 1], poses(1, 2))
    chain = between(pose[[0]], pose[[1]], poses(1, 1))
    made = []
    for fixed in (0, 1):
        problem = Problem(a=anchor(pose[[fixed]], poses(1, 1)), b=chain)
        made.append(Assembly(problem, cache.get(problem, values)))
    assert cache.misses == 2
    assert made[0].symbolic(linear) is made[1].symbolic(linear)
    problem = Problem(a=anchor(pose[[0, 1]], poses(1, 2)))
    assert cache.get(problem, values).pattern is not made[0].structure.pattern


def test_the_cache_still_finds_unknown_ids() -> None:
    cache = StructureCache()
    problem = Problem(start=anchor(pose[[5]], poses(1, 1)))
    cache.get(problem, pose.values([5], poses(1, 1)))
    with pytest.raises(DnlsError, match="no variable with id"):
        cache.get(problem, pose.values([6], poses(1, 1)))


def test_a_problem_with_a_cache_is_analyzed_once_whatever_its_numbers_and_batch() -> None:
    cache = StructureCache()
    ids = torch.arange(3)

    def structure(batch: int) -> Structure:
        chain = between(pose[ids[:-1]], pose[ids[1:]], poses(batch, 2))
        problem = Problem(start=anchor(pose[[0]], poses(batch, 1)), chain=chain).cached(cache)
        for same in (problem, pytree.tree_map(torch.clone, problem), problem.replace(chain=chain)):
            structure = same.structure(pose.values(ids, poses(batch, 3)))
        return structure

    with torch.inference_mode():
        first = structure(1)
    second = structure(4)
    assert second.pattern is first.pattern
    assert not second.gradient_positions.is_inference()
    assert cache.misses == 1
    lonely = Problem(start=anchor(pose[[0]], poses(1, 1))).cached(cache)
    with pytest.raises(DnlsError, match="2 of 3 variables have no factor"):
        lonely.structure(pose.values(ids, poses(1, 3)))


# Values


def test_gathering_follows_the_order_of_the_reference() -> None:
    values = point.values([2, 5, 9], normal(2, 3, 3, seed=0))
    gathered = values.gather(point[[9, 2, 9]])
    assert isinstance(gathered, Tensor)
    assert torch.equal(gathered, values["point"][:, [2, 0, 2]])  # type: ignore[index]


def test_an_unknown_id_is_named() -> None:
    values = pose.values([10, 20], poses(1, 2))
    with pytest.raises(
        DnlsError, match=r"block 'pose' has no variable with id \[15\]; it holds 2"
    ):
        values.gather(pose[[10, 15]])
    with pytest.raises(DnlsError, match=r"id \[99\]"):
        values.slots(pose[[99]])
    with pytest.raises(
        DnlsError, match=r"no block 'point' among the values; there are \['pose'\]"
    ):
        values.slots(point[[1]])


def test_ids_that_do_not_ascend_are_refused() -> None:
    for ids in ([3, 1], [1, 1]):
        with pytest.raises(DnlsError, match="'pose' must ascend without repetition"):
            pose.values(ids, poses(1, 2))
    with pytest.raises(DnlsError, match=r"\(1, 2, 7\), expected \(B, N, …\) with N = 3"):
        pose.values([1, 2, 3], poses(1, 2))


def test_ids_are_whole_numbers() -> None:
    for ids in (torch.tensor([1.0]), torch.tensor([True])):
        with pytest.raises(DnlsError, match="whole numbers"):
            pose[ids]
    assert pose[range(3)] == pose[[0, 1, 2]] != pose[[0, 1, 3]]
    assert pose[7] == pose[[7]]
    assert hash(pose[range(3)]) == hash(pose[[0, 1, 2]])


def test_a_block_holds_its_manifold_only() -> None:
    with pytest.raises(DnlsError, match="block 'pose'"):
        pose.values([1], torch.zeros(1, 1, 7))


def test_merging_sorts_and_refuses_an_id_that_occurs_twice() -> None:
    x = poses(2, 4)
    merged = pose.values([1, 7], x[:, [0, 3]]).merge(pose.values([3, 5], x[:, [1, 2]]))
    assert merged.ids["pose"].tolist() == [1, 3, 5, 7]
    assert torch.equal(merged["pose"].tensor, x.tensor)  # type: ignore[union-attr]
    with pytest.raises(DnlsError, match=r"'pose' would hold the ids \[3\] twice"):
        merged.merge(pose.values([3], x[:, :1]))


def test_selecting_undoes_merging() -> None:
    _, values = example()
    keep = torch.tensor([True, False, True, True])
    fewer = values.select("pose", keep)
    assert fewer.ids["pose"].tolist() == [10, 30, 40]
    back = fewer.merge(pose.values([20], values["pose"][:, [1]]))
    assert torch.equal(back["pose"].tensor, values["pose"].tensor)  # type: ignore[union-attr]
    assert set(values.select("point", torch.zeros(3, dtype=torch.bool))) == {"pose"}


def test_overwriting_touches_common_variables_only() -> None:
    _, values = example()
    other = pose.values([5, 20], poses(3, 2, 77))
    new = values.overwrite(other)
    assert torch.equal(new["pose"].tensor[:, 1], other["pose"].tensor[:, 1])  # type: ignore[union-attr]
    for k in (0, 2, 3):
        assert torch.equal(new["pose"].tensor[:, k], values["pose"].tensor[:, k])  # type: ignore[union-attr]
    assert new.ids["pose"].tolist() == [10, 20, 30, 40]
    assert torch.equal(new["point"], values["point"])  # type: ignore[arg-type]


def test_retract_and_local_are_inverse() -> None:
    _, values = example()
    delta = 0.5 * normal(3, 33, seed=4)
    torch.testing.assert_close(values.local(values.retract(delta)), delta, atol=1e-13, rtol=0)


def test_elements_are_picked_by_mask() -> None:
    _, values = example()
    other = values.retract(torch.ones(3, 33, dtype=F64))
    mask = torch.tensor([True, False, True])
    mixed = values.where(mask, other)
    for b, source in enumerate((values, other, values)):
        assert torch.equal(mixed["pose"].tensor[b], source["pose"].tensor[b])  # type: ignore[union-attr]
        assert torch.equal(mixed["point"][b], source["point"][b])  # type: ignore[index]


# Groups


def test_data_with_wrong_axes_is_refused_with_all_there_is_to_know() -> None:
    i = pose[range(19)]
    with pytest.raises(DnlsError) as caught:
        between(i, i, poses(1, 18))
    assert str(caught.value) == (
        "cost 'between': z has shape (1, 18, 7) but its references have M=19; "
        "data must be (B|1, M|1, 7); wrap constants in Shared(...)"
    )
    with pytest.raises(DnlsError, match=r"z holds str, expected tensors"):
        between(i, i, "nothing")


def test_noise_and_loss_with_wrong_axes_are_refused_too() -> None:
    i = pose[range(19)]
    z = poses(1, 19)
    with pytest.raises(DnlsError, match=r"'between': noise has shape \(1, 18\) .* M=19"):
        between(i, i, z, noise=Isotropic(torch.ones(1, 18)))
    with pytest.raises(DnlsError, match=r"'between': noise has shape \(19,\)"):
        between(i, i, z, noise=Isotropic(torch.ones(19)))
    with pytest.raises(DnlsError, match=r"'between': loss has shape \(1, 3\)"):
        between(i, i, z, loss=Huber(torch.ones(1, 3)))
    with pytest.raises(DnlsError, match=r"'between': mask has shape \(1, 3\)"):
        between(i, i, z, mask=torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(DnlsError, match=r"mask has shape \(4, 1, 19\), expected \(B\|1, M\)"):
        between(i, i, z, mask=torch.ones(4, 1, 19))


def test_a_call_is_checked() -> None:
    with pytest.raises(DnlsError, match=r"takes 3 arguments .*got 2"):
        between(pose[[1]], pose[[2]])
    with pytest.raises(DnlsError, match=r"one id per factor, got lengths .*'x_i': 1, 'x_j': 2"):
        between(pose[[1]], pose[[2, 3]], poses(1, 1))
    with pytest.raises(DnlsError, match="got no variable"):
        between(poses(1, 1), poses(1, 1), poses(1, 1))


def test_joined_groups_count_like_their_parts() -> None:
    values = pose.values(range(4), poses(2, 4))
    first = between(
        pose[[0, 1]], pose[[1, 2]], poses(1, 2, 5), noise=Isotropic(0.1), loss=Huber(1.0)
    )
    second = between(pose[[3]], pose[[0]], poses(2, 1, 6), noise=Isotropic(0.4), loss=Huber(2.0))
    joined = first.concat(second)
    assert joined.count == 3
    torch.testing.assert_close(
        joined.objective(values), first.objective(values) + second.objective(values)
    )
    for index, part in (([0, 1], first), ([2], second)):
        alone = joined.select(torch.tensor(index))
        assert alone.refs == part.refs
        torch.testing.assert_close(alone.whitened(values), part.whitened(values))


def test_a_constant_that_all_factors_share_stays_one() -> None:
    def group(m: int) -> FactorGroup:
        return sighting(pose[[0] * m], point[[0] * m], torch.zeros(1, m, 2), Shared(1.5))

    joined = group(2).concat(group(3))
    assert joined.arguments[3].shape == (1, 1)
    assert joined.arguments[2].shape == (1, 5, 2)


def test_groups_of_different_kinds_do_not_join() -> None:
    i = pose[[1]]
    with pytest.raises(DnlsError, match="different kinds"):
        between(i, i, poses(1, 1)).concat(between(i, i, poses(1, 1), loss=Huber(1.0)))


@pytest.mark.parametrize("loss", [None, Cauchy(1.0), Tukey(1.0)])
def test_masked_rows_change_nothing_even_if_they_are_nan(loss: Loss | None) -> None:
    values = pose.values(range(4), poses(2, 4))
    z = poses(2, 3, 5)
    small = between(pose[[0, 1]], pose[[1, 2]], z[:, :2], noise=Isotropic(0.1), loss=loss)
    spoilt = torch.cat([z.tensor[:, :2], torch.full((2, 1, 7), torch.nan, dtype=F64)], 1)
    masked = between(
        pose[[0, 1, 2]],
        pose[[1, 2, 3]],
        SE3(spoilt),
        noise=Isotropic(0.1),
        loss=loss,
        mask=torch.tensor([[True, True, False]]),
    )
    rest = anchor(pose[range(4)], poses(1, 4, 8))
    one, other = (Problem(chain=g, rest=rest) for g in (small, masked))
    a = normal_equations(one, values, one.structure(values))
    b = normal_equations(other, values, other.structure(values))
    n = one.structure(values).pattern.dense(a.hessian)
    torch.testing.assert_close(other.structure(values).pattern.dense(b.hessian), n)
    torch.testing.assert_close(b.gradient, a.gradient)
    torch.testing.assert_close(b.cost, a.cost)
    torch.testing.assert_close(other.objective(values), one.objective(values))
    torch.testing.assert_close(other.gradient(values), one.gradient(values))
    for p in (one, other):
        gradients = torch.func.grad(lambda q: q.objective(values).sum())(p)
        assert all(leaf.isfinite().all() for leaf in pytree.tree_leaves(gradients))


def test_constants_that_all_factors_share_are_not_copied_for_a_mask() -> None:
    @cost(batched=True)
    def read(x: Tensor, table: Tensor) -> Tensor:
        assert table.shape[:2] == (1, 1)  # not one of 10 MB for each factor
        return x + table[..., :3]

    table, ids = torch.ones(1_000_000, dtype=F64), torch.arange(500)
    group = read(point[ids], Shared(table), mask=(ids % 2 == 0)[None])
    values = point.values(ids, torch.zeros(2, 500, 3, dtype=F64))
    gradient = Problem(read=group).gradient(values).view(2, 500, 3)
    assert (gradient[:, ::2] == 1).all()
    assert (gradient[:, 1::2] == 0).all()


def test_padding_keeps_the_numbers_and_the_structure() -> None:
    values = pose.values(range(4), poses(1, 4))
    three = between(pose[[0, 1, 2]], pose[[1, 2, 3]], poses(1, 3, 5), noise=Isotropic(0.1))
    padded = three.padded(8)
    assert padded.count == 8
    torch.testing.assert_close(padded.objective(values), three.objective(values))
    a, b = three.products(values), padded.products(values)
    torch.testing.assert_close(b.gradient.sum(1), a.gradient.sum(1))
    assert not padded.padded(9).mask[0, 8]  # type: ignore[index]
    with pytest.raises(DnlsError, match="3 factors do not fit a capacity of 2"):
        three.padded(2)


# Noise


def test_isotropic_noise_divides() -> None:
    r = normal(2, 5, 3, seed=0)
    torch.testing.assert_close(Isotropic(0.2).whiten(r), r / 0.2)
    sigma = 0.1 + normal(1, 5, seed=1).abs()
    torch.testing.assert_close(Isotropic(sigma).whiten(r), r / sigma[..., None])


def covariance(n: int = 3) -> Tensor:
    a = normal(n, n, seed=2)
    return a @ a.mT + 0.1 * torch.eye(n, dtype=F64)


def test_every_noise_model_gives_the_mahalanobis_distance() -> None:
    r = normal(2, 5, 3, seed=0)
    sigma = covariance()
    full = (r @ sigma.inverse() * r).sum(-1)
    for noise in (
        SquareRootInformation.from_covariance(sigma),
        SquareRootInformation.from_information(sigma.inverse()),
    ):
        torch.testing.assert_close(noise.whiten(r).square().sum(-1), full)
    variances = sigma.diagonal()
    diagonal = (r.square() / variances).sum(-1)
    torch.testing.assert_close(Diagonal(variances.sqrt()).whiten(r).square().sum(-1), diagonal)


def test_a_rectangular_square_root_selects_what_counts() -> None:
    selection = torch.tensor([[2.0, 0, 0], [0, 0, 4.0]], dtype=F64)
    r = normal(2, 5, 3, seed=0)
    whitened = SquareRootInformation(selection).whiten(r)
    torch.testing.assert_close(whitened, torch.stack([2 * r[..., 0], 4 * r[..., 2]], -1))
    values = point.values([0], normal(2, 1, 3, seed=1))
    group = anchor(point[[0]], normal(2, 1, 3, seed=2), noise=SquareRootInformation(selection))
    hessian = group.products(values).hessian
    torch.testing.assert_close(hessian[0, 0], selection.mT @ selection)


@pytest.mark.parametrize(
    "noise",
    [
        Isotropic(0.3),
        Diagonal(torch.tensor([0.1, 0.2, 0.3], dtype=F64)),
        SquareRootInformation.from_covariance(covariance()),
    ],
)
def test_scaled_noise_and_whitened_jacobians_follow_the_residual(noise: Noise) -> None:
    r = normal(2, 5, 3, seed=0)
    torch.testing.assert_close(noise.scaled(4.0).whiten(r), noise.whiten(r) / 4)
    jacobian = normal(2, 5, 3, 6, seed=1)
    by_column = torch.stack([noise.whiten(jacobian[..., k]) for k in range(6)], -1)
    torch.testing.assert_close(noise.whiten_jacobian(jacobian), by_column)


def test_impossible_noise_is_refused() -> None:
    for sigma in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(DnlsError, match="sigma must be positive and finite"):
            Isotropic(sigma)
    with pytest.raises(DnlsError, match="sigmas must be positive"):
        Diagonal(torch.tensor([1.0, 0.0]))
    indefinite = torch.diag(torch.tensor([1.0, -1.0]))
    with pytest.raises(DnlsError, match="not positive definite"):
        SquareRootInformation.from_covariance(indefinite)
    with pytest.raises(DnlsError, match="not positive definite"):
        SquareRootInformation.from_information(indefinite)
    with pytest.raises(DnlsError, match="radius must be positive"):
        Huber(0.0)


# Losses


@LOSSES
def test_the_weight_is_the_derivative_of_rho(kind: Robust) -> None:
    s = torch.linspace(0, 12, 60, dtype=F64).requires_grad_()
    loss = kind(1.7)
    (slope,) = torch.autograd.grad(loss.rho(s).sum(), s)
    torch.testing.assert_close(slope, loss.weight(s.detach())[0, :], atol=1e-14, rtol=1e-14)
    assert ((slope >= 0) & (slope <= 1 + 1e-14)).all()


@LOSSES
def test_rho_begins_like_least_squares_with_finite_derivatives(
    kind: Robust,
) -> None:
    loss = kind(1.7)
    for start in (0.0, 1e-300, 1.7**2, 100.0):
        s = torch.tensor([[start]], dtype=F64, requires_grad=True)
        rho = loss.rho(s)
        (first,) = torch.autograd.grad(rho.sum(), s, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), s)
        assert all(bool(x.isfinite()) for x in (rho, first, second))
        if start == 0:
            assert rho.item() == 0
            assert first.item() == 1


@LOSSES
def test_a_loss_with_a_vanishing_residual_has_a_finite_hessian(
    kind: Robust,
) -> None:
    z = normal(1, 1, 3, seed=0)
    values = point.values([0], z.clone())
    problem = Problem(anchor=anchor(point[[0]], z, loss=kind(1.7)))  # type: ignore[call-arg]
    hessian = torch.autograd.functional.hessian(
        lambda d: problem.objective(values.retract(d)).sum(), zero_step(values)
    )
    torch.testing.assert_close(hessian[0, :, 0], torch.eye(3, dtype=F64))


@LOSSES
def test_the_curvature_of_rho_is_the_slope_of_its_weight(kind: Robust) -> None:
    loss, s = kind(1.7), torch.linspace(0, 12, 60, dtype=F64).requires_grad_()
    (slope,) = torch.autograd.grad(loss.rho(s).sum(), s, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), s)
    (expected,) = torch.autograd.grad(loss.weight(s).sum(), s)
    torch.testing.assert_close(curvature, expected, atol=1e-12, rtol=1e-12)
    ahead, behind = (loss.rho(s.detach() + h)[..., 1:] for h in (1e-4, -1e-4))
    middle = loss.rho(s.detach())[..., 1:]
    numeric = ((ahead - 2 * middle + behind) / 1e-8).flatten()
    torch.testing.assert_close(numeric, curvature[1:], atol=2e-5, rtol=1e-4)
    assert (middle <= s.detach()[1:] + 1e-13).all()
    assert (curvature <= 1e-14).all()


def test_dcs_squares_the_scale_of_its_paper() -> None:
    s, phi = torch.linspace(0, 50, 80, dtype=F64), 2.5
    scale = torch.clamp(2 * phi / (phi + s), max=1.0)
    torch.testing.assert_close(DCS(phi**0.5).weight(s)[0], scale.square())
    assert DCS(1.0).rho(torch.tensor(1e12, dtype=F64)).item() == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("alpha", "other"),
    [(0.0, Cauchy(2**0.5 * 1.7)), (-2.0, GemanMcClure(2 * 1.7)), (-1e9, Welsch(2**0.5 * 1.7))],
    ids=["Cauchy", "GemanMcClure", "Welsch"],
)
def test_barrons_loss_spans_the_others(alpha: float, other: Loss) -> None:
    s, loss = torch.linspace(0, 40, 80, dtype=F64)[None], Barron(1.7, alpha)
    torch.testing.assert_close(loss.rho(s), other.rho(s), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(loss.weight(s), other.weight(s), rtol=1e-7, atol=1e-7)


def test_barrons_loss_is_least_squares_and_pseudo_huber() -> None:
    s = torch.linspace(0, 40, 80, dtype=F64)[None]
    torch.testing.assert_close(Barron(1.7, 2.0).rho(s), s)
    pseudo = 2 * 1.7**2 * ((1 + s / 1.7**2).sqrt() - 1)
    torch.testing.assert_close(Barron(1.7, 1.0).rho(s), pseudo)


@pytest.mark.parametrize("alpha", [-3.0, 0.0, 0.7, 1.9])
def test_the_shape_of_barrons_loss_can_be_learned(alpha: float) -> None:
    s = torch.linspace(0, 9, 7, dtype=F64)
    both = (torch.tensor(1.3, dtype=F64), torch.tensor(alpha, dtype=F64))
    leaves = tuple(x.requires_grad_() for x in both)
    assert torch.autograd.gradcheck(lambda r, a: Barron(r, a).rho(s), leaves)


@pytest.mark.parametrize("alpha", [2.5, math.nan, -math.inf])
def test_a_shape_that_rewards_outliers_is_refused(alpha: float) -> None:
    with pytest.raises(DnlsError, match="alpha must be finite and at most 2"):
        Barron(1.0, alpha)


def test_a_hinge_does_not_count_what_is_within_its_radius() -> None:
    s = torch.tensor([0.0, 0.5, 0.99, 1.01, 4.0, 9.0], dtype=F64).requires_grad_()
    rho = Hinge(1.0).rho(s)[0]
    torch.testing.assert_close(rho, (s.sqrt() - 1).clamp(min=0).square())
    (slope,) = torch.autograd.grad(rho.sum(), s, create_graph=True)
    torch.testing.assert_close(slope, Hinge(1.0).weight(s)[0])
    (curvature,) = torch.autograd.grad(slope.sum(), s)
    (expected,) = torch.autograd.grad(Hinge(1.0).weight(s).sum(), s)
    torch.testing.assert_close(curvature, expected)
    assert curvature.isfinite().all()


def test_huber_is_quadratic_inside_and_linear_outside() -> None:
    residual = torch.tensor([[0.5, 1.0, 3.0]], dtype=F64)
    rho = Huber(1.0).rho(residual.square())
    torch.testing.assert_close(rho, torch.tensor([[0.25, 1.0, 5.0]], dtype=F64))


# Pytrees


def test_problem_and_values_survive_being_flattened() -> None:
    problem, values = example()
    for tree in (problem, values):
        leaves, spec = pytree.tree_flatten(tree)
        assert all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves)
        again = pytree.tree_unflatten(leaves, spec)
        assert pytree.tree_flatten(again)[1] == spec
    again = pytree.tree_map(lambda t: t, problem)
    torch.testing.assert_close(again.objective(values), problem.objective(values))
    assert list(again) == list(problem)


def test_functional_gradients_pass_through_every_leaf() -> None:
    problem, values = example()
    gradients = torch.func.grad(lambda p, x: p.objective(x).sum(), argnums=(0, 1))(problem, values)
    leaves, inputs = pytree.tree_leaves(gradients), pytree.tree_leaves((problem, values))
    assert len(leaves) == len(inputs) == 11
    direction = [normal(*t.shape, seed=k) for k, t in enumerate(inputs)]
    spec = pytree.tree_structure((problem, values))

    def along(h: float) -> float:
        moved = [t + h * d for t, d in zip(inputs, direction, strict=True)]
        p, x = pytree.tree_unflatten(moved, spec)
        return p.objective(x).sum().item()

    numeric = (along(1e-6) - along(-1e-6)) / 2e-6
    analytic = sum((g * d).sum().item() for g, d in zip(leaves, direction, strict=True))
    assert numeric == pytest.approx(analytic, rel=1e-7)


# Dense prior


def test_a_prior_from_information_reproduces_h_and_g_also_if_h_is_singular() -> None:
    problem, values = example()
    structure = problem.structure(values)
    equations = normal_equations(problem, values, structure)
    full = structure.pattern.dense(equations.hessian)
    direction = torch.nn.functional.normalize(normal(3, 33, 1, seed=3), dim=1)
    project = torch.eye(33, dtype=F64) - direction @ direction.mT
    singular = project @ full @ project
    g = equations.gradient[..., None]
    for h, gradient in ((full, g), (singular, project @ g)):
        prior = DensePrior.from_information(values, h, gradient[..., 0])
        scale = h.abs().amax()
        products = prior.products(values)
        assert (products.hessian[:, 0] - h).abs().amax() < 1e-12 * scale
        assert (products.gradient[:, 0] - gradient[..., 0]).abs().amax() < 1e-10 * scale


def test_a_prior_knows_nothing_where_its_information_is_zero() -> None:
    values = point.values([1, 2], normal(1, 2, 3, seed=0))
    h = torch.zeros(1, 6, 6, dtype=F64)
    h[0, 0, 0] = 1e6
    prior = DensePrior.from_information(values, h, torch.zeros(1, 6, dtype=F64))
    moved = values.retract(torch.tensor([[0.0, 5, 6, 7, 8, 9]], dtype=F64))
    assert prior.objective(moved).item() == 0


def some_prior(first_estimates: bool) -> tuple[Problem, Values]:
    problem, values = example()
    n = 33
    point_values = values.retract(0.3 * normal(3, n, seed=1))
    prior = DensePrior(
        point_values, normal(3, n, n, seed=2), normal(3, n, seed=3), first_estimates
    )
    return problem.replace(prior=prior), values


def test_the_prior_carries_its_jacobian_to_the_current_point() -> None:
    problem, values = some_prior(first_estimates=False)
    prior = problem["prior"]
    assert isinstance(prior, DensePrior)
    jacobian = torch.autograd.functional.jacobian(
        lambda d: prior.whitened(values.retract(d)), zero_step(values)
    )
    exact = torch.stack([jacobian[b, :, b] for b in range(3)])
    torch.testing.assert_close(prior.products(values).hessian[:, 0], exact.mT @ exact)
    equations = normal_equations(problem, values, problem.structure(values))
    torch.testing.assert_close(
        equations.gradient, problem.gradient(values), atol=1e-10, rtol=1e-12
    )


def test_with_first_estimates_the_jacobian_is_the_stored_one() -> None:
    problem, values = some_prior(first_estimates=True)
    prior = problem["prior"]
    assert isinstance(prior, DensePrior)
    products = prior.products(values)
    torch.testing.assert_close(products.hessian[:, 0], prior.factor.mT @ prior.factor)
    residual = prior.whitened(values)
    torch.testing.assert_close(
        products.gradient[:, 0], (prior.factor.mT @ residual[..., None])[..., 0]
    )


def test_a_prior_on_fewer_variables_forgets_the_others() -> None:
    problem, _ = some_prior(first_estimates=True)
    prior = problem["prior"]
    assert isinstance(prior, DensePrior)
    fewer = prior.without("pose", torch.tensor([True, True, False, True]))
    assert fewer.point.ids["pose"].tolist() == [10, 20, 40]
    kept = torch.cat([torch.arange(12), torch.arange(18, 33)])
    assert torch.equal(fewer.factor, prior.factor[:, :, kept])


# Costs


def test_autodiff_of_one_instance_equals_the_analytic_blocks() -> None:
    worst = check_jacobians(
        between, poses(1, 1, 1)[0, 0], poses(1, 1, 2)[0, 0], poses(1, 1, 3)[0, 0]
    )
    assert worst["autodiff"] < 1e-13
    assert worst["numeric"] < 1e-8


def test_a_wrong_analytic_jacobian_is_found_out() -> None:
    @cost(batched=True)
    def wrong(x: Tensor, z: Tensor) -> Tensor:
        return (x - z) ** 3

    @wrong.jacobians
    def _(x: Tensor, z: Tensor) -> tuple[Tensor]:
        return (torch.diag_embed(2 * (x - z) ** 2),)

    worst = check_jacobians(wrong, torch.ones(2, dtype=F64), torch.zeros(2, dtype=F64))
    assert worst["autodiff"] == pytest.approx(1)
    assert worst["numeric"] == pytest.approx(1, rel=1e-6)


def test_a_cost_without_analytic_jacobians_has_nothing_to_check() -> None:
    with pytest.raises(DnlsError, match="'sighting' has no analytic Jacobians"):
        check_jacobians(sighting, SE3.identity(dtype=F64), torch.zeros(3, dtype=F64))
    with pytest.raises(DnlsError, match="'between' has analytic Jacobians already"):
        between.jacobians(_between)


def test_one_instance_and_batched_costs_give_the_same() -> None:
    @cost
    def single(x_i: SE2, x_j: SE2, z: SE2) -> Tensor:
        return local(z, x_i.inverse() @ x_j)

    @cost(batched=True)
    def batched(x_i: SE2, x_j: SE2, z: SE2) -> Tensor:
        return local(z, x_i.inverse() @ x_j)

    body = Variables("body", SE2)
    values = body.values(range(3), SE2.exp(normal(2, 3, 3, seed=0)))
    z = SE2.exp(normal(1, 2, 3, seed=1))
    groups = [c(body[[0, 1]], body[[1, 2]], z) for c in (single, batched)]
    a, b = (g.linearize(values) for g in groups)
    torch.testing.assert_close(a.residual, b.residual)
    for left, right in zip(a.jacobians, b.jacobians, strict=True):
        assert left.shape == (2, 2, 3, 3)
        torch.testing.assert_close(left, right)


def test_a_step_of_zero_moves_nothing() -> None:
    _, values = example()
    still = values.retract(zero_step(values))
    torch.testing.assert_close(still["pose"].tensor, values["pose"].tensor)  # type: ignore[union-attr]
