"""Adam and stochastic gradient descent for poses and networks in one optimizer.

A parameter on a manifold is the storage tensor (*batch, s) of its elements, and its group of
parameters says ``manifold=SE3``; all others are plain tensors and move as with ``torch.optim``.
One step on a manifold:

    g = ∂f(x ⊞ δ)/∂δ at δ = 0        `tangent_gradient` of what autograd left on the storage
    δ = the step of torch's own Adam or SGD from 0 along g, with moments in the tangent space
    x ← x ⊞ δ                        then scaled back to unit length

The moments are vectors (…, t) in body axes and stay what they are while x moves: left translation
carries one tangent space to the next (a vector transport: Absil, Mahony and Sepulchre,
*Optimization Algorithms on Matrix Manifolds*, 2008, §8.1). It also gives a Lie group what other
manifolds lack, axes that are the same everywhere, so that Adam may scale each of them by itself
where Bécigneul and Ganea (*Riemannian adaptive optimization methods*, ICLR 2019) keep a single
second moment per manifold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias, cast, overload

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import Optimizer, ParamsT
from torch.optim.sgd import sgd

from dnls_ros.errors import DnlsError
from dnls_ros.lie.gradient import tangent_gradient
from dnls_ros.lie.manifold import Euclidean, LieGroup, retract

FAR_FROM_UNIT = 1e-3
"""A storage that normalizing would change by more is a mistake, not rounding."""

Manifold: TypeAlias = type[LieGroup] | Euclidean | None
State: TypeAlias = dict[str, Any]


class ManifoldOptimizer(Optimizer, ABC):
    """A first-order optimizer whose groups of parameters may lie on a Lie group."""

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        _refuse_decay(type(self).__name__, defaults["manifold"], defaults["weight_decay"])
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, as dict(params=…) with options of their own, ``manifold`` among them.

        Raises:
            DnlsError: The storage is not that of the manifold's elements, or the group asks for
                weight decay on a Lie group.
        """
        name, group = type(self).__name__, dict(param_group)
        manifold = group.get("manifold", self.defaults["manifold"])
        if _is_group(name, manifold):
            _refuse_decay(name, manifold, group.get("weight_decay", 0))
            group["weight_decay"] = 0
        super().add_param_group(group)
        try:
            for position, parameter in enumerate(self.param_groups[-1]["params"]):
                _check_parameter(f"{name}: parameter {position}", manifold, parameter)
        except DnlsError:
            del self.param_groups[-1]
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; the groups must lie on the manifolds they lay on when saved."""
        saved = [group.get("manifold") for group in state_dict["param_groups"]]
        own = [group["manifold"] for group in self.param_groups]
        if saved != own:
            raise DnlsError(
                f"{type(self).__name__}: the state was saved for groups of parameters with "
                f"manifolds {saved}, got {own}; make the groups in the same order"
            )
        super().load_state_dict(state_dict)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step along the gradients; ``closure`` computes them anew and returns the loss.

        Raises:
            DnlsError: A gradient is sparse; then no parameter has moved.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [[p for p in g["params"] if p.grad is not None] for g in self.param_groups]
        for parameter in (p for parameters in moving for p in parameters):
            if parameter.grad.layout != torch.strided:
                raise DnlsError(
                    f"{type(self).__name__}: the gradient of a parameter of shape "
                    f"{tuple(parameter.shape)} is sparse, expected a dense one; give that layer "
                    "sparse=False, or a torch optimizer of its own"
                )
        for group, parameters in zip(self.param_groups, moving, strict=True):
            if parameters:
                self._step_group(group, parameters)
        return loss

    def _step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        gradients = [cast(Tensor, p.grad) for p in parameters]
        states = [self.state[p] for p in parameters]
        manifold = group["manifold"]
        if manifold is None or isinstance(manifold, Euclidean):
            self._descend(group, parameters, gradients, states)
            return
        elements = [manifold(p) for p in parameters]
        gradients = [tangent_gradient(x, g) for x, g in zip(elements, gradients, strict=True)]
        steps = [torch.zeros_like(g) for g in gradients]
        self._descend(group, steps, gradients, states)
        for parameter, x, step in zip(parameters, elements, steps, strict=True):
            parameter.copy_(retract(x, step).normalized().tensor)

    @abstractmethod
    def _descend(
        self,
        group: dict[str, Any],
        points: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
    ) -> None:
        """Moves vectors in place along their gradients; moments are kept in the states."""


class ManifoldAdam(ManifoldOptimizer):
    """Adam (Kingma and Ba, ICLR 2015) on Lie groups and plain tensors.

    >>> ManifoldAdam([{"params": net.parameters()}, {"params": [poses], "manifold": SE3}], lr=1e-2)

    Args:
        params: Tensors or groups of parameters; on a manifold, storage tensors (*batch, s).
        lr: The step; on a manifold about the length of one coordinate's first steps [m, rad].
        betas: Decay rates of the two moments.
        eps: Added to the root of the second.
        weight_decay: Of plain tensors only: no pose is more likely than another. Groups on a
            manifold do not inherit it, and may not ask for it.
        amsgrad: Divide by the largest second moment so far.
        maximize: Ascend.
        manifold: Of the groups that do not name theirs; None = plain tensors.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        manifold: Manifold = None,
    ) -> None:
        _check_options("ManifoldAdam", lr=lr, eps=eps, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise DnlsError(f"ManifoldAdam: betas must lie in [0, 1), got {betas}")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "manifold": manifold,
            },
        )

    def _descend(
        self,
        group: dict[str, Any],
        points: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
    ) -> None:
        for state, point in zip(states, points, strict=True):
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(point)
                state["exp_avg_sq"] = torch.zeros_like(point)
                if group["amsgrad"]:
                    state["max_exp_avg_sq"] = torch.zeros_like(point)
        beta1, beta2 = group["betas"]
        adam(
            points,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            [state["step"] for state in states],
            amsgrad=group["amsgrad"],
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )


