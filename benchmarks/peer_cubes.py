"""Solves cubes of poses with GTSAM or Theseus, one round a line on stdin: see benchmarks/cubes.py.

Run with the interpreter that has them: this file imports nothing of dnls_ros. A line names what
is done: ``gtsam``, ten Gauss–Newton iterations of each problem one after another; ``theseus``, ten
of all as a batch; ``theseus_backward``, those and the implicit derivative. Making graphs is not
timed.

    python peer_cubes.py CUBE.npz
"""

import json
import sys
import time
import warnings

import numpy as np

ITERATIONS = 10
warnings.filterwarnings("ignore")


class Gtsam:
    """The graphs and starts of a batch."""

    def __init__(self, data):
        import gtsam  # pyright: ignore[reportMissingImports]  # the peer's interpreter has it

        self.gtsam = gtsam
        edge = gtsam.noiseModel.Isotropic.Sigma(6, 0.1)
        anchor = gtsam.noiseModel.Isotropic.Sigma(6, 0.01)
        pairs = list(zip(data["first"].tolist(), data["second"].tolist(), strict=True))
        self.problems = []
        for z, start in zip(data["z"], data["start"], strict=True):
            graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
            graph.add(gtsam.PriorFactorPose3(0, gtsam.Pose3(), anchor))
            for (i, j), numbers in zip(pairs, z, strict=True):
                graph.add(gtsam.BetweenFactorPose3(i, j, self.pose(numbers), edge))
            for k, numbers in enumerate(start):
                values.insert(k, self.pose(numbers))
            self.problems.append((graph, values))

    def pose(self, numbers):
        x, y, z, w = numbers[3:]
        return self.gtsam.Pose3(self.gtsam.Rot3.Quaternion(w, x, y, z), np.asarray(numbers[:3]))

    def round(self):
        seconds, error = 0.0, 0.0
        for graph, values in self.problems:
            began = time.perf_counter()
            optimizer = self.gtsam.GaussNewtonOptimizer(graph, values)
            for _ in range(ITERATIONS):
                optimizer.iterate()
            seconds += time.perf_counter() - began
            error += graph.error(optimizer.values())
        return {"seconds": seconds, "objective": error}


class Theseus:
    """One objective for the batch."""

    def __init__(self, data):
        import theseus as th  # pyright: ignore[reportMissingImports]
        import torch

        torch.set_num_threads(2)
        self.th, self.torch = th, torch
        f64 = torch.float64
        start, z = (self.matrix(torch.from_numpy(data[name])) for name in ("start", "z"))
        count = start.shape[1]
        poses = [th.SE3(name=f"pose_{k}", dtype=f64) for k in range(count)]
        objective = th.Objective(dtype=f64)
        edge = th.ScaleCostWeight(torch.full((1, 1), 1 / 0.1, dtype=f64))
        anchor = th.ScaleCostWeight(torch.full((1, 1), 1 / 0.01, dtype=f64))
        self.z = z
        self.inputs = {f"pose_{k}": start[:, k] for k in range(count)}
        pairs = zip(data["first"].tolist(), data["second"].tolist(), strict=True)
        for k, (i, j) in enumerate(pairs):
            measured = th.SE3(name=f"z_{k}", dtype=f64)
            objective.add(th.Between(poses[i], poses[j], measured, edge, name=f"edge_{k}"))
        objective.add(th.Difference(poses[0], th.SE3(name="anchor", dtype=f64), anchor))
        self.inputs["anchor"] = torch.eye(3, 4, dtype=f64)[None]
        self.layer = th.TheseusLayer(
            th.GaussNewton(
                objective,
                linear_solver_cls=th.CholmodSparseSolver,
                max_iterations=ITERATIONS,
                abs_err_tolerance=0.0,
                rel_err_tolerance=0.0,
            )
        )

    def matrix(self, x):
        """(…, 3, 4) of translations and quaternions x y z w."""
        torch, q = self.torch, x[..., 3:]
        a, b, c, w = q.unbind(-1)
        rows = [
            *(1 - 2 * (b * b + c * c), 2 * (a * b - c * w), 2 * (a * c + b * w), x[..., 0]),
            *(2 * (a * b + c * w), 1 - 2 * (a * a + c * c), 2 * (b * c - a * w), x[..., 1]),
            *(2 * (a * c - b * w), 2 * (b * c + a * w), 1 - 2 * (a * a + b * b), x[..., 2]),
        ]
        return torch.stack(rows, -1).reshape(*x.shape[:-1], 3, 4)

    def round(self, backward):
        z = self.z.detach().clone().requires_grad_(backward)
        inputs = {**self.inputs, **{f"z_{k}": z[:, k] for k in range(z.shape[1])}}
        mode = {"backward_mode": "implicit"} if backward else {}
        began = time.perf_counter()
        with self.torch.set_grad_enabled(backward):
            solved, _ = self.layer.forward(inputs, optimizer_kwargs=mode)
        middle = time.perf_counter()
        if backward:
            sum(p.square().sum() for n, p in solved.items() if n.startswith("pose_")).backward()
        end = time.perf_counter()
        error = float(self.layer.objective.error_metric().sum())
        return {"seconds": middle - began, "backward": end - middle, "objective": error}


def main():
    """Answers until stdin ends."""
    data = np.load(sys.argv[1])
    made = {}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        what = line.strip()
        name = what.split("_")[0]
        if name not in made:
            made[name] = {"gtsam": Gtsam, "theseus": Theseus}[name](data)
        peer = made[name]
        answer = peer.round() if name == "gtsam" else peer.round(what.endswith("_backward"))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
