"""Aligning two pictures of a plane: brightness gradients, coarse to fine, with a robust loss.

The homography between two views minimizes Σρ(‖f_B(warp(p)) − f_A(p)‖²) over a grid of points p,
where f is the gradient of the blurred brightness, to which an offset of the light does not matter.
Blur by blur the picture gets sharper. The Welsch loss forgets what is not on the plane. Several
starts are one batch: the identity, and the truth with its corners moved by 20 px, in four ways.

    python examples/homography.py                                      # a generated pair
    python examples/homography.py --images A.png B.png --truth H.txt   # H maps A to B [px]

Without --truth the identity is the only start, and there is no error to report.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.costs import homography, homography_alignment, warped
from dnls_ros.io.plots import COLORS, write_png
from dnls_ros.lie import Euclidean
from dnls_ros.linear import Dense
from dnls_ros.optim import LevenbergMarquardt, minimize
from dnls_ros.problem import FactorGroup, Isotropic, Loss, Problem, Shared, Variables, Welsch

BLURS = (32, 16, 8, 4, 2)  # σ of each level [px]
MOVED = 20.0  # how far each corner of a perturbed start is off [px]

plane = Variables("plane", Euclidean(8))
Picture = NDArray[np.float64]  # brightness (H, W) in [0, 1]


@dataclass(frozen=True)
class Pair:
    """Two pictures, and the parameters (8,) that map A to B if they are known."""

    a: Picture
    b: Picture
    truth: Tensor | None

    @property
    def side(self) -> float:
        """Of A, in pixels: the unit of the costs' points."""
        return float(max(self.a.shape))

    @property
    def corners(self) -> Tensor:
        """Of A, (4, 2) in units of its side."""
        height, width = self.a.shape
        places = torch.tensor([[0, 0], [width, 0], [width, height], [0, height]])
        return places.double() / self.side


def parameters(matrix: Tensor, side: float) -> Tensor:
    """Those (8,) of a homography (3, 3) in pixels; side = 1: in units already."""
    scale = torch.tensor([side, side, 1.0]).double()
    matrix = matrix * scale / scale[:, None]
    return (matrix / matrix[2, 2] - torch.eye(3)).flatten()[:8]


def through(ours: Tensor, theirs: Tensor) -> Tensor:
    """The homography (3, 3) that takes four points (4, 2) to four others."""
    ends = [points.numpy().astype(np.float32) for points in (ours, theirs)]
    return torch.from_numpy(cv2.getPerspectiveTransform(*ends))


def generated(seed: int) -> Pair:
    """A painted wall from two sides; in B the light is another and a target hides a part."""
    draw = np.random.default_rng(seed)
    wall = np.full((720, 960), 0.6)
    for _ in range(400):
        corners = draw.integers((0, 0), (960, 720)) + 40 * draw.normal(size=(3, 2))
        cv2.fillPoly(wall, [corners.astype(np.int32)], draw.uniform(0.1, 0.95), cv2.LINE_AA)
    for size in (2.0, 6.0):
        plaster = cv2.GaussianBlur(draw.normal(size=wall.shape), (0, 0), size)
        wall += 0.03 * plaster / plaster.std()
    a = wall[120:600, 160:800]
    corners = 640 * Pair(a, a, None).corners
    truth = through(corners, corners + torch.from_numpy(draw.uniform(-60, 60, (4, 2))))
    wall_to_b = truth.numpy() @ [[1, 0, -160], [0, 1, -120], [0, 0, 1]]
    b = cv2.warpPerspective(wall, wall_to_b, (640, 480)) * np.linspace(0.7, 1.0, 640) + 0.1
    for radius in range(90, 0, -15):
        cv2.circle(b, (500, 320), radius, 0.2 + 0.7 * (radius % 2), -1, cv2.LINE_AA)
    a, b = (np.clip(one + 0.01 * draw.normal(size=one.shape), 0, 1) for one in (a, b))
    return Pair(a, b, parameters(truth, 640))


def read(images: Sequence[Path], truth: Path | None) -> Pair:
    """Two files of pictures, and one of the nine numbers of a homography in pixels."""
    a, b = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in images)
    if a is None or b is None:
        raise SystemExit(f"{images[a is not None]} is not a picture that OpenCV reads")
    if truth is None:
        return Pair(a / 255, b / 255, None)
    matrix = torch.from_numpy(np.loadtxt(truth).reshape(3, 3))
    return Pair(a / 255, b / 255, parameters(matrix, max(a.shape)))


def starts(pair: Pair, seed: int) -> Tensor:
    """Parameters (B, 1, 8): the identity, and the truth moved in four ways if it is known."""
    found, draw = [torch.zeros(8).double()], torch.Generator().manual_seed(seed)
    for _ in range(4 if pair.truth is not None else 0):
        angle = 2 * torch.pi * torch.rand(4, 1, generator=draw)
        away = MOVED / pair.side * torch.cat([angle.cos(), angle.sin()], 1)
        found.append(parameters(through(pair.corners, warped(pair.truth, pair.corners) + away), 1))
    return torch.stack(found)[:, None]


def features(picture: Picture, blur: float) -> Tensor:
    """The gradient of the blurred brightness, (2, H, W)."""
    smooth = cv2.GaussianBlur(picture, (0, 0), blur)
    return torch.from_numpy(np.stack([cv2.Scharr(smooth, -1, x, 1 - x) for x in (1, 0)]))


