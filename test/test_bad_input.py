"""What a caller gets wrong is one error that names it, before anything is solved."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_optim import logarithm, scalar
from torch import Tensor

from dnls_ros.costs import between, prior
from dnls_ros.diff import solve
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE2, SE3, Euclidean
from dnls_ros.linear import Cholmod, Dense
from dnls_ros.optim import GaussNewton, LevenbergMarquardt, Status, minimize
from dnls_ros.problem import (
    Diagonal,
    Isotropic,
    Problem,
    SquareRootInformation,
    Values,
    Variables,
    cost,
)

F64 = torch.float64
pose = Variables("pose", SE2)
vector = Variables("v", Euclidean(2))


def poses(count: int = 2, batch: int = 1, dtype: torch.dtype = F64, device: str = "cpu") -> SE2:
    return SE2.identity(batch, count, dtype=dtype, device=device)


def start(batch: int = 1, dtype: torch.dtype = F64) -> Values:
    return pose.values([0, 1], poses(batch=batch, dtype=dtype))


def known(**options: Any) -> Problem:
    return Problem(known=prior(pose[[0, 1]], poses(**options)))


def noisy(noise: Any) -> Problem:
    return Problem(known=prior(pose[[0, 1]], poses(), noise=noise))


zeros = vector.values([0, 1], torch.zeros(1, 2, 2, dtype=F64))

CASES: dict[str, tuple[Callable[[], Problem], Values, str]] = {
    "data of another dtype": (
        lambda: known(dtype=torch.float32),
        start(),
        r"group 'known': z is torch.float32, but the values are torch.float64; convert",
    ),
    "values of another dtype": (
        known,
        start(dtype=torch.float32),
        r"group 'known': z is torch.float64, but the values are torch.float32",
    ),
    "blocks of two dtypes": (
        lambda: Problem(a=prior(pose[[0, 1]], poses()), b=prior(vector[[0, 1]], zeros["v"])),
        start().merge(vector.values([0, 1], torch.zeros(1, 2, 2, dtype=torch.float32))),
        r"block 'v' is torch.float32, but block 'pose' are torch.float64",
    ),
    "data on another device": (
        lambda: known(device="meta"),
        start(),
        r"group 'known': z is on meta, but the values are on cpu; move",
    ),
    "batches of two sizes": (
        lambda: Problem(a=prior(pose[[0, 1]], poses(batch=2)), b=prior(pose[[0]], poses(1, 3))),
        start(),
        r"group 'a' has batch size 2, others have 3; give 1 or 3",
    ),
    "a start of another batch": (
        lambda: known(batch=3),
        start(batch=2),
        r"block 'pose' has batch size 2, the problem has 3; give 1 or 3",
    ),
    "a pose of another kind": (
        lambda: Problem(known=prior(pose[[0, 1]], SE3.identity(1, 2, dtype=F64))),
        start(),
        r"group 'known': cost 'prior' cannot.*x: SE2 \(1, 2, 4\), z: SE3 \(1, 2, 7\)",
    ),
    "a tensor in place of a pose": (
        lambda: Problem(known=prior(pose[[0, 1]], torch.zeros(1, 2, 3, dtype=F64))),
        start(),
        r"group 'known': cost 'prior' cannot be evaluated: .*z: Tensor \(1, 2, 3\)",
    ),
    "a vector of another width": (
        lambda: Problem(known=prior(vector[[0, 1]], torch.zeros(1, 2, 3, dtype=F64))),
        zeros,
        r"group 'known': cost 'prior' cannot be evaluated: .*x: Tensor \(1, 2, 2\), z: Tensor",
    ),
    "a noise of another width": (
        lambda: noisy(Diagonal(torch.ones(2, dtype=F64))),
        start(),
        r"'prior'.*Diagonal",
    ),
    "an information matrix of another size": (
        lambda: noisy(SquareRootInformation(torch.eye(2, dtype=F64))),
        start(),
        r"'prior'.*SquareRootInformation",
    ),
    "an unknown id": (
        lambda: Problem(known=prior(pose[[0, 7]], poses())),
        start(),
        r"block 'pose' has no variable with id \[7\]; it holds 2 variables",
    ),
    "an unknown block": (
        lambda: known().replace(other=prior(vector[[0]], torch.zeros(1, 1, 2, dtype=F64))),
        start(),
        r"no block 'v' among the values; there are \['pose'\]",
    ),
    "a variable without a factor": (
        lambda: Problem(known=prior(pose[[0]], poses(1))),
        start(),
        r"block 'pose': 1 of 2 variables have no factor, first ids \[1\]; add a prior",
    ),
    "no factor at all": (Problem, start(), r"block 'pose': 2 of 2 variables have no factor"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_problem_that_does_not_fit_is_one_error(case: str) -> None:
    problem, initial, message = CASES[case]
    with pytest.raises(DnlsError, match=message):
        solve(problem(), initial, linear=Dense())


def test_a_residual_that_raises_keeps_its_own_error() -> None:
    @cost
    def broken(x: Tensor) -> Tensor:
        raise ValueError("the map is not loaded")

    problem = Problem(f=broken(vector[[0, 1]]))
    with pytest.raises(DnlsError, match=r"group 'f': cost 'broken'.*the map is not") as caught:
        solve(problem, zeros, linear=Dense())
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("wrong", ["lm", LevenbergMarquardt])
def test_a_name_or_a_class_in_place_of_a_method_or_solver(wrong: Any) -> None:
    with pytest.raises(DnlsError, match=r"method is a value such as LevenbergMarquardt\(\)"):
        minimize(known(), start(), wrong, Dense())
    with pytest.raises(DnlsError, match=r"linear is a value such as Dense\(\)"):
        minimize(known(), start(), GaussNewton(), Dense if isinstance(wrong, type) else "dense")  # type: ignore[arg-type]


def test_elements_that_fail_are_told_by_index_and_harm_no_other() -> None:
    @cost(batched=True)
    def part(x: Tensor, seen: Tensor) -> Tensor:
        return seen * x - 1

    seen = torch.ones(4, 1, 2, dtype=F64)
    seen[1, 0, 1] = 0
    seen[2] = torch.nan
    problem = Problem(f=part(vector[[5]], seen))
    initial = vector.values([5], torch.zeros(4, 1, 2, dtype=F64))
    for linear in (Dense(), Cholmod()):
        found = minimize(problem, initial, GaussNewton(), linear)
        assert [s.failed for s in found.status] == [False, True, True, False]
        told = found.failures()
        assert set(told) == {1, 2}
        assert told[1].endswith("some direction has no information: v[5] x1")
        assert told[2] == Status.NOT_FINITE.value
        alone = minimize(
            Problem(f=part(vector[[5]], seen[:1])),
            vector.values([5], torch.zeros(1, 1, 2, dtype=F64)),
            GaussNewton(),
            linear,
        )
        assert torch.equal(found.values["v"][0], alone.values["v"][0])  # type: ignore[index]
    good = minimize(Problem(f=logarithm(scalar[[0]])), one(2.0), LevenbergMarquardt(), Dense())
    assert good.failures() == {}


def one(x: float) -> Values:
    return scalar.values([0], torch.full((1, 1, 1), x, dtype=F64))


def test_an_unanchored_graph_is_named_where_its_derivative_is_asked_for() -> None:
    z = poses(1).tensor.clone().requires_grad_()
    problem = Problem(step=between(pose[[0]], pose[[1]], SE2(z), noise=Isotropic(0.1)))
    found = solve(problem, start(), linear=Dense())
    x: Any = found.values["pose"]
    with pytest.raises(
        DnlsError, match=r"no information on pose\[.\].*anchor the free directions"
    ):
        x.translation.sum().backward()
