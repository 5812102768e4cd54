"""Derivatives of S in data, noise and state by kernels: what an adjoint asks of a problem.

Costs of which `dnls_ros.kernels.slopes` knows the second derivatives need no graph: their numbers
enter one function that autograd sees as a whole. All other groups are left to torch, which is the
reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear.block_cholesky import in_threads
from dnls_ros.optim.program import Compiled, compiled, flat_state, plan
from dnls_ros.optim.recipes import Recipe, recipe_of
from dnls_ros.problem import FactorGroup, Problem, Structure, Values
from dnls_ros.problem.axes import leaves_of


@dataclass(frozen=True, eq=False)
class Input:
    """Numbers that a group brings.

    Attributes:
        numbers: (B|1, M|1, k), as autograd knows them.
        start: Where in a row of gradients theirs begin.
        count: M.
    """

    numbers: Tensor
    start: int
    count: int

    def folded(self, bars: Tensor) -> Tensor:
        """The gradient with respect to the numbers, from that of all factors (B, S)."""
        k = self.numbers.shape[-1]
        own = bars[:, self.start : self.start + self.count * k]
        return own.reshape(len(bars), self.count, k).sum_to_size(self.numbers.shape)


@dataclass(frozen=True, eq=False)
class Slopes:
    """The groups of a problem that kernels differentiate.

    Attributes:
        own: These groups, as arrays.
        places: Where their gradients go, see `dnls_ros.kernels.slopes.slopes`.
        inputs: Their data and noises.
        size: Of a row of gradients.
        n: Of a tangent vector.
        batch: B.
    """

    own: Compiled
    places: NDArray[np.int64]
    inputs: tuple[Input, ...]
    size: int
    n: int
    batch: int

    @classmethod
    def of(cls, problem: Problem, structure: Structure, values: Values) -> Slopes | None:
        """None if there are no such groups."""
        with torch.no_grad():
            planned = plan(problem, structure, values)
        chosen = {n: p if _known(problem, n, p) else "it is torch's" for n, p in planned.items()}
        if all(isinstance(found, str) for found in chosen.values()):
            return None
        own = compiled(problem, structure, values, chosen)
        places, inputs, size = [], list[Input](), 0
        for name in own.names:
            group = cast(FactorGroup, problem[name])
            recipe = cast(Recipe, recipe_of(group, values))  # once more, recorded now
            row = list[int]()
            for numbers in (recipe.data, recipe.noise[1]):
                width = 0 if numbers is None else numbers.shape[-1]
                row += [size, width]
                if numbers is not None:
                    inputs.append(Input(numbers, size, group.count))
                size += width * group.count
            places.append(row)
        batch = max(values.batch, *(group.batch for group in problem.values()))
        return cls(own, np.array(places, np.int64), tuple(inputs), size, structure.n, batch)

    def gradient(self, values: Values, at: Tensor) -> Tensor:
        """The tensor ``at`` (B, n) of gradients, with the derivatives in all `inputs`."""
        return cast(Tensor, _Gradient.apply(self, values, at, *self._numbers))

    def cost(self, values: Values, at: Tensor, steps: Tensor) -> Tensor:
        """``at`` (B,), the cost of these groups, with the derivatives of S(x ⊞ 0).

        Args:
            values: x.
            at: S.
            steps: (B, n) zeros.
        """
        return cast(Tensor, _Cost.apply(self, values, at, steps, *self._numbers))

    def product(self, values: Values, u: Tensor) -> Tensor:
        """H u (B, n) with the exact Hessian of these groups."""
        return self.sweep(values, u, 1)[0]

    def sweep(self, values: Values, u: Tensor, order: int) -> tuple[Tensor, Tensor]:
        """The gradient, or its derivative along u (B, n), in state (B, n) and numbers (B, S)."""
        from dnls_ros.kernels.slopes import slopes_each

        state = flat_state(values)
        along = np.ascontiguousarray(u.detach().expand(self.batch, self.n).numpy())
        g, bars = np.empty((self.batch, self.n)), np.empty((self.batch, self.size))
        program, places, room = self.own.program, self.places, self.own.room
        in_threads(
            self.batch,
            lambda first, last: slopes_each(
                program, places, state, along, first, last, order, room, g, bars
            ),
        )
        return torch.from_numpy(g), torch.from_numpy(bars)

    @property
    def _numbers(self) -> list[Tensor]:
        return [given.numbers for given in self.inputs]

    def folded(self, bars: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
        """The gradients of `inputs`, where they are needed."""
        pairs = zip(self.inputs, needed, strict=True)
        return [given.folded(bars) if asked else None for given, asked in pairs]


def _known(problem: Problem, name: str, planned: object) -> bool:
    """Whether kernels can differentiate a group in all that it brings and autograd records."""
    if not isinstance(planned, Recipe):
        return False
    from dnls_ros.kernels.slopes import KINDS

    if planned.kind not in KINDS:
        return False
    group = problem[name]
    assert isinstance(group, FactorGroup)
    first = group.positions[0] == 0
    if not first and any(leaf.requires_grad for a in group.arguments for leaf in leaves_of(a)):
        return False  # its data are composed: another formula off the manifold
    return not any(leaf.requires_grad for leaf in leaves_of(group.loss))


def _once() -> None:
    if torch.is_grad_enabled():
        raise DnlsError(
            "kernels have no derivatives of derivatives of a solution; use Unroll() or Truncated()"
        )


class _Gradient(torch.autograd.Function):
    """The gradient in x, whose derivative in the numbers of the groups kernels find."""

    @staticmethod
    def forward(ctx: Any, slopes: Slopes, values: Values, at: Tensor, *numbers: Tensor) -> Tensor:
        ctx.slopes, ctx.values = slopes, values
        return at.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _once()
        u, slopes = grads[0], ctx.slopes
        bars = slopes.sweep(ctx.values, u, 1)[1]
        bars = bars.masked_fill_(~(u != 0).any(1, keepdim=True), 0.0)  # not even NaN, if unasked
        return None, None, None, *slopes.folded(bars, ctx.needs_input_grad[3:])


class _Cost(torch.autograd.Function):
    """The cost, whose derivatives in x and in the numbers of the groups kernels find."""

    @staticmethod
    def forward(
        ctx: Any, slopes: Slopes, values: Values, at: Tensor, steps: Tensor, *numbers: Tensor
    ) -> Tensor:
        ctx.slopes, ctx.values = slopes, values
        return at.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _once()
        a, slopes = grads[0][:, None], ctx.slopes
        g, bars = slopes.sweep(ctx.values, a.new_zeros(slopes.batch, slopes.n), 0)
        g, bars = (torch.where(a != 0, a * each, 0.0) for each in (g, bars))
        return None, None, None, g, *slopes.folded(bars, ctx.needs_input_grad[4:])
