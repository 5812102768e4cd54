"""The estimator: the one object that node, replay and tests drive.

``feed`` takes a measurement in, ``step(now)`` solves with everything stamped until then,
``pose_at`` answers for any stamp. A step: samples of motion into their buffers; states for the new
stamps; factors; gates; Levenberg–Marquardt; marginalization of what is older than the lag. It
works on a draft of the immutable `State`, so that an exception leaves the estimator as it was.
Owned by one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.lie import LieGroup
from dnls_ros.linear import LinearSolver, choose_device, choose_solver
from dnls_ros.optim import Solution
from dnls_ros.problem import Problem
from dnls_ros.window.absorb import MOTION_MODELS, Registry, absolute_pose
from dnls_ros.window.archive import Archive
from dnls_ros.window.bodies import Array, Body
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.explain import explain
from dnls_ros.window.growth import TrackRules, too_late
from dnls_ros.window.increments import Increments, Stamps
from dnls_ros.window.ingress import Ingress, SensorCounters, Settled, Verdict
from dnls_ros.window.landmark_init import LandmarkInitializer, PendingLandmark
from dnls_ros.window.measurements import CameraIntrinsics, Measurement, Reason, Rejection
from dnls_ros.window.placement import Anchor, with_prior, without_track
from dnls_ros.window.registry import build_registry
from dnls_ros.window.report import Marginals, answer, describe
from dnls_ros.window.results import PoseAt, StepResult
from dnls_ros.window.state import Draft, State
from dnls_ros.window.step import Step, StepRunner
from dnls_ros.window.wanted import Wanted


@dataclass(frozen=True, eq=False)
class Attempt:
    """A step that was computed and does not count yet.

    Attributes:
        done: What the step did; the draft alone if there was nothing to solve; None if it failed.
        marginals, result: What can be said of it, if it solved.
        pending: Landmarks that wait for a second view, after it.
        failure: The exception that ended it.
    """

    done: Step | Draft | None
    marginals: Marginals | None
    result: StepResult | None
    pending: dict[int, PendingLandmark]
    failure: Exception | None

    @property
    def failure_text(self) -> str:
        """Why it failed; '' if it did not."""
        failure = self.failure
        return "" if failure is None else f"the solve failed: {type(failure).__name__}: {failure}"

    @property
    def draft(self) -> Draft | None:
        """The working copy at its end."""
        return self.done.draft if isinstance(self.done, Step) else self.done


@dataclass(frozen=True, eq=False)
class Smoothed:
    """The full solution of one track.

    Attributes:
        stamps: (N,) [ns].
        poses: (N, 7).
        solution: Of the whole problem.
    """

    stamps: Stamps
    poses: Array
    solution: Solution


class Estimator:
    """A fixed-lag smoother over the configured tracks and sensors.

    Args:
        config: From `load_parameters`.
        linear: The linear solver; by default chosen by ``solver.linear_solver``.
        archive: Keep what leaves the window, for `smooth` (memory grows with time).

    Raises:
        DnlsError: Inconsistent configuration; UnavailableError for a solver or device that is
            absent.
    """

    def __init__(
        self, config: EstimatorConfig, *, linear: LinearSolver | None = None, archive: bool = False
    ) -> None:
        self.config = config
        self.wanted = Wanted()
        self.linear, self.choices = _linear(config, linear)
        self._keep = archive
        self._start()
        self._ingress = Ingress(config, self._too_late)

    def _start(self) -> None:
        self._archive = Archive() if self._keep else None
        self._registry: Registry = build_registry(self.config)
        self._initializer = LandmarkInitializer()
        self._runner = StepRunner(self.config, self._registry, self._initializer, self.linear)
        self._state = self._empty_state()
        self._marginals: Marginals | None = None
        self._window_id = 0
        self._now = 0

    def _empty_state(self) -> State:
        increments: dict[str, Increments] = {}
        for rules in self._registry.rules.values():
            for name in rules.chain:
                model = self._registry.models[name]
                assert isinstance(model, MOTION_MODELS)
                increments[name] = model.empty()
        return State(increments=increments)

    @property
    def counters(self) -> Mapping[str, SensorCounters]:
        """Sensor → its account: received = accepted + Σ rejected + waiting, always."""
        return self._ingress.counters

    def drain(self) -> list[Settled]:
        """What became of measurements since the last call; drivers call it after every step."""
        return self._ingress.drain()

    @property
    def state(self) -> State:
        """The window as it is (immutable)."""
        return self._state

    @property
    def solved(self) -> Marginals | None:
        """The last solved window with its factorization, for reports; None before the first."""
        return self._marginals

    def set_intrinsics(self, sensor: str, intrinsics: CameraIntrinsics) -> None:
        """Calibrates a camera; its images wait until this was called.

        Raises:
            DnlsError: There is no such landmarks sensor.
        """
        camera = self._registry.cameras.get(sensor)
        if camera is None:
            raise DnlsError(
                f"'{sensor}' is no landmarks sensor; there are {sorted(self._registry.cameras)}"
            )
        self._registry.cameras[sensor] = camera.with_intrinsics(intrinsics)

    def feed(
        self, measurement: Measurement | Rejection, clock: int | None = None
    ) -> Reason | None:
        """Takes a measurement in: None if it waits for a step, else why it is rejected.

        Args:
            measurement: From an adapter or made by hand.
            clock: Current time [ns], to recognize stamps of the future; None does not look.
        """
        if measurement.sensor not in self._ingress.counters:
            raise DnlsError(
                f"no sensor '{measurement.sensor}' is configured; "
                f"there are {sorted(self.counters)}"
            )
        return self._ingress.feed(measurement, clock)

    def step(self, now: int) -> StepResult | None:
        """Solves with what is stamped at or before ``now`` [ns]; None if nothing could be solved.

        Raises:
            Exception: Whatever failed; the estimator is then as before, and the measurements of
                this step are counted as SUSPECT.
        """
        measurements = self.due(now)
        if not measurements:
            return None
        attempt = self.attempt(measurements, now)
        if attempt.failure is not None:
            self.give_up(measurements, attempt.failure_text)
            raise attempt.failure
        return self.commit(attempt)

    def due(self, now: int) -> list[Measurement]:
        """Takes what is stamped at or before ``now`` [ns] out of the queue, for an `attempt`.

        Each must then be settled: by `commit` of an attempt with it, or by `give_up`.
        """
        self._now = max(self._now, now)
        return self._ingress.take(now)

    def attempt(
        self,
        measurements: Sequence[Measurement],
        now: int,
        *,
        state: State | None = None,
        config: EstimatorConfig | None = None,
    ) -> Attempt:
        """Solves without changing anything; `commit` makes it count.

        Args:
            measurements: New ones, ordered by stamp.
            now: Time of the step [ns].
            state: Where to start from; None: the window as it is.
            config: With other gates than the estimator's own.
        """
        pending, known = dict(self._initializer.pending), self._state if state is None else state
        runner = self._runner
        if config is not None:
            runner = replace(runner, config=config)
        try:
            with torch.no_grad():
                done = runner.run(known, measurements, now)
                said = self._describe(done) if isinstance(done, Step) else (None, None)
            return Attempt(done, *said, self._initializer.pending, None)
        except Exception as failure:
            return Attempt(None, None, None, pending, failure)
        finally:
            self._initializer.pending = pending

    def commit(self, attempt: Attempt) -> StepResult | None:
        """Takes over what an attempt found, and settles its measurements.

        Raises:
            DnlsError: The attempt failed: there is nothing to take over.
        """
        if attempt.done is None:
            raise DnlsError(f"an attempt that failed cannot count: {attempt.failure_text}")
        self._initializer.pending = attempt.pending
        self._settle(attempt.done)
        if attempt.result is not None:
            self._marginals = attempt.marginals
            self._window_id = attempt.result.window_id
        return attempt.result

    def give_up(self, measurements: Iterable[Measurement], text: str) -> None:
        """Settles measurements as SUSPECT: no solve with them can be used."""
        for m in measurements:
            self._ingress.settle(m, (Reason.SUSPECT, text))

    def _describe(self, done: Step) -> tuple[Marginals, StepResult]:
        window_id = self._window_id + 1
        marginals = Marginals(done.solution, done.factorization, self._registry, window_id)
        explain(done.draft, done.solution.values, self._registry, self.wanted)
        return marginals, describe(done, marginals, self.wanted)

    def _settle(self, done: Step | Draft) -> None:
        draft = done.draft if isinstance(done, Step) else done
        self._state = draft.state
        for m, verdict in draft.verdicts:
            self._ingress.settle(m, verdict, draft.evidence.get(id(m)))
        self._ingress.put_back(draft.parked)
        if self._archive is None:
            return
        self._archive.add_rows(draft.left_rows)
        if isinstance(done, Step) and done.marginalized is not None:
            self._archive.add(done.marginalized)

    def _too_late(self, m: Measurement) -> Verdict | None:
        """The verdict on a measurement that no step can use any more."""
        rules, draft = self._registry.rules_of(m.sensor), Draft(self._state, self._now)
        if len(draft.stamps(rules.body)):
            return too_late(draft, rules, m)
        if self._now - m.stamp <= self._registry.lag:
            return None
        return Reason.TOO_LATE, "older than the window, and its track has not started"

    def pose_at(
        self,
        stamp: int,
        track: str = "",
        with_covariance: bool = True,
        max_extrapolation: float | None = None,
    ) -> PoseAt:
        """The pose at any stamp of the last solved window, or ahead of it.

        Args:
            stamp: [ns].
            track: '' is the first.
            with_covariance: Compute it too.
            max_extrapolation: [s]; None or negative: ``health.max_prediction``.
        """
        limit = self.config.health.max_prediction
        if max_extrapolation is not None and max_extrapolation >= 0:
            limit = max_extrapolation
        return answer(self._marginals, self._registry, stamp, track, with_covariance, limit)

    def smooth(self, track: str = "") -> Smoothed:
        """Full smoothing of everything so far (needs ``archive=True``).

        Raises:
            DnlsError: There is no archive, or nothing was estimated.
        """
        if self._archive is None:
            raise DnlsError("full smoothing needs Estimator(config, archive=True)")
        rules = self._rules(track)
        if rules.body.name not in self._state.values:
            raise DnlsError(
                f"track '{rules.body.name}' was never started: "
                "no measurement could say where it is"
            )
        groups = {**self._state.factors, **self._runner.chains(self._state)}
        solution = self._archive.smooth(groups, self._state, self._registry.cameras, self.linear)
        poses = solution.values[rules.body.name]
        assert isinstance(poses, LieGroup)
        return Smoothed(
            solution.values.ids[rules.body.name].numpy(), rules.body.poses(poses[0]), solution
        )

    def _rules(self, track: str) -> TrackRules:
        rules = self._registry.rules.get(track or self.config.tracks[0].name)
        if rules is None:
            raise DnlsError(f"no track '{track}'; there are {list(self._registry.rules)}")
        return rules

    def fresh(self, tracks: Iterable[str], anchors: Mapping[str, Anchor]) -> State:
        """The window without some tracks, or with these at an anchor; samples of motion stay.

        Raises:
            DnlsError: There is no such track, or a covariance is not definite.
        """
        state = self._state
        for name in tracks:
            rules = self._rules(name)
            state = without_track(state, self._registry, rules, self._runner.chains(state))
            if name in anchors:
                state = with_prior(state, rules, anchors[name])
        return state

    def problem(self) -> Problem:
        """All factors of the window, those between its states and the prior included."""
        return self._runner.problem(self._state)

    def take_over(self, state: State) -> None:
        """Replaces the window, for a supervisor that goes back or starts anew."""
        self._state, self._marginals = state, None
        self._initializer.pending.clear()

    def suggestion(self, m: Measurement) -> Array | None:
        """The pose (7,) of its track by a measurement that may start it, else None."""
        return absolute_pose(Draft(self._state, self._now), self._registry, m)

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Goes on under another configuration of the same tracks and sensors.

        Raises:
            DnlsError: Tracks or sensors differ, or the configuration cannot be used; nothing has
                changed then.
        """
        before = [(s.name, s.type, s.track, s.differential) for s in self.config.sensors]
        after = [(s.name, s.type, s.track, s.differential) for s in config.sensors]
        if before != after or [t.name for t in config.tracks] != list(self._registry.rules):
            raise DnlsError("tracks and sensors cannot change while the estimator runs")
        registry = build_registry(config)
        for name, camera in self._registry.cameras.items():
            if camera.intrinsics is not None:
                registry.cameras[name] = registry.cameras[name].with_intrinsics(camera.intrinsics)
        self.config, self._registry = config, registry
        self._runner = StepRunner(config, registry, self._initializer, self.linear)
        self._ingress.sensors = {s.name: s for s in config.sensors}
        self._ingress.future_limit = round(config.time.stamp_future_limit * 1e9)

    def reset(self, why: str = "the estimator was reset") -> None:
        """Forgets everything but the counters; what waits is rejected as PAUSED."""
        self._ingress.clear(Reason.PAUSED, why)
        cameras = dict(self._registry.cameras)
        self._start()
        for name, camera in cameras.items():
            if camera.intrinsics is not None:
                self.set_intrinsics(name, camera.intrinsics)


def _linear(
    config: EstimatorConfig, given: LinearSolver | None
) -> tuple[LinearSolver, tuple[str, ...]]:
    """The linear solver, and a sentence for each choice that was made."""
    device, why_device = choose_device(config.device)
    if device.type != "cpu":
        raise UnavailableError(
            f"device '{config.device}': the sliding window runs on the CPU in this version; "
            "set device: cpu or auto"
        )
    if given is not None:
        return given, (why_device, f"linear solver {given.name}, given by the caller")
    expected = config.window.max_states * max(Body.of(t).dim for t in config.tracks)
    linear, why_linear = choose_solver(config.solver.linear_solver, expected, device)
    return linear, (why_device, why_linear)
