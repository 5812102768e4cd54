"""The table as ROS parameters: what may be set when, with which words, and who is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient

from dnls_ros.errors import DnlsError
from dnls_ros.ros import reconfigure
from dnls_ros.ros.inbox import Ask, Inbox
from dnls_ros.ros.parameters import RefusedParameterError, TableNode, TableParameters
from dnls_ros.runtime.types import Outcome
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.parameters import flat, load_parameters

pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")  # lark in rclpy

ALL = Path(__file__).parents[1] / "config" / "all_parameters.yaml"
GIVEN = {"sensors": ["gps"], "sensor.gps.type": "pose", "sensor.gps.topic": "fix"}


class Rig:
    """A node with the table, and an estimator that takes or refuses configurations."""

    def __init__(self, context: Context, given: dict[str, Any]) -> None:
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        self.node = TableNode(
            "dnls_estimator",
            context=context,
            parameter_overrides=overrides,
            automatically_declare_parameters_from_overrides=True,
        )
        self.table = TableParameters(self.node)
        self.applied: list[EstimatorConfig] = []
        self.answer = Outcome(True, "")

    def start(self, locked: bool) -> EstimatorConfig:
        config = self.table.load()
        self.table.apply = self._apply
        self.table.locked = locked
        return config

    def _apply(self, config: EstimatorConfig) -> Outcome:
        self.applied.append(config)
        return self.answer

    def set(self, **values: Any) -> str:
        """Sets all at once, as the service does; '' or the reason of the refusal."""
        wanted = [Parameter(n.replace("__", "."), value=v) for n, v in values.items()]
        try:
            return self.node.set_parameters_atomically(wanted).reason
        except RefusedParameterError as error:
            return str(error)

    def value(self, name: str) -> Any:
        return self.node.get_parameter(name).value


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context)
    yield context
    context.shutdown()


@pytest.fixture
def rig(context: Context) -> Iterator[Rig]:
    rig = Rig(context, GIVEN)
    yield rig
    rig.node.destroy_node()


def test_while_active_dynamic_ones_are_applied_and_the_others_refused(rig: Rig):
    rig.start(locked=True)
    assert rig.set(solver__rate=10.0, sensor__gps__robust="huber") == ""
    (config,) = rig.applied
    assert (config.solver.rate, config.sensors[0].robust) == (10.0, "huber")
    assert rig.value("solver.rate") == 10.0
    assert rig.set(num_threads=2) == (
        "num_threads: set while inactive; a change counts from the next configure"
    )
    assert rig.set(solver__rate=5.0, num_threads=2).startswith("num_threads: set while inactive")
    assert (len(rig.applied), rig.value("solver.rate"), rig.value("num_threads")) == (1, 10.0, 1)


def test_while_inactive_all_change_and_dynamic_ones_reach_the_estimator(rig: Rig):
    rig.start(locked=False)
    assert rig.set(num_threads=2, solver__max_iterations=4) == ""
    assert [config.solver.max_iterations for config in rig.applied] == [4]
    config = rig.table.load()
    assert (config.num_threads, config.solver.max_iterations) == (2, 4)


def test_a_value_that_was_not_given_follows_the_one_that_was_set(rig: Rig):
    rig.start(locked=True)
    assert rig.set(solver__rate=50.0) == ""
    assert rig.applied[-1].solver.time_budget == rig.value("solver.time_budget") == 0.02
    assert rig.set(solver__rate=20.0) == ""
    assert rig.applied[-1].solver.time_budget == rig.value("solver.time_budget") == 0.035
    assert rig.set(solver__time_budget=0.03) == ""
    assert "at most 1/solver.rate" in rig.set(solver__rate=50.0)
    assert rig.set(solver__rate=50.0, solver__time_budget=0.02) == ""


def test_a_refusal_of_the_estimator_is_the_answer_and_changes_nothing(rig: Rig):
    rig.start(locked=True)
    rig.answer = Outcome(False, "the solver is stopping")
    assert rig.set(solver__rate=10.0) == "the solver is stopping"
    assert rig.value("solver.rate") == 20.0
    rig.answer = Outcome(True, "")
    assert rig.set(solver__max_iterations=3) == ""
    assert rig.applied[-1].solver.rate == 20.0


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"solver__rate": 1000.0}, "solver.rate: got 1000; expected 0.5..500 Hz"),
        ({"solver__rate": float("nan")}, "numbers must be finite"),
        ({"solver__rate": "fast"}, "expected a number"),
        ({"solver__max_iterations": 0}, "got 0; expected 1..200"),
        ({"num_threads": 0}, "got 0; expected 1..64"),
        ({"sensor__gps__robust": "hubert"}, "did you mean 'huber'?"),
        ({"solver__rat": 10.0}, "the nearest valid name is 'solver.rate'"),
        ({"sensor__gps__sigm": [1.0]}, "the nearest valid name is 'sensor.gps.sigma'"),
        ({"sensor__other__sigma": [1.0]}, "is not declared now; give it in the parameter file"),
        ({"sensor__gps__sigma": [1.0, 2.0]}, "has 2 numbers; expected 3 (x y yaw)"),
        ({"solver__lambda_init": 1e9}, "expected less than solver.lambda_max"),
    ],
)
def test_what_is_wrong_is_refused_at_any_time_in_the_words_of_the_table(
    rig: Rig, locked: bool, values: dict[str, Any], words: str
):
    rig.start(locked)
    names = [name.replace("__", ".") for name in values]
    before = [rig.value(name) for name in names if rig.node.has_parameter(name)]
    assert words in rig.set(**values)
    assert [rig.value(name) for name in names if rig.node.has_parameter(name)] == before
    assert not rig.applied


def test_several_wrong_values_are_named_together(rig: Rig):
    rig.start(locked=True)
    reason = rig.set(solver__rate=0.0, solver__max_iterations=0)
    assert reason == (
        "solver.rate: got 0; expected 0.5..500 Hz; solver.max_iterations: got 0; expected 1..200"
    )


def test_a_client_of_the_parameter_service_gets_the_reasons(rig: Rig, context: Context):
    rig.start(locked=True)
    asking = Node("asking", context=context)
    client = AsyncParameterClient(asking, "dnls_estimator")
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(rig.node)
    executor.add_node(asking)
    assert client.wait_for_services(10.0)
    wanted = {
        "solver.rate": 1000.0,
        "solver.rat": 5.0,
        "num_threads": 2,
        "solver.max_iterations": 7,
    }
    future = client.set_parameters([Parameter(name, value=v) for name, v in wanted.items()])
    executor.spin_until_future_complete(future, 10.0)
    executor.shutdown()
    asking.destroy_node()
    assert [result.reason for result in future.result().results] == [
        "solver.rate: got 1000; expected 0.5..500 Hz",
        "solver.rat: is not a parameter; the nearest valid name is 'solver.rate'",
        "num_threads: set while inactive; a change counts from the next configure",
        "",
    ]
    assert [config.solver.max_iterations for config in rig.applied] == [7]


def test_what_is_set_to_the_value_it_has_is_no_change(rig: Rig):
    rig.start(locked=True)
    assert rig.set(num_threads=1, sensors=["gps"]) == ""
    assert not rig.applied


def test_ros_s_own_parameters_pass(rig: Rig):
    rig.start(locked=True)
    assert rig.set(use_sim_time=True) == ""
    assert not rig.applied


def test_what_a_service_changed_is_shown_and_kept(rig: Rig):
    config = rig.start(locked=True)
    off = config.with_sensors(tuple(replace(s, enabled=False) for s in config.sensors))
    rig.table.adopt(off)
    assert rig.value("sensor.gps.enabled") is False
    assert rig.set(solver__rate=10.0) == ""
    assert rig.applied[-1].sensors[0].enabled is False


def test_a_parameter_that_is_deleted_while_inactive_gets_its_default_back(rig: Rig):
    rig.start(locked=False)
    assert rig.set(num_threads=3) == ""
    assert rig.table.load().num_threads == 3
    assert rig.set(num_threads=None) == ""
    assert rig.table.load().num_threads == 1
    rig.table.locked = True
    assert "set while inactive" in rig.set(solver__rate=None)


def from_file(context: Context, file: Path) -> TableNode:
    return TableNode(
        "dnls_estimator",
        context=context,
        cli_args=["--ros-args", "--params-file", str(file)],
        automatically_declare_parameters_from_overrides=True,
    )


def test_the_exhaustive_file_means_the_same_to_ros(context: Context):
    node = from_file(context, ALL)
    config = TableParameters(node).load()
    assert config == load_parameters(ALL)
    assert all(node.has_parameter(name) for name in flat(config))
    node.destroy_node()


def test_an_empty_list_in_a_file_means_the_same_to_ros(context: Context, tmp_path: Path):
    file = tmp_path / "p.yaml"
    file.write_text(
        "dnls_estimator:\n  ros__parameters:\n    sensors: [gps]\n"
        "    sensor.gps: {type: pose, topic: fix, sigma: [], axes: []}\n"
    )
    node = from_file(context, file)
    assert TableParameters(node).load() == load_parameters(file)
    assert list(node.get_parameter("sensor.gps.sigma").value) == []
    node.destroy_node()
    file.write_text(file.read_text() + "    tracks: []\n    solver.rate: []\n")
    node = from_file(context, file)
    with pytest.raises(DnlsError) as caught:
        TableParameters(node).load()
    assert "tracks: is empty; name at least one track" in str(caught.value)
    assert "solver.rate: got [] (list); expected a number" in str(caught.value)
    node.destroy_node()


def test_descriptors_say_unit_range_and_when(rig: Rig):
    rig.start(locked=True)
    rate = rig.node.describe_parameter("solver.rate")
    assert rate.description == "solves per second of data time [Hz]"
    assert rate.additional_constraints == "0.5..500; dynamic"
    assert not rate.read_only
    span = rate.floating_point_range[0]
    assert (span.from_value, span.to_value) == (0.5, 500.0)
    threads = rig.node.describe_parameter("num_threads")
    assert threads.additional_constraints == "1..64; set while inactive"
    assert threads.integer_range[0].to_value == 64
    assert not rig.node.describe_parameter("recovery.max_speed").floating_point_range


@pytest.mark.parametrize("begun", [True, False])
def test_a_change_that_has_begun_is_waited_for_and_one_that_has_not_is_withdrawn(
    begun, monkeypatch
) -> None:
    monkeypatch.setattr(reconfigure, "PATIENCE", 0.2)
    config, told, changed, inbox = load_parameters(GIVEN), [], [], Inbox(["gps"])
    late = threading.Event()

    class Slow:
        def reconfigure(self, config: EstimatorConfig) -> Outcome:
            time.sleep(0.3)
            changed.append(config)
            return Outcome(True, "changed")

    def solve() -> None:
        if not begun:
            late.wait(5.0)
        ask = inbox.take(5.0)
        assert isinstance(ask, Ask)
        ask.reply(ask.function(Slow()))

    solver = threading.Thread(target=solve)
    solver.start()
    outcome = reconfigure.Reconfiguring(inbox, told.append)(config)
    late.set()
    solver.join()
    assert (outcome.success, len(changed), len(told)) == (begun, begun, begun)
