"""One picture of a solved problem: before beside after."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dnls_ros.io.bal import BundleAdjustment
from dnls_ros.io.nist import Regression
from dnls_ros.io.pose_graph import PoseGraph
from dnls_ros.io.problem_file import ProblemFile
from dnls_ros.problem import Problem, Ref, Values

BEFORE, AFTER, FAINT = "#d55e00", "#0072b2", "#888888"


def solution_figure(before: ProblemFile, after: ProblemFile, title: str) -> Any:
    """A matplotlib figure of first values and solution.

    Pose graphs and cameras are seen along z; of a regression the data, and their residuals.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 6.0), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    panels = figure.subplots(1, 2)
    for panel, one, name, color in (
        (panels[0], before, "start", BEFORE),
        (panels[1], after, "solution", AFTER),
    ):
        content = one.content
        if isinstance(content, PoseGraph):
            _graph(panel, content, color)
        elif isinstance(content, BundleAdjustment):
            _bundle(panel, content, color)
        else:
            _regression(panel, content, color)
        panel.set_title(name)
        panel.grid(color="#e4e4e4", linewidth=0.8)
    return figure


def _graph(panel: Any, graph: PoseGraph, color: str) -> None:
    from matplotlib.collections import LineCollection

    assert graph.poses is not None
    ends: Any = [
        graph.poses.gather(Ref("pose", ids)) for ids in (graph.edges.first, graph.edges.second)
    ]
    lines = torch.stack([end.translation[0, :, :2] for end in ends], 1)
    steps = (graph.edges.second - graph.edges.first).abs() == 1
    for rows, shade, width in ((~steps, FAINT, 0.4), (steps, color, 1.0)):
        panel.add_collection(LineCollection(list(lines[rows].numpy()), colors=shade, lw=width))
    if graph.landmarks is not None:
        points: Any = graph.landmarks["landmark"]
        panel.plot(*points[0, :, :2].T.numpy(), "s", color="#303030", markersize=4)
    panel.autoscale_view()
    panel.set_aspect("equal", adjustable="datalim")
    panel.set(xlabel="x [m]", ylabel="y [m]")


def _bundle(panel: Any, bundle: BundleAdjustment, color: str) -> None:
    from dnls_ros.lie import SO3

    turn = SO3.exp(bundle.cameras[:, :3]).inverse()
    centers = -turn.act(bundle.cameras[:, 3:6])
    panel.plot(*_middle(bundle.points).numpy(), ".", color=FAINT, markersize=1.5)
    panel.plot(*centers[:, :2].T.numpy(), "^", color=color, markersize=5)
    panel.set_aspect("equal", adjustable="datalim")
    panel.set(xlabel="x [m]", ylabel="y [m]")


def _middle(points: Tensor) -> Tensor:
    """x and y of the points, without the few that are far away; (2, P)."""
    low, high = torch.quantile(points, torch.tensor([0.02, 0.98], dtype=points.dtype), 0)
    span = high - low
    return points[((points > low - span) & (points < high + span)).all(1), :2].T


def _regression(panel: Any, regression: Regression, color: str) -> None:
    group: Any = Problem(regression.problem())["model"]
    values: Values = regression.initial(1)
    predicted = regression.y + group.whitened(values)[0, :, 0]
    x, order = regression.x[:, 0], torch.argsort(regression.x[:, 0])
    panel.plot(x.numpy(), regression.y.numpy(), "o", color=FAINT, markersize=4)
    panel.plot(x[order].numpy(), predicted[order].numpy(), color=color, linewidth=1.5)
    panel.set(xlabel=regression.predictors[0], ylabel="y")
