"""The comparison with Theseus: our side always, theirs where it is installed."""

from __future__ import annotations

import importlib
import json
import math
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks import against_theseus, side_dnls
from benchmarks.against_theseus import (
    CUBES,
    all_rows,
    cube_slopes,
    finite,
    main,
    moving_frame_error,
    true_slopes,
)
from benchmarks.side_by_side import (
    F64,
    STARTS,
    exact_exp,
    make_cube,
    relative_errors,
    small_tangents,
)

COUNT = 6  # directions of finite differences
CASES = pytest.mark.parametrize("case", CUBES, ids=lambda case: case.tensor)
GROUPS = pytest.mark.parametrize("name", side_dnls.GROUPS)


@pytest.fixture(scope="module")
def truths() -> dict[str, Any]:
    """By case: the cube, directions and the slopes along them; made once."""
    made: dict[str, Any] = {}
    for case in CUBES:
        cube = case.cube()
        directions = case.directions(case.theta(cube), COUNT)
        made[case.tensor] = cube, directions, true_slopes(case, cube, directions)
    return made


def wrong(side: ModuleType, case: Any, truths: dict[str, Any], mode: str) -> float:
    """Relative error of a side's gradient of a solved cube."""
    cube, directions, truth = truths[case.tensor]
    got, _ = cube_slopes(side, case, cube, directions, mode)
    return float((got - truth).norm() / truth.norm())


@pytest.mark.parametrize("method", side_dnls.METHODS)
def test_six_rosenbrock_starts_reach_the_minimum_as_they_do_one_by_one(method):
    batch = side_dnls.rosenbrock_ends(method)
    assert all(status.startswith("CONVERGED") for status in batch.statuses)
    assert max(batch.costs) < 1e-10
    for k, cost in enumerate(batch.costs):
        single = side_dnls.rosenbrock_ends(method, STARTS[k : k + 1])
        assert single.costs == pytest.approx([cost], abs=1e-20)
        assert single.statuses == [batch.statuses[k]]


def test_a_step_to_nan_is_rejected_and_a_singular_neighbour_harms_nobody():
    logarithm, neighbours = side_dnls.logarithm_ends(), side_dnls.neighbour_ends()
    assert logarithm.values == pytest.approx([1, 1], abs=1e-8)
    assert all(status.startswith("CONVERGED") for status in logarithm.statuses)
    assert neighbours.values[0] == pytest.approx(3, abs=1e-12)
    assert neighbours.statuses[0].startswith("CONVERGED")
    assert neighbours.statuses[1] == "SINGULAR"


def test_the_quartic_is_differentiated_exactly():
    assert side_dnls.quartic_slope("implicit") == pytest.approx(1, abs=1e-10)
    cheap = side_dnls.quartic_slope("implicit, Gauss–Newton")
    assert cheap == pytest.approx(1.5, abs=1e-10)


@CASES
def test_gradients_of_a_cube_are_those_of_finite_differences(case, truths):
    for mode, bound in (("implicit", 1e-7), ("unroll", 1e-7), ("truncated(5)", 0.1), ("DLM", 0.1)):
        assert wrong(side_dnls, case, truths, mode) < bound
    assert wrong(side_dnls, case, truths, "implicit, Gauss–Newton") > 0.05


def test_a_cube_is_a_connected_walk_with_noise_of_the_size_that_is_said():
    cube = make_cube()
    steps = cube.truth[:, :63].between(cube.truth[:, 1:])
    torch.testing.assert_close(steps.translation.norm(dim=-1), torch.ones(1, 63, dtype=F64))
    pairs = set(zip(cube.first.tolist(), cube.second.tolist(), strict=True))
    assert (len(pairs), cube.edges) == (87, 87)
    exact = cube.truth[:, cube.first].between(cube.truth[:, cube.second])
    whitened = exact.between(cube.z).log() / cube.sigmas
    assert float(whitened.square().mean()) == pytest.approx(1, abs=0.15)
    assert not torch.equal(make_cube(4).z.tensor[:, -4:], cube.z.tensor[:, -4:])
    assert torch.equal(make_cube(4).z.tensor[:, :-4], cube.z.tensor[:, :-4])


@GROUPS
def test_groups_are_right_to_rounding_near_the_identity(name):
    group = side_dnls.GROUPS[name]
    maps = side_dnls.small_angle_maps(group)
    exact = [exact_exp(group, delta) for delta in small_tangents(group)]
    for k, got in enumerate(maps):
        assert float(relative_errors(got, [pair[k] for pair in exact]).max()) < 1e-15


def test_the_jacobian_of_the_moving_frame_is_exact():
    for size in (0.1, 1.0, 3.0):
        assert moving_frame_error(side_dnls, size) < 1e-9


def test_samples_lie_around_the_solution_in_its_type():
    drawn, solution = side_dnls.samples(10_000)
    assert drawn.dtype == solution.dtype == F64
    torch.testing.assert_close(drawn.mean(0), solution, rtol=0, atol=0.02)  # four of its σ
    torch.testing.assert_close(drawn.T.cov(), 0.25 * torch.eye(2, dtype=F64), rtol=0, atol=0.02)


