"""Pose graphs and bundles by ``dnls solve`` against reference values, as a table.

    PYTHONPATH=. python benchmarks/reference_table.py FOLDER [--only NAME …]

FOLDER holds ``g2o/`` and ``bal/``. Pose graphs start from the chordal initialization; where a file
has vertices, the cost there is compared too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.solve_command import markdown, solve

WITHIN = 1e-7
"""Relative, of minima."""


@dataclass(frozen=True)
class Reference:
    """Costs ½ΣrᵀΩr of a pose graph; None = not known, or the file has no vertices.

    Attributes:
        at_file: At the file's vertices.
        at_chordal: At the chordal initialization.
        minimum: At the end.
    """

    at_file: float | None
    at_chordal: float
    minimum: float


GRAPHS = {
    "tinyGrid3D": Reference(143.3178735535, 14.36842873, 9.313909433544),
    "smallGrid3D": Reference(83894.33343553, 785.2401969, 517.9253323604),
    "parking-garage": Reference(8363.60194812, 0.7102298541, 0.6341923996323),
    "sphere2500": Reference(1305657.711806, 839.5702766, 675.7009629259),
    "CSAIL": Reference(None, 10245.59544, 20.27544167204),
    "intel": Reference(276.9978977821, 23.89884549, 22.50211654395),
    "manhattan": Reference(None, 135500.6431, 1774.520535031),
    "M3500": Reference(1317356.272512, 87.95487071, 68.95743912354),
}
GRAPH_HEADER = [
    *("graph", "poses / edges", "at file", "at chordal", "minimum", "reference"),
    *("relative", "iterations", "status"),
]


@dataclass(frozen=True)
class Milestone:
    """A cost ½‖r‖² that a bundle must have come down to.

    Attributes:
        file: Under ``bal/``.
        iterations: Limit on iterations.
        start: Cost before the first.
        at_most: Cost after the last.
    """

    file: str
    iterations: int
    start: float
    at_most: float


MILESTONES = {
    "Ladybug-49, 1 iteration": Milestone(
        "problem-49-7776-pre.txt", 1, 850912.4606808407, 46481.92692588054 * (1 + 1e-10)
    ),
    "Ladybug-49, 6 iterations": Milestone(
        "problem-49-7776-pre.txt", 6, 850912.4606808407, 13388.8
    ),
    "Ladybug-49, the end": Milestone(
        "problem-49-7776-pre.txt", 200, 850912.4606808407, 13344.2436
    ),
    "dubrovnik-3-7, the end": Milestone(
        "gtsam/dubrovnik-3-7-pre.txt", 200, 2764.21998442218, 0.020060046542
    ),
}
BUNDLE_HEADER = ["bundle", "start", "cost", "asked for", "iterations", "status"]


@dataclass(frozen=True)
class Graph:
    """A pose graph's figures: from the chordal start, and the cost at the file's vertices."""

    reference: Reference
    figures: dict[str, Any]
    at_file: float | None

    @property
    def relative(self) -> float:
        """Of the minimum, to the reference."""
        return self.figures["cost_final"] / self.reference.minimum - 1

    @property
    def reached(self) -> bool:
        """Converged at the reference's minimum."""
        return self.figures["converged"] and abs(self.relative) <= WITHIN

    def cells(self, name: str) -> list[str]:
        """The row of the table."""
        f = self.figures
        at_file = "–" if self.at_file is None else f"{self.at_file:.13g}"
        costs = f"{f['cost_initial']:.10g}", f"{f['cost_final']:.13g}"
        return [
            *(name, f"{f['poses']} / {f['edges']}", at_file, *costs),
            *(f"{self.reference.minimum:.13g}", f"{self.relative:.0e}", str(f["iterations"])),
            f["status"].split(":")[0],
        ]


def solved_graph(folder: Path, name: str) -> Graph:
    """``dnls solve --init chordal`` on a graph of ``folder``/g2o."""
    path = folder / "g2o" / f"{name}.g2o"
    reference = GRAPHS[name]
    with tempfile.TemporaryDirectory() as made:
        at_file = None
        if reference.at_file is not None:
            at_file = solve(Path(made), path, "--iterations", 1)["cost_initial"]
        return Graph(reference, solve(Path(made), path, "--init", "chordal"), at_file)


def solved_bundle(folder: Path, milestone: Milestone) -> dict[str, Any]:
    """``dnls solve`` on a file of ``folder``/bal."""
    path = folder / "bal" / milestone.file
    with tempfile.TemporaryDirectory() as made:
        return solve(Path(made), path, "--iterations", milestone.iterations)


def bundle_cells(name: str, milestone: Milestone, figures: dict[str, Any]) -> list[str]:
    """The row of the table."""
    return [
        *(name, f"{figures['cost_initial']:.13g}", f"{figures['cost_final']:.13g}"),
        *(f"≤ {milestone.at_most:.13g}", str(figures["iterations"])),
        figures["status"].split(":")[0],
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints both tables; 1 if a value is not reached."""
    parser = argparse.ArgumentParser(description="pose graphs and bundles by dnls solve")
    parser.add_argument("folder", type=Path, help="holds g2o/ and bal/")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of them")
    options = parser.parse_args(arguments)
    wanted = options.only or [*GRAPHS, *MILESTONES]
    unknown = set(wanted) - {*GRAPHS, *MILESTONES}
    if unknown:
        print(f"reference_table: unknown {sorted(unknown)}", file=sys.stderr)
        return 2
    graphs = {n: solved_graph(options.folder, n) for n in GRAPHS if n in wanted}
    bundles = {n: solved_bundle(options.folder, m) for n, m in MILESTONES.items() if n in wanted}
    missed = [n for n, graph in graphs.items() if not graph.reached]
    missed += [n for n, f in bundles.items() if not f["cost_final"] <= MILESTONES[n].at_most]
    if graphs:
        print(markdown(GRAPH_HEADER, [g.cells(n) for n, g in graphs.items()]), end="\n\n")
    if bundles:
        rows = [bundle_cells(n, MILESTONES[n], f) for n, f in bundles.items()]
        print(markdown(BUNDLE_HEADER, rows), end="\n\n")
    print(f"not reached: {', '.join(missed)}" if missed else "all reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
