"""NIST's regressions: certified values from both starts, the files, and bad ones."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.formula import FormulaError, compile_formula
from dnls_ros.io.nist import correct_digits, read_nist, write_nist
from dnls_ros.linear import Dense
from dnls_ros.optim import LevenbergMarquardt, Tolerances, minimize

F64 = torch.float64
NAMES = (
    *("Bennett5", "Chwirut1", "DanWood", "Eckerle4", "Gauss1", "Hahn1", "Lanczos1", "Lanczos3"),
    *("MGH09", "MGH17", "Misra1a", "Misra1c", "Rat42", "Thurber"),
)
# Damping by diag(H) runs to where two exponentials vanish; damping by I does not.
IDENTITY = {("MGH17", 1)}
ROUNDED = {"Lanczos1": 2.5}  # residuals of 1e-13 in data of 1: the sum of squares has few digits


@pytest.mark.parametrize("name", NAMES)
def test_certified_values_are_reached_from_both_starts(dnls_data, name):
    one = read_nist(dnls_data(f"nist/{name}.dat"))
    stop = Tolerances(cost=0, step=1e-14, gradient=0, iterations=1000)
    for start in (1, 2):
        method = replace(LevenbergMarquardt.ceres(), scaled=(name, start) not in IDENTITY)
        found = minimize(one.problem(), one.initial(start), method, Dense(), stop)
        assert one.digits(found.values["b"][0, 0]) > 6
        reached = correct_digits(2 * found.cost, torch.tensor(one.residual_sum, dtype=F64))
        assert float(reached) > ROUNDED.get(name, 9)


def test_the_model_is_the_one_in_the_file(dnls_data):
    one = read_nist(dnls_data("nist/MGH17.dat"))
    assert one.model == "b1 + b2*exp(-x*b4) + b3*exp(-x*b5)"
    assert one.starts.tolist() == [[50, 150, -100, 1, 2], [0.5, 1.5, -1, 0.01, 0.02]]
    assert one.x.shape == (33, 1)
    assert (one.name, one.residual_sum) == ("MGH17", 5.4648946975e-05)
    b, x = one.starts[1], one.x[4, 0]
    r = b[0] + b[1] * math.exp(-x * b[3]) + b[2] * math.exp(-x * b[4]) - one.y[4]
    group = one.problem()["model"]
    assert float(group.whitened(one.initial(2))[0, 4, 0]) == pytest.approx(float(r), rel=1e-13)


def test_what_is_written_is_read_again(dnls_data, tmp_path):
    for name in NAMES:
        one = read_nist(dnls_data(f"nist/{name}.dat"))
        write_nist(tmp_path / "again.dat", one)
        again = read_nist(tmp_path / "again.dat")
        for part in ("starts", "certified", "deviations", "x", "y"):
            assert torch.equal(getattr(again, part), getattr(one, part))
        assert (again.model, again.name, again.residual_sum, again.predictors) == (
            *(one.model, one.name, one.residual_sum, one.predictors),
        )


def test_a_solution_is_written_as_the_only_start_and_read_again(dnls_data, tmp_path):
    one = read_nist(dnls_data("nist/MGH17.dat"))
    write_nist(tmp_path / "solved.dat", one.moved(one.initial(2)))
    again = read_nist(tmp_path / "solved.dat")
    assert torch.equal(again.starts, one.starts[1:])
    assert torch.equal(again.certified, one.certified)


SMALL = """NIST/ITL StRD
Dataset Name:  Line
Data:          1 Response  (y)
               3 Observations
Model:         2 Parameters (b1 and b2)

               y = b1 + b2*x  +  e

  b1 =   1   2   3.0  0.1
  b2 =   1   2   4.0  0.1

Residual Sum of Squares:  0.5
Data:   y   x
   1  0
   2  1
   3  2
"""
BAD = {
    "kind": (SMALL.replace("NIST/ITL", "other"), ":1: expected 'NIST/ITL StRD'"),
    "short": (SMALL[:-8], ":4: 3 observations are announced, 2 follow: the file may be truncated"),
    "row": (SMALL.replace("2  1\n", "2\n"), ":15: an observation has 2 numbers, got 1"),
    "nan": (SMALL.replace("3  2", "nan  2"), ":16: an observation: nan is not finite"),
    "few numbers": (
        SMALL.replace("1   2   3.0  0.1", "1   2"),
        ":9: a parameter's line has 3 numbers, got 2; the file may be truncated",
    ),
    "more starts": (SMALL.replace("4.0  0.1", "0  4.0  0.1"), ":10: a parameter's line has 4 num"),
    "order": (SMALL.replace("b2 = ", "b3 = "), ":10: parameter b3 where b2 is expected"),
    "few": (SMALL.replace("  b2 =   1   2   4.0  0.1\n", ""), ":5: the model has 2 parameters, 1"),
    "name": (SMALL.replace("b2*x", "b2*q"), ":7: the model 'b1 + b2*q' cannot be read: 'q' is"),
    "end": (SMALL.replace("  +  e", ""), ":7: the model does not end in '+ e'"),
    "sum": (
        SMALL.replace("Residual", "No"),
        ":16: the file ends without 'Residual Sum of Squares:",
    ),
    "data": (SMALL.split("Data:   y")[0], ":12: the file ends without 'Data: y x'"),
    "empty": ("", ":1: expected"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_error_with_its_line(case, tmp_path):
    path = tmp_path / "bad.dat"
    text, expected = BAD[case]
    path.write_text(text)
    with pytest.raises(UnreadableInputError) as caught:
        read_nist(path)
    assert str(caught.value).startswith(f"{path}{expected}")


def test_a_formula_is_arithmetic_and_nothing_else():
    names = ["b1", "x"]
    value = compile_formula("-b1**2 / exp(x) + arctan(0.5) - pi", names)
    got = value({"b1": torch.tensor(3.0, dtype=F64), "x": torch.tensor(0.5, dtype=F64)})
    assert float(got) == pytest.approx(-9 / math.exp(0.5) + math.atan(0.5) - math.pi, rel=1e-12)
    for text, why in (
        ("b1 +", "invalid syntax"),
        ("b2 * x", "'b2' is none of"),
        ("__import__('os')", "no call of"),
        ("x.real", "'x.real' is not arithmetic"),
        ("exp(b1, x)", "no call of"),
        ("b1 if x else x", "is not arithmetic"),
        ("'a'", "is not arithmetic"),
    ):
        with pytest.raises(FormulaError, match=why):
            compile_formula(text, names)
