"""What a minimization shows while it runs: one `Iteration` after the other, to a callback.

A callback that returns True stops the minimization; `History` is one that keeps what it sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dnls_ros.problem import Values


@dataclass(frozen=True, eq=False)
class Iteration:
    """The state after an iteration, cut off from autograd; the start is number 0.

    Attributes:
        index: Iterations so far.
        values: The current values (B, N, …).
        cost: (B,) their objective.
        running: (B,) bool, which elements go on.
        accepted: (B,) accepted steps so far.
        damping: (B,) λ or 1/radius for the next step.
        largest_gradient: (B,) largest entry of the gradient at the last linearization.
    """

    index: int
    values: Values
    cost: Tensor
    running: Tensor
    accepted: Tensor
    damping: Tensor
    largest_gradient: Tensor


Callback = Callable[[Iteration], bool | None]


@dataclass(eq=False)
class History:
    """A callback that keeps the start and every iteration.

    Attributes:
        keep_values: Keep the values, too.
        costs: (B,) each.
        values: (B, N, …) each; empty unless they are kept.
        damping: (B,) each.
    """

    keep_values: bool = False
    costs: list[Tensor] = field(default_factory=list)
    values: list[Values] = field(default_factory=list)
    damping: list[Tensor] = field(default_factory=list)

    def __call__(self, iteration: Iteration) -> None:
        """Keeps it."""
        # Made in inference mode; a clone outside of it may be used anywhere.
        with torch.inference_mode(False):
            self.costs.append(iteration.cost.clone())
            self.damping.append(iteration.damping.clone())
            if self.keep_values:
                self.values.append(iteration.values.map(Tensor.clone))

    @property
    def cost(self) -> Tensor:
        """(K + 1, B) the objective at the start and after each of K iterations."""
        return torch.stack(self.costs)
