"""A factor group: one cost, M instances, and index arrays into variable blocks.

What happens once per group: shapes are checked, constants get their axes. Once per structure: ids
become slots. Once per linearization: gather, residuals, Jacobians, whitening, products per factor.
Groups are immutable; a window edits them by `concat` and `select`, and switches single factors off
by a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.problem.cost import Cost
from dnls_ros.problem.variables import Ref, Values
from dnls_ros.problem.weighting import Loss, Noise

Slots = Sequence[Tensor]


@dataclass(frozen=True)
class Shared:
    """Marks data that all factors of a group share: its leaves have no batch and no factor axis.

    Attributes:
        value: A number, tensor, group element or pytree of them.
    """

    value: Any


@dataclass(frozen=True, eq=False)
class Products:
    """What a group adds to the normal equations: g and the blocks of H = JᵀJ.

    Attributes:
        cost: (B,) ½Σρ.
        gradient: per reference (B, M, t_k).
        hessian: per pair of references k ≤ l, in lexicographic order, (B, M, t_k, t_l).
    """

    cost: Tensor
    gradient: tuple[Tensor, ...]
    hessian: tuple[Tensor, ...]


class Group(Protocol):
    """What a `Problem` is made of: `FactorGroup`s and dense priors."""

    @property
    def refs(self) -> tuple[Ref, ...]: ...

    @property
    def joint(self) -> bool:
        """Whether all references form one dense factor (a prior), not M of one variable each."""
        ...

    @property
    def batch(self) -> int:
        """Size of the data's batch axis: B or 1."""
        ...

    def objective(self, values: Values, slots: Slots | None = None) -> Tensor:
        """½Σρ(‖L r‖²), (B,)."""
        ...

    def products(
        self, values: Values, slots: Slots | None = None, at: Values | None = None
    ) -> Products:
        """What the normal equations get; Jacobians are taken ``at`` other values if given."""
        ...


@dataclass(frozen=True, eq=False)
class Linearization:
    """Whitened residuals and Jacobians of a group, and the robust weights.

    Attributes:
        residual: (B, M, r) L r.
        jacobians: per reference (B, M, r, t_k) L J.
        weight: (B, M) ρ'(‖L r‖²), 0 where masked.
        cost: (B, M) ½ρ.
    """

    residual: Tensor
    jacobians: tuple[Tensor, ...]
    weight: Tensor
    cost: Tensor


