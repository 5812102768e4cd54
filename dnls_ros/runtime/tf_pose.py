"""Sensors of type tf_pose: samples of tf, from the track's parent frame to a target frame.

When a sample is taken follows from data alone, so that a replay takes the same ones: with
``expected_rate`` at its multiples of data time; else at the stamps of the other sensors, whose
states then know this pose too; where there are no others, at those of the transforms. A sample
whose transform has not come yet waits until data are ``tf.timeout`` later, then it is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dnls_ros.runtime.transforms import Found, Impossible, StampedTransform, TransformSource
from dnls_ros.window.config import EstimatorConfig, SensorConfig
from dnls_ros.window.measurements import Measurement, PoseMeasurement, Reason, Rejection

MOST_STAMPS = 1000
"""That a sensor waits for, and that it remembers as sampled."""


@dataclass
class _Sampler:
    """One sensor's stamps, in order: ``wanted`` and not sampled, ``done`` lately."""

    sensor: SensorConfig
    parent: str
    wanted: dict[int, None] = field(default_factory=dict[int, None])
    done: dict[int, None] = field(default_factory=dict[int, None])
    next: int = 0
    count: int = 0

    def want(self, stamp: int) -> None:
        """Notes a stamp, once."""
        if stamp in self.wanted or stamp in self.done:
            return
        self.wanted[stamp] = None
        if len(self.wanted) > MOST_STAMPS:
            self.finish(next(iter(self.wanted)))

    def finish(self, stamp: int) -> None:
        """A stamp needs no sample any more."""
        del self.wanted[stamp]
        self.done[stamp] = None
        if len(self.done) > MOST_STAMPS:
            del self.done[next(iter(self.done))]

    def want_until(self, stamp: int) -> None:
        """Notes the multiples of the period up to a stamp."""
        period = round(1e9 / self.sensor.expected_rate)
        first = -(-stamp // period) * period
        if not self.next <= stamp < self.next + MOST_STAMPS * period:
            self.next = max(self.next, first) if stamp < self.next else first
        while self.next <= stamp:
            self.want(self.next)
            self.next += period


class TfPoses:
    """Takes the samples of all tf_pose sensors.

    Args:
        config: The sensors.
        source: Who knows the transforms.
    """

    def __init__(self, config: EstimatorConfig, source: TransformSource) -> None:
        self._source = source
        self._samplers = [
            _Sampler(s, config.track(s.track).parent_frame)
            for s in config.sensors
            if s.type == "tf_pose"
        ]
        self._own = {s.sensor.name for s in self._samplers}
        self._newest = 0
        self.reconfigure(config)

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over a configuration of the same sensors."""
        self._timeout = round(config.tf.timeout * 1e9)
        for sampler in self._samplers:
            sampler.sensor = config.sensor(sampler.sensor.name)
        self._offsets = {s.name: round(s.stamp_offset * 1e9) for s in config.sensors}
        self._alone = all(s.name in self._own or not s.enabled for s in config.sensors)

    def saw(self, m: Measurement) -> None:
        """A measurement of another sensor, as it arrived."""
        if not self._samplers or m.sensor in self._own or m.stamp <= 0:
            return
        self._note(m.stamp + self._offsets[m.sensor], wanted=True)

    def saw_transforms(self, transforms: Iterable[StampedTransform]) -> None:
        """Dynamic transforms, once the source has them."""
        for one in transforms if self._samplers else ():
            if one.stamp > 0:
                self._note(one.stamp, wanted=self._alone)

    def take(self) -> list[PoseMeasurement | Rejection]:
        """The samples that can be taken now, and those that waited too long, by stamp."""
        out = [item for s in self._samplers for stamp in tuple(s.wanted)
               if (item := self._sample(s, stamp)) is not None]  # fmt: skip
        return sorted(out, key=lambda item: item.stamp)

    def clear(self) -> None:
        """Time has jumped."""
        self._newest = 0
        for sampler in self._samplers:
            sampler.wanted.clear()
            sampler.done.clear()
            sampler.next = 0

    def _note(self, stamp: int, wanted: bool) -> None:
        self._newest = max(self._newest, stamp)
        for sampler in self._samplers:
            if sampler.sensor.expected_rate:
                sampler.want_until(stamp)
            elif wanted:
                sampler.want(stamp)

    def _sample(self, sampler: _Sampler, stamp: int) -> PoseMeasurement | Rejection | None:
        sensor = sampler.sensor
        found = self._source.lookup(sampler.parent, sensor.target_frame, stamp)
        if isinstance(found, Found):
            sampler.finish(stamp)
            sampler.count += 1
            return PoseMeasurement(
                sensor=sensor.name,
                stamp=stamp,
                frame=sampler.parent,
                sequence=sampler.count - 1,
                pose=found.pose,
            )
        if self._newest - stamp <= self._timeout and not isinstance(found, Impossible):
            return None
        sampler.finish(stamp)
        known = not isinstance(found, Impossible) and found.known
        reason = Reason.TF_TIMEOUT if known else Reason.UNKNOWN_FRAME
        text = f"no transform {sampler.parent} → {sensor.target_frame}: {found.text}"
        return Rejection(sensor.name, stamp, reason, text)
