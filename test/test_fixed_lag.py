"""The window that steps in compiled code is the window of `minimize` and `marginalize`."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dnls_ros.costs import between, constant_velocity, prior
from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.lie import SE2, SE3, Euclidean, LieGroup
from dnls_ros.linear import BlockCholesky, has_kernels, marginal_covariances
from dnls_ros.optim import LevenbergMarquardt, Tolerances, minimize
from dnls_ros.problem import Diagonal, FactorGroup, Huber, Problem, Ref, Values, Variables
from dnls_ros.window import fixed_lag
from dnls_ros.window.fixed_lag import FixedLag
from dnls_ros.window.marginalize import PRIOR, marginalize

if not has_kernels():
    pytest.skip("numba is not installed", allow_module_level=True)

F64 = torch.float64
STOP = Tolerances(cost=1e-13, step=1e-10, gradient=1e-11)
POINT = Variables("point", Euclidean(2))


class Smoother:
    """The reference: a window of the general pieces."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.values: Values | None = None
        self.groups: dict[str, FactorGroup] = {}
        self.prior = None

    def step(self, k: int, new: Values, measured: dict[str, FactorGroup]) -> Tensor:
        """The covariance of the newest state of the first block."""
        if self.values is not None:
            name = next(iter(self.values))
            if len(self.values.ids[name]) == self.capacity:
                first = torch.arange(self.capacity) == 0
                leaving = dict.fromkeys(self.values, first)
                done = marginalize(self.groups, self.prior, self.values, leaving)
                self.values, self.groups, self.prior = done.values, done.groups, done.prior
            new = self.values.merge(new)
        for name, factor in measured.items():
            span = max(int(ref.ids.max()) for ref in factor.refs)
            refs = tuple(Ref(ref.name, ref.ids + k - span) for ref in factor.refs)
            factor = replace(factor, refs=refs)
            known = self.groups.get(name)
            self.groups[name] = factor if known is None else known.concat(factor)
        border = {} if self.prior is None else {PRIOR: self.prior}
        problem = Problem({**self.groups, **border})
        found = minimize(problem, new, LevenbergMarquardt(), BlockCholesky(), STOP)
        self.values = found.values
        block = next(iter(new))
        last = [len(self.values.ids[block]) - 1]
        return marginal_covariances(found.last_factorization(), block, last)[0, 0]


def drive(group: type[LieGroup], steps: int) -> list[LieGroup]:
    random = torch.Generator().manual_seed(3)
    poses = [group.exp(0.3 * torch.randn(1, 1, group.tangent_dim, generator=random, dtype=F64))]
    for _ in range(steps - 1):
        motion = 0.2 + 0.1 * torch.randn(1, 1, group.tangent_dim, generator=random, dtype=F64)
        poses.append(poses[-1] @ group.exp(motion))
    return poses


def assert_same(window: FixedLag, reference: Smoother, covariance: Tensor) -> None:
    assert reference.values is not None
    there = window.values
    for name, ids in reference.values.ids.items():
        assert torch.equal(there.ids[name], ids)
    assert float(reference.values.local(there).abs().max()) < 1e-9
    found = window.covariance(next(iter(there)))
    assert float((found - covariance).abs().max()) < 1e-6 * float(covariance.abs().max())


@pytest.mark.parametrize("group", [SE2, SE3])
@pytest.mark.parametrize("spans", [(1,), (1, 3)], ids=str)
def test_a_window_of_poses_is_the_general_one(
    group: type[LieGroup], spans: tuple[int, ...]
) -> None:
    random = torch.Generator().manual_seed(1)
    pose, t, still = Variables("pose", group), group.tangent_dim, group.identity(1, 1, dtype=F64)
    sigmas = torch.full((t,), 0.05, dtype=F64)
    truth = drive(group, 30)

    def link(span: int, z: LieGroup) -> FactorGroup:
        return between(pose[0], pose[span], z, noise=Diagonal(sigmas))

    def fix(z: LieGroup, scale: float = 2.0) -> FactorGroup:
        return prior(
            pose[0], z, noise=Diagonal(scale * sigmas), loss=Huber(torch.tensor(1.0, dtype=F64))
        )

    kinds = {f"link{span}": link(span, still) for span in spans}
    window = FixedLag(pose, 8, {**kinds, "fix": fix(still)}, motion="link1", stop=STOP)
    reference = Smoother(8)
    for k, x in enumerate(truth):

        def measure(x: LieGroup, size: float) -> LieGroup:
            return x @ group.exp(size * torch.randn(1, 1, t, generator=random, dtype=F64))

        z = {s: measure(truth[k - s].inverse() @ x, 0.05) for s in spans if k >= s}
        whole = {f"link{s}": link(s, m) for s, m in z.items()}
        given: dict[str, Any] = {f"link{s}": m for s, m in z.items()}
        if k % 9 == 0:
            whole["fix"] = given["fix"] = fix(measure(x, 0.1), 2.0 + k / 10)  # noise of its own
        start = x
        if reference.values is not None:
            last = reference.values["pose"]
            assert isinstance(last, LieGroup)
            start = last[:, -1:] @ z[1]
        covariance = reference.step(k, pose.values([k], start), whole)
        status = window.step(given, {"pose": x} if k == 0 else None).status
        assert not status.failed
        assert_same(window, reference, covariance)


