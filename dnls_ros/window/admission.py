"""The way of new factors into the window: those of gated sensors are tested first.

All tests of a step are made against the same prediction, the window without any of them, so that
their order does not matter. It is taken from the problem with all of them, by leaving their rows
out: where all pass, as they mostly do, that problem is the one to solve. A sensor that has been
shut out for longer than ``gate.reopen_after`` is believed again with larger noise until its
measurements pass on their own: then the estimate was wrong, not the sensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dnls_ros.linear import Factorization, LinearSolver
from dnls_ros.optim import Assembly
from dnls_ros.problem import FactorGroup, Group, Structure, Values
from dnls_ros.window.absorb import NewFactors
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.explain import note_tests
from dnls_ros.window.gating import Innovation, innovation
from dnls_ros.window.measurements import Reason
from dnls_ros.window.state import Draft, GateState, State

UNKNOWN_INFORMATION = 1e-8
"""Added to every direction of a prediction [1/m², 1/rad²]: what nothing is known about (a new
landmark, a track that just starts) passes any gate and leaves the others' as they are."""

Statistics = Mapping[str, tuple[float, int]]
"""Sensor → (Σ normalized innovation squared, Σ dimensions)."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The window without the measurements under test.

    Attributes:
        values: Its mean, one Gauss–Newton step after what entered without a gate.
        structure: Of its problem.
        factorization: Of its Hessian.
    """

    values: Values
    structure: Structure
    factorization: Factorization

    @property
    def usable(self) -> bool:
        """Whether its covariance could be computed; else nothing can be called implausible."""
        return bool(self.factorization.ok.all())


@dataclass
class _Outcome:
    """Which measurements entered, and which sensors passed without help."""

    used: dict[int, bool] = field(default_factory=lambda: defaultdict(bool))
    passed: dict[str, bool] = field(default_factory=lambda: defaultdict(bool))
    statistics: dict[str, tuple[float, int]] = field(default_factory=dict[str, tuple[float, int]])

    def count(self, sensor: str, tested: Innovation) -> None:
        """Adds to the sensor's statistics."""
        total, dims = self.statistics.get(sensor, (0.0, 0))
        size = tested.dim * len(tested.nis)
        self.statistics[sensor] = total + float(tested.nis.sum()), dims + size


def admit(
    draft: Draft,
    fresh: Sequence[NewFactors],
    config: EstimatorConfig,
    linear: LinearSolver,
    assemble: Callable[[State], Assembly],
) -> Statistics:
    """Adds new factors to the draft, those of gated sensors through their gate.

    Args:
        draft: The working copy.
        fresh: New factors.
        config: Gates of the sensors.
        linear: Factorizes the prediction.
        assemble: The problem of a state over its structure.
    """
    gates = {s.name: s.gate_probability for s in config.sensors}
    plain = [new for new in fresh if not gates[new.sensor]]
    for new in plain:
        draft.add_factors(new.name, new.group)
    gated = [new for new in fresh if gates[new.sensor]]
    if not gated:
        return {}
    whole = Draft(draft.state, draft.now)
    for new in gated:
        whole.add_factors(new.name, new.group)
    prediction = _predict(draft.state, whole.state, linear, assemble, corrected=bool(plain))
    draft.predicted = prediction.values
    outcome = _Outcome()
    entering = [_tested(draft, new, prediction, config, outcome) for new in gated]
    if all(group is new.group for group, new in zip(entering, gated, strict=True)):
        draft.update(factors=whole.state.factors)
    else:
        for group, new in zip(entering, gated, strict=True):
            if group is not None:
                draft.add_factors(new.name, group)
    _settle(draft, gated, outcome)
    return outcome.statistics


