"""What of a kinematic tree never changes, and the tables by which its links are evaluated.

Once per robot a `Layout`: names, kinds and parents, hashable. Once per layout and link a `Route`:
which joints lie on the way, at which depth, and which entry of the configuration moves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from dnls_ros.errors import DnlsError

TURNING = ("revolute", "continuous")
SLIDING = ("prismatic",)


@dataclass(frozen=True, eq=False)
class Table:
    """Constant indices or flags as a tensor, kept once per device."""

    values: NDArray[Any]
    _kept: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def on(self, device: torch.device) -> Tensor:
        """The tensor on a device."""
        kept = self._kept.get(device)
        return self._make(device) if kept is None else kept

    def _make(self, device: torch.device) -> Tensor:
        with torch.inference_mode(False):  # else it could not be saved for a later backward pass
            made = torch.tensor(self.values, device=device)
        # Inside a function transform the tensor belongs to the transform and must not outlive it.
        if not is_functorch_wrapped_tensor(made):
            self._kept[device] = made
        return made


@dataclass(frozen=True, eq=False)
class Route:
    """A tree's joints, or those between its root and one link, as tables.

    The route's links are its root and then each joint's child.

    Attributes:
        rows: Which joints of the tree these are; None = all of them.
        columns: (J,) which entry of q moves each of them; n = none.
        turns: (J, 1) which rotate.
        slides: (J, 1) which translate.
        levels: By depth, first those that the root carries: which joints, and the places of the
            links that carry them in the level before; None = the same places.
        order: Where the links lie in the levels one after the other; None = in order.
    """

    rows: Table | None
    columns: Table
    turns: Table
    slides: Table
    levels: tuple[tuple[Table, Table | None], ...]
    order: Table | None


@dataclass(frozen=True)
class Layout:
    """What of a kinematic tree never changes.

    Attributes:
        links: L names: the root, then each joint's child.
        names: J = L − 1 names of joints in depth-first order, fixed and mimic joints too.
        kinds: (J,).
        parents: (J,) positions among the links.
        joints: n names, one for each entry of q, in the same order.
        columns: (J,) which entry of q moves each joint; n = none.
    """

    links: tuple[str, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    parents: tuple[int, ...]
    joints: tuple[str, ...]
    columns: tuple[int, ...]

    def position(self, link: str) -> int:
        """Where a link stands among the links."""
        if link not in self.links:
            raise DnlsError(f"no link '{link}' in the kinematic tree; it has {list(self.links)}")
        return self.links.index(link)

    def way(self, tip: str, base: str) -> list[int]:
        """The joints from one link to another that it carries, in this order."""
        at, start = self.position(tip), self.position(base)
        rows: list[int] = []
        while at > start:
            rows.append(at - 1)
            at = self.parents[at - 1]
        if at != start:
            raise DnlsError(
                f"link '{base}' does not carry '{tip}'; start the chain at one of "
                f"{self._carriers(tip)}"
            )
        return rows[::-1]

    def _carriers(self, link: str) -> list[str]:
        return [self.links[self.parents[k]] for k in self.way(link, self.links[0])]

    def tips(self) -> list[str]:
        """The links that carry no other."""
        inner = set(self.parents)
        return [link for k, link in enumerate(self.links) if k not in inner]

    def part(self, rows: Sequence[int]) -> tuple[Layout, list[int]]:
        """The layout of a way's joints alone, and which entries of q it keeps."""
        used = {self.columns[k] for k in rows} - {len(self.joints)}
        kept = sorted(used)
        place = {column: k for k, column in enumerate([*kept, len(self.joints)])}
        start = self.links[self.parents[rows[0]]]
        layout = Layout(
            (start, *(self.links[k + 1] for k in rows)),
            tuple(self.names[k] for k in rows),
            tuple(self.kinds[k] for k in rows),
            tuple(range(len(rows))),
            tuple(self.joints[k] for k in kept),
            tuple(place[self.columns[k]] for k in rows),
        )
        return layout, kept


@lru_cache(maxsize=1024)
def route(layout: Layout, link: str | None = None) -> Route:
    """The tables of the whole tree, or of the way from its root to a link."""
    rows, parents = list(range(len(layout.names))), layout.parents
    if link is not None:
        rows = layout.way(link, layout.links[0])
    whole = len(rows) == len(layout.names)
    if not whole:
        parents = tuple(range(len(rows)))
    kinds = np.array([layout.kinds[k] for k in rows], np.str_)[:, None]
    levels, order = _levels(parents)
    return Route(
        _table(rows, range(len(layout.names))),
        Table(np.array([layout.columns[k] for k in rows], np.int64)),
        Table(np.isin(kinds, TURNING)),
        Table(np.isin(kinds, SLIDING)),
        levels,
        order,
    )


def _levels(
    parents: Sequence[int],
) -> tuple[tuple[tuple[Table, Table | None], ...], Table | None]:
    """`Route.levels` and `Route.order` of links whose parents are given; link 0 is the root."""
    depth = [0]
    for parent in parents:
        depth.append(depth[parent] + 1)
    levels = [[k for k, d in enumerate(depth) if d == level] for level in range(max(depth) + 1)]
    tables: list[tuple[Table, Table | None]] = []
    for above, links in pairwise(levels):
        rows = [k - 1 for k in links]
        carriers = [above.index(parents[row]) for row in rows]
        tables.append((Table(np.array(rows, np.int64)), _table(carriers, range(len(above)))))
    by_level = [k for links in levels for k in links]
    order = np.argsort(by_level).tolist()
    return tuple(tables), _table(order, range(len(order)))


def _table(places: Sequence[int], all_places: Sequence[int]) -> Table | None:
    """Places to gather from; None if these are all of them in order."""
    same = list(places) == list(all_places)
    return None if same else Table(np.array(places, np.int64))
