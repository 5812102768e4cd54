"""Compiles kernels before they are needed, or loads them from where they are kept.

A kernel is compiled when it is first called: a minute or so for all of them together, once per
machine and version; loading takes a fraction of a second. Small problems of the kinds that windows
are made of are solved here, so that a node can do it when it is configured and an installation
once, instead of at the first message.
"""

from __future__ import annotations

import gc
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from dnls_ros.costs import between, prior
from dnls_ros.lie import SE2, SE3, LieGroup
from dnls_ros.linear import BlockCholesky, has_kernels, marginal_covariances
from dnls_ros.optim.assembly import Assembly
from dnls_ros.optim.levenberg_marquardt import LevenbergMarquardt
from dnls_ros.optim.minimize import minimize
from dnls_ros.problem import Problem, Variables

COUNT = 12


def warm_up() -> dict[str, float]:
    """Compiles or loads the kernels of windows of SE(2) and SE(3) states.

    Returns:
        What was made → seconds; nothing without numba.
    """
    if not has_kernels():
        return {}
    seconds: dict[str, float] = {}
    for name, group in (("SE(2) windows", SE2), ("SE(3) windows", SE3)):
        began = time.perf_counter()
        _solve(group)
        _read_samples(group)
        seconds[name] = time.perf_counter() - began
    return seconds


def settle_memory() -> None:
    """What was loaded stays: the collector need not look through it in the middle of a step.

    For programs that start here; a library does not decide it.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _solve(group: type[LieGroup]) -> None:
    """A chain, its covariances, and one more linearization and cost outside of a minimization."""
    pose = Variables("pose", group)
    still = group(  # pyright: ignore[reportCallIssue]
        torch.tensor(group.identity_storage, dtype=torch.float64).repeat(1, COUNT, 1)
    )
    i = torch.arange(COUNT - 1)
    step = group(still.tensor[:, 1:])  # pyright: ignore[reportCallIssue]
    problem = Problem(
        anchor=prior(pose[range(COUNT)], still), chain=between(pose[i], pose[i + 1], step)
    )
    values = pose.values(range(COUNT), still)
    found = minimize(problem, values, LevenbergMarquardt(), BlockCholesky())
    factorization = found.last_factorization()
    factorization.solve(torch.zeros(1, factorization.pattern.n, dtype=torch.float64))
    marginal_covariances(factorization, "pose")
    assembly = Assembly(problem, found.assembly.structure)
    assembly.normal_equations(values)
    assembly.cost(values)


def _read_samples(group: type[LieGroup]) -> None:
    """Motion between two stamps, from samples of poses and of angular velocities."""
    from dnls_ros.kernels.motion import poses_between, steps_of, turns_between

    stamps = np.arange(COUNT)
    poses = np.tile(np.array(group.identity_storage), (COUNT, 1))
    out = np.empty_like(poses[1:])
    poses_between(stamps, poses, stamps[:-1], stamps[1:], out)
    turns_between(stamps, np.zeros((COUNT, 3)), group is SE2, stamps[:-1], stamps[1:], out)
    steps_of(poses, np.empty(COUNT - 1), np.empty(COUNT - 1))


def kept_in() -> Path | None:
    """Where compiled kernels are kept; None if nowhere can be written."""
    from dnls_ros.kernels.jit import cache_folder

    return cache_folder()


def remove_outdated(days: float = 30.0) -> int:
    """Removes what other versions have left beside and not written to for so long.

    Another version may be in use at the same time, from another environment.

    Returns:
        How many folders that were.
    """
    folder = kept_in()
    if folder is None:
        return 0
    latest = time.time() - 86400 * days
    old = [
        other
        for other in sorted(folder.parent.glob("kernels-*"))
        if other != folder and _written(other) < latest
    ]
    for other in old:
        shutil.rmtree(other, ignore_errors=True)
    return len(old)


def _written(folder: Path) -> float:
    """When a file of it was last written [s since the epoch]."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
