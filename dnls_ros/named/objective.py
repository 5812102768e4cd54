"""Objectives of named variables, data and costs: for problems that are thought of one by one.

In the core a variable is a block and an id; here it is a word, ``"pose_0"`` or ``"w_z"``, and so
is every datum and every cost. Declare the words, add costs that name them, and solve through a
`Layer` or, by `Objective.bind`, with anything that the core offers. What is added is only noted;
it is grouped at the first use and stays so until something is added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.lie import Element
from dnls_ros.named.bound import Bound
from dnls_ros.named.grouping import plan_of
from dnls_ros.named.kinds import Declared, Kind, Space, kind_of, manifold
from dnls_ros.named.plan import Plan, Variable, describe
from dnls_ros.named.row import Named, Row, check_row, noise_by_name
from dnls_ros.problem import Cost, Loss, Noise
from dnls_ros.problem.variables import Manifold

Inputs = Mapping[str, Any]
"""name → element or tensor (B|1, …), or structured data with such tensors."""


class Objective:
    """½Σρ(‖L r‖²) over named variables.

    >>> objective = Objective()
    >>> objective.variables(SE2, "x0", "x1")
    >>> objective.data(SE2, "z01")
    >>> objective.add(prior, "x0", SE2.identity(), noise=Isotropic(1e-3), name="anchor")
    >>> objective.add(between, "x0", "x1", "z01", noise=Diagonal(sigmas), name="odometry")
    """

    def __init__(self) -> None:
        self._variables: dict[str, Variable] = {}
        self._data: dict[str, Kind] = {}
        self._rows: dict[str, Row] = {}
        self._blocks: dict[str, Space] = {}
        self._counts: Counter[str] = Counter()  # variables of each block
        self._numbers: Counter[str] = Counter()  # costs of each function
        self._costs: dict[Callable[..., Any], Cost] = {}
        self._plan: Plan | None = None

    def variables(self, manifold_of: Manifold, *names: str, block: str | None = None) -> None:
        """Declares what is optimized.

        Args:
            manifold_of: ``SE3``, ``SE2``, ``SO3``, ``SO2`` or ``Euclidean(n)``.
            names: At least one.
            block: Variables of one block become one block of the core, which solvers such as
                ``Schur("point", …)`` can name; by default there is one per manifold.

        Raises:
            DnlsError: A name is taken, or the block holds another manifold.
        """
        space = manifold(manifold_of)
        group = space.group.__name__ if space.group else f"Euclidean({space.shape[0]})"
        block = block or group
        if self._blocks.get(block, space) != space:
            raise DnlsError(f"block '{block}' holds {self._blocks[block]}, not {space}")
        self._check_free(names)
        self._blocks[block] = space
        for name in names:
            self._variables[name] = Variable(space, block, self._counts[block])
            self._counts[block] += 1
        self._plan = None

    def data(self, kind: Declared, *names: str) -> None:
        """Declares what is given: measurements, parameters, weights, maps.

        Args:
            kind: A group (``SE3``), ``Euclidean(n)``, ``float`` (one number), the shape of a
                tensor, or a class of structured data (a pytree of tensors).
            names: At least one.

        Raises:
            DnlsError: A name is taken, or the kind is none of these.
        """
        read = kind_of(kind)
        self._check_free(names)
        self._data.update(dict.fromkeys(names, read))
        self._plan = None

    def add(
        self,
        cost: Cost | Callable[..., Tensor],
        *arguments: Any,
        noise: Noise | Named | str | None = None,
        loss: Loss | Named | None = None,
        mask: str | None = None,
        name: str | None = None,
    ) -> str:
        """Adds a cost.

        Args:
            cost: The residual of one instance: a `Cost` or a function.
            arguments: One per parameter of the cost: a word is the name of a variable or of data,
                anything else is a constant as one instance sees it.
            noise: A noise model, ``Named(Diagonal, "sigmas")``, or a name in its place: of data
                that is one standard deviation, one per dimension, or a square-root information.
            loss: A robust loss, or ``Named(Huber, "radius")``.
            mask: Name of a ``float``: where it is 0 this cost counts nothing.
            name: Of the cost; by default its function's and how many of it there were before.

        Returns:
            The name.

        Raises:
            DnlsError: A name is unknown or taken, or something does not fit; names the cost.
        """
        known = cost if isinstance(cost, Cost) else self._costs.get(cost) or Cost(cost)
        self._costs[known.residual] = known
        label = name or f"{known.name}_{self._numbers[known.name]}"
        if label in self._rows:
            raise DnlsError(f"there is a cost '{label}' already; names must differ")
        noise = cast(Noise | Named | None, noise_by_name(noise, self._data))
        row = Row(label, known, arguments, noise, loss, mask)
        check_row(row, self._variables, self._data)
        self._rows[label] = row
        self._numbers[known.name] += 1
        self._plan = None
        return label

    def __iter__(self) -> Iterator[str]:
        """The names of the costs, in the order in which they were added."""
        return iter(self._rows)

    def __len__(self) -> int:
        """How many costs there are."""
        return len(self._rows)

    def plan(self) -> Plan:
        """What has been declared and added so far, grouped.

        Raises:
            DnlsError: A variable has no cost.
        """
        if self._plan is None:
            self._plan = plan_of(self._variables, self._data, list(self._rows.values()))
        return self._plan

    def bind(self, inputs: Inputs) -> Bound:
        """The core's problem and starting values for these inputs.

        Raises:
            DnlsError: Names are missing or unknown, or an input does not fit its name.
        """
        return self.plan().bind(inputs)

    def residuals(self, inputs: Inputs) -> dict[str, Tensor]:
        """Cost → its residual (B, r), in its own units."""
        return self.bind(inputs).residuals()

    def whitened(self, inputs: Inputs) -> dict[str, Tensor]:
        """Cost → L r (B, r), in standard deviations."""
        return self.bind(inputs).whitened()

    def costs(self, inputs: Inputs) -> dict[str, Tensor]:
        """Cost → ½ρ(‖L r‖²) (B,)."""
        return self.bind(inputs).costs()

    def cost(self, inputs: Inputs) -> Tensor:
        """½Σρ(‖L r‖²), (B,); differentiable in all inputs."""
        return self.bind(inputs).cost()

    def error_vector(self, inputs: Inputs) -> Tensor:
        """All costs below one another, (B, Σr), scaled so that ½‖·‖² is the cost."""
        return self.bind(inputs).error_vector()

    def gradient(self, inputs: Inputs) -> dict[str, Element]:
        """Variable → ∂cost/∂δ (B, t) in its tangent space, of right perturbations."""
        return {**self.bind(inputs).gradient()}

    @classmethod
    def declared(cls, content: Mapping[str, Any]) -> Objective:
        """The objective with the declarations of a `Plan`, checked as if they were made anew."""
        made = cls()
        for name, space, block in content["variables"]:
            made.variables(space, name, block=block)
        for name, kind in content["data"]:
            made.data(kind, name)
        for row in content["costs"]:
            made.add(
                row.cost,
                *row.arguments,
                noise=row.noise,
                loss=row.loss,
                mask=row.mask,
                name=row.name,
            )
        return made

    def _check_free(self, names: tuple[str, ...]) -> None:
        if not names:
            raise DnlsError("nothing is declared: give at least one name")
        for name in names:
            if not isinstance(name, str) or not name:
                raise DnlsError(f"names are words, got {name!r:.40}; did a * go missing?")
            if name in self._variables or name in self._data:
                raise DnlsError(f"there is a {describe(name, self._variables)} already")
        if len(set(names)) < len(names):
            raise DnlsError(f"a name is declared twice in {names}")
