"""Forward kinematics of trees of joints, with analytic Jacobians.

A link's pose is the product along the way from the root,

    root_T_link(q) = Π parent_T_joint · Exp(Sᵢ qᵢ),   Sᵢ = (0, a) of a turning joint, (a, 0) of a
                                                      sliding one, a its unit axis

and moving joint i moves everything behind it, x Exp(J_b dq) with the columns Ad(x⁻¹ xᵢ) Sᵢ (Lynch
and Park, *Modern Robotics*, 2017, §5.1; their twists have ω first). All joints of all instances
are evaluated at once; the products are formed level by level from the root, those of one depth
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.costs.joints import Joint, arrange, followed
from dnls_ros.costs.layout import Layout, Route, Table, route
from dnls_ros.errors import DnlsError
from dnls_ros.lie import SE3
from dnls_ros.lie.series import Constant, cross
from dnls_ros.lie.so3 import conjugate, rotate

_IDENTITY = Constant([list(SE3.identity_storage)])
_LEAVES = ("placements", "axes", "multiplier", "offset", "lower", "upper")


@dataclass(frozen=True, eq=False)
class KinematicTree:
    """Links that joints connect, as tensors; a pytree, so that it can be moved and calibrated.

    A configuration q (…, n) has one entry for each joint that moves and follows no other, in the
    order of `joints` [rad or m]. Leading axes of q and of the tree broadcast.

    Attributes:
        placements: (…, J) parent_T_joint, where each joint's child lies at the value 0.
        axes: (…, J, 3) unit vectors in the joints' frames.
        multiplier: (…, J) a joint's value is multiplier · qₖ + offset; 1 unless it mimics.
        offset: (…, J) [rad or m]; 0 unless it mimics or its encoder is off.
        lower: (…, n) limits of q [rad or m]; −inf of continuous joints. Those of mimic joints are
            not looked at.
        upper: (…, n); inf of continuous joints.
        layout: Names, kinds and parents of the joints.
    """

    placements: SE3
    axes: Tensor
    multiplier: Tensor
    offset: Tensor
    lower: Tensor
    upper: Tensor
    layout: Layout

    def __post_init__(self) -> None:
        j, n = len(self.layout.names), len(self.joints)
        shapes = ((j, 7), (j, 3), (j,), (j,), (n,), (n,))
        tensors = [self.placements.tensor, *(getattr(self, name) for name in _LEAVES[1:])]
        for name, tensor, shape in zip(_LEAVES, tensors, shapes, strict=True):
            if tuple(tensor.shape[-len(shape) :]) != shape or tensor.dtype != self.axes.dtype:
                raise DnlsError(
                    f"kinematic tree: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}, "
                    f"expected {self.axes.dtype} as the axes, (…, {', '.join(map(str, shape))})"
                )

    @classmethod
    def of(
        cls,
        joints: Sequence[Joint],
        links: Iterable[str] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> KinematicTree:
        """The tree that joints form.

        Args:
            joints: In any order; siblings keep it.
            links: All links, so that a misspelt one is found; None: those that joints name.
            dtype: Of the tensors.

        Raises:
            DnlsError: Names that repeat, a link that is unknown or has two parents, several roots,
                a cycle, or a mimic of an unknown, a fixed or its own joint.
        """
        layout, ordered = arrange(joints, links)
        by_name = {joint.name: joint for joint in ordered}
        rules = [followed(joint, by_name)[1:] if joint.moves else (1.0, 0.0) for joint in ordered]
        limits = [_limits(by_name[name]) for name in layout.joints]

        def tensor(rows: Sequence[object], *shape: int) -> Tensor:
            return torch.tensor(rows, dtype=dtype).reshape(*shape)

        multiplier, offset = tensor(rules, -1, 2).unbind(-1)
        lower, upper = tensor(limits, -1, 2).unbind(-1)
        placements = torch.stack([joint.parent_T_joint.tensor.to(dtype) for joint in ordered])
        axes = tensor([joint.direction for joint in ordered], -1, 3)
        return cls(SE3(placements), axes, multiplier, offset, lower, upper, layout)

    @property
    def links(self) -> tuple[str, ...]:
        """Names of the L links, the root first."""
        return self.layout.links

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the n joints whose values are the configuration."""
        return self.layout.joints

    @property
    def root(self) -> str:
        """The link in whose frame poses are."""
        return self.layout.links[0]

    @property
    def tip(self) -> str:
        """The last link of a chain.

        Raises:
            DnlsError: The tree has branches.
        """
        tips = self.layout.tips()
        if len(tips) != 1:
            raise DnlsError(
                f"the kinematic tree has the tips {tips}: name a link, or take a chain"
            )
        return tips[0]

    def chain(self, tip: str, base: str | None = None) -> KinematicTree:
        """Only the joints from ``base`` (None: the root) to ``tip``, with their part of q.

        Raises:
            DnlsError: A link is unknown, or ``base`` does not carry ``tip``.
        """
        rows = self.layout.way(tip, base or self.root)
        if not rows:
            raise DnlsError(f"the chain from '{tip}' to itself has no joint")
        layout, kept = self.layout.part(rows)
        return KinematicTree(
            self.placements[..., rows],
            self.axes[..., rows, :],
            self.multiplier[..., rows],
            self.offset[..., rows],
            self.lower[..., kept],
            self.upper[..., kept],
            layout,
        )

    def poses(self, q: Tensor) -> SE3:
        """All links' poses root_T_link (…, L) in the order of `links`."""
        return self._poses(q, route(self.layout))

    def pose(self, q: Tensor, link: str | None = None) -> SE3:
        """The pose root_T_link (…) of one link; None: of the tip."""
        return self._poses(q, self._way(link))[..., -1]

    def body_jacobian(self, q: Tensor, link: str | None = None) -> Tensor:
        """J_b (…, 6, n), x(q + dq) = x(q) · Exp(J_b dq) to first order: (v, ω) in link axes."""
        return self.linearize(q, link)[1]

    def spatial_jacobian(self, q: Tensor, link: str | None = None) -> Tensor:
        """J_s = Ad(x) J_b (…, 6, n), x(q + dq) = Exp(J_s dq) · x(q): about the root's origin."""
        way = self._way(link)
        poses = self._poses(q, way)
        origin = poses.translation[..., :1, :]  # the root's
        return self._collect(self._twists(poses, origin, way), way)

    def linearize(self, q: Tensor, link: str | None = None) -> tuple[SE3, Tensor]:
        """`pose` and `body_jacobian`, which share most of their work."""
        way = self._way(link)
        poses = self._poses(q, way)
        tip = poses[..., -1]
        twists = self._twists(poses, tip.translation.unsqueeze(-2), way)
        back = conjugate(tip.tensor[..., 3:])[..., None, None, :]
        return tip, self._collect(rotate(back, twists), way)

    def _way(self, link: str | None) -> Route:
        return route(self.layout, self.tip if link is None else link)

    def _poses(self, q: Tensor, way: Route) -> SE3:
        """The poses of a route's links, the root's first."""
        steps = SE3.product(_picked(self.placements.tensor, way.rows, -2), self._motions(q, way))
        levels = [_IDENTITY.like(steps).expand(*steps.shape[:-2], 1, 7)]
        for rows, carriers in way.levels:
            step = _picked(steps, rows, -2)
            carrier = _picked(levels[-1], carriers, -2)
            levels.append(SE3.product(carrier, step) if len(levels) > 1 else step)
        return SE3(_picked(torch.cat(levels, -2), way.order, -2))

    def _motions(self, q: Tensor, way: Route) -> Tensor:
        """Exp(Sᵢ qᵢ) of a route's joints, as storage (…, J, 7)."""
        self._check(q)
        axes = _picked(self.axes, way.rows, -2)
        padded = torch.nn.functional.pad(q, (0, 1))  # the last entry moves what is fixed
        value = padded.index_select(-1, way.columns.on(q.device))
        value = value * _picked(self.multiplier, way.rows, -1) + _picked(self.offset, way.rows, -1)
        half = 0.5 * (value.unsqueeze(-1) * way.turns.on(q.device))
        shift = axes * (value.unsqueeze(-1) * way.slides.on(q.device))
        cosine = half.cos().expand(*shift.shape[:-1], 1)
        return torch.cat([shift, axes * half.sin(), cosine], -1)

    def _twists(self, poses: SE3, about: Tensor, way: Route) -> Tensor:
        """(v, ω) of each joint per unit of its entry of q, (…, J, 2, 3), in the root's axes.

        Args:
            poses: Of the route's links.
            about: (…, 1, 3) the point of the moved body whose velocity is v.
            way: The route.
        """
        joint = poses.tensor[..., 1:, :]
        axis = rotate(joint[..., 3:], _picked(self.axes, way.rows, -2))
        axis = axis * _picked(self.multiplier, way.rows, -1).unsqueeze(-1)
        turning = axis * way.turns.on(axis.device)
        sliding = axis * way.slides.on(axis.device)
        return torch.stack([cross(turning, about - joint[..., :3]) + sliding, turning], -2)

    def _collect(self, twists: Tensor, way: Route) -> Tensor:
        """Columns (…, 6, n) of joints' twists (…, J, 2, 3): added where joints share an entry."""
        n = len(self.joints)
        flat = twists.flatten(-2)
        into = flat.new_zeros(*flat.shape[:-2], n + 1, 6)
        return into.index_add(-2, way.columns.on(flat.device), flat)[..., :n, :].mT

    def _check(self, q: Tensor) -> None:
        n = len(self.joints)
        if q.ndim == 0 or q.shape[-1] != n:
            raise DnlsError(
                f"the configuration has shape {tuple(q.shape)}, expected (…, {n}): the values of "
                f"{list(self.joints)}"
            )
        if q.dtype != self.axes.dtype or q.device != self.axes.device:
            raise DnlsError(
                f"the configuration is {q.dtype} on {q.device}, the kinematic tree "
                f"{self.axes.dtype} on {self.axes.device}: convert one of them"
            )


def _limits(joint: Joint) -> tuple[float, float]:
    if joint.limits is None or joint.kind == "continuous":
        return -torch.inf, torch.inf
    return joint.limits


def _picked(tensor: Tensor, places: Table | None, axis: int) -> Tensor:
    """The entries of an axis at some places; None = all of them."""
    return tensor if places is None else tensor.index_select(axis, places.on(tensor.device))


def _flatten(tree: KinematicTree) -> tuple[list[Any], Layout]:
    return [getattr(tree, name) for name in _LEAVES], tree.layout


def _unflatten(leaves: Any, layout: Layout) -> KinematicTree:
    tree = object.__new__(KinematicTree)  # leaves may be placeholders: no checks
    for name, leaf in zip(_LEAVES, leaves, strict=True):
        object.__setattr__(tree, name, leaf)
    object.__setattr__(tree, "layout", layout)
    return tree


pytree.register_pytree_node(
    KinematicTree, _flatten, _unflatten, serialized_type_name="dnls_ros.KinematicTree"
)
