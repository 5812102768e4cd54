"""A nonlinear least-squares problem: named factor groups, immutable, a pytree.

`Problem` knows its objective S(x) = ½ Σ ρ(‖L r(x)‖²) and its gradient, both differentiable in
every leaf (data, noise, radii). How it is minimized is none of its business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dnls_ros.errors import DnlsError
from dnls_ros.problem.agreement import check_agreement
from dnls_ros.problem.factors import Group
from dnls_ros.problem.structure import Structure, StructureCache
from dnls_ros.problem.variables import Values, among


class Problem(Mapping[str, Group]):
    """Factor groups by name.

    >>> Problem(anchor=prior(pose[0], z), odometry=between(pose[i], pose[j], z_ij))

    Args:
        groups: name → group.
        cache: See `cached`.
        named: More groups.
    """

    def __init__(
        self,
        groups: Mapping[str, Group] | None = None,
        cache: StructureCache | None = None,
        /,
        **named: Group,
    ) -> None:
        self._groups = {**(groups or {}), **named}
        self._cache = cache

    def __getitem__(self, name: str) -> Group:
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def __repr__(self) -> str:
        return f"Problem({', '.join(self)})"

    def replace(self, **groups: Group | None) -> Problem:
        """The same problem with some groups exchanged or added; None removes one."""
        merged = {**self._groups, **groups}
        kept = {name: group for name, group in merged.items() if group is not None}
        return Problem(kept, self._cache)

    def cached(self, cache: StructureCache) -> Problem:
        """The same problem; its structure is taken from ``cache`` while it is the last one's.

        For problems that are solved again and again with other numbers, as in training: symbolic
        work is then done once.
        """
        return Problem(self._groups, cache)

    def flatten(self) -> tuple[list[Group], tuple[tuple[str, ...], StructureCache | None]]:
        """Its groups, and what is static: their names and the cache."""
        return list(self._groups.values()), (tuple(self._groups), self._cache)

    def structure(self, values: Values) -> Structure:
        """The sparse structure over these values.

        Raises:
            DnlsError: A group refers to a variable that is not among the values, a variable has no
                factor, or dtypes, devices or batches do not agree.
        """
        self.check_touched(values)
        check_agreement(self, values)
        if self._cache is not None:
            return self._cache.get(self, values)
        return Structure.of(self, values)

    def check_touched(self, values: Values) -> None:
        """Every variable must have a factor: otherwise the problem is singular by construction.

        Raises:
            DnlsError: Names the first variables without a factor.
        """
        if not values:
            raise DnlsError("there is nothing to optimize: the values hold no block")
        for name, ids in values.ids.items():
            seen = [r.ids for group in self.values() for r in group.refs if r.name == name]
            lonely = ids[~among(ids, seen)]
            if len(lonely):
                self._check_known(values)  # a misspelt id leaves another variable alone
                raise DnlsError(
                    f"block '{name}': {len(lonely)} of {len(ids)} variables have no factor, "
                    f"first ids {lonely[:3].tolist()}; add a prior or leave them out of the values"
                )

    def _check_known(self, values: Values) -> None:
        for group in self.values():
            for ref in group.refs:
                values.slots(ref)

    def objective(self, values: Values, structure: Structure | None = None) -> Tensor:
        """S(x), (B,); differentiable in the values and in every leaf of the problem.

        With its ``structure`` the variables need not be looked up.
        """
        if structure is not None:
            return cost_of(self, values, structure)
        return _sum([group.objective(values) for group in self.values()])

    def gradient(
        self, values: Values, structure: Structure | None = None, recorded: bool = False
    ) -> Tensor:
        """∂S(x ⊞ δ)/∂δ at δ = 0, (B, n); differentiable in every leaf of problem and values.

        ``recorded``: also in what costs close over, even if no leaf requires a gradient.
        """
        recorded = recorded or requires_grad(self) or requires_grad(values)
        with torch.enable_grad():
            delta = zero_step(values).requires_grad_()
            total = self.objective(values.retract(delta), structure).sum()
            (gradient,) = torch.autograd.grad(total, delta, create_graph=recorded)
        return gradient

    def curvature(
        self, values: Values, structure: Structure | None = None
    ) -> Callable[[Tensor], Tensor]:
        """U ↦ H u, both (B, n), with the exact Hessian of S(x ⊞ δ) in δ at constants.

        By double backward; the graph of the gradient is recorded once.
        """
        problem, values = _detached(self), values.detach()
        with torch.enable_grad():
            delta = zero_step(values).requires_grad_()
            objective = problem.objective(values.retract(delta), structure).sum()
            (gradient,) = torch.autograd.grad(objective, delta, create_graph=True)

        def multiply(vector: Tensor) -> Tensor:
            if not gradient.requires_grad:
                return torch.zeros_like(vector)
            (product,) = torch.autograd.grad(gradient, delta, vector, retain_graph=True)
            return product

        return multiply


def _detached(problem: Problem) -> Problem:
    return pytree.tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, problem)


def requires_grad(tree: Problem | Values) -> bool:
    """Whether autograd records what is computed from any of the tensors."""
    return any(leaf.requires_grad for leaf in pytree.tree_leaves(tree))


def zero_step(values: Values) -> Tensor:
    """A zero tangent vector (B, n) for these values."""
    layout = values.layout()
    first = pytree.tree_leaves(values)[0]
    return first.new_zeros(values.batch, layout[-1].stop)


def cost_of(problem: Mapping[str, Group], values: Values, structure: Structure) -> Tensor:
    """S(x) with the slots already known, (B,)."""
    return _sum(
        [group.objective(values, structure.slots[name]) for name, group in problem.items()]
    )


def _sum(costs: list[Tensor]) -> Tensor:
    batch = max(c.shape[0] for c in costs)
    return torch.stack([c.expand(batch) for c in costs]).sum(0)


pytree.register_pytree_node(
    Problem,
    lambda p: p.flatten(),
    lambda groups, context: Problem(dict(zip(context[0], groups, strict=True)), context[1]),
    serialized_type_name="dnls_ros.Problem",
)
