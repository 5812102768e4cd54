"""A cost is the residual of *one* instance, and optionally its analytic Jacobians.

Once per import: the decorator notes the signature. Once per group: calling the cost with
references and data makes a `FactorGroup`. Once per linearization: the residual is lifted over (B,
M), by ``vmap`` or, for costs written over leading axes (``batched=True``), by calling it directly.
Jacobians are with respect to right perturbations x ⊞ δ of the arguments; what is not given
analytically is differentiated by the cost's policy (`dnls_ros.problem.differentiation`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.lie import Element, retract, tangent_dim
from dnls_ros.problem.differentiation import Differentiation, Vectorized
from dnls_ros.problem.instances import Instances
from dnls_ros.problem.variables import storage

if TYPE_CHECKING:
    from dnls_ros.problem.factors import FactorGroup
    from dnls_ros.problem.weighting import Loss, Noise

Residual = Callable[..., Tensor]
Block = Tensor | Callable[[], Tensor]
Jacobians = Callable[..., tuple[Block, ...]]
Linearized = Callable[..., tuple[Tensor, tuple[Block, ...]]]


class Cost:
    """The residual of one instance, with its name, signature and (optionally) analytic Jacobians.

    Args:
        residual: Maps one instance's arguments to (r,); with ``batched`` it maps (…, k) arguments
            to (…, r).
        batched: The functions are written over leading axes and need no ``vmap``.
        differentiation: How Jacobians are found that are not analytic, and how a residual of one
            instance is lifted over all.
    """

    def __init__(
        self,
        residual: Residual,
        batched: bool = False,
        differentiation: Differentiation = Vectorized(),
    ) -> None:
        self.residual = residual
        self.batched = batched
        self.differentiation = differentiation
        self.name = getattr(residual, "__name__", type(residual).__name__)
        self.parameters = tuple(inspect.signature(residual).parameters)
        self.analytic: Jacobians | None = None
        self.together: Linearized | None = None
        self.__doc__ = residual.__doc__

    def __repr__(self) -> str:
        return f"Cost({self.name})"

    def jacobians(self, function: Jacobians) -> Jacobians:
        """Decorator: registers analytic Jacobians.

        ``function`` has the residual's signature and returns a block (…, r, t_k) for each of its
        first K parameters, the ones that may be optimized. A block may be a function without
        arguments that computes it: it is called only where that parameter is optimized. The blocks
        are held to autodiff and central differences by `check_jacobians`.
        """
        if self.analytic is not None:
            raise DnlsError(f"cost '{self.name}' has analytic Jacobians already")
        self.analytic = function
        return function

    def linearization(self, function: Linearized) -> Linearized:
        """Decorator: registers the residual and its Jacobians computed together.

        As `jacobians`, for costs of which both share much: ``function`` returns the residual and
        the blocks.
        """
        self.jacobians(lambda *arguments: function(*arguments)[1])
        self.together = function
        return function

    def __call__(
        self,
        *arguments: Any,
        noise: Noise | None = None,
        loss: Loss | None = None,
        mask: Tensor | None = None,
    ) -> FactorGroup:
        """A group of M factors; references are optimized, all else is data (B|1, M|1, …)."""
        from dnls_ros.problem.factors import (
            make_group,
        )  # factors need Cost: the cycle is broken here

        if len(arguments) != len(self.parameters):
            raise DnlsError(
                f"cost '{self.name}' takes {len(self.parameters)} arguments {self.parameters}, "
                f"got {len(arguments)}"
            )
        return make_group(self, arguments, noise, loss, mask)

    def evaluate(self, arguments: tuple[Any, ...], shape: tuple[int, int]) -> Tensor:
        """(B, M, r) residuals of arguments whose leaves have axes (B|1, M|1, …).

        Raises:
            DnlsError: The function returns what is no residual, or ``vmap`` cannot take it.
        """
        r = self.differentiation.evaluate(self._residuals(arguments, shape))
        return r if r.shape[:2] == shape else r.expand(*shape, r.shape[-1])

    def linearize(
        self, arguments: tuple[Any, ...], shape: tuple[int, int], optimized: tuple[int, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Residuals (B, M, r) and one (B, M, r, t_k) Jacobian for each of ``optimized``."""
        if self.together is not None and self.batched:
            residual, lazy = self.together(*arguments)
            if max(optimized) < len(lazy):
                blocks = tuple(_expand(_computed(lazy[k]), shape) for k in optimized)
                return residual.expand(*shape, residual.shape[-1]), blocks
        known = self._known(arguments, shape, optimized)
        if known is None:
            return self._automatic(arguments, shape, optimized)
        return self.evaluate(arguments, shape), known

    def differentiate(
        self, arguments: tuple[Any, ...], shape: tuple[int, int], optimized: tuple[int, ...]
    ) -> tuple[Tensor, ...]:
        """One (B, M, r, t_k) Jacobian for each argument position in ``optimized``."""
        known = self._known(arguments, shape, optimized)
        return self.autodiff(arguments, shape, optimized) if known is None else known

    def autodiff(
        self, arguments: tuple[Any, ...], shape: tuple[int, int], optimized: tuple[int, ...]
    ) -> tuple[Tensor, ...]:
        """The same by automatic differentiation through the retraction, as the policy does it."""
        return self._automatic(arguments, shape, optimized)[1]

    def analytic_blocks(
        self, arguments: tuple[Any, ...], shape: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        """All registered Jacobians, (B|1, M|1, r, t_k) each, of a cost that has them."""
        function = self.analytic
        assert function is not None

        def computed(*instance: Any) -> tuple[Tensor, ...]:
            return tuple(_computed(block) for block in function(*instance))

        if self.batched:
            return computed(*arguments)
        return self.differentiation.evaluate(
            Instances(self.name, computed, False, arguments, shape, axes=2)
        )

    def _residuals(self, arguments: tuple[Any, ...], shape: tuple[int, int]) -> Instances:
        return Instances(self.name, self.residual, self.batched, arguments, shape)

    def _known(
        self, arguments: tuple[Any, ...], shape: tuple[int, int], optimized: tuple[int, ...]
    ) -> tuple[Tensor, ...] | None:
        """The analytic Jacobians, if there are some for all of ``optimized``."""
        if self.analytic is None:
            return None
        batched = self.batched
        lazy = self.analytic(*arguments) if batched else self.analytic_blocks(arguments, shape)
        if max(optimized) >= len(lazy):
            return None
        return tuple(_expand(_computed(lazy[k]), shape) for k in optimized)

    def _automatic(
        self, arguments: tuple[Any, ...], shape: tuple[int, int], optimized: tuple[int, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        residual, jacobian = self.differentiation.linearize(
            self._residuals(arguments, shape), optimized
        )
        dims = [tangent_dim(arguments[k]) for k in optimized]
        blocks = _expand(jacobian, shape).split(dims, -1)
        return residual.expand(*shape, residual.shape[-1]), blocks


@overload
def cost(residual: Residual) -> Cost: ...
@overload
def cost(
    *, batched: bool = False, differentiation: Differentiation = Vectorized()
) -> Callable[[Residual], Cost]: ...
def cost(
    residual: Residual | None = None,
    *,
    batched: bool = False,
    differentiation: Differentiation = Vectorized(),
) -> Cost | Callable[[Residual], Cost]:
    """Decorator: makes a `Cost` of a residual function (of one instance, unless ``batched``)."""
    if residual is not None:
        return Cost(residual)
    return lambda function: Cost(function, batched, differentiation)


def _computed(block: Block) -> Tensor:
    return block if isinstance(block, Tensor) else block()


def _expand(block: Tensor, shape: tuple[int, int]) -> Tensor:
    return block if block.shape[:2] == shape else block.expand(*shape, *block.shape[-2:])


def check_jacobians(
    cost: Cost, *example: Element | Tensor, step: float = 1e-6
) -> dict[str, float]:
    """Compares analytic, autodiff and central-difference Jacobians of a cost at one instance.

    Args:
        cost: The cost; must have analytic Jacobians.
        example: One instance's arguments, float64, without batch axes.
        step: Half width of the central difference (in the tangent).

    Returns:
        Largest absolute differences: ``{"autodiff": …, "numeric": …}``.

    Raises:
        DnlsError: The cost has no analytic Jacobians.
    """
    if cost.analytic is None:
        raise DnlsError(f"cost '{cost.name}' has no analytic Jacobians to check")
    lifted = tuple(pytree.tree_map(lambda t: t[None, None], a) for a in example)
    analytic = tuple(_expand(b, (1, 1)) for b in cost.analytic_blocks(lifted, (1, 1)))
    positions = tuple(range(len(analytic)))
    auto = cost.autodiff(lifted, (1, 1), positions)
    worst = {"autodiff": 0.0, "numeric": 0.0}
    for k in positions:
        numeric = _central_difference(cost, lifted, k, step)
        worst["autodiff"] = max(worst["autodiff"], float((analytic[k] - auto[k]).abs().max()))
        worst["numeric"] = max(worst["numeric"], float((analytic[k] - numeric).abs().max()))
    return worst


def _central_difference(cost: Cost, arguments: tuple[Any, ...], k: int, step: float) -> Tensor:
    columns = []
    for axis in range(tangent_dim(arguments[k])):
        delta = storage(arguments[k]).new_zeros(tangent_dim(arguments[k]))
        delta[axis] = step
        moved = [
            (*arguments[:k], retract(arguments[k], s * delta), *arguments[k + 1 :])
            for s in (1.0, -1.0)
        ]
        ahead, behind = (cost.evaluate(a, (1, 1)) for a in moved)
        columns.append((ahead - behind) / (2 * step))
    return torch.stack(columns, -1)
