"""The factors between neighbouring states: measured motion and motion models.

They follow from the states' stamps and the sample buffers alone, so they are derived for every
solve instead of being edited; of an interval whose samples are those of the solve before, the
numbers of that one are taken. An interval that no sensor covers is tied by the motion model, or,
where the track has none, by next to nothing, so that a pause of the odometry leaves the window in
one piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.costs import between, constant_velocity, constant_velocity_noise, random_walk
from dnls_ros.lie import LieGroup
from dnls_ros.problem import Diagonal, FactorGroup, Loss, Ref, SquareRootInformation
from dnls_ros.window.bodies import Body
from dnls_ros.window.increments import Increments, Limits, Stamps

BRIDGE_SPEED = 10.0
"""How fast a body may have moved while its odometry paused [m/s, rad/s]."""
GAP_INFLATION = 100.0  # on the standard deviation of a motion model over a gap


@dataclass(frozen=True)
class Motion:
    """A track's motion model.

    Attributes:
        model: ``none``, ``random_walk`` or ``constant_velocity``.
        sigma: (t,) noise density per √s, of the pose or of the velocity.
        limits: Of the samples; over intervals longer than ``max_gap`` it is not believed as it is.
    """

    model: str
    sigma: tuple[float, ...]
    limits: Limits


@dataclass(frozen=True, eq=False)
class Segments:
    """What samples say about intervals.

    Attributes:
        stamps: (K,) of the samples [ns].
        start, end: (N,) of the intervals [ns].
        motion: (N,) measured.
        factor: (N, t, t) square root of its information.
    """

    stamps: Stamps
    start: Stamps
    end: Stamps
    motion: LieGroup
    factor: Tensor

    @classmethod
    def of(
        cls, samples: Increments, start: Stamps, end: Stamps, known: Segments | None
    ) -> Segments:
        """Of covered intervals; what ``known`` has of them and the same samples is taken."""
        at = np.full(len(start), -1) if known is None else known.find(samples.stamps, start, end)
        new = at < 0
        if not new.any():
            assert known is not None
            return cls(samples.stamps, start, end, *known.rows(at))
        part = samples.since(int(start[new].min()))
        motion, covariance = part.between(start[new], end[new])
        factor = SquareRootInformation.from_covariance(covariance[None]).factor[0]
        if known is None or new.all():
            return cls(samples.stamps, start, end, motion, factor)
        moved = _exchanged(known.motion.tensor, at, new, motion.tensor)
        factors = _exchanged(known.factor, at, new, factor)
        kind: Any = type(motion)
        return cls(samples.stamps, start, end, kind(moved), factors)

    def find(self, stamps: Stamps, start: Stamps, end: Stamps) -> NDArray[np.int64]:
        """(N,) which of these intervals each is, with the same samples; −1: none.

        A sample never changes: those of a time are the same if their stamps are.
        """
        skipped = int(np.searchsorted(self.stamps, stamps[0]))
        count = min(len(stamps), len(self.stamps) - skipped)
        differ = np.flatnonzero(stamps[:count] != self.stamps[skipped : skipped + count])
        same = int(differ[0]) if len(differ) else count
        last = stamps[same - 1] if same else -1
        at = np.minimum(np.searchsorted(self.start, start), len(self.start) - 1)
        found = (self.start[at] == start) & (self.end[at] == end) & (end <= last)
        return np.where(found, at, -1)

    def rows(self, at: NDArray[np.int64]) -> tuple[LieGroup, Tensor]:
        """Motion and factor of some of them."""
        index = torch.from_numpy(at)
        return self.motion[index], self.factor[index]


def _exchanged(rows: Tensor, at: Stamps, new: NDArray[np.bool_], fresh: Tensor) -> Tensor:
    """The rows at some places (N,), those that are new exchanged for fresh ones in their order."""
    out = rows.numpy()[at]
    out[new] = fresh.numpy()
    return torch.from_numpy(out)


def chain_groups(
    body: Body,
    stamps: Stamps,
    motion: Motion,
    increments: Mapping[str, tuple[Increments, Loss | None]],
    memory: dict[str, Segments] | None = None,
) -> dict[str, FactorGroup]:
    """All factors between neighbouring states of a body.

    Args:
        body: Whose states.
        stamps: (N,) their stamps, ascending [ns].
        motion: The track's model.
        increments: Sensor → its samples and its robust loss.
        memory: Sensor → what is known of the last window; it is brought up to date.
    """
    memory = {} if memory is None else memory
    if len(stamps) < 2:
        return {}
    start, end = stamps[:-1], stamps[1:]
    groups: dict[str, FactorGroup] = {}
    covered = np.zeros(len(start), dtype=bool)
    for sensor, (samples, loss) in increments.items():
        inside = samples.covered(start, end, motion.limits)
        if inside.any():
            found = Segments.of(samples, start[inside], end[inside], memory.get(sensor))
            memory[sensor] = found
            groups[sensor] = _measured(body, found, loss)
            covered |= inside & samples.complete
    if motion.model != "none":
        groups[f"{body.name}.motion"] = _modelled(body, motion, start, end)
    elif increments and not covered.all():
        groups[f"{body.name}.bridge"] = _bridge(body, start[~covered], end[~covered])
    return groups


def _bridge(body: Body, start: Stamps, end: Stamps) -> FactorGroup:
    """Next to nothing about the motion over a pause, but the window stays connected."""
    x_i, x_j = _refs(body.name, start, end)
    seconds = torch.from_numpy((end - start) * 1e-9)
    sigma = BRIDGE_SPEED * seconds[:, None].expand(-1, body.dim)
    return random_walk(x_i, x_j, noise=Diagonal(sigma[None]))


def _refs(name: str, start: Stamps, end: Stamps) -> tuple[Ref, Ref]:
    return Ref(name, torch.from_numpy(start.copy())), Ref(name, torch.from_numpy(end.copy()))


def _measured(body: Body, found: Segments, loss: Loss | None) -> FactorGroup:
    noise = SquareRootInformation(found.factor[None])
    refs = _refs(body.name, found.start, found.end)
    # As calling the cost makes it, without its checks: this is done in every step.
    return FactorGroup(between, refs, (None, None, found.motion[None]), (0, 1), noise, loss)


def _modelled(body: Body, motion: Motion, start: Stamps, end: Stamps) -> FactorGroup:
    seconds = torch.from_numpy((end - start) * 1e-9)
    sigma = torch.tensor(motion.sigma, dtype=torch.float64) * inflation(
        end - start, motion.limits.max_gap
    )
    x_i, x_j = _refs(body.name, start, end)
    if motion.model == "random_walk":
        return random_walk(x_i, x_j, noise=Diagonal((sigma * seconds.sqrt()[:, None])[None]))
    v_i, v_j = _refs(body.velocity, start, end)
    noise = constant_velocity_noise(sigma[None], seconds[None])
    return constant_velocity(x_i, v_i, x_j, v_j, seconds[None], noise=noise)


def inflation(spans: NDArray[np.int64], max_gap: int) -> Tensor:
    """(N, 1) what the noise of a motion model is multiplied by over spans (N,) [ns]."""
    return torch.from_numpy(np.where(spans > max_gap, GAP_INFLATION, 1.0))[:, None]
