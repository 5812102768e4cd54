"""Several processes that train one model, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dnls_ros.errors import DnlsError


@dataclass(frozen=True)
class Processes:
    """This process among all.

    Attributes:
        rank: Its number; 0 writes files.
        count: Of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes files."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's windows of a batch; shares are equal: the mean of means is the mean."""
        return batch[self.rank :: self.count]

    def wrap(self, objective: nn.Module) -> nn.Module:
        """The objective, whose gradients are averaged over the processes.

        A likelihood does not use the noise of the fingertip: parameters may stay without one.
        """
        if self.count == 1:
            return objective
        return nn.parallel.DistributedDataParallel(objective, find_unused_parameters=True)

    def mean(self, value: float) -> float:
        """Of a number that each process has."""
        if self.count == 1:
            return value
        every = torch.tensor(value, dtype=torch.float64)
        torch.distributed.all_reduce(every)
        return float(every) / self.count


@contextmanager
def processes(batch: int) -> Generator[Processes]:
    """The processes that ``torchrun`` has started, or this one alone.

    Args:
        batch: Windows in a step, all processes together.

    Raises:
        DnlsError: The batch cannot be shared equally.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    if batch % count:
        raise DnlsError(f"training: a batch of {batch} cannot be shared among {count} processes")
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(torch.distributed.get_rank(), count)
    finally:
        torch.distributed.destroy_process_group()