def _predict(
    before: State,
    whole: State,
    linear: LinearSolver,
    assemble: Callable[[State], Assembly],
    corrected: bool,
) -> Prediction:
    """The window before the tests; ``corrected``: other new factors have moved its mean.

    Args:
        before: The window without the factors under test.
        whole: The window with them.
        linear: Factorizes.
        assemble: The problem of a state over its structure.
        corrected: Whether the values need a Gauss–Newton step first.
    """
    values, assembly = before.values, assemble(whole)
    rows = {name: _rows_of(before, whole, name, group) for name, group in assembly.problem.items()}
    normal = assembly.of_some(values, rows)
    if normal is None:  # not all by kernels: the problem without them is made for itself
        plain = assemble(before)
        assembly = Assembly(plain.problem, plain.structure)
        rows = None
        normal = assembly.normal_equations(values) if assembly.problem else None
    structure = assembly.structure
    pattern, symbolic = structure.pattern, assembly.symbolic(linear)
    hessian = torch.zeros(1, pattern.nnz, dtype=torch.float64)
    hessian[:, torch.from_numpy(pattern.diagonal)] = UNKNOWN_INFORMATION
    if normal is None:
        return Prediction(values, structure, symbolic.factorize(hessian))
    factorization = symbolic.factorize(normal.hessian + hessian)
    if not corrected:  # where the last solve and the odometry put it
        return Prediction(values, structure, factorization)
    moved = values.retract(-factorization.solve(normal.gradient[..., None])[..., 0])
    again = None if rows is None else assembly.of_some(moved, rows)
    cost = assembly.cost(moved) if again is None else again.cost
    better = bool((cost < normal.cost).all())
    return Prediction(moved if better else values, structure, factorization)


def _rows_of(before: State, whole: State, name: str, group: Group) -> Tensor:
    """(M,) which factors of a group of the whole window are not under test: the first ones."""
    if not isinstance(group, FactorGroup):
        return torch.ones(1, dtype=torch.bool)
    if name not in whole.factors:  # between neighbouring states
        return torch.ones(group.count, dtype=torch.bool)
    known = before.factors.get(name)
    return torch.arange(group.count) < (0 if known is None else known.count)


def _tested(
    draft: Draft,
    new: NewFactors,
    prediction: Prediction,
    config: EstimatorConfig,
    outcome: _Outcome,
) -> FactorGroup | None:
    """The factors as they may enter, in the order of ``new``; None if none may."""
    keep = torch.ones(new.group.count, dtype=torch.bool)
    if prediction.usable:
        tested = innovation(
            new.group, prediction.values, prediction.structure, prediction.factorization
        )
        probability = config.sensor(new.sensor).gate_probability
        keep = tested.passes(probability)
        outcome.count(new.sensor, tested)
        note_tests(draft, new, tested, keep, probability)
    outcome.passed[new.sensor] |= bool(keep.any())
    group = new.group
    if not bool(keep.all()) and _reopened(draft, new.sensor, config):
        draft.note(f"gate_reopened.{new.sensor}")
        group = _inflated(group, keep, config.gate.reopen_inflation)
        keep = torch.ones_like(keep)
    for source, kept in zip(new.sources, keep.tolist(), strict=True):
        outcome.used[id(source)] |= kept
    return group.select(keep) if bool(keep.any()) else None


def _reopened(draft: Draft, sensor: str, config: EstimatorConfig) -> bool:
    """Whether a sensor has been shut out for so long that it is believed again."""
    failing = draft.state.gates.get(sensor, GateState()).failing_since
    patience = config.gate.reopen_after
    return patience > 0 and failing is not None and draft.now - failing > patience * 1e9


def _inflated(group: FactorGroup, keep: Tensor, factor: float) -> FactorGroup:
    """The group in the same order, rows outside the gate with ``factor`` times the variance."""
    assert group.noise is not None  # every gated sensor has one
    wide = replace(group, noise=group.noise.scaled(factor**0.5))
    if not bool(keep.any()):
        return wide
    order = torch.cat([keep.nonzero().flatten(), (~keep).nonzero().flatten()])
    return group.select(keep).concat(wide.select(~keep)).select(torch.argsort(order))


def _settle(draft: Draft, gated: Sequence[NewFactors], outcome: _Outcome) -> None:
    """Verdicts of the measurements, and the gates' states."""
    tested = {id(s) for new in gated for s in new.sources if s is not None}
    draft.verdicts = [
        (m, (Reason.GATED, "outside the gate of its sensor"))
        if id(m) in tested and not outcome.used[id(m)]
        else (m, verdict)
        for m, verdict in draft.verdicts
    ]
    gates = dict(draft.state.gates)
    for sensor, passed in outcome.passed.items():
        since = gates.get(sensor, GateState()).failing_since
        start = draft.now if since is None else since
        gates[sensor] = GateState(draft.now, None) if passed else GateState(None, start)
    draft.update(gates=gates)
