"""The sliding window against the full batch: marginalization, order of arrival, interpolation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from dnls_ros.costs import between, prior
from dnls_ros.lie import SE2, SE3, LieGroup, local
from dnls_ros.linear import Dense, marginal_covariance
from dnls_ros.optim import Assembly, GaussNewton, LevenbergMarquardt, Tolerances, minimize
from dnls_ros.problem import DensePrior, Diagonal, Isotropic, Problem, Ref, Values
from dnls_ros.window.bodies import Body
from dnls_ros.window.chains import Segments
from dnls_ros.window.increments import (
    Limits,
    MotionNoise,
    PoseIncrements,
    Sample,
    TwistIncrements,
)
from dnls_ros.window.marginalize import marginalize
from dnls_ros.window.query import extrapolate, interpolate
from dnls_ros.window.schedule import Ticker
from dnls_ros.window.turns import RateIncrements

TIGHT = Tolerances(cost=1e-16, step=1e-14, gradient=1e-13, iterations=30)
COUNT, KEEP = 40, 8


def ref(name: str, *ids: int) -> Ref:
    return Ref(name, torch.tensor(ids))


def chain(generator: torch.Generator) -> tuple[dict, torch.Tensor]:
    """Random walk of vectors with differences and fixes; ids are multiples of 10."""
    truth = torch.cumsum(torch.randn(1, COUNT, 3, generator=generator, dtype=torch.float64), 1)
    ids = 10 * torch.arange(COUNT)
    noise = 0.1 * torch.randn(1, COUNT, 3, generator=generator, dtype=torch.float64)
    steps = truth[:, 1:] - truth[:, :-1] + noise[:, 1:]
    fixes = torch.arange(0, COUNT, 3)
    groups = {
        "steps": between(
            Ref("x", ids[:-1]),
            Ref("x", ids[1:]),
            steps,
            noise=Diagonal(torch.tensor([0.1, 0.2, 0.3])),
        ),
        "fixes": prior(
            Ref("x", ids[fixes]), truth[:, fixes] + noise[:, fixes], noise=Isotropic(0.5)
        ),
    }
    return groups, torch.zeros_like(truth)


def solved(groups: dict, values: Values):
    return minimize(Problem(groups), values, GaussNewton(), Dense(), TIGHT)


def covariance_of(solution, name: str, slot: int) -> torch.Tensor:
    factorization = solution.factorization()
    return marginal_covariance(factorization, factorization.pattern, (name, [slot]))[0]


def up_to(groups: dict, newest: int, oldest: int) -> dict:
    """The rows that connect states between two ids."""
    out = {}
    for name, group in groups.items():
        keep = torch.ones(group.count, dtype=torch.bool)
        for r in group.refs:
            keep &= (r.ids <= newest) & (r.ids >= oldest)
        if bool(keep.any()):
            out[name] = group.select(keep)
    return out


@pytest.mark.parametrize("first_estimates", [False, True])
def test_a_sliding_window_equals_the_full_batch_in_mean_and_covariance(
    first_estimates: bool,
) -> None:
    groups, start = chain(torch.Generator().manual_seed(1))
    ids = 10 * torch.arange(COUNT)
    window, marginal = Values({"x": start[:, :KEEP]}, {"x": ids[:KEEP]}), None
    active = up_to(groups, int(ids[KEEP - 1]), 0)
    for newest in range(KEEP, COUNT + 1):
        problem = {**active, **({"prior": marginal} if marginal is not None else {})}
        solution = solved(problem, window)
        full = solved(
            up_to(groups, int(ids[newest - 1]), 0),
            Values({"x": start[:, :newest]}, {"x": ids[:newest]}),
        )
        mine, theirs = solution.values["x"][:, -1], full.values["x"][:, -1]
        assert float((mine - theirs).abs().max()) < 1e-9
        difference = covariance_of(solution, "x", KEEP - 1) - covariance_of(full, "x", newest - 1)
        assert float(difference.abs().max()) < 1e-9
        if newest == COUNT:
            break
        leaving = {"x": torch.arange(KEEP) == 0}
        left = marginalize(active, marginal, solution.values, leaving, first_estimates)
        marginal = left.prior
        window = left.values.merge(
            Values({"x": start[:, newest : newest + 1]}, {"x": ids[newest : newest + 1]})
        )
        active = up_to(groups, int(ids[newest]), int(ids[newest - KEEP + 1]))


def test_a_prior_of_several_blocks_keeps_what_the_marginalized_state_knew_of_each() -> None:
    generator = torch.Generator().manual_seed(2)
    z = SE3.exp(torch.randn(1, 3, 6, generator=generator, dtype=torch.float64))
    groups = {
        "anchor": prior(ref("pose", 1), z[:, :1], noise=Isotropic(0.1)),
        "to_landmark": between(ref("pose", 1), ref("mark", 7), z[:, 1:2], noise=Isotropic(0.2)),
        "to_next": between(ref("pose", 1), ref("pose", 2), z[:, 2:], noise=Isotropic(0.3)),
    }
    poses = SE3.exp(torch.zeros(1, 2, 6, dtype=torch.float64))
    values = Values(
        {"pose": poses, "mark": poses[:, :1]},
        {"pose": torch.tensor([1, 2]), "mark": torch.tensor([7])},
    )
    full = minimize(Problem(groups), values, LevenbergMarquardt(), Dense(), TIGHT)
    left = marginalize(groups, None, full.values, {"pose": torch.tensor([True, False])})
    assert left.groups == {}
    assert left.prior is not None
    again = minimize(
        Problem({"prior": left.prior}), left.values, LevenbergMarquardt(), Dense(), TIGHT
    )
    assert float(again.values.local(left.values).abs().max()) < 1e-9
    for name, slot in (("pose", 1), ("mark", 0)):
        mine = covariance_of(again, name, 0)
        assert float((mine - covariance_of(full, name, slot)).abs().max()) < 1e-9


def test_a_direction_without_information_stays_without_it() -> None:
    information = torch.zeros(1, 3, 3, dtype=torch.float64)
    information[0, :2, :2] = torch.tensor([[4.0, 1.0], [1.0, 2.0]])
    gradient = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
    point = Values({"x": torch.zeros(1, 1, 3, dtype=torch.float64)}, {"x": torch.tensor([5])})
    made = DensePrior.from_information(point, information, gradient)
    assert float((made.factor.mT @ made.factor - information).abs().max()) < 1e-12
    assert (
        float(((made.factor.mT @ made.offset[..., None])[..., 0] - gradient).abs().max()) < 1e-12
    )


def test_first_estimates_keep_the_priors_own_quadratic() -> None:
    generator = torch.Generator().manual_seed(3)
    x = SE2.exp(torch.randn(1, 2, 3, generator=generator, dtype=torch.float64))
    point = Values({"pose": x}, {"pose": torch.tensor([1, 2])})
    root = torch.randn(1, 6, 6, generator=generator, dtype=torch.float64)
    information = root.mT @ root
    gradient = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    made = DensePrior.from_information(point, information, gradient, first_estimates=True)
    moved = point.retract(0.3 * torch.ones(1, 6, dtype=torch.float64))
    assembly = Assembly(Problem({"prior": made}), Problem({"prior": made}).structure(moved), point)
    dense = assembly.structure.pattern.dense(assembly.normal_equations(moved).hessian)
    assert float((dense - information).abs().max()) < 1e-10


PLANE = Body("robot", planar=True, moving=False)
SPACE = Body("tool", planar=False, moving=False)


@pytest.mark.parametrize("body", [PLANE, SPACE])
def test_the_parts_of_an_odometry_interval_add_up_to_the_whole(body: Body) -> None:
    generator = np.random.default_rng(4)
    stamps = np.sort(generator.integers(1, 10**9, 20))
    poses = generator.normal(size=(20, 7))
    poses[:, 3:] /= np.linalg.norm(poses[:, 3:], axis=1, keepdims=True)
    noise = MotionNoise(np.eye(body.dim), 2 * np.eye(body.dim))
    buffer = PoseIncrements.empty(body)
    for k in generator.permutation(20):
        buffer = buffer.insert(int(stamps[k]), body.elements(poses[k : k + 1]), noise)
    start, middle, end = (np.array([s]) for s in (stamps[2] + 5, stamps[9] + 3, stamps[15] - 2))
    first, second, whole = (
        buffer.between(start, middle),
        buffer.between(middle, end),
        buffer.between(start, end),
    )
    assert float(local(first[0] @ second[0], whole[0]).abs().max()) < 1e-12
    assert float((first[1] + second[1] - whole[1]).abs().max()) < 1e-12
    assert buffer.covered(start, end, Limits(10**9))[0]
    assert not buffer.covered(start, end, Limits(1))[0]
    assert not buffer.covered(start, np.array([stamps[-1] + 1]), Limits(10**9))[0]


@pytest.mark.parametrize("body", [PLANE, SPACE])
def test_kernels_read_samples_as_torch_does(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large turns and tiny ones, intervals inside one sample's and over many."""
    generator = np.random.default_rng(6)
    stamps = np.sort(generator.integers(1, 10**10, 30))
    poses = generator.normal(size=(30, 7))
    poses[20:] = poses[20] + 1e-9 * poses[20:]
    noise = MotionNoise(np.eye(body.dim), np.eye(body.dim))
    elements = body.elements(poses)
    rates = generator.normal(size=(30, 3))
    moves = [Sample(int(s), elements[k : k + 1], noise) for k, s in enumerate(stamps)]
    turns = [Sample(int(s), rates[k], noise) for k, s in enumerate(stamps)]
    ends = np.sort(generator.integers(stamps[0], stamps[-1], (2, 40)), 0)
    found = []
    for kernels in (True, False):
        monkeypatch.setattr("dnls_ros.window.increments.has_kernels", lambda use=kernels: use)
        monkeypatch.setattr("dnls_ros.window.turns.has_kernels", lambda use=kernels: use)
        buffer = PoseIncrements.empty(body).extended(moves)
        turned = RateIncrements.empty(body).extended(turns)
        motions = [b.motion(*ends).tensor.numpy() for b in (buffer, turned)]
        leaps = buffer.leaps(Limits(10**12, 1.0, 1.0))
        found.append(np.concatenate([*motions, leaps[:, None] * np.ones(motions[0].shape[1])]))
    np.testing.assert_allclose(*found, rtol=0, atol=1e-12)


