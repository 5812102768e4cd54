"""One step of a sliding window, beside GTSAM's batch optimizer and its fixed-lag smoother.

    PYTHONPATH=. python benchmarks/window_step.py [--peer-python PYTHON]

Each pose has odometry to the one before, three in five a link to the pose five before, one in ten
a measured pose. Ours slides, marginalizes and minimizes to a relative decrease of 1e-6, as the
peer's optimizer does (which holds the oldest pose instead of marginalizing).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.metrics import Metric
from benchmarks.peer import Peer
from dnls_ros.costs import between, prior
from dnls_ros.lie import SE2, SE3, LieGroup
from dnls_ros.optim import LevenbergMarquardt, Tolerances
from dnls_ros.problem import Diagonal, Variables
from dnls_ros.window.fixed_lag import FixedLag

PEER = Path(__file__).with_name("peer_window_gtsam.py")
REACH = 5
SIZES = ((SE3, 20), (SE3, 50), (SE3, 100), (SE2, 60), (SE2, 120))
PROMISES = {"batch": (0.15, 0.08), "incremental": (0.35, 0.18)}
WAYS = {"batch": Tolerances(cost=1e-6), "incremental": Tolerances(iterations=1)}
"""How ours minimizes beside each peer: to convergence, and by one step as an update does."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Measurements of a drive; row k belongs to pose k."""

    group: type[LieGroup]
    capacity: int
    odometry: Tensor
    links: Tensor
    linked: np.ndarray
    fixes: Tensor
    fixed: np.ndarray
    first: Tensor
    sigmas: Tensor
    fix_sigmas: Tensor

    @property
    def count(self) -> int:
        """Poses."""
        return len(self.odometry)

    def save(self, path: Path) -> None:
        """For the peer."""
        arrays: dict[str, Any] = {
            name: value.numpy() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        numbers = {"capacity": self.capacity, "count": self.count, "reach": REACH}
        flags = {"linked": self.linked, "fixed": self.fixed}
        np.savez(path, **{**flags, **arrays, **numbers})  # pyright: ignore[reportArgumentType]


def make_scene(group: type[LieGroup], capacity: int, steps: int, seed: int = 0) -> Scene:
    """A drive of ``capacity + steps`` poses."""
    random = torch.Generator().manual_seed(seed)
    count, t = capacity + steps, group.tangent_dim

    def noisy(elements: LieGroup, sigmas: Tensor) -> LieGroup:
        noise = sigmas * torch.randn(
            len(elements.tensor), t, generator=random, dtype=torch.float64
        )
        return elements @ group.exp(noise)

    forward = torch.zeros(count, t, dtype=torch.float64)
    forward[:, 0], forward[:, -1] = 0.5, 0.05
    motion = noisy(group.exp(forward), torch.full((t,), 0.05, dtype=torch.float64))
    poses = [group.identity(dtype=torch.float64)]
    for k in range(1, count):
        poses.append(poses[-1] @ motion[k])
    truth = group(torch.stack([pose.tensor for pose in poses]))  # pyright: ignore[reportCallIssue]
    back = torch.arange(count).sub(1).clamp(min=0), torch.arange(count).sub(REACH).clamp(min=0)
    sigmas = torch.full((t,), 0.02, dtype=torch.float64)
    fix_sigmas = torch.full((t,), 0.1, dtype=torch.float64)
    drawn = torch.rand(count, generator=random).numpy()
    index = np.arange(count)
    return Scene(
        group,
        capacity,
        noisy(truth[back[0]].inverse() @ truth, sigmas).tensor,
        noisy(truth[back[1]].inverse() @ truth, sigmas).tensor,
        (drawn < 0.6) & (index >= REACH),
        noisy(truth, fix_sigmas).tensor,
        (index % 10 == 0) & (index > 0),
        poses[0].tensor,
        sigmas,
        fix_sigmas,
    )


def make_window(scene: Scene, stop: Tolerances) -> FixedLag:
    """The window of a scene."""
    pose = Variables("pose", scene.group)
    still = scene.group.identity(1, 1, dtype=torch.float64)
    noise, fix = Diagonal(scene.sigmas), Diagonal(scene.fix_sigmas)
    return FixedLag(
        pose,
        scene.capacity,
        {
            "odometry": between(pose[0], pose[1], still, noise=noise),
            "link": between(pose[0], pose[REACH], still, noise=noise),
            "fix": prior(pose[0], still, noise=fix),
        },
        motion="odometry",
        method=LevenbergMarquardt(),
        stop=stop,
    )


def slide(scene: Scene, stop: Tolerances) -> tuple[list[float], list[float], int]:
    """Seconds of each step of the full window, the last position, and trials in all."""
    window = make_window(scene, stop)
    steps: list[dict[str, Tensor]] = []
    for k in range(scene.count):
        measured = {"odometry": scene.odometry[k]} if k else {"fix": scene.first}
        if scene.linked[k]:
            measured["link"] = scene.links[k]
        if scene.fixed[k]:
            measured["fix"] = scene.fixes[k]
        steps.append(measured)
    seconds, trials = [], 0
    for measured in steps:
        began = time.perf_counter()
        found = window.step(measured)
        seconds.append(time.perf_counter() - began)
        trials += found.iterations
    last = window.values["pose"]
    assert isinstance(last, LieGroup)
    place = last[:, -1].translation.reshape(-1).tolist()  # type: ignore[attr-defined]
    return seconds[scene.capacity :], place, trials


def windows(python: str, steps: int = 300, rounds: int = 3) -> Iterator[Metric]:
    """Step times of all sizes, with ratios where there is a peer."""
    for group, capacity in SIZES:
        scene = make_scene(group, capacity, steps)
        exact = slide(scene, Tolerances(cost=0.0, step=1e-10, gradient=1e-12))[1]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scene.npz"
            scene.save(file)
            peer = Peer(python, PEER, file) if python else None
            for what, stop in WAYS.items():
                ours, theirs, places, trials = [], [], {}, 0
                for _ in range(rounds):
                    seconds, places["ours"], trials = slide(scene, stop)
                    ours.append(seconds)
                    if peer is not None:
                        answer = peer.ask(what)
                        theirs.append(answer["seconds"])
                        places["gtsam"] = answer["last"]
                apart = {
                    n: float(np.linalg.norm(np.subtract(x, exact))) for n, x in places.items()
                }
                name = f"window.{group.__name__}x{capacity}.{what}"
                yield from _figures(name, what, ours, theirs, apart, trials / scene.count)
            if peer is not None:
                peer.close()


def _figures(
    name: str,
    what: str,
    ours: list[list[float]],
    theirs: list[list[float]],
    apart: dict[str, float],
    trials: float,
) -> Iterator[Metric]:
    median = float(np.median([np.median(row) for row in ours]))
    note = f"slide, marginalize, {trials:.1f} trials"
    yield Metric(f"{name}.p50", 1e3 * median, "ms", note=note)
    spread = float(np.median([np.quantile(row, 0.99) / np.median(row) for row in ours]))
    yield Metric(f"{name}.p99", spread, "×", promise=2.0, note="of the median")
    if theirs:
        promise, moonshot = PROMISES[what]
        ratio = median / float(np.median([np.median(row) for row in theirs]))
        note = "medians of steps and of interleaved rounds"
        yield Metric(f"{name}.gtsam", ratio, "×", "lower", 0.5, promise, moonshot, note)
    for who, distance in apart.items():
        note = "newest position from that of steps minimized to rounding"
        yield Metric(f"{name}.apart.{who}", distance, "m", note=note)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer-python", default=os.environ.get("DNLS_PEERS", ""))
    torch.set_num_threads(1)
    for metric in windows(parser.parse_args().peer_python):
        print(
            f"{metric.name:40} {metric.value:12.4g} {metric.unit:4} {metric.verdict}", flush=True
        )


if __name__ == "__main__":
    main()