@dataclass(frozen=True, eq=False)
class FactorGroup:
    """M factors of one cost.

    Attributes:
        cost: Shared by all M instances.
        refs: One per optimized argument, each with M ids.
        arguments: The call's arguments by position; None where a reference stands. Leaves (B|1,
            M|1, …).
        positions: Which argument each reference is.
        noise: None = the residual is white already.
        loss: None = plain least squares.
        mask: (B|1, M) bool, False = the factor counts nothing; None = all count.
    """

    cost: Cost
    refs: tuple[Ref, ...]
    arguments: tuple[Any, ...]
    positions: tuple[int, ...]
    noise: Noise | None = None
    loss: Loss | None = None
    mask: Tensor | None = None

    @property
    def count(self) -> int:
        """M, the number of factors (masked ones included)."""
        return len(self.refs[0])

    @property
    def joint(self) -> bool:
        """False: each of the M rows is a factor of its own."""
        return False

    @property
    def batch(self) -> int:
        """Size of the data's batch axis: B or 1 (noise and loss included)."""
        trees = (self.arguments, self.noise, self.loss, self.mask)
        return max(
            (leaf.shape[0] for leaf in pytree.tree_leaves(trees) if isinstance(leaf, Tensor)),
            default=1,
        )

    def slots(self, values: Values) -> tuple[Tensor, ...]:
        """The references' positions among the values, one (M,) tensor each."""
        return tuple(values.slots(ref) for ref in self.refs)

    def whitened(self, values: Values, slots: Slots | None = None) -> Tensor:
        """L r, (B, M, r)."""
        r = self.cost.evaluate(*self._instances(values, slots))
        return r if self.noise is None else self.noise.whiten(r)

    def squared_norm(self, values: Values, slots: Slots | None = None) -> Tensor:
        """s = ‖L r‖², (B, M); 0 where masked, even if the residual is not finite there."""
        s = self.whitened(values, slots).square().sum(-1)
        return s if self.mask is None else torch.where(self.mask, s, torch.zeros_like(s))

    def objective(self, values: Values, slots: Slots | None = None) -> Tensor:
        s = self.squared_norm(values, slots)
        return 0.5 * (s if self.loss is None else self.loss.rho(s)).sum(1)

    def linearize(
        self, values: Values, slots: Slots | None = None, at: Values | None = None
    ) -> Linearization:
        """Residuals at ``values``, Jacobians there too or ``at`` fixed linearization points."""
        arguments, shape = self._instances(values, slots)
        r = self.cost.evaluate(arguments, shape)
        if at is not None:
            arguments, shape = self._instances(at, slots)
        jacobians = self.cost.differentiate(arguments, shape, self.positions)
        if self.noise is not None:
            r = self.noise.whiten(r)
            jacobians = tuple(self.noise.whiten_jacobian(j) for j in jacobians)
        if self.mask is not None:
            r = torch.where(self.mask[..., None], r, torch.zeros_like(r))
            jacobians = tuple(
                torch.where(self.mask[..., None, None], j, torch.zeros_like(j)) for j in jacobians
            )
        s = r.square().sum(-1)
        if self.loss is None:
            return Linearization(r, jacobians, torch.ones_like(s), 0.5 * s)
        weight = self.loss.weight(s)
        if self.mask is not None:
            weight = weight * self.mask
        return Linearization(r, jacobians, weight, 0.5 * self.loss.rho(s))

    def products(
        self, values: Values, slots: Slots | None = None, at: Values | None = None
    ) -> Products:
        line = self.linearize(values, slots, at)
        transposed = [j.mT for j in line.jacobians]
        if self.loss is not None:
            transposed = [t * line.weight[..., None, None] for t in transposed]
        gradient = tuple((t @ line.residual[..., None])[..., 0] for t in transposed)
        hessian = tuple(
            transposed[k] @ line.jacobians[m]
            for k in range(len(transposed))
            for m in range(k, len(transposed))
        )
        return Products(line.cost.sum(1), gradient, hessian)

    def _instances(
        self, values: Values, slots: Slots | None
    ) -> tuple[tuple[Any, ...], tuple[int, int]]:
        at = self.slots(values) if slots is None else slots
        filled = list(self.arguments)
        for position, ref, where in zip(self.positions, self.refs, at, strict=True):
            filled[position] = values.gather(ref, where)
        return tuple(filled), (max(values.batch, self.batch), self.count)

    def select(self, keep: Tensor) -> FactorGroup:
        """Only the factors where ``keep`` (M,) is true (or in the order of an index tensor)."""
        pick = _picker(keep, self.count)
        return replace(
            self,
            refs=tuple(Ref(r.name, r.ids[keep]) for r in self.refs),
            arguments=_map(pick, self.arguments),
            noise=_map(pick, self.noise),
            loss=_map(pick, self.loss),
            mask=None if self.mask is None else self.mask[:, keep],
        )

    def concat(self, other: FactorGroup) -> FactorGroup:
        """These factors followed by ``other``'s.

        Raises:
            DnlsError: They differ in cost, in what is optimized, or in the kind of noise or loss.
        """
        kinds = [
            (g.cost, g.positions, tuple(r.name for r in g.refs), type(g.noise), type(g.loss))
            for g in (self, other)
        ]
        if kinds[0] != kinds[1]:
            raise DnlsError(
                f"cannot join factor groups of different kinds: {kinds[0]} and {kinds[1]}"
            )
        m, n = self.count, other.count
        masks = [
            g.mask if g.mask is not None else torch.ones(1, g.count, dtype=torch.bool)
            for g in (self, other)
        ]
        return replace(
            self,
            refs=tuple(
                Ref(a.name, torch.cat([a.ids, b.ids]))
                for a, b in zip(self.refs, other.refs, strict=True)
            ),
            arguments=_join(self.arguments, other.arguments, m, n),
            noise=_join(self.noise, other.noise, m, n),
            loss=_join(self.loss, other.loss, m, n),
            mask=None if self.mask is None and other.mask is None else torch.cat(masks, 1),
        )

    def padded(self, capacity: int) -> FactorGroup:
        """The same factors in a group of ``capacity``; spare rows are masked.

        They repeat the last factor.
        A window that keeps its capacity keeps its structure, and so its symbolic factorization.

        Raises:
            DnlsError: There are more factors than ``capacity``.
        """
        spare = capacity - self.count
        if spare < 0:
            raise DnlsError(
                f"cost '{self.cost.name}': {self.count} factors do not fit a capacity of "
                f"{capacity}"
            )
        index = torch.cat([torch.arange(self.count), torch.full((spare,), self.count - 1)])
        mask = self.mask if self.mask is not None else torch.ones(1, self.count, dtype=torch.bool)
        padded = replace(self, mask=mask).select(index)
        live = torch.arange(capacity) < self.count
        assert padded.mask is not None
        return replace(padded, mask=padded.mask & live)


