"""Finds where the host would wait for a device, without a device.

`Watched` looks at every operation that torch dispatches and refuses those whose result, or whose
shape, the host can only know by asking the device; `on_a_device` moves tensors to torch's meta
device, where they hold no numbers and therefore cannot be asked.
"""

from typing import Any

import torch
from torch import Tensor
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
        result = func(*args, **(kwargs or {}))
        if name == "lift_fresh" and result.device.type != "cpu":
            raise DeviceAskedError("numbers of the host are made a tensor on a device")
        return result

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


def on_a_device(tree: Any) -> Any:
    """The tensors of a pytree on a device that is not there: they have shapes and no numbers.

    A device of the CPU build that is no CPU is enough to run the code of a GPU: nothing in the
    package asks for more than ``device.type``.
    """
    return pytree.tree_map(
        lambda leaf: (
            torch.empty_like(leaf, device="meta").requires_grad_(leaf.requires_grad)
            if isinstance(leaf, Tensor)
            else leaf
        ),
        tree,
    )