def level(pair: Pair, h: Tensor, blur: int, loss: Loss | None) -> FactorGroup:
    """One level's factors on a grid of points, without those that leave B from ``h`` (B, 1, 8)."""
    (height, width), step = pair.a.shape, max(8, blur)
    rows, columns = torch.arange(blur, height - blur, step), torch.arange(blur, width - blur, step)
    row, column = (t.flatten() for t in torch.meshgrid(rows, columns, indexing="ij"))
    points = torch.stack([column, row], 1).double() / pair.side
    place = pair.side * warped(h[:, 0], points)  # (B, M, 2)
    inner = torch.tensor(pair.b.shape[::-1]) - 1 - blur

    def group(sigma: float) -> FactorGroup:
        return homography_alignment(
            plane[torch.zeros(len(points), dtype=torch.int64)],
            points[None, :, None],
            features(pair.a, blur)[:, row, column].T[None, :, None],
            Shared(features(pair.b, blur)),
            Shared(torch.tensor([pair.side]).double()),
            noise=Isotropic(sigma),
            loss=loss,
            mask=((place > blur) & (place < inner)).all(-1),
        )

    one = group(1.0)
    residuals = one.whitened(plane.values([0], h))[one.live]
    return group(1.4826 * float(residuals.abs().median()))


def aligned(pair: Pair, h: Tensor, loss: Loss | None) -> tuple[Tensor, FactorGroup]:
    """Parameters (B, 1, 8) from starts ``h``, and the last level's factors."""
    for blur in BLURS:
        group, start = level(pair, h, blur, loss), plane.values([0], h)
        found = minimize(Problem(points=group), start, LevenbergMarquardt(), Dense())
        h = found.values["plane"]
    return h, group


def corner_errors(pair: Pair, h: Tensor) -> Tensor:
    """Mean distance of A's four corners from where they belong in B, (B,) [px]."""
    away = warped(h[:, 0], pair.corners) - warped(pair.truth, pair.corners)
    return pair.side * away.norm(dim=-1).mean(-1)


def weights(group: FactorGroup, h: Tensor) -> Tensor:
    """How much the loss believes each point (B, M), from 0 to 1; NaN where it is not seen."""
    every = group.linearize(plane.values([0], h)).weight
    return every.where(group.live, torch.nan)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Aligns, draws; returns the figures that it prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--images", type=Path, nargs=2, metavar=("A", "B"))
    parser.add_argument("--truth", type=Path, help="file of the homography from A to B")
    options = parser.parse_args(argv)
    pair = read(options.images, options.truth) if options.images else generated(seed=3)
    start = starts(pair, seed=0)
    found, group = aligned(pair, start, Welsch(3.0))
    believed = weights(group, found)
    write_png(options.out / "homography.png", picture(pair, start, found, group))
    figures = {"weight of a point, mean": float(believed.nanmean())}
    if pair.truth is not None:
        plain, _ = aligned(pair, start, None)
        for name, h in {"start": start, "least squares": plain, "Welsch": found}.items():
            identity, *moved = corner_errors(pair, h).tolist()
            figures[f"corners off, identity, {name} [px]"] = identity
            figures[f"corners off, moved, {name} [px]"] = max(moved)
    for name, value in figures.items():
        print(f"{name:44}{value:8.2f}")
    return figures


def overlay(pair: Pair, h: Tensor) -> Picture:
    """A in red and B, brought back onto it, in cyan: grey where they agree, (H, W, 3)."""
    scale = np.diag([pair.side, pair.side, 1.0])
    matrix = scale @ homography(h).numpy() @ np.linalg.inv(scale)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    b = cv2.warpPerspective(pair.b, matrix, pair.a.shape[::-1], flags=flags)
    b = pair.a.mean() + (b - pair.b.mean()) * pair.a.std() / pair.b.std()
    return np.stack([pair.a, b, b], -1).clip(0, 1)


def picture(pair: Pair, start: Tensor, found: Tensor, group: FactorGroup) -> Figure:
    """B with A's frame before and after, the weights of A's points, and both overlays."""
    figure = Figure(figsize=(10.0, 8.0), layout="constrained")
    (frames, points), overlays = panels = figure.subplots(2, 2)
    frames.imshow(pair.b, cmap="gray", vmin=0, vmax=1)
    for h, color, name in ((start[-4:], COLORS[0], "starts"), (found[-1:], "#00c8ff", "found")):
        corners = pair.side * warped(h[:, 0], pair.corners)[:, [0, 1, 2, 3, 0]]
        frames.plot(*corners.permute(2, 1, 0), color=color, lw=1.8)[0].set_label(name)
    frames.legend(loc="lower right")
    frames.set_title("B, and A's frame in it")
    points.imshow(pair.a, cmap="gray", vmin=0, vmax=1, alpha=0.4)
    place, believed = pair.side * group.arguments[1][0, :, 0], weights(group, found)[-1]
    dots = points.scatter(*place.T, c=believed, s=7, cmap="RdYlBu", vmin=0, vmax=1)
    figure.colorbar(dots, ax=points, shrink=0.8, label="weight")
    points.set_title("how much A's points are believed")
    for panel, h, name in zip(overlays, (start, found), ("before", "after"), strict=True):
        panel.imshow(overlay(pair, h[-1, 0]))
        known = pair.truth is not None
        off = f": corners off by {corner_errors(pair, h)[-1]:.2f} px" if known else ""
        panel.set_title(name + off)
    for panel in panels.flat:
        panel.set(xlabel="column [px]", ylabel="row [px]")
    return figure


if __name__ == "__main__":
    main()
