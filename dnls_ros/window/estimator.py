"""The estimator: the one object that node, replay and tests drive.

``feed`` takes a measurement in, ``step(now)`` solves with everything stamped until then,
``pose_at`` answers for any stamp. A step: samples of motion into their buffers; states for the new
stamps; factors; gates; Levenberg–Marquardt; marginalization of what is older than the lag. It
works on a draft of the immutable `State`, so that an exception leaves the estimator as it was.
Owned by one thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.lie import LieGroup
from dnls_ros.linear import LinearSolver, choose_device, choose_solver
from dnls_ros.optim import Solution
from dnls_ros.window.absorb import Registry
from dnls_ros.window.archive import Archive
from dnls_ros.window.bodies import Array, Body
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.growth import TrackRules, too_late
from dnls_ros.window.increments import Increments, Stamps
from dnls_ros.window.ingress import Ingress, SensorCounters, Settled, Verdict
from dnls_ros.window.landmark_init import LandmarkInitializer
from dnls_ros.window.measurements import CameraIntrinsics, Measurement, Reason, Rejection
from dnls_ros.window.registry import build_registry
from dnls_ros.window.report import Marginals, answer, describe
from dnls_ros.window.results import PoseAt, StepResult
from dnls_ros.window.sensors import DifferentialPose, Twist
from dnls_ros.window.state import Draft, State
from dnls_ros.window.step import Step, StepRunner


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
                assert isinstance(model, DifferentialPose | Twist)
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
        self._now = max(self._now, now)
        measurements = self._ingress.take(now)
        if not measurements:
            return None
        pending = dict(self._initializer.pending)
        try:
            with torch.no_grad():
                done = self._runner.run(self._state, measurements, now)
                said = self._describe(done) if isinstance(done, Step) else None
        except Exception as failure:
            self._initializer.pending = pending
            for m in measurements:
                self._ingress.settle(
                    m, (Reason.SUSPECT, f"the solve failed: {type(failure).__name__}: {failure}")
                )
            raise
        self._commit(done)
        if said is None:
            return None
        self._marginals, result = said
        self._window_id = result.window_id
        return result

    def _describe(self, done: Step) -> tuple[Marginals, StepResult]:
        window_id = self._window_id + 1
        marginals = Marginals(done.solution, done.factorization, self._registry, window_id)
        return marginals, describe(done, marginals)

    def _commit(self, done: Step | Draft) -> None:
        draft = done.draft if isinstance(done, Step) else done
        self._state = draft.state
        for m, verdict in draft.verdicts:
            self._ingress.settle(m, verdict)
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

    def reset(self) -> None:
        """Forgets everything but the counters; what waits is rejected as PAUSED."""
        self._ingress.clear(Reason.PAUSED, "the estimator was reset")
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
