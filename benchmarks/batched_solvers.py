"""Batches of pose graphs: ten iterations and their implicit derivative, by every solver there is.

    PYTHONPATH=. python benchmarks/batched_solvers.py [--device cuda] [--poses 256] [--batch 128]

The graph is a walk through a cubic grid of SE(3) poses in which a fifth of the other neighbours
are joined too; every batch element has its own measurements. "forward" is ten Levenberg–Marquardt
iterations, "backward" the Gauss–Newton implicit derivative in all measurements. Structures and
symbolic analyses are made once, before. Times are medians of interleaved rounds; compare them
within one run only. On a CUDA device the loop is `OnDevice`, with and without a CUDA graph; on the
CPU the multifrontal solver runs in that loop too, as on a device, with linearizations in torch,
while the others take what kernels there are.

Theseus (Pineda et al., NeurIPS 2022) published 2.25 s for 128 × 256 poses and 57.67 s for
256 × 2048 poses, forward and backward, on a V100.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from dnls_ros.costs import between, prior
from dnls_ros.diff import Implicit, solve
from dnls_ros.lie import SE3, SO3
from dnls_ros.linear import BlockCholesky, Cholmod, Dense, LinearSolver, Multifrontal
from dnls_ros.linear.multifrontal import MultifrontalSymbolic
from dnls_ros.optim import LevenbergMarquardt, OnDevice, Tolerances
from dnls_ros.problem import Isotropic, Problem, StructureCache, Values, Variables

F64 = torch.float64
TEN = Tolerances(cost=0, step=0, gradient=0, iterations=10)
DENSE_LARGEST = 2000  # unknowns; beyond it takes minutes and gigabytes
PUBLISHED = {(128, 256): 2.25, (256, 2048): 57.67}
"""Seconds of Theseus on a V100 for (batch, poses), forward and backward."""

pose = Variables("pose", SE3)


@dataclass(frozen=True, eq=False)
class Cube:
    """A batch of pose graphs.

    Attributes:
        start: Initial values (B, N).
        first: (M,) int64.
        second: (M,) int64.
        z: (B, M) relative poses.
        cache: Of the structure, so that it is made once.
    """

    start: Values
    first: Tensor
    second: Tensor
    z: SE3
    cache: StructureCache

    def problem(self, z: Tensor) -> Problem:
        """With measurements (B, M, 7)."""
        anchor = SE3.identity(1, 1, dtype=z.dtype, device=z.device)
        return Problem(
            anchor=prior(pose[[0]], anchor, noise=Isotropic(0.01)),
            edges=between(pose[self.first], pose[self.second], SE3(z), noise=Isotropic(0.1)),
        ).cached(self.cache)


def make_cube(poses: int, batch: int, device: torch.device, seed: int = 0) -> Cube:
    """The walk begins at the identity, where it is anchored."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=F64, generator=generator)

    side = next(s for s in range(1, poses + 1) if s**3 >= poses)
    cells = [
        (x, y if x % 2 == 0 else side - 1 - y, z if (side * x + y) % 2 == 0 else side - 1 - z)
        for x in range(side)
        for y in range(side)
        for z in range(side)
    ]
    places = torch.tensor(cells[:poses], dtype=F64)
    turns = SO3.exp(0.5 * normal(1, poses, 3))
    truth = SE3.from_parts(turns, places[None])
    truth = SE3(truth.tensor[:, :1]).between(truth)
    near = torch.nonzero((torch.cdist(places, places, p=1) < 1.5).triu(2))
    near = near[torch.rand(len(near), generator=generator) < 0.2]
    first = torch.cat([torch.arange(poses - 1), near[:, 0]])
    second = torch.cat([torch.arange(1, poses), near[:, 1]])
    z = truth[:, first].between(truth[:, second]) @ SE3.exp(0.05 * normal(batch, len(first), 6))
    start = truth @ SE3.exp(0.05 * normal(batch, poses, 6))
    values = pose.values(range(poses), start).map(lambda t: t.to(device))
    return Cube(values, first, second, z.to(device), StructureCache(4))


