"""A factor group: one cost, M instances, and index arrays into variable blocks.

What happens once per group: shapes are checked, constants get their axes. Once per structure: ids
become slots. Once per linearization: gather, residuals, Jacobians, whitening, products per factor.
Groups are immutable; a window edits them by `concat` and `select`, and switches single factors off
by a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.problem.axes import check_axes, join, leaves_of, map_leaves, picker, with_axes
from dnls_ros.problem.checks import switches
from dnls_ros.problem.cost import Cost
from dnls_ros.problem.variables import Ref, Values
from dnls_ros.problem.weighting import Loss, Noise

Slots = Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Products:
    """What a group adds to the normal equations: its factors' dense JᵀWr and JᵀWJ.

    T = Σ t_k is the tangent dimension of all references of a factor together, in their order; a
    joint group is one factor.

    Attributes:
        cost: (B,) ½Σρ.
        gradient: (B, M, T).
        hessian: (B, M, T, T).
    """

    cost: Tensor
    gradient: Tensor
    hessian: Tensor


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
        jacobian: (B, M, r, T) L J, the references' blocks side by side.
        dims: t_k of each reference.
        weight: (B, M) ρ'(‖L r‖²); None = 1.
        cost: (B, M) ½ρ.
    """

    residual: Tensor
    jacobian: Tensor
    dims: tuple[int, ...]
    weight: Tensor | None
    cost: Tensor

    @property
    def jacobians(self) -> tuple[Tensor, ...]:
        """Per reference (B, M, r, t_k)."""
        return self.jacobian.split(self.dims, -1)


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
        mask: (B|1, M), 0 = the factor counts nothing, 1 = it counts; None = all count. In floating
            point, so that all leaves of a problem can be differentiated.
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
        # torch.compile cannot take the lock of a cached property.
        return self._find_batch() if torch.compiler.is_compiling() else self._batch

    @cached_property
    def _batch(self) -> int:
        return self._find_batch()

    def _find_batch(self) -> int:
        sizes = [leaf.shape[0] for leaf in self.tensors]
        return max(sizes) if sizes else 1

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that it is made of: data, noise, radius and mask."""
        parts = (*self.arguments, self.noise, self.loss, self.mask)
        return [leaf for part in parts for leaf in leaves_of(part)]

    @property
    def live(self) -> Tensor | None:
        """(B|1, M) bool, which factors count; None = all."""
        return None if self.mask is None else self.mask != 0

    def slots(self, values: Values) -> tuple[Tensor, ...]:
        """The references' positions among the values, one (M,) tensor each."""
        return tuple(values.slots(ref) for ref in self.refs)

    def whitened(self, values: Values, slots: Slots | None = None) -> Tensor:
        """L r, (B, M, r)."""
        r = self.cost.evaluate(*self._instances(values, slots))
        noise = self._noise_of(r)
        return r if noise is None else noise.whiten(r)

    def squared_norm(self, values: Values, slots: Slots | None = None) -> Tensor:
        """s = ‖L r‖², (B, M); 0 where masked, even if the residual is not finite there."""
        s = self.whitened(values, slots).square().sum(-1)
        return s if self.live is None else s.where(self.live, 0.0)

    def objective(self, values: Values, slots: Slots | None = None) -> Tensor:
        s = self.squared_norm(values, slots)
        return 0.5 * (s if self.loss is None else self._guarded(self.loss).rho(s)).sum(1)

    def linearize(
        self, values: Values, slots: Slots | None = None, at: Values | None = None
    ) -> Linearization:
        """Residuals at ``values``, Jacobians there too or ``at`` fixed linearization points."""
        arguments, shape = self._instances(values, slots)
        if at is None:
            r, blocks = self.cost.linearize(arguments, shape, self.positions)
        else:
            r = self.cost.evaluate(arguments, shape)
            blocks = self.cost.differentiate(*self._instances(at, slots), self.positions)
        dims = tuple(b.shape[-1] for b in blocks)
        jacobian = blocks[0] if len(blocks) == 1 else torch.cat(blocks, -1)
        noise = self._noise_of(r)
        if noise is not None:
            r, jacobian = noise.whiten(r), noise.whiten_jacobian(jacobian)
        if self.live is not None:
            r = r.where(self.live[..., None], 0.0)
            jacobian = jacobian.where(self.live[..., None, None], 0.0)
        s = r.square().sum(-1)
        if self.loss is None:
            return Linearization(r, jacobian, dims, None, 0.5 * s)
        loss = self._guarded(self.loss)
        return Linearization(r, jacobian, dims, loss.weight(s), 0.5 * loss.rho(s))

    def products(
        self, values: Values, slots: Slots | None = None, at: Values | None = None
    ) -> Products:
        line = self.linearize(values, slots, at)
        weighted = line.jacobian
        if line.weight is not None:
            weighted = weighted * line.weight[..., None, None]
        gradient = weighted.mT @ line.residual[..., None]
        return Products(line.cost.sum(1), gradient[..., 0], weighted.mT @ line.jacobian)

    def _instances(
        self, values: Values, slots: Slots | None
    ) -> tuple[tuple[Any, ...], tuple[int, int]]:
        at = self.slots(values) if slots is None else slots
        filled = list(self.arguments)
        for position, ref, where in zip(self.positions, self.refs, at, strict=True):
            filled[position] = values.gather(ref, where)
        shape = (max(values.batch, self.batch), self.count)
        return tuple(self._guarded(argument) for argument in filled), shape

    def _noise_of(self, residual: Tensor) -> Noise | None:
        """The noise, if there is one, that fits the residuals."""
        noise = self.noise
        if noise is not None and noise.length not in (None, residual.shape[-1]):
            raise DnlsError(
                f"cost '{self.cost.name}': {type(noise).__name__} is for residuals of length "
                f"{noise.length}, but they have length {residual.shape[-1]}"
            )
        return self._guarded(noise)

    def _guarded(self, tree: Any) -> Any:
        """The same numbers; masked factors have derivatives of zero even where those are NaN."""
        live = self.live
        if live is None or not torch.is_grad_enabled():
            return tree

        def guarded(leaf: Tensor) -> Tensor:
            if not (leaf.requires_grad or is_functorch_wrapped_tensor(leaf)):
                return leaf  # a constant: an image that all factors share is not copied for each
            return torch.where(live.view(*live.shape, *[1] * (leaf.ndim - 2)), leaf, leaf.detach())

        return map_leaves(guarded, tree)

    def select(self, keep: Tensor) -> FactorGroup:
        """Only the factors where ``keep`` (M,) is true (or in the order of an index tensor)."""
        if keep.dtype == torch.bool:
            if bool(keep.all()):
                return self
            keep = keep.nonzero()[:, 0]  # once, not for every leaf
        pick = picker(keep, self.count)
        return replace(
            self,
            refs=tuple(Ref(r.name, r.ids[keep]) for r in self.refs),
            arguments=tuple(map_leaves(pick, a) for a in self.arguments),
            noise=map_leaves(pick, self.noise),
            loss=map_leaves(pick, self.loss),
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
        return replace(
            self,
            refs=tuple(
                Ref(a.name, torch.cat([a.ids, b.ids]))
                for a, b in zip(self.refs, other.refs, strict=True)
            ),
            arguments=tuple(
                join(a, b, m, n) for a, b in zip(self.arguments, other.arguments, strict=True)
            ),
            noise=join(self.noise, other.noise, m, n),
            loss=join(self.loss, other.loss, m, n),
            mask=_join_masks(self, other),
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
        padded = self.select(index)
        live = _ones(padded)
        live[:, self.count :] = 0
        return replace(padded, mask=live if padded.mask is None else live * padded.mask)


def make_group(
    cost: Cost,
    arguments: tuple[Any, ...],
    noise: Noise | None,
    loss: Loss | None,
    mask: Tensor | None,
) -> FactorGroup:
    """Checks a cost's call and brings its constants to axes (B|1, M|1, …).

    Raises:
        DnlsError: Nothing is optimized, references differ in length, data has the wrong axes, or
            the mask holds anything but 0 and 1.
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
    data = tuple(None if isinstance(a, Ref) else with_axes(a) for a in arguments)
    for parameter, argument in zip(cost.parameters, data, strict=True):
        check_axes(f"cost '{cost.name}': {parameter}", argument, count)
    for what, tree in (("noise", noise), ("loss", loss), ("mask", mask)):
        check_axes(f"cost '{cost.name}': {what}", tree, count)
    live = None if mask is None else switches(f"cost '{cost.name}': mask", mask)
    made = FactorGroup(cost, refs, data, positions, noise, loss, live)
    sizes = {leaf.shape[0] for leaf in made.tensors}
    if len(sizes - {1}) > 1:
        raise DnlsError(
            f"cost '{cost.name}': data, noise, loss and mask have batch axes of {sorted(sizes)}, "
            "expected 1 or one common length"
        )
    return made


def _join_masks(a: FactorGroup, b: FactorGroup) -> Tensor | None:
    if a.mask is None and b.mask is None:
        return None
    masks = [_ones(g) if g.mask is None else g.mask for g in (a, b)]
    batch = max(len(m) for m in masks)
    return torch.cat([m.expand(batch, -1) for m in masks], 1)


def _ones(group: FactorGroup) -> Tensor:
    device = next((leaf.device for leaf in group.tensors), torch.device("cpu"))
    return torch.ones(1, group.count, dtype=torch.float64, device=device)


def _flatten(group: FactorGroup) -> tuple[list[Any], Any]:
    # None would be a leaf, and functional transforms take tensors only: note where it stands.
    children = (*group.arguments, group.noise, group.loss, group.mask)
    there = tuple(child is not None for child in children)
    static = (group.cost, group.refs, group.positions, there)
    return [child for child in children if child is not None], static


def _unflatten(children: Any, context: Any) -> FactorGroup:
    cost, refs, positions, there = context
    left = iter(children)
    *arguments, noise, loss, mask = (next(left) if here else None for here in there)
    return FactorGroup(cost, refs, tuple(arguments), positions, noise, loss, mask)


pytree.register_pytree_node(
    FactorGroup, _flatten, _unflatten, serialized_type_name="dnls_ros.FactorGroup"
)

Groups = Mapping[str, Group]
