"""Bundle adjustment in the large: the cost, the files, known costs along the way."""

from __future__ import annotations

import pytest
import torch

from dnls_ros.costs.bal import bal_reprojection
from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.bal import read_bal, write_bal
from dnls_ros.linear import Dense, Schur
from dnls_ros.optim import LevenbergMarquardt, Tolerances, minimize
from dnls_ros.problem import check_jacobians

F64 = torch.float64


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 1e-3, 1.0, 3.0])
def test_jacobians_of_the_nine_parameter_camera(angle):
    torch.manual_seed(1)
    axis = torch.nn.functional.normalize(torch.randn(3, dtype=F64), dim=0)
    rest = torch.tensor([0.3, -0.2, -6.0, 1.7, -0.12, 0.05], dtype=F64)
    camera = torch.cat([angle * axis, rest])
    worst = check_jacobians(
        bal_reprojection, camera, torch.randn(3, dtype=F64), torch.randn(2, dtype=F64)
    )
    assert worst["autodiff"] < 1e-12
    assert worst["numeric"] < 1e-8


def test_a_camera_looks_along_its_negative_z_axis():
    camera = torch.tensor([0, 0, torch.pi / 2, 0, 0, -1, 100, 0.1, 0.01], dtype=F64)
    pixel = bal_reprojection.evaluate(
        (camera[None, None], torch.tensor([[[1.0, 0, -1]]], dtype=F64), torch.zeros(1, 1, 2)),
        (1, 1),
    )
    # Turned by 90° the point is at (0, 1, −2): a = (0, ½), ‖a‖² = ¼.
    expected = 100 * 0.5 * (1 + 0.1 / 4 + 0.01 / 16)
    torch.testing.assert_close(pixel[0, 0], torch.tensor([0, expected], dtype=F64))


def solved(bundle, iterations):
    linear = Schur("point", Dense())
    stop = Tolerances(1e-12, 0.0, 1e-8, iterations)
    start = bundle.initial()
    return minimize(bundle.problem(), start, LevenbergMarquardt.ceres(), linear, stop)


def test_dubrovnik_is_solved_exactly(dnls_data):
    bundle = read_bal(dnls_data("bal/gtsam/dubrovnik-3-7-pre.txt"))
    found = solved(bundle, 200)
    assert float(found.initial_cost) == pytest.approx(2764.21998442218, rel=1e-12)
    # 38 residuals, 48 unknowns: all can vanish. The reference stops on its way, at 0.0200600.
    assert float(found.cost) < 1e-12
    assert found.status[0].converged


@pytest.mark.slow
def test_ladybug_takes_the_known_steps(dnls_data):
    bundle = read_bal(dnls_data("bal/problem-49-7776-pre.txt"))
    first = solved(bundle, 1)
    assert float(first.initial_cost) == pytest.approx(850912.4606808407, rel=1e-12)
    assert float(first.cost) == pytest.approx(46481.92692588054, rel=1e-10)


@pytest.mark.slow
def test_ladybug_comes_down_in_six_iterations(dnls_data):
    found = solved(read_bal(dnls_data("bal/problem-49-7776-pre.txt")), 6)
    assert float(found.cost) <= 13388.8


def test_what_is_written_is_read_again(dnls_data, tmp_path):
    bundle = read_bal(dnls_data("bal/gtsam/dubrovnik-3-7-pre.txt"))
    found = solved(bundle, 3)
    moved = bundle.moved(found.values)
    write_bal(tmp_path / "again.txt", moved)
    again = read_bal(tmp_path / "again.txt")
    for name in ("cameras", "points", "camera_of", "point_of", "pixels"):
        assert torch.equal(getattr(again, name), getattr(moved, name))
    assert float(again.problem().objective(again.initial())) == float(found.cost)


CAMERA = "\n".join(["0"] * 5 + ["-5", "100", "0", "0"])
SMALL = f"1 2 2\n0 0 1.5 2\n0 1 -1 0\n{CAMERA}\n0 0 1\n0 1 0\n"
BAD = {
    "head": (SMALL.replace("1 2 2", "1 2"), ":1: expected the numbers of cameras, points"),
    "none": (
        SMALL.replace("1 2 2", "1 0 2"),
        ":1: cameras, points and observations are [1, 0, 2]",
    ),
    "empty": ("", ": empty, expected a bundle"),
    "short": (
        "1 2 2\n0 0 1.5 2\n",
        ":2: the file ends after 1 of 2 observations: it may be trunc",
    ),
    "count": (SMALL.replace("1 2 2", "1 2 3"), ":4: an observation is 'camera point x y', got 1"),
    "index": (SMALL.replace("0 1 -1", "0 2 -1"), ":3: a point's number is 2, expected 0 … 1"),
    "camera": (SMALL.replace("0 1 -1", "1 1 -1"), ":3: a camera's number is 1, expected 0 … 0"),
    "nan": (SMALL.replace("1.5", "nan"), ":2: a pixel: nan is not finite"),
    "twice": (
        SMALL.replace("0 1 -1", "0 0 -1"),
        ":3: camera 0 sees point 0 twice, first in line 2",
    ),
    "focal": (SMALL.replace("\n100\n", "\n-100\n"), ":10: camera 0 has the focal length -100"),
    "truncated": (SMALL[:-4], ":14: the file ends after 13 of 15 numbers of cameras and points"),
    "long": (SMALL + "7\n", ":15: more than the 15 numbers"),
    "lonely": (SMALL.replace("1 2 2", "1 3 2") + "0 0 0\n", ": 1 of 3 points have no observation"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_error_with_its_line(case, tmp_path):
    path = tmp_path / "bad.txt"
    text, expected = BAD[case]
    path.write_text(text)
    with pytest.raises(UnreadableInputError) as caught:
        read_bal(path)
    assert str(caught.value).startswith(f"{path}{expected}")
