"""Minimizes a pose graph with GTSAM, one round for each line on stdin.

Run by ``dnls bench`` with the interpreter that has GTSAM: this file imports nothing of dnls_ros.
The first pose is held by a prior far stronger than any edge; at the minimum it costs nothing, so
the objective is that of the edges, ½Σ rᵀΩr with r = Log(Z⁻¹XᵢXⱼ).

    python peer_gtsam.py FILE.g2o 2|3 ITERATIONS TOLERANCE
"""

import json
import sys
import time

import gtsam  # pyright: ignore[reportMissingImports]  # the peer's interpreter has it
import numpy as np

HELD = 1e-5


def main() -> None:
    """Reads once, then answers each line with the figures of one minimization."""
    path, dimension, iterations, tolerance = sys.argv[1:5]
    spatial = dimension == "3"
    graph, initial = gtsam.readG2o(path, spatial)
    first = min(initial.keys())
    noise = gtsam.noiseModel.Diagonal.Sigmas(np.full(6 if spatial else 3, HELD))
    if spatial:
        graph.add(gtsam.PriorFactorPose3(first, initial.atPose3(first), noise))
    else:
        graph.add(gtsam.PriorFactorPose2(first, initial.atPose2(first), noise))
    how = gtsam.LevenbergMarquardtParams()
    how.setMaxIterations(int(iterations))
    how.setRelativeErrorTol(float(tolerance))
    how.setAbsoluteErrorTol(0.0)
    print(json.dumps({"version": getattr(gtsam, "__version__", "unknown")}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        optimizer = gtsam.LevenbergMarquardtOptimizer(graph, initial, how)
        found = optimizer.optimize()
        seconds = time.perf_counter() - began
        figures = {
            "seconds": seconds,
            "iterations": optimizer.iterations(),
            "objective": graph.error(found),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
