"""One picture of a run: the path from above, errors over time with their 3σ bands, NEES.

Figures are made of matplotlib objects without pyplot, so that nothing global changes and no window
is needed; equal data give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import chi2

from dnls_ros.io.evaluation import ErrorSeries, Evaluation
from dnls_ros.io.files import atomic_path

Array = NDArray[np.float64]

TRUTH_COLOR = "#303030"
BAND_COLOR = "#9ecae1"
COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")  # distinct for colour-blind readers too
_AXES = {0: "forward", 1: "left", 2: "up", 5: "yaw"}
_GRID = {"color": "#e4e4e4", "linewidth": 0.8}


def overview(
    evaluations: Mapping[str, Evaluation], title: str, landmarks: Array | None = None
) -> Figure:
    """The path from above beside errors over time.

    Args:
        evaluations: By name, in drawing order; bands and NEES are of the last that has
            covariances.
        title: Above the figure.
        landmarks: Positions (k, 2) or (k, 3) to mark [m].
    """
    known = [name for name, one in evaluations.items() if one.series.sigmas is not None]
    axes = _axes_of(evaluations[known[-1]].series) if known else []
    rows = 1 + len(axes) + bool(known)
    figure = Figure(figsize=(14.0, max(6.0, 0.8 + 1.5 * rows)), layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold")
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.0, 1.1])
    left, right = halves
    colors = dict(zip(evaluations, _colors(len(evaluations)), strict=True))
    _draw_path(left.subplots(), evaluations, colors, landmarks)
    panels = np.atleast_1d(right.subplots(rows, 1, sharex=True))
    _draw_distance(panels[0], evaluations, colors)
    for panel, axis in zip(panels[1:], axes, strict=False):
        _draw_error(panel, evaluations[known[-1]].series, axis, colors[known[-1]])
    if known:
        _draw_nees(panels[-1], evaluations[known[-1]], colors[known[-1]])
    panels[-1].set_xlabel("time [s]")
    return figure


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG, without any mark of program or time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def write_png(path: Path | str, figure: Figure) -> None:
    """Writes the figure as a PNG file."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(png(figure))


def _colors(count: int) -> list[str]:
    """The last one is always blue: it is what the picture is about."""
    order = [COLORS[1], COLORS[0], *COLORS[2:]]
    return [order[k % len(order)] for k in range(count)][::-1]


def _axes_of(series: ErrorSeries) -> list[int]:
    """Planar estimates show three axes, spatial ones also the height."""
    assert series.sigmas is not None
    return [axis for axis in _AXES if np.all(series.sigmas[:, axis] > 0)]


def _seconds(series: ErrorSeries, start: int) -> Array:
    return np.multiply(series.stamps - start, 1e-9, dtype=np.float64)


def _start(evaluations: Mapping[str, Evaluation]) -> int:
    return min(int(one.series.stamps[0]) for one in evaluations.values())


def _draw_path(
    panel: Any,
    evaluations: Mapping[str, Evaluation],
    colors: Mapping[str, str],
    landmarks: Array | None,
) -> None:
    reference = max((one.series.reference for one in evaluations.values()), key=len)
    panel.plot(*reference[:, :2].T, color=TRUTH_COLOR, linewidth=3.0, alpha=0.35, label="truth")
    panel.plot(*reference[0, :2], "o", color=TRUTH_COLOR, markersize=7, label="start")
    for name, one in evaluations.items():
        panel.plot(*one.series.estimate[:, :2].T, color=colors[name], linewidth=1.3, label=name)
    if landmarks is not None and len(landmarks):
        panel.plot(*landmarks[:, :2].T, "s", color="#777777", markersize=5, label="landmarks")
    panel.set_aspect("equal", adjustable="box")
    panel.set(xlabel="x [m]", ylabel="y [m]", title="path from above")
    panel.grid(**_GRID)
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=3, frameon=False)


def _draw_distance(
    panel: Any, evaluations: Mapping[str, Evaluation], colors: Mapping[str, str]
) -> None:
    start, lowest = _start(evaluations), np.inf
    for name, one in evaluations.items():
        series = one.series
        distance = np.linalg.norm(series.estimate[:, :3] - series.reference[:, :3], axis=1)
        label = f"{name}: {one.translation.rmse:.3g} m RMSE"
        lowest = min(lowest, float(np.quantile(distance, 0.02)))
        shown = np.maximum(distance, 1e-9)  # a logarithmic axis has no zero
        panel.plot(_seconds(series, start), shown, color=colors[name], linewidth=1.0, label=label)
    panel.set_yscale("log")
    panel.set_ylim(max(lowest, 1e-9), 20 * panel.get_ylim()[1])  # room for the legend
    panel.set(ylabel="position\nerror [m]")
    panel.grid(**_GRID)
    panel.legend(loc="upper left", fontsize=8, ncols=2)


def _draw_error(panel: Any, series: ErrorSeries, axis: int, color: str) -> None:
    assert series.sigmas is not None
    seconds = _seconds(series, int(series.stamps[0]))
    unit, factor = _unit(axis, 3 * float(np.median(series.sigmas[:, axis])))
    band, error = 3 * factor * series.sigmas[:, axis], factor * series.errors[:, axis]
    panel.fill_between(seconds, -band, band, color=BAND_COLOR, alpha=0.6, linewidth=0, label="3σ")
    panel.plot(seconds, error, color=color, linewidth=0.9)
    reach = 1.25 * max(float(np.quantile(band, 0.98)), float(np.quantile(np.abs(error), 0.995)))
    panel.set(ylabel=f"{_AXES[axis]}\n[{unit}]", ylim=(-reach, reach))
    panel.grid(**_GRID)
    panel.legend(loc="upper right", fontsize=8)


def _unit(axis: int, size: float) -> tuple[str, float]:
    unit = "rad" if axis >= 3 else "m"
    return (f"m{unit}", 1e3) if size < 0.2 else (unit, 1.0)


def _draw_nees(panel: Any, evaluation: Evaluation, color: str) -> None:
    series, result = evaluation.series, evaluation.consistency
    assert series.nees is not None
    assert result is not None
    seconds = _seconds(series, int(series.stamps[0]))
    low, high = chi2.ppf([0.025, 0.975], result.dof) / result.dof
    panel.axhspan(low, high, color=BAND_COLOR, alpha=0.4, linewidth=0, label="95 % of one pose")
    panel.plot(seconds, series.nees, color=color, linewidth=0.8)
    verdict = "inside" if result.inside else "outside"
    label = (
        f"mean {result.mean:.2f}, {verdict} [{result.interval[0]:.2f}, {result.interval[1]:.2f}]"
    )
    panel.axhline(result.mean, color=TRUTH_COLOR, linewidth=1.2, linestyle="--", label=label)
    panel.set(ylabel="NEES\nper dof", ylim=(0.0, max(1.3 * high, 2.0 * result.mean)))
    panel.grid(**_GRID)
    panel.legend(loc="upper right", fontsize=8, ncols=2)
