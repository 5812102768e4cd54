"""Covariances that leave: never zero, never NaN.

One that could not be computed is the last known one, grown by the motion model; if none is known
it says so by its size.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dnls_ros.window.bodies import Array, Body
from dnls_ros.window.config import EstimatorConfig, TrackConfig
from dnls_ros.window.report import UNKNOWN_VARIANCE
from dnls_ros.window.results import StepResult, TrackEstimate


class CovarianceGuard:
    """Keeps the last known covariance of each track.

    Args:
        config: Tracks with their motion models.
    """

    def __init__(self, config: EstimatorConfig) -> None:
        self._tracks = {t.name: t for t in config.tracks}
        self._known: dict[str, tuple[int, Array]] = {}
        self.unknown = False

    def forget(self) -> None:
        """Everything starts anew."""
        self._known, self.unknown = {}, False

    def initial(self, track: TrackConfig) -> Array:
        """(6, 6) of ``init.sigma``, for poses that say nothing of theirs."""
        body = Body.of(track)
        sigma = np.asarray(track.init.sigma, dtype=np.float64)
        return np.ascontiguousarray(body.expand(np.diag(sigma**2)))

    def repaired(self, result: StepResult) -> StepResult:
        """The result with covariances that mean something."""
        bad = {name: t for name, t in result.tracks.items() if not _is_known(t.covariance)}
        self.unknown = bool(bad)
        for name, track in result.tracks.items():
            if name not in bad:
                self._known[name] = int(track.stamps[-1]), track.covariance
        if not bad:
            return result
        mended = {name: replace(t, covariance=self._grown(name, t)) for name, t in bad.items()}
        return replace(result, tracks={**result.tracks, **mended})

    def _grown(self, name: str, track: TrackEstimate) -> Array:
        known = self._known.get(name)
        if known is None:
            return UNKNOWN_VARIANCE * np.eye(6)
        config = self._tracks[name]
        body, seconds = Body.of(config), max(int(track.stamps[-1]) - known[0], 0) * 1e-9
        density = np.asarray(config.motion_sigma, dtype=np.float64) ** 2
        growth = np.zeros(6)
        growth[list(body.axes)] = density * (seconds**3 / 3 if body.moving else seconds)
        return known[1] + np.diag(growth)


def _is_known(covariance: Array) -> bool:
    """Whether it is finite, positive on its diagonal, and not the mark of an unknown one."""
    diagonal = np.diag(covariance)
    finite = bool(np.isfinite(covariance).all() and (diagonal > 0).all())
    return finite and float(diagonal.max()) < UNKNOWN_VARIANCE
