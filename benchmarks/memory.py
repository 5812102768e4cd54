"""Memory of differentiation: what autograd keeps, and the most that tensors take at a time."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, eq=False)
class _Held:
    """A tensor that autograd holds; gone when autograd lets it go."""

    tensor: Tensor


class Kept:
    """Counts what autograd holds for backward passes of what is computed while it is entered.

    A storage that is held more than once, or by views, counts once: the number depends on the
    computation only, not on the machine.
    """

    def __init__(self) -> None:
        self._held: weakref.WeakSet[_Held] = weakref.WeakSet()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda h: h.tensor)

    def __enter__(self) -> Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.__exit__(None, None, None)

    def _pack(self, t: Tensor) -> _Held:
        held = _Held(t)
        self._held.add(held)
        return held

    @property
    def mebibytes(self) -> float:
        """Of all storages that are held now: before the backward pass frees them [MiB]."""
        storages = (held.tensor.untyped_storage() for held in self._held)
        return sum({s.data_ptr(): s.nbytes() for s in storages}.values()) / 2**20


class Live(TorchDispatchMode):
    """Follows the bytes of the tensors that are made while it is entered, forward and backward.

    It is what ``torch.cuda.max_memory_allocated`` says of a GPU. The size of the process says
    less: it depends on how fragmented the heap is, by as much as implicit derivatives need in all.
    What a kernel takes and gives back within itself is not seen.

    Attributes:
        peak: Most bytes at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation; what its arguments lie in was there before."""
        for t in tree_leaves((args, kwargs)):
            if isinstance(t, Tensor):
                self._see(t.untyped_storage(), new=False)
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._see(t.untyped_storage(), new=True)
        return out

    def _see(self, storage: torch.UntypedStorage, new: bool) -> None:
        key = id(storage)  # lives as long as the bytes, so it stands for them
        if key in self._known:
            return
        self._known[key] = storage.nbytes() if new else 0
        self._now += self._known[key]
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._gone, key).atexit = False

    def _gone(self, key: int) -> None:
        self._now -= self._known.pop(key)

    @property
    def peak_mebibytes(self) -> float:
        """The peak [MiB]."""
        return self.peak / 2**20