# -- the script -----------------------------------------------------------------------------------


def test_without_theseus_one_sentence_says_so(capsys):
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'theseus'", name=name)

    assert main([], absent) == 2
    printed = capsys.readouterr()
    assert "against_theseus: Theseus cannot be imported here (No module" in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_the_table_has_a_row_for_every_question_and_the_same_in_json(capsys, monkeypatch):
    monkeypatch.setattr(against_theseus, "CUBES", CUBES[2:])
    assert main(["--json"], lambda name: side_dnls) == 0
    *table, line = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table[2:]]
    figures = json.loads(line)
    assert [row[0] for row in rows] == list(figures)
    assert len(rows) == 6 + 2 + 1 + 1 + 4 + 2 + 1
    for _, left, right, _ in rows:  # both columns are ours here; one may say more than the other
        short, long = sorted((left, right), key=len)
        assert long.startswith(short)
    assert max(figures[rows[0][0]]["ours"]["costs"]) < 1e-10


def test_json_has_no_number_that_is_none():
    assert finite({"a": [1.0, math.nan], "b": {"c": math.inf}}) == {
        "a": [1.0, None],
        "b": {"c": None},
    }


# -- their side: what was measured of version 0.2.3 -----------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    pytest.importorskip("theseus", reason="Theseus is not installed: only our side is tested")
    return importlib.import_module("benchmarks.side_theseus")


FOREIGN = pytest.mark.filterwarnings("ignore")


@FOREIGN
@pytest.mark.parametrize("method", side_dnls.METHODS)
def test_theseus_reaches_the_minimum_where_no_tolerance_ends_it(theirs, method):
    batch = theirs.rosenbrock_ends(method, tight=True)
    assert max(batch.costs) < 1e-10
    assert set(batch.statuses) == {"MAX_ITERATIONS"}


@FOREIGN
@pytest.mark.parametrize("method", side_dnls.METHODS)
def test_theseus_calls_elements_converged_that_are_not(theirs, method):
    batch = theirs.rosenbrock_ends(method)
    assert batch.wrong >= 3


@FOREIGN
def test_theseus_accepts_nan_and_fails_its_neighbours(theirs):
    logarithm, neighbours = theirs.logarithm_ends(), theirs.neighbour_ends()
    assert math.isnan(logarithm.values[0])
    assert not math.isclose(logarithm.values[1], 1, abs_tol=1e-3)
    assert neighbours.statuses == ["FAIL", "FAIL"]


@FOREIGN
def test_theseus_differentiates_the_quartic_by_gauss_newton(theirs):
    assert theirs.quartic_slope("implicit") == pytest.approx(1.5, abs=1e-10)


@FOREIGN
@CASES
def test_theseus_gradients_of_a_cube_are_ours_with_gauss_newton(theirs, case, truths):
    cube, directions, _ = truths[case.tensor]
    got, loss = cube_slopes(theirs, case, cube, directions, "implicit")
    ours, ours_loss = cube_slopes(side_dnls, case, cube, directions, "implicit, Gauss–Newton")
    assert loss == pytest.approx(ours_loss, rel=1e-9), "not the same minimum"
    torch.testing.assert_close(got, ours, rtol=1e-4, atol=1e-4 * float(ours.abs().max()))
    assert wrong(theirs, case, truths, "implicit") > 0.05
    assert wrong(theirs, case, truths, "unroll") < 1e-5


@FOREIGN
@GROUPS
def test_theseus_groups_lose_digits_near_the_identity(theirs, name):
    group = side_dnls.GROUPS[name]
    maps = theirs.small_angle_maps(group)
    exact = [exact_exp(group, delta) for delta in small_tangents(group)]
    errors = [
        float(relative_errors(got, [pair[k] for pair in exact]).max())
        for k, got in enumerate(maps)
    ]
    assert 1e-12 < errors[0] < 1e-7
    assert 1e-7 < errors[1] < 1e-3


@FOREIGN
def test_theseus_leaves_the_logarithm_out_of_the_moving_frame(theirs):
    assert moving_frame_error(theirs, 1e-9) < 1e-8
    assert moving_frame_error(theirs, 1.0) > 0.1


@FOREIGN
def test_theseus_samples_around_another_point_in_float32(theirs):
    drawn, solution = theirs.samples(10_000)
    assert solution.tolist() == pytest.approx([3, 4])
    assert drawn.dtype == torch.float32
    assert float((drawn.double().mean(0) - solution).abs().max()) > 1


@FOREIGN
def test_the_table_is_made_of_both(theirs, monkeypatch):
    monkeypatch.setattr(against_theseus, "CUBES", CUBES[2:])
    rows = all_rows(theirs, side_dnls, 2)
    assert all(row.theirs and row.ours for row in rows)
