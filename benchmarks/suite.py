"""The benchmarks that are kept: run, compare with the committed baseline, or replace it.

    PYTHONPATH=. python benchmarks/suite.py [--peer-python PYTHON] [--bless] [--only NAME]

``make bench`` compares and fails if a ratio got worse than its tolerance; ``make bench-bless``
replaces baseline.json and docs/benchmarks.md. One thread, unless a figure says two. GTSAM is
measured beside us where ``--peer-python`` (or $DNLS_PEERS) names an interpreter that has it; what
needs a file of $DNLS_DATA that is absent is left out, and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.batched_solvers import make_cube
from benchmarks.cubes import cubes
from benchmarks.metrics import BASELINE, Metric, Run
from benchmarks.step_time import planar_steps, spatial_steps
from benchmarks.window_step import windows
from dnls_ros.cli.bench_graph import Graph, alone, compare
from dnls_ros.diff import Implicit, solve
from dnls_ros.errors import DnlsError
from dnls_ros.io.recording import write_recording
from dnls_ros.io.replay import ReplayOptions, replay
from dnls_ros.io.scene import load_scene
from dnls_ros.io.simulate import simulate
from dnls_ros.linear import BlockCholesky, Cholmod, Symbolic
from dnls_ros.optim import GaussNewton, Tolerances
from dnls_ros.optim.warmup import settle_memory
from dnls_ros.window.parameters import load_parameters

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("DNLS_DATA", ROOT.parent / "shared" / "data"))
PROMISES = {
    "sphere2500": (0.25, 0.15),
    "parking-garage": (0.15, 0.08),
    "M3500": (0.25, 0.12),
    "intel": (None, None),
}
"""Of an iteration, relative to GTSAM's."""

Scenario = Callable[[str], Iterator[Metric]]


def pose_graphs(python: str) -> Iterator[Metric]:
    """Seconds per iteration and objective, beside GTSAM."""
    for name, (promise, moonshot) in PROMISES.items():
        file = DATA / "g2o" / f"{name}.g2o"
        if not file.is_file():
            print(f"left out: {file.name} is not in DNLS_DATA")
            continue
        figures = compare(file, "gtsam", python, 5) if python else alone(file, 5)
        yield Metric(f"graph.{name}.iteration", 1e3 * figures["seconds_per_iteration"], "ms")
        yield Metric(f"graph.{name}.objective", figures["objective"], "", tolerance=1e-9)
        if python:
            apart = abs(figures["objective"] / figures["peer_objective"] - 1)
            yield Metric(
                f"graph.{name}.gtsam",
                figures["ratio"],
                "×",
                tolerance=0.5,
                promise=promise,
                moonshot=moonshot,
                note="our time per iteration by GTSAM's, medians of 5 interleaved rounds",
            )
            yield Metric(f"graph.{name}.apart", apart, "", promise=1e-9, note="of the objectives")


def factorizations(_: str) -> Iterator[Metric]:
    """Block Cholesky beside CHOLMOD: factorization and one solution."""
    for name in ("sphere2500", "parking-garage"):
        file = DATA / "g2o" / f"{name}.g2o"
        if file.is_file():
            graph = Graph.read(file, "file")
            hessian = graph.assembly.normal_equations(graph.initial).hessian
            diagonal = torch.from_numpy(graph.assembly.structure.pattern.diagonal)
            hessian = hessian.index_add(1, diagonal, 1e-3 * hessian[:, diagonal])
            rhs = torch.ones(1, graph.assembly.structure.n, dtype=torch.float64)
            tasks = [
                partial(_solved, graph.assembly.symbolic(solver), hessian, rhs)
                for solver in (BlockCholesky(), Cholmod())
            ]
            ours, theirs = interleaved(tasks, 5)
            yield Metric(f"factor.{name}.cholmod", ours / theirs, "×", tolerance=0.5)


def _solved(symbolic: Symbolic, hessian: Tensor, rhs: Tensor) -> Tensor:
    return symbolic.factorize(hessian).solve(rhs)


def batches(_: str) -> Iterator[Metric]:
    """Ten Gauss–Newton iterations of cubes of poses, and their implicit derivative."""
    torch.set_num_threads(2)
    ten = Tolerances(0.0, 0.0, 0.0, 10)
    for batch in (1, 4, 16, 64):
        cube = make_cube(256, batch, torch.device("cpu"))

        def forward(kind: str = "", cube=cube) -> None:
            z = cube.z.tensor.detach().clone().requires_grad_(bool(kind))
            found = solve(
                cube.problem(z),
                cube.start,
                GaussNewton(),
                linear=BlockCholesky(),
                adjoint=Implicit(kind or "gauss_newton"),  # type: ignore[arg-type]
                tolerances=ten,
            )
            if kind:
                found.values["pose"].tensor.square().sum().backward()

        plain, cheap, exact = interleaved(
            [forward, lambda f=forward: f("gauss_newton"), lambda f=forward: f("exact")], 3
        )
        yield Metric(f"batch.256x{batch}.forward", plain, "s", note="two threads")
        for name, whole, promise, moonshot in (
            ("gauss_newton", cheap, 0.10, 0.05),
            ("exact", exact, 0.30, 0.15),
        ):
            yield Metric(
                f"batch.256x{batch}.backward.{name}",
                max(whole - plain, 0.0) / plain,
                "×",
                promise=promise,
                moonshot=moonshot,
                note="what the derivative adds, its graph included, by a forward pass alone",
            )
    torch.set_num_threads(1)


