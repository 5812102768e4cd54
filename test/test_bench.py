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
