"""Sensors that measure how a body turns but not how it moves: gyros, drifting orientations.

Their samples are kept and read as those of odometry. Between states they make a factor on the
rotation; the translation of that factor has so much noise that it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dnls_ros.lie import SE2, SE3, SO2, SO3, LieGroup
from dnls_ros.linear import has_kernels
from dnls_ros.window.bodies import Array, Body
from dnls_ros.window.increments import PoseIncrements, Sample, Samples, Stamps


class OrientationIncrements(PoseIncrements):
    """Orientations in a drifting frame, as poses at the origin: only the turns count."""

    complete: ClassVar[bool] = False


@dataclass(frozen=True, eq=False)
class RateIncrements(Samples):
    """Angular velocities, linear between samples.

    Each interval between two samples is turned by its mean velocity; the turns are multiplied, so
    that a body that tumbles is followed too.

    Attributes:
        body: Whose.
        rates: (K, 3) in the body's axes [rad/s].
    """

    complete: ClassVar[bool] = False
    body: Body
    rates: Array

    @classmethod
    def empty(cls, body: Body) -> RateIncrements:
        """No samples yet."""
        none = np.zeros((0, body.dim, body.dim))
        return cls(np.zeros(0, np.int64), none, none, body, np.zeros((0, 3)))

    def extended(self, new: Sequence[Sample]) -> RateIncrements:
        """With more samples, none of them at the stamp of another."""
        order, fields = self._joined(new)
        rates = np.concatenate([self.rates, [s.value for s in new]])
        return RateIncrements(*fields, self.body, rates[order])

    def between(self, start: Stamps, end: Stamps) -> tuple[LieGroup, Tensor]:
        """The turns, as poses without translation, and their covariances."""
        return self.motion(start, end), self.covariance(start, end)

    def motion(self, start: Stamps, end: Stamps) -> LieGroup:
        """The same without the covariance."""
        if has_kernels():
            from dnls_ros.kernels.motion import turns_between

            group = self.body.group
            turned = np.empty((len(start), group.storage_dim))
            turns_between(self.stamps, self.rates, self.body.planar, start, end, turned)
            return group(torch.from_numpy(turned))
        ends = self._at(np.concatenate([start, end]))
        turns = ends[: len(start)].between(ends[len(start) :])
        if isinstance(turns, SO2):
            return SE2.from_parts(turns, turns.tensor.new_zeros(len(start), 2))
        assert isinstance(turns, SO3)
        return SE3.from_parts(turns, turns.tensor.new_zeros(len(start), 3))

    def _at(self, stamps: Stamps) -> LieGroup:
        """The orientation at each stamp against that at the first sample, (N,)."""
        index, fraction = self.locate(stamps)
        seconds = (self.stamps[index + 1] - self.stamps[index]) * 1e-9 * fraction
        faster = self.rates[index + 1] - self.rates[index]
        mean = self.rates[index] + 0.5 * fraction[:, None] * faster
        return self._turned[torch.from_numpy(index)] @ self._exp(mean * seconds[:, None])

    @cached_property
    def _turned(self) -> LieGroup:
        """The orientation at each sample against that at the first, (K,)."""
        seconds = np.diff(self.stamps)[:, None] * 1e-9
        steps = self._exp(0.5 * (self.rates[1:] + self.rates[:-1]) * seconds)
        return running_product(steps)

    def _exp(self, vectors: Array) -> SO2 | SO3:
        tangent = torch.from_numpy(np.ascontiguousarray(vectors))
        return SO2.exp(tangent[:, 2:]) if self.body.planar else SO3.exp(tangent)

    def since(self, stamp: int) -> RateIncrements:
        """Without samples that no interval from ``stamp`` on needs."""
        k = self.keep_from(stamp)
        return RateIncrements(*self._from(k), self.body, self.rates[k:])


def running_product(steps: LieGroup) -> LieGroup:
    """The products 1, s₁, s₁s₂, … (K + 1,) of elements (K,), in log₂ K batched multiplications."""
    kind = type(steps)
    total = kind.identity(1).tensor.to(steps.tensor)
    total = torch.cat([total, steps.tensor])
    shift = 1
    while shift < len(total):
        product = kind(total[:-shift]) @ kind(total[shift:])
        total = torch.cat([total[:shift], product.tensor])
        shift *= 2
    return kind(total).normalized()
