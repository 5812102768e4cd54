"""The window for people to look at: ``~/window`` and ``~/markers``."""

from __future__ import annotations

import threading
import time
from collections import deque

import numpy as np

from dnls_ros.io.compose import Composer
from dnls_ros.io.compose_markers import MarkerComposer
from dnls_ros.io.compose_outputs import usable_covariance
from dnls_ros.ros.publish_topics import Every, Topics
from dnls_ros.window.config import EstimatorConfig
from dnls_ros.window.evidence import Lines
from dnls_ros.window.snapshot import WindowSnapshot

UNWATCHED_RATE = 0.5
"""At which markers are made while nobody listens, for those who join later [Hz]."""
REJECTED_SHOWN = 1.0
"""How long what a gate shut out stays in the picture [s]."""
MOST_REJECTED = 500
"""Measurements shut out that are shown at once."""
LEAST_LIFETIME = 5.0
"""Of markers [s]; at low rates two periods."""


class WindowOutputs:
    """Publishes snapshots, and says to the solver's thread when one is wanted.

    Args:
        topics: Makes the publishers.
        compose: Makes the messages.
        config: Of the estimator.
    """

    def __init__(self, topics: Topics, compose: Composer, config: EstimatorConfig) -> None:
        self._compose = compose
        self._config = config
        published = [track for track in config.tracks if track.publish]
        self._windows = {
            track.name: topics.add(
                "dnls_ros/msg/TrackWindow",
                f"~/{track.name}/window" if len(published) > 1 else "~/window",
                1,
            )
            for track in published
        }
        self._markers = topics.add(
            "visualization_msgs/msg/MarkerArray", "~/markers", 1, latched=True
        )
        self._painter = MarkerComposer(compose, config, _lifetime(config))
        self._rejected: deque[tuple[float, Lines]] = deque(maxlen=MOST_REJECTED)
        self._shown = False
        self._lock = threading.Lock()
        # Guarded by _lock, for two threads ask: what is due, and whether a snapshot was ordered.
        self._window_due = Every(config.publish.window_rate)
        self._marker_due = Every(config.publish.marker_rate)
        self._orders: set[str] = set()

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes over new rates."""
        with self._lock:
            self._config = config
            self._window_due.rate = config.publish.window_rate
            self._marker_due.rate = config.publish.marker_rate
        self._painter.lifetime = _lifetime(config)

    @property
    def watched(self) -> bool:
        """Whether someone looks at the markers."""
        return self._markers.get_subscription_count() > 0

    def order(self) -> bool:
        """Whether a snapshot is due; the solver's thread asks, and makes it."""
        now = time.monotonic()
        listening = any(p.get_subscription_count() for p in self._windows.values())
        with self._lock:
            rate = self._config.publish.marker_rate
            self._marker_due.rate = rate if self.watched else min(rate, UNWATCHED_RATE)
            if listening and self._window_due.due(now):
                self._orders.add("window")
            if self._marker_due.due(now):
                self._orders.add("markers")
            return bool(self._orders)

    def reject(self, lines: tuple[Lines, ...], now: float) -> None:
        """Takes what a gate shut out at ``now`` [s]."""
        self._rejected.extend((now, one) for one in lines)

    def publish(self, shot: WindowSnapshot, now: float) -> None:
        """Sends what was ordered."""
        with self._lock:
            orders, self._orders = self._orders, set()
        if "window" in orders:
            self._publish_windows(shot)
        if "markers" in orders:
            while self._rejected and now - self._rejected[0][0] > REJECTED_SHOWN:
                self._rejected.popleft()
            self._shown = True
            self._markers.publish(self._painter.array(shot, [one for _, one in self._rejected]))

    def clear(self) -> None:
        """Deletes what is drawn."""
        self._rejected.clear()
        if self._shown:
            self._shown = False
            self._markers.publish(self._painter.nothing())

    def _publish_windows(self, shot: WindowSnapshot) -> None:
        for name, publisher in self._windows.items():
            states = shot.tracks.get(name)
            if states is None or not publisher.get_subscription_count():
                continue
            whole = np.isfinite(states.poses).all(1)
            covariances = states.covariances
            if covariances is not None:
                covariances = np.stack([usable_covariance(c) for c in covariances])[whole]
            track = self._config.track(name)
            message = self._compose.track_window(
                name,
                track.parent_frame,
                track.child_frame,
                shot.window_id,
                states.stamps[whole],
                states.poses[whole],
                np.nan_to_num(states.twists[whole], posinf=0.0, neginf=0.0),
                covariances,
            )
            publisher.publish(message)


def _lifetime(config: EstimatorConfig) -> float:
    """Of a marker [s]: it outlives a pause of the estimator a little."""
    rate = config.publish.marker_rate
    slowest = min(rate, UNWATCHED_RATE) if rate > 0.0 else UNWATCHED_RATE
    return max(LEAST_LIFETIME, 2.0 / slowest)
