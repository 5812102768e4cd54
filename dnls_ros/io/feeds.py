"""A recording as what it is to a session: measurements, calibrations and transforms in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from dnls_ros.errors import UnreadableInputError
from dnls_ros.io.bag import BagReader, Record
from dnls_ros.io.cameras import camera_from_info
from dnls_ros.io.faults import Fault, FaultInjector
from dnls_ros.io.messages import adapt_for
from dnls_ros.io.tf_messages import TF_TOPICS, transforms_of
from dnls_ros.runtime.transforms import Transforms
from dnls_ros.window.config import EstimatorConfig, SensorConfig
from dnls_ros.window.measurements import CameraIntrinsics, Measurement, Rejection


@dataclass(frozen=True)
class ReplayOptions:
    """How to replay.

    Attributes:
        start: Skip so much of the recording [s].
        duration: Stop after so much [s]; None = all.
        full: Full smoothing at the end instead of the causal estimate.
        faults: What to spoil; targets are topics or sensor names.
        seed: Of the faults.
        rate: Times real time; 0 = as fast as possible. The result is the same.
    """

    start: float = 0.0
    duration: float | None = None
    full: bool = False
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    rate: float = 0.0


@dataclass(frozen=True, eq=False)
class Feed:
    """One item for the session: a measurement, a rejected message, a calibration, transforms.

    Attributes:
        stamp: By which it is merged [ns].
        clock: Receive stamp [ns].
        sensor: Whose it is; '' for transforms.
        item: It.
    """

    stamp: int
    clock: int
    sensor: str
    item: Measurement | Rejection | CameraIntrinsics | Transforms


def read_feed(
    path: Path, config: EstimatorConfig, options: ReplayOptions
) -> tuple[list[Feed], list[str]]:
    """All messages of the configured topics, in feeding order, and the absent topics.

    Raises:
        UnreadableInputError: The recording is unreadable, or has none of the configured topics.
    """
    listeners = _listeners(config)
    with BagReader(path) as bag:
        known = {_bare(name): name for name in bag.topics}
        present = [known[t] for t in listeners if t in known]
        absent = [t for t in listeners if t not in known]
        if not present:
            raise UnreadableInputError(
                f"{path} has none of the topics {sorted(listeners)}; it has {sorted(bag.topics)}"
            )
        start = bag.start + round(options.start * 1e9)
        end = None if options.duration is None else start + round(options.duration * 1e9)
        static, moving = (
            [known[t] for t, fixed in TF_TOPICS.items() if fixed is latched and t in known]
            for latched in (True, False)
        )
        # What is latched was said before, if one begins later.
        before = bag.records(static, bag.start, start) if static and start > bag.start else ()
        records: Iterable[Record] = chain(
            before, bag.records([*present, *static, *moving], start, end)
        )
        if options.faults:
            records = FaultInjector(options.faults, options.seed, _fault_targets(config)).apply(
                records
            )
        feeds = list(feeds_of(records, config))
    if not options.faults:
        order = {s.name: k for k, s in enumerate(config.sensors)} | {"": -1}
        feeds.sort(
            key=lambda f: (f.stamp, order[f.sensor])
        )  # stable: sequence within a sensor stays
    return feeds, absent


IDLE = 100_000_000
"""The live node lets time pass after so long without a message [ns]."""


class Silence:
    """The moments at which a live node would have let time pass without a message."""

    def __init__(self) -> None:
        self._last: int | None = None

    def until(self, clock: int) -> Iterator[int]:
        """Clock readings [ns] between the last message and one received at ``clock``."""
        last = clock if self._last is None else self._last
        yield from range(last + IDLE, clock, IDLE)
        self._last = max(last, clock)


def _bare(topic: str) -> str:
    return topic.lstrip("/")


def _listeners(config: EstimatorConfig) -> dict[str, list[SensorConfig]]:
    """Topic → the sensors that read it, detections or calibration."""
    out: dict[str, list[SensorConfig]] = {}
    for sensor in config.sensors:
        for topic in (sensor.topic, sensor.camera_info_topic):
            if topic:
                out.setdefault(_bare(topic), []).append(sensor)
    return out


def _fault_targets(config: EstimatorConfig) -> dict[str, str]:
    """What a fault may name: sensors and their topics."""
    sensors = {name: s.topic for s in config.sensors for name in (s.name, s.topic) if s.topic}
    return sensors | {topic: topic for topic in TF_TOPICS}


def feeds_of(records: Iterable[Record], config: EstimatorConfig) -> Iterator[Feed]:
    """What records are to the sensors of a configuration, in the same order."""
    listeners = _listeners(config)
    sequence = dict.fromkeys((s.name for s in config.sensors), 0)
    calibrated: set[str] = set()
    patience = round(config.tf.timeout * 1e9)
    for record in records:
        heard = transforms_of(record.topic, record.type, record.message)
        if heard is not None:
            # Where stamps are the order, clocks do not ascend, and one that is ahead must not end
            # the patience of others: transforms come as much earlier as measurements would wait.
            # Latched ones come before everything.
            due = min(heard.newest, record.receive_stamp) - patience
            yield Feed(0 if heard.static else max(due, 0), record.receive_stamp, "", heard)
            continue
        for sensor in listeners.get(_bare(record.topic), ()):
            if _bare(sensor.camera_info_topic) == _bare(record.topic) and sensor.camera_info_topic:
                intrinsics = camera_from_info(record.message)
                if isinstance(intrinsics, CameraIntrinsics) and sensor.name not in calibrated:
                    calibrated.add(sensor.name)
                    yield Feed(0, record.receive_stamp, sensor.name, intrinsics)
                continue
            item = adapt_for(sensor, record.type, record.message, sequence[sensor.name])
            sequence[sensor.name] += 1
            if sensor.stamp_source == "arrival" and isinstance(item, Measurement):
                item = replace(item, stamp=record.receive_stamp)
            yield Feed(
                record.receive_stamp if isinstance(item, Rejection) else item.stamp,
                record.receive_stamp,
                sensor.name,
                item,
            )
