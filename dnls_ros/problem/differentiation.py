"""How a cost without analytic Jacobians is evaluated and differentiated: policies, one per cost.

All give the same numbers. They differ in what code they take, in speed and in memory:

    `Vectorized`       ``vmap`` over instances: the default
    `BackwardNetwork`  all rows at once and plain backward passes: any code over leading axes
    `Loop`             one instance after the other: any code at all, such as data-dependent steps
    `DenseAutodiff`    one backward pass per entry of all residuals: the reference

Derivatives are those of the residual at x ⊞ δ for δ = 0, with a δ of its own for every instance
and argument, so that a variable that many factors share (or one factor twice) still gives one
block for each. They can be differentiated in turn: where autograd records, so do the policies, and
where it does not (in `minimize`, which runs in torch's inference mode), they record for themselves
and keep nothing. Under the transforms of ``torch.func`` only `Vectorized` works.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.lie import retract, tangent_dim
from dnls_ros.problem.instances import Chunk, Instances, check_chunk, in_boxes
from dnls_ros.problem.variables import storage

FORWARD_FROM = 4
"""Forward mode pays where the residual is so many times as long as the tangent (measured)."""

Linearized = tuple[Tensor, Tensor]
Positions = tuple[int, ...]
Evaluate = Callable[[Instances], Any]
Blocks = Callable[[Tensor, Tensor, bool], Tensor]


class Differentiation(Protocol):
    """How the instances of a cost are evaluated and differentiated."""

    def evaluate(self, instances: Instances) -> Any:
        """The values of all instances, (B|1, M|1, …)."""
        ...

    def linearize(self, instances: Instances, optimized: Positions) -> Linearized:
        """Their residuals (B|1, M|1, r) and Jacobians (B|1, M|1, r, T).

        T is the tangent dimension of the ``optimized`` arguments together, side by side.
        """
        ...


@dataclass(frozen=True)
class Vectorized:
    """``vmap`` over the instances; by rows in reverse mode, or by columns in forward mode.

    Reverse mode takes r backward passes for a residual of length r, forward mode T for a tangent
    of dimension T; the passes are vectorized too. Forward mode here differentiates the linear map
    u ↦ Jᵀu of the backward pass once more: torch's own (``jacfwd``) is silently wrong under
    ``vmap`` over ``linalg.solve``, ``det`` and ``slogdet`` in torch 2.13, though only from two
    instances on, so that no trial on one instance would tell; and it was slower on all examples.
    The second pass also yields pᵀJ for a fixed p by the *first* pass, and so every Jacobian that
    is made in forward mode is checked: pᵀJ must be what the backward pass gives.

    Attributes:
        mode: ``"auto"`` takes forward mode where r ≥ 4T, and reverse mode if the code cannot be
            differentiated twice, or the check fails or cannot be made (under a ``vmap`` of the
            caller's, or on a device that the host would have to wait for). ``"forward"`` raises a
            `DnlsError` then, and waits.
        chunk: Instances at a time. It bounds what is needed meanwhile, r or T times the
            intermediate results, unless autograd records and keeps them all.
    """

    mode: Literal["auto", "reverse", "forward"] = "auto"
    chunk: Chunk = None

    def __post_init__(self) -> None:
        check_chunk(self.chunk)
        if self.mode not in ("auto", "reverse", "forward"):
            raise DnlsError(f"mode must be 'auto', 'reverse' or 'forward', got {self.mode!r}")

    def evaluate(self, instances: Instances) -> Any:
        return _evaluated(instances, self.chunk, Instances.vectorized)

    def linearize(self, instances: Instances, optimized: Positions) -> Linearized:
        linearized = partial(self._linearized, optimized=optimized)
        return in_boxes(instances.narrowed(), self.chunk, linearized)

    def _linearized(self, box: Instances, optimized: Positions) -> Linearized:
        if self.mode == "reverse":
            return box.vectorized(lambda *x: _by_rows(*_pullback(box, x, optimized)))
        try:
            residual, jacobian, *image = box.vectorized(
                lambda *x: self._chosen(*_pullback(box, x, optimized))
            )
            if not image or _agree(jacobian.detach(), image[0].detach()):
                return residual, jacobian
            doubt = "its columns contradict its rows"
        except Exception as error:  # reverse mode raises it again if it is the cost's own
            doubt = f"{type(error).__name__}: {error}"
        found = replace(self, mode="reverse")._linearized(box, optimized)
        if self.mode == "forward":
            raise DnlsError(
                f"cost '{box.name}': the backward pass cannot be differentiated once more, as "
                f"forward mode does ({doubt}); take Vectorized('reverse') or Vectorized('auto')"
            )
        return found

    def _chosen(self, residual: Tensor, pull: Pull, t: int) -> tuple[Tensor, ...]:
        unasked = residual.device.type != "cpu"  # the check of forward mode reads numbers
        if self.mode == "auto" and (unasked or len(residual) < FORWARD_FROM * t):
            return _by_rows(residual, pull, t)
        image, push = _vjp(pull, _probe(residual, len(residual)))
        return residual, vmap(push)(_eye(t, residual)).mT, image


@dataclass(frozen=True)
class BackwardNetwork:
    """DeepLM's backward jacobian network: all residuals at once, one backward pass per dimension.

    Every residual row gets a private copy of its variables (here: a private δ). Rows do not
    depend on the copies of others, so the gradient of the summed column k with respect to all
    copies holds row k of every Jacobian: r backward passes for all of them (Huang, Huang, Sun,
    *DeepLM: Large-scale nonlinear least squares on deep learning frameworks using stochastic
    domain decomposition*, CVPR 2021). It takes any torch code that is written over leading axes
    (``batched``), also where ``vmap`` does not work: custom autograd functions, ``item()`` of
    shared numbers, in-place operations. A cost of one instance is lifted by ``vmap`` first.

    That a residual depends on the variables of another row is not found out here, as it is by
    `DenseAutodiff`.

    Attributes:
        replicated: The copies are repeated for the r dimensions, along the batch axis, and one
            backward pass gives everything: r times the memory of the evaluation.
        chunk: Instances at a time (copies included).
    """

    replicated: bool = False
    chunk: Chunk = None

    def __post_init__(self) -> None:
        check_chunk(self.chunk)

    def evaluate(self, instances: Instances) -> Any:
        return _evaluated(instances, self.chunk, Instances.vectorized)

    def linearize(self, instances: Instances, optimized: Positions) -> Linearized:
        narrow, copies = instances.narrowed(), 1
        evaluate = partial(_value, lifted=Instances.vectorized)
        blocks = _by_dimension
        if self.replicated and narrow.count:
            with torch.no_grad():
                copies = evaluate(next(narrow.singles())).shape[-1]
            blocks = partial(_by_copy, copies=copies)
        return in_boxes(
            narrow,
            self.chunk,
            lambda box: _recorded(box, optimized, evaluate, blocks, copies),
            copies,
        )


@dataclass(frozen=True)
class Loop:
    """One instance after the other, r backward passes each.

    For code that neither ``vmap`` nor leading axes can take, such as ``if`` on the values or a
    number of iterations that depends on them. Slow, and with the memory of a single instance.
    """

    def evaluate(self, instances: Instances) -> Any:
        return _evaluated(instances, None, Instances.one_by_one)

    def linearize(self, instances: Instances, optimized: Positions) -> Linearized:
        evaluate = partial(_value, lifted=Instances.one_by_one)
        return in_boxes(
            instances.narrowed(),
            1,
            lambda box: _recorded(box, optimized, evaluate, _by_dimension),
        )


@dataclass(frozen=True)
class DenseAutodiff:
    """One backward pass of the whole stack for each entry of all residuals: the reference.

    It takes any code and assumes nothing: that a residual depends on the variables of its own
    instance only is checked, not used. Its time grows with the square of the number of instances.

    Attributes:
        chunk: Instances at a time.
    """

    chunk: Chunk = None

    def __post_init__(self) -> None:
        check_chunk(self.chunk)

    def evaluate(self, instances: Instances) -> Any:
        return _evaluated(instances, self.chunk, Instances.one_by_one)

    def linearize(self, instances: Instances, optimized: Positions) -> Linearized:
        evaluate = partial(_value, lifted=Instances.one_by_one)
        blocks = partial(_by_entry, instances.name)
        return in_boxes(
            instances.narrowed(),
            self.chunk,
            lambda box: _recorded(box, optimized, evaluate, blocks),
        )


def _evaluated(instances: Instances, chunk: Chunk, lifted: Evaluate) -> Any:
    if instances.batched and chunk is None:
        return instances.together()
    return in_boxes(instances.narrowed(), chunk, partial(_value, lifted=lifted))


def _value(box: Instances, lifted: Evaluate) -> Any:
    """The values of a box, (B, M, …); ``lifted`` evaluates functions of one instance."""
    if not box.batched:
        return lifted(box)
    return pytree.tree_map(lambda t: t.expand(*box.shape, *t.shape[2:]), box.together())


def _retracted(arguments: tuple[Any, ...], optimized: Positions, step: Tensor) -> tuple[Any, ...]:
    """The arguments with the ``optimized`` ones moved by their parts of ``step`` (…, T)."""
    parts = step.split([tangent_dim(arguments[k]) for k in optimized], -1)
    moved = list(arguments)
    for k, part in zip(optimized, parts, strict=True):
        moved[k] = retract(moved[k], part)
    return tuple(moved)


def _zero_step(arguments: tuple[Any, ...], optimized: Positions, *leading: int) -> Tensor:
    total = sum(tangent_dim(arguments[k]) for k in optimized)
    return storage(arguments[optimized[0]]).new_zeros(*leading, total)


# Vectorized: functional transforms of one instance

Pull = Callable[[Tensor], Tensor]


def _pullback(
    box: Instances, instance: tuple[Any, ...], optimized: Positions
) -> tuple[Tensor, Pull, int]:
    """The residual of one instance, its map u ↦ Jᵀu, and T."""
    zero = _zero_step(instance, optimized)
    moved = partial(_retracted, instance, optimized)
    residual, pull = _vjp(lambda step: box.of_one(*moved(step)), zero)
    return residual, pull, len(zero)


def _vjp(function: Pull, at: Tensor) -> tuple[Tensor, Pull]:
    """The function's value at a point and its vector-Jacobian product there."""
    value, pull = vjp(function, at)[:2]
    return value, lambda u: pull(u)[0]


def _by_rows(residual: Tensor, pull: Pull, t: int) -> Linearized:
    return residual, vmap(pull)(_eye(len(residual), residual))


def _eye(n: int, like: Tensor) -> Tensor:
    return torch.eye(n, dtype=like.dtype, device=like.device)


def _probe(like: Tensor, r: int) -> Tensor:
    """Positive numbers (r,) without a pattern: the fractional parts of the golden ratio's."""
    k = torch.arange(1, r + 1, dtype=like.dtype, device=like.device)
    return 0.5 + (k * 0.6180339887498949).frac()


def _agree(jacobian: Tensor, image: Tensor) -> bool:
    """Whether pᵀJ is what the backward pass gave for p, up to rounding."""
    if not jacobian.numel():
        return True
    probe = _probe(jacobian, jacobian.shape[-2])
    product = (probe[:, None] * jacobian).sum(-2)
    size = (probe[:, None] * jacobian.abs().nan_to_num(0, 0, 0)).sum(-2).amax(-1)
    both = product.isfinite() & image.isfinite()
    gap = (product - image).abs().where(both, 0.0).amax(-1)
    same = (product.isfinite() == image.isfinite()).all(-1)
    root = torch.finfo(size.dtype).eps ** 0.5
    # What is small against the others by more than half the digits may be rounding alone.
    return bool((same & (gap <= root * size.clamp(min=root * size.max()))).all())


# The others: plain autograd


def _recorded(
    box: Instances, optimized: Positions, evaluate: Evaluate, blocks: Blocks, copies: int = 1
) -> Linearized:
    """Records the evaluation at a zero step of which every instance has its own.

    Args:
        box: The instances.
        optimized: Their arguments that move.
        evaluate: Gives residuals (B, M, r).
        blocks: Gives Jacobians (B, M, r, T) by backward passes from residuals to steps.
        copies: How often the instances are repeated along the batch axis.
    """
    # What is recorded below depends on the step. The residual that is returned must not, and it
    # tells whether anything else asks for derivatives, be it only a tensor that the cost closes
    # over.
    kept = evaluate(box) if torch.is_grad_enabled() else None
    create = kept is not None and kept.requires_grad
    b, m = box.shape
    with torch.inference_mode(False), torch.enable_grad():
        plain = box.map(partial(_plain, copies=copies, attached=create))
        step = _zero_step(plain.arguments, optimized, copies * b, m).requires_grad_()
        moved = _retracted(plain.arguments, optimized, step)
        residual = evaluate(replace(plain, arguments=moved, shape=(copies * b, m)))
        jacobian = blocks(residual, step, create)
    return (
        residual[:b].detach() if kept is None else kept,
        jacobian if create else jacobian.detach(),
    )


def _plain(leaf: Tensor, copies: int, attached: bool) -> Tensor:
    """A tensor that autograd can record, repeated along the batch axis if it has one."""
    if leaf.is_inference():
        leaf = leaf.clone()
    elif not attached:
        leaf = leaf.detach()
    return leaf.repeat(copies, *[1] * (leaf.ndim - 1)) if leaf.shape[0] > 1 else leaf


def _gradient(output: Tensor, step: Tensor, create: bool) -> Tensor:
    if not output.requires_grad:  # a constant
        return torch.zeros_like(step)
    (gradient,) = torch.autograd.grad(
        output, step, retain_graph=True, create_graph=create, materialize_grads=True
    )
    return gradient


def _by_dimension(residual: Tensor, step: Tensor, create: bool) -> Tensor:
    """One backward pass for each column, summed over the instances."""
    rows = [_gradient(column.sum(), step, create) for column in residual.unbind(-1)]
    return torch.stack(rows, -2)


def _by_copy(residual: Tensor, step: Tensor, create: bool, copies: int) -> Tensor:
    """One backward pass: copy k of the instances gives column k."""
    columns = residual.unflatten(0, (copies, -1)).diagonal(dim1=0, dim2=-1)
    gradient = _gradient(columns.sum(), step, create)
    return gradient.unflatten(0, (copies, -1)).movedim(0, -2)


def _by_entry(name: str, residual: Tensor, step: Tensor, create: bool) -> Tensor:
    """One backward pass for each entry, of which only the own instance's part may count."""
    rows: list[Tensor] = []
    for b, m, k in torch.cartesian_prod(*map(torch.arange, residual.shape)).tolist():
        gradient = _gradient(residual[b, m, k], step, create)
        rows.append(gradient[b, m])
        others = gradient.detach().nan_to_num(0, 0, 0)  # 0 · ∞ is no dependence
        others = others.index_put((torch.tensor(b), torch.tensor(m)), others.new_zeros(()))
        if bool(others.any()):
            raise DnlsError(
                f"cost '{name}': the residual of factor {m} of its batch element depends on the "
                "variables of another instance; residuals of a cost must be independent"
            )
    return torch.stack(rows).view(*residual.shape, step.shape[-1])
