"""What the estimator knows: one immutable value that a step replaces as a whole or not at all.

A step works on a `Draft`. If anything fails on the way, the draft is dropped and the state is what
it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from dnls_ros.lie import LieGroup
from dnls_ros.problem import DensePrior, FactorGroup, Values
from dnls_ros.window.bodies import Array, Body
from dnls_ros.window.contacts import Contacts
from dnls_ros.window.evidence import Evidence
from dnls_ros.window.increments import Increments, Stamps
from dnls_ros.window.ingress import Verdict
from dnls_ros.window.measurements import CameraIntrinsics, LandmarkObservation, Measurement

if TYPE_CHECKING:
    from dnls_ros.window.absorb import NewFactors

LANDMARK = "map.landmark"
"""Block of rigid landmark bodies (tags, boards), SE(3); names of tracks have no dot."""


@dataclass(frozen=True, eq=False)
class LandmarkRow:
    """One tag (or other set of points of one body) in one image, until it becomes a factor.

    ``mount`` is body_T_camera (7,) at the image, for a camera whose mount is not estimated.
    """

    sensor: str
    stamp: int
    observation: LandmarkObservation
    intrinsics: CameraIntrinsics
    mount: Array


@dataclass(frozen=True, eq=False)
class GateState:
    """When a sensor's measurements last passed its gate, and since when it fails [ns]."""

    passed: int | None = None
    failing_since: int | None = None


@dataclass(frozen=True, eq=False)
class State:
    """Everything that survives from one step to the next.

    Attributes:
        values: States and landmarks of the window.
        factors: Factors on them, by sensor; those between neighbouring states are derived
            (`chains`).
        prior: The marginal prior.
        increments: Sensor → samples of measured motion.
        pending_rows: Observations of landmarks that are not placed yet.
        seen: Landmark key → stamp of the last image of it [ns].
        uncertain: States (track, stamp) that only ambiguous images have located.
        gates: Sensor → state of its gate.
        contacts: Sensor of contact → when it touched.
    """

    values: Values = field(default_factory=lambda: Values({}, {}))
    factors: Mapping[str, FactorGroup] = field(default_factory=dict[str, FactorGroup])
    prior: DensePrior | None = None
    increments: Mapping[str, Increments] = field(default_factory=dict[str, Increments])
    pending_rows: tuple[LandmarkRow, ...] = ()
    seen: Mapping[int, int] = field(default_factory=dict[int, int])
    uncertain: frozenset[tuple[str, int]] = frozenset()
    gates: Mapping[str, GateState] = field(default_factory=dict[str, GateState])
    contacts: Mapping[str, Contacts] = field(default_factory=dict[str, Contacts])


@dataclass
class Draft:
    """A step's working copy.

    Attributes:
        state: The state as changed so far.
        now: Time of the step [ns].
        verdicts: What became of each measurement, in order; None = accepted.
        parked: Measurements that wait for others.
        left_rows: Observations that never became factors and whose states have left.
        notes: Counts for the report, such as landmarks of unknown size.
        fresh: The new factors of this step.
        shut_out: Those of them that a gate did not let in.
        predicted: The values against which the gates tested.
        evidence: Of measurements, by their identity (``id``).
    """

    state: State
    now: int
    verdicts: list[tuple[Measurement, Verdict | None]] = field(
        default_factory=list[tuple[Measurement, Verdict | None]]
    )
    parked: list[Measurement] = field(default_factory=list[Measurement])
    left_rows: list[LandmarkRow] = field(default_factory=list[LandmarkRow])
    notes: dict[str, int] = field(default_factory=dict[str, int])
    fresh: Sequence[NewFactors] = ()
    shut_out: list[NewFactors] = field(default_factory=list["NewFactors"])
    predicted: Values | None = None
    evidence: dict[int, Evidence] = field(default_factory=dict[int, Evidence])

    def update(self, **changes: object) -> None:
        """Replaces fields of the state."""
        self.state = replace(self.state, **changes)  # pyright: ignore[reportArgumentType]  # checked by the dataclass

    def note(self, what: str, count: int = 1) -> None:
        """Counts something for the report."""
        self.notes[what] = self.notes.get(what, 0) + count

    def add_factors(self, name: str, group: FactorGroup) -> None:
        """Adds factors to a group of the window."""
        known = self.state.factors.get(name)
        merged = group if known is None else known.concat(group)
        self.update(factors={**self.state.factors, name: merged})

    def add_values(self, values: Values) -> None:
        """Adds variables."""
        self.update(values=self.state.values.merge(values))

    def stamps(self, body: Body) -> Stamps:
        """The body's states, ascending [ns]."""
        ids = self.state.values.ids.get(body.name)
        return np.zeros(0, np.int64) if ids is None else ids.numpy()

    def pose(self, body: Body, slot: int) -> Array:
        """One state's pose (7,)."""
        element = self.state.values[body.name]
        assert isinstance(element, LieGroup)
        return body.poses(element[0, slot : slot + 1])[0]

    def known_landmarks(self) -> dict[int, Array]:
        """Current poses (7,) of the estimated landmark bodies by key."""
        if LANDMARK not in self.state.values:
            return {}
        element = self.state.values[LANDMARK]
        assert isinstance(element, LieGroup)
        keys = self.state.values.ids[LANDMARK].tolist()
        return dict(zip(keys, element[0].normalized().tensor.detach().numpy(), strict=True))


def single(name: str, key: int, element: LieGroup | torch.Tensor) -> Values:
    """Values of one new variable; ``element`` has one batch axis (1,)."""
    return Values({name: element[None]}, {name: torch.tensor([key])}, checked=True)
