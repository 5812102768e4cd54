"""A dumped window is solved again by ``dnls bench``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dnls_ros.cli.main import main
from dnls_ros.costs import between, prior
from dnls_ros.lie import SE2
from dnls_ros.problem import Isotropic, Problem, Variables
from dnls_ros.runtime.dump import WindowDump, save_window


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Two poses a metre apart, started at one place."""
    pose = Variables("robot", SE2)
    step = SE2.from_xyt(torch.tensor([[[1.0, 0.0, 0.1]]], dtype=torch.float64))
    origin = SE2.identity(1, 1, dtype=torch.float64)
    problem = Problem(
        start=prior(pose[[0]], origin, noise=Isotropic(0.1)),
        odometry=between(pose[[0]], pose[[1]], step, noise=Isotropic(0.1)),
    )
    values = pose.values([0, 1], SE2.identity(1, 2, dtype=torch.float64))
    return save_window(WindowDump.of(problem, values, {"why": "a test"}), tmp_path, "window_1")


def test_a_dump_is_solved_and_timed(dump, capsys):
    assert main(["bench", "--window", str(dump), "--repeat", "3", "--json"]) == 0
    out = capsys.readouterr().out
    figures = json.loads(out.splitlines()[-1])
    assert figures["about"] == {"why": "a test"}
    assert figures["cost_initial"] > 40.0
    assert figures["cost_final"] < 1e-9
    assert figures["converged"] is True
    assert 0.0 < figures["solve_p50_s"] <= figures["solve_p95_s"]
    assert "factors of odometry" in out
    assert main(["bench", "--window", str(dump.with_suffix(".npz")), "--repeat", "1"]) == 0


def test_what_is_no_dump_is_refused(tmp_path, dump, capsys):
    assert main(["bench", "--window", str(tmp_path / "none.json")]) == 3
    assert "is no window dump that can be read" in capsys.readouterr().err
    dump.write_text(dump.read_text()[:100])
    assert main(["bench", "--window", str(dump)]) == 3
    assert main(["bench", "--window", str(dump), "--repeat", "0"]) == 2


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A square of poses with a loop."""
    lines = [f"VERTEX_SE2 {k} {k % 2} {k // 2} 0.1" for k in range(4)]
    lines += [f"EDGE_SE2 {i} {j} 1 0 1.57 100 0 0 100 0 400" for i, j in ((0, 1), (1, 2), (2, 3))]
    lines += ["EDGE_SE2 3 0 1 0 1.5 100 0 0 100 0 400"]
    path = tmp_path / "square.g2o"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_pose_graph_is_timed_and_its_tiers_told(graph, capsys):
    assert main(["bench", str(graph), "--rounds", "2", "--explain", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["poses"] == 4
    assert figures["seconds_per_iteration"] > 0
    assert set(figures["tiers"]) == {"edges", "edges_held_0", "edges_held_1"}


def test_a_pose_graph_beside_gtsam(graph, capsys):
    pytest.importorskip("gtsam")
    assert main(["bench", str(graph), "--peer", "gtsam", "--rounds", "2", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["objective"] == pytest.approx(figures["peer_objective"], rel=1e-9)
    ratio = figures["seconds_per_iteration"] / figures["peer_seconds_per_iteration"]
    assert figures["ratio"] == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--peer", "ceres"], "--peer is one of gtsam; got 'ceres'"),
        (["--peer", "gtsam", "--peer-python", "/nowhere/python"], "cannot be run"),
        (["--window", "x.json"], "takes a pose graph, FILE.g2o, or a dump"),
    ],
)
def test_mistakes_are_one_line(graph, capsys, options, told):
    assert main(["bench", str(graph), *options]) == 2
    assert told in capsys.readouterr().err


def test_a_peer_that_is_absent_says_how_to_get_it(graph, tmp_path, capsys):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no module gtsam' >&2\nexit 1\n")
    python.chmod(0o755)
    assert main(["bench", str(graph), "--peer", "gtsam", "--peer-python", str(python)]) == 2
    told = capsys.readouterr().err
    assert "no module gtsam" in told
    assert "pip install gtsam" in told


def test_what_is_no_pose_graph_is_refused(tmp_path, capsys):
    assert main(["bench", str(tmp_path / "nothing.g2o")]) == 3
    assert main(["bench", str(tmp_path / "data.csv")]) == 3
    assert "expected a pose graph" in capsys.readouterr().err
