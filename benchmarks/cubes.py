"""Batches of cubes of poses beside GTSAM, one after another, and Theseus, all at once."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.batched_solvers import Cube, make_cube
from benchmarks.metrics import Metric
from benchmarks.peer import Peer
from dnls_ros.diff import Implicit, solve
from dnls_ros.linear import BlockCholesky
from dnls_ros.optim import GaussNewton, Tolerances

PEER = Path(__file__).with_name("peer_cubes.py")
TEN = Tolerances(0.0, 0.0, 0.0, 10)
FORWARD = ((256, 1), (256, 16), (256, 64), (1024, 1), (2048, 1))
"""Poses and batch of ten Gauss–Newton iterations."""
BACKWARD = (256, 4)
PROMISES = {("gtsam", 256, 64): (7.0, 12.0), ("theseus", 256, 64): (15.0, 25.0)}
"""How many times as fast."""
MOST_FOR_THESEUS = 16384
"""Poses in a batch: larger ones take minutes."""


def cubes(python: str, rounds: int = 3) -> Iterator[Metric]:
    """Ten Gauss–Newton iterations and the implicit derivative; without peers nothing."""
    if not python:
        return
    torch.set_num_threads(2)
    for poses, batch in FORWARD:
        names = ["gtsam", *(["theseus"] if poses * batch <= MOST_FOR_THESEUS else [])]
        yield from _beside(python, poses, batch, names, rounds)
    cube = make_cube(*BACKWARD, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(python, PEER, _saved(cube, Path(folder)))
        ours, theirs = [], []
        for _ in range(rounds + 1):
            plain = _forward(cube)[0]
            ours.append(_backward(cube) - plain)
            theirs.append(peer.ask("theseus_backward")["backward"])
        peer.close()
    ratio = float(np.median(theirs[1:]) / max(np.median(ours[1:]), 1e-9))
    note = "its implicit derivative by ours (Gauss–Newton), two threads"
    yield Metric("cube.256x4.backward.theseus", ratio, "× faster", "higher", 0.5, 100, None, note)
    torch.set_num_threads(1)


def _beside(
    python: str, poses: int, batch: int, names: list[str], rounds: int
) -> Iterator[Metric]:
    cube = make_cube(poses, batch, torch.device("cpu"))
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *names)}
    objectives: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(python, PEER, _saved(cube, Path(folder)))
        for _ in range(rounds + 1):
            taken, objectives["ours"] = _forward(cube)
            seconds["ours"].append(taken)
            for name in names:
                answer = peer.ask(name)
                seconds[name].append(answer["seconds"])
                objectives[name] = answer["objective"]
        peer.close()
    medians = {name: float(np.median(times[1:])) for name, times in seconds.items()}
    key = f"cube.{poses}x{batch}"
    yield Metric(f"{key}.seconds", medians["ours"], "s", note="10 iterations, two threads")
    for name in names:
        promise, moonshot = PROMISES.get((name, poses, batch), (None, None))
        ratio = medians[name] / medians["ours"]
        note = "its time for 10 Gauss–Newton iterations by ours, two threads"
        yield Metric(f"{key}.{name}", ratio, "× faster", "higher", 0.5, promise, moonshot, note)
    apart = abs(objectives["ours"] / objectives["gtsam"] - 1)
    yield Metric(f"{key}.apart", apart, "", promise=1e-9, note="of the objectives")


def _saved(cube: Cube, folder: Path) -> Path:
    file = folder / "cube.npz"
    np.savez(
        file,
        first=cube.first.numpy(),
        second=cube.second.numpy(),
        z=cube.z.tensor.numpy(),
        start=cube.start["pose"].tensor.numpy(),  # type: ignore[union-attr]
    )
    return file


def _forward(cube: Cube) -> tuple[float, float]:
    """Seconds, and the objectives' sum."""
    began = time.perf_counter()
    found = solve(
        cube.problem(cube.z.tensor),
        cube.start,
        GaussNewton(),
        linear=BlockCholesky(),
        tolerances=TEN,
    )
    return time.perf_counter() - began, float(found.cost.sum())


def _backward(cube: Cube) -> float:
    """Seconds of both passes."""
    z = cube.z.tensor.detach().clone().requires_grad_()
    began = time.perf_counter()
    found = solve(
        cube.problem(z),
        cube.start,
        GaussNewton(),
        linear=BlockCholesky(),
        adjoint=Implicit("gauss_newton"),
        tolerances=TEN,
    )
    found.values["pose"].tensor.square().sum().backward()  # type: ignore[union-attr]
    return time.perf_counter() - began
