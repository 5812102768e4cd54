"""Measurements into a draft of the window: samples, states, factors, and a verdict for each.

Nothing here optimizes. Every measurement that is taken ends as accepted, rejected with one reason,
or parked because it waits for another (a camera's calibration, odometry that has not arrived yet,
a first pose).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from dnls_ros.problem import FactorGroup
from dnls_ros.window.bodies import Array, pose_of_rpy
from dnls_ros.window.corners import corner_factors, ready_rows
from dnls_ros.window.growth import (
    TrackRules,
    add_state,
    find_state,
    must_wait,
    start_track,
    too_late,
    wanted_stamps,
)
from dnls_ros.window.images import Camera, image_state, observe, start_extrinsic
from dnls_ros.window.imu import Imu
from dnls_ros.window.increments import Increments, Sample
from dnls_ros.window.ingress import Verdict
from dnls_ros.window.landmark_init import LandmarkInitializer
from dnls_ros.window.measurements import (
    ContactMeasurement,
    LandmarkMeasurement,
    Measurement,
    Reason,
    RelativePoseMeasurement,
    TactileRelativeMeasurement,
)
from dnls_ros.window.pushing import common_stamp, pair, pair_all
from dnls_ros.window.rigid import compose
from dnls_ros.window.sensors import (
    DifferentialPose,
    Factors,
    RelativePose,
    SensorModel,
    Twist,
)
from dnls_ros.window.state import Draft
from dnls_ros.window.touch_models import TouchModel
from dnls_ros.window.touching import hear, needs_finger, prepared, says_nothing, timelines_of

PATIENCE = 10
"""So many windows later an image still helps to place a body: the estimate hardly drifts."""
MOTION_MODELS = (DifferentialPose, Twist, Imu)
"""What may have a buffer of samples."""
_UNCONNECTED = Reason.NO_PAIR, "nothing connects it to the window"
_NO_FINGER = Reason.NO_PAIR, "nothing said where the finger was"


@dataclass(frozen=True)
class Registry:
    """The configured tracks and sensors.

    Attributes:
        rules: Track → its rules.
        track_of: Sensor → track.
        models: Sensor → its model (cameras have none).
        cameras: Landmarks sensors.
        lag: Length of the window [ns].
    """

    rules: Mapping[str, TrackRules]
    track_of: Mapping[str, str]
    models: Mapping[str, SensorModel]
    cameras: dict[str, Camera]
    lag: int

    def rules_of(self, sensor: str) -> TrackRules:
        """The rules of the track that a sensor measures."""
        return self.rules[self.track_of[sensor]]

    def pusher_of(self, rules: TrackRules) -> TrackRules | None:
        """The rules of the track that pushes a track, if one does."""
        return self.rules.get(rules.track.pusher_track)


@dataclass(frozen=True, eq=False)
class NewFactors:
    """Factors that are not in the window yet, with the measurement of each row (None: older)."""

    sensor: str
    name: str
    group: FactorGroup
    sources: tuple[Measurement | None, ...]


def absorb(
    draft: Draft,
    registry: Registry,
    initializer: LandmarkInitializer,
    measurements: Sequence[Measurement],
) -> list[NewFactors]:
    """Takes measurements (ordered by stamp) into the draft.

    Returns:
        The new factors, still outside the window so that they can be gated.
    """
    initializer.forget(draft.now - PATIENCE * registry.lag)
    before = draft.state.increments
    usable = _take_samples(draft, registry, measurements)
    _note_leaps(draft, registry, before)
    fresh: list[NewFactors] = []
    images: dict[tuple[str, int], Measurement] = {}
    for m in usable:
        model = registry.models.get(m.sensor)
        if isinstance(model, TouchModel):
            hear(draft, registry.rules_of(m.sensor), model, m)
        states = _states_for(draft, registry, m)
        if states is None:
            continue
        if isinstance(m, LandmarkMeasurement):
            camera = registry.cameras[m.sensor]
            observe(draft, camera, _at(m, states[0]), initializer)
            images[m.sensor, states[0]] = m
            draft.verdicts.append((m, None))
            continue
        made = _factors(draft, registry, m, states)
        if isinstance(made, tuple):
            draft.verdicts.append((m, made))
            continue
        fresh += [
            NewFactors(m.sensor, name, group, (m,) * group.count) for name, group in made.items()
        ]
        draft.verdicts.append((m, None))
    for rules in registry.rules.values():
        pusher = registry.pusher_of(rules)
        if pusher is not None:
            pair_all(draft, rules, pusher)
    return fresh + _image_factors(draft, registry, images)


def _factors(
    draft: Draft, registry: Registry, m: Measurement, states: tuple[int, ...]
) -> Factors | Verdict:
    """What a measurement says of its states, or why it is rejected."""
    model, rules = registry.models[m.sensor], registry.rules_of(m.sensor)
    pusher = registry.pusher_of(rules)
    if not isinstance(model, TouchModel) or pusher is None:
        return model.factors(m, states)
    timelines = timelines_of(draft.state.contacts, registry.models, rules.track.name)
    ready = prepared(draft, pusher, model, m, states, timelines)
    return ready if isinstance(ready, tuple) else model.factors(ready, states)


def _at(m: LandmarkMeasurement, stamp: int) -> LandmarkMeasurement:
    """The image with the stamp of the state that it shares."""
    if m.stamp == stamp:
        return m
    return replace(m, stamp=stamp)


def _image_factors(
    draft: Draft, registry: Registry, images: Mapping[tuple[str, int], Measurement]
) -> list[NewFactors]:
    rows = ready_rows(draft, registry.cameras)
    out: list[NewFactors] = []
    for sensor, camera in registry.cameras.items():
        mine = [r for r in rows if r.sensor == sensor]
        for name, group, members in corner_factors(draft, camera, mine):
            sources = tuple(images.get((sensor, mine[k].stamp)) for k in members)
            out.append(NewFactors(sensor, name, group, sources))
    return out


def _take_samples(
    draft: Draft, registry: Registry, measurements: Sequence[Measurement]
) -> list[Measurement]:
    """Samples of motion enter their buffers before any state is made.

    Returns:
        The measurements without those that are settled by it.
    """
    usable: list[Measurement] = []
    new: dict[str, dict[int, Sample]] = defaultdict(dict)
    for m in measurements:
        if m.sensor not in draft.state.increments:
            usable.append(m)
            continue
        verdict = _take_sample(draft, registry, m, new[m.sensor])
        if verdict is None:
            usable.append(m)
        else:
            draft.verdicts.append((m, verdict))
    grown = {n: draft.state.increments[n].extended(tuple(s.values())) for n, s in new.items() if s}
    draft.update(increments={**draft.state.increments, **grown})
    return usable


def _take_sample(
    draft: Draft, registry: Registry, m: Measurement, new: dict[int, Sample]
) -> Verdict | None:
    """Adds to the new samples of a sensor; or why a measurement cannot be used."""
    model, rules = registry.models.get(m.sensor), registry.rules_of(m.sensor)
    assert isinstance(model, MOTION_MODELS)
    late = too_late(draft, rules, m)
    if late is not None:
        return late
    if m.stamp in new or m.stamp in draft.state.increments[m.sensor].stamps:
        if isinstance(model, Imu):
            return None  # taken before; its orientation waited
        return Reason.DUPLICATE, f"a sample stamped {m.stamp} ns is in the window"
    sample = model.sample(m)
    if isinstance(sample, Sample):
        new[m.stamp] = sample
        return None
    return sample


def _note_leaps(draft: Draft, registry: Registry, before: Mapping[str, Increments]) -> None:
    """Counts the new samples of motion that are further from the last than a body moves."""
    for rules in registry.rules.values():
        for name in rules.chain:
            known, now = before[name].stamps, draft.state.increments[name]
            if now is before[name] or not len(known):
                continue
            leaps = now.leaps(rules.limits)[int(np.searchsorted(now.stamps, known[-1])) :]
            if leaps.any():
                draft.note(f"leap.{name}", int(leaps.sum()))


def _states_for(draft: Draft, registry: Registry, m: Measurement) -> tuple[int, ...] | None:
    """The states that a measurement is about, made if need be; None if it is settled or waits."""
    rules = registry.rules_of(m.sensor)
    camera = registry.cameras.get(m.sensor)
    if camera is not None and isinstance(m, LandmarkMeasurement):
        if camera.intrinsics_of(m) is None:
            return _park(
                draft, registry, m, (Reason.MODEL_FAILED, "no camera calibration has arrived")
            )
        if not m.observations:
            return _settle(draft, m, None)
    unusable = _unusable_start(draft, registry, rules, m)
    if unusable is not None:
        return _settle(draft, m, unusable)
    if not len(draft.stamps(rules.body)) and not _ignite(draft, registry, rules, m):
        if m.sensor in draft.state.increments:
            return _settle(draft, m, None)  # its sample is kept for when the track starts
        return _park(
            draft,
            registry,
            m,
            (Reason.TOO_LATE, "no pose to start from arrived within the window"),
        )
    late = too_late(draft, rules, m)
    if late is not None:
        return _settle(draft, m, late)
    model, samples = registry.models.get(m.sensor), draft.state.increments.get(m.sensor)
    if (isinstance(model, Imu) and not model.needs_state(samples, m)) or says_nothing(draft, m):
        return _settle(draft, m, None)
    young = draft.now - m.stamp <= registry.lag
    makes_motion = samples is not None and not isinstance(model, Imu)
    pusher = registry.pusher_of(rules) if isinstance(model, TouchModel) else None
    needed = (rules,) if pusher is None else (rules, pusher)
    if not makes_motion and young and any(must_wait(draft, r, m.stamp) for r in needed):
        draft.parked.append(m)
        return None
    if camera is not None and isinstance(m, LandmarkMeasurement):
        start_extrinsic(draft, camera, m)
        state = image_state(draft, rules, camera, m)
        return _park(draft, registry, m, _UNCONNECTED) if state is None else (state,)
    return _existing_or_new(draft, registry, rules, m)


def _existing_or_new(
    draft: Draft, registry: Registry, rules: TrackRules, m: Measurement
) -> tuple[int, ...] | None:
    found: list[int] = []
    pusher = registry.pusher_of(rules)
    if isinstance(m, ContactMeasurement):
        _mark_change(draft, rules, pusher, m)
    for stamp in wanted_stamps(m):
        state = find_state(draft, rules, stamp)
        if state is None:
            stamp = stamp if pusher is None else common_stamp(draft, pusher, stamp)
            if not add_state(
                draft, rules, stamp, partial(_guess, draft, registry, rules, m, tuple(found))
            ):
                return _park(draft, registry, m, _UNCONNECTED)
            state = stamp
        found.append(state)
    if len(set(found)) != len(found):
        return _settle(draft, m, (Reason.NO_PAIR, "both ends fall on one state"))
    if pusher is None or not isinstance(registry.models[m.sensor], TouchModel):
        return tuple(found)
    lacking = [s for s in found if not pair(draft, pusher, s)] if needs_finger(m) else []
    if not lacking:
        return tuple(found)
    fingers = draft.stamps(pusher.body)
    if len(fingers) and lacking[0] < fingers[0]:
        return _settle(draft, m, (Reason.NO_PAIR, "the finger's state there left the window"))
    return _park(draft, registry, m, _NO_FINGER)


def _mark_change(
    draft: Draft, rules: TrackRules, pusher: TrackRules | None, m: ContactMeasurement
) -> None:
    """A state where the present contact began, or the last one ended: there the motion changes."""
    if not 0 < m.since < m.stamp or m.since < draft.stamps(rules.body)[0]:
        return
    if find_state(draft, rules, m.since) is None:
        stamp = m.since if pusher is None else common_stamp(draft, pusher, m.since)
        add_state(draft, rules, stamp, lambda: None)


def _guess(
    draft: Draft, registry: Registry, rules: TrackRules, m: Measurement, found: Sequence[int]
) -> Array | None:
    """What the measurement itself says of its state's pose."""
    if isinstance(m, RelativePoseMeasurement) and not isinstance(m, TactileRelativeMeasurement):
        if not found:
            return None
        slot = int(np.searchsorted(draft.stamps(rules.body), found[0]))
        model = registry.models[m.sensor]
        motion = model.motion(m) if isinstance(model, RelativePose) else m.relative
        return compose(draft.pose(rules.body, slot), motion)
    return registry.models[m.sensor].guess(m)