def estimator(_: str) -> Iterator[Metric]:
    """The whole step, measurements in to poses out, and a replay."""
    for name, steps, promise in (
        ("planar", planar_steps(300), (5.0, 1.0)),
        ("spatial", spatial_steps(60), (None, None)),
    ):
        times, results = zip(*steps, strict=True)
        p50, p95 = 1e3 * np.quantile(times, [0.5, 0.95])
        states, factors = (
            np.mean([getattr(r, k) for r in results]) for k in ("states", "factors")
        )
        note = f"{states:.0f} states, {factors:.0f} factors"
        yield Metric(f"step.{name}.p50", p50, "ms", note=note)
        yield Metric(
            f"step.{name}.p95", p95, "ms", promise=promise[0], moonshot=promise[1], note=note
        )
    config = load_parameters(ROOT / "config" / "localization_2d.yaml")
    with tempfile.TemporaryDirectory() as folder:
        files = write_recording(simulate(0, 30.0, load_scene()), folder)
        result = replay(files.bag, config, ReplayOptions())
    pace = result.span / result.seconds
    yield Metric("replay", pace, "× real time", "higher", promise=50, moonshot=200)


def processes(_: str) -> Iterator[Metric]:
    """What a process pays: loading kernels, and memory."""
    for _again in range(2):  # the first may have to compile
        seconds = json.loads(_run("-m", "dnls_ros.cli", "warmup", "--json"))["seconds"]
    note = "numba imported, kernels loaded from where they are kept"
    yield Metric(
        "start.kernels", 1e3 * sum(seconds.values()), "ms", promise=50, moonshot=10, note=note
    )
    file = DATA / "g2o" / "sphere2500.g2o"
    # Not getrusage: what a process's parent had counts there too.
    peak = (
        "print([int(line.split()[1]) / 1024 for line in open('/proc/self/status') "
        "if line.startswith('VmHWM')][0])"
    )
    if file.is_file():
        bare = float(_run("-c", f"import torch; torch.ones(1); {peak}"))
        ours = float(
            _run(
                "-c",
                "from pathlib import Path; from dnls_ros.cli.bench_graph import alone; "
                f"alone(Path({str(file)!r}), 1); {peak}",
            )
        )
        note = "peak of solving sphere2500, file read included, over that of importing torch"
        yield Metric("memory.sphere2500", ours - bare, "MiB", promise=150, moonshot=100, note=note)


def _run(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip().splitlines()[-1]


def interleaved(tasks: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each task; a first round is not counted."""
    kept: list[list[float]] = [[] for _ in tasks]
    for _ in range(rounds + 1):
        for task, times in zip(tasks, kept, strict=True):
            began = time.perf_counter()
            task()
            times.append(time.perf_counter() - began)
    return [float(np.median(times[1:])) for times in kept]


SCENARIOS: dict[str, Scenario] = {
    "graphs": pose_graphs,
    "factorizations": factorizations,
    "batches": batches,
    "cubes": cubes,
    "windows": windows,
    "estimator": estimator,
    "processes": processes,
}


def machine() -> dict[str, str]:
    """What the figures depend on, without names of places."""
    flags = Path("/proc/cpuinfo")
    text = flags.read_text() if flags.is_file() else ""
    models = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    simd = "AVX-512" if "avx512f" in text else "AVX2" if "avx2" in text else "none known"
    names = ("torch", "numba", "scikit-sparse")
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": str(os.cpu_count()),
        "vector instructions": simd,
        "python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version(name)}" for name in names),
    }


def main() -> int:
    """Runs; 1 if a figure is worse than the baseline allows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=os.environ.get("DNLS_PEERS", ""))
    parser.add_argument("--bless", action="store_true")
    parser.add_argument("--only", choices=SCENARIOS, action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settle_memory()  # as the node and the command line do
    if not options.peer_python:
        print("GTSAM is left out: --peer-python or $DNLS_PEERS names no interpreter that has it")
    metrics: list[Metric] = []
    for name in options.only or SCENARIOS:
        for metric in SCENARIOS[name](options.peer_python):
            print(
                f"{metric.name:36} {metric.value:12.4g} {metric.unit:12} {metric.verdict}",
                flush=True,
            )
            metrics.append(metric)
    run = Run(machine(), tuple(metrics))
    if options.bless:
        if options.only:
            raise DnlsError("--bless replaces the whole baseline: leave --only out")
        run.save()
        from benchmarks.render import write

        write(run)
        return 0
    if not BASELINE.is_file():
        print("there is no baseline yet: make bench-bless")
        return 0
    worse = run.regressions(Run.load())
    print("\n".join(worse) if worse else "no ratio is worse than the baseline allows")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