def test_several_variables_make_a_state() -> None:
    """Poses with velocities, whose border is wider than a pose."""
    random = torch.Generator().manual_seed(2)
    pose, velocity = Variables("pose", SE2), Variables("velocity", Euclidean(3))
    motion = constant_velocity(
        pose[0], velocity[0], pose[1], velocity[1], torch.tensor([[0.1]], dtype=F64),
        noise=Diagonal(torch.full((6,), 0.05, dtype=F64)),
    )  # fmt: skip
    fix = prior(
        pose[0], SE2.identity(1, 1, dtype=F64), noise=Diagonal(torch.full((3,), 0.1, dtype=F64))
    )
    rest = prior(velocity[0], torch.zeros(1, 1, 3, dtype=F64))
    window = FixedLag((pose, velocity), 6, {"motion": motion, "fix": fix, "rest": rest}, stop=STOP)
    reference = Smoother(6)
    last: Values | None = None
    for k, x in enumerate(drive(SE2, 20)):
        z = x @ SE2.exp(0.1 * torch.randn(1, 1, 3, generator=random, dtype=F64))
        measured = {"fix": prior(pose[0], z, noise=fix.noise)}
        given: dict[str, Any] = {"fix": z}
        if k:
            measured["motion"], given["motion"] = motion, None
        else:
            measured["rest"], given["rest"] = rest, None
        start = Values(
            {
                "pose": SE2.identity(1, 1, dtype=F64) if last is None else last["pose"][:, -1:],
                "velocity": torch.zeros(1, 1, 3, dtype=F64)
                if last is None
                else last["velocity"][:, -1:],
            },
            dict.fromkeys(("pose", "velocity"), torch.tensor([k])),
        )
        covariance = reference.step(k, start, measured)
        window.step(given)
        last = reference.values
        assert_same(window, reference, covariance)


def test_directions_without_information_stay_without() -> None:
    """Points of which only sums are known: what leaves knows nothing of the difference."""
    step = between(POINT[0], POINT[1], torch.zeros(1, 1, 2, dtype=F64))
    flat = replace(step, noise=Diagonal(torch.tensor([[[1.0, 1e9]]], dtype=F64)))
    fix = prior(POINT[0], torch.zeros(1, 1, 2, dtype=F64))
    window = FixedLag(POINT, 3, {"step": flat, "fix": fix}, motion="step", stop=STOP)
    for k in range(12):
        given: dict[str, Any] = {"fix": torch.tensor([float(k), 0.0], dtype=F64)}
        if k:
            given["step"] = torch.tensor([1.0, 0.0], dtype=F64)
        assert not window.step(given).status.failed
    points = window.values["point"]
    assert isinstance(points, Tensor)
    expected = torch.tensor([[9.0, 0.0], [10.0, 0.0], [11.0, 0.0]], dtype=F64)
    torch.testing.assert_close(points[0], expected, atol=1e-9, rtol=0)
    # Of the first axis every fix counts, of the second only each point's own.
    assert float(window.covariance("point")[1, 1]) == pytest.approx(1.0, rel=1e-6)


def step_factor() -> FactorGroup:
    return between(POINT[0], POINT[1], torch.zeros(1, 1, 2, dtype=F64))


ZERO = torch.zeros(1, 1, 2, dtype=F64)
TURNED = Variables("turned", SE2)


@pytest.mark.parametrize(
    ("factors", "more", "told"),
    [
        ({"fix": prior(POINT[0], ZERO)}, {}, "no factor connects"),
        ({"far": between(POINT[0], POINT[7], ZERO)}, {}, "at most 3"),
        ({"two": between(POINT[[0, 1]], POINT[[1, 2]], ZERO)}, {}, "one factor"),
        ({"other": prior(TURNED[0], SE2.identity(1, 1, dtype=F64))}, {}, "is about"),
        ({"odd": prior(POINT[0], ZERO.float())}, {}, "known to kernels"),
        ({}, {"motion": "fix"}, "motion 'fix'"),
        ({}, {"stop": Tolerances(seconds=1.0)}, "budget"),
    ],
)
def test_what_no_window_can_be_made_of_is_refused(
    factors: dict[str, FactorGroup], more: dict[str, Any], told: str
) -> None:
    connected = {} if "fix" in factors else {"step": step_factor()}
    with pytest.raises(DnlsError, match=told):
        FixedLag(POINT, 4, {**connected, **factors}, **more)


def test_a_wrong_measurement_changes_nothing() -> None:
    fix = prior(POINT[0], torch.zeros(1, 1, 2, dtype=F64))
    window = FixedLag(POINT, 4, {"step": step_factor(), "fix": fix}, motion="step")
    good = torch.ones(2, dtype=F64)
    with pytest.raises(DnlsError, match="'step' connects states 1 apart"):
        window.step({"step": good})
    window.step({"fix": good})
    before = window.values["point"]
    for measured, guess, told in (
        ({"fix": good * torch.nan}, {}, "measurement of 'fix' is not finite"),
        ({"step": torch.ones(3, dtype=F64)}, {}, "'step' takes 2 numbers"),
        ({"step": torch.ones(2)}, {}, "float64"),
        ({"other": good}, {}, "no factor 'other'"),
        ({"fix": step_factor()}, {}, "the factor for 'fix'"),
        ({"fix": good}, {"point": good * torch.inf}, "a guess for"),
        ({"fix": good}, {"line": good}, "a guess of 2 numbers for 'line'"),
    ):
        with pytest.raises(DnlsError, match=told):
            window.step(measured, guess)
        assert torch.equal(window.values["point"], before)  # type: ignore[arg-type]
        assert window.count == 1
    with pytest.raises(DnlsError, match="age 1"):
        window.covariance("point", 1)


def test_without_numba_it_says_what_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_lag, "has_kernels", lambda: False)
    with pytest.raises(UnavailableError, match="minimize"):
        FixedLag(POINT, 4, {"step": step_factor()})