def test_a_constant_twist_is_integrated_exactly() -> None:
    twist = np.array([0.4, -0.1, 0.7])
    buffer = TwistIncrements.empty(PLANE)
    for stamp in (0, 10**9, 2 * 10**9):
        buffer = buffer.insert(stamp, twist, MotionNoise(np.eye(3), np.zeros((3, 3))))
    moved, covariance = buffer.between(np.array([250_000_000]), np.array([1_750_000_000]))
    assert float(local(SE2.exp(torch.from_numpy(1.5 * twist)[None]), moved).abs().max()) < 1e-12
    assert float((covariance[0] - 1.5 * torch.eye(3, dtype=torch.float64)).abs().max()) < 1e-12


@pytest.mark.parametrize("group", [SE2, SE3])
def test_interpolation_follows_its_ends_as_its_jacobians_say(group: type[LieGroup]) -> None:
    generator = torch.Generator().manual_seed(5)
    ends = group.exp(
        0.8 * torch.randn(2, 1, group.tangent_dim, generator=generator, dtype=torch.float64)
    )
    here = interpolate(ends[0], ends[1], 0.3)
    step = 1e-6
    for which, jacobian in ((0, here.from_start), (1, here.from_end)):
        for axis in range(group.tangent_dim):
            delta = torch.zeros(1, group.tangent_dim, dtype=torch.float64)
            delta[0, axis] = step
            moved = [ends[0], ends[1]]
            moved[which] = moved[which] @ group.exp(delta)
            numeric = local(here.pose, interpolate(moved[0], moved[1], 0.3).pose)[0] / step
            assert float((numeric - jacobian[:, axis]).abs().max()) < 1e-5


