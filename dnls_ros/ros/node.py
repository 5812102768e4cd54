"""The estimator as a lifecycle node: threads around the estimator, nothing of its mathematics.

    executor (main thread) --inbox--> solver thread --results--> publisher thread
                                        watchdog thread looks at the solver's reports

Configure reads the parameters and builds everything; activate opens the gate for measurements;
cleanup takes all of it down. Unless ``autostart`` is false, the node configures and activates
itself. No input ends the process; only a wrong configuration does, with exit code 2.
"""

from __future__ import annotations

from dnls_ros.ros.stopping import hold_signals, stop_on_signals

if __name__ == "__main__":
    hold_signals()  # before the imports, which take seconds

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from dnls_ros import __version__
from dnls_ros.errors import DnlsError
from dnls_ros.io.files import prepare_folder
from dnls_ros.ros.clock import ClockWatch
from dnls_ros.ros.inbox import Inbox
from dnls_ros.ros.parameters import TableNode, TableParameters
from dnls_ros.ros.publish import PublisherThread
from dnls_ros.ros.reconfigure import Reconfiguring
from dnls_ros.ros.services import Services
from dnls_ros.ros.solver import SolverThread
from dnls_ros.ros.spin import make_executor, spin_until
from dnls_ros.ros.subscriptions import Subscriptions, check_own_topics
from dnls_ros.ros.transforms import TransformSubscriptions, make_source, without
from dnls_ros.ros.watchdog import Watchdog, account
from dnls_ros.runtime.session import Session
from dnls_ros.runtime.tf_output import TfOutput
from dnls_ros.runtime.transforms import Transforms
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.parameter_checks import warnings_of
from dnls_ros.window.parameters import DEFAULT_NODE, config_hash

OK, MISCONFIGURED = 0, 2
SWITCH_INTERVAL = 2e-4
"""How long a thread may keep the interpreter [s]: at Python's 5 ms, solving delays receiving."""


class _Part(Protocol):
    """Something built at configure."""

    def stop(self) -> None:
        """Ends it."""


_PartT = TypeVar("_PartT", bound=_Part)


class _NodeLog:
    """The node's logger for the solver thread: each kind of line at most once per throttle."""

    def __init__(self, node: LifecycleNode, throttle: float) -> None:
        self._logger = node.get_logger()
        self._throttle = throttle

    def warning(self, text: str) -> None:
        """Says that something was lost or refused."""
        self._logger.warning(text, throttle_duration_sec=self._throttle)

    def info(self, text: str) -> None:
        """Says that something happened."""
        self._logger.info(text)

    def error(self, text: str) -> None:
        """Says that something failed."""
        self._logger.error(text, throttle_duration_sec=self._throttle)


class EstimatorNode(TableNode, LifecycleNode):
    """Reads the sensors' topics, publishes optimized poses."""

    def __init__(self, ended: threading.Event) -> None:
        """Creates the node, unconfigured; ``ended`` is set when it is shut down."""
        super().__init__(DEFAULT_NODE, automatically_declare_parameters_from_overrides=True)
        self._table = TableParameters(self)
        self._parts: list[_Part] = []
        self._solver: SolverThread | None = None
        self._open = threading.Event()
        self._ended = ended

    @property
    def autostart(self) -> bool:
        """Whether the node configures and activates itself."""
        return not self.has_parameter("autostart") or self.get_parameter("autostart").value is True

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Checks the parameters and builds everything; a mistake leaves the node unconfigured."""
        try:
            self._build(self._table.load())
        except DnlsError as error:
            self._take_down()
            self.get_logger().fatal(str(error))
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Opens the gate for measurements."""
        self._open.set()
        self._table.locked = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Closes the gate; what came before is still solved."""
        self._open.clear()
        self._table.locked = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Takes everything down."""
        self._take_down()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Takes everything down for good, and with it the process."""
        self._take_down()
        self._ended.set()
        return TransitionCallbackReturn.SUCCESS

    def _build(self, config: EstimatorConfig) -> None:
        """Threads first, so that nothing arrives before it can be handled."""
        log = self.get_logger()
        for text in warnings_of(config):
            log.warning(text)
        prepare_folder(config.output_dir)
        inbox = Inbox(sensor.name for sensor in config.sensors)
        publisher = self._add(PublisherThread(self, config))
        check_own_topics(self, config, publisher.topics())
        solver_log = _NodeLog(self, config.log.throttle)
        clock = self.get_clock()
        solver = SolverThread(
            config,
            inbox,
            publisher.put,
            solver_log,
            lambda chosen: Session(chosen, transforms=make_source(chosen.tf.cache), dumps=True),
            lambda: clock.now().nanoseconds,
            publisher.look,
        )
        runs_on = solver.start()
        self._solver = self._add(solver)
        self._add(Watchdog(config, solver, log, self._open.is_set))
        self._table.apply = Reconfiguring(inbox, publisher.put)
        self._add(ClockWatch(self, inbox, config.time.jump_threshold))
        self._add(Services(self, config, inbox, self._open.is_set, self._table.adopt))
        own = TfOutput(config).children
        sinks: list[Callable[[Transforms], object]] = [
            lambda heard: inbox.put_uncounted(without(own, heard))
        ]
        if config.publish.tf:  # for odom to base, and for whoever broadcasts our frames too
            sinks.append(publisher.put)
        self._add(TransformSubscriptions(self, sinks))
        self._add(Subscriptions(self, config, inbox, self._open.is_set))
        log.info(f"dnls_ros {__version__}, configuration {config_hash(config)}; {runs_on}")

    def _add(self, part: _PartT) -> _PartT:
        """Remembers what must be stopped."""
        self._parts.append(part)
        return part

    def _take_down(self) -> None:
        """Stops what was built, last first, and says the final accounts."""
        self._open.clear()
        self._table.locked = False
        self._table.apply = None
        while self._parts:
            self._parts.pop().stop()
        if self._solver is not None:
            self._say_accounts(self._solver)
            self._solver = None

    def _say_accounts(self, solver: SolverThread) -> None:
        """One line per sensor and one for the solver."""
        status = solver.status
        if status is None:
            return
        for sensor in status.sensors:
            self.get_logger().info(account(sensor))
        self.get_logger().info(
            f"steps {status.solves_total}, refused {status.solves_rejected}, "
            f"failed {status.solves_failed + solver.failed_items}, "
            f"skipped {status.cycles_skipped}"
        )


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM; returns the exit code."""
    stop, ended = stop_on_signals(), threading.Event()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        rclpy.init(
            args=list(args) if args else None, signal_handler_options=SignalHandlerOptions.NO
        )
        node = EstimatorNode(ended)
    except (
        Exception
    ) as error:  # a parameter file that ROS cannot parse; rclpy has no one class for it
        print(f"{DEFAULT_NODE}: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return MISCONFIGURED
    executor = make_executor()
    executor.add_node(node)
    try:
        if node.autostart and not stop.is_set() and not _start(node):
            return MISCONFIGURED
        spin_until(executor, stop, ended)
        return OK
    finally:
        if not ended.is_set():
            node.trigger_shutdown()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


def _start(node: EstimatorNode) -> bool:
    """Configures and activates; False if the configuration is wrong."""
    configured = node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    return configured and node.trigger_activate() == TransitionCallbackReturn.SUCCESS


if __name__ == "__main__":
    sys.exit(main())
