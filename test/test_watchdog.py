"""What the watchdog says of the solver's reports."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy")

from dnls_ros.ros import watchdog
from dnls_ros.ros.watchdog import Watchdog
from dnls_ros.runtime.types import SensorHealth, SensorState
from dnls_ros.window.measurements import Reason
from dnls_ros.window.parameters import load_parameters

pytestmark = pytest.mark.ros


class Words:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str, **options: Any) -> None:
        self.lines.append(text)

    error = warning


def health(
    received: int, accepted: int, rejected: Any, waiting: int, message: str
) -> SensorHealth:
    nan = float("nan")
    numbers = (nan, nan, nan, nan, nan, received, accepted, waiting)
    return SensorHealth("gps", SensorState.OK, *numbers, rejected, message)


@pytest.fixture
def words_of(monkeypatch):
    """Runs a watchdog with short periods on one report; gives what it said."""
    monkeypatch.setattr(watchdog, "PERIOD", 0.01)
    monkeypatch.setattr(watchdog, "SILENCE", 0.02)
    monkeypatch.setattr(watchdog, "RATE_WINDOW", 0.05)

    def run(
        sensor: SensorHealth, alive: bool = True, busy_for: float = 0.0, **parameters: Any
    ) -> list[str]:
        base = {"sensors": ["gps"], "sensor.gps.type": "pose", "sensor.gps.topic": "fix"}
        given = {name.replace("__", "."): value for name, value in parameters.items()}
        config = load_parameters(base | given)
        words = Words()
        status = SimpleNamespace(sensors=(sensor,))
        solver: Any = SimpleNamespace(status=status, alive=alive, busy_for=busy_for)
        dog = Watchdog(config, solver, words, lambda: True)  # type: ignore[arg-type]
        time.sleep(0.2)
        dog.stop()
        return words.lines

    return run


def test_an_account_that_does_not_balance_is_said(words_of):
    lines = words_of(health(5, 2, {Reason.GATED: 1}, 1, ""))
    assert any("does not balance" in line for line in lines)


def test_a_balanced_account_without_rejections_is_no_news(words_of):
    assert words_of(health(5, 4, {}, 1, "")) == []


def test_rejections_are_said_once_with_reasons_and_the_last_problem(words_of):
    lines = words_of(health(5, 2, {Reason.GATED: 2, Reason.TOO_LATE: 1}, 0, "GATED: far"))
    assert lines == [
        "sensor 'gps': received 5, accepted 2, GATED 2, TOO_LATE 1, waiting 0; "
        "last problem: GATED: far"
    ]


def test_a_silent_sensor_is_said_once(words_of):
    assert words_of(health(0, 0, {}, 0, "")) == ["sensor 'gps': nothing received on 'fix' yet"]


def test_a_sensor_below_half_its_declared_rate_is_said(words_of):
    lines = words_of(health(1, 1, {}, 0, ""), sensor__gps__expected_rate=1000.0)
    assert any("on 'fix', declared 1000 Hz" in line for line in lines)


def test_a_solver_thread_that_ended_is_said(words_of):
    assert "the solver thread has ended" in words_of(health(1, 1, {}, 0, ""), alive=False)


def test_a_solver_that_hangs_is_said(words_of):
    lines = words_of(health(1, 1, {}, 0, ""), busy_for=7.0)
    assert "the solver has been at one item for 7 s" in lines
