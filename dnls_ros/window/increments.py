"""Sensors that measure motion: samples in a buffer, read as motion between any two states.

Odometry does not belong to a pair of states but to time. Its samples are kept sorted by stamp; the
factors between neighbouring states are *derived* from them whenever the window is solved. A state
that is inserted late splits an interval without any bookkeeping, and every order of arrival gives
the same factors. Noise is a density per second, so that the parts of an interval add up to the
whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnls_ros.lie import SE2, SE3, LieGroup, local, retract
from dnls_ros.linear import has_kernels
from dnls_ros.window.bodies import Array, Body

Stamps = NDArray[np.int64]

SHORTEST = 100_000_000
"""The motion between two samples is held against what so much time allows, at least [ns]."""


@dataclass(frozen=True)
class Limits:
    """Which two samples that follow one another tell the motion between them.

    Attributes:
        max_gap: Longest time between them [ns].
        max_speed, max_turn_rate: What no body does [m/s, rad/s]: an odometry that started anew at
            another pose, a sample that is an outlier.
    """

    max_gap: int
    max_speed: float = np.inf
    max_turn_rate: float = np.inf


class Increments(Protocol):
    """Measured motion over time.

    Attributes:
        complete: Whether it says how the body moved; false: only how it turned.
    """

    complete: ClassVar[bool]

    @property
    def stamps(self) -> Stamps:
        """(K,) ascending stamps of the samples [ns]."""
        ...

    def covered(self, start: Stamps, end: Stamps, limits: Limits) -> NDArray[np.bool_]:
        """Which intervals lie between samples without a gap by the limits."""
        ...

    def leaps(self, limits: Limits) -> NDArray[np.bool_]:
        """(K − 1,) which samples are further from the one before than a body moves."""
        ...

    def between(self, start: Stamps, end: Stamps) -> tuple[LieGroup, Tensor]:
        """The motion x_start⁻¹ · x_end (N,) of covered intervals and its covariance (N, t, t)."""
        ...

    def motion(self, start: Stamps, end: Stamps) -> LieGroup:
        """The motion x_start⁻¹ · x_end (N,) of covered intervals."""
        ...

    def extended(self, new: Sequence[Sample]) -> Increments:
        """With more samples, none of them at the stamp of another."""
        ...

    def since(self, stamp: int) -> Increments:
        """Without samples that no interval from ``stamp`` on needs."""
        ...


@dataclass(frozen=True, eq=False)
class MotionNoise:
    """The noise of one sample, (t, t) each; see `Samples`."""

    density: Array
    rate_covariance: Array


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample of motion.

    Attributes:
        stamp: [ns].
        value: A group element (1,), a twist (t,) or an angular velocity (3,), as the buffer has.
        noise: Of the time that ends here.
    """

    stamp: int
    value: Any
    noise: MotionNoise