def _unusable_start(
    draft: Draft, registry: Registry, rules: TrackRules, m: Measurement
) -> Verdict | None:
    """Why a measurement that might start its track makes no factor to hold it."""
    model = registry.models.get(m.sensor)
    if model is None or not model.config.ignition or len(draft.stamps(rules.body)):
        return None
    made = model.factors(m, (m.stamp,))
    return made if isinstance(made, tuple) else None


def _ignite(draft: Draft, registry: Registry, rules: TrackRules, m: Measurement) -> bool:
    """Starts a track from its parameters or from a measurement that may start it."""
    if rules.track.init.mode == "params":
        start_track(draft, rules, min(wanted_stamps(m)), pose_of_rpy(rules.track.init.pose))
        return True
    if rules.track.init.mode in ("set_pose", "tf"):
        return False  # someone else places it
    guess = absolute_pose(draft, registry, m)
    if guess is None:
        return False
    start_track(draft, rules, m.stamp, guess)
    return True


def absolute_pose(draft: Draft, registry: Registry, m: Measurement) -> Array | None:
    """The pose (7,) by a measurement that may start its track; an image must be certain of it."""
    if isinstance(m, LandmarkMeasurement):
        camera = registry.cameras[m.sensor]
        located = camera.locate(draft, m) if camera.config.ignition else None
        return located.world_T_robot if located is not None and located.certain else None
    model = registry.models.get(m.sensor)
    return None if model is None or not model.config.ignition else model.guess(m)


def _settle(draft: Draft, m: Measurement, verdict: Verdict | None) -> None:
    draft.verdicts.append((m, verdict))


def _park(draft: Draft, registry: Registry, m: Measurement, after_lag: Verdict) -> None:
    """Waits for what is missing, at most as long as the window is."""
    if draft.now - m.stamp > registry.lag:
        draft.verdicts.append((m, after_lag))
    else:
        draft.parked.append(m)
