"""Measurements of touch on their way into the window.

A sensor's word on whether the finger touches is heard before anything else, whatever becomes of
the measurement. Its factors need a pair of states at each stamp, a contact at all of them, and a
surface within reach; what lacks one of these is rejected with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from dnls_ros.window.bodies import Array
from dnls_ros.window.contacts import Contacts, touched_all_along
from dnls_ros.window.growth import TrackRules, find_state
from dnls_ros.window.ingress import Verdict
from dnls_ros.window.measurements import (
    ContactMeasurement,
    Measurement,
    Reason,
    TactileImageMeasurement,
    TactileRelativeMeasurement,
    WrenchMeasurement,
)
from dnls_ros.window.pushing import pair
from dnls_ros.window.rigid import compose, inverse, transform
from dnls_ros.window.state import Draft
from dnls_ros.window.touch_models import Contact, TactileImage, TouchModel, WrenchContact
from dnls_ros.window.wrench import WrenchContacts

NO_CONTACT: Verdict = Reason.NO_CONTACT, "the finger did not touch all along"


def timelines_of(
    said: Mapping[str, Contacts], models: Mapping[str, object], track: str
) -> list[Contacts]:
    """What the sensors of contact of a track have said so far."""
    return [
        said.get(name, Contacts())
        for name, model in models.items()
        if isinstance(model, TouchModel) and model.body.name == track and _speaks(model)
    ]


def _speaks(model: TouchModel) -> bool:
    """Whether it is a sensor of contact; a disabled one says nothing."""
    return model.config.enabled and isinstance(model, Contact | TactileImage | WrenchContact)


def hear(draft: Draft, rules: TrackRules, model: TouchModel, m: Measurement) -> None:
    """Takes what a measurement says of contact into its sensor's timeline."""
    stamps = draft.stamps(rules.body)
    if len(stamps) and m.stamp < stamps[0]:
        return
    known = draft.state.contacts.get(m.sensor)
    now = model.hear(known, m)
    if now is not None and now is not known:
        draft.update(contacts={**draft.state.contacts, m.sensor: now})


def forget(draft: Draft, rules: TrackRules, sensors: Mapping[str, str], before: int) -> None:
    """Drops what was said before a track's oldest state, or before a stamp if it has none."""
    stamps = draft.stamps(rules.body)
    oldest = int(stamps[0]) if len(stamps) else before
    short = {
        name: cut
        for name, known in draft.state.contacts.items()
        if sensors[name] == rules.track.name and (cut := known.since(oldest)) is not known
    }
    if short:
        draft.update(contacts={**draft.state.contacts, **short})


def says_nothing(draft: Draft, m: Measurement) -> bool:
    """Whether a force is no measurement of the object: it does not touch, or is being zeroed."""
    known = draft.state.contacts.get(m.sensor)
    if not isinstance(m, WrenchMeasurement):
        return False
    return known is None or not bool(known.at(np.array([m.stamp]))[0])


def needs_finger(m: Measurement) -> bool:
    """Whether a measurement of touch is about the finger's pose too: it touches."""
    return not isinstance(m, ContactMeasurement) or m.in_contact


def prepared(
    draft: Draft,
    pusher: TrackRules,
    model: TouchModel,
    m: Measurement,
    states: tuple[int, ...],
    timelines: list[Contacts],
) -> Measurement | Verdict:
    """The measurement as its model takes it, or why it is rejected.

    Args:
        draft: The working copy.
        pusher: The finger's track.
        model: The sensor's.
        m: The measurement.
        states: Of the object, for each of its stamps; the finger has those too.
        timelines: See `timelines_of`.
    """
    if isinstance(m, TactileRelativeMeasurement):
        return m if touched_all_along(timelines, states[0], states[1]) else NO_CONTACT
    if isinstance(m, WrenchMeasurement):
        known = draft.state.contacts[m.sensor]
        assert isinstance(known, WrenchContacts)
        m = known.freed(m)
    if isinstance(m, TactileImageMeasurement):
        if m.failure:
            return Reason.MODEL_FAILED, m.failure
        m = replace(m, relatives=_usable(draft, pusher, model, m, states[0], timelines))
    points = model.points(m)
    if isinstance(points, tuple):
        return points
    return _out_of_reach(draft, pusher, model, points, states[-1]) or m


def _usable(
    draft: Draft,
    pusher: TrackRules,
    model: TouchModel,
    m: TactileImageMeasurement,
    state: int,
    timelines: list[Contacts],
) -> tuple[TactileRelativeMeasurement, ...]:
    """Pairs whose other image is in the window, with the stamps of the states."""
    kept: list[TactileRelativeMeasurement] = []
    rules = replace(pusher, body=model.body)
    for one in m.relatives:
        earlier = find_state(draft, rules, one.stamp_from)
        if earlier is None or earlier == state or not pair(draft, pusher, earlier):
            draft.note(f"no_pair.{m.sensor}")
        elif touched_all_along(timelines, earlier, state):
            kept.append(replace(one, stamp_from=earlier, extrinsic=m.extrinsic))
    return tuple(kept)


def _out_of_reach(
    draft: Draft, pusher: TrackRules, model: TouchModel, points: Array, state: int
) -> Verdict | None:
    """Why points of the finger cannot be on the object: its distance field does not go so far."""
    if not len(points) or not isinstance(model, Contact | TactileImage | WrenchContact):
        return None
    thing, finger = (
        draft.pose(body, int(np.searchsorted(draft.stamps(body), state)))
        for body in (model.body, pusher.body)
    )
    lifted = np.concatenate([points, np.zeros((len(points), 1))], 1)
    seen = transform(compose(inverse(thing), finger), lifted)[:, :2]
    field = (model.contact if isinstance(model, TactileImage) else model).object.field
    distance, _ = field.inside(torch.from_numpy(np.ascontiguousarray(seen)))
    if bool(distance.isfinite().all()):
        return None
    text = f"the finger is at ({seen[0, 0]:.3f}, {seen[0, 1]:.3f}) m in the object's axes"
    return Reason.NO_CONTACT, f"{text}, beyond its distance field: one of both poses is wrong"
