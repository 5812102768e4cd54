"""From the names in a parameter file to a device and a solver, with a sentence that says why.

A name that asks for something is obeyed or refused, never replaced. ``auto`` takes what is fastest
for windows. Measured on one core with chains of SE(3) poses, one factorization and solution takes
70 µs dense and 50 µs sparse at 60 unknowns, 210 and 80 µs at 180, 850 and 115 µs at 360, 5 ms and
0.2 ms at 720; below 60 unknowns dense is up to twice as fast in batches of 16, and always there.
"""

from __future__ import annotations

import torch

from dnls_ros.errors import DnlsError, UnavailableError
from dnls_ros.linear.block_cholesky import BlockCholesky, has_kernels
from dnls_ros.linear.cholmod import Cholmod
from dnls_ros.linear.cholmod_api import load
from dnls_ros.linear.dense import Dense
from dnls_ros.linear.fitting import DENSE_FILL, Fitting
from dnls_ros.linear.multifrontal import Multifrontal
from dnls_ros.linear.solver import LinearSolver

SOLVER_NAMES = ("auto", "sparse_cpu", "dense_cpu", "sparse_cuda", "dense_cuda")
DENSE_BELOW = 60  # unknowns


def choose_device(name: str) -> tuple[torch.device, str]:
    """The device of a parameter ``device``: auto, cpu, cuda or cuda:N.

    Returns:
        The device, and a sentence for the log.

    Raises:
        DnlsError: The name is none of these.
        UnavailableError: A CUDA device is asked for that is not there.
    """
    if name == "auto":
        # A window's matrices are small: launching a GPU's kernels would take longer than they do.
        return torch.device("cpu"), "device cpu: fastest for one window; a GPU pays for batches"
    if name == "cpu":
        return torch.device("cpu"), "device cpu, as asked for"
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number.isdecimal() or name == "cuda"):
        raise DnlsError(f"device is one of auto, cpu, cuda, cuda:N; got '{name}'")
    index, count = int(number or 0), torch.cuda.device_count()
    if not torch.cuda.is_available() or index >= count:
        raise UnavailableError(
            f"device '{name}' is asked for but this machine offers {count} CUDA devices to "
            f"torch {torch.__version__}; use 'cpu' or 'auto'"
        )
    title = torch.cuda.get_device_name(index)
    return torch.device("cuda", index), f"device cuda:{index} ({title}), as asked for"


def choose_solver(name: str, n: int, device: torch.device) -> tuple[LinearSolver, str]:
    """The solver of a parameter ``linear_solver``.

    Args:
        name: One of `SOLVER_NAMES`.
        n: Order of the matrices that are expected.
        device: Where the problem lives.

    Returns:
        The solver, and a sentence for the log.

    Raises:
        DnlsError: The name is unknown or asks for another device than ``device``.
        UnavailableError: What it asks for is not on this machine.
    """
    if name not in SOLVER_NAMES:
        raise DnlsError(f"linear solver is one of {', '.join(SOLVER_NAMES)}; got '{name}'")
    if name == "auto":
        return _automatic(n, device)
    kind, _, place = name.partition("_")
    if place == "cuda" and not torch.cuda.is_available():
        raise UnavailableError(
            f"linear solver '{name}' is asked for but torch {torch.__version__} finds no CUDA "
            "device; use 'auto', 'sparse_cpu' or 'dense_cpu'"
        )
    if place != device.type:
        raise DnlsError(
            f"linear solver '{name}' does not fit device '{device}'; set both to the same"
        )
    if kind == "dense":
        return Dense(), f"linear solver dense on {device}, as asked for"
    if place == "cuda":
        return Multifrontal(), f"linear solver multifrontal (sparse) on {device}, as asked for"
    if has_kernels():
        return BlockCholesky(), "linear solver block Cholesky (sparse, CPU), as asked for"
    load()
    return Cholmod(), "linear solver CHOLMOD (sparse, CPU), as asked for; numba is not installed"


def _automatic(n: int, device: torch.device) -> tuple[LinearSolver, str]:
    if device.type != "cpu":
        solver = Multifrontal()
        return solver, (
            f"linear solver multifrontal on {device}: dense below {solver.dense_below} unknowns, "
            f"sparse from there; {n} are expected"
        )
    if has_kernels():
        return BlockCholesky(), "linear solver block Cholesky (sparse, CPU): the fastest of all"
    if n < DENSE_BELOW:
        return Dense(), f"linear solver dense: {n} unknowns are fewer than {DENSE_BELOW}"
    try:
        load()
    except UnavailableError:
        return Dense(), (
            f"linear solver dense: scikit-sparse cannot be imported; for {n} unknowns it would be "
            "faster (`pip install scikit-sparse`)"
        )
    return Fitting(Cholmod(), Dense()), (
        f"linear solver CHOLMOD (sparse): {n} unknowns, at least {DENSE_BELOW}; dense for windows "
        f"whose matrix is filled to {DENSE_FILL:.0%} or more"
    )
