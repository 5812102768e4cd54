"""The examples: what they learn and find is right, and their pictures are drawn."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.image import imread, imsave

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
Run = Callable[..., dict[str, float]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a script; its table has all figures, its picture shows something."""

    def example(name: str, *arguments: object) -> dict[str, float]:
        script = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
        figures = script["main"]([*map(str, arguments), "--out", str(tmp_path)])
        rows = capsys.readouterr().out.splitlines()
        assert all(row.startswith(key) for row, key in zip(rows, figures, strict=True))
        picture = imread(tmp_path / f"{name}.png")[..., :3]
        assert min(picture.shape[:2]) > 500
        assert picture.std() > 0.1
        return figures

    return example


def test_an_exponent_and_a_noise_are_learned_through_the_fits(run: Run) -> None:
    found = run("curve_fitting")
    for parameter in ("p", "ratio"):
        implicit = found[f"dRMSE/d{parameter}, implicit"]
        numeric = found[f"dRMSE/d{parameter}, central difference"]
        assert implicit == pytest.approx(numeric, rel=1e-6)
    assert found["held-out RMSE before [V]"] > 0.2
    assert found["held-out RMSE learned [V]"] < 1.01 * found["held-out RMSE of the truth [V]"]
    assert found["exponent p"] == pytest.approx(1.7, abs=0.02)
    assert found["ratio of the noises"] == pytest.approx(6.0, abs=1.0)


def test_a_learned_radius_serves_graphs_that_were_not_used(run: Run) -> None:
    found = run("pose_graph_learned_loss")
    assert found["ATE, least squares [m]"] > 0.45
    assert found["ATE, learned radius [m]"] < 0.4 * found["ATE, initial radius [m]"]
    assert found["ATE, learned radius [m]"] < 0.15
    assert 4.0 < found["learned radius [σ]"] < 12.0


def test_a_painted_wall_is_aligned_from_every_start(run: Run) -> None:
    found = run("homography")
    assert found["corners off, moved, start [px]"] == pytest.approx(20.0, abs=1e-2)
    for start in ("identity", "moved"):
        assert found[f"corners off, {start}, Welsch [px]"] < 0.2
        assert found[f"corners off, {start}, least squares [px]"] > 0.4  # the target pulls


def test_two_photographs_of_a_wall_are_aligned_to_half_a_pixel(
    run: Run, dnls_data: Callable[[str], Path]
) -> None:
    a, b, truth = (dnls_data(f"homography/graf/{n}") for n in ("img1.png", "img2.png", "H1to2p"))
    found = run("homography", "--images", a, b, "--truth", truth)
    assert found["corners off, identity, start [px]"] > 170
    for start in ("identity", "moved"):
        assert found[f"corners off, {start}, Welsch [px]"] < 0.6
        assert found[f"corners off, {start}, least squares [px]"] > 0.8


def test_pictures_without_truth_are_aligned_from_the_identity(run: Run, tmp_path: Path) -> None:
    pair = runpy.run_path(str(ROOT / "examples" / "homography.py"))["generated"](seed=3)
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, brightness in zip(files, (pair.a, pair.b), strict=True):
        imsave(path, brightness, cmap="gray", vmin=0, vmax=1)
    found = run("homography", "--images", *files)
    assert list(found) == ["weight of a point, mean"]
    assert 0.6 < found["weight of a point, mean"] < 0.8  # what the target hides is not believed


def test_a_planner_is_taught_what_the_demonstrator_wants(run: Run) -> None:
    found = run("motion_planning")
    assert found["least clearance, straight line [m]"] < -0.5
    assert found["least clearance, plan before learning [m]"] < 0.0
    assert found["least clearance, plan after learning [m]"] > 0.3
    assert found["cost, plan"] < 0.05 * found["cost, straight line"]
    assert found["RMS distance, plan before learning [m]"] > 0.3
    assert found["RMS distance, plan after learning [m]"] < 0.03
    assert found["learned margin [m]"] == pytest.approx(0.4, abs=0.03)


def test_a_planner_is_taught_by_the_expert_of_the_tarpit(
    run: Run, dnls_data: Callable[[str], Path]
) -> None:
    folder = "planning/theseus/motion_planning_2d"
    sdf = dnls_data(f"{folder}/im_sdf/tarpit/0_sdf.npy")
    expert = dnls_data(f"{folder}/opt_trajs_gpmp2/tarpit/env_0_prob_0.npz")
    found = run("motion_planning", "--data", sdf, expert)
    assert found["least clearance, straight line [m]"] < -0.3
    assert found["least clearance, plan before learning [m]"] < 0.1
    expected = found["least clearance, demonstration [m]"]
    assert expected == pytest.approx(0.345, abs=0.01)
    assert found["least clearance, plan after learning [m]"] > expected
    smooth = found["RMS acceleration, demonstration [m/s²]"]
    assert found["RMS acceleration, plan after learning [m/s²]"] < 1.15 * smooth
    assert found["RMS distance, plan before learning [m]"] > 0.25
    assert found["RMS distance, plan after learning [m]"] < 0.11


def test_a_picture_that_cannot_be_read_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(SystemExit, match=r"a\.png is not a picture"):
        run("homography", "--images", tmp_path / "a.png", tmp_path / "b.png")


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_example_has_its_command_and_its_picture_in_the_documentation(name: str) -> None:
    page = (ROOT / "docs" / "examples.md").read_text()
    assert f"python examples/{name}.py" in page
    (picture,) = re.findall(rf"\]\((examples/{name}\.png)\)", page)
    assert (ROOT / "docs" / picture).is_file()