class Counted(TorchDispatchMode):
    """Counts the operations that compute or copy: about one launch each."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        views = {t.untyped_storage().data_ptr() for t in _tensors(args)}
        writes = any(a.alias_info and a.alias_info.is_write for a in func._schema.arguments)
        own = any(t.untyped_storage().data_ptr() not in views for t in _tensors(made))
        self.launches += int((own and "empty" not in func._schema.name) or writes)
        return made


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def analysis(cube: Cube) -> dict[str, float]:
    """What the multifrontal solver makes of the structure."""
    problem = cube.problem(cube.z.tensor)
    structure = problem.structure(cube.start)
    clock = time.perf_counter()
    symbolic = Multifrontal().analyze(structure.pattern)
    seconds = time.perf_counter() - clock
    if not isinstance(symbolic, MultifrontalSymbolic):
        return {}
    values = torch.ones(1, structure.pattern.nnz, dtype=F64, device=cube.z.tensor.device)
    values[:, torch.from_numpy(structure.pattern.diagonal).to(values.device)] = 1e3
    factorization = symbolic.factorize(values)
    with Counted() as factorizing:
        factorization = symbolic.factorize(values)
    with Counted() as solving:
        factorization.solve(values[:, : structure.n])
    return {
        "unknowns": structure.n,
        "analysis_s": seconds,
        "levels": symbolic.levels,
        "fronts": len(symbolic.fronts),
        "buckets": len(symbolic.schedule.buckets),
        "mflops": symbolic.flops / 1e6,
        "padded_mflops": symbolic.padded_flops / 1e6,
        "launches_factorize": factorizing.launches,
        "launches_solve": solving.launches,
    }


Way = tuple[LinearSolver, OnDevice | None]


def ways(cube: Cube) -> dict[str, Way]:
    """Solvers and loops that can take the cube."""
    device, n = cube.z.tensor.device, 6 * cube.start.layout()[0].count
    found: dict[str, Way] = {"multifrontal": (Multifrontal(), OnDevice(every=1000))}
    if n <= DENSE_LARGEST:
        found["dense"] = (Dense(), OnDevice(every=1000) if device.type == "cuda" else None)
    if device.type == "cuda":
        found["multifrontal, graph"] = (Multifrontal(), OnDevice(every=1000, graph=True))
        return found
    found["cholmod"] = (Cholmod(), None)
    found["block"] = (BlockCholesky(), None)
    return found


def once(cube: Cube, way: Way) -> dict[str, float]:
    """Seconds of one forward and one backward pass, and the objective."""
    linear, loop = way
    z = cube.z.tensor.detach().clone().requires_grad_()
    synchronize = torch.cuda.synchronize if z.is_cuda else lambda: None
    synchronize()
    clock = time.perf_counter()
    found = solve(
        cube.problem(z),
        cube.start,
        LevenbergMarquardt(),
        linear=linear,
        adjoint=Implicit("gauss_newton"),
        tolerances=TEN,
        loop=loop,
    )
    synchronize()
    forward = time.perf_counter() - clock
    x: Any = found.values["pose"]
    clock = time.perf_counter()
    (gradient,) = torch.autograd.grad(x.translation.square().sum(), z)
    synchronize()
    backward = time.perf_counter() - clock
    return {
        "forward_s": forward,
        "backward_s": backward,
        "objective": float(found.cost.detach().sum()),
        "gradient": float(gradient.norm()),
    }


def measure(cube: Cube, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of interleaved rounds, by way."""
    chosen = ways(cube)
    kept: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for turn in range(rounds + 1):
        for name, way in chosen.items():
            result = once(cube, way)
            if turn:  # the first one sets everything up
                kept[name].append(result)
    return {
        name: {key: statistics.median(r[key] for r in results) for key in results[0]}
        for name, results in kept.items()
    }


def table(poses: int, batch: int, rows: dict[str, dict[str, float]]) -> str:
    """In Markdown; ratios are to the multifrontal solver."""
    first = rows["multifrontal"]
    total = first["forward_s"] + first["backward_s"]
    lines = [
        f"{batch} × {poses} poses",
        "",
        "| solver | forward [s] | backward [s] | both, relative | objective |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        both = (row["forward_s"] + row["backward_s"]) / total
        lines.append(
            f"| {name} | {row['forward_s']:.4f} | {row['backward_s']:.4f} | {both:.2f} | "
            f"{row['objective']:.12g} |"
        )
    published = PUBLISHED.get((batch, poses))
    if published is not None:
        lines.append(
            f"| Theseus on a V100, as published | {published} for both | | "
            f"{published / total:.1f} | |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints what the solver makes of the structure, and the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--poses", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cube = make_cube(options.poses, options.batch, torch.device(options.device))
    known, rows = analysis(cube), measure(cube, options.rounds)
    if options.json:
        print(json.dumps({"analysis": known, "ways": rows}))
        return
    print(", ".join(f"{name} {number:.4g}" for name, number in known.items()), end="\n\n")
    print(table(options.poses, options.batch, rows))


if __name__ == "__main__":
    main()
