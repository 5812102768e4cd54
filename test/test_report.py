"""Pictures and pages of a run: complete, self-contained, the same every time."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from dnls_ros.io.evaluation import Evaluation, EvaluationOptions, evaluate
from dnls_ros.io.plots import overview, png, write_png
from dnls_ros.io.recording import odometry_trajectory, truth_trajectory
from dnls_ros.io.report import (
    Picture,
    Table,
    figures_table,
    parameters_table,
    write_report,
)
from dnls_ros.io.scene import load_scene
from dnls_ros.io.simulate import simulate
from dnls_ros.io.trajectory import Trajectory


@pytest.fixture(scope="module")
def evaluations() -> dict[str, Evaluation]:
    run = simulate(0, 10.0, load_scene())
    truth, odometry = truth_trajectory(run), odometry_trajectory(run)
    poses = truth.at(odometry.stamps)
    poses[:, :2] += np.random.default_rng(0).normal(0.0, 0.01, (len(poses), 2))
    covariances = np.zeros((len(poses), 6, 6))
    covariances[:, [0, 1, 5], [0, 1, 5]] = [1e-4, 1e-4, 1e-6]
    estimate = Trajectory(odometry.stamps, poses, covariances)
    return {
        "odometry alone": evaluate(odometry, truth),
        "estimate": evaluate(estimate, truth),
    }


def panels(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.get_axes()]


def test_a_planar_estimate_has_a_panel_for_each_axis_and_one_for_its_nees(
    evaluations: dict[str, Evaluation],
) -> None:
    labels = panels(overview(evaluations, "a run"))
    assert labels == [
        "y [m]",
        "position\nerror [m]",
        "forward\n[mm]",
        "left\n[mm]",
        "yaw\n[mrad]",
        "NEES\nper dof",
    ]


def test_without_covariances_there_are_path_and_distance_only(
    evaluations: dict[str, Evaluation],
) -> None:
    alone = {"odometry": evaluations["odometry alone"]}
    assert panels(overview(alone, "a run")) == ["y [m]", "position\nerror [m]"]


def test_the_path_shows_truth_estimates_and_landmarks(evaluations: dict[str, Evaluation]) -> None:
    landmarks = np.array([[1.0, 2.0, 0.5], [3.0, 4.0, 0.5]])
    path = overview(evaluations, "a run", landmarks).get_axes()[0]
    lines = {str(line.get_label()): line.get_xydata() for line in path.get_lines()}
    assert list(lines) == ["truth", "start", "odometry alone", "estimate", "landmarks"]
    series = evaluations["estimate"].series
    np.testing.assert_array_equal(lines["estimate"], series.estimate[:, :2])
    np.testing.assert_array_equal(lines["truth"], series.reference[:, :2])
    np.testing.assert_array_equal(lines["landmarks"], landmarks[:, :2])


def test_the_band_is_three_claimed_sigmas_wide(evaluations: dict[str, Evaluation]) -> None:
    forward = overview(evaluations, "a run").get_axes()[2]
    band = forward.collections[0].get_paths()[0].vertices
    assert np.max(np.abs(np.asarray(band)[:, 1])) == pytest.approx(30.0)  # 3 · 0.01 m in mm
    line = np.asarray(forward.get_lines()[0].get_ydata())
    np.testing.assert_allclose(line, 1e3 * evaluations["estimate"].series.errors[:, 0])


def test_equal_runs_give_equal_pictures(
    evaluations: dict[str, Evaluation], tmp_path: Path
) -> None:
    first = png(overview(evaluations, "a run"))
    write_png(tmp_path / "plot.png", overview(evaluations, "a run"))
    assert (tmp_path / "plot.png").read_bytes() == first
    for mark in (b"tIME", b"tEXt", b"Software"):
        assert mark not in first
    image = cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert min(image.shape[:2]) > 600
    assert np.std(image) > 10


class Page(HTMLParser):
    """Collects what a page refers to, its rows and whether its elements close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(
    evaluations: dict[str, Evaluation], tmp_path: Path
) -> None:
    picture = Picture("path & errors", png(overview(evaluations, "a run")))
    parts = [figures_table(evaluations), picture, parameters_table({"seed": 0, "rate": 20.0})]
    write_report(tmp_path / "a.html", "A <run>", "What it is.", parts)
    write_report(tmp_path / "b.html", "A <run>", "What it is.", parts)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    (source,) = page.links
    head, data = source.split(",", 1)
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == picture.png
    assert not re.search(r"https?://|<script|@import|url\(", text)
    assert "A &lt;run&gt;" in text
    assert ["seed", "0"] in page.rows


def test_the_table_gives_the_figures_of_every_estimate(
    evaluations: dict[str, Evaluation], tmp_path: Path
) -> None:
    table = figures_table(evaluations)
    assert list(table.columns) == ["", "odometry alone", "estimate"]
    cells = {row[0]: row[1:] for row in table.rows}
    for k, one in enumerate(evaluations.values()):
        assert float(cells["ATE, RMSE [m]"][k]) == pytest.approx(one.translation.rmse, abs=5e-5)
        assert float(cells["yaw error, RMSE [mrad]"][k]) == pytest.approx(
            1e3 * one.yaw.rmse, abs=5e-3
        )
    result = evaluations["estimate"].consistency
    assert result is not None
    nees = cells["NEES per degree of freedom"]
    assert nees[0] == "–"
    assert nees[1].startswith(f"{result.mean:.2f} (")
    write_report(tmp_path / "page.html", "t", "s", [table])
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.rows[1:] == [list(row) for row in table.rows]


def test_a_distance_that_no_pair_has_leaves_a_dash(evaluations: dict[str, Evaluation]) -> None:
    series = evaluations["estimate"].series
    short = Trajectory(series.stamps[:5], series.estimate[:5])
    truth = Trajectory(series.stamps[:5], series.reference[:5])
    result = evaluate(short, truth, EvaluationOptions(rpe_delta=1.0))
    table = figures_table({"short": result})
    assert ["RPE over 1 s, RMSE [m, mrad]", "–"] in [list(row) for row in table.rows]


def test_text_in_tables_is_escaped(tmp_path: Path) -> None:
    write_report(tmp_path / "x.html", "t", "s", [Table("<b>", ["a&b"], [["<i>", "1 < 2"]])])
    page = Page((tmp_path / "x.html").read_text(encoding="utf-8"))
    assert page.rows == [["a&b"], ["<i>", "1 < 2"]]