@dataclass(frozen=True, eq=False)
class Samples:
    """The sorted stamps, and the noise density of the time that ends at each sample.

    Attributes:
        stamps: (K,) [ns].
        density: (K, t, t) covariance per second between sample k−1 and k.
        rate_covariance: (K, t, t) covariance of the rate over that interval: its error is one draw
            per interval, so that it adds rate_covariance · Δt per second.
        complete: Whether translation is measured.
    """

    complete: ClassVar[bool] = True
    stamps: Stamps
    density: Array
    rate_covariance: Array

    def insert(self, stamp: int, value: Any, noise: MotionNoise) -> Self:
        """With one sample more."""
        return self.extended([Sample(stamp, value, noise)])

    def extended(self, new: Sequence[Sample]) -> Self:
        """With more samples, none of them at the stamp of another."""
        raise NotImplementedError

    def leaps(self, limits: Limits) -> NDArray[np.bool_]:
        """(K − 1,) which samples are further from the one before than a body moves."""
        return np.zeros(max(len(self.stamps) - 1, 0), dtype=bool)

    def covered(self, start: Stamps, end: Stamps, limits: Limits) -> NDArray[np.bool_]:
        """Which intervals lie between samples without a gap by the limits."""
        if len(self.stamps) < 2:
            return np.zeros(len(start), dtype=bool)
        inside = (start >= self.stamps[0]) & (end <= self.stamps[-1])
        before = self._gaps_before(limits)
        first = np.searchsorted(self.stamps, start, side="right") - 1
        last = np.searchsorted(self.stamps, end, side="left")
        gaps = before[np.minimum(last, len(before) - 1)] - before[np.maximum(first, 0)]
        return inside & (gaps == 0)

    def _gaps_before(self, limits: Limits) -> Stamps:
        """(K,) how many gaps lie before each sample; asked for many intervals, so it is kept."""
        known = self._kept_gaps.get(limits)
        if known is None:
            gaps = (np.diff(self.stamps) > limits.max_gap) | self.leaps(limits)
            known = self._kept_gaps[limits] = np.zeros(len(self.stamps), np.int64)
            np.cumsum(gaps, out=known[1:])
        return known

    @cached_property
    def _kept_gaps(self) -> dict[Limits, Stamps]:
        return {}

    def covariance(self, start: Stamps, end: Stamps) -> Tensor:
        """∫ density dt over intervals, (N, t, t).

        A sum over the samples inside each interval, never a difference of running sums: a sample
        that says nothing (a variance of 1e6) would take the digits of all that come after it.
        """
        seconds = (np.diff(self.stamps) * 1e-9)[:, None, None]
        steps = (self.density[1:] + self.rate_covariance[1:] * seconds) * seconds
        index, fraction = self.locate(np.concatenate([start, end]))
        (first, last), (head, tail) = index.reshape(2, -1), fraction.reshape(2, -1, 1, 1)
        steps = np.concatenate([steps, np.zeros_like(steps[:1])])
        bounds = np.stack([first + 1, last], 1).reshape(-1)
        middle = np.add.reduceat(steps, bounds, 0)[::2]
        whole, single = (last > first + 1)[:, None, None], (last == first)[:, None, None]
        ends = steps[first] * (1 - head) + steps[last] * tail
        inside = steps[first] * (tail - head)
        return torch.from_numpy(np.where(single, inside, ends + np.where(whole, middle, 0.0)))

    def locate(self, at: Stamps) -> tuple[Stamps, Array]:
        """The sample before each stamp and the fraction of the way to the next."""
        index = np.searchsorted(self.stamps, at, side="right") - 1
        index = np.minimum(np.maximum(index, 0), len(self.stamps) - 2)
        span = self.stamps[index + 1] - self.stamps[index]
        return index, (at - self.stamps[index]) / span

    def _joined(
        self, new: Sequence[Sample]
    ) -> tuple[NDArray[np.int64], tuple[Stamps, Array, Array]]:
        """The order of the old rows and the new ones by stamp, and the fields in this order."""
        stamps = np.concatenate([self.stamps, [s.stamp for s in new]])
        density = np.concatenate([self.density, [s.noise.density for s in new]])
        rate = np.concatenate([self.rate_covariance, [s.noise.rate_covariance for s in new]])
        order = np.argsort(stamps)
        return order, (stamps[order], density[order], rate[order])

    def _from(self, k: int) -> tuple[Stamps, Array, Array]:
        return self.stamps[k:], self.density[k:], self.rate_covariance[k:]

    def keep_from(self, stamp: int) -> int:
        """Index of the first sample still needed for intervals from ``stamp`` on."""
        return max(int(np.searchsorted(self.stamps, stamp, side="right")) - 1, 0)


