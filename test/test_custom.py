"""Sensors of a class of the user's own: loaded, refused, fed from a recording, kept harmless."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dnls_ros.errors import DnlsError
from dnls_ros.io.bag import BagWriter
from dnls_ros.io.compose import Composer
from dnls_ros.io.definitions import message_class
from dnls_ros.io.messages import adapt_for, types_of
from dnls_ros.io.replay import replay
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.custom import load_custom
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.measurements import Measurement, PoseMeasurement, Reason, Rejection
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.registry import build_registry

SECOND = 1_000_000_000
T0 = 1_000 * SECOND
WALL = 6.0
"""Where the wall is along x [m]."""

MODULE = """
    from dataclasses import dataclass

    import torch

    from dnls_ros.errors import DnlsError
    from dnls_ros.lie import SE2
    from dnls_ros.problem import Isotropic, Variables, cost
    from dnls_ros.window.measurements import Measurement, Reason


    @dataclass(frozen=True, eq=False, kw_only=True)
    class WallMeasurement(Measurement):
        distance: float


    @cost
    def wall_distance(world_T_body, seen):
        return 6.0 - world_T_body.translation[:1] - seen


    class WallSensor:
        message_types = ("sensor_msgs/msg/Range",)
        measurement = WallMeasurement

        def __init__(self, config, body):
            if len(config.sigma) != 1:
                raise DnlsError("sigma must be one number [m]")
            self.config, self.body = config, body

        @staticmethod
        def read(message, head):
            return WallMeasurement(**head, distance=float(message.range))

        def guess(self, m):
            return None

        def factors(self, m, states):
            if m.distance < 0.1:
                return Reason.NO_CONTACT, "too near to tell"
            if m.distance > 100.0:
                raise ValueError("no wall is so far")
            if m.distance > 50.0:
                return "nonsense"
            state = Variables(self.body.name, SE2)[list(states)]
            seen = torch.tensor([[[m.distance]]], dtype=torch.float64)
            noise = Isotropic(self.config.sigma[0])
            return {"wall": wall_distance(state, seen, noise=noise)}


    class Half:
        message_types = "sensor_msgs/msg/Range"
        measurement = int

        def factors(self, m, states):
            return {}


    class Forgetful(WallSensor):
        @staticmethod
        def read(message, head):
            return None


    not_a_class = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in a package of the user's own."""
    package = tmp_path / "my_sensors"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "walls.py").write_text(textwrap.dedent(MODULE))
    (package / "broken.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_custom.cache_clear()
    yield "my_sensors.walls"
    load_custom.cache_clear()
    for name in [n for n in sys.modules if n.split(".")[0] == "my_sensors"]:
        del sys.modules[name]


def configuration(cost: str, **sensor: Any) -> EstimatorConfig:
    wall = {"type": "custom", "topic": "wall", "cost": cost, "sigma": [0.01], **sensor}
    fix = {"type": "pose", "topic": "fix"}
    return load_parameters(
        {
            "world_frame": "map",
            "deterministic": True,
            "tracks": ["robot"],
            "track": {"robot": {"child_frame": "base_link", "motion": "none"}},
            "sensors": ["fix", "wall"],
            "sensor": {"fix": fix, "wall": wall},
        }
    )


def range_message(stamp: int, distance: float) -> Any:
    make = Composer(message_class)
    return message_class("sensor_msgs/msg/Range")(
        header=make.header(stamp, "wall_sensor"),
        radiation_type=0,
        field_of_view=0.1,
        min_range=0.1,
        max_range=10.0,
        range=distance,
        variance=0.0,
    )


def fix_message(stamp: int, x: float) -> Any:
    pose = np.array([x, 0, 0, 0, 0, 0, 1.0])
    make = Composer(message_class)
    return make.pose_with_covariance_stamped(stamp, "map", pose, 0.01 * np.eye(6))


def fix(stamp: int, x: float) -> PoseMeasurement:
    pose = np.array([x, 0, 0, 0, 0, 0, 1.0])
    return PoseMeasurement(
        sensor="fix", stamp=stamp, frame="map", pose=pose, covariance=0.01 * np.eye(6)
    )


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        ("no_such_package:Wall", "importing 'no_such_package' failed"),
        ("my_sensors.broken:Wall", "No module named 'no_such_package'"),
        ("my_sensors.walls:WallSensr", "has no 'WallSensr'"),
        ("my_sensors.walls:not_a_class", "not as a class"),
        ("my_sensors.walls:Half", "lacks the method 'read'; lacks the method 'guess'"),
        ("my_sensors.walls:Half", "lacks 'message_types'"),
        ("my_sensors.walls:Half", "lacks 'measurement'"),
        ("", "is required for type 'custom'"),
        ("my_sensors", "a class as pkg.module:Class"),
    ],
)
def test_what_is_no_such_class_fails_configure_with_what_is_wrong(
    module: str, cost: str, words: str
) -> None:
    with pytest.raises(DnlsError) as refusal:
        configuration(cost)
    assert "sensor.wall.cost" in str(refusal.value)
    assert words in str(refusal.value)


