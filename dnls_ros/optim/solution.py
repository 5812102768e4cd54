"""The result of a minimization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from dnls_ros.linear import Factorization, LinearSolver
from dnls_ros.optim.assembly import Assembly
from dnls_ros.optim.observability import Direction, directions_without_information
from dnls_ros.optim.status import Status
from dnls_ros.problem import Values


@dataclass(frozen=True, eq=False)
class Solution:
    """What was found, and how.

    Attributes:
        values: After the last accepted step.
        best: The values of the lowest cost that was met; unless the method goes uphill
            (Gauss–Newton, sampling) these are ``values``.
        status: One per batch element.
        cost: (B,) final objective, at ``values``.
        best_cost: (B,) at ``best``.
        initial_cost: (B,).
        iterations: (B,) trials of each element, rejected ones included.
        accepted: (B,) accepted steps.
        damping: (B,) final λ or 1/radius.
        largest_gradient: (B,) largest entry of the gradient at the last linearization.
        largest_step: (B,) largest entry of the last step that was accepted [m, rad]; 0 before one.
        hessian: (B, nnz) of the last linearization: at the values, or before the last step of an
            element that converged by it.
        assembly: The problem over its structure.
        linear: The solver that was used.
    """

    values: Values
    best: Values
    status: tuple[Status, ...]
    cost: Tensor
    best_cost: Tensor
    initial_cost: Tensor
    iterations: Tensor
    accepted: Tensor
    damping: Tensor
    largest_gradient: Tensor
    largest_step: Tensor
    hessian: Tensor
    assembly: Assembly
    linear: LinearSolver

    def last_factorization(self) -> Factorization:
        """The factor of the last linearization: as good as `factorization` for a covariance.

        It differs by the curvature over the last step and costs no linearization.
        """
        return self.assembly.symbolic(self.linear).factorize(self.hessian)

    def factorization(self) -> Factorization:
        """The Cholesky factor of the undamped H at the solution, for marginals and adjoints."""
        return self.assembly.symbolic(self.linear).factorize(self.final_hessian())

    def final_hessian(self) -> Tensor:
        """The undamped H = JᵀWJ at the solution, (B, nnz) on the structure's pattern."""
        with torch.inference_mode():
            hessian = self.assembly.normal_equations(self.values).hessian
        return hessian.clone()

    def failures(self) -> dict[int, str]:
        """Batch index → what went wrong, of every element that failed; singular ones in detail."""
        told: dict[int, str] = {}
        for index, status in enumerate(self.status):
            if status is Status.SINGULAR and bool(self.hessian[index].isfinite().all()):
                free = "; ".join(str(direction) for direction in self.unobservable(index)[:3])
                told[index] = f"{status.value}: {free}" if free else status.value
            elif status.failed:
                told[index] = status.value
        return told

    def unobservable(self, element: int = 0) -> tuple[Direction, ...]:
        """The directions about which the problem says nothing at the solution of one element.

        Raises:
            DnlsError: Its linearization is not finite, or there is no such element.
        """
        structure = self.assembly.structure
        return directions_without_information(
            structure, self.values, self.final_hessian(), element
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> Solution:
        """The same solution with ``function`` applied to each of its tensors."""
        changed: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            content = getattr(self, name)
            if isinstance(content, Tensor):
                changed[name] = function(content)
            elif isinstance(content, Values):
                changed[name] = content.map(function)
        if self.best is self.values:
            changed["best"] = changed["values"]
        return replace(self, **changed)
