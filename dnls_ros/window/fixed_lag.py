"""A sliding window of regular states whose whole step is one call of compiled code.

States come one after the other, each with the same kinds of factors: odometry to the one before, a
fix of its position now and then, a loop over ten states. Then the structure never changes, and
slide, marginalization, linearization, damping, factorization, solution, retraction and acceptance
run without any Python in between. For states at irregular times, variables that come and go, or
costs that kernels do not know, there are `minimize` and `marginalize`, whose results these are.

    pose = Variables("pose", SE2)
    window = FixedLag(
        pose,
        capacity=60,
        factors={
            "odometry": between(pose[0], pose[1], SE2.identity(1, 1), noise=Diagonal(sigmas)),
            "fix": prior(pose[0], SE2.identity(1, 1), noise=Diagonal(fix_sigmas)),
        },
        motion="odometry",
    )
    window.step({"fix": first})
    window.step({"odometry": z})

Needs numba, and float64 on the CPU. The kernel is compiled when the first window of its block size
is made, which takes a minute, and loaded from where it is kept afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.lie import Element, LieGroup
from dnls_ros.linear import Factorization, has_kernels, marginal_covariances
from dnls_ros.optim import LevenbergMarquardt, Status, Tolerances
from dnls_ros.optim.native import first_damping, settings_of, status_codes
from dnls_ros.optim.program import Floats, flat_state, with_state
from dnls_ros.optim.recipes import Recipe, recipe_of
from dnls_ros.optim.status import STATUSES
from dnls_ros.problem import FactorGroup, Values, Variables
from dnls_ros.problem.variables import on_storage
from dnls_ros.window.fixed_lag_tables import Channel, make_plan, numbers_of

Measured = Tensor | LieGroup | FactorGroup | None
"""A measurement: the last argument of its cost, or a whole factor with its own noise."""


@dataclass(frozen=True)
class Stepped:
    """What a step found.

    Attributes:
        status: Why the minimization ended.
        cost: ½Σρ at the solution, the marginal prior included.
        iterations: Trials of it.
    """

    status: Status
    cost: float
    iterations: int


class FixedLag:
    """A fixed-lag smoother over the last ``capacity`` states.

    Args:
        states: What a state consists of: one kind of variable, or several such as pose and
            velocity.
        capacity: States in the window.
        factors: Name → one factor of this kind. Its ids say how it lies: 0 is its oldest state,
            the largest id is the newest state of the window when its measurement comes. What it
            holds (noise, loss, mounts) holds for all of its kind.
        motion: Name of the factor that predicts a new state, a `between` over ids 0 and 1; without
            it, or without a measurement of it, the new state starts where the last one is.
        method: How to minimize.
        stop: When to stop. With one iteration a step linearizes once, as a Kalman filter does, and
            `covariance` is from before it.

    Raises:
        UnavailableError: numba is not installed.
        DnlsError: A factor is none that kernels know, or does not fit the window.
    """

    def __init__(
        self,
        states: Variables | Sequence[Variables],
        capacity: int,
        factors: Mapping[str, FactorGroup],
        *,
        motion: str | None = None,
        method: LevenbergMarquardt | None = None,
        stop: Tolerances | None = None,
    ) -> None:
        if not has_kernels():
            raise UnavailableError(
                "FixedLag needs numba, which is not installed: `pip install numba`, or use "
                "minimize() and marginalize()"
            )
        kinds = (states,) if isinstance(states, Variables) else tuple(states)
        with torch.no_grad():
            self._plan = make_plan(kinds, capacity, factors)
        self.capacity = capacity
        self.count = 0
        """States since the beginning; the id of a state is how many came before it."""
        self._factors = dict(factors)
        self._motion_name = motion
        self._motion = self._checked_motion(motion)
        self._still_used = np.zeros(len(self._plan.unused))
        self._fixed = self._kernel_arguments(method or LevenbergMarquardt(), stop or Tolerances())
        self._places: dict[tuple[str, ...], Any] = {}
        self._load_kernel()

    def _load_kernel(self) -> None:
        """Compiles or loads it now, instead of at the first measurement."""
        from dnls_ros.kernels.fixed_lag import Given, step

        refused = np.array([np.nan])  # before anything is changed
        self._kernel: Any = step
        self._kernel(*self._fixed, Given(False, _NOTHING, refused, _NOWHERE, _NOTHING, _NONE))

    def _kernel_arguments(self, method: LevenbergMarquardt, stop: Tolerances) -> Any:
        from dnls_ros.kernels.layout import Blocks, Found

        plan, s = self._plan, self._plan.symbolic.structure
        if stop.seconds is not None:
            raise DnlsError("FixedLag: Tolerances.seconds is a budget of one call; leave it out")
        left = s.left_start, s.left_column, s.left_block
        ends = s.place, s.entry, s.ones, plan.symbolic.pattern.diagonal
        blocks = Blocks(s.start, s.rows, *left, *ends)
        state = flat_state(plan.values).copy()
        self._found = Found(
            state,
            state.copy(),
            np.zeros((1, plan.symbolic.pattern.nnz)),
            np.zeros((1, 8)),
            np.zeros((1, 3), np.int64),
        )
        return (
            s.unit,
            plan.window.program,
            blocks,
            settings_of(method, stop)._replace(ends_linearized=False),
            status_codes(),
            first_damping(method, 1),
            plan.window.room,
            self._found,
            plan.local,
            plan.tables,
        )

    def step(
        self,
        measured: Mapping[str, Measured],
        guess: Mapping[str, Tensor | LieGroup] | None = None,
    ) -> Stepped:
        """A new state with its measurements; the oldest one leaves if the window is full.

        Args:
            measured: Name of a factor → what was measured, in the storage of one element (any
                leading axes of length 1); None for a factor that has no measurement.
            guess: Block → where the new state starts, instead of where ``motion`` says.

        Raises:
            DnlsError: A name or size is wrong, a number is not finite, or the window has not yet
                the states that a factor connects. Nothing has changed then.
        """
        from dnls_ros.kernels.fixed_lag import Given

        numbers = self._numbers(measured)
        starts, start = self._start(guess or {})
        given = Given(
            self.count >= self.capacity,
            self._places_of(measured),
            numbers,
            self._motion if self._moves(measured) else _NOWHERE,
            starts,
            start,
        )
        if not self._kernel(*self._fixed, given):
            raise DnlsError(f"FixedLag.step: {self._not_finite(measured, guess or {})} not finite")
        self.count += 1
        counts = self._found.counts[0]
        return Stepped(STATUSES[counts[0]], float(self._found.numbers[0, 0]), int(counts[1]))

    @property
    def values(self) -> Values:
        """The states in the window, (1, N, …) per block, by their ids (copies)."""
        values = with_state(self._plan.values, self._found.x.copy())
        there = min(self.count, self.capacity)
        ids = torch.arange(self.count - there, self.count)
        blocks = {name: _last(element, there) for name, element in values.items()}
        return Values(blocks, dict.fromkeys(blocks, ids), checked=True)

    def covariance(self, block: str, age: int = 0) -> Tensor:
        """(t, t) of a state ``age`` states before the newest, from the last linearization.

        Raises:
            DnlsError: There is no such block or state.
        """
        if not 0 <= age < min(self.count, self.capacity):
            raise DnlsError(
                f"FixedLag.covariance: age {age}, but there are {min(self.count, self.capacity)} "
                "states"
            )
        return marginal_covariances(self.factorization(), block, [self.capacity - 1 - age])[0, 0]

    def factorization(self) -> Factorization:
        """Of the undamped Hessian of the last linearization, unused slots held."""
        return self._plan.symbolic.factorize(torch.from_numpy(self._found.hessian))

    def _numbers(self, measured: Mapping[str, Measured]) -> Floats:
        """All that is written: masks, and what was measured."""
        for name in measured:
            if name not in self._factors:
                raise DnlsError(
                    f"FixedLag.step: no factor '{name}'; there are {list(self._factors)}"
                )
        parts: list[Floats] = [self._still_used]
        for name, channel in self._plan.channels.items():
            there = name in measured
            parts.append(_ON if there else _OFF)
            if there:
                self._check_reach(name, channel)
                parts += self._row(name, channel, measured[name])
        return np.concatenate(parts)

    def _check_reach(self, name: str, channel: Channel) -> None:
        if channel.span > min(self.count, self.capacity - 1):
            raise DnlsError(
                f"FixedLag.step: '{name}' connects states {channel.span} apart, but there were "
                f"only {self.count} before this one"
            )

    def _not_finite(
        self, measured: Mapping[str, Measured], guess: Mapping[str, Tensor | LieGroup]
    ) -> str:
        for name, given in measured.items():
            row = self._row(name, self._plan.channels[name], given)
            if not all(np.isfinite(part).all() for part in row):
                return f"the measurement of '{name}' is"
        return f"a guess for {list(guess)} is"

    def _row(self, name: str, channel: Channel, measured: Measured) -> list[Floats]:
        if measured is None:
            return []
        if isinstance(measured, FactorGroup):
            return self._whole_row(name, channel, measured)
        row = _one(measured)
        if len(row) != channel.measured[1] or row.dtype != np.float64:
            raise DnlsError(
                f"FixedLag.step: '{name}' takes {channel.measured[1]} numbers in float64, got "
                f"{len(row)} in {row.dtype}"
            )
        return [row]

    def _whole_row(self, name: str, channel: Channel, factor: FactorGroup) -> list[Floats]:
        """A factor with numbers of its own."""
        kind = self._factors[name]
        made = recipe_of(factor, self._plan.values)
        parts = numbers_of(made) if isinstance(made, Recipe) else ()
        same = factor.cost is kind.cost and factor.refs == kind.refs
        same = same and type(factor.noise) is type(kind.noise)
        same = same and type(factor.loss) is type(kind.loss)
        if not same or [len(part) for part in parts] != [width for _, width in channel.last]:
            raise DnlsError(
                f"FixedLag.step: the factor for '{name}' must be as the one that the window was "
                "made with: in cost, ids, and the kinds of noise and loss"
            )
        return list(parts)

    def _places_of(self, measured: Mapping[str, Measured]) -> Any:
        """(P, 2) where the numbers go: begin and count."""
        key = tuple(_form(measured, name) for name in self._plan.channels)
        if key not in self._places:
            rows = [(at, 1) for at in self._plan.unused]
            for channel, form in zip(self._plan.channels.values(), key, strict=True):
                rows.append((channel.mask, 1))
                begin, count = channel.measured
                if form == "whole":
                    rows += channel.last
                elif form == "measured":
                    rows.append((channel.last[0][0] + begin, count))
            self._places[key] = np.array(rows, np.int64)
        return self._places[key]

    def _start(self, guess: Mapping[str, Tensor | LieGroup]) -> tuple[Any, Floats]:
        """Where in the state a guess goes, and its numbers."""
        if not guess:
            return _NOTHING, _NONE
        rows, numbers = [], []
        blocks = self._plan.window.program.blocks
        names = list(self._plan.values)
        for name, element in guess.items():
            row = _one(element)
            if name not in names or len(row) != blocks[names.index(name), 3]:
                raise DnlsError(
                    f"FixedLag.step: a guess of {len(row)} numbers for '{name}'; the states are "
                    f"{dict(zip(names, blocks[:, 3].tolist(), strict=True))}"
                )
            _, count, at, width, _, _ = blocks[names.index(name)]
            rows.append((at + (count - 1) * width, width))
            numbers.append(row)
        return np.array(rows, np.int64), np.concatenate(numbers)

    def _checked_motion(self, name: str | None) -> Any:
        """Where the measured motion lies, the manifold, both states, and the tangent width."""
        from dnls_ros.kernels import layout as c

        if name is None:
            return _NOWHERE
        group, channel = self._factors.get(name), self._plan.channels.get(name)
        differences = c.BETWEEN6, c.BETWEEN_PLANE, c.BETWEEN_VECTOR
        if (
            group is None
            or channel is None
            or channel.kind not in differences
            or channel.span != 1
        ):
            raise DnlsError(
                f"FixedLag: motion '{name}' must be a factor `between(x[0], x[1], z)`; "
                f"the factors are {list(self._factors)}"
            )
        block = self._plan.window.program.blocks[list(self._plan.values).index(group.refs[0].name)]
        manifold, count, at, width, _, t = block.tolist()
        after = at + (count - 1) * width
        return np.array([channel.last[0][0], manifold, after - width, after, t])

    def _moves(self, measured: Mapping[str, Measured]) -> bool:
        """Whether the motion to the new state was measured."""
        return self._motion_name in measured


_ON, _OFF = np.ones(1), np.zeros(1)
_NOTHING, _NONE = np.zeros((0, 2), np.int64), np.zeros(0)
_NOWHERE = np.full(5, -1, np.int64)


def _form(measured: Mapping[str, Measured], name: str) -> str:
    given = measured.get(name)
    if given is None:
        return ""
    return "whole" if isinstance(given, FactorGroup) else "measured"


def _one(element: Tensor | LieGroup) -> Floats:
    """The numbers that store one element."""
    return (
        (element if isinstance(element, Tensor) else element.tensor).detach().numpy().reshape(-1)
    )


def _last(element: Element, count: int) -> Element:
    return on_storage(element, lambda t: t[:, t.shape[1] - count :])
