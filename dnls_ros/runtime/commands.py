"""What a session can be told between two solves. A refusal is an answer and changes nothing."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dnls_ros.errors import DnlsError
from dnls_ros.runtime.restarts import Restarts
from dnls_ros.runtime.types import Level, Outcome
from dnls_ros.window.content import check_content
from dnls_ros.window.ingress import LATEST_STAMP
from dnls_ros.window.measurements import PoseMeasurement, Reason, Rejection
from dnls_ros.window.placement import Anchor
from dnls_ros.window.schedule import Ticker

if TYPE_CHECKING:
    from dnls_ros.window.config import EstimatorConfig, TrackConfig
    from dnls_ros.window.tactile_frontend import TactileModel


class Commands(Restarts):
    """The part of a `Session` that takes commands."""

    def set_pose(self, measurement: PoseMeasurement, track: str = "") -> Outcome:
        """Puts a track where someone says it is: what was known of it goes, this prior comes.

        Args:
            measurement: Its frame must lead to the track's parent frame; stamp 0 is now;
                covariance None or zero is ``init.sigma``; its sensor means nothing.
            track: '' is the first.
        """
        if track and track not in [t.name for t in self.config.tracks]:
            names = [t.name for t in self.config.tracks]
            return Outcome(False, f"no track '{track}'; there are {names}")
        config = self.config.track(track)
        try:
            anchor = self._anchor_of(measurement, config)
            state = self.estimator.fresh([config.name], {config.name: anchor})
        except DnlsError as refusal:
            return Outcome(False, str(refusal))
        self.estimator.take_over(state)
        self._placed()
        at = ", ".join(f"{x:.3f}" for x in anchor.pose[:3])
        text = f"track '{config.name}' is put to ({at}) m at {anchor.stamp} ns"
        self._say(Level.INFO, "set_pose", text, track=config.name)
        self._conclude()
        return Outcome(True, text)

    def reset(self, why: str) -> Outcome:
        """Forgets every estimate; the next data that can start a track do so."""
        for held in self._line.clear(keep_clock=True):
            item = held.item
            self.estimator.feed(Rejection(item.sensor, item.stamp, Reason.PAUSED, f"reset: {why}"))
        self._restart(f"reset: {why}", forget_time=False)
        self._say(Level.WARN, "reset", f"the estimator was reset: {why}")
        self._conclude()
        return Outcome(True, "the estimator starts anew")

    def set_paused(self, paused: bool) -> Outcome:
        """Stops or goes on consuming; what comes meanwhile is counted as PAUSED."""
        if paused == bool(self._paused):
            return Outcome(True, "it is paused already" if paused else "it is not paused")
        self._paused = "paused" if paused else ""
        code = "paused" if paused else "resumed"
        self._say(Level.INFO, code, f"the estimator is {code}")
        if not paused:
            self._liveness.revive(self._line.clock)
        self._conclude()
        return Outcome(True, code)

    def set_sensor_enabled(self, sensor: str, enabled: bool) -> Outcome:
        """Uses a sensor or leaves it aside; what comes meanwhile is counted as SENSOR_DISABLED."""
        names = [s.name for s in self.config.sensors]
        if sensor not in names:
            return Outcome(False, f"no sensor '{sensor}'; there are {names}")
        changed = tuple(
            replace(s, enabled=enabled) if s.name == sensor else s for s in self.config.sensors
        )
        return self.reconfigure(self.config.with_sensors(changed))

    def load_model(self, sensor: str, model: TactileModel, path: str) -> Outcome:
        """Goes on with another model of a tactile_image sensor; what it said so far stays.

        Args:
            sensor: Which.
            model: Read and tested by the caller.
            path: Where it came from, for the record.
        """
        try:
            self._fronts.take_model(sensor, model)
        except DnlsError as refusal:
            return Outcome(False, str(refusal))
        text = f"sensor '{sensor}' goes on with model {model.hash} from {path}"
        self._say(Level.INFO, "model.reload", text, sensor=sensor, hash=model.hash, path=path)
        self._conclude()
        return Outcome(True, text)

    def reconfigure(self, config: EstimatorConfig) -> Outcome:
        """Goes on under another configuration; the window and calibrations stay.

        Args:
            config: As before but for dynamic parameters; see `apply_changes`.
        """
        changes = _differences(self.config, config)
        if not changes:
            return Outcome(True, "nothing changed")
        try:
            self.estimator.reconfigure(config)
        except DnlsError as refusal:
            return Outcome(False, str(refusal))
        if config.solver.rate != self.config.solver.rate:
            self._ticker = Ticker(config.solver.rate)
        self.config = config
        for part in (self._line, self._frames, self._health, self._supervisor, self._meter):
            part.reconfigure(config)
        self._liveness.reconfigure(config)
        self._tf_poses.reconfigure(config)
        self._fronts.reconfigure(config)
        text = "; ".join(f"{name}: {value}" for name, value in changes.items())
        self._say(Level.INFO, "param.change", text, **changes)
        self._conclude()
        return Outcome(True, text)

    def _anchor_of(self, m: PoseMeasurement, track: TrackConfig) -> Anchor:
        """A commanded pose, checked.

        Raises:
            DnlsError: What is wrong with it.
        """
        bad = check_content(m)
        if bad is not None:
            raise DnlsError(f"{bad[0].name}: {bad[1]}")
        now = self._line.newest or self._line.present
        stamp = m.stamp or now
        self._check_time(stamp, now)
        if not m.frame:
            raise DnlsError(f"header.frame_id is empty; expected '{track.parent_frame}'")
        found = self._frames.resolver.into_parent(m, track, m.frame, stamp)
        if not isinstance(found, PoseMeasurement):
            raise DnlsError(f"{found.reason.name}: {found.text}")
        norm = float(np.linalg.norm(found.pose[3:]))
        pose = np.concatenate([found.pose[:3], found.pose[3:] / norm])
        given = found.covariance
        if given is None or not np.any(given):
            return Anchor(stamp, pose, self._guard.initial(track))
        covariance = np.asarray(given, dtype=np.float64)
        if not np.isfinite(covariance).all():
            raise DnlsError("BAD_COVARIANCE: the covariance is not finite")
        if not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-12):
            raise DnlsError("BAD_COVARIANCE: the covariance is not symmetric")
        return Anchor(stamp, pose, 0.5 * (covariance + covariance.T))

    def _check_time(self, stamp: int, now: int) -> None:
        window = self.config.window.duration
        if not 0 < stamp <= LATEST_STAMP:
            raise DnlsError("ZERO_STAMP: no data came yet, so that 'now' is unknown: give a stamp")
        if now and now - stamp > window * 1e9:
            raise DnlsError(
                f"TOO_LATE: its stamp is {(now - stamp) * 1e-9:.3f} s old, the window keeps "
                f"{window:g} s; stamp 0 means now"
            )
        ahead = (stamp - self._line.present) * 1e-9
        if now and ahead > max(self.config.time.stamp_future_limit, 1.0):
            raise DnlsError(
                f"FUTURE_STAMP: its stamp is {ahead:.3f} s ahead of what the sensors' stamps say "
                "is now: a window there would wait for data that never come; stamp 0 means now"
            )


def _differences(before: Any, after: Any, where: str = "") -> dict[str, str]:
    """Name → old and new value of every field that differs."""
    if is_dataclass(before) and type(before) is type(after):
        out: dict[str, str] = {}
        for field in fields(before):
            old, new = getattr(before, field.name), getattr(after, field.name)
            name = f"{where}.{field.name}" if where else field.name
            out.update(_differences(old, new, name))
        return out
    if isinstance(before, tuple) and before and is_dataclass(before[0]):
        out = {}
        for old, new in zip(before, after, strict=True):
            out.update(_differences(old, new, f"{where.removesuffix('s')}.{old.name}"))
        return out
    return {} if before == after else {where: f"{before} → {after}"}
