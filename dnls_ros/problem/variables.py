"""Variables, references to them, and their values.

A *variable* is one manifold element that is optimized: a pose at a time, a landmark. Variables of
one kind form a named *block*, inside which each has a stable int64 id (for states the id **is**
the stamp in nanoseconds). ``pose[ids]`` reads like NumPy indexing and makes a `Ref`; `Values`
holds the elements, sorted by id. Ids are turned into slots by a checked binary search, once per
structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch._C import _DisableFuncTorch  # pyright: ignore[reportPrivateUsage]  # no public name
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.lie import Element, Euclidean, LieGroup, cat, local, retract, tangent_dim

IdsLike = int | Sequence[int] | range | Tensor | np.ndarray
Manifold = type[LieGroup] | Euclidean


def as_ids(ids: IdsLike) -> Tensor:
    """Ids as an int64 tensor (M,) on the CPU; anything that is not a whole number is an error."""
    tensor = torch.as_tensor(np.asarray(ids) if isinstance(ids, range) else ids)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise DnlsError(f"ids must be whole numbers (int64), got dtype {tensor.dtype}")
    return tensor.detach().to("cpu", torch.int64).reshape(-1)


def same_ids(a: Tensor, b: Tensor) -> bool:
    """Whether two id tensors hold the same numbers in the same order."""
    return a is b or torch.equal(a, b)


def ascending(ids: Tensor) -> bool:
    """Whether ids (N,) ascend without repetition."""
    if len(ids) < 2:
        return True
    numbers = ids.numpy()
    return bool((numbers[1:] > numbers[:-1]).all())


def among(ids: Tensor, others: Sequence[Tensor]) -> Tensor:
    """(N,) bool: which of ascending ids (N,) occur in any of the others."""
    found = np.zeros(len(ids), bool)
    if others and len(ids):
        numbers, wanted = ids.numpy(), np.concatenate([o.numpy() for o in others])
        at = np.minimum(np.searchsorted(numbers, wanted), len(ids) - 1)
        found[at[numbers[at] == wanted]] = True
    return torch.from_numpy(found)


@dataclass(frozen=True, eq=False)
class Ref:
    """Which variables of block ``name`` the M factors of a group touch.

    Attributes:
        name: The block.
        ids: (M,) int64 on the CPU.
    """

    name: str
    ids: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.name == other.name and same_ids(self.ids, other.ids)

    def __hash__(self) -> int:
        return hash((self.name, self.ids.numpy().tobytes()))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Variables:
    """A named kind of variable; indexing it by ids makes the reference that a cost takes.

    >>> pose = Variables("pose", SE3)
    >>> pose[[0, 1, 2]]
    """

    name: str
    manifold: Manifold

    def __getitem__(self, ids: IdsLike) -> Ref:
        return Ref(self.name, as_ids(ids))

    def values(self, ids: IdsLike, elements: Element) -> Values:
        """The values of a single block; ``elements`` has axes (B, N, …)."""
        if not isinstance(
            elements, Tensor if isinstance(self.manifold, Euclidean) else self.manifold
        ):
            raise DnlsError(f"block '{self.name}' holds {self.manifold}, got {type(elements)}")
        return Values({self.name: elements}, {self.name: as_ids(ids)})


@dataclass(frozen=True)
class Block:
    """One block's place in the tangent: ``count`` variables of ``tangent_dim`` from ``offset``."""

    name: str
    offset: int
    count: int
    tangent_dim: int

    @property
    def stop(self) -> int:
        """Where the next block begins."""
        return self.offset + self.count * self.tangent_dim

    def of(self, tangent: Tensor) -> Tensor:
        """This block's part (B, N, t) of a tangent vector (B, n)."""
        part = tangent[:, self.offset : self.stop]
        return part.unflatten(1, (self.count, self.tangent_dim))


