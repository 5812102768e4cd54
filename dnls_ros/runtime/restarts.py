"""How a session starts anew: because time jumped, on command, or where tf says that a track is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from dnls_ros.runtime.transforms import Found, TransformSource
from dnls_ros.runtime.types import Level
from dnls_ros.window.measurements import Measurement, Reason
from dnls_ros.window.placement import Anchor

if TYPE_CHECKING:
    from dnls_ros.runtime.covariance import CovarianceGuard
    from dnls_ros.runtime.frames import FrameGate
    from dnls_ros.runtime.health import Health
    from dnls_ros.runtime.history import History
    from dnls_ros.runtime.liveness import Liveness
    from dnls_ros.runtime.meter import Meter
    from dnls_ros.runtime.supervisor import Supervisor
    from dnls_ros.runtime.tf_pose import TfPoses
    from dnls_ros.runtime.timeline import Jump, Timeline
    from dnls_ros.runtime.touch import TouchFronts
    from dnls_ros.window.config import EstimatorConfig
    from dnls_ros.window.estimator import Estimator
    from dnls_ros.window.results import StepResult
    from dnls_ros.window.schedule import Ticker


class Restarts:
    """The part of a `Session` that begins again."""

    config: EstimatorConfig
    estimator: Estimator
    _line: Timeline
    transforms: TransformSource
    _tf_poses: TfPoses
    _fronts: TouchFronts
    _frames: FrameGate
    _history: History
    _newest: int
    _health: Health
    _supervisor: Supervisor
    _meter: Meter
    _liveness: Liveness
    _guard: CovarianceGuard
    _ticker: Ticker
    _paused: str
    _last: StepResult | None

    @abstractmethod
    def _say(self, level: Level, code: str, text: str, **values: str) -> None: ...

    @abstractmethod
    def _drain(self) -> None: ...

    @abstractmethod
    def _conclude(self) -> None: ...

    def _jumped(self, jump: Jump) -> None:
        """Time jumped: the window of the old time is of no use in the new one."""
        values = {"before": str(jump.before), "after": str(jump.after)}
        if jump.backward:
            self._say(Level.WARN, "time.jump_back", jump.why, **values)
            self._restart("time jumped back", forget_time=True)
            if self.config.time.on_jump_back == "pause":
                self._paused = "time.jump_back"
            return
        self._say(Level.WARN, "time.jump_forward", jump.why, **values)
        if self.config.time.on_jump_forward == "reinit":
            self._supervisor.start_anew(jump.first)
            self._last = None

    def _restart(self, why: str, forget_time: bool) -> None:
        """Everything but counters, calibrations and static transforms is forgotten."""
        self.estimator.reset(why)
        for item in self._frames.clear(Reason.PAUSED, why):
            self.estimator.feed(item)
        self._drain()
        self._supervisor.forget()
        self._ticker.reset()
        self._guard.forget()
        self._liveness.forget()
        self._newest, self._last = 0, None
        self._meter.resets += 1
        if forget_time:
            self.transforms.clear()
            self._tf_poses.clear()
            self._fronts.clear()
            self._health.restart()
            self._history.clear()

    def _start_by_tf(self, m: Measurement) -> None:
        """A track of init.mode tf starts where tf says that it is."""
        track = self.config.track(self.config.sensor(m.sensor).track)
        if track.init.mode != "tf" or track.name in self.estimator.state.values:
            return
        found = self.transforms.lookup(track.parent_frame, track.child_frame, m.stamp)
        if isinstance(found, Found):
            anchor = Anchor(m.stamp, found.pose, self._guard.initial(track))
            self._place(track.name, anchor)
            self._say(Level.INFO, "init.tf", f"track '{track.name}' starts where tf says it is")

    def _place(self, track: str, anchor: Anchor) -> None:
        """Puts a track to an anchor.

        Raises:
            DnlsError: The anchor's covariance is not definite.
        """
        self.estimator.take_over(self.estimator.fresh([track], {track: anchor}))
        self._placed()

    def _placed(self) -> None:
        self._supervisor.forget()
        self._last = None