class ManifoldSGD(ManifoldOptimizer):
    """Gradient descent with momentum on Lie groups and plain tensors.

    Args:
        params: Tensors or groups of parameters; on a manifold, storage tensors (*batch, s).
        lr: The step per gradient.
        momentum: How much of the last step is kept, in body axes.
        dampening: How much of the gradient is left out of the momentum.
        weight_decay: Of plain tensors only, as in `ManifoldAdam`.
        nesterov: Look ahead along the momentum.
        maximize: Ascend.
        manifold: Of the groups that do not name theirs; None = plain tensors.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
        maximize: bool = False,
        manifold: Manifold = None,
    ) -> None:
        _check_options("ManifoldSGD", lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum == 0 or dampening != 0):
            raise DnlsError(
                "ManifoldSGD: nesterov needs a momentum above 0 and no dampening, got momentum "
                f"{momentum} and dampening {dampening}"
            )
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "manifold": manifold,
            },
        )

    def _descend(
        self,
        group: dict[str, Any],
        points: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
    ) -> None:
        momenta = [state.get("momentum_buffer") for state in states]
        sgd(
            points,
            gradients,
            momenta,
            has_sparse_grad=False,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )
        if group["momentum"]:
            for state, momentum in zip(states, momenta, strict=True):
                state["momentum_buffer"] = momentum


def _is_group(name: str, manifold: Any) -> bool:
    """Whether steps are taken by retraction."""
    if manifold is None or isinstance(manifold, Euclidean):
        return False
    if isinstance(manifold, type) and issubclass(manifold, LieGroup):
        return True
    raise DnlsError(
        f"{name}: manifold must be a Lie group such as SE3, Euclidean(n) or None, got {manifold!r}"
    )


def _check_options(name: str, **options: float | Tensor) -> None:
    for option, value in options.items():
        if not 0 <= float(value) < torch.inf:
            raise DnlsError(f"{name}: {option} must be finite and not negative, got {value}")


def _refuse_decay(name: str, manifold: Any, weight_decay: float) -> None:
    if weight_decay and _is_group(name, manifold):
        raise DnlsError(
            f"{name}: weight_decay={weight_decay} on {manifold.__name__}: there is no origin to "
            "decay to; add a prior to the loss, or give the plain tensors a group of their own"
        )


def _check_parameter(where: str, manifold: Manifold, parameter: Tensor) -> None:
    if parameter.is_complex():
        raise DnlsError(f"{where} is complex ({parameter.dtype}), expected a real tensor")
    if manifold is None:
        return
    label = str(manifold) if isinstance(manifold, Euclidean) else manifold.__name__
    if parameter.shape[-1:] != (manifold.storage_dim,):
        raise DnlsError(
            f"{where} has shape {tuple(parameter.shape)}, expected (*batch, "
            f"{manifold.storage_dim}): the storage of elements of {label}"
        )
    if isinstance(manifold, Euclidean) or parameter.numel() == 0:
        return
    storage = parameter.detach()
    apart = (manifold(storage).normalized().tensor - storage).abs().amax()
    if not bool(apart < FAR_FROM_UNIT):
        raise DnlsError(
            f"{where} is not the storage of elements of {label}: its unit part is off by "
            f"{float(apart):.2g}; start from {label}(…).normalized().tensor"
        )