def test_a_class_may_refuse_its_configuration(module: str) -> None:
    config = configuration(f"{module}:WallSensor", sigma=[0.1, 0.2])
    with pytest.raises(DnlsError, match=r"sensor\.wall\.cost.*sigma must be one number"):
        build_registry(config)


def test_its_messages_are_those_that_it_names(module: str) -> None:
    config = configuration(f"{module}:WallSensor")
    assert types_of(config.sensor("wall")) == ("sensor_msgs/msg/Range",)
    assert types_of(config.sensor("fix")) == ("geometry_msgs/msg/PoseWithCovarianceStamped",)


def test_a_message_becomes_its_measurement_or_a_counted_rejection(module: str) -> None:
    wall = configuration(f"{module}:WallSensor").sensor("wall")
    m = adapt_for(wall, "sensor_msgs/msg/Range", range_message(T0, 2.0), 4)
    assert isinstance(m, Measurement)
    assert (m.sensor, m.stamp, m.frame, m.sequence) == ("wall", T0, "wall_sensor", 4)
    refused = adapt_for(wall, "sensor_msgs/msg/Range", SimpleNamespace(range="near"))
    assert isinstance(refused, Rejection)
    assert refused.reason is Reason.BAD_SHAPE
    forgetful = configuration(f"{module}:Forgetful").sensor("wall")
    refused = adapt_for(forgetful, "sensor_msgs/msg/Range", range_message(T0, 2.0))
    assert isinstance(refused, Rejection)
    assert "gave a NoneType, expected a WallMeasurement" in refused.text


@pytest.mark.parametrize(
    ("distance", "reason", "words"),
    [
        (0.01, Reason.NO_CONTACT, "too near"),
        (200.0, Reason.MODEL_FAILED, "raised ValueError: no wall is so far"),
        (60.0, Reason.MODEL_FAILED, "expected factor groups"),
    ],
)
def test_a_measurement_that_its_class_cannot_use_harms_no_other(
    module: str, distance: float, reason: Reason, words: str
) -> None:
    config = configuration(f"{module}:WallSensor")
    estimator = Estimator(config)
    estimator.feed(fix(T0, 2.0))
    estimator.feed(
        adapt_for(config.sensor("wall"), "sensor_msgs/msg/Range", range_message(T0, distance))
    )
    result = estimator.step(T0)
    assert result is not None
    assert result.accepted
    counters = estimator.counters["wall"]
    assert counters.rejected == {reason: 1}
    assert words in counters.last_problem
    assert counters.balanced


def test_another_kind_of_measurement_is_refused_at_the_door(module: str) -> None:
    estimator = Estimator(configuration(f"{module}:WallSensor"))
    wrong = PoseMeasurement(
        sensor="wall", stamp=T0, frame="map", pose=np.array([0, 0, 0, 0, 0, 0, 1.0])
    )
    assert estimator.feed(wrong) is Reason.BAD_SHAPE


def test_a_recording_is_replayed_with_a_sensor_of_ones_own(module: str, tmp_path: Path) -> None:
    """Fixes of 10 cm and distances of 1 cm: the distances decide along x."""
    rng = np.random.default_rng(2)
    bag = tmp_path / "run"
    with BagWriter(bag) as out:
        for k in range(40):
            stamp, x = T0 + k * SECOND // 10, 0.05 * k
            out.write("fix", fix_message(stamp, x + rng.normal(0, 0.1)), stamp)
            seen = WALL - x + rng.normal(0, 0.01)
            out.write("wall", range_message(stamp, seen), stamp)
    with_wall = replay(bag, configuration(f"{module}:WallSensor", frame_override="base_link"))
    without = replay(bag, configuration(f"{module}:WallSensor", enabled=False))
    errors = []
    for result in (with_wall, without):
        causal = result.tracks["robot"].causal()
        truth = 0.05 * (causal.stamps - T0) / (SECOND // 10)
        errors.append(float(np.sqrt(np.mean((causal.poses[:, 0] - truth) ** 2))))
    assert errors[0] < 0.02
    assert errors[0] < errors[1] / 3
    counters = with_wall.estimator.counters["wall"]
    assert counters.received == counters.accepted == 40
