"""Bundle adjustment problems in the format of "Bundle Adjustment in the Large" (BAL).

    cameras points observations
    camera point x y                one line an observation [px]
    nine numbers a camera, three a point, each on a line of its own (or several on one)

See `dnls_ros.costs.bal` for what the nine numbers are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnls_ros.costs.bal import bal_reprojection
from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.files import write_text
from dnls_ros.io.number_lines import Line, lines_of
from dnls_ros.lie import Euclidean
from dnls_ros.problem import Problem, Values, Variables

CAMERA = Variables("camera", Euclidean(9))
POINT = Variables("point", Euclidean(3))


@dataclass(frozen=True, eq=False)
class BundleAdjustment:
    """What a BAL file says.

    Attributes:
        cameras: (C, 9) rotation vector [rad], translation [m], focal length [px], k₁, k₂.
        points: (P, 3) [m].
        camera_of: (M,) int64, who saw.
        point_of: (M,) int64, what was seen.
        pixels: (M, 2) where [px].
    """

    cameras: Tensor
    points: Tensor
    camera_of: Tensor
    point_of: Tensor
    pixels: Tensor

    def initial(self) -> Values:
        """Blocks ``camera`` and ``point`` as the file gives them."""
        cameras = CAMERA.values(range(len(self.cameras)), self.cameras[None])
        return cameras.merge(POINT.values(range(len(self.points)), self.points[None]))

    def problem(self) -> Problem:
        """½‖r‖² of all reprojection errors [px]; everything is free, also the gauge."""
        refs = CAMERA[self.camera_of], POINT[self.point_of]
        return Problem(reprojection=bal_reprojection(*refs, self.pixels[None]))

    def moved(self, solved: Values) -> BundleAdjustment:
        """The same observations with other cameras and points."""
        cameras: Any = solved["camera"]
        points: Any = solved["point"]
        return replace(self, cameras=cameras[0], points=points[0])


def read_bal(path: Path | str) -> BundleAdjustment:
    """Read a BAL problem.

    Raises:
        UnreadableInputError: Names file and line: wrong counts, an index that is out of range, a
            number that is not finite, an observation that is there twice, a focal length that is
            not positive, a camera or point that nothing observes.
    """
    lines = lines_of(path)
    head = next(lines, None)
    if head is None:
        raise UnreadableInputError(f"{path}: empty, expected a bundle adjustment problem")
    if len(head.words) != 3:
        head.fail(f"expected the numbers of cameras, points and observations, got {head.words}")
    counts = [head.whole(word, "a count") for word in head.words]
    if min(counts) < 1:
        head.fail(f"cameras, points and observations are {counts}: none may be zero")
    ends, pixels, last = _observations(lines, head, counts)
    wanted = 9 * counts[0] + 3 * counts[1]
    numbers = _parameters(lines, last, wanted, 9 * counts[0])
    cameras, points = np.split(np.array(numbers), [9 * counts[0]])
    _check_seen(path, ends, counts)
    return BundleAdjustment(
        torch.from_numpy(cameras.reshape(-1, 9)),
        torch.from_numpy(points.reshape(-1, 3)),
        torch.from_numpy(ends[:, 0].copy()),
        torch.from_numpy(ends[:, 1].copy()),
        torch.tensor(pixels, dtype=torch.float64),
    )


def _observations(
    lines: Iterator[Line], head: Line, counts: list[int]
) -> tuple[Any, list[list[float]], Line]:
    """(M, 2) camera and point, the pixels, and the last line."""
    seen: dict[tuple[int, int], int] = {}
    pixels: list[list[float]] = []
    line = head
    for number in range(counts[2]):
        following = next(lines, None)
        if following is None:
            line.fail(
                f"the file ends after {number} of {counts[2]} observations: it may be truncated"
            )
        line = following
        if len(line.words) != 4:
            line.fail(f"an observation is 'camera point x y', got {len(line.words)} words")
        pair = (
            line.whole(line.words[0], "a camera's number", counts[0]),
            line.whole(line.words[1], "a point's number", counts[1]),
        )
        if pair in seen:
            line.fail(f"camera {pair[0]} sees point {pair[1]} twice, first in line {seen[pair]}")
        seen[pair] = line.number
        pixels.append(line.reals(2, 2, "a pixel"))
    return np.array(list(seen), dtype=np.int64), pixels, line


def _parameters(lines: Iterator[Line], last: Line, wanted: int, cameras: int) -> list[float]:
    """All numbers behind the observations."""
    numbers: list[float] = []
    for line in lines:
        last = line
        for word in line.words:
            value = line.real(word, "a parameter")
            at = len(numbers)
            if at < cameras and at % 9 == 6 and value <= 0:
                line.fail(f"camera {at // 9} has the focal length {value:g}, expected above 0")
            numbers.append(value)
        if len(numbers) > wanted:
            line.fail(f"more than the {wanted} numbers of cameras and points")
    if len(numbers) < wanted:
        last.fail(
            f"the file ends after {len(numbers)} of {wanted} numbers of cameras and points: it "
            "may be truncated"
        )
    return numbers


def _check_seen(path: Path | str, ends: Any, counts: list[int]) -> None:
    for what, column, count in (("camera", 0, counts[0]), ("point", 1, counts[1])):
        lonely = np.setdiff1d(np.arange(count), ends[:, column])
        if len(lonely):
            raise UnreadableInputError(
                f"{path}: {len(lonely)} of {count} {what}s have no observation, first "
                f"{lonely[:3].tolist()}; remove them"
            )


def write_bal(path: Path | str, bundle: BundleAdjustment) -> None:
    """Write a problem, whole or not at all; numbers keep all their digits."""
    lines = [f"{len(bundle.cameras)} {len(bundle.points)} {len(bundle.pixels)}"]
    ends = zip(bundle.camera_of.tolist(), bundle.point_of.tolist(), strict=True)
    for (camera, point), (x, y) in zip(ends, bundle.pixels.tolist(), strict=True):
        lines.append(f"{camera} {point} {x!r} {y!r}")
    for block in (bundle.cameras, bundle.points):
        lines += [repr(value) for value in block.flatten().tolist()]
    write_text(path, "\n".join(lines) + "\n")
