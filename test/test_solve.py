"""`dnls solve`: figures, the result file, the picture, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dnls_ros.cli.main import main
from dnls_ros.io.g2o import read_g2o

TRIANGLE = """EDGE_SE2 0 1 1 0 2 1 0 0 1 0 1
EDGE_SE2 1 2 1 0 2.1 1 0 0 1 0 1
EDGE_SE2 2 0 1 0 2.1 1 0 0 1 0 1
"""


def solved(capsys, *arguments: object) -> tuple[int, dict]:
    code = main(["solve", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("method", ["lm", "gn", "dogleg"])
def test_a_pose_graph_is_solved_written_and_drawn(method, tmp_path, capsys):
    path = tmp_path / "triangle.g2o"
    path.write_text(TRIANGLE)
    result = tmp_path / "out" / "solved.g2o"
    code, figures = solved(
        capsys, path, "--init", "chordal", "--method", method, "--output", result
    )
    assert code == 0
    assert figures["converged"]
    assert figures["cost_final"] < figures["cost_initial"]
    assert (figures["poses"], figures["edges"]) == (3, 3)
    assert set(figures["seconds"]) == {"read", "init", "solve", "write", "plot"}
    graph = read_g2o(result)
    cost = graph.problem().objective(graph.free(graph.initial("file")))
    assert float(cost) == pytest.approx(figures["cost_final"], rel=1e-12)
    assert result.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_conjugate_gradients_solve_a_pose_graph(tmp_path, capsys):
    path = tmp_path / "triangle.g2o"
    path.write_text(TRIANGLE)
    common = (capsys, path, "--init", "tree", "--output", tmp_path / "solved.g2o")
    (code, direct), (_, iterated) = (solved(*common, "--linear", n) for n in ("auto", "pcg"))
    assert code == 0
    assert iterated["cost_final"] == pytest.approx(direct["cost_final"], rel=1e-9)
    assert iterated["linear"].startswith("conjugate gradients with inexact steps")


@pytest.mark.slow
def test_eliminating_points_gives_the_same_bundle_formed_or_not(dnls_data, tmp_path, capsys):
    path = dnls_data("bal/problem-49-7776-pre.txt")
    common = (capsys, path, "--iterations", 6, "--output", tmp_path / "solved.txt")
    explicit, implicit = (solved(*common, "--linear", n)[1] for n in ("schur", "implicit_schur"))
    assert explicit["cost_final"] <= 13388.8
    # Inexact steps take another way: within a few iterations it leads to the same valley.
    assert implicit["cost_final"] == pytest.approx(explicit["cost_final"], rel=0.05)
    assert "never formed" in implicit["linear"]


def test_a_known_graph_reaches_its_minimum(dnls_data, tmp_path, capsys):
    code, figures = solved(
        *(capsys, dnls_data("g2o/smallGrid3D.g2o"), "--init", "chordal"),
        *("--output", tmp_path / "solved.g2o"),
    )
    assert code == 0
    assert figures["cost_initial"] == pytest.approx(785.2401969, rel=1e-8)
    assert figures["cost_final"] == pytest.approx(517.9253323604, rel=1e-10)


@pytest.mark.parametrize(("start", "damping"), [(1, "identity"), (2, "scaled")])
def test_a_regression_tells_its_digits(start, damping, dnls_data, tmp_path, capsys):
    code, figures = solved(
        *(capsys, dnls_data("nist/MGH17.dat"), "--start", start, "--damping", damping),
        *("--output", tmp_path / "solved.dat"),
    )
    assert code == 0
    assert figures["digits_parameters"] > 6
    assert figures["digits_residual_sum"] > 9
    assert (tmp_path / "solved.png").exists()


def test_a_bundle_is_solved_by_elimination(dnls_data, tmp_path, capsys):
    code, figures = solved(
        *(capsys, dnls_data("bal/gtsam/dubrovnik-3-7-pre.txt")),
        *("--output", tmp_path / "solved.txt", "--plot", tmp_path / "picture.png"),
    )
    assert code == 0
    assert figures["cost_final"] < 1e-12
    assert "points eliminated" in figures["linear"]
    assert (tmp_path / "picture.png").exists()


def test_a_solve_that_does_not_converge_says_so(tmp_path, capsys):
    path = tmp_path / "triangle.g2o"
    path.write_text(TRIANGLE)
    code, figures = solved(
        *(capsys, path, "--init", "odometry", "--iterations", 1),
        *("--output", tmp_path / "solved.g2o"),
    )
    assert code == 1
    assert figures["status"] == "stopped: the iteration limit was reached"
    assert (tmp_path / "solved.g2o").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["{path}"], 2, "no pose vertices to start from; use --init odometry or chordal"),
        (["{path}", "--init", "tree", "--linear", "schur"], 2, "schur eliminates the points"),
        (
            ["{path}", "--init", "tree", "--linear", "implicit_schur"],
            2,
            "implicit_schur eliminates the points",
        ),
        (["{path}", "--init", "tree", "--output", "{path}"], 2, "is the input; name another"),
        (["{path}.missing"], 3, "cannot read"),
        (["{bad}"], 3, "bad.g2o:4: EDGE_SE2 has 9 numbers, got 2"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(arguments, code, text, tmp_path, capsys):
    path, bad = tmp_path / "triangle.g2o", tmp_path / "bad.g2o"
    path.write_text(TRIANGLE)
    bad.write_text(TRIANGLE + "EDGE_SE2 1 2 3 4\n")
    chosen = [part.format(path=path, bad=bad) for part in arguments]
    if "--output" not in chosen:
        chosen += ["--output", str(tmp_path / "solved.g2o")]
    assert main(["solve", *chosen]) == code
    error = capsys.readouterr().err.strip()
    assert text in error
    assert "\n" not in error
    assert sorted(Path(tmp_path).iterdir()) == [bad, path]
    assert path.read_text() == TRIANGLE
