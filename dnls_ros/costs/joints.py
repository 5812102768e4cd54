"""Joints as a robot description states them, brought into the order of the tree that they form.

Each joint is given the entry of the configuration that moves it: its own, or its master's if it
mimics. What does not make a tree is refused, by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, get_args

from dnls_ros.costs.layout import Layout
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE3

Kind = Literal["revolute", "continuous", "prismatic", "fixed"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Mimic:
    """A joint's value follows another's: multiplier · (the other's value) + offset."""

    joint: str
    multiplier: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, eq=False)
class Joint:
    """One joint between two links.

    Attributes:
        name: Of the joint.
        kind: ``"revolute"``, ``"continuous"``, ``"prismatic"`` or ``"fixed"``.
        parent: The link that carries it.
        child: The link that it moves; its frame is the joint's.
        parent_T_joint: Where the child's frame lies at the value 0, without batch axes.
        axis: In the joint's frame; any length but zero.
        limits: Lower and upper [rad or m]; needed by revolute and prismatic joints that follow
            no other.
        mimic: Which joint it follows.
    """

    name: str
    kind: Kind
    parent: str
    child: str
    parent_T_joint: SE3
    axis: tuple[float, float, float] = (1.0, 0.0, 0.0)
    limits: tuple[float, float] | None = None
    mimic: Mimic | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            self.fail(f"is of kind '{self.kind}', expected one of {', '.join(KINDS)}")
        placement = self.parent_T_joint.tensor
        if placement.ndim != 1 or not bool(placement.isfinite().all()):
            self.fail(f"has the placement {placement.tolist()}, expected seven finite numbers")
        length = math.hypot(*self.axis)
        if len(self.axis) != 3 or (self.moves and not 0 < length < math.inf):
            self.fail(f"has the axis {self.axis}, expected three finite numbers, not all zero")
        if self.mimic is not None and not (
            math.isfinite(self.mimic.multiplier) and math.isfinite(self.mimic.offset)
        ):
            self.fail(f"has the mimic {self.mimic}, expected finite numbers")
        self._check_limits()

    def _check_limits(self) -> None:
        if self.limits is not None and not self.limits[0] <= self.limits[1]:
            self.fail(f"has the limits {self.limits}, expected lower ≤ upper")
        bounded = self.kind in ("revolute", "prismatic") and self.mimic is None
        if bounded and self.limits is None:
            self.fail(
                f"is {self.kind} and has no limits; give it a lower and an upper one"
                + (", or make it continuous" if self.kind == "revolute" else "")
            )

    @property
    def moves(self) -> bool:
        """Whether it has a value."""
        return self.kind != "fixed"

    @property
    def direction(self) -> tuple[float, ...]:
        """The unit vector along the axis; (1, 0, 0) if there is none."""
        length = math.hypot(*self.axis)
        return tuple(a / length for a in self.axis) if length > 0 else (1.0, 0.0, 0.0)

    def fail(self, text: str) -> NoReturn:
        """Raises the error of this joint."""
        raise DnlsError(f"joint '{self.name}' {text}")


def arrange(joints: Sequence[Joint], links: Iterable[str] | None) -> tuple[Layout, list[Joint]]:
    """The tree's layout, and its joints in depth-first order.

    Raises:
        DnlsError: The joints form no tree, see `KinematicTree.of`.
    """
    ordered = _depth_first(joints, _checked_links(joints, links))
    links_in_order = [ordered[0].parent, *(joint.child for joint in ordered)]
    place = {link: k for k, link in enumerate(links_in_order)}
    free = [joint.name for joint in ordered if joint.moves and joint.mimic is None]
    column = {name: k for k, name in enumerate(free)}
    by_name = {joint.name: joint for joint in ordered}
    return Layout(
        tuple(links_in_order),
        tuple(by_name),
        tuple(joint.kind for joint in ordered),
        tuple(place[joint.parent] for joint in ordered),
        tuple(free),
        tuple(
            column[followed(joint, by_name)[0]] if joint.moves else len(free) for joint in ordered
        ),
    ), ordered


def followed(joint: Joint, by_name: dict[str, Joint]) -> tuple[str, float, float]:
    """Which independent joint a joint follows in the end, with multiplier and offset.

    Raises:
        DnlsError: An unknown or a fixed joint is followed, or joints follow each other.
    """
    multiplier, offset, at = 1.0, 0.0, joint
    for _ in by_name:
        if at.mimic is None:
            return at.name, multiplier, offset
        rule = at.mimic
        if rule.joint not in by_name:
            at.fail(f"mimics '{rule.joint}', which is no joint of the tree: {list(by_name)}")
        offset += multiplier * rule.offset
        multiplier *= rule.multiplier
        at = by_name[rule.joint]
        if not at.moves:
            joint.fail(f"mimics '{at.name}', which is fixed and has no value")
    raise DnlsError(f"joint '{joint.name}' mimics itself by way of other joints")


def _checked_links(joints: Sequence[Joint], links: Iterable[str] | None) -> list[str]:
    """All links; each is the child of at most one joint, and both names of a joint are known."""
    if not joints:
        raise DnlsError("a kinematic tree has at least one joint, got none")
    _check_unique("joint", [joint.name for joint in joints])
    named = [name for joint in joints for name in (joint.parent, joint.child)]
    known = list(dict.fromkeys(named)) if links is None else list(links)
    _check_unique("link", known)
    children: dict[str, str] = {}
    for joint in joints:
        for link in (joint.parent, joint.child):
            if link not in known:
                joint.fail(f"names the link '{link}', which is not among the links {known}")
        if joint.child in children:
            joint.fail(
                f"moves the link '{joint.child}', which joint '{children[joint.child]}' moves "
                "already; a link has one parent"
            )
        children[joint.child] = joint.name
    return known


def _check_unique(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DnlsError(f"two {what}s are called {twice}; names must be unique")


def _depth_first(joints: Sequence[Joint], links: list[str]) -> list[Joint]:
    carried: dict[str, list[Joint]] = {link: [] for link in links}
    for joint in joints:
        carried[joint.parent].append(joint)
    moved = {joint.child for joint in joints}
    roots = [link for link in links if link not in moved]
    if len(roots) > 1:
        raise DnlsError(
            f"the links {roots} are no joint's child, so the tree has {len(roots)} roots, "
            "expected one: join them by fixed joints, or take those without joints out"
        )
    ordered: list[Joint] = []
    waiting = carried[roots[0]][::-1] if roots else []
    while waiting:
        ordered.append(waiting.pop())
        waiting += carried[ordered[-1].child][::-1]
    if len(ordered) < len(joints):
        reached = {joint.name for joint in ordered}
        cycle = [joint.name for joint in joints if joint.name not in reached]
        raise DnlsError(f"the joints {cycle} form a cycle; expected a tree")
    return ordered
