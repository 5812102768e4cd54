"""Finds where the host would wait for a device, without a device.

`Watched` looks at every operation that torch dispatches and refuses those whose result, or whose
shape, the host can only know by asking the device; `on_a_device` makes tensors that claim to be on
a CUDA device, hold no numbers, and therefore cannot be asked. Together they run the very code that
a GPU would run, branches on ``is_cuda`` included.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

ASKING = {
    "_assert_async",  # not asking by itself, but a check of numbers nevertheless
    "_assert_async_msg",
    "_linalg_check_errors",
    "_local_scalar_dense",
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "histc",
    "is_nonzero",
    "item",
    "linalg_cholesky",
    "linalg_eig",
    "linalg_eigh",
    "_linalg_eigh",
    "linalg_inv",
    "linalg_lstsq",
    "linalg_solve",
    "masked_select",
    "nonzero",
    "nonzero_numpy",
    "nonzero_static",
    "tolist",
    "unique_consecutive",
    "unique_dim",
}
"""Operations that make the host wait, always."""


class DeviceAskedError(AssertionError):
    """An operation would make the host wait."""


class Watched(TorchDispatchMode):
    """Refuses operations for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        self.operations += 1
        reason = self._reason(name, args, kwargs or {})
        if reason:
            raise DeviceAskedError(f"{name}: {reason}")
        return func(*args, **(kwargs or {}))

    def _reason(self, name: str, args: Any, kwargs: dict[str, Any]) -> str | None:
        if name in ASKING:
            return "the host waits for its result"
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            return "the host waits for the size of its result"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [t for t in pytree.tree_leaves(args[1]) if t is not None]
            if any(t.dtype in (torch.bool, torch.uint8) for t in masks):
                return "the host waits for how many entries a mask selects"
            if any(t.device != args[0].device for t in masks):
                return "indices are copied to the device"
        if name == "_to_copy" and kwargs.get("device") not in (None, args[0].device):
            return f"a copy from {args[0].device} to {kwargs['device']}"
        if name == "copy_" and args[0].device != args[1].device:
            return f"a copy from {args[1].device} to {args[0].device}"
        return None


@contextmanager
def on_a_device() -> Iterator[Callable[[Any], Any]]:
    """Yields a function that moves the tensors of a pytree to a device that is not there.

    Tensors that are made meanwhile must not outlive it, and neither must caches that keep them.
    """
    device = torch.device("cuda", 0)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:

        def moved(tree: Any) -> Any:
            def one(leaf: Any) -> Any:
                if not isinstance(leaf, Tensor):
                    return leaf
                made = torch.empty(leaf.shape, dtype=leaf.dtype, device=device)
                return made.requires_grad_(leaf.requires_grad)

            with fake:
                return pytree.tree_map(one, tree)

        yield moved
