"""One step of the estimator: absorb, gate, solve, marginalize, report. Everything on a draft."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.linear import Factorization, LinearSolver
from dnls_ros.optim import Geometric, LevenbergMarquardt, Solution, Status, Tolerances, minimize
from dnls_ros.problem import FactorGroup, Group, Problem, StructureCache, Values
from dnls_ros.problem.variables import among
from dnls_ros.window.absorb import Registry, absorb
from dnls_ros.window.admission import Statistics, admit
from dnls_ros.window.bodies import Body
from dnls_ros.window.chains import Motion, Segments, chain_groups
from dnls_ros.window.config import QUASI_STATIC, EstimatorConfig
from dnls_ros.window.landmark_init import LandmarkInitializer
from dnls_ros.window.marginalize import PRIOR, Marginalized, marginalize
from dnls_ros.window.measurements import Measurement
from dnls_ros.window.pushing import push_groups
from dnls_ros.window.sensors import loss_of
from dnls_ros.window.state import LANDMARK, Draft, State
from dnls_ros.window.timing import TimedAssembly
from dnls_ros.window.touching import forget, timelines_of

PATIENCE = 20
"""States leave together, when the oldest is a twentieth of the lag older than the lag."""


@dataclass(frozen=True, eq=False)
class Step:
    """What one step did.

    Attributes:
        draft: The verdicts and the new state.
        solution: Of the minimization, before marginalization.
        factorization: Of the undamped Hessian of its last linearization.
        marginalized: What left the window; None if nothing did.
        nis: Sensor → (Σ NIS, Σ dimensions) of tested factors.
        seconds: Stage → wall time [s].
    """

    draft: Draft
    solution: Solution
    factorization: Factorization
    marginalized: Marginalized | None
    nis: Statistics
    seconds: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class StepRunner:
    """The fixed parts of a step.

    Attributes:
        config: The estimator's configuration.
        registry: Its tracks and sensors.
        initializer: Places new landmarks.
        linear: The linear solver.
        cache: Keeps structures and patterns while they repeat.
        memory: Keeps the factors between neighbouring states while those repeat.
    """

    config: EstimatorConfig
    registry: Registry
    initializer: LandmarkInitializer
    linear: LinearSolver
    cache: StructureCache = field(default_factory=StructureCache)
    memory: ChainMemory = field(default_factory=lambda: ChainMemory())

    def run(self, state: State, measurements: Sequence[Measurement], now: int) -> Step | Draft:
        """Solves with ``measurements``; the draft alone if there is nothing to solve yet."""
        watch = _Watch()
        draft = Draft(state, now)
        fresh = absorb(draft, self.registry, self.initializer, measurements)
        draft.fresh = fresh
        self._forget(draft)
        watch.lap("build")
        if not self._started(draft):
            return draft
        nis = admit(draft, fresh, self.config, self.linear, self.assembly)
        self._remove_lonely(draft)
        watch.lap("gate")
        if not self._started(draft):
            return draft
        solution = self._minimize(draft)
        if solution.status[0] is Status.NOT_FINITE:
            raise DnlsError(f"the window cannot be solved: {Status.NOT_FINITE.value}")
        draft.update(values=solution.values)
        watch.lap("solve")
        factorization = solution.last_factorization()
        watch.lap("covariance")
        marginalized = self._slide(draft, solution)
        watch.lap("marginalize")
        return Step(draft, solution, factorization, marginalized, nis, watch.seconds)

    def _started(self, draft: Draft) -> bool:
        """Whether any track has a state."""
        return any(r.body.name in draft.state.values for r in self.registry.rules.values())

    def _forget(self, draft: Draft) -> None:
        """Samples of tracks that did not start within the lag, and when lost landmarks were seen.

        Nothing of a started track: its samples go when its states do.
        """
        increments = dict(draft.state.increments)
        for rules in self.registry.rules.values():
            forget(draft, rules, self.registry.track_of, draft.now - self.registry.lag)
            for name in () if rules.body.name in draft.state.values else rules.chain:
                increments[name] = increments[name].since(draft.now - self.registry.lag)
        ids = draft.state.values.ids.get(LANDMARK)
        kept = () if ids is None else ids.tolist()
        seen = {key: draft.state.seen[key] for key in kept if key in draft.state.seen}
        draft.update(increments=increments, seen=seen)

    def problem(self, state: State) -> Problem:
        """All factors of the window: measured, between neighbouring states, and the prior."""
        groups: dict[str, Group] = {**state.factors, **self.chains(state)}
        if state.prior is not None:
            groups[PRIOR] = state.prior
        return Problem(groups)

    def assembly(self, state: State) -> TimedAssembly:
        """The problem over its structure, made once for the same factors and variables."""
        chains = self.chains(state)
        key = chains, state.factors, state.prior, state.values.ids
        known = self.memory.assembly
        if known is None or not all(a is b for a, b in zip(key, known[0], strict=True)):
            problem, prior = self.problem(state), state.prior
            first = prior.point if prior is not None and prior.first_estimates else None
            structure = self.cache.get(problem, state.values)
            known = self.memory.assembly = key, TimedAssembly(problem, structure, first)
        return known[1]

    def chains(self, state: State) -> dict[str, FactorGroup]:
        """The factors between neighbouring states, made once for the same states and samples."""
        key = (
            state.increments,
            (
                state.contacts,
                *(state.values.ids.get(r.body.name) for r in self.registry.rules.values()),
            ),
        )
        known = self.memory.get(key)
        if known is None:
            known = self.memory.put(key, self._make_chains(state))
        return known

    def _make_chains(self, state: State) -> dict[str, FactorGroup]:
        out: dict[str, FactorGroup] = {}
        for rules in self.registry.rules.values():
            ids = state.values.ids.get(rules.body.name)
            if ids is None:
                continue
            pushed = rules.track.motion == QUASI_STATIC
            model = "none" if pushed else rules.track.motion
            motion = Motion(model, rules.track.motion_sigma, rules.limits)
            samples = {
                n: (state.increments[n], loss_of(self.config.sensor(n))) for n in rules.chain
            }
            known = self.memory.segments
            out.update(chain_groups(rules.body, ids.numpy(), motion, samples, known))
            if pushed:
                heard = timelines_of(state.contacts, self.registry.models, rules.track.name)
                out.update(push_groups(rules, state.values, heard))
        return out

    def _remove_lonely(self, draft: Draft) -> None:
        """Variables without any factor (their measurements were gated, or wait) leave again."""
        groups = self.problem(draft.state)
        values = draft.state.values
        for name, ids in list(values.ids.items()):
            seen = [r.ids for g in groups.values() for r in g.refs if r.name == name]
            keep = among(ids, seen)
            if not bool(keep.all()):
                values = values.select(name, keep)
        if values is draft.state.values:
            return
        for rules in self.registry.rules.values():
            values = _without_bare_velocities(rules.body, values)
        factors = {n: _on(g, values) for n, g in draft.state.factors.items()}
        draft.update(values=values, factors={n: g for n, g in factors.items() if g.count})

    def _minimize(self, draft: Draft) -> Solution:
        assembly, values = self.assembly(draft.state), draft.state.values
        assembly.watch.restart()
        method, stop = self._method
        return minimize(assembly.problem, values, method, self.linear, stop, assembly=assembly)

    @cached_property
    def _method(self) -> tuple[LevenbergMarquardt, Tolerances]:
        """How to minimize, and when to stop."""
        solver = self.config.solver
        stop = Tolerances(
            solver.cost_tolerance,
            solver.step_tolerance,
            solver.gradient_tolerance,
            solver.max_iterations,
            None if self.config.deterministic else solver.time_budget,
        )
        rule = Geometric(solver.lambda_factor)
        return LevenbergMarquardt(solver.lambda_init, rule, solver.lambda_max), stop

    def _slide(self, draft: Draft, solution: Solution) -> Marginalized | None:
        leaving = {**self._old_states(draft), **self._surplus_landmarks(draft)}
        if not leaving:
            return None
        groups = {**draft.state.factors, **self.chains(draft.state)}
        result = marginalize(
            groups,
            draft.state.prior,
            draft.state.values,
            leaving,
            self.config.window.prior_fej,
            solution.assembly,
        )
        factors = result.left(draft.state.factors)
        draft.update(values=result.values, factors=factors, prior=result.prior)
        increments = dict(draft.state.increments)
        for rules in self.registry.rules.values():
            stamps = draft.stamps(rules.body)
            for name in rules.chain if len(stamps) else ():
                increments[name] = increments[name].since(int(stamps[0]))
        draft.update(increments=increments)
        return result

    def _old_states(self, draft: Draft) -> dict[str, Tensor]:
        """States older than the lag, or beyond the largest count; the newest always stays."""
        out: dict[str, Tensor] = {}
        for rules in self.registry.rules.values():
            stamps = draft.stamps(rules.body)
            if not len(stamps):
                continue
            horizon = min(draft.now - self.registry.lag, int(stamps[-1]))
            if stamps[0] >= horizon - self.registry.lag // PATIENCE:
                horizon = int(stamps[0])  # too few to be worth a marginalization
            horizon = max(horizon, int(stamps[-min(len(stamps), self.config.window.max_states)]))
            old = torch.from_numpy(stamps < horizon)
            if bool(old.any()):
                out[rules.body.name] = old
                if rules.body.moving:
                    out[rules.body.velocity] = old
        return out

    def _surplus_landmarks(self, draft: Draft) -> dict[str, Tensor]:
        """Landmarks beyond the largest count: those longest unseen that no factor needs."""
        ids = draft.state.values.ids.get(LANDMARK)
        surplus = 0 if ids is None else len(ids) - self.config.window.max_landmarks
        if ids is None or surplus <= 0:
            return {}
        counts = _factor_counts(draft.state, ids)
        last = [draft.state.seen.get(key, 0) for key in ids.tolist()]
        free = [k for k in np.argsort(last, kind="stable").tolist() if counts[k] == 0][:surplus]
        if not free:
            return {}
        leaving = torch.zeros(len(ids), dtype=torch.bool)
        leaving[torch.tensor(free)] = True
        draft.note("dropped_landmarks", len(free))
        return {LANDMARK: leaving}


def _without_bare_velocities(body: Body, values: Values) -> Values:
    """Velocities leave with their poses."""
    ids = values.ids.get(body.velocity)
    if ids is None:
        return values
    poses = values.ids.get(body.name, ids[:0])
    return values.select(body.velocity, among(ids, [poses]))


def _on(group: FactorGroup, values: Values) -> FactorGroup:
    """The factors whose variables are all among the values."""
    there = torch.ones(group.count, dtype=torch.bool)
    for ref in group.refs:
        there &= torch.isin(ref.ids, values.ids.get(ref.name, ref.ids[:0]))
    return group.select(there)


def _factor_counts(state: State, ids: Tensor) -> np.ndarray:
    """How many factors of the window see each landmark."""
    seen = np.zeros(len(ids), dtype=np.int64)
    for group in state.factors.values():
        for ref in group.refs:
            if ref.name == LANDMARK:
                np.add.at(seen, torch.searchsorted(ids, ref.ids).numpy(), 1)
    return seen


class ChainMemory:
    """The chain factors of the last states and samples, and the last problem.

    All are immutable, so identity tells whether they are the same.
    """

    def __init__(self) -> None:
        self.assembly: tuple[tuple[object, ...], TimedAssembly] | None = None
        self.segments: dict[str, Segments] = {}
        self._key: tuple[object, tuple[object, ...]] = (None, ())
        self._chains: dict[str, FactorGroup] | None = None

    def get(self, key: tuple[object, tuple[object, ...]]) -> dict[str, FactorGroup] | None:
        """The factors, if they were made for these very objects."""
        same = len(key[1]) == len(self._key[1]) and all(
            a is b for a, b in zip(key[1], self._key[1], strict=True)
        )
        return self._chains if same and key[0] is self._key[0] else None

    def put(
        self, key: tuple[object, tuple[object, ...]], chains: dict[str, FactorGroup]
    ) -> dict[str, FactorGroup]:
        """Remembers them."""
        self._key, self._chains = key, chains
        return chains


class _Watch:
    """Wall time by stage; nothing but reports depends on it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._last = clock()
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Ends a stage."""
        now = self._clock()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
