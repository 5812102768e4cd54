"""What each way to differentiate a solution costs and how right it is, as iterations go 2 → 50.

    PYTHONPATH=. python benchmarks/backward_modes.py [--json]

A batch of eight planar trajectories of 25 poses with contradicting, robust measurements is solved
by Gauss–Newton steps of half size; the gradient in measurements and noise is compared to that of
the minimum by finite differences. Every line is a process of its own: its peak memory is what the
process grew by at most during the solve and its backward pass, "kept" is what autograd holds in
between. Times are medians of three in one process; compare them within a run only.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import Kept
from dnls_ros.costs import between, prior
from dnls_ros.diff import Adjoint, DirectLoss, Implicit, Truncated, Unroll, solve
from dnls_ros.errors import DnlsWarning
from dnls_ros.lie import SE2
from dnls_ros.linear import Dense
from dnls_ros.optim import GaussNewton, Tolerances
from dnls_ros.problem import Diagonal, Problem, Values, Variables, Welsch

BATCH, COUNT = 8, 25
MODES: dict[str, Callable[[], Adjoint]] = {
    "unroll": Unroll,
    "truncated(5)": lambda: Truncated(5),
    "implicit, exact": Implicit,
    "implicit, Gauss–Newton": lambda: Implicit("gauss_newton"),
    "direct loss": lambda: DirectLoss(1e-3),
}
ITERATIONS = (2, 5, 10, 20, 50)
pose = Variables("pose", SE2)


def normal(*shape: int, seed: int) -> Tensor:
    """Seeded random numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def problem(data: Tensor, sigma: Tensor) -> Problem:
    """Odometry against absolute poses displaced by ``data``, one in five of them far off."""
    ids = torch.arange(COUNT)
    truth = start()["pose"]
    assert isinstance(truth, SE2)
    off = 1.0 + 4.0 * (ids % 5 == 4).double()[None, :, None]
    z = truth[:, :-1].between(truth[:, 1:]) @ SE2.exp(0.2 * normal(BATCH, COUNT - 1, 3, seed=1))
    radius = torch.full((1, 1), 3.0, dtype=torch.float64)
    return Problem(
        odometry=between(pose[ids[:-1]], pose[ids[1:]], z, noise=Diagonal(sigma)),
        absolute=prior(pose[ids], truth @ SE2.exp(0.3 * off * data), loss=Welsch(radius)),
    )


def start() -> Values:
    """Trajectories of unit steps that turn."""
    step = torch.tensor([1.0, 0.0, 0.2], dtype=torch.float64).expand(BATCH, 1, 3)
    track = [SE2.identity(BATCH, 1, dtype=torch.float64)]
    for _ in range(COUNT - 1):
        track.append(track[-1] @ SE2.exp(step))
    return pose.values(range(COUNT), SE2(torch.cat([x.tensor for x in track], 1)))


def loss(theta: tuple[Tensor, Tensor], adjoint: Adjoint | None, stop: Tolerances, step: float):
    """A smooth number of the solution."""
    method = GaussNewton(step)
    found = solve(
        problem(*theta), start(), method, linear=Dense(), adjoint=adjoint, tolerances=stop
    )
    x: Any = found.values["pose"]
    return (normal(COUNT, 4, seed=9) * x.tensor).sum()


def parameters() -> tuple[Tensor, Tensor]:
    """Data and noise of the problem."""
    sigma = torch.tensor([0.2, 0.2, 0.1], dtype=torch.float64)
    return normal(BATCH, COUNT, 3, seed=5), sigma


def directional_difference(direction: tuple[Tensor, Tensor]) -> float:
    """The derivative of the loss at the minimum, Richardson-extrapolated."""
    tight = Tolerances(0, 1e-13, 1e-12, 200)

    def along(h: float) -> float:
        moved = tuple(t + h * d for t, d in zip(parameters(), direction, strict=True))
        with torch.no_grad():
            return float(loss(moved, None, tight, 1.0))  # type: ignore[arg-type]

    coarse, fine = ((along(h) - along(-h)) / (2 * h) for h in (2e-3, 1e-3))
    return (4 * fine - coarse) / 3


def measure(mode: str, iterations: int) -> dict[str, float]:
    """One line of the table, in this process."""
    stop = Tolerances(0, 0, 0, iterations)
    seconds: dict[str, list[float]] = {"forward": [], "backward": []}

    def once() -> tuple[Tensor, ...]:
        theta = tuple(t.clone().requires_grad_() for t in parameters())
        clock = time.perf_counter()
        value = loss(theta, MODES[mode](), stop, 0.5)  # type: ignore[arg-type]
        seconds["forward"].append(time.perf_counter() - clock)
        clock = time.perf_counter()
        gradient = torch.autograd.grad(value, theta)
        seconds["backward"].append(time.perf_counter() - clock)
        return gradient

    with torch.no_grad():  # imports and the first structure are not what is measured
        loss(parameters(), None, Tolerances(0, 0, 0, 1), 0.5)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slopes = once()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    for _ in range(2):
        once()
    with Kept() as kept:
        theta = tuple(t.clone().requires_grad_() for t in parameters())
        value = loss(theta, MODES[mode](), stop, 0.5)  # type: ignore[arg-type]
    kept_mib = kept.mebibytes
    del value  # its graph was what was counted
    direction = (normal(BATCH, COUNT, 3, seed=11), torch.tensor([0.1, -0.05, 0.05]).double())
    got = sum(float((g * d).sum()) for g, d in zip(slopes, direction, strict=True))
    true = directional_difference(direction)
    return {
        "forward_s": statistics.median(seconds["forward"]),
        "backward_s": statistics.median(seconds["backward"]),
        "kept_mib": kept_mib,
        "peak_mib": peak,
        "relative_error": abs(got - true) / abs(true),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("MODE", "ITERATIONS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        warnings.simplefilter("ignore", DnlsWarning)  # few iterations are far from the minimum
        print(json.dumps(measure(options.one[0], int(options.one[1]))))
        return
    rows: list[dict[str, Any]] = []
    for mode in MODES:
        for iterations in ITERATIONS:
            command = [sys.executable, __file__, "--one", mode, str(iterations)]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append({"mode": mode, "iterations": iterations, **json.loads(line)})
    if options.json:
        print(json.dumps(rows))
        return
    print("| mode | iterations | forward [ms] | backward [ms] | kept [MiB] | peak [MiB] | error |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        times = f"{1e3 * row['forward_s']:.0f} | {1e3 * row['backward_s']:.0f}"
        memory = f"{row['kept_mib']:.2f} | {row['peak_mib']:.1f}"
        error = f"{row['relative_error']:.1e}"
        print(f"| {row['mode']} | {row['iterations']} | {times} | {memory} | {error} |")


if __name__ == "__main__":
    main()
