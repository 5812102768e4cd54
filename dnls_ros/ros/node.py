"""The estimator as a lifecycle node: threads around the estimator, nothing of its mathematics.

    executor (main thread) --inbox--> solver thread --results--> publisher thread
                                        watchdog thread looks at the solver's reports

Configure reads the parameters and builds everything; activate opens the gate for measurements;
cleanup takes all of it down, see `lifecycle`.
"""

from __future__ import annotations

from dnls_ros.optim.warmup import settle_memory, warm_up
from dnls_ros.ros.stopping import hold_signals

if __name__ == "__main__":
    hold_signals()  # before the imports, which take seconds

import sys
from collections.abc import Callable, Sequence

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from dnls_ros import __version__
from dnls_ros.io.files import prepare_folder
from dnls_ros.ros.clock import ClockWatch
from dnls_ros.ros.inbox import Inbox
from dnls_ros.ros.lifecycle import ManagedNode, run_managed
from dnls_ros.ros.parameters import TableNode, TableParameters
from dnls_ros.ros.publish import PublisherThread
from dnls_ros.ros.reconfigure import Reconfiguring
from dnls_ros.ros.services import Services
from dnls_ros.ros.solver import SolverThread
from dnls_ros.ros.subscriptions import Subscriptions, check_own_topics
from dnls_ros.ros.transforms import TransformSubscriptions, make_source, without
from dnls_ros.ros.watchdog import Watchdog, account
from dnls_ros.runtime.session import Session
from dnls_ros.runtime.tf_output import TfOutput
from dnls_ros.runtime.transforms import Transforms
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.parameter_checks import warnings_of
from dnls_ros.window.parameters import DEFAULT_NODE, config_hash

SWITCH_INTERVAL = 2e-4
"""How long a thread may keep the interpreter [s]: at Python's 5 ms, solving delays receiving."""


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


class EstimatorNode(TableNode, ManagedNode):
    """Reads the sensors' topics, publishes optimized poses."""

    def __init__(self) -> None:
        """Creates the node, unconfigured."""
        super().__init__(DEFAULT_NODE)
        self._table = TableParameters(self)
        self._solver: SolverThread | None = None

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Opens the gate for measurements."""
        self._table.locked = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Closes the gate; what came before is still solved."""
        self._table.locked = False
        return super().on_deactivate(state)

    def build(self) -> None:
        """Checks the parameters and builds the threads; DnlsError if that cannot be."""
        self._build(self._table.load())

    def _build(self, config: EstimatorConfig) -> None:
        """Threads first, so that nothing arrives before it can be handled."""
        log = self.get_logger()
        for text in warnings_of(config):
            log.warning(text)
        prepare_folder(config.output_dir)
        log.info("compiling kernels, or loading them; the first time this takes a minute")
        seconds = sum(warm_up().values())  # never at the first message
        settle_memory()
        log.info(f"kernels are ready after {seconds:.1f} s")
        inbox = Inbox(sensor.name for sensor in config.sensors)
        publisher = self.add(PublisherThread(self, config))
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
        self._solver = self.add(solver)
        self.add(Watchdog(config, solver, log, self.active))
        self._table.apply = Reconfiguring(inbox, publisher.put)
        self.add(ClockWatch(self, inbox, config.time.jump_threshold))
        self.add(Services(self, config, inbox, self.active, self._table.adopt))
        own = TfOutput(config).children
        sinks: list[Callable[[Transforms], object]] = [
            lambda heard: inbox.put_uncounted(without(own, heard))
        ]
        if config.publish.tf:  # for odom to base, and for whoever broadcasts our frames too
            sinks.append(publisher.put)
        self.add(TransformSubscriptions(self, sinks))
        self.add(Subscriptions(self, config, inbox, self.active))
        log.info(f"dnls_ros {__version__}, configuration {config_hash(config)}; {runs_on}")

    def take_down(self) -> None:
        """Stops what was built, last first, and says the final accounts."""
        self._table.locked = False
        self._table.apply = None
        super().take_down()
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
    sys.setswitchinterval(SWITCH_INTERVAL)
    return run_managed(EstimatorNode, DEFAULT_NODE, args)


if __name__ == "__main__":
    sys.exit(main())
