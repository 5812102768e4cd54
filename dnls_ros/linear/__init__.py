"""Solvers of symmetric positive definite systems, batched and differentiable (layer 3)."""

from dnls_ros.linear.banded import Banded
from dnls_ros.linear.block_cholesky import BlockCholesky, has_kernels
from dnls_ros.linear.cholmod import Cholmod
from dnls_ros.linear.choose import SOLVER_NAMES, choose_device, choose_solver
from dnls_ros.linear.dense import Dense
from dnls_ros.linear.fitting import Fitting
from dnls_ros.linear.implicit_schur import ImplicitSchur
from dnls_ros.linear.marginals import marginal_covariance, marginal_covariances, tangent_indices
from dnls_ros.linear.multifrontal import Multifrontal
from dnls_ros.linear.pcg import ConjugateGradients, InexactStep
from dnls_ros.linear.schur import Schur
from dnls_ros.linear.solver import (
    Factorization,
    LinearSolver,
    Symbolic,
    solve,
    solve_step,
    solve_with,
    step_of,
)

__all__ = [
    "SOLVER_NAMES",
    "Banded",
    "BlockCholesky",
    "Cholmod",
    "ConjugateGradients",
    "Dense",
    "Factorization",
    "Fitting",
    "ImplicitSchur",
    "InexactStep",
    "LinearSolver",
    "Multifrontal",
    "Schur",
    "Symbolic",
    "choose_device",
    "choose_solver",
    "has_kernels",
    "marginal_covariance",
    "marginal_covariances",
    "solve",
    "solve_step",
    "solve_with",
    "step_of",
    "tangent_indices",
]