@dataclass(frozen=True, eq=False)
class Values(Mapping[str, Element]):
    """The elements of all blocks; a pytree whose leaves are the elements' tensors.

    Attributes:
        blocks: name → element with axes (B, N, …).
        ids: name → (N,) int64, ascending and unique.

    Raises:
        DnlsError: Ids unsorted or repeated, or their count differs from the elements'.
    """

    blocks: Mapping[str, Element]
    ids: Mapping[str, Tensor]
    checked: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if not self.checked:
            self._check()

    def _check(self) -> None:
        if set(self.blocks) != set(self.ids):
            raise DnlsError(
                f"blocks {sorted(self.blocks)} and ids {sorted(self.ids)} name different variables"
            )
        for name, element in self.blocks.items():
            shape, ids = storage(element).shape, self.ids[name]
            if len(shape) < 3 or shape[1] != len(ids):
                raise DnlsError(
                    f"block '{name}' has shape {tuple(shape)}, expected (B, N, …) with "
                    f"N = {len(ids)} ids"
                )
            if not ascending(ids):
                raise DnlsError(
                    f"ids of block '{name}' must ascend without repetition: sort them first"
                )

    def __getitem__(self, name: str) -> Element:
        return self.blocks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def batch(self) -> int:
        """B, the number of problems that are solved side by side."""
        sizes = [storage(e).shape[0] for e in self.blocks.values()]
        return max(sizes) if sizes else 1

    def layout(self) -> tuple[Block, ...]:
        """The blocks' places in the tangent vector, in the order of ``blocks``."""
        out, offset = [], 0
        for name, element in self.blocks.items():
            out.append(Block(name, offset, len(self.ids[name]), tangent_dim(element)))
            offset = out[-1].stop
        return tuple(out)

    def slots(self, ref: Ref) -> Tensor:
        """(M,) positions of the referenced variables in their block.

        Raises:
            DnlsError: The block or an id is unknown.
        """
        if ref.name not in self.ids:
            raise DnlsError(
                f"no block '{ref.name}' among the values; there are {sorted(self.ids)}"
            )
        with _DisableFuncTorch():  # inside a function transform ids have no numbers to look at
            ids, wanted = self.ids[ref.name].numpy(), ref.ids.numpy()
        at = np.searchsorted(ids, wanted)
        found = (
            ids[np.minimum(at, len(ids) - 1)] == wanted if len(ids) else np.zeros(len(at), bool)
        )
        if not found.all():
            missing = wanted[~found][:3].tolist()
            raise DnlsError(
                f"block '{ref.name}' has no variable with id {missing}; it holds {len(ids)} "
                "variables"
            )
        return torch.from_numpy(at)

    def gather(self, ref: Ref, slots: Tensor | None = None) -> Element:
        """The referenced elements, (B, M, …)."""
        at = self.slots(ref) if slots is None else slots
        return on_storage(self.blocks[ref.name], lambda t: t.index_select(1, at.to(t.device)))

    def retract(self, delta: Tensor) -> Values:
        """All variables moved by the tangent vector ``delta`` (B, n): x ⊞ δ."""
        moved = {}
        for block in self.layout():
            moved[block.name] = retract(self.blocks[block.name], block.of(delta))
        return Values(moved, self.ids, checked=True)

    def local(self, other: Values) -> Tensor:
        """The tangent vector (B, n) that leads from here to ``other``: other ⊟ self."""
        return torch.cat([local(x, other[name]).flatten(1) for name, x in self.blocks.items()], 1)

    def where(self, mask: Tensor, other: Values) -> Values:
        """These values where ``mask`` (B,) is true, ``other``'s elsewhere."""
        pick = {n: _where(mask, x, other[n]) for n, x in self.blocks.items()}
        return Values(pick, self.ids, checked=True)

    def detach(self) -> Values:
        """The same values, cut off from the autograd graph."""
        return self.map(Tensor.detach)

    def map(self, function: Callable[[Tensor], Tensor]) -> Values:
        """The blocks with ``function`` applied to each storage tensor; it keeps axes B and N."""
        mapped = {n: on_storage(x, function) for n, x in self.blocks.items()}
        return Values(mapped, self.ids, checked=True)

    def select(self, name: str, keep: Tensor) -> Values:
        """Without the variables of ``name`` whose ``keep`` (N,) is false; an empty block goes."""
        blocks, ids = dict(self.blocks), dict(self.ids)
        if bool(keep.any()):
            blocks[name] = on_storage(blocks[name], lambda t: t[:, keep])
            ids[name] = ids[name][keep]
        else:
            del blocks[name], ids[name]
        return Values(blocks, ids)

    def overwrite(self, other: Values) -> Values:
        """These values, exchanged for those of ``other`` where it holds the same variables."""
        blocks = dict(self.blocks)
        for name, element in other.blocks.items():
            if name in blocks:
                mine = torch.isin(other.ids[name], self.ids[name])
                at = torch.searchsorted(self.ids[name], other.ids[name][mine])
                new = storage(element)[:, mine]
                blocks[name] = on_storage(
                    blocks[name], lambda t, at=at, new=new: t.index_copy(1, at, new)
                )
        return Values(blocks, self.ids, checked=True)

    def merge(self, other: Values) -> Values:
        """Both together, sorted by id.

        Raises:
            DnlsError: An id occurs in both.
        """
        blocks, ids = dict(self.blocks), dict(self.ids)
        for name, element in other.blocks.items():
            blocks[name], ids[name] = _merge(
                name, blocks.get(name), ids.get(name), element, other.ids[name]
            )
        return Values(blocks, ids, checked=True)


def storage(element: Element) -> Tensor:
    """The tensor that an element wraps (a plain tensor is its own)."""
    return element if isinstance(element, Tensor) else element.tensor


def on_storage(element: Element, function: Callable[[Tensor], Tensor]) -> Element:
    """The element of the same type whose storage tensor is ``function`` of this one's."""
    return (
        function(element)
        if isinstance(element, Tensor)
        else type(element)(function(element.tensor))
    )


def _where(mask: Tensor, a: Element, b: Element) -> Element:
    other = storage(b)
    return on_storage(a, lambda t: torch.where(mask.view(-1, *[1] * (t.ndim - 1)), t, other))


def _merge(
    name: str, mine: Element | None, my_ids: Tensor | None, element: Element, ids: Tensor
) -> tuple[Element, Tensor]:
    if mine is None or my_ids is None:
        joined, joined_ids = element, ids
    else:
        joined, joined_ids = cat([mine, element], 1), torch.cat([my_ids, ids])
    if mine is not None and ascending(joined_ids):
        return joined, joined_ids
    order = torch.argsort(joined_ids)
    joined_ids = joined_ids[order]
    if len(joined_ids) > 1 and bool((joined_ids[1:] == joined_ids[:-1]).any()):
        repeated = joined_ids[1:][joined_ids[1:] == joined_ids[:-1]][:3].tolist()
        raise DnlsError(f"block '{name}' would hold the ids {repeated} twice")
    return on_storage(joined, lambda t: t[:, order]), joined_ids


def _flatten(values: Values) -> tuple[list[Element], tuple[Ref, ...]]:
    return list(values.blocks.values()), tuple(Ref(n, values.ids[n]) for n in values.blocks)


def _unflatten(elements: Iterable[Element], refs: tuple[Ref, ...]) -> Values:
    names = [r.name for r in refs]
    # Leaves may be placeholders of a transform (vmap in_dims, tree specs): no checks.
    return Values(
        dict(zip(names, elements, strict=True)), {r.name: r.ids for r in refs}, checked=True
    )


pytree.register_pytree_node(Values, _flatten, _unflatten, serialized_type_name="dnls_ros.Values")
