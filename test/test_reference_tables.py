"""Reference values by ``dnls solve`` itself: pose graphs, bundles, NIST's regressions."""

from __future__ import annotations

import pytest

from benchmarks import nist_table, reference_table
from benchmarks.nist_table import solved
from benchmarks.reference_table import GRAPHS, MILESTONES, solved_bundle, solved_graph
from dnls_ros.io.nist import correct_digits, read_nist

SLOW = {"parking-garage", "sphere2500", "manhattan", "M3500"}
SLOW_BUNDLES = {name for name in MILESTONES if name.startswith("Ladybug")}


def some(names, slow):
    marks = {name: [pytest.mark.slow] if name in slow else [] for name in names}
    return [pytest.param(name, marks=marks[name]) for name in names]


@pytest.mark.parametrize("name", some(GRAPHS, SLOW))
def test_the_command_reaches_the_minimum_of_a_known_graph(dnls_data, name):
    folder = dnls_data(f"g2o/{name}.g2o").parents[1]
    graph = solved_graph(folder, name)
    assert graph.figures["converged"]
    assert abs(graph.relative) < 1e-9
    if graph.reference.at_file is not None:
        assert graph.at_file == pytest.approx(graph.reference.at_file, rel=1e-9)
    assert graph.figures["cost_initial"] == pytest.approx(graph.reference.at_chordal, rel=1e-8)


@pytest.mark.parametrize("name", some(MILESTONES, SLOW_BUNDLES))
def test_the_command_brings_a_bundle_down(dnls_data, name):
    milestone = MILESTONES[name]
    folder = dnls_data(f"bal/{milestone.file}")
    while folder.name != "bal":
        folder = folder.parent
    figures = solved_bundle(folder.parent, milestone)
    assert figures["cost_initial"] == pytest.approx(milestone.start, rel=1e-12)
    assert figures["cost_final"] <= milestone.at_most
    assert figures["iterations"] <= milestone.iterations


def test_the_table_of_references_tells_what_was_reached(dnls_data, capsys):
    folder = dnls_data("g2o/tinyGrid3D.g2o").parents[1]
    dnls_data("bal/gtsam/dubrovnik-3-7-pre.txt")
    wanted = ["tinyGrid3D", "dubrovnik-3-7, the end"]
    assert reference_table.main([str(folder), "--only", *wanted]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith(("| tinyGrid3D", "| dubrovnik"))]
    assert len(rows) == 2
    assert all(row.endswith("| converged |") for row in rows)
    assert lines[-1] == "all reached"
    assert reference_table.main([str(folder), "--only", "tinygrid"]) == 2


def test_a_value_that_is_missed_is_named(dnls_data, capsys, monkeypatch):
    folder = dnls_data("g2o/tinyGrid3D.g2o").parents[1]
    low = reference_table.Reference(None, 14.36842873, 9.3)
    monkeypatch.setitem(reference_table.GRAPHS, "tinyGrid3D", low)
    assert reference_table.main([str(folder), "--only", "tinyGrid3D"]) == 1
    assert capsys.readouterr().out.endswith("not reached: tinyGrid3D\n")


def test_where_damping_by_the_diagonal_fails_damping_by_i_succeeds(dnls_data):
    first, second, third = solved(dnls_data("nist/MGH17.dat"))
    assert (first.start, first.method, first.certified) == (1, "LM", False)
    assert (second.start, second.method, second.certified) == (1, "LM, damping by I", True)
    assert (third.start, third.method, third.certified) == (2, "LM", True)
    assert first.cells()[:3] == ["MGH17", "1", "LM"]


def test_residuals_of_1e_13_are_certified_where_the_arithmetic_holds_them(dnls_data):
    for one in solved(dnls_data("nist/Lanczos1.dat")):
        assert one.figures["digits_residual_sum"] < 4, "then float64 is enough"
        assert one.exact > 9
        assert one.certified


def test_fifty_digits_confirm_what_float64_says_where_that_is_enough(dnls_data):
    one = read_nist(dnls_data("nist/Misra1a.dat"))
    assert nist_table.digits_of_residual_sum(one, one.certified) > 9
    far = one.certified * (1 + 1e-2)  # one step is not enough from there
    assert nist_table.digits_of_residual_sum(one, far) < 9
    assert float(correct_digits(one.certified, one.certified).min()) == 11


@pytest.mark.slow
def test_all_regressions_have_six_digits_from_both_starts(dnls_data, capsys):
    folder = dnls_data("nist/MGH17.dat").parent
    assert nist_table.main([str(folder)]) == 0
    assert capsys.readouterr().out.endswith("28 of 28 starts have 6 digits of both.\n")


def test_a_folder_without_files_is_refused(tmp_path, capsys):
    assert nist_table.main([str(tmp_path)]) == 2
    assert "there is no .dat file" in capsys.readouterr().err
