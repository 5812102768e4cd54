"""Full smoothing: everything that ever left the window, solved once more together.

With an archive the factors that marginalization absorbs are kept too, and the states with their
last estimates. The whole problem, no prior in it, then starts from an excellent point; what was
gated stays gated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from dnls_ros.linear import LinearSolver
from dnls_ros.optim import LevenbergMarquardt, Solution, Tolerances, minimize
from dnls_ros.problem import FactorGroup, Problem, Values
from dnls_ros.problem.variables import on_storage
from dnls_ros.window.images import Camera
from dnls_ros.window.late import late_factors
from dnls_ros.window.marginalize import Marginalized
from dnls_ros.window.state import LandmarkRow, State

ITERATIONS = 100


class Archive:
    """Collects what leaves the window."""

    def __init__(self) -> None:
        self._groups: dict[str, list[FactorGroup]] = {}
        self._values: list[Values] = []
        self._rows: list[LandmarkRow] = []

    def add(self, left: Marginalized) -> None:
        """Keeps the factors and variables of one marginalization."""
        self.add_groups(left.removed)
        self._values.append(left.removed_values)

    def add_groups(self, groups: Mapping[str, FactorGroup]) -> None:
        """Keeps factors."""
        for name, group in groups.items():
            self._groups.setdefault(name, []).append(group)

    def add_rows(self, rows: Iterable[LandmarkRow]) -> None:
        """Keeps observations of landmarks that were not placed before their states left."""
        self._rows += rows

    def _problem(self, more: Iterable[Mapping[str, FactorGroup]]) -> Problem:
        """The archive and other factors as one problem."""
        parts = {name: list(kept) for name, kept in self._groups.items()}
        for groups in more:
            for name, group in groups.items():
                parts.setdefault(name, []).append(group)
        return Problem({name: _joined(kept) for name, kept in parts.items()})

    def smooth(
        self,
        groups: Mapping[str, FactorGroup],
        state: State,
        cameras: Mapping[str, Camera],
        linear: LinearSolver,
    ) -> Solution:
        """Solves everything together.

        Args:
            groups: The window's factors, those between its states included.
            state: The window.
            cameras: Landmarks sensors: their waiting observations become factors now.
            linear: The linear solver.
        """
        everything = _merged([*self._values, state.values])
        late, values = late_factors([*self._rows, *state.pending_rows], everything, cameras)
        problem = self._problem([groups, late])
        stop = Tolerances(cost=1e-9, step=1e-8, gradient=1e-8, iterations=ITERATIONS)
        return minimize(problem, values, LevenbergMarquardt(), linear, stop)


def _joined(groups: list[FactorGroup]) -> FactorGroup:
    """All groups as one, joined in pairs so that rows are copied log₂(count) times only."""
    while len(groups) > 1:
        pairs = [groups[k : k + 2] for k in range(0, len(groups), 2)]
        groups = [pair[0].concat(pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
    return groups[0]


def _merged(parts: list[Values]) -> Values:
    """The latest value of every variable."""
    names = list(dict.fromkeys(name for values in reversed(parts) for name in values))
    blocks, ids = {}, {}
    for name in names:
        mine = [(v.ids[name], v[name]) for v in parts if name in v]
        all_ids = torch.cat([i for i, _ in mine])
        order = torch.argsort(all_ids, stable=True)  # of equal ids the latest part comes last
        ordered = all_ids[order]
        last = torch.cat([ordered[1:] != ordered[:-1], torch.tensor([True])])
        keep = order[last]
        tensors = torch.cat([e if isinstance(e, torch.Tensor) else e.tensor for _, e in mine], 1)
        blocks[name] = on_storage(mine[0][1], lambda _, t=tensors, k=keep: t[:, k])
        ids[name] = ordered[last]
    return Values(blocks, ids)