def test_extrapolation_holds_the_twist() -> None:
    start = SE2.from_xyt(torch.tensor([[1.0, 2.0, 0.3]], dtype=torch.float64))
    twist = torch.tensor([[0.5, 0.0, 0.2]], dtype=torch.float64)
    pose, _ = extrapolate(start, twist, 0.4)
    assert float((local(start, pose) - 0.4 * twist).abs().max()) < 1e-15


@pytest.mark.parametrize("rate", [20.0, 30.0, 7.0, 0.5])
def test_ticks_lie_on_exact_multiples_of_the_period_and_none_is_lost(rate: float) -> None:
    start, ticker = 1_700_000_000_123_456_789, Ticker(rate)
    ticks = [
        t for stamp in range(start, start + 10_000_000_000, 17_000_000) for t in ticker.due(stamp)
    ]
    assert len(ticks) == pytest.approx(10 * rate, abs=1)
    assert all(
        round(t * rate / 1e9) * 10**9 // 1 - t * rate == pytest.approx(0, abs=rate * 300)
        for t in ticks
    )
    assert all(b - a == pytest.approx(1e9 / rate, abs=1) for a, b in pairwise(ticks))


def test_a_measurement_exactly_on_a_tick_belongs_to_that_tick() -> None:
    ticker = Ticker(20.0)
    assert ticker.due(1_000_000_000) == []
    assert ticker.due(1_000_000_001) == [1_000_000_000]
    assert ticker.due(1_050_000_000) == []
    assert ticker.due(1_120_000_000) == [1_050_000_000, 1_100_000_000]


@pytest.mark.parametrize("late", [False, True])
def test_intervals_are_taken_over_only_where_their_samples_are_the_same(late: bool) -> None:
    body = Body("robot", True, False)
    generator = np.random.default_rng(0)
    noise = MotionNoise(1e-4 * np.eye(3), np.zeros((3, 3)))

    def with_sample(samples: PoseIncrements, stamp: int) -> PoseIncrements:
        tangent = torch.from_numpy(generator.normal(size=(1, 3)))
        return samples.insert(stamp, SE2.exp(tangent), noise)

    before = PoseIncrements.empty(body)
    for stamp in range(0, 1000, 100):
        before = with_sample(before, stamp)
    start, end = np.arange(50, 850, 80), np.arange(130, 930, 80)
    start, end = start[end <= 900], end[end <= 900]
    known = Segments.of(before, start, end, None)
    after = with_sample(before.since(200), 430 if late else 1000)
    if not late:
        start, end = np.append(start, end[-1]), np.append(end, 960)
    inside = start >= 200
    found = Segments.of(after, start[inside], end[inside], known)
    fresh = Segments.of(after, start[inside], end[inside], None)
    reused = known.find(after.stamps, start[inside], end[inside]) >= 0
    assert reused.any()
    assert np.array_equal(reused, end[inside] <= (400 if late else 900))
    torch.testing.assert_close(found.motion.tensor, fresh.motion.tensor, rtol=0, atol=1e-14)
    torch.testing.assert_close(found.factor, fresh.factor, rtol=1e-12, atol=0)