@dataclass(frozen=True, eq=False)
class PoseIncrements(Samples):
    """Poses in a drifting frame (odometry): only differences count.

    Attributes:
        poses: Group elements (K,).
    """

    poses: LieGroup

    @classmethod
    def empty(cls, body: Body) -> Self:
        """No samples yet."""
        none = np.zeros((0, body.dim, body.dim))
        return cls(np.zeros(0, np.int64), none, none, body.elements(np.zeros((0, 7))))

    def extended(self, new: Sequence[Sample]) -> Self:
        """With more samples, none of them at the stamp of another."""
        order, fields = self._joined(new)
        poses = torch.cat([self.poses.tensor, *(s.value.tensor for s in new)])
        return type(self)(*fields, type(self.poses)(poses[torch.from_numpy(order)]))

    def leaps(self, limits: Limits) -> NDArray[np.bool_]:
        """(K − 1,) which samples are further from the one before than a body moves."""
        seconds = np.maximum(np.diff(self.stamps), SHORTEST) * 1e-9
        far, turned = self._steps
        return (far > limits.max_speed * seconds) | (turned > limits.max_turn_rate * seconds)

    @cached_property
    def _steps(self) -> tuple[Array, Array]:
        """(K − 1,) how far each pose is from the one before, and how much it is turned."""
        if has_kernels():
            from dnls_ros.kernels.motion import steps_of

            far, turned = np.empty((2, len(self.stamps) - 1))
            steps_of(self.poses.tensor.numpy(), far, turned)
            return far, turned
        moved = self.poses[:-1].between(self.poses[1:])
        assert isinstance(moved, SE2 | SE3)
        far, turned = moved.translation.norm(dim=-1), moved.rotation.log().norm(dim=-1)
        return far.numpy(), turned.numpy()

    def between(self, start: Stamps, end: Stamps) -> tuple[LieGroup, Tensor]:
        """Differences of the poses interpolated along geodesics."""
        return self.motion(start, end), self.covariance(start, end)

    def motion(self, start: Stamps, end: Stamps) -> LieGroup:
        """The same without the covariance."""
        if has_kernels():
            from dnls_ros.kernels.motion import poses_between

            moved = np.empty((len(start), self.poses.storage_dim))
            poses_between(self.stamps, self.poses.tensor.numpy(), start, end, moved)
            return type(self.poses)(torch.from_numpy(moved))
        ends = self._at(np.concatenate([start, end]))
        return ends[: len(start)].between(ends[len(start) :])

    def _at(self, stamps: Stamps) -> LieGroup:
        index, fraction = self.locate(stamps)
        before, after = (
            self.poses[torch.from_numpy(index)],
            self.poses[torch.from_numpy(index + 1)],
        )
        return retract(before, local(before, after) * torch.from_numpy(fraction)[:, None])

    def since(self, stamp: int) -> Self:
        """Without samples that no interval from ``stamp`` on needs."""
        k = self.keep_from(stamp)
        return type(self)(*self._from(k), self.poses[k:])


@dataclass(frozen=True, eq=False)
class TwistIncrements(Samples):
    """Body twists, integrated as linear between samples.

    Attributes:
        body: Whose twist.
        twists: (K, t) [m/s, rad/s].
    """

    body: Body
    twists: Array

    @classmethod
    def empty(cls, body: Body) -> TwistIncrements:
        """No samples yet."""
        none = np.zeros((0, body.dim, body.dim))
        return cls(np.zeros(0, np.int64), none, none, body, np.zeros((0, body.dim)))

    def extended(self, new: Sequence[Sample]) -> TwistIncrements:
        """With more samples, none of them at the stamp of another."""
        order, fields = self._joined(new)
        twists = np.concatenate([self.twists, [s.value for s in new]])
        return TwistIncrements(*fields, self.body, twists[order])

    def between(self, start: Stamps, end: Stamps) -> tuple[LieGroup, Tensor]:
        """Exp of the integrated twist: exact while the twist is constant."""
        return self.motion(start, end), self.covariance(start, end)

    def motion(self, start: Stamps, end: Stamps) -> LieGroup:
        """The same without the covariance."""
        moved = torch.from_numpy(self._integral(end) - self._integral(start))
        return self.body.group.exp(moved)

    def _integral(self, at: Stamps) -> Array:
        seconds = np.diff(self.stamps)[:, None] * 1e-9
        steps = 0.5 * (self.twists[1:] + self.twists[:-1]) * seconds
        integral = np.concatenate([np.zeros_like(self.twists[:1]), np.cumsum(steps, 0)])
        index, fraction = self.locate(at)
        f = fraction[:, None]
        here = self.twists[index] + 0.5 * f * (self.twists[index + 1] - self.twists[index])
        return integral[index] + f * seconds[index] * here

    def since(self, stamp: int) -> TwistIncrements:
        """Without samples that no interval from ``stamp`` on needs."""
        k = self.keep_from(stamp)
        return TwistIncrements(*self._from(k), self.body, self.twists[k:])