def make_group(
    cost: Cost,
    arguments: tuple[Any, ...],
    noise: Noise | None,
    loss: Loss | None,
    mask: Tensor | None,
) -> FactorGroup:
    """Checks a cost's call and brings its constants to axes (B|1, M|1, …).

    Raises:
        DnlsError: Nothing is optimized, references differ in length, or data has the wrong axes.
    """
    positions = tuple(k for k, a in enumerate(arguments) if isinstance(a, Ref))
    refs = tuple(a for a in arguments if isinstance(a, Ref))
    if not refs:
        raise DnlsError(
            f"cost '{cost.name}' got no variable: index one of its arguments, as in pose[ids]"
        )
    count = len(refs[0])
    lengths = {cost.parameters[k]: len(arguments[k]) for k in positions}
    if len(set(lengths.values())) > 1:
        raise DnlsError(
            f"cost '{cost.name}': references must have one id per factor, got lengths {lengths}"
        )
    data = tuple(None if isinstance(a, Ref) else _with_axes(a) for a in arguments)
    for parameter, argument in zip(cost.parameters, data, strict=True):
        _check_axes(f"cost '{cost.name}': {parameter}", argument, count)
    _check_axes(f"cost '{cost.name}': mask", mask, count)
    return FactorGroup(cost, refs, data, positions, noise, loss, mask)


def _with_axes(argument: Any) -> Any:
    if isinstance(argument, Shared):
        return pytree.tree_map(lambda t: _as_tensor(t)[None, None], argument.value)
    if isinstance(argument, (int, float)):
        return torch.tensor([[float(argument)]], dtype=torch.float64)
    return argument


def _as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def _check_axes(where: str, argument: Any, count: int) -> None:
    for leaf in pytree.tree_leaves(argument):
        if leaf is None:
            continue
        if not isinstance(leaf, Tensor):
            raise DnlsError(f"{where} holds {type(leaf).__name__}, expected tensors")
        if leaf.ndim < 2 or leaf.shape[1] not in (1, count):
            rest = "".join(f", {n}" for n in leaf.shape[2:])
            raise DnlsError(
                f"{where} has shape {tuple(leaf.shape)} but its references have M={count}; "
                f"data must be (B|1, M|1{rest}); wrap constants in Shared(...)"
            )


def _map(function: Any, tree: Any) -> Any:
    return pytree.tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def _picker(keep: Tensor, count: int) -> Any:
    """Selects on the factor axis of a leaf that has one; leaves that all factors share stay."""
    return lambda leaf: leaf[:, keep] if leaf.shape[1] == count else leaf


def _join(a: Any, b: Any, m: int, n: int) -> Any:
    """Leaf by leaf on the factor axis; leaves without one must be equal, else they get one."""
    left, spec = pytree.tree_flatten(a)
    right = pytree.tree_leaves(b)
    joined = [
        _join_leaf(x, y, m, n) if isinstance(x, Tensor) else x
        for x, y in zip(left, right, strict=True)
    ]
    return pytree.tree_unflatten(joined, spec)


def _join_leaf(x: Tensor, y: Tensor, m: int, n: int) -> Tensor:
    if x.shape == y.shape and x.shape[1] == 1 and torch.equal(x, y) and m != 1 and n != 1:
        return x
    batch = max(x.shape[0], y.shape[0])
    return torch.cat([t.expand(batch, k, *t.shape[2:]) for t, k in ((x, m), (y, n))], 1)


def _flatten(group: FactorGroup) -> tuple[list[Any], Any]:
    return [group.arguments, group.noise, group.loss, group.mask], (
        group.cost,
        group.refs,
        group.positions,
    )


def _unflatten(children: Any, context: Any) -> FactorGroup:
    arguments, noise, loss, mask = children
    cost, refs, positions = context
    return FactorGroup(cost, refs, arguments, positions, noise, loss, mask)


pytree.register_pytree_node(
    FactorGroup, _flatten, _unflatten, serialized_type_name="dnls_ros.FactorGroup"
)

Groups = Mapping[str, Group]
