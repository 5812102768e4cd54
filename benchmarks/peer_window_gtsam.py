"""Slides a window with GTSAM, one round for each line on stdin: see benchmarks/window_step.py.

Run with the interpreter that has GTSAM: this file imports nothing of dnls_ros. A line names what
solves: ``batch``, Levenberg–Marquardt over the factors of the window with its oldest pose held, or
``incremental``, an IncrementalFixedLagSmoother. Making factors and values is not timed.

    python peer_window_gtsam.py SCENE.npz
"""

import json
import sys
import time
from collections import deque

import gtsam  # pyright: ignore[reportMissingImports]  # the peer's interpreter has it
import numpy as np


class Kind:
    """SE(2) or SE(3)."""

    def __init__(self, dimension):
        self.spatial = dimension == 6
        self.between = gtsam.BetweenFactorPose3 if self.spatial else gtsam.BetweenFactorPose2
        self.prior = gtsam.PriorFactorPose3 if self.spatial else gtsam.PriorFactorPose2

    def pose(self, numbers):
        """From a translation and a quaternion (x, y, z, w), or (x, y, cos, sin)."""
        if not self.spatial:
            x, y, c, s = numbers
            return gtsam.Pose2(x, y, np.arctan2(s, c))
        x, y, z, w = numbers[3:]
        return gtsam.Pose3(gtsam.Rot3.Quaternion(w, x, y, z), np.asarray(numbers[:3]))

    def place(self, pose):
        """The position, as a list."""
        at = pose.translation()
        return [float(c) for c in at]


class Scene:
    """The measurements as factors, step by step."""

    def __init__(self, path):
        data = np.load(path)
        self.capacity, self.count = int(data["capacity"]), int(data["count"])
        self.kind = kind = Kind(len(data["sigmas"]))
        # The peer's tangent has the rotation first.
        swap = np.r_[3:6, 0:3] if kind.spatial else np.arange(3)
        noise = gtsam.noiseModel.Diagonal.Sigmas(data["sigmas"][swap])
        self.fix = gtsam.noiseModel.Diagonal.Sigmas(data["fix_sigmas"][swap])
        self.odometry = [kind.pose(z) for z in data["odometry"]]
        self.first = kind.pose(data["first"])
        self.factors = []
        for k in range(self.count):
            new = []
            if k:
                new.append((k - 1, kind.between(k - 1, k, self.odometry[k], noise)))
            else:
                new.append((0, kind.prior(0, self.first, self.fix)))
            if data["linked"][k]:
                old = k - int(data["reach"])
                new.append((old, kind.between(old, k, kind.pose(data["links"][k]), noise)))
            if data["fixed"][k]:
                new.append((k, kind.prior(k, kind.pose(data["fixes"][k]), self.fix)))
            self.factors.append(new)


def estimate(values, kind, key):
    """One pose of the values."""
    return values.atPose3(key) if kind.spatial else values.atPose2(key)


def batch(scene, how):
    """Levenberg–Marquardt over the window's factors."""
    kind, window, values = scene.kind, deque(), gtsam.Values()
    seconds, last = [], scene.first
    for k in range(scene.count):
        last = last.compose(scene.odometry[k]) if k else scene.first
        values.insert(k, last)
        window.extend(scene.factors[k])
        oldest = max(0, k - scene.capacity + 1)
        if oldest:
            values.erase(oldest - 1)
            window = deque(pair for pair in window if pair[0] >= oldest)
        graph = gtsam.NonlinearFactorGraph()
        for _, factor in window:
            graph.push_back(factor)
        graph.push_back(kind.prior(oldest, estimate(values, kind, oldest), scene.fix))
        began = time.perf_counter()
        values = gtsam.LevenbergMarquardtOptimizer(graph, values, how).optimize()
        seconds.append(time.perf_counter() - began)
        last = estimate(values, kind, k)
    return seconds, last


def incremental(scene, _):
    """The smoother made for it."""
    kind = scene.kind
    smoother = gtsam.IncrementalFixedLagSmoother(scene.capacity - 0.5, gtsam.ISAM2Params())
    seconds, last = [], scene.first
    for k in range(scene.count):
        graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
        for _, factor in scene.factors[k]:
            graph.push_back(factor)
        last = last.compose(scene.odometry[k]) if k else scene.first
        values.insert(k, last)
        stamps = gtsam.FixedLagSmootherKeyTimestampMap()
        stamps.insert((k, float(k)))
        began = time.perf_counter()
        smoother.update(graph, values, stamps)
        found = smoother.calculateEstimate()
        seconds.append(time.perf_counter() - began)
        last = estimate(found, kind, k)
    return seconds, last


def main():
    """Reads once, then answers each line with the seconds of every step of a full window."""
    scene = Scene(sys.argv[1])
    how = gtsam.LevenbergMarquardtParams()
    how.setRelativeErrorTol(1e-6)
    how.setAbsoluteErrorTol(0.0)
    print(json.dumps({"version": getattr(gtsam, "__version__", "unknown")}), flush=True)
    for line in sys.stdin:
        seconds, last = {"batch": batch, "incremental": incremental}[line.strip()](scene, how)
        print(
            json.dumps({"seconds": seconds[scene.capacity :], "last": scene.kind.place(last)}),
            flush=True,
        )


if __name__ == "__main__":
    main()
