"""An objective as a module: a dictionary of inputs in, a dictionary of solutions out.

The layer solves, differentiates by the policy it was given, and owns default values of inputs,
which are its parameters and buffers. Whatever is given at a call wins over a default. The
structure of the problem and its symbolic factorization are made at the first call and kept while
only numbers and batch sizes change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dnls_ros.diff import Adjoint, Implicit, solve
from dnls_ros.errors import DnlsError
from dnls_ros.lie import Element
from dnls_ros.linear import Dense, LinearSolver
from dnls_ros.named.bound import Bound
from dnls_ros.named.files import read, write
from dnls_ros.named.objective import Inputs, Objective
from dnls_ros.named.plan import Plan, describe
from dnls_ros.optim import Callback, LevenbergMarquardt, Method, Solution, Tolerances
from dnls_ros.problem.coding import path_of


class Layer(nn.Module):
    """Solves an objective.

    What is added to the objective later is not in this layer.

    Args:
        objective: Its costs are taken as they are now.
        method: How steps are found and judged. What it holds as ``nn.Parameter``, such as a
            first damping, is learned (by adjoints that see the steps: `Unroll`, `Truncated`).
        linear: Solves the linear systems; from some hundred unknowns on take ``Cholmod()``.
        adjoint: How the solution is differentiated.
        tolerances: When to stop; tight ones make implicit derivatives exact.
        defaults: Values of inputs that a call need not give, data or starting values. An
            ``nn.Parameter`` (or what holds one) is learned, everything else is a buffer.

    Raises:
        DnlsError: A variable has no cost, or a default does not fit its name.
    """

    def __init__(
        self,
        objective: Objective,
        method: Method[Any] = LevenbergMarquardt(),
        linear: LinearSolver = Dense(),
        adjoint: Adjoint = Implicit(),
        tolerances: Tolerances = Tolerances(),
        defaults: Inputs | None = None,
    ) -> None:
        super().__init__()
        self.plan = objective.plan()
        self.method, self.linear, self.adjoint = method, linear, adjoint
        self.tolerances = tolerances
        self.defaults = Defaults(self.plan, defaults or {})
        for where, setting in (("method", method), ("linear", linear), ("adjoint", adjoint)):
            for name, parameter in _learned(where, setting):
                self.register_parameter(name, parameter)
        for k, leaf in enumerate(self.plan.constants):
            self.register_buffer(f"constant_{k}", leaf.clone(), persistent=False)

    def forward(
        self, inputs: Inputs | None = None, callback: Callback | None = None
    ) -> tuple[dict[str, Element], Solution]:
        """Minimizes from the given starting values.

        Args:
            inputs: name → element or tensor (B|1, …), for every variable and datum without a
                default. All are in one dtype, on one device.
            callback: Sees every iteration and may stop; a `History` keeps them.

        Returns:
            name → solution (B, …) of every variable, an element where one was given and a tensor
            where a tensor was; and the core's solution: status, cost and iterations per batch
            element, factorization.

        Raises:
            DnlsError: Names are missing or unknown, or an input does not fit its name.
        """
        bound = self.bind(inputs)
        found = solve(
            bound.problem,
            bound.values,
            self.method,
            linear=self.linear,
            adjoint=self.adjoint,
            tolerances=self.tolerances,
            callback=callback,
        )
        return bound.outputs(found.values), found

    def bind(self, inputs: Inputs | None = None) -> Bound:
        """The problem of a call, unsolved; tells residuals, costs and gradients by name."""
        constants = [self.get_buffer(f"constant_{k}") for k in range(len(self.plan.constants))]
        return self.plan.bind({**self.defaults.values(), **(inputs or {})}, constants)

    def at(self, *names: str) -> tuple[str, list[int]]:
        """The block of variables and their places in it, as ``marginal_covariance`` takes them.

        Raises:
            DnlsError: A name is no variable, or they are in different blocks.
        """
        for name in names:
            self.plan.kind(name)
            if name not in self.plan.variables:
                raise DnlsError(f"{describe(name, self.plan.variables)} is not optimized")
        places = [self.plan.variables[name] for name in names]
        blocks = {place.block for place in places}
        if len(blocks) != 1:
            raise DnlsError(f"{names} must be in one block, they are in {sorted(blocks)}")
        return blocks.pop(), [place.id for place in places]

    @property
    def objective(self) -> Objective:
        """The objective that this layer solves, as one that can be added to."""
        return Objective.declared(self.plan.declarations())

    def save(self, path: Path | str) -> None:
        """Writes objective, settings and parameters to one file.

        Raises:
            DnlsError: A cost has no import path (a lambda, a function inside a function), or a
                setting is no dataclass.
            OSError: The file cannot be written; nothing half written stays.
        """
        for row in self.plan.rows:
            try:
                path_of(row.cost)
            except DnlsError as error:
                raise DnlsError(f"'{row.name}' cannot be saved: {error}") from error
        content = {
            **self.plan.declarations(),
            "settings": (self.method, self.linear, self.adjoint, self.tolerances),
            "defaults": self.defaults.values(),
        }
        write(path, content)

    @classmethod
    def load(cls, path: Path | str, modules: Collection[str] = ()) -> Layer:
        """Reads a layer, onto the CPU; nothing in the file is executed.

        Args:
            path: The file.
            modules: Modules besides this package's whose costs and classes may occur.

        Raises:
            UnreadableInputError: The file is missing or damaged, or it names what may not be
                loaded.
        """

        def make(content: Mapping[str, Any]) -> Layer:
            method, linear, adjoint, tolerances = content["settings"]
            kinds = hasattr(method, "propose"), hasattr(linear, "analyze"), callable(adjoint)
            if not (all(kinds) and isinstance(tolerances, Tolerances)):
                raise ValueError("its settings are no method, solver, adjoint and tolerances")
            objective = Objective.declared(content)
            return cls(objective, method, linear, adjoint, tolerances, content["defaults"])

        return read(path, make, modules)

    def extra_repr(self) -> str:
        """What ``print`` adds."""
        return (
            f"{len(self.plan.variables)} variables, {len(self.plan.rows)} costs in "
            f"{len(self.plan.groups)} groups, {self.linear.name}"
        )


@dataclass(frozen=True, eq=False)
class _Place:
    """Under which names the tensors of a default are registered, and how they make it up."""

    keys: tuple[str, ...]
    tree: pytree.TreeSpec

    def __deepcopy__(self, memo: object) -> _Place:
        return self


class Defaults(nn.Module):
    """Values of inputs, kept as parameters and buffers under their names."""

    def __init__(self, plan: Plan, given: Inputs) -> None:
        super().__init__()
        self._places: dict[str, _Place] = {}
        for name, value in given.items():
            plan.kind(name).read(describe(name, plan.variables), value)
            leaves, tree = pytree.tree_flatten(value)
            keys = (
                (name,) if len(leaves) == 1 else tuple(f"{name}:{k}" for k in range(len(leaves)))
            )
            for key, leaf in zip(keys, leaves, strict=True):
                self._keep(key, leaf)
            self._places[name] = _Place(keys, tree)

    def values(self) -> dict[str, Any]:
        """name → value."""
        return {
            name: pytree.tree_unflatten([self._leaf(key) for key in place.keys], place.tree)
            for name, place in self._places.items()
        }

    def _leaf(self, key: str) -> Tensor:
        return cast(Tensor, getattr(self, key))

    def _keep(self, key: str, leaf: Tensor) -> None:
        if "." in key or hasattr(self, key):
            raise DnlsError(
                f"'{key}' cannot have a default: modules do not take parameters of that name; "
                "rename it or give it with the inputs"
            )
        if isinstance(leaf, nn.Parameter):
            self.register_parameter(key, leaf)
        elif leaf.requires_grad:
            raise DnlsError(
                f"the default of '{key}' is a tensor that requires gradients; wrap it in "
                "nn.Parameter to learn it here, or give it with the inputs"
            )
        else:
            self.register_buffer(key, leaf)


def _learned(where: str, setting: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters among the fields of a setting, such as a learned first damping."""
    if isinstance(setting, nn.Parameter):
        yield where, setting
    elif is_dataclass(setting):
        for f in fields(setting):
            yield from _learned(f"{where}_{f.name}", getattr(setting, f.name))
